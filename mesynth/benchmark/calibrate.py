"""Gains per AU that make a generator show its targets, fitted on people nobody learns from or is compared on.

The judge reads the generator's answers and the rendered truth's answers to the same requests; the judge's own bias is
in both. An AU's gain g is the one for which the generator's mean response to ``min(1, g a)``, read off its measured
response to a, is nearest (least squares over the intensities a) to the truth's response to a. Where both are straight
lines that is the truth's slope over the generator's; where the response saturates, the plain ratio would ask for more
and get less slope, and a gain that mends little is not given. A second set of people says what the gains are worth."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mesynth.benchmark import resampling
from mesynth.benchmark.figures import points
from mesynth.benchmark.protocol import (
    Candidate,
    Person,
    RenderedTruth,
    Request,
    check_codes,
    check_least,
    check_size,
    requests_of,
    unframed,
)
from mesynth.core.errors import ConfigError, LeakError, MesynthError
from mesynth.core.facs import AU_CODES, AU_INDEX, LETTER_INTENSITY
from mesynth.core.seeds import derived
from mesynth.generators.base import LEAST, MOST, Generator, load_pipeline
from mesynth.generators.registry import Model, configured, option_text
from mesynth.metrics.networks.judge import AUJudge
from mesynth.store.generator_folder import makes_frames, save_with_gains
from mesynth.store.run_folder import only_maker, write_listed
from mesynth.training.data.rendered import VALIDATION_SEEDS, person_key

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True, kw_only=True)
class Slope:
    """Slope of measured on target intensity with its 95 % interval over people; None where it is not defined."""

    value: float | None
    low: float | None = None
    high: float | None = None

    @staticmethod
    def of(statistic: np.ndarray) -> Slope:
        """From [B+1] of :func:`mesynth.benchmark.resampling.slope`."""
        found = resampling.interval(statistic)
        return Slope(value=found.value, low=found.low, high=found.high) if found else Slope(value=None)


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """One AU: its gain, why it has none of its own, and slopes on the people of the check."""

    code: int
    gain: float
    """The whole gain, of an earlier calibration too; 1: the target as it is."""
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
    """Distance of the mean response to the truth's on the check, root mean square over the target intensities."""
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
        """As :class:`mesynth.store.generator_folder.GeneratorFacts` has them: those that are not 1."""
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

        table = Table(title="gains; on other people slopes of measured on target intensity, and errors")
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
{len(made.checked)} other people: slopes of measured on target intensity, and the error, how far the mean measured
intensity lies from the rendered truth's: {before:.3f} before and {after:.3f} after, mean over the AUs whose gain was
fitted.

| AU | gain | truth's slope | before | after | error before | after | |
|---|---|---|---|---|---|---|---|
{lines}
"""


def _cells(f: Fitted) -> list[str]:
    values = [f.check_truth.value, f.before.value, f.after.value, f.error_before, f.error_after]
    return ["–" if value is None else f"{value:.{2 if i < 3 else 3}f}" for i, value in enumerate(values)]


# ------------------------------------------------------------------- calibrate


RECORD = "calibration.json"
WIDEST = 0.35
"""A gain is well determined when its 95 % interval reaches this share of it to either side, on average, and no more."""
NEAR = 0.05
"""A gain this near to 1 is not worth another generator: the judge differs by as much from person to person."""
WORTH = 0.15
"""A gain must take this share of the error away: one that asks a saturated response for more hardly does."""
_TRIED = 301
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class CalibrationConfig:
    """Whom the generator meets and the requests it gets; the gains depend on this alone."""

    people: int = 8
    """Rendered people that gains are fitted on; as many others check them."""
    codes: tuple[int, ...] = AU_CODES
    levels: tuple[float, ...] = tuple(LETTER_INTENSITY.values())
    """Target intensities of each AU, on both sides; the last is 1, as gains ask for up to 1."""
    size: int = 128
    """Side of the crops, pixels."""
    resamples: int = 500
    """Bootstrap draws of people."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.people < 2:
            raise ConfigError(f"people={self.people} cannot say how much people differ; choose at least 2")
        check_codes(self.codes)
        levels = list(self.levels)
        if len(levels) < 2 or levels != sorted(set(levels)) or levels[0] <= 0 or levels[-1] != 1:
            raise ConfigError(f"levels {self.levels} must be at least two ascending intensities above 0 that end at 1")
        check_size(self.size)
        check_least(self, resamples=20, seed=0)


def calibrate(
    model: Model,
    out: Path,
    config: CalibrationConfig = CalibrationConfig(),
    *,
    judge: AUJudge | None = None,
    progress: Progress | None = None,
) -> Calibration:
    """Fit gains for ``model`` and write it with them into ``out``, a new pipeline folder, beside calibration.json.

    The people of the fit join the subjects the generator has seen. Options of the model hold while it is measured;
    they are not saved. Gains of an earlier calibration are kept and multiplied.

    Raises:
        MesynthError: a model that has no folder, no frames or no use for gains, or refuses everything.
        RunFolderError: ``out`` is not empty.
        LeakError: too few people that neither the generator nor the judge learned from.
        WeightsUnavailable: the judge's weights are missing.
    """
    out = Path(out)
    if model.folder is None or not makes_frames(model.name):
        why = unframed(model.name) if model.folder else "has no weights that a gain could go with"
        raise MesynthError(f"{model.name} {why}; give a folder that training wrote, of a generator that makes frames")
    with only_maker(out):
        return _calibrate(model, model.folder, out, config, judge or AUJudge.load(), progress)


def _calibrate(
    model: Model, source: Path, out: Path, config: CalibrationConfig, judge: AUJudge, progress: Progress | None
) -> Calibration:
    readable = [code for code in config.codes if code in judge.trusted]
    if not readable:
        raise MesynthError(f"the judge is trusted with none of AUs {', '.join(map(str, config.codes))}; choose others")
    seeds = free_people(2 * config.people, {*model.facts.subjects_seen, *map(person_key, judge.meta.subjects_seen)})
    fit, check = seeds[: config.people], seeds[config.people :]
    old = dict(model.facts.gains)
    _refuse_unmoved(model, Person(fit[0], config.size))
    targets = tuple(r for r in requests_of(readable, config.levels) if r.side == "B")
    reading = _Reading(targets, resampling.draws(config.people, config.resamples, config.seed))
    done, total = 0, 5 * config.people  # truth and generator, then truth, before and after
    if progress:
        progress(0, total)

    def tick() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, total)

    def read(people: Sequence[int], *generators: Generator) -> list[np.ndarray]:
        some = [Candidate(name=model.described, generator=generator) for generator in generators]
        return _measured(some, people, targets, judge, config, tick)

    true, own = read(fit, RenderedTruth(), _with(model, old))
    gains: dict[int, tuple[float, str]] = {}
    for code in config.codes:
        before = float(old.get(str(code), 1.0))
        if code in readable:
            curves = reading.curve(true, code), reading.curve(own, code)
            gains[code] = fit_gain(reading.weights, (0.0, *config.levels), *curves, before=before)
        else:
            gains[code] = before, f"the judge is not trusted with it (ICC {judge.meta.figures[code].icc:.2f})"
    new = {str(code): gain for code, (gain, _) in gains.items() if gain != 1}
    new |= {code: gain for code, gain in old.items() if int(code) not in gains}
    exact, former, after = read(check, RenderedTruth(), _with(model, old), _with(model, new))
    fitted = []
    for code, (gain, reason) in gains.items():
        found = [reading.slope(v, code) for v in (true, own, exact, former, after)]
        fitted.append(
            Fitted(code=code, gain=gain, reason=reason, previous=float(old.get(str(code), 1.0)), truth=found[0],
                   measured=found[1], check_truth=found[2], before=found[3], after=found[4],
                   error_before=reading.error(former, exact, code), error_after=reading.error(after, exact, code))
        )  # fmt: skip
    made = Calibration(
        fitted=tuple(fitted), people=tuple(map(person_key, fit)), checked=tuple(map(person_key, check)),
        options=option_text(model.options), settings=asdict(config) | {"judge": judge.meta.weights_sha256},
    )  # fmt: skip
    save_with_gains(source, out, new, card(made), made.people)
    record = json.dumps(asdict(made) | {"gains": new}, indent=1, allow_nan=False) + "\n"
    write_listed(out, {RECORD: record.encode()})
    return made


@dataclass(frozen=True, eq=False)
class _Reading:
    """How answers [P,R,K,2] to ``targets`` are read, over draws of people ``weights``."""

    targets: tuple[Request, ...]
    weights: np.ndarray

    def rows(self, code: int) -> list[int]:
        """Where the AU has a target above 0, after nothing; empty if it never has."""
        found = [i for i, r in enumerate(self.targets) if r.code == code and r.level]
        return [0, *found] if found else []

    def curve(self, answers: np.ndarray, code: int) -> np.ndarray:
        """[P,L] over the levels, from 0."""
        return np.asarray(answers[:, self.rows(code), AU_INDEX[code]].mean(-1), np.float64)

    def slope(self, answers: np.ndarray, code: int) -> Slope:
        if not self.rows(code):
            return Slope(value=None)
        return Slope.of(resampling.slope(self.weights, resampling.moments(*points(self.targets, answers, code))))

    def error(self, answers: np.ndarray, truth: np.ndarray, code: int) -> float | None:
        """Root mean square over the levels of the difference of mean responses."""
        apart = (self.curve(answers, code) - self.curve(truth, code)).mean(0)
        found = float(np.sqrt((apart**2).mean())) if len(apart) else float("nan")
        return found if np.isfinite(found) else None


def free_people(count: int, met: set[str]) -> list[int]:
    """Validation head seeds from the last down, away from those training looks at along the way, without ``met``.

    Raises:
        LeakError: there are not as many.
    """
    free = [seed for seed in reversed(VALIDATION_SEEDS) if person_key(seed) not in met][:count]
    if len(free) < count:
        raise LeakError(
            f"only {len(free)} of {count} validation people are new to this generator; ask for fewer people"
        )
    return free


def fit_gain(
    weights: np.ndarray, levels: Sequence[float], truth: np.ndarray, own: np.ndarray, *, before: float
) -> tuple[float, str]:
    """Gain of an AU, and why it is not the plain fit.

    ``truth`` and ``own`` [P,L] are measured at the target ``levels``, from 0 to 1; ``weights`` [B+1,P] are draws of
    people; ``before`` is the gain that ``own`` was measured with. The gain stays where 1 more or less would do.
    """
    if refused := int(np.isnan(own).any(0).sum()):
        return before, f"refused at {refused} of {len(levels) - 1} intensities"
    at = np.asarray(levels)
    for name, values in (("the truth's", truth), ("its", own)):
        sums = resampling.moments(np.broadcast_to(at, values.shape), values)
        found = resampling.interval(resampling.slope(weights, sums))
        assert found is not None
        if found.low <= 0:
            return before, f"{name} slope {found.value:.2f} [{found.low:.2f}, {found.high:.2f}] may be zero or negative"
    tried = np.linspace(LEAST, MOST, _TRIED) / before
    targets = np.minimum(1, tried[:, None] * at)
    shown = np.stack([np.interp(targets, at, person) for person in own])
    people = weights.sum(1)
    mean_shown = np.tensordot(weights, shown, 1) / people[:, None, None]
    mean_truth = weights @ truth / people[:, None]
    nearest = ((mean_shown - mean_truth[:, None]) ** 2).mean(-1).argmin(1)
    fitted = resampling.interval(tried[nearest])
    assert fitted is not None
    text = f"{fitted.value:.2f} [{fitted.low:.2f}, {fitted.high:.2f}]"
    if fitted.low <= 1 <= fitted.high:
        return before, f"{text} times as much may be as well as this"
    if fitted.high - fitted.low > 2 * WIDEST * fitted.value:
        return before, f"{text} times as much is uncertain; ask more people"
    if abs(fitted.value - 1) < NEAR:
        return before, f"{text} times as much is near enough"
    now, then = (float(np.sqrt(((m - mean_truth[0]) ** 2).mean())) for m in (own.mean(0), mean_shown[0, nearest[0]]))
    if then > (1 - WORTH) * now:
        return (
            before,
            f"it saturates: {fitted.value:.2f} times as much would change its error from {now:.3f} to {then:.3f}",
        )
    gain = round(before * fitted.value, 4)
    return gain, "" if LEAST < gain < MOST else f"the {'least' if gain <= LEAST else 'most'} that a gain may be"


def _measured(
    candidates: Sequence[Candidate],
    people: Sequence[int],
    targets: Sequence[Request],
    judge: AUJudge,
    config: CalibrationConfig,
    tick: Callable[[], None],
) -> list[np.ndarray]:
    """Intensities [P,R,K,2] that the judge reads off each generator's answers; NaN where it refuses.

    Each person is made once, and meets one generator after the other.
    """
    out = [np.full((len(people), len(targets), len(AU_CODES), 2), np.nan, np.float32) for _ in candidates]
    for place, head in enumerate(people):
        person = Person(head, config.size)
        for values, candidate in zip(out, candidates, strict=True):
            candidate.meet(person)
            for i, request in enumerate(targets):
                try:
                    shown = candidate.show(person, request.aus, derived(config.seed, f"calibrate-{head}", i))
                except MesynthError:
                    continue  # an AU without any answer says so
                assert shown.onset is not None
                assert shown.apex is not None
                frames = np.stack([shown.onset, shown.apex])
                values[place, i] = judge.intensity(frames, person.landmarks)[0]
            tick()
    return out


def _with(model: Model, gains: Mapping[str, float]) -> Generator:
    assert model.folder is not None
    return configured(load_pipeline(model.folder, gains), dict(model.options))


def _refuse_unmoved(model: Model, person: Person) -> None:
    """Raise MesynthError for a family that does not look at its gains: it would be saved as something it is not."""
    flows = []
    for gain in (1.0, MOST):
        candidate = Candidate(name=model.described, generator=_with(model, {"12": gain}))
        candidate.meet(person)
        flows.append(candidate.show(person, Request(12, "B", 0.4).aus, 0).uv)
    if np.array_equal(flows[0], flows[1]):
        raise MesynthError(f"{model.name} shows the same at any gain; this family cannot be calibrated")
