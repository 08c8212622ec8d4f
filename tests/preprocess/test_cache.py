"""Landmarks once found: by picture and detector, whatever the file is called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mesynth.core.errors import NoFaceError
from mesynth.preprocess.landmarks import ENVIRONMENT, LandmarkCache, default_folder

PICTURE = np.random.default_rng(0).integers(0, 255, (40, 30, 3), np.uint8)
POINTS = np.random.default_rng(1).normal(size=(68, 2)).astype(np.float32)


def test_found_again_bit_for_bit(tmp_path: Path) -> None:
    cache = LandmarkCache(tmp_path, "net 1")
    assert cache.get(PICTURE) is None
    cache.put(PICTURE, POINTS)
    assert np.array_equal(LandmarkCache(tmp_path, "net 1").get(PICTURE), POINTS)
    assert not list(tmp_path.rglob("*.tmp"))


def test_another_picture_shape_or_detector_is_another_entry(tmp_path: Path) -> None:
    cache = LandmarkCache(tmp_path, "net 1")
    cache.put(PICTURE, POINTS)
    changed = PICTURE.copy()
    changed[3, 4, 1] ^= 1
    assert cache.get(changed) is None
    assert cache.get(PICTURE.reshape(30, 40, 3)) is None
    assert LandmarkCache(tmp_path, "net 2").get(PICTURE) is None


def test_no_face_is_remembered(tmp_path: Path) -> None:
    cache = LandmarkCache(tmp_path, "net 1")
    cache.put(PICTURE, None)
    with pytest.raises(NoFaceError, match="no face found in a 30x40 picture"):
        cache.get(PICTURE)


@pytest.mark.parametrize("damage", [b"", b"not an array", b"\x93NUMPY\x01\x00"])
def test_a_damaged_entry_counts_as_none(tmp_path: Path, damage: bytes) -> None:
    cache = LandmarkCache(tmp_path, "net 1")
    cache.put(PICTURE, POINTS)
    (file,) = tmp_path.rglob("*.npy")
    file.write_bytes(damage)
    assert cache.get(PICTURE) is None


def test_where_it_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path))
    assert default_folder() == tmp_path
    monkeypatch.delenv(ENVIRONMENT)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_folder() == Path("/somewhere/mesynth")
