"""Excluded subjects, groups of them, the forecast, and the command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

from mesynth.cli.generators import train as command
from mesynth.commandline import MistakeGroup
from mesynth.core.errors import LeakError, MesynthError
from mesynth.store.stage import Interrupted
from mesynth.training import forecast as memory
from mesynth.training.config import Recipe, load_recipe
from mesynth.training.forecast import forecast, random_batch
from mesynth.training.train import Machine, cross_fit, read_cross_fit, train
from tests.training import toy

ROOT = Path(__file__).parent.parent.parent
Make = Callable[..., Recipe]
CPU = Machine(device="cpu")


def _seen(run: Path) -> set[str]:
    return set(json.loads((run / "generator" / "mesynth.json").read_text())["subjects_seen"])


def test_excluded_subjects_are_in_no_record(tmp_path: Path, recipe: Make) -> None:
    train(recipe(images=32), tmp_path / "run", exclude_subjects=["left/02", "right/04"], machine=CPU)
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["exclude_subjects"] == ["left/02", "right/04"]
    assert not {"left/02", "right/04"} & (
        {*record["subjects_seen"], *record["subjects_validated"]} | _seen(tmp_path / "run")
    )
    assert len(_seen(tmp_path / "run")) == 7


def test_pairs_that_still_hold_an_excluded_subject_are_a_leak(
    tmp_path: Path, recipe: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def careless(config: Any, **given: Any) -> Any:
        return toy.open_pairs(config, **(given | {"exclude_subjects": ()}))

    monkeypatch.setattr(toy, "SOURCE", replace(toy.SOURCE, open=careless))
    with pytest.raises(LeakError, match="left/02"):
        train(recipe(images=32), tmp_path / "run", exclude_subjects=["left/02"], machine=CPU)


def test_every_subject_has_a_generator_that_never_saw_them(tmp_path: Path, recipe: Make) -> None:
    made = cross_fit(recipe(images=32), tmp_path / "x", 3, exclude_subjects=["left/04"], machine=CPU)
    assert len(made) == 3
    table = read_cross_fit(tmp_path / "x")
    assert set(table) == set(toy.SUBJECTS) - {"left/04"}
    for subject, generator in table.items():
        assert subject not in _seen(generator.parent)
        assert "left/04" not in _seen(generator.parent)
    groups = [{s for s, g in table.items() if g.parent.name == f"group-{i}"} for i in range(3)]
    assert [len(g) for g in groups] == [3, 3, 3]
    for group in groups:  # 4 of one database, 5 of the other
        assert sum(s.startswith("left/") for s in group) in (1, 2)
    with pytest.raises(MesynthError, match="another run"):
        cross_fit(recipe(images=32), tmp_path / "x", 2, exclude_subjects=["left/04"], machine=CPU)


def test_an_interrupted_cross_fit_goes_on_and_is_not_taken_for_a_finished_one(tmp_path: Path, recipe: Make) -> None:
    def bar(name: str) -> Callable[[int, int], None]:
        def report(done: int, total: int) -> None:
            if name == "group 2/2: train" and done == 16:
                os.kill(os.getpid(), signal.SIGTERM)

        return report

    with pytest.raises(Interrupted):
        cross_fit(recipe(images=64), tmp_path / "x", 2, machine=CPU, progress=bar)
    with pytest.raises(MesynthError, match="no finished cross-fit"):
        read_cross_fit(tmp_path / "x")
    stamp = (tmp_path / "x" / "group-0" / "generator").stat().st_mtime_ns
    cross_fit(recipe(images=64), tmp_path / "x", 2, machine=CPU)
    assert (tmp_path / "x" / "group-0" / "generator").stat().st_mtime_ns == stamp
    assert len(read_cross_fit(tmp_path / "x")) == len(toy.SUBJECTS)


# ---------------------------------------------------------------- forecast


class Stack(toy.ToyTask):
    """Two known layers: what autograd keeps can be counted by hand."""

    def __init__(self, config: toy.Config, size: int) -> None:
        super().__init__(config, size)
        self.networks = {
            "body": nn.Sequential(nn.Linear(50, 512, bias=False), nn.Tanh(), nn.Linear(512, 2, bias=False))
        }
        self.frozen = {"judge": nn.Linear(10, 10, bias=False)}

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        return {"body": torch.optim.Adam(self.networks["body"].parameters())}

    def step(self, batch: Any, images: int, updater: Any) -> dict[str, torch.Tensor]:
        updater.update("body", self.networks["body"](batch.aus.flatten(1)).sum())
        return {}


def test_the_forecast_counts_what_can_be_counted_by_hand(recipe: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy, "ToyTask", Stack)
    seen = forecast(recipe("run.keep=4", images=100, batch=64))
    weights = 50 * 512 + 512 * 2
    assert seen.parameters == {"body": weights, "judge (frozen)": 100}
    assert (seen.images, seen.steps) == (128, 2)
    assert seen.gradients == 4 * weights
    assert seen.optimisers == 2 * 4 * weights + 2 * 4  # two moments, and two step counters
    assert seen.weights == 2 * 4 * weights + 4 * 100  # with the averages
    assert seen.activations == 4 * 64 * (50 + 512)  # the input, and tanh's output, which both neighbours keep
    assert seen.checkpoints == (2 * 4 * weights + seen.optimisers) * 5
    assert seen.memory == seen.weights + seen.gradients + seen.optimisers + seen.activations
    halved = forecast(recipe(images=100, batch=64, accumulate=2), processes=2)
    assert halved.activations == seen.activations / 4


def test_a_forecast_leaves_the_global_stream_alone_and_noise_has_the_form_of_pairs(recipe: Make) -> None:
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    forecast(recipe("model.dropout=0.5", precision="bf16"))
    assert torch.equal(torch.rand(2), expected)
    real, noise = toy.ToyPairs(toy.PairConfig(), ("a/b",), 0).batch(memory.np.arange(3)), random_batch(3, 4)
    # As if a task had asked for frames in layers, too.
    real = replace(real, formed=real.onset, share=real.onset[:, :1])
    for name in real.__dataclass_fields__:
        assert getattr(noise, name).shape == getattr(real, name).shape, name
        assert getattr(noise, name).dtype == getattr(real, name).dtype, name


# ---------------------------------------------------------------- command


@pytest.fixture
def mesynth(recipe: Make, tmp_path: Path) -> Callable[..., Result]:
    recipe()
    group = MistakeGroup("mesynth", commands={"train": command})

    def run(*arguments: str) -> Result:
        words = ["train", str(tmp_path / "toy.yaml"), "run.images=32", "--device", "cpu", *arguments]
        return CliRunner().invoke(group, words)

    return run


def test_the_command_trains_and_prints_json(tmp_path: Path, mesynth: Callable[..., Result]) -> None:
    done = mesynth("model.width=4", "--exclude-subjects", "left/01, right/00", "--out", str(tmp_path / "r"), "--json")
    assert done.exit_code == 0, done.output
    shown = json.loads(done.stdout)
    assert shown["images"] == 32
    assert shown["subjects"] == 7
    assert Path(shown["generator"]).is_dir()
    assert load_recipe(tmp_path / "r" / "recipe.yaml").config.model.width == 4
    assert not {"left/01", "right/00"} & _seen(tmp_path / "r")


def test_the_command_cross_fits(tmp_path: Path, mesynth: Callable[..., Result]) -> None:
    assert mesynth("--cross-fit", "2", "--out", str(tmp_path / "x")).exit_code == 0
    assert len(read_cross_fit(tmp_path / "x")) == 10


def test_a_dry_run_writes_nothing(tmp_path: Path, mesynth: Callable[..., Result]) -> None:
    before = sorted(tmp_path.rglob("*"))
    done = mesynth("--out", str(tmp_path / "r"), "--dry-run", "--json")
    shown = json.loads(done.stdout)
    assert shown["parameters"] == {"body": 50 * 16 + 16 + 16 * 2 + 2, "critic": 3, "fixed (frozen)": 6}
    assert shown["images"] == 32
    assert shown["steps"] == 2
    assert shown["MiB"]["memory"] > 0
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run.bach=3"], "run.batch"),
        (["--device", "cuda:1"], "cuda:1"),
        (["--cross-fit", "1"], "1 groups"),
        (["--cross-fit", "11"], "11 groups"),
        (["--tracker", "papyrus"], "papyrus"),
        (["run.batch=16", "run.accumulate=3"], "run.accumulate=3"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(
    tmp_path: Path, mesynth: Callable[..., Result], arguments: list[str], says: str
) -> None:
    done = mesynth(*arguments, "--out", str(tmp_path / "r"))
    assert done.exit_code == 2
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert says in done.stderr
    assert not (tmp_path / "r").exists()


def test_help_has_an_example_and_imports_nothing_heavy() -> None:
    assert "mesynth train gan/" in CliRunner().invoke(command, ["--help"]).output
    heavy = "{'torch', 'omegaconf', 'accelerate', 'numpy'}"
    code = f"import sys, mesynth.cli.generators; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
