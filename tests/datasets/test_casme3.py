"""The CAS(ME)^3 loader, parts A and C, on folders that mimic the release, and on folders that do not."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesynth.core.errors import DatasetLayoutError
from mesynth.core.facs import AU_INDEX
from mesynth.datasets.casme3 import CASME3, is_release
from mesynth.datasets.check import check
from mesynth.datasets.load import Correction, load_release, usable
from mesynth.store.manifest import Manifest, Row
from mesynth.store.shards import read_frames
from tests.datasets.releases.casme3 import (
    CLIPS_A,
    CLIPS_C,
    HEADER,
    WORKBOOK,
    WORKBOOK_C,
    ClipA,
    ClipC,
    write_casme3,
    write_casme3_c,
)
from tests.datasets.releases.common import write_book, write_frames


def rows(root: Path, part: str = "a", frames: str = "") -> dict[str, Row]:
    manifest = usable(load_release(CASME3, root, part=part, frames=frames, corrections=()))
    return {f"{row.subject}/{row.clip}": row for row in manifest}


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Part A as it comes, to read only."""
    return write_casme3(tmp_path_factory.mktemp("casme3"))


def test_a_plain_clip(tmp_path: Path) -> None:
    row = rows(write_casme3(tmp_path, [replace(CLIPS_A[0], onset="359")]))["spNO.1/a_359"]
    assert row.clip_id == "casme3/spNO.1/a_359/359"
    assert (row.onset, row.apex, row.offset, row.n_frames, row.apex_index) == (359, 360, 368, 10, 1)
    assert row.frame_files[0] == "part_A/spNO.1/a/color/359.jpg"
    assert (row.fps, row.height, row.width, row.expression) == (30.0, 24, 32, "micro")
    assert (row.emotion, row.label, row.au_text, row.objective_class) == ("surprise", "surprise", "2+1", "II")
    assert row.warnings == ()
    assert row.provenance.subjects_seen == ("casme3/spNO.1",)
    assert [row.au_present[2 * AU_INDEX[code]] for code in (1, 2, 4)] == [1, 1, 0]


def test_several_expressions_of_one_video(release: Path) -> None:
    found = rows(release)
    assert {"spNO.1/a_355", "spNO.1/a_380"} <= set(found)
    first, second = found["spNO.1/a_355"], found["spNO.1/a_380"]
    assert Path(first.frame_files[0]).parent == Path(second.frame_files[0]).parent
    assert not set(first.frame_files) & set(second.frame_files)
    assert "onset and apex are the same frame" in second.warnings
    assert (second.apex_index, second.emotion, second.objective_class) == (0, "disgust", "III")


def test_missing_frames_are_counted_a_clip(release: Path) -> None:
    loaded = load_release(CASME3, release, corrections=())
    assert loaded.missing_frames == {"spNO.1/a_355": 2, "spNO.1/a_380": 1, "spNO.217/m_0": 1, "spNO.217/b_10": 1}
    row = loaded.manifest.row(0)
    assert (row.n_frames, row.apex_index) == (12, 3)
    assert read_frames(release, row)[3].mean().round() == 20 + 360 % 200


def test_a_capital_video_name_is_the_same_video(release: Path) -> None:
    row = rows(release)["spNO.1/j_20"]
    assert row.frame_files[0] == "part_A/spNO.1/j/color/20.jpg"


def test_offsets_that_cannot_be(release: Path) -> None:
    found = rows(release)
    none, late = found["spNO.10/e_100"], found["spNO.10/e_5"]
    assert (none.onset, none.apex, none.offset) == (100, 104, 104)
    assert none.warnings == ("offset 0 means that none was seen; the clip ends at the apex",)
    assert (late.onset, late.apex, late.offset, late.n_frames) == (5, 9, 9, 5)
    assert late.warnings == ("offset 3460 is 115 s after the onset; the clip ends at the apex",)


@pytest.mark.parametrize("apex", ["100", "90", "/", "3460"])
def test_a_late_offset_is_no_clip_where_the_apex_cannot_end_it(tmp_path: Path, apex: str) -> None:
    """spNO.190/m has such a row: onset and apex are one frame, the offset lies 10 s and more behind them."""
    clip = ClipA(subject="spNO.190", video="m", onset="100", apex="104", offset="108")
    root = write_casme3(tmp_path, [clip], depth=False)
    write_frames(root / "part_A/spNO.190/m/color", range(100, 500), "{}.jpg")
    cells = [replace(clip, onset="101").cells, replace(clip, apex=apex, offset="3460").cells]
    write_book(root / f"annotation/{WORKBOOK}", {"label": [HEADER, *cells]})
    found = load_release(CASME3, root, corrections=())
    assert [p.clip for p in found.problems] == ["spNO.190/m_100"]
    assert "no micro-expression is longer than 10 s" in found.problems[0].reason
    assert [row.onset for row in found.manifest] == [101]


def test_a_long_offset_that_can_be_is_left(release: Path) -> None:
    """72 rows of the release are longer than two seconds; they are annotated so and stay so."""
    row = rows(release)["spNO.217/b_10"]
    assert (row.offset, row.warnings) == (100, ("1 of 91 annotated frames are not on disk",))


def test_frame_zero_is_not_on_disk(release: Path) -> None:
    row = rows(release)["spNO.217/m_0"]
    assert row.frame_files[0].endswith("/1.jpg")
    assert (row.onset, row.apex_index, row.emotion, row.label) == (0, 0, "sad", "negative")
    assert "onset frame 0 is not on disk; frame 1 taken" in row.warnings


def test_both_spellings_of_others_are_one_word(release: Path) -> None:
    found = check(load_release(CASME3, release, corrections=()))
    assert found.emotions == {"others": 2, "surprise": 1, "disgust": 1, "happy": 1, "sad": 1, "fear": 1}
    assert found.classes["7"]["happiness"] == 1
    assert found.classes["4"] == {"negative": 3, "positive": 1, "surprise": 1, "others": 2}
    assert (found.annotated, found.usable, found.subjects, found.published.clips) == (7, 7, 3, 860)
    assert sum(found.published.emotions.values()) == 860
    assert found.unannotated == ()  # depth beside color is no clip that somebody forgot
    assert found.sources == (f"annotation/{WORKBOOK}",)


# ---------------------------------------------------------------- layouts


def test_clips_cut_out_give_the_same_rows(tmp_path: Path) -> None:
    whole, cut = rows(write_casme3(tmp_path / "v")), rows(write_casme3(tmp_path / "c", cut_out=True))
    assert list(whole) == list(cut)
    assert cut["spNO.1/a_355"].frame_files[0] == "Part_A_ME_clip/frame/spNo.1_a_355/355.jpg"
    for name, row in whole.items():
        files = [Path(f).name for f in row.frame_files]
        assert [Path(f).name for f in cut[name].frame_files] == files
        assert replace(row, frame_files=()) == replace(cut[name], frame_files=())


@pytest.mark.parametrize("cut_out", [False, True])
def test_depth(tmp_path: Path, cut_out: bool) -> None:
    root = write_casme3(tmp_path, cut_out=cut_out)
    row = rows(root, frames="depth")["spNO.1/a_355"]
    folder = "Part_A_ME_clip/depth/spNo.1_a_355" if cut_out else "part_A/spNO.1/a/depth"
    assert row.frame_files[0] == f"{folder}/355.png"
    assert load_release(CASME3, root, frames="depth", corrections=()).unannotated == ()


def test_folders_in_other_case_and_one_in_the_other(tmp_path: Path) -> None:
    root = write_casme3(tmp_path / "r", workbook=WORKBOOK)
    people = root / "part_A"
    people.rename(root / "inner")
    (root / "part_A/data").mkdir(parents=True)
    (root / "inner").rename(root / "part_A/data/part_A")
    os.rename(root / "part_A/data/part_A/spNO.1", root / "part_A/data/part_A/spNo.1")
    assert rows(root)["spNO.1/a_355"].frame_files[0] == "part_A/data/part_A/spNo.1/a/color/355.jpg"


def test_the_folder_of_the_people_is_a_root_too(tmp_path: Path) -> None:
    root = write_casme3(tmp_path, workbook=f"part_A/{WORKBOOK}") / "part_A"
    assert rows(root)["spNO.1/a_355"].frame_files[0] == "spNO.1/a/color/355.jpg"


def test_macro_workbooks_are_not_taken_and_editions_are_told(tmp_path: Path) -> None:
    root = write_casme3(tmp_path)
    write_book(root / "annotation/cas(me)3_part_A_MaE_label_JpgIndex_v2_emotion.xlsx", {"Sheet1": [HEADER]})
    loaded = load_release(CASME3, root, corrections=())
    assert loaded.release.notes == ()
    write_book(root / "annotation/CAS(ME)3_part_A_v2.xlsx", {"Sheet1": [HEADER]})
    newer = WORKBOOK.replace(".xlsx", "_20250903.xlsx")
    write_book(root / "annotation" / newer, {"label": [HEADER, CLIPS_A[0].cells]})
    loaded = load_release(CASME3, root, corrections=())
    assert loaded.release.sources == (f"annotation/{newer}",)
    assert loaded.release.notes == (f"3 workbooks of this part are there; {newer} was read",)


def test_an_edition_that_lists_macro_expressions_too(tmp_path: Path) -> None:
    header = (*HEADER, "Expression type")
    root = write_casme3(tmp_path, CLIPS_A[:1], workbook="CAS(ME)3_part_A_v2.xlsx")
    lines = [(*CLIPS_A[0].cells, "Micro-expression"), (*CLIPS_A[1].cells, "Macro-expression")]
    write_book(root / "CAS(ME)3_part_A_v2.xlsx", {"Sheet1": [header, *lines]})
    loaded = load_release(CASME3, root, corrections=())
    assert [row.clip for row in loaded.manifest] == ["a_355"]
    assert loaded.release.notes == ("1 rows are no micro-expressions and were left out",)


def test_shuffled_columns(tmp_path: Path) -> None:
    root = write_casme3(tmp_path)
    usual = rows(root)
    order = [7, 2, 0, 5, 1, 4, 6, 3]
    lines = [[clip.cells[i] for i in order] for clip in CLIPS_A]
    names = [f" {HEADER[i].upper()} " for i in order]
    write_book(root / "annotation" / WORKBOOK, {"note": [["read me"]], "label": [names, *lines]})
    assert rows(root) == usual


# ---------------------------------------------------------------- part C


def test_part_c(tmp_path: Path) -> None:
    found = rows(write_casme3_c(tmp_path), "c")
    assert list(found) == ["C01/C_1", "C01/C_2", "C31/C_1"]
    row = found["C01/C_1"]
    assert row.frame_files[0] == "part_C/part_C/01/a/color/373.jpg"
    assert (row.onset, row.apex, row.offset, row.apex_index, row.n_frames) == (373, None, 380, 3, 8)
    assert row.warnings == ("no apex annotated (''); the middle frame stands in",)
    assert (row.au_text, row.emotion, row.label) == ("1，2", "negative", "negative")
    assert [row.au_present[2 * AU_INDEX[code]] for code in (1, 2, 4)] == [1, 1, 0]
    assert [found["C31/C_1"].au_present[2 * AU_INDEX[code]] for code in (1, 4, 7)] == [0, 1, 1]
    counted = check(load_release(CASME3, tmp_path, part="c", corrections=()))
    assert (counted.usable, counted.subjects, counted.published.clips, counted.unannotated) == (3, 2, 165, ())


def test_parts_join_and_their_people_differ(tmp_path: Path) -> None:
    """spNO.1 of part A and 01 of part C are different people."""
    write_casme3(tmp_path)
    write_casme3_c(tmp_path)
    parts = [load_release(CASME3, tmp_path, part=part, corrections=()).manifest for part in ("a", "c")]
    joined = Manifest.join(parts, tmp_path)
    assert len(joined) == 10
    assert {"casme3/spNO.1", "casme3/C01"} <= set(joined.subject_keys())


def test_part_c_cut_out_by_count_and_without_emotion(tmp_path: Path) -> None:
    write_frames(tmp_path / "part_C/01/1/color", range(373, 381), "{}.jpg")
    write_frames(tmp_path / "part_C/01/2/color", range(400, 411), "{}.jpg")
    lines = [("sub", "count", "onset", "offset", "au"), *(clip.cells[:5] for clip in CLIPS_C[:2])]
    write_book(tmp_path / WORKBOOK_C, {"Sheet1": lines})
    found = rows(tmp_path, "c")
    assert found["C01/C_2"].frame_files[0] == "part_C/01/2/color/400.jpg"
    assert found["C01/C_2"].emotion == ""


def test_part_c_problems(tmp_path: Path) -> None:
    root = write_casme3_c(tmp_path)
    clips = [ClipC(), ClipC(subject="x"), ClipC(subject=9)]
    lines = [("sub", "count", "onset", "offset", "au"), *(clip.cells[:5] for clip in clips)]
    write_book(root / WORKBOOK_C, {"Sheet1": lines})
    reasons = [p.reason for p in load_release(CASME3, root, part="c", corrections=()).problems]
    assert "subject 'x'" in reasons[0]
    assert "repair the cell" in reasons[0]
    assert "09/a/color is missing" in reasons[1]
    shutil.rmtree(root / "part_C")
    with pytest.raises(DatasetLayoutError, match="expected part_C/01/a/color/"):
        load_release(CASME3, root, part="c")


# ---------------------------------------------------------------- faults


def test_corrections(tmp_path: Path) -> None:
    """The known fault: onset 3647 of spNO.216/d, whose apex is 2668."""
    fault = ClipA(subject="spNO.216", video="d", onset="3647", apex="2668", offset="2694")
    root = write_casme3(tmp_path, [CLIPS_A[0], replace(fault, onset="2647")])
    write_book(root / "annotation" / WORKBOOK, {"label": [HEADER, CLIPS_A[0].cells, fault.cells]})
    (problem,) = load_release(CASME3, root, corrections=()).problems
    assert problem.clip == "spNO.216/d_3647"
    fix = Correction("casme3", "spNO.216/d_3647", "onset", "3647", "2647", "apex and offset are 2668 and 2694")
    row = load_release(CASME3, root, corrections=[fix]).manifest.row(1)
    assert (row.onset, row.apex, row.offset, row.n_frames) == (2647, 2668, 2694, 48)


@pytest.mark.parametrize(
    ("clip", "words"),
    [
        (replace(CLIPS_A[0], subject="NO1"), ("subject 'NO1'", WORKBOOK, "spNO.1", "repair")),
        (replace(CLIPS_A[0], video="z"), ("spNO.1/z/color is missing", "it does not exist")),
        (replace(CLIPS_A[0], subject="spNO.5"), ("spNO.5/a/color is missing",)),
        (replace(CLIPS_A[0], onset="?"), ("spNO.1/a_?", "onset '?'", "frame numbers")),
        (
            replace(CLIPS_A[0], onset="1000", apex="1004", offset="1010"),
            ("1 frames between onset 1000", "holds frames 352 to 393"),
        ),
    ],
)
def test_a_line_that_cannot_be_used_is_one_problem(tmp_path: Path, clip: ClipA, words: tuple[str, ...]) -> None:
    root = write_casme3(tmp_path)
    write_book(root / "annotation" / WORKBOOK, {"label": [HEADER, *(c.cells for c in (*CLIPS_A, clip))]})
    loaded = load_release(CASME3, root, corrections=())
    (problem,) = loaded.problems
    assert "\n" not in problem.reason
    assert all(word in problem.reason for word in words), problem.reason
    assert loaded.unannotated == ()
    assert len(usable(loaded, skip_bad=True)) == 7


def test_a_row_given_twice(tmp_path: Path) -> None:
    root = write_casme3(tmp_path)
    write_book(root / "annotation" / WORKBOOK, {"label": [HEADER, *(c.cells for c in (*CLIPS_A, CLIPS_A[2]))]})
    (problem,) = load_release(CASME3, root, corrections=()).problems
    assert "annotated twice" in problem.reason


def test_wrong_folders(tmp_path: Path) -> None:
    def expect(*words: str, frames: str = "") -> None:
        with pytest.raises(DatasetLayoutError) as error:
            load_release(CASME3, root, frames=frames)
        assert "\n" not in str(error.value)
        assert all(word in str(error.value) for word in words), str(error.value)

    root = tmp_path / "nowhere"
    expect(WORKBOOK, "does not exist")
    root = write_casme3(tmp_path / "r", cut_out=True, depth=False)
    expect("no depth frames", "Part_A_ME_clip/depth/spNO.1_a_355/", frames="depth")
    expect("choose from color, depth", frames="rgb")
    shutil.rmtree(root / "Part_A_ME_clip")
    expect("no color frames of part A", "annotation/")
    write_casme3(root, header=[h for h in HEADER if h != "Apex"])
    expect("lacks the column 'apex'", "Onset")
    shutil.rmtree(root / "annotation")
    expect(WORKBOOK, "part_A/")


def test_is_release(tmp_path: Path) -> None:
    assert is_release(write_casme3(tmp_path / "a", workbook=WORKBOOK))
    assert is_release(tmp_path / "a/part_A")
    assert is_release(write_casme3(tmp_path / "b", cut_out=True))
    assert is_release(write_casme3(tmp_path / "d"))
    assert is_release(write_casme3_c(tmp_path / "c"))
    assert is_release(tmp_path / "c/part_C")
    assert is_release(tmp_path / "c/part_C/part_C")
    for name in ("part_A", "notes", "cas(me)^2code_final.xlsx", "sub01"):
        (tmp_path / "other" / name).mkdir(parents=True)
    assert not is_release(tmp_path / "other")


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lost=st.sets(st.integers(100, 130), max_size=8), apex=st.integers(105, 125))
def test_whatever_frames_are_lost_the_nearest_stand_in(tmp_path: Path, lost: set[int], apex: int) -> None:
    root = tmp_path / "-".join(map(str, [apex, *sorted(lost)]))
    clip = ClipA(onset="105", apex=str(apex), offset="125")
    write_casme3(root, [clip])
    kept = [n for n in range(102, 129) if n not in lost]
    shutil.rmtree(root / "part_A/spNO.1/a/color")
    write_frames(root / "part_A/spNO.1/a/color", kept, "{}.jpg")
    row = rows(root)["spNO.1/a_105"]
    numbers = [int(Path(f).stem) for f in row.frame_files]
    first, last = (min(kept, key=lambda n: (abs(n - wanted), n)) for wanted in (105, 125))
    assert numbers == [n for n in kept if first <= n <= last]
    assert abs(numbers[row.apex_index] - apex) == min(abs(n - apex) for n in numbers)
    shutil.rmtree(root)
