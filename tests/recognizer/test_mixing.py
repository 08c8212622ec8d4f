"""Mixing modes: each as safe as the plain mixture under it, and what each member learns from."""

from dataclasses import replace

import numpy as np
import pytest

from mesynth.core.errors import ConfigError, LeakError
from recognizer.config import RunConfig, load_config
from recognizer.data import FlowSet
from recognizer.fitting import AveragedMembers, fit, restored
from recognizer.mixing import MODES, Member, MixConfig, sides, stages, without_real
from recognizer.models import CLOSED
from recognizer.protocol import make_folds, mix
from recognizer.run import loso
from tests.recognizer.test_protocol import saw


@pytest.mark.parametrize("model", ["lda", "svm", "bi_woof", "region_attention"])
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_refuses_a_leak(sets: dict[str, FlowSet], model: str, mode: str) -> None:
    if mode == "pretrain" and model != "region_attention":
        pytest.skip("pretrain is for networks")
    config = load_config(RunConfig, None, [f"model={model}", f"mix.mode={mode}"])
    with pytest.raises(LeakError, match="saw subject DB/03"):
        loso(sets["real"], saw(sets["synthetic"], 7, "DB/03"), config)


@pytest.mark.parametrize("model", ["lda", "svm", "bi_woof", "region_attention"])
@pytest.mark.parametrize("mode", ["fuse", "synthetic-only", "pool"])
def test_held_out_labels_cannot_matter_in_any_mode(sets: dict[str, FlowSet], model: str, mode: str) -> None:
    real = sets["real"]
    other = replace(real, y=np.where(real.subjects == "DB/02", (real.y + 1) % 3, real.y))
    config = load_config(
        RunConfig, None,
        [f"model={model}", f"mix.mode={mode}"] + (["train.steps=4", "train.batch=8"] if model not in CLOSED else []),
    )  # fmt: skip
    given = []
    for clips in (real, other):
        fold = make_folds(clips)[2]
        mixture = mix(clips, sets["synthetic"], [fold], ratio=1, only_added=config.mix.only_added)
        member = Member.of(fold.name, 0, mixture.weights[0], mixture.pool.y)
        trained = fit(mixture.pool, mixture.added, [member], config)
        given.append(trained.probabilities(0, clips.inputs(fold.test_index)))
    np.testing.assert_allclose(given[0], given[1], atol=1e-6)


# ---------------------------------------------------------------- fusion


@pytest.mark.parametrize("model", ["lda", "svm", "region_attention"])
def test_fusion_averages_what_the_two_sides_say(sets: dict[str, FlowSet], model: str) -> None:
    real, made = sets["real"], sets["synthetic"]
    quick = ["train.steps=4", "train.batch=8"] if model not in CLOSED else []
    config = load_config(
        RunConfig, None, [f"model={model}", "mix.mode=fuse", "mix.fuse_weight=0.3", "mix.align=false", *quick]
    )
    mixture = mix(real, made, make_folds(real)[:2], ratio=1)
    pairs = zip(mixture.folds, mixture.weights, strict=True)
    members = [Member.of(fold.name, 0, w, mixture.pool.y) for fold, w in pairs]
    fused = fit(mixture.pool, mixture.added, members, config)
    assert isinstance(fused, AveragedMembers)
    clips = real.inputs(np.arange(6))
    alone = replace(config, mix=replace(config.mix, mode="pool"))
    for m, member in enumerate(members):
        sides = [fused.each.probabilities(2 * m + side, clips) for side in (0, 1)]
        np.testing.assert_allclose(fused.probabilities(m, clips), 0.7 * sides[0] + 0.3 * sides[1])
        parts = []
        for kind, suffix in ((~mixture.added, ""), (mixture.added, "/added")):
            one = Member.of(member.name + suffix, 0, member.weights * kind, mixture.pool.y)
            parts.append(fit(mixture.pool, mixture.added, [one], alone).probabilities(0, clips))
        if model in CLOSED:  # a network's input scale is that of both sides' clips
            np.testing.assert_allclose(sides, parts, atol=1e-9)
        np.testing.assert_allclose(fused.probabilities(m, clips).sum(1), 1)
    assert fused.n_parameters == 2 * fused.each.n_parameters
    # What is saved gives the same members again.
    saved = {name: value.clone() for name, value in fused.tensors().items()}
    again = restored(config, saved)
    for m in range(2):
        np.testing.assert_allclose(again.probabilities(m, clips), fused.probabilities(m, clips), atol=1e-6)


def test_a_fusion_without_synthetic_clips_is_an_ensemble_of_two(sets: dict[str, FlowSet]) -> None:
    """Else fusing with anything would gain what an ensemble gains."""
    config = load_config(RunConfig, None, ["model=region_attention", "mix.mode=fuse", "train.steps=4", "train.batch=8"])
    mixture = mix(sets["real"], sets["synthetic"], make_folds(sets["real"])[:1], ratio=0)
    member = Member.of("DB/00", 0, mixture.weights[0], mixture.pool.y)
    fused = fit(mixture.pool, mixture.added, [member], config)
    assert isinstance(fused, AveragedMembers)
    clips = sets["real"].inputs(np.arange(6))
    sides = [fused.each.probabilities(side, clips) for side in (0, 1)]
    assert np.abs(sides[0] - sides[1]).max() > 1e-4
    closed = load_config(RunConfig, None, ["model=lda", "mix.mode=fuse"])
    alone = fit(mixture.pool, mixture.added, [member], replace(closed, mix=replace(closed.mix, mode="pool")))
    both = fit(mixture.pool, mixture.added, [member], closed)
    np.testing.assert_allclose(both.probabilities(0, clips), alone.probabilities(0, clips))


# ---------------------------------------------------------------- who learns from what


ADDED = np.array([False, False, True, True])
WEIGHTS = np.array([[1.0, 2, 1, 1], [1, 1, 0, 0], [0, 0, 1, 3]])  # both kinds; real alone; added alone


def _members() -> list[Member]:
    return [Member.of(f"f{i}", 0, w, np.array([0, 1, 0, 1])) for i, w in enumerate(WEIGHTS)]


def test_sides_split_a_member_and_never_show_it_more() -> None:
    found = sides(_members(), ADDED)
    assert [m.name for m in found] == ["f0", "f0/added", "f1", "f1/added", "f2", "f2/added"]
    weights = np.stack([m.weights for m in found])
    np.testing.assert_array_equal(weights[:2], [[1, 2, 0, 0], [0, 0, 1, 1]])
    np.testing.assert_array_equal(weights[2:], WEIGHTS[[1, 1, 2, 2]])  # equal budgets for arms with one kind
    for member in found:
        np.testing.assert_array_equal(member.labels >= 0, member.weights > 0)


def test_synthetic_only_forgets_real_clips_where_there_are_others() -> None:
    weights = np.stack([m.weights for m in without_real(_members(), ADDED)])
    np.testing.assert_array_equal(weights, [[0, 0, 1, 1], [1, 1, 0, 0], [0, 0, 1, 3]])


@pytest.mark.parametrize("mode", MODES)
def test_every_member_of_a_mode_takes_the_same_steps(mode: str) -> None:
    mixing = MixConfig(mode=mode, pretrain_steps=7)
    found = stages(WEIGHTS, ADDED, mixing, 20)
    assert sum(stage.steps for stage in found) == (27 if mode in ("prior", "pretrain") else 20)
    for stage in found:
        assert (stage.weights.sum(1) > 0).all()
        assert (stage.weights <= WEIGHTS).all()
    assert found[-1].pull == (2.0 if mode == "prior" else 0.0)


@pytest.mark.parametrize(
    ("values", "match"),
    [({"mode": "blend"}, "mix.mode='blend'"), ({"fuse_weight": 1.0}, r"mix.fuse_weight=1 is outside \(0, 1\)"),
     ({"balance": "even"}, "mix.balance='even'"), ({"leak": "ignore"}, "mix.leak='ignore'")],
)  # fmt: skip
def test_bad_values(values: dict[str, object], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        MixConfig(**values)  # type: ignore[arg-type]


def test_an_oracle_does_not_watch_a_fusion(sets: dict[str, FlowSet]) -> None:
    config = load_config(RunConfig, None, ["model=region_attention", "mix.mode=fuse", "train.steps=2"])
    mixture = mix(sets["real"], sets["synthetic"], make_folds(sets["real"])[:1], ratio=1)
    member = Member.of("DB/00", 0, mixture.weights[0], mixture.pool.y)
    with pytest.raises(ConfigError, match="the oracle watches one network a fold, and here it is 2"):
        fit(mixture.pool, mixture.added, [member], config, callback=lambda *_: None, calls=2)


# ---------------------------------------------------------------- how many, and what they are worth


def test_how_many_is_said_once() -> None:
    assert MixConfig().amount == {"count": 1000, "at_most": True}
    assert MixConfig(count=30).amount == {"count": 30, "at_most": False}
    assert MixConfig(ratio=0.5).amount == {"ratio": 0.5}
    for wrong, match in (
        ({"count": 3, "ratio": 1.0}, r"mix\.count=3 and mix\.ratio=1 both say how many"),
        ({"count": 0}, r"mix\.count=0 must be at least 1"),
        ({"prior_weight": float("inf")}, r"mix\.prior_weight=inf"),
    ):
        with pytest.raises(ConfigError, match=match):
            MixConfig(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"mix\.balance has no effect"):
        load_config(RunConfig, None, ["mix.balance=class"])


def test_what_was_chosen_is_said_and_depends_on_no_held_out_label(sets: dict[str, FlowSet]) -> None:
    real, made = sets["real"], sets["synthetic"]
    first = loso(real, made, load_config(RunConfig, None, []))
    assert sum("mix.prior_weight, chosen by the training subjects: " in note for note in first.notes) == 1
    fixed = loso(real, made, load_config(RunConfig, None, ["mix.prior_weight=3"]))
    assert not any("chosen by the training subjects" in note for note in fixed.notes)
    other = replace(real, y=np.where(real.subjects == "DB/02", (real.y + 1) % 3, real.y))
    again = loso(other, made, load_config(RunConfig, None, []))
    here = [
        [row["scores"] for row in result.predictions.to_pylist() if row["fold"] == "DB/02"] for result in (first, again)
    ]
    np.testing.assert_allclose(here[0], here[1])


def test_an_ensemble_is_the_mean_of_its_networks(sets: dict[str, FlowSet]) -> None:
    real = sets["real"]
    settings = ["model=capsule_graph", "train.steps=4", "train.batch=8", "train.ensemble=3"]
    config = load_config(RunConfig, None, settings, synthetic=False)
    mixture = mix(real, None, make_folds(real)[:2], ratio=0)
    pairs = zip(mixture.folds, mixture.weights, strict=True)
    members = [Member.of(fold.name, 0, w, mixture.pool.y) for fold, w in pairs]
    several = fit(mixture.pool, mixture.added, members, config)
    assert isinstance(several, AveragedMembers)
    clips = real.inputs(np.arange(6))
    for m in range(2):
        each = np.stack([several.each.probabilities(3 * m + k, clips) for k in range(3)])
        np.testing.assert_allclose(several.probabilities(m, clips), each.mean(0))
        assert np.abs(each[0] - each[1]).max() > 1e-4
    single = fit(mixture.pool, mixture.added, members, replace(config, train=replace(config.train, ensemble=1)))
    # The first network of each is the one that there is without an ensemble.
    np.testing.assert_allclose(several.each.probabilities(3, clips), single.probabilities(1, clips), atol=1e-5)
    again = restored(config, {name: value.clone() for name, value in several.tensors().items()})
    np.testing.assert_allclose(again.probabilities(1, clips), several.probabilities(1, clips), atol=1e-6)
    assert several.n_parameters == 3 * single.n_parameters
    with pytest.raises(ConfigError, match=r"train\.ensemble has no effect"):
        load_config(RunConfig, None, ["train.ensemble=2"])
