"""The design of a corpus: what its rows are made of, as a YAML file (``configs/corpus/``), and whence their AUs.

Faces x emotions x AU sources x intensity distributions x sides x profiles x nuisance levels x seeds, all of it
(``factorial``) or a number of rows in which every factor is balanced (``count``).

A source of AUs is a published table, a manifest's coded sets, a model of what occurs together, or a list. It says which
AUs are shown on which side, how strongly where it knows, and exactly which subjects' labels it looked at for that clip.
A fold then keeps the clips that never saw its held-out subject.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from mesynth.config import load_recipe
from mesynth.core import emotions, facs
from mesynth.core.emotions import CLASS_OF, AUSampling, plain_emotion
from mesynth.core.errors import ConfigError
from mesynth.core.profiles import frame_count, require_profile
from mesynth.motion.nuisance import Nuisance
from mesynth.store.manifest import Manifest, Row

MODES = ("count", "factorial")
TABLES = ("published", "expert")
CODED = ("coded", "macro", "cooccurrence")
"""Sources that read a manifest's annotation."""
SOURCES = (*TABLES, *CODED, "fixed")
SIDES = ("drawn", "both", "left", "right")
MAX_ROWS = 10_000_000
_USUAL = AUSampling()


@dataclass(frozen=True)
class Intensity:
    """One distribution of AU intensities: ``kind`` and its numbers (or letters), see :func:`parse_intensity`."""

    kind: str
    values: tuple[float, ...] = ()
    text: str = ""


def parse_intensity(text: str) -> Intensity:
    """``uniform:LOW:HIGH``, ``beta:A:B``, ``letters:A:B:C`` (one of them), ``level:X``, or ``coded``.

    ``coded`` keeps the intensity that a manifest states; where it states none, the default uniform is drawn.

    Raises:
        ConfigError: another form, or numbers out of range.

    >>> parse_intensity("letters:A:C").values
    (0.1, 0.5)
    """
    kind, *parts = (part.strip() for part in text.split(":"))
    try:
        if kind == "letters":
            values = tuple(facs.LETTER_INTENSITY[part.upper()] for part in parts)
        else:
            values = tuple(float(part) for part in parts)
    except (ValueError, KeyError):
        values = (math.nan,)
    inside = all(0 < v <= 1 for v in values)
    fits = {
        "uniform": len(values) == 2 and inside and values[0] <= values[-1],
        "beta": len(values) == 2 and all(0.05 <= v <= 100 for v in values),
        "letters": bool(values) and inside,
        "level": len(values) == 1 and inside,
        "coded": not values,
    }
    if not fits.get(kind, False):
        raise ConfigError(
            f"aus.intensity '{text}' is no distribution in (0, 1]; write for example uniform:0.12:0.6, beta:2:4, "
            "letters:A:B:C, level:0.25 or coded"
        )
    return Intensity(kind, values, text)


def parse_fixed(text: str) -> tuple[str, str]:
    """``[emotion:] request`` -> (emotion or "", request). Raises MesynthError for a request that cannot be read.

    >>> parse_fixed("positive: 12=B,6=A"), parse_fixed("L4=0.2")
    (('positive', '12=B,6=A'), ('', 'L4=0.2'))
    """
    emotion, colon, request = text.rpartition(":")
    facs.reject_conflicts(facs.parse_request(request))
    emotion = plain_emotion(emotion)
    if colon and emotion not in CLASS_OF and emotion != "others":
        known = ", ".join([*CLASS_OF, "others"])
        raise ConfigError(f"aus.fixed '{text}' names the emotion '{emotion}'; choose from {known}")
    return emotion, request.strip()


@dataclass(frozen=True, kw_only=True)
class RowsDesign:
    """How many rows: ``count`` of them in which factors are balanced, or all combinations, ``seeds`` times."""

    mode: str = "count"
    count: int = 1000
    seeds: int = 1

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(f"rows.mode '{self.mode}' is unknown; choose from {', '.join(MODES)}")
        if not 1 <= self.count <= MAX_ROWS:
            raise ConfigError(f"rows.count={self.count} is outside 1..{MAX_ROWS}")
        if not 1 <= self.seeds <= MAX_ROWS:
            raise ConfigError(f"rows.seeds={self.seeds} is outside 1..{MAX_ROWS}")


@dataclass(frozen=True, kw_only=True)
class AUDesign:
    """Where AUs come from and how strong and one-sided they are."""

    sources: tuple[str, ...] = ("published",)
    """published, expert (tables); coded, macro, cooccurrence (a manifest's annotation); fixed."""
    fixed: tuple[str, ...] = ()
    """Requests of the source ``fixed``, taken in turn: ``positive: 12=B,6=A``; intensities and sides as written."""
    intensity: tuple[str, ...] = (f"uniform:{_USUAL.intensity_min:g}:{_USUAL.intensity_max:g}",)
    """See :func:`parse_intensity`."""
    spread: float = 0.35
    """sd of the log intensity between the AUs of a clip (uniform and beta)."""
    sides: tuple[str, ...] = ("drawn",)
    """drawn (as the source says; tables by ``unilateral``), both, left, right."""
    unilateral: float = _USUAL.unilateral
    """Probability that a clip of a table is one-sided."""
    side_spread: float = 0.15
    """sd of the log intensity between the sides of an AU (uniform and beta)."""
    macro_share: tuple[float, float] = (0.1, 0.5)
    """Source macro: share of the macro-expression's intensity (an early frame of it; MiE-X)."""
    leave_out: tuple[int, ...] = (43, 45)
    """AUs of a manifest that are not part of the expression (closing eyes, blinks)."""

    def __post_init__(self) -> None:
        for name in ("sources", "fixed", "intensity", "sides", "macro_share", "leave_out"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        _choice("aus.sources", self.sources, SOURCES)
        _choice("aus.sides", self.sides, SIDES)
        if not self.intensity:
            raise ConfigError("aus.intensity is empty; write for example [uniform:0.12:0.6]")
        for text in self.intensity:
            parse_intensity(text)
        for text in self.fixed:
            parse_fixed(text)
        if ("fixed" in self.sources) != bool(self.fixed):
            raise ConfigError("aus.fixed goes with the source fixed; give both: sources: [fixed], fixed: ['12=B']")
        for name in ("spread", "side_spread"):
            if not 0 <= getattr(self, name) <= 2:
                raise ConfigError(f"aus.{name}={getattr(self, name):g} is outside [0, 2]")
        if not 0 <= self.unilateral <= 1:
            raise ConfigError(f"aus.unilateral={self.unilateral:g} is no probability; choose a number in [0, 1]")
        share = self.macro_share
        if len(share) != 2 or not 0 < share[0] <= share[1] <= 1:
            raise ConfigError(f"aus.macro_share={list(share)} must be two ascending numbers in (0, 1]")
        for code in self.leave_out:
            if code not in facs.AU_INDEX:
                raise ConfigError(f"aus.leave_out names AU {code}; choose from {', '.join(map(str, facs.AU_CODES))}")

    @property
    def needs_manifest(self) -> bool:
        """Whether a source reads annotation."""
        return any(source in CODED for source in self.sources)


@dataclass(frozen=True, kw_only=True)
class ClipDesign:
    """Size and time of the clips."""

    size: int = 128
    fps: float = 200.0
    duration: tuple[float, float] = (0.32, 0.32)
    """Seconds; drawn uniformly when the two differ."""
    profiles: tuple[str, ...] = ("casme2",)

    def __post_init__(self) -> None:
        for name in ("duration", "profiles"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not 32 <= self.size <= 1024:
            raise ConfigError(f"clip.size={self.size} px is outside [32, 1024]")
        if len(self.duration) != 2 or self.duration[0] > self.duration[1]:
            raise ConfigError(f"clip.duration={list(self.duration)} must be two ascending numbers of seconds")
        for seconds in self.duration:
            frame_count(seconds, self.fps)
        if not self.profiles:
            raise ConfigError("clip.profiles is empty; write for example [casme2]")
        for profile in self.profiles:
            require_profile(profile)


@dataclass(frozen=True, kw_only=True)
class NuisanceDesign:
    """Levels of each nuisance (:class:`mesynth.motion.nuisance.Nuisance`); several levels are a factor."""

    noise: tuple[float, ...] = (1.5,)
    head: tuple[float, ...] = (1.0,)
    blink: tuple[float, ...] = (0.3,)
    style: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        for f in fields(self):
            object.__setattr__(self, f.name, tuple(getattr(self, f.name)))
            if not getattr(self, f.name):
                raise ConfigError(f"nuisance.{f.name} is empty; write for example [0]")
        self.levels()

    def levels(self) -> list[Nuisance]:
        """Every combination."""
        combinations = product(self.noise, self.head, self.blink, self.style)
        return [Nuisance(noise=n, head=h, blink=b, style=s) for n, h, b, s in combinations]


@dataclass(frozen=True, kw_only=True)
class Design:
    """Everything a plan depends on besides its faces and the manifest that AUs are read from."""

    seed: int = 0
    emotions: tuple[str, ...] = ("negative", "positive", "surprise")
    """Emotions or classes of the composite. Empty: those of ``aus.fixed``."""
    shares: tuple[float, ...] = ()
    """Of the rows, one an emotion (count); empty: equal numbers."""
    rows: RowsDesign = field(default_factory=RowsDesign)
    aus: AUDesign = field(default_factory=AUDesign)
    clip: ClipDesign = field(default_factory=ClipDesign)
    nuisance: NuisanceDesign = field(default_factory=NuisanceDesign)

    def __post_init__(self) -> None:
        names = tuple(plain_emotion(e) for e in self.emotions)
        if not names:
            if self.aus.sources != ("fixed",):
                raise ConfigError("emotions is empty; only sources: [fixed] brings its own")
            names = tuple(dict.fromkeys(parse_fixed(text)[0] for text in self.aus.fixed))
        if len(set(names)) != len(names):
            raise ConfigError(f"emotions {list(names)} names one twice; use shares for more of it")
        object.__setattr__(self, "emotions", names)
        shares = tuple(float(s) for s in self.shares)
        object.__setattr__(self, "shares", shares)
        if shares and (len(shares) != len(names) or not all(s > 0 and math.isfinite(s) for s in shares)):
            raise ConfigError(f"shares {list(shares)} must be one positive number for each of {', '.join(names)}")

    @property
    def weights(self) -> tuple[float, ...]:
        """Share of each emotion; adds up to 1."""
        shares = self.shares or (1.0,) * len(self.emotions)
        return tuple(s / sum(shares) for s in shares)

    def plain(self) -> dict[str, Any]:
        """As YAML writes it."""
        plain: dict[str, Any] = _plain(self)
        return plain


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    return list(value) if isinstance(value, tuple) else value


def _value(design: Design, key: str) -> Any:
    value: Any = design
    for part in key.split("."):
        value = getattr(value, part)
    return value


def _choice(name: str, given: tuple[str, ...], known: tuple[str, ...]) -> None:
    if not given or len(set(given)) != len(given):
        raise ConfigError(f"{name} {list(given)} must name at least one, each once; choose from {', '.join(known)}")
    for item in given:
        if item not in known:
            raise ConfigError(f"{name} '{item}' is unknown; choose from {', '.join(known)}")


def load_design(file: Path | str | None = None, overrides: Sequence[str] = ()) -> Design:
    """A design from YAML and ``key=value`` settings.

    Raises:
        ConfigError: an unreadable file, an unknown key, a value out of range, or a key without effect.
    """
    design, keys = load_recipe(Design, file, overrides)
    sources, factorial = design.aus.sources, design.rows.mode == "factorial"
    idle = {
        "rows.count": factorial and "rows.mode is factorial, whose rows are all combinations",
        "shares": factorial and bool(design.shares) and "rows.mode is factorial, whose rows are all combinations",
        "rows.seeds": not factorial and "rows.mode is count; rows.count says how many",
        "aus.macro_share": "macro" not in sources and "macro is not among aus.sources",
        "aus.leave_out": not design.aus.needs_manifest and "no source reads a manifest",
        "aus.unilateral": not ("drawn" in design.aus.sides and set(sources) & set(TABLES))
        and "no source is a table whose sides are drawn",
        "aus.intensity": sources == ("fixed",) and "fixed requests state their own",
        "aus.sides": sources == ("fixed",) and "fixed requests state their own",
    }
    usual = Design()
    for key in keys:
        # The default of an idle key is harmless: the design that a plan keeps states every key.
        if (why := idle.get(key, False)) and _value(design, key) != _value(usual, key):
            raise ConfigError(f"{key} has no effect: {why}; leave it out")
    return design


# ---------------------------------------------------------------- where action units come from


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
        self._of = {
            emotion: (np.array([facs.AU_INDEX[code] for code in table]), np.array(list(table.values())))
            for emotion, table in emotions.SOURCES[name].items()
        }

    def choices(self, wanted: str) -> int:
        emotions.require_emotion(wanted, self.name)
        return 1

    def draw(self, wanted: str, entry: int, rng: np.random.Generator) -> SampledAUs:
        emotion = emotions.draw_emotion(wanted, rng, self.name)
        cells, p = self._of[emotion]
        present = rng.random(len(p)) < p
        if not present.any():
            present[rng.choice(len(p), p=p / p.sum())] = True
        strength = np.zeros((K, 2))
        strength[cells[present]] = np.nan
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
            if wanted == emotion or (wanted and wanted == emotions.label(emotion))
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
    from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree

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
    return emotion if wanted in (emotion, emotions.label(emotion)) else wanted


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
