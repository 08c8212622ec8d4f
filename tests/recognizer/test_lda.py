import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from mesynth.core.errors import ConfigError
from recognizer.fitting import alignment
from recognizer.models.lda import EVIDENCE, NOTHING, PULL, Gram, LdaConfig, chosen_prior_weight, fit, spread

RNG = np.random.default_rng(0)
Y = np.arange(90) % 3
X = RNG.normal(size=(90, 3, 8, 8)).astype(np.float32)
X[:, 0] += 0.3 * Y[:, None, None]
NONE = np.zeros(90, np.bool_)
ONES = np.ones(90)


@pytest.mark.parametrize("shrinkage", [0.05, 0.3, 0.9])
def test_equals_sklearn(shrinkage: float) -> None:
    uneven = np.concatenate([np.arange(60), np.arange(60, 90, 3)])  # more of class 0
    x, y = X[uneven], Y[uneven]
    model = fit(Gram(x), y, np.ones(70), np.zeros(70, np.bool_), 3, LdaConfig(shrinkage=shrinkage, priors="data"))
    flat = x.reshape(70, -1).astype(np.float64)
    expected = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(flat, y).decision_function(flat)
    np.testing.assert_allclose(model.scores(x), expected, atol=1e-8)


def test_a_weight_of_two_is_two_copies_and_of_zero_is_absence() -> None:
    weights = RNG.integers(0, 3, 90).astype(float)
    index = np.repeat(np.arange(90), weights.astype(int))
    weighted = fit(Gram(X), Y, weights, NONE, 3)
    copied = fit(Gram(X[index]), Y[index], np.ones(len(index)), np.zeros(len(index), np.bool_), 3)
    np.testing.assert_allclose(weighted.scores(X), copied.scores(X), atol=1e-8)


def test_rescaling_in_the_gram_equals_rescaling_the_clips() -> None:
    added = np.arange(90) >= 40
    affine = np.tile(np.array([1.0, 0.0])[:, None], (90, 1, 3))
    affine[added] = np.array([[2.0, 0.5, 1.5], [0.3, -0.2, 0.1]])
    moved = X.astype(np.float64) * affine[:, 0, :, None, None] + affine[:, 1, :, None, None]
    inside = fit(Gram(X), Y, ONES, added, 3, affine=affine, prior_weight=20)
    outside = fit(Gram(moved.astype(np.float64)), Y, ONES, added, 3, prior_weight=20)
    np.testing.assert_allclose(inside.scores(X), outside.scores(X), atol=1e-8)


def test_a_large_pool_is_not_multiplied_as_a_whole() -> None:
    weights = (np.arange(90) < 60).astype(float)
    small, large = (fit(Gram(X, keep=keep), Y, weights, NONE, 3) for keep in (4000, 10))
    np.testing.assert_allclose(small.scores(X), large.scores(X), atol=1e-10)


def test_the_prior_counts_as_its_weight_whatever_its_size() -> None:
    added = np.arange(90) >= 30
    many = fit(Gram(X), Y, ONES, added, 3, prior_weight=12)
    doubled = np.where(added, 2.0, 1.0)
    np.testing.assert_allclose(many.scores(X), fit(Gram(X), Y, doubled, added, 3, prior_weight=12).scores(X), atol=1e-8)
    light = fit(Gram(X), Y, ONES, added, 3, prior_weight=1e-6)
    alone = fit(Gram(X), Y, np.where(added, 0.0, 1.0), added, 3)
    np.testing.assert_allclose(light.scores(X), alone.scores(X), rtol=1e-3, atol=1e-2)


def test_a_shift_between_the_sets_is_not_noise() -> None:
    moved, added = X.copy(), np.arange(90) >= 45
    moved[added] += 5.0
    own = fit(Gram(moved), Y, ONES, added, 3, LdaConfig(shrinkage=0.9), prior_weight=15)
    pooled = fit(Gram(moved), Y, ONES, added, 3, LdaConfig(shrinkage=0.9))
    probe = X[~added]
    right = [(m.scores(probe) - m.scores(probe).mean(0)).argmax(1) == Y[~added] for m in (own, pooled)]
    assert right[0].mean() > 0.9
    assert np.abs(own.weight).sum() > np.abs(pooled.weight).sum()


def test_a_class_without_clips_is_never_predicted() -> None:
    model = fit(Gram(X), Y, np.where(Y == 1, 0.0, 1.0), NONE, 3)
    assert set(model.scores(X).argmax(1)) == {0, 2}


def test_alignment_gives_the_added_clips_the_real_ones_mean_and_spread() -> None:
    added = np.arange(90) >= 40
    x = X * np.where(added, 3.0, 1.0)[:, None, None, None] + np.where(added, 1.0, 0.0)[:, None, None, None]
    affine, scale = alignment(x.astype(np.float32), added, ONES[None])
    a, b = affine[0][:, :, None, None]
    mapped = x[added] * a + b
    np.testing.assert_allclose(mapped.mean((0, 2, 3)), x[~added].mean((0, 2, 3)), atol=1e-5)
    np.testing.assert_allclose(mapped.std((0, 2, 3)), x[~added].std((0, 2, 3)), rtol=1e-4)
    whole = np.concatenate([x[~added], mapped])
    np.testing.assert_allclose(scale[0], np.sqrt((whole**2).mean((0, 2, 3))), rtol=1e-4)
    identity, _ = alignment(x.astype(np.float32), added, (ONES * added)[None])
    np.testing.assert_array_equal(identity[0], [[1, 1, 1], [0, 0, 0]])


@pytest.mark.parametrize("values", [{"shrinkage": 0.0}, {"shrinkage": 1.2}, {"priors": "flat"}])
def test_bad_settings(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"lda.{next(iter(values))}"):
        LdaConfig(**values)  # type: ignore[arg-type]


# ---------------------------------------------------------------- more clips than values, and what a prior is worth


@pytest.mark.parametrize("shrinkage", [0.3, 0.9, 1.0])
@pytest.mark.parametrize("prior", [None, 0.0, 7.0])
def test_moments_give_what_inner_products_give(shrinkage: float, prior: float | None) -> None:
    """192 values: 90 clips are solved by their inner products, the same clips three times by moments."""
    added, weights = np.arange(90) >= 50, RNG.uniform(0.5, 2, 90)
    few = fit(Gram(X), Y, weights, added, 3, LdaConfig(shrinkage=shrinkage), prior_weight=prior)
    thrice = [np.tile(a, (3,) + (1,) * (a.ndim - 1)) for a in (X, Y, weights / 3, added)]
    many = fit(Gram(thrice[0]), *thrice[1:], 3, LdaConfig(shrinkage=shrinkage), prior_weight=prior)
    np.testing.assert_allclose(many.scores(X), few.scores(X), rtol=1e-6, atol=1e-6)


def test_a_prior_of_nothing_is_no_prior() -> None:
    added = np.arange(90) >= 50
    without = fit(Gram(X), Y, np.where(added, 0.0, 1.0), added, 3)
    np.testing.assert_allclose(fit(Gram(X), Y, ONES, added, 3, prior_weight=0).scores(X), without.scores(X))


def _chosen(labels: np.ndarray, subjects: np.ndarray, real: int) -> float:
    added = np.arange(len(labels)) >= real
    affine = np.tile(np.array([1.0, 0.0])[:, None], (len(labels), 1, 3))
    x = np.random.default_rng(1).normal(size=(len(labels), 3, 4, 4)).astype(np.float32)
    x[:, 0] += 0.5 * TRUTH[: len(labels), None, None]
    x[:, 1] -= 0.5 * (TRUTH[: len(labels), None, None] == 1)
    return chosen_prior_weight(
        Gram(x), labels, np.ones(len(labels)), added, subjects, 3, LdaConfig(), affine=affine,
        candidates=(0, 1, 3, 10, 30, 100, 300),
    )  # fmt: skip


TRUTH = np.arange(900) % 3


def test_labels_that_say_nothing_get_less_weight_than_right_ones() -> None:
    wrong = TRUTH.copy()
    wrong[150:] = np.random.default_rng(2).permutation(wrong[150:])
    many = np.array([f"s{i // 5}" for i in range(900)])
    assert _chosen(wrong, many, 150) <= 3 <= _chosen(TRUTH, many, 150)
    assert _chosen(wrong, many, 150) < _chosen(TRUTH, many, 150)


def test_one_subject_takes_what_is_usual_for_one() -> None:
    assert _chosen(TRUTH, np.array(["s"] * 900), 30) == 100  # nearest to EVIDENCE on a logarithmic scale
    few = _chosen(TRUTH, np.array([f"s{i // 15}" for i in range(900)]), 30)
    assert few >= 30


@pytest.mark.parametrize("seed", range(4))
def test_of_few_clips_inner_products_choose_what_moments_choose(seed: int) -> None:
    """40 clips of 48 values are judged by their inner products; here each fold by moments, of clips thrice."""
    rng, candidates = np.random.default_rng(seed), (0, 1, 3, 10, 30, 100, 300)
    added, y, who = np.arange(40) >= 25, np.arange(40) % 3, np.arange(25) // 4
    x = rng.normal(size=(40, 3, 4, 4)).astype(np.float32)
    x[:, 1] += rng.uniform(0.2, 0.8) * y[:, None, None]
    groups = spread(np.bincount(who), 5)[who]
    value = []
    for candidate in candidates:
        right = np.zeros(25)
        for g in np.unique(groups):
            weights = np.where(np.append(groups == g, np.zeros(15, bool)), 0.0, 1 / 3)
            thrice = [np.tile(a, (3,) + (1,) * (a.ndim - 1)) for a in (x, y, weights, added)]
            model = fit(Gram(thrice[0]), *thrice[1:], 3, LdaConfig(), prior_weight=candidate)
            right[groups == g] = (model.scores(x[:25]).argmax(1) == y[:25])[groups == g]
        recall = np.mean([right[y[:25] == c].mean() for c in range(3)])
        away = abs(np.log(max(candidate, NOTHING)) - np.log(EVIDENCE / len(np.unique(who))))
        value.append(recall - PULL / np.sqrt(25) * away)
    affine = np.tile(np.array([1.0, 0.0])[:, None], (40, 1, 3))
    subjects = np.append(who, np.full(15, -1)).astype(str)
    found = chosen_prior_weight(
        Gram(x), y, np.ones(40), added, subjects, 3, LdaConfig(), affine=affine, candidates=candidates
    )
    assert found == candidates[int(np.argmax(value))]
