"""Framing: where a face lies in its crop, and flow taken from one framing to another.

Crops of one database share a framing; those of two databases differ, and a recognizer that learned from one reads the
other at the wrong places. Published flow images of the MEGC 2019 composite hold the eyes 1.4 times as far apart as
crops of :mod:`mesynth.preprocess.align` do, and higher.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, fields, replace
from functools import lru_cache
from typing import Any

import numpy as np

from mesynth.core.errors import ConfigError
from mesynth.core.types import in_own_rms


@dataclass(frozen=True, kw_only=True)
class Framing:
    """Shares of the crop's sides, edge to edge.

    >>> Framing(eyes=0.57, height=0.46, row=0.25).text()
    'eyes=0.57,height=0.46,row=0.25,column=0.5'
    """

    eyes: float = 0.40
    """Distance of the eye centres, of the width."""
    height: float = 0.40
    """The same distance laid along the height: other than ``eyes`` where crops were stretched."""
    row: float = 0.35
    """Height of the eye centres below the top."""
    column: float = 0.50
    """Place of the middle between the eyes, from the left."""

    def __post_init__(self) -> None:
        for name in ("eyes", "height"):
            if not 0.1 <= getattr(self, name) <= 1.5:
                raise ConfigError(
                    f"framing {name}={getattr(self, name):g} is outside 0.1..1.5 of the crop; 0.4 is ours"
                )
        for name in ("row", "column"):
            if not -0.5 <= getattr(self, name) <= 1.5:
                raise ConfigError(f"framing {name}={getattr(self, name):g} is outside -0.5..1.5 of the crop")

    def text(self) -> str:
        """As :func:`parse_framing` reads it, rounded to thousandths."""
        return ",".join(f"{name}={round(value, 3):g}" for name, value in asdict(self).items())

    def distance(self, other: Framing) -> float:
        """Largest difference between two crops' numbers, shares of the crop."""
        return max(abs(a - b) for a, b in zip(astuple(self), astuple(other), strict=True))


OWN = Framing()
"""Of :mod:`mesynth.preprocess.align`'s crops."""

MADE, GIVEN, LANDMARKS, ESTIMATED = "made", "given", "landmarks", "estimated"
_UNSURE = {MADE: 0.005, GIVEN: 0.005, LANDMARKS: 0.02, ESTIMATED: 0.05}
"""How far numbers of each origin may lie from the truth, shares of the crop: estimates from halves of a database differ
by up to .05, those from 100 clips of a known crop lie within .013 of it."""
COVERED = 0.95
"""Share of the target's crop that a source must show (:func:`covered`) for its flow to be taken there."""


@dataclass(frozen=True, kw_only=True)
class KnownFraming:
    """The framing of a database, and how it is known.

    >>> known = KnownFraming(framing=Framing(eyes=0.5, height=0.5), origin="given")
    >>> KnownFraming.of_json(known.to_json()) == known, known.differs(KnownFraming(framing=OWN))
    (True, True)
    """

    framing: Framing
    origin: str = MADE
    """``made``: the crop was cut or drawn so; ``given`` by the user; ``landmarks``: median of the clips' eyes;
    ``estimated`` from the flow."""
    explained: float = 0.0
    """Of an estimate: share of the images' energy in the subspace of ``framing``."""
    explained_own: float = 0.0
    """The same for our crop."""
    images: int = 0
    """Clips that it was found on."""
    databases: tuple[tuple[str, KnownFraming], ...] = ()
    """Of a composite, as far as they are known: its databases' own, by name; empty where there is one database."""

    def __post_init__(self) -> None:
        if self.origin not in _UNSURE:
            raise ConfigError(f"framing origin '{self.origin}' is unknown; choose from {', '.join(_UNSURE)}")

    def of(self, database: str) -> KnownFraming:
        """One database's own framing, or that of all where nothing else is recorded of it."""
        return dict(self.databases).get(database, replace(self, databases=()))

    @property
    def goal(self) -> KnownFraming:
        """Where others' clips are drawn, or taken to, to be like these: of a composite the crop that each of its
        databases shows whole (:func:`shared`), as chosen on real flow images (docs/decisions/019)."""
        alone = replace(self, databases=())
        if len(self.databases) < 2:
            return alone
        try:
            return replace(alone, framing=shared([known.framing for _, known in self.databases]))
        except ConfigError:  # no face is in all of them
            return alone

    def differs(self, other: KnownFraming) -> bool:
        """Whether the two lie further apart than the less sure of them may err; a composite lies at its :attr:`goal`,
        too."""
        pairs = ((a, b) for a in {self.framing, self.goal.framing} for b in {other.framing, other.goal.framing})
        return min(a.distance(b) for a, b in pairs) > max(_UNSURE[self.origin], _UNSURE[other.origin])

    def can_become(self, other: KnownFraming) -> bool:
        """Whether flow in this framing shows enough of the other's :attr:`goal` to be taken there."""
        return covered(self.framing, other.goal.framing) >= COVERED

    def text(self) -> str:
        """For people: the numbers and how they are known."""
        how = {LANDMARKS: f" (landmarks of {self.images} clips)", GIVEN: " (given)", MADE: ""}
        found = f" (estimated from {self.images} flow images)"
        return self.framing.text() + how.get(self.origin, found)

    def parts(self) -> list[str]:
        """For people: a line for each database of a composite."""
        return [f"{name} {known.text()}" for name, known in self.databases]

    def to_json(self) -> str:
        """As :meth:`of_json` reads it."""
        return json.dumps(self._plain())

    def _plain(self) -> dict[str, Any]:
        own = {f.name: getattr(self, f.name) for f in fields(self)} | {"framing": asdict(self.framing)}
        del own["databases"]  # of one database it is what was written before there were composites
        return own | ({"databases": {name: known._plain() for name, known in self.databases}} if self.databases else {})

    @staticmethod
    def of_json(text: str) -> KnownFraming:
        """Raises ConfigError for text that is no framing."""
        try:
            return _of_plain(json.loads(text))
        except ConfigError:
            raise
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            raise ConfigError(f"'{text[:60]}' is no framing") from None


def _of_plain(values: dict[str, Any]) -> KnownFraming:
    framing = Framing(**{name: float(value) for name, value in values.pop("framing").items()})
    databases = tuple((str(name), _of_plain(one)) for name, one in values.pop("databases", {}).items())
    known = KnownFraming(framing=framing, **values)
    return replace(
        known, explained=float(known.explained), explained_own=float(known.explained_own), images=int(known.images),
        databases=databases,
    )  # fmt: skip


def framing_of_eyes(eyes: np.ndarray, height: int, width: int) -> Framing:
    """The median framing of clips whose eye centres [N,2,2] are (x, y) pixels of crops that were not stretched.

    >>> framing_of_eyes(np.array([[[37.9, 44.3], [89.1, 44.3]]]), 128, 128)
    Framing(eyes=0.4, height=0.4, row=0.35, column=0.5)
    """
    apart = np.median(np.hypot(*(eyes[:, 1] - eyes[:, 0]).T))
    x, y = np.median(eyes.mean(1), axis=0) + 0.5
    shares = (apart / width, apart / height, y / height, x / width)
    return Framing(**{f.name: round(float(share), 4) for f, share in zip(fields(Framing), shares, strict=True)})


LIKE = "like:"
"""Before a prepared database's folder, where a framing is asked for: that database's."""


def parse_framing(text: str) -> Framing:
    """``own``, or our framing with changes: ``eyes=0.57,row=0.25``; ``height`` follows ``eyes`` unless it is given.

    Raises:
        ConfigError: an unknown name, no number, or out of range.

    >>> parse_framing("eyes=0.5").height
    0.5
    """
    if text.strip() == "own":
        return OWN
    known = [f.name for f in fields(Framing)]
    values: dict[str, float] = {}
    for part in (p.strip() for p in text.split(",") if p.strip()):
        name, _, number = (p.strip() for p in part.partition("="))
        if name not in known:
            raise ConfigError(f"framing '{part}' is unknown; write name=share with {', '.join(known)}, or own")
        try:
            values[name] = float(number)
        except ValueError:
            raise ConfigError(f"framing '{part}' is no number; write for example {name}=0.4") from None
    if "eyes" in values:
        values.setdefault("height", values["eyes"])
    return Framing(**values)


def reframed(flow: np.ndarray, source: Framing, target: Framing, size: int = 0) -> np.ndarray:
    """Flow [...,2,H,W] in pixels of a crop framed as ``source`` -> the same motion in one framed as ``target``.

    Vectors grow with the face. What lies outside the source repeats its border. ``size``: side of the result, pixels
    (0: as the source's).

    >>> flow = np.ones((2, 8, 8), np.float32)
    >>> reframed(flow, OWN, Framing(eyes=0.8, height=0.4))[:, 0, 0].tolist()
    [2.0, 1.0]
    """
    import cv2  # here: whoever only names a framing, such as a command line's help, needs no OpenCV

    height, width = flow.shape[-2:]
    rows, columns = (size or height), (size or width)
    map_x, map_y = _maps(source, target, height, width, rows, columns)
    growth = (
        columns * target.eyes / (width * source.eyes), rows * target.height / (height * source.height),
    )  # fmt: skip
    out = np.empty((*flow.shape[:-2], rows, columns), np.float32)
    for image, made in zip(flow.reshape(-1, 2, height, width), out.reshape(-1, 2, rows, columns), strict=True):
        for c in (0, 1):
            plane = np.ascontiguousarray(image[c], np.float32)
            made[c] = cv2.remap(plane, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            made[c] *= np.float32(growth[c])
    return out


def reframed_flow(uv: np.ndarray, source: Framing, target: Framing) -> np.ndarray:
    """:func:`reframed` of a clip's flow [2,H,W], which stays in units of its own rms where it is in them."""
    moved = reframed(uv, source, target)
    if in_own_rms(uv):  # the unit is that of what is shown now, as a published image's is
        moved /= max(float(np.sqrt(np.mean(moved**2))), 1e-6)
    return moved


def reframed_points(points: np.ndarray, source: Framing, target: Framing, height: int, width: int) -> np.ndarray:
    """Points [N,2] (x, y), pixels of a crop framed as ``source``, in one of the same size framed as ``target``.

    >>> reframed_points(np.array([[37.9, 44.3]]), OWN, Framing(eyes=0.5, height=0.5, row=0.25), 128, 128)
    array([[31.5, 31.5]], dtype=float32)
    """
    sides = np.array([width, height])
    at = (points + 0.5) / sides - (source.column, source.row)
    grown = at / (source.eyes, source.height) * (target.eyes, target.height)
    return np.asarray((grown + np.array([target.column, target.row])) * sides - 0.5, np.float32)


def reframed_picture(picture: np.ndarray, source: Framing, target: Framing) -> np.ndarray:
    """A picture [H,W,...] of a crop framed as ``source``, cut as ``target``; sampled linearly, its border repeated."""
    import cv2

    height, width = picture.shape[:2]
    maps = _maps(source, target, height, width, height, width)
    return np.asarray(cv2.remap(picture, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))


@lru_cache(maxsize=16)
def _maps(
    source: Framing, target: Framing, height: int, width: int, rows: int, columns: int
) -> tuple[np.ndarray, np.ndarray]:
    """From the target's pixel centres to shares of it, to eye distances from the eyes' middle, and back in the source:
    x and y [rows,columns] float32."""
    x = (((np.arange(columns) + 0.5) / columns - target.column) / target.eyes * source.eyes + source.column) * width
    y = (((np.arange(rows) + 0.5) / rows - target.row) / target.height * source.height + source.row) * height
    map_x, map_y = np.meshgrid((x - 0.5).astype(np.float32), (y - 0.5).astype(np.float32))
    return map_x, map_y


def shared(framings: Sequence[Framing]) -> Framing:
    """The framing of the crop that crops in all of these framings show: their intersection, laid on the eyes' middle.

    Raises:
        ConfigError: they show nothing in common that is as large as a face.

    >>> shared([Framing(eyes=0.5, height=0.5, row=0.25), Framing()]).text()
    'eyes=0.5,height=0.5,row=0.25,column=0.5'
    >>> shared([Framing(row=0.25), Framing(row=0.45)]).text()
    'eyes=0.4,height=0.5,row=0.312,column=0.5'
    """
    found: dict[str, float] = {}
    for place, along in (("column", "eyes"), ("row", "height")):
        ends = [(-getattr(f, place) / getattr(f, along), (1 - getattr(f, place)) / getattr(f, along)) for f in framings]
        low, high = max(start for start, _ in ends), min(end for _, end in ends)
        if high <= low:
            raise ConfigError(
                "crops of these framings show nothing in common: " + "; ".join(f.text() for f in framings)
            )
        found |= {along: round(1 / (high - low), 4), place: round(-low / (high - low), 4)}
    return Framing(**found)


def covered(source: Framing, target: Framing) -> float:
    """Share of a crop framed as ``target`` that a crop framed as ``source`` shows.

    >>> covered(OWN, OWN), round(covered(Framing(eyes=0.6, height=0.6), OWN), 2)
    (1.0, 0.44)
    """
    shares = []
    for place, along in (("column", "eyes"), ("row", "height")):
        scale = getattr(target, along) / getattr(source, along)
        low = getattr(target, place) - getattr(source, place) * scale
        shares.append(max(0.0, min(1.0, low + scale) - max(0.0, low)))
    return shares[0] * shares[1]
