"""The MMEW loader on folders that mimic the release, and on folders that do not."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesynth.core.errors import DatasetLayoutError
from mesynth.datasets.check import check
from mesynth.datasets.load import Correction, load_release, usable
from mesynth.datasets.mmew import MMEW, is_release
from mesynth.store.manifest import Manifest, Row
from mesynth.store.shards import read_frames
from tests.datasets.releases.common import write_book, write_frames
from tests.datasets.releases.mmew import CLIPS, HEADER, WORKBOOK, MmewClip, write_mmew


def rows(root: Path) -> dict[str, Row]:
    return {row.clip: row for row in usable(load_release(MMEW, root, corrections=()))}


def test_a_plain_clip(tmp_path: Path) -> None:
    row = rows(write_mmew(tmp_path))["S01-01-001"]
    assert row.clip_id == "mmew/S01/S01-01-001/1"
    assert (row.onset, row.apex, row.offset, row.n_frames, row.apex_index) == (1, 8, 15, 15, 7)
    assert [Path(f).name for f in row.frame_files] == [f"{n}.jpg" for n in range(1, 16)]  # 2.jpg before 10.jpg
    assert row.frame_files[0] == "Micro_Expression/happiness/S01-01-001/1.jpg"
    assert (row.fps, row.emotion, row.label, row.au_text) == (90.0, "happiness", "positive", "6+12")
    assert (row.objective_class, row.expression, row.warnings) == ("I", "micro", ())
    assert read_frames(tmp_path, row).mean(axis=(1, 2, 3)).round().tolist() == [20 + n for n in range(1, 16)]


def test_others_lie_in_the_folder_repression(tmp_path: Path) -> None:
    row = rows(write_mmew(tmp_path))["S01-04-001"]
    assert row.frame_files[0] == "Micro_Expression/repression/S01-04-001/9.jpg"
    assert (row.emotion, row.label, row.au_text) == ("others", "", "4")


def test_a_clip_in_two_folders(tmp_path: Path) -> None:
    root = write_mmew(tmp_path)
    shutil.copytree(root / "Micro_Expression/repression", root / "Micro_Expression/others")
    row = rows(root)["S01-04-001"]
    assert row.frame_files[0].startswith("Micro_Expression/others/")
    assert "Micro_Expression/others/S01-04-001 was taken" in row.warnings[0]


def test_subjects_however_they_are_written(tmp_path: Path) -> None:
    assert [row.subject for row in rows(write_mmew(tmp_path)).values()] == ["S01", "S01", "S13", "S30"]
    root = write_mmew(tmp_path / "other", [MmewClip(subject=2)])
    row = rows(root)["S01-01-001"]
    assert row.subject == "S01"
    assert row.warnings == ("the workbook says subject 2, the clip's name S01; the name was believed",)


def test_an_apex_after_the_offset_stands_in(tmp_path: Path) -> None:
    row = rows(write_mmew(tmp_path))["S13-07-001"]
    assert (row.apex, row.apex_index, row.n_frames) == (None, 6, 14)
    assert "apex 20 lies outside onset 2 and offset 15" in row.warnings[0]


def test_an_offset_behind_the_last_frame(tmp_path: Path) -> None:
    root = write_mmew(tmp_path, [MmewClip()])
    write_book(root / WORKBOOK, {"Sheet1": [HEADER, MmewClip(offset=40).cells]})
    loaded = load_release(MMEW, root, corrections=())
    row = loaded.manifest.row(0)
    assert (row.offset, row.n_frames) == (40, 18)
    assert row.warnings == (
        "offset frame 40 is not on disk; frame 18 taken",
        "22 of 40 annotated frames are not on disk",
    )
    assert loaded.missing_frames == {"S01/S01-01-001": 22}
    assert not check(loaded).complete


@pytest.mark.parametrize(
    ("options", "first"),
    [
        ({"by_person": True}, "Micro_Expression/S01/happiness/S01-01-001/1.jpg"),
        ({"within": "MMEW_Final"}, "MMEW_Final/Micro_Expression/happiness/S01-01-001/1.jpg"),
        ({"within": "MMEW/MMEW_Final"}, "MMEW/MMEW_Final/Micro_Expression/happiness/S01-01-001/1.jpg"),
        ({"within": "Micro_Expression"}, "Micro_Expression/Micro_Expression/happiness/S01-01-001/1.jpg"),
    ],
)
def test_layouts(tmp_path: Path, options: dict, first: str) -> None:
    usual = rows(write_mmew(tmp_path / "usual"))
    found = rows(write_mmew(tmp_path / "other", **options))
    assert found["S01-01-001"].frame_files[0] == first
    assert [replace(row, frame_files=()) for row in found.values()] == [
        replace(row, frame_files=()) for row in usual.values()
    ]


def test_other_names_of_workbook_and_columns(tmp_path: Path) -> None:
    root = write_mmew(tmp_path)
    usual = rows(root)
    (root / WORKBOOK).unlink()
    header = ("remarks", "File Name", "Onset Frame", "apexframe", "Offset", "AUs", "Emotion", "subject")
    lines = [(None, *clip.cells[1:7], clip.cells[0]) for clip in CLIPS]
    write_book(root / "MMEW_Micro_Exp (20).xlsx", {"Sheet1": [header, *lines, (None,) * 8]})
    assert rows(root) == usual


def test_counts(tmp_path: Path) -> None:
    found = check(load_release(MMEW, write_mmew(tmp_path), corrections=()))
    assert (found.annotated, found.usable, found.subjects, found.published.clips) == (4, 4, 3, 300)
    assert found.emotions == {"happiness": 1, "others": 1, "anger": 1, "surprise": 1}
    assert found.classes["7"]["others"] == 1
    assert sum(found.published.emotions.values()) == 300
    assert found.unannotated == ()
    write_frames(tmp_path / "Micro_Expression/fear/S02-03-001", range(1, 9), "{}.jpg")
    write_frames(tmp_path / "Micro_Expression/anger/S02-07-002", range(1, 9), "{}.jpg")
    again = load_release(MMEW, tmp_path, corrections=()).unannotated
    assert again == ("Micro_Expression/anger/S02-07-002",)  # beside annotated clips


# ---------------------------------------------------------------- macro-expressions


def test_a_macro_picture_is_no_clip(tmp_path: Path) -> None:
    root = write_mmew(tmp_path)
    loaded = load_release(MMEW, root, part="macro", corrections=())
    assert (len(loaded.manifest), len(loaded.problems)) == (0, 4)
    assert loaded.problems[0].clip == "S01/macro-S01-07-001"
    assert loaded.release.notes == ("single pictures: anger 2, fear 1, happiness 1",)
    for skip in (False, True):
        with pytest.raises(DatasetLayoutError, match=r"S01-07-001\.jpg is one picture, no clip.*casme_sq.*and 3 more"):
            usable(loaded, skip_bad=skip)
    found = check(loaded)
    assert (found.annotated, found.usable, found.subjects, found.published.clips) == (4, 0, 2, 900)
    assert found.unannotated == ()


def test_macro_folders_of_frames_are_clips(tmp_path: Path) -> None:
    """Some copies hold sequences; their ids differ from those of micro-expressions of the same name."""
    root = write_mmew(tmp_path, stills=False)
    write_frames(root / "Macro_Expression/S01/happiness/S01-01-001", range(3, 12), "{}.jpg")
    macro = usable(load_release(MMEW, root, part="macro", corrections=()))
    row = macro.row(0)
    assert (row.subject, row.clip, row.expression, row.emotion) == ("S01", "macro-S01-01-001", "macro", "happiness")
    assert (row.onset, row.apex, row.offset, row.n_frames, row.apex_index) == (3, None, 11, 9, 4)
    micro = usable(load_release(MMEW, root, corrections=()))
    assert len(Manifest.join([micro, macro], root)) == 5


def test_macro_pictures_sorted_by_emotion(tmp_path: Path) -> None:
    write_frames(tmp_path / "Macro_Expression/anger/S07", [1], "S07-07-{:03d}.jpg")
    (problem,) = load_release(MMEW, tmp_path, part="macro").problems
    assert problem.clip == "S07/macro-S07-07-001"


# ---------------------------------------------------------------- faults


@pytest.mark.parametrize(
    ("clip", "words"),
    [
        (MmewClip(name="1.jpg"), ("clip '1.jpg'", WORKBOOK, "S01-01-001", "repair")),
        (MmewClip(name="S09-01-001"), ("happiness/S09-01-001 is missing", "S01-01-001/")),
        (MmewClip(onset=None), ("onset ''", "frame numbers")),
        (MmewClip(onset=9, offset=9), ("onset '9'", "offset '9'")),
    ],
)
def test_a_line_that_cannot_be_used_is_one_problem(tmp_path: Path, clip: MmewClip, words: tuple[str, ...]) -> None:
    root = write_mmew(tmp_path)
    write_book(root / WORKBOOK, {"Sheet1": [HEADER, *(c.cells for c in (*CLIPS, clip))]})
    loaded = load_release(MMEW, root, corrections=())
    (problem,) = loaded.problems
    assert "\n" not in problem.reason
    assert all(word in problem.reason for word in words), problem.reason
    assert loaded.unannotated == ()
    assert len(usable(loaded, skip_bad=True)) == 4


def test_corrections(tmp_path: Path) -> None:
    fix = Correction("mmew", "S13/S13-07-001", "apex", "20", "9", "seen on the video")
    row = load_release(MMEW, write_mmew(tmp_path), corrections=[fix]).manifest.row(2)
    assert (row.apex, row.apex_index) == (9, 7)


def test_wrong_folders(tmp_path: Path) -> None:
    def expect(*words: str, part: str = "") -> None:
        with pytest.raises(DatasetLayoutError) as error:
            load_release(MMEW, root, part=part)
        assert "\n" not in str(error.value)
        assert all(word in str(error.value) for word in words), str(error.value)

    root = tmp_path / "nowhere"
    expect(WORKBOOK, "does not exist")
    root = write_mmew(tmp_path / "r")
    shutil.rmtree(root / "Micro_Expression")
    expect("no folder Micro_Expression", "Macro_Expression/")
    expect("choose from micro, macro", part="all")
    shutil.rmtree(root / "Macro_Expression")
    expect("no folder Macro_Expression", part="macro")
    (root / "Macro_Expression").mkdir()
    expect("holds no pictures", "it is empty", part="macro")
    write_book(root / WORKBOOK, {"Sheet1": [[h for h in HEADER if h != "OffsetFrame"]]})
    expect("lacks the column 'offset'", "ApexFrame")


def test_is_release(tmp_path: Path) -> None:
    root = write_mmew(tmp_path / "m")
    assert is_release(root)
    (root / WORKBOOK).unlink()
    assert is_release(root)
    shutil.rmtree(root / "Macro_Expression")
    assert not is_release(root)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    person=st.integers(1, 99),
    emotion=st.sampled_from(list(MMEW.published["micro"].emotions)),
    n=st.integers(1, 999),
)
def test_names_and_folders_agree_for_every_person(tmp_path: Path, person: int, emotion: str, n: int) -> None:
    name = f"S{person:02d}-01-{n:03d}"
    row = rows(write_mmew(tmp_path / name / emotion, [MmewClip(person, name, emotion=emotion)], stills=False))[name]
    assert (row.subject, row.emotion, row.warnings) == (f"S{person:02d}", emotion, ())
    assert row.subject_key == f"mmew/{name.split('-')[0]}"
