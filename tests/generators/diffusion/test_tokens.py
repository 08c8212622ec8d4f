import pytest
import torch

from mesynth.core.types import N_AUS
from mesynth.generators.diffusion import DROP_ALL, DROP_AUS, DROP_ONE, HIDDEN, AUTokens, dropped

CELLS = 2 * N_AUS


@pytest.fixture(scope="module")
def tokens() -> AUTokens:
    torch.manual_seed(0)
    return AUTokens(16).requires_grad_(False)


def whole(n: int = 1) -> torch.Tensor:
    return torch.ones(n, N_AUS, 2, dtype=torch.bool)


def test_one_token_each_and_only_its_own_changes(tokens: AUTokens) -> None:
    aus = torch.zeros(1, N_AUS, 2)
    rest = tokens(aus, whole())
    aus[0, 7, 1] = 0.4
    asked = tokens(aus, whole())
    assert asked.tokens.shape == (1, CELLS, 16)
    assert asked.pooled.shape == (1, 16)
    changed = (asked.tokens != rest.tokens).any(-1)[0].nonzero()[:, 0].tolist()
    assert changed == [2 * 7 + 1]
    assert not torch.equal(asked.pooled, rest.pooled)


def test_sides_units_and_intensities_are_told_apart(tokens: AUTokens) -> None:
    seen = []
    for k, side, a in [(3, 0, 0.2), (3, 1, 0.2), (4, 0, 0.2), (3, 0, 0.25), (3, 0, 0.0)]:
        aus = torch.zeros(1, N_AUS, 2)
        aus[0, k, side] = a
        seen.append(tokens(aus, whole()))
    for i, one in enumerate(seen):
        for other in seen[i + 1 :]:
            assert float((one.tokens - other.tokens).abs().max()) > 0.01
            assert float((one.pooled - other.pooled).abs().max()) > 1e-3


def test_at_rest_unknown_and_null_are_three_things(tokens: AUTokens) -> None:
    aus = torch.zeros(1, N_AUS, 2)
    rest = tokens(aus, whole())
    unknown = tokens(aus, ~whole())
    null = tokens(aus, whole(), torch.tensor([True]))
    for one, other in [(rest, unknown), (rest, null), (unknown, null)]:
        assert float((one.tokens - other.tokens).abs().max()) > 0.1
        assert float((one.pooled - other.pooled).abs().max()) > 0.01
    assert bool(null.tokens.any())  # learned, not zeros


def test_neither_unknown_nor_null_know_what_was_asked(tokens: AUTokens) -> None:
    some, other = torch.rand(2, N_AUS, 2), torch.rand(2, N_AUS, 2)
    for known, null in [(~whole(2), None), (whole(2), torch.tensor([True, True]))]:
        a, b = tokens(some, known, null), tokens(other, known, null)
        assert torch.equal(a.tokens, b.tokens)
        assert torch.equal(a.pooled, b.pooled)


def test_all_parameters_learn() -> None:
    tokens = AUTokens(8)
    known = whole(3)
    known[1] = False
    out = tokens(torch.rand(3, N_AUS, 2), known, torch.tensor([False, False, True]))
    (out.tokens.square().sum() + out.pooled.square().sum()).backward()
    assert [n for n, p in tokens.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_what_training_hides() -> None:
    n = 20000
    rand = torch.rand(n, 1 + CELLS, generator=torch.Generator().manual_seed(0))
    known = whole(n)
    known[:, 5] = False
    left, null = dropped(known, rand)
    assert not left[:, 5].any()
    kept = left[:, torch.arange(N_AUS) != 5].flatten(1).float().mean(1)
    assert float(null.float().mean()) == pytest.approx(DROP_ALL, abs=0.01)
    assert float((kept == 0).float().mean()) == pytest.approx(DROP_AUS, abs=0.01)
    some = (kept > 0) & (kept < 1)
    assert float(some.float().mean()) == pytest.approx(DROP_ONE, abs=0.01)
    assert float(kept[some].mean()) == pytest.approx(1 - HIDDEN, abs=0.01)
    assert not (null & (kept < 1)).any()
