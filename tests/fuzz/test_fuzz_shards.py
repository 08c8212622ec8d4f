"""Damaged shards, arrays and pictures: refused in one line, or read as they were written; nothing else."""

from __future__ import annotations

import hashlib
import io
import pickle
import struct
import tarfile
import zlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesynth.core.errors import ManifestError, UnreadableImageError
from mesynth.store.manifest import Span
from mesynth.store.shards import ShardWriter, npy_array, npy_bytes, png_bytes, read_flow, read_frames, read_span
from mesynth.store.videos import image_array, read_image
from tests.builders import row
from tests.fuzz.damage import damaged, peak, result


def _frames() -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 255, (4, 24, 20, 3), np.uint8)
    return np.asarray(noise)


@pytest.fixture
def shard(tmp_path: Path) -> tuple[Path, Span, Span]:
    """A shard with the frames and the flow of one clip."""
    with ShardWriter(tmp_path / "s.tar") as writer:
        frames = writer.add("a", {f"{i:03d}.png": png_bytes(f) for i, f in enumerate(_frames())})
        flow = writer.add("b", {"flow.npy": npy_bytes(np.ones((2, 24, 20), np.float32))})
    return tmp_path, frames, flow


def test_damaged_shards(shard: tuple[Path, Span, Span]) -> None:
    root, frames, flow = shard
    whole = (root / "s.tar").read_bytes()
    refused = 0
    for bad in damaged(whole, 240):
        (root / "s.tar").write_bytes(bad)
        pictures = result(lambda: read_frames(root, row("a", frames=frames)))
        motion = result(lambda: read_flow(root, row("a", flow=flow)))
        refused += pictures is None
        assert pictures is None or np.array_equal(pictures, _frames())
        assert motion is None or (motion == 1).all()
    assert refused > 100


def test_a_damaged_header_loses_no_picture_even_without_the_hash(shard: tuple[Path, Span, Span]) -> None:
    root, span, _ = shard
    data = bytearray((root / "s.tar").read_bytes())
    second = 512 + -(-int(data[124:135], 8) // 512) * 512
    data[second + 3] ^= 1  # tarfile alone would stop here and call it the end
    (root / "s.tar").write_bytes(data)
    with pytest.raises(ManifestError, match="after its last file"):
        read_span(root, span, verify=False)


@pytest.mark.parametrize(
    "wrong",
    [{"offset": -1}, {"offset": 1 << 60}, {"size": -1}, {"size": 0}, {"size": 1 << 62}, {"shard": "."},
     {"shard": "none.tar"}, {"shard": "a\0b"}, {"shard": "x" * 5000}],
)  # fmt: skip
def test_spans_that_point_anywhere(shard: tuple[Path, Span, Span], wrong: dict[str, object]) -> None:
    root, span, _ = shard
    bad = replace(span, **wrong)  # type: ignore[arg-type]
    # The least of three: threads that other tests have left may ask for memory in this moment, too.
    assert min(peak(lambda: result(lambda: read_span(root, bad))) for _ in range(3)) < 1 << 20
    assert result(lambda: read_span(root, bad)) is None


def _tar(*infos: tuple[tarfile.TarInfo, bytes], form: int = tarfile.GNU_FORMAT) -> bytes:
    out = b""
    for info, data in infos:
        info.size = info.size or len(data)
        out += info.tobuf(form) + data + b"\0" * (-len(data) % 512)
    return out


def _info(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


@pytest.mark.parametrize(
    "data",
    [
        _tar((_info("a.../../../etc/evil.png"), b"x")),
        _tar((_info("../a.000.png"), b"x")),
        _tar((_info("/etc/a.png"), b"x")),
        _tar((_info("a.x\\y.png"), b"x")),
        _tar((_info("a"), b"x")),
        _tar((_info("a.000.png"), b"x"), (_info("b.000.png"), b"y")),
        _tar((_info("a.000.png", tarfile.SYMTYPE, "/etc/passwd"), b"")),
        _tar((_info("a.000.png", tarfile.LNKTYPE, "a.001.png"), b"")),
        _tar((_info("a.000.png", tarfile.CHRTYPE), b"")),
        _tar((_info("a.000.png", tarfile.DIRTYPE), b"")),
        _tar((_info("a.000.png", size=1 << 40), b"x")),
        b"\0" * 512,
        b"",
    ],
)
def test_tars_that_reach_out_or_lose_files(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "s.tar").write_bytes(data + b"\0" * 1024)
    span = Span("s.tar", 0, len(data), hashlib.sha256(data).hexdigest())
    with pytest.raises(ManifestError):
        read_span(tmp_path, span, verify=True)
    assert [p.name for p in tmp_path.iterdir()] == ["s.tar"]


def test_a_sparse_member_is_not_blown_up(tmp_path: Path) -> None:
    """A sparse file of one block that says it is 2 GiB of zeros."""
    head = bytearray(_info("a.000.png", tarfile.GNUTYPE_SPARSE, size=512).tobuf(tarfile.GNU_FORMAT))
    head[386:410] = b"%011o\0%011o\0" % (0, 512)
    head[483:495] = b"%011o\0" % (2 << 30)
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    data = bytes(head) + b"x" * 512
    (tmp_path / "s.tar").write_bytes(data)
    span = Span("s.tar", 0, len(data), "")
    with pytest.raises(ManifestError, match="no plain file"):
        read_span(tmp_path, span)
    assert peak(lambda: result(lambda: read_span(tmp_path, span))) < 1 << 20


# ---------------------------------------------------------------- arrays


@given(st.binary(max_size=300))
def test_any_bytes_as_an_array(data: bytes) -> None:
    result(lambda: npy_array(data))
    result(lambda: npy_array(b"\x93NUMPY" + data))


def test_damaged_arrays() -> None:
    array = np.arange(60, dtype=np.float32).reshape(3, 20)
    for bad in damaged(npy_bytes(array), 600):
        found = result(lambda bad=bad: npy_array(bad))  # type: ignore[misc]
        assert found is None or found.nbytes <= len(bad)


def _npy(shape: str, descr: str = "'<f4'", data: bytes = b"\0" * 16) -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


@pytest.mark.parametrize(
    "data",
    [
        _npy("(1000000000000,)"),
        _npy("(4294967296, 4294967296, 4294967296)"),
        _npy("(-4,)"),
        _npy("(2, -2)"),
        _npy("(True,)", data=b"\0" * 8),
        _npy("(4,)", "'O'"),
        _npy("(4,)", "[('a', 'O')]"),
        _npy("(4,)", "'<f9'"),
        _npy("__import__('os').system('true')"),
        _npy("((" * 400),
        b"\x93NUMPY\x01\x00\xff\xff",
        b"\x93NUMPY\x09\x00" + b"\0" * 20,
    ],
)
def test_arrays_of_absurd_shape(data: bytes) -> None:
    assert peak(lambda: result(lambda: npy_array(data))) < 1 << 20
    with pytest.raises(ManifestError):
        npy_array(data)


def test_arrays_come_back_as_they_went() -> None:
    for array in (np.zeros((0, 3), np.float32), np.float64(3.5), np.asfortranarray(np.arange(6).reshape(2, 3)),
                  np.array([True, False]), np.arange(4, dtype=">i2")):  # fmt: skip
        found = npy_array(npy_bytes(np.asarray(array)))
        assert found.dtype == np.asarray(array).dtype
        assert np.array_equal(found, array)
        assert found.flags.writeable


class _Bomb:
    """Leaves a trace when it is unpickled."""

    ran = False

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return setattr, (_Bomb, "ran", True)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    objects = io.BytesIO()
    np.save(objects, np.array([_Bomb()], object), allow_pickle=True)
    zipped = io.BytesIO()
    np.savez(zipped, a=np.array([_Bomb()], object))
    for data in (objects.getvalue(), zipped.getvalue(), pickle.dumps(_Bomb())):
        with pytest.raises(ManifestError):
            npy_array(data)
        with pytest.raises(UnreadableImageError):
            image_array(data, "p.png")
    assert not _Bomb.ran


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tiff", ".webp"])
def test_damaged_pictures(suffix: str, capfd: pytest.CaptureFixture[str]) -> None:
    picture = cv2.GaussianBlur(_frames()[0], (5, 5), 2)
    data = bytes(cv2.imencode(suffix, picture)[1])
    found = [result(lambda bad=bad: image_array(bad, "p")) for bad in damaged(data, 180)]  # type: ignore[misc]
    assert any(image is None for image in found)
    for image in found:
        assert image is None or (image.dtype == np.uint8 and image.ndim == 3 and image.size < 1 << 26)
    capfd.readouterr()  # OpenCV's own lines


@pytest.mark.parametrize("side", [0, 20_000, 60_000, 2**31 - 1])
def test_a_picture_that_says_it_is_huge(side: int, capfd: pytest.CaptureFixture[str]) -> None:
    data = bytearray(png_bytes(_frames()[0]))
    data[16:24] = struct.pack(">II", side, side)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    with pytest.raises(UnreadableImageError, match="cannot be read"):
        image_array(bytes(data), "p.png")
    capfd.readouterr()


def test_picture_names_that_no_file_has(tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    for name in ("none.png", "a\0b.png", "x" * 5000, ".", "empty.png"):
        with pytest.raises(UnreadableImageError):
            read_image(tmp_path / name)
