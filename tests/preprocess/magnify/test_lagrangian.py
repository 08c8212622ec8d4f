"""Lagrangian magnification with exact flow: what is shown is where it should be, and folds are refused."""

from __future__ import annotations

import math

import pytest
import torch

from mesynth.core.errors import ConfigError, MesynthError
from mesynth.preprocess.magnify import FoldError, LagrangianConfig, lagrangian, multi_ratio
from mesynth.preprocess.magnify.classical import psnr, smoothed_flow
from tests.preprocess.magnify.clips import DEVICES, clip, flows

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
