"""One model with several options in one comparison: steps against quality, guidance against slope."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mesynth.benchmark.answers import SEEDS, Instruments, sampled
from mesynth.benchmark.protocol import TRUTH, BenchmarkConfig, load_candidates, shown_names
from mesynth.benchmark.result import Result
from mesynth.benchmark.run import compare
from mesynth.core.errors import ConfigError, MesynthError
from mesynth.generators.registry import split_models
from mesynth.metrics.base import slug
from mesynth.metrics.networks.judge import AUJudge
from tests.corpus.toy import Toy, save_toy

CONFIG = BenchmarkConfig(people=2, codes=(4, 12), levels=(0.4, 0.8), size=64, resamples=40, clip_frames=3, repeats=1)


@pytest.fixture(scope="module")
def tools() -> Instruments:
    return Instruments(judge=AUJudge.load(), features=None, perceptual=None, embedder=None, notes=())


@pytest.fixture(scope="module")
def result(tools: Instruments, tmp_path_factory: pytest.TempPathFactory) -> Result:
    root = tmp_path_factory.mktemp("options")
    with pytest.MonkeyPatch.context() as patch:
        toy = save_toy(root / "runs" / "d", patch)
        variants = ("@steps=1", "@steps=16", "@steps=0,guidance=1", "@steps=0,guidance=2")
        candidates = load_candidates(split_models(",".join(f"{toy}{v}" for v in variants)))
        return compare(candidates, CONFIG, root / "out", instruments=tools)


def value(result: Result, model: str, name: str) -> float:
    found = result.standing(model).figure(slug(name)).value
    assert found is not None
    return found


def test_options_name_the_columns(result: Result) -> None:
    names = ["runs/d@steps=1", "runs/d@steps=16", "runs/d@steps=0,guidance=1", "runs/d@steps=0,guidance=2"]
    assert [s.name for s in result.standings] == [TRUTH, *names]
    assert [str(c.header) for c in result.table().columns] == ["measure", TRUTH, *names]
    assert "runs/d@steps=0,guidance=2,flow KID" in result.to_csv().replace('"', "")


def test_what_the_options_do_is_what_the_figures_show(result: Result) -> None:
    few, many, weak, strong = (s.name for s in result.standings[1:])
    assert value(result, few, "diversity") > 2 * value(result, many, "diversity") > 0
    assert value(result, few, "flow EPE") != value(result, many, "flow EPE")
    ratio = value(result, strong, "AU slope, pooled") / value(result, weak, "AU slope, pooled")
    assert ratio == pytest.approx(2, rel=0.15)
    assert value(result, weak, "flow KID") > value(result, strong, "flow KID")


def test_who_is_deterministic_is_told(result: Result) -> None:
    told = [line for line in result.lines() if "deterministic" in line]
    names = [TRUTH, "runs/d@steps=0,guidance=1", "runs/d@steps=0,guidance=2"]
    assert told == [f"{n}: diversity: deterministic, every seed gives the same flow" for n in names]
    assert SEEDS >= 4
    for name in names[1:]:
        figures = {f.name: f for f in result.standing(name).figures}
        assert figures["coverage"].value is None
        assert figures["coverage"].note == "every seed gives the same flow"


@pytest.mark.parametrize("n", [4, 19])
def test_coverage_and_energy_score_of_what_is_drawn_like_the_truth(n: int) -> None:
    """The truth one of their kind: inside the range (n - 1) / (n + 1) of the time; spread too small, and it is not."""
    rng = np.random.default_rng(3)
    inside = np.ones((40, 40), np.bool_)
    kind = 3 + rng.standard_normal((60, n + 1, 2, 40, 40))
    covered, scores = zip(*(sampled(k[:n], k[n], inside) for k in kind), strict=True)
    assert np.mean(covered) == pytest.approx((n - 1) / (n + 1), abs=0.01)
    narrow = [sampled(3 + 0.3 * (k[:n] - 3), k[n], inside) for k in kind]
    assert np.mean([c for c, _ in narrow]) < (n - 1) / (n + 1) - 0.15
    assert np.mean(scores) < np.mean([e for _, e in narrow])
    same = np.repeat(kind[0, :1], n, 0)
    assert sampled(same, kind[0, n], inside)[1] == pytest.approx(
        float(np.hypot(*(kind[0, 0] - kind[0, n])).mean()), abs=1e-5
    )
    assert np.isnan(sampled(np.zeros((n, 2, 8, 8)), np.zeros((2, 8, 8)), np.ones((8, 8), np.bool_))[0])


def test_models_with_other_options_share_their_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = save_toy(tmp_path / "d", monkeypatch)
    loads: list[object] = []
    monkeypatch.setattr("tests.corpus.toy.load", lambda folder, facts: loads.append(folder) or Toy(facts))
    a, b, c = load_candidates([str(toy), f"{toy}@steps=2", f"{toy}@steps=3"])
    assert len(loads) == 1
    assert [e.generator.steps for e in (a, b, c)] == [4, 2, 3]  # type: ignore[attr-defined]
    assert len({str(e.identity) for e in (a, b, c)}) == 3


def test_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = save_toy(tmp_path / "d", monkeypatch)
    with pytest.raises(MesynthError, match="given twice"):
        load_candidates([f"{toy}@steps=2,guidance=1", f"{toy}@guidance=1, steps=2"])
    with pytest.raises(ConfigError, match="motion-prior has no option 'steps'; choose from spread"):
        load_candidates(["motion-prior@steps=4"])
    with pytest.raises(ConfigError, match="toy has no option 'heads'; choose from steps, guidance"):
        load_candidates([f"{toy}@heads=2"])
    assert shown_names(["/a/b/c@x=/d/e/f", "/z/b/c@x=/d/e/f"]) == ["/a/b/c@x=/d/e/f", "/z/b/c@x=/d/e/f"]
    assert shown_names(["/a/b/c@x=/d/e/f"]) == ["b/c@x=/d/e/f"]
