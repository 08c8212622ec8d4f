from dataclasses import replace

import numpy as np
import pytest
import torch

from mesynth.core.errors import ConfigError
from mesynth.store.manifest import Manifest
from recognizer.config import RunConfig, load_config
from recognizer.data import FlowSet, mirror
from recognizer.fitting import fit
from recognizer.mixing import Member, MixConfig
from recognizer.models import build
from recognizer.models.capsule_graph import CapsuleGraphConfig
from recognizer.models.common import Shape, au_loss, route, squash
from recognizer.models.faces import MOMENTS, N_REGIONS, REGION_NAMES, facs_adjacency, masks
from recognizer.models.region_attention import RegionAttentionConfig
from recognizer.models.ststnet import StstnetConfig
from recognizer.protocol import make_folds, mix
from recognizer.training import Stage, Task, TrainConfig, draw_batches, train

CONFIGS = {
    "capsule_graph": CapsuleGraphConfig(), "region_attention": RegionAttentionConfig(), "ststnet": StstnetConfig(),
}  # fmt: skip


def task_of(network: str, pool: FlowSet, members: int = 5, steps: int = 12) -> Task:
    """Members with different clips, seeds and folds, in two stages, with clips that are mapped."""
    rng = np.random.default_rng(0)
    weights = rng.integers(0, 3, (members, len(pool))).astype(float)
    labels = np.where(weights > 0, pool.y, -1)
    affine = np.tile(np.array([1.1, 0.02])[:, None], (members, 1, 3))
    return Task(
        network=network, config=CONFIGS[network], n_classes=3, shape=Shape(), inputs=pool.inputs(), au=pool.au,
        labels=labels, affine=affine,
        added=np.arange(len(pool)) % 2 == 1, scale=rng.uniform(0.2, 0.4, (members, 3)),
        names=[f"f{m % 3}" for m in range(members)], seeds=[m // 3 for m in range(members)],
        stages=[
            Stage(name="pretrain", weights=weights, steps=steps // 2),
            Stage(name="finetune", weights=weights, steps=steps - steps // 2, lr_factor=0.5, pull=2.0),
        ],
    )  # fmt: skip


@pytest.mark.parametrize("network", CONFIGS)
def test_stacked_equals_sequential(network: str, sets: dict[str, FlowSet]) -> None:
    task = task_of(network, sets["real"])
    config = TrainConfig(batch=8)
    alone = train(task, replace(config, stack=1))
    for stack in (2, 5):
        together = train(task, replace(config, stack=stack))
        assert together.keys() == alone.keys()
        for name in alone:
            # Adam's first steps divide a gradient by its own size, which enlarges float32 rounding.
            torch.testing.assert_close(together[name], alone[name], atol=5e-4, rtol=1e-3)
    assert all((alone[n][0] != alone[n][1]).any() for n in alone), "members with different folds must differ"


def test_a_member_does_not_depend_on_its_neighbours(sets: dict[str, FlowSet]) -> None:
    task = task_of("capsule_graph", sets["real"])
    one = replace(
        task, labels=task.labels[3:4], affine=task.affine[3:4], scale=task.scale[3:4], names=task.names[3:4],
        seeds=task.seeds[3:4], stages=[replace(s, weights=s.weights[3:4]) for s in task.stages],
    )  # fmt: skip
    all_of_them, alone = train(task, TrainConfig(batch=8)), train(one, TrainConfig(batch=8))
    for name in alone:
        torch.testing.assert_close(all_of_them[name][3:4], alone[name], atol=5e-4, rtol=1e-3)


def test_batches_are_a_function_of_seed_and_fold_and_never_hold_a_zero_weight() -> None:
    weights, labels = np.array([0.0, 1, 1, 2, 0, 1]), np.array([-1, 0, 0, 0, -1, 1])
    config = TrainConfig(batch=400, balance=False)
    a = draw_batches(weights, labels, 5, name="f", seed=1, config=config)
    b = draw_batches(weights, labels, 5, name="f", seed=1, config=config)
    c = draw_batches(weights, labels, 5, name="g", seed=1, config=config)
    np.testing.assert_array_equal(a.index, b.index)
    assert (a.index != c.index).any()
    shares = np.bincount(a.index.ravel(), minlength=6) / a.index.size
    np.testing.assert_allclose(shares, weights / 5, atol=0.04)
    even = draw_batches(weights, labels, 5, name="f", seed=1, config=replace(config, balance=True))
    assert (labels[even.index] == 1).mean() == pytest.approx(0.5, abs=0.05)


def test_members_never_see_labels_of_clips_they_may_not_learn_from() -> None:
    member = Member.of("f", 0, np.array([0.0, 1.0, 2.0]), np.array([2, 1, 0]))
    assert member.labels.tolist() == [-1, 1, 0]


@pytest.mark.parametrize(
    ("network", "most"), [("capsule_graph", 30_000), ("region_attention", 8_000), ("ststnet", 2_000)]
)
@pytest.mark.parametrize("size", [28, 32])
def test_sizes_and_shapes(network: str, most: int, size: int) -> None:
    model = build(network, CONFIGS[network], 5, Shape(size=size))
    out = model(torch.randn(2, 3, size, size))
    assert out.scores.shape == (2, 5)
    assert (out.au is not None) == (network == "capsule_graph")
    if size == 28:
        assert sum(p.numel() for p in model.parameters()) < most * 1.3
    assert not [m for m in model.modules() if isinstance(m, (torch.nn.BatchNorm2d, torch.nn.Dropout))]


def test_capsules_keep_direction_and_stay_below_one() -> None:
    s = torch.randn(10, 4, 8) * 5
    v = squash(s)
    assert (v.norm(dim=-1) < 1).all()
    torch.testing.assert_close(torch.cosine_similarity(s, v, dim=-1), torch.ones(10, 4))
    torch.testing.assert_close(v.norm(dim=-1), (s**2).sum(-1) / (1 + (s**2).sum(-1)))


def test_routing_listens_to_votes_that_agree() -> None:
    votes = torch.randn(1, 6, 2, 4) * 0.1
    votes[0, :, 0] = torch.tensor([1.0, 0, 0, 0])  # all parts agree about class 0
    once, thrice = (route(votes, n).norm(dim=-1)[0] for n in (1, 3))
    assert once[0] > once[1]
    assert thrice[0] > once[0]


def test_unknown_aus_do_not_count() -> None:
    logits = torch.tensor([[3.0, -2.0, 5.0]])
    known = torch.nn.functional.binary_cross_entropy_with_logits(logits[:, :1], torch.ones(1, 1))
    torch.testing.assert_close(au_loss(logits, torch.tensor([[1, -1, -1]])), known)
    assert au_loss(logits, torch.full((1, 3), -1)) == 0


def test_regions_lie_where_they_should() -> None:
    pooled = masks(28).reshape(N_REGIONS, MOMENTS, 28, 28)
    np.testing.assert_allclose(pooled[:, 0].sum((1, 2)), 1, rtol=1e-5)
    left, right = (pooled[REGION_NAMES.index(f"brow_{s}"), 0] for s in "LR")
    np.testing.assert_allclose(left, right[:, ::-1], atol=1e-6)
    assert left[:, 14:].sum() > 0.9  # the subject's left is at the image's right
    graph = facs_adjacency()
    np.testing.assert_allclose(graph, graph.T)
    np.testing.assert_allclose(np.diag(graph), 1, rtol=1e-6)
    index = REGION_NAMES.index
    assert graph[index("mouth_L"), index("cheek_L")] > graph[index("brow_L"), index("cheek_L")]


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: CapsuleGraphConfig(routings=0), "capsule_graph.routings"),
        (lambda: TrainConfig(steps=0), "train.steps"),
        (lambda: TrainConfig(lr=0), "train.lr"),
        (lambda: MixConfig(mode="blend"), "mix.mode"),
        (lambda: MixConfig(prior_weight=-1), "mix.prior_weight"),
        (lambda: StstnetConfig(filters=()), "ststnet.filters"),
    ],
)
def test_bad_settings(make: object, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        make()  # type: ignore[operator]


def test_progress_reaches_its_total(sets: dict[str, FlowSet], corpora: dict[str, Manifest]) -> None:
    seen: list[tuple[int, int]] = []
    train(task_of("ststnet", sets["real"], members=3, steps=4), TrainConfig(batch=4), lambda *n: seen.append(n))
    assert seen[-1] == (12, 12)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("network", CONFIGS)
def test_a_gpu_gives_what_the_cpu_gives(network: str, sets: dict[str, FlowSet]) -> None:
    task = task_of(network, sets["real"])
    cpu, gpu = (train(task, TrainConfig(batch=8, device=device)) for device in ("cpu", "cuda"))
    for name in cpu:
        torch.testing.assert_close(gpu[name], cpu[name], atol=2e-3, rtol=1e-2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_a_gpu_that_is_not_here_is_named(sets: dict[str, FlowSet]) -> None:
    with pytest.raises(ConfigError, match=r"train\.device=cuda is not here"):
        train(task_of("ststnet", sets["real"]), TrainConfig(batch=8, device="cuda"))


def test_a_mirrored_clip_is_the_same_clip_to_the_capsule_graph(sets: dict[str, FlowSet]) -> None:
    config = load_config(RunConfig, None, ["model=capsule_graph", "train.steps=3", "train.batch=8"], synthetic=False)
    fold = make_folds(sets["real"])[:1]
    mixture = mix(sets["real"], None, fold, ratio=0)
    trained = fit(mixture.pool, mixture.added, [Member.of("f", 0, mixture.weights[0], mixture.pool.y)], config)
    clips = sets["real"].x[:5]
    flipped, _ = mirror(clips, sets["real"].au[:5])
    np.testing.assert_allclose(trained.probabilities(0, clips), trained.probabilities(0, flipped), atol=1e-6)
