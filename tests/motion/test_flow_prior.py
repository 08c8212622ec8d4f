"""The flow prior against the fields it is made of, and its promise that an image depends on its own request alone."""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesynth.core import facs
from mesynth.core.errors import MesynthError
from mesynth.core.profiles import PROFILES
from mesynth.core.seeds import stream
from mesynth.motion.fields import basis
from mesynth.motion.flow_prior import (
    CELLS,
    OFF,
    FlowNuisance,
    FlowPrior,
    FlowRequest,
    effective_intensity,
    parse_flow_nuisance,
    tables,
)
from mesynth.motion.nuisance import head_basis, head_path
from mesynth.preprocess.align import EYE_LINE, IOD_SHARE

NAMES = [f.name for f in fields(FlowNuisance)]
GRID = int(np.sqrt(len(tables().texture)))


def ask(request: str = "4=C,L12=0.3", seed: int = 1, **changes: object) -> FlowRequest:
    values = {"person": "db/a", "profile": PROFILES["symmetric"], "n_frames": 21, "fps": 50.0, "blink": 0.0}
    vector = facs.parse_request(request).intensity
    return FlowRequest(intensity=vector, seed=seed, **(values | changes))  # type: ignore[arg-type]


def crop_uv(size: int) -> np.ndarray:
    at = (np.arange(size) + 0.5) / size
    return np.stack(np.meshgrid((at - 0.5) / IOD_SHARE, (at - EYE_LINE) / IOD_SHARE), -1)


@pytest.mark.parametrize("size", [28, 64])
@pytest.mark.parametrize("request_", ["12=B", "L4=0.4", "1=B,2=B,5=A", "17=0.3"])
def test_without_nuisances_it_is_the_fields(size: int, request_: str) -> None:
    """On the mean face the flow is the sum of the AUs' fields, in pixels of an aligned crop; tables err by 3 %."""
    one = ask(request_, head=0.0, style=0.0)
    exact = np.einsum("a,ahwc->chw", one.intensity.ravel(), basis(crop_uv(size), CELLS)[..., :2]) * IOD_SHARE * size
    drawn = FlowPrior(size, replace(OFF, asymmetry=1.0)).draw([one])[0]
    assert drawn.dtype == np.float32
    assert np.abs(drawn - exact).max() < 0.03 * np.abs(exact).max()
    assert np.abs(drawn - exact).mean() < 0.01 * np.abs(exact).mean() + 1e-6


def test_head_motion_is_the_clips_own() -> None:
    one = ask("12=0", head=1.0)
    path = head_path(21, 1.0, stream(1, "head"))[10]
    exact = np.einsum("a,ahwc->chw", path, head_basis(crop_uv(28).astype(np.float32))) * IOD_SHARE * 28
    np.testing.assert_allclose(FlowPrior(28, replace(OFF, head=1.0)).draw([one])[0], exact, atol=1e-6)


def test_nothing_moves_when_nothing_is_asked() -> None:
    assert not FlowPrior(28, OFF).draw([ask("12=0")]).any()


@settings(max_examples=10, deadline=None)
@given(st.data())
def test_an_image_does_not_depend_on_its_batch(data: st.DataObject) -> None:
    """Bit for bit: alone, in any order, among any others, over the border of a block."""
    requests = st.sampled_from(["12=B", "4=C,L7=0.2", "1=B,2=B,R5=0.1", "17=A", "45=0"])
    pool = [
        ask(data.draw(requests), seed, person=f"p{seed % 3}", blink=0.5, n_frames=data.draw(st.integers(3, 40)))
        for seed in data.draw(st.lists(st.integers(0, 2**31), min_size=2, max_size=9))
    ]
    size, block = data.draw(st.sampled_from([(28, 64), (96, 5)]))
    prior = FlowPrior(size)
    whole = prior.draw(pool)
    order = data.draw(st.permutations(range(len(pool))))
    np.testing.assert_array_equal(prior.draw([pool[i] for i in order]), whole[list(order)])
    np.testing.assert_array_equal(prior.draw(pool[1:2] * (block + 2))[-1], whole[1])


@pytest.mark.parametrize("name", NAMES)
def test_each_nuisance_can_be_switched_alone(name: str) -> None:
    asked = [ask("4=C,7=B,R12=0.4", seed, blink=1.0) for seed in range(24)]
    usual = FlowPrior(28).draw(asked)
    without = FlowPrior(28, replace(FlowNuisance(), **{name: 0.0})).draw(asked)
    alone = FlowPrior(28, replace(OFF, **{name: 1.0})).draw(asked)
    none = FlowPrior(28, OFF).draw(asked)
    assert (usual != without).any()
    assert (alone != none).any()
    assert np.isfinite(usual).all()


def test_switching_one_leaves_the_others_numbers() -> None:
    """Nuisances that add to the image add the same with or without each other."""
    asked = [ask("12=0", seed, blink=0.0, style=0.0) for seed in range(6)]

    def draw(**on: float) -> np.ndarray:
        return FlowPrior(28, replace(OFF, **on)).draw(asked)

    head, both = draw(head=1.0), draw(head=1.0, shape=0.0, texture=0.0, blink=1.0, heads=1.0)
    np.testing.assert_array_equal(head, both)
    assert (draw(head=2.0) == 2 * head).all()


def test_a_person_keeps_the_shape_and_a_clip_its_own_rest() -> None:
    prior = FlowPrior(28, replace(OFF, heads=1.0))
    first, again, other = prior.draw([ask(seed=1), ask(seed=2), ask(seed=1, person="db/b")])
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_texture_only_loses_motion_and_blur_only_smooths() -> None:
    asked = [ask("12=C,4=C", seed) for seed in range(20)]
    bare = FlowPrior(28, OFF).draw(asked)
    lost = FlowPrior(28, replace(OFF, texture=1.0)).draw(asked)
    ratio = np.hypot(*lost.transpose(1, 0, 2, 3)) / np.maximum(np.hypot(*bare.transpose(1, 0, 2, 3)), 1e-9)
    moving = np.hypot(*bare.transpose(1, 0, 2, 3)) > 1e-4
    assert ratio[moving].max() <= 1 + 1e-5
    shares = ratio.max((1, 2), where=moving, initial=0), ratio.min((1, 2), where=moving, initial=1)
    assert (shares[0] > 0.9).all()  # brows, lids, nose and mouth keep what they have
    assert shares[1].max() <= 0.61  # smooth skin: U(0, .6) of it
    assert shares[1].min() < 0.2
    blurred = FlowPrior(28, replace(OFF, blur=1.0)).draw(asked)
    rough = [np.abs(np.diff(x, 2, axis=-1)).sum() for x in (bare, blurred)]
    assert rough[1] < rough[0]


def test_noise_is_what_the_design_says() -> None:
    """sd .22 exp(.7 N) of the image's rms: the median share over many images is .22."""
    asked = [ask("12=C,4=C", seed) for seed in range(150)]
    bare, noisy = FlowPrior(28, OFF).draw(asked), FlowPrior(28, replace(OFF, noise=1.0)).draw(asked)
    share = np.sqrt(((noisy - bare) ** 2).mean((1, 2, 3)) / (bare**2).mean((1, 2, 3)))
    assert 0.15 < np.median(share) < 0.27


def test_asymmetry_is_also_in_the_label() -> None:
    cells = facs.parse_request("L12=0.4,17=0.2").intensity
    np.testing.assert_array_equal(effective_intensity(FlowNuisance(), cells), cells)
    even = effective_intensity(OFF, cells)
    np.testing.assert_allclose(even[facs.AU_INDEX[12]], [0.2, 0.2])
    np.testing.assert_allclose(even[facs.AU_INDEX[17]], [0.2, 0.2])
    flow = FlowPrior(28, OFF).draw([ask("L12=0.4")])[0]
    np.testing.assert_allclose(flow[1], flow[1, :, ::-1], atol=0.01 * np.abs(flow).max())
    np.testing.assert_allclose(flow[0], -flow[0, :, ::-1], atol=0.01 * np.abs(flow).max())


def test_both_heads_agree_on_what_an_au_is() -> None:
    """The second head's fields are a mesh's: cosine .67 (AU 9) or more with the table's, never another motion."""
    both = tables().fields.reshape(2, len(facs.AU_CODES), 2, GRID * GRID * 2).sum(2).astype(np.float64)
    cosine = (both[0] * both[1]).sum(1) / np.sqrt((both**2).sum(2).prod(0))
    assert cosine.min() > 0.6
    assert np.median(cosine) > 0.88


def test_strengths_by_name() -> None:
    assert parse_flow_nuisance("") == FlowNuisance()
    assert parse_flow_nuisance("noise=0, blur=0.5") == replace(FlowNuisance(), noise=0.0, blur=0.5)
    assert parse_flow_nuisance("none") == OFF
    assert parse_flow_nuisance("none,head=2") == replace(OFF, head=2.0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("smoke=1", "'smoke=1' is unknown"),
        ("noise", "'noise' is unknown"),
        ("noise=much", "is no number"),
        ("noise=-1", "noise=-1 is outside"),
        ("texture=2", r"texture=2 is outside \[0, 1\]"),
        ("head=nan", "head=nan is outside"),
    ],
)
def test_bad_strengths(text: str, says: str) -> None:
    with pytest.raises(MesynthError, match=says):
        parse_flow_nuisance(text)


@pytest.mark.parametrize("size", [0, 13, 257])
def test_bad_sizes(size: int) -> None:
    with pytest.raises(MesynthError, match=f"of {size} pixels"):
        FlowPrior(size)


def test_no_rows_no_images() -> None:
    assert FlowPrior(28).draw([]).shape == (0, 2, 28, 28)
