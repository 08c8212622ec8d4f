from dataclasses import replace

import numpy as np
import pytest

from mesynth.core.errors import ConfigError
from mesynth.core.types import optical_strain
from recognizer.data import FlowSet
from recognizer.protocol import COPIES, copies, rounds_for, similarity


def test_copies_say_whose_they_are(sets: dict[str, FlowSet]) -> None:
    real = sets["real"]
    for kind in COPIES:
        made = copies(real, kind, rounds=2)
        assert len(made) == 96
        assert made.synthetic.all()
        assert set(made.generators) == {f"control/{kind}"}
        assert len(set(made.clip_ids) | set(real.clip_ids)) == 96 + 48
        for i in (0, 7, 48 + 7):
            assert made.subjects[i] == real.subjects[i % 48]
            assert made.subjects_seen[i] == (real.subjects[i % 48],)
            assert made.y[i] == real.y[i % 48]
    with pytest.raises(ConfigError, match="'halved' are unknown"):
        copies(real, "halved")


def test_what_a_clip_had_seen_its_copy_has_seen(sets: dict[str, FlowSet]) -> None:
    warped = replace(sets["real"], subjects_seen=(("DB/00", "other/9"),) * 48)
    assert copies(warped, "mirror").subjects_seen[47] == ("DB/00", "DB/07", "other/9")


def test_mirror_flips_flow_sides_and_frames(sets: dict[str, FlowSet]) -> None:
    views = {"apex": np.arange(48 * 2 * 4 * 4, dtype=np.uint8).reshape(48, 2, 4, 4)}
    real = replace(sets["real"], views=views)
    made = copies(real, "mirror")
    np.testing.assert_array_equal(made.x[:, 0], -real.x[:, 0, :, ::-1])
    np.testing.assert_array_equal(made.x[:, 1], real.x[:, 1, :, ::-1])
    np.testing.assert_array_equal(made.views["apex"], views["apex"][..., ::-1])
    np.testing.assert_allclose(made.x[:, 2], optical_strain(made.x[:, :2]), atol=1e-6)
    sides = made.au.reshape(48, -1, 2)
    np.testing.assert_array_equal(sides, real.au.reshape(48, -1, 2)[..., ::-1])
    twice = copies(made, "mirror")
    np.testing.assert_array_equal(twice.x, real.x)


def test_magnified_flow_is_larger_and_its_strain_with_it(sets: dict[str, FlowSet]) -> None:
    real = sets["real"]
    plain = copies(real, "magnified", rounds=2).x
    factor = np.abs(plain).sum((1, 2, 3)) / np.abs(np.tile(real.x, (2, 1, 1, 1))).sum((1, 2, 3))
    assert factor.min() >= 1.5 - 1e-3
    assert factor.max() <= 3 + 1e-3
    assert factor.std() > 0.3
    assert len(np.unique(factor.round(6))) == 96
    np.testing.assert_allclose(plain[:48], factor[:48, None, None, None] * real.x, rtol=2e-3, atol=1e-4)
    np.testing.assert_allclose(plain[:, 2], optical_strain(plain[:, :2]), rtol=1e-2, atol=1e-3)


def test_a_turned_face_moves_in_a_turned_direction() -> None:
    """A uniform motion to the right, of faces turned by 90 degrees and doubled, is a doubled motion down."""
    flow = np.zeros((2, 2, 16, 16))
    flow[:, 0] = 1.0
    turned = similarity(flow, np.array([90.0, 0.0]), np.array([2.0, 0.5]), np.zeros((2, 2)))
    np.testing.assert_allclose(turned[0, 0], 0, atol=1e-12)
    np.testing.assert_allclose(turned[0, 1], 2, atol=1e-12)
    np.testing.assert_allclose(turned[1, 0], 0.5, atol=1e-12)


def test_places_move_with_the_face() -> None:
    flow = np.zeros((3, 2, 17, 17))
    flow[:, 1, 8, 12] = 1.0  # four pixels right of the centre
    moved = similarity(flow, np.array([90.0, 0.0, 0.0]), np.ones(3), np.array([[0.0, 0], [3.0, -2], [0, 0]]))
    strength = np.abs(moved).sum(1)
    assert np.unravel_index(strength[0].argmax(), (17, 17)) == (12, 8)  # right becomes down
    assert np.unravel_index(strength[1].argmax(), (17, 17)) == (6, 15)
    np.testing.assert_allclose(moved[2], flow[2], atol=1e-12)


def test_turning_there_and_back_gives_the_field_again() -> None:
    grid = (np.arange(28) - 13.5) / 28
    y, x = np.meshgrid(grid, grid, indexing="ij")
    bump = np.exp(-((x - 0.1) ** 2 + (y + 0.15) ** 2) / 0.02)
    flow = np.stack([bump, -0.5 * bump])[None]
    angle, scale = np.array([8.0]), np.array([1.05])
    there = similarity(flow, angle, scale, np.zeros((1, 2)))
    back = similarity(there, -angle, 1 / scale, np.zeros((1, 2)))
    assert np.abs(there - flow).max() > 0.1
    assert np.abs(back - flow).max() < 0.05  # two linear interpolations


def test_augmented_copies_stay_near_their_clip(sets: dict[str, FlowSet]) -> None:
    real = sets["real"]
    made = copies(real, "augmented", rounds=2)
    plain = made.x
    np.testing.assert_allclose(plain[:, 2], optical_strain(plain[:, :2]), rtol=1e-2, atol=2e-3)
    a, b = plain[:48, :2].reshape(48, -1), real.x[:, :2].reshape(48, -1)
    a, b = (v - v.mean(1, keepdims=True) for v in (a, b))
    similar = (a @ b.T) / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)
    own = np.diag(similar)
    assert 0.4 < own.mean() < 0.97
    assert (similar.argmax(1) == np.arange(48)).mean() > 0.9
    assert (made.x[:48] != made.x[48:]).any()


def test_a_round_does_not_depend_on_how_many_there_are(sets: dict[str, FlowSet]) -> None:
    for kind in COPIES:
        one, three = (copies(sets["real"], kind, rounds=n, seed=4).x for n in (1, 3))
        np.testing.assert_array_equal(one, three[:48])
    other = copies(sets["real"], "augmented", seed=5).x
    assert (other != copies(sets["real"], "augmented", seed=4).x).any()
    assert (rounds_for("mirror", 5), rounds_for("augmented", 5), rounds_for("magnified", 500)) == (1, 5, 8)


def test_copies_of_flow_alone_refuse_frames(sets: dict[str, FlowSet]) -> None:
    real = replace(sets["real"], views={"frames": np.zeros((48, 10, 4, 4), np.uint8)})
    for kind in ("magnified", "augmented"):
        with pytest.raises(ConfigError, match=rf"{kind} copies exist for flow alone, and frames"):
            copies(real, kind)
