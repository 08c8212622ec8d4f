"""The Frechet distance against pytorch-fid's, in one run, from features already made.

    python -m tests.bench.bench_frechet [--images 10000]

Random features of 2048 numbers, once with few rows (micro-expression corpora are small), once with many: from features,
and from moments alone. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
from pytorch_fid.fid_score import calculate_frechet_distance

from mesynth.metrics.fid import Moments, frechet, frechet_of_moments


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--few", type=int, default=600, help="also with so few rows")
    asked = parser.parse_args()
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(2048, 2048)) / 45
    for n in (asked.few, asked.images):
        x = rng.normal(size=(n, 2048)) @ mix
        y = 1.1 * rng.normal(size=(n, 2048)) @ mix + 0.05
        start = time.perf_counter()
        ours = frechet(x.astype(np.float32), y.astype(np.float32))
        middle = time.perf_counter()
        moments = (x.mean(0), np.cov(x, rowvar=False), y.mean(0), np.cov(y, rowvar=False))
        cached = time.perf_counter()
        theirs = calculate_frechet_distance(*moments)
        end = time.perf_counter()
        kept = [Moments(mean=m, covariance=c) for m, c in (moments[:2], moments[2:])]
        again = time.perf_counter()
        frechet_of_moments(*kept)
        last = time.perf_counter()
        facts = {
            "rows": n, "ours_s": round(middle - start, 2), "pytorch_fid_s": round(end - middle, 2),
            "ratio": round((end - middle) / (middle - start), 1), "ours": ours, "theirs": float(theirs),
            "from_moments": {"ours_s": round(last - again, 2), "pytorch_fid_s": round(end - cached, 2),
                             "ratio": round((end - cached) / (last - again), 1)},
        }  # fmt: skip
        print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
