"""A tree of flow images as published with STSTNet, from flows that are known. The inverse of the reader."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from mesynth.core.emotions import CLASSES_3
from mesynth.core.types import optical_strain

SIZE, FINE = 28, 112
PLACES = {"negative": (0.25, 1.0), "positive": (0.75, -1.0), "surprise": (0.25, -1.0)}
"""Class -> height in the image and sign of v: what tells the classes apart."""


@dataclass(frozen=True)
class FlowImage:
    """One clip: its folder's subject, its name after the subject, its class and flow [2,FINE,FINE]."""

    subject: str
    clip: str
    label: str
    flow: np.ndarray = field(repr=False)


def smooth_flow(label: str, rng: np.random.Generator, noise: float = 0.35) -> np.ndarray:
    """[2,FINE,FINE] float32 pixels: motion where the class moves, head motion, and a smooth field of ``noise``."""
    height, sign = PLACES[label]
    grid = (np.arange(FINE) + 0.5) / FINE
    x, y = np.meshgrid(grid, grid)
    uv = np.zeros((2, FINE, FINE), np.float32)
    for centre in (0.3, 0.7):
        uv[1] += sign * rng.uniform(1, 2) * np.exp(-((x - centre) ** 2 + (y - height) ** 2) / 0.02)
        uv[0] += rng.uniform(0.3, 1) * (centre - 0.5) * np.exp(-((x - centre) ** 2 + (y - height) ** 2) / 0.02)
    for plane in uv:
        plane += cv2.resize(rng.normal(size=(6, 6)), (FINE, FINE), interpolation=cv2.INTER_CUBIC) * noise
    return uv + rng.normal(size=(2, 1, 1)).astype(np.float32)


def stretched(plane: np.ndarray) -> np.ndarray:
    """Minimum to 0, maximum to 255; a flat plane is 0."""
    low, high = float(plane.min()), float(plane.max())
    return np.round((plane - low) / (high - low or 1.0) * 255).astype(np.uint8)


def shrunk(flow: np.ndarray) -> np.ndarray:
    """[2,SIZE,SIZE]: what the image holds before the stretch, in pixels of the fine grid."""
    return np.stack([cv2.resize(plane, (SIZE, SIZE), interpolation=cv2.INTER_AREA) for plane in flow])


def planes_of(flow: np.ndarray) -> np.ndarray:
    """[3,SIZE,SIZE] uint8: u, v, strain. Strain is computed at the fine resolution, as published."""
    strain = cv2.resize(optical_strain(flow), (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    return np.stack([stretched(plane) for plane in (*shrunk(flow), strain)])


def encoded(flow: np.ndarray, order: str = "uvs") -> bytes:
    """A png whose R, G, B hold u, v and strain in ``order``."""
    rgb = np.stack([planes_of(flow)["uvs".index(letter)] for letter in order], -1)
    done, data = cv2.imencode(".png", rgb[..., ::-1])
    assert done
    return bytes(data)


SUBJECTS = {"006": "006_{n}_2", "007": "007_{n}_1", "s01": "s01_ne_0{n}", "sub01": "EP0{n}_01f", "sub26": "EP1{n}_50"}


def flow_images(
    subjects: dict[str, str] = SUBJECTS, clips: int = 3, *, seed: int = 0, noise: float = 0.35
) -> list[FlowImage]:
    """``clips`` a subject, classes in turn."""
    rng = np.random.default_rng(seed)
    return [
        FlowImage(subject, pattern.format(n=n), CLASSES_3[n % 3], smooth_flow(CLASSES_3[n % 3], rng, noise))
        for subject, pattern in subjects.items()
        for n in range(clips)
    ]


def write_flow_folders(root: Path, images: Iterable[FlowImage], order: str = "uvs") -> Path:
    """The whole tree, with the space before ``.png``, and junk."""
    images = list(images)
    data = [encoded(image.flow, order) for image in images]
    for tested in sorted({image.subject for image in images}):
        for image, png in zip(images, data, strict=True):
            split = "u_test" if image.subject == tested else "u_train"
            folder = root / tested / split / str(CLASSES_3.index(image.label))
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{image.subject}_{image.clip} .png").write_bytes(png)
    (root / ".DS_Store").write_bytes(b"junk")
    (folder / "Thumbs.db").write_bytes(b"junk")
    return root
