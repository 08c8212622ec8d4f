"""The composite of the MEGC 2019 challenge: 442 clips of CASME II, SAMM and SMIC-HS in three classes.

Two ways say which clips belong to it, and must agree. The rule (See et al., MEGC 2019): positive is happiness,
surprise is surprise; negative is every emotion of SMIC's and SAMM's negative classes, but only disgust and
repression of CASME II, without the two clips in :data:`LEFT_OUT`. The challenge's own list is a CSV without header:
database, subject, clip, class (0 negative, 1 positive, 2 surprise).
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mesynth.core.emotions import CLASSES_3, label, plain_emotion
from mesynth.core.errors import DatasetLayoutError, WrongRoot
from mesynth.datasets.casme2 import CASME2
from mesynth.datasets.composite import Member, beside, composed, holds, is_release, plain_id, read_members
from mesynth.datasets.database import AnnotatedClip, Database, Published, Release
from mesynth.datasets.files import contents
from mesynth.datasets.samm import SAMM
from mesynth.datasets.smic import SMIC
from mesynth.store.manifest import Manifest, Row

Key = tuple[str, str, str]
"""Database, subject, clip, in the plain spelling of :func:`mesynth.datasets.composite.plain_id`."""

MEMBERS = (
    Member(database=CASME2, folders=("CASME2", "CASMEII", "CASME_II", "CASME-II", "CASME II")),
    Member(database=SAMM, folders=("SAMM",)),
    Member(database=SMIC, folders=("SMIC", "SMIC-HS", "SMIC_HS")),
)
LEFT_OUT: frozenset[Key] = frozenset({("casme2", "sub4", "ep12_1f"), ("casme2", "sub5", "ep9_5f")})
"""Clips of CASME II whose apex is missing or is the onset."""

EXPECTED: Mapping[str, Mapping[str, int]] = {
    "smic": {"negative": 70, "positive": 51, "surprise": 43, "clips": 164, "subjects": 16},
    "casme2": {"negative": 88, "positive": 32, "surprise": 25, "clips": 145, "subjects": 24},
    "samm": {"negative": 92, "positive": 26, "surprise": 15, "clips": 133, "subjects": 28},
}
_ALIASES = {"casme2": "casme2", "casmeii": "casme2", "samm": "samm", "smic": "smic", "smichs": "smic"}
_CASME2_NEGATIVE = ("disgust", "repression")


def _rule_label(key: Key, emotion: str) -> str:
    """The composite's class of a clip, "" where it is not in the composite."""
    word = plain_emotion(emotion)
    if key in LEFT_OUT or (key[0] == "smic" and not key[2].startswith("s")):  # other parts: vis_s11_ne_1
        return ""
    if key[0] == "casme2" and label(word) == "negative" and word not in _CASME2_NEGATIVE:
        return ""
    return label(word)


# ---------------------------------------------------------------- the challenge's own list


@dataclass(frozen=True)
class Listed:
    """What a copy of the CSV says: the class of each clip, and what is odd about the file."""

    labels: dict[Key, str]
    notes: tuple[str, ...]


def read_list(path: Path) -> Listed:
    """Read the challenge's CSV; blank rows, padding and a header do not matter.

    Raises:
        DatasetLayoutError: a row that is no clip, a class that is none, or a clip listed with two classes.
    """
    labels: dict[Key, str] = {}
    notes = []
    try:
        rows = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetLayoutError(
            f"{path} cannot be read ({error}); expected rows like casme2,sub01,EP02_01f,0"
        ) from None
    for number, row in enumerate(rows, 1):
        cells = [cell.strip() for cell in row]
        if not any(cells):
            continue
        database = _database_of_list(cells[0])
        if not database and not labels and number == 1:  # a header
            continue
        name = _class_name(cells[3]) if len(cells) > 3 else ""
        if not database or not name:
            raise DatasetLayoutError(
                f"{path.name}, row {number}: '{','.join(row)}' is no row like casme2,sub01,EP02_01f,0"
            )
        key = (database, plain_id(cells[1]), plain_id(cells[2]))
        if labels.get(key, name) != name:
            raise DatasetLayoutError(
                f"{path.name} lists {'/'.join(key)} as {labels[key]} and as {name}; remove one row"
            )
        if key in labels:
            notes.append(f"{path.name} lists {'/'.join(key)} twice")
        labels[key] = name
    if not labels:
        raise DatasetLayoutError(f"{path.name} lists no clip; expected rows like casme2,sub01,EP02_01f,0")
    return Listed(labels, tuple(notes))


def _database_of_list(cell: str) -> str:
    """``CASME II`` -> ``casme2``; "" for an unknown word."""
    return _ALIASES.get("".join(c for c in cell.lower() if c.isalnum()), "")


def _class_name(cell: str) -> str:
    number = plain_id(cell)
    if number.isdigit():
        return CLASSES_3[int(number)] if int(number) < len(CLASSES_3) else ""
    return number if number in CLASSES_3 else ""


def differences(by_rule: Mapping[Key, str], listed: Mapping[Key, str]) -> tuple[str, ...]:
    """One line for every clip on which the rule and the list disagree."""
    said = []
    for key in sorted(by_rule.keys() | listed.keys()):
        rule, own = by_rule.get(key, ""), listed.get(key, "")
        if rule != own:
            said.append(f"{'/'.join(key)}: {rule or 'not in it'} by the rule, {own or 'not in it'} by the list")
    return tuple(said)


# ---------------------------------------------------------------- from manifests


@dataclass(frozen=True)
class Composite:
    """The composite's rows, every disagreement of rule and list, and counts beside the published ones."""

    manifest: Manifest
    differences: tuple[str, ...]
    counts: tuple[str, ...]
    missing: tuple[str, ...]
    """Clips of the list that no manifest holds."""


def compose(manifests: Sequence[Manifest], root: Path | str, *, listed: Path | None = None) -> Composite:
    """The composite from prepared or loaded manifests of the three databases; paths are relative to ``root``.

    ``listed``: the challenge's CSV, which then decides; None for the rule. Rows keep their own database's name.

    Raises:
        DatasetLayoutError: a database is missing, or the CSV cannot be read.
    """
    joined = Manifest.join(manifests, root)
    rows = list(joined)
    for member in MEMBERS:
        if not any(row.database == member.name for row in rows):
            raise DatasetLayoutError(f"no clip of {member.database.title} among the manifests; prepare it and add it")
    keys = [_key(row.database, row.subject, row.clip) for row in rows]
    by_rule = {key: name for key, row in zip(keys, rows, strict=True) if (name := _ruled(key, row))}
    own = read_list(listed).labels if listed else by_rule
    kept = [replace(row, label=own[key]) for key, row in zip(keys, rows, strict=True) if key in own]
    found = [(row.database, row.subject, row.label) for row in kept]
    return Composite(
        manifest=Manifest.from_rows(kept, Path(root)),
        differences=differences(by_rule, own),
        counts=_counts(found),
        missing=tuple("/".join(key) for key in sorted(own.keys() - set(keys))),
    )


def _key(database: str, subject: str, clip: str) -> Key:
    return database, plain_id(subject), plain_id(clip)


def _ruled(key: Key, clip: AnnotatedClip | Row) -> str:
    return _rule_label(key, clip.emotion) if clip.expression == "micro" else ""


def _counts(found: Iterable[tuple[str, str, str]]) -> tuple[str, ...]:
    """Of (database, subject, class): one line a database and one for all, found and (published)."""
    entries = list(found)
    total: Counter[str] = Counter()
    expected: Counter[str] = Counter()
    lines = []
    for name, published in EXPECTED.items():
        mine = [entry for entry in entries if entry[0] == name]
        counts = Counter(entry[2] for entry in mine)
        counts |= Counter(clips=len(mine), subjects=len({entry[1] for entry in mine}))
        lines.append(f"{name}: {beside(counts, published)}")
        total, expected = total + counts, expected + Counter(published)
    return (*lines, f"all: {beside(total, expected)}")


# ---------------------------------------------------------------- from the three releases


def read(root: Path, part: str, frames: str) -> Release:
    """The composite's lines. Part "rule" or "list" says what decides; "auto" is the list where there is one.

    Raises DatasetLayoutError when a release or the list is missing.
    """
    releases = read_members(root, MEMBERS, frames)
    for member in MEMBERS:
        if member.name not in releases:
            raise WrongRoot(
                f"no folder {member.folders[0]} in {root}: {contents(root)}; put (or link) the release of "
                f"{member.database.title} there"
            )
    lines = [line for release in releases.values() for line in release.lines]
    keys = [_key(line.database, line.subject, line.clip) for line in lines]
    by_rule = {key: name for key, line in zip(keys, lines, strict=True) if (name := _ruled(key, line))}
    file = None if part == "rule" else _list_file(root)
    if part == "list" and file is None:
        raise DatasetLayoutError(f"no CSV of the challenge in {root}: {contents(root)}; put it there or take part rule")
    listed = read_list(file) if file else Listed(by_rule, ())
    kept = [replace(line, label=listed.labels[k]) for k, line in zip(keys, lines, strict=True) if k in listed.labels]
    absent = [_absent(key, file) for key in sorted(listed.labels.keys() - set(keys)) if file]
    if file:
        unlike = differences(by_rule, listed.labels)
        notes = [f"{file.name} decides; the rule disagrees on {len(unlike)} clips", *unlike, *listed.notes]
    else:
        notes = ["the rule decides; no list of the challenge was read"]
    notes += _counts((line.database, line.subject, line.label or "") for line in kept)
    return composed(releases, kept, notes, absent=absent, sources=[file.name] if file else ())


def _absent(key: Key, file: Path) -> AnnotatedClip:
    """A clip of the list that the release does not name."""
    database, subject, clip = key
    problem = f"clip {'/'.join(key)} of {file.name} is in no release beside it; complete the release of {database}"
    return AnnotatedClip(subject=subject, clip=clip, folder="", database=database, problem=problem)


def _list_file(root: Path) -> Path | None:
    """The CSV of ``root`` whose first cell is a database's name."""
    for path in sorted(root.glob("*.[cC][sS][vV]")):
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            cells = (line.split(",")[0].strip() for line in (file.readline() for _ in range(8)))
            if any(_database_of_list(cell) for cell in cells):
                return path
    return None


_PAPER = "See et al., MEGC 2019: the second facial micro-expressions grand challenge, FG 2019"
_PUBLISHED = Published(clips=442, subjects=68, source=_PAPER)

MEGC2019 = Database(
    name="megc2019",
    title="MEGC 2019 composite",
    fps=200.0,
    licence="licence agreements of CASME II, SAMM and SMIC",
    paper=_PAPER,
    is_release=is_release,
    read=read,
    layout="CASME2/, SAMM/ and SMIC/ (each, or a link to it, the root of that release)",
    is_root=holds(MEMBERS),
    parts=("auto", "rule", "list"),
    frames=("auto", "raw", "cropped"),
    published=dict.fromkeys(("auto", "rule", "list"), _PUBLISHED),
)
