"""Class schemes: how the emotion words of the databases fold into the 3, 4, 5 and 7 classes papers report.

A scheme says which class an emotion of a database belongs to; an emotion it has no class for gives "". The
objective classes I to VII come from action units instead, see :func:`mesynth.facs.objective_class`.
"""

from __future__ import annotations

import re

from mesynth.errors import MesynthError

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
        return CLASS_OF.get(word, "others" if word and scheme == "4" else "")
    return word if word in names else ""
