"""The dataset card: what a corpus is, how it was made, from whom, what it holds, what it is not for; and Croissant.

Everything is counted from the rows; the quality table is quoted from a report of `mesynth measure` on this corpus.
Croissant metadata (MLCommons Croissant format specification 1.0) say the same to programs: files with hashes, records,
terms.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from mesynth import __version__
from mesynth.core import facs
from mesynth.core.errors import ManifestError, MesynthError, RunFolderError
from mesynth.core.process import counted
from mesynth.store import digests
from mesynth.store.manifest import FILE_NAME, SCHEMA, Manifest, Row
from mesynth.store.run_folder import write_beside
from mesynth.store.stage import Progress, read_skipped

CARD_FILE = "README.md"
MARK = "<!-- written by mesynth card -->"
_REPORT = "report.json"
_LICENCES = {"CC0-1.0": "cc0-1.0", "Apache-2.0": "apache-2.0", "CC-BY-4.0": "cc-by-4.0"}
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_SHOWN = 12  # lines of a table of open length
_TERMS = (
    "A clip on a photo or on a frame of a database stays under the terms of that photo or database, whatever the "
    "licence of the code."
)
_LEAKS = (
    "`subjects_seen` in the provenance names them clip by clip. **Keep a clip out of every training fold whose "
    "held-out subject it names**: otherwise the figure that is measured there is too good."
)
_MADE = (
    "`generator` paints or moves a neutral face by the action units asked for; `weights` is the sha256 of a learned "
    "generator's weights. Seed, action units and temporal profile of each clip are in its provenance."
)
_FILES = (
    "Files: `manifest.parquet` (a row a clip), `*.tar` (frames, flow, landmarks). `mesynth verify` checks every file; "
    "`mesynth export` writes other forms."
)
_USE = """\
## Intended use

Training and testing methods that recognise, spot or estimate facial micro-expressions, action units or facial motion;
as additional training data under a protocol that keeps held-out subjects out; ablations in which the truth has to be
known exactly.

## Limits

- Clips are synthetic or rendered where `kind` says so. Nobody felt what they show; an emotion word is the one whose
  action units were asked for.
- Action units of such clips are those asked for. No FACS coder has checked them, nor the weights of the letters.
- Timing follows drawn profiles, not people. Skin detail (wrinkles, blood flow) may be missing.
- Figures on this corpus alone say nothing about recorded micro-expressions.
- The people shown are those of the source faces: ages, skin tones and sexes are as unbalanced as there.

## Not for identifying people

**This corpus must not be used to identify, recognise or track people, nor to judge what a real person feels or whether
a person lies.** Where faces of real people are shown, they did not make these expressions; do not present a clip as a
recording of them."""


@dataclass(frozen=True, kw_only=True)
class CardConfig:
    """What a card cannot count."""

    title: str = "Synthetic micro-expressions"
    creator: str = ""
    url: str = ""
    quality: Mapping[str, Any] = field(default_factory=dict)
    """report.json of `mesynth measure`, see :func:`read_quality`."""
    left_out: int = 0
    """Clips that the corpus' own stage left out."""
    files: str = _FILES
    """What lies beside the card."""
    data: tuple[Mapping[str, Any], ...] = ()
    """``configs`` of the front matter: which files are tables (Hugging Face)."""


@dataclass
class CorpusFacts:
    """Counts over the rows of a corpus; filled by :func:`corpus_facts` in one pass."""

    clips: int = 0
    frames: int = 0
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    people: dict[str, set[str]] = field(default_factory=dict)
    """Database -> subjects shown."""
    seen: set[str] = field(default_factory=set)
    """Everyone who took part in making any clip."""
    seconds: list[float] = field(default_factory=list)
    """Shortest and longest clip."""
    aus: dict[int, list[float]] = field(default_factory=dict)
    """AU -> clips with it on the left only, on the right only, on both, and the sum of its strongest side."""
    shown: set[str] = field(default_factory=set)
    unclear: int = 0
    """Clips of kind synthetic without a generator or a seed."""

    @property
    def generators_saw(self) -> set[str]:
        """People who took part and are not shown."""
        return self.seen - self.shown

    def of(self, name: str) -> Counter[str]:
        """Clips by one property."""
        return self.counts.setdefault(name, Counter())


def corpus_facts(rows: Iterable[Row]) -> CorpusFacts:
    """Count; memory grows with people and words, not with clips."""
    facts = CorpusFacts()
    lists: set[tuple[str, ...]] = set()
    for row in rows:
        facts.clips += 1
        facts.frames += row.n_frames
        source = row.provenance
        for name, value in (
            ("kind", source.kind), ("licence", source.licence), ("database", row.database), ("emotion", row.emotion),
            ("class", row.label), ("objective class", row.objective_class), ("generator", source.generator),
            ("weights", source.weights_sha256), ("AUs from", source.aus_source), ("mesynth", source.code_version),
            ("expression", row.expression), ("frames a second", f"{row.fps:g}"), ("size", f"{row.width}x{row.height}"),
        ):  # fmt: skip
            facts.of(name)[value] += 1
        facts.of("warning").update(set(row.warnings))
        facts.people.setdefault(row.database, set()).add(row.subject)
        facts.shown.add(row.subject_key)
        if source.subjects_seen not in lists:
            lists.add(source.subjects_seen)
            facts.seen.update(source.subjects_seen)
        facts.unclear += source.kind == "synthetic" and (not source.generator or source.seed < 0)
        if row.fps > 0:
            length = row.n_frames / row.fps
            facts.seconds = [min([length, *facts.seconds]), max([length, *facts.seconds])]
        _count_aus(facts, row)
    return facts


def _count_aus(facts: CorpusFacts, row: Row) -> None:
    present = np.array(row.au_present, np.int8).reshape(-1, 2) == 1
    strength = np.array(row.au_intensity, np.float32).reshape(-1, 2).max(1)
    for k in np.flatnonzero(present.any(1)):
        entry = facts.aus.setdefault(facs.AU_CODES[k], [0, 0, 0, 0.0])
        entry[2 if present[k].all() else int(present[k, 1])] += 1
        entry[3] += float(strength[k])


# ---------------------------------------------------------------- writing it


def write_card(
    manifest: Manifest, target: Path | None = None, config: CardConfig = CardConfig(), facts: CorpusFacts | None = None
) -> Path:
    """Write the card of a corpus to ``target`` (README.md in its folder); the manifest is not touched.

    Raises:
        ManifestError: an empty corpus.
        RunFolderError: the file is there and is no card of ours.
    """
    if not len(manifest):
        raise ManifestError(f"the corpus {manifest.root} holds no clips; there is nothing to describe")
    target = target or manifest.root / CARD_FILE
    if target.is_file() and MARK not in target.read_text(encoding="utf-8", errors="replace"):
        raise RunFolderError(f"{target} was not written by mesynth card; move it away or give another --out")
    write_beside(target, card_text(facts or corpus_facts(manifest), config).encode())
    return target


def corpus_config(manifest: Manifest, quality: Path | None = None, **changes: Any) -> CardConfig:
    """The configuration for a corpus folder: its tables, what it left out, its quality report if there is one.

    Raises MesynthError: see :func:`read_quality`.
    """
    table = [{"config_name": "clips", "data_files": [{"split": "train", "path": "manifest.parquet"}]}]
    report = read_quality(manifest, quality)
    left = len(read_skipped(manifest.root))
    values: dict[str, Any] = {"quality": report, "left_out": left, "data": tuple(table)}
    return CardConfig(**(values | changes))


def read_quality(manifest: Manifest, folder: Path | None = None) -> dict[str, Any]:
    """report.json of `mesynth measure` in ``folder`` (or ``quality/`` of the corpus, where it is there).

    Raises MesynthError: no report, or one of another corpus.
    """
    place = folder if folder is not None else manifest.root / "quality"
    file = place / _REPORT
    if not file.is_file():
        if folder is None:
            return {}
        raise MesynthError(f"no {_REPORT} in {folder}; give the --out folder of `mesynth measure`")
    try:
        report = json.loads(file.read_text())
        measured = report["corpora"]["synthetic"]["hash"]
        digests.check(place, [_REPORT], promised=report.pop(digests.KEY, "") == digests.LIST)
    except digests.DigestError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError):
        raise MesynthError(f"{file} is no report of `mesynth measure`; measure the corpus again") from None
    if not manifest.hash().startswith(measured):
        raise MesynthError(f"{file} measures another corpus (hash {measured[:12]}); measure this one")
    return dict(report)


def card_text(facts: CorpusFacts, config: CardConfig = CardConfig()) -> str:
    """The card as Markdown with the front matter that the Hugging Face hub reads."""
    parts = [
        _front(facts, config), MARK, f"# {config.title}", _what(facts, config), _how(facts), _faces(facts),
        _histograms(facts), _quality(config.quality), _USE, _cite(config),
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def licence_id(facts: CorpusFacts) -> str:
    """The hub's name of the licence of all clips; "other" where they differ or none is known."""
    found = {
        next((name for start, name in _LICENCES.items() if licence.startswith(start) and ";" not in licence), "other")
        for licence in facts.of("licence")
    }
    return found.pop() if len(found) == 1 else "other"


def _front(facts: CorpusFacts, config: CardConfig) -> str:
    values: dict[str, Any] = {"license": licence_id(facts)}
    if values["license"] == "other":
        values["license_name"] = "see-faces-and-licences"
    values |= {
        "pretty_name": config.title,
        "tags": ["micro-expression", "facial action coding system", "optical flow", "synthetic", "mesynth"],
        "task_categories": ["video-classification"],
        "size_categories": [next((name for most, name in _SIZES if facts.clips < most), "n>1M")],
    }
    if config.data:
        values["configs"] = [dict(entry) for entry in config.data]
    return f"---\n{yaml.safe_dump(values, sort_keys=False)}---"


def _what(facts: CorpusFacts, config: CardConfig) -> str:
    people = sum(len(found) for found in facts.people.values())
    lengths = " to ".join(dict.fromkeys(f"{value:.2f}" for value in facts.seconds))
    length = f", {lengths} s long" if lengths else ""
    intro = (
        f"{facts.clips} clips of {people} people, {facts.frames} frames{length}: faces from onset over apex to offset "
        "of an expression, action units (FACS) with intensities per side, optical flow from onset to apex in pixels "
        "where the corpus has it, and the provenance of every clip."
    )
    lines = [
        intro,
        "",
        *_table(("property", "clips"), _lines(facts, ("kind", "expression", "frames a second", "size"))),
    ]
    if config.left_out:
        lines += ["", f"{config.left_out} clips were left out when it was made; `skipped.csv` says which and why."]
    return "\n".join(lines)


def _how(facts: CorpusFacts) -> str:
    lines = ["## How it was made", ""]
    lines += _table(("property", "clips"), _lines(facts, ("generator", "weights", "AUs from", "mesynth")))
    lines += [
        "",
        _MADE,
    ]
    if facts.unclear:
        lines += ["", f"**{facts.unclear} synthetic clips name no generator or no seed.**"]
    if warned := facts.of("warning"):
        lines += ["", *_table(("warning", "clips"), warned.most_common(_SHOWN))]
    return "\n".join(lines)


def _faces(facts: CorpusFacts) -> str:
    databases = [
        (database, len(people), facts.of("database")[database]) for database, people in sorted(facts.people.items())
    ]
    learned = Counter(key.partition("/")[0] for key in facts.generators_saw)
    lines = [
        "## Faces and licences", "", *_table(("faces from", "people", "clips"), databases), "",
        *_table(("licence", "clips"), facts.of("licence").most_common()), "",
        _TERMS, "",
    ]  # fmt: skip
    if learned:
        names = ", ".join(f"{count} of {database}" for database, count in sorted(learned.items()))
        lines.append(f"Besides the people shown, generators learned from {sum(learned.values())} people: {names}.")
    else:
        lines.append("Nobody but the people shown took part in making any clip.")
    lines.append(_LEAKS)
    return "\n".join(lines)


def _histograms(facts: CorpusFacts) -> str:
    lines = ["## Classes and action units", ""]
    lines += _table(("property", "clips"), _lines(facts, ("class", "emotion", "objective class")))
    lines.append("")
    if facts.aus:
        rows = [
            (f"{code} {facs.AU_NAMES[code]}", int(sum(v[:3])), int(v[0]), int(v[1]), int(v[2]),
             f"{v[3] / sum(v[:3]):.2f}")
            for code, v in sorted(facts.aus.items())
        ]  # fmt: skip
        lines += _table(("AU", "clips", "left only", "right only", "both", "mean of the stronger side"), rows)
    else:
        lines.append("No action unit is known to be present in any clip.")
    return "\n".join(lines)


def _quality(report: Mapping[str, Any]) -> str:
    if not report:
        return "## Quality\n\nNot measured for this card (`mesynth measure`, then `mesynth card --quality FOLDER`)."
    rows = []
    for row in report["rows"]:
        if row.get("value") is None:
            rows.append((row["name"], "not measured", row.get("note", "")))
            continue
        interval = f" [{row['low']:.3g}, {row['high']:.3g}]" if row.get("low") is not None else ""
        beside = ", ".join(f"{name} {value:.3g}" for name, value in (row.get("reference") or {}).items())
        rows.append((row["name"], f"{row['value']:.3g} {row.get('unit', '')}".strip() + interval, beside))
    real = report["corpora"].get("real", {})
    against = ", ".join(f"{key} {value}" for key, value in real.items())
    lines = ["## Quality", "", f"`mesynth measure` against: {against}", ""]
    return "\n".join([*lines, *_table(("measure", "value [95% interval]", "to read it against"), rows)])


def _cite(config: CardConfig) -> str:
    who = f" by {config.creator}" if config.creator else ""
    where = f", {config.url}" if config.url else ""
    lines = [
        "## How to cite",
        "",
        f"{config.title}{who}{where}. Made with mesynth {__version__}.",
        "",
        "Cite the databases whose faces are shown and whose clips generators learned from as their licences ask.",
        "",
        config.files,
    ]
    return "\n".join(lines)


# ---------------------------------------------------------------- tables


def _lines(facts: CorpusFacts, names: Iterable[str]) -> list[tuple[str, int]]:
    """``name: value`` -> clips, without values that are empty throughout."""
    rows = []
    for name in names:
        found = facts.of(name).most_common(_SHOWN)
        if any(value for value, _ in found):
            rows += [(f"{name}: {value or 'none'}", count) for value, count in found]
    return rows


def _table(header: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> list[str]:
    text = [[str(cell).replace("|", "/").replace("\n", " ") for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in [list(header), ["---"] * len(header), *text]]


# ---------------------------------------------------------------- Croissant


CROISSANT_FILE = "croissant.json"
CONFORMS_TO = "http://mlcommons.org/croissant/1.0"
_SPDX = {
    "cc0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "cc-by-4.0": "https://creativecommons.org/licenses/by/4.0/",
    "apache-2.0": "https://www.apache.org/licenses/LICENSE-2.0",
}
_BLOCK = 1 << 20
_PLAIN = (
    "citeAs", "column", "equivalentProperty", "extract", "field", "fileProperty", "fileObject", "fileSet", "format",
    "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references", "regex",
    "repeated", "replace", "samplingRate", "separator", "source", "subField", "transform",
)  # fmt: skip
CONTEXT: dict[str, Any] = {
    "@language": "en", "@vocab": "https://schema.org/", "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/", "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/", "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"}, "examples": {"@id": "cr:examples", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"}, **{name: f"cr:{name}" for name in _PLAIN},
}  # fmt: skip
"""The JSON-LD context that the specification recommends."""
_DESCRIPTIONS = {
    "clip_id": "Key of the clip: database, subject, clip, onset.",
    "database": "Where the face comes from.",
    "subject": "Person shown; unique within the database.",
    "onset": "Frame number of the onset.",
    "apex": "Frame number of the apex.",
    "offset": "Frame number of the offset.",
    "apex_index": "Apex, counted from 0 in the stored frames.",
    "emotion": "Emotion word.",
    "label": "Class of the MEGC 2019 composite: negative, positive, surprise, or empty.",
    "objective_class": "Objective class I to VII (Davison et al. 2018).",
    "au_text": "Action units as asked for or annotated.",
    "au_intensity": "Intensity in [0,1] per action unit and side (subject's left, right); below 0: less of it than the "
    "onset shows.",
    "au_present": "1 present, 0 absent, -1 undecided, per action unit and side.",
}


def write_croissant(
    manifest: Manifest,
    facts: CorpusFacts,
    folder: Path | None = None,
    config: CardConfig = CardConfig(),
    *,
    progress: Progress | None = None,
) -> Path:
    """Write croissant.json into ``folder`` (the corpus'); file names in it are relative to that folder.

    Reads every file once for its sha256. Raises OSError when a file vanishes meanwhile.
    """
    folder = folder or manifest.root
    record = croissant(manifest, facts, folder, config, progress=progress)
    write_beside(folder / CROISSANT_FILE, (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode())
    return folder / CROISSANT_FILE


def croissant(
    manifest: Manifest, facts: CorpusFacts, folder: Path, config: CardConfig, *, progress: Progress | None = None
) -> dict[str, Any]:
    """The metadata as a plain mapping, see :func:`write_croissant`."""
    files = data_files(manifest)
    objects = []
    for file in counted(files, len(files), progress):
        objects.append(_file_object(manifest.root, file, folder))
    made = datetime.fromtimestamp((manifest.root / FILE_NAME).stat().st_mtime, UTC).date().isoformat()
    people = sum(len(found) for found in facts.people.values())
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": "mesynth-" + manifest.hash()[:12],
        "alternateName": config.title,
        "description": f"{facts.clips} facial micro-expression clips of {people} people with action units, optical "
        "flow and provenance. Synthetic or rendered where `kind` says so. Not for identifying people.",
        "license": _licences(facts),
        "url": config.url or f"urn:sha256:{manifest.hash()}",
        "creator": {"@type": "sc:Organization", "name": config.creator or f"mesynth {__version__} (creator not named)"},
        "datePublished": made,
        "version": "1.0.0",
        "keywords": ["micro-expression", "facial action coding system", "optical flow", "synthetic data"],
        "citeAs": f"{config.title}. Made with mesynth {__version__}, corpus {manifest.hash()[:12]}.",
        "isLiveDataset": False,
        **_responsible(facts),
        "distribution": objects,
        "recordSet": [_records(manifest)],
    }


def data_files(manifest: Manifest) -> list[str]:
    """The manifest and every shard it points into, relative to its folder."""
    shards: set[str] = set()
    for name in ("frames", "flow"):
        column = manifest.table[name].combine_chunks()
        if isinstance(column, pa.ChunkedArray):  # an empty table
            continue
        shards.update(value for value in column.field("shard").unique().to_pylist() if value)
    return [FILE_NAME, *sorted(shards)]


def _file_object(root: Path, file: str, folder: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with open(root / file, "rb") as handle:
        while block := handle.read(_BLOCK):
            digest.update(block)
    return {
        "@type": "cr:FileObject",
        "@id": file,
        "name": file,
        "contentUrl": os.path.relpath(root / file, folder).replace(os.sep, "/"),
        "contentSize": f"{(root / file).stat().st_size} B",
        "encodingFormat": "application/x-parquet" if file.endswith(".parquet") else "application/x-tar",
        "sha256": digest.hexdigest(),
    }


def _licences(facts: CorpusFacts) -> list[Any]:
    known = licence_id(facts)
    if known in _SPDX:
        return [_SPDX[known]]
    return [{"@type": "sc:CreativeWork", "name": name} for name in sorted(facts.of("licence"))]


def _responsible(facts: CorpusFacts) -> dict[str, Any]:
    """The part of the responsible-AI vocabulary that a corpus can fill truthfully."""
    return {
        "rai:dataCollection": "Generated: " + ", ".join(sorted(name for name in facts.of("generator") if name))
        if any(facts.of("generator"))
        else "Prepared from recordings",
        "rai:dataUseCases": "Training and testing of micro-expression recognition, spotting and action unit "
        "estimation under protocols that keep held-out subjects out.",
        "rai:dataLimitations": "Action units are those asked for; no FACS coder checked them. Nobody felt what "
        "synthetic clips show.",
        "rai:dataBiases": "People are those of the source faces, as unbalanced as there.",
        "rai:personalSensitiveInformation": "Faces. Not for identifying people.",
    }


def _records(manifest: Manifest) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": "clips",
        "name": "clips",
        "description": "One record a clip, from manifest.parquet.",
        "key": {"@id": "clips/clip_id"},
        "field": [_field(column) for column in SCHEMA if not pa.types.is_struct(column.type)],
    }


def _field(column: pa.Field) -> dict[str, Any]:
    repeated = pa.types.is_list(column.type)
    value = column.type.value_type if repeated else column.type
    kind = (
        "sc:Boolean" if pa.types.is_boolean(value) else "sc:Float" if pa.types.is_floating(value)
        else "sc:Integer" if pa.types.is_integer(value) else "sc:Text"
    )  # fmt: skip
    return {
        "@type": "cr:Field",
        "@id": f"clips/{column.name}",
        "name": column.name,
        "description": _DESCRIPTIONS.get(column.name, column.name.replace("_", " ")),
        "dataType": kind,
        **({"repeated": True} if repeated else {}),
        "source": {"fileObject": {"@id": FILE_NAME}, "extract": {"column": column.name}},
    }
