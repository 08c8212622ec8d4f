"""Shards are real tars, spans read back alone, damage is noticed, images are checked."""

import io
import pickle
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest

import mesynth
from mesynth.core.errors import ManifestError, UnreadableImageError
from mesynth.core.framing import LANDMARKS, Framing, KnownFraming
from mesynth.store import shards, videos
from mesynth.store.manifest import Manifest, framing_meta
from mesynth.store.shards import ShardReader, ShardWriter, known_framing, read_flows, read_span
from tests.builders import row
from tests.fuzz.damage import peak


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


# ---------------------------------------------------------------- many clips


def _flows(folder: Path, shapes: list[tuple[int, ...]], *, dtype: str = "float32") -> Manifest:
    """Clips of these shapes, three a shard, the shards interleaved every fourth clip."""
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=shape).astype(dtype) for shape in shapes]
    rows = []
    with ShardWriter(folder / "x.tar") as x, ShardWriter(folder / "y.tar") as y:
        for i, array in enumerate(arrays):
            members = {"flow.npy": shards.npy_bytes(array)} | ({"landmarks.npy": b"?"} if i % 2 else {})
            rows.append(row(f"{i:03d}", flow=(y if i % 4 == 3 else x).add(f"{i:08d}", members)))
    return Manifest.from_rows(rows, folder)


def test_many_flows_are_each_clip_s_own(tmp_path: Path) -> None:
    manifest = _flows(tmp_path, [(2, 9 + i % 3, 7) for i in range(11)])
    found = list(read_flows(manifest))
    assert len(found) == 11
    for flow, one in zip(found, manifest, strict=True):
        assert flow.tobytes() == shards.read_flow(tmp_path, one).tobytes()
        assert flow.shape == shards.read_flow(tmp_path, one).shape
        assert flow.flags.writeable


def test_a_shard_is_opened_once_while_its_clips_follow_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = _flows(tmp_path, [(2, 4, 4)] * 11)
    opened, real = [], ShardReader._opened

    def counting(self: ShardReader, shard: str) -> object:
        before = self._file
        file = real(self, shard)
        opened.extend([shard] if file is not before else [])
        return file

    monkeypatch.setattr(ShardReader, "_opened", counting)
    list(read_flows(manifest))
    assert opened == ["x.tar", "y.tar", "x.tar", "y.tar", "x.tar"]


@pytest.mark.parametrize("shape", [(2, 4), (3, 4, 4), (1, 2, 4, 4), (2, 0, 4), ()])
def test_what_is_no_flow_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    manifest = _flows(tmp_path, [(2, 4, 4), shape])
    with pytest.raises(ManifestError, match=r"flow of clip db/01/001/0 is float32 .* not \[2,H,W\]"):
        list(read_flows(manifest))
    with pytest.raises(ManifestError, match="not \\[2,H,W\\]"):
        shards.read_flow(tmp_path, manifest.row(1))


def test_flow_that_is_no_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="is int16"):
        list(read_flows(_flows(tmp_path, [(2, 4, 4)], dtype="int16")))


def test_damage_in_the_middle_of_many_is_noticed(tmp_path: Path) -> None:
    manifest = _flows(tmp_path, [(2, 4, 4)] * 3)
    span = manifest.row(1).flow
    assert span is not None
    data = bytearray((tmp_path / "x.tar").read_bytes())
    data[span.offset + 700] ^= 1  # a value of the flow: its headers are whole
    (tmp_path / "x.tar").write_bytes(data)
    read = read_flows(manifest)
    next(read)
    with pytest.raises(ManifestError, match=f"damaged at byte {span.offset}"):
        next(read)


@pytest.mark.parametrize("name", ["a.txt", "flow.npy", "e" * 90, "größe.npy", "x y.z.npy"])
@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 5000])
def test_plain_tars_are_read_as_tarfile_reads_them(name: str, size: int) -> None:
    """What :class:`ShardWriter` writes takes the short way, unless a name is not ASCII; both ways agree."""
    data = b"".join(
        shards._header(f"{i:08d}.{name}{i or ''}"[:100], size) + bytes([i + 1]) * size + b"\0" * (-size % 512)
        for i in range(2)
    )
    plain = shards._plain_members(data)
    assert plain == (shards._members(data) if name.isascii() else None)
    assert len(shards._members(data)) == 2


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize(
    "changes", [{"mtime": 1}, {"mode": 0o600}, {"uname": "me"}, {"name": "00000000." + "é" * 40}, {"type": b"\0"}]
)
def test_tars_of_others_are_read_by_tarfile(form: Literal[0, 1, 2], changes: dict[str, object]) -> None:
    info = tarfile.TarInfo("00000000.a.txt")
    info.size = 3
    for key, value in changes.items():
        setattr(info, key, value)
    data = info.tobuf(form) + b"abc" + b"\0" * 509
    assert shards._plain_members(data) is None
    assert list(shards._members(data).values()) == [b"abc"]


def test_every_damaged_header_byte_goes_to_tarfile() -> None:
    head = shards._header("00000000.a.txt", 600)
    data = head + b"x" * 600 + b"\0" * 424
    assert shards._plain_members(data) == {"a.txt": b"x" * 600}
    for place in range(512):
        for bit in (1, 0x10, 0x80):
            bad = bytearray(data)
            bad[place] ^= bit
            assert shards._plain_members(bytes(bad)) is None, place
    for cut in (100, 511, 700, 1535):
        assert shards._plain_members(data[:cut]) is None
    assert shards._plain_members(data + data) is None  # one name twice
    assert shards._plain_members(data + b"\0" * 512) is None


def test_many_flows_take_the_memory_of_one(tmp_path: Path) -> None:
    manifest = _flows(tmp_path, [(2, 64, 64)] * 200)  # 6.5 MB
    for _ in read_flows(manifest[:2]):  # what is kept once, such as headers
        pass

    def read() -> None:
        for _ in read_flows(manifest):
            pass

    assert peak(read) < 1 << 20


# ---------------------------------------------------------------- where faces lie


def _faces(folder: Path, sizes: list[int], eyes: float = 0.5, wrong: float | None = None) -> Manifest:
    """Square crops of these sizes with eyes ``eyes`` of the side apart, .3 below the top."""
    rows = []
    with ShardWriter(folder / "x.tar") as writer:
        for i, size in enumerate(sizes):
            points = np.zeros((68, 2), np.float32)
            points[36:42], points[42:48] = ((0.5 - eyes / 2) * size, 0.3 * size), ((0.5 + eyes / 2) * size, 0.3 * size)
            points -= 0.5
            if wrong is not None and i == 1:
                points[3] = wrong
            members = {"flow.npy": shards.npy_bytes(np.zeros((2, size, size), np.float32))}
            members |= {} if eyes == 0.49 and i else {"landmarks.npy": shards.npy_bytes(points)}
            rows.append(row(f"{i:03d}", flow=writer.add(f"{i:08d}", members), height=size, width=size))
    return Manifest.from_rows(rows, folder)


def test_landmarks_say_where_faces_lie(tmp_path: Path) -> None:
    known = known_framing(_faces(tmp_path, [64] * 150))
    assert known is not None
    assert known.origin == LANDMARKS
    assert known.images == 50  # every third of 150
    assert known.framing.distance(Framing(eyes=0.5, height=0.5, row=0.3)) < 1e-3


def test_a_record_counts_more_than_landmarks(tmp_path: Path) -> None:
    recorded = KnownFraming(framing=Framing(eyes=0.7, height=0.7))
    manifest = replace(_faces(tmp_path, [64] * 3), meta=framing_meta(recorded))
    assert known_framing(manifest) == recorded


@pytest.mark.parametrize("frame", ["", "eyes=0.57,height=0.46,row=0.25,column=0.48"])
def test_a_flow_corpus_from_before_framings_were_recorded_says_it_by_its_run(tmp_path: Path, frame: str) -> None:
    made = mesynth.generate(kind="flow", emotion="surprise", count=2, frame=frame, out=tmp_path / "c", workers=1)
    before = replace(made, meta={})
    assert known_framing(before) == made.framing
    for text in ("config: {kind: flow, framing: {eyes: 9}}", "config: {kind: clips}", "config: 3", "{", "[" * 5000):
        (tmp_path / "c/run.yaml").write_text(text)
        assert known_framing(before) is None


@pytest.mark.parametrize(("sizes", "eyes"), [([64, 32], 0.5), ([], 0.5), ([64] * 3, 0.49), ([64] * 3, 0.01)])
def test_where_nothing_says_so_a_framing_is_not_known(tmp_path: Path, sizes: list[int], eyes: float) -> None:
    """Crops of two sizes, no clips, a clip without landmarks, faces that fill no crop."""
    assert known_framing(_faces(tmp_path, sizes, eyes)) is None
    assert known_framing(Manifest.from_rows([row("a")], tmp_path)) is None


def test_landmarks_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="landmarks of clip db/01/001/0 are no"):
        known_framing(_faces(tmp_path, [64] * 3, wrong=float("nan")))


# ---------------------------------------------------------------- frames of a clip


def _moving(n: int = 6) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, 20, 24, 3), dtype=np.uint8)


@pytest.mark.parametrize("form", shards.PICTURES)
@pytest.mark.parametrize("places", [None, [0], [4], [4, 0, 4], [5, 1]])
def test_frames_come_back_from_either_form(form: str, places: list[int] | None) -> None:
    frames = _moving()
    members = shards.frames_members(frames, form, 4)
    assert len(shards.frame_names(members)) == (6 if form == "png" else 1)
    again = shards.member_frames(members | {"json": b"{}"}, "db/a/0", places, 6)
    np.testing.assert_array_equal(again, frames if places is None else frames[places])
    assert shards.member_pngs(members, "db/a/0") == list(shards.frames_members(frames).values())


@pytest.mark.parametrize("form", shards.PICTURES)
@pytest.mark.parametrize(("places", "total"), [([6], None), ([-1], None), (None, 7), ([0], 5)])
def test_frames_that_are_not_there_are_said(form: str, places: list[int] | None, total: int | None) -> None:
    members = shards.frames_members(_moving(), form)
    with pytest.raises((ManifestError, UnreadableImageError), match="6"):
        shards.member_frames(members, "db/a/0", places, total)


def test_no_frames_are_no_clip() -> None:
    with pytest.raises(ManifestError, match="clip db/a/0 holds no frames"):
        shards.member_frames({"json": b"{}"}, "db/a/0")


@pytest.mark.parametrize("form", shards.PICTURES)
def test_onset_and_apex_of_a_shard(form: str, tmp_path: Path) -> None:
    frames = _moving()
    with ShardWriter(tmp_path / "frames.tar") as writer:
        spans = [writer.add(f"{i:08d}", shards.frames_members(frames + i, form, 3)) for i in range(2)]
    clip = replace(row("db/a/0"), frames=spans[1], n_frames=6, apex_index=3)
    np.testing.assert_array_equal(shards.read_frames(tmp_path, clip, [0, clip.apex_index]), frames[[0, 3]] + 1)
    np.testing.assert_array_equal(shards.read_frames(tmp_path, clip), frames + 1)


@pytest.mark.parametrize("size", [0, 1, 511, 512, 8**7, 8**11 - 1])
@pytest.mark.parametrize("name", ["a.b", "00000001.000.png", "n" * 99 + ".", "d" * 60 + "/" + "n" * 60, "k.\u00e4"])
def test_headers_are_those_of_tarfile(name: str, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size = size
    assert shards._header(name, size) == info.tobuf(tarfile.USTAR_FORMAT)
