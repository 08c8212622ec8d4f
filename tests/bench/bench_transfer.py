"""Across databases, with and without learning from elsewhere: one table, paired by subject.

    python -m tests.bench.bench_transfer --render FOLDER --gap none --gap jpeg --gap rigs ...
    python -m tests.bench.bench_transfer --data DATABASE... [--macro CORPUS...] [--early CORPUS...] [--protocol hde]

``--render`` makes what it needs in FOLDER (and takes up what is there): two databases of four people each, macro-expressions
of four others, and their early parts (``mesynth prepare --early``, ``--share``). Each ``--gap`` is one column, in which the
second database differs from the first in that one thing (:data:`GAPS`), its people aside; ``+`` joins several. ``h264``
sends each clip's frames, with the margins before its onset and after its offset, through a lossy H.264 video before they
are stored and prepared as the first database's are. ``--data`` takes prepared databases as they are.

Every row is the mean over seeds of UF1 over all folds, its change against the row without transfer, and the 95 %
interval of that change by a bootstrap over subjects, the same subjects for both. Rows that learn from test clips without
labels say "transductive".
"""  # noqa: E501

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

import mesynth
from mesynth.core.seeds import stream
from mesynth.corpus import previews
from mesynth.datasets import rendered
from mesynth.head import Subject
from mesynth.motion.fields import draw_rig
from mesynth.store.videos import listing, read_pictures
from recognizer.config import RunConfig, load_config
from recognizer.data import FlowSet
from recognizer.results import LosoResult
from recognizer.run import loso
from recognizer.sources import as_flow_set, framed, sources

TARGET = "transfer.transductive=true"
NETWORK: dict[str, list[str]] = {
    "own clips alone": [],
    "adversary, transductive": [TARGET, "train.loss.domain=0.1"],
    "CORAL, transductive": [TARGET, "train.loss.coral=1"],
    "MMD, transductive": [TARGET, "train.loss.mmd=1"],
    "pseudo labels, transductive": [TARGET, "train.loss.pseudo=1", "train.loss.threshold=0.9"],
    "consistency, transductive": [TARGET, "train.loss.consistency=1"],
    "contrast first": ["transfer.pretext=contrast"],
    "contrast first, transductive": [TARGET, "transfer.pretext=contrast"],
}
MACRO: dict[str, list[str]] = {
    "macro, pretraining": ["mix.mode=pretrain"],
    "macro, feature distillation": ["mix.mode=pretrain", "train.loss.hint=1"],
    "macro, relation distillation": ["mix.mode=pretrain", "train.loss.distances=1", "train.loss.angles=2"],
    "macro, pooled": ["mix.mode=pool"],
    "macro, adversary": ["mix.mode=pool", "train.loss.domain=0.1"],
}
LINEAR = {"bi_woof": ["model=bi_woof"], "tgsr, gap 0": ["model=tgsr", TARGET, "tgsr.gap=0"],
          "tgsr, gap 1, transductive": ["model=tgsr", TARGET, "tgsr.gap=1"],
          "tgsr, own choice, transductive": ["model=tgsr", TARGET]}  # fmt: skip

# ---------------------------------------------------------------- gaps


@dataclass(frozen=True)
class Gap:
    """How the second database is made."""

    size: int = 96
    fps: float = 60.0
    quality: int = 95
    """Of its JPEG files."""
    crf: int | None = None
    """Its frames went through H.264 at this constant rate factor (4:2:0, preset medium, B-frames, every 250th frame at
    the latest coded by itself; x264 takes 23 unless it is told, 51 is the worst)."""
    rigs: bool = False
    """Each of its people has muscles that pull by a rig of their own, drawn around the known ones."""
    noise: float = 0.0
    """Noise of so many times its rms is added to its flow, and motion times ``weak``."""
    weak: float = 1.0


GAPS: dict[str, dict[str, float | bool]] = {
    "none": {}, "size": {"size": 64}, "rate": {"fps": 25.0}, "jpeg": {"quality": 15}, "h264": {"crf": 33},
    "rigs": {"rigs": True}, "flow": {"noise": 0.3, "weak": 0.5},
}  # fmt: skip


def gap_of(name: str) -> Gap:
    """Raises ValueError for a name that is none."""
    wanted: dict[str, float | bool] = {}
    for part in name.split("+"):
        if part not in GAPS:
            raise ValueError(f"gap '{part}' is unknown; choose from {', '.join(GAPS)}, joined by +")
        wanted |= GAPS[part]
    return Gap(**wanted)  # type: ignore[arg-type]


@lru_cache(maxsize=1)
def _own_rig(seed: int, size: int) -> Subject:
    return Subject(seed, size=size, supersample=2, basis=draw_rig(stream(seed, "bench-rig")))


@contextmanager
def _coding(crf: int) -> Iterator[None]:
    """The mp4 of a preview as a camera's: coded coarsely, with B-frames, and a frame by itself now and then."""
    options = previews._OPTIONS["libx264"] | {"crf": str(crf), "bf": "3"}
    with patch.dict(previews._OPTIONS, libx264=options), patch.object(previews, "_PER_KEY", 250):
        yield


def through_h264(frames: np.ndarray, crf: int, fps: float = 25.0) -> np.ndarray:
    """[T,H,W,3] uint8 RGB, even sides, as they come out of an H.264 video. Raises ConfigError without an encoder."""
    with tempfile.TemporaryDirectory() as name, _coding(crf):
        file = Path(name) / "clip.mp4"
        file.write_bytes(previews.video_bytes(frames, "mp4", fps))
        return np.stack(list(read_pictures(file.parent, list(listing(file).values()))))


@dataclass(frozen=True)
class _Filmed:
    """A subject whose clips are seen through a video."""

    subject: Subject
    crf: int
    fps: float

    def render(self, *args: Any, **options: Any) -> np.ndarray:
        return through_h264(self.subject.render(*args, **options), self.crf, self.fps)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.subject, name)


def _rendered(
    folder: Path, name: str, gap: Gap, seed: int, clips: int, macro: bool = False, share: float = 1.0
) -> Path:
    """A database of ``gap``, rendered and prepared once."""
    root, out = folder / name.partition("-early")[0], folder / f"{name}-prepared"
    plain: Any = _own_rig if gap.rigs else rendered._subject

    def subject(seed: int, size: int) -> Any:
        one = plain(seed, size)
        return one if gap.crf is None else _Filmed(one, gap.crf, gap.fps)

    with ExitStack() as patches:
        patches.enter_context(patch.object(rendered, "_subject", subject))
        patches.enter_context(patch.object(rendered, "_JPEG_QUALITY", gap.quality))
        mesynth.render(root, subjects=4, clips=clips, size=gap.size, fps=gap.fps, seed=seed, macro=macro)
    mesynth.prepare("casme2", root, out, size=64, keep_frames=False, early=share)
    return out


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", nargs="+", default=[], help="prepared databases, or a composite")
    parser.add_argument("--render", type=Path, help="folder to render databases in")
    parser.add_argument("--gap", action="append", default=[], help=f"of --render: {', '.join(GAPS)}, a+b")
    parser.add_argument("--macro", nargs="*", default=[], help="clips to transfer from")
    parser.add_argument("--early", nargs="*", default=[], help="the same, prepared with --early")
    parser.add_argument("--share", type=float, default=0.3, help="of --render: where early parts end")
    parser.add_argument("--clips", type=int, default=9, help="of --render, a subject")
    parser.add_argument("--protocol", default="lodo", choices=["lodo", "hde"])
    parser.add_argument("--model", default="ststnet")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--normalise", default="none", help="robust: for flow images beside flow in pixels")
    parser.add_argument("--rows", default="", help="names of rows that hold one of these words, comma-separated")
    given = parser.parse_args()
    if bool(given.data) == bool(given.render):
        parser.error("give either --data or --render")
    columns: list[tuple[str, Gap, list[str]]] = [("clips as they are", Gap(), given.data)]
    macro, early = given.macro, given.early
    if given.render:
        near, clips = Gap(), given.clips
        first = str(_rendered(given.render, "near", near, 1, clips))
        macro = [str(_rendered(given.render, "macro", near, 3, clips - 1, True))]
        early = [str(_rendered(given.render, "macro-early", near, 3, clips - 1, True, given.share))]
        columns = [
            (name, gap_of(name), [first, str(_rendered(given.render, f"far-{name}", gap_of(name), 2, clips))])
            for name in given.gap or ["none"]
        ]
    found = {name: _table(given, name, gap, data, macro, early) for name, gap, data in columns}
    names = list(next(iter(found.values())))
    print("\n| | " + " | ".join(found) + " |\n|---|" + "---|" * len(found))
    for name in names:
        print(f"| {name} | " + " | ".join(column[name] for column in found.values()) + " |")


def _table(
    given: argparse.Namespace, column: str, gap: Gap, data: Sequence[str], macro: Sequence[str], early: Sequence[str]
) -> dict[str, str]:
    """Rows of one column, printed as they come."""
    base = [
        f"protocol.kind={given.protocol}", f"model={given.model}", f"train.steps={given.steps}",
        f"seeds={list(range(given.seeds))}", f"data.normalise={given.normalise}",
    ]  # fmt: skip
    plain = load_config(RunConfig, None, base, synthetic=False)

    def read(paths: Sequence[str]) -> FlowSet:
        here, there, _ = framed(sources(list(data)), sources(list(paths)) if paths else None, plain.data)
        return as_flow_set(here if there is None else there, plain, None, "")

    real = _moved_apart(read([]), gap.noise, gap.weak)
    made = {kind: read(paths) for kind, paths in (("macro", macro), ("early macro", early)) if paths}
    sets = {name: real.take(real.databases == name) for name in np.unique(real.databases)} | made
    sizes = [f"{name} {len(one)} clips, {_motion(one):.2f} px" for name, one in sets.items()]
    print(f"\n{column}: {'; '.join(sizes)} (median over clips of the flow's 99th percentile)")
    asked: list[tuple[str, list[str], FlowSet | None]]
    asked = [(name, settings, None) for name, settings in NETWORK.items()]
    for kind, clips in made.items():
        asked += [(name.replace("macro", kind), settings, clips) for name, settings in MACRO.items()]
    tables: list[list[tuple[str, list[str], FlowSet | None]]] = [
        asked, [(name, ["seeds=[0]", *settings], None) for name, settings in LINEAR.items()]
    ]  # fmt: skip
    words, cells = [word for word in given.rows.split(",") if word], {}
    for table in tables:
        first: LosoResult | None = None
        for name, settings, source in table:
            if first is not None and words and not any(word in name for word in words):
                continue
            start = time.perf_counter()
            config = load_config(RunConfig, None, [*base, *settings] if settings[:1] != ["seeds=[0]"] else
                                 [base[0], base[-1], *settings], synthetic=source is not None)  # fmt: skip
            result = loso(real, source, config)
            cells[name] = f"{result.uf1.value:.3f}".lstrip("0")
            if first is not None:
                low, high = _interval(first, result)
                cells[name] += f": {result.uf1.value - first.uf1.value:+.3f} [{low:+.3f}, {high:+.3f}]".replace(
                    "0.", "."
                )
            first = first or result
            said = "".join(f"; {note}" for note in result.notes if "gap" in note)
            print(f"{name}: {cells[name]}, {time.perf_counter() - start:.0f} s{said}", flush=True)
    return cells


def _motion(clips: FlowSet) -> float:
    """Median over clips of the 99th percentile of the flow's length, pixels of the flow image."""
    length = np.hypot(clips.x[:, 0], clips.x[:, 1]).reshape(len(clips), -1)
    return float(np.median(np.quantile(length, 0.99, axis=1)))


def _moved_apart(clips: FlowSet, noise: float, weak: float) -> FlowSet:
    """The last database's flow made weaker and noisier."""
    last = clips.databases == np.unique(clips.databases)[-1]
    x, rng = clips.x.copy(), np.random.default_rng(0)
    rms = np.sqrt((x[last] ** 2).mean((2, 3), keepdims=True))
    x[last] = weak * (x[last] + noise * rms * rng.standard_normal(x[last].shape)).astype(np.float32)
    return replace(clips, x=x)


def _f1(counts: np.ndarray) -> np.ndarray:
    """[...,C,C] confusions (truth, answer) -> [...] mean F1 over the classes."""
    hit = np.diagonal(counts, axis1=-2, axis2=-1)
    return np.asarray((2 * hit / np.maximum(counts.sum(-1) + counts.sum(-2), 1)).mean(-1))


def _confusions(result: LosoResult, subjects: Sequence[str], classes: int) -> np.ndarray:
    """[subjects,seeds,C,C]"""
    rows = result.predictions.select(["subject", "seed", "y", "predicted"]).to_pylist()
    seeds = sorted({row["seed"] for row in rows})
    out = np.zeros((len(subjects), len(seeds), classes, classes))
    place = {name: i for i, name in enumerate(subjects)}
    for row in rows:
        out[place[row["subject"]], seeds.index(row["seed"]), row["y"], row["predicted"]] += 1
    return out


def _interval(one: LosoResult, other: LosoResult, draws: int = 2000) -> tuple[float, float]:
    """95 % of the change of UF1 (mean over seeds), the same subjects drawn for both."""
    subjects = sorted(set(one.predictions.column("subject").to_pylist()))
    classes = int(max(max(r.predictions.column("y").to_pylist()) for r in (one, other))) + 1
    rng = np.random.default_rng(0)
    counts = rng.multinomial(len(subjects), np.full(len(subjects), 1 / len(subjects)), draws).astype(float)
    values = []
    for result in (one, other):
        each = _confusions(result, subjects, classes)
        values.append(_f1(np.einsum("ds,skij->dkij", counts, each)).mean(1))
    low, high = np.quantile(values[1] - values[0], [0.025, 0.975])
    return float(low), float(high)


if __name__ == "__main__":
    main()
