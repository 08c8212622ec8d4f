"""FID of pictures against cached statistics: ours and pytorch-fid, one after the other in one process.

    python -m tests.bench.bench_fid [--images 10000] [--size 128]

Random weights in the file format of the 2015 Inception (the true ones cost the same), random pictures written as PNG,
statistics of random features. Prints JSON: seconds of both, their ratio (above 1: ours is faster), both distances with
the same resize.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import torch
from pytorch_fid import fid_score, inception

from mesynth.metrics.fid import Moments, fid, write_statistics
from mesynth.metrics.networks.extractors import PUBLISHED_RESIZE, Inception
from tests.metrics.inception import random_weights


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=128)
    asked = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder, statistics, weights = Path(name, "pictures"), Path(name, "s.npz"), Path(name, "w.pth")
        folder.mkdir()
        for i in range(asked.images):
            small = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            picture = cv2.resize(small, (asked.size, asked.size), interpolation=cv2.INTER_CUBIC)
            cv2.imwrite(str(folder / f"{i:06d}.png"), picture)
        features = rng.normal(size=(4096, 2048)) @ rng.normal(size=(2048, 2048)) / 45
        write_statistics(statistics, Moments.of([features]))
        state = random_weights()
        torch.save(state, weights)
        start = time.perf_counter()
        found = fid(folder, statistics, Inception(weights, published_resize=True), resize=PUBLISHED_RESIZE)
        middle = time.perf_counter()
        with mock.patch.object(inception, "load_state_dict_from_url", return_value=state):
            paths = [str(folder), str(statistics)]
            theirs = fid_score.calculate_fid_given_paths(paths, 50, "cpu", 2048, num_workers=1)
        end = time.perf_counter()
    facts = {
        "images": asked.images, "size": asked.size, "threads": torch.get_num_threads(),
        "ours_s": round(middle - start, 1), "pytorch_fid_s": round(end - middle, 1),
        "ratio": round((end - middle) / (middle - start), 2), "ours": found.value, "theirs": float(theirs),
    }  # fmt: skip
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
