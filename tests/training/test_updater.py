"""An update over parts is the update of the whole batch, also when optimisers take turns within a step."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from mesynth.training.config import Recipe, load_recipe
from mesynth.training.data.batches import Batch
from mesynth.training.data.sequences import SequenceBatch
from mesynth.training.forecast import random_batch
from mesynth.training.loop import build_task
from mesynth.training.processes import Processes
from mesynth.training.task import StepUpdater, Task, Updater
from tests.training.toy import PairConfig, ToyPairs, ToyTask

Make = Callable[..., Recipe]


@pytest.fixture
def processes() -> Iterator[Processes]:
    with torch.random.fork_rng(devices=[]):
        yield Processes("cpu")


def _parts(count: int, batch: int = 16, start: int = 0) -> list[tuple[int, Batch]]:
    pairs = ToyPairs(PairConfig(), ("left/00",), seed=0)
    draws = np.arange(start, start + batch)
    return [(int(draws[p]), pairs.batch(draws[p::count])) for p in range(count)]


def _updater(task: Task, processes: Processes, clip: float = 0.0) -> StepUpdater:
    return StepUpdater(task.optimisers(), processes, clip=clip, seed=0, fp16=False)


@pytest.mark.parametrize("clip", [0.0, 0.05])
@pytest.mark.parametrize("parts", [2, 4, 16])
def test_parts_do_not_change_the_update(recipe: Make, processes: Processes, parts: int, clip: float) -> None:
    """Tolerance: sums in another order, float32."""
    logs, weights = [], []
    for count in (1, parts):
        task = build_task(recipe())
        updater = _updater(task, processes, clip)
        logs.append([updater.run(task, _parts(count, start=16 * step), 16 * step) for step in range(5)])
        weights.append([p.detach().clone() for net in task.networks.values() for p in net.parameters()])
    for one, many in zip(*logs, strict=True):
        assert one.keys() == many.keys()
        for name in one:
            torch.testing.assert_close(many[name], one[name], rtol=1e-5, atol=1e-6)
    for one, many in zip(*weights, strict=True):
        torch.testing.assert_close(many, one, rtol=1e-4, atol=1e-5)


class Several(ToyTask):
    """Three critic updates for one of the body; the body's loss goes through the critic, which is not frozen."""

    def step(self, batch: Batch, images: int, updater: Updater) -> dict[str, torch.Tensor]:
        made = self.networks["body"](batch.aus.flatten(1))
        for _ in range(3):
            updater.update("critic", ((self.networks["critic"](made.detach()) - 1) ** 2).mean())
        loss = self.networks["critic"](made).mean()
        updater.update("body", loss)
        return {"body": loss.detach()}


def test_an_optimiser_may_step_several_times_and_is_stepped_before_the_next_loss(
    recipe: Make, processes: Processes
) -> None:
    def built() -> Several:
        task = Several(recipe().config, 4)
        task.networks["critic"].load_state_dict({"weight": torch.ones(1, 2), "bias": torch.zeros(1)})
        torch.manual_seed(0)
        for p in task.networks["body"].parameters():
            torch.nn.init.normal_(p, std=0.1)
        return task

    losses = []
    for count in (1, 4):
        task = built()
        losses.append(_updater(task, processes).run(task, _parts(count), 0)["body"])
    torch.testing.assert_close(losses[0], losses[1])
    made = built().networks["body"](_parts(1)[0][1].aus.flatten(1)).detach()
    weight, bias = torch.ones(1, 2, requires_grad=True), torch.zeros(1, requires_grad=True)
    optimiser = torch.optim.SGD([weight, bias], lr=1e-2, momentum=0.9)
    for _ in range(3):
        optimiser.zero_grad()
        ((made @ weight.T + bias - 1) ** 2).mean().backward()
        optimiser.step()
    torch.testing.assert_close(losses[0], (made @ weight.T + bias).mean().detach())


def test_a_loss_leaves_no_gradient_in_other_networks(recipe: Make, processes: Processes) -> None:
    task = Several(recipe().config, 4)
    updater = _updater(task, processes)
    updater.run(task, _parts(1), 0)
    batch = _parts(1)[0][1]
    critic = task.networks["critic"]
    before = [p.grad.clone() for p in critic.parameters() if p.grad is not None]
    assert len(before) == 2
    updater.update("body", critic(task.networks["body"](batch.aus.flatten(1))).mean())
    assert all(torch.equal(a, p.grad) for a, p in zip(before, critic.parameters(), strict=True))


def test_clipping_limits_the_norm_and_reports_the_one_before(recipe: Make, processes: Processes) -> None:
    task = Several(recipe().config, 4)
    updater = _updater(task, processes, clip=1e-3)
    updater.run(task, _parts(1), 0)
    norm = torch.cat([p.grad.flatten() for p in task.networks["body"].parameters() if p.grad is not None]).norm()
    torch.testing.assert_close(norm, torch.tensor(1e-3), rtol=1e-3, atol=0)
    assert updater.norms["body"] > 1e-3


class Fickle(ToyTask):
    """Updates its body only for a part that holds the first pair."""

    def step(self, batch: Batch, images: int, updater: Updater) -> dict[str, torch.Tensor]:
        made = self.networks["body"](batch.aus.flatten(1))
        updater.update("critic", self.networks["critic"](made.detach()).mean())
        if batch.seeds[0] == _parts(1)[0][1].seeds[0]:
            updater.update("body", made.mean())
        return {}


def test_a_step_whose_updates_depend_on_the_pairs_is_a_fault_of_the_task(recipe: Make, processes: Processes) -> None:
    task = Fickle(recipe().config, 4)
    with pytest.raises(RuntimeError, match="number of updates"):
        _updater(task, processes).run(task, _parts(2), 0)


def test_dropout_depends_on_the_pairs_alone(recipe: Make, processes: Processes) -> None:
    """A network that draws from the global stream still takes the same step after any past."""
    weights = []
    for past in (1, 2):
        task = build_task(recipe("model.dropout=0.5"))
        torch.manual_seed(past)
        updater = _updater(task, processes)
        updater.run(task, _parts(1), 0)
        weights.append(task.networks["body"][0].weight.detach().clone())
    assert torch.equal(*weights)


class Overflowing(ToyTask):
    """The critic's gradient leaves float32's range once it is scaled."""

    def step(self, batch: Batch, images: int, updater: Updater) -> dict[str, torch.Tensor]:
        updater.update("critic", (self.networks["critic"].weight * 1e37).sum())
        return {}


def test_a_scaled_loss_gives_the_same_step_and_an_overflow_gives_none(recipe: Make, processes: Processes) -> None:
    """What fp16 needs, here in fp32: a scale by a power of two changes nothing, an infinite gradient is left out."""
    weights = []
    for fp16 in (False, True):
        task = build_task(recipe())
        updater = StepUpdater(task.optimisers(), processes, clip=0.5, seed=0, fp16=fp16)
        for step in range(3):
            updater.run(task, _parts(2, start=16 * step), 16 * step)
        weights.append([p.detach().clone() for net in task.networks.values() for p in net.parameters()])
    for plain, scaled in zip(*weights, strict=True):
        torch.testing.assert_close(scaled, plain, rtol=1e-6, atol=1e-7)
    task = Overflowing(recipe().config, 4)
    before = [p.detach().clone() for p in task.networks["critic"].parameters()]
    updater = StepUpdater(task.optimisers(), processes, clip=0.5, seed=0, fp16=True)
    assert updater.scaler is not None
    updater.run(task, _parts(1), 0)
    assert updater.scaler.get_scale() == 2.0**15  # halved
    assert all(torch.equal(a, b) for a, b in zip(before, task.networks["critic"].parameters(), strict=True))


# ---------------------------------------------------------------- every family over two processes


class Rank(Processes):
    """One of two ranks that are threads; they exchange what processes would, in the order of ranks."""

    def __init__(self, rank: int, meeting: threading.Barrier, table: list[list[torch.Tensor]]) -> None:
        self.rank, self.count, self.device = rank, 2, torch.device("cpu")
        self._meeting, self._table = meeting, table

    def autocast(self) -> AbstractContextManager[Any]:
        return nullcontext()

    @torch.no_grad()
    def average(self, tensors: Sequence[torch.Tensor]) -> None:
        self._table[self.rank] = [tensor.clone() for tensor in tensors]
        self._meeting.wait(60)
        means = [torch.stack(pair).mean(0) for pair in zip(*self._table, strict=True)]
        self._meeting.wait(60)
        for tensor, mean in zip(tensors, means, strict=True):
            tensor.copy_(mean)

    def average_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.average([p.grad for p in parameters if p.grad is not None])


def _rows_of(step: int, count: int, size: int, faces: bool, sequences: bool) -> Batch:
    """A batch of noise; with ``faces`` three of the four rows of one process, and none of the other's, are faces."""
    batch = random_batch(count, size)
    batch = replace(batch, seeds=np.arange(count) + 100 * step, flow=3 * batch.flow.roll(step, 0))
    if faces:
        face = torch.zeros(count, dtype=torch.bool)
        face[[0, 2, 4]] = True
        has_flow, known = batch.has_flow & ~face, batch.known & ~face[:, None, None]
        batch = replace(batch, has_flow=has_flow, known=known, label=torch.where(face, -1, batch.label))
    return SequenceBatch.of_pairs(batch) if sequences else batch


def _trained(name: str, faces: bool, ranks: int) -> tuple[torch.Tensor, list[dict[str, float]]]:
    """Gradients of the first update, and what four updates log."""
    recipe = load_recipe(name)
    size, meeting = recipe.data.size, threading.Barrier(ranks)
    table: list[list[torch.Tensor]] = [[] for _ in range(ranks)]
    out: list[tuple[torch.Tensor, list[dict[str, float]]]] = [None] * ranks  # type: ignore[list-item]

    def work(rank: int, processes: Processes, task: Task) -> None:
        for network in task.networks.values():
            network.train()
        for network in task.frozen.values():
            network.eval().requires_grad_(False)
        updater, logs = _updater(task, processes), []
        for step in range(UPDATES):
            rows = _rows_of(step, 8, size, faces, name.startswith("diffusion/volume"))
            share = rows.rows(np.arange(8)[rank::ranks])
            logs.append({k: float(v) for k, v in updater.run(task, [(rank, share)], 8 * step).items()})
            if step == 0:
                every = [p.grad for net in task.networks.values() for p in net.parameters() if p.grad is not None]
                first = torch.cat([g.flatten() for g in every])
        out[rank] = first, logs

    if ranks == 1:
        with torch.random.fork_rng(devices=[]):
            work(0, Processes("cpu"), build_task(recipe))
        return out[0]
    pair = [threading.Thread(target=work, args=(r, Rank(r, meeting, table), build_task(recipe))) for r in range(2)]
    with torch.random.fork_rng(devices=[]):
        for thread in pair:
            thread.start()
        for thread in pair:
            thread.join()
    logs = [{k: (a[k] + b[k]) / 2 for k in a} for a, b in zip(out[0][1], out[1][1], strict=True)]
    return out[0][0], logs


UPDATES = 3
LATER = {
    "gan/motion_tiny": 1e-4, "gan/au_icgan_tiny": 1e-3, "gan/flow_gan_tiny": 1e-4, "gan/ice_gan_tiny": 1e-2,
    "diffusion/motion_tiny": 1e-4, "diffusion/volume_tiny": 1e-4, "diffusion/image_tiny": 1e-4,
}  # fmt: skip
"""How far what is logged may be apart after three updates, relative: Adam turns a gradient that is 0 but for rounding
into a whole step, and two families have many of those."""


@pytest.mark.parametrize(
    ("name", "faces"), [*((name, True) for name in LATER), ("gan/motion_tiny", False)],
    ids=[*LATER, "gan/motion_tiny, pairs alone"],
)  # fmt: skip
def test_two_processes_sum_what_one_does(name: str, faces: bool) -> None:
    """Gradients of the first update, relative, of all parameters: sums in another order, float32. What it logs goes
    through a discriminator that has stepped."""
    (one, first), (two, second) = _trained(name, faces, 1), _trained(name, faces, 2)
    assert float((two - one).norm() / one.norm()) < 5e-6
    for step, (a, b) in enumerate(zip(first, second, strict=True)):
        apart = {key: abs(a[key] - b[key]) / max(abs(a[key]), 1e-3) for key in a}
        assert max(apart.values()) < (1e-4 if step == 0 else LATER[name]), (step, apart)
