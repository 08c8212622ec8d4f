"""Frames of a clip in torch, many at once, for a GPU: what :meth:`mesynth.motion.layers.Layers.frame` makes one by one.

The same motion composed, skin inverted and warped, folds lit, lips and lids laid over what is behind them, noise added
and rounded. Positions are float32 here and float64 in the kernels of :mod:`mesynth.motion.layers`, and these read a
handful of motions at lids and lips on their own: a frame differs by :data:`APART` of its values at most by
more than one grey level. Noise is the same numbers, drawn on the CPU from the clip's own stream.

What stays on the CPU: a face cut into layers (once a face), what a few numbers a frame say of its lips and lids, the
exact flow of the apex with its masks (:meth:`~mesynth.motion.layers.Layers.truth`, one frame a clip), a network's
fields carried onto the picture, random numbers, and PNG.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from mesynth.head import texture
from mesynth.motion.layers import (
    _FAR,
    _HEM,
    _LOWER,
    _N,
    _REACH,
    _S,
    _TEETH,
    Course,
    Layers,
    Slit,
    _at,
    _smooth,
)
from mesynth.motion.nuisance import _normal, drawn
from mesynth.motion.warp import _FIXED, _SETTLED, PAD
from mesynth.preprocess.warping import cubic

APART = 0.002
"""Share of a frame's values that may differ from the CPU's by more than one grey level: single pixels at the edge of a
lid or a lip, where a position decides what is seen."""
_PIXELS = 1 << 21
"""Of all frames that are made at once: memory does not grow with clips."""
_ROUNDS = 9


def composed(
    layers: Layers, course: Course, noise: float, rng: np.random.Generator, device: str, inset: int = 0
) -> np.ndarray:
    """The frames [T,H-2I,W-2I,3] uint8 of a photo that moves as ``course`` says, as
    :func:`mesynth.motion.prior.formed_clip` makes them. ``noise``: see there; ``rng`` draws it. I = ``inset``: outer
    pixels on each side that are made and left out.

    >>> from mesynth.core.types import AUVector
    >>> from mesynth.motion.prior import Face, MotionPrior
    >>> from mesynth.core.profiles import Profile
    >>> from mesynth.core import facs
    >>> from mesynth.head.model import HeadModel
    >>> model = HeadModel.load()
    >>> points = (model.uv[model.landmarks] * 26 + [48, 40]).astype(np.float32)
    >>> face = Face(np.full((96, 96, 3), 128, np.uint8), points)
    >>> request = facs.parse_request("12=0.5"), Profile()
    >>> one, other = (MotionPrior(face).generate(*request, n_frames=5, fps=50, device=d)[0] for d in (None, "cpu"))
    >>> bool((one.clip.frames == other.clip.frames).mean() > 0.99)
    True
    """
    placed = _layers_on(layers, device)
    moved = _Moving(placed, course)
    height, width = layers.image.shape[:2]
    kept = np.s_[:, :, inset : height - inset, inset : width - inset]
    out = np.empty((len(course), height - 2 * inset, width - 2 * inset, 3), np.uint8)
    step = max(_PIXELS // (height * width), 1)
    with torch.inference_mode():
        for start in range(0, len(course), step):
            now = slice(start, min(start + step, len(course)))
            frames = moved.frames(now)[kept].permute(0, 2, 3, 1)
            # The onset keeps the photo's own noise: it is the frame the person took.
            if start == 0:
                out[0], frames, now = quantised(frames[:1], 0, rng)[0], frames[1:], slice(1, now.stop)
            if len(frames):
                out[now] = quantised(frames, noise, rng)
    return out


def quantised(frames: torch.Tensor, noise: float, rng: np.random.Generator) -> np.ndarray:
    """What a camera records of frames [N,H,W,3] float32: :func:`mesynth.motion.nuisance.recorded` of each in turn."""
    if noise:
        size = frames[0].numel()
        draws = np.stack([drawn(size, rng)[:size] for _ in frames]).view(np.int16)
        told = torch.from_numpy(draws).to(frames.device).to(torch.int32) & 0xFFFF
        table = torch.from_numpy(_normal()).to(frames.device)
        frames = frames + noise * table[told].view(frames.shape)
    return np.asarray((frames + 0.5).clamp(0, 255).to(torch.uint8).contiguous().cpu().numpy())


def carried_back(change: torch.Tensor, matrix: np.ndarray, shape: tuple[int, ...]) -> torch.Tensor:
    """Changes in a crop [N,3,S,S] -> in the picture that ``matrix`` [2,3] cut it from [N,H,W,3]; 0 outside the crop."""
    height, width = shape
    x, y = _grid(0, height, 0, width, change.device)
    m = [[float(value) for value in row] for row in matrix]
    at = [(row[0] * x + row[1] * y + row[2])[None].expand(len(change), -1, -1) for row in m]
    return _bilinear(change, at[0], at[1], "zeros").permute(0, 2, 3, 1)


# ------------------------------------------------------------------- kernels


def _grid(y0: int, y1: int, x0: int, x1: int, device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.arange(x0, x1, device=device, dtype=torch.float32)
    y = torch.arange(y0, y1, device=device, dtype=torch.float32)
    return x[None].expand(y1 - y0, -1), y[:, None].expand(-1, x1 - x0)


def _bilinear(field: torch.Tensor, x: torch.Tensor, y: torch.Tensor, beyond: str = "border") -> torch.Tensor:
    """[T,C,H,W] at places [T,h,w] in pixels -> [T,C,h,w]."""
    height, width = field.shape[-2:]
    grid = torch.stack([2 * x / max(width - 1, 1) - 1, 2 * y / max(height - 1, 1) - 1], -1)
    return F.grid_sample(field, grid, padding_mode=beyond, align_corners=True)


def _sources(field: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """p with p + field(p) = (x, y), [T,h,w] both: :func:`mesynth.motion.warp._source`, each pixel until it settles."""
    height, width = field.shape[-2:]
    flat, left, top = field.flatten(2), x.floor(), y.floor()
    sx, sy = x - left, y - top
    back = torch.zeros(len(x), 2, *x.shape[1:], device=x.device)
    settled = torch.zeros_like(x, dtype=torch.bool)
    for n in range(_ROUNDS + 1):
        px, py = sx + back[:, 0], sy + back[:, 1]
        fx, fy = px.floor(), py.floor()
        ax, ay = (px - fx)[:, None], (py - fy)[:, None]
        x0, y0 = (left + fx).long(), (top + fy).long()
        columns, rows = [(x0 + i).clamp(0, width - 1) for i in (0, 1)], [(y0 + i).clamp(0, height - 1) for i in (0, 1)]
        f00, f01, f10, f11 = (
            flat.gather(2, (row * width + column).flatten(1)[:, None].expand(-1, 2, -1)).view_as(back)
            for row in rows
            for column in columns
        )
        fa, fb = f00 + ax * (f01 - f00), f10 + ax * (f11 - f10)
        now = fa + ay * (fb - fa)
        if n == 0:
            settled = (now == 0).all(1)  # where nothing moves, exactly (x, y)
        along = (f01 - f00) + ay * ((f11 - f10) - (f01 - f00))
        (ux, vx), (uy, vy), (rx, ry) = along.unbind(1), (fb - fa).unbind(1), (back + now).unbind(1)
        det = (1 + ux) * (1 + vy) - uy * vx
        newton = (det > 0.25) & (n < 6)
        safe = torch.where(newton, det, torch.ones_like(det))
        dx = torch.where(newton, ((1 + vy) * rx - uy * ry) / safe, rx)
        dy = torch.where(newton, ((1 + ux) * ry - vx * rx) / safe, ry)
        near = dx.abs() + dy.abs() < torch.where(newton, _SETTLED, _FIXED)
        back = torch.where(settled[:, None], back, back - torch.stack([dx, dy], 1))
        settled = settled | near
        if bool(settled.all()):
            break
    return x + back[:, 0], y + back[:, 1]


def _on(edge: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    """Contours [T or 1,N] at s [T,h,w]."""
    place = ((s + _REACH) * ((_N - 1) / (2 * _REACH))).clamp(0, _N - 1)
    i = place.long().clamp(max=_N - 2)
    share, flat, rows = place - i, i.flatten(1), edge.expand(len(s), -1)
    return (1 - share) * rows.gather(1, flat).view_as(s) + share * rows.gather(1, flat + 1).view_as(s)


def _step(x: torch.Tensor) -> torch.Tensor:
    x = x.clamp(0, 1)
    return x * x * (3 - 2 * x)


def _below(a: torch.Tensor, su: torch.Tensor, sl: torch.Tensor, depth: torch.Tensor, cos: torch.Tensor) -> Any:
    b = (0.5 + depth * cos).clamp(0, 1)
    hole = (1 - a - b).clamp(min=0)
    hole = torch.where(torch.minimum(su.abs(), sl.abs()) > 1.02, torch.zeros_like(hole), hole)
    return 1 - a - hole, hole


def _of(frame: np.ndarray, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(s, v) of a slit's frame."""
    dx, dy = x - float(frame[0]), y - float(frame[1])
    ex, ey, half = (float(value) for value in frame[2:])
    return (dx * ex + dy * ey) / half, dy * ex - dx * ey


def _first(array: np.ndarray) -> np.ndarray:
    """[H,W,C] -> [C,H,W]."""
    return np.ascontiguousarray(array.transpose(2, 0, 1), np.float32)


def _inner(planes: np.ndarray) -> np.ndarray:
    """[C,H+2P,W+2P] (:func:`mesynth.motion.warp.planes_of`) -> [C,H,W]."""
    return planes[:, PAD : planes.shape[1] - PAD, PAD : planes.shape[2] - PAD]


def _tooth(rows: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(distance from the tooth's middle in half widths, its edge, whether there is one) at x >= 0."""
    ends, edges = rows
    k = torch.bucketize(x, ends, right=True)
    there, at = k < len(ends), k.clamp(max=len(ends) - 1)
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    half = (ends[at] - starts[at]) / 2
    return (x - starts[at] - half).abs() / half, edges[at], there


# ------------------------------------------------------------------- a photo and a clip


class _LayersOn:
    """What of a photo's layers the kernels read, on a device."""

    def __init__(self, layers: Layers, device: str) -> None:
        self.layers, self.device = layers, device
        self.photo = self.put(_first(layers.image.astype(np.float32)))
        self.gate, self.loose = self.put(layers.gate), self.put(layers._loose)
        self.under = torch.from_numpy(layers._under).to(device)
        self.jaw_from = self.put(_first(layers._jaw_from))
        self.jaw_share, self.jaw_taken = self.put(layers._jaw_share), self.put(layers._jaw_taken)
        self.left = self.put(layers.folds._left)
        self.lips = self.put(layers._lips)
        self.colours = self.put(layers._colours)
        self.teeth, self.lower = self.put(_TEETH), self.put(_LOWER)
        self.own = self.put(_inner(layers._own)) if layers._own.size else None
        self.rim = self.put(layers._rim) if layers._rim.size else None
        self.eyes = [[self.put(_inner(e.ball)), self.put(e.rim), self.put(_inner(e.bare)), self.put(e.lash)]
                     for e in layers.eyes]  # fmt: skip
        self.lids = [([self.put(_first(at)) for at in (e.over, e.off, e.under)],
                      torch.from_numpy(e.lower[..., 0]).to(device)) for e in layers.eyes]  # fmt: skip
        self.front: tuple[torch.Tensor, torch.Tensor] | None = None
        if layers.front is not None:
            y0, y1, x0, x1 = layers.front.box
            photo = _first(layers.image.astype(np.float32))
            photo[:, y0:y1, x0:x1] = _inner(layers.front.planes[0])
            self.front = self.put(photo), self.put(255 * layers.front.share[None])
        self._ratios: dict[int, torch.Tensor] = {}
        self._basis: torch.Tensor | None = None

    def put(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, np.float32)).to(self.device)

    @property
    def basis(self) -> torch.Tensor:
        """See :func:`mesynth.motion.layers._lip_basis`."""
        if self._basis is None:
            self._basis = self.put(self.layers._lips_move())
        return self._basis

    @cached_property
    def lips_with_jaw(self) -> torch.Tensor:
        return self.put(self.layers._lips_with_jaw)

    def lit(self, aus: np.ndarray) -> torch.Tensor:
        """The photo with the folds of ``aus`` [T,K,2]: [T,3,H,W]; one for all where there are none."""
        depths = texture.fold_depths(aus)
        shown = [int(fold) for fold in np.flatnonzero(depths.any((0, 2)))]
        if not shown:
            return self.photo[None].expand(len(aus), -1, -1, -1)
        for fold in shown:
            if fold not in self._ratios:
                self._ratios[fold] = self.put(self.layers.folds._ratio(fold))
        ratios = torch.stack([self._ratios[fold] for fold in shown])
        deep = self.put(depths[:, shown])[..., None, None]
        share = deep[:, :, 1] + self.left * (deep[:, :, 0] - deep[:, :, 1])
        return (self.photo * torch.einsum("tmhw,mchw->tchw", share, ratios).exp()).clamp(max=255)


def _layers_on(layers: Layers, device: str) -> _LayersOn:
    """Kept with the photo, whose clips share it."""
    if device not in layers.elsewhere:
        layers.elsewhere[device] = _LayersOn(layers, device)
    kept: _LayersOn = layers.elsewhere[device]
    return kept


class _Skin:
    """Skin of T frames that has moved, [T,2,H,W], and what :class:`mesynth.motion.layers._Moved` says besides."""

    def __init__(self, above: torch.Tensor, open_mouth: bool, gap: float) -> None:
        self.above = self.below = self.seen = self.lids = above
        self.most = above.abs().sum(1).amax((1, 2)).cpu().numpy()
        self.cut = np.asarray((self.most > 0) & open_mouth)
        self.mouth = np.tile([0.0, gap], (len(above), 1))


class _Moving:
    """One clip's motion, on a device."""

    def __init__(self, on: _LayersOn, course: Course) -> None:
        self.on, self.layers, self.course = on, on.layers, course
        self.fields, self.head, self.jaws = (
            None if x is None or not len(x) else on.put(x.transpose(0, 3, 1, 2))
            for x in (course.fields, course.head, course.jaws)
        )
        self.bend = None if course.bend is None else on.put(_first(course.bend))
        self.change = None if course.change is None else on.put(_first(course.change))

    def _summed(self, weights: np.ndarray, fields: torch.Tensor | None) -> torch.Tensor:
        if fields is None:
            height, width = self.layers.image.shape[:2]
            return torch.zeros(len(weights), 2, height, width, device=self.on.device)
        return (self.on.put(weights) @ fields.flatten(1)).view(len(weights), *fields.shape[1:])

    def frames(self, now: slice) -> torch.Tensor:
        """Frames [t,3,H,W] float32 grey levels, without noise."""
        on, layers, course = self.on, self.layers, self.course
        aus = course.aus[now]
        skin = self._summed(course.weights[now], self.fields)
        share = None if course.share is None else on.put(course.share[now])[:, None, None, None]
        if share is not None and self.bend is not None:
            skin = skin + share * self.bend
        jaw = None if course.drops is None else self._summed(course.drops[now], self.jaws)
        moved = self._moved(skin, aus, jaw)
        lit = on.lit(aus)
        height, width = layers.image.shape[:2]
        x, y = (axis[None].expand(len(aus), -1, -1) for axis in _grid(0, height, 0, width, on.device))
        head = None
        qx, qy = x, y
        if self.head is not None:
            head = torch.stack(_sources(self._summed(course.path[now], self.head), x, y), 1)
            qx, qy = head[:, 0], head[:, 1]
        out = cubic(lit, *_sources(moved.seen, qx, qy)).clamp(0, 255)
        if moved.cut.any():
            self._lips(np.flatnonzero(moved.cut), lit, moved, head, out)
        for side in (0, 1):
            self._lids(side, aus, lit, moved, head, out)
        if share is not None and self.change is not None:
            out = out + share * self.change
        if on.front is not None:  # as mesynth.motion.glasses.Front lays them over
            photo, bare, framed = (
                planes[None].expand(len(aus), -1, -1, -1) if head is None
                else cubic(planes[None].expand(len(aus), -1, -1, -1), qx, qy).clamp(0, 255)
                for planes in (on.front[0], on.photo, on.front[1])
            )  # fmt: skip
            out = torch.where(framed > 0, (photo + (1 - framed / 255) * (out - bare)).clamp(0, 255), out)
        return out

    # -------------------------------------------------------------- skin

    def _shift(self, slit: Slit, field: torch.Tensor, v: np.ndarray, s: np.ndarray) -> np.ndarray:
        """What fields [T,2,H,W] say at points (s, v): [T,n,2] pixels."""
        at = self.on.put(slit.to(s, v)).expand(len(field), -1, -1)
        read = _bilinear(field, at[:, None, :, 0], at[:, None, :, 1])
        return np.asarray(read[:, :, 0].transpose(1, 2).cpu().numpy(), np.float64)

    def _arrived(self, slit: Slit, field: torch.Tensor, v: np.ndarray, s: np.ndarray) -> np.ndarray:
        return np.asarray(v + self._shift(slit, field, v, s) @ slit.n)

    def _moved(self, skin: torch.Tensor, aus: np.ndarray, jaw: torch.Tensor | None) -> _Skin:
        out = self._without_eyes(skin, aus, jaw)
        above, out.lids, out.seen = out.above, out.above.clone(), out.seen.clone()
        out.above = above.clone()
        for eye, (places, lower) in zip(self.layers.eyes, self.on.lids, strict=True):
            y0, y1, x0, x1 = (int(value) for value in eye.middle)
            if y0 >= y1 or x0 >= x1:
                continue
            over, off, under = (
                _bilinear(above, *(axis[None].expand(len(above), -1, -1) for axis in at)) for at in places
            )
            over = torch.minimum(torch.maximum(over, off.clamp(max=0)), off.clamp(min=0))
            box = np.s_[:, :, y0:y1, x0:x1]
            out.above[box], out.lids[box], out.seen[box] = over, under, torch.where(lower, under, over)
        return out

    def _without_eyes(self, skin: torch.Tensor, aus: np.ndarray, jaw: torch.Tensor | None) -> _Skin:
        """Skin and lips, as though there were no eyes."""
        on, layers = self.on, self.layers
        out = _Skin(on.gate * skin, layers.open, layers.gap)
        weights = np.stack([layers._lip_weights(now) for now in aus])
        dropped = weights[:, ::-1, 2].copy()  # of the right and the left
        if jaw is not None:
            weights[:, :, 2] = 0
        moving = np.asarray(weights.any((1, 2)))
        if not moving.any():
            return out
        above, lip, iod = out.above, layers.lip, layers.iod
        s = np.linspace(-0.5, 0.5, 9)
        up, low = (self._arrived(lip, above, _at(edge, s), s) - _at(edge, s) for edge in layers._lips[:2])
        closed = (up - low).mean(1) / max(min(layers.gap, _FAR) * iod, 1e-3)
        weights[:, :, 3] = np.maximum(weights[:, :, 3] - np.maximum(closed, 0)[:, None], 0)
        opened = np.array([layers.jaw_way(now) for now in aus], np.float32)
        drop = weights[:, :, 2].mean(1) * opened
        box, basis = layers._jaw_box, on.basis
        told = on.put(weights)[..., None, None]
        w = told[:, 1] + basis[6] * (told[:, 0] - told[:, 1])  # [T,4,h,w]: lift, drop, jaw, closing
        rise = w[:, 0] * basis[0] + w[:, 3] * basis[1] + w[:, 2] * basis[2]
        fall = w[:, 1] * basis[3] + w[:, 3] * basis[4] + w[:, 2] * basis[5]
        lip_n = on.put(np.array([-lip.e[1], lip.e[0]])).view(1, 2, 1, 1)
        area = np.s_[:, :, box[0] : box[1], box[2] : box[3]]
        out.above, out.below = above.clone(), above.clone()
        out.above[area] += rise[:, None] * lip_n
        out.below[area] += fall[:, None] * lip_n
        reach = torch.maximum(rise.abs(), fall.abs()).amax((1, 2)).cpu().numpy() * 1.5
        if jaw is not None:
            mask = torch.from_numpy(moving).to(on.device).view(-1, 1, 1, 1)
            with_jaw = torch.einsum("ts,shw->thw", on.put(dropped), on.lips_with_jaw)[:, None] * lip_n
            whole = on.put(opened).view(-1, 1, 1, 1) * on.jaw_taken * jaw + with_jaw
            loose = on.loose * mask
            at = on.jaw_from.expand(len(jaw), -1, -1, -1)
            lower = loose * _bilinear(whole, at[:, 0], at[:, 1])
            out.above = out.above + loose * on.jaw_share * whole
            out.below = out.below + lower
            reach = reach + 1.5 * lower.abs().sum(1).amax((1, 2)).cpu().numpy()
            edge = _at(layers._lips[1], s)
            drop = (self._arrived(lip, lower, edge, s) - edge).mean(1) / iod
        out.seen = torch.where(on.under, out.below, out.above)
        s = np.linspace(-0.9, 0.9, 25)
        edges = [
            self._arrived(lip, field, _at(edge, s), s)
            for field, edge in ((out.above, layers._lips[0]), (out.below, layers._lips[1]))
        ]
        gap = np.maximum((edges[1] - edges[0]).max(1) / iod, 0)
        out.mouth = np.where(moving[:, None], np.stack([drop, gap], 1), out.mouth)
        out.most, out.cut = out.most + np.where(moving, reach, 0), out.cut | moving
        return out

    # -------------------------------------------------------------- lips

    def _lips(
        self, rows: np.ndarray, lit: torch.Tensor, moved: _Skin, head: torch.Tensor | None, out: torch.Tensor
    ) -> None:
        """Both lips over the mouth, into ``out`` [T,3,H,W]: see :func:`mesynth.motion.layers._lips`."""
        on, layers = self.on, self.layers
        frame, iod = layers.lip.frame, layers.iod
        which = torch.from_numpy(rows).to(on.device)
        most = moved.most[rows]
        low_edge, high_edge = layers._lips[0].min() - 2 - most, layers._lips[1].max() + 2 + most
        reach = 1.3 * frame[4]
        far = most.max() + 6 if head is not None else 2.0
        high = max(-low_edge.min(), high_edge.max()) + abs(frame[3]) * reach + far
        wide = reach + (high_edge.max() - low_edge.min()) * abs(frame[3]) + far
        height, width = layers.image.shape[:2]
        y0, y1 = max(int(frame[1] - high), 0), min(int(frame[1] + high) + 1, height)
        x0, x1 = max(int(frame[0] - wide), 0), min(int(frame[0] + wide) + 1, width)
        if y0 >= y1 or x0 >= x1:
            return
        if head is None:
            qx, qy = (axis[None].expand(len(rows), -1, -1) for axis in _grid(y0, y1, x0, x1, on.device))
        else:
            qx, qy = head[which, :, y0:y1, x0:x1].unbind(1)
        s, v = _of(frame, qx, qy)
        top, bottom = (on.put(edge)[:, None, None] for edge in (low_edge, high_edge))
        inside = (s.abs() < 1.3) & (v >= top) & (v <= bottom)
        up, low, up_cos, low_cos = (on.lips[i : i + 1] for i in range(4))
        picture = lit[which]
        px, py = _sources(moved.above[which], qx, qy)
        su, vu = _of(frame, px, py)
        a = (0.5 + (_on(up, su) - vu) * _on(up_cos, su)).clamp(0, 1)
        lx, ly = _sources(moved.below[which], qx, qy)
        sl, vl = _of(frame, lx, ly)
        b, hole = _below(a, su, sl, vl - _on(low, sl), _on(low_cos, sl))
        told = on.put(moved.mouth[rows])[:, :, None, None]
        line = (v - _on(low, s)) / iod - told[:, 0]
        inner = self._mouth(
            s * float(frame[4]) / iod, (v - _on(up, s)) / iod, line, told[:, 1], (vu - _on(up, su)).clamp(min=0) / iod
        )
        if on.own is not None and on.rim is not None:
            py0, px0 = (float(value) for value in layers._place)
            rows_, columns = on.own.shape[1:]
            s_ = np.linspace(-1, 1, 25)
            sides = ((moved.above[which], layers._lips[0]), (moved.below[which], layers._lips[1]))
            shifts = [self._shift(layers.lip, field, _at(edge, s_), s_) for field, edge in sides]
            corners = on.put(layers._corners(shifts[0]))[..., None, None]
            follows, left = _step((s.abs() - 0.35) / 0.65), s <= 0
            ox, oy = (
                q - follows * torch.where(left, corners[:, 0, c], corners[:, 1, c]) for c, q in ((0, qx), (1, qy))
            )
            back = self._with_jaw(v, (_on(up, s) + _on(low, s)) / 2, told[:, 0] * iod) - v
            ox, oy = ox - back * float(frame[3]), oy + back * float(frame[2])
            i = (ox - px0 + 0.5).floor().long().clamp(0, columns - 1)
            j = (oy - py0 + 0.5).floor().long().clamp(0, rows_ - 1)
            own = on.own[:3][None].expand(len(rows), -1, -1, -1)
            seen = cubic(own, ox - px0, oy - py0).clamp(0, 255)
            inner = inner + on.own[3][j, i][:, None] * (seen - inner)
            # At rest an open mouth shows its own rim; as it moves, what was carried out.
            farthest = np.abs(shifts).max((0, 2, 3))
            stay = on.put(1 - _smooth(2 * farthest / (0.05 * iod)))[:, None, None]
            still = (on.rim[j, i] > 0) * stay
            inner = inner + still[:, None] * (cubic(picture, ox, oy).clamp(0, 255) - inner)
        made = (
            a[:, None] * cubic(picture, px, py).clamp(0, 255)
            + b[:, None] * cubic(picture, lx, ly).clamp(0, 255)
            + hole[:, None] * inner
        )
        out[which, :, y0:y1, x0:x1] = torch.where(inside[:, None], made, out[which, :, y0:y1, x0:x1])

    def _with_jaw(self, v: torch.Tensor, line: torch.Tensor, drop: torch.Tensor) -> torch.Tensor:
        """See :func:`mesynth.motion.layers._with_jaw`."""
        a, between = line + float(self.layers._band[0]), float(self.layers._band[1] - self.layers._band[0])
        wide = (between + drop).clamp(min=0)
        beyond = (v - a).clamp(min=0)
        drawn = torch.minimum(beyond, wide)
        return torch.minimum(v, a) + drawn * between / wide.clamp(min=1e-9) + beyond - drawn

    def _mouth(
        self, x: torch.Tensor, d: torch.Tensor, low: torch.Tensor, gap: torch.Tensor, depth: torch.Tensor
    ) -> torch.Tensor:
        """Colour behind lips that part [T,3,h,w]: see :func:`mesynth.motion.layers._mouth`."""
        on = self.on
        red, white, dark = (row.view(1, 3, 1, 1) for row in on.colours)
        iod = self.layers.iod
        x, wide = x.abs(), _step(gap / 0.15)
        side = torch.exp(-((x / 0.42) ** 2))
        top = -0.04 - 0.10 * wide + 0.5 * x * x
        cover = _step((low - top) / 0.05) * _step((0.38 - x) / 0.12) * wide
        lit = (0.45 + 0.55 * _step((low - top) / 0.12)) * (0.6 + 0.4 * side)
        lit = lit * (1 - 0.10 * torch.exp(-((x / 0.018) ** 2)))
        out = dark + cover[:, None] * (red * lit[:, None] - dark)
        light = (0.45 + 0.55 * wide) * side
        rows = self.layers._band[2]
        t, edge, there = _tooth(on.lower, x)
        there = there * float(rows > 0)
        inside = low - edge - 0.012 * t**6
        cover = (0.5 + inside * iod).clamp(0, 1) * side * there
        bright = light * (0.88 - 0.20 * t**4 - 0.10 * torch.exp(-inside.clamp(min=0) / 0.012))
        out = out + cover[:, None] * (white * bright[:, None] - out)
        if rows > 1:  # a photo's own mouth shows its own upper teeth
            t, edge, there = _tooth(on.teeth, x)
            inside = edge - 0.03 * t**6 - d
            cover = (0.5 + inside * iod).clamp(0, 1) * side * there
            bright = light * (0.95 - 0.24 * t**4 - 0.10 * torch.exp(-inside.clamp(min=0) / 0.015))
            out = out + cover[:, None] * (white * bright[:, None] - out)
        return out * (1 - 0.55 * torch.exp(-depth / 0.02))[:, None]

    # -------------------------------------------------------------- lids

    def _lids(
        self,
        side: int,
        aus: np.ndarray,
        lit: torch.Tensor,
        moved: _Skin,
        head: torch.Tensor | None,
        out: torch.Tensor,
    ) -> None:
        """Lids over the eyeball, into ``out`` [T,3,H,W]: see :func:`mesynth.motion.layers._lids`."""
        on, layers, eye = self.on, self.layers, self.layers.eyes[side]
        y0, y1, x0, x1 = (int(value) for value in eye.box)
        if y0 >= y1 or x0 >= x1:
            return
        above = moved.above
        edges = [self._arrived(eye.slit, field, edge, _S) for field, edge in ((above, eye.up), (moved.lids, eye.low))]
        drawn = [layers._curves_from(side, now, edges[0][t], edges[1][t]) for t, now in enumerate(aus)]
        under = above[:, :, y0:y1, x0:x1].flatten(1).any(1).cpu().numpy()
        rows = np.array([t for t, (_, numbers) in enumerate(drawn) if numbers[2] or under[t]], np.int64)
        if not len(rows):
            return
        which = torch.from_numpy(rows).to(on.device)
        curves = on.put(np.stack([drawn[t][0] for t in rows]))
        _, shut, moves = on.put(np.stack([drawn[t][1] for t in rows])).T[:, :, None, None]
        iod, frame = layers.iod, eye.slit.frame
        ex, ey = float(frame[2]), float(frame[3])
        if head is None:
            qx, qy = (axis[None].expand(len(rows), -1, -1) for axis in _grid(y0, y1, x0, x1, on.device))
        else:
            qx, qy = head[which, :, y0:y1, x0:x1].unbind(1)
        picture = lit[which]
        s, v = _of(frame, qx, qy)
        du, dl, eu, el, up, low = (_on(curves[:, i], s) for i in (6, 7, 4, 5, 0, 1))
        reach = _on(curves[:, 8], s) + du.clamp(min=0)
        t = ((reach - eu + v) / (reach - 0.05 * iod).clamp(min=1e-3)).clamp(0, 1)
        tl = (1 - (v - el) / (0.42 * iod - dl.clamp(max=0))).clamp(0, 1)
        still = moves == 0
        outside = (s.abs() >= 1.5) | (still & (v > torch.maximum(el, low) + 2)) | ((tl == 0) & (v > el))
        outside = outside | (still & (v < torch.minimum(eu, up) - 2)) | ((t == 0) & (v < eu))
        px, py = _sources(above[which], qx + du * t * ey, qy - du * t * ex)
        near = v < eu + 2
        px, py = torch.where(near, px, qx), torch.where(near, py, qy)
        su, vu = _of(frame, px, py)
        a = (0.5 + (_on(curves[:, 0], su) - vu) * _on(curves[:, 2], su)).clamp(0, 1)
        a = torch.where(near, a, torch.zeros_like(a))
        su = torch.where(near, su, s)
        lx, ly = _sources(moved.lids[which], qx + dl * tl * ey, qy - dl * tl * ex)
        sl, vl = _of(frame, lx, ly)
        b, hole = _below(a, su, sl, vl - _on(curves[:, 1], sl), _on(curves[:, 3], sl))
        outside = outside | (still & (hole == 0))
        below, closing = v - eu, shut > 0
        line = torch.exp(-((below / (0.014 * iod + 0.3)) ** 2)) * _step((1 - s.abs()) / 0.2)
        seam = 1 - (1 - _on(curves[:, 9], s)) * shut * line
        ball, rim, bare, lash = on.eyes[side]

        def beside(planes: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return cubic(planes[None].expand(len(x), -1, -1, -1), x - x0, y - y0).clamp(0, 255)

        one = cubic(picture, px, py).clamp(0, 255)
        hang_on = (1.6 * shut).clamp(max=1)[:, None]
        bared = (one + hang_on * (beside(bare, px, py) - one)) * seam[:, None]
        one = torch.where(closing[:, None], bared, one)
        # Lashes turn from above the margin to below it.
        fx, fy = qx + (du + 2.0 * below) * ey - x0, qy - (du + 2.0 * below) * ex - y0
        dark = _bilinear(lash[None, None].expand(len(rows), -1, -1, -1), fx, fy)[:, 0]
        hang = torch.where(closing & (a < 1), 1 - (1 - dark) * shut * _step(below + 0.5), torch.ones_like(dark))
        two = cubic(picture, lx, ly).clamp(0, 255)
        tuft = (closing & (sl.abs() > 0.8))[:, None]
        two = torch.where(tuft, two + hang_on * (beside(bare, lx, ly) - two), two)
        inner = beside(ball, qx, qy)
        i = ((qx + 0.5).long() - x0).clamp(0, rim.shape[1] - 1)
        j = ((qy + 0.5).long() - y0).clamp(0, rim.shape[0] - 1)
        wide, lower = (_on(curves[:, i], s) for i in (10, 11))
        own = rim[j, i] * (1 - wide - _step((v - up) / (low - up).clamp(min=1e-3)) * (lower - wide))
        # The lid's shadow lies on the eyeball and goes with the lid.
        now = 1 - 0.30 * torch.exp(-below.clamp(min=0) / (0.022 * iod))
        kept, shown = (
            (now / (1 - 0.30 * torch.exp(-(v - up).clamp(min=least) / (0.022 * iod)))).clamp(0.6, 1.06)[:, None]
            for least in (_HEM * iod, 0)
        )
        inner = kept * inner
        inner = inner + own[:, None] * (shown * cubic(picture, qx, qy).clamp(0, 255) - inner)
        mixed = a[:, None] * one + (b[:, None] * two + hole[:, None] * inner) * (seam * hang)[:, None]
        area = out[which, :, y0:y1, x0:x1]
        made = area + _step((1.5 - s.abs()) / 0.2)[:, None] * (mixed.clamp(max=255) - area)
        out[which, :, y0:y1, x0:x1] = torch.where(outside[:, None], area, made)
