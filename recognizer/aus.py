"""Action units as a task: which AUs, what is known of them in a clip, thresholds, and counts per database.

An AU of a clip is present (1) where either side of the face shows it, absent (0) where both sides are coded without it,
and unknown (-1) otherwise. Unknown is not absent: it counts in no loss, no threshold and no figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mesynth.core.errors import ConfigError
from mesynth.core.facs import AU_CODES, AU_INDEX

EMOTION, AUS, BOTH = "emotion", "aus", "emotion+aus"
TASKS = (EMOTION, AUS, BOTH)
ANY = ("any",)
"""The one class that all clips are of where the task is AUs alone: mixing counts them together."""
CD6ME = (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17)
"""The 12 AUs of the cross-database protocol CD6ME (Varanka et al., Data leakage and evaluation issues in
micro-expression analysis, 2022)."""
FIXED, INNER = "fixed", "inner"
THRESHOLDS = (FIXED, INNER)


@dataclass(frozen=True, kw_only=True)
class AusConfig:
    """Which AUs are recognized, and from what probability on one is called present."""

    codes: tuple[int, ...] = CD6ME
    """AUs by number. A side is not asked for: an AU is present where either side shows it."""
    threshold: str = FIXED
    """fixed: .5, as published. inner: for each AU and fold, what gives the best F1 on groups of the fold's own training
    subjects, each predicted by a model that learned from the others; nobody held out takes part."""
    groups: int = 3
    """Groups of training subjects for threshold=inner: so many more models are trained a fold."""
    weight: float = 0.3
    """Of task=emotion+aus: what the AU loss counts beside the classes'."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "codes", tuple(self.codes))
        unknown = [code for code in self.codes if code not in AU_INDEX]
        if unknown:
            raise ConfigError(f"aus.codes: AU {unknown[0]} is not kept in manifests; choose from {list(AU_CODES)}")
        if not self.codes or len(set(self.codes)) != len(self.codes):
            raise ConfigError(f"aus.codes={list(self.codes)} must name at least one AU, each of them once")
        if self.threshold not in THRESHOLDS:
            raise ConfigError(f"aus.threshold='{self.threshold}' is unknown; choose from {', '.join(THRESHOLDS)}")
        if self.groups < 2:
            raise ConfigError(f"aus.groups={self.groups} must be at least 2; 3 is usual")
        if not 0 < self.weight < float("inf"):
            raise ConfigError(f"aus.weight={self.weight:g} must be a positive number; task=emotion has no AU loss")

    @property
    def names(self) -> tuple[str, ...]:
        """For people and columns: AU1, AU2, ..."""
        return au_names(self.codes)


def au_names(codes: Sequence[int]) -> tuple[str, ...]:
    """AU1, AU2, ..."""
    return tuple(f"AU{code}" for code in codes)


def targets(au: np.ndarray, codes: Sequence[int]) -> np.ndarray:
    """Sides [N,K*2] (1 present, 0 absent, -1 unknown) -> [N,A] int8 of these AUs: 1, 0 or -1.

    >>> au = np.full((3, len(AU_CODES), 2), -1, np.int8)
    >>> au[0, AU_INDEX[12]] = 0, 1    # one side shows it
    >>> au[1, AU_INDEX[12]] = 0, 0    # coded, and absent
    >>> au[2, AU_INDEX[12]] = 0, -1   # one side is not known: neither is the AU
    >>> targets(au.reshape(3, -1), [12])[:, 0].tolist()
    [1, 0, -1]
    """
    sides = au.reshape(len(au), -1, 2)[:, [AU_INDEX[code] for code in codes]]
    absent = (sides == 0).all(2)
    return np.where((sides == 1).any(2), 1, np.where(absent, 0, -1)).astype(np.int8)


def shown(values: Sequence[float] | np.ndarray, names: Sequence[str]) -> str:
    """AUs that are present (more than .5 of each) in words.

    >>> shown([0.9, 0.2, 0.6], ["AU1", "AU4", "AU12"]), shown([0, 0, 0], ["AU1", "AU4", "AU12"])
    ('AU1+AU12', 'none')
    """
    return "+".join(name for name, value in zip(names, values, strict=True) if value > 0.5) or "none"


def balances(known: np.ndarray, weights: np.ndarray, *, balance: bool) -> np.ndarray:
    """[M,A,2] float32: what an absent and a present AU count in a member's loss.

    With ``balance`` both count as much together, with mean 1 over what is known; an AU that the member has one kind of
    counts 1. known [N,A] (1, 0, -1), weights [M,N].
    """
    mass = np.stack([weights @ (known == side) for side in (0, 1)], -1).astype(np.float64)
    both = (mass > 0).all(-1, keepdims=True) & balance
    half = mass.sum(-1, keepdims=True) / 2
    return np.where(both, half / np.maximum(mass, 1e-12), 1.0).astype(np.float32)


# ---------------------------------------------------------------- thresholds


def chosen_threshold(p: np.ndarray, truth: np.ndarray) -> float:
    """Where a probability [n] begins to mean present: the best F1 on ``truth`` [n] (0, 1), nearest to .5 among equals.

    .5 where fewer than two clips show the AU, or all do.

    >>> chosen_threshold(np.array([0.1, 0.2, 0.35, 0.4]), np.array([0, 0, 1, 1]))
    0.275
    """
    if truth.sum() < 2 or truth.all():
        return 0.5
    order = np.argsort(-p, kind="stable")
    ranked, hits = p[order], np.cumsum(truth[order])
    last = np.append(ranked[1:] < ranked[:-1], True)  # equal probabilities are called alike
    f1 = 2 * hits / (np.arange(1, len(p) + 1) + truth.sum())
    cuts = np.flatnonzero(last & (f1 >= f1[last].max() - 1e-12))
    below = np.append(ranked[1:], 0.0)
    middle = (ranked[cuts] + below[cuts]) / 2
    # .5 itself where it cuts as well: between two probabilities any point is as good.
    if ((below[cuts] <= 0.5) & (ranked[cuts] > 0.5)).any():
        return 0.5
    return float(middle[np.abs(middle - 0.5).argmin()])


def shifted(p: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Probabilities [N,A] moved on the scale of log odds so that a ``threshold`` [A] lies at .5.

    >>> shifted(np.array([[0.3, 0.5]]), np.array([0.3, 0.5])).tolist()
    [[0.5, 0.5]]
    """
    from scipy.special import expit, logit

    with np.errstate(divide="ignore"):
        return np.asarray(expit(logit(p) - logit(np.clip(thresholds, 1e-6, 1 - 1e-6))))


# ---------------------------------------------------------------- counts


def constant_f1(present: np.ndarray, known: np.ndarray) -> np.ndarray:
    """F1 [A] of calling every AU present, of ``present`` [A] clips that show it among ``known`` [A].

    >>> constant_f1(np.array([304, 708]), np.array([2031, 2031])).round(4).tolist()  # AU 1 and 4 of CD6ME
    [0.2604, 0.517]
    """
    return np.asarray(2 * present / np.maximum(present + known, 1))


def counts_table(known: Mapping[str, np.ndarray], codes: Sequence[int]) -> tuple[list[str], list[list[str]], list[str]]:
    """Clips that show each AU, a row a database, as CD6ME's table of AUs: (header, rows, notes).

    ``known``: [N,A] of :func:`targets` by database. Notes name databases in which an AU is not known of every clip.

    >>> header, rows, notes = counts_table({"a": np.array([[1, 0], [1, 1]]), "b": np.array([[0, -1]])}, [1, 4])
    >>> header, rows
    (['database', 'AU1', 'AU4', 'Total', 'clips'], [['a', '2', '1', '3', '2'], ['b', '0', '0', '0', '1'], ['Total', '2', '1', '3', '3']])
    >>> notes
    ['b: not known of every clip: AU4 (of 0 of 1)']
    """  # noqa: E501
    names = au_names(codes)
    header = ["database", *names, "Total", "clips"]
    each = {name: (found == 1).sum(0) for name, found in known.items()}
    rows = [
        [name, *map(str, counts.tolist()), str(int(counts.sum())), str(len(known[name]))]
        for name, counts in each.items()
    ]
    total = np.sum(list(each.values()), axis=0)
    rows.append(["Total", *map(str, total.tolist()), str(int(total.sum())), str(sum(map(len, known.values())))])
    notes = []
    for name, found in known.items():
        sure = (found >= 0).sum(0)
        lacking = [f"{au} (of {n} of {len(found)})" for au, n in zip(names, sure, strict=True) if n < len(found)]
        if lacking:
            notes.append(f"{name}: not known of every clip: {', '.join(lacking)}")
    return header, rows, notes
