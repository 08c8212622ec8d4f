from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mesynth.core import facs
from mesynth.core.errors import ConfigError
from mesynth.core.facs import AUConflictError
from mesynth.core.profiles import Profile
from mesynth.core.types import AUVector
from mesynth.generators.base import load_pipeline
from mesynth.generators.diffusion import sample_conditioned
from mesynth.generators.diffusion_config import Sampling
from mesynth.generators.formation import ApexRequest, FaceMotion
from mesynth.generators.motion_diffusion.network import REACH, MotionDiffuser, MotionDiffusion
from mesynth.generators.motion_gan.network import K, MotionGenerator
from mesynth.motion.nuisance import Nuisance
from mesynth.motion.prior import Face
from mesynth.preprocess.warping import resize_flow
from mesynth.store.generator_folder import PipelineError, save_pipeline
from tests.devices import DEVICES
from tests.generators.layered import check_lids_and_lips
from tests.generators.saved import FACTS
from tests.training.rendered import person_face, plain_skin

SIZE = 32
OWN = FACTS | {"name": "motion_diffusion"}


def network(seed: int = 0, **options: Any) -> Any:
    """Untrained, but its last layer says something."""
    torch.manual_seed(seed)
    made = MotionDiffuser(**{"size": SIZE, "widths": (8, 16), "dim": 16, "steps": 3, **options})
    torch.nn.init.normal_(made.unet.conv_out.weight, std=0.05)
    return made.eval()


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> MotionDiffusion:
    folder = tmp_path_factory.mktemp("saved") / "g"
    save_pipeline(folder, {"generator": network()}, OWN, "# card\n", size=SIZE)
    loaded = load_pipeline(folder)
    assert isinstance(loaded, MotionDiffusion)
    return loaded


@pytest.fixture(scope="module")
def faces() -> list[Face]:
    return [person_face(p, 48) for p in (3, 4)]


def onsets(n: int, size: int = SIZE) -> torch.Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1))


def noises(n: int, h: int = SIZE // 2) -> torch.Tensor:
    return torch.randn(n, 2, h, h, generator=torch.Generator().manual_seed(2))


def same(one: FaceMotion, other: FaceMotion) -> bool:
    names = ("fields", "bend", "change")
    return one.cells == other.cells and all(np.array_equal(getattr(one, n), getattr(other, n)) for n in names)


def apex(motion: FaceMotion, aus: AUVector) -> np.ndarray:
    weights = np.array([aus.intensity[cell] for cell in motion.cells], np.float32)
    return np.einsum("a,ahwc->hwc", weights, motion.fields) + motion.bend


# ---------------------------------------------------------------- network


def test_what_an_untrained_network_expects_is_the_motion_prior() -> None:
    """Which an untrained motion_gan is; see its tests."""
    ours = MotionDiffuser(size=64, widths=(8, 16), dim=16)
    theirs = MotionGenerator(size=64, width=4, blocks=0, correction=False, max_flow=0.2)
    for text in ("L12=0.5", "4=0.3,R2=0.6", "15=0.4"):
        aus = torch.from_numpy(facs.parse_request(text).intensity)[None]
        known = torch.ones_like(aus, dtype=torch.bool)
        with torch.no_grad():
            found = ours.expected(ours.regression.encode(onsets(1, 64)), aus, known)
            expected = theirs(onsets(1, 64), aus).flow
        assert float(expected.abs().max()) > 0.5
        assert torch.allclose(resize_flow(found, (64, 64)), expected, atol=0.02)


def test_unknown_aus_are_expected_to_rest_and_leave_more_open() -> None:
    made, aus = network(), torch.full((3, K, 2), 0.5)
    known = torch.ones_like(aus, dtype=torch.bool)
    known[1], known[2, :5] = False, False
    asked = made.condition(onsets(3), aus, known)
    assert not asked.expected[1].any()
    assert torch.allclose(asked.spread[1], torch.full((1, 16, 16), (0.15**2 + 0.002**2) ** 0.5))
    assert float(asked.spread[0].min()) < float(asked.spread[2].min()) < float(asked.spread[1].min())


def test_what_is_drawn_is_as_large_as_what_is_expected_around_it() -> None:
    made, aus = network(share=0.4, floor=0.01), torch.zeros(1, K, 2)
    aus[:, facs.AU_INDEX[12]] = 0.6
    asked = made.condition(onsets(1), aus, torch.ones_like(aus, dtype=torch.bool))
    length = asked.mean.norm(dim=1)[0]
    y, x = divmod(int(length.argmax()), 16)
    around = length[y - 2 : y + 3, x - 2 : x + 3].mean()
    assert float(asked.spread[0, 0, y, x]) == pytest.approx(float((0.01**2 + (0.4 * around) ** 2) ** 0.5), rel=1e-5)
    assert float(asked.spread.min()) == pytest.approx(0.01, rel=1e-3)  # the forehead


def test_data_and_pixels_are_inverse() -> None:
    made = network(scale=0.02)
    flow = 0.2 * SIZE * (torch.rand(2, 2, 16, 16) - 0.5)
    data = made.normalised(flow)
    assert torch.allclose(made.pixels(data), flow, atol=1e-5)
    assert float(made.normalised(torch.full((1, 2, 16, 16), 0.02 * 16)).mean()) == pytest.approx(np.arcsinh(1))
    assert float(made.pixels(torch.full((1, 2, 16, 16), 1e6)).max()) <= 0.5 * 16 * 1.001


@pytest.mark.parametrize("known", [True, False])
def test_a_silent_network_draws_around_what_is_expected(known: bool) -> None:
    made = network(share=0.0, floor=0.05, whole=0.2)
    torch.nn.init.zeros_(made.unet.conv_out.weight)
    aus = torch.zeros(6, K, 2)
    aus[:, facs.AU_INDEX[12]] = 0.6
    told = torch.full_like(aus, known, dtype=torch.bool)
    with torch.no_grad():
        flow = made(onsets(6), aus, told, noises(6), Sampling(steps=40))
        mean = made.condition(onsets(6), aus, told).mean
    off = made.normalised(flow) - mean
    assert float(off.std()) == pytest.approx(0.05 if known else 0.2062, rel=0.05)
    assert float(off.mean()) == pytest.approx(0, abs=0.003 if known else 0.01)
    assert bool(mean.any()) == known


def test_guidance_one_is_the_condition_alone_and_more_changes_it() -> None:
    made, aus = network(), torch.full((2, K, 2), 0.1)
    known = torch.ones_like(aus, dtype=torch.bool)

    def drawn(guidance: float) -> torch.Tensor:
        with torch.no_grad():
            return made(onsets(2), aus, known, noises(2), Sampling(steps=3, guidance=guidance))

    assert torch.allclose(drawn(1.0), drawn(1.0 + 1e-6), atol=1e-5)
    assert float((drawn(3.0) - drawn(1.0)).abs().max()) > 0.01


def test_without_condition_the_unet_is_not_told_the_aus() -> None:
    """Guidance 0 is the null alone: what is drawn, in units of the spread, does not depend on the AUs."""
    made, known, drawn = network(), torch.ones(2, K, 2, dtype=torch.bool), []
    for strength in (0.1, 0.4):
        aus = torch.full((2, K, 2), strength)
        with torch.no_grad():
            asked, nothing = (made.condition(onsets(2), aus, known, n) for n in (None, torch.tensor([True, True])))
            drawn.append(sample_conditioned(made, asked, nothing, noises(2), Sampling(steps=3, guidance=0.0)))
    assert torch.equal(drawn[0], drawn[1])


def test_flow_is_within_its_limit() -> None:
    """Not within the regression's: what is drawn may be longer."""
    made = network(max_flow=0.02)
    torch.nn.init.normal_(made.unet.conv_out.weight, std=5.0)
    aus = torch.ones(2, K, 2)
    with torch.no_grad():
        flow = made.flow(onsets(2), aus, torch.ones_like(aus, dtype=torch.bool), noises(2))
    assert flow.shape == (2, 2, SIZE, SIZE)
    assert 0.05 * SIZE < float(flow.norm(dim=1).max()) <= REACH * SIZE + 1e-5


@pytest.mark.parametrize(
    "options", [{"attention": 0}, {"attention": 2, "layers": 2}, {"prior": False}, {"kind": "v"}, {"size": 64}]
)
def test_every_option_learns(options: dict[str, Any]) -> None:
    made = network(**options).train()
    h = made.config["size"] // 2
    aus = torch.rand(3, K, 2)
    known = torch.rand(3, K, 2) > 0.3
    asked = made.condition(onsets(3, 2 * h), aus, known, torch.tensor([False, False, True]))
    estimate = made.denoised(noises(3, h), torch.tensor([0.1, 0.5, 2.0]), asked)
    (estimate.square().sum() + asked.expected.square().sum() + asked.expected.sum()).backward()
    assert [n for n, p in made.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("device", DEVICES)
def test_rows_are_independent(device: str) -> None:
    made, aus = network().to(device), torch.rand(3, K, 2, generator=torch.Generator().manual_seed(3)).to(device)
    known, onset, noise = torch.ones_like(aus, dtype=torch.bool), onsets(3).to(device), noises(3).to(device)
    with torch.no_grad():
        together = made(onset, aus, known, noise)
        alone = made(onset[1:2], aus[1:2], known[1:2], noise[1:2])
    assert torch.allclose(together[1:2], alone, atol=1e-3)


# ---------------------------------------------------------------- generator


def test_intensity_zero_is_the_photo_bit_for_bit(generator: MotionDiffusion, faces: list[Face]) -> None:
    nothing = AUVector(np.zeros((K, 2), np.float32))
    for guidance in (1.0, 3.0):
        made = generator.configured(guidance=guidance)
        sample, warnings = made.generate(faces[0], nothing, Profile(), n_frames=5, fps=100)
        assert all(np.array_equal(frame, faces[0].image) for frame in sample.clip.frames)
        assert not sample.flow.uv.any()
        assert warnings == ()


def test_a_clip_starts_at_the_photo_and_its_apex_is_what_was_drawn(
    generator: MotionDiffusion, faces: list[Face]
) -> None:
    aus = facs.parse_request("12=0.6,L4=0.3")
    motion = generator.motions([ApexRequest(faces[0], aus, 7)])[0]
    assert len(motion.cells) == len(motion.fields) == 3
    sample, _ = generator.generate(faces[0], aus, Profile(), n_frames=9, fps=100, seed=7)
    assert np.array_equal(sample.clip.frames[0], faces[0].image)
    skin = plain_skin(faces[0])
    drawn, shown = apex(motion, aus)[skin], sample.flow.uv.transpose(1, 2, 0)[skin]
    assert np.abs(shown - drawn).max() < 0.1 * np.abs(drawn).max()  # AUs reach their peaks at their own times
    still = generator.generate(faces[0], aus, Profile(), n_frames=9, fps=100, seed=7)[0]
    assert np.array_equal(sample.clip.frames, still.clip.frames)
    assert np.array_equal(sample.flow.uv, still.flow.uv)
    other = generator.generate(faces[0], aus, Profile(), n_frames=9, fps=100, seed=8)[0]
    assert np.abs(other.flow.uv - sample.flow.uv).max() > 0.05


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_request_gives_the_same_bytes_in_any_company(
    generator: MotionDiffusion, faces: list[Face], guidance: float
) -> None:
    made = generator.configured(guidance=guidance)
    texts = ("12=0.5", "1=0.4,2=0.2", "R4=0.7", "15=0.3")
    requests = [ApexRequest(faces[i % 2], facs.parse_request(text), 10 + i) for i, text in enumerate(texts)]
    requests.insert(2, ApexRequest(faces[0], AUVector(np.zeros((K, 2), np.float32)), 1))
    together = made.motions(requests)
    for order in ([4, 0, 2, 3, 1], [2, 1], [3]):
        for i, motion in zip(order, made.motions([requests[i] for i in order]), strict=True):
            assert same(motion, together[i])
    assert made.motions([]) == []


def test_unknown_aus_are_legal_and_not_the_same_as_none(generator: MotionDiffusion, faces: list[Face]) -> None:
    intensity = facs.parse_request("12=0.5").intensity
    known = np.ones((K, 2), bool)
    known[facs.AU_INDEX[4]] = False
    whole, part = (
        generator.motions([ApexRequest(faces[0], aus, 3)])[0]
        for aus in (AUVector(intensity), AUVector(intensity, known))
    )
    assert not np.array_equal(whole.bend, part.bend)


def test_nuisances_come_on_top(generator: MotionDiffusion, faces: list[Face]) -> None:
    aus = facs.parse_request("12=0.4")
    sample, _ = generator.generate(
        faces[0], aus, Profile(), n_frames=30, fps=100, nuisance=Nuisance(blink=1.0, head=0.5, style=0.5), seed=2
    )
    assert np.array_equal(sample.clip.frames[0], faces[0].image)


def test_lids_and_lips_are_the_layers_own(generator: MotionDiffusion, faces: list[Face]) -> None:
    check_lids_and_lips(generator, faces[0], generator.sampling.spread)


def test_lips_go_as_far_as_each_person_s(generator: MotionDiffusion, faces: list[Face]) -> None:
    """A seed is a person, for jaws that a network does not draw, too; the label is what was asked for."""
    aus, clips = facs.parse_request("26=0.5"), []
    for one, seed in (
        (generator, 1),
        (generator, 2),
        (generator.configured(spread=0.0), 1),
        (generator.configured(spread=0.0), 2),
    ):
        clips.append(one.generate(faces[0], aus, Profile(), n_frames=3, fps=100, seed=seed)[0])
    drops = [np.abs(sample.flow.uv[1]).max() for sample in clips]
    assert abs(drops[0] - drops[1]) > 0.05 * drops[2]
    assert drops[2] == drops[3]
    assert all(np.array_equal(sample.aus.intensity, aus.intensity) for sample in clips)


def test_no_fold_survives(faces: list[Face]) -> None:
    wild = network()
    torch.nn.init.normal_(wild.unet.conv_out.weight, std=1.0)
    aus = facs.parse_request("12=1,1=1,17=1")
    made = MotionDiffusion(wild, load_facts())
    _, warnings = made.generate(faces[0], aus, Profile(), n_frames=3, fps=100)
    assert not [w for w in warnings if "folds" in w]


def load_facts() -> Any:
    from mesynth.store.generator_folder import GeneratorFacts

    return GeneratorFacts.parse(OWN | {"size": SIZE})


def test_gains_of_the_facts_are_applied(faces: list[Face]) -> None:
    from dataclasses import replace

    facts = load_facts()
    plain, more = (MotionDiffusion(network(), f) for f in (facts, replace(facts, gains={"12": 1.5})))
    weak, strong = (facs.parse_request(f"12={a}") for a in (0.4, 0.6))
    gained = apex(more.motions([ApexRequest(faces[0], weak, 3)])[0], weak)
    asked = apex(plain.motions([ApexRequest(faces[0], strong, 3)])[0], strong)
    assert np.allclose(gained, asked, atol=1e-5)


def test_options(generator: MotionDiffusion, faces: list[Face]) -> None:
    assert (generator.steps, generator.solver, generator.guidance) == (3, "dpm++", 1.0)
    other = generator.configured(steps=2, solver="heun", guidance=2, spread=1.5)
    assert (other.steps, other.solver, other.guidance, other.spread) == (2, "heun", 2, 1.5)
    assert generator.spread == 1
    assert other.network is generator.network
    assert generator.steps == 3
    for solver in ("heun", "euler", "few"):
        motion = generator.configured(solver=solver).motions([ApexRequest(faces[0], facs.parse_request("12=0.5"))])[0]
        assert np.isfinite(motion.bend).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stesp": 3}, "option 'stesp' is unknown to motion_diffusion; choose from steps, solver, guidance, spread"),
        ({"steps": 0}, "steps=0 is outside"),
        ({"steps": 2.5}, "option steps=2.5 of motion_diffusion is of the wrong type"),
        ({"steps": True}, "of the wrong type"),
        ({"solver": "ddim"}, "solver 'ddim' is unknown"),
        ({"guidance": "much"}, "option guidance='much'"),
        ({"guidance": -1.0}, "guidance=-1 is outside"),
        ({"spread": "wide"}, "option spread='wide' of motion_diffusion is of the wrong type"),
        ({"spread": 11}, r"spread=11 is outside 0\.\.10"),
    ],
)
def test_bad_options(generator: MotionDiffusion, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        generator.configured(**options)
    assert "\n" not in str(error.value)


def test_a_network_keeps_its_spread_and_draws_of_seeds_lie_so_much_further_apart(
    tmp_path: Path, faces: list[Face]
) -> None:
    save_pipeline(tmp_path / "g", {"generator": network(spread=2.0)}, OWN, "# card\n", size=SIZE)
    wide = load_pipeline(tmp_path / "g")
    assert isinstance(wide, MotionDiffusion)
    assert wide.spread == 2
    asked = [ApexRequest(faces[0], facs.parse_request("12=0.1"), seed) for seed in range(6)]
    # Small motion, which neither asinh nor the limit bends.
    apart = [
        np.stack([apex(m, asked[0].aus) for m in made.motions(asked)]).std(0).mean()
        for made in (wide.configured(spread=0), wide.configured(spread=1), wide)
    ]
    assert apart[2] == pytest.approx(2 * apart[1], rel=0.15)
    assert apart[0] < 1e-5 * apart[1]  # rounding of the mean over seeds


def test_conflicting_aus_are_refused(generator: MotionDiffusion, faces: list[Face]) -> None:
    with pytest.raises(AUConflictError):
        generator.motions([ApexRequest(faces[0], facs.parse_request("12=0.5,15=0.5"))])


def test_a_size_that_is_not_the_networks_is_refused(tmp_path: Path) -> None:
    save_pipeline(tmp_path / "g", {"generator": network()}, OWN, "# card\n", size=64)
    with pytest.raises(PipelineError, match="says size 64, its network 32"):
        load_pipeline(tmp_path / "g")
