"""Verbs that tell: measure, fid, doctor and quickstart."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mesynth.cli.options import OUT, SEED, WORKERS
from mesynth.commandline import echo_json, json_option, progress_bars, show_result

if TYPE_CHECKING:
    from mesynth.store.weights import Need


def all_needs() -> list[Need]:
    """One row per piece, whether it is here or not."""
    from mesynth.metrics.networks.weights import needs as quality_needs
    from mesynth.preprocess.flow import need as raft_need
    from mesynth.preprocess.landmarks import needs as landmark_needs

    return [*landmark_needs(), raft_need(), *quality_needs()]


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
@SEED
@OUT
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

    with progress_bars() as bar:
        found = run(
            real, synthetic, out, training=training, clips=clips, seed=seed, inception_weights=inception_weights,
            lpips_weights=lpips_weights, download=download, workers=workers, panel=panel, command=_command(),
            progress=bar("measure"),
        )  # fmt: skip
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
@json_option
def fid(
    source: Path, reference: Path, inception_weights: Path | None, download: bool, published_resize: bool,
    save: Path | None, as_json: bool,
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
            published_resize=published_resize, save=save, progress=bar("pictures"),
        )  # fmt: skip
    show_result(asdict(found) | {"note": note}, as_json)


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
    from mesynth.quickstart.pipeline import Scale, run

    with progress_bars() as bar:
        page = run(out, photo=photo, scale=Scale(subjects=subjects), seed=seed, workers=workers, progress=bar)
    click.echo(f"Open {page}")
