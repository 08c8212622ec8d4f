"""Copies of prepared clips: everything changed alike, and nothing that leaks."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mesynth.core.errors import ConfigError, ManifestError
from mesynth.core.facs import AU_CODES
from mesynth.core.seeds import stream
from mesynth.core.types import AUVector
from mesynth.preprocess.align import MIRROR
from mesynth.preprocess.augment import AugmentConfig, CopiesConfig, _Copier, _Copies, augment
from mesynth.store.manifest import Manifest, Row
from mesynth.store.shards import read_flow, read_frames, read_landmarks, read_valid
from mesynth.store.stage import Produced, read_notes, run_stage
from tests.builders import provenance, row
from tests.preprocess.textures import end_point_error, smooth_field, texture, warped_pair

STILL = AugmentConfig(flip=0, rotation=0, scale=1, shift=0, brightness=0, contrast=1, gamma=1, noise=0)
SIZE = 128


def clip(index: int) -> Produced:
    """Five frames that move by a known field, up to the third and back."""
    field = smooth_field(index, 1.5)
    steps = [warped_pair(texture("astronaut"), field * share)[0] for share in (0.0, 0.5, 1.0, 0.5, 0.0)]
    intensity = np.zeros((len(AU_CODES), 2), np.float32)
    intensity[3] = 0.25, 0.5
    # onset(x) = apex(x + flow): the frames were read backwards, so the flow is minus the field to first order
    made = row(
        f"c{index}", height=SIZE, width=SIZE, au_text="L5B+R5C", subject=f"{index:02d}",
        clip_id=f"db/{index:02d}/c{index}/0",
        provenance=provenance(subject=f"{index:02d}", subjects_seen=(f"db/{index:02d}",)),
        **Row.au_columns(AUVector(intensity)),
    )  # fmt: skip
    points = stream(0, "points", index).uniform(20, 108, (68, 2)).astype(np.float32)
    valid = np.ones((SIZE, SIZE), np.bool_)
    valid[:20, :30] = False
    return Produced(made, frames=np.stack(steps), flow=-field, landmarks=points, valid=valid)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return run_stage(tmp_path_factory.mktemp("prepared") / "out", [0, 1], clip, config={})


def test_without_changes_a_copy_is_its_clip(prepared: Manifest, tmp_path: Path) -> None:
    made = augment(prepared, tmp_path / "out", CopiesConfig(change=STILL))
    for one, two in zip(prepared, made, strict=True):
        assert np.array_equal(read_frames(prepared.root, one), read_frames(made.root, two))
        assert np.array_equal(read_flow(prepared.root, one), read_flow(made.root, two))
        assert two.au_intensity == one.au_intensity
        assert (two.subject_key, two.label, two.emotion) == (one.subject_key, one.label, one.emotion)
        assert two.clip_id == f"{one.clip_id}~0.0"
        assert two.provenance.kind == "synthetic"
        assert two.provenance.generator == "mesynth.augment"
        assert two.provenance.subjects_seen == one.provenance.subjects_seen
        assert one.frames is not None
        assert two.provenance.parents == (one.frames.sha256,)


def test_a_mirrored_copy(prepared: Manifest, tmp_path: Path) -> None:
    made = augment(prepared, tmp_path / "out", CopiesConfig(change=replace(STILL, flip=1.0)))
    one, two = prepared.row(0), made.row(0)
    assert np.array_equal(read_frames(made.root, two), read_frames(prepared.root, one)[:, :, ::-1])
    before, after = read_flow(prepared.root, one), read_flow(made.root, two)
    assert np.array_equal(after[0], -before[0, :, ::-1])
    assert np.array_equal(after[1], before[1, :, ::-1])
    hidden = read_valid(made.root, two)
    assert hidden is not None
    assert not hidden[:20, -30:].any()
    assert hidden.sum() == SIZE**2 - 600
    assert two.aus.intensity[3].tolist() == [0.5, 0.25]
    assert (one.au_text, two.au_text) == ("L5B+R5C", "R5B+L5C")
    present = np.array(two.au_present).reshape(-1, 2)
    assert np.array_equal(present, np.array(one.au_present).reshape(-1, 2)[:, ::-1])
    points = read_landmarks(prepared.root, one)[MIRROR]
    assert read_landmarks(made.root, two) == pytest.approx(np.column_stack([SIZE - 1 - points[:, 0], points[:, 1]]))


def test_a_magnified_copy_carries_its_own_flow(prepared: Manifest, tmp_path: Path) -> None:
    config = CopiesConfig(copies=2, change=STILL, ratios=(1.0, 2.0))
    made = augment(prepared, tmp_path / "out", config)
    same, double = made.row(0), made.row(1)
    truth = 2 * read_flow(prepared.root, prepared.row(0))
    still = end_point_error(np.zeros_like(truth), truth)
    assert end_point_error(read_flow(made.root, double), truth) < 0.35 * still
    assert same.au_known == prepared.row(0).au_known
    known = np.array(double.au_known).reshape(-1, 2)
    assert not known[3].any()  # twice a letter is no letter
    assert known[4].all()
    assert np.array(double.au_present).reshape(-1, 2)[3].tolist() == [1, 1]
    assert [note["ratio"] for note in read_notes(tmp_path / "out")] == [1.0, 2.0, 1.0, 2.0]


def test_frames_left_out_keep_the_key_frames(prepared: Manifest, tmp_path: Path) -> None:
    made = augment(prepared, tmp_path / "out", CopiesConfig(change=STILL, keep=0.5))
    one, two = prepared.row(0), made.row(0)
    frames, kept = read_frames(prepared.root, one), read_frames(made.root, two)
    assert len(kept) == 4
    assert np.array_equal(kept[[0, two.apex_index, -1]], frames[[0, 2, 4]])
    assert (len(kept) - 1) / two.fps == pytest.approx((len(frames) - 1) / one.fps)


def test_copies_do_not_depend_on_processes_or_on_each_other(prepared: Manifest, tmp_path: Path) -> None:
    """A worker that was sent elsewhere makes any copy alone, in any order; the stage only hands jobs to workers."""
    many = augment(prepared, tmp_path / "many", CopiesConfig(copies=5, seed=3))
    worker = pickle.loads(pickle.dumps(_Copier(prepared.root, CopiesConfig(copies=5, seed=3))))
    jobs = _Copies(prepared, 5)
    for index in (9, 5, 2):
        made, stored = worker(pickle.loads(pickle.dumps(jobs[index : index + 1]))[0]), many.row(index)
        assert np.array_equal(made.frames, read_frames(many.root, stored))
        assert np.array_equal(made.flow, read_flow(many.root, stored))
        assert replace(made.row, frames=stored.frames, flow=stored.flow) == stored
    fewer = augment(prepared, tmp_path / "fewer", CopiesConfig(copies=2, seed=3))
    for k in (0, 1):
        assert np.array_equal(read_frames(fewer.root, fewer.row(2 + k)), read_frames(many.root, many.row(5 + k)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"copies": 0}, "copies=0"),
        ({"ratios": ()}, "ratios"),
        ({"ratios": (1.0, -2.0)}, "ratios"),
        ({"keep": 0.0}, "keep=0"),
        ({"seed": -1}, "seed=-1"),
        ({"change": AugmentConfig(crop=(64, 64))}, "crop"),
    ],
)
def test_what_is_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        CopiesConfig(**options)  # type: ignore[arg-type]


def test_nothing_to_copy(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no clips"):
        augment(Manifest.from_rows([], tmp_path), tmp_path / "out")
    with pytest.raises(ManifestError, match="no frames"):
        augment(Manifest.from_rows([row()], tmp_path), tmp_path / "out")
