import numpy as np
import pytest
import torch

from mesynth.core import facs
from mesynth.core.errors import MesynthError
from mesynth.generators.formation import MAX_RESIDUAL, form
from mesynth.generators.motion_gan.network import K, MotionGenerator
from mesynth.head.model import HeadModel
from mesynth.motion.fields import basis
from mesynth.motion.prior import MEAN, Face, MotionPrior, face_map
from mesynth.preprocess.align import SimilarityCrop
from tests.devices import DEVICES
from tests.generators.saved import SIZE, lively


def asked(**cells: float) -> torch.Tensor:
    """asked(L12=.5) -> [1,K,2]."""
    text = ",".join(f"{name.removeprefix('B')}={value}" for name, value in cells.items())
    return torch.from_numpy(facs.parse_request(text).intensity)[None]


def onsets(n: int, size: int = SIZE) -> torch.Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("z", [0, 4])
def test_intensity_zero_is_the_identity_bit_for_bit(device: str, z: int) -> None:
    network, onset = lively(z=z).to(device), onsets(3).to(device)
    noise = torch.randn(3, z, device=device) if z else None
    motion = network(onset, torch.zeros(3, K, 2, device=device), None, noise)
    assert not motion.flow.any()
    assert not motion.change.any()
    assert bool((motion.mask == 1).all())
    assert torch.equal(form(onset, motion), onset)


def test_unknown_aus_ask_for_nothing() -> None:
    network, known = lively(), torch.zeros(1, K, 2, dtype=torch.bool)
    assert not network(onsets(1), asked(B12=0.8), known).flow.any()


def test_the_sides_do_not_touch_each_other() -> None:
    """Adding the left lip corner changes the right half by the share of the midline's sigmoid alone."""
    network, onset = lively(), onsets(2)
    right = asked(R12=0.6, R4=0.3).expand(2, -1, -1)
    both = asked(B12=0.6, R4=0.3).expand(2, -1, -1)
    seen = network.encode(onset)
    one, two = network(onset, right), network(onset, both)
    difference = (one.flow - two.flow).norm(dim=1)
    left = torch.nn.functional.interpolate(seen.share[:, :1], SIZE, mode="bilinear", align_corners=False)[:, 0]
    assert difference[left > 0.9].max() > 0.05
    assert difference[left < 1e-3].max() < 2e-3
    assert float((seen.share.sum(1) - 1).detach().abs().max()) < 1e-6


def test_bounds_hold_at_full_intensity() -> None:
    network, full = lively(), torch.ones(2, K, 2)
    for layer in (network.bend, network.paint):
        torch.nn.init.normal_(layer.weight, std=5.0)
    motion = network(onsets(2), full)
    assert float(motion.flow.detach().norm(dim=1).max()) <= 0.06 * SIZE + 1e-5
    assert float(motion.residual.detach().abs().max()) <= MAX_RESIDUAL + 1e-6
    assert 0 <= float(motion.mask.detach().min()) <= float(motion.mask.detach().max()) <= 1


def test_linear_fields_are_linear_and_midline_aus_have_no_sides() -> None:
    network = MotionGenerator(size=SIZE, width=8, template=24, max_flow=0.2)  # heads at zero: no bent part
    flows = [network(onsets(1), asked(B12=0.1) * factor).flow for factor in (1.0, 2.0)]
    assert torch.allclose(2 * flows[0], flows[1], rtol=0.01, atol=1e-4)
    left, right = torch.zeros(1, K, 2), torch.zeros(1, K, 2)
    left[0, facs.AU_INDEX[17], 0] = right[0, facs.AU_INDEX[17], 1] = 0.4
    fields = lively().encode(onsets(1)).fields
    assert torch.equal(fields[0, facs.AU_INDEX[17], 0], fields[0, facs.AU_INDEX[17], 1])
    assert torch.allclose(network(onsets(1), left).flow, network(onsets(1), right).flow)


def test_untrained_it_is_the_motion_prior_of_the_mean_face() -> None:
    """The mean head, framed as prepared crops are: fields read off the canonical template are the prior's own."""
    network = MotionGenerator(size=64, width=8, max_flow=0.2)
    model = HeadModel.load()
    canonical = model.uv[model.landmarks].astype(np.float64)
    crop = SimilarityCrop.from_landmarks((100 * canonical + 200).astype(np.float32), 64)
    place = face_map(crop.points(100 * canonical + 200), 64, 64, canonical)
    for code in (1, 4, 12, 15):
        for side in (0, 1):
            prior = basis(place.uv, [(facs.AU_INDEX[code], side)])[0, ..., :2] * place.iod
            aus = torch.zeros(1, K, 2)
            aus[0, facs.AU_INDEX[code], side] = 1
            ours = network(onsets(1, 64), aus).flow[0].permute(1, 2, 0).detach().numpy()
            off = np.linalg.norm(ours - prior, axis=-1)
            assert off.mean() < 0.06 * np.linalg.norm(prior, axis=-1).max(), code


def canonical_landmarks(size: int = 64, turn: float = 0.0, scale: float = 1.0) -> torch.Tensor:
    """[1,68,2]: the mean head in its crop, turned in the picture and scaled by factors of its own."""
    points = HeadModel.load().uv[HeadModel.load().landmarks].astype(np.float64)
    points = points * [1, scale]
    crop = SimilarityCrop.from_landmarks((100 * points + 200).astype(np.float32), size)
    placed = crop.points(100 * points + 200)
    cos, sin = np.cos(turn), np.sin(turn)
    middle = size / 2
    return torch.from_numpy(((placed - middle) @ np.array([[cos, sin], [-sin, cos]]) + middle).astype(np.float32))[None]


def test_untrained_on_the_face_it_is_the_landmark_mean() -> None:
    """Of any face: longer than the mean, or leaning in its crop."""
    network = MotionGenerator(size=64, width=8, template=128, face=True, max_flow=0.2)
    for options in ({}, {"scale": 1.15}, {"turn": 0.2}):
        landmarks = canonical_landmarks(**options)
        mean = MotionPrior(Face(np.zeros((64, 64, 3), np.uint8), landmarks[0].numpy()), MEAN)
        for code in (1, 4, 12, 15):
            expected = 0.2 * mean.fields([(facs.AU_INDEX[code], 0), (facs.AU_INDEX[code], 1)]).sum(0)
            made = network(onsets(1, 64), asked(**{f"B{code}": 0.2}), None, None, landmarks).flow[0]
            off = np.linalg.norm(made.permute(1, 2, 0).detach().numpy() - expected, axis=-1)
            assert off.mean() < 0.05 * np.linalg.norm(expected, axis=-1).max(), (code, options)


def test_fields_move_with_the_face_and_not_with_the_crop() -> None:
    network = MotionGenerator(size=64, width=8, template=48, face=True, max_flow=0.2)
    landmarks, onset = canonical_landmarks(), onsets(1, 64)
    moved = landmarks + torch.tensor([4.0, -2.0])
    here, there = (network(onset, asked(B12=0.5), None, None, at).flow for at in (landmarks, moved))
    assert float(here.detach().abs().max()) > 1
    assert torch.allclose(there[..., :-2, 4:], here[..., 2:, :-4], atol=0.1)
    # Of a face without landmarks the crop says where it lies.
    unknown = network(onset, asked(B12=0.5), None, None, torch.full_like(landmarks, torch.nan)).flow
    assert torch.equal(unknown, network(onset, asked(B12=0.5)).flow)
    assert torch.allclose(unknown, here, atol=0.1)


def test_landmarks_that_are_no_face_are_named() -> None:
    network = MotionGenerator(size=SIZE, width=8, template=24, face=True)
    with pytest.raises(MesynthError, match="eye centres are"):
        network(onsets(1), asked(B12=0.5), None, None, torch.zeros(1, 68, 2))


def test_an_item_does_not_depend_on_its_batch() -> None:
    network, onset = lively(), onsets(3)
    aus = torch.rand(3, K, 2, generator=torch.Generator().manual_seed(2))
    together, alone = network(onset, aus), network(onset[1:2], aus[1:2])
    assert torch.allclose(together.flow[1:2], alone.flow, atol=1e-5)
    assert torch.allclose(together.change[1:2], alone.change, atol=1e-6)


def test_noise_changes_the_motion_where_there_is_noise() -> None:
    network, aus = lively(z=6), asked(B12=0.5)
    torch.nn.init.normal_(network.style.film.affine.weight, std=0.5)
    one, other = (network(onsets(1), aus, None, torch.randn(1, 6)).flow for _ in range(2))
    assert float((one - other).detach().abs().max()) > 1e-3


@pytest.mark.parametrize(
    "options",
    [
        {"template": 0},
        {"correction": False},
        {"blocks": 3},
        {"residual": False},
        {"size": 128, "width": 4},
        {"face": True},
    ],
)
def test_every_option_makes_a_motion_and_learns(options: dict[str, int]) -> None:
    network = MotionGenerator(**{"size": SIZE, "width": 8, **options})
    size = network.config["size"]
    motion = network(onsets(2, size), torch.full((2, K, 2), 0.2))
    assert motion.flow.shape == (2, 2, size, size)
    (motion.flow.square().sum() + motion.flow.sum() + motion.change.sum()).backward()
    silent = [n for n, p in network.named_parameters() if p.grad is None and "style" not in n]
    assert silent == []


def test_recipes_keep_shipped_weights_small() -> None:
    parameters = sum(p.numel() for p in MotionGenerator(size=64, width=16).parameters())
    assert 4 * parameters < 30e6


def test_without_a_residual_every_pixel_is_the_persons_own() -> None:
    network = MotionGenerator(size=SIZE, width=8, blocks=1, template=24, residual=False).eval()
    with_one = MotionGenerator(size=SIZE, width=8, blocks=1, template=24)
    assert sum(p.numel() for p in network.parameters()) < sum(p.numel() for p in with_one.parameters())
    with torch.no_grad():
        motion = network(onsets(2), asked(B12=0.8).expand(2, -1, -1))
    assert motion.flow.abs().max() > 0.1
    assert (motion.mask == 1).all()
    assert not motion.change.any()
