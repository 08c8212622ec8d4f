"""Names of people and clips in an export: distinct, safe as file names, and never those of somebody else."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from itertools import count

import numpy as np

from mesynth.manifest import Manifest

FIRST_NEW = 501
"""Number of the first person who is in no release: CASME II counts to 26, SAMM to 37, SMIC to 20."""


def safe(text: str) -> str:
    """``text`` as a file name: letters, digits, ``-`` and ``_``.

    >>> safe("EP02 01f"), safe("../x"), safe("")
    ('EP02_01f', '___x', '_')
    """
    return re.sub(r"[^\w-]|[^\x00-\x7f]", "_", text) or "_"


def people(source: Manifest, fresh: str, own: Mapping[str, str]) -> dict[str, str]:
    """``database/subject`` -> the name in the export.

    ``own``: database -> pattern of names that its people keep; everyone else becomes ``fresh.format(501)``, 502, ...
    in the order of their keys, so that nobody passes for a person of a real release.
    """
    keys = sorted(set(source.subject_keys().astype(str)))
    names = {}
    for key in keys:
        database, _, subject = key.partition("/")
        if database in own and re.fullmatch(own[database], subject):
            names[key] = subject
    taken = set(names.values())
    numbers = (name for number in count(FIRST_NEW) if (name := fresh.format(number)) not in taken)
    return names | {key: next(numbers) for key in keys if key not in names}


def plain_people(source: Manifest) -> dict[str, str]:
    """``database/subject`` -> the subject's own name as a file name, with its database where two people share it."""
    keys = sorted(set(source.subject_keys().astype(str)))
    shared = Counter(safe(key.partition("/")[2]) for key in keys)
    names: dict[str, str] = {}
    taken: set[str] = set()
    for key in keys:
        database, _, subject = key.partition("/")
        name = safe(subject) if shared[safe(subject)] == 1 else safe(f"{database}_{subject}")
        while name in taken:
            name += "_"
        taken.add(name)
        names[key] = name
    return names


def clip_names(source: Manifest) -> list[str]:
    """Per row, the clip's name as a file name: distinct within its subject, with the onset where a clip has several
    expressions, and with the row's number where even that is not enough."""
    subjects = source.subject_keys().astype(str)
    clips = [safe(str(clip)) for clip in source.column("clip")]
    onsets = source.column("onset")
    shared = Counter(zip(subjects, clips, strict=True))
    names = [
        clip if shared[subject, clip] == 1 else f"{clip}_{onset}"
        for subject, clip, onset in zip(subjects, clips, onsets, strict=True)
    ]
    again = Counter(zip(subjects, names, strict=True))
    return [
        name if again[subject, name] == 1 else f"{name}_row{index}"
        for index, (subject, name) in enumerate(zip(subjects, names, strict=True))
    ]


def one_database(source: Manifest) -> str:
    """The database of all clips, "" where there are several."""
    names = np.unique(source.column("database").astype(str))
    return str(names[0]) if len(names) == 1 else ""
