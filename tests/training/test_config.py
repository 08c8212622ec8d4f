"""Recipes: defaults, overrides, and every way to get one wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesynth.config import FORMER_KEYS, list_recipes
from mesynth.core.errors import ConfigError
from mesynth.store.generator_folder import FAMILIES, read_facts
from mesynth.training.config import Recipe, RunConfig, load_recipe
from mesynth.training.forecast import forecast
from mesynth.training.train import Machine, train
from tests.training import small_manifest

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


# ---------------------------------------------------------------- names, bases, null, former names


def test_a_recipe_is_found_by_its_name_or_by_where_it_lies_in_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    named = load_recipe("gan/motion_tiny")
    assert load_recipe("configs/gan/motion_tiny.yaml") == named
    (tmp_path / "mine.yaml").write_text(named.yaml())
    assert load_recipe("mine.yaml") == named
    with pytest.raises(ConfigError, match="gan/motion_64"):
        load_recipe("gan/motion_46")
    with pytest.raises(ConfigError, match="configs"):
        load_recipe(tmp_path.parent / "configs")


def test_recipes_are_listed_with_what_they_say_of_themselves() -> None:
    listed = list_recipes("gan", "diffusion")
    assert {name.partition("/")[0] for name in listed} == {"gan", "diffusion"}
    assert listed["gan/motion_tiny"].startswith("Seconds on one core")
    assert len(list_recipes()) > len(listed)


def test_a_base_is_laid_under_and_null_takes_a_key_out(tmp_path: Path, recipe: Make) -> None:
    recipe()
    (tmp_path / "low.yaml").write_text("task: toy\nmodel: {width: 8, dropout: 0.5}\nrun: {images: 64}\n")
    (tmp_path / "high.yaml").write_text("base: low.yaml\nmodel: {dropout: null}\nrun: {batch: 8}\n")
    made = load_recipe(tmp_path / "high.yaml")
    assert (made.config.model.width, made.config.model.dropout) == (8, 0.0)
    assert (made.run.images, made.run.batch) == (64, 8)
    usual = RunConfig().images
    assert load_recipe(tmp_path / "high.yaml", ["run.images=null", "model.width=3"]).run.images == usual
    assert load_recipe(tmp_path / "high.yaml", ["run.images="]).run.images == usual
    assert load_recipe(tmp_path / "high.yaml", ["model=null"]).config.model.width == 16
    for override, says in (("run.imges=null", "run.images"), ("task=null", "task")):
        with pytest.raises(ConfigError, match=says):
            load_recipe(tmp_path / "high.yaml", [override])
    for text, says in (("base: circle.yaml\n", "circle.yaml"), ("base: [a]\n", "base"), ("base: gan/no\n", "gan/no")):
        (tmp_path / "circle.yaml").write_text(text)
        with pytest.raises(ConfigError, match=says):
            load_recipe(tmp_path / "circle.yaml")


def test_yaml_that_stands_for_too_much_is_refused_at_once(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    loop, large = "task: &a [*a]\n", "task: toy # " + "x" * (1 << 20)
    for text in ("\n".join(lines), loop, large):
        (tmp_path / "bomb.yaml").write_text(text)
        with pytest.raises(ConfigError, match=r"bomb\.yaml"):
            load_recipe(tmp_path / "bomb.yaml")


FORMER = """task: flow_volume
model: {widths: [8, 16], expect: 8, expect_blocks: 2, kind: v, share: 0.3, floor: 0.01, whole: 0.2, wander: 0.05}
loss: {expect: 0.5}
data: {kind: manifest, manifests: [x], camera: {share: 0.5}}
"""
TODAY = """task: flow_volume
model: {widths: [8, 16], mean_width: 8, mean_blocks: 2, process: v, sigma_share: 0.3, sigma_min: 0.01,
  sigma_data: 0.2, lag_std: 0.05}
loss: {mean: 0.5}
data: {source: manifest, manifests: [x], camera: {probability: 0.5}}
"""


def test_former_names_are_read_with_a_warning_and_the_run_is_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in (("former", FORMER), ("today", TODAY)):
        (tmp_path / f"{name}.yaml").write_text(text)
    today = load_recipe(tmp_path / "today.yaml")
    assert capsys.readouterr().err == ""
    former = load_recipe(tmp_path / "former.yaml")
    warned = capsys.readouterr().err
    assert warned.count("\n") == 1
    assert "model.wander is now model.lag_std" in warned
    assert former == today
    # The hash that this recipe had before its keys were renamed.
    assert former.hash() == "f3e16474adfafc990b850643d7c424d15eacb11bc4c03859bf9bd2f0f60a735e"
    assert set(FORMER_KEYS) <= {"", *FAMILIES}
    with pytest.raises(ConfigError, match=r"model\.lag_std is given twice"):
        load_recipe(tmp_path / "former.yaml", ["model.lag_std=0.01"])


@pytest.mark.parametrize(
    ("name", "key", "before"),
    [
        ("diffusion/volume_64", "model.spread", "700836b3b56379b090cf3f5b9329868fd4a3cdf67f22ea5a1df021377ddeb718"),
        ("diffusion/image_64", "sampling.spread", "7d1544e575dc3ebef47901dc1f0ebf82041d213f255adbd5d11bef49a3238f59"),
        ("diffusion/motion_64", "model.spread", "599be3cb745284c23c23564e7a987f89d9f7e0af2ec68255e00b42056ad7f8b8"),
    ],
)
def test_a_spread_of_one_leaves_the_hash_that_recipes_had_before_it(name: str, key: str, before: str) -> None:
    # Off as well what its people have had since.
    since = ("data.glasses", "data.brow_hair", "data.focal", "data.camera.grey") if name.endswith("motion_64") else ()
    worn = [f"{other}=0" for other in since]
    plain = load_recipe(name, [f"{key}=1", *worn])
    assert plain.hash() == load_recipe(name, [f"{key}=1.0", *worn]).hash() == before
    assert load_recipe(name, [f"{key}=1.5"]).hash() != before


@pytest.mark.parametrize("name", [name for name in list_recipes("gan", "diffusion") if name.endswith("_manifest")])
def test_every_family_has_a_recipe_for_prepared_clips(name: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.manifests is empty"):
        load_recipe(name)
    made = load_recipe(name, ["data.manifests=[prepared]"])
    base = load_recipe(name.removesuffix("_manifest"))
    assert made.data.manifests == (Path("prepared"),)
    assert (made.config, made.run) == (base.config, base.run)


def test_no_family_lacks_a_recipe_for_prepared_clips() -> None:
    names = [name for name in list_recipes("gan", "diffusion") if name.endswith("_manifest")]
    assert {load_recipe(name, ["data.manifests=[x]"]).task for name in names} == set(FAMILIES.shipped())


SMALL = ["data.size=32", "data.frames=3", "run.images=8", "run.batch=4", "run.warmup=0", "run.validation=2",
         "run.sheet=1", "run.patience=0", "run.prefetch=0"]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("gan/motion_64_manifest", ["model.width=4", "model.template=8", "model.discriminator=4"]),
        (
            "diffusion/motion_64_manifest",
            ["run.start=null", "model.widths=[8,16]", "model.dim=8", "model.mean_width=4", "model.steps=2"],
        ),
    ],
)
def test_prepared_clips_are_learned_from_by_a_recipe_that_comes_with_it(
    name: str, settings: list[str], tmp_path: Path
) -> None:
    small_manifest.write(tmp_path / "clips", small_manifest.jobs("a/1", "a/2", "a/3"))
    recipe = load_recipe(name, [f"data.manifests=[{tmp_path / 'clips'}]", *SMALL, *settings])
    made = train(recipe, tmp_path / "run", machine=Machine(device="cpu", cache=tmp_path / "cache"))
    assert made.images == 8
    assert len(made.subjects_seen) == 2
    assert read_facts(tmp_path / "run" / "generator").name == recipe.task


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("gan/au_icgan_64_manifest", ["data.size=16", "model.width=8", "model.critic_width=8"]),
        ("gan/ice_gan_64_manifest", ["data.size=16", "model.width=8", "model.embedding=16", "model.critic_width=8"]),
        ("gan/flow_gan_64_manifest", ["data.size=16", "model.width=4", "model.critic_width=4"]),
        ("diffusion/image_64_manifest", ["model.width=8"]),
        ("diffusion/volume_64_manifest", ["run.start=null", "data.size=16", "model.widths=[8,8]"]),
    ],
)
def test_the_others_run_dry(name: str, settings: list[str]) -> None:
    recipe = load_recipe(name, ["data.manifests=[prepared]", *settings])
    seen = forecast(recipe)
    assert seen.images >= recipe.run.images
    assert seen.memory > seen.weights > 0
