"""The exact Frechet distance of Gaussians, from features or from moments (what pytorch-fid caches)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.linalg import lapack


@dataclass(frozen=True, kw_only=True)
class Moments:
    """``mean`` [D] and ``covariance`` [D,D] (over n-1) of features, float64."""

    mean: np.ndarray
    covariance: np.ndarray

    @staticmethod
    def of(parts: Iterable[np.ndarray]) -> Moments:
        """Of features [n,D] that come in parts; memory is that of a part and of the covariance.

        Raises ValueError when there are fewer than two rows.
        """
        count, origin = 0, np.zeros(0)
        total, products = np.zeros(0), np.zeros((0, 0))
        for part in parts:
            if not count:  # sums about a mean near the true one: nothing large is taken from something large
                origin = part.mean(0, dtype=np.float64)
                total, products = np.zeros(part.shape[1]), np.zeros((part.shape[1], part.shape[1]))
            centred = part - origin
            total += centred.sum(0)
            products += centred.T @ centred
            count += len(part)
        if count < 2:
            raise ValueError(f"a covariance needs at least 2 rows, got {count}")
        shift = total / count
        return Moments(mean=origin + shift, covariance=(products - count * np.outer(shift, shift)) / (count - 1))


def frechet(x: np.ndarray, y: np.ndarray) -> float:
    """Frechet distance of Gaussians fitted to [N,D] and [M,D] (Heusel et al., 2017, eq. 6).

    ``|mx - my|^2 + tr(Cx) + tr(Cy) - 2 tr (Cx Cy)^(1/2)``, without a matrix square root or an epsilon. Few rows: with
    A, B the centred features over sqrt(n-1) the last trace is the nuclear norm of ``A B^T``. Many: see
    :func:`frechet_of_moments`.
    """
    check_features(x, y)
    if max(len(x), len(y)) > x.shape[1]:
        return frechet_of_moments(Moments.of([x]), Moments.of([y]))
    a, b = _centred(x), _centred(y)
    cross = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    mean = ((x.mean(0, dtype=np.float64) - y.mean(0, dtype=np.float64)) ** 2).sum()
    return float(mean + (a**2).sum() + (b**2).sum() - 2 * cross)


def frechet_of_moments(x: Moments, y: Moments) -> float:
    """The same from moments: with ``Cx = L L^T``, ``Cx Cy`` has the eigenvalues of the symmetric ``L^T Cy L``.

    Eigenvalues are exact to 1e-16 of the largest one, so a direction without variance adds up to 1e-8 of the largest
    standard deviation's square; nothing is added to the diagonals. Raises ValueError when the widths differ.
    """
    if len(x.mean) != len(y.mean):
        raise ValueError(f"moments of {len(x.mean)} and {len(y.mean)} features; the extractors differ")
    mean = ((x.mean - y.mean) ** 2).sum()
    roots = np.sqrt(np.maximum(_eigenvalues(x.covariance, y.covariance), 0)).sum()
    return float(mean + np.trace(x.covariance) + np.trace(y.covariance) - 2 * roots)


def _eigenvalues(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of the product of two covariances [D,D]."""
    for one, other in ((a, b), (b, a)):
        factor, failed = lapack.dpotrf(one.T, lower=1, clean=0)
        if not failed:
            product, _ = lapack.dsygst(other.T, factor, itype=2, lower=1)  # its lower triangle; eigvalsh reads no more
            return np.asarray(np.linalg.eigvalsh(product))
    # Neither has full rank (fewer rows than features): factors by eigenvectors, a little slower.
    values, vectors = np.linalg.eigh(a)
    factor = vectors * np.sqrt(np.maximum(values, 0))
    return np.asarray(np.linalg.eigvalsh(factor.T @ b @ factor))


def _centred(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    return np.asarray((x - x.mean(0)) / np.sqrt(len(x) - 1))


def check_features(x: np.ndarray, y: np.ndarray) -> None:
    """Raise ValueError unless both are finite [N,D] of one D with at least two rows."""
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"features have shapes {x.shape} and {y.shape}; give [N,D] and [M,D]")
    if min(len(x), len(y)) < 2:
        raise ValueError(f"a distance needs at least 2 rows on each side, got {len(x)} and {len(y)}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("features hold NaN or infinity")
