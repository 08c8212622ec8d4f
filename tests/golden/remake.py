"""Golden values: what the motion prior and the head gave when somebody last looked at the pictures.

``python -m tests.golden.remake`` writes them anew; look at the contact sheets before committing the change.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mesynth.core import facs
from mesynth.core.profiles import PROFILES
from mesynth.head import Subject
from mesynth.motion.prior import Face, MotionPrior

FILE = Path(__file__).parent / "golden.npz"
REQUESTS = ("12=C", "L4=C,7=B", "1=B,2=B,5=A", "15=C,17=B")
SIZE = 48


def values() -> dict[str, np.ndarray]:
    """Small flows and frames of fixed requests on one rendered person."""
    subject = Subject(7, size=SIZE, frontal=True)
    still = np.zeros((1, len(facs.AU_CODES), 2), np.float32)
    onset = subject.render(still)[0]
    prior = MotionPrior(Face(onset, subject.landmarks()))
    out = {"head onset": onset.astype(np.float32)}
    for request in REQUESTS:
        aus = facs.parse_request(request)
        sample, _ = prior.generate(aus, PROFILES["held"], n_frames=9, fps=60, seed=1)
        out[f"prior flow {request}"] = sample.flow.uv
        out[f"prior frame 2 {request}"] = sample.clip.frames[2].astype(np.float32)
        out[f"head flow {request}"] = subject.flow(still[0], aus.intensity).uv
    return out


if __name__ == "__main__":
    np.savez_compressed(FILE, **{name: value.astype(np.float16) for name, value in values().items()})
