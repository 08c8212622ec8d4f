"""The command line. Science lives in YAML and in the rooms; here are paths, devices and words.

Rooms are imported inside the verbs that need them, so that ``--help`` answers at once.
"""

from __future__ import annotations

import click

from mesynth import __version__
from mesynth.cli.corpus import card, export, filter_, plan, verify
from mesynth.cli.generate import generate, render
from mesynth.cli.prepare import augment, prepare
from mesynth.cli.report import doctor, fid, measure, quickstart
from mesynth.cli.studio import studio
from mesynth.cli.train import calibrate, compare, train
from mesynth.commandline import MistakeGroup


@click.group(cls=MistakeGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="mesynth")
def main() -> None:
    """Micro-expression synthesis with controlled action units, exact flow, provenance and leak safety.

    New here? Run `mesynth quickstart`.
    """


for verb in (quickstart, render, prepare, augment, train, calibrate, plan, generate, filter_, measure, compare, doctor):
    main.add_command(verb)
for verb in (fid, export, card, verify, studio):
    main.add_command(verb)
