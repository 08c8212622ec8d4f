"""Forms of flow: exact arrays with a table, and flow folders as published with STSTNet (Liong et al., FG 2019).

Arrays are a ``.npy`` [2,H,W] float32 a clip (pixels, onset to apex, x right, y down). Flow folders are
``three_norm_u_v_os/<subject>/{u_train,u_test}/{0,1,2}/<subject>_<clip> .png``, read by HTNet and others; beside it what
HTNet reads as well: all images in one folder, the apex faces, and the table that names them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mesynth.core.emotions import CLASSES_3
from mesynth.core.errors import ConfigError
from mesynth.corpus.exports.form import (
    CLASS,
    FLOW,
    ExportedClip,
    ExportedClips,
    Options,
    SourceClip,
    au_cell,
    with_warning,
)
from mesynth.corpus.exports.records import (
    NamedForm,
    array,
    file_bytes,
    flow_image,
    inside,
    jpeg_bytes,
    shaped,
    stored,
    write_csv,
)
from mesynth.datasets.flow_folders import UNITS, read_flow_image, unstretch
from mesynth.store.manifest import Manifest, Row
from mesynth.store.run_folder import temporary_beside, write_bytes
from mesynth.store.shards import MASKS, STRETCHED
from mesynth.store.stage import Produced

FOLDER, INDEX = "flow", "index.csv"
_BESIDE = ("landmarks.npy", *MASKS)
_KINDS = tuple(name.removesuffix(".npy") for name in _BESIDE)


class FlowNpyForm(NamedForm):
    """``flow/<subject>/<clip>.npy``; landmarks and masks (valid, new, still) beside it where the corpus has them."""

    name = "flow-npy"
    needs = (FLOW,)
    accepts = ("frame",)

    def write(self, out: Path, shard: int, shards: int, clips: Iterator[SourceClip]) -> Iterator[ExportedClip]:
        for clip in clips:
            person, name = self.names(clip)
            members = clip.flow_members()
            place: dict[str, str | int] = {"subject": person, "clip": name, "file": f"{FOLDER}/{person}/{name}.npy"}
            write_bytes(out / str(place["file"]), members["flow.npy"])
            for member in _BESIDE:
                if member in members:
                    kind = member.removesuffix(".npy")
                    place[kind] = f"{kind}/{person}/{name}.npy"
                    write_bytes(out / str(place[kind]), members[member])
            yield ExportedClip(clip.row, place)

    @staticmethod
    def back(root: Path, row: Row, place: dict[str, Any]) -> Produced:
        files = {"flow": place["file"]} | {kind: place[kind] for kind in _KINDS if kind in place}
        arrays = {
            kind: (str(root / file), array(file_bytes(root, file), str(root / file))) for kind, file in files.items()
        }
        return Produced(row, **stored(row, arrays))

    def finish(self, out: Path, placed: ExportedClips) -> dict[str, object]:
        header = (
            "file", *_KINDS, "clip_id", "database", "subject", "clip", "label", "emotion", "aus", "height", "width",
            "fps",
        )  # fmt: skip
        rows = (
            (
                o.place["file"], *(o.place.get(kind, "") for kind in _KINDS), o.row.clip_id, o.row.database,
                o.row.subject, o.row.clip, o.row.label, o.row.emotion, au_cell(o.row, letters=True), o.row.height,
                o.row.width, o.row.fps,
            )
            for o in placed()
        )  # fmt: skip
        write_csv(out / INDEX, header, rows)
        return {}


# ------------------------------------------------------------------- flow folders


TREE = "three_norm_u_v_os"
WHOLE = "STSNet_whole_norm_u_v_os"
FACES = "combined_datasets_whole"
TABLE = "combined_3_class2_for_optical_flow.csv"
WITHHELD = "u_train_withheld.csv"
SIZE = 28
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
        self.size = options.size or SIZE
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
        path = _test_file(root, place)
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
            _link(_test_file(out, one.place), out / WHOLE / str(one.place["file"]))
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
                _link(_test_file(out, one.place), target)
        write_csv(out / WITHHELD, ("subject", "clip_id"), withheld)
        return len(withheld)


def _test_file(out: Path, place: dict[str, Any]) -> Path:
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
