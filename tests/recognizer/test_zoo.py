from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap
from torch.utils._pytree import tree_leaves

import recognizer
from mesynth.core.errors import ConfigError
from mesynth.core.types import N_AUS
from mesynth.store.manifest import Manifest
from recognizer.config import RunConfig, load_config
from recognizer.data import DataConfig, FlowSet, load
from recognizer.models import dssn, elrcn
from recognizer.models.atnet import AtnetConfig
from recognizer.models.au_gacn import AuGacnConfig
from recognizer.models.capsulenet import CapsulenetConfig
from recognizer.models.common import BatchNorm, Dropout, FlowNetwork, Outputs, ResNet10, Shape
from recognizer.models.dssn import DssnConfig
from recognizer.models.elrcn import ElrcnConfig, Vgg
from recognizer.models.fusenet import FusenetConfig
from recognizer.models.graph_tcn import GraphTcnConfig
from recognizer.models.htnet import HtnetConfig
from recognizer.models.ice_discriminator import IceDiscriminatorConfig
from recognizer.models.mer_gcn import MerGcnConfig
from recognizer.models.micro_attention import MicroAttentionConfig
from recognizer.models.microexpstcnn import MicroexpstcnnConfig
from recognizer.models.offapex import OffapexConfig
from recognizer.training import LossConfig, TrainConfig
from recognizer.views import VIEWS
from tests.recognizer.zoo import BATCH, RECIPES, ZOO, Entry, published, recipe, small

DOCS = Path(__file__).parents[2] / "docs" / "recognizers.md"
TRAIN_KEYS = {
    "steps", "batch", "lr", "weight_decay", "flip", "shift", "balance", "optimizer", "schedule", "loss",
}  # fmt: skip
WITH_AU = {"au_gacn", "mer_gcn", "mer_augcn", "dikd"}
WITH_BATCH_NORM = {
    "capsulenet", "ice_discriminator", "micro_attention", "atnet", "rcn", "nmer", "kfc", "mtmnet", "mimanet", "aman",
    "geme", "learnet", "graph_au",
}  # fmt: skip
"""By their authors' code."""
RESNET = {"sma_stn", "saat", "dikd"}
"""With BatchNorm as ResNet has it."""
Y, AU = torch.tensor([0, 2, 2, 0]), torch.tensor([1, 0, -1, 1, 0]).repeat(4, N_AUS * 2 // 5)
TOLD = {"macro": [0, 0, 1, 1], "subject": [0, 1, 2, 3], "gender": [0, 1, -1, 1]}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads that wait for each other inside 3D convolutions cost a hundredfold on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def loss_of(network: FlowNetwork, out: Outputs, y: torch.Tensor, au: torch.Tensor) -> torch.Tensor:
    """The network's own loss, told what it asks for."""
    told = {name: torch.tensor(TOLD[name]) for name in network.needs_meta}
    return network.meta_loss(out, y, au, told) if told else network.loss(out, y, au)


def batch_for(network: FlowNetwork) -> int:
    """Two clips; more where they are compared with each other."""
    return 4 if network.needs_meta else BATCH


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def on_meta(name: str, **settings: object) -> tuple[Entry, FlowNetwork]:
    """A network without memory for its weights."""
    entry = published(name)
    config = type(entry.config)(**{f.name: getattr(entry.config, f.name) for f in fields(entry.config)} | settings)
    with torch.device("meta"):
        network = entry.module.build(config, 3, entry.shape)
    return entry, network.to("meta")  # constants come from numpy


@pytest.mark.parametrize("name", ZOO)
def test_shapes_and_gradients(name: str) -> None:
    entry = small(name)
    network = entry.build()
    n = batch_for(network)
    out = network(*entry.views(network.needs, batch=n))
    assert out.scores.shape == (n, 3)
    assert out.features is not None
    assert out.features.shape[0] == n
    assert out.features.ndim == 2
    assert (out.au is not None) == (name in WITH_AU)
    if out.au is not None:
        assert out.au.shape == (n, N_AUS * 2)
    loss_of(network, out, Y[:n], AU[:n]).backward()
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.any(), parameter_name


@pytest.mark.parametrize("name", ZOO)
def test_stacked_equals_one_by_one(name: str) -> None:
    entry = small(name)
    networks = [entry.build(seed=seed) for seed in range(3)]
    n = batch_for(networks[0])
    views = entry.views(networks[0].needs, batch=n)
    for network in networks:
        network.scale.copy_(torch.rand(3) + 0.5)
        for part in network.modules():
            if isinstance(part, Dropout):
                part.key.fill_(7)  # dropout at work
    parameters, buffers = stack_module_state(networks)  # type: ignore[arg-type]

    def one(p: dict[str, torch.Tensor], b: dict[str, torch.Tensor], *seen: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs: Outputs = functional_call(networks[0], (p, b), seen)
        loss = loss_of(networks[0], outputs, Y[:n], AU[:n])
        return loss, *tree_leaves(tuple(part for part in outputs if part is not None))

    together = vmap(one, in_dims=(0, 0, *[None] * len(views)))(parameters, buffers, *views)
    alone = [one(dict(n.named_parameters()), dict(n.named_buffers()), *views) for n in networks]
    for many, *each in zip(together, *alone, strict=True):
        torch.testing.assert_close(many, torch.stack(each), atol=1e-5, rtol=1e-5)
    for name, many in buffers.items():  # running statistics have moved, each member's by its own maps
        torch.testing.assert_close(many, torch.stack([dict(net.named_buffers())[name] for net in networks]))
        assert name.rpartition(".")[2] != "running_mean" or (many != 0).any()
    assert (together[1][0] != together[1][1]).any()


@pytest.mark.parametrize("name", ZOO)
def test_a_clip_does_not_depend_on_its_batch(name: str) -> None:
    entry = small(name)
    network = entry.build().eval()
    views = entry.views(network.needs, batch=4)
    whole, part = network(*views).scores, network(*(v[1:3] for v in views)).scores
    torch.testing.assert_close(part, whole[1:3], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ZOO)
def test_no_state_but_weights_scale_and_running_statistics(name: str) -> None:
    network = small(name).build()
    norms = {n for n, module in network.named_modules() if isinstance(module, BatchNorm)}
    running = {f"{n}.{kind}" for n in norms for kind in ("running_mean", "running_var")}
    assert set(network.state_dict()) == {n for n, _ in network.named_parameters()} | {"scale"} | running
    assert bool(norms) == (name in WITH_BATCH_NORM | RESNET)
    for module in network.modules():
        assert not isinstance(module, nn.modules.batchnorm._NormBase)
        assert not isinstance(module, nn.modules.dropout._DropoutNd)
        assert not isinstance(module, nn.RNNBase)


@pytest.mark.parametrize("name", ZOO)
def test_dropout_is_off_until_the_trainer_turns_it_on(name: str) -> None:
    entry = small(name)
    network = entry.build()
    drops = [m for m in network.modules() if isinstance(m, Dropout) and m.p > 0]
    views = entry.views(network.needs)
    quiet = network(*views).scores
    assert torch.equal(quiet, network(*views).scores)
    assert bool(drops) == (getattr(entry.config, "dropout", 0) > 0)
    for drop in drops:
        drop.key.fill_(3)
    assert torch.equal(quiet, network(*views).scores) == (not drops)


@pytest.mark.parametrize("name", ZOO)
def test_it_can_learn_four_clips_by_heart(name: str) -> None:
    entry = small(name)
    network = entry.build()
    views, y = entry.views(network.needs, batch=4, seed=1), torch.tensor([0, 1, 2, 0])
    optimizer, losses = torch.optim.Adam(network.parameters(), lr=2e-3), []
    for _ in range(15):
        optimizer.zero_grad()
        loss = loss_of(network, network(*views), y, torch.full((4, N_AUS * 2), -1))
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        if losses[-1] < 0.7 * losses[0]:
            break
    assert losses[-1] < 0.7 * losses[0]


def clips_for(name: str, manifest: Manifest) -> tuple[FlowSet, RunConfig]:
    """Clips in memory with the views a network asks for, drawn at random, and its recipe at a test's size."""
    entry = small(name)
    over = [f"{name}.{f.name}={_value(getattr(entry.config, f.name))}" for f in fields(entry.config)]
    over += [f"data.{key}={value}" for key, value in vars(entry.shape).items() if key in recipe(name)["data"]]
    config = load_config(
        RunConfig, RECIPES / f"{name}.yaml", ["seeds=[0]", "train.steps=2", "train.batch=4", *over], synthetic=False
    )
    clips, rng = load(manifest, config.data), np.random.default_rng(0)
    views = {}
    for view in set(entry.build().needs) - {"flow"}:
        drawn = rng.normal(size=(len(clips), *VIEWS[view].of(entry.shape)))
        scaled = 128 + 20 * drawn if VIEWS[view].dtype is np.uint8 else 0.2 * drawn
        views[view] = scaled.clip(-255, 255).astype(VIEWS[view].dtype)
    return replace(clips, views=views), config


def _value(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("name", ZOO[ZOO.index("dual_inception") :])
def test_trained_saved_and_read_back(name: str, corpora: dict[str, Manifest], tmp_path: Path) -> None:
    clips, config = clips_for(name, corpora["real"])
    made = recognizer.train(clips, config=config, out=tmp_path / "model")
    first = made.probabilities(clips.inputs())
    assert first.shape == (len(clips), 3)
    np.testing.assert_allclose(first.sum(1), 1)
    again = recognizer.load(tmp_path / "model").probabilities(clips.inputs())
    np.testing.assert_array_equal(again, first)


@pytest.mark.parametrize("name", ZOO)
def test_recipe_and_table(name: str) -> None:
    settings = recipe(name)
    assert settings["model"] == name
    assert set(settings) == {"model", "seeds", "data", "train", name}
    assert set(settings["train"]) == TRAIN_KEYS
    DataConfig(**settings["data"])
    TrainConfig(**settings["train"] | {"loss": LossConfig(**settings["train"]["loss"])})
    entry, network = on_meta(name)
    assert set(settings[name]) == {f.name for f in fields(entry.config)}
    assert entry.config == type(entry.config)(), "the recipe says what the defaults are"
    out = network(*(v.to("meta") for v in entry.views(network.needs)))
    assert out.scores.shape == (BATCH, 3)
    [row] = [line for line in DOCS.read_text().splitlines() if line.startswith(f"| `{name}` ")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[2] == ", ".join(network.needs)
    assert cells[3] == f"{count(network):,}"
    assert cells[4] == f"{count(small(name).build()):,}"


def test_parameters_are_those_of_the_published_networks() -> None:
    # DSSN: the paper says 0.97 million, for five classes.
    entry = published("dssn")
    with torch.device("meta"):
        five = dssn.build(DssnConfig(), 5, entry.shape)
        vgg = Vgg(ElrcnConfig(), 3, 224)
    assert count(five) == 972_805
    # VGG-16: 138,357,544, of which 4,097,000 classify ImageNet.
    assert count(vgg) == 138_357_544 - 4_097_000
    # CapsuleNet: ResNet18 (11,689,512) less its fourth layer and classifier, two 9x9 convolutions, 1152 x 3 capsules;
    # grey pictures take two of three input channels off the first layer.
    resnet = 11_689_512 - 8_393_728 - 513_000
    capsules = 2 * (256 * 256 * 81 + 256) + 1152 * 3 * 16 * 8
    assert count(on_meta("capsulenet")[1]) == resnet - 2 * 64 * 49 + capsules
    # OFF-ApexNet: two streams of 5x5 convolutions (6, 16), 2 x 16 x 7 x 7 numbers, 1024, 1024, 3.
    dense = (1568 + 1) * 1024 + (1024 + 1) * 1024 + (1024 + 1) * 3
    assert count(on_meta("offapex")[1]) == 2 * (156 + 2416) + dense
    # MicroExpSTCNN on 64x64x18: 4352 in the convolution, 20 x 20 x 1 x 32 numbers, 128, 3.
    assert count(on_meta("microexpstcnn")[1]) == 4352 + (12_800 + 1) * 128 + 129 * 3
    # MicroExpFuseNet: 10 x 10 x 1 x 32 numbers from either crop, 1024, 128, 3.
    assert count(on_meta("fusenet")[1]) == 2 * 4352 + (6400 + 1) * 1024 + 1025 * 128 + 129 * 3
    late = 2 * (4352 + (3200 + 1) * 1024 + 1025 * 128) + 257 * 3
    assert count(on_meta("fusenet", fusion="late")[1]) == late


def test_parameters_are_those_of_the_authors_definitions() -> None:
    # ResNet-10, from ATNet's network definition: picture scale 2, then convolutions (no bias but the first) and scales.
    trunk = 2 + (64 * 49 + 64) + 128 + (2 * 64 * 64 * 9 + 128)
    for a, b in ((64, 128), (128, 256), (256, 512)):
        trunk += 2 * a + a * b * 9 + 2 * b + b * b * 9 + a * b
    trunk += 2 * 512
    with torch.device("meta"):
        assert count(ResNet10(1, (64, 128, 256, 512), attention=False)) == trunk
    units = sum(3 * c * c for c in (64, 128, 256, 512))
    assert count(on_meta("micro_attention")[1]) == trunk + units + 513 * 3
    lstm = 4 * 512 * (128 + 512 + 1) + 4 * 512 * (512 + 512 + 1)
    assert count(on_meta("atnet")[1]) == trunk + lstm + 1025 * 3
    # HTNet, from its code: patches 7x7x3, blocks of attention (heads cut the width down to a multiple) and MLP.
    total = (147 + 1) * 256 + 3 + 2 * 1024 + 1025 * 3
    for dim, heads, repeats in ((256, 3, 2), (512, 6, 2), (1024, 12, 10)):
        inner = dim // heads * heads
        total += repeats * (4 * dim + 4 * inner * dim + dim + 8 * dim * dim + 5 * dim)
    total += sum(a * b * 9 + 3 * b for a, b in ((256, 512), (512, 1024)))
    assert count(on_meta("htnet")[1]) == total


@pytest.mark.parametrize("fusion", dssn.FUSIONS)
@pytest.mark.parametrize("streams", dssn.STREAMS)
def test_dssn_variants(fusion: str, streams: str) -> None:
    torch.manual_seed(0)
    network = dssn.build(DssnConfig(fusion=fusion, streams=streams, side=64), 3, Shape())
    x = torch.randn(2, 3, 28, 28)
    scores = network(x).scores
    flipped = network(x * torch.tensor([-1.0, 1, 1])[:, None, None]).scores
    # The magnitude does not know which way.
    assert torch.allclose(scores, flipped) == (streams == "magnitude_strain")


def test_elrcn_by_features() -> None:
    over = {"widths": (8, 8), "depths": (1, 1), "dense": (16,), "hidden": 8, "head": 8}
    network = elrcn.build(ElrcnConfig(enrichment="temporal", **over), 3, Shape(frame_size=32, frames=4))  # type: ignore[arg-type]
    assert isinstance(network, elrcn.Elrcn)
    assert len(network.nets) == 3
    assert network(torch.rand(2, 4, 32, 32)).scores.shape == (2, 3)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: OffapexConfig(filters=(0, 3)), r"offapex.filters=\[0, 3\]"),
        (lambda: OffapexConfig(dropout=1.0), "offapex.dropout=1"),
        (lambda: DssnConfig(fusion="max"), "dssn.fusion='max'.*mul, add, cat"),
        (lambda: DssnConfig(side=28), "dssn.side=28"),
        (lambda: CapsulenetConfig(trunk="vgg"), "capsulenet.trunk='vgg'"),
        (lambda: Entry("capsulenet", CapsulenetConfig(side=0), Shape(frame_size=64)).build(), "capsulenet.side=0"),
        (lambda: IceDiscriminatorConfig(width=0), "ice_discriminator.width=0"),
        (lambda: Entry("ice_discriminator", IceDiscriminatorConfig(), Shape(frame_size=16)).build(), "frame_size"),
        (lambda: AuGacnConfig(heads=5), "au_gacn.heads=5"),
        (lambda: AuGacnConfig(ratio=0), "au_gacn.ratio=0"),
        (lambda: MerGcnConfig(layers=0), "mer_gcn.layers=0"),
        (lambda: GraphTcnConfig(patch=0), "graph_tcn.patch=0"),
        (lambda: Entry("graph_tcn", GraphTcnConfig(patch=40), Shape(frame_size=32)).build(), "graph_tcn.patch=40"),
        (lambda: ElrcnConfig(enrichment="both"), "elrcn.enrichment='both'"),
        (lambda: ElrcnConfig(depths=(1,)), r"elrcn.depths=\[1\]"),
        (lambda: Entry("elrcn", ElrcnConfig(), Shape(frame_size=16)).build(), "elrcn.widths.*frame_size=16"),
        (lambda: MicroAttentionConfig(input="onset"), "micro_attention.input='onset'"),
        (lambda: MicroexpstcnnConfig(depth=0), "microexpstcnn.depth=0"),
        (lambda: FusenetConfig(fusion="early"), "fusenet.fusion='early'"),
        (lambda: AtnetConfig(grid=0), "atnet.grid=0"),
        (lambda: HtnetConfig(crops="eyes"), "htnet.crops='eyes'.*published, face"),
        (lambda: HtnetConfig(repeats=(2, 2)), r"htnet.repeats=\[2, 2\]"),  # type: ignore[arg-type]
    ],
)
def test_bad_settings(make: object, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        make()  # type: ignore[operator]
