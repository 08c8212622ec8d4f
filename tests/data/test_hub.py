"""Folders on a hub of this machine: what is published comes back to the byte, and nothing else does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import constants

import mesynth
from mesynth.core.errors import ConfigError, ManifestError, MesynthError
from mesynth.data import ClipDataset
from mesynth.generators.base import Generator
from mesynth.store import digests
from mesynth.store.generator_folder import SHIPPED, PipelineError, read_facts, save_with_gains
from mesynth.store.hub import EXECUTED, HubError, Repository, fetch, push_to_hub
from mesynth.store.manifest import Manifest
from mesynth.store.shards import read_flow, read_frames
from tests.corpus.exports import corpora
from tests.data import fake_hub
from tests.data.fake_hub import FakeHub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with fake_hub.running(tmp_path, monkeypatch) as found:
        yield found


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A copy of the shipped samples with a card."""
    folder = tmp_path / "smiles"
    shutil.copytree(corpora.SAMPLES, folder)
    if not (folder / "README.md").is_file():
        (folder / "README.md").write_text("---\nlicense: cc0-1.0\n---\n# Smiles\n")
    digests.seal(folder)
    return folder


def test_a_corpus_comes_back_as_it_went(hub: FakeHub, corpus: Path) -> None:
    (corpus / "notes.txt").write_text("mine")  # put beside it: not in the list, and not sent
    assert push_to_hub(corpus, "lab/smiles", token="secret") == "hf://datasets/lab/smiles"
    assert hub.private == {("dataset", "lab/smiles"): True}
    assert hub.tokens == ["secret"]
    assert "notes.txt" not in hub.files("dataset", "lab/smiles")
    back = mesynth.load_corpus("hf://datasets/lab/smiles")
    source = Manifest.read(corpus)
    assert back.hash() == source.hash()
    for ours, theirs in zip(source, back, strict=True):
        assert (read_frames(back.root, theirs) == read_frames(corpus, ours)).all()
        assert (read_flow(back.root, theirs) == read_flow(corpus, ours)).all()
    assert len(ClipDataset("hf://lab/smiles")) == len(source)
    asked = len(hub.asked)
    assert mesynth.load_corpus("hf://datasets/lab/smiles@main").hash() == source.hash()
    assert not any("resolve" in one for one in hub.asked[asked:])  # in the cache: asked what is newest, no more


def test_an_export_is_read_back_into_a_corpus(hub: FakeHub, corpus: Path, tmp_path: Path) -> None:
    mesynth.export(Manifest.read(corpus), "huggingface", tmp_path / "hf")
    push_to_hub(tmp_path / "hf", "lab/smiles-hf", private=False)
    assert hub.private == {("dataset", "lab/smiles-hf"): False}
    card = (hub.folder("dataset", "lab/smiles-hf") / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["configs"][0]["data_files"][0]["path"] == "data/train-*.parquet"
    for _ in range(2):  # the second time it is there already
        back = mesynth.load_corpus("hf://datasets/lab/smiles-hf")
        assert len(back) == len(Manifest.read(corpus))
    for ours, theirs in zip(Manifest.read(corpus), back, strict=True):
        assert ours.provenance == theirs.provenance
        assert (read_frames(back.root, theirs) == read_frames(corpus, ours)).all()


def test_a_generator_comes_back_and_keeps_whom_it_saw(hub: FakeHub, tmp_path: Path) -> None:
    save_with_gains(SHIPPED / "motion_gan", tmp_path / "mine", {"12": 1.1}, "", ["casme2/sub01"])
    generator = mesynth.load_generator(tmp_path / "mine")
    assert generator.push_to_hub("lab/mine") == "hf://lab/mine"
    for back in (mesynth.load_generator("hf://lab/mine"), Generator.from_pretrained("hf://models/lab/mine")):
        assert back.facts == generator.facts
        assert "casme2/sub01" in back.facts.subjects_seen
    assert mesynth.load_generator("hf://lab/mine@main").to("cpu").facts == read_facts(tmp_path / "mine")
    shutil.copytree(SHIPPED / "motion_diffusion_fast", tmp_path / "d")
    push_to_hub(tmp_path / "d", "lab/d")
    assert mesynth.load_generator("hf://lab/d@steps=1").steps == 1  # type: ignore[attr-defined]
    assert mesynth.load_generator("hf://lab/d@main@steps=1").folder is not None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "manifest.parquet").write_bytes(b"PAR1"), "manifest.parquet is not the file"),
        (lambda f: next(f.glob("flow-*.tar")).unlink(), "is missing"),
        (lambda f: (f / digests.LIST).unlink(), f"has no {digests.LIST}"),
        (lambda f: (f / digests.LIST).write_text("x\n"), "is damaged"),
    ],
)
def test_what_was_changed_on_the_hub_is_not_taken(
    hub: FakeHub, corpus: Path, damage: Callable[[Path], Any], message: str
) -> None:
    push_to_hub(corpus, "lab/smiles")
    damage(hub.folder("dataset", "lab/smiles"))
    with pytest.raises(ManifestError, match=message) as told:
        mesynth.load_corpus("hf://datasets/lab/smiles")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", [pattern.replace("*", "evil") for pattern in EXECUTED])
def test_nothing_that_runs_is_fetched_or_sent(hub: FakeHub, corpus: Path, name: str) -> None:
    push_to_hub(corpus, "lab/smiles")
    (hub.folder("dataset", "lab/smiles") / name).write_bytes(b"cos\nsystem\n")
    assert not (fetch("hf://lab/smiles") / name).exists()
    (corpus / name).write_bytes(b"cos\nsystem\n")
    digests.seal(corpus)
    with pytest.raises(ConfigError, match=f"{name} may run code"):
        push_to_hub(corpus, "lab/smiles")


@pytest.mark.parametrize(
    "name", ["hf://", "hf://smiles", "hf://a/b/c", "hf://lab/../x", "hf://lab/smiles@", "hf://lab/smi les", "hf:///x/y"]
)
def test_names_that_are_none(hub: FakeHub, name: str) -> None:
    with pytest.raises(ConfigError, match="write hf://ORG/NAME"):
        mesynth.load_corpus(name)
    assert hub.asked == []


def test_what_the_hub_has_not(hub: FakeHub, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        HubError, match=r"hf://datasets/lab/none is not on the hub, or not open to you; .*hf auth login"
    ):
        mesynth.load_corpus("hf://datasets/lab/none")
    with pytest.raises(HubError, match="hf://lab/none is not on the hub"):
        mesynth.load_generator("hf://lab/none")
    push_to_hub(corpus, "lab/smiles")
    with pytest.raises(HubError, match="has no state 'v9'; leave out @v9"):
        mesynth.load_corpus("hf://datasets/lab/smiles@v9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="is not in the cache of this machine"):
        mesynth.load_corpus("hf://datasets/lab/smiles")


def test_no_answer_is_one_line(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match="hf://datasets/lab/smiles") as told:
        mesynth.load_corpus("hf://datasets/lab/smiles")
    assert "\n" not in str(told.value)


def test_only_finished_folders_of_ours_are_sent(hub: FakeHub, corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no finished corpus, export or generator"):
        push_to_hub(tmp_path / "nowhere", "lab/x")
    with pytest.raises(ConfigError, match="names no folder of the hub"):
        push_to_hub(corpus, "smiles")
    with pytest.raises(ConfigError, match=r"is a dataset; write hf://datasets/lab/smiles"):
        push_to_hub(corpus, "hf://models/lab/smiles")
    with pytest.raises(PipelineError, match="is not trained and has no folder"):
        mesynth.load_generator("motion-prior").push_to_hub("lab/prior")
    next(corpus.glob("flow-*.tar")).write_bytes(b"torn")
    with pytest.raises(digests.DigestError, match="mend the folder before it is published"):
        push_to_hub(corpus, "lab/smiles")
    (corpus / "README.md").unlink()
    with pytest.raises(ManifestError, match="has no card"):
        push_to_hub(corpus, "lab/smiles")
    assert hub.private == {}


def test_faces_under_terms_are_not_public_by_accident(hub: FakeHub, tmp_path: Path) -> None:
    folder = corpora.run_stage(
        tmp_path / "c",
        [(corpora.clip_row("c0", source={"licence": "CASME II licence agreement"}), ())],
        corpora.make,
        config={"test": "closed"},
    ).root
    (folder / "README.md").write_text("# c\n")
    digests.seal(folder)
    with pytest.raises(ConfigError, match=r"is under 'CASME II licence agreement'.*may_publish=True"):
        push_to_hub(folder, "lab/c", private=False)
    assert push_to_hub(folder, "lab/c") == "hf://datasets/lab/c"
    assert push_to_hub(folder, "lab/d", private=False, may_publish=True) == "hf://datasets/lab/d"


def test_a_device_that_is_none() -> None:
    with pytest.raises(ConfigError, match=r"quantum.*choose auto, cpu, cuda"):
        mesynth.load_generator("motion_gan").to("quantum")


def test_another_family_than_asked() -> None:
    with pytest.raises(PipelineError, match=r"is a flow_gan, no Generator; call mesynth\.load_generator"):
        Generator.from_pretrained("flow_gan")
    images = mesynth.load_generator("flow_gan").to("cpu")
    assert type(images).from_pretrained("flow_gan").facts == images.facts


def test_names_are_read_as_written() -> None:
    assert Repository.parse("hf://lab/a.b-c@refs/pr/1", "model") == Repository("lab/a.b-c", "model", "refs/pr/1")
    assert Repository.parse("hf://models/lab/x").kind == "model"
    assert Repository.parse("hf://datasets/x", "dataset").name == "datasets/x"  # an organisation may be called so
    for text in ("hf://datasets/lab/x@v1", "hf://lab/x"):
        kind = "dataset" if "datasets" in text else "model"
        assert Repository.parse(text, kind).text == text
    assert np.all([isinstance(json.dumps(p), str) for p in EXECUTED])
    with pytest.raises(MesynthError):
        Repository.parse("hf://datasets/lab/x/y")
