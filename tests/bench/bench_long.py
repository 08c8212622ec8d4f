"""Spotters side by side on long rendered videos of known truth: ``python -m tests.bench.bench_long``.

The movement signal learns nothing; SOFTNet is trained once a subject on all others. F1 at IoU .5 over summed counts,
with the 95 % interval over subjects, of micro-expressions and of macro-expressions, which the movement signal does not
look for. ``--out`` keeps the videos and both runs, and goes on where it stopped.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from mesynth.datasets.rendered import LongRendering, render_long
from recognizer.spotter import SpotRun, SpotterConfig, run_spotting


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subjects", type=int, default=5)
    parser.add_argument("--videos", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--fps", type=float, default=30.0)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--flow", default="dis", help="SOFTNet's; tvl1 is published and slower")
    parser.add_argument("--labels", default="step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        out = given.out or Path(temporary)
        started = time.perf_counter()
        made = render_long(
            out / "long",
            LongRendering(
                subjects=given.subjects, videos_per_subject=given.videos, seconds=(given.seconds, given.seconds),
                size=given.size, fps=given.fps, rate=12, seed=given.seed,
            ),
        )  # fmt: skip
        print(f"{len(made)} expressions, rendered in {time.perf_counter() - started:.0f} s")
        config = SpotterConfig(flow=given.flow, labels=given.labels)
        for run in (SpotRun(), SpotRun(method="softnet", config=config)):
            started = time.perf_counter()
            name = run.method if run.method == "movement" else f"{run.method}-{given.flow}-{given.labels}"
            result = run_spotting(out / "long", out / name, run)
            for kind in result.groups:
                facts, interval = result.counts(kind).to_dict(), result.f1_interval(kind)
                between = f"[{interval.low:.3f}, {interval.high:.3f}]" if interval else ""
                counts = " ".join(f"{n} {facts[n]:g}" for n in ("tp", "fp", "fn"))
                print(f"{name:24s} {kind:6s} F1 {facts['f1']:.3f} {between}  {counts}")
            print(f"{name:24s} {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
