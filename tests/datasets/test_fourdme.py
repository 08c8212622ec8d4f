"""The 4DME loader on folders that mimic the release, and on folders that do not."""

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
from mesynth.datasets.fourdme import FOURDME, is_release
from mesynth.datasets.load import Correction, load_release, usable
from mesynth.store.manifest import Row
from mesynth.store.shards import read_frames
from tests.datasets.releases.common import write_book
from tests.datasets.releases.fourdme import CLIPS, HEADER, WORDS, WORKBOOK, FourClip, write_fourdme


def rows(root: Path, frames: str = "") -> list[Row]:
    return list(usable(load_release(FOURDME, root, frames=frames, corrections=())))


def present(row: Row, code: int) -> tuple[int, ...]:
    return row.au_present[2 * AU_INDEX[code] : 2 * AU_INDEX[code] + 2]


def test_a_plain_clip(tmp_path: Path) -> None:
    row = rows(write_fourdme(tmp_path))[0]
    assert row.clip_id == "4dme/S01/001_01_1/2480"
    assert (row.onset, row.apex, row.offset, row.n_frames, row.apex_index) == (2480, 2490, 2500, 21, 10)
    assert row.frame_files[0] == "gray_micro/S01/001_01_1/image02480.jpg"
    assert (row.emotion, row.label, row.au_text, row.expression) == ("negative", "negative", "4+7", "micro")
    assert row.warnings == ()
    assert read_frames(tmp_path, row)[0].mean().round() == 20 + 2480 % 200


def test_several_emotions_are_kept_and_have_a_class_only_together(tmp_path: Path) -> None:
    row = rows(write_fourdme(tmp_path))[1]
    assert (row.emotion, row.label) == ("surprise+positive", "")
    counted = check(load_release(FOURDME, tmp_path, corrections=()))
    assert counted.emotions["surprise+positive"] == 1
    assert counted.classes["3"] == {"negative": 2, "positive": 1, "surprise": 0, "": 2}


def test_a_static_action_unit_is_not_of_the_expression(tmp_path: Path) -> None:
    plain, static, mixed, *_ = rows(write_fourdme(tmp_path))
    assert present(plain, 4) == (1, 1)
    assert present(static, 4) == (0, 0)
    assert present(static, 7) == (1, 0)
    assert (present(mixed, 2), present(mixed, 12), present(mixed, 45)) == ((0, 1), (0, 0), (1, 1))


@pytest.mark.parametrize("slip", ["4（k）+7", "4(k)-+7", "4 ( K )+7", "4(k+7"])
def test_slips_of_the_static_mark(tmp_path: Path, slip: str) -> None:
    row = rows(write_fourdme(tmp_path, [FourClip(aus=slip)]))[0]
    assert present(row, 4) == (0, 0)
    assert present(row, 7) == (1, 1)


def test_blinks_are_told(tmp_path: Path) -> None:
    found = rows(write_fourdme(tmp_path))
    assert [bool(row.warnings) for row in found] == [False, True, False, False, False]
    assert found[1].warnings == ("the subject blinks during the clip",)


def test_recordings_of_one_person_are_one_subject(tmp_path: Path) -> None:
    """S13 and S13_1st: a fold that split them would test on a person it has seen."""
    found = rows(write_fourdme(tmp_path))
    assert [(row.subject, row.clip) for row in found[2:4]] == [("S13", "001_01_1"), ("S13", "1st_001_01_1")]
    assert found[3].frame_files[0].startswith("gray_micro/S13_1st/001_01_1/")
    assert found[3].au_text == "14"


def test_stray_dashes_and_floats(tmp_path: Path) -> None:
    row = rows(write_fourdme(tmp_path))[4]
    assert (row.onset, row.apex, row.offset) == (1, 5, 9)
    assert row.frame_files[0] == "gray_micro/S21/003_02_1/image00001.jpg"


def test_emotion_from_its_columns_and_disagreement(tmp_path: Path) -> None:
    clips = [FourClip(emotion=None, marked=("Surprise", "Negative")), FourClip(name="2", marked=("Positive",))]
    first, second = rows(write_fourdme(tmp_path, clips))
    assert (first.emotion, first.warnings) == ("negative+surprise", ())
    assert second.emotion == "negative"
    assert second.warnings == ("emotion negative but the columns mark positive; the emotion was kept",)


def test_counts_and_the_row_of_sums(tmp_path: Path) -> None:
    loaded = load_release(FOURDME, write_fourdme(tmp_path), corrections=())
    found = check(loaded)
    assert (found.annotated, found.usable, found.subjects, found.published.clips) == (5, 5, 3, 267)
    assert found.notes == (f"1 rows of {WORKBOOK} name no clip and were left out",)
    assert found.unannotated == ()
    assert load_release(FOURDME, write_fourdme(tmp_path, last_row=False)).release.notes == ()


def test_renderings(tmp_path: Path) -> None:
    root = write_fourdme(tmp_path, folders=("gray_micro", "gray_micro_crop"))
    assert rows(root)[0].frame_files[0].startswith("gray_micro/")
    assert rows(root, "cropped")[0].frame_files[0] == "gray_micro_crop/S01/001_01_1/image02480.jpg"
    shutil.rmtree(root / "gray_micro")
    assert rows(root)[0].frame_files[0].startswith("gray_micro_crop/")
    with pytest.raises(DatasetLayoutError, match=r"no folder gray_micro in .*gray_micro_crop/"):
        load_release(FOURDME, root, frames="raw")


def test_nested_folder_and_columns_without_marks(tmp_path: Path) -> None:
    root = write_fourdme(tmp_path, folders=("4DME/gray_micro/gray_micro",))
    usual = rows(root)
    assert usual[0].frame_files[0].startswith("4DME/gray_micro/gray_micro/S01/")
    header = ("AUs'", "Offset", "Apex", "Onset", "Emotion", "fold_name'", "sub_ID'")
    lines = [(c.aus, c.offset, c.apex, c.onset, c.emotion, c.name, f"{c.subject}'") for c in CLIPS]
    write_book(root / WORKBOOK, {"Sheet1": [header, *lines]})
    found = rows(root)
    assert [replace(row, warnings=()) for row in found] == [replace(row, warnings=()) for row in usual]


@pytest.mark.parametrize(
    ("clip", "words"),
    [
        (FourClip(subject="?"), ("sub_ID '?'", "001_01_1", "S01", "repair")),
        (FourClip(name="009"), ("S01/009 is missing", "001_01_1/")),
        (FourClip(offset="late"), ("offset 'late'", "frame numbers")),
    ],
)
def test_a_line_that_cannot_be_used_is_one_problem(tmp_path: Path, clip: FourClip, words: tuple[str, ...]) -> None:
    root = write_fourdme(tmp_path)
    write_book(root / WORKBOOK, {"Sheet1": [HEADER, *(c.cells for c in (*CLIPS, clip))]})
    loaded = load_release(FOURDME, root, corrections=())
    (problem,) = loaded.problems
    assert "\n" not in problem.reason
    assert all(word in problem.reason for word in words), problem.reason
    assert loaded.unannotated == ()
    assert len(usable(loaded, skip_bad=True)) == 5


def test_corrections(tmp_path: Path) -> None:
    fix = Correction("4dme", "S01/001_01_1", "aus", "4+7", "4(k)+7", "there before the onset")
    row = load_release(FOURDME, write_fourdme(tmp_path), corrections=[fix]).manifest.row(0)
    assert (row.au_text, present(row, 4)) == ("4(k)+7", (0, 0))


def test_wrong_folders(tmp_path: Path) -> None:
    def expect(*words: str) -> None:
        with pytest.raises(DatasetLayoutError) as error:
            load_release(FOURDME, root)
        assert "\n" not in str(error.value)
        assert all(word in str(error.value) for word in words), str(error.value)

    root = tmp_path / "nowhere"
    expect(WORKBOOK, "does not exist")
    root = write_fourdme(tmp_path / "r")
    shutil.rmtree(root / "gray_micro")
    expect("no folder gray_micro", WORKBOOK)
    write_book(root / WORKBOOK, {"Sheet1": [[h for h in HEADER if h != "Apex"]]})
    expect("lacks the column 'apex'", "Offset")


def test_is_release(tmp_path: Path) -> None:
    root = write_fourdme(tmp_path / "m")
    assert is_release(root)
    (root / WORKBOOK).unlink()
    assert is_release(root)
    shutil.rmtree(root / "gray_micro")
    assert not is_release(root)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(st.sampled_from(WORDS), min_size=1, max_size=3, unique=True))
def test_any_set_of_emotions(tmp_path: Path, words: list[str]) -> None:
    root = tmp_path / "-".join(words)
    (row,) = rows(
        write_fourdme(root, [FourClip(emotion=" + ".join(words), marked=tuple(words), onset=1, apex=2, offset=3)])
    )
    assert row.emotion == "+".join(words).lower()
    assert row.warnings == ()
    negative = {"Negative", "Repression"}
    expected = {"Positive": "positive", "Surprise": "surprise"}.get(words[0], "") if len(words) == 1 else ""
    assert row.label == ("negative" if set(words) <= negative else expected)
