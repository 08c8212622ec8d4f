"""From a recording to predictions: what is found is judged as training clips were, and refusals are one line."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner, Result

from mesynth.core.errors import ManifestError, NoFaceError, UnreadableImageError, WeightsUnavailable
from mesynth.core.framing import Framing, KnownFraming
from mesynth.corpus.verify import verify
from mesynth.datasets.generic import GENERIC
from mesynth.datasets.load import load_release, usable
from mesynth.preprocess.align import eye_centres
from mesynth.preprocess.config import PrepareConfig
from mesynth.preprocess.prepare import prepare
from mesynth.preprocess.spot import MIN_FRAMES as SPOTTED_FRAMES
from mesynth.store.digests import DigestError, seal
from mesynth.store.manifest import Manifest
from mesynth.store.shards import read_extras, read_flow, read_landmarks
from recognizer import trained
from recognizer.cli import main
from recognizer.config import RunConfig, load_config
from recognizer.recording import MIN_FRAMES, Interval, Recording, RecordingError
from recognizer.trained import PREPARATION, Preparation, Recognizer
from recognizer.video import _settings, predict_video
from tests.recognizer.corpora import write_corpus
from tests.recognizer.recordings import FPS, recording, write_frames, write_study, write_video

pytestmark = pytest.mark.usefixtures("flows_once")
STUDY = [
    (seed, aus, emotion)
    for seed, (aus, emotion) in enumerate([("4=0.6", "disgust"), ("12=0.6", "happiness"), ("1=0.6,2=0.6", "surprise")])
]
STEPS = PrepareConfig(size=96, stabilise="ecc", method="dis")
TWO = ((14, 20, "4=0.6"), (60, 22, "12=0.6"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("video")


@pytest.fixture(scope="module")
def prepared(root: Path) -> Manifest:
    (root / "study").mkdir()
    study = usable(load_release(GENERIC, write_study(root / "study", STUDY)))
    return prepare(study, root / "prepared", STEPS, landmarker="mediapipe")


@pytest.fixture(scope="module")
def model(root: Path, prepared: Manifest) -> Path:
    trained.train(prepared, None, RunConfig(), out=root / "model")
    return root / "model"


@pytest.fixture(scope="module")
def two(root: Path) -> Path:
    return write_video(root / "two.avi", recording(7, 96, *TWO))


@pytest.fixture(scope="module")
def out(root: Path, model: Path, two: Path) -> Path:
    result = run("predict", "--model", model, "--video", two, "--out", root / "out")
    assert result.exit_code == 0, result.output
    (root / "out" / "said.txt").write_text(result.stdout)
    return root / "out"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def mistake(*arguments: object) -> str:
    """The one line a user's mistake gets."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.strip().splitlines() if not line.startswith("note: ")]
    assert len(lines) == 1, result.stderr
    return str(lines[0])


# ---------------------------------------------------------------- what is found


def test_both_expressions_are_found_where_they_are(out: Path) -> None:
    facts = json.loads((out / "intervals.json").read_text())
    assert facts["spotted"]
    assert len(facts["intervals"]) == 2
    for found, (first, length, _) in zip(facts["intervals"], TWO, strict=True):
        assert abs(found["onset"] - first) <= 3
        assert abs(found["apex"] - (first + (length - 1) / 2)) <= 2
        assert abs(found["offset"] - (first + length - 1)) <= 3
        assert found["movement_px"] > facts["threshold_px"]
        assert found["seconds"]["apex"] == pytest.approx(found["apex"] / FPS, abs=1e-3)
        assert sum(found["probabilities"].values()) == pytest.approx(1)
    assert [found["predicted"] for found in facts["intervals"]] == ["negative", "positive"]


def test_a_model_that_reads_flow_of_whole_clips_gets_it(root: Path, two: Path) -> None:
    """A recording is prepared with the views that its model reads, and no others."""
    study = usable(load_release(GENERIC, root / "study"))
    steps = replace(STEPS, inputs=("flows", "eyes"))
    clips = prepare(study, root / "with-flows", steps, landmarker="mediapipe")
    config = load_config(RunConfig, None, ["model=hoof", "hoof.flow=sequence", "data.key_frames=4"])
    trained.train(clips, None, config, out=root / "hoof")
    found = predict_video(root / "hoof", two, out=root / "hoof-out", intervals=["14,24,33", "60,71,81"])
    made = Manifest.read(root / "hoof-out" / "clips")
    assert set(read_extras(made.root, made.row(0), ("flows", "eyes"))) == {"flows"}
    assert [one["predicted"] for one in found.facts["intervals"]] == ["negative", "positive"]
    with pytest.raises(ManifestError, match=r"has no view 'flows'; .mesynth prepare \.\.\. --inputs flows. makes it"):
        trained.predict(root / "hoof", Manifest.read(root / "prepared"))


def test_files_agree_and_each_interval_has_a_line(out: Path) -> None:
    facts = json.loads((out / "intervals.json").read_text())
    rows = pq.read_table(out / "predictions.parquet").to_pylist()
    for found, row in zip(facts["intervals"], rows, strict=True):
        assert (row["onset"], row["apex"], row["predicted"]) == (found["onset"], found["apex"], found["predicted"])
        assert row["p_positive"] == found["probabilities"]["positive"]
    lines = (out / "said.txt").read_text().splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(f"{facts['intervals'][0]['seconds']['onset']:.2f}-")
    assert ": negative " in lines[0]
    assert ": positive " in lines[1]
    picture = cv2.imread(str(out / "timeline.png"))
    assert picture is not None
    assert picture.shape[1] > 1200
    assert len(facts["signal"]["px"]) == 96
    assert len(Manifest.read(out / "clips")) == 2


def test_action_units_of_a_recording(root: Path, prepared: Manifest, two: Path) -> None:
    config = load_config(RunConfig, None, ["task=aus", "aus.codes=[4,12]"])
    trained.train(prepared, None, config, out=root / "units")
    result = run("predict", "--model", root / "units", "--video", two, "--out", root / "units-out")
    assert result.exit_code == 0, result.output
    found = json.loads((root / "units-out" / "intervals.json").read_text())["intervals"]
    assert [one["predicted"] for one in found] == ["AU4", "AU12"]
    assert [set(one["probabilities"]) for one in found] == [{"AU4", "AU12"}] * 2
    rows = pq.read_table(root / "units-out" / "predictions.parquet").to_pylist()
    assert [row["p_AU12"] for row in rows] == [one["probabilities"]["AU12"] for one in found]
    assert ": AU4 " in result.stdout.splitlines()[0]


def test_a_still_face_is_a_result_and_no_error(root: Path, model: Path) -> None:
    still = write_video(root / "still.avi", recording(8, 60))
    result = run("predict", "--model", model, "--video", still, "--out", root / "still")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0] == "no micro-expression found"
    assert pq.read_table(root / "still" / "predictions.parquet").num_rows == 0
    assert json.loads((root / "still" / "intervals.json").read_text())["intervals"] == []
    assert (root / "still" / "timeline.png").stat().st_size > 5000


def test_a_clip_as_short_as_its_expression_in_a_folder_of_frames(root: Path, model: Path) -> None:
    frames = write_frames(root / "short", recording(9, 20, (0, 20, "12=0.6")))
    result = run("predict", "--model", model, "--video", frames, "--fps", FPS, "--out", root / "short-out", "--json")
    (found,) = json.loads(result.stdout)["intervals"]
    assert (found["onset"], found["offset"]) == pytest.approx((0, 19), abs=3)
    assert found["apex"] == pytest.approx(9.5, abs=2)
    assert found["predicted"] == "positive"
    assert Recording.open(frames, FPS).names[:3] == ("img1.png", "img2.png", "img3.png")


def test_a_low_rate_is_noted(root: Path, model: Path) -> None:
    slow = write_video(root / "slow.avi", recording(9, 20, (3, 14, "12=0.6")), fps=30)
    result = run("predict", "--model", model, "--video", slow, "--out", root / "slow")
    assert result.exit_code == 0
    assert "note: 30 frames a second are few" in result.stderr
    assert "positive" in result.stdout


# ---------------------------------------------------------------- prepared as for training


def test_a_given_interval_equals_the_prepared_clip(root: Path, model: Path, prepared: Manifest) -> None:
    """Same frames, same steps: the flow and the probabilities are those of `prepare` and `predict --manifest`."""
    recognizer = Recognizer.load(model)
    own = trained.predict(recognizer, prepared).table.to_pylist()
    for row, expected in list(zip(prepared, own, strict=True))[:2]:
        video = root / "study" / f"{row.clip}.avi"
        interval = f"{row.onset},{row.apex},{row.offset}"
        made = predict_video(recognizer, video, out=root / "given" / row.clip, intervals=[interval])
        clips = Manifest.read(root / "given" / row.clip / "clips")
        uv, wanted = read_flow(clips.root, clips.row(0)), read_flow(prepared.root, row)
        assert uv.shape == (2, 96, 96)
        assert np.abs(wanted).max() > 0.5
        assert np.abs(uv - wanted).max() <= 1e-6
        found = made.table.to_pylist()[0]
        for name in ("negative", "positive", "surprise"):
            assert found[f"p_{name}"] == pytest.approx(expected[f"p_{name}"], abs=1e-9)


def test_a_video_is_cropped_as_the_clips_that_the_model_knows(root: Path, model: Path) -> None:
    tight = Framing(eyes=0.5, height=0.45, row=0.3)
    recognizer = replace(Recognizer.load(model), framing=KnownFraming(framing=tight, origin="estimated", images=20))
    made = predict_video(recognizer, root / "study/v1.avi", out=root / "tight", intervals=["2,11,21"])
    clips = Manifest.read(root / "tight/clips")
    assert clips.framing == KnownFraming(framing=tight)
    right, left = eye_centres(read_landmarks(clips.root, clips.row(0)))
    assert left[0] - right[0] == pytest.approx(0.5 * 96, rel=0.01)
    assert len(made.facts["intervals"]) == 1


def test_the_steps_of_training_change_what_is_prepared(root: Path, model: Path) -> None:
    """The defaults (128 px, no stabilisation, TV-L1) would give another flow."""
    recognizer = Recognizer.load(model)
    assert dict(recognizer.preparation.settings)["stabilise"] == "ecc"
    other = replace(recognizer, preparation=Preparation())
    made = predict_video(other, root / "study/v1.avi", out=root / "default", intervals=["2,11,21"])
    assert read_flow(root / "default/clips", Manifest.read(root / "default/clips").row(0)).shape == (2, 128, 128)
    assert "record no preparation" in made.facts["notes"][0]


def test_an_interval_without_an_apex_is_spotted(root: Path, model: Path) -> None:
    made = predict_video(Recognizer.load(model), root / "study/v1.avi", out=root / "no-apex", intervals=["2,21"])
    (found,) = made.facts["intervals"]
    assert abs(found["apex"] - 11.5) <= 2
    assert not made.facts["spotted"]


def test_the_rule_for_the_apex_is_that_of_training(root: Path, model: Path) -> None:
    recognizer = Recognizer.load(model)
    settings = dict(recognizer.preparation.settings) | {"apex": "frequency"}
    other = replace(recognizer, preparation=replace(recognizer.preparation, settings=settings))
    video = write_video(root / "one.avi", recording(7, 40, (10, 20, "4=0.6")))
    made = predict_video(other, video, out=root / "rule")
    (row,) = Manifest.read(root / "rule/clips")
    assert any("apex spotted by frequency" in warning for warning in row.warnings)
    assert made.facts["intervals"][0]["apex"] == row.onset + row.apex_index


# ---------------------------------------------------------------- what a model remembers


def test_training_saves_the_steps(model: Path, prepared: Manifest) -> None:
    found = Preparation.read(model)
    assert found.recorded == 1
    assert found.landmarker == "mediapipe"
    assert PrepareConfig(**found.require_one()) == STEPS
    assert found.notes() == []
    assert Recognizer.load(model).preparation == found


def record(folder: Path, manifest: Manifest, **changes: object) -> Manifest:
    """A copy of a prepared manifest that says it was prepared otherwise."""
    shutil.copytree(manifest.root, folder)
    run_file = yaml.safe_load((folder / "run.yaml").read_text())
    run_file["config"] |= changes
    (folder / "run.yaml").write_text(yaml.safe_dump(run_file))
    seal(folder)
    return Manifest.read(folder)


def test_manifests_that_differ_are_refused_and_say_in_what(tmp_path: Path, prepared: Manifest) -> None:
    other = record(tmp_path / "other", prepared, size=64, method="tvl1")
    found = Preparation.of([prepared, other])
    with pytest.raises(ManifestError, match="method dis and tvl1; size 96 and 64"):
        found.require_one()


def test_what_does_not_change_the_flow_is_no_difference(tmp_path: Path, prepared: Manifest) -> None:
    """CASME II has apexes and SMIC has none: the rule for the latter is the only one there is."""
    other = record(tmp_path / "other", prepared, apex="frequency", keep_frames=False, inputs=["eyes"], landmarker="x")
    found = Preparation.of([prepared, other])
    assert found.require_one()["apex"] == "frequency"
    assert found.landmarker == ""


def test_videos_end_early_only_where_what_was_judged_did(tmp_path: Path, prepared: Manifest) -> None:
    """Early parts of macro-expressions are a source; those of micro-expressions are what is judged."""
    early = record(tmp_path / "early", prepared, early=0.3)
    table = early.table.set_column(
        early.table.schema.get_field_index("expression"), "expression", pa.array(["macro"] * len(early))
    )
    source = replace(early, table=table)
    assert "early" not in Preparation.of([prepared, source]).require_one()
    assert Preparation.of([early, source]).require_one()["early"] == 0.3
    assert _settings(Preparation.of([early]), ()).early == 0.3
    with pytest.raises(ManifestError, match=r"early 1\.0 and 0\.3"):
        Preparation.of([prepared, early]).require_one()


def test_manifests_without_a_record(tmp_path: Path, prepared: Manifest) -> None:
    made = write_corpus(tmp_path / "made", subjects=2)
    assert "by the defaults" in Preparation.of([made]).notes()[0]
    mixed = Preparation.of([prepared, made])
    assert mixed.settings["size"] == 96
    assert "1 of 2 training manifests" in mixed.notes()[0]


def test_a_model_saved_without_preparation_uses_the_defaults_and_a_damaged_one_is_refused(
    tmp_path: Path, model: Path
) -> None:
    old = tmp_path / "old"
    shutil.copytree(model, old)
    (old / PREPARATION).unlink()
    with pytest.raises(DigestError, match=r"preparation\.yaml is missing"):
        Recognizer.load(old)
    seal(old)
    assert Recognizer.load(old).preparation == Preparation()
    (old / PREPARATION).write_text("nonsense: [1")
    seal(old)
    with pytest.raises(WeightsUnavailable, match="train the model again"):
        Recognizer.load(old)


def test_aus_are_predicted_where_training_showed_them(root: Path, prepared: Manifest) -> None:
    config = load_config(RunConfig, None, ["model=capsule_graph", "train.steps=30"])
    recognizer = trained.train(prepared, None, config, out=root / "capsules")
    assert recognizer.aus
    assert Recognizer.load(root / "capsules").aus == recognizer.aus
    made = predict_video(recognizer, root / "study/v1.avi", out=root / "aus", intervals=["2,11,21"])
    aus = made.facts["intervals"][0]["aus"]
    assert set(aus) == {f"{side}{code}" for code in (1, 2, 4, 12) for side in "LR"}
    assert all(0 < value < 1 for value in aus.values())
    assert set(made.table.column_names) >= {f"au_{name}" for name in aus}


def test_a_model_without_an_au_head_predicts_none(model: Path) -> None:
    recognizer = Recognizer.load(model)
    assert recognizer.au_probabilities({"flow": np.zeros((1, 3, 28, 28), np.float32)}) is None


# ---------------------------------------------------------------- refusals


def test_refusals(tmp_path: Path, root: Path, model: Path, two: Path) -> None:
    base = ("predict", "--model", model, "--out", tmp_path / "no")
    assert "does not exist" in mistake(*base, "--video", tmp_path / "absent.mp4")
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    assert "cannot be decoded" in mistake(*base, "--video", tmp_path / "bad.mp4")
    (tmp_path / "a.txt").write_text("no video")
    assert "neither a folder of frames nor a video" in mistake(*base, "--video", tmp_path / "a.txt")
    four = write_video(tmp_path / "four.avi", recording(7, 96, *TWO)[:4])
    assert "has 4 frames; " in mistake(*base, "--video", four)
    assert f"needs at least {MIN_FRAMES}" in mistake(*base, "--video", four)
    assert "3 frames a second" in mistake(*base, "--video", two, "--fps", "3")
    assert "frames a second" in mistake(*base, "--video", two, "--fps", "nan")
    noise = np.random.default_rng(0).integers(0, 255, (8, 64, 64, 3)).astype(np.uint8)
    assert "no face found in noise.avi" in mistake(*base, "--video", write_video(tmp_path / "noise.avi", noise))
    (tmp_path / "empty").mkdir()
    assert "holds no frames" in mistake(*base, "--video", tmp_path / "empty", "--fps", "50")
    pictures = write_frames(tmp_path / "pictures", recording(7, 96, *TWO)[:8])
    assert "pass --fps" in mistake(*base, "--video", pictures)
    (pictures / "img3.png").write_bytes(b"")
    assert "img3.png cannot be read" in mistake(*base, "--video", pictures, "--fps", "60")
    cv2.imwrite(str(pictures / "img3.png"), np.zeros((50, 60, 3), np.uint8))
    assert "img3.png has 60x50 pixels" in mistake(*base, "--video", pictures, "--fps", "60")
    assert not (tmp_path / "no").exists()  # nothing half-written


def test_options_that_contradict_each_other(tmp_path: Path, model: Path, prepared: Manifest, two: Path) -> None:
    base = ("predict", "--model", model, "--out", tmp_path / "no")
    assert "both --manifest and --video" in mistake(*base, "--video", two, "--manifest", prepared.root)
    assert "neither --manifest nor --video" in mistake(*base)
    assert "go with --video" in mistake(*base, "--manifest", prepared.root, "--fps", "50")
    for text in ("5", "a,b", "9,3", "3,2,9", "90,95,96", "-1,4,8"):
        assert "interval '" in mistake(*base, "--video", two, "--interval", text)
    assert "landmarker 'x' is unknown" in mistake(*base, "--video", two, "--landmarker", "x")


def test_an_output_folder_is_not_taken_from_another_run(out: Path, model: Path, root: Path, two: Path) -> None:
    assert "holds another run" in mistake("predict", "--model", model, "--video", root / "study/v1.avi", "--out", out)
    before = (out / "intervals.json").read_bytes()
    assert run("predict", "--model", model, "--video", two, "--out", out).exit_code == 0
    assert (out / "intervals.json").read_bytes() == before


def test_a_dry_run_checks_and_writes_nothing(tmp_path: Path, model: Path, two: Path) -> None:
    base = ("predict", "--model", model, "--video", two, "--out", tmp_path / "no", "--dry-run", "--json")
    assert json.loads(run(*base).stdout)["frames"] == 96
    assert "interval '9,3'" in mistake(*base, "--interval", "9,3")
    assert not (tmp_path / "no").exists()


def test_an_interval_without_a_face_is_refused(root: Path, tmp_path: Path, model: Path) -> None:
    frames = recording(7, 96, *TWO)[:30].copy()
    frames[12:] = np.random.default_rng(0).integers(0, 255, frames[12:].shape)
    video = write_video(tmp_path / "gone.avi", frames)
    with pytest.raises(NoFaceError, match=r"none of the intervals of gone\.avi"):
        predict_video(Recognizer.load(model), video, out=tmp_path / "o", intervals=["14,18,22"])


def test_an_interval_with_a_face_after_a_beginning_without(tmp_path: Path, model: Path) -> None:
    frames = recording(7, 96, *TWO)[:40].copy()
    frames[:10] = 128
    video = write_video(tmp_path / "late.avi", frames)
    made = predict_video(Recognizer.load(model), video, out=tmp_path / "o", intervals=["14,24,33"])
    assert (verify(tmp_path / "o").kind, verify(tmp_path / "o").problems) == ("prediction", ())
    assert made.facts["intervals"][0]["predicted"] == "negative"
    assert made.facts["intervals"][0]["movement_px"] is None
    assert set(made.facts["signal"]["px"]) == {None}


def test_a_recording_by_name(two: Path) -> None:
    found = Recording.open(two)
    assert (found.fps, len(found.names), found.height, found.width, found.notes()) == (FPS, 96, 96, 96, [])
    given, open_ = Interval.parse(" 3, 5,9", found), Interval.parse("3,9", found)
    assert (given.onset, given.apex, given.offset) == (3, 5, 9)
    assert (open_.onset, open_.apex, open_.offset) == (3, None, 9)
    assert MIN_FRAMES == SPOTTED_FRAMES
    with pytest.raises(RecordingError):
        Recording.open(two, float("inf"))
    empty = two.parent / "empty.avi"
    empty.write_bytes(b"")
    with pytest.raises(UnreadableImageError):
        Recording.open(empty)
