"""The engine that every loader shares, on a toy database: what is found, what is mended, what is told."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesynth.core.errors import DatasetLayoutError
from mesynth.datasets import load as engine
from mesynth.datasets.check import check
from mesynth.datasets.database import AnnotatedClip, Database, Release
from mesynth.datasets.files import Frames
from mesynth.datasets.load import Correction, Loaded, load_release, usable
from mesynth.store.manifest import Manifest
from tests.datasets.releases.common import write_frames

LINE = AnnotatedClip(
    subject="p1", clip="c1", folder="p1/c1", onset=10, apex=14, offset=20, aus="4+7", emotion="Disgust"
)


def toy(*lines: AnnotatedClip, **values: object) -> Database:
    """A database whose release is these lines."""
    release = Release(lines=lines or (LINE,), **values)  # type: ignore[arg-type]
    return Database(
        name="toy",
        title="Toy",
        fps=100.0,
        licence="toy licence",
        paper="none",
        is_release=lambda folder: False,
        read=lambda root, part, frames: release,
        parts=("all", "half"),
    )


def loaded(root: Path, *lines: AnnotatedClip, on_disk: Iterable[int] = range(8, 23), **options: object) -> Loaded:
    write_frames(root / "p1/c1", on_disk, junk=True)
    return load_release(toy(*lines), root, **options)  # type: ignore[arg-type]


def reason(found: Loaded) -> str:
    assert len(found.manifest) == 0
    assert "\n" not in found.problems[0].reason
    return found.problems[0].reason


# ---------------------------------------------------------------- frames


def test_a_plain_line(tmp_path: Path) -> None:
    row = loaded(tmp_path).manifest.row(0)
    assert (row.onset, row.apex, row.offset, row.n_frames, row.apex_index) == (10, 14, 20, 11, 4)
    assert row.frame_files == tuple(f"p1/c1/img{n}.jpg" for n in range(10, 21))
    assert (row.height, row.width, row.fps, row.warnings) == (24, 32, 100.0, ())


def test_numbers_as_text_and_as_float(tmp_path: Path) -> None:
    row = loaded(tmp_path, replace(LINE, onset=" 10", apex="14.0", offset=20.0)).manifest.row(0)
    assert (row.onset, row.apex, row.offset) == (10, 14, 20)


def test_missing_frames_are_counted_and_the_nearest_stand_in(tmp_path: Path) -> None:
    found = loaded(tmp_path, on_disk=[8, 11, 12, 13, 16, 17, 18])
    row = found.manifest.row(0)
    assert [Path(f).stem for f in row.frame_files] == ["img11", "img12", "img13", "img16", "img17", "img18"]
    assert row.apex_index == 2  # 13 and not 16 for 14
    assert found.missing_frames == {"p1/c1": 5}
    assert row.warnings == (
        "onset frame 10 is not on disk; frame 11 taken",
        "offset frame 20 is not on disk; frame 18 taken",
        "5 of 11 annotated frames are not on disk",
        "apex frame 14 is not on disk; frame 13 taken",
    )


def test_a_tie_takes_the_earlier_frame(tmp_path: Path) -> None:
    row = loaded(tmp_path, on_disk=[10, 12, 13, 15, 20]).manifest.row(0)
    assert Path(row.frame_files[row.apex_index]).stem in {"img13", "img15"}
    assert Path(row.frame_files[row.apex_index]).stem == "img13"


def test_numbering_in_steps_is_no_gap(tmp_path: Path) -> None:
    found = loaded(tmp_path, on_disk=range(8, 24, 2))
    assert found.missing_frames == {}
    assert (found.manifest.row(0).n_frames, found.manifest.row(0).apex_index) == (6, 2)
    missing = loaded(tmp_path / "b", on_disk=[8, 10, 12, 16, 18, 20, 22])
    assert missing.missing_frames == {"p1/c1": 1}


def test_the_whole_folder(tmp_path: Path) -> None:
    line = AnnotatedClip(subject="p1", clip="c1", folder="p1/c1", spans_folder=True)
    found = loaded(tmp_path, line, on_disk=[3, 5, 6, 7, 8])
    row = found.manifest.row(0)
    assert (row.onset, row.apex, row.offset, row.n_frames, row.apex_index) == (3, None, 8, 5, 2)
    assert (row.warnings, found.missing_frames) == ((), {})


def test_two_spans_of_one_folder(tmp_path: Path) -> None:
    found = loaded(tmp_path, replace(LINE, offset=15), replace(LINE, onset=15, apex=18))
    assert [row.clip_id for row in found.manifest] == ["toy/p1/c1/10", "toy/p1/c1/15"]
    assert [row.n_frames for row in found.manifest] == [6, 6]


@given(
    on_disk=st.sets(st.integers(0, 60), min_size=2).map(sorted),
    span=st.tuples(st.integers(0, 60), st.integers(0, 60)).filter(lambda s: s[0] < s[1]),
    apex=st.one_of(st.none(), st.integers(-5, 70), st.sampled_from(["/", "", "x"])),
)
def test_any_listing_and_span(on_disk: list[int], span: tuple[int, int], apex: object) -> None:
    """The row holds exactly the frames between the nearest to onset and offset, its apex the nearest of those."""
    line = replace(LINE, onset=span[0], apex=apex, offset=span[1])
    with (
        patch.object(engine, "list_frames", lambda folder: Frames({n: f"img{n}.jpg" for n in on_disk})),
        patch.object(engine, "clip_size", lambda folder, names, said: (24, 32)),
    ):
        found = load_release(toy(line), Path("/nowhere"))
    ends = [min(on_disk, key=lambda n: (abs(n - end), n)) for end in span]
    expected = [n for n in on_disk if ends[0] <= n <= ends[1]]
    if len(expected) < 2 or not any(span[0] <= n <= span[1] for n in expected):
        assert "frames between onset" in found.problems[0].reason
        return
    row = found.manifest.row(0)
    assert [int(Path(f).stem[3:]) for f in row.frame_files] == expected
    assert row.n_frames == len(expected)
    if isinstance(apex, int) and span[0] <= apex <= span[1]:
        assert row.apex == apex
        assert expected[row.apex_index] == min(expected, key=lambda n: (abs(n - apex), n))
    else:
        assert (row.apex, row.apex_index) == (None, (len(expected) - 1) // 2)
        assert any("the middle frame stands in" in w for w in row.warnings)


# ---------------------------------------------------------------- apex


@pytest.mark.parametrize("apex", [9, 21, 1143])
def test_an_apex_outside(tmp_path: Path, apex: int) -> None:
    row = loaded(tmp_path, replace(LINE, apex=apex)).manifest.row(0)
    assert (row.apex, row.apex_index) == (None, 5)
    assert row.warnings == (f"apex {apex} lies outside onset 10 and offset 20; the middle frame stands in",)


@pytest.mark.parametrize("apex", ["/", None, "", "?"])
def test_no_apex(tmp_path: Path, apex: object) -> None:
    row = loaded(tmp_path, replace(LINE, apex=apex)).manifest.row(0)
    assert (row.apex, row.apex_index) == (None, 5)
    assert row.warnings == (f"no apex annotated ('{apex or ''}'); the middle frame stands in",)


def test_apex_at_the_ends(tmp_path: Path) -> None:
    assert "same frame" in loaded(tmp_path, replace(LINE, apex=10)).manifest.row(0).warnings[0]
    row = loaded(tmp_path, replace(LINE, apex=20)).manifest.row(0)
    assert (row.apex_index, row.warnings) == (10, ())


# ---------------------------------------------------------------- what cannot be used


@pytest.mark.parametrize(
    "values", [{"onset": None}, {"offset": "/"}, {"onset": 20, "offset": 10}, {"onset": 10, "offset": 10}]
)
def test_onset_and_offset_must_be_numbers_in_order(tmp_path: Path, values: dict[str, object]) -> None:
    assert "both must be frame numbers, in this order" in reason(loaded(tmp_path, replace(LINE, **values)))  # type: ignore[arg-type]


def test_folders_without_the_frames(tmp_path: Path) -> None:
    assert "c2 is missing; p1: it holds c1/" in reason(loaded(tmp_path, replace(LINE, folder="p1/c2")))
    assert "its folder p1/c1 holds frames 100 to 103" in reason(loaded(tmp_path / "b", on_disk=range(100, 104)))
    assert "holds no numbered images" in reason(loaded(tmp_path / "c", on_disk=[]))
    write_frames(tmp_path / "p1/c1", [12], "again_{}.png")
    assert "two files for frame 12" in reason(load_release(toy(), tmp_path))


def test_an_unreadable_onset(tmp_path: Path) -> None:
    loaded(tmp_path)
    (tmp_path / "p1/c1/img10.jpg").write_bytes(b"\xff\xd8")
    assert "img10.jpg cannot be read" in reason(load_release(toy(), tmp_path))


def test_the_readers_own_problem_and_the_line_of_skip_bad(tmp_path: Path) -> None:
    found = loaded(tmp_path, LINE, replace(LINE, clip="c9", problem="row 3 names no clip; correct it"))
    assert [(p.clip, p.reason) for p in found.problems] == [("p1/c9", "row 3 names no clip; correct it")]
    with pytest.raises(DatasetLayoutError, match=r"row 3 names no clip.*--check lists all, --skip-bad") as error:
        usable(found)
    assert "more" not in str(error.value)
    assert len(usable(found, skip_bad=True)) == 1


def test_more_than_one_problem_and_nothing_left(tmp_path: Path) -> None:
    bad = replace(LINE, onset=None)
    found = loaded(tmp_path, bad, bad)
    with pytest.raises(DatasetLayoutError, match=r"\(and 1 more\)"):
        usable(found)
    with pytest.raises(DatasetLayoutError, match="both must be frame numbers"):
        usable(found, skip_bad=True)  # skipping cannot make an empty database usable
    empty = load_release(replace(toy(), read=lambda *a: Release(lines=(), sources=("book.xlsx",))), tmp_path)
    with pytest.raises(DatasetLayoutError, match=r"book\.xlsx has a header but no rows"):
        usable(empty, skip_bad=True)


def test_a_line_twice(tmp_path: Path) -> None:
    found = loaded(tmp_path, LINE, replace(LINE, offset=18))
    assert len(found.manifest) == 1
    assert found.problems[0].reason == "clip p1/c1, onset 10, is annotated twice; remove one of the rows"


def test_unknown_parts_and_frames(tmp_path: Path) -> None:
    with pytest.raises(DatasetLayoutError, match="Toy has no part 'third'; choose from all, half"):
        load_release(toy(), tmp_path, part="third")
    with pytest.raises(DatasetLayoutError, match="Toy has no frames 'raw'; choose from auto"):
        load_release(toy(), tmp_path, frames="raw")
    assert loaded(tmp_path, part="half").part == "half"


# ---------------------------------------------------------------- folders no line names


def test_unannotated_folders(tmp_path: Path) -> None:
    for name in ("p1/c2", "p1/c3", "p1/.hidden", "p2/c1", "notes"):
        write_frames(tmp_path / name, [1])
    found = loaded(tmp_path)
    assert found.unannotated == ("p1/c2", "p1/c3")  # beside annotated clips; other people are no clips
    left_out = load_release(toy(LINE, left_out=("p1/c2",)), tmp_path)
    assert left_out.unannotated == ("p1/c3",)


def test_folders_of_clips_are_not_clips(tmp_path: Path) -> None:
    """A release whose clips lie at two depths: the parent of clips is not reported."""
    write_frames(tmp_path / "p1/c1/inner", range(8, 23))
    found = loaded(tmp_path, LINE, replace(LINE, clip="inner", folder="p1/c1/inner"))
    assert (found.unannotated, len(found.manifest)) == ((), 2)


# ---------------------------------------------------------------- corrections


def test_corrections_before_anything_is_judged(tmp_path: Path) -> None:
    fixes = [
        Correction("toy", "p1/c1", "offset", "2", "20", "a digit was lost"),
        Correction("toy", "p1/c1", "apex", "14", "15", "seen on the video"),
        Correction("toy", "p1/c1", "aus", "4+7", "4+7A", "coder's note"),
        Correction("toy", "p1/c1", "emotion", "Disgust", "Surprise", "coder's note"),
        Correction("toy", "p1/c1", "onset", "9", "8", "of another edition"),
    ]
    found = loaded(tmp_path, replace(LINE, offset=2), corrections=fixes)
    row = found.manifest.row(0)
    assert (row.onset, row.apex, row.offset, row.au_text) == (10, 15, 20, "4+7A")
    assert (row.emotion, row.label) == ("surprise", "surprise")
    assert [p.clip for p in found.corrected] == ["p1/c1"] * 4
    assert row.warnings[0] == "offset corrected from 2 to 20: a digit was lost"


# ---------------------------------------------------------------- lines of several databases


def test_a_line_may_name_its_own_database(tmp_path: Path) -> None:
    lines = [
        replace(LINE, database=name, licence=f"{name} licence", fps=fps) for name, fps in (("a", 30.0), ("b", 60.0))
    ]
    found = loaded(tmp_path, LINE, *lines)
    assert [row.clip_id for row in found.manifest] == ["toy/p1/c1/10", "a/p1/c1/10", "b/p1/c1/10"]
    for row, name, fps in zip(found.manifest, ("toy", "a", "b"), (100.0, 30.0, 60.0), strict=True):
        assert (row.database, row.fps, row.subject_key) == (name, fps, f"{name}/p1")
        assert (row.provenance.database, row.provenance.subjects_seen) == (name, (f"{name}/p1",))
        assert row.provenance.licence == f"{name} licence"


def test_corrections_and_accounts_go_by_the_lines_database(tmp_path: Path) -> None:
    fix = Correction("a", "p1/c1", "apex", "14", "15", "seen on the video")
    lines = [replace(LINE, database=name) for name in ("a", "b")]
    bad = replace(LINE, database="b", clip="c9", folder="p1/c9")
    found = loaded(tmp_path, *lines, bad, on_disk=[*range(8, 15), *range(16, 23)], corrections=[fix])
    assert [row.apex for row in found.manifest] == [15, 14]
    assert [p.clip for p in found.corrected] == ["a/p1/c1"]
    assert found.missing_frames == {"a/p1/c1": 1, "b/p1/c1": 1}
    assert [p.clip for p in found.problems] == ["b/p1/c9"]


def test_the_releases_own_values_win_over_the_databases(tmp_path: Path) -> None:
    write_frames(tmp_path / "p1/c1", range(8, 23))
    database = toy(LINE, database="rendered-toy", kind="rendered", licence="none needed", fps=50.0)
    found = load_release(database, tmp_path)
    row = found.manifest.row(0)
    assert (row.database, row.fps, row.provenance.kind, row.provenance.licence) == (
        "rendered-toy", 50.0, "rendered", "none needed",
    )  # fmt: skip
    assert check(found).database == "rendered-toy"


# ---------------------------------------------------------------- lengths and clocks


@pytest.mark.parametrize("apex", [None, "/", 0, 10, 14, 2000])
def test_no_clip_is_longer_than_ten_seconds_whatever_its_apex(tmp_path: Path, apex: object) -> None:
    found = loaded(tmp_path, replace(LINE, apex=apex, offset=1011))
    assert reason(found) == (
        "clip p1/c1 lasts 10.01 s from onset 10 to offset 1011; no micro-expression is longer than 10 s, correct its "
        "offset"
    )


def test_ten_seconds_are_no_limit_for_macro_expressions_and_shorter_clips(tmp_path: Path) -> None:
    assert loaded(tmp_path, replace(LINE, offset=1011, expression="macro")).problems == ()
    assert loaded(tmp_path, replace(LINE, offset=1010)).problems == ()


def test_a_whole_folder_of_more_than_ten_seconds_is_no_clip(tmp_path: Path) -> None:
    line = replace(LINE, onset=None, offset=None, apex=None, spans_folder=True, fps=1.0)
    assert "lasts 14 s" in reason(loaded(tmp_path, line))


@pytest.mark.parametrize("on_disk", [range(10, 21), [10, 15, 20], [10, 20]])
def test_an_apex_that_becomes_the_onset_is_told(tmp_path: Path, on_disk: Iterable[int]) -> None:
    row = loaded(tmp_path, replace(LINE, apex=11 if 11 not in on_disk else 10), on_disk=on_disk).manifest.row(0)
    assert (row.apex_index, row.warnings[-1]) == (0, "onset and apex are the same frame")


def test_the_middle_of_two_frames_is_the_onset_and_told(tmp_path: Path) -> None:
    row = loaded(tmp_path, replace(LINE, apex=None), on_disk=[10, 20]).manifest.row(0)
    assert (row.apex_index, row.warnings[-1]) == (0, "onset and apex are the same frame")


CLOCKS = [1_561_983_045_123, 20_190_701_123_045, 1_561_983_045_123_456_789, 2**31 - 5, 2**32, 2**63 - 500]


@pytest.mark.parametrize(
    ("start", "kind"),
    [(start, kind) for start in CLOCKS for kind in (int, str, float) if kind is not float or start < 2**53],
)
def test_frames_named_by_the_clock(tmp_path: Path, start: int, kind: type) -> None:
    """Milliseconds at 30 frames a second: steps of 33 and 34."""
    numbers = [start + round(i * 100 / 3) for i in range(11)]
    line = replace(LINE, onset=kind(numbers[1]), apex=kind(numbers[4]), offset=kind(numbers[9]))
    found = loaded(tmp_path, line, on_disk=numbers)
    row = usable(found).row(0)
    assert (row.onset, row.apex, row.offset) == (numbers[1], numbers[4], numbers[9])
    assert (row.n_frames, row.apex_index, row.warnings, found.missing_frames) == (9, 3, (), {})
    found.manifest.write(tmp_path / "out")
    again = Manifest.read(tmp_path / "out")
    assert again.row(0) == row
    assert again.hash() == found.manifest.hash()


def test_a_gap_of_the_clock_is_a_missing_frame(tmp_path: Path) -> None:
    numbers = [CLOCKS[0] + round(i * 100 / 3) for i in range(11) if i not in (5, 6)]
    line = replace(LINE, onset=numbers[0], apex=numbers[2], offset=numbers[-1])
    row = loaded(tmp_path, line, on_disk=numbers).manifest.row(0)
    assert row.warnings == ("2 of 11 annotated frames are not on disk",)


@pytest.mark.parametrize("number", [2**63, 10**20, int("9" * 200)])
def test_an_absurd_frame_number_is_one_line(tmp_path: Path, number: int) -> None:
    said = reason(loaded(tmp_path, replace(LINE, offset=str(number))))
    assert "both must be frame numbers" in said
    assert len(said) < 200
    folder = tmp_path / "p1/c1"
    (folder / f"img{number}.jpg").write_bytes((folder / "img10.jpg").read_bytes())
    said = reason(load_release(toy(), tmp_path))
    assert f"a frame number of {len(str(number))} digits, above 2^63; rename the frames" in said
    apex = loaded(tmp_path / "other", replace(LINE, apex=str(number))).manifest.row(0)
    assert apex.apex is None
    assert apex.warnings[0].startswith("no apex annotated ('")
