"""Phase-based magnification against gratings, whose motion is exactly a phase."""

from __future__ import annotations

import pytest
import torch

from mesynth.core.errors import ConfigError
from mesynth.preprocess.magnify import PhaseConfig, TemporalFilter, phase
from mesynth.preprocess.magnify.phase import _bands, _frequencies
from tests.preprocess.magnify.clips import grating, grating_shift


@pytest.mark.parametrize("wavelength", [6.0, 10.0, 24.0])
@pytest.mark.parametrize("angle", [0.0, 0.6, 1.5708, 2.4])
def test_a_wave_moves_by_the_factor(wavelength: float, angle: float) -> None:
    shift = wavelength / 50
    made = phase(grating(wavelength, (0.0, shift, -shift), angle), 4.0)
    for t, sign in ((1, 1), (2, -1)):
        assert grating_shift(made[0, t, 0], wavelength, angle) == pytest.approx(4 * sign * shift, rel=0.1)


def test_contrast_stays_where_linear_magnification_would_raise_it() -> None:
    video = grating(12.0, (0.0, 0.6))
    inside = (0, 1, 0, slice(24, -24), slice(24, -24))
    made = phase(video, 4.0, PhaseConfig(max_phase=3.14))
    assert float(made[inside].std()) == pytest.approx(float(video[inside].std()), rel=0.03)


def test_what_is_out_of_reach_fades_and_is_not_put_in_the_wrong_place() -> None:
    video = grating(8.0, (0.0, 0.5))  # 0.39 rad
    inside = (0, 1, 0, slice(24, -24), slice(24, -24))
    contrast = [
        float(phase(video, factor, PhaseConfig(max_phase=1.0))[inside].std() / video[inside].std())
        for factor in (3.0, 5.0, 10.0)  # to be turned further by 0.79, 1.57 and 3.5 rad
    ]
    assert contrast[0] == pytest.approx(1, abs=0.03)
    assert contrast[1] == pytest.approx(0.43, abs=0.1)
    assert contrast[2] < 0.05


@pytest.mark.parametrize("size", [(96, 96), (50, 81)])
def test_the_bands_and_the_low_pass_sum_to_one(size: tuple[int, int]) -> None:
    radius, riesz = _frequencies(size, torch.zeros(1))
    bands = _bands(radius, 64)
    total = torch.stack([band for _, band in bands]).sum(0)
    assert torch.allclose(total[radius > 2 * 2.0 / bands[-1][0]], torch.tensor(1.0), atol=1e-5)
    assert total.min() >= -1e-6
    assert total.max() <= 1 + 1e-5
    assert float(total[0, 0]) == pytest.approx(0, abs=1e-6)
    power = riesz[0].abs().square() + riesz[1].abs().square()
    assert torch.allclose(power[radius > 0], torch.tensor(1.0), atol=1e-5)  # the Riesz transform keeps energy


def test_only_the_band_in_time_is_magnified() -> None:
    time = torch.arange(100) / 100
    config = PhaseConfig(temporal=TemporalFilter(kind="ideal", low=4, high=15))
    for hertz, low, high in ((1.0, 0.95, 1.1), (8.0, 3.4, 4.2)):
        shifts = tuple((0.2 * torch.sin(2 * torch.pi * hertz * time)).tolist())
        made = phase(grating(12.0, shifts, side=64), 4.0, config, fps=100)
        t = int(max(range(100), key=lambda k: shifts[k]))
        assert low < grating_shift(made[0, t, 0], 12.0, border=12) / shifts[t] < high


@pytest.mark.parametrize("values", [{"smooth": -1.0}, {"max_phase": 0.0}, {"max_phase": float("nan")}])
def test_bad_config(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        PhaseConfig(**values)  # type: ignore[arg-type]
