"""Checkpoints: exact, complete or absent, and never the end of the ones before."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from mesynth.core.errors import MesynthError, RunFolderError
from mesynth.training import checkpoint
from mesynth.training.checkpoint import Saved

OPTIMISERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "adamw": lambda p: torch.optim.AdamW([{"params": p[:1], "lr": 0.1}, {"params": p[1:]}], lr=0.3, betas=(0.1, 0.2)),
    "amsgrad": lambda p: torch.optim.Adam(p, amsgrad=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "plain": lambda p: torch.optim.SGD(p, lr=0.1),
    "rms": lambda p: torch.optim.RMSprop(p, centered=True),
    "radam": lambda p: torch.optim.RAdam(p),
}


def _saved(value: float) -> Saved:
    return Saved({"networks": {"a:b": torch.full((3,), value)}, "optimisers": {}}, {"clock": {"seconds": value}})


def _refuse(text: str) -> None:
    raise AssertionError(text)


@pytest.mark.parametrize("name", list(OPTIMISERS))
def test_an_optimiser_goes_on_exactly(tmp_path: Path, name: str) -> None:
    def advance(network: nn.Module, optimiser: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            optimiser.zero_grad()
            network(torch.full((2, 3), float(step))).square().mean().backward()
            optimiser.step()

    torch.manual_seed(0)
    network = nn.Linear(3, 2)
    optimiser = OPTIMISERS[name](list(network.parameters()))
    advance(network, optimiser, range(3))
    tensors, plain = checkpoint.optimiser_parts(optimiser)
    checkpoint.write(tmp_path, 3, Saved({"n": network.state_dict(), "o": tensors}, {"o": plain}), 2)
    _, saved = checkpoint.read(tmp_path / checkpoint.name_of(3))
    other = nn.Linear(3, 2)
    other.load_state_dict(saved.tensors["n"])
    again = OPTIMISERS[name](list(other.parameters()))
    checkpoint.restore_optimiser(again, saved.tensors["o"], saved.state["o"])
    for one, other_group in zip(optimiser.param_groups, again.param_groups, strict=True):
        assert {k: type(v) for k, v in one.items()} == {k: type(v) for k, v in other_group.items()}
        assert {k: v for k, v in one.items() if k != "params"} == {
            k: v for k, v in other_group.items() if k != "params"
        }
    for n, o in ((network, optimiser), (other, again)):
        advance(n, o, range(3, 6))
    assert torch.equal(network.weight, other.weight)
    assert torch.equal(network.bias, other.bias)


def test_the_newest_are_kept(tmp_path: Path) -> None:
    for images in (1, 2, 30, 4):
        checkpoint.write(tmp_path, images, _saved(images), keep=2)
    assert [int(folder.name) for folder in checkpoint.folders(tmp_path)] == [30, 4]
    found = checkpoint.newest(tmp_path, _refuse)
    assert found is not None
    assert found[0] == 30
    assert found[1].tensors["networks"]["a:b"].tolist() == [30.0] * 3
    assert found[1].state == {"clock": {"seconds": 30}}


def test_nothing_yet(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path / "none", _refuse) is None


def _truncate(folder: Path) -> None:
    file = folder / "networks.safetensors"
    file.write_bytes(file.read_bytes()[:-4])


def _flip(folder: Path) -> None:
    file = folder / "networks.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "truncated": _truncate,
    "one bit": _flip,
    "no tensors": lambda folder: (folder / "networks.safetensors").unlink(),
    "no state": lambda folder: (folder / "state.json").unlink(),
    "half a state": lambda folder: (folder / "state.json").write_text('{"images": 2, "sha'),
    "another state": lambda folder: (folder / "state.json").write_text("[1]"),
    "empty state": lambda folder: (folder / "state.json").write_text("{}"),
    "foreign bytes": lambda folder: (folder / "state.json").write_bytes(b"\xff\xfe\x00"),
}


@pytest.mark.parametrize("damage", list(DAMAGE))
def test_a_damaged_checkpoint_is_passed_over_with_a_line(tmp_path: Path, damage: str) -> None:
    for images in (1, 2):
        checkpoint.write(tmp_path, images, _saved(images), keep=2)
    DAMAGE[damage](tmp_path / checkpoint.name_of(2))
    lines: list[str] = []
    found = checkpoint.newest(tmp_path, lines.append)
    assert found is not None
    assert found[0] == 1
    assert len(lines) == 1
    assert lines[0].count("is damaged") == 1
    assert checkpoint.name_of(2) in lines[0]
    assert "\n" not in lines[0]
    DAMAGE[damage](tmp_path / checkpoint.name_of(1))
    with pytest.raises(RunFolderError, match="remove the folder"):
        checkpoint.newest(tmp_path, lines.append)
    checkpoint.write(tmp_path, 2, _saved(7), keep=2)  # doing the images again replaces the damaged one
    assert checkpoint.read(tmp_path / checkpoint.name_of(2))[1].tensors["networks"]["a:b"].tolist() == [7.0] * 3


@pytest.mark.parametrize("fails_at", [1, 2, 3])
@pytest.mark.parametrize(("number", "says"), [(errno.ENOSPC, "full"), (errno.EDQUOT, "full"), (errno.EROFS, "written")])
def test_a_full_disk_is_one_line_and_what_was_there_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int, number: int, says: str
) -> None:
    checkpoint.write(tmp_path, 1, _saved(1), keep=1)
    real, calls = checkpoint._write_file, []

    def write(path: Path, data: bytes) -> None:
        calls.append(path)
        if len(calls) == fails_at:
            path.write_bytes(data[:5])
            raise OSError(number, "simulated")
        real(path, data)

    monkeypatch.setattr(checkpoint, "_write_file", write)
    with pytest.raises(MesynthError, match=f"{says}.*intact") as error:
        checkpoint.write(tmp_path, 2, _saved(2), keep=1)
    assert "\n" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == [checkpoint.name_of(1)]
    found = checkpoint.newest(tmp_path, _refuse)
    assert found is not None
    assert found[0] == 1


def test_what_a_kill_left_half_written_is_no_checkpoint_and_goes_away(tmp_path: Path) -> None:
    checkpoint.write(tmp_path, 1, _saved(1), keep=2)
    left = tmp_path / f"{checkpoint._WRITING}{checkpoint.name_of(2)}"
    left.mkdir()
    (left / "networks.safetensors").write_bytes(b"half")
    found = checkpoint.newest(tmp_path, _refuse)
    assert found is not None
    assert found[0] == 1
    checkpoint.write(tmp_path, 2, _saved(2), keep=2)
    assert not left.exists()


def test_shared_and_strided_weights_are_saved(tmp_path: Path) -> None:
    base = torch.arange(6.0).reshape(2, 3)
    checkpoint.write(tmp_path, 1, Saved({"n": {"a": base, "b": base, "c": base.T}}, {}), keep=1)
    _, saved = checkpoint.read(tmp_path / checkpoint.name_of(1))
    assert torch.equal(saved.tensors["n"]["c"], base.T)
    assert torch.equal(saved.tensors["n"]["b"], base)
