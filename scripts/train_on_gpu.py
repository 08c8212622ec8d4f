"""Test, measure, train and compare generators on one GPU: `python scripts/train_on_gpu.py --out gpu`

Writes tests.txt (`pytest -m cuda`: CUDA against the CPU), generation.json (clips a second of the generators on the GPU,
in fp32 and bf16, beside the CPU), throughput.json (training: images/s and memory of every recipe in fp32, bf16 and bf16
compiled), plan.json (how many images each run gets), runs/NAME, comparison/ and report.md. The same command goes on
where it was stopped. `--within 10` does all of it in one call of ten minutes, trains the first recipe on fewer people,
and leaves out what does not fit, which it says; `--rehearse` goes through every stage on the CPU in the smallest form.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
RECIPES = (
    "diffusion/motion_64", "gan/motion_64", "gan/flow_gan_64", "diffusion/motion_128", "diffusion/image_64",
    "diffusion/image_128",
)  # fmt: skip
VARIANTS = {"fp32": ("fp32", False), "bf16": ("bf16", False), "bf16+compile": ("bf16", True)}
FIRST_SHARE = 0.5
"""Share of the minutes that the first recipe gets; the others share the rest."""
RESERVE = 0.9
"""Share of a run's minutes that goes into updates; the rest is for validations, checkpoints and the start."""
MODELS = "motion-prior,motion_gan,motion_diffusion,motion_diffusion_fast"
TESTS = (
    "tests/motion/test_batched.py", "tests/generators", "tests/cli/test_devices.py", "tests/preprocess",
    "tests/training/test_throughput.py", "tests/recognizer/test_networks.py",
)  # fmt: skip
"""Where tests marked ``cuda`` are."""
SHARES = {"tests": 0.25, "generation": 0.25, "throughput": 0.2, "train": 0.6}
"""Of the time that is left when a stage begins, with --within."""
REHEARSAL = {
    "device": "cpu", "recipes": "motion_tiny", "models": "motion-prior,motion_gan", "variants": "fp32,bf16",
    "updates": 2, "minutes": 0.02, "clips": 4, "workers": 1,
    "compare": "--subjects 2 --size 64 --aus 12 --levels 1 --samples 2",
    "set": "data.identities=2 data.per_identity=4 data.validation_identities=1 run.validation=2",
    "tests": "tests/motion/test_batched.py",
}  # fmt: skip
BRIEF = {
    "updates": 20, "set": "data.identities=60 data.validation_identities=8",
    "compare": "--subjects 4 --aus 4,12 --levels 0.5,1",
}  # fmt: skip
"""What --within means unless it is said otherwise."""
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
    out = os.environ.get("OUT")
    parser.add_argument("--out", type=Path, default=out, required=out is None, help="[default: $OUT, if it is set]")
    parser.add_argument("--within", type=float, default=0.0, help="minutes of the whole call; 0: as long as it takes")
    parser.add_argument("--rehearse", action="store_true", help="every stage on the CPU, in the smallest form")
    parser.add_argument("--models", default=MODELS, help="whose generation is measured; '' for none")
    parser.add_argument("--clips", type=int, default=64, help="of a measurement of generation")
    parser.add_argument("--tests", default=" ".join(TESTS), help="files of tests marked cuda; '' for none")
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
    given = {word.split("=")[0].lstrip("-").replace("-", "_") for word in (arguments or sys.argv[1:])}
    usual = REHEARSAL if options.rehearse else BRIEF if options.within > 0 else {}
    vars(options).update({name: value for name, value in usual.items() if name not in given})
    if options.within < 0:
        parser.error(f"--within {options.within:g} must not be negative")
    if options.clips < 1:
        parser.error(f"--clips {options.clips} must be at least 1")
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
    clock = Clock(options.within)
    files = {label(name): find(name) for name in options.recipes.split(",")}
    recipes = {name: load(file, options, options.variant) for name, file in files.items()}
    asked = {
        key: getattr(options, key)
        for key in ("recipes", "minutes", "variant", "variants", "set", "updates", "models", "clips", "tests", "within")
    }
    claim_folder(out, {"stage": "train on a GPU", "device": options.device} | asked)
    cache = (options.cache or out / "pairs").resolve()
    told: dict[str, Any] = {"machine": machine(options.device)}
    failed: dict[str, int] = {}
    if options.tests:
        told["tests"] = kept(out / "tests.json", lambda: run_tests(out, options, clock.until("tests")))
        failed |= {"tests": told["tests"]["code"]} if told["tests"]["code"] else {}
    if options.models:
        told["generation"] = kept(out / "generation.json", lambda: generation(out, options, clock.until("generation")))
    speeds = kept(out / "throughput.json", lambda: throughput(files, options, clock.until("throughput")))
    measured = [row["recipe"] for row in speeds if row["variant"] == options.variant]
    recipes = {name: recipe for name, recipe in recipes.items() if name in measured}
    if clock.limited:  # one training, and no longer than there is time
        recipes = dict(list(recipes.items())[:1])
        options.minutes = min(options.minutes, SHARES["train"] * clock.left() / 60)
    plan = kept(out / "plan.json", lambda: make_plan(recipes, speeds, options, cache))
    if not options.dry_run:
        for name, planned in plan.items():
            code = mesynth(
                "train", files[name], *planned["settings"], "--out", out / "runs" / name, "--cache", cache,
                "--device", options.device, "--workers", options.workers,
                seconds=clock.left() if clock.limited else None,
            )  # fmt: skip
            if code == 130:
                raise KeyboardInterrupt
            failed |= {name: code} if code else {}
        models = [out / "runs" / name for name in plan if (out / "runs" / name / "generator").is_dir()]
        if models:
            named = ",".join(["motion-prior", *map(str, models)])
            words = ("compare", "--models", named, *options.compare.split(), "--device", options.device)
            code = mesynth(*words, "--out", out / "comparison", seconds=clock.left() if clock.limited else None)
            told["compare"] = "the comparison did not fit into --within" if code == TOO_LONG else ""
            failed |= {"compare": code} if code not in (0, TOO_LONG) else {}
    report = report_text(told, speeds, plan, out, failed)
    (out / "report.md").write_text(report)
    print(report)
    return 1 if failed else 0


TOO_LONG = -1
"""Of a command that was stopped when its time was over."""


class Clock:
    """How much of the call's minutes is left."""

    def __init__(self, minutes: float) -> None:
        self.limited = minutes > 0
        self._end = time.monotonic() + 60 * minutes if self.limited else float("inf")

    def left(self) -> float:
        """Seconds; at least 1, so that what is begun says itself that it had no time."""
        return max(self._end - time.monotonic(), 1.0)

    def until(self, stage: str) -> float:
        """When a stage has to end that begins now (time.monotonic)."""
        return time.monotonic() + SHARES[stage] * self.left()


def machine(device: str) -> str:
    """What all this was measured on."""
    import torch

    gpu = torch.cuda.get_device_name() if device == "cuda" else "no GPU in use"
    return f"{gpu}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}"


def run_tests(out: Path, options: argparse.Namespace, end: float) -> dict[str, Any]:
    """Tests that compare CUDA with the CPU; what they say is in tests.txt."""
    words = [sys.executable, "-m", "pytest", "-m", "cuda", "-p", "no:cacheprovider", *options.tests.split()]
    limit = None if end == float("inf") else max(end - time.monotonic(), 1.0)
    print("+ pytest -m cuda", options.tests, flush=True)
    try:
        done = subprocess.run(words, cwd=ROOT, check=False, text=True, capture_output=True, timeout=limit)
    except subprocess.TimeoutExpired as stopped:
        said = stopped.stdout or b""
        (out / "tests.txt").write_text(said.decode() if isinstance(said, bytes) else said)
        return {"code": 0, "said": f"stopped after {limit:.0f} s; what had run is in tests.txt"}
    (out / "tests.txt").write_text(done.stdout + done.stderr)
    last = (done.stdout.strip().splitlines() or done.stderr.strip().splitlines() or ["pytest said nothing"])[-1]
    return {"code": 0 if done.returncode == 5 else done.returncode, "said": last}  # 5: none was marked


def generation(out: Path, options: argparse.Namespace, end: float) -> list[dict[str, Any]]:
    """A row for every generator and way to run it: clips a second with start-up, and where a clip's milliseconds go."""
    faces = rendered_faces(out / "faces")
    ways = [("cpu", "fp32", 1)]
    if options.device != "cpu":
        cores = os.cpu_count() or 1
        ways = [
            (options.device, "fp32", 1),
            (options.device, "bf16", 1),
            (options.device, "fp32", min(cores, 8)),
            *ways,
        ]
    ways = list(dict.fromkeys(ways))  # one core: there is no second number of workers
    rows: list[dict[str, Any]] = []
    warm = ("generate", "--faces", faces / "p0.png", "--landmarker", faces / "points.npz", "--au", "12=B")
    mesynth(*warm, "--workers", 1, "--preview", 0, "--out", out / "generated" / "warm-up")  # kernels are compiled once
    for model in options.models.split(","):
        for device, precision, workers in ways:
            if precision != "fp32" and model in ("motion-prior", "landmark-mean"):
                continue
            row = {"model": model, "device": device, "precision": precision, "workers": workers}
            if time.monotonic() > end:
                rows.append(row | {"error": "left out, the time was over"})
                continue
            made = out / "generated" / f"{label(model)}-{device}-{precision}-{workers}"
            code = mesynth(
                "generate", "--faces", faces, "--landmarker", faces / "points.npz", "--emotion",
                "surprise,positive,negative", "--count", options.clips, "--noise", 1.5, "--blink", 0.3,
                "--model", model,
                "--device", device, "--precision", precision, "--workers", workers, "--preview", 0, "--out", made,
                seconds=None if end == float("inf") else max(end - time.monotonic(), 1.0) + 30,
            )  # fmt: skip
            if code == 130:
                raise KeyboardInterrupt
            if code or not (made / "throughput.json").is_file():
                rows.append(row | {"error": f"exit status {code}"})
                continue
            speed = json.loads((made / "throughput.json").read_text())
            busy = sum(speed["all"][part] for part in ("model", "warp", "encode", "write", "other"))
            rows.append(
                row
                | {
                    "clips_per_s": speed["clips_per_second"], "ms_a_clip": 1000 * busy / speed["all"]["clips"],
                    "load_s": speed["all"]["load"], "shares": speed["shares"], "error": "",
                }
            )  # fmt: skip
    return rows


def rendered_faces(folder: Path) -> Path:
    """Pictures of four rendered people with their exact landmarks: no detector is asked."""
    import cv2
    import numpy as np

    from mesynth.core.facs import AU_CODES
    from mesynth.head import Subject

    folder.mkdir(parents=True, exist_ok=True)
    still, points = np.zeros((len(AU_CODES), 2), np.float32), {}
    for seed in range(4):
        person = Subject(seed, 256, frontal=True)
        cv2.imwrite(str(folder / f"p{seed}.png"), person.render(still[None])[0][..., ::-1])
        points[f"p{seed}.png"] = np.asarray(person.landmarks(still), np.float32)
    np.savez(folder / "points.npz", **points)  # type: ignore[arg-type]
    return folder


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


def throughput(files: dict[str, Path], options: argparse.Namespace, end: float = float("inf")) -> list[dict[str, Any]]:
    """A row for every recipe and variant that there was time for: the first recipe at all events."""
    from mesynth.training.forecast import measure

    rows = []
    for name, file in files.items():
        for variant in options.variants.split(","):
            if rows and time.monotonic() > end and (name, variant) != (next(iter(files)), options.variant):
                continue
            recipe, updates = load(file, options, variant), options.updates
            measured = measure(recipe, options.device, updates=updates, warmup=max(3, updates // 5))
            rows.append({"recipe": name, "variant": variant} | measured.to_dict())
            print(f"{name} {variant}: {measured.error or f'{measured.images_per_s:,.0f} images/s'}", flush=True)
    return rows


def make_plan(
    recipes: dict[str, Any], speeds: list[dict[str, Any]], options: argparse.Namespace, cache: Path
) -> dict[str, dict[str, Any]]:
    """Images and settings of each run; pairs are rendered here, and frames in layers formed, so that no run spends its
    minutes on it."""
    from mesynth.core.errors import ConfigError
    from mesynth.store.generator_folder import trained_family
    from mesynth.training.checkpoint import open_initial
    from mesynth.training.forecast import preparation
    from mesynth.training.loop import build_task

    speed = {row["recipe"]: row for row in speeds if row["variant"] == options.variant}
    plan = {}
    for place, (name, recipe) in enumerate(recipes.items()):
        if name not in speed or not speed[name]["images_per_s"]:
            why = speed[name]["error"] if name in speed else "it was not measured; remove throughput.json"
            raise ConfigError(f"{name} cannot be trained with --variant {options.variant}: {why}")
        others = len(recipes) - 1
        share = 1.0 if not others else FIRST_SHARE if place == 0 else (1 - FIRST_SHARE) / others
        source = trained_family(recipe.task).source
        task = build_task(recipe, open_initial(recipe))
        opened = source.open(recipe.data, cache=cache, seed=recipe.run.seed, workers=options.workers)
        pairs, _ = (task.prepared(each, cache, workers=options.workers) for each in opened)
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


def mesynth(*words: object, seconds: float | None = None) -> int:
    """``mesynth WORDS`` in a process of its own; its exit status, TOO_LONG where it was stopped after ``seconds``."""
    print("+ mesynth", *words, flush=True)
    command = [sys.executable, "-m", "mesynth", *map(str, words)]
    try:
        return subprocess.run(command, cwd=ROOT, check=False, timeout=seconds).returncode
    except subprocess.TimeoutExpired:
        return TOO_LONG
    except KeyboardInterrupt:
        return 130


def report_text(
    told: dict[str, Any],
    speeds: list[dict[str, Any]],
    plan: dict[str, dict[str, Any]],
    out: Path,
    failed: dict[str, int],
) -> str:
    """Markdown of everything there is."""
    from mesynth.training.record import read_metrics

    lines = ["# Machine", "", told["machine"], ""]
    if "tests" in told:
        lines += ["# Tests on CUDA", "", told["tests"]["said"], ""]
    if "generation" in told:
        lines += ["# Generation", "", "| model | device | precision | workers | clips/s | ms a clip | most of it |"]
        lines += ["|---|---|---|---|---|---|---|"]
        for row in told["generation"]:
            cells = ["", row["error"], ""]
            if not row["error"]:
                most = max(row["shares"], key=row["shares"].get)
                share = f"{most} {100 * row['shares'][most]:.0f} %"
                cells = [f"{row['clips_per_s']:.1f}", f"{row['ms_a_clip']:.1f}", share]
            lines.append(
                f"| {row['model']} | {row['device']} | {row['precision']} | {row['workers']} | {' | '.join(cells)} |"
            )
        lines.append("")
    lines += ["# Training", "", "| recipe | variant | batch | images/s | GPU memory, MiB |", "|---|---|---|---|---|"]
    for row in speeds:
        memory = "" if row["memory"] is None else f"{row['memory'] / 2**20:,.0f}"
        rate = row["error"] or f"{row['images_per_s']:,.1f}"
        lines.append(f"| {row['recipe']} | {row['variant']} | {row['batch']} | {rate} | {memory} |")
    lines += ["", "# Runs", "", "| run | minutes | images | pairs prepared/s | seconds trained | validation |"]
    lines += ["|---|---|---|---|---|---|"]
    for name, planned in plan.items():
        metrics = read_metrics(out / "runs" / name)
        seconds = next((f"{line['seconds']:,.0f}" for line in metrics[::-1] if line["kind"] == "train"), "")
        last = next((line for line in metrics[::-1] if line["kind"] == "validation"), {"measures": {}})
        figures = ", ".join(f"{k} {v:.4g}" for k, v in last["measures"].items() if v is not None)
        cells = (
            name, f"{planned['minutes']:.3g}", f"{planned['images']:,}", f"{planned['prepared_per_s']:,.0f}", seconds,
            f"failed (exit status {failed[name]})" if name in failed else figures,
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    if told.get("compare"):
        lines += ["", told["compare"]]
    if (out / "comparison" / "compare.json").is_file():
        lines += ["", "The comparison is in comparison/ (compare.json, compare.csv, sheet.png)."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
