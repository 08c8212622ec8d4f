"""The project's goals follow from the answers of a comparison: those of all generators, and those of diffusion."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mesynth.benchmark.answers import Instruments
from mesynth.benchmark.figures import Figure
from mesynth.benchmark.protocol import TRUTH, BenchmarkConfig, Candidate
from mesynth.benchmark.result import Result, Standing
from mesynth.benchmark.run import compare, read_answers
from mesynth.core.errors import RunFolderError
from mesynth.generators.registry import PriorGenerator
from mesynth.metrics.networks.judge import AUJudge
from tests.bench.goals import Goal, goals_of, read_goals, seconds_of, speed_goals
from tests.benchmark.fakes import PixelEmbedder, Still, Twisted
from tests.corpus.toy import FACTS, Toy

CONFIG = BenchmarkConfig(people=2, codes=(4, 12), levels=(0.4, 0.8), size=64, resamples=40, clip_frames=3, repeats=1)
WEAK = replace(CONFIG, levels=(0.2, 0.4))  # twice as much is still less than all
GOALS = (
    "as many AUs with slope 0.8-1.2 as motion_gan",
    "EPE no worse than motion_gan's",
    "more diverse than motion_gan",
    "lowest flow KID of all families",
    "at most 1 s for 64 frames of 128 px",
)


@pytest.fixture(scope="module")
def tools() -> Instruments:
    """The real judge, and of the networks of pictures a small embedder."""
    return Instruments(judge=AUJudge.load(), features=None, perceptual=None, embedder=PixelEmbedder(), notes=())  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tools: Instruments, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("goals") / "out"
    some = {"prior": PriorGenerator(), "copy": Twisted(lambda a: a), "still": Still(),
            "double": Twisted(lambda a: np.minimum(2 * a, 1)), "mute": Still(refuses=lambda aus: True)}  # fmt: skip
    compare([Candidate(name=n, generator=g) for n, g in some.items()], WEAK, out, instruments=tools)
    return out


def test_goals_follow_from_the_answers(folder: Path) -> None:
    found = {name: [goal.holds for goal in goals] for name, goals in read_goals(folder).items()}
    assert found[TRUTH] == []
    assert found["copy"] == [True, True, None, True, None]  # two AUs are too few to tell, no GAN takes part
    assert found["still"] == [False, False, None, True, None]
    assert found["prior"][1] is None
    assert found["double"][:2] == [False, False]
    assert set(found["mute"]) == {None}


def _timed(result: Result, name: str, family: str, seconds: float | None) -> Standing:
    figure = Figure(name="clip of 64 frames, 128 px", key="seconds", value=seconds)
    others = tuple(f for f in result.standing("still").figures if f.key != "seconds")
    return replace(result.standing("still"), name=name, family=family, figures=(*others, figure))


@pytest.fixture(scope="module")
def result(folder: Path) -> Result:
    return Result.from_json((folder / "compare.json").read_text())


@pytest.mark.parametrize("listed", [True, False])
def test_answers_that_were_damaged_are_named(folder: Path, tmp_path: Path, listed: bool) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    if not listed:  # as while the comparison is made
        (copy / "SHA256SUMS").unlink()
    file = sorted(copy.glob("parts/*.npz"))[0]
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] + b"?" + whole[len(whole) // 2 + 1 :])
    with pytest.raises(RunFolderError, match=file.name):
        read_answers(copy, WEAK, [""] * 6, ())


def test_speed_is_compared_with_the_fastest_gan_that_paints_frames(result: Result) -> None:
    some = [
        ("quick", "q", 0.1),
        ("slow", "q", 0.2),
        ("a", "au_icgan", 5.0),
        ("b", "ice_gan", 3.1),
        ("c", "flow_gan", 1),
    ]
    standings = [_timed(result, *one) for one in some]
    slow = {s.name: seconds for s in standings[2:4] if (seconds := seconds_of(s))}
    held = [speed_goals(s, slow) for s in standings]
    assert [[g.holds for g in goals] for goals in held] == [[True], [False], [], [], []]
    assert held[0][0].text == "31.0 times b"


@pytest.mark.parametrize(("seconds", "holds"), [(0.9, True), (1.1, False), (None, None)])
def test_a_second_for_a_clip(result: Result, folder: Path, seconds: float | None, holds: bool | None) -> None:
    from mesynth.benchmark.run import read_answers

    quick = _timed(result, "quick", "motion_diffusion", seconds)
    (answered,) = read_answers(folder, WEAK, ["rendered"], ())
    found = goals_of([quick], [answered], replace(WEAK, clip_frames=64, size=128))
    assert found["quick"][-1].holds is holds


def family(generator: Toy | Twisted, name: str) -> Toy | Twisted:
    generator.family = name
    return generator


def diffusion_goals(
    tools: Instruments, out: Path, config: BenchmarkConfig = CONFIG, **generators: Toy | Twisted
) -> dict[str, dict[str, Goal]]:
    some: Sequence[Candidate] = [Candidate(name=name, generator=generator) for name, generator in generators.items()]
    compare(some, config, out, instruments=tools)
    return {name: {g.name: g for g in goals if g.name in GOALS} for name, goals in read_goals(out).items()}


def test_goals_of_diffusion_beside_the_motion_gan(tools: Instruments, tmp_path: Path) -> None:
    found = diffusion_goals(
        tools, tmp_path / "a",
        exact=family(Twisted(lambda a: a), "motion_diffusion"),
        poor=family(Toy(FACTS, 1, 0.5), "motion_diffusion"),
        gan=family(Twisted(lambda a: np.float32(0.9) * a), "motion_gan"),
        worse=family(Twisted(lambda a: np.float32(0.2) * a), "motion_gan"),
    )  # fmt: skip
    assert found["gan"] == found["worse"] == found[TRUTH] == {}
    exact, poor = ([found[name][goal] for goal in GOALS] for name in ("exact", "poor"))
    assert [g.holds for g in exact] == [True, True, False, True, None]
    assert [g.holds for g in poor] == [False, False, True, False, None]
    assert exact[1].text.endswith("of gan on 16 common answers")
    assert "timed with 3 frames of 64 px" in exact[4].text
    assert "of gan" in exact[3].text


def test_goals_that_cannot_be_told(tools: Instruments, tmp_path: Path) -> None:
    one = replace(CONFIG, codes=(12,), levels=(0.4,))
    found = diffusion_goals(tools, tmp_path / "a", one, alone=family(Twisted(lambda a: a), "flow_volume"))
    assert [found["alone"][goal].holds for goal in GOALS] == [None] * 5
    texts = [found["alone"][goal].text for goal in GOALS[:4]]
    assert texts == ["no motion_gan is among the models"] * 3 + ["no other family takes part"]
