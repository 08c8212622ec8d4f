"""The CASME II loader on a folder that mimics the release, and on folders that do not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from openpyxl import Workbook

from mesynth.core.errors import DatasetLayoutError, ManifestError
from mesynth.core.facs import AU_INDEX
from mesynth.datasets import registry
from mesynth.datasets.casme2 import CASME2, RENDERED_FILE, load_casme2
from mesynth.datasets.check import check
from mesynth.datasets.load import Correction, correct, load_release, read_corrections
from mesynth.store.manifest import Manifest
from mesynth.store.shards import read_frames
from tests.datasets.releases.casme2 import (
    CLIPS,
    HEADER,
    WORKBOOK,
    ReleaseClip,
    write_frames,
    write_label_ver_2,
    write_release,
    write_workbook,
)


def one(tmp_path: Path, **values: object):
    clip = ReleaseClip(**values)  # type: ignore[arg-type]
    return load_casme2(write_release(tmp_path, [clip])).row(0)


def test_a_plain_clip(tmp_path: Path) -> None:
    row = load_casme2(write_release(tmp_path)).row(0)
    assert (row.clip_id, row.subject, row.clip) == ("casme2/sub01/EP02_01f/46", "sub01", "EP02_01f")
    assert (row.onset, row.apex, row.offset, row.n_frames, row.apex_index) == (46, 50, 55, 10, 4)
    assert (row.fps, row.height, row.width) == (200.0, 24, 32)
    assert (row.emotion, row.label, row.objective_class, row.au_text) == ("disgust", "negative", "III", "4+7")
    assert row.warnings == ()
    assert row.provenance.kind == "real"
    assert row.provenance.licence == "CASME II licence agreement"
    assert row.provenance.subjects_seen == ("casme2/sub01",)


def test_action_units_are_present_but_their_intensity_is_not_known(tmp_path: Path) -> None:
    row = load_casme2(write_release(tmp_path)).row(0)
    present = np.array(row.au_present).reshape(-1, 2)
    known = np.array(row.au_known).reshape(-1, 2)
    assert present[AU_INDEX[4]].tolist() == [1, 1]
    assert present[AU_INDEX[12]].tolist() == [0, 0]
    assert not known[AU_INDEX[4]].any()
    assert known[AU_INDEX[12]].all()
    right = np.array(load_casme2(tmp_path).row(4).au_present).reshape(-1, 2)
    assert right[AU_INDEX[10]].tolist() == [0, 1]


def test_frames_are_in_numeric_order(tmp_path: Path) -> None:
    """img8, img9, img10: a lexical sort would begin with img10."""
    manifest = load_casme2(write_release(tmp_path))
    row = manifest.row(1)
    assert [Path(f).name for f in row.frame_files] == [f"img{n}.jpg" for n in range(8, 13)]
    assert read_frames(tmp_path, row).mean(axis=(1, 2, 3)).round().tolist() == [28, 29, 30, 31, 32]
    assert row.au_text == "12"


def test_the_releases_quirks(tmp_path: Path) -> None:
    rows = list(load_casme2(write_release(tmp_path)))
    no_apex, same = rows[2], rows[3]
    assert no_apex.apex is None
    assert no_apex.apex_index == 3
    assert "no apex annotated ('/')" in no_apex.warnings[0]
    assert set(no_apex.au_present) == {-1}
    assert no_apex.objective_class == ""
    assert (same.apex, same.apex_index) == (20, 0)
    assert "same frame" in same.warnings[0]
    assert (rows[4].emotion, rows[4].label) == ("others", "")


def test_an_annotated_frame_missing_on_disk_takes_the_nearest(tmp_path: Path) -> None:
    row = one(tmp_path, on_disk=[44, 45, 47, 48, 49, 52, 53, 55])
    assert [Path(f).stem for f in row.frame_files] == ["img45", "img47", "img48", "img49", "img52", "img53", "img55"]
    assert row.apex_index == 3
    assert row.warnings == (
        "onset frame 46 is not on disk; frame 45 taken",
        "4 of 10 annotated frames are not on disk",
        "apex frame 50 is not on disk; frame 49 taken",
    )
    assert (row.onset, row.apex) == (46, 50)  # as annotated


def test_subject_as_int_and_as_text(tmp_path: Path) -> None:
    root = write_release(tmp_path, [ReleaseClip()])
    write_workbook(root / WORKBOOK, [ReleaseClip(subject=1)])  # type: ignore[arg-type]
    assert load_casme2(root).row(0).subject == "sub01"


def test_cropped_frames(tmp_path: Path) -> None:
    root = write_release(tmp_path, frames="Cropped", pattern="reg_img{}.jpg")
    assert load_casme2(root).row(0).frame_files[0] == "Cropped/sub01/EP02_01f/reg_img46.jpg"
    with pytest.raises(DatasetLayoutError, match="CASME2_RAW_selected"):
        load_casme2(root, frames="raw")
    with pytest.raises(DatasetLayoutError, match="choose from auto, raw, cropped"):
        load_casme2(root, frames="rgb")


def test_raw_is_preferred_to_cropped(tmp_path: Path) -> None:
    write_release(tmp_path, frames="Cropped", pattern="reg_img{}.jpg")
    write_release(tmp_path)
    assert load_casme2(tmp_path).row(0).frame_files[0].startswith("CASME2_RAW_selected/")
    assert load_casme2(tmp_path, frames="cropped").row(0).frame_files[0].startswith("Cropped/")


def test_another_edition_with_other_column_names_and_a_preamble(tmp_path: Path) -> None:
    root = write_release(tmp_path, [ReleaseClip()], workbook="CASME2-coding-20190701.xlsx")
    header = ("Subject", "File Name", None, "onset", "APEX frame", "Offset", None, "AUs", "Emotion ")
    write_workbook(root / "CASME2-coding-20190701.xlsx", [ReleaseClip()], header, preamble=3)
    assert load_casme2(root).row(0).clip_id == "casme2/sub01/EP02_01f/46"


def test_the_old_xls_edition_has_the_same_clips(tmp_path: Path) -> None:
    """CASME2_label_Ver_2.xls: numbers as floats, no blank columns."""
    expected = list(load_casme2(write_release(tmp_path / "a")))
    root = write_release(tmp_path / "b")
    (root / WORKBOOK).unlink()
    write_label_ver_2(root / "CASME2_label_Ver_2.xls", CLIPS)
    assert list(load_casme2(root)) == expected
    assert load_release(CASME2, root).release.sources == ("CASME2_label_Ver_2.xls",)


def test_the_updated_edition_has_a_row_more_and_blank_apexes(tmp_path: Path) -> None:
    more = ReleaseClip(subject="24", name="EP02_07", onset=10, apex=None, offset=20, emotion="surprise", aus="1+2")
    root = write_release(tmp_path, [*CLIPS, more], workbook="CASME2-coding-updated.xlsx")
    loaded = load_release(CASME2, root)
    assert (len(loaded.manifest), loaded.problems) == (len(CLIPS) + 1, ())
    row = loaded.manifest.row(len(CLIPS))
    assert (row.apex, row.apex_index) == (None, 5)
    assert row.warnings == ("no apex annotated (''); the middle frame stands in",)


def test_an_offset_before_the_onset_is_told(tmp_path: Path) -> None:
    """A row of the updated edition has one; its true value differs between copies, so nothing is guessed."""
    root = write_release(tmp_path, [ReleaseClip(), ReleaseClip(name="EP05_09", on_disk=range(30, 92))])
    write_workbook(root / WORKBOOK, [ReleaseClip(), ReleaseClip(name="EP05_09", onset=38, apex=78, offset=19)])
    found = check(load_release(CASME2, root))
    assert [p.clip for p in found.problems] == ["sub01/EP05_09"]
    assert "onset '38' and offset '19'" in found.problems[0].reason


@pytest.mark.parametrize(
    ("names", "read"),
    [
        ((WORKBOOK, "CASME2-coding-updated.xlsx", "CASME2_label_Ver_2.xls"), WORKBOOK),
        (("CASME2-coding-20190701.xlsx", "CASME2-coding-updated.xlsx"), "CASME2-coding-updated.xlsx"),
        (("CASME2-coding-20190701.xlsx", "CASME2_label_Ver_2.xls"), "CASME2-coding-20190701.xlsx"),
        (("~$CASME2-coding-20140508.xlsx", "CASME2-coding-20190701.xlsx"), "CASME2-coding-20190701.xlsx"),
    ],
)
def test_which_edition_is_read_where_several_lie(tmp_path: Path, names: tuple[str, ...], read: str) -> None:
    root = write_release(tmp_path, [ReleaseClip()])
    (root / WORKBOOK).unlink()
    for name in names:
        if name.startswith("~$"):
            (root / name).write_bytes(b"lock")
        elif name.endswith(".xls"):
            write_label_ver_2(root / name, [ReleaseClip()])
        else:
            write_workbook(root / name, [ReleaseClip()])
    assert load_release(CASME2, root).release.sources == (read,)


@pytest.mark.parametrize("folder", ["CASME2-RAW", "CASME2_RAW_selected/CASME2_RAW_selected", "casme2_raw"])
def test_copies_unpacked_under_other_names(tmp_path: Path, folder: str) -> None:
    root = write_release(tmp_path, [ReleaseClip()], frames=folder)
    assert load_casme2(root).row(0).frame_files[0] == f"{folder}/sub01/EP02_01f/img46.jpg"


def test_the_updated_cropped_archive(tmp_path: Path) -> None:
    root = write_release(tmp_path, [ReleaseClip()], frames="Cropped-updated/Cropped", pattern="reg_img{}.jpg")
    assert load_casme2(root).row(0).frame_files[0] == "Cropped-updated/Cropped/sub01/EP02_01f/reg_img46.jpg"


def test_a_subject_that_is_no_number(tmp_path: Path) -> None:
    root = write_release(tmp_path, [ReleaseClip()])
    write_workbook(root / WORKBOOK, [ReleaseClip(), ReleaseClip(subject="x1")])
    expect(root, "subject 'x1'", "expected for example 01", "--skip-bad")


def test_counts_beside_the_published_ones(tmp_path: Path) -> None:
    found = check(load_release(CASME2, write_release(tmp_path)))
    assert (found.annotated, found.usable, found.subjects, found.complete) == (5, 5, 4, False)
    assert found.published.clips == sum(found.published.emotions.values()) == 255
    assert sum(found.published.objective.values()) == 255
    assert found.warnings == {"no apex annotated ('/')": 1, "onset and apex are the same frame": 1}


def test_the_files_own_objective_class_wins(tmp_path: Path) -> None:
    root = write_release(tmp_path, [ReleaseClip(), CLIPS[1]])
    book = Workbook()
    assert book.active is not None
    book.active.append(["Subject", "Filename", "Objective Class"])
    book.active.append([1, "EP02_01f", 7])
    book.save(root / "CASME2-ObjectiveClasses.xlsx")
    assert [row.objective_class for row in load_casme2(root)] == ["VII", "I"]


# ---------------------------------------------------------------- what users get wrong


def expect(root: Path, *words: str) -> None:
    with pytest.raises(DatasetLayoutError) as error:
        load_casme2(root)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_wrong_root_says_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "SAMM").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    expect(tmp_path, "CASME2_RAW_selected", "SAMM/", "notes.txt")


def test_missing_root(tmp_path: Path) -> None:
    expect(tmp_path / "nowhere", "does not exist")


def test_no_workbook(tmp_path: Path) -> None:
    root = write_release(tmp_path)
    (root / WORKBOOK).unlink()
    expect(root, WORKBOOK, "CASME2_RAW_selected/")


def test_a_column_is_missing(tmp_path: Path) -> None:
    root = write_release(tmp_path)
    header = [None if h == "OffsetFrame" else h for h in HEADER]
    write_workbook(root / WORKBOOK, CLIPS, header)
    expect(root, "'offset'", "OffsetFrame", "ApexFrame, Action Units")


def test_damaged_and_empty_workbooks(tmp_path: Path) -> None:
    root = write_release(tmp_path)
    (root / WORKBOOK).write_bytes(b"PK not a zip")
    expect(root, "cannot be read")
    write_workbook(root / WORKBOOK, [])
    expect(root, "no rows")


def test_a_damaged_old_xls(tmp_path: Path) -> None:
    root = write_release(tmp_path)
    (root / WORKBOOK).unlink()
    (root / "CASME2_label_Ver_2.xls").write_bytes(b"no workbook")
    expect(root, "CASME2_label_Ver_2.xls", "cannot be read")


def test_a_clip_folder_is_missing_or_empty(tmp_path: Path) -> None:
    root = write_release(tmp_path, [ReleaseClip()])
    write_workbook(root / WORKBOOK, [ReleaseClip(), ReleaseClip(name="EP99_01")])
    expect(root, "EP99_01", "is missing", "EP02_01f/")
    (root / "CASME2_RAW_selected/sub01/EP99_01").mkdir()
    expect(root, "EP99_01", "it is empty")


def test_two_files_for_one_frame(tmp_path: Path) -> None:
    root = write_release(tmp_path, [ReleaseClip()])
    write_frames(root / "CASME2_RAW_selected/sub01/EP02_01f", [50], "img0{}.png")
    expect(root, "two files for frame 50")


@pytest.mark.parametrize("values", [{"onset": "x"}, {"onset": 60}, {"offset": None}])
def test_unusable_frame_numbers(tmp_path: Path, values: dict[str, object]) -> None:
    root = write_release(tmp_path, [ReleaseClip()])
    write_workbook(root / WORKBOOK, [ReleaseClip(**values)])  # type: ignore[arg-type]
    expect(root, "EP02_01f", "onset", "offset")


def test_frames_outside_the_annotation(tmp_path: Path) -> None:
    expect(write_release(tmp_path, [ReleaseClip(on_disk=[1, 2, 3])]), "frames 1 to 3")


def test_truncated_onset(tmp_path: Path) -> None:
    root = write_release(tmp_path, [ReleaseClip()])
    (root / "CASME2_RAW_selected/sub01/EP02_01f/img46.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(DatasetLayoutError, match=r"img46\.jpg.*--check.*--skip-bad"):
        load_casme2(root)


def test_damaged_rendered_record(tmp_path: Path) -> None:
    root = write_release(tmp_path, [ReleaseClip()])
    (root / RENDERED_FILE).write_text(json.dumps({"kind": "rendered"}))
    expect(root, RENDERED_FILE, "render the folder again")


# ---------------------------------------------------------------- corrections and registry


def test_corrections_apply_only_where_the_old_value_matches(tmp_path: Path) -> None:
    root = write_release(tmp_path, [ReleaseClip()])
    fix = Correction("casme2", "sub01/EP02_01f", "apex", "50", "52", "seen on the video")
    row = load_casme2(root, corrections=[fix]).row(0)
    assert (row.apex, row.apex_index) == (52, 6)
    assert row.warnings == ("apex corrected from 50 to 52: seen on the video",)
    for other in (
        Correction("casme2", "sub01/EP02_01f", "apex", "49", "52", "another edition"),
        Correction("casme2", "sub02/EP02_01f", "apex", "50", "52", "another subject"),
        Correction("casme", "sub01/EP02_01f", "apex", "50", "52", "another database"),
    ):
        assert load_casme2(root, corrections=[other]).row(0).apex == 50


def test_correct_leaves_its_input_alone() -> None:
    row: dict[str, object] = {"apex": 50.0}
    fixed, _ = correct(row, "d", "s/c", [Correction("d", "s/c", "apex", "50", "51", "r")])
    assert (row["apex"], fixed["apex"]) == (50.0, "51")


def test_shipped_corrections_can_be_read(tmp_path: Path) -> None:
    assert isinstance(read_corrections(), tuple)
    (tmp_path / "c.csv").write_text("database,clip\n")
    with pytest.raises(DatasetLayoutError, match="expected database, clip, column"):
        read_corrections(tmp_path / "c.csv")


def test_registry(tmp_path: Path) -> None:
    root = write_release(tmp_path / "release", [ReleaseClip()])
    manifest = registry.load("casme2", root)
    manifest.write(tmp_path / "corpus")
    assert registry.load("corpus", tmp_path / "corpus").hash() == manifest.hash()
    with pytest.raises(DatasetLayoutError, match=r"'casme9' is unknown; choose from casme, .*, generic, corpus"):
        registry.load("casme9", root)
    with pytest.raises(ManifestError):
        registry.load("corpus", root)


def test_a_manifest_survives_the_disk(tmp_path: Path) -> None:
    manifest = load_casme2(write_release(tmp_path / "release"))
    manifest.write(tmp_path / "m")
    assert list(Manifest.read(tmp_path / "m")) == list(manifest)
