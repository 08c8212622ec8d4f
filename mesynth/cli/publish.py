"""Verbs that hand a corpus on: export, card and verify."""

from __future__ import annotations

from pathlib import Path

import click

from mesynth.cli.options import OUT
from mesynth.clickutils import dry_run_option, echo_json, json_option, progress_bars, show_result

_CORPUS = click.argument("corpus", type=click.Path(path_type=Path))
# The names of mesynth.corpus.exports.registry, which a test compares: importing it would slow every --help.
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
@click.option("--video", default="", help="Moving pictures of previews: gif or mp4 [default: gif].")
@click.option("--no-train", is_flag=True, help="flow-folders: u_test alone, which holds every clip once.")
@click.option(
    "--workers", type=click.IntRange(min=0), default=1, show_default=True,
    help="Processes, 0: one per core; the bytes do not depend on it.",
)  # fmt: skip
@OUT
@dry_run_option
@json_option
def export(
    corpus: Path,
    form: str,
    size: int,
    video: str,
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
    from mesynth.manifest import Manifest

    options = Options(size=size, video=video, train=not no_train)
    source = Manifest.read(corpus)
    if dry_run:
        expected = forecast(source, form, options)
        would = {"form": form, "out": str(out), "clips": expected.clips, "left out": len(expected.left_out)}
        if as_json:
            echo_json(would | {"dry run": True})
        else:
            click.echo(f"would export {expected.clips} clips to {form} in {out}, {len(expected.left_out)} left out")
            for entry in expected.left_out[:10]:
                click.echo(f"left out {entry.clip_id}: {entry.reason}", err=True)
        return
    with progress_bars() as bar:
        account = run(source, form, out, options, workers=workers, progress=bar("clips"))
    show_result(account.to_dict(), as_json)


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
    from mesynth.corpus.card import corpus_config, gather, write_card
    from mesynth.corpus.croissant import write_croissant
    from mesynth.manifest import Manifest

    manifest = Manifest.read(corpus)
    config = corpus_config(manifest, quality, title=title, creator=creator, url=url)
    facts = gather(manifest)
    with progress_bars() as bar:
        written = write_card(manifest, out, config, facts)
        metadata = write_croissant(manifest, facts, written.parent, config, progress=bar("files"))
    show_result({"card": str(written), "croissant": str(metadata), "clips": facts.clips}, as_json)


@click.command(epilog="Example: mesynth verify corpus --json")
@_CORPUS
@json_option
def verify(corpus: Path, as_json: bool) -> None:
    """Check every hash, count, picture, array and provenance of CORPUS.

    Exit code 2 and one line that names the first problem where something is wrong; all problems are on stdout.
    """
    from mesynth.corpus.verify import require_clean
    from mesynth.corpus.verify import verify as run

    with progress_bars() as bar:
        verdict = run(corpus, progress=bar("clips"))
    if as_json:
        echo_json(verdict.to_dict())
    else:
        for problem in verdict.problems:
            click.echo(str(problem))
        if verdict.clean:
            show_result(
                {"clips": verdict.clips, "frames": verdict.frames, "files": verdict.files, "problems": 0}, False
            )
    require_clean(verdict)
