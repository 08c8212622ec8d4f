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
from mesynth.generators.ice_gan.network import (
    ICEGAN,
    CapsuleDiscriminator,
    ICEGenerator,
    PublishedDiscriminator,
    PublishedGenerator,
    grey,
)
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


# ---------------------------------------------------------------- the authors' definition, stated a second time


def old_sn(layer: nn.Module, ours: nn.Module) -> nn.Module:
    """``layer`` under PyTorch's first spectral norm, with the weights and vectors of ``ours`` under its second."""
    held = ours.parametrizations.weight  # type: ignore[union-attr]
    made = nn.utils.spectral_norm(layer)
    state = {"weight_orig": held.original, "weight_u": held[0]._u, "weight_v": held[0]._v}  # type: ignore[union-attr,index]
    made.load_state_dict(state | ({} if ours.bias is None else {"bias": ours.bias}))  # type: ignore[dict-item]
    return made.eval()


class StatedGraph(nn.Module):
    """Graph reasoning as the code has it: M = phi theta^T / C_mid; nodes along theta are mixed first, then phi's."""

    def __init__(self, ours: GraphReasoning) -> None:
        super().__init__()
        # What the code calls theta carries the result back; the block of this package calls that one phi.
        self.phi, self.theta, self.back = ours.theta, ours.phi, ours.back
        self.first, self.second = ours.between_nodes, ours.between_states

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        phi, theta = self.phi(x).flatten(2), self.theta(x).flatten(2)
        m = torch.einsum("bip,bjp->bij", phi, theta) / phi.shape[1]
        mixed = torch.relu(self.first(m.transpose(1, 2)).transpose(1, 2) + m)
        spread = torch.einsum("bij,bjp->bip", self.second(mixed), theta).unflatten(2, x.shape[2:])
        return x + nn.InstanceNorm2d(x.shape[1])(nn.functional.conv2d(spread, self.back.weight))


class StatedBlock(nn.Module):
    """One level of the U-Net around the levels inside it; ``z`` joins at the innermost."""

    def __init__(self, net: PublishedGenerator, level: int, inner: StatedBlock | None) -> None:
        super().__init__()
        last, down, up = len(net.down) - 1, net.down[level], net.up[len(net.up) - 1 - level]
        a, b, c, d = down.in_channels, down.out_channels, up.in_channels, up.out_channels
        parts: list[nn.Module] = [] if level == 0 else [nn.LeakyReLU(0.2, True)]
        parts.append(old_sn(nn.Conv2d(a, b, 4, 2, 1), down))
        if 0 < level < last:
            parts.append(nn.InstanceNorm2d(b))
        self.down = nn.Sequential(*parts)
        self.up = nn.Sequential(nn.LeakyReLU(0.2, True), old_sn(nn.ConvTranspose2d(c, d, 4, 2, 1), up))
        self.up.append(nn.InstanceNorm2d(d) if level else nn.Tanh())
        self.graph = StatedGraph(net.graphs[level - 1]) if level else None
        self.inner = inner

    def forward(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        below = self.down(x)  # in place: what is left of x below has been through the leaky ReLU
        risen = self.up(torch.cat([below, z], 1) if self.inner is None else self.inner(below, z))
        return risen if self.graph is None else torch.cat([risen, self.graph(x)], 1)


def stated_discriminator(ours: PublishedDiscriminator, picture: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Grey pictures [B,1,S,S] in [-1,1] -> authenticity [B], classes [B,3], what the longest capsule rebuilds."""

    def short(s: torch.Tensor) -> torch.Tensor:
        square = (s**2).sum(-1, keepdim=True)
        return square / (1 + square) * s / torch.sqrt(square + 1e-12)

    layers = [m for m in ours.patches if isinstance(m, nn.Conv2d)]
    norms = [m for m in ours.patches if isinstance(m, nn.BatchNorm2d)]
    x = nn.functional.leaky_relu(old_sn(nn.Conv2d(1, layers[0].out_channels, 4, 2, 1), layers[0])(picture), 0.2)
    for i, stride in ((1, 2), (2, 2), (3, 1), (4, 1)):
        a, b = layers[i].in_channels, layers[i].out_channels
        x = norms[i - 1](old_sn(nn.Conv2d(a, b, 4, stride, 1, bias=i == 4), layers[i])(x))
        x = nn.functional.leaky_relu(x, 0.2)
    x = old_sn(nn.Conv2d(layers[5].in_channels, layers[5].out_channels, 1, 2, 1), layers[5])(x)
    x = old_sn(nn.Conv2d(layers[6].in_channels, 128, 1), layers[6])(x)
    primary = short(x.permute(0, 2, 3, 1).reshape(len(x), -1, 8))

    def digits(capsules: ClassCapsules) -> torch.Tensor:
        # Theirs count primaries position by position, the block of this package group of channels by group.
        side = x.shape[-1]
        w = capsules.matrices.unflatten(0, (16, side * side)).transpose(0, 1).flatten(0, 1).transpose(0, 1)
        votes = (w @ primary[:, None, :, :, None]).squeeze(-1)
        b = torch.zeros(votes.shape[:3])
        for i in range(3):
            v = short((b.softmax(-1)[..., None] * votes).sum(-2, keepdim=True))
            b = b + (v * votes).sum(-1) if i < 2 else b
        return v.squeeze(-2)

    aux, adv = digits(ours.classes), digits(ours.real)
    length = (aux**2).sum(2).sqrt()
    hidden = torch.stack(
        [torch.where(torch.arange(3)[:, None] == row.argmax(), c, 0.0) for row, c in zip(length, aux, strict=True)]
    )
    t = hidden.flatten(1)
    linear = [m for m in ours.rebuild if isinstance(m, nn.Linear)]
    for i, layer in enumerate(linear):
        t = old_sn(nn.Linear(layer.in_features, layer.out_features), layer)(t)
        t = torch.sigmoid(t) if i == 3 else torch.relu(t)
    return (adv**2).sum(2).sqrt()[:, 0], length, t


def test_the_published_networks_have_the_published_sizes() -> None:
    with torch.device("meta"):
        net, judge = PublishedGenerator(), PublishedDiscriminator(128, 64, 3, 512)
    assert count(net) == 40_282_753  # stated: 40.28 million
    assert [layer.out_channels for layer in net.down] == [64, 128, 256, 512, 512, 512, 320]
    assert [layer.kernel_size for layer in net.up] == [(4, 4)] * 7
    assert len(net.graphs) == 6
    assert [m.out_features for m in judge.rebuild if isinstance(m, nn.Linear)] == [512, 1024, 5120, 128 * 128]
    assert judge.classes.matrices.shape == (1024, 3, 32, 8)
    assert judge.real.matrices.shape == (1024, 1, 32, 8)


@pytest.mark.parametrize(("size", "width"), [(16, 8), (128, 8), (128, 64)])
def test_the_published_generator_is_its_authors_definition(size: int, width: int) -> None:
    torch.manual_seed(size + width)
    net = PublishedGenerator(size=size, width=width, embedding=5 * width).eval()
    with torch.no_grad():
        for parameter in net.parameters():  # far from the small first weights, where an error would be small, too
            parameter.mul_(10).add_(torch.randn_like(parameter) * 0.05)
        block = None
        for level in reversed(range(len(net.down))):
            block = StatedBlock(net, level, block)
        assert block is not None
        onset, z, classes = torch.rand(2, 3, size, size), torch.randn(2, 100), torch.eye(3)[[0, 2]]
        stated = block(2 * grey(onset) - 1, torch.cat([z, classes], 1)[:, :, None, None])
        drawn = net(onset, z, classes)
    assert stated.std() > 0.01
    for channel in range(3):
        torch.testing.assert_close(2 * drawn[:, channel, None] - 1, stated, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(("size", "width", "hidden"), [(32, 8, 16), (128, 64, 32)])
def test_the_published_discriminator_is_its_authors_definition(size: int, width: int, hidden: int) -> None:
    torch.manual_seed(size)
    judge = PublishedDiscriminator(size, width, 3, hidden).eval()
    with torch.no_grad():
        judge.classes.matrices.mul_(300)  # so that routing has something to agree upon
        judge.real.matrices.mul_(300)
        for norm in judge.patches:
            if isinstance(norm, nn.BatchNorm2d):
                norm.running_mean.normal_(std=0.1)  # type: ignore[union-attr]
                norm.running_var.uniform_(0.05, 0.2)  # type: ignore[union-attr]
        picture = torch.rand(3, 3, size, size)
        said = judge(picture.flip(0), picture)
        real, classes, rebuilt = stated_discriminator(judge, 2 * grey(picture) - 1)
    assert said.aus is None
    assert real.min() > 0.01
    assert classes.min() > 0.01
    torch.testing.assert_close(said.real, real, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(said.classes, classes, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(said.rebuilt.flatten(1), rebuilt, atol=1e-5, rtol=1e-4)


def test_margins_of_the_code_are_not_squared() -> None:
    length, present = torch.tensor([0.95, 0.5, 0.05, 0.5]), torch.tensor([1.0, 1, 0, 0])
    torch.testing.assert_close(margin_loss(length, present, power=1), torch.tensor([0, 0.4, 0, 0.2]))


@pytest.mark.parametrize("size", [4, 24, 100])
def test_the_published_generator_refuses_other_sizes(size: int) -> None:
    with pytest.raises(ConfigError, match=f"size {size}"):
        PublishedGenerator(size=size)


def test_a_published_generator_draws_a_class_and_is_saved(tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = PublishedGenerator(size=SIZE, width=8, embedding=16, noise=4).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(20)
    save_pipeline(tmp_path / "g", {"generator": made}, facts("ice_gan"), "# card\n", size=SIZE)
    loaded, face = load_pipeline(tmp_path / "g"), wide_face()
    assert isinstance(loaded, ICEGAN)
    assert isinstance(loaded.network, PublishedGenerator)
    clips = [
        loaded.generate(face, REST, PROFILE, n_frames=5, fps=50, label=label)[0].clip.frames
        for label in ("positive", "surprise", "positive")
    ]
    assert (clips[0] == clips[2]).all()
    assert (clips[0][2] != clips[1][2]).any()
    assert (clips[0][0] == face.image).all()
    for aus, own, says in (
        ("12=0.8", {"label": "positive"}, "AU 12 is asked for"),
        ("12=0.8", {}, "a label of negative, positive, surprise, or train without"),
    ):
        with pytest.raises(MesynthError, match=says) as error:
            loaded.generate(face, facs.parse_request(aus), PROFILE, n_frames=5, fps=50, **own)
        assert "\n" not in str(error.value)
    (tmp_path / "g" / "generator" / "config.json").write_text("[]")
    with pytest.raises(PipelineError):
        load_pipeline(tmp_path / "g")
