"""Where a clip's AUs come from: published tables, a manifest's coded sets, a model of what occurs together, or a list.

A source says which AUs are shown on which side, how strongly where it knows, and exactly which subjects' labels it
looked at for that clip. A fold then keeps the clips that never saw its held-out subject.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple, Protocol

import numpy as np
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree

from mesynth.core import emotions, facs
from mesynth.core import emotions as classes
from mesynth.core.errors import ConfigError
from mesynth.corpus.design import CODED, AUDesign, parse_fixed
from mesynth.store.manifest import Manifest, Row

K = len(facs.AU_CODES)
_SMOOTHING = 0.5  # Krichevsky-Trofimov: what never happened in a few clips is unlikely, not impossible
_TRIES = 64


class SampledAUs(NamedTuple):
    """AUs of one clip."""

    emotion: str
    strength: np.ndarray
    """[K,2] float64: 0 absent, NaN present with an intensity that is not known."""
    seen: tuple[str, ...]
    """``database/subject`` of everyone whose labels took part; nobody for tables and lists."""


class AUSource(Protocol):
    """Draws AUs for an emotion or class. Picklable and unchanged by drawing."""

    name: str
    one_sided: bool
    """Whether its sides are coded; else sides are free to draw."""

    def choices(self, wanted: str) -> int:
        """How many entries it takes in turn for ``wanted`` (1: it draws)."""
        ...

    def draw(self, wanted: str, entry: int, rng: np.random.Generator) -> SampledAUs:
        """AUs of one clip."""
        ...


class TableSource:
    """P(AU | emotion) of :mod:`mesynth.core.emotions`, AUs independent; at least one is active."""

    one_sided = False

    def __init__(self, name: str) -> None:
        self.name = name
        self._table = emotions.SOURCES[name]

    def choices(self, wanted: str) -> int:
        emotions.require_emotion(wanted, self.name)
        return 1

    def draw(self, wanted: str, entry: int, rng: np.random.Generator) -> SampledAUs:
        emotion = emotions.draw_emotion(wanted, rng, self.name)
        codes, p = list(self._table[emotion]), np.array(list(self._table[emotion].values()))
        present = rng.random(len(codes)) < p
        if not present.any():
            present[rng.choice(len(codes), p=p / p.sum())] = True
        strength = np.zeros((K, 2))
        strength[[facs.AU_INDEX[c] for c, on in zip(codes, present, strict=True) if on]] = np.nan
        return SampledAUs(emotion, strength, ())


class FixedSource:
    """Requests of the design, taken in turn; they state intensities and sides."""

    name, one_sided = "fixed", True

    def __init__(self, requests: Iterable[str]) -> None:
        self._entries = [(emotion, facs.parse_request(text)) for emotion, text in map(parse_fixed, requests)]

    def _of(self, wanted: str) -> list[tuple[str, np.ndarray]]:
        return [
            (emotion, vector.intensity.astype(np.float64))
            for emotion, vector in self._entries
            if wanted == emotion or (wanted and wanted == classes.label(emotion))
        ]

    def choices(self, wanted: str) -> int:
        n = len(self._of(wanted))
        if not n:
            raise ConfigError(f"aus.fixed has no request for '{wanted}'; add for example '{wanted}: 12=B'")
        return n

    def draw(self, wanted: str, entry: int, rng: np.random.Generator) -> SampledAUs:
        emotion, strength = self._of(wanted)[entry]
        return SampledAUs(emotion, strength.copy(), ())


class CodedSource:
    """AU sets as a manifest's clips show them, each clip equally likely.

    A clip made from one has seen that clip's subjects alone: which others stood in the pool changes how often a set
    is drawn, and that is the same once the rows of a held-out subject are refused.
    ``macro``: the sets of macro-expressions, at a share of their intensity (FACS D where none is stated).
    """

    one_sided = True

    def __init__(self, pool: Pool, name: str, share: tuple[float, float] | None = None) -> None:
        self.name, self._pool, self._share = name, pool, share

    def choices(self, wanted: str) -> int:
        self._pool.of(wanted)
        return 1

    def draw(self, wanted: str, entry: int, rng: np.random.Generator) -> SampledAUs:
        clips = self._pool.of(wanted)
        emotion, strength, seen = clips[int(rng.integers(len(clips)))]
        strength = strength.copy()
        if self._share is not None:
            strength[np.isnan(strength)] = facs.LETTER_INTENSITY["D"]
            strength *= rng.uniform(*self._share)
        return SampledAUs(_named(emotion, wanted), strength, seen)


class CooccurrenceSource:
    """A Chow-Liu tree of AU presence per emotion or class (Chow and Liu, IEEE Trans. Inf. Theory 14, 1968).

    New sets that keep pairs as frequent as coded: P(x) = prod P(x_i | x_parent), the tree of greatest mutual
    information, counts plus one half. A clip made from it has seen every subject the tree was fitted to.
    """

    name, one_sided = "cooccurrence", True

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._trees: dict[str, Tree] = {}

    def choices(self, wanted: str) -> int:
        self._tree(wanted)
        return 1

    def draw(self, wanted: str, entry: int, rng: np.random.Generator) -> SampledAUs:
        tree = self._tree(wanted)
        emotion = tree.emotions[int(rng.integers(len(tree.emotions)))]
        return SampledAUs(_named(emotion, wanted), tree.draw(rng), tree.seen)

    def _tree(self, wanted: str) -> Tree:
        if wanted not in self._trees:
            self._trees[wanted] = Tree(self._pool.of(wanted))
        return self._trees[wanted]


class Tree:
    """One fitted tree: which AUs, in which order, P(present | parent), and which sides each shows."""

    def __init__(self, clips: list[SampledAUs]) -> None:
        present = np.nan_to_num(np.stack([c.strength for c in clips]), nan=1.0) > 0
        whole = present.any(2)
        self.rows = np.flatnonzero(whole.any(0))
        x = whole[:, self.rows].astype(np.float64)
        self.seen = tuple(sorted({subject for clip in clips for subject in clip.seen}))
        self.emotions = tuple(clip.emotion for clip in clips)
        joint = _joint(x)
        self.order, self.parents = _tree_order(joint)
        self.p = np.empty((len(self.rows), 2))
        for i, parent in enumerate(self.parents):
            if parent < 0:
                self.p[i] = (x[:, i].sum() + _SMOOTHING) / (len(x) + 2 * _SMOOTHING)
            else:
                table = joint[i, parent]  # [x_i, x_parent]
                self.p[i] = table[1] / table.sum(0)
        shown = present[:, self.rows].astype(np.float64)  # [n,k,2]
        one = (shown * (1 - shown[..., ::-1])).sum(0)
        totals = np.concatenate([one, shown.prod(2).sum(0)[:, None]], 1)  # left alone, right alone, both
        self.sides = totals / totals.sum(1, keepdims=True)

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """[K,2]: NaN where present, else 0. An empty set is drawn again."""
        on = np.zeros(len(self.rows), np.int64)
        for _ in range(_TRIES):
            u = rng.random(len(self.rows))
            for i in self.order:  # a parent comes before its children
                given = on[self.parents[i]] if self.parents[i] >= 0 else 0
                on[i] = u[i] < self.p[i, given]
            if on.any():
                break
        else:
            on[int(self.p.max(1).argmax())] = 1
        out = np.zeros((K, 2))
        for i in map(int, np.flatnonzero(on)):
            side = int(rng.choice(3, p=self.sides[i]))
            out[self.rows[i], [0, 1] if side == 2 else [side]] = np.nan
        return out


def _joint(x: np.ndarray) -> np.ndarray:
    """[k,k,2,2] joint probabilities of pairs of columns of [n,k] in {0,1}, smoothed."""
    planes = np.stack([1 - x, x])  # [2,n,k]
    counts = np.einsum("ani,bnj->ijab", planes, planes) + _SMOOTHING / 2
    return np.asarray(counts / counts.sum((2, 3), keepdims=True))


def _tree_order(joint: np.ndarray) -> tuple[list[int], list[int]]:
    """Maximum mutual information spanning tree: an order from the root, and each node's parent (-1: the root)."""
    k = len(joint)
    if k == 1:
        return [0], [-1]
    marginal = joint.sum(3)[:, :, :, None] * joint.sum(2)[:, :, None, :]
    information = (joint * np.log(joint / marginal)).sum((2, 3))
    # Negative and nowhere 0: the sparse graph takes a weight of 0 for no edge at all.
    tree = minimum_spanning_tree(-1 - np.triu(information, 1) * (1 - np.eye(k)))
    order, before = breadth_first_order(tree, 0, directed=False)
    return list(map(int, order)), [max(int(b), -1) for b in before]


def _named(emotion: str, wanted: str) -> str:
    """The clip's own word, unless it would not lead back to the class that the plan wants."""
    return emotion if wanted in (emotion, classes.label(emotion)) else wanted


class Pool:
    """The coded clips of a manifest without the excluded subjects, each with its subjects."""

    def __init__(self, clips: list[tuple[str, SampledAUs]], where: str) -> None:
        self._clips, self._where = clips, where

    @classmethod
    def read(
        cls, manifest: Manifest, exclude: Collection[str], leave_out: Collection[int], expression: str = "micro"
    ) -> Pool:
        """Real and rendered clips with a certain AU; one that has seen an excluded subject is not read.

        Nor is one of which an AU is undecided: drawn without that AU it would say that the coder saw it absent.
        """
        excluded, found = set(exclude), []
        mute = [facs.AU_INDEX[code] for code in leave_out]
        for row in manifest:
            seen = tuple(sorted({row.subject_key, *row.provenance.subjects_seen}))
            if row.provenance.kind == "synthetic" or row.expression != expression or excluded & set(seen):
                continue
            if -1 in row.au_present:
                continue
            strength = _strength(row)
            strength[mute] = 0
            if (strength != 0).any():
                found.append((row.label, SampledAUs(row.emotion, strength, seen)))
        return cls(found, f"{manifest.root} (expression {expression})")

    def of(self, wanted: str) -> list[SampledAUs]:
        """The clips of an emotion or class. Raises ConfigError where there is none."""
        clips = [drawn for label, drawn in self._clips if wanted in (label, drawn.emotion)]
        if not clips:
            raise ConfigError(f"no clip of {self._where} has coded AUs and is '{wanted}'; leave it out of emotions")
        return clips

    @property
    def subjects(self) -> list[str]:
        """Everyone in the pool."""
        return sorted({subject for _, drawn in self._clips for subject in drawn.seen})


def _strength(row: Row) -> np.ndarray:
    present = np.array(row.au_present).reshape(K, 2) == 1
    known = np.array(row.au_known).reshape(K, 2)
    stated = np.array(row.au_intensity, np.float64).reshape(K, 2)
    return np.where(present, np.where(known & (stated > 0), stated, np.nan), 0.0)


def make_sources(config: AUDesign, manifest: Manifest | None, exclude: Collection[str]) -> dict[str, AUSource]:
    """The sources of a design, by name.

    Raises:
        ConfigError: a source needs a manifest and there is none, or a manifest is given that none reads.
    """
    if config.needs_manifest and manifest is None:
        source = next(s for s in config.sources if s in CODED)
        raise ConfigError(f"the AU source {source} reads coded clips; give a prepared manifest with --aus-from")
    if manifest is not None and not config.needs_manifest:
        raise ConfigError(f"no AU source of the design reads {manifest.root}; add coded, macro or cooccurrence")
    out: dict[str, AUSource] = {}
    for name in config.sources:
        if name == "fixed":
            out[name] = FixedSource(config.fixed)
        elif name in CODED:
            assert manifest is not None
            pool = Pool.read(manifest, exclude, config.leave_out, "macro" if name == "macro" else "micro")
            if name == "cooccurrence":
                out[name] = CooccurrenceSource(pool)
            else:
                out[name] = CodedSource(pool, name, config.macro_share if name == "macro" else None)
        else:
            out[name] = TableSource(name)
    return out
