"""Gains are fitted on people of their own, change what they should, and say why they change nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from mesynth.benchmark.calibrate import Calibration, CalibrationConfig, Slope, calibrate, fit_gain, free_people
from mesynth.benchmark.protocol import BENCHMARK_SEEDS, RenderedTruth
from mesynth.benchmark.resampling import draws
from mesynth.cli import main
from mesynth.core.errors import ConfigError, LeakError, MesynthError, RunFolderError
from mesynth.core.facs import AU_INDEX
from mesynth.core.profiles import Profile
from mesynth.core.types import AUVector, Sample
from mesynth.corpus.verify import verify
from mesynth.generators.base import calibrated
from mesynth.generators.registry import find_model
from mesynth.metrics.networks.judge import AUJudge
from mesynth.motion.prior import Face
from mesynth.store.generator_folder import GeneratorFacts, read_facts
from mesynth.training.data.rendered import VALIDATION_SEEDS, person_key
from tests.corpus.toy import Toy, save_toy

CONFIG = CalibrationConfig(people=2, codes=(1, 4, 9, 12, 16, 45), levels=(0.3, 0.6, 1.0), size=64, resamples=40)
WRONG = {4: lambda a: np.minimum(1, 1.5 * a), 9: lambda a: np.minimum(a, 0.25), 12: lambda a: 0.8 * a}


class Wrong(RenderedTruth):
    """The truth about other intensities: AU 4 too strong, 9 saturated, 12 too weak, 45 refused. Applies its gains."""

    family = "toy"

    def __init__(self, facts: GeneratorFacts, share: float = 1.0) -> None:
        super().__init__()
        self.facts, self.share = facts, share

    def configured(self, *, share: float) -> Wrong:
        return Wrong(self.facts, share)

    def generate(self, face: Face, aus: AUVector, profile: Profile, **settings: Any) -> tuple[Sample, tuple[str, ...]]:
        shown = self.share * calibrated(aus, self.facts).intensity
        if shown[AU_INDEX[45]].any():
            raise MesynthError("lids stay open")
        for code, wrong in WRONG.items():
            shown[AU_INDEX[code]] = wrong(shown[AU_INDEX[code]])
        sample, warnings = super().generate(face, AUVector(shown.astype(np.float32)), profile, **settings)
        return replace(sample, aus=aus), warnings


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.corpus.toy.load", lambda folder, facts: Wrong(facts))
        yield patch


@pytest.fixture(scope="module")
def toy(patch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_toy(tmp_path_factory.mktemp("toy") / "d", patch)


@pytest.fixture(scope="module")
def made(toy: Path) -> tuple[Calibration, Path]:
    return calibrate(find_model(str(toy)), toy.parent / "calibrated", CONFIG), toy.parent / "calibrated"


def test_too_weak_is_asked_for_more_and_too_strong_for_less(made: tuple[Calibration, Path]) -> None:
    found = {f.code: f for f in made[0].fitted}
    assert found[12].gain == pytest.approx(1 / 0.8, abs=0.08)
    assert found[4].gain == pytest.approx(1 / 1.5, abs=0.05)
    assert found[12].reason == found[4].reason == ""
    for code in (4, 12):
        assert found[code].error_before is not None
        assert found[code].error_after is not None
        assert found[code].error_after < 0.7 * found[code].error_before  # at 1 nothing can be added
    weak = found[12]
    # What is read ends at 1, and this head's AU 12 at .5 is read as .69: slopes say little, errors do.
    assert weak.error_after < 0.4 * weak.error_before  # type: ignore[operator]
    before, after = made[0].error
    assert 0 < after < 0.7 * before


def test_what_is_right_saturated_refused_or_not_to_be_read_stays(made: tuple[Calibration, Path]) -> None:
    found = {f.code: f for f in made[0].fitted}
    assert [found[code].gain for code in (1, 9, 16, 45)] == [1, 1, 1, 1]
    assert found[1].reason == "1.00 [1.00, 1.00] times as much may be as well as this"
    assert (
        "times as much may be as well as this" in found[9].reason
    )  # half the truth's slope, and no gain would mend it
    assert found[9].measured.value < 0.5 * found[9].truth.value  # type: ignore[operator]
    assert found[16].reason == f"the judge is not trusted with it (ICC {AUJudge.load().meta.figures[16].icc:.2f})"
    assert found[16].after == Slope(value=None)
    assert found[45].reason == "refused at 3 of 3 intensities"


def test_the_copy_is_another_generator_with_the_same_weights(made: tuple[Calibration, Path], toy: Path) -> None:
    old, new = read_facts(toy), read_facts(made[1])
    assert new.gains == made[0].gains
    assert set(new.gains) == {"4", "12"}
    assert new.weights_sha256 != old.weights_sha256
    assert new.subjects_seen == (*old.subjects_seen, *made[0].people)
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        assert (made[1] / "generator" / name).read_bytes() == (toy / "generator" / name).read_bytes()
    assert find_model(str(made[1])).load().facts.gains == new.gains
    card = (made[1] / "README.md").read_text()
    assert card.startswith("# a toy\n")
    assert f"| 12 | {new.gains['12']:.2f} |" in card
    record = json.loads((made[1] / "calibration.json").read_text())
    assert (verify(made[1]).kind, verify(made[1]).problems) == ("calibrated generator", ())
    assert record["gains"] == new.gains
    assert record["settings"]["people"] == 2
    assert [f["code"] for f in record["fitted"]] == [1, 4, 9, 12, 16, 45]
    assert [str(c.header) for c in made[0].table().columns][:2] == ["AU", "gain"]


def test_nobody_else_has_these_people(made: tuple[Calibration, Path]) -> None:
    people = {*made[0].people, *made[0].checked}
    assert len(people) == 4
    assert people <= set(map(person_key, VALIDATION_SEEDS))
    assert not people & set(map(person_key, BENCHMARK_SEEDS))
    first = free_people(2, set())
    assert free_people(2, {person_key(first[0])}) == [first[1], first[1] - 1]
    with pytest.raises(LeakError, match="only 1 of 2 validation people"):
        free_people(2, set(map(person_key, VALIDATION_SEEDS[1:])))


def test_the_same_call_gives_the_same_gains_and_a_second_calibration_builds_on_the_first(
    toy: Path, tmp_path: Path
) -> None:
    few = replace(CONFIG, codes=(12,))
    first, again = (calibrate(find_model(str(toy)), tmp_path / name, few) for name in "ab")
    assert first == again
    second = calibrate(find_model(f"{tmp_path}/a@share=1.2"), tmp_path / "c", few)
    assert not set(second.people) & set(first.people)  # they count as seen
    (old,), (new,) = first.fitted, second.fitted
    assert new.previous == old.gain
    assert new.gain == pytest.approx(old.gain / 1.2, rel=0.07)
    assert second.options == "share=1.2"
    assert "sampled with share=1.2" in (tmp_path / "c/README.md").read_text()
    assert set(read_facts(tmp_path / "c").subjects_seen) > set(read_facts(tmp_path / "a").subjects_seen)


LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)


def responses(shape: Callable[[np.ndarray], np.ndarray], spread: float = 0.0, people: int = 6) -> np.ndarray:
    """[P,L]: people differ in strength by ``spread``."""
    strength = 1 + spread * np.linspace(-1, 1, people)
    return strength[:, None] * shape(np.array(LEVELS))


def fit(truth: np.ndarray, own: np.ndarray, before: float = 1.0) -> tuple[float, str]:
    return fit_gain(draws(6, 100, 0), LEVELS, truth, own, before=before)


def test_straight_responses_give_the_ratio_of_their_slopes() -> None:
    truth = responses(lambda a: 0.9 * a, 0.02)
    assert fit(truth, responses(lambda a: 1.2 * a, 0.02)) == (0.75, "")
    # Up to 1 / g; at 1 nothing can be added, which does not count against the rest.
    gain, reason = fit(truth, responses(lambda a: 0.6 * a, 0.02))
    assert (gain, reason) == (pytest.approx(1.5, abs=0.05), "")
    assert fit(truth, responses(lambda a: 1.2 * a, 0.02), before=0.8) == (0.6, "")
    assert fit(truth, responses(lambda a: 0.4 * a)) == (2.0, "the most that a gain may be")
    assert fit(truth, responses(lambda a: 4 * a)) == (0.5, "the least that a gain may be")


@pytest.mark.parametrize(
    ("truth", "own", "why"),
    [
        (responses(lambda a: a), responses(lambda a: 0.1 * a, 3), r"its slope 0\.10 .* may be zero or negative"),
        (responses(lambda a: 0 * a), responses(lambda a: a), r"the truth's slope 0\.00 .* may be zero or negative"),
        (responses(lambda a: a, 0.1), responses(lambda a: a, 0.1)[::-1], "may be as well"),
        (responses(lambda a: a), np.array([[0, 0.1, 0.2, 0.3, np.nan]] * 6), "refused at 1 of 4"),
    ],
)
def test_where_it_is_not_sure_the_gain_stays(truth: np.ndarray, own: np.ndarray, why: str) -> None:
    gain, reason = fit(truth, own, before=1.3)
    assert gain == 1.3
    assert re.search(why, reason), reason


def test_people_who_differ_too_much_say_nothing() -> None:
    own = responses(lambda a: 0.5 * a, 0.95, people=3)
    found = fit_gain(draws(3, 100, 0), LEVELS, responses(lambda a: 0.8 * a, people=3), own, before=1.0)
    assert found[0] == 1
    assert re.search("times as much is uncertain; ask more people|may be as well|zero or negative", found[1]), found


def test_a_response_that_bends_is_not_asked_for_more() -> None:
    """Motion that is limited in length: more would bring the middle nearer, and the weak and the strong no nearer."""
    own = responses(lambda a: 0.3 * (1 - np.exp(-3 * a)), 0.02)
    gain, reason = fit(responses(lambda a: a, 0.02), own)
    assert gain == 1
    assert re.match(r"it saturates: \d\.\d\d times as much would change its error from 0\.\d+ to 0\.\d+", reason), (
        reason
    )


def test_a_gain_that_is_nearly_one_is_none() -> None:
    gain, reason = fit(responses(lambda a: a, 0.001), responses(lambda a: 1.03 * a, 0.001))
    assert (gain, "near enough" in reason) == (1, True)
    assert fit(responses(lambda a: a, 0.001), responses(lambda a: 1.08 * a, 0.001))[0] == pytest.approx(0.925, abs=0.01)


def test_a_saturated_response_is_not_asked_for_more() -> None:
    """The plain ratio of slopes would be 2 and more, and flatten it further."""
    gain, reason = fit(responses(lambda a: a, 0.02), responses(lambda a: np.minimum(a, 0.3), 0.02))
    assert (gain, "may be as well as this" in reason) == (1, True)


def test_what_cannot_be_calibrated(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MesynthError, match="motion-prior has no weights"):
        calibrate(find_model("motion-prior"), tmp_path / "x", CONFIG)
    images = replace(find_model(str(toy)), name="flow_gan")
    with pytest.raises(MesynthError, match="flow_gan makes flow images only"):
        calibrate(images, tmp_path / "x", CONFIG)
    monkeypatch.setattr("tests.corpus.toy.load", lambda folder, facts: Toy(facts, gainless=True))
    with pytest.raises(MesynthError, match="toy shows the same at any gain"):
        calibrate(find_model(str(toy)), tmp_path / "x", CONFIG)
    with pytest.raises(MesynthError, match="the judge is trusted with none of AUs 16"):
        calibrate(find_model(str(toy)), tmp_path / "x", replace(CONFIG, codes=(16,)))
    assert not (tmp_path / "x").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/letter.txt").write_text("mine")
    for folder in (tmp_path / "full", toy):
        with pytest.raises(RunFolderError, match="is not empty"):
            calibrate(find_model(str(toy)), folder, CONFIG)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere/at-all"], "model 'nowhere/at-all' is unknown"),
        (["motion-prior"], "motion-prior has no weights"),
        (["motion-prior", "--subjects", "1"], "people=1"),
        (["motion-prior", "--aus", "99"], "AU 99 is not in the vocabulary"),
        (["motion-prior", "--aus", "4,4"], "must be different"),
        (["motion-prior", "--levels", "0.5"], "at least two ascending"),
        (["motion-prior", "--levels", "0.5,2"], "at least two ascending"),
        (["motion-prior", "--levels", "high"], "--levels 'high' is no list of numbers"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, arguments: list[str], says: str) -> None:
    found = CliRunner().invoke(main, ["calibrate", *arguments, "--out", str(tmp_path / "x")])
    assert found.exit_code == 2, found.output
    (line,) = found.output.splitlines()
    assert says in line
    assert not (tmp_path / "x").exists()


def test_too_few_draws_and_seeds() -> None:
    for changes in ({"resamples": 3}, {"seed": -1}):
        with pytest.raises(ConfigError, match="too small"):
            CalibrationConfig(**changes)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="size=8"):
        CalibrationConfig(size=8)


def test_the_command_prints_json_or_a_table(
    made: tuple[Calibration, Path], toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[CalibrationConfig] = []

    def run(model: object, out: Path, config: CalibrationConfig, progress: object) -> Calibration:
        asked.append(config)
        return made[0]

    monkeypatch.setattr("mesynth.benchmark.calibrate.calibrate", run)
    arguments = ["calibrate", str(toy), "--subjects", "3", "--aus", "12,4", "--levels", "0.5,1", "--out", str(tmp_path)]
    found = CliRunner().invoke(main, [*arguments, "--json"])
    assert found.exit_code == 0, found.output
    assert asked == [CalibrationConfig(people=3, codes=(12, 4), levels=(0.5, 1.0))]
    printed = json.loads(found.stdout)
    assert (printed["error_before"], printed["error_after"]) == made[0].error
    assert {str(f["code"]): f["gain"] for f in printed["fitted"] if f["gain"] != 1} == made[0].gains
    table = CliRunner().invoke(main, arguments)
    assert "2 AUs have a new gain" in table.stdout
    assert "error before" in table.stdout
