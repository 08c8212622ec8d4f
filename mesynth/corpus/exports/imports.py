"""Exports on their way back, by the ``provenance.jsonl`` beside their files.

:func:`restored`: clips that a loader read from an export get their own names, truth and provenance again. A loader of
the field sees a further database with people of its own (sub501, 501, syn501). For leak safety that is not enough: it
does not know whom a generator has seen. :func:`import_export`: an export becomes a corpus again, one clip at a time.
Nothing is aligned or estimated: what comes back is what lies in the export, and a row warns of what its form has
lost."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import mesynth
from mesynth.core.errors import ConfigError, ManifestError, MesynthError
from mesynth.core.framing import KnownFraming
from mesynth.corpus.exports.form import PROVENANCE_FILE, Form
from mesynth.corpus.exports.records import AGAIN, provenance_of, row_of
from mesynth.corpus.exports.run import ACCOUNT_FILE, FORMS
from mesynth.datasets.registry import EXPORT, advised
from mesynth.store import digests
from mesynth.store.manifest import Manifest, Row, framing_meta
from mesynth.store.stage import PARTS, Produced, Progress, run_stage

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


# ------------------------------------------------------------------- imports


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
    worker = _Worker(found.root, found.form.name)
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


@dataclass(frozen=True)
class _Worker:
    """Picklable: one line to one clip with its arrays."""

    root: Path
    form: str

    def __call__(self, line: ProvenanceLine) -> Produced:
        try:
            return FORMS[self.form].back(self.root, row_of(line.record), line.record["as"])
        except MesynthError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
            raise ManifestError(
                f"line {line.number} of {self.root / PROVENANCE_FILE} is damaged ({reason}); {AGAIN}"
            ) from None
