"""The whole measurement on two small corpora: complete, repeatable, and honest about what is missing."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mesynth.core.errors import ConfigError, ManifestError, WeightsUnavailable
from mesynth.metrics.base import METRICS, MeasureConfig, MeasureRow, Setup
from mesynth.metrics.evaluate import Makers, evaluate
from mesynth.metrics.measure import measure
from mesynth.metrics.report import Comparison, MeasureReport
from mesynth.store.manifest import Manifest
from tests.metrics.conftest import PROGRESS

Corpora = tuple[Manifest, Manifest]
pytestmark = pytest.mark.usefixtures("flows_once")
CONFIG = MeasureConfig(clips=12, identity_clips=4)


@pytest.fixture
def report(whole: Comparison) -> MeasureReport:
    return whole.reports["c"]


def test_every_group_is_measured(report: MeasureReport) -> None:
    groups = {row.group for row in report.rows if row.value is not None}
    assert groups == {"pictures", "identity", "AU control", "flow", "sequence", "memorisation"}
    assert not [row.name for row in report.rows if row.note.startswith("not measured")]
    for row in report.rows:
        assert row.value is None or np.isfinite(row.value), row


def test_distances_carry_the_extractors_name(report: MeasureReport) -> None:
    names = [row.name for row in report.rows]
    assert "KID" not in names
    assert "FID" not in names
    kid = report.row("kid")
    assert kid.low is not None
    assert kid.high is not None
    assert "resize" in kid.note
    assert any("STAlexNet was used instead" in note for note in report.notes)


def test_exact_renders_score_well(report: MeasureReport) -> None:
    assert report.row("flow_epe").value < 0.6 * report.row("flow_epe").reference["zero flow"]
    assert report.row("au_mae").value < 0.6 * report.row("au_mae").reference["mean target"]
    assert report.row("au_icc").value > 0.7
    assert report.row("apex_error").value <= 1
    identity = report.row("identity")
    assert identity.value < identity.reference["floor (different people)"]
    assert "no" in report.row("au_icc").note.lower()
    assert "human FACS coder" in report.row("au_icc").note


def test_frames_copied_from_training_are_noticed(report: MeasureReport) -> None:
    # The synthetic corpus was given as its own training set: every apex is a copy.
    assert report.row("copied_share").value == 1
    assert report.row("distance_to_training").value == pytest.approx(0, abs=1e-2)


def test_subjects_are_what_every_interval_resamples(corpora: Corpora) -> None:
    """Each of four people's clips three times: as clips they say three times as much as they do as people."""
    sides = []
    for kind, manifest in zip(("real", "synthetic"), corpora, strict=True):
        rows = [replace(row, clip_id=f"{row.clip_id}-{i}") for row in manifest[:4] for i in range(3)]
        sides.append((kind, Manifest.from_rows(rows, manifest.root), np.arange(12)))
    config = MeasureConfig(clips=12, identity_clips=12)
    makers = Makers(Setup(config), tuple(METRICS.shipped()))
    metrics = evaluate(sides[0], {"s": sides[1]}, makers)[0]["s"].metrics
    found: list[dict[str, MeasureRow]] = []
    for by in ("clip", "subject"):
        for metric in metrics.values():
            metric.config = replace(config, bootstrap=by)  # type: ignore[attr-defined]
        rows = [row for metric in metrics.values() for row in metric.compute()]
        found.append({row.key: row for row in rows if row.low is not None and row.high is not None})
    clips, people = found
    assert set(clips) == set(people)
    assert {
        "kid", "lpips_onset_apex", "identity_apex", "identity_beyond_real", "au_slope", "flow_epe", "flow_relative",
        "motion", "apex_error", "rise", "rise_error", "decay_error", "warping_error", "jerk",
    } <= set(people)  # fmt: skip
    for key, row in people.items():
        assert row.value is not None
        assert row.low <= row.value <= row.high, key  # type: ignore[operator]
        assert "bootstrap over subjects" in row.note, key
        if key != "kid" and clips[key].high > clips[key].low:  # type: ignore[operator]
            width, narrow = row.high - row.low, clips[key].high - clips[key].low  # type: ignore[operator]
            assert width >= narrow, key
    wider = [k for k in people if people[k].high - people[k].low > 1.2 * (clips[k].high - clips[k].low)]  # type: ignore[operator]
    assert {"lpips_onset_apex", "identity_apex", "au_slope", "flow_epe", "motion", "jerk", "kid"} <= set(wider)


def test_wrong_flow_and_wrong_aus_are_noticed(corpora: Corpora, tmp_path: Path) -> None:
    from mesynth.core.types import AUVector
    from mesynth.store.manifest import Row
    from mesynth.store.shards import ShardWriter, npy_bytes, read_landmarks

    rows = []
    with ShardWriter(tmp_path / "flow.tar") as shard:
        for i, row in enumerate(corpora[1]):
            members = {"flow.npy": npy_bytes(np.full((2, 96, 96), 2, np.float32)),
                       "landmarks.npy": npy_bytes(read_landmarks(corpora[1].root, row))}  # fmt: skip
            wrong = Row.au_columns(AUVector(np.roll(row.aus.intensity, 7, 0)))
            frames = row.frames and replace(row.frames, shard=str(corpora[1].root / row.frames.shard))
            rows.append(replace(row, flow=shard.add(f"{i}", members), frames=frames, **wrong))
    sides = [("real", corpora[0], np.arange(12)), ("synthetic", Manifest.from_rows(rows, tmp_path), np.arange(12))]
    measures = evaluate(sides[0], {"s": sides[1]}, Makers(Setup(CONFIG), ("flow", "au_control")))[0]["s"].metrics
    found = {row.key: row for metric in measures.values() for row in metric.compute()}
    assert found["flow_epe"].value > 1.5 * found["flow_epe"].reference["zero flow"]  # type: ignore[operator]
    assert found["au_mae"].value > found["au_mae"].reference["mean target"]  # type: ignore[operator]
    assert (found["au_icc"].value or 0) < 0.3


def test_the_report_is_json_markdown_table_and_pictures(report: MeasureReport, tmp_path: Path) -> None:
    files = report.write(tmp_path)
    assert {f.name for f in files} == {"report.json", "report.md", "au_control.png", "identity.png", "flow.png"}
    for data in report.plots.values():
        picture = np.asarray(Image.open(io.BytesIO(data)).convert("L"), float)
        assert picture.std() > 5  # not blank
    read = MeasureReport.from_json((tmp_path / "report.json").read_text())
    assert read.rows == report.rows
    assert json.loads(report.to_json())["corpora"]["real"]["clips"] == 12
    text = report.to_markdown()
    assert all(row.name in text for row in report.rows)
    assert report.table().row_count > 8


@pytest.mark.usefixtures("no_weights")
def test_without_weights_the_rest_is_measured_and_the_gap_is_named(corpora: Corpora) -> None:
    found = measure(*corpora, MeasureConfig(clips=4))
    missing = {row.group: row.note for row in found.rows if row.note.startswith("not measured")}
    assert set(missing) == {"pictures", "identity"}
    assert "stlpips-pytorch" in missing["pictures"]
    assert "dlib" in missing["identity"]
    assert found.row("flow_epe").value is not None
    assert "not measured" in found.to_markdown()


def test_a_manifest_before_prepare_gets_what_can_be_measured(corpora: Corpora) -> None:
    raw = Manifest.from_rows([replace(row, flow=None) for row in corpora[1]], corpora[1].root)
    found = measure(corpora[0], raw, MeasureConfig(clips=4))
    missing = {row.group: row.note for row in found.rows if row.note.startswith("not measured")}
    assert set(missing) == {"identity", "AU control", "flow", "sequence"}
    assert all("mesynth prepare" in note for note in missing.values())
    assert found.row("kid").value is not None


def test_wrong_manifests_are_refused(corpora: Corpora, tmp_path: Path) -> None:
    real, synthetic = corpora
    with pytest.raises(ManifestError, match="swapped"):
        measure(synthetic, real)
    with pytest.raises(ManifestError, match="no clips"):
        measure(real.filter(np.zeros(len(real), bool)), synthetic)
    moved = Manifest(synthetic.table, tmp_path)
    with pytest.raises(ManifestError, match="can be read"):
        measure(real, moved, MeasureConfig(clips=4))
    with pytest.raises(WeightsUnavailable, match="is no file"):
        measure(real, synthetic, inception_weights=tmp_path / "none.pth")


@pytest.mark.parametrize("wrong", [{"clips": 2}, {"bootstrap": "frame"}, {"identity_step": 0}])
def test_settings_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        MeasureConfig(**wrong)  # type: ignore[arg-type]


def test_a_row_without_a_value_must_say_why() -> None:
    with pytest.raises(ValueError, match="why"):
        MeasureRow(group="g", name="n", value=None)


def test_progress_counts_every_clip_once(whole: Comparison) -> None:
    assert len(whole.synthetic["c"]) == 12
    assert list(PROGRESS) == [(done, 24) for done in range(25)]
