"""Real processes: killed in the middle, started again, and two that do the work of one."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from mesynth.core.errors import ConfigError
from mesynth.training import checkpoint
from mesynth.training.processes import Processes
from mesynth.training.record import read_metrics
from tests import warm
from tests.training.toy import recipe_text

RECIPE = recipe_text(accumulate=2, decay="linear")
SINGLE = ["tests.training.toy"]
TWO = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
COLD = [*TWO, "-m", "tests.training.toy"]
WARM = [*TWO, "--start_method", "fork", "--run_path", str(Path(__file__).with_name("toy.py"))]
"""The same; the processes that torchrun starts are forked from it, and need not load torch either."""
WORDS = ["model.dropout=0.1", "--device", "cpu"]


def _start(command: list[str], recipe: Path, out: Path, *words: str, **environment: str) -> warm.Process:
    return warm.start(*command, str(recipe), *WORDS, *words, "--out", str(out), **environment)


def _run(command: list[str], recipe: Path, out: Path, *words: str, **environment: str) -> tuple[int, str]:
    process = _start(command, recipe, out, *words, **environment)
    _, errors = process.communicate()
    return process.wait(), errors


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "toy.yaml").write_text(RECIPE)
    code, errors = _run(SINGLE, folder / "toy.yaml", folder / "run")
    assert code == 0, errors
    return folder / "run"


def _result(run: Path) -> dict[str, bytes]:
    files = [
        *sorted((run / "checkpoints" / checkpoint.name_of(640)).glob("*.safetensors")),
        run / "generator" / "body.safetensors",
    ]
    assert len(files) == 4
    return {file.name: file.read_bytes() for file in files}


def _names(run: Path) -> set[str]:
    return {folder.name for folder in checkpoint.folders(run / "checkpoints")}


def _lines(run: Path) -> list[dict[str, object]]:
    return [{k: v for k, v in line.items() if k not in ("seconds", "images_per_s")} for line in read_metrics(run)]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    file = tmp_path / "toy.yaml"
    file.write_text(RECIPE)
    return file


@pytest.mark.slow
@pytest.mark.parametrize("command", [SINGLE, WARM], ids=["one process", "two processes"])
def test_killed_in_the_middle_of_an_update_it_ends_with_the_same_bytes(
    tmp_path: Path, recipe: Path, command: list[str], whole: Path
) -> None:
    """Of two processes one is killed; the other says so and ends long before anyone's patience does."""
    if command is WARM:
        whole = tmp_path / "whole"
        assert _run(command, recipe, whole)[0] == 0
    code, errors = _run(command, recipe, tmp_path / "cut", TOY_DIE_AT="400")
    assert code == (-signal.SIGKILL if command is SINGLE else 1)
    if command is WARM:
        assert "Error: another process of this run has ended" in errors
        assert "the same command goes on from the newest checkpoint" in errors
        own = errors.split("Root Cause")[0].split("torch/distributed/elastic")[0]  # torchrun adds its own account
        assert "mesynth/training" not in own, errors
    assert [int(f.name) for f in checkpoint.folders(tmp_path / "cut" / "checkpoints")] == [320, 160]
    code, errors = _run(command, recipe, tmp_path / "cut")
    assert code == 0, errors
    assert _result(tmp_path / "cut") == _result(whole)
    lines = _lines(tmp_path / "cut")
    assert lines == _lines(whole)
    clocks = [(line["kind"], line["images"]) for line in lines]
    assert len(clocks) == len(set(clocks))


@pytest.mark.slow
def test_killed_at_any_moment_while_checkpoints_are_written_all_the_time(
    tmp_path: Path, recipe: Path, whole: Path
) -> None:
    for delay in (0.0, 0.03, 0.08):
        process = _start(SINGLE, recipe, tmp_path / "cut", "run.checkpoint_images=16", "run.keep=1")
        end = time.monotonic() + 60
        begun = {p.name for p in checkpoint.folders(tmp_path / "cut" / "checkpoints")}
        while {
            p.name for p in checkpoint.folders(tmp_path / "cut" / "checkpoints")
        } == begun and process.poll() is None:
            assert time.monotonic() < end
            time.sleep(0.001)
        time.sleep(delay)
        process.kill()
        process.communicate()
    assert checkpoint.folders(tmp_path / "cut" / "checkpoints")
    assert not (tmp_path / "cut" / "generator").exists(), "too fast to be killed: lengthen the run"
    code, errors = _run(SINGLE, recipe, tmp_path / "cut", "run.keep=1")
    assert code == 0, errors
    assert _result(tmp_path / "cut") == _result(whole)
    assert _lines(tmp_path / "cut") == _lines(whole)


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one(tmp_path: Path, recipe: Path) -> None:
    """Tolerance: relative 1e-4 after 40 updates, from sums in another order. No dropout: its draws follow the parts."""
    for command, name in ((SINGLE, "one"), (COLD, "two")):
        words = ("model.dropout=0", "run.clip=0.5")
        told = tmp_path / f"{name}_threads"
        told.mkdir()
        code, errors = _run(command, recipe, tmp_path / name, *words, TOY_TELL_THREADS=str(told))
        assert code == 0, errors
        threads = [path.read_text() for path in told.iterdir()]
        assert len(threads) == (1 if command is SINGLE else 2)
        left_behind = "a thread that meets an ending interpreter aborts the process now and then"
        assert not any("gloo" in names for names in threads), left_behind
    for one, two in zip(read_metrics(tmp_path / "one"), read_metrics(tmp_path / "two"), strict=True):
        key = "losses" if one["kind"] == "train" else "measures"
        assert (one["kind"], one["images"]) == (two["kind"], two["images"])
        values = {name: value for name, value in one[key].items() if value is not None}
        assert {"body", "error"} & values.keys()
        assert {name: two[key][name] for name in values} == pytest.approx(values, rel=1e-4)


@pytest.mark.slow
def test_ctrl_c_saves_says_so_and_exits_with_130(tmp_path: Path, recipe: Path) -> None:
    process = _start(SINGLE, recipe, tmp_path / "run", "run.images=10000000")
    while not checkpoint.folders(tmp_path / "run" / "checkpoints"):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.wait() == 130
    assert "the same command goes on" in errors
    newest = checkpoint.folders(tmp_path / "run" / "checkpoints")[0]
    assert f"stopped after {int(newest.name):,} of" in errors
    checkpoint.read(newest)


@pytest.mark.slow
def test_a_mistake_is_one_line_for_all_processes(tmp_path: Path, recipe: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    code, errors = _run(WARM, recipe, tmp_path / "full")
    assert code != 0
    assert sum("is not empty and holds no run" in line for line in errors.splitlines()) == 1, errors


def test_processes_that_do_not_form_the_launchers_group_do_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would train alone, and all of them into one folder."""

    class Alone:
        process_index, num_processes = 0, 1

        def __init__(self, **_: object) -> None: ...

    monkeypatch.setattr("accelerate.Accelerator", Alone)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(ConfigError, match=r"process 1 of 2, but this is process 0 of 1: they would train apart"):
        Processes("cpu")


def test_what_keeps_processes_apart_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """No machine by that name: what the store of the group raises is told, not shown."""
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "", "MASTER_PORT": "none"}.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    with pytest.raises(ConfigError, match="the 2 processes of the launcher do not find each other"):
        Processes("cpu")
    assert dict(os.environ) == before  # or the next run here would be taken as one of several


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(ConfigError, match="2 processes on a machine with 1 GPUs; start one a GPU, or add --device cpu"):
        Processes("auto")


def test_accelerate_that_starts_one_process_for_two_is_refused(tmp_path: Path, recipe: Path) -> None:
    environment = {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    code, errors = _run(SINGLE, recipe, tmp_path / "run", **environment)
    assert code == 2
    assert "accelerate launch was asked for several processes and has started one" in errors
    assert len(errors.splitlines()) == 1
    assert not (tmp_path / "run").exists()
