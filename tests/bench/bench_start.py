"""What is waited for before and beside the work itself: start-up, plan, flow corpus, measure, folds of STSTNet.

    python -m tests.bench.bench_start [--only start plan flow measure folds] [--rounds 3]

Each is held against the plain way of doing the same, both in turn in one run, in processor seconds (best of the
rounds), so that a busy machine changes the ratio little. The plain ways: importing at the start whatever any module
names; drawing a plan's rows once to count and once to write; one flow image after the other, rows copied by
``dataclasses.asdict``; the pictures' network once a measure, and all of a clip's flow in one batch; a fold after the
other in PyTorch's own layers.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import torch

from mesynth.corpus.design import load_design
from mesynth.corpus.plan import Plan, PlanConfig, Summary, virtual_faces
from mesynth.corpus.planning import draft_plan
from mesynth.motion.flow_prior import FlowPrior, FlowRequest
from mesynth.preprocess import tvl1
from mesynth.store.manifest import SCHEMA, Manifest
from recognizer.training import TrainConfig, train
from tests.bench.bench_folds import BATCH, make_task, plain_seconds

FACES = Path(__file__).resolve().parents[2] / "samples" / "corpus" / "faces"
EVERYTHING = "import diffusers, pandas, scipy.signal, scipy.stats, skimage.feature, sklearn.svm, torchvision\n"
"""What some module of the package names; diffusers and torchvision bring PyTorch's compiler with them."""


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _program(words: list[str], before: str = "") -> float:
    """Processor seconds of a process that runs `mesynth` with ``words``."""
    code = f"{before}import sys\nsys.argv = {['mesynth', *words]!r}\nfrom mesynth.cli import main\nmain()\n"
    start = _children()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    return _children() - start


def _timed(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def _ratio(
    name: str, ours: Callable[[], float], plain: Callable[[], float], rounds: int, per: float, unit: str
) -> None:
    """Print both, best of ``rounds`` in turn; ``per``: units of work in one call."""
    found = [(ours(), plain()) for _ in range(rounds)]
    mine, other = (min(values) / per for values in zip(*found, strict=True))
    facts = {
        "what": name,
        "unit": unit,
        "ours": round(mine, 4),
        "plain": round(other, 4),
        "ratio": round(other / mine, 2),
    }
    print(json.dumps(facts), flush=True)


def start(rounds: int, folder: Path) -> None:
    """Two clips of each generator, and of the plan's verb, as commands."""
    outs = (str(folder / f"start{n}") for n in count())
    for model in ("motion-prior", "motion_gan"):
        words = ["generate", "--faces", str(FACES), "--emotion", "negative", "--count", "2", "--model", model, "--out"]
        _program([*words, next(outs)])  # compiles what is compiled once a machine
        _ratio(
            f"two clips of {model}", lambda w=words: _program([*w, next(outs)]),  # type: ignore[misc]
            lambda w=words: _program([*w, next(outs)], EVERYTHING), rounds, 1, "s",
        )  # fmt: skip


def plan(rounds: int, folder: Path, rows: int = 2000) -> None:
    """A plan of three classes, counted and written."""
    outs = (folder / f"plan{n}" for n in count())

    def draft() -> object:
        return draft_plan(load_design("configs/corpus/three_classes.yaml", [f"rows.count={rows}"]), people=100)

    def ours() -> float:
        drawn = draft()
        return _timed(lambda: drawn.write(next(outs), None, Summary()))  # type: ignore[attr-defined]

    def plain() -> float:
        drawn = draft()
        return _timed(lambda: (drawn.summary(), drawn.write(next(outs))))  # type: ignore[attr-defined]

    _ratio("plan, a row", ours, plain, rounds, rows / 1e3, "ms")


def flow(rounds: int, folder: Path, images: int = 1000) -> None:
    """The command (start-up, rows, images, shards), and the images alone."""
    outs = (str(folder / f"flow{n}") for n in count())
    words = ["generate", "--kind", "flow", "--emotion", "negative,positive,surprise", "--workers", "1", "--out"]
    seconds = min(_program([*words, next(outs), "--count", str(images)]) for _ in range(rounds))
    print(
        json.dumps({"what": f"{images} flow images, the command", "unit": "s", "ours": round(seconds, 2)}), flush=True
    )
    people, prior = virtual_faces(50), FlowPrior(28)
    asked = [
        FlowRequest(
            intensity=row.aus.intensity, person=people[row.face].key, seed=row.seed, profile=row.profile,
            n_frames=row.n_frames, fps=row.fps, head=1.0, blink=0.3, style=1.0,
        )
        for row in Plan(PlanConfig(emotions=("negative", "positive", "surprise"), count=256), len(people))
    ]  # fmt: skip
    prior.draw(asked[:2])
    _ratio(
        "flow prior, an image", lambda: _timed(lambda: prior.draw(asked)),
        lambda: _timed(lambda: [prior.draw([one]) for one in asked]), rounds, len(asked) / 1e3, "ms",
    )  # fmt: skip
    made = Manifest.read(Path(next(outs)).parent / "flow0")
    kept = [made.row(i) for i in range(256)]

    def copied() -> object:
        import pyarrow as pa

        return pa.Table.from_pylist([dataclasses.asdict(row) for row in kept], schema=SCHEMA)

    _ratio(
        "rows to a table, a row", lambda: _timed(lambda: Manifest.from_rows(kept, made.root)), lambda: _timed(copied),
        rounds, len(kept) / 1e3, "ms",
    )  # fmt: skip


def measure(rounds: int, folder: Path, clips: int = 8) -> None:
    """A slice of clips shown to each measure but identity, whose embeddings are dlib's."""
    from mesynth.metrics.base import ClipData, MeasureConfig, Setup
    from mesynth.metrics.evaluate import Makers, evaluate_slice
    from mesynth.metrics.networks import Networks

    out = str(folder / "measured")
    _program(["generate", "--faces", str(FACES), "--emotion", "negative,positive", "--count", str(clips), "--out", out])
    corpus = Manifest.read(out)
    names = ("pictures", "diversity", "au_control", "flow", "sequence")
    makers = Makers(Setup(MeasureConfig(), Networks()), names)

    def ours() -> float:
        return _timed(lambda: evaluate_slice(makers(), ("synthetic", corpus, np.arange(clips)), 0))

    def plain() -> float:
        once, at_once = ClipData.once, tvl1._AT_ONCE
        ClipData.once = lambda self, maker, make: make()  # type: ignore[method-assign]
        tvl1._AT_ONCE = 2**62
        try:
            return ours()
        finally:
            ClipData.once, tvl1._AT_ONCE = once, at_once  # type: ignore[method-assign]

    ours()
    _ratio("measure without identity, a clip", ours, plain, rounds, clips, "s")


def folds(rounds: int, folder: Path, members: int = 4, steps: int = 10) -> None:
    """STSTNet at its recipe's batch, one thread both ways."""
    batch, task = BATCH["ststnet"], make_task("ststnet", members, steps)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    config = TrainConfig(steps=steps, batch=batch)
    train(make_task("ststnet", 2, 2), config)
    plain_seconds("ststnet", task, 1, 2, batch)
    _ratio(
        f"STSTNet, batch {batch}, a member's step", lambda: _timed(lambda: train(task, config)),
        lambda: _timed(lambda: plain_seconds("ststnet", task, members, steps, batch)), rounds, members * steps / 1e3,
        "ms",
    )  # fmt: skip
    torch.set_num_threads(before)


PARTS = {"start": start, "plan": plan, "flow": flow, "measure": measure, "folds": folds}


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name in asked.only:
            PARTS[name](asked.rounds, Path(folder))


if __name__ == "__main__":
    main()
