"""Composites: several databases under one root, members found in subfolders, their lines carried over with their names.

MEGC 2019, the composite of that challenge: 442 clips of CASME II, SAMM and SMIC-HS in three classes. The challenge's
own list says which clips belong to it: a CSV without header of database, subject, clip and class (0 negative, 1
positive, 2 surprise). It ships (``megc2019.csv``), so that the composite is the same with every edition of the
workbooks; a second list, the one on the challenge's pages, lacks one clip (:data:`NOT_IN_441`). A rule (See et al.,
MEGC 2019) leads to the same clips on the workbooks of that time: positive is happiness, surprise is surprise; negative
is every emotion of SMIC's and SAMM's negative classes, but only disgust and repression of CASME II, without the two
clips in :data:`LEFT_OUT`. Where rule and list disagree, an edition has changed a row, and the row is told.

Compound micro-expressions after CMED (Zhao and Xu, Sensors 19(24), 2019): a reconstruction, not the database. CMED
joins CASME, CASME II, CAS(ME)^2, SMIC-HS and SAMM and adds clips synthesised from two basic ones; its list of clips is
not public. Here a real clip is compound when its emotion and its action units name two emotions at once, by the rule of
:func:`compound`. Counts therefore differ from the published ones, most of all in the compound classes.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path

from mesynth.core.emotions import CLASS_OF, CLASSES_3, PUBLISHED, label, plain_emotion
from mesynth.core.errors import DatasetLayoutError, WrongRoot
from mesynth.core.facs import parse_annotation
from mesynth.datasets.casme import CASME
from mesynth.datasets.casme2 import CASME2
from mesynth.datasets.casme_sq import CASME_SQ
from mesynth.datasets.database import AnnotatedClip, Database, Release, editions, plain_id, recognise, shipped
from mesynth.datasets.files import RENAMED, contents, find_folder
from mesynth.datasets.samm import SAMM
from mesynth.datasets.smic import SMIC
from mesynth.store.manifest import Manifest, Row


@dataclass(frozen=True, kw_only=True)
class Member:
    """A database that a composite draws from, and the names its subfolder may have."""

    database: Database
    folders: tuple[str, ...]


def read_members(root: Path, members: Sequence[Member], frames: str, title: str) -> dict[str, Release]:
    """Name -> release of every member whose subfolder is in ``root``; a line's folder is relative to ``root``.

    ``title``: the composite's, for messages. Each line carries its database, licence, frame rate and kind, so that
    lines of all members can be joined.
    Raises DatasetLayoutError when a member that is there cannot be read.
    """
    found = {}
    for member in members:
        folder = find_folder(root, *member.folders)
        if folder is None:
            continue
        database = member.database
        try:
            release = database.read(folder, database.parts[0], frames)
        except WrongRoot as error:
            said, renamed, file = str(error).partition(RENAMED)
            way = f"; {title} takes no --annotation: rename the workbook{file.removeprefix(' FILE')}" if renamed else ""
            raise WrongRoot(said + way) from None
        found[database.name] = replace(
            release,
            lines=tuple(_carried(line, folder.name, database, release) for line in release.lines),
            sources=tuple(f"{folder.name}/{source}" for source in release.sources),
            notes=tuple(f"{database.title}: {note}" for note in release.notes),
            left_out=tuple(f"{folder.name}/{place}" for place in release.left_out),
        )
    return found


def never(folder: Path) -> bool:
    """No release: frames belong to the members, and a folder that holds several may hold other things as well."""
    return False


def holds(members: Sequence[Member]) -> Callable[[Path], bool]:
    """Whether a folder may be a composite's root: one of its members lies in it."""
    return lambda folder: any(find_folder(folder, *member.folders) is not None for member in members)


def composed(
    releases: Mapping[str, Release],
    kept: Sequence[AnnotatedClip],
    notes: Sequence[str],
    *,
    absent: Sequence[AnnotatedClip] = (),
    sources: Sequence[str] = (),
) -> Release:
    """The composite's release: ``kept`` of the members' lines, the others left out on purpose.

    ``notes`` and ``sources`` follow the members' own; ``absent``: lines that no member has.
    """
    folders = {line.folder for release in releases.values() for line in release.lines}
    return Release(
        lines=(*kept, *absent),
        sources=(*(source for release in releases.values() for source in release.sources), *sources),
        notes=(*(note for release in releases.values() for note in release.notes), *notes),
        left_out=tuple(sorted(folders - {line.folder for line in kept})),
    )


def _carried(line: AnnotatedClip, prefix: str, database: Database, release: Release) -> AnnotatedClip:
    return replace(
        line,
        folder=f"{prefix}/{line.folder}" if line.folder else prefix,
        database=release.database or database.name,
        licence=release.licence or database.licence,
        fps=line.fps or release.fps or database.fps,
        provenance={"kind": release.kind} | dict(line.provenance),
    )


def beside(found: Mapping[str, int], published: Mapping[str, int]) -> str:
    """``negative 70 (70), positive 50 (51)``: what was found, and what was published in brackets."""
    words = [*published, *(word for word in found if word not in published)]
    return ", ".join(f"{word} {found.get(word, 0)} ({published.get(word, '-')})" for word in words)


# ---------------------------------------------------------------- MEGC 2019


Key = tuple[str, str, str]
"""Database, subject, clip, in the plain spelling of :func:`mesynth.datasets.database.plain_id`."""

_CASME2 = Member(database=CASME2, folders=("CASME2", "CASMEII", "CASME_II", "CASME-II", "CASME II"))
_SAMM = Member(database=SAMM, folders=("SAMM",))
_SMIC = Member(database=SMIC, folders=("SMIC", "SMIC-HS", "SMIC_HS"))
MEGC2019_MEMBERS = (_CASME2, _SAMM, _SMIC)
LEFT_OUT: frozenset[Key] = frozenset({("casme2", "sub4", "ep12_1f"), ("casme2", "sub5", "ep9_5f")})
"""Clips of CASME II whose apex is missing or is the onset."""

NOT_IN_441: Key = ("samm", "32", "32_3_1")
"""In the list that the challenge's participants used, and not in the one on its pages."""

EXPECTED: Mapping[str, Mapping[str, int]] = {
    "smic": {"negative": 70, "positive": 51, "surprise": 43, "clips": 164, "subjects": 16},
    "casme2": {"negative": 88, "positive": 32, "surprise": 25, "clips": 145, "subjects": 24},
    "samm": {"negative": 92, "positive": 26, "surprise": 15, "clips": 133, "subjects": 28},
}
_LISTS = ("442", "441")
_DELIMITERS = ",;\t"
"""Of a CSV, as spreadsheets of several countries write it."""
_COVERED = 0.9
"""Share of the list's clips that a workbook must name to be the release's; those of toy folders do not."""
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
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        signs = Counter(char for line in lines[:8] for char in line if char in _DELIMITERS)
        rows = list(csv.reader(lines, delimiter=max(_DELIMITERS, key=lambda sign: signs[sign])))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetLayoutError(
            f"{path} cannot be read ({error}); expected rows like casme2,sub01,EP02_01f,0"
        ) from None
    return _listed(rows, path.name)


@cache
def official(name: str = "442") -> Mapping[Key, str]:
    """Clip -> class of the challenge's list of 442 clips, or of the one of 441 on its pages.

    Ids and classes are those of the list as its users publish it (IcedDoggie/ME_Autoencoders, and the names in
    christy1206/STSTNet, on GitHub) and of Facial-Micro-ExpressionGC/MEGC2019, where the challenge's pages are kept.

    >>> len(official()), len(official("441")), official()["casme2", "sub1", "ep2_1f"]
    (442, 441, 'positive')
    """
    text = (files("mesynth.datasets") / "megc2019.csv").read_text(encoding="utf-8")
    labels = _listed(list(csv.reader(text.splitlines())), "megc2019.csv").labels
    return labels if name == "442" else {key: label for key, label in labels.items() if key != NOT_IN_441}


def _listed(rows: Sequence[Sequence[str]], file: str) -> Listed:
    labels: dict[Key, str] = {}
    notes = []
    for number, row in enumerate(rows, 1):
        cells = [cell.strip() for cell in row]
        if not any(cells):
            continue
        database = _database_of_list(cells[0])
        if not database and not labels and number == 1:  # a header
            continue
        name = _class_name(cells[3]) if len(cells) > 3 else ""
        if not database or not name:
            raise DatasetLayoutError(f"{file}, row {number}: '{','.join(row)}' is no row like casme2,sub01,EP02_01f,0")
        key = (database, plain_id(cells[1]), plain_id(cells[2]))
        if labels.get(key, name) != name:
            raise DatasetLayoutError(f"{file} lists {'/'.join(key)} as {labels[key]} and as {name}; remove one row")
        if key in labels:
            notes.append(f"{file} lists {'/'.join(key)} twice")
        labels[key] = name
    if not labels:
        raise DatasetLayoutError(f"{file} lists no clip; expected rows like casme2,sub01,EP02_01f,0")
    return Listed(labels, tuple(notes))


def _database_of_list(cell: str) -> str:
    """``CASME II`` -> ``casme2``; "" for an unknown word."""
    return _ALIASES.get("".join(c for c in cell.lower() if c.isalnum()), "")


def _class_name(cell: str) -> str:
    number = plain_id(cell)
    if number.isdecimal():
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


# ---------------------------------------------------------------- MEGC 2019 from manifests


@dataclass(frozen=True)
class Composite:
    """The composite's rows, every disagreement of rule and list, and counts beside the published ones."""

    manifest: Manifest
    differences: tuple[str, ...]
    counts: tuple[str, ...]
    missing: tuple[str, ...]
    """Clips of the list that no manifest holds."""


def compose_megc2019(manifests: Sequence[Manifest], root: Path | str, *, listed: Path | None = None) -> Composite:
    """The composite from prepared or loaded manifests of the three databases; paths are relative to ``root``.

    ``listed``: a CSV of the challenge's form, which then decides; None for the challenge's list of 442 clips, or for
    the rule where the manifests do not hold those clips. Rows keep their own database's name.

    Raises:
        DatasetLayoutError: a database is missing, or the CSV cannot be read.
    """
    joined = Manifest.join(manifests, root)
    rows = list(joined)
    for member in MEGC2019_MEMBERS:
        if not any(row.database == member.database.name for row in rows):
            raise DatasetLayoutError(f"no clip of {member.database.title} among the manifests; prepare it and add it")
    keys = [_key(row.database, row.subject, row.clip) for row in rows]
    by_rule = {key: name for key, row in zip(keys, rows, strict=True) if (name := _ruled(key, row))}
    own = read_list(listed).labels if listed else official() if _covers(keys) else by_rule
    kept = [replace(row, label=own[key]) for key, row in zip(keys, rows, strict=True) if key in own]
    found = [(row.database, row.subject, row.label) for row in kept]
    return Composite(
        manifest=Manifest.from_rows(kept, Path(root)),
        differences=differences(by_rule, own),
        counts=_counts(found, own),
        missing=tuple("/".join(key) for key in sorted(own.keys() - set(keys))),
    )


def _key(database: str, subject: str, clip: str) -> Key:
    return database, plain_id(subject), plain_id(clip)


def _ruled(key: Key, clip: AnnotatedClip | Row) -> str:
    return _rule_label(key, clip.emotion) if clip.expression == "micro" else ""


def _covers(keys: Iterable[Key]) -> bool:
    """Whether CASME II's or SAMM's workbook names its clips of the challenge's list, which decides then.

    SMIC has no workbook: what it names is what was unpacked.
    """
    there = set(keys)
    lists = ({key for key in official() if key[0] == name} for name in ("casme2", "samm"))
    return any(len(own & there) >= _COVERED * len(own) for own in lists)


def _name_of(labels: Mapping[Key, str]) -> str:
    """ "442" or "441" where these are the labels of that list."""
    return next((name for name in _LISTS if labels == official(name)), "")


def _counts(found: Iterable[tuple[str, str, str]], labels: Mapping[Key, str]) -> tuple[str, ...]:
    """Of (database, subject, class): one line a database and one for all, found and (published)."""
    entries = list(found)
    without = Counter(clips=1, negative=1) if _name_of(labels) == "441" else Counter()
    total: Counter[str] = Counter()
    expected: Counter[str] = Counter()
    lines = []
    for name, published in EXPECTED.items():
        mine = [entry for entry in entries if entry[0] == name]
        counts = Counter(entry[2] for entry in mine)
        counts |= Counter(clips=len(mine), subjects=len({entry[1] for entry in mine}))
        own = Counter(published) - (without if name == NOT_IN_441[0] else Counter())
        lines.append(f"{name}: {beside(counts, own)}")
        total, expected = total + counts, expected + own
    return (*lines, f"all: {beside(total, expected)}")


# ---------------------------------------------------------------- MEGC 2019 from the three releases


def read_megc2019(root: Path, part: str, frames: str) -> Release:
    """The composite's lines.

    What decides: part "442" or "441" the challenge's list of so many clips, "list" a CSV in ``root``, "rule" the rule;
    "auto" the CSV where there is one, else the list of 442 clips (the rule for workbooks that do not name them).

    Raises DatasetLayoutError when a release or the list is missing.
    """
    releases = read_members(root, MEGC2019_MEMBERS, frames, "MEGC 2019")
    for member in MEGC2019_MEMBERS:
        if member.database.name not in releases:
            raise WrongRoot(
                f"no folder {member.folders[0]} in {root}: {contents(root)}; put (or link) the release of "
                f"{member.database.title} there"
            )
    lines = [line for release in releases.values() for line in release.lines]
    keys = [_key(line.database, line.subject, line.clip) for line in lines]
    by_rule = {key: name for key, line in zip(keys, lines, strict=True) if (name := _ruled(key, line))}
    file = _list_file(root) if part in {"auto", "list"} else None
    if part == "list" and file is None:
        raise DatasetLayoutError(f"no CSV of the challenge in {root}: {contents(root)}; put it there or take part 442")
    if file:
        listed, source = read_list(file), file.name
    elif part in _LISTS or (part == "auto" and _covers(keys)):
        name = part if part in _LISTS else "442"
        listed, source = Listed(dict(official(name)), ()), f"the challenge's list of {name} clips"
    else:
        listed, source = Listed(by_rule, ()), ""
    of = _editions(releases)
    kept = [
        _labelled(line, listed.labels[key], by_rule.get(key, ""), source)
        for key, line in zip(keys, lines, strict=True)
        if key in listed.labels
    ]
    why = f"by the workbook ({of or 'of an unknown edition'}), and not in {source}"
    changed = tuple(
        (line.full_name, f"{by_rule[key]} {why}")
        for key, line in zip(keys, lines, strict=True)
        if key in by_rule and key not in listed.labels
    )
    spelt = {(line.database, plain_id(line.subject)): line.subject for line in lines}
    absent = [_absent(key, source, spelt.get(key[:2], key[1])) for key in sorted(listed.labels.keys() - set(keys))]
    edition = _name_of(listed.labels)
    there = {key: listed.labels[key] for key in keys if key in listed.labels}
    notes = _told(source, listed, differences(by_rule, there), of, edition)
    notes += _counts(((line.database, line.subject, line.label or "") for line in kept), listed.labels)
    release = composed(releases, kept, notes, absent=absent, sources=[file.name] if file else ())
    published = next((one.published for one in editions("megc2019") if one.name == edition), None)
    return replace(release, published=published, edition=edition, changed=changed)


def _labelled(line: AnnotatedClip, label: str, by_rule: str, source: str) -> AnnotatedClip:
    """The line with the list's class, and a warning where the workbook's emotion leads to another."""
    if label == by_rule:
        return replace(line, label=label)
    said = (
        f"class {label} of {source}; the workbook's emotion '{line.emotion}' is {by_rule or 'of no class'} by the rule"
    )
    return replace(line, label=label, warnings=(*line.warnings, said))


def _editions(releases: Mapping[str, Release]) -> str:
    """``casme2 20190701, samm v2``: the editions that are known."""
    found = {name: recognise(name, "all", release).name for name, release in releases.items()}
    return ", ".join(f"{name} {edition}" for name, edition in found.items() if edition)


def _told(source: str, listed: Listed, unlike: Sequence[str], of: str, edition: str) -> list[str]:
    """What decides, and every clip that the rule would have labelled otherwise in these editions."""
    if not source:
        return ["the rule decides; no list of the challenge was read, and the workbooks do not name its clips"]
    notes = [
        f"{source} decides; the rule disagrees on {len(unlike)} clips{f' (editions: {of})' if of else ''}",
        *unlike,
    ]
    if edition and edition not in source:
        notes.append(f"{source} is the challenge's list of {edition} clips")
    elif not edition and _covers(listed.labels):
        others = len(differences(listed.labels, official()))
        notes.append(f"{source} is no list of the challenge: {others} clips differ from its list of 442")
    return [*notes, *listed.notes]


def _absent(key: Key, source: str, subject: str) -> AnnotatedClip:
    """A clip of the list that the release does not name; ``subject`` as the release's other lines spell it."""
    database, _, clip = key
    problem = f"clip {'/'.join(key)} of {source} is in no release beside it; complete the release of {database}"
    return AnnotatedClip(subject=subject, clip=clip, folder="", database=database, problem=problem)


def _list_file(root: Path) -> Path | None:
    """The CSV of ``root`` whose first cell is a database's name."""
    for path in sorted(root.glob("*.[cC][sS][vV]")):
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            cells = (re.split(f"[{_DELIMITERS}]", line)[0].strip() for line in (file.readline() for _ in range(8)))
            if any(_database_of_list(cell) for cell in cells):
                return path
    return None


_OF_442, _OF_441 = (one.published for one in editions("megc2019"))

MEGC2019 = shipped(
    "megc2019",
    is_release=never,
    read=read_megc2019,
    is_root=holds(MEGC2019_MEMBERS),
    published={part: _OF_441 if part == "441" else _OF_442 for part in ("auto", "442", "441", "rule", "list")},
)


# ---------------------------------------------------------------- CMED


CMED_MEMBERS = (
    Member(database=CASME, folders=("CASME", "CASME1", "CASME_I")),
    _CASME2,
    Member(database=CASME_SQ, folders=("CASME_SQ", "CASME_2", "CAS(ME)2", "CAS(ME)^2", "CASMESQ")),
    _SAMM,
    _SMIC,
)
CMED_CLASSES: Mapping[str, int] = {
    "negative": 233,
    "positive": 82,
    "surprise": 70,
    "positive+surprise": 74,
    "negative+surprise": 236,
    "positive+negative": 197,
    "negative+negative": 158,
}
"""Class -> clips in the published database, whose compound clips are synthesised."""

# Action units that tell an emotion from the others; AU 4 says negative, but not which.
MARKS: Mapping[str, tuple[frozenset[int], ...]] = {
    "happiness": (frozenset({12}),),
    "surprise": (frozenset({1, 2}), frozenset({5})),
    "disgust": (frozenset({9}), frozenset({10})),
    "sadness": (frozenset({15}),),
    "fear": (frozenset({20}),),
    "anger": (frozenset({23}),),
    "contempt": (frozenset({14}),),
    "negative": (frozenset({4}),),
}
_USUAL = 0.2
_PAIRS = {frozenset(name.split("+")): name for name in CMED_CLASSES if "+" in name}


def compound(emotion: str, codes: Iterable[int]) -> str:
    """The class of a clip by its emotion and its certain action units, "" where neither names one.

    1. The emotion gives the first class (negative, positive, surprise), if it has one.
    2. Action units that go with that emotion anyway are set aside: its own marks, and those in at least a fifth of
       its published clips (:data:`mesynth.core.emotions.PUBLISHED`). A word without class (others) sets nothing aside.
    3. Each further emotion whose mark (:data:`MARKS`) is left names a class. Two classes make a compound; so do two
       different negative emotions. All three classes at once name none.

    >>> compound("happiness", [6, 12]), compound("happiness", [1, 2, 12]), compound("others", [4, 12])
    ('positive', 'positive+surprise', 'positive+negative')
    >>> compound("disgust", [4, 7, 9]), compound("disgust", [4, 9, 15]), compound("others", [4])
    ('negative', 'negative+negative', '')
    """
    word, present = plain_emotion(emotion), frozenset(codes)
    first = label(word)
    usual = {code for code, share in PUBLISHED.get(word, {}).items() if first and share >= _USUAL}
    usual |= {code for mark in MARKS.get(word, ()) for code in mark}
    told = {
        name
        for name, marks in MARKS.items()
        if name != word and any(mark <= present and not mark <= usual for mark in marks)
    }
    classes = {CLASS_OF[name] for name in told} | ({first} if first else set())
    if len(classes) == 2:
        return _PAIRS[frozenset(classes)]
    if len(classes) == 1 and first:
        # which negative emotions: the clip's own, if it is one, and those its marks tell
        kinds = {name for name in (word, *told) if CLASS_OF[name] == "negative" and name != "negative"}
        return "negative+negative" if first == "negative" and len(kinds) > 1 else first
    return ""


# ---------------------------------------------------------------- CMED from manifests


@dataclass(frozen=True)
class Compound:
    """The rows that have a class, which is their label, and counts beside the published ones."""

    manifest: Manifest
    counts: dict[str, int]

    @property
    def beside(self) -> str:
        """``negative 120 (233), ...``."""
        return beside(self.counts, CMED_CLASSES)


def compose_cmed(manifests: Sequence[Manifest], root: Path | str) -> Compound:
    """Label the micro-expressions of prepared or loaded manifests by :func:`compound`; paths relative to ``root``."""
    kept = []
    for row in Manifest.join(manifests, root):
        name = compound(row.emotion, _codes(row.au_text)) if row.expression == "micro" else ""
        if name:
            kept.append(replace(row, label=name))
    return Compound(Manifest.from_rows(kept, Path(root)), _class_counts(row.label for row in kept))


def _codes(cell: object) -> tuple[int, ...]:
    annotation = parse_annotation(cell)
    return () if annotation.open else annotation.codes


def _class_counts(labels: Iterable[str]) -> dict[str, int]:
    found = Counter(labels)
    return {name: found[name] for name in CMED_CLASSES}


# ---------------------------------------------------------------- CMED from the releases


def read_cmed(root: Path, part: str, frames: str) -> Release:
    """The lines that have a class, of the releases that are there. Raises DatasetLayoutError when none is."""
    releases = read_members(root, CMED_MEMBERS, frames, "CMED")
    if not releases:
        folders = ", ".join(member.folders[0] for member in CMED_MEMBERS)
        raise WrongRoot(f"none of the folders {folders} in {root}: {contents(root)}; put the releases there")
    lines = [line for release in releases.values() for line in release.lines]
    named = [compound(line.emotion, _codes(line.aus)) if line.expression == "micro" else "" for line in lines]
    kept = [replace(line, label=name) for line, name in zip(lines, named, strict=True) if name]
    absent = [member.database.title for member in CMED_MEMBERS if member.database.name not in releases]
    notes = ["a reconstruction by rule: the list of CMED is not public, and its compound clips are synthesised"]
    if absent:
        notes.append(f"without {', '.join(absent)}, which {root} does not hold")
    counts = _class_counts(line.label or "" for line in kept)
    notes.append(f"classes, published in brackets: {beside(counts, CMED_CLASSES)}")
    return composed(releases, kept, notes)


# 1050 clips are published, most of them synthesised: nothing to be complete by.
CMED = shipped("cmed", is_release=never, read=read_cmed, is_root=holds(CMED_MEMBERS))
