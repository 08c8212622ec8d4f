from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from mesynth import config as recipes
from mesynth.config import read_given
from mesynth.core.errors import ConfigError
from recognizer.config import AblationConfig, RunConfig, config_hash, config_yaml, effective, load_config

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("recognizer/*.yaml")), ids=lambda f: f.stem)
def test_recipes_load(file: Path) -> None:
    load_config(RunConfig, file)


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("ablation/*.yaml")), ids=lambda f: f.stem)
def test_ablation_recipes_load(file: Path) -> None:
    load_config(AblationConfig, file)


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("model: capsule_graph\ntrain: {steps: 7, batch: 4}\nseeds: [1, 2]\n")
    config = load_config(RunConfig, file, ["train.steps=9", "data.classes=[positive,surprise]"])
    assert (config.train.steps, config.train.batch, config.seeds) == (9, 4, (1, 2))
    assert config.data.classes == ("positive", "surprise")
    with pytest.raises(AttributeError):
        config.seeds = (1,)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("setting", "match"),
    [
        ("trian.steps=3", r"unknown key 'trian.steps'; nearest: train.steps"),
        ("lda.shrinkag=1", r"unknown key 'lda.shrinkag'; nearest: lda.shrinkage"),
        ("lda.shrinkage=much", "lda.shrinkage.*'much'"),
        ("lda.shrinkage=2", r"lda.shrinkage=2 is outside \(0, 1\]"),
        ("model=perceptron", "'perceptron' is unknown; choose from lda"),
        ("capsule_graph.node=3", "capsule_graph.node has no effect: model lda does not read it"),
        ("train.steps=3", "train.steps has no effect: model lda is not trained in steps"),
        ("protocol.groups=3", "protocol.groups has no effect"),
        ("mix.pull=3", "mix.pull has no effect"),
        ("mix.mode=pretrain", "mix.mode=pretrain is for networks"),
        ("lda", "'lda' is no setting; write key=value"),
        ("seeds=[1,1]", "different numbers"),
        ("data=3", "data is a section and takes no value; set for example data.classes"),
    ],
)
def test_mistakes_are_named(setting: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        load_config(RunConfig, None, [setting])


def test_mixing_without_synthetic_clips_has_no_effect() -> None:
    with pytest.raises(ConfigError, match=r"mix.ratio has no effect: there are no synthetic clips"):
        load_config(RunConfig, None, ["mix.ratio=2"], synthetic=False)


@pytest.mark.parametrize("setting", ["model=lda", "mix.ratio=2", "controls=[none]", "ratios=[-1]", "resamples=5"])
def test_ablation_mistakes(setting: str) -> None:
    with pytest.raises(ConfigError):
        load_config(AblationConfig, None, [setting])


def test_an_ablation_always_holds_ratio_zero() -> None:
    assert load_config(AblationConfig, None, ["ratios=[2,1]"]).ratios == (0.0, 1.0, 2.0)


@pytest.mark.parametrize("settings", [[], ["model=capsule_graph", "mix.mode=pool"], ["protocol.kind=kfold"]])
def test_the_saved_yaml_gives_the_same_run(settings: list[str], tmp_path: Path) -> None:
    config = load_config(RunConfig, None, settings)
    (tmp_path / "c.yaml").write_text(config_yaml(config, synthetic=True))
    again = load_config(RunConfig, tmp_path / "c.yaml")
    assert effective(again, synthetic=True) == effective(config, synthetic=True)
    assert config_hash(again, synthetic=True) == config_hash(config, synthetic=True)


def test_the_hash_ignores_what_has_no_effect() -> None:
    plain = load_config(RunConfig, None, ["model=capsule_graph"])
    stacked = load_config(RunConfig, None, ["model=capsule_graph", "train.stack=3"])
    assert config_hash(plain, synthetic=False) == config_hash(stacked, synthetic=False)
    assert "lda" not in effective(plain, synthetic=False)


@pytest.mark.parametrize(("text", "match"), [("[1, 2]", "holds a list"), ("a: [", "is no YAML")])
def test_broken_files(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=match):
        load_config(RunConfig, tmp_path / "c.yaml")
    with pytest.raises(ConfigError, match="check the path"):
        load_config(RunConfig, tmp_path / "absent.yaml")


def test_yaml_is_plain() -> None:
    assert yaml.safe_load(config_yaml(RunConfig(), synthetic=False))["model"] == "lda"


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("counts=3", r"counts: '3' is no list; write counts=\[3\]"),
        ("data.classes=positive", r"data.classes: 'positive' is no list; write data.classes=\[positive\]"),
        ("counts=[2.5]", r"counts: Value '\[2\.5\]' could not be converted to Integer"),
        ("ratios=[1,many]", r"ratios: Value '\[1, 'many'\]' could not be converted to Float"),
    ],
)
def test_lists_of_wrong_values_are_named(setting: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"^configuration: {said}$"):
        load_config(AblationConfig, None, ["resamples=100", setting])


@pytest.mark.parametrize(
    "settings",
    [
        ["mix.mode=prior", "lda.shrinkage=.5"],
        ["seeds=[1,2]", "model=ststnet", "train.flip=false", "data.classes=[a,b]"],
        ["train.steps=7", "train.steps=${protocol.groups}"],
    ],
)
def test_what_is_not_named_is_what_omegaconf_makes_of_it(settings: list[str]) -> None:
    """Types too: a list of a recipe is what a list of the defaults is."""
    values = read_given(None, settings).values
    whole = OmegaConf.structured(RunConfig())
    recipes._unlock(whole)
    expected = OmegaConf.to_object(OmegaConf.merge(whole, OmegaConf.create(values)))
    assert repr(recipes.fill(RunConfig(), values)) == repr(expected)
