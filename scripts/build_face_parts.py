#!/usr/bin/env python3
"""Build mesynth/preprocess/data/face_parts.npz: principal components of rendered people's eyes, noses and mouths.

python scripts/build_face_parts.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from mesynth.head.build import deterministic_npz
from mesynth.preprocess.face_quality import PARTS_FILE, rendered_parts


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and write the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--people", type=int, default=40, help="how many people, from seed 1000 on")
    parser.add_argument("--out", type=Path, default=PARTS_FILE, help="the file to write")
    args = parser.parse_args(argv)
    parts = {name: basis.astype(np.float16) for name, basis in rendered_parts(args.people).items()}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_bytes(deterministic_npz(parts))
    print(args.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
