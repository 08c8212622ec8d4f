"""Emotions: the class schemes that fold them, and the action units that go with them.

A scheme says which of the 3, 4, 5 or 7 classes that papers report an emotion word of a database belongs to; an emotion
it has no class for gives "". The objective classes I to VII come from action units instead, see
:func:`mesynth.core.facs.objective_class`.

Sampling AUs for an emotion never looks at a subject: the tables are aggregate counts from the databases' papers, so a
corpus drawn from them stays leak-free for every fold.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from mesynth.core import facs
from mesynth.core.errors import MesynthError
from mesynth.core.types import AUVector

CLASSES_3: tuple[str, str, str] = ("negative", "positive", "surprise")

_SYNONYMS: dict[str, str] = {
    "happy": "happiness", "sad": "sadness", "angry": "anger", "other": "others", "disgusted": "disgust",
    "surprised": "surprise", "tension": "tense", "repressed": "repression", "fearful": "fear", "pos": "positive",
    "neg": "negative", "sur": "surprise",
}  # fmt: skip

# MEGC 2019 grouping: every negative emotion is one class; "others", "tense" and unlisted words belong to none.
CLASS_OF: dict[str, str] = {
    "disgust": "negative", "repression": "negative", "anger": "negative", "contempt": "negative",
    "fear": "negative", "sadness": "negative", "negative": "negative",
    "happiness": "positive", "positive": "positive", "surprise": "surprise",
}  # fmt: skip

# Classes that papers use on a database, where those differ from the scheme's usual ones.
_FIVE: tuple[str, ...] = ("disgust", "happiness", "repression", "surprise", "others")  # CASME II: 246 of 255 clips
_FIVE_OF: dict[str, tuple[str, ...]] = {"samm": ("anger", "contempt", "happiness", "surprise", "others")}
_SEVEN: tuple[str, ...] = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "others")  # CAS(ME)^3, MMEW
_SEVEN_OF: dict[str, tuple[str, ...]] = {
    "casme2": ("disgust", "fear", "happiness", "repression", "sadness", "surprise", "others"),
    "dfme": ("anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise"),
    "samm": ("anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise"),
}
SCHEMES: tuple[str, ...] = ("3", "4", "5", "7")


def plain_emotion(text: str) -> str:
    """The emotion in lower case and in the spelling of this project.

    >>> plain_emotion(" Happy"), plain_emotion("Other"), plain_emotion("Surprise+Positive")
    ('happiness', 'others', 'surprise+positive')
    """
    words = [word.strip() for word in re.split(r"[+,，/&]", text.lower())]
    return "+".join(_SYNONYMS.get(word, word) for word in words if word)


def class_names(scheme: str, database: str = "") -> tuple[str, ...]:
    """The classes of a scheme, in the order of their indices.

    ``scheme``: "3" (MEGC 2019), "4" (those and others, as CAS(ME)^3), "5" and "7" (as papers use them on
    ``database``). Raises MesynthError on another name.

    >>> class_names("5", "samm")
    ('anger', 'contempt', 'happiness', 'surprise', 'others')
    """
    if scheme not in SCHEMES:
        raise MesynthError(f"class scheme '{scheme}' is unknown; choose from {', '.join(SCHEMES)}")
    if scheme == "3":
        return CLASSES_3
    if scheme == "4":
        return (*CLASSES_3, "others")
    name = "casme2" if database.startswith("rendered-") else database  # rendered folders follow that release
    return _FIVE_OF.get(name, _FIVE) if scheme == "5" else _SEVEN_OF.get(name, _SEVEN)


def label(emotion: str, scheme: str = "3", database: str = "") -> str:
    """The class of ``emotion`` (a database's own word), "" where the scheme leaves it out.

    A clip of several emotions (4DME) has a class only where all of them agree.

    >>> label("disgust"), label("Sadness", "5"), label("tense", "4"), label("surprise+positive")
    ('negative', '', 'others', '')
    """
    found = {_single(word, scheme, class_names(scheme, database)) for word in plain_emotion(emotion).split("+")}
    return found.pop() if len(found) == 1 else ""


def _single(word: str, scheme: str, names: tuple[str, ...]) -> str:
    if scheme in {"3", "4"}:
        return CLASS_OF.get(word, "others" if word and scheme == "4" and not doubt(word) else "")
    return word if word in names else ""


_KNOWN: frozenset[str] = frozenset({*CLASS_OF, *_SYNONYMS, "others", "tense", "neutral"})


@cache
def doubt(text: str) -> str:
    """Why an emotion is not understood, for people; "" where it is, or where none is given.

    A word of one's own is understood: it is among the others. One that is all but a known word is a slip of the pen.

    >>> doubt("happines"), doubt("boredom"), doubt("anger?")
    ("emotion 'happines' is not known; is happiness meant?", '', "emotion 'anger?' is undecided")
    """
    for word in plain_emotion(text).split("+"):
        if (word and not any(map(str.isalpha, word))) or re.search(r"\?|\bor\b", word):
            return f"emotion '{word[:40]}' is undecided"
        if word and word not in _KNOWN and (near := difflib.get_close_matches(word, sorted(_KNOWN), n=1, cutoff=0.85)):
            return f"emotion '{word[:40]}' is not known; is {_SYNONYMS.get(near[0], near[0])} meant?"
    return ""


# ---------------------------------------------------------------- emotions


# P(AU | emotion): counts over clips with that emotion. CASME II where it has the emotion, else SAMM.
PUBLISHED: dict[str, dict[int, float]] = {
    "happiness": {12: 27 / 32, 6: 8 / 32, 25: 0.06, 14: 0.06},
    "disgust": {4: 59 / 63, 7: 30 / 63, 10: 17 / 63, 9: 13 / 63},
    "repression": {17: 19 / 27, 15: 11 / 27, 14: 4 / 27},
    "surprise": {2: 20 / 25, 1: 18 / 25, 5: 0.40},
    "sadness": {1: 7 / 7, 15: 0.5, 17: 0.5, 4: 0.2},
    "anger": {7: 42 / 57, 4: 21 / 57},
    "contempt": {14: 12 / 12},
    "fear": {20: 7 / 8, 4: 0.2, 1: 0.2, 7: 0.2},
    "others": {4: 67 / 99, 14: 16 / 99},
}
# MiE-X expert pool (Liu et al., ECCV 2022).
EXPERT: dict[str, dict[int, float]] = {
    "happiness": {12: 1, 25: 0.5, 6: 0.5},
    "sadness": {4: 1, 1: 0.5, 15: 0.5},
    "surprise": {1: 1, 2: 1, 5: 0.5, 25: 0.5, 26: 0.5},
    "fear": {5: 0.5, 20: 0.5, 25: 0.5, 26: 0.5},
    "anger": {4: 1, 7: 0.5, 23: 0.5},
    "disgust": {9: 1, 17: 1, 10: 0.5},
    "contempt": {14: 1},
}
SOURCES: Mapping[str, Mapping[str, Mapping[int, float]]] = {"published": PUBLISHED, "expert": EXPERT}

# Emotion shares inside CASME II, used when a corpus should look like it.
CASME2_SHARES: dict[str, float] = {
    "disgust": 63 / 156, "happiness": 32 / 156, "repression": 27 / 156, "surprise": 25 / 156,
    "sadness": 7 / 156, "fear": 2 / 156,
}  # fmt: skip
# Emotion shares inside the composite's class "negative" (generators.md, flow prior).
_NEGATIVE_SHARES: dict[str, float] = {
    "disgust": 0.48, "anger": 0.26, "repression": 0.12, "contempt": 0.05, "fear": 0.05, "sadness": 0.04,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class AUSampling:
    """How AUs are drawn for an emotion: table, intensity range (weights of FACS A..E), asymmetry."""

    source: str = "published"
    intensity_min: float = 0.12
    intensity_max: float = 0.60
    unilateral: float = 0.35
    """Probability that a clip is one-sided: the weak side keeps up to this share of the intensity."""

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise MesynthError(f"AU source '{self.source}' is unknown; choose from {', '.join(SOURCES)}")
        if not 0 < self.intensity_min <= self.intensity_max <= 1:
            raise MesynthError(
                f"intensity range [{self.intensity_min:g}, {self.intensity_max:g}] must lie in (0, 1] and be ascending"
            )
        if not 0 <= self.unilateral <= 1:
            raise MesynthError(f"unilateral={self.unilateral:g} is no probability; choose a number in [0, 1]")


def require_emotion(emotion: str, source: str = "published") -> str:
    """The emotion in lower case; a class of the composite is allowed too. Raises on unknown names."""
    name = emotion.strip().lower()
    table = SOURCES[source]
    if name in table or name in {"negative", "positive"}:
        return name
    choices = ", ".join([*table, "negative", "positive"])
    raise MesynthError(f"emotion '{emotion}' is not in the {source} table; choose from {choices}")


def draw_emotion(name: str, rng: np.random.Generator, source: str = "published") -> str:
    """Resolve a composite class to one of its emotions; those that ``source`` has no table of share among the others.
    An emotion returns itself."""
    if name == "positive":
        return "happiness"
    if name == "negative":
        emotions, up_to = _negative(source)
        return emotions[int(up_to.searchsorted(rng.random(), side="right"))]
    return name


@cache
def _negative(source: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Emotions of the class and their shares added up: what Generator.choice computes anew at every draw."""
    shares = {emotion: share for emotion, share in _NEGATIVE_SHARES.items() if emotion in SOURCES[source]}
    p = np.array(list(shares.values()))
    if len(shares) < len(_NEGATIVE_SHARES):
        p = p / p.sum()
    up_to = p.cumsum()
    return tuple(shares), up_to / up_to[-1]


def sample_aus(emotion: str, rng: np.random.Generator, sampling: AUSampling = AUSampling()) -> AUVector:
    """Draw the AUs of one apex: presence from the table, intensities, sides; at least one AU is active.

    Intensity ~ U(min, max) * exp(.35 N) per AU and exp(.15 N) per side, clipped to [0.02, 0.75]: FACS E is
    no micro-expression.
    Conflicting draws are damped (:func:`mesynth.core.facs.damp`).
    """
    table = SOURCES[sampling.source][emotion]
    codes, probabilities = list(table), np.array(list(table.values()))
    present = rng.random(len(codes)) < probabilities
    if not present.any():
        present[rng.choice(len(codes), p=probabilities / probabilities.sum())] = True
    out = np.zeros((len(facs.AU_CODES), 2), np.float32)
    weak_side = int(rng.integers(2)) if rng.random() < sampling.unilateral else None
    weak_share = rng.uniform(0, 0.35)
    for code, on in zip(codes, present, strict=True):
        base = rng.uniform(sampling.intensity_min, sampling.intensity_max) * np.exp(0.35 * rng.standard_normal())
        sides = np.repeat(base, 2) if code in facs.MIDLINE else base * np.exp(0.15 * rng.standard_normal(2))
        if weak_side is not None and code not in facs.MIDLINE:
            sides[weak_side] *= weak_share
        if on:
            out[facs.AU_INDEX[code]] = np.clip(sides, 0.02, facs.LETTER_INTENSITY["D"])
    return facs.damp(AUVector(out))
