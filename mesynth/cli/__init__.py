"""The command line. Science lives in YAML and in the rooms; here are paths, devices and words.

A file holds the verbs about one thing; here are those about the whole: quickstart and doctor.

Rooms are imported inside the verbs that need them, so that ``--help`` answers at once.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mesynth import __version__
from mesynth.cli.corpus import card, export, fid, filter_, measure, merge, plan, submit, verify
from mesynth.cli.generators import calibrate, compare, drive, generate, render, train
from mesynth.cli.options import SEED, WORKERS
from mesynth.cli.panel import panel
from mesynth.cli.prepare import augment, prepare
from mesynth.cli.studio import studio
from mesynth.commandline import MistakeGroup, echo_json, json_option, progress_bars

if TYPE_CHECKING:
    from mesynth.store.assets import Need


@click.group(cls=MistakeGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="mesynth")
def main() -> None:
    """Micro-expression synthesis with controlled action units, exact flow, provenance and leak safety.

    New here? Run `mesynth quickstart`.
    """


@click.command(epilog="Example: mesynth doctor")
@json_option
def doctor(as_json: bool) -> None:
    """Say which weights and packages are here, where they are looked for, and what to do about the rest."""

    needs = all_needs()
    if as_json:
        echo_json([asdict(need) for need in needs])
        return
    for need in needs:
        click.echo(f"{'ok     ' if need.present else 'missing'}  {need.name} ({need.purpose})")
        click.echo(f"         looked in {need.where}")
        if not need.present:
            click.echo(f"         instead: {need.instead}\n         to mend: {need.remedy}")


@click.command(epilog="Example: mesynth quickstart --out quickstart")
@click.option("--out", type=click.Path(path_type=Path), default=Path("quickstart"), show_default=True)
@click.option("--photo", type=click.Path(path_type=Path), help="A face photo [default: scikit-image's astronaut].")
@click.option("--subjects", default=12, show_default=True, help="Rendered subjects of the embedded database.")
@SEED
@WORKERS
def quickstart(out: Path, photo: Path | None, subjects: int, seed: int, workers: int) -> None:
    """Walk the whole road on embedded data: render, prepare, generate, measure, LOSO, ablation, report.html."""
    from mesynth.quickstart import Scale, run

    with progress_bars() as bar:
        page = run(out, photo=photo, scale=Scale(subjects=subjects), seed=seed, workers=workers, progress=bar)
    click.echo(f"Open {page}")


def all_needs() -> list[Need]:
    """One row per piece, whether it is here or not."""
    from mesynth.metrics.networks import needs as quality_needs
    from mesynth.preprocess.flow import need as raft_need
    from mesynth.preprocess.landmarks import needs as landmark_needs

    return [*landmark_needs(), raft_need(), *quality_needs()]


for verb in (quickstart, render, prepare, augment, train, calibrate, plan, generate, filter_, measure, compare, doctor):
    main.add_command(verb)
for verb in (drive, fid, export, merge, submit, card, verify, panel, studio):
    main.add_command(verb)
