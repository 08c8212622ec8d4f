"""Is a folder what was written: every file against its digest list, and a corpus also against its manifest: hashes,
counts, pictures and arrays that decode, provenance that is complete.

Every problem is found and named, not only the first. The folder may be any that mesynth writes (:data:`KINDS`). Of one
that was written before there were digest lists, what its own metadata have hashes of is checked: the manifest, every
byte of every shard that it points into, loose frames, the faces; a generator's networks; a checkpoint's tensors.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mesynth.core.errors import ManifestError, MesynthError
from mesynth.core.types import N_AUS
from mesynth.corpus.card import CROISSANT_FILE
from mesynth.datasets.registry import corpus_near
from mesynth.preprocess.augment import GENERATOR as AUGMENT
from mesynth.store import digests
from mesynth.store.generator_folder import UNTRAINED, read_facts
from mesynth.store.manifest import FILE_NAME, Manifest, Row, Span, says_sealed
from mesynth.store.shards import VIDEO, frame_names, member_frames, npy_array, read_span
from mesynth.store.stage import Progress
from mesynth.store.videos import file_of, image_array, read_pictures

_PNG = b"\x89PNG\r\n\x1a\n"
_TAIL = 1024  # two empty blocks end a tar
_HEADS = 68


@dataclass(frozen=True)
class Defect:
    """One thing that is wrong: ``what`` says it in a sentence, ``clip_id`` and ``file`` are "" where none is meant."""

    what: str
    clip_id: str = ""
    file: str = ""

    def __str__(self) -> str:
        where = ", ".join(part for part in (self.file, self.clip_id) if part)
        return f"{where}: {self.what}" if where else self.what


@dataclass(frozen=True)
class Verdict:
    """What was checked and every problem found."""

    corpus: str
    clips: int
    frames: int
    files: int
    problems: tuple[Defect, ...]
    kind: str = "corpus"
    """What the folder is, of :data:`KINDS`."""
    notes: tuple[str, ...] = ()
    """What is to be known and nothing wrong: files that somebody put there later, what could not be checked."""

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """For JSON and people."""
        return asdict(self) | {"clean": self.clean, "problems": [asdict(p) for p in self.problems]}


KINDS = {
    "study.json+steps.json": "study", "report.html+seconds.json": "quickstart",
    "export.json": "export", "mesynth-rendered.json": "rendered database",
    "plan.json": "plan", "calibration.json": "calibrated generator", "mesynth.json": "generator",
    "state.json": "checkpoint", "cross_fit.json": "cross-fit", "record.json+recipe.yaml": "training run",
    "compare.json": "comparison", "manifest.parquet+rejected.csv": "filtered corpus", "manifest.parquet": "corpus",
    "ablation.html": "ablation", "model.safetensors+preparation.yaml": "recognizer",
    "result.json": "recognizer run", "intervals.json": "prediction", "predictions.parquet": "prediction",
    "mesynth-faces.json": "rendered faces", "report.json": "report",
}  # fmt: skip
"""What tells a kind of folder: files that one of it has once it is finished -> its name. The first that fits."""
_NAMED = ("mesynth.json", "plan.json", "state.json", "report.json")
"""JSON whose entry says that a digest list must lie beside it; a manifest says so in its metadata, others in run.yaml
once they are finished."""


def kind_of(folder: Path) -> str:
    """Of :data:`KINDS`; "" for a folder that is none, or is unfinished."""
    fits = (kind for files, kind in KINDS.items() if all((folder / name).is_file() for name in files.split("+")))
    return next(fits, "training run" if (folder / "checkpoints").is_dir() else "")


def verify(folder: Path | str, *, progress: Progress | None = None, files: Progress | None = None) -> Verdict:
    """Check a folder that mesynth wrote, with what lies in it. One clip is held at a time.

    Args:
        progress: is told how many clips are checked, of all.
        files: is told how many files are held against digest lists, of all.

    Raises:
        ManifestError: it is no such folder, or its manifest cannot be read.

    >>> import mesynth, tempfile
    >>> made = mesynth.generate(kind="flow", emotion="surprise", count=4, out=tempfile.mkdtemp() + "/flow")
    >>> verify(made.root).clean
    True
    """
    folder = Path(folder)
    kind = kind_of(folder)
    inside = folder.is_dir() and any((child / digests.LIST).is_file() for child in folder.iterdir())
    if not kind and not inside and not (folder / digests.LIST).is_file() and not digests.says_sealed(folder):
        near = corpus_near(folder)
        raise ManifestError(
            f"{folder} is no folder that mesynth wrote: it has no {FILE_NAME}, no {digests.LIST} and nothing else that "
            f"tells one{f'; {near}' if near else ''}"
        )
    found = _Lists(folder, kind, files)
    if not (folder / FILE_NAME).is_file():
        return Verdict(
            corpus=str(folder), clips=0, frames=0, files=found.files, problems=tuple(found.problems), kind=kind,
            notes=tuple(found.notes),
        )  # fmt: skip
    try:
        deep = _corpus(folder, progress)
    except ManifestError:
        if found.problems:  # which say why it cannot be read
            require_clean(Verdict(str(folder), 0, 0, found.files, tuple(found.problems)))
        raise
    told = {problem.file for problem in deep.problems}
    more = [problem for problem in found.problems if problem.file not in told]
    return replace(
        deep, files=max(found.files, deep.files), problems=(*deep.problems, *more), kind=kind, notes=tuple(found.notes)
    )


def seal_again(folder: Path | str) -> int:
    """List the files of a folder as they are now, and of the folders in it that have lists of their own; returns how
    many. What was damaged before is taken as right from then on.

    Raises:
        ManifestError: it is no folder that mesynth wrote, or its metadata cannot be read.
    """
    folder = Path(folder)
    kind = kind_of(folder)
    if not kind and not digests.says_sealed(folder):
        raise ManifestError(f"{folder} is no finished folder that mesynth wrote; there is nothing to list")
    prefixes = list(digests.listed_folders(folder))
    lists = [digests.seal(folder / prefix) for prefix in reversed(prefixes) if prefix] + [digests.seal(folder)]
    return sum(1 for file in lists for _ in digests.entries(file.parent))


class _Lists:
    """What the digest lists of a folder, and of the folders in it, say."""

    def __init__(self, folder: Path, kind: str, report: Progress | None) -> None:
        self.files = 0
        self.problems: list[Defect] = []
        self.notes: list[str] = []
        if not (folder / digests.LIST).is_file():
            self._unlisted(folder, kind)

        def count(done: int, total: int) -> None:
            self.files = done
            if report:
                report(done, total)

        for finding in digests.audit(folder, count):
            if finding.harm:
                self.problems.append(Defect(finding.what, file=finding.path))
            else:
                self.notes.append(f"{finding.path} {finding.what}")

    def _unlisted(self, folder: Path, kind: str) -> None:
        if _promised(folder, kind):
            self.problems.append(Defect(digests.gone(folder), file=digests.LIST))
            return
        if not kind and not digests.says_sealed(folder):
            self.notes.append(f"{folder} was not written as one: only what has a {digests.LIST} of its own was checked")
            return
        if digests.says_sealed(folder):
            self.notes.append(f"{folder} is unfinished: only what has a {digests.LIST} of its own in it was checked")
            return
        self.notes.append(f"{folder} was written before digests: what no metadata have a hash of was not checked")
        try:
            if kind in ("generator", "calibrated generator"):
                read_facts(folder)
            elif kind == "checkpoint":
                from mesynth.training.checkpoint import read

                read(folder)
        except MesynthError as error:
            self.problems.append(Defect(str(error)))


def _promised(folder: Path, kind: str) -> bool:
    """Whether something in a folder without a digest list says that there must be one."""
    if (folder / FILE_NAME).is_file() and says_sealed(folder / FILE_NAME):
        return True
    for name in _NAMED:
        try:
            if json.loads((folder / name).read_bytes()).get(digests.KEY) == digests.LIST:
                return True
        except (OSError, ValueError, AttributeError, RecursionError):
            continue
    finished = (folder / "generator").is_dir() if kind == "training run" else bool(kind)
    return finished and digests.says_sealed(folder)


def _corpus(folder: Path, progress: Progress | None) -> Verdict:
    """A corpus, and the faces beside it, against their manifests."""
    parts = [folder]
    if (folder / "faces" / FILE_NAME).is_file():
        parts.append(folder / "faces")
    manifests = [Manifest.read(part, checked=False) for part in parts]
    total = sum(map(len, manifests))
    checks = [_Check(manifest, os.path.relpath(part, folder)) for part, manifest in zip(parts, manifests, strict=True)]
    problems: list[Defect] = []
    done = 0
    if progress:
        progress(0, total)
    for check in checks:
        for found in check.run():
            problems += found
            done += 1
            if progress:
                progress(min(done, total), total)
        problems += check.whole()
    return Verdict(
        corpus=str(folder),
        clips=len(manifests[0]),
        frames=checks[0].frames,
        files=sum(len(check.ends) + len(check.loose) + 1 for check in checks),
        problems=tuple(problems),
    )


class _Check:
    """One manifest and its files."""

    def __init__(self, manifest: Manifest, place: str) -> None:
        self.manifest, self.root = manifest, manifest.root
        self.prefix = "" if place == "." else f"{place}/"
        self.frames = 0
        self.ends: dict[str, list[tuple[int, int]]] = {}
        """Shard -> (offset, end) of every span."""
        self.loose: set[str] = set()
        self.broken: Defect | None = None
        """The manifest itself cannot be walked to its end."""
        self._ids: set[str] = set()

    def _rows(self) -> Iterator[Row]:
        try:
            yield from self.manifest
        except (pa.ArrowException, MesynthError, TypeError, ValueError) as error:
            what = f"a row cannot be read ({' '.join(str(error).split())}); the rows after it were not checked"
            self.broken = Defect(what, file=self.prefix + FILE_NAME)

    def run(self) -> Iterator[list[Defect]]:
        """The problems of each clip in turn."""
        for row in self._rows():
            found = [*self._row(row), *provenance_problems(row)]
            problems = [Defect(what, row.clip_id) for what in found]
            if row.frames is not None:
                problems += self._span(row, row.frames, self._pictures)
            elif row.frame_files:
                problems += self._files(row)
            if row.flow is not None:
                problems += self._span(row, row.flow, self._arrays)
            yield problems

    def whole(self) -> Iterator[Defect]:
        """What concerns no single clip: the manifest's own hash, the ends of shards, shards that nobody names."""
        if self.broken:
            yield self.broken
            return
        stated = self.manifest.meta.get("mesynth.hash", "")
        name = self.prefix + FILE_NAME
        if not stated:
            yield Defect("states no hash of its rows; it was not written by mesynth", file=name)
        elif stated != self.manifest.hash():
            yield Defect("its rows are not those its hash was made of: it was changed or damaged", file=name)
        if (wanted := _published_hash(self.root)) and wanted != hashlib.sha256(_whole(self.root)).hexdigest():
            yield Defect(f"is not the file that {CROISSANT_FILE} was written for; run `mesynth card` again", file=name)
        for shard, spans in sorted(self.ends.items()):
            if (self.root / shard).is_file():
                yield from self._shard(shard, sorted(set(spans)))
        for path in sorted(self.root.glob("*.tar")):
            if path.name not in self.ends:
                yield Defect("no clip of the manifest lies in this shard", file=self.prefix + path.name)

    # ------------------------------------------------------------ one row

    def _row(self, row: Row) -> Iterator[str]:
        if row.clip_id in self._ids:
            yield "its clip_id occurs twice"
        self._ids.add(row.clip_id)
        if row.n_frames < 0 or not 0 <= row.apex_index < max(row.n_frames, 1):
            yield f"apex_index {row.apex_index} lies outside its {row.n_frames} frames"
        if row.onset > row.offset or (row.apex is not None and not row.onset <= row.apex <= row.offset):
            yield f"onset {row.onset}, apex {row.apex} and offset {row.offset} are out of order"
        lengths = {len(values) for values in (row.au_intensity, row.au_known, row.au_present)}
        if lengths != {2 * N_AUS}:
            yield f"its action units have {sorted(lengths)} entries; expected {2 * N_AUS}"
            return
        try:
            row.aus  # noqa: B018 - checked as it is made
        except ValueError as error:
            yield str(error)

    # ------------------------------------------------------------ spans

    def _span(self, row: Row, span: Span, look: Any) -> Iterator[Defect]:
        file = self.prefix + span.shard
        first = span.shard not in self.ends
        self.ends.setdefault(span.shard, []).append((span.offset, span.offset + span.size))
        if not (self.root / span.shard).is_file():
            if first:
                yield Defect("the shard is missing", file=file)
            return
        try:
            data = _bytes(self.root / span.shard, span)
            if hashlib.sha256(data).hexdigest() != span.sha256:
                named = ", ".join(_damaged(self.root, span)) or "its files still decode"
                what = f"bytes {span.offset} to {span.offset + span.size} are not what was written ({named})"
                yield Defect(what, row.clip_id, file)
                return
            members = read_span(self.root, span)
            for what in look(row, members):
                yield Defect(what, row.clip_id, file)
        except (MesynthError, OSError) as error:
            yield Defect(str(error), row.clip_id, file)

    def _pictures(self, row: Row, members: dict[str, bytes]) -> Iterator[str]:
        names = frame_names(members)
        if names == [VIDEO]:
            frames = member_frames(members, row.clip_id)
            pictures = len(frames)
            if frames.shape[1:3] != (row.height, row.width):
                yield _size(VIDEO, frames[0], row)
        else:
            pictures = len(names)
        self.frames += pictures
        if pictures != row.n_frames:
            yield f"holds {pictures} frames; the manifest says {row.n_frames}"
        for name in names if names != [VIDEO] else ():
            yield from _picture(members[name], name, row)

    def _arrays(self, row: Row, members: dict[str, bytes]) -> Iterator[str]:
        size = (row.height, row.width)
        wanted = {
            "flow.npy": ((2, *size), np.float32),
            "landmarks.npy": ((_HEADS, 2), np.float32),
            **{f"{name}.npy": (size, np.bool_) for name in ("valid", "new", "still")},
        }
        if row.provenance.kind != "real" and "flow.npy" not in members and row.n_frames > 1:
            yield "has no flow.npy"
        for name, data in members.items():
            if not name.endswith(".npy"):
                continue
            try:
                array = npy_array(data)
            except (ValueError, EOFError, OSError) as error:
                yield f"{name} cannot be read ({error})"
                continue
            shape, kind = wanted.get(name, (array.shape, array.dtype))
            if array.shape != shape or array.dtype != kind:
                yield f"{name} is {array.dtype} {array.shape}; expected {np.dtype(kind)} {shape}"
            elif array.dtype.kind == "f" and not np.isfinite(array).all():
                yield f"{name} holds NaN or infinity"

    def _shard(self, shard: str, spans: list[tuple[int, int]]) -> Iterator[Defect]:
        """A shard of whole spans ends with two empty blocks; a byte flipped there hides from every span."""
        size = (self.root / shard).stat().st_size
        end = max(end for _, end in spans)
        if size < end:
            yield Defect(f"ends at byte {size}; its last clip ends at {end}", file=self.prefix + shard)
        edges = [0, *(edge for span in spans for edge in span), size - _TAIL]
        gaps = any(a != b for a, b in zip(edges[::2], edges[1::2], strict=True))
        if gaps or size < end:  # a subset of a corpus: what lies between belongs to other clips
            return
        with open(self.root / shard, "rb") as file:
            file.seek(end)
            if any(file.read()):
                yield Defect(f"holds something after its last clip, from byte {end}", file=self.prefix + shard)

    # ------------------------------------------------------------ loose frames

    def _files(self, row: Row) -> Iterator[Defect]:
        self.frames += len(row.frame_files)
        self.loose.update(file_of(name) for name in row.frame_files)
        if len(row.frame_files) != row.n_frames:
            yield Defect(f"names {len(row.frame_files)} frames; the manifest says {row.n_frames}", row.clip_id)
        try:
            for name, image in zip(row.frame_files, read_pictures(self.root, row.frame_files), strict=True):
                if image.shape[:2] != (row.height, row.width):
                    yield Defect(_size(name, image, row), row.clip_id)
        except (MesynthError, OSError) as error:
            yield Defect(str(error), row.clip_id)


def provenance_problems(row: Row) -> Iterator[str]:
    """What the provenance of a clip leaves open; each in a sentence."""
    source = row.provenance
    if not source.database or not source.subject:
        yield "its provenance names no database or no subject"
    if not source.subjects_seen:
        yield "its provenance names nobody in subjects_seen; leak safety rests on that"
    elif row.subject_key not in source.subjects_seen:
        yield f"subjects_seen does not name {row.subject_key}, whom it shows"
    if source.kind == "synthetic":
        if not source.generator:
            yield "its provenance names no generator"
        elif not source.generator.startswith((*UNTRAINED, AUGMENT)) and not source.weights_sha256:
            yield f"its provenance has no sha256 of the weights of {source.generator}"
        for name, missing in (
            ("seed", source.seed < 0), ("parents", not source.parents), ("aus_source", not source.aus_source),
            ("profile", not source.profile), ("code_version", not source.code_version),
        ):  # fmt: skip
            if missing:
                yield f"its provenance has no {name}"


def require_clean(verdict: Verdict) -> None:
    """Raise ManifestError that names the first problem, if there is one."""
    if verdict.problems:
        first = str(verdict.problems[0])
        more = f" (and {len(verdict.problems) - 1} more)" if len(verdict.problems) > 1 else ""
        raise ManifestError(f"{first}{more}; copy the {verdict.kind or 'folder'} again or make it anew")


# ---------------------------------------------------------------- bytes


def _whole(root: Path) -> bytes:
    return (root / FILE_NAME).read_bytes()


def _published_hash(root: Path) -> str:
    """sha256 of the manifest in croissant.json, "" where there is none: it covers bytes that hold no row."""
    try:
        files = json.loads((root / CROISSANT_FILE).read_text(encoding="utf-8"))["distribution"]
        return next(str(file["sha256"]) for file in files if file["name"] == FILE_NAME)
    except (OSError, ValueError, KeyError, TypeError, StopIteration):  # no card, or one of somebody else
        return ""


def _bytes(path: Path, span: Span) -> bytes:
    with open(path, "rb") as file:
        file.seek(span.offset)
        return file.read(span.size)


def _picture(data: bytes, name: str, row: Row) -> Iterator[str]:
    try:
        image = image_array(data, name)
    except MesynthError as error:
        yield str(error)
        return
    if image.shape[:2] != (row.height, row.width):
        yield _size(name, image, row)


def _size(name: str, image: np.ndarray, row: Row) -> str:
    height, width = image.shape[:2]
    return f"{name} is {width}x{height} pixels; the manifest says {row.width}x{row.height}"


def _damaged(root: Path, span: Span) -> list[str]:
    """Names of the files of a damaged span that show it themselves."""
    try:
        members = read_span(root, span)
    except MesynthError:
        return ["its headers are broken"]
    if not members:
        return ["its headers are broken"]
    if VIDEO in members:
        try:
            member_frames(members, "")
        except MesynthError:
            return [f"{VIDEO} is damaged"]
    return [f"{name} is damaged" for name, data in members.items() if name.endswith(".png") and not _png_whole(data)]


def _png_whole(data: bytes) -> bool:
    """Whether every chunk of a PNG has the checksum it states (PNG specification, 5.3)."""
    if not data.startswith(_PNG):
        return False
    place = len(_PNG)
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        end = place + 8 + length
        if end + 4 > len(data) or zlib.crc32(data[place + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            return False
        if data[place + 4 : place + 8] == b"IEND":
            return True
        place = end + 4
    return False
