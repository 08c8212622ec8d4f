"""The verb augment: classic copies of prepared clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mesynth.cli.options import OUT, SEED, WORKERS, summary
from mesynth.clickutils import dry_run_option, json_option, progress_bars, show_result


@click.command(
    epilog="""\b
Example: mesynth augment --manifest prepared/casme2 --copies 3 --ratios 0.7,1,1.5 --keep 0.8 --out augmented"""
)
@click.option("--manifest", type=click.Path(path_type=Path), required=True, help="A prepared or generated folder.")
@click.option("--copies", default=1, show_default=True, help="Copies of each clip.")
@click.option("--flip", default=0.5, show_default=True, help="Probability of mirroring (u changes sign, sides swap).")
@click.option("--rotation", default=8.0, show_default=True, help="Largest rotation, degrees (flow turns along).")
@click.option("--scale", default=1.08, show_default=True, help="Largest enlargement; its inverse is the smallest.")
@click.option("--shift", default=4.0, show_default=True, help="Largest shift, pixels.")
@click.option("--brightness", default=0.08, show_default=True, help="Largest change, of a range of 1.")
@click.option("--contrast", default=1.2, show_default=True, help="Largest factor.")
@click.option("--gamma", default=1.2, show_default=True, help="Largest exponent.")
@click.option("--noise", default=0.01, show_default=True, help="Largest standard deviation, of a range of 1.")
@click.option("--ratios", default="1", show_default=True, help="Motion magnified by these in turn: 0.7,1,1.5.")
@click.option("--keep", default=1.0, show_default=True, help="Share of the frames that stay (key frames always do).")
@SEED
@OUT
@WORKERS
@dry_run_option
@json_option
def augment(
    manifest: Path,
    copies: int,
    ratios: str,
    keep: float,
    seed: int,
    out: Path,
    workers: int,
    dry_run: bool,
    as_json: bool,
    **ranges: Any,
) -> None:
    """Copy prepared clips with classic augmentation that knows about flow.

    A copy carries its subject: use it with mix.leak=zero-weight, so that no fold learns from its held-out person.
    """
    from mesynth.manifest import Manifest
    from mesynth.preprocess.augment import AugmentConfig
    from mesynth.preprocess.augmented import CopiesConfig
    from mesynth.preprocess.augmented import augment as run

    config = CopiesConfig(
        copies=copies, change=AugmentConfig(**ranges), ratios=_numbers(ratios), keep=keep, seed=seed
    )  # fmt: skip
    source = Manifest.read(manifest)
    if dry_run:
        click.echo(f"would write {len(source) * copies} copies of {len(source)} clips into {out}")
        return
    with progress_bars() as bar:
        made = run(source, out, config, workers=workers, progress=bar("copies"))
    show_result(summary(made, out), as_json)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise click.BadParameter(f"'{text}' is no list of numbers such as 0.7,1,1.5") from None
