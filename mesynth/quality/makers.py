"""Clips on faces and flow images, made until they are accepted: what :func:`run_until_accepted` needs of each kind."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mesynth.corpus.faces import FaceSource, find_faces, prepare_faces
from mesynth.corpus.flow_corpus import Batches, FlowRun, FlowWorker, flow_run
from mesynth.corpus.generate import GenerateWorker, Preview, choose, choose_for_rows, run_config
from mesynth.corpus.models import Model
from mesynth.corpus.plan import Plan, PlanConfig, write_plan
from mesynth.corpus.plan_file import StoredPlan
from mesynth.corpus.throughput import Report
from mesynth.errors import ConfigError
from mesynth.motion.flow_prior import NAME as FLOW_PRIOR
from mesynth.motion.flow_prior import FlowNuisance
from mesynth.motion.prior import NAME
from mesynth.quality.checks import Checks
from mesynth.quality.tries import Redrawn, Tries, Turns
from mesynth.quality.until_accepted import TopUp, Until, run_until_accepted
from mesynth.run_folder import claim_folder
from mesynth.stage import Jobs, Progress


@dataclass(frozen=True)
class _Clips:
    """Frames and flow on faces; each process checks what it makes."""

    rows: Plan | StoredPlan
    model: Model
    sources: list[FaceSource]
    size: int
    preview: Preview
    landmarker: str
    workers: int
    progress: Callable[[str], Progress] | None
    out: Path
    until: Until
    checks: Checks

    def prepare(self) -> None:
        bar = self.progress("faces") if self.progress else None
        prepare_faces(
            self.sources, self.out / "faces", self.size, landmarker=self.landmarker, workers=self.workers, progress=bar
        )
        write_plan(self.rows, self.out)

    def jobs(self, turns: Turns) -> Jobs:
        return turns

    def worker(self) -> Tries:
        make = GenerateWorker(self.model, self.out / "faces", self.size, self.preview)
        return Tries(make, Checks(self.until.limits), self.until.attempts)


def generate_until_accepted(
    rows: PlanConfig | StoredPlan,
    out: Path,
    until: Until = Until(),
    *,
    faces: Path | None = None,
    model: str = NAME,
    preview: Preview = Preview(),
    landmarker: str = "auto",
    workers: int = 1,
    progress: Callable[[str], Progress] | None = None,
    report: Report | None = None,
) -> TopUp:
    """:func:`mesynth.corpus.generate.generate` or ``generate_plan``, with every rejected clip drawn again.

    The corpus is as theirs, with accepted clips alone; beside it lie ``rejected.csv`` (every reason against every
    rejected try) and, if there are such rows, ``skipped.csv`` (those that no try was accepted of, and why). Where
    nothing is rejected, clips and shards are theirs, byte for byte.

    Raises:
        WeightsUnavailable: a check's network is not on this machine.
        MesynthError: what they raise; no ``faces`` for rows that are no stored plan.
    """
    checks = Checks(until.limits)
    checks.load()
    if isinstance(rows, StoredPlan):
        chosen, sources, size = choose_for_rows(model, rows), rows.find(faces), rows.size
        plan: Plan | StoredPlan = rows
        planned: dict[str, Any] = {"stored_plan": rows.hash}
    else:
        if faces is None:
            raise ConfigError("give faces a picture, a folder of pictures or a manifest; or a stored plan")
        chosen, sources, size = choose(model, rows), find_faces(faces), rows.size
        plan = Plan(rows, len(sources))
        planned = {"plan": dataclasses.asdict(rows)}
    run = run_config(chosen, planned, sources, preview, landmarker) | until.plain()
    claim_folder(out, run)
    maker = _Clips(plan, chosen, sources, size, preview, landmarker, workers, progress, out, until, checks)
    return run_until_accepted(out, plan, maker, until, run, workers=workers, progress=progress, report=report)


@dataclass(frozen=True)
class _Flows:
    """Flow images: nothing but duplicates to look for."""

    run: FlowRun
    out: Path
    checks: Checks

    def prepare(self) -> None:
        write_plan(self.run.rows, self.out)

    def jobs(self, turns: Turns) -> Jobs:
        return Batches(Redrawn(turns))

    def worker(self) -> FlowWorker:
        return self.run.worker()


def generate_flow_until_accepted(
    rows: PlanConfig | StoredPlan,
    out: Path,
    until: Until,
    *,
    model: str = FLOW_PRIOR,
    people: int = 0,
    size: int = 28,
    nuisance: FlowNuisance = FlowNuisance(),
    workers: int = 1,
    progress: Callable[[str], Progress] | None = None,
    report: Report | None = None,
) -> TopUp:
    """:func:`mesynth.corpus.flow_corpus.generate_flow`, with every duplicate drawn again; see
    :func:`generate_until_accepted`.

    Raises:
        ConfigError: a check of frames: there are none.
        MesynthError: what it raises.
    """
    if until.limits.of_frames:
        raise ConfigError(f"--keep {until.limits.of_frames[0]} needs frames; with --kind flow use --keep duplicate")
    flow = flow_run(rows, model=model, people=people, size=size, nuisance=nuisance)
    run = flow.config | until.plain()
    claim_folder(out, run)
    maker = _Flows(flow, out, Checks(until.limits))
    return run_until_accepted(out, flow.rows, maker, until, run, workers=workers, progress=progress, report=report)
