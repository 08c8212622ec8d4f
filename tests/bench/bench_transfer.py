"""Across databases, with and without learning from elsewhere: one table, paired by subject.

    python -m tests.bench.bench_transfer --data DATABASE... [--macro CORPUS...] [--protocol hde]

For rendered databases with a deliberate gap (30 frames a second, other people, half the size, noise):

    mesynth render --subjects 6 --clips 9 --size 128 --seed 1 --out near
    mesynth render --subjects 6 --clips 9 --size 64 --fps 30 --seed 2 --out far
    mesynth render --subjects 6 --clips 9 --size 96 --fps 30 --seed 3 --macro --out macro
    for one in near far macro; do mesynth prepare casme2 --root $one --size 64 --out prepared-$one; done
    python -m tests.bench.bench_transfer --data prepared-near prepared-far --macro prepared-macro --noise 0.1 --weak 0.5

``--noise`` and ``--weak`` act on the flow of the last database: noise of so many times its rms, motion times so much.
Every row is the mean over seeds of UF1 over all folds, its change against the row without transfer, and the 95 %
interval of that change by a bootstrap over subjects, the same subjects for both. Rows that learn from test clips without
labels say "transductive".
"""  # noqa: E501

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

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
LINEAR = {"bi_woof": ["model=bi_woof"], "tgsr, no gap term": ["model=tgsr", TARGET, "tgsr.gap=0"],
          "tgsr, transductive": ["model=tgsr", TARGET]}  # fmt: skip


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", nargs="+", required=True, help="prepared databases, or a composite")
    parser.add_argument("--macro", nargs="*", default=[], help="clips to transfer from")
    parser.add_argument("--protocol", default="lodo", choices=["lodo", "hde"])
    parser.add_argument("--model", default="ststnet")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--noise", type=float, default=0.0)
    parser.add_argument("--weak", type=float, default=1.0)
    parser.add_argument("--normalise", default="none", help="robust: for flow images beside flow in pixels")
    parser.add_argument("--rows", default="", help="names of rows that hold one of these words, comma-separated")
    given = parser.parse_args()
    base = [
        f"protocol.kind={given.protocol}", f"model={given.model}", f"train.steps={given.steps}",
        f"seeds={list(range(given.seeds))}", f"data.normalise={given.normalise}",
    ]  # fmt: skip
    plain = load_config(RunConfig, None, base, synthetic=False)
    read, also, _ = framed(sources(given.data), sources(given.macro) if given.macro else None, plain.data)
    real = _moved_apart(as_flow_set(read, plain, None, ""), given.noise, given.weak)
    made = None if also is None else as_flow_set(also, plain, None, "")
    print(
        f"{len(real)} clips, {len(np.unique(real.subjects))} subjects; {0 if made is None else len(made)} to transfer"
    )
    asked: list[tuple[str, list[str], FlowSet | None]]
    asked = [(name, settings, None) for name, settings in NETWORK.items()]
    asked += [(name, settings, made) for name, settings in MACRO.items() if made is not None]
    tables: list[list[tuple[str, list[str], FlowSet | None]]] = [
        asked, [(name, ["seeds=[0]", *settings], None) for name, settings in LINEAR.items()]
    ]  # fmt: skip
    words = [word for word in given.rows.split(",") if word]
    print("| row | UF1 | change | 95 % over subjects | seconds |\n|---|---|---|---|---|")
    for table in tables:
        first: LosoResult | None = None
        for name, settings, source in table:
            if first is not None and words and not any(word in name for word in words):
                continue
            start = time.perf_counter()
            config = load_config(RunConfig, None, [*base, *settings] if settings[:1] != ["seeds=[0]"] else
                                 [base[0], base[-1], *settings], synthetic=source is not None)  # fmt: skip
            result = loso(real, source, config)
            first = first or result
            low, high = _interval(first, result)
            print(
                f"| {name} | {result.uf1.value:.3f} | {result.uf1.value - first.uf1.value:+.3f} | {low:+.3f} to "
                f"{high:+.3f} | {time.perf_counter() - start:.0f} |",
                flush=True,
            )


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
