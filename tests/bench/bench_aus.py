"""Action units across databases: answers that look at nothing, lda, svm and STSTNet, with and without synthetic clips, and
hand-crafted features without.

    for i in 0 1 2; do
        mesynth render --subjects 6 --clips 16 --size 96 --fps 30 --seed $i --out rendered-$i
        mesynth prepare casme2 --root rendered-$i --size 64 --out prepared-$i
    done
    mesynth generate --kind flow --count 3000 --seed 5 --out units \
        --emotion happiness,sadness,surprise,fear,anger,disgust,contempt,repression,others
    python -m tests.bench.bench_aus --data prepared-0 prepared-1 prepared-2 --synthetic units
    python -m tests.bench.bench_aus --data prepared-0 prepared-1 prepared-2 --models lbp_top mdmo bi_woof hoof

The protocol is CD6ME's (a database a fold, its 12 AUs, threshold .5) on any prepared databases. Prints a line of JSON for each
row: macro F1 with the bootstrap's interval over subjects, sd over seeds, F1 of each AU, seconds. Rendered databases share one
head: what they are left out for is people, not cameras, so figures say that it works and how rows compare, not what to expect. Hand-crafted features are those of their
recipes, frames and flow at the crops' own size (--size); no flow image has the frames that LBP-TOP reads.
"""  # noqa: E501

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

from recognizer.config import RunConfig, load_config
from recognizer.mixing import MixConfig
from recognizer.models import HANDCRAFTED
from recognizer.run import loso
from recognizer.sources import Opened, as_flow_set, framed, sources
from recognizer.training import TrainConfig

RECIPE = Path(__file__).parents[2] / "configs" / "recognizer" / "aus.yaml"


def tell(model: str, row: str, read: Opened, made: Opened | None, config: RunConfig) -> dict[str, object]:
    """A line of JSON for a row; what answers that look at nothing reach."""
    start = time.process_time()
    result = loso(read, made, replace(config, model=model))
    facts = {
        "model": model, "row": row, "macro_f1": round(result.metrics.uf1, 4),
        "interval": [round(result.uf1.low, 4), round(result.uf1.high, 4)], "seed_sd": round(result.seed_sd, 4),
        "balanced_accuracy": round(result.metrics.uar, 4), "f1": [round(v, 3) for v in result.metrics.f1],
        "seconds": round(time.process_time() - start, 1),
    }  # fmt: skip
    print(json.dumps(facts), flush=True)
    return {key: round(row["uf1"], 4) for key, row in result.constants.items()}


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--data", nargs="+", required=True, help="prepared databases")
    parser.add_argument("--synthetic", help="flow images; of other models than the hand-crafted ones")
    parser.add_argument("--models", nargs="+", default=["lda", "svm", "ststnet"])
    parser.add_argument("--seeds", type=int, default=5, help="of models that are trained in steps, and of draws")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--size", type=int, default=64, help="pixels of frames and flow, of hand-crafted features")
    parser.add_argument("--codes", default="", help="1,2,4: these AUs alone [default: the 12]")
    given = parser.parse_args()
    more = [f"aus.codes=[{given.codes}]"] if given.codes else []
    for model in (name for name in given.models if name in HANDCRAFTED):
        sized = "frame_size" if model == "lbp_top" else "size"
        own = ["seeds=[0]", f"model={model}", f"data.{sized}={given.size}"]
        config = load_config(RunConfig, RECIPE, [*more, *own])
        print(json.dumps(tell(model, "real only", framed(sources(given.data), None, config.data)[0], None, config)))
    models = [name for name in given.models if name not in HANDCRAFTED]
    if not models:
        return
    if not given.synthetic:
        parser.error(f"--synthetic is needed for {', '.join(models)}")
    base = load_config(RunConfig, RECIPE, [*more, f"seeds={list(range(given.seeds))}"])
    base = replace(base, train=TrainConfig(steps=given.steps))
    read, also, _ = framed(sources(given.data), sources(given.synthetic), base.data)
    assert also is not None
    real, made = as_flow_set(read, base, None, ""), as_flow_set(also, base, None, "")
    print(json.dumps({"clips": len(real), "synthetic": len(made), "present": real.class_counts.tolist()}), flush=True)
    constants: dict[str, object] = {}
    for model in models:
        rows = [("real only", None, base), ("+ synthetic", made, base)]
        if model == "lda":
            inner = replace(base, aus=replace(base.aus, threshold="inner"))
            rows += [("real only, inner thresholds", None, inner), ("+ synthetic, inner thresholds", made, inner)]
            alone = replace(base, mix=MixConfig(mode="synthetic-only"))
            rows.append(("synthetic only", made, alone))
        for name, synthetic, config in rows:
            told = tell(model, name, real, synthetic, config)
            if not constants:
                constants = told
                print(json.dumps(constants), flush=True)


if __name__ == "__main__":
    main()
