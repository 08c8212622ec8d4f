"""Temporal filters against sinusoids and scipy, Eulerian magnification against gratings, Lagrangian with exact flow."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.signal import butter, sosfilt

from mesynth.core.errors import ConfigError, MesynthError
from mesynth.preprocess.magnify import (
    EulerianConfig,
    FoldError,
    LagrangianConfig,
    PhaseConfig,
    TemporalFilter,
    eulerian,
    lagrangian,
    multi_ratio,
    phase,
)
from mesynth.preprocess.magnify.classical import (
    _amplified,
    _bands,
    _frequencies,
    level_alpha,
    psnr,
    smoothed_flow,
)
from tests.devices import DEVICES
from tests.preprocess.magnify.clips import clip, flows, grating, grating_shift

# ---------------------------------------------------------------- temporal filters


FPS = 200.0


def waves(*hertz: float, frames: int = 200) -> torch.Tensor:
    """[T,1]: a sum of sinusoids."""
    time = np.arange(frames) / FPS
    return torch.from_numpy(np.stack([np.sin(2 * np.pi * f * time) for f in hertz]).sum(0)[:, None])


def test_onset_is_the_difference_to_the_first_frame() -> None:
    signal = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(TemporalFilter().apply(signal, None), signal - signal[0])


def test_the_ideal_filter_keeps_its_band_and_nothing_else() -> None:
    band = TemporalFilter(kind="ideal", low=5, high=20)
    assert torch.allclose(band.apply(waves(3, 10, 40), FPS), waves(10), atol=1e-9)


def test_butterworth_is_scipys() -> None:
    signal = waves(3, 10, 40)
    ours = TemporalFilter(kind="butterworth", low=5, high=20, order=3).apply(signal, FPS)
    theirs = sosfilt(butter(3, [5, 20], "bandpass", fs=FPS, output="sos"), signal.numpy(), axis=0)
    assert np.allclose(ours.numpy(), theirs, atol=1e-9)


@pytest.mark.parametrize("kind", ["onset", "ideal", "butterworth"])
def test_a_constant_gives_exactly_nothing(kind: str) -> None:
    low, high = (0.0, 0.0) if kind == "onset" else (5.0, 20.0)
    assert not TemporalFilter(kind=kind, low=low, high=high).apply(torch.full((50, 4), 0.37), FPS).any()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"kind": "box"}, "'box' is unknown"),
        ({"low": 1.0, "high": 2.0}, "no effect"),
        ({"kind": "ideal"}, "0 < low < high"),
        ({"kind": "ideal", "low": 9.0, "high": 3.0}, "0 < low < high"),
        ({"kind": "ideal", "low": float("nan"), "high": 3.0}, "0 < low < high"),
        ({"kind": "butterworth", "low": 1.0, "high": 3.0, "order": 0}, "order=0"),
    ],
)
def test_bad_filters(values: dict[str, float | str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        TemporalFilter(**values)  # type: ignore[arg-type]


# ---------------------------------------------------------------- Eulerian


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


# ---------------------------------------------------------------- phase


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


def test_only_the_band_in_time_is_magnified_by_phase() -> None:
    time = torch.arange(100) / 100
    config = PhaseConfig(temporal=TemporalFilter(kind="ideal", low=4, high=15))
    for hertz, low, high in ((1.0, 0.95, 1.1), (8.0, 3.4, 4.2)):
        shifts = tuple((0.2 * torch.sin(2 * torch.pi * hertz * time)).tolist())
        made = phase(grating(12.0, shifts, side=64), 4.0, config, fps=100)
        t = int(max(range(100), key=lambda k: shifts[k]))
        assert low < grating_shift(made[0, t, 0], 12.0, border=12) / shifts[t] < high


@pytest.mark.parametrize("values", [{"smooth": -1.0}, {"max_phase": 0.0}, {"max_phase": float("nan")}])
def test_bad_phase_config(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        PhaseConfig(**values)  # type: ignore[arg-type]


# ---------------------------------------------------------------- Lagrangian


EXACT = LagrangianConfig(smooth=0.0)


@pytest.mark.parametrize("source", ["frame", "onset"])
def test_with_exact_flow_the_truth_is_met(source: str) -> None:
    made = lagrangian(clip(0.5), 4.0, LagrangianConfig(smooth=0.0, source=source), flows(0.5))
    truth = clip(0.5, factor=4.0)
    for t, closer in ((1, 5), (2, 8)):  # what is left is the difference of two interpolations, at any motion
        assert psnr(made[:, t], truth[:, t]) > 38
        assert psnr(made[:, t], truth[:, t]) > psnr(clip(0.5)[:, t], truth[:, t]) + closer


def test_ratios_scale_frames_and_flow_together() -> None:
    frames, known, ratios = clip(0.8), flows(0.8), (0.5, 1.0, 2.0, 3.0)
    shown, moved = multi_ratio(frames, known, ratios)
    assert shown.shape == (4, *frames.shape)
    assert moved.shape == (4, *known.shape)
    assert torch.equal(shown[1], frames)
    for r, ratio in enumerate(ratios):
        assert torch.equal(moved[r], known * ratio)
        assert torch.equal(shown[r][:, 0], frames[:, 0])
        assert psnr(shown[r][:, 2], clip(0.8, factor=ratio)[:, 2]) > 36


def test_ratio_one_agrees_with_factor_one_and_ratios_with_magnify() -> None:
    frames, known = clip(0.5), flows(0.5)
    shown, _ = multi_ratio(frames, known, [3.0])
    assert torch.equal(shown[0], lagrangian(frames, 3.0, EXACT, known))


def squeeze(rate: float, side: int = 48) -> tuple[torch.Tensor, torch.Tensor]:
    """A clip [2,2,1,side,side] and flows: clip 0 is squeezed in x by ``rate``, clip 1 by half of it."""
    generator = torch.Generator().manual_seed(0)
    video = smoothed_flow(torch.rand(2, 2, 1, side, side, generator=generator), 2.0)
    u = -rate * (torch.arange(side) - (side - 1) / 2)
    flow = torch.stack([u.expand(side, side), torch.zeros(side, side)])
    return video, torch.stack([flow, 0.5 * flow])[:, None]


def test_a_fold_is_refused_or_the_factor_of_that_clip_lowered() -> None:
    video, flow = squeeze(0.2)
    with pytest.raises(FoldError, match=r"factor 6 folds the picture of clip 0; up to 4\.50"):
        lagrangian(video, 6.0, LagrangianConfig(smooth=0, fold="refuse"), flow)
    with pytest.raises(FoldError):
        multi_ratio(video, flow, [1.0, 6.0])
    clipping = LagrangianConfig(smooth=0, fold="clip")
    shown, moved = multi_ratio(video, flow, [6.0], clipping)
    assert torch.allclose(moved[0, 0], 4.5 * flow[0], rtol=1e-4)  # 1 - .2 m = .1
    assert torch.equal(moved[0, 1], 6 * flow[1])
    assert torch.equal(shown[0], lagrangian(video, 6.0, clipping, flow))
    assert torch.allclose(shown[0, :1], lagrangian(video[:1], 4.5, EXACT, flow[:1]), atol=1e-3)


def test_a_flow_that_folds_by_itself_is_left_as_it_was() -> None:
    video, flow = squeeze(1.5)
    assert torch.equal(lagrangian(video[:1], 4.0, EXACT, flow[:1]), video[:1])


def test_a_callable_measures_the_flow() -> None:
    frames, known = clip(0.5), flows(0.5)
    calls = []

    def measured(onsets: torch.Tensor, later: torch.Tensor) -> torch.Tensor:
        calls.append((onsets.shape, later.shape))
        return known.flatten(0, 1)

    assert torch.equal(lagrangian(frames, 3.0, EXACT, measured), lagrangian(frames, 3.0, EXACT, known))
    assert calls == [((6, 128, 128), (6, 128, 128))]


@pytest.mark.parametrize("device", DEVICES)
def test_ratios_follow_the_device(device: str) -> None:
    shown, moved = multi_ratio(clip(0.5).to(device), flows(0.5).to(device), [2.0])
    assert shown.device.type == moved.device.type == device
    assert (shown.cpu() - multi_ratio(clip(0.5), flows(0.5), [2.0])[0]).abs().mean() < 1e-4


def test_smoothing_keeps_constants_and_linear_parts() -> None:
    field = torch.full((2, 1, 2, 30, 40), 0.7)
    assert torch.allclose(smoothed_flow(field, 3.0), field, atol=1e-6)
    ramp = torch.arange(40.0).expand(1, 1, 2, 30, 40)
    assert torch.allclose(smoothed_flow(ramp, 2.0)[..., 8:-8], ramp[..., 8:-8], atol=1e-4)


def test_mistakes() -> None:
    frames, known = clip(0.5), flows(0.5)
    for wrong, words in (
        (known[:, :1], r"expected float \(3, 2, 2, 128, 128\)"),
        (known * math.nan, "NaN"),
        (known.int(), "int32"),
    ):
        with pytest.raises(MesynthError, match=words):
            lagrangian(frames, 2.0, EXACT, wrong)
    with pytest.raises(MesynthError, match="the flow method gave"):
        lagrangian(frames, 2.0, EXACT, lambda a, b: known[0])
    for ratios, words in (([], "empty"), ([2.0, 0.0], "ratio 0 "), ([math.nan], "ratio nan")):
        with pytest.raises(MesynthError, match=words):
            multi_ratio(frames, known, ratios)
    for values, words in (
        ({"smooth": -1.0}, "smooth=-1"),
        ({"fold": "ignore"}, "'ignore' is unknown"),
        ({"floor": 0.0}, "floor=0"),
        ({"source": "apex"}, "'apex' is unknown"),
    ):
        with pytest.raises(ConfigError, match=words):
            LagrangianConfig(**values)
