"""Alpha, kappa and F1 against published examples, closed forms and a slow computation from the definitions."""

from itertools import permutations

import numpy as np
import pytest

from mesynth.core.errors import ConfigError
from mesynth.panel.agreement import METRICS, alpha, alpha_interval, coincidences, f1, f1_interval, hits, kappa

_ = np.nan
# Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability": C, four observers and twelve units.
FOUR = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
        [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _],
    ]
)
# The same paper: A, binary data of two observers, alpha .095; B, nominal data of two, alpha .692.
NOMINAL = ("aabbdcccedda", "babbbccceddd")
BINARY = np.array([[0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]])


@pytest.mark.parametrize(("metric", "expected"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_krippendorffs_four_observers(metric: str, expected: float) -> None:
    assert round(alpha(FOUR, metric), 3) == expected


def test_krippendorffs_two_observers() -> None:
    assert round(alpha(BINARY), 3) == 0.095
    assert round(alpha(np.array([[ord(sign) for sign in row] for row in NOMINAL], float)), 3) == 0.692


def slow(ratings: np.ndarray, metric: str) -> float:
    """1 - observed/expected disagreement, pair by pair, as the paper defines it."""
    units = [column[np.isfinite(column)] for column in ratings.T]
    units = [unit for unit in units if len(unit) > 1]
    everything = np.concatenate(units)
    n = len(everything)

    def delta(a: float, b: float) -> float:
        if metric == "nominal":
            return float(a != b)
        if metric == "interval":
            return float((a - b) ** 2)
        low, high = min(a, b), max(a, b)
        between = [(everything == value).sum() for value in np.unique(everything) if low <= value <= high]
        ends = ((everything == low).sum() + (everything == high).sum()) / 2
        return float((sum(between) - ends) ** 2) if a != b else 0.0

    observed = sum(sum(delta(a, b) for a, b in permutations(unit, 2)) / (len(unit) - 1) for unit in units) / n
    expected = sum(delta(a, b) for a, b in permutations(everything, 2)) / (n * (n - 1))
    return 1 - observed / expected


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("seed", range(6))
def test_alpha_is_its_definition(metric: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ratings = rng.integers(1, 6, (4, 15)).astype(float)
    ratings[rng.random(ratings.shape) < 0.3] = np.nan
    assert alpha(ratings, metric) == pytest.approx(slow(ratings, metric), abs=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_alpha_of_full_agreement_and_of_nothing(metric: str) -> None:
    same = np.tile(np.arange(1.0, 6.0), (3, 1))
    assert alpha(same, metric) == 1
    assert np.isnan(alpha(np.ones((3, 5)), metric))  # no value varies: neither agreement nor chance
    assert np.isnan(alpha(np.full((3, 5), np.nan), metric))
    lonely = np.full((2, 4), np.nan)
    lonely[0] = 1, 2, 3, 4
    assert np.isnan(alpha(lonely, metric))  # no unit has two answers
    order = np.random.default_rng(0).permutation(FOUR.shape[1])
    assert alpha(FOUR[::-1, order], metric) == pytest.approx(alpha(FOUR, metric), abs=1e-12)


def test_alpha_of_two_coders_of_two_values_has_a_closed_form() -> None:
    """1 - (n - 1) * (pairs apart) / (ones * zeros), of n answers (Krippendorff, 2011, A)."""
    ones, n = int(BINARY.sum()), BINARY.size
    apart = int((BINARY[0] != BINARY[1]).sum())
    assert alpha(BINARY) == pytest.approx(1 - (n - 1) * apart / (ones * (n - ones)), abs=1e-12)
    assert coincidences(BINARY.astype(float))[0].sum() == n


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(ConfigError, match="metric 'ratio' is unknown; choose from nominal, ordinal, interval"):
        alpha(FOUR, "ratio")


def test_alphas_interval_holds_it_and_widens_with_groups() -> None:
    rng = np.random.default_rng(1)
    base = rng.integers(0, 2, 60)
    ratings = np.stack([np.where(rng.random(60) < 0.15, 1 - base, base) for _ in range(3)]).astype(float)
    value, low, high = alpha_interval(ratings, "nominal", [str(i) for i in range(60)])
    assert low is not None
    assert high is not None
    assert low < value < high
    assert value == pytest.approx(alpha(ratings))
    assert alpha_interval(ratings, "nominal", ["one"] * 60)[1:] == (None, None)


# Cohen (1960): agreement .7 and .41 by chance, kappa .492.
def test_cohens_example() -> None:
    table = np.array([[88, 14, 18], [10, 40, 10], [2, 6, 12]])
    first = np.repeat(np.arange(3), table.sum(1))
    second = np.concatenate([np.repeat(np.arange(3), row) for row in table])
    assert kappa(first, second) == pytest.approx((0.7 - 0.41) / (1 - 0.41), abs=1e-12)
    assert kappa(second, first) == pytest.approx(kappa(first, second))


def test_kappa_leaves_out_what_is_missing_and_says_nothing_of_constants() -> None:
    a, b = np.array([1, 0, 1, _, 0]), np.array([1, 0, 1, 1, _])
    assert kappa(a, b) == 1
    assert kappa(np.array([1, 0]), np.array([0, 1])) == -1
    assert np.isnan(kappa(np.ones(4), np.ones(4)))
    assert np.isnan(kappa(np.full(3, np.nan), np.ones(3)))


def test_hits_count_only_what_is_known() -> None:
    named = np.array([1, 1, 0, 0, _, 1])
    truth = np.array([1, 0, 1, 0, 1, -1])
    assert hits(named, truth).sum(0).tolist() == [1, 1, 1]
    assert f1(hits(named, truth).sum(0)) == 0.5


def test_f1s_interval_draws_groups() -> None:
    counts = np.array([[4, 0, 0], [0, 2, 2]] * 5, float)
    value, low, high = f1_interval(counts, [str(i) for i in range(10)])
    assert value == pytest.approx(2 * 20 / (2 * 20 + 10 + 10))
    assert low is not None
    assert high is not None
    assert low < value < high
    assert f1_interval(counts, ["a", "b"] * 5)[1:] == (0.0, 1.0)  # either group alone
    assert np.isnan(f1_interval(np.zeros((3, 3)), ["a", "b", "c"])[0])
