"""Frames as PNG: every reader reads them, exactly; codes are Huffman's, within deflate's limits."""

from __future__ import annotations

import io
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from mesynth.store import png
from mesynth.store.png import frame_png
from mesynth.store.shards import _header, _plain_header
from mesynth.store.videos import encoded, image_array

_KINDS = {
    "noise": lambda rng, shape: rng.integers(0, 256, shape),
    "black": lambda rng, shape: np.zeros(shape),
    "white": lambda rng, shape: np.full(shape, 255),
    "ramp": lambda rng, shape: np.indices(shape).sum(0) % 256,
    "rare": lambda rng, shape: 255 * (rng.random(shape) < 0.01),
    "skewed": lambda rng, shape: np.minimum(rng.geometric(0.5, shape), 255),
    "blocks": lambda rng, shape: np.indices(shape)[0] // 9 * 40 % 256,
}


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (2, 2), (3, 7), (128, 128), (149, 150), (300, 2)])
def test_readers_give_the_picture_back(kind: str, shape: tuple[int, int], rng: np.random.Generator) -> None:
    picture = _KINDS[kind](rng, (*shape, 3)).astype(np.uint8)
    data = frame_png(picture)
    assert (image_array(data, "a frame") == picture).all()
    with Image.open(io.BytesIO(data)) as other:
        assert other.mode == "RGB"
        assert (np.array(other) == picture).all()
    turned = np.asfortranarray(picture)  # the same picture, otherwise in memory
    assert frame_png(turned) == data


@pytest.mark.parametrize(
    "n", [1, 2, 5, 6, 7, 257, 258, 259, 260, 263, 264, 265, 1000, png._BLOCK - 1, png._BLOCK, png._BLOCK + 1, 200_000]
)
@pytest.mark.parametrize("period", [0, 1, 3, 300])
def test_a_stream_is_deflate(n: int, period: int) -> None:
    """Runs of all lengths, alone and between others; blocks that end within one. ``period`` 0: one run."""
    data = np.zeros(n, np.uint8) if not period else ((np.arange(n) // period) % 251).astype(np.uint8)
    stream = png._deflated(data, png._RUNS, png._ORDER).tobytes()
    reader = zlib.decompressobj(-15)
    assert reader.decompress(stream) == data.tobytes()
    assert reader.eof
    assert not reader.unused_data


@pytest.mark.parametrize("most", [7, 15])
def test_codes_are_no_longer_than_deflate_allows(most: int) -> None:
    """Counts of Fibonacci make the longest codes that there are; what is cut short is still a complete code."""
    counts = np.ones(19, np.int64)
    for i in range(2, len(counts)):
        counts[i] = counts[i - 1] + counts[i - 2]
    lengths = png._lengths(counts, most)
    assert lengths.max() <= most
    assert (0.5 ** lengths.astype(float)).sum() == 1
    assert (np.diff(lengths) <= 0).all()  # who comes more often is not written longer


def test_codes_are_the_shortest(rng: np.random.Generator) -> None:
    """Against the entropy, which no code of whole bits beats, and which Huffman's misses by less than a bit."""
    for _ in range(20):
        counts = rng.geometric(0.02, 40) * (rng.random(40) < 0.8)
        share = counts[counts > 0] / counts.sum()
        entropy = float(-(share * np.log2(share)).sum())
        mean = float((png._lengths(counts, 15) * counts).sum() / counts.sum())
        assert entropy <= mean + 1e-9 < entropy + 1


@pytest.mark.skipif(not hasattr(cv2, "IMWRITE_PNG_FILTER"), reason="OpenCV before 4.12 has one filter alone")
def test_a_frame_is_no_larger_than_opencv_writes_it(rng: np.random.Generator) -> None:
    y, x = np.mgrid[:128, :128]
    skin = 120 + 60 * np.sin(x / 31.0) * np.cos(y / 23.0)
    for noise in (0.0, 1.5):
        frame = np.clip(skin[..., None] + noise * rng.standard_normal((128, 128, 3)), 0, 255).astype(np.uint8)
        how = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
        theirs = encoded(frame, ".png", [*how, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_AVG])
        assert len(frame_png(frame)) < 1.05 * len(theirs)


@pytest.mark.parametrize("size", [0, 1, 511, 512, 8**7, 8**11 - 1])
@pytest.mark.parametrize("name", ["a.b", "00000001.000.png", "n" * 99 + ".", "k." + "x" * 98])
def test_headers_are_those_of_tarfile(name: str, size: int) -> None:
    import tarfile

    info = tarfile.TarInfo(name)
    info.size = size
    assert _header(name, size) == info.tobuf(tarfile.USTAR_FORMAT)
    assert _plain_header(name.encode(), b"%011o" % size) == _header(name, size)


def test_longer_names_and_other_letters_have_headers_too() -> None:
    import tarfile

    for name in ("d" * 60 + "/" + "n" * 60, "k.\u00e4"):
        info = tarfile.TarInfo(name)
        info.size = 7
        assert _header(name, 7) == info.tobuf(tarfile.USTAR_FORMAT)
