"""BatchNorm: nn.BatchNorm's numbers, alone and in stacks, in training and at test."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from mesynth.core.errors import ConfigError
from recognizer.data import FlowSet
from recognizer.models import MODELS, register_model
from recognizer.models.common import BatchNorm, Dropout, FlowNetwork, Outputs, Shape
from recognizer.training import TrainConfig
from recognizer.training import train as train_stack
from tests.recognizer.models.test_ststnet import task

Maps = tuple[Callable[[int], nn.Module], tuple[int, ...]]
MAPS: dict[str, Maps] = {
    "vectors": (nn.BatchNorm1d, ()), "1d": (nn.BatchNorm1d, (7,)), "2d": (nn.BatchNorm2d, (5, 4)),
    "3d": (nn.BatchNorm3d, (3, 4, 2)),
}  # fmt: skip


@pytest.mark.parametrize("key", [1, 7, 2**31 - 1])
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_is_a_hash_of_key_and_place(key: int, p: float) -> None:
    def kept(place: int) -> bool:
        h = (place * 0x9E3779B1 + key * 0x85EBCA6B) % 2**32
        h = (h ^ (h >> 16)) * 0x85EBCA6B % 2**32
        h = (h ^ (h >> 13)) * 0xC2B2AE35 % 2**32
        return h ^ (h >> 16) >= int(p * 2**32)

    drop, x = Dropout(p), torch.rand(8, 5, 60) + 1
    drop.key = torch.tensor(key)
    mask = torch.tensor([kept(place) for place in range(x.numel())]).reshape(x.shape)
    torch.testing.assert_close(drop(x), torch.where(mask, x / (1 - p), 0.0))
    assert mask.float().mean() == pytest.approx(1 - p, abs=0.03)
    drop.key = torch.tensor(0)
    assert torch.equal(drop(x), x)


def steps(layer: nn.Module, x: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    for batch in x:
        optimizer.zero_grad()
        layer(batch).pow(3).mean().backward()
        optimizer.step()


@pytest.mark.parametrize("kind", MAPS)
def test_it_is_torchs_own_in_a_plain_loop(kind: str) -> None:
    torch.manual_seed(0)
    make, places = MAPS[kind]
    ours, theirs = BatchNorm(6), make(6)
    x = torch.randn(9, 8, 6, *places) * 3 + torch.arange(6).reshape(6, *[1] * len(places))
    for layer in (ours, theirs):
        steps(layer, x, torch.optim.SGD(layer.parameters(), lr=0.1))
    for name, value in ours.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[name]), name
    assert (ours.running_mean != 0).all()
    assert torch.equal(ours.eval()(x[0]), theirs.eval()(x[0]))
    assert not torch.equal(ours(x[0]), ours.train()(x[0]))


@pytest.mark.parametrize("kind", MAPS)
def test_members_of_a_stack_keep_their_own_statistics(kind: str) -> None:
    torch.manual_seed(1)
    _, places = MAPS[kind]
    layers = [BatchNorm(6) for _ in range(3)]
    for layer in layers:
        nn.init.normal_(layer.weight)
    parameters, buffers = stack_module_state(layers)  # type: ignore[arg-type]
    x = torch.randn(3, 5, 8, 6, *places) * torch.tensor([1.0, 2, 3]).reshape(3, *[1] * (3 + len(places)))

    def one(p: dict[str, torch.Tensor], b: dict[str, torch.Tensor], batch: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = functional_call(layers[0], (p, b), (batch,))
        return out

    for k in range(5):
        together = vmap(one)(parameters, buffers, x[:, k])
        for m, layer in enumerate(layers):
            torch.testing.assert_close(together[m], layer(x[m, k]), atol=1e-5, rtol=1e-5)
    for m, layer in enumerate(layers):
        torch.testing.assert_close(buffers["running_mean"][m], layer.running_mean, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(buffers["running_var"][m], layer.running_var, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("level", [0.0, 1e3])
def test_known_moments_give_the_same(level: float) -> None:
    torch.manual_seed(2)
    one, other = BatchNorm(4), BatchNorm(4)
    for layer in (one, other):
        layer.weight.data.copy_(torch.tensor([1.0, -2, 0.5, 3]))
    for _ in range(3):
        x = torch.randn(6, 4, 10) + level
        gain, shift = other.gain_and_shift(x.mean((0, 2)), x.var((0, 2), correction=0), 60)
        torch.testing.assert_close(x * gain[:, None] + shift[:, None], one(x), atol=1e-3 if level else 1e-5, rtol=1e-4)
    torch.testing.assert_close(other.running_mean, one.running_mean)
    torch.testing.assert_close(other.running_var, one.running_var, atol=1e-4, rtol=1e-4)
    gain, shift = other.eval().gain_and_shift(x.mean((0, 2)), x.var((0, 2)), 60)
    torch.testing.assert_close(
        x * gain[:, None] + shift[:, None], one.eval()(x), atol=1e-2 if level else 1e-5, rtol=1e-4
    )


def test_one_number_a_channel_is_refused_in_training_alone() -> None:
    layer = BatchNorm(3)
    with pytest.raises(ConfigError, match=r"train\.batch=1 leaves BatchNorm one number a channel"):
        layer(torch.randn(1, 3, 1, 1))
    assert layer.eval()(torch.randn(1, 3, 1, 1)).shape == (1, 3, 1, 1)
    assert layer.train()(torch.randn(1, 3, 2)).shape == (1, 3, 2)


def test_torchs_own_norms_stack_in_networks_of_others(sets: dict[str, FlowSet]) -> None:
    class Theirs(FlowNetwork):
        def __init__(self, n_classes: int) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 4, 5, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
            self.classify = nn.Linear(4 * 64, n_classes)

        def forward(self, *views: torch.Tensor) -> Outputs:
            return Outputs(self.classify(self.body(self.scaled(views[0]))), None)

    register_model("theirs_with_norms", Theirs)
    try:
        given = task("theirs_with_norms", None, sets["real"], members=3, steps=3)
        assert given.shape == Shape()
        alone, together = (train_stack(given, TrainConfig(batch=6, stack=stack, lr=1e-4)) for stack in (1, 3))
        assert alone["body.1.num_batches_tracked"].tolist() == [6, 6, 6]
        for name in alone:
            torch.testing.assert_close(together[name], alone[name], atol=5e-4, rtol=1e-3)
        assert (alone["body.1.running_mean"][0] != alone["body.1.running_mean"][1]).any()
    finally:
        del MODELS._added["theirs_with_norms"]
        MODELS._loaded.pop("theirs_with_norms", None)
