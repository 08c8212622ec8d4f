"""Stacked folds: the parameters of many small networks side by side, trained in the same steps.

A member is one (fold, seed, arm, ratio). Each has its own weights, labels, batches, augmentation and dropout, all pure
functions of (seed, fold, step); nothing passes between members, so a stack gives what its members give one by one, up
to the order of float32 sums.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch.func import functional_call, vmap

from mesynth.core.errors import ConfigError
from mesynth.core.seeds import derived
from recognizer import losses
from recognizer.data import FLOW, gather_moved, swap_sides
from recognizer.models import network_module
from recognizer.models.common import Dropout, FlowNetwork, Shape
from recognizer.tasks import Stage, Task, TrainConfig, draw_batches

Tensors = dict[str, torch.Tensor]
Progress = Callable[[int, int], None]
Watch = Callable[[range, Tensors], None]
"""Called with members and their tensors as they stand; the trainer itself never sees what is done with them."""
_JUDGE = "domain judge"
"""Of the parameters beside a network's own: [D+1], used in training alone."""
_WIDE = 256
"""Members trained at once on a GPU, where nothing else is asked."""
_SCORED = 256
"""Clips scored at once."""

_seeding = threading.Lock()  # initial weights come from torch's one global generator


def fresh(task: Task, member: int) -> FlowNetwork:
    """The untrained network of one member: a function of (seed, fold)."""
    with _seeding, torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived(task.seeds[member], f"init/{task.names[member]}"))
        return build(task.network, task.config, task.n_classes, task.shape)


def build(network: str, config: Any, n_classes: int, shape: Shape) -> FlowNetwork:
    """A network by name; see :mod:`recognizer.models`."""
    made = network_module(network).build(config, n_classes, shape)
    assert isinstance(made, FlowNetwork)
    return made


def train(
    task: Task,
    config: TrainConfig,
    progress: Progress | None = None,
    *,
    watch: Watch | None = None,
    watched: int = 0,
) -> Tensors:
    """Train all members; return their parameters and ``scale`` stacked along dimension 0 ([M,...]).

    Stacks run side by side, one thread each and as many as torch would use: the operations are too small
    to share out, and threads that wait for each other inside them lose all on a busy machine.
    ``progress(done, total)`` counts member-steps. ``watch`` is called ``watched`` times along the way, in the thread
    that trains those members.

    Raises:
        ConfigError: a loss on features, and the network shows none; weights to begin with of another shape.
    """
    device = _device(config.device)
    members, workers = len(task.names), max(torch.get_num_threads(), 1)
    if device.type == "cuda":  # one queue of work, as wide as it gets
        workers, size = 1, min(config.stack or _WIDE, members)
    else:
        size = min(config.stack or type(fresh(task, 0)).stack, math.ceil(members / workers))
    chunks = [range(i, min(i + size, members)) for i in range(0, members, size)]
    total = members * sum(stage.steps for stage in task.stages)
    every = max(total // members // watched, 1) if watched else 0
    done, stop = [0] * len(chunks), threading.Event()

    def work(c: int) -> Tensors:
        def report(steps: int) -> None:
            done[c] = steps * len(chunks[c])
            if stop.is_set():
                raise CancelledError

        return _Chunk(task, chunks[c], config, device).run(report, watch, every)

    # torch's thread count belongs to the calling thread; the initializer leaves the caller's as it is.
    one = threadpool_limits(limits=1, user_api="blas")
    with one, ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        pending = parts = [pool.submit(work, c) for c in range(len(chunks))]
        try:
            while pending:
                finished, rest = wait(pending, timeout=0.2, return_when=FIRST_EXCEPTION)
                pending = list(rest)
                for future in finished:
                    future.result()
                if progress:
                    progress(sum(done), total)
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    results = [part.result() for part in parts]
    return {name: torch.cat([result[name] for result in results]) for name in results[0]}


def _device(name: str) -> torch.device:
    here = torch.cuda.is_available()
    if name == "cuda" and not here:
        raise ConfigError("train.device=cuda is not here (no CUDA); use train.device=cpu or auto")
    return torch.device("cuda" if here and name != "cpu" else "cpu")


class _Chunk:
    """The members that one thread trains together."""

    def __init__(self, task: Task, chunk: range, config: TrainConfig, device: torch.device) -> None:
        networks = [fresh(task, m) for m in chunk]
        self.task, self.chunk, self.config, self.model = task, chunk, config, networks[0].to(device)
        self.device = device
        every = [dict(network.named_parameters()) for network in networks]
        self.stacked = {n: torch.stack([p[n].detach().cpu() for p in every]).to(device) for n in every[0]}
        if task.start:
            _begin(self.stacked, task)
        if config.loss.on_features:
            width = self._features()
            if config.loss.domain:
                self.stacked[_JUDGE] = torch.zeros(len(chunk), width + 1, device=device)
        for value in self.stacked.values():
            value.requires_grad_()
        members = slice(chunk.start, chunk.stop)
        self.scale = self._here(task.scale[members]).float()
        self.drops = [name for name, module in self.model.named_modules() if isinstance(module, Dropout)]
        weights = np.sum([stage.weights[members] for stage in task.stages], axis=0)
        self.class_weights = self._here(
            losses.class_weights(task.labels[members], weights, task.n_classes, config.loss.class_weights)
        )
        self.y = self._here(task.labels[members])
        self.inputs = {name: self._here(task.inputs[name]) for name in self.model.needs}
        self.au, self.added = self._here(task.au).long(), self._here(task.added)
        self.mapped = bool(task.added.any())
        self.affine = self._here(task.affine[members]).float()[..., None, None]  # [M,2,3,1,1]
        self.teacher = self._here(task.teacher if task.teacher is not None else np.zeros((len(task.au), 0), np.float32))
        self.loss = self._single if len(chunk) == 1 else vmap(self._one)

    def _here(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)

    def _features(self) -> int:
        """How many features the network shows."""
        with torch.no_grad():
            views = [self._here(self.task.inputs[name][:2]).float() for name in self.model.needs]
            shown = self.model(*views).features
        if shown is None:
            raise ConfigError(
                f"model {self.task.network} shows no features: train.loss.center, triplet, contrastive and domain "
                "have nothing to work on; set them to 0 or choose another model"
            )
        return int(shown.shape[-1])

    def run(self, report: Callable[[int], None], watch: Watch | None, every: int) -> Tensors:
        """Train through all stages; ``watch`` every so many steps."""
        done = 0

        def told(steps: int) -> None:
            if watch is not None and steps % every == 0:
                watch(self.chunk, self._tensors())
            report(steps)

        for stage in self.task.stages:
            done = self._stage(stage, done, told)
        return self._tensors()

    def _tensors(self) -> Tensors:
        made = {n: p.detach() for n, p in self.stacked.items() if n != _JUDGE} | {"scale": self.scale}
        return {n: p.cpu() for n, p in made.items()}

    def _one(
        self, parameters: Tensors, scale: torch.Tensor, keys: torch.Tensor, weights: torch.Tensor, given: Tensors
    ) -> torch.Tensor:
        """One member's loss: ``keys`` [dropouts], ``weights`` [C], ``given`` y [B], au, added, teacher and views."""
        config, names = self.config.loss, {n: p for n, p in parameters.items() if n != _JUDGE}
        masks = {f"{name}.key": keys[i] for i, name in enumerate(self.drops)}
        out = functional_call(
            self.model, names | {"scale": scale} | masks, tuple(given[view] for view in self.model.needs)
        )
        total = losses.classification(self.model, out, given["y"], given["au"], weights, config)
        if config.on_features:
            total = total + losses.on_features(out.features, given["y"], config)
        if config.domain:
            total = total + losses.domain(out.features, given["added"], parameters[_JUDGE], config.domain)
        if config.distil:
            total = total + config.distil * losses.distillation(out, given["teacher"], self.model.probability_gain)
        return total

    def _single(self, parameters: Tensors, *stacked: Any) -> torch.Tensor:
        """The plain path: what stacking is measured against."""
        *tensors, given = stacked
        scale, keys, weights = (t[0] for t in tensors)
        mine, own = ({k: v[0] for k, v in x.items()} for x in (parameters, given))
        return self._one(mine, scale, keys, weights, own)[None]

    def _stage(self, stage: Stage, done: int, report: Callable[[int], None]) -> int:
        if stage.steps == 0:
            return done
        task, config, chunk = self.task, self.config, self.chunk
        plans = [
            draw_batches(
                stage.weights[m], task.labels[m], stage.steps,
                name=f"{task.names[m]}/{stage.name}", seed=task.seeds[m], config=config,
            )
            for m in chunk
        ]  # fmt: skip
        index, flip, dy, dx = (
            self._here(np.stack([getattr(plan, key) for plan in plans], 1)) for key in ("index", "flip", "dy", "dx")
        )  # [steps, M, batch]
        roots = [derived(task.seeds[m], f"dropout/{task.names[m]}/{stage.name}") % 2**31 for m in chunk]
        rows = torch.arange(len(chunk), device=self.device)[:, None]
        start = {n: p.detach().clone() for n, p in self.stacked.items()} if stage.pull else {}
        lr = config.lr * stage.lr_factor
        optimizer = _optimizer(config, list(self.stacked.values()), lr)
        for step in range(stage.steps):
            rate = lr * _decay(config.schedule, step / stage.steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            i, mirrored = index[step], flip[step]
            given = {"y": self.y[rows, i], "au": swap_sides(self.au[i], mirrored)}
            given |= {"added": self.added[i], "teacher": self.teacher[i]}
            given |= {name: self._view(name, i, mirrored, dy[step], dx[step]) for name in self.model.needs}
            optimizer.zero_grad(set_to_none=True)
            keys = _keys(roots, step, len(self.drops)).to(self.device)
            self.loss(self.stacked, self.scale, keys, self.class_weights, given).sum().backward()
            optimizer.step()
            if stage.pull:
                with torch.no_grad():
                    for n, p in self.stacked.items():
                        p.lerp_(start[n], min(rate * stage.pull, 1.0))
            report(done + step + 1)
        return done + stage.steps

    def _view(self, name: str, i: torch.Tensor, flip: torch.Tensor, dy: torch.Tensor, dx: torch.Tensor) -> torch.Tensor:
        """The batch [M,B,...] of one view, moved as its flow is."""
        x = self.inputs[name]
        if name != FLOW:
            factor = x.shape[-1] / self.task.shape.size
            dy, dx = ((d * factor).round().long() for d in (dy, dx))
            return gather_moved(x, i, flip, dy, dx, signed=False).float() / 255
        images = gather_moved(x, i, flip, dy, dx, signed=True)
        if self.mapped:
            # The offset belongs to the clip before it was mirrored, so that of u changes sign with it.
            mirrored = torch.tensor([-1.0, 1.0, 1.0], device=self.device)
            sign = torch.where(flip[..., None], mirrored, 1.0)[..., None, None]
            mapped = self.affine[:, None, 0] * images + self.affine[:, None, 1] * sign
            images = torch.where(self.added[i][..., None, None, None], mapped, images)
        return images


def _begin(stacked: Tensors, task: Task) -> None:
    """Replace fresh parameters by those to begin with."""
    for name, value in stacked.items():
        given = task.start.get(name)
        if given is None or given.shape != value.shape[1:]:
            found = "none" if given is None else list(given.shape)
            raise ConfigError(
                f"train.start: its parameter {name} is {found}, this model's {list(value.shape[1:])}; "
                "start with a recognizer of the same model, classes and sizes"
            )
        value.copy_(given.expand_as(value))


def _optimizer(config: TrainConfig, parameters: list[torch.Tensor], lr: float) -> torch.optim.Optimizer:
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=lr, momentum=0.9, weight_decay=config.weight_decay)
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, lr=lr, weight_decay=config.weight_decay, fused=True)


def _decay(schedule: str, share: float) -> float:
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * share))
    return 1.0 if schedule == "constant" else 0.01**share


def _keys(roots: list[int], step: int, count: int) -> torch.Tensor:
    """[M,count] int64 > 0: a key for every dropout of every member at this step."""
    place = np.arange(count, dtype=np.uint64) + np.uint64(step * max(count, 1))
    mixed = np.array(roots, np.uint64)[:, None] + place[None] * np.uint64(0x9E3779B1)
    return torch.from_numpy(((mixed & np.uint64(0x7FFFFFFF)) | np.uint64(1)).astype(np.int64))


@torch.no_grad()
def scores(model: FlowNetwork, tensors: Tensors, member: int, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Class probabilities [N,C] float64 of one member's network for clips given by their views."""
    parameters = {name: value[member] for name, value in tensors.items()}
    parts = []
    for start in range(0, len(inputs[FLOW]), _SCORED):
        given = []
        for name in model.needs:
            view = torch.from_numpy(inputs[name][start : start + _SCORED])
            given.append(view if name == FLOW else view.float() / 255)
        out = functional_call(model, parameters, tuple(given))
        parts.append((out.scores.double() * model.probability_gain).softmax(-1).numpy())
    return np.concatenate(parts) if parts else np.zeros((0, 0))
