"""The verb that sets generators side by side."""

from __future__ import annotations

from pathlib import Path

import click

from mesynth.cli.options import OUT, SEED, au_codes, numbers
from mesynth.clickutils import echo_json, json_option, progress_bars


@click.command(epilog="Example: mesynth compare --models motion-prior,runs/a --people 8 --out comparison")
@click.option(
    "--models",
    default="",
    show_default="motion-prior and every shipped model",
    help="Models and folders that training wrote, separated by commas, options after @: runs/d@steps=4,runs/d@steps=8.",
)
@click.option("--people", default=8, show_default=True, help="Rendered people that no generator learned from.")
@click.option("--size", default=128, show_default=True, help="Side of the crops, pixels.")
@click.option("--aus", default="", show_default="all", help="AUs to ask for, separated by commas.")
@click.option("--levels", default="", show_default="0.1,0.25,0.5,0.75,1", help="Intensities to ask for.")
@SEED
@OUT
@json_option
def compare(
    models: str, people: int, size: int, aus: str, levels: str, seed: int, out: Path, as_json: bool
) -> None:  # fmt: skip
    """Compare generators on rendered people: flow against exact flow, AU control, identity, pictures, diversity, speed.

    Every figure has a 95% interval over people; the rendered truth stands beside it. The same command again resumes.
    """
    from mesynth.corpus.models import split_models
    from mesynth.quality.contest.entrants import default_models, enter
    from mesynth.quality.contest.requests import ContestConfig
    from mesynth.quality.contest.run import compare as run

    settings: dict[str, tuple[float, ...]] = {}
    if aus:
        settings["codes"] = au_codes(aus)
    if levels:
        settings["levels"] = numbers(levels, "--levels")
    config = ContestConfig(people=people, size=size, seed=seed, **settings)  # type: ignore[arg-type]
    names = split_models(models) or default_models()
    with progress_bars() as bar:
        result = run(enter(names), config, out, progress=bar("compare"))
    if as_json:
        echo_json(result.to_dict())
        return
    from rich.console import Console

    console = Console()
    console.print(result.table())
    console.print(result.au_table())
    for line in result.lines():
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(f"Written: {out}/compare.json, compare.csv, sheet.png", highlight=False)
