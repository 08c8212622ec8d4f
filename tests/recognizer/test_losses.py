from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mesynth.core.errors import ConfigError
from recognizer import training
from recognizer.data import FlowSet
from recognizer.models.capsule_graph import CapsuleGraphConfig, build
from recognizer.models.common import Dropout, Outputs, Shape
from recognizer.training import LossConfig, TrainConfig, train
from tests.recognizer.test_networks import task_of

Y = torch.tensor([0, 0, 1, 1, 2, 2])
AU = torch.full((6, 64), -1)
MODEL = build(CapsuleGraphConfig(), 3, Shape())
SCORES = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))


def of(config: LossConfig, weights: torch.Tensor | None = None) -> torch.Tensor:
    ones = torch.ones(3)
    return training.classification(MODEL, Outputs(SCORES, None), Y, AU, ones if weights is None else weights, config)


def test_cross_entropy_and_focal_against_torch() -> None:
    logits, weights = SCORES * MODEL.probability_gain, torch.tensor([0.5, 1.0, 1.5])
    plain = of(LossConfig(kind="cross_entropy"), weights)
    torch.testing.assert_close(plain, F.cross_entropy(logits, Y, weight=weights))
    torch.testing.assert_close(of(LossConfig(kind="focal", gamma=0.0)), F.cross_entropy(logits, Y))
    p = logits.softmax(-1)[torch.arange(6), Y]
    torch.testing.assert_close(of(LossConfig(kind="focal")), (-((1 - p) ** 2) * p.log()).mean(), atol=1e-5, rtol=1e-4)


def test_class_weights_even_out_the_classes() -> None:
    labels = np.array([[0] * 8 + [1] * 2 + [-1] * 3])
    weights = (labels >= 0).astype(float)
    inverse = training.class_weights(labels, weights, 3, "inverse")[0]
    assert inverse[2] == 0  # a class without clips weighs nothing
    assert inverse[1] / inverse[0] == pytest.approx(4)
    assert inverse.sum() == pytest.approx(2)
    effective = training.class_weights(labels, weights, 3, "effective")[0]
    number = (1 - training.BETA**8) / (1 - training.BETA**2)
    assert effective[1] / effective[0] == pytest.approx(number, rel=1e-5)


def test_distances_are_least_where_classes_stand_apart() -> None:
    apart = F.one_hot(Y, 3).float() * 3
    mixed = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    for name in ("center", "triplet", "contrastive"):
        config = LossConfig(**{name: 1.0})
        assert training.on_features(apart, Y, config) < training.on_features(mixed, Y, config), name
    assert training.on_features(apart, Y, LossConfig(center=1.0)) == 0
    lonely = training.on_features(mixed[:1], Y[:1], LossConfig(triplet=1.0, contrastive=1.0))
    assert lonely == 0  # no partner, no loss, no NaN


def test_the_domain_judge_learns_and_the_features_hide() -> None:
    features = torch.randn(8, 4, requires_grad=True)
    judge = torch.randn(5, requires_grad=True)
    added = torch.arange(8) % 2 == 0
    training.domain(features, added, judge, 0.5).backward()
    plain_features, plain_judge = (x.detach().clone().requires_grad_() for x in (features, judge))
    logits = plain_features @ plain_judge[:-1] + plain_judge[-1]
    F.binary_cross_entropy_with_logits(logits, added.float()).backward()
    torch.testing.assert_close(judge.grad, plain_judge.grad)
    torch.testing.assert_close(features.grad, -0.5 * plain_features.grad)


@pytest.mark.parametrize(
    "loss",
    [
        LossConfig(kind="focal", class_weights="effective", center=0.1, triplet=0.5, contrastive=0.5),
        LossConfig(kind="cross_entropy", class_weights="inverse", domain=0.3),
        LossConfig(kind="margin"),
    ],
)
def test_every_loss_stacks(loss: LossConfig, sets: dict[str, FlowSet]) -> None:
    task = task_of("region_attention", sets["real"], members=3)
    config = TrainConfig(batch=8, loss=loss)
    alone, together = (train(task, replace(config, stack=n)) for n in (1, 3))
    for name in alone:
        torch.testing.assert_close(together[name], alone[name], atol=5e-4, rtol=1e-3)
    plain = train(task, TrainConfig(batch=8, stack=3))
    assert any((plain[name] != together[name]).any() for name in plain if name != "scale")


def test_dropout_is_a_function_of_its_key_alone() -> None:
    drop, x = Dropout(0.4), torch.ones(200, 50)
    assert torch.equal(drop(x), x)  # as saved, and at test
    drop.key = torch.tensor(17)
    first = drop(x)
    assert torch.equal(first, drop(x))
    assert (first == 0).float().mean() == pytest.approx(0.4, abs=0.02)
    assert first.mean() == pytest.approx(1, abs=0.03)
    columns = (first == 0).float().mean(0)
    assert columns.std() < 3 * (0.4 * 0.6 / 200) ** 0.5  # no place is favoured
    drop.key = torch.tensor(18)
    other = drop(x)
    assert ((first == 0) & (other == 0)).float().mean() == pytest.approx(0.16, abs=0.02)  # keys are independent


@pytest.mark.parametrize(
    ("values", "match"),
    [({"kind": "hinge"}, "hinge"), ({"class_weights": "log"}, "log"), ({"center": -1.0}, "center=-1")],
)
def test_mistakes_are_named(values: dict[str, object], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        LossConfig(**values)  # type: ignore[arg-type]
