"""What diffusion families share: noise, samplers, and what networks are told."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mesynth.core.errors import ConfigError
from mesynth.core.types import N_AUS
from mesynth.generators.diffusion import (
    DROP_ALL,
    DROP_AUS,
    DROP_ONE,
    HIDDEN,
    AUTokens,
    dropped,
    few_levels,
    guided,
    sample,
)
from mesynth.generators.diffusion_config import KINDS, SOLVERS, Process, Sampling

# ---------------------------------------------------------------- noise


kinds = pytest.mark.parametrize("kind", KINDS)


def silent(x: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(x)


@kinds
def test_a_silent_network_is_the_best_linear_denoiser(kind: str) -> None:
    """Of Gaussian data with mean 0, sd^2 / (sd^2 + sigma^2) x is the posterior mean."""
    process = Process(kind=kind, sigma_data=0.3)
    x, sigma = torch.randn(5, 2, 4, 4), torch.tensor([0.002, 0.1, 0.3, 2.0, 80.0])
    factor = (0.09 / (0.09 + sigma**2)).view(-1, 1, 1, 1)
    assert torch.allclose(process.denoised(silent, x, sigma), factor * x, rtol=1e-5)


@kinds
def test_the_target_gives_the_clean_data_back_and_has_unit_variance(kind: str) -> None:
    process = Process(kind=kind, sigma_data=0.3)
    generator = torch.Generator().manual_seed(0)
    sigma = torch.tensor([0.01, 0.1, 0.3, 2.0, 40.0])
    clean = 0.3 * torch.randn(5, 20000, generator=generator)
    x = clean + sigma[:, None] * torch.randn(5, 20000, generator=generator)
    target = process.target(x, clean, sigma)
    assert torch.allclose(target.std(1), torch.ones(5), atol=0.02)
    found = process.denoised(lambda inside, level: target, x, sigma)
    assert torch.allclose(found, clean, atol=2e-5)


@kinds
def test_both_limits_are_exact(kind: str) -> None:
    """Without noise the input is the answer, whatever the network says; with nothing else it is the network's."""
    process = Process(kind=kind, sigma_data=0.5, sigma_min=1e-6, sigma_max=1e7)
    x, said = torch.randn(1, 50), torch.randn(1, 50)
    assert torch.allclose(process.denoised(lambda a, b: said, x, torch.tensor([1e-6])), x, atol=3e-6)
    far = process.denoised(lambda a, b: said, x * 1e7, torch.tensor([1e7]))
    assert torch.allclose(far.abs(), 0.5 * said.abs(), atol=1e-5)


@kinds
def test_networks_see_unit_variance_and_a_level_that_rises(kind: str) -> None:
    process, seen = Process(kind=kind, sigma_data=0.3), {}

    def network(x: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        seen["x"], seen["level"] = x, level
        return torch.zeros_like(x)

    sigma = torch.tensor([0.002, 0.03, 0.3, 3.0, 80.0])
    generator = torch.Generator().manual_seed(0)
    x = 0.3 * torch.randn(5, 20000, generator=generator) + sigma[:, None] * torch.randn(5, 20000, generator=generator)
    process.denoised(network, x, sigma)
    assert torch.allclose(seen["x"].std(1), torch.ones(5), atol=0.02)
    assert bool((seen["level"].diff() > 0).all())
    assert 0 <= float(seen["level"].min()) <= float(seen["level"].max()) <= 1000


def test_v_is_what_salimans_and_ho_define() -> None:
    """v = alpha noise - sigma data of unit variance, on the variance-preserving path."""
    process = Process(kind="v", sigma_data=1.0)
    clean, noise, sigma = torch.randn(1, 9), torch.randn(1, 9), torch.tensor([0.7])
    alpha, beta = 1 / (1 + 0.7**2) ** 0.5, 0.7 / (1 + 0.7**2) ** 0.5
    assert torch.allclose(process.target(clean + 0.7 * noise, clean, sigma), alpha * noise - beta * clean, atol=1e-5)
    assert float(process.level(sigma)) == pytest.approx(1000 * np.arccos(alpha) / (np.pi / 2), rel=1e-5)


@kinds
def test_loss_weights(kind: str) -> None:
    process = Process(kind=kind, sigma_data=0.5)
    sigma = torch.tensor([0.01, 0.2, 0.5, 3.0, 20.0])
    snr = 0.25 / sigma**2
    if kind == "edm":  # the network's own squared error
        expected = 1 / (0.25 * sigma**2 / (sigma**2 + 0.25))
    else:
        expected = torch.minimum(snr, torch.tensor(5.0)) / 0.25
    assert torch.allclose(process.weight(sigma), expected, rtol=1e-5)


def test_training_noise_is_the_published_one() -> None:
    u = (torch.arange(100_000) + 0.5) / 100_000
    drawn = Process(kind="edm", sigma_data=0.5, sigma_min=1e-4, sigma_max=1e3).train_sigma(u).log()
    assert float(drawn.mean()) == pytest.approx(-1.2, abs=1e-3)
    assert float(drawn.std()) == pytest.approx(1.2, abs=1e-2)
    cosine = Process(kind="v", sigma_data=2.0, sigma_min=1e-4, sigma_max=1e6).train_sigma(u)
    assert torch.allclose(1 / (1 + (cosine / 2) ** 2), torch.cos(u * np.pi / 2) ** 2, atol=1e-4)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(KINDS), st.floats(0, 1, exclude_max=True, width=32), st.floats(0.01, 5))
def test_noise_stays_within_its_range(kind: str, u: float, sd: float) -> None:
    process = Process(kind=kind, sigma_data=sd, sigma_min=0.01 * sd, sigma_max=50 * sd)
    drawn = float(process.train_sigma(torch.tensor([u]))[0])
    assert 0.01 * sd * (1 - 1e-5) <= drawn <= 50 * sd * (1 + 1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "ddpm"}, "process kind 'ddpm' is unknown; choose edm or v"),
        ({"sigma_data": 0}, "sigma_data=0 must be positive"),
        ({"sigma_min": float("nan")}, "sigma_min=nan must be positive"),
        ({"sigma_min": 2.0, "sigma_max": 1.0}, "sigma_min=2 must be below sigma_max=1"),
    ],
)
def test_bad_processes(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Process(**options)  # type: ignore[arg-type]


# ---------------------------------------------------------------- sampling


MEAN, SD = 0.3, 0.2


def gaussian(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """The optimal denoiser of N(MEAN, SD^2)."""
    variance = sigma.view(-1, *[1] * (x.ndim - 1)) ** 2
    return (SD**2 * x + variance * MEAN) / (SD**2 + variance)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("solver", "steps", "tolerance"), [("dpm++", 40, 0.02), ("heun", 40, 0.02), ("euler", 300, 0.02)]
)
def test_a_gaussian_keeps_its_mean_and_deviation(kind: str, solver: str, steps: int, tolerance: float) -> None:
    out = sample(gaussian, noise(2, 20000), Sampling(steps=steps, solver=solver), Process(kind=kind))
    assert float(out.mean()) == pytest.approx(MEAN, abs=0.005)
    assert float(out.std()) == pytest.approx(SD, rel=tolerance)


@pytest.mark.parametrize("solver", ["dpm++", "heun", "euler"])
def test_more_steps_come_nearer_to_the_exact_path(solver: str) -> None:
    """The probability flow of a Gaussian is known: a noise n ends at MEAN + SD n (as sigma_max grows)."""
    process, start = Process(), noise(1, 500)
    x = process.sigma_max * start
    exact = MEAN + SD * (x - MEAN) / (SD**2 + process.sigma_max**2) ** 0.5
    errors = [
        float((sample(gaussian, start, Sampling(steps=s, solver=solver), process) - exact).abs().mean())
        for s in (12, 24, 48, 96)
    ]
    assert errors == sorted(errors, reverse=True)
    order = 1 if solver == "euler" else 1.5
    assert errors[-1] < errors[-2] / 2**order * 1.2


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_denoiser_that_is_certain_is_believed(solver: str, steps: int) -> None:
    certain = torch.linspace(-1, 1, 12).view(1, 3, 2, 2).expand(2, -1, -1, -1)
    out = sample(lambda x, s: certain, noise(2, 3, 2, 2), Sampling(steps=steps, solver=solver), Process())
    assert torch.allclose(out, certain, atol=1e-4)


@pytest.mark.parametrize("solver", ["dpm++", "heun", "euler"])
@pytest.mark.parametrize("rho", [3.0, 7.0])
def test_noise_levels_are_karras(solver: str, rho: float) -> None:
    process, seen = Process(), []

    def watching(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        seen.append(float(sigma[0]))
        return gaussian(x, sigma)

    sample(watching, noise(1, 2), Sampling(steps=5, solver=solver, rho=rho), process)
    low, high = process.sigma_min ** (1 / rho), process.sigma_max ** (1 / rho)
    expected = [(high + i / 4 * (low - high)) ** rho for i in range(5)]
    assert sorted(set(seen), reverse=True) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_look_is_told_its_noise(solver: str) -> None:
    """Of data that is always 0, x is pure noise of the level that is said."""
    process, start, seen = Process(), noise(1, 4000), []

    def zero(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        seen.append((float(x.std() / start.std()), float(sigma)))
        return torch.zeros_like(x)

    sample(zero, start, Sampling(steps=6, solver=solver), process)
    assert len(seen) == (11 if solver == "heun" else 6)
    assert seen[0][1] == pytest.approx(process.sigma_max, rel=1e-3)
    for said, told in seen:
        assert said == pytest.approx(told, rel=1e-3)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_same_noise_gives_the_same_bytes_and_rows_do_not_meet(solver: str) -> None:
    start = noise(3, 2, 4, 4)
    state = torch.get_rng_state()
    first, again = (sample(gaussian, start, Sampling(steps=4, solver=solver), Process()) for _ in range(2))
    alone = sample(gaussian, start[1:2], Sampling(steps=4, solver=solver), Process())
    assert torch.equal(first, again)
    assert torch.equal(first[1:2], alone)
    assert torch.equal(torch.get_rng_state(), state)  # nothing is drawn from global state


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("spread", [0.0, 0.5, 1.6, 3.0])
def test_spread_scales_the_deviation_and_leaves_the_mean(kind: str, solver: str, spread: float) -> None:
    """Of a Gaussian each draw lies so many times as far from its mean."""
    process, start = Process(kind=kind), noise(1, 4000)
    plain, wide = (sample(gaussian, start, Sampling(steps=24, solver=solver, spread=s), process) for s in (1.0, spread))
    assert torch.allclose(wide - MEAN, spread * (plain - MEAN), atol=5e-3)
    assert float(wide.std()) == pytest.approx(spread * float(plain.std()), rel=0.01, abs=2e-3)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_spread_of_one_changes_no_bit_and_none_keeps_what_is_kept(solver: str) -> None:
    start, mask = noise(2, 3, 4, 4), torch.zeros(2, 1, 4, 4)
    mask[..., :2] = 1
    clean = start + 1
    plain, same, wide = (
        sample(gaussian, start, Sampling(steps=4, solver=solver, **spread), Process(), keep=(mask, clean))
        for spread in ({}, {"spread": 1}, {"spread": 2.5})
    )
    assert torch.equal(plain, same)
    assert torch.equal(wide[..., 2:], clean[..., 2:])
    assert not torch.equal(wide[..., :2], plain[..., :2])


@pytest.mark.parametrize("spread", [-0.1, 10.5, float("nan"), float("inf")])
def test_a_spread_out_of_range_is_refused(spread: float) -> None:
    with pytest.raises(ConfigError, match=rf"spread={spread:g} is outside 0\.\.10; 1 is that of training"):
        Sampling(spread=spread)


@pytest.mark.parametrize("solver", SOLVERS)
def test_what_is_kept_is_kept_to_the_bit_and_seen_by_the_rest(solver: str) -> None:
    mask = torch.zeros(2, 1, 4, 4)
    mask[..., :2] = 1
    clean, start, process = noise(2, 3, 4, 4), noise(2, 3, 4, 4) + 1, Process()
    off = []

    def watching(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        expected = clean + sigma.view(-1, 1, 1, 1) * start
        off.append(float(((x - expected).abs() * (1 - mask)).max()) / float(sigma[0]))
        return gaussian(x, sigma)

    out = sample(watching, start, Sampling(steps=5, solver=solver), process, keep=(mask, clean))
    assert torch.equal(out[..., 2:], clean[..., 2:])
    assert not torch.allclose(out[..., :2], clean[..., :2])
    assert max(off) < 1e-5


def test_few_looks_put_the_same_noise_back() -> None:
    process, start = Process(), noise(1, 8)
    levels = few_levels(Sampling(steps=2), process)
    assert levels[0] == pytest.approx(process.sigma_max)
    assert process.sigma_min < levels[1] < levels[0]
    first = gaussian(levels[0] * start, torch.tensor([levels[0]]))
    second = gaussian(first + levels[1] * start, torch.tensor([levels[1]]))
    assert torch.equal(sample(gaussian, start, Sampling(steps=2, solver="few"), process), second)


def test_guidance_leads_away_from_the_null() -> None:
    asked, null = torch.tensor([2.0]), torch.tensor([1.0])
    assert [float(guided(asked, null, g)) for g in (0, 1, 2.5)] == [1, 2, 3.5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, r"steps=0 is outside 1\.\.1000"),
        ({"solver": "ddpm"}, "solver 'ddpm' is unknown; choose dpm"),
        ({"guidance": -1}, "guidance=-1 is outside"),
        ({"guidance": float("nan")}, "guidance=nan is outside"),
        ({"rho": 0.5}, "rho=0.5 is outside"),
    ],
)
def test_bad_sampling(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Sampling(**options)  # type: ignore[arg-type]


# ---------------------------------------------------------------- the condition


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
