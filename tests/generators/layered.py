"""Lids and lips are moved by the layers alone, whatever generator moves the skin."""

from __future__ import annotations

import numpy as np

from mesynth.core import facs
from mesynth.core.profiles import Profile
from mesynth.generators.base import Generator
from mesynth.motion.prior import Face, MotionPrior


def check_lids_and_lips(generator: Generator, face: Face, spread: float = 0.0) -> None:
    """No network is asked for them: the motion prior's frames to the byte, with its masks, of the same ``spread``."""
    asked = facs.parse_request("L45=1,25=1,5=0.6")
    ours = generator.generate(face, asked, Profile(), n_frames=3, fps=100)[0]
    prior = MotionPrior(face, spread=spread).generate(asked, Profile(), n_frames=3, fps=100)[0]
    assert np.array_equal(ours.clip.frames, prior.clip.frames)
    assert np.array_equal(ours.flow.uv, prior.flow.uv)
    assert ours.flow.new is not None
    assert prior.flow.new is not None
    assert ours.flow.new.sum() >= 5
    assert np.array_equal(ours.flow.new, prior.flow.new)
