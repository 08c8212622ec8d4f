"""What an onset shows already, and what of a request it can therefore show.

Action units are asked for as changes: ``12=0.3`` lifts the mouth's corners by so much from where they are, ``12=-0.2``
lets them down. Whether a photo has anything to let down is read from its 68 landmarks: how far the corners are up, how
far the lips are apart, how far a lid is down. Of brows, of a lid that may be raised (AU 5) or tightened (7) this cannot
be told from one picture: people differ more than their expressions do. So :data:`mesynth.core.facs.LOWERABLE` is what
may be asked for with a minus.

Lengths are shares of the inter-ocular distance (IOD) in the picture levelled by the eyes; sides are the subject's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import numpy as np

from mesynth.core.errors import MesynthError
from mesynth.core.facs import AU_INDEX, AU_NAMES, LOWERABLE, MIDLINE, SIDES
from mesynth.core.types import AUVector
from mesynth.preprocess.align import eye_centres

_CORNERS = (54, 48)
"""Landmarks of the mouth's corners, of the subject's left and right."""
_LIDS = (((43, 44), (47, 46)), ((37, 38), (41, 40)))
"""Landmarks of the upper and the lower lid."""
_SMILE = (4.78, 3.47, -1.43)
"""AU 12 = a lift of the corner above the lips' middle + b half width + c. The ratio of a and b is that of least squares
over rendered people with AUs of all parts of the face (correlation with the truth .95 on people left out), their size
that of AU 12 alone."""
SMILE_DOUBT = 0.25
"""What is read of 97 % of those who do not smile is below it (median .03)."""
EYE = 0.138
"""Opening of an eye at rest, rendered people's median; nine in ten lie within 8 % of it or above."""
_OPEN_EYE, _SHUT_EYE = 0.25, 0.85
"""A lid that is down by less does not count as lowered; one that is down by more hides the eyeball."""
REST, SHUT = 0.02, 0.035
"""Gap between the landmarks of closed lips, and the widest that counts as closed."""
PARTED: dict[int, float] = {25: 0.047, 26: 0.238, 27: 0.504}
"""How far each AU alone parts the lips: the lift and the drop of mesynth.motion.layers.LIPS, and its jaw at them."""
JAW = (26, 27)
"""AUs that drop the jaw: how its skin moves a generator may say (:attr:`mesynth.motion.layers.Step.jaw`)."""


class OnsetError(MesynthError):
    """An action unit that cannot be shown from this onset."""


def jaw_left(gap: float) -> float:
    """Share of its way that a jaw still drops under AU 26 and 27 on a mouth that is open by ``gap`` IOD.

    >>> jaw_left(0.0), round(jaw_left(0.3), 2)
    (1.0, 0.76)
    """
    return float(np.clip(1 - 1.2 * (gap - 0.1), 0.35, 1))


def concerns(aus: AUVector) -> bool:
    """Whether what can be shown of the AUs depends on the onset at all."""
    return bool(aus.intensity[_ROWS].any())


@dataclass(frozen=True)
class Answer:
    """What becomes of a request on one onset."""

    aus: AUVector
    """What is drawn: the request, cut where the face has no more to give."""
    shown: AUVector
    """What a clip of it shows: for its label."""
    notes: tuple[str, ...] = ()
    """What was cut, in words."""
    refused: tuple[str, ...] = ()
    """What cannot be shown at all, in words, with the way out; :attr:`aus` is without it."""

    def or_raise(self) -> Answer:
        """Raises OnsetError for the first refusal."""
        for text in self.refused:
            raise OnsetError(text)
        return self


@dataclass(frozen=True)
class Onset:
    """The state that landmarks show, see :meth:`of`."""

    smile: tuple[float, float]
    """AU 12 of the left and the right corner in [0,1]; below :data:`SMILE_DOUBT` it may be the mouth's own shape"""
    closure: tuple[float, float]
    """of the left and the right eye in [0,1]: the share of an ordinary eye's opening that the lids hide"""
    gap: float
    """between the inner lips, IOD: about .02 where they touch"""

    @staticmethod
    def of(landmarks: np.ndarray) -> Onset:
        """Of landmarks [68,2] in pixels.

        Raises:
            MesynthError: other shapes, or eyes that lie on each other.

        >>> from mesynth.head import HeadModel
        >>> model = HeadModel.load()
        >>> rest = Onset.of(100 * model.uv[model.landmarks])
        >>> max(rest.smile) < 0.25, max(rest.closure) < 0.1, rest.gap < 0.035
        (True, True, True)
        """
        p = np.asarray(landmarks, np.float64)
        if p.shape != (68, 2) or not np.isfinite(p).all():
            raise MesynthError(f"landmarks have shape {p.shape}; expected 68 finite points [68,2]")
        left, right = eye_centres(p)
        iod = float(np.hypot(*(right - left)))
        if not iod > 0:
            raise MesynthError("the landmarks of both eyes lie on each other; these are no 68 landmarks of a face")
        along = (right - left) / iod
        q = np.stack([p @ along, p @ np.array([-along[1], along[0]])], -1) / iod
        inner = (q[62] + q[66]) / 2
        a, b, c = _SMILE
        smile = [a * (inner[1] - q[k][1]) + b * abs(q[k][0] - inner[0]) + c for k in _CORNERS]
        eyes = [q[list(low), 1].mean() - q[list(up), 1].mean() for up, low in _LIDS]
        gap = float(np.mean([np.linalg.norm(q[61 + i] - q[67 - i]) for i in range(3)]))
        return Onset((_share(smile[0]), _share(smile[1])), (_share(1 - eyes[0] / EYE), _share(1 - eyes[1] / EYE)), gap)

    def answer(self, aus: AUVector) -> Answer:
        """What of ``aus`` this onset can show.

        >>> from mesynth.core.facs import format_vector, parse_request
        >>> smiling = Onset((0.5, 0.5), (0.0, 0.0), 0.02)
        >>> format_vector(smiling.answer(parse_request("12=-0.2")).or_raise().aus)
        '12=-0.2'
        >>> smiling.answer(parse_request("12=-0.8")).notes
        ('AU 12 is lowered by 0.5 instead of 0.8: the onset shows no more of it',)
        """
        asked = aus.intensity
        if not concerns(aus):
            return Answer(aus, aus)
        drawn, notes, refused = asked.copy(), list[str](), list[str]()
        self._smile(drawn, notes, refused)
        self._lids(drawn, notes, refused)
        self._lips(drawn, notes, refused)
        shown = drawn.copy()
        left = jaw_left(self.gap)
        for code in JAW:
            row = shown[AU_INDEX[code]]
            if left < 1 and (row > 0).any():
                notes.append(f"AU {code} opens the mouth by {left:.2g} of what was asked: it is open already")
                row[row > 0] *= np.float32(left)
        made = aus if np.array_equal(drawn, asked) else AUVector(drawn, aus.known)
        label = made if np.array_equal(drawn, shown) else AUVector(shown, aus.known)
        return Answer(made, label, tuple(dict.fromkeys(notes)), tuple(dict.fromkeys(refused)))

    def lowest(self) -> dict[int, tuple[float, float]]:
        """How far each of :data:`mesynth.core.facs.LOWERABLE` alone may be asked for below 0, of the left and the right
        side: 0 where that is refused. Hundredths, rounded towards 0, so that nothing of them is cut.

        >>> Onset((0.5, 0.1), (0.0, 0.0), 0.02).lowest()[12]
        (-0.5, 0.0)
        """
        ends = {code: [0.0, 0.0] for code in LOWERABLE}
        for code, side in product(LOWERABLE, range(len(SIDES))):
            alone = np.zeros((len(AU_INDEX), len(SIDES)), np.float32)
            alone[AU_INDEX[code], [0, 1] if code in MIDLINE else [side]] = -1
            left = float(self.answer(AUVector(alone)).aus.intensity[AU_INDEX[code], side])
            ends[code][side] = math.ceil(100 * left - 1e-4) / 100 + 0.0
        return {code: (left, right) for code, (left, right) in ends.items()}

    def _smile(self, drawn: np.ndarray, notes: list[str], refused: list[str]) -> None:
        row = drawn[AU_INDEX[12]]
        for side, state in enumerate(self.smile):
            value = float(row[side])
            if value < 0 and state < SMILE_DOUBT:
                refused.append(
                    f"AU 12 cannot be lowered: the {_WORDS[side]} corner of this mouth shows no smile (read as "
                    f"{state:.2f}, from {SMILE_DOUBT} on it is one); leave it out, or take an onset that smiles"
                )
                row[side] = 0
            elif value < 0:
                row[side] = _cut(12, value, -state, notes)

    def _lids(self, drawn: np.ndarray, notes: list[str], refused: list[str]) -> None:
        for code in (5, 43, 45):
            row = drawn[AU_INDEX[code]]
            for side, state in enumerate(self.closure):
                value, eye = float(row[side]), f"the {_WORDS[side]} eye"
                opens = (code == 5) == (value > 0)
                if value == 0:
                    continue
                if state > _SHUT_EYE and not opens:
                    refused.append(
                        f"AU {code} ({AU_NAMES[code]}) cannot be shown: {eye} is closed already; leave it out, or take "
                        "an onset with open eyes"
                    )
                elif state > _SHUT_EYE:
                    refused.append(
                        f"AU {code} cannot open {eye}: it is closed, and what lies behind is not in the picture; leave "
                        "it out, or take an onset with open eyes"
                    )
                elif value < 0 and state < _OPEN_EYE:
                    refused.append(
                        f"AU {code} cannot be lowered: {eye} is open (its lids hide {state:.2f} of it, from "
                        f"{_OPEN_EYE} on they count as down); leave it out, or take an onset with lids half closed"
                    )
                elif value < 0:
                    row[side] = _cut(code, value, -state, notes)
                    continue
                else:
                    if not opens and state > 0.4:
                        notes.append(f"AU {code} closes what is left: {eye} is closed by {state:.2f} already")
                    continue
                row[side] = 0

    def _lips(self, drawn: np.ndarray, notes: list[str], refused: list[str]) -> None:
        lowered = [code for code in PARTED if (drawn[AU_INDEX[code]] < 0).any()]
        if not lowered:
            return
        if self.gap < SHUT:
            refused.append(
                f"AU {lowered[0]} cannot be lowered: the lips of this onset are closed (gap {self.gap:.3f} of the eye "
                f"distance, open from {SHUT} on); leave it out, or take an onset with an open mouth"
            )
            for code in lowered:
                drawn[AU_INDEX[code]] = 0
            return
        total = sum(-float(drawn[AU_INDEX[code]].mean()) * PARTED[code] for code in lowered)
        share = min((self.gap - REST) / total, 1.0)
        for code in lowered:
            row = drawn[AU_INDEX[code]]
            row[:] = [_cut(code, float(v), share * float(v), notes) for v in row]


_WORDS = ("left", "right")
_ROWS = [AU_INDEX[code] for code in (*LOWERABLE, 5)]
assert len(_WORDS) == len(SIDES)


def _share(value: float) -> float:
    return float(np.clip(value, 0, 1))


def _cut(code: int, value: float, most: float, notes: list[str]) -> float:
    """``value`` or, if it goes beyond, ``most``, which is then said."""
    if abs(value) <= abs(most) + 1e-6:
        return value
    notes.append(f"AU {code} is lowered by {-most:.2g} instead of {-value:.2g}: the onset shows no more of it")
    return most
