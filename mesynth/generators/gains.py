"""Gains of a calibrated generator: how much more or less of an AU to ask a network for.

A network that shows 80 % of what it is asked for is asked for 1.25 times as much. The gains lie in the generator's
facts, are fitted by :mod:`mesynth.quality.calibrate`, and are applied where a family hands AUs to its network. Clips
keep the AUs that the user asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mesynth.facs import AU_INDEX
from mesynth.types import AUVector

if TYPE_CHECKING:
    from mesynth.generators.pipeline import GeneratorFacts

LEAST, MOST = 0.5, 2.0
"""Gains are kept within these: beyond, the network does not do what it is asked, and a factor will not mend it."""


def calibrated(aus: AUVector, facts: GeneratorFacts) -> AUVector:
    """The AUs to ask the network for: ``min(1, gain a)`` of every intensity; the same object without gains.

    Intensity 0 stays 0, unknown stays unknown.
    """
    if not facts.gains:
        return aus
    factor = np.ones((len(AU_INDEX), 1), np.float32)
    for code, gain in facts.gains.items():
        factor[AU_INDEX[int(code)]] = gain
    return AUVector(np.minimum(1, factor * aus.intensity, dtype=np.float32), aus.known)
