"""Names become generators; the command line answers mistakes in one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import save_file

from mesynth.benchmark.candidates import Candidate, default_models, load_candidates, shown_names, weights_size
from mesynth.benchmark.people import Person
from mesynth.benchmark.requests import BENCHMARK_SEEDS, Request
from mesynth.benchmark.result import sheet
from mesynth.benchmark.run import one_thread
from mesynth.cli.train import compare
from mesynth.commandline import MistakeGroup
from mesynth.core.errors import LeakError, MesynthError
from mesynth.generators import registry
from mesynth.metrics.networks import judge
from mesynth.store.generator_folder import WEIGHTS
from tests.benchmark.fakes import FlowsOnly, Still


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
    from mesynth.benchmark import candidates

    found = registry.find_model("motion-prior")
    leaky = replace(found, facts=replace(found.facts, subjects_seen=("rendered/person0000990000",)))
    monkeypatch.setattr(candidates, "find_model", lambda _: leaky)
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
