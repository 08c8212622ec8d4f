"""Values are checked when they are made; strain follows its formula."""

import numpy as np
import pytest

from mesynth.core.types import AUVector, Clip, Flow, Sample, optical_strain


def test_strain_of_a_linear_field_is_constant_and_known() -> None:
    y, x = np.mgrid[:8, :9].astype(np.float32)
    uv = np.stack([0.3 * x + 0.1 * y, -0.2 * y + 0.5 * x])
    expected = np.sqrt(0.3**2 + 0.2**2 + (0.1 + 0.5) ** 2 / 2)
    np.testing.assert_allclose(optical_strain(uv), expected, rtol=1e-4)


def test_strain_ignores_translation_and_rotation() -> None:
    y, x = np.mgrid[:8, :9].astype(np.float32)
    np.testing.assert_allclose(optical_strain(np.stack([3 - 0.1 * y, 2 + 0.1 * x])), 0, atol=1e-5)


def test_strain_is_batched() -> None:
    uv = np.random.default_rng(0).normal(size=(5, 2, 6, 7)).astype(np.float32)
    np.testing.assert_allclose(optical_strain(uv)[3], Flow(uv[3]).strain())


def test_bad_values_are_named() -> None:
    frames = np.zeros((4, 8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match="apex 4 is outside"):
        Clip(frames, 200.0, 4)
    with pytest.raises(ValueError, match="uint8"):
        Clip(frames.astype(np.float32), 200.0, 1)
    with pytest.raises(ValueError, match="at least 2 frames"):
        Clip(frames[:1], 200.0, 0)
    with pytest.raises(ValueError, match="fps is 0"):
        Clip(frames, 0, 1)
    with pytest.raises(ValueError, match="NaN"):
        Flow(np.full((2, 8, 8), np.nan, np.float32))
    with pytest.raises(ValueError, match="differ in size"):
        Sample(Clip(frames, 1.0, 1), Flow(np.zeros((2, 4, 4), np.float32)), AUVector(np.zeros((25, 2), np.float32)))
