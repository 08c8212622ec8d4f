"""Exports: a corpus into a new folder in one of the forms by name, and nothing missing without a line that says why.

A client of the resumable engine (:func:`mesynth.store.stage.run_shards`). What a shard's journal holds beside the rows
are their names in the export and what was left out; ``export.json`` is written last: a folder without it is not
finished."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mesynth import __version__
from mesynth.core.errors import ConfigError, ManifestError
from mesynth.corpus.exports.flow import FlowFoldersForm, FlowNpyForm
from mesynth.corpus.exports.form import PROVENANCE_FILE, ExportedClip, ExportSummary, Form, Options, SourceClip
from mesynth.corpus.exports.frames import FramesForm, PreviewsForm
from mesynth.corpus.exports.huggingface import HuggingFaceForm
from mesynth.corpus.exports.meb import MebForm
from mesynth.corpus.exports.records import record_of
from mesynth.corpus.exports.releases import Casme2Form, SammForm
from mesynth.corpus.exports.webdataset import WebDatasetForm
from mesynth.store import digests
from mesynth.store.manifest import FRAMING, Manifest, framing_meta, write_tables
from mesynth.store.run_folder import claim_folder, temporary_beside, write_last, write_listed, write_text
from mesynth.store.stage import PARTS, Progress, Skipped, journal, run_shards, skipped_csv

FORMS: dict[str, type[Form]] = {
    form.name: form
    for form in (
        FlowFoldersForm, Casme2Form, SammForm, WebDatasetForm, HuggingFaceForm, FramesForm, PreviewsForm, FlowNpyForm,
        MebForm,
    )
}  # fmt: skip


def require_form(name: str) -> type[Form]:
    """The form of that name. Raises ConfigError on an unknown one."""
    if name not in FORMS:
        raise ConfigError(f"form '{name}' is unknown; choose from {', '.join(FORMS)}")
    return FORMS[name]


# ------------------------------------------------------------------- run


ACCOUNT_FILE = "export.json"
LEFT_OUT_FILE = "left_out.csv"
_PLACES, _LEFT = "places.jsonl", "left_out.jsonl"


def export(
    source: Manifest,
    form: str,
    out: Path | str,
    options: Options = Options(),
    *,
    workers: int = 1,
    progress: Progress | None = None,
) -> ExportSummary:
    """Write ``source`` into the new folder ``out`` in a form of :mod:`mesynth.corpus.exports.run`.

    Beside the form's own files lie ``provenance.jsonl`` (a line a clip: its names here, its own name, annotation with
    exact action units, provenance) and ``left_out.csv`` (clips the form cannot take, and why). The same call again
    resumes, or returns the account of a finished export. Memory does not grow with the clips' frames. ``workers``:
    processes (0: one per core); the bytes of the export do not depend on it.

    Raises:
        ConfigError: an unknown form, an option that the form does not have, or fewer than 0 workers.
        ManifestError: an empty corpus, a damaged shard, or no clip that the form can take.
        RunFolderError: ``out`` holds something else, or another process is writing it.
        Interrupted: on Ctrl-C.
        MesynthError: a worker process died, or the disk is full.

    >>> import mesynth, tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> corpus = mesynth.generate(kind="flow", emotion="surprise", count=4, out=folder / "flow")
    >>> export(corpus, "flow-npy", folder / "npy").clips
    4
    """
    out = Path(out)
    if workers < 0:
        raise ConfigError(f"workers={workers}; give 0 (one per core) or more")
    chosen = planned(source, form, options)
    claim_folder(out, _config(source, form, options))
    run_shards(
        out, source, partial(_make_shard, chosen, out), partial(_finish, chosen, out), last=ACCOUNT_FILE,
        workers=workers, progress=progress,
    )  # fmt: skip
    digests.check(out, [ACCOUNT_FILE])
    return ExportSummary(**json.loads((out / ACCOUNT_FILE).read_text()) | {"out": str(out)})


def planned(source: Manifest, form: str, options: Options) -> Form:
    """The form for this corpus. Raises ConfigError and ManifestError as :func:`export`."""
    kind = require_form(form)
    if not len(source):
        raise ManifestError(f"the corpus {source.root} holds no clips; there is nothing to export")
    chosen = kind(source, options)
    if all(chosen.lacks(row) for row in source):
        why = chosen.lacks(source.row(0))
        raise ManifestError(f"no clip of {source.root} can be exported to {form}; the first has {why}")
    return chosen


@dataclass(frozen=True)
class Forecast:
    """What an export would take and leave out, without opening a shard."""

    clips: int
    left_out: tuple[Skipped, ...]


def forecast(source: Manifest, form: str, options: Options = Options()) -> Forecast:
    """See :class:`Forecast`; raises as :func:`export` does before it writes."""
    chosen = planned(source, form, options)
    left = tuple(Skipped(row.clip_id, why) for row in source if (why := chosen.lacks(row)))
    return Forecast(len(source) - len(left), left)


def _config(source: Manifest, form: str, options: Options) -> dict[str, Any]:
    chosen = {name: value for name, value in asdict(options).items() if name != "frame" or value}
    return {
        "stage": "export", "form": form, "options": chosen, "input": source.hash(), "version": __version__,
    }  # fmt: skip


# ---------------------------------------------------------------- shards


def _make_shard(form: Form, out: Path, index: int, n_shards: int, first: int, part: Manifest) -> Iterator[int]:
    """A :class:`mesynth.store.stage.ShardMaker`; all clips are done once the journal lies."""
    left: list[Skipped] = []
    at = 0

    def usable() -> Iterator[SourceClip]:
        nonlocal at
        for number, row in enumerate(part):
            at = number
            if why := form.lacks(row):
                left.append(Skipped(row.clip_id, why))
            else:
                yield SourceClip(part.root, first + number, row, form.move)

    rows, places = [], []
    for placed in form.write(out, index, n_shards, usable()):
        rows.append(placed.row)
        places.append(placed.place)
        yield at
    folder = journal(out, index).parent
    written = {_PLACES: _json_lines(places), _LEFT: _json_lines(map(asdict, left))}
    write_listed(folder, {name: text.encode() for name, text in written.items()})
    Manifest.from_rows(rows, out).write(folder)  # last: it says that the shard is done
    yield len(part)


def _json_lines(records: Iterable[object]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def _placed(out: Path, n_shards: int) -> Iterator[ExportedClip]:
    for index in range(n_shards):
        folder = journal(out, index).parent
        digests.check(folder, [_PLACES])
        with open(folder / _PLACES, encoding="utf-8") as places:
            for row, line in zip(Manifest.read(folder), places, strict=True):
                yield ExportedClip(row, json.loads(line))


def _finish(form: Form, out: Path, n_shards: int) -> None:
    reasons = _write_left_out(out, n_shards)
    clips = _write_provenance(out, n_shards)
    facts = form.finish(out, lambda: _placed(out, n_shards))
    meta = framing_meta(form.framing)
    if form.readable:
        # manifest.parquet from the journals, one in memory at a time
        write_tables(out, lambda: (Manifest.read(journal(out, index)).table for index in range(n_shards)), meta)
    framing = meta.get(FRAMING, "")
    account = ExportSummary(form.name, "", clips, sum(reasons.values()), dict(reasons), facts, framing)
    write_last(out / ACCOUNT_FILE, (json.dumps(asdict(account), indent=1) + "\n").encode(), without=[PARTS])


def _write_left_out(out: Path, n_shards: int) -> Counter[str]:
    """``left_out.csv`` (a header alone where nothing was left out); reason -> clips."""
    files = (journal(out, index).parent / _LEFT for index in range(n_shards))
    left = [Skipped(**json.loads(line)) for file in files for line in file.read_text().splitlines()]
    write_text(out / LEFT_OUT_FILE, skipped_csv(left))
    return Counter(entry.reason for entry in left)


def _write_provenance(out: Path, n_shards: int) -> int:
    """Stream ``provenance.jsonl``; returns the number of clips."""
    target = out / PROVENANCE_FILE
    temporary = temporary_beside(target)
    clips = 0
    with open(temporary, "w", encoding="utf-8") as file:
        for placed in _placed(out, n_shards):
            file.write(json.dumps(record_of(placed)) + "\n")
            clips += 1
    temporary.replace(target)
    return clips
