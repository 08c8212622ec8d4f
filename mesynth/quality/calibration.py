"""What a calibration found: gains, and slopes before and after on people it was not fitted on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mesynth.quality.contest import resampling

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True, kw_only=True)
class Slope:
    """Slope of judged on asked intensity with its 95 % interval over people; None where it is not defined."""

    value: float | None
    low: float | None = None
    high: float | None = None

    @staticmethod
    def of(statistic: np.ndarray) -> Slope:
        """From [B+1] of :func:`mesynth.quality.contest.resampling.slope`."""
        found = resampling.interval(statistic)
        return Slope(value=found.value, low=found.low, high=found.high) if found else Slope(value=None)


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """One AU: its gain, why it has none of its own, and slopes on the people of the check."""

    code: int
    gain: float
    """The whole gain, of an earlier calibration too; 1: asked for as it is."""
    reason: str
    """Why the gain was left as it was, or how it was limited; empty for a plain fit."""
    previous: float
    """Its gain before."""
    truth: Slope
    measured: Slope
    """Of the generator as it came, on the people of the fit."""
    check_truth: Slope
    before: Slope
    after: Slope
    error_before: float | None = None
    """Distance of the mean response to the truth's on the check, root mean square over the asked intensities."""
    error_after: float | None = None


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The outcome: ``fitted`` by AU, the people of the fit and of the check, ``options`` it was measured with."""

    fitted: tuple[Fitted, ...]
    people: tuple[str, ...]
    checked: tuple[str, ...]
    options: str
    settings: dict[str, Any]

    @property
    def gains(self) -> dict[str, float]:
        """As :class:`mesynth.generators.pipeline.GeneratorFacts` has them: those that are not 1."""
        return {str(f.code): f.gain for f in self.fitted if f.gain != 1}

    @property
    def error(self) -> tuple[float, float]:
        """Mean of the errors on the check over AUs with a new gain, before and after; 0 without any."""
        rows = [(f.error_before, f.error_after) for f in self.fitted if f.gain != f.previous]
        known = np.array([row for row in rows if None not in row], float).reshape(-1, 2)
        before, after = known.sum(0) / max(len(known), 1)
        return float(before), float(after)

    def table(self) -> Table:
        """AUs down: gain, slopes and errors on the people of the check, and why a gain is not a plain fit."""
        from rich.table import Table

        table = Table(title="gains; on other people slopes of judged on asked intensity, and errors")
        for name in ("AU", "gain", "truth", "before", "after", "error before", "after"):
            table.add_column(name, justify="right")
        table.add_column("why")
        for f in self.fitted:
            table.add_row(str(f.code), f"{f.gain:.2f}", *_cells(f), f.reason)
        return table


def card(made: Calibration) -> str:
    """The paragraph that a calibrated generator's card gets."""
    lines = "\n".join(
        f"| {f.code} | {f.gain:.2f} | {' | '.join(_cells(f))} | {f.reason} |" for f in made.fitted
    )  # fmt: skip
    before, after = made.error
    options = f", sampled with {made.options}" if made.options else ""
    return f"""
## Calibration

AUs are asked for times a gain, fitted on {len(made.people)} rendered people{options} (they count as seen). On
{len(made.checked)} other people: slopes of judged on asked intensity, and the error, how far the mean judged intensity
lies from the rendered truth's: {before:.3f} before and {after:.3f} after, mean over the AUs whose gain was fitted.

| AU | gain | truth's slope | before | after | error before | after | |
|---|---|---|---|---|---|---|---|
{lines}
"""


def _cells(f: Fitted) -> list[str]:
    values = [f.check_truth.value, f.before.value, f.after.value, f.error_before, f.error_after]
    return ["–" if value is None else f"{value:.{2 if i < 3 else 3}f}" for i, value in enumerate(values)]
