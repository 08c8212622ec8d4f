"""The verb that asks people: panel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mesynth.cli.options import SEED
from mesynth.commandline import echo_json, json_option, progress_bars, show_result


@click.command(
    epilog="""\b
Examples:
  mesynth panel prepared/casme2 corpus --clips 40 --coders anna,ben,chris --out panel
  mesynth panel --collect panel answers-anna.json answers-ben.json
  mesynth measure --real prepared/casme2 --synthetic corpus --panel panel/results --out quality"""
)
@click.argument("inputs", nargs=-1, required=True, metavar="CORPUS... | ANSWERS.json...",
                type=click.Path(path_type=Path))  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path),
              help="New folder for the panel; with --collect, of the results [default: DIR/results].")  # fmt: skip
@click.option("--collect", type=click.Path(path_type=Path), metavar="DIR",
              help="Count the answers to the panel in DIR, which holds its key.json.")  # fmt: skip
@click.option("--clips", type=int, help="Clips to rate, repeats not counted [default: all, at most 60].")
@click.option("--per", help="Draw evenly over kind (real, rendered, synthetic), corpus, subject or emotion.",
              show_default="kind")  # fmt: skip
@click.option("--coders", help="Names of the coders, who then choose theirs: anna,ben [default: anyone].")
@click.option("--practice", type=int, help="Clips at the start that are not counted.", show_default="3")
@click.option("--repeats", type=int, help="Rated clips that come twice [default: one in eight].")
@click.option("--seconds", type=float, help="Cut every clip to this long around its apex [default: as long as it is].")
@click.option("--fps", type=float, help="Frames a second shown [default: the lowest of the corpora].")
@click.option("--size", type=int, help="Pixels a side [default: the smallest of the corpora, at most 512].")
@click.option("--bootstrap", help="With --collect: intervals draw subjects or clips anew.", show_default="subject")
@SEED
@json_option
def panel(
    inputs: tuple[Path, ...], out: Path | None, collect: Path | None, clips: int | None, per: str | None,
    coders: str | None, practice: int | None, repeats: int | None, seconds: float | None, fps: float | None,
    size: int | None, bootstrap: str | None, seed: int, as_json: bool,
) -> None:  # fmt: skip
    """Let FACS coders judge clips blindly: action units, naturalness, filmed or not; then count their answers.

    Writes OUT/for-coders, a page that works offline and from a folder, to be given to coders as it is, and
    OUT/key.json, which says what each clip is and stays with you. Coders send back the file that the page saves;
    --collect turns these into agreement (Krippendorff's alpha, Cohen's kappa), F1 and naturalness, with intervals.
    """
    from mesynth.core.errors import ConfigError

    making = {"clips": clips, "per": per, "coders": coders, "practice": practice, "repeats": repeats,
              "seconds": seconds, "fps": fps, "size": size}  # fmt: skip
    if collect is not None:
        for name, value in making.items():
            if value is not None:
                raise ConfigError(f"--{name} has no effect with --collect; leave it out")
        _collect(collect, inputs, out, bootstrap or "subject", seed, as_json)
        return
    if bootstrap is not None:
        raise ConfigError("--bootstrap has no effect without --collect; leave it out")
    if out is None:
        raise ConfigError("give --out for the panel's folder, or --collect DIR to count answers")
    from mesynth.metrics.report import corpus_names
    from mesynth.panel.write import CODERS, KEY, PAGE, PanelConfig, draft, write_panel
    from mesynth.store.manifest import Manifest

    given: dict[str, Any] = {name: value for name, value in making.items() if value is not None}
    if coders is not None:
        given["coders"] = tuple(name.strip() for name in coders.split(",") if name.strip())
    config = PanelConfig(**given, seed=seed)
    corpora = {name: Manifest.read(folder) for name, folder in zip(corpus_names(inputs), inputs, strict=True)}
    with progress_bars(shown=not as_json) as bar:
        report = bar("clips")
        made = draft(corpora, config, report)
        write_panel(made, out, progress=report)
    for clip, why in list(made.left_out.items())[:3]:
        click.echo(f"Warning: left out {clip}: {why}", err=True)
    if len(made.left_out) > 3:
        click.echo(f"Warning: left out {len(made.left_out) - 3} clips more", err=True)
    for note in made.notes:
        click.echo(f"Warning: {note}", err=True)
    show_result({"out": str(out)} | made.summary() | ({"notes": made.notes} if as_json else {}), as_json)
    if not as_json:
        click.echo(f"Give coders the folder {out / CODERS} ({PAGE} opens it); keep {out / KEY} to yourself.")
        click.echo(f"Then: mesynth panel --collect {out} answers-*.json")


def _collect(folder: Path, files: tuple[Path, ...], out: Path | None, bootstrap: str, seed: int, as_json: bool) -> None:
    from mesynth.panel.collect import answer, collect, read_all, read_key
    from mesynth.store.run_folder import require_name

    out = folder / "results" if out is None else out
    require_name(out)
    key = read_key(folder)
    answers = read_all(files, key)
    found = collect(key, answers, bootstrap=bootstrap, seed=seed)
    written = found.write(out, answers, key)
    if as_json:
        echo_json(found.to_dict())
        return
    click.echo(answer(found))
    click.echo(f"Open {written[-1]}")
