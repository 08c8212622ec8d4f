import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from mesynth.core.errors import LeakError, RunFolderError
from mesynth.store.manifest import Manifest
from recognizer import results
from recognizer.config import RunConfig, load_config
from recognizer.data import FlowSet
from recognizer.models import CLOSED
from recognizer.report import loso_notes
from recognizer.results import MissingClassError, evaluate
from recognizer.run import loso
from recognizer.sources import flow_notes

QUICK = ["train.steps=60", "train.batch=24"]


def config(model: str, *settings: str, synthetic: bool = False) -> RunConfig:
    quick = [] if model in CLOSED else QUICK
    if synthetic and model not in CLOSED and "mix.mode=pool" not in settings:
        quick = [*quick, "mix.pretrain_steps=30"]
    return load_config(RunConfig, None, [f"model={model}", *quick, *settings], synthetic=synthetic)


@pytest.mark.parametrize(
    "model", ["lda", "svm", "bi_woof", "mdmo", "hoof", "capsule_graph", "region_attention", "ststnet"]
)
def test_models_learn_what_can_be_learned(sets: dict[str, FlowSet], model: str) -> None:
    result = loso(sets["real"], None, config(model))
    assert result.metrics.uf1 > (0.6 if model in ("lda", "capsule_graph", "region_attention") else 0.5)
    assert result.metrics.n == 48
    assert len(result.folds) == 8


@pytest.mark.parametrize("model", ["lda", "capsule_graph"])
def test_models_stay_near_chance_when_labels_say_nothing(sets: dict[str, FlowSet], model: str) -> None:
    uf1 = loso(sets["shuffled"], None, config(model)).metrics.uf1  # 96 clips: chance 1/3, sd about .05
    assert 0.16 < uf1 < 0.5


@pytest.mark.parametrize("mode", ["pool", "prior"])
@pytest.mark.parametrize("model", ["lda", "region_attention"])
def test_clean_synthetic_clips_of_the_same_kind_help(sets: dict[str, FlowSet], model: str, mode: str) -> None:
    few = sets["real"].take(np.isin(sets["real"].subjects, ["DB/00", "DB/01", "DB/02", "DB/03"]))
    alone = loso(few, None, config(model)).metrics.uf1
    together = loso(few, sets["synthetic"], config(model, f"mix.mode={mode}", "mix.ratio=8", synthetic=True))
    assert together.metrics.uf1 > alone
    assert {fold["synthetic"] for fold in together.folds} == {144}


def test_pretraining_without_pull_runs(sets: dict[str, FlowSet]) -> None:
    result = loso(sets["real"], sets["synthetic"], config("ststnet", "mix.mode=pretrain", synthetic=True))
    assert result.metrics.uf1 > 0.4


def test_a_run_leaves_everything_behind_and_resumes(corpora: dict[str, Manifest], tmp_path: Path) -> None:
    out = tmp_path / "run"
    told: list[str] = []
    c = config("lda", "seeds=[0,1]", synthetic=True)
    first = loso(corpora["real"], corpora["synthetic"], c, out=out, progress=lambda name, *_: told.append(name))
    assert sorted(p.name for p in out.iterdir()) == [
        "SHA256SUMS", "config.yaml", "megc.txt", "predictions.parquet", "result.json", "run.yaml",
        "weights.safetensors",
    ]  # fmt: skip
    assert set(told) == {"reading clips", "reading synthetic", "training lda"}
    table = results.read_table(out / "predictions.parquet")
    assert table.num_rows == 96
    one = results.column(table, "seed") == 0
    again = evaluate(
        results.column(table, "y")[one], results.column(table, "predicted")[one], c.data.classes
    )  # the figures can be made anew from the file
    assert again == first.per_seed[0]
    scores = np.stack(results.column(table, "scores"))
    np.testing.assert_allclose(scores.sum(1), 1)

    told.clear()
    second = loso(corpora["real"], corpora["synthetic"], c, out=out, progress=lambda name, *_: told.append(name))
    assert told == []
    assert second.to_dict() == json.loads(json.dumps(first.to_dict())) | {"folds": second.folds, **_tuples(second)}
    with pytest.raises(RunFolderError, match="another run"):
        loso(corpora["real"], corpora["synthetic"], replace(c, seeds=(3,)), out=out)
    (out / "result.json").write_text("{")
    with pytest.raises(RunFolderError, match=r"damaged result; remove .*result.json"):
        loso(corpora["real"], corpora["synthetic"], c, out=out)


def _tuples(result: object) -> dict[str, object]:
    """Fields that JSON turns from tuples into lists."""
    plain = result.to_dict()  # type: ignore[attr-defined]
    return {name: plain[name] for name in ("metrics", "per_seed", "per_database")}


def test_weights_say_whom_they_learned_from(corpora: dict[str, Manifest], tmp_path: Path) -> None:
    loso(corpora["real"], None, config("region_attention", "seeds=[0,4]"), out=tmp_path / "r")
    with safe_open(tmp_path / "r" / "weights.safetensors", framework="pt") as file:
        members = json.loads(file.metadata()["members"])
        assert all(file.get_tensor(name).shape[0] == 16 for name in file.keys())  # noqa: SIM118
    assert len(members) == 16
    for member in members:
        assert not set(member["held_out"]) & set(member["subjects_seen"])
        assert len(member["subjects_seen"]) == 7


def test_a_leaky_pool_stops_the_run(sets: dict[str, FlowSet]) -> None:
    leaky = replace(sets["synthetic"], subjects_seen=(("DB/02",),) * 240)
    with pytest.raises(LeakError, match="DB/02"):
        loso(sets["real"], leaky, config("lda", synthetic=True))
    from recognizer.protocol import PoolTooSmallError

    with pytest.raises(PoolTooSmallError, match="fold DB/02 may use none of the"):  # every clip is blocked there
        loso(sets["real"], leaky, config("lda", "mix.leak=zero-weight", synthetic=True))


def test_a_missing_class_is_an_error_with_a_remedy(sets: dict[str, FlowSet]) -> None:
    two = sets["real"].take(sets["real"].y < 2)
    with pytest.raises(MissingClassError, match=r"surprise.*data.classes=\[negative,positive\]"):
        loso(two, None, config("lda"))


def test_the_held_out_labels_cannot_matter(sets: dict[str, FlowSet]) -> None:
    """Changing a subject's own labels must not change what its fold predicts."""
    real = sets["real"]
    changed = replace(real, y=np.where(real.subjects == "DB/00", (real.y + 1) % 3, real.y))
    quick = config("capsule_graph", "train.steps=15", "protocol.kind=kfold", "protocol.groups=2")
    tables = [loso(s, None, quick).predictions for s in (real, changed)]
    scores = [np.stack(results.column(t, "scores"))[results.column(t, "subject") == "DB/00"] for t in tables]
    assert len(scores[0]) == 6
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-4)


# ---------------------------------------------------------------- what to know of the clips


def test_a_fold_that_lacks_a_class_is_named(sets: dict[str, FlowSet]) -> None:
    """All surprise clips of one subject: its fold learns of none, and synthetic clips fill the gap."""
    real = sets["real"]
    surprise = real.classes.index("surprise")
    few = real.take((real.y != surprise) | (real.subjects == "DB/03"))
    result = loso(few, None, config("lda"))
    assert [fold["name"] for fold in result.folds if fold["lacking"]] == ["DB/03"]
    assert "1 of 8 folds learns from no clip of surprise and cannot predict it: DB/03" in loso_notes(result)
    filled = loso(few, sets["synthetic"], config("lda", synthetic=True))
    assert not any(fold["lacking"] for fold in filled.folds)


def test_exact_flow_beside_estimated_flow_is_said(corpora: dict[str, Manifest], tmp_path: Path) -> None:
    def of(generator: str, stage: str = "") -> list[str]:
        rows = [replace(row, provenance=replace(row.provenance, generator=generator)) for row in corpora["synthetic"]]
        folder = tmp_path / f"{generator}-{stage}"
        folder.mkdir()
        if stage:
            (folder / "run.yaml").write_text(f"config: {{stage: {stage}}}")
        return flow_notes([corpora["real"]], [Manifest.from_rows(rows[:2], folder)])

    for exact in ("motion-prior", "motion_gan", "motion_diffusion@steps=8"):
        [note] = of(exact)
        assert exact.partition("@")[0] in note
        assert "mesynth prepare corpus" in note
    assert not of("motion_gan", "prepare")
    for other in ("au_icgan", "flow-prior", "flow_gan", "somebody's"):
        assert not of(other)
    assert not flow_notes([corpora["real"]], None)
