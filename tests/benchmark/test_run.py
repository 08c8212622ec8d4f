"""The truth must win, and generators that are wrong on purpose must be caught, each at its fault."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from mesynth.benchmark.answers import Instruments
from mesynth.benchmark.protocol import TRUTH, BenchmarkConfig, Candidate
from mesynth.benchmark.result import Result
from mesynth.benchmark.run import compare
from mesynth.core.errors import LeakError, MesynthError, RunFolderError
from mesynth.corpus.verify import verify
from mesynth.generators.registry import PriorGenerator
from mesynth.metrics.base import slug
from mesynth.metrics.networks.judge import AUJudge
from mesynth.store.videos import read_image
from tests.benchmark.fakes import (
    CoarseFeatures,
    FlowsOnly,
    MeanDifference,
    PixelEmbedder,
    Still,
    Twisted,
)

CONFIG = BenchmarkConfig(people=2, codes=(4, 12, 43), levels=(0.2, 0.4), resamples=40, clip_frames=3, repeats=1)


def candidates() -> list[Candidate]:
    return [
        Candidate(name="prior", generator=PriorGenerator()),
        Candidate(name="copy", generator=Twisted(lambda a: a)),
        Candidate(name="still", generator=Still()),
        Candidate(name="swapped", generator=Twisted(lambda a: a[:, ::-1])),
        Candidate(name="double", generator=Twisted(lambda a: np.minimum(2 * a, 1))),
        Candidate(name="moody", generator=Still(refuses=lambda aus: bool(aus.intensity[8].any()))),  # AU 12
        Candidate(name="mute", generator=Still(refuses=lambda aus: True)),
        Candidate(name="images", generator=FlowsOnly()),
    ]


@pytest.fixture(scope="module")
def tools() -> Instruments:
    """The real judge; of the pictures' networks small ones that can be reckoned by hand."""
    return Instruments(
        judge=AUJudge.load(), features=CoarseFeatures(), perceptual=MeanDifference(), embedder=PixelEmbedder(), notes=()
    )  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("contest") / "out"


@pytest.fixture(scope="module")
def result(tools: Instruments, folder: Path) -> Result:
    return compare(candidates(), CONFIG, folder, instruments=tools)


def value(result: Result, model: str, name: str, au: int | None = None) -> float:
    standing = result.standing(model)
    figures = standing.figures if au is None else standing.by_au[au]
    found = next(f for f in figures if slug(name) in (f.key, slug(f.name)))
    assert found.value is not None, found.note
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.high
    return found.value


def test_the_truth_is_perfect_and_a_copy_of_it_cannot_be_told_apart(result: Result) -> None:
    for model in (TRUTH, "copy"):
        assert value(result, model, "flow EPE") == 0
        assert value(result, model, "flow KID") == 0
        assert value(result, model, "diversity") == 0
        assert value(result, model, "  more than the truth") == 0
        assert value(result, model, "PSNR to the true apex") == 100
        assert value(result, model, "change at rest") == 0
        assert value(result, model, "right side") == 1
        for au in (4, 12):
            assert value(result, model, "AU slope, both sides", au) == pytest.approx(1, abs=0.3)
            assert value(result, model, "Spearman over intensities", au) == pytest.approx(1)
    assert value(result, TRUTH, "identity distance") > 0
    assert value(result, TRUTH, "  between people") > value(result, TRUTH, "identity distance")
    assert value(result, TRUTH, "  of zero flow") > 0.2
    own, copy = (result.standing(m).by_au for m in (TRUTH, "copy"))
    assert own == copy


def test_no_motion_is_the_zero_flow_baseline(result: Result) -> None:
    assert value(result, "still", "flow EPE") == value(result, "still", "  of zero flow")
    assert value(result, "still", "relative EPE") == 1
    assert value(result, "still", "flow KID") == value(result, "still", "  flow KID of no motion") > 0
    assert value(result, "still", "PSNR to the true apex") == value(result, "still", "  PSNR of the onset")
    assert value(result, "still", "identity distance") == pytest.approx(0, abs=1e-6)
    for name in ("KID-coarse", "FD-coarse", "difference to the true apex"):
        beside = name.replace(" to the true apex", "")
        assert value(result, "still", name) == pytest.approx(
            value(result, "still", f"  {beside} of the onset"), abs=1e-9
        )
    for au in (4, 12, 43):
        assert value(result, "still", "AU slope", au) == pytest.approx(0, abs=1e-3)
        assert value(result, "still", "flow EPE", au) == value(result, TRUTH, "  of zero flow", au)


def test_twice_the_intensity_shows_a_slope_of_two(result: Result) -> None:
    for au in (4, 12):
        ratio = value(result, "double", "AU slope", au) / value(result, TRUTH, "AU slope", au)
        assert ratio == pytest.approx(2, abs=0.3)
        assert value(result, "double", "relative EPE", au) == pytest.approx(1, abs=0.1)
    assert value(result, "double", "AUs with slope 0.8-1.2, of 2 trusted") == 0


def test_swapped_sides_are_caught_on_one_side_and_nowhere_else(result: Result) -> None:
    assert value(result, "swapped", "side slope") == pytest.approx(-value(result, TRUTH, "side slope"), abs=0.2)
    assert value(result, "swapped", "right side") == 0
    assert value(result, "swapped", "relative EPE") > 0.3
    for au in (4, 12):
        same = [value(result, m, "AU slope, both sides", au) for m in (TRUTH, "swapped")]
        assert same[0] == same[1]
        assert value(result, "swapped", "AU slope", au) < 0.8 * value(result, TRUTH, "AU slope", au)


def test_the_prior_lies_between_no_motion_and_the_truth(result: Result) -> None:
    assert 0 < value(result, "prior", "flow EPE") < 0.7 * value(result, "prior", "  of zero flow")
    assert value(result, "prior", "right side") == 1
    assert 0.3 < value(result, "prior", "AU slope, both sides", 12) < 1.3


def test_what_a_generator_refuses_is_listed_and_left_out_of_its_references_too(result: Result) -> None:
    prior, moody, mute = (result.standing(name) for name in ("prior", "moody", "mute"))
    assert prior.refused == {}  # lids are layers: no closure folds the picture
    assert prior.answered == prior.requests
    assert set(moody.refused["not today; ask for something else"]) == {"12=0.2", "12=0.4", "R12=0.2", "L12=0.4"}
    assert value(result, "moody", "flow EPE") == value(result, "moody", "  of zero flow")
    assert value(result, "moody", "  of zero flow") != value(result, "still", "  of zero flow")
    assert {f.key: f for f in moody.by_au[12]}["flow_epe"].value is None
    assert f"mute: {mute.requests} of {mute.requests} requests were refused" in result.lines()
    assert mute.answered == 0
    assert all(f.value is None and f.note for f in mute.figures if f.key != "between_people")


def test_a_family_without_frames_gets_what_can_be_measured_and_reasons_for_the_rest(result: Result) -> None:
    assert value(result, "images", "flow EPE") > value(result, "images", "  of zero flow")
    assert value(result, "images", "diversity") > 0
    assert value(result, "images", "flow KID") > value(result, "images", "  flow KID of no motion")
    psnr = result.standing("images").figure("psnr_to_the_true_apex")
    assert (psnr.value, psnr.note) == (None, "makes flow images only, no frames")
    assert any("images: no" in line and "no frames" in line for line in result.lines())


def test_mean_flow_is_that_of_the_others(result: Result) -> None:
    from mesynth.benchmark.protocol import Person, requests

    asked = requests(CONFIG)
    people = [Person(seed, CONFIG.size) for seed in CONFIG.seeds]
    errors = []
    for own, other in (people, people[::-1]):
        mean = np.mean([other.flow(r)[0] for r in asked[1:]], 0)
        for request in asked[1:]:
            uv, inside = own.flow(request)
            errors.append(np.hypot(*(mean - uv)[:, inside]).mean())
    assert value(result, TRUTH, "  of mean flow") == pytest.approx(np.mean(errors), rel=1e-5)


def test_the_files_hold_the_result(result: Result, folder: Path) -> None:
    stored = json.loads((folder / "compare.json").read_text())
    assert [s["name"] for s in stored["standings"]] == [TRUTH, *(e.name for e in candidates())]
    assert stored == result.to_dict()
    assert Result.from_json((folder / "compare.json").read_text()).to_dict() == stored
    lines = list(csv.DictReader(io.StringIO((folder / "compare.csv").read_text())))
    (line,) = [x for x in lines if (x["model"], x["measure"], x["au"]) == ("prior", "flow EPE", "12")]
    assert float(line["value"]) == pytest.approx(value(result, "prior", "flow EPE", 12), rel=1e-5)
    picture = read_image(folder / "sheet.png")
    assert picture.shape[0] > 9 * 2 * CONFIG.size
    assert len(np.unique(picture)) > 100


def steady(result: Result) -> list[list[object]]:
    return [[f for f in s.figures if f.key != "seconds"] + [s.by_au] for s in result.standings]


def test_same_seed_same_figures_and_a_second_start_goes_on(tools: Instruments, tmp_path: Path) -> None:
    few = BenchmarkConfig(people=2, codes=(4,), levels=(0.5,), resamples=20, clip_frames=3, repeats=1)
    prior = [Candidate(name="motion-prior", generator=PriorGenerator())]
    first = compare(prior, few, tmp_path / "a", instruments=tools)
    calls: list[tuple[int, int]] = []
    again = compare(prior, few, tmp_path / "b", instruments=tools, progress=lambda *at: calls.append(at))
    assert steady(first) == steady(again)
    assert calls[-1] == (6, 6)
    assert (verify(tmp_path / "a").kind, verify(tmp_path / "a").problems) == ("comparison", ())
    parts = sorted((tmp_path / "a/parts").iterdir())
    untouched = {p: p.stat().st_mtime_ns for p in parts[1:]}
    parts[0].unlink()
    assert steady(compare(prior, few, tmp_path / "a", instruments=tools)) == steady(first)
    assert {p: p.stat().st_mtime_ns for p in parts[1:]} == untouched
    assert verify(tmp_path / "a").clean
    with pytest.raises(RunFolderError, match="another run"):
        compare([Candidate(name="still", generator=Still())], few, tmp_path / "a", instruments=tools)


def test_whoever_learned_from_these_people_is_refused(tools: Instruments, tmp_path: Path) -> None:
    seen = ("casme2/sub01", "rendered/person0000999999")
    with pytest.raises(LeakError, match=r"cheat learned from rendered/person0000999999.*990000\.\.999999"):
        compare([Candidate(name="cheat", generator=Still(seen=seen))], CONFIG, tmp_path / "x", instruments=tools)
    assert not (tmp_path / "x").exists()
    for names in ([], ["a", "a"], [TRUTH]):
        with pytest.raises(MesynthError, match="named differently"):
            compare([Candidate(name=n, generator=Still()) for n in names], CONFIG, tmp_path / "x", instruments=tools)
