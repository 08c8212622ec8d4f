"""Linear Eulerian magnification against gratings, whose motion is a phase."""

from __future__ import annotations

import pytest
import torch

from mesynth.core.errors import ConfigError
from mesynth.preprocess.magnify import EulerianConfig, TemporalFilter, eulerian
from mesynth.preprocess.magnify.eulerian import _amplified, level_alpha
from tests.preprocess.magnify.clips import clip, grating, grating_shift


@pytest.mark.parametrize("angle", [0.0, 0.7])
def test_long_waves_move_by_the_factor(angle: float) -> None:
    """lambda / 8 = 4 px bounds the magnified motion; 2 px is well inside."""
    video = grating(32, (0.0, 0.5), angle)
    made = eulerian(video, 4.0, EulerianConfig(lambda_c=0))
    assert grating_shift(made[0, 1, 0], 32, angle) == pytest.approx(2.0, rel=0.05)
    bounded = eulerian(video, 4.0)  # the pyramid's bands overlap: a little of the wave lies in bounded levels
    assert grating_shift(bounded[0, 1, 0], 32, angle) == pytest.approx(2.0, rel=0.12)


def test_short_waves_are_left_alone_by_the_bound() -> None:
    fine = grating(3, (0.0, 0.1))
    strict = eulerian(fine, 8.0, EulerianConfig(lambda_c=64))
    assert grating_shift(strict[0, 1, 0], 3) == pytest.approx(0.1, abs=0.05)
    loose = eulerian(fine, 8.0, EulerianConfig(lambda_c=0))
    assert grating_shift(loose[0, 1, 0], 3) > 0.4


def test_the_bound_is_the_papers() -> None:
    """(1 + alpha) delta < lambda / 8 with equality at every level that is held back."""
    factor, cut = 10.0, 32.0
    delta = cut / (8 * factor)
    alphas = [level_alpha(level, factor - 1, cut) for level in range(7)]
    assert alphas == sorted(alphas)
    assert alphas[-1] == factor - 1
    for level, alpha in enumerate(alphas):
        if 0 < alpha < factor - 1:
            assert (1 + alpha) * delta == pytest.approx(2 * 2**0.5 * 2**level / 8)


@pytest.mark.parametrize("size", [(128, 128), (37, 50), (16, 16)])
def test_the_pyramid_loses_nothing(size: tuple[int, int]) -> None:
    change = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(_amplified(change, 3.0, 0.0), 3 * change, atol=1e-5)


def test_colour_is_attenuated() -> None:
    grey = torch.full((1, 2, 3, 64, 64), 0.5)
    tinted = grey.clone()
    tinted[:, 1, 2] += 0.02
    blue = [float((eulerian(tinted, 4.0, EulerianConfig(chroma=c)) - tinted)[0, 1, 2].mean()) for c in (0.0, 0.1, 1.0)]
    assert blue[2] == pytest.approx(0.06, rel=1e-3)
    assert blue[0] == pytest.approx(0.06 * 0.114, rel=1e-3)  # luma's share of blue
    assert blue[0] < blue[1] < blue[2]


@pytest.mark.parametrize("kind", ["ideal", "butterworth"])
def test_only_the_band_is_magnified(kind: str) -> None:
    """A slow drift stays; what swings at 10 Hz grows."""
    time = torch.arange(200) / 200
    slow, fast = 0.02 * torch.sin(2 * torch.pi * time), 0.02 * torch.sin(2 * torch.pi * 10 * time)
    config = EulerianConfig(temporal=TemporalFilter(kind=kind, low=5, high=20, order=3))

    def grown(change: torch.Tensor) -> float:
        video = 0.5 + change.view(1, -1, 1, 1, 1).expand(1, 200, 1, 16, 16).contiguous()
        return float((eulerian(video, 5.0, config, fps=200) - video).abs().amax()) / 0.02

    assert grown(slow) < 0.3
    assert grown(fast) > 3


def test_values_outside_the_range_survive_where_nothing_moves() -> None:
    video = clip(0.5)[:1] * 1.2 - 0.1
    still = video[:, :1].expand(-1, 2, -1, -1, -1)
    assert torch.equal(eulerian(still, 4.0), still)


@pytest.mark.parametrize("values", [{"lambda_c": -1.0}, {"lambda_c": float("nan")}, {"chroma": 1.5}])
def test_bad_config(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        EulerianConfig(**values)  # type: ignore[arg-type]
