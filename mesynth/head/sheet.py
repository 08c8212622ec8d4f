"""Contact sheets: many small pictures on one, with labels."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from mesynth.core.errors import MesynthError
from mesynth.core.facs import AU_CODES
from mesynth.head.render import Subject

_GAP = 3


def contact_sheet(images: Sequence[np.ndarray], columns: int, labels: Sequence[str] | None = None) -> np.ndarray:
    """Equal-sized pictures [H,W,3] uint8 RGB in rows of ``columns``, [...,3] uint8, each with its label on it.

    Raises: MesynthError for no pictures, unequal sizes, columns < 1 or as many labels as there are not pictures.
    """
    if not len(images) or columns < 1:
        raise MesynthError(f"{len(images)} images in {columns} columns; give at least one of each")
    shapes = {np.asarray(image).shape for image in images}
    if len(shapes) != 1:
        raise MesynthError(f"images of sizes {sorted(shapes)} do not fit one sheet; give equal sizes")
    if labels is not None and len(labels) != len(images):
        raise MesynthError(f"{len(labels)} labels for {len(images)} images; give one each, or none")
    height, width, _ = shapes.pop()
    rows = -(-len(images) // columns)
    sheet = np.full((rows * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP, 3), 255, np.uint8)
    for i, image in enumerate(images):
        y, x = _GAP + (i // columns) * (height + _GAP), _GAP + (i % columns) * (width + _GAP)
        tile = np.ascontiguousarray(image)
        if labels is not None:
            tile = tile.copy()
            size = max(0.32, height / 380)
            at = (4, height - 5)
            cv2.putText(tile, labels[i], at, cv2.FONT_HERSHEY_SIMPLEX, size, (0, 0, 0), 3, cv2.LINE_AA)
            cv2.putText(tile, labels[i], at, cv2.FONT_HERSHEY_SIMPLEX, size, (255, 255, 255), 1, cv2.LINE_AA)
        sheet[y : y + height, x : x + width] = tile
    return sheet


def identities_sheet(seeds: Sequence[int], size: int = 128, columns: int = 8, frontal: bool = False) -> np.ndarray:
    """Neutral faces of many seeds."""
    neutral = np.zeros((1, len(AU_CODES), 2), np.float32)
    faces = [Subject(seed, size, frontal=frontal).render(neutral, noise_seed=0)[0] for seed in seeds]
    return contact_sheet(faces, columns, [str(seed) for seed in seeds])


def au_sheet(seed: int, size: int = 128, columns: int = 8, intensities: Sequence[float] = (0.5, 1.0)) -> np.ndarray:
    """One person at neutral and at every AU alone, both sides, at each intensity."""
    au = np.zeros((1 + len(AU_CODES) * len(intensities), len(AU_CODES), 2), np.float32)
    labels = ["neutral"]
    for k, code in enumerate(AU_CODES):
        for j, intensity in enumerate(intensities):
            au[1 + k * len(intensities) + j, k] = intensity
            labels.append(f"AU{code} {intensity:g}")
    return contact_sheet(list(Subject(seed, size, frontal=True).render(au)), columns, labels)
