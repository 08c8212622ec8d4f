"""Masks of face regions on a picture, and clips confined to them."""

from __future__ import annotations

import numpy as np
import pytest

from mesynth.core import facs
from mesynth.core.errors import MesynthError
from mesynth.core.types import AUVector, Clip, Flow, Sample
from mesynth.generators.painting import GROUPS, cell_mask, confined, named_regions, region_mask
from mesynth.motion.nuisance import Nuisance
from mesynth.preprocess.regions import REGION_AUS, region_masks
from tests.generators.gan_facts import wide_face

K = len(facs.AU_CODES)


def test_groups_stand_for_regions_that_exist() -> None:
    for name, members in GROUPS.items():
        assert set(members) <= set(REGION_AUS), name
        assert name not in REGION_AUS
    assert named_regions("brows + mouth+left_brow") == ("left_brow", "right_brow", "glabella", "mouth")


@pytest.mark.parametrize("text", ["", "mouth+", "moustache", "mouth,brows"])
def test_unknown_names_are_one_line_with_the_choice(text: str) -> None:
    with pytest.raises(MesynthError, match=r"is unknown; join with '\+'.*lower_face.*right_eye") as error:
        named_regions(text)
    assert "\n" not in str(error.value)


def test_a_mask_on_a_picture_that_is_not_square_is_that_of_the_crop() -> None:
    """The picture is a crop with borders added: the mask is the crop's, moved by the same."""
    face, names = wide_face(64), named_regions("mouth+brows")
    inner = region_masks(face.landmarks - np.array([14, 3], np.float32), 64)
    expected = np.zeros(face.image.shape[:2], bool)
    expected[3:67, 14:78] = np.any([inner[name] for name in names], axis=0)
    np.testing.assert_array_equal(region_mask(face.landmarks, face.image.shape[:2], names), expected)


def test_regions_out_of_the_picture_are_refused() -> None:
    face = wide_face()
    with pytest.raises(MesynthError, match="no pixel of mouth lies in the picture"):
        region_mask(face.landmarks + 500, face.image.shape[:2], ("mouth",))


def test_a_cell_counts_with_one_pixel_of_the_region() -> None:
    mask = np.zeros((8, 8), bool)
    mask[3, 4] = mask[7, 7] = True
    expected = np.zeros((4, 4), bool)
    expected[1, 2] = expected[3, 3] = True
    np.testing.assert_array_equal(cell_mask(mask, 4), expected)


@pytest.mark.parametrize("noise", [0.0, 2.0])
def test_a_clip_is_confined_and_noise_is_the_cameras(noise: float) -> None:
    face = wide_face()
    height, width = face.image.shape[:2]
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (4, height, width, 3), dtype=np.uint8)
    frames[0] = face.image
    flow = Flow(np.zeros((2, height, width), np.float32), np.ones((height, width), bool))
    sample = Sample(Clip(frames, 50.0, 2), flow, AUVector(np.zeros((K, 2), np.float32)))
    mask = region_mask(face.landmarks, (height, width), ("mouth",))
    made = confined(sample, face.image, mask, nuisance=Nuisance(noise=noise), seed=1, flow_method="tvl1")
    outside = np.abs(made.clip.frames.astype(int) - face.image)[:, ~mask]
    assert (outside[0] == 0).all()
    if noise:
        assert 1.0 < outside[1:].std() < 2.5
    else:
        assert (outside == 0).all()
        np.testing.assert_array_equal(made.clip.frames[:, mask], frames[:, mask])
    assert np.abs(made.flow.uv).max() > 0
