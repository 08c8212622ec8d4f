"""What a run is given: manifests, paths to them, or a set in memory; and what its results depend on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mesynth.errors import ManifestError
from mesynth.manifest import Manifest
from recognizer.config import RunConfig, effective
from recognizer.data import FlowSet, load
from recognizer.fitting import needs_of

Source = FlowSet | Manifest | Path | str | Sequence[Manifest | Path | str]
Progress = Callable[[str, int, int], None]
"""Called with (what is being done, done, total)."""


def sources(given: Source) -> FlowSet | list[Manifest]:
    """Manifests from paths; a FlowSet stays what it is."""
    if isinstance(given, FlowSet):
        return given
    many = [given] if isinstance(given, (Manifest, Path, str)) else list(given)
    return [m if isinstance(m, Manifest) else Manifest.read(m) for m in many]


def as_flow_set(
    given: FlowSet | list[Manifest],
    config: RunConfig,
    progress: Progress | None,
    what: str,
    *,
    unlabelled: bool = False,
) -> FlowSet:
    """Load manifests under the run's DataConfig; a FlowSet must have been loaded under the same."""
    if isinstance(given, FlowSet):
        if given.classes != config.data.classes or given.x.shape[-1] != config.data.size:
            raise ManifestError(
                f"the clips were loaded with classes {list(given.classes)} and size {given.x.shape[-1]}; this run has "
                f"{list(config.data.classes)} and {config.data.size}: load them with the run's DataConfig"
            )
        return given
    report = None if progress is None else partial(progress, what)
    return load(given, config.data, views=needs_of(config), unlabelled=unlabelled, progress=report)


def fingerprint(given: FlowSet | list[Manifest] | None) -> list[str]:
    """What the data are, for the run's identity: manifest hashes, or the clip ids of a loaded set."""
    if given is None:
        return []
    if isinstance(given, FlowSet):
        return ["clips", str(len(given)), *map(str, given.clip_ids)]
    return [m.hash() for m in given]


def run_identity(
    verb: str,
    real: FlowSet | list[Manifest],
    synthetic: FlowSet | list[Manifest] | None,
    config: RunConfig,
) -> dict[str, Any]:
    """What a run's results depend on; two runs with equal identity give equal results."""
    return {
        "verb": verb,
        "config": effective(config, synthetic=synthetic is not None),
        "manifest": fingerprint(real),
        "synthetic": fingerprint(synthetic),
    }
