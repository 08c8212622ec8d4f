"""What CASME II- and SAMM-like exports share: a folder of JPEG frames a clip, numbered as annotated.

Frames come back as the JPEGs decode; flow does not, which `mesynth prepare corpus` estimates.

The layout of the CASME II release: ``CASME2_RAW_selected/sub501/<clip>/img7.jpg`` beside the coding workbook.

``mesynth-rendered.json`` tells mesynth's own loader what the clips are, so that they never pass for real ones.

The layout of the SAMM release: ``SAMM/501/501_9_7/501_00012.jpg``, grey, beside the workbook of FACS codes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mesynth.corpus.exports.form import (
    AUS,
    EMOTION,
    FRAMES,
    Clip,
    Form,
    Options,
    Placed,
    PlacedClips,
    au_cell,
    numbers_of,
    with_files,
    with_warning,
)
from mesynth.corpus.exports.records import (
    Cell,
    clip_names,
    grey,
    jpeg_bytes,
    one_database,
    people,
    picture_files,
    write_workbook,
)
from mesynth.datasets.casme2 import RENDERED_FILE
from mesynth.datasets.rendered import FRAMES as FOLDER
from mesynth.datasets.rendered import WORKBOOK
from mesynth.store.manifest import Manifest, Row
from mesynth.store.run_folder import write_bytes
from mesynth.store.stage import Produced

RENUMBERED = "frames renumbered from the onset on: the clip had been thinned or resampled"


def write_clip(
    out: Path, folder: str, pattern: str, clip: Clip, place: dict[str, str | int], change: Callable[..., np.ndarray]
) -> Placed:
    """Write the frames of one clip into ``folder`` as ``pattern.format(number)``.

    ``change``: [H,W,3] -> the picture to write. ``place`` gains onset, apex ("" where none was annotated), offset.
    """
    numbers = numbers_of(clip.row)
    files = [f"{folder}/{pattern.format(number)}" for number in numbers.each()]
    for file, frame in zip(files, clip.frames(), strict=True):
        write_bytes(out / file, jpeg_bytes(change(frame)))
    apex = "" if numbers.apex is None else numbers.apex
    place |= {"onset": numbers.onset, "apex": apex, "offset": numbers.offset}
    if numbers.renumbered:
        place["note"] = RENUMBERED
    return Placed(with_files(clip.row, files), place)


def clip_back(root: Path, folder: str, pattern: str, row: Row, place: dict[str, Any], lost: str) -> Produced:
    """The clip that :func:`write_clip` wrote; ``lost`` is the warning of what it cost."""
    files = (f"{folder}/{pattern.format(number)}" for number in range(place["onset"], place["offset"] + 1))
    return Produced(with_warning(row, lost), frames=picture_files(root, row, files))


# ------------------------------------------------------------------- casme2


_HEADER = (
    "Subject", "Filename", None, "OnsetFrame", "ApexFrame", "OffsetFrame", None, "Action Units", "Estimated Emotion",
)  # fmt: skip
_OWN = {"casme2": r"sub\d{2}"}


_FRAME = "img{}.jpg"
CASME2_LOST = "frames were JPEG in the layout of CASME II"


class Casme2Form(Form):
    """People of CASME II keep their number; everyone else is sub501 and on."""

    name = "casme2"
    needs = (FRAMES, AUS, EMOTION)
    readable = True

    def __init__(self, source: Manifest, options: Options) -> None:
        super().__init__(source, options)
        self.people = people(source, "sub{}", _OWN)
        self.clips = clip_names(source)

    def write(self, out: Path, shard: int, shards: int, clips: Iterator[Clip]) -> Iterator[Placed]:
        for clip in clips:
            person, name = self.people[clip.row.subject_key], self.clips[clip.index]
            place: dict[str, str | int] = {"subject": person, "clip": name, "aus": au_cell(clip.row)}
            yield write_clip(out, _folder(place), _FRAME, clip, place, np.asarray)

    @staticmethod
    def back(root: Path, row: Row, place: dict[str, Any]) -> Produced:
        return clip_back(root, _folder(place), _FRAME, row, place, CASME2_LOST)

    def finish(self, out: Path, placed: PlacedClips) -> dict[str, object]:
        """Sidecar and workbook; the workbook last: a folder without it is no release yet."""
        rates = {float(value) for value in np.unique(self.source.column("fps"))}
        _write_sidecar(out / RENDERED_FILE, self._origin(rates), placed)
        rows = (_row(one) for one in placed())
        write_workbook(out / WORKBOOK, {"Sheet1": _headed(rows), "Sheet2": [], "Sheet3": []})
        return {"fps": ", ".join(f"{rate:g}" for rate in sorted(rates))}

    def _origin(self, rates: set[float]) -> dict[str, object]:
        """What the loader is told of all clips. Subject keys of an own database name only it."""
        whole = one_database(self.source) == "casme2" and all(
            key.partition("/")[2] == name for key, name in self.people.items()
        )
        kinds = np.unique(self.source.column("provenance.kind").astype(str))
        licences = np.unique(self.source.column("provenance.licence").astype(str))
        return {
            "kind": str(kinds[0]) if len(kinds) == 1 else "synthetic",
            "database": "casme2" if whole else f"export-{self.source.hash()[:8]}",
            "fps": min(rates) if len(rates) == 1 else 200.0,
            "licence": "; ".join(licences),
            "seed": -1,
        }


def _folder(place: dict[str, Any]) -> str:
    return f"{FOLDER}/{place['subject']}/{place['clip']}"


def _headed(rows: Iterator[tuple[Cell, ...]]) -> Iterator[tuple[Cell, ...]]:
    yield _HEADER
    yield from rows


def _row(one: Placed) -> tuple[Cell, ...]:
    place = one.place
    text = str(place["aus"])
    aus = int(text) if text.isdigit() else text  # as in the release
    apex = "/" if place["apex"] == "" else place["apex"]
    subject = str(place["subject"]).removeprefix("sub")
    return (
        subject, place["clip"], None, place["onset"], apex, place["offset"], None, aus, one.row.emotion,
    )  # fmt: skip


def _write_sidecar(path: Path, origin: dict[str, object], placed: PlacedClips) -> None:
    """Exact action units of every clip, streamed; clips with unknown intensities are left to their workbook cell."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(json.dumps(origin)[:-1] + ', "clips": {')
        separator = "\n"
        for one in placed():
            if not all(one.row.au_known):
                continue
            source = one.row.provenance
            exact = {
                "au_intensity": list(one.row.au_intensity), "seed": source.seed, "aus": source.aus_asked,
                "aus_source": source.aus_source, "profile": source.profile, "warnings": list(one.row.warnings),
            }  # fmt: skip
            key = f"{one.place['subject']}/{one.place['clip']}"
            file.write(f"{separator}{json.dumps(key)}: {json.dumps(exact)}")
            separator = ",\n"
        file.write("}}\n")
    temporary.replace(path)


# ------------------------------------------------------------------- samm


SAMM_FOLDER = "SAMM"
SAMM_WORKBOOK = "SAMM_Micro_FACS_Codes_v2.xlsx"
SAMM_SHEET = "MICRO_ONLY"
_SAMM_HEADER = (
    "Subject", "Filename", "Inducement Code", "Onset Frame", "Apex Frame", "Offset Frame", "Duration", "Micro",
    "Action Units", "Estimated Emotion", "Objective Classes", "Notes",
)  # fmt: skip
_PREAMBLE = (
    "Not SAMM: exported by mesynth in the layout of the SAMM release.",
    "People numbered 501 and on are in no release.",
    "provenance.jsonl says what every clip is, whom it shows and whom its generator has seen.",
    *["-"] * 10,
)
"""As many rows as the release has above its header: some loaders count them."""
assert len(_PREAMBLE) == 13
_SAMM_OWN = {"samm": r"\d{3}"}

SAMM_LOST = "frames were grey JPEG in the layout of SAMM"


class SammForm(Form):
    """People of SAMM keep their number, everyone else is 501 and on. A clip that is not named as in the release is
    ``<subject>_9_<row of the corpus>``: the release knows inducements 1 to 7."""

    name = "samm"
    needs = (FRAMES, AUS, EMOTION)
    readable = True

    def __init__(self, source: Manifest, options: Options) -> None:
        super().__init__(source, options)
        self.people = people(source, "{}", _SAMM_OWN)
        self.clips = clip_names(source)

    def write(self, out: Path, shard: int, shards: int, clips: Iterator[Clip]) -> Iterator[Placed]:
        for clip in clips:
            person = self.people[clip.row.subject_key]
            name = self.clips[clip.index]
            if not re.fullmatch(rf"{person}_[1-7]_\d+", name):
                name = f"{person}_9_{clip.index + 1}"
            place: dict[str, str | int] = {
                "subject": person, "clip": name, "aus": au_cell(clip.row, letters=True),
            }  # fmt: skip
            yield write_clip(out, *_files(place), clip, place, grey)

    @staticmethod
    def back(root: Path, row: Row, place: dict[str, Any]) -> Produced:
        return clip_back(root, *_files(place), row, place, SAMM_LOST)

    def finish(self, out: Path, placed: PlacedClips) -> dict[str, object]:
        def rows() -> Iterator[tuple[Cell, ...]]:
            yield from ((line,) for line in _PREAMBLE)
            yield _SAMM_HEADER
            yield from (_samm_row(one) for one in placed())

        write_workbook(out / SAMM_WORKBOOK, {SAMM_SHEET: rows()})
        return {}


def _files(place: dict[str, Any]) -> tuple[str, str]:
    """Folder of a clip, and the names of its frames."""
    return f"{SAMM_FOLDER}/{place['subject']}/{place['clip']}", f"{place['subject']}_{{:05d}}.jpg"


def _samm_row(one: Placed) -> tuple[Cell, ...]:
    row, place = one.row, one.place
    text = str(place["aus"])
    kind = "Macro" if row.expression == "macro" else "Micro - 1/2"
    return (
        place["subject"], place["clip"], 1, place["onset"], place["apex"] if place["apex"] != "" else None,
        place["offset"], row.n_frames, kind, int(text) if text.isdigit() else text, row.emotion.capitalize(),
        row.objective_class, row.provenance.kind,
    )  # fmt: skip
