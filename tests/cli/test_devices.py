"""``--device`` and ``--precision`` of every verb: one line and exit status 2 where it is not here, nothing written."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from skimage import data

import mesynth.cli
from mesynth.core.devices import autocast, check_precision, devices_here, find_device
from mesynth.core.errors import ConfigError, MesynthError, RunFolderError
from mesynth.core.process import Ahead
from mesynth.corpus.generate import Blocks, FaceRun, Preview, Throughput, generate
from mesynth.corpus.plan import PlanConfig
from mesynth.generators.base import ClipRequest, Generator
from mesynth.generators.registry import find_model
from mesynth.motion.nuisance import Nuisance
from mesynth.store.manifest import Manifest
from mesynth.store.shards import read_frames
from tests.corpus.coded import made_bytes
from tests.devices import NEEDS_CUDA

NO_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
VERBS = {
    "generate": ["--faces", "face.png", "--au", "12=B", "--out", "made"],
    "compare": ["--models", "motion-prior", "--out", "made"],
    "measure": ["--real", "a", "--synthetic", "b", "--out", "made"],
    "fid": ["a", "b"],
    "prepare": ["generic", "--root", "a", "--out", "made"],
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
        ("", "--device '' is unknown"),
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


CONFIG = PlanConfig(
    au=("12=0.5", "4=0.6", "1=1,2=1"), count=9, fps=50, duration=(0.1, 0.14), size=64, nuisance=Nuisance(noise=1)
)  # fmt: skip


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "astronaut.png"
    cv2.imwrite(str(path), data.astronaut()[..., ::-1])
    return path


@pytest.fixture(scope="module")
def plain(photo: Path, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Nine clips in shards of four, made on the CPU, row by row."""
    out = tmp_path_factory.mktemp("plain") / "corpus"
    return generate(photo, CONFIG, out, model="motion_gan", preview=Preview(count=1))


@pytest.mark.parametrize("at_once", [1, 3, 32])
def test_clips_made_ahead_in_blocks_are_the_same_corpus(
    photo: Path, plain: Manifest, at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path of a GPU with the CPU as its device: blocks of rows by a thread, the same bytes; times are told."""
    monkeypatch.setattr(FaceRun, "jobs", lambda _, rows: Blocks(rows, at_once))
    sizes: list[int] = []
    many = Generator.generate_many

    def counted(self: Generator, requests: Sequence[ClipRequest]) -> Any:
        sizes.append(len(requests))
        return many(self, requests)

    monkeypatch.setattr(Generator, "generate_many", counted)
    told: list[Throughput] = []
    made = generate(photo, CONFIG, tmp_path / "made", model="motion_gan", preview=Preview(count=1), report=told.append)
    assert made_bytes(made.root) == made_bytes(plain.root)
    assert max(sizes) == min(at_once, 4)
    assert (told[0].all.clips, told[0].all.model > 0) == (9, True)
    assert not [thread for thread in threading.enumerate() if thread.name == "ahead"]


def test_an_error_ahead_is_raised_where_the_clip_would_be() -> None:
    def made() -> Iterator[int]:
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
def test_a_corpus_on_a_gpu(photo: Path, model: str, tmp_path: Path) -> None:
    here = generate(photo, CONFIG, tmp_path / "cpu", model=model, preview=Preview(count=1))
    there = generate(photo, CONFIG, tmp_path / "cuda", model=find_model(model).on("cuda"), preview=Preview(count=1))
    assert there.column("clip_id").tolist() == here.column("clip_id").tolist()
    for ours, theirs in zip(there, here, strict=True):
        apart = np.abs(read_frames(there.root, ours).astype(int) - read_frames(here.root, theirs))
        assert (apart > 1).mean() < 0.01
    with pytest.raises(RunFolderError, match="another run"):
        generate(photo, CONFIG, tmp_path / "cuda", model=model, preview=Preview(count=1))
