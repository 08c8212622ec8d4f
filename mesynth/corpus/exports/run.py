"""Forms of export by name.

The engine of all exports: shard by shard, resumable, nothing missing without a line that says why.

A shard's journal (``parts/000012/``: rows, places, what was left out) is written after its files; a shard that has
one is never made twice. ``export.json`` is written last: a folder without it is not finished."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mesynth import __version__
from mesynth.core.errors import ConfigError, ManifestError, MesynthError
from mesynth.corpus.exports.flow import FlowFoldersForm, FlowNpyForm
from mesynth.corpus.exports.form import PROVENANCE_FILE, Account, Clip, Form, Options, Placed
from mesynth.corpus.exports.frames import FramesForm, PreviewsForm
from mesynth.corpus.exports.huggingface import HuggingFaceForm
from mesynth.corpus.exports.meb import MebForm
from mesynth.corpus.exports.records import record_of
from mesynth.corpus.exports.releases import Casme2Form, SammForm
from mesynth.corpus.exports.webdataset import WebDatasetForm
from mesynth.store.manifest import FILE_NAME, Manifest, write_tables
from mesynth.store.run_folder import claim_folder, only_writer, write_text
from mesynth.store.stage import Interrupted, Progress, Skipped, run_pool, shard_size

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
_PARTS = "parts"
_PLACES, _LEFT = "places.jsonl", "left_out.jsonl"


def export(
    source: Manifest,
    form: str,
    out: Path | str,
    options: Options = Options(),
    *,
    workers: int = 1,
    progress: Progress | None = None,
) -> Account:
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
    """
    out = Path(out)
    if workers < 0:
        raise ConfigError(f"workers={workers}; give 0 (one per core) or more")
    chosen = planned(source, form, options)
    claim_folder(out, _config(source, form, options))
    report = progress or (lambda done, total: None)
    if not (out / ACCOUNT_FILE).is_file():
        with only_writer(out):
            if not (out / ACCOUNT_FILE).is_file():  # the writer before may have ended in this moment
                return _export(chosen, out, workers, report)
    report(len(source), len(source))
    return Account(**json.loads((out / ACCOUNT_FILE).read_text()) | {"out": str(out)})


def _export(form: Form, out: Path, workers: int, report: Progress) -> Account:
    _remove_temporaries(out)  # left by a kill
    source, total = form.source, len(form.source)
    size = shard_size(total)
    shards = -(-total // size)
    todo = [shard for shard in range(shards) if not _journal(out, shard).is_file()]
    done = total - sum(min(size, total - shard * size) for shard in todo)
    jobs = ((shard, source[shard * size : (shard + 1) * size]) for shard in todo)
    workers = min(workers or os.cpu_count() or 1, max(len(todo), 1))
    task = partial(_make, form, out, size, shards)
    report(done, total)
    try:
        if workers == 1:
            for job in jobs:
                for finished in task(*job):
                    report(done + finished, total)
                done += finished
        else:
            run_pool(task, jobs, workers=workers, report=lambda clips: report(done + clips, total), where=out)
        return _end(form, out, shards)
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; finished clips stay in {out}, the same command goes on from there") from None
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise MesynthError(f"the disk of {out} is full; make room and run the same command again") from None
        raise
    finally:
        _remove_temporaries(out)  # of workers that were stopped


def _remove_temporaries(out: Path) -> None:
    for temporary in out.rglob("*.tmp"):
        temporary.unlink(missing_ok=True)


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
    return {
        "stage": "export", "form": form, "options": asdict(options), "input": source.hash(), "version": __version__,
    }  # fmt: skip


# ---------------------------------------------------------------- one shard


def _journal(out: Path, shard: int) -> Path:
    return out / _PARTS / f"{shard:06d}" / FILE_NAME


def _make(form: Form, out: Path, size: int, shards: int, shard: int, part: Manifest) -> Iterator[int]:
    """Write one shard and its journal; yields how many of its clips are done, all of them once the journal lies."""
    left: list[Skipped] = []
    seen = 0

    def usable() -> Iterator[Clip]:
        nonlocal seen
        for number, row in enumerate(part):
            seen = number
            if why := form.lacks(row):
                left.append(Skipped(row.clip_id, why))
            else:
                yield Clip(part.root, shard * size + number, row)

    rows, places = [], []
    for placed in form.write(out, shard, shards, usable()):
        rows.append(placed.row)
        places.append(placed.place)
        yield seen
    folder = _journal(out, shard).parent
    write_text(folder / _PLACES, "".join(json.dumps(place) + "\n" for place in places))
    write_text(folder / _LEFT, "".join(json.dumps(asdict(entry)) + "\n" for entry in left))
    Manifest.from_rows(rows, out).write(folder)  # last: it says that the shard is done
    yield len(part)


def _placed(out: Path, shards: int) -> Iterator[Placed]:
    for shard in range(shards):
        folder = _journal(out, shard).parent
        with open(folder / _PLACES, encoding="utf-8") as places:
            for row, line in zip(Manifest.read(folder), places, strict=True):
                yield Placed(row, json.loads(line))


# ---------------------------------------------------------------- the end


def _end(form: Form, out: Path, shards: int) -> Account:
    reasons = _write_left_out(out, shards)
    clips = _write_provenance(out, shards)
    facts = form.finish(out, lambda: _placed(out, shards))
    if form.readable:
        # manifest.parquet from the journals, one in memory at a time
        write_tables(out, lambda: (Manifest.read(_journal(out, shard)).table for shard in range(shards)), {})
    account = Account(form.name, str(out), clips, sum(reasons.values()), dict(reasons), facts)
    shutil.rmtree(out / _PARTS)
    write_text(out / ACCOUNT_FILE, json.dumps(asdict(account) | {"out": ""}, indent=1) + "\n")
    return account


def _write_left_out(out: Path, shards: int) -> Counter[str]:
    """``left_out.csv`` (a header alone where nothing was left out); reason -> clips."""
    reasons: Counter[str] = Counter()
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["clip_id", "reason"])
    for shard in range(shards):
        for line in (_journal(out, shard).parent / _LEFT).read_text().splitlines():
            entry = Skipped(**json.loads(line))
            reasons[entry.reason] += 1
            writer.writerow([entry.clip_id, entry.reason])
    write_text(out / LEFT_OUT_FILE, buffer.getvalue())
    return reasons


def _write_provenance(out: Path, shards: int) -> int:
    """Stream ``provenance.jsonl``; returns the number of clips."""
    target = out / PROVENANCE_FILE
    temporary = target.with_name(target.name + ".tmp")
    clips = 0
    with open(temporary, "w", encoding="utf-8") as file:
        for placed in _placed(out, shards):
            file.write(json.dumps(record_of(placed)) + "\n")
            clips += 1
    temporary.replace(target)
    return clips
