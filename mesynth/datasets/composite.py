"""Several databases under one root: members found in subfolders, their lines carried over with their own names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mesynth.core.errors import WrongRoot
from mesynth.datasets.database import AnnotatedClip, Database, Release
from mesynth.datasets.files import RENAMED, find_folder


@dataclass(frozen=True, kw_only=True)
class Member:
    """A database that a composite draws from, and the names its subfolder may have."""

    database: Database
    folders: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of the database."""
        return self.database.name


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
        found[member.name] = replace(
            release,
            lines=tuple(_carried(line, folder.name, database, release) for line in release.lines),
            sources=tuple(f"{folder.name}/{source}" for source in release.sources),
            notes=tuple(f"{database.title}: {note}" for note in release.notes),
            left_out=tuple(f"{folder.name}/{place}" for place in release.left_out),
        )
    return found


def is_release(folder: Path) -> bool:
    """Never: frames belong to the members, and a folder that holds several may hold other things as well."""
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


def plain_id(text: object) -> str:
    """A subject's or clip's name without case and padding, so that copies of a list agree.

    >>> plain_id("s01_ne_01"), plain_id("006_1_2"), plain_id("sub05"), plain_id("6.0")
    ('s1_ne_1', '6_1_2', 'sub5', '6')
    """
    plain = re.sub(r"\.0+$", "", str(text).strip().lower())
    return re.sub(r"(?<!\d)0+(?=\d)", "", plain)


def beside(found: Mapping[str, int], published: Mapping[str, int]) -> str:
    """``negative 70 (70), positive 50 (51)``: what was found, and what was published in brackets."""
    words = [*published, *(word for word in found if word not in published)]
    return ", ".join(f"{word} {found.get(word, 0)} ({published.get(word, '-')})" for word in words)
