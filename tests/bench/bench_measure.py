"""What `mesynth measure` of 200 clips a side takes, by part: processor seconds and wall of the whole command.

    python -m tests.bench.bench_measure --folder sides   # makes both sides there first, and keeps them
    python -m tests.bench.bench_measure --folder sides --workers 2

The real side is rendered (25 people, 8 clips each, 21 frames) and prepared at 128 px, the other generated on its people
(64 frames). Parts are shares of the threads' wall clock, which the report states; they are scaled to processor seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path


def run(*words: object) -> tuple[float, float]:
    """A command's wall and processor seconds, of its processes together."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "mesynth", *map(str, words)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - started, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def sides(folder: Path) -> tuple[Path, Path]:
    """The real and the generated side, made unless they are there; each command goes on where it was stopped."""
    rendered, real, made = folder / "rendered", folder / "real", folder / "made"
    run("render", "--subjects", 25, "--clips", 8, "--out", rendered)
    run("prepare", "casme2", "--root", rendered, "--out", real)
    run("generate", "--faces", real, "--emotion", "negative,positive,surprise", "--count", 200, "--out", made)
    return real, made


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=1)
    chosen = parser.parse_args()
    real, made = sides(chosen.folder)
    out = chosen.folder / f"measured-{os.getpid()}"
    wall, processor = run("measure", "--real", real, "--synthetic", made, "--workers", chosen.workers, "--out", out)
    print(f"measure, --workers {chosen.workers}: {wall:.0f} s, {processor:.0f} s of processor")
    parts = json.loads((out / "report.json").read_text())["seconds"]
    total = sum(parts.values())
    for label, seconds in sorted(parts.items(), key=lambda part: -part[1]):
        print(f"  {label}: {100 * seconds / total:.0f} %, {processor * seconds / total:.0f} s of processor")


if __name__ == "__main__":
    main()
