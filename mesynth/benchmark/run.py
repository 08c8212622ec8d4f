"""Hold a contest: people, generators, figures, files. Finished pairs of both are kept, so that a run resumes."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mesynth import __version__
from mesynth.benchmark import resampling
from mesynth.benchmark.answers import SEEDS, Answers, Beside, Instruments, grouped, look_beside, question
from mesynth.benchmark.diffusion_goals import seconds_of, seconds_per_clip, with_diffusion_goals
from mesynth.benchmark.entrants import TRUTH, Entrant, refuse_leaks
from mesynth.benchmark.figures import (
    Answered,
    Figure,
    by_au,
    control_figures,
    flow_figures,
    flow_image_figures,
    identity_figures,
    picture_figures,
    rest_figures,
)
from mesynth.benchmark.goals import faster, goals
from mesynth.benchmark.people import MeanFlows, Person, RenderedTruth
from mesynth.benchmark.requests import ContestConfig, Request, requests
from mesynth.benchmark.result import Result, Standing
from mesynth.benchmark.sheet import sheet
from mesynth.core.errors import LeakError, MesynthError
from mesynth.metrics.control import SOURCE_NOTE
from mesynth.motion.prior import NAME
from mesynth.store.families import has_property, makes_frames
from mesynth.store.run_folder import claim_folder, write_bytes, write_text
from mesynth.store.shards import png_bytes

Progress = Callable[[int, int], None]
_PARTS = "parts"
ABOUT = (
    "People are rendered heads that no generator learned from; landmarks are exact and frames hold no sensor noise. "
    "Figures of real faces will differ."
)


def compare(
    entrants: Sequence[Entrant],
    config: ContestConfig,
    out: Path,
    *,
    instruments: Instruments | None = None,
    progress: Progress | None = None,
) -> Result:
    """Compare generators; writes compare.json, compare.csv, sheet.png and parts/ into ``out``.

    The same arguments give the same figures, except the seconds; an interrupted call goes on from what is finished.

    Raises:
        MesynthError: no generator, or a name given twice.
        LeakError: a generator or the judge learned from people it would be compared on.
        WeightsUnavailable: the judge's weights are missing.
        RunFolderError: ``out`` holds something else.
    """
    names = [e.name for e in entrants]
    if not names or len(set(names)) != len(names) or TRUTH in names:
        raise MesynthError(f"models {', '.join(names) or '(none)'} must be at least one, named differently")
    for entrant in entrants:
        refuse_leaks(entrant.name, entrant.generator.facts.subjects_seen)
    tools = instruments or Instruments.load()
    met = set(config.seeds) & set(tools.judge.meta.subjects_seen)
    if met:
        raise LeakError(f"the AU judge learned from head seed {min(met)}; retrain it without the people compared on")
    everyone = [Entrant(name=TRUTH, generator=RenderedTruth()), *entrants]
    # Not the timing: it may be repeated into the same folder.
    asked_of = {k: v for k, v in dataclasses.asdict(config).items() if k not in {"clip_frames", "repeats"}}
    claim_folder(
        out,
        {"stage": "compare", "seeds_each": SEEDS, **asked_of, **tools.names,
         "models": [e.identity or e.name for e in entrants], "version": __version__},
    )  # fmt: skip
    asked = requests(config)
    answers, beside = _meet(everyone, asked, config, out / _PARTS, tools, progress)
    weights = resampling.draws(config.people, config.resamples, config.seed)
    all_answered = [
        Answered(asked, own, beside, answers[0], weights, tools.judge.trusted, e.frameless)
        for e, own in zip(everyone, answers, strict=True)
    ]
    prior = next((a for a, e in zip(all_answered, everyone, strict=True) if e.generator.family == NAME), None)
    person = Person(config.first, config.size)
    standings = []
    for entrant, answered in zip(everyone, all_answered, strict=True):
        entrant.meet(person)
        standings.append(_standing(entrant, answered, prior, tools, person, config))
    standings = with_diffusion_goals(with_speed_goals(standings), all_answered, config)
    settings = dataclasses.asdict(config) | tools.names | {"threads": 1, "cores": os.cpu_count()}
    result = Result(standings=tuple(standings), settings=settings, notes=(ABOUT, SOURCE_NOTE, *tools.notes))
    write_text(out / "compare.json", result.to_json())
    write_text(out / "compare.csv", result.to_csv())
    write_bytes(out / "sheet.png", png_bytes(sheet(everyone, person, config.codes, config.seed)))
    return result


def _meet(
    everyone: Sequence[Entrant],
    asked: tuple[Request, ...],
    config: ContestConfig,
    parts: Path,
    tools: Instruments,
    progress: Progress | None,
) -> tuple[list[list[Answers]], list[Beside]]:
    """Every generator meets every person once; memory holds one person at a time."""
    files = [[parts / f"{seed}-{i}.npz" for i in range(len(everyone))] for seed in config.seeds]
    refs = [parts / f"{seed}-beside.npz" for seed in config.seeds]
    done, total = 0, len(files) * (len(everyone) + 1)

    def tick() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, total)

    means = None if all(f.is_file() for f in refs) else MeanFlows.of(config, asked, tick)
    done = len(files)
    for seed, own, ref in zip(config.seeds, files, refs, strict=True):
        person = None if all(f.is_file() for f in (*own, ref)) else Person(seed, config.size)
        if person and means and not ref.is_file():
            look_beside(person, asked, means, tools).save(ref)
        for entrant, file in zip(everyone, own, strict=True):
            if person and not file.is_file():
                entrant.meet(person)
                question(entrant, person, asked, tools, config.seed).save(file)
            tick()
    return [[Answers.read(own[i]) for own in files] for i in range(len(everyone))], [Beside.read(f) for f in refs]


def with_speed_goals(standings: Sequence[Standing]) -> list[Standing]:
    """Add how much faster each generator is than the fastest image-space GAN that took part, if one did."""

    slow = {
        s.name: own for s in standings if has_property(s.family, "paints_frames") and (own := seconds_of(s.figures))
    }
    out = []
    for s in standings:
        own = seconds_of(s.figures)
        compared = s.goals and own and not has_property(s.family, "paints_frames") and makes_frames(s.family)
        out.append(dataclasses.replace(s, goals=(*s.goals, faster(own, slow))) if compared and own else s)
    return out


def _standing(
    entrant: Entrant,
    a: Answered,
    prior: Answered | None,
    tools: Instruments,
    person: Person,
    config: ContestConfig,
) -> Standing:
    truth = entrant.name == TRUTH
    figures: list[Figure] = [
        *flow_figures(a), *flow_image_figures(a), *control_figures(a), *identity_figures(a, tools),
        *picture_figures(a, tools), *rest_figures(a),
    ]  # fmt: skip
    if not truth:
        figures.append(seconds_per_clip(entrant, person, a.asked, config)[0])
    refused = a.stack("refused")
    facts = entrant.generator.facts
    return Standing(
        name=entrant.name,
        family=entrant.generator.family,
        facts={
            "size": facts.size, "images": facts.images, "weights_sha256": facts.weights_sha256,
            "parameters": entrant.parameters, "weight_bytes": entrant.weight_bytes,
        },
        figures=tuple(figures),
        by_au={code: tuple(found) for code, found in by_au(a).items()},
        refused=_refusals(refused, a.asked),
        warnings=grouped(map(str, a.stack("warned").ravel())),
        answered=int((refused == "").sum()),
        asked=refused.size,
        goals=() if truth else tuple(goals(a, prior)),
    )  # fmt: skip


def _refusals(refused: np.ndarray, asked: tuple[Request, ...]) -> dict[str, tuple[str, ...]]:
    """[P,R] texts -> reason: the requests, and of how many people when not of all."""
    out: dict[str, list[str]] = {}
    for i, request in enumerate(asked):
        for why, count in sorted(Counter(str(text) for text in refused[:, i] if text).items()):
            share = "" if count == len(refused) else f" ({count} of {len(refused)} people)"
            out.setdefault(why, []).append(f"{request.name}{share}")
    return {why: tuple(names) for why, names in out.items()}
