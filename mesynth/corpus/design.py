"""The design of a corpus: what its rows are made of, as a YAML file (``configs/corpus/``).

Faces x emotions x AU sources x intensity distributions x sides x profiles x nuisance levels x seeds, all of it
(``factorial``) or a number of rows in which every factor is balanced (``count``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from itertools import product
from pathlib import Path
from typing import Any

from mesynth.config import load_recipe
from mesynth.core import facs
from mesynth.core.emotions import CLASS_OF, AUSampling, plain_emotion
from mesynth.core.errors import ConfigError
from mesynth.core.profiles import frame_count, require_profile
from mesynth.motion.nuisance import Nuisance

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
