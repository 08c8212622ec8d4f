"""Averages against the written-out formula."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mesynth.training.checkpoint import Averages, keep_share


def test_an_average_follows_the_formula() -> None:
    network = nn.Linear(1, 1, bias=False)
    network.register_buffer("count", torch.zeros((), dtype=torch.int64))
    average = Averages({"n": network}, ("n",), half_life=40, ramp=0.5)
    with torch.no_grad():
        network.weight.fill_(100.0)  # the copy must not follow
    expected = float(average.networks["n"].weight)
    for step in range(1, 20):
        images = step * 8
        with torch.no_grad():
            network.weight.fill_(float(step))
            network.count.fill_(step)
        average.update({"n": network}, images, 8)
        keep = 0.5 ** (8 / min(40, 0.5 * images))
        expected = keep * expected + (1 - keep) * step
        torch.testing.assert_close(average.networks["n"].weight, torch.tensor([[expected]]))
        assert average.networks["n"].count == step
    assert not average.networks["n"].training
    assert not average.networks["n"].weight.requires_grad


@given(st.integers(1, 50), st.integers(1, 6))
def test_after_a_half_life_half_is_left_for_every_batch_size(batch: int, steps: int) -> None:
    kept = 1.0
    for i in range(1, steps + 1):
        kept *= keep_share(10**9 + i * batch, batch, half_life=batch * steps, ramp=0.05)
    assert abs(kept - 0.5) < 1e-12


def test_no_half_life_is_the_network_itself() -> None:
    network = nn.Linear(3, 3)
    average = Averages({"n": network}, ("n",), half_life=0, ramp=0.05)
    with torch.no_grad():
        network.weight.normal_()
    average.update({"n": network}, 8, 8)
    assert torch.equal(average.networks["n"].weight, network.weight)
