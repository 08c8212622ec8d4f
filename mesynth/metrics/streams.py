"""Measures fed batch by batch in a training loop: ``update``, ``compute``, ``merge``, ``reset``.

The figures are those of the report's own functions, over everything that was taken in, whatever the batches were; two
objects that saw parts of the data merge into one that saw all of it. They take tensors of any device and arrays;
:mod:`mesynth.metrics.torchmetrics` puts any of them into a ``torchmetrics.MetricCollection``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict
from typing import Any, Self

import numpy as np

from mesynth.core.errors import MesynthError
from mesynth.core.types import N_AUS
from mesynth.metrics.control import agreement
from mesynth.metrics.fid import Moments, frechet_of_moments, kid
from mesynth.metrics.motion import flow_error


class StreamedMeasure(ABC):
    """What they share. ``compute`` raises MesynthError while there is nothing to compute from."""

    @abstractmethod
    def compute(self) -> Any:
        """The figures of everything taken in."""

    @abstractmethod
    def merge(self, other: Self) -> None:
        """Take in what another one has taken in. Raises MesynthError for one of another kind."""

    @abstractmethod
    def reset(self) -> None:
        """Forget everything taken in."""

    def _alike(self, other: object) -> None:
        if type(other) is not type(self):
            raise MesynthError(f"a {type(other).__name__} cannot be merged into a {type(self).__name__}")


def _array(values: Any, what: str, shape: str, fits: Any) -> np.ndarray:
    """A tensor or array as numpy. Raises MesynthError where ``fits(shape)`` says no."""
    found = values.detach().cpu().float().numpy() if hasattr(values, "detach") else np.asarray(values)
    if found.dtype.kind not in "fiub" or not fits(found.shape):
        raise MesynthError(f"{what} is {found.dtype} {list(found.shape)}; expected {shape}")
    return np.asarray(found)


# ------------------------------------------------------------------- distributions


class _Features(StreamedMeasure):
    """Features of real and of made pictures, in batches of either."""

    def update(self, features: Any, real: bool = False) -> None:
        """Take in ``features`` [B,D] of real or of synthetic pictures."""
        found = _array(features, "features", "[B,D] with B, D >= 1", lambda s: len(s) == 2 and min(s) > 0)
        if not np.isfinite(found).all():
            raise MesynthError("features hold NaN or infinity")
        width = self._width()
        if width and width != found.shape[1]:
            raise MesynthError(f"features are {found.shape[1]} wide, those before were {width}; use one extractor")
        self._take("real" if real else "synthetic", found)

    @abstractmethod
    def _width(self) -> int: ...

    @abstractmethod
    def _take(self, side: str, found: np.ndarray) -> None: ...


class FrechetDistance(_Features):
    """Frechet distance (FID, of whatever features are given), in memory of a mean and a covariance a side.

    >>> rng = np.random.default_rng(0)
    >>> measure = FrechetDistance()
    >>> for real in (True, False):
    ...     measure.update(rng.normal(size=(64, 2)) + 3 * real, real=real)
    >>> 17 < measure.compute() < 20
    True
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """See the base class."""
        self.sides: dict[str, tuple[int, np.ndarray, np.ndarray]] = {}

    def _width(self) -> int:
        return next((len(mean) for _, mean, _ in self.sides.values()), 0)

    def _take(self, side: str, found: np.ndarray) -> None:
        x = found.astype(np.float64)
        mean = x.mean(0)
        self._join(side, (len(x), mean, (x - mean).T @ (x - mean)))

    def _join(self, side: str, new: tuple[int, np.ndarray, np.ndarray]) -> None:
        """Chan, Golub and LeVeque (1983): sums of squares of two parts about their own means -> about the joint one."""
        if side in self.sides:
            (n, mean, scatter), (m, other, more) = self.sides[side], new
            shift = other - mean
            new = (
                n + m,
                mean + shift * m / (n + m),
                scatter + more + np.outer(shift, shift) * n * m / (n + m),
            )
        self.sides[side] = new

    def merge(self, other: FrechetDistance) -> None:
        """See the base class."""
        self._alike(other)
        if self._width() and other._width() and self._width() != other._width():
            raise MesynthError(f"features are {other._width()} wide and {self._width()} wide; use one extractor")
        for side, moments in other.sides.items():
            self._join(side, moments)

    def compute(self) -> float:
        """The distance; see :func:`mesynth.fid` for what it is worth at this number of pictures."""
        for side in ("real", "synthetic"):
            if side not in self.sides or self.sides[side][0] < 2:
                raise MesynthError(f"a Frechet distance needs 2 {side} pictures; update with more first")
        ours, theirs = (
            Moments(mean=mean, covariance=scatter / (n - 1))
            for n, mean, scatter in (self.sides["synthetic"], self.sides["real"])
        )
        return frechet_of_moments(ours, theirs)


class KernelDistance(_Features):
    """Kernel inception distance of features, :func:`mesynth.kid`; keeps the features (float32).

    >>> rng = np.random.default_rng(0)
    >>> measure = KernelDistance()
    >>> for real in (True, False):
    ...     measure.update(rng.normal(size=(64, 8)), real=real)
    >>> abs(measure.compute()) < 0.5
    True
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """See the base class."""
        self.sides: dict[str, list[np.ndarray]] = {"real": [], "synthetic": []}

    def _width(self) -> int:
        return next((part.shape[1] for parts in self.sides.values() for part in parts), 0)

    def _take(self, side: str, found: np.ndarray) -> None:
        self.sides[side].append(found.astype(np.float32))

    def merge(self, other: KernelDistance) -> None:
        """See the base class."""
        self._alike(other)
        if self._width() and other._width() and self._width() != other._width():
            raise MesynthError(f"features are {other._width()} wide and {self._width()} wide; use one extractor")
        for side, parts in other.sides.items():
            self.sides[side] += parts

    def compute(self) -> float:
        """The distance: 0 on average for equal distributions at any number of pictures."""
        for side, parts in self.sides.items():
            if sum(map(len, parts)) < 2:
                raise MesynthError(f"a kernel distance needs 2 {side} pictures; update with more first")
        return kid(np.concatenate(self.sides["synthetic"]), np.concatenate(self.sides["real"]))


# ------------------------------------------------------------------- per clip


class FlowErrors(StreamedMeasure):
    """Flow against a reference, means over clips: ``epe`` (pixels), ``relative``, ``angle`` (degrees), ``strain``.

    >>> measure = FlowErrors()
    >>> measure.update(np.zeros((3, 2, 8, 8)), np.ones((3, 2, 8, 8)))
    >>> round(measure.compute()["epe"], 3), measure.compute()["relative"]
    (1.414, 1.0)
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """See the base class."""
        self.found: list[dict[str, float]] = []

    def update(self, flow: Any, target: Any, valid: Any = None) -> None:
        """Take in ``flow`` and ``target`` [B,2,H,W], pixels; ``valid`` [B,H,W] bool: where they are compared."""
        shape = "[B,2,H,W], pixels"
        ours, theirs = (
            _array(values, name, shape, lambda s: len(s) == 4 and s[1] == 2 and min(s) > 0)
            for values, name in ((flow, "flow"), (target, "target"))
        )
        if ours.shape != theirs.shape:
            raise MesynthError(f"flow {list(ours.shape)} and target {list(theirs.shape)} differ; give two {shape}")
        where: list[np.ndarray | None] = [None] * len(ours)
        if valid is not None:
            mask = _array(valid, "valid", "[B,H,W]", lambda s: s == (len(ours), *ours.shape[2:]))
            if not mask.any((1, 2)).all():
                raise MesynthError("a clip has no valid pixel; leave it out")
            where = list(mask.astype(bool))
        self.found += [asdict(flow_error(a, b, m)) for a, b, m in zip(ours, theirs, where, strict=True)]

    def merge(self, other: FlowErrors) -> None:
        """See the base class."""
        self._alike(other)
        self.found += other.found

    def compute(self) -> dict[str, float]:
        """Means over clips; NaN of a figure that no clip has (the angle of still faces)."""
        if not self.found:
            raise MesynthError("no flow was compared yet; update first")
        columns = {name: np.array([one[name] for one in self.found]) for name in self.found[0]}
        return {
            name: float(values[np.isfinite(values)].mean()) if np.isfinite(values).any() else float("nan")
            for name, values in columns.items()
        }


class AUErrors(StreamedMeasure):
    """Estimated against true AU intensities: ``mae`` and ``mae_present`` on FACS's 0-5 scale, ``icc`` (ICC(3,1)),
    ``pearson``, ``slope``, over all known cells together; NaN where a figure does not exist.

    >>> target = np.zeros((6, 25, 2), np.float32)
    >>> target[:, 0] = np.linspace(0, 1, 6)[:, None]
    >>> measure = AUErrors()
    >>> measure.update(0.5 * target, target)
    >>> round(measure.compute()["slope"], 3), round(measure.compute()["mae_present"], 3)
    (0.5, 1.5)
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """See the base class."""
        self.pairs: list[np.ndarray] = []

    def update(self, aus: Any, target: Any) -> None:
        """Take in estimates and truth [B,25,2] in [0,1]; cells whose truth is NaN (unknown) do not count."""
        shape = f"[B,{N_AUS},2] intensities in [0,1]"
        ours, theirs = (
            _array(values, name, shape, lambda s: len(s) == 3 and s[1:] == (N_AUS, 2))
            for values, name in ((aus, "aus"), (target, "target"))
        )
        if ours.shape != theirs.shape:
            raise MesynthError(f"aus {list(ours.shape)} and target {list(theirs.shape)} differ; give two {shape}")
        known = ~np.isnan(theirs)
        if not np.isfinite(ours[known]).all():
            raise MesynthError("estimated AUs hold NaN or infinity where the truth is known")
        self.pairs.append(np.stack([theirs[known], ours[known]]).astype(np.float32))

    def merge(self, other: AUErrors) -> None:
        """See the base class."""
        self._alike(other)
        self.pairs += other.pairs

    def compute(self) -> dict[str, float]:
        """See the class."""
        pairs = np.concatenate([np.zeros((2, 0), np.float32), *self.pairs], 1)
        if not pairs.shape[1]:
            raise MesynthError("no action unit was compared yet; update with clips whose AUs are known")
        found = asdict(agreement(*pairs))
        return {name: float("nan") if value is None else float(value) for name, value in found.items()}
