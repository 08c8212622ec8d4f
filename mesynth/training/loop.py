"""The loop: every generator is trained by it, stops and resumes by it, and ends as a saved pipeline."""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import torch

from mesynth import __version__
from mesynth.core.errors import ConfigError, MesynthError, first_line
from mesynth.core.process import stop_requested
from mesynth.core.seeds import derived
from mesynth.store import digests
from mesynth.store.generator_folder import GeneratorFacts, trained_family
from mesynth.store.stage import Interrupted, Progress
from mesynth.training import checkpoint
from mesynth.training.checkpoint import Averages, Clock, InitialWeights, Sums, capture, restore
from mesynth.training.config import Recipe
from mesynth.training.data.batches import Batch, PairSet, batches, check_split
from mesynth.training.processes import Processes
from mesynth.training.record import RunFolder
from mesynth.training.task import Problem, StepUpdater, Task


class TrainingFailed(MesynthError):
    """A run ended because training went wrong in a known way; its checkpoints stay."""


def warn(text: str) -> None:
    """One line on stderr."""
    print(f"warning: {text}", file=sys.stderr, flush=True)


def build_task(recipe: Recipe, start: InitialWeights | None = None) -> Task:
    """The recipe's task with its initial weights: they depend on ``run.seed`` and on ``start`` alone.

    Raises:
        ConfigError: weights of another architecture, or data that the task cannot learn from.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived(recipe.run.seed, "init"))
        task = trained_family(recipe.task).build_task(recipe.config, recipe.data.size)
    task.check_data(recipe.data)
    if getattr(recipe.data, "faces", ()):
        task.check_faces(alone=recipe.data.faces_alone)
    if start is not None:
        start.load_into(task)
    return task


class Run:
    """One run of one recipe into one folder."""

    def __init__(
        self,
        recipe: Recipe,
        folder: RunFolder,
        processes: Processes,
        pairs: tuple[PairSet, PairSet],
        record: dict[str, Any],
        task: Task,
    ) -> None:
        run = recipe.run
        check_split(run.batch, processes.count, run.accumulate)
        self.recipe, self.folder, self.processes, self.pairs, self.record = recipe, folder, processes, pairs[0], record
        self.clock = Clock()
        self.validation = [batch.to(processes.device) for batch in pairs[1].validation(run.validation)]
        self.task = task
        for network in (*self.task.networks.values(), *self.task.frozen.values()):
            network.to(processes.device)
        for network in self.task.networks.values():
            processes.share([*network.parameters(), *network.buffers()])
            network.train()
        for network in self.task.frozen.values():
            network.eval().requires_grad_(False)
        self.averages = Averages(self.task.networks, self.task.averaged, run.half_life, run.half_life_ramp)
        self.updater = StepUpdater(
            self.task.optimisers(), processes, clip=run.clip, seed=run.seed, fp16=run.precision == "fp16"
        )
        self._rates = {n: [g["lr"] for g in o.param_groups] for n, o in self.updater.optimisers.items()}
        self._pending: list[dict[str, torch.Tensor]] = []
        if run.compile:
            for network in self.task.networks.values():
                network.compile()

    @property
    def end(self) -> int:
        """The clock of the finished run."""
        return self.recipe.run.steps * self.recipe.run.batch

    # ------------------------------------------------------------ training

    def train(self, progress: Progress | None = None) -> None:
        """Go on from the newest checkpoint to the end.

        Raises:
            Interrupted: asked to stop, after a checkpoint.
            TrainingFailed: a loss is not finite, or a known failure persists.
        """
        self.resume()
        run, clock = self.recipe.run, self.clock
        if clock.images >= self.end and (problem := self._verdict()):
            raise TrainingFailed(problem)
        began, base = time.monotonic(), clock.seconds
        saved_at = shown_at = began
        shown = saved = clock.images
        data = batches(
            self.pairs,
            clock.images,
            self.end,
            run.batch,
            rank=self.processes.rank,
            processes=self.processes.count,
            accumulate=run.accumulate,
            prefetch=run.prefetch,
        )
        if progress:
            progress(clock.images, self.end)
        outside = torch.get_rng_state()
        try:
            with stop_requested() as asked, closing(data):
                for parts in data:
                    finite = self._advance([(draw, batch.to(self.processes.device)) for draw, batch in parts])
                    now = time.monotonic()
                    clock.seconds = base + now - began
                    due = bool(run.checkpoint_minutes) and now - saved_at > 60 * run.checkpoint_minutes
                    stop, due, broken = self.processes.any(asked.is_set(), due and self.processes.main, not finite)
                    if broken:
                        self._fail_loss()
                    told = self._telling
                    if told:
                        self._log((clock.images - shown) / max(now - shown_at, 1e-9))
                    problem = self._validate() if self._passed(run.validate_images) else ""
                    if stop or due or problem or self._passed(run.checkpoint_images):
                        self.save()
                        saved, saved_at = clock.images, time.monotonic()
                    if told:  # what validation and saving take is no part of the speed
                        shown, shown_at = clock.images, time.monotonic()
                    if progress:
                        progress(clock.images, self.end)
                    if problem:
                        raise TrainingFailed(problem)
                    if stop and clock.images < self.end:
                        raise Interrupted(
                            f"stopped after {clock.images:,} of {self.end:,} images; the same command goes on"
                        )
            assert saved == clock.images == self.end
        except Problem as problem:
            raise TrainingFailed(f"{problem} (after {clock.images:,} images); the checkpoints stay") from None
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = first_line(error)
            raise ConfigError(f"run.compile=true does not work here ({reason}); set run.compile=false") from None
        finally:
            torch.set_rng_state(outside)

    def _advance(self, parts: list[tuple[int, Batch]]) -> bool:
        """One update; whether its losses are finite, as far as that is known without waiting for a GPU."""
        run, clock = self.recipe.run, self.clock
        if run.scheduled:
            share = run.rate(clock.images)
            for name, optimiser in self.updater.optimisers.items():
                for group, rate in zip(optimiser.param_groups, self._rates[name], strict=True):
                    group["lr"] = rate * share
        losses = self.updater.run(self.task, parts, clock.images)
        losses |= {f"norm/{name}": norm.detach().float() for name, norm in self.updater.norms.items()}
        clock.images += run.batch
        if self.processes.count > 1:
            self.processes.average(
                [b for net in self.task.networks.values() for b in net.buffers() if b.is_floating_point()]
            )
        self.averages.update(self.task.networks, clock.images, run.batch)
        self._pending.append(losses)
        return self._collect() if self.processes.device.type == "cpu" or self._telling else True

    @property
    def _telling(self) -> bool:
        """Whether losses are told now: a validation wants them as well."""
        return self._passed(self.recipe.run.log_images) or self._passed(self.recipe.run.validate_images)

    def _passed(self, every: int) -> bool:
        """Whether the last update reached a multiple of ``every`` images, or the end."""
        before = self.clock.images - self.recipe.run.batch
        return self.clock.images >= self.end or (every > 0 and self.clock.images // every > before // every)

    def _collect(self) -> bool:
        """Move pending losses into the clock's sums; whether all are finite."""
        sums = self.clock.losses
        finite = True
        for losses in self._pending:
            values = torch.stack(list(losses.values())).tolist() if losses else []
            for name, value in zip(losses, values, strict=True):
                total, count = sums.get(name, (0.0, 0))
                sums[name] = (total + value, count + 1)
                # An fp16 gradient may overflow: the scaler leaves that step out.
                finite &= math.isfinite(value) or (name.startswith("norm/") and self.updater.scaler is not None)
        self._pending, self.clock.losses = [], sums
        return finite

    def _fail_loss(self) -> None:
        bad = sorted({name for each in self.processes.gather(self._not_finite()) for name in each})
        kept = checkpoint.folders(self.folder.checkpoints)
        where = f"the checkpoint at {int(kept[0].name):,} images is good" if kept else "there is no checkpoint yet"
        raise TrainingFailed(
            f"{', '.join(bad) or 'the weights'} not finite after {self.clock.images:,} images; {where}; lower the "
            "learning rate (optim), set run.clip or run.precision=fp32, and start in a new folder"
        )

    def _not_finite(self) -> list[str]:
        return [name for name, (total, _) in self.clock.losses.items() if not math.isfinite(total)]

    # ------------------------------------------------------------ telling

    def _log(self, speed: float) -> None:
        clock = self.clock
        everyone = self.processes.gather(clock.losses)
        names = list(dict.fromkeys(name for sums in everyone for name in sums))
        found = {name: [sums[name] for sums in everyone if name in sums] for name in names}
        clock.logged = {name: sum(t for t, _ in s) / sum(n for _, n in s) for name, s in found.items()}
        clock.losses = {}
        rates = {name: optimiser.param_groups[0]["lr"] for name, optimiser in self.updater.optimisers.items()}
        line = {"seconds": clock.seconds, "images_per_s": speed, "lr": rates, "losses": clock.logged}
        if self.processes.main:
            self.folder.metric("train", clock.images, line)
            self.processes.track(
                clock.logged | {f"lr/{n}": r for n, r in rates.items()} | {"images_per_s": speed}, clock.images
            )

    @torch.no_grad()
    def _validate(self) -> str:
        """Measure and draw; the message that ends the run, or "". A measure that no pair has is NaN."""
        run, clock, averaged = self.recipe.run, self.clock, self.averages.networks
        sums: Sums = {}
        for batch in self.validation[self.processes.rank :: self.processes.count]:
            with self.processes.autocast():
                measures = self.task.validate(averaged, batch)
            for name, values in measures.items():
                values = values.detach().double()
                known = values[~values.isnan()]
                total, count = sums.get(name, (0.0, 0))
                sums[name] = (total + float(known.sum()), count + len(known))
        everyone = self.processes.gather(sums)
        names = list(dict.fromkeys(name for each in everyone for name in each))
        pooled = {name: [each[name] for each in everyone if name in each] for name in names}
        counts = {name: sum(c for _, c in s) for name, s in pooled.items()}
        clock.measured = {n: sum(t for t, _ in s) / counts[n] if counts[n] else math.nan for n, s in pooled.items()}
        try:
            problem = self.task.check(clock.logged, clock.measured)
        except Problem as raised:
            problem = str(raised)
        clock.problem, clock.problems = problem, clock.problems + 1 if problem else 0
        if self.processes.main:
            self.folder.metric("validation", clock.images, {"measures": clock.measured, "problem": problem})
            self.processes.track({f"validation/{n}": v for n, v in clock.measured.items()}, clock.images)
            if problem:
                warn(f"after {clock.images:,} images: {problem}")
            if run.sheet and self.validation:
                with self.processes.autocast():
                    picture = self.task.sheet(averaged, first(self.validation, run.sheet))
                self.folder.sheet(clock.images, picture)
        return self._verdict()

    def _verdict(self) -> str:
        """Why the run cannot go on, or "" if it can."""
        run, clock = self.recipe.run, self.clock
        if not clock.problem or not run.patience:
            return ""
        if clock.images >= self.end:
            return f"{clock.problem} (at the last validation); no generator is saved, run.patience=0 saves one"
        if clock.problems >= run.patience:
            return (
                f"{clock.problem} (at {clock.problems} validations in a row, after {clock.images:,} images); the same "
                "command goes on to the next validation, run.patience=0 to the end"
            )
        return ""

    # ------------------------------------------------------------ state

    def save(self) -> None:
        """Write a checkpoint now. Raises TrainingFailed rather than save weights that are not finite."""
        everything = [p for network in self.task.networks.values() for p in network.parameters()]
        good = self._collect() and all(bool(p.isfinite().all()) for p in everything)
        if self.processes.any(not good)[0]:
            self._fail_loss()
        losses = self.processes.gather(self.clock.losses)
        state = capture(self.clock, losses, self.task.networks, self.averages.networks, self.updater)
        self.processes.on_main(
            lambda: checkpoint.write(self.folder.checkpoints, self.clock.images, state, self.recipe.run.keep)
        )

    def resume(self) -> None:
        """Go back to the newest complete checkpoint, if there is one."""
        quiet: Callable[[str], None] = lambda text: None  # noqa: E731
        found = checkpoint.newest(self.folder.checkpoints, warn if self.processes.main else quiet)
        if found:
            self.clock = restore(
                found[1],
                self.task.networks,
                self.averages.networks,
                self.updater,
                rank=self.processes.rank,
                processes=self.processes.count,
            )
            assert self.clock.images == found[0]
        self.processes.barrier()  # before the first process removes anything, all have read
        if self.processes.main:
            if self.folder.checkpoints.is_dir():
                checkpoint.remove_unfinished(self.folder.checkpoints)
            self.folder.cut_metrics(self.clock.images)

    def finish(self) -> None:
        """Save the averaged networks as ``generator/``."""
        record, clock = self.record, self.clock
        facts = GeneratorFacts(
            name=self.task.name,
            size=self.recipe.data.size,
            subjects_seen=tuple(record["subjects_seen"]),
            licences=tuple(record["licences"]),
            data_hash=record["data_hash"],
            config_hash=record["config_hash"],
            images=clock.images,
            seed=self.recipe.run.seed,
            code_version=__version__,
            figures={name: value for name, value in clock.measured.items() if math.isfinite(value)},
        )
        final, temporary = self.folder.generator, self.folder.path / ".generator"
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            self.task.save(self.averages.networks, temporary, facts)
        except Problem as problem:
            raise TrainingFailed(f"{problem}; no generator is saved, the checkpoints stay") from None
        own = temporary / digests.LIST
        if not own.is_file():  # a family of somebody else's may save in its own way
            digests.seal(temporary)
        digests.seal(self.folder.path, ahead={f"{final.name}/{own.name}": digests.file_sha256(own)})
        temporary.rename(final)  # last: it says that the run is finished


def first(validation: Sequence[Batch], n: int) -> Batch:
    """The first ``n`` pairs of some batches (fewer if there are fewer) as one batch."""
    together = type(validation[0]).joined(validation)
    return together.rows(np.arange(min(n, len(together))))
