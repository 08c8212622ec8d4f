"""Training AU-ICGAN: it fits, follows intensity where the AU is, and says so when it does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mesynth.core.errors import ConfigError
from mesynth.generators.au_icgan.config import Config, LossConfig, ModelConfig, OptimConfig
from mesynth.generators.au_icgan.task import AUICGANTask
from mesynth.generators.base import load_pipeline
from mesynth.training import losses as L
from mesynth.training.config import load_recipe
from mesynth.training.loop import build_task
from mesynth.training.task import Problem
from tests.training.gan_checks import CODES, by_intensity, facts, fit, losses, measured, repeat, rows
from tests.training.rendered import joined, rendered_batch

SIZE = 24
BROWS, MOUTH = slice(0, 11), slice(13, 24)
MODEL = ModelConfig(width=8, blocks=1, critic_width=8, critic_layers=3)
FAST = OptimConfig(lr=3e-3, lr_critic=2e-3)


def task(seed: int = 0, **options: object) -> AUICGANTask:
    torch.manual_seed(seed)
    return AUICGANTask(Config(**{"model": MODEL, "optim": FAST, **options}), SIZE)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def trained() -> AUICGANTask:
    """80 steps on three rendered people."""
    made = task(loss=LossConfig(cycle=1, mask=0.01))
    fit(made, joined(range(3), 12, SIZE, codes=CODES), 80, 12)
    return made


@pytest.mark.slow
def test_one_batch_is_learned_by_heart() -> None:
    """Without the critic's moving target: two fifths of what separates real frames from onsets are gone."""
    batch = rendered_batch(range(2), 2, SIZE, codes=CODES)
    log = repeat(task(loss=LossConfig(adversarial=0, cycle=0, mask=0)), batch, 150)
    onset_error = float((batch.frame - batch.onset).abs().mean())
    assert float(log[-1]["pixel"]) < 0.5 * onset_error
    assert float(log[-1]["intensity_real"]) < 0.25 * float(log[0]["intensity_real"])


@pytest.mark.slow
def test_change_grows_with_intensity_where_the_au_is(trained: AUICGANTask) -> None:
    unseen = rendered_batch(range(20, 22), 2, SIZE, codes=CODES)
    generator = trained.networks["generator"]

    def change(aus: torch.Tensor) -> torch.Tensor:
        return (generator(unseen.onset, aus).picture - unseen.onset).abs().mean(1)

    for code, own, other in ((4, BROWS, MOUTH), (12, MOUTH, BROWS)):
        inside = by_intensity(trained, unseen, change, code, own)
        assert inside[0] == 0
        assert (np.diff(inside) > 0).all(), (code, inside)
        assert inside[4] > 1.5 * by_intensity(trained, unseen, change, code, other)[4]


@pytest.mark.slow
def test_a_trained_generator_passes_its_own_check_and_is_saved(trained: AUICGANTask, tmp_path: Path) -> None:
    unseen = rendered_batch(range(20, 22), 2, SIZE, codes=CODES)
    figures = measured(trained, unseen)
    assert trained.check({}, figures) == ""
    assert 0.2 < figures["change"] / figures["real_change"] < 5
    generator = trained.networks["generator"]
    trained.save({"generator": generator}, tmp_path / "g", facts("au_icgan", SIZE))
    assert load_pipeline(tmp_path / "g").facts.images == 12
    assert "reconstruction" in (tmp_path / "g" / "README.md").read_text()
    picture = trained.sheet({"generator": generator}, unseen)
    assert picture.dtype == np.uint8
    assert picture.shape == (4 * (SIZE + 2) - 2, 7 * (SIZE + 2) - 2, 3)


@pytest.mark.parametrize(("bias", "says"), [(30.0, "saturated"), (-30.0, "saturated")])
def test_a_saturated_mask_is_detected(bias: float, says: str) -> None:
    made = task()
    torch.nn.init.constant_(made.networks["generator"].mask.bias, bias)  # type: ignore[union-attr,arg-type]
    assert says in made.check({}, measured(made, rendered_batch(range(1), 3, SIZE, codes=CODES)))


def test_a_mask_that_keeps_the_input_is_not_saved(tmp_path: Path) -> None:
    made = task()
    torch.nn.init.constant_(made.networks["generator"].mask.bias, 30.0)  # type: ignore[union-attr,arg-type]
    with pytest.raises(Problem, match="does not depend on the AUs"):
        made.save({"generator": made.networks["generator"]}, tmp_path / "g", facts("au_icgan", SIZE))
    assert not (tmp_path / "g").exists()


def deaf(made: AUICGANTask) -> AUICGANTask:
    """The AU channels of the first layer, and film, cut off: what is left reacts to the strength asked for alone."""
    generator = made.networks["generator"]
    with torch.no_grad():
        generator.tiled.weight[:] = 0  # type: ignore[index,union-attr]
    return made


def test_an_output_that_ignores_which_aus_is_detected_and_not_saved(tmp_path: Path) -> None:
    made = deaf(task(model=replace(MODEL, film=False, relative=False, prior=False)))
    figures = measured(made, rendered_batch(range(1), 3, SIZE, codes=CODES))
    assert figures["change"] > 0.1
    assert "does not depend on the AUs" in made.check({}, figures)
    assert made.reach(made.networks["generator"]) < 1e-3
    with pytest.raises(Problem, match="not saved"):
        made.save({"generator": made.networks["generator"]}, tmp_path / "g", facts("au_icgan", SIZE))


def test_not_a_number_is_detected() -> None:
    assert task().check({"pixel": float("nan")}, {}) == "pixel is nan"


def test_a_batch_in_parts_has_the_losses_of_the_whole() -> None:
    made, batch = task(), rendered_batch(range(2), 2, SIZE, codes=CODES)
    batch.known[1] = False
    batch.known[2, 5:] = False
    whole = losses(made, batch)
    parts = [losses(made, rows(batch, part)) for part in (slice(0, 1), slice(1, 2), slice(2, 3), slice(3, 4))]
    assert set(whole) == {"generator", "realism", "intensity"}
    for name, value in whole.items():
        assert np.mean([p[name] for p in parts]) == pytest.approx(value, rel=1e-4)


def test_unknown_aus_teach_nothing() -> None:
    made, batch = task(loss=LossConfig(adversarial=0, pixel=0)), rendered_batch(range(1), 3, SIZE, codes=CODES)
    batch.known[:] = False
    seen = losses(made, batch)
    batch.aus[:] = 0.9
    assert losses(made, batch) == seen


def test_weights_of_zero_leave_networks_out() -> None:
    assert set(task(loss=LossConfig(adversarial=0)).networks) == {"generator", "intensity"}
    only = task(loss=LossConfig(adversarial=0, au=0, cycle=0))
    assert set(only.optimisers()) == {"generator"}
    assert set(losses(only, rendered_batch(range(1), 2, SIZE, codes=CODES))) == {"generator"}


def test_the_gradient_penalty_is_that_of_a_known_slope() -> None:
    at = torch.rand(3, 3, 4, 4, requires_grad=True)
    scores = (at * 2).flatten(1).sum(1, keepdim=True)
    expected = (2 * 48**0.5 - 1) ** 2
    torch.testing.assert_close(L.gradient_penalty(scores, at), torch.full((3,), expected), rtol=1e-4, atol=0)


def test_critic_steps_draw_their_own_mixtures() -> None:
    made = task(optim=replace(FAST, critic_steps=3))
    log = repeat(made, rendered_batch(range(1), 2, SIZE, codes=CODES), 2)
    assert np.isfinite([float(v) for v in log[-1].values()]).all()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: LossConfig(au=-1), r"loss\.au=-1"),
        (lambda: LossConfig(cycle=float("nan")), r"loss\.cycle=nan"),
        (lambda: LossConfig(adversarial=0, au=0, pixel=0), "nothing would be learned"),
        (lambda: OptimConfig(lr=0), r"optim\.lr=0"),
        (lambda: OptimConfig(beta1=1), r"optim\.beta1=1"),
        (lambda: OptimConfig(critic_steps=0), "critic_steps=0"),
        (lambda: ModelConfig(blocks=0), r"model\.blocks=0"),
        (lambda: AUICGANTask(Config(), 30), "size 30"),
    ],
)
def test_wrong_settings_are_one_line(make: object, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        make()  # type: ignore[operator]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "size", "width"), [("tiny", 32, 8), ("64", 64, 16), ("128", 128, 64)])
def test_recipes_build(name: str, size: int, width: int) -> None:
    recipe = load_recipe(Path(f"configs/gan/au_icgan_{name}.yaml"), [])
    with torch.device("meta"):
        made = build_task(recipe)
    assert (made.name, recipe.data.size) == ("au_icgan", size)
    assert recipe.config.model.width == width


def test_a_key_without_effect_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"loss\.penalty has no effect"):
        load_recipe(Path("configs/gan/au_icgan_tiny.yaml"), ["loss.adversarial=0", "loss.penalty=5"])
