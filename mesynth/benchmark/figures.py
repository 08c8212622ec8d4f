"""Figures of one generator from its answers to everyone: flow, control, pictures, identity, diversity; and likeness.

Each has a key by which programs find it; its name is for readers (two spaces before it: read it beside the one above).

Likeness tells whether a generator reads the face: its flows against mean motions that look at no face, or at its
landmarks alone. Each AU at the middle level on both sides, pixels of the face. What a person's muscles do beyond the
mean of the others is what a generator has to see; one that has learned one head's action units by heart is as near as
that head's mean, carried to no face at all, and its own mean over other faces serves as well as its answer to this one.
There flows of P people and A AUs are [P,A,2,S,S] float32 pixels, masks [P,A,S,S] bool. What was refused is NaN in every
measure, and its opponents' errors do not count there either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from mesynth.benchmark import resampling
from mesynth.benchmark.answers import FLOW_KID, Answers, Instruments, References
from mesynth.benchmark.protocol import STEP, Request
from mesynth.core.facs import AU_CODES, AU_INDEX, MIDLINE
from mesynth.metrics.base import slug
from mesynth.metrics.networks.judge import visible_aus
from mesynth.motion.prior import MEAN

SLOPES = (0.8, 1.2)
"""A slope of measured on target intensity within these counts as controlled."""
COUNTED = f"AUs with slope {SLOPES[0]:g}-{SLOPES[1]:g}"
_SIDES = ("side slope", "right side")
_COUNT_KEYS = {3: "aus_in_range_trusted", 4: "aus_in_range"}
REPEATED = (26, 43)
"""What they show is what 27 and 45 show: counted once, as mesynth.metrics.control does."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A measured number with its 95 % bootstrap interval over people; None with the reason in ``note``."""

    name: str
    key: str = ""
    """Made of the name where that is always the same."""
    value: float | None
    low: float | None = None
    high: float | None = None
    unit: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        if not self.key:
            object.__setattr__(self, "key", slug(self.name))


def figure(
    name: str, statistic: np.ndarray, unit: str = "", absent: str = "nothing to measure", key: str = ""
) -> Figure:
    """From a statistic [B+1] of :mod:`mesynth.benchmark.resampling`."""
    found = resampling.interval(statistic)
    if found is None:
        return Figure(name=name, key=key, value=None, unit=unit, note=absent)
    return Figure(name=name, key=key, value=found.value, low=found.low, high=found.high, unit=unit)


@dataclass(frozen=True, eq=False)
class Answered:
    """Answers of one generator, references and the truth's answers, stacked over people [P,R,...].

    ``absent`` says why figures of frames are missing; ``trusted`` AUs are those the judge can read.
    """

    targets: tuple[Request, ...]
    own: Sequence[Answers]
    beside: Sequence[References]
    truth: Sequence[Answers]
    weights: np.ndarray
    trusted: tuple[int, ...]
    absent: str = ""

    def stack(self, name: str) -> np.ndarray:
        """[P,R,...] of the generator's own arrays."""
        return np.stack([getattr(a, name) for a in self.own])

    def referred(self, name: str) -> np.ndarray:
        """[P,R] of a reference, NaN where the generator has no answer: compared on the same requests."""
        accepted = self.stack("refused") == ""
        return np.where(accepted, np.stack([getattr(b, name) for b in self.beside]), np.nan)

    def rows(self, code: int | None = None, side: str = "") -> np.ndarray:
        """[R] bool: requests of one AU (all, without the one that asks for nothing), on "B" or one ("1") side."""
        return _rows(self.targets, code, side)


def _rows(targets: Sequence[Request], code: int | None, side: str) -> np.ndarray:
    return np.array(
        [
            i > 0
            and (code is None or r.code == code)
            and (not side or (r.side == "B") == (side == "B"))
            for i, r in enumerate(targets)
        ]
    )  # fmt: skip


def flow_figures(a: Answered) -> list[Figure]:
    """End-point errors, pixels, beside no motion and mean flows."""
    rows, w = a.rows(), a.weights
    epe = a.stack("epe")[:, rows]
    zero, mean, same = (a.referred(name)[:, rows] for name in ("zero", "mean", "same"))
    why = "every request was refused"
    return [
        figure("flow EPE", resampling.mean(w, epe), "px", why),
        figure("  of zero flow", resampling.mean(w, zero), "px", why),
        figure("  of mean flow", resampling.mean(w, mean), "px", why),
        figure("  of others' mean, same AUs", resampling.mean(w, same), "px", why),
        figure("relative EPE", resampling.ratio(w, epe, zero), "", why),
        figure("EPE / mean flow's", resampling.ratio(w, epe, mean), "", why),
    ]


def cells(a: Answered, code: int, side: str = "") -> tuple[np.ndarray, np.ndarray]:
    """:func:`points` of a generator's answers."""
    return points(a.targets, a.stack("measured"), code, side)


def points(
    requests: Sequence[Request], answers: np.ndarray, code: int, side: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """Target and measured intensities [P,N] of one AU over its requests and the one for nothing; sides are points of
    their own unless the AU crosses the midline. ``answers`` [P,R,K,2] are what the judge read."""
    rows = _rows(requests, code, side)
    rows[0] = True
    row = AU_INDEX[code]
    targets = visible_aus(np.stack([r.aus.intensity for r in requests]))[rows][:, row]
    measured = answers[:, rows][:, :, row]
    if code in MIDLINE:
        targets, measured = targets[:, :1], measured.mean(-1, keepdims=True)
    people = len(measured)
    return np.broadcast_to(targets.ravel(), (people, targets.size)), measured.reshape(people, -1)


def slopes(a: Answered, codes: Sequence[int]) -> np.ndarray:
    """[A,B+1]: slope of measured on target intensity of each AU."""
    return np.stack([resampling.slope(a.weights, resampling.moments(*cells(a, code))) for code in codes])


def in_range(found: np.ndarray) -> np.ndarray:
    """How many slopes [A,...] are within SLOPES."""
    return np.asarray(((found >= SLOPES[0]) & (found <= SLOPES[1])).sum(0))


def rank(a: Answered, code: int) -> np.ndarray:
    """[P]: Spearman of measured on target over the intensities of one AU on both sides."""
    rows = a.rows(code, "B")
    rows[0] = True
    levels = np.array([r.level for r, kept in zip(a.targets, rows, strict=True) if kept])
    measured = a.stack("measured")[:, rows, AU_INDEX[code]].mean(-1)
    return np.array([resampling.rank_correlation(levels, j) for j in measured])


def control_figures(a: Answered) -> list[Figure]:
    """What the judge reads against the targets; headline figures over the AUs it can be trusted with."""
    w, codes = a.weights, [r.code for r in a.targets[1:]]
    every = [c for c in AU_CODES if c in codes and c not in REPEATED]
    known = [c for c in every if c in a.trusted]
    why = a.absent or "the judge is trusted with none of these AUs, or every request was refused"
    names = (
        "AU MAE, targeted", "AU ICC(3,1), pooled", "AU slope, pooled",
        f"{COUNTED}, of {len(known)} trusted", f"{COUNTED}, of all {len(every)}",
        "Spearman over intensities", "leakage", *_SIDES,
    )  # fmt: skip
    if not known or a.absent:
        return [Figure(name=name, key=_COUNT_KEYS.get(i, ""), value=None, note=why) for i, name in enumerate(names)]
    targets = visible_aus(np.stack([r.aus.intensity for r in a.targets]))
    targets = np.broadcast_to(targets, (len(a.own), *targets.shape))
    measured = a.stack("measured").astype(np.float64)
    x, y = (np.concatenate([_column(v, c) for c in known], 1) for v in (targets, measured))
    wanted = np.where(x > 0, 1.0, np.nan)
    silent = np.where(x == 0, 1.0, np.nan)
    sums = resampling.moments(x, y)
    by_au = slopes(a, every)
    trusted = np.isin(every, known)
    ranks = np.stack([rank(a, c) for c in known], 1)
    out = [
        figure(names[0], resampling.mean(w, 5 * np.abs(x - y) * wanted), "of 5", why),
        figure(names[1], resampling.icc(w, sums), "", why),
        figure(names[2], resampling.slope(w, sums), "", why),
        _count(names[3], _COUNT_KEYS[3], by_au[trusted], why),
        _count(names[4], _COUNT_KEYS[4], by_au, why),
        figure(names[5], resampling.mean(w, ranks), "", why),
        figure(names[6], resampling.mean(w, 5 * y * silent), "of 5", why),
    ]
    return [*out, *_side_figures(a, known)]


def _column(values: np.ndarray, code: int) -> np.ndarray:
    """[P,R,K,2] -> [P,N]: one AU, its sides one after the other, or once for a midline AU."""
    own = values[:, :, AU_INDEX[code]]
    return np.asarray(own.mean(-1) if code in MIDLINE else own.reshape(len(own), -1))


def _count(name: str, key: str, found: np.ndarray, why: str) -> Figure:
    if not np.isfinite(found[:, 0]).any():
        return Figure(name=name, key=key, value=None, note=why)
    return figure(name, in_range(found).astype(np.float64), key=key)


def _side_figures(a: Answered, known: Sequence[int]) -> list[Figure]:
    """Left minus right: slope of measured on target (1 is right, -1 is swapped), and how often the side is right."""
    tops, bottoms, right = [], [], []
    for code in (c for c in known if c not in MIDLINE):
        rows = a.rows(code, "1")
        x = np.stack([r.aus.intensity for r in a.targets])[rows][:, AU_INDEX[code]]
        y = a.stack("measured")[:, rows][:, :, AU_INDEX[code]].astype(np.float64)
        dx, dy = x[:, 0] - x[:, 1], y[..., 0] - y[..., 1]
        tops.append(dx * dy)
        bottoms.append(np.broadcast_to(dx**2, dy.shape))
        right.append(np.where(np.isnan(dy), np.nan, (dx * dy > 0).astype(float)))
    if not tops:
        why = "no AU that has sides was asked for"
        return [Figure(name=name, value=None, note=why) for name in _SIDES]
    top, bottom, ok = (np.concatenate(v, 1) for v in (tops, bottoms, right))
    return [
        figure("side slope", resampling.ratio(a.weights, top, bottom)),
        figure("right side", resampling.mean(a.weights, ok), "share"),
    ]


def rest_figures(a: Answered) -> list[Figure]:
    """What happens at target 0 of every AU, and how far seeds differ."""
    absent = a.absent or "it was refused"
    apart = a.stack("spread")
    diversity = figure("diversity", resampling.mean(a.weights, apart), "px", "every request was refused")
    same = np.nanmax(apart, initial=-1) == 0
    if same:
        diversity = replace(diversity, note="deterministic, every seed gives the same flow")
    # Of one answer the range is a point, which the truth itself would not meet.
    inside = np.full_like(apart, np.nan) if same else a.stack("coverage")
    why = "every seed gives the same flow" if same else "every request was refused"
    return [
        figure("change at rest", resampling.mean(a.weights, a.stack("change")[:, :1]), "grey", absent),
        diversity,
        figure("coverage", resampling.mean(a.weights, inside), "share", why),
        figure("energy score", resampling.mean(a.weights, a.stack("energy")), "px", "every request was refused"),
    ]


def by_au(a: Answered) -> dict[int, list[Figure]]:
    """The figures of each AU on its own."""
    out: dict[int, list[Figure]] = {}
    for code in dict.fromkeys(r.code for r in a.targets[1:]):
        rows, w = a.rows(code), a.weights
        epe = a.stack("epe")[:, rows]
        zero, mean, same = (a.referred(name)[:, rows] for name in ("zero", "mean", "same"))
        x, y = cells(a, code)
        both = cells(a, code, "B")
        sums, why = resampling.moments(x, y), a.absent or "every request was refused"
        out[code] = [
            figure("flow EPE", resampling.mean(w, epe), "px", why),
            figure("  of zero flow", resampling.mean(w, zero), "px", why),
            figure("  of mean flow", resampling.mean(w, mean), "px", why),
            figure("  of others' mean, same AUs", resampling.mean(w, same), "px", why),
            figure("relative EPE", resampling.ratio(w, epe, zero), "", why),
            figure("AU MAE, targeted", resampling.mean(w, 5 * np.abs(x - y) * np.where(x > 0, 1, np.nan)), "of 5", why),
            figure("AU ICC(3,1)", resampling.icc(w, sums), "", why),
            figure("AU slope", resampling.slope(w, sums), "", why),
            figure("AU slope, both sides", resampling.slope(w, resampling.moments(*both)), "", why),
            figure("Spearman over intensities", resampling.mean(w, rank(a, code)[:, None]), "", why),
        ]
    return out


# ------------------------------------------------------------------- pictures


def picture_figures(a: Answered, instruments: Instruments) -> list[Figure]:
    """PSNR, perceptual distance, KID and Frechet distance of apex frames against the true apex of each request."""
    why, w = a.absent or "every request was refused", a.weights
    out = [
        figure("PSNR to the true apex", resampling.mean(w, a.stack("psnr")), "dB", why),
        figure("  PSNR of the onset", resampling.mean(w, _like(a, a.referred("psnr"))), "dB", why),
    ]
    if instruments.perceptual is None or instruments.features is None:
        return [*out, Figure(name="LPIPS, KID, FID", value=None, note="no weights; see the notes")]
    name = instruments.perceptual.name
    out += [
        figure(f"{name} to the true apex", resampling.mean(w, a.stack("perceptual")), "", why, "perceptual"),
        figure(
            f"  {name} of the onset",
            resampling.mean(w, _like(a, a.referred("perceptual"))),
            "",
            why,
            "perceptual_of_onset",
        ),
    ]
    suffix = instruments.features.suffix
    distances = {"kid": f"KID{suffix}", "fid": "FID" if not suffix else f"FD{suffix}"}
    own, truth, still = _features(a)
    if sum(map(len, own)) < 2:
        return [*out, *(Figure(name=n, key=k, value=None, note=why) for k, n in distances.items())]
    estimators = (resampling.paired_kid, resampling.paired_frechet)
    for found, (key, distance) in zip(estimators, distances.items(), strict=True):
        out += [
            figure(distance, found(w, own, truth), "", why, key),
            figure(f"  {distance} of the onset", found(w, still, truth), key=f"{key}_of_onset"),
        ]
    return out


def _like(a: Answered, reference: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(a.stack("psnr")), np.nan, reference)


def _features(a: Answered) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """The generator's apexes, the true ones and the onsets, per person, on the requests it answered."""
    sets: tuple[list[np.ndarray], ...] = ([], [], [])
    for own, truth, beside in zip(a.own, a.truth, a.beside, strict=True):
        kept = ~np.isnan(own.features).any(1) & ~np.isnan(truth.features).any(1)
        for target, features in zip(sets, (own.features, truth.features, beside.features), strict=True):
            target.append(features[kept])
    return sets[0], sets[1], sets[2]


def identity_figures(a: Answered, instruments: Instruments) -> list[Figure]:
    """Embedding distance onset -> apex, minus the truth's on the same requests, and between different people."""
    if instruments.embedder is None:
        return [Figure(name="identity distance", value=None, note="no weights; see the notes")]
    why, w = a.absent or "every request was refused", a.weights
    own, true = a.stack("identity"), np.stack([t.identity for t in a.truth])
    onsets = np.stack([b.embedding for b in a.beside])
    apart = np.linalg.norm(onsets[:, None] - onsets[None], axis=-1)
    return [
        figure("identity distance", resampling.mean(w, own), "", why),
        figure("  more than the truth", resampling.mean(w, own - true), "", why),
        figure("  between people", resampling.between(w, apart)),
    ]


def flow_image_figures(a: Answered) -> list[Figure]:
    """KID of the flow images of all answers to imaged requests against the exact ones; beside it, that of no motion.

    Pairs of different people alone count (:func:`mesynth.benchmark.resampling.paired_kid`): the truth has 0.
    """
    own, truth, still = [], [], []
    for answers, exact in zip(a.own, a.truth, strict=True):
        kept = ~np.isnan(answers.flow_images).any(1)
        own.append(answers.flow_images[kept])
        truth.append(exact.flow_images[kept])
        still.append(np.zeros_like(truth[-1]))
    names = (FLOW_KID, f"  {FLOW_KID} of no motion")
    if sum(map(len, own)) < 2:
        return [Figure(name=name, value=None, note="every request was refused") for name in names]
    return [
        figure(name, resampling.paired_kid(a.weights, images, truth))
        for name, images in zip(names, (own, still), strict=True)
    ]


# ---------------------------------------------------------------- likeness: whether a generator reads the face


NONE, OTHERS, HOME, CARRIED = "no motion", "others' mean", "packaged head's mean", f"{MEAN} field"
OPPONENTS = (NONE, OTHERS, HOME, CARRIED)
"""Means that look at no face: nothing; the exact mean of the other people compared on, which no generator can know;
the packaged head's mean in the crop's frame (:func:`mesynth.benchmark.protocol.home_mean`). The last looks at the
landmarks."""
_KEYS = {NONE: "epe_none", OTHERS: "epe_others", HOME: "epe_home", CARRIED: "epe_carried"}
_SAME = {26: 27, 43: 45}
assert set(_SAME) == set(REPEATED)
_REFUSED = "every request was refused"


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
