"""Learning from elsewhere: macro-expressions, other databases and clips without labels.

What comes from where stands in :class:`TransferConfig`; what is learned from it, among the losses
(:class:`recognizer.training.LossConfig`). All terms here take one network's batch and branch on no value, so that a
stack of networks can use them under vmap.

- Between two sides (:func:`coral`, :func:`mmd`, beside the adversary of ``train.loss.domain``): their features should
  be distributed alike. The sides are real and added clips of a batch or, where there are clips without labels, labelled
  and unlabelled ones: unsupervised domain adaptation.
- From a teacher (:func:`hint`, :func:`distances`, :func:`angles`): the network as it stood after pretraining.
- Of clips without labels (:func:`pseudo`, :func:`consistency`), and of any clips before labels are used at all
  (:func:`contrast`, :func:`shuffled`).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import torch
import torch.nn.functional as F

from mesynth.core.errors import ConfigError

NONE, CONTRAST, ORDER = "none", "contrast", "order"
PRETEXTS = (NONE, CONTRAST, ORDER)
ORDERS = tuple(permutations(range(3)))
"""Of the three thirds of a clip's frames: what a network tells in the pretext task order."""


@dataclass(frozen=True, kw_only=True)
class TransferConfig:
    """Which clips are learned from beside the labelled ones of a fold, and how training begins."""

    macro: bool = False
    """Take the macro-expressions among the real clips as the clips that are mixed in (with those of --synthetic), so
    that mix.mode=pretrain, prior, pool and fuse say how they are learned from. False: they are learned from as the real
    clips they are. They are never tested on either way."""
    unlabelled: tuple[str, ...] = ()
    """Folders of prepared clips whose labels are not read. One that saw a held-out subject is treated by mix.leak."""
    transductive: bool = False
    """Learn from each fold's test clips, too, without their labels: what papers on domain adaptation between databases
    do. Reports say it."""
    pretext: str = NONE
    """Before any label: contrast tells two views of one clip, moved and partly hidden, from other clips (InfoNCE, van
    den Oord et al., 2018; Chen et al., ICML 2020). order tells in which order a clip's three thirds are shown, grey
    (after Misra et al., ECCV 2016, and Lee et al., ICCV 2017); for networks that read frames."""
    pretext_steps: int = 150

    def __post_init__(self) -> None:
        given = (self.unlabelled,) if isinstance(self.unlabelled, str) else self.unlabelled
        object.__setattr__(self, "unlabelled", tuple(map(str, given)))
        if self.pretext not in PRETEXTS:
            raise ConfigError(f"transfer.pretext='{self.pretext}' is unknown; choose from {', '.join(PRETEXTS)}")
        if self.pretext_steps < 1:
            raise ConfigError(f"transfer.pretext_steps={self.pretext_steps} must be at least 1; 150 is usual")

    @property
    def target(self) -> bool:
        """Whether clips without labels are learned from."""
        return bool(self.unlabelled) or self.transductive


# ---------------------------------------------------------------- two sides


def coral(features: torch.Tensor, side: torch.Tensor) -> torch.Tensor:
    """Deep CORAL (Sun and Saenko, 2016): squared distance of the covariances of both sides over 4 D^2.

    features [B,D], side [B] bool -> scalar, 0 where a side has fewer than two clips.
    """
    found, usable = [], features.new_ones(())
    for one in (side, ~side):
        w = one.to(features.dtype)
        n = w.sum()
        centred = (features - w @ features / n.clamp(min=1)) * w[:, None]
        found.append(centred.T @ centred / (n - 1).clamp(min=1))
        usable = usable * (n > 1)
    return usable * (found[0] - found[1]).square().sum() / (4 * features.shape[1] ** 2)


WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Of the Gaussian kernels of :func:`mmd`, as shares of the batch's mean squared distance."""


def mmd(features: torch.Tensor, side: torch.Tensor) -> torch.Tensor:
    """Squared maximum mean discrepancy of both sides by the mean of five Gaussian kernels (Long et al., ICML 2015, who
    learn the kernels' weights): features [B,D], side [B] bool -> scalar, 0 where a side has no clip."""
    w = side.to(features.dtype)
    n, other = w.sum(), (1 - w).sum()
    share = w / n.clamp(min=1) - (1 - w) / other.clamp(min=1)
    squares = features.square().sum(-1)
    apart = (squares[:, None] + squares[None] - 2 * features @ features.T).clamp(min=0)  # no [B,B,D] for wide features
    mean = apart.detach().mean().clamp(min=1e-12)
    kernel = torch.stack([torch.exp(-apart / (width * mean)) for width in WIDTHS]).mean(0)
    return (n > 0) * (other > 0) * (share @ kernel @ share)


def _squared(x: torch.Tensor) -> torch.Tensor:
    """[B,D] -> squared distances [B,B]."""
    return (x[:, None] - x[None]).square().sum(-1)


# ---------------------------------------------------------------- a teacher


def hint(features: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Mean squared distance of unit features to the teacher's (Romero et al., ICLR 2015): [B,D] twice -> scalar."""
    return (_unit(features) - _unit(teacher)).square().sum(-1).mean()


def distances(features: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Relational distillation of distances (Park et al., CVPR 2019): the distances between clips, as shares of their
    mean, should be the teacher's (Huber). [B,D] twice, of any widths -> scalar."""
    pairs = (~torch.eye(len(features), dtype=torch.bool, device=features.device)).to(features.dtype)
    shares = []
    for x in (features, teacher):
        length = _length(_squared(x)) * pairs
        shares.append(length / (length.sum() / pairs.sum().clamp(min=1)).clamp(min=1e-12))
    return F.smooth_l1_loss(shares[0], shares[1], reduction="sum") / pairs.numel()


def angles(features: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Relational distillation of angles (Park et al., CVPR 2019): the cosines at a clip between the directions to two
    others should be the teacher's (Huber). [B,D] twice, of any widths -> scalar."""
    cosines = []
    for x in (features, teacher):
        direction = _unit(x[None] - x[:, None])
        cosines.append(direction @ direction.transpose(1, 2))
    return F.smooth_l1_loss(cosines[0], cosines[1])


def _length(squared: torch.Tensor) -> torch.Tensor:
    """Square root with a gradient of 0 at 0: a clip may stand in a batch twice."""
    there = squared > 1e-12
    return torch.where(there, torch.where(there, squared, 1.0).sqrt(), 0.0)


def _unit(x: torch.Tensor) -> torch.Tensor:
    return x / _length(x.square().sum(-1, keepdim=True)).clamp(min=1e-6)


# ---------------------------------------------------------------- without labels


def pseudo(weak: torch.Tensor, strong: torch.Tensor, threshold: float, *, multi: bool = False) -> torch.Tensor:
    """Pseudo labels (Lee, 2013; as FixMatch, Sohn et al., NeurIPS 2020): where one view is surer of a class than
    ``threshold``, the other should say it. Logits [B,C] of both -> scalar. ``multi``: of AUs, log odds [B,A], each of
    which may be sure of present or of absent, and counts by itself."""
    if multi:
        p = weak.detach().sigmoid()
        each = F.binary_cross_entropy_with_logits(strong, (p >= 0.5).to(p.dtype), reduction="none")
        return (each * (torch.maximum(p, 1 - p) >= threshold)).mean()
    sure, label = weak.detach().softmax(-1).max(-1)
    each = F.cross_entropy(strong, label, reduction="none")
    return (each * (sure >= threshold)).mean()


def consistency(weak: torch.Tensor, strong: torch.Tensor, *, multi: bool = False) -> torch.Tensor:
    """Squared distance of the probabilities of two views (Laine and Aila, ICLR 2017): logits [B,C] twice -> scalar.
    ``multi``: log odds of AUs, which do not exclude each other."""
    one, other = (x.sigmoid() if multi else x.softmax(-1) for x in (weak, strong))
    return (one - other).square().sum(-1).mean()


def contrast(one: torch.Tensor, other: torch.Tensor, clips: torch.Tensor, temperature: float = 0.1) -> torch.Tensor:
    """InfoNCE: each view's nearest should be the other view of its clip. Features [B,D] of both, clips [B]: the same
    clip drawn twice is nobody's negative. -> scalar."""
    x, who = _unit(torch.cat([one, other])), torch.cat([clips, clips])
    n = len(clips)
    partner = torch.arange(2 * n, device=x.device).roll(n)
    own = F.one_hot(partner, 2 * n).bool()
    logits = torch.where((who[:, None] != who[None]) | own, x @ x.T / temperature, -torch.inf)
    return (logits.logsumexp(1) - (logits * own).nan_to_num(0.0, neginf=0.0).sum(1)).mean()


def hidden(x: torch.Tensor, y0: torch.Tensor, x0: torch.Tensor, fill: float = 0.0) -> torch.Tensor:
    """Pictures [M,B,...,H,W] with a square of half their sides hidden, whose corner lies at shares (y0, x0) [M,B]."""
    masks = []
    for start, n in ((y0, x.shape[-2]), (x0, x.shape[-1])):
        place = (torch.arange(n, device=x.device) + 0.5) / n
        masks.append((place >= start[..., None]) & (place < start[..., None] + 0.5))
    mask = masks[0][..., :, None] & masks[1][..., None, :]
    return torch.where(mask.reshape(*mask.shape[:2], *[1] * (x.ndim - 4), *mask.shape[2:]), fill, x)


def shuffled(frames: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Frames [M,B,T,F,F] with their three thirds in the order [M,B] (an index of :data:`ORDERS`)."""
    n = frames.shape[2]
    edges = [round(n * k / 3) for k in range(4)]
    rows = [[t for part in one for t in range(edges[part], edges[part + 1])] for one in ORDERS]
    place = torch.tensor(rows, device=frames.device)[order]
    return frames.gather(2, place[..., None, None].expand(frames.shape))
