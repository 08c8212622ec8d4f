"""Face regions, against the exact motion of the rendered head."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesynth.core.errors import MesynthError
from mesynth.core.facs import AU_CODES, AU_INDEX
from mesynth.head import Subject
from mesynth.preprocess.align import mean_face
from mesynth.preprocess.regions import (  # fmt: skip
    REGION_AUS,
    RIGID,
    eye_crop,
    grid_boxes,
    hide_eyes_mask,
    keep_mask,
    landmark_patches,
    mouth_crop,
    polygon_mask,
    region_masks,
    region_polygons,
    rigid_mask,
    rigid_polygons,
)

SIZE = 128


@pytest.fixture(scope="module")
def face() -> tuple[Subject, np.ndarray]:
    subject = Subject(3, size=SIZE, frontal=True, supersample=1)
    return subject, subject.landmarks()


@pytest.fixture(scope="module")
def motion(face: tuple[Subject, np.ndarray]) -> dict[int, np.ndarray]:
    """AU -> [H,W] pixels: how far the skin moves at intensity 1."""
    out = {}
    for code in AU_CODES:
        au = np.zeros((len(AU_CODES), 2), np.float32)
        au[AU_INDEX[code]] = 1
        out[code] = np.hypot(*face[0].flow(0 * au, au).uv)
    return out


def test_every_au_shows_in_the_regions_listed_for_it(
    face: tuple[Subject, np.ndarray], motion: dict[int, np.ndarray]
) -> None:
    masks = region_masks(face[1], SIZE)
    assert set(masks) == set(REGION_AUS)
    mean = {(name, code): float(motion[code][mask].mean()) for name, mask in masks.items() for code in AU_CODES}
    for name, codes in REGION_AUS.items():
        for code in codes:
            assert mean[name, code] > 0.4, f"AU {code} in {name}"
    for code in AU_CODES:
        most = max(mean[name, code] for name in masks)
        listed = max((mean[name, code] for name, codes in REGION_AUS.items() if code in codes), default=0.0)
        assert listed > 0.55 * most, f"AU {code} moves another region more"


def test_the_rigid_mask_hardly_moves(face: tuple[Subject, np.ndarray], motion: dict[int, np.ndarray]) -> None:
    mask = rigid_mask(face[1], SIZE)
    assert mask.sum() > 400
    skin = face[0].flow(np.zeros((25, 2), np.float32), np.zeros((25, 2), np.float32)).face
    total = np.sqrt(np.mean([m**2 for m in motion.values()], axis=0))
    assert total[mask].mean() < 0.25 * total[skin].mean()
    for code, amount in motion.items():  # full intensity: five times a micro-expression
        assert amount[mask].mean() < 0.8, f"AU {code}"
    assert not (mask & keep_mask(face[1], SIZE, ("left_eye", "right_eye"))).any()
    assert set(rigid_polygons(face[1])) == set(RIGID)


def test_left_is_the_subjects_left_at_image_right(face: tuple[Subject, np.ndarray]) -> None:
    polygons = region_polygons(face[1])
    for name in polygons:
        if name.startswith("left_"):
            assert polygons[name][:, 0].mean() > SIZE / 2 > polygons["right_" + name[5:]][:, 0].mean()
    au = np.zeros((25, 2), np.float32)
    au[AU_INDEX[12], 0] = 1  # column 0: the subject's left
    moved = np.hypot(*face[0].flow(0 * au, au).uv)
    masks = region_masks(face[1], SIZE)
    assert moved[masks["left_lip_corner"]].mean() > 10 * moved[masks["right_lip_corner"]].mean()


@settings(max_examples=20, deadline=None)
@given(st.floats(-0.4, 0.4), st.floats(0.4, 2.0), st.floats(-20, 20), st.floats(-20, 20))
def test_regions_turn_with_the_face(angle: float, scale: float, x: float, y: float) -> None:
    points = mean_face() * SIZE
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    for shapes in (region_polygons, rigid_polygons):
        still, moved = shapes(points), shapes(points @ turn.T + [x, y])
        for name in still:
            assert moved[name] == pytest.approx(still[name] @ turn.T + [x, y], abs=1e-2)


def test_a_symmetric_face_has_symmetric_masks() -> None:
    masks = region_masks(mean_face() * SIZE - 0.5, SIZE)
    for name, mask in masks.items():
        other = name.replace("left_", "?").replace("right_", "left_").replace("?", "right_")
        assert (mask != masks[other][:, ::-1]).sum() <= 0.02 * mask.sum() + 2  # pixel centres on an edge


def test_polygon_mask_takes_pixel_centres() -> None:
    mask = polygon_mask(np.array([[0.5, 1.5], [3.5, 1.5], [3.5, 4.5], [0.5, 4.5]]), 6)
    expected = np.zeros((6, 6), bool)
    expected[2:5, 1:4] = True
    assert np.array_equal(mask, expected)
    outside = polygon_mask(np.array([[-9.0, -9.0], [-3.0, -9.0], [-3.0, 20.0]]), 6)
    assert not outside.any()
    assert polygon_mask(np.array([[-9.0, -9.0], [99.0, -9.0], [99.0, 99.0], [-9.0, 99.0]]), 6).all()


@given(st.integers(1, 64), st.data())
def test_the_grid_covers_every_pixel_once(size: int, data: st.DataObject) -> None:
    rows, columns = data.draw(st.integers(1, size)), data.draw(st.integers(1, size))
    seen = np.zeros((size, size), int)
    boxes = grid_boxes(size, rows, columns)
    for left, top, right, bottom in boxes:
        seen[top:bottom, left:right] += 1
    assert (seen == 1).all()
    assert len(boxes) == rows * columns
    assert np.ptp(boxes[:, 2] - boxes[:, 0]) <= 1
    assert boxes[0].tolist()[:2] == [0, 0]
    if columns > 1:
        assert boxes[1, 0] > 0  # row by row
        assert boxes[1, 1] == 0


def test_crops_are_centred_and_levelled(face: tuple[Subject, np.ndarray]) -> None:
    """Draw the landmarks as dots; they land where they should."""
    angle = 0.2
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = ((face[1] - 64) @ turn.T * 2 + 160).astype(np.float32)
    frames = np.zeros((2, 320, 320, 3), np.uint8)
    for i, channel in ((36, 0), (39, 0), (42, 1), (45, 1), (48, 2), (54, 2)):
        x, y = np.round(points[i]).astype(int)
        frames[:, y - 2 : y + 3, x - 2 : x + 3, channel] = 255
    eyes, mouth = eye_crop(frames, points, 64), mouth_crop(frames, points, 64)
    assert eyes.shape == (2, 2, 64, 64, 3)
    assert mouth.shape == (2, 64, 64, 3)
    assert (
        eyes[0, 0, ..., 1].max() > 150
    )  # the subject's left first, and neither crop reaches the other eye's far corner
    assert eyes[1, 0, ..., 0].max() > 150
    y, x = np.nonzero(mouth[0, ..., 2] > 60)
    assert x.mean() == pytest.approx(31.5, abs=1.5)  # both corners, either side of the middle
    left, right = (y[x < 32].mean(), y[x >= 32].mean())
    assert left == pytest.approx(right, abs=1.5)


def test_patches_are_copies() -> None:
    frames = np.random.default_rng(0).integers(0, 255, (3, SIZE, SIZE, 3), np.uint8)
    points = (mean_face() * SIZE - 0.5).astype(np.float32)
    patches = landmark_patches(frames, points, 9, [30, 48])
    assert patches.shape == (2, 3, 9, 9, 3)
    x, y = np.floor(points[48] + 0.5).astype(int)
    assert np.array_equal(patches[1], frames[:, y - 4 : y + 5, x - 4 : x + 5])
    assert landmark_patches(frames, points, 8).shape == (51, 3, 8, 8, 3)
    corner = landmark_patches(frames, points - points[48], 5, [48])[0]
    assert (corner[:, :3, :3] == frames[:, :1, :1]).all()  # the border is replicated


def test_keep_and_hide(face: tuple[Subject, np.ndarray]) -> None:
    masks = region_masks(face[1], SIZE)
    cheeks = keep_mask(face[1], SIZE, ("left_cheek", "right_cheek"))
    assert np.array_equal(cheeks, masks["left_cheek"] | masks["right_cheek"])
    assert not keep_mask(face[1], SIZE, ()).any()
    hidden = ~hide_eyes_mask(face[1], SIZE)
    for i in (*range(36, 48),):
        x, y = np.round(face[1][i]).astype(int)
        assert hidden[y, x]
    au = np.zeros((25, 2), np.float32)
    au[AU_INDEX[45]] = 1
    flow = np.hypot(*face[0].flow(0 * au, au).uv)
    assert flow[hidden].sum() > 0.85 * flow.sum()  # a blink is gone from what is left


def test_bad_input() -> None:
    points, frames = mean_face() * SIZE, np.zeros((2, SIZE, SIZE, 3), np.uint8)
    with pytest.raises(MesynthError, match="68 finite points"):
        region_polygons(points[:5])
    with pytest.raises(MesynthError, match="68 finite points"):
        rigid_mask(np.full((68, 2), np.nan), SIZE)
    with pytest.raises(MesynthError, match="do not show a face"):
        region_masks(np.zeros((68, 2)), SIZE)
    with pytest.raises(MesynthError, match="'moustache' is unknown; choose from chin"):
        keep_mask(points, SIZE, ("moustache",))
    with pytest.raises(MesynthError, match="rows=0"):
        grid_boxes(8, 0, 2)
    with pytest.raises(MesynthError, match="columns=9"):
        grid_boxes(8, 2, 9)
    with pytest.raises(MesynthError, match="uint8 RGB"):
        mouth_crop(frames.astype(np.float32), points, 32)
    with pytest.raises(MesynthError, match="side of 0 pixels"):
        eye_crop(frames, points, 0)
    with pytest.raises(MesynthError, match="0 to 67"):
        landmark_patches(frames, points, 8, [68])
