"""Networks against what their authors publish, written out again from their code with plain torch functions: the same
weights give the same numbers."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from recognizer.models import aman, bdcnn, dual_inception, geme, kfc, lr_gacnn, mtmnet, nmer, rcn
from recognizer.models.blocks import guided_triplet, judged_loss, of_class, wheel
from recognizer.models.common import FlowNetwork, Shape

State = dict[str, torch.Tensor]
FLOW = torch.randn(3, 3, 28, 28, generator=torch.Generator().manual_seed(1))


def drawn(network: FlowNetwork) -> tuple[FlowNetwork, State]:
    """The network at test, all its weights and running statistics drawn anew, and these by name."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith("running_var") or name == "scale":
                value.uniform_(0.5, 1.5, generator=draw)
            else:
                fan = value[0].numel() if value.ndim > 1 else 4
                value.normal_(0, fan**-0.5, generator=draw)
    return network.eval(), network.state_dict()


def conv(
    state: State, name: str, x: torch.Tensor, stride: int = 1, padding: int | None = None, **more: int
) -> torch.Tensor:
    weight = state[f"{name}.weight"]
    padding = weight.shape[-1] // 2 if padding is None else padding
    return F.conv2d(x, weight, state.get(f"{name}.bias"), stride, padding, **more)


def linear(state: State, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def bn(state: State, name: str, x: torch.Tensor) -> torch.Tensor:
    mean, var, gain, shift = (state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, mean, var, gain, shift)


def unit(network: FlowNetwork, flow: torch.Tensor = FLOW) -> torch.Tensor:
    return flow / network.scale[:, None, None]


def test_dual_inception() -> None:
    network, state = drawn(dual_inception.build(dual_inception.DualInceptionConfig(dense=32), 3, Shape()))
    streams = []
    for i in range(2):
        x = unit(network)[:, i : i + 1].repeat(1, 3, 1, 1)
        for module in (0, 2):
            at = f"streams.{i}.{module}.branches"
            one = F.relu(conv(state, f"{at}.0.0", x))
            two = F.relu(conv(state, f"{at}.1.2", F.relu(conv(state, f"{at}.1.0", x))))
            three = F.relu(conv(state, f"{at}.2.2", F.relu(conv(state, f"{at}.2.0", x))))
            four = F.relu(conv(state, f"{at}.3.1", F.max_pool2d(x, 3, 1, 1)))
            x = F.max_pool2d(torch.cat([one, two, three, four], 1), 2, 2)
        streams.append(x.flatten(1))
    expected = linear(state, "classify", F.relu(linear(state, "dense", torch.cat(streams, 1))))
    torch.testing.assert_close(network(FLOW).scores, expected)


def cam(maps: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Their attention without parameters, class after class."""
    found = []
    for k in range(len(weight)):
        own = (weight[k].reshape(maps.shape[1:]) * maps).mean(1, keepdim=True)
        own = own - torch.min(torch.min(own, 3, True)[0], 2, True)[0]
        found.append(own / torch.max(torch.max(own, 3, True)[0], 2, True)[0])
    return torch.cat(found, 1).mean(1, keepdim=True)


@pytest.mark.parametrize("variant", rcn.VARIANTS)
def test_rcn(variant: str) -> None:
    network, state = drawn(rcn.build(rcn.RcnConfig(variant=variant, filters=8, pool=5), 3, Shape()))
    x = unit(network)

    def unit_of(name: str, y: torch.Tensor) -> torch.Tensor:
        return F.relu(bn(state, f"block.{name}.1", conv(state, f"block.{name}.0", y)))

    if variant in "as":
        x = F.max_pool2d(F.relu(bn(state, "stem.1", conv(state, "stem.0", x, padding=0))), 2, 2)
    else:
        parts = []
        for i in range(3):
            seen = conv(state, f"stem.streams.{i}.0", x, 3, padding=i + 1, dilation=i + 1)
            parts.append(bn(state, f"stem.streams.{i}.2", F.relu(seen)))
        x = torch.cat(parts, 1)
    weight = state["classify.weight"]
    looks = cam(F.adaptive_avg_pool2d(x, 5), weight)
    y = unit_of("enter", x)
    if variant in "aw":
        y = unit_of("again", x + y)
        y = unit_of("again", x + y)
    else:
        if variant == "f":
            y = F.interpolate(looks, y.shape[2:]) * y
        z = unit_of("again", x + y)
        e = unit_of("again", x + y + z)
        y = unit_of("again", x + y + z + e)
    maps = F.adaptive_avg_pool2d(F.max_pool2d(y, 2, 2), 5)
    if variant == "a":
        maps = maps * looks
    torch.testing.assert_close(network(FLOW).scores, linear(state, "classify", maps.flatten(1)))


def test_bdcnn() -> None:
    config = bdcnn.BdcnnConfig(side=0, block=7, filters=4, joined=16, dense=(24, 12))
    network, state = drawn(bdcnn.build(config, 3, Shape()))
    x = unit(network)
    maps = []
    for picture in (*(x[:, i : i + 1].repeat(1, 3, 1, 1) for i in range(3)), 2 * wheel(x) - 1):
        for i in range(4):
            for j in range(4):
                block = picture[:, :, 7 * i : 7 * (i + 1), 7 * j : 7 * (j + 1)]
                maps.append(F.max_pool2d(F.relu(conv(state, "conv", block)), 3, 3, 1))
    joined = F.relu(conv(state, "join", torch.cat(maps, 1))).flatten(1)
    features = F.relu(linear(state, "dense.2", F.relu(linear(state, "dense.0", joined))))
    torch.testing.assert_close(network(FLOW).scores, linear(state, "classify", features))


def test_features_are_spread_by_the_covariance_of_their_class() -> None:
    torch.manual_seed(0)
    features, weight, y = torch.randn(7, 5), torch.randn(3, 5), torch.tensor([0, 0, 1, 2, 2, 2, 0])
    scores = features @ weight.T
    expected = scores.clone()
    for n in range(7):
        own = features[y == y[n]]
        covariance = (own - own.mean(0)).T @ (own - own.mean(0)) / len(own)
        for c in range(3):
            w = weight[c] - weight[y[n]]
            expected[n, c] += 0.4 / 2 * w @ covariance @ w
    torch.testing.assert_close(bdcnn.spread_logits(scores, features, weight, y, 0.4), expected)
    assert torch.equal(bdcnn.spread_logits(scores, features, weight, y, 0.0), scores)


def resnet(state: State, at: str, x: torch.Tensor, stages: int) -> torch.Tensor:
    """ResNet of basic blocks, one a stage, before its mean."""
    x = F.max_pool2d(F.relu(bn(state, f"{at}.1", conv(state, f"{at}.0", x, 2))), 3, 2, 1)
    for i in range(stages):
        block, stride = f"{at}.{4 + i}", 1 if i == 0 else 2
        y = F.relu(bn(state, f"{block}.body.1", conv(state, f"{block}.body.0", x, stride)))
        y = bn(state, f"{block}.body.4", conv(state, f"{block}.body.3", y))
        changes = f"{block}.skip.0.weight" in state
        skip = bn(state, f"{block}.skip.1", conv(state, f"{block}.skip.0", x, stride)) if changes else x
        x = F.relu(y + skip)
    return x


def test_nmer() -> None:
    config = nmer.NmerConfig(widths=(8, 8, 12, 16), blocks=1)
    network, state = drawn(nmer.build(config, 3, Shape()))
    picture = F.interpolate(unit(network), size=(224, 224), mode="bilinear", align_corners=False)
    maps = resnet(state, "trunk", 2 * wheel(picture) - 1, 4)
    assert maps.shape[2:] == (7, 7)
    top, bottom = (F.adaptive_avg_pool2d(part, 1).flatten(1) for part in (maps[:, :, :3], maps[:, :, 3:]))
    top, bottom = (torch.tanh(linear(state, f"halves.{i}.0", part)) for i, part in enumerate((top, bottom)))
    out = network(FLOW)
    both = torch.cat([top, bottom], 1)
    torch.testing.assert_close(out.scores, linear(state, "classify", both))
    torch.testing.assert_close(out.more["upper"], linear(state, "classify_halves.0", top))
    torch.testing.assert_close(out.more["lower"], linear(state, "classify_halves.1", bottom))
    judged = F.relu(linear(state, "judge.3", F.relu(linear(state, "judge.0", both))))
    torch.testing.assert_close(out.more["macro"], linear(state, "judge.6", judged)[:, 0])


def test_kfc() -> None:
    config = kfc.KfcConfig(side=56, stem=8, widths=(8, 16), dense=12)
    network, state = drawn(kfc.build(config, 3, Shape()))
    u, v = unit(network)[:, 0], unit(network)[:, 1]
    (u_y, u_x), (v_y, v_x) = torch.gradient(u, dim=(1, 2)), torch.gradient(v, dim=(1, 2))
    first, second = (u, v, (u**2 + v**2).sqrt()), (u_x, v_y, (u_y + v_x) / 2)

    def split_attention(at: str, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(bn(state, f"{at}.norm", conv(state, f"{at}.conv", x, groups=2)))
        one, two = torch.split(x, x.shape[1] // 2, 1)
        gap = F.relu(bn(state, f"{at}.norm_hidden", conv(state, f"{at}.one", F.adaptive_avg_pool2d(one + two, 1))))
        weights = (
            conv(state, f"{at}.two", gap).view(len(x), 1, 2, -1).transpose(1, 2).softmax(1).reshape(len(x), -1, 1, 1)
        )
        first_weight, second_weight = torch.split(weights, one.shape[1], 1)
        return first_weight * one + second_weight * two

    def bottleneck(at: str, x: torch.Tensor, stride: int, *, skip: bool) -> torch.Tensor:
        y = F.relu(bn(state, f"{at}.body.1", conv(state, f"{at}.body.0", x)))
        y = split_attention(f"{at}.body.3", y)
        y = F.avg_pool2d(y, 3, 2, 1) if stride == 2 else y
        last = 5 if stride == 2 else 4
        y = bn(state, f"{at}.body.{last + 1}", conv(state, f"{at}.body.{last}", y))
        if skip:
            x = F.avg_pool2d(x, stride, stride, ceil_mode=True, count_include_pad=False)
            x = bn(state, f"{at}.skip.2", conv(state, f"{at}.skip.1", x))
        return F.relu(y + x)

    maps = []
    for i, order in enumerate((first, second)):
        at, x = f"streams.{i}", torch.stack(order, 1)
        x = x / (x.square().mean((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        x = F.interpolate(x, size=(56, 56), mode="bilinear", align_corners=False)
        for layer, stride in ((0, 2), (3, 1), (6, 1)):
            x = F.relu(bn(state, f"{at}.stem.{layer + 1}", conv(state, f"{at}.stem.{layer}", x, stride)))
        x = F.max_pool2d(x, 3, 2, 1)
        y = F.leaky_relu(conv(state, f"{at}.see.0", network.parts, 4, padding=0), 0.1)
        for layer in (2, 4, 6):
            y = F.leaky_relu(conv(state, f"{at}.see.{layer}", y), 0.1)
        y = conv(state, f"{at}.see.8", y)
        scale, shift = (
            conv(state, f"{at}.{what}.2", F.leaky_relu(conv(state, f"{at}.{what}.0", y), 0.1))
            for what in ("scale", "shift")
        )
        x = x * (scale + 1) + shift
        x = bottleneck(f"{at}.blocks.0", x, 1, skip=True)
        x = bottleneck(f"{at}.blocks.1", x, 1, skip=False)
        x = bottleneck(f"{at}.blocks.2", x, 2, skip=True)
        x = bottleneck(f"{at}.blocks.3", x, 1, skip=False)
        maps.append(F.avg_pool2d(x, 3, 2, 1).flatten(1))
    expected = linear(state, "classify", F.relu(linear(state, "dense", torch.cat(maps, 1))))
    torch.testing.assert_close(network(FLOW).scores, expected, atol=1e-4, rtol=1e-4)


def test_aman() -> None:
    config = aman.AmanConfig(side=0, factors=(2.0, 6.0), widths=(8, 16), blocks=1)
    network, state = drawn(aman.build(config, 3, Shape(frame_size=32, frames=4)))
    frames = torch.rand(2, 4, 32, 32, generator=torch.Generator().manual_seed(2))
    vms, betas = [], []
    for j in range(4):
        vs, alphas = [], []
        for factor in config.factors:
            picture = (frames[:, :1] + factor * (frames[:, j : j + 1] - frames[:, :1])).clamp(0, 1)
            f = resnet(state, "trunk", 2 * picture - 1, 2).mean((2, 3))
            vs.append(f)
            alphas.append(torch.sigmoid(linear(state, "magnification", f)))
        vm = torch.stack(vs, 2).mul(torch.stack(alphas, 2)).sum(2).div(torch.stack(alphas, 2).sum(2))
        vms.append(vm)
        betas.append(torch.sigmoid(linear(state, "frame", vm)))
    features = torch.stack(vms).mul(torch.stack(betas)).sum(0).div(torch.stack(betas).sum(0))
    torch.testing.assert_close(network(frames).scores, linear(state, "classify", features))


def test_parameters_are_those_of_the_authors_definitions() -> None:
    def count(build: Callable[..., nn.Module], config: object, **sizes: int) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in build(config, 3, Shape(**sizes)).parameters())

    def inception(inputs: int, n: int) -> int:  # 1x1; 1x1 and 3x3; 1x1 and 5x5; 1x1 behind the pooling
        return 4 * (inputs * n + n) + (9 * n * n + n) + (25 * n * n + n)

    stream = inception(3, 6) + inception(24, 16)
    assert count(dual_inception.build, dual_inception.DualInceptionConfig()) == 2 * stream + 6273 * 1024 + 1025 * 3
    block, head = (64 * 64 + 192) + (64 * 64 * 9 + 192), 49 * 64 * 3 + 3
    for variant in "as":
        assert count(rcn.build, rcn.RcnConfig(variant=variant)) == 64 * 75 + 192 + block + head
    wide = sum(27 * n + 3 * n for n in (32, 16, 16))
    for variant in "wf":
        assert count(rcn.build, rcn.RcnConfig(variant=variant)) == wide + block + head
    joined = 4 * 144 * 8
    assert joined == 4608  # as their table has it for blocks of 10
    dense = (512 * 16 + 1) * 1024 + 1025 * 128 + 129 * 3
    assert count(bdcnn.build, bdcnn.BdcnnConfig()) == 27 * 8 + 8 + joined * 512 + 512 + dense
    trunk = 11_689_512 - 513_000  # ResNet-18 without its classifier
    heads = 2 * 513 * 64 + 129 * 3 + 2 * 65 * 3 + 129 * 64 + 65 * 32 + 33
    assert count(nmer.build, nmer.NmerConfig()) == trunk + heads
    grey = trunk - 2 * 64 * 49
    assert count(aman.build, aman.AmanConfig(), frame_size=224, frames=11) == grey + 2 * 513 + 513 * 3
    with torch.device("meta"):
        made = kfc.build(kfc.KfcConfig(), 3, Shape())
    assert made.dense.in_features == 256 * 28 * 28  # type: ignore[union-attr]


# ---------------------------------------------------------------- parts


def test_the_colour_wheel_is_opencv_s() -> None:
    u, v = FLOW[0, 0].numpy(), FLOW[0, 1].numpy()
    length, angle = cv2.cartToPolar(u, v, angleInDegrees=True)
    bright = (length - length.min()) / (length.max() - length.min())
    hsv = np.stack([angle, np.ones_like(angle), bright], 2)
    expected = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB).transpose(2, 0, 1)
    np.testing.assert_allclose(wheel(FLOW[:1])[0].numpy(), expected, atol=1e-3)
    assert wheel(torch.zeros(1, 3, 4, 4)).abs().max() == 0


def test_second_order_motion_of_a_stretch_and_a_shear() -> None:
    y, x = torch.meshgrid(torch.arange(6.0), torch.arange(6.0), indexing="ij")
    flow = torch.stack([0.5 * x + 0.2 * y, -0.1 * x + 0.3 * y, torch.zeros_like(x)])[None]
    first, second = kfc.first_and_second(flow)
    torch.testing.assert_close(first[0, 2], flow[0, :2].norm(dim=0))
    for plane, value in zip(second[0], (0.5, 0.3, (0.2 - 0.1) / 2), strict=True):
        torch.testing.assert_close(plane, torch.full((6, 6), value))


def test_a_judge_has_nothing_to_tell_where_all_are_alike() -> None:
    logits = torch.tensor([0.5, -1.0, 2.0])
    for label in ([0, 0, 0], [1, 1, -1], [-1, -1, -1]):
        assert judged_loss(logits, torch.tensor(label)) == 0
    expected = F.binary_cross_entropy_with_logits(logits[:2], torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(judged_loss(logits, torch.tensor([1, 0, -1])), expected)


def test_triplets_by_hand() -> None:
    features = torch.tensor([[1.0, 0], [0, 0], [0, 0], [0, 0]])
    guides = torch.tensor([[0.0, 0], [0, 1], [1, 0], [-1, 0]])
    y, macro = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 1])
    far, near = 2**0.5, 1e-3  # its own class's guide is at a right angle, another's lies upon it
    expected = F.softplus(torch.tensor(far - near))
    torch.testing.assert_close(guided_triplet(features, guides, y, macro), expected, atol=1e-4, rtol=1e-4)
    assert guided_triplet(features, guides, y, torch.zeros(4, dtype=torch.int64)) == 0
    mean, there = of_class(torch.tensor([1.0, 2, 3, 5]), y, macro == 1)
    assert mean.tolist() == [2, 2, 4, 4]
    assert there.all()


def of_mtmnet(macro: list[int]) -> tuple[mtmnet.Mtmnet, torch.Tensor]:
    torch.manual_seed(0)
    config = mtmnet.MtmnetConfig(side=0, widths=(8, 8), blocks=1, dropout=0.0)
    network = mtmnet.Mtmnet(config, 3, Shape(frame_size=32))
    pair, y = torch.rand(4, 2, 32, 32), torch.tensor([0, 1, 0, 1])
    told = {"macro": torch.tensor(macro), "subject": torch.arange(4)}
    return network, network.meta_loss(network(pair), y, torch.zeros(4, 1), told)


def test_without_macro_expressions_nothing_is_transferred() -> None:
    network, loss = of_mtmnet([0, 0, 0, -1])
    loss.backward()
    for part in (network.macro, network.judge):
        assert all(p.grad is None or not p.grad.any() for p in part.parameters())
    assert network.micro.classify.weight.grad is not None


def test_what_guides_is_not_changed_by_whom_it_guides() -> None:
    for name in ("adversarial", "triplet", "inequality"):
        grads = []
        for weight in (0.0, 1.0):
            torch.manual_seed(0)
            config = mtmnet.MtmnetConfig(
                side=0, widths=(8, 8), blocks=1, dropout=0.0, identity=0.0,
                **{key: weight * (key == name) for key in ("adversarial", "triplet", "inequality")},
            )  # fmt: skip
            network = mtmnet.Mtmnet(config, 3, Shape(frame_size=32))
            pair, y = torch.rand(4, 2, 32, 32), torch.tensor([0, 1, 0, 1])
            told = {"macro": torch.tensor([0, 0, 1, 1]), "subject": torch.arange(4)}
            with torch.no_grad():  # a class that MacroNet finds hard
                network.macro.classify.bias.copy_(torch.tensor([-3.0, 3.0, 0.0]))
            network.meta_loss(network(pair), y, torch.zeros(4, 1), told).backward()
            grads.append(
                [[p.grad.clone() for p in part.parameters()] for part in (network.micro.express, network.macro.express)]
            )
        plain, guided = grads
        assert any((a != b).any() for a, b in zip(plain[0], guided[0], strict=True)), name
        for a, b in zip(plain[1], guided[1], strict=True):
            torch.testing.assert_close(a, b, msg=name)


def test_gender_counts_where_it_is_known() -> None:
    torch.manual_seed(0)
    network = geme.build(geme.GemeConfig(side=0, widths=(8, 8), blocks=1), 3, Shape(frame_size=32))
    out, y, au = network(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 0]), torch.zeros(4, 1)
    plain = network.loss(out, y, au)
    assert network.meta_loss(out, y, au, {"gender": torch.full((4,), -1)}) == plain
    known = network.meta_loss(out, y, au, {"gender": torch.tensor([1, -1, 0, -1])})
    expected = F.binary_cross_entropy_with_logits(out.more["gender"][[0, 2]], torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(known - plain, 0.3 * expected)


def test_patches_lie_about_their_landmarks() -> None:
    flow = torch.arange(20 * 20.0).reshape(1, 1, 20, 20).repeat(1, 3, 1, 1)
    points = torch.tensor([[[0.0, 0.0], [-0.5, 0.5], [0.25, -0.25]]])
    found = lr_gacnn.patches_about(flow, points, 4).unflatten(2, (3, 4, 4))
    for i, (row, column) in enumerate(((8, 8), (16, 0), (3, 13))):
        torch.testing.assert_close(found[0, i], flow[0, :, row : row + 4, column : column + 4])


def test_the_graph_of_a_face() -> None:
    face, three = lr_gacnn.face_edges(), lr_gacnn.triplet_edges()
    assert torch.equal(face, face.T)
    reach = torch.linalg.matrix_power(face.float(), 50) > 0
    assert reach.all(), "every part of the face hears of every other"
    n = lr_gacnn.N_POINTS
    assert torch.equal(three[n : 2 * n, n : 2 * n], face)
    assert torch.equal(three[:n, n : 2 * n], torch.eye(n, dtype=torch.bool))
    assert not three[:n, 2 * n :].any()
