"""A blendshape head as somebody else might hand it over, made of the packaged head's arrays."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import numpy as np


@lru_cache(maxsize=1)
def _packaged() -> dict[str, np.ndarray]:
    with np.load(str(files("mesynth.head") / "data" / "head.npz"), allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def arrays(shapes: tuple[str, ...] = ("browDown", "mouthSmile", "jawOpen", "eyeBlink")) -> dict[str, np.ndarray]:
    """The arrays of a small file: centimetres, a few shapes (by the start of their names), three identity modes."""
    own = _packaged()
    kept = [i for i, name in enumerate(own["expr_names"]) if str(name).startswith(shapes)]
    modes = [i for i, name in enumerate(own["ident_names"]) if str(name).startswith("macro:")][1:8:3]
    return {
        "vertices": own["neutral"] * np.float32(10),
        "faces": own["faces"].astype(np.int32),
        "lm68": own["landmarks"].astype(np.int32),
        "expr": own["expr"][kept].astype(np.float32) * 10,
        "expr_names": own["expr_names"][kept],
        "ident": own["ident"][modes].astype(np.float32) * 10,
        "mat": own["part"],
        "mat_names": np.array(["M_Face", "M_EyeBall", "M_MouthInner", "M_Teeth", "M_Tongue"]),
    }


def write(path: Path, given: dict[str, np.ndarray]) -> Path:
    """As an npz."""
    np.savez(path, **given)  # type: ignore[arg-type]
    return path
