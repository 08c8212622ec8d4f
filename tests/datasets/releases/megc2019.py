"""The three releases of MEGC 2019 side by side, small or with as many clips as published, and the challenge's list."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import cycle
from pathlib import Path

from tests.datasets.releases.casme2 import ReleaseClip, write_release
from tests.datasets.releases.samm import SammClip, write_samm
from tests.datasets.releases.smic import SmicClip, write_smic

Listed = tuple[str, str, str, int]

SMALL_CASME2 = (
    ReleaseClip(),
    ReleaseClip(name="EP03_02", emotion="happiness", aus="12"),
    ReleaseClip(name="EP03_03", emotion="others"),
    ReleaseClip(subject="04", name="EP12_01f", apex="/", emotion="disgust"),
    ReleaseClip(subject="05", name="EP09_05f", apex=46, emotion="repression"),
    ReleaseClip(subject="05", name="EP09_06", emotion="sadness"),
    ReleaseClip(subject="26", name="EP18_51", emotion="surprise"),
)
SMALL_SAMM = (
    SammClip(),
    SammClip(subject="007", name="007_3_1", aus="20", emotion="Fear"),
    SammClip(subject="025", name="025_4_1", aus="T18+39", emotion="Other"),
)
SMALL_SMIC = (SmicClip(), SmicClip(name="s1_sur_01", emotion="surprise"))
SMALL_LIST: tuple[Listed, ...] = (
    ("casme2", "sub01", "EP02_01f", 0),
    ("casme2", "sub01", "EP03_02", 1),
    ("casme2", "sub26", "EP18_51", 2),
    ("samm", "6", "006_1_2", 0),
    ("samm", "7", "007_3_1", 0),
    ("smic", "s01", "s01_ne_01", 0),
    ("smic", "s01", "s01_sur_01", 2),
)
"""In the spelling of the challenge: SAMM's subjects unpadded, SMIC's subjects and clips padded."""


def write_megc2019(
    root: Path,
    casme2: Sequence[ReleaseClip] = SMALL_CASME2,
    samm: Sequence[SammClip] = SMALL_SAMM,
    smic: Sequence[SmicClip] = SMALL_SMIC,
) -> Path:
    """Write the three releases below ``root`` and return it."""
    write_release(root / "CASME2", casme2)
    write_samm(root / "samm", samm)
    write_smic(root / "SMIC", smic)
    return root


def write_list(root: Path, rows: Iterable[Listed] = SMALL_LIST, *, name: str = "combined_3class_gt.csv") -> Path:
    """The challenge's CSV: no header, a blank row here and there, as some copies have them."""
    lines = []
    for index, row in enumerate(rows):
        lines += [",".join(map(str, row))] + ([",,,", ""] if index % 3 == 1 else [])
    (root / name).write_text("\n".join(lines) + "\n")
    return root / name


# ---------------------------------------------------------------- as many clips as published


def _spread(counts: Mapping[str, int], people: Sequence[int]) -> Iterator[tuple[int, str]]:
    """(person, emotion) of every clip; people take turns."""
    turns = cycle(people)
    for emotion, n in counts.items():
        for _ in range(n):
            yield next(turns), emotion


def full_casme2() -> list[ReleaseClip]:
    """255 clips of 26 subjects; subjects 10 and 18 show nothing but others."""
    others = {"others": 99}
    rest = {"disgust": 62, "happiness": 32, "repression": 26, "surprise": 25, "sadness": 7, "fear": 2}
    people = [p for p in range(1, 27) if p not in (10, 18)]
    entries = [*_spread(rest, people), *_spread(others, [10, 18, *people])]
    short = {"onset": 1, "apex": 2, "offset": 3, "on_disk": (1, 2, 3)}
    clips = [
        ReleaseClip(subject=f"{p:02d}", name=f"EP{i:03d}_01", emotion=emotion, **short)  # type: ignore[arg-type]
        for i, (p, emotion) in enumerate(entries)
    ]
    left = [("04", "EP12_01f", "disgust"), ("05", "EP09_05f", "repression")]
    clips += [ReleaseClip(subject=p, name=n, emotion=e, **short) for p, n, e in left]  # type: ignore[arg-type]
    return clips


def full_samm() -> list[SammClip]:
    """159 clips of 29 subjects; subject 25 shows nothing but Other."""
    people = [6, 7, *range(9, 25), *range(26, 34), 35, 36]
    assert len(people) == 28
    counts = {"Anger": 57, "Happiness": 26, "Surprise": 15, "Contempt": 12, "Disgust": 9, "Fear": 8, "Sadness": 6}
    entries = [*_spread(counts, people), *_spread({"Other": 26}, [25, *people])]
    return [
        SammClip(subject=p, name=f"{p:03d}_1_{i}", onset=1, apex=2, offset=3, emotion=emotion)
        for i, (p, emotion) in enumerate(entries, 1)
    ]


def full_smic() -> list[SmicClip]:
    """164 clips of 16 subjects."""
    people = [1, 2, 3, 4, 5, 6, 8, 9, 11, 12, 13, 14, 15, 18, 19, 20]
    short = {"negative": "ne", "positive": "po", "surprise": "sur"}
    entries = _spread({"negative": 70, "positive": 51, "surprise": 43}, people)
    return [
        SmicClip(subject=f"s{p}", name=f"s{p}_{short[e]}_{i:02d}", emotion=e, first=10, n=3)
        for i, (p, e) in enumerate(entries, 1)
    ]
