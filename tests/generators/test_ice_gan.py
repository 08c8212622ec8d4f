"""ICE-GAN: capsules and graphs against their definitions, spectral norm, conditioning, clips, saving."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mesynth.core import facs
from mesynth.core.errors import ConfigError, MesynthError
from mesynth.core.profiles import Profile
from mesynth.core.types import AUVector
from mesynth.generators import blocks
from mesynth.generators.base import load_pipeline
from mesynth.generators.blocks import ClassCapsules, GraphReasoning, lengths, margin_loss, route, squash
from mesynth.generators.ice_gan.network import ICEGAN, CapsuleDiscriminator, ICEGenerator
from mesynth.store.generator_folder import GeneratorFacts, PipelineError, save_pipeline
from tests.devices import DEVICES
from tests.generators.gan_facts import count, damage, facts, wide_face

SIZE = 16
K = len(facs.AU_CODES)
PROFILE = Profile(apex=0.5)
REST = AUVector(np.zeros((K, 2), np.float32))


def network(seed: int = 0, **options: object) -> ICEGenerator:
    """Untrained, with film and paint drawn so that the condition has something to say."""
    torch.manual_seed(seed)
    made = ICEGenerator(**{"size": SIZE, "width": 8, "embedding": 16, "noise": 4, **options})  # type: ignore[arg-type]
    for level in made.up:
        nn.init.normal_(level.film.affine.weight, std=0.3)
    if made.config["relative"]:
        nn.init.normal_(made.paint.weight, std=0.1)
    return made.eval()


def generator(seed: int = 0) -> ICEGAN:
    return ICEGAN(network(seed), GeneratorFacts(**facts("ice_gan"), size=SIZE))


def inputs(n: int, size: int = SIZE, noise: int = 4) -> tuple[torch.Tensor, ...]:
    draw = torch.Generator().manual_seed(1)
    onset, z = torch.rand(n, 3, size, size, generator=draw), torch.randn(n, noise, generator=draw)
    return onset, z, torch.zeros(n, 3), torch.zeros(n, K, 2)


def test_squash_keeps_direction_and_bounds_length() -> None:
    s = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.01, 0.0]])
    out = squash(s)
    torch.testing.assert_close(out[0], torch.tensor([0.6, 0.8]) * 25 / 26)
    assert torch.equal(out[1], torch.zeros(2))
    assert out[2].norm() < 0.001


def test_one_round_of_routing_is_the_plain_mean() -> None:
    votes = torch.randn(2, 5, 3, 4)
    torch.testing.assert_close(route(votes, 1), squash(votes.sum(1) / 3))


def test_routing_moves_a_capsule_to_the_output_whose_others_agree() -> None:
    """Three primaries vote alike for output 0 and each its own way for output 1: agreement grows with iterations."""
    votes = torch.zeros(1, 3, 2, 3)
    votes[0, :, 0] = torch.tensor([1.0, 0, 0])
    votes[0, :, 1] = torch.eye(3)
    shares = [lengths(route(votes, n))[0] for n in (1, 2, 3)]
    assert shares[0][0] < shares[1][0] < shares[2][0]
    assert shares[0][1] > shares[1][1] > shares[2][1]


def test_margin_loss_by_hand() -> None:
    length, present = torch.tensor([0.95, 0.5, 0.05, 0.5]), torch.tensor([1.0, 1, 0, 0])
    torch.testing.assert_close(margin_loss(length, present), torch.tensor([0, 0.16, 0, 0.08]))


def test_gradients_of_empty_capsules_are_finite() -> None:
    maps = torch.zeros(2, 16, 2, 2, requires_grad=True)
    lengths(ClassCapsules(16, 2, 4)(maps)).sum().backward()
    assert maps.grad is not None
    assert maps.grad.isfinite().all()


def test_graph_reasoning_does_not_depend_on_the_number_of_positions() -> None:
    torch.manual_seed(0)
    graph = GraphReasoning(16).eval()
    x = torch.randn(2, 16, 4, 4)
    twice = nn.functional.interpolate(x, scale_factor=2)
    with torch.no_grad():
        torch.testing.assert_close(graph(twice), nn.functional.interpolate(graph(x), scale_factor=2), atol=1e-5, rtol=0)
        moved = x.roll(1, 3)
        torch.testing.assert_close(graph(moved), graph(x).roll(1, 3), atol=1e-5, rtol=0)
        assert (graph(x) - x).abs().mean() > 0.1


@pytest.mark.parametrize(("size", "levels"), [(8, 3), (16, 4), (64, 6), (128, 7)])
@pytest.mark.parametrize("ours", [True, False])
def test_the_net_goes_down_to_one_position(size: int, levels: int, ours: bool) -> None:
    net = ICEGenerator(size=size, width=4, embedding=12, noise=4, prior=ours, relative=ours).eval()
    onset, z, classes, aus = inputs(1, size)
    with torch.no_grad():
        maps = net.encode(net.see(onset, aus))
        out = net(onset, z, classes, aus)
    assert len(maps) == levels
    assert maps[-1].shape == (1, 12, 1, 1)
    assert net.embed(onset).shape == (1, 12)
    assert len(net.graphs) == levels - 2
    assert out.shape == onset.shape
    assert 0 <= out.min() <= out.max() <= 1


def test_a_relative_generator_starts_from_the_onset() -> None:
    onset, z, classes, aus = inputs(2)
    aus[:, 3] = 0.7
    with torch.no_grad():
        out = ICEGenerator(size=SIZE, width=8, embedding=16, noise=4).eval()(onset, z, classes, aus)
    torch.testing.assert_close(out, onset.clamp(1 / 510, 1 - 1 / 510), atol=1e-6, rtol=0)


def test_published_widths_and_capsules() -> None:
    with torch.device("meta"):
        net, judge = ICEGenerator(), CapsuleDiscriminator(128, 32, 3, 512, 16)
        widths = [net.first.out_channels, *[level.body[1].out_channels for level in net.down]]
        assert widths == [64, 128, 256, 512, 512, 512, 320]
        assert judge.capsules.primaries == 1024
        assert judge.capsules.matrices.shape == (1024, 4, 16, 8)
        assert 25e6 < count(net) < 35e6


def test_spectral_norm_without_memory_has_the_same_tensors_and_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading asks a network on the meta device for its shapes; a weight too large to be taken for that stays there."""
    wanted = {name: (value.shape, value.dtype) for name, value in network().state_dict().items()}
    for most in (blocks._SMALL, 8):
        monkeypatch.setattr(blocks, "_SMALL", most)
        before = torch.random.get_rng_state()
        with torch.device("meta"):
            made = ICEGenerator(size=SIZE, width=8, embedding=16, noise=4)
        assert torch.equal(torch.random.get_rng_state(), before)
        assert {name: (value.shape, value.dtype) for name, value in made.state_dict().items()} == wanted
        assert all(value.is_meta for value in made.state_dict().values())
        assert all(parameter.requires_grad for parameter in made.parameters())
    made.load_state_dict(network(1).state_dict(), assign=True)
    onset, z, classes, aus = inputs(1)
    with torch.no_grad():
        torch.testing.assert_close(made.eval()(onset, z, classes, aus), network(1).eval()(onset, z, classes, aus))


@pytest.mark.parametrize("size", [4, 24, 100])
def test_other_sizes_are_refused(size: int) -> None:
    with pytest.raises(ConfigError, match=f"size {size}"):
        ICEGenerator(size=size)


def test_spectral_norm_is_on_every_layer_and_holds() -> None:
    net = ICEGenerator(size=SIZE, width=8, embedding=16, noise=4)
    judge = CapsuleDiscriminator(SIZE, 8, 3, 16, 8)
    trunk = [net.first, *[d.body[1] for d in net.down], *[u.body[2] for u in net.up], net.last[2]]
    layers = [*trunk, *[m for m in judge.tower.modules() if isinstance(m, nn.Conv2d)]]
    assert len(layers) == 4 + 4 + 1
    onset, *rest = inputs(2)
    with torch.no_grad():
        for layer in layers:
            layer.parametrizations.weight.original.mul_(7)  # type: ignore[union-attr,operator]
        for _ in range(100):
            net(onset, *rest)
            judge(onset, onset)
        for layer in layers:
            sigma = torch.linalg.matrix_norm(layer.weight.flatten(1), 2)
            torch.testing.assert_close(sigma, torch.tensor(1.0), atol=0.03, rtol=0)


@pytest.mark.parametrize("device", DEVICES)
def test_class_aus_and_noise_each_change_the_picture(device: str) -> None:
    net = network().to(device)
    onset, z, classes, aus = (x.to(device) for x in inputs(1))
    one, au = classes.clone(), aus.clone()
    one[0, 1], au[0, 8] = 1, 1
    with torch.no_grad():
        plain = net(onset, z, classes, aus)
        for other in (net(onset, z, one, aus), net(onset, z, classes, au), net(onset, z + 1, classes, aus)):
            assert 255 * (other - plain).abs().mean() > 0.3


def test_the_discriminator_says_four_things_of_each_row_alone() -> None:
    torch.manual_seed(0)
    judge = CapsuleDiscriminator(SIZE, 8, 3, 16, 8).eval()
    onset, picture = torch.rand(3, 3, SIZE, SIZE), torch.rand(3, 3, SIZE, SIZE)
    with torch.no_grad():
        together, alone = judge(onset, picture), judge(onset[1:2], picture[1:2])
    assert [x.shape for x in together] == [(3,), (3, 3), (3, K, 2), (3, 3, 8, 8)]
    for many, one in zip(together, alone, strict=True):
        torch.testing.assert_close(many[1:2], one, atol=1e-5, rtol=1e-5)


def test_a_clip_rises_from_the_photo_and_comes_back_to_it() -> None:
    face = wide_face()
    sample, warnings = generator().generate(face, facs.parse_request("12=0.8"), PROFILE, n_frames=7, fps=100)
    change = np.abs(sample.clip.frames.astype(float) - face.image).mean((1, 2, 3))
    assert warnings == ("flow estimated by tvl1",)
    assert change[0] == change[-1] == 0
    assert change[3] > 0.3
    assert change[3] > change[1]


def test_nothing_asked_gives_the_photo_and_a_class_alone_does_not() -> None:
    face, made = wide_face(), generator()
    rest, _ = made.generate(face, REST, PROFILE, n_frames=20, fps=50)
    assert (rest.clip.frames == face.image).all()
    by_class = [
        made.generate(face, REST, PROFILE, n_frames=5, fps=50, label=label)[0].clip.frames
        for label in ("positive", "surprise")
    ]
    assert (by_class[0][2] != face.image).any()
    assert (by_class[0][2] != by_class[1][2]).any()
    with pytest.raises(MesynthError, match="'happy' is unknown"):
        made.generate(face, REST, PROFILE, n_frames=5, fps=50, label="happy")


def test_seeds_draw_other_clips_and_the_same_seed_the_same() -> None:
    made, face, aus = generator(), wide_face(), facs.parse_request("12=0.8")
    one, other, again = (
        made.generate(face, aus, PROFILE, n_frames=5, fps=50, seed=s)[0].clip.frames for s in (1, 2, 1)
    )
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


def test_saved_and_loaded_it_draws_the_same_bytes(tmp_path: Path) -> None:
    made = network(4)
    save_pipeline(tmp_path / "g", {"generator": made}, facts("ice_gan"), "# card\n", size=SIZE)
    loaded = load_pipeline(tmp_path / "g")
    assert isinstance(loaded, ICEGAN)
    with torch.no_grad():
        assert torch.equal(loaded.network(*inputs(2)), made(*inputs(2)))
    damage(tmp_path / "g")
    with pytest.raises(PipelineError, match="sha256 differs"):
        load_pipeline(tmp_path / "g")
