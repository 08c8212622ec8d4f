"""The data frame of MEB (Varanka et al., micro-expression benchmark): one table, frames by subject and material, and
one array of flow whose rows are the table's.

Its validation asks that a clip's folder holds the frames from onset to offset and nothing else, each file name with
one number, and ``n_frames`` of them; that flow is [N,3,64,64]: u, v and strain, each stretched to 0..1.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mesynth.core.types import flow_planes
from mesynth.corpus.exports.form import (
    AUS,
    EMOTION,
    FLOW,
    FRAMES,
    ExportedClip,
    ExportedClips,
    Options,
    SourceClip,
    au_cell,
    numbers_of,
    present_codes,
    with_files,
)
from mesynth.corpus.exports.records import CellValue, NamedForm, picture_files, write_csv
from mesynth.store.manifest import Manifest, Row
from mesynth.store.run_folder import temporary_beside, write_bytes
from mesynth.store.shards import npy_bytes
from mesynth.store.stage import Produced, journal

FRAME, FOLDER, FLOWS = "data_frame.csv", "frames", "optical_flow.npy"
SIZE = 64


class MebForm(NamedForm):
    """``data_frame.csv``, ``frames/<subject>/<material>/<number>.png`` and ``optical_flow.npy``."""

    name = "meb"
    needs = (FRAMES, FLOW, AUS, EMOTION)
    accepts = ("size",)
    readable = True

    def __init__(self, source: Manifest, options: Options) -> None:
        super().__init__(source, options)
        self.size = options.size or SIZE

    def write(self, out: Path, shard: int, shards: int, clips: Iterator[SourceClip]) -> Iterator[ExportedClip]:
        flows = []
        for clip in clips:
            person, name = self.names(clip)
            numbers = numbers_of(clip.row)
            files = _files(person, name, numbers.each())
            for file, data in zip(files, clip.pngs(), strict=True):
                write_bytes(out / file, data)
            flows.append(np.stack([_unit(plane) for plane in flow_planes(clip.flow(), self.size)]))
            place: dict[str, str | int] = {
                "subject": person, "material": name, "onset": numbers.onset,
                "apex": numbers.onset + clip.row.apex_index, "offset": numbers.offset, "aus": au_cell(clip.row),
            }  # fmt: skip
            yield ExportedClip(with_files(clip.row, files), place)
        held = np.array(flows, np.float32).reshape(-1, 3, self.size, self.size)
        write_bytes(_part(out, shard), npy_bytes(held))

    @staticmethod
    def back(root: Path, row: Row, place: dict[str, Any]) -> Produced:
        """Frames alone: the array of flow is stretched and shrunk, and says nothing of pixels any more."""
        files = _files(place["subject"], place["material"], range(place["onset"], place["offset"] + 1))
        return Produced(row, frames=picture_files(root, row, files))

    def finish(self, out: Path, placed: ExportedClips) -> dict[str, object]:
        codes = sorted({code for one in placed() for code in present_codes(one.row)})
        header = (
            "", "subject", "material", "onset", "apex", "apexf", "offset", "AU", "emotion", "n_frames", "dataset",
            *(f"AU{code}" for code in codes),
        )  # fmt: skip
        write_csv(out / FRAME, header, (_line(i, one, codes) for i, one in enumerate(placed())))
        self._join(sorted(journal(out, 0).parents[1].glob("*/flow.npy")), out / FLOWS)
        return {"AUs": len(codes)}

    def _join(self, parts: list[Path], target: Path) -> None:
        """The arrays of all shards as one; a shard's is held at a time (a memory map would count as memory)."""
        clips = sum(len(np.load(part, mmap_mode="r")) for part in parts)
        temporary = temporary_beside(target)
        with open(temporary, "wb") as file:
            shape = (clips, 3, self.size, self.size)
            header = {"descr": np.dtype(np.float32).str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for part in parts:
                file.write(np.load(part).tobytes())
        temporary.replace(target)


def _files(person: str, material: str, numbers: range) -> list[str]:
    return [f"{FOLDER}/{person}/{material}/{number:05d}.png" for number in numbers]


def _part(out: Path, shard: int) -> Path:
    """Beside the shard's journal, which is written after it."""
    return journal(out, shard).parent / "flow.npy"


def _unit(plane: np.ndarray) -> np.ndarray:
    """Minimum to 0, maximum to 1; a flat plane is 0."""
    low, high = float(plane.min()), float(plane.max())
    return (plane - low) / (high - low) if high > low else np.zeros_like(plane)


def _line(index: int, one: ExportedClip, codes: list[int]) -> tuple[CellValue, ...]:
    row, place = one.row, one.place
    present = set(present_codes(row))
    return (
        index, place["subject"], place["material"], place["onset"], place["apex"], row.apex_index, place["offset"],
        place["aus"], row.emotion, row.n_frames, row.database, *(int(code in present) for code in codes),
    )  # fmt: skip
