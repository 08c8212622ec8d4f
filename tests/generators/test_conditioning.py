import torch
from hypothesis import given
from hypothesis import strategies as st

from mesynth.generators.blocks import AUCondition, FiLM, FiLMBlock, fourier_intensity, group_norm


def test_no_intensity_has_no_features() -> None:
    assert not fourier_intensity(torch.zeros(3, 4)).any()
    assert fourier_intensity(torch.zeros(3, 4)).shape == (3, 4, 9)


@given(st.floats(0, 1), st.floats(0, 1))
def test_intensities_are_told_apart(a: float, b: float) -> None:
    one, other = fourier_intensity(torch.tensor([a, b], dtype=torch.float64))
    assert (one - other).norm() >= abs(a - b) * (1 - 1e-9) - 1e-12


def test_unknown_is_not_absent_and_hides_the_intensity() -> None:
    torch.manual_seed(0)
    condition = AUCondition(5, 8)
    none, known = torch.zeros(1, 5), torch.ones(1, 5, dtype=torch.bool)
    hidden = known.clone()
    hidden[0, 2] = False
    asked = none.clone()
    asked[0, 2] = 0.7
    assert not torch.allclose(condition(none, known), condition(none, hidden))
    assert torch.equal(condition(none, hidden), condition(asked, hidden))
    assert not torch.allclose(condition(none, known), condition(asked, known))


def test_noise_conditions() -> None:
    torch.manual_seed(0)
    condition = AUCondition(5, 8, noise=3)
    aus, known = torch.zeros(2, 5), torch.ones(2, 5, dtype=torch.bool)
    one, other = condition(aus, known, torch.randn(2, 3))
    assert not torch.allclose(one, other)


def test_film_starts_as_the_identity_and_then_acts() -> None:
    torch.manual_seed(0)
    film, x, c = FiLM(4, 6), torch.randn(2, 6, 5, 5), torch.randn(2, 4)
    assert torch.equal(film(x, c), x)
    torch.nn.init.ones_(film.affine.weight)
    scale = 1 + c.sum(1).view(2, 1, 1, 1)
    assert torch.allclose(film(x, c), x * scale + (scale - 1), atol=1e-5)


def test_a_block_does_not_mix_the_batch() -> None:
    torch.manual_seed(0)
    block, x, c = FiLMBlock(16, 4), torch.randn(3, 16, 4, 4), torch.randn(3, 4)
    assert torch.allclose(block(x, c)[1:2], block(x[1:2], c[1:2]), atol=1e-6)


@given(st.integers(1, 64))
def test_groups_divide_the_channels(channels: int) -> None:
    norm = group_norm(channels)
    assert channels % norm.num_groups == 0
    assert norm.num_groups == 1 or channels // norm.num_groups >= 4
