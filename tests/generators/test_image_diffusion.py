"""Image diffusion as a generator: two guidance scales, intensity 0, regions, rows, saving."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mesynth.core import facs
from mesynth.core.errors import ConfigError, MesynthError
from mesynth.core.profiles import Profile
from mesynth.core.types import AUVector, Sample
from mesynth.generators.base import ClipRequest, load_pipeline
from mesynth.generators.diffusion_config import Process
from mesynth.generators.image_diffusion.config import ImageProcess, ImageSampling, Spread
from mesynth.generators.image_diffusion.network import (
    Around,
    Codec,
    ImageDenoiser,
    ImageDiffusion,
    PixelSpace,
    expected_picture,
    guided_denoiser,
    painted,
    strength,
    two_guided,
    unet_config,
)
from mesynth.generators.motion_gan.network import MotionGAN, MotionGenerator
from mesynth.generators.painting import region_mask
from mesynth.generators.registry import PriorGenerator
from mesynth.motion.nuisance import Nuisance
from mesynth.motion.prior import WARP_LIMIT, Face
from mesynth.store.generator_folder import GeneratorFacts, PipelineError, save_pipeline
from tests.devices import DEVICES
from tests.generators.gan_facts import facts, wide_face
from tests.generators.tiny_foreign import save_vae

SIZE = 16
K = len(facs.AU_CODES)
REST = AUVector(np.zeros((K, 2), np.float32))
PROFILE = Profile(apex=0.5)
SMILE = facs.parse_request("12=0.8,L4=0.5")


def network(channels: int = 12, side: int = 8, size: int = SIZE, **options: object) -> ImageDenoiser:
    """Untrained but not silent: what starts at zero is drawn, so that it reacts to everything it is told."""
    torch.manual_seed(0)
    unet = unet_config(
        channels=channels, side=side, width=8, multipliers=(1, 2), layers=1, heads=2, dim=16,
        inputs=3 if options.get("expect") else 2,
    )  # fmt: skip
    values: dict[str, object] = {
        "unet": unet, "channels": channels, "identity_tokens": 2, "identity_width": 4, "size": size,
        "sampling": {"steps": 3},
    }  # fmt: skip
    made = ImageDenoiser(**{**values, **options})  # type: ignore[arg-type]
    for parameter in (made.body.conv_out.weight, made.body.time_embedding.cond_proj.weight, made.null_onset):  # type: ignore[union-attr]
        torch.nn.init.normal_(parameter, std=0.2)  # type: ignore[arg-type]
    return made.eval().requires_grad_(False)


def mover() -> MotionGenerator:
    """Untrained: it moves skin as the motion prior does."""
    torch.manual_seed(1)
    return MotionGenerator(size=SIZE, width=8).eval().requires_grad_(False)


def generator(**options: object) -> ImageDiffusion:
    known = GeneratorFacts(**facts("image_diffusion"), size=SIZE)
    mean_model = mover() if options.get("expect") == "motion_gan" else None
    return ImageDiffusion(network(**options), known, mean_model=mean_model)


def around(codec: Codec, n: int, device: str = "cpu") -> Around:
    """Of random onsets and AUs."""
    picture, aus, known = (t.to(device) for t in rows(n))
    return codec.around(picture, aus, known)


def rows(n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    aus = torch.rand(n, K, 2, generator=generator)
    return torch.rand(n, 3, SIZE, SIZE, generator=generator), aus, torch.ones_like(aus, dtype=torch.bool)


@given(st.floats(0, 5), st.floats(0, 5))
def test_two_scales_do_what_the_formula_says(identity: float, aus: float) -> None:
    """A toy network that says how much it was told: 1 for the onset, 10 for the AUs, 100 for the noisy code."""

    def toy(x, level, onset, asked, known, null_aus, null_onset, expected):  # type: ignore[no-untyped-def]
        told = 1.0 * ~null_onset + 10.0 * ~null_aus
        return (told * onset.flatten(1).amax(1)).view(-1, 1, 1, 1) + 100 * x

    process, onset = Process(), torch.tensor([1.0, 2.0]).view(2, 1, 1, 1).expand(2, 1, 2, 2)
    x, sigma = torch.full((2, 1, 2, 2), 0.3), torch.tensor([0.5, 2.0])
    sampling = ImageSampling(guidance=aus, identity_guidance=identity)
    known = torch.ones(2, K, 2, dtype=torch.bool)
    told = Around(onset, onset, onset, None)
    made = guided_denoiser(toy, process, told, known.float(), known, sampling)(x, sigma)

    def alone(told: float) -> torch.Tensor:
        return process.denoised(lambda x, _: told * onset + 100 * x, x, sigma)

    expected = alone(0) + identity * (alone(1) - alone(0)) + aus * (alone(11) - alone(1))
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(two_guided(alone(0), alone(1), alone(11), identity, aus), expected)


@pytest.mark.parametrize(
    ("identity", "aus", "passes"), [(1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 3, 3), (0, 0, 1), (1, 0, 1), (2, 0, 2)]
)
def test_no_estimate_is_taken_for_nothing(identity: float, aus: float, passes: int) -> None:
    seen = []

    def toy(x, *told):  # type: ignore[no-untyped-def]
        seen.append(len(x))
        return x

    onset, known = torch.rand(3, 1, 2, 2), torch.ones(3, K, 2, dtype=torch.bool)
    sampling = ImageSampling(guidance=aus, identity_guidance=identity)
    told = Around(onset, onset, onset, None)
    guided_denoiser(toy, Process(), told, known.float(), known, sampling)(onset, torch.ones(3))
    assert seen == [3 * passes]


def test_the_network_hears_everything_and_nulls_replace_it() -> None:
    net = network()
    x, onset = torch.randn(2, 1, 12, 8, 8)
    _, aus, known = rows(1)
    no, yes, level = torch.tensor([False]), torch.tensor([True]), torch.tensor([500.0])
    plain = net(x, level, onset, aus, known, no, no)
    assert plain.shape == (1, 12, 8, 8)
    for other in (
        net(x, level / 2, onset, aus, known, no, no), net(x, level, -onset, aus, known, no, no),
        net(x, level, onset, 1 - aus, known, no, no), net(x, level, onset, aus, ~known, no, no),
        net(x, level, onset, aus, known, yes, no), net(x, level, onset, aus, known, no, yes),
    ):  # fmt: skip
        assert (other - plain).abs().max() > 1e-4
    assert torch.equal(net(x, level, onset, aus, known, yes, no), net(x, level, onset, 1 - aus, ~known, yes, no))
    assert torch.equal(net(x, level, onset, aus, known, no, yes), net(x, level, -onset, aus, known, no, yes))


def test_the_network_is_told_what_is_expected_unless_it_is_told_nothing() -> None:
    net = network(expect="motion_gan")
    _, aus, known = rows(2)
    x, onset, expected = torch.randn(3, 2, 12, 8, 8)
    level, no, yes = torch.tensor([500.0, 500.0]), torch.tensor([False, False]), torch.tensor([True, False])
    told = net(x, level, onset, aus, known, no, no, expected)
    assert (net(x, level, onset, aus, known, no, no, -expected) - told).abs().max() > 1e-4
    for nulls in ((yes, no), (no, yes)):  # a row that leaves out either hears nothing of both
        a, b = (net(x, level, onset, aus, known, *nulls, e) for e in (expected, -expected))
        assert torch.equal(a[0], b[0])
        assert not torch.equal(a[1], b[1])


def test_what_is_drawn_lies_around_what_is_expected() -> None:
    """Data of 0 are the expected picture; what nobody asks for is the onset, and so is what nobody knows."""
    codec, (picture, aus, known) = Codec(PixelSpace(SIZE, 2), "change", 1.0, mover()), rows(3)
    aus[0] = 0
    known[1] = False
    made, full = codec.around(picture, aus, known), torch.ones(3)
    expected = expected_picture(codec.mean_model, picture, aus, known)
    assert torch.equal(expected[:2], picture[:2])
    assert (expected[2] - picture[2]).abs().max() > 0.02
    moved = codec.change(torch.zeros_like(made.mean), made, full, None)
    torch.testing.assert_close(picture + moved, expected, atol=2e-6, rtol=0)
    assert not moved[:2].any()
    assert made.shown is not None
    torch.testing.assert_close(made.shown * codec.spread.sigma_data, made.mean - made.onset)
    # Without fading nothing but what is expected is left.
    assert torch.equal(codec.change(torch.randn_like(made.mean), made, 0 * full, None), moved)


def test_the_spread_grows_with_what_is_expected_around_and_with_what_is_unknown() -> None:
    spread = Spread(sigma_min=0.01, sigma_share=0.5, sigma_data=0.2)
    change, known = torch.zeros(3, 12, 9, 9), torch.ones(3, K, 2, dtype=torch.bool)
    change[1, :, 4, 4] = 0.25
    known[2, : K // 2] = False
    made = spread.of(change, known)
    assert made.shape == (3, 1, 9, 9)
    torch.testing.assert_close(made[0], torch.full((1, 9, 9), 0.01))
    near = (0.01**2 + 0.5**2 * 0.25 / 25) ** 0.5
    torch.testing.assert_close(made[1, 0, 2:7, 2:7], torch.full((5, 5), near))
    torch.testing.assert_close(made[1, 0, 0], torch.full((9,), 0.01))
    torch.testing.assert_close(made[2], torch.full((1, 9, 9), (0.01**2 + 0.2**2 * (K // 2 / K)) ** 0.5))
    for wrong in ({"sigma_min": 0.0}, {"sigma_share": -1.0}, {"sigma_data": float("nan")}):
        with pytest.raises(MesynthError, match=f"spread {next(iter(wrong))}=.* must be positive"):
            Spread(**wrong)


@pytest.mark.parametrize("target", ["change", "picture", "expected"])
@pytest.mark.parametrize("device", DEVICES)
def test_clean_codes_give_the_frame_back(target: str, device: str) -> None:
    expectation = mover().to(device) if target == "expected" else None
    gain = 1.0 if target == "picture" else 18.0
    wide = Spread(sigma_min=1.0)  # any frame lies within reach
    codec = Codec(PixelSpace(SIZE, 2), "picture" if target == "picture" else "change", gain, expectation, wide)
    (picture, *asked), frame = (t.to(device) for t in rows(2)), torch.rand(2, 3, SIZE, SIZE, device=device)
    made = codec.around(picture, *asked)
    full = torch.ones(2, device=device)
    back = codec.change(codec.clean(codec.space.encode(frame), made), made, full, None)
    torch.testing.assert_close(picture + back, frame, atol=1e-4 if expectation else 2e-5, rtol=0)
    still = codec.change(codec.still(made), made, full, None)
    torch.testing.assert_close(still, torch.zeros_like(still), atol=2e-6, rtol=0)


def test_strength_is_the_largest_au_and_one_where_any_is_unknown() -> None:
    aus = torch.zeros(4, K, 2)
    aus[1, 3, 0], aus[2, 5] = 0.6, 0.02
    known = torch.ones(4, K, 2, dtype=torch.bool)
    known[3, 0] = False
    torch.testing.assert_close(strength(aus, known), torch.tensor([0.1, 0.6, 0.1, 1.0]))


@pytest.mark.parametrize("options", [{"target": "change"}, {"target": "picture"}, {"expect": "motion_gan"}], ids=str)
def test_nothing_asked_gives_the_photo_in_every_frame_bit_for_bit(options: dict[str, object]) -> None:
    face, made = wide_face(), generator(**options)
    sample, _ = made.generate(face, REST, PROFILE, n_frames=4, fps=50)
    assert (sample.clip.frames == face.image).all()
    onset, aus, known = rows(3)
    aus[1] = 0
    change = made.changes(onset, aus, known, [0, 1, 2])
    assert torch.equal(change[1], torch.zeros_like(change[1]))
    assert change[0].abs().max() > 0


@pytest.mark.parametrize(("scale", "expect"), [(1.0, ""), (2.5, ""), (2.5, "motion_gan")])
def test_rows_do_not_depend_on_their_batch(scale: float, expect: str) -> None:
    made = generator(expect=expect).configured(guidance=scale, identity_guidance=1.5)
    onset, aus, known = rows(3)
    together = made.changes(onset, aus, known, [5, 6, 5])
    for i, seed in enumerate([5, 6, 5]):
        part = slice(i, i + 1)
        assert torch.equal(made.changes(onset[part], aus[part], known[part], [seed])[0], together[i])
    same = made.changes(onset[[0, 0]], aus[[0, 0]], known[[0, 0]], [5, 6])
    assert not torch.equal(same[0], same[1])


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_rows_agree_with_the_cpus() -> None:
    onset, aus, known = rows(3)
    cpu = generator().changes(onset, aus, known, [5, 6, 7])
    cuda = generator().to("cuda").changes(onset.cuda(), aus.cuda(), known.cuda(), [5, 6, 7])
    torch.testing.assert_close(cuda.cpu(), cpu, atol=1e-3, rtol=0)


def test_a_clip_fades_in_and_out_and_is_the_same_after_any_other() -> None:
    face, made = wide_face(), generator()
    options = {"n_frames": 9, "fps": 50.0, "seed": 3, "nuisance": Nuisance(blink=1)}
    first, warnings = made.generate(face, SMILE, PROFILE, **options)  # type: ignore[arg-type]
    made.generate(face, facs.parse_request("1=0.6"), PROFILE, n_frames=3, fps=50)
    again, _ = made.generate(face, SMILE, PROFILE, **options)  # type: ignore[arg-type]
    np.testing.assert_array_equal(first.clip.frames, again.clip.frames)
    other, _ = made.generate(face, SMILE, PROFILE, **{**options, "seed": 4})  # type: ignore[arg-type]
    assert (other.clip.frames != first.clip.frames).any()
    assert warnings == ("flow estimated by tvl1",)
    np.testing.assert_array_equal(first.clip.frames[0], face.image)
    assert np.array_equal(first.aus.intensity, SMILE.intensity)


@pytest.mark.parametrize("expect", ["", "motion_gan"])
def test_what_is_faint_fades_out(expect: str) -> None:
    """An untrained network paints at full strength at any intensity; the fade alone makes it vanish towards 0."""
    made, (onset, aus, known) = generator(expect=expect), rows(1)
    size = [float(made.changes(onset, 0 * aus + a, known, [1]).abs().mean()) for a in (1e-4, 1e-3, 1e-2)]
    assert size[0] > 0
    np.testing.assert_allclose([size[1] / size[0], size[2] / size[1]], 10, rtol=0.3)


@pytest.mark.parametrize(("names", "expect"), [("mouth", ""), ("brows+left_lip_corner", ""), ("mouth", "motion_gan")])
def test_outside_the_regions_nothing_changes_bit_for_bit(names: str, expect: str) -> None:
    face = wide_face(64)
    made = generator(expect=expect).configured(regions=names)
    mask = region_mask(face.landmarks, face.image.shape[:2], made.regions)
    sample, _ = made.generate(face, SMILE, PROFILE, n_frames=5, fps=50)
    assert (sample.clip.frames[:, ~mask] == face.image[~mask]).all()
    assert (sample.clip.frames[2][mask] != face.image[mask]).mean() > 0.3
    picture = made.pictures([face], [SMILE], [0])[0]
    np.testing.assert_array_equal(picture, sample.clip.frames[2])
    everywhere = made.configured(regions="")
    assert (everywhere.generate(face, SMILE, PROFILE, n_frames=3, fps=50)[0].clip.frames[1][~mask]
            != face.image[~mask]).any()  # fmt: skip


@pytest.mark.parametrize("expect", ["", "motion_gan"])
def test_codes_outside_the_mask_stay_the_onsets(expect: str) -> None:
    net, (onset, aus, known) = network(expect=expect), rows(1)
    codec = Codec(PixelSpace(SIZE, 2), "change", 18.0, mover() if expect else None)
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 2:4, 3:7] = 1
    made = painted(net, codec, Process(), ImageSampling(steps=3), onset, aus, known, torch.randn(1, 12, 8, 8),
                   mask=mask)  # fmt: skip
    inside = torch.nn.functional.interpolate(mask, scale_factor=2).bool().expand_as(made)
    assert not made[~inside].any()
    assert made[inside].abs().min() > 0


def test_where_motion_is_expected_the_photo_is_moved_at_its_own_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is drawn is put onto the mover's clip; when nothing is drawn, that clip is all there is."""
    made, face = generator(expect="motion_gan"), wide_face(64)
    made.facts = replace(made.facts, gains={"12": 0.5})
    options = {"n_frames": 5, "fps": 50.0, "seed": 3, "nuisance": Nuisance(blink=1)}
    drawn, _ = made.generate(face, SMILE, PROFILE, **options)  # type: ignore[arg-type]
    gained = facs.parse_request("12=0.4,L4=0.5")
    moved, _ = MotionGAN(mover(), replace(made.facts, gains={})).generate(face, gained, PROFILE, **options)  # type: ignore[arg-type]
    assert (drawn.clip.frames[2] != moved.clip.frames[2]).any()
    monkeypatch.setattr(
        ImageDiffusion, "changes", lambda self, onset, *told, whole, formed: (1 if whole else 0) * onset
    )
    still, _ = made.generate(face, SMILE, PROFILE, **options)  # type: ignore[arg-type]
    np.testing.assert_array_equal(still.clip.frames, moved.clip.frames)
    assert (moved.clip.frames[2] != face.image).any()


@pytest.mark.parametrize("expect", ["", "motion_gan"])
def test_pictures_are_the_apex_frames_of_their_clips(expect: str) -> None:
    made, face = generator(expect=expect), wide_face()
    faces, aus = [face, wide_face(48)], [SMILE, facs.parse_request("1=0.6")]
    pictures = made.pictures(faces, aus, [3, 4])
    for one, asked, seed, picture in zip(faces, aus, (3, 4), pictures, strict=True):
        sample, _ = made.generate(one, asked, PROFILE, n_frames=5, fps=50, seed=seed)
        np.testing.assert_array_equal(picture, sample.clip.frames[2])
    with pytest.raises(MesynthError, match="1 faces, 2 AUs and 1 seeds"):
        made.pictures([face], aus, [1])


def test_gains_scale_what_is_asked_and_the_clip_keeps_the_request() -> None:
    made, face = generator(), wide_face()
    made.facts = replace(made.facts, gains={"12": 0.5, "4": 2.0})
    sample, _ = made.generate(face, facs.parse_request("12=0.8"), PROFILE, n_frames=3, fps=50)
    plain, _ = generator().generate(face, facs.parse_request("12=0.4"), PROFILE, n_frames=3, fps=50)
    np.testing.assert_array_equal(sample.clip.frames, plain.clip.frames)
    assert sample.aus.intensity.max() == np.float32(0.8)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"speed": 3}, "no option 'speed'; choose from steps, solver, guidance.* regions"),
        ({"steps": "many"}, "steps='many' is no int"),
        ({"steps": 0}, "steps=0 is outside"),
        ({"guidance": -1}, "guidance=-1 is outside"),
        ({"identity_guidance": "nan"}, "identity_guidance=nan is outside"),
        ({"solver": "magic"}, "solver 'magic' is unknown"),
        ({"regions": "ear"}, "face region 'ear' is unknown"),
    ],
)
def test_wrong_options_are_one_line(options: dict[str, object], says: str) -> None:
    with pytest.raises(MesynthError, match=says) as error:
        generator().configured(**options)
    assert "\n" not in str(error.value)


def test_configured_leaves_the_original_alone() -> None:
    made = generator()
    other = made.configured(steps="5", guidance="2.5", regions="mouth+brows")
    assert (made.sampling.steps, made.regions) == (3, ())
    assert (other.sampling.steps, other.sampling.guidance) == (5, 2.5)
    assert other.network is made.network


@pytest.mark.parametrize(
    ("aus", "nuisance", "says"),
    [("12=0.5,15=0.5", Nuisance(), "AU 12 and AU 15"), ("12=0.5", Nuisance(head=1), "head-motion=1")],
)
def test_what_cannot_be_drawn_is_refused(aus: str, nuisance: Nuisance, says: str) -> None:
    with pytest.raises(MesynthError, match=says):
        generator().generate(wide_face(), facs.parse_request(aus), PROFILE, n_frames=5, fps=50, nuisance=nuisance)


@pytest.mark.parametrize("latent", [False, True])
def test_saved_and_loaded_it_draws_the_same_bytes(latent: bool, tmp_path: Path) -> None:
    vae = save_vae(tmp_path / "vae") if latent else None
    net = network(channels=4, side=4, expect="motion_gan") if latent else network(expect="motion_gan")
    networks = {"denoiser": net, "expected": mover()} | ({"vae": vae} if vae is not None else {})
    save_pipeline(tmp_path / "g", networks, facts("image_diffusion"), "# card\n", size=SIZE)
    if vae is not None:
        (tmp_path / "vae").rename(tmp_path / "elsewhere")
    loaded = load_pipeline(tmp_path / "g")
    assert isinstance(loaded, ImageDiffusion)
    asked = {"aus": SMILE, "profile": PROFILE, "n_frames": 3, "fps": 50.0}
    ours, _ = ImageDiffusion(net, loaded.facts, vae, mover()).generate(wide_face(), **asked)  # type: ignore[arg-type]
    theirs, _ = loaded.generate(wide_face(), **asked)  # type: ignore[arg-type]
    np.testing.assert_array_equal(ours.clip.frames, theirs.clip.frames)
    assert (ours.clip.frames[1] != ours.clip.frames[0]).any()


def test_latents_keep_regions_too(tmp_path: Path) -> None:
    vae, face = save_vae(tmp_path / "vae"), wide_face(64)
    net = network(channels=4, side=4, gain=2.0)
    made = ImageDiffusion(net, GeneratorFacts(**facts("image_diffusion"), size=SIZE), vae).configured(regions="mouth")
    mask = region_mask(face.landmarks, face.image.shape[:2], ("mouth",))
    sample, _ = made.generate(face, SMILE, PROFILE, n_frames=3, fps=50)
    assert (sample.clip.frames[:, ~mask] == face.image[~mask]).all()
    assert (sample.clip.frames[1][mask] != face.image[mask]).any()


@pytest.mark.parametrize(
    ("options", "more", "says"),
    [
        ({"sampling": {"steps": 0}}, False, r"settings that do not fit .steps=0"),
        ({"expect": "motion_gan", "spread": {"floor": 0}}, True, r"settings that do not fit .spread sigma_min=0"),
        ({"expect": "motion_gan"}, False, r"is to hold motion_gan network 'expected'; copy it again"),
        ({}, True, r"is to hold no network 'expected'"),
        ({"expect": "flow_gan"}, True, r"is said to be a flow_gan; a mean model is a motion_gan or au_icgan"),
        ({"expect": "au_icgan"}, True, r"expected"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    options: dict[str, object], more: bool, says: str, tmp_path: Path
) -> None:
    networks = {"denoiser": network(**options)} | ({"expected": mover()} if more else {})
    save_pipeline(tmp_path / "g", networks, facts("image_diffusion"), "# card\n", size=SIZE)
    with pytest.raises(PipelineError, match=says) as error:
        load_pipeline(tmp_path / "g")
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------- around frames in layers

MOVERS = ("motion-prior", "landmark-mean", "motion_gan")


def layered(expect: str = "motion-prior", **options: object) -> ImageDiffusion:
    """Draws on frames in layers, without noise: one pass a frame."""
    return generator(
        **{"expect": expect, "layered": True, "process": {"kind": "mean"},
           "sampling": {"solver": "few", "steps": 1}, **options}
    )  # fmt: skip


def formed_clip_of(made: ImageDiffusion, face: Face, aus: AUVector, **options: object) -> Sample:
    """The clip that nothing is painted on."""
    named = made.network.config["expect"]
    forms = MotionGAN(mover(), replace(made.facts, gains={})) if named == "motion_gan" else PriorGenerator(named)
    return forms.generate(face, aus, PROFILE, **options)[0]  # type: ignore[arg-type]


@pytest.mark.parametrize("expect", MOVERS)
def test_paint_lies_on_the_frame_in_layers_and_nowhere_on_what_stands_still(expect: str) -> None:
    made, face = layered(expect), wide_face(64)
    options = {"n_frames": 5, "fps": 50.0, "seed": 3, "nuisance": Nuisance(blink=1)}
    asked = facs.parse_request("12=0.8,L4=0.5,25=0.6")
    drawn, warnings = made.generate(face, asked, PROFILE, **options)  # type: ignore[arg-type]
    formed = formed_clip_of(made, face, asked, **options)
    still = face.layers.still
    assert 0.05 < still.mean() < 0.95
    assert np.array_equal(drawn.clip.frames[:, still], formed.clip.frames[:, still])
    assert (drawn.clip.frames[2][~still] != formed.clip.frames[2][~still]).mean() > 0.3
    assert np.array_equal(drawn.clip.frames[0], face.image)
    # Flow and masks are those of what is painted on: paint is no motion.
    for name in ("uv", "valid", "new", "still"):
        assert np.array_equal(getattr(drawn.flow, name), getattr(formed.flow, name))
    assert not any("estimated" in warning for warning in warnings)


@pytest.mark.parametrize("expect", MOVERS)
def test_an_untaught_layered_network_gives_the_frame_in_layers(expect: str) -> None:
    """The last layer starts at 0: until something is learned there is nothing but layers, to the bit."""
    made, face = layered(expect), wide_face(64)
    for parameter in made.network.body.conv_out.parameters():
        torch.nn.init.zeros_(parameter)
    options = {"n_frames": 3, "fps": 50.0, "seed": 3}
    asked = facs.parse_request("12=0.8,45=1,26=0.5")
    drawn, _ = made.generate(face, asked, PROFILE, **options)  # type: ignore[arg-type]
    formed = formed_clip_of(made, face, asked, **options)
    assert np.array_equal(drawn.clip.frames, formed.clip.frames)
    assert (drawn.clip.frames[1] != face.image).any()


@pytest.mark.parametrize("expect", MOVERS)
def test_nothing_asked_of_layers_gives_the_photo(expect: str) -> None:
    face, made = wide_face(), layered(expect)
    sample, _ = made.generate(face, REST, PROFILE, n_frames=4, fps=50)
    assert (sample.clip.frames == face.image).all()
    onset, aus, known = rows(1)
    size = [
        float(made.changes(onset, 0 * aus + a, known, [1], whole=False, formed=onset).abs().mean())
        for a in (0, 1e-4, 1e-3, 1e-2)
    ]
    assert size[0] == 0 < size[1]
    np.testing.assert_allclose([size[2] / size[1], size[3] / size[2]], 10, rtol=0.3)


@pytest.mark.parametrize("expect", MOVERS)
def test_layered_clips_do_not_depend_on_their_company(expect: str) -> None:
    made = layered(expect)
    asked = [
        ClipRequest(wide_face(48), SMILE, PROFILE, 5, 50.0, seed=1),
        ClipRequest(wide_face(), facs.parse_request("1=0.6,26=0.4"), PROFILE, 3, 50.0, seed=2),
        ClipRequest(wide_face(56), REST, PROFILE, 4, 50.0, seed=3),
    ]
    together = [clip.clip.frames for clip, _ in made.clips_of(asked)]
    for request, frames in zip(asked, together, strict=True):
        assert np.array_equal(made.clip_of(request)[0].clip.frames, frames)
    made.rows_at_once = 5  # frames of several clips in one pass, as on a GPU
    for (clip, _), frames in zip(made.clips_of(asked), together, strict=True):
        assert np.abs(clip.clip.frames.astype(int) - frames).max() <= 1


@pytest.mark.parametrize("expect", MOVERS)
def test_layered_pictures_are_the_apex_frames_of_their_clips(expect: str) -> None:
    made = layered(expect)
    faces, aus = [wide_face(), wide_face(48)], [SMILE, facs.parse_request("1=0.6")]
    for one, asked, picture in zip(faces, aus, made.pictures(faces, aus, [3, 4]), strict=True):
        sample, _ = made.generate(one, asked, PROFILE, n_frames=5, fps=50, seed=3)
        assert np.array_equal(picture, sample.clip.frames[2])


@pytest.mark.parametrize(("code", "most"), WARP_LIMIT.items())
def test_an_au_beyond_the_priors_reach_is_formed_as_far_as_it_goes(code: int, most: float) -> None:
    made, face = layered(), wide_face()
    sample, _ = made.generate(face, facs.parse_request(f"{code}=1"), PROFILE, n_frames=3, fps=50)
    formed = formed_clip_of(made, face, facs.parse_request(f"{code}={most}"), n_frames=3, fps=50)
    assert np.array_equal(sample.flow.uv, formed.flow.uv)
    assert sample.aus.intensity.max() == 1


def test_layered_regions_and_what_cannot_be_drawn() -> None:
    face = wide_face(64)
    made = layered().configured(regions="mouth")
    mask = region_mask(face.landmarks, face.image.shape[:2], made.regions)
    sample, _ = made.generate(face, SMILE, PROFILE, n_frames=3, fps=50)
    assert (sample.clip.frames[:, ~mask] == face.image[~mask]).all()
    assert (sample.clip.frames[1][mask] != face.image[mask]).mean() > 0.3
    for nuisance, says in ((Nuisance(head=1), "head-motion=1"), (Nuisance(style=1), "style=1")):
        with pytest.raises(MesynthError, match=says):
            layered().generate(face, SMILE, PROFILE, n_frames=3, fps=50, nuisance=nuisance)


@pytest.mark.parametrize("solver", ["dpm++", "heun", "euler", "few"])
def test_a_mean_sees_no_noise(solver: str) -> None:
    """Any solver, any steps, any seed: one answer, and it is the network's."""
    made, (onset, aus, known) = layered(), rows(2)
    one, other = (
        made.configured(solver=solver, steps=steps).changes(onset, aus, known, seeds, whole=False, formed=1 - onset)
        for steps, seeds in ((1, [1, 2]), (3, [3, 4]))
    )
    plain = made.changes(onset, aus, known, [5, 6], whole=False, formed=1 - onset)
    torch.testing.assert_close(one, plain, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(other, plain, atol=1e-5, rtol=1e-4)
    process, x, sigma = ImageProcess(kind="mean", sigma_data=0.3), torch.randn(2, 1, 2, 2), torch.tensor([0.1, 9.0])
    clean = torch.randn(2, 1, 2, 2)
    assert torch.equal(process.denoised(lambda x, level: x, x, sigma), torch.zeros_like(x))
    said = process.target(x, clean, sigma)
    torch.testing.assert_close(process.denoised(lambda *_: said, x, sigma), clean)
    with pytest.raises(ConfigError, match="process kind 'mean' is unknown; choose edm or v"):
        Process(kind="mean")


@pytest.mark.parametrize("expect", MOVERS)
def test_a_layered_generator_is_saved_and_loaded(expect: str, tmp_path: Path) -> None:
    made = layered(expect)
    networks = {"denoiser": made.network} | ({"expected": mover()} if expect == "motion_gan" else {})
    save_pipeline(tmp_path / "g", networks, facts("image_diffusion"), "# card\n", size=SIZE)
    loaded = load_pipeline(tmp_path / "g")
    asked = {"aus": SMILE, "profile": PROFILE, "n_frames": 3, "fps": 50.0}
    ours, theirs = (g.generate(wide_face(), **asked)[0].clip.frames for g in (made, loaded))  # type: ignore[arg-type]
    assert np.array_equal(ours, theirs)
    assert loaded.codec.layered  # type: ignore[attr-defined]


def test_what_was_saved_before_layers_loads_as_it_was(tmp_path: Path) -> None:
    """Its configuration does not know the key: a smooth warp is expected, as it was learned."""
    net = network(expect="motion_gan")
    known = {key: value for key, value in net.config.items() if key != "layered" and not key.startswith("_")}
    old = ImageDenoiser(**known)
    old.load_state_dict(net.state_dict())
    save_pipeline(tmp_path / "g", {"denoiser": old, "expected": mover()}, facts("image_diffusion"), "", size=SIZE)
    loaded = load_pipeline(tmp_path / "g")
    assert not loaded.codec.layered  # type: ignore[attr-defined]
    asked = {"aus": SMILE, "profile": PROFILE, "n_frames": 3, "fps": 50.0}
    ours = generator(expect="motion_gan").generate(wide_face(), **asked)[0]  # type: ignore[arg-type]
    assert np.array_equal(ours.clip.frames, loaded.generate(wide_face(), **asked)[0].clip.frames)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "more", "says"),
    [
        ({"expect": "motion-prior", "layered": True}, True, "is to hold no network 'expected'"),
        ({"expect": "motion-prior"}, False, "draws around motion-prior, which has no such frames"),
        ({"expect": "motion_gan", "layered": True}, False, "is to hold motion_gan network 'expected'"),
        ({"layered": True}, False, "draws around nothing, which has no such frames"),
    ],
)
def test_layers_that_do_not_fit_are_refused(options: dict[str, object], more: bool, says: str, tmp_path: Path) -> None:
    networks = {"denoiser": network(**options)} | ({"expected": mover()} if more else {})
    save_pipeline(tmp_path / "g", networks, facts("image_diffusion"), "# card\n", size=SIZE)
    with pytest.raises(PipelineError, match=says) as error:
        load_pipeline(tmp_path / "g")
    assert "\n" not in str(error.value)
