"""Folds of the skin on a photo: furrows that an expression deepens, lit by the light that the photo was taken in.

A furrow is darker than the skin about it (light leaks out of it less) and its flanks turn towards the light and away
from it. Both are an expression ratio (Liu, Shan and Zhang, SIGGRAPH 2001) on the skin at rest,

``I_0(x) -> I_0(x) exp(sum_m w_m(a) R_m(x))``

which is then moved like any skin. Where furrows lie and which AUs deepen them is the head's own anatomy
(:func:`mesynth.head.texture.fold_depths`), carried to the photo by its landmarks. R_m is fixed for a photo, so that a
picture is linear in small intensities, and nothing changes at 0.

``R_m = L tanh(-(b . n_m) / (L y)) - d f_m``: f the furrow, n its slope, y = a + b . n the luminance of the skin by
least squares over the head's normals, L a limit (light from the side would paint a furrow white).
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numba import njit

from mesynth.core import seeds
from mesynth.head import texture
from mesynth.head.model import HeadModel
from mesynth.motion.warp import PAD, mirror_border

_DARK = (0.29, 0.42, 0.42)
"""Log of what a furrow of depth 1 takes of red, green and blue: furrows are red before they are dark."""
_SLOPE = 2.2 / texture.TEXELS_PER_IOD
"""Depth of a furrow, IOD: the head's."""
_LIMIT = 0.16
"""L: most that a flank's slope may do, log."""
_STRENGTH = np.array(
    [{"forehead": 0.25, "nose": 0.3, "nasolabial": 0.45}.get(fold, 0.6) for fold in texture.FOLDS], np.float32
)
"""Of each fold, of one whose age is not known. The head's people have .33 to 1 of all, .61 in the mean; of lines that
lie elsewhere on everyone less is nearer to the truth (perceptual distance to rendered people, docs/figures.md)."""
_NORMALS = 0.05
"""Blur of the head's relief before its normals, IOD: the light is a face's, not a nostril's."""


@lru_cache(maxsize=1)
def _canonical() -> tuple[np.ndarray, np.ndarray]:
    """Furrows [HEIGHT,WIDTH,M] int8 (127 = 1) and the mean head's relief [HEIGHT/2,WIDTH/2] float32, IOD."""
    model = HeadModel.load()
    lines = texture.paint_wrinkles(model.uv[model.landmarks], seeds.stream(0, "folds"), spread=0.0)
    return lines, texture.height_field(model, model.vertices)


def _read(canonical: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """``canonical`` [h,w,...] over the whole canonical plane, at ``uv`` [H,W,2]: float32."""
    at = (uv - np.array([texture.U_MIN, texture.V_MIN])) * (canonical.shape[1] / (texture.U_MAX - texture.U_MIN)) - 0.5
    at = at.astype(np.float32)
    return np.asarray(
        cv2.remap(canonical, at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32
    )


class Folds:
    """Folds of one photo: [H,W,3] uint8 RGB, with canonical coordinates ``uv`` [H,W,2] of its pixels.

    ``skin`` [H,W] bool: of the cheeks and the forehead alone, by which the light is found; ``share`` [H,W] float32 in
    [0,1]: how much of a fold a pixel shows; ``iod`` in pixels.
    """

    def __init__(self, image: np.ndarray, uv: np.ndarray, skin: np.ndarray, share: np.ndarray, iod: float) -> None:
        self._uv, self._share, self._iod = uv, share, iod
        self._left = np.clip(0.5 + 6.0 * uv[..., 0], 0, 1).astype(np.float32)
        self._light, self._shade = self._found(image, skin)
        self._ratios = np.zeros((len(texture.FOLDS), 3, *image.shape[:2]), np.float32)
        self._known = np.zeros(len(texture.FOLDS), bool)

    def _found(self, image: np.ndarray, skin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """b [3] and y [H,W], grey levels."""
        relief = _canonical()[1]
        scale = relief.shape[1] / (texture.U_MAX - texture.U_MIN)
        smooth = cv2.GaussianBlur(relief, (0, 0), _NORMALS * scale)
        zy, zx = np.gradient(smooth * scale)
        normal = np.stack([-zx, -zy, np.ones_like(zx)], -1) / np.sqrt(1 + zx**2 + zy**2)[..., None]
        normals = _read(normal.astype(np.float32), self._uv)
        grey = cv2.GaussianBlur(image.astype(np.float32).mean(-1), (0, 0), 0.02 * self._iod)
        y = grey[skin]
        if len(y) < 30:
            return np.zeros(3), np.maximum(grey, 1.0)
        design = np.concatenate([np.ones((len(y), 1)), normals[skin]], 1).astype(np.float64)
        found = np.linalg.lstsq(design, y, rcond=None)[0]
        # A nose's shadow, a lock of hair: whoever is not lit like the rest does not say how the rest is lit.
        off = np.abs(y - design @ found)
        kept = off <= 2 * np.median(off)
        found = np.linalg.lstsq(design[kept], y[kept], rcond=None)[0]
        return found[1:], np.maximum(found[0] + normals @ found[1:], max(0.25 * float(y.mean()), 1.0)).astype(
            np.float32
        )

    def _ratio(self, fold: int) -> np.ndarray:
        """R of one fold [3,H,W] float32, at depth 1."""
        furrow = _canonical()[0][..., fold].astype(np.float32) / 127
        k = min(1.0, self._iod / texture.TEXELS_PER_IOD)
        if k < 1:
            size = round(texture.WIDTH * k), round(texture.HEIGHT * k)
            furrow = np.asarray(cv2.resize(furrow, size, interpolation=cv2.INTER_AREA))
        fy, fx = np.gradient(furrow * np.float32(_SLOPE * furrow.shape[1] / (texture.U_MAX - texture.U_MIN)))
        f = _read(np.stack([furrow, fx, fy], -1).astype(np.float32), self._uv)
        lit = (f[..., 1] * np.float32(self._light[0]) + f[..., 2] * np.float32(self._light[1])) / self._shade
        ratio = _LIMIT * np.tanh(lit / _LIMIT) - f[..., 0] * np.array(_DARK, np.float32)[:, None, None]
        return np.asarray(ratio * (_STRENGTH[fold] * self._share), np.float32)

    def lit(self, photo: np.ndarray, aus: np.ndarray) -> np.ndarray:
        """``photo``, planes as :func:`mesynth.motion.warp.planes_of` makes them, with the folds of ``aus`` [K,2] in
        [0,1]; ``photo`` itself where there are none."""
        depths = texture.fold_depths(aus)
        if not depths.any():
            return photo
        for fold in np.flatnonzero(depths.any(1) & ~self._known):
            self._ratios[fold], self._known[fold] = self._ratio(int(fold)), True
        out = np.empty_like(photo)
        _apply(photo, self._ratios, depths, self._left, out)
        mirror_border(out)
        return out


@njit(cache=True, nogil=True, error_model="numpy")
def _apply(photo: np.ndarray, ratios: np.ndarray, depths: np.ndarray, left: np.ndarray, out: np.ndarray) -> None:
    """``out`` = ``photo`` (planes) times exp of the ``ratios`` [M,3,H,W] at ``depths`` [M,2] (subject's left, right).

    exp(r) = exp(r / 4)^4, the inner one by its series: |r| < 2 is off by less than 2e-7 of the value, r = 0 by nothing.
    """
    height, width = left.shape
    total = np.empty(width, np.float32)
    one, top, quarter = np.float32(1), np.float32(255), np.float32(0.25)
    c7, c6, c5 = np.float32(1 / 5040), np.float32(1 / 720), np.float32(1 / 120)
    c4, c3, c2 = np.float32(1 / 24), np.float32(1 / 6), np.float32(0.5)
    for y in range(height):
        half = left[y]
        for c in range(3):
            total[:] = 0
            for m in range(len(depths)):
                if depths[m, 0] > 0 or depths[m, 1] > 0:
                    base, more = np.float32(depths[m, 1]), np.float32(depths[m, 0] - depths[m, 1])
                    ratio = ratios[m, c, y]
                    for x in range(width):
                        total[x] += (base + half[x] * more) * ratio[x]
            source, target = photo[c, y + PAD, PAD : PAD + width], out[c, y + PAD, PAD : PAD + width]
            for x in range(width):
                r = quarter * total[x]
                e = one + r * (one + r * (c2 + r * (c3 + r * (c4 + r * (c5 + r * (c6 + r * c7))))))
                e = e * e
                target[x] = min(source[x] * (e * e), top)
