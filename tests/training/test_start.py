"""Training that begins with another run's weights: it does, it says so, and it does not leak."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mesynth.core.errors import ConfigError, LeakError, RunFolderError
from mesynth.generators.motion_gan.network import MotionGenerator
from mesynth.generators.motion_gan.task import MotionGANTask
from mesynth.store.digests import seal
from mesynth.store.generator_folder import INDEX, SHIPPED, WEIGHTS, PipelineError, read_facts, save_pipeline
from mesynth.store.stage import Interrupted
from mesynth.training import checkpoint
from mesynth.training.checkpoint import open_initial
from mesynth.training.config import Recipe, load_recipe
from mesynth.training.forecast import forecast
from mesynth.training.loop import build_task
from mesynth.training.train import Machine, cross_fit, train
from tests.training import small_manifest
from tests.training.small_manifest import SIZE, Job

RECIPE = """task: motion_gan
model: {width: 4, template: 8, blocks: 1, residual: false, discriminator: 4}
loss: {epe: 1, l1: 1, adversarial: 0.1}
optim: {generator: 1.0e-3}
data: {source: manifest, size: %d, frames: 3}
run: {images: 32, batch: 4, validation: 4, sheet: 0, checkpoint_images: 8, checkpoint_minutes: 0, patience: 0,
  prefetch: 0}
"""
Make = Callable[..., Recipe]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of two databases, and a run on the first."""
    out = tmp_path_factory.mktemp("start")
    small_manifest.write(out / "a", small_manifest.jobs("a/1", "a/2", "a/3"))
    small_manifest.write(out / "b", small_manifest.jobs("b/1", "b/2", "b/3"))
    (out / "tiny.yaml").write_text(RECIPE % SIZE)
    train(
        load_recipe(out / "tiny.yaml", [f"data.manifests=[{out / 'a'}]", "run.seed=5"]), out / "first", machine=on(out)
    )
    return out


def on(place: Path) -> Machine:
    return Machine(device="cpu", cache=place / "cache")


@pytest.fixture
def second(place: Path) -> Make:
    """A recipe on the second database, which begins with the first run unless told otherwise."""

    def make(*settings: str, start: Path | None = None, data: str = "b") -> Recipe:
        begun = f"run.start={start or place / 'first'}"
        return load_recipe(place / "tiny.yaml", [f"data.manifests=[{place / data}]", begun, *settings])

    return make


def _record(run: Path) -> dict[str, object]:
    return json.loads((run / "record.json").read_text())


def test_the_averaged_networks_begin_with_the_weights(place: Path, second: Make) -> None:
    recipe = second()
    saved = load_file(place / "first" / "generator" / "generator" / WEIGHTS)
    begun, fresh = (build_task(recipe, start).networks for start in (open_initial(recipe), None))
    for name, value in begun["generator"].state_dict().items():
        assert torch.equal(value, saved[name]), name
    assert any(not torch.equal(v, saved[n]) for n, v in fresh["generator"].state_dict().items())
    for name, value in begun["discriminator"].state_dict().items():  # a saved generator holds none: as without start
        assert torch.equal(value, fresh["discriminator"].state_dict()[name]), name


def test_whom_the_start_has_seen_the_run_has_seen(place: Path, second: Make, tmp_path: Path) -> None:
    done = train(second(), tmp_path / "run", machine=on(place))
    first, facts = read_facts(place / "first" / "generator"), read_facts(tmp_path / "run" / "generator")
    assert first.subjects_seen
    assert {key.partition("/")[0] for key in facts.subjects_seen} == {"a", "b"}
    assert set(first.subjects_seen) < set(facts.subjects_seen) == set(done.subjects_seen)
    record = _record(tmp_path / "run")
    assert record["subjects_seen"] == list(facts.subjects_seen)
    assert record["start"] == {"weights_sha256": first.weights_sha256, "images": 32}
    assert facts.config_hash == record["config_hash"] == second().hash(first.weights_sha256) != second().hash()
    assert first.subjects_seen[0] in (tmp_path / "run" / "generator" / "README.md").read_text()


def test_whom_a_teacher_has_seen_the_run_has_seen(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = load_recipe(place / "tiny.yaml", [f"data.manifests=[{place / 'b'}]"])
    held = _validated(recipe, place)
    teacher = replace(read_facts(place / "first" / "generator"), subjects_seen=("a/1", *held), licences=("of a",))
    monkeypatch.setattr(MotionGANTask, "teachers", lambda task: {"distil.teacher": teacher})
    train(recipe, tmp_path / "run", machine=on(place))
    facts = read_facts(tmp_path / "run" / "generator")
    assert {"a/1", *held} < set(facts.subjects_seen) == set(_record(tmp_path / "run")["subjects_seen"])  # type: ignore[call-overload]
    assert "of a" in facts.licences
    assert f"distil.teacher has learned from {len(held)} of the subjects that validate" in capsys.readouterr().err


def test_licences_are_united(place: Path, second: Make, tmp_path: Path) -> None:
    shutil.copytree(place / "first" / "generator", tmp_path / "g")
    index = json.loads((tmp_path / "g" / INDEX).read_text())
    index["facts"]["licences"] = ["agreement of database a"]
    (tmp_path / "g" / INDEX).write_text(json.dumps(index))
    seal(tmp_path / "g")
    train(second(start=tmp_path / "g"), tmp_path / "run", machine=on(place))
    assert read_facts(tmp_path / "run" / "generator").licences == ("CC0", "agreement of database a")


def test_weights_count_and_their_place_does_not(place: Path, second: Make, tmp_path: Path) -> None:
    train(second(), tmp_path / "run", machine=on(place))
    shutil.copytree(place / "first" / "generator", tmp_path / "moved")
    assert train(second(start=tmp_path / "moved"), tmp_path / "run", machine=on(place)).images == 32
    without = load_recipe(place / "tiny.yaml", [f"data.manifests=[{place / 'b'}]"])
    for other in (second(start=tmp_path / "run"), without):
        with pytest.raises(RunFolderError, match="another run"):
            train(other, tmp_path / "run", machine=on(place))
    assert "start" not in without.identity()
    assert "start" not in without.identity()["run"]
    assert "start" not in without.plain()["run"]


def test_resumed_it_ends_with_the_same_bytes(place: Path, second: Make, tmp_path: Path) -> None:
    def bar(name: str) -> Callable[[int, int], None]:
        return lambda done, total: os.kill(os.getpid(), signal.SIGTERM) if name == "train" and done == 12 else None

    train(second(), tmp_path / "whole", machine=on(place))
    with pytest.raises(Interrupted):
        train(second(), tmp_path / "cut", machine=on(place), progress=bar)
    train(second(), tmp_path / "cut", machine=on(place))
    for name in ("networks", "averaged", "optimisers"):
        files = [
            tmp_path / run / "checkpoints" / checkpoint.name_of(32) / f"{name}.safetensors" for run in ("whole", "cut")
        ]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_larger_pictures_may_go_on_from_smaller_ones(place: Path, second: Make, tmp_path: Path) -> None:
    small_manifest.write(
        tmp_path / "large",
        [
            Job(f"c/{i}", i, {"height": 40, "width": 40}, {
                "frames": small_manifest.seeds.stream(0, "large", i).integers(0, 255, (5, 40, 40, 3), "uint8"),
                "flow": None, "valid": None, "landmarks": None})
            for i in range(3)
        ],
    )  # fmt: skip
    recipe = load_recipe(
        place / "tiny.yaml", [f"data.manifests=[{tmp_path / 'large'}]", "data.size=40", f"run.start={place / 'first'}"]
    )
    train(recipe, tmp_path / "run", machine=on(place))
    assert read_facts(tmp_path / "run" / "generator").size == 40


# ---------------------------------------------------------------- leaks


def test_an_excluded_subject_that_the_start_has_seen_is_a_leak(place: Path, second: Make, tmp_path: Path) -> None:
    seen = read_facts(place / "first" / "generator").subjects_seen[0]
    with pytest.raises(LeakError, match=f"first has learned from {seen}, who must not be seen") as error:
        train(second(), tmp_path / "run", exclude_subjects=[seen], machine=on(place))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()
    train(second(), tmp_path / "run", exclude_subjects=["b/1"], machine=on(place))
    assert "b/1" not in read_facts(tmp_path / "run" / "generator").subjects_seen


def test_a_cross_fit_begins_with_no_generator_that_saw_its_subjects(place: Path, second: Make, tmp_path: Path) -> None:
    with pytest.raises(LeakError, match="has learned from a/"):
        cross_fit(second(data="a"), tmp_path / "x", 3, machine=on(place))
    assert not (tmp_path / "x").exists()
    made = cross_fit(second(), tmp_path / "x", 3, machine=on(place))
    table = json.loads((tmp_path / "x" / "cross_fit.json").read_text())
    assert set(table) == {"b/1", "b/2", "b/3"}
    seen = {run.folder.name: set(run.subjects_seen) for run in made}
    assert all(subject not in seen[group] and seen[group] & {"a/1", "a/2", "a/3"} for subject, group in table.items())


def test_a_start_that_has_seen_who_validates_is_told(
    place: Path, second: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held = set(_record(place / "first")["subjects_validated"])  # type: ignore[call-overload]
    train(second("run.seed=5", data="a"), tmp_path / "same", machine=on(place))  # the same split: nobody of them
    assert "figures flatter" not in capsys.readouterr().err
    other = next(seed for seed in range(50) if held.isdisjoint(_validated(second(f"run.seed={seed}", data="a"), place)))
    train(second(f"run.seed={other}", data="a"), tmp_path / "other", machine=on(place))
    assert "has learned from 1 of the subjects that validate" in capsys.readouterr().err


def _validated(recipe: Recipe, place: Path) -> tuple[str, ...]:
    from mesynth.training.data.pairs import open_pairs

    return open_pairs(recipe.data, cache=place / "cache", seed=recipe.run.seed)[1].subjects_seen


# ---------------------------------------------------------------- what does not fit


def test_another_architecture_is_one_line_that_names_the_first_difference(
    place: Path, second: Make, tmp_path: Path
) -> None:
    for setting, says in (
        ("model.width=8", "generator: width is 8 here and 4 there"),
        ("model.max_flow=0.05", "generator: max_flow is 0.05 here and 0.06 there"),
    ):
        with pytest.raises(ConfigError, match=f"first has another architecture: {says}") as error:
            train(second(setting), tmp_path / "run", machine=on(place))
        assert "\n" not in str(error.value)
        with pytest.raises(ConfigError, match="another architecture"):
            forecast(second(setting))  # --dry-run says it too
    assert not (tmp_path / "run").exists()


def test_tensors_that_the_configuration_does_not_tell_apart_are_named(
    place: Path, second: Make, tmp_path: Path
) -> None:
    class Odd(MotionGenerator):
        """The same configuration, another layer."""

    Odd.__name__ = "MotionGenerator"
    network = Odd(size=SIZE, width=4, template=8, blocks=1, residual=False)
    network.side = torch.nn.Parameter(torch.zeros(3, 16))
    facts = read_facts(place / "first" / "generator").plain()
    save_pipeline(tmp_path / "g", {"generator": network}, facts, "", size=SIZE)
    with pytest.raises(ConfigError, match=r"generator: side is \[2, 16\] here and \[3, 16\] there"):
        train(second(start=tmp_path / "g"), tmp_path / "run", machine=on(place))


def test_folders_to_begin_with_that_are_none(place: Path, second: Make, tmp_path: Path) -> None:
    def refused(start: Path, kind: type[Exception], says: str) -> None:
        with pytest.raises(kind, match=says) as error:
            train(second(start=start), tmp_path / "run", machine=on(place))
        assert "\n" not in str(error.value)
        assert not (tmp_path / "run").exists()

    refused(tmp_path / "nowhere", ConfigError, "nowhere is no folder")
    (tmp_path / "half").mkdir()
    shutil.copy(place / "first" / "recipe.yaml", tmp_path / "half")
    refused(tmp_path / "half", ConfigError, "half is a run that has not finished")
    refused(place / "a", PipelineError, "is no saved generator")
    damaged = tmp_path / "damaged"
    shutil.copytree(place / "first" / "generator", damaged)
    (damaged / "generator" / WEIGHTS).write_bytes(b"0" * (damaged / "generator" / WEIGHTS).stat().st_size)
    refused(damaged, PipelineError, "sha256 differs")
    silent = tmp_path / "silent"
    shutil.copytree(place / "first" / "generator", silent)
    index = json.loads((silent / INDEX).read_text())
    index["facts"]["subjects_seen"] = []
    (silent / INDEX).write_text(json.dumps(index))
    seal(silent)
    refused(silent, ConfigError, "does not say whom it learned from")
    index = json.loads((place / "first" / "generator" / INDEX).read_text())
    foreign = tmp_path / "foreign"
    shutil.copytree(place / "first" / "generator", foreign)
    index["family"] = index["facts"]["name"] = "ice_gan"
    (foreign / INDEX).write_text(json.dumps(index))
    seal(foreign)
    refused(foreign, ConfigError, "holds weights of ice_gan; this recipe trains motion_gan")


def test_null_takes_out_what_a_recipe_begins_with(place: Path) -> None:
    file = place / "begun.yaml"
    file.write_text(f"base: tiny.yaml\nrun: {{start: {place / 'first'}}}\n")
    assert load_recipe(file, [f"data.manifests=[{place / 'a'}]"]).run.start == place / "first"
    assert load_recipe(file, [f"data.manifests=[{place / 'a'}]", "run.start=null"]).run.start is None


def test_a_shipped_generator_is_named_as_a_model_is() -> None:
    begun = open_initial(load_recipe("gan/motion_64", ["run.start=motion_gan"]))
    assert begun is not None
    assert begun.folder == SHIPPED / "motion_gan"
    with pytest.raises(ConfigError, match=r"run\.start=motion_gna is no folder.*motion_gan"):
        open_initial(load_recipe("gan/motion_64", ["run.start=motion_gna"]))
