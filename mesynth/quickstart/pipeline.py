"""``mesynth quickstart``: render, prepare, generate, measure, recognise, ablate, report.

Each step writes its own folder and is skipped when that folder is complete, so the same command resumes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from mesynth import __version__
from mesynth.corpus.generate import Preview, generate
from mesynth.corpus.plan import PlanConfig
from mesynth.datasets.casme2 import load_casme2
from mesynth.datasets.rendered import render_casme2
from mesynth.datasets.rendered_faces import render_faces
from mesynth.emotions import CLASSES_3
from mesynth.errors import LeakError, MesynthError
from mesynth.manifest import Manifest
from mesynth.motion.nuisance import Nuisance
from mesynth.preprocess.prepare import STORED, prepare
from mesynth.quality.measure import MeasureConfig, measure
from mesynth.quality.report import MeasureReport
from mesynth.stage import Progress, claim_folder, write_bytes, write_text
from recognizer.ablation import AblationResult, run_ablation
from recognizer.config import AblationConfig, RunConfig, load_config
from recognizer.protocol_run import LosoResult, loso

Bars = Callable[[str], Progress]

# The embedded study. Frame rate, noise and head motion of the synthetic corpus follow the rendered
# database's recording conditions, which a lab would read off its own database's paper.
FPS, SIZE = 60.0, 128
CLIPS_PER_SUBJECT = 8
FACES, SYNTHETIC_CLIPS = 24, 450
NUISANCE = Nuisance(noise=1.5, head=1.0, blink=0.3)
SHOW = ("happiness", "surprise", "disgust", "repression")


@dataclass
class Study:
    """What the report shows."""

    out: Path
    real: Manifest
    synthetic: Manifest
    matched: Manifest
    """The synthetic corpus with flow re-estimated from its frames, as the real clips' flow was."""
    shown: Manifest
    sweep: Manifest
    measures: MeasureReport
    recognition: dict[str, LosoResult]
    ablation: AblationResult
    refusal: str
    photo_name: str
    seconds: dict[str, float] = field(default_factory=dict)


def run(
    out: Path,
    *,
    photo: Path | None = None,
    subjects: int = 12,
    seed: int = 0,
    workers: int = 0,
    progress: Bars | None = None,
) -> Path:
    """Do everything and return the path of ``report.html``.

    Raises:
        MesynthError: too few subjects, an unusable photo, or a folder that holds something else.
    """
    from mesynth.quickstart.page import write_page

    out = Path(out)
    if subjects < 4:
        raise MesynthError(f"subjects={subjects} is too few to leave one out and learn from the rest; use at least 4")
    bars = progress or _silent
    claim_folder(out, {"verb": "quickstart", "subjects": subjects, "seed": seed, "version": __version__})
    seconds: dict[str, float] = {}

    with _clock(seconds, "render the embedded database"):
        render_casme2(
            out / "database", subjects=subjects, clips_per_subject=CLIPS_PER_SUBJECT, fps=FPS, seed=seed,
            workers=workers, progress=bars("render database"),
        )  # fmt: skip
    with _clock(seconds, "prepare it: landmarks, crops, TV-L1"):
        real = prepare(
            load_casme2(out / "database"), out / "real", size=SIZE, workers=workers, progress=bars("prepare database")
        )
    with _clock(seconds, "render faces of other people"):
        faces = render_faces(out / "faces", subjects=FACES, seed=seed, progress=bars("render faces"))
    with _clock(seconds, f"generate {SYNTHETIC_CLIPS} clips on them"):
        config = PlanConfig(
            emotions=CLASSES_3, count=SYNTHETIC_CLIPS, fps=FPS, duration=(0.2, 0.45), size=SIZE, seed=seed,
            nuisance=NUISANCE,
        )  # fmt: skip
        synthetic = generate(
            faces, config, out / "synthetic", preview=Preview(count=6), workers=workers, progress=_named(bars, "generate")
        )
    with _clock(seconds, "re-estimate their flow with TV-L1"):
        matched = prepare(
            synthetic, out / "synthetic-tvl1", size=SIZE, landmarker=STORED, keep_frames=False, workers=workers,
            progress=bars("flow of synthetic clips"),
        )  # fmt: skip
    with _clock(seconds, "generate on one photo"):
        picture = photo or _astronaut(out)
        shown = _shown(picture, out, seed, bars)
        sweep = _sweep(picture, out, bars)
    with _clock(seconds, "measure quality"):
        measures = _measure(real, synthetic, out, seed, bars)
    with _clock(seconds, "leave one subject out"):
        recognition = _recognise(real, matched, out, bars)
    with _clock(seconds, "ablate the synthetic ratio"):
        ablation = run_ablation(
            [real], [matched], _ablation_config(), out=out / "ablation", progress=_labelled(bars("ratio ablation"))
        )
    with _clock(seconds, "try to leak a subject"):
        refusal = _try_to_leak(real, out, seed)

    study = Study(
        out, real, synthetic, matched, shown, sweep, measures, recognition, ablation, refusal, picture.name, seconds
    )
    return write_page(study)


# ---------------------------------------------------------------- steps


def _astronaut(out: Path) -> Path:
    """Eileen Collins, NASA, public domain: the real photo that scikit-image carries."""
    from skimage import data

    path = out / "photo" / "astronaut.png"
    if not path.is_file():
        done, buffer = cv2.imencode(".png", np.ascontiguousarray(data.astronaut()[..., ::-1]))
        assert done
        write_bytes(path, bytes(buffer))
    return path


def _shown(photo: Path, out: Path, seed: int, bars: Bars) -> Manifest:
    """A few clips at full frame rate to look at, one per emotion, no nuisances."""
    config = PlanConfig(emotions=SHOW, count=len(SHOW), fps=200, duration=(0.315, 0.315), size=160, seed=seed)
    preview = Preview(count=len(SHOW))
    return generate(photo, config, out / "photo-clips", preview=preview, workers=1, progress=_named(bars, "photo"))


def _sweep(photo: Path, out: Path, bars: Bars) -> Manifest:
    """AU 12 at FACS letters A to D, on the photo."""
    requests = tuple(f"12={letter}" for letter in "ABCD")
    config = PlanConfig(au=requests, count=len(requests), fps=50, duration=(0.2, 0.2), size=160, profile="symmetric")
    preview = Preview(count=0)
    return generate(photo, config, out / "sweep", preview=preview, workers=1, progress=_named(bars, "sweep"))


def _measure(real: Manifest, synthetic: Manifest, out: Path, seed: int, bars: Bars) -> MeasureReport:
    report = measure(real, synthetic, MeasureConfig(clips=96, seed=seed), progress=bars("measure"))
    report.write(out / "measures")
    return report


def _run_config(model: str) -> RunConfig:
    settings = ["model=lda"] if model == "lda" else ["model=capsule_graph", "train.steps=120", "train.batch=32"]
    return load_config(RunConfig, None, [*settings, "seeds=[0,1]"], synthetic=False)


def _ablation_config() -> AblationConfig:
    settings = [
        "models=[lda,capsule_graph]", "seeds=[0,1]", "ratios=[0,0.5,1,2]", "resamples=1000",
        "train_subjects=[3,0]", "mix.pretrain_steps=40", "train.steps=60", "train.batch=24",
    ]  # fmt: skip
    return load_config(AblationConfig, None, settings)


def _recognise(real: Manifest, matched: Manifest, out: Path, bars: Bars) -> dict[str, LosoResult]:
    return {
        model: loso([real], None, _run_config(model), out=out / "loso" / model, progress=_labelled(bars(f"LOSO {model}")))
        for model in ("lda", "capsule_graph")
    }


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


@contextmanager
def _clock(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start


def _silent(_: str) -> Progress:
    return lambda done, total: None


def _named(bars: Bars, name: str) -> Bars:
    return lambda part: bars(f"{name}: {part}")


def _labelled(bar: Progress) -> Callable[[str, int, int], None]:
    return lambda _, done, total: bar(done, total)


def save_seconds(study: Study) -> None:
    """The time table beside the page."""
    lines = [f"{seconds:8.1f} s  {name}" for name, seconds in study.seconds.items()]
    write_text(study.out / "seconds.txt", "\n".join(lines) + "\n")
