"""SMIC (Li et al., FG 2013): 164 clips of 16 people at 100 frames a second, and 71 at 25 in colour and near infrared.

Release layout: ``SMIC_all_raw/HS/s1/micro/negative/s1_ne_01/image559740.bmp`` (``SMIC_all_cropped/...`` with
``reg_image559740.bmp``), ``VIS`` and ``NIR`` beside ``HS``. There is no workbook: the folder decides the class, the
first and last frame are onset and offset, and no apex is annotated. SMIC-E is the extended release,
``HS_long/SMIC-HS-E/s03/s3_ne_01/image00559700.jpg`` with ``SMIC-HS-E_annotation.xlsx``; see
:mod:`mesynth.datasets.smic_long`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from mesynth.datasets import smic_long
from mesynth.datasets.database import Database, Line, Published, Release
from mesynth.datasets.disk import contents, find_folder, numbered_folders
from mesynth.datasets.smic_long import EMOTION_OF
from mesynth.errors import DatasetLayoutError

_EMOTIONS = tuple(EMOTION_OF.values())
_RAW = ("SMIC_all_raw", "SMIC_raw", "SMIC-raw")
_CROPPED = ("SMIC_all_cropped", "SMIC_cropped", "SMIC-cropped")
_CLIP = re.compile(r"s0*(\d+)_([a-z]+)_0*(\d+)", re.IGNORECASE)
_FPS = {"hs": 100.0, "vis": 25.0, "nir": 25.0}
_SIGN = re.compile(r"smic([_-]all)?[_-](raw|cropped)$|smic[_-](hs|vis|nir)[_-]e|smic[_-]e([ _-]|$)", re.IGNORECASE)


def is_release(folder: Path) -> bool:
    """Whether ``folder`` is the root of a SMIC or SMIC-E release, or one of its people's folders."""
    names = {p.name.lower() for p in folder.iterdir()}
    return any(map(_SIGN.match, names)) or {"micro", "non_micro"} <= names


def read(root: Path, part: str, frames: str) -> Release:
    """The clips of one camera: the folder tree is the annotation. Raises DatasetLayoutError."""
    camera, _, long = part.partition("-") if part != "long" else ("hs", "", "long")
    if long:
        return smic_long.read(root, camera, _FPS[camera])
    base = _camera_folder(root, camera, frames)
    lines = tuple(_lines(root, base, "" if camera == "hs" else f"{camera}_"))
    if not lines:
        raise DatasetLayoutError(f"{base} holds no clip like s1/micro/negative/s1_ne_01: {contents(base)}")
    return Release(lines=lines, fps=_FPS[camera])


def _camera_folder(root: Path, camera: str, frames: str) -> Path:
    names = {"raw": _RAW, "cropped": _CROPPED, "auto": _RAW + _CROPPED}[frames]
    tried = [find_folder(root, name) for name in names]
    # archives that unpack into a folder of the same name; copies that hold HS beside nothing else
    bases = [find_folder(p, p.name) or p for p in tried if p] or ([root] if frames != "cropped" else [])
    for base in bases:
        if found := find_folder(base, camera, f"SMIC-{camera}", f"SMIC_{camera}"):
            return found
    raise DatasetLayoutError(
        f"no folder {names[0]}/{camera.upper()} in {root}: {contents(bases[0] if bases else root)}; give the folder "
        "of the SMIC release"
    )


def _lines(root: Path, base: Path, prefix: str) -> Iterator[Line]:
    for person, name in sorted(numbered_folders(base, "s").items()):
        # some copies leave out the level of micro and non_micro
        micro = find_folder(base / name, "micro") or base / name
        for emotion in _EMOTIONS:
            folder = find_folder(micro, emotion)
            if folder is None:
                continue
            with os.scandir(folder) as entries:
                clips = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
            for clip in clips:
                yield _line(f"s{person:02d}", prefix, clip, emotion, (folder / clip).relative_to(root).as_posix())


def _line(subject: str, prefix: str, clip: str, emotion: str, place: str) -> Line:
    match = _CLIP.fullmatch(clip)
    warnings, problem = [], ""
    if match and f"s{int(match[1]):02d}" != subject:
        problem = f"clip folder {place} lies with subject {subject}; move it to the subject of its name"
    elif match and (named := EMOTION_OF.get(match[2].lower())) and named != emotion:
        warnings.append(f"the clip's name says {named}, its folder {emotion}; the folder counts")
    return Line(
        subject=subject,
        clip=prefix + clip,
        folder=place,
        whole=True,
        emotion=emotion,
        label=emotion,
        warnings=tuple(warnings),
        problem=problem,
    )


_PAPER = "Li et al., A spontaneous micro-expression database: inducement, collection and baseline, FG 2013"
_SLOW = Published(clips=71, subjects=8, source=_PAPER)

SMIC = Database(
    name="smic",
    title="SMIC",
    fps=100.0,
    licence="SMIC licence agreement",
    paper=_PAPER,
    is_release=is_release,
    read=read,
    parts=("hs", "vis", "nir", "long", "vis-long", "nir-long"),
    frames=("auto", "raw", "cropped"),
    published={
        "hs": Published(
            clips=164,
            subjects=16,
            emotions={"negative": 70, "positive": 51, "surprise": 43},
            source=_PAPER,
        ),
        "vis": _SLOW,
        "nir": _SLOW,
        "long": Published(source="SMIC-E holds 157 long clips, some of them with several expressions"),
        "vis-long": Published(source="SMIC-E holds 71 long clips"),
        "nir-long": Published(source="SMIC-E holds 71 long clips"),
    },
)
