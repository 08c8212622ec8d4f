import pytest
import torch

from mesynth.core.errors import ConfigError
from mesynth.generators.diffusion import few_levels, guided, sample
from mesynth.generators.diffusion_config import KINDS, SOLVERS, Process, Sampling

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
