"""Layouts as published: the CASME II and SAMM releases, as readers of the field expect them, and flow folders.

Frames come back as the JPEGs decode; flow does not, which `mesynth prepare corpus` estimates.

Flow folders were published with STSTNet (Liong et al., FG 2019) and are read by HTNet and others:
``three_norm_u_v_os/<subject>/{u_train,u_test}/{0,1,2}/<subject>_<clip> .png``; beside it what HTNet reads as well: all
images in one folder, the apex faces, and the table that names them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mesynth.core.emotions import CLASSES_3
from mesynth.core.errors import ConfigError
from mesynth.corpus.exports.form import (
    AUS,
    CLASS,
    EMOTION,
    FLOW,
    FRAMES,
    CellValue,
    ExportedClip,
    ExportedClips,
    NamedForm,
    Options,
    SourceClip,
    au_cell,
    flow_image,
    grey,
    inside,
    jpeg_bytes,
    numbers_of,
    one_database,
    picture_files,
    shaped,
    with_files,
    with_warning,
    write_csv,
    write_workbook,
)
from mesynth.datasets.casme2 import RENDERED_FILE
from mesynth.datasets.flow_folders import UNITS, read_flow_image, unstretch
from mesynth.datasets.rendered import FRAMES as FOLDER
from mesynth.datasets.rendered import WORKBOOK
from mesynth.store.manifest import Manifest, Row
from mesynth.store.run_folder import temporary_beside, write_bytes
from mesynth.store.shards import STRETCHED
from mesynth.store.stage import Produced

LOWERED = "AUs that are lowered are left out of the annotation, which has no sign for them; provenance.jsonl has them"
RENUMBERED = "frames renumbered from the onset on: the clip had been thinned or resampled"


class _ReleaseForm(NamedForm):
    """A folder of JPEG frames a clip, numbered as annotated."""

    needs = (FRAMES, AUS, EMOTION)
    readable = True
    letters: ClassVar[bool] = False
    """Whether AU cells state intensities."""
    lost: ClassVar[str]
    """Warning of a clip that comes back: what it cost."""

    @staticmethod
    def _files(place: dict[str, Any]) -> tuple[str, str]:
        """Folder of a clip, and the pattern of its frames' names."""
        raise NotImplementedError

    @staticmethod
    def _picture(frame: np.ndarray) -> np.ndarray:
        """[H,W,3] -> the picture to write."""
        return frame

    def _clip_name(self, person: str, clip: SourceClip) -> str:
        return self.names(clip)[1]

    def write(self, out: Path, shard: int, shards: int, clips: Iterator[SourceClip]) -> Iterator[ExportedClip]:
        for clip in clips:
            person, _ = self.names(clip)
            place: dict[str, str | int] = {
                "subject": person, "clip": self._clip_name(person, clip),
                "aus": au_cell(clip.row, letters=self.letters),
            }  # fmt: skip
            folder, pattern = self._files(place)
            numbers = numbers_of(clip.row)
            files = [f"{folder}/{pattern.format(number)}" for number in numbers.each()]
            for file, frame in zip(files, clip.frames(), strict=True):
                write_bytes(out / file, jpeg_bytes(self._picture(frame)))
            apex = "" if numbers.apex is None else numbers.apex
            place |= {"onset": numbers.onset, "apex": apex, "offset": numbers.offset}
            notes = [RENUMBERED] if numbers.renumbered else []
            notes += [LOWERED] if min(clip.row.au_intensity) < 0 else []
            if notes:
                place["note"] = "; ".join(notes)
            yield ExportedClip(with_files(clip.row, files), place)

    @classmethod
    def back(cls, root: Path, row: Row, place: dict[str, Any]) -> Produced:
        folder, pattern = cls._files(place)
        files = (f"{folder}/{pattern.format(number)}" for number in range(place["onset"], place["offset"] + 1))
        return Produced(with_warning(row, cls.lost), frames=picture_files(root, row, files))


# ------------------------------------------------------------------- casme2


_HEADER = (
    "Subject", "Filename", None, "OnsetFrame", "ApexFrame", "OffsetFrame", None, "Action Units", "Estimated Emotion",
)  # fmt: skip


class Casme2Form(_ReleaseForm):
    """``CASME2_RAW_selected/sub501/<clip>/img7.jpg`` beside the coding workbook. People of CASME II keep their number;
    everyone else is sub501 and on. ``mesynth-rendered.json`` tells mesynth's own loader what the clips are, so that
    they never pass for real ones."""

    name = "casme2"
    fresh = "sub{}"
    own: ClassVar[Mapping[str, str]] = {"casme2": r"sub\d{2}"}
    lost = "frames were JPEG in the layout of CASME II"

    @staticmethod
    def _files(place: dict[str, Any]) -> tuple[str, str]:
        return f"{FOLDER}/{place['subject']}/{place['clip']}", "img{}.jpg"

    def finish(self, out: Path, placed: ExportedClips) -> dict[str, object]:
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


def _headed(rows: Iterator[tuple[CellValue, ...]]) -> Iterator[tuple[CellValue, ...]]:
    yield _HEADER
    yield from rows


def _row(one: ExportedClip) -> tuple[CellValue, ...]:
    place = one.place
    text = str(place["aus"])
    aus = int(text) if text.isdecimal() else text  # as in the release
    apex = "/" if place["apex"] == "" else place["apex"]
    subject = str(place["subject"]).removeprefix("sub")
    return (
        subject, place["clip"], None, place["onset"], apex, place["offset"], None, aus, one.row.emotion,
    )  # fmt: skip


def _write_sidecar(path: Path, origin: dict[str, object], placed: ExportedClips) -> None:
    """Exact action units of every clip, streamed; clips with unknown intensities are left to their workbook cell."""
    temporary = temporary_beside(path)
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


class SammForm(_ReleaseForm):
    """``SAMM/501/501_9_7/501_00012.jpg``, grey, beside the workbook of FACS codes. People of SAMM keep their number,
    everyone else is 501 and on. A clip that is not named as in the release is ``<subject>_9_<row of the corpus>``: the
    release knows inducements 1 to 7."""

    name = "samm"
    fresh = "{}"
    own: ClassVar[Mapping[str, str]] = {"samm": r"\d{3}"}
    letters = True
    lost = "frames were grey JPEG in the layout of SAMM"

    @staticmethod
    def _files(place: dict[str, Any]) -> tuple[str, str]:
        return f"{SAMM_FOLDER}/{place['subject']}/{place['clip']}", f"{place['subject']}_{{:05d}}.jpg"

    @staticmethod
    def _picture(frame: np.ndarray) -> np.ndarray:
        return grey(frame)

    def _clip_name(self, person: str, clip: SourceClip) -> str:
        name = super()._clip_name(person, clip)
        return name if re.fullmatch(rf"{person}_[1-7]_\d+", name) else f"{person}_9_{clip.index + 1}"

    def finish(self, out: Path, placed: ExportedClips) -> dict[str, object]:
        def rows() -> Iterator[tuple[CellValue, ...]]:
            yield from ((line,) for line in _PREAMBLE)
            yield _SAMM_HEADER
            yield from (_samm_row(one) for one in placed())

        write_workbook(out / SAMM_WORKBOOK, {SAMM_SHEET: rows()})
        return {}


def _samm_row(one: ExportedClip) -> tuple[CellValue, ...]:
    row, place = one.row, one.place
    text = str(place["aus"])
    kind = "Macro" if row.expression == "macro" else "Micro - 1/2"
    return (
        place["subject"], place["clip"], 1, place["onset"], place["apex"] if place["apex"] != "" else None,
        place["offset"], row.n_frames, kind, int(text) if text.isdecimal() else text, row.emotion.capitalize(),
        row.objective_class, row.provenance.kind,
    )  # fmt: skip


# ---------------------------------------------------------------- flow folders


TREE = "three_norm_u_v_os"
WHOLE = "STSNet_whole_norm_u_v_os"
FACES = "combined_datasets_whole"
TABLE = "combined_3_class2_for_optical_flow.csv"
WITHHELD = "u_train_withheld.csv"
FLOW_SIZE = 28
_SPLITS = ("u_train", "u_test")
_MOST = 4_000_000
"""Entries of all ``u_train`` folders together above which a file system is not asked to hold them."""


class FlowFoldersForm(NamedForm):
    """``u_test`` of a subject holds that subject's clips; ``u_train`` every other clip that has not seen the subject.

    A clip whose provenance names a subject is withheld from that subject's ``u_train``, even where it shows somebody
    else: its generator learned from the person who is tested. ``u_train_withheld.csv`` lists those.
    """

    name = "flow-folders"
    needs = (FLOW, CLASS)
    accepts = ("size", "train", "frame")
    fresh = "syn{}"
    own: ClassVar[Mapping[str, str]] = {"casme2": r"sub\d{2}", "samm": r"\d{3}", "smic": r"s\d{2}"}

    def __init__(self, source: Manifest, options: Options) -> None:
        """Raises ConfigError: ``u_train`` would hold too many files."""
        super().__init__(source, options)
        self.size = options.size or FLOW_SIZE
        entries = len(source) * (len(self.people) - 1)
        if options.train and entries > _MOST:
            raise ConfigError(
                f"u_train of {len(self.people)} subjects would hold {entries:,} files (each clip once a subject); "
                "export with --no-train, u_test holds every clip once"
            )

    def write(self, out: Path, shard: int, shards: int, clips: Iterator[SourceClip]) -> Iterator[ExportedClip]:
        for clip in clips:
            row = clip.row
            person, name = self.names(clip)
            label = CLASSES_3.index(row.label)
            file = f"{person}_{name} .png"  # with that space
            write_bytes(out / TREE / person / "u_test" / str(label) / file, flow_image(clip.flow(), self.size))
            face = ""
            if row.frames is not None or row.frame_files:
                face = f"{person}_{name}.jpg"
                write_bytes(out / FACES / face, jpeg_bytes(clip.frames()[row.apex_index]))
            place: dict[str, str | int] = {
                "subject": person, "clip": name, "label": label, "file": file, "face": face, "size": self.size,
            }  # fmt: skip
            yield ExportedClip(row, place)

    @staticmethod
    def back(root: Path, row: Row, place: dict[str, Any]) -> Produced:
        """The image itself, and flow in units of its rms, as the loader of published images reads them."""
        path = _tested_file(root, place)
        inside(root, str(path.relative_to(root)))
        planes, side = read_flow_image(path), place["size"]
        shaped(planes, str(path), (3, side, side), np.uint8)
        made = replace(with_warning(row, UNITS), height=side, width=side)
        return Produced(made, flow=unstretch(planes), extra={f"input_{STRETCHED}": planes})

    def finish(self, out: Path, placed: ExportedClips) -> dict[str, object]:
        """The other folders hold the same files once more: hard links where the file system has them."""
        keys: dict[str, str] = {}
        for one in placed():
            keys[str(one.place["subject"])] = one.row.subject_key
            _link(_tested_file(out, one.place), out / WHOLE / str(one.place["file"]))
        for person in keys:
            for split in _SPLITS:  # HTNet lists both, also where one is empty
                (out / TREE / person / split).mkdir(parents=True, exist_ok=True)
        withheld = self._train(out, placed, keys) if self.options.train else 0
        header = ("dataset", "sub", "filename_o", "label", "apex", "imagename", "sub_filename")
        write_csv(
            out / TABLE,
            header,
            (
                (o.row.database, o.place["subject"], o.place["clip"], o.place["label"], "", o.place["face"], "")
                for o in placed()
            ),
        )
        return {"subjects": len(keys), "withheld from u_train": withheld}

    def _train(self, out: Path, placed: ExportedClips, keys: dict[str, str]) -> int:
        withheld: list[tuple[str, str]] = []
        for one in placed():
            seen = set(one.row.provenance.subjects_seen)
            for person, key in keys.items():
                if person == one.place["subject"]:
                    continue
                if key in seen:
                    withheld.append((person, one.row.clip_id))
                    continue
                target = out / TREE / person / "u_train" / str(one.place["label"]) / str(one.place["file"])
                _link(_tested_file(out, one.place), target)
        write_csv(out / WITHHELD, ("subject", "clip_id"), withheld)
        return len(withheld)


def _tested_file(out: Path, place: dict[str, Any]) -> Path:
    return out / TREE / str(place["subject"]) / "u_test" / str(place["label"]) / str(place["file"])


def _link(source: Path, target: Path) -> None:
    """``target`` with the bytes of ``source``: a hard link, else a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(target)
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, temporary)
    os.replace(temporary, target)
    temporary.unlink(missing_ok=True)  # renaming onto a link of the same file leaves the old name
