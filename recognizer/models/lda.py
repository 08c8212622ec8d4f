"""Regularised linear discriminant with clip weights, in closed form, on Gram matrices.

With isotropic shrinkage the solution lies in the span of the training clips, so a fold needs one solve of (training
clips)^2, whatever the image size, on Gram matrices made once; where there are more clips than values a clip, one of
(values)^2 on the moments of its classes instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mesynth.core.errors import ConfigError

PRIORS = ("equal", "data")


@dataclass(frozen=True, kw_only=True)
class LdaConfig:
    """Sw <- (1 - shrinkage) Sw + shrinkage tr(Sw)/D I."""

    shrinkage: float = 0.8
    """Chosen, with its flow's power, cells and symmetry, on real flow images (docs/decisions/018, 019)."""
    priors: str = "equal"
    """Class priors: ``equal`` (what UF1 and UAR reward) or ``data`` (the weighted class shares)."""

    def __post_init__(self) -> None:
        if not 0 < self.shrinkage <= 1:
            raise ConfigError(f"lda.shrinkage={self.shrinkage:g} is outside (0, 1]; .8 is a fair start")
        if self.priors not in PRIORS:
            raise ConfigError(f"lda.priors='{self.priors}' is unknown; choose from {', '.join(PRIORS)}")


@dataclass(frozen=True, kw_only=True)
class LdaModel:
    """scores = <x, weight> + bias: ``weight`` [C,3,S,S] and ``bias`` [C], float64."""

    weight: np.ndarray
    bias: np.ndarray

    def scores(self, x: np.ndarray) -> np.ndarray:
        """[N,3,S,S] -> log-posteriors up to a constant [N,C] float64."""
        c = len(self.bias)
        return np.asarray(x.reshape(len(x), -1).astype(np.float64) @ self.weight.reshape(c, -1).T + self.bias)


class Gram:
    """Inner products of a pool of clips x [N,3,S,S], per channel, so that a clip may be rescaled later.

    A pool of more than ``keep`` clips is not multiplied as a whole (N^2 numbers per channel): each
    training set then computes its own products.
    """

    def __init__(self, x: np.ndarray, keep: int = 4000) -> None:
        flat = x.reshape(len(x), x.shape[1], -1).astype(np.float64)
        self.x = flat
        self.shape = x.shape[1:]
        self.sums = flat.sum(2)
        self.kept: tuple[tuple[bytes, ...], list[Moments]] | None = None
        """Moments that were asked for last, and of which clips."""
        self._keep = keep

    @cached_property
    def products(self) -> list[np.ndarray]:
        """[N,N] per channel; empty for a pool that is not multiplied as a whole."""
        flat = self.x
        return [flat[:, ch] @ flat[:, ch].T for ch in range(flat.shape[1])] if len(flat) <= self._keep else []

    def block(self, rows: np.ndarray, columns: np.ndarray, affine: np.ndarray) -> np.ndarray:
        """Inner products of clips ``rows`` with ``columns``, each first mapped to a*x + b.

        ``affine`` [N,2,3]: a and b per clip and channel.
        """
        out = np.zeros((len(rows), len(columns)))
        for ch in range(self.x.shape[1]):
            if self.products:
                products = self.products[ch][np.ix_(rows, columns)]
            else:
                products = self.x[rows, ch] @ self.x[columns, ch].T
            products *= affine[rows, 0, ch][:, None]
            products *= affine[columns, 0, ch]
            out += products
        # (a x + b)(a' x' + b') = a a' x x' + a b' sum(x) + b a' sum(x') + b b' P
        a, b = affine[:, 0], affine[:, 1]
        if b.any():
            scaled = a * self.sums + self.x.shape[2] * b
            out += np.hstack([scaled[rows], b[rows]]) @ np.hstack([b[columns], (a * self.sums)[columns]]).T
        return out

    def mapped(self, index: np.ndarray, affine: np.ndarray) -> np.ndarray:
        """Clips ``index`` [n], each mapped to a*x + b -> [n,D]."""
        x = self.x[index] * affine[index, 0, :, None] + affine[index, 1, :, None]
        return np.asarray(x.reshape(len(index), -1))

    def combine(self, index: np.ndarray, coefficients: np.ndarray, affine: np.ndarray) -> np.ndarray:
        """Sum of coefficients [C,n] times the mapped clips ``index`` [n] -> [C,3,S,S]."""
        scaled = coefficients[:, :, None] * affine[None, index, 0]
        offset = np.einsum("cn,nk->ck", coefficients, affine[index, 1])
        out = np.einsum("cnk,nkp->ckp", scaled, self.x[index], optimize=True) + offset[:, :, None]
        return np.asarray(out.reshape(len(coefficients), *self.shape))


@dataclass(frozen=True)
class Moments:
    """Of a group of clips: what they count together, their mean [D], and their scatter about it [D,D]."""

    label: int
    mass: float
    mean: np.ndarray
    scatter: np.ndarray


def moments(x: np.ndarray, y: np.ndarray, w: np.ndarray, n_classes: int) -> list[Moments]:
    """Of clips x [n,D] of classes y [n] that count w [n]: a group for each class that has any."""
    out = []
    for c in range(n_classes):
        members = y == c
        mass = float(w[members].sum())
        if mass > 0:
            mean = w[members] @ x[members] / mass
            centred = (x[members] - mean) * np.sqrt(w[members])[:, None]
            out.append(Moments(c, mass, mean, centred.T @ centred))
    return out


def _made(
    gram: Gram, index: np.ndarray, y: np.ndarray, weights: np.ndarray, affine: np.ndarray, n_classes: int
) -> list[Moments]:
    """:func:`moments` of added clips, which share one map: of the clips as they are, kept, and mapped afterwards. Folds
    that add the same clips, as they do where all are added, differ in the map alone."""
    if not len(index):
        return []
    a, b = affine[index[0]]
    assert (affine[index] == affine[index[0]]).all(), "added clips are aligned as one set"
    w = weights[index].astype(np.float64)
    key = (index.tobytes(), y[index].tobytes(), w.tobytes())
    if gram.kept is None or gram.kept[0] != key:
        gram.kept = key, moments(gram.x[index].reshape(len(index), -1), y[index], w, n_classes)
    scale, shift = (np.repeat(v, gram.x.shape[2]) for v in (a, b))
    return [
        Moments(one.label, one.mass, scale * one.mean + shift, scale[:, None] * one.scatter * scale)
        for one in gram.kept[1]
    ]


def _solved(groups: Sequence[Moments], n_classes: int, config: LdaConfig) -> tuple[np.ndarray, np.ndarray]:
    """(weight [C,D], bias [C]) of the discriminant of these groups."""
    from scipy.linalg import cho_factor, cho_solve

    dimensions = len(groups[0].mean)
    mass, means = np.zeros(n_classes), np.zeros((n_classes, dimensions))
    scatter = np.zeros((dimensions, dimensions))
    for group in groups:
        mass[group.label] += group.mass
        means[group.label] += group.mass * group.mean
        scatter += group.scatter
    means /= np.where(mass > 0, mass, 1)[:, None]
    scatter *= (1 - config.shrinkage) / mass.sum()
    trace = np.trace(scatter) / max(1 - config.shrinkage, 1e-12)
    if config.shrinkage == 1:
        trace = sum(np.trace(group.scatter) for group in groups) / mass.sum()
    scatter[np.diag_indices_from(scatter)] += config.shrinkage * max(trace, 1e-12) / dimensions
    weight = cho_solve(cho_factor(scatter, overwrite_a=True, check_finite=False), means.T).T
    return weight, _bias(-0.5 * (weight * means).sum(1), mass, config)


def _bias(bias: np.ndarray, mass: np.ndarray, config: LdaConfig) -> np.ndarray:
    present, n_classes = mass > 0, len(mass)
    share = mass / mass.sum() if config.priors == "data" else np.full(n_classes, 1 / n_classes)
    return np.where(present, bias + np.log(np.where(present, share, 1)), -np.inf)


def chosen_prior_weight(
    gram: Gram,
    y: np.ndarray,
    weights: np.ndarray,
    added: np.ndarray,
    subjects: np.ndarray,
    n_classes: int,
    config: LdaConfig,
    *,
    affine: np.ndarray,
    candidates: Sequence[float],
) -> float:
    """The ``prior_weight`` of :func:`fit` that serves the training subjects themselves best; y, weights, added and
    ``subjects`` [N], affine [N,2,3].

    Subjects are put into up to five groups; each is predicted from the others and the synthetic clips. What counts is
    the recall averaged over classes (UAR, of classes there are), less a pull towards ``EVIDENCE / subjects``: the more
    people there are, the less a prior is worth, and few people cannot say how much. Nobody held out takes part.
    """
    real, made = np.flatnonzero((weights > 0) & ~added), np.flatnonzero((weights > 0) & added)
    names, who = np.unique(subjects[real], return_inverse=True)
    usual = EVIDENCE / len(names)
    away = np.abs(np.log(np.maximum(candidates, NOTHING)) - np.log(usual))
    if len(names) < 2:
        return float(candidates[int(away.argmin())])
    group = spread(np.bincount(who), _GROUPS)[who]
    x, labels, w = gram.mapped(real, affine), y[real], weights[real].astype(np.float64)
    few = len(real) + len(made) <= x.shape[1]  # then what :func:`fit` solves is smaller than moments are
    prior = [] if few else _made(gram, made, y, weights, affine, n_classes)
    right = np.zeros((len(candidates), len(real)))
    for g in np.unique(group):
        tested = group == g
        kept = weights.copy()
        kept[real[tested]] = 0
        own = [] if few else moments(x[~tested], labels[~tested], w[~tested], n_classes)
        index = np.flatnonzero(kept > 0)
        products = gram.block(index, index, affine) if few else None  # the same for all candidates
        for k, candidate in enumerate(candidates):
            if few:
                known = products if candidate else None
                model = fit(
                    gram, y, kept, added, n_classes, config, affine=affine, prior_weight=candidate, products=known
                )
                weight, bias = model.weight.reshape(n_classes, -1), model.bias
            else:
                groups = [*own, *(_scaled(one, candidate) for one in prior if candidate)]
                weight, bias = _solved(groups, n_classes, config)
            right[k, tested] = (x[tested] @ weight.T + bias).argmax(1) == labels[tested]
    recall = np.stack([right[:, labels == c].mean(1) for c in np.unique(labels)], 1).mean(1)
    return float(candidates[int((recall - PULL / np.sqrt(len(real)) * away).argmax())])


EVIDENCE, PULL = 150.0, 0.4
"""Of :func:`chosen_prior_weight`, chosen on real flow images (docs/decisions/019)."""
NOTHING = 0.3
"""The weight that 0 is taken for on a logarithmic scale."""
_GROUPS = 5


def _scaled(group: Moments, mass: float) -> Moments:
    return Moments(group.label, mass, group.mean, group.scatter * (mass / group.mass))


def spread(counts: np.ndarray, n: int) -> np.ndarray:
    """One of up to ``n`` groups for each subject: those of most clips first, each to the smallest so far."""
    load, out = np.zeros(min(n, len(counts))), np.zeros(len(counts), np.int64)
    for i in np.argsort(-counts, kind="stable"):
        out[i] = load.argmin()
        load[out[i]] += counts[i]
    return out


def fit(
    gram: Gram,
    y: np.ndarray,
    weights: np.ndarray,
    added: np.ndarray,
    n_classes: int,
    config: LdaConfig = LdaConfig(),
    *,
    affine: np.ndarray | None = None,
    prior_weight: float | None = None,
    products: np.ndarray | None = None,
) -> LdaModel:
    """Fit on the clips with weight > 0.

    Args:
        y: [N] class index; only entries with weight are read.
        weights: [N] >= 0, how many clips each counts as.
        added: [N] bool, the synthetic clips. With ``prior_weight`` k they count as k clips in each of their classes,
            and their scatter is taken about their own class means, so that a shift between the two sets is not mistaken
            for noise.
        affine: [N,2,3] see :meth:`Gram.block`; None leaves all clips as they are.
        products: [n,n] what :meth:`Gram.block` gives of the clips that are learned from, where it is known.

    A class without a training clip gets bias -inf: it is never predicted.
    """
    from scipy.linalg import cho_factor, cho_solve

    index = np.flatnonzero(weights > 0)
    if prior_weight == 0 and (weights * ~added).any():
        index = index[~added[index]]
    if affine is None:
        affine = np.tile(np.array([1.0, 0.0])[:, None], (len(y), 1, gram.x.shape[1]))
    labels, synthetic = y[index], added[index]
    w = weights[index].astype(np.float64)
    if not prior_weight or synthetic.all():
        synthetic = np.zeros(len(index), np.bool_)
    for c in np.unique(labels[synthetic]):
        members = synthetic & (labels == c)
        w[members] *= prior_weight / w[members].sum()
    dimensions = gram.x.shape[1] * gram.x.shape[2]
    if dimensions < len(index):
        own = index[~synthetic]
        groups = moments(gram.mapped(own, affine), y[own], w[~synthetic], n_classes)
        groups += [
            _scaled(one, prior_weight or one.mass)
            for one in _made(gram, index[synthetic], y, weights, affine, n_classes)
        ]
        weight, bias = _solved(groups, n_classes, config)
        return LdaModel(weight=weight.reshape(n_classes, *gram.shape), bias=bias)
    onehot = (labels == np.arange(n_classes)[:, None]).astype(np.float64)
    mass = (onehot * w).sum(1)
    present = mass > 0
    means = onehot * w / np.where(present, mass, 1)[:, None]  # [C,n]: class means as combinations of clips
    # Centre every clip on the mean of its own class (and set), weigh it, and take inner products: C g C^T with
    # C = diag(root)(I - E A), E [n,G] the groups, A [G,n] their means. As E and A are thin, nothing is cubic in n.
    _, group = np.unique(labels * 2 + synthetic, return_inverse=True)
    members_of = (group[:, None] == np.arange(group.max() + 1)).astype(np.float64)
    mean_of = (members_of * w[:, None]).T
    mean_of /= mean_of.sum(1, keepdims=True)
    root = np.sqrt(w / w.sum())
    g = gram.block(index, index, affine) if products is None else products.copy()
    gm = g @ means.T
    centred_gm = root[:, None] * (gm - (mean_of @ gm)[group])
    scatter = g  # in place: n^2 numbers are what this costs
    scatter -= (mean_of @ scatter)[group]
    scatter -= (scatter @ mean_of.T)[:, group]
    scatter *= root[:, None]
    scatter *= root
    # A fold with one clip per class has no scatter; any ridge then gives the nearest mean.
    ridge = config.shrinkage * max(np.trace(scatter), 1e-12) / dimensions
    keep = 1 - config.shrinkage
    scatter *= keep
    scatter[np.diag_indices_from(scatter)] += ridge
    # The transpose is the same matrix in the order of memory that LAPACK solves in place.
    solved = root[:, None] * cho_solve(cho_factor(scatter.T, overwrite_a=True, check_finite=False), centred_gm)
    uncentred = solved - mean_of.T @ (members_of.T @ solved)  # C^T
    coefficients = (means.T - keep * uncentred).T / ridge  # Woodbury: S^-1 mean, as clips
    bias = _bias(-0.5 * np.einsum("cn,nc->c", coefficients, gm), mass, config)
    return LdaModel(weight=gram.combine(index, coefficients, affine), bias=bias)
