"""Frames of video files: exact numbers, any order, damaged files, and the loader's listing of them."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesynth.core.errors import DatasetLayoutError, UnreadableImageError
from mesynth.datasets.files import list_frames, picture_size
from mesynth.store.manifest import Manifest, Provenance, Row
from mesynth.store.shards import read_frames
from mesynth.store.videos import (
    file_of,
    frame_count,
    frame_name,
    is_video,
    listing,
    read_image,
    read_pictures,
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
