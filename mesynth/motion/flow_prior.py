"""The flow prior: flow images onset -> apex of people who have no picture, in batches; nothing is trained.

AU displacement fields of two heads are mixed per person, read through a face shape and a clip's own places and
directions of pull, and moved with the head and blinks; then comes what an optical flow estimator makes of it
(textureless skin, blur, noise, mismatches, a median filter). Each of these is a strength that may be 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache

import cv2
import numpy as np

from mesynth.core import facs, seeds
from mesynth.core.errors import ConfigError
from mesynth.core.framing import OWN, Framing
from mesynth.core.profiles import Profile
from mesynth.head.model import HeadModel
from mesynth.motion.fields import basis, face_gate, frontal_skin
from mesynth.motion.nuisance import blink_curve, head_basis, head_path

NAME = "flow-prior"
K = len(facs.AU_CODES)
CELLS = [(k, side) for k in range(K) for side in (0, 1)]
_BOX = ((-1.6, 1.6), (-1.6, 2.2))
"""u and v range of the field tables, IOD; fields are 0 at its border."""
_GRID = 112
_KNOTS = 5
_BLINK = 0.35
"""Most of AU 45 that a blink adds: a smooth flow closes a lid no further without folding."""
"""Smooth random maps are a 5 x 5 grid over the box, as in :mod:`mesynth.motion.nuisance`."""
_SCALES = (4, 7, 14, 28)
"""Grids of the estimator's noise."""
_PIXELS_AT_ONCE = 64 * 28 * 28


@dataclass(frozen=True, kw_only=True)
class FlowNuisance:
    """Strength of everything besides the AUs: 1 is usual, 0 is off. Switching one leaves the others' numbers alone."""

    asymmetry: float = 1.0
    """Difference between the sides of the AUs (0: both their mean; also in what the manifest says)."""
    shape: float = 1.0
    """A person's face shape, and how the crop was registered on it."""
    heads: float = 1.0
    """Mixture of two heads' fields, per person and AU."""
    style: float = 1.0
    """Places and directions of pull, per clip; times the plan row's own ``style``."""
    head: float = 1.0
    """Head motion; times the plan row's ``head``."""
    blink: float = 1.0
    """Closure of a blink; the plan row's ``blink`` says how often."""
    texture: float = 1.0
    """Motion lost where the face has little texture."""
    blur: float = 1.0
    """Smoothing of the estimator, up to one pixel of 28."""
    noise: float = 1.0
    """Multi-scale noise, .22 exp(.7 N) of the image's rms."""
    outliers: float = 1.0
    """Up to three local mismatches at hair line, eyes and border."""
    median: float = 1.0
    """Probability of a 3 x 3 median filter, in halves: 1 is .5, 2 is always."""

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            most = 1 if f.name in ("asymmetry", "heads", "texture") else 2 if f.name in ("blink", "median") else 5
            if not 0 <= value <= most:
                raise ConfigError(f"flow nuisance {f.name}={value:g} is outside [0, {most}]; 1 is usual, 0 is off")


OFF = FlowNuisance(**{f.name: 0.0 for f in fields(FlowNuisance)})


def parse_flow_nuisance(text: str) -> FlowNuisance:
    """``noise=0,blur=0.5``: the usual strengths with these changes; ``none,head=1``: everything off but these.

    Raises:
        ConfigError: an unknown name, or a strength that is no number or out of range.
    """
    known = [f.name for f in fields(FlowNuisance)]
    values = dict.fromkeys(known, 1.0)
    for part in (p.strip() for p in text.split(",") if p.strip()):
        name, equals, number = (p.strip() for p in part.partition("="))
        if part == "none":
            values = dict.fromkeys(known, 0.0)
            continue
        if name not in known or not equals:
            raise ConfigError(
                f"flow nuisance '{part}' is unknown; write name=strength with {', '.join(known)}, or none"
            )
        try:
            values[name] = float(number)
        except ValueError:
            raise ConfigError(f"flow nuisance '{part}' is no number; write for example {name}=0.5") from None
    return FlowNuisance(**values)


@dataclass(frozen=True, kw_only=True)
class FlowRequest:
    """One flow image to draw. ``person`` names whose face shape it is; equal names, equal shapes."""

    intensity: np.ndarray
    """[K,2] in [0,1]"""
    person: str
    seed: int
    profile: Profile
    n_frames: int
    fps: float
    head: float = 1.0
    blink: float = 0.3
    style: float = 1.0


@dataclass(frozen=True)
class _Tables:
    """Per head and cell the field on the canonical grid, and how much texture there is."""

    fields: np.ndarray
    """[2 * 50 * G * G, 2] float32 IOD (right, down)"""
    texture: np.ndarray
    """[G * G] float32 in [0,1]"""


@lru_cache(maxsize=1)
def tables() -> _Tables:
    """Read once a process: the bump table's fields, and those of the mesh they were partly fitted to."""
    from scipy.interpolate import LinearNDInterpolator
    from scipy.ndimage import gaussian_filter

    u, v = (np.linspace(low, high, _GRID) for low, high in _BOX)
    uv = np.stack(np.meshgrid(u, v), -1)
    model = HeadModel.load()
    vertices, _ = frontal_skin(model)
    moved = model.au_basis[..., :2].reshape(len(CELLS), -1, 2)[:, vertices].astype(np.float64) * [1, -1]
    mesh = LinearNDInterpolator(model.uv[vertices].astype(np.float64), moved.transpose(1, 0, 2), fill_value=0)(uv)
    # Lids and lips are edges of the mesh; flow over them is never as sharp.
    mesh = gaussian_filter(mesh, (1, 1, 0, 0)).transpose(2, 0, 1, 3) * face_gate(uv)[..., None]
    both = np.stack([basis(uv, CELLS)[..., :2], mesh]).astype(np.float32)
    marks = model.uv[model.landmarks[17:]].astype(np.float64)  # brows, nose, eyes, mouth
    nearest = np.sqrt(((uv[:, :, None] - marks) ** 2).sum(-1)).min(-1)
    texture = np.exp(-0.5 * (np.maximum(nearest - 0.08, 0) / 0.16) ** 2)
    return _Tables(both.reshape(-1, 2), texture.astype(np.float32).ravel())


class FlowPrior:
    """Draws flow images of one size. An image's bytes depend on its :class:`FlowRequest` alone, never on the batch."""

    def __init__(self, size: int = 28, nuisance: FlowNuisance = FlowNuisance(), framing: Framing = OWN) -> None:
        """Raises ConfigError for a size outside 14..256 pixels."""
        self.check_size(size)
        self.size, self.nuisance = size, nuisance
        at = (np.arange(size) + 0.5) / size
        u, v = np.meshgrid((at - framing.column) / framing.eyes, (at - framing.row) / framing.height)
        self._uv = np.stack([u, v]).astype(np.float32)
        """[2,S,S]: canonical coordinates of the crop's pixels on the mean face."""
        self._knots = _spline_basis(u[0], v[:, 0])
        self._head = np.ascontiguousarray(head_basis(self._uv.transpose(1, 2, 0)).transpose(0, 3, 1, 2))
        self._pixels = np.array([framing.eyes * size, framing.height * size], np.float32)[:, None, None]

    @staticmethod
    def check_size(size: int) -> None:
        """Raises ConfigError for a size outside 14..256 pixels."""
        if not 14 <= size <= 256:
            raise ConfigError(f"flow images of {size} pixels are outside 14..256; 28 is usual")

    def draw(self, requests: Sequence[FlowRequest]) -> np.ndarray:
        """Flow images [B,2,S,S] float32, pixels of the image, x right and y down."""
        block = max(1, _PIXELS_AT_ONCE // self.size**2)
        parts = [self._block(requests[i : i + block]) for i in range(0, len(requests), block)]
        return np.concatenate(parts) if parts else np.zeros((0, 2, self.size, self.size), np.float32)

    # ---------------------------------------------------------------- motion

    def _block(self, requests: Sequence[FlowRequest]) -> np.ndarray:
        uv = self._coordinates(requests)
        shift, turn = self._style(requests)
        flow = self._fields(requests, uv + shift)
        if self.nuisance.style:
            cos, sin = np.cos(turn), np.sin(turn)
            flow = np.stack([cos * flow[:, 0] - sin * flow[:, 1], sin * flow[:, 0] + cos * flow[:, 1]], 1)
        flow = (flow + self._head_motion(requests)) * self._pixels
        flow = flow * self._gate(requests, uv)
        return np.stack([self._estimated(image, one.seed) for image, one in zip(flow, requests, strict=True)])

    def _smooth(self, grids: np.ndarray) -> np.ndarray:
        """Random grids [B,C,25] -> maps [B,C,S,S]. Added one by one: the order of a sum must not depend on B."""
        out = np.zeros((*grids.shape[:2], self.size, self.size), np.float32)
        for i, knot in enumerate(self._knots):
            out += grids[..., i, None, None] * knot
        return out

    def _coordinates(self, requests: Sequence[FlowRequest]) -> np.ndarray:
        """[B,2,S,S]: where a pixel lies on the mean face, by the person's shape and the crop's registration."""
        drawn = np.empty((len(requests), 6), np.float32)
        grids = np.empty((len(requests), 2, _KNOTS**2), np.float32)
        for i, one in enumerate(requests):
            person, clip = seeds.stream(0, f"flow-person/{one.person}"), seeds.stream(one.seed, "registration")
            drawn[i, :2] = np.exp(self.nuisance.shape * np.array([0.05, 0.07]) * person.standard_normal(2))
            grids[i] = self.nuisance.shape * 0.05 * person.standard_normal((2, _KNOTS**2))
            drawn[i, 2:] = self.nuisance.shape * 0.02 * clip.standard_normal(4)
        wide, high, right, down, roll, scale = (drawn[:, i, None, None] for i in range(6))
        u, v = self._uv
        ru, rv = (1 + scale) * u - roll * v + right, (1 + scale) * v + roll * u + down
        return np.stack([ru / wide, rv / high], 1) + self._smooth(grids)

    def _style(self, requests: Sequence[FlowRequest]) -> tuple[np.ndarray, np.ndarray]:
        """Shifts [B,2,S,S] IOD and turns [B,S,S] radians, as :func:`mesynth.motion.nuisance.draw_style`."""
        sd = np.array([0.07, 0.07, np.radians(10)])[:, None]
        grids = [
            self.nuisance.style * one.style * sd * seeds.stream(one.seed, "style").standard_normal((3, _KNOTS**2))
            for one in requests
        ]
        maps = self._smooth(np.array(grids, np.float32))
        return maps[:, :2], maps[:, 2]

    def _fields(self, requests: Sequence[FlowRequest], uv: np.ndarray) -> np.ndarray:
        """AU motion [B,2,S,S] IOD: each image's active cells one after the other, both heads of each."""
        cells, weights = zip(*(self._weights(one) for one in requests), strict=True)
        corner, share = _place(uv)
        out = np.zeros((len(requests), self.size**2, 2), np.float32)
        table = tables().fields
        for rank in range(max(map(len, cells), default=0)):
            rows = np.array([i for i, c in enumerate(cells) if len(c) > rank])
            first = np.array([cells[i][rank] for i in rows])[:, None] * _GRID**2 + corner[rows]
            weight = np.array([weights[i][rank] for i in rows], np.float32)[:, None, None]
            out[rows] += weight * _read(table, first, share[rows])
        return out.reshape(len(requests), self.size, self.size, 2).transpose(0, 3, 1, 2)

    def _weights(self, one: FlowRequest) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the tables' maps that this image moves by, and how far."""
        cells = effective_intensity(self.nuisance, one.intensity).astype(np.float64)
        apex = one.profile.apex_index(one.n_frames)
        blink = blink_curve(one.n_frames, one.fps, one.blink, seeds.stream(one.seed, "blink"))[apex]
        closed = min(float(blink) * self.nuisance.blink, _BLINK)
        cells[facs.AU_INDEX[45]] = np.maximum(cells[facs.AU_INDEX[45]], closed)
        flat = cells.ravel()
        active = np.flatnonzero(flat > 0)
        mixed = self.nuisance.heads * seeds.stream(0, f"flow-heads/{one.person}").random(K)[active // 2]
        numbers = np.concatenate([active, active + len(CELLS)])
        strengths = np.concatenate([(1 - mixed) * flat[active], mixed * flat[active]])
        return numbers[strengths > 0], strengths[strengths > 0]

    def _head_motion(self, requests: Sequence[FlowRequest]) -> np.ndarray:
        """[B,2,S,S] IOD: the head's path at the apex, as the clips' (:func:`mesynth.motion.nuisance.head_path`)."""
        out = np.zeros((len(requests), *self._head.shape[1:]), np.float32)
        paths = [
            head_path(one.n_frames, self.nuisance.head * one.head, seeds.stream(one.seed, "head"))[
                one.profile.apex_index(one.n_frames)
            ]
            for one in requests
        ]
        for mode, amount in zip(self._head, np.array(paths, np.float32).T, strict=True):
            out += amount[:, None, None, None] * mode
        return out

    # ---------------------------------------------------------------- estimator

    def _gate(self, requests: Sequence[FlowRequest], uv: np.ndarray) -> np.ndarray:
        """[B,1,S,S]: share of the motion that an estimator finds; U(0, .6) of it where nothing is to be seen."""
        floor = np.array([seeds.stream(one.seed, "texture").uniform(0, 0.6) for one in requests], np.float32)
        lost = np.float32(self.nuisance.texture) * (1 - floor)[:, None]
        corner, share = _place(uv)
        texture = _read(tables().texture[:, None], corner, share)[..., 0]
        return (1 - lost * (1 - texture)).reshape(len(requests), 1, self.size, self.size)

    def _estimated(self, flow: np.ndarray, seed: int) -> np.ndarray:
        """What the estimator returns for one image [2,S,S]; every step has random numbers of its own."""
        n, size = self.nuisance, self.size
        pixel = size / 28
        image = np.ascontiguousarray(flow.transpose(1, 2, 0))
        rms = float(np.sqrt(np.mean(image.astype(np.float64) ** 2))) + 0.01 * pixel
        sd = float(seeds.stream(seed, "blur").uniform(0, 1)) * n.blur * pixel
        if sd > 0.05:
            image = cv2.GaussianBlur(image, (0, 0), sd, borderType=cv2.BORDER_REPLICATE)
        if n.outliers:
            image = image + self._mismatches(rms * n.outliers, seeds.stream(seed, "outliers"))
        if n.noise:
            image = image + self._noise(rms * n.noise, seeds.stream(seed, "flow-noise"))
        if seeds.stream(seed, "median").random() < 0.5 * n.median:
            image = np.dstack([cv2.medianBlur(np.ascontiguousarray(image[..., c]), 3) for c in (0, 1)])
        return np.ascontiguousarray(image.transpose(2, 0, 1), np.float32)

    def _noise(self, rms: float, rng: np.random.Generator) -> np.ndarray:
        """[S,S,2] pixels: white noise of four grids, coarse to fine, in random shares."""
        sd = 0.22 * np.exp(0.7 * min(rng.standard_normal(), 2.0)) * rms
        shares = rng.dirichlet(np.ones(len(_SCALES)))
        out = np.zeros((self.size, self.size, 2), np.float32)
        for share, side in zip(shares, _SCALES, strict=True):
            grid = rng.standard_normal((side, side, 2), np.float32)
            smooth = cv2.resize(grid, (self.size, self.size), interpolation=cv2.INTER_LINEAR)
            out += np.float32(sd * np.sqrt(share)) * smooth
        return out

    def _mismatches(self, rms: float, rng: np.random.Generator) -> np.ndarray:
        """[S,S,2] pixels: up to three bumps where estimators go wrong."""
        places = np.array(
            [(0, -0.85), (-0.6, -0.8), (0.6, -0.8), (-0.5, 0), (0.5, 0), (-1.2, 0.6), (1.2, 0.6), (0, 1.6)]
        )
        n = int(rng.integers(0, 4))
        chosen = places[rng.choice(len(places), 3, replace=False)] + 0.1 * rng.standard_normal((3, 2))
        width, push = rng.uniform(0.06, 0.2, 3), rng.standard_normal((3, 2)) * rng.uniform(0.5, 2.5, (3, 1)) * rms
        out = np.zeros((self.size, self.size, 2), np.float32)
        u, v = self._uv
        for (cu, cv), w, p in zip(chosen[:n], width, push, strict=False):
            bump = np.exp(-0.5 * (((u - cu) / w) ** 2 + ((v - cv) / w) ** 2))
            out += bump[..., None].astype(np.float32) * p.astype(np.float32)
        return out


def effective_intensity(nuisance: FlowNuisance, intensity: np.ndarray) -> np.ndarray:
    """[K,2] float32 AUs as an image shows them: the difference between the sides times ``asymmetry``."""
    if nuisance.asymmetry == 1:
        return intensity
    mean = intensity.mean(-1, keepdims=True)
    return np.asarray(mean + np.float32(nuisance.asymmetry) * (intensity - mean), np.float32)


def _spline_basis(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """[25,S,S] float32: the cubic spline through each knot of the box alone, at columns ``u`` and rows ``v``."""
    from scipy.interpolate import RectBivariateSpline

    ku, kv = (np.linspace(low, high, _KNOTS) for low, high in _BOX)
    u, v = np.clip(u, *_BOX[0]), np.clip(v, *_BOX[1])
    ones = np.eye(_KNOTS**2).reshape(-1, _KNOTS, _KNOTS)
    return np.stack([RectBivariateSpline(kv, ku, one)(v, u) for one in ones]).astype(np.float32)


def _place(uv: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates [B,2,S,S] -> number of the grid corner above left [B,P], and the share beyond it [B,P,2]."""
    corners, shares = [], []
    for axis, (low, high) in enumerate(_BOX):
        at = np.clip((uv[:, axis] - low) * np.float32((_GRID - 1) / (high - low)), 0, _GRID - 1.001)
        corners.append(at.astype(np.int64))
        shares.append(at - corners[-1])
    number = corners[1] * _GRID + corners[0]
    return number.reshape(len(uv), -1), np.stack(shares, -1).astype(np.float32).reshape(len(uv), -1, 2)


def _read(table: np.ndarray, first: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Bilinear: rows ``first`` [B,P] of ``table`` [N,C] and their neighbours right and below -> [B,P,C]."""
    x, y = share[..., :1], share[..., 1:]
    top = table.take(first, 0) * (1 - x) + table.take(first + 1, 0) * x
    bottom = table.take(first + _GRID, 0) * (1 - x) + table.take(first + _GRID + 1, 0) * x
    return np.asarray(top * (1 - y) + bottom * y)
