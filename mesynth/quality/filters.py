"""Which clips of a corpus to leave out, and why. Nothing is lost silently.

A verb on a finished corpus: it takes corpora of any origin, and whether a clip is a duplicate depends on all others.
:mod:`mesynth.quality.until_accepted` makes others in their place.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from mesynth.errors import ManifestError
from mesynth.manifest import FILE_NAME, Manifest, Row
from mesynth.quality.checks import CHECKS, Checks, Failure, Limits
from mesynth.quality.clips import ClipData
from mesynth.quality.identity import different_people
from mesynth.run_folder import claim_folder, write_text
from mesynth.shards import read_flow
from mesynth.stage import Progress

REJECTED_FILE = "rejected.csv"
QUANTILES = (1, 5, 50, 95, 99)
"""Per cent that :class:`Spread` states."""
_FLOOR_PEOPLE = 200


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """One reason to leave a clip out; a line of ``rejected.csv``."""

    clip_id: str
    plan_row: int
    check: str
    value: float
    limit: float
    of: str = ""
    """The clip that it repeats."""
    attempt: int = 1
    """Which try at the plan's row it was; later ones are made by :mod:`mesynth.quality.until_accepted` alone."""


def rejections(row: Row, failed: Iterable[Failure], attempt: int = 1) -> list[Rejection]:
    """A line for each failed check of a clip."""
    plan_row = row.provenance.plan_row
    return [
        Rejection(clip_id=row.clip_id, plan_row=plan_row, check=check, value=value, limit=limit, of=of, attempt=attempt)
        for check, value, limit, of in failed
    ]


def rejected_csv(rejected: Iterable[Rejection]) -> str:
    """``rejected.csv``."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, [f.name for f in fields(Rejection)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(r) | {"value": f"{r.value:.6g}", "limit": f"{r.limit:g}"} for r in rejected)
    return buffer.getvalue()


def filter_corpus(
    folder: Path, out: Path, limits: Limits = Limits(), *, progress: Progress | None = None
) -> tuple[Manifest, list[Rejection]]:
    """The clips of ``folder`` within ``limits`` as a manifest in ``out``, and every reason why others are not in it.

    Shards stay where they are: the new manifest points into them. ``rejected.csv`` lists clip, plan row, check, value
    and limit. The kept and the rejected are together exactly the corpus.

    Raises:
        ManifestError: no corpus, or clips without what a check needs (frames, landmarks, flow).
        WeightsUnavailable: a check's network is not on this machine.
        RunFolderError: ``out`` holds something else.
    """
    source = _readable(folder, limits)
    checks = Checks(limits)
    checks.load()
    claim_folder(out, {"filter": source.hash(), "limits": asdict(limits)})
    rejected: list[Rejection] = []
    keep = np.ones(len(source), np.bool_)
    for index, (row, _, failed) in enumerate(_walk(source, checks)):
        keep[index] = not failed
        rejected += rejections(row, failed)
        if progress:
            progress(index + 1, len(source))
    assert set(source.column("clip_id")[~keep]) == {r.clip_id for r in rejected}
    write_text(out / REJECTED_FILE, rejected_csv(rejected))
    kept = Manifest.join([source.filter(keep)], out)
    kept.write(out)
    return Manifest.read(out / FILE_NAME), rejected


def _readable(folder: Path, limits: Limits) -> Manifest:
    source = Manifest.read(folder)
    if limits.of_frames and len(source) and source.row(0).frames is None and not source.row(0).frame_files:
        raise ManifestError(f"the clips of {folder} have no frames to check; use --keep duplicate")
    return source


def _walk(source: Manifest, checks: Checks) -> Iterator[tuple[Row, dict[str, float], list[Failure]]]:
    """Each clip with its values and the checks that it fails, in order; those that fail none are kept in mind."""
    for row in source:
        values = checks.measure(ClipData("synthetic", row, source.root)) if checks.limits.of_frames else {}
        of = ""
        if checks.limits.duplicate is not None:
            flow = read_flow(source.root, row)
            values["duplicate"], of = checks.nearest(flow)
        failed = checks.failed(values, of)
        if checks.limits.duplicate is not None and not failed:
            checks.keep(row.clip_id, flow)
        yield row, values, failed


# ---------------------------------------------------------------- how a corpus lies to the limits


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How the values of a check lie in a corpus."""

    check: str
    limit: float | None
    n: int
    quantiles: tuple[float, ...]
    """At QUANTILES; empty for all checks together."""
    rejected: float | None
    """Share of the clips beyond the limit, by this check alone; None where there is no limit."""

    def cells(self) -> list[str]:
        """For a table, with the columns of :data:`COLUMNS`."""
        limit = "" if self.limit is None else f"{self.limit:g}"
        share = "" if self.rejected is None else f"{100 * self.rejected:.1f} %"
        values = [f"{q:.3f}" for q in self.quantiles] or [""] * len(QUANTILES)
        return [self.check, limit, str(self.n), *values, share]


COLUMNS = ("check", "limit", "n", *(f"{q} %" for q in QUANTILES), "rejected")


def spread(check: str, limit: float | None, values: np.ndarray) -> Spread:
    """Of [N] values; of the duplicate check those below the limit are rejected, of the others those above."""
    quantiles = tuple(float(q) for q in np.percentile(values, QUANTILES, method="inverted_cdf"))
    share = None
    if limit is not None:
        share = float((values < limit if check == "duplicate" else ~(values <= limit)).mean())
    return Spread(check=check, limit=limit, n=len(values), quantiles=quantiles, rejected=share)


def measure_corpus(folder: Path, limits: Limits = Limits(), *, progress: Progress | None = None) -> list[Spread]:
    """How the clips of ``folder`` lie to ``limits``, check by check and in all; nothing is written.

    With the identity check, the distance between onsets of different people is there too: what another person would be.

    Raises:
        ManifestError: as :func:`filter_corpus`, or a corpus without clips. WeightsUnavailable: likewise.
    """
    source = _readable(folder, limits)
    if not len(source):
        raise ManifestError(f"{folder} holds no clips to measure")
    checks = Checks(limits)
    checks.load()
    found: dict[str, list[float]] = {name: [] for name in CHECKS if getattr(limits, name) is not None}
    onsets: dict[str, np.ndarray] = {}
    left_out = 0
    for index, (row, values, failed) in enumerate(_walk(source, checks)):
        for name, value in values.items():
            found[name].append(value)
        left_out += bool(failed)
        if limits.identity is not None and row.subject_key not in onsets and len(onsets) < _FLOOR_PEOPLE:
            clip = ClipData("synthetic", row, source.root)
            onsets[row.subject_key] = checks.embedding(clip.frames[:1], clip.landmarks)[0]
        if progress:
            progress(index + 1, len(source))
    out = [spread(name, getattr(limits, name), np.array(values)) for name, values in found.items()]
    if len(onsets) > 1:
        apart = different_people(np.stack(list(onsets.values())), list(onsets))
        out.insert(1, spread("different people", None, apart))
    return [*out, Spread(check="any", limit=None, n=len(source), quantiles=(), rejected=left_out / len(source))]
