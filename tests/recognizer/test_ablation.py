import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from mesynth.errors import RunFolderError
from mesynth.manifest import Manifest
from recognizer import ablation
from recognizer.ablation import run_ablation
from recognizer.config import AblationConfig, load_config
from recognizer.data import FlowSet
from recognizer.report import ablation_markdown

SMALL = ["models=[lda]", "seeds=[0,1]", "ratios=[1,2]", "resamples=300"]


def test_an_ablation_answers_with_controls(sets: dict[str, FlowSet]) -> None:
    config = load_config(
        AblationConfig, None, [*SMALL, "controls=[shuffled,duplicates,synthetic-only]", "train_subjects=[2,0]"]
    )
    result = run_ablation(sets["real"], sets["synthetic"], config)
    assert len(result.summary) == 2 * (1 + 2 * 4)
    assert len(result.rows) == len(result.summary) * 2
    assert result.comparisons == 16
    at = {(s.train_subjects, s.arm, s.ratio): s for s in result.summary}
    assert at[0, "none", 0.0].difference is None
    for s in result.summary:
        assert s.uf1.low <= s.uf1.value <= s.uf1.high
        if s.difference:
            assert s.p_holm is not None
            assert s.p_holm >= s.difference.p
    counts = {(r["train_subjects"], r["arm"], r["ratio"]): (r["n_real"], r["n_synthetic"]) for r in result.rows}
    assert counts[0, "none", 0.0] == (42, 0)
    assert counts[0, "synthetic", 2.0] == (42, 84)
    assert counts[2, "duplicates", 1.0] == (12, 12)
    assert counts[0, "synthetic-only", 1.0] == (0, 42)
    assert result.curve.startswith(b"\x89PNG")


def test_clean_clips_help_where_real_subjects_are_few_and_their_labels_matter(sets: dict[str, FlowSet]) -> None:
    settings = [*SMALL, "ratios=[12]", "controls=[shuffled]", "train_subjects=[2]"]
    result = run_ablation(sets["real"], sets["synthetic"], load_config(AblationConfig, None, settings))
    at = {s.arm: s for s in result.summary}
    assert at["synthetic"].verdict.startswith("gain: +")
    assert at["synthetic"].uf1.value > at["none"].uf1.value + 0.05
    assert at["shuffled"].uf1.value < at["none"].uf1.value


def test_duplicates_in_a_closed_form_model_are_no_gain_and_said_so(sets: dict[str, FlowSet]) -> None:
    config = load_config(AblationConfig, None, [*SMALL, "ratios=[1]", "controls=[duplicates]"])
    result = run_ablation(sets["real"], sets["synthetic"], config)
    point = next(s for s in result.summary if s.arm == "duplicates")
    assert point.verdict.startswith("no gain: +0.000 [+0.000, +0.000]")
    assert "no gain: +0.000" in ablation_markdown(result)


def test_ratios_of_a_network_share_one_stack(sets: dict[str, FlowSet]) -> None:
    settings = ["models=[region_attention]", "seeds=[0]", "ratios=[0,1]", "train.steps=15", "mix.pretrain_steps=5"]
    result = run_ablation(sets["real"], sets["synthetic"], load_config(AblationConfig, None, settings))
    assert [s.ratio for s in result.summary] == [0, 1]
    assert len({s.uf1.value for s in result.summary}) == 2


def test_files_and_resume(corpora: dict[str, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, fitted = tmp_path / "a", []
    config = load_config(AblationConfig, None, [*SMALL, "controls=[shuffled]"])
    real_fit = ablation.fit

    def stop_at_second(*args: object, **kwargs: object) -> object:
        fitted.append(1)
        if len(fitted) == 2:
            raise KeyboardInterrupt
        return real_fit(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(ablation, "fit", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        run_ablation(corpora["real"], corpora["synthetic"], config, out=out)
    assert [p.name for p in (out / "parts").iterdir()] == ["lda-synthetic-0.parquet"]
    resumed = run_ablation(corpora["real"], corpora["synthetic"], config, out=out)
    assert len(fitted) == 3, "the finished part must not be trained again"
    names = {"run.yaml", "config.yaml", "result.json", "curve.png", "predictions.parquet", "ablation.parquet"}
    assert {p.name for p in out.iterdir()} == names | {"ablation.jsonl"}
    fresh = run_ablation(corpora["real"], corpora["synthetic"], config)
    assert resumed.rows == fresh.rows
    assert resumed.summary == fresh.summary
    rows = [json.loads(line) for line in (out / "ablation.jsonl").read_text().splitlines()]
    assert rows == list(fresh.rows) == pq.read_table(out / "ablation.parquet").to_pylist()
    again = run_ablation(corpora["real"], corpora["synthetic"], config, out=out)
    assert len(fitted) == 5
    assert again.summary == fresh.summary
    assert again.curve == resumed.curve
    other = load_config(AblationConfig, None, SMALL)
    with pytest.raises(RunFolderError, match="another run"):
        run_ablation(corpora["real"], corpora["synthetic"], other, out=out)


def test_seeds_change_which_clips_are_drawn(sets: dict[str, FlowSet]) -> None:
    result = run_ablation(sets["real"], sets["synthetic"], load_config(AblationConfig, None, SMALL))
    values = [r["uf1"] for r in result.rows if r["ratio"] == 1]
    assert len(np.unique(values)) == 2
