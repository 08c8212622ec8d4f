"""``mesynth quickstart``: render, prepare, generate, compare, measure, recognise, ablate, report.

Each step writes its own folder and is skipped when that folder is complete, so the same command resumes.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from mesynth import __version__
from mesynth.benchmark.candidates import default_models, load_candidates
from mesynth.benchmark.requests import BenchmarkConfig
from mesynth.benchmark.result import Result
from mesynth.benchmark.run import compare
from mesynth.commandline import Bars, by_step
from mesynth.core.emotions import CLASSES_3
from mesynth.core.errors import LeakError, MesynthError
from mesynth.corpus.faces import find_faces
from mesynth.corpus.generate import Preview, generate
from mesynth.corpus.plan import PlanConfig
from mesynth.datasets.casme2 import load_casme2
from mesynth.datasets.rendered import render_casme2, render_faces
from mesynth.generators.registry import find_model
from mesynth.metrics.base import MeasureConfig
from mesynth.metrics.measure import measure
from mesynth.metrics.report import MeasureReport
from mesynth.motion.nuisance import Nuisance
from mesynth.preprocess.config import STORED, PrepareConfig
from mesynth.preprocess.prepare import prepare
from mesynth.quickstart.page import Show, Study, write_page
from mesynth.store.digests import seal
from mesynth.store.families import makes_frames
from mesynth.store.manifest import Manifest
from mesynth.store.run_folder import claim_folder, only_writer, write_text
from mesynth.store.videos import is_video, read_photo
from recognizer.ablation import ablate
from recognizer.config import AblationConfig, RunConfig, load_config
from recognizer.results import LosoResult
from recognizer.run import loso
from recognizer.trained import SHIPPED, predict

# Frame rate, noise and head motion of the synthetic corpus follow the rendered database's recording
# conditions, which a lab would read off its own database's paper.
FPS, SIZE = 60.0, 128
NUISANCE = Nuisance(noise=1.5, head=1.0, blink=0.3, style=1.0)
SHOW = ("happiness", "surprise", "disgust", "repression")


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much of everything; the defaults fill the two minutes that a newcomer will wait."""

    subjects: int = 12
    clips: int = 4
    faces: int = 12
    synthetic: int = 120
    measured: int = 48
    steps: int = 90
    ratios: tuple[float, ...] = (0.0, 1.0, 2.0)
    seeds: tuple[int, ...] = (0,)
    """Of the recognizers' trainings, one after the other."""
    few_subjects: int = 3
    compared: int = 2
    """Rendered people that generators are compared on."""
    asked: tuple[int, ...] = (12,)
    """AUs they are asked for."""
    levels: tuple[float, ...] = (0.5, 1.0)

    def __post_init__(self) -> None:
        if self.subjects < 4:
            raise MesynthError(f"subjects={self.subjects} is too few to leave one out and learn from the rest; use 4")


def run(
    out: Path,
    *,
    photo: Path | None = None,
    scale: Scale = Scale(),
    seed: int = 0,
    workers: int = 1,
    progress: Bars | None = None,
) -> Path:
    """Do everything and return the path of ``report.html``.

    Raises:
        MesynthError: too few subjects, an unusable photo, or a folder that holds something else.
    """
    out = Path(out)
    bars: Bars = progress or _silent
    picture = photo or _astronaut()
    for source in find_faces(picture):  # a photo that is missing or damaged is noticed now, not after minutes
        if source.row < 0 and not is_video(source.path):
            read_photo(source.path)
    claim_folder(out, {"verb": "quickstart", "scale": asdict(scale), "seed": seed, "version": __version__})
    with only_writer(out):
        return _run(out, picture, scale, seed, workers, bars)


def _run(out: Path, picture: Path, scale: Scale, seed: int, workers: int, bars: Bars) -> Path:
    clock = Clock(out / "seconds.json")

    with clock("render the embedded database"):
        render_casme2(
            out / "database", subjects=scale.subjects, clips_per_subject=scale.clips, fps=FPS, seed=seed,
            workers=workers, progress=bars("render database"),
        )  # fmt: skip
    with clock("prepare it: landmarks, crops, TV-L1"):
        real = prepare(
            load_casme2(out / "database"), out / "real", PrepareConfig(size=SIZE), workers=workers,
            progress=bars("prepare database"),
        )  # fmt: skip
    with clock("render faces of other people"):
        faces = render_faces(out / "faces", subjects=scale.faces, seed=seed, progress=bars("render faces"))
    with clock(f"generate {scale.synthetic} clips on them"):
        config = PlanConfig(
            emotions=CLASSES_3, count=scale.synthetic, fps=FPS, duration=(0.2, 0.45), size=SIZE, seed=seed,
            nuisance=NUISANCE,
        )  # fmt: skip
        synthetic = generate(
            faces,
            config,
            out / "synthetic",
            preview=Preview(count=6),
            workers=workers,
            progress=_named(bars, "generate"),
        )
    with clock("re-estimate their flow with TV-L1"):
        matched = prepare(
            synthetic, out / "synthetic-tvl1", PrepareConfig(size=SIZE, keep_frames=False), landmarker=STORED,
            workers=workers, progress=bars("flow of synthetic clips"),
        )  # fmt: skip
    with clock("generate on one photo, with every generator"):
        shows = [_shown(name, picture, out, seed, bars) for name in generators()]
    with clock("ask the recognizer that ships"):
        answers = {show.model: predict(SHIPPED, show.clips) for show in shows}
    with clock("compare generators with the rendered truth"):
        comparison = _comparison(out, scale, bars)
    with clock("measure quality"):
        measures = _measure(real, synthetic, out, scale, seed, bars)
    with clock("leave one subject out"):
        recognition = _recognise(real, out, scale, bars)
    with clock("ablate the synthetic ratio"):
        ablation = ablate(
            [real],
            [matched],
            _ablation_config(scale),
            out=out / "ablation",
            progress=by_step(_named(bars, "ratio ablation")),
        )
    with clock("try to leak a subject"):
        refusal = _try_to_leak(real, out, seed)

    study = Study(
        out,
        real,
        synthetic,
        matched,
        shows,
        answers,
        comparison,
        measures,
        recognition,
        ablation,
        refusal,
        picture.name,
        clock.seconds,
    )
    page = write_page(study)
    seal(out)
    return page


# ---------------------------------------------------------------- steps


def _astronaut() -> Path:
    """Eileen Collins, NASA, public domain: the real photo that scikit-image carries."""
    import skimage

    return Path(skimage.__file__).parent / "data" / "astronaut.png"


def generators() -> list[str]:
    """The motion prior and one shipped model of each family that makes frames, the one with the shortest name."""
    chosen: dict[str, str] = {}
    for name in sorted(default_models(), key=len):
        family = find_model(name).facts.name
        if makes_frames(family):
            chosen.setdefault(family, name)
    return [name for name in default_models() if name in chosen.values()]


def _shown(model: str, photo: Path, out: Path, seed: int, bars: Bars) -> Show:
    """One clip per emotion, and AU 12 at FACS letters A to D, without nuisances.

    The page shows a clip eight times slower than life at 12.5 pictures a second, which needs 100 fps and no more; of
    the sweep it shows onset and apex.
    """
    still = PlanConfig(emotions=SHOW, count=len(SHOW), fps=100, duration=(0.32, 0.32), size=SIZE, seed=seed)
    requests = tuple(f"12={letter}" for letter in "ABCD")
    swept = PlanConfig(au=requests, count=len(requests), fps=20, duration=(0.2, 0.2), size=SIZE, profile="symmetric")
    clips = generate(
        photo, still, out / "photo-clips" / model, model=model, preview=Preview(count=len(SHOW)),
        progress=_named(bars, f"photo, {model}"),
    )  # fmt: skip
    sweep = generate(
        photo, swept, out / "sweep" / model, model=model, preview=Preview(count=0),
        progress=_named(bars, f"sweep, {model}"),
    )  # fmt: skip
    return Show(model, clips, sweep)


def _comparison(out: Path, scale: Scale, bars: Bars) -> Result:
    """Every generator on the same few rendered people; `mesynth compare` does it with more of them."""
    config = BenchmarkConfig(
        people=scale.compared, codes=scale.asked, levels=scale.levels, clip_frames=33, repeats=1,
        resamples=50,  # the page shows no intervals
    )  # fmt: skip
    return compare(load_candidates(generators()), config, out / "generators", progress=bars("compare generators"))


def _measure(real: Manifest, synthetic: Manifest, out: Path, scale: Scale, seed: int, bars: Bars) -> MeasureReport:
    config = MeasureConfig(clips=scale.measured, identity_clips=scale.measured // 4, seed=seed)
    report = measure(real, synthetic, config, progress=bars("measure"))
    report.write(out / "measures")
    return report


def _recognise(real: Manifest, out: Path, scale: Scale, bars: Bars) -> dict[str, LosoResult]:
    settings = {"lda": [], "capsule_graph": [f"train.steps={scale.steps}", "train.batch=32"]}
    results = {}
    for model, extra in settings.items():
        config = load_config(RunConfig, None, [f"model={model}", f"seeds={list(scale.seeds)}", *extra], synthetic=False)
        results[model] = loso(
            [real], None, config, out=out / "loso" / model, progress=by_step(_named(bars, f"LOSO {model}"))
        )
    results[f"{SHIPPED} (zero-shot)"] = loso([real], model=SHIPPED, out=out / "loso" / SHIPPED)
    return results


def _ablation_config(scale: Scale) -> AblationConfig:
    settings = [
        "models=[lda,capsule_graph]", f"seeds={list(scale.seeds)}", f"ratios={list(scale.ratios)}", "resamples=1000",
        f"train_subjects=[{scale.few_subjects},0]", f"mix.pretrain_steps={scale.steps // 3}",
        f"train.steps={scale.steps // 2}", "train.batch=24",
    ]  # fmt: skip
    return load_config(AblationConfig, None, settings)


def _try_to_leak(real: Manifest, out: Path, seed: int) -> str:
    """Generate on the database's own subjects, mix the clips in, and return the refusal.

    Raises:
        AssertionError: the leak went through, which must never happen.
    """
    config = PlanConfig(emotions=CLASSES_3, count=6, fps=FPS, duration=(0.2, 0.2), size=SIZE, seed=seed)
    leaky = generate(real.root, config, out / "leaky", preview=Preview(count=0), workers=1)
    try:
        loso([real], [leaky], load_config(RunConfig, None, ["model=lda", "mix.ratio=0.01"]))
    except LeakError as error:
        return str(error)
    raise AssertionError("a clip that shows a held-out subject was trained on")


# ---------------------------------------------------------------- words


class Clock:
    """Seconds per step, kept in a file: a resumed step adds to what it had taken before.

    ``wall`` is what a newcomer waits; ``processor`` adds up all cores, this process and those that it started and
    that have ended.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.seconds: dict[str, dict[str, float]] = json.loads(file.read_text()) if file.is_file() else {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time one step."""
        start = _now()
        try:
            yield
        finally:
            before = self.seconds.get(name, {})
            taken = {key: now - start[key] for key, now in _now().items()}
            self.seconds[name] = {key: round(before.get(key, 0.0) + s, 3) for key, s in taken.items()}
            write_text(self._file, json.dumps(self.seconds, indent=1))


def _now() -> dict[str, float]:
    times = os.times()
    processor = times.user + times.system + times.children_user + times.children_system
    return {"wall": time.perf_counter(), "processor": processor}


def _silent(_: str) -> Callable[[float, float], None]:
    return lambda done, total: None


def _named(bars: Bars, name: str) -> Bars:
    return lambda part: bars(f"{name}: {part}")
