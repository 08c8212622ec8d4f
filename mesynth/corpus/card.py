"""The dataset card: what a corpus is, how it was made, from whom, what it holds, what it is not for.

Everything is counted from the rows; the quality table is quoted from a report of `mesynth measure` on this corpus.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mesynth import __version__
from mesynth.core import facs
from mesynth.core.errors import ManifestError, MesynthError, RunFolderError
from mesynth.store import digests
from mesynth.store.manifest import Manifest, Row
from mesynth.store.run_folder import write_beside
from mesynth.store.stage import read_skipped

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
