"""Damaged checkpoints, saved generators and weight files: passed over or refused in one line; nothing is executed."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from mesynth.core.errors import MesynthError, RunFolderError
from mesynth.generators.base import load_pipeline
from mesynth.store.digests import seal
from mesynth.store.generator_folder import INDEX, WEIGHTS, PipelineError, read_facts
from mesynth.store.weights import read_weights
from mesynth.training import checkpoint
from tests.fuzz.damage import damaged, peak, result
from tests.generators.saved import saved


def _checkpoint(root: Path, images: int = 100) -> Path:
    tensors = {"network": {"a": torch.arange(6.0).reshape(2, 3)}, "optimiser": {"0/m": torch.ones(3)}}
    return checkpoint.write(root, images, checkpoint.Saved(tensors, {"step": images, "losses": [1.0, 2.0]}), keep=3)


def _same(found: tuple[int, checkpoint.Saved]) -> bool:
    images, kept = found
    return torch.equal(kept.tensors["network"]["a"], torch.arange(6.0).reshape(2, 3)) and images >= 0


@pytest.mark.parametrize("name", ["network.safetensors", checkpoint.STATE])
def test_damaged_checkpoints(tmp_path: Path, name: str) -> None:
    file = _checkpoint(tmp_path) / name
    whole, refused = file.read_bytes(), 0
    for bad in damaged(whole, 300):
        file.write_bytes(bad)
        found = result(lambda: checkpoint.read(file.parent))
        refused += found is None
        assert found is None or (_same(found) and bad == whole)
    assert refused > 290


def test_a_damaged_checkpoint_costs_only_itself(tmp_path: Path) -> None:
    _checkpoint(tmp_path, 100)
    file = _checkpoint(tmp_path, 200) / "network.safetensors"
    whole, warnings = file.read_bytes(), []
    for bad in damaged(whole, 40, seed=1):
        file.write_bytes(bad)
        found = checkpoint.newest(tmp_path, warnings.append)
        assert found is not None
        assert found[0] == 100
    assert len(warnings) == 40
    assert all("going back" in line for line in warnings)


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "3", "{}", "[" * 100_000, '{"a":' * 50_000, '{"sha256": [], "images": 1, "state": {}}',
     '{"sha256": {}, "images": Infinity, "state": {}}', '{"sha256": {}, "images": "x", "state": {}}',
     '{"sha256": {}, "images": 1, "state": 3}', '{"sha256": {"a\\u0000b": "x"}, "images": 1, "state": {}}',
     '{"sha256": {"": "x"}, "images": 1, "state": {}}', '{"sha256": {"/dev/full": "x"}, "images": 1, "state": {}}'],
)  # fmt: skip
def test_states_that_are_none(tmp_path: Path, text: str) -> None:
    folder = _checkpoint(tmp_path)
    (folder / checkpoint.STATE).write_text(text)
    seal(folder)
    with pytest.raises(RunFolderError, match="is damaged"):
        checkpoint.read(folder)


def _headed(header: bytes, length: int | None = None, body: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + body


FOREIGN = [
    b"",
    pickle.dumps({"a": 1}),
    _headed(b"{}", length=1 << 60),
    _headed(b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'),
    _headed(b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4]}}', body=b"1234"),
    _headed(b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,4]}}', body=b"1234"),
    _headed(b"[" * 10_000),
]


@pytest.mark.parametrize("data", FOREIGN)
def test_tensors_that_say_more_than_they_hold(tmp_path: Path, data: bytes) -> None:
    """With a hash that fits, as someone who wants to do harm would write it."""
    folder = _checkpoint(tmp_path)
    (folder / "network.safetensors").write_bytes(data)
    state = json.loads((folder / checkpoint.STATE).read_text())
    state["sha256"]["network.safetensors"] = hashlib.sha256(data).hexdigest()
    (folder / checkpoint.STATE).write_text(json.dumps(state))
    seal(folder)
    assert peak(lambda: result(lambda: checkpoint.read(folder))) < 1 << 22
    with pytest.raises(RunFolderError):
        checkpoint.read(folder)
    (tmp_path / "w.safetensors").write_bytes(data)
    with pytest.raises(MesynthError):
        read_weights(tmp_path / "w.safetensors", "k", "judge", "train it")


def test_damaged_weights(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    whole = save({"a": torch.arange(4.0)}, {"record": json.dumps({"x": 1})})
    refused = 0
    for bad in [*damaged(whole, 300), save({"a": torch.ones(1)}, {"record": "[" * 100_000}), save({}, None)]:
        file.write_bytes(bad)
        refused += result(lambda: read_weights(file, "record", "judge", "train it")) is None
    assert refused > 100


# ---------------------------------------------------------------- saved generators


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "generator"
    saved(folder)
    return folder


@pytest.fixture
def copy(generator: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(generator, tmp_path / "copy"))


@pytest.mark.parametrize("name", [INDEX, "generator/config.json", f"generator/{WEIGHTS}"])
def test_damaged_generators(copy: Path, name: str) -> None:
    facts, file = read_facts(copy), copy / name
    whole, refused = file.read_bytes(), 0
    for bad in damaged(whole, 150 if name == INDEX else 40):
        file.write_bytes(bad)
        found = result(lambda: read_facts(copy))
        refused += found is None
        assert found is None or (found == facts and bad == whole)
    assert refused >= (145 if name == INDEX else 40)


def _edited(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    index = json.loads((folder / INDEX).read_text())
    change(index)
    (folder / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize(
    "change",
    [
        lambda i: i.update(format=2),
        lambda i: i.update(family="os"),
        lambda i: i.update(family=["motion_gan"]),
        lambda i: i.update(files=[]),
        lambda i: i.update(files={"../evil/config.json": {"bytes": 1, "sha256": "x"}}),
        lambda i: i.update(files={"/etc/passwd": {"bytes": 1, "sha256": "x"}}),
        lambda i: i["files"].update({"generator/x.py": {"bytes": 1, "sha256": "x"}}),
        lambda i: i["files"].update({"generator/config.json": {"bytes": float("inf"), "sha256": "x"}}),
        lambda i: i["files"].update({"generator/config.json": None}),
        lambda i: i["facts"].update(networks=["..", "generator"]),
        lambda i: i["facts"].update(networks=[{}]),
        lambda i: i["facts"].update(subjects_seen=[1]),
        lambda i: i["facts"].update(gains={"12": float("nan")}),
        lambda i: i["facts"].update(gains={"12": "much"}),
        lambda i: i["facts"].update(surprise=1),
        lambda i: i["facts"].pop("licences"),
    ],
)
def test_indexes_that_lead_elsewhere(copy: Path, change: Callable[[dict[str, Any]], object]) -> None:
    _edited(copy, change)
    with pytest.raises(PipelineError):
        read_facts(copy)


@pytest.mark.parametrize("text", ["", "null", "[" * 100_000, "{}", '{"format": 1}', "\x00"])
def test_files_that_are_no_index(copy: Path, text: str) -> None:
    (copy / INDEX).write_text(text)
    with pytest.raises(PipelineError):
        load_pipeline(copy)


def _rehashed(folder: Path, name: str, data: bytes) -> None:
    """Put ``data`` in place of a network's file, with an index and a digest list that agree."""
    from mesynth.store.generator_folder import _joint_sha256

    (folder / name).write_bytes(data)

    def change(index: dict[str, Any]) -> None:
        index["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        index["facts"]["weights_sha256"] = _joint_sha256(index["files"], index["facts"]["gains"])

    _edited(folder, change)
    seal(folder)


@pytest.mark.parametrize("data", FOREIGN)
def test_foreign_weights_with_a_hash_that_fits(copy: Path, data: bytes) -> None:
    _rehashed(copy, f"generator/{WEIGHTS}", data)
    with pytest.raises(PipelineError):
        load_pipeline(copy)


@pytest.mark.parametrize(
    "change",
    [{"width": 10**9}, {"width": -1}, {"width": "8"}, {"width": 4096}, {"blocks": 10**7}, {"size": 10**8},
     {"_class_name": "Popen"}],
)  # fmt: skip
def test_configurations_of_another_size(copy: Path, change: dict[str, Any]) -> None:
    config = json.loads((copy / "generator" / "config.json").read_text())
    _rehashed(copy, "generator/config.json", json.dumps(config | change).encode())
    with pytest.raises(MesynthError):
        load_pipeline(copy)


@pytest.mark.parametrize("text", ["[]", "3", "[" * 100_000, "{", "null"])
def test_configurations_that_are_none(copy: Path, text: str) -> None:
    _rehashed(copy, "generator/config.json", text.encode())
    with pytest.raises(PipelineError):
        load_pipeline(copy)
