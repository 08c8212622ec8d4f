"""Spotting as a task: intervals found in long videos against those annotated, counted as the challenges count.

An interval found is a true positive where it overlaps an annotated one with an IoU of at least .5, frames counted with
both ends; every annotated interval is found once, every interval found finds one. Counts are summed over videos before
precision, recall and F1 are taken, and micro- and macro-expressions are matched apart, then added (MEGC 2019: Li et
al., FG 2019; MEGC 2020: Li et al., FG 2020; MEGC 2022 took the same F1). The spot-then-recognize score (STRS: Liong,
See and Chan, Signal Processing: Image Communication 110, 2023; taken over by later challenges) is the F1 of spotting
times the F1 of recognition on what was spotted: the harmonic mean of precision and recall, each a mean over classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mesynth.core.errors import MesynthError
from mesynth.core.seeds import stream
from mesynth.core.statistics import Interval, resample
from mesynth.store.long_videos import Key, LongVideo, Marked
from mesynth.store.manifest import EXPRESSIONS

IOU = 0.5
"""Least intersection over union of a true positive."""
ALL = "all"
OTHERS = ("", "other", "others")
"""Words that are no class: a spotted interval of them counts in spotting alone."""

Frames = tuple[int, int]
"""First and last frame, both inside."""


def iou(a: Frames, b: Frames) -> float:
    """Intersection over union of two intervals in frames, both ends inside.

    >>> iou((10, 19), (15, 24)), iou((10, 19), (20, 29)), iou((10, 19), (19, 28))
    (0.3333333333333333, 0.0, 0.05263157894736842)
    """
    both = min(a[1], b[1]) - max(a[0], b[0]) + 1
    if both <= 0:
        return 0.0
    return both / ((a[1] - a[0] + 1) + (b[1] - b[0] + 1) - both)


def matched(found: Sequence[Frames], truth: Sequence[Frames], least: float = IOU) -> list[tuple[int, int]]:
    """Pairs (number in ``found``, number in ``truth``) of true positives, in the order of ``found``.

    As many pairs as can be, each interval in one at most; of several ways that of the largest IoUs. No order of the
    intervals changes the count. (Published scripts take the first that fits, which is the same count unless intervals
    of one list overlap, or one found is exactly twice an annotated one.)

    >>> matched([(0, 9), (1, 10), (40, 49)], [(0, 9), (60, 69)])
    [(0, 0)]

    Raises:
        MesynthError: ``least`` outside (0, 1], an interval that ends before it begins.
    """
    if not 0 < least <= 1:
        raise MesynthError(f"iou={least:g} is outside (0, 1]; the challenges take .5")
    for first, last in (*found, *truth):
        if last < first:
            raise MesynthError(f"interval {first} to {last} ends before it begins; give its first and last frame")
    if not found or not truth:
        return []
    from scipy.optimize import linear_sum_assignment

    overlap = np.array([[iou(a, b) for b in truth] for a in found])
    # A pair counts more than any sum of IoUs, so that the number of pairs is the largest.
    worth = np.where(overlap >= least - 1e-12, min(overlap.shape) + 1 + overlap, 0.0)
    rows, columns = linear_sum_assignment(worth, maximize=True)
    return [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if worth[i, j] > 0]


class Counts(NamedTuple):
    """Of one video or of many. Sums of counts are counts."""

    tp: int
    found: int
    truth: int

    def figures(self) -> dict[str, float]:
        """Precision, recall and F1; 0 where there is nothing to divide by, as published scripts have it.

        >>> {name: round(value, 3) for name, value in Counts(2, 4, 3).figures().items()}
        {'precision': 0.5, 'recall': 0.667, 'f1': 0.571}
        """
        precision = self.tp / self.found if self.found else 0.0
        recall = self.tp / self.truth if self.truth else 0.0
        both = self.found + self.truth
        return {"precision": precision, "recall": recall, "f1": 2 * self.tp / both if both else 0.0}

    def to_dict(self) -> dict[str, float]:
        """Counts and figures."""
        return {"tp": self.tp, "fp": self.found - self.tp, "fn": self.truth - self.tp} | self.figures()


def added(counts: Iterable[Counts]) -> Counts:
    """The sum."""
    table = np.array([tuple(one) for one in counts], int).reshape(-1, 3)
    return Counts(*map(int, table.sum(0)))


@dataclass(frozen=True, kw_only=True)
class VideoScore:
    """One video: counts by kind (micro, macro), and the intervals that were paired."""

    video: LongVideo
    counts: dict[str, Counts]
    pairs: tuple[tuple[Marked, Marked], ...]
    """(found, annotated)"""

    @property
    def all(self) -> Counts:
        """Micro and macro together."""
        return added(self.counts.values())


@dataclass(frozen=True, kw_only=True)
class SpottingScore:
    """Counts of every video, figures of all of them."""

    videos: tuple[VideoScore, ...]
    kinds: tuple[str, ...]
    iou: float

    def counts(self, kind: str = ALL) -> Counts:
        """Summed over videos: of one kind, or of all of them together."""
        names = self.kinds if kind == ALL else (kind,)
        return added(video.counts[name] for video in self.videos for name in names)

    @property
    def groups(self) -> tuple[str, ...]:
        """What figures are given of: each kind, and all together where there are several."""
        return (*self.kinds, ALL) if len(self.kinds) > 1 else self.kinds

    def f1_interval(self, kind: str = ALL, draws: int = 2000, seed: int = 0) -> Interval | None:
        """F1 with its 95 % interval, people drawn anew (2000 times); None with a single person."""
        names = self.kinds if kind == ALL else (kind,)
        people: dict[str, Counts] = {}
        for video in self.videos:
            mine = [people.get(video.video.person, Counts(0, 0, 0)), *(video.counts[name] for name in names)]
            people[video.video.person] = added(mine)
        if len(people) < 2:
            return None
        table = np.array([tuple(people[name]) for name in sorted(people)], float)
        drawn = resample(stream(seed, "spotting"), len(table), draws) @ table
        below = drawn[:, 1] + drawn[:, 2]
        f1 = np.where(below > 0, 2 * drawn[:, 0] / np.maximum(below, 1), 0.0)
        low, high = np.percentile(f1, [2.5, 97.5])
        value = self.counts(kind).figures()["f1"]
        return Interval(value=value, sd=float(f1.std()), low=float(low), high=float(high))

    @property
    def pairs(self) -> list[tuple[Marked, Marked]]:
        """(found, annotated) of all videos."""
        return [pair for video in self.videos for pair in video.pairs]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        out: dict[str, Any] = {"iou": self.iou, "videos": len(self.videos)}
        for group in self.groups:
            interval = self.f1_interval(group)
            out[group] = self.counts(group).to_dict() | (
                {"f1_low": interval.low, "f1_high": interval.high} if interval else {}
            )
        recognition = recognized(self.pairs)
        if recognition is not None:
            spotted = self.counts(ALL).figures()["f1"]
            out["recognition"] = recognition | {"strs": strs(spotted, recognition["f1"])}
        return out


def score(
    videos: Sequence[LongVideo],
    truth: Sequence[Marked],
    found: Sequence[Marked],
    *,
    kinds: Sequence[str] = EXPRESSIONS,
    least: float = IOU,
) -> SpottingScore:
    """Intervals in, figures out; the rules are the module's.

    ``truth`` and ``found`` are of ``videos``; a video with neither counts nothing. ``kinds``: "micro", "macro" or both.
    What says no kind is a micro-expression below half a second, a macro-expression from there on.

    >>> v = LongVideo(database="d", subject="1", video="a", path="a.avi", fps=30.0, frames=300)
    >>> mark = lambda onset, offset: Marked(database="d", subject="1", video="a", onset=onset, offset=offset)
    >>> result = score([v], [mark(10, 19), mark(100, 150)], [mark(12, 20), mark(200, 260)])
    >>> {kind: tuple(result.counts(kind)) for kind in result.groups}
    {'micro': (1, 1, 1), 'macro': (0, 1, 1), 'all': (1, 2, 2)}

    Raises:
        MesynthError: a kind or an IoU that cannot be, an interval of a video that is not listed.
    """
    kinds = tuple(dict.fromkeys(kinds))
    if unknown := [kind for kind in kinds if kind not in EXPRESSIONS]:
        raise MesynthError(f"expression '{unknown[0]}' is unknown; choose from {', '.join(EXPRESSIONS)}")
    if not kinds:
        raise MesynthError("no kind of expression to score; choose micro, macro, or both")
    fps = {video.key: video.fps for video in videos}
    sorted_by: dict[str, dict[tuple[Key, str], list[Marked]]] = {"truth": {}, "found": {}}
    for name, marks in (("truth", truth), ("found", found)):
        for one in marks:
            if one.key not in fps:
                raise MesynthError(f"an interval is of {'/'.join(one.key)}, which is none of the {len(fps)} videos")
            sorted_by[name].setdefault((one.key, one.kind(fps[one.key])), []).append(one)
    scored = []
    for video in videos:
        counts, pairs = {}, []
        for kind in kinds:
            there, said = (sorted_by[name].get((video.key, kind), []) for name in ("truth", "found"))
            hits = matched([_frames(m) for m in said], [_frames(m) for m in there], least)
            counts[kind] = Counts(len(hits), len(said), len(there))
            pairs += [(said[i], there[j]) for i, j in hits]
        scored.append(VideoScore(video=video, counts=counts, pairs=tuple(pairs)))
    return SpottingScore(videos=tuple(scored), kinds=kinds, iou=least)


def _frames(marked: Marked) -> Frames:
    return marked.onset, marked.offset


def recognized(pairs: Sequence[tuple[Marked, Marked]]) -> dict[str, float] | None:
    """Precision, recall, F1 and UF1 of the emotions of true positives (found, annotated); None where no emotion was
    predicted.

    Classes are those of the annotated intervals; what is annotated as others, or not, is left out. F1 is that of the
    STRS: the harmonic mean of the mean precision and the mean recall over classes, a class without an answer counts 0.
    """
    known = [(f.emotion, t.emotion) for f, t in pairs if t.emotion not in OTHERS]
    if not any(said for said, _ in known):
        return None
    classes = sorted({truth for _, truth in known})
    figures = []
    for name in classes:
        hits = sum(said == truth == name for said, truth in known)
        said, there = sum(said == name for said, _ in known), sum(truth == name for _, truth in known)
        figures.append((hits / said if said else 0.0, hits / there, 2 * hits / (said + there)))
    precision, recall, uf1 = (float(value) for value in np.mean(figures, 0))
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return {"n": len(known), "precision": precision, "recall": recall, "f1": f1, "uf1": uf1}


def strs(spotting_f1: float, recognition_f1: float) -> float:
    """The spot-then-recognize score: both F1s multiplied. Raises MesynthError for what is no F1.

    >>> strs(0.5, 0.4)
    0.2
    """
    for name, value in (("spotting", spotting_f1), ("recognition", recognition_f1)):
        if not 0 <= value <= 1:
            raise MesynthError(f"F1 of {name} is {value:g}; it lies in [0, 1]")
    return spotting_f1 * recognition_f1


# ---------------------------------------------------------------- for people


def table(result: SpottingScore) -> tuple[list[str], list[list[str]]]:
    """Header and a row a group."""
    header = ["", "TP", "FP", "FN", "precision", "recall", "F1", "95 % interval"]
    rows = []
    for group in result.groups:
        values, interval = result.counts(group).to_dict(), result.f1_interval(group)
        between = f"{interval.low:.3f} to {interval.high:.3f}" if interval else "one person"
        rows.append(
            [group, *(f"{values[n]:g}" for n in ("tp", "fp", "fn")),
             *(f"{values[n]:.3f}" for n in ("precision", "recall", "f1")), between]
        )  # fmt: skip
    return header, rows


def per_video(result: SpottingScore) -> list[dict[str, Any]]:
    """A row a video and group: subject, video, expression, tp, fp, fn, precision, recall, f1."""
    rows = []
    for scored in result.videos:
        counts: Mapping[str, Counts] = scored.counts | {ALL: scored.all}
        for group in result.groups:
            v = scored.video
            rows.append(
                {"database": v.database, "subject": v.subject, "video": v.video, "expression": group}
                | counts[group].to_dict()
            )
    return rows
