"""Blendshape heads of others: any rig with ARKit or AU shapes and 68 landmarks, read from a file and rendered.

The file is documented in docs/compare.md. It is not trusted: nothing is unpickled, sizes are limited before anything
is decompressed, and every array is checked. Such a head is rendered by the packaged head's kernels, in its own
colours or, where it has none, in one tone with brows, lips and eyes.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
import zlib
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mesynth.core.errors import MesynthError
from mesynth.core.facs import AU_CODES, AU_INDEX, MIDLINE, SIDES
from mesynth.head.identity import Identity, Skin, sample_identity
from mesynth.head.model import (
    AU_UNITS,
    EYE,
    MOUTH,
    SIDE_SOFTNESS,
    SKIN,
    TEETH,
    TONGUE,
    HeadModel,
    au_basis,
    eye_frame,
    rotation,
)
from mesynth.head.render import (
    MAX_SIZE,
    HeadFlow,
    check_au,
    check_pose,
    face_region,
    head_pose,
    pack_texture,
    placements,
)
from mesynth.store.shards import npy_array

if TYPE_CHECKING:
    from mesynth.head.raster import Scene

MAX_VERTICES, MAX_FACES, MAX_SHAPES, MAX_PEOPLE = 200_000, 400_000, 1_000, 10_000
MAX_BYTES = 1 << 30
"""Of all arrays together, unpacked."""
_CHIN_AT = 0.97
"""Height of the chin in the picture, share of its side from the top."""
_IRIS_RADIUS = 0.097
_SEEN_TURNS = [(yaw, pitch) for yaw in (-50, -25, 0, 25, 50) for pitch in (-30, 0, 30)]
_UNITS = {name.removesuffix("*").lower(): name.removesuffix("*") for units in AU_UNITS.values() for name in units}
_AU_NAME = re.compile(r"au[ _-]?0*(\d{1,2})[ _-]?(l|r|left|right)?", re.IGNORECASE)
_SIDED = re.compile(r"(.+?)(?:[ _.-]?(left|right)|[ _.-]([lr]))", re.IGNORECASE)

# Materials by what their names hold, the first that matches; anything else is skin. Lashes are cards, fluid, tear duct
# and shadow are shells: mostly transparent in their makers' renderers, and opaque they would hide the eye.
_HAIR, _SHELL = -1, -2
_MATERIALS: tuple[tuple[str, int], ...] = (
    (r"lash|occlusion|lacrimal|tear|fluid|eyeblend|shadow", _SHELL),
    (r"brow|hair|beard|moustache", _HAIR),
    (r"iris|sclera|cornea|pupil|eyeball|\beyes?\b|eye_?(l|r|left|right)\b", EYE),
    (r"teeth|tooth", TEETH),
    (r"tongue|gum", TONGUE),
    (r"mouth_?(inner|inside|cavity|socket|bag)|oral", MOUTH),
)
# What arrays may also be called.
_ALSO = {
    "vertices": ("neutral",),
    "lm68": ("landmarks",),
    "colours": ("colors",),
    "mat_colours": ("mat_colors",),
}
_SCALED = ("vertices", "expr", "ident", "identities")
_KNOWN = {
    "vertices", "faces", "lm68", "expr", "expr_names", "ident", "identities", "mat", "mat_names", "region", "iris",
    "uv", "colours", "mat_colours", *(f"{name}_scale" for name in _SCALED),
}  # fmt: skip


# ---------------------------------------------------------------- reading


class _Archive:
    """Arrays of an npz by name, each checked as it is taken."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.hash = ""
        self._data: dict[str, bytes] = {}
        if not path.is_file():
            raise MesynthError(f"{path} is no file; give an npz of a blendshape head (docs/compare.md)")
        try:
            with zipfile.ZipFile(path) as archive:
                found = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
                wanted = [name for name in found if self._known(name)]
                total = sum(found[name].file_size for name in wanted)
                if total > MAX_BYTES:
                    raise MesynthError(
                        f"{path} holds {total:,} bytes of arrays, more than {MAX_BYTES:,}; leave out shapes and modes "
                        "that no AU needs, or store float16"
                    )
                self._data = {name: archive.read(found[name]) for name in wanted}
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, OSError, RuntimeError, EOFError) as error:
            raise MesynthError(
                f"{path} is no readable npz ({' '.join(str(error).split())}); write it with numpy.savez_compressed"
            ) from None
        digest = hashlib.sha256()
        for name in sorted(self._data):
            digest.update(name.encode() + b"\0" + self._data[name])
        self.hash = digest.hexdigest()

    @staticmethod
    def _known(name: str) -> bool:
        return name in _KNOWN or any(name in others for others in _ALSO.values())

    def fail(self, name: str, what: str) -> MesynthError:
        """The error about one array."""
        return MesynthError(f"{self.path}: {name} {what}")

    def raw(self, name: str) -> np.ndarray | None:
        """The array of that name or of one that means the same; None without one."""
        present = [known for known in (name, *_ALSO.get(name, ())) if known in self._data]
        if len(present) > 1:
            raise self.fail(" and ".join(present), "mean the same; keep one of them")
        if not present:
            return None
        try:
            return npy_array(self._data[present[0]])
        except MesynthError as error:
            why = str(error).removesuffix("; make the corpus anew")
            raise self.fail(present[0], f"cannot be read ({why}); write it with numpy.savez_compressed") from None

    def need(self, name: str, what: str) -> np.ndarray:
        """:meth:`raw`, or an error that says what is missing."""
        found = self.raw(name)
        if found is None:
            also = "".join(f" (or '{other}')" for other in _ALSO.get(name, ()))
            raise MesynthError(f"{self.path} has no array '{name}'{also}; add {what} (docs/compare.md)")
        return found

    def numbers(
        self, array: np.ndarray, name: str, shape: tuple[int | None, ...], rows: list[int] | None = None
    ) -> np.ndarray:
        """``array`` with the file's scale, float32, of that shape (None: any) and finite; ``rows``: these alone."""
        self.shaped(array, name, shape)
        count = len(array)
        array = array if rows is None else array[rows]
        if 4 * array.size > MAX_BYTES:
            raise self.fail(name, f"of shape {array.shape} needs {4 * array.size:,} bytes, more than {MAX_BYTES:,}")
        if array.dtype.kind not in "fiu":
            raise self.fail(name, f"is of type {array.dtype}; give numbers")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            at = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
            raise self.fail(name, f"holds NaN or infinity, first at {at}; give finite numbers")
        scale = self.raw(f"{name}_scale") if name in _SCALED else None
        if scale is None:
            if name in _SCALED and array.dtype.kind in "iu" and array.dtype.itemsize < 4:
                raise self.fail(name, f"is {array.dtype} without {name}_scale; add the factor that makes it lengths")
            return array.astype(np.float32)
        if scale.dtype.kind not in "fiu" or not np.isfinite(scale).all():
            raise self.fail(f"{name}_scale", "holds something other than finite numbers; give factors")
        if scale.ndim == 1 and len(scale) == count:
            scale = scale.reshape(-1, *(1,) * (array.ndim - 1))
        if rows is not None and scale.ndim == array.ndim and len(scale) == count:
            scale = scale[rows]
        try:
            fits = np.broadcast_shapes(scale.shape, array.shape) == array.shape
        except ValueError:
            fits = False
        if not fits:
            raise self.fail(f"{name}_scale", f"has shape {scale.shape} and {name} {array.shape}; give one factor a row")
        return array.astype(np.float32) * scale.astype(np.float32)

    def shaped(self, array: np.ndarray, name: str, shape: tuple[int | None, ...]) -> None:
        """Raises unless the array has that shape (None: any length)."""
        if array.ndim != len(shape) or any(w is not None and w != n for w, n in zip(shape, array.shape, strict=True)):
            wanted = ", ".join("any" if n is None else str(n) for n in shape)
            raise self.fail(name, f"has shape {array.shape}; expected ({wanted})")

    def indices(self, array: np.ndarray, name: str, shape: tuple[int | None, ...], below: int, of: str) -> np.ndarray:
        """Whole numbers in [0, below)."""
        self.shaped(array, name, shape)
        if array.dtype.kind == "f" and np.isfinite(array).all() and (array == np.round(array)).all():
            array = array.astype(np.int64) if np.abs(array).max(initial=0) < 2**53 else array
        if array.dtype.kind not in "iu":
            raise self.fail(name, f"is of type {array.dtype}; give whole numbers, counted from 0")
        if array.size and (int(array.min()) < 0 or int(array.max()) >= below):
            worst = int(array.min()) if int(array.min()) < 0 else int(array.max())
            raise self.fail(name, f"holds {worst}, and there are {below} {of}, counted from 0")
        return array.astype(np.int64)

    def names(self, array: np.ndarray, name: str, count: int | None) -> list[str]:
        """Texts, one a row of something."""
        self.shaped(array, name, (count,))
        if array.dtype.kind == "S":
            array = np.char.decode(array, "utf-8", "replace")
        if array.dtype.kind != "U":
            raise self.fail(name, f"is of type {array.dtype}; give texts")
        return [str(text).strip() for text in array]


@dataclass(frozen=True, eq=False, kw_only=True)
class ForeignHead:
    """A head that somebody else made.

    ``model`` is its mean in the canonical frame; ``available`` are the AUs it has shapes for, ``missing`` says of the
    others which shapes they lack, ``unused`` names shapes that belong to no AU; ``people`` is how many different
    people it gives (0: as many as asked for); ``hash`` is of the file's arrays; ``notes`` are for its user.
    """

    name: str
    model: HeadModel
    available: tuple[int, ...]
    missing: dict[int, tuple[str, ...]]
    unused: tuple[str, ...]
    people: int
    hash: str
    notes: tuple[str, ...]
    sets: np.ndarray | None
    """[N,V,3] canonical vertices of whole people, in the mean's frame"""
    modes: np.ndarray | None
    """[I,V,3] directions, IOD, one standard deviation each"""
    colours: np.ndarray | None
    """[1,V,3] linear RGB, or [N,V,3] of each person"""
    plain: bool
    """The colours say no more than a tone."""
    hair: np.ndarray
    """[V] bool"""

    @staticmethod
    def read(path: Path | str) -> ForeignHead:
        """The head of an npz file (docs/compare.md). The file is not trusted: nothing in it is unpickled.

        Raises:
            MesynthError: no such file, or an array that is missing, damaged, of a wrong shape or out of range.

        >>> ForeignHead.read("nowhere.npz")
        Traceback (most recent call last):
        mesynth.core.errors.MesynthError: nowhere.npz is no file; give an npz of a blendshape head (docs/compare.md)
        """
        return _read(_Archive(Path(path)))

    def subject(
        self, index: int, size: int = 128, yaw: float = 0.0, pitch: float = 0.0, supersample: int = 2
    ) -> ForeignSubject:
        """Person ``index`` (from 0), rendered as :class:`mesynth.head.Subject` is; yaw and pitch in degrees.

        Raises:
            MesynthError: a person the file does not have, or an argument out of range.
        """
        return ForeignSubject(self, index, size, yaw, pitch, supersample)

    def person(self, index: int, size: int = 128, yaw: float = 0.0, pitch: float = 0.0) -> ForeignPerson:
        """Person ``index`` as one picture with its exact motion; see :meth:`subject`."""
        return ForeignPerson(self.subject(index, size, yaw, pitch))

    def vertices(self, index: int) -> tuple[np.ndarray, float]:
        """Person ``index`` at rest: [V,3] float32 in that person's own canonical frame, and their IOD in the mean's.

        Raises:
            MesynthError: a person the file does not have.
        """
        if index < 0 or int(index) != index or (self.people and index >= self.people):
            held = f"{self.people}, counted from 0" if self.people else "counted from 0"
            raise MesynthError(f"{self.name} has no person {index}; its people are {held}")
        shape = self.model.vertices
        if self.sets is not None:
            shape = self.sets[index]
        elif self.modes is not None:
            rng = np.random.default_rng(np.random.SeedSequence([int(index), len(self.modes)]))
            # The tails of many modes at once give faces that nobody has.
            drawn = np.clip(rng.normal(0.0, 1.0, len(self.modes)), -2.0, 2.0).astype(np.float32)
            shape = shape + np.tensordot(drawn, self.modes, axes=1)
        origin, iod = eye_frame(shape[self.model.landmarks].astype(np.float64))
        return np.asarray((shape - origin) / iod, np.float32), iod


def _read(file: _Archive) -> ForeignHead:
    vertices = file.need("vertices", "the neutral face, [V,3]")
    vertices = file.numbers(vertices, "vertices", (None, 3))
    n = len(vertices)
    if not 200 <= n <= MAX_VERTICES:
        raise file.fail("vertices", f"has {n} points; a head has 200 to {MAX_VERTICES:,}")
    if np.abs(vertices).max() > 1e6:
        raise file.fail("vertices", f"reaches {np.abs(vertices).max():g}; give the head in centimetres or metres")
    faces = _triangles(file, n)
    landmarks = file.indices(file.need("lm68", "68 vertex numbers"), "lm68", (68,), n, "vertices")
    vertices, faces, origin, unit, notes = _canonical(file, vertices, faces, landmarks)
    mean = vertices[landmarks]

    part, kinds, colours = _materials(file, faces, n, vertices, landmarks)
    kept = part > _SHELL
    hair = np.isin(np.arange(n), faces[part == _HAIR])
    faces, kinds = faces[kept], kinds[kept]
    vertex_eye = np.full(n, -1, np.int8)
    eyeballs = np.unique(faces[kinds == EYE])
    vertex_eye[eyeballs] = (vertices[eyeballs, 0] > 0).astype(np.int8)
    plain = colours is None or float(colours[:, ~hair & (vertex_eye < 0)].std(1).max()) < 0.02

    still: list[str] = []
    available, missing, unused, basis = _shapes(file, vertices, unit, still)
    if still:
        notes.append(f"shapes that move nothing and count as missing: {', '.join(still)}")
    sets = file.raw("identities")
    if sets is not None:
        sets = _faces_of_people(file, sets, n, origin, unit, landmarks)
    modes = file.raw("ident")
    if modes is not None and sets is None:
        modes = file.numbers(modes, "ident", (None, n, 3)) / np.float32(unit)
        _check_modes(file, modes, vertices, origin / unit)
    if colours is not None and len(colours) not in {1, len(sets) if sets is not None else 1}:
        held = len(sets) if sets is not None else 0
        raise file.fail("colours", f"are of {len(colours)} people, and identities of {held}; give one set or one each")
    if modes is not None and sets is not None:
        notes.append("identities are taken as the people; ident is not used")
        modes = None
    model = HeadModel(
        vertices=vertices, faces=faces.astype(np.int32), part=kinds, landmarks=landmarks,
        uv=np.ascontiguousarray(vertices[:, :2] * np.array([1, -1], np.float32)),
        lip=_lips(vertices, mean), lash=_lash_line(vertices, mean, vertex_eye), vertex_eye=vertex_eye,
        ear=np.zeros(n, bool), ident=np.zeros((0, n, 3), np.float16), ident_names=(), au_basis=basis,
        expression_basis=np.zeros((0, 2, n, 3), np.float32),
        origin=origin.astype(np.float32), unit=unit,
    )  # fmt: skip
    model = replace(model, part=_with_mouth(model))
    people = len(sets) if sets is not None else 0 if modes is not None and len(modes) else 1
    return ForeignHead(
        name=file.path.stem, model=model, available=available, missing=missing, unused=unused, people=people,
        hash=file.hash, notes=tuple(notes), sets=sets, modes=modes, colours=colours, plain=plain, hair=hair,
    )  # fmt: skip


def _triangles(file: _Archive, n: int) -> np.ndarray:
    faces = file.need("faces", "triangles, [F,3] vertex numbers")
    corners = 4 if faces.ndim == 2 and faces.shape[1] == 4 else 3
    faces = file.indices(faces, "faces", (None, corners), n, "vertices")
    if not 100 <= len(faces) <= MAX_FACES:
        raise file.fail("faces", f"has {len(faces)} of them; a head has 100 to {MAX_FACES:,}")
    if corners == 4:
        faces = np.concatenate([faces[:, [0, 1, 2]], faces[:, [0, 2, 3]]], axis=1).reshape(-1, 3)
    return faces


def _canonical(
    file: _Archive, vertices: np.ndarray, faces: np.ndarray, landmarks: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, list[str]]:
    """Vertices in the canonical frame, triangles counter-clockwise from outside, and the frame."""
    points = vertices[landmarks].astype(np.float64)
    origin, unit = eye_frame(points)
    spread = float(np.abs(points - points.mean(0)).max())
    if not unit > 1e-3 * spread or spread == 0:
        raise file.fail("lm68", "has both eyes (36-41, 42-47) in one place; give the vertices of the iBUG landmarks")
    canonical = ((vertices - origin) / unit).astype(np.float32)
    mean = canonical[landmarks]
    right, left = mean[36:42].mean(0), mean[42:48].mean(0)
    if not (left[0] - right[0] > 0.9 and mean[8, 1] < -0.8 and mean[30, 2] > mean[[36, 45], 2].mean()):
        raise file.fail(
            "vertices",
            f"lie so that the left eye is at x {left[0]:+.2g}, the chin at y {mean[8, 1]:+.2g} and the nose at "
            f"z {mean[30, 2] - mean[[36, 45], 2].mean():+.2g} of the eyes (inter-ocular distances); turn the head so "
            "that x points to its left, y up, z to the front, or mend lm68",
        )
    notes: list[str] = []
    corners = canonical[faces]
    towards = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])[:, 2]
    front = (np.abs(corners.mean(1)[:, :2] - [0, -0.6]) < [0.8, 0.9]).all(1) & (
        corners[..., 2].min(1) > mean[:17, 2].min()
    )
    if towards[front].sum() < 0:
        faces = faces[:, ::-1]
        notes.append("faces run clockwise seen from outside; they were turned round")
    return canonical, np.ascontiguousarray(faces), origin, unit, notes


def _materials(
    file: _Archive, faces: np.ndarray, n: int, vertices: np.ndarray, landmarks: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Of each triangle what its material is (with _HAIR, _SHELL) and the part it is drawn as; colours [V,3]."""
    count = len(faces)
    part = np.full(count, SKIN)
    mat, names, by_mat = file.raw("mat"), file.raw("mat_names"), file.raw("mat_colours")
    stored = file.raw("faces")
    split = 2 if stored is not None and stored.shape[1] == 4 else 1
    numbers = None
    if mat is not None:
        called = [] if names is None else file.names(names, "mat_names", None)
        most = 256 if names is None else len(called)
        numbers = np.tile(file.indices(mat, "mat", (count // split,), most, "materials"), split)
        for i, name in enumerate(called):
            part[numbers == i] = _material(name)
    elif by_mat is not None or names is not None:
        raise file.fail("mat", "is missing; give the material number of each triangle beside mat_names or mat_colours")
    if not (part == EYE).any():
        iris = file.raw("iris")
        if iris is not None:
            own = file.numbers(iris, "iris", (n,)) > 0
            part[own[faces].all(1)] = EYE
        part[_eyeballs(faces, vertices, vertices[landmarks])] = EYE
    colours = file.raw("colours")
    painted: np.ndarray | None = None
    if colours is not None:
        painted = _linear(file, colours if colours.ndim == 3 else colours[None], "colours", (None, n, 3))
    elif by_mat is not None and numbers is not None:
        of_mat = _linear(file, by_mat, "mat_colours", (None, 3))
        if numbers.max(initial=0) >= len(of_mat):
            raise file.fail("mat_colours", f"has {len(of_mat)} rows, and mat names material {numbers.max()}")
        painted = np.zeros((1, n, 3), np.float32)
        for k in range(3):
            painted[0, faces[:, k]] = of_mat[numbers]
    kinds = np.where(part < 0, SKIN, part).astype(np.uint8)
    return part, kinds, painted


def _material(name: str) -> int:
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower().replace(" ", "_").replace("-", "_")
    joined = plain.replace("_", "")
    for pattern, kind in _MATERIALS:
        if re.search(pattern, plain.replace("_", " ")) or re.search(pattern, joined) or re.search(pattern, plain):
            return kind
    return SKIN


def _linear(file: _Archive, colours: np.ndarray, name: str, shape: tuple[int | None, ...]) -> np.ndarray:
    whole = colours.dtype.kind in "iu"
    values = file.numbers(colours, name, shape)
    values = values / 255 if whole else values
    if len(values) and (values.min() < 0 or values.max() > 1):
        worst = values.min() if values.min() < 0 else values.max()
        raise file.fail(
            name, f"reaches {worst * (255 if whole else 1):g}; give sRGB as 0..255 whole or 0..1 real numbers"
        )
    return np.asarray(np.clip(values, 0.02, 1) ** 2.2, np.float32)


def _eyeballs(faces: np.ndarray, vertices: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """[F] bool: triangles of loose pieces that lie in an eye's opening: eyeballs without a name."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    ends = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    graph = coo_matrix((np.ones(len(ends), np.int8), (ends[:, 0], ends[:, 1])), shape=(len(vertices),) * 2)
    count, label = connected_components(graph, directed=False)
    low, high = np.full((count, 3), np.inf), np.full((count, 3), -np.inf)
    np.minimum.at(low, label, vertices)
    np.maximum.at(high, label, vertices)
    eye = np.zeros(count, bool)
    for centre in (mean[36:42].mean(0), mean[42:48].mean(0)):
        middle, span = 0.5 * (low + high), high - low
        near = (np.abs(middle[:, :2] - centre[:2]) < 0.2).all(1) & (np.abs(middle[:, 2] - centre[2]) < 0.5)
        eye |= near & (span.max(1) < 0.8) & (span[:, :2].min(1) > 0.15)
    return np.asarray(eye[label[faces[:, 0]]])


def _shapes(
    file: _Archive, vertices: np.ndarray, unit: float, still: list[str]
) -> tuple[tuple[int, ...], dict[int, tuple[str, ...]], tuple[str, ...], np.ndarray]:
    n = len(vertices)
    expr = file.need("expr", "expression shapes as displacements from the neutral face, [K,V,3]")
    file.shaped(expr, "expr", (None, n, 3))
    if not 1 <= len(expr) <= MAX_SHAPES:
        raise file.fail("expr", f"has {len(expr)} shapes; give 1 to {MAX_SHAPES:,}")
    names = file.names(file.need("expr_names", "the ARKit or AU name of each shape"), "expr_names", len(expr))
    keys = [shape_name(name) for name in names]
    used = [i for i, key in enumerate(keys) if key is not None]
    units: dict[str, np.ndarray] = {}
    whole: dict[tuple[int, str], np.ndarray] = {}
    for i, row in zip(used, file.numbers(expr, "expr", (None, n, 3), used), strict=True):
        name, key, delta = names[i], keys[i], row / np.float32(unit)
        if not np.abs(delta).max() > 1e-4:  # a place kept for a shape that was never made
            still.append(name)
            continue
        if np.abs(delta).max() > 3:
            raise file.fail(
                "expr", f"moves '{name}' by {np.abs(delta).max():.3g} inter-ocular distances; give displacements from "
                "the neutral face in the unit of vertices",
            )  # fmt: skip
        target: dict[Any, np.ndarray] = whole if isinstance(key, tuple) else units
        if key in target:
            raise file.fail("expr_names", f"holds '{name}' twice, in one spelling or two; keep one")
        target[key] = delta
    basis, missing = au_basis(vertices, units)
    left = 1.0 / (1.0 + np.exp(-vertices[:, :1] / SIDE_SOFTNESS))
    for code in {code for code, _ in whole}:
        row = AU_INDEX[code]
        sides = [whole.get((code, side)) for side in SIDES]
        both = whole.get((code, ""))
        if both is None and (sides[0] is None or sides[1] is None):
            if code in missing:
                missing[code] = (f"AU{code}_{SIDES[0] if sides[0] is None else SIDES[1]}",)
            continue
        if sides[0] is not None and sides[1] is not None:
            basis[row] = np.stack([sides[0], sides[1]])
        elif both is not None:
            basis[row] = both * left, both * (1.0 - left)
        missing.pop(code, None)
    available = tuple(code for code in AU_CODES if code not in missing)
    if not available:
        shown = ", ".join(names[:4])
        raise file.fail(
            "expr_names",
            f"gives no AU on both sides ({shown} ...); name shapes browDown_L and browDown_R, jawOpen, AU12",
        )
    unused = tuple(name for name, key in zip(names, keys, strict=True) if key is None)
    return available, missing, unused, basis


def shape_name(name: str) -> str | tuple[int, str] | None:
    """A shape's name as AU_UNITS has it (sides as _L and _R), (AU, side or "") for AU names, None for any other.

    >>> shape_name("mouthSmileLeft"), shape_name("AU12_R"), shape_name("head.jawOpen"), shape_name("mouthLeft")
    ('mouthSmile_L', (12, 'R'), 'jawOpen', None)
    """
    last = re.split(r"[.:/|](?=.{3})", name.strip())[-1]
    coded = _AU_NAME.fullmatch(last)
    if coded:
        code, side = int(coded[1]), (coded[2] or "")[:1].upper()
        return (code, side) if code in AU_INDEX else None
    if last.lower() in _UNITS:
        return _UNITS[last.lower()]
    sided = _SIDED.fullmatch(last)
    if sided and sided[1].lower() in _UNITS:
        return f"{_UNITS[sided[1].lower()]}_{(sided[2] or sided[3])[0].upper()}"
    return None


def _faces_of_people(
    file: _Archive, sets: np.ndarray, n: int, origin: np.ndarray, unit: float, landmarks: np.ndarray
) -> np.ndarray:
    file.shaped(sets, "identities", (None, n, 3))
    if not 1 <= len(sets) <= MAX_PEOPLE:
        raise file.fail("identities", f"has {len(sets)} people; give 1 to {MAX_PEOPLE:,}")
    found = np.asarray((file.numbers(sets, "identities", (None, n, 3)) - origin.astype(np.float32)) / np.float32(unit))
    for i, person in enumerate(found):
        _, iod = eye_frame(person[landmarks])
        if not 0.5 < iod < 2:
            raise file.fail(
                "identities", f"has person {i} with eyes {iod:.2g} times as far apart as the neutral face's; give "
                "whole faces in the unit of vertices (directions from it are 'ident')",
            )  # fmt: skip
    return found


def _check_modes(file: _Archive, modes: np.ndarray, vertices: np.ndarray, origin: np.ndarray) -> None:
    if len(modes) > MAX_PEOPLE:
        raise file.fail("ident", f"has {len(modes)} modes; give at most {MAX_PEOPLE:,}")
    size = np.linalg.norm(vertices - vertices.mean(0), axis=1).mean()
    for i, mode in enumerate(modes):
        away = mode - mode.mean(0)
        alike = np.linalg.norm(away - (vertices - vertices.mean(0)), axis=1).mean()
        if alike < 0.3 * size:
            raise file.fail(
                "ident", f"has a whole face as mode {i}; whole faces are 'identities', modes are differences"
            )
        if np.abs(mode).max() > 3:
            raise file.fail(
                "ident", f"moves vertices by {np.abs(mode).max():.3g} inter-ocular distances at mode {i}; give one "
                "standard deviation a mode, or the factors as ident_scale",
            )  # fmt: skip


# ---------------------------------------------------------------- what a mesh shows


def _lips(vertices: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Mask [V] 0..1 of the lips: between the outer and the inner landmark line."""
    import cv2

    at = vertices[:, :2].astype(np.float32)
    outer, inner = (np.ascontiguousarray(mean[part, :2], np.float32) for part in (slice(48, 60), slice(60, 68)))
    front = vertices[:, 2] > mean[[48, 54], 2].min() - 0.12
    near = np.flatnonzero(front & (np.abs(at - outer.mean(0)) < 0.6).all(1))
    out = np.zeros(len(vertices), np.float32)
    for i in near:
        x, y = float(at[i, 0]), float(at[i, 1])
        edge = cv2.pointPolygonTest(outer, (x, y), True)
        hole = cv2.pointPolygonTest(inner, (x, y), True)
        out[i] = np.clip(0.5 + edge / 0.04, 0, 1) * np.clip(1.0 - max(hole - 0.03, 0) / 0.04, 0, 1)
    return out


def _lash_line(vertices: np.ndarray, mean: np.ndarray, vertex_eye: np.ndarray) -> np.ndarray:
    """Nearness [V] 0..1 to the upper lids' edge."""
    out = np.zeros(len(vertices), np.float32)
    for lid in (mean[36:40], mean[42:46]):
        line = np.concatenate([np.linspace(a, b, 12) for a, b in pairwise(lid)])
        near = (np.abs(vertices - line.mean(0)) < 0.5).all(1) & (vertex_eye < 0)
        distance = np.linalg.norm(vertices[near, None] - line[None], axis=2).min(1)
        out[near] = np.maximum(out[near], np.exp(-0.5 * (distance / 0.02) ** 2))
    return out


def _with_mouth(model: HeadModel) -> np.ndarray:
    """The parts [F] with skin that no view of the resting face shows and that lies behind the lips as the mouth."""
    from mesynth.head.raster import rasterize

    part = model.part.copy()
    mean = model.vertices[model.landmarks]
    centre, lips = mean[48:60].mean(0), mean[60:68, 2].min()
    middle = model.vertices[model.faces].mean(1)
    behind = (np.abs(middle[:, 0]) < 0.75) & (np.abs(middle[:, 1] - centre[1]) < 0.7) & (middle[:, 2] < lips - 0.02)
    behind &= (part == SKIN) & (middle[:, 2] > lips - 1.8)
    if not behind.any():
        return part
    seen = np.zeros(len(part), bool)
    for yaw, pitch in _SEEN_TURNS:
        turned = (model.vertices - centre) @ rotation(np.radians([yaw, pitch, 0.0])).T.astype(np.float32)
        screen = np.ascontiguousarray(turned * np.array([150, -150, 1]) + [200, 200, 0], np.float32)
        triangle, _ = rasterize(screen, model.faces, 400, 400)
        seen[np.unique(triangle[triangle >= 0])] = True
    # A triangle too small for a sample is seen when its neighbours are.
    shown = np.zeros(len(model.vertices), bool)
    shown[np.unique(model.faces[seen])] = True
    part[behind & ~shown[model.faces].any(1)] = MOUTH
    return part


# ---------------------------------------------------------------- one person


class ForeignSubject:
    """One person of a :class:`ForeignHead`, called as :class:`mesynth.head.Subject` is."""

    def __init__(
        self, head: ForeignHead, index: int, size: int = 128, yaw: float = 0.0, pitch: float = 0.0, supersample: int = 2
    ) -> None:
        if not 16 <= size <= MAX_SIZE:
            raise MesynthError(f"size {size} is outside 16..{MAX_SIZE} pixels")
        if not 1 <= supersample <= 4:
            raise MesynthError(f"supersample {supersample} is outside 1..4; 2 is the default")
        self.head, self.seed, self.size, self.supersample = head, int(index), int(size), int(supersample)
        self._rest, iod = head.vertices(index)
        # All but a person's shape is drawn from the index, as for the packaged head's people: skin, light, camera and
        # the pose at rest, to which the angles asked for are added.
        look = sample_identity(HeadModel.load(), self.seed)
        base, chin = look.camera, -float(self._rest[head.model.landmarks[8], 1])
        share = float(np.clip((_CHIN_AT - base.centre[1]) / max(chin, 0.1), 0.32, 0.40))
        self._identity = replace(look, camera=replace(base, iod_fraction=share))
        self._pose = head_pose(yaw, pitch)
        self._scene = _build_scene(head, self._rest, iod, self._identity, self.size * self.supersample)

    @property
    def available(self) -> tuple[int, ...]:
        """AUs that this head has shapes for."""
        return self.head.available

    def render(self, au: np.ndarray, pose: np.ndarray | None = None) -> np.ndarray:
        """Frames [T,size,size,3] uint8 RGB without noise; au [T,K,2], pose [T,6] as Subject.render takes them.

        Raises: MesynthError for wrong shapes or values, and AUs that the head lacks.
        """
        from mesynth.head.shade import render_frames

        weights = check_au(au, 3)
        placed = placements(self._identity.camera, self._pose + check_pose(pose, len(weights)))
        folds, keys = np.zeros((len(weights), 1, 2), np.float32), np.zeros(len(weights), np.uint64)
        frames = render_frames(
            self._scene, self._weights(weights), folds, placed, keys, 0.0, self.size, self.supersample
        )
        return np.asarray(frames)

    def flow(
        self, au0: np.ndarray, au1: np.ndarray, pose0: np.ndarray | None = None, pose1: np.ndarray | None = None
    ) -> HeadFlow:
        """Exact motion from (au0, pose0) to (au1, pose1); see :meth:`mesynth.head.Subject.flow`."""
        from mesynth.head.raster import exact_flow

        screens = [self._screen(check_au(a, 2), check_pose(p, None)) for a, p in ((au0, pose0), (au1, pose1))]
        return HeadFlow(*exact_flow(self._scene, screens[0], screens[1], self.size, self.supersample))

    def landmarks(self, au: np.ndarray | None = None, pose: np.ndarray | None = None) -> np.ndarray:
        """68 iBUG landmarks [68,2] float32 as :meth:`mesynth.head.Subject.landmarks` gives them."""
        intensities = np.zeros((len(AU_CODES), 2), np.float32) if au is None else check_au(au, 2)
        screen = self._screen(intensities, check_pose(pose, None))
        return np.asarray(screen[self.head.model.landmarks, :2] / self.supersample - 0.5, np.float32)

    def _screen(self, au: np.ndarray, pose: np.ndarray) -> np.ndarray:
        from mesynth.head.raster import deform, project

        points = deform(self._scene, self._weights(au[None])[0])
        return np.asarray(
            project(points, placements(self._identity.camera, (self._pose + pose)[None])[0], self._scene.camera)
        )

    def _weights(self, au: np.ndarray) -> np.ndarray:
        """Basis weights [T,2K]: linear, as rigs are; only one closure of a lid and one opening of the jaw count."""
        lacking = [code for code in self.head.missing if au[:, AU_INDEX[code]].any()]
        if lacking:
            shapes = ", ".join(self.head.missing[lacking[0]])
            raise MesynthError(f"{self.head.name} has no shapes for AU {lacking[0]} ({shapes}); ask for another AU")
        w = au.copy()
        rows = [AU_INDEX[code] for code in MIDLINE]
        w[:, rows] = w[:, rows].mean(-1, keepdims=True)
        w[:, AU_INDEX[43]] = np.where(w[:, AU_INDEX[45]] >= w[:, AU_INDEX[43]], 0, w[:, AU_INDEX[43]])
        w[:, AU_INDEX[45]] = np.where(w[:, AU_INDEX[43]] > 0, 0, w[:, AU_INDEX[45]])
        w[:, AU_INDEX[26]] = np.where(w[:, AU_INDEX[27]] > 0.45 * w[:, AU_INDEX[26]], 0, w[:, AU_INDEX[26]])
        w[:, AU_INDEX[27]] = np.where(w[:, AU_INDEX[26]] > 0, 0, w[:, AU_INDEX[27]])
        return np.ascontiguousarray(w.reshape(len(w), -1), np.float32)


class ForeignPerson:
    """One picture of a :class:`ForeignSubject` at rest: ``onset`` [S,S,3] uint8, ``landmarks`` [68,2] pixels."""

    def __init__(self, subject: ForeignSubject) -> None:
        self.subject = subject
        self._still = np.zeros((len(AU_CODES), 2), np.float32)

    @property
    def available(self) -> tuple[int, ...]:
        """AUs that this head has shapes for."""
        return self.subject.available

    @cached_property
    def onset(self) -> np.ndarray:
        """The resting face [S,S,3] uint8 RGB."""
        return np.asarray(self.subject.render(self._still[None])[0])

    @cached_property
    def landmarks(self) -> np.ndarray:
        """68 iBUG landmarks [68,2] float32, pixels."""
        return self.subject.landmarks()

    def flow(self, au: np.ndarray) -> HeadFlow:
        """Exact motion from rest to AU intensities [K,2]."""
        return self.subject.flow(self._still, au)


def _build_scene(head: ForeignHead, rest: np.ndarray, iod: float, identity: Identity, side: int) -> Scene:
    from mesynth.head import raster as fields
    from mesynth.head import texture as canvas

    model, skin, light, camera = head.model, identity.skin, identity.light, identity.camera
    tone = canvas.skin_tone(skin.tone)
    colours = None if head.colours is None else head.colours[identity.seed if len(head.colours) > 1 else 0]
    own = colours is not None and not head.plain
    if colours is not None and head.plain:
        tone = colours[~head.hair & (model.vertex_eye < 0)].mean(0)
    colour = _baked(head, colours) if colours is not None and own else _plain_skin(head, tone, skin)
    flat = np.full(colour.shape[:2], 0.5, np.float32)
    key = np.array(light.key_direction)
    height = canvas.height_field(model, rest)
    occlusion = canvas.mend_outline(canvas.cavity_occlusion(height), height)
    turn = rotation(np.array([camera.yaw, camera.pitch, camera.roll]))
    shadow = canvas.mend_outline(canvas.cast_shadow(height, turn.T @ key), height)
    texture = pack_texture(colour, occlusion, flat, 0.5 * flat, shadow, flat)

    appearance = np.zeros(11, np.float32)
    appearance[fields.EXPOSURE], appearance[fields.KEY], appearance[fields.FILL] = light.exposure, light.key, light.fill
    appearance[fields.AMBIENT], appearance[fields.WARMTH] = light.ambient, light.warmth
    appearance[fields.LASH_STRENGTH], appearance[fields.GAIN], appearance[fields.HAIR_SOFT] = 0.9, 1.5, 0.10
    appearance[fields.LIP_SHIFT] = 0.0 if own else np.clip(0.55 + 0.45 * skin.lip_colour, 0, 1)
    lip = tone * (np.array([0.96, 0.80, 0.90]) - skin.lip_colour * np.array([0.16, 0.40, 0.36]))
    fill = np.array([-0.75 * np.sign(key[0]), 0.1, 0.65])
    eyes = np.zeros((2, 4), np.float32)
    lids = np.zeros(0, np.int32)
    if all((model.vertex_eye == k).sum() > 3 for k in (0, 1)):
        eyes = canvas.fit_eyes(model, rest)
        lids = canvas.lid_vertices(model, rest, eyes)
    f = camera.iod_fraction * side * camera.distance
    scale = np.float32(1 / iod)
    return fields.Scene(
        rest=rest,
        basis=np.ascontiguousarray(model.au_basis.reshape(-1, *rest.shape) * scale),
        faces=model.faces,
        part=model.part,
        attributes=_attributes(head, rest, eyes),
        vertex_eye=model.vertex_eye,
        eyes=eyes,
        lids=lids,
        lips=model.landmarks[[62, 66]].astype(np.int32),
        texture=texture,
        wrinkles=np.zeros((*texture.shape[:2], 1), np.int8),
        tex_map=np.array([canvas.U_MIN, canvas.V_MIN, canvas.TEXELS_PER_IOD], np.float32),
        key=key.astype(np.float32),
        fill=(fill / np.linalg.norm(fill)).astype(np.float32),
        appearance=appearance,
        hair=(colours[head.hair].mean(0) if colours is not None and head.hair.any() else np.array(skin.hair))
        .astype(np.float32),
        iris=np.array(skin.iris, np.float32),
        lip=lip.astype(np.float32),
        garment=np.array(skin.garment, np.float32),
        background=(np.array(light.background) / light.exposure).astype(np.float32),
        camera=np.array([f, camera.distance, camera.centre[0] * side, camera.centre[1] * side], np.float32),
        lenses=np.zeros((0, 3), np.int32),
        tint=np.ones(3, np.float32),
    )  # fmt: skip


def _plain_skin(head: ForeignHead, tone: np.ndarray, skin: Skin) -> np.ndarray:
    """One tone with brows on it, [HEIGHT,WIDTH,3] linear RGB float32. No more of the packaged head's painted skin: a
    network that learned from that would meet what it knows."""
    import cv2

    from mesynth.head import texture as canvas

    cover: np.ndarray = np.zeros((canvas.HEIGHT, canvas.WIDTH), np.float32)
    at = head.model.uv[head.model.landmarks]
    for brow in (at[17:22], at[22:27]):
        canvas.draw(cover, [canvas.curve(brow)], 1.0, 2 * skin.brow_width)
    cover = cv2.GaussianBlur(cover, (0, 0), 0.02 * canvas.TEXELS_PER_IOD)[..., None]
    hair = np.minimum(np.array(skin.hair), 0.4 * tone)
    return np.asarray(tone + 0.8 * cover * (hair - tone), np.float32)


def _attributes(head: ForeignHead, rest: np.ndarray, eyes: np.ndarray) -> np.ndarray:
    from mesynth.head import raster as fields

    model = head.model
    out = np.zeros((len(rest), 8), np.float32)
    out[:, fields.U], out[:, fields.V] = model.uv.T
    out[:, fields.LIP], out[:, fields.LASH] = model.lip, model.lash
    out[:, fields.HAIR] = np.where(head.hair, 1.0, -1.0)
    out[:, fields.FACE] = face_region(model)
    for side in (0, 1):
        eye = model.vertex_eye == side
        lids = rest[model.landmarks[36 + 6 * side : 42 + 6 * side]]
        # The gaze is towards the camera: the iris lies in the middle of the opening, its upper edge under the lid.
        centre = 0.5 * (eyes[side, :2] + lids.mean(0)[:2])
        local = (rest[eye, :2] - centre) / _IRIS_RADIUS
        out[eye, fields.EYE_U], out[eye, fields.EYE_V] = local.T
        out[eye, fields.FACE] = 0.0
    inside = np.unique(model.faces[(model.part != SKIN) & (model.part != EYE)])
    lips_front = float(rest[model.landmarks[60:68], 2].mean())
    out[inside, fields.FACE] = np.maximum(lips_front - rest[inside, 2], 0.0)
    teeth = np.unique(model.faces[model.part == TEETH])
    out[teeth, fields.TOOTH] = np.arctan2(rest[teeth, 0], rest[teeth, 2] + 0.55) * 5.2 + 0.5
    return out


def _baked(head: ForeignHead, colours: np.ndarray) -> np.ndarray:
    """Vertex colours [V,3] on the canonical plane, seen from the front: [HEIGHT,WIDTH,3] float32."""
    from scipy.ndimage import distance_transform_edt

    from mesynth.head import texture as canvas
    from mesynth.head.raster import rasterize

    model = head.model
    screen = np.empty((len(model.vertices), 3), np.float32)
    screen[:, :2] = (model.uv - np.array([canvas.U_MIN, canvas.V_MIN], np.float32)) * canvas.TEXELS_PER_IOD
    screen[:, 2] = model.vertices[:, 2]
    faces = model.faces[model.part == SKIN]
    triangle, _ = rasterize(screen, faces, canvas.WIDTH, canvas.HEIGHT)
    hit = triangle >= 0
    rows, columns = np.nonzero(hit)
    corner = screen[faces[triangle[hit]], :2]
    at = np.stack([columns + 0.5, rows + 0.5], 1)
    (ax, ay), (bx, by), (cx, cy) = (corner[:, k].T for k in range(3))
    area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
    w0 = ((bx - at[:, 0]) * (cy - at[:, 1]) - (by - at[:, 1]) * (cx - at[:, 0])) / area
    w1 = ((cx - at[:, 0]) * (ay - at[:, 1]) - (cy - at[:, 1]) * (ax - at[:, 0])) / area
    weight = np.clip(np.stack([w0, w1, 1 - w0 - w1], 1), 0, 1)[..., None]
    out = np.zeros((canvas.HEIGHT, canvas.WIDTH, 3), np.float32)
    out[hit] = (colours[faces[triangle[hit]]] * weight).sum(1)
    nearest = distance_transform_edt(~hit, return_distances=False, return_indices=True)
    return np.asarray(np.clip(out[tuple(nearest)], 0.002, 1), np.float32)
