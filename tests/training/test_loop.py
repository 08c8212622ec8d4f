"""The loop on the toy task: it learns, stops, resumes exactly, and says what went wrong."""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.tracking import GeneralTracker

from mesynth.core.errors import ConfigError, MesynthError, RunFolderError
from mesynth.store.stage import Interrupted
from mesynth.store.videos import read_image
from mesynth.training import checkpoint
from mesynth.training.config import Recipe
from mesynth.training.loop import TrainingFailed
from mesynth.training.record import read_metrics
from mesynth.training.task import Problem
from mesynth.training.train import Machine, train
from tests.training import toy

Make = Callable[..., Recipe]
CPU = Machine(device="cpu")
EXACT = ("networks", "averaged", "optimisers")


def _weights(run: Path, images: int = 640) -> dict[str, bytes]:
    folder = run / "checkpoints" / checkpoint.name_of(images)
    return {name: (folder / f"{name}.safetensors").read_bytes() for name in EXACT}


def _lines(run: Path) -> list[dict[str, object]]:
    """Metrics without what a clock on the wall measured."""
    return [{k: v for k, v in line.items() if k not in ("seconds", "images_per_s")} for line in read_metrics(run)]


def _stop_at(images: int, number: int = signal.SIGTERM) -> Callable[[str], Callable[[int, int], None]]:
    """A progress bar that asks the process to stop once."""

    def bar(name: str) -> Callable[[int, int], None]:
        def report(done: int, total: int) -> None:
            if name == "train" and done == images:
                os.kill(os.getpid(), number)

        return report

    return bar


def test_it_learns_and_leaves_what_the_folder_promises(tmp_path: Path, recipe: Make) -> None:
    made = train(recipe(images=6400, validate_images=1600, half_life=200), tmp_path / "run", machine=CPU)
    lines = read_metrics(tmp_path / "run")
    validations = [line for line in lines if line["kind"] == "validation"]
    assert [line["images"] for line in validations] == [1600, 3200, 4800, 6400]
    validation = list(toy.open_pairs(toy.PairConfig(), cache=tmp_path)[1].validation(16))
    held_out = torch.cat([batch.flow.mean((2, 3)) for batch in validation])
    ignorant = (held_out - held_out.mean(0)).norm(dim=1).mean()  # the best that does not look at the AUs
    assert validations[-1]["measures"]["error"] < 0.25 * ignorant
    assert validations[-1]["measures"]["unknown"] is None  # a measure that no pair has
    logs = [line for line in lines if line["kind"] == "train"]
    assert [line["images"] for line in logs] == list(range(64, 6401, 64))
    assert logs[0]["lr"] == {"critic": 1e-2, "body": 1e-2}
    assert logs[0]["images_per_s"] > 0
    facts = json.loads((tmp_path / "run" / "generator" / "mesynth.json").read_text())
    assert facts["name"] == "toy"
    assert facts["images"] == made.images == 6400
    assert facts["subjects_seen"] == list(made.subjects_seen) == sorted(toy.SUBJECTS[1:])
    assert facts["config_hash"] == recipe(images=6400, validate_images=1600, half_life=200).hash()
    assert facts["figures"] == {"error": validations[-1]["measures"]["error"]}
    sheets = sorted((tmp_path / "run" / "sheets").iterdir())
    assert [sheet.name for sheet in sheets] == [f"{images:012d}.png" for images in (1600, 3200, 4800, 6400)]
    shown = validation[0].onset[:3]
    expected = (shown.permute(0, 2, 3, 1) * 255).byte().numpy()
    np.testing.assert_array_equal(read_image(sheets[0]), np.concatenate(list(expected), 1))
    assert len(checkpoint.folders(tmp_path / "run" / "checkpoints")) == 2


def test_a_validation_has_losses_to_judge_by_however_rarely_they_are_logged(tmp_path: Path, recipe: Make) -> None:
    train(
        recipe(log_images=10**6, validate_images=48, images=96), tmp_path / "run", machine=CPU
    )  # toy.check asserts it
    told = [(line["kind"], line["images"]) for line in read_metrics(tmp_path / "run")]
    assert told == [("train", 48), ("validation", 48), ("train", 96), ("validation", 96)]


def test_a_finished_run_is_returned_as_it_is(tmp_path: Path, recipe: Make) -> None:
    first = train(recipe(), tmp_path / "run", machine=CPU)
    stamp = (tmp_path / "run" / "generator" / "body.safetensors").stat().st_mtime_ns
    assert train(recipe(), tmp_path / "run", machine=CPU) == first
    assert (tmp_path / "run" / "generator" / "body.safetensors").stat().st_mtime_ns == stamp


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_it_saves_and_the_same_command_ends_with_the_same_bytes(
    tmp_path: Path, recipe: Make, number: int
) -> None:
    # 176 lies between two checkpoints and between two lines of metrics; accumulation and dropout have state to lose.
    made = recipe("model.dropout=0.2", accumulate=2, clip=0.5, warmup=64, decay="cosine")
    train(made, tmp_path / "whole", machine=CPU)
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match=r"stopped after 192 of 640 images; the same command goes on"):
        train(made, tmp_path / "cut", machine=CPU, progress=_stop_at(176, number))
    assert signal.getsignal(number) is before
    train(made, tmp_path / "cut", machine=CPU)
    assert _weights(tmp_path / "cut") == _weights(tmp_path / "whole")
    assert _lines(tmp_path / "cut") == _lines(tmp_path / "whole")


def test_the_state_of_the_global_stream_is_left_alone(tmp_path: Path, recipe: Make) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(recipe(images=32), tmp_path / "run", machine=CPU)
    assert torch.equal(torch.rand(3), expected)


def test_accumulation_and_prefetching_do_not_change_the_run(
    tmp_path: Path, recipe: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)  # two threads prepare batches
    train(recipe(), tmp_path / "one", machine=CPU)
    train(recipe(prefetch=0), tmp_path / "ahead", machine=CPU)
    assert _weights(tmp_path / "one") == _weights(tmp_path / "ahead")
    train(recipe(accumulate=4), tmp_path / "four", machine=CPU)
    for one, four in zip(_lines(tmp_path / "one"), _lines(tmp_path / "four"), strict=True):
        if one["kind"] == "train":
            assert one["losses"] == pytest.approx(four["losses"], rel=1e-4)


def test_bf16_and_compilation_run_and_resume(tmp_path: Path, recipe: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[object] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(self))  # needs a C++ compiler
    made = recipe(precision="bf16", compile=True, images=320)
    with pytest.raises(Interrupted):
        train(made, tmp_path / "run", machine=CPU, progress=_stop_at(160))
    train(made, tmp_path / "run", machine=CPU)
    train(recipe(precision="bf16", images=320), tmp_path / "whole", machine=CPU)
    assert _weights(tmp_path / "run", 320) == _weights(tmp_path / "whole", 320)
    assert len(compiled) == 4
    fp32 = train(recipe(images=320), tmp_path / "fp32", machine=CPU)
    assert _weights(fp32.folder, 320) != _weights(tmp_path / "whole", 320)
    assert fp32.figures["error"] == pytest.approx(json.loads(_facts(tmp_path / "whole"))["figures"]["error"], rel=0.05)


def _facts(run: Path) -> str:
    return (run / "generator" / "mesynth.json").read_text()


def test_a_poisoned_loss_ends_the_run_at_once_and_the_last_good_checkpoint_stays(tmp_path: Path, recipe: Make) -> None:
    with pytest.raises(TrainingFailed, match="body not finite after 384 images; the checkpoint at 320 images is good"):
        train(recipe("loss.poison_at=368", validate_images=640), tmp_path / "run", machine=CPU)
    images, saved = checkpoint.read(checkpoint.folders(tmp_path / "run" / "checkpoints")[0])
    assert images == 320
    assert all(t.isfinite().all() for group in saved.tensors.values() for t in group.values())
    assert not (tmp_path / "run" / "generator").exists()


def test_weights_that_are_not_finite_are_never_saved(
    tmp_path: Path, recipe: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of the update before a checkpoint may be finite and its step still ruin the weights."""
    real = toy.ToyTask.step

    def step(self: toy.ToyTask, batch: object, images: int, updater: object) -> dict[str, torch.Tensor]:
        losses = real(self, batch, images, updater)  # type: ignore[arg-type]
        if images == 304:
            with torch.no_grad():
                self.networks["critic"].bias.fill_(torch.inf)
        return losses

    monkeypatch.setattr(toy.ToyTask, "step", step)
    with pytest.raises(TrainingFailed, match="the weights not finite after 320 images; the checkpoint at 160"):
        train(recipe(), tmp_path / "run", machine=CPU)


def test_a_known_failure_that_persists_ends_the_run(
    tmp_path: Path, recipe: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    made = recipe("loss.complain=the mask saturates", validate_images=64, patience=3, checkpoint_images=640)
    with pytest.raises(TrainingFailed, match=r"the mask saturates \(at 3 validations in a row, after 192 images\)"):
        train(made, tmp_path / "run", machine=CPU)
    assert capsys.readouterr().err.count("the mask saturates") == 3
    assert [li["problem"] for li in read_metrics(tmp_path / "run") if li["kind"] == "validation"] == [
        "the mask saturates"
    ] * 3
    with pytest.raises(TrainingFailed, match="4 validations in a row, after 256"):  # the same command goes on
        train(made, tmp_path / "run", machine=CPU)
    tolerant = recipe("loss.complain=the mask saturates", validate_images=64, patience=0, checkpoint_images=640)
    assert train(tolerant, tmp_path / "run", machine=CPU).images == 640


def test_a_failure_at_the_end_saves_no_generator_however_often_it_is_asked(tmp_path: Path, recipe: Make) -> None:
    made = recipe("loss.complain=output does not depend on the AUs", images=64)
    for _ in range(2):
        with pytest.raises(TrainingFailed, match="at the last validation"):
            train(made, tmp_path / "run", machine=CPU)
    assert not (tmp_path / "run" / "generator").exists()


def test_another_run_or_other_data_in_the_folder_is_refused(tmp_path: Path, recipe: Make) -> None:
    with pytest.raises(Interrupted):
        train(recipe(), tmp_path / "run", machine=CPU, progress=_stop_at(64))
    with pytest.raises(RunFolderError, match="another run"):
        train(recipe("model.width=8"), tmp_path / "run", machine=CPU)
    with pytest.raises(RunFolderError, match="another run"):
        train(recipe(), tmp_path / "run", exclude_subjects=["left/03"], machine=CPU)
    record = tmp_path / "run" / "record.json"
    record.write_text(record.read_text().replace('"toy-1000-9"', '"toy-1001-9"'))
    with pytest.raises(RunFolderError, match="data_hash differs"):
        train(recipe(), tmp_path / "run", machine=CPU)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    with pytest.raises(RunFolderError, match="not empty"):
        train(recipe(), tmp_path / "full", machine=CPU)


def test_a_damaged_newest_checkpoint_costs_only_the_images_since_the_one_before(
    tmp_path: Path, recipe: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    train(recipe(), tmp_path / "whole", machine=CPU)
    with pytest.raises(Interrupted):
        train(recipe(), tmp_path / "run", machine=CPU, progress=_stop_at(384))
    newest = checkpoint.folders(tmp_path / "run" / "checkpoints")[0]
    assert int(newest.name) == 400
    (newest / "averaged.safetensors").write_bytes(b"")
    capsys.readouterr()
    train(recipe(), tmp_path / "run", machine=CPU)
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert "going back" in errors[0]
    assert _weights(tmp_path / "run") == _weights(tmp_path / "whole")
    assert _lines(tmp_path / "run") == _lines(tmp_path / "whole")


def test_a_full_disk_leaves_the_checkpoint_before_and_the_run_goes_on_afterwards(
    tmp_path: Path, recipe: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(recipe(), tmp_path / "whole", machine=CPU)
    real = checkpoint._write_file

    def write(path: Path, data: bytes) -> None:
        if "000000000320" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_write_file", write)
        with pytest.raises(MesynthError, match="is full; earlier checkpoints are intact"):
            train(recipe(), tmp_path / "run", machine=CPU)
    assert [int(f.name) for f in checkpoint.folders(tmp_path / "run" / "checkpoints")] == [160]
    train(recipe(), tmp_path / "run", machine=CPU)
    assert _weights(tmp_path / "run") == _weights(tmp_path / "whole")
    assert _lines(tmp_path / "run") == _lines(tmp_path / "whole")


def test_checkpoints_by_time(tmp_path: Path, recipe: Make) -> None:
    made = recipe("loss.poison_at=320", checkpoint_images=0, checkpoint_minutes=1e-9, keep=3, validate_images=640)
    with pytest.raises(TrainingFailed):
        train(made, tmp_path / "run", machine=CPU)
    assert [int(f.name) for f in checkpoint.folders(tmp_path / "run" / "checkpoints")] == [320, 304, 288]


class Notebook(GeneralTracker):
    """A tracker that only remembers."""

    name = "notebook"
    requires_logging_directory = False

    def __init__(self) -> None:
        super().__init__()
        self.config: dict[str, object] = {}
        self.logged: dict[int, dict[str, float]] = {}
        self.finished = 0

    @property
    def tracker(self) -> list[object]:
        return []

    def store_init_configuration(self, values: dict[str, object]) -> None:
        self.config = values

    def log(self, values: dict[str, float], step: int | None = None, **kwargs: object) -> None:
        assert step is not None
        self.logged.setdefault(step, {}).update(values)

    def finish(self) -> None:
        self.finished += 1


def test_a_tracker_gets_what_metrics_get(tmp_path: Path, recipe: Make) -> None:
    notebook = Notebook()
    train(recipe(clip=1.0), tmp_path / "run", machine=Machine(device="cpu", trackers=(notebook,)))
    assert notebook.config["model.width"] == 16
    assert notebook.finished == 1
    for line in read_metrics(tmp_path / "run"):
        got = notebook.logged[line["images"]]
        if line["kind"] == "train":
            assert line["losses"].keys() == {"body", "critic", "norm/body", "norm/critic"}
            assert line["losses"].items() <= got.items()
        else:
            assert got["validation/error"] == line["measures"]["error"]


def test_trackers_that_are_not_here_are_refused_before_anything_is_written(tmp_path: Path, recipe: Make) -> None:
    for name, says in (("tensorbored", "unknown"), ("comet_ml", "not installed")):
        with pytest.raises(ConfigError, match=says):
            train(recipe(), tmp_path / "run", machine=Machine(device="cpu", trackers=(name,)))
    assert not (tmp_path / "run").exists()


def test_values_that_do_not_fit_the_machine(tmp_path: Path, recipe: Make) -> None:
    with pytest.raises(ConfigError, match=r"run\.batch=16 does not split into 1 processes x run\.accumulate=5"):
        train(recipe(accumulate=5), tmp_path / "run", machine=CPU)
    with pytest.raises(ConfigError, match="fp16 needs CUDA"):
        train(recipe(precision="fp16"), tmp_path / "run", machine=CPU)
    with pytest.raises(ConfigError, match="device tpu"):
        train(recipe(), tmp_path / "run", machine=Machine(device="tpu"))
    assert not (tmp_path / "run").exists()


def test_a_problem_that_a_task_raises_is_one_line(
    tmp_path: Path, recipe: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise Problem("the output does not depend on the AUs")

    with monkeypatch.context() as patch:
        patch.setattr(toy.ToyTask, "step", refuse)
        with pytest.raises(TrainingFailed, match=r"does not depend on the AUs.*checkpoints stay"):
            train(recipe(), tmp_path / "step", machine=CPU)
    with monkeypatch.context() as patch:
        patch.setattr(toy.ToyTask, "save", refuse)
        with pytest.raises(TrainingFailed, match="no generator is saved"):
            train(recipe(), tmp_path / "save", machine=CPU)
    assert train(recipe(), tmp_path / "save", machine=CPU).images == 640


def test_a_compiler_that_is_not_here_is_one_line(tmp_path: Path, recipe: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise torch._dynamo.exc.TorchDynamoException("no C++ compiler\nand a long story")

    monkeypatch.setattr(toy.ToyTask, "step", fail)
    with pytest.raises(ConfigError, match=r"^run.compile=true does not work here \(no C\+\+ compiler\); set") as error:
        train(recipe(), tmp_path / "run", machine=CPU)
    assert "\n" not in str(error.value)
