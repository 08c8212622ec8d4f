"""Verbs about a corpus: plan it, filter it, measure it, and hand it on: export, card, verify."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mesynth.cli.options import (
    EXCLUDE,
    FACE_LIMITS,
    OUT,
    SEED,
    SETTINGS,
    device_option,
    share_options,
    subject_keys,
    summary,
)
from mesynth.commandline import (
    Verb,
    by_step,
    dry_run_option,
    echo_json,
    json_option,
    list_recipes_option,
    progress_bars,
    show_result,
)

if TYPE_CHECKING:
    from mesynth.corpus.filters import Spread


@click.command(
    cls=Verb,
    former={"--people": "--subjects", "--set": ""},
    epilog="""\b
Examples:
  mesynth plan corpus/three_classes --faces faces/ --out plan
  mesynth plan corpus/coded rows.count=5000 --faces faces/ --aus-from prepared/casme2 \\
      --exclude-subjects casme2/01 --out plan
  mesynth generate --plan plan --model motion_gan --out corpus""",
)
@click.argument("design")
@SETTINGS
@click.option("--faces", type=click.Path(path_type=Path), help="A picture, a folder of pictures, or a manifest.")
@click.option("--subjects", default=0, help="Instead of --faces, for flow images: this many people without pictures.")
@FACE_LIMITS
@click.option("--aus-from", type=click.Path(path_type=Path), help="Prepared manifest whose coded AUs sources read.")
@EXCLUDE
@click.option("--out", type=click.Path(path_type=Path), help="New folder for the plan.")
@list_recipes_option("corpus")
@dry_run_option
@json_option
def plan(
    design: str,
    settings: tuple[str, ...],
    faces: Path | None,
    subjects: int,
    face_limits: str,
    aus_from: Path | None,
    exclude_subjects: str,
    out: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Plan a corpus from a DESIGN, a YAML file or a name (--list): one row a clip, and what it will come to.

    key=value settings override the design.
    """
    from mesynth.config import find_recipe
    from mesynth.core.errors import ConfigError
    from mesynth.corpus.design import load_design
    from mesynth.corpus.faces import SHEET, SKIPPED_FACES, examine_to_plan, in_short
    from mesynth.corpus.plan import Summary
    from mesynth.corpus.planning import draft_plan

    if out is None and not dry_run:
        raise ConfigError("give --out for the plan's folder, or --dry-run to see what it comes to")
    wanted = load_design(find_recipe(design), settings)
    if face_limits and faces is None:
        raise ConfigError("--face-limits has no effect without --faces; leave it out")
    examination = None
    if faces is not None and not subjects:
        with progress_bars() as bar:
            examination = examine_to_plan(faces, face_limits, bar("look at faces"))
    draft = draft_plan(
        wanted,
        faces=faces,
        people=subjects,
        aus_from=aus_from,
        exclude=subject_keys(exclude_subjects),
        examination=examination,
    )
    if examination is not None and examination.left_out:
        where = "" if dry_run or out is None else f"; {out / SKIPPED_FACES} says why, {out / SHEET} shows them"
        click.echo(f"Warning: {in_short(examination.reasons)}{where}", err=True)
    written = {}
    with progress_bars() as bar:
        if dry_run or out is None:
            summary = draft.summary(bar("rows drawn"))
        else:
            summary = Summary()
            written = {"out": str(out), "hash": draft.write(out, bar("rows written"), summary).hash}
    if not as_json:
        click.echo(summary.text())
    if as_json:
        echo_json(summary.plain() | written)
    else:
        click.echo("dry run: nothing written" if dry_run else f"plan written to {out}")


# ------------------------------------------------------------------- filter


@click.command(
    "filter",
    epilog="""\b
Examples:
  mesynth filter corpus --dry-run
  mesynth filter corpus --keep identity=0.3,control,duplicate --out kept""",
)
@click.argument("corpus", type=click.Path(path_type=Path))
@click.option(
    "--keep",
    default="",
    show_default="all checks, at the limits that --dry-run shows",
    help="Checks with their limits: identity (embedding distance onset-apex), control (largest AU error, 0-5), "
    "artefact (share of the face that is not the onset moved), duplicate (relative difference of flows).",
)
@click.option("--out", type=click.Path(path_type=Path), help="New folder for the result.")
@click.option("--dry-run", is_flag=True, help="Say how the corpus lies to the limits, check by check; write nothing.")
@json_option
def filter_(corpus: Path, keep: str, out: Path | None, dry_run: bool, as_json: bool) -> None:
    """Keep the clips of a corpus that pass; list the others with check, value and limit in rejected.csv.

    The new manifest points into the corpus's shards; nothing is copied. To have others made in place of those that
    fail, see `mesynth generate --until-accepted`.
    """
    from mesynth.api import filter_corpus
    from mesynth.core.errors import ConfigError
    from mesynth.corpus.filters import measure_corpus, parse_keep

    limits = parse_keep(keep)
    if out is None and not dry_run:
        raise ConfigError("give --out for the kept clips, or --dry-run to see how the corpus lies to the limits")
    with progress_bars() as bar:
        if out is None or dry_run:
            spreads = measure_corpus(corpus, limits, progress=bar("clips"))
        else:
            kept, rejected = filter_corpus(corpus, out, keep, progress=bar("clips"))
    if out is not None and not dry_run:
        reasons = dict(Counter(r.check for r in rejected).most_common())
        show_result(summary(kept, out) | {"rejected": len({r.clip_id for r in rejected}), "reasons": reasons}, as_json)
    elif as_json:
        echo_json({"corpus": str(corpus), "checks": [asdict(s) for s in spreads]})
    else:
        _show(corpus, spreads)


def _show(corpus: Path, spreads: list[Spread]) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    from mesynth.corpus.filters import COLUMNS

    table = Table(title=f"{corpus}: quantiles of each check", caption="nothing was written", box=SIMPLE, padding=0)
    for name in COLUMNS:
        table.add_column(name, justify="left" if name == "check" else "right")
    for found in spreads:
        table.add_row(*found.cells())
    Console().print(table)


# ------------------------------------------------------------------- publish


_CORPUS = click.argument("corpus", type=click.Path(path_type=Path))
# The names of mesynth.corpus.exports.run, which a test compares: importing it would slow every --help.
FORMS = ("flow-folders", "casme2", "samm", "webdataset", "huggingface", "frames", "previews", "flow-npy", "meb")


@click.command(
    epilog="""\b
Examples:
  mesynth export corpus --to casme2 --out casme2-like
  mesynth export corpus --to flow-folders --out flow28 --dry-run
  mesynth export corpus --to huggingface --workers 0 --out hub"""
)
@_CORPUS
@click.option("--to", "form", type=click.Choice(FORMS), required=True, help="Form of the export: see docs/exports.md.")
@click.option("--size", default=0, help="Side of flow pictures, pixels [default: flow-folders 28, meb 64].")
@click.option("--video", default="", help="Moving pictures of previews: mp4, webm, gif or apng [default: mp4].")
@click.option(
    "--frame", default="",
    help="flow-folders, flow-npy: take faces to eyes=0.57,row=0.25, or like:PREPARED [default: where they lie].",
)  # fmt: skip
@click.option("--no-train", is_flag=True, help="flow-folders: u_test alone, which holds every clip once.")
@click.option(
    "--workers", type=click.IntRange(min=0), default=1, show_default=True,
    help="Processes, 0: one per core; the bytes do not depend on it.",
)  # fmt: skip
@OUT
@share_options
@dry_run_option
@json_option
def export(
    corpus: Path,
    form: str,
    size: int,
    video: str,
    frame: str,
    no_train: bool,
    workers: int,
    out: Path,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Write CORPUS in a form that other code bases read, with the provenance of every clip beside it.

    Clips that the form cannot take are counted and listed with their reason in left_out.csv. The same command resumes.
    `mesynth prepare export` makes a corpus of an export again.
    """
    from mesynth.corpus.exports.form import Options
    from mesynth.corpus.exports.run import export as run
    from mesynth.corpus.exports.run import forecast
    from mesynth.store.manifest import Manifest
    from mesynth.store.remote import shown

    options = Options(size=size, video=video, train=not no_train, frame=frame)
    source = Manifest.read(corpus)
    if dry_run:
        expected = forecast(source, form, options)
        would = {"form": form, "out": shown(out), "clips": expected.clips, "left out": len(expected.left_out)}
        if as_json:
            echo_json(would | {"dry run": True})
        else:
            click.echo(
                f"would export {expected.clips} clips to {form} in {shown(out)}, {len(expected.left_out)} left out"
            )
            for entry in expected.left_out[:10]:
                click.echo(f"left out {entry.clip_id}: {entry.reason}", err=True)
        return
    with progress_bars() as bar:
        account = run(source, form, out, options, workers=workers, progress=bar("clips"))
    show_result(account.to_dict() | {"out": shown(out)}, as_json)


@click.command(
    epilog="""\b
Examples:
  mesynth generate --plan plan --shard 0/2 --out corpus
  mesynth generate --plan plan --shard 1/2 --out corpus
  mesynth merge corpus"""
)
@click.argument("folder", type=click.Path(path_type=Path))
@json_option
def merge(folder: Path, as_json: bool) -> None:
    """Close FOLDER, all of whose shards are made: of shares of generate, prepare, augment or export (--shard, srun).

    The last share does so itself; this is for a folder whose last share was stopped before it could. One that is closed
    is left as it is. Memory does not grow with the clips.
    """
    from mesynth.api import merge as run

    show_result(run(folder), as_json)


# ------------------------------------------------------------------- submit


SHARED = ("generate", "prepare", "export", "augment", "render")
"""Verbs whose work several processes share without a rendezvous."""


@click.command(
    context_settings={"ignore_unknown_options": True},
    epilog="""\b
Examples:
  mesynth submit generate --plan plan --out corpus --tasks 64 --slurm partition=cpu,time=120
  mesynth submit prepare casme2 --root /data/CASME2 --out prepared --slurm partition=cpu,time=60,mem_gb=8
  mesynth submit generate --plan plan --out corpus --tasks 2 --executor local --wait""",
)
@click.argument("verb", type=click.Choice(SHARED))
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[OPTIONS OF THE VERB]...")
@click.option(
    "--tasks", type=click.IntRange(min=1, max=10_000), default=8, show_default=True, help="Tasks of the array."
)
@click.option(
    "--slurm", default="", metavar="NAME=VALUE,...",
    help="Of a task: time (minutes or h:mm:ss), partition, account, qos, cpus_per_task, mem_gb, gres, constraint, "
    "array_parallelism, ... (sbatch's names).",
)  # fmt: skip
@click.option(
    "--executor", type=click.Choice(["slurm", "local"]), default="slurm", show_default=True,
    help="local: processes of this machine, to try a submission.",
)  # fmt: skip
@click.option(
    "--logs", type=click.Path(path_type=Path), help="Folder of the tasks' logs [default: OUT-logs beside the result]."
)
@click.option("--wait", is_flag=True, help="Until the last task has ended; a task that failed is an error then.")
@dry_run_option
@json_option
def submit(
    verb: str,
    words: tuple[str, ...],
    tasks: int,
    slurm: str,
    executor: str,
    logs: Path | None,
    wait: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Submit VERB to SLURM as an array by submitit: task i runs it with --shard i/N; the last one closes the folder.

    Needs submitit (pip install 'mesynth[cluster]') and, for the array, sbatch. The verb's own words are checked here,
    before anything is submitted. A task that ran out of time is made good by the same submission again.
    """
    from mesynth.cli import main
    from mesynth.store.schedulers import Submission

    given = main.commands[verb].make_context(f"mesynth {verb}", [*words, "--shard", f"0/{tasks}"]).params
    wanted = Submission.of([verb, *words], Path(given["out"]), tasks=tasks, slurm=slurm, executor=executor, logs=logs)
    if dry_run:
        click.echo(wanted.text())
        return
    show_result(wanted.submit(wait=wait), as_json)


@click.command(epilog="Example: mesynth card corpus --quality quality")
@_CORPUS
@click.option("--out", type=click.Path(path_type=Path), help="The card's file [default: README.md of the corpus].")
@click.option("--quality", type=click.Path(path_type=Path), help="Folder of `mesynth measure` on this corpus.")
@click.option("--title", default="Synthetic micro-expressions", show_default=True, help="Name of the data set.")
@click.option("--creator", default="", help="Who publishes it.")
@click.option("--url", default="", help="Where it is published.")
@json_option
def card(
    corpus: Path, out: Path | None, quality: Path | None, title: str, creator: str, url: str, as_json: bool
) -> None:
    """Write the dataset card (README.md) of CORPUS and its Croissant metadata (croissant.json) beside the card.

    The manifest is not touched. A README.md that this verb did not write is left alone.
    """
    from mesynth.corpus.card import corpus_config, corpus_facts, write_card, write_croissant
    from mesynth.store.manifest import Manifest

    manifest = Manifest.read(corpus)
    config = corpus_config(manifest, quality, title=title, creator=creator, url=url)
    facts = corpus_facts(manifest)
    with progress_bars() as bar:
        written = write_card(manifest, out, config, facts)
        metadata = write_croissant(manifest, facts, written.parent, config, progress=bar("files"))
    show_result({"card": str(written), "croissant": str(metadata), "clips": facts.clips}, as_json)


@click.command(
    epilog="""\b
Examples:
  mesynth verify corpus --json
  mesynth verify runs/motion/generator
  mesynth verify corpus --seal"""
)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--seal", is_flag=True, help="First list the files as they are: of old folders, or after a change meant.")
@json_option
def verify(folder: Path, seal: bool, as_json: bool) -> None:
    """Check every file of FOLDER, any that mesynth or recognizer wrote, against its digest list SHA256SUMS; of a corpus
    also every count, picture, array and provenance.

    Exit code 2 and one line that names the first problem where something is wrong; all problems are on stdout. Files
    that somebody put there later are named on stderr.
    """
    from mesynth.corpus.verify import require_clean, seal_again
    from mesynth.corpus.verify import verify as run
    from mesynth.store.remote import fetched

    folder = fetched(folder)
    if seal:
        click.echo(f"listed as they are: {seal_again(folder)} files of {folder}", err=True)
    with progress_bars() as bars:
        report = by_step(bars)
        verdict = run(folder, progress=partial(report, "clips"), files=partial(report, "files"))
    for note in verdict.notes:
        click.echo(f"note: {note}", err=True)
    if as_json:
        echo_json(verdict.to_dict())
    else:
        for problem in verdict.problems:
            click.echo(str(problem))
        if verdict.clean:
            counts = {"clips": verdict.clips, "frames": verdict.frames} if verdict.clips else {}
            kind = {"kind": verdict.kind} if verdict.kind else {}
            show_result(kind | counts | {"files": verdict.files, "problems": 0}, False)
    require_clean(verdict)


# ------------------------------------------------------------------- measure


@click.command(epilog="Example: mesynth measure --real prepared/casme2 --synthetic a --synthetic b --out report")
@click.option("--real", type=click.Path(path_type=Path), required=True, help="Prepared manifest folder.")
@click.option(
    "--synthetic",
    type=click.Path(path_type=Path),
    required=True,
    multiple=True,
    help="Generated manifest folder; repeat to compare several.",
)
@click.option("--training", type=click.Path(path_type=Path), help="What the generator learned from: is it repeated?")
@click.option("--clips", default=200, show_default=True, help="Clips of each side to measure (a seeded subset).")
@click.option(
    "--inception-weights", type=click.Path(path_type=Path), help="The 2015 Inception weights, for FID itself."
)
@click.option("--lpips-weights", type=click.Path(path_type=Path), help="torchvision's AlexNet, for LPIPS itself.")
@click.option(
    "--download",
    is_flag=True,
    help="Fetch what is missing: FID's Inception from github.com/mseitzer/pytorch-fid (96 MB), LPIPS's AlexNet from "
    "download.pytorch.org (244 MB).",
)
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="Processes that read the clips (0: one per core; 1: two threads); the figures do not depend on it.",
)
@click.option("--panel", type=click.Path(path_type=Path), help="Results of `mesynth panel --collect`: their rows, too.")
@device_option("cpu", "the picture networks and the AU judge run")
@SEED
@OUT
@share_options
@json_option
def measure(
    real: Path,
    synthetic: tuple[Path, ...],
    training: Path | None,
    clips: int,
    inception_weights: Path | None,
    lpips_weights: Path | None,
    download: bool,
    workers: int,
    panel: Path | None,
    device: str,
    seed: int,
    out: Path,
    as_json: bool,
) -> None:
    """Measure synthetic corpora against a real one: KID, Frechet distance, LPIPS, identity, AU control, flow.

    Writes report.html to read, and report.json, measures.csv and clips.csv to compute with. Measures whose
    weights are not on this machine are replaced by a named stand-in or reported as not measured; nothing is fetched
    without --download.
    """
    from mesynth.api import measure as run
    from mesynth.store.cluster import speaks

    with progress_bars() as bar:
        found = run(
            real, synthetic, out, training=training, clips=clips, seed=seed, inception_weights=inception_weights,
            lpips_weights=lpips_weights, download=download, workers=workers, panel=panel, device=device,
            command=_command(), progress=bar("measure"),
        )  # fmt: skip
    if not speaks():
        return
    if download:  # what was requested and did not come is said now, not only on the page
        told = {note for report in found.reports.values() for note in report.notes if "used instead of" in note}
        for note in sorted(told):
            click.echo(note, err=True)
    if as_json:
        echo_json(found.to_dict())
        return
    from rich.console import Console

    Console().print(found.table())
    click.echo(f"Open {out / 'report.html'}")


def _command() -> str:
    """The command line that is running, as a shell takes it."""
    import shlex
    import sys

    return shlex.join(["mesynth", *sys.argv[1:]])


@click.command(
    epilog="""\b
Examples:
  mesynth fid corpus pictures/ --save corpus.npz
  mesynth fid pictures/ statistics.npz --inception-weights FILE --published-resize"""
)
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("reference", type=click.Path(path_type=Path))
@click.option("--inception-weights", type=click.Path(path_type=Path), help="The 2015 Inception weights.")
@click.option(
    "--download", is_flag=True, help="Fetch the weights if missing, from github.com/mseitzer/pytorch-fid (96 MB)."
)
@click.option("--published-resize", is_flag=True, help="Resize as pytorch-fid did for statistics it cached.")
@click.option("--save", type=click.Path(path_type=Path), help="Write SOURCE's statistics here (.npz).")
@device_option("cpu", "the picture network runs")
@json_option
def fid(
    source: Path, reference: Path, inception_weights: Path | None, download: bool, published_resize: bool,
    save: Path | None, device: str, as_json: bool,
) -> None:  # fmt: skip
    """Frechet distance of SOURCE from REFERENCE: folders of pictures, corpora (their apex frames) or statistics.

    Without the Inception weights a named stand-in is used, whose numbers compare with nothing else; with --download
    there is none. Below a few thousand pictures FID is far above zero even for equal sets; `mesynth measure` tells KID
    with its interval.
    """
    from mesynth.api import fid as run

    with progress_bars() as bar:
        found, note = run(
            source, reference, inception_weights=inception_weights, download=download,
            published_resize=published_resize, save=save, device=device, progress=bar("pictures"),
        )  # fmt: skip
    show_result(asdict(found) | {"note": note}, as_json)
