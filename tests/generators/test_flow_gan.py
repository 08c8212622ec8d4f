"""The flow-image GAN: its scale, strain, rows that depend on nothing but themselves, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mesynth.core import facs
from mesynth.core.errors import ConfigError, MesynthError
from mesynth.core.profiles import Profile
from mesynth.core.types import AUVector, optical_strain
from mesynth.generators.base import load_pipeline
from mesynth.generators.blocks import SelfAttention
from mesynth.generators.flow_gan.network import FlowDiscriminator, FlowGAN, FlowGenerator, observe
from mesynth.store.generator_folder import GeneratorFacts, PipelineError, save_pipeline
from tests.devices import DEVICES
from tests.generators.gan_facts import count, damage, facts, wide_face

SIZE = 28
K = len(facs.AU_CODES)


def network(seed: int = 0, **options: object) -> FlowGenerator:
    """Untrained, with film and attention drawn so that conditions have something to say."""
    torch.manual_seed(seed)
    made = FlowGenerator(**{"size": SIZE, "width": 8, "z": 6, **options})  # type: ignore[arg-type]
    for module in made.modules():
        if type(module).__name__ == "FiLM":
            nn.init.normal_(module.affine.weight, std=0.2)
    nn.init.ones_(made.attention.gamma)
    return made.eval()


def generator(**options: object) -> FlowGAN:
    return FlowGAN(network(**options), GeneratorFacts(**facts("flow_gan"), size=SIZE))  # type: ignore[arg-type]


def some_aus(n: int) -> np.ndarray:
    return np.random.default_rng(0).random((n, K, 2), np.float32)


@pytest.mark.parametrize("size", [16, 28, 64, 128])
def test_sizes(size: int) -> None:
    net = FlowGenerator(size=size, width=4, z=6).eval()
    with torch.no_grad():
        uv = net(torch.randn(2, 6), torch.zeros(2, 3), torch.zeros(2, K, 2))
        judged = FlowDiscriminator(size, 8, 4).eval()(observe(net, uv))
    assert uv.shape == (2, 2, size, size)
    assert (judged.classes.shape, judged.aus.shape) == ((2, 3), (2, K, 2))


def test_a_size_that_cannot_be_halved_is_refused() -> None:
    with pytest.raises(ConfigError, match="size 29"):
        FlowGenerator(size=29)


@pytest.mark.parametrize("device", DEVICES)
def test_the_scale_is_undone_exactly_and_bounded_by_the_limit(device: str) -> None:
    net = network(unit=0.01, limit=0.1).to(device)
    uv = torch.linspace(-2.8, 2.8, 57, device=device)
    torch.testing.assert_close(net.expand(net.compress(uv)), uv, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(net.compress(torch.tensor(0.1 * SIZE)), torch.tensor(1.0))
    nn.init.constant_(net.last.bias, 50.0)
    with torch.no_grad():
        drawn = net(
            torch.randn(1, 6, device=device), torch.zeros(1, 3, device=device), torch.zeros(1, K, 2, device=device)
        )
    assert drawn.abs().max() <= 0.1 * SIZE * 1.0001


def test_what_the_discriminator_sees_holds_the_strain_of_u_and_v() -> None:
    net, uv = network(), torch.randn(2, 2, SIZE, SIZE)
    seen = observe(net, uv)
    assert seen.shape == (2, 3, SIZE, SIZE)
    strain = torch.from_numpy(optical_strain(uv.numpy()))
    torch.testing.assert_close(seen[:, 2], net.compress(4 * strain), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(net.expand(seen[:, :2]), uv, atol=1e-4, rtol=1e-4)


def test_spectral_norm_is_on_every_layer_it_should_be_and_holds() -> None:
    net, judge = FlowGenerator(size=SIZE, width=8, z=6), FlowDiscriminator(SIZE, 8, 3)
    plain = {"mix.0", "mix.2", "last", "aus"}
    layers = [
        (name, m)
        for model in (net, judge)
        for name, m in model.named_modules()
        if isinstance(m, (nn.Conv2d, nn.Linear)) and name not in plain and not name.endswith("affine")
    ]
    assert len(layers) == (1 + 2 * 3 + 4) + (1 + 4 + 1 + 2)  # generator, discriminator
    with torch.no_grad():
        for _, layer in layers:
            layer.parametrizations.weight.original.mul_(7)  # type: ignore[union-attr,operator]
        for _ in range(60):
            judge(observe(net, net(torch.randn(1, 6), torch.zeros(1, 3), torch.zeros(1, K, 2))))
        for name, layer in layers:
            sigma = torch.linalg.matrix_norm(layer.weight.flatten(1), 2)
            assert abs(float(sigma) - 1) < 0.05, (name, float(sigma))


def test_attention_starts_as_the_identity_and_then_looks_everywhere() -> None:
    torch.manual_seed(0)
    layer, x = SelfAttention(16).eval(), torch.randn(1, 16, 6, 6)
    assert torch.equal(layer(x), x)
    nn.init.ones_(layer.gamma)
    moved = x.clone()
    moved[..., 0, 0] += 5
    with torch.no_grad():
        assert (layer(moved) - layer(x))[..., 5, 5].abs().max() > 1e-4


def test_parameters_are_those_of_the_description() -> None:
    w, asked = 8, 6 + 3 + 2 * K

    def rise(a: int, b: int) -> int:
        films = (4 * w + 1) * 2 * (a + b)
        return films + 2 * (a + b) + 9 * a * b + b + 9 * b * b + b + a * b + b

    start = (asked + 1) * 4 * w * 49
    mix = (asked + 1) * 4 * w + (4 * w + 1) * 4 * w
    attention = 2 * 2 * w * 4 + 2 * 2 * w * w + 1  # after the first doubling, at 14x14
    last = 2 * w + (4 * w + 1) * 2 * w + 9 * w * 2 + 2
    published = start + mix + rise(4 * w, 2 * w) + rise(2 * w, w) + attention + last
    assert count(FlowGenerator(size=SIZE, width=w, z=6, prior=False)) == published
    assert count(FlowGenerator(size=SIZE, width=w, z=6)) == published + 9 * 2 * 2  # the last layer sees the prior


def test_without_anything_to_add_the_prior_is_drawn() -> None:
    net = FlowGenerator(size=64, width=4, z=6).eval()
    nn.init.zeros_(net.last.weight)
    nn.init.zeros_(net.last.bias)
    aus = torch.zeros(2, K, 2)
    aus[0, facs.AU_INDEX[12]] = 0.4
    with torch.no_grad():
        drawn = net(torch.randn(2, 6), torch.zeros(2, 3), aus)
        torch.testing.assert_close(drawn, net.moved(aus), atol=1e-4, rtol=1e-4)
    assert drawn[0].abs().max() > 0.3
    assert not drawn[1].any()


def test_a_row_depends_on_nothing_but_itself() -> None:
    made, aus = generator(), some_aus(21)
    seeds = list(range(100, 121))
    labels = [("negative", "positive", "")[i % 3] for i in range(21)]
    together = made.sample(seeds=seeds, labels=labels, aus=aus)
    order = np.random.default_rng(1).permutation(21)
    shuffled = made.sample(seeds=[seeds[i] for i in order], labels=[labels[i] for i in order], aus=aus[order])
    np.testing.assert_array_equal(shuffled, together[order])
    for i in (0, 7, 20):
        np.testing.assert_array_equal(
            made.sample(seeds=[seeds[i]], labels=[labels[i]], aus=aus[i : i + 1])[0], together[i]
        )


def test_seed_class_and_aus_each_change_the_flow() -> None:
    made, aus = generator(), some_aus(1)
    plain = made.sample(seeds=[1], labels=["positive"], aus=aus)
    scale = np.abs(plain).mean()
    for other in (
        made.sample(seeds=[2], labels=["positive"], aus=aus),
        made.sample(seeds=[1], labels=["surprise"], aus=aus),
        made.sample(seeds=[1], labels=["positive"], aus=aus / 2),
    ):
        assert np.abs(other - plain).mean() > 0.02 * scale


def test_another_size_keeps_the_motion_in_its_own_pixels() -> None:
    made = generator()
    own, large = (made.sample(seeds=[1, 2], labels=["positive"] * 2, size=s) for s in (None, 2 * SIZE))
    assert large.shape == (2, 2, 2 * SIZE, 2 * SIZE)
    means = large.reshape(2, 2, SIZE, 2, SIZE, 2).mean((3, 5))
    np.testing.assert_allclose(means[..., 1:-1, 1:-1], _blurred(2 * own)[..., 1:-1, 1:-1], atol=1e-5)


def _blurred(x: np.ndarray) -> np.ndarray:
    """Bilinear doubling and averaging of 2x2 is the kernel (1, 6, 1) / 8 along each axis, by hand."""
    for axis in (-2, -1):
        x = (np.roll(x, 1, axis) + 6 * x + np.roll(x, -1, axis)) / 8
    return x


def test_flows_are_the_samples_one_by_one() -> None:
    made = generator()
    aus = [AUVector(a) for a in some_aus(18)]
    flows = list(made.flows(seeds=list(range(18)), aus=aus))
    np.testing.assert_array_equal(np.stack([f.uv for f in flows]), made.sample(seeds=list(range(18)), aus=some_aus(18)))


def test_there_are_no_frames() -> None:
    with pytest.raises(MesynthError, match="flow images only"):
        generator().generate(wide_face(), AUVector(some_aus(1)[0]), Profile(), n_frames=5, fps=50)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"seeds": [1]}, "labels=.* or aus="),
        ({"seeds": [1], "labels": ["happy"]}, "'happy' is unknown"),
        ({"seeds": [1, 2], "labels": ["positive"]}, "1 labels for 2 seeds"),
        ({"seeds": [1], "aus": np.full((1, K, 2), 1.5)}, r"in \[0,1\]"),
        ({"seeds": [1], "aus": np.full((1, K, 2), np.nan)}, r"in \[0,1\]"),
        ({"seeds": [1], "aus": np.zeros((1, 3))}, r"\(1, 3\)"),
        ({"seeds": [1], "labels": ["positive"], "size": 4}, "4 pixels"),
    ],
)
def test_arguments_that_do_not_fit(options: dict[str, object], says: str) -> None:
    with pytest.raises(MesynthError, match=says) as error:
        generator().sample(**options)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_a_class_model_takes_no_aus_and_the_other_way_round() -> None:
    with pytest.raises(MesynthError, match="trained on class alone and cannot take aus"):
        generator(condition="class").sample(seeds=[1], aus=some_aus(1))
    with pytest.raises(MesynthError, match="trained on aus alone and cannot take labels"):
        generator(condition="aus").sample(seeds=[1], labels=["positive"])


def test_saved_and_loaded_it_draws_the_same_bytes(tmp_path: Path) -> None:
    made = network(4, unit=0.004, limit=0.05)
    save_pipeline(tmp_path / "g", {"generator": made}, facts("flow_gan"), "# card\n", size=SIZE)
    loaded = load_pipeline(tmp_path / "g")
    assert isinstance(loaded, FlowGAN)
    ours = FlowGAN(made, loaded.facts).sample(seeds=[3, 4], labels=["surprise"] * 2)
    np.testing.assert_array_equal(loaded.sample(seeds=[3, 4], labels=["surprise"] * 2), ours)
    damage(tmp_path / "g")
    with pytest.raises(PipelineError, match="sha256 differs"):
        load_pipeline(tmp_path / "g")
