"""The SAMM loader on a folder that mimics the release."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mesynth.core.errors import DatasetLayoutError
from mesynth.core.facs import AU_INDEX
from mesynth.datasets.check import check
from mesynth.datasets.load import load_release, usable
from mesynth.datasets.samm import SAMM, is_release
from tests.datasets.releases.common import write_book, write_frames
from tests.datasets.releases.samm import CLIPS, HEADER, WORKBOOK, SammClip, row_of, write_samm


def rows(root: Path, **options: str):
    return list(usable(load_release(SAMM, root, **options)))


def one(root: Path, **values: object):
    return rows(write_samm(root, [SammClip(**values)]))[0]  # type: ignore[arg-type]


@pytest.mark.parametrize("preamble", [True, False])
def test_a_plain_clip(tmp_path: Path, preamble: bool) -> None:
    row = rows(write_samm(tmp_path, preamble=preamble))[0]
    assert (row.clip_id, row.subject_key) == ("samm/006/006_1_2/5310", "samm/006")
    assert (row.onset, row.apex, row.offset, row.n_frames, row.apex_index) == (5310, 5313, 5318, 9, 3)
    assert (row.fps, row.emotion, row.label, row.objective_class) == (200.0, "anger", "negative", "III")
    assert row.warnings == ()
    assert row.frame_files[0] == "SAMM/006/006_1_2/006_05310.jpg"


def test_four_digits_in_numeric_order(tmp_path: Path) -> None:
    row = rows(write_samm(tmp_path))[1]
    assert [Path(f).stem for f in row.frame_files] == [f"006_{n:04d}" for n in range(98, 105)]
    assert (row.au_text, row.label, row.objective_class) == ("12", "positive", "I")


def test_only_the_sheet_of_micro_movements_is_read(tmp_path: Path) -> None:
    loaded = load_release(SAMM, write_samm(tmp_path))
    assert len(loaded.release.lines) == len(CLIPS)
    assert all("006_9_9" not in line.clip for line in loaded.release.lines)
    # copies with one sheet of another name hold the same table
    assert len(rows(write_samm(tmp_path / "b", [SammClip()], sheet="Sheet1", workbook="SAMM_FACS.xlsx"))) == 1


def test_a_macro_movement_is_told_apart(tmp_path: Path) -> None:
    found = rows(write_samm(tmp_path, [SammClip(), SammClip(name="006_1_3", kind="Macro")]))
    assert [row.expression for row in found] == ["micro", "macro"]


def test_the_grammar_of_action_units_reaches_the_row(tmp_path: Path) -> None:
    found = {row.clip: row for row in rows(write_samm(tmp_path))}
    present = {name: np.array(row.au_present).reshape(-1, 2) for name, row in found.items()}
    assert present["007_6_5"][AU_INDEX[15]].tolist() == [0, 1]
    assert present["007_6_5"][AU_INDEX[6]].tolist() == [0, -1]
    assert present["026_2_2"][AU_INDEX[6]].tolist() == [-1, -1]
    assert found["026_2_2"].aus.intensity[AU_INDEX[43]].tolist() == [1.0, 1.0]
    assert found["026_2_2"].aus.intensity[AU_INDEX[7]].tolist() == [0.5, 0.5]
    assert present["011_6_1"][AU_INDEX[10]].tolist() == [1, 1]
    assert not found["011_6_1"].aus.mask[AU_INDEX[10]].any()  # A or B: present, intensity open
    assert present["026_5_1"][AU_INDEX[14]].tolist() == [0, 1]
    assert present["028_4_1"][AU_INDEX[14]].tolist() == [1, 1]  # asymmetric: both sides, which is stronger is open
    assert not found["028_4_1"].aus.mask[AU_INDEX[14]].any()


def test_the_files_objective_class_wins_over_the_action_units(tmp_path: Path) -> None:
    found = {row.clip: row.objective_class for row in rows(write_samm(tmp_path))}
    assert (found["007_6_5"], found["011_6_1"], found["025_4_1"]) == ("VII", "IV", "VII")
    assert one(tmp_path / "b", objective=None).objective_class == "III"
    assert one(tmp_path / "c", objective=7).objective_class == "VII"


def test_an_apex_after_the_offset_gives_way_to_the_middle(tmp_path: Path) -> None:
    row = next(row for row in rows(write_samm(tmp_path)) if row.clip == "028_4_1")
    assert (row.apex, row.apex_index, row.n_frames) == (None, 4, 10)
    assert row.warnings == ("apex 1290 lies outside onset 1201 and offset 1210; the middle frame stands in",)


def test_the_duration_mends_an_impossible_offset(tmp_path: Path) -> None:
    row = next(row for row in rows(write_samm(tmp_path)) if row.clip == "013_1_9")
    assert (row.onset, row.offset, row.n_frames) == (5401, 5408, 8)
    assert row.warnings == ("offset 573 contradicts onset 5401 and duration 8; 5408 taken",)


@pytest.mark.parametrize(("offset", "taken"), [(5320, 5320), (15318, 5318), (5310, 5318)])
def test_a_small_contradiction_is_told_and_a_large_one_mended(tmp_path: Path, offset: int, taken: int) -> None:
    row = one(tmp_path, offset=offset, duration=9, on_disk=range(5300, 5350))
    assert row.offset == taken
    assert f"offset {offset} contradicts onset 5310 and duration 9" in row.warnings[0]


def test_a_missing_duration_leaves_the_offset_alone(tmp_path: Path) -> None:
    assert one(tmp_path, duration=None).warnings == ()
    assert one(tmp_path / "b", duration="?").warnings == ()


def test_subjects_as_text_and_as_number(tmp_path: Path) -> None:
    assert [row.subject for row in rows(write_samm(tmp_path))][:3] == ["006", "006", "007"]
    row = one(tmp_path / "b", subject=6, name="6_1_2")  # Excel dropped the zeros of both
    assert (row.subject, row.clip) == ("006", "006_1_2")


def test_subjects_beside_the_workbook(tmp_path: Path) -> None:
    row = rows(write_samm(tmp_path, [SammClip()], frames=""))[0]
    assert row.frame_files[0] == "006/006_1_2/006_05310.jpg"


def test_cropped_frames(tmp_path: Path) -> None:
    write_samm(tmp_path, [SammClip()], frames="SAMM_CROP")
    assert rows(tmp_path)[0].frame_files[0].startswith("SAMM_CROP/")
    write_samm(tmp_path, [SammClip()])
    assert rows(tmp_path)[0].frame_files[0].startswith("SAMM/")
    assert rows(tmp_path, frames="cropped")[0].frame_files[0].startswith("SAMM_CROP/")


def test_counts(tmp_path: Path) -> None:
    found = check(load_release(SAMM, write_samm(tmp_path)))
    assert (found.annotated, found.usable, found.subjects, found.problems) == (9, 9, 7, ())
    assert found.emotions == {"anger": 4, "contempt": 2, "happiness": 1, "disgust": 1, "other": 1}
    assert found.classes["3"] == {"negative": 7, "positive": 1, "surprise": 0, "": 1}
    assert found.published.clips == 159
    assert sum(found.published.emotions.values()) == sum(found.published.objective.values()) == 159
    assert not found.complete


# ---------------------------------------------------------------- what is wrong with a folder


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"subject": "abc"}, "expected for example 006 and 006_1_2"),
        ({"name": "6-1-2"}, "expected for example 006 and 006_1_2"),
        ({"subject": "007"}, "clip 006_1_2 .* is listed under subject 007"),
    ],
)
def test_a_row_that_names_no_clip(tmp_path: Path, values: dict[str, object], says: str) -> None:
    root = write_samm(tmp_path, [SammClip()])
    rows_ = [row_of(SammClip()), row_of(SammClip(**values))]  # type: ignore[arg-type]
    write_book(root / WORKBOOK, {"MICRO_ONLY": [HEADER, *rows_]})
    loaded = load_release(SAMM, root)
    assert len(loaded.manifest) == 1
    with pytest.raises(DatasetLayoutError, match=says) as error:
        usable(loaded)
    assert "\n" not in str(error.value)


def test_rows_without_a_name_are_left_out_and_noted(tmp_path: Path) -> None:
    root = write_samm(tmp_path, [SammClip()])
    blank = (None, None, None, None, None, None, None, None, "* unsure", None, None, None)
    write_book(root / WORKBOOK, {"MICRO_ONLY": [HEADER, row_of(SammClip()), blank]})
    loaded = load_release(SAMM, root)
    assert (len(loaded.release.lines), loaded.release.notes) == (
        1,
        ("1 rows without subject and file name left out",),
    )


def test_no_workbook_no_frames_no_column(tmp_path: Path) -> None:
    root = write_samm(tmp_path / "a", [SammClip()])
    (root / WORKBOOK).rename(root / "SAMM_LongVideos_V2_Release.xlsx")
    with pytest.raises(DatasetLayoutError, match=r"SAMM_Micro_FACS_Codes_v2\.xlsx.*SAMM_LongVideos"):
        load_release(SAMM, root)
    with pytest.raises(DatasetLayoutError, match="no folder SAMM and no subject folder"):
        load_release(SAMM, tmp_path)
    with pytest.raises(DatasetLayoutError, match="does not exist"):
        load_release(SAMM, tmp_path / "nowhere")
    root = write_samm(tmp_path / "b", [SammClip()])
    header = [name for name in HEADER if name != "Offset Frame"]
    write_book(root / WORKBOOK, {"MICRO_ONLY": [header, row_of(SammClip())]})
    with pytest.raises(DatasetLayoutError, match="lacks the column 'offset'"):
        load_release(SAMM, root)


def test_is_release(tmp_path: Path) -> None:
    assert is_release(write_samm(tmp_path / "a", [SammClip()]))
    write_frames(tmp_path / "faces/006", [1, 2])
    assert not is_release(tmp_path / "faces")
