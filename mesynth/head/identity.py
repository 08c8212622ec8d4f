"""Who a synthetic subject is: shape, skin, hair, camera, light. One seed, one person.

Hair: where it grows, the volume of short hair, and the falling sheets of long hair. What lies before the face and does
not move with its skin: locks over the brows, and glasses.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from mesynth.head.model import SKIN, HeadModel, eye_frame

STYLES = ("crop", "short", "fringe", "tied", "long")
_THICKNESS = {"crop": 0.035, "short": 0.085, "fringe": 0.11, "tied": 0.05, "long": 0.11}
_SIDEBURN = {"crop": -0.10, "short": -0.30, "fringe": -0.25, "tied": 0.05, "long": -0.30}

# Long hair in the canonical frame, one row a height: y; front edge x and z; widest x.
_FALL = np.array(
    [[1.55, 0.72, -0.80, 0.86], [1.25, 0.97, -0.74, 1.10], [0.90, 1.06, -0.70, 1.24], [0.50, 1.12, -0.76, 1.32],
     [0.10, 1.14, -0.82, 1.38], [-0.40, 1.13, -0.78, 1.42], [-0.90, 1.11, -0.66, 1.44], [-1.40, 1.08, -0.55, 1.46],
     [-1.90, 1.06, -0.48, 1.50], [-2.50, 1.08, -0.45, 1.55]])  # fmt: skip
_ROWS, _COLUMNS = 28, 15


@dataclass(frozen=True, eq=False)
class Sheets:
    """Extra geometry of long hair: vertices [n,3] canonical, faces [m,3] int32 (local numbers), uv [n,2] into the
    strand map, inner [n] float32 (1 = the shaded inside)."""

    vertices: np.ndarray
    faces: np.ndarray
    uv: np.ndarray
    inner: np.ndarray


def hair_field(model: HeadModel, style: str, raise_by: float) -> np.ndarray:
    """Signed distance-like field [V] float32 in IOD: positive on the scalp, negative on the face and ears."""
    x, y, z = (model.vertices[:, i].astype(np.float64) for i in range(3))
    front = 1.00 + raise_by - (0.22 if style == "fringe" else 0.0)
    sideburn = _SIDEBURN[style]
    across = front - 0.10 * np.clip(np.abs(x) / 0.7, 0, 1.2) ** 2
    depth = [-2.60, -2.10, -1.75, -1.00, -0.88, -0.76, -0.62, -0.48, -0.30]
    edge = np.interp(z, depth, [-1.4, -0.9, sideburn, sideburn, 0.18, 0.45, 0.72, 0.90, 1.6])
    field = np.where(model.ear, -1.0, y - np.minimum(across, edge))
    skin = np.zeros(len(field), bool)
    skin[np.unique(model.faces[model.part == SKIN])] = True
    return np.asarray(np.where(skin, np.clip(field, -1.0, 1.0), -1.0), np.float32)


def grow_hair(model: HeadModel, vertices: np.ndarray, field: np.ndarray, style: str) -> np.ndarray:
    """Vertices [V,3] with the scalp pushed out along its normals by the style's thickness."""
    corners = vertices[model.faces]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    total = np.zeros_like(vertices)
    for k in range(3):
        np.add.at(total, model.faces[:, k], normal)
    total /= np.linalg.norm(total, axis=1, keepdims=True) + 1e-12
    t = np.clip(field / 0.30, 0, 1)
    amount = _THICKNESS[style] * t * t * (3 - 2 * t)
    return np.asarray(vertices + amount[:, None] * total, np.float32)


def long_hair(model: HeadModel, vertices: np.ndarray, rng: np.random.Generator) -> Sheets:
    """Two falling sheets that run from the front edge beside the face round to the back of the head."""
    beside = ~model.ear & (np.abs(model.vertices[:, 1]) < 0.6) & (model.vertices[:, 2] > -1.3)
    widen = float(np.abs(vertices[beside, 0]).max() / np.abs(model.vertices[beside, 0]).max())
    length = rng.uniform(-2.5, -1.75)
    heights = np.linspace(_FALL[0, 0], length, _ROWS)
    profile = [np.interp(-heights, -_FALL[:, 0], _FALL[:, k]) for k in (1, 2, 3)]
    parts = [_sheet(side, heights, profile, widen, rng) for side in (-1.0, 1.0)]

    grid = np.arange(_ROWS * _COLUMNS).reshape(_ROWS, _COLUMNS)
    a, b, c, d = grid[:-1, :-1].ravel(), grid[:-1, 1:].ravel(), grid[1:, 1:].ravel(), grid[1:, :-1].ravel()
    outward = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    points: list[np.ndarray] = []
    faces, uv, inner = [], [], []
    for side, (sheet, strands) in zip((-1.0, 1.0), parts, strict=True):
        front = outward if side < 0 else outward[:, ::-1]
        for is_inner in (0, 1):
            offset = sum(len(p) for p in points)
            shrink = np.array([0.95, 1.0, 0.97]) if is_inner else 1.0
            points.append(sheet * shrink)
            faces.append((front[:, ::-1] if is_inner else front) + offset)
            uv.append(strands)
            inner.append(np.full(len(sheet), float(is_inner)))
    return Sheets(
        np.concatenate(points).astype(np.float32),
        np.concatenate(faces).astype(np.int32),
        np.concatenate(uv).astype(np.float32),
        np.concatenate(inner).astype(np.float32),
    )


def _sheet(
    side: float, heights: np.ndarray, profile: list[np.ndarray], widen: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Points and strand coordinates [_ROWS*_COLUMNS, 3 and 2] of one side; column 0 is tucked in at the face."""
    edge_x, edge_z, widest = profile
    wave = rng.normal(0.0, 0.035) * np.sin(heights * rng.uniform(1.5, 3.0) + rng.uniform(0, 6)) * (heights < 0.6)
    edge_x, widest = (edge_x + wave) * widen, (widest + 0.5 * wave) * widen
    stations = np.array([0.0, 0.10, 0.24, 0.45, 0.75, 1.0])
    along = np.linspace(0.0, 1.0, _COLUMNS) ** 1.3
    points = np.empty((_ROWS, _COLUMNS, 3))
    uv = np.empty((_ROWS, _COLUMNS, 2))
    for i, y in enumerate(heights):
        x = np.interp(along, stations, [edge_x[i] - 0.10, edge_x[i], 0.62 * widest[i] + 0.38 * edge_x[i], widest[i],
                                        0.75 * widest[i], 0.0])  # fmt: skip
        z = np.interp(along, stations, [edge_z[i] - 0.16, edge_z[i], edge_z[i] - 0.16, -1.45, -2.75, -3.2])
        points[i] = np.stack([side * x, np.full(_COLUMNS, y), z], axis=1)
        # Strands of the texture radiate from (0, 0.9): down the sheet is outwards along one ray.
        theta = side * (0.05 + 0.85 * along)
        radius = 1.0 + 0.28 * (1.55 - y)
        uv[i] = np.stack([radius * np.sin(theta), 0.9 - radius * np.cos(theta)], axis=1)
    return points.reshape(-1, 3), uv.reshape(-1, 2)


# ---------------------------------------------------------------- before the face


@dataclass(frozen=True, eq=False)
class Worn:
    """What the head carries before its skin: vertices [n,3] canonical, faces [m,3] int32 and lenses [k,3] int32 (local
    numbers; light goes through lenses), colour [n,3] linear RGB and gloss [n] of glasses, strand [n,2] texture
    coordinates of hair, hair [n] bool, beside [n,2] where on its lens a vertex lies (-1..1), tint [3] = what a lens
    lets through."""

    vertices: np.ndarray
    faces: np.ndarray
    lenses: np.ndarray
    colour: np.ndarray
    gloss: np.ndarray
    strand: np.ndarray
    hair: np.ndarray
    beside: np.ndarray
    tint: np.ndarray

    @staticmethod
    def of(*parts: Worn) -> Worn:
        """All of them as one."""
        starts = np.cumsum([0, *(len(p.vertices) for p in parts)])
        faces, lenses = (
            np.concatenate([getattr(p, name) + np.int32(start) for p, start in zip(parts, starts, strict=False)])
            for name in ("faces", "lenses")
        )
        names = ("vertices", "colour", "gloss", "strand", "hair", "beside")
        joined: dict[str, np.ndarray] = {name: np.concatenate([getattr(p, name) for p in parts]) for name in names}
        tints = [p.tint for p in parts if len(p.lenses)]
        return Worn(faces=faces, lenses=lenses, tint=tints[0] if tints else np.ones(3), **joined)


def _worn(vertices: np.ndarray, faces: np.ndarray, **given: np.ndarray) -> Worn:
    n = len(vertices)
    blank: dict[str, np.ndarray] = {
        "lenses": np.zeros((0, 3), np.int32),
        "colour": np.zeros((n, 3)),
        "gloss": np.zeros(n),
        "strand": np.zeros((n, 2)),
        "hair": np.zeros(n, np.bool_),
        "beside": np.zeros((n, 2)),
        "tint": np.ones(3),
    }
    return Worn(vertices.astype(np.float32), faces.astype(np.int32), **(blank | given))


def _band(rows: np.ndarray, closed: bool = False) -> np.ndarray:
    """Triangles [m,3] of a band whose vertices [R,C] are numbered row by row; ``closed``: the last row meets the
    first. The front is where rows go down while columns go right."""
    if closed:
        rows = np.concatenate([rows, rows[:1]])
    a, b, c, d = rows[:-1, :-1].ravel(), rows[:-1, 1:].ravel(), rows[1:, 1:].ravel(), rows[1:, :-1].ravel()
    return np.concatenate([np.stack([a, d, c], 1), np.stack([a, c, b], 1)])


_FRAMES = np.array([[0.006, 0.006, 0.007], [0.02, 0.012, 0.008], [0.09, 0.045, 0.018], [0.25, 0.24, 0.23],
                    [0.32, 0.22, 0.10], [0.02, 0.03, 0.08], [0.14, 0.02, 0.02]])  # fmt: skip
"""Linear RGB: black, dark brown, tortoise, steel, gold, navy, red."""
_TINTS = np.array([[0.96, 0.96, 0.96], [0.93, 0.95, 0.93], [0.72, 0.70, 0.66], [0.55, 0.56, 0.58]])
"""What lenses let through: clear twice, lightly tinted brown and grey; darker ones hide the eyes that AUs move."""
_RIM = 48


def draw_glasses(model: HeadModel, face: np.ndarray, rng: np.random.Generator) -> Worn:
    """A pair of glasses on a resting face [V,3]: rims, bridge, arms and lenses, at the distance that clears its brows,
    nose and cheeks."""
    width, height, power = rng.uniform(0.33, 0.40), rng.uniform(0.22, 0.33), rng.uniform(2.0, 4.5)
    thick, deep = rng.uniform(0.016, 0.042), rng.uniform(0.03, 0.06)
    middle = (0.52, -rng.uniform(0.04, 0.10))
    colour = _FRAMES[rng.integers(len(_FRAMES))] * rng.uniform(0.8, 1.2)
    tint = _TINTS[rng.choice(len(_TINTS), p=[0.5, 0.3, 0.12, 0.08])]
    lm = face[model.landmarks]
    t = np.linspace(0, 2 * np.pi, _RIM, endpoint=False)
    outline = np.stack([np.sign(f(t)) * np.abs(f(t)) ** (2 / power) for f in (np.cos, np.sin)], 1)
    outline[:, 0] *= 1 - 0.06 * (outline[:, 1] < 0) * np.abs(outline[:, 1])  # lenses narrow downwards

    # Skin behind the outline, cheeks left out that a smile or a broad nose brings forward: pads hold glasses off those.
    which = np.unique(model.faces[model.part == SKIN])
    skin, ears = face[which], model.ear[which]
    near = skin[skin[:, 2] > lm[27:31, 2].min() - 0.9]
    front = near[(np.abs(np.abs(near[:, 0]) - middle[0]) < width + 0.05) & (np.abs(near[:, 1] - middle[1]) < height)
                 & (np.abs(near[:, 0]) > 0.22)]  # fmt: skip
    wrap = 0.16
    stand = float((front[:, 2] + wrap * front[:, 0] ** 2).max()) + 0.06

    def depth(x: np.ndarray) -> np.ndarray:
        return np.asarray(stand - wrap * x**2)

    vertices: list[np.ndarray] = []
    beside: list[np.ndarray] = []
    faces: list[np.ndarray] = []
    lenses: list[np.ndarray] = []
    count = 0

    def add(points: np.ndarray, triangles: np.ndarray, mirrored: bool, place: np.ndarray | None = None) -> np.ndarray:
        nonlocal count
        numbers = triangles[:, ::-1] if mirrored else triangles
        vertices.append(points * [-1, 1, 1] if mirrored else points)
        beside.append(np.zeros((len(points), 2)) if place is None else place)
        count += len(points)
        return np.asarray(numbers + count - len(points))

    for mirrored in (False, True):
        around = []  # section of the rim, from the inside behind, over the front, to the outside behind
        for grow, back in ((-thick, -deep), (-thick, 0.0), (0.0, 0.35 * thick), (thick, 0.0), (thick, -deep)):
            x, y = (middle[i] + outline[:, i] * (size + grow) for i, size in enumerate((width, height)))
            around.append(np.stack([x, y, depth(x) + back], 1))
        points = np.stack(around, 1)
        numbers = np.arange(_RIM * 5).reshape(_RIM, 5)
        faces.append(add(points.reshape(-1, 3), _band(numbers, True)[:, ::-1], mirrored))

        x, y = (middle[i] + np.append(outline[:, i], 0.0) * size for i, size in enumerate((width, height)))
        plane = np.stack([x, y, depth(x) - 0.5 * deep], 1)
        fan = np.stack([np.full(_RIM, _RIM), np.arange(_RIM), (np.arange(_RIM) + 1) % _RIM], 1)
        lenses.append(add(plane, fan, mirrored, np.vstack([outline, [[0, 0]]])))

        # The arm: from the rim's outer corner back past the temple to the ear.
        ear = face[model.ear & (face[:, 0] > 0)]
        end = np.array([ear[:, 0].min(), ear[:, 1].mean() + 0.12, ear[:, 2].mean()])
        corner = np.array([middle[0] + width, middle[1] + 0.45 * height, float(depth(np.array(middle[0] + width)))])
        share = np.linspace(0, 1, 9)[:, None]
        path = corner + share * (end - corner)
        for point in path[1:]:
            close = skin[(np.abs(skin[:, 1:] - point[1:]) < [0.2, 0.15]).all(1) & (skin[:, 0] > 0) & ~ears]
            if len(close):
                point[0] = max(point[0], float(close[:, 0].max()) + 0.03)
        tall = 1.4 * thick
        corners = np.array([[-0.02, -tall, 0], [0.02, -tall, 0], [0.02, tall, 0], [-0.02, tall, 0]])
        section = path[:, None] + corners
        section = np.concatenate([section, section[:, :1]], 1)
        numbers = np.arange(section.shape[0] * 5).reshape(-1, 5)
        cap = np.array([[0, 1, 2], [0, 2, 3]])
        faces.append(add(section.reshape(-1, 3), np.concatenate([_band(numbers)[:, ::-1], cap]), mirrored))

    # The bridge, an arch between the rims.
    half, arch = middle[0] - width, 0.10 * height
    x = np.linspace(-half, half, 9)
    y = middle[1] + 0.35 * height + arch * (1 - (x / half) ** 2)
    z = depth(x) + 0.01
    rows = np.stack([np.stack([x, y + dy, z + dz], 1)
                     for dy, dz in ((thick, -deep), (thick, 0), (-thick, 0), (-thick, -deep))])  # fmt: skip
    numbers = np.arange(rows.shape[0] * 9).reshape(-1, 9)
    faces.append(add(rows.reshape(-1, 3), _band(numbers), False))
    n = count
    return _worn(
        np.concatenate(vertices), np.concatenate(faces), lenses=np.concatenate(lenses).astype(np.int32),
        colour=np.tile(colour, (n, 1)), gloss=np.full(n, rng.uniform(0.3, 1.0)), beside=np.concatenate(beside),
        tint=tint,
    )  # fmt: skip


def brow_locks(model: HeadModel, face: np.ndarray, hairline: float, rng: np.random.Generator) -> Worn:
    """Locks of hair that hang from the hairline over the forehead and one or both brows of a resting face [V,3]."""
    from scipy.spatial import cKDTree

    skin = np.unique(model.faces[model.part == SKIN])
    front = face[skin][(model.vertices[skin, 2] > -0.6) & ~model.ear[skin]]
    tree = cKDTree(front[:, :2])
    left, right = sorted(rng.uniform(-0.85, 0.85, 2))
    left, right = min(left, right - 0.7), max(right, left + 0.7)
    count, lean = int(rng.integers(9, 16)), rng.normal(0, 0.25)
    brow = float(face[model.landmarks[17:27], 1].mean())
    vertices: list[np.ndarray] = []
    faces: list[np.ndarray] = []
    strand: list[np.ndarray] = []
    steps = 10
    for i, root in enumerate(np.linspace(max(left, -0.85), min(right, 0.85), count)):
        at = root + rng.normal(0, 0.03)
        tip = at + lean + rng.normal(0, 0.08)
        top = 1.02 + hairline - 0.12 * (at / 0.7) ** 2 + 0.05
        bottom = brow + rng.uniform(-0.20, 0.06)
        s = np.linspace(0, 1, steps)
        x, y = at + (tip - at) * s**1.6, top + (bottom - top) * s
        wide = 0.085 * (1 - 0.85 * s**3) * rng.uniform(0.7, 1.3)
        distance, near = tree.query(np.stack([x, y], 1), k=6)
        weight = 1 / (distance + 0.02)
        surface = (front[near, 2] * weight).sum(1) / weight.sum(1)
        z = surface + 0.05 + 0.02 * np.sin(np.pi * s) + 0.012 * (i % 3)
        across = np.stack([-wide, 0 * wide, wide], 1)
        points = np.stack([x[:, None] + across, np.broadcast_to(y[:, None], across.shape),
                           z[:, None] - 0.25 * np.abs(across)], -1)  # fmt: skip
        numbers = np.arange(steps * 3).reshape(steps, 3) + len(vertices) * steps * 3
        vertices.append(points.reshape(-1, 3))
        faces.append(_band(numbers))
        # Strands of the texture radiate from (0, .9): along a lock is outwards on one ray, across it another ray. Far
        # enough out that no fold of the skin is painted there.
        theta = (0.6 * at + 0.6 * across).ravel()
        radius = np.repeat(1.6 + 0.4 * s, 3)
        strand.append(np.stack([radius * np.sin(theta), 0.9 - radius * np.cos(theta)], 1))
    n = count * steps * 3
    return _worn(
        np.concatenate(vertices), np.concatenate(faces), strand=np.concatenate(strand), hair=np.ones(n, np.bool_)
    )


# ---------------------------------------------------------------- people


_RACES = ("african", "asian", "caucasian")
# Streams keep one part of a subject from changing another when a draw is added.
_STREAMS = {"shape": 1, "camera": 2, "light": 3, "skin": 4, "texture": 5, "worn": 7}
NOISE_STREAM = 6
_MEMBER = re.compile(r"-(incr|decr|in|out|up|down|wide|narrow|convex|concave|forward|backward|compress|uncompress)$")
# Targets that give caricatures, fight the age macro, or change what the frame never shows.
_SKIP = re.compile(r"^ears:|double|age|head-trans|head-back|hump|-trans-(in|out|forward|backward)|nose-trans|"
                   r"septum|cleft|prognathism|jaw-drop|mouth-trans|dimples|push|head-angle|invertedtri|triang|"
                   r"diamond|eye-trans|scale-depth|nostrils-angle|point-(up|down)|nose-curve|greek")  # fmt: skip
_SD = {"head": 0.16, "nose": 0.20, "eyes": 0.20, "mouth": 0.24, "chin": 0.20, "cheek": 0.24, "forehead": 0.2,
       "eyebrows": 0.28}  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """Weights of the identity targets: macro fractions and sparse local weights [I] float32."""

    age: float
    femininity: float
    race: tuple[float, float, float]
    weights: np.ndarray


@dataclass(frozen=True)
class Camera:
    """Pin-hole camera and resting pose: radians, IOD, fractions of the image side."""

    yaw: float
    pitch: float
    roll: float
    distance: float
    iod_fraction: float
    centre: tuple[float, float]


@dataclass(frozen=True)
class Light:
    """Key and fill light: unit directions in camera space (x right, y up, z to the viewer), linear strengths."""

    key_direction: tuple[float, float, float]
    key: float
    fill: float
    ambient: float
    warmth: float
    background: tuple[float, float, float]
    gradient: tuple[float, float]
    exposure: float
    noise_sd: float


@dataclass(frozen=True)
class Skin:
    """Surface look: tone 0 (lightest) .. 1 (darkest), and strengths 0..1 of what is painted on it."""

    tone: float
    redness: float
    blotch: float
    freckles: float
    moles: int
    stubble: float
    beard: float
    lip_colour: float
    brow_density: float
    brow_width: float
    lash: float
    age_lines: float
    gloss: float
    hair: tuple[float, float, float]
    hair_style: str
    hairline: float
    iris: tuple[float, float, float]
    garment: tuple[float, float, float]


@dataclass(frozen=True)
class Identity:
    """Everything sampled from one seed."""

    seed: int
    shape: Shape
    camera: Camera
    light: Light
    skin: Skin


def stream(seed: int, name: str) -> np.random.Generator:
    """The generator of one named part of a subject (streams are independent of each other)."""
    return np.random.default_rng(np.random.SeedSequence([seed, _STREAMS[name]]))


def target_groups(names: tuple[str, ...]) -> list[list[list[int]]]:
    """Local targets grouped: group -> members (opposite directions) -> target numbers (left and right copies)."""
    groups: dict[str, dict[str, list[int]]] = {}
    for i, name in enumerate(names):
        if name.startswith("macro:") or _SKIP.search(name):
            continue
        member = re.sub(r":[lr]-", ":", name)
        group = "head:outline" if re.match(r"head:head-(oval|round|rectangular|square)$", member) else (
            _MEMBER.sub("", member))  # fmt: skip
        groups.setdefault(group, {}).setdefault(member, []).append(i)
    return [list(members.values()) for _, members in sorted(groups.items())]


def _sample_shape(model: HeadModel, rng: np.random.Generator) -> Shape:
    """Macro fractions (Dirichlet race, Beta sex, age 18-60) and sparse half-normal local weights."""
    names = model.ident_names
    race = rng.dirichlet([0.45] * 3)
    femininity = float(rng.beta(0.35, 0.35))
    age = float(18.0 + 42.0 * rng.beta(1.1, 1.9))
    # MakeHuman's "young" is 25 and "old" 90; faces at 60 look too old on a linear scale, hence the 0.85.
    old = 0.85 * max(age - 25.0, 0.0) / 65.0
    weights = np.zeros(len(names), np.float32)
    for i, name in enumerate(names):
        if name.startswith("macro:"):
            who, sex, years = name[6:].split("-")
            sex_share = femininity if sex == "female" else 1.0 - femininity
            weights[i] = race[_RACES.index(who)] * sex_share * (old if years == "old" else 1.0 - old)
    for members in target_groups(names):
        active = rng.random() < 0.5
        chosen = members[rng.integers(len(members))]
        region = names[chosen[0]].split(":")[0]
        amount = min(abs(rng.normal(0.0, _SD[region])), 2.0 * _SD[region])
        if active:
            weights[chosen] = amount
            if len(chosen) == 2:  # a little asymmetry: nobody's sides are equal
                weights[chosen[0]] *= 1.0 + 0.12 * rng.uniform(-1, 1)
    # Constant corrections: the source's ears taper to a point, and its mean mouth is full and turned down.
    full = race[0]
    for name, amount in (("ears:l-ear-shape-round", 0.7), ("ears:r-ear-shape-round", 0.7),
                         ("mouth:mouth-angles-up", 0.25), ("mouth:mouth-lowerlip-volume-decr", 0.35 * (1 - full)),
                         ("mouth:mouth-upperlip-volume-decr", 0.25 * (1 - full)),
                         ("mouth:mouth-lowerlip-height-decr", 0.30 * (1 - full)),
                         ("mouth:mouth-scale-horiz-incr", 0.15)):  # fmt: skip
        weights[names.index(name)] += amount
    return Shape(age, femininity, (float(race[0]), float(race[1]), float(race[2])), weights)


def _sample_camera(chin: float, rng: np.random.Generator, frontal: bool) -> Camera:
    """A near-frontal camera that frames the face from forehead to chin; ``frontal`` removes the resting pose.

    chin: how far the chin lies below the eyes, in IOD; long faces are taken from a little further away.
    """
    yaw, pitch, roll = np.radians(rng.normal(0.0, [4.0, 2.5, 1.5]).clip(-10, 10))
    turn = 0.0 if frontal else 1.0
    eyes_at, chin_at = float(rng.uniform(0.315, 0.345)), float(rng.uniform(0.96, 0.985))
    return Camera(
        yaw=float(turn * yaw),
        pitch=float(turn * pitch),
        roll=float(turn * roll),
        distance=float(rng.uniform(10.0, 16.0)),
        iod_fraction=float(np.clip((chin_at - eyes_at) / chin, 0.32, 0.40)),
        centre=(float(0.5 + turn * rng.normal(0, 0.008)), eyes_at),
    )


def _choice(rng: np.random.Generator, options: np.ndarray, weights: np.ndarray) -> np.ndarray:
    picked: np.ndarray = options[rng.choice(len(options), p=weights / weights.sum())]
    return picked


HAIR = np.array(
    [[0.012, 0.010, 0.009], [0.025, 0.016, 0.011], [0.06, 0.033, 0.018], [0.13, 0.075, 0.036],
     [0.30, 0.19, 0.085], [0.16, 0.055, 0.02], [0.22, 0.21, 0.205]], np.float32)  # fmt: skip
_IRIS = np.array(
    [[0.035, 0.014, 0.006], [0.075, 0.032, 0.012], [0.11, 0.075, 0.028], [0.085, 0.115, 0.055],
     [0.10, 0.15, 0.21]], np.float32)  # fmt: skip


def _sample_skin(shape: Shape, rng: np.random.Generator) -> Skin:
    """Skin, hair and eye colours that go with the shape's ancestry, sex and age."""
    african, asian, caucasian = shape.race
    tone = float(np.clip(0.86 * african + 0.34 * asian + 0.16 * caucasian + rng.normal(0, 0.09), 0, 1))
    fair = float(np.clip(caucasian - 0.25, 0, 1) * (tone < 0.45))
    grey = float(np.clip((shape.age - 42) / 18, 0, 1)) * 0.8
    hair = _choice(rng, HAIR, np.array([1.0, 1.0, 0.1 + 1.2 * fair, 1.2 * fair, 0.9 * fair, 0.25 * fair, grey]))
    iris = _choice(rng, _IRIS, np.array([1.0, 0.9, 0.9 * fair, 0.7 * fair, 1.3 * fair]))
    hair = hair * rng.uniform(0.8, 1.25)
    male = 1.0 - shape.femininity
    style = str(rng.choice(list(STYLES), p=_normalised(
        [0.5 * male, 0.05 + 0.9 * male, 0.25 * male, 0.5 * shape.femininity, 0.02 + shape.femininity])))  # fmt: skip
    facial = rng.random()
    cloth = rng.uniform(0.02, 0.5) * (1.0 + 0.22 * rng.uniform(-1, 1, 3))
    return Skin(
        tone=tone,
        redness=float(rng.uniform(0.25, 0.9)),
        blotch=float(rng.uniform(0.4, 1.0)),
        freckles=float(rng.uniform(0.3, 1.0) * (rng.random() < 0.12 + 0.35 * fair)),
        moles=int(rng.integers(2, 14)),
        stubble=float(male * rng.uniform(0.1, 0.8) * (male > 0.55)),
        beard=float(rng.uniform(0.6, 1.0) if male > 0.7 and shape.age > 21 and facial < 0.14 else 0.0),
        lip_colour=float(rng.uniform(0.35, 0.75) + 0.2 * shape.femininity),
        brow_density=float(rng.uniform(0.55, 0.9)),
        brow_width=float(rng.uniform(0.034, 0.046) + 0.024 * male),
        lash=float(0.55 + 0.35 * shape.femininity + 0.1 * rng.random()),
        age_lines=float(np.clip((shape.age - 26) / 34, 0, 1) * rng.uniform(0.6, 1.0)),
        gloss=float(rng.uniform(0.5, 1.1)),
        hair=(float(hair[0]), float(hair[1]), float(hair[2])),
        hair_style=style,
        hairline=float(rng.normal(0, 0.05) + (0.10 * male * max(shape.age - 30, 0) / 30)),
        iris=(float(iris[0]), float(iris[1]), float(iris[2])),
        garment=(float(cloth[0]), float(cloth[1]), float(cloth[2])),
    )


def _normalised(weights: list[float]) -> np.ndarray:
    array = np.asarray(weights, np.float64)
    return np.asarray(array / array.sum())


def _sample_light(skin: Skin, rng: np.random.Generator) -> Light:
    """One soft key from above and the side, a weak fill, and a hemisphere; laboratory lighting, not a stage."""
    azimuth, elevation = np.radians(rng.uniform(-48, 48)), np.radians(rng.uniform(12, 48))
    direction = (
        float(np.sin(azimuth) * np.cos(elevation)),
        float(np.sin(elevation)),
        float(np.cos(azimuth) * np.cos(elevation)),
    )
    grey = rng.uniform(0.10, 0.62)
    tint = 1.0 + rng.normal(0, 0.03, 3)
    # A camera opens up for darker skin, though not all the way.
    exposure = rng.uniform(0.92, 1.12) * (1.0 + 0.75 * skin.tone)
    return Light(
        key_direction=direction,
        key=float(rng.uniform(0.55, 0.85)),
        fill=float(rng.uniform(0.05, 0.18)),
        ambient=float(rng.uniform(0.30, 0.48)),
        warmth=float(rng.normal(0.0, 0.035)),
        background=(float(grey * tint[0]), float(grey * tint[1]), float(grey * tint[2])),
        gradient=(float(rng.normal(0, 0.06)), float(rng.normal(0, 0.06))),
        exposure=float(exposure),
        noise_sd=float(rng.uniform(0.004, 0.010)),
    )


def sample_identity(model: HeadModel, seed: int, frontal: bool = False) -> Identity:
    """The person of a seed (a non-negative int)."""
    shape = _sample_shape(model, stream(seed, "shape"))
    skin = _sample_skin(shape, stream(seed, "skin"))
    chin = -float(identity_vertices(model, shape, model.landmarks)[8, 1])
    camera = _sample_camera(chin, stream(seed, "camera"), frontal)
    return Identity(seed, shape, camera, _sample_light(skin, stream(seed, "light")), skin)


def identity_vertices(model: HeadModel, shape: Shape, indices: np.ndarray | None = None) -> np.ndarray:
    """The person's resting mesh [V,3] float32, in the person's own canonical frame (IOD of this face = 1).

    indices: only these vertices, for when the whole mesh is not needed.
    """

    def moved(at: np.ndarray | slice) -> np.ndarray:
        total = model.vertices[at].copy()
        for i in np.flatnonzero(shape.weights):
            total += np.float32(shape.weights[i] / model.unit) * model.ident[i, at].astype(np.float32)
        return total

    origin, iod = eye_frame(moved(model.landmarks))
    vertices = moved(slice(None) if indices is None else indices)
    return np.asarray((vertices - origin) / np.float32(iod), np.float32)
