"""The exact truth of a benchmark, checked against what made it: landmarks of the head and the faces of `generate`; and
who takes part.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import save_file

from mesynth.benchmark.answers import psnr
from mesynth.benchmark.protocol import (
    BENCHMARK_SEEDS,
    BenchmarkConfig,
    Candidate,
    Person,
    RenderedTruth,
    Request,
    default_models,
    load_candidates,
    requests,
    shown_names,
    weights_size,
)
from mesynth.benchmark.result import sheet
from mesynth.benchmark.run import one_thread
from mesynth.cli.generators import compare
from mesynth.commandline import MistakeGroup
from mesynth.core.errors import ConfigError, LeakError, MesynthError
from mesynth.core.facs import AU_CODES, AU_INDEX, MIDLINE
from mesynth.core.profiles import Profile
from mesynth.corpus import faces
from mesynth.generators import registry
from mesynth.head import Subject
from mesynth.metrics.judge_train import JUDGE_SEEDS
from mesynth.metrics.networks import judge
from mesynth.motion.warp import backward_flow, warp_backward
from mesynth.preprocess.align import SimilarityCrop
from mesynth.store.generator_folder import WEIGHTS
from mesynth.training.data.rendered import RENDER_SCALE, TRAIN_SEEDS, VALIDATION_SEEDS
from tests.benchmark.fakes import FlowsOnly, Still

# ---------------------------------------------------------------- people and requests


SIZE = 128


@pytest.fixture(scope="module")
def person() -> Person:
    return Person(BENCHMARK_SEEDS[3], SIZE)


def test_nobody_else_has_these_people() -> None:
    for other in (TRAIN_SEEDS, VALIDATION_SEEDS, JUDGE_SEEDS):
        assert not set(other) & set(BENCHMARK_SEEDS)


def test_faces_are_those_that_generate_prepares(person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = Subject(person.seed, size=round(RENDER_SCALE * SIZE))
    picture = subject.render(np.zeros((1, len(AU_CODES), 2), np.float32))[0]
    monkeypatch.setattr(faces.FaceWorker, "_load", lambda *_: (picture, subject.landmarks()))
    made = faces.FaceWorker(SIZE, "auto")(faces.FaceSource("rendered", "x", "l", "", faces.Path("x")))
    assert made.frames is not None
    np.testing.assert_array_equal(made.frames[0], person.face.image)
    np.testing.assert_array_equal(made.landmarks, person.face.landmarks)
    assert f"rendered/person{person.seed:010d}" == person.key


@pytest.mark.parametrize(("code", "points"), [(1, (21, 22)), (4, (19, 24)), (9, (31, 35)), (12, (49, 53))])
def test_the_exact_flow_carries_the_landmarks(person: Person, code: int, points: tuple[int, ...]) -> None:
    request = Request(code, "B", 0.75)
    subject = Subject(person.seed, size=round(RENDER_SCALE * SIZE))
    crop = SimilarityCrop.from_landmarks(subject.landmarks(), SIZE)
    at, to = crop.points(subject.landmarks()), crop.points(subject.landmarks(request.aus.intensity))
    uv, inside = person.flow(request)
    for k in points:
        x, y = np.round(at[k]).astype(int)
        assert inside[y, x]
        moved = to[k] - at[k]
        assert np.hypot(*moved) > 0.5
        assert np.hypot(*(uv[:, y, x] - moved)) < 0.06 * np.hypot(*moved)


def test_the_onset_warped_by_the_exact_flow_is_nearly_the_apex(person: Person) -> None:
    request = Request(1, "B", 0.5)
    uv, _ = person.flow(request)
    forward = np.ascontiguousarray(uv.transpose(1, 2, 0))
    apex = person.inner(person.exact(request.aus).apex)
    warped = np.clip(warp_backward(person.onset, backward_flow(forward)) + 0.5, 0, 255).astype(np.uint8)
    assert psnr(warped, apex) > psnr(person.onset, apex) + 3


def test_the_face_is_most_of_the_crop_and_none_of_its_corners(person: Person) -> None:
    assert 0.3 < person.on_face.mean() < 0.95
    right, left = person.landmarks[36:42].mean(0), person.landmarks[42:48].mean(0)
    assert np.allclose((right + left) / 2, [0.5 * SIZE - 0.5, 0.35 * SIZE - 0.5], atol=1e-3)
    assert person.on_face[round(right[1]), round(right[0])]
    assert not person.on_face[0, 0]


def test_the_truth_knows_only_its_own_people(person: Person) -> None:
    truth, ask = RenderedTruth(), Request(12, "L", 0.5)
    with pytest.raises(MesynthError, match="only its own people"):
        truth.generate(person.face, ask.aus, Profile(apex=0.5), n_frames=3, fps=100.0)
    truth.meet(person)
    sample, _ = truth.generate(person.face, ask.aus, Profile(apex=0.5), n_frames=5, fps=100.0)
    assert sample.clip.apex == 2
    np.testing.assert_array_equal(sample.clip.frames[0], person.face.image)
    np.testing.assert_array_equal(sample.clip.frames[4], person.face.image)
    np.testing.assert_array_equal(sample.clip.apex_frame, person.exact(ask.aus).apex)


def test_requests_ask_for_every_au_on_both_sides_and_one() -> None:
    config = BenchmarkConfig()
    asked = requests(config)
    assert len(asked) == 1 + 5 * (25 + 18)
    assert not asked[0].aus.intensity.any()
    assert len({r.aus.intensity.tobytes() for r in asked}) == len(asked)
    for code in AU_CODES:
        own = [r for r in asked[1:] if r.code == code]
        assert [r.level for r in own if r.side == "B"] == list(config.levels)
        assert {r.side for r in own} == ({"B"} if code in MIDLINE else {"B", "L", "R"})
        assert [r.level for r in own if r.pictured] == [0.5, 1.0]
        for r in own:
            others = np.delete(r.aus.intensity, AU_INDEX[code], 0)
            assert not others.any()
    assert sum(r.diverse for r in asked) == 4


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"people": 1}, "at least 2"),
        ({"people": 10_001}, r"990000\.\.999999"),
        ({"first": 5}, "kept for comparing"),
        ({"size": 32}, r"64\.\.256"),
        ({"codes": (4, 99)}, "AU 99 is not in the vocabulary"),
        ({"codes": (12.5,)}, "AU 12.5"),
        ({"codes": ()}, "must be different"),
        ({"codes": (4, 4)}, "must be different"),
        ({"levels": (0.5, 0.2)}, "ascending"),
        ({"levels": (0.5, 1.2)}, "outside"),
        ({"levels": (0.0, 0.2)}, "outside"),
        ({"resamples": 3}, "resamples=3"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_bad_configurations(values: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        BenchmarkConfig(**values)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- candidates


@click.group(cls=MistakeGroup)
def main() -> None:
    """As the real one."""


main.add_command(compare)


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["compare", *arguments])


def test_the_prior_enters_by_name_and_is_among_the_default() -> None:
    assert default_models()[0] == "motion-prior"
    (candidate,) = load_candidates(["motion-prior"])
    assert (candidate.name, candidate.parameters, candidate.weight_bytes) == ("motion-prior", 0, 0)
    assert candidate.identity == {"generator": "motion-prior"}
    assert shown_names(["motion-prior", "/x/runs/a", "b", "/"]) == ["motion-prior", "runs/a", "b", ""]
    assert shown_names(["/x/runs/a", "/y/runs/a"]) == ["/x/runs/a", "/y/runs/a"]
    with pytest.raises(MesynthError, match="given twice"):
        load_candidates(["motion-prior", "motion-prior"])
    with pytest.raises(MesynthError, match="--models"):
        load_candidates([])


def test_a_leaky_model_is_refused_before_it_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    from mesynth.benchmark import protocol

    found = registry.find_model("motion-prior")
    leaky = replace(found, facts=replace(found.facts, subjects_seen=("rendered/person0000990000",)))
    monkeypatch.setattr(protocol, "find_model", lambda _: leaky)
    with pytest.raises(LeakError, match="runs/a learned from rendered/person0000990000"):
        load_candidates(["runs/a"])


def test_weights_are_counted_from_their_files(tmp_path: Path) -> None:
    for name, shapes in (("a", [(3, 4), (5,)]), ("b", [(2, 2, 2)])):
        (tmp_path / name).mkdir()
        save_file({str(i): np.zeros(s, np.float32) for i, s in enumerate(shapes)}, tmp_path / name / WEIGHTS)
    size = sum((tmp_path / name / WEIGHTS).stat().st_size for name in "ab")
    assert weights_size(tmp_path, ("a", "b")) == (25, size)


def test_a_saved_generator_enters_and_is_measured(tmp_path: Path) -> None:
    import torch

    from mesynth.generators.motion_gan.network import MotionGenerator
    from mesynth.store.generator_folder import save_pipeline

    facts = {"name": "motion_gan", "subjects_seen": ["rendered/person0000920000"], "licences": [], "data_hash": "",
             "config_hash": "", "images": 1, "seed": 0, "code_version": "0", "figures": {}}  # fmt: skip
    torch.manual_seed(0)
    network = MotionGenerator(size=32, width=8)
    folder = tmp_path / "runs" / "a"
    digest = save_pipeline(folder, {"generator": network}, facts, "card", size=32)
    (candidate,) = load_candidates([str(folder)])
    assert (candidate.name, candidate.identity["weights"]) == ("runs/a", digest)
    assert candidate.parameters == sum(p.numel() for p in network.parameters())
    person = Person(BENCHMARK_SEEDS[0], 64)
    shown = candidate.show(person, Request(12, "B", 0.5).aus, 0)
    assert shown.uv.shape == (2, 64, 64)
    np.testing.assert_array_equal(shown.onset, person.onset)
    leaky = {**facts, "subjects_seen": [person.key]}
    save_pipeline(folder, {"generator": network}, leaky, "card", size=32)
    with pytest.raises(LeakError, match=person.key):
        load_candidates([str(folder)])


def test_an_answer_of_another_size_is_no_answer() -> None:
    person = Person(BENCHMARK_SEEDS[0], 64)

    class Small(Still):
        def generate(self, face, *arguments, **settings):  # type: ignore[no-untyped-def]
            small = replace(face, image=np.ascontiguousarray(face.image[::2, ::2]))
            return super().generate(small, *arguments, **settings)

    with pytest.raises(MesynthError, match=r"small answered with frames \(3, 37, 37, 3\)"):
        Candidate(name="small", generator=Small()).show(person, Request(12, "B", 0.5).aus, 0)


def test_the_sheet_has_a_row_a_model_and_says_what_is_missing() -> None:
    person = Person(BENCHMARK_SEEDS[0], 64)
    some = [Still(), Still(refuses=lambda _: True), FlowsOnly()]
    candidates = [Candidate(name=f"model-{i}/with a-long_name", generator=g) for i, g in enumerate(some)]
    picture = sheet(candidates, person, (12, 4), 0)
    block = 2 * 64 + 2
    assert picture.shape == (22 + 3 * (block + 6), 110 + 3 * (block + 6), 3)
    top = picture[22 : 22 + 64, 110 : 110 + 64]
    np.testing.assert_array_equal(top, person.onset)
    assert (picture[22 + 66 : 22 + 130, 110 : 110 + 64] == 128).all()  # no difference: grey
    refused = picture[22 + block + 6 :][:64, 110 + 66 : 110 + 130]
    assert np.median(refused) == 235
    assert (refused < 100).any()  # the word
    assert sheet(candidates[:1], person, (45,), 0).shape[1] == 110 + block + 6


def test_one_thread_is_given_back() -> None:
    import torch

    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--models", "no-such-model"], "model 'no-such-model' is unknown"),
        (["--models", "motion-prior,motion-prior"], "given twice"),
        (["--subjects", "1"], "people=1"),
        (["--aus", "4,99"], "AU 99 is not in the vocabulary"),
        (["--aus", "smile"], "--aus 'smile' is no list of numbers"),
        (["--levels", "2"], "outside (0, 1]"),
        (["--size", "8"], "size=8"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, arguments: list[str], says: str) -> None:
    found = call("--out", str(tmp_path / "x"), *arguments)
    assert found.exit_code == 2, found.output
    (line,) = found.output.splitlines()
    assert says in line
    assert not (tmp_path / "x").exists()


def test_a_foreign_folder_and_a_missing_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/letter.txt").write_text("mine")
    found = call("--models", "motion-prior", "--subjects", "2", "--out", str(tmp_path / "full"))
    assert found.exit_code == 2
    assert "is not empty" in found.output
    monkeypatch.setattr(judge, "WEIGHTS", tmp_path / "gone.safetensors")
    found = call("--models", "motion-prior", "--subjects", "2", "--out", str(tmp_path / "x"))
    assert found.exit_code == 2
    assert "judge" in found.output
    assert "gone.safetensors" in found.output
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_the_command_prints_json_and_then_a_table(tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["--models", "motion-prior", "--subjects", "2", "--aus", "12", "--levels", "0.5", "--out", str(out)]
    found = call(*arguments, "--json")
    assert found.exit_code == 0, found.output
    printed = json.loads(found.stdout)
    assert [s["name"] for s in printed["standings"]] == ["rendered truth", "motion-prior"]
    assert printed["standings"][0]["figures"][0]["value"] == 0
    table = call(*arguments)  # the same command goes on
    assert table.exit_code == 0, table.output
    assert "by AU: slope of measured on target" in table.stdout
    assert "flow EPE (px)" in table.stdout
