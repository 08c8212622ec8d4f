import numpy as np
import pytest
import torch
from torch import nn

from mesynth.core.facs import AU_INDEX
from mesynth.core.types import N_AUS
from mesynth.preprocess.align import mean_face
from recognizer.models import faces
from recognizer.models.atnet import cell_motion
from recognizer.models.au_gacn import AttentionPool
from recognizer.models.blocks import (
    ChannelAttention,
    ConvLstm,
    GraphAttention,
    Inception,
    NonLocal,
    ResNet18,
    SelfAttention,
    SpatialAttention,
    SqueezeExcite,
    TransformerLayer,
    cosines,
    propagation,
    reversed_gradient,
    with_margin,
)
from recognizer.models.common import Lstm, apex_maps, cooccurrence, margin_loss
from recognizer.models.elrcn import enriched
from recognizer.models.graph_tcn import POINTS, graph_edges
from recognizer.models.htnet import mosaic
from recognizer.models.ice_discriminator import largest_singular_value
from recognizer.models.mer_gcn import connected


def test_lstm_is_the_lstm() -> None:
    theirs, ours = nn.LSTM(5, 4, batch_first=True), Lstm(5, 4)
    order = torch.tensor([1, 0, 3, 2])  # theirs: write, keep, content, show
    keep = torch.tensor([1.0, 0, 0, 0])  # ours adds 1 to the forget gate
    with torch.no_grad():
        bias = (theirs.bias_ih_l0 + theirs.bias_hh_l0).unflatten(0, (4, 4))[order] - keep[:, None]
        ours.seen.weight.copy_(theirs.weight_ih_l0.unflatten(0, (4, 4))[order].flatten(0, 1))
        ours.held.weight.copy_(theirs.weight_hh_l0.unflatten(0, (4, 4))[order].flatten(0, 1))
        ours.seen.bias.copy_(bias.flatten())
    x = torch.randn(3, 7, 5)
    torch.testing.assert_close(ours(x), theirs(x)[0])


def test_margin_loss_by_hand() -> None:
    length, y = torch.tensor([[0.5, 0.3], [0.95, 0.05]]), torch.tensor([0, 1])
    squares = (0.4**2 + 0.5 * 0.2**2 + 0.5 * 0.85**2 + 0.85**2) / 2
    assert float(margin_loss(length, y)) == pytest.approx(squares)
    plain = (0.4 + 0.5 * 0.2 + 0.5 * 0.85 + 0.85) / 2
    assert float(margin_loss(length, y, power=1)) == pytest.approx(plain)
    assert float(margin_loss(torch.tensor([[0.995, 0.005]]), torch.tensor([0]), high=0.99, low=0.01)) == 0


def test_spectral_norm_of_a_known_matrix() -> None:
    q1, _ = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64))
    q2, _ = torch.linalg.qr(torch.randn(30, 30, dtype=torch.float64))
    matrix = q1 @ torch.diag(torch.tensor([5.0] + [1.0] * 11, dtype=torch.float64)) @ q2[:12]
    assert float(largest_singular_value(matrix)) == pytest.approx(5, rel=1e-3)
    random = torch.randn(64, 300)
    assert float(largest_singular_value(random)) <= float(torch.linalg.matrix_norm(random, 2)) * (1 + 1e-5)


def test_cell_motion_finds_a_known_translation() -> None:
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    step = 0.2
    across = torch.stack([0.5 + 0.3 * torch.sin((x - step * t) / 4) for t in range(3)])
    down = torch.stack([0.5 + 0.3 * torch.sin((y + step * t) / 4) for t in range(3)])
    u, v = cell_motion(torch.stack([across, down]), 4).unflatten(2, (2, 16)).unbind(2)
    torch.testing.assert_close(u[0], torch.full((2, 16), step), atol=0.02, rtol=0)
    torch.testing.assert_close(v[1], torch.full((2, 16), -step), atol=0.02, rtol=0)
    # Nothing is seen along stripes.
    assert v[0].abs().max() < 1e-3
    assert u[1].abs().max() < 1e-3
    assert not cell_motion(torch.full((1, 3, 64, 64), 0.4), 4).any()


def test_cooccurrence_from_the_published_tables() -> None:
    likely = cooccurrence()
    one, two, four, seven = (AU_INDEX[code] for code in (1, 2, 4, 7))
    assert likely[two, one] == pytest.approx(18 / 25)  # AU 2 shows in surprise alone
    assert likely[one, two] == pytest.approx(0.72 * 0.8 / (0.72 + 1 + 0.2))  # AU 1: surprise, sadness, fear
    disgust, anger, fear = (59 / 63, 30 / 63), (21 / 57, 42 / 57), (0.2, 0.2)
    both = sum(a * b for a, b in (disgust, anger, fear))
    assert likely[seven, four] == pytest.approx(both / sum(b for _, b in (disgust, anger, fear)), rel=1e-5)
    np.testing.assert_array_equal(np.diag(likely), 1)
    never = AU_INDEX[28]
    assert likely[never].sum() == likely[:, never].sum() == 1


def test_propagation_is_symmetric_and_bounded() -> None:
    matrix = propagation(connected(0.1), loops=False)
    torch.testing.assert_close(matrix, matrix.T)
    assert torch.linalg.eigvalsh(matrix).abs().max() <= 1 + 1e-5
    assert torch.equal(propagation(connected(2.0), loops=False), torch.zeros(N_AUS, N_AUS))
    path = torch.tensor([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]])
    middle = 1 / np.sqrt(2 * 3)  # of degrees 2 and 3, loops counted
    expected = torch.tensor([[1 / 2, middle, 0], [middle, 1 / 3, middle], [0, middle, 1 / 2]], dtype=torch.float32)
    torch.testing.assert_close(propagation(path), expected)


def test_attention_hears_neighbours_only() -> None:
    layer = GraphAttention(8, 2)
    nodes, edges = torch.randn(1, 3, 8), torch.eye(3, dtype=torch.bool)[None]
    other = nodes.clone()
    other[:, 2] += 1
    apart = layer(nodes, edges), layer(other, edges)
    torch.testing.assert_close(apart[0][:, :2], apart[1][:, :2])
    edges = edges.clone()
    edges[:, 0, 2] = True
    joined = layer(nodes, edges), layer(other, edges)
    assert (joined[0][:, 0] - joined[1][:, 0]).abs().max() > 1e-4


def test_pooling_keeps_the_nodes_of_the_highest_score() -> None:
    pool = AttentionPool(2, 2)
    with torch.no_grad():
        pool.score.weight.copy_(torch.tensor([[1.0, 0.0]]))
        pool.score.bias.zero_()
    nodes = torch.tensor([[[0.5, 1.0], [2.0, 2.0], [-1.0, 3.0], [1.0, 4.0]]])
    edges = torch.eye(4, dtype=torch.bool)[None].clone()
    edges[0, 1, 3] = True  # node 1 is scored with node 3: 1.5 instead of 2
    kept, left = pool(nodes, edges)
    expected = torch.tensor([[[2.0, 2.0], [1.0, 4.0]]]) * torch.tanh(torch.tensor([1.5, 1.0]))[None, :, None]
    torch.testing.assert_close(kept, expected)
    assert left.tolist() == [[[True, True], [False, True]]]


def test_landmarks_are_those_of_the_mean_face() -> None:
    face = mean_face()
    np.testing.assert_allclose(faces.BROWS, face[17:27], atol=6e-4)
    mouth = np.concatenate([face[48:60], face[61:64], face[65:68]])
    np.testing.assert_allclose(faces.MOUTH, mouth, atol=6e-4)
    np.testing.assert_allclose(faces.EYES, [face[36:42].mean(0), face[42:48].mean(0)], atol=0.002)
    np.testing.assert_allclose(faces.MOUTH_CORNERS, face[[48, 54]], atol=6e-4)
    np.testing.assert_allclose(faces.MOUTH_INNER_CORNERS, face[[60, 64]], atol=6e-4)
    box = (face[1, 0], face[19, 1], face[15, 0], face[1, 1])
    np.testing.assert_allclose(faces.EYE_BOX, box, atol=4e-3)
    np.testing.assert_allclose(faces.MOUTH_BOX, (*face[2], face[14, 0], face[6, 1]), atol=6e-4)


def test_patches_lie_about_their_points() -> None:
    places = faces.patch_index(((0.5, 0.25), (0.0, 1.0)), 40, 5)
    rows, columns = places // 40, places % 40
    assert rows[0].min() == 8
    assert rows[0].max() == 12
    assert abs(columns[0].mean() - 19.5) <= 0.5
    assert rows[1].max() == 39  # moved inside
    assert columns[1].min() == 0


def test_edges_are_the_same_in_the_mirror() -> None:
    points, edges = np.array(POINTS), graph_edges()
    mirror = {
        i: min(
            (j for j in range(28) if (i < 10) == (j < 10) and (i < 22) == (j < 22)),
            key=lambda j, i=i: float(np.hypot(*(points[j] - (1 - points[i, 0], points[i, 1])))),
        )
        for i in range(28)
    }
    both = {frozenset(map(int, pair)) for pair in edges}
    assert {frozenset((mirror[a], mirror[b])) for a, b in map(tuple, both)} == both
    assert len(both) == len(edges)
    assert set(edges.flatten()) == set(range(28))


def test_mosaic_shows_eyes_above_and_lip_corners_below() -> None:
    y, x = torch.meshgrid(torch.arange(28.0), torch.arange(28.0), indexing="ij")
    tiles = mosaic(torch.stack([x, y, torch.ones(28, 28)])[None], "face")[0]
    quarters = tiles.unfold(1, 14, 14).unfold(2, 14, 14).mean((3, 4))[:2]  # [x or y, row, column]
    # Pixel centres lie half a pixel inside; the mouth's crops stop at the lower edge.
    np.testing.assert_allclose(quarters[0], [[7.5, 20.5], [9.5, 17.5]], atol=1.01)
    np.testing.assert_allclose(quarters[1], [[9.5, 9.5], [20.5, 20.5]], atol=1.01)
    assert quarters[1, 0, 0] == quarters[1, 0, 1]
    assert (quarters[0].sum(1) - 27).abs().max() <= 1  # mirror images of each other


@pytest.mark.parametrize("side", [28, 56])
def test_published_mosaic_is_where_the_authors_code_crops(side: int) -> None:
    """Their lines: rows from the x of the landmark, columns from its y, fourteen pixels each."""
    image = torch.randn(1, 3, 28, 28)
    landmarks = [(9.528073, 11.062551), (21.396168, 10.919773), (10.255435, 22.121233), (20.583706, 22.25584)]
    points = [[int(min(max(value, 7), 21)) for value in point] for point in landmarks]
    tiles = [image[:, :, a - 7 : a + 7, b - 7 : b + 7] for a, b in points]
    expected = torch.cat([torch.cat(tiles[:2], 3), torch.cat(tiles[2:], 3)], 2)
    grown = image.repeat_interleave(side // 28, 2).repeat_interleave(side // 28, 3)
    assert torch.equal(mosaic(grown)[:, :, :: side // 28, :: side // 28], expected)


def test_views_are_turned_into_what_the_papers_feed() -> None:
    onset, apex = torch.full((1, 1, 4, 4), 0.25), torch.full((1, 1, 4, 4), 0.75)
    pair = torch.cat([onset, apex], 1)
    assert torch.equal(apex_maps(pair, "apex"), torch.full((1, 1, 4, 4), 0.5))
    assert torch.equal(apex_maps(pair, "change"), torch.full((1, 1, 4, 4), 0.5))
    assert apex_maps(pair, "both").shape == (1, 2, 4, 4)
    frames = torch.tensor([0.5, 0.6, 0.4])[None, :, None, None].expand(1, 3, 2, 2)
    shown = enriched(frames)[0, :, :, 0, 0]
    torch.testing.assert_close(shown, torch.tensor([[0.0, 0.0, 0.0], [0.2, 0.1, 0.1], [-0.2, -0.2, -0.1]]))


# ---------------------------------------------------------------- blocks, against what torch itself has


def test_attention_is_torch_s() -> None:
    torch.manual_seed(0)
    theirs, ours = nn.MultiheadAttention(8, 2, batch_first=True), SelfAttention(8, 2)
    with torch.no_grad():
        for i, layer in enumerate((ours.query, ours.key, ours.value)):
            layer.weight.copy_(theirs.in_proj_weight[8 * i : 8 * i + 8])
            layer.bias.copy_(theirs.in_proj_bias[8 * i : 8 * i + 8].normal_())
        ours.out.load_state_dict(theirs.out_proj.state_dict())
    x, y = torch.randn(2, 5, 8), torch.randn(2, 3, 8)
    torch.testing.assert_close(ours(x), theirs(x, x, x)[0])
    torch.testing.assert_close(ours(x, y), theirs(x, y, y)[0])
    seen = torch.eye(5, dtype=torch.bool) | (torch.rand(5, 5) < 0.5)
    torch.testing.assert_close(ours(x, seen=seen), theirs(x, x, x, attn_mask=~seen)[0])


@pytest.mark.parametrize("before", [True, False])
def test_transformer_layer_is_torch_s(before: bool) -> None:
    torch.manual_seed(0)
    act = "gelu" if before else "relu"
    theirs = nn.TransformerEncoderLayer(8, 2, 16, 0.0, act, batch_first=True, norm_first=before)
    ours = TransformerLayer(8, 2, 16, before=before)
    with torch.no_grad():
        for i, layer in enumerate((ours.attention.query, ours.attention.key, ours.attention.value)):
            layer.weight.copy_(theirs.self_attn.in_proj_weight[8 * i : 8 * i + 8])
            layer.bias.copy_(theirs.self_attn.in_proj_bias[8 * i : 8 * i + 8].normal_())
        ours.attention.out.load_state_dict(theirs.self_attn.out_proj.state_dict())
        ours.mlp[0].load_state_dict(theirs.linear1.state_dict())
        ours.mlp[3].load_state_dict(theirs.linear2.state_dict())
    x = torch.randn(2, 5, 8)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)


def test_conv_lstm_on_one_pixel_is_the_lstm() -> None:
    plain, ours = Lstm(5, 4), ConvLstm(5, 4, 3)
    with torch.no_grad():
        for one, two in ((plain.seen, ours.seen), (plain.held, ours.held)):
            two.weight.zero_()
            two.weight[:, :, 1, 1] = one.weight
        ours.seen.bias.copy_(plain.seen.bias)
    x = torch.randn(3, 7, 5)
    torch.testing.assert_close(ours(x[..., None, None])[..., 0, 0], plain(x))
    wide = ours(x[..., None, None].expand(-1, -1, -1, 4, 6))
    torch.testing.assert_close(wide[..., 2, 3], plain(x))  # only the middle of the kernel is at work


def test_gates_by_hand() -> None:
    x = torch.rand(2, 4, 3, 5)
    squeeze = SqueezeExcite(4, 2)
    hidden = torch.relu(x.mean((2, 3)) @ squeeze.gate[0].weight.T + squeeze.gate[0].bias)
    gate = torch.sigmoid(hidden @ squeeze.gate[2].weight.T + squeeze.gate[2].bias)
    torch.testing.assert_close(squeeze(x), x * gate[:, :, None, None])
    channel = ChannelAttention(4, 2)
    both = channel.gate(x.mean((2, 3))) + channel.gate(x.amax((2, 3)))
    torch.testing.assert_close(channel(x)[..., 0, 0], torch.sigmoid(both))
    spatial = SpatialAttention(3)
    with torch.no_grad():
        spatial.conv.weight.zero_()
        spatial.conv.weight[0, :, 1, 1] = torch.tensor([2.0, -1.0])
    torch.testing.assert_close(spatial(x)[:, 0], torch.sigmoid(2 * x.mean(1) - x.amax(1)))


def test_non_local_begins_as_the_identity_and_hears_all_places() -> None:
    torch.manual_seed(0)
    block, x = NonLocal(4, 2), torch.randn(2, 4, 3, 5)
    assert torch.equal(block(x), x)
    with torch.no_grad():
        block.out.weight.normal_()
    other = x.clone()
    other[:, :, 0, 0] += 1
    moved = (block(other) - block(x))[:, :, 2, 4]
    assert moved.abs().max() > 1e-4
    assert block(torch.randn(1, 4, 2, 3, 3)).shape == (1, 4, 2, 3, 3)


def test_inception_puts_its_branches_side_by_side() -> None:
    block = Inception(3, one=2, reduce_three=4, three=5, reduce_five=2, five=3, pooled=1)
    assert block.width == 11
    # 1x1 to 2; 1x1 to 4, 3x3 to 5; 1x1 to 2, 5x5 to 3; 1x1 to 1; biases.
    expected = (3 * 2 + 2) + (3 * 4 + 4 + 4 * 9 * 5 + 5) + (3 * 2 + 2 + 2 * 25 * 3 + 3) + (3 + 1)
    assert sum(p.numel() for p in block.parameters()) == expected
    x = torch.randn(1, 3, 6, 6)
    torch.testing.assert_close(block(x)[:, :2], torch.relu(nn.functional.conv2d(x, *block.branches[0][0].parameters())))


def test_resnet18_has_its_published_parameters() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in ResNet18(3).parameters()) == 11_689_512 - 513_000
    small = ResNet18(1, (4, 8), blocks=1)
    assert small(torch.randn(2, 1, 32, 32)).shape == (2, 8)


def test_margins() -> None:
    near, y = torch.tensor([[0.5, 0.1, -0.3], [-0.95, 0.2, 0.0]], requires_grad=True), torch.tensor([0, 0])
    arc = with_margin(near, y, "arcface", 0.5)
    assert arc[0, 0].item() == pytest.approx(np.cos(np.arccos(0.5) + 0.5), abs=1e-5)
    assert arc[1, 0].item() == pytest.approx(-0.95 - 0.5 * np.sin(0.5), abs=1e-5)  # beyond pi - .5
    assert torch.equal(arc[:, 1:], near[:, 1:])
    cos = with_margin(near, y, "cosface", 0.35)
    torch.testing.assert_close(near - cos, torch.tensor([[0.35, 0, 0], [0.35, 0, 0]]))
    for kind in ("arcface", "cosface"):
        torch.testing.assert_close(with_margin(near, y, kind, 0.0), near, atol=1e-6, rtol=0)
        edge = torch.tensor([[1.0, -1.0]], requires_grad=True)
        with_margin(edge, torch.tensor([0]), kind, 0.5).sum().backward()
        assert edge.grad is not None
        assert edge.grad.isfinite().all()
    x, directions = torch.randn(5, 4), torch.randn(3, 4)
    torch.testing.assert_close(cosines(x, directions), torch.cosine_similarity(x[:, None], directions[None], dim=-1))


def test_a_reversed_gradient_changes_nothing_ahead() -> None:
    x = torch.randn(4, requires_grad=True)
    y = reversed_gradient(x, 0.3)
    assert torch.equal(y, x)
    (y * torch.arange(4.0)).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, -0.3 * torch.arange(4.0))
