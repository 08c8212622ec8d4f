"""The verbs that several processes share, and what a user may get wrong about it."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import mesynth
from mesynth.cli import main
from mesynth.datasets.casme2 import load_casme2
from mesynth.store.manifest import Manifest
from mesynth.store.shards import png_bytes
from tests import warm
from tests.builders import tree_bytes

FLOW = ["generate", "--kind", "flow", "--emotion", "surprise,negative", "--count", "12", "--workers", "1"]


def run(*words: object, **environment: str) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], env=environment)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "flow"
    assert run(*FLOW, "--out", out).exit_code == 0
    return out


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in tree_bytes(folder).items() if name != "throughput.json"}


def test_shares_of_generate_make_one_corpus(alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "flow"
    first = run(*FLOW, "--shard", "0/2", "--out", out)
    assert first.exit_code == 0
    assert "share 0/2" in first.stdout
    assert "mesynth merge" in first.stdout
    waiting = run("merge", out)
    assert waiting.exit_code == 2
    assert waiting.stderr.startswith(f"Error: 1 of 3 shards of {out} are missing (numbers 1)")
    last = run(*FLOW, "--shard", "1/2", "--out", out, "--json")
    assert last.exit_code == 0
    assert json.loads(last.stdout)["hash"] == Manifest.read(alone).hash()
    assert bytes_of(out) == bytes_of(alone)
    merged = run("merge", out, "--json")
    assert json.loads(merged.stdout) == {"out": str(out), "clips": 12, "hash": Manifest.read(alone).hash()}


def test_shares_of_an_export(alone: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "npy"
    mesynth.export(Manifest.read(alone), "flow-npy", whole)
    for share in ("1/2", "0/2"):
        assert run("export", alone, "--to", "flow-npy", "--shard", share, "--out", out).exit_code == 0
    assert tree_bytes(out) == tree_bytes(whole)
    assert run("merge", out).exit_code == 0


def test_shares_of_prepare(alone: Path, tmp_path: Path) -> None:
    """Of an import, whose clips are nothing but copied."""
    exported = tmp_path / "npy"
    mesynth.export(Manifest.read(alone), "flow-npy", exported)
    assert run("prepare", "export", "--root", exported, "--workers", 1, "--out", tmp_path / "whole").exit_code == 0
    for share in ("0/2", "1/2"):
        done = run("prepare", "export", "--root", exported, "--workers", 1, "--shard", share, "--out", tmp_path / "out")
        assert done.exit_code == 0
    assert tree_bytes(tmp_path / "out") == tree_bytes(tmp_path / "whole")


def test_shares_on_faces(tmp_path: Path) -> None:
    """Faces are made by whoever comes first, all of them, whatever his share."""
    faces = Path(__file__).parents[2] / "samples" / "corpus"
    words = ["generate", "--faces", faces, "--emotion", "surprise", "--size", 32, "--fps", 25, "--duration", 0.2]
    words += ["--count", 9, "--preview", 1, "--workers", 1, "--out"]
    assert run(*words, tmp_path / "whole").exit_code == 0
    for share in ("2/3", "0/3", "1/3"):
        done = run(*words, tmp_path / "out", "--shard", share)
        assert done.exit_code == 0, done.output
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "whole")
    again = run(*words, tmp_path / "out", "--shard", "0/3")
    assert again.exit_code == 0, again.output
    assert run("verify", tmp_path / "out").exit_code == 0


def test_measure_takes_ranks_and_no_share(alone: Path, tmp_path: Path) -> None:
    words = ["measure", "--real", alone, "--synthetic", alone, "--out", tmp_path / "out"]
    for more in (["--shard", "0/2"], ["--engine", "ray"]):
        done = run(*words, *more)
        assert done.exit_code == 2
        assert f"{' '.join(more)} does not go with measure" in done.stderr
        assert not (tmp_path / "out").exists()


def test_render_and_its_workbook_in_shares(tmp_path: Path) -> None:
    """What follows the shards is done once, by the last one; merge leaves it to the command."""
    words = ["render", "--subjects", 2, "--clips", 1, "--size", 64, "--fps", 30, "--workers", 1]
    words += ["--out", tmp_path / "out", "--shard"]
    assert run(*words, "1/2").exit_code == 0
    waiting = run("merge", tmp_path / "out")
    assert waiting.exit_code == 2
    assert "is a rendered database, which its command closes" in waiting.stderr
    assert not list(tmp_path.rglob("*.xlsx"))
    assert run(*words, "0/2").exit_code == 0
    assert len(load_casme2(tmp_path / "out")) == 2
    assert run("verify", tmp_path / "out").exit_code == 0


def test_a_rank_that_is_not_the_first_says_nothing(alone: Path, tmp_path: Path) -> None:
    """Alone of three it makes all there is; the first would tell."""
    out = tmp_path / "flow"
    done = run(*FLOW, "--out", out, RANK="2", WORLD_SIZE="3")
    assert (done.exit_code, done.output) == (0, "")
    assert bytes_of(out) == bytes_of(alone)
    assert not (out / "throughput.json").exists()


@pytest.mark.parametrize(
    ("words", "environment", "said"),
    [
        ([*FLOW, "--shard", "2/2"], {}, "--shard 2/2 is out of range; i counts from 0 to 1 (sbatch --array=0-1)"),
        ([*FLOW, "--shard", "two"], {}, "--shard 'two' is no share; write i/N, for example --shard 0/8"),
        ([*FLOW, "--address", "auto"], {}, "--address has no effect without --engine ray; leave it out"),
        ([*FLOW, "--gpus", "1"], {}, "--gpus has no effect without --engine ray; leave it out"),
        ([*FLOW, "--engine", "ray", "--gpus", "-1"], {}, "--gpus -1 is outside 0..64 GPUs a task"),
        ([*FLOW, "--engine", "ray", "--shard", "0/2"], {}, "--engine ray shares the work itself"),
        ([*FLOW, "--engine", "ray"], {"RANK": "0", "WORLD_SIZE": "2"}, "--engine ray shares the work itself"),
        ([*FLOW, "--until-accepted", "--shard", "0/2"], {}, "--shard 0/2 does not go with --until-accepted"),
        (FLOW, {"RANK": "5", "WORLD_SIZE": "2"}, "the launcher says WORLD_SIZE=2 and RANK=5"),
        (FLOW, {"SLURM_PROCID": "7", "SLURM_NTASKS": "4"}, "SLURM says SLURM_PROCID=7 of SLURM_NTASKS=4"),
        ([*FLOW, "--shard", "0/2"], {"MESYNTH_LEASE_SECONDS": "soon"}, "MESYNTH_LEASE_SECONDS=soon"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    words: list[str], environment: dict[str, str], said: str, tmp_path: Path
) -> None:
    done = run(*words, "--out", tmp_path / "out", **environment)
    assert done.exit_code == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_mistake_is_said_by_the_first_rank_alone(tmp_path: Path) -> None:
    words = [*FLOW, "--plan", tmp_path / "none", "--out", tmp_path / "out"]
    first, other = (run(*words, RANK=str(i), WORLD_SIZE="2") for i in range(2))
    assert (first.exit_code, other.exit_code) == (2, 2)
    assert first.stderr.count("\n") == 1
    assert other.output == ""


def test_merge_of_what_is_no_folder_of_shares(tmp_path: Path) -> None:
    done = run("merge", tmp_path)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"Error: {tmp_path} holds no shards that wait to be merged")


def test_shares_until_accepted_and_rounds(tmp_path: Path) -> None:
    """Ranks make each round together, and one gathers."""
    words = [*FLOW, "--until-accepted", "--out"]
    assert run(*words, tmp_path / "whole").exit_code == 0
    assert run(*words, tmp_path / "out", RANK="1", WORLD_SIZE="2").exit_code == 0
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "whole")


# ------------------------------------------------------------------- submit


def test_a_submission_by_the_local_executor(alone: Path, tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    out, logs = tmp_path / "flow", tmp_path / "logs"
    words = ["submit", *FLOW, "--out", out, "--tasks", "2", "--slurm", "time=5", "--executor", "local", "--logs", logs]
    planned = run(*words, "--dry-run")
    assert planned.exit_code == 0
    assert "would submit 2 tasks by local" in planned.stdout
    assert planned.stdout.endswith("--shard 0/2\n")
    assert not out.exists()
    done = run(*words, "--wait", "--json", PYTHONPATH=os.pathsep.join(sys.path))
    assert done.exit_code == 0, done.output
    assert len(json.loads(done.stdout)["jobs"]) == 2
    assert bytes_of(out) == bytes_of(alone)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "gan/x"], "'train' is not one of"),
        (["generate", "--kind", "flow", "--count", "few", "--out", "o"], "'few' is not a valid integer"),
        (["generate", "--kind", "flow"], "Missing option '--out'"),
        (["generate", "--kind", "flow", "--out", "o", "--emotions", "surprise"], "No such option"),
        (["generate", "--kind", "flow", "--out", "o", "--slurm", "time=never"], "--slurm time=never is no time"),
        (["generate", "--kind", "flow", "--out", "o", "--slurm", "fast"], "--slurm 'fast' is no setting"),
        (["generate", "--kind", "flow", "--out", "o"], "there is no sbatch on this machine"),
    ],
)
def test_what_cannot_be_submitted(words: list[str], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setattr("shutil.which", lambda name: None)
    done = run("submit", *words)
    assert done.exit_code == 2
    assert said in done.stderr


@pytest.mark.parametrize(("module", "words"), [("submitit", ["submit", *FLOW]), ("ray", [*FLOW, "--engine", "ray"])])
def test_without_the_extra(module: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    done = run(*words, "--out", tmp_path / "o")
    assert done.exit_code == 2
    assert f"needs {module}; install it with: pip install 'mesynth[cluster]'" in done.stderr


def test_two_processes_of_a_launcher(alone: Path, tmp_path: Path) -> None:
    """As torchrun starts them."""
    out = tmp_path / "flow"
    started = [
        warm.start("mesynth", *FLOW, "--out", str(out), RANK=str(i), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
        for i in range(2)
    ]
    said = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert Manifest.read(alone).hash() in said[0][0]
    assert said[1] == ("", "")
    assert bytes_of(out) == bytes_of(alone)


# ------------------------------------------------------------------- what it will cost


MEASURED = r"measured on {} with one process: [\d.e-]+ s and [\d.]+ kB a clip, \d+ s to start; {}: [\d.]+ (kB|MB|GB), "


@pytest.mark.parametrize("more", [(), ("--shard", "0/4")])
def test_a_dry_run_of_generate_measures(more: tuple[str, ...], tmp_path: Path) -> None:
    words = ["generate", "--kind", "flow", "--emotion", "surprise", "--count", 100_000, "--dry-run", *more]
    done = run(*words, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    (first,), (second,) = done.stdout.splitlines(), done.stderr.splitlines()
    assert first.startswith("would generate 100000 flow images of 28 px")
    assert re.match(MEASURED.format(128, "100,000 flow images"), second), second
    assert re.search(r"with one process, .* with 8, .* with 64, .* with 512 of its speed$", second)
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_on_faces_and_of_prepare_measures(tmp_path: Path) -> None:
    faces = Path(__file__).parents[2] / "samples" / "corpus"
    words = ["generate", "--faces", faces, "--au", "12=B", "--size", 48, "--fps", 25, "--count", 40]
    done = run(*words, "--dry-run", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert re.match(MEASURED.format(3, "40 clips"), done.stderr.splitlines()[-1])
    words = ["prepare", "corpus", "--root", faces, "--landmarker", "stored", "--method", "farneback", "--no-frames"]
    done = run(*words, "--dry-run", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert re.match(MEASURED.format(4, r"\d+ clips"), done.stderr.splitlines()[-1]), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_says_why_nothing_was_measured(tmp_path: Path) -> None:
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces" / "no-face.png").write_bytes(png_bytes(np.full((64, 64, 3), 90, np.uint8)))
    done = run("generate", "--faces", tmp_path / "faces", "--au", "12=B", "--dry-run", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert done.stderr.startswith("not measured: ")
    assert done.stderr.count("\n") == 1
