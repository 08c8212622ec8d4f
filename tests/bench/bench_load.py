"""Seconds to list a release of 100,000 frames and to read 4,000 flow images: ``python -m tests.bench.bench_load``.

A tree in the layout of CASME II: 255 clips of 393 frames, hard links to its onset. "plain" is the usual way:
``sorted(glob)`` of every clip folder, a stat of every frame, one decoded onset a clip.

A corpus of the flow prior, 28 pixels, as the recognizer loads it. "plain" opens a shard, walks its tar by tarfile,
parses its npy header and derives its image for each clip by itself; the values are the same to the byte.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

import mesynth
from mesynth.core.types import optical_strain
from mesynth.datasets.casme2 import CASME2
from mesynth.datasets.check import check
from mesynth.datasets.load import load_release
from mesynth.store.manifest import Manifest
from recognizer.data import load
from tests.datasets.releases.casme2 import ReleaseClip, write_release
from tests.datasets.releases.common import picture

CLIPS, FRAMES = 255, 393
IMAGES = 4000


def make_tree(root: Path) -> None:
    clips = [
        ReleaseClip(f"{1 + i % 26:02d}", f"EP{1 + i // 26:02d}_01", 1, FRAMES // 2, FRAMES, on_disk=[1])
        for i in range(CLIPS)
    ]
    write_release(root, clips)
    for clip in clips:
        folder = root / "CASME2_RAW_selected" / f"sub{clip.subject}" / clip.name
        one = folder / "img1.jpg"  # a file system bounds the links to one file
        assert cv2.imwrite(str(one), picture(1, 480, 640))
        for n in range(2, FRAMES + 1):
            os.link(one, folder / f"img{n}.jpg")


def plain(root: Path) -> int:
    frames = 0
    for folder in sorted((root / "CASME2_RAW_selected").glob("sub*/*")):
        files = sorted(folder.glob("*.jpg"), key=lambda p: int(p.stem.removeprefix("img")))
        frames += sum(file.is_file() for file in files)
        assert cv2.imread(str(files[0])) is not None
    return frames


def plain_images(manifest: Manifest) -> np.ndarray:
    """[N,3,28,28] of a corpus of 28 pixels."""
    images = []
    for row in manifest:
        assert row.flow is not None
        with open(manifest.root / row.flow.shard, "rb") as file:
            file.seek(row.flow.offset)
            data = file.read(row.flow.size)
        assert hashlib.sha256(data).hexdigest() == row.flow.sha256
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            flow = next(tar.extractfile(info) for info in tar if info.name.endswith(".flow.npy"))
            assert flow is not None
            uv = np.load(io.BytesIO(flow.read()), allow_pickle=False)
        images.append(np.concatenate([uv, optical_strain(uv)[None]]))
    return np.stack(images)


def best_of_three(call: Callable[[], object]) -> float:
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def listing(root: Path) -> dict[str, float]:
    make_tree(root)
    best = {"s_plain": best_of_three(lambda: plain(root)), "s_load": best_of_three(lambda: load_release(CASME2, root))}
    loaded = load_release(CASME2, root)
    start = time.perf_counter()
    assert check(loaded).usable == CLIPS
    ratio = {"plain_over_load": best["s_plain"] / best["s_load"], "s_check": time.perf_counter() - start}
    return {"frames": CLIPS * FRAMES} | best | ratio


def reading(root: Path) -> dict[str, float]:
    corpus = mesynth.generate(kind="flow", emotion=["negative", "positive", "surprise"], count=IMAGES, out=root / "c")
    assert load(corpus).x.tobytes() == plain_images(corpus).tobytes()
    best = {
        "s_plain": best_of_three(lambda: plain_images(Manifest.read(corpus.root))),
        "s_load": best_of_three(lambda: load(Manifest.read(corpus.root))),
    }
    return {"flow_images": IMAGES} | best | {"plain_over_load": best["s_plain"] / best["s_load"]}


def main() -> None:
    for measure in (listing, reading):
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps({name: round(value, 3) for name, value in measure(Path(folder)).items()}))


if __name__ == "__main__":
    main()
