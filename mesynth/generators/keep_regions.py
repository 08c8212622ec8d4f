"""Change chosen face regions alone: names of regions, their masks on a picture, and clips confined to them.

The regions are those of :mod:`mesynth.preprocess.regions`. Everything outside them stays what the onset shows, to
the bit; a generator may use the same mask while it draws, so that what it draws fits its surroundings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mesynth import seeds
from mesynth.errors import MesynthError
from mesynth.motion.nuisance import Nuisance, add_noise
from mesynth.preprocess.flow import estimate_flow
from mesynth.preprocess.regions import REGION_AUS, polygon_mask, region_polygons
from mesynth.types import Sample


def _both(name: str) -> tuple[str, str]:
    return f"left_{name}", f"right_{name}"


GROUPS: dict[str, tuple[str, ...]] = {
    "brows": (*_both("brow"), "glabella"),
    "eyes": _both("eye"),
    "temples": _both("temple"),
    "cheeks": _both("cheek"),
    "nasolabials": _both("nasolabial"),
    "lip_corners": _both("lip_corner"),
    "upper_face": (*_both("brow"), *_both("eye"), *_both("temple"), "glabella", "forehead"),
    "lower_face": ("mouth", "chin", "upper_lip", "nose", *_both("cheek"), *_both("nasolabial"), *_both("lip_corner")),
}
"""Names that stand for several regions."""


def named_regions(text: str) -> tuple[str, ...]:
    """``"mouth+brows"`` -> names of :data:`mesynth.preprocess.regions.REGION_AUS`, each once.

    Raises:
        MesynthError: nothing, or a name that is unknown.

    >>> named_regions("mouth+brows")
    ('mouth', 'left_brow', 'right_brow', 'glabella')
    """
    out: dict[str, None] = {}
    for name in (part.strip() for part in text.split("+")):
        if name not in GROUPS and name not in REGION_AUS:
            known = ", ".join([*sorted(GROUPS), *sorted(REGION_AUS)])
            raise MesynthError(f"face region '{name}' is unknown; join with '+' what you want of {known}")
        out |= dict.fromkeys(GROUPS.get(name, (name,)))
    return tuple(out)


def region_mask(landmarks: np.ndarray, shape: tuple[int, int], names: Sequence[str]) -> np.ndarray:
    """Where the named regions lie in a picture of ``shape`` (height, width): landmarks [68,2] pixels -> [H,W] bool.

    Raises:
        MesynthError: the landmarks show no face, or no pixel of the regions lies in the picture.
    """
    polygons = region_polygons(landmarks)
    side = max(shape)
    mask = np.any([polygon_mask(polygons[name], side) for name in names], axis=0)[: shape[0], : shape[1]]
    if not mask.any():
        raise MesynthError(f"no pixel of {'+'.join(names)} lies in the picture; choose other regions or a larger face")
    return np.ascontiguousarray(mask)


def cell_mask(mask: np.ndarray, side: int) -> np.ndarray:
    """[S,S] bool -> [side,side] bool: cells of a coarser grid that hold at least one pixel of the mask."""
    cell = len(mask) // side
    return np.asarray(mask.reshape(side, cell, side, cell).any((1, 3)))


def confined(
    sample: Sample, image: np.ndarray, mask: np.ndarray, *, nuisance: Nuisance, seed: int, flow_method: str
) -> Sample:
    """The clip with every pixel outside ``mask`` [H,W] as in ``image`` [H,W,3] uint8, and flow estimated anew.

    ``sample`` must come without sensor noise: that of ``nuisance`` is a camera's, so it is added last and everywhere.
    Without it, pixels outside the mask are those of ``image`` to the bit in every frame.
    """
    frames, noise = np.where(mask[..., None], sample.clip.frames, image), seeds.stream(seed, "noise")
    if nuisance.noise:
        for frame in frames[1:]:
            frame[:] = np.clip(add_noise(frame.astype(np.float32), nuisance.noise, noise) + 0.5, 0, 255)
    flow = estimate_flow(frames[0], frames[sample.clip.apex], flow_method)
    return replace(sample, clip=replace(sample.clip, frames=frames), flow=flow)
