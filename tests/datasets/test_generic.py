"""Own recordings by a CSV: videos and frame folders, dialects of CSV, and everything a row can get wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesynth.core.errors import DatasetLayoutError
from mesynth.core.facs import AU_INDEX
from mesynth.datasets.check import check
from mesynth.datasets.generic import COLUMNS as ACCEPTED
from mesynth.datasets.generic import GENERIC, is_release, read_table
from mesynth.datasets.load import Loaded, load_release, usable
from mesynth.store.manifest import Row
from mesynth.store.shards import read_frames
from tests.datasets.releases.generic import COLUMNS, ROWS, csv_text, frame_number_shown, write_recordings, write_video


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recordings(tmp_path_factory.mktemp("x") / "My Study 1")


def load(root: Path, *rows: dict[str, object], text: str = "", encoding: str = "utf-8") -> Loaded:
    (root / "annotations.csv").write_bytes((text or csv_text(rows or ROWS)).encode(encoding))
    return load_release(GENERIC, root)


def one(root: Path, **cells: object) -> Row:
    return usable(load(root, {**ROWS[0], **cells})).row(0)


def problem(root: Path, *words: str, **cells: object) -> None:
    found = load(root, {**ROWS[0], **cells}, ROWS[3])
    assert len(found.manifest) == 1  # the good row is not lost
    assert len(found.problems) == 1
    message = found.problems[0].reason
    assert "\n" not in message
    for word in words:
        assert word in message


def test_values(root: Path) -> None:
    rows = list(usable(load(root)))
    first = rows[0]
    assert first.clip_id == "my-study-1/p01/clips_a/5"
    assert (first.onset, first.apex, first.offset, first.n_frames, first.apex_index) == (5, 9, 14, 10, 4)
    assert (first.fps, first.height, first.width) == (25.0, 48, 64)
    assert (first.emotion, first.label, first.objective_class) == ("disgust", "negative", "III")
    assert first.frame_files[0] == "clips/a.mp4#000005"
    assert first.provenance.subjects_seen == ("my-study-1/p01",)
    assert (first.provenance.kind, first.provenance.licence) == ("real", "unknown")
    assert first.warnings == ()
    assert np.array(rows[1].au_intensity).reshape(-1, 2)[AU_INDEX[12]].tolist() == [0.25, 0.0]
    assert (rows[1].apex, rows[1].apex_index, rows[1].label) == (None, 4, "positive")
    assert (rows[2].onset, rows[2].offset, rows[2].n_frames, rows[2].fps) == (0, 11, 12, 50.0)
    assert rows[2].clip == "clips_b"
    assert (rows[3].fps, rows[3].frame_files[0]) == (120.0, "faces/c/frame_8.png")
    assert (rows[3].onset, rows[3].apex_index, rows[3].n_frames) == (8, 2, 5)


def test_frames_are_those_of_the_numbers(root: Path) -> None:
    rows = list(usable(load(root)))
    assert [frame_number_shown(f) for f in read_frames(root, rows[0])] == list(range(5, 15))
    assert [frame_number_shown(f) for f in read_frames(root, rows[1])] == list(range(20, 30))
    assert [frame_number_shown(f) for f in read_frames(root, rows[2])] == list(range(100, 112))
    assert read_frames(root, rows[3]).mean(axis=(1, 2, 3)).tolist() == [28, 29, 30, 31, 32]


def test_counts(root: Path) -> None:
    found = check(load(root))
    assert (found.annotated, found.usable, found.subjects) == (4, 4, 2)
    assert found.fps == (25.0, 50.0, 120.0)
    assert found.complete
    assert found.classes["3"] == {"negative": 1, "positive": 1, "surprise": 1, "": 1}


def test_videos_that_begin_with_frame_1(root: Path) -> None:
    row = one(root, onset=1, apex=10, offset=15, first_frame=1)
    assert (row.onset, row.apex, row.offset) == (0, 9, 14)
    assert frame_number_shown(read_frames(root, row)[row.apex_index]) == 9
    assert one(root, first_frame=0).onset == 5
    problem(root, "line 2", "onset is 0", "begins with 1", onset=0, first_frame=1)
    problem(root, "first_frame '5' must be 0 or 1", first_frame=5)
    problem(root, "first_frame '1' is for videos", video="faces/c", fps=30, first_frame=1)


def test_a_frame_past_the_end_takes_the_last(root: Path) -> None:
    row = one(root, offset=60)
    assert row.frame_files[-1] == "clips/a.mp4#000039"
    assert "offset frame 60 is not on disk; frame 39 taken" in row.warnings
    problem(root, "clips/a.mp4 holds frames 0 to 39", onset=50, offset=60, apex="")


def test_optional_columns(root: Path) -> None:
    row = one(root, fps="29.97", label="POS", expression="Macro", licence="CC BY 4.0", clip="smile", database="Lab")
    assert (row.fps, row.label, row.expression, row.clip) == (29.97, "positive", "macro", "smile")
    assert (row.subject_key, row.provenance.licence) == ("lab/p01", "CC BY 4.0")
    assert row.provenance.subjects_seen == ("lab/p01",)


def test_a_decimal_comma(root: Path) -> None:
    text = csv_text([{**ROWS[3], "fps": "29,97"}], delimiter=";")
    assert usable(load(root, text=text)).row(0).fps == 29.97


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.permutations(COLUMNS),
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from(["utf-8", "utf-8-sig"]),
    st.sampled_from(["\n", "\r\n"]),
    st.data(),
)
def test_dialects(root: Path, order: list[str], delimiter: str, encoding: str, end: str, data: st.DataObject) -> None:
    """Any order, delimiter and spelling of the columns gives the same rows."""
    names = {
        c: data.draw(st.sampled_from([f(a) for a in ACCEPTED[c] for f in (str, str.upper, str.title)])) for c in order
    }
    text = csv_text(ROWS[:3], order, delimiter)
    head, _, body = text.partition("\n")
    head = delimiter.join(names[c] for c in head.split(delimiter))
    found = load(root, text=(head + "\n\n" + body).replace("\n", end), encoding=encoding)
    assert found.manifest.hash() == load(root, *ROWS[:3]).manifest.hash()


def test_quoted_cells_and_the_only_csv(tmp_path: Path) -> None:
    root = write_recordings(tmp_path / "study", name="our codes.csv")
    text = csv_text([{**ROWS[0], "aus": '"4,7"', "clip": '"a, first"'}])
    (root / "our codes.csv").write_text(text, encoding="utf-8")
    row = usable(load_release(GENERIC, root)).row(0)
    assert (row.au_text, row.clip) == ("4,7", "a, first")
    assert is_release(root)
    (root / "other.csv").write_text("x,y\n", encoding="utf-8")
    with pytest.raises(DatasetLayoutError, match=r"2 CSV files, none called annotations\.csv.*video,subject,onset"):
        load_release(GENERIC, root)
    assert not is_release(root)


def test_backslashes_of_another_system(root: Path) -> None:
    assert one(root, video="clips\\a.mp4").frame_files[0] == "clips/a.mp4#000005"
    assert one(root, video="./clips//a.mp4").frame_files[0] == "clips/a.mp4#000005"


def test_videos_of_one_name_are_two_clips(root: Path) -> None:
    write_video(root / "clips/a.avi", range(40), "MJPG")
    found = load(root, ROWS[0], {**ROWS[0], "video": "clips/a.avi"})
    assert [row.clip for row in usable(found)] == ["clips_a.mp4", "clips_a.avi"]
    (root / "clips/a.avi").unlink()


# ---------------------------------------------------------------- who is who


def test_a_folder_cannot_take_the_name_of_a_known_database(tmp_path: Path) -> None:
    for name in ("CASME II", "samm", "4DME", "rendered-7", "SMIC-HS", "photo", "meview"):
        root = write_recordings(tmp_path / name, ROWS[3:])
        with pytest.raises(DatasetLayoutError, match="fill the column 'database'"):
            load_release(GENERIC, root)
    named = usable(load(root, {**ROWS[3], "database": "CASME II"}))
    assert named.row(0).subject_key == "casme2/p02"  # said in the file: these people are that database's
    assert usable(load(root, {**ROWS[3], "database": "CAS(ME)^3"})).row(0).database == "casme3"


def test_rows_of_two_databases(root: Path) -> None:
    found = usable(load(root, {**ROWS[0], "database": "a"}, {**ROWS[0], "database": "b"}, {**ROWS[0]}))
    assert [row.subject_key for row in found] == ["a/p01", "b/p01", "my-study-1/p01"]


def test_which_folders_it_claims(root: Path, tmp_path: Path) -> None:
    load(root)
    assert is_release(root)
    assert not is_release(root / "clips")
    assert not is_release(tmp_path / "nowhere")
    (tmp_path / "annotations.csv").write_text("filename,label\na.jpg,cat\n", encoding="utf-8")
    assert not is_release(tmp_path)
    (tmp_path / "annotations.csv").write_bytes(b"\xff\xfe\0\xd8")
    assert not is_release(tmp_path)


# ---------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize(
    "video", ["/etc/a.mp4", "../a.mp4", "clips/../../a.mp4", "C:\\a.mp4", "..\\a.mp4", "\\\\server\\a.mp4"]
)
def test_paths_out_of_the_folder(root: Path, video: str) -> None:
    problem(root, "line 2 of annotations.csv", video, video=video)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["..", ".", "clips", "a.mp4", "", "/", "C:", "\\"]), min_size=1, max_size=6))
def test_no_path_leads_outside(root: Path, parts: list[str]) -> None:
    """Whatever is written, no frame of a manifest lies outside the folder."""
    for row in load(root, {**ROWS[0], "video": "/".join(parts)}).manifest:
        assert all((root / f).resolve().is_relative_to(root.resolve()) for f in row.frame_files)


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ({"video": ""}, ("names no video",)),
        ({"video": "clips/z.mp4"}, ("z.mp4", "missing")),
        ({"video": "faces/z", "fps": 30}, ("faces/z", "missing", "it holds c/")),
        ({"video": "faces/c"}, ("fps is empty", "frame rate")),
        ({"fps": "fast"}, ("fps 'fast' is no positive number",)),
        ({"fps": "nan"}, ("fps 'nan'",)),
        ({"fps": "0"}, ("fps '0'",)),
        ({"subject": ""}, ("names no subject",)),
        ({"subject": "a/b"}, ("subject 'a/b' holds a slash",)),
        ({"clip": "a/b"}, ("clip 'a/b' holds a slash",)),
        ({"expression": "mini"}, ("expression 'mini'", "micro, macro")),
        ({"label": "fear"}, ("label 'fear'", "negative, positive, surprise")),
        ({"onset": ""}, ("offset is 14 and onset is empty",)),
        ({"offset": ""}, ("onset is 5 and offset is empty",)),
        ({"onset": "five"}, ("onset 'five'", "frame numbers")),
        ({"onset": -3}, ("onset '-3'", "frame numbers")),
        ({"onset": 20}, ("onset '20' and offset '14'",)),
        ({"aus": "4,7"}, ("line 2", "8 cells for 7 columns", "4+7")),
    ],
)
def test_unusable_rows(root: Path, cells: dict[str, object], words: tuple[str, ...]) -> None:
    if "aus" in cells:  # a comma more than the header has
        found = load(root, {**ROWS[0], **cells})
        assert all(word in found.problems[0].reason for word in words)
    else:
        problem(root, *words, **cells)


def test_a_damaged_video_spoils_its_own_rows_only(root: Path) -> None:
    (root / "clips/bad.mp4").write_bytes(b"no video")
    problem(root, "bad.mp4", "codec", video="clips/bad.mp4")
    problem(root, "bad.mp4", "codec", video="clips/bad.mp4", fps=25)
    (root / "clips/bad.mp4").unlink()


def test_a_row_written_twice(root: Path) -> None:
    found = load(root, ROWS[0], ROWS[0])
    assert "annotated twice" in found.problems[0].reason


def test_unusable_files(root: Path, tmp_path: Path) -> None:
    def refused(words: str, text: bytes) -> None:
        (root / "annotations.csv").write_bytes(text)
        with pytest.raises(DatasetLayoutError, match=words) as error:
            load_release(GENERIC, root)
        assert "\n" not in str(error.value)

    good = csv_text(ROWS)
    refused("not UTF-8; save it again", good.replace("disgust", "dégoût").encode("latin-1"))
    refused(
        r"lacks the column 'offset' \(accepted names: offset,.*has video, subject", good.replace("offset", "x").encode()
    )
    refused("lacks the column 'video'.*has nothing", b"")
    refused("is no CSV", (good + '"open').encode())
    with pytest.raises(DatasetLayoutError, match="no rows"):
        usable(load(root, text=csv_text([])))
    with pytest.raises(
        DatasetLayoutError, match=r"no CSV file in .*write annotations\.csv with the header video,subject"
    ):
        load_release(GENERIC, tmp_path)
    with pytest.raises(DatasetLayoutError, match="does not exist"):
        load_release(GENERIC, tmp_path / "nowhere")
    load(root)


def test_table_keeps_lines(root: Path) -> None:
    path = root / "annotations.csv"
    path.write_text(csv_text(ROWS[:1]) + "\n,,,\n" + csv_text(ROWS[1:2]).split("\n")[1] + "\n", encoding="utf-8")
    assert [line for line, _, _ in read_table(path).rows] == [2, 5]
    load(root)
