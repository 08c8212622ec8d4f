"""Verbs about generators: train, calibrate and compare them, and make clips: generate, and render without one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mesynth.cli.options import (
    EXCLUDE,
    FACE_LIMITS,
    OUT,
    SEED,
    SETTINGS,
    WORKERS,
    au_codes,
    device_option,
    landmarker_options,
    numbers,
    share_options,
    subject_keys,
    summary,
)
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
from mesynth.preprocess.config import FLOWS

if TYPE_CHECKING:
    from mesynth.corpus.generate import Throughput


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
@device_option("auto", "networks learn")
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
    from mesynth.core.devices import find_device
    from mesynth.core.process import launched
    from mesynth.training.train import Machine, Trained
    from mesynth.training.train import cross_fit as run_groups
    from mesynth.training.train import train as run_one

    recipe = load_training_recipe(name, settings)
    find_device(device)
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
@device_option("cpu", "generators and the networks that measure run")
@SEED
@OUT
@json_option
def compare(
    models: str, subjects: int, size: int, aus: str, levels: str, head: Path | None, yaw: float, pitch: float,
    samples: int, device: str, seed: int, out: Path, as_json: bool,
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
            device=device,
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


# ------------------------------------------------------------------- render and generate


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


@click.command(
    epilog="""\b
Examples:
  mesynth render --subjects 12 --out rendered --layout casme2
  mesynth render --long --subjects 6 --clips 2 --out long"""
)
@click.option(
    "--layout",
    type=click.Choice(["casme2", "faces", "long"]),
    default="casme2",
    show_default=True,
    help="casme2: clips in the CASME II release's layout; faces: one neutral picture a subject; long: as --long.",
)
@click.option(
    "--long", "long_videos", is_flag=True,
    help="Long videos with blinks, head motion, macro- and micro-expressions; videos.csv and intervals.csv are the "
    "truth.",
)  # fmt: skip
@click.option("--seconds", default="10:60", show_default=True, help="Length of a long video: a number or a range.")
@click.option("--subjects", default=12, show_default=True, help="Number of identities, 1..10000.")
@click.option(
    "--clips", type=int, help="Clips a subject, 1..99 (casme2) [default: 8], or its long videos [default: 2]."
)
@click.option("--size", default=192, show_default=True, help="Frame width and height in pixels.")
@click.option("--fps", type=float, help="Frames per second (casme2; the release has 200) [default: 60; long 30].")
@click.option(
    "--macro",
    is_flag=True,
    help="Macro-expressions, long and strong, to transfer from (casme2); the same seed has the same people.",
)
@SEED
@OUT
@WORKERS
@share_options
@dry_run_option
def render(
    layout: str, long_videos: bool, seconds: str, subjects: int, clips: int | None, size: int, fps: float | None,
    macro: bool, seed: int, out: Path, workers: int, dry_run: bool,
) -> None:  # fmt: skip
    """Render subjects of the 3D FACS head: a database without a licence, with exact AUs."""
    from mesynth.store.remote import shown

    if long_videos and layout == "faces":
        raise click.UsageError("--long has no effect with --layout faces, which are pictures; leave one of them out.")
    layout = "long" if long_videos else layout
    long = layout == "long"
    if macro and layout != "casme2":
        raise click.UsageError(f"--macro is about clips, and --layout {layout} has none; choose --layout casme2")
    source = click.get_current_context().get_parameter_source("seconds")
    if not long and source == click.core.ParameterSource.COMMANDLINE:
        raise click.UsageError("--seconds has no effect without --long; leave it out.")
    clips = (2 if long else 8) if clips is None else clips
    fps = (30.0 if long else 60.0) if fps is None else fps
    if dry_run:
        from mesynth.datasets.rendered import LongRendering, Rendering

        if long:
            LongRendering(
                subjects=subjects, videos_per_subject=clips, seconds=_range(seconds), size=size, fps=fps, seed=seed
            )
        else:
            Rendering(subjects=subjects, clips_per_subject=clips, size=size, fps=fps, seed=seed)  # checks them
        n = subjects if layout == "faces" else subjects * clips
        what = {"casme2": "clips", "faces": "pictures", "long": "long videos"}[layout]
        click.echo(f"would render {n} {what} of {subjects} subjects into {shown(out)}")
        return
    from mesynth.api import render as run

    with progress_bars() as bar:
        run(
            out, subjects=subjects, layout=layout, clips=clips, size=size, fps=fps, seed=seed, macro=macro,
            workers=workers, seconds=_range(seconds), progress=bar,
        )  # fmt: skip
    click.echo(f"rendered into {shown(out)}")


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
    help='"12=B,L4=0.2": AUs with a FACS letter or a number in [0,1], sides L and R; repeat to take in turn. "12=-0.2" '
    "lowers what the face shows already (AU 12, 25, 26, 27, 43, 45).",
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
    help="full: clips show whole pictures (at most 1024 px a side), not crops. With --kind flow where faces lie in the "
    "images: like:PREPARED (as in that database; of a composite what all its databases show, like:PREPARED:samm as in "
    "one of them), or eyes=0.57,height=0.46,row=0.25,column=0.48, shares of the crop [default: our crops].",
)
@click.option(
    "--frames", default="png", show_default=True, help="How frames are stored: png, or video (lossless H.264)."
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
@device_option("cpu", "networks run and frames are made")
@click.option(
    "--precision", default="fp32", show_default=True,
    help="fp32, or bf16: products of the networks in bfloat16, on cuda (docs/corpora.md says what changes).",
)  # fmt: skip
@SEED
@OUT
@WORKERS
@dry_run_option
@json_option
@click.pass_context
@share_options
def generate(
    context: click.Context, out: Path, workers: int, dry_run: bool, as_json: bool, download: bool, **given: Any
) -> None:
    """Generate micro-expressions on faces, with the AU motion prior or a trained generator: frames, flow, provenance.

    What is made comes from a plan (--plan), or from --au or --emotion. Intensity 0 returns the input exactly. With
    --emotion, AUs come from published frequency tables.
    """
    from mesynth.api import fetch_landmarker
    from mesynth.corpus.generation import Generation
    from mesynth.store.cluster import speaks
    from mesynth.store.remote import shown

    wanted = Generation(**given | {"duration": _range(given["duration"])})
    source = click.core.ParameterSource.COMMANDLINE
    named = {name for name in context.params if context.get_parameter_source(name) == source}
    wanted.check(named, option=lambda name: f"--{_OPTIONS.get(name, name).replace('_', '-')}")
    if dry_run:
        click.echo(wanted.forecast(Path(shown(out))))
        try:
            cost, clips = wanted.cost()
        except MesynthError as error:  # a face or a weight that is missing is said, and what was said stays true
            click.echo(f"not measured: {error}", err=True)
            return
        click.echo(cost.text(clips, "flow images" if wanted.kind == "flow" else "clips"), err=True)
        return
    if wanted.kind == "clips":
        wanted = replace(wanted, landmarker=fetch_landmarker(wanted.landmarker, download))
    speeds: list[Throughput] = []
    with progress_bars() as bar:
        made = wanted.run(out, workers, bar, speeds.append)
    if speaks():  # of processes that share a folder the first tells, of itself
        for speed in speeds:
            speed.write(out)
            click.echo(speed.text(), err=True)
        for warning in made.warnings:
            click.echo(f"Warning: {warning}", err=True)
    show_result(summary(made.manifest, out) | made.shown, as_json)
    if made.missing:
        click.echo(f"Warning: {made.missing}", err=True)
        context.exit(SHORT)


# ------------------------------------------------------------------- drive


@click.command(
    epilog="""\b
Examples:
  mesynth drive --driver prepared/casme2 --faces photo.jpg --out driven
  mesynth drive --driver smile.mp4 --interval 12,30,51 --driver-subject own/anna --faces faces/ --out driven""",
)
@click.option(
    "--driver", type=click.Path(path_type=Path), required=True,
    help="Prepared or generated clips; or with --interval a video, or a folder of frames.",
)  # fmt: skip
@click.option(
    "--faces", type=click.Path(path_type=Path), required=True,
    help="A picture, a folder of pictures, or a prepared manifest (each subject's onset).",
)  # fmt: skip
@click.option("--intensity", default=1.0, show_default=True, help="Times the driver's motion, 0..3.")
@click.option("--every", is_flag=True, help="Every driver on every face [default: faces are taken in turn].")
@click.option("--interval", metavar="ONSET,APEX,OFFSET", help="Of a video: frames from 0.")
@click.option("--fps", type=float, help="Of a video: its frame rate [default: what the file states].")
@click.option(
    "--driver-subject", metavar="DATABASE/SUBJECT", help="Of a video: whom it shows, named as in other clips.",
)  # fmt: skip
@click.option("--driver-licence", default="unknown", show_default=True, help="Of a video: its terms.")
@click.option(
    "--method", type=click.Choice(FLOWS), default="dis", show_default=True,
    help="Optical flow of the driver.",
)  # fmt: skip
@click.option("--size", default=128, show_default=True, help="Width and height in pixels.")
@click.option("--noise", default=0.0, show_default=True, help="Sensor noise of frames after the onset, grey levels.")
@click.option("--preview", default=8, show_default=True, help="Clips that also lie loose under clips/ to look at.")
@click.option(
    "--landmarker", default="auto", show_default=True,
    help="face-alignment, mediapipe, a .csv or .npz of points, or auto (the first whose weights are here).",
)  # fmt: skip
@EXCLUDE
@SEED
@OUT
@WORKERS
@dry_run_option
@json_option
def drive(
    driver: Path,
    faces: Path,
    intensity: float,
    every: bool,
    interval: str | None,
    fps: float | None,
    driver_subject: str | None,
    driver_licence: str,
    method: str,
    size: int,
    noise: float,
    preview: int,
    landmarker: str,
    exclude_subjects: str,
    seed: int,
    out: Path,
    workers: int,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Carry the motion of real clips to other faces, with identity kept: frames, exact flow, provenance.

    The driver's subject counts as seen by the clip it drove, beside the face's: folds that hold either out leave it
    out. What lids and the head of the driver did is not carried.
    """
    from mesynth.api import drive as run
    from mesynth.corpus.driving import DriveConfig, driver_of, forecast

    excluded = subject_keys(exclude_subjects)
    if dry_run:
        config = DriveConfig(intensity=intensity, every=every, flow=method, size=size, noise=noise, seed=seed)
        source = driver_of(driver, interval, driver_subject, driver_licence, fps)
        click.echo(f"would drive {forecast(source, faces, config, excluded)} into {out}")
        return
    with progress_bars() as bar:
        made = run(
            driver, faces, out, intensity=intensity, every=every, interval=interval, fps=fps,
            driver_subject=driver_subject, driver_licence=driver_licence, method=method, size=size, noise=noise,
            preview=preview, landmarker=landmarker, exclude_subjects=excluded, seed=seed, workers=workers, progress=bar,
        )  # fmt: skip
    show_result(summary(made, out), as_json)
