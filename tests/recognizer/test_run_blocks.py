"""Runs that are stopped, shared over processes, watched by an oracle, and counted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mesynth.core.errors import ConfigError, RunFolderError
from mesynth.store.manifest import Manifest
from recognizer import run, sources
from recognizer.config import RunConfig, load_config
from recognizer.data import FlowSet
from recognizer.results import column
from recognizer.run import loso
from tests import warm

QUICK = ["model=region_attention", "train.steps=20", "train.batch=8"]


def config(*settings: str) -> RunConfig:
    return load_config(RunConfig, None, [*QUICK, *settings], synthetic=False)


class Stopped(Exception):
    pass


@pytest.mark.parametrize("model", ["region_attention", "ststnet"])  # the latter keeps running statistics
def test_a_stopped_run_goes_on_and_ends_in_the_same_bytes(
    model: str, sets: dict[str, FlowSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "BLOCK", 3)
    settings = config(f"model={model}")
    whole = loso(sets["real"], None, settings, out=tmp_path / "whole")
    done = 0
    real_fit = run.fit

    def stopping(*arguments: object, **options: object) -> object:
        nonlocal done
        done += 1
        if done == 2:
            raise Stopped
        return real_fit(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(run, "fit", stopping)
    with pytest.raises(Stopped):
        loso(sets["real"], None, settings, out=tmp_path / "stopped")
    assert [p.name for p in sorted((tmp_path / "stopped" / "parts").glob("*.safetensors"))] == ["00000.safetensors"]
    resumed = loso(sets["real"], None, settings, out=tmp_path / "stopped")
    assert done == 2 + 2  # the first block was not trained again
    assert resumed.predictions.equals(whole.predictions)
    for name in ("predictions.parquet", "megc.txt"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    saved = [load_file(tmp_path / name / "weights.safetensors") for name in ("stopped", "whole")]
    assert saved[0].keys() == saved[1].keys()
    assert all(torch.equal(saved[0][name], saved[1][name]) for name in saved[0])
    assert not (tmp_path / "stopped" / "parts").exists()
    assert saved[0]["scale"].shape == (8, 3)  # of all blocks


def test_a_damaged_block_is_named(sets: dict[str, FlowSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "BLOCK", 4)
    monkeypatch.setattr(run, "_remove_blocks", lambda folder: None)
    loso(sets["real"], None, config(), out=tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    part = tmp_path / "run" / "parts" / "00001.safetensors"
    part.write_bytes(part.read_bytes()[:50])
    with pytest.raises(RunFolderError, match=r"00001.safetensors is damaged"):
        loso(sets["real"], None, config(), out=tmp_path / "run")


def test_an_oracle_is_never_worse_and_never_the_result(sets: dict[str, FlowSet], tmp_path: Path) -> None:
    plain = loso(sets["shuffled"], None, config())
    told = loso(sets["shuffled"], None, config(), also_oracle=True, out=tmp_path / "run")
    assert told.predictions.equals(plain.predictions)  # looking changes nothing
    assert plain.oracle is None
    assert told.oracle is not None
    assert told.oracle["uf1"] > plain.uf1.value + 0.05  # labels say nothing here: this is what a leak is worth
    assert json.loads((tmp_path / "run" / "result.json").read_text())["oracle"] == told.oracle
    with pytest.raises(ConfigError, match="not trained in steps"):
        loso(sets["real"], None, RunConfig(), also_oracle=True)


def test_the_ledger_counts_other_configurations(corpora: dict[str, Manifest], tmp_path: Path) -> None:
    shutil.copytree(corpora["real"].root, tmp_path / "data", ignore=shutil.ignore_patterns(sources.FILE_NAME))
    manifest = Manifest.read(tmp_path / "data")
    tried = []
    for i, shrinkage in enumerate((0.5, 0.5, 0.6, 0.7)):
        settings = load_config(RunConfig, None, [f"lda.shrinkage={shrinkage}"], synthetic=False)
        tried.append(loso(manifest, None, settings, out=tmp_path / f"run{i}").tried)
    assert tried == [0, 0, 1, 2]  # the same configuration again is no further try
    lines = (tmp_path / "data" / sources.FILE_NAME).read_text().splitlines()
    assert len(lines) == 3
    assert json.loads(lines[0])["model"] == "lda"
    with open(tmp_path / "data" / sources.FILE_NAME, "a") as file:
        file.write("not json\n")
    assert sources.tried_before([manifest], "other") == 4


def test_the_log_holds_every_answer_and_the_figures(corpora: dict[str, Manifest], tmp_path: Path) -> None:
    result = loso(corpora["real"], None, RunConfig(), out=tmp_path / "run")
    lines = (tmp_path / "run" / "megc.txt").read_text().splitlines()
    answers = [line.split("\t") for line in lines if line.count("\t") == 5 and not line.startswith("#")]
    assert len(answers) == 48
    right = np.mean([a[4] == a[5] for a in answers])
    assert right == pytest.approx(result.metrics.accuracy)
    full = next(line.split("\t") for line in lines if line.startswith("Full"))
    assert float(full[2]) == pytest.approx(result.metrics.uf1, abs=1e-4)


@pytest.mark.slow
def test_two_processes_give_what_one_gives(corpora: dict[str, Manifest], tmp_path: Path) -> None:
    settings = ["seeds=[0,1,2,3,4]", "train.steps=6"]  # 40 members: two blocks, one for each process
    alone = loso(corpora["real"], None, config(*settings), out=tmp_path / "one")
    done = warm.run(
        "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--start_method=fork", "--run_path",
        str(warm.ROOT / "recognizer" / "__main__.py"), "loso", *QUICK, *settings, "--real", str(corpora["real"].root),
        "--out", str(tmp_path / "two"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "two" / "predictions.parquet").is_file()
    again = loso(corpora["real"], None, config(*settings), out=tmp_path / "two")
    assert column(again.predictions, "predicted").tolist() == column(alone.predictions, "predicted").tolist()
    assert again.uf1 == alone.uf1
