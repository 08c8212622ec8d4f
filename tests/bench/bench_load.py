"""Seconds to list a release of 100,000 frames: ``python -m tests.bench.bench_load``.

A tree in the layout of CASME II: 255 clips of 393 frames, hard links to its onset. "plain" is the usual way:
``sorted(glob)`` of every clip folder, a stat of every frame, one decoded onset a clip.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path

import cv2

from mesynth.datasets.casme2 import CASME2
from mesynth.datasets.check import check
from mesynth.datasets.load import load_release
from tests.datasets.releases.casme2 import ReleaseClip, write_release
from tests.datasets.releases.common import picture

CLIPS, FRAMES = 255, 393


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


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_tree(root)
        best: dict[str, float] = {}
        for name, call in (("plain", lambda: plain(root)), ("load", lambda: load_release(CASME2, root))):
            seconds = []
            for _ in range(3):
                start = time.perf_counter()
                call()
                seconds.append(time.perf_counter() - start)
            best[name] = min(seconds)
        loaded = load_release(CASME2, root)
        start = time.perf_counter()
        assert check(loaded).usable == CLIPS
        figures = {"frames": CLIPS * FRAMES, "s_plain": best["plain"], "s_load": best["load"]}
        figures |= {"plain_over_load": best["plain"] / best["load"], "s_check": time.perf_counter() - start}
        print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
