"""Recipes: defaults, overrides, and every way to get one wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesynth.core.errors import ConfigError
from mesynth.training.config import Recipe, RunConfig, load_recipe

Make = Callable[..., Recipe]


def test_overrides_come_last_and_are_typed(recipe: Make) -> None:
    made = recipe("model.width=8", "run.precision=bf16", "data.folder=/there", images=100)
    assert made.config.model.width == 8
    assert made.run.precision == "bf16"
    assert made.run.images == 100
    assert made.data.folder == Path("/there")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("model.widht=8", "model.width"),
        ("run.imges=8", "run.images"),
        ("models.width=8", "model.width"),
        ("model=8", "section"),
        ("model.width=wide", "model.width"),
        ("run.batch=0", "run.batch=0"),
        ("run.clip=-1", "run.clip=-1"),
        ("run.clip=nan", "run.clip"),
        ("run.precision=int8", "fp32, bf16, fp16"),
        ("run.decay=fast", "cosine"),
        ("run.warmup=10000", "run.warmup=10000"),
        ("optim.lr=0", "optim.lr=0"),
        ("width", "key=value"),
        ("task=motion_gna", "motion_gan"),
        ("run={", "run={"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(recipe: Make, override: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        recipe(override)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_key_without_effect_is_refused_where_it_is_named(recipe: Make) -> None:
    assert recipe(half_life=0).run.half_life == 0
    with pytest.raises(ConfigError, match=r"run\.half_life_ramp has no effect: run\.half_life=0"):
        recipe("run.half_life_ramp=0.1", half_life=0)
    with pytest.raises(ConfigError, match=r"loss\.complain has no effect"):
        recipe("loss.complain=no", "loss.poison_at=3")


def test_neither_clock_nor_time_for_checkpoints_is_refused(recipe: Make) -> None:
    with pytest.raises(ConfigError, match="checkpoint_minutes"):
        recipe(checkpoint_images=0, checkpoint_minutes=0)


def test_files_that_are_no_recipes(tmp_path: Path, recipe: Make) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        load_recipe(tmp_path / "nowhere.yaml")
    for text, says in (("- a", "list"), ("a: [", "YAML"), ("run: {}", "task"), ("task: [1]", "task")):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(ConfigError, match=says):
            load_recipe(tmp_path / "bad.yaml")


def test_the_written_recipe_loads_as_the_same_run(tmp_path: Path, recipe: Make) -> None:
    made = recipe("loss.poison_at=5", "data.folder=/x", half_life=0)  # with keys that have no effect
    (tmp_path / "again.yaml").write_text(made.yaml())
    again = load_recipe(tmp_path / "again.yaml")
    assert again == made
    assert again.hash() == made.hash()


def test_the_hash_is_what_the_result_depends_on(recipe: Make) -> None:
    one = recipe()
    same = ("run.accumulate=4", "run.keep=7", "run.checkpoint_minutes=3", "run.compile=true", "data.folder=/elsewhere")
    assert recipe(*same).hash() == one.hash()
    for other in ("run.seed=1", "run.batch=32", "model.width=7", "data.pairs=9", "run.precision=bf16"):
        assert recipe(other).hash() != one.hash()


@given(
    images=st.integers(1, 10_000),
    batch=st.integers(1, 64),
    warm=st.floats(0, 1),
    decay=st.sampled_from(["constant", "linear", "cosine"]),
)
def test_rates_rise_then_never_rise_again(images: int, batch: int, warm: float, decay: str) -> None:
    run = RunConfig(images=images, batch=batch, warmup=int(warm * images), decay=decay)
    rates = [run.rate(n) for n in range(0, run.steps * batch, batch)]
    assert all(0 < rate <= 1 for rate in rates)
    top = next(i for i in range(len(rates) + 1) if i == len(rates) or i * batch >= run.warmup)
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert run.steps * batch >= images > (run.steps - 1) * batch
    if decay != "constant" and run.warmup < run.steps * batch:
        assert run.rate(run.steps * batch) == pytest.approx(0, abs=1e-9)


def test_no_schedule_leaves_rates_to_the_task() -> None:
    assert not RunConfig().scheduled
    assert RunConfig(warmup=1).scheduled
    assert RunConfig(decay="linear").scheduled
