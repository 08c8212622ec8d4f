"""The CASME loader on a folder that mimics the release."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesynth.core.errors import DatasetLayoutError
from mesynth.datasets.casme import CASME, is_release
from mesynth.datasets.check import check
from mesynth.datasets.load import Correction, load_release, usable
from mesynth.store.shards import read_frames
from tests.datasets.releases.casme import HEADER, WORKBOOK, CasmeClip, write_casme
from tests.datasets.releases.casme2 import write_release
from tests.datasets.releases.common import write_book, write_frames


def rows(root: Path, **options: str):
    return list(usable(load_release(CASME, root, **options)))


def test_a_plain_clip(tmp_path: Path) -> None:
    row = rows(write_casme(tmp_path))[0]
    assert (row.clip_id, row.subject_key) == ("casme/sub01/EP01_5/7", "casme/sub01")
    assert (row.onset, row.apex, row.offset, row.n_frames, row.apex_index) == (7, 9, 12, 6, 2)
    assert (row.fps, row.emotion, row.label, row.objective_class) == (60.0, "disgust", "negative", "III")
    assert row.warnings == ()
    assert row.provenance.licence == "CASME licence agreement"


def test_frames_of_both_cameras_are_in_numeric_order(tmp_path: Path) -> None:
    """EP01_5-9 before EP01_5-10 (camera A, unpadded); EP05_2-098 before EP05_2-100 (camera B)."""
    found = rows(write_casme(tmp_path))
    assert [Path(f).name for f in found[0].frame_files] == [f"EP01_5-{n}.jpg" for n in range(7, 13)]
    assert [Path(f).name for f in found[2].frame_files] == [f"EP05_2-{n:03d}.jpg" for n in range(98, 105)]
    assert read_frames(tmp_path, found[0]).mean(axis=(1, 2, 3)).round().tolist() == [27, 28, 29, 30, 31, 32]


def test_the_first_of_two_apexes_is_taken_and_the_second_told(tmp_path: Path) -> None:
    row = rows(write_casme(tmp_path))[1]
    assert (row.apex, row.apex_index) == (10, 2)
    assert row.warnings == ("a second apex is annotated at frame 13; the first is taken",)


def test_numbers_that_miss_the_folder_give_way_to_it(tmp_path: Path) -> None:
    missed, reversed_ = rows(write_casme(tmp_path))[4:]
    assert (missed.onset, missed.apex, missed.offset, missed.n_frames) == (100, None, 109, 10)
    assert "do not enclose the folder's frames 100 to 109" in missed.warnings[0]
    assert "no apex annotated" in missed.warnings[1]
    assert (reversed_.onset, reversed_.apex, reversed_.offset, reversed_.apex_index) == (20, 23, 27, 3)


def test_a_single_frame_in_common_is_no_clip(tmp_path: Path) -> None:
    row = rows(write_casme(tmp_path, [CasmeClip(onset=1, offset=100, on_disk=range(100, 110))]))[0]
    assert (row.onset, row.offset, row.n_frames) == (100, 109, 10)
    both = rows(write_casme(tmp_path / "b", [CasmeClip(onset=1, offset=101, on_disk=range(100, 110))]))[0]
    assert (both.onset, both.offset, both.n_frames) == (1, 101, 2)


def test_numbers_that_reach_beyond_the_folder_are_clamped_by_the_engine(tmp_path: Path) -> None:
    row = rows(write_casme(tmp_path, [CasmeClip(offset=40, on_disk=range(5, 20))]))[0]
    assert (row.offset, row.n_frames) == (40, 13)
    assert row.warnings[0] == "offset frame 40 is not on disk; frame 19 taken"


def test_cropped_frames(tmp_path: Path) -> None:
    write_casme(tmp_path, cropped=True)
    assert rows(tmp_path)[0].frame_files[0] == "Cropped/sub01/EP01_5/reg_EP01_5-7.jpg"
    with pytest.raises(DatasetLayoutError, match="no folder CASME_raw_selected"):
        load_release(CASME, tmp_path, frames="raw")
    write_casme(tmp_path)
    assert rows(tmp_path)[0].frame_files[0].startswith("CASME_raw_selected/")
    assert rows(tmp_path, frames="cropped")[0].frame_files[0].startswith("Cropped/")


def test_emotions_and_classes(tmp_path: Path) -> None:
    found = check(load_release(CASME, write_casme(tmp_path)))
    assert found.emotions == {"tense": 2, "disgust": 1, "happiness": 1, "surprise": 1, "repression": 1}
    assert found.classes["3"] == {"negative": 2, "positive": 1, "surprise": 1, "": 2}
    assert (found.annotated, found.usable, found.subjects) == (6, 6, 3)
    assert (found.published.clips, found.published.subjects) == (189, 19)
    assert not found.complete


def test_subjects_folders_of_other_padding(tmp_path: Path) -> None:
    root = write_casme(tmp_path, [CasmeClip()])
    (root / "CASME_raw_selected/sub01").rename(root / "CASME_raw_selected/Sub1")
    row = rows(root)[0]
    assert (row.subject, row.frame_files[0]) == ("sub01", "CASME_raw_selected/Sub1/EP01_5/EP01_5-7.jpg")


def test_columns_of_other_names_and_without_second_apex(tmp_path: Path) -> None:
    root = write_casme(tmp_path, [CasmeClip()])
    header = ["subject", "File name", "onsetF", "ApexF", "offset F", "AUs", "Estimated emotion"]
    write_book(root / WORKBOOK, {"Sheet1": [header, ["01", "EP01_5", "7", "9", "12", 4.0, "disgust "]]})
    row = rows(root)[0]
    assert (row.onset, row.apex, row.offset, row.au_text, row.emotion) == (7, 9, 12, "4", "disgust")


# ---------------------------------------------------------------- what is wrong with a folder


def test_a_row_that_names_no_clip_is_told(tmp_path: Path) -> None:
    root = write_casme(tmp_path, [CasmeClip()])
    good = (1, "EP01_5", None, 7, 9, None, 12, None, "4", "Disgust")
    bad = ("x", "EP01_6", None, 7, 9, None, 12, None, "4", "Disgust")
    write_book(root / WORKBOOK, {"Sheet1": [HEADER, good, bad]})
    loaded = load_release(CASME, root)
    assert [p.clip for p in loaded.problems] == ["x/EP01_6"]
    with pytest.raises(DatasetLayoutError, match=r"subject 'x'.*expected for example 1 and EP01_5.*--skip-bad"):
        usable(loaded)
    assert len(usable(loaded, skip_bad=True)) == 1


def test_missing_folder_of_a_clip(tmp_path: Path) -> None:
    root = write_casme(tmp_path, [CasmeClip()])
    rows_ = [(1, name, None, 7, 9, None, 12, None, "4", "Disgust") for name in ("EP01_5", "EP99_1")]
    write_book(root / WORKBOOK, {"Sheet1": [HEADER, *rows_]})
    assert "EP99_1 is missing" in load_release(CASME, root).problems[0].reason


@pytest.mark.parametrize("gone", ["CASME_raw_selected", WORKBOOK])
def test_an_incomplete_root_says_what_is_there(tmp_path: Path, gone: str) -> None:
    root = write_casme(tmp_path)
    (root / gone).rename(root / "elsewhere")
    with pytest.raises(DatasetLayoutError, match=r"elsewhere") as error:
        load_release(CASME, root)
    assert "\n" not in str(error.value)


def test_corrections_reach_the_row(tmp_path: Path) -> None:
    fix = Correction("casme", "sub01/EP01_5", "apex", "9", "10", "seen on the video")
    loaded = load_release(CASME, write_casme(tmp_path), corrections=[fix])
    assert loaded.manifest.row(0).apex == 10
    assert len(loaded.corrected) == 1


def test_is_release_tells_the_databases_apart(tmp_path: Path) -> None:
    assert is_release(write_casme(tmp_path / "a"))
    assert is_release(write_casme(tmp_path / "c", cropped=True))
    assert not is_release(write_release(tmp_path / "b"))
    for name in ("CAS(ME)^2code_final.xlsx", "casme_sq.xlsx", "cas(me)3_part_A.xlsx", "CASME II.xlsx"):
        folder = tmp_path / name.replace(".", "")
        folder.mkdir()
        (folder / name).write_bytes(b"")
        assert not is_release(folder), name
    write_frames(tmp_path / "faces", [1, 2])
    assert not is_release(tmp_path / "faces")
