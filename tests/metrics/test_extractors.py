"""Features, perceptual distance and identity: what goes in, what comes out, and what a missing file says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mesynth.core.errors import WeightsUnavailable
from mesynth.head import Subject
from mesynth.metrics import identity, networks
from mesynth.metrics.networks import extractors
from mesynth.training import perceptual


@pytest.fixture(scope="module")
def clips() -> np.ndarray:
    """Onset and a strong smile of two people, [4,96,96,3]."""
    au = np.zeros((2, 25, 2), np.float32)
    au[1, 8] = 0.8
    return np.concatenate([Subject(seed, size=96).render(au) for seed in (3, 4)])


def test_resize_is_antialiased_float_and_leaves_the_right_size_alone() -> None:
    stripes = torch.zeros(1, 3, 64, 64)
    stripes[..., ::2] = 1
    small = extractors.resize(stripes, 16)
    assert small[..., 2:-2].sub(0.5).abs().max() < 0.05  # without antialiasing: 0 or 1
    assert extractors.resize(stripes, 64) is stripes


def test_only_uint8_rgb_goes_in() -> None:
    for wrong in (np.zeros((2, 8, 8, 3), np.float32), np.zeros((2, 3, 8, 8), np.uint8), np.zeros((8, 8, 3), np.uint8)):
        with pytest.raises(ValueError, match="uint8 RGB"):
            extractors.to_unit(wrong)
    assert extractors.to_unit(np.full((1, 2, 2, 3), 255, np.uint8)).max() == 1


def test_fallback_features_carry_their_own_name(clips: np.ndarray) -> None:
    network = extractors.STAlexNet()
    found = network(clips)
    assert found.shape == (4, network.dim)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    assert np.allclose(found[2:3], network(clips[2:3]), atol=1e-5)
    assert network.suffix == "-STAlexNet"
    stages = np.split(found, np.cumsum(perceptual.STAlexTrunk.CHANNELS)[:-1], axis=1)
    assert [float(np.sqrt((s**2).mean())) for s in stages] == pytest.approx([1] * 5, rel=0.3)
    # Two people differ more than two expressions of one.
    assert np.linalg.norm(found[0] - found[2]) > np.linalg.norm(found[0] - found[1])


def test_trunk_matches_published_activations() -> None:
    # Means of the five maps for a fixed ramp, computed with the network of the package stlpips-pytorch 0.0.2.
    ramp = np.linspace(0, 255, 64 * 64 * 3).reshape(1, 64, 64, 3).round().astype(np.uint8)
    maps = perceptual.STAlexTrunk(perceptual.stalex_state())(extractors.to_unit(ramp))
    assert [tuple(m.shape[1:]) for m in maps] == [
        (64, 30, 30), (192, 15, 15), (384, 8, 8), (256, 8, 8), (256, 8, 8),
    ]  # fmt: skip
    assert [float(m.mean()) for m in maps] == pytest.approx(PUBLISHED, rel=1e-4)


PUBLISHED = [0.09280181, 0.01493456, 0.00995032, 0.00559434, 0.00145405]


def test_perceptual_distance_is_zero_for_equals_and_grows(clips: np.ndarray) -> None:
    measure, note = extractors.best_distance()
    assert measure.name in note
    pairs = extractors.distance(measure, clips[[0, 0, 0]], clips[[0, 1, 2]])
    assert pairs[0] == pytest.approx(0, abs=1e-6)
    assert 0 < pairs[1] < pairs[2]
    with pytest.raises(ValueError, match="one size"):
        extractors.distance(measure, clips[:1], clips[:2])


def test_identity_separates_people_and_survives_an_expression(clips: np.ndarray) -> None:
    embed = networks.FaceEmbedder()
    first, second = (embed(clips[2 * i : 2 * i + 2], Subject(3 + i, size=96).landmarks()) for i in (0, 1))
    apart = identity.different_people(np.stack([first[0], second[0]]), ["a", "b"])
    assert identity.distances(first)[0] < apart[0]
    assert identity.distances(second)[0] < apart[0]
    assert len(identity.different_people(np.stack([first[0], second[0]]), ["a", "a"])) == 0


def test_identity_score_of_known_distances() -> None:
    found = identity.score(np.linspace(0.0, 1.0, 101))
    assert (found.mean, found.p1, found.p99) == pytest.approx((0.5, 0.01, 0.99))
    assert found.verified == pytest.approx(60 / 101)
    assert identity.sampled_frames(20, 11, 8) == [0, 8, 11, 16]
    with pytest.raises(ValueError, match="no face pair"):
        identity.score(np.zeros(0))


@pytest.mark.usefixtures("no_weights")
def test_every_missing_weight_is_named_with_its_place_and_remedy() -> None:
    with pytest.raises(WeightsUnavailable, match=networks.INCEPTION_FILE) as error:
        extractors.best_extractor()
    assert "stlpips-pytorch" in str(error.value)
    assert "inception_weights=FILE" in str(error.value)
    with pytest.raises(WeightsUnavailable, match="lpips_weights=FILE"):
        extractors.best_distance()
    with pytest.raises(WeightsUnavailable, match="pip install dlib-bin face-recognition-models"):
        networks.FaceEmbedder()
    present = {need.name: need.present for need in networks.needs()}
    assert present.pop("AU judge")
    assert not any(present.values())
    assert all(need.remedy and need.where and need.instead for need in networks.needs())


def test_a_given_file_that_is_not_there_or_no_weights_is_an_error(tmp_path: Path) -> None:
    junk = tmp_path / "junk.pth"
    junk.write_bytes(b"not a network")
    for file, words in ((tmp_path / "nowhere.pth", "is no file"), (junk, "cannot be")):
        with pytest.raises(WeightsUnavailable, match=words):
            extractors.best_extractor(file)
        with pytest.raises(WeightsUnavailable, match=words):
            extractors.best_distance(file)


def test_lpips_is_used_when_its_trunk_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    networks.hub_folder().mkdir(parents=True)
    torch.manual_seed(0)
    trunk = torchvision.models.alexnet(weights=None).state_dict()  # random, but of the right shape
    torch.save(trunk, networks.hub_folder() / networks.ALEXNET_FILE)
    measure, _ = extractors.best_distance()
    assert measure.name == "LPIPS"
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (2, 64, 64, 3)).astype(np.uint8)
    assert extractors.distance(measure, frames, frames) == pytest.approx(0)
    assert extractors.distance(measure, frames[:1], frames[1:])[0] > 0


def test_inception_is_used_when_its_file_is_given(tmp_path: Path) -> None:
    from unittest import mock

    from pytorch_fid import inception

    torch.manual_seed(0)
    with (
        mock.patch.object(inception, "load_state_dict_from_url"),
        mock.patch.object(torch.nn.Module, "load_state_dict"),
    ):
        state = inception.fid_inception_v3().state_dict()  # random, but of the right shape
    torch.save(state, tmp_path / "inception.pth")
    network, note = extractors.best_extractor(tmp_path / "inception.pth")
    assert (network.suffix, network.dim) == ("", 2048)
    assert "published FID" in note
    frames = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3)).astype(np.uint8)
    found = network(frames)
    assert found.shape == (2, 2048)
    assert np.allclose(found[1:], network(frames[1:]), atol=1e-4)


def test_what_is_learned_from_is_what_is_measured() -> None:
    """The loss is the distance, with gradients to what was made alone."""
    rng = np.random.default_rng(0)
    made, real = rng.integers(0, 256, (2, 2, 128, 128, 3)).astype(np.uint8)
    said = extractors.distance(extractors.STLPIPS(), made, real)
    loss = perceptual.STLPIPSLoss()
    one, other = (extractors.to_unit(x).requires_grad_() for x in (made, real))
    seen = loss(one, other)
    np.testing.assert_allclose(seen.detach().numpy(), said, rtol=1e-4)
    seen.sum().backward()
    assert one.grad is not None
    assert one.grad.abs().max() > 0
    assert other.grad is None
    assert not any(p.requires_grad for p in loss.parameters())
