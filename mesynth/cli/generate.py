"""Verbs that make clips: render and generate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mesynth.cli.options import FACE_LIMITS, OUT, SEED, WORKERS, landmarker_options, summary
from mesynth.commandline import Verb, dry_run_option, json_option, progress_bars, show_result

if TYPE_CHECKING:
    from mesynth.corpus.throughput import Throughput

SHORT = 1
"""Exit code of a corpus that is sound and has fewer clips than were requested."""
_OPTIONS = {"aus": "au"}
"""Fields of a generation that the command line calls otherwise."""


def until_options(command: Any) -> Any:
    """``--until-accepted``, ``--keep`` and ``--attempts``."""
    command = click.option(
        "--attempts", type=int, help="Attempts at a row with --until-accepted, the first included [default: 5]."
    )(command)
    command = click.option(
        "--keep",
        default="",
        help="Checks of --until-accepted with their limits, as in `mesynth filter` [default: all; flow: duplicate].",
    )(command)
    return click.option(
        "--until-accepted",
        is_flag=True,
        help="Draw a rejected clip again, with another seed, until one is accepted; rejected attempts are listed in "
        f"rejected.csv, rows without an accepted one in skipped.csv (exit code {SHORT}).",
    )(command)


def _range(text: str) -> tuple[float, float]:
    low, _, high = text.partition(":")
    try:
        return float(low), float(high or low)
    except ValueError:
        raise click.BadParameter(f"'{text}' is no number of seconds and no range such as 0.2:0.5") from None


@click.command(epilog="Example: mesynth render --subjects 12 --out rendered --layout casme2")
@click.option(
    "--layout",
    type=click.Choice(["casme2", "faces"]),
    default="casme2",
    show_default=True,
    help="casme2: clips in the CASME II release's layout; faces: one neutral picture a subject.",
)
@click.option("--subjects", default=12, show_default=True, help="Number of identities, 1..10000.")
@click.option("--clips", default=8, show_default=True, help="Clips a subject, 1..99 (casme2).")
@click.option("--size", default=192, show_default=True, help="Frame width and height in pixels.")
@click.option("--fps", default=60.0, show_default=True, help="Frames per second (casme2; the release has 200).")
@SEED
@OUT
@WORKERS
@dry_run_option
def render(
    layout: str, subjects: int, clips: int, size: int, fps: float, seed: int, out: Path, workers: int, dry_run: bool
) -> None:
    """Render subjects of the 3D FACS head: a database without a licence, with exact AUs."""
    if dry_run:
        from mesynth.datasets.rendered import check_render

        check_render(subjects=subjects, clips=clips, size=size, fps=fps, seed=seed)
        n = subjects * clips if layout == "casme2" else subjects
        what = "clips" if layout == "casme2" else "pictures"
        click.echo(f"would render {n} {what} of {subjects} subjects into {out}")
        return
    from mesynth.api import render as run

    with progress_bars() as bar:
        run(
            out, subjects=subjects, layout=layout, clips=clips, size=size, fps=fps, seed=seed, workers=workers,
            progress=bar,
        )  # fmt: skip
    click.echo(f"rendered into {out}")


@click.command(
    cls=Verb,
    former={"--people": "--subjects"},
    epilog="""\b
Examples:
  mesynth generate --faces photo.jpg --au "12=B,L4=0.2" --out smile
  mesynth generate --faces faces/ --emotion surprise --count 100 --fps 200 --out surprise
  mesynth generate --plan plan --model motion_gan --out corpus
  mesynth generate --plan plan --until-accepted --keep identity,control,artefact --out corpus
  mesynth generate --kind flow --emotion negative,positive,surprise --count 10000 --out flow""",
)
@click.option(
    "--faces",
    type=click.Path(path_type=Path),
    help="A picture, a folder of pictures, or a prepared manifest (each subject's onset).",
)
@click.option(
    "--plan",
    type=click.Path(path_type=Path),
    help="A folder written by `mesynth plan`; says everything else about the clips, and where the faces are.",
)
@click.option(
    "--au",
    "aus",
    multiple=True,
    help='"12=B,L4=0.2": AUs with a FACS letter or a number in [0,1], sides L and R; repeat to take in turn.',
)
@click.option("--emotion", default="", help="Emotions or classes, comma-separated: AUs are drawn per clip.")
@click.option(
    "--au-source", default="published", show_default=True, help="Table of AUs per emotion: published, expert."
)
@click.option(
    "--kind",
    type=click.Choice(["clips", "flow"]),
    default="clips",
    show_default=True,
    help="clips: frames and flow on faces; flow: flow images alone, of people without pictures.",
)
@click.option(
    "--model",
    help="motion-prior [default], a shipped model, or a trained folder; options after @: runs/d@steps=8,guidance=2. "
    "With --kind flow: flow-prior [default] or a trained flow_gan folder.",
)
@click.option("--count", type=int, help="Number of clips [default: one per --au or --emotion].")
@click.option(
    "--profile",
    default="casme2",
    show_default=True,
    help="Temporal profile: casme2, symmetric, fast-rise, slow-rise, held, or parts of "
    "apex=0.4,hold=0.1,decay=exponential,lag=0.05 (shares of the clip).",
)
@click.option("--fps", default=200.0, show_default=True, help="Frames per second.")
@click.option("--duration", default="0.32", show_default=True, help="Seconds (1/25 to 1/2), or a range: 0.2:0.5.")
@click.option("--size", type=int, help="Width and height in pixels [default: 128; flow 28].")
@click.option("--noise", default=0.0, show_default=True, help="Sensor noise of frames after the onset, grey levels.")
@click.option("--head-motion", type=float, help="Head motion, 1 = a seated recording's [default: 0; flow 1].")
@click.option("--blink", type=float, help="Probability of a partial blink in a clip [default: 0; flow 0.3].")
@click.option("--style", type=float, help="Individual differences in how muscles pull, 1 = usual [default: 0; flow 1].")
@click.option("--subjects", default=0, help="Face shapes of --kind flow [default: one an image, at most 1000].")
@click.option(
    "--nuisance",
    default="",
    help='Strengths of --kind flow: "noise=0,blur=0.5", or "none,head=1" for that alone. Of asymmetry, shape, heads, '
    "style, head, blink, texture, blur, noise, outliers, median.",
)
@click.option(
    "--frame",
    default="",
    help="Where faces lie in images of --kind flow: like:PREPARED (as in that database; of a composite what all its "
    "databases show, like:PREPARED:samm as in one of them), or "
    "eyes=0.57,height=0.46,row=0.25,column=0.48, shares of the crop [default: as our crops].",
)
@click.option("--preview", default=8, show_default=True, help="Clips that also lie loose under clips/ to look at.")
@click.option("--video", default="mp4", show_default=True, help="Moving picture of a preview: mp4, webm, gif or apng.")
@until_options
@click.option(
    "--face",
    default="largest",
    show_default=True,
    help="Of several faces in a picture: largest, all (each a subject), or which, counted from 1 at image left.",
)
@FACE_LIMITS
@landmarker_options
@SEED
@OUT
@WORKERS
@dry_run_option
@json_option
@click.pass_context
def generate(
    context: click.Context, out: Path, workers: int, dry_run: bool, as_json: bool, download: bool, **given: Any
) -> None:
    """Generate micro-expressions on faces, with the AU motion prior or a trained generator: frames, flow, provenance.

    What is made comes from a plan (--plan), or from --au or --emotion. Intensity 0 returns the input exactly. With
    --emotion, AUs come from published frequency tables.
    """
    from mesynth.api import fetch_landmarker
    from mesynth.corpus.generation import Generation

    wanted = Generation(**given | {"duration": _range(given["duration"])})
    source = click.core.ParameterSource.COMMANDLINE
    named = {name for name in context.params if context.get_parameter_source(name) == source}
    wanted.check(named, option=lambda name: f"--{_OPTIONS.get(name, name).replace('_', '-')}")
    if dry_run:
        click.echo(wanted.forecast(out))
        return
    if wanted.kind == "clips":
        wanted = replace(wanted, landmarker=fetch_landmarker(wanted.landmarker, download))
    speeds: list[Throughput] = []
    with progress_bars() as bar:
        made = wanted.run(out, workers, bar, speeds.append)
    for speed in speeds:
        speed.write(out)
        click.echo(speed.text(), err=True)
    for warning in made.warnings:
        click.echo(f"Warning: {warning}", err=True)
    show_result(summary(made.manifest, out) | made.shown, as_json)
    if made.missing:
        click.echo(f"Warning: {made.missing}", err=True)
        context.exit(SHORT)
