"""Action units across databases: answers that look at nothing, lda, svm and STSTNet, with and without synthetic clips.

    for i in 0 1 2; do
        mesynth render --subjects 6 --clips 16 --size 96 --fps 30 --seed $i --out rendered-$i
        mesynth prepare casme2 --root rendered-$i --size 64 --out prepared-$i
    done
    mesynth generate --kind flow --count 3000 --seed 5 --out units \
        --emotion happiness,sadness,surprise,fear,anger,disgust,contempt,repression,others
    python -m tests.bench.bench_aus --data prepared-0 prepared-1 prepared-2 --synthetic units

The protocol is CD6ME's (a database a fold, its 12 AUs, threshold .5) on any prepared databases. Prints a line of JSON for each
row: macro F1 with the bootstrap's interval over subjects, sd over seeds, F1 of each AU, seconds. Rendered databases share one
head: what they are left out for is people, not cameras, so figures say that it works and how rows compare, not what to expect.
"""  # noqa: E501

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

from recognizer.config import RunConfig, load_config
from recognizer.mixing import MixConfig
from recognizer.run import loso
from recognizer.sources import as_flow_set, framed, sources
from recognizer.training import TrainConfig

RECIPE = Path(__file__).parents[2] / "configs" / "recognizer" / "aus.yaml"


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", nargs="+", required=True, help="prepared databases")
    parser.add_argument("--synthetic", required=True)
    parser.add_argument("--models", nargs="+", default=["lda", "svm", "ststnet"])
    parser.add_argument("--seeds", type=int, default=5, help="of models that are trained in steps, and of draws")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--codes", default="", help="1,2,4: these AUs alone [default: the 12]")
    given = parser.parse_args()
    more = [f"aus.codes=[{given.codes}]"] if given.codes else []
    base = load_config(RunConfig, RECIPE, [*more, f"seeds={list(range(given.seeds))}"])
    base = replace(base, train=TrainConfig(steps=given.steps))
    read, also, _ = framed(sources(given.data), sources(given.synthetic), base.data)
    assert also is not None
    real, made = as_flow_set(read, base, None, ""), as_flow_set(also, base, None, "")
    print(json.dumps({"clips": len(real), "synthetic": len(made), "present": real.class_counts.tolist()}), flush=True)
    constants: dict[str, object] = {}
    for model in given.models:
        rows = [("real only", None, base), ("+ synthetic", made, base)]
        if model == "lda":
            inner = replace(base, aus=replace(base.aus, threshold="inner"))
            rows += [("real only, inner thresholds", None, inner), ("+ synthetic, inner thresholds", made, inner)]
            alone = replace(base, mix=MixConfig(mode="synthetic-only"))
            rows.append(("synthetic only", made, alone))
        for name, synthetic, config in rows:
            start = time.perf_counter()
            result = loso(real, synthetic, replace(config, model=model))
            if not constants:
                constants = {key: round(row["uf1"], 4) for key, row in result.constants.items()}
                print(json.dumps(constants), flush=True)
            print(
                json.dumps({
                    "model": model, "row": name, "macro_f1": round(result.metrics.uf1, 4),
                    "interval": [round(result.uf1.low, 4), round(result.uf1.high, 4)],
                    "seed_sd": round(result.seed_sd, 4), "balanced_accuracy": round(result.metrics.uar, 4),
                    "f1": [round(v, 3) for v in result.metrics.f1], "seconds": round(time.perf_counter() - start, 1),
                }),
                flush=True,
            )  # fmt: skip


if __name__ == "__main__":
    main()
