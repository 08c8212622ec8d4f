"""How many configurations were tried on these data before: a ledger beside the manifest, one line a finished run.

Every look at test clips uses them up a little. A figure means less after a hundred settings than after one, so each
run says how many came before it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mesynth.manifest import Manifest

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
