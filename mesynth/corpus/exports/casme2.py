"""The layout of the CASME II release: ``CASME2_RAW_selected/sub501/<clip>/img7.jpg`` beside the coding workbook.

``mesynth-rendered.json`` tells mesynth's own loader what the clips are, so that they never pass for real ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mesynth.corpus.exports.annotation import au_cell
from mesynth.corpus.exports.form import AUS, EMOTION, FRAMES, Clip, Form, Options, Placed, PlacedClips
from mesynth.corpus.exports.names import clip_names, one_database, people
from mesynth.corpus.exports.release import clip_back, write_clip
from mesynth.corpus.exports.tables import Cell, write_workbook
from mesynth.datasets.casme2 import RENDERED_FILE
from mesynth.datasets.rendered import FRAMES as FOLDER
from mesynth.datasets.rendered import WORKBOOK
from mesynth.manifest import Manifest, Row
from mesynth.stage import Produced

_HEADER = (
    "Subject", "Filename", None, "OnsetFrame", "ApexFrame", "OffsetFrame", None, "Action Units", "Estimated Emotion",
)  # fmt: skip
_OWN = {"casme2": r"sub\d{2}"}


_FRAME = "img{}.jpg"
LOST = "frames were JPEG in the layout of CASME II"


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
        return clip_back(root, _folder(place), _FRAME, row, place, LOST)

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
