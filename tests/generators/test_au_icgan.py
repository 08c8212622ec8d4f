"""AU-ICGAN: identity where nothing is asked, sizes, clips on any face, saving."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mesynth.core import facs
from mesynth.core.errors import ConfigError, MesynthError
from mesynth.core.profiles import PROFILES, Profile
from mesynth.core.types import AUVector
from mesynth.generators.au_icgan.network import AUICGAN, AUICGenerator, IntensityDiscriminator, RealismCritic
from mesynth.generators.base import load_pipeline
from mesynth.generators.blocks import halvings
from mesynth.generators.painting import carried_back, intensities
from mesynth.motion.nuisance import Nuisance
from mesynth.preprocess.align import SimilarityCrop
from mesynth.preprocess.flow import estimate_flow
from mesynth.store.generator_folder import GeneratorFacts, PipelineError, save_pipeline
from tests.devices import DEVICES
from tests.generators.gan_facts import count, damage, facts, wide_face

SIZE = 24
K = len(facs.AU_CODES)
REST = AUVector(np.zeros((K, 2), np.float32))
PROFILE = Profile(apex=0.5)


def network(seed: int = 0, **options: object) -> AUICGenerator:
    """Untrained; its mask lets paint through and it reacts to AUs through tiled channels and film."""
    torch.manual_seed(seed)
    made = AUICGenerator(**{"size": SIZE, "width": 8, "blocks": 1, **options})  # type: ignore[arg-type]
    for block in made.residual:
        if block.film is not None:
            torch.nn.init.normal_(block.film.affine.weight, std=0.3)
    torch.nn.init.normal_(made.paint.weight, std=0.1)
    return made.eval()


def generator(seed: int = 0) -> AUICGAN:
    values = GeneratorFacts(**facts("au_icgan"), size=SIZE)
    return AUICGAN(network(seed), values)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("film", [True, False])
def test_nothing_asked_returns_the_picture_bit_for_bit(film: bool, device: str) -> None:
    net = network(film=film).to(device)
    picture = torch.rand(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)).to(device)
    with torch.no_grad():
        assert torch.equal(net(picture, torch.zeros(3, K, 2, device=device)).picture, picture)


def test_tiled_aus_reach_the_output_without_film() -> None:
    """Instance norm on the first layer would subtract them: the published failure of an output that ignores AUs."""
    net = network(film=False, relative=False, prior=False)
    picture = torch.rand(2, 3, SIZE, SIZE)
    aus = torch.zeros(2, K, 2)
    aus[0, 0], aus[1, 8] = 1, 1
    with torch.no_grad():
        first, second = net(picture[:1].expand(2, -1, -1, -1), aus).colour
    inner = slice(9, -9)  # beyond the reach of the zero padding, by which a constant could be told as well
    assert (first - second)[:, inner, inner].abs().max() > 1e-3


def test_tiled_channels_as_numbers_equal_their_convolution() -> None:
    net, aus = network(), torch.rand(2, K, 2)
    numbers = net.tiled(aus.flatten(1))[:, :, None, None]
    kernels = net.tiled.weight[:, :, None, None].expand(-1, -1, 7, 7) / 49
    tiles = aus.flatten(1)[:, :, None, None].expand(-1, -1, SIZE + 6, SIZE + 6)
    torch.testing.assert_close(torch.nn.functional.conv2d(tiles, kernels), numbers.expand(-1, -1, SIZE, SIZE))


def test_a_relative_generator_starts_from_the_picture_and_redraws_when_it_has_learned_to() -> None:
    net, picture, aus = AUICGenerator(size=SIZE, width=8, blocks=1), torch.rand(1, 3, SIZE, SIZE), torch.rand(1, K, 2)
    with torch.no_grad():
        assert (net(picture, aus).picture - picture).abs().max() < 1 / 255
        torch.nn.init.constant_(net.paint.bias, 1.0)
        assert (net(picture, aus).picture > picture + 1 / 255).float().mean() > 0.9


def test_rows_do_not_see_each_other() -> None:
    net = network()
    pictures, aus = torch.rand(4, 3, SIZE, SIZE), torch.rand(4, K, 2)
    with torch.no_grad():
        together = net(pictures, aus).picture
        alone = torch.cat([net(pictures[i : i + 1], aus[i : i + 1]).picture for i in range(4)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_parameters_are_those_of_the_description() -> None:
    w, film = 64, 2 * 256 * 51
    stem = 3 * w * 49 + w + 50 * w  # the 50 tiled channels as one number a feature instead of 49
    down = 16 * (w * 2 * w + 2 * w * 4 * w) + 2 * (2 * w + 4 * w)
    blocks = 6 * (2 * 9 * 256 * 256 + 2 * 2 * 256 + film)
    up = 9 * (4 * w * 2 * w + 2 * w * w) + 2 * (2 * w + w)
    heads = 2 * w * 49 * 4 + 4
    assert count(AUICGenerator(relative=False, prior=False)) == stem + down + blocks + up + heads
    assert count(AUICGenerator(prior=False)) == stem + down + blocks + up + heads + 9 * 4 * w * w + 2 * w
    assert count(AUICGenerator()) == count(AUICGenerator(prior=False)) + 5 * 49 * w


def test_discriminators_have_the_stated_shapes() -> None:
    pictures = torch.rand(2, 3, 32, 32)
    assert RealismCritic(32, 8, 3)(pictures).shape == (2, 1, 4, 4)
    assert IntensityDiscriminator(32, 8, 6)(pictures, pictures).shape == (2, K, 2)
    with pytest.raises(ConfigError, match="size 7"):
        RealismCritic(7, 8, 3)


@given(st.integers(1, 512), st.integers(1, 16), st.integers(1, 8))
def test_halvings_stay_even_and_above_the_smallest(size: int, smallest: int, most: int) -> None:
    try:
        depth = halvings(size, smallest, most)
    except ConfigError:
        assert size % 2 or size // 2 < smallest
        return
    assert 1 <= depth <= most
    assert (size >> depth) << depth == size
    assert size >> depth >= smallest


def test_a_clip_follows_the_profile_and_says_that_its_flow_is_estimated() -> None:
    face = wide_face()
    sample, warnings = generator().generate(face, facs.parse_request("12=0.8,L4=0.5"), PROFILE, n_frames=9, fps=100)
    frames = sample.clip.frames
    assert warnings == ("flow estimated by tvl1",)
    assert frames.shape == (9, *face.image.shape)
    assert sample.clip.apex == PROFILE.apex_index(9) == 4
    np.testing.assert_array_equal(frames[0], face.image)
    np.testing.assert_array_equal(frames[-1], face.image)
    np.testing.assert_array_equal(sample.flow.uv, estimate_flow(frames[0], frames[4]).uv)
    change = np.abs(frames.astype(float) - face.image).mean((1, 2, 3))
    assert change[4] > 1
    assert (np.diff(change[:5]) > 0).all()
    assert (np.diff(change[4:]) < 0).all()


def test_nothing_asked_gives_the_photo_in_every_frame() -> None:
    face = wide_face()
    sample, _ = generator().generate(face, REST, PROFILE, n_frames=5, fps=50)
    assert (sample.clip.frames == face.image).all()


def test_the_same_call_gives_the_same_bytes_after_any_other() -> None:
    made, face, aus = generator(), wide_face(), facs.parse_request("1=0.6")
    options = {"n_frames": 20, "fps": 100.0, "nuisance": Nuisance(noise=2, blink=1), "seed": 3}
    first, _ = made.generate(face, aus, PROFILES["casme2"], **options)  # type: ignore[arg-type]
    made.generate(face, facs.parse_request("12=0.6"), PROFILE, n_frames=5, fps=50)
    again, _ = made.generate(face, aus, PROFILES["casme2"], **options)  # type: ignore[arg-type]
    np.testing.assert_array_equal(first.clip.frames, again.clip.frames)
    np.testing.assert_array_equal(first.clip.frames[0], face.image)


@pytest.mark.parametrize(
    ("aus", "nuisance", "says"),
    [
        ("12=0.5,15=0.5", Nuisance(), "AU 12 and AU 15"),
        ("12=0.5", Nuisance(head=1), "head-motion=1"),
        ("12=0.5", Nuisance(style=0.5), "style=0.5"),
    ],
)
def test_what_cannot_be_drawn_is_refused(aus: str, nuisance: Nuisance, says: str) -> None:
    with pytest.raises(MesynthError, match=says):
        generator().generate(wide_face(), facs.parse_request(aus), PROFILE, n_frames=5, fps=50, nuisance=nuisance)


@settings(max_examples=20, deadline=None)
@given(st.integers(3, 40), st.integers(0, 5), st.sampled_from(sorted(PROFILES)), st.sampled_from([0.0, 1.0]))
def test_intensities_start_at_rest_peak_at_the_apex_and_stay_in_range(
    n: int, seed: int, name: str, blink: float
) -> None:
    aus, profile = facs.parse_request("12=0.8,L4=0.5"), PROFILES[name]
    asked, alpha = intensities(aus, profile, n, 100, blink, seed)
    assert asked.shape == (n, K, 2)
    assert asked.min() >= 0
    assert asked.max() <= 1
    assert not asked[0].any()
    others = [k for k in range(K) if facs.AU_CODES[k] != 45]
    np.testing.assert_array_equal(asked[profile.apex_index(n)][others], aus.intensity[others])
    assert alpha[profile.apex_index(n)] == 1
    if not blink:
        assert not asked[:, facs.AU_INDEX[45]].any()


def test_a_change_is_carried_back_to_where_the_crop_took_it_from() -> None:
    face = wide_face(64)
    crop = SimilarityCrop.from_landmarks(face.landmarks, 32)
    y, x = np.mgrid[:32, :32] / 31
    smooth = np.stack([np.sin(3 * x), np.cos(2 * y), x * y], -1).astype(np.float32)
    back = carried_back(smooth[None], crop, face.image.shape[:2])[0]
    points = np.array([[20.0, 12.0], [9.0, 25.0], [16.0, 16.0]])
    source = (points - crop.matrix[:, 2]) @ np.linalg.inv(crop.matrix[:, :2]).T
    for (cx, cy), (sx, sy) in zip(points.astype(int), source, strict=True):
        np.testing.assert_allclose(back[round(sy), round(sx)], smooth[cy, cx], atol=0.06)
    assert not back[:, 0].any()  # outside the crop


def test_saved_and_loaded_it_paints_the_same_bytes(tmp_path: Path) -> None:
    made = network(4)
    save_pipeline(tmp_path / "g", {"generator": made}, facts("au_icgan"), "# card\n", size=SIZE)
    loaded = load_pipeline(tmp_path / "g")
    assert isinstance(loaded, AUICGAN)
    assert (loaded.family, loaded.size, loaded.facts.subjects_seen) == ("au_icgan", SIZE, ("rendered/a", "rendered/b"))
    for key, value in made.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[key], value), key
    asked = {"aus": facs.parse_request("4=1"), "profile": PROFILE, "n_frames": 4, "fps": 50.0}
    ours, _ = AUICGAN(made, loaded.facts).generate(wide_face(), **asked)  # type: ignore[arg-type]
    theirs, _ = loaded.generate(wide_face(), **asked)  # type: ignore[arg-type]
    np.testing.assert_array_equal(ours.clip.frames, theirs.clip.frames)
    damage(tmp_path / "g")
    with pytest.raises(PipelineError, match="sha256 differs"):
        load_pipeline(tmp_path / "g")


def test_weights_of_another_class_are_refused(tmp_path: Path) -> None:
    save_pipeline(tmp_path / "g", {"generator": network()}, facts("ice_gan"), "# card\n", size=SIZE)
    with pytest.raises(PipelineError, match="AUICGenerator, not a ICEGenerator"):
        load_pipeline(tmp_path / "g")
