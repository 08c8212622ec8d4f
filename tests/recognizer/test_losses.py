from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mesynth.core.errors import ConfigError
from mesynth.core.types import N_AUS
from mesynth.store.manifest import Manifest
from recognizer import training
from recognizer.config import RunConfig, load_config
from recognizer.data import FlowSet, load
from recognizer.models.capsule_graph import CapsuleGraphConfig, build
from recognizer.models.common import Dropout, Outputs, Shape
from recognizer.sources import meta_notes
from recognizer.training import LossConfig, TrainConfig, train
from tests.recognizer.test_networks import task_of
from tests.recognizer.zoo import small

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
        LossConfig(arcface=0.3, cosface=0.3, angular_scale=8.0),
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


# ---------------------------------------------------------------- what a network is told beside the class


def test_angular_terms_by_hand() -> None:
    features, directions = torch.randn(6, 4), torch.randn(3, 4)
    near = torch.cosine_similarity(features[:, None], directions[None], dim=-1)
    own = F.one_hot(Y, 3).bool()
    expected = F.cross_entropy(16 * torch.where(own, near - 0.35, near), Y)
    torch.testing.assert_close(training.angular(features, Y, directions, LossConfig(cosface=1.0)), expected)
    beyond = near.acos() + 0.5 > torch.pi  # where a straight line goes on
    harder = torch.where(beyond, near - 0.5 * np.sin(0.5), (near.acos() + 0.5).cos())
    harder = torch.where(own, harder, near)
    found = training.angular(features, Y, directions, LossConfig(arcface=2.0, angular_scale=4.0))
    torch.testing.assert_close(found, 2 * F.cross_entropy(4 * harder, Y), atol=1e-5, rtol=1e-5)


def told(macro: list[int], members: int = 2, steps: int = 6) -> training.Task:
    """NMER on 12 random flow images, told which are macro-expressions."""
    rng, n = np.random.default_rng(0), 12
    weights = np.ones((members, n))
    return training.Task(
        network="nmer", config=small("nmer").config, n_classes=3, shape=Shape(), added=np.zeros(n, np.bool_),
        inputs={"flow": rng.normal(size=(n, 3, 28, 28)).astype(np.float32)}, au=np.full((n, N_AUS * 2), -1, np.int8),
        labels=np.tile(np.arange(n) % 3, (members, 1)), affine=np.tile(np.array([1.0, 0.0])[:, None], (members, 1, 3)),
        scale=np.ones((members, 3)), names=[f"f{m}" for m in range(members)], seeds=[0] * members,
        stages=[training.Stage(name="all", weights=weights, steps=steps)], meta={"macro": np.array(macro)},
    )  # fmt: skip


def test_what_is_told_reaches_the_loss_of_every_member_of_a_stack() -> None:
    config, half = TrainConfig(batch=6, shift=0, flip=False), [0, 1] * 6
    alone, together = (train(told(half), replace(config, stack=stack)) for stack in (1, 2))
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value, atol=2e-4, rtol=1e-3)
    judge = "judge.0.weight"
    unknown, all_micro = train(told([-1] * 12), config), train(told([0] * 12), config)
    torch.testing.assert_close(unknown[judge], all_micro[judge])  # nothing to tell apart: weight decay alone
    assert (alone[judge] != unknown[judge]).any()


GENDERS = "subject,gender\nDB/00,female\nDB/01, M \nDB/02,\n"


def test_genders_by_subject(tmp_path: Path, sets: dict[str, FlowSet]) -> None:
    file = tmp_path / "genders.csv"
    file.write_text("\ufeff" + GENDERS, encoding="utf-8")
    known = training.read_genders(str(file), {"DB/01", "DB/07"})
    assert known == {"DB/00": 0, "DB/01": 1, "DB/02": -1}
    assert training.read_genders("") == {}
    clips = sets["real"].take(np.isin(sets["real"].subjects, ["DB/00", "DB/01", "DB/02", "DB/03"]))
    meta = clips.meta(("gender", "subject", "macro", "database"), known)
    for subject, gender in (("DB/00", 0), ("DB/01", 1), ("DB/02", -1), ("DB/03", -1)):
        assert set(meta["gender"][clips.subjects == subject]) == {gender}
    assert len(set(meta["subject"])) == 4
    assert set(meta["macro"]) == set(meta["database"]) == {0}
    both = FlowSet.concat([clips, FlowSet.of(np.zeros((1, 3, 28, 28)), [0], ["x"])])
    assert both.meta(("macro",))["macro"].tolist() == [0] * len(clips) + [-1]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("who,gender\nDB/00,female\n", r"has the columns who, gender; it needs subject and gender"),
        ("", r"has the columns \(none\)"),
        ("subject,gender\nDB/00,woman\n", r"line 2: gender 'woman' is neither female nor male"),
        (GENDERS + "DB/00,male\n", r"line 5: subject DB/00 has another gender above"),
        ("subject,gender\n00,female\n", r"names none of the subjects: it begins with 00, the clips with DB/01"),
        ("subject,gender\n", r"names none of the subjects: it begins with nobody"),
        (b"subject,gender\n\xff\xfe,f\n", r"cannot be read"),
        (None, r"cannot be read \(.*No such file"),
    ],
)
def test_genders_that_cannot_be_right(tmp_path: Path, text: str | bytes | None, match: str) -> None:
    file = tmp_path / "genders.csv"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=match) as found:
        training.read_genders(str(file), {"DB/01"})
    assert "\n" not in str(found.value)


def test_what_a_network_is_told_nothing_of_is_one_line(corpora: dict[str, Manifest], tmp_path: Path) -> None:
    geme, nmer, plain = (
        load_config(RunConfig, None, [f"model={name}"], synthetic=False) for name in ("geme", "nmer", "ststnet")
    )
    real = [corpora["real"]]
    [line] = meta_notes(geme, real, None)
    assert line.startswith("model geme: no subject's gender is known")
    told_of = load_config(RunConfig, None, ["model=geme", "train.genders=people.csv"], synthetic=False)
    assert meta_notes(told_of, real) == meta_notes(plain, real) == []
    [line] = meta_notes(nmer, real)
    assert line.startswith("model nmer: no clip here is a macro-expression")
    one = [replace(row, expression="macro" if i == 3 else "micro") for i, row in enumerate(corpora["real"])]
    assert meta_notes(nmer, [Manifest.from_rows(one, tmp_path)]) == []
    assert (load(Manifest.from_rows(one, corpora["real"].root)).macro == 1).sum() == 1
    with pytest.raises(ConfigError, match=r"train\.genders has no effect: model ststnet does not learn genders"):
        load_config(RunConfig, None, ["model=ststnet", "train.genders=people.csv"], synthetic=False)
