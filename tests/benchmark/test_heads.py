"""Comparisons on the people of another head, turned or not: the same measures, on what the file gives."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from mesynth.benchmark.answers import Instruments
from mesynth.benchmark.figures import CARRIED, HOME, NONE, OPPONENTS, OTHERS
from mesynth.benchmark.protocol import (
    MAX_PICTURED,
    TRUTH,
    BenchmarkConfig,
    Candidate,
    Person,
    Request,
    carried_mean,
    home_mean,
    requests,
)
from mesynth.benchmark.result import Result, likeness_card
from mesynth.benchmark.run import compare
from mesynth.cli import main
from mesynth.core.errors import ConfigError, MesynthError, RunFolderError
from mesynth.generators.registry import PriorGenerator
from mesynth.head.foreign import ForeignHead
from mesynth.metrics.networks.judge import AUJudge
from tests.benchmark.fakes import CoarseFeatures, MeanDifference, PixelEmbedder, Still, Twisted
from tests.head.heads import arrays, write


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    given = arrays(("browDown", "mouthSmile", "jawOpen", "eyeBlink"))
    return write(tmp_path_factory.mktemp("heads") / "lab.npz", given)


@pytest.fixture(scope="module")
def head(file: Path) -> ForeignHead:
    return ForeignHead.read(file)


@pytest.fixture(scope="module")
def config(head: ForeignHead) -> BenchmarkConfig:
    return BenchmarkConfig(
        people=3, size=64, codes=(4, 12, 26), levels=(0.5,), resamples=40, clip_frames=3, repeats=1, head=head.hash
    )  # fmt: skip


@pytest.fixture(scope="module")
def tools() -> Instruments:
    own = {"features": CoarseFeatures(), "perceptual": MeanDifference(), "embedder": PixelEmbedder()}
    return Instruments(judge=AUJudge.load(), notes=(), **own)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compared") / "out"


@pytest.fixture(scope="module")
def result(head: ForeignHead, config: BenchmarkConfig, tools: Instruments, folder: Path) -> Result:
    some = {"copy": Twisted(lambda a: a), "still": Still(), "half": Twisted(lambda a: 0.5 * a),
            "prior": PriorGenerator()}  # fmt: skip
    candidates = [Candidate(name=name, generator=generator) for name, generator in some.items()]
    return compare(candidates, config, folder, head=head, instruments=tools)


def value(result: Result, model: str, key: str) -> float:
    likeness = {o.name: o.likeness for o in result.opponents} | {s.name: s.likeness for s in result.standings}
    found = next(f for f in likeness[model] if f.key == key)
    assert found.value is not None, found.note
    return found.value


def test_the_truth_and_a_copy_of_it_are_perfect(result: Result) -> None:
    for model in (TRUTH, "copy"):
        assert value(result, model, "epe") == 0
        assert value(result, model, "personal") == pytest.approx(1)
        assert value(result, model, "named") == 1
        assert value(result, model, "nearer_than_home") == 3
    assert value(result, "half", "epe_gain") < 0.15 * value(result, "half", "epe")
    assert value(result, "half", "personal") > 0.97


def test_opponents_stand_beside_the_models(result: Result) -> None:
    assert tuple(o.name for o in result.opponents) == OPPONENTS
    still = value(result, "still", "epe")
    assert still == value(result, NONE, "epe") == pytest.approx(value(result, "copy", "epe_none"))
    assert max(value(result, OTHERS, "epe"), value(result, HOME, "epe")) < 0.6 * still
    assert value(result, "still", "epe_carried") == value(result, CARRIED, "epe")
    assert value(result, HOME, "personal") == 0
    # The head is the packaged one under another name: its mean knows the motion, and the face is told by landmarks.
    assert value(result, HOME, "named") == value(result, CARRIED, "named") == 1
    assert value(result, CARRIED, "personal") > 0.3


def test_the_mean_motions_are_what_they_are_called(head: ForeignHead, config: BenchmarkConfig, result: Result) -> None:
    likened = tuple(r for r in requests(config) if r.likened)
    assert [(r.code, r.side, r.level) for r in likened] == [(4, "B", 0.5), (12, "B", 0.5), (26, "B", 0.5)]
    means, errors, carried = home_mean(likened, config.size), [], []
    for i in config.seeds:
        person = Person(i, config.size, head=head)
        moved = carried_mean(person, likened)
        for a, request in enumerate(likened):
            uv, inside = person.flow(request)
            errors.append(np.hypot(*(means[a] - uv)[:, inside]).mean())
            carried.append(np.hypot(*(moved[a] - uv)[:, inside]).mean())
    assert value(result, HOME, "epe") == pytest.approx(np.mean(errors), rel=2e-3)
    assert value(result, CARRIED, "epe") == pytest.approx(np.mean(carried), rel=2e-3)


def test_every_person_and_au_has_rows_in_all_files(result: Result, folder: Path) -> None:
    assert Result.from_json((folder / "compare.json").read_text()) == Result.from_json(result.to_json())
    assert Result.from_json(result.to_json()).to_dict() == result.to_dict()
    prior = result.standing("prior")
    assert set(prior.people) == {"0", "1", "2"}
    lines = list(csv.DictReader(io.StringIO((folder / "compare.csv").read_text())))
    own = [x for x in lines if (x["model"], x["key"], x["person"]) == ("prior", "epe", "1")]
    assert [float(x["value"]) for x in own] == [
        pytest.approx(next(f.value for f in prior.people["1"] if f.key == "epe"), rel=1e-5)
    ]
    assert {x["model"] for x in lines} >= {*OPPONENTS, TRUTH, "prior"}
    by_au = [x for x in lines if (x["model"], x["key"], x["au"]) == (TRUTH, "personal", "12")]
    assert [float(x["value"]) for x in by_au] == [pytest.approx(1)]
    text = "\n".join(result.lines())
    assert "People are those of the head 'lab'" in text
    assert "lab has no shapes for AU 1, 2, 5" in text
    table = result.likeness_table()
    assert table.row_count == len(OPPONENTS) + len(result.standings)


def test_few_pictures_are_compared_on_another_head(head: ForeignHead) -> None:
    here, there = (
        requests(BenchmarkConfig(codes=(1, 2, 4, 5, 6, 7, 9, 10, 12), levels=(0.5,), head=of))
        for of in ("", head.hash)
    )  # fmt: skip
    assert sum(r.pictured for r in here) == 9
    assert sum(r.pictured for r in there) == MAX_PICTURED
    assert sum(r.likened for r in there) == sum(r.likened for r in here) == 9


def test_a_card_says_where_it_was_measured_and_never_of_other_weights(result: Result) -> None:
    truth = replace(result.standings[0], facts={"weights_sha256": "abc"})
    turned = replace(result, standings=(truth,), settings=result.settings | {"yaw": 25.0, "head_name": ""})
    text = likeness_card([replace(result, standings=(truth,)), turned], "abc")
    assert "| lab, 3 people | 0.000 |" in text
    assert "| packaged, 3 people, yaw 25 | 0.000 |" in text
    assert "| 1.000 | 1.000 |" in text
    with pytest.raises(MesynthError, match="no figures of these weights"):
        likeness_card([result], "other")
    assert likeness_card([replace(result, standings=(replace(truth, likeness=()),))], "abc") == ""


@pytest.mark.parametrize("of_head", [False, True])
def test_turned_people_move_as_their_landmarks_do(head: ForeignHead, of_head: bool) -> None:
    seed = 1 if of_head else 990_001
    person = Person(seed, 96, head=head if of_head else None, yaw=25)
    straight = Person(seed, 96, head=head if of_head else None)
    offset = person.landmarks[30] - person.landmarks[36:48].mean(0)
    before = straight.landmarks[30] - straight.landmarks[36:48].mean(0)
    assert offset[0] - before[0] > 4
    request = Request(12, "B", 0.5)
    uv, inside = person.flow(request)
    assert 0.25 < inside.mean() < 0.95
    at = person.landmarks
    moved = person.crop_points(request.aus) - at
    seen = [i for i in range(17, 68) if inside[tuple(at[i].round().astype(int)[::-1])]]
    assert len(seen) > 20
    found = np.stack([uv[(slice(None), *at[i].round().astype(int)[::-1])] for i in seen])
    assert np.median(np.hypot(*(found - moved[seen]).T)) < 0.1
    assert np.hypot(*moved.T).max() > 2


def test_another_head_or_turn_is_another_run(
    head: ForeignHead, config: BenchmarkConfig, tools: Instruments, folder: Path, result: Result
) -> None:
    candidates = [Candidate(name=s.name, generator=Still()) for s in result.standings[1:]]
    with pytest.raises(RunFolderError, match="another run"):
        compare(candidates, replace(config, yaw=25.0), folder, head=head, instruments=tools)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"codes": (4, 17)}, r"lab has no shapes for AU 17 \(mouthShrugLower\); its AUs are 4,12,26,27,43,45"),
        ({"yaw": 60.0}, r"yaw 60 is outside -40\.\.40 degrees"),
        ({"pitch": float("nan")}, "pitch nan is outside"),
        ({"head": "other"}, "head is not the head given"),
    ],
)
def test_what_a_head_cannot_show_is_refused(
    change: dict[str, object], says: str, head: ForeignHead, config: BenchmarkConfig, tmp_path: Path, tools: Instruments
) -> None:
    with pytest.raises(ValueError, match=says) as error:
        compare([Candidate(name="still", generator=Still())], replace(config, **change), tmp_path / "x",  # type: ignore[arg-type]
                head=head, instruments=tools)  # fmt: skip
    assert "\n" not in str(error.value)
    assert not (tmp_path / "x").exists()


def test_more_people_than_the_file_has(tmp_path: Path, tools: Instruments, config: BenchmarkConfig) -> None:
    given = arrays()
    people = np.stack([given["vertices"], given["vertices"] + given["ident"][0]])
    few = ForeignHead.read(write(tmp_path / "few.npz", given | {"identities": people}))
    wanted = replace(config, head=few.hash)
    with pytest.raises(ConfigError, match="people=3, and few has 2; choose fewer"):
        compare([Candidate(name="still", generator=Still())], wanted, tmp_path / "x", head=few, instruments=tools)
    one = ForeignHead.read(write(tmp_path / "one.npz", {k: v for k, v in given.items() if k != "ident"}))
    with pytest.raises(ConfigError, match="one has 1 and means of others need at least 2"):
        compare([Candidate(name="still", generator=Still())], replace(config, head=one.hash, people=2), tmp_path / "x",
                head=one, instruments=tools)  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--head", "nowhere.npz"], "nowhere.npz is no file"),
        (["--head", "FILE", "--aus", "17"], "lab has no shapes for AU 17"),
        (["--head", "FILE", "--yaw", "50"], "yaw 50 is outside"),
        (["--yaw", "50"], "yaw 50 is outside"),
        (["--pitch", "x"], "'x' is not a valid float"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line_and_exit_code_2(
    arguments: list[str], says: str, file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    given = [str(file) if a == "FILE" else a for a in arguments]
    found = CliRunner().invoke(main, ["compare", "--models", "motion-prior", "--out", str(out), *given])
    assert found.exit_code == 2
    assert says in found.output
    assert not out.exists()
