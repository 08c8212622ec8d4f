"""The speed that is measured, and the script that plans and trains by it."""

from __future__ import annotations

import importlib.util
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import mesynth.cli
from mesynth.training import forecast
from mesynth.training.config import Recipe, RunConfig, load_recipe
from mesynth.training.forecast import measure, preparation
from tests.training import toy

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "train_on_gpu.py"
TINY = ["--device", "cpu", "--workers", "1", "--recipes", "motion_tiny", "--updates", "2", "--variants", "fp32,bf16",
        "--tests", "", "--models", ""]  # fmt: skip
SMALL = "data.identities=2 data.per_identity=4 data.validation_identities=1 run.validation=2"


def script() -> Any:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("train_on_gpu", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(*words: object) -> int:
    """Its command in this process; argparse's exit as a status."""
    try:
        return int(script().main([str(word) for word in words]))
    except SystemExit as left:
        return int(left.code or 0)


def test_images_a_second_are_updates_times_batch_over_seconds(recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made: Recipe = recipe(batch=16, accumulate=2)
    seen: list[tuple[int, int]] = []
    step = toy.ToyTask.step

    def counted(self: toy.ToyTask, batch: Any, images: int, updater: Any) -> Any:
        seen.append((images, len(batch)))
        return step(self, batch, images, updater)

    monkeypatch.setattr(toy.ToyTask, "step", counted)
    clock = iter([10.0, 12.0])
    monkeypatch.setattr(forecast.time, "perf_counter", lambda: next(clock))
    measured = measure(made, "cpu", updates=5, warmup=3)
    assert measured.images_per_s == 5 * 16 / 2
    assert (measured.precision, measured.compile, measured.batch, measured.memory) == ("fp32", False, 16, None)
    assert sorted({images for images, _ in seen}) == [16 * i for i in range(8)]
    assert {size for _, size in seen} == {8}


def test_what_does_not_run_is_said_in_one_line(recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*rest: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore.")

    monkeypatch.setattr(toy.ToyTask, "step", broken)
    measured = measure(recipe(), "cpu", updates=1, warmup=0)
    assert (measured.images_per_s, measured.error) == (0, "CUDA out of memory. Tried to allocate 2 GiB.")
    assert measure(recipe("run.precision=fp16"), "cpu").error.startswith("run.precision=fp16 needs CUDA")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_memory_on_a_gpu(recipe: Any) -> None:
    assert (measure(recipe(), "cuda", updates=2, warmup=1).memory or 0) > 0


@pytest.mark.parametrize("prefetch", [0, 2])
def test_preparation_is_counted_in_pairs(prefetch: int) -> None:
    class Slow(toy.ToyPairs):
        def batch(self, draws: Any) -> Any:
            forecast.time.sleep(0.01)
            return super().batch(draws)

    pairs = Slow(toy.PairConfig(), ("a/b",), 0)
    rate = preparation(pairs, 4, prefetch, seconds=0.2)
    assert 4 / 0.2 < rate < 4 / 0.01 * max(prefetch, 1)


# ---------------------------------------------------------------- the script


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """The script looks at the preparation for a fifth of a second, not for three."""
    monkeypatch.setattr(forecast, "preparation", partial(preparation, seconds=0.2))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("--out", tmp_path / "gpu") == 2
    said = capsys.readouterr().err
    assert said.startswith("Error: no CUDA device is here")
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "gpu").exists()


@pytest.mark.usefixtures("brief")
def test_a_dry_run_measures_and_plans(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--out", tmp_path / "gpu", *TINY, "--set", SMALL, "--dry-run"]
    assert main(*words, "--minutes", "0.02") == 0
    rows = json.loads((tmp_path / "gpu" / "throughput.json").read_text())
    assert [row["variant"] for row in rows] == ["fp32", "bf16"]
    assert all(row["images_per_s"] > 0 for row in rows)
    planned = json.loads((tmp_path / "gpu" / "plan.json").read_text())["motion_tiny"]
    rate = min(rows[0]["images_per_s"], planned["prepared_per_s"])
    assert planned["images_per_s"] == rate
    assert planned["images"] == max(int(0.9 * 60 * 0.02 * rate) // 8, 1) * 8
    recipe = load_recipe(ROOT / "configs" / "gan" / "motion_tiny.yaml", planned["settings"])
    assert recipe.run.images == planned["images"]
    assert recipe.run.validate_images <= recipe.run.images
    assert not (tmp_path / "gpu" / "runs").exists()
    assert "| motion_tiny | fp32 | 8 |" in (tmp_path / "gpu" / "report.md").read_text()
    stamp = (tmp_path / "gpu" / "throughput.json").stat().st_mtime_ns
    assert main(*words, "--minutes", "0.02") == 0  # the same command again measures nothing
    assert (tmp_path / "gpu" / "throughput.json").stat().st_mtime_ns == stamp
    capsys.readouterr()
    assert main(*words, "--minutes", "0.03") == 2
    assert "another run" in capsys.readouterr().err


@pytest.mark.parametrize("name", [*script().RECIPES, "motion_tiny"])
def test_recipes_are_known_and_runs_have_names_of_their_own(name: str) -> None:
    module = script()
    assert load_recipe(module.find(name)).run.images > 0
    labels = [module.label(each) for each in module.RECIPES]
    assert len(set(labels)) == len(labels)
    assert not any("/" in each for each in labels)


def test_keys_in_images_keep_their_share() -> None:
    module = script()
    run = RunConfig(images=1000, batch=10, warmup=100, half_life=0, log_images=50, validate_images=500)
    made = dict(setting.split("=") for setting in module.scaled(run, 4000))
    assert {key: int(made[f"run.{key}"]) for key in ("images", "warmup", "half_life", "log_images")} == {
        "images": 4000, "warmup": 400, "half_life": 0, "log_images": 200,
    }  # fmt: skip
    short = dict(setting.split("=") for setting in module.scaled(run, 20))
    assert (short["run.log_images"], short["run.validate_images"], short["run.warmup"]) == ("10", "10", "2")


@pytest.mark.slow
@pytest.mark.usefixtures("brief")
def test_it_trains_and_compares(tmp_path: Path) -> None:
    """Its verbs run in this process, which has imported everything."""
    module = script()

    def here(*words: object, seconds: float | None = None) -> int:
        done = CliRunner().invoke(mesynth.cli.main, [str(word) for word in words])
        assert done.exit_code == 0, done.output
        return done.exit_code

    assert module.mesynth("train", "--list") == 0
    assert module.mesynth("no-verb") == 2
    module.mesynth = here
    words = ["--out", str(tmp_path / "gpu"), *TINY, "--set", SMALL, "--minutes", "0.02"]
    assert module.main([*words, "--compare", "--people 2 --size 64 --aus 12 --levels 0.5"]) == 0
    assert (tmp_path / "gpu" / "runs" / "motion_tiny" / "generator" / "mesynth.json").is_file()
    assert (tmp_path / "gpu" / "comparison" / "compare.json").is_file()
    assert "epe " in (tmp_path / "gpu" / "report.md").read_text()


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize(("status", "ends"), [(2, 1), (130, 130)])
def test_a_training_that_fails_is_told_and_an_interrupted_one_ends_it(
    status: int, ends: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = script()
    asked: list[tuple[object, ...]] = []

    def ends_so(*words: object, seconds: float | None = None) -> int:
        asked.append(words)
        return status

    module.mesynth = ends_so
    words = ["--out", str(tmp_path / "gpu"), *TINY, "--set", SMALL, "--minutes", "0.02"]
    assert module.main(words) == ends
    assert [call[0] for call in asked] == ["train"]  # there is nothing to compare
    assert ("failed (exit status 2)" in capsys.readouterr().out) is (ends == 1)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--recipes", "motion_huge"], "motion_huge' is unknown"),
        (["--minutes", "0"], "--minutes 0 must be positive"),
        (["--updates", "0"], "--updates 0"),
        (["--variants", "fp64"], "choose from fp32"),
        (["--variants", "bf16"], "--variant among them"),
        (["--set", "run.bach=3"], "run.batch"),
    ],
)
def test_mistakes(words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("--out", tmp_path / "gpu", "--device", "cpu", "--dry-run", *words) == 2
    assert says in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "gpu").exists()


# ---------------------------------------------------------------- one call


def test_a_rehearsal_and_a_short_call_say_what_they_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    rehearsed = script().parse(["--out", "x", "--rehearse", "--updates", "7"])
    assert (rehearsed.device, rehearsed.recipes, rehearsed.updates, rehearsed.clips) == ("cpu", "motion_tiny", 7, 4)
    brief = script().parse(["--out", "x", "--within", "10", "--set", "run.batch=8"])
    assert (brief.device, brief.updates, brief.set) == ("cuda", 20, "run.batch=8")
    plain = script().parse(["--out", "x"])
    assert (plain.updates, plain.set, plain.within) == (50, "", 0)
    monkeypatch.setenv("OUT", "told")
    assert script().parse([]).out == Path("told")
    for words in (["--within", "-1"], ["--clips", "0"]):
        with pytest.raises(SystemExit, match="2"):
            script().parse(["--out", "x", *words])


def test_stages_share_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    module, now = script(), [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    clock = module.Clock(10)
    assert clock.until("tests") == 100 + 0.25 * 600
    now[0] = 400.0
    assert (clock.left(), clock.until("throughput")) == (300, 400 + 0.2 * 300)
    now[0] = 5000.0
    assert clock.left() == 1
    assert not module.Clock(0).limited
    assert module.Clock(0).until("tests") == float("inf")


@pytest.mark.parametrize(
    ("code", "said", "kept"), [(0, "3 passed", 0), (1, "1 failed, 2 passed", 1), (5, "no tests ran", 0)]
)
def test_what_the_tests_on_cuda_say(
    code: int, said: str, kept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = script()
    options = module.parse(["--out", str(tmp_path)])
    ran = module.subprocess.CompletedProcess([], code, stdout=f"..\n{said}\n", stderr="")
    monkeypatch.setattr(module.subprocess, "run", lambda *_, **__: ran)
    assert module.run_tests(tmp_path, options, float("inf")) == {"code": kept, "said": said}
    assert said in (tmp_path / "tests.txt").read_text()

    def late(*_: Any, timeout: float, **__: Any) -> None:
        raise module.subprocess.TimeoutExpired("pytest", timeout, output=b"half of it")

    monkeypatch.setattr(module.subprocess, "run", late)
    told = module.run_tests(tmp_path, options, module.time.monotonic() + 30)
    assert (told["code"], told["said"]) == (0, "stopped after 30 s; what had run is in tests.txt")
    assert (tmp_path / "tests.txt").read_text() == "half of it"


def test_generation_is_timed_on_the_gpu_and_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = script()
    monkeypatch.setattr(module.os, "cpu_count", lambda: 16)

    def made(*words: object, seconds: float | None = None) -> int:
        if "motion_diffusion" in words:
            return 2
        out = Path(str(words[-1]))
        assert seconds is None or seconds > 0
        out.mkdir(parents=True)
        parts = {"model": 3.0, "warp": 5.0, "encode": 1.0, "write": 0.5, "other": 0.5}
        all_ = parts | {"clips": 4, "load": 2.0}
        shares = {name: value / 10 for name, value in parts.items()}
        (out / "throughput.json").write_text(json.dumps({"clips_per_second": 0.4, "all": all_, "shares": shares}))
        return 0

    monkeypatch.setattr(module, "mesynth", made)
    options = module.parse(["--out", str(tmp_path), "--models", "motion-prior,motion_gan,motion_diffusion"])
    rows = module.generation(tmp_path, options, float("inf"))
    assert [row["precision"] for row in rows if row["model"] == "motion_gan"] == ["fp32", "bf16", "fp32", "fp32"]
    assert [row["device"] for row in rows if row["model"] == "motion-prior"] == ["cuda", "cuda", "cpu"]
    assert rows[0]["ms_a_clip"] == 2500
    assert {row["error"] for row in rows if row["model"] == "motion_diffusion"} == {"exit status 2"}
    assert (tmp_path / "faces" / "points.npz").is_file()
    assert len(list((tmp_path / "faces").glob("*.png"))) == 4
    late = module.generation(tmp_path / "late", options, module.time.monotonic() - 1)
    assert {row["error"] for row in late} == {"left out, the time was over"}
    told = {"machine": "a GPU", "tests": {"said": "3 passed"}, "generation": rows, "compare": "it did not fit"}
    text = module.report_text(told, [], {}, tmp_path, {})
    assert "| motion-prior | cuda | fp32 | 1 | 0.4 | 2500.0 | warp 50 % |" in text
    assert "| motion_diffusion | cuda | fp32 | 1 |  | exit status 2 |  |" in text
    assert all(word in text for word in ("a GPU", "3 passed", "it did not fit"))
