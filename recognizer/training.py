"""Losses, and training in steps. Stacked folds: the parameters of many small networks side by side.

A member is one (fold, seed, arm, ratio). Each has its own weights, labels, batches, augmentation and dropout, all pure
functions of (seed, fold, step); nothing passes between members, so a stack gives what its members give one by one, up
to the order of float32 sums. The trainer gets labels only where a member may learn: picking anything on a held-out
subject is impossible here.

Losses over class scores and over features are written so that a stack of networks can use them under vmap: each takes
one network's batch, and nothing in them branches on values.
"""

from __future__ import annotations

import csv
import math
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from threadpoolctl import threadpool_limits
from torch.func import functional_call, vmap

from mesynth.core.devices import DEVICES, find_device
from mesynth.core.errors import ConfigError
from mesynth.core.seeds import derived, stream
from recognizer import transfer
from recognizer.aus import balances
from recognizer.data import swap_sides
from recognizer.models import SEEDING, build
from recognizer.models.blocks import cosines, with_margin
from recognizer.models.common import Dropout, FlowNetwork, Outputs, Shape, margin_loss
from recognizer.transfer import CONTRAST, ORDER, ORDERS
from recognizer.views import FLOW, FRAMES, VIEWS, as_floats, moved

NATIVE = "native"
KINDS = (NATIVE, "cross_entropy", "focal", "margin")
CLASS_WEIGHTS = ("none", "inverse", "effective")
BETA = 0.999
SIDES = ("domain", "coral", "mmd")
"""Terms between real and added, or labelled and unlabelled, clips."""
TAUGHT = ("hint", "distances", "angles")
"""Terms that follow the network as pretraining left it."""
UNLABELLED = ("pseudo", "consistency")
"""Terms of clips without labels."""


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What a network is trained with; 0 switches a term off."""

    kind: str = NATIVE
    """native: the network's own. cross_entropy; focal (Lin et al., ICCV 2017); margin (Sabour et al., 2017), for scores
    in [0,1) such as capsule lengths."""
    gamma: float = 2.0
    """Of the focal loss: how much less a clip counts that is already right."""
    class_weights: str = "none"
    """Of cross_entropy and focal: inverse of a class's clips in the fold, or of their effective number
    (Cui et al., CVPR 2019, beta .999)."""
    center: float = 0.0
    """Squared distance of features to the mean of their class in the batch (Wen et al., ECCV 2016, whose centres are
    learned; batch means need no state)."""
    triplet: float = 0.0
    """Batch-hard triplets with a soft margin (Hermans et al., 2017) on unit features."""
    contrastive: float = 0.0
    """Supervised contrastive loss (Khosla et al., NeurIPS 2020), temperature .1, on unit features."""
    domain: float = 0.0
    """Adversarial domain adaptation (Ganin and Lempitsky, ICML 2015): a linear layer tells real from synthetic by the
    features, which learn, by this much of its reversed gradient, not to let it. Needs mix.mode=pool; with clips without
    labels (transfer.unlabelled, transfer.transductive) it tells those from the labelled ones instead, in any mode."""
    coral: float = 0.0
    """Distance of the covariances of the features of the same two sides (Sun and Saenko, 2016)."""
    mmd: float = 0.0
    """Maximum mean discrepancy of the same two sides (Long et al., ICML 2015)."""
    hint: float = 0.0
    """Distance of unit features to those of the network as pretraining left it (after Romero et al., ICLR 2015). This
    and the next two need mix.mode=pretrain or prior, and work after pretraining."""
    distances: float = 0.0
    """Distances between clips, as shares of their mean, as the pretrained network has them (Park et al., CVPR 2019)."""
    angles: float = 0.0
    """The same of angles between clips; 2 beside 1 of distances is usual."""
    pseudo: float = 0.0
    """Of clips without labels: the class that one view is sure of is the label of the other (Lee, 2013; Sohn et al.,
    NeurIPS 2020). With task=aus each AU that it is sure of, present or absent; with emotion+aus the class alone. So for
    consistency."""
    threshold: float = 0.95
    """From which probability on it is sure."""
    consistency: float = 0.0
    """Of clips without labels: squared distance of the probabilities of two views (Laine and Aila, ICLR 2017)."""
    arcface: float = 0.0
    """Softmax on the cosines of features to a direction a class, learned beside the network, the angle to the own one
    enlarged by .5 (Deng et al., CVPR 2019)."""
    cosface: float = 0.0
    """The same with the own cosine made .35 smaller (Wang et al., CVPR 2018)."""
    angular_scale: float = 16.0
    """What these multiply cosines by; 64 is usual for millions of faces."""
    distil: float = 0.0
    """Cross-entropy to a teacher's probabilities (train.teacher)."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"train.loss.kind='{self.kind}' is unknown; choose from {', '.join(KINDS)}")
        if self.class_weights not in CLASS_WEIGHTS:
            raise ConfigError(
                f"train.loss.class_weights='{self.class_weights}' is unknown; choose from {', '.join(CLASS_WEIGHTS)}"
            )
        if not 0 < self.threshold <= 1:
            raise ConfigError(f"train.loss.threshold={self.threshold:g} is outside (0, 1]; .95 is usual")
        weights = ("gamma", "center", "triplet", "contrastive", "arcface", "cosface", "distil")
        for name in (*weights, *SIDES, *TAUGHT, *UNLABELLED):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"train.loss.{name}={getattr(self, name):g} must be 0 or a positive number")
        if not 0 < self.angular_scale < float("inf"):
            raise ConfigError(f"train.loss.angular_scale={self.angular_scale:g} must be a positive number")

    @property
    def of_classes(self) -> list[str]:
        """Terms in use that compare clips of one class with others."""
        return [name for name in ("center", "triplet", "contrastive") if getattr(self, name)]

    @property
    def on_features(self) -> bool:
        """Whether the network has to show its features."""
        terms = ("center", "triplet", "contrastive", "angular", *SIDES, *TAUGHT)
        return any(getattr(self, name) for name in terms)

    def uses(self, terms: Sequence[str]) -> bool:
        """Whether one of these terms is switched on."""
        return any(getattr(self, name) for name in terms)

    @property
    def angular(self) -> bool:
        """Whether directions of classes are learned beside the network."""
        return bool(self.arcface or self.cosface)


def class_weights(labels: np.ndarray, weights: np.ndarray, n_classes: int, kind: str) -> np.ndarray:
    """[M,C] float32 per member, with mean 1 over the classes it has; labels [M,N] (-1: none), weights [M,N]."""
    if kind == "none":
        return np.ones((len(labels), n_classes), np.float32)
    counts = np.stack([((labels == c) * weights).sum(1) for c in range(n_classes)], 1)
    mass = counts if kind == "inverse" else (1 - BETA**counts) / (1 - BETA)
    raw = np.where(counts > 0, 1 / np.maximum(mass, 1e-12), 0)
    return np.asarray(raw / raw.sum(1, keepdims=True) * (counts > 0).sum(1, keepdims=True), np.float32)


def classification(
    model: FlowNetwork,
    out: Outputs,
    y: torch.Tensor,
    au: torch.Tensor,
    weights: torch.Tensor,
    config: LossConfig,
    meta: Mapping[str, torch.Tensor] = MappingProxyType({}),
) -> torch.Tensor:
    """The class term: y [B], au [B,K*2], weights [C], meta [B] by name -> scalar."""
    if config.kind == NATIVE:
        return model.meta_loss(out, y, au, meta) if model.needs_meta else model.loss(out, y, au)
    if config.kind == "margin":
        return margin_loss(out.scores, y)
    logs = (out.scores * model.probability_gain).log_softmax(-1)
    own = (logs * F.one_hot(y, logs.shape[-1])).sum(-1)
    share = weights[y]
    if config.kind == "focal":
        share = share * (1 - own.exp()).clamp(min=1e-6) ** config.gamma
        return -(share * own).mean()
    return -(share * own).sum() / share.sum()


def multilabel(
    model: FlowNetwork, scores: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, config: LossConfig
) -> torch.Tensor:
    """The AU term over what is known: scores [B,A], targets [B,A] (1, 0, -1 unknown), weights [A,2] of absent and
    present -> scalar, 0 where nothing is known.

    Native is binary cross-entropy of each AU; for scores that are lengths it is the margin loss, which Sabour et al.
    (2017) write for several classes at once, with absent counting as much as present.
    """
    known = (targets >= 0).to(scores.dtype)
    truth = targets.clamp(min=0).to(scores.dtype)
    share = known * torch.where(targets > 0, weights[:, 1], weights[:, 0])
    if config.kind == "margin" or (config.kind == NATIVE and model.centre):
        # Not half for absent: one of many classes is present, of an AU one of two, and .5 has to lie between them.
        each = truth * F.relu(0.9 - scores).square() + (1 - truth) * F.relu(scores - 0.1).square()
    else:
        odds = model.odds(scores)
        each = F.binary_cross_entropy_with_logits(odds, truth, reduction="none")
        if config.kind == "focal":
            each = each * (1 - (-each).exp()).clamp(min=1e-6) ** config.gamma
    return (share * each).sum() / known.sum().clamp(min=1)


def on_features(features: torch.Tensor, y: torch.Tensor, config: LossConfig) -> torch.Tensor:
    """Center, triplet and contrastive terms: features [B,D], y [B] -> scalar."""
    total = features.new_zeros(())
    same = y[:, None] == y[None]
    if config.center:
        share = same.to(features.dtype) / same.sum(1, keepdim=True)
        total = total + config.center * (features - share @ features).square().sum(1).mean()
    if not (config.triplet or config.contrastive):
        return total
    unit = F.normalize(features, dim=-1, eps=1e-6)
    alike = unit @ unit.T
    others = ~torch.eye(len(y), dtype=torch.bool, device=y.device)
    positives, negatives = same & others, ~same
    if config.triplet:
        distance = (2 - 2 * alike).clamp(min=1e-6).sqrt()
        far = torch.where(positives, distance, -torch.inf).amax(1)
        near = torch.where(negatives, distance, torch.inf).amin(1)
        usable = positives.any(1) & negatives.any(1)
        each = F.softplus(torch.where(usable, far, 0.0) - torch.where(usable, near, 0.0))
        total = total + config.triplet * (each * usable).sum() / usable.sum().clamp(min=1)
    if config.contrastive:
        logits = torch.where(others, alike / 0.1, -torch.inf)
        logs = torch.where(positives, logits - logits.logsumexp(1, keepdim=True), 0.0)
        usable = positives.any(1)
        each = -logs.sum(1) / positives.sum(1).clamp(min=1)
        total = total + config.contrastive * (each * usable).sum() / usable.sum().clamp(min=1)
    return total


MARGINS = {"arcface": 0.5, "cosface": 0.35}
"""As their authors set them."""


def angular(features: torch.Tensor, y: torch.Tensor, directions: torch.Tensor, config: LossConfig) -> torch.Tensor:
    """The terms arcface and cosface: features [B,D], y [B], directions [C,D] of any length -> scalar."""
    near = cosines(features, directions)
    total = features.new_zeros(())
    for kind, margin in MARGINS.items():
        if weight := getattr(config, kind):
            logits = config.angular_scale * with_margin(near, y, kind, margin)
            total = total + weight * F.cross_entropy(logits, y)
    return total


def domain(features: torch.Tensor, added: torch.Tensor, discriminator: torch.Tensor, strength: float) -> torch.Tensor:
    """A linear discriminator, real or synthetic: features [B,D], added [B] bool, discriminator [D+1] -> scalar.

    The discriminator learns to tell, and the features not to let it, by ``strength``: the reversed gradient written as
    two terms.
    """
    target = added.to(features.dtype)

    def error(shown: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(shown @ weight[:-1] + weight[-1], target)

    return error(features.detach(), discriminator) - strength * error(features, discriminator.detach())


def distillation(model: FlowNetwork, scores: torch.Tensor, teacher: torch.Tensor, *, multi: bool) -> torch.Tensor:
    """Cross-entropy to a teacher's probabilities [B,C] -> scalar; ``multi``: of each AU by itself."""
    if multi:
        return F.binary_cross_entropy_with_logits(model.odds(scores), teacher)
    return -(teacher * (scores * model.probability_gain).log_softmax(-1)).sum(-1).mean()


@dataclass(frozen=True)
class Head:
    """What a network's scores [B,classes + aus] are: of classes that exclude each other, then of AUs that do not."""

    classes: int
    aus: int = 0

    def probabilities(self, model: FlowNetwork, scores: torch.Tensor) -> torch.Tensor:
        """Scores -> [B,classes] that add up to 1; without classes, [B,aus]."""
        if not self.classes:
            return self.au_probabilities(model, scores)
        return (scores[..., : self.classes] * model.probability_gain).softmax(-1)

    def au_probabilities(self, model: FlowNetwork, scores: torch.Tensor) -> torch.Tensor:
        """Scores -> [B,aus]."""
        return model.odds(scores[..., self.classes :]).sigmoid()


# ---------------------------------------------------------------- training


OPTIMIZERS = ("adamw", "adam", "sgd")
SCHEDULES = ("cosine", "constant", "exponential")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The budget is fixed: no step is chosen by looking at results."""

    steps: int = 300
    """Optimizer steps on the fold's clips."""
    batch: int = 32
    lr: float = 3e-3
    """Peak learning rate."""
    weight_decay: float = 0.05
    ensemble: int = 1
    """Networks that a model is: each begins with weights and batches of its own, their probabilities are averaged."""
    optimizer: str = "adamw"
    """adamw, adam, or sgd with momentum .9."""
    schedule: str = "cosine"
    """cosine: down to 0. constant. exponential: down to a hundredth."""
    loss: LossConfig = field(default_factory=LossConfig)
    flip: bool = True
    """Mirror half of the clips (u changes sign, AU sides swap)."""
    shift: int = 1
    """Largest shift along x and y, pixels of the flow image; frames move along."""
    balance: bool = True
    """Draw all classes equally often. Clips are of no class where AUs are the task: present and absent of each AU count
    alike in the loss."""
    start: str = ""
    """Folder of a trained recognizer to begin with. Every subject it saw must be outside every fold's test."""
    teacher: str = ""
    """Folder of a trained recognizer whose probabilities train.loss.distil follows; the same rule."""
    genders: str = ""
    """CSV file of subjects' genders, columns subject (``database/subject``) and gender (female or male), for networks
    that learn it beside the class. A subject it does not name is unknown."""
    device: str = "cpu"
    """cpu, cuda, mps, or auto (the first that is here of cuda, mps, cpu). Figures of two differ in the order of float32
    sums."""
    stack: int = 0
    """Members trained at once; 1 trains one after the other, 0 leaves it to the network (what
    tests/bench/bench_folds.py found to be faster). The result does not depend on it."""

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch", 1), ("ensemble", 1), ("stack", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"train.{name}={getattr(self, name)} must be at least {least}")
        if not self.lr > 0 or self.weight_decay < 0 or self.shift < 0:
            raise ConfigError(
                f"train.lr={self.lr:g} must be positive; weight_decay={self.weight_decay:g} and shift={self.shift} >= 0"
            )
        for name, known in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("device", DEVICES)):
            if getattr(self, name) not in known:
                raise ConfigError(f"train.{name}='{getattr(self, name)}' is unknown; choose from {', '.join(known)}")
        if bool(self.teacher) != (self.loss.distil > 0):
            raise ConfigError("train.teacher and train.loss.distil go together: set both or neither")


_GENDERS = {"female": 0, "f": 0, "male": 1, "m": 1, "": -1}


def read_genders(file: str, subjects: Collection[str] = ()) -> dict[str, int]:
    """train.genders by subject: 0 female, 1 male, -1 not said; empty without a file.

    Raises:
        ConfigError: the file cannot be read, says two things of one subject, or names none of ``subjects``.
    """
    known: dict[str, int] = {}
    if not file:
        return known
    where = f"train.genders={file}"
    try:
        with open(file, encoding="utf-8-sig", newline="") as lines:
            table = csv.DictReader(lines)
            rows, columns = list(table), table.fieldnames or ()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{where} cannot be read ({error}); give a CSV file of subject and gender") from None
    if not {"subject", "gender"} <= set(columns):
        raise ConfigError(f"{where} has the columns {', '.join(columns) or '(none)'}; it needs subject and gender")
    for n, row in enumerate(rows, 2):
        who, said = ((row[key] or "").strip() for key in ("subject", "gender"))
        if said.lower() not in _GENDERS:
            raise ConfigError(f"{where}, line {n}: gender '{said}' is neither female nor male; correct it")
        if known.setdefault(who, _GENDERS[said.lower()]) != _GENDERS[said.lower()]:
            raise ConfigError(f"{where}, line {n}: subject {who} has another gender above; correct it")
    if subjects and not known.keys() & set(subjects):
        raise ConfigError(
            f"{where} names none of the subjects: it begins with {next(iter(known), 'nobody')}, the clips with "
            f"{min(subjects)}; write subjects as database/subject"
        )
    return known


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stretch of training: what each member draws from ([M,N] weights), for how long, how fast."""

    name: str
    weights: np.ndarray
    steps: int
    lr_factor: float = 1.0
    pull: float = 0.0
    """Strength of the pull towards the weights this stage began with (decoupled, like weight decay)."""
    taught: bool = False
    """Whether the network it begins with is the teacher of train.loss.hint, distances and angles."""
    pretext: str = ""
    """contrast or order (:mod:`recognizer.transfer`): labels play no part."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """All the trainer is told: N clips, M members."""

    network: str
    config: Any
    """The network's own config dataclass."""
    n_classes: int
    """0 where AUs alone are learned."""
    shape: Shape
    inputs: Mapping[str, np.ndarray]
    """Views by name, [N,...], as they are in memory (:mod:`recognizer.views`); the flow among them."""
    au: np.ndarray
    """[N,K*2] int8, -1 unknown"""
    labels: np.ndarray
    """[M,N] int64; -1 wherever the member may not learn."""
    affine: np.ndarray
    """[M,2,3] a and b: the flow of added clips enters as a*x + b."""
    added: np.ndarray
    """[N] bool"""
    scale: np.ndarray
    """[M,3] rms of each channel of the flow over the member's clips."""
    names: Sequence[str]
    seeds: Sequence[int]
    stages: Sequence[Stage]
    initial: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Initial weights instead of fresh ones, without the members' dimension."""
    teacher: np.ndarray | None = None
    """[N,C] float32 probabilities for distillation."""
    mirrored: float = 0.0
    """A mirrored u is this minus u."""
    meta: Mapping[str, np.ndarray] = field(default_factory=dict)
    """[N] int64 by name, what the network ``needs_meta``; -1 unknown."""
    targets: np.ndarray | None = None
    """[N,A] int8 of the head's AUs, -1 unknown"""
    au_weight: float = 1.0
    """What the AU term counts beside the classes'."""
    free: np.ndarray | None = None
    """[M,N] what each member draws clips without labels from; None: there are none."""

    @property
    def head(self) -> Head:
        """What the network's scores are."""
        return Head(self.n_classes, 0 if self.targets is None else self.targets.shape[1])


@dataclass(frozen=True, kw_only=True)
class Batches:
    """Every step of one stage for one member: positions and augmentation, each [steps, batch]."""

    index: np.ndarray
    flip: np.ndarray
    dy: np.ndarray
    dx: np.ndarray


def draw_batches(
    weights: np.ndarray, labels: np.ndarray, steps: int, *, name: str, seed: int, config: TrainConfig
) -> Batches:
    """Draw with replacement in proportion to ``weights`` [N] (per class, if balanced): a function of (seed, name)."""
    rng = stream(seed, f"batches/{name}")
    index = np.flatnonzero(weights > 0)
    p = weights[index].astype(np.float64)
    assert len(index), f"member {name} has nothing to learn from"
    assert (labels[index] >= 0).all()
    if config.balance:
        mass = np.bincount(labels[index], weights=p)
        p = p / mass[labels[index]]
    edges = np.cumsum(p / p.sum())
    shape = (steps, config.batch)
    drawn = np.minimum(np.searchsorted(edges, rng.random(shape), side="right"), len(index) - 1)
    flips = rng.random(shape) < 0.5
    moves = rng.integers(-config.shift, config.shift + 1, (2, *shape))
    return Batches(index=index[drawn], flip=flips & config.flip, dy=moves[0], dx=moves[1])


# ---------------------------------------------------------------- the trainer


Tensors = dict[str, torch.Tensor]
Progress = Callable[[float, float], None]
Callback = Callable[[range, Tensors], None]
"""Called with members and their tensors as they stand; the trainer itself never sees what is done with them."""
_DISCRIMINATOR = "domain discriminator"
_DIRECTIONS = "directions of classes"
_ORDERS = "head of orders"
_BESIDE = (_DISCRIMINATOR, _DIRECTIONS, _ORDERS)
"""Of the parameters, those beside a network's own, [D+1], [C,D] and [6,D+1], used in training alone."""
_WIDE = 256
"""Members trained at once on a GPU, where nothing else is asked."""
_SCORED = 256
"""Clips scored at once."""


def fresh(task: Task, member: int) -> FlowNetwork:
    """The untrained network of one member: a function of (seed, fold)."""
    with SEEDING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived(task.seeds[member], f"init/{task.names[member]}"))
        return build(task.network, task.config, task.head.classes + task.head.aus, task.shape)


def train(
    task: Task,
    config: TrainConfig,
    progress: Progress | None = None,
    *,
    callback: Callback | None = None,
    calls: int = 0,
) -> Tensors:
    """Train all members; return their parameters and ``scale`` stacked along dimension 0 ([M,...]).

    Stacks run side by side, one thread each and as many as torch would use: the operations are too small
    to share out, and threads that wait for each other inside them lose all on a busy machine.
    ``progress(done, total)`` counts member-steps. ``callback`` is called ``calls`` times along the way, in the thread
    that trains those members. Running statistics are among the tensors, a row for each member. Networks that draw from
    torch's generator (:attr:`~recognizer.models.common.FlowNetwork.alone`) train one after the other, each from a seed
    of its own.

    Raises:
        ConfigError: a loss on features, and the network shows none; weights to begin with of another shape.
    """
    device = _device(config.device)
    members, workers = len(task.names), max(torch.get_num_threads(), 1)
    first = fresh(task, 0)
    if first.alone:
        workers = size = 1
    elif device.type == "cuda":  # one queue of work, as wide as it gets
        workers, size = 1, min(config.stack or _WIDE, members)
    else:
        size = min(config.stack or first.stack, math.ceil(members / workers))
    chunks = [range(i, min(i + size, members)) for i in range(0, members, size)]
    total = members * sum(stage.steps for stage in task.stages)
    every = max(total // members // calls, 1) if calls else 0
    done, stop = [0] * len(chunks), threading.Event()

    def work(c: int) -> Tensors:
        def report(steps: int) -> None:
            done[c] = steps * len(chunks[c])
            if stop.is_set():
                raise CancelledError

        with torch.random.fork_rng(devices=[], enabled=first.alone):
            if first.alone:
                torch.manual_seed(derived(task.seeds[c], f"torch/{task.names[c]}"))
            return _Chunk(task, chunks[c], config, device).run(report, callback, every)

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
    return torch.device(find_device(name, "train.device="))


class _Chunk:
    """The members that one thread trains together."""

    def __init__(self, task: Task, chunk: range, config: TrainConfig, device: torch.device) -> None:
        networks = [fresh(task, m) for m in chunk]
        self.task, self.chunk, self.config, self.model = task, chunk, config, networks[0].to(device)
        self.device = device
        every = [dict(network.named_parameters()) for network in networks]
        self.stacked = {n: torch.stack([p[n].detach().cpu() for p in every]).to(device) for n in every[0]}
        # What training changes besides parameters, running statistics; a network that trains alone sees to its own.
        names = [] if self.model.alone else sorted(_state(self.model) - self.stacked.keys())
        states = [network.state_dict() for network in networks] if names else []
        self.kept = {n: torch.stack([state[n].cpu() for state in states]).to(device) for n in names}
        if task.initial:
            _initialise(self.stacked | self.kept, task.initial)
        pretexts = {stage.pretext for stage in task.stages if stage.pretext}
        self.stage = task.stages[-1]
        if ORDER in pretexts and FRAMES not in self.model.needs:
            raise ConfigError(
                f"transfer.pretext=order shuffles frames, and model {task.network} reads none; choose contrast, or a "
                "model that reads frames"
            )
        if config.loss.on_features or pretexts:
            width = self._features()
            if ORDER in pretexts:
                self.stacked[_ORDERS] = torch.zeros(len(chunk), len(ORDERS), width + 1, device=device)
            if config.loss.domain:
                self.stacked[_DISCRIMINATOR] = torch.zeros(len(chunk), width + 1, device=device)
            if config.loss.angular:
                drawn = [
                    stream(task.seeds[m], f"directions/{task.names[m]}").standard_normal((task.n_classes, width))
                    for m in chunk
                ]
                self.stacked[_DIRECTIONS] = self._here(np.stack(drawn).astype(np.float32))
        for value in self.stacked.values():
            value.requires_grad_()
        members = slice(chunk.start, chunk.stop)
        self.scale = self._here(task.scale[members]).float()
        self.drops = [name for name, module in self.model.named_modules() if isinstance(module, Dropout)]
        weights = np.sum([stage.weights[members] for stage in task.stages], axis=0)
        self.class_weights = self._here(
            class_weights(task.labels[members], weights, task.head.classes, config.loss.class_weights)
        )
        targets = np.zeros((len(task.au), 0), np.int8) if task.targets is None else task.targets
        self.targets = self._here(targets).long()
        self.au_weights = self._here(balances(targets, weights, balance=config.balance))
        self.y = self._here(task.labels[members])
        self.inputs = {name: self._here(task.inputs[name]) for name in self.model.needs}
        self.au, self.added = self._here(task.au).long(), self._here(task.added)
        self.meta = {name: self._here(task.meta[name]) for name in self.model.needs_meta}
        self.mapped = bool(task.added.any())
        self.affine = self._here(task.affine[members]).float()[..., None, None]  # [M,2,3,1,1]
        self.teacher = self._here(task.teacher if task.teacher is not None else np.zeros((len(task.au), 0), np.float32))
        self.free = task.free is not None and config.loss.uses((*SIDES, *UNLABELLED))
        self.loss = self._single if len(chunk) == 1 else vmap(self._one)

    def _here(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)

    def _features(self) -> int:
        """How many features the network shows."""
        with torch.no_grad():
            views = [as_floats(self._here(self.task.inputs[name][:2])) for name in self.model.needs]
            shown = self.model(*views).features
        if shown is None:
            raise ConfigError(
                f"model {self.task.network} shows no features: train.loss.center, triplet, contrastive, domain, coral, "
                "mmd, hint, distances, angles, arcface and cosface, and transfer.pretext, have nothing to work on; set "
                "them to 0 (pretext to none) or choose another model"
            )
        return int(shown.shape[-1])

    def run(self, report: Callable[[int], None], callback: Callback | None, every: int) -> Tensors:
        """Train through all stages; ``callback`` every so many steps."""
        done = 0

        def after_step(steps: int) -> None:
            if callback is not None and steps % every == 0:
                callback(self.chunk, self._tensors())
            report(steps)

        for stage in self.task.stages:
            done = self._stage(stage, done, after_step)
        return self._tensors()

    def _tensors(self) -> Tensors:
        made = {n: p.detach() for n, p in self.stacked.items() if n not in _BESIDE} | {"scale": self.scale}
        if self.model.alone:
            state = self.model.state_dict()
            made |= {n: state[n].detach().clone()[None] for n in sorted(state.keys() - made.keys())}
        return {n: p.cpu() for n, p in (made | self.kept).items()}

    def _one(
        self,
        parameters: Tensors,
        kept: Tensors,
        scale: torch.Tensor,
        keys: torch.Tensor,
        weights: torch.Tensor,
        batch: Tensors,
    ) -> torch.Tensor:
        """One member's loss: ``keys`` [dropouts], ``weights`` [C], ``batch`` y [B], au, added, teacher, meta and views.

        ``kept`` is changed in place, member by member.
        """
        config, names = self.config.loss, {n: p for n, p in parameters.items() if n not in _BESIDE}
        masks = {f"{name}.key": keys[i] for i, name in enumerate(self.drops)}
        own = names | kept | {"scale": scale} | masks

        def answer(prefix: str = "") -> Outputs:
            shown = tuple(batch[prefix + view] for view in self.model.needs)
            found: Outputs = functional_call(self.model, own, shown)
            return found

        out = answer()
        if self.stage.pretext == ORDER:
            orders = parameters[_ORDERS]
            return F.cross_entropy(_shown(out) @ orders[:, :-1].T + orders[:, -1], batch["order"])
        if self.stage.pretext == CONTRAST:
            return transfer.contrast(_shown(out), _shown(answer(_SECOND)), batch["clips"])
        meta = {name: batch[f"meta/{name}"] for name in self.meta}
        head = self.task.head
        shown = out._replace(scores=out.scores[..., : head.classes]) if head.aus and head.classes else out
        total = out.scores.new_zeros(())
        if head.classes:
            total = total + classification(self.model, shown, batch["y"], batch["au"], weights, config, meta)
        if head.aus:
            odds = out.scores[..., head.classes :]
            term = multilabel(self.model, odds, batch["targets"], batch["au weights"], config)
            total = total + self.task.au_weight * term
        if config.on_features:
            total = total + on_features(_shown(out), batch["y"], config)
        if config.angular:
            total = total + angular(_shown(out), batch["y"], parameters[_DIRECTIONS], config)
        side = batch["added"]
        features = _shown(out) if config.uses(SIDES) else out.scores
        if self.free:
            free = answer(_FREE)
            if config.uses(SIDES):
                features = torch.cat([features, _shown(free)])
                side = torch.arange(len(features), device=side.device) >= len(side)
            if config.uses(UNLABELLED):
                multi, gain = not head.classes, self.model.probability_gain
                weak, strong = (
                    self.model.odds(one.scores) if multi else one.scores[..., : head.classes] * gain
                    for one in (free, answer(_SECOND))
                )
                total = total + config.pseudo * transfer.pseudo(weak, strong, config.threshold, multi=multi)
                total = total + config.consistency * transfer.consistency(weak, strong, multi=multi)
        if config.domain:
            total = total + domain(features, side, parameters[_DISCRIMINATOR], config.domain)
        if config.coral:
            total = total + config.coral * transfer.coral(features, side)
        if config.mmd:
            total = total + config.mmd * transfer.mmd(features, side)
        if self.stage.taught:
            total = total + self._taught(_shown(out), scale, batch)
        if config.distil:
            multi = not head.classes
            total = total + config.distil * distillation(self.model, shown.scores, batch["teacher"], multi=multi)
        return total

    def _taught(self, features: torch.Tensor, scale: torch.Tensor, batch: Tensors) -> torch.Tensor:
        """The terms that follow the network as this stage began with it."""
        before = {n.removeprefix(_TEACHER): p for n, p in batch.items() if n.startswith(_TEACHER)}
        training = self.model.training
        self.model.eval()
        with torch.no_grad():
            views = tuple(batch[view] for view in self.model.needs)
            teacher = _shown(functional_call(self.model, before | {"scale": scale}, views))
        self.model.train(training)
        total = features.new_zeros(())
        for name, term in (("hint", transfer.hint), ("distances", transfer.distances), ("angles", transfer.angles)):
            if weight := getattr(self.config.loss, name):
                total = total + weight * term(features, teacher)
        return total

    def _single(self, parameters: Tensors, kept: Tensors, *stacked: Any) -> torch.Tensor:
        """The plain path: what stacking is measured against."""
        *tensors, batch = stacked
        scale, keys, weights = (t[0] for t in tensors)
        mine, held, own = ({k: v[0] for k, v in x.items()} for x in (parameters, kept, batch))
        return self._one(mine, held, scale, keys, weights, own)[None]

    def _stage(self, stage: Stage, done: int, report: Callable[[int], None]) -> int:
        if stage.steps == 0:
            return done
        task, config, chunk = self.task, self.config, self.chunk
        self.stage = stage
        labels = np.zeros_like(task.labels) if stage.pretext else task.labels
        index, flip, dy, dx = self._drawn(stage.weights, labels, stage)  # [steps, M, batch]
        two = stage.pretext == CONTRAST or (self.free and not stage.pretext and config.loss.uses(UNLABELLED))
        again = self._drawn(stage.weights, labels, stage, "/second") if two else ()
        unlabelled: tuple[torch.Tensor, ...] = ()
        if self.free and not stage.pretext:
            assert task.free is not None
            unlabelled = self._drawn(task.free, np.zeros_like(labels), stage, "/unlabelled")
        boxes = [stream(task.seeds[m], f"hidden/{task.names[m]}/{stage.name}") for m in chunk]
        orders = [stream(task.seeds[m], f"orders/{task.names[m]}/{stage.name}") for m in chunk]
        roots = [derived(task.seeds[m], f"dropout/{task.names[m]}/{stage.name}") % 2**31 for m in chunk]
        rows = torch.arange(len(chunk), device=self.device)[:, None]
        start = {n: p.detach().clone() for n, p in self.stacked.items()} if stage.pull else {}
        teacher: Tensors = {}
        if stage.taught:
            before = {n: p for n, p in self._tensors().items() if n != "scale"}
            teacher = {_TEACHER + n: p.detach().clone().to(self.device) for n, p in before.items()}
        lr = config.lr * stage.lr_factor
        optimizer = _optimizer(config, list(self.stacked.values()), lr)
        for step in range(stage.steps):
            rate = lr * _decay(config.schedule, step / stage.steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            i, mirrored = index[step], flip[step]
            batch = {"y": self.y[rows, i], "au": swap_sides(self.au[i], mirrored)}
            batch |= {f"meta/{name}": value[i] for name, value in self.meta.items()}
            batch |= {"added": self.added[i], "teacher": self.teacher[i], "targets": self.targets[i]}
            batch["au weights"] = self.au_weights
            batch |= self._views((i, mirrored, dy[step], dx[step])) | teacher
            if unlabelled:
                batch |= self._views(tuple(part[step] for part in unlabelled), _FREE)
            if two:  # another view of the clips without labels, or of those of the pretext task
                second = (unlabelled[0][step] if unlabelled else i, *(part[step] for part in again[1:]))
                batch |= self._views(second, _SECOND, boxes)
            if stage.pretext == CONTRAST:
                batch |= self._hidden({name: batch[name] for name in self.model.needs}, boxes) | {"clips": i}
            if stage.pretext == ORDER:
                drawn = np.stack([rng.integers(0, len(ORDERS), config.batch) for rng in orders])
                batch["order"] = self._here(drawn)
                batch[FRAMES] = transfer.shuffled(batch[FRAMES], batch["order"])
            optimizer.zero_grad(set_to_none=True)
            keys = _keys(roots, step, len(self.drops)).to(self.device)
            self.loss(self.stacked, self.kept, self.scale, keys, self.class_weights, batch).sum().backward()
            optimizer.step()
            if stage.pull:
                with torch.no_grad():
                    for n, p in self.stacked.items():
                        p.lerp_(start[n], min(rate * stage.pull, 1.0))
            report(done + step + 1)
        return done + stage.steps

    def _drawn(
        self, weights: np.ndarray, labels: np.ndarray, stage: Stage, which: str = ""
    ) -> tuple[torch.Tensor, ...]:
        """Every step's clips and how they are moved: index, flip, dy, dx [steps,M,batch]."""
        task = self.task
        plans = [
            draw_batches(
                weights[m], labels[m], stage.steps,
                name=f"{task.names[m]}/{stage.name}{which}", seed=task.seeds[m], config=self.config,
            )
            for m in self.chunk
        ]  # fmt: skip
        keys = ("index", "flip", "dy", "dx")
        return tuple(self._here(np.stack([getattr(plan, key) for plan in plans], 1)) for key in keys)

    def _views(
        self, drawn: tuple[torch.Tensor, ...], prefix: str = "", boxes: Sequence[np.random.Generator] = ()
    ) -> Tensors:
        """The batch's views; with ``boxes``, partly hidden."""
        i, flip, dy, dx = drawn
        views = {name: self._view(name, i, flip, dy, dx) for name in self.model.needs}
        return {prefix + name: view for name, view in (self._hidden(views, boxes) if boxes else views).items()}

    def _hidden(self, views: Tensors, boxes: Sequence[np.random.Generator]) -> Tensors:
        """Views [M,B,...] with a square hidden, another for each clip and the same in all its views; points stay."""
        places = np.stack([rng.uniform(0, 0.5, (2, self.config.batch)) for rng in boxes], 1).astype(np.float32)
        y0, x0 = self._here(places)
        out = {}
        for name, view in views.items():
            fill = self.task.mirrored / 2 if VIEWS[name].signed else 0.0
            out[name] = view if VIEWS[name].points else transfer.hidden(view, y0, x0, fill)
        return out

    def _view(self, name: str, i: torch.Tensor, flip: torch.Tensor, dy: torch.Tensor, dx: torch.Tensor) -> torch.Tensor:
        """The batch [M,B,...] of one view, moved as its flow is; flow of added clips mapped as the member has it."""
        top = self.task.mirrored
        images = moved(name, self.inputs[name], i, flip, dy, dx, size=self.task.shape.size, top=top)
        if self.mapped and VIEWS[name].signed:
            # The offset belongs to the clip before it was mirrored, so that of u changes sign with it.
            own = images.ndim - flip.ndim - 3  # dimensions before a clip's channels
            mirrored = torch.tensor([-1.0, 1.0, 1.0], device=self.device)
            sign = torch.where(flip[..., None], mirrored, 1.0)[..., *[None] * own, :, None, None]
            a, b = (self.affine[:, None, k][:, :, *[None] * own] for k in (0, 1))
            mapped = a * images + b * sign
            if top:
                mapped = mapped + top * (1 - a) * (sign < 0)
            images = torch.where(self.added[i][..., *[None] * (own + 3)], mapped, images)
        return images


_FREE, _SECOND, _TEACHER = "unlabelled/", "second/", "teacher/"
"""What a batch's tensors of clips without labels, of their second view, and of the teacher's weights begin with."""


def _shown(out: Outputs) -> torch.Tensor:
    """A network's features, of one that has some."""
    assert out.features is not None
    return out.features


def _state(model: FlowNetwork) -> set[str]:
    """Names of all that a member is made of besides ``scale``, which comes with its clips."""
    return model.state_dict().keys() - {"scale"}


def _initialise(stacked: Tensors, initial: Mapping[str, torch.Tensor]) -> None:
    """Replace fresh parameters by initial weights, the same for all members."""
    for name, value in stacked.items():
        weight = initial.get(name)
        if weight is None or weight.shape != value.shape[1:]:
            found = "none" if weight is None else list(weight.shape)
            raise ConfigError(
                f"train.start: its parameter {name} is {found}, this model's {list(value.shape[1:])}; "
                "start with a recognizer of the same model, classes and sizes"
            )
        value.copy_(weight.expand_as(value))


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
def scores(
    model: FlowNetwork,
    tensors: Tensors,
    member: int,
    inputs: Mapping[str, np.ndarray],
    read: Callable[[FlowNetwork, torch.Tensor], torch.Tensor],
) -> np.ndarray:
    """Probabilities [N,C] float64 of one member's network for clips given by their views, as ``read`` off its scores
    (:class:`Head`)."""
    model.eval()
    parameters = {name: value[member] for name, value in tensors.items()}
    parts = []
    for start in range(0, len(inputs[FLOW]), _SCORED):
        views = []
        for name in model.needs:
            views.append(as_floats(torch.from_numpy(inputs[name][start : start + _SCORED])))
        out = functional_call(model, parameters, tuple(views))
        parts.append(read(model, out.scores.double()).numpy())
    return np.concatenate(parts) if parts else np.zeros((0, 0))
