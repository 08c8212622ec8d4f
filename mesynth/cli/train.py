"""The verb that trains generators."""

from __future__ import annotations

from pathlib import Path

import click

from mesynth.cli.options import OUT
from mesynth.clickutils import dry_run_option, json_option, progress_bars, show_result, translate
from mesynth.errors import MesynthError


@click.command(
    epilog="""\b
Examples:
  mesynth train configs/gan/motion_64.yaml --out runs/motion64
  mesynth train configs/gan/motion_64.yaml run.batch=64 --dry-run --out runs/b64
  torchrun --standalone --nproc_per_node 4 -m mesynth train configs/gan/motion_64.yaml --out runs/m"""
)
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("settings", nargs=-1, metavar="[key=value]...")
@OUT
@click.option("--exclude-subjects", default="", help="Held-out subjects: casme2/sub01,samm/006.")
@click.option("--cross-fit", default=0, metavar="G", help="Train G generators; each subject is new to one.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--cache", type=click.Path(path_type=Path), help="Prepared pairs [default: pairs/ in $MESYNTH_CACHE].")
@click.option("--workers", default=0, show_default="one per core", help="Processes that prepare pairs the first time.")
@click.option("--tracker", multiple=True, help="Also log to tensorboard, wandb, mlflow ... (if installed); repeatable.")
@dry_run_option
@json_option
def train(
    config: Path,
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
    """Train a generator from a YAML recipe; key=value settings override it. The same command resumes.

    Runs under torchrun and accelerate launch, on one node or many; the batch is that of all processes together.
    """
    from mesynth.training.processes import launched_rank

    rank = launched_rank()
    excluded = tuple(name.strip() for name in exclude_subjects.split(",") if name.strip())
    try:
        result = _train(
            config, settings, out, excluded, cross_fit, device, cache, workers, tracker, dry_run, bars=rank == 0
        )
    except MesynthError as error:
        if rank == 0:
            raise
        try:  # one line for all processes: the first one's
            translate(error)
        except click.ClickException as shown:
            raise SystemExit(shown.exit_code) from None
    if rank == 0:
        show_result(result, as_json)


def _train(
    config: Path,
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
    from mesynth.training.config import load_recipe
    from mesynth.training.train import Machine, Trained
    from mesynth.training.train import cross_fit as run_groups
    from mesynth.training.train import train as run_one

    recipe = load_recipe(config, settings)
    if dry_run:
        from mesynth.training.memory import forecast
        from mesynth.training.processes import launched_count

        shown = forecast(recipe, launched_count()).to_dict()
        return {"task": recipe.task, "out": str(out), **({"runs": groups} if groups else {}), **shown}
    machine = Machine(device=device, cache=cache, workers=workers, trackers=trackers)
    with progress_bars(lines=bars) as bar:
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
