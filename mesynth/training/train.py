"""Train a generator, or one per group of subjects: opens the data, claims the folder, runs the loop, saves."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mesynth import __version__
from mesynth.core.errors import ConfigError, LeakError, MesynthError
from mesynth.preprocess.landmarks import default_folder
from mesynth.store import digests
from mesynth.store.generator_folder import GeneratorFacts, trained_family
from mesynth.store.run_folder import RUN_FILE, claim_folder, only_writer, write_last
from mesynth.store.stage import Progress
from mesynth.training.checkpoint import InitialWeights, open_initial, refuse_leak
from mesynth.training.config import Recipe
from mesynth.training.data.batches import PairSet, check_split
from mesynth.training.data.pack import subject_groups
from mesynth.training.loop import Run, build_task, warn
from mesynth.training.processes import Processes, check_trackers
from mesynth.training.record import METRICS, RECIPE, RECORD, RunFolder, read_metrics
from mesynth.training.task import Task

CROSS_FIT = "cross_fit.json"
Bars = Callable[[str], Progress]


@dataclass(frozen=True)
class Trained:
    """A finished run."""

    folder: Path
    """The run's folder; the generator is its ``generator/``."""
    images: int
    subjects_seen: tuple[str, ...]
    figures: dict[str, float]
    """Measured at the last validation."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where a run is carried out; its result does not depend on it (up to rounding)."""

    device: str = "auto"
    """auto, cpu or cuda."""
    cache: Path | None = None
    """Where rendered and packed pairs lie, for all runs; None: ``pairs`` in the user's cache folder."""
    workers: int = 1
    """Processes that prepare pairs the first time, 0 for one per core."""
    trackers: tuple[Any, ...] = ()
    """Names (tensorboard, ...) or accelerate's tracker objects; ``metrics.jsonl`` is written in any case."""


def train(
    recipe: Recipe,
    out: Path,
    *,
    exclude_subjects: Collection[str] = (),
    machine: Machine = Machine(),
    progress: Bars | None = None,
) -> Trained:
    """Train ``recipe`` into ``out``. The same call resumes; a finished run is returned as it is.

    Every process of a distributed run makes the same call. ``exclude_subjects`` are ``database/subject`` names that
    neither train nor validate.

    Raises:
        RunFolderError: ``out`` holds another run, or only damaged checkpoints.
        LeakError: a generator that it begins with or learns from has seen an excluded subject.
        ConfigError: a value that does not fit the data, the machine or the number of processes.
        Interrupted: Ctrl-C or SIGTERM, after a checkpoint.
        TrainingFailed: a loss is not finite, or a known failure persists.
    """
    check_trackers(machine.trackers)
    excluded = tuple(sorted(set(exclude_subjects)))
    start = open_initial(recipe)
    if start is not None:
        start.refuse_leak(excluded)
    processes = Processes(machine.device, recipe.run.precision, machine.trackers)
    check_split(recipe.run.batch, processes.count, recipe.run.accumulate)
    task = build_task(recipe, start)  # what does not fit is said before anything is written
    for key, facts in task.teachers().items():
        refuse_leak(key, facts, excluded)
    folder = RunFolder(Path(out))
    with ExitStack() as stack:

        def claim() -> bool:
            """Whether there is something to do; the first process holds the folder for all."""
            folder.claim(recipe, excluded, start.sha256 if start else "")
            if not folder.generator.is_dir():
                stack.enter_context(folder.hold(recipe))
            return not folder.generator.is_dir()

        if not processes.gather(processes.on_main(claim))[0]:
            return _finished(folder)
        cache = machine.cache or default_folder() / "pairs"
        pairs = _open(recipe, task, excluded, cache, machine.workers, processes, progress)
        record = _record(recipe, excluded, pairs, processes, start, task.teachers())
        processes.on_main(lambda: folder.keep_record(record))
        run = Run(recipe, folder, processes, pairs, record, task)
        processes.start_trackers(folder.path / "trackers", recipe.plain())
        try:
            run.train(progress("train") if progress and processes.main else None)
        finally:
            processes.end_trackers()
        processes.on_main(run.finish)
    return _finished(folder)


def cross_fit(
    recipe: Recipe,
    out: Path,
    groups: int,
    *,
    exclude_subjects: Collection[str] = (),
    machine: Machine = Machine(),
    progress: Bars | None = None,
) -> list[Trained]:
    """Train ``groups`` generators, ``out/group-0`` and so on, each without one group of subjects.

    ``out/cross_fit.json`` then names, for every subject, the run that never saw them. The partition depends on the
    subjects and ``run.seed`` alone; groups are trained one after the other and the same call resumes.

    Raises: as :func:`train`.
    """
    check_trackers(machine.trackers)
    out = Path(out)
    excluded = set(exclude_subjects)
    data = trained_family(recipe.task).source
    subjects = [subject for subject in data.subjects(recipe.data) if subject not in excluded]
    parts = subject_groups(subjects, groups, recipe.run.seed)
    start = open_initial(recipe)
    if start is not None:  # every subject of the data is left out of one of the runs
        start.refuse_leak({*excluded, *subjects})
    processes = Processes(machine.device, recipe.run.precision)
    check_split(recipe.run.batch, processes.count, recipe.run.accumulate)
    identity = recipe.identity(start.sha256 if start else "")
    identity |= {"exclude_subjects": sorted(excluded), "cross_fit": groups, "subjects": subjects}
    made = []
    with ExitStack() as stack:

        def claim() -> None:
            claim_folder(out, identity)
            stack.enter_context(only_writer(out))

        processes.on_main(claim)
        for g, part in enumerate(parts):
            bars = (lambda name, g=g: progress(f"group {g + 1}/{groups}: {name}")) if progress else None
            made.append(
                train(recipe, out / f"group-{g}", exclude_subjects={*excluded, *part}, machine=machine, progress=bars)
            )
        table = {subject: f"group-{g}" for g, part in enumerate(parts) for subject in part}
        text = json.dumps(table, indent=1, sort_keys=True) + "\n"
        processes.on_main(lambda: write_last(out / CROSS_FIT, text.encode()))
    return made


def read_cross_fit(out: Path) -> dict[str, Path]:
    """For every subject, the generator of a finished cross-fit that never saw them.

    Raises:
        MesynthError: there is none, or a generator is missing.
    """
    try:
        table = json.loads((out / CROSS_FIT).read_text())
        digests.check(out, [CROSS_FIT])
    except digests.DigestError:
        raise
    except (OSError, ValueError, RecursionError):
        raise MesynthError(f"{out} holds no finished cross-fit; run mesynth train --cross-fit to its end") from None
    found = {subject: out / run / "generator" for subject, run in table.items()}
    missing = sorted({str(path) for path in found.values() if not path.is_dir()})
    if missing:
        raise MesynthError(f"{missing[0]} is missing; run mesynth train --cross-fit again")
    return found


def _open(
    recipe: Recipe,
    task: Task,
    excluded: Sequence[str],
    cache: Path,
    workers: int,
    processes: Processes,
    progress: Bars | None,
) -> tuple[PairSet, PairSet]:
    """The pairs, made by the first process and then found by the others."""

    def work() -> tuple[PairSet, PairSet]:
        bars = progress if processes.main else None
        opened = trained_family(recipe.task).source.open(
            recipe.data, exclude_subjects=excluded, cache=cache, seed=recipe.run.seed, workers=workers, progress=bars
        )
        learned, held = (
            task.prepared(pairs, cache, bars(name) if bars else None, workers)
            for pairs, name in zip(opened, ("form", "form validation"), strict=True)
        )
        return learned, held

    pairs = processes.on_main(work)
    return work() if pairs is None else pairs


def _record(
    recipe: Recipe,
    excluded: Sequence[str],
    pairs: tuple[PairSet, PairSet],
    processes: Processes,
    start: InitialWeights | None,
    teachers: Mapping[str, GeneratorFacts],
) -> dict[str, Any]:
    training, validation = pairs
    if training.size != recipe.data.size:
        raise ConfigError(f"data.size={recipe.data.size} but the pairs have {training.size} px; set it to that")
    leaked = sorted(set(excluded) & {*training.subjects_seen, *validation.subjects_seen})
    if leaked:
        raise LeakError(
            f"excluded subject {leaked[0]} is still in the pairs; this is a fault of the data, not of yours"
        )
    hashes = set(processes.gather(training.data_hash))
    if len(hashes) > 1:
        raise MesynthError("processes opened different data; give all of them the same --cache on a shared disk")
    seen, licences, begun = set(training.subjects_seen), list(training.licences), {}
    others = dict(teachers) | ({"run.start": start.facts} if start is not None else {})
    for key, facts in others.items():
        known = sorted(set(validation.subjects_seen) & set(facts.subjects_seen))
        if known and processes.main:
            warn(f"{key} has learned from {len(known)} of the subjects that validate ({known[0]}): figures flatter")
        seen |= set(facts.subjects_seen)
        licences = sorted({*licences, *facts.licences})
    if start is not None:
        begun = {"start": {"weights_sha256": start.sha256, "images": start.facts.images}}
    return begun | {
        "subjects_seen": sorted(seen),
        "subjects_validated": sorted(validation.subjects_seen),
        "exclude_subjects": list(excluded),
        "licences": licences,
        "data_hash": training.data_hash,
        "pairs": len(training),
        "config_hash": recipe.hash(start.sha256 if start else ""),
        "code_version": __version__,
        "processes": processes.count,
        "device": str(processes.device),
        "threads": os.environ.get("OMP_NUM_THREADS", ""),
    }


def _finished(folder: RunFolder) -> Trained:
    digests.check(folder.path, [RUN_FILE, RECIPE, RECORD, METRICS])
    record = json.loads((folder.path / RECORD).read_text())
    measured = [line for line in read_metrics(folder.path) if line["kind"] == "validation"]
    last: dict[str, Any] = measured[-1] if measured else {"images": 0, "measures": {}}
    return Trained(folder.path, last["images"], tuple(record["subjects_seen"]), last["measures"])
