"""The verb that gives a trained generator its gains."""

from __future__ import annotations

from pathlib import Path

import click

from mesynth.cli.options import OUT, SEED, au_codes, numbers
from mesynth.clickutils import echo_json, json_option, progress_bars


@click.command(epilog="Example: mesynth calibrate runs/d --people 8 --out runs/d-calibrated")
@click.argument("model")
@click.option("--people", default=8, show_default=True, help="Validation people to fit on; as many others check it.")
@click.option("--aus", default="", show_default="all", help="AUs to calibrate, separated by commas.")
@click.option("--levels", default="", show_default="0.1,0.25,0.5,0.75,1", help="Intensities to ask for; the last is 1.")
@SEED
@OUT
@json_option
def calibrate(model: str, people: int, aus: str, levels: str, seed: int, out: Path, as_json: bool) -> None:
    """Write a copy of a trained generator that shows AUs as strongly as they are asked for.

    Each AU gets a gain that brings what the AU judge reads off its clips nearest to what it reads off rendered people.
    Options of the model (runs/d@steps=8) hold while it is measured; give the same ones when it is used.
    """
    from dataclasses import asdict

    from mesynth.corpus.models import find_model
    from mesynth.quality.calibrate import CalibrationConfig
    from mesynth.quality.calibrate import calibrate as run

    settings: dict[str, tuple[float, ...]] = {}
    if aus:
        settings["codes"] = au_codes(aus)
    if levels:
        settings["levels"] = numbers(levels, "--levels")
    config = CalibrationConfig(people=people, seed=seed, **settings)  # type: ignore[arg-type]
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
        f"before and {after:.3f} after (judged intensity, mean over these AUs). Written: {out}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
