"""One model with several options in one comparison: steps against quality, guidance against slope; and the goals of
diffusion, which are told beside the motion GAN's figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mesynth.benchmark.answers import SEEDS, Instruments
from mesynth.benchmark.diffusion_goals import with_diffusion_goals
from mesynth.benchmark.entrants import TRUTH, Entrant, enter, shown_names
from mesynth.benchmark.requests import ContestConfig
from mesynth.benchmark.result import Result
from mesynth.benchmark.run import compare
from mesynth.core.errors import ConfigError, MesynthError
from mesynth.generators.registry import split_models
from mesynth.metrics.networks.judge import AUJudge
from tests.benchmark.fakes import Twisted
from tests.corpus.toy import FACTS, Toy, save_toy

CONFIG = ContestConfig(people=2, codes=(4, 12), levels=(0.4, 0.8), size=64, resamples=40, clip_frames=3, repeats=1)
GOALS = (
    "as many AUs with slope 0.8-1.2 as motion_gan",
    "EPE no worse than motion_gan's",
    "more diverse than motion_gan",
    "lowest flow KID of all families",
    "at most 1 s for 64 frames of 128 px",
)


@pytest.fixture(scope="module")
def tools() -> Instruments:
    return Instruments(judge=AUJudge.load(), features=None, perceptual=None, embedder=None, notes=())


@pytest.fixture(scope="module")
def result(tools: Instruments, tmp_path_factory: pytest.TempPathFactory) -> Result:
    root = tmp_path_factory.mktemp("options")
    with pytest.MonkeyPatch.context() as patch:
        toy = save_toy(root / "runs" / "d", patch)
        variants = ("@steps=1", "@steps=16", "@steps=0,guidance=1", "@steps=0,guidance=2")
        entrants = enter(split_models(",".join(f"{toy}{v}" for v in variants)))
        return compare(entrants, CONFIG, root / "out", instruments=tools)


def value(result: Result, model: str, name: str) -> float:
    found = result.standing(model).figure(name).value
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


def test_models_with_other_options_share_their_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = save_toy(tmp_path / "d", monkeypatch)
    loads: list[object] = []
    monkeypatch.setattr("tests.corpus.toy.load", lambda folder, facts: loads.append(folder) or Toy(facts))
    a, b, c = enter([str(toy), f"{toy}@steps=2", f"{toy}@steps=3"])
    assert len(loads) == 1
    assert [e.generator.steps for e in (a, b, c)] == [4, 2, 3]  # type: ignore[attr-defined]
    assert len({str(e.identity) for e in (a, b, c)}) == 3


def test_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = save_toy(tmp_path / "d", monkeypatch)
    with pytest.raises(MesynthError, match="given twice"):
        enter([f"{toy}@steps=2,guidance=1", f"{toy}@guidance=1, steps=2"])
    with pytest.raises(ConfigError, match="motion-prior has no option 'steps'; it knows none"):
        enter(["motion-prior@steps=4"])
    with pytest.raises(ConfigError, match="toy has no option 'heads'; choose from steps, guidance"):
        enter([f"{toy}@heads=2"])
    assert shown_names(["/a/b/c@x=/d/e/f", "/z/b/c@x=/d/e/f"]) == ["/a/b/c@x=/d/e/f", "/z/b/c@x=/d/e/f"]
    assert shown_names(["/a/b/c@x=/d/e/f"]) == ["b/c@x=/d/e/f"]


# ---------------------------------------------------------------- goals


def family(generator: Toy | Twisted, name: str) -> Toy | Twisted:
    generator.family = name
    return generator


def goals(
    tools: Instruments, out: Path, config: ContestConfig = CONFIG, **generators: Toy | Twisted
) -> dict[str, dict[str, tuple[bool | None, str]]]:
    some = [Entrant(name=name, generator=generator) for name, generator in generators.items()]
    found = compare(some, config, out, instruments=tools)
    return {s.name: {g.name: (g.holds, g.text) for g in s.goals if g.name in GOALS} for s in found.standings}


def test_goals_of_diffusion_beside_the_motion_gan(tools: Instruments, tmp_path: Path) -> None:
    found = goals(
        tools, tmp_path / "a",
        exact=family(Twisted(lambda a: a), "motion_diffusion"),
        poor=family(Toy(FACTS, 1, 0.5), "motion_diffusion"),
        gan=family(Twisted(lambda a: np.float32(0.9) * a), "motion_gan"),
        worse=family(Twisted(lambda a: np.float32(0.2) * a), "motion_gan"),
    )  # fmt: skip
    assert found["gan"] == found["worse"] == found[TRUTH] == {}
    exact, poor = ([found[name][goal] for goal in GOALS] for name in ("exact", "poor"))
    assert [holds for holds, _ in exact] == [True, True, False, True, None]
    assert [holds for holds, _ in poor] == [False, False, True, False, None]
    assert exact[1][1].endswith("of gan on 16 common answers")
    assert "timed with 3 frames of 64 px" in exact[4][1]
    assert "of gan" in exact[3][1]


def test_goals_that_cannot_be_told(tools: Instruments, tmp_path: Path) -> None:
    one = replace(CONFIG, codes=(12,), levels=(0.4,))
    found = goals(tools, tmp_path / "a", one, alone=family(Twisted(lambda a: a), "flow_volume"))
    assert [found["alone"][goal][0] for goal in GOALS] == [None] * 5
    texts = [found["alone"][goal][1] for goal in GOALS[:4]]
    assert texts == ["no motion_gan is among the models"] * 3 + ["no other family takes part"]


def test_a_second_for_a_clip(result: Result) -> None:
    from mesynth.benchmark.figures import Figure

    def held(seconds: float | None) -> bool | None:
        timed = Figure(name="clip of 64 frames, 128 px", value=seconds)
        s = result.standings[1]
        figures = (*(f for f in s.figures if not f.name.startswith("clip of")), timed)
        quick = replace(s, family="motion_diffusion", figures=figures, goals=())
        config = replace(CONFIG, clip_frames=64, size=128)
        (out,) = with_diffusion_goals([quick], [ANSWERED], config)  # type: ignore[list-item]
        return out.goals[-1].holds

    assert held(0.9) is True
    assert held(1.1) is False
    assert held(None) is None


class _Empty:
    """Answers that no goal of speed looks at."""

    asked: tuple[object, ...] = ()
    trusted = ()


ANSWERED = _Empty()
