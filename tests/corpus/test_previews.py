"""Moving pictures: what every program can open, the same bytes every time, and played by a real browser."""

import hashlib
import io
import os
import shutil
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from mesynth.cli import main
from mesynth.core.errors import ConfigError
from mesynth.corpus import previews
from mesynth.corpus.previews import (
    FLOW_SCALE,
    VIDEOS,
    clip_column,
    hatched,
    moving_picture,
    padded_note,
    suffix_of,
    video_bytes,
)
from mesynth.preprocess.flow import flow_picture
from mesynth.store.manifest import Manifest
from mesynth.store.shards import read_flow, read_frames, read_mask
from mesynth.store.videos import frame_count, read_pictures, video_fps


def moving(length: int = 12, height: int = 64, width: int = 48) -> np.ndarray:
    """[T,H,W,3] uint8: a smooth face-like blob of skin that moves by a pixel a frame."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    frames = []
    for t in range(length):
        blob = np.exp(-((x - width / 2 - t / 2) ** 2 + (y - height / 2) ** 2) / (width * height / 12))
        frames.append(np.stack([90 + 120 * blob, 80 + 80 * blob, 70 + 60 * blob], -1))
    return np.rint(np.array(frames)).astype(np.uint8)


def decoded(data: bytes) -> np.ndarray:
    with av.open(io.BytesIO(data)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.mark.parametrize(("height", "width"), [(64, 48), (65, 48), (64, 47), (65, 47), (8, 6), (1, 1), (28, 28)])
@pytest.mark.parametrize(("video", "codec"), [("mp4", "h264"), ("webm", "vp9")])
def test_videos_hold_every_frame_in_the_usual_form(video: str, codec: str, height: int, width: int) -> None:
    frames = moving(9, height, width)
    data = video_bytes(frames, video)
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == codec
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert float(stream.average_rate) == 25
        assert not container.streams.audio
    shown = decoded(data)
    even = (height + height % 2, width + width % 2)
    assert shown.shape == (9, *even, 3)
    padded = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    assert np.abs(shown.astype(int) - padded).mean() < 3
    note = padded_note(video, height, width)
    assert (f"{even[1]}x{even[0]} pixels instead of {width}x{height}" in note) == (even != (height, width))
    assert padded_note("gif", height, width) == ""


def test_an_mp4_begins_with_its_index() -> None:
    """A browser shows it before all of it is there."""
    data, boxes, place = video_bytes(moving()), [], 0
    while place < len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        boxes.append(data[place + 4 : place + 8])
        place += size
    assert boxes.index(b"ftyp") < boxes.index(b"moov") < boxes.index(b"mdat")


def test_what_moves_faintly_is_still_there() -> None:
    """A patch that brightens by three grey levels, as at a micro-expression's onset."""
    frames = np.repeat(moving(1), 8, 0)
    frames[4:, 20:40, 16:32] += 3
    for video in ("mp4", "webm"):
        shown = decoded(video_bytes(frames, video)).astype(float)[:, 24:36, 20:28].mean((1, 2, 3))
        assert 2 < shown[4:].mean() - shown[:4].mean() < 4


@pytest.mark.parametrize("video", VIDEOS)
def test_the_same_frames_give_the_same_bytes(video: str) -> None:
    frames = moving()
    once = video_bytes(frames, video)
    assert once == video_bytes(frames.copy(), video)
    assert once != video_bytes(frames[::-1], video)


@pytest.mark.parametrize(("video", "kind"), [("gif", "GIF"), ("apng", "PNG")])
def test_pictures_that_move_loop_for_ever(video: str, kind: str) -> None:
    frames = moving()
    with Image.open(io.BytesIO(video_bytes(frames, video, fps=20))) as picture:
        assert (picture.format, picture.n_frames, picture.info["loop"]) == (kind, len(frames), 0)
        assert picture.info["duration"] == 50
        picture.seek(len(frames) - 1)
        last = np.asarray(picture.convert("RGB"))
    limit = 8 if kind == "GIF" else 1e-9
    assert np.abs(last.astype(int) - frames[-1]).mean() < limit


@pytest.mark.parametrize("fps", [0.5, 12.5, 25.0, 29.97, 200.0])
@pytest.mark.parametrize("video", ["mp4", "webm"])
def test_frame_rates(video: str, fps: float, tmp_path: Path) -> None:
    path = tmp_path / f"a.{video}"
    path.write_bytes(video_bytes(moving(5), video, fps))
    assert (frame_count(path), video_fps(path)) == (5, pytest.approx(fps, rel=1e-3))


def test_one_frame_is_a_video(tmp_path: Path) -> None:
    for video in VIDEOS:
        assert video_bytes(moving(1), video)
    (tmp_path / "a.mp4").write_bytes(video_bytes(moving(1)))
    assert len(list(read_pictures(tmp_path, ["a.mp4#000000"]))) == 1


@pytest.mark.parametrize("video", ["", "avi", "MP4", "mp4v", "png"])
def test_unknown_videos(video: str) -> None:
    with pytest.raises(ConfigError, match=f"video '{video}' is unknown; choose mp4, webm, gif or apng"):
        video_bytes(moving(2), video)


def test_without_the_encoder_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(av.codec, "codecs_available", {"libvpx-vp9"})
    with pytest.raises(ConfigError, match=r"without libx264 or libopenh264.*--video webm or gif or apng"):
        video_bytes(moving(2))
    assert video_bytes(moving(2), "webm")
    monkeypatch.setattr(av.codec, "codecs_available", set())
    with pytest.raises(ConfigError, match=r"without libvpx-vp9.*--video gif or apng"):
        video_bytes(moving(2), "webm")
    assert video_bytes(moving(2), "gif")


def test_generate_ends_with_the_moving_picture(tmp_path: Path) -> None:
    faces = CliRunner().invoke(
        main, ["render", "--layout", "faces", "--subjects", "1", "--size", "96", "--out", str(tmp_path / "faces")]
    )
    assert faces.exit_code == 0, faces.output
    for video in ("mp4", "apng"):
        out = tmp_path / video
        args = ["generate", "--faces", str(tmp_path / "faces"), "--au", "12=C", "--fps", "50", "--size", "49"]
        made = CliRunner().invoke(main, [*args, "--video", video, "--out", str(out)])
        assert made.exit_code == 0, made.output
        path = out / "clips" / "syn0000000" / f"clip.{suffix_of(video)}"
        assert made.stdout.splitlines()[-1].split(maxsplit=3)[-1] == str(path)
        assert moving_picture(out) == path
        assert path.is_file()
        assert ("50x50 pixels instead of 49x49" in made.stderr) == (video == "mp4")
    bare = CliRunner().invoke(main, [*args, "--preview", "0", "--out", str(tmp_path / "bare")])
    assert bare.exit_code == 0, bare.output
    assert "to look at" not in bare.stdout
    assert moving_picture(tmp_path / "bare") is None


@pytest.mark.browser
def test_a_browser_plays_them(tmp_path: Path) -> None:
    """Every kind is shown by Chromium at its size; the videos run, without an error."""
    from playwright.sync_api import sync_playwright

    frames = moving(25, 63, 48)
    names = {video: f"{hashlib.sha256(video.encode()).hexdigest()[:6]}.{suffix_of(video)}" for video in VIDEOS}
    for video, name in names.items():
        (tmp_path / name).write_bytes(video_bytes(frames, video))
    (tmp_path / "page.html").write_text(
        "".join(
            f'<video id="{video}" src="{name}" muted loop autoplay></video>'
            if video in previews._CODECS
            else f'<img id="{video}" src="{name}">'
            for video, name in names.items()
        )
    )
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=_chromium(), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.goto((tmp_path / "page.html").as_uri())
        for video in ("mp4", "webm"):
            page.wait_for_function(
                "id => { const v = document.getElementById(id); return v.error || v.currentTime > 0.1 }", arg=video
            )
            told = page.evaluate(
                "id => { const v = document.getElementById(id);"
                " return [v.error && v.error.code, v.videoWidth, v.videoHeight, v.duration, v.currentTime > 0] }",
                video,
            )
            assert told == [None, 48, 64, pytest.approx(1.0, abs=0.05), True]
        for video in ("gif", "apng"):
            size = "id => [document.getElementById(id).naturalWidth, document.getElementById(id).naturalHeight]"
            assert page.evaluate(size, video) == [48, 63]
        browser.close()


def _chromium() -> str:
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    assert found, "no Chromium on this machine: install it, set CHROMIUM, or deselect with -m 'not browser'"
    return found


def test_what_stands_still_is_hatched_in_sheets_and_nothing_else_changes() -> None:
    manifest = Manifest.read(Path(__file__).parents[2] / "samples" / "corpus")
    row = manifest.row(0)
    still = read_mask(manifest.root, row, "still")
    assert still is not None
    onset, apex, _, flow = np.vsplit(clip_column(manifest, row), 4)
    plain = flow_picture(read_flow(manifest.root, row), FLOW_SCALE)
    np.testing.assert_array_equal(flow[~still], plain[~still])
    darker = (flow < plain).any(-1)
    assert 0.05 < darker[still].mean() < 0.6
    edge = still & (cv2.erode(still.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))) == 0)
    assert darker[edge].all()
    np.testing.assert_array_equal(np.stack([onset, apex]), read_frames(manifest.root, row, [0, row.apex_index]))


@pytest.mark.parametrize("still", [None, np.zeros((6, 6), bool), np.ones((5, 6), bool)])
def test_a_clip_without_a_fitting_mask_is_shown_as_it_is(still: np.ndarray | None) -> None:
    picture = np.full((6, 6, 3), 200, np.uint8)
    np.testing.assert_array_equal(hatched(picture, still), picture)
