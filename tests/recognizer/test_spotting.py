"""Scores of spotting: closed forms, and what no order, shift or listing may change."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from mesynth.core.errors import ManifestError, MesynthError
from mesynth.store.long_videos import LongVideo, LongVideos, Marked, intervals_csv, read_intervals
from recognizer.spotting import ALL, Counts, iou, matched, recognized, score, strs

V = LongVideo(database="d", subject="1", video="a", path="a.avi", fps=30.0, frames=1000)


def mark(onset: int, offset: int, video: LongVideo = V, **more: object) -> Marked:
    return Marked(database=video.database, subject=video.subject, video=video.video, onset=onset, offset=offset, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("found", "truth", "tp"),
    [
        ([], [], 0),
        ([(0, 9)], [], 0),
        ([], [(0, 9)], 0),
        ([(0, 9)], [(0, 9)], 1),
        ([(5, 5)], [(5, 5)], 1),  # a single frame is an interval of one frame
        ([(0, 9)], [(9, 18)], 0),  # touching ends share one frame of 19
        ([(0, 9)], [(10, 19)], 0),
        ([(0, 9)], [(0, 19)], 1),  # exactly .5
        ([(0, 8)], [(0, 18)], 0),  # 9 of 19
        ([(0, 9)], [(3, 12)], 1),  # 7 of 13
        ([(0, 9)], [(4, 13)], 0),  # 6 of 14
        ([(0, 9), (0, 9), (1, 10)], [(0, 9)], 1),  # one truth is found once
        ([(0, 19)], [(0, 9), (10, 19)], 1),  # one prediction over two truths, each of exactly .5
        ([(0, 19)], [(0, 10), (8, 19)], 1),
        ([(0, 9), (5, 14)], [(2, 11), (0, 9)], 2),  # a greedy choice of the best pair alone would lose one
        ([(0, 100)], [(0, 9), (30, 39)], 0),
    ],
)  # fmt: skip
def test_true_positives(found: list[tuple[int, int]], truth: list[tuple[int, int]], tp: int) -> None:
    for f, t in ((found, truth), (found[::-1], truth[::-1])):
        pairs = matched(f, t)
        assert len(pairs) == tp
        assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == tp
        assert all(iou(f[i], t[j]) >= 0.5 for i, j in pairs)
    assert len(matched(truth, found)) == tp


def test_iou_counts_frames() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        a, b = (tuple(sorted(rng.integers(0, 30, 2).tolist())) for _ in range(2))
        one, other = (set(range(x[0], x[1] + 1)) for x in (a, b))
        assert iou(a, b) == pytest.approx(len(one & other) / len(one | other))


def test_as_many_pairs_as_by_trying_all() -> None:
    from itertools import permutations

    rng = np.random.default_rng(1)
    for _ in range(60):
        found, truth = ([(int(s), int(s + n)) for s, n in rng.integers(1, 12, (3, 2))] for _ in range(2))
        most = max(sum(iou(found[i], truth[j]) >= 0.5 for i, j in enumerate(order)) for order in permutations(range(3)))
        assert len(matched(found, truth)) == most


def test_kinds_apart_and_together() -> None:
    truth = [mark(10, 19), mark(100, 150), mark(300, 305, expression="macro")]
    found = [mark(12, 20), mark(100, 110), mark(300, 305)]
    result = score([V], truth, found)
    assert result.counts("micro") == (1, 3, 1)  # 15 frames at 30 fps are half a second, the annotation's word counts
    assert result.counts("macro") == (0, 0, 2)
    assert result.counts(ALL) == (1, 3, 3)
    assert score([V], truth, found, kinds=["micro"]).groups == ("micro",)
    assert mark(0, 13).kind(30.0) == "micro"
    assert mark(0, 14).kind(30.0) == "macro"


def test_overall_figures_are_of_summed_counts() -> None:
    videos = [dataclasses.replace(V, video=name, subject=name) for name in "abc"]
    truth = [mark(10 * i, 10 * i + 9, videos[0]) for i in range(4)] + [mark(0, 9, videos[1])]
    found = [mark(10 * i, 10 * i + 9, videos[0]) for i in range(2)] + [mark(50, 59, videos[2])]
    result = score(videos, truth, found, kinds=["micro"])
    assert [tuple(v.all) for v in result.videos] == [(2, 2, 4), (0, 0, 1), (0, 1, 0)]
    assert result.counts() == (2, 3, 5)
    figures = result.counts().figures()
    assert figures == pytest.approx({"precision": 2 / 3, "recall": 2 / 5, "f1": 2 * 2 / 8})
    interval = result.f1_interval()
    assert interval is not None
    assert interval.low <= figures["f1"] <= interval.high
    assert score(videos[:1], truth[:4], found[:2]).f1_interval() is None
    doubled = score([*videos, *(dataclasses.replace(v, subject=v.subject + "2") for v in videos)], truth, found)
    assert doubled.counts() == result.counts()


def test_nothing_to_divide_by_is_zero() -> None:
    assert Counts(0, 0, 0).figures() == {"precision": 0.0, "recall": 0.0, "f1": 0.0}
    assert score([V], [], []).counts() == (0, 0, 0)


def test_spot_then_recognize() -> None:
    truth = [mark(0, 9, emotion="a"), mark(20, 29, emotion="a"), mark(40, 49, emotion="b"), mark(60, 69)]
    found = [mark(0, 9, emotion="a"), mark(20, 29, emotion="b"), mark(40, 49, emotion="b"), mark(60, 69, emotion="a")]
    facts = score([V], truth, found, kinds=["micro"]).to_dict()
    # class a: precision 1/1, recall 1/2; class b: precision 1/2, recall 1/1; the interval without a class is left out
    assert facts["recognition"]["n"] == 3
    assert facts["recognition"]["f1"] == pytest.approx(0.75)
    assert facts["recognition"]["uf1"] == pytest.approx(2 / 3)
    assert facts["recognition"]["strs"] == pytest.approx(0.75 * facts["micro"]["f1"])
    assert facts["micro"]["f1"] == 1
    assert recognized([]) is None
    assert "recognition" not in score([V], truth, [mark(0, 9)]).to_dict()
    assert strs(0.5, 0.25) == 0.125


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: matched([(0, 1)], [(0, 1)], 0.0), "iou=0 is outside"),
        (lambda: matched([(3, 1)], []), "interval 3 to 1"),
        (lambda: score([V], [], [], kinds=["mega"]), "'mega'"),
        (lambda: score([V], [], [], kinds=[]), "no kind"),
        (lambda: score([], [mark(0, 1)], []), "d/1/a"),
        (lambda: strs(1.2, 0.5), "1.2"),
        (lambda: mark(5, 4), "5 to 4"),
        (lambda: mark(-1, 4), "-1 to 4"),
        (lambda: mark(0, 4, expression="mini"), "'mini'"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(call: object, says: str) -> None:
    with pytest.raises(MesynthError, match=says) as error:
        call()  # type: ignore[operator]
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------- tables


def test_tables_come_back(tmp_path: Path) -> None:
    marks = (mark(3, 9, apex=5, expression="micro", emotion="fear", aus="4+7", score=0.25), mark(20, 80))
    videos = LongVideos(root=tmp_path, videos=(V,), intervals=marks)
    for name, data in videos.tables().items():
        (tmp_path / name).write_bytes(data)
    assert LongVideos.read(tmp_path) == videos
    assert videos.of(V) == marks
    with pytest.raises(ManifestError, match="is not at"):
        videos.place(V)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("subject,video,onset\n1,a,0\n", "lacks the column offset"),
        ("subject,video,onset,offset\n1,a,0,x\n", "line 2: offset 'x' is no number"),
        ("subject,video,onset,offset\n1,a,0,2.5\n", "offset '2.5' is no frame number"),
        ("subject,video,onset,offset\n1,a,9,2\n", "line 2: interval 9 to 2"),
        ("subject,video,onset,offset\n1,,9,12\n", "line 2 has no video"),
        ("subject,video,onset,offset,expression\n1,a,9,12,tiny\n", "line 2: expression 'tiny'"),
        ("subject,video,onset,offset\n1,a,9\n", "line 2 has no offset"),
    ],
)  # fmt: skip
def test_faulty_tables_are_named(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "intervals.csv"
    file.write_text(text)
    with pytest.raises(ManifestError, match=says) as error:
        read_intervals(file)
    assert str(file) in str(error.value)


def test_videos_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="--long"):
        LongVideos.read(tmp_path)
    with pytest.raises(ManifestError, match="listed twice"):
        LongVideos(root=tmp_path, videos=(V, V), intervals=())
    with pytest.raises(ManifestError, match="after the last frame, 999"):
        LongVideos(root=tmp_path, videos=(V,), intervals=(mark(990, 1000),))
    with pytest.raises(ManifestError, match="does not list; correct or add it"):
        LongVideos(root=tmp_path, videos=(), intervals=(mark(0, 3),))
    with pytest.raises(ManifestError, match="does not list; write other into its column database"):
        LongVideos(root=tmp_path, videos=(dataclasses.replace(V, database="other"),), intervals=(mark(0, 3),))
    (tmp_path / "videos.csv").write_text("subject,video,path,fps,frames\n1,a,a.avi,0,10\n")
    (tmp_path / "intervals.csv").write_bytes(intervals_csv([]))
    with pytest.raises(ManifestError, match="fps=0"):
        LongVideos.read(tmp_path)
    (tmp_path / "videos.csv").write_text("subject,video,path,fps,frames\n")
    with pytest.raises(ManifestError, match="lists no video"):
        LongVideos.read(tmp_path)
