"""What is painted on frames in layers, against layers alone: nearer to rendered truth, or not?

``python -m tests.bench.bench_painted FOLDER [--people 4] [--size 128] [--head HEAD.npz] [--level 1] [--sheet FOLDER]``,
FOLDER a trained image_diffusion with ``model.layered``. Three kinds of people that nobody learned from: of the packaged
head, of the same with rigs of their own, and of another blendshape head. Of each: mean absolute error in the crop (grey
levels) and ST-LPIPS to the true apex, of the onset, of layers and of layers with what is painted, per group of AUs; the
judge's reading of the AU asked for and of the others, and the distance of face embeddings to the onset.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from typing import Any

import cv2
import numpy as np

from mesynth.benchmark.answers import Instruments
from mesynth.benchmark.protocol import BENCHMARK_SEEDS, Person
from mesynth.core import facs
from mesynth.core.seeds import stream
from mesynth.core.types import AUVector
from mesynth.generators.base import load_pipeline
from mesynth.generators.image_diffusion.network import ImageDiffusion, formed_apex, reachable
from mesynth.head import Subject
from mesynth.head.foreign import ForeignHead
from mesynth.metrics.networks.extractors import STLPIPS, distance
from mesynth.metrics.networks.judge import visible_aus
from mesynth.motion.fields import draw_rig

GROUPS: dict[str, tuple[str, ...]] = {
    "brows (1+2, 4)": ("1=L,2=L", "4=L"),
    "lids (5, 7, 45)": ("5=L", "7=L", "45=L"),
    "cheeks, nose (6, 9, 10)": ("6=L", "9=L", "10=L"),
    "corners (12, 14, 15, 20)": ("12=L", "14=L", "15=L", "20=L"),
    "chin, lips (17, 23, 24)": ("17=L", "23=L", "24=L"),
    "mouth opens (25, 26, 27)": ("25=L", "26=L", "27=L"),
}
SHOWN = ("onset", "layers", "painted")


class Rigged:
    """The packaged head's people, each with muscles of their own."""

    name = "rigs"

    def subject(self, seed: int, size: int) -> Subject:
        """See :class:`mesynth.benchmark.protocol.Person`."""
        return Subject(seed, size=size, basis=draw_rig(stream(0, "bench-painted-rig", seed)))


def people(kind: str, count: int, size: int, head: ForeignHead | None) -> list[Person]:
    """Of "packaged", "rigs" or "second head"."""
    if kind == "second head":
        return [Person(i, size, head=head) for i in range(count)]
    own: Any = Rigged() if kind == "rigs" else None
    return [Person(BENCHMARK_SEEDS.start + i, size, head=own) for i in range(count)]


def requests(level: float, lacking: set[int]) -> list[tuple[str, AUVector]]:
    """(group, AUs), without those that a head lacks."""
    made = []
    for group, texts in GROUPS.items():
        for text in texts:
            aus = facs.parse_request(text.replace("L", f"{level:g}"))
            codes = {facs.AU_CODES[k] for k in np.flatnonzero(aus.intensity.any(1))}
            if not codes & lacking:
                made.append((group, aus))
    return made


def measure(generator: ImageDiffusion, crowd: list[Person], level: float, lacking: set[int], tools: Instruments) -> Any:
    """Figures by group and in all, and pictures of the first person."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    tiles, likeness = [], STLPIPS()
    mover = generator._mover()
    assert mover is not None
    for person in crowd:
        for group, aus in requests(level, lacking):
            layers = formed_apex(mover, person.face, reachable(mover.family, aus))
            (painted,) = generator.pictures([person.face], [aus], [0])
            shown = {"onset": person.onset, "layers": person.inner(layers), "painted": person.inner(painted)}
            truth = person.inner(person.exact(aus).apex)
            onset = person.onset
            asked = aus.intensity > 0
            for name, picture in {**shown, "truth": truth}.items():
                error = float(np.abs(picture.astype(float) - truth).mean())
                seen = float(distance(likeness, picture[None], truth[None])[0])
                for where in (group, "all"):
                    found[where][f"{name} error"].append(error)
                    found[where][f"{name} ST-LPIPS"].append(seen)
                if name == "onset":
                    continue
                read = judged(tools, person, picture)
                named = visible_aus(aus.intensity)
                found["all"][f"{name} read"].append(float(read[asked].mean() / level))
                found["all"][f"{name} leaked"].append(float(np.abs(read[named == 0]).mean()))
                found["all"][f"{name} named"].append(float(named.max(1)[read.max(1).argmax()] > 0))
                if tools.embedder is not None:
                    a, b = tools.embedder(np.stack([onset, picture]), person.landmarks)
                    found["all"][f"{name} identity"].append(1 - float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))
            if person is crowd[0]:
                tiles.append([*shown.values(), truth])
    return found, tiles


def judged(tools: Instruments, person: Person, picture: np.ndarray) -> np.ndarray:
    """AUs [K,2] that the judge reads between the onset and a picture."""
    return np.asarray(tools.judge.intensity(np.stack([person.onset, picture]), person.landmarks)[0])


def mean_of(values: list[float]) -> str:
    """Of a row of a table."""
    return f"{np.mean(values):.3g}" if values else "-"


def report(kind: str, found: Any) -> None:
    """Two tables of one kind of people."""
    count = len(found["all"]["onset error"])
    print(f"\n{kind}, {count} requests\n\n| AUs | error: onset | layers | painted | nearer | ST-LPIPS: onset | layers |"
          " painted | nearer |\n|---|---|---|---|---|---|---|---|---|")  # fmt: skip
    for group in (*GROUPS, "all"):
        row = found[group]
        cells = []
        for measure_ in ("error", "ST-LPIPS"):
            columns = [np.array(row[f"{name} {measure_}"]) for name in SHOWN]
            cells += [mean_of(list(c)) for c in columns]
            cells.append(f"{100 * np.mean(columns[2] < columns[1]):.0f} %" if len(columns[2]) else "-")
        print(f"| {group} | {' | '.join(cells)} |")
    print("\n| | named | read over asked | leaked | identity |\n|---|---|---|---|---|")
    for name in ("truth", "layers", "painted"):
        columns_ = (found["all"][f"{name} {what}"] for what in ("named", "read", "leaked", "identity"))
        print(f"| {name} | {' | '.join(mean_of(c) for c in columns_)} |")


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--people", type=int, default=4)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--level", type=float, default=1.0)
    parser.add_argument("--head")
    parser.add_argument("--kinds", default="packaged,rigs,second head")
    parser.add_argument("--sheet", help="folder for a picture of the first person of each kind")
    options = parser.parse_args()
    generator, tools = load_pipeline(options.folder), Instruments.load()
    assert isinstance(generator, ImageDiffusion)
    head = ForeignHead.read(options.head) if options.head else None
    for kind in options.kinds.split(","):
        if kind == "second head" and head is None:
            continue
        lacking = set(head.missing) if kind == "second head" and head else set()
        found, tiles = measure(
            generator, people(kind, options.people, options.size, head), options.level, lacking, tools
        )
        report(kind, found)
        if options.sheet:
            rows = [np.concatenate(row, 1) for row in tiles]
            half = (len(rows) + 1) // 2
            rows += [np.zeros_like(rows[0])] * (2 * half - len(rows))
            sheet = np.concatenate([np.concatenate(rows[:half]), np.concatenate(rows[half:])], 1)
            name = f"{options.sheet}/{kind.replace(' ', '_')}.png"
            cv2.imwrite(name, cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))


if __name__ == "__main__":
    main()
