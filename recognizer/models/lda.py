"""Regularised linear discriminant with clip weights, in closed form, on Gram matrices.

With isotropic shrinkage the solution lies in the span of the training clips, so every fold, seed and
ratio needs one solve of (training clips)^2, whatever the image size, on Gram matrices made once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from mesynth.core.errors import ConfigError

PRIORS = ("equal", "data")


@dataclass(frozen=True, kw_only=True)
class LdaConfig:
    """Sw <- (1 - shrinkage) Sw + shrinkage tr(Sw)/D I."""

    shrinkage: float = 0.9
    """Chosen, with its flow's power and cells, on real flow images (docs/decisions/018)."""
    priors: str = "equal"
    """Class priors: ``equal`` (what UF1 and UAR reward) or ``data`` (the weighted class shares)."""

    def __post_init__(self) -> None:
        if not 0 < self.shrinkage <= 1:
            raise ConfigError(f"lda.shrinkage={self.shrinkage:g} is outside (0, 1]; .9 is a fair start")
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
        self.products = [flat[:, ch] @ flat[:, ch].T for ch in range(flat.shape[1])] if len(x) <= keep else []
        self.sums = flat.sum(2)

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

    def combine(self, index: np.ndarray, coefficients: np.ndarray, affine: np.ndarray) -> np.ndarray:
        """Sum of coefficients [C,n] times the mapped clips ``index`` [n] -> [C,3,S,S]."""
        scaled = coefficients[:, :, None] * affine[None, index, 0]
        offset = np.einsum("cn,nk->ck", coefficients, affine[index, 1])
        out = np.einsum("cnk,nkp->ckp", scaled, self.x[index], optimize=True) + offset[:, :, None]
        return np.asarray(out.reshape(len(coefficients), *self.shape))


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
) -> LdaModel:
    """Fit on the clips with weight > 0.

    Args:
        y: [N] class index; only entries with weight are read.
        weights: [N] >= 0, how many clips each counts as.
        added: [N] bool, the synthetic clips. With ``prior_weight`` k their class statistics count as
            k pseudo-clips spread evenly over the classes, and their scatter is taken about their own
            class means, so that a shift between the two sets is not mistaken for noise.
        affine: [N,2,3] see :meth:`Gram.block`; None leaves all clips as they are.

    A class without a training clip gets bias -inf: it is never predicted.
    """
    index = np.flatnonzero(weights > 0)
    if affine is None:
        affine = np.tile(np.array([1.0, 0.0])[:, None], (len(y), 1, gram.x.shape[1]))
    labels, synthetic = y[index], added[index]
    w = weights[index].astype(np.float64)
    if prior_weight is not None and synthetic.any():
        classes = np.unique(labels[synthetic])
        for c in classes:
            members = synthetic & (labels == c)
            w[members] *= prior_weight / len(classes) / w[members].sum()
    else:
        synthetic = np.zeros(len(index), np.bool_)
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
    g = gram.block(index, index, affine)
    gm = g @ means.T
    centred_gm = root[:, None] * (gm - (mean_of @ gm)[group])
    scatter = g  # in place: n^2 numbers are what this costs
    scatter -= (mean_of @ scatter)[group]
    scatter -= (scatter @ mean_of.T)[:, group]
    scatter *= root[:, None]
    scatter *= root
    dimensions = gram.x.shape[1] * gram.x.shape[2]
    # A fold with one clip per class has no scatter; any ridge then gives the nearest mean.
    ridge = config.shrinkage * max(np.trace(scatter), 1e-12) / dimensions
    keep = 1 - config.shrinkage
    scatter *= keep
    scatter[np.diag_indices_from(scatter)] += ridge
    # The transpose is the same matrix in the order of memory that LAPACK solves in place.
    solved = root[:, None] * cho_solve(cho_factor(scatter.T, overwrite_a=True, check_finite=False), centred_gm)
    uncentred = solved - mean_of.T @ (members_of.T @ solved)  # C^T
    coefficients = (means.T - keep * uncentred).T / ridge  # Woodbury: S^-1 mean, as clips
    share = mass / mass.sum() if config.priors == "data" else np.full(n_classes, 1 / n_classes)
    bias = -0.5 * np.einsum("cn,nc->c", coefficients, gm)
    bias = np.where(present, bias + np.log(np.where(present, share, 1)), -np.inf)
    return LdaModel(weight=gram.combine(index, coefficients, affine), bias=bias)
