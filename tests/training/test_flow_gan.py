"""Training the flow-image GAN: it fits, follows intensity and class, and says so when it does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mesynth.core.errors import ConfigError
from mesynth.generators.base import load_pipeline
from mesynth.generators.flow_gan.config import Config, LossConfig, ModelConfig, OptimConfig
from mesynth.generators.flow_gan.network import FlowGAN
from mesynth.generators.flow_gan.task import FlowGANTask, request_reach
from mesynth.training.config import load_recipe
from mesynth.training.loop import build_task
from mesynth.training.task import Problem
from tests.training.gan_checks import CODES, by_intensity, facts, fit, labelled, level, losses, measured, rows
from tests.training.rendered import joined, rendered_batch

SIZE = 16
BROWS, MOUTH = slice(0, 7), slice(9, 16)
MODEL = ModelConfig(width=8, z=8, critic_width=8, critic_layers=2)
FAST = OptimConfig(lr=2e-3, lr_critic=2e-3, beta1=0.5, beta2=0.99)


def task(seed: int = 0, **options: object) -> FlowGANTask:
    torch.manual_seed(seed)
    return FlowGANTask(Config(**{"model": MODEL, "optim": FAST, **options}), SIZE)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def learned() -> tuple[FlowGANTask, list[dict[str, torch.Tensor]]]:
    """130 steps on three rendered people, and the log of every one."""
    made = task()
    return made, fit(made, joined(range(3), 12, SIZE, codes=CODES), 130, 12)


@pytest.fixture(scope="module")
def trained(learned: tuple[FlowGANTask, list[dict[str, torch.Tensor]]]) -> FlowGANTask:
    return learned[0]


@pytest.mark.slow
def test_a_few_people_are_learned(learned: tuple[FlowGANTask, list[dict[str, torch.Tensor]]]) -> None:
    log = learned[1]
    assert level(log, "pixel") < 0.3 * float(log[0]["pixel"])
    assert level(log, "d_classes") < 0.3 * float(log[0]["d_classes"])


@pytest.mark.slow
def test_motion_grows_with_intensity_where_the_au_is(trained: FlowGANTask) -> None:
    unseen = rendered_batch(range(20, 22), 8, SIZE, codes=CODES)
    generator = trained.networks["generator"]
    z, classes = unseen.randn("z", MODEL.z), torch.zeros(16, 3)

    def motion(aus: torch.Tensor) -> torch.Tensor:
        return generator(z, classes, aus).square().sum(1).sqrt()

    for code, own, other in ((4, BROWS, MOUTH), (12, MOUTH, BROWS)):
        # Without any AU the flow is that of an unknown request, not of rest: the rise starts at .1.
        inside = by_intensity(trained, unseen, motion, code, own)[1:]
        assert (np.diff(inside) > 0).all(), (code, inside)
        assert inside[-1] > 1.5 * by_intensity(trained, unseen, motion, code, other)[-1]


@pytest.mark.slow
def test_the_class_moves_its_own_part_of_the_face(trained: FlowGANTask, tmp_path: Path) -> None:
    """Negative was AU 4 in training, positive AU 12."""
    trained.save({"generator": trained.networks["generator"]}, tmp_path / "g", facts("flow_gan", SIZE))
    made = load_pipeline(tmp_path / "g")
    assert isinstance(made, FlowGAN)
    assert "generate(face" not in (tmp_path / "g" / "README.md").read_text()
    share = {}
    for label in ("negative", "positive"):
        length = np.hypot(*made.sample(seeds=range(16), labels=[label] * 16).transpose(1, 0, 2, 3))
        share[label] = length[:, MOUTH].mean() / length[:, BROWS].mean()
    assert share["positive"] > 2 * share["negative"]


@pytest.mark.slow
def test_a_trained_generator_passes_its_own_check(trained: FlowGANTask) -> None:
    unseen = labelled(rendered_batch(range(20, 22), 2, SIZE, codes=CODES))
    figures = measured(trained, unseen)
    assert trained.check({}, figures) == ""
    assert 0.3 < figures["motion"] / figures["real_motion"] < 3
    picture = trained.sheet({"generator": trained.networks["generator"]}, unseen)
    assert picture.dtype == np.uint8
    assert picture.shape == (4 * (2 * SIZE + 2) - 2, 7 * (2 * SIZE + 2) - 2, 3)


def test_known_failures_are_detected() -> None:
    batch = labelled(rendered_batch(range(1), 3, SIZE, codes=CODES))
    for make, says in (
        (lambda g: g.mix[0].weight.data[:, : MODEL.z].zero_(), "mode collapse"),
        (lambda g: (g.last.weight.data.zero_(), g.last.bias.data.fill_(1e-9)), "mode collapse"),
    ):
        made = task()
        made.networks["generator"].seed.parametrizations.weight.original.data[:, : MODEL.z] = 0  # type: ignore[union-attr]
        make(made.networks["generator"])
        assert says in made.check({}, measured(made, batch))
    good = {"motion": 0.1, "real_motion": 0.1, "diversity": 0.5, "au_dependence": 0.01, "class_dependence": 0.5}
    assert task().check({}, good) == ""
    assert "neither on AUs nor" in task().check({}, good | {"class_dependence": 0.01})
    assert "no motion" in task().check({}, good | {"motion": 0.001})
    assert task().check({"pixel": float("inf")}, good) == "pixel is inf"


def test_a_flow_that_depends_on_no_request_is_not_saved(tmp_path: Path) -> None:
    made = task(model=replace(MODEL, prior=False))
    generator = made.networks["generator"]
    assert request_reach(generator) > 0.01
    with torch.no_grad():
        generator.mix[0].weight[:, MODEL.z :] = 0  # type: ignore[index,union-attr]
        generator.seed.parametrizations.weight.original[:, MODEL.z :] = 0  # type: ignore[index,union-attr]
    with pytest.raises(Problem, match="not saved"):
        made.save({"generator": generator}, tmp_path / "g", facts("flow_gan", SIZE))
    assert not (tmp_path / "g").exists()


def test_a_batch_in_parts_has_the_losses_of_the_whole() -> None:
    made, batch = task(), labelled(rendered_batch(range(2), 2, SIZE, codes=CODES))
    batch.known[1] = False
    batch.label[2] = -1
    batch.has_flow[3] = False
    whole = losses(made, batch)
    parts = [losses(made, rows(batch, slice(i, i + 1))) for i in range(4)]
    for name, value in whole.items():
        assert np.mean([p[name] for p in parts]) == pytest.approx(value, rel=1e-4)
    assert parts[3] == {"discriminator": 0, "generator": 0}


def test_hidden_pixels_do_not_count() -> None:
    made, batch = task(), labelled(rendered_batch(range(1), 2, SIZE, codes=CODES))
    batch.valid[:, :5] = False
    seen = losses(made, batch)
    batch.flow[:, :, :5] = 3.0
    assert losses(made, batch) == seen


@pytest.mark.parametrize("condition", ["class", "aus"])
def test_one_condition_alone_hears_nothing_of_the_other(condition: str) -> None:
    made = task(model=replace(MODEL, condition=condition))
    batch = labelled(rendered_batch(range(1), 3, SIZE, codes=CODES))
    classes, aus, told = made._targets(batch, drop=True)
    assert told.all()  # there is nothing else to be told by
    assert bool(classes.any()) == (condition == "class")
    assert bool(aus.any()) == (condition == "aus")
    names = set(measured(made, batch))
    assert ("class_dependence" in names, "au_dependence" in names) == (condition == "class", condition == "aus")


def test_both_conditions_are_trained_together_and_each_alone() -> None:
    batch = labelled(rendered_batch(range(3), 20, SIZE, codes=CODES))
    classes, aus, _ = task()._targets(batch, drop=True)
    has_class, has_aus = classes.any(1), aus.flatten(1).any(1)
    assert (has_class | has_aus).all()
    for share in (has_class & has_aus, has_class & ~has_aus, has_aus & ~has_class):
        assert 0.15 < share.float().mean() < 0.55
    batch.label[:] = -1
    _, kept, _ = task()._targets(batch, drop=True)
    assert torch.equal(kept, batch.aus)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: LossConfig(pixel=-1), r"loss\.pixel=-1"),
        (lambda: LossConfig(adversarial=0, pixel=0), "nothing would be learned"),
        (lambda: ModelConfig(condition="emotion"), "'emotion' is unknown"),
        (lambda: ModelConfig(unit=0.1), r"model\.unit=0\.1"),
        (lambda: OptimConfig(lr=-1), r"optim\.lr=-1"),
        (lambda: FlowGANTask(Config(), 256), "size 256"),
        (lambda: FlowGANTask(Config(), 30), "size 30"),
    ],
)
def test_wrong_settings_are_one_line(make: object, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        make()  # type: ignore[operator]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "size"), [("tiny", 32), ("64", 64), ("128", 128)])
def test_recipes_build(name: str, size: int) -> None:
    recipe = load_recipe(Path(f"configs/gan/flow_gan_{name}.yaml"), [])
    with torch.device("meta"):
        made = build_task(recipe)
    assert (made.name, recipe.data.size, recipe.config.model.condition) == ("flow_gan", size, "both")
