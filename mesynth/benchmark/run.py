"""Run a benchmark: people, generators, figures, files. Finished pairs of both are kept, so that a run resumes."""

from __future__ import annotations

import dataclasses
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mesynth import __version__
from mesynth.benchmark import resampling
from mesynth.benchmark.answers import Answers, Instruments, References, grouped, measure_references, question
from mesynth.benchmark.figures import (
    OPPONENTS,
    OTHERS,
    Answered,
    Figure,
    Likeness,
    au_figures,
    by_au,
    control_figures,
    flow_figures,
    flow_image_figures,
    identity_figures,
    likeness,
    likeness_figures,
    people_figures,
    picture_figures,
    rest_figures,
)
from mesynth.benchmark.protocol import (
    TRUTH,
    BenchmarkConfig,
    Candidate,
    MeanFlows,
    Person,
    RenderedTruth,
    Request,
    flows_of,
    home_mean,
    person_of,
    refuse_leaks,
    requests,
    unframed,
)
from mesynth.benchmark.result import Opponent, Result, Standing, sheet
from mesynth.core.errors import ConfigError, LeakError, MesynthError
from mesynth.core.profiles import Profile
from mesynth.metrics.control import SOURCE_NOTE
from mesynth.store import digests
from mesynth.store.run_folder import claim_folder, only_writer, write_bytes, write_last, write_text
from mesynth.store.shards import png_bytes

if TYPE_CHECKING:
    from mesynth.head.foreign import ForeignHead

Progress = Callable[[int, int], None]
_PARTS = "parts"
ABOUT = (
    "People are rendered heads that no generator learned from; landmarks are exact and frames hold no sensor noise. "
    "Figures of real faces will differ."
)


def compare(
    candidates: Sequence[Candidate],
    config: BenchmarkConfig,
    out: Path,
    *,
    head: ForeignHead | None = None,
    instruments: Instruments | None = None,
    progress: Progress | None = None,
) -> Result:
    """Compare generators, on the people of another ``head`` where one is given.

    Writes compare.json, compare.csv, sheet.png and parts/ into ``out``.

    The same arguments give the same figures, except the seconds; an interrupted call goes on from what is finished.

    Raises:
        MesynthError: no generator, a name given twice, or AUs or people that the head does not have.
        LeakError: a generator or the judge learned from people it would be compared on.
        WeightsUnavailable: the judge's weights are missing.
        RunFolderError: ``out`` holds something else.
    """
    names = [e.name for e in candidates]
    if not names or len(set(names)) != len(names) or TRUTH in names:
        raise MesynthError(f"models {', '.join(names) or '(none)'} must be at least one, named differently")
    for candidate in candidates:
        refuse_leaks(candidate.name, candidate.generator.facts.subjects_seen)
    tools = instruments or Instruments.load()
    check_head(config, head)
    met = set(config.seeds) & set(tools.judge.meta.subjects_seen)
    if met and head is None:
        raise LeakError(f"the AU judge learned from head seed {min(met)}; retrain it without the people compared on")
    everyone = [Candidate(name=TRUTH, generator=RenderedTruth()), *candidates]
    # Not the timing: it may be repeated into the same folder.
    settled = {k: v for k, v in dataclasses.asdict(config).items() if k not in {"clip_frames", "repeats"}}
    claim_folder(
        out,
        {"stage": "compare", "seeds_each": settled.pop("samples"), **settled, **tools.names,
         "models": [e.identity or e.name for e in candidates], "version": __version__},
    )  # fmt: skip
    with only_writer(out):
        return _compared(everyone, config, out, head, tools, progress)


def check_head(config: BenchmarkConfig, head: ForeignHead | None) -> None:
    """Raises ConfigError where a configuration asks for people or AUs that a head does not have."""
    if config.head != (head.hash if head else ""):
        raise ConfigError("the configuration's head is not the head given; set head=head.hash")
    if head is None:
        return
    if head.people and config.people > head.people:
        few = " and means of others need at least 2" if head.people < 2 else ""
        raise ConfigError(f"people={config.people}, and {head.name} has {head.people}{few}; choose fewer or add some")
    lacking = [code for code in config.codes if code in head.missing]
    if lacking:
        raise ConfigError(
            f"{head.name} has no shapes for AU {lacking[0]} ({', '.join(head.missing[lacking[0]])}); "
            f"its AUs are {','.join(map(str, head.available))}"
        )


def _compared(
    everyone: Sequence[Candidate],
    config: BenchmarkConfig,
    out: Path,
    head: ForeignHead | None,
    tools: Instruments,
    progress: Progress | None,
) -> Result:
    targets = requests(config)
    _meet(everyone, targets, config, out / _PARTS, head, tools, progress)
    all_answered = read_answers(out, config, [e.generator.family for e in everyone], tools.judge.trusted)
    person = person_of(config, config.seeds[0], head)
    against, opponents = _opponents(all_answered[0], config)
    standings = []
    for candidate, answered in zip(everyone, all_answered, strict=True):
        candidate.meet(person)
        standings.append(_standing(candidate, answered, against, tools, person, config))
    likened = [r for r in targets if r.likened]
    settings = dataclasses.asdict(config) | tools.names | {"threads": 1, "cores": os.cpu_count()}
    settings |= {"likened_level": likened[0].level, "head_name": head.name if head else ""}
    about = (ABOUT, SOURCE_NOTE) if head is None else (*_about_head(head), SOURCE_NOTE)
    result = Result(
        standings=tuple(standings), settings=settings, notes=(*about, *tools.notes), opponents=tuple(opponents)
    )
    write_text(out / "compare.csv", result.to_csv())
    write_bytes(out / "sheet.png", png_bytes(sheet(everyone, person, config.codes, config.seed)))
    write_last(out / "compare.json", result.to_json().encode())
    return result


def _meet(
    everyone: Sequence[Candidate],
    targets: tuple[Request, ...],
    config: BenchmarkConfig,
    parts: Path,
    head: ForeignHead | None,
    tools: Instruments,
    progress: Progress | None,
) -> None:
    """Every generator meets every person once; memory holds one person at a time."""
    files = _files(parts, config, len(everyone))
    done, total = 0, len(files) * (len(everyone) + 1)

    def tick() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, total)

    if progress:
        progress(0, total)
    means = home = None
    if not all(ref.is_file() for _, ref in files):
        everybody = (person_of(config, seed, head) for seed in config.seeds)
        means = MeanFlows.of(everybody, targets, config.size, tick)
        home = home_mean(tuple(r for r in targets if r.likened), config.size)
    done = len(files)
    for seed, (own, ref) in zip(config.seeds, files, strict=True):
        person = None if all(f.is_file() for f in (*own, ref)) else person_of(config, seed, head)
        if person and means and home is not None and not ref.is_file():
            measure_references(person, targets, means, home, tools).save(ref)
        for candidate, file in zip(everyone, own, strict=True):
            if person and not file.is_file():
                candidate.meet(person)
                question(candidate, person, targets, tools, config.seed, config.samples).save(file)
            tick()


def read_answers(
    folder: Path, config: BenchmarkConfig, families: Sequence[str], trusted: tuple[int, ...]
) -> list[Answered]:
    """What a comparison in ``folder`` kept: the answers of each generator by its family, the rendered truth first.

    ``trusted``: AUs that the judge can read.
    """
    files = _files(folder / _PARTS, config, len(families))
    kept = (file for own, reference in files for file in (*own, reference))
    digests.check(folder, [file.relative_to(folder).as_posix() for file in kept], partly=True)
    answers = [[Answers.read(own[i]) for own, _ in files] for i in range(len(families))]
    beside = [References.read(reference) for _, reference in files]
    weights, targets = resampling.draws(config.people, config.resamples, config.seed), requests(config)
    return [
        Answered(targets, own, beside, answers[0], weights, trusted, unframed(family))
        for family, own in zip(families, answers, strict=True)
    ]


def _files(parts: Path, config: BenchmarkConfig, count: int) -> list[tuple[list[Path], Path]]:
    """For each person the files of all candidates' answers and that of the references."""
    return [([parts / f"{seed}-{i}.npz" for i in range(count)], parts / f"{seed}-beside.npz") for seed in config.seeds]


def _likeness(a: Answered, flows: np.ndarray, refused: np.ndarray | None = None) -> Likeness:
    """Measures of flows [P,A,2,S,S] of the likened requests against the truth's."""
    likened = [r for r in a.targets if r.likened]
    exact = flows_of(np.stack([truth.flows for truth in a.truth]))
    inside = np.stack([beside.inside for beside in a.beside])
    known = np.ones(flows.shape[:2], np.bool_) if refused is None else ~refused
    return likeness(flows, known, exact, inside, [r.code for r in likened])


def _opponents(truth: Answered, config: BenchmarkConfig) -> tuple[dict[str, Likeness], list[Opponent]]:
    exact = flows_of(np.stack([a.flows for a in truth.truth]))
    others = (exact.sum(0) - exact) / (len(exact) - 1)
    home, carried = (flows_of(np.stack([getattr(b, name) for b in truth.beside])) for name in ("home", "carried"))
    fields = (np.zeros_like(exact), others, home, carried)
    against = {name: _likeness(truth, field) for name, field in zip(OPPONENTS, fields, strict=True)}
    against[OTHERS] = against[OTHERS].errors_alone()
    people = [str(seed) for seed in config.seeds]
    return against, [
        Opponent(
            name=name,
            likeness=likeness_figures(own, against, truth.weights),
            people=dict(zip(people, people_figures(own, against), strict=True)),
        )
        for name, own in against.items()
    ]


def _about_head(head: ForeignHead) -> list[str]:
    found = [
        (
            f"People are those of the head '{head.name}' (arrays {head.hash[:12]}), rendered here; landmarks are "
            "exact, frames hold no sensor noise. Whether a generator learned from this head is not known to mesynth."
        )
    ]
    if head.missing:
        found.append(f"{head.name} has no shapes for AU {', '.join(map(str, head.missing))}; they are left out.")
    if head.unused:
        found.append(f"{head.name}: shapes that belong to no AU and are not used: {', '.join(head.unused)}.")
    return [*found, *(f"{head.name}: {note}." for note in head.notes)]


def _standing(
    candidate: Candidate,
    a: Answered,
    against: dict[str, Likeness],
    tools: Instruments,
    person: Person,
    config: BenchmarkConfig,
) -> Standing:
    truth = candidate.name == TRUTH
    figures: list[Figure] = [
        *flow_figures(a), *flow_image_figures(a), *control_figures(a), *identity_figures(a, tools),
        *picture_figures(a, tools), *rest_figures(a),
    ]  # fmt: skip
    if not truth:
        figures.append(seconds_per_clip(candidate, person, a.targets, config)[0])
    refused = a.stack("refused")
    likened = np.array([r.likened for r in a.targets])
    own = _likeness(a, flows_of(a.stack("flows")), refused[:, likened] != "")
    each = dict(zip((r.code for r in a.targets if r.likened), au_figures(own, against, a.weights), strict=True))
    facts = candidate.generator.facts
    return Standing(
        name=candidate.name,
        family=candidate.generator.family,
        facts={
            "size": facts.size, "images": facts.images, "weights_sha256": facts.weights_sha256,
            "parameters": candidate.parameters, "weight_bytes": candidate.weight_bytes,
        },
        figures=tuple(figures),
        by_au={code: (*found, *each[code]) for code, found in by_au(a).items()},
        refused=_refusals(refused, a.targets),
        warnings=grouped(map(str, a.stack("warned").ravel())),
        answered=int((refused == "").sum()),
        requests=refused.size,
        likeness=likeness_figures(own, against, a.weights),
        people=dict(zip(map(str, config.seeds), people_figures(own, against), strict=True)),
    )  # fmt: skip


def _refusals(refused: np.ndarray, targets: tuple[Request, ...]) -> dict[str, tuple[str, ...]]:
    """[P,R] texts -> reason: the requests, and of how many people when not of all."""
    out: dict[str, list[str]] = {}
    for i, request in enumerate(targets):
        for why, count in sorted(Counter(str(text) for text in refused[:, i] if text).items()):
            share = "" if count == len(refused) else f" ({count} of {len(refused)} people)"
            out.setdefault(why, []).append(f"{request.name}{share}")
    return {why: tuple(names) for why, names in out.items()}


# ------------------------------------------------------------------- seconds a clip

_FPS = 200.0


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch, OpenCV, BLAS and compiled kernels work on one thread within."""
    import cv2
    import numba
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads(), cv2.getNumThreads(), numba.get_num_threads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    numba.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])
        numba.set_num_threads(before[2])


def seconds_per_clip(
    candidate: Candidate, person: Person, targets: tuple[Request, ...], config: BenchmarkConfig
) -> tuple[Figure, list[float]]:
    """Median of ``config.repeats`` clips of one person after one that is not counted; each asks for another AU, so
    that nothing is answered from memory, and the face is the one met before."""
    device = candidate.generator.device
    threads = f"one thread of {os.cpu_count()}" + (f", and {device}" if device != "cpu" else "")
    name = f"clip of {config.clip_frames} frames, {config.size} px"
    wanted = [r for r in targets if r.pictured]
    taken: list[float] = []
    with one_thread():
        for i in range(config.repeats + 1):
            request = wanted[i % len(wanted)]
            start = time.perf_counter()
            try:
                if candidate.frameless:
                    candidate.show(person, request.aus, i)
                else:
                    candidate.generator.generate(
                        person.face, request.aus, Profile(apex=0.5), n_frames=config.clip_frames, fps=_FPS, seed=i
                    )  # fmt: skip
            except MesynthError:
                continue  # counted and listed where the requests are measured
            taken.append(time.perf_counter() - start)
    counted = taken[1:]
    if not counted:
        return Figure(name=name, key="seconds", value=None, note="every timed request was refused"), []
    what = f"one flow image, no frames; {threads}" if candidate.frameless else threads
    return (
        Figure(name=name, key="seconds", value=float(np.median(counted)), low=min(counted), high=max(counted), unit="s",
               note=f"median, least and most of {len(counted)}; {what}"),
        counted,
    )  # fmt: skip
