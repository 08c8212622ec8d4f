"""Trackers by name (TensorBoard and the like); ``metrics.jsonl`` is written with or without them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mesynth.errors import ConfigError


def check_trackers(trackers: Sequence[Any]) -> None:
    """Refuse a tracker whose package is not here (Accelerate would leave it out in silence).

    ``trackers`` holds names or objects of ``accelerate.tracking.GeneralTracker``.

    Raises:
        ConfigError: unknown, or not installed.
    """
    if not trackers:
        return
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers

    available = {str(kind.value) for kind in get_available_trackers()}
    known = {str(kind) for kind in LOGGER_TYPE_TO_CLASS}
    for tracker in trackers:
        if isinstance(tracker, GeneralTracker):
            continue
        if tracker not in known:
            raise ConfigError(f"tracker '{tracker}' is unknown; there are: {', '.join(sorted(known))}")
        if tracker not in available:
            raise ConfigError(f"tracker {tracker} is not installed here; pip install {tracker}, or leave it out")
