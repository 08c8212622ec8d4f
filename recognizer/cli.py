"""`recognizer`: loso, ablate, study, train, import, predict, spot. Verbs import torch themselves: --help is quick."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mesynth.commandline import (
    MistakeGroup,
    Verb,
    by_step,
    dry_run_option,
    echo_json,
    engine_options,
    json_option,
    list_recipes_option,
    progress_bars,
)

if TYPE_CHECKING:
    from mesynth.store.manifest import Manifest
    from recognizer.config import AblationConfig, RunConfig
    from recognizer.trained import Recognizer


Command = TypeVar("Command", bound=Callable[..., Any])
Config = TypeVar("Config", "RunConfig", "AblationConfig")


@click.group(cls=MistakeGroup, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Recognize micro-expressions under leak-safe protocols.

    Settings are a recipe (a YAML file, or a name: loso --list) and key=value pairs; what is used is saved with every
    run.

    Example: recognizer loso --real corpora/casme2 model=capsule_graph --out runs/casme2
    """


def _out(command: Command) -> Command:
    return click.option(
        "--out",
        required=True,
        type=click.Path(path_type=Path),
        help="Folder for the results; the same command resumes.",
    )(command)


@dataclass(frozen=True, kw_only=True)
class _Inputs:
    """What loso, ablate and train are given alike."""

    settings: tuple[str, ...]
    real: tuple[Path, ...]
    synthetic: tuple[Path, ...]
    out: Path
    as_json: bool
    dry_run: bool

    def require_real(self, verb: str) -> None:
        """Raise ConfigError where no real clips are given to a verb that tests on them."""
        from mesynth.core.errors import ConfigError

        if not self.real:
            raise ConfigError(f"{verb} tests on real clips and has none; pass --real")

    def of(self, kind: type[Config], **more: Any) -> Config:
        """The configuration that the settings make."""
        from recognizer.config import load_config

        return load_config(kind, *_split(self.settings), **more)


def _on_corpora(recipes: str, *own: Callable[[Command], Command]) -> Callable[[Callable[..., None]], Command]:
    """A verb over real and synthetic corpora: its function takes :class:`_Inputs` and what ``own`` options give.

    ``recipes``: the folder of the recipes that --list shows.
    """

    def verb(run: Callable[..., None]) -> Any:
        @functools.wraps(run)
        def packed(
            settings: tuple[str, ...], real: tuple[Path, ...], synthetic: tuple[Path, ...], out: Path, as_json: bool,
            dry_run: bool, **more: Any,
        ) -> None:  # fmt: skip
            synthetic, settings = _corpora(synthetic, settings)
            inputs = _Inputs(
                settings=settings, real=real, synthetic=synthetic, out=out, as_json=as_json, dry_run=dry_run
            )
            run(inputs, **more)

        path = click.Path(path_type=Path)
        options: list[Callable[[Any], Any]] = [
            click.argument("settings", nargs=-1, metavar="[RECIPE] [KEY=VALUE]..."),
            list_recipes_option(recipes),
            click.option(
                "--real", multiple=True, type=path,
                help="Folder of real clips; may be given more than once.",
            ),
            click.option(
                "--synthetic", multiple=True, type=path,
                help="Folder of a synthetic corpus; may be given more than once.",
            ),
            _out,
            *own,
            json_option,
            dry_run_option,
        ]  # fmt: skip
        command: Any = packed
        for option in reversed(options):
            command = option(command)
        return main.command(cls=Verb, former=_FORMER)(command)

    return verb


_FORMER = {"--manifest": "--real", "--set": ""}


@_on_corpora(
    "recognizer",
    click.option(
        "--also-oracle", is_flag=True,
        help="Add the figure whose point of training is picked on the test clips: leaked, only to compare with papers.",
    ),
    click.option(
        "--model", metavar="FOLDER|shipped",
        help="Test this trained recognizer as it is (zero-shot): a folder that `recognizer train` wrote, or shipped.",
    ),
)  # fmt: skip
def loso(given: _Inputs, also_oracle: bool, model: str | None) -> None:
    """Test one model by leave-one-subject-out (or protocol.kind=kfold, lovo, lodo, cde, hde).

    Example: recognizer loso recognizer/lda mix.ratio=2 --real corpora/casme2 --synthetic corpora/made
    --out runs/lda

    Example: recognizer loso --model shipped --real corpora/casme2 --out runs/shipped
    """
    from mesynth.core.process import launched
    from mesynth.store.run_folder import write_beside
    from recognizer.config import RunConfig
    from recognizer.report import loso_markdown, loso_notes, loso_tables, terminal
    from recognizer.run import loso as run
    from recognizer.run import zero_shot_plan

    given.require_real("loso")
    recognizer = None if model is None else _trained(model, given)
    config = given.of(RunConfig, synthetic=bool(given.synthetic))
    clips, made = _read(given.real), _read(given.synthetic)
    if given.dry_run:
        if recognizer is not None:
            _say(zero_shot_plan(clips, made or None, recognizer, config, also_oracle=also_oracle), given.as_json)
            return
        _plan(config, clips, made, given.as_json)
        return
    with progress_bars() as bars:
        bar = by_step(bars)
        result = run(
            clips, made or None, config, model=recognizer, out=given.out, also_oracle=also_oracle, progress=bar
        )
    if launched()[0]:  # the first process speaks for all
        return
    write_beside(given.out / "report.md", loso_markdown(result).encode())
    if given.as_json:
        echo_json(result.to_dict())
        return
    for title, header, rows in loso_tables(result):
        terminal(title, header, rows)
    for note in loso_notes(result):
        click.echo(note)
    click.echo(f"written: {given.out}")


@_on_corpora("ablation", engine_options)
def ablate(given: _Inputs, engine: str, address: str, gpus: float) -> None:
    """Does synthetic data help? Models x mixing modes x sources x real subjects x ratios x seeds, with controls.

    Every finished cell is kept, so the same command goes on where it was stopped; under `accelerate launch` or torchrun
    the cells are shared over the processes, with --engine ray they are tasks of a Ray cluster. Look at ablation.html
    first.

    Example: recognizer ablate ablation/ratio "ratios=[0,1,2]" --real corpora/casme2
    --synthetic corpora/made --out runs/ablation
    """
    from mesynth.core.errors import ConfigError
    from mesynth.core.process import launched
    from mesynth.store.cluster import on_engine
    from mesynth.store.schedulers import RayEngine
    from recognizer.ablation import ablate as run
    from recognizer.ablation import plan
    from recognizer.config import AblationConfig
    from recognizer.report import ablation_table, ablation_verdicts, tally, terminal, worded

    given.require_real("ablate")
    if not given.synthetic:
        raise ConfigError("an ablation compares with synthetic clips; pass --synthetic or data.synthetic=[...]")
    config = given.of(AblationConfig)
    clips, made = _read(given.real), _read(given.synthetic)
    if given.dry_run:
        with progress_bars() as bars:
            facts = plan(clips, made, config, progress=by_step(bars))
        _say(facts, given.as_json)
        return
    if launched()[0]:  # the first process speaks for all
        run(clips, made, config, out=given.out)
        return
    with progress_bars() as bars, on_engine(RayEngine.of(engine, address, gpus)):
        bar = by_step(bars)
        result = run(clips, made, config, out=given.out, progress=bar)
    if given.as_json:
        echo_json(result.to_dict())
        return
    title, header, rows = ablation_table(result)
    terminal(title, [worded(name, config) for name in header], rows)
    for line in [*ablation_verdicts(result), *result.notes, tally(result)]:
        click.echo(worded(line, config))
    click.echo(f"written: {given.out} (ablation.html, ablation.parquet, curve.png, report.md, ...)")


@main.command(cls=Verb)
@click.argument("settings", nargs=-1, metavar="[STUDY] [KEY=VALUE]...")
@list_recipes_option("study")
@_out
@json_option
@dry_run_option
def study(settings: tuple[str, ...], out: Path, as_json: bool, dry_run: bool) -> None:
    """Does synthetic data help on this database? From prepared clips to the paper's table, in one command.

    STUDY is a YAML file or a name (--list) [default: study/default where real= names a database, else study/quick, on
    rendered people, to try it]. Generators are fine-tuned without the people a fold tests on, corpora are made and
    measured, an ablation compares; OUT/report.html answers, OUT/tables, figures, methods.tex and references.bib go into
    the paper. Every part is a command in a folder of its own; the same command goes on where it was stopped. --dry-run
    lists them, with hours and bytes.

    Example: recognizer study --out runs/quick

    Example: recognizer study "real=[prepared/casme2]" --dry-run --out runs/study

    Example: recognizer study my-study.yaml --out runs/study
    """
    from recognizer.study import forecast, load_study, run_study

    recipe, given = _split(settings)
    if recipe is None:
        named = any(setting.startswith("real=") for setting in given)
        config = load_study("study/default" if named else "study/quick", given)
    else:
        config = load_study(recipe, given)
    if dry_run:
        from recognizer.study_report import expected_lines, expected_plain

        found = forecast(config, out, say=lambda text: click.echo(text, err=True))
        if as_json:
            echo_json(expected_plain(found))
            return
        for line in expected_lines(found):
            click.echo(line)
        return
    with progress_bars() as bars:
        result = run_study(config, out, progress=bars, say=lambda text: click.echo(text, err=True))
    if as_json:
        echo_json(result.to_dict())
        return
    click.echo(result.answer)
    click.echo(f"written: {out} (report.html, tables, figures, methods.tex, references.bib, ablation, ...)")


@_on_corpora("recognizer")
def train(given: _Inputs) -> None:
    """Train one model on everything and save it for `recognizer predict`.

    Without --real it learns from synthetic clips alone, and has seen nobody whom those or their makers do not show.

    Example: recognizer train --real corpora/casme2 model=lda --out models/lda

    Example: recognizer train recognizer/shipped --synthetic corpora/made --out models/zero-shot
    """
    from recognizer.config import RunConfig
    from recognizer.trained import train as run
    from recognizer.trained import training_clips, training_notes

    config = given.of(RunConfig, synthetic=bool(given.synthetic))
    clips, made = _read(given.real), _read(given.synthetic)
    real, synthetic, _, config = training_clips(clips, made or None, config)
    if given.dry_run:
        facts = {"model": config.model, "rows": sum(map(len, clips)), "synthetic_rows": sum(map(len, made))}
        notes = training_notes(real, synthetic, config)
        _say(facts | {"out": str(given.out)} | ({"notes": notes} if notes else {}), given.as_json)
        return
    with progress_bars() as bars:
        bar = by_step(bars)
        model = run(clips or None, made or None, config, out=given.out, progress=bar)
    for note in training_notes(real, synthetic, config):
        click.echo(f"note: {note}", err=True)
    facts = {"model": config.model, "n_parameters": model.members.n_parameters, "subjects": len(model.subjects_seen)}
    _say(facts | {"out": str(given.out)}, given.as_json)


@main.command("import")
@click.option("--weights", required=True, type=click.Path(path_type=Path), help="SUBJECT.pth of STSTNet's authors.")
@_out
@json_option
def import_weights(weights: Path, out: Path, as_json: bool) -> None:
    """Make a recognizer of weights that STSTNet's authors published, for `recognizer predict`.

    The file's name says whom it holds out; everyone else of the MEGC 2019 composite counts as seen.

    Example: recognizer import --weights STSTNet_Weights/006.pth --out models/ststnet-006
    """
    from recognizer.trained import import_published

    model = import_published(weights, out)
    facts = {"model": model.config.model, "n_parameters": model.members.n_parameters}
    _say(facts | {"subjects": len(model.subjects_seen), "out": str(out)}, as_json)


@main.command(cls=Verb)
@click.argument("manifest", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--codes", metavar="AU,AU,...", help="These AUs [default: the 12 of CD6ME].")
@json_option
def aus(manifest: tuple[Path, ...], codes: str | None, as_json: bool) -> None:
    """Clips that show each action unit, a row a database, as CD6ME's table of AUs.

    Any folder with a manifest will do: clips need no flow. AUs that are not known of a clip are no clips without them,
    and are said.

    Example: recognizer aus prepared/casme2 prepared/samm
    """
    from recognizer.aus import CD6ME
    from recognizer.data import count_aus
    from recognizer.report import terminal

    header, rows, notes = count_aus(manifest, CD6ME if codes is None else _codes(codes))
    if as_json:
        echo_json({"header": header, "rows": rows, "notes": notes})
        return
    terminal("Clips that show each AU", header, [[str(cell) for cell in row] for row in rows])
    for note in notes:
        click.echo(note)


def _codes(text: str) -> tuple[int, ...]:
    from mesynth.core.errors import ConfigError

    try:
        return tuple(int(part.strip().upper().removeprefix("AU")) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--codes={text} is no list of AUs; write them like --codes 1,2,4,12") from None


@main.command()
@click.option(
    "--model", default="shipped", show_default=True, metavar="FOLDER|shipped",
    help="A folder that `recognizer train` wrote, or the recognizer that comes with the package.",
)  # fmt: skip
@click.option("--manifest", multiple=True, type=click.Path(path_type=Path), help="Prepared clips with flow.")
@click.option("--video", type=click.Path(path_type=Path), help="A video, or a folder of its frames.")
@click.option("--fps", type=float, help="With --video: its frame rate [default: what the file states].")
@click.option(
    "--interval", multiple=True, metavar="ONSET,APEX,OFFSET",
    help="With --video: classify these frames (from 0; APEX may be left out) instead of what is spotted.",
)  # fmt: skip
@click.option(
    "--landmarker", default="auto", show_default=True,
    help="With --video: face-alignment, mediapipe, or auto (the one that the training clips had).",
)  # fmt: skip
@_out
@json_option
@dry_run_option
def predict(
    model: str,
    manifest: tuple[Path, ...],
    video: Path | None,
    fps: float | None,
    interval: tuple[str, ...],
    landmarker: str,
    out: Path,
    as_json: bool,
    dry_run: bool,
) -> None:
    """Class probabilities for every clip of a manifest, or for the micro-expressions spotted in a video.

    Writes predictions.parquet; for a video also intervals.json, timeline.png and the prepared clips. Without --model,
    the recognizer that comes with the package answers, which learned from synthetic clips alone.

    Example: recognizer predict --video interview.mp4 --out runs/interview

    Example: recognizer predict --model models/lda --manifest corpora/new --out runs/new

    Example: recognizer predict --model models/lda --video interview.mp4 --out runs/interview
    """
    from mesynth.core.errors import ConfigError

    if bool(manifest) == (video is not None):
        what = "both --manifest and --video" if manifest else "neither --manifest nor --video"
        raise ConfigError(f"{what} given; predict takes one of the two: prepared clips, or a recording to spot them in")
    if video is not None:
        _predict_video(model, video, fps, interval, landmarker, out, as_json, dry_run)
        return
    if fps is not None or interval or landmarker != "auto":
        raise ConfigError("--fps, --interval and --landmarker have no effect on prepared clips; they go with --video")
    from mesynth.store.digests import seal
    from mesynth.store.run_folder import claim_folder, only_writer
    from recognizer.report import worded
    from recognizer.results import write_table
    from recognizer.trained import predict as run

    recognizer, clips = _loaded(model), _read(manifest)
    if dry_run:
        _say({"model": recognizer.config.model, "rows": sum(map(len, clips)), "out": str(out)}, as_json)
        return
    claim_folder(out, {"verb": "predict", "weights": recognizer.sha256, "manifest": [m.hash() for m in clips]})
    with only_writer(out), progress_bars() as bars:
        bar = by_step(bars)
        result = run(recognizer, clips, progress=bar)
        write_table(result.table, out / "predictions.parquet")
        seal(out)
    facts = result.to_dict() | {"out": str(out)}
    if as_json:
        echo_json(facts)
        return
    for note in result.notes:
        click.echo(f"note: {note}", err=True)
    click.echo(f"{facts['n']} clips -> {out / 'predictions.parquet'}")
    if result.n_seen:
        click.echo(f"{result.n_seen} of them show subjects the model learned from: their results are no test")
    if result.metrics:
        what = worded("UF1", recognizer.config)
        click.echo(f"labelled clips of other subjects: n {result.metrics['n']}, {what} {result.metrics['uf1']:.3f}")


@main.command(cls=Verb)
@click.argument("videos", type=click.Path(path_type=Path))
@click.option(
    "--method", type=click.Choice(["movement", "softnet"]), default="movement", show_default=True,
    help="movement: what comes and goes within half a second, learns nothing; softnet: a network, trained once a "
    "subject on all others.",
)  # fmt: skip
@click.option(
    "--expression", type=click.Choice(["micro", "macro", "all"]), default="all", show_default=True,
    help="Kinds to find and to score.",
)  # fmt: skip
@click.option("--train", "training", is_flag=True, help="Save a softnet spotter of everybody instead of testing one.")
@click.option("--spotter", type=click.Path(path_type=Path), help="Spot by this saved spotter.")
@click.option(
    "--predictions", type=click.Path(path_type=Path), metavar="CSV",
    help="Score these intervals: subject, video, onset, offset, and expression and emotion where they are known.",
)  # fmt: skip
@click.option(
    "--recognizer", metavar="FOLDER|shipped",
    help="Say by this trained recognizer which class each interval is of, and score that, too (STRS).",
)  # fmt: skip
@click.option(
    "--flow", type=click.Choice(["tvl1", "dis", "raft"]), default="tvl1", show_default=True, help="softnet's."
)
@click.option("--labels", type=click.Choice(["step", "iou"]), default="step", show_default=True, help="softnet's.")
@click.option("--epochs", type=int, default=10, show_default=True, help="softnet's.")
@click.option("--seed", default=0, show_default=True, help="softnet's.")
@click.option("--iou", type=float, default=0.5, show_default=True, help="Least overlap of a true positive.")
@click.option(
    "--landmarker", default="auto", show_default=True,
    help="face-alignment, mediapipe, a .csv or .npz of points, or auto (landmarks.npz beside the videos, if any).",
)  # fmt: skip
@_out
@json_option
@dry_run_option
def spot(
    videos: Path,
    method: str,
    expression: str,
    training: bool,
    spotter: Path | None,
    predictions: Path | None,
    recognizer: str | None,
    flow: str,
    labels: str,
    epochs: int,
    seed: int,
    iou: float,
    landmarker: str,
    out: Path,
    as_json: bool,
    dry_run: bool,
) -> None:
    """Find expressions in long videos and score what is found as the challenges do.

    VIDEOS is a folder with videos.csv and intervals.csv, as `mesynth render --long` and `mesynth prepare DATABASE
    --long-videos` write it. OUT/predictions.csv has the intervals, OUT/videos.csv the counts of every video,
    OUT/scores.json the figures: precision, recall and F1 at IoU .5 over summed counts, with intervals over subjects,
    and the spot-then-recognize score where intervals have emotions. The same command goes on where it was stopped.

    Example: recognizer spot long --out runs/movement

    Example: recognizer spot long --method softnet --flow dis --out runs/softnet
    """
    from mesynth.core.errors import ConfigError
    from mesynth.store.long_videos import LongVideos
    from recognizer.report import terminal
    from recognizer.spotter import spot as run
    from recognizer.spotter import train_spotter
    from recognizer.spotting import table

    context, commandline = click.get_current_context(), click.core.ParameterSource.COMMANDLINE
    given = {name for name in context.params if context.get_parameter_source(name) == commandline}
    learned = {"flow", "labels", "epochs", "seed"} & given
    if learned and (spotter or predictions or (method == "movement" and not training)):
        raise ConfigError(f"--{min(learned)} has no effect: nothing is trained; give --method softnet, or leave it out")
    if training and (spotter or predictions or recognizer):
        raise ConfigError("--train makes a spotter; --spotter, --predictions and --recognizer use one: leave one out")
    if spotter and "expression" in given:
        raise ConfigError("--expression has no effect beside --spotter, which finds one kind; leave it out")
    if dry_run:
        found = LongVideos.read(videos)
        people = len({video.person for video in found.videos})
        facts = {"videos": len(found.videos), "people": people, "intervals": len(found.intervals), "out": str(out)}
        _say({"method": "softnet" if training else method} | facts, as_json)
        return
    with progress_bars() as bars:
        settings = {"flow": flow, "labels": labels, "epochs": epochs, "seed": seed, "landmarker": landmarker}
        if training:
            made = train_spotter(videos, out=out, expression=expression, progress=by_step(bars), **settings)  # type: ignore[arg-type]
            _say({"spotter": str(out), "subjects": len(made.subjects_seen)}, as_json)
            return
        result = run(
            videos, out=out, method=method, expression=expression, spotter=spotter, predictions=predictions,
            recognizer=recognizer, iou=iou, progress=by_step(bars), **settings,  # type: ignore[arg-type]
        )  # fmt: skip
    if as_json:
        echo_json(result.to_dict() | {"out": str(out)})
        return
    terminal(f"Spotting, IoU {iou:g}", *table(result))
    if recognition := result.to_dict().get("recognition"):
        click.echo(
            f"of {recognition['n']} spotted: recognition F1 {recognition['f1']:.3f}, STRS {recognition['strs']:.3f}"
        )
    if method == "movement" and not (spotter or predictions) and "macro" in result.kinds:
        click.echo("note: the movement signal finds micro-expressions alone; macro-expressions count as missed")
    click.echo(f"written: {out} (predictions.csv, videos.csv, scores.json)")


def _predict_video(
    model: str,
    video: Path,
    fps: float | None,
    intervals: tuple[str, ...],
    landmarker: str,
    out: Path,
    as_json: bool,
    dry_run: bool,
) -> None:
    from recognizer.recording import Interval, Recording
    from recognizer.video import predict_video

    recognizer = _loaded(model)
    if dry_run:
        recognizer.preparation.require_one()
        recording = Recording.open(video, fps)
        given = [Interval.parse(text, recording) for text in intervals]
        facts = {"model": recognizer.config.model, "frames": len(recording.names), "fps": recording.fps}
        _say(facts | {"intervals": len(given) or "to be spotted", "out": str(out)}, as_json)
        return
    with progress_bars() as bars:
        result = predict_video(
            recognizer, video, out=out, fps=fps, landmarker=landmarker, intervals=intervals,
            identity=recognizer.sha256, progress=by_step(bars),
        )  # fmt: skip
    if as_json:
        echo_json({key: value for key, value in result.facts.items() if key != "signal"} | {"out": str(out)})
        return
    for note in result.facts["notes"]:
        click.echo(f"note: {note}", err=True)
    for left in result.facts["left_out"]:
        click.echo(f"left out at frame {left['frame']}: {left['reason']}", err=True)
    for line in result.lines():
        click.echo(line)
    click.echo(f"written: {out} (timeline.png, intervals.json, predictions.parquet, clips)")


# ---------------------------------------------------------------- shared


def _loaded(name: str) -> Recognizer:
    """The recognizer that --model names; says so where that could be two."""
    from recognizer.trained import Recognizer, named_twice

    recognizer = Recognizer.load(name)
    if note := named_twice(name):
        click.echo(f"note: {note}", err=True)
    return recognizer


def _trained(name: str, given: _Inputs) -> Recognizer:
    """What loso's --model names, to be tested as it is.

    Raises:
        ConfigError: settings that would have no effect on it.
    """
    from mesynth.core.errors import ConfigError

    recognizer = _loaded(name)
    idle = [text for text in given.settings if not text.startswith(("protocol.", "data.frame="))]
    if idle:
        raise ConfigError(
            f"'{idle[0]}' has no effect on {recognizer.name}, which --model tests as it is; only protocol.* and "
            "data.frame count. To train a model by such settings, leave --model out"
        )
    return recognizer


def _split(settings: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The recipe's file, if the first setting is one or its name, and the key=value pairs."""
    if settings and "=" not in settings[0]:
        from mesynth.config import find_recipe

        return find_recipe(settings[0]), list(settings[1:])
    return None, list(settings)


def _corpora(given: tuple[Path, ...], settings: tuple[str, ...]) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Corpora of --synthetic and of data.synthetic=[A,B], which is the same in other words; the other settings."""
    key = "data.synthetic="
    named = [s.removeprefix(key).strip().removeprefix("[").removesuffix("]") for s in settings if s.startswith(key)]
    folders = tuple(Path(name.strip()) for names in named for name in names.split(",") if name.strip())
    return given + folders, tuple(s for s in settings if not s.startswith(key))


def _read(paths: Sequence[Path]) -> list[Manifest]:
    from mesynth.store.manifest import Manifest

    return [Manifest.read(path) for path in paths]


def _plan(config: RunConfig, real: list[Manifest], made: list[Manifest], as_json: bool) -> None:
    """Read the clips, make the folds and mix them, so that every mistake shows; train nothing."""
    from recognizer.mixing import apart, mixed, with_unlabelled
    from recognizer.protocol import make_folds
    from recognizer.report import lacking_notes
    from recognizer.sources import as_flow_set, flow_notes, framed, unlabelled_of, without_labels

    more = unlabelled_of(real, config)
    real, made, _ = framed(real, made, config.data)  # type: ignore[assignment]
    with progress_bars() as bars:
        bar = by_step(bars)
        real_set = as_flow_set(real, config, bar, "reading clips")
        synthetic = as_flow_set(made, config, bar, "reading synthetic") if made else None
        free = None if more is None else without_labels(more, config, bar)
    real_set, synthetic = apart(real_set, synthetic, config.transfer)
    folds = make_folds(real_set, config.protocol)
    for seed in config.seeds:
        mixture = mixed(real_set, synthetic, folds, config.mix, seed)
        mixture = with_unlabelled(mixture, free, config.mix, config.transfer)
    counts = dict(zip(real_set.outputs, real_set.class_counts.tolist(), strict=True))
    facts: dict[str, Any] = {
        "models": list(config.used_models), "folds": len(folds), "clips": len(real_set), "classes": counts,
        "left_out": real_set.left_out, "seeds": list(config.seeds),
        "synthetic_per_fold": [int(mixture.n_added.min()), int(mixture.n_added.max())],
        "notes": [
            *lacking_notes({fold.name: mixture.lacking(f) for f, fold in enumerate(folds)}, multi=real_set.multi),
            *flow_notes(real, made, config),
        ],
    }  # fmt: skip
    _say(facts, as_json)


def _say(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        echo_json(facts)
    else:
        for key, value in facts.items():
            click.echo(f"{key}: {value}")


if __name__ == "__main__":
    main()
