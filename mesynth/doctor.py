"""All optional pieces of every room, for ``mesynth doctor``."""

from mesynth.preprocess.landmarks import needs as landmark_needs
from mesynth.preprocess.raft import need as raft_need
from mesynth.quality.weights import needs as quality_needs
from mesynth.weights import Need


def doctor() -> list[Need]:
    """One row per piece, whether it is here or not."""
    return [*landmark_needs(), raft_need(), *quality_needs()]
