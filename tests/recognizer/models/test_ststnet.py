from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from click.testing import CliRunner
from safetensors.torch import load_file
from torch import nn
from torch.func import vmap

from mesynth.core.errors import ConfigError, LeakError, ManifestError, WeightsUnavailable
from mesynth.datasets.flow_folders import import_flow_folders
from mesynth.store.digests import seal
from mesynth.store.manifest import Manifest
from recognizer.cli import main
from recognizer.config import AblationConfig, RunConfig, config_yaml, load_config, skeleton
from recognizer.data import BYTES, DataConfig, FlowSet, byte_image, load
from recognizer.models.common import Dropout, Shape
from recognizer.models.ststnet import (
    Ststnet,
    StstnetConfig,
    build,
    conv_pool,
    dropped_average,
    read_published,
    reference,
)
from recognizer.run import loso
from recognizer.trained import Recognizer, predict, train
from recognizer.training import Stage, Task, TrainConfig, _Chunk, draw_batches
from recognizer.training import train as train_stack
from recognizer.views import gather_moved
from tests.bench.bench_folds import PublishedStstnet
from tests.datasets.releases.flow_folders import flow_images, planes_of, write_flow_folders

QUICK = ["model=ststnet", "train.steps=8", "train.batch=8"]
SIGN = torch.tensor([1.0, -1.0] * 8)


def drawn(n: int, size: int, seed: int = 0) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=g) for shape in ((n, 3, size, size), (16, 27), (16,))]


@pytest.mark.parametrize("size", [28, 32])
@pytest.mark.parametrize("level", [0.0, 100.0])
def test_the_compiled_pass_equals_plain_operations(size: int, level: float) -> None:
    x, *parameters = drawn(7, size)
    parameters[1] = parameters[1] + level  # maps far from 0 that vary little
    mine, plain = ([p.clone().requires_grad_() for p in parameters] for _ in range(2))
    out, expected = conv_pool(x, *mine, SIGN), reference(x, *plain, SIGN)
    for a, b in zip(out, expected, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-5)
    g = torch.Generator().manual_seed(3)
    weights = [torch.randn(part.shape, generator=g) for part in out]
    for parts in (out, expected):
        sum((part * w).sum() for part, w in zip(parts, weights, strict=True)).backward()  # type: ignore[union-attr]
    for a, b in zip(mine, plain, strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=2e-4, rtol=1e-4)


def test_it_is_what_the_published_layers_begin_with() -> None:
    x, weight, bias = drawn(4, 28, seed=1)
    maps = F.conv2d(x, weight.reshape(-1, 3, 3, 3), bias, padding=2).relu()
    pooled = F.max_pool2d(maps, 3, 3, 1)
    low = -F.max_pool2d(-maps, 3, 3, 1)
    best, mean, variance = conv_pool(x, weight, bias, SIGN)
    expected = torch.where(SIGN[:, None, None] > 0, pooled, low)
    torch.testing.assert_close(best, expected, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(mean, maps.mean((2, 3)), atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(variance, maps.var((2, 3), correction=0), atol=2e-5, rtol=1e-5)


def test_stacked_members_are_those_alone_to_the_bit() -> None:
    members = [[*drawn(5, 28, seed=s), SIGN.roll(s)] for s in range(3)]
    stacked = [torch.stack(tensors) for tensors in zip(*members, strict=True)]
    for tensor in stacked[1:3]:
        tensor.requires_grad_()
    together = vmap(conv_pool)(*stacked)
    sum(part.square().sum() for part in together).backward()
    for m, (x, weight, bias, sign) in enumerate(members):
        alone = [weight.requires_grad_(), bias.requires_grad_()]
        out = conv_pool(x, *alone, sign)
        for a, b in zip(together, out, strict=True):
            assert torch.equal(a[m], b)
        sum(part.square().sum() for part in out).backward()  # type: ignore[union-attr]
        for a, s in zip(alone, stacked[1:3], strict=True):
            assert s.grad is not None
            assert a.grad is not None
            assert torch.equal(s.grad[m], a.grad)


def test_a_dead_stream_has_finite_gradients() -> None:
    x, weight, bias = drawn(2, 28, seed=2)
    bias = (bias - 1000).requires_grad_()  # ReLU lets nothing through: no variance at all
    out = conv_pool(x, weight.requires_grad_(), bias, SIGN)
    assert not any(part.any() for part in out)
    sum(part.sum() for part in out).backward()  # type: ignore[union-attr]
    for tensor in (weight, bias):
        assert tensor.grad is not None
        assert not tensor.grad.any()


# ---------------------------------------------------------------- the published network


def states(seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights and running statistics laid out as the authors' files are; input channels strain, v, u."""
    g = torch.Generator().manual_seed(seed)
    out: dict[str, torch.Tensor] = {}
    for i, n in enumerate((3, 5, 8), 1):
        out |= {f"conv{i}.weight": torch.randn(n, 3, 3, 3, generator=g) / 100, f"conv{i}.bias": torch.zeros(n) + 0.1}
        out |= {f"bn{i}.weight": torch.randn(n, generator=g), f"bn{i}.bias": torch.randn(n, generator=g)}
        out |= {f"bn{i}.running_mean": torch.rand(n, generator=g), f"bn{i}.running_var": torch.rand(n, generator=g)}
        out |= {f"bn{i}.num_batches_tracked": torch.tensor(1600)}
    return out | {"fc.weight": torch.randn(3, 400, generator=g), "fc.bias": torch.randn(3, generator=g)}


def theirs(state: dict[str, torch.Tensor]) -> PublishedStstnet:
    """The authors' network with such a state, at test."""
    network = PublishedStstnet()
    place = {"fc": "classify"} | {f"conv{i}": f"streams.{i - 1}.0" for i in (1, 2, 3)}
    place |= {f"bn{i}": f"streams.{i - 1}.2" for i in (1, 2, 3)}
    named = {f"{place[name.split('.')[0]]}.{name.split('.')[1]}": value for name, value in state.items()}
    network.load_state_dict(named)
    return network.eval()


def test_the_authors_weights_answer_as_in_their_network(tmp_path: Path) -> None:
    torch.save(states(), tmp_path / "006.pth")
    bgr = torch.randint(0, 256, (9, 3, 28, 28), generator=torch.Generator().manual_seed(1)).float()
    network = skeleton(RunConfig(model="ststnet"))
    unknown = network.load_state_dict(read_published(tmp_path / "006.pth"), strict=False)
    assert unknown.missing_keys == ["scale"]
    assert not unknown.unexpected_keys
    expected = theirs(states())(bgr)
    torch.testing.assert_close(network(bgr.flip(1)).scores, expected, atol=1e-3, rtol=1e-5)
    assert (network(bgr).scores - expected).abs().max() > 1, "the order of the channels matters"


class _Harm:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("harm"),))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (None, "cannot be read"),
        (b"no weights", "holds no conv1.weight"),
        ({}, "holds no conv1.weight"),
        ([1, 2], "holds no conv1.weight"),
        (_Harm(), "holds no conv1.weight"),
        ({k: v for k, v in states().items() if k != "bn2.running_var"}, "holds no bn2.running_var"),
        (states() | {"fc.weight": torch.zeros(5, 400)}, r"fc.weight is \[5, 400\], expected \[3, 400\]"),
        (states() | {"conv3.bias": "text"}, "holds no conv3.bias"),
        (states() | {"fc.bias": torch.tensor([0.0, float("nan"), 1.0])}, "not finite"),
    ],
)
def test_what_is_no_published_state_is_refused(
    content: object, match: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "006.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        torch.save(content, file)
    with pytest.raises(WeightsUnavailable, match=match):
        read_published(file)
    assert not (tmp_path / "harm").exists()


def test_imported_weights_are_a_recognizer_that_knows_whom_it_has_seen(tmp_path: Path) -> None:
    torch.save(states(), tmp_path / "sub02.pth")
    clips = import_flow_folders(write_flow_folders(tmp_path / "tree", flow_images()), tmp_path / "clips")
    words = ["import", "--weights", str(tmp_path / "sub02.pth"), "--out", str(tmp_path / "model")]
    for _ in range(2):
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 0, result.output
        assert "subjects: 67" in result.output
    model = Recognizer.load(tmp_path / "model")
    assert "casme2/sub02" not in model.subjects_seen
    assert {"samm/006", "smic/s20", "casme2/sub26"} <= model.subjects_seen
    found = predict(model, clips)
    assert found.n_seen == sum(row.subject_key != "casme2/sub02" for row in clips) > 0
    bgr = torch.from_numpy(load(clips, model.config.data).x).flip(1)
    expected = theirs(states())(bgr).double().softmax(1).detach().numpy()
    got = np.stack([found.table[f"p_{name}"].to_numpy() for name in model.config.data.classes], 1)
    np.testing.assert_allclose(got, expected, atol=1e-3)
    with pytest.raises(LeakError, match="saw subject"):
        loso(clips, None, load_config(RunConfig, None, [*QUICK, "data.input=bytes", f"train.start={tmp_path}/model"]))
    (tmp_path / "sub02.pth").rename(tmp_path / "best.pth")
    words[2] = str(tmp_path / "best.pth")
    again = CliRunner().invoke(main, words)
    assert again.exit_code == 2
    assert "is named after no subject of the MEGC 2019 composite" in again.stderr


def task(network: str, config: object, clips: FlowSet, members: int, steps: int) -> Task:
    weights = np.random.default_rng(0).integers(0, 3, (members, len(clips))).astype(float)
    identity = np.tile(np.array([1.0, 0.0])[:, None], (members, 1, 3))
    return Task(
        network=network, config=config, n_classes=3, shape=Shape(), inputs=clips.inputs(), au=clips.au,
        labels=np.where(weights > 0, clips.y, -1), affine=identity, added=np.zeros(len(clips), np.bool_),
        scale=np.ones((members, 3)), names=[f"f{m}" for m in range(members)], seeds=[0] * members,
        stages=[Stage(name="a", weights=weights, steps=steps), Stage(name="b", weights=weights, steps=steps)],
    )  # fmt: skip


@pytest.fixture
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_one_thread")
def test_training_is_a_plain_loop_over_the_published_network(sets: dict[str, FlowSet]) -> None:
    """Two stages of a stack against nn.BatchNorm2d, member by member: weights, running statistics, answers."""
    clips, config = sets["real"], TrainConfig(batch=12, optimizer="adam", schedule="constant", weight_decay=0, lr=1e-3)
    given = task("ststnet", StstnetConfig(dropout=0.0), clips, members=3, steps=6)
    config = TrainConfig(**{**vars(config), "flip": False, "shift": 0, "stack": 3})
    found = train_stack(given, config)
    x, y = torch.from_numpy(clips.x), torch.from_numpy(clips.y)
    fresh = train_stack(given, TrainConfig(**{**vars(config), "lr": 1e-30}))
    for m in range(3):
        plain = PublishedStstnet().train()
        plain.streams.apply(lambda part: setattr(part, "p", 0.0) if isinstance(part, nn.Dropout) else None)
        with torch.no_grad():
            start = 0
            for stream, n in zip(plain.streams, (3, 5, 8), strict=True):
                stream[0].weight.copy_(fresh["weight"][m, start : start + n].reshape(n, 3, 3, 3))  # type: ignore[index]
                stream[0].bias.copy_(fresh["bias"][m, start : start + n])  # type: ignore[index]
                start += n
            plain.classify.weight.copy_(fresh["classify.weight"][m])
            plain.classify.bias.copy_(fresh["classify.bias"][m])
        for stage in given.stages:
            optimizer = torch.optim.Adam(plain.parameters(), lr=1e-3)
            plan = draw_batches(stage.weights[m], given.labels[m], 6, name=f"f{m}/{stage.name}", seed=0, config=config)
            for index in plan.index:
                optimizer.zero_grad()
                F.cross_entropy(plain(x[index]), y[index]).backward()
                optimizer.step()
        norms = [stream[2] for stream in plain.streams]  # type: ignore[index]
        for name in ("weight", "bias", "running_mean", "running_var"):
            expected = torch.cat([getattr(norm, name) for norm in norms])
            torch.testing.assert_close(found[f"norm.{name}"][m], expected, atol=2e-4, rtol=1e-3)
        network = build(StstnetConfig(), 3, Shape()).eval()
        network.load_state_dict({name: value[m] for name, value in found.items()})
        torch.testing.assert_close(network(x).scores, plain.eval()(x), atol=2e-3, rtol=1e-2)


@pytest.mark.parametrize("network", ["ststnet", "micro_attention"])
def test_members_keep_their_own_statistics(network: str, sets: dict[str, FlowSet]) -> None:
    config, clips = StstnetConfig(), sets["real"]
    if network == "micro_attention":
        from recognizer.models.micro_attention import MicroAttentionConfig

        config = MicroAttentionConfig(widths=(4, 4, 4, 4))  # type: ignore[assignment]
        faces = np.random.default_rng(0).integers(0, 256, (len(clips), 2, 64, 64), dtype=np.uint8)
        clips = replace(clips, views={"apex": faces})
    given = task(network, config, clips, members=3, steps=2)
    alone, together = (train_stack(given, TrainConfig(batch=6, stack=stack, lr=1e-4)) for stack in (1, 3))
    running = [name for name in alone if name.endswith(("running_mean", "running_var"))]
    assert running
    for name in running:
        torch.testing.assert_close(together[name], alone[name], atol=5e-4, rtol=1e-3)
        assert (alone[name][0] != alone[name][1]).any()


# ---------------------------------------------------------------- saved, begun with, resumed


def run(*settings: str) -> RunConfig:
    return load_config(RunConfig, None, [*QUICK, *settings], synthetic=False)


def test_running_statistics_are_saved_and_begun_with(
    sets: dict[str, FlowSet], corpora: dict[str, Manifest], tmp_path: Path
) -> None:
    made = train(corpora["real"], None, run(), out=tmp_path / "model")
    again = Recognizer.load(tmp_path / "model")
    clips = sets["shuffled"].inputs()
    np.testing.assert_array_equal(again.probabilities(clips), made.probabilities(clips))
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    assert (tensors["norm.running_mean"] != 0).all()
    barely = [f"train.start={tmp_path / 'model'}", "train.lr=1e-20", "train.steps=1"]
    begun = train(corpora["shuffled"], None, run(*barely), out=tmp_path / "begun").members.tensors()
    moved = (begun["norm.running_mean"] - tensors["norm.running_mean"]).abs()
    assert (moved <= 0.5 * tensors["norm.running_mean"].abs() + 0.02).all()  # a tenth of one batch's
    assert moved.any()


@pytest.mark.parametrize(
    ("model", "key", "was", "more"),
    [("ststnet", "norm", "group", []), ("htnet", "crops", "face", ["htnet.dim=12", "htnet.repeats=[1,1,1]"])],
)
def test_models_of_version_0_1_are_read_as_they_were(
    model: str, key: str, was: str, more: list[str], corpora: dict[str, Manifest], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    made = train(corpora["real"], None, run(f"model={model}", f"{model}.{key}={was}", *more), out=folder)
    clips = load(corpora["shuffled"]).inputs()
    expected = made.probabilities(clips)
    assert not [name for name in made.members.tensors() if "running" in name]
    saved = yaml.safe_load((folder / "config.yaml").read_text())
    assert saved[model].pop(key) == was  # version 0.1 knew no other
    (folder / "config.yaml").write_text(yaml.safe_dump(saved))
    seal(folder)
    np.testing.assert_array_equal(Recognizer.load(folder).probabilities(clips), expected)


def test_weights_without_running_statistics_are_named(corpora: dict[str, Manifest], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    train(corpora["real"], None, run("ststnet.norm=group"), out=folder)
    (folder / "config.yaml").write_text(config_yaml(run(), synthetic=False))
    seal(folder)
    with pytest.raises(WeightsUnavailable, match=r"model.safetensors: saved by another version of ststnet, it lacks"):
        Recognizer.load(folder)


def test_group_norm_is_one_group_a_stream(sets: dict[str, FlowSet]) -> None:
    torch.manual_seed(0)
    network = Ststnet(StstnetConfig(norm="group"), 3, 28)
    with torch.no_grad():
        network.gamma.copy_(torch.randn(16))
        network.beta.copy_(torch.randn(16))
    x = torch.from_numpy(sets["real"].x[:4])
    maps = F.conv2d(x, network.weight.reshape(-1, 3, 3, 3), network.bias, padding=2).relu()
    parts, scales, shifts = (t.split((3, 5, 8), -1 if t.ndim == 1 else 1) for t in (maps, network.gamma, network.beta))
    normed = [F.group_norm(*each) for each in zip(parts, (1, 1, 1), scales, shifts, strict=True)]
    features = F.avg_pool2d(F.max_pool2d(torch.cat(normed, 1), 3, 3, 1), 2).flatten(1)
    torch.testing.assert_close(network(x).scores, network.classify(features), atol=2e-5, rtol=1e-4)


# ---------------------------------------------------------------- bytes


def test_bytes_are_the_published_picture(corpora: dict[str, Manifest], tmp_path: Path) -> None:
    images = flow_images()
    manifest = import_flow_folders(write_flow_folders(tmp_path / "tree", images), tmp_path / "out")
    clips = load(manifest, DataConfig(input=BYTES))
    assert clips.own_rms.all()
    planes = {planes_of(image.flow).tobytes() for image in images}
    assert {x.astype(np.uint8).tobytes() for x in clips.x} == planes
    assert (clips.x == clips.x.astype(np.uint8)).all()
    flow = load(corpora["real"], DataConfig(input=BYTES))  # never a picture: stretched as the export does it
    assert flow.x.max(axis=(2, 3)).min() == 255
    assert flow.x.min() == 0
    np.testing.assert_array_equal(byte_image(images[0].flow, 28), planes_of(images[0].flow))


def test_a_mirrored_u_is_taken_from_the_top(tmp_path: Path) -> None:
    uv = flow_images()[0].flow
    mirrored = np.ascontiguousarray(uv[:, :, ::-1]) * np.array([-1, 1], np.float32)[:, None, None]
    x = torch.from_numpy(byte_image(uv, 28))[None]
    zero, flip = torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.bool)
    moved = gather_moved(x, zero, flip, zero, zero, signed=True, top=255.0)[0]
    assert np.abs(moved.numpy() - byte_image(mirrored, 28)).max() <= 1  # of rounding


def test_aligned_bytes_are_mirrored_after_they_are_aligned(corpora: dict[str, Manifest]) -> None:
    clips = load(corpora["real"], DataConfig(input=BYTES))
    affine = np.tile(np.array([[0.8, 1.1, 1.0], [20.0, -5.0, 3.0]]), (1, 1, 1))
    given = task("ststnet", StstnetConfig(), clips, members=1, steps=1)
    given = replace(given, affine=affine, added=np.ones(len(clips), np.bool_), mirrored=255.0)
    chunk = _Chunk(given, range(1), TrainConfig(batch=4), torch.device("cpu"))
    index, none = torch.arange(4)[None], torch.zeros(1, 4, dtype=torch.int64)
    plain, turned = (chunk._view("flow", index, torch.full((1, 4), flip), none, none)[0] for flip in (False, True))
    a, b = (torch.from_numpy(affine[0, k]).float()[:, None, None] for k in (0, 1))
    torch.testing.assert_close(plain, a * torch.from_numpy(clips.x[:4]) + b)
    expected = plain.flip(-1)
    expected[:, 0] = 255 - expected[:, 0]
    torch.testing.assert_close(turned, expected, atol=1e-3, rtol=1e-5)


def test_bytes_and_flow_are_told_apart(sets: dict[str, FlowSet], corpora: dict[str, Manifest]) -> None:
    as_bytes = load(corpora["real"], DataConfig(input=BYTES))
    with pytest.raises(ManifestError, match=r"loaded as flow; this run has data.input=bytes"):
        loso(sets["real"], None, run("data.input=bytes"))
    with pytest.raises(ManifestError, match=r"loaded as bytes; this run has data.input=flow"):
        loso(as_bytes, None, run())
    assert loso(as_bytes, None, run("data.input=bytes")).metrics.n == 48
    with pytest.raises(ConfigError, match=r"data.input='png' is unknown; choose from flow, bytes"):
        DataConfig(input="png")
    with pytest.raises(ConfigError, match="leave one of them out"):
        DataConfig(input=BYTES, normalise="robust")
    with pytest.raises(ConfigError, match="mirror copies move flow"):
        load_config(AblationConfig, None, ["data.input=bytes", "controls=[mirror,shuffled]"])
    assert "input" not in yaml.safe_load(config_yaml(run(), synthetic=False))["data"]
    assert yaml.safe_load(config_yaml(run("data.input=bytes"), synthetic=False))["data"]["input"] == BYTES


# ---------------------------------------------------------------- norm, dropout, average


@pytest.mark.parametrize("key", [0, 1, 12345, -7, 2**31 - 1])
@pytest.mark.parametrize(("share", "pools"), [(0.0, 10), (0.5, 10), (0.3, 9), (0.9, 2)])
def test_the_average_is_that_of_plain_layers(share: float, pools: int, key: int) -> None:
    torch.manual_seed(1)
    drop = Dropout(share)
    drop.key.fill_(key)
    given = [torch.randn(5, 4, pools, pools), torch.randn(4), torch.randn(4)]
    mine, plain = ([t.clone().requires_grad_() for t in given] for _ in range(2))
    out = dropped_average(*mine, drop)
    maps, gain, shift = plain
    expected = F.avg_pool2d(drop(maps * gain[:, None, None] + shift[:, None, None]), 2)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    above = torch.randn_like(expected)
    for a, b in zip(torch.autograd.grad(out, mine, above), torch.autograd.grad(expected, plain, above), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-5)


def test_the_averages_of_a_stack_are_those_of_its_members() -> None:
    torch.manual_seed(2)
    maps, gain, shift = torch.randn(3, 4, 2, 6, 6), torch.randn(3, 2), torch.randn(3, 2)
    keys, drop = torch.tensor([0, 5, -9]), Dropout(0.5)

    def one(maps: torch.Tensor, gain: torch.Tensor, shift: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        drop.key = key
        return dropped_average(maps, gain, shift, drop)

    together = vmap(one)(maps, gain, shift, keys)
    for m in range(3):
        assert torch.equal(together[m], one(maps[m], gain[m], shift[m], keys[m]))
