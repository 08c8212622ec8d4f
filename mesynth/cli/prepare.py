"""Verbs that take clips to what is learned from: prepare (check a release, or crops and flow of it) and augment."""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import click

from mesynth.api import FLOW_FOLDERS, load_database, prepare_cost
from mesynth.api import prepare as run_prepare
from mesynth.cli.options import OUT, SEED, WORKERS, device_option, landmarker_options, share_options, summary
from mesynth.commandline import Verb, dry_run_option, echo_json, json_option, progress_bars, show_result
from mesynth.preprocess.config import APEXES, CROP_SIZE, CROPS, FLOWS, GLOBAL_MODELS, INPUTS, STABILISERS, PrepareConfig


@click.command(
    cls=Verb,
    former={"--manifest": "", "--keep": "--keep-frames"},
    epilog="""\b
Example: mesynth augment prepared/casme2 --copies 3 --ratios 0.7,1,1.5 --keep-frames 0.8 --out augmented""",
)
@click.argument("corpus", type=click.Path(path_type=Path))
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
@click.option(
    "--keep-frames", default=1.0, show_default=True, help="Share of the frames that stay (key frames always do)."
)
@SEED
@OUT
@WORKERS
@share_options
@dry_run_option
@json_option
def augment(
    corpus: Path,
    copies: int,
    ratios: str,
    keep_frames: float,
    seed: int,
    out: Path,
    workers: int,
    dry_run: bool,
    as_json: bool,
    **ranges: Any,
) -> None:
    """Copy the clips of CORPUS, a prepared or generated folder, with classic augmentation that knows about flow.

    A copy carries its subject: use it with mix.leak=zero-weight, so that no fold learns from its held-out person.
    """
    from mesynth.preprocess.augment import AugmentConfig, CopiesConfig
    from mesynth.preprocess.augment import augment as run
    from mesynth.store.manifest import Manifest

    config = CopiesConfig(
        copies=copies, change=AugmentConfig(**ranges), ratios=_numbers(ratios), keep=keep_frames, seed=seed
    )  # fmt: skip
    source = Manifest.read(corpus)
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


# ------------------------------------------------------------------- prepare


_OF_EXPORTS = {"database", "root", "out", "workers", "dry_run", "as_json", "shard", "engine", "address", "gpus"}
"""What `prepare export` takes: nothing is aligned or estimated."""
_OF_FLOW = _OF_EXPORTS | {"part", "frames", "frame", "check_only"}
"""What `prepare flow_folders` takes."""
_OF_VIDEOS = _OF_EXPORTS | {
    "part", "frames", "subjects", "clips", "limit", "annotation", "skip_bad", "long_videos",
}  # fmt: skip
"""What `prepare --long-videos` takes."""
INCOMPLETE = 1
"""Exit code of --check where the copy is not complete."""


@click.command(
    epilog="""\b
Examples:
  mesynth prepare casme2 --root /data/CASME2 --check
  mesynth prepare casme2 --root /data/CASME2 --out prepared/casme2
  mesynth prepare smic --root /data/SMIC --part hs --apex flow --resample tim:10 --out prepared/smic"""
)
@click.argument("database")
@click.option("--root", type=click.Path(path_type=Path), required=True, help="The release's folder, or a corpus.")
@click.option("--part", default="", help="Subset of the release (smic: hs, vis, nir, long) [default: its first].")
@click.option("--frames", default="", help="Which rendering of the frames: raw, cropped, ... [default: auto].")
@click.option(
    "--subjects", multiple=True, metavar="NAMES",
    help="These people alone: sub01,sub02 or casme2/sub01, or 3: the first three [default: all]; repeatable.",
)  # fmt: skip
@click.option(
    "--clips", multiple=True, metavar="NAMES",
    help="These clips alone: sub01/EP02_01f, or EP02_01f if it is one person's [default: all]; repeatable.",
)  # fmt: skip
@click.option("--limit", type=int, metavar="N", help="The first N of the clips, in the order of the annotation.")
@click.option(
    "--annotation", type=click.Path(path_type=Path), metavar="FILE",
    help="The workbook or CSV, if it has another name than the release's or lies elsewhere.",
)  # fmt: skip
@click.option("--check", "check_only", is_flag=True, help="Say whether the copy is complete; write nothing.")
@click.option(
    "--long-videos", is_flag=True,
    help="Only list the release's videos and the intervals marked in them, for `recognizer spot`: videos.csv, "
    "intervals.csv.",
)  # fmt: skip
@click.option("--skip-bad", is_flag=True, help="Go on without clips that cannot be used; skipped.csv lists them.")
@click.option("--size", default=CROP_SIZE, show_default=True, help="Crop width and height in pixels.")
@click.option(
    "--face", default="largest", show_default=True,
    help="Of several faces on an onset: largest, or which, counted from 1 at image left.",
)  # fmt: skip
@click.option("--crop", type=click.Choice(CROPS), default="similarity", show_default=True, help="One per clip.")
@click.option(
    "--frame", default="", metavar="FRAMING",
    help="Where faces lie in the crops: eyes=0.57,row=0.25 (height, column; shares), or like:PREPARED [default: own]; "
    "flow_folders: where they lie [default: estimated].",
)  # fmt: skip
@click.option(
    "--stabilise", type=click.Choice(STABILISERS), default="none", show_default=True,
    help="Take out the head motion that remains; notes.jsonl says how much there was and is.",
)  # fmt: skip
@click.option(
    "--apex", type=click.Choice(APEXES), default="annotated", show_default=True,
    help="Spot the apex of clips that have none annotated (annotated: their middle frame).",
)  # fmt: skip
@click.option(
    "--early", type=float, default=1.0, metavar="SHARE",
    help="End clips at this share of the way from onset to apex, as at .3: the early part of macro-expressions moves "
    "less, as micro-expressions do [default: 1, whole clips].",
)  # fmt: skip
@click.option("--magnify", default="", help='Magnify motion: "lagrangian:2" (eulerian, phase, lagrangian, learned).')
@click.option("--resample", default="", help='Frames a clip: "tim:10" (tim, linear, flow, nearest).')
@click.option("--method", type=click.Choice(FLOWS), default="tvl1", show_default=True, help="Optical flow.")
@click.option(
    "--global-motion", type=click.Choice(GLOBAL_MODELS), default="none", show_default=True,
    help="Take the head's own motion out of the flow.",
)  # fmt: skip
@click.option("--inputs", default="", help=f"Further arrays to store, comma-separated: {', '.join(INPUTS)}.")
@click.option("--max-frames", type=int, help="Thin longer clips evenly, keeping onset, apex and offset.")
@click.option("--no-frames", is_flag=True, help="Store flow, landmarks and inputs alone.")
@click.option(
    "--store", default="png", show_default=True, help="How frames are stored: png, or video (lossless H.264)."
)
@device_option("cpu", "flow, magnification and detection run")
@click.option("--no-cache", is_flag=True, help="Find landmarks anew; $MESYNTH_CACHE says where they are kept.")
@landmarker_options
@click.option("--out", type=click.Path(path_type=Path), help="New folder for the result (not with --check).")
@WORKERS
@share_options
@dry_run_option
@json_option
def prepare(
    database: str,
    root: Path,
    part: str,
    frames: str,
    subjects: tuple[str, ...],
    clips: tuple[str, ...],
    limit: int | None,
    annotation: Path | None,
    check_only: bool,
    long_videos: bool,
    skip_bad: bool,
    inputs: str,
    no_frames: bool,
    device: str,
    no_cache: bool,
    landmarker: str,
    download: bool,
    out: Path | None,
    workers: int,
    dry_run: bool,
    as_json: bool,
    **steps: Any,
) -> None:
    """Read DATABASE, align, crop, and estimate flow.

    DATABASE is a release (casme, casme2, samm, samm_long, smic, casme_sq, casme3, mmew, 4dme, dfme, meview), a
    composite (megc2019, cmed), generic (a CSV beside videos), flow_folders (published flow images; --frames is the
    order of their channels, --part the database of subjects of unknown names), corpus: any mesynth manifest, or
    export: what `mesynth export` wrote, as it was, with identity, exact AUs and provenance (takes --root, --out,
    --workers alone).
    Landmarks are found on the onset, one transform serves the whole clip, flow goes from onset to apex.
    """
    from mesynth.core.devices import find_device
    from mesynth.core.errors import MesynthError
    from mesynth.datasets.registry import EXPORT
    from mesynth.store.remote import shown

    steps |= {
        "inputs": tuple(name.strip() for name in inputs.split(",") if name.strip()),
        "keep_frames": not no_frames,
    }
    # A step that cannot be is said before anything is read.
    from mesynth.core.framing import LIKE

    PrepareConfig(**steps | ({"frame": ""} if steps["frame"].startswith(LIKE) else {}))
    if database in (EXPORT, FLOW_FOLDERS):
        _refuse_idle(database)
    chosen: dict[str, Any] = {"subjects": subjects, "clips": clips, "limit": limit, "annotation": annotation}
    if database == EXPORT:
        _import_export(root, out, workers, dry_run, as_json)
        return
    if check_only:
        _check(database, root, part, frames, as_json, **chosen)
        return
    find_device(device)
    if out is None:
        raise click.UsageError("Missing option '--out' (or ask with --check whether the copy is complete).")
    if long_videos:
        _list_videos(database, root, part, frames, skip_bad, out, dry_run, as_json, **chosen)
        return
    if database == FLOW_FOLDERS:
        _import_flow(root, part, frames, steps["frame"], out, workers, dry_run, as_json)
        return
    if dry_run:
        manifest, _ = load_database(database, root, part=part, frames=frames, skip_bad=skip_bad, **chosen)
        people = len(set(manifest.subject_keys()))
        click.echo(f"would prepare {len(manifest)} clips of {people} subjects into {shown(out)}")
        try:
            cost = prepare_cost(manifest, landmarker=landmarker, device=device, skip_bad=skip_bad, **steps)
            click.echo(cost.text(len(manifest)), err=True)
        except MesynthError as error:
            click.echo(f"not measured: {error}", err=True)
        return
    from mesynth.datasets.check import kinds_of_warnings
    from mesynth.store.cluster import speaks
    from mesynth.store.stage import read_skipped

    with progress_bars() as bar:
        done = run_prepare(
            database, root, out, part=part, frames=frames, skip_bad=skip_bad, landmarker=landmarker,
            download=download, device=device, workers=workers, cache=not no_cache,
            progress=bar("clips"), **chosen, **steps,
        )  # fmt: skip
    left = read_skipped(out)
    for entry in left[:10] if speaks() else ():
        click.echo(f"left out {entry.clip_id}: {entry.reason}", err=True)
    told = {"warnings": kinds} if (kinds := kinds_of_warnings(done)) else {}
    show_result(summary(done, out) | {"left out": len(left)} | told | _drift(out), as_json)


def _list_videos(
    database: str, root: Path, part: str, frames: str, skip_bad: bool, out: Path, dry_run: bool, as_json: bool,
    **chosen: Any,
) -> None:  # fmt: skip
    """The two tables of long videos; frames stay where they are."""
    from mesynth.store.long_videos import LongVideos
    from mesynth.store.run_folder import claim_folder, only_writer, write_bytes, write_last

    _refuse_idle(database, _OF_VIDEOS, "a list of videos, in which nothing is prepared")
    manifest, left = load_database(database, root, part=part, frames=frames, skip_bad=skip_bad, **chosen)
    for entry in left[:10]:
        click.echo(f"left out {entry.clip_id}: {entry.reason}", err=True)
    found = LongVideos.of_manifest(manifest)
    facts = {"out": str(out), "videos": len(found.videos), "intervals": len(found.intervals)}
    if dry_run:
        click.echo(f"would list {len(found.videos)} videos with {len(found.intervals)} intervals in {out}")
        return
    tables = found.tables()
    claim_folder(out, {"stage": "long-videos", "database": database, "intervals": tables["intervals.csv"].decode()})
    with only_writer(out):
        write_bytes(out / "intervals.csv", tables["intervals.csv"])
        write_last(out / "videos.csv", tables["videos.csv"])
    show_result(facts, as_json)


def _drift(out: Path) -> dict[str, dict[str, float]]:
    """Head motion before and after stabilisation, pixels: mean over the clips that were stabilised."""
    from mesynth.store.stage import read_notes

    found = [note["drift"] for note in read_notes(out) if "drift" in note]
    means = {name: [d[name]["mean"] for d in found if d[name]["mean"] is not None] for name in ("before", "after")}
    if not all(means.values()):
        return {}
    return {"drift, px": {name: round(sum(values) / len(values), 3) for name, values in means.items()}}


def _refuse_idle(database: str, taken: Collection[str] = (), of: str = "") -> None:
    """Raise UsageError for an option that does nothing on what is prepared already; ``taken``: all that do, ``of``
    something else."""
    context = click.get_current_context()
    usual = _OF_FLOW if database == FLOW_FOLDERS else _OF_EXPORTS
    idle = {option.name for option in context.command.params} - set(taken or usual)
    what, way = "an export", "`mesynth prepare corpus` prepares what comes back"
    if of:
        what, way = of, "leave it out"
    elif database == FLOW_FOLDERS:
        what, way = "flow images, which are finished", "leave it out"
    for option in context.command.params:
        given = context.get_parameter_source(option.name or "") == click.core.ParameterSource.COMMANDLINE
        if given and option.name in idle:
            raise click.UsageError(f"{option.opts[0]} has no effect on {what}; {way}.")


def _import_export(root: Path, out: Path | None, workers: int, dry_run: bool, as_json: bool) -> None:
    """What `mesynth export` wrote, a corpus again."""
    from mesynth.corpus.exports.run import read_export
    from mesynth.datasets.registry import EXPORT

    if out is None:
        raise click.UsageError("Missing option '--out'.")
    if dry_run:
        found = read_export(root)
        click.echo(f"would import {len(found.lines)} clips of a {found.form.name} export into {out}")
        return
    with progress_bars() as bar:
        done = run_prepare(EXPORT, root, out, workers=workers, progress=bar("clips"))
    show_result(summary(done, out), as_json)


def _import_flow(
    root: Path, part: str, frames: str, frame: str, out: Path, workers: int, dry_run: bool, as_json: bool
) -> None:
    """Published flow images: nothing to align or estimate. --frames is the order of channels, --part a database."""
    from mesynth.corpus.exports.run import is_export
    from mesynth.datasets.flow_folders import read_flow_folders

    found = read_flow_folders(root, database=part)
    if is_export(root.resolve().parent):
        click.echo(
            "written by mesynth: `mesynth prepare export` on the folder above keeps whom each clip shows", err=True
        )
    for text in found.violations[:10]:
        click.echo(text, err=True)
    if dry_run:
        click.echo(f"would import {len(found.clips)} flow images into {out}")
        return
    with progress_bars() as bar:
        done = run_prepare(
            FLOW_FOLDERS, root, out, part=part, frames=frames, frame=frame, workers=workers,
            progress=bar("flow images"),
        )  # fmt: skip
    show_result(summary(done, out) | {"violations": len(found.violations)}, as_json)


def _check(database: str, root: Path, part: str, frames: str, as_json: bool, **chosen: Any) -> None:
    if database == FLOW_FOLDERS:
        from mesynth.datasets.flow_folders import read_flow_folders, require_order

        tree = read_flow_folders(root, database=part)
        if not frames:
            require_order(tree)
        show_result(tree.to_dict(), as_json)
        if tree.violations:
            sys.exit(INCOMPLETE)
        return
    from mesynth.datasets.check import check
    from mesynth.datasets.load import Selection
    from mesynth.datasets.registry import load_release_of

    select = Selection.parse(chosen["subjects"], chosen["clips"], chosen["limit"])
    annotation = chosen["annotation"]
    with progress_bars() as bar:
        loaded = load_release_of(
            database, root, part=part, frames=frames, annotation=annotation, select=select,
            progress=bar("clips looked at"),
        )  # fmt: skip
        found = check(loaded)
    if as_json:
        echo_json(found.to_dict())
    else:
        from rich.console import Console

        Console().print(found.table())
    if not found.complete:
        sys.exit(INCOMPLETE)
