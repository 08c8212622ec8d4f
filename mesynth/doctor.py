"""All optional pieces of every room, for ``mesynth doctor``."""

from mesynth.preprocess.landmarks import needs as landmark_needs
from mesynth.quality.weights import needs as quality_needs
from mesynth.weights import Need


def doctor() -> list[Need]:
    """One row per piece, whether it is here or not."""
    return [*landmark_needs(), *quality_needs()]
