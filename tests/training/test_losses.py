import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mesynth.core.errors import WeightsUnavailable
from mesynth.training import losses
from mesynth.training.data.batches import Batch
from mesynth.training.forecast import random_batch
from tests.preprocess.test_warping import swirl


def grid(size: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    y, x = torch.meshgrid(torch.arange(float(size)), torch.arange(float(size)), indexing="ij")
    return x, y


def test_mean_of_counts_only_what_the_mask_shows() -> None:
    x = torch.tensor([[[1.0, 5.0], [7.0, 9.0]], [[1.0, 1.0], [1.0, 1.0]]])
    mask = torch.tensor([[[True, False], [True, False]], [[False, False], [False, False]]])
    assert losses.mean_of(x, mask).tolist() == [4.0, 0.0]
    assert losses.mean_of(x).tolist() == [5.5, 1.0]


def test_chosen_pairs() -> None:
    loss = torch.tensor([1.0, 10.0, 4.0])
    batch = random_batch(3, 4)
    some = replace(batch, has_flow=torch.tensor([True, False, True]))
    assert losses.chosen(loss, some, "flow") == 2.5
    assert losses.chosen(loss, some, "no flow") == 10
    assert losses.chosen(loss, some, "paired") == 5, "the AUs of all are known"
    assert losses.chosen(loss, batch, "no flow") == 0


def test_chosen_pairs_of_parts_are_those_of_the_whole() -> None:
    """Two chosen rows in one part, none in the other: the mean of the parts is the mean of the two rows."""
    loss = torch.tensor([1.0, 4.0, 10.0, 20.0])
    whole = replace(random_batch(4, 4), has_flow=torch.tensor([True, True, False, False]))
    count = {"flow": torch.tensor(1.0)}
    parts = [whole.rows(np.arange(2)).counted(count), whole.rows(np.arange(2, 4)).counted(count)]
    made = [losses.chosen(part, batch, "flow") for part, batch in zip(loss.split(2), parts, strict=True)]
    assert sum(made) / 2 == losses.chosen(loss, whole, "flow") == 2.5


def test_multiscale_l1_sees_fine_errors_less_than_broad_ones() -> None:
    x, y = grid(16)
    broad = torch.full((1, 3, 16, 16), 0.1)
    fine = 0.1 * torch.where((x + y) % 2 == 0, 1.0, -1.0).expand(1, 3, -1, -1)
    nothing = torch.zeros(1, 3, 16, 16)
    assert losses.multiscale_l1(broad, nothing).item() == pytest.approx(0.1)
    assert losses.multiscale_l1(fine, nothing).item() == pytest.approx(0.1 / 3)


@given(st.floats(-3, 3), st.floats(-3, 3))
def test_charbonnier_lies_just_below_the_end_point_error(u: float, v: float) -> None:
    flow = torch.tensor([u, v]).view(1, 2, 1, 1).expand(1, 2, 4, 4)
    valid = torch.ones(1, 4, 4, dtype=torch.bool)
    epe = losses.end_point_error(flow, torch.zeros_like(flow), valid).item()
    soft = losses.charbonnier_epe(flow, torch.zeros_like(flow), valid).item()
    assert epe == pytest.approx(math.hypot(u, v), abs=1e-5)
    assert epe - 0.05 - 1e-5 <= soft <= epe + 1e-5


def test_hidden_pixels_do_not_count() -> None:
    flow, exact = torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4)
    exact[..., 0, 0] = 100
    valid = torch.ones(1, 4, 4, dtype=torch.bool)
    valid[0, 0, 0] = False
    assert losses.charbonnier_epe(flow, exact, valid).item() == 0


def test_total_variation_is_let_off_at_edges() -> None:
    x, _ = grid()
    step = (x > 5).float().expand(1, 2, -1, -1)
    plain, edge = torch.zeros(1, 3, 12, 12), (x > 5).float().expand(1, 3, -1, -1)
    off_edge = (x > 8).float().expand(1, 3, -1, -1)
    assert losses.edge_aware_tv(step, plain).item() == pytest.approx(1 / 11)
    assert losses.edge_aware_tv(step, edge).item() < 1e-4
    assert losses.edge_aware_tv(step, off_edge).item() == pytest.approx(1 / 11)


def test_affine_flow_is_smooth_and_a_quadratic_is_not() -> None:
    x, y = grid()
    affine = torch.stack([0.3 * x - 0.1 * y + 2, 0.2 * y])[None]
    assert losses.second_order(affine).item() < 1e-5
    assert losses.second_order(torch.stack([x**2, 0 * x])[None]).item() == pytest.approx(1.0)  # 2 in u, 0 in v


def test_the_fold_penalty_is_zero_for_sound_flow_and_known_for_a_mirror() -> None:
    assert losses.folds(swirl(32, 0.5)).abs().max() == 0
    x = torch.arange(8.0).expand(8, 8)
    mirrored = torch.stack([-2 * x, torch.zeros(8, 8)])[None]  # x + F(x) = -x: determinant -1
    assert torch.allclose(losses.folds(mirrored), torch.tensor([1.1]))


def test_inverse_consistency_grows_with_folds() -> None:
    gentle, folding = losses.inverse_consistency(swirl(32, 0.5)), losses.inverse_consistency(swirl(32, 12.0))
    assert gentle.item() < 0.02
    assert folding.item() > 1.0


def test_hinge() -> None:
    real, fake = torch.tensor([[2.0], [0.5]]), torch.tensor([[-3.0], [0.5]])

    def paired(*rows: bool) -> Batch:
        here = torch.tensor(rows)
        batch = random_batch(2, 4)
        return replace(batch, has_flow=here, known=batch.known & here[:, None, None])

    assert losses.hinge_discriminator(real, fake, paired(True, True)).item() == pytest.approx(0.25 + 0.75)
    assert losses.hinge_discriminator(real, fake, paired(False, True)).item() == pytest.approx(0.5 + 0.75)
    assert losses.hinge_discriminator(real, fake, paired(False, False)).item() == pytest.approx(0.75)
    assert losses.hinge_generator(fake).item() == pytest.approx(1.25)


def test_r1_is_the_squared_gradient() -> None:
    x = torch.randn(5, 3, 2, 2, requires_grad=True)
    assert losses.r1((3 * x).flatten(1).sum(1), x).item() == pytest.approx(9 * 12)


def test_r1_can_be_minimised() -> None:
    slope = torch.tensor(2.0, requires_grad=True)
    x = torch.randn(2, 3, requires_grad=True)
    losses.r1((slope * x).sum(1), x).backward()
    assert slope.grad is not None
    assert slope.grad.item() == pytest.approx(2 * 2.0 * 3)


def test_au_losses_look_at_known_and_unasked_cells() -> None:
    asked = torch.tensor([[[0.5, 0.0], [0.0, 0.0]]])
    read = torch.tensor([[[0.1, 0.3], [-0.2, 9.0]]])
    known = torch.tensor([[[True, True], [True, False]]])
    assert losses.au_mse(read, asked, known).item() == pytest.approx((0.16 + 0.09 + 0.04) / 3)
    assert losses.leakage(read, asked, known).item() == pytest.approx((0.3 + 0.2) / 2)


def test_rank_wants_half_of_the_asked_step() -> None:
    less, more = torch.zeros(1, 1, 2), torch.tensor([[[0.4, 0.0]]])
    flat, right, half = torch.zeros(1, 1, 2), torch.tensor([[[0.4, 0.0]]]), torch.tensor([[[0.1, 0.0]]])
    assert losses.rank(flat, right, less, more).item() == 0
    assert losses.rank(flat, flat, less, more).item() == pytest.approx(0.2)
    assert losses.rank(flat, half, less, more).item() == pytest.approx(0.1)


def test_diversity_rewards_motion_that_follows_the_noise() -> None:
    z, other = torch.zeros(1, 4), torch.ones(1, 4)
    same, moved = torch.zeros(1, 2, 4, 4), torch.full((1, 2, 4, 4), 0.5)
    assert losses.diversity(same, same, z, other).item() == 0
    assert losses.diversity(same, moved, z, other).item() == pytest.approx(-0.5)
    assert losses.diversity(same, 100 * moved, z, other).item() == -1


def test_perceptual_loss_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(WeightsUnavailable, match=r"alexnet-owt-7be5be79.pth; put it there or set loss.perceptual=0"):
        losses.lpips_network()


def test_perceptual_loss_with_a_trunk(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    """A random trunk under the right name: the loss is 0 for equal pictures and has a gradient for others."""
    from pathlib import Path

    from torchvision.models import alexnet

    folder = Path(str(tmp_path)) / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(alexnet(weights=None).state_dict(), folder / "alexnet-owt-7be5be79.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    network = losses.lpips_network()
    made = torch.rand(2, 3, 64, 64).mul(2).sub(1).requires_grad_(True)
    assert network(made, made).abs().max().item() < 1e-6
    network(made, torch.zeros_like(made)).sum().backward()
    assert made.grad is not None
    assert made.grad.abs().max() > 0
