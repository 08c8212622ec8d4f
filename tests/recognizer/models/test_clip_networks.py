"""Networks on pictures of a clip, sequences, landmarks and AUs: against their authors' public definitions, restated
here in plain PyTorch, and by hand."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mesynth.core.errors import ConfigError
from mesynth.core.types import N_AUS
from mesynth.preprocess.inputs import dynamic_image
from recognizer.models import dikd, graph_au, learnet, lgccon, saat
from recognizer.models.affectivenet import AffectivenetConfig
from recognizer.models.blocks import focal
from recognizer.models.cbamnet import CbamnetConfig, FramewiseCbam
from recognizer.models.common import Dropout, FlowNetwork, Outputs, Shape, cooccurrence
from recognizer.models.dstan import Dstan, DstanConfig
from recognizer.models.fcnn3d import Fcnn3dConfig, shown
from recognizer.models.mer_augcn import MerAugcnConfig, balanced_au_loss
from recognizer.models.mersiam import Mersiam, MersiamConfig, key_frames, pair_loss
from recognizer.models.originet import OriginetConfig
from recognizer.models.setfnet import SetfnetConfig
from recognizer.models.shallow_cnn import ShallowCnnConfig
from recognizer.models.sma_stn import SmaStn, SmaStnConfig, rank_pooled, segmented


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def copied(ours: FlowNetwork, theirs: nn.Module) -> None:
    """Give ``ours`` the weights of ``theirs``, whose layers were made in the order of ours; both must have the same."""
    mine, own = list(ours.named_parameters()), list(theirs.parameters())
    assert [p.shape for _, p in mine] == [p.shape for p in own], [n for n, _ in mine]
    with torch.no_grad():
        for (_, p), q in zip(mine, own, strict=True):
            p.copy_(q.normal_(std=0.1))


# ---------------------------------------------------------------- LEARNet


def same(x: torch.Tensor, conv: nn.Module) -> torch.Tensor:
    """As TensorFlow pads with ``same``: total (ceil(n/2) - 1) * 2 + k - n, the smaller half first; then ReLU."""
    assert isinstance(conv, nn.Conv2d)
    n, k = x.shape[-1], conv.kernel_size[0]
    total = max((int(np.ceil(n / 2)) - 1) * 2 + k - n, 0)
    return F.relu(conv(F.pad(x, (total // 2, total - total // 2) * 2)))


class AuthorsLearnet(nn.Module):
    """The released Keras definition, layer by layer."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2)
        made = [nn.Conv2d(a, b, k, 2) for _ in range(4) for a, b, k in ((16, 16, 1), (16, 32, 3), (32, 64, 5))]
        norms = [nn.BatchNorm2d(n, eps=1e-3) for n in (16, 32, 16, 32, 256)]
        self.order = nn.ModuleList([*made[:6], *norms[:2], *made[6:], *norms[2:]])  # as ours come
        self.last = nn.Conv2d(256, 256, 3, 2)
        self.dense = nn.Linear(4 * 4 * 256, 256)
        self.out = nn.Linear(256, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        c = [layer for layer in self.order if isinstance(layer, nn.Conv2d)]
        n = [layer for layer in self.order if isinstance(layer, nn.BatchNorm2d)]
        s = same(x, self.stem)
        c11 = same(s, c[0])
        c12 = same(c11, c[1])
        c13 = same(c12, c[2])
        r11 = n[0](c11 + same(s, c[3]))
        r12 = n[1](c12 + same(r11, c[4]))
        cx2 = same(r12, c[5])
        c31 = same(s, c[6])
        c32 = same(c31, c[7])
        c33 = same(c32, c[8])
        r13 = n[2](c31 + same(s, c[9]))
        r14 = n[3](c32 + same(r13, c[10]))
        cx4 = same(r14, c[11])
        maps = same(n[4](torch.cat([c13, cx2, c33, cx4], 1)), self.last)
        out: torch.Tensor = self.out(F.relu(self.dense(maps.flatten(1))))
        return out


@pytest.mark.parametrize("training", [True, False])
def test_learnet_is_the_authors_network(training: bool) -> None:
    torch.manual_seed(0)
    theirs = AuthorsLearnet(8).train(training)
    ours = learnet.build(learnet.LearnetConfig(), 8, Shape(frame_size=112)).train(training)
    copied(ours, theirs)
    picture = torch.rand(2, 3, 112, 112) * 3 - 1
    low, high = picture.amin((1, 2, 3), keepdim=True), picture.amax((1, 2, 3), keepdim=True)
    torch.testing.assert_close(
        ours(picture).scores, theirs(2 * (picture - low) / (high - low) - 1), atol=1e-4, rtol=1e-4
    )
    # Theirs: stem, four streams, four sums' norms, the join's, last, dense, classifier.
    stream = (16 * 16 + 16) + (16 * 32 * 9 + 32) + (32 * 64 * 25 + 64)
    norms = 2 * (16 + 32 + 16 + 32 + 256)
    rest = (3 * 16 * 9 + 16) + norms + (256 * 256 * 9 + 256) + (4096 + 1) * 256
    assert count(ours) == 4 * stream + rest + 257 * 8


def test_pictures_of_clips_are_stretched() -> None:
    picture = torch.stack([torch.linspace(-3, 5, 48), torch.full((48,), 0.3)]).reshape(2, 3, 4, 4)
    seen = learnet.stretched(picture)
    assert (seen[0].amin(), seen[0].amax()) == (-1, 1)
    assert (seen[1] == -1).all()
    torch.testing.assert_close(learnet.stretched(picture * 7 - 2)[0], seen[0])


@pytest.mark.parametrize(("side", "kernel"), [(8, 1), (8, 3), (8, 5), (7, 3), (7, 5), (9, 11), (1, 3)])
def test_halving(side: int, kernel: int) -> None:
    layer = learnet.Halving(2, 3, kernel)
    x = torch.randn(1, 2, side, side)
    out = layer(x)
    assert out.shape[-1] == learnet.halved(side) == int(np.ceil(side / 2))
    torch.testing.assert_close(F.relu(out), same(x, layer_of(layer)))


def layer_of(layer: nn.Conv2d) -> nn.Conv2d:
    plain = nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size[0], 2)
    plain.load_state_dict(layer.state_dict())
    return plain


@pytest.mark.parametrize("name", learnet.SUMMARIES)
def test_the_picture_is_chosen(name: str) -> None:
    assert learnet.build(learnet.LearnetConfig(input=name), 3, Shape(frame_size=32)).needs == (name,)


# ---------------------------------------------------------------- LGCcon


class AuthorsLgccon(nn.Module):
    """The released network definition: VGG-16's convolutions, region pooling, shared dense layers, four classifiers."""

    def __init__(self, widths: tuple[int, ...], depths: tuple[int, ...], dense: int, classes: int, cells: int) -> None:
        super().__init__()
        self.depths, self.cells = depths, cells
        self.convs = nn.ModuleList()
        for (a, b), depth in zip(pairwise((1, *widths)), depths, strict=True):
            self.convs.extend(nn.Conv2d(a if i == 0 else b, b, 3, padding=1) for i in range(depth))
        self.fc6 = nn.Linear(widths[-1] * cells**2, dense)
        self.fc7 = nn.Linear(dense, dense)
        self.cls_score, self.context_cls_score = nn.Linear(dense, classes), nn.Linear(dense, classes)
        self.cls_score1, self.context_cls_score1 = nn.Linear(dense, classes), nn.Linear(dense, classes)
        self.centers = nn.Parameter(torch.randn(classes, classes))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        layers = iter(self.convs)
        for stage, depth in enumerate(self.depths):
            x = F.max_pool2d(x, 2) if stage else x
            for _ in range(depth):
                x = F.relu(next(layers)(x))
        side, fc7 = x.shape[-1], []
        for box in lgccon.regions():
            x0, y0, x1, y1 = (int(v) for v in np.round(box * (side - 1)))
            pooled = F.adaptive_max_pool2d(x[:, :, y0 : y1 + 1, x0 : x1 + 1], self.cells)
            fc7.append(F.relu(self.fc7(F.relu(self.fc6(pooled.flatten(1))))))
        face, regions = fc7[0], torch.stack(fc7[1:])
        score = self.cls_score(face) + self.context_cls_score(regions).max(0).values
        one, two = self.cls_score1(face), self.context_cls_score1(regions).max(0).values
        centre = ((score - self.centers[y]) ** 2).sum() / len(x) / 2
        loss = F.cross_entropy(score, y) + 0.7 * F.cross_entropy(one, y) + 0.7 * F.cross_entropy(two, y)
        return score, loss + 0.0002 * centre


def test_lgccon_is_the_authors_network() -> None:
    torch.manual_seed(0)
    widths, depths = (4, 6, 8), (1, 2, 2)
    theirs = AuthorsLgccon(widths, depths, 12, 5, 7)
    config = lgccon.LgcconConfig(widths=widths, depths=depths, dense=(12, 12), dropout=0.0)
    ours = lgccon.build(config, 5, Shape(frame_size=64))
    # The centres stand first among the parameters of a module, before its layers.
    copied(ours, theirs)
    apex, y, au = torch.rand(3, 2, 64, 64), torch.tensor([4, 0, 2]), torch.full((3, N_AUS * 2), -1)
    out = ours(apex)
    scores, loss = theirs(2 * apex[:, 1:] - 1, y)
    torch.testing.assert_close(out.scores, scores, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.loss(out, y, au), loss, atol=1e-5, rtol=1e-5)


def test_lgccon_has_the_parameters_of_vgg16() -> None:
    with torch.device("meta"):
        found = count(lgccon.build(lgccon.LgcconConfig(), 5, Shape(frame_size=224)))
    # VGG-16 with 138,357,544, of which 4,097,000 classify ImageNet; grey instead of colour; four classifiers, centres.
    assert found == 138_357_544 - 4_097_000 - 2 * 64 * 9 + 4 * 4097 * 5 + 25


@pytest.mark.parametrize("side", [4, 7, 14, 17])
@pytest.mark.parametrize("cells", [1, 3, 7])
def test_regions_are_pooled_as_adaptive_pooling_does(side: int, cells: int) -> None:
    maps = torch.randn(2, 3, side, side)
    boxes = lgccon.regions()
    places = torch.from_numpy(lgccon.pooled_places(boxes, side, cells))
    pooled = maps.flatten(2)[..., places.flatten()].unflatten(2, places.shape).amax(-1)
    for i, box in enumerate(boxes):
        x0, y0, x1, y1 = (int(v) for v in np.round(box * (side - 1)))
        whole = F.adaptive_max_pool2d(maps[:, :, y0 : y1 + 1, x0 : x1 + 1], cells)
        torch.testing.assert_close(pooled[:, :, i].unflatten(2, (cells, cells)), whole)


# ---------------------------------------------------------------- GRAPH-AU


class AuthorsEncoder(nn.Module):
    """Head by head."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(49, 128, bias=False) for _ in range(3))
        self.fc = nn.Linear(128, 49, bias=False)
        self.w_1, self.w_2 = nn.Linear(49, 128), nn.Linear(128, 49)
        self.norm_1, self.norm_2 = nn.LayerNorm(49, eps=1e-6), nn.LayerNorm(49, eps=1e-6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)
        heads = []
        for h in range(8):
            part = slice(16 * h, 16 * h + 16)
            weights = torch.softmax(torch.bmm(q[..., part] / 4, k[..., part].transpose(1, 2)), -1)
            heads.append(torch.bmm(weights, v[..., part]))
        x = self.norm_1(self.fc(torch.cat(heads, -1)) + x)
        out: torch.Tensor = self.norm_2(self.w_2(F.relu(self.w_1(x))) + x)
        return out


class AuthorsGraphAu(nn.Module):
    """The released network from the patches on; of six encoders whose input is always the first one's, the last."""

    def __init__(self, adjacency: torch.Tensor, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(9, 40))
        self.depth_wise_conv, self.bn1 = nn.Conv2d(30, 30, 3, padding=1, groups=30), nn.BatchNorm2d(30)
        self.eyebrow = AuthorsEncoder()
        self.linear1, self.linear3 = nn.Linear(490, 320), nn.Linear(320, 160)
        self.mouth = AuthorsEncoder()
        self.linear2, self.linear4 = nn.Linear(980, 320), nn.Linear(320, 160)
        self.gc1, self.gc2 = nn.Linear(40, 80, bias=False), nn.Linear(80, 160, bias=False)
        self.layer_norm1, self.linear5 = nn.LayerNorm(9, eps=1e-6), nn.Linear(9, classes)
        d = torch.diag(adjacency.sum(1) ** -0.5)
        self.adj = torch.matmul(torch.matmul(adjacency, d).t(), d)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.depth_wise_conv(patches))).flatten(2)
        eye, mouth = self.eyebrow(x[:, :10]).flatten(1), self.mouth(x[:, 10:30]).flatten(1)
        eye = F.relu(self.linear3(F.relu(self.linear1(eye))))
        mouth = F.relu(self.linear4(F.relu(self.linear2(mouth))))
        a = F.leaky_relu(self.adj @ self.gc1(self.embedding), 0.2)
        a = F.leaky_relu(self.adj @ self.gc2(a), 0.2)
        one, two = a.transpose(0, 1).split([3, 6], dim=1)
        out: torch.Tensor = self.linear5(self.layer_norm1(torch.cat([eye @ one, mouth @ two], 1)))
        return out


def test_graph_au_is_the_authors_network() -> None:
    torch.manual_seed(0)
    ours = graph_au.build(graph_au.GraphAuConfig(), 3, Shape())
    assert isinstance(ours, graph_au.GraphAu)
    rows = [graph_au.AU_INDEX[code] for code in graph_au.AUS]
    likely = torch.from_numpy(cooccurrence()[rows][:, rows])
    assert not torch.equal(likely, likely.T), "or the order of a product would not show"
    theirs = AuthorsGraphAu(likely, 3)
    shape_map = count(ours.shape_map)
    assert shape_map == (2 * 16 * 9 + 16) + 32 + (16 * 9 + 1)
    assert count(ours) - shape_map == count(theirs)
    kept, ours.shape_map = ours.shape_map, nn.Identity()  # type: ignore[assignment]
    copied(ours, theirs)
    patches = torch.randn(4, 30, 7, 7)
    torch.testing.assert_close(ours.from_patches(patches).scores, theirs(patches), atol=1e-5, rtol=1e-4)
    ours.shape_map = kept
    assert ours(torch.rand(2, 2, 64, 64)).scores.shape == (2, 3)


# ---------------------------------------------------------------- parts, by hand


def test_dynamic_images_of_segments_are_those_that_prepare_makes() -> None:
    torch.manual_seed(0)
    frames = torch.rand(2, 9, 6, 6)
    images = segmented(frames, 4)
    assert images.shape == (2, 5, 6, 6)
    torch.testing.assert_close(images.square().mean((2, 3)), torch.ones(2, 5), atol=1e-4, rtol=0)
    cuts = [(0, 9), (0, 3), (2, 5), (4, 7), (6, 9)]
    for i, (a, b) in enumerate(cuts):
        for clip in range(2):
            made = dynamic_image(frames[clip, a:b][None, :, None])[0, 0]
            made = made / made.square().mean().sqrt()
            torch.testing.assert_close(images[clip, i], made, atol=1e-4, rtol=1e-3)
    still = torch.rand(1, 1, 6, 6).expand(1, 5, 6, 6)
    assert rank_pooled(still).abs().max() < 0.01


def test_key_frames_lie_where_the_clip_changes() -> None:
    level = torch.tensor([0.0, 0.0, 0.1, 0.9, 1.0, 1.0])
    frames = level[None, :, None, None].expand(1, 6, 2, 2)
    seen = key_frames(frames, 5)[0, :, 0, 0]
    torch.testing.assert_close(seen, torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]), atol=1e-3, rtol=0)
    still = torch.full((1, 6, 2, 2), 0.3)
    torch.testing.assert_close(key_frames(still, 3), torch.full((1, 3, 2, 2), 0.3))
    even = torch.linspace(0, 1, 7)[None, :, None, None].expand(1, 7, 2, 2)
    torch.testing.assert_close(key_frames(even, 7), even, atol=1e-5, rtol=0)


def test_pair_loss_by_hand() -> None:
    features, y = torch.tensor([[0.0, 0.0], [0.6, 0.0], [0.0, 0.8], [3.0, 0.0]]), torch.tensor([0, 0, 1, 1])
    same_class = 0.6**2 + (3.0**2 + 0.8**2)
    other = (1 - 0.8) ** 2 + 0 + 0 + 0  # 0-2; 0-3, 1-2 (distance 1) and 1-3 are far enough
    assert float(pair_loss(features, y, 1.0)) == pytest.approx(2 * (same_class + other) / 12, rel=1e-4)
    assert float(pair_loss(features[:1], y[:1], 1.0)) == 0


def test_focal_loss_by_hand() -> None:
    scores, y = torch.tensor([[0.0, 0.0], [np.log(3.0), 0.0]], dtype=torch.float64), torch.tensor([1, 0])
    expected = -(0.5**2 * np.log(0.5) + 0.25**2 * np.log(0.75)) / 2
    assert float(focal(scores, y, 2.0)) == pytest.approx(expected)
    torch.testing.assert_close(focal(scores, y, 0.0), F.cross_entropy(scores, y))


def test_siamese_and_deviation_terms_are_switched_off() -> None:
    torch.manual_seed(0)
    features, scores, y = torch.randn(4, 6), torch.randn(4, 3), torch.tensor([0, 0, 1, 2])
    out, au = Outputs(scores, None, features), torch.full((4, N_AUS * 2), -1)
    unit = F.normalize(features, dim=1)
    shape = Shape(frame_size=16, frames=9)
    for weight in (0.0, 0.4):
        net: FlowNetwork = Mersiam(MersiamConfig(pairs=weight, widths=(2,), dense=2), 3, shape)
        expected = focal(scores, y, 2.0) + weight * pair_loss(unit, y, 1.0)
        torch.testing.assert_close(net.loss(out, y, au), expected)
        net = SmaStn(SmaStnConfig(deviation=weight, widths=(2,)), 3, shape)
        torch.testing.assert_close(net.loss(out, y, au), F.cross_entropy(scores, y) + weight * pair_loss(unit, y, 1.0))


def test_the_linear_machine_s_loss_by_hand() -> None:
    net = Dstan(DstanConfig(widths=(4,), hidden=4), 3, Shape())
    scores = torch.tensor([[2.0, -0.5, -2.0], [0.0, 0.5, 0.0]])
    expected = ((0 + 0.5**2 + 0) + (1 + 0.5**2 + 1)) / 2
    out = Outputs(scores, None)
    assert float(net.loss(out, torch.tensor([0, 1]), torch.zeros(2, 2))) == pytest.approx(expected)


def test_balanced_au_loss_by_hand() -> None:
    logits = torch.zeros(4, 2, requires_grad=True)
    au = torch.tensor([[1, -1], [0, -1], [0, -1], [0, 1]])
    # Column 0: one of four present; column 1: one known, present, whose share is held at .95.
    weights = np.array([0.75, 0.25, 0.25, 0.25, 0.05])
    each = 0.5**2 * np.log(2)
    loss = balanced_au_loss(logits, au, 2.0)
    assert float(loss.detach()) == pytest.approx((weights * each).sum() / weights.sum(), rel=1e-5)
    loss.backward()
    assert logits.grad is not None
    assert float(logits.grad[0, 0]) == pytest.approx(-3 * float(logits.grad[1, 0]), rel=1e-5)  # both signs pull alike
    assert (logits.grad[:3, 1] == 0).all()
    assert float(balanced_au_loss(logits.detach(), torch.full((4, 2), -1), 2.0)) == 0


def test_style_is_what_a_copy_has_not() -> None:
    torch.manual_seed(0)
    picture = torch.rand(1, 1, 24, 24)
    copy = saat.without_style(picture, 9)
    torch.testing.assert_close(saat.without_style(0.5 * picture + 0.3, 9), copy, atol=0.01, rtol=0.01)
    assert saat.without_style(torch.full((1, 1, 24, 24), 0.7), 9).abs().max() < 1e-3
    attention = saat.attention_of(torch.randn(2, 3, 4, 4))
    torch.testing.assert_close(attention.square().sum(1), torch.ones(2))


def test_attention_is_handed_from_the_copy_to_the_face() -> None:
    torch.manual_seed(0)
    net = saat.build(saat.SaatConfig(widths=(4, 8), transfer=3.0, dropout=0.0), 3, Shape(frame_size=32))
    assert isinstance(net, saat.Saat)
    out = net(torch.rand(2, 2, 32, 32))
    assert out.more is not None
    y, au = torch.tensor([0, 1]), torch.full((2, N_AUS * 2), -1)
    apart = (out.more["face"] - out.more["copy"]).square().sum(1).mean()
    torch.testing.assert_close(net.loss(out, y, au), F.cross_entropy(out.scores, y) + 3 * apart)
    (net.loss(out, y, au) - F.cross_entropy(out.scores, y)).backward()
    grads = [sum(float(p.grad.abs().sum()) for p in part.parameters() if p.grad is not None) for part in net.nets]
    assert grads[0] > 1e-6
    assert grads[1] < 1e-6 * grads[0]


def test_the_teacher_is_silent_where_no_au_is_known() -> None:
    torch.manual_seed(0)
    net = dikd.build(dikd.DikdConfig(teacher=(4, 8), student=(4, 8), dropout=0.0), 3, Shape(frame_size=32))
    assert isinstance(net, dikd.Dikd)
    y, unknown = torch.tensor([0, 1, 2]), torch.full((3, N_AUS * 2), -1)
    out = net(torch.rand(3, 2, 32, 32))
    torch.testing.assert_close(net.loss(out, y, unknown), F.cross_entropy(out.scores, y))
    some = unknown.clone()
    some[1, 4] = 1
    assert out.more is not None
    hint = (out.more["guess"][1] - out.more["teacher"][1]).square().mean()
    assert out.au is not None
    expected = F.cross_entropy(out.scores, y) + F.softplus(-out.au[1, 4]) + hint
    torch.testing.assert_close(net.loss(out, y, some), expected)
    # The hint teaches the student, not the teacher.
    hinted = torch.autograd.grad(
        net.loss(out, y, some) - F.softplus(-out.au[1, 4]), list(net.teacher.parameters()), allow_unused=True
    )
    assert all(g is None or g.abs().max() < 1e-6 for g in hinted)


def test_clips_are_shown_less_their_own_brightness() -> None:
    clip = torch.rand(2, 4, 5, 5)
    torch.testing.assert_close(shown(clip + 0.25), shown(clip))
    assert shown(clip).shape == (2, 1, 4, 5, 5)


def test_attention_is_each_frame_s_own() -> None:
    torch.manual_seed(0)
    layer, clip = FramewiseCbam(4, 2, 3), torch.randn(2, 4, 3, 5, 5)
    seen = layer(clip)
    for t in range(3):
        torch.testing.assert_close(seen[:, :, t], layer.attend(clip[:, :, t]))


def test_encoders_follow_one_another() -> None:
    config = graph_au.GraphAuConfig(layers=3)
    extra = count(graph_au.build(config, 3, Shape())) - count(graph_au.build(graph_au.GraphAuConfig(), 3, Shape()))
    encoder = 3 * 49 * 128 + 128 * 49 + (49 + 1) * 128 + (128 + 1) * 49 + 4 * 49
    assert extra == 2 * 2 * encoder


def test_dropout_lies_where_the_definitions_have_it() -> None:
    def shares(net: nn.Module) -> list[float]:
        return [m.p for m in net.modules() if isinstance(m, Dropout)]

    assert shares(learnet.build(learnet.LearnetConfig(), 3, Shape(frame_size=32))) == [0.5]
    small = lgccon.LgcconConfig(widths=(4,), depths=(1,), dense=(4, 4))
    assert shares(lgccon.build(small, 3, Shape(frame_size=16))) == [0.8, 0.8]
    assert shares(graph_au.build(graph_au.GraphAuConfig(), 3, Shape())) == [0.1, 0.5, 0.5, 0.5] * 2


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: learnet.LearnetConfig(input="apex"), "learnet.input='apex'.*dynamic, active, difference"),
        (lambda: learnet.LearnetConfig(widths=(1, 2)), r"learnet.widths=\[1, 2\] needs three"),  # type: ignore[arg-type]
        (lambda: AffectivenetConfig(kernels=()), r"affectivenet.kernels=\[\]"),
        (lambda: AffectivenetConfig(input="flow"), "affectivenet.input='flow'"),
        (lambda: Fcnn3dConfig(grid=0), "fcnn3d.grid=0"),
        (lambda: SetfnetConfig(reduction=0), "setfnet.reduction=0"),
        (lambda: CbamnetConfig(kernel=0), "cbamnet.kernel=0"),
        (lambda: OriginetConfig(input="apex"), "originet.input='apex'.*dynamic, active, difference"),
        (lambda: ShallowCnnConfig(widths=(1, 2)), r"shallow_cnn.widths=\[1, 2\] needs four"),  # type: ignore[arg-type]
        (lambda: DstanConfig(kernels=(0,)), r"dstan.kernels=\[0\]"),
        (lambda: MersiamConfig(keys=1), "mersiam.keys=1 must be at least 2"),
        (lambda: Mersiam(MersiamConfig(keys=12), 3, Shape(frames=10)), "mersiam.keys=12.*data.frames=10"),
        (lambda: SmaStnConfig(segments=0), "sma_stn.segments=0"),
        (lambda: SmaStn(SmaStnConfig(segments=10), 3, Shape(frames=10)), "sma_stn.segments=10.*data.frames=10"),
        (lambda: MerAugcnConfig(branch=0), "mer_augcn.branch=0"),
        (lambda: saat.SaatConfig(window=0), "saat.window=0"),
        (lambda: dikd.DikdConfig(input="onset"), "dikd.input='onset'"),
        (lambda: graph_au.GraphAuConfig(dense=(3,)), r"graph_au.dense=\[3\]"),  # type: ignore[arg-type]
        (lambda: graph_au.build(graph_au.GraphAuConfig(patch=40), 3, Shape(frame_size=32)), "graph_au.patch=40"),
        (lambda: lgccon.LgcconConfig(depths=(1,)), r"lgccon.depths=\[1\]"),
        (lambda: lgccon.LgcconConfig(dense=(1,)), r"lgccon.dense=\[1\]"),  # type: ignore[arg-type]
        (lambda: lgccon.build(lgccon.LgcconConfig(), 3, Shape(frame_size=16)), "lgccon.widths.*frame_size=16"),
    ],
)
def test_bad_settings(make: object, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        make()  # type: ignore[operator]
