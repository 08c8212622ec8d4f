"""Put a trained generator into the package: weights, a card with measured figures and the commands that made it.

    python scripts/ship_generator.py runs/motion_64/generator motion_gan \
        --recipe configs/gan/motion_64.yaml --figures comparison/compare.json --also on-another-head/compare.json

The recipe must be the one that the generator was trained by, and the figures those of these very weights.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from mesynth.benchmark.result import Result, likeness_card
from mesynth.core.errors import MesynthError
from mesynth.store.digests import seal
from mesynth.store.generator_folder import CARD, SHIPPED, read_facts
from mesynth.training.checkpoint import open_initial
from mesynth.training.config import load_recipe

SHOWN = (
    "flow_epe", "of_zero_flow", "of_mean_flow", "relative_epe", "au_mae_targeted", "au_slope_pooled",
    "aus_in_range_trusted", "aus_in_range", "spearman_over_intensities", "leakage", "identity_distance", "diversity",
    "kid", "seconds",
)  # fmt: skip
LARGEST = 30 * 2**20


def main() -> None:
    """Check, copy, write the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("generator", type=Path)
    parser.add_argument("name")
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--figures", type=Path, required=True)
    parser.add_argument("--also", action="append", default=[], type=Path, help="figures on another head, or turned")
    parser.add_argument("--after", action="append", default=[], help="a command that followed training")
    options = parser.parse_args()
    facts = read_facts(options.generator)
    recipe = load_recipe(options.recipe)
    start = open_initial(recipe)
    if recipe.hash(start.sha256 if start else "") != facts.config_hash:
        raise MesynthError(f"{options.generator} was not trained by {options.recipe} as it is now; train it again")
    result = json.loads(options.figures.read_text())
    mine = [s for s in result["standings"] if s["facts"].get("weights_sha256") == facts.weights_sha256]
    if not mine:
        raise MesynthError(f"{options.figures} holds no figures of these weights; run mesynth compare on them")
    results = [options.figures, *options.also]
    target = SHIPPED / options.name
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(options.generator, target)
    size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    if size > LARGEST:
        raise MesynthError(f"{target} has {size:,} bytes, more than the {LARGEST:,} that may ship")
    own = target / "recipe.yaml"
    own.write_bytes(options.recipe.read_bytes())
    commands = [f"mesynth train {options.recipe} --out runs/{options.recipe.stem}", *options.after]
    with open(target / CARD, "a") as card:
        card.write(_section(mine[0], result, commands))
        card.write(likeness_card([Result.from_json(f.read_text()) for f in results], facts.weights_sha256))
    seal(target)
    print(f"{target}: {size:,} bytes")


def _section(mine: dict[str, Any], result: dict[str, Any], commands: list[str]) -> str:
    standings = result["standings"]
    beside = [s for s in standings if s is mine or s["name"] in ("rendered truth", "motion-prior")]
    names = {f["key"]: f["name"] for f in mine["figures"] if f["key"] in SHOWN}
    lines = [
        "", f"## Figures on {result['settings']['people']} rendered people that nothing learned from", "",
        "95 % intervals from resampling people; `mesynth compare` makes the whole table.", "",
        "| measure | " + " | ".join("this" if s is mine else s["name"] for s in beside) + " |",
        "|---" * (1 + len(beside)) + "|",
    ]  # fmt: skip
    for key, name in names.items():
        found: list[dict[str, Any]] = [next((f for f in s["figures"] if f["key"] == key), {}) for s in beside]
        unit = next((f["unit"] for f in found if f.get("unit")), "")
        lines.append(f"| {name.strip()}{f' ({unit})' if unit else ''} | " + " | ".join(map(_cell, found)) + " |")
    lines += ["", "## Make it again", "", "```bash", *commands, "```", ""]
    return "\n".join(lines)


def _cell(figure: dict[str, Any]) -> str:
    value, low, high = (figure.get(key) for key in ("value", "low", "high"))
    if value is None:
        return "–"
    return f"{value:.3g}" + (f" [{low:.3g}, {high:.3g}]" if None not in (low, high) and low != high else "")


if __name__ == "__main__":
    try:
        main()
    except MesynthError as error:
        sys.exit(f"Error: {error}")
