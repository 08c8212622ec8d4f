"""Make the recognizer that ships, recognizer/shipped: a corpus of flow images, a discriminant that learns them, a card.

    python scripts/ship_recognizer.py
    python scripts/ship_recognizer.py --data prepared/flow --about "half of the subjects of MEGC 2019's flow images"

No database takes part in making it. ``--data`` (prepared clips, any number of folders) measures it on real ones, and
its card and figures.json say what it reached; figures are kept as long as the weights are those they were measured on.
The same command gives the same bytes on the same machine, in half a minute.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

import mesynth
import recognizer
from mesynth.config import find_recipe
from mesynth.core.errors import MesynthError
from mesynth.store.digests import seal
from recognizer.results import LosoResult
from recognizer.trained import CARD, FIGURES, SHIPPED_FOLDER, Recognizer

RECIPE = "recognizer/shipped"
CLASSES = "negative,positive,surprise"
COUNT, SEED = 3000, 1
FRAME = "eyes=.575,height=.495,row=.203,column=.4875"
"""The crop that all databases of the published flow images show, as `mesynth prepare` finds it without a label. Clips
of any wider crop, ours among them, can be taken there."""
LARGEST = 200_000


def main() -> None:
    """Generate, train, measure, write the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=SHIPPED_FOLDER)
    parser.add_argument("--count", type=int, default=COUNT, help="flow images")
    parser.add_argument("--data", type=Path, action="append", default=[], help="prepared real clips to measure it on")
    parser.add_argument("--about", default="", help="what those clips are, for the card")
    options = parser.parse_args()
    if options.about and not options.data:
        raise MesynthError("--about says what --data is; give both")
    # Sums of floats depend on how many threads share them.
    with tempfile.TemporaryDirectory() as work, threadpool_limits(1):
        made = _made(Path(work), options.count)
        figures = _figures(made, options.data, options.about) if options.data else _kept(options.out, made)
        with open(made / CARD, "a", encoding="utf-8") as card:
            card.write(_section(figures, options.count))
        if figures:
            (made / FIGURES).write_text(json.dumps(figures, indent=1) + "\n")
        seal(made)
        size = sum(file.stat().st_size for file in made.iterdir())
        if size > LARGEST:
            raise MesynthError(f"the recognizer has {size:,} bytes, more than the {LARGEST:,} that may ship")
        shutil.rmtree(options.out, ignore_errors=True)
        shutil.copytree(made, options.out)
    print(f"{options.out}: {size:,} bytes; figures: {_line(figures) if figures else 'not measured, see --data'}")


def _made(work: Path, count: int) -> Path:
    corpus = mesynth.generate(kind="flow", emotion=CLASSES, count=count, seed=SEED, frame=FRAME, out=work / "corpus")
    config = recognizer.load_config(recognizer.RunConfig, find_recipe(RECIPE))
    trained = recognizer.train(None, corpus, config, out=work / "made")
    if trained.subjects_seen:
        raise MesynthError(f"it has seen {min(trained.subjects_seen)}; what ships has seen nobody")
    for passing in work.joinpath("made").glob(".*"):  # locks
        passing.unlink()
    return work / "made"


def _kept(out: Path, made: Path) -> dict[str, Any]:
    """Figures measured before, of these very weights."""
    try:
        found: dict[str, Any] = json.loads((out / FIGURES).read_text())
    except (OSError, ValueError):
        return {}
    return found if found.get("weights_sha256") == Recognizer.load(made).sha256 else {}


def _figures(made: Path, data: list[Path], about: str) -> dict[str, Any]:
    result: LosoResult = recognizer.loso(data, model=made)
    subjects = result.predictions["subject"].to_pylist()
    return {
        "about": about or ", ".join(result.per_database), "clips": result.metrics.n, "subjects": len(set(subjects)),
        "uf1": result.uf1.to_dict(), "uar": result.uar.to_dict(),
        "recall": dict(zip(result.metrics.classes, result.metrics.recall, strict=True)),
        "databases": {
            name: {"clips": m.n, "classes": list(m.classes), "uf1": m.uf1, "uar": m.uar}
            for name, m in result.per_database.items()
        },
        "notes": list(result.notes[1:]),  # the first one says that it is zero-shot
        "weights_sha256": Recognizer.load(made).sha256,
    }  # fmt: skip


def _line(figures: dict[str, Any]) -> str:
    uf1, uar = figures["uf1"], figures["uar"]
    return (
        f"UF1 {uf1['value']:.3f} [{uf1['low']:.3f}, {uf1['high']:.3f}], "
        f"UAR {uar['value']:.3f} [{uar['low']:.3f}, {uar['high']:.3f}]"
    )


_WHOSE = """
Nobody's: {count:,} flow images of the flow prior, which moves face shapes of a 3D head (CC0) by action units drawn from
published tables. No clip, picture or network of a database took part. It has seen no subject of any, and may be tested
on all of them.
"""
_MEASURED = """
Zero-shot on {clips} clips of {subjects} subjects ({about}): this one model answers every clip. Pooled counts, 95 %
intervals of a bootstrap over subjects: {line}. Recall: {recall}.
"""
_HOW = """
The framing is near that of the public flow images, and the flow prior was developed with figures of these databases in
view: these are development figures.
"""
_LIMITS = """
Three classes. Its probabilities are not calibrated. It reads one flow image from onset to apex, both sides of the face
averaged, and was measured on frontal faces of laboratory databases alone.
"""


def _section(figures: dict[str, Any], count: int) -> str:
    lines = ["", "## Whose data is in it", "", _wrapped(_WHOSE, count=count), "", "## Figures on real clips", ""]
    if figures:
        recall = ", ".join(f"{name} {value:.2f}" for name, value in figures["recall"].items())
        rows = figures["databases"].items()
        lines += [
            _wrapped(_MEASURED, line=_line(figures), **(figures | {"recall": recall})), "",
            "| database | clips | UF1 | UAR |", "|---|---|---|---|",
            *(f"| {name} | {d['clips']} | {d['uf1']:.3f} | {d['uar']:.3f} |" for name, d in rows), "", _wrapped(_HOW),
        ]  # fmt: skip
    else:
        lines += ["Not measured yet: `python scripts/ship_recognizer.py --data PREPARED`."]
    lines += [
        "", "## Limits", "", _wrapped(_LIMITS), "", "## Make it again", "", "```bash",
        "python scripts/ship_recognizer.py", "```", "", "which is", "", "```bash",
        f"mesynth generate --kind flow --emotion {CLASSES} --count {count} --seed {SEED} \\",
        f"    --frame {FRAME} --out corpus",
        f"recognizer train {RECIPE} --synthetic corpus --out shipped", "```", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _wrapped(text: str, **values: Any) -> str:
    return textwrap.fill(" ".join(text.format(**values).split()), 120)


if __name__ == "__main__":
    try:
        main()
    except MesynthError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
