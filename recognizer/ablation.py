"""Does synthetic data help? A grid of conditions with controls, each paired by subject against no synthetic data."""

from __future__ import annotations

import re
import shlex
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mesynth.core.errors import ConfigError
from mesynth.core.process import launched
from mesynth.store.cluster import engine
from mesynth.store.manifest import Manifest
from mesynth.store.run_folder import RUN_FILE, claim_folder, only_writer
from mesynth.store.schedulers import RayEngine
from recognizer import ablation_page, report
from recognizer import results as predictions
from recognizer import sources as ledger
from recognizer.ablation_page import curve_png
from recognizer.ablation_result import (
    CONFIG,
    NONE,
    PARTS,
    POOLED,
    RESULT,
    AblationResult,
    Cell,
    CellResult,
    CellRunner,
    details,
    figures,
    grid,
    groups,
    read_cell,
    read_result,
    write_cell,
    write_result,
)
from recognizer.config import AblationConfig, config_hash, config_yaml, effective
from recognizer.data import FlowSet
from recognizer.models import MODELS
from recognizer.protocol import make_folds
from recognizer.sources import Opened, Progress, Source, as_flow_set, flow_notes, framed, run_identity, sources

_POLL_SECONDS = 0.5


def ablate(
    real: Source,
    synthetic: Source,
    config: AblationConfig = AblationConfig(),
    *,
    models: Mapping[str, Any] | Sequence[Any] | None = None,
    out: Path | str | None = None,
    progress: Progress | None = None,
) -> AblationResult:
    """Does synthetic data help? Run all cells; write tables, a page and figures into ``out`` if it is given.

    With ``out``, finished cells are kept: the same call again goes on, or returns the result. Under `accelerate launch`
    or torchrun the cells are shared over the processes; the first one waits for all cells and writes the result, the
    others wait for it. Inside :func:`mesynth.store.cluster.together` with a Ray engine, groups of cells are its tasks.

    Args:
        real: clips to learn from and to test on: a manifest or its folder, several of them, or a set in memory.
        synthetic: clips that are only learned from.
        models: instead of ``config.models``: names, and objects as :func:`recognizer.loso` takes them; a mapping gives
            the objects names, otherwise they have those of their classes.

    Returns:
        A figure for every condition, and its paired difference from no synthetic clips with Holm's correction.

    Raises:
        LeakError, PoolTooSmallError, ManifestError, ConfigError, MissingClassError, RunFolderError: as
            :func:`recognizer.loso`.

    >>> from sklearn.naive_bayes import GaussianNB
    >>> y = np.arange(36) % 3
    >>> x = np.random.default_rng(0).normal(size=(36, 3, 28, 28))
    >>> x[np.arange(36), 1, 8 * y] += 3  # each class moves another row of the face
    >>> real = FlowSet.of(x, y, [f"s{i // 9}" for i in range(36)])
    >>> made = FlowSet.of(x, y, ["x"] * 36, database="made", generator="mine", subjects_seen=[()] * 36)
    >>> config = AblationConfig(ratios=(0, 0.5), seeds=(0,), resamples=100)
    >>> result = ablate(real, made, config, models=["lda", GaussianNB()])
    >>> for s in result.summary:
    ...     print(s.model, s.arm, s.ratio)
    lda none 0.0
    lda synthetic 0.5
    GaussianNB none 0.0
    GaussianNB synthetic 0.5
    """
    with MODELS.lent(config.models if models is None else models) as names:
        described = {name: text for name, text in names.items() if text}
        if described and engine() is not None:
            raise ConfigError(
                f"model '{next(iter(described))}' is an object of this process and cannot go to Ray's; give a "
                "registered name, or leave the engine out"
            )
        return _ablate(
            sources(real), sources(synthetic), config if models is None else replace(config, models=tuple(names)),
            None if out is None else Path(out), {"models": described} if described else {}, progress,
        )  # fmt: skip


def _ablate(
    real_source: Opened,
    synthetic_source: Opened,
    config: AblationConfig,
    folder: Path | None,
    more: dict[str, Any],
    progress: Progress | None,
) -> AblationResult:
    rank, count = launched()
    real_source, synthetic_source = _framed(real_source, synthetic_source, config)
    names = _names(synthetic_source, config)
    if folder is not None:
        if rank:
            _wait(lambda: (folder / RUN_FILE).is_file())
        identity = run_identity("ablate", real_source, synthetic_source, config)
        claim_folder(folder, identity | more | ({"sources": names} if len(names) > 1 else {}))
    elif count > 1:
        raise ConfigError(f"{count} processes share an ablation through its folder; pass out (--out)")
    with ExitStack() as stack:
        if folder is not None and rank == 0 and not (folder / RESULT).is_file():
            stack.enter_context(only_writer(folder))  # for all processes of the launcher
        if folder is not None and (folder / RESULT).is_file():
            return read_result(folder)
        return _completed(real_source, synthetic_source, names, config, folder, (rank, count), progress)


def _completed(
    real_source: Opened,
    synthetic_source: Opened,
    names: list[str],
    config: AblationConfig,
    folder: Path | None,
    share: tuple[int, int],
    progress: Progress | None,
) -> AblationResult:
    rank, count = share
    report_progress = progress if rank == 0 else None
    start = time.perf_counter()
    runner = _runner(real_source, synthetic_source, names, config, report_progress)
    load_seconds = time.perf_counter() - start
    cells = grid(config, names)
    runner.check(cells)
    results = _run(runner, cells, folder, rank, count, report_progress)
    if results is None:
        assert folder is not None
        _wait(lambda: (folder / RESULT).is_file())
        return read_result(folder)
    command = _command(real_source, synthetic_source, folder)
    notes = _notes(runner, cells, real_source, synthetic_source)
    result = _result(runner, cells, results, load_seconds, command, notes)
    if folder is not None:
        behind = details(cells, results, config)
        texts = {"ablation.html": ablation_page.page(result, behind), "report.md": report.ablation_markdown(result)}
        texts = {name: report.worded(text, config) for name, text in texts.items()}
        table = predictions.join([r.table for r in results])
        write_result(folder, result, table, config_yaml(config, synthetic=True), texts, without=[PARTS])
        if not isinstance(real_source, FlowSet):
            ledger.record(real_source, result.config_hash, {"model": "+".join(config.models), "cells": len(cells)})
        shutil.rmtree(folder / PARTS)
    return result


def _framed(real: Opened, synthetic: Opened, config: AblationConfig) -> tuple[Opened, Opened]:
    real, made, _ = framed(real, synthetic, config.data)
    assert made is not None
    return real, made


def plan(
    real: Source, synthetic: Source, config: AblationConfig, *, progress: Progress | None = None
) -> dict[str, Any]:
    """What would be run. All clips are read and mixed, so that every mistake shows; nothing is trained.

    Raises as :func:`ablate` does.
    """
    real_source, synthetic_source = _framed(sources(real), sources(synthetic), config)
    names = _names(synthetic_source, config)
    runner = _runner(real_source, synthetic_source, names, config, progress)
    cells = grid(config, names)
    runner.check(cells)
    added = runner.mixture(cells[-1]).n_added
    classes = dict(zip(runner.real.outputs, runner.real.class_counts.tolist(), strict=True))
    return {
        "models": list(config.models), "modes": list(config.modes), "sources": names, "folds": len(runner.folds),
        "clips": len(runner.real), "classes": classes,
        "left_out": runner.real.left_out, "counts" if config.counts else "ratios": list(config.counts or config.ratios),
        "seeds": list(config.seeds),
        "cells": len(cells), "synthetic_per_fold": [int(added.min()), int(added.max())],
        "notes": _notes(runner, cells, real_source, synthetic_source),
    }  # fmt: skip


def _runner(
    real: Opened, synthetic: Opened, names: Sequence[str], config: AblationConfig, progress: Progress | None
) -> CellRunner:
    real_set = as_flow_set(real, config, progress, "reading clips")
    made = _made(synthetic, names, config, progress)
    return CellRunner(config, real_set, made, make_folds(real_set, config.protocol))


def _run(
    runner: CellRunner, cells: Sequence[Cell], folder: Path | None, rank: int, count: int, progress: Progress | None
) -> list[CellResult] | None:
    """This process's cells; in the first process then all cells' results, in order."""
    results: dict[int, CellResult] = {}
    if (on_ray := engine()) is not None:
        _run_on(on_ray, runner, cells, folder, results, progress)
    done = 0
    for number, group in enumerate(groups(cells)):
        # Whole or not at all: a network's last bits depend on the members beside it.
        missing = not _there(group, folder, results)
        if missing and (folder is None or number % count == rank):
            # The files of the cells go when the result is there: without its file a cell may be finished all the same.
            if folder is not None and (folder / RESULT).is_file():
                return None

            def report_share(made: float, total: float, done: int = done, size: int = len(group)) -> None:
                if progress:
                    progress("cells", done + size * made / max(total, 1), len(cells))

            for cell, result in zip(group, runner.run(group, report_share), strict=True):
                if folder is None:
                    results[cell.index] = result
                else:
                    write_cell(result, cell.path(folder / PARTS))
        done += len(group)
        if progress:
            progress("cells", done, len(cells))
    if folder is None:
        return [results[cell.index] for cell in cells]
    if rank:
        return None
    paths = [cell.path(folder / PARTS) for cell in cells]
    _wait(lambda: all(path.is_file() for path in paths))
    return [read_cell(path) for path in paths]


def _there(group: Sequence[Cell], folder: Path | None, results: Mapping[int, CellResult]) -> bool:
    if folder is None:
        return all(cell.index in results for cell in group)
    return all(cell.path(folder / PARTS).is_file() for cell in group)


def _run_on(
    on_ray: RayEngine,
    runner: CellRunner,
    cells: Sequence[Cell],
    folder: Path | None,
    results: dict[int, CellResult],
    progress: Progress | None,
) -> None:
    """Every group of cells that is missing, a task each."""
    waiting = [group for group in groups(cells) if not _there(group, folder, results)]
    before = len(cells) - sum(map(len, waiting))

    def keep(made: tuple[Sequence[Cell], Sequence[CellResult]]) -> int:
        for cell, result in zip(*made, strict=True):
            if folder is None:
                results[cell.index] = result
            else:
                write_cell(result, cell.path(folder / PARTS))
        return len(made[0])

    def report(done: int) -> None:
        if progress:
            progress("cells", before + done, len(cells))

    jobs = ((group,) for group in waiting)
    on_ray.run(partial(_task, runner), jobs, report=report, where=folder or "memory", take=keep)


def _task(runner: CellRunner, group: Sequence[Cell]) -> tuple[Sequence[Cell], list[CellResult]]:
    return group, runner.run(group)


def _wait(ready: Callable[[], bool]) -> None:
    """For another process. Should that one fail, the launcher ends this one."""
    while not ready():
        time.sleep(_POLL_SECONDS)


# ---------------------------------------------------------------- sources


_GROUP = re.compile(r"group-\d+")


def _place(manifest: Manifest) -> Path:
    """The folder that stands for a source: corpora of a cross-fit's generators, ``NAME/group-0`` and so on, are one."""
    root = manifest.root.resolve()
    return root.parent if _GROUP.fullmatch(root.name) else root


def _names(source: Opened, config: AblationConfig) -> list[str]:
    """All corpora pooled, and each by its folder's name where each is run by itself."""
    if not config.per_source:
        return [POOLED]
    if isinstance(source, FlowSet):
        raise ConfigError("per_source=true tells corpora apart by their manifests; pass those, or set it to false")
    places = _places(source)
    if len(places) < 2:
        return [POOLED]
    names = [place.name for place in places]
    if len({POOLED, *names}) < len(names) + 1:  # two folders of one name, or one called as the pool is
        names = ["/".join(place.parts[-2:]) for place in places]
    if len(set(names)) < len(names):
        raise ConfigError(f"per_source=true needs corpora in folders of different names, not twice {names[0]}")
    return [POOLED, *names]


def _places(source: Sequence[Manifest]) -> list[Path]:
    # A corpus that is given twice stays two, which is refused; groups are one corpus in parts.
    whole = [_place(m) for m in source]
    parts = [place for m, place in zip(source, whole, strict=True) if place != m.root.resolve()]
    return [place for i, place in enumerate(whole) if place not in parts or place not in whole[:i]]


def _made(
    source: Opened, names: Sequence[str], config: AblationConfig, progress: Progress | None
) -> dict[str, FlowSet]:
    if len(names) == 1:
        return {POOLED: as_flow_set(source, config, progress, "reading synthetic")}
    assert isinstance(source, list)
    each = {}
    for name, place in zip(names[1:], _places(source), strict=True):
        each[name] = as_flow_set([m for m in source if _place(m) == place], config, progress, f"reading {name}")
    return {POOLED: FlowSet.concat(list(each.values()))} | each


# ---------------------------------------------------------------- result


def _notes(runner: CellRunner, cells: Sequence[Cell], real: Opened, synthetic: Opened) -> list[str]:
    """Of the clips: flow of two kinds, and what folds lack where nothing is added, by the number of subjects."""
    notes = flow_notes(real, synthetic, runner.config)
    plain = {c.condition.train_subjects: c for c in reversed(cells) if c.condition.arm == NONE}
    for subjects, cell in sorted(plain.items()):
        mixture = runner.mixture(cell)
        lacking = {fold.name: mixture.lacking(f) for f, fold in enumerate(mixture.folds)}
        of = f"{subjects} subjects, " if subjects else ""
        notes += [f"{of}no synthetic clips: {line}" for line in report.lacking_notes(lacking, multi=runner.real.multi)]
    if runner.real.multi:
        notes.append(report.constants_note(predictions.constant_rows(runner.real, runner.folds)))
    return notes


def _result(
    runner: CellRunner,
    cells: Sequence[Cell],
    results: Sequence[CellResult],
    load_seconds: float,
    command: str,
    notes: Sequence[str],
) -> AblationResult:
    start = time.perf_counter()
    rows, summary, by_fold = figures(cells, results, runner.config)
    curve = curve_png(summary, report.worded("UF1", runner.config))
    seconds = {"load": load_seconds}
    for cell, result in zip(cells, results, strict=True):
        seconds[cell.condition.model] = seconds.get(cell.condition.model, 0.0) + result.seconds
    seconds["statistics"] = time.perf_counter() - start
    return AblationResult(
        rows=tuple(rows),
        summary=tuple(summary),
        by_fold=tuple(by_fold),
        comparisons=sum(s.difference is not None for s in summary),
        n_subjects=len(np.unique(runner.real.subjects)),
        n_clips=len(runner.real),
        sources={name: len(made) for name, made in runner.made.items()},
        seconds={name: round(value, 3) for name, value in seconds.items()},
        config=effective(runner.config, synthetic=True),
        config_hash=config_hash(runner.config, synthetic=True),
        command=command,
        notes=tuple(notes),
        curve=curve,
    )


def _command(real: Opened, synthetic: Opened, folder: Path | None) -> str:
    if isinstance(real, FlowSet) or isinstance(synthetic, FlowSet) or folder is None:
        return ""
    words = ["recognizer", "ablate", str(folder / CONFIG)]
    for option, manifests in (("--real", real), ("--synthetic", synthetic)):
        for manifest in manifests:
            words += [option, str(manifest.root)]
    return shlex.join([*words, "--out", f"{folder}-again"])
