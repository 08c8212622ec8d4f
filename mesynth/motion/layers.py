"""A photo's face in layers: skin cut open at lids and lips, eyeball and mouth behind it, the rest still.

A flow that is smooth everywhere can neither open a mouth nor close a lid: skin would have to stretch over what is
behind it. Here the skin is cut where a face is cut. Each cut (:class:`Slit`) has an upper and a lower side, and each
side a motion of its own, defined on the whole picture; the two agree at the corners and beyond. What a pixel shows is
the share of the upper side, of the lower side, and, in what is left, of what lies behind:

``I_t(x) = a I_0(p_a(x)) + b I_0(p_b(x)) + (1 - a - b) behind(x)``

with ``a = c_above(p_a)``, ``b = min(c_below(p_b), 1 - a)``, c the share of the pixel on its own side of the cut's edge
at the source. Shares add: sides that touch have c_above + c_below = 1 and show no line. A generator says how the skin
moves; lids and lips are moved here, by the AUs of :data:`LAYERED` alone and by what is left of others (:data:`LIDS`,
:data:`LIPS`), relative to what the photo shows: a lid that is half closed closes the rest, a mouth that is open
narrows under AU 24. An AU that is lowered (:data:`mesynth.core.facs.LOWERABLE`) goes the other way: lips close by what
it would part them, a lid that is down opens by so much of an ordinary eye. Where nothing is asked for nothing changes,
to the bit.

Lengths are shares of the inter-ocular distance (IOD) unless they say pixels; s in [-1,1] runs from a cut's corner in
the image's left to that in its right, v is the distance below their line. AU columns are the subject's (left, right),
and the subject's left is the image's right.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import cv2
import numpy as np
from numba import njit

from mesynth.core import facs
from mesynth.core.types import AUVector
from mesynth.motion.folds import Folds
from mesynth.motion.glasses import cheek_mask, without_glasses
from mesynth.motion.onset import EYE, JAW, jaw_left
from mesynth.motion.warp import PAD, _clamp, _colour, _source, backward_after, backward_flow, planes_of, warp_planes

LAYERED: tuple[int, ...] = (5, 25, 26, 27, 43, 45)
"""AUs whose motion is that of lids and lips: layers alone draw them, generators are not asked for them."""
LIDS: dict[int, tuple[float, float]] = {
    5: (-0.40, -0.02), 6: (0, 0.18), 7: (0, 0.36), 43: (1.05, 0.04), 45: (1.05, 0.04),
}  # fmt: skip
"""Share of the opening by which the upper lid falls and the lower lid rises; what the skin does already counts. Of AU
6 and 7 it is what the lids of rendered people do on average (docs/decisions/021)."""
LIPS: dict[int, tuple[float, float, float, float]] = {
    10: (0.03, 0, 0, 0), 16: (0, 0.04, 0, 0), 17: (0, 0, 0, 0.7), 23: (0, 0, 0, 0.8), 24: (0, 0, 0, 1.0),
    25: (0.012, 0.035, 0, 0), 26: (0.005, 0.050, 0.19, 0), 27: (0.02, 0.10, 0.40, 0),
}  # fmt: skip
"""Lift of the upper lip, drop of the lower lip, drop of the jaw; share of the gap closed."""
_DOUBT, _DOUBT_SIDE = 0.25, 0.1
"""Standard deviations of the log of how far one person's lids and lips go, by person and between the sides."""
_LID_ROWS, _LIP_ROWS = (np.array([facs.AU_INDEX[code] for code in table]) for table in (LIDS, LIPS))
_LID_SHARES, _LIP_AMOUNTS = np.array(list(LIDS.values())), np.array(list(LIPS.values()))
_SHUTTING, _SHUT = np.array([code in (43, 45) for code in LIDS]), LIDS[45]
_PARTING = [list(LIPS).index(code) for code in (25, 26, 27)]
_JAW_ROWS = [facs.AU_INDEX[code] for code in JAW]
_MOST = (0.08, 0.14, 0.42, 1.0)
"""Of lift, drop, jaw and closing, of several AUs together."""

_N, _REACH = 192, 1.5
_S = np.linspace(-_REACH, _REACH, _N)
_LENS, _BETWEEN = np.sqrt(np.maximum(1 - _S**2, 0)), np.abs(_S) < 1
_OPEN = 0.035
"""A mouth whose inner gap is wider than this shows what is behind its lips."""
_LIP_EDGE = 0.06
"""This far below the line the skin is the lower lip's alone; a generator's field runs smoothly across the lips."""
_RED = (0.12, 0.14, 0.20)
"""Above and below the line lips go with the jaw as layers draw it, so that their edge stays a curve; over the third
distance a jaw that a generator draws takes over (docs/decisions/021)."""
_LID_EDGE, _LID_OFF = 0.03, 0.10
"""The same of the lower lid: a field runs across the eyeball, too. The upper lid's edge goes no further than the skin
so far above it: what is said there is half the lower lid's."""
_FARTHER = 1e6
"""Pixels, below any picture: nothing of a mouth goes with its jaw."""
_BANDS, _GAP = 12, 0.6
"""Rows in which an open mouth is looked at, and what is dark between teeth, as a share of the brightest."""
_FADES = (0.12, 0.25)
"""Over this distance from what stays still motion comes to be whole; that of a jaw, which goes further."""
_STRIPES = 0.07
"""Deviation of the skin over an eye from its mean along the lid, as a share, up to which it counts as even: of seven
people rendered by two heads .03 to .08, of lids under brows and with make-up on five photographs .10 to .19."""
_HEM = 0.034
"""Of an eyeball this much under the upper lid's edge is not sure to be seen: lashes, and a contour that is off."""
_FAR = 0.22
"""Lips close by at most this: a mouth that is wide open does not snap shut."""
_WORKING = 38.0
"""IOD in pixels at which skin is told from the rest."""


def skin_aus(aus: AUVector) -> AUVector:
    """The AUs a generator is asked for: without those that layers draw (:data:`LAYERED`).

    >>> skin_aus(facs.parse_request("12=0.5,45=1")).intensity[facs.AU_INDEX[45]]
    array([0., 0.], dtype=float32)
    """
    rows = [facs.AU_INDEX[code] for code in LAYERED]
    if not aus.intensity[rows].any():
        return aus
    left = aus.intensity.copy()
    left[rows] = 0
    return AUVector(left, aus.known)


def with_layered(skin: AUVector, asked: AUVector) -> AUVector:
    """``skin``, with what layers draw as it is in ``asked``: gains are a network's, not theirs."""
    rows = [facs.AU_INDEX[code] for code in LAYERED]
    if not asked.intensity[rows].any():
        return skin
    whole = skin.intensity.copy()
    whole[rows] = asked.intensity[rows]
    return AUVector(whole, skin.known)


def drawn_amounts(spread: float, rng: np.random.Generator) -> np.ndarray:
    """[K,2] float32: how many times as far as on average one person's lids and lips go under each AU.

    ``spread``: 1 as far as people differ, 0 everybody alike. AU 43 and 45 shut every eye; 27 is 26, but larger, and
    AUs that neither lids nor lips have a part in stay as they are.

    >>> float(drawn_amounts(0.0, np.random.default_rng(0)).min())
    1.0
    """
    person, sides = rng.standard_normal((len(facs.AU_CODES), 1)), rng.standard_normal((len(facs.AU_CODES), 2))
    out = np.exp(spread * (_DOUBT * person + _DOUBT_SIDE * sides)).astype(np.float32)
    moves = [facs.AU_INDEX[code] for code in {*LIDS, *LIPS} - {43, 45}]
    out[np.setdiff1d(np.arange(len(out)), moves)] = 1
    out[facs.AU_INDEX[27]] = out[facs.AU_INDEX[26]]
    return out


def jaw_cells(aus: AUVector) -> list[tuple[int, int]]:
    """(AU row, side) of what of :data:`JAW` is asked for.

    >>> jaw_cells(facs.parse_request("12=0.5,26=0.2")) == [(facs.AU_INDEX[26], 0), (facs.AU_INDEX[26], 1)]
    True
    """
    rows = [facs.AU_INDEX[code] for code in JAW]
    return [(row, side) for row in rows for side in (0, 1) if aus.intensity[row, side]]


@dataclass(frozen=True, eq=False)
class Step:
    """One frame's motion, as a generator hands it on."""

    skin: np.ndarray
    """[H,W,2] float32 pixels, onset -> frame on the onset's grid, of the skin: neither head nor what layers draw"""
    aus: np.ndarray
    """[K,2] float32 in [-1,1]: the AUs of this frame, all of them"""
    head: np.ndarray | None = None
    """[H,W,2] float32 pixels: motion of the whole head, or None"""
    change: np.ndarray | None = None
    """[H,W,3] float32 grey levels added to the frame, or None"""
    jaw: np.ndarray | None = None
    """[H,W,2] float32 pixels: motion of the skin under the AUs of :data:`JAW`, or None: as layers draw it themselves"""


class Steps(Protocol):
    """The motion of a clip frame by frame: a :class:`Course`, or frames that share no fields."""

    def step(self, t: int) -> Step:
        """Frame ``t``."""

    def __iter__(self) -> Iterator[Step]: ...


@dataclass(frozen=True, eq=False)
class Course:
    """The motion of a clip's T frames, as weights of fields on the photo [H,W]: what :class:`Step` says frame by frame.

    Fields are float32 pixels, onset -> frame, at weight 1."""

    aus: np.ndarray
    """[T,K,2] float32 in [-1,1]: the AUs of each frame, all of them"""
    weights: np.ndarray
    """[T,A]"""
    fields: np.ndarray
    """[A,H,W,2] of the skin"""
    path: np.ndarray
    """[T,6] of the head, where it moves"""
    head: np.ndarray | None = None
    """[6,H,W,2]"""
    drops: np.ndarray | None = None
    """[T,J] of the jaw, where a generator draws it"""
    jaws: np.ndarray | None = None
    """[J,H,W,2]"""
    share: np.ndarray | None = None
    """[T] of what is not linear in the AUs and follows them on average: of ``bend`` and ``change``"""
    bend: np.ndarray | None = None
    """[H,W,2]"""
    change: np.ndarray | None = None
    """[H,W,3] grey levels"""

    def __len__(self) -> int:
        return len(self.aus)

    def __iter__(self) -> Iterator[Step]:
        return (self.step(t) for t in range(len(self)))

    def step(self, t: int) -> Step:
        """Frame ``t``."""
        skin = _summed(self.weights[t], self.fields)
        if self.bend is not None and self.share is not None:
            skin = skin + np.float32(self.share[t]) * self.bend
        head = jaw = light = None
        if self.head is not None:
            head = np.ascontiguousarray(_summed(self.path[t], self.head), np.float32)
        if self.change is not None and self.share is not None and self.share[t]:
            light = np.float32(self.share[t]) * self.change
        if self.drops is not None and self.jaws is not None:
            jaw = np.ascontiguousarray(_summed(self.drops[t], self.jaws), np.float32)
        return Step(np.ascontiguousarray(skin, np.float32), self.aus[t], head, light, jaw)


def _summed(weights: np.ndarray, fields: np.ndarray) -> np.ndarray:
    """[H,W,2]: fields [A,H,W,2] times their weights [A], added up in their order, as np.einsum does in more time."""
    if weights.dtype != np.float32 or fields.dtype != np.float32:
        return np.asarray(np.einsum("a,ahwc->hwc", weights, fields))
    out = np.zeros(fields.shape[1:], np.float32)
    assert len(weights) == len(fields)  # compiled code does not look
    if len(fields):
        _add_up(np.ascontiguousarray(weights), np.ascontiguousarray(fields).reshape(len(fields), -1), out.reshape(-1))
    return out


@njit(cache=True, nogil=True)
def _add_up(weights: np.ndarray, fields: np.ndarray, out: np.ndarray) -> None:
    """Add fields [A,N] times ``weights`` to ``out`` [N], a part at a time, so that it stays in the nearest cache."""
    for first in range(0, len(out), 2048):
        target = out[first : first + 2048]
        for a in range(len(weights)):
            weight, field = weights[a], fields[a, first : first + 2048]
            for i in range(len(target)):
                target[i] += weight * field[i]


@dataclass(frozen=True, eq=False)
class Truth:
    """What a frame shows, exactly."""

    flow: np.ndarray
    """[H,W,2] float32 pixels: where each pixel of the photo goes, with its own layer"""
    hidden: np.ndarray
    """[H,W] bool, on the photo's grid: covered by another layer in the frame"""
    new: np.ndarray
    """[H,W] bool, on the frame's grid: shows what the photo did not (an eyeball or a mouth uncovered)"""


def _smooth(x: np.ndarray | float) -> np.ndarray:
    x = np.clip(x, 0, 1)
    return np.asarray(x * x * (3 - 2 * x))


def _soften(image: np.ndarray, sigma: float) -> np.ndarray:
    return np.asarray(cv2.GaussianBlur(image.astype(np.float32), (0, 0), max(sigma, 0.1)))


def _disc(radius: float) -> np.ndarray:
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * max(round(radius), 1) + 1,) * 2))


# ------------------------------------------------------------------- cuts


class Slit:
    """A frame along two corners [2] (pixels, image left first); a contour is v in pixels at :data:`_S`."""

    def __init__(self, left: np.ndarray, right: np.ndarray) -> None:
        self.mid, self.half = (left + right) / 2, max(float(np.linalg.norm(right - left)) / 2, 1.0)
        self.e = (right - left) / max(float(np.linalg.norm(right - left)), 1e-6)
        self.n = np.array([-self.e[1], self.e[0]])
        self.frame = np.array([*self.mid, *self.e, self.half])

    def of(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(s, v) of points [...,2]."""
        d = points - self.mid
        return (d @ self.e) / self.half, d @ self.n

    def to(self, s: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Points [...,2] of (s, v)."""
        return np.asarray(self.mid + s[..., None] * self.half * self.e + v[..., None] * self.n)

    def contour(self, points: np.ndarray, power: float = 1.0) -> np.ndarray:
        """(1 - s^2)^power times the polynomial through points [k,2] between the corners, as lids and lips are."""
        s, v = self.of(points)
        s = np.clip(s, -0.92, 0.92)
        powers = np.vander(s, len(points), increasing=True)
        # Landmarks that fall on each other give no polynomial; the least one does.
        weights = np.linalg.lstsq(powers, v / (1 - s**2) ** power, rcond=0.05)[0]
        lens = np.maximum(1 - _S**2, 0) ** power
        bound = 1.5 * np.abs(v).max()
        return np.asarray(np.clip(lens * (np.vander(_S, len(points), increasing=True) @ weights), -bound, bound))

    def line(self, points: np.ndarray) -> np.ndarray:
        """Straight from point to point [k,2], continued level."""
        s, v = self.of(points)
        k = np.argsort(s)
        return np.interp(_S, s[k], v[k])

    def slope(self, edge: np.ndarray) -> np.ndarray:
        """Cosine of the edge's slope: a vertical distance times it is the distance across the edge."""
        return np.asarray(1 / np.hypot(1, np.gradient(edge, 2 * _REACH / (_N - 1) * self.half)))


def _at(edge: np.ndarray, s: np.ndarray) -> np.ndarray:
    return np.asarray(np.interp(s, _S, edge))


class Edge:
    """Points (s, v) of a photo that motion is read at again and again: ``edge`` is v in pixels at :data:`_S`."""

    def __init__(self, slit: Slit, edge: np.ndarray, s: np.ndarray) -> None:
        self.v, self.down = _at(edge, s), slit.n
        self._at = slit.to(s, self.v).astype(np.float32)[None]

    def shift(self, field: np.ndarray) -> np.ndarray:
        """What ``field`` [H,W,2] says there: [n,2] pixels."""
        return cv2.remap(field, self._at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[0]

    def arrived(self, field: np.ndarray) -> np.ndarray:
        """v after ``field``."""
        return np.asarray(self.v + self.shift(field) @ self.down)


# ------------------------------------------------------------------- kernels


@njit(cache=True, nogil=True)
def _of(frame: np.ndarray, x: float, y: float) -> tuple[float, float]:
    dx, dy = x - frame[0], y - frame[1]
    return (dx * frame[2] + dy * frame[3]) / frame[4], dy * frame[2] - dx * frame[3]


@njit(cache=True, nogil=True)
def _on(edge: np.ndarray, s: float) -> float:
    t = (s + _REACH) * ((_N - 1) / (2 * _REACH))
    if t <= 0:
        return float(edge[0])
    if t >= _N - 1:
        return float(edge[_N - 1])
    i = int(t)
    t -= i
    return float((1 - t) * edge[i] + t * edge[i + 1])


@njit(cache=True, nogil=True)
def _step(x: float) -> float:
    x = min(max(x, 0.0), 1.0)
    return x * x * (3 - 2 * x)


@njit(cache=True, nogil=True)
def _below(a: float, su: float, sl: float, depth: float, cos: float) -> tuple[float, float]:
    """Shares of the lower side and of what is behind, where the upper side has ``a``: nothing shows beyond corners."""
    b = min(max(0.5 + depth * cos, 0.0), 1.0)
    hole = max(1 - a - b, 0.0)
    if min(abs(su), abs(sl)) > 1.02:
        hole = 0.0
    return 1 - a - hole, hole


@njit(cache=True, nogil=True)
def _lip_basis(
    box: np.ndarray, frame: np.ndarray, iod: float, up: np.ndarray, low: np.ndarray, gap: float, chin: float,
    gate: np.ndarray, loose: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """[7,h,w] float32 in the box (y0, y1, x0, x1): the upper side's lift, closing and jaw, the lower side's drop,
    closing and jaw, downwards in pixels at strength 1; the share of the subject's left. ``loose`` is the gate of the
    jaw, which moves further and so fades more slowly."""
    out = np.zeros((7, box[1] - box[0], box[3] - box[2]), np.float32)
    near = min(1.0, _FAR / max(gap, 1e-3))
    opened = min(max(1 - 1.2 * (gap - 0.1), 0.35), 1.0)
    for j in range(out.shape[1]):
        for i in range(out.shape[2]):
            g = gate[box[0] + j, box[2] + i]
            s, v = _of(frame, box[2] + i, box[0] + j)
            x = s * frame[4] / iod
            out[6, j, i] = 1 / (1 + np.exp(min(max(-x / 0.05, -50.0), 50.0)))
            if g == 0:
                continue
            eu, el = _on(up, s), _on(low, s)
            above, below = max(eu - v, 0.0) / iod, max(v - el, 0.0) / iod
            lens = max(1 - s * s, 0.0)
            fade_up, fade_low = np.exp(-((above / 0.20) ** 2)), np.exp(-((below / 0.26) ** 2))
            width = (el - eu) * near
            out[0, j, i] = -g * iod * lens * fade_up
            out[1, j, i] = g * 0.42 * width * fade_up
            out[3, j, i] = g * iod * lens * (1 - _step((below - 0.35) / 0.45))  # the chin's middle goes along
            out[4, j, i] = -g * 0.58 * width * fade_low
            body = 0.42 * np.exp(-((x / 0.9) ** 4)) + 0.58 * max(1 - (x / 0.46) ** 2, 0.0)
            body *= opened * loose[box[0] + j, box[2] + i] * iod
            body *= (1 - _step((v - 1.02 * chin) / (0.75 * iod))) * _step((v / iod + 0.80) / 0.90)
            r = min(abs(s) / 1.05, 1.0) ** 3
            out[2, j, i] = 0.8 * body * r  # the upper lip's middle stays, the corners follow
            out[5, j, i] = body * (1 - 0.2 * r)
            if abs(s) >= 1.05:  # one skin beyond the corners
                out[3, j, i], out[4, j, i], out[5, j, i] = out[0, j, i], out[1, j, i], out[2, j, i]
    return out


@njit(cache=True, nogil=True)
def _gated(skin: np.ndarray, gate: np.ndarray, out: np.ndarray) -> float:
    """Fill ``out`` with ``gate`` times ``skin``; an upper bound of its largest length."""
    most = np.float32(0)
    for y in range(gate.shape[0]):
        for x in range(gate.shape[1]):
            g = gate[y, x]
            u, v = g * skin[y, x, 0], g * skin[y, x, 1]
            out[y, x, 0], out[y, x, 1] = u, v
            most = max(most, abs(u) + abs(v))
    return float(most)


@njit(cache=True, nogil=True)
def _lip_sides(
    basis: np.ndarray, box: np.ndarray, frame: np.ndarray, weights: np.ndarray, under: np.ndarray, above: np.ndarray,
    below: np.ndarray, seen: np.ndarray,
) -> tuple[float, float]:  # fmt: skip
    """Add motion of the lips' two sides of weights [2,4] (left, right) to that of the skin, which all three arrays
    hold; ``seen`` is below the lips where ``under``. Upper bounds of the largest length and of how far the sides
    part."""
    most, apart = np.float32(0), np.float32(0)
    w = np.empty((2, 4), np.float32)
    w[:] = weights
    ex, ey = np.float32(frame[2]), np.float32(frame[3])
    for j in range(basis.shape[1]):
        for i in range(basis.shape[2]):
            y, x = box[0] + j, box[2] + i
            half = basis[6, j, i]
            lift = w[1, 0] + half * (w[0, 0] - w[1, 0])
            drop = w[1, 1] + half * (w[0, 1] - w[1, 1])
            jaw = w[1, 2] + half * (w[0, 2] - w[1, 2])
            close = w[1, 3] + half * (w[0, 3] - w[1, 3])
            up = lift * basis[0, j, i] + close * basis[1, j, i] + jaw * basis[2, j, i]
            low = drop * basis[3, j, i] + close * basis[4, j, i] + jaw * basis[5, j, i]
            if up != 0 or low != 0:
                u, v = above[y, x, 0], above[y, x, 1]
                above[y, x, 0], above[y, x, 1] = u - up * ey, v + up * ex
                below[y, x, 0], below[y, x, 1] = u - low * ey, v + low * ex
                own = low if under[y, x] else up
                seen[y, x, 0], seen[y, x, 1] = u - own * ey, v + own * ex
                most = max(most, abs(u) + abs(v) + max(abs(up), abs(low)) * np.float32(1.5))
                apart = max(apart, abs(low - up))
    return float(most), float(apart)


@njit(cache=True, nogil=True)
def _whole_jaw(
    jaw: np.ndarray, taken: np.ndarray, with_jaw: np.ndarray, drop: np.ndarray, way: np.float32, lip_n: np.ndarray,
    out: np.ndarray,
) -> None:  # fmt: skip
    """Fill ``out`` [H,W,2] with a generator's ``jaw`` where it is ``taken``, and with what lips do instead at them:
    ``with_jaw`` [2,H,W] of the right and the left, ``drop`` [2] of the left and the right."""
    right, left = np.float32(drop[1]), np.float32(drop[0])
    for y in range(jaw.shape[0]):
        for x in range(jaw.shape[1]):
            t = way * taken[y, x]
            own = right * with_jaw[0, y, x] + left * with_jaw[1, y, x]
            out[y, x, 0] = t * jaw[y, x, 0] + own * lip_n[0]
            out[y, x, 1] = t * jaw[y, x, 1] + own * lip_n[1]


@njit(cache=True, nogil=True)
def _jaw_sides(
    whole: np.ndarray, read: np.ndarray, loose: np.ndarray, share: np.ndarray, under: np.ndarray, above: np.ndarray,
    below: np.ndarray, seen: np.ndarray, low: np.ndarray,
) -> tuple[float, float]:  # fmt: skip
    """Add a jaw to the motion of the lips' two sides, in place, and say in ``low`` [H,W,2] what the lower has of it:
    what is ``read`` below its lip. Upper bounds of its largest length and of how far it parts the sides."""
    most, apart = np.float32(0), np.float32(0)
    for y in range(whole.shape[0]):
        for x in range(whole.shape[1]):
            g = loose[y, x]
            u, v = g * read[y, x, 0], g * read[y, x, 1]
            up_u, up_v = g * share[y, x] * whole[y, x, 0], g * share[y, x] * whole[y, x, 1]
            low[y, x, 0], low[y, x, 1] = u, v
            above[y, x, 0] += up_u
            above[y, x, 1] += up_v
            below[y, x, 0] += u
            below[y, x, 1] += v
            seen[y, x, 0] += u if under[y, x] else up_u
            seen[y, x, 1] += v if under[y, x] else up_v
            most = max(most, abs(u) + abs(v))
            apart = max(apart, (u - up_u) ** 2 + (v - up_v) ** 2)
    return float(most), float(np.sqrt(apart))


_LUMA = np.array([0.299, 0.587, 0.114])
_COLOURED = (1.0, 3.0)
"""Grey levels, rms, by which a picture's colours differ from those of its own brightness: of 6 grey photographs 0, of
14 coloured ones 14.6 to 42; crops of people with dark skin have 6. Between the two ends the share of colour grows."""


def _toned(image: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """``colours`` [n,3] as ``image`` [H,W,3] has them: a grey or toned print has one colour for each brightness."""
    pixels = image.reshape(-1, 3).astype(np.float32)
    light = pixels @ _LUMA.astype(np.float32)
    own = pixels - light[:, None]
    at = (light / 16).astype(np.intp)
    count = np.bincount(at, minlength=16)
    mean = np.stack([np.bincount(at, own[:, i], 16) for i in range(3)], 1) / np.maximum(count, 1)[:, None]
    off = np.sqrt(np.square(own - mean[at]).sum(1).mean())
    share = np.clip((off - _COLOURED[0]) / (_COLOURED[1] - _COLOURED[0]), 0, 1)
    if share == 1:
        return colours
    seen, wanted = np.flatnonzero(count), colours @ _LUMA
    centre = np.bincount(at, light, 16)[seen] / count[seen]
    toned = wanted[:, None] + np.stack([np.interp(wanted, centre, mean[seen, i]) for i in range(3)], 1)
    return np.asarray(toned + share * (colours - toned))


_TEETH = np.array([[0.135, 0.24, 0.355, 0.465, 0.575], [0.035, 0.02, 0.03, 0.012, 0.0]])
_LOWER = np.array([[0.085, 0.175, 0.28, 0.385, 0.50], [0.0, 0.0, 0.008, 0.005, 0.012]])
"""Upper and lower teeth from the middle outwards: where each ends, and its edge below the line of the closed lips."""


@njit(cache=True, nogil=True)
def _tooth(rows: np.ndarray, x: float) -> tuple[float, float, int]:
    """(distance from the tooth's middle in half widths, its edge, its number) at ``x`` >= 0; -1 beyond the last."""
    start = 0.0
    for k in range(rows.shape[1]):
        if x < rows[0, k]:
            half = (rows[0, k] - start) / 2
            return abs(x - start - half) / half, rows[1, k], k
        start = rows[0, k]
    return 1.0, 0.0, -1


@njit(cache=True, nogil=True)
def _mouth(
    x: float, d: float, low: float, rows: float, gap: float, depth: float, iod: float, tongue: np.ndarray,
    white: np.ndarray, dark: np.ndarray, out: np.ndarray,
) -> None:  # fmt: skip
    """Colour behind lips that part, from ``dark`` at the back. IOD: x from the middle, d below the upper and ``low``
    below the lower lip's line as the jaw moved it, ``gap`` the widest of the mouth, ``depth`` under the upper lip's
    edge; ``rows`` of teeth: 2, 1 (the lower one) or 0."""
    r, g, b = dark
    x = abs(x)
    wide = _step(gap / 0.15)
    side = np.exp(-((x / 0.42) ** 2))
    # The tongue rests behind the lower teeth and goes with the jaw; the further back the darker.
    top = -0.04 - 0.10 * wide + 0.5 * x * x
    cover = _step((low - top) / 0.05) * _step((0.38 - x) / 0.12) * wide
    lit = (0.45 + 0.55 * _step((low - top) / 0.12)) * (0.6 + 0.4 * side) * (1 - 0.10 * np.exp(-((x / 0.018) ** 2)))
    r += cover * (tongue[0] * lit - r)
    g += cover * (tongue[1] * lit - g)
    b += cover * (tongue[2] * lit - b)
    light = (0.45 + 0.55 * wide) * side
    t, edge, k = _tooth(_LOWER, x)
    if k >= 0 and rows > 0:
        inside = low - edge - 0.012 * t**6
        cover = min(max(0.5 + inside * iod, 0.0), 1.0) * side
        bright = light * (0.88 - 0.20 * t**4 - 0.10 * np.exp(-max(inside, 0.0) / 0.012))
        r += cover * (white[0] * bright - r)
        g += cover * (white[1] * bright - g)
        b += cover * (white[2] * bright - b)
    t, edge, k = _tooth(_TEETH, x)
    if k >= 0 and rows > 1:
        inside = edge - 0.03 * t**6 - d
        cover = min(max(0.5 + inside * iod, 0.0), 1.0) * side
        bright = light * (0.95 - 0.24 * t**4 - 0.10 * np.exp(-max(inside, 0.0) / 0.015))
        r += cover * (white[0] * bright - r)
        g += cover * (white[1] * bright - g)
        b += cover * (white[2] * bright - b)
    shade = 1 - 0.55 * np.exp(-depth / 0.02)  # the upper lip's
    out[0], out[1], out[2] = r * shade, g * shade, b * shade


@njit(cache=True, nogil=True)
def _follows(s: float) -> float:
    """Share of a corner's way that what is behind the lips goes along. Teeth do not move, and the middle does not; but
    where a mouth widens, what its corners hid are more teeth, not the dark that was seen beside the last."""
    return _step((abs(s) - 0.35) / 0.65)


@njit(cache=True, nogil=True)
def _with_jaw(v: Any, line: Any, band: np.ndarray, drop: float) -> Any:
    """Where of a mouth's own pixels what is seen at ``v`` comes from, after its jaw dropped by ``drop``: above the
    ``band`` [3] (below ``line``) things belong to the skull, below it to the jaw, and it is drawn out between them."""
    a, between = line + band[0], band[1] - band[0]
    wide = max(between + drop, 0.0)
    beyond = np.maximum(v - a, 0.0)
    drawn = np.minimum(beyond, wide)
    return np.minimum(v, a) + drawn * between / max(wide, 1e-9) + beyond - drawn


@njit(cache=True, nogil=True)
def _lips(
    image: np.ndarray, above: np.ndarray, below: np.ndarray, most: float, head: np.ndarray, frame: np.ndarray,
    edges: np.ndarray, own: np.ndarray, rim: np.ndarray, place: np.ndarray, band: np.ndarray, stay: float, iod: float,
    moved: np.ndarray, colours: np.ndarray, corners: np.ndarray, inset: int, out: np.ndarray, share: np.ndarray,
) -> None:  # fmt: skip
    """Both lips over the mouth, into ``out`` [H-2I,W-2I,3], which shows the skin inside the ``inset`` I, and shares
    [4,H,W] unless they are empty.

    ``image``: planes, as ``own``, of the photo's mouth carried on and (the fourth) how much of it counts, at ``place``
    (y, x). ``head`` [H,W,2]: backward motion of the head, or empty. ``edges`` [4,N]: upper and lower lip, cosines of
    their slopes. ``rim`` [h,w]: where the mouth shows itself at rest, or empty: a closed mouth. ``moved``: drop of the
    jaw, widest gap, IOD. ``colours`` [3,3]: of the tongue, teeth in full light, the mouth's dark. ``corners`` [2,2]:
    how far the corners went, which the outer parts of the mouth's own pixels follow; the jaw they follow by ``band``
    (:func:`_with_jaw`).
    """
    height, width = above.shape[:2]
    one, two, inner = np.empty(3, np.float32), np.empty(3, np.float32), np.empty(3, np.float32)
    seen = np.empty(3, np.float32)
    top, bottom = edges[0].min() - 2 - most, edges[1].max() + 2 + most
    reach = 1.3 * frame[4]
    far = most + 6 if head.size else 2.0
    high, wide = max(-top, bottom) + abs(frame[3]) * reach + far, reach + (bottom - top) * abs(frame[3]) + far
    for y in range(max(int(frame[1] - high), inset), min(int(frame[1] + high) + 1, height - inset)):
        for x in range(max(int(frame[0] - wide), inset), min(int(frame[0] + wide) + 1, width - inset)):
            qx, qy = float(x), float(y)
            if head.size:
                qx += head[y, x, 0]
                qy += head[y, x, 1]
            s, v = _of(frame, qx, qy)
            if abs(s) >= 1.3 or v < top:
                continue
            if v > bottom:
                if share.size:
                    share[0, y, x], share[1, y, x] = 0, 1
                continue
            px, py = _source(above, qx, qy, 9)
            su, vu = _of(frame, px, py)
            a = min(max(0.5 + (_on(edges[0], su) - vu) * _on(edges[2], su), 0.0), 1.0)
            b, hole = 0.0, 0.0
            lx, ly = px, py
            if a < 1:
                lx, ly = _source(below, qx, qy, 9)
                sl, vl = _of(frame, lx, ly)
                b, hole = _below(a, su, sl, vl - _on(edges[1], sl), _on(edges[3], sl))
            if share.size:
                share[0, y, x], share[1, y, x], share[2, y, x], share[3, y, x] = a, b, 0, hole
            one[:] = two[:] = inner[:] = 0
            if a > 0:
                one[0], one[1], one[2] = _colour(image, px, py)
            if b > 0:
                two[0], two[1], two[2] = _colour(image, lx, ly)
            if hole > 0:
                low = (v - _on(edges[1], s)) / iod - moved[0]
                depth = max(vu - _on(edges[0], su), 0.0) / iod
                _mouth(
                    s * frame[4] / iod, (v - _on(edges[0], s)) / iod, low, band[2], moved[1], depth, iod, colours[0],
                    colours[1], colours[2], inner,
                )  # fmt: skip
                if own.size:
                    k, follows = int(s > 0), _follows(s)
                    ox, oy = qx - follows * corners[k, 0], qy - follows * corners[k, 1]
                    line = (_on(edges[0], s) + _on(edges[1], s)) / 2
                    back = _with_jaw(v, line, band, moved[0] * iod) - v
                    ox, oy = ox - back * frame[3], oy + back * frame[2]
                    i = _clamp(int(np.floor(ox - place[1] + 0.5)), rim.shape[1] - 1)
                    j = _clamp(int(np.floor(oy - place[0] + 0.5)), rim.shape[0] - 1)
                    seen[0], seen[1], seen[2] = _colour(own, ox - place[1], oy - place[0])
                    for c in range(3):
                        inner[c] += own[3, j + PAD, i + PAD] * (seen[c] - inner[c])
                    if rim[j, i] and stay > 0:
                        seen[0], seen[1], seen[2] = _colour(image, ox, oy)
                        for c in range(3):
                            inner[c] += stay * (seen[c] - inner[c])
            for c in range(3):
                out[y - inset, x - inset, c] = a * one[c] + b * two[c] + hole * inner[c]


@njit(cache=True, nogil=True)
def _lids(
    image: np.ndarray, above: np.ndarray, below: np.ndarray, head: np.ndarray, frame: np.ndarray, box: np.ndarray,
    curves: np.ndarray, numbers: np.ndarray, ball: np.ndarray, rim: np.ndarray, bare: np.ndarray, lash: np.ndarray,
    inset: int, out: np.ndarray, share: np.ndarray,
) -> None:  # fmt: skip
    """Lids over the eyeball, into ``out`` as in :func:`_lips`; they move over skin that has moved already, ``above``
    the eye and ``below`` it.

    ``image``, ``ball``, ``bare``: planes.
    ``curves`` [12,N]: edges at the source (upper with hem, lower) and their cosines, edges in the frame (upper, lower),
    steps down of both, height of the lid over the frame's edge, darkness of the lash line, how far each edge has
    uncovered the eyeball (0 to 1). ``numbers``: IOD, closure, whether lids move.
    """
    height, width = above.shape[:2]
    iod, shut, moves = numbers
    one, two, inner = np.empty(3, np.float32), np.empty(3, np.float32), np.empty(3, np.float32)
    extra = np.empty(3, np.float32)
    hang_on = min(1.0, 1.6 * shut)
    for y in range(max(box[0], inset), min(box[1], height - inset)):
        for x in range(max(box[2], inset), min(box[3], width - inset)):
            qx, qy = float(x), float(y)
            if head.size:
                qx += head[y, x, 0]
                qy += head[y, x, 1]
            s, v = _of(frame, qx, qy)
            if abs(s) >= 1.5:
                continue
            du, dl = _on(curves[6], s), _on(curves[7], s)
            eu, el = _on(curves[4], s), _on(curves[5], s)
            # Steps backward: whole at the margin, falling to 0 over the lid as it unfolds. Slope D / (H + D) < 1.
            reach = _on(curves[8], s) + max(du, 0.0)
            t = min(max((reach - eu + v) / max(reach - 0.05 * iod, 1e-3), 0.0), 1.0)
            tl = min(max(1 - (v - el) / (0.42 * iod - min(dl, 0.0)), 0.0), 1.0)
            low, up = _on(curves[1], s), _on(curves[0], s)
            if (moves == 0 and v > max(el, low) + 2) or (tl == 0 and v > el):
                if share.size:
                    share[0, y, x], share[2, y, x] = 0, 1
                continue
            if (moves == 0 and v < min(eu, up) - 2) or (t == 0 and v < eu):
                continue
            a, b, hole = 0.0, 0.0, 0.0
            px, py, su = qx, qy, s
            if v < eu + 2:  # or nothing of the upper lid is here
                px, py = _source(above, qx + du * t * frame[3], qy - du * t * frame[2], 9)
                su, vu = _of(frame, px, py)
                a = min(max(0.5 + (_on(curves[0], su) - vu) * _on(curves[2], su), 0.0), 1.0)
            lx, ly, sl = px, py, su
            if a < 1:
                lx, ly = _source(below, qx + dl * tl * frame[3], qy - dl * tl * frame[2], 9)
                sl, vl = _of(frame, lx, ly)
                b, hole = _below(a, su, sl, vl - _on(curves[1], sl), _on(curves[3], sl))
            if share.size:
                share[0, y, x], share[1, y, x], share[2, y, x], share[3, y, x] = a, 0, b, hole
            if moves == 0 and hole == 0:
                continue
            depth = v - eu
            # The margin keeps its dark line, and lashes turn from above the margin to below it.
            seam, hang = 1.0, 1.0
            if shut > 0:
                line = np.exp(-((depth / (0.014 * iod + 0.3)) ** 2)) * _step((1 - abs(s)) / 0.2)
                seam = 1 - (1 - _on(curves[9], s)) * shut * line
            one[:] = 0
            if a > 0:
                one[0], one[1], one[2] = _colour(image, px, py)
                if shut > 0:
                    extra[0], extra[1], extra[2] = _colour(bare, px - box[2], py - box[0])
                    for c in range(3):
                        one[c] = (one[c] + hang_on * (extra[c] - one[c])) * seam
            if shut > 0 and a < 1:
                fx, fy = qx + (du + 2.0 * depth) * frame[3] - box[2], qy - (du + 2.0 * depth) * frame[2] - box[0]
                ix, iy = int(np.floor(fx)), int(np.floor(fy))
                ax, ay = fx - ix, fy - iy
                x0, x1 = _clamp(ix, lash.shape[1] - 1), _clamp(ix + 1, lash.shape[1] - 1)
                y0, y1 = _clamp(iy, lash.shape[0] - 1), _clamp(iy + 1, lash.shape[0] - 1)
                dark = (1 - ay) * ((1 - ax) * lash[y0, x0] + ax * lash[y0, x1]) + ay * (
                    (1 - ax) * lash[y1, x0] + ax * lash[y1, x1]
                )
                hang = 1 - (1 - dark) * shut * _step(depth + 0.5)
            two[:] = 0
            if b > 0:
                two[0], two[1], two[2] = _colour(image, lx, ly)
                if shut > 0 and abs(sl) > 0.8:
                    extra[0], extra[1], extra[2] = _colour(bare, lx - box[2], ly - box[0])
                    for c in range(3):
                        two[c] += hang_on * (extra[c] - two[c])
            inner[:] = 0
            if hole > 0:
                inner[0], inner[1], inner[2] = _colour(ball, qx - box[2], qy - box[0])
                i, j = (
                    _clamp(int(qx + 0.5) - box[2], rim.shape[1] - 1),
                    _clamp(int(qy + 0.5) - box[0], rim.shape[0] - 1),
                )
                part = _step((v - up) / max(low - up, 1e-3))
                wide = _on(curves[10], s)
                own = rim[j, i] * (1 - wide - part * (_on(curves[11], s) - wide))
                # The lid's shadow lies on the eyeball and goes with the lid. What is under the lid has it from the
                # nearest that is seen, where it is fainter.
                now = 1 - 0.30 * np.exp(-max(depth, 0.0) / (0.022 * iod))
                was = 1 - 0.30 * np.exp(-max(v - up, _HEM * iod) / (0.022 * iod))
                shade = min(max(now / was, 0.6), 1.06)
                for c in range(3):
                    inner[c] *= shade
                if own > 0:
                    extra[0], extra[1], extra[2] = _colour(image, qx, qy)
                    was = 1 - 0.30 * np.exp(-max(v - up, 0.0) / (0.022 * iod))
                    shade = min(max(now / was, 0.6), 1.06)
                    for c in range(3):
                        inner[c] += own * (shade * extra[c] - inner[c])
            share_of = _step((1.5 - abs(s)) / 0.2)
            for c in range(3):
                mixed = a * one[c] + (b * two[c] + hole * inner[c]) * seam * hang
                seen = out[y - inset, x - inset, c]
                out[y - inset, x - inset, c] = seen + share_of * (min(mixed, 255.0) - seen)


@njit(cache=True, nogil=True, error_model="numpy")
def _lid_curves(
    up: np.ndarray, low: np.ndarray, lid: np.ndarray, line: np.ndarray, slopes: np.ndarray, up0: np.ndarray,
    low0: np.ndarray, aus: np.ndarray, rows: np.ndarray, side: int, iod: float, half: float,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """``curves`` and ``numbers`` of :func:`_lids`, of an eye with contours ``up`` and ``low`` [N], whose cosines are
    ``slopes`` [2,N], and whose skin has moved to ``up0`` and ``low0``; aus [K,2] in [0,1], ``rows`` of :data:`LIDS`."""
    closure, opened, fall, rise = 0.0, 0.0, 0.0, 0.0
    for k in range(len(rows)):
        strength = np.float64(aus[rows[k], side])
        if _SHUTTING[k]:
            closure, opened = max(closure, strength), min(opened, strength)
        else:
            fall += _LID_SHARES[k, 0] * strength
            rise += _LID_SHARES[k, 1] * strength
    if opened < 0:  # in shares of an ordinary eye: what is left of this one says nothing of its lid's way
        fall += opened * EYE * iod / max((low - up).max(), 0.02 * iod)
    fall, rise, drop, meet = min(fall, 0.9), min(rise, 0.6), _SHUT[0] * closure, _SHUT[1] * closure
    still, most_shut = max(1 - closure, 0.0), min(closure, 1.0)
    out = np.empty((12, _N))
    moves = 0.0
    for i in range(_N):
        own = max(low[i] - up[i], 0.0) if _BETWEEN[i] else 0.0
        gap = max(low0[i] - up0[i], 0.0) if _BETWEEN[i] else 0.0
        # What the skin has closed already counts.
        lower = fall * own if fall < 0 else max(fall * own - max(up0[i] - up[i], 0.0), 0.0)
        lift = rise * own if rise < 0 else max(rise * own - max(low[i] - low0[i], 0.0), 0.0)
        # Past the wet rim of the lower lid; a closing lid takes what it finds.
        down = drop * (gap + 0.016 * iod * _LENS[i]) + still * lower
        most = 0.15 * gap if closure > 0.9 else max(gap - down, 0.0)
        lift = min((1 - closure) * lift + meet * gap, most)
        upper, under = up0[i] + down, max(low0[i] - lift, up0[i] + down)
        hem = 0.020 * iod * most_shut * _LENS[i]  # a shut lid ends on its lash line
        out[0, i], out[1, i], out[2, i], out[3, i] = up[i] - hem, low[i], slopes[0, i], slopes[1, i]
        out[4, i], out[5, i], out[6, i], out[7, i] = upper - hem, under, down, -lift
        out[8, i], out[9, i] = 0.5 * lid[i], line[i]
        wide = 0.5 if abs(_S[i]) < 0.95 else 0.0
        out[10, i], out[11, i] = _step(wide * (up[i] - upper)), _step(wide * (under - low[i]))
        if down != 0 or lift != 0:
            moves = 1.0
    if closure > 0:
        step = 2 * _REACH / (_N - 1) * half
        for i in range(_N):
            before, after = max(i - 1, 0), min(i + 1, _N - 1)
            out[2, i] = 1 / np.hypot(1.0, (out[0, after] - out[0, before]) / ((after - before) * step))
    return out, np.array([iod, most_shut, moves])


@njit(cache=True, nogil=True)
def _lid_flow(
    flow: np.ndarray, label: np.ndarray, frame: np.ndarray, box: np.ndarray, curves: np.ndarray, iod: float
) -> None:
    """Add the lids' own step to the flow of the skin (label 0 above the eye, 2 below), in place."""
    for y in range(box[0], box[1]):
        for x in range(box[2], box[3]):
            kind = label[y, x]
            s0, _ = _of(frame, x, y)
            if abs(s0) >= 1.5 or (kind != 0 and kind != 2):
                continue
            ax, ay = x + flow[y, x, 0], y + flow[y, x, 1]
            g = 0.0
            for _ in range(16):  # down by g, with g = D t(y + g)
                s, v = _of(frame, ax - g * frame[3], ay + g * frame[2])
                if kind == 0:
                    d = _on(curves[6], s)
                    reach = _on(curves[8], s) + max(d, 0.0)
                    t = min(max((reach - _on(curves[4], s) + v) / max(reach - 0.05 * iod, 1e-3), 0.0), 1.0)
                else:
                    d = _on(curves[7], s)
                    t = min(max(1 - (v - _on(curves[5], s)) / (0.42 * iod - min(d, 0.0)), 0.0), 1.0)
                g = d * t
            flow[y, x, 0] -= g * frame[3]
            flow[y, x, 1] += g * frame[2]


# ------------------------------------------------------------------- a photo


_EYES = (((42, 45), (43, 44), (46, 47), range(22, 27)), ((36, 39), (37, 38), (40, 41), range(17, 22)))
"""Of the subject's left and right eye: corners from image left to right, upper lid, lower lid, brow."""
_NONE2, _NONE4 = np.zeros((0, 0, 2), np.float32), np.zeros((0, 0, 0), np.float32)


def _carried_out(image: np.ndarray, inside: np.ndarray, blur: float) -> tuple[np.ndarray, np.ndarray]:
    """``image`` outside ``inside`` replaced by the nearest inside pixel, softened; and how far that is, pixels."""
    outside = (~inside).astype(np.uint8)
    away, label = cv2.distanceTransformWithLabels(outside, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    colour = np.zeros((int(label.max()) + 1, 3), np.float32)
    colour[label[inside]] = image[inside]
    out = colour[label]
    out = out + _smooth(away / (2 * blur))[..., None] * (_soften(out, max(blur, 0.5)) - out)
    return np.where(inside[..., None], image, out).astype(np.float32), away


def _closed(grey: np.ndarray, hole: np.ndarray, radius: float) -> np.ndarray:
    """Morphological closing of ``grey`` [h,w], to which ``hole`` [h,w] bool neither gives nor takes."""
    wide = cv2.dilate(np.where(hole, 0, grey), _disc(radius))
    return np.where(hole, grey, cv2.erode(np.where(hole, 255, wide), _disc(radius)))


@dataclass(frozen=True, eq=False)
class _Eye:
    slit: Slit
    box: np.ndarray
    """y0, y1, x0, x1"""
    up: np.ndarray
    low: np.ndarray
    """Contours: the lash line goes with the upper lid."""
    lid: np.ndarray
    """Height of the lid up to the brow's lower edge, pixels, at each s"""
    ball: np.ndarray
    """Planes, as ``bare``"""
    rim: np.ndarray
    bare: np.ndarray
    lash: np.ndarray
    line: np.ndarray
    middle: np.ndarray
    """y0, y1, x0, x1 of what lies between the corners, above and below"""
    over: np.ndarray
    off: np.ndarray
    under: np.ndarray
    """[h,w,2] float32 pixels of the picture: where in ``middle`` the upper lid reads the motion of its skin and what
    bounds it, and the lower lid its own"""
    lower: np.ndarray
    """[h,w,1] bool: below the middle of the opening"""

    @cached_property
    def slopes(self) -> np.ndarray:
        """[2,N]: cosines of both contours' slopes."""
        return np.stack([self.slit.slope(self.up), self.slit.slope(self.low)])


@dataclass(frozen=True, eq=False)
class _Moved:
    """Skin that moved, [H,W,2] float32 pixels."""

    above: np.ndarray
    below: np.ndarray
    seen: np.ndarray
    """Below the lips' line that of the lower side, above it that of the upper; the same at the eyes."""
    lids: np.ndarray
    """As ``above``, which holds that of the upper lids; of the lower lids at the eyes"""
    cut: bool
    """Whether the mouth is looked at as a cut."""
    most: float
    """Upper bounds of the largest length, and of how far the lips part, pixels."""
    apart: float
    mouth: np.ndarray
    """Drop of the jaw and widest gap, IOD."""


class Layers:
    """What depends on the photo alone. :meth:`frame` makes a frame of it, :meth:`truth` says what that shows.

    image [H,W,3] uint8 RGB; landmarks [68,2] pixels; uv [H,W,2] canonical coordinates of its pixels. :attr:`image` is
    the photo without glasses, :attr:`front` those that were found (:mod:`mesynth.motion.glasses`), or None.
    """

    def __init__(self, image: np.ndarray, landmarks: np.ndarray, uv: np.ndarray) -> None:
        self.points = landmarks.astype(np.float64)
        # Skin, lids and folds are those of the photo without glasses, which are laid over every frame.
        self.image, self.front = without_glasses(np.ascontiguousarray(image), self.points)
        self.elsewhere: dict[str, Any] = {}
        """By device, what mesynth.motion.batched keeps of the photo there."""
        self._photo = planes_of(self.image)
        p = self.points
        centres = p[36:42].mean(0), p[42:48].mean(0)
        axis = centres[1] - centres[0]
        self.iod = max(float(np.hypot(*axis)), 2.0)
        self.e = axis / max(float(np.hypot(*axis)), 1e-6)
        self.n = np.array([-self.e[1], self.e[0]])
        self.middle = (centres[0] + centres[1]) / 2
        self.skin = self._segment()
        free = cv2.distanceTransform(self.skin.astype(np.uint8), cv2.DIST_L2, 5)
        # Share of a generator's motion that is let through, [H,W]: exactly 0 where nothing but the head moves.
        self.gate = _smooth((free - 1.5) / (_FADES[0] * self.iod)).astype(np.float32)
        self._loose = _smooth((free - 1.5) / (_FADES[1] * self.iod)).astype(np.float32)
        self._mouth()
        self.eyes = tuple(self._eye(*eye) for eye in _EYES)
        self.folds = Folds(self.image, uv, *self._lit_skin(), self.iod)

    @property
    def still(self) -> np.ndarray:
        """[H,W] bool: background, hair, clothes and the frame of glasses; no expression moves them."""
        return np.asarray((self.gate == 0) | self._framed(1.0))

    def _framed(self, share: float) -> np.ndarray:
        """[H,W] bool: pixels of which glasses take at least ``share``."""
        if self.front is None:
            return np.zeros(self.image.shape[:2], np.bool_)
        return np.asarray(self.front.share >= share)

    # -------------------------------------------------------------- what stays still

    def _oval(self) -> np.ndarray:
        """Outline of the face [k,2]: the jaw, and half an ellipse over the forehead, whose outline 68 points lack."""
        p = self.points
        left, right = p[0], p[16]
        brow = (p[17:27].mean(0) - self.middle) @ self.n - 0.50 * self.iod
        angle = np.linspace(0, np.pi, 15)[1:-1]
        centre, half = (left + right) / 2, (right - left) / 2
        rise = (centre - self.middle) @ self.n - brow
        arc = centre + np.cos(angle)[:, None] * half - np.sin(angle)[:, None] * max(rise, 0.4 * self.iod) * self.n
        return np.concatenate([p[:17], arc])

    def _segment(self) -> np.ndarray:
        """Skin of face and neck [H,W] bool: GrabCut from the landmarks, with the face's own skin colour as a prior."""
        height, width = self.image.shape[:2]
        k = min(1.0, _WORKING / self.iod)
        size = max(round(width * k), 8), max(round(height * k), 8)
        image = cv2.resize(self.image, size, interpolation=cv2.INTER_AREA) if k < 1 else self.image
        scale = np.array([size[0] / width, size[1] / height])
        iod = self.iod * k

        def filled(points: np.ndarray) -> np.ndarray:
            mask = np.zeros(size[::-1], np.uint8)
            at = ((points + 0.5) * scale - 0.5).round().astype(np.int32)
            cv2.fillPoly(mask, [cv2.convexHull(at)], (1,))
            return mask

        p = self.points
        y, x = np.mgrid[: size[1], : size[0]]
        d = (np.stack([x, y], -1) + 0.5) / scale - 0.5
        chin, eyes = (d - p[8]) / self.iod, (d - self.middle) / self.iod
        neck = (np.abs(chin @ self.n - 0.15) < 0.45) & (np.abs(chin @ self.e) < 0.75)
        v = eyes @ self.n  # hair may hang over the forehead
        oval = filled(np.concatenate([self._oval(), p[17:]]))  # a nose may stick out of a turned face's outline
        wide = cv2.dilate(oval, _disc(0.22 * iod)) > 0
        mark = np.where(wide | neck, cv2.GC_PR_BGD, cv2.GC_BGD).astype(np.uint8)
        mark[oval > 0] = cv2.GC_PR_FGD
        core = (cv2.erode(oval, _disc(0.14 * iod)) > 0) & (v > -0.42)
        mark[core] = cv2.GC_FGD
        smooth = cv2.bilateralFilter(image, 5, 25, 3)
        lab = cv2.cvtColor(smooth, cv2.COLOR_RGB2LAB).astype(np.float32)
        sure = (cv2.erode(oval, _disc(0.2 * iod)) > 0) & (v > -0.3)
        for part in (p[36:42], p[42:48], p[48:60], p[17:22], p[22:27]):
            sure &= cv2.dilate(filled(part), _disc(0.08 * iod)) == 0
        if core.sum() < 20 or sure.sum() < 20 or (mark == cv2.GC_BGD).sum() < 20:
            return np.asarray(cv2.resize(oval, (width, height), interpolation=cv2.INTER_NEAREST) > 0)
        away = lab - lab[sure].mean(0)
        spread = np.linalg.inv(np.cov(lab[sure].T) + np.diag([150.0, 8.0, 8.0]))
        far = np.einsum("hwi,ij,hwj->hw", away, spread, away)
        mark[(mark == cv2.GC_PR_FGD) & (far > 14)] = cv2.GC_PR_BGD
        alike = cv2.erode((far < 3).astype(np.uint8), _disc(0.04 * iod)) > 0  # a forehead beyond dark brows
        mark[(mark == cv2.GC_PR_FGD) & alike] = cv2.GC_FGD
        mark[(mark == cv2.GC_PR_BGD) & (far < 6) & neck] = cv2.GC_PR_FGD
        cv2.setRNGSeed(1)
        cv2.grabCut(smooth, mark, (0, 0, 1, 1), np.zeros((1, 65)), np.zeros((1, 65)), 4, cv2.GC_INIT_WITH_MASK)
        skin = np.isin(mark, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
        for kind, radius in ((cv2.MORPH_OPEN, 0.03), (cv2.MORPH_CLOSE, 0.05)):
            skin = cv2.morphologyEx(skin, kind, _disc(radius * iod)).astype(np.uint8)
        if k < 1:
            grown = cv2.resize(skin.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
            skin = (grown > 0.5).astype(np.uint8)
        # The face is the part that most of its middle lies in; the tip of a nose may stand out against the background.
        _, parts = cv2.connectedComponents(skin)
        middle = cv2.resize(core.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0
        inside = np.bincount(parts[middle & (skin > 0)], minlength=1)
        return np.asarray(parts == inside.argmax() if inside.any() else middle)

    def _box(self, slit: Slit, reach: float, above: float, below: float) -> np.ndarray:
        """Rows and columns y0, y1, x0, x1 about what is so far along, above and below a cut, pixels, in the picture."""
        corners = [slit.mid + x * slit.e + y * slit.n for x in (-reach, reach) for y in (-above, below)]
        (x0, y0), (x1, y1) = np.floor(np.min(corners, 0)), np.ceil(np.max(corners, 0)) + 1
        height, width = self.image.shape[:2]
        return np.array([int(np.clip(v, 0, m)) for v, m in ((y0, height), (y1, height), (x0, width), (x1, width))])

    def _lit_skin(self) -> tuple[np.ndarray, np.ndarray]:
        """Skin of an even kind [H,W] bool, which says how the light falls; how much of a fold shows [H,W] float32."""
        p, holes = self.points, np.zeros(self.image.shape[:2], np.uint8)
        for part in (p[36:42], p[42:48], p[48:60]):
            cv2.fillPoly(holes, [cv2.convexHull(part.round().astype(np.int32))], (1,))
        near = cv2.dilate(holes, _disc(0.02 * self.iod)).astype(np.float32)
        share = _smooth(self.gate / 0.3) * (1 - _soften(near, 0.02 * self.iod))
        for part in (p[17:22], p[22:27]):
            cv2.fillPoly(holes, [cv2.convexHull(part.round().astype(np.int32))], (1,))
        even = (self.gate > 0.5) & (cv2.dilate(holes, _disc(0.07 * self.iod)) == 0)
        return even, share.astype(np.float32)

    # -------------------------------------------------------------- mouth

    def _cheeks(self) -> np.ndarray:
        """Mean colour [3] of the skin between the eyes and the mouth."""
        chosen = self.image[cheek_mask(self.image.shape[:2], self.points) & self.skin]
        return np.asarray(chosen.mean(0) if len(chosen) else self.image.reshape(-1, 3).mean(0), np.float64)

    def _mouth(self) -> None:
        p, iod = self.points, self.iod
        height, width = self.image.shape[:2]
        lip = self.lip = Slit(p[60], p[64])
        up, low = lip.contour(p[61:64]), lip.contour(p[65:68])
        middle = np.abs(_S) < 0.3
        gap = float(np.median((low - up)[middle])) / iod
        self.open = gap > _OPEN
        if not self.open:
            up = low = self._darkest((up + low) / 2, 0.035 * iod)
        else:  # a landmark contour lies a little inside: its hem goes with what is behind
            hem = (np.abs(_S) < 0.97) * (0.5 + 0.006 * iod)
            up, low = up - 0.5 * hem, low + hem
        low = np.maximum(low, up)
        self.gap = max(float(np.median((low - up)[middle])) / iod, 0.0)
        self._lips = np.stack([up, low, lip.slope(up), lip.slope(low)])
        # Points along both lips: near the middle, almost to the corners, from corner to corner.
        self._middle, self._most, self._whole = (
            (Edge(lip, up, s), Edge(lip, low, s))
            for s in (np.linspace(-0.5, 0.5, 9), np.linspace(-0.9, 0.9, 25), np.linspace(-1, 1, 25))
        )
        self.tone = self._cheeks()
        white = min(float(self.tone.mean()), 205.0) * np.array([1.18, 1.09, 0.97])
        self._colours = np.stack([self.tone * [0.68, 0.38, 0.38], white, self.tone * [0.24, 0.12, 0.11]])
        self._own, self._rim, self._place = _NONE4, np.zeros((0, 0), np.bool_), np.zeros(2)
        self._band = np.array([_FARTHER, _FARTHER, 2.0])
        y, x = np.mgrid[:height, :width]
        s, v = lip.of(np.stack([x, y], -1))
        self._under = v > _at(low, s)
        # A jaw that a generator draws: of the lower side as below its lip, of the upper side less towards its middle.
        corner = np.minimum(np.abs(s) / 1.05, 1.0)
        reach = np.maximum(_at(low, s) + _LIP_EDGE * iod - v, 0) * (1 - corner**4)
        self._jaw_from = lip.to(s, v + reach).astype(np.float32)
        self._jaw_share = (0.8 * corner**3 / (1 - 0.2 * corner**3)).astype(np.float32)
        beside = np.maximum(np.abs(s) - 1, 0) * lip.half
        off = np.maximum(np.maximum(v - _at(low, s) - _RED[1] * iod, _at(up, s) - v - _RED[0] * iod), 0)
        self._jaw_taken = _smooth(np.hypot(beside, off) / (_RED[2] * iod)).astype(np.float32)
        top = int(np.clip(lip.mid[1] - 0.95 * iod, 0, height - 1)) if abs(lip.e[1]) < 0.15 else 0
        self._jaw_box = np.array([top, height, 0, width])
        self._basis: np.ndarray | None = None
        if self.open:
            self._carry_mouth(up, low)
        self._colours = _toned(self.image, self._colours)

    def _carry_mouth(self, up: np.ndarray, low: np.ndarray) -> None:
        """Its own teeth and tongue, carried on under the lips and fading to the mouth's dark."""
        iod, lip = self.iod, self.lip
        reach = lip.half + 0.12 * iod
        y0, y1, x0, x1 = self._box(lip, reach, (0.5 + self.gap) * iod, (0.9 + self.gap) * iod)
        if y1 - y0 < 4 or x1 - x0 < 4:
            return
        part = self.image[y0:y1, x0:x1].astype(np.float32)
        y, x = np.mgrid[y0:y1, x0:x1]
        s, v = lip.of(np.stack([x, y], -1).astype(np.float64))
        edge = 0.028 * iod + 0.6  # a landmark contour lies on the red of the lip as often as not
        inside = (np.abs(s) < 0.94) & (v > _at(up, s) + edge) & (v < _at(low, s) - edge)
        if inside.sum() < 20:
            inside = (np.abs(s) < 0.8) & (v > _at(up, s) + 0.35 * (_at(low, s) - _at(up, s))) & (v < _at(low, s) - 0.5)
        if inside.sum() < 6:
            return
        seen = part[inside]
        darkest = seen[seen.mean(1) <= np.percentile(seen.mean(1), 15)].mean(0)
        brightest = seen[seen.mean(1) >= np.percentile(seen.mean(1), 85)].mean(0)
        teeth = brightest.min() > 0.6 * brightest.max()  # not gums or a tongue
        self._band = self._between_teeth(part, s, v, inside, teeth)
        if teeth:
            self._colours[1] = np.maximum(brightest * [1.0, 0.97, 0.91], 0.7 * self._colours[1])
        self._colours[2] = np.minimum(darkest, self.tone * [0.30, 0.18, 0.17])
        own, away = _carried_out(part, inside, 0.02 * iod)
        # Above the teeth there is gum; below and beside them the mouth's dark.
        far = np.where(v < (_at(up, s) + _at(low, s)) / 2, 0.12, 0.05) * iod
        fade = np.where(inside, 1, np.exp(-((away / far) ** 4)))
        self._own = planes_of(np.concatenate([own, fade[..., None]], -1).astype(np.float32))
        self._rim = (np.abs(s) < 1.02) & (v > _at(up, s) - 2) & (v < _at(low, s) + 2)  # edges are steep at the corners
        self._place = np.array([y0, x0], np.float64)

    def _between_teeth(
        self, part: np.ndarray, s: np.ndarray, v: np.ndarray, inside: np.ndarray, teeth: bool
    ) -> np.ndarray:
        """[3]: pixels from the mouth's middle line from where on what is seen no longer belongs to the upper teeth, and
        from where on to the jaw; rows of teeth to be drawn. Teeth that reach from lip to lip are upper ones."""
        up, low = _at(self._lips[0], s), _at(self._lips[1], s)
        wide = self.gap * self.iod
        if not teeth:
            return np.array([-0.2 * wide, 0.2 * wide, 1.0])
        middle = inside & (np.abs(s) < 0.5)
        t = (v - up)[middle] / np.maximum(low - up, 1e-6)[middle]
        row, light = np.clip((t * _BANDS).astype(np.intp), 0, _BANDS - 1), part.min(-1)[middle]
        seen = np.unique(row)
        # Teeth are of different length: dark is what is so almost all along a row, beside the teeth on its own side,
        # for upper ones lie in the lip's shade.
        bright = np.array([np.percentile(light[row == k], 85) for k in seen])
        at = int(bright.argmin())
        if bright[at] >= _GAP * bright.max():
            return np.array([_FARTHER, _FARTHER, 1.0])
        over = np.flatnonzero(bright[:at] >= max(_GAP * bright[:at].max(initial=0), bright[at] / _GAP))
        under = np.flatnonzero(bright[at:] >= max(_GAP * bright[at:].max(), bright[at] / _GAP))
        a = (seen[over[-1]] + 1) / _BANDS if len(over) else 0.0
        b = seen[at + under[0]] / _BANDS if len(under) else 1.0
        return np.array([(a - 0.5) * wide, (b - 0.5) * wide, float(b == 1.0)])

    def _darkest(self, line: np.ndarray, reach: float) -> np.ndarray:
        """The darkest line within ``reach`` pixels of ``line``: where closed lips meet."""
        inside, offset = np.abs(_S) < 0.93, np.linspace(-reach, reach, 21)
        grey = _soften(cv2.cvtColor(self.image, cv2.COLOR_RGB2GRAY), 0.8)
        at = self.lip.to(_S[inside, None] + 0 * offset, line[inside, None] + offset).astype(np.float32)
        cost = cv2.remap(grey, at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        cost = cost + 6 * (offset / max(reach, 1e-6)) ** 2
        moved = np.zeros_like(line)
        # The median of 15, with nothing moved beyond the ends; scipy.signal would take longer to import than all this.
        best = np.pad(offset[_soften(cost, 3).argmin(1)], 7)
        moved[inside] = np.median(np.lib.stride_tricks.sliding_window_view(best, 15), -1)
        return np.asarray(line + _soften(moved[None], 4)[0], np.float64)

    # -------------------------------------------------------------- eyes

    def _eye(self, corners: tuple[int, int], upper: tuple[int, int], lower: tuple[int, int], brow: range) -> _Eye:
        p, iod = self.points, self.iod
        slit = Slit(p[corners[0]], p[corners[1]])
        box = self._box(slit, 1.6 * slit.half, 0.55 * iod, 0.56 * iod)
        y0, y1, x0, x1 = box
        up = slit.contour(p[list(upper)], 0.75) + 0.010 * iod * (np.abs(_S) < 0.9)
        low = np.maximum(slit.contour(p[list(lower)], 0.75), up)
        lid = np.maximum(up - slit.line(p[list(brow)]) - 0.06 * iod, 0.08 * iod)
        shape = (box[1] - box[0], box[3] - box[2])
        if min(shape) < 4:
            none, empty = planes_of(np.zeros((1, 1, 3), np.float32)), np.zeros((1, 1), np.float32)
            at = np.zeros((0, 0, 2), np.float32)
            return _Eye(
                slit, np.zeros(4, int), up, low, lid, none, empty, none, empty, np.ones(_N), np.zeros(4, int), at, at,
                at, np.zeros((0, 0, 1), np.bool_),
            )  # fmt: skip
        part = self.image[y0:y1, x0:x1].astype(np.float32)
        y, x = np.mgrid[y0:y1, x0:x1]
        grid = np.stack([x, y], -1).astype(np.float64)
        s, v = slit.of(grid)
        above = _at(up, s) - v
        rim = np.clip(1.5 - above, 0, 1) * np.clip(_at(low, s) + 1.5 - v, 0, 1) * _smooth((1.06 - np.abs(s)) / 0.06)
        inside = (np.abs(s) < 0.93) & (above < -_HEM * iod - 0.6) & (v < _at(low, s) - 0.012 * iod - 0.6)
        ball = self._ball(part, grid, inside, slit, up, low)
        # Lashes are thin dark lines over the lid: a closing of the skin removes them, the ratio keeps them. Towards the
        # outer corner they lie in a tuft, and on make-up: what would be drawn out over the lid there is wider.
        grey = part.mean(-1)
        outer = s if corners[0] == 42 else -s
        seen = (np.abs(s) < 1) & (above < -0.006 * iod) & (v < _at(low, s) + 0.012 * iod)
        wider = _smooth((outer - 0.2) / 0.4) * _smooth((0.16 * iod - np.abs(above)) / (0.06 * iod))
        closed = _closed(grey, seen, 0.035 * iod)
        closed = closed + wider * (_closed(grey, seen, 0.08 * iod) - closed)
        gain = np.minimum(closed / np.maximum(grey, 8), 3)
        # Of the ratio on luminance alone dark lashes would turn orange: their colour is that of the skin beside them.
        plain = np.where(seen, 1e-3, np.clip(1.25 - gain, 0.02, 0.25))
        beside = _soften(part * plain[..., None], 0.05 * iod) / _soften(plain, 0.05 * iod)[..., None]
        tinted = beside * (closed / np.maximum(beside.mean(-1), 1))[..., None]
        bare = part * gain[..., None]
        skin = np.where(seen, 1e-3, 1.0)
        bare = (bare + _smooth((gain - 1.05) / 0.3)[..., None] * (tinted - bare)) * skin[..., None]
        even, bare = (_soften(bare, k * iod) / _soften(skin, k * iod)[..., None] for k in (0.04, 0.016))
        bare = bare + wider[..., None] * (even - bare)
        bare, striped = self._unfolded(bare, closed, np.where(seen, 0, 1), s, above)
        h = above / iod
        tops = np.minimum(0.12, 0.6 * _at(lid, s) / iod), np.minimum(0.14, 0.5 * _at(lid, s) / iod + 0.02)
        top = tops[0] + striped * (tops[1] - tops[0])
        # At a corner both lids lose theirs: what stays of a tuft there would be cut off along the line.
        under = 0.07 * _smooth((np.abs(s) - 0.8) / 0.15)
        on = _smooth((h + under - 0.004) / 0.02) * _smooth((top - h) / (0.03 - 0.01 * striped))
        on = on * _smooth((1.5 - np.abs(s)) / 0.3)
        dark = np.clip(grey / np.maximum(bare.mean(-1), 1), 0.25, 1).astype(np.float32)
        near = _smooth((h - 0.002) / 0.008) * _smooth((0.07 - h) / 0.03) * _smooth((1 - np.abs(s)) / 0.25)
        across = np.linspace(-0.02, 0.03, 9) * iod
        at = (slit.to(_S[:, None] + 0 * across, up[:, None] - across) - [x0, y0]).astype(np.float32)
        line = cv2.remap(dark, at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).min(1)
        return _Eye(
            slit, box, up, low, lid, planes_of(ball), rim.astype(np.float32),
            bare=planes_of(np.asarray(part + on[..., None] * (bare - part), np.float32)),
            lash=np.asarray(1 - (1 - _soften(dark, 0.006 * iod)) * near, np.float32),
            line=np.clip(_soften(line[None], 5)[0], 0.3, 0.65).astype(np.float64), **self._lid_sides(slit, up, low),
        )  # fmt: skip

    def _unfolded(
        self, bare: np.ndarray, grey: np.ndarray, skin: np.ndarray, s: np.ndarray, above: np.ndarray
    ) -> tuple[np.ndarray, float]:
        """``bare`` [h,w,3] with the skin over the eye evened along the lid as far as it has stripes; how far, 0 to 1.

        A narrow strip of that skin is drawn out over all of the eye: hairs of a brow or the edge of a fold in it would
        become stripes.
        """
        iod = self.iod
        strip = (skin > 0) & (np.abs(s) < 0.9) & (above > 0.004 * iod)
        strip, wider = (strip & (above < high * iod) for high in (0.08, 0.22))
        if strip.sum() < 20:
            return bare, 0.0
        light = np.percentile(grey[wider], 75)
        weight = (skin * _smooth((grey / max(light, 1.0) - 0.35) / 0.35) + 1e-3).astype(np.float32)
        wide, high = 0.10 * iod, 0.02 * iod
        soft = [cv2.GaussianBlur(x, (0, 0), sigmaX=wide, sigmaY=high) for x in (bare * weight[..., None], weight)]
        along = soft[0] / soft[1][..., None]
        even = along.mean(-1)[strip]
        striped = float(_smooth(((bare.mean(-1)[strip] / np.maximum(even, 1) - 1).std() - _STRIPES) / _STRIPES))
        near = striped * _smooth((1.15 - np.abs(s)) / 0.2) * _smooth((0.24 * iod - above) / (0.06 * iod))
        return np.asarray(bare + near[..., None] * (along - bare), np.float32), striped

    def _lid_sides(self, slit: Slit, up: np.ndarray, low: np.ndarray) -> dict[str, np.ndarray]:
        """What of :class:`_Eye` says where either lid reads the motion of its skin."""
        y0, y1, x0, x1 = middle = self._box(slit, slit.half, 0.55 * self.iod, 0.56 * self.iod)
        y, x = np.mgrid[y0:y1, x0:x1]
        s, v = slit.of(np.stack([x, y], -1).astype(np.float64))
        k = 1 - np.minimum(np.abs(s), 1) ** 8  # at the corners both sides are one
        above, below = v - _at(up, s), _at(low, s) - v
        ways = (-above, -above - _LID_OFF * self.iod, below + _LID_EDGE * self.iod)
        over, off = (slit.to(s, v + k * np.minimum(way, 0)).astype(np.float32) for way in ways[:2])
        under = slit.to(s, v + k * np.maximum(ways[2], 0)).astype(np.float32)
        lower = (above > below)[..., None]
        return {"middle": middle, "over": over, "off": off, "under": under, "lower": lower}

    def _ball(
        self, part: np.ndarray, grid: np.ndarray, inside: np.ndarray, slit: Slit, up: np.ndarray, low: np.ndarray
    ) -> np.ndarray:
        """The eyeball under the lids [h,w,3]: the white from the nearest seen pixel, the iris by colour per radius."""
        if inside.sum() <= 8:
            return part
        iod = self.iod
        r = self._iris(part.mean(-1), grid, inside, slit, up, low)
        white = inside & (r > 1.1)  # what is seen of the iris says nothing of the white above it
        ball, _ = _carried_out(part, white if white.sum() > 8 else inside, 0.02 * iod)
        rings = [(k, part[inside & (np.abs(r - k) < 0.07)]) for k in np.arange(0.06, 1.0, 0.11)]
        # Darker than the median: a circle that is a little off holds some of the white.
        rings = [(k, np.percentile(q, 30, 0)) for k, q in rings if len(q)]
        if rings:
            radii, colours = [k for k, _ in rings], np.stack([c for _, c in rings], -1)
            full = _soften(np.stack([np.interp(r, radii, c) for c in colours], -1), 0.6)
            ball = ball + _smooth((1.04 - r) / 0.10)[..., None] * (full - ball)
        seen = _smooth(cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, 5) / (0.02 * iod))
        # Nearer to the lid than lashes and their shade leave it sure, what is bright on an iris is a light in the eye.
        s, v = slit.of(grid)
        deep = _smooth((np.minimum(v - _at(up, s), _at(low, s) - v) / iod - 0.008) / 0.012)
        lit = _smooth((part.mean(-1) - ball.mean(-1) - 10) / 25) * _smooth((0.95 - r) / 0.1)
        seen = np.maximum(seen, deep * lit)
        return np.asarray(ball + seen[..., None] * (part - ball), np.float32)

    def _iris(
        self, grey: np.ndarray, grid: np.ndarray, inside: np.ndarray, slit: Slit, up: np.ndarray, low: np.ndarray
    ) -> np.ndarray:
        """Distance [h,w] from the iris' centre in its radii: of circles the one with most contrast at its seen edge."""
        iod = self.iod
        angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        ring = np.stack([np.cos(angle), np.sin(angle)], -1)
        s = np.linspace(-0.6, 0.6, 25)
        share = np.array([0.35, 0.45, 0.55, 0.65])
        centres = np.concatenate([slit.to(s, (1 - k) * _at(up, s) + k * _at(low, s)) for k in share])
        radii = np.array([0.078, 0.086, 0.094, 0.102, 0.110]) * iod
        first = grid[0, 0]
        best, found = -np.inf, (centres[len(centres) // 2], float(radii[2]))
        for radius in radii:
            at = [(centres[:, None] + radius * k * ring - first).astype(np.float32) for k in (0.82, 1.18)]
            dark, light = (cv2.remap(grey, q[..., 0], q[..., 1], cv2.INTER_LINEAR) for q in at)
            seen = [cv2.remap(inside.astype(np.float32), q[..., 0], q[..., 1], cv2.INTER_LINEAR) for q in at]
            both = seen[0] * seen[1]
            score = (both * (light - dark)).sum(1) / np.sqrt(np.maximum(both.sum(1), 4))
            i = int(score.argmax())
            if score[i] > best:
                best, found = float(score[i]), (centres[i], float(radius))
        return np.asarray(np.linalg.norm(grid - found[0], axis=-1) / found[1])

    # -------------------------------------------------------------- frames

    def _lip_weights(self, aus: np.ndarray) -> np.ndarray:
        """[2,4] of the subject's left and right: lift, drop, jaw, closing."""
        sides = aus[_LIP_ROWS][:, :, None]
        out = (sides * _LIP_AMOUNTS[:, None]).sum(0)
        lowered = np.minimum(sides[_PARTING], 0)
        if lowered.any():  # what parts lips closes them by as much of their gap, and only the jaw goes back
            width = max(self.gap * min(1.0, _FAR / max(self.gap, 1e-3)), 1e-3)
            parts = _LIP_AMOUNTS[_PARTING]
            instead = np.zeros_like(parts)
            instead[:, 2], instead[:, 3] = parts[:, 2], -(parts[:, 0] + parts[:, 1]) / width
            out += (lowered * (instead - parts)[:, None]).sum(0)
        return np.minimum(out, _MOST)

    def jaw_way(self, aus: np.ndarray) -> float:
        """Share of its way that the jaw goes under the AUs [K,2] of a frame: down, less the wider the mouth is open."""
        return 1.0 if (aus[_JAW_ROWS] < 0).any() else jaw_left(self.gap)

    def _lips_move(self) -> np.ndarray:
        """See :func:`_lip_basis`; computed once."""
        if self._basis is None:
            chin = float((self.points[8] - self.lip.mid) @ self.lip.n)
            self._basis = _lip_basis(
                self._jaw_box, self.lip.frame, self.iod, self._lips[0], self._lips[1], self.gap, chin, self.gate,
                self._loose,
            )  # fmt: skip
        return self._basis

    @cached_property
    def _lips_with_jaw(self) -> np.ndarray:
        """[2,H,W] float32 pixels at strength 1, downwards: how lips go with the subject's right and left half of the
        jaw, where one that a generator draws (times ``_jaw_taken``) leaves them to layers."""
        basis, (y0, y1, x0, x1) = self._lips_move(), self._jaw_box
        out = np.zeros((2, *self.image.shape[:2]), np.float32)
        loose = np.maximum(self._loose[y0:y1, x0:x1], 1e-6)
        whole = basis[5] / loose * (1 - self._jaw_taken[y0:y1, x0:x1])
        out[0, y0:y1, x0:x1], out[1, y0:y1, x0:x1] = (1 - basis[6]) * whole, basis[6] * whole
        return out

    def _moved_skin(self, step: Step) -> _Moved:
        weights = self._lip_weights(step.aus)
        drop = weights[:, 2].copy()
        if step.jaw is not None:
            weights[:, 2] = 0
        above = np.empty(step.skin.shape, np.float32)
        most = _gated(step.skin, self.gate, above)
        if not weights.any():
            seen, lids = self._at_eyes(above, above)
            return _Moved(above, above, seen, lids, self.open and most > 0, most, 0.0, np.array([0.0, self.gap]))
        basis = self._lips_move()
        # What the skin has closed already counts.
        up, low = (edge.arrived(above) - edge.v for edge in self._middle)
        closed = float(np.mean(up - low)) / max(min(self.gap, _FAR) * self.iod, 1e-3)
        weights[:, 3] = np.maximum(weights[:, 3] - max(closed, 0), 0)
        below, seen = above.copy(), above.copy()
        way = self.jaw_way(step.aus)
        jaw = float(weights[:, 2].mean()) * way
        lips, apart = _lip_sides(
            basis, self._jaw_box, self.lip.frame, weights, self._under, above, below, seen
        )  # fmt: skip
        if step.jaw is not None:
            whole, low = np.empty(step.jaw.shape, np.float32), np.empty(step.jaw.shape, np.float32)
            lip_n = self.lip.n.astype(np.float32)
            _whole_jaw(step.jaw, self._jaw_taken, self._lips_with_jaw, drop, np.float32(way), lip_n, whole)
            read = cv2.remap(whole, self._jaw_from, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            further, parting = _jaw_sides(
                whole, read, self._loose, self._jaw_share, self._under, above, below, seen, low
            )  # fmt: skip
            lips += 1.5 * further
            apart += parting
            dropped = self._middle[1].arrived(low) - self._middle[1].v
            jaw = float(dropped.mean()) / self.iod
        gap = float((self._most[1].arrived(below) - self._most[0].arrived(above)).max()) / self.iod
        seen, lids = self._at_eyes(above, seen)
        return _Moved(above, below, seen, lids, True, max(most, lips), apart, np.array([jaw, max(gap, 0.0)]))

    def _at_eyes(self, above: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``seen`` and ``lids`` of :class:`_Moved`. A field that runs smoothly across the eyeball is neither lid's:
        each has, up to its edge and beyond, what is said on its own side; in ``above``, in place, the upper has."""
        sides = []
        for eye in self.eyes:
            y0, y1, x0, x1 = eye.middle
            if above[y0:y1, x0:x1].any():
                over, off, under = (
                    cv2.remap(above, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
                    for at in (eye.over, eye.off, eye.under)
                )
                over = np.clip(over, np.minimum(off, 0), np.maximum(off, 0))
                sides.append((np.s_[y0:y1, x0:x1], over, under, eye.lower))
        if not sides:
            return seen, above
        lids = above.copy()
        seen = above.copy() if seen is above else seen
        for box, over, under, lower in sides:
            above[box], lids[box], seen[box] = over, under, np.where(lower, under, over)
        return seen, lids

    def _corners(self, shift: np.ndarray) -> np.ndarray:
        """[...,2,2] pixels: how far the corners go, image left first, of the ``shift`` [...,n,2] of the upper lip from
        corner to corner; no further than what follows them can be drawn out without folding."""
        corners = shift[..., [0, -1], :].astype(np.float64)
        length = np.linalg.norm(corners, axis=-1, keepdims=True)
        return np.asarray(corners * np.minimum(1, 0.35 * self.lip.half / np.maximum(length, 1e-9)))

    def _curves(self, aus: np.ndarray, moved: _Moved) -> list[tuple[np.ndarray, np.ndarray]]:
        """What :func:`_lids` draws each eye by."""
        ups, lows = (  # one reading of a field for both eyes
            cv2.remap(field, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[0].reshape(2, _N, 2)
            for field, at in zip((moved.above, moved.lids), self._lid_edges, strict=True)
        )
        found = []
        for side, eye in enumerate(self.eyes):
            up, low = (shifts[side].astype(np.float64) @ eye.slit.n for shifts in (ups, lows))
            found.append(self._curves_from(side, aus, eye.up + up, eye.low + low))
        return found

    def _curves_from(
        self, side: int, aus: np.ndarray, up0: np.ndarray, low0: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """:meth:`_curves` of lids whose edges the skin has moved to ``up0`` and ``low0``, v at :data:`_S`."""
        eye = self.eyes[side]
        return _lid_curves(
            eye.up, eye.low, eye.lid, eye.line, eye.slopes, up0, low0, aus, _LID_ROWS, side, self.iod,
            eye.slit.half,
        )  # fmt: skip

    @cached_property
    def _lid_edges(self) -> tuple[np.ndarray, np.ndarray]:
        """[1,2N,2] float32: the points of the upper edges of the subject's left eye and of the right; of the lower."""
        edges = ([eye.slit.to(_S, eye.up) for eye in self.eyes], [eye.slit.to(_S, eye.low) for eye in self.eyes])
        up, low = (np.concatenate(points).astype(np.float32)[None] for points in edges)
        return up, low

    def frame(self, step: Step, share: np.ndarray = _NONE4, inset: int = 0) -> np.ndarray:
        """The photo after ``step``: [H-2I,W-2I,3] float32 in 0..255, the photo itself where nothing moves.

        I = ``inset``: of the outer pixels nothing is made; a chin that drops is read from them. ``share`` [4,H,W]
        float32 is filled with the shares of the skin, the skin below the lips and below an eye, and of what is behind,
        unless it is empty.
        """
        moved = self._moved_skin(step)
        photo = self.folds.lit(self._photo, step.aus)
        rounds = 9 if moved.apart else 6
        head = _NONE2
        if step.head is None:
            backward = backward_flow(moved.seen, rounds, inset)
        else:
            head = backward_flow(step.head, inset=inset)
            backward = backward_after(moved.seen, head, rounds, inset)
        out = np.asarray(warp_planes(photo, backward, inset))
        if moved.cut:
            # At rest an open mouth shows its own rim; as it moves, what was carried out.
            sides = zip((moved.above, moved.below), self._whole, strict=True)
            shifts = [edge.shift(field) for field, edge in sides]
            stay = 1.0 - float(_smooth(2 * float(np.abs(shifts).max()) / (0.05 * self.iod)))
            _lips(
                photo, moved.above, moved.below, moved.most, head, self.lip.frame, self._lips, self._own,
                self._rim, self._place, self._band, stay, self.iod, moved.mouth, self._colours,
                self._corners(shifts[0]), inset, out, share,
            )  # fmt: skip
        above = moved.above
        for eye, (curves, numbers) in zip(self.eyes, self._curves(step.aus, moved), strict=True):
            b = eye.box
            if numbers[2] or above[b[0] : b[1], b[2] : b[3]].any():
                _lids(
                    photo, above, moved.lids, head, eye.slit.frame, b, curves, numbers, eye.ball, eye.rim, eye.bare,
                    eye.lash, inset, out, share,
                )  # fmt: skip
        if step.change is not None:
            out = out + step.change[inset : len(step.change) - inset, inset : step.change.shape[1] - inset]
        if self.front is not None:
            self.front.over(out, head, inset)
        return out

    def _with_corners(self, points: np.ndarray, corners: np.ndarray) -> np.ndarray:
        """[n,2] pixels by which what a mouth shows at ``points`` [n,2] went along with its ``corners`` [2,2]."""
        s = self.lip.of(points)[0]
        return np.asarray(_smooth((np.abs(s) - 0.35) / 0.65)[:, None] * corners[(s > 0).astype(int)])

    def _drawn_down(self, points: np.ndarray, drop: float) -> np.ndarray:
        """[n] pixels by which what a mouth shows at ``points`` [n,2] goes with the jaw: :func:`_with_jaw` forwards."""
        s, v = self.lip.of(points)
        a, b = (self._line(s) + off for off in self._band[:2])
        drop = max(drop, self._band[0] - self._band[1])
        return np.asarray(drop * np.clip((v - a) / np.maximum(b - a, 1e-6), 0, 1))

    def _line(self, s: np.ndarray) -> np.ndarray:
        """v midway between the lips."""
        return (_at(self._lips[0], s) + _at(self._lips[1], s)) / 2

    def truth(self, step: Step) -> Truth:
        """What :meth:`frame` of ``step`` shows."""
        height, width = self.image.shape[:2]
        share = np.zeros((4, height, width), np.float32)
        moved = self._moved_skin(step)
        share[0] = 1
        if moved.cut:
            share[0], share[1] = ~self._under, self._under
        self.frame(replace(step, change=None), share)
        above = moved.above
        y, x = np.mgrid[:height, :width]
        grid = np.stack([x, y], -1).astype(np.float64)
        label = np.zeros((height, width), np.int64)
        if moved.cut:
            s, v = self.lip.of(grid)
            label[self._under] = 1
            label[(label == 0) & (v > _at(self._lips[0], s)) & (np.abs(s) < 1)] = 3
        flow, mouth = moved.seen.copy(), label == 3
        for eye, (curves, numbers) in zip(self.eyes, self._curves(step.aus, moved), strict=True):
            b = eye.box
            box = np.s_[b[0] : b[1], b[2] : b[3]]
            if not (numbers[2] or above[box].any()):
                continue
            s, v = eye.slit.of(grid[box])
            part = np.where(v > _at(eye.low, s), 2, 0)
            part[(part == 0) & (v > _at(eye.up, s)) & (np.abs(s) < 1)] = 3
            label[box] = np.where(np.abs(s) < 1.5, part, label[box])
            _lid_flow(flow, label, eye.slit.frame, b, curves, self.iod)
        flow[label == 3] = 0
        corners = self._corners(self._whole[0].shift(above))
        if self._own.size and mouth.any():
            # How far a pixel goes depends on where it arrives, as frames are made from there.
            start, way = grid[mouth], np.zeros((int(mouth.sum()), 2))
            for _ in range(16):
                way = self._with_corners(start + way, corners)
            flow[mouth] = way + self._drawn_down(start + way, moved.mouth[0] * self.iod)[:, None] * self.lip.n
        framed = self._framed(0.5)
        flow[framed] = 0
        arrived = grid + flow
        behind = np.zeros_like(framed)
        if self.front is not None:
            at = arrived.astype(np.float32)
            front = cv2.remap(self.front.share, at[..., 0], at[..., 1], cv2.INTER_LINEAR)
            behind = (front > 0.5) & ~framed
        if step.head is not None:
            at = arrived.astype(np.float32)
            more = cv2.remap(step.head, at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            flow, arrived = flow + more, arrived + more
        at = arrived.astype(np.float32)
        seen = np.stack([
            cv2.remap(q, at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) for q in share
        ])  # fmt: skip
        sides = np.abs(self.lip.of(grid)[0]) >= 1.05  # beyond the mouth's corners skin is one
        seen[:2] = np.where(sides & (label < 2), seen[0] + seen[1], seen[:2])
        hidden = ((np.take_along_axis(seen, label[None], 0)[0] < 0.5) & ~framed) | behind
        new = (share[3] > 0.5) & (label != 3)
        if self._own.size and new.any():  # a mouth's own pixels, which went along with corners or jaw, are not
            points = grid if step.head is None else grid + backward_flow(step.head)
            s, v = self.lip.of(points[new])
            back = _with_jaw(v, self._line(s), self._band, moved.mouth[0] * self.iod) - v
            came = points[new] - self._with_corners(points[new], corners) + back[:, None] * self.lip.n
            i, j = (np.clip(came[:, k].round().astype(int), 0, last - 1) for k, last in ((0, width), (1, height)))
            new[new] = label[j, i] != 3
        if self.front is not None:
            at = grid.astype(np.float32) if step.head is None else (grid + backward_flow(step.head)).astype(np.float32)
            new &= cv2.remap(self.front.share, at[..., 0], at[..., 1], cv2.INTER_LINEAR) < 0.5
        return Truth(np.ascontiguousarray(flow, np.float32), hidden, new)
