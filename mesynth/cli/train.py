"""Verbs about generators: train them, calibrate one, compare them."""

from __future__ import annotations

from pathlib import Path

import click

from mesynth.cli.options import EXCLUDE, OUT, SEED, SETTINGS, au_codes, numbers, subject_keys
from mesynth.commandline import (
    Verb,
    dry_run_option,
    echo_json,
    json_option,
    list_recipes_option,
    progress_bars,
    show_result,
    translate,
)
from mesynth.core.errors import MesynthError


@click.command(
    cls=Verb,
    former={"--set": ""},
    epilog="""\b
Examples:
  mesynth train gan/motion_64 --out runs/motion64
  mesynth train gan/motion_64 run.batch=64 --dry-run --out runs/b64
  torchrun --standalone --nproc_per_node 4 -m mesynth train gan/motion_64 --out runs/m
  accelerate launch --multi_gpu --num_processes 4 -m mesynth train gan/motion_64 --out runs/m""",
)
@click.argument("recipe")
@SETTINGS
@OUT
@EXCLUDE
@click.option("--cross-fit", default=0, metavar="G", help="Train G generators; each subject is new to one.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--cache", type=click.Path(path_type=Path), help="Prepared pairs [default: pairs/ in $MESYNTH_CACHE].")
@click.option(
    "--workers", type=click.IntRange(min=0), default=0, show_default="one per core",
    help="Processes that prepare pairs the first time.",
)  # fmt: skip
@click.option("--tracker", multiple=True, help="Also log to tensorboard, wandb, mlflow ... (if installed); repeatable.")
@list_recipes_option("gan", "diffusion")
@dry_run_option
@json_option
def train(
    recipe: str,
    settings: tuple[str, ...],
    out: Path,
    exclude_subjects: str,
    cross_fit: int,
    device: str,
    cache: Path | None,
    workers: int,
    tracker: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Train a generator by RECIPE, a YAML file or a name (--list); key=value settings override it.

    The same command resumes.

    Runs under torchrun and accelerate launch, with and without GPUs, on one node or many; the batch is that of all
    processes together.
    """
    from mesynth.core.process import launched

    rank, _ = launched()
    excluded = subject_keys(exclude_subjects)
    try:
        result = _train(
            recipe, settings, out, excluded, cross_fit, device, cache, workers, tracker, dry_run, bars=rank == 0
        )
    except MesynthError as error:
        if rank == 0 or type(error).__name__ == "ProcessLost":  # by name: no torch for the sake of a message
            raise
        try:  # one line for all processes: the first one's
            translate(error)
        except click.ClickException as shown:
            raise SystemExit(shown.exit_code) from None
    if rank == 0:
        show_result(result, as_json)


def _train(
    name: str,
    settings: tuple[str, ...],
    out: Path,
    excluded: tuple[str, ...],
    groups: int,
    device: str,
    cache: Path | None,
    workers: int,
    trackers: tuple[str, ...],
    dry_run: bool,
    *,
    bars: bool,
) -> dict[str, object]:
    from mesynth.api import load_training_recipe
    from mesynth.core.process import launched
    from mesynth.training.train import Machine, Trained
    from mesynth.training.train import cross_fit as run_groups
    from mesynth.training.train import train as run_one

    recipe = load_training_recipe(name, settings)
    if dry_run:
        from mesynth.training.forecast import forecast

        shown = forecast(recipe, launched()[1]).to_dict()
        return {"task": recipe.task, "out": str(out), **({"runs": groups} if groups else {}), **shown}
    machine = Machine(device=device, cache=cache, workers=workers, trackers=trackers)
    with progress_bars(shown=bars) as bar:
        shown_bars = bar if bars else None
        if groups:
            made = run_groups(recipe, out, groups, exclude_subjects=excluded, machine=machine, progress=shown_bars)
        else:
            made = [run_one(recipe, out, exclude_subjects=excluded, machine=machine, progress=shown_bars)]
    last: Trained = made[-1]
    generators = [str(one.folder / "generator") for one in made]
    return {
        "out": str(out),
        "generator": generators[0] if len(generators) == 1 else ", ".join(generators),
        "images": last.images,
        "subjects": len(last.subjects_seen),
        "figures": {name: round(value, 5) for name, value in last.figures.items() if value is not None},
    }


# ------------------------------------------------------------------- calibrate


@click.command(
    cls=Verb,
    former={"--people": "--subjects"},
    epilog="Example: mesynth calibrate runs/d --subjects 8 --out runs/d-calibrated",
)
@click.argument("model")
@click.option("--subjects", default=8, show_default=True, help="Validation people to fit on; as many others check it.")
@click.option("--aus", default="", show_default="all", help="AUs to calibrate, separated by commas.")
@click.option("--levels", default="", show_default="0.1,0.25,0.5,0.75,1", help="Target intensities; the last is 1.")
@SEED
@OUT
@json_option
def calibrate(model: str, subjects: int, aus: str, levels: str, seed: int, out: Path, as_json: bool) -> None:
    """Write a copy of a trained generator that shows AUs as strongly as their targets.

    Each AU gets a gain that brings what the AU judge reads off its clips nearest to what it reads off rendered people.
    Options of the model (runs/d@steps=8) hold while it is measured; give the same ones when it is used.
    """
    from dataclasses import asdict

    from mesynth.benchmark.calibrate import CalibrationConfig
    from mesynth.benchmark.calibrate import calibrate as run
    from mesynth.generators.registry import find_model

    settings: dict[str, tuple[float, ...]] = {}
    if aus:
        settings["codes"] = au_codes(aus)
    if levels:
        settings["levels"] = numbers(levels, "--levels")
    config = CalibrationConfig(people=subjects, seed=seed, **settings)  # type: ignore[arg-type]
    with progress_bars() as bar:
        made = run(find_model(model), out, config, progress=bar("calibrate"))
    before, after = made.error
    if as_json:
        echo_json({"out": str(out), "error_before": before, "error_after": after} | asdict(made))
        return
    from rich.console import Console

    console = Console()
    console.print(made.table())
    changed = len([f for f in made.fitted if f.gain != f.previous])
    console.print(
        f"{changed} AUs have a new gain; on {len(made.checked)} other people they lie {before:.3f} from the truth "
        f"before and {after:.3f} after (measured intensity, mean over these AUs). Written: {out}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


# ------------------------------------------------------------------- compare


@click.command(
    cls=Verb,
    former={"--people": "--subjects"},
    epilog="Example: mesynth compare --models motion-prior,runs/a --subjects 8 --out comparison",
)
@click.option(
    "--models",
    default="",
    show_default="motion-prior and every shipped model",
    help="Models and folders that training wrote, separated by commas, options after @: runs/d@steps=4,runs/d@steps=8.",
)
@click.option("--subjects", default=8, show_default=True, help="Rendered people that no generator learned from.")
@click.option("--size", default=128, show_default=True, help="Side of the crops, pixels.")
@click.option("--aus", default="", show_default="all", help="Target AUs, separated by commas.")
@click.option("--levels", default="", show_default="0.1,0.25,0.5,0.75,1", help="Target intensities.")
@click.option(
    "--head",
    type=click.Path(path_type=Path),
    show_default="the packaged head",
    help="npz of another blendshape head whose people are compared on (its arrays: docs/compare.md).",
)
@click.option("--yaw", default=0.0, show_default=True, help="Degrees that every head is turned to image right.")
@click.option("--pitch", default=0.0, show_default=True, help="Degrees that every head is turned down.")
@click.option(
    "--samples",
    default=4,
    show_default=True,
    help="Seeds whose flows are compared; the truth lies in the range of N with a chance of (N-1)/(N+1) at best.",
)
@SEED
@OUT
@json_option
def compare(
    models: str, subjects: int, size: int, aus: str, levels: str, head: Path | None, yaw: float, pitch: float,
    samples: int, seed: int, out: Path, as_json: bool,
) -> None:  # fmt: skip
    """Compare generators on rendered people: flow against exact flow, AU control, identity, pictures, diversity, speed.

    Every figure has a 95% interval over people; the rendered truth stands beside it. The same command again resumes.
    """
    from mesynth.api import compare as run

    codes = au_codes(aus) if aus else ()
    targets = numbers(levels, "--levels") if levels else ()
    with progress_bars() as bar:
        result = run(
            models,
            out,
            subjects=subjects,
            size=size,
            aus=codes,
            levels=targets,
            head=head,
            yaw=yaw,
            pitch=pitch,
            samples=samples,
            seed=seed,
            progress=bar("compare"),
        )
    if as_json:
        echo_json(result.to_dict())
        return
    from rich.console import Console

    console = Console()
    console.print(result.table())
    console.print(result.likeness_table())
    console.print(result.au_table())
    for line in result.lines():
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(f"Written: {out}/compare.json, compare.csv, sheet.png", highlight=False)
