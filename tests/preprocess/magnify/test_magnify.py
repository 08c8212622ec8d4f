"""What every method owes: more of the true motion, nothing where there is none, and one line for a mistake."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mesynth.core.errors import ConfigError, MesynthError
from mesynth.preprocess.magnify import METHODS, EulerianConfig, LagrangianConfig, PhaseConfig, TemporalFilter, magnify
from mesynth.preprocess.magnify.classical import displacement_slope, noise_gain, psnr
from tests.devices import DEVICES
from tests.preprocess.magnify.clips import clip, flows

# At 0.5 px and factor 4: displacement over that of the truly magnified clip (TV-L1 on both), and noise gain at most.
SHARE = {"eulerian": (0.45, 0.8), "phase": (0.65, 1.1), "lagrangian": (0.75, 1.1), "learned": (0.55, 1.1)}
NOISE = {"eulerian": 1.7, "phase": 1.5, "lagrangian": 1.2, "learned": 1.5}
CLOSER = {"eulerian": 1.0, "phase": 4.0, "lagrangian": 6.0, "learned": 3.0}  # decibels


@pytest.fixture(scope="module")
def faint() -> torch.Tensor:
    return clip(0.5)


@pytest.fixture(scope="module")
def small(faint: torch.Tensor) -> torch.Tensor:
    """A part of it, for what does not depend on how well motion is measured."""
    return faint[..., 32:96, 24:88].contiguous()


@pytest.fixture(scope="module")
def truth() -> torch.Tensor:
    return clip(0.5, factor=4.0)


@pytest.mark.parametrize("method", METHODS)
def test_the_motion_grows_towards_the_truth(method: str, faint: torch.Tensor, truth: torch.Tensor) -> None:
    made, known = magnify(faint, 4.0, method), flows(0.5)
    for t in (1, 2):
        gain = displacement_slope(faint[:, 0], made[:, t], known[:, t - 1])
        right = displacement_slope(faint[:, 0], truth[:, t], known[:, t - 1])
        assert SHARE[method][0] < gain / right < SHARE[method][1]
    assert psnr(made[:, 2], truth[:, 2]) > psnr(faint[:, 2], truth[:, 2]) + CLOSER[method]


@pytest.mark.parametrize("method", METHODS)
def test_the_onset_and_factor_one_are_untouched(method: str, small: torch.Tensor) -> None:
    assert torch.equal(magnify(small, 1.0, method), small)
    assert torch.equal(magnify(small, 4.0, method)[:, 0], small[:, 0])


@pytest.mark.parametrize("method", METHODS)
def test_a_static_clip_is_unchanged(method: str, small: torch.Tensor) -> None:
    still = small[:, :1].expand(-1, 3, -1, -1, -1).contiguous()
    assert torch.equal(magnify(still, 8.0, method), still)


@pytest.mark.parametrize("method", METHODS)
def test_noise_is_amplified_within_bounds(method: str, faint: torch.Tensor) -> None:
    generator = torch.Generator().manual_seed(0)
    gain = noise_gain(lambda video: magnify(video, 4.0, method), faint, 2 / 255, generator)
    assert 0.5 < gain < NOISE[method]


def test_unbounded_eulerian_noise_is_what_theory_says() -> None:
    """frame + alpha (frame - onset) of independent noise: gain sqrt((1 + alpha)^2 + alpha^2)."""
    grey = torch.full((1, 3, 3, 64, 64), 0.5)
    config = EulerianConfig(lambda_c=0, chroma=1)
    gain = noise_gain(
        lambda v: magnify(v, 4.0, "eulerian", config=config), grey, 0.01, torch.Generator().manual_seed(0)
    )
    assert gain == pytest.approx(5.0, rel=0.05)


@pytest.mark.parametrize("method", METHODS)
def test_a_clip_does_not_depend_on_its_batch(method: str, small: torch.Tensor) -> None:
    together = magnify(small, 3.0, method)
    for i in range(len(small)):
        assert torch.equal(together[i : i + 1], magnify(small[i : i + 1], 3.0, method))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("height", "width"), [(16, 16), (33, 50), (64, 41), (16, 80)])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_size_and_grey(method: str, height: int, width: int, channels: int, faint: torch.Tensor) -> None:
    small = faint[:1, :, :channels, 40 : 40 + height, 40 : 40 + width].contiguous()
    made = magnify(small, 3.0, method)
    assert made.shape == small.shape
    assert made.dtype == small.dtype
    assert torch.isfinite(made).all()
    assert 0 <= float(made.min()) <= float(made.max()) <= 1
    assert not torch.equal(made, small)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("method", METHODS)
def test_device_follows_the_input(method: str, device: str, small: torch.Tensor) -> None:
    there = magnify(small.to(device), 4.0, method)
    assert there.device.type == device
    assert (there.cpu() - magnify(small, 4.0, method)).abs().mean() < 1e-3


@pytest.mark.parametrize("method", ["eulerian", "phase", "learned"])
@settings(max_examples=10, deadline=None)
@given(factor=st.floats(1, 20), seed=st.integers(0, 100))
def test_any_clip_stays_a_picture(method: str, factor: float, seed: int) -> None:
    video = torch.rand((1, 3, 3, 18, 20), generator=torch.Generator().manual_seed(seed))
    made = magnify(video, factor, method)
    assert torch.equal(made[:, 0], video[:, 0])
    assert 0 <= float(made.min()) <= float(made.max()) <= 1


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("factor", [0.5, -1.0, 101.0, math.nan, math.inf])
def test_bad_factors(method: str, factor: float, faint: torch.Tensor) -> None:
    with pytest.raises(MesynthError, match=r"factor .* outside 1\.\.100"):
        magnify(faint, factor, method)


def test_bad_clips(faint: torch.Tensor) -> None:
    for video, words in (
        (faint[:, :1], "1 frame;"),
        (faint[..., :12], "12x128 pixels"),
        (faint[:, :, :2], "2 channels"),
        (faint[0], r"\[B,T,C,H,W\]"),
        ((faint * 255).byte(), "uint8"),
        (faint * math.nan, "NaN"),
        (faint.half(), "needs float32"),
    ):
        with pytest.raises(MesynthError, match=words):
            magnify(video, 2.0, "eulerian")


@pytest.mark.parametrize("method", ["eulerian", "phase"])
def test_bad_time(method: str, faint: torch.Tensor) -> None:
    kind: type[EulerianConfig] | type[PhaseConfig] = EulerianConfig if method == "eulerian" else PhaseConfig
    banded = kind(temporal=TemporalFilter(kind="ideal", low=2, high=20))
    with pytest.raises(ConfigError, match="give fps"):
        magnify(faint, 2.0, method, config=banded)
    for fps in (0.0, -5.0, math.nan):
        with pytest.raises(ConfigError, match="positive"):
            magnify(faint, 2.0, method, config=banded, fps=fps)
    with pytest.raises(ConfigError, match="fps / 2 = 15 Hz"):
        magnify(faint, 2.0, method, config=banded, fps=30)
    with pytest.raises(ConfigError, match="holds no frequency of 3 frames"):
        magnify(faint, 2.0, method, config=banded, fps=200)


def test_arguments_without_effect_are_refused(faint: torch.Tensor) -> None:
    with pytest.raises(ConfigError, match="'warp' is unknown; choose from eulerian, phase, lagrangian, learned"):
        magnify(faint, 2.0, "warp")
    with pytest.raises(ConfigError, match="takes PhaseConfig"):
        magnify(faint, 2.0, "phase", config=LagrangianConfig())
    with pytest.raises(ConfigError, match="use lagrangian"):
        magnify(faint, 2.0, "eulerian", flow=flows(0.5))
