"""The data frame of MEB (Varanka et al., micro-expression benchmark): one table, frames by subject and material, and
one array of flow whose rows are the table's.

Its validation asks that a clip's folder holds the frames from onset to offset and nothing else, each file name with
one number, and ``n_frames`` of them; that flow is [N,3,64,64]: u, v and strain, each stretched to 0..1.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mesynth.corpus.exports.annotation import au_cell, numbers_of, present_codes
from mesynth.corpus.exports.form import AUS, EMOTION, FLOW, FRAMES, Clip, Form, Options, Placed, PlacedClips, with_files
from mesynth.corpus.exports.names import clip_names, plain_people
from mesynth.corpus.exports.pictures import flow_planes
from mesynth.corpus.exports.tables import Cell, write_csv
from mesynth.manifest import Manifest
from mesynth.run_folder import write_bytes
from mesynth.shards import npy_bytes

FRAME, FOLDER, FLOWS = "data_frame.csv", "frames", "optical_flow.npy"
SIZE = 64
_PARTS = "parts"


class MebForm(Form):
    """``data_frame.csv``, ``frames/<subject>/<material>/<number>.png`` and ``optical_flow.npy``."""

    name = "meb"
    needs = (FRAMES, FLOW, AUS, EMOTION)
    accepts = ("size",)
    readable = True

    def __init__(self, source: Manifest, options: Options) -> None:
        super().__init__(source, options)
        self.people, self.clips = plain_people(source), clip_names(source)
        self.size = options.size or SIZE

    def write(self, out: Path, shard: int, shards: int, clips: Iterator[Clip]) -> Iterator[Placed]:
        flows = []
        for clip in clips:
            person, name = self.people[clip.row.subject_key], self.clips[clip.index]
            folder, numbers = f"{FOLDER}/{person}/{name}", numbers_of(clip.row)
            files = [f"{folder}/{number:05d}.png" for number in numbers.each()]
            for file, data in zip(files, clip.pngs(), strict=True):
                write_bytes(out / file, data)
            flows.append(np.stack([_unit(plane) for plane in flow_planes(clip.flow(), self.size)]))
            place: dict[str, str | int] = {
                "subject": person, "material": name, "onset": numbers.onset,
                "apex": numbers.onset + clip.row.apex_index, "offset": numbers.offset, "aus": au_cell(clip.row),
            }  # fmt: skip
            yield Placed(with_files(clip.row, files), place)
        held = np.array(flows, np.float32).reshape(-1, 3, self.size, self.size)
        write_bytes(_part(out, shard), npy_bytes(held))

    def finish(self, out: Path, placed: PlacedClips) -> dict[str, object]:
        codes = sorted({code for one in placed() for code in present_codes(one.row)})
        header = (
            "", "subject", "material", "onset", "apex", "apexf", "offset", "AU", "emotion", "n_frames", "dataset",
            *(f"AU{code}" for code in codes),
        )  # fmt: skip
        write_csv(out / FRAME, header, (_line(i, one, codes) for i, one in enumerate(placed())))
        parts = sorted((out / _PARTS).glob("*/flow.npy"))
        shapes = [np.load(part, mmap_mode="r").shape for part in parts]
        temporary = out / (FLOWS + ".tmp")
        whole = np.lib.format.open_memmap(
            temporary, "w+", np.float32, (sum(shape[0] for shape in shapes), 3, self.size, self.size)
        )
        first = 0
        for part in parts:
            flows = np.load(part)
            whole[first : first + len(flows)] = flows
            first += len(flows)
        whole.flush()
        del whole
        temporary.replace(out / FLOWS)
        return {"AUs": len(codes)}


def _part(out: Path, shard: int) -> Path:
    """Beside the shard's journal, which is written after it."""
    return out / _PARTS / f"{shard:06d}" / "flow.npy"


def _unit(plane: np.ndarray) -> np.ndarray:
    """Minimum to 0, maximum to 1; a flat plane is 0."""
    low, high = float(plane.min()), float(plane.max())
    return (plane - low) / (high - low) if high > low else np.zeros_like(plane)


def _line(index: int, one: Placed, codes: list[int]) -> tuple[Cell, ...]:
    row, place = one.row, one.place
    present = set(present_codes(row))
    return (
        index, place["subject"], place["material"], place["onset"], place["apex"], row.apex_index, place["offset"],
        place["aus"], row.emotion, row.n_frames, row.database, *(int(code in present) for code in codes),
    )  # fmt: skip
