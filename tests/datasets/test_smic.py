"""The SMIC loader on folders that mimic the release and its extended edition."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesynth.core.errors import DatasetLayoutError
from mesynth.datasets.check import check
from mesynth.datasets.load import load_release, usable
from mesynth.datasets.smic import SMIC, is_release
from tests.datasets.releases.common import write_book, write_frames
from tests.datasets.releases.smic import SLOW_CLIPS, LongVideo, SmicClip, write_smic, write_smic_long


def rows(root: Path, **options: str):
    return list(usable(load_release(SMIC, root, **options)))


def test_the_folder_is_the_annotation(tmp_path: Path) -> None:
    row = rows(write_smic(tmp_path))[0]
    assert (row.clip_id, row.subject_key) == ("smic/s01/s1_ne_01/559740", "smic/s01")
    assert (row.onset, row.apex, row.offset, row.n_frames, row.apex_index) == (559740, None, 559745, 6, 2)
    assert (row.fps, row.emotion, row.label, row.objective_class) == (100.0, "negative", "negative", "")
    assert row.frame_files[0] == "SMIC_all_raw/HS/s1/micro/negative/s1_ne_01/image559740.bmp"
    assert row.warnings == ()
    assert set(row.au_present) == {-1}  # nobody coded action units


def test_frames_in_numeric_order_across_a_change_of_digits(tmp_path: Path) -> None:
    row = next(row for row in rows(write_smic(tmp_path)) if row.clip == "s1_sur_01")
    assert [Path(f).stem for f in row.frame_files][:3] == ["image99998", "image99999", "image100000"]


def test_subjects_in_numeric_order_and_non_micro_left_alone(tmp_path: Path) -> None:
    loaded = load_release(SMIC, write_smic(tmp_path))
    assert [line.subject for line in loaded.release.lines] == ["s01", "s01", "s11", "s20"]
    assert loaded.unannotated == ()
    assert all("non_micro" not in line.folder for line in loaded.release.lines)


def test_cropped_frames(tmp_path: Path) -> None:
    write_smic(tmp_path, cropped=True)
    assert rows(tmp_path)[0].frame_files[0].endswith("HS/s1/micro/negative/s1_ne_01/reg_image559740.bmp")
    with pytest.raises(DatasetLayoutError, match="no folder SMIC_all_raw/HS"):
        load_release(SMIC, tmp_path, frames="raw")
    write_smic(tmp_path)
    assert rows(tmp_path)[0].frame_files[0].startswith("SMIC_all_raw/")
    assert rows(tmp_path, frames="cropped")[0].frame_files[0].startswith("SMIC_all_cropped/")


@pytest.mark.parametrize("camera", ["VIS", "NIR"])
def test_the_slow_cameras_show_the_same_people(tmp_path: Path, camera: str) -> None:
    write_smic(tmp_path)
    write_smic(tmp_path, SLOW_CLIPS, camera=camera)
    row = rows(tmp_path, part=camera.lower())[0]
    assert (row.subject_key, row.fps) == ("smic/s11", 25.0)
    assert row.clip_id == f"smic/s11/{camera.lower()}_s11_ne_01/101"


def test_clips_of_all_parts_can_be_joined(tmp_path: Path) -> None:
    same = [SmicClip(subject="s11", name="s11_ne_01", first=101)]
    for camera in ("HS", "VIS", "NIR"):
        write_smic(tmp_path, same, camera=camera)
    video = LongVideo(subject=11, name="s11_ne_01", spans=((101, 105),), first=100, last=110)
    write_smic_long(tmp_path, [video], text_rows=())
    write_smic_long(tmp_path, [video], camera="VIS", text_rows=())
    found = [row for part in ("hs", "vis", "nir", "long", "vis-long") for row in rows(tmp_path, part=part)]
    assert len({row.clip_id for row in found}) == 5
    assert {row.subject_key for row in found} == {"smic/s11"}


def test_archives_that_unpack_into_themselves_and_a_root_of_its_own(tmp_path: Path) -> None:
    write_smic(tmp_path / "SMIC_all_raw", [SmicClip()])
    assert rows(tmp_path)[0].frame_files[0].startswith("SMIC_all_raw/SMIC_all_raw/HS")
    write_smic(tmp_path / "b", [SmicClip()])
    assert rows(tmp_path / "b/SMIC_all_raw")[0].frame_files[0].startswith("HS/s1/micro")


def test_a_name_that_contradicts_its_folder(tmp_path: Path) -> None:
    write_smic(tmp_path, [SmicClip(name="s1_po_01"), SmicClip(name="s2_ne_01")])
    loaded = load_release(SMIC, tmp_path)
    assert loaded.manifest.row(0).warnings == ("the clip's name says positive, its folder negative; the folder counts",)
    assert loaded.manifest.row(0).label == "negative"
    assert "s2_ne_01 lies with subject s01" in loaded.problems[0].reason


def test_counts(tmp_path: Path) -> None:
    found = check(load_release(SMIC, write_smic(tmp_path)))
    assert (found.annotated, found.usable, found.subjects, found.sources) == (4, 4, 3, ())
    assert found.classes["3"] == {"negative": 1, "positive": 2, "surprise": 1}
    assert sum(found.published.emotions.values()) == found.published.clips == 164


# ---------------------------------------------------------------- SMIC-E


@pytest.mark.parametrize("inner", [False, True])
def test_a_long_video(tmp_path: Path, inner: bool) -> None:
    row = rows(write_smic_long(tmp_path, inner=inner), part="long")[0]
    assert (row.clip_id, row.fps) == ("smic/s03/long_s3_ne_01/1010", 100.0)
    assert (row.onset, row.apex, row.offset, row.n_frames, row.apex_index) == (1010, None, 1016, 7, 3)
    assert (row.emotion, row.label) == ("negative", "negative")
    assert row.frame_files[0].endswith("s03/s3_ne_01/image00001010.jpg")


def test_two_and_three_expressions_of_one_video(tmp_path: Path) -> None:
    found = [(row.subject, row.clip, row.onset, row.offset) for row in rows(write_smic_long(tmp_path), part="long")]
    assert found == [
        ("s03", "long_s3_ne_01", 1010, 1016),
        ("s14", "long_s14_sur_02", 1004, 1008),
        ("s14", "long_s14_sur_02", 1020, 1025),
        ("s20", "long_s20_po_01", 1, 5),
        ("s20", "long_s20_po_01", 7, 12),
        ("s20", "long_s20_po_01", 14, 18),
    ]


def test_text_lost_videos_and_folders_without_expression_are_accounted_for(tmp_path: Path) -> None:
    loaded = load_release(SMIC, write_smic_long(tmp_path), part="long")
    assert loaded.problems == ()
    assert loaded.release.notes[1:] == (
        "2 rows of text below the data left out",
        "1 rows left out: their FirstF says in words that the video is missing",
    )
    assert loaded.unannotated == ("HS_long/SMIC-HS-E/s03/s3_calm",)
    assert loaded.release.sources == ("HS_long/SMIC-HS-E/SMIC-HS-E_annotation.xlsx",)


def test_a_video_that_is_merely_missing_is_a_problem(tmp_path: Path) -> None:
    loaded = load_release(SMIC, write_smic_long(tmp_path, [LongVideo(), LongVideo(name="s3_ne_02")]), part="long")
    assert loaded.problems == ()
    root = write_smic_long(tmp_path / "b", [LongVideo(), LongVideo(name="s3_ne_02", on_disk=False)])
    assert "s3_ne_02 is missing" in load_release(SMIC, root, part="long").problems[0].reason


def test_the_sheet_of_the_camera_is_read(tmp_path: Path) -> None:
    """The workbook of HS also holds a sheet VIS; without a workbook of its own, VIS is read from there."""
    write_smic_long(tmp_path, [LongVideo()])
    video = LongVideo(subject=11, name="s11_ne_01")
    write_smic_long(tmp_path, [video], camera="VIS")
    (tmp_path / "VIS_long/SMIC-VIS-E/SMIC-VIS-E_annotation.xlsx").unlink()
    with pytest.raises(DatasetLayoutError, match="no workbook like SMIC-VIS-E_annotation"):
        load_release(SMIC, tmp_path, part="vis-long")
    book = tmp_path / "HS_long/SMIC-HS-E/SMIC-HS-E_annotation.xlsx"
    (tmp_path / book.name).write_bytes(book.read_bytes())
    row = rows(tmp_path, part="vis-long")[0]
    assert (row.clip_id, row.fps) == ("smic/s11/vis_long_s11_ne_01/1010", 25.0)


def test_an_edition_with_an_apex_and_without_further_spans(tmp_path: Path) -> None:
    root = write_smic_long(tmp_path, [LongVideo()])
    header = ("Subject", "Filename", "OnsetF", "ApexF", "OffsetF", "Emotion")
    file = root / "HS_long/SMIC-HS-E/SMIC-HS-E_annotation.xlsx"
    write_book(file, {"HS": [header, ("3", "s3_ne_01", "1010", 1012, 1016.0, "positive")]})
    row = rows(root, part="long")[0]
    assert (row.apex, row.apex_index, row.label) == (1012, 2, "negative")
    assert row.warnings == ("the clip's name says negative, the column positive; the name counts",)


def test_a_clip_under_another_subject(tmp_path: Path) -> None:
    loaded = load_release(SMIC, write_smic_long(tmp_path, [LongVideo(), LongVideo(subject=4)]), part="long")
    assert "listed under subject 4" in loaded.problems[0].reason


# ---------------------------------------------------------------- what is wrong with a folder


def test_empty_and_wrong_folders(tmp_path: Path) -> None:
    with pytest.raises(DatasetLayoutError, match="does not exist"):
        load_release(SMIC, tmp_path / "nowhere")
    (tmp_path / "SMIC_all_raw/HS/s1/micro").mkdir(parents=True)
    with pytest.raises(DatasetLayoutError, match="holds no clip like s1/micro/negative"):
        load_release(SMIC, tmp_path)
    with pytest.raises(DatasetLayoutError, match="no folder SMIC_all_raw/NIR"):
        load_release(SMIC, tmp_path, part="nir")
    with pytest.raises(DatasetLayoutError, match="has no part 'hd'; choose from hs, vis, nir, long"):
        load_release(SMIC, tmp_path, part="hd")
    with pytest.raises(DatasetLayoutError, match="no workbook like SMIC-HS-E_annotation"):
        load_release(SMIC, tmp_path, part="long")
    root = write_smic_long(tmp_path / "b", [])
    (root / "HS_long/SMIC-HS-E/s03").rename(root / "HS_long/SMIC-HS-E/people")
    with pytest.raises(DatasetLayoutError, match="no folder like HS_long/SMIC-HS-E/s03"):
        load_release(SMIC, root, part="long")


def test_is_release(tmp_path: Path) -> None:
    root = write_smic(tmp_path / "a")
    assert is_release(root)
    assert is_release(root / "SMIC_all_raw/HS/s1")
    assert is_release(write_smic_long(tmp_path / "b") / "HS_long")
    write_frames(tmp_path / "faces/s1", [1, 2])
    assert not is_release(tmp_path / "faces")
