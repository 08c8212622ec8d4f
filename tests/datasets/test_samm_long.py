"""The SAMM Long Videos loader on a folder that mimics the release."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from mesynth.cli import main
from mesynth.core.errors import DatasetLayoutError
from mesynth.datasets.check import check
from mesynth.datasets.load import load_release, usable
from mesynth.datasets.registry import find_roots, load, require_database
from mesynth.datasets.samm_long import SAMM_LONG, is_release
from mesynth.store.long_videos import LongVideos, pictures_in
from tests.datasets.releases.samm import SammClip, write_samm
from tests.datasets.releases.samm_long import CLIPS, HEADER, SHEET, VIDEOS, WORKBOOK, LongClip, write_samm_long


def rows(root: Path, **options: str):
    return list(usable(load_release(SAMM_LONG, root, **options)))


def one(root: Path, **values: object):
    return rows(write_samm_long(root, [LongClip(**values)]))[0]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "written",
    [
        {},
        {"preamble": False},
        {"folder": ""},
        {"folder": "SAMM_longvideos/SAMM_longvideos"},
        {"folder": "samm_LongVideos"},
        {"sheet": "Sheet1"},
        {"workbook": "SAMM_LongVideos_V1_Release.xlsx"},
        {"header": ((*HEADER[:3], "Onset\n", "Apex Frame", " Offset", *HEADER[6:]),)},
        # a header of two lines: the second is a row of text
        {
            "header": (
                (*HEADER[:2], "Inducement", *HEADER[3:8], "Action", "Notes"),
                (None, None, "Code", *(None,) * 5, "Units"),
            )
        },
    ],
    ids=["plain", "no preamble", "beside", "nested", "case", "sheet", "V1", "names", "two lines"],
)  # fmt: skip
def test_a_plain_clip(tmp_path: Path, written: dict[str, object]) -> None:
    root = write_samm_long(tmp_path, **written)  # type: ignore[arg-type]
    row = rows(root)[0]
    assert (row.clip_id, row.subject_key, row.database) == ("samm/006/006_1_2/10", "samm/006", "samm")
    assert (row.onset, row.apex, row.offset, row.n_frames, row.apex_index) == (10, 14, 20, 11, 4)
    assert (row.fps, row.expression, row.emotion, row.objective_class) == (200.0, "micro", "", "III")
    assert (row.au_text, row.warnings) == ("4+7", ())
    assert Path(row.frame_files[0]).parts[-2:] == ("006_1", "006_1_0010.jpg")


def test_parts_and_what_is_neither(tmp_path: Path) -> None:
    root = write_samm_long(tmp_path)
    found = {part: [r.expression for r in rows(root, part=part)] for part in ("all", "micro", "macro")}
    assert found == {"all": ["micro", "macro", "micro", "macro"], "micro": ["micro"] * 2, "macro": ["macro"] * 2}
    loaded = load_release(SAMM_LONG, root)
    assert loaded.release.notes == ("1 rows are of type Other, neither micro nor macro, and were left out",)
    assert loaded.unannotated == ("SAMM_longvideos/036_7",)
    # videos of the other kind are left out on purpose, not without annotation
    assert load_release(SAMM_LONG, root, part="micro").unannotated == ("SAMM_longvideos/036_7",)


def test_numbers_that_name_no_frame(tmp_path: Path) -> None:
    """Apexes of -1 and 0, an offset after the last frame, onsets and offsets that were not seen."""
    found = rows(write_samm_long(tmp_path))
    assert (found[2].apex, found[2].apex_index) == (None, 3)
    assert found[2].warnings[:1] == ("no apex annotated ('-1'); the middle frame stands in",)
    late = found[3]
    assert (late.offset, Path(late.frame_files[-1]).name, late.n_frames) == (34, "007_6_0030.jpg", 29)
    assert "offset frame 34 is not on disk; frame 30 taken" in late.warnings
    assert load_release(SAMM_LONG, tmp_path).missing_frames == {"samm/007/007_6_1": 4}


@pytest.mark.parametrize(
    ("values", "span", "says"),
    [
        ({"apex": 0}, (10, 20), "apex 0 lies outside onset 10 and offset 20"),
        ({"apex": "-1"}, (10, 20), "no apex annotated ('-1')"),
        ({"apex": None}, (10, 20), "no apex annotated ('')"),
        ({"onset": 0}, (14, 20), "onset 0 means that none was seen; the clip begins at the apex"),
        ({"onset": -1.0}, (14, 20), "onset -1 means that none was seen"),
        ({"offset": 0.0}, (10, 14), "offset 0 means that none was seen; the clip ends at the apex"),
        ({"offset": "-1"}, (10, 14), "offset -1 means that none was seen"),
        ({"offset": 7, "duration": 11}, (10, 20), "offset 7 lies before onset 10; 20 taken, by duration 11"),
        ({"subject": "006"}, (10, 20), ""),
        ({"subject": 6.0, "name": "6_1_2"}, (10, 20), ""),
        ({"onset": "10", "apex": "14", "offset": "20"}, (10, 20), ""),
    ],
)
def test_cells_in_every_form(tmp_path: Path, values: dict[str, object], span: tuple[int, int], says: str) -> None:
    row = one(tmp_path, **values)
    assert (row.onset, row.offset) == span
    assert (row.subject, row.clip) == ("006", "006_1_2")
    assert any(says in warning for warning in row.warnings) if says else row.warnings == ()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"subject": "abc"}, "expected for example 006 and 006_1_2"),
        ({"name": "006-1-2"}, "expected for example 006 and 006_1_2"),
        ({"name": "006_1"}, "expected for example 006 and 006_1_2"),
        ({"subject": 7}, "clip 006_1_2 in .* is listed under subject 007"),
        ({"kind": "Mcro"}, "is of type 'Mcro'; expected Micro - 1/2, Macro or Other"),
        ({"kind": None}, "is of type ''"),
        ({"onset": None}, "onset '' and offset '20'; both must be frame numbers"),
        ({"onset": 0, "apex": 0}, r"onset '0 \(not seen\)' and offset '20'"),
        ({"offset": -1, "apex": -1.0}, r"onset '10' and offset '-1 \(not seen\)'"),
        ({"offset": "?"}, r"offset '\?'"),
        ({"offset": 7}, "onset '10' and offset '7'"),
        ({"onset": 100, "apex": 110, "offset": 120}, "holds frames 1 to 60"),
        ({"name": "006_2_2"}, "clip folder .*006_2 is missing"),
        ({"onset": 1, "offset": 2400, "apex": 5}, "lasts 11.99 s"),
    ],
)
def test_a_row_that_cannot_be_used_is_told_in_a_line(tmp_path: Path, values: dict[str, object], says: str) -> None:
    bad = LongClip(**values)  # type: ignore[arg-type]
    good = LongClip(name="006_1_9", onset=1, apex=3, offset=9)
    loaded = load_release(SAMM_LONG, write_samm_long(tmp_path, [good, bad]))
    assert len(loaded.manifest) == 1
    with pytest.raises(DatasetLayoutError, match=says) as error:
        usable(loaded)
    assert "\n" not in str(error.value)


def test_a_row_twice_and_two_movements_of_one_name(tmp_path: Path) -> None:
    twice = load_release(SAMM_LONG, write_samm_long(tmp_path / "a", [LongClip(), LongClip()]))
    assert [p.reason for p in twice.problems] == [
        "clip 006/006_1_2, onset 10, is annotated twice; remove one of the rows"
    ]
    assert len(twice.manifest) == 1
    again = rows(write_samm_long(tmp_path / "b", [LongClip(), LongClip(onset=30.0, apex=33.0, offset=40.0)]))
    assert [row.clip_id for row in again] == ["samm/006/006_1_2/10", "samm/006/006_1_2/30"]


def test_emotions_come_from_the_workbook_of_samm_where_it_lies_here_too(tmp_path: Path) -> None:
    root = write_samm_long(tmp_path)
    assert Counter(row.emotion for row in rows(root)) == {"": 4}
    write_samm(root, [SammClip(name="006_1_2", emotion="Anger", objective=7), SammClip(name="006_1_1")])
    found = {row.clip: (row.emotion, row.objective_class) for row in rows(root)}
    assert found["006_1_2"] == ("anger", "VII")
    assert found["006_1_1"][0] == ""  # a macro-movement has its own name and no emotion
    assert any("SAMM_Micro_FACS_Codes_v2.xlsx" in note for note in load_release(SAMM_LONG, root).release.notes)
    assert {row.subject_key for row in load("samm", root)} == {"samm/006"}  # one person under both names


def test_counts(tmp_path: Path) -> None:
    found = check(load_release(SAMM_LONG, write_samm_long(tmp_path)))
    assert (found.annotated, found.usable, found.subjects, found.problems) == (4, 4, 2, ())
    assert not found.complete
    published = {part: check(load_release(SAMM_LONG, tmp_path, part=part)).published.clips for part in SAMM_LONG.parts}
    assert published == {"all": 502, "micro": 159, "macro": 343}


def test_intervals_count_from_0_in_the_video(tmp_path: Path) -> None:
    root = write_samm_long(tmp_path / "release")
    words = ["prepare", "samm_long", "--root", str(root), "--long-videos", "--out", str(tmp_path / "list")]
    ran = CliRunner().invoke(main, words)
    assert ran.exit_code == 0, ran.output
    listed = LongVideos.read(tmp_path / "list")
    assert {v.key: v.frames for v in listed.videos} == {
        ("samm", "006", "006_1"): 60, ("samm", "006", "006_5"): 40, ("samm", "007", "007_6"): 30,
    }  # fmt: skip
    assert {(m.video, m.onset, m.apex, m.offset, m.expression) for m in listed.intervals} == {
        ("006_1", 9, 13, 19, "micro"), ("006_1", 29, 40, 57, "macro"), ("006_5", 4, None, 11, "micro"),
        ("007_6", 1, 8, 29, "macro"),
    }  # fmt: skip
    video = next(v for v in listed.videos if v.video == "006_5")
    assert pictures_in(listed.place(video))[4] == "006_5_00005.jpg"
    assert {v.fps for v in listed.videos} == {200.0}


def test_where_it_is_looked_for_and_how_it_is_told(tmp_path: Path) -> None:
    root = write_samm_long(tmp_path / "long")
    assert is_release(root)
    assert not is_release(write_samm(tmp_path / "samm", [SammClip()]))
    assert [(found.name, found.path) for found in find_roots(root / "SAMM_longvideos")] == [("samm_long", root)]
    with pytest.raises(DatasetLayoutError, match="this is SAMM Long Videos: use `mesynth prepare samm_long"):
        load("samm", root)
    with pytest.raises(DatasetLayoutError, match="did you mean samm_long"):
        require_database("SAMM Long Videos")
    (root / WORKBOOK).rename(root / "codes.xlsx")
    with pytest.raises(DatasetLayoutError, match=r"SAMM_LongVideos_V3_Release\.xlsx.*--annotation"):
        load("samm_long", root)
    assert len(load("samm_long", root, annotation=root / "codes.xlsx")) == 4
    with pytest.raises(DatasetLayoutError, match="no folder cropped_SAMM_longvideos"):
        load("samm_long", root, frames="cropped", annotation=root / "codes.xlsx")
    header = [name for name in HEADER if name != "Type"]
    write_samm_long(tmp_path / "c", header=(header,))
    with pytest.raises(DatasetLayoutError, match="lacks the column 'kind'"):
        load("samm_long", tmp_path / "c")


def test_the_newest_version_is_read(tmp_path: Path) -> None:
    root = write_samm_long(tmp_path, workbook="SAMM_LongVideos_V1_Release.xlsx", clips=CLIPS[:1])
    write_samm_long(root, workbook="SAMM_LongVideos_V2_Release.xlsx", clips=CLIPS, sheet=SHEET, videos=dict(VIDEOS))
    assert len(rows(root)) == 4
    assert np.unique([row.subject for row in rows(root)]).tolist() == ["006", "007"]
