"""The verb that plans a corpus: every clip as a row, before anything is made."""

from __future__ import annotations

from pathlib import Path

import click

from mesynth.clickutils import dry_run_option, echo_json, json_option


@click.command(
    epilog="""\b
Examples:
  mesynth plan configs/corpus/three_classes.yaml --faces faces/ --out plan
  mesynth plan configs/corpus/coded.yaml --faces faces/ --aus-from prepared/casme2 \\
      --exclude-subjects casme2/01 --set rows.count=5000 --out plan
  mesynth generate --plan plan --model motion_gan --out corpus"""
)
@click.argument("design", type=click.Path(path_type=Path))
@click.option("--faces", type=click.Path(path_type=Path), help="A picture, a folder of pictures, or a manifest.")
@click.option("--people", default=0, help="Instead of --faces, for flow images: this many people without pictures.")
@click.option("--aus-from", type=click.Path(path_type=Path), help="Prepared manifest whose coded AUs sources read.")
@click.option(
    "--exclude-subjects",
    default="",
    help="database/subject, comma-separated: neither their faces nor their labels take part.",
)
@click.option("--set", "settings", multiple=True, help="A setting of the design: rows.count=500; repeat for more.")
@click.option("--out", type=click.Path(path_type=Path), help="New folder for the plan.")
@dry_run_option
@json_option
def plan(
    design: Path,
    faces: Path | None,
    people: int,
    aus_from: Path | None,
    exclude_subjects: str,
    settings: tuple[str, ...],
    out: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Plan a corpus from a YAML design: one row a clip, and what it will come to."""
    from mesynth.corpus.design import load_design
    from mesynth.corpus.make_plan import draft_plan
    from mesynth.errors import ConfigError

    if out is None and not dry_run:
        raise ConfigError("give --out for the plan's folder, or --dry-run to only look at it")
    excluded = [key.strip() for key in exclude_subjects.split(",") if key.strip()]
    draft = draft_plan(
        load_design(design, settings), faces=faces, people=people, aus_from=aus_from, exclude=excluded
    )  # fmt: skip
    summary = draft.summary()
    if not as_json:
        click.echo(summary.text())
    written = {} if dry_run or out is None else {"out": str(out), "hash": draft.write(out).hash}
    if as_json:
        echo_json(summary.plain() | written)
    else:
        click.echo("dry run: nothing written" if dry_run else f"plan written to {out}")
