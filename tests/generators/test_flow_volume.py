from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mesynth.core import facs
from mesynth.core.errors import ConfigError
from mesynth.core.facs import AUConflictError
from mesynth.core.profiles import Profile
from mesynth.core.types import AUVector
from mesynth.generators.base import ClipRequest, load_pipeline
from mesynth.generators.diffusion import sample_conditioned
from mesynth.generators.diffusion_config import Sampling
from mesynth.generators.flow_volume.network import FlowVolume, TimeMixer, VolumeDiffuser
from mesynth.generators.motion_diffusion.network import Conditioning, MotionDiffuser
from mesynth.motion.key_times import KEYS, RISING, TOLD, Timing, key_times, key_weights, level, on_frames, slack
from mesynth.motion.nuisance import Nuisance
from mesynth.motion.prior import Face
from mesynth.store.generator_folder import GeneratorFacts, PipelineError, save_pipeline
from tests.devices import DEVICES
from tests.generators.layered import check_lids_and_lips
from tests.generators.saved import FACTS
from tests.training.rendered import K, person_face, plain_skin

SIZE = 32
OWN = FACTS | {"name": "flow_volume"}
SMALL: dict[str, Any] = {"size": SIZE, "widths": (8, 16), "dim": 16, "steps": 3}


def begun(flat: Any, **options: Any) -> Any:
    """A volume as training begins: 2D weights, and what is added says nothing yet."""
    torch.manual_seed(5)
    made: Any = VolumeDiffuser(**(SMALL | options))
    made.base.load_state_dict(flat.state_dict())
    return made.eval()


def flat_network(**options: Any) -> Any:
    torch.manual_seed(0)
    made: Any = MotionDiffuser(**(SMALL | options))
    torch.nn.init.normal_(made.unet.conv_out.weight, std=0.05)
    return made.eval()


def lively(seed: int = 0, **options: Any) -> Any:
    """Untrained, but every part says something."""
    made = begun(flat_network(**options), **options)
    torch.manual_seed(seed)
    for mixer in (*made.down, made.middle, *made.up):
        torch.nn.init.normal_(mixer.out.weight, std=0.05)
    torch.nn.init.normal_(made.apex_in.weight, std=0.05)
    torch.nn.init.normal_(made.when[2].weight, std=0.2)
    return made


def onsets(n: int, size: int = SIZE) -> torch.Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1))


def noises(n: int, h: int = SIZE // 2) -> torch.Tensor:
    return torch.randn(n, KEYS, 2, h, h, generator=torch.Generator().manual_seed(2))


def timings(n: int, wander: float = 0.0) -> Timing:
    each = [Timing.of(Profile(apex=0.3 + 0.1 * i), 0.2 + 0.05 * i, wander) for i in range(n)]
    return Timing(*(torch.cat([getattr(t, name) for t in each]) for name in Timing.__dataclass_fields__))


def some_aus(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    aus = torch.zeros(n, K, 2)
    aus[:, facs.AU_INDEX[12]], aus[:, facs.AU_INDEX[4]] = 0.5, 0.3
    return aus, torch.ones_like(aus, dtype=torch.bool)


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> FlowVolume:
    folder = tmp_path_factory.mktemp("saved") / "g"
    save_pipeline(folder, {"generator": lively()}, OWN, "# card\n", size=SIZE)
    loaded = load_pipeline(folder)
    assert isinstance(loaded, FlowVolume)
    return loaded


@pytest.fixture(scope="module")
def face() -> Face:
    return person_face(3, 48)


# ---------------------------------------------------------------- timing


@given(st.floats(0.1, 0.9), st.floats(0, 0.4), st.sampled_from(["cosine", "exponential"]), st.integers(5, 80))
def test_levels_on_frames_are_the_profiles(apex: float, hold: float, decay: str, n: int) -> None:
    profile = on_frames(Profile(apex=apex, hold=hold, decay=decay), n)
    found = level(np.arange(n) / (n - 1), profile)
    on_a_frame = abs(profile.apex * (n - 1) - profile.apex_index(n)) < 1e-9
    # Profile ends a hold a frame before the clip does.
    if on_a_frame and profile.apex + hold < 0.95 and profile.apex_index(n) + hold * (n - 1) <= n - 2:
        assert np.allclose(found, profile.alpha(n), atol=1e-5)
    assert found[0] == 0
    assert abs(found[-1]) < 1e-12


@given(st.floats(0.1, 0.9), st.floats(-0.3, 0.3), st.sampled_from(["cosine", "exponential"]))
def test_a_shifted_unit_rests_at_both_ends_and_peaks_once(apex: float, shift: float, decay: str) -> None:
    at = np.linspace(0, 1, 2001)
    found = level(at, Profile(apex=apex, decay=decay), shift)
    assert found[0] == 0
    assert abs(found[-1]) < 1e-12
    assert found.max() == pytest.approx(1, abs=0.01)
    steps = np.sign(np.round(np.diff(found), 12))
    assert (np.diff(steps[steps != 0]) != 0).sum() == 1  # up, then down
    if 0.05 < apex + shift < 0.95 and abs(shift) < min(apex, 1 - apex) - 0.1:
        assert at[found.argmax()] == pytest.approx(apex + shift, abs=1e-3)


@given(st.floats(0.1, 0.9))
def test_key_times_rise_with_the_apex_among_them(apex: float) -> None:
    keys = key_times(apex)
    assert len(keys) == KEYS
    assert (np.diff(keys) > 0).all()
    assert 0 < keys[0] < keys[-1] < 1
    assert keys[RISING - 1] == pytest.approx(apex)


def test_the_level_is_uncertain_where_it_is_steep() -> None:
    profile, at = Profile(apex=0.5), np.array([0.1, 0.25, 0.5, 0.8])
    assert np.allclose(slack(at, profile, 0.0), 0, atol=1e-12)
    shifts = np.random.default_rng(0).uniform(-1, 1, 4000) * np.sqrt(3) * 0.06
    drawn = level(at[:, None], profile, shifts).std(1)
    found = slack(at, profile, 0.06)
    assert (found > 0.98 * drawn).all()
    assert (found < 1.25 * drawn).all()
    assert found[2] < 0.3 * found[1]


@given(st.floats(0.1, 0.9), st.integers(3, 90))
def test_frames_take_keys_and_rest_at_both_ends(apex: float, n: int) -> None:
    profile = on_frames(Profile(apex=apex), n)
    keys, index = key_times(profile.apex), profile.apex_index(n)
    found = key_weights(keys, n, index)
    assert found.shape == (n, KEYS)
    assert not found[[0, -1]].any()
    assert np.array_equal(found[index], np.eye(KEYS)[RISING - 1])
    bump = np.sin(np.pi * np.arange(n) / (n - 1)) ** 2  # smooth, at rest at both ends
    assert np.abs(found @ np.sin(np.pi * keys) ** 2 - bump).max() < (0.02 if 0.3 < apex < 0.7 else 0.15)


def test_what_is_told_says_when() -> None:
    told = timings(3, 0.05).told()
    assert told.shape == (3, KEYS, TOLD)
    assert bool(told.isfinite().all())
    assert not torch.equal(told[0], told[1])


# ---------------------------------------------------------------- network


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_begun_with_2d_weights_every_time_is_the_2d_answer(guidance: float) -> None:
    """The 2D network, asked for the AUs at that time's level, around the profile's share of the apex."""
    flat = flat_network()
    volume, timing = begun(flat, wander=0.0), timings(2)
    (aus, known), noise = some_aus(2), noises(2)
    sampling = Sampling(steps=3, guidance=guidance)
    with torch.no_grad():
        drawn = volume(onsets(2), aus, known, timing, noise, sampling)
        apex = flat.condition(onsets(2), aus, known).expected
        for t in range(KEYS):
            share = timing.level[:, t].view(2, 1, 1)
            asked, nothing = (flat.condition(onsets(2), share * aus, known, null) for null in (None, torch.ones(2) > 0))
            mean = flat.normalised(share[..., None] * apex)
            # Around the apex' share rather than what is expected of the share: nearly the same, so put it in.
            own = [
                replace(a, mean=mean, shown=shown, spread=volume.condition(onsets(2), aus, known, timing).spread[:, t])
                for a, shown in ((asked, mean / flat.config["whole"]), (nothing, torch.zeros_like(mean)))
            ]
            z = sample_conditioned(flat, own[0], own[1], noise[:, t], sampling)
            want = flat.pixels(mean + own[0].spread * z)
            assert torch.allclose(drawn[:, t], want, atol=2e-5), t
    assert float(drawn.abs().max()) > 0.2


def test_without_wander_the_spread_is_the_2d_networks() -> None:
    flat = flat_network()
    (aus, known), timing = some_aus(1), timings(1)
    with torch.no_grad():
        volume = begun(flat).condition(onsets(1), aus, known, timing)
        alone: Conditioning = flat.condition(onsets(1), aus, known)
    assert torch.allclose(volume.spread[:, RISING - 1], alone.spread, rtol=1e-5)
    assert torch.allclose(volume.mean[:, RISING - 1], alone.mean)
    with torch.no_grad():
        wandering = begun(flat).condition(onsets(1), aus, known, timings(1, 0.1))
    more = (wandering.spread.square() - volume.spread.square()).flatten(2).mean(-1)[0]
    assert float(more[1]) > 2 * float(more[RISING - 1])  # AUs that come late are late where the level is steep


def test_times_talk_to_each_other_and_rows_do_not() -> None:
    for attention in (False, True):
        torch.manual_seed(0)
        mixer = TimeMixer(8, attention)
        x = torch.randn(2, KEYS, 8, 4, 4)
        assert torch.equal(mixer(x), x)
        torch.nn.init.normal_(mixer.out.weight)
        changed = x.clone()
        changed[0, 2] += torch.randn(8, 4, 4)
        with torch.no_grad():
            moved = (mixer(changed) - mixer(x)).abs().amax((2, 3, 4)) > 1e-6
        assert not moved[1].any()
        assert moved[0, :5].all()
        assert bool(moved[0, 6:].any()) == attention


@pytest.mark.parametrize("options", [{"attention": 0}, {"attention": 2, "layers": 2}, {"kind": "v"}, {"size": 64}])
def test_every_part_learns(options: dict[str, Any]) -> None:
    made = lively(**options).train()
    h = made.config["size"] // 2
    aus = torch.rand(3, K, 2)
    known = torch.rand(3, K, 2) > 0.3
    asked = made.condition(onsets(3, 2 * h), aus, known, timings(3, 0.05), torch.tensor([False, False, True]))
    estimate = made.denoised(noises(3, h), torch.tensor([0.1, 0.5, 2.0]), asked)
    (estimate.square().sum() + asked.apex.square().sum() + asked.apex.sum()).backward()
    assert [n for n, p in made.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("device", DEVICES)
def test_rows_are_independent(device: str) -> None:
    made, (aus, known) = lively().to(device), some_aus(3)
    args = [x.to(device) for x in (onsets(3), aus, known, noises(3))]
    with torch.no_grad():
        together = made(*args[:3], timings(3).to(device), args[3])
        second = [x[1:2] for x in args]
        alone = made(*second[:3], Timing(*(v[1:2] for v in vars(timings(3).to(device)).values())), second[3])
    assert torch.allclose(together[1:2], alone, atol=1e-3)


# ---------------------------------------------------------------- generator


def test_intensity_zero_is_the_photo_bit_for_bit(generator: FlowVolume, face: Face) -> None:
    nothing = AUVector(np.zeros((K, 2), np.float32))
    for guidance in (1.0, 3.0):
        sample, warnings = generator.configured(guidance=guidance).generate(
            face, nothing, Profile(), n_frames=5, fps=100
        )
        assert all(np.array_equal(frame, face.image) for frame in sample.clip.frames)
        assert not sample.flow.uv.any()
        assert warnings == ()


@pytest.mark.parametrize("n_frames", [3, 9, 20])
def test_a_clip_starts_and_ends_at_the_photo(generator: FlowVolume, face: Face, n_frames: int) -> None:
    aus, profile = facs.parse_request("12=0.6,L4=0.3"), Profile(apex=0.35, lag=0.05, hold=0.1)
    sample, _ = generator.generate(face, aus, profile, n_frames=n_frames, fps=100, seed=7)
    for t in (0, -1):
        assert np.array_equal(sample.clip.frames[t], face.image)
    volume = generator.volume(ClipRequest(face, aus, profile, n_frames=n_frames, fps=100, seed=7))
    flows = volume.flows()
    assert not flows[[0, -1]].any()
    skin = plain_skin(face)
    assert skin.mean() > 0.2
    assert np.allclose(sample.flow.uv.transpose(1, 2, 0)[skin], flows[profile.apex_index(n_frames)][skin], atol=1e-5)
    assert np.abs(sample.flow.uv).max() > 0.3
    assert np.array_equal(sample.aus.intensity, aus.intensity)


def test_seeds_differ_and_repeat(generator: FlowVolume, face: Face) -> None:
    aus = facs.parse_request("12=0.6")
    made = [generator.generate(face, aus, Profile(), n_frames=9, fps=100, seed=s)[0] for s in (7, 7, 8)]
    assert np.array_equal(made[0].clip.frames, made[1].clip.frames)
    assert np.array_equal(made[0].flow.uv, made[1].flow.uv)
    assert np.abs(made[0].flow.uv - made[2].flow.uv).max() > 0.05


def test_the_duration_and_the_apex_matter_to_what_is_drawn(generator: FlowVolume, face: Face) -> None:
    """Beyond the profile, which scales what is expected."""
    aus = facs.parse_request("12=0.6")
    parts = [
        generator.volume(ClipRequest(face, aus, Profile(apex=apex), n_frames=21, fps=fps)).fields[:-1]
        for apex, fps in ((0.5, 100), (0.5, 60), (0.3, 100))
    ]
    assert np.abs(parts[0] - parts[1]).max() > 1e-3
    assert np.abs(parts[0] - parts[2]).max() > 1e-3


def test_nuisances_come_on_top(generator: FlowVolume, face: Face) -> None:
    aus = facs.parse_request("12=0.4")
    sample, _ = generator.generate(
        face, aus, Profile(), n_frames=30, fps=100, nuisance=Nuisance(blink=1.0, head=0.5, style=0.5, noise=1.0), seed=2
    )
    assert np.array_equal(sample.clip.frames[0], face.image)


def test_lids_and_lips_are_the_layers_own(generator: FlowVolume, face: Face) -> None:
    check_lids_and_lips(generator, face)


def test_no_apex_folds(face: Face) -> None:
    wild = lively()
    torch.nn.init.normal_(wild.base.unet.conv_out.weight, std=1.0)
    made = FlowVolume(wild, GeneratorFacts.parse(OWN | {"size": SIZE}))
    _, warnings = made.generate(face, facs.parse_request("12=1,1=1,17=1"), Profile(), n_frames=5, fps=100)
    assert not [w for w in warnings if "folds" in w]


def test_gains_of_the_facts_are_applied(face: Face) -> None:
    facts = GeneratorFacts.parse(OWN | {"size": SIZE})
    plain, more = (FlowVolume(lively(), f) for f in (facts, replace(facts, gains={"12": 1.5})))
    gained, asked = (
        g.volume(ClipRequest(face, facs.parse_request(f"12={a}"), Profile(), n_frames=9, fps=100)).flows()
        for g, a in ((more, 0.4), (plain, 0.6))
    )
    assert np.allclose(gained, asked, atol=1e-5)


def test_options(generator: FlowVolume, face: Face) -> None:
    assert (generator.steps, generator.solver, generator.guidance) == (3, "dpm++", 1.0)
    for solver in ("heun", "euler", "few"):
        other = generator.configured(steps=2, solver=solver)
        assert other.network is generator.network
        volume = other.volume(ClipRequest(face, facs.parse_request("12=0.5"), Profile(), n_frames=9, fps=100))
        assert np.isfinite(volume.fields).all()
    assert generator.steps == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stesp": 3}, "option 'stesp' is unknown to flow_volume; choose from steps, solver, guidance"),
        ({"steps": 0}, "steps=0 is outside"),
        ({"steps": True}, "of the wrong type"),
        ({"solver": "ddim"}, "solver 'ddim' is unknown"),
        ({"guidance": "much"}, "option guidance='much'"),
    ],
)
def test_bad_options(generator: FlowVolume, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        generator.configured(**options)
    assert "\n" not in str(error.value)


def test_conflicting_aus_are_refused(generator: FlowVolume, face: Face) -> None:
    with pytest.raises(AUConflictError):
        generator.generate(face, facs.parse_request("12=0.5,15=0.5"), Profile(), n_frames=5, fps=100)


def test_a_size_that_is_not_the_networks_is_refused(tmp_path: Path) -> None:
    save_pipeline(tmp_path / "g", {"generator": lively()}, OWN, "# card\n", size=64)
    with pytest.raises(PipelineError, match="says size 64, its network 32"):
        load_pipeline(tmp_path / "g")
