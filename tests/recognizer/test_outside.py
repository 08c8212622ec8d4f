"""Models that others bring: objects in Python, names by decorator and by entry point; leaks are refused as ever."""

import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import nn

import recognizer
from mesynth.core.errors import ConfigError, LeakError, RunFolderError
from mesynth.store.manifest import Manifest
from recognizer import results
from recognizer.cli import main
from recognizer.config import AblationConfig, ModelSections, RunConfig, config_hash, config_yaml, effective, load_config
from recognizer.data import FlowSet
from recognizer.fitting import EstimatorMembers, fit
from recognizer.mixing import Member, MixConfig
from recognizer.models import CLOSED, MODELS, NETWORKS, RECIPE_KEYS, Model, region_attention
from recognizer.models.common import Shape
from recognizer.models.region_attention import RegionAttentionConfig
from recognizer.training import TrainConfig
from tests.recognizer.test_protocol import saw

QUICK = TrainConfig(steps=20, batch=16)


def linear(n_classes: int, size: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * size * size, n_classes))


class Normed(nn.Module):
    """With running statistics and dropout: what a stack under vmap cannot have."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 4, 7, 4), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.LazyLinear(n_classes)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layers(x)
        return logits


def run(model: Any, sets: dict[str, FlowSet], mode: str = "", seed: int = 0, **more: Any) -> Any:
    """With synthetic clips where there is a mode of mixing them in."""
    mix = MixConfig(mode=mode or "pool", pretrain_steps=10, prior_weight=7)
    config = RunConfig(train=QUICK, mix=mix, seeds=(seed,))
    return recognizer.loso(sets["real"], sets["synthetic"] if mode else None, config, model=model, **more)


def scores(result: Any) -> np.ndarray:
    return np.stack(results.column(result.predictions, "scores"))


# ---------------------------------------------------------------- any estimator, any module


@pytest.mark.parametrize(
    "model",
    [LogisticRegression(max_iter=100), linear, Normed, SVC(random_state=None), make_pipeline(StandardScaler(), SVC())],
    ids=["logistic", "linear", "normed", "svc", "pipeline"],
)
def test_any_model_is_tested_under_the_protocol(sets: dict[str, FlowSet], model: Any) -> None:
    before, names = torch.random.get_rng_state(), set(MODELS)
    first, again = (run(model, sets, "pool") for _ in range(2))
    np.testing.assert_array_equal(scores(first), scores(again))
    assert torch.equal(torch.random.get_rng_state(), before)  # the caller's random numbers are the caller's
    assert first.metrics.n == 48
    assert first.metrics.uf1 > 0.5
    assert first.n_parameters > 0
    assert {fold["synthetic"] for fold in first.folds} == {240}  # all there are
    assert set(MODELS) == names  # lent for the call alone
    with pytest.raises(LeakError, match="DB/03"):
        run(model, sets | {"synthetic": saw(sets["synthetic"], 7, "DB/03")}, "pool")


def test_a_network_of_the_contract_trains_in_stacks_as_ours_do(sets: dict[str, FlowSet]) -> None:
    def again(n_classes: int, shape: Shape) -> nn.Module:
        return region_attention.build(RegionAttentionConfig(), n_classes, shape)

    theirs, ours = (run(model, sets, "prior") for model in (again, "region_attention"))
    np.testing.assert_array_equal(scores(theirs), scores(ours))


def test_what_ships_has_a_section_each() -> None:
    assert [f.name for f in fields(ModelSections)] == MODELS.shipped() == [*CLOSED, *NETWORKS]


def test_seeds_draw_other_weights(sets: dict[str, FlowSet]) -> None:
    one, other = (run(linear, sets, seed=seed) for seed in (0, 1))
    assert np.abs(scores(one) - scores(other)).max() > 1e-3


def test_an_instance_forgets_what_it_has_learned(sets: dict[str, FlowSet]) -> None:
    taught, fresh = linear(3, 28), linear(3, 28)
    with torch.no_grad():
        for parameter in taught.parameters():
            parameter.fill_(1000.0)  # as one would that had learned the held-out subjects by heart
    found = [scores(run(model, sets)) for model in (taught, fresh)]
    np.testing.assert_array_equal(*found)
    assert float(next(taught.parameters()).detach().max()) == 1000.0  # the caller's own is left alone
    fitted = LogisticRegression().fit(np.eye(2), [0, 1])
    run(fitted, sets)
    assert fitted.coef_.shape == (1, 2)

    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3))

    with pytest.raises(ConfigError, match="Bare has parameters and no reset_parameters"):
        run(Bare(), sets)


@pytest.mark.parametrize("model", [linear, LogisticRegression(max_iter=50)], ids=["linear", "logistic"])
def test_held_out_labels_cannot_matter(sets: dict[str, FlowSet], model: Any) -> None:
    real = sets["real"]
    other = replace(real, y=np.where(real.subjects == "DB/02", (real.y + 1) % 3, real.y))
    found = [run(model, sets | {"real": clips}).predictions for clips in (real, other)]
    one, two = (np.stack(results.column(t, "scores"))[results.column(t, "fold") == "DB/02"] for t in found)
    np.testing.assert_array_equal(one, two)


# ---------------------------------------------------------------- weights


class Recorder(LogisticRegression):
    """Keeps the sample weights of its fits."""

    seen: list[np.ndarray] = []  # noqa: RUF012

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        Recorder.seen.append(sample_weight)
        return super().fit(X, y, sample_weight)


def test_mixing_reaches_the_sample_weights(sets: dict[str, FlowSet]) -> None:
    Recorder.seen.clear()
    run(Recorder(max_iter=200), sets, "prior")
    assert len(Recorder.seen) == 8
    for weights in Recorder.seen:
        assert (weights[:42] == 1).all()
        assert weights[42:].sum() == pytest.approx(3 * 7)  # of each class


def test_where_weights_cannot_be_given_that_is_said(sets: dict[str, FlowSet]) -> None:
    with pytest.warns(UserWarning, match=r"takes no sample_weight: mix\.prior_weight is left out"):
        run(KNeighborsClassifier(), sets, "prior")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(KNeighborsClassifier(), sets, "pool")  # nothing is left out here


def test_a_clip_that_counts_twice_is_learned_twice(sets: dict[str, FlowSet]) -> None:
    real = sets["real"].take(np.arange(7))
    weights = np.array([2.0, 1, 1, 1, 1, 1, 0])
    member = Member.of("f", 0, weights, real.y)
    with MODELS.lent([KNeighborsClassifier()]) as [name]:
        fitted = fit(real, np.zeros(7, np.bool_), [member], RunConfig(model=name))
    assert isinstance(fitted, EstimatorMembers)
    assert fitted.estimators[0][0].n_samples_fit_ == 7


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(2352, 5)), r"gives \(\d+, 5\) for \d+ clips"),
        (nn.Flatten, "nothing to train"),
        (lambda width: nn.Flatten(), "asks for width"),
        (lambda: "network", "is a str; expected a torch.nn.Module"),
        (3, "is a int; expected a torch.nn.Module"),
        (SVC(decision_function_shape="ovo", break_ties=False), None),
    ],
)
def test_what_is_no_model_is_named(sets: dict[str, FlowSet], model: Any, match: str | None) -> None:
    if match is None:
        assert run(model, sets).metrics.n == 48  # three classes have as many pairs as classes
        return
    with pytest.raises(ConfigError, match=match):
        run(model, sets)


def test_what_estimators_cannot_do_is_said(sets: dict[str, FlowSet], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mix\.mode=pretrain is for networks"):
        run(LogisticRegression(), sets, "pretrain")
    with pytest.raises(ConfigError, match="not trained in steps"):
        run(LogisticRegression(), sets, also_oracle=True)
    with pytest.raises(ConfigError, match="register_model"):
        recognizer.train(sets["real"], model=LogisticRegression(), out=tmp_path / "m")
    with pytest.raises(ConfigError, match="'nothing' is unknown"):
        recognizer.loso(sets["real"], model="nothing")


# ---------------------------------------------------------------- runs kept in a folder


def test_a_run_of_an_object_resumes_and_is_not_taken_for_anothers(corpora: dict[str, Manifest], tmp_path: Path) -> None:
    first = recognizer.loso(corpora["real"], model=LogisticRegression(max_iter=50), out=tmp_path / "run")
    again = recognizer.loso(corpora["real"], model=LogisticRegression(max_iter=50), out=tmp_path / "run")
    np.testing.assert_array_equal(scores(first), scores(again))
    with pytest.raises(RunFolderError, match="another run"):
        recognizer.loso(corpora["real"], model=LogisticRegression(max_iter=51), out=tmp_path / "run")


def test_an_ablation_of_objects(sets: dict[str, FlowSet]) -> None:
    config = AblationConfig(train=QUICK, ratios=(0, 1), seeds=(0,), resamples=100, modes=("pool",))
    models = {"weak": LogisticRegression(C=0.01), "strong": LogisticRegression(), "net": linear, "lda": "lda"}
    result = recognizer.ablate(sets["real"], sets["synthetic"], config, models=models)
    assert [s.model for s in result.summary if s.ratio] == list(models)
    assert result.comparisons == 4
    assert result.config["models"] == list(models)
    with pytest.raises(LeakError, match="DB/03"):
        recognizer.ablate(sets["real"], saw(sets["synthetic"], 7, "DB/03"), config, models=[linear])
    named = recognizer.ablate(sets["real"], sets["synthetic"], config, models=[linear, linear])
    assert [s.model for s in named.summary if s.ratio] == ["linear", "linear_2"]


# ---------------------------------------------------------------- names


@dataclass(frozen=True, kw_only=True)
class TheirsConfig:
    width: int = 4
    gain: float = 1.0

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ConfigError(f"theirs.width={self.width} must be at least 1")


SOURCE = """
from dataclasses import dataclass
from torch import nn
from recognizer import Model

@dataclass(frozen=True, kw_only=True)
class Config:
    width: int = 4

def make(config, n_classes, size):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(3 * size * size, config.width), nn.BatchNorm1d(config.width),
        nn.Linear(config.width, n_classes),
    )

model = Model(make, Config)
"""


@pytest.fixture
def theirs() -> Iterator[str]:
    """A network with a section of its own, named by decorator."""

    @recognizer.register_model("theirs", config=TheirsConfig)
    def make(config: TheirsConfig, n_classes: int, size: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * size * size, config.width), nn.Linear(config.width, n_classes))

    yield "theirs"
    del MODELS._added["theirs"]
    MODELS._loaded.pop("theirs", None)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package as pip leaves it, with an entry point."""
    info = tmp_path / "site" / "their_package-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[recognizer.models]\ninstalled_net = their_models:model\n")
    (tmp_path / "site" / "their_models.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setattr(MODELS, "_declared", None)
    yield "installed_net"
    MODELS._loaded.pop("installed_net", None)
    sys.modules.pop("their_models", None)


def test_settings_of_a_registered_model(theirs: str, tmp_path: Path) -> None:
    config = load_config(RunConfig, None, ["model=theirs", "theirs.width=7"])
    assert effective(config, synthetic=False)["theirs"] == {"width": 7, "gain": 1.0}
    file = tmp_path / "r.yaml"
    file.write_text(config_yaml(config, synthetic=True))
    again = load_config(RunConfig, file)
    did = replace(config.data, power=1.0, pool=0, symmetric=False)
    assert again == replace(config, data=did)  # saved as what the model did
    assert config_hash(again, synthetic=True) == config_hash(config, synthetic=True)
    # Made in Python, without a section: its defaults, and the same run.
    bare, loaded = RunConfig(model="theirs"), load_config(RunConfig, None, ["model=theirs"])
    assert config_hash(bare, synthetic=False) == config_hash(loaded, synthetic=False)
    for settings, match in (
        (["model=theirs", "theirs.widht=3"], r"nearest: theirs\.width"),
        (["model=theirs", "theirs.width=0"], "must be at least 1"),
        (["model=lda", "theirs.width=3"], r"theirs\.width has no effect: model lda does not read it"),
    ):
        with pytest.raises(ConfigError, match=match):
            load_config(RunConfig, None, settings)


def test_models_of_others_leave_what_ships_as_it_is(theirs: str) -> None:
    config = load_config(RunConfig, None, ["model=lda"])
    assert type(config) is RunConfig
    assert theirs not in effective(config, synthetic=True)
    for name, match in (("lda", "ships and cannot be replaced"), ("a-b", "must be letters"), ("train", "and none of")):
        with pytest.raises(ConfigError, match=match):
            recognizer.register_model(name, linear)
    with pytest.raises(ConfigError, match="is no dataclass"):
        recognizer.register_model("other", linear, config=dict)
    assert {f.name for f in fields(AblationConfig)} - set(MODELS.shipped()) == RECIPE_KEYS
    MODELS.register("seeds", Model(linear, TheirsConfig))  # as an entry point may
    try:
        with pytest.raises(ConfigError, match="has the name of another key"):
            load_config(RunConfig, None, ["model=seeds"])
    finally:
        del MODELS._added["seeds"]


def test_an_installed_package_adds_a_model_everywhere(
    installed: str, corpora: dict[str, Manifest], tmp_path: Path
) -> None:
    real, made = (str(corpora[name].root) for name in ("real", "synthetic"))
    recipe = tmp_path / "theirs.yaml"
    recipe.write_text(f"model: {installed}\n{installed}: {{width: 5}}\ntrain: {{steps: 30, batch: 16}}\n")

    def command(*args: str) -> None:
        found = CliRunner().invoke(main, list(args), catch_exceptions=False)
        assert found.exit_code == 0, found.output

    command("loso", str(recipe), "--manifest", real, "--out", str(tmp_path / "loso"))
    assert f"{installed}:\n  width: 5" in (tmp_path / "loso" / "config.yaml").read_text()
    command("train", str(recipe), "--manifest", real, "--out", str(tmp_path / "model"))
    command("predict", "--model", str(tmp_path / "model"), "--manifest", real, "--out", str(tmp_path / "p"))
    trained = recognizer.load(tmp_path / "model")
    clips = recognizer.predict(trained, corpora["real"]).table
    assert clips.equals(results.pq.read_table(tmp_path / "p" / "predictions.parquet"))
    hits = [a == b for a, b in zip(clips["label"].to_pylist(), clips["predicted"].to_pylist(), strict=True)]
    assert np.mean(hits) > 0.6  # weights and running statistics both came back
    command(
        "ablate", f"models=[lda,{installed}]", f"{installed}.width=3", "train.steps=10", "train.batch=8",
        "mix.pretrain_steps=5", "ratios=[0,1]", "seeds=[0]", "resamples=100", "--manifest", real, "--synthetic", made,
        "--out", str(tmp_path / "ablation"),
    )  # fmt: skip
    assert installed in (tmp_path / "ablation" / "report.md").read_text()


def test_saved_weights_open_through_the_registry_alone(theirs: str, sets: dict[str, FlowSet], tmp_path: Path) -> None:
    config = load_config(RunConfig, None, ["model=theirs", "train.steps=5", "train.batch=8"], synthetic=False)
    recognizer.train(sets["real"], None, config, out=tmp_path / "m")
    saved = recognizer.load(tmp_path / "m").config
    assert replace(saved, data=config.data) == config
    assert (saved.data.power, saved.data.pool) == (1.0, 0)
    factory = MODELS._added.pop(theirs)
    MODELS._loaded.pop(theirs, None)
    try:
        with pytest.raises(ConfigError, match="theirs"):
            recognizer.load(tmp_path / "m")
    finally:
        MODELS._added[theirs] = factory
