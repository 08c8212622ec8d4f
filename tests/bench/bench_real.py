"""Recognizers on real flow images: how their defaults were chosen, and what that choice is worth.

    python -m tests.bench.bench_real --data PREPARED [--models lda,svm] [--set KEY=VALUE] [--out FILE]

``PREPARED`` is what ``mesynth prepare flow_folders`` wrote, or any prepared database. For every setting of a grid the
clips are predicted leave-one-subject-out. Choosing the best of them and reporting its figure would flatter, so the
choice is nested: whom a fold holds out takes no part in choosing its setting, which is the best on the other subjects
(leave-two-subjects-out, UF1). Printed are the figure of the shipped default, that of the nested choice, the paired
difference of the two over subjects, how often each setting was chosen, and how many were tried. ``--set`` holds for the
whole grid: ``--set data.symmetric=false`` gives the table of decision 018.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mesynth.core.statistics import compare_counts, subject_counts
from mesynth.store.manifest import Manifest
from recognizer.config import RunConfig, load_config, transform_of
from recognizer.data import FlowSet, load
from recognizer.fitting import fit
from recognizer.mixing import Member
from recognizer.results import confusion, uar, uf1

POWERS, POOLS = (1.0, 0.7, 0.5), (0, 14, 7, 4)
OWN = {
    "lda": [f"lda.shrinkage={v}" for v in (0.2, 0.5, 0.8, 0.9, 0.95)],
    "svm": [f"svm.c={c} svm.gamma={g}" for c in (0.3, 1.0, 3.0) for g in (0.5, 1.0, 2.0)],
}


def settings(model: str, fixed: Sequence[str] = ()) -> list[list[str]]:
    """Every setting of a model's grid, as a user would write it."""
    inputs = itertools.product(POWERS, POOLS, OWN[model])
    return [
        [f"model={model}", f"data.power={power}", f"data.pool={pool}", *own.split(), *fixed]
        for power, pool, own in inputs
    ]


def predictions(clips: FlowSet, config: RunConfig, left_out: Sequence[tuple[str, ...]]) -> np.ndarray:
    """[M,N] class of each clip by each of M members, which learn from everyone but ``left_out``."""
    weights = [np.where(np.isin(clips.subjects, list(names)), 0.0, 1.0) for names in left_out]
    members = [Member.of("+".join(n), 0, w, clips.y) for n, w in zip(left_out, weights, strict=True)]
    trained = fit(clips, np.zeros(len(clips), np.bool_), members, config)
    inputs = clips.inputs()
    return np.stack([trained.probabilities(m, inputs).argmax(1) for m in range(len(members))])


def score(clips: FlowSet, predicted: np.ndarray, where: np.ndarray) -> float:
    """UF1 of the clips that are marked."""
    return float(uf1(confusion(clips.y[where], predicted[where], len(clips.classes))))


def nested(clips: FlowSet, model: str, fixed: Sequence[str] = ()) -> dict[str, Any]:
    """Every setting leave-one-subject-out, and the choice that each subject's absence makes among them."""
    names = [str(name) for name in np.unique(clips.subjects)]
    own = [clips.subjects == name for name in names]
    pairs = list(itertools.combinations(range(len(names)), 2))
    grid = settings(model, fixed)
    alone = np.zeros((len(grid), len(clips)), np.int64)
    inner = np.zeros((len(grid), len(names)))
    for g, setting in enumerate(grid):
        config = load_config(RunConfig, None, setting, synthetic=False)
        ones = predictions(clips, config, [(name,) for name in names])
        for k, mask in enumerate(own):
            alone[g, mask] = ones[k, mask]
        twos = predictions(clips, config, [(names[a], names[b]) for a, b in pairs])
        without = np.full((len(names), len(clips)), -1)
        for p, (a, b) in enumerate(pairs):
            without[a, own[b]] = twos[p, own[b]]
            without[b, own[a]] = twos[p, own[a]]
        inner[g] = [score(clips, without[k], ~own[k]) for k in range(len(names))]
        counts = confusion(clips.y, alone[g], len(clips.classes))
        print(f"{' '.join(setting)}: UF1 {uf1(counts):.3f} UAR {uar(counts):.3f}", flush=True)
    best = inner.argmax(0)
    chosen = np.zeros(len(clips), np.int64)
    for k, mask in enumerate(own):
        chosen[mask] = alone[best[k], mask]
    config = load_config(RunConfig, None, [f"model={model}"], synthetic=False)
    default = np.zeros(len(clips), np.int64)
    ones = predictions(clips, config, [(name,) for name in names])
    for k, mask in enumerate(own):
        default[mask] = ones[k, mask]
    tables = {"default": default, "nested": chosen}
    counts = {
        name: subject_counts(clips.y, p, clips.subjects, np.zeros(len(clips), np.int64), len(clips.classes))
        for name, p in tables.items()
    }
    found: dict[str, Any] = {"model": model, "tried": len(grid), "subjects": len(names), "clips": len(clips)}
    found["default_is"] = str(transform_of(config))
    for name in ("default", "nested"):
        whole = confusion(clips.y, tables[name], len(clips.classes))
        found[name] = {"uf1": round(float(uf1(whole)), 4), "uar": round(float(uar(whole)), 4)}
    gain = compare_counts(counts["default"], counts["nested"], statistic=uf1)
    found["nested - default"] = {name: round(getattr(gain, name), 4) for name in ("value", "low", "high", "p")}
    found["chosen"] = {" ".join(grid[g]): n for g, n in Counter(best.tolist()).most_common()}
    found["mean inner UF1"] = {
        " ".join(grid[g]): round(float(inner[g].mean()), 4) for g in np.argsort(-inner.mean(1))[:10]
    }
    return found


def main() -> None:
    """See the module's first lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", default="lda,svm")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    clips = load(Manifest.read(given.data))
    found = []
    for model in given.models.split(","):
        start = time.perf_counter()
        found.append(nested(clips, model, given.set) | {"seconds": round(time.perf_counter() - start, 1)})
        print(json.dumps(found[-1], indent=1), flush=True)
    if given.out:
        given.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
