"""Measure, train and compare generators on one GPU within a time budget: `python scripts/train_on_gpu.py --out gpu`

Writes throughput.json (images/s and memory of every recipe in fp32, bf16 and bf16 compiled), plan.json (how many
images each run gets), runs/NAME, comparison/ and report.md. The same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
RECIPES = ("diffusion/motion_64", "gan/motion_64", "gan/flow_gan_64", "diffusion/motion_128", "diffusion/image_64")
VARIANTS = {"fp32": ("fp32", False), "bf16": ("bf16", False), "bf16+compile": ("bf16", True)}
FIRST_SHARE = 0.5
"""Share of the minutes that the first recipe gets; the others share the rest."""
RESERVE = 0.9
"""Share of a run's minutes that goes into updates; the rest is for validations, checkpoints and the start."""
SCALED = ("warmup", "half_life", "log_images", "validate_images", "checkpoint_images")
"""Keys in images, which keep their share of the run when it gets shorter or longer."""


def main(arguments: list[str] | None = None) -> int:
    """0: all done; 1: a training or the comparison failed; 2: a mistake; 130: interrupted."""
    options = parse(arguments)
    from mesynth.core.errors import MesynthError

    try:
        check_device(options.device)
        return work(options)
    except MesynthError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--recipes", default=",".join(RECIPES), help="gan/motion_64 and the like, or files; the first first"
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="of training, all recipes together")
    parser.add_argument("--variant", choices=VARIANTS, default="fp32", help="what is trained with")
    parser.add_argument("--variants", default=",".join(VARIANTS), help="what is measured")
    parser.add_argument("--set", default="", help="settings of every recipe, as 'data.identities=100 run.batch=64'")
    parser.add_argument("--updates", type=int, default=50, help="of a measurement")
    parser.add_argument("--compare", default="--subjects 16", help="options of mesynth compare")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: to try the script out")
    parser.add_argument("--cache", type=Path, help="prepared pairs [default: OUT/pairs]")
    parser.add_argument("--workers", type=int, default=0, help="processes that render, 0 for one per core")
    parser.add_argument("--dry-run", action="store_true", help="measure and plan, train nothing")
    options = parser.parse_args(arguments)
    if not options.minutes > 0:
        parser.error(f"--minutes {options.minutes:g} must be positive")
    if options.updates < 1:
        parser.error(f"--updates {options.updates} must be at least 1")
    unknown = [name for name in options.variants.split(",") if name not in VARIANTS]
    if unknown or options.variant not in options.variants.split(","):
        parser.error(f"--variants {options.variants}: choose from {', '.join(VARIANTS)}, --variant among them")
    return options


def check_device(device: str) -> None:
    """Raises ConfigError where there is no CUDA device to train on."""
    import torch

    from mesynth.core.errors import ConfigError

    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("no CUDA device is here; run this on a machine with one, or try it out with --device cpu")


def work(options: argparse.Namespace) -> int:
    """Every stage whose result is not there yet."""
    from mesynth.store.run_folder import claim_folder

    out: Path = options.out.resolve()
    files = {label(name): find(name) for name in options.recipes.split(",")}
    recipes = {name: load(file, options, options.variant) for name, file in files.items()}
    asked = {key: getattr(options, key) for key in ("recipes", "minutes", "variant", "variants", "set", "updates")}
    claim_folder(out, {"stage": "train on a GPU", "device": options.device} | asked)
    cache = (options.cache or out / "pairs").resolve()
    speeds = kept(out / "throughput.json", lambda: throughput(files, options))
    plan = kept(out / "plan.json", lambda: make_plan(recipes, speeds, options, cache))
    failed: dict[str, int] = {}
    if not options.dry_run:
        for name, planned in plan.items():
            code = mesynth(
                "train", files[name], *planned["settings"], "--out", out / "runs" / name, "--cache", cache,
                "--device", options.device, "--workers", options.workers,
            )  # fmt: skip
            if code == 130:
                raise KeyboardInterrupt
            failed |= {name: code} if code else {}
        models = [out / "runs" / name for name in plan if (out / "runs" / name / "generator").is_dir()]
        if models:
            named = ",".join(["motion-prior", *map(str, models)])
            code = mesynth("compare", "--models", named, *options.compare.split(), "--out", out / "comparison")
            failed |= {"compare": code} if code else {}
    report = report_text(speeds, plan, out, failed)
    (out / "report.md").write_text(report)
    print(report)
    return 1 if failed else 0


def find(name: str) -> Path:
    """A recipe's file."""
    known = (ROOT / "configs" / folder / f"{name}.yaml" for folder in (".", "gan"))
    return next((file for file in known if file.is_file()), Path(name)).resolve()


def label(name: str) -> str:
    """What its run is called: two rooms of recipes may use one name."""
    return Path(name).stem if Path(name).suffix else name.replace("/", "-")


def load(file: Path, options: argparse.Namespace, variant: str, *settings: str) -> Any:
    """The recipe in one of the variants."""
    from mesynth.training.config import load_recipe

    return load_recipe(file, [*options.set.split(), *variant_settings(variant), *settings])


def variant_settings(variant: str) -> list[str]:
    """As ``key=value``."""
    precision, compiled = VARIANTS[variant]
    return [f"run.precision={precision}", f"run.compile={str(compiled).lower()}"]


def kept(file: Path, make: Any) -> Any:
    """What ``file`` holds, or what ``make`` makes, which is then written to it."""
    if file.is_file():
        return json.loads(file.read_text())
    made = make()
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(made, indent=1) + "\n")
    temporary.replace(file)
    return made


# ---------------------------------------------------------------- measuring and planning


def throughput(files: dict[str, Path], options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for every recipe and variant."""
    from mesynth.training.forecast import measure

    rows = []
    for name, file in files.items():
        for variant in options.variants.split(","):
            recipe, updates = load(file, options, variant), options.updates
            measured = measure(recipe, options.device, updates=updates, warmup=max(3, updates // 5))
            rows.append({"recipe": name, "variant": variant} | measured.to_dict())
            print(f"{name} {variant}: {measured.error or f'{measured.images_per_s:,.0f} images/s'}", flush=True)
    return rows


def make_plan(
    recipes: dict[str, Any], speeds: list[dict[str, Any]], options: argparse.Namespace, cache: Path
) -> dict[str, dict[str, Any]]:
    """Images and settings of each run; pairs are rendered here, so that no run spends its minutes on it."""
    from mesynth.core.errors import ConfigError
    from mesynth.store.generator_folder import trained_family
    from mesynth.training.forecast import preparation

    speed = {row["recipe"]: row for row in speeds if row["variant"] == options.variant}
    plan = {}
    for place, (name, recipe) in enumerate(recipes.items()):
        if name not in speed or not speed[name]["images_per_s"]:
            why = speed[name]["error"] if name in speed else "it was not measured; remove throughput.json"
            raise ConfigError(f"{name} cannot be trained with --variant {options.variant}: {why}")
        others = len(recipes) - 1
        share = 1.0 if not others else FIRST_SHARE if place == 0 else (1 - FIRST_SHARE) / others
        source = trained_family(recipe.task).source
        pairs, _ = source.open(recipe.data, cache=cache, seed=recipe.run.seed, workers=options.workers)
        prepared = preparation(pairs, recipe.run.batch, recipe.run.prefetch)
        rate = min(speed[name]["images_per_s"], prepared)
        minutes = share * options.minutes
        images = max(int(RESERVE * 60 * minutes * rate) // recipe.run.batch, 1) * recipe.run.batch
        plan[name] = {
            "minutes": minutes, "images": images, "images_per_s": rate, "prepared_per_s": prepared,
            "settings": [*options.set.split(), *variant_settings(options.variant), *scaled(recipe.run, images)],
        }  # fmt: skip
    return plan


def scaled(run: Any, images: int) -> list[str]:
    """``run.images`` and the keys that go with it."""
    ratio = images / run.images
    made = replace(run, warmup=0, images=images)
    out = {"images": images}
    for key in SCALED:
        value = round(getattr(run, key) * ratio)
        least = 0 if getattr(run, key) == 0 or key == "warmup" else made.batch
        out[key] = min(max(value, least), images)
    return [f"run.{key}={value}" for key, value in out.items()]


# ---------------------------------------------------------------- carrying out and telling


def mesynth(*words: object) -> int:
    """``mesynth WORDS`` in a process of its own; its exit status."""
    print("+ mesynth", *words, flush=True)
    try:
        return subprocess.run([sys.executable, "-m", "mesynth", *map(str, words)], cwd=ROOT, check=False).returncode
    except KeyboardInterrupt:
        return 130


def report_text(
    speeds: list[dict[str, Any]], plan: dict[str, dict[str, Any]], out: Path, failed: dict[str, int]
) -> str:
    """Markdown of everything there is."""
    from mesynth.training.record import read_metrics

    lines = ["# Throughput", "", "| recipe | variant | batch | images/s | GPU memory, MiB |", "|---|---|---|---|---|"]
    for row in speeds:
        memory = "" if row["memory"] is None else f"{row['memory'] / 2**20:,.0f}"
        rate = row["error"] or f"{row['images_per_s']:,.1f}"
        lines.append(f"| {row['recipe']} | {row['variant']} | {row['batch']} | {rate} | {memory} |")
    lines += ["", "# Runs", "", "| run | minutes | images | pairs prepared/s | seconds trained | validation |"]
    lines += ["|---|---|---|---|---|---|"]
    for name, planned in plan.items():
        told = read_metrics(out / "runs" / name)
        seconds = next((f"{line['seconds']:,.0f}" for line in told[::-1] if line["kind"] == "train"), "")
        last = next((line for line in told[::-1] if line["kind"] == "validation"), {"measures": {}})
        figures = ", ".join(f"{k} {v:.4g}" for k, v in last["measures"].items() if v is not None)
        cells = (
            name, f"{planned['minutes']:.3g}", f"{planned['images']:,}", f"{planned['prepared_per_s']:,.0f}", seconds,
            f"failed (exit status {failed[name]})" if name in failed else figures,
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    if (out / "comparison" / "compare.json").is_file():
        lines += ["", "The comparison is in comparison/ (compare.json, compare.csv, sheet.png)."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
