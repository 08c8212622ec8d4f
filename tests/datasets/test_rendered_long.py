"""Long rendered videos: the truth is in them, and one command makes the same bytes however it is run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from mesynth.api import load_database
from mesynth.cli import main
from mesynth.core import facs
from mesynth.core.errors import MesynthError
from mesynth.datasets.rendered import LONG_LANDMARKS, LongRendering, _script, render_long
from mesynth.store.long_videos import LongVideos, pictures_in
from mesynth.store.videos import read_pictures
from tests.datasets.releases import casme_sq

TINY = LongRendering(subjects=1, videos_per_subject=1, seconds=(5.0, 5.0), size=64, fps=25.0)


@pytest.mark.parametrize("fps", [25.0, 30.0, 100.0])
@pytest.mark.parametrize("seconds", [5.0, 9.0, 20.0, 60.0])
def test_scripts_hold_what_they_say(fps: float, seconds: float) -> None:
    wanted = LongRendering(seconds=(seconds, seconds), fps=fps, rate=20)
    for video in range(6):
        script = _script(wanted, 1, video)
        assert len(script.au) == len(script.pose) == len(script.closure) == round(seconds * fps)
        gap = round(0.8 * fps)
        last = -1
        quiet = np.ones(len(script.au), bool)
        for event in script.events:
            assert event.onset - last > gap  # neutral before each
            assert event.onset < event.apex < event.offset
            duration = (event.offset - event.onset + 1) / fps
            assert event.expression == ("macro" if duration >= 0.5 else "micro")
            assert duration <= 3.1
            quiet[event.onset : event.offset + 1] = False
            last = event.offset
        assert len(script.au) - 1 - last >= gap
        face = np.delete(script.au, facs.AU_INDEX[45], 1)
        assert not face[quiet].any()  # nothing moves outside but lids
        stretches = script.stretches(1, video)
        assert [s.first for s in stretches] == [0, *(s.last + 1 for s in stretches[:-1])]
        assert stretches[-1].last == len(script.au) - 1
        assert all(s.first <= e.onset and e.offset <= s.last for s, e in zip(stretches, script.events, strict=True))
    kinds = {event.expression for v in range(6) for event in _script(wanted, 1, v).events}
    assert seconds < 9 or kinds == {"micro", "macro"}


def test_a_tiny_video_is_read_back(tmp_path: Path) -> None:
    made = render_long(tmp_path / "long", TINY)
    tables = LongVideos.read(tmp_path / "long")
    (video,) = tables.videos
    names = pictures_in(tables.place(video))
    assert len(names) == video.frames == 125
    assert len(made) == len(tables.intervals) == len(_script(TINY, 1, 0).events)
    for row, marked in zip(made, tables.intervals, strict=True):
        assert (row.onset, row.offset, row.apex, row.expression) == (
            marked.onset, marked.offset, marked.apex, marked.expression,
        )  # fmt: skip
        assert row.frame_files[0].endswith(names[marked.onset])
        assert row.provenance.subjects_seen == (video.person,)
    with np.load(tmp_path / "long" / LONG_LANDMARKS) as points:
        assert points.files == names
        assert points[names[0]].shape == (68, 2)
    event = _script(TINY, 1, 0).events[0]
    onset, apex = read_pictures(tables.place(video), [names[event.onset], names[event.apex]])
    assert np.abs(onset.astype(int) - apex).mean() > 1
    # The tables of a manifest's videos are those that were written, paths aside.
    again = LongVideos.of_manifest(made)
    assert [v.frames for v in again.videos] == [video.frames]
    assert again.intervals == tables.intervals
    stamp = (tmp_path / "long/videos.csv").stat().st_mtime_ns
    render_long(tmp_path / "long", TINY)
    assert (tmp_path / "long/videos.csv").stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"seconds": (2.0, 9.0)}, "seconds=2:9"),
        ({"seconds": (9.0, 6.0)}, "seconds=9:6"),
        ({"rate": 0.5}, "rate=0.5"),
        ({"macro": 1.5}, "macro=1.5"),
        ({"fps": 10.0}, "fps=10"),
    ],
)  # fmt: skip
def test_what_cannot_be_rendered(wrong: dict[str, object], says: str) -> None:
    with pytest.raises(MesynthError, match=says):
        LongRendering(**wrong)  # type: ignore[arg-type]


def test_videos_of_a_release_are_listed(tmp_path: Path) -> None:
    casme_sq.write_casme_sq(tmp_path / "release", renderings=("raw",))
    words = [
        "prepare",
        "casme_sq",
        "--root",
        str(tmp_path / "release"),
        "--long-videos",
        "--out",
        str(tmp_path / "list"),
    ]
    ran = CliRunner().invoke(main, [*words, "--part", "all", "--frames", "raw"])
    assert ran.exit_code == 0, ran.output
    listed = LongVideos.read(tmp_path / "list")
    clips, _ = load_database("casme_sq", tmp_path / "release", part="all", frames="raw")
    assert len(listed.intervals) == len(clips)
    assert {m.expression for m in listed.intervals} == {row.expression for row in clips} == {"micro", "macro"}
    onsets = {Path(row.frame_files[0]).name for row in clips}
    for video in listed.videos:
        names = pictures_in(listed.place(video))
        assert len(names) == video.frames
        assert all(names[m.onset] in onsets for m in listed.of(video))
    idle = CliRunner().invoke(main, [*words, "--size", "64"])
    assert idle.exit_code == 2
    assert "--size has no effect on a list of videos" in idle.output


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--long", "--layout", "faces"], "--long has no effect"),
        (["--seconds", "20"], "--seconds has no effect"),
        (["--long", "--seconds", "1"], "seconds=1:1"),
        (["--long", "--seconds", "soon"], "'soon'"),
        (["--long", "--clips", "0"], "clips=0"),
    ],
)  # fmt: skip
def test_mistakes_at_the_command_line(tmp_path: Path, words: list[str], says: str) -> None:
    ran = CliRunner().invoke(main, ["render", "--out", str(tmp_path / "out"), *words])
    assert ran.exit_code == 2, ran.output
    assert says in ran.output
    assert not (tmp_path / "out").exists()
