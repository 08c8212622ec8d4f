"""Training ICE-GAN: it fits, follows intensity and class, and says so when it does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mesynth.core.errors import ConfigError
from mesynth.generators.base import load_pipeline
from mesynth.generators.ice_gan.config import Config, LossConfig, ModelConfig, OptimConfig
from mesynth.generators.ice_gan.task import ICEGANTask
from mesynth.training.config import load_recipe
from mesynth.training.loop import build_task
from mesynth.training.task import Problem
from tests.training.gan_checks import CODES, by_intensity, facts, fit, labelled, level, losses, measured, repeat, rows
from tests.training.rendered import joined, rendered_batch

SIZE = 16
BROWS, MOUTH = slice(0, 7), slice(9, 16)
MODEL = ModelConfig(width=8, embedding=16, noise=4, critic_width=8, hidden=16, rebuilt=8)
FAST = OptimConfig(lr=3e-3, lr_critic=2e-3)


def task(seed: int = 0, **options: object) -> ICEGANTask:
    torch.manual_seed(seed)
    return ICEGANTask(Config(**{"model": MODEL, "optim": FAST, **options}), SIZE)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def learned() -> tuple[ICEGANTask, list[dict[str, torch.Tensor]]]:
    """120 steps on three rendered people, and the log of every one."""
    made = task()
    return made, fit(made, joined(range(3), 12, SIZE, codes=CODES), 120, 12)


@pytest.fixture(scope="module")
def trained(learned: tuple[ICEGANTask, list[dict[str, torch.Tensor]]]) -> ICEGANTask:
    return learned[0]


@pytest.mark.slow
def test_a_few_people_are_learned(learned: tuple[ICEGANTask, list[dict[str, torch.Tensor]]]) -> None:
    """A copy of the onset at first; then drawn more closely, and what a clip shows is closer too."""
    shown, log = joined(range(3), 12, SIZE, codes=CODES), learned[1]
    onset_error = np.abs(shown["frame"].astype(float) - shown["onset"]).mean() / 255
    assert level(log, "pixel") < 0.9 * float(log[0]["pixel"])
    assert level(log, "clip") < 0.8 * onset_error
    assert level(log, "d_classes") < 0.3 * float(log[0]["d_classes"])
    assert level(log, "d_reconstruction") < 0.5 * float(log[0]["d_reconstruction"])


@pytest.mark.slow
def test_change_grows_with_intensity_where_the_au_is(trained: ICEGANTask) -> None:
    unseen = rendered_batch(range(20, 22), 2, SIZE, codes=CODES)
    generator, n = trained.networks["generator"], 4
    z, classes = unseen.randn("z", MODEL.noise), torch.zeros(n, 3)

    def change(aus: torch.Tensor) -> torch.Tensor:
        plain = generator(unseen.onset, z, classes, torch.zeros_like(aus))
        return (generator(unseen.onset, z, classes, aus) - plain).abs().mean(1)

    for code, own, other in ((4, BROWS, MOUTH), (12, MOUTH, BROWS)):
        inside = by_intensity(trained, unseen, change, code, own)
        assert inside[0] == 0
        assert (np.diff(inside) > 0).all(), (code, inside)
        assert inside[4] > 1.2 * by_intensity(trained, unseen, change, code, other)[4]


@pytest.mark.slow
def test_a_trained_generator_passes_its_own_check_and_is_saved(trained: ICEGANTask, tmp_path: Path) -> None:
    unseen = labelled(rendered_batch(range(20, 22), 2, SIZE, codes=CODES))
    figures = measured(trained, unseen)
    assert trained.check({}, figures) == ""
    assert figures["class_change"] > 0.05
    assert 0.2 < figures["change"] / figures["real_change"] < 5
    generator = trained.networks["generator"]
    trained.save({"generator": generator}, tmp_path / "g", facts("ice_gan", SIZE))
    assert load_pipeline(tmp_path / "g").family == "ice_gan"
    picture = trained.sheet({"generator": generator}, unseen)
    assert picture.dtype == np.uint8
    assert picture.shape == (4 * (SIZE + 2) - 2, 9 * (SIZE + 2) - 2, 3)


def silent(made: ICEGANTask) -> ICEGANTask:
    """Film at zero and the AU rows at 1x1 cut off: the AUs reach nothing."""
    generator = made.networks["generator"]
    first = generator.up[0].body[2].parametrizations.weight.original  # type: ignore[index,union-attr]
    with torch.no_grad():
        first[:, MODEL.embedding + MODEL.noise + 3 :] = 0
    return made


def test_an_output_that_ignores_the_aus_is_detected_and_not_saved(tmp_path: Path) -> None:
    made = silent(task())
    figures = measured(made, rendered_batch(range(1), 3, SIZE, codes=CODES))
    assert "does not depend on the AUs" in made.check({}, figures)
    with pytest.raises(Problem, match="not saved"):
        made.save({"generator": made.networks["generator"]}, tmp_path / "g", facts("ice_gan", SIZE))
    assert not (tmp_path / "g").exists()


def test_a_batch_in_parts_has_the_losses_of_the_whole() -> None:
    made, batch = task(), labelled(rendered_batch(range(2), 2, SIZE, codes=CODES))
    batch.known[1] = False
    batch.label[2] = -1
    whole = losses(made, batch)
    parts = [losses(made, rows(batch, slice(i, i + 1))) for i in range(4)]
    assert set(whole) == {"generator", "discriminator"}
    for name, value in whole.items():
        assert np.mean([p[name] for p in parts]) == pytest.approx(value, rel=1e-4)


def test_pairs_without_a_class_teach_no_class() -> None:
    made, batch = task(), rendered_batch(range(1), 3, SIZE, codes=CODES)
    assert (batch.label == -1).all()
    log = repeat(made, batch, 1)[0]
    assert float(log["classes"]) == float(log["d_classes"]) == 0


def test_weights_of_zero_leave_the_discriminator_out() -> None:
    only = task(loss=LossConfig(adversarial=0, classes=0, au=0, reconstruction=0))
    assert set(only.networks) == {"generator"}
    assert set(losses(only, rendered_batch(range(1), 2, SIZE, codes=CODES))) == {"generator"}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: LossConfig(rest=-1), r"loss\.rest=-1"),
        (lambda: LossConfig(adversarial=0, pixel=0, clip=0), "nothing would be learned"),
        (lambda: OptimConfig(lr_critic=2), r"optim\.lr_critic=2"),
        (lambda: ModelConfig(noise=0), r"model\.noise=0"),
        (lambda: ModelConfig(critic_width=12), "critic_width=12"),
        (lambda: ICEGANTask(Config(), 96), "size 96"),
        (lambda: ICEGANTask(Config(model=replace(MODEL, rebuilt=12)), 64), "rebuilt=12"),
        (lambda: ICEGANTask(Config(model=replace(MODEL, published=True)), 16), "at least 32 pixels"),
    ],
)
def test_wrong_settings_are_one_line(make: object, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        make()  # type: ignore[operator]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "size", "embedding"), [("tiny", 32, 32), ("64", 64, 160), ("128", 128, 320)])
def test_recipes_build(name: str, size: int, embedding: int) -> None:
    recipe = load_recipe(Path(f"configs/gan/ice_gan_{name}.yaml"), [])
    with torch.device("meta"):
        made = build_task(recipe)
    assert (made.name, recipe.data.size) == ("ice_gan", size)
    assert recipe.config.model.embedding == embedding
    assert "Our variant" in made.card["what"]  # type: ignore[attr-defined]


def test_a_key_without_effect_is_refused() -> None:
    off = ["loss.adversarial=0", "loss.classes=0", "loss.au=0"]
    with pytest.raises(ConfigError, match=r"loss\.reconstruction has no effect"):
        load_recipe(Path("configs/gan/ice_gan_tiny.yaml"), [*off, "loss.reconstruction=1"])


# ---------------------------------------------------------------- by the authors' definition


PUBLISHED = replace(MODEL, published=True)


def shown(**changed: object) -> ICEGANTask:
    torch.manual_seed(0)
    loss = LossConfig(clip=0, **changed)  # type: ignore[arg-type]
    return ICEGANTask(Config(model=PUBLISHED, loss=loss, optim=FAST), 32)


def test_the_published_recipe_builds_the_published_sizes() -> None:
    recipe = load_recipe(Path("configs/gan/ice_gan_published.yaml"), ["data.manifests=[somewhere]"])
    with torch.device("meta"):
        made = build_task(recipe)
    assert sum(p.numel() for p in made.networks["generator"].parameters()) == 40_282_753
    assert "authors' code" in made.card["what"]  # type: ignore[attr-defined]
    assert recipe.config.loss.clip == 0


@pytest.mark.parametrize("key", ["model.graph=false", "model.prior=false", "model.rebuilt=8", "loss.au=1"])
def test_what_the_published_definition_leaves_no_choice_of_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=r"has no effect: model\.published=true"):
        load_recipe(Path("configs/gan/ice_gan_published.yaml"), ["data.manifests=[somewhere]", key])


def test_the_published_networks_learn_two_clips_and_their_classes() -> None:
    made = shown()
    batch = labelled(rendered_batch(range(1), 2, 32, codes=CODES))
    log = repeat(made, batch, 25)
    assert {"classes", "adversarial", "pixel", "rest", "d_classes", "d_reconstruction"} <= set(log[0])
    assert not {"au", "d_au", "clip"} & set(log[0])
    assert float(log[-1]["pixel"]) < 0.7 * float(log[0]["pixel"])
    assert all(torch.isfinite(value) for row in log for value in row.values())
    figures = measured(made, batch)
    assert "au_dependence" not in figures
    assert made.sheet({"generator": made.networks["generator"]}, batch).dtype == np.uint8


def test_a_published_generator_deaf_to_the_class_is_not_saved(tmp_path: Path) -> None:
    made = shown()
    innermost = made.networks["generator"].up[0].parametrizations.weight.original  # type: ignore[index,union-attr]
    with torch.no_grad():
        innermost[-3:] = 0
    with pytest.raises(Problem, match="not saved: its output does not depend on the class"):
        made.save({"generator": made.networks["generator"]}, tmp_path / "g", facts("ice_gan", 32))
    assert not (tmp_path / "g").exists()
