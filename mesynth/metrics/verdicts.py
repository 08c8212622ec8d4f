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


def _absent(
    report: MeasureReport, question: str, group: str, row: MeasureRow | None = None, instead: str = ""
) -> Verdict:
    """Why there is no figure: what its row says, or that of its group."""
    row = row or report.find(f"{group}_not_measured")
    why = row.note.removeprefix("not measured: ") if row else instead or "the report has no such figure"
    return Verdict(question, "not measured", "none", why)


def _number(row: MeasureRow) -> str:
    return f"N\u00a0=\u00a0{row.n}"


def _span(row: MeasureRow) -> str:
    unit = f" {row.unit}" if row.unit else ""
    if row.low is None or row.high is None or row.value is None:
        return f"{format_number(row.value or 0.0)}{unit} (no interval)"
    return f"{format_number(row.value)} [{format_number(row.low)}, {format_number(row.high)}]{unit}"


def _pictures(report: MeasureReport) -> Verdict:
    question = "Do apex pictures differ from real ones?"
    row = report.find("kid")
    if row is None or row.value is None:
        return _absent(report, question, "pictures", row)
    beside = "; ".join(f"{name}: {format_number(value)}" for name, value in row.reference.items())
    basis = (
        f"{row.name} {_span(row)}; 0 is no difference, and other people or cameras make one, too"
        + (f"; {beside}" if beside else "")
        + f"; {_number(row)}"
    )
    if row.low is None:
        return Verdict(question, "cannot be said", "open", basis)
    if row.low > 0:
        return Verdict(question, "they differ", "bad", basis)
    text = "no difference shown; more clips may show one"
    return Verdict(question, text, "open", basis)


def _identity(report: MeasureReport) -> Verdict:
    question = "Does the person stay the same?"
    apex, beyond = report.find("identity_apex"), report.find("identity_beyond_real")
    if apex is None or apex.value is None:
        return _absent(report, question, "identity", apex)
    real = apex.reference.get("real")
    if beyond is None or beyond.low is None or beyond.high is None or real is None:
        basis = f"distance onset to apex {_span(apex)}; too few real clips to hold it against"
        return Verdict(question, "cannot be said", "open", basis)
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
        return Verdict(question, "no further from the onset than real clips are", "good", basis)
    if beyond.low > 0:
        return Verdict(question, "further from the onset than real clips are", "bad", basis)
    return Verdict(question, "not shown to be further from the onset than real clips are", "open", basis)


def _control(report: MeasureReport) -> Verdict:
    question = "Are action units as strong as their targets?"
    row = report.find("au_slope")
    if row is None or row.value is None:
        return _absent(
            report, question, "au_control", row, "too few clips have AUs of one strength and another as targets"
        )
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
        return Verdict(question, "cannot be said", "open", basis)
    if row.high < low or row.low > high:
        text = "weaker than the target" if row.high < low else "stronger than the target"
        return Verdict(question, text, "bad", basis)
    if row.low >= low and row.high <= high:
        return Verdict(question, "on target", "good", basis)
    return Verdict(question, "about on target; the interval is too wide to say", "open", basis)


def _size(report: MeasureReport) -> Verdict:
    question = "Is the motion as large as in real clips?"
    row = report.find("motion")
    if row is None or row.value is None:
        return _absent(report, question, "sequence", row)
    real = row.reference.get("real")
    if real is None or row.low is None or row.high is None or real <= 0:
        return Verdict(question, "cannot be said", "open", f"{_span(row)}; no real median")
    basis = f"median over the face {_span(row)}; real clips {format_number(real)} px; {_number(row)}"
    if row.low <= real <= row.high:
        return Verdict(question, "no difference shown", "open", basis)
    text = f"{'smaller' if row.value < real else 'larger'}: {row.value / real:.2f} times the real median"
    return Verdict(question, text, "bad", basis)


def _flow(report: MeasureReport) -> Verdict:
    question = "Is the stored flow what the frames show?"
    row = report.find("flow_epe")
    if row is None or row.value is None:
        return _absent(report, question, "flow", row)
    still = row.reference.get("zero flow", math.nan)
    basis = (
        f"median end-point error {_span(row)}, of no motion {format_number(still)} px; "
        f"below {FLOW_SHARE:g} of that counts as yes; {_number(row)}"
    )
    if row.high is None or row.low is None or not still > 0:
        return Verdict(question, "cannot be said", "open", basis)
    if row.high < FLOW_SHARE * still:
        return Verdict(question, "yes", "good", basis)
    if row.low >= still:
        return Verdict(question, "no: no motion at all would fit as well", "bad", basis)
    return Verdict(question, "in part", "open", basis)


def _timing(report: MeasureReport) -> Verdict:
    question = "Is the apex where the clip says?"
    row = report.find("apex_error")
    if row is None or row.value is None:
        return _absent(report, question, "sequence", row)
    real = row.reference.get("real")
    beside = f"; real clips {format_number(real)}" if real is not None else ""
    basis = f"median distance to the largest motion {_span(row)}{beside}"
    basis += f"; {APEX_FRAMES:g} frame counts as yes; {_number(row)}"
    if row.high is None or row.low is None:
        return Verdict(question, "cannot be said", "open", basis)
    if row.high <= APEX_FRAMES:
        return Verdict(question, "yes", "good", basis)
    if row.low > APEX_FRAMES:
        return Verdict(question, f"off by {row.value:g} frames", "bad", basis)
    return Verdict(question, "about there; the interval is too wide to say", "open", basis)


def _memory(report: MeasureReport) -> Verdict:
    question = "May it repeat training clips?"
    row = report.find("copied_share")
    if row is None or row.value is None:
        return _absent(report, question, "memorisation", row, "no training set was given (--training)")
    count, expected = round(row.value * row.n), row.reference["expected without copying"]
    low, high = wilson(count, row.n)
    basis = (
        f"{count} of {row.n} nearer to a training apex than 99 % of held-out real apexes are: share "
        f"{format_number(row.value)} [{format_number(low)}, {format_number(high)}], {expected:g} expected by chance"
        f"; {row.reference['training clips compared']:g} training clips were compared"
    )
    if low > expected:
        return Verdict(question, "yes: more are near than chance explains", "bad", basis)
    if high <= 5 * expected:
        return Verdict(question, "no", "good", basis)
    return Verdict(question, "no sign of it, but too few clips to rule it out", "open", basis)


_QUESTIONS: tuple[Callable[[MeasureReport], Verdict], ...] = (
    _control, _identity, _size, _flow, _timing, _pictures, _memory,
)  # fmt: skip
