"""The verb that leaves out clips which fail a check, and says which and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mesynth.cli.options import summary
from mesynth.clickutils import echo_json, json_option, progress_bars, show_result

if TYPE_CHECKING:
    from mesynth.quality.filters import Spread


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
    from mesynth.errors import ConfigError
    from mesynth.quality.checks import parse_keep
    from mesynth.quality.filters import filter_corpus, measure_corpus

    limits = parse_keep(keep)
    if out is None and not dry_run:
        raise ConfigError("give --out for the kept clips, or --dry-run to see how the corpus lies to the limits")
    with progress_bars() as bar:
        if out is None or dry_run:
            spreads = measure_corpus(corpus, limits, progress=bar("clips"))
        else:
            kept, rejected = filter_corpus(corpus, out, limits, progress=bar("clips"))
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

    from mesynth.quality.filters import COLUMNS

    table = Table(title=f"{corpus}: quantiles of each check", caption="nothing was written", box=SIMPLE, padding=0)
    for name in COLUMNS:
        table.add_column(name, justify="left" if name == "check" else "right")
    for found in spreads:
        table.add_row(*found.cells())
    Console().print(table)
