"""Draw the pictures of docs/preprocessing.md. `python scripts/make_step_pictures.py [STEP ...] [--out FOLDER]`"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from mesynth.core.errors import MesynthError
from scripts.step_pictures import STEPS, write_pictures

PICTURES = Path(__file__).resolve().parent.parent / "docs" / "preprocessing"


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and write the pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("steps", nargs="*", metavar="STEP", help=f"all without any, or some of {', '.join(STEPS)}")
    parser.add_argument("--out", type=Path, default=PICTURES, help="folder of the pictures")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)  # sums in the same order on every machine
    try:
        for file in write_pictures(args.out, args.steps):
            print(file)
    except MesynthError as error:
        parser.exit(2, f"{error}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
