#!/usr/bin/env python3
"""Build mesynth/preprocess/data/mean_face.json: the mean landmarks of rendered people, made symmetric.

python scripts/build_mean_face.py
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from mesynth.preprocess.align import MEAN_FACE_FILE, rendered_mean_face


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and write the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--people", type=int, default=100, help="how many people to average")
    parser.add_argument("--out", type=Path, default=MEAN_FACE_FILE, help="the file to write")
    args = parser.parse_args(argv)
    points = rendered_mean_face(args.people).round(5).tolist()
    about = f"68 iBUG landmarks, shares of the canonical crop from edge to edge; mean of {args.people} rendered people"
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({"about": about, "points": points}) + "\n", encoding="utf-8")
    print(args.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
