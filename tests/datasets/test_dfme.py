"""The DFME loader on folders that mimic the release, and on folders that do not."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesynth.core.errors import DatasetLayoutError
from mesynth.core.facs import AU_INDEX
from mesynth.datasets.check import check
from mesynth.datasets.dfme import DFME, is_release
from mesynth.datasets.load import Correction, load_release, usable
from mesynth.store.manifest import Manifest, Row
from mesynth.store.shards import read_frames
from tests.datasets.releases.common import write_book
from tests.datasets.releases.dfme import CLIPS, HEADER, WORKBOOKS, DfmeClip, write_dfme


def rows(root: Path, part: str = "") -> dict[str, Row]:
    return {row.clip: row for row in usable(load_release(DFME, root, part=part, corrections=()))}


def test_a_plain_clip(tmp_path: Path) -> None:
    row = rows(write_dfme(tmp_path))["sub0003_01"]
    assert row.clip_id == "dfme/sub0003/sub0003_01/109"
    assert (row.onset, row.apex, row.offset, row.n_frames, row.apex_index) == (109, 115, 120, 12, 6)
    assert row.frame_files[0] == "DFME_train/sub0003_01/00109.png"
    assert (row.fps, row.emotion, row.label, row.au_text) == (500.0, "anger", "negative", "4+7+AD38")
    assert (row.expression, row.warnings) == ("micro", ())
    assert read_frames(tmp_path, row).mean(axis=(1, 2, 3)).round().tolist() == [20 + n for n in range(109, 121)]


def test_the_frame_rate_is_the_clips(tmp_path: Path) -> None:
    assert [row.fps for row in rows(write_dfme(tmp_path)).values()] == [500.0, 300.0, 200.0]
    assert check(load_release(DFME, tmp_path)).fps == (200.0, 300.0, 500.0)


def test_action_units_and_movements(tmp_path: Path) -> None:
    anger, smile, head = rows(write_dfme(tmp_path)).values()
    assert [anger.au_present[2 * AU_INDEX[code]] for code in (4, 7, 12)] == [1, 1, 0]
    assert (smile.au_text, smile.objective_class) == ("12", "I")
    assert head.au_text == "M57"
    assert set(head.au_present) == {0}  # a movement of the head is no action unit of the vocabulary


def test_sets_are_told_apart_and_people_are_not(tmp_path: Path) -> None:
    """Folders of the sets may repeat a name; a person of the same number counts as the same person."""
    root = write_dfme(tmp_path)
    parts = {part: rows(root, part) for part in ("train", "testA", "testB")}
    assert list(parts["testA"]) == ["testA-sub0003_01", "testA-sub0007_01"]
    assert parts["testA"]["testA-sub0003_01"].frame_files[0] == "test_data_A/test_data_A/sub0003_01/00109.png"
    assert parts["testA"]["testA-sub0003_01"].subject == parts["train"]["sub0003_01"].subject == "sub0003"
    assert rows(root, "all") == {**parts["train"], **parts["testA"], **parts["testB"]}
    joined = Manifest.join([load_release(DFME, root, part=part).manifest for part in parts], root)
    assert len(joined) == 6
    assert "dfme/sub0009" in set(joined.subject_keys())  # the subject cell was empty; the name tells


def test_all_takes_the_sets_that_are_there(tmp_path: Path) -> None:
    root = write_dfme(tmp_path, {"train": CLIPS["train"]})
    loaded = load_release(DFME, root, part="all", corrections=())
    assert len(usable(loaded)) == 3
    assert loaded.release.notes == ("no workbook of testA, testB is there",)
    with pytest.raises(DatasetLayoutError, match=r"no workbook like testA_full_with_AU\.xlsx"):
        load_release(DFME, root, part="testA")


def test_one_test_set_is_not_taken_for_the_other(tmp_path: Path) -> None:
    root = write_dfme(tmp_path, {"testB": CLIPS["testB"]})
    assert list(rows(root, "testB")) == ["testB-sub0009_03"]
    with pytest.raises(DatasetLayoutError, match=r"no workbook like testA_full_with_AU\.xlsx"):
        load_release(DFME, root, part="testA")
    write_dfme(root, {"testA": CLIPS["testA"]})
    shutil.rmtree(root / "test_data_A")
    with pytest.raises(DatasetLayoutError, match="no folder test_data_A"):
        load_release(DFME, root, part="testA")


def test_emotion_by_id_and_disagreement(tmp_path: Path) -> None:
    found = rows(write_dfme(tmp_path), "testA")
    by_id, odd = found["testA-sub0003_01"], found["testA-sub0007_01"]
    assert (by_id.emotion, by_id.label, by_id.warnings) == ("surprise", "surprise", ())
    assert odd.emotion == "anger"
    assert odd.warnings == ("emotion anger but EmotionId 2 (disgust); the word was kept",)


@pytest.mark.parametrize("name", ["sub3_1", "SUB0003_1", "sub0003_001"])
def test_other_padding_of_the_folder(tmp_path: Path, name: str) -> None:
    root = write_dfme(tmp_path, {"train": [DfmeClip()]}, pattern="{}.png")
    (root / "DFME_train/sub0003_01").rename(root / "DFME_train" / name)
    assert rows(root)["sub0003_01"].frame_files[0] == f"DFME_train/{name}/109.png"


@pytest.mark.parametrize("folder", ["train_data/train_data", "DFME/training", "train"])
def test_other_names_of_the_set_folder(tmp_path: Path, folder: str) -> None:
    root = write_dfme(tmp_path, books="full_release_annotation")
    usual = rows(root)
    (root / folder).parent.mkdir(parents=True, exist_ok=True)
    (root / "DFME_train").rename(root / folder)
    found = rows(root)
    assert found["sub0003_01"].frame_files[0] == f"{folder}/sub0003_01/00109.png"
    assert [replace(row, frame_files=()) for row in found.values()] == [
        replace(row, frame_files=()) for row in usual.values()
    ]


def test_the_folder_of_one_set_is_a_root_too(tmp_path: Path) -> None:
    root = write_dfme(tmp_path, {"train": CLIPS["train"]}, books="DFME_train") / "DFME_train"
    assert rows(root)["sub0003_01"].frame_files[0] == "sub0003_01/00109.png"


def test_shuffled_columns_and_other_workbook_names(tmp_path: Path) -> None:
    root = write_dfme(tmp_path)
    usual = rows(root)
    (root / WORKBOOKS["train"]).unlink()
    lines = [tuple(reversed(clip.cells)) for clip in CLIPS["train"]]
    header = [None if name is None else f"{name.lower()} " for name in reversed(HEADER)]
    write_book(root / "DFME_training_full_with_AU.xlsx", {"Sheet1": [["note"], header, *lines]})
    (root / WORKBOOKS["testA"]).rename(root / "DFME_test_A_full_with_AU.xlsx")
    assert rows(root) == usual
    assert len(rows(root, "testA")) == 2


def test_counts(tmp_path: Path) -> None:
    root = write_dfme(tmp_path)
    found = check(load_release(DFME, root, corrections=()))
    assert (found.annotated, found.usable, found.subjects) == (3, 3, 2)
    assert (found.published.clips, found.published.subjects) == (1856, 176)
    assert found.emotions == {"anger": 1, "happiness": 1, "contempt": 1}
    assert found.classes["7"]["contempt"] == 1
    assert found.unannotated == ()
    shutil.copytree(root / "DFME_train/sub0003_01", root / "DFME_train/sub0004_01")
    assert load_release(DFME, root).unannotated == ("DFME_train/sub0004_01",)
    published = {part: DFME.published[part].clips or 0 for part in DFME.parts}
    assert published["all"] == published["train"] + published["testA"] + published["testB"]


@pytest.mark.parametrize(
    ("clip", "words"),
    [
        (DfmeClip(subject="x", name="y"), ("subject 'x'", "clip 'y'", "sub0003", "repair")),
        (DfmeClip(fps="fast"), ("sub0003/sub0003_01", "frame rate 'fast'", "200, 300 or 500")),
        (DfmeClip(fps=0), ("frame rate '0'",)),
        (DfmeClip(name="sub0003_44"), ("sub0003_44 is missing",)),
        (DfmeClip(onset=130), ("onset '130'", "offset '120'")),
    ],
)
def test_a_line_that_cannot_be_used_is_one_problem(tmp_path: Path, clip: DfmeClip, words: tuple[str, ...]) -> None:
    root = write_dfme(tmp_path)
    write_book(root / WORKBOOKS["train"], {"Sheet1": [HEADER, *(c.cells for c in (*CLIPS["train"], clip))]})
    loaded = load_release(DFME, root, corrections=())
    (problem,) = loaded.problems
    assert "\n" not in problem.reason
    assert all(word in problem.reason for word in words), problem.reason
    assert loaded.unannotated == ()
    assert len(usable(loaded, skip_bad=True)) == 3


def test_corrections(tmp_path: Path) -> None:
    fix = Correction("dfme", "sub0003/sub0003_01", "apex", "115", "113", "seen on the video")
    assert load_release(DFME, write_dfme(tmp_path), corrections=[fix]).manifest.row(0).apex_index == 4


def test_wrong_folders(tmp_path: Path) -> None:
    def expect(*words: str, part: str = "") -> None:
        with pytest.raises(DatasetLayoutError) as error:
            load_release(DFME, root, part=part)
        assert "\n" not in str(error.value)
        assert all(word in str(error.value) for word in words), str(error.value)

    root = tmp_path / "nowhere"
    expect("training_full_with_AU.xlsx", "does not exist")
    expect("training_full_with_AU.xlsx", "does not exist", part="all")
    root = write_dfme(tmp_path / "r")
    expect("choose from train, testA, testB, all", part="val")
    shutil.rmtree(root / "DFME_train")
    expect("no folder DFME_train", "test_data_A/")
    write_dfme(root, header=[None if h == "Fps" else h for h in HEADER])
    expect("lacks the column 'fps'", "Subject")


def test_is_release(tmp_path: Path) -> None:
    root = write_dfme(tmp_path / "d")
    assert is_release(root)
    assert is_release(root / "DFME_train")
    for name in ("train", "sub01", "training_data.xlsx", "CASME2-coding-20140508.xlsx"):
        (tmp_path / "other" / name).mkdir(parents=True)
    assert not is_release(tmp_path / "other")


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(person=st.integers(1, 9999), clip=st.integers(1, 99), fps=st.sampled_from([200, 300, 500, "200", 300.0]))
def test_names_and_rates_survive(tmp_path: Path, person: int, clip: int, fps: object) -> None:
    name = f"sub{person:04d}_{clip:02d}"
    root = tmp_path / f"{name}-{fps}"
    row = rows(write_dfme(root, {"train": [DfmeClip(person, name, fps=fps)]}))[name]
    assert (row.subject, row.fps) == (f"sub{person:04d}", float(str(fps)))
    shutil.rmtree(root)
