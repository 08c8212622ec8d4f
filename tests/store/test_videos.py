"""Frames of video files: exact numbers, any order, damaged files, and the loader's listing of them."""

from __future__ import annotations

import hashlib
import io
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mesynth.core.errors import ConfigError, DatasetLayoutError, UnreadableImageError
from mesynth.datasets.files import list_frames, picture_size
from mesynth.store import shards, videos
from mesynth.store.manifest import Manifest, Provenance, Row
from mesynth.store.shards import read_frames
from mesynth.store.videos import (
    file_of,
    frame_count,
    frame_name,
    is_video,
    listing,
    read_image,
    read_photo,
    read_pictures,
    used_bits,
    video_fps,
    video_frame,
    video_size,
)
from tests.datasets.releases.generic import frame_number_shown, numbered_frame, write_trimmed_h264, write_video

LENGTH = 70


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key frames are 12 or more apart in the first three, so that seeking would have something to miss."""
    folder = tmp_path_factory.mktemp("videos")
    (folder / "clips").mkdir()
    write_video(folder / "clips/a.mp4", range(LENGTH), "mp4v")
    write_video(folder / "clips/b.avi", range(100, 100 + LENGTH), "XVID", fps=30)
    write_video(folder / "clips/c.webm", range(LENGTH), "VP80", fps=50)
    write_video(folder / "clips/lossless.mkv", range(LENGTH), "FFV1", fps=200)
    cv2.imwrite(str(folder / "clips/img7.png"), numbered_frame(7)[..., ::-1])
    return folder


VIDEOS = ("clips/a.mp4", "clips/b.avi", "clips/c.webm", "clips/lossless.mkv")


def shown(root: Path, names: list[str]) -> list[int]:
    return [frame_number_shown(picture) for picture in read_pictures(root, names)]


@pytest.mark.parametrize("video", VIDEOS)
def test_every_frame_of_a_video_is_the_one_it_is_named_after(root: Path, video: str) -> None:
    first = 100 if video.endswith(".avi") else 0
    assert frame_count(root / video) == LENGTH
    assert list(listing(root / video)) == list(range(LENGTH))
    assert listing(root / video)[12] == f"{Path(video).name}#000012"
    assert shown(root, [frame_name(video, n) for n in range(LENGTH)]) == list(range(first, first + LENGTH))
    assert video_size(root / video) == (48, 64)


def test_a_lossless_video_gives_back_the_exact_pictures(root: Path) -> None:
    pictures = list(read_pictures(root, [frame_name(VIDEOS[3], n) for n in (0, 33)]))
    np.testing.assert_array_equal(pictures[0], numbered_frame(0))
    np.testing.assert_array_equal(pictures[1], numbered_frame(33))
    assert pictures[0].dtype == np.uint8
    assert pictures[0][-1, -1].tolist() == [200, 40, 90]  # red first: RGB


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.sampled_from([*VIDEOS[:2], "img"]), st.integers(0, LENGTH - 1)),
        min_size=1,
        max_size=8,
    )
)
def test_frames_in_any_order_and_mixture(root: Path, asked: list[tuple[str, int]]) -> None:
    names = ["clips/img7.png" if video == "img" else frame_name(video, n) for video, n in asked]
    expected = [7 if video == "img" else n + 100 * video.endswith(".avi") for video, n in asked]
    assert shown(root, names) == expected


def test_a_run_of_frames_opens_its_video_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    original = cv2.VideoCapture

    def count(path: str, backend: int) -> cv2.VideoCapture:
        opened.append(Path(path).name)
        return original(path, backend)

    monkeypatch.setattr(cv2, "VideoCapture", count)
    a, b = VIDEOS[:2]
    assert shown(root, [frame_name(a, n) for n in (3, 3, 9, 40)]) == [3, 3, 9, 40]
    assert opened == ["a.mp4"]
    assert shown(root, [frame_name(a, 5), frame_name(b, 6), frame_name(b, 2)]) == [5, 106, 102]
    assert opened[1:] == ["a.mp4", "b.avi", "b.avi"]


def test_a_repeated_frame_is_not_shared(root: Path) -> None:
    first, second = read_pictures(root, [frame_name(VIDEOS[0], 3)] * 2)
    first[:] = 0
    assert frame_number_shown(second) == 3


def test_a_trimmed_video_is_counted_by_what_decodes(tmp_path: Path) -> None:
    """Phones and `ffmpeg -c copy` hide frames instead of cutting them; the header still counts them."""
    file = write_trimmed_h264(tmp_path / "t.mp4")
    assert cv2.VideoCapture(str(file)).get(cv2.CAP_PROP_FRAME_COUNT) == 40
    assert frame_count(file) == 30
    assert shown(tmp_path, [frame_name("t.mp4", n) for n in range(30)]) == list(range(10, 40))
    assert [shown(tmp_path, [frame_name("t.mp4", n)]) for n in (0, 13, 29)] == [[10], [23], [39]]


def test_frames_a_second(root: Path) -> None:
    assert [video_fps(root / v) for v in VIDEOS] == pytest.approx([25, 30, 50, 200])


def test_names() -> None:
    assert video_frame("a/b.MOV#7") == ("a/b.MOV", 7)
    assert file_of("a/b.MOV#7") == "a/b.MOV"
    for plain in ("a/b.png", "a/b#7.png", "a#7", "b.mp4", "b.mp4#x", "x.mp4#3/img1.jpg"):
        assert video_frame(plain) is None
        assert file_of(plain) == plain
    assert is_video(Path("x.WebM"))
    assert not is_video("x.gif")


# ---------------------------------------------------------------- provenance


def test_the_digest_tells_files_and_frames_apart(root: Path, tmp_path: Path) -> None:
    def digest(folder: Path, *names: str) -> str:
        found = hashlib.sha256()
        assert list(read_pictures(folder, names, found))
        return found.hexdigest()

    a = [frame_name(VIDEOS[0], n) for n in range(3)]
    assert digest(root, *a) == digest(root, *a)
    assert len({digest(root, *a), digest(root, *a[:2]), digest(root, frame_name(VIDEOS[1], 0), *a[1:])}) == 3
    (tmp_path / "elsewhere.mp4").write_bytes((root / VIDEOS[0]).read_bytes())
    moved = [frame_name("elsewhere.mp4", n) for n in range(3)]
    assert digest(tmp_path, *moved) == digest(root, *a)  # content, not place
    image = (root / "clips/img7.png").read_bytes()
    assert digest(root, "clips/img7.png") == hashlib.sha256(image).hexdigest()


def test_a_video_rewritten_in_place_is_counted_again(tmp_path: Path) -> None:
    assert frame_count(write_video(tmp_path / "a.avi", range(5), "MJPG")) == 5
    assert frame_count(write_video(tmp_path / "a.avi", range(9), "MJPG")) == 9


# ---------------------------------------------------------------- what goes wrong


def one_line(error: pytest.ExceptionInfo[Exception], *words: str) -> None:
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize("content", [b"", b"not a video", b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom"])
@pytest.mark.parametrize("ask", [frame_count, video_size, video_fps, listing])
def test_a_file_that_is_no_video(tmp_path: Path, content: bytes, ask: object) -> None:
    (tmp_path / "bad.mp4").write_bytes(content)
    with pytest.raises(UnreadableImageError) as error:
        ask(tmp_path / "bad.mp4")  # type: ignore[operator]
    one_line(error, "bad.mp4", "truncated", "codec", "convert it to H.264")


def test_nothing_of_a_damaged_video_reaches_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom")
    code = (
        "import sys\nfrom mesynth.core.errors import MesynthError\nfrom mesynth.store.videos import frame_count\n"
        "try:\n    frame_count(sys.argv[1])\nexcept MesynthError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "bad.mp4")], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize(("video", "share"), [(VIDEOS[0], 0.5), (VIDEOS[1], 0.5), (VIDEOS[1], 0.7)])
def test_a_video_that_was_cut_off(root: Path, tmp_path: Path, video: str, share: float) -> None:
    data = (root / video).read_bytes()
    cut = tmp_path / Path(video).name
    cut.write_bytes(data[: int(share * len(data))])
    with pytest.raises(UnreadableImageError) as error:
        frame_count(cut)
    one_line(error, cut.name, "truncated", "copy it again")


def test_a_video_of_headers_alone(tmp_path: Path, root: Path) -> None:
    """The container opens, but no picture follows."""
    data = (root / VIDEOS[1]).read_bytes()
    (tmp_path / "b.avi").write_bytes(data[: data.index(b"movi") + 4])
    with pytest.raises(UnreadableImageError) as error:
        frame_count(tmp_path / "b.avi")
    one_line(error, "b.avi")


def test_a_frame_past_the_end(root: Path) -> None:
    names = [frame_name(VIDEOS[0], n) for n in (LENGTH - 1, LENGTH)]
    pictures = read_pictures(root, names)
    assert frame_number_shown(next(pictures)) == LENGTH - 1
    with pytest.raises(UnreadableImageError) as error:
        next(pictures)
    one_line(error, "a.mp4", f"no frame {LENGTH}", f"only {LENGTH} decode")


def test_missing_files(root: Path, tmp_path: Path) -> None:
    for ask in (frame_count, video_size, video_fps, listing):
        with pytest.raises(DatasetLayoutError, match=r"none\.mp4 is missing"):
            ask(tmp_path / "none.mp4")
    with pytest.raises(DatasetLayoutError, match=r"none\.mp4 is missing"):
        list(read_pictures(tmp_path, ["none.mp4#000000"]))
    with pytest.raises(UnreadableImageError, match=r"none\.png"):
        list(read_pictures(tmp_path, ["none.png"]))
    with pytest.raises(UnreadableImageError, match="cannot be read"):
        read_image(tmp_path)


def test_a_header_without_a_frame_rate(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for stated in (0.0, 90_000.0, float("nan"), float("inf")):
        monkeypatch.setattr("mesynth.store.videos._Decoder.header", lambda self, prop, fps=stated: fps)
        with pytest.raises(DatasetLayoutError, match=r"a\.mp4 states no usable frame rate.*fps column"):
            video_fps(root / VIDEOS[0])


# ---------------------------------------------------------------- loaders and manifests


def test_the_loaders_listing(root: Path, tmp_path: Path) -> None:
    frames = list_frames(root / "clips/a.mp4")
    assert frames.path("clips/a.mp4", 12) == "clips/a.mp4#000012"
    assert frames.path("a.mp4", 0) == "a.mp4#000000"
    assert picture_size(root / "clips/a.mp4", frames[5]) == (48, 64)
    assert picture_size(root / "clips", frames[5]) == (48, 64)
    with pytest.raises(DatasetLayoutError, match=r"video .*none\.mp4 is missing; clips: it holds a\.mp4, b\.avi"):
        list_frames(root / "clips/none.mp4")
    folder = tmp_path / "folder.mp4"  # a folder of pictures may be called like a video
    folder.mkdir()
    (folder / "a.mp4#3.png").write_bytes((root / "clips/img7.png").read_bytes())
    assert list_frames(folder).path("folder.mp4", 3) == "folder.mp4/a.mp4#3.png"
    assert picture_size(folder, "a.mp4#3.png") == (48, 64)


def test_frames_of_a_manifest_row(root: Path) -> None:
    row = Row(
        clip_id="own/a/a/5", database="own", subject="a", clip="a", onset=5, apex=7, offset=9, fps=25.0, n_frames=5,
        apex_index=2, height=48, width=64, frame_files=tuple(frame_name(VIDEOS[0], n) for n in range(5, 10)),
        provenance=Provenance(kind="real", database="own", subject="a", licence="own", subjects_seen=("own/a",)),
    )  # fmt: skip
    assert [frame_number_shown(f) for f in read_frames(root, row)] == [5, 6, 7, 8, 9]
    moved = Manifest.join([Manifest.from_rows([row], root)], root.parent).row(0)
    assert [frame_number_shown(f) for f in read_frames(root.parent, moved)] == [5, 6, 7, 8, 9]


# ---------------------------------------------------------------- depth, size, damage


def _clip(folder: Path, brightest: int, bits: int, suffix: str, colour: bool = True) -> tuple[list[str], np.ndarray]:
    """Two frames of 8 bits, the first darker, written into the low ``bits`` of 16-bit files; what they show."""
    shape = (2, 6, 7, 3) if colour else (2, 6, 7)
    shown = np.random.default_rng(bits).integers(0, brightest, shape).astype(np.uint8)
    shown[1].flat[0] = brightest
    shown[0] //= 9
    names = [f"{i}{suffix}" for i in range(2)]
    for name, picture in zip(names, shown, strict=True):
        deep = picture.astype(np.uint16) << (bits - 8)
        assert cv2.imwrite(str(folder / name), deep[..., ::-1] if colour else deep)
    return names, shown if colour else np.repeat(shown[..., None], 3, -1)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("colour", [True, False])
def test_samples_of_any_depth_in_16_bits(tmp_path: Path, bits: int, suffix: str, colour: bool) -> None:
    """One scale for the clip: its dark first frame alone would be made brighter."""
    names, shown = _clip(tmp_path, 200, bits, suffix, colour)
    said: list[str] = []
    read = list(read_pictures(tmp_path, names, notes=said))
    assert np.array_equal(np.stack(read), shown)
    assert said == [f"16-bit frames use {bits} bits: all of them divided by {1 << (bits - 8)}"]
    assert np.array_equal(read_image(tmp_path / names[1]), shown[1])


def test_eight_bits_say_nothing(root: Path) -> None:
    said: list[str] = []
    assert len(list(read_pictures(root, ["clips/img7.png"] * 2, notes=said))) == 2
    assert said == []


@given(peak=st.integers(0, 65535))
def test_a_depth_holds_its_peak_and_no_smaller_one_does(peak: int) -> None:
    bits = used_bits(peak)
    assert peak < 1 << bits
    assert bits == 8 or peak >= 1 << (bits - 2)


def test_frames_of_one_clip_are_alike(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 9, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "b.png"), np.zeros((8, 10, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "c.png"), np.zeros((8, 9, 3), np.uint16))
    for other, says in {"b.png": ("in size", "10x8", "9x8"), "c.png": ("in depth", "16 bits", "8 bits")}.items():
        with pytest.raises(UnreadableImageError) as error:
            list(read_pictures(tmp_path, ["a.png", "a.png", other]))
        one_line(error, "a.png", other, *says)


_PICTURE = np.random.default_rng(0).integers(0, 255, (24, 32, 3)).astype(np.uint8)


def _saved(path: Path, **how: object) -> Path:
    Image.fromarray(_PICTURE).save(path, **how)
    return path


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".webp", ".gif", ".jp2", ".avif"])
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.95])
def test_cut_off_pictures_are_one_line(
    tmp_path: Path, suffix: str, kept: float, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = _saved(tmp_path / f"whole{suffix}")
    assert read_image(whole).shape == _PICTURE.shape
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(whole.read_bytes()[: int(kept * whole.stat().st_size)])
    with pytest.raises(UnreadableImageError) as error:
        read_image(cut)
    one_line(error, cut.name, "cannot be read as an image")
    assert "OpenCV" not in capfd.readouterr().err


def test_a_picture_by_another_name_is_what_it_holds(tmp_path: Path) -> None:
    jpeg = _saved(tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.png").write_bytes(jpeg)
    assert np.array_equal(read_image(tmp_path / "a.png"), read_image(tmp_path / "a.jpg"))


def test_a_header_of_too_many_pixels(tmp_path: Path) -> None:
    """Nothing of that size is asked for: the file holds a megabyte of zeros for 4.8 gigabytes of picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(1_000_000))), chunk(b"IEND", b""))
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    jpeg = bytearray(_saved(tmp_path / "a.jpg").read_bytes())
    place = jpeg.index(b"\xff\xc0") + 5
    jpeg[place : place + 4] = struct.pack(">HH", 60_000, 60_000)
    (tmp_path / "bomb.jpg").write_bytes(jpeg)
    for name in ("bomb.png", "bomb.jpg"):
        with pytest.raises(UnreadableImageError) as error:
            read_image(tmp_path / name)
        one_line(error, name, "150,000,000")
        with pytest.raises(UnreadableImageError) as error:
            picture_size(tmp_path, name)
        one_line(error, name)


def test_heic_names_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for brand in (b"heic", b"heix", b"mif1"):
        (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftyp" + brand + bytes(64))
        monkeypatch.setitem(sys.modules, "pillow_heif", None)
        with pytest.raises(UnreadableImageError) as error:
            read_image(tmp_path / "a.heic")
        one_line(error, "a.heic", "pip install pillow-heif", "JPEG or PNG")


def test_photos_as_people_save_them(tmp_path: Path) -> None:
    """Grey, palette, CMYK, turned, transparent, animated: the same picture, and a word where something was decided."""
    image = Image.fromarray(_PICTURE)
    grey = np.asarray(image.convert("L"))
    upright = Image.Exif()
    upright[0x0112] = 6  # a quarter clockwise makes it upright
    turned = image.rotate(90, expand=True)
    turned.save(tmp_path / "turned.png", exif=upright)
    turned.save(tmp_path / "turned.tif", exif=upright)
    image.convert("L").save(tmp_path / "grey.png")
    image.convert("CMYK").save(tmp_path / "cmyk.tif")
    image.save(tmp_path / "animated.png", save_all=True, append_images=[image.rotate(180)])
    clear = image.convert("RGBA")
    clear.putalpha(Image.fromarray(np.where(np.arange(32) < 4, 0, 255).astype(np.uint8)[None].repeat(24, 0)))
    clear.save(tmp_path / "clear.png")
    for name, expected, said in (
        ("turned.png", _PICTURE, []),
        ("turned.tif", _PICTURE, []),
        ("grey.png", np.repeat(grey[..., None], 3, -1), []),
        ("cmyk.tif", _PICTURE, []),
        ("animated.png", _PICTURE, ["the first of its several pictures was read"]),
        ("clear.png", np.where(np.arange(32)[:, None] < 4, 255, _PICTURE), ["transparent parts were made white"]),
    ):
        read, notes = read_photo(tmp_path / name)
        assert np.array_equal(read, expected), name
        assert notes == said, name
    palette = image.quantize(16)
    palette.save(tmp_path / "palette.png")
    assert np.array_equal(read_photo(tmp_path / "palette.png")[0], np.asarray(palette.convert("RGB")))


# ---------------------------------------------------------------- lossless


def _ramp(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Noise over a ramp that moves: what P frames predict, and what they do not."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[1], : shape[2]]
    ramp = (4 * x + 3 * y + 7 * np.arange(shape[0])[:, None, None]) % 256
    return (ramp[..., None] + rng.integers(0, 3, (*shape, 3))).astype(np.uint8)


def _key_packets(video: bytes) -> list[int]:
    with av.open(io.BytesIO(video)) as container:
        return [i for i, p in enumerate(p for p in container.demux(video=0) if p.size) if p.is_keyframe]


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 5), (9, 64, 48), (7, 33, 47), (150, 16, 16), (64, 128, 128)])
@pytest.mark.parametrize("keys", [(), (1,), (0, 3)])
def test_every_bit_of_a_clip_is_kept(shape: tuple[int, int, int], keys: tuple[int, ...]) -> None:
    clip = _ramp(shape)
    extremes = np.where(np.arange(shape[0])[:, None, None, None] % 2, 255, 0).astype(np.uint8)
    clip[:, :1] = extremes  # black and white by turns: quantisers and colour spaces cut there first
    video = videos.lossless_video(clip, keys)
    np.testing.assert_array_equal(videos.lossless_frames(video, "a clip"), clip)
    assert video == videos.lossless_video(clip, keys)
    own = {0, *(key for key in keys if key < len(clip))}
    found = _key_packets(video)
    assert own <= set(found)
    assert max(np.diff([*found, len(clip)])) <= 64


@pytest.mark.parametrize("places", [[0], [6], [0, 6], [6, 0], [3, 3, 8], [8, 1, 7, 2], [2, 3, 4], list(range(9))])
def test_frames_are_read_at_their_places(places: list[int]) -> None:
    clip = _ramp((9, 24, 32))
    video = videos.lossless_video(clip, [6])
    np.testing.assert_array_equal(videos.lossless_frames(video, "a clip", places), clip[places])


def test_onset_and_apex_are_decoded_alone() -> None:
    """Whatever becomes of the frames between: they are not looked at."""
    clip = _ramp((20, 48, 48))
    video = bytearray(videos.lossless_video(clip, [11]))
    with av.open(io.BytesIO(bytes(video))) as container:
        packets = [bytes(p) for p in container.demux(video=0) if p.size]
    for i in set(range(20)) - {0, 11}:
        at = bytes(video).index(packets[i])
        video[at + 5 : at + len(packets[i])] = bytes(len(packets[i]) - 5)
    np.testing.assert_array_equal(videos.lossless_frames(bytes(video), "a clip", [0, 11]), clip[[0, 11]])
    with pytest.raises(UnreadableImageError, match="a clip"):
        videos.lossless_frames(bytes(video), "a clip")


def test_a_video_that_was_cut_off_is_said_wherever_it_ends() -> None:
    clip = _ramp((12, 24, 24))
    video = videos.lossless_video(clip, [5])
    for size in [0, 1, 40, *range(100, len(video) - 60, 97)]:
        with pytest.raises(UnreadableImageError, match=r"^a clip .*(copy the corpus again or make it anew)$") as caught:
            videos.lossless_frames(video[:size], "a clip")
        assert len(str(caught.value).splitlines()) == 1


def _encoded(codec: str, pixels: str, container: str) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=container) as made:
        stream = made.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 32, pixels
        for picture in _ramp((4, 32, 32)):
            made.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pixels)))
        made.mux(stream.encode(None))
    return file.getvalue()


@pytest.mark.parametrize(
    "video",
    [
        lambda: _encoded("mpeg4", "yuv420p", "matroska"),  # colours sampled down
        lambda: _encoded("ffv1", "bgr0", "matroska"),
        lambda: _encoded("mpeg4", "yuv420p", "mp4"),
        lambda: _encoded("libx264rgb", "rgb24", "matroska"),  # nobody says how many frames it should have
        lambda: b"no video at all" * 50,
        lambda: b"\x1a\x45\xdf\xa3" + bytes(500),
    ],
)
def test_another_kind_of_file_is_refused_in_one_line(video: Callable[[], bytes]) -> None:
    with pytest.raises(UnreadableImageError, match=r"^db/a/0/frames.mkv .*make it anew$"):
        videos.lossless_frames(video(), "db/a/0/frames.mkv")


def test_numbers_that_do_not_fit_are_said() -> None:
    video = videos.lossless_video(_ramp((4, 16, 16)))
    with pytest.raises(UnreadableImageError, match="holds 4 frames of 16x16 pixels, not 5"):
        videos.lossless_frames(video, "a clip", total=5)
    for place in (4, -1):
        with pytest.raises(UnreadableImageError, match=f"has no frame {place}: it holds 4"):
            videos.lossless_frames(video, "a clip", [0, place])


def test_a_build_without_the_encoder_reads_and_says_that_it_cannot_write(monkeypatch: pytest.MonkeyPatch) -> None:
    clip = _ramp((3, 16, 16))
    video = videos.lossless_video(clip)
    monkeypatch.setattr(videos, "_LOSSLESS", "libx264nowhere")
    np.testing.assert_array_equal(videos.lossless_frames(video, "a clip"), clip)
    with pytest.raises(ConfigError, match="without the encoder libx264nowhere; store them as png"):
        videos.lossless_video(clip)
    with pytest.raises(ConfigError, match="store them as png"):
        shards.check_pictures("video")


# ---------------------------------------------------------------- threads


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets how many OpenCV may use."""
    before = cv2.getNumThreads()
    yield cv2.setNumThreads
    cv2.setNumThreads(before)


@pytest.mark.parametrize("many", [1, 2, 3, 8])
def test_pictures_come_in_order_and_are_not_made_far_ahead(many: int, threads: Callable[[int], None]) -> None:
    threads(many)
    made: list[int] = []
    before = set(threading.enumerate())

    def slowly(number: int) -> np.ndarray:
        time.sleep(0.002 * (number % 3))
        made.append(number)
        return np.full(1 << 22, number, np.uint8)

    for place, picture in enumerate(videos.in_threads(slowly, range(24), lambda picture: picture.nbytes)):
        assert picture[0] == place
        assert len(made) <= place + 2 + max(8, min(many, 4))  # 8 of them are 32 MiB
    assert sorted(made) == list(range(24))
    assert set(threading.enumerate()) <= before


def test_the_next_pictures_are_made_while_the_first_is_looked_at(threads: Callable[[int], None]) -> None:
    """As many as may be held, not only one a thread: a face is looked for in the first."""
    threads(2)
    made: list[int] = []

    def make(number: int) -> np.ndarray:
        made.append(number)
        return np.full(1 << 22, number, np.uint8)  # 8 of them are 32 MiB

    pictures = videos.in_threads(make, range(24), lambda picture: picture.nbytes)
    assert next(pictures)[0] == 0
    for _ in range(500):
        if len(made) == 9:
            break
        time.sleep(0.01)
    assert sorted(made) == list(range(9))
    assert [picture[0] for picture in pictures] == list(range(1, 24))


@pytest.mark.parametrize("many", [1, 2])
def test_what_has_begun_is_made_once_and_its_error_is_raised_where_it_is_asked_for(
    many: int, threads: Callable[[int], None]
) -> None:
    threads(many)
    who: list[int] = []

    def make() -> int:
        who.append(threading.get_ident())
        return 7

    def fails() -> int:
        raise ValueError("a picture")

    assert videos.begun(make)() == 7
    assert len(who) == 1
    assert (who[0] == threading.get_ident()) == (many == 1)
    wrong = videos.begun(fails)
    with pytest.raises(ValueError, match="a picture"):
        wrong()


@pytest.mark.parametrize("many", [1, 4])
def test_what_is_wrong_with_a_picture_is_said_in_its_turn(many: int, threads: Callable[[int], None]) -> None:
    threads(many)
    seen: list[int] = []
    before = set(threading.enumerate())

    def fails(number: int) -> int:
        if number in (5, 6):
            raise ValueError(f"number {number}")
        return number

    with pytest.raises(ValueError, match="number 5"):
        seen.extend(videos.in_threads(fails, range(20)))
    assert seen == [0, 1, 2, 3, 4]
    for number in videos.in_threads(fails, range(5)):
        if number == 1:
            break  # whoever has enough leaves no thread behind
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("damaged", [None, "00.jpg", "03.jpg", "05.png"])
def test_threads_change_no_picture_no_digest_and_no_error(
    tmp_path: Path, damaged: str | None, threads: Callable[[int], None]
) -> None:
    names = [f"{i:02d}.{'jpg' if i % 2 == 0 or i == 3 else 'png'}" for i in range(12)]
    write_video(tmp_path / "a.mp4", range(4), "mp4v")
    for i, name in enumerate(names):
        (tmp_path / name).write_bytes(videos.encoded(numbered_frame(i), Path(name).suffix))
    if damaged:
        (tmp_path / damaged).write_bytes((tmp_path / damaged).read_bytes()[:40])
    names.insert(7, frame_name("a.mp4", 2))
    found = []
    for many in (1, 4):
        threads(many)
        digest, pictures, said = hashlib.sha256(), [], ""
        try:
            for picture in read_pictures(tmp_path, names, digest):
                pictures.append(picture.tobytes())
        except UnreadableImageError as error:
            said = str(error)
        found.append((digest.hexdigest(), pictures, said))
    assert found[0] == found[1]
    assert (damaged or "") in found[0][2]
    assert len(found[0][1]) == (13 if damaged is None else names.index(damaged))


def test_opencvs_messages_are_as_before_once_all_threads_are_through(threads: Callable[[int], None]) -> None:
    threads(4)
    before = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_INFO)
    try:
        data = videos.encoded(numbered_frame(1), ".jpg")
        for _ in videos.in_threads(lambda _: videos.image_array(data, "a picture"), range(200)):
            pass
        assert cv2.utils.logging.getLogLevel() == cv2.utils.logging.LOG_LEVEL_INFO
    finally:
        cv2.utils.logging.setLogLevel(before)


def jpegs() -> Iterator[tuple[str, bytes]]:
    """JPEG files of every kind that Pillow writes, 37 wide and 23 high, by name."""
    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 256, (23, 37, 3), np.uint8))
    thumbnail = io.BytesIO()
    colour.resize((11, 7)).save(thumbnail, "jpeg")
    exif = Image.Exif()
    exif[0x0112] = 6  # held upright: width and height in the header are the sensor's
    for name, picture, how in (
        ("baseline", colour, {}),
        ("progressive", colour, {"progressive": True}),
        ("grey", colour.convert("L"), {}),
        ("CMYK", colour.convert("CMYK"), {}),
        ("optimised tables", colour, {"optimize": True}),
        ("restarts", colour, {"restart_marker_rows": 1}),
        ("a comment", colour, {"comment": b"\xff\xc0\x00\x11\x08\x00\x01\x00\x01"}),
        ("turned", colour, {"exif": exif.tobytes()}),
        ("a thumbnail", colour, {"exif": b"Exif\0\0" + thumbnail.getvalue()}),
        ("a profile", colour, {"icc_profile": bytes(70_000)}),
        ("a size in dots", colour, {"dpi": (300, 300)}),
    ):
        file = io.BytesIO()
        picture.save(file, "jpeg", **how)
        yield name, file.getvalue()
    yield "fill before a marker", file.getvalue()[:2] + b"\xff\xff\xff" + file.getvalue()[2:]


@pytest.mark.parametrize(("name", "data"), list(jpegs()), ids=lambda value: value if isinstance(value, str) else "")
def test_the_size_in_a_jpegs_header(name: str, data: bytes) -> None:
    assert videos._jpeg_size(data) == (37, 23)
    assert videos._stated_size(data) == Image.open(io.BytesIO(data)).size
    for end in range(0, min(len(data), 1500), 3):  # cut off anywhere: found, or not there
        assert videos._jpeg_size(data[:end]) in (None, (37, 23))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_the_header_of_anything_is_read_without_an_error(data: bytes) -> None:
    videos._jpeg_size(b"\xff\xd8\xff" + data)
