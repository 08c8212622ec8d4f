"""Whether a generator reads the face: its flows against mean motions that look at no face, or at its landmarks alone.

Each AU at the middle level on both sides, pixels of the face. What a person's muscles do beyond the mean of the others
is what a generator has to see; one that has learned one head's action units by heart is as near as that head's mean,
carried to no face at all, and its own mean over other faces serves as well as its answer to this one.

Flows of ``People`` are [P,A,2,S,S] float32 pixels, masks [P,A,S,S] bool; what was refused is NaN in every measure, and
counts for its opponents neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from mesynth.benchmark import resampling
from mesynth.benchmark.figures import REPEATED, Figure, figure
from mesynth.benchmark.people import MeanFlows, Person
from mesynth.benchmark.requests import Request
from mesynth.core.facs import AU_INDEX, SIDES
from mesynth.motion.prior import MEAN, MotionPrior
from mesynth.training.data.rendered import TRAIN_SEEDS

HOME_PEOPLE = 8
"""Rendered people whose mean exact flow is the packaged head's mean; none of them is compared on."""
NONE, OTHERS, HOME, CARRIED = "no motion", "others' mean, same head", "packaged head's mean", MEAN
OPPONENTS = (NONE, OTHERS, HOME, CARRIED)
"""Means that look at no face: nothing; the exact mean of the other people compared on, which no generator can know; the
mean exact flow of HOME_PEOPLE in the crop's frame. The last looks at the landmarks."""
_STEP = 1 / 512
"""Of stored flows, pixels."""
_SAME = {26: 27, 43: 45}
assert set(_SAME) == set(REPEATED)


def stored(uv: np.ndarray) -> np.ndarray:
    """Flow in pixels -> int16 in units of a 512th, beyond 63 px cut off; NaN becomes 0."""
    return np.asarray(np.clip(np.round(np.nan_to_num(uv) / _STEP), -32767, 32767), np.int16)


def flows_of(array: np.ndarray) -> np.ndarray:
    """What :func:`stored` made, in pixels, float32."""
    return array.astype(np.float32) * np.float32(_STEP)


def home_mean(likened: Sequence[Request], size: int) -> np.ndarray:
    """[A,2,S,S] float32: mean exact flow of HOME_PEOPLE of the packaged head, frontal, in the crop's frame."""
    people = (Person(seed, size) for seed in TRAIN_SEEDS[:HOME_PEOPLE])
    means = MeanFlows.of(people, tuple(likened), size)
    return np.asarray(means.total / means.people, np.float32)


def carried_mean(person: Person, likened: Sequence[Request]) -> np.ndarray:
    """[A,2,S,S] float32: what ``landmark-mean`` says of each request, also beyond the intensities that it shows."""
    prior = MotionPrior(person.face, MEAN)
    sides = range(len(SIDES))
    moved = [prior.fields([(AU_INDEX[r.code], side) for side in sides]).sum(0) * np.float32(r.level) for r in likened]
    return np.stack([person.inner_flow(uv.transpose(2, 0, 1)) for uv in moved])


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
    personal: np.ndarray
    """cosine between how this person's truth and how the model's answer deviate from their means over the others; 0
    where the model's does not"""
    named: np.ndarray
    """1 where the nearest (by cosine) of the true means of the other people is that of the requested AU, else 0"""


def likeness(
    answers: np.ndarray, known: np.ndarray, exact: np.ndarray, inside: np.ndarray, codes: Sequence[int]
) -> Likeness:
    """Measures of one model's flows [P,A,2,S,S], where ``known`` [P,A], against the exact ones inside [P,A,S,S].

    The mean over other people leaves out those whose request was refused. AUs 26 and 43 at other intensities are 27
    and 45: either counts as named.
    """
    people, count = known.shape
    out = {f.name: np.full((people, count), np.nan) for f in fields(Likeness)}
    truth_total = exact.sum(0, dtype=np.float64)
    for a in range(count):
        own, true = answers[:, a].astype(np.float64), exact[:, a].astype(np.float64)
        own[~known[:, a]] = 0.0
        total, number = own.sum(0), int(known[:, a].sum())
        masks = inside[:, a]
        mean = np.stack([(total - own[p]) / max(number - known[p, a], 1) for p in range(people)])
        fits = _sums(own, true, masks), _sums(mean, true, masks)
        for p in np.flatnonzero(known[:, a] & masks.any((1, 2))):
            mask = masks[p]
            answer, target = own[p][:, mask], true[p][:, mask]
            out["epe"][p, a] = _error(answer, target)
            out["cosine"][p, a] = _cosine(answer, target)
            if number < 2:
                continue
            others = [q for q in range(people) if q != p and known[q, a]]
            out["epe_gain"][p, a] = _error(_gain(fits[0], others) * answer, target)
            blind = mean[p][:, mask]
            out["blind"][p, a] = _error(blind, target)
            out["blind_gain"][p, a] = _error(_gain(fits[1], others) * blind, target)
            typical = (truth_total[a] - true[p])[:, mask] / (people - 1)
            out["personal"][p, a] = _cosine(answer - blind, target - typical)
    for p in range(people):
        templates = (truth_total - exact[p]) / (people - 1)
        for a in np.flatnonzero(known[p] & inside[p].any((1, 2))):
            answer = answers[p, a][:, inside[p, a]].astype(np.float64)
            near = [_cosine(answer, t[:, inside[p, a]]) for t in templates]
            found, wanted = (_SAME.get(code, code) for code in (codes[int(np.argmax(near))], codes[a]))
            out["named"][p, a] = float(found == wanted and max(near) > 0)
    return Likeness(**out)


def _error(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.hypot(*(a - b)).mean())


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    """0 where one of them does not move: less than a stored step on average."""
    sizes = [float(np.sqrt((v * v).sum())) for v in (a, b)]
    if min(sizes) < _STEP * np.sqrt(a.shape[-1]):
        return 0.0
    return float((a * b).sum() / (sizes[0] * sizes[1]))


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
    why = "every request was refused"
    px = [
        ("end-point error", "epe", own.epe),
        ("  with the best gain", "epe_gain", own.epe_gain),
        ("  its mean over other faces", "face_blind", own.blind),
        ("  that with the best gain", "face_blind_gain", own.blind_gain),
    ]
    out = [figure(name, resampling.mean(weights, values), "px", why, key) for name, key, values in px]
    for name, key in ((NONE, "epe_none"), (OTHERS, "epe_others"), (HOME, "epe_home"), (CARRIED, "epe_carried")):
        if name in against:
            values = np.where(np.isnan(own.epe), np.nan, against[name].epe)
            out.append(figure(f"  of {name}", resampling.mean(weights, values), "px", why, key))
    better = 100 * (1 - resampling.ratio(weights, own.epe_gain, own.blind_gain))
    out.append(figure("own face against its mean over others", better, "%", why, "own_face"))
    rows = (("cosine", own.cosine), ("personal", own.personal), ("named by the nearest template", own.named))
    out += [figure(name, resampling.mean(weights, v), "", why, name.split()[0]) for name, v in rows]
    out += [_wins(key, name, own, against[name]) for key, name in WINS.items() if name in against]
    return tuple(out)


def _wins(key: str, name: str, own: Likeness, other: Likeness) -> Figure:
    known = ~np.isnan(own.epe)
    counted = known.any(1)
    title = f"people nearer than {name}"
    if not counted.any():
        return Figure(name=title, key=key, value=None, note="every request was refused")
    errors = [np.where(known, e, 0).sum(1)[counted] for e in (own.epe, other.epe)]
    return Figure(name=title, key=key, value=float((errors[0] < errors[1]).sum()), unit=f"of {counted.sum()}")


def people_figures(own: Likeness, against: dict[str, Likeness]) -> list[tuple[Figure, ...]]:
    """Of each person: the means over the answered AUs."""
    out = []
    for p in range(len(own.epe)):
        known = ~np.isnan(own.epe[p])
        rows = [("end-point error", "epe", "px", own.epe), ("with the best gain", "epe_gain", "px", own.epe_gain),
                ("its mean over other faces", "face_blind", "px", own.blind)]  # fmt: skip
        rows += [(f"of {name}", key, "px", against[name].epe)
                 for name, key in ((NONE, "epe_none"), (OTHERS, "epe_others"), (HOME, "epe_home"),
                                   (CARRIED, "epe_carried")) if name in against]  # fmt: skip
        rows += [("cosine", "cosine", "", own.cosine), ("personal", "personal", "", own.personal),
                 ("named by the nearest template", "named", "", own.named)]  # fmt: skip
        out.append(tuple(_plain(name, key, unit, values[p][known]) for name, key, unit, values in rows))
    return out


def au_figures(own: Likeness, against: dict[str, Likeness], weights: np.ndarray) -> list[tuple[Figure, ...]]:
    """Of each AU, with intervals over people."""
    out = []
    why = "every request was refused"
    for a in range(own.epe.shape[1]):
        rows = [("likened EPE", "likened_epe", "px", own.epe)]
        rows += [(f"  of {name}", f"likened_{key}", "px", np.where(np.isnan(own.epe), np.nan, against[name].epe))
                 for name, key in ((HOME, "epe_home"), (CARRIED, "epe_carried")) if name in against]  # fmt: skip
        rows += [("cosine", "cosine", "", own.cosine), ("personal", "personal", "", own.personal),
                 ("named by the nearest template", "named", "", own.named)]  # fmt: skip
        out.append(tuple(
            figure(name, resampling.mean(weights, values[:, a : a + 1]), unit, why, key)
            for name, key, unit, values in rows
        ))  # fmt: skip
    return out


def _plain(name: str, key: str, unit: str, values: np.ndarray) -> Figure:
    finite = values[np.isfinite(values)]
    if not len(finite):
        return Figure(name=name, key=key, value=None, unit=unit, note="every request was refused")
    return Figure(name=name, key=key, value=float(finite.mean()), unit=unit)
