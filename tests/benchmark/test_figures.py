"""Measures of who reads the face, on fields whose right values follow from how they were made."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesynth.benchmark import resampling
from mesynth.benchmark.figures import (
    CARRIED,
    HOME,
    NONE,
    OTHERS,
    Figure,
    Likeness,
    au_figures,
    likeness,
    likeness_figures,
    people_figures,
)
from mesynth.benchmark.protocol import STEP, flows_of, stored

P, S = 4, 8
CODES = (4, 12, 17)
A = len(CODES)
WEIGHTS = resampling.draws(P, 40, 0)


def common(rng: np.random.Generator) -> np.ndarray:
    """[A,2,S,S]: what everybody does, AUs at right angles to each other."""
    fields = np.linalg.qr(rng.normal(size=(2 * S * S, A)))[0].T
    return (12 * fields).reshape(A, 2, S, S)


def world(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Exact flows [P,A,2,S,S], their common part, and masks."""
    rng = np.random.default_rng(seed)
    shared = common(rng)
    exact = shared + 0.2 * rng.normal(size=(P, A, 2, S, S))
    inside = np.ones((P, A, S, S), np.bool_)
    inside[:, :, :2] = False
    return exact.astype(np.float32), shared.astype(np.float32), inside


EXACT, SHARED, INSIDE = world()
KNOWN = np.ones((P, A), np.bool_)
OTHER = (EXACT.sum(0) - EXACT) / (P - 1)


def of(answers: np.ndarray, known: np.ndarray = KNOWN, inside: np.ndarray = INSIDE) -> Likeness:
    return likeness(np.asarray(answers, np.float32), known, EXACT, inside, CODES)


def error(a: np.ndarray, b: np.ndarray, mask: np.ndarray) -> float:
    return float(np.sqrt((((a - b)[:, mask]).astype(np.float64) ** 2).sum(0)).mean())


AGAINST = {
    NONE: of(0 * EXACT),
    OTHERS: of(OTHER).errors_alone(),
    HOME: of(np.broadcast_to(SHARED, EXACT.shape)),
    CARRIED: of(0.5 * EXACT),
}


def figures(own: Likeness) -> dict[str, Figure]:
    return {f.key: f for f in likeness_figures(own, AGAINST, WEIGHTS)}


def test_the_truth_is_perfect() -> None:
    own = of(EXACT)
    for values in (own.epe, own.epe_gain):
        assert np.abs(values).max() < 1e-6
    np.testing.assert_allclose(own.cosine, 1, atol=1e-6)
    np.testing.assert_allclose(own.personal, 1, atol=1e-6)
    np.testing.assert_array_equal(own.named, 1)
    found = figures(own)
    assert found["own_face"].value == pytest.approx(100, abs=1e-4)
    assert (found["nearer_than_home"].value, found["nearer_than_home"].unit) == (P, f"of {P}")


def test_whoever_gives_everybody_the_same_is_not_personal_and_as_good_as_its_mean() -> None:
    own = of(np.broadcast_to(SHARED, EXACT.shape))
    np.testing.assert_array_equal(own.personal, 0)
    np.testing.assert_array_equal(own.personal_by_au, 0)
    np.testing.assert_allclose(own.blind, own.epe, rtol=1e-6)
    np.testing.assert_array_equal(own.named, 1)
    found = figures(own)
    assert found["own_face"].value == pytest.approx(0, abs=1e-4)
    assert found["nearer_than_home"].value == 0  # it is that mean: not nearer
    assert found["epe"].value == pytest.approx(found["epe_home"].value)


def test_no_motion_has_the_error_of_the_motion_and_names_nothing() -> None:
    own = of(0 * EXACT)
    for p in range(P):
        for a in range(A):
            assert own.epe[p, a] == pytest.approx(error(EXACT[p, a], 0 * EXACT[p, a], INSIDE[p, a]), rel=1e-5)
    assert not own.named.any()
    assert not own.cosine.any()
    np.testing.assert_array_equal(own.epe_gain, own.epe)


@pytest.mark.parametrize("factor", [0.25, 0.5, 3.0])
def test_the_best_gain_undoes_a_factor_on_all(factor: float) -> None:
    own = of(factor * EXACT)
    np.testing.assert_allclose(own.epe, abs(1 - factor) * AGAINST[NONE].epe, rtol=1e-4)
    assert own.epe_gain.max() < 1e-4
    np.testing.assert_allclose(own.personal, 1, atol=1e-5)


def test_the_gain_of_a_person_is_fitted_on_the_others_alone() -> None:
    answers = EXACT.copy()
    answers[0] *= 0.5
    own = of(answers)
    # The others show all of it: their gain is 1, which does not help the one who shows half.
    np.testing.assert_allclose(own.epe_gain[0], own.epe[0], rtol=1e-4)
    # One of the others shows half: g = sum <a,t> / sum <a,a>, with squares from the fields themselves.
    squares = ((EXACT**2).sum(2) * INSIDE).sum((2, 3), dtype=np.float64)
    share = [(0.5 * s[0] + s[2] + s[3]) / (0.25 * s[0] + s[2] + s[3]) for s in squares.T]
    expected = [(g - 1) * AGAINST[NONE].epe[1, a] for a, g in enumerate(share)]
    np.testing.assert_allclose(own.epe_gain[1], expected, rtol=1e-4)


def test_a_gain_is_never_a_turn() -> None:
    own = of(-EXACT)
    np.testing.assert_allclose(own.epe_gain, AGAINST[NONE].epe, rtol=1e-5)
    np.testing.assert_allclose(own.epe, 2 * AGAINST[NONE].epe, rtol=1e-5)


@pytest.mark.parametrize("sign", [1, -1])
def test_personal_is_about_what_differs_between_people(sign: int) -> None:
    answers = 5 * SHARED[::-1] + sign * 0.3 * (EXACT - EXACT.mean(0))
    own = of(answers)
    np.testing.assert_allclose(own.personal, sign, atol=1e-4)
    np.testing.assert_allclose(own.personal_by_au, sign, atol=1e-4)


def test_personal_takes_all_aus_together() -> None:
    deviation = EXACT - EXACT.mean(0)
    answers = deviation * np.array([1.0, 1.0, -1.0])[:, None, None, None]
    own = of(answers)
    squares = ((deviation**2).sum(2) * INSIDE).sum((2, 3))
    expected = (squares * [1, 1, -1]).sum(1) / squares.sum(1)
    np.testing.assert_allclose(own.personal, expected, atol=1e-4)
    np.testing.assert_allclose(own.personal_by_au, np.broadcast_to([1, 1, -1], (P, A)), atol=1e-4)
    assert figures(own)["personal"].value == pytest.approx(expected.mean(), abs=1e-4)


def test_the_mean_over_other_faces_is_the_models_own() -> None:
    rng = np.random.default_rng(5)
    answers = EXACT + rng.normal(size=EXACT.shape).astype(np.float32)
    own = of(answers)
    mean = (answers.sum(0) - answers) / (P - 1)
    assert own.blind[2, 1] == pytest.approx(error(mean[2, 1], EXACT[2, 1], INSIDE[2, 1]), rel=1e-5)
    found = figures(own)
    better = 100 * (1 - own.epe_gain.sum() / own.blind_gain.sum())
    assert found["own_face"].value == pytest.approx(better)


def test_confused_aus_are_named_as_what_they_show() -> None:
    own = of(EXACT[:, [1, 0, 2]])
    np.testing.assert_array_equal(own.named, np.broadcast_to([0, 0, 1], (P, A)))
    found = figures(own)["named"]
    assert found.value == pytest.approx(1 / 3)
    assert found.low == found.high == found.value


@pytest.mark.parametrize(("pair", "right"), [((26, 27), True), ((43, 45), True), ((26, 12), False)])
def test_one_motion_at_two_intensities_has_one_name(pair: tuple[int, int], right: bool) -> None:
    exact = np.stack([EXACT[:, 0], EXACT[:, 1]], 1)
    own = likeness(exact[:, ::-1].copy(), KNOWN[:, :2], exact, INSIDE[:, :2], pair)
    assert (own.named == 1).all() == right


def test_pixels_outside_do_not_count() -> None:
    answers = EXACT.copy()
    answers[:, :, :, :2] += 50
    own, clean = of(answers), of(EXACT)
    np.testing.assert_allclose(own.epe, clean.epe, atol=1e-6)
    np.testing.assert_allclose(own.personal, clean.personal, atol=1e-6)


def test_what_was_refused_counts_for_nobody() -> None:
    known = KNOWN.copy()
    known[0, 1] = known[3, 2] = False
    answers = EXACT.copy()
    answers[~known] = 99
    own = of(answers, known)
    assert np.isnan(own.epe[~known]).all()
    assert np.isnan(own.named[~known]).all()
    assert np.abs(own.epe[known]).max() < 1e-6
    mean = (answers[2, 1] + answers[3, 1]) / 2  # of those asked about person 1, without person 0
    assert own.blind[1, 1] == pytest.approx(error(mean, EXACT[1, 1], INSIDE[1, 1]), rel=1e-5)
    found = figures(own)
    assert found["epe_none"].value == pytest.approx(np.nanmean(np.where(known, AGAINST[NONE].epe, np.nan)))
    by_person = people_figures(own, AGAINST)[0]
    values = {f.key: f.value for f in by_person}
    assert values["epe_none"] == pytest.approx(AGAINST[NONE].epe[0, [0, 2]].mean())


def test_an_au_that_only_one_person_got_has_an_error_and_no_others() -> None:
    known = KNOWN.copy()
    known[1:, 0] = False
    own = of(EXACT, known)
    assert own.epe[0, 0] < 1e-6
    assert np.isnan(own.blind[0, 0])
    assert np.isnan(own.epe_gain[0, 0])
    nothing = of(EXACT, np.zeros_like(KNOWN))
    found = figures(nothing)
    assert all(f.value is None and f.note for f in found.values())


def test_people_are_counted_one_by_one() -> None:
    answers = EXACT.copy()
    answers[0] += 9
    own = of(answers)
    found = figures(own)
    assert found["nearer_than_home"].value == P - 1
    rows = people_figures(own, AGAINST)
    assert len(rows) == P
    first = {f.key: f.value or 0.0 for f in rows[0]}
    assert first["epe"] > first["epe_home"]
    assert found["epe"].value == pytest.approx(np.mean([{f.key: f.value for f in row}["epe"] for row in rows]))
    each = au_figures(own, AGAINST, WEIGHTS)
    assert [f.value for f in each[1] if f.key == "epe"] == [pytest.approx(own.epe[:, 1].mean())]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 99), factor=st.floats(0.2, 5.0))
def test_a_factor_changes_no_direction(seed: int, factor: float) -> None:
    rng = np.random.default_rng(seed)
    answers = EXACT + 0.5 * rng.normal(size=EXACT.shape).astype(np.float32)
    a, b = of(answers), of(np.float32(factor) * answers)
    for name in ("cosine", "epe_gain", "blind_gain", "named", "personal"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=2e-3, atol=1e-5)


@given(st.lists(st.floats(-60, 60, width=32), min_size=1, max_size=9))
def test_stored_flows_are_within_half_a_step(values: list[float]) -> None:
    uv = np.array(values, np.float32)
    assert np.abs(flows_of(stored(uv)) - uv).max() <= STEP / 2 + 1e-5
    assert stored(np.array([np.nan]))[0] == 0
