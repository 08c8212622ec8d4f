"""What the figures say, in words: one verdict per question, with the interval that it rests on.

A verdict is made from a report's rows alone. It is "good" or "bad" only when the interval leaves no other reading;
otherwise it is "open", and says so. Limits are stated in the text of the verdict.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from mesynth.core.statistics import wilson
from mesynth.metrics.base import MeasureRow, format_number
from mesynth.metrics.report import MeasureReport

SLOPE_LIMITS = (0.8, 1.2)
"""Slope of measured on target intensity: within these an AU counts as shown at its target."""
FLOW_SHARE = 0.5
"""End-point error over that of no motion: below it, the stored flow counts as what the frames show."""
APEX_FRAMES = 1.0
IDENTITY_MARGIN = 0.1
"""Share of the way from real onset-apex pairs to different people that still counts as the same distance."""


@dataclass(frozen=True)
class Verdict:
    """``kind``: good, bad, open (the interval allows both readings), or none (not measured)."""

    question: str
    verdict: str
    kind: str
    basis: str


def verdicts(report: MeasureReport) -> list[Verdict]:
    """One verdict per question, in the same order for every report."""
    return [found(report) for found in _QUESTIONS]


_Said = tuple[str, str, str]
"""Verdict, kind and basis."""


def _answers(
    question: str, name: str, group: str, *, instead: str = "the report has no such figure"
) -> Callable[[Callable[[MeasureReport, MeasureRow], _Said]], Callable[[MeasureReport], Verdict]]:
    """The ``question`` that a function answers by the row ``name``, which has a value then.

    Without a value the verdict says why: what the row says, or that of its ``group``, or ``instead``.
    """

    def of(say: Callable[[MeasureReport, MeasureRow], _Said]) -> Callable[[MeasureReport], Verdict]:
        def verdict(report: MeasureReport) -> Verdict:
            row = report.find(name)
            if row is not None and row.value is not None:
                return Verdict(question, *say(report, row))
            row = row or report.find(f"{group}_not_measured")
            return Verdict(
                question, "not measured", "none", row.note.removeprefix("not measured: ") if row else instead
            )

        return verdict

    return of


def _number(row: MeasureRow) -> str:
    return f"N\u00a0=\u00a0{row.n}"


def _span(row: MeasureRow) -> str:
    unit = f" {row.unit}" if row.unit else ""
    if row.low is None or row.high is None or row.value is None:
        return f"{format_number(row.value or 0.0)}{unit} (no interval)"
    return f"{format_number(row.value)} [{format_number(row.low)}, {format_number(row.high)}]{unit}"


@_answers("Do apex pictures differ from real ones?", "kid", "pictures")
def _pictures(report: MeasureReport, row: MeasureRow) -> _Said:
    beside = "; ".join(f"{name}: {format_number(value)}" for name, value in row.reference.items())
    basis = (
        f"{row.name} {_span(row)}; 0 is no difference, and other people or cameras make one, too"
        + (f"; {beside}" if beside else "")
        + f"; {_number(row)}"
    )
    if row.low is None:
        return "cannot be said", "open", basis
    if row.low > 0:
        return "they differ", "bad", basis
    text = "no difference shown; more clips may show one"
    return text, "open", basis


@_answers("Does the person stay the same?", "identity_apex", "identity")
def _identity(report: MeasureReport, apex: MeasureRow) -> _Said:
    beyond = report.find("identity_beyond_real")
    real = apex.reference.get("real")
    if beyond is None or beyond.low is None or beyond.high is None or real is None:
        basis = f"distance onset to apex {_span(apex)}; too few real clips to hold it against"
        return "cannot be said", "open", basis
    whole = report.find("identity")
    floor = whole.reference.get("floor (different people)") if whole else None
    margin = 0.0 if floor is None else max(0.0, IDENTITY_MARGIN * (floor - real))
    basis = f"distance onset to apex {_span(apex)}, real clips {format_number(real)}"
    basis += "" if floor is None else f", different people {format_number(floor)}"
    basis += f"; synthetic minus real {_span(beyond)}"
    basis += (
        f", up to {format_number(margin)} (a tenth of the way to different people) counts as none" if margin else ""
    )
    basis += f"; {_number(beyond)}"
    if beyond.high <= margin:
        return "no further from the onset than real clips are", "good", basis
    if beyond.low > 0:
        return "further from the onset than real clips are", "bad", basis
    return "not shown to be further from the onset than real clips are", "open", basis


@_answers(
    "Are action units as strong as their targets?",
    "au_slope",
    "au_control",
    instead="too few clips have AUs of one strength and another as targets",
)
def _control(report: MeasureReport, row: MeasureRow) -> _Said:
    leak = report.find("au_leakage")
    low, high = SLOPE_LIMITS
    real = row.reference.get("real")
    basis = f"slope of measured on target {_span(row)} of 1" + (f", real clips {format_number(real)}" if real else "")
    basis += f"; {low:g} to {high:g} counts as on target; {_number(row)}"
    if leak is not None and leak.value is not None:
        beside = leak.reference.get("real")
        basis += f"; AUs whose target is 0: {format_number(leak.value)} of 5"
        basis += f" (real {format_number(beside)})" if beside is not None else ""
    if row.low is None or row.high is None:
        return "cannot be said", "open", basis
    if row.high < low or row.low > high:
        text = "weaker than the target" if row.high < low else "stronger than the target"
        return text, "bad", basis
    if row.low >= low and row.high <= high:
        return "on target", "good", basis
    assert row.value is not None
    if low <= row.value <= high:
        return "about on target; the interval is too wide to say", "open", basis
    text = "weaker" if row.value < low else "stronger"
    return f"{text} than the target, by an interval too wide to be sure", "open", basis


@_answers("Is the motion as large as in real clips?", "motion", "sequence")
def _size(report: MeasureReport, row: MeasureRow) -> _Said:
    assert row.value is not None
    real = row.reference.get("real")
    if real is None or row.low is None or row.high is None or real <= 0:
        return "cannot be said", "open", f"{_span(row)}; no real median"
    basis = f"median over the face {_span(row)}; real clips {format_number(real)} px; {_number(row)}"
    if row.low <= real <= row.high:
        return "no difference shown", "open", basis
    text = f"{'smaller' if row.value < real else 'larger'}: {row.value / real:.2f} times the real median"
    return text, "bad", basis


@_answers("Is the stored flow what the frames show?", "flow_epe", "flow")
def _flow(report: MeasureReport, row: MeasureRow) -> _Said:
    still = row.reference.get("zero flow", math.nan)
    basis = (
        f"median end-point error {_span(row)}, of no motion {format_number(still)} px; "
        f"below {FLOW_SHARE:g} of that counts as yes; {_number(row)}"
    )
    if row.high is None or row.low is None or not still > 0:
        return "cannot be said", "open", basis
    if row.high < FLOW_SHARE * still:
        return "yes", "good", basis
    if row.low >= still:
        return "no: no motion at all would fit as well", "bad", basis
    assert row.value is not None
    if row.value < FLOW_SHARE * still:
        return "about; the interval is too wide to say", "open", basis
    return "in part", "open", basis


@_answers("Is the apex where the clip says?", "apex_error", "sequence")
def _timing(report: MeasureReport, row: MeasureRow) -> _Said:
    assert row.value is not None
    real = row.reference.get("real")
    beside = f"; real clips {format_number(real)}" if real is not None else ""
    basis = f"median distance to the largest motion {_span(row)}{beside}"
    basis += f"; {APEX_FRAMES:g} frame counts as yes; {_number(row)}"
    if row.high is None or row.low is None:
        return "cannot be said", "open", basis
    if row.high <= APEX_FRAMES:
        return "yes", "good", basis
    if row.low > APEX_FRAMES:
        return f"off by {row.value:g} frames", "bad", basis
    if row.value <= APEX_FRAMES:
        return "about there; the interval is too wide to say", "open", basis
    return f"off by {row.value:g} frames, by an interval too wide to be sure", "open", basis


@_answers(
    "May it repeat training clips?", "copied_share", "memorisation", instead="no training set was given (--training)"
)
def _memory(report: MeasureReport, row: MeasureRow) -> _Said:
    assert row.value is not None
    count, expected = round(row.value * row.n), row.reference["expected without copying"]
    low, high = wilson(count, row.n)
    basis = (
        f"{count} of {row.n} nearer to a training apex than 99 % of held-out real apexes are: share "
        f"{format_number(row.value)} [{format_number(low)}, {format_number(high)}], {expected:g} expected by chance"
        f"; {row.reference['training clips compared']:g} training clips were compared"
    )
    if low > expected:
        return "yes: more are near than chance explains", "bad", basis
    if high <= 5 * expected:
        return "no", "good", basis
    return "no sign of it, but too few clips to rule it out", "open", basis


_QUESTIONS: tuple[Callable[[MeasureReport], Verdict], ...] = (
    _control, _identity, _size, _flow, _timing, _pictures, _memory,
)  # fmt: skip
