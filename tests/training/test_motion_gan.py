import itertools
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mesynth.core import facs
from mesynth.core.errors import ConfigError
from mesynth.core.profiles import Profile
from mesynth.generators.base import load_pipeline
from mesynth.generators.motion_gan.config import Config, LossConfig, ModelConfig, OptimConfig
from mesynth.generators.motion_gan.network import K
from mesynth.generators.motion_gan.task import MotionGANTask
from mesynth.store.generator_folder import read_facts
from mesynth.training.data.batches import Batch
from mesynth.training.losses import end_point_error
from tests.training.gan_checks import facts
from tests.training.rendered import PlainUpdater, joined, person_face, rendered_batch, take

SIZE = 32
CODES = (1, 2, 4, 9, 12, 15, 17)
SMALL = ModelConfig(width=8, template=24, blocks=1, discriminator=8, reader=8)
QUICK = OptimConfig(generator=3e-3, canonical=1.0, discriminator=4e-4, beta1=0.5)
FACTS = replace(facts("motion_gan", SIZE), subjects_seen=("rendered/x",), figures={"epe": 0.1})


class Quiet:
    """Losses without learning."""

    def update(self, name: str, loss: torch.Tensor) -> None: ...


def task_of(loss: LossConfig = LossConfig(), model: ModelConfig = SMALL, size: int = SIZE) -> MotionGANTask:
    torch.manual_seed(0)
    return MotionGANTask(Config(model=model, loss=loss, optim=QUICK), size)


def part_of(batch: Batch, rows: slice) -> Batch:
    values = {name: getattr(batch, name) for name in batch.__dataclass_fields__}
    return Batch(**{name: value if value is None else value[rows] for name, value in values.items()})


def epe(task: MotionGANTask, batch: Batch) -> tuple[float, float]:
    with torch.no_grad():
        flow = task.networks["generator"](batch.onset, batch.aus, batch.known).flow
        zero = torch.zeros_like(flow)
        return tuple(float(end_point_error(f, batch.flow, batch.valid).mean()) for f in (flow, zero))  # type: ignore


def fit(task: MotionGANTask, batches: Iterable[Batch], steps: int) -> None:
    """A bare loop with learning rates that fall linearly to 0."""
    updater = PlainUpdater(task.optimisers())
    groups = [g for o in updater.optimisers.values() for g in o.param_groups]
    rates = [g["lr"] for g in groups]
    for step, batch in zip(range(steps), batches, strict=False):
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate * (1 - step / steps)
        task.step(batch, 8 * step, updater)


@pytest.fixture(scope="module")
def batch() -> Batch:
    return rendered_batch([1, 2], 4, SIZE, codes=CODES)


@pytest.fixture(scope="module")
def trained() -> MotionGANTask:
    """A short training on rendered people with discriminator and reader."""
    columns = joined(range(10, 16), 8, SIZE, codes=CODES)
    task, rng = task_of(LossConfig(adversarial=0.05, au_head=0.5, au=0.1)), np.random.default_rng(0)
    fit(task, (take(columns, rng.integers(0, 48, 8)) for _ in itertools.count()), 70)
    return task


@pytest.mark.slow
def test_one_batch_is_learned_by_heart(batch: Batch) -> None:
    task = task_of(LossConfig(epe=5, l1=1), replace(SMALL, template=0))
    few = part_of(batch, slice(0, 4))
    before, zero = epe(task, few)
    fit(task, itertools.repeat(few), 110)
    after, _ = epe(task, few)
    assert before == pytest.approx(zero, rel=0.05)  # without the template it starts from nothing
    assert after < 0.25 * zero


@pytest.mark.slow
def test_people_never_seen_move_better_than_by_the_prior(trained: MotionGANTask) -> None:
    unseen = rendered_batch([500, 501, 502], 6, SIZE, codes=CODES)
    torch.manual_seed(0)
    untrained = task_of()
    prior, zero = epe(untrained, unseen)
    learned, _ = epe(trained, unseen)
    assert learned < 0.9 * prior
    assert learned < 0.5 * zero


@pytest.mark.parametrize("code", CODES)
def test_more_intensity_is_more_motion(trained: MotionGANTask, code: int, batch: Batch) -> None:
    lengths = []
    for strength in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5):
        aus = torch.zeros(2, K, 2)
        aus[:, facs.AU_INDEX[code]] = strength
        flow = trained.networks["generator"](batch.onset[[0, 4]], aus).flow.detach()
        lengths.append(flow.norm(dim=1).mean((1, 2)))
    steps = torch.stack(lengths).diff(dim=0)
    assert not lengths[0].any()
    assert bool((steps > 0).all())
    assert float(steps.max()) < 4 * float(steps.min())


@pytest.mark.parametrize("code", [12, 4, 2])
def test_one_side_leaves_the_other_alone(trained: MotionGANTask, code: int, batch: Batch) -> None:
    aus = torch.zeros(1, K, 2)
    aus[0, facs.AU_INDEX[code], 0] = 0.5
    flow = trained.networks["generator"](batch.onset[:1], aus).flow.detach()[0].norm(dim=0)
    left, right = flow[:, SIZE // 2 + 3 :], flow[:, : SIZE // 2 - 3]  # the subject's left is at image right
    assert float(right.mean()) < 0.08 * float(left.mean())


def test_validation_tells_a_good_generator_from_none(trained: MotionGANTask, batch: Batch) -> None:
    measured = {k: v.nanmean().item() for k, v in trained.validate(trained.networks, batch).items()}
    assert measured["epe"] < measured["epe_mean_flow"]
    assert measured["epe_zero"] == pytest.approx(epe(trained, batch)[1], rel=1e-4)
    assert 0.5 < measured["gain"] < 1.3
    assert measured["au_effect"] > 0.3
    assert measured["psnr"] > measured["psnr_onset"]
    assert trained.check({}, measured) == ""


def test_known_failures_are_named(trained: MotionGANTask, batch: Batch) -> None:
    class Deaf(torch.nn.Module):
        """The same motion whatever is asked."""

        def forward(self, onset: torch.Tensor, aus: torch.Tensor, *rest: object) -> object:
            return trained.networks["generator"](onset, torch.full_like(aus, 0.1))

    class Still(torch.nn.Module):
        def forward(self, onset: torch.Tensor, aus: torch.Tensor, *rest: object) -> object:
            return trained.networks["generator"](onset, 0 * aus)

    def said(network: torch.nn.Module) -> str:
        measured = trained.validate({"generator": network}, batch)
        return trained.check({}, {k: v.nanmean().item() for k, v in measured.items()})

    assert "does not depend on the AUs" in said(Deaf())
    assert "the output is the input" in said(Still())
    assert "mask is saturated" in trained.check({}, {"mask_open": 0.995})
    noisy = task_of(LossConfig(diversity=1.0), replace(SMALL, z=4))
    measured = {k: v.nanmean().item() for k, v in noisy.validate(noisy.networks, batch).items()}
    assert "collapse" in noisy.check({}, measured)  # FiLM starts as the identity: noise does nothing yet


def test_noise_is_learned_to_matter(batch: Batch) -> None:
    task = task_of(LossConfig(diversity=1.0), replace(SMALL, z=4))
    fit(task, itertools.repeat(batch), 12)
    measured = {k: v.nanmean().item() for k, v in task.validate(task.networks, batch).items()}
    assert measured["z_effect"] > 0.01


def everything() -> LossConfig:
    names = ("tv", "smooth", "adversarial", "au_head", "au", "leakage", "rank", "inverse", "teacher", "diversity")
    return LossConfig(**dict.fromkeys(names, 0.1))


def test_every_loss_is_finite_and_reaches_the_generator(batch: Batch) -> None:
    task = task_of(everything(), replace(SMALL, z=4))
    before = {n: p.detach().clone() for n, p in task.networks["generator"].named_parameters()}
    logged = task.step(batch, 0, PlainUpdater(task.optimisers()))
    assert {"epe", "l1", "rank", "teacher", "diversity", "inverse", "discriminator", "reader"} <= set(logged)
    assert all(v.ndim == 0 and bool(v.isfinite()) and not v.requires_grad for v in logged.values())
    moved = [n for n, p in task.networks["generator"].named_parameters() if not torch.equal(before[n], p)]
    assert "canonical" in moved
    assert "paint.weight" in moved


def test_an_update_moves_its_own_network_alone(batch: Batch) -> None:
    class Only(PlainUpdater):
        def update(self, name: str, loss: torch.Tensor) -> None:
            if name == self.wanted:
                super().update(name, loss)

        wanted = ""

    for wanted in ("generator", "discriminator", "reader"):
        task = task_of(everything(), replace(SMALL, z=4))
        before = {n: {k: v.clone() for k, v in net.state_dict().items()} for n, net in task.networks.items()}
        updater = Only(task.optimisers())
        updater.wanted = wanted
        task.step(batch, 0, updater)
        for name, net in task.networks.items():
            weights = dict(net.named_parameters())
            changed = any(not torch.equal(before[name][k], v) for k, v in weights.items())
            assert changed == (name == wanted), (wanted, name)


def test_a_loss_of_weight_zero_costs_nothing() -> None:
    assert set(task_of().networks) == {"generator"}
    assert set(task_of().frozen) == set()
    assert set(task_of(LossConfig(au=1)).networks) == {"generator", "reader"}
    assert set(task_of(LossConfig(teacher=1)).frozen) == {"teacher"}


def test_pairs_draw_their_own_numbers(batch: Batch) -> None:
    """Log values of a batch are the mean of its halves' where every term is a mean over pairs."""

    names = ("epe", "l1", "rank", "au", "tv", "residual", "adversarial", "diversity")
    task = task_of(everything(), replace(SMALL, z=4))
    for net in task.networks.values():
        net.eval()
    whole, first, second = (
        task.step(b, 0, Quiet()) for b in (batch, part_of(batch, slice(0, 4)), part_of(batch, slice(4, 8)))
    )
    for name in names:
        assert float(whole[name]) == pytest.approx(
            (float(first[name]) + float(second[name])) / 2, rel=1e-3, abs=1e-6
        ), name


def test_faces_without_clips_are_taught_and_judged(batch: Batch) -> None:
    """No flow, no AUs: AUs are drawn, the motion prior teaches, and nothing is compared with the missing frame."""
    nothing = {name: torch.zeros_like(getattr(batch, name)) for name in ("flow", "has_flow", "valid", "aus", "known")}
    alone = replace(batch, frame=torch.rand_like(batch.frame), **nothing)
    task = task_of(LossConfig(teacher=5.0, adversarial=0.05, au_head=0.1, r1=0), replace(SMALL, template=0))
    first = task.step(alone, 0, Quiet())
    assert float(first["epe"]) == float(first["l1"]) == 0
    assert float(first["teacher"]) > 0.05
    fit(task, itertools.repeat(alone), 40)
    last = task.step(alone, 0, Quiet())
    assert float(last["teacher"]) < 0.5 * float(first["teacher"])
    measured = task.validate(task.networks, alone)
    assert bool(measured["epe"].isnan().all())
    assert bool(measured["psnr"].isnan().all())
    assert bool(measured["au_effect"].isfinite().all())


def test_the_teacher_is_the_prior(batch: Batch) -> None:
    teacher = task_of(LossConfig(teacher=1)).frozen["teacher"]
    plain = task_of(model=replace(SMALL, template=48, max_flow=0.2)).networks["generator"]
    assert torch.allclose(teacher(batch.onset, batch.aus).flow, plain(batch.onset, batch.aus).flow, atol=1e-5)


def test_saved_and_loaded(trained: MotionGANTask, tmp_path: Path) -> None:
    trained.save(trained.networks, tmp_path / "g", FACTS)
    assert read_facts(tmp_path / "g").subjects_seen == ("rendered/x",)
    text = (tmp_path / "g" / "README.md").read_text()
    assert "# Motion GAN" in text
    assert "rendered/x" in text
    loaded = load_pipeline(tmp_path / "g")
    aus = torch.full((1, K, 2), 0.2)
    onset = torch.rand(1, 3, SIZE, SIZE)
    flows = [n(onset, aus).flow for n in (trained.networks["generator"], loaded.network)]  # type: ignore[attr-defined]
    assert torch.equal(*flows)
    face = person_face(3, 64)
    sample, _ = loaded.generate(face, facs.parse_request("12=0.5"), Profile(), n_frames=5, fps=100)
    assert np.array_equal(sample.clip.frames[0], face.image)
    assert np.abs(sample.flow.uv).max() > 1


def test_sheet(trained: MotionGANTask, batch: Batch) -> None:
    page = trained.sheet(trained.networks, batch)
    assert page.dtype == np.uint8
    assert page.shape[1] == 7 * 4 * SIZE + 6 * 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ModelConfig(width=1), "model.width=1 is outside"),
        (lambda: ModelConfig(template=0, correction=False), "leaves nothing to move"),
        (lambda: ModelConfig(template=4), "model.template=4"),
        (lambda: ModelConfig(max_flow=0.5), "model.max_flow=0.5"),
        (lambda: LossConfig(epe=-1), "loss.epe=-1"),
        (lambda: LossConfig(l1=float("nan")), "loss.l1=nan"),
        (lambda: LossConfig(epe=0, l1=0), "every loss that could teach motion is 0"),
        (lambda: OptimConfig(generator=0), "optim.generator=0"),
        (lambda: OptimConfig(beta2=1), "optim.beta2=1"),
        (lambda: Config(loss=LossConfig(diversity=1)), "has no effect with model.z=0"),
        (lambda: Config(model=ModelConfig(z=8)), "model.z=8 has no effect"),
        (lambda: MotionGANTask(Config(), 20), "data.size=20 must be a multiple of 8"),
    ],
)
def test_bad_configurations(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        make()  # type: ignore[operator]


@pytest.mark.parametrize("name", ["motion_tiny", "motion_64", "motion_128"])
def test_recipes_are_valid(name: str) -> None:
    from mesynth.training.config import load_recipe

    recipe = load_recipe(Path(__file__).parents[2] / "configs" / "gan" / f"{name}.yaml", [])
    counted = MotionGANTask(recipe.config, recipe.data.size).parameters()
    assert 4 * counted["generator"] < 30e6


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("optim.reader=1e-3", "loss.au, loss.leakage and loss.rank are 0"),
        ("model.reader=16", "loss.au, loss.leakage and loss.rank are 0"),
        ("model.template=0", "has no canonical fields"),  # the recipe sets optim.canonical
    ],
)
def test_keys_without_effect_are_refused(override: str, why: str) -> None:
    from mesynth.training.config import load_recipe

    with pytest.raises(ConfigError, match=why):
        load_recipe(Path(__file__).parents[2] / "configs" / "gan" / "motion_64.yaml", [override])
