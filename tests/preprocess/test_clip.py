"""The optional steps of prepare, one at a time, on face clips whose mouth moves by a known field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from mesynth.cli import main
from mesynth.core.errors import MesynthError
from mesynth.datasets.casme2 import load_casme2
from mesynth.preprocess import prepare as clip_module
from mesynth.preprocess.config import INPUTS, PrepareConfig
from mesynth.preprocess.landmarks import DetectedFace
from mesynth.preprocess.prepare import prepare
from mesynth.store.manifest import Manifest, Row
from mesynth.store.shards import read_extra, read_flow, read_frames, read_landmarks
from mesynth.store.stage import read_notes, read_skipped
from tests.datasets.releases.casme2 import ReleaseClip
from tests.preprocess.faces import write_faces

CLIPS = (
    ReleaseClip(onset=8, apex=16, offset=24),
    ReleaseClip(subject="02", name="EP01_01", onset=98, apex="/", offset=110, aus=12, emotion="happiness"),
)
SIZE = 96


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return load_casme2(write_faces(tmp_path_factory.mktemp("release"), CLIPS))


@pytest.fixture(scope="module")
def plain(source: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return run(source, tmp_path_factory.mktemp("plain"))


def run(source: Manifest, folder: Path, **options: Any) -> Manifest:
    return prepare(source, folder / "out", PrepareConfig(size=SIZE, **options), landmarker="mediapipe")


def mouth(manifest: Manifest, row: Row) -> float:
    """Vertical flow at the lips, pixels."""
    x, y = read_landmarks(manifest.root, row)[60:68].mean(0).round().astype(int)
    return float(read_flow(manifest.root, row)[1, y, x])


def test_piecewise_crops_differ_but_show_the_same_motion(source: Manifest, plain: Manifest, tmp_path: Path) -> None:
    made = run(source, tmp_path, crop="piecewise")
    one, two = plain.row(0), made.row(0)
    assert not np.array_equal(read_frames(plain.root, one), read_frames(made.root, two))
    assert mouth(made, two) == pytest.approx(mouth(plain, one), rel=0.3)


def test_stabilised_clips_say_what_drift_remains(source: Manifest, plain: Manifest, tmp_path: Path) -> None:
    made = run(source, tmp_path, stabilise="phase")
    for note, row, before in zip(read_notes(made.root), made, plain, strict=True):
        assert note["clip_id"] == row.clip_id
        assert note["drift"]["after"]["mean"] < 0.1
        assert np.array_equal(read_frames(made.root, row)[0], read_frames(plain.root, before)[0])
        assert mouth(made, row) == pytest.approx(mouth(plain, before), rel=0.2)


def test_the_verb_reports_the_drift(source: Manifest, tmp_path: Path) -> None:
    words = ["prepare", "casme2", "--root", str(source.root), "--size", str(SIZE), "--stabilise", "ecc", "--json"]
    result = CliRunner().invoke(main, [*words, "--workers", "1", "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    drift = json.loads(result.stdout)["drift, px"]
    assert 0 <= drift["after"] <= drift["before"] + 0.01


@pytest.mark.parametrize("method", ["flow", "frequency", "difference"])
def test_a_spotted_apex_is_where_the_motion_is_largest(source: Manifest, method: str, tmp_path: Path) -> None:
    made = run(source, tmp_path, apex=method)
    annotated, spotted = made
    assert annotated.apex_index == 8
    assert abs(spotted.apex_index - 6) <= 1
    assert spotted.apex is None  # a spotted apex is not an annotated one
    assert spotted.warnings == (f"apex spotted by {method} at stored frame {spotted.apex_index}",)
    assert [note["clip_id"] for note in read_notes(made.root)] == [spotted.clip_id]


@pytest.mark.parametrize("method", ["eulerian", "phase", "lagrangian", "learned"])
def test_magnified_motion_is_larger(source: Manifest, plain: Manifest, method: str, tmp_path: Path) -> None:
    made = run(source[:1], tmp_path, magnify=f"{method}:2")
    row, before = made.row(0), plain.row(0)
    assert np.array_equal(read_frames(made.root, row)[0], read_frames(plain.root, before)[0])
    assert 1.1 < mouth(made, row) / mouth(plain, before) < 2.6


@pytest.mark.parametrize("method", ["tim", "linear", "flow", "nearest"])
def test_resampled_clips_keep_their_key_frames_and_duration(
    source: Manifest, plain: Manifest, method: str, tmp_path: Path
) -> None:
    made = run(source, tmp_path, resample=f"{method}:9")
    for row, before in zip(made, plain, strict=True):
        frames, all_frames = read_frames(made.root, row), read_frames(plain.root, before)
        assert len(frames) == row.n_frames == 9
        assert np.array_equal(frames[[0, row.apex_index, 8]], all_frames[[0, before.apex_index, -1]])
        assert 8 / row.fps == pytest.approx((before.n_frames - 1) / before.fps)
        assert np.array_equal(read_flow(made.root, row), read_flow(plain.root, before))


@pytest.mark.parametrize("model", ["translation", "similarity", "affine"])
def test_without_head_motion_nothing_is_taken_out(
    source: Manifest, plain: Manifest, model: str, tmp_path: Path
) -> None:
    made = run(source, tmp_path, global_motion=model)
    for row, before in zip(made, plain, strict=True):
        difference = read_flow(made.root, row) - read_flow(plain.root, before)
        assert np.hypot(*difference).mean() < 0.15


def test_every_further_input(source: Manifest, tmp_path: Path) -> None:
    made = run(source, tmp_path, inputs=INPUTS)
    for row in made:
        frames, t = read_frames(made.root, row), row.n_frames
        got = {name: read_extra(made.root, row, name) for name in INPUTS}
        shapes = {name: (array.dtype.name, array.shape) for name, array in got.items()}
        assert shapes == {
            "difference": ("int16", (SIZE, SIZE, 3)),
            "dynamic": ("float16", (SIZE, SIZE, 3)),
            "active": ("float16", (SIZE, SIZE, 3)),
            "landmarks": ("float32", (t, 68, 2)),
            "flows": ("float16", (t - 1, 2, SIZE, SIZE)),
            "eyes": ("uint8", (2, t, SIZE // 2, SIZE // 2, 3)),
            "mouth": ("uint8", (t, SIZE // 2, SIZE // 2, 3)),
            "patches": ("uint8", (51, t, 16, 16, 3)),
        }
        apex = row.apex_index
        assert np.array_equal(got["difference"], frames[apex].astype(int) - frames[0])
        assert got["flows"][apex - 1] == pytest.approx(read_flow(made.root, row), abs=0.01)
        points = read_landmarks(made.root, row)
        assert np.array_equal(got["landmarks"][0], points)
        assert (got["landmarks"][apex] - points)[60:68, 1].mean() < -1  # the mouth rises
        assert np.abs((got["landmarks"][apex] - points)[36:48]).max() < 0.3


def test_landmarks_found_once_are_not_looked_for_again(
    source: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    config = PrepareConfig(size=SIZE)
    first = prepare(source, tmp_path / "a", config, landmarker="mediapipe", cache=cache)

    class Blind:
        name = "mediapipe"

        def faces(self, image: np.ndarray, names: object = ()) -> list[DetectedFace]:
            raise AssertionError("looked again")

        def close(self) -> None:
            """Nothing to free."""

    monkeypatch.setattr(clip_module, "landmarker_of", lambda *args: Blind())
    again = prepare(source, tmp_path / "b", PrepareConfig(size=64), landmarker="mediapipe", cache=cache)
    assert [row.clip_id for row in again] == [row.clip_id for row in first]
    with pytest.raises(AssertionError, match="looked again"):
        prepare(source, tmp_path / "c", PrepareConfig(size=64), landmarker="mediapipe")


def test_a_replaced_frame_is_another_run(tmp_path: Path) -> None:
    own = load_casme2(write_faces(tmp_path / "release", CLIPS[:1]))
    run(own, tmp_path)
    run(own, tmp_path)
    file = own.root / own.row(0).frame_files[3]
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(MesynthError, match="another run"):
        run(own, tmp_path)


def test_bad_clips_are_skipped_on_request(tmp_path: Path) -> None:
    own = load_casme2(write_faces(tmp_path / "release", CLIPS))
    file = own.root / own.row(0).frame_files[2]
    file.write_bytes(file.read_bytes()[:100])
    config = PrepareConfig(size=SIZE)
    with pytest.raises(MesynthError, match=r"img10\.png"):
        prepare(own, tmp_path / "a", config, landmarker="mediapipe")
    made = prepare(own, tmp_path / "b", config, landmarker="mediapipe", skip_bad=True)
    assert [row.clip for row in made] == ["EP01_01"]
    (left,) = read_skipped(tmp_path / "b")
    assert left.clip_id == own.row(0).clip_id
    assert "img10.png" in left.reason
