"""``--device`` and ``--precision`` of every verb: one line and exit status 2 where it is not here, and nothing written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import mesynth
import mesynth.cli
from mesynth.core.devices import autocast, check_precision, devices_here, find_device
from mesynth.core.errors import ConfigError, MesynthError
from mesynth.corpus.generate import Blocks, GenerateWorker, Preview, Together
from mesynth.generators.registry import find_model
from mesynth.store.manifest import Manifest
from mesynth.store.shards import read_frames
from tests.devices import NEEDS_CUDA

NO_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
VERBS = {
    "generate": ["--faces", "face.png", "--au", "12=B", "--out", "made"],
    "compare": ["--models", "motion-prior", "--out", "made"],
    "measure": ["--real", "a", "--synthetic", "b", "--out", "made"],
    "fid": ["a", "b"],
    "prepare": ["generic", "a", "--out", "made"],
    "train": ["gan/motion_tiny", "--out", "made"],
}


def said(*words: str) -> str:
    """What the command line answers with; it must be one line and exit status 2."""
    result = CliRunner().invoke(mesynth.cli.main, list(words))
    assert result.exit_code == 2, result.output
    lines = result.output.strip().splitlines()
    assert len(lines) == 1, result.output
    return lines[0]


@pytest.mark.parametrize(
    ("device", "words"),
    [
        pytest.param("cuda", "--device cuda is not here (no CUDA); there is cpu", marks=NO_CUDA),
        pytest.param("cuda:3", "cuda", marks=NO_CUDA),
        ("gpu", "--device gpu is unknown; choose auto, cpu, cuda, cuda:N or mps"),
        ("CPU", "--device CPU is unknown"),
        ("cuda:x", "--device cuda:x is unknown"),
        ("", "--device  is unknown"),
    ],
)
@pytest.mark.parametrize("verb", VERBS)
def test_a_device_that_is_not_here_is_one_line(
    verb: str, device: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    assert words in said(verb, *VERBS[verb], "--device", device)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["--precision", "fp8"], "--precision fp8 is unknown; choose fp32 or bf16"),
        (["--precision", "bf16"], "--precision bf16 has no effect without a network"),
        (["--precision", "bf16", "--model", "landmark-mean"], "--precision bf16 has no effect without a network"),
    ],
)
def test_a_precision_without_effect_is_refused(
    words: list[str], answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert answer in said("generate", *VERBS["generate"], *words)
    assert answer in said("generate", *VERBS["generate"], *words, "--dry-run")
    assert not list(tmp_path.iterdir())


def test_the_flow_prior_takes_no_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mesynth.core.devices.devices_here", lambda: ("cpu", "cuda", "cuda:0"))
    words = ["--kind", "flow", "--emotion", "surprise", "--out", "made", "--dry-run"]
    assert "--device cuda has no effect on the flow prior" in said("generate", *words, "--device", "cuda")
    assert CliRunner().invoke(mesynth.cli.main, ["generate", *words, "--device", "auto"]).exit_code == 0


@pytest.mark.parametrize(
    ("here", "name", "found"),
    [
        (("cpu",), "auto", "cpu"), (("cpu", "mps"), "auto", "mps"), (("cpu", "cuda", "cuda:0", "mps"), "auto", "cuda"),
        (("cpu", "cuda", "cuda:0", "cuda:1"), "cuda:1", "cuda:1"), (("cpu", "mps"), "mps", "mps"),
        (("cpu",), "mps", "no Apple GPU"), (("cpu", "mps"), "cuda:0", "no CUDA"),
        (("cpu", "cuda", "cuda:0"), "cuda:1", "no such GPU"),
    ],
)  # fmt: skip
def test_what_is_here_decides(here: tuple[str, ...], name: str, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesynth.core.devices.devices_here", lambda: here)
    if found.startswith("no "):
        with pytest.raises(ConfigError, match=rf"--device {name} is not here \({found}\); there is {', '.join(here)}"):
            find_device(name)
    else:
        assert find_device(name) == found


def test_bf16_is_for_those_who_know_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="not known to mps; use fp32"):
        check_precision("bf16", "mps")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    with pytest.raises(ConfigError, match="not known to cuda"):
        check_precision("bf16", "cuda")
    with autocast("cpu", "bf16"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    with autocast("cpu"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    assert "cpu" in devices_here()


def test_what_a_corpus_is_made_on_is_part_of_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes of another device are its own; those of the CPU are what they were."""
    monkeypatch.setattr("mesynth.core.devices.devices_here", lambda: ("cpu", "cuda", "cuda:0", "cuda:1"))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    model = find_model("motion_gan")
    assert model.on("cpu").identity == model.identity
    assert model.on("cuda").identity == model.on("cuda:1").identity == model.identity | {"device": "cuda"}
    assert model.on("cuda", "bf16").identity == model.identity | {"device": "cuda", "precision": "bf16"}


# ---------------------------------------------------------------- a corpus made in blocks


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine clips of two people, made on the CPU, row by row."""
    folder = tmp_path_factory.mktemp("blocks")
    mesynth.render(folder / "faces", subjects=2, layout="faces", size=96)
    mesynth.generate(
        folder / "faces", out=folder / "made", aus=["12=0.5", "4=0.6", "1=1,2=1"], count=9, duration=0.1, fps=50, size=64,
        noise=1.0, model="motion_gan", landmarker="stored", preview=0,
    )  # fmt: skip
    return folder


@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_clips_made_ahead_by_a_thread_are_those_of_the_corpus(corpus: Path, at_once: int) -> None:
    """The path of a GPU, with the CPU as its device: rows come in blocks, and the clips are the same to the byte."""
    from mesynth.corpus.plan import StoredPlan

    made = Manifest.read(corpus / "made")
    rows = StoredPlan.read(corpus / "made") if (corpus / "made" / "plan.json").is_file() else None
    plan = rows if rows is not None else _plan_of(corpus)
    worker = GenerateWorker(find_model("motion_gan"), corpus / "made" / "faces", 64, Preview(count=0))
    jobs = list(Blocks(plan[2:], at_once))
    assert [len(job.rows) for job in jobs][:at_once] == [at_once] * min(at_once, len(jobs))
    for row, job in zip(list(made)[2:], jobs, strict=True):
        assert isinstance(job, Together)
        produced = worker(job)
        assert produced.frames is not None
        assert np.array_equal(produced.frames, read_frames(made.root, row))
        assert produced.row.clip_id == row.clip_id
    worker.close()


def _plan_of(corpus: Path):  # type: ignore[no-untyped-def]
    from mesynth.corpus.plan import Plan, PlanConfig

    return Plan(PlanConfig(au=("12=0.5", "4=0.6", "1=1,2=1"), count=9, duration=(0.1, 0.1), fps=50, size=64), 2)


def test_an_error_ahead_is_raised_where_the_clip_would_be() -> None:
    from mesynth.core.process import Ahead

    def made():  # type: ignore[no-untyped-def]
        yield 1
        yield 2
        raise MesynthError("no more")

    ahead = Ahead(made(), 1)
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(MesynthError, match="no more"):
        next(ahead)
    endless = Ahead(iter(int, 1), 2)
    assert next(endless) == 0
    endless.close()  # ends, although nobody takes what is there
    assert not endless._thread.is_alive()


@pytest.mark.parametrize("model", [pytest.param(name, marks=NEEDS_CUDA) for name in ("motion-prior", "motion_gan")])
def test_a_corpus_on_a_gpu(corpus: Path, model: str, tmp_path: Path) -> None:
    for device in ("cpu", "cuda"):
        mesynth.generate(
            corpus / "faces", out=tmp_path / device, aus=["12=0.5", "4=0.6"], count=6, duration=0.1, fps=50, size=64,
            model=model, landmarker="stored", preview=1, device=device,
        )  # fmt: skip
    here, there = Manifest.read(tmp_path / "cpu"), Manifest.read(tmp_path / "cuda")
    for ours, theirs in zip(there, here, strict=True):
        apart = np.abs(read_frames(there.root, ours).astype(int) - read_frames(here.root, theirs))
        assert (apart > 1).mean() < 0.01
