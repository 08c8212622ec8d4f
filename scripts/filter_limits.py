"""How rendered truth and generated clips lie to the limits of `mesynth filter`: `python scripts/filter_limits.py`

Prints a Markdown table: people nobody learned from, as exact pairs and as recordings of them, then clips of each model
on faces of further such people. The usual limits in mesynth/corpus/filters.py were chosen from it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
MODELS = ("motion-prior", "motion_gan", "motion_diffusion")
FIRST = 989_000
"""Head seed of the first person: among those that validate generators, far behind the ones any recipe takes."""


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, make what is missing, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("filter-limits"), help="folder of the clips; kept, read again")
    parser.add_argument("--people", type=int, default=20, help="rendered people of each source")
    parser.add_argument("--models", default=",".join(MODELS), help="models and trained folders, separated by commas")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # sums in the same order on every machine
    from mesynth.core.errors import MesynthError
    from mesynth.corpus.filters import COLUMNS, measure_corpus

    try:
        print(f"| source | {' | '.join(COLUMNS)} |\n|{'---|' * (1 + len(COLUMNS))}")
        for name, folder in sources(options.out, options.people, options.models.split(",")):
            for line in measure_corpus(folder):
                print(f"| {name} | {' | '.join(line.cells())} |", flush=True)
    except MesynthError as error:
        parser.exit(2, f"{error}\n")
    return 0


def sources(out: Path, people: int, models: list[str]) -> list[tuple[str, Path]]:
    """Name and folder of every corpus, made if it is not there."""
    from mesynth.corpus.generate import Preview, generate
    from mesynth.corpus.plan import PlanConfig
    from mesynth.datasets.rendered import Rendering, render_casme2, render_faces
    from mesynth.motion.nuisance import Nuisance
    from mesynth.preprocess.config import PrepareConfig
    from mesynth.preprocess.prepare import prepare
    from mesynth.training.data.rendered import RenderConfig, render_pairs

    pairs = RenderConfig(first=FIRST, identities=people, per_identity=15, size=128)
    render_pairs(out / "pairs", pairs)
    recorded = render_casme2(
        out / "rendered", Rendering(subjects=people, clips_per_subject=3, size=160, fps=30, seed=FIRST)
    )
    prepare(recorded, out / "recordings", PrepareConfig())
    faces = render_faces(out / "faces", subjects=people, seed=FIRST)
    plan = PlanConfig(
        emotions=("negative", "positive", "surprise"), count=3 * people, fps=25, duration=(0.2, 0.2), seed=1,
        nuisance=Nuisance(noise=1.5, head=1, blink=0.3, style=1),
    )  # fmt: skip
    for model in models:
        generate(faces, plan, out / model.replace("/", "-"), model=model, preview=Preview(count=0))
    made = [(model, out / model.replace("/", "-")) for model in models]
    return [("rendered pairs", out / "pairs"), ("rendered recordings", out / "recordings"), *made]


if __name__ == "__main__":
    raise SystemExit(main())
