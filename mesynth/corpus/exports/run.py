"""Exports: a corpus into a new folder in one of the forms, nothing missing without a line that says why; and back.

A client of the resumable engine (:func:`mesynth.store.stage.run_shards`). What a shard's journal holds beside the rows
are their names in the export and what was left out; ``export.json`` is written last: a folder without it is not
finished.

On the way back ``provenance.jsonl`` beside the files is read. :func:`restored`: clips that a loader read from an export
get their own names, truth and provenance again. A loader of the field sees a further database with people of its own
(sub501, 501, syn501). For leak safety that is not enough: it does not know whom a generator has seen.
:func:`import_export`: an export becomes a corpus again, one clip at a time. Nothing is aligned or estimated: what comes
back is what lies in the export, and a row warns of what its form has lost.
"""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import mesynth
from mesynth import __version__
from mesynth.core.errors import ConfigError, ManifestError, MesynthError
from mesynth.core.framing import KnownFraming
from mesynth.corpus.exports.form import (
    AGAIN,
    PROVENANCE_FILE,
    ExportedClip,
    ExportSummary,
    Form,
    Options,
    SourceClip,
    provenance_of,
    record_of,
    row_of,
)
from mesynth.corpus.exports.formats import (
    FlowNpyForm,
    FramesForm,
    HuggingFaceForm,
    MebForm,
    PreviewsForm,
    WebDatasetForm,
)
from mesynth.corpus.exports.releases import Casme2Form, FlowFoldersForm, SammForm
from mesynth.datasets.registry import EXPORT, advised
from mesynth.store import digests
from mesynth.store.manifest import FRAMING, Manifest, Row, framing_meta, write_tables
from mesynth.store.remote import delivers
from mesynth.store.run_folder import claim_folder, temporary_beside, write_last, write_listed, write_text
from mesynth.store.stage import (
    ACCOUNT_FILE,
    PARTS,
    Produced,
    Progress,
    Skipped,
    journal,
    merge_shards,
    run_shards,
    run_stage,
    skipped_csv,
)

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


# ---------------------------------------------------------------- out


LEFT_OUT_FILE = "left_out.csv"
_PLACES, _LEFT = "places.jsonl", "left_out.jsonl"


@delivers
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
        closing={"kind": "export", "source": os.path.abspath(source.root), "form": form, "options": asdict(options)},
    )  # fmt: skip
    return read_summary(out)


def read_summary(out: Path) -> ExportSummary:
    """The account of a finished export."""
    digests.check(out, [ACCOUNT_FILE])
    return ExportSummary(**json.loads((out / ACCOUNT_FILE).read_text()) | {"out": str(out)})


def merge_export(out: Path, record: Mapping[str, Any]) -> None:
    """Close an export whose shards are all there (:func:`mesynth.store.stage.merge_shards`).

    Raises:
        ManifestError: its source is not where it was.
        RunFolderError: shards are missing, or somebody is writing ``out``; or the source is another one now.
    """
    form, options = str(record["form"]), Options(**record["options"])
    source = Manifest.read(str(record["source"]))
    chosen = planned(source, form, options)
    claim_folder(out, _config(source, form, options))
    merge_shards(out, partial(_finish, chosen, out), record)


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


# ---------------------------------------------------------------- the way back


_OWN = (
    "clip_id", "database", "subject", "clip", "emotion", "label", "objective_class", "au_text", "expression", "fps",
)  # fmt: skip
_ARRAYS = ("au_intensity", "au_known", "au_present")


def is_export(folder: Path | str) -> bool:
    """Whether ``folder`` was written by `mesynth export`."""
    return (Path(folder) / PROVENANCE_FILE).is_file()


def restored(loaded: Manifest, folder: Path | str) -> Manifest:
    """``loaded``, as a loader read it from the export ``folder``, with every clip's identity and provenance.

    Clips are told apart by the names they have in the export. Frames, flow and warnings stay the loader's.

    Raises:
        ManifestError: ``folder`` is no export, or holds a clip that its ``provenance.jsonl`` does not name.
    """
    folder = Path(folder)
    if not is_export(folder):
        raise ManifestError(f"{folder} has no {PROVENANCE_FILE}; give a folder that `mesynth export` wrote")
    known = {_place(record["as"]): record for record in _records(folder)}
    rows = []
    for row in loaded:
        record = known.get((row.subject, row.clip))
        if record is None:
            raise ManifestError(
                f"clip {row.clip_id} is not in {folder / PROVENANCE_FILE}; export the corpus again, and keep clips of "
                "other sources elsewhere"
            )
        rows.append(_restore(row, record))
    return Manifest.from_rows(rows, loaded.root)


def _records(folder: Path) -> Iterator[dict[str, Any]]:
    with open(folder / PROVENANCE_FILE, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                yield json.loads(line)
            except ValueError:
                raise ManifestError(
                    f"line {number} of {folder / PROVENANCE_FILE} is damaged; export the corpus again"
                ) from None


def _place(place: dict[str, Any]) -> tuple[str, str]:
    return str(place["subject"]), str(place.get("clip", place.get("material", "")))


def _restore(row: Row, record: dict[str, Any]) -> Row:
    values = {name: record[name] for name in _OWN} | {name: tuple(record[name]) for name in _ARRAYS}
    warnings = tuple(dict.fromkeys((*record["warnings"], *row.warnings)))
    return replace(row, **values, provenance=provenance_of(record), warnings=warnings)


def import_export(root: Path | str, out: Path | str, *, workers: int = 1, progress: Progress | None = None) -> Manifest:
    """Write the clips of the export ``root`` into the new folder ``out`` as a corpus with identity, annotation, exact
    action units and provenance. Memory does not grow with clips beyond the manifest's own table.

    Raises:
        ManifestError: see :func:`read_export`; or a file of the export is missing, damaged or not what its line says.
        ConfigError: the form is for looking at.
        RunFolderError, Interrupted, MesynthError: see :func:`mesynth.store.stage.run_stage`.
    """
    found = read_export(root)
    config = {"stage": "import", "form": found.form.name, "input": found.sha256, "version": mesynth.__version__}
    worker = partial(_back, found.root, found.form.name)
    return run_stage(
        Path(out), found.lines, worker, config=config, workers=workers, progress=progress,
        meta=framing_meta(found.framing),
    )  # fmt: skip


@dataclass(frozen=True)
class Exported:
    """A finished export: its form, and the line of every clip."""

    root: Path
    form: type[Form]
    lines: ProvenanceLines
    sha256: str
    """Of ``provenance.jsonl``."""
    framing: KnownFraming | None = None


def read_export(root: Path | str) -> Exported:
    """Recognise the form by ``export.json`` and look through ``provenance.jsonl``; no other file is opened.

    Raises:
        ManifestError: no finished export; a damaged line, a clip twice, or not as many lines as clips.
        ConfigError: the form is for looking at.
    """
    root = Path(root)
    form, clips, framing = _account(root / ACCOUNT_FILE)
    digests.check(root, [ACCOUNT_FILE, PROVENANCE_FILE])
    if not form.comes_back:
        raise ConfigError(
            f"{root} holds {form.name}, which are for looking at and come back as no corpus; "
            "export with --to webdataset, which loses nothing"
        )
    lines, sha256 = _index(root / PROVENANCE_FILE)
    if len(lines) != clips:
        raise ManifestError(f"{lines.path} has {len(lines)} lines for the {clips} clips of {ACCOUNT_FILE}; {AGAIN}")
    return Exported(root, form, lines, sha256, framing)


def _account(path: Path) -> tuple[type[Form], int, KnownFraming | None]:
    """(form, clips, framing) as the export states them, last of all its files."""
    if not path.is_file():
        folder = path.parent
        reason = f"{folder} has no {ACCOUNT_FILE}; give a folder that `mesynth export` has finished"
        begun = (folder / PROVENANCE_FILE).is_file() or (folder / PARTS).is_dir()  # of an export: nothing else is meant
        raise ManifestError(reason if begun else advised(reason, EXPORT, folder))
    try:
        account = json.loads(path.read_text(encoding="utf-8"))
        framing = account.get("framing") or ""
        known = KnownFraming.of_json(framing) if framing else None
        return FORMS[account["form"]], int(account["clips"]), known
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ManifestError(f"{path} is damaged: it names no form and number of clips; {AGAIN}") from None


# ---------------------------------------------------------------- lines, one at a time


@dataclass(frozen=True)
class ProvenanceLine:
    """Line ``number`` (from 1) of ``provenance.jsonl``."""

    number: int
    record: dict[str, Any]


@dataclass(frozen=True)
class ProvenanceLines:
    """Lines of a file by their places: eight bytes a clip are held, and only a slice's travel to another process."""

    path: Path
    edges: np.ndarray
    """[N+1] int64, bytes: where each line begins, and where the last one ends."""
    before: int = 0
    """Lines of the file before the first of these."""

    def __len__(self) -> int:
        return len(self.edges) - 1

    def __getitem__(self, part: slice, /) -> ProvenanceLines:
        start, stop, step = part.indices(len(self))
        assert step == 1
        return ProvenanceLines(self.path, self.edges[start : max(start, stop) + 1].copy(), self.before + start)

    def __iter__(self) -> Iterator[ProvenanceLine]:
        with open(self.path, "rb") as file:
            file.seek(int(self.edges[0]))
            for number, size in enumerate(np.diff(self.edges), self.before + 1):
                yield ProvenanceLine(number, _record(self.path, number, file.read(int(size))))


def _index(path: Path) -> tuple[ProvenanceLines, str]:
    """All lines of the file, each looked at once, and the file's sha256."""
    edges, names, digest = array("q", [0]), bytearray(), hashlib.sha256()
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                clip = str(_record(path, number, line)["clip_id"])
                names += hashlib.blake2b(clip.encode("utf-8", "replace"), digest_size=8).digest()
                edges.append(edges[-1] + len(line))
                digest.update(line)
    except OSError as error:
        raise ManifestError(f"{path} cannot be read ({error.strerror}); {AGAIN}") from None
    keys = np.frombuffer(bytes(names), np.uint64)
    first = np.unique(keys, return_index=True)[1]
    if len(first) < len(keys):
        again = min(set(range(len(keys))) - set(first.tolist()))
        raise ManifestError(f"line {again + 1} of {path} names a clip for the second time; {AGAIN}")
    return ProvenanceLines(path, np.array(edges, np.int64)), digest.hexdigest()


def _record(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict) or "clip_id" not in record or not isinstance(record.get("as"), dict):
        raise ManifestError(f"line {number} of {path} is damaged; {AGAIN}")
    return record


# ---------------------------------------------------------------- one clip


def _back(root: Path, form: str, line: ProvenanceLine) -> Produced:
    """One line to one clip with its arrays."""
    try:
        return FORMS[form].back(root, row_of(line.record), line.record["as"])
    except MesynthError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise ManifestError(f"line {line.number} of {root / PROVENANCE_FILE} is damaged ({reason}); {AGAIN}") from None
