"""Shards are real tars, spans read back alone, damage is noticed, images are checked."""

import io
import pickle
import tarfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from mesynth.core.errors import ManifestError, UnreadableImageError
from mesynth.store import shards, videos
from mesynth.store.shards import ShardWriter, read_span
from tests.builders import row


def _write(folder: Path) -> list[shards.Span]:
    with ShardWriter(folder / "x.tar") as writer:
        return [writer.add(f"{i:08d}", {"a.txt": bytes([i]) * (700 * i + 1), "b.npy": b"b"}) for i in range(3)]


def test_a_shard_is_a_tar_and_a_span_is_a_clip(tmp_path: Path) -> None:
    spans = _write(tmp_path)
    with tarfile.open(tmp_path / "x.tar") as tar:
        assert tar.getnames() == [f"{i:08d}.{n}" for i in range(3) for n in ("a.txt", "b.npy")]
    for i, span in enumerate(spans):
        assert read_span(tmp_path, span, verify=True) == {"a.txt": bytes([i]) * (700 * i + 1), "b.npy": b"b"}


def test_damage_is_noticed(tmp_path: Path) -> None:
    spans = _write(tmp_path)
    data = bytearray((tmp_path / "x.tar").read_bytes())
    data[spans[1].offset + 600] ^= 1
    (tmp_path / "x.tar").write_bytes(data)
    with pytest.raises(ManifestError, match="damaged"):
        read_span(tmp_path, spans[1], verify=True)
    (tmp_path / "x.tar").write_bytes(data[: spans[2].offset + 10])
    with pytest.raises(ManifestError, match="damaged"):
        read_span(tmp_path, spans[2])
    with pytest.raises(ManifestError, match="missing"):
        read_span(tmp_path, replace(spans[0], shard="y.tar"))


def test_nothing_half_written_remains(tmp_path: Path) -> None:
    def broken() -> None:
        with ShardWriter(tmp_path / "x.tar") as writer:
            writer.add("0", {"a": b"1"})
            raise RuntimeError

    with pytest.raises(RuntimeError):
        broken()
    assert list(tmp_path.iterdir()) == []


def test_frames_and_flow_come_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (12, 9, 7, 3), dtype=np.uint8)
    flow = rng.normal(size=(2, 9, 7)).astype(np.float32)
    with ShardWriter(tmp_path / "x.tar") as writer:
        spans = writer.add("0", shards.frames_members(frames)), writer.add("1", {"flow.npy": shards.npy_bytes(flow)})
    stored = row("a", frames=spans[0], flow=spans[1])
    np.testing.assert_array_equal(shards.read_frames(tmp_path, stored), frames)
    np.testing.assert_array_equal(shards.read_flow(tmp_path, stored), flow)
    with pytest.raises(ManifestError, match=r"no landmarks\.npy"):
        shards.read_landmarks(tmp_path, stored)
    with pytest.raises(ManifestError, match="no flow; run `mesynth prepare`"):
        shards.read_flow(tmp_path, row("a"))


def test_pictures_are_checked(tmp_path: Path) -> None:
    good = tmp_path / "good.jpg"
    cv2.imwrite(str(good), np.full((64, 64, 3), 90, np.uint8))
    assert videos.read_image(good).shape == (64, 64, 3)
    for name, data in {"empty.jpg": b"", "text.png": b"hello", "cut.png": shards.png_bytes(_noise())[:60]}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UnreadableImageError, match=name):
            videos.read_image(tmp_path / name)
    with pytest.raises(UnreadableImageError, match=r"none\.jpg cannot be read"):
        videos.read_image(tmp_path / "none.jpg")


def _noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)


def test_frames_of_different_sizes_are_refused(tmp_path: Path) -> None:
    for i, size in enumerate((8, 9)):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.zeros((size, size, 3), np.uint8))
    with pytest.raises(UnreadableImageError, match="differ in size"):
        shards.read_frames(tmp_path, row("a", frame_files=("0.png", "1.png")))


def test_arrays_are_never_unpickled() -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"x": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        shards.npy_array(buffer.getvalue())
    with pytest.raises(ValueError, match=r"pickle|magic"):
        shards.npy_array(pickle.dumps([1]))
