import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mesynth.core.errors import ConfigError
from mesynth.generators.diffusion_config import KINDS, Process

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
