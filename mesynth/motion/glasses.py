"""Glasses on a photo: a layer in front of the skin, which an expression does not move.

Whoever wears glasses is told by their bridge: a thin band across the nose between the eyes, whose colour is not that of
the skin above and below it, and by rims that close about both eyes at once. Ridges alone are no sign: brows, bags
beneath the eyes and the nose close such a ring on any face. Frames are then traced, not thresholded: a rim is a closed
path of strongest ridges about its eye, bridge and arms are open ones, each as wide as the frame's colour goes on.

Lengths are shares of the inter-ocular distance (IOD) unless they say pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numba import njit

from mesynth.motion.warp import PAD, planes_of, warp_planes

_BRIDGE = 9.0
"""Least difference (Lab) of a bridge from the skin above and below it."""
_ALONE = 4.0
"""Least ratio of that to the median along the nose: in noise there are bands everywhere."""
_RIDGE = 0.05
"""A ridge this strong, as a share of the skin's brightness, is a rim."""
_HUES = (1.0, 2.0, 2.0)
"""Weights of lightness and of both hues in a ridge."""
_LIKENESS = 30.0
"""Distance (Lab) at which a line is of another colour."""
_CLOSED, _BELOW = 0.90, 0.85
"""Least share of a rim that is one: all round, and across the cheek alone."""
_ANGLES, _RADII = 96, np.linspace(0.25, 0.80, 53)
_FLAT = 0.8
"""Height of the search about an eye, of its width."""
_WIDEST, _NARROWEST = 0.07, 0.010
"""Half of a frame's width."""


@dataclass(frozen=True, eq=False)
class Front:
    """What stands in front of a photo's skin, within the box y0, y1, x0, x1."""

    share: np.ndarray
    """[H,W] float32 in [0,1]"""
    box: tuple[int, int, int, int]
    planes: tuple[np.ndarray, ...]
    """Of the photo, of the photo without it and of 255 times the share, within the box"""

    def over(self, out: np.ndarray, head: np.ndarray, inset: int) -> None:
        """Lay it over the frame ``out`` [H-2I,W-2I,3] float32, in place; ``head`` [H,W,2]: backward motion, or empty.

        What the frame shows is changed by as much as it differs from the photo without glasses: by nothing at rest.
        """
        height, width = self.share.shape
        y0, y1 = max(self.box[0], inset), min(self.box[1], height - inset)
        x0, x1 = max(self.box[2], inset), min(self.box[3], width - inset)
        if y0 >= y1 or x0 >= x1:
            return
        part = np.s_[y0 - self.box[0] : y1 - self.box[0], x0 - self.box[2] : x1 - self.box[2]]
        if head.size:
            back = np.zeros((self.box[1] - self.box[0], self.box[3] - self.box[2], 2), np.float32)
            back[part] = head[y0:y1, x0:x1]
            photo, bare, share = (np.asarray(warp_planes(planes, back))[part] for planes in self.planes)
        else:
            photo, bare, share = (q[:, PAD:-PAD, PAD:-PAD].transpose(1, 2, 0)[part] for q in self.planes)
        share = share / np.float32(255)
        shown = out[y0 - inset : y1 - inset, x0 - inset : x1 - inset]
        np.copyto(shown, np.clip(photo + (1 - share) * (shown - bare), 0, 255), where=share > 0)


def without_glasses(image: np.ndarray, landmarks: np.ndarray) -> tuple[np.ndarray, Front | None]:
    """([H,W,3] uint8 RGB without glasses, the glasses), or the image itself and None where none are found.

    landmarks [68,2] pixels.

    >>> points = np.random.default_rng(0).uniform(8, 56, (68, 2))
    >>> without_glasses(np.full((64, 64, 3), 128, np.uint8), points)[1] is None
    True
    """
    share = _share(image, np.asarray(landmarks, np.float64))
    if share is None:
        return image, None
    rows, columns = np.flatnonzero((share > 0).any(1)), np.flatnonzero((share > 0).any(0))
    margin = 14  # of skin, which is carried on beneath it, and of a head that turns
    y0, x0 = (max(int(k[0]) - margin, 0) for k in (rows, columns))
    y1, x1 = (min(int(k[-1]) + 1 + margin, n) for k, n in zip((rows, columns), share.shape, strict=True))
    box = np.s_[y0:y1, x0:x1]
    bare = image.copy()
    taken = cv2.dilate((share[box] > 0).astype(np.uint8), np.ones((3, 3), np.uint8))
    filled = cv2.inpaint(np.ascontiguousarray(image[box]), taken, 3, cv2.INPAINT_TELEA)
    np.copyto(bare[box], filled, where=share[box][..., None] > 0)
    planes = (image[box], bare[box], np.repeat(share[box][..., None] * 255, 3, -1))
    return bare, Front(share, (y0, y1, x0, x1), tuple(planes_of(np.ascontiguousarray(part)) for part in planes))


def cheek_mask(shape: tuple[int, ...], points: np.ndarray) -> np.ndarray:
    """[H,W] bool: what lies between the eyes and the mouth, of landmarks [68,2] pixels."""
    mask = np.zeros(shape, np.uint8)
    for ids in ((1, 41, 31, 48, 3), (15, 46, 35, 54, 13)):
        cv2.fillPoly(mask, [cv2.convexHull(points[list(ids)].round().astype(np.int32))], (1,))
    return mask > 0


def _read(image: np.ndarray, at: np.ndarray) -> np.ndarray:
    at = at.astype(np.float32)
    return np.asarray(
        cv2.remap(image, at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32
    )


def _ridges(lab: np.ndarray, iod: float) -> np.ndarray:
    """Strength of lines [H,W] of any width a frame has, darker, brighter or of another colour: a grey rim is as bright
    as skin, and lashes and folds have the skin's hue."""
    best = np.zeros(lab.shape[:2], np.float32)
    for width in (0.010, 0.018, 0.028):
        sigma = max(width * iod, 0.7)
        smooth = cv2.GaussianBlur(lab, (0, 0), sigma)
        xx, yy, xy = (cv2.Sobel(smooth, cv2.CV_32F, *order, ksize=3) / 4 for order in ((2, 0), (0, 2), (1, 1)))
        mean, apart = (xx + yy) / 2, np.sqrt(((xx - yy) / 2) ** 2 + xy**2)
        lines = (np.abs(mean) + apart) * (sigma**2 * np.array(_HUES, np.float32))
        best = np.maximum(best, lines.max(-1))
    return best


def _share(image: np.ndarray, points: np.ndarray) -> np.ndarray | None:
    """Share [H,W] of each pixel that is a frame, or None."""
    centres = points[36:42].mean(0), points[42:48].mean(0)
    iod = float(np.linalg.norm(centres[1] - centres[0]))
    if iod < 16:  # a frame is narrower than a pixel
        return None
    e = (centres[1] - centres[0]) / iod
    n, middle = np.array([-e[1], e[0]]), (centres[0] + centres[1]) / 2
    cheeks = cheek_mask(image.shape[:2], points)
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.float32)
    if not cheeks.any() or lab[cheeks, 0].mean() < 8:
        return None

    # A bridge, the same across the nose.
    down, across = np.arange(-0.25, 0.40, 0.01), np.linspace(-0.06, 0.06, 13)
    at = middle + across[None, :, None] * iod * e + down[:, None, None] * iod * n
    nose = _read(cv2.GaussianBlur(lab, (0, 0), max(0.008 * iod, 0.5)), at)
    plain = cv2.GaussianBlur(nose.reshape(len(down), -1), (0, 0), sigmaX=0.01, sigmaY=5).reshape(nose.shape)
    band = np.linalg.norm(np.median(nose - plain, 1), axis=-1)[5:-5]
    if band.max() < max(_BRIDGE, _ALONE * float(np.median(band))):
        return None
    height = float(down[5 + band.argmax()])

    # A rim about each eye, first one for both.
    ridges = _ridges(lab, iod) / lab[cheeks, 0].mean()
    angle = np.arange(_ANGLES) * 2 * np.pi / _ANGLES
    rims = []
    for centre, side in zip(centres, (-1, 1), strict=True):
        x = side * (0.02 + np.cos(angle)[:, None] * _RADII)
        y = 0.05 + _FLAT * np.sin(angle)[:, None] * _RADII
        rims.append(centre + x[..., None] * iod * e + y[..., None] * iod * n)
    strengths = [_read(ridges, rim) for rim in rims]
    both = np.sqrt(strengths[0] * strengths[1])
    common, turn = _circle(_gain(both)), np.arange(_ANGLES)
    below = (angle > np.radians(25)) & (angle < np.radians(155))
    # Across the cheek nothing else is as likely; above, brows are: of two lines the one of that colour.
    colours, skin = [_read(lab, rim) for rim in rims], np.median(lab[cheeks], 0)
    hue = np.median([colour[turn, common][below] for colour in colours], (0, 1))
    gains = [_gain(strength) * _alike(colour, hue, skin) for strength, colour in zip(strengths, colours, strict=True)]
    common = _circle(np.sqrt(gains[0] * gains[1]))
    found = np.minimum(both[turn, common] / _RIDGE, 1)
    if found.mean() < _CLOSED or found[below].mean() < _BELOW:
        return None

    k, bounds = 4, image.shape[1::-1]
    first = np.clip(np.floor(middle - 1.4 * iod), 0, bounds).astype(int)
    past = np.clip(np.ceil(middle + 1.4 * iod), 0, bounds).astype(int)
    if (past <= first).any():
        return None
    total = np.zeros(k * (past - first)[::-1], np.uint8)

    def fill(polygon: np.ndarray, value: int) -> None:
        cv2.fillPoly(drawn, [((polygon - first + 0.5) * k - 0.5).round().astype(np.int32)], (value,))

    pixel = 1.4 / iod  # of the border, which a camera mixes with the skin
    for rim, gain in zip(rims, gains, strict=True):
        near = np.abs(np.arange(len(_RADII)) - common[:, None]) <= 6
        inner, outer = _edges(lab, rim, _circle(np.where(near, gain, 0)), _RADII[1] - _RADII[0], pixel, True)
        drawn = np.zeros_like(total)
        fill(outer, 1)
        fill(inner, 0)
        total |= drawn
    inner_x = _RADII[common[_ANGLES // 2]] - 0.02  # of the rims on the side of the nose, from their eyes
    ways = [(np.linspace(inner_x - 0.5, 0.5 - inner_x, 21), height, 0.10)]
    outer_x = 0.52 + _RADII[common[0]]
    ways += [(side * np.linspace(outer_x, 1.15, 16), -0.05, 0.22) for side in (-1, 1)]
    for which, (x, start, reach) in enumerate(ways):
        y = start + np.linspace(-reach, reach, max(round(reach / 0.005), 8))
        grid = middle + x[:, None, None] * iod * e + y[None, :, None] * iod * n
        strength = _read(ridges, grid)
        path = _path(_gain(strength) * _alike(_read(lab, grid), hue, skin), -1)
        if which and np.minimum(strength[np.arange(len(x)), path] / _RIDGE, 1).mean() < _CLOSED:
            continue  # an arm that is hidden by hair, or seen end on
        upper, lower = _edges(lab, grid, path, y[1] - y[0], pixel, False)
        drawn = np.zeros_like(total)
        fill(np.concatenate([upper, lower[::-1]]), 1)
        total |= drawn
    share = np.zeros(image.shape[:2], np.float32)
    size = tuple(int(n) for n in past - first)
    share[first[1] : past[1], first[0] : past[0]] = cv2.resize(
        total.astype(np.float32), size, interpolation=cv2.INTER_AREA
    )
    return share if (share > 0).any() else None


def _gain(strength: np.ndarray) -> np.ndarray:
    return strength / (strength + _RIDGE)


def _alike(colour: np.ndarray, hue: np.ndarray, skin: np.ndarray) -> np.ndarray:
    """How much a line of ``colour`` [...,3] counts on a frame of ``hue`` [3], beside ``skin`` [3]: less where it is of
    another colour, but frames may have two; no more where it is a fold of the skin."""
    near, plain = (np.exp(-((colour - c) ** 2).sum(-1) / (2 * _LIKENESS**2)) for c in (hue, skin))
    return np.asarray(0.7 + 0.3 * near * (1 - plain))


@njit(cache=True, nogil=True)
def _path(gain: np.ndarray, start: int) -> np.ndarray:
    """Of ``gain`` [A,R] the path [A] of steps of at most 2 along which most of it lies; from and to ``start`` unless
    that is negative."""
    count, size = gain.shape
    total, now = np.empty(size), np.empty(size)
    came = np.zeros((count, size), np.int64)
    for r in range(size):
        total[r] = -gain[0, r] if start < 0 or r == start else np.inf
    for a in range(1, count):
        for r in range(size):
            best, where = np.inf, r
            for k in range(max(r - 2, 0), min(r + 3, size)):
                step = abs(k - r)
                cost = total[k] + (0.0 if step == 0 else 0.05 if step == 1 else 0.2)
                if cost < best:
                    best, where = cost, k
            now[r], came[a, r] = best - gain[a, r], where
        total[:] = now
    path = np.zeros(count, np.int64)
    best = np.inf
    for r in range(size):
        if (start < 0 or abs(r - start) <= 2) and total[r] < best:
            best, path[count - 1] = total[r], r
    for a in range(count - 1, 0, -1):
        path[a - 1] = came[a, path[a]]
    return path


def _circle(gain: np.ndarray) -> np.ndarray:
    """A closed path: from where an open one passes half-way, all round."""
    half = len(gain) // 2
    start = int(_path(gain, -1)[half])
    return np.asarray(np.roll(_path(np.roll(gain, -half, 0), start), half))


def _edges(
    lab: np.ndarray, grid: np.ndarray, path: np.ndarray, step: float, pixel: float, closed: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Both edges [A,2] of a frame along ``path`` [A] of ``grid`` [A,R,2], whose places are ``step`` apart: as far as
    its colour goes on, and ``pixel`` more."""
    a, last = np.arange(len(path)), grid.shape[1] - 1
    colour = _read(lab, grid)
    near = [np.roll(a, k) if closed else np.clip(a + k, 0, a[-1]) for k in (-2, -1, 0, 1, 2)]
    own = np.median([colour[k, path[k]] for k in near], 0)
    edges = []
    for way in (-1, 1):
        far = [colour[a, np.clip(path + way * round(d / step), 0, last)] for d in (0.09, 0.11, 0.13)]
        skin = np.median(far, 0)
        apart = own - skin
        size = np.maximum((apart**2).sum(-1), 36.0)
        width, on = np.zeros(len(path)), np.ones(len(path), bool)
        for k in range(1, max(round(_WIDEST / step), 1) + 1):
            here = colour[a, np.clip(path + way * k, 0, last)]
            on &= ((here - skin) * apart).sum(-1) / size > 0.5
            width += on
        width = np.maximum(width * step, _NARROWEST)
        ends = np.pad(width, 2, mode="wrap" if closed else "edge")
        width = np.median(np.lib.stride_tricks.sliding_window_view(ends, 5), -1)
        there = np.clip(path + way * (width + pixel) / step, 0, last)
        low = np.floor(there).astype(int)
        part = (there - low)[:, None]
        edges.append((1 - part) * grid[a, low] + part * grid[a, np.minimum(low + 1, last)])
    return edges[0], edges[1]
