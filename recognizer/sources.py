"""What a run is given: manifests, paths to them, or a set in memory; and what its results depend on.

How many configurations were tried on these data before: a ledger beside the manifest, one line a finished run.

Every look at test clips uses them up a little. A figure means less after a hundred settings than after one, so each
run says how many came before it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from mesynth.core.errors import ManifestError
from mesynth.store.manifest import Manifest
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


# ------------------------------------------------------------------- ledger


FILE_NAME = "recognizer-ledger.jsonl"


def tried_before(manifests: Sequence[Manifest], identity: str) -> int:
    """Different runs (by ``identity``) that were finished on any of these manifests; lines that are damaged count."""
    seen = set()
    for manifest in manifests:
        for i, line in enumerate(_lines(manifest.root / FILE_NAME)):
            try:
                seen.add(str(json.loads(line)["identity"]))
            except (ValueError, KeyError, TypeError):
                seen.add(f"{manifest.root}:{i}")
    return len(seen - {identity})


def record(manifests: Sequence[Manifest], identity: str, facts: dict[str, Any]) -> bool:
    """Append a finished run beside every manifest, once each; False where a folder cannot be written."""
    written = True
    line = json.dumps({"identity": identity, "when": datetime.now(UTC).isoformat(timespec="seconds")} | facts)
    for manifest in manifests:
        file = manifest.root / FILE_NAME
        if any(f'"identity": "{identity}"' in known for known in _lines(file)):
            continue
        try:
            # One write of one line to a file opened for appending: two runs that end together do not mix.
            handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(handle, (line + "\n").encode())
            finally:
                os.close(handle)
        except OSError:
            written = False
    return written


def _lines(file: Path) -> list[str]:
    try:
        return [line for line in file.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        return []
