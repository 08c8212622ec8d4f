"""``mesynth quickstart``: render, prepare, generate, compare, measure, recognise, ablate, and one page of it all.

Each step writes its own folder and is skipped when that folder is complete, so the same command resumes. The page,
``report.html``, is one file without network and script; every figure on it comes from the study's results.
"""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mesynth import __version__
from mesynth.benchmark.protocol import BenchmarkConfig, default_models, load_candidates
from mesynth.benchmark.result import DASH, Result
from mesynth.benchmark.run import compare
from mesynth.commandline import Bars, by_step
from mesynth.core.emotions import CLASSES_3
from mesynth.core.errors import LeakError, MesynthError
from mesynth.corpus.faces import find_faces
from mesynth.corpus.generate import Preview, generate
from mesynth.corpus.plan import PlanConfig
from mesynth.corpus.previews import DIFFERENCE_GAIN, FLOW_SCALE, clip_column, video_bytes
from mesynth.datasets.casme2 import load_casme2
from mesynth.datasets.rendered import Rendering, render_casme2, render_faces
from mesynth.generators.registry import find_model
from mesynth.metrics.base import MeasureConfig, MeasureRow, format_number
from mesynth.metrics.measure import measure
from mesynth.metrics.report import MeasureReport
from mesynth.motion.nuisance import Nuisance
from mesynth.preprocess.config import STORED, PrepareConfig
from mesynth.preprocess.flow import flow_picture
from mesynth.preprocess.prepare import prepare
from mesynth.store.digests import seal
from mesynth.store.generator_folder import makes_frames
from mesynth.store.manifest import Manifest, Row
from mesynth.store.pages import render
from mesynth.store.run_folder import claim_folder, only_writer, write_text
from mesynth.store.shards import png_bytes, read_flow, read_frames
from mesynth.store.videos import is_video, read_photo
from recognizer.ablation import ablate
from recognizer.ablation_result import AblationResult
from recognizer.config import AblationConfig, RunConfig, load_config
from recognizer.report import tally
from recognizer.results import LosoResult
from recognizer.run import loso
from recognizer.trained import SHIPPED, Prediction, load, predict, standing

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
        people = Rendering(subjects=scale.subjects, clips_per_subject=scale.clips, fps=FPS, seed=seed)
        render_casme2(out / "database", people, workers=workers, progress=bars("render database"))
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
        comparison = _compare(out, scale, bars)
    with clock("measure quality"):
        measures = _measure_quality(real, synthetic, out, scale, seed, bars)
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


def _compare(out: Path, scale: Scale, bars: Bars) -> Result:
    """Every generator on the same few rendered people; `mesynth compare` does it with more of them."""
    config = BenchmarkConfig(
        people=scale.compared, codes=scale.asked, levels=scale.levels, clip_frames=33, repeats=1,
        resamples=50,  # the page shows no intervals
    )  # fmt: skip
    return compare(load_candidates(generators()), config, out / "generators", progress=bars("compare generators"))


def _measure_quality(
    real: Manifest, synthetic: Manifest, out: Path, scale: Scale, seed: int, bars: Bars
) -> MeasureReport:
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


# ---------------------------------------------------------------- time


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


# ---------------------------------------------------------------- the page


@dataclass(frozen=True)
class Show:
    """One generator on one photo."""

    model: str
    clips: Manifest
    sweep: Manifest


@dataclass(frozen=True)
class Study:
    """What the report shows."""

    out: Path
    real: Manifest
    synthetic: Manifest
    matched: Manifest
    """The synthetic corpus with flow re-estimated from its frames, as the real clips' flow was."""
    shows: list[Show]
    """What each generator makes of the photo, the motion prior first."""
    answers: dict[str, Prediction]
    """What the recognizer that ships says of those clips, by generator."""
    comparison: Result
    measures: MeasureReport
    recognition: dict[str, LosoResult]
    ablation: AblationResult
    refusal: str
    photo_name: str
    seconds: dict[str, dict[str, float]]
    """Of each part: wall and processor."""


def write_page(study: Study) -> Path:
    """Write the report and return its path."""
    path = study.out / "report.html"
    write_text(path, render("mesynth", "quickstart.html", **_values(study)))
    return path


def _values(study: Study) -> dict[str, Any]:
    real, synthetic = study.real, study.synthetic
    return {
        "version": __version__,
        "answer": tally(study.ablation),
        "photo": study.photo_name,
        "counts": {
            "subjects": len(set(real.subject_keys())),
            "clips": len(real),
            "faces": len(set(synthetic.subject_keys())),
            "synthetic": len(synthetic),
            "frames": int(synthetic.column("n_frames").sum()),
            "shared": len(set(real.subject_keys()) & {s for seen in synthetic.subjects_seen() for s in seen}),
        },
        "classes": _classes(real),
        "shows": [
            {
                "model": show.model,
                "clips": [_moving(show.clips, row) for row in show.clips],
                "sweep": _columns(show.sweep, show.sweep),
            }
            for show in study.shows
        ],
        "answers": [_answers(show, study.answers[show.model]) for show in study.shows],
        "standing": standing(load("shipped")),
        "comparison": _comparison(study),
        "database": _columns(real, _spread(real, 8)),
        "corpus": _columns(synthetic, _spread(synthetic, 8)),
        "difference_gain": DIFFERENCE_GAIN,
        "flow_scale": FLOW_SCALE,
        "measures": [_measure(r) for r in study.measures.rows if _worth_showing(r)],
        "measure_notes": study.measures.notes,
        "plots": {name: _png_data(data) for name, data in study.measures.plots.items()},
        "recognition": [_recognition(name, result.to_dict()) for name, result in study.recognition.items()],
        "curve": _png_data(study.ablation.curve),
        "conditions": [_condition(asdict(s)) for s in study.ablation.summary],
        "comparisons": study.ablation.comparisons,
        "refusal": study.refusal,
        "provenance": _provenance(synthetic.row(0)),
        "seconds": study.seconds,
        "total": {key: sum(s[key] for s in study.seconds.values()) for key in ("wall", "processor")},
    }


# ---------------------------------------------------------------- pictures


def _png_data(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def _png(rgb: np.ndarray) -> str:
    return _png_data(png_bytes(rgb))


def _moving(manifest: Manifest, row: Row) -> dict[str, str]:
    frames = read_frames(manifest.root, row)
    gif = base64.b64encode(video_bytes(frames[:: max(1, round(row.fps / 100))], "gif", fps=12.5)).decode()
    return {
        "emotion": row.emotion,
        "aus": row.au_text.replace(",", ", "),
        "gif": "data:image/gif;base64," + gif,
        "flow": _png(flow_picture(read_flow(manifest.root, row), FLOW_SCALE)),
        "facts": f"{row.n_frames} frames at {row.fps:g} fps, apex at frame {row.apex_index}",
    }


def _column(manifest: Manifest, row: Row) -> dict[str, str]:
    aus = row.au_text.replace(",", " ").replace("=0.", " .")
    return {"picture": _png(clip_column(manifest, row)), "emotion": row.emotion, "aus": aus}


def _columns(manifest: Manifest, rows: Iterable[Row]) -> list[dict[str, str]]:
    return [_column(manifest, row) for row in rows]


def _spread(manifest: Manifest, n: int) -> list[Row]:
    """``n`` rows with as many different people and emotions as there are."""
    rows: list[Row] = []
    seen: set[tuple[str, ...]] = set()
    for row in manifest:
        if (row.subject_key,) not in seen and (row.emotion, str(len(rows) // 4)) not in seen:
            seen |= {(row.subject_key,), (row.emotion, str(len(rows) // 4))}
            rows.append(row)
        if len(rows) == n:
            break
    return rows


# ---------------------------------------------------------------- tables


def _classes(manifest: Manifest) -> dict[str, int]:
    labels = [label or "others" for label in manifest.column("label")]
    return {name: labels.count(name) for name in sorted(set(labels))}


def _worth_showing(row: MeasureRow) -> bool:
    """Headlines, and whatever could not be measured; single AUs stay in measures/report.md."""
    return row.headline or (row.value is None and not row.name.startswith("AU "))


def _measure(row: MeasureRow) -> dict[str, str]:
    name, value, reference, n = row.text()
    return {"group": row.group, "name": name, "value": value, "reference": reference, "n": n, "note": row.note}


def _answers(show: Show, answers: Prediction) -> dict[str, Any]:
    """A generator's clips: what was asked for, and what was recognised."""
    rows = zip(show.clips.column("emotion").tolist(), answers.table.to_pylist(), strict=True)
    cells = [
        {"asked": f"{emotion} ({row['label']})", "answer": row["predicted"], "p": f"{row['p_' + row['predicted']]:.2f}"}
        for emotion, row in rows
    ]
    return {"model": show.model, "cells": cells}


_COMPARED = (
    "flow_epe", "of_zero_flow", "of_mean_flow", "au_slope_pooled", "spearman_over_intensities", "leakage",
    "identity_distance", "diversity", "seconds",
)  # fmt: skip
"""Figures of the comparison that fit a page, by their keys."""


def _comparison(study: Study) -> dict[str, Any]:
    standings = study.comparison.standings
    names = {f.key: f.name for s in standings for f in s.figures if f.key in _COMPARED}
    rows = []
    for key, name in names.items():
        found = [next((f for f in s.figures if f.key == key), None) for s in standings]
        unit = next((f.unit for f in found if f and f.unit), "")
        cells = [DASH if f is None or f.value is None else format_number(f.value) for f in found]
        rows.append({"name": f"{name.strip()} ({unit})" if unit else name.strip(), "cells": cells})
    rows.append({"name": "parameters", "cells": [f"{s.facts.get('parameters', 0):,}" for s in standings]})
    sheet = (study.out / "generators" / "sheet.png").read_bytes()
    people = study.comparison.settings["people"]
    return {"names": [s.name for s in standings], "rows": rows, "sheet": _png_data(sheet), "people": people}


def _recognition(name: str, result: dict[str, Any]) -> dict[str, str]:
    def interval(key: str) -> str:
        entry = result[key]
        return f"{entry['value']:.3f} [{entry['low']:.3f}, {entry['high']:.3f}]"

    metrics = result["metrics"]
    return {
        "model": name,
        "uf1": interval("uf1"),
        "uar": interval("uar"),
        "accuracy": f"{metrics['accuracy']:.3f}",
        "f1": ", ".join(f"{k} {v:.2f}" for k, v in zip(metrics["classes"], metrics["f1"], strict=True)),
        "parameters": f"{result['n_parameters']:,}",
    }


def _condition(summary: dict[str, Any]) -> dict[str, str]:
    uf1 = summary["uf1"]
    subjects = summary["train_subjects"]
    return {
        "model": summary["model"],
        "subjects": str(subjects) if subjects else "all",
        "ratio": f"{summary['ratio']:g}",
        "uf1": f"{uf1['value']:.3f} [{uf1['low']:.3f}, {uf1['high']:.3f}]",
        "verdict": summary["verdict"],
    }


def _provenance(row: Row) -> dict[str, str]:
    fields = {"clip": row.clip_id, **asdict(row.provenance)}
    text = {k: ", ".join(map(str, v)) if isinstance(v, (tuple, list)) else str(v) for k, v in fields.items()}
    return {key: value for key, value in text.items() if value}
