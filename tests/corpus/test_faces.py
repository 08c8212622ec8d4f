"""Folders of pictures as people have them: what is taken, what is left out and why, all of it in one pass."""

from __future__ import annotations

import csv
import json
import math
import os
import socket
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from skimage.data import astronaut

from mesynth.api import generate as api_generate
from mesynth.cli import main
from mesynth.core.errors import ConfigError, DatasetLayoutError, MesynthError, NoFaceError, UnreadableImageError
from mesynth.core.facs import AU_CODES, AU_INDEX
from mesynth.corpus.faces import (
    Examination,
    choose_faces,
    examine_planned,
    find_faces,
    prepare_faces,
    skipped_faces,
)
from mesynth.corpus.plan import StoredPlan
from mesynth.datasets.rendered import render_faces
from mesynth.head import Subject
from mesynth.preprocess import landmarks
from mesynth.preprocess.face_quality import FaceLimits
from mesynth.store import assets
from mesynth.store.manifest import Manifest
from mesynth.store.videos import read_image

SIZE = 160


@lru_cache(None)
def person(seed: int, yaw: float = 0, **aus: float) -> np.ndarray:
    au = np.zeros((1, len(AU_CODES), 2), np.float32)
    for name, value in aus.items():
        au[0, AU_INDEX[int(name[2:])]] = value
    pose = np.array([[math.radians(yaw), 0, 0, 0, 0, 0]])
    return np.asarray(Subject(seed, SIZE).render(au, pose)[0])


def save(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))
    return path


def two(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Two people side by side, the second at three quarters."""
    small = cv2.resize(second, (3 * SIZE // 4, 3 * SIZE // 4), interpolation=cv2.INTER_AREA)
    border = SIZE // 8
    return np.concatenate([first, cv2.copyMakeBorder(small, border, border, 0, 0, cv2.BORDER_REPLICATE)], 1)


def masked(image: np.ndarray) -> np.ndarray:
    """A white cloth over nose and mouth."""
    out = image.copy()
    out[SIZE // 2 + 5 : SIZE - 10, 25 : SIZE - 25] = 240
    return out


BAD: dict[str, tuple[str, Callable[[], np.ndarray]]] = {
    "upside.png": ("upside down", lambda: np.ascontiguousarray(person(500)[::-1, ::-1])),
    "side.png": ("tilted", lambda: np.ascontiguousarray(np.rot90(person(501)))),
    "closed.png": ("eyes closed", lambda: person(500, au43=1)),
    "open.png": ("mouth open", lambda: person(501, au27=1)),
    "smile.png": ("not neutral (mouthSmile", lambda: person(502, au12=1)),
    "turned.png": ("turned to the side", lambda: person(500, yaw=45)),
    "tiny.png": ("tiny", lambda: cv2.resize(person(502), (48, 48), interpolation=cv2.INTER_AREA)),
    "cut.png": ("cut off", lambda: person(500)[:, 60:].copy()),
    "mask.png": ("covered (", lambda: masked(person(501))),
    "wall.png": ("no face found", lambda: np.full((90, 70, 3), 127, np.uint8)),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three good faces among all that a folder of photos collects."""
    root = tmp_path_factory.mktemp("folder") / "photos"
    for k, name in enumerate(("a.png", "b.jpg", "more/c.bmp")):
        save(root / name, person(500 + k))
    for name, (_, image) in BAD.items():
        save(root / "bad" / name, image())
    jpeg = (root / "b.jpg").read_bytes()
    for name, data in {
        "zero.png": b"", "text.jpg": b"hello", "cut.jpg": jpeg[: len(jpeg) // 2], "x.cr2": b"raw", "v.mp4": b"film",
        "._a.png": b"\0\5\x16\7", "p.heic": b"\0\0\0\x18ftypheic" + bytes(32),
    }.items():  # fmt: skip
        (root / name).write_bytes(data)
    save(root / "twice.png", person(500))
    save(root / "twice.jpg", person(501))
    save(root / "x.png" / "inside.png", person(502))  # a folder that is called like a picture
    (root / "readme.txt").write_text("not a picture, and not meant as one")
    (root / "gone.png").symlink_to("nowhere")
    return root


@pytest.fixture(scope="module")
def examined(folder: Path) -> Examination:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("sys").modules, "pillow_heif", None)
        return choose_faces(folder)


def test_good_faces_are_taken_in_order(examined: Examination) -> None:
    assert [face.subject for face in examined.taken] == ["a", "b", "more-c", "x.png-inside"]
    assert all(face.landmarks is not None and not face.warnings for face in examined.taken)


def test_every_other_file_is_named_with_its_reason(examined: Examination) -> None:
    reasons = examined.reasons
    for name, (word, _) in BAD.items():
        assert any(word in reason for reason in reasons.pop(f"bad/{name}")), name
    said = {name: reason for name, (reason,) in reasons.items()}
    for name, word in {
        "zero.png": "it is empty", "text.jpg": "cannot be read as an image", "cut.jpg": "truncated",
        "x.cr2": "a .cr2 file", "v.mp4": "a video", "._a.png": "a hidden file", "p.heic": "pillow-heif",
        "gone.png": "leads nowhere", "twice.png": "as twice.jpg", "twice.jpg": "as twice.png",
    }.items():  # fmt: skip
        assert word in said.pop(name), name
    assert said == {}


def test_values_and_limits_are_listed(examined: Examination, tmp_path: Path) -> None:
    examined.write(tmp_path)
    lines = list(csv.DictReader((tmp_path / "skipped.csv").open()))
    assert list(lines[0]) == ["file", "reason", "value", "limit"]
    assert {line["file"] for line in lines} == set(examined.reasons)
    limits = vars(FaceLimits())
    for name, measure in {"bad/closed.png": "eyes", "bad/tiny.png": "size", "bad/upside.png": "roll"}.items():
        line = next(line for line in lines if line["file"] == name and float(line["limit"]) == limits[measure])
        above = float(line["value"]) > limits[measure]
        assert above == (measure == "roll")
    measured = {line["file"]: line for line in csv.DictReader((tmp_path / "measured.csv").open())}
    assert float(measured["limit"]["yaw"]) == limits["yaw"]
    assert measured["a.png"]["taken"] == "yes"
    assert float(measured["bad/turned.png"]["yaw"]) > 35 > limits["yaw"] > float(measured["a.png"]["yaw"])
    assert skipped_faces(tmp_path) == examined.reasons
    sheet = read_image(tmp_path / "sheet.png")
    green, red = ((sheet == colour).all(-1).any() for colour in ((40, 150, 60), (190, 40, 40)))
    assert green
    assert red


def test_limits_decide(folder: Path) -> None:
    only = choose_faces(folder / "bad", limits=FaceLimits.parse("eyes=off,expression=off"))
    assert [face.subject for face in only.taken] == ["closed", "smile"]
    with pytest.raises(NoFaceError) as error:
        choose_faces(folder / "bad" / "tiny.png")
    assert "tiny: 3" in str(error.value)
    assert "limit size=60" in str(error.value)
    assert choose_faces(folder / "bad" / "tiny.png", limits=FaceLimits(size=20)).taken[0].subject == "tiny"
    turned = choose_faces(folder / "bad" / "upside.png", limits=FaceLimits.parse("roll=off")).taken[0]
    upright = choose_faces(folder / "a.png").taken[0]
    assert turned.landmarks is not None
    assert upright.landmarks is not None
    assert (
        np.abs(SIZE - 1 - turned.landmarks - upright.landmarks).max() < 3
    )  # found on the head that stands on its head


def test_a_picture_named_by_itself_may_smile_with_a_warning(folder: Path) -> None:
    smiling = choose_faces(folder / "bad" / "smile.png")
    assert "not neutral" in smiling.taken[0].warnings[0]
    with pytest.raises(NoFaceError, match="not neutral"):
        choose_faces(folder / "bad" / "smile.png", limits=FaceLimits())
    for name in ("upside", "closed", "tiny", "cut", "mask", "turned", "wall"):
        with pytest.raises(NoFaceError, match=name):
            choose_faces(folder / "bad" / f"{name}.png")


def test_nothing_usable_names_everything_at_once(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(NoFaceError) as error:
        choose_faces(folder / "bad")
    assert all(name in str(error.value) for name in BAD)
    assert "\n" not in str(error.value)
    for k in range(30):
        (tmp_path / f"{k:02d}.png").write_bytes(b"no")
    with pytest.raises(UnreadableImageError, match=r"11\.png: .*; and 18 more$"):
        choose_faces(tmp_path)


def test_a_refusal_names_the_limits_that_take_it(tmp_path: Path) -> None:
    path = save(tmp_path / "smile.png", astronaut())
    with pytest.raises(NoFaceError, match=r"mouth=0\.15; .*; to take such faces: --face-limits ([a-z=,]+)$") as error:
        choose_faces(tmp_path)
    limits = FaceLimits.parse(str(error.value).rpartition(" ")[2])
    assert [face.path for face in choose_faces(tmp_path, limits=limits).taken] == [path]


def test_the_same_name_twice_names_both(tmp_path: Path) -> None:
    save(tmp_path / "a.png", person(500))
    save(tmp_path / "a.jpg", person(501))
    save(tmp_path / "b" / "c.png", person(500))
    save(tmp_path / "b-c.png", person(501))
    for look in (choose_faces, find_faces):
        with pytest.raises(MesynthError) as error:
            look(tmp_path)
        assert all(name in str(error.value) for name in ("a.png", "a.jpg", "b/c.png", "b-c.png"))


def test_only_rendered_pictures_are_called_rendered(tmp_path: Path) -> None:
    """A photo beside rendered faces shows a person, under a photo's terms; rendered ones below photos stay theirs."""
    rendered = render_faces(tmp_path / "all" / "made", subjects=1, size=64)
    (made,) = (path.name for path in rendered.glob("*.png"))
    for place in (rendered, rendered.parent):
        save(place / "ann.png", person(0))
    kinds = {face.path.relative_to(tmp_path / "all").as_posix(): face for face in find_faces(tmp_path / "all")}
    assert {name: face.database for name, face in kinds.items()} == {
        "ann.png": "photo", "made/ann.png": "photo", f"made/{made}": "rendered"
    }  # fmt: skip
    assert kinds["made/ann.png"].licence == "as the photo"
    assert kinds[f"made/{made}"].licence.startswith("CC0")
    for name, database in (("ann.png", "photo"), (made, "rendered")):
        assert [face.database for face in find_faces(rendered / name)] == [database]
    assert {face.database for face in find_faces(rendered)} == {"photo", "rendered"}


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p.png")
    with pytest.raises(DatasetLayoutError, match=r"p\.png is neither a file nor a folder"):
        choose_faces(tmp_path / "p.png")


def test_names_and_files_that_are_none(tmp_path: Path) -> None:
    """Names of any language, names that are none, pipes and sockets: nothing hangs, nothing is dropped in silence."""
    save(tmp_path / "größe 李.png", person(500))
    (tmp_path / "photo").write_bytes(save(tmp_path / "x" / "x.jpg", person(501)).read_bytes())
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link").symlink_to(tmp_path / "x", target_is_directory=True)
    with open(os.fsencode(tmp_path) + b"/\xff.png", "wb"):
        pass
    server = socket.socket(socket.AF_UNIX)
    here = os.getcwd()
    os.chdir(tmp_path)  # the path of a socket is short
    try:
        server.bind("s.png")
        examined = choose_faces(tmp_path)
    finally:
        os.chdir(here)
        server.close()
    assert {face.subject for face in examined.taken} == {"größe 李", "photo", "x-x"}
    assert {name: reason[0].split(";")[0] for name, reason in examined.reasons.items()} == {
        "pipe.png": "no regular file", "s.png": "no regular file", "\\udcff.png": "its name is not UTF-8",
        "link": "a link to a folder, which is not followed",
    }  # fmt: skip
    examined.write(tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("v.mp4", b"film", "a video; save one frame"), ("r.nef", b"raw", "a .nef file, which is not read"),
        ("t.txt", b"text", "cannot be read as an image"), ("z.png", b"", "it is empty"),
    ],
)  # fmt: skip
def test_one_file_that_is_no_picture(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UnreadableImageError) as error:
        choose_faces(tmp_path / name)
    assert name in str(error.value)
    assert says in str(error.value)


def test_which_of_two_faces(tmp_path: Path) -> None:
    path = save(tmp_path / "two.png", two(person(500), person(501)))
    largest = choose_faces(path)
    assert [f.subject for f in largest.taken] == ["two"]
    assert largest.taken[0].warnings == ("face: 2 faces: taken was the largest, 1 from the left",)
    both = choose_faces(path, face="all").taken
    assert [f.subject for f in both] == ["two-face1", "two-face2"]
    assert len({f.identity for f in (*largest.taken, *both)}) == 3
    second = choose_faces(path, face="2").taken[0]
    for face in (both[1], second):
        assert face.landmarks is not None
        assert face.landmarks[:, 0].min() > SIZE - 10
    faces = prepare_faces(both, tmp_path / "out", 64, landmarker="mediapipe")
    assert list(faces.subject_keys()) == ["photo/two-face1", "photo/two-face2"]
    with pytest.raises(NoFaceError, match="shows 2 faces and no face 3"):
        choose_faces(path, face="3")
    for face in ("0", "left", "-1", ""):
        with pytest.raises(ConfigError, match="choose largest, all, or a number from 1"):
            choose_faces(path, face=face)


def _cli(*args: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in args])


def test_generate_goes_on_with_the_good_ones(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    args = ["generate", "--faces", folder, "--au", "12=B", "--count", 4, "--fps", 50, "--size", 48, "--preview", 0]
    made = _cli(*args, "--out", out, "--json")
    assert made.exit_code == 0, made.output
    printed = json.loads(made.stdout)
    assert (printed["faces"], printed["left out"]) == (4, 20)
    assert "20 pictures were left out" in made.stderr
    assert "skipped.csv" in made.stderr
    assert sorted(Manifest.read(out).column("subject")) == ["a", "b", "more-c", "x.png-inside"]  # each once
    assert len(skipped_faces(out / "faces")) == 20
    assert read_image(out / "faces" / "sheet.png").shape[0] > 300
    again = _cli(*args, "--out", out, "--json")
    assert (again.exit_code, json.loads(again.stdout)["hash"]) == (0, printed["hash"])
    for name, word in {"skipped.csv": "damaged"}.items():
        (out / "faces" / name).write_text("file\n")
        with pytest.raises(MesynthError, match=word):
            skipped_faces(out / "faces")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--face", "third"], "face 'third' is unknown"),
        (["--face", "2"], "shows 1 face and no face 2"),
        (["--face-limits", "yow=3"], "face limit 'yow=3' is unknown"),
        (["--face-limits", "size=900"], "limit size=900"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(folder: Path, tmp_path: Path, args: list[str], says: str) -> None:
    result = _cli("generate", "--faces", folder / "a.png", "--au", "12=B", *args, "--out", tmp_path / "out")
    assert result.exit_code == 2, result.output
    assert [says in line for line in result.output.splitlines() if line.startswith("Error")] == [True]
    assert not (tmp_path / "out").exists()
    flow = _cli("generate", "--kind", "flow", "--emotion", "fear", args[0], args[1], "--out", tmp_path / "flow")
    assert flow.exit_code == 2
    assert f"{args[0]} has no effect" in flow.output


def test_a_plan_takes_the_good_ones(folder: Path, tmp_path: Path) -> None:
    made = _cli("plan", "corpus/three_classes", "rows.count=6", "--faces", folder, "--out", tmp_path / "plan")
    assert made.exit_code == 0, made.output
    assert "20 pictures were left out" in made.stderr
    stored = StoredPlan.read(tmp_path / "plan")
    assert [face.subject for face in stored.faces] == ["a", "b", "more-c", "x.png-inside"]
    assert len(skipped_faces(tmp_path / "plan")) == 20
    examined = examine_planned(stored.find(), stored.faces_folder())
    assert examined is not None
    assert len(examined.taken) == 4


def test_planned_faces_that_cannot_be_found_are_named_together(folder: Path) -> None:
    sources = [face for face in find_faces(folder) if face.subject in ("a", "zero", "text", "bad-wall", "bad-closed")]
    with pytest.raises(NoFaceError) as error:
        examine_planned(sources, folder)
    assert all(name in str(error.value) for name in ("zero.png", "text.jpg", "bad/wall.png", "plan anew"))
    assert "closed" not in str(error.value)  # a plan has decided that


def test_without_a_landmarker(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "find", lambda asset: None)
    monkeypatch.setattr(landmarks, "_missing_weights", lambda: ["x"])
    refused = _cli("generate", "--faces", folder, "--au", "12=B", "--out", tmp_path / "out")
    assert refused.exit_code == 2
    assert "no landmark weights on this machine" in refused.output
    assert not (tmp_path / "out").exists()
    planned = _cli("plan", "corpus/three_classes", "rows.count=6", "--faces", folder / "more", "--out", tmp_path / "p")
    assert planned.exit_code == 0, planned.output


def test_the_library_takes_the_same_settings(folder: Path, tmp_path: Path) -> None:
    made = api_generate(
        folder / "bad", aus="12=B", fps=50, size=48, preview=0, face="largest",
        face_limits="eyes=off,expression=off", count=2, out=tmp_path / "out",
    )  # fmt: skip
    assert sorted(made.column("subject")) == ["closed", "smile"]
    with pytest.raises(DatasetLayoutError, match="does not exist"):
        api_generate(tmp_path / "none", aus="12=B", out=tmp_path / "b")


def test_one_picture_under_two_names_is_told(folder: Path, tmp_path: Path) -> None:
    for name in ("a", "b", "copy of a"):
        (tmp_path / f"{name}.png").write_bytes((folder / ("b.jpg" if name == "b" else "a.png")).read_bytes())
    notes = {entry.file: entry.note for entry in choose_faces(tmp_path).entries}
    assert "the same picture as a.png" in notes.pop("copy of a.png")
    assert not any("same picture" in note for note in notes.values())


def test_faces_without_frames_or_a_name_leave_nothing(folder: Path, tmp_path: Path) -> None:
    assert (
        _cli("generate", "--kind", "flow", "--emotion", "fear", "--count", 1, "--out", tmp_path / "flow").exit_code == 0
    )
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png"))
    odd.write_bytes((folder / "a.png").read_bytes())
    for source, says in (
        (tmp_path / "flow", "has no frames in this manifest"),
        (odd, "its name is not UTF-8; rename it"),
    ):
        result = _cli("generate", "--faces", source, "--emotion", "fear", "--count", 1, "--out", tmp_path / "out")
        assert result.exit_code == 2
        assert says in result.stderr
        assert not (tmp_path / "out").exists()
