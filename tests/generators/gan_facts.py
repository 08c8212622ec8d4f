"""What the GANs' tests save beside a network, and a rendered face to give to generators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from mesynth.motion.prior import Face
from mesynth.store.generator_folder import WEIGHTS
from tests.training.rendered import person_face


def facts(name: str) -> dict[str, Any]:
    """Of a generator that saw two people."""
    return {
        "name": name, "subjects_seen": ("rendered/a", "rendered/b"), "licences": ("CC0-1.0",), "data_hash": "d",
        "config_hash": "c", "images": 12, "seed": 3, "code_version": "0", "figures": {"error": 0.5},
    }  # fmt: skip


def wide_face(size: int = 40) -> Face:
    """A face off the middle of a picture that is not square, so that nothing may rely on a prepared crop."""
    face = person_face(5, size)
    image = np.pad(face.image, ((3, 9), (14, 2), (0, 0)), mode="edge")
    return Face(image, (face.landmarks + np.array([14, 3])).astype(np.float32))


def damage(folder: Path) -> None:
    """Flip one byte in the middle of the generator's weights."""
    path = folder / "generator" / WEIGHTS
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def count(module: nn.Module) -> int:
    """Parameters."""
    return sum(p.numel() for p in module.parameters())
