"""Training pairs: cost of rendering, packing and drawing them, one JSON line each.

``python -m tests.bench.bench_pairs [--people 8] [--pairs 30]``
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mesynth.training.data.camera import OFF, CameraConfig
from mesynth.training.data.pack import PackConfig, open_pack
from mesynth.training.data.pairs import PairSet
from mesynth.training.data.rendered import RenderConfig, render_pairs

BATCH, REPEATS = 64, 10


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(folder: Path, size: int, people: int, pairs: int) -> dict[str, float]:
    """Milliseconds per rendered pair, packed clip and drawn batch; kilobytes per packed pair."""
    config = RenderConfig(identities=people, per_identity=pairs, size=size)
    # The first person pays for compiling the renderer's kernels.
    render_pairs(folder / "warm", RenderConfig(identities=1, per_identity=1, size=size))
    rendered, n = folder / "rendered", people * pairs
    line: dict[str, float] = {"size": size, "render ms/pair": 1e3 * timed(lambda: render_pairs(rendered, config)) / n}
    cache, kind = folder / "cache", PackConfig(size=size, frames=2)
    line["pack ms/clip"] = 1e3 * timed(lambda: open_pack(rendered, cache, kind)) / n
    line["open ms"] = 1e3 * timed(lambda: open_pack(rendered, cache, kind))
    pack = open_pack(rendered, cache, kind)
    line["kB/pair"] = sum(f.stat().st_size for f in pack.folder.iterdir()) / n / 1e3
    for name, camera in (("plain", OFF), ("camera", CameraConfig())):
        drawn = PairSet([pack], [np.arange(n)], seed=0, flip=True, camera=camera)
        drawn.batch(np.arange(BATCH))
        times = [timed(lambda i=i, d=drawn: d.batch(np.arange(i * BATCH, (i + 1) * BATCH))) for i in range(REPEATS)]  # type: ignore[misc]
        line[f"batch of {BATCH} {name}, ms"] = 1e3 * float(np.median(times))
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=30)
    options = parser.parse_args()
    for size in (64, 128):
        with tempfile.TemporaryDirectory() as folder:
            line = measure(Path(folder), size, options.people, options.pairs)
        print(json.dumps({k: round(v, 2) for k, v in line.items()}), flush=True)


if __name__ == "__main__":
    main()
