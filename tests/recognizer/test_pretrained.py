from pathlib import Path

import numpy as np
import pytest

from mesynth.core.errors import ConfigError, LeakError, WeightsUnavailable
from mesynth.store.digests import seal
from mesynth.store.manifest import Manifest
from recognizer.config import RunConfig, load_config
from recognizer.data import load
from recognizer.run import loso
from recognizer.trained import Recognizer, train
from tests.recognizer.corpora import write_corpus

QUICK = ["model=region_attention", "train.steps=12", "train.batch=8"]


def config(*settings: str) -> RunConfig:
    return load_config(RunConfig, None, [*QUICK, *settings], synthetic=False)


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recognizer that learned from people of another database."""
    root = tmp_path_factory.mktemp("others")
    clips = write_corpus(root / "clips", database="ELSEWHERE", seed=5)
    train(clips, None, config("train.steps=80"), out=root / "model")
    return root / "model"


def test_fine_tuning_begins_where_the_other_ended(others: Path, corpora: dict[str, Manifest], tmp_path: Path) -> None:
    barely = "train.lr=1e-9"
    begun = loso(corpora["real"], None, config(barely, f"train.start={others}"), out=tmp_path / "begun")
    fresh = loso(corpora["real"], None, config(barely))
    assert begun.uf1.value > fresh.uf1.value + 0.2  # without a step of its own it knows what the other knew
    meta = (tmp_path / "begun" / "weights.safetensors").read_bytes()[:40000]
    assert b"ELSEWHERE/00" in meta  # whom it began with is among those it has seen
    saved = train(corpora["real"], None, config(f"train.start={others}"), out=tmp_path / "model")
    assert {"ELSEWHERE/00", "DB/00"} <= saved.subjects_seen
    assert {"ELSEWHERE/00", "DB/00"} <= Recognizer.load(tmp_path / "model").subjects_seen


def test_a_student_follows_its_teacher(others: Path, corpora: dict[str, Manifest]) -> None:
    settings = ["train.loss.kind=cross_entropy", "train.steps=60"]
    follow = [*settings, f"train.teacher={others}", "train.loss.distil=5"]
    teacher = Recognizer.load(others)
    shuffled = corpora["shuffled"]  # its labels say nothing: what is learned here is the teacher's
    plain, taught = (loso(shuffled, None, config(*s)) for s in (settings, follow))
    clips = load(shuffled)
    told = teacher.probabilities(clips.inputs()).argmax(1)

    def agreement(result: object) -> float:
        table = result.predictions.to_pandas().set_index("clip_id").loc[clips.clip_ids]  # type: ignore[attr-defined]
        return float(np.mean(table["predicted"].to_numpy() == told))

    assert agreement(taught) > agreement(plain) + 0.15


@pytest.mark.parametrize("setting", ["train.start", "train.teacher"])
def test_one_that_saw_a_held_out_subject_is_refused(setting: str, corpora: dict[str, Manifest], tmp_path: Path) -> None:
    train(corpora["real"], None, config(), out=tmp_path / "model")
    more = ["train.loss.distil=1"] if setting == "train.teacher" else []
    with pytest.raises(LeakError, match=rf"{setting}: the recognizer there saw subject DB/00, whom fold DB/00"):
        loso(corpora["real"], None, config(f"{setting}={tmp_path / 'model'}", *more))
    with pytest.raises(LeakError):
        loso(corpora["real"], None, config(f"{setting}={tmp_path / 'model'}", *more, "protocol.kind=lovo"))


def test_mistakes_are_named(others: Path, corpora: dict[str, Manifest], tmp_path: Path) -> None:
    with pytest.raises(WeightsUnavailable, match="no recognizer in"):
        loso(corpora["real"], None, config(f"train.start={tmp_path}"))
    with pytest.raises(ConfigError, match="holds model region_attention; this run has ststnet"):
        loso(corpora["real"], None, config("model=ststnet", f"train.start={others}"))
    with pytest.raises(ConfigError, match=r"its parameter place is \[10, 32\], this model's \[10, 16\]"):
        loso(corpora["real"], None, config("region_attention.node=16", f"train.start={others}"))
    with pytest.raises(ConfigError, match="knows other data settings"):
        loso(corpora["real"], None, config("data.size=32", f"train.teacher={others}", "train.loss.distil=1"))
    with pytest.raises(ConfigError, match="go together"):
        config(f"train.teacher={others}")


def test_an_ensemble_tells_aus_and_is_no_beginning(corpora: dict[str, Manifest], tmp_path: Path) -> None:
    several = load_config(
        RunConfig, None, ["model=capsule_graph", "train.steps=6", "train.batch=8", "train.ensemble=2"], synthetic=False
    )
    made = train(corpora["real"], None, several, out=tmp_path / "model")
    clips = load(corpora["real"], several.data).inputs(np.arange(4))
    found, again = made.au_probabilities(clips), Recognizer.load(tmp_path / "model").au_probabilities(clips)
    assert found is not None
    assert np.nanmin(found) > 0
    assert np.nanmax(found) < 1
    np.testing.assert_allclose(found, again, atol=1e-6)  # type: ignore[arg-type]
    begin = ["model=capsule_graph", f"train.start={tmp_path / 'model'}"]
    with pytest.raises(ConfigError, match="is several networks whose probabilities are averaged"):
        loso(corpora["real"], None, load_config(RunConfig, None, begin, synthetic=False))


@pytest.mark.parametrize("verb", ["load", "start"])
def test_one_of_a_network_that_is_built_otherwise_today(
    verb: str, corpora: dict[str, Manifest], tmp_path: Path
) -> None:
    """Version 0.1's capsule graph had a width; whoever has such a folder is told which, and what to do."""
    folder = tmp_path / "old"
    train(corpora["real"], None, config(), out=folder)
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(f"{text}capsule_graph:\n  width: 32\n")
    seal(folder)
    said = r"old/config\.yaml is of another version .*unknown key 'capsule_graph\.width'.*; train it again$"
    read = {
        "load": lambda: Recognizer.load(folder),
        "start": lambda: loso(corpora["real"], None, config(f"train.start={folder}")),
    }
    with pytest.raises(WeightsUnavailable, match=said):
        read[verb]()
