"""How fast clips are read for training, beside webdataset on the same shards.

    python -m tests.bench.bench_data [--corpus FOLDER] [--rounds 5]

Both decode every frame and the flow of every clip of a corpus into a dict of arrays, one process, the files in the page
cache, rounds taken in turn; ours also holds every byte against its sha256. The corpus is exported to the form
``webdataset`` first, so that one file a shard holds frames and flow for both. Prints clips a second and the ratio.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from mesynth.corpus.exports.run import export
from mesynth.data import ClipDataset, IterableClipDataset
from mesynth.store.manifest import Manifest

SAMPLES = Path(__file__).parents[2] / "samples" / "corpus"


def ours(folder: Path) -> Callable[[], int]:
    """Items of the stream: frames [T,3,H,W], flow, AUs, label, subject."""
    clips = ClipDataset(folder)
    return lambda: sum(1 for item in IterableClipDataset(clips) if len(item["aus"]))


def theirs(folder: Path) -> Callable[[], int]:
    """The same of webdataset: PNG by its decoder, npy, cls, json; frames stacked as tensors."""
    import webdataset as wds

    urls = [str(path) for path in sorted(folder.glob("*.tar"))]

    def walk() -> int:
        count = 0
        for sample in wds.WebDataset(urls, shardshuffle=False).decode("torchrgb8"):
            frames = [sample[name] for name in sorted(sample) if name.endswith(".png")]
            if frames:
                torch.stack(frames)
            torch.from_numpy(sample["flow.npy"])
            count += 1
        return count

    return walk


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--corpus", type=Path, default=SAMPLES)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "wds"
        export(Manifest.read(chosen.corpus), "webdataset", folder)
        rows = Manifest.read(folder)
        print(f"{len(rows)} clips of {int(np.median(rows.column('n_frames')))} frames, {rows.row(0).width} px")
        ways = {"mesynth.data": ours(folder), "webdataset": theirs(folder)}
        spent: dict[str, list[float]] = {way: [] for way in ways}
        for walk in ways.values():
            assert walk() == len(rows)
        for _ in range(chosen.rounds):
            for way, walk in ways.items():
                start = time.process_time()
                walk()
                spent[way].append(time.process_time() - start)
    rate = {way: len(rows) / float(np.median(seconds)) for way, seconds in spent.items()}
    print(", ".join(f"{way} {value:.1f} clips/s" for way, value in rate.items()))
    print(f"ratio {rate['mesynth.data'] / rate['webdataset']:.2f} (processor time, median of {chosen.rounds})")


if __name__ == "__main__":
    main()
