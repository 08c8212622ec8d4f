"""Whether a generator reads the face: its flows against mean motions that look at no face, or at its landmarks alone.

Each AU at the middle level on both sides, pixels of the face. What a person's muscles do beyond the mean of the others
is what a generator has to see; one that has learned one head's action units by heart is as near as that head's mean,
carried to no face at all, and its own mean over other faces serves as well as its answer to this one.

Flows of P people and A AUs are [P,A,2,S,S] float32 pixels, masks [P,A,S,S] bool. What was refused is NaN in every
measure, and its opponents' errors do not count there either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from mesynth.benchmark import resampling
from mesynth.benchmark.figures import REPEATED, Figure, figure
from mesynth.benchmark.people import STEP
from mesynth.motion.prior import MEAN

NONE, OTHERS, HOME, CARRIED = "no motion", "others' mean", "packaged head's mean", f"{MEAN} field"
OPPONENTS = (NONE, OTHERS, HOME, CARRIED)
"""Means that look at no face: nothing; the exact mean of the other people compared on, which no generator can know; the
packaged head's mean in the crop's frame (:func:`mesynth.benchmark.people.home_mean`). The last looks at the landmarks.
"""
_KEYS = {NONE: "epe_none", OTHERS: "epe_others", HOME: "epe_home", CARRIED: "epe_carried"}
_SAME = {26: 27, 43: 45}
assert set(_SAME) == set(REPEATED)
_REFUSED = "every request was refused"


# ------------------------------------------------------------------- measures of one field against another


@dataclass(frozen=True, eq=False)
class Likeness:
    """Measures [P,A], NaN where nothing was answered."""

    epe: np.ndarray
    """pixels"""
    epe_gain: np.ndarray
    """pixels, after the gain of the AU that is best for the other people"""
    blind: np.ndarray
    """pixels: of the mean of the same model's answers for the other people, in the crop's frame"""
    blind_gain: np.ndarray
    """pixels: the same after its best gain for the other people"""
    cosine: np.ndarray
    deviation: np.ndarray
    """[P,A,3] sums over the pixels of d e, d d and e e: how this person's truth (d) and the model's answer (e) deviate
    from their own means over the other people"""
    named: np.ndarray
    """1 where the nearest (by cosine) of the true means of the other people is that of the requested AU, else 0"""

    def errors_alone(self) -> Likeness:
        """Without what says nothing about the exact mean of the others, which differs from person to person only by
        who is left out."""
        blank = np.full_like(self.epe, np.nan)
        return replace(self, blind=blank, blind_gain=blank, deviation=np.full_like(self.deviation, np.nan))

    @property
    def personal(self) -> np.ndarray:
        """[P]: cosine between the two deviations, all answered AUs together; 0 for a model that gives everybody the
        same."""
        return _deviation_cosine(np.nansum(self.deviation, 1), np.isnan(self.deviation[..., 0]).all(1))

    @property
    def personal_by_au(self) -> np.ndarray:
        """[P,A]: the same of each AU."""
        return _deviation_cosine(self.deviation, np.isnan(self.deviation[..., 0]))


def likeness(
    answers: np.ndarray, known: np.ndarray, exact: np.ndarray, inside: np.ndarray, codes: Sequence[int]
) -> Likeness:
    """Measures of one model's flows [P,A,2,S,S], where ``known`` [P,A], against the exact ones inside [P,A,S,S].

    The mean over other people leaves out those whose request was refused. AUs 26 and 43 are 27 and 45 at other
    intensities: either counts as named.
    """
    people, count = known.shape
    out = {f.name: np.full((people, count), np.nan) for f in fields(Likeness)}
    out["deviation"] = np.full((people, count, 3), np.nan)
    truth_total = exact.sum(0, dtype=np.float64)
    for a in range(count):
        own, true = answers[:, a].astype(np.float64), exact[:, a].astype(np.float64)
        own[~known[:, a]] = 0.0
        total, number = own.sum(0), int(known[:, a].sum())
        masks = inside[:, a]
        mean = np.stack([(total - own[p]) / max(number - known[p, a], 1) for p in range(people)])
        sums = _sums(own, true, masks), _sums(mean, true, masks)
        for p in np.flatnonzero(known[:, a] & masks.any((1, 2))).tolist():
            mask = masks[p]
            answer, target = own[p][:, mask], true[p][:, mask]
            out["epe"][p, a] = _error(answer, target)
            out["cosine"][p, a] = _cosine(answer, target)
            if number < 2:
                continue
            others = [q for q in range(people) if q != p and known[q, a]]
            out["epe_gain"][p, a] = _error(_gain(sums[0], others) * answer, target)
            blind = mean[p][:, mask]
            out["blind"][p, a] = _error(blind, target)
            out["blind_gain"][p, a] = _error(_gain(sums[1], others) * blind, target)
            typical = (truth_total[a] - true[p])[:, mask] / (people - 1)
            out["deviation"][p, a] = _deviation(target - typical, answer - blind)
    for p in range(people):
        templates = (truth_total - exact[p]) / (people - 1)
        for a in np.flatnonzero(known[p] & inside[p].any((1, 2))).tolist():
            answer = answers[p, a][:, inside[p, a]].astype(np.float64)
            near = [_cosine(answer, t[:, inside[p, a]]) for t in templates]
            found, wanted = (_SAME.get(code, code) for code in (codes[int(np.argmax(near))], codes[a]))
            out["named"][p, a] = float(found == wanted and max(near) > 0)
    return Likeness(**out)


def _error(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.hypot(*(a - b)).mean())


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    """0 where one of them does not move: less than the rounding of stored flows on average."""
    sizes = [float(np.sqrt((v * v).sum())) for v in (a, b)]
    if min(sizes) < STEP * np.sqrt(a.shape[-1]):
        return 0.0
    return float((a * b).sum() / (sizes[0] * sizes[1]))


def _deviation(true: np.ndarray, own: np.ndarray) -> tuple[float, float, float]:
    """The three sums; what is no more than the rounding of stored flows is no deviation of a model."""
    moves = float((own**2).sum()) > STEP**2 * own.shape[-1]
    return (
        float((true * own).sum()) if moves else 0.0,
        float((true**2).sum()),
        float((own**2).sum()) if moves else 0.0,
    )


def _deviation_cosine(sums: np.ndarray, absent: np.ndarray) -> np.ndarray:
    size = np.sqrt(np.nan_to_num(sums[..., 1] * sums[..., 2]))
    found = np.divide(sums[..., 0], size, out=np.zeros(size.shape), where=size > 0)
    return np.asarray(np.where(absent, np.nan, found))


def _sums(own: np.ndarray, true: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """[P,2]: sums of answer * truth and answer^2 over a person's mask."""
    return np.stack([((own * v).sum(1) * masks).sum((1, 2)) for v in (true, own)], 1)


def _gain(sums: np.ndarray, others: list[int]) -> float:
    """Least-squares factor on the answers for the others; 1 where they do not move, never below 0."""
    top, bottom = sums[others].sum(0)
    return float(max(top / bottom, 0.0)) if bottom > 0 else 1.0


# ------------------------------------------------------------------- figures


WINS = {"nearer_than_home": HOME, "nearer_than_carried": CARRIED}


def likeness_figures(own: Likeness, against: dict[str, Likeness], weights: np.ndarray) -> tuple[Figure, ...]:
    """Figures of one model with 95 % intervals over people; ``against``: the opponents by name."""
    out = [
        figure(name, resampling.mean(weights, values), "px", _REFUSED, key)
        for name, key, values in (
            ("end-point error", "epe", own.epe),
            ("  with the best gain", "epe_gain", own.epe_gain),
            ("  its mean over other faces", "face_blind", own.blind),
            ("  that with the best gain", "face_blind_gain", own.blind_gain),
        )
    ]
    out += [figure(f"  of {name}", resampling.mean(weights, values), "px", _REFUSED, _KEYS[name])
            for name, values in _errors(own, against)]  # fmt: skip
    better = 100 * (1 - resampling.ratio(weights, own.epe_gain, own.blind_gain))
    out.append(figure("own face against its mean over others", better, "%", _REFUSED, "own_face"))
    rows = (("cosine", own.cosine), ("personal", own.personal[:, None]), ("named by the nearest template", own.named))
    out += [figure(name, resampling.mean(weights, v), "", _REFUSED, name.split()[0]) for name, v in rows]
    out += [_wins(key, name, own, against[name]) for key, name in WINS.items()]
    return tuple(out)


def people_figures(own: Likeness, against: dict[str, Likeness]) -> list[tuple[Figure, ...]]:
    """Of each person: means over the answered AUs."""
    rows = [("end-point error", "epe", "px", own.epe), ("with the best gain", "epe_gain", "px", own.epe_gain),
            ("its mean over other faces", "face_blind", "px", own.blind)]  # fmt: skip
    rows += [(f"of {name}", _KEYS[name], "px", values) for name, values in _errors(own, against)]
    rows += [("cosine", "cosine", "", own.cosine), ("personal", "personal", "", own.personal[:, None]),
             ("named by the nearest template", "named", "", own.named)]  # fmt: skip
    return [tuple(_plain(*row[:3], row[3][p]) for row in rows) for p in range(len(own.epe))]


def au_figures(own: Likeness, against: dict[str, Likeness], weights: np.ndarray) -> list[tuple[Figure, ...]]:
    """Of each AU, with intervals over people."""
    rows = [("end-point error", "epe", "px", own.epe)]
    rows += [(f"  of {name}", _KEYS[name], "px", values) for name, values in _errors(own, against)]
    rows += [("cosine", "cosine", "", own.cosine), ("personal", "personal", "", own.personal_by_au),
             ("named by the nearest template", "named", "", own.named)]  # fmt: skip
    return [
        tuple(
            figure(name, resampling.mean(weights, v[:, a : a + 1]), unit, _REFUSED, key) for name, key, unit, v in rows
        )
        for a in range(own.epe.shape[1])
    ]


def _errors(own: Likeness, against: dict[str, Likeness]) -> list[tuple[str, np.ndarray]]:
    """The opponents' end-point errors where the model answered."""
    return [(name, np.where(np.isnan(own.epe), np.nan, other.epe)) for name, other in against.items()]


def _wins(key: str, name: str, own: Likeness, other: Likeness) -> Figure:
    known = ~np.isnan(own.epe)
    counted = known.any(1)
    title = f"people nearer than {name}"
    if not counted.any():
        return Figure(name=title, key=key, value=None, note=_REFUSED)
    errors = [np.where(known, e, 0).sum(1)[counted] for e in (own.epe, other.epe)]
    return Figure(name=title, key=key, value=float((errors[0] < errors[1]).sum()), unit=f"of {counted.sum()}")


def _plain(name: str, key: str, unit: str, values: np.ndarray) -> Figure:
    finite = values[np.isfinite(values)]
    if not len(finite):
        return Figure(name=name, key=key, value=None, unit=unit, note="nothing to measure")
    return Figure(name=name, key=key, value=float(finite.mean()), unit=unit)
