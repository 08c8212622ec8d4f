"""Temporal filters against sinusoids and against scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.signal import butter, sosfilt

from mesynth.core.errors import ConfigError
from mesynth.preprocess.magnify.classical import TemporalFilter

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
