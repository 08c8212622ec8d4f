"""A face and its wishes: what a picture is worth, the same bytes as the command's, and every way to be wrong."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from skimage import data

from mesynth.cli import main
from mesynth.core.emotions import PUBLISHED
from mesynth.core.errors import ConfigError, MesynthError, NoFaceError, UnreadableImageError
from mesynth.core.facs import LOWERABLE, parse_request
from mesynth.store.manifest import Manifest
from mesynth.store.shards import read_flow, read_frames
from mesynth.studio import face
from mesynth.studio.face import FaceDesk, Wish, intake, keep_photo, letter


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("studio")


@pytest.fixture(scope="module")
def photo(studio: Path) -> Path:
    from mesynth.api import render

    render(studio / "people", subjects=1, layout="faces", size=160)
    (picture,) = (studio / "people").glob("*.png")
    return keep_photo(studio, picture)


@pytest.fixture(scope="module")
def desk(studio: Path) -> FaceDesk:
    return FaceDesk(studio)


@pytest.fixture
def wish(photo: Path) -> Wish:
    return Wish(photo=photo, aus="12=0.4,L4=0.2", size=64, fps=50)


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("me.JPG", ".jpg"), ("../../etc/passwd", ""), ("a/b/c.png", ".png"), ("x.<script>", ""), ("", ""),
        ("..", ""), ("con.tar.gz", ".gz"), ("\u202egnp.exe", ".exe"), ("a" * 500 + ".png", ".png"),
    ],
)  # fmt: skip
def test_a_name_never_becomes_a_path(name: str, kept: str, tmp_path: Path) -> None:
    upload = tmp_path / "upload"
    upload.write_bytes(b"some picture")
    made = keep_photo(tmp_path / "studio", upload, name)
    assert made.parent == tmp_path / "studio" / "photos"
    assert made.suffix == kept
    assert len(made.stem) == 16
    assert set(made.stem) <= set("0123456789abcdef")
    assert made.read_bytes() == b"some picture"
    assert keep_photo(tmp_path / "studio", upload, name) == made


def test_uploads_that_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnreadableImageError, match=r"me\.png cannot be read .*drop it again"):
        keep_photo(tmp_path, tmp_path / "absent", "me.png")
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(UnreadableImageError, match="is empty"):
        keep_photo(tmp_path, tmp_path / "empty", "me.png")
    monkeypatch.setattr(face, "MAX_UPLOAD", 10)
    (tmp_path / "large").write_bytes(b"x" * 11)
    with pytest.raises(UnreadableImageError, match=r"has 0 MB, more than 0; make it smaller"):
        keep_photo(tmp_path, tmp_path / "large", "me.png")
    assert not (tmp_path / "photos").exists()


def png(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def test_pictures_that_are_no_faces(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_bytes(b"this is no picture")
    with pytest.raises(UnreadableImageError, match="cannot be read as an image"):
        intake(tmp_path / "text.png")
    with pytest.raises(UnreadableImageError, match="check the path"):
        intake(tmp_path / "absent.png")
    grey = png(tmp_path / "grey.png", np.full((200, 200, 3), 120, np.uint8))
    with pytest.raises(NoFaceError, match=r"grey\.png: no face"):
        intake(grey)
    header = bytearray(png(tmp_path / "huge.png", np.zeros((4, 4, 3), np.uint8)).read_bytes())
    header[16:24] = (60_000).to_bytes(4, "big") * 2  # 3.6 billion pixels, stated in the header
    (tmp_path / "huge.png").write_bytes(header)
    with pytest.raises(UnreadableImageError, match="60000x60000 pixels"):
        intake(tmp_path / "huge.png")
    (tmp_path / "film.mp4").write_bytes(b"film")
    with pytest.raises(UnreadableImageError, match="a video; save one frame"):
        intake(tmp_path / "film.mp4")


def test_intake_of_one_face_and_of_two(photo: Path, tmp_path: Path) -> None:
    seen = intake(photo)
    assert (seen.faces, seen.usable, seen.which) == (1, True, "largest")
    assert seen.sentence == "Good: neutral, frontal and whole."
    assert {check.name for check in seen.checks} >= {"size", "roll", "yaw", "pitch", "eyes", "mouth", "visible"}
    assert all(check.kept for check in seen.checks)
    one = np.array(Image.open(photo).convert("RGB"))
    smaller = np.full_like(one, 128)
    smaller[16:144, 16:144] = np.array(Image.fromarray(one).resize((128, 128)))
    both = intake(png(tmp_path / "both.png", np.concatenate([smaller, one], 1)), "2")
    assert both.faces == 2
    assert both.sentence.startswith("2 faces; the one numbered 2 is taken")
    assert len(both.tiles) == 2
    with pytest.raises(NoFaceError, match="2 faces"):
        intake(tmp_path / "both.png", "3")
    with pytest.raises(ConfigError, match="nose"):
        intake(tmp_path / "both.png", "nose")


def test_a_bad_picture_is_told_and_taken_anyway_if_asked(photo: Path, tmp_path: Path, desk: FaceDesk) -> None:
    small = Image.open(photo).convert("RGB").resize((56, 56))
    path = png(tmp_path / "small.png", np.pad(np.array(small), ((60, 60), (60, 60), (0, 0)), mode="edge"))
    seen = intake(path)
    assert not seen.usable
    assert seen.sentence.startswith("Not usable as it is: ")
    assert [check.name for check in seen.checks if not check.kept] == ["size"]
    wish = Wish(photo=path, aus="12=0.3", size=64, fps=50)
    with pytest.raises(NoFaceError, match="size=60"):
        desk.apex(wish)
    assert intake(path, anyway=True).usable
    taken = replace(wish, anyway=True)
    assert desk.apex(taken).apex.shape == (64, 64, 3)
    assert "--face-limits" in taken.command("out")


def test_a_smiling_photo_is_usable_and_said_so(tmp_path: Path) -> None:
    seen = intake(png(tmp_path / "astronaut.png", data.astronaut()))
    assert seen.usable
    assert "not neutral" in seen.sentence
    assert "expression" in {check.name for check in seen.checks if not check.kept}


# ---------------------------------------------------------------- wishes


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"aus": ""}, "names no AU"), ({"aus": "99=1"}, "AU 99 is not in the vocabulary"),
        ({"aus": "12=B,15=B"}, "exclude"), ({"offset": 30.0}, "from onset to offset are 30 ms"),
        ({"offset": 600.0}, "600 ms"), ({"onset": 400.0}, "-80 ms"), ({"apex": 10.0}, "keep it between 10 and 90 %"),
        ({"apex": 320.0}, "100 % between"), ({"hold": 300.0}, "at most half of the clip's 320 ms"),
        ({"hold": -1.0}, "held for -1 ms"), ({"lag": 200.0}, "lag"),
        ({"decay": "linear"}, "decay 'linear'"), ({"model": "motion_gun"}, "'motion_gun' is unknown"),
        ({"size": 8}, "size=8"), ({"which": "nose"}, "nose"), ({"fps": 0.0}, "fps=0"),
        # lowered: what cannot be read from a picture, what is no number, and what this face does not show
        ({"aus": "4=-0.2"}, "how much of AU 4 an onset shows cannot be read from one picture"),
        ({"aus": "5=-0.1"}, "of 12, 25, 26, 27, 43, 45 it can"), ({"aus": "12=-1.5"}, "-1.5 in '12=-1.5'"),
        ({"aus": "12=-B"}, "neither a letter A-E nor a number"), ({"aus": "12=--0.2"}, "neither a letter"),
        ({"aus": "L25=-0.2"}, "AU 25 (lips part) has no sides"),
        ({"aus": "12=-0.2"}, "the left corner of this mouth shows no smile"),
        ({"aus": "4=0.3,R12=-0.01"}, "the right corner of this mouth shows no smile"),
        *(({"aus": f"{code}=-0.3"}, "the lips of this onset are closed") for code in (25, 26, 27)),
        *(({"aus": f"L{code}=-0.3"}, f"AU {code} cannot be lowered: the left eye is open") for code in (43, 45)),
        ({"aus": "12=-0.2", "model": "motion_gan"}, "take an onset that smiles"),
    ],
)  # fmt: skip
def test_wishes_that_cannot_be(change: dict[str, Any], says: str, wish: Wish, desk: FaceDesk) -> None:
    with pytest.raises(MesynthError) as error:
        desk.apex(replace(wish, **change))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def smiling(studio: Path) -> Path:
    """Eyes open, a smile that shows teeth."""
    return png(studio / "smiling.png", data.astronaut())


def test_a_face_says_how_far_its_aus_may_be_lowered(photo: Path, smiling: Path) -> None:
    assert intake(photo).lowest == dict.fromkeys(LOWERABLE, (0.0, 0.0))
    found = intake(smiling).lowest
    assert -1 <= max(found[12]) < -0.25  # SMILE_DOUBT
    assert found[25][0] == found[25][1] < 0
    assert found[43] == found[45] == (0.0, 0.0)


def test_what_is_lowered_is_what_may_be_lowered(smiling: Path, desk: FaceDesk) -> None:
    left, right = intake(smiling).lowest[12]
    wish = Wish(photo=smiling, aus=f"L12={left},R12={right}", size=64, fps=50)
    whole = desk.apex(wish)
    assert not any("AU 12" in text for text in whole.warnings)
    assert whole.largest > 0.3
    more = desk.apex(replace(wish, aus="12=-1"))
    assert any("AU 12 is lowered by" in text for text in more.warnings)
    assert np.abs(more.apex.astype(int) - whole.apex).mean() < 0.1  # cut to what there is
    with pytest.raises(MesynthError, match="the left eye is open"):
        desk.apex(replace(wish, aus="L43=-0.1"))


@pytest.mark.parametrize(
    "change",
    [
        {"aus": "4=0.2,12=-0.3,25=-0.4", "smiling": True},
        {"onset": 40.0, "apex": 120.0, "offset": 360.0, "hold": 32.0, "decay": "exponential", "lag": 10.0, "seed": 7,
         "noise": 1.5, "head_motion": 1.0, "blink": 1.0, "style": 0.5, "which": "1", "size": 72},
        {"model": "landmark-mean", "aus": "1=0.2,L2=0.31,26=0.3", "anyway": True},
    ],
)  # fmt: skip
def test_the_command_and_the_lines_make_the_bytes_that_are_shown(
    change: dict[str, Any], wish: Wish, desk: FaceDesk, smiling: Path, tmp_path: Path
) -> None:
    if change.pop("smiling", False):
        change["photo"] = smiling
    wish = replace(wish, **change)
    seen = desk.clip(wish)
    assert seen.frames is not None
    words = shlex.split(wish.command(tmp_path / "cli"))
    assert words[:2] == ["mesynth", "generate"]
    done = CliRunner().invoke(main, words[1:])
    assert done.exit_code == 0, done.output
    exec(compile(wish.python(tmp_path / "python"), "shown", "exec"), {})
    for name in ("cli", "python"):
        made = Manifest.read(tmp_path / name)
        row = made.row(0)
        assert np.array_equal(read_frames(made.root, row), seen.frames)
        assert row.apex_index == seen.apex_index
        assert float(np.hypot(*read_flow(made.root, row)).max()) == pytest.approx(seen.largest)
    hashes = {Manifest.read(tmp_path / name).hash() for name in ("cli", "python")}
    assert len(hashes) == 1


def test_the_apex_at_once_is_the_clips_apex(wish: Wish, desk: FaceDesk) -> None:
    quick, whole = desk.apex(wish), desk.clip(wish)
    assert quick.frames is None
    assert np.array_equal(quick.apex, whole.apex)
    assert np.array_equal(quick.onset, whole.onset)
    assert np.array_equal(quick.flow, whole.flow)
    more = desk.apex(replace(wish, aus="12=0.8,L4=0.2"))
    assert more.largest > quick.largest
    assert np.abs(more.apex.astype(int) - quick.apex).max() > 8
    assert np.abs(whole.difference.astype(int) - 128).max() > 20


def test_saved_clips_are_folders_of_generate(wish: Wish, desk: FaceDesk) -> None:
    out = desk.save(wish)
    assert out.parent == desk.folder / "clips"
    assert desk.save(wish) == out  # once more changes nothing
    assert (out / "clips" / "syn0000000" / "clip.mp4").is_file()
    assert desk.out_of(replace(wish, seed=1)) != out
    assert desk.out_of(wish, "my smile").name == "my smile"
    for name in ("../up", "a/b", "", ".hidden", "x" * 80, "a\nb"):
        if name:
            with pytest.raises(ConfigError, match="no name for a folder"):
                desk.out_of(wish, name)


def test_where_nothing_can_be_written(wish: Wish, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    with pytest.raises((MesynthError, OSError)):
        FaceDesk(tmp_path / "file").apex(wish)


# ---------------------------------------------------------------- words


def test_presets_are_requests_that_generators_take(wish: Wish, desk: FaceDesk) -> None:
    for emotion in PUBLISHED:
        drawn = {face.preset(emotion, turn) for turn in range(6)}
        assert len(drawn) > 1  # drawing again changes something
        for request in drawn:
            assert 0 < parse_request(request).intensity.max() <= 0.75
            assert "L" not in request
    assert desk.apex(replace(wish, aus=face.preset("disgust"))).largest > 0.1
    with pytest.raises(ConfigError, match="emotion 'boredom' has no table"):
        face.preset("boredom")


def test_letters_are_the_nearest_weights() -> None:
    told = {
        0: "",
        0.01: "A",
        0.17: "A",
        0.18: "B",
        0.37: "B",
        0.38: "C",
        0.62: "C",
        0.63: "D",
        0.87: "D",
        0.88: "E",
        1: "E",
    }
    assert {value: letter(value) for value in told} == told
    assert {value: letter(-value) for value in told if value} == {value: f"-{told[value]}" for value in told if value}


def test_models_are_generators_of_frames() -> None:
    names = [name for _, name in face.models()]
    assert names[0] == "motion-prior"
    assert {"landmark-mean", "motion_gan", "motion_diffusion_fast"} <= set(names)


def test_the_curve_is_the_profile(wish: Wish) -> None:
    points = face.curve(replace(wish, onset=50.0, apex=150.0, offset=350.0))
    assert points[0].tolist() == [50, 0]
    assert points[-1].tolist() == [350, 0]
    assert points[points[:, 1].argmax(), 0] == pytest.approx(150, abs=3)
