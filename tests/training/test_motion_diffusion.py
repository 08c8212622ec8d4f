import itertools
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mesynth.core import facs
from mesynth.core.errors import ConfigError, MesynthError
from mesynth.core.profiles import Profile
from mesynth.generators.base import load_pipeline
from mesynth.generators.motion_diffusion.config import Config, DistilConfig, LossConfig, ModelConfig, OptimConfig
from mesynth.generators.motion_diffusion.task import MotionDiffusionTask
from mesynth.store.generator_folder import read_facts
from mesynth.training.data.batches import Batch
from mesynth.training.losses import end_point_error
from tests.training.gan_checks import Losses, facts, measured, rows
from tests.training.rendered import K, PlainUpdater, joined, person_face, rendered_batch, take

SIZE = 32
CODES = (1, 2, 4, 9, 12, 15, 17)
SMALL = ModelConfig(widths=(8, 16), dim=16, mean_width=8, steps=6)
FACTS = replace(facts("motion_diffusion", SIZE), subjects_seen=("rendered/x",), figures={"epe": 0.1})
RECIPES = Path(__file__).parents[2] / "configs" / "diffusion"


def task_of(
    model: ModelConfig = SMALL, loss: LossConfig = LossConfig(), lr: float = 3e-3, size: int = SIZE
) -> MotionDiffusionTask:
    torch.manual_seed(0)
    return MotionDiffusionTask(Config(model=model, loss=loss, optim=OptimConfig(lr=lr)), size)


def fit(task: MotionDiffusionTask, batches: Iterable[Batch], steps: int) -> list[float]:
    """A bare loop with learning rates that fall linearly to 0; the losses."""
    updater, log = PlainUpdater(task.optimisers()), []
    groups = [g for o in updater.optimisers.values() for g in o.param_groups]
    rates = [g["lr"] for g in groups]
    for step, batch in zip(range(steps), batches, strict=False):
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate * (1 - step / steps)
        log.append(float(task.step(batch, 8 * step, updater)["denoising"]))
    task.networks["generator"].eval()
    return log


def again(batch: Batch) -> Iterable[Batch]:
    """The same pairs with other seeds: other noise."""
    for i in itertools.count():
        yield replace(batch, seeds=batch.seeds + 7919 * i)


def drawn(task: MotionDiffusionTask, batch: Batch, aus: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        noise = batch.randn("sample", 2, SIZE // 2, SIZE // 2)
        network: Any = task.networks["generator"]
        out: torch.Tensor = network.flow(batch.onset, aus, batch.known, noise)
    return out


@pytest.fixture(scope="module")
def batch() -> Batch:
    return rendered_batch([1, 2], 4, SIZE, codes=CODES)


@pytest.fixture(scope="module")
def trained() -> MotionDiffusionTask:
    """A short training on a few rendered people."""
    columns = joined(range(10, 15), 8, SIZE, codes=CODES)
    task, rng = task_of(), np.random.default_rng(0)
    parts = (take(columns, rng.integers(0, 40, 8)) for _ in itertools.count())
    fit(task, (replace(b, seeds=b.seeds + 7919 * i) for i, b in enumerate(parts)), 100)
    return task


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["edm", "v"])
def test_one_batch_is_learned_by_heart(batch: Batch, kind: str) -> None:
    task = task_of(replace(SMALL, process=kind))
    few = rows(batch, slice(0, 4))

    def epe() -> float:
        return float(end_point_error(drawn(task, few, few.aus), few.flow, few.valid).mean())

    zero, before = float(end_point_error(0 * few.flow, few.flow, few.valid).mean()), epe()
    fit(task, again(few), 90)
    after = epe()
    assert after < 0.4 * zero
    assert after < 0.6 * before


def test_the_denoising_loss_is_the_share_of_the_expected_variance(batch: Batch) -> None:
    """By EDM's weights, at any noise, while the UNet is silent: 1 if the deviation is right."""
    plain = LossConfig(occluded=1.0)
    task = task_of(replace(SMALL, prior=False), plain)  # expects nothing: correction and bend start at 0
    network: Any = task.networks["generator"]
    clean = network.normalised(torch.nn.functional.avg_pool2d(batch.flow, 2) / 2)
    actual = float(clean.square().mean().sqrt())
    whole = replace(batch, known=torch.ones_like(batch.known))

    def loss(deviation: float) -> float:
        made = task_of(replace(SMALL, prior=False, sigma_min=deviation, sigma_data=1e-3), plain)
        with torch.no_grad():
            parts = [made.terms(b)["denoising"] for b in itertools.islice(again(whole), 20)]
        return float(torch.stack(parts).mean())

    assert loss(actual) == pytest.approx(1, rel=0.15)
    assert loss(actual / 3) > 2


def test_a_short_training_learns(trained: MotionDiffusionTask, batch: Batch) -> None:
    for name, share in (("denoising", 0.7), ("mean", 0.7)):
        with torch.no_grad():
            before, after = (np.mean([float(t.terms(b)[name]) for b in itertools.islice(again(batch), 8)])
                             for t in (task_of(), trained))  # fmt: skip
        assert after < share * before, name


@pytest.mark.parametrize("code", CODES)
def test_more_intensity_is_more_motion(trained: MotionDiffusionTask, code: int, batch: Batch) -> None:
    """Of the asked AU: along the motion that the prior expects of it."""
    few = rows(batch, slice(0, 8, 4))
    aus = torch.zeros(2, K, 2)
    aus[:, facs.AU_INDEX[code]] = 1
    untrained: Any = task_of().networks["generator"]
    with torch.no_grad():
        way = untrained.expected(untrained.regression.encode(few.onset), aus, few.known)
    gains = []
    for strength in (0.0, 0.2, 0.4, 0.6):
        flow = torch.nn.functional.avg_pool2d(drawn(trained, few, strength * aus), 2) / 2
        gains.append(float((flow * way).sum() / way.square().sum()))
    assert gains == sorted(gains)
    assert gains[-1] - gains[0] > 0.15


def test_validation_tells_a_good_generator_from_none(trained: MotionDiffusionTask, batch: Batch) -> None:
    found = measured(trained, batch)
    assert found["epe"] < found["epe_mean_flow"]
    expected = float(end_point_error(0 * batch.flow, batch.flow, batch.valid).mean())
    assert found["epe_zero"] == pytest.approx(expected, rel=1e-4)
    assert found["epe_expected"] < found["epe_zero"]
    assert 0.4 < found["gain"] < 1.5
    assert found["au_effect"] > 0.2
    assert found["diversity"] > 0.01
    assert trained.check({}, found) == ""


def test_known_failures_are_named(trained: MotionDiffusionTask, batch: Batch) -> None:
    network: Any = trained.networks["generator"]

    class Deaf(torch.nn.Module):
        """The same motion whatever is asked."""

        expected, regression = network.expected, network.regression

        def flow(self, onset: torch.Tensor, aus: torch.Tensor, *rest: object) -> object:
            return network.flow(onset, torch.full_like(aus, 0.1), *rest)

    class Still(Deaf):
        def flow(self, onset: torch.Tensor, aus: torch.Tensor, *rest: object) -> object:
            return torch.zeros_like(onset[:, :2])

    def said(made: torch.nn.Module) -> str:
        values = trained.validate({"generator": made}, batch)
        return trained.check({}, {k: float(v.nanmean()) for k, v in values.items()})

    assert "does not depend on the AUs" in said(Deaf())
    assert "the output is the input" in said(Still())


def test_pairs_draw_their_own_numbers(batch: Batch) -> None:
    """The loss of a batch is the mean of its halves'."""
    task = task_of(loss=LossConfig(fold=1.0))
    seen = []
    for part in (batch, rows(batch, slice(0, 4)), rows(batch, slice(4, 8))):
        updater = Losses()
        task.step(part, 0, updater)
        seen.append(updater.seen["generator"])
    assert seen[0] == pytest.approx((seen[1] + seen[2]) / 2, rel=1e-4)


def test_pairs_without_flow_teach_nothing(batch: Batch) -> None:
    task = task_of(loss=LossConfig(fold=1.0))
    blank = replace(batch, has_flow=torch.zeros_like(batch.has_flow))
    assert float(task.terms(blank)["denoising"]) == float(task.terms(blank)["fold"]) == 0
    half = replace(batch, has_flow=torch.arange(8) < 4)
    alone = rows(batch, slice(0, 4))
    assert float(task.terms(half)["denoising"]) == pytest.approx(float(task.terms(alone)["denoising"]), rel=1e-4)
    assert bool(task.validate(task.networks, blank)["epe"].isnan().all())
    with pytest.raises(ConfigError, match="learns nothing from faces without clips"):
        task.check_faces(alone=False)


def test_occluded_pixels_weigh_less(batch: Batch) -> None:
    hidden = torch.zeros_like(batch.valid)
    hidden[:, :, : SIZE // 2] = True
    wrong = batch.flow.clone()
    wrong[..., SIZE // 2 :] += 3
    for weight in (0.0, 0.5):
        task = task_of(loss=LossConfig(occluded=weight))
        with torch.no_grad():
            right, off = (task.terms(replace(batch, valid=hidden, flow=flow)) for flow in (batch.flow, wrong))
        for name in ("denoising", "mean"):
            assert (float(off[name]) == pytest.approx(float(right[name]), rel=1e-3)) == (weight == 0), name


def _folding(batch: Batch) -> torch.Tensor:
    out = torch.zeros_like(batch.flow)
    out[:, 0] = 4 * torch.sin(2 * torch.pi * torch.arange(SIZE) / 8)  # determinants down to 1 - pi
    return out


def test_folds_of_the_estimate_are_penalised(batch: Batch) -> None:
    """A silent UNet believes the data where there is little noise: folds of the data are folds of the estimate."""
    folding = _folding(batch)
    task = task_of(replace(SMALL, prior=False, sigma_min=1.0), LossConfig(fold=1.0))
    with torch.no_grad():
        smooth, folded = (float(task.terms(replace(batch, flow=f))["fold"]) for f in (0 * folding, folding))
    assert folded > smooth + 0.05


def test_each_loss_reaches_its_own_part(batch: Batch) -> None:
    task = task_of(loss=LossConfig(fold=1.0))
    network: Any = task.networks["generator"]
    torch.nn.init.normal_(network.unet.conv_out.weight, std=0.1)
    for name, parts in (("denoising", {"unet", "tokens"}), ("fold", {"unet", "tokens"}), ("mean", {"regression"})):
        network.zero_grad()
        task.terms(replace(batch, flow=_folding(batch)))[name].backward()
        moved = {n.split(".")[0] for n, p in network.named_parameters() if p.grad is not None and p.grad.any()}
        assert moved == parts, name


def test_saved_and_loaded(trained: MotionDiffusionTask, batch: Batch, tmp_path: Path) -> None:
    trained.save(trained.networks, tmp_path / "g", FACTS)
    assert read_facts(tmp_path / "g").subjects_seen == ("rendered/x",)
    text = (tmp_path / "g" / "README.md").read_text()
    assert "# Motion diffusion" in text
    assert "rendered/x" in text
    loaded = load_pipeline(tmp_path / "g")
    noise = batch.randn("sample", 2, SIZE // 2, SIZE // 2)
    args = (batch.onset, batch.aus, batch.known, noise)
    with torch.no_grad():
        flows = [net(*args) for net in (trained.networks["generator"], loaded.network)]  # type: ignore[attr-defined]
    assert torch.equal(*flows)
    face = person_face(3, 64)
    sample, _ = loaded.generate(face, facs.parse_request("12=0.5"), Profile(), n_frames=5, fps=100)
    assert np.array_equal(sample.clip.frames[0], face.image)
    assert np.abs(sample.flow.uv).max() > 0.5


def student_of(teacher: MotionDiffusionTask, folder: Path, **distil: Any) -> MotionDiffusionTask:
    teacher.save(teacher.networks, folder, FACTS)
    model = replace(SMALL, steps=2, solver="few")
    return MotionDiffusionTask(
        Config(model=model, optim=OptimConfig(lr=2e-3), distil=DistilConfig(teacher=str(folder), **distil)), SIZE
    )


def test_a_student_starts_as_its_teacher_and_comes_nearer_in_two_looks(
    trained: MotionDiffusionTask, batch: Batch, tmp_path: Path
) -> None:
    student = student_of(trained, tmp_path / "teacher", steps=6)
    for name, value in trained.networks["generator"].state_dict().items():
        assert torch.equal(value, student.networks["generator"].state_dict()[name]), name

    def off() -> float:
        with torch.no_grad():
            return float(np.mean([float(student.distilled(b)) for b in itertools.islice(again(batch), 1000, 1002)]))

    before = off()
    updater = PlainUpdater(student.optimisers())
    for b in itertools.islice(again(batch), 15):
        student.step(b, 0, updater)
    assert off() < 0.9 * before
    weights = student.networks["generator"].state_dict()
    kept = [n for n, v in trained.networks["generator"].named_parameters() if n.startswith("regression.")]
    assert all(torch.allclose(weights[n], trained.networks["generator"].state_dict()[n]) for n in kept)


def test_the_teachers_guidance_is_learned(trained: MotionDiffusionTask, batch: Batch, tmp_path: Path) -> None:
    plain, led = (student_of(trained, tmp_path / str(g), steps=3, guidance=g) for g in (1.0, 4.0))
    assert float(plain.distilled(batch)) != pytest.approx(float(led.distilled(batch)), rel=0.01)


def test_a_student_names_its_teacher_and_keeps_its_sampler(trained: MotionDiffusionTask, tmp_path: Path) -> None:
    student = student_of(trained, tmp_path / "teacher")
    assert trained.teachers() == {}
    assert student.teachers()["distil.teacher"].subjects_seen == ("rendered/x",)
    student.save(student.networks, tmp_path / "student", FACTS)
    loaded: Any = load_pipeline(tmp_path / "student")
    assert (loaded.steps, loaded.solver, loaded.guidance) == (2, "few", 1.0)


def test_bad_teachers(trained: MotionDiffusionTask, tmp_path: Path) -> None:
    def student(**model: Any) -> None:
        chosen = replace(SMALL, **({"solver": "few"} | model))
        MotionDiffusionTask(Config(model=chosen, distil=DistilConfig(teacher=str(tmp_path / "g"))), SIZE)

    with pytest.raises(MesynthError, match="is no saved generator"):
        student()
    trained.save(trained.networks, tmp_path / "g", FACTS)
    with pytest.raises(ConfigError, match=r"has model\.dim=16, the recipe 24"):
        student(dim=24)
    with pytest.raises(ConfigError, match=r"a student with model\.solver=few"):
        student(solver="heun")
    with pytest.raises(ConfigError, match=r"distil\.steps=0 is outside"):
        DistilConfig(steps=0)


def test_sheet(trained: MotionDiffusionTask, batch: Batch) -> None:
    page = trained.sheet(trained.networks, batch)
    assert page.dtype == np.uint8
    assert page.shape[1] == 8 * 4 * SIZE + 7 * 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ModelConfig(widths=(16,)), "model.widths has 1 levels"),
        (lambda: ModelConfig(widths=(16, 20)), "model.widths=20 is no multiple of 8"),
        (lambda: ModelConfig(attention=4), "model.attention=4 is outside 0..3"),
        (lambda: ModelConfig(process="ddpm"), "model.process 'ddpm' is unknown"),
        (lambda: ModelConfig(scale=0), "model.scale=0 is outside"),
        (lambda: ModelConfig(max_flow=0.5), "model.max_flow=0.5 is outside"),
        (lambda: ModelConfig(steps=0), "model.steps=0 is outside"),
        (lambda: ModelConfig(solver="ddim"), "model.solver 'ddim' is unknown"),
        (lambda: LossConfig(occluded=2), "loss.occluded=2 is outside"),
        (lambda: LossConfig(fold=float("nan")), "loss.fold=nan is no weight"),
        (lambda: OptimConfig(lr=0), "optim.lr=0 is outside"),
        (lambda: OptimConfig(beta2=1), "optim.beta2=1 is outside"),
        (lambda: MotionDiffusionTask(Config(), 36), "data.size=36 must be a multiple of 8"),
    ],
)
def test_bad_configurations(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        make()  # type: ignore[operator]


@pytest.mark.parametrize("name", ["motion_tiny", "motion_64"])
def test_recipes_are_valid_and_small(name: str) -> None:
    from mesynth.training.config import load_recipe

    recipe = load_recipe(RECIPES / f"{name}.yaml", [])
    assert 4 * MotionDiffusionTask(recipe.config, recipe.data.size).parameters()["generator"] < 30e6


def test_the_gpu_recipe_is_valid() -> None:
    from mesynth.training.config import load_recipe

    recipe = load_recipe(RECIPES / "motion_128.yaml", [])
    assert recipe.data.size == 128
