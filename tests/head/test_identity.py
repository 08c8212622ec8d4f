"""Sampling of people: ranges, independence of the streams, and what the painter makes of them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from mesynth.head import texture
from mesynth.head.identity import (
    STYLES,
    hair_field,
    identity_vertices,
    long_hair,
    sample_identity,
    stream,
    target_groups,
)
from mesynth.head.model import HeadModel, eye_frame
from mesynth.head.texture import FOLDS, fold_matrix, paint_skin, paint_wrinkles, skin_tone


@pytest.fixture(scope="module")
def model() -> HeadModel:
    return HeadModel.load()


def test_samples_cover_the_stated_ranges(model: HeadModel):
    people = [sample_identity(model, seed) for seed in range(120)]
    ages = np.array([p.shape.age for p in people])
    assert ages.min() >= 18
    assert ages.max() <= 60
    assert ages.std() > 6
    femininity = np.array([p.shape.femininity for p in people])
    assert 0.3 < (femininity > 0.5).mean() < 0.7
    tones = np.array([p.skin.tone for p in people])
    assert tones.min() < 0.15
    assert tones.max() > 0.75
    assert set(Counter(p.skin.hair_style for p in people)) == set(STYLES)
    for p in people:
        assert sum(p.shape.race) == pytest.approx(1)
        assert np.linalg.norm(p.light.key_direction) == pytest.approx(1)
        macros = p.shape.weights[[i for i, n in enumerate(model.ident_names) if n.startswith("macro:")]]
        assert macros.sum() == pytest.approx(1, abs=1e-5)


def test_a_seed_is_a_person_and_frontal_changes_only_the_pose(model: HeadModel):
    a, b, c = sample_identity(model, 4), sample_identity(model, 4), sample_identity(model, 4, frontal=True)
    assert np.array_equal(a.shape.weights, b.shape.weights)
    assert (a.skin, a.light, a.camera) == (b.skin, b.light, b.camera)
    assert (a.skin, a.light, a.camera.iod_fraction) == (c.skin, c.light, c.camera.iod_fraction)
    assert c.camera.yaw == c.camera.pitch == c.camera.roll == 0
    assert a.skin != sample_identity(model, 5).skin


def test_streams_are_independent():
    draws = {name: stream(7, name).random() for name in ("shape", "camera", "light", "skin", "texture")}
    assert len(set(draws.values())) == 5


def test_left_and_right_copies_of_a_target_move_together(model: HeadModel):
    names = model.ident_names
    for members in target_groups(names):
        for copies in members:
            assert len(copies) in (1, 2)
            if len(copies) == 2:
                assert {names[i].split(":")[1][0] for i in copies} == {"l", "r"}


def test_faces_are_in_their_own_canonical_frame(model: HeadModel):
    for seed in range(4):
        shape = sample_identity(model, seed).shape
        vertices = identity_vertices(model, shape)
        origin, iod = eye_frame(vertices[model.landmarks])
        assert np.allclose(origin, 0, atol=1e-5)
        assert iod == pytest.approx(1, abs=1e-5)
        assert np.allclose(vertices[model.landmarks], identity_vertices(model, shape, model.landmarks), atol=1e-6)
        # Nobody is a caricature: landmarks stay near the mean head's.
        assert np.abs(vertices - model.vertices)[model.landmarks].max() < 0.45


def test_skin_darkens_along_the_scale():
    brightness = [skin_tone(t).mean() for t in np.linspace(0, 1, 9)]
    assert (np.diff(brightness) < 0).all()


def test_paint_has_brows_and_is_reproducible(model: HeadModel):
    landmarks = model.uv[model.landmarks]
    skin = sample_identity(model, 0).skin

    def paint() -> np.ndarray:
        rng = np.random.default_rng(1)
        return paint_skin(landmarks, skin, paint_wrinkles(landmarks, rng), rng).colour

    colour = paint()
    assert colour.shape == (texture.HEIGHT, texture.WIDTH, 3)
    assert np.array_equal(colour, paint())
    x, y = (texture.to_texels(landmarks[[19, 24]] + [0, 0.02]) / 16).astype(int).T
    brow = np.mean([colour[b - 8 : b + 8, a - 8 : a + 8].mean() for a, b in zip(x, y, strict=True)])
    assert brow < 0.8 * colour[y - 60, x].mean()


def test_folds_follow_the_table():
    matrix = fold_matrix(np.full(len(FOLDS), 0.5))
    from mesynth.core.facs import AU_CODES

    assert matrix[AU_CODES.index(4), FOLDS.index("glabella")] == pytest.approx(0.45)
    assert matrix[AU_CODES.index(27)].sum() == 0


@pytest.mark.parametrize("style", STYLES)
def test_hair_grows_on_the_scalp_and_not_on_the_face(model: HeadModel, style: str):
    field = hair_field(model, style, 0.0)
    assert (field[model.landmarks[17:]] < 0).all()
    crown = model.vertices[:, 1].argmax()
    assert field[crown] > 0
    assert (field[model.ear] < 0).all()


def test_long_hair_stays_beside_the_face(model: HeadModel):
    sheets = long_hair(model, model.vertices, np.random.default_rng(0))
    assert sheets.faces.max() < len(sheets.vertices)
    front = sheets.vertices[sheets.vertices[:, 2] > -0.7]
    assert np.abs(front[front[:, 1] < 0.5, 0]).min() > 0.85
