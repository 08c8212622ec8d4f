"""A study as one command: does synthetic data help on this database? ``recognizer study STUDY.yaml --out DIR``.

From prepared clips to the paper's table: generators are fine-tuned without the people who are tested on, corpora are
made and measured, and an ablation compares. What the steps are is :mod:`recognizer.study_plan`, what is written about
them :mod:`recognizer.study_report`.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mesynth import api
from mesynth.core.errors import ConfigError, MesynthError
from mesynth.core.process import launched
from mesynth.store.generator_folder import shipped_models
from mesynth.store.manifest import Manifest
from mesynth.store.run_folder import claim_folder, only_writer, write_last, write_text
from recognizer import ablation as ablations
from recognizer import study_report
from recognizer.ablation_result import NONE, POOLED, AblationResult, CellRunner, grid, read_result
from recognizer.config import AblationConfig, effective, is_closed
from recognizer.study_plan import (
    ABLATION,
    DATABASE,
    FLOW_PRIOR,
    RENDERED,
    Bars,
    Expected,
    Maker,
    Plan,
    Step,
    StudyConfig,
    check_settings,
    corpus_step,
    database_steps,
    flow_step,
    load_study,
    needs_frames,
    plan,
)

Say = Callable[[str], None]

RESULT, STEPS, RECIPE = "study.json", "steps.json", "study.yaml"


# ---------------------------------------------------------------- running


class State:
    """``steps.json``: which steps are finished, and what they took, resumed ones added up."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            self.steps: dict[str, dict[str, Any]] = json.loads((folder / STEPS).read_text())
        except (OSError, ValueError):
            self.steps = {}

    def finished(self, step: Step) -> bool:
        """Whether it ran to its end, and its folder is still there."""
        return self.steps.get(step.name, {}).get("state") == "finished" and (self._folder / step.name).is_dir()

    @contextmanager
    def timed(self, step: Step) -> Iterator[None]:
        """Run a step within: begun, then finished or interrupted."""
        before, start = self.steps.get(step.name, {}).get("seconds", 0.0), time.perf_counter()

        known = step.name in self.steps

        def note(state: str) -> None:
            seconds = round(before + time.perf_counter() - start, 2)
            self.steps[step.name] = {"state": state, "seconds": seconds, "command": step.text}
            write_text(self._folder / STEPS, json.dumps(self.steps, indent=1) + "\n")

        note("begun")
        try:
            yield
        except BaseException as error:
            if known or not isinstance(error, MesynthError) or (self._folder / step.name).exists():
                note("interrupted")
            else:  # refused before it made anything: nothing is left of it
                del self.steps[step.name]
                if self.steps:
                    write_text(self._folder / STEPS, json.dumps(self.steps, indent=1) + "\n")
                else:
                    (self._folder / STEPS).unlink()
            raise
        note("finished")


@dataclass(frozen=True)
class StudyResult:
    """A finished study."""

    folder: Path
    answer: str
    """The page's first sentence."""
    ablation: AblationResult

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"out": str(self.folder), "page": str(self.folder / study_report.PAGE), "answer": self.answer} | {
            "comparisons": self.ablation.comparisons, "subjects": self.ablation.n_subjects,
            "clips": self.ablation.n_clips,
        }  # fmt: skip


def run_study(
    config: StudyConfig | Path | str | None = None,
    out: Path | str = "study",
    *,
    progress: Bars | None = None,
    say: Say | None = None,
) -> StudyResult:
    """Does synthetic data help on this database? From prepared clips to ``out/report.html``, tables and figures.

    The same call goes on where it was stopped; finished steps are not made again.

    Args:
        config: a study's settings, YAML file or name; None: ``study/quick``, on an embedded database.
        progress: gives a callback for each named part of a step.
        say: is told which step begins.

    Raises:
        ConfigError, ManifestError: what is wrong with the settings or the clips, before anything is made.
        LeakError: a generator or a corpus saw a subject whom a fold holds out.
        RunFolderError: ``out`` holds something else.

    >>> run_study(load_study(None, ["real=[nowhere]"]), "study-of-nothing")
    Traceback (most recent call last):
    mesynth.store.manifest.NoManifest: no manifest.parquet in nowhere; ...
    """
    if (count := launched()[1]) > 1:
        raise ConfigError(
            f"{count} processes were started, and a study runs its parts one after the other: start it alone; its "
            "ablation alone can be shared (--dry-run shows the command)"
        )
    out = Path(out)
    if not isinstance(config, StudyConfig):
        config = load_study("study/quick" if config is None else config)
    bars: Bars = progress or (lambda name: lambda done, total: None)
    tell = say or (lambda text: None)
    first, real = database_steps(config, out)
    check_settings(config, real)
    hashes = [] if first else [Manifest.read(path).hash() for path in real]
    made = [Manifest.read(path).hash() for path in config.study.synthetic]
    claim_folder(out, {"verb": "study", "config": config.plain(), "real": hashes, "synthetic": made})
    with only_writer(out):
        if (out / RESULT).is_file():
            return _finished(out)
        state = State(out)
        for number, step in enumerate(first, 1):
            _run(step, state, bars, tell, f"database {number}/{len(first)}")
        ahead = plan(config, out)
        for number, step in enumerate(ahead.steps, 1):
            _run(step, state, bars, tell, f"{number}/{len(ahead.steps)}")
            if number == 1:  # what refuses the first step leaves no file
                write_text(out / RECIPE, study_report.yaml_text(config.plain()))
                write_text(out / ABLATION, study_report.yaml_text(effective(ahead.ablation, synthetic=True)))
        result = ablations.ablate(list(ahead.real), list(ahead.corpora), ahead.ablation, out=out / "ablation")
        answer = study_report.write(out, ahead, result, {**state.steps})
        facts = {"answer": answer, "steps": state.steps, "comparisons": result.comparisons}
        write_last(out / RESULT, (json.dumps(facts, indent=1) + "\n").encode())
    return StudyResult(out, answer, result)


def _finished(out: Path) -> StudyResult:
    return StudyResult(out, json.loads((out / RESULT).read_text())["answer"], read_result(out / "ablation"))


def _run(step: Step, state: State, bars: Bars, tell: Say, where: str) -> None:
    if state.finished(step):
        return
    tell(f"[{where}] {step.text}")
    with state.timed(step):
        step.run(lambda part: bars(f"[{where}] {step.name}: {part}" if part != step.name else f"[{where}] {part}"))


# ---------------------------------------------------------------- before it is run


def forecast(config: StudyConfig, out: Path, *, say: Say | None = None) -> list[Expected]:
    """Every step with an estimate from small probes of its own kind on this machine; nothing is left behind.

    Training: a few updates of the recipe. Corpora: six clips of the generator (of a recipe: of the shipped model of its
    family, or else of the motion prior), and their flow. Ablation: one fold's cell of each recognizer. Measures are
    not probed: their networks take longer to load than to run on few clips.

    Raises: as :func:`study` does before it makes anything.
    """
    tell = say or (lambda text: None)
    state = State(out)
    first, real = database_steps(config, out)
    check_settings(config, real)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        taken: dict[str, tuple[float, int]] = {}
        read = None
        if first and not all(state.finished(step) for step in first):
            tell("the embedded database is made in a temporary folder, to read it")
            trial, _ = database_steps(config, scratch)
            for step in trial:
                taken[step.name] = _probe(partial(step.run, _quiet), scratch / step.name)
            read = (scratch / "prepared",)
        ahead = plan(config, out, read)
        prober = _Prober(ahead, read or real, scratch, tell)
        expected = []
        for s in first:
            seconds, size = taken.get(s.name, (0.0, 0))
            expected.append(Expected(s, state.finished(s), seconds, size, "making it once"))
        return [*expected, *(prober.expected(step, state.finished(step)) for step in ahead.steps)]


def _quiet(_: str) -> Callable[[float, float], None]:
    return lambda done, total: None


def _probe(run: Callable[[], object], out: Path) -> tuple[float, int]:
    start = time.perf_counter()
    run()
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file()) if out.exists() else 0
    return time.perf_counter() - start, size


_PROBED = 6


class _Prober:
    """Seconds and bytes of a unit of each kind of step, measured once."""

    def __init__(self, ahead: Plan, real: Sequence[Path], scratch: Path, tell: Say) -> None:
        self.ahead, self.real, self.scratch, self.tell = ahead, tuple(real), scratch, tell
        self._known: dict[str, Any] = {}

    def expected(self, step: Step, done: bool) -> Expected:
        """An estimate of ``step``."""
        if done:
            return Expected(step, True, 0.0, 0, "finished")
        kind = step.kind
        if kind == "train":
            return self._training(step)
        if kind == "ablate":
            return Expected(step, False, self._cells(step.amount), None, "a baseline cell of each recognizer")
        if kind in ("generate", "prepare"):
            seconds, size = self._clip(step)
            return Expected(step, False, seconds * step.amount, round(size * step.amount), f"{_PROBED} clips")
        if kind == "render":
            seconds, size = self._once("face", lambda: self._face())
            return Expected(step, False, seconds * step.amount, round(size * step.amount), "one face")
        return Expected(step, False, None, None, "")

    def _once(self, key: str, measure: Callable[[], Any]) -> Any:
        if key not in self._known:
            self._known[key] = measure()
        return self._known[key]

    def _face(self) -> tuple[float, int]:
        folder = self.scratch / "face"
        seed = self.ahead.config.study.corpora.seed
        return _probe(lambda: api.render(folder, layout="faces", subjects=1, seed=seed), folder)

    def _training(self, step: Step) -> Expected:
        from mesynth.training import forecast as training

        maker = next(m for m in self.ahead.makers if step.name.startswith(f"generators/{m.name}/"))

        def measure() -> tuple[float, int]:
            self.tell(f"measuring {maker.given}: a few updates")
            speed = training.measure(maker.recipe, self.ahead.config.study.fine_tuning.device, updates=4, warmup=1)
            if speed.error:
                raise MesynthError(f"generators: {maker.given} does not train here: {speed.error}")
            return 1 / speed.images_per_s, training.forecast(maker.recipe).checkpoints

        seconds, size = self._once(step.name.partition("/group-")[0], measure)
        return Expected(step, False, seconds * step.amount, size, "four updates on noise; preparing pairs not counted")

    def _clip(self, step: Step) -> tuple[float, float]:
        name = step.name.split("/")[1]
        maker = next(m for m in self.ahead.makers if m.name == name)
        made, estimated = self._once(f"clips of {name}", lambda: self._few(maker))
        return made if step.kind == "generate" else estimated

    def _few(self, maker: Maker) -> tuple[tuple[float, float], tuple[float, float]]:
        c = self.ahead.config.study.corpora
        model = maker.models[0] if maker.models else _stand_in(maker.recipe.task, maker.flow)
        self.tell(f"measuring {maker.given}: a few clips")
        corpus, flow = self.scratch / f"made-{maker.name}", self.scratch / f"flow-{maker.name}"
        faces: Path | str = (
            self.scratch / "face" if c.faces == RENDERED else self.real[0] if c.faces == DATABASE else c.faces
        )
        if c.faces == RENDERED and not maker.flow:
            self._once("face", self._face)
        ablation = self.ahead.ablation
        took: list[tuple[float, int]] = []
        for n in (2, _PROBED):  # the first loads and compiles what the others find
            folders = corpus / str(n), flow / str(n)
            steps = [corpus_step(maker, model, c, n, ablation, faces, None, c.seed, folders[0], "")]
            if not maker.flow:
                steps.append(flow_step(folders[0], folders[1], "", c.size, needs_frames(ablation), n))
            took = [_probe(partial(step.run, _quiet), out) for step, out in zip(steps, folders, strict=False)]
        made, estimated = [*took, (0.0, 0)][:2]
        return (made[0] / _PROBED, made[1] / _PROBED), (estimated[0] / _PROBED, estimated[1] / _PROBED)

    def _cells(self, count: int) -> float:
        """Baselines alone, of which there are as many a recognizer as of all else; networks by two short trainings."""
        ahead = self.ahead
        total = 0.0
        one = ahead.clips.take(np.zeros(1, np.int64))  # stands where synthetic clips would; a baseline adds none
        made = {POOLED: replace(one, clip_ids=np.array(["probe"]))}
        for model in ahead.ablation.models:
            self.tell(f"measuring recognizer {model}: one cell")
            alone = replace(ahead.ablation, models=(model,), seeds=ahead.ablation.seeds[:1], train_subjects=(0,))
            short = [alone] if is_closed(alone, model) else [_steps_of(alone, 2), _steps_of(alone, 6)]
            took = []
            for config in short:
                cell = next(c for c in grid(config, [POOLED]) if c.condition.arm == NONE)
                runner = CellRunner(config, ahead.clips, made, ahead.folds)
                start = time.perf_counter()
                runner.run([cell])
                took.append(time.perf_counter() - start)
            if len(took) == 2:
                total += took[0] + (took[1] - took[0]) / 4 * max(alone.train.steps - 2, 0)
            else:
                total += took[0]
        return total * count / len(ahead.ablation.models)


def _steps_of(config: AblationConfig, steps: int) -> AblationConfig:
    return replace(config, train=replace(config.train, steps=steps))


def _stand_in(task: str, flow: bool) -> str:
    return task if task in shipped_models() else FLOW_PRIOR if flow else "motion-prior"
