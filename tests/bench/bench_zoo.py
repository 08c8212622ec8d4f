"""The field's networks in one table: parameters, time a clip, and a study of each, so that everything runs once.

    python -m tests.bench.bench_zoo [NAME ...] [--steps 20] [--out FILE]

Three people are rendered and prepared with all inputs, and each network, as small as its recipe's line ``# small:`` has
it, is tested leave-one-subject-out on them after ``--steps`` steps: that says that it runs from recipe to figure, not
how good it is. For figures on real flow images see tests/bench/bench_published.py.

ms per clip: forward and backward on one core, batch 4 as published and 8 small, processor time, the shortest of up to
three. ``--skip-published`` leaves the published size out, which for the largest takes minutes. A table is printed in
the end, and with ``--out`` the rows are written as JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from mesynth.cli import main as mesynth
from mesynth.core.types import N_AUS
from recognizer.config import RunConfig, load_config
from recognizer.models.common import FlowNetwork
from recognizer.run import loso
from tests.recognizer.zoo import RECIPES, ZOO, Entry, published, small

INPUTS = "difference,dynamic,active,landmarks,flows,eyes,mouth,patches"
LARGEST = 60_000_000
"""Parameters of a published size that is timed at most."""


def rendered(folder: Path) -> Path:
    """Three people of three clips each, prepared with every input there is."""
    for line in (
        f"render --subjects 3 --clips 3 --size 128 --fps 40 --workers 1 --out {folder}/db",
        f"prepare casme2 --root {folder}/db --size 64 --inputs {INPUTS} --workers 1 --out {folder}/prepared",
    ):
        mesynth(line.split(), standalone_mode=False)
    return folder / "prepared"


def milliseconds(entry: Entry, network: FlowNetwork, batch: int) -> float:
    """Of forward and backward, a clip."""
    views, y = entry.views(network.needs, batch), torch.arange(batch) % 3
    au, taken = torch.zeros(batch, N_AUS * 2, dtype=torch.int64), []
    for i in range(4):
        start = time.process_time()
        network.loss(network(*views), y, au).backward()
        if i:  # the first one warms up
            taken.append(time.process_time() - start)
        if sum(taken) > 3:
            break
    return min(taken) / batch * 1e3


def settings(name: str) -> list[str]:
    """What the line ``# small:`` of a recipe lays over it, as on a command line."""
    [line] = [line for line in (RECIPES / f"{name}.yaml").read_text().splitlines() if line.startswith("# small: ")]
    over = yaml.safe_load(line.removeprefix("# small: "))
    return [f"{section}.{key}={json.dumps(value)}" for section, keys in over.items() for key, value in keys.items()]


def study(name: str, data: Path, steps: int) -> dict[str, Any]:
    """One small network under one protocol: figures and seconds."""
    given = [*settings(name), "seeds=[0]", f"train.steps={steps}", "train.batch=4"]
    config = load_config(RunConfig, RECIPES / f"{name}.yaml", given, synthetic=False)
    start = time.process_time()
    result = loso(data, None, config)
    facts = {"uf1": round(result.uf1.value, 4), "uar": round(result.uar.value, 4)}
    return facts | {"seconds": round(time.process_time() - start, 1)}


def main() -> None:
    """See the module's first lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*ZOO, []], default=[])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--skip-published", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = rendered(Path(folder))
        for name in given.names or ZOO:
            whole, little = published(name), small(name)
            row: dict[str, Any] = {"needs": ", ".join(little.build().needs)}
            with torch.device("meta"):
                row["parameters"] = sum(p.numel() for p in whole.build().parameters())
            row["small"] = sum(p.numel() for p in little.build().parameters())
            if row["parameters"] <= LARGEST and not given.skip_published:
                row["ms"] = round(milliseconds(whole, whole.build(), 4), 1)
            row["ms_small"] = round(milliseconds(little, little.build(), 8), 1)
            row |= study(name, data, given.steps)
            found[name] = row
            print(json.dumps({"name": name} | row), flush=True)
    print(table(found))
    if given.out:
        given.out.write_text(json.dumps(found, indent=1))


def table(found: dict[str, dict[str, Any]]) -> str:
    """Rows as a Markdown table."""
    lines = ["| model | needs | parameters | small | ms per clip | UF1 / UAR | seconds |", "|" + "---|" * 7]
    for name, row in found.items():
        lines.append(
            f"| `{name}` | {row['needs']} | {row['parameters']:,} | {row['small']:,} | "
            f"{row.get('ms', 'not run')} / {row['ms_small']} | {row['uf1']:.3f} / {row['uar']:.3f} | {row['seconds']} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
