"""Clips per second end to end of every generator that ships, on the same plan rows, and what their time goes into.

``python -m tests.bench.bench_throughput [--clips 48] [--workers 2]``: rendered faces, 128 px, 200 fps, 0.32 s (the
usual length, 65 frames), sensor noise, blinks; no head motion, which painters cannot draw. A run before the first is
not counted: it compiles. Shares are of the seconds on clips, without loading. Prints a table in Markdown, with the load
of the machine before each run.

``image_diffusion`` does not ship: its row is the network of configs/diffusion/image_64.yaml with untrained weights
(time does not depend on them) and 8 steps, on ``--drawn`` clips.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from mesynth.corpus.design import load_design
from mesynth.corpus.flow_corpus import generate_flow
from mesynth.corpus.generate import PARTS, Preview, Throughput, generate_plan
from mesynth.corpus.plan import StoredPlan
from mesynth.corpus.planning import draft_plan
from mesynth.datasets.rendered import render_faces
from mesynth.generators.flow_gan.network import FAMILY
from mesynth.motion.flow_prior import NAME as PRIOR
from mesynth.motion.prior import NAME
from mesynth.store.generator_folder import shipped_models
from mesynth.training.config import load_recipe
from mesynth.training.loop import build_task
from tests.training.gan_checks import facts

DESIGN = (
    "clip.size=128", "clip.fps=200", "clip.duration=[0.32,0.32]", "nuisance.noise=[1.5]", "nuisance.head=[0]",
    "nuisance.blink=[0.3]", "nuisance.style=[0]",
)  # fmt: skip
SUBJECTS = 8
FLOW = (PRIOR, FAMILY)
"""Models of --kind flow: images of 28 px."""
UNTRAINED = "image_diffusion, 8 steps, untrained"


def models() -> list[str]:
    """The motion prior, and what ships; the diffusion generator also with fewer steps."""
    return [NAME, *(name for name in shipped_models() if name not in FLOW), "motion_diffusion@steps=4"]


def untrained(folder: Path) -> str:
    """Save the recipe's networks as they are before training and return the model's name."""
    task = build_task(load_recipe(Path("configs/diffusion/image_64.yaml")))
    task.save(task.networks, folder, facts("image_diffusion"))
    return f"{folder}@solver=dpm++,steps=8"


def plans(folder: Path, rows: dict[str, int]) -> dict[str, StoredPlan]:
    """One design with the numbers of rows asked for: each plan begins with the shorter ones."""
    render_faces(folder / "faces", subjects=SUBJECTS, size=192, seed=0)
    made = {}
    for name, count in rows.items():
        design = load_design(Path("configs/corpus/three_classes.yaml"), [*DESIGN, f"rows.count={count}"])
        made[name] = draft_plan(design, faces=folder / "faces").write(folder / f"plan-{len(made)}")
    return made


def measured(plan: StoredPlan, out: Path, model: str, workers: int) -> Throughput:
    """One run."""
    told: list[Throughput] = []
    if model in FLOW:
        # no photographs: each planned face becomes a face shape
        generate_flow(plan, out, model=model, workers=workers, report=told.append)
    else:
        generate_plan(plan, out, model=model, workers=workers, preview=Preview(count=0), report=told.append)
    return told[0]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=48)
    parser.add_argument("--drawn", type=int, default=4)
    parser.add_argument("--flow-images", type=int, default=4000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--models", default="", help="separated by semicolons; default all")
    asked = parser.parse_args()
    names = asked.models.split(";") if asked.models else [*models(), UNTRAINED, *FLOW]
    with tempfile.TemporaryDirectory() as folder:
        rows = plans(Path(folder), {"": asked.clips, UNTRAINED: asked.drawn, PRIOR: asked.flow_images})
        rows[FAMILY] = rows[PRIOR]
        drawer = untrained(Path(folder) / "untrained")
        print(f"| generator | clips/s, start-up included | ms a clip and process | {' | '.join(PARTS)} | load before |")
        print(f"|{'---|' * (4 + len(PARTS))}")
        for i, name in enumerate(names):
            plan, model = rows.get(name, rows[""]), drawer if name == UNTRAINED else name
            if i == 0:
                measured(plan, Path(folder) / "warm", model, asked.workers)
            load = os.getloadavg()[0]
            told = measured(plan, Path(folder) / f"run{i}", model, asked.workers)
            shares = " | ".join(f"{100 * share:.1f} %" for share in told.all.shares().values())
            each = 1000 * told.all.busy / told.all.clips
            print(f"| {name} | {told.rate:.2f} | {each:.1f} | {shares} | {load:.2f} |", flush=True)


if __name__ == "__main__":
    main()
