"""The verb that leaves out clips which fail a check, and says which and why."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from mesynth.cli.options import OUT, summary
from mesynth.clickutils import json_option, progress_bars, show_result


@click.command("filter", epilog="Example: mesynth filter corpus --keep identity=0.3,control,duplicate --out kept")
@click.argument("corpus", type=click.Path(path_type=Path))
@click.option(
    "--keep",
    default="",
    show_default="all checks, at identity=0.6, control=2, artefact=0.02, duplicate=0.01",
    help="Checks with their limits: identity (embedding distance onset-apex), control (largest AU error, 0-5), "
    "artefact (share of the face that is not the onset moved), duplicate (relative difference of flows).",
)
@OUT
@json_option
def filter_(corpus: Path, keep: str, out: Path, as_json: bool) -> None:
    """Keep the clips of a corpus that pass; list the others with check, value and limit in rejected.csv.

    The new manifest points into the corpus's shards; nothing is copied.
    """
    from mesynth.quality.filters import filter_corpus, parse_keep

    limits = parse_keep(keep)
    with progress_bars() as bar:
        kept, rejected = filter_corpus(corpus, out, limits, progress=bar("clips"))
    reasons = dict(Counter(r.check for r in rejected).most_common())
    show_result(summary(kept, out) | {"rejected": len({r.clip_id for r in rejected}), "reasons": reasons}, as_json)
