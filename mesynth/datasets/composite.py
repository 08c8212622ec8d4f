"""Several databases under one root: members found in subfolders, their lines carried over with their own names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mesynth.datasets.database import AnnotatedClip, Database, Release
from mesynth.datasets.files import find_folder


@dataclass(frozen=True, kw_only=True)
class Member:
    """A database that a composite draws from, and the names its subfolder may have."""

    database: Database
    folders: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of the database."""
        return self.database.name


def read_members(root: Path, members: Sequence[Member], frames: str) -> dict[str, Release]:
    """Name -> release of every member whose subfolder is in ``root``; a line's folder is relative to ``root``.

    Each line carries its database, licence, frame rate and kind, so that lines of all members can be joined.
    Raises DatasetLayoutError when a member that is there cannot be read.
    """
    found = {}
    for member in members:
        folder = find_folder(root, *member.folders)
        if folder is None:
            continue
        database = member.database
        release = database.read(folder, database.parts[0], frames)
        found[member.name] = replace(
            release,
            lines=tuple(_carried(line, folder.name, database, release) for line in release.lines),
            sources=tuple(f"{folder.name}/{source}" for source in release.sources),
            notes=tuple(f"{database.title}: {note}" for note in release.notes),
            left_out=tuple(f"{folder.name}/{place}" for place in release.left_out),
        )
    return found


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
