"""The CAS(ME)^2 loader on folders that mimic the release, and on folders that do not."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesynth.core.errors import DatasetLayoutError
from mesynth.core.facs import AU_INDEX
from mesynth.datasets.casme_sq import CASME_SQ, is_release
from mesynth.datasets.check import check
from mesynth.datasets.load import Correction, load_release, usable
from mesynth.store.manifest import Manifest, Row
from mesynth.store.shards import read_frames
from tests.datasets.releases.casme_sq import CLIPS, WORKBOOK, SqClip, write_casme_sq, write_workbook


def rows(root: Path, part: str = "", frames: str = "") -> dict[str, Row]:
    manifest = usable(load_release(CASME_SQ, root, part=part, frames=frames, corrections=()))
    return {f"{row.subject}/{row.clip}": row for row in manifest}


def test_a_plain_clip(tmp_path: Path) -> None:
    row = rows(write_casme_sq(tmp_path))["s15/anger1_1"]
    assert row.clip_id == "casme_sq/s15/anger1_1/557"
    assert (row.onset, row.apex, row.offset, row.n_frames, row.apex_index) == (557, 572, 580, 24, 15)
    assert row.frame_files[0] == "rawpic/s15/15_0401girlcrashing/img557.jpg"
    assert (row.fps, row.height, row.width) == (30.0, 24, 32)
    assert (row.emotion, row.label, row.au_text, row.objective_class) == ("negative", "negative", "4+7", "III")
    assert (row.expression, row.warnings) == ("micro", ())
    assert row.provenance.licence == "CAS(ME)^2 licence agreement"
    assert row.provenance.subjects_seen == ("casme_sq/s15",)


def test_the_pictures_are_those_annotated(tmp_path: Path) -> None:
    row = rows(write_casme_sq(tmp_path))["s19/disgust1_10"]
    assert Path(row.frame_files[0]).name == "img001.jpg"  # three digits on disk, 1 in the workbook
    assert read_frames(tmp_path, row).mean(axis=(1, 2, 3)).round().tolist() == [20 + n for n in range(1, 10)]


def test_parts_share_people_and_do_not_share_clips(tmp_path: Path) -> None:
    root = write_casme_sq(tmp_path)
    micro, macro, both = (rows(root, part) for part in ("micro", "macro", "all"))
    assert list(macro) == ["s15/disgust1_1"]
    assert macro["s15/disgust1_1"].expression == "macro"
    assert {**micro, **macro} == both
    joined = Manifest.join(
        [load_release(CASME_SQ, root, part=part, corrections=()).manifest for part in ("micro", "macro")], root
    )
    assert set(joined.subject_keys()) == {"casme_sq/s15", "casme_sq/s16", "casme_sq/s19", "casme_sq/s23"}


def test_offset_zero_ends_the_clip_at_the_apex(tmp_path: Path) -> None:
    row = rows(write_casme_sq(tmp_path))["s15/anger1_2"]
    assert (row.onset, row.apex, row.offset, row.apex_index, row.n_frames) == (600, 606, 606, 6, 7)
    assert row.warnings == ("offset 0 means that none was seen; the clip ends at the apex",)
    assert row.au_text == "4"


def test_emotions_are_the_four_words_not_the_self_report(tmp_path: Path) -> None:
    found = rows(write_casme_sq(tmp_path))
    assert [row.emotion for row in found.values()] == ["negative", "negative", "positive", "others", "surprise"]
    assert [row.label for row in found.values()] == ["negative", "negative", "positive", "", "surprise"]
    assert set(found["s16/happy1_1"].au_present) == {-1}  # the cell is empty
    assert found["s19/disgust1_10"].au_present[2 * AU_INDEX[14] : 2 * AU_INDEX[14] + 2] == (0, 1)


def test_a_video_that_lies_with_another_person_is_known_by_its_name(tmp_path: Path) -> None:
    row = rows(write_casme_sq(tmp_path))["s23/happy1_1"]
    assert row.frame_files[0].startswith("rawpic/s19/23_0502funnyerrors/")
    assert row.warnings == ("the frames of s23 lie in the folder s19",)


def test_another_persons_video_is_never_taken(tmp_path: Path) -> None:
    root = write_casme_sq(tmp_path, [CLIPS[-1], SqClip(person=3, name="happy1_2", onset=21, apex=23, offset=25)])
    shutil.rmtree(root / "rawpic/s19/19_0502funnyerrors")
    loaded = load_release(CASME_SQ, root, corrections=())
    assert [problem.clip for problem in loaded.problems] == ["s19/happy1_2"]
    assert "19_0502 is missing" in loaded.problems[0].reason


@pytest.mark.parametrize(
    ("frames", "first"),
    [
        ("selected", "selectedpic/selectedpic/s15/anger1_1/img557.jpg"),
        ("cropped", "cropped/15/anger1_1/img557.jpg"),
        ("raw", "rawpic/s15/15_0401girlcrashing/img557.jpg"),
        ("auto", "rawpic/s15/15_0401girlcrashing/img557.jpg"),
    ],
)
def test_renderings(tmp_path: Path, frames: str, first: str) -> None:
    root = write_casme_sq(tmp_path, renderings=("raw", "selected", "cropped"))
    found = rows(root, frames=frames)
    assert found["s15/anger1_1"].frame_files[0] == first
    assert len(found) == 5


def test_auto_takes_what_is_there(tmp_path: Path) -> None:
    root = write_casme_sq(tmp_path, renderings=("cropped",))
    assert rows(root)["s15/anger1_1"].frame_files[0].startswith("cropped/")
    with pytest.raises(DatasetLayoutError, match=r"no folder rawpic in .*cropped/"):
        load_release(CASME_SQ, root, frames="raw")
    with pytest.raises(DatasetLayoutError, match="choose from auto, raw, selected, cropped"):
        load_release(CASME_SQ, root, frames="video")
    with pytest.raises(DatasetLayoutError, match="choose from micro, macro, all"):
        load_release(CASME_SQ, root, part="long")


# ---------------------------------------------------------------- the workbook


@pytest.mark.parametrize(
    "options",
    [
        {"sheet": "CASMEcode_final"},
        {"blank_column": True},
        {"naming": False},
        {"rows_before": [("Subject", "clip", "onset", "apex", "offset", "AUs", "emotion", "type", "self report")]},
        {"rows_after": [(None,) * 9, ("checked by two coders", *(None,) * 8)]},
    ],
    ids=["other sheet name", "blank column", "no naming sheets", "header added", "text rows"],
)
def test_editions_of_the_workbook_read_alike(tmp_path: Path, options: dict) -> None:
    root = write_casme_sq(tmp_path)
    usual = rows(root, "all")
    write_workbook(root / WORKBOOK, CLIPS, **options)
    assert rows(root, "all") == usual
    notes = load_release(CASME_SQ, root, corrections=()).release.notes
    assert bool(notes) == bool({"naming", "rows_before", "rows_after"} & set(options))


def test_the_updated_edition_is_preferred(tmp_path: Path) -> None:
    root = write_casme_sq(tmp_path)
    write_workbook(root / "CAS(ME)^2code_final(Updated).xlsx", [replace(CLIPS[0], apex=573), *CLIPS[1:]])
    assert rows(root)["s15/anger1_1"].apex == 573
    assert load_release(CASME_SQ, root).release.sources == ("CAS(ME)^2code_final(Updated).xlsx",)


def test_strings_for_numbers(tmp_path: Path) -> None:
    root = write_casme_sq(tmp_path)
    usual = rows(root)
    as_text = [replace(c, person=str(c.person), onset=f"{c.onset} ", apex=str(c.apex)) for c in CLIPS]
    write_workbook(root / WORKBOOK, as_text)
    assert rows(root) == usual


@pytest.mark.parametrize(
    ("clip", "words"),
    [
        (SqClip(person=99), ("subject '99'", "anger1_1", "naming rule1", "repair")),
        (SqClip(name="sad7_1"), ("clip 'sad7_1'", "s15", "naming rule2", "repair")),
        (SqClip(type="micro"), ("s15/anger1_1", "'micro'", "micro-expression or macro-expression")),
        (SqClip(onset="x"), ("s15/anger1_1", "onset 'x'", "frame numbers")),
        (SqClip(onset=590), ("s15/anger1_1", "onset '590'", "offset '580'")),
    ],
)
def test_a_line_that_cannot_be_understood_is_one_problem(tmp_path: Path, clip: SqClip, words: tuple[str, ...]) -> None:
    root = write_casme_sq(tmp_path)
    write_workbook(root / WORKBOOK, [*CLIPS, clip])
    loaded = load_release(CASME_SQ, root, corrections=())
    assert len(loaded.manifest) == 5
    (problem,) = loaded.problems
    assert "\n" not in problem.reason
    assert all(word in problem.reason for word in words), problem.reason
    assert loaded.unannotated == ()
    with pytest.raises(DatasetLayoutError, match="--skip-bad"):
        usable(loaded)
    assert len(usable(loaded, skip_bad=True)) == 5


def test_apex_outside_the_clip_and_missing_frames(tmp_path: Path) -> None:
    root = write_casme_sq(tmp_path, [SqClip(apex=590), SqClip(name="anger1_3", onset=700, apex=703, offset=710)])
    (root / "rawpic/s15/15_0401girlcrashing/img702.jpg").unlink()
    (root / "rawpic/s15/15_0401girlcrashing/img703.jpg").unlink()
    loaded = load_release(CASME_SQ, root, corrections=())
    outside, gap = loaded.manifest
    assert outside.apex is None
    assert outside.apex_index == 11
    assert "apex 590 lies outside" in outside.warnings[0]
    assert gap.warnings == (
        "2 of 11 annotated frames are not on disk",
        "apex frame 703 is not on disk; frame 704 taken",
    )
    assert loaded.missing_frames == {"s15/anger1_3": 2}


def test_corrections_apply_where_the_old_value_stands(tmp_path: Path) -> None:
    root = write_casme_sq(tmp_path)
    fix = Correction("casme_sq", "s15/anger1_1", "apex", "572", "570", "seen on the video")
    loaded = load_release(CASME_SQ, root, corrections=[fix])
    assert loaded.manifest.row(0).apex == 570
    assert len(loaded.corrected) == 1
    write_workbook(root / WORKBOOK, [replace(CLIPS[0], apex=571), *CLIPS[1:]])
    assert load_release(CASME_SQ, root, corrections=[fix]).manifest.row(0).apex == 571


# ---------------------------------------------------------------- counts, roots, bad folders


def test_counts(tmp_path: Path) -> None:
    root = write_casme_sq(tmp_path)
    found = check(load_release(CASME_SQ, root, corrections=()))
    assert (found.annotated, found.usable, found.subjects, found.published.clips) == (5, 5, 4, 57)
    assert found.emotions == {"negative": 2, "positive": 1, "others": 1, "surprise": 1}
    assert found.classes["4"] == {"negative": 2, "positive": 1, "surprise": 1, "others": 1}
    assert found.unannotated == ()  # the video of the macro-expression is annotated, if not of this part
    assert not found.complete
    assert check(load_release(CASME_SQ, root, part="all", corrections=())).annotated == 6


def test_a_video_without_expressions_is_told(tmp_path: Path) -> None:
    root = write_casme_sq(tmp_path)
    shutil.copytree(root / "rawpic/s15/15_0401girlcrashing", root / "rawpic/s15/15_0508funnydunkey")
    assert load_release(CASME_SQ, root, corrections=()).unannotated == ("rawpic/s15/15_0508funnydunkey",)


def test_is_release(tmp_path: Path) -> None:
    root = write_casme_sq(tmp_path / "sq")
    assert is_release(root)
    (root / WORKBOOK).unlink()
    assert not is_release(root)
    (root / "cropped").mkdir()
    assert is_release(root)
    for other in ("CASME2-coding-20140508.xlsx", "cas(me)3_part_A_ME_label_JpgIndex_v2.xlsx", "decode_final.txt"):
        (tmp_path / "o" / other).mkdir(parents=True)
    assert not is_release(tmp_path / "o")


def test_wrong_folders(tmp_path: Path) -> None:
    def expect(root: Path, *words: str) -> None:
        with pytest.raises(DatasetLayoutError) as error:
            load_release(CASME_SQ, root)
        assert "\n" not in str(error.value)
        assert all(word in str(error.value) for word in words), str(error.value)

    expect(tmp_path / "nowhere", "does not exist")
    (tmp_path / "SAMM").mkdir()
    expect(tmp_path, WORKBOOK, "SAMM/")
    write_workbook(tmp_path / WORKBOOK, [])
    expect(tmp_path, "anger1_1", "coding file of CAS(ME)^2")
    write_workbook(tmp_path / WORKBOOK, CLIPS)
    expect(tmp_path, "no folder rawpic", "SAMM/")
    (tmp_path / WORKBOOK).write_bytes(b"no zip")
    expect(tmp_path, "cannot be read")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(onset=st.integers(1, 4000), rise=st.integers(1, 8), fall=st.integers(0, 8), unseen=st.booleans())
def test_frame_numbers_survive(tmp_path: Path, onset: int, rise: int, fall: int, unseen: bool) -> None:
    """Whatever the numbers: first, apex and last frame are those annotated, in order."""
    root = tmp_path / f"{onset}-{rise}-{fall}-{unseen}"
    apex, offset = onset + rise, onset + rise + fall
    row = rows(write_casme_sq(root, [SqClip(onset=onset, apex=apex, offset=0 if unseen else offset)]))["s15/anger1_1"]
    assert row.frame_files[0].endswith(f"img{onset:03d}.jpg")
    assert row.frame_files[row.apex_index].endswith(f"img{apex:03d}.jpg")
    assert row.frame_files[-1].endswith(f"img{apex if unseen else offset:03d}.jpg")
    shutil.rmtree(root)
