"""Verdicts follow the intervals: each reading of each question, and what the page shows of clips."""

from __future__ import annotations

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mesynth.core.statistics import group_weights, percentiles
from mesynth.core.types import N_AUS
from mesynth.metrics import page as pictures
from mesynth.metrics.base import MeasureRow, not_measured
from mesynth.metrics.control import control, pooled_columns, slopes
from mesynth.metrics.networks.judge import visible_aus
from mesynth.metrics.page import Gallery
from mesynth.metrics.report import ClipFigures, MeasureReport, verdicts
from mesynth.store.manifest import Manifest

Corpora = tuple[Manifest, Manifest]


def _answer(question: str, *rows: MeasureRow) -> tuple[str, str, str]:
    found = next(v for v in verdicts(MeasureReport(rows=rows, corpora={}, settings={})) if question in v.question)
    return found.kind, found.verdict, found.basis


def _row(group: str, key: str, value: float, low: float, high: float, **beside: float) -> MeasureRow:
    """Its label says nothing: verdicts find rows by their keys."""
    reference = {key.replace("_", " "): number for key, number in beside.items()}
    return MeasureRow(
        group=group, name="any label", key=key, value=value, low=low, high=high, n=50, reference=reference
    )  # fmt: skip


@pytest.mark.parametrize(
    ("value", "low", "high", "kind", "words"),
    [
        (0.91, 0.88, 0.94, "good", "on target"),
        (0.5, 0.4, 0.6, "bad", "weaker"),
        (1.5, 1.3, 1.6, "bad", "stronger"),
        (0.8, 0.7, 0.9, "open", "about on target"),
        (0.711, 0.575, 0.826, "open", "weaker"),
        (1.25, 1.1, 1.4, "open", "stronger"),
    ],
)
def test_au_control(value: float, low: float, high: float, kind: str, words: str) -> None:
    found = _answer("action units", _row("AU control", "au_slope", value, low, high, real=0.98))
    assert found[0] == kind
    assert words in found[1]
    assert f"{value:g} [{low:g}, {high:g}] of 1, real clips 0.98" in found[2]


@pytest.mark.parametrize(
    ("low", "high", "floor", "kind"),
    [(-0.1, 0.03, 0.5, "good"), (0.01, 0.03, 0.5, "good"), (0.02, 0.2, 0.5, "bad"), (-0.1, 0.2, 0.5, "open"),
     (-0.1, 0.03, 0.1, "open"), (-0.1, -0.03, 0.1, "good")],
)  # fmt: skip
def test_identity_allows_a_tenth_of_the_way_to_another_person(low: float, high: float, floor: float, kind: str) -> None:
    whole = MeasureRow(group="identity", name="identity distance", key="identity", value=0.1,
                       reference={"floor (different people)": floor})  # fmt: skip
    apex = _row("identity", "identity_apex", 0.12, 0.1, 0.14, real=0.1)
    beyond = _row("identity", "identity_beyond_real", (low + high) / 2, low, high)
    assert _answer("person", whole, apex, beyond)[0] == kind


def test_other_questions() -> None:
    assert _answer("apex pictures", _row("pictures", "kid", 0.1, 0.05, 0.2))[0] == "bad"
    assert _answer("apex pictures", _row("pictures", "kid", 0.1, -0.05, 0.2))[0] == "open"
    assert _answer("as large", _row("sequence", "motion", 2, 1.5, 2.5, real=1))[1].startswith("larger: 2.00")
    assert _answer("as large", _row("sequence", "motion", 1, 0.5, 2.5, real=1))[0] == "open"
    name = "flow_epe"
    assert _answer("stored flow", _row("flow", name, 0.1, 0.05, 0.2, zero_flow=1))[1] == "yes"
    assert _answer("stored flow", _row("flow", name, 0.7, 0.6, 0.8, zero_flow=1))[0] == "open"
    assert _answer("stored flow", _row("flow", name, 2, 1.5, 2.5, zero_flow=1))[0] == "bad"
    assert _answer("where the clip says", _row("sequence", "apex_error", 0, 0, 1))[0] == "good"
    assert _answer("where the clip says", _row("sequence", "apex_error", 4, 3, 5))[1] == "off by 4 frames"


@pytest.mark.parametrize(
    ("question", "row", "about"),
    [("stored flow", _row("flow", "flow_epe", 0.4, 0.3, 0.6, zero_flow=1), True),
     ("stored flow", _row("flow", "flow_epe", 0.6, 0.4, 0.8, zero_flow=1), False),
     ("where the clip says", _row("sequence", "apex_error", 1, 0.5, 3), True),
     ("where the clip says", _row("sequence", "apex_error", 2, 0.5, 3), False)],
)  # fmt: skip
def test_about_is_said_within_the_limit_alone(question: str, row: MeasureRow, about: bool) -> None:
    kind, words, _ = _answer(question, row)
    assert kind == "open"
    assert words.startswith("about") == about


@pytest.mark.parametrize(("share", "n", "kind"), [(0.0, 600, "good"), (0.0, 30, "open"), (0.2, 100, "bad")])
def test_memory_needs_enough_clips_to_say_no(share: float, n: int, kind: str) -> None:
    row = MeasureRow(group="memorisation", name="copied share", value=share, n=n,
                     reference={"expected without copying": 0.01, "training clips compared": 400.0})  # fmt: skip
    found = _answer("repeat", row)
    assert found[0] == kind
    assert f"{round(share * n)} of {n} nearer" in found[2]


def test_what_was_not_measured_says_why() -> None:
    found = verdicts(MeasureReport(rows=(), corpora={}, settings={}))
    assert {v.kind for v in found} == {"none"}
    why = not_measured("identity", "no dlib here")
    assert _answer("person", why) == ("none", "not measured", "no dlib here")


# ---------------------------------------------------------------- figures by clip


def test_slopes_without_resampling_are_the_reported_slope(rng: np.random.Generator) -> None:
    target = np.where(rng.random((30, N_AUS, 2)) < 0.2, rng.random((30, N_AUS, 2)), 0).astype(np.float32)
    measured = 0.7 * target + 0.05 * rng.random(target.shape)
    trusted = (1, 2, 4, 9, 12)
    columns = [pooled_columns(v, trusted) for v in (visible_aus(target), measured)]
    once = slopes(*columns, np.ones((1, 30)))[0]
    reported = control(target, measured, trusted).pooled.slope
    assert once == pytest.approx(reported, rel=1e-5)
    low, high = percentiles(slopes(*columns, group_weights([str(i) for i in range(30)], rng)))
    assert low is not None
    assert high is not None
    assert low < once < high


def test_targets_that_do_not_vary_have_no_slope(rng: np.random.Generator) -> None:
    weights = group_weights(["a", "b", "a", "c"], rng, resamples=50)
    assert np.isnan(slopes(np.zeros((4, 2)), np.ones((4, 2)), weights)).all()


# ---------------------------------------------------------------- pictures


def _decoded(uri: str) -> Image.Image:
    head, data = uri.split(",")
    assert head == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_moving_pictures_move_and_stay_small() -> None:
    frames = np.zeros((40, 300, 200, 3), np.uint8)
    for i, frame in enumerate(frames):
        frame[:, : 5 * i] = 255
    found = _decoded(pictures.moving(frames, 17))
    assert found.n_frames in (pictures.MOVING_FRAMES, pictures.MOVING_FRAMES + 1)
    assert max(found.size) == pictures.SIDE
    assert found.size == (96, 144)


def test_difference_is_grey_where_nothing_moves() -> None:
    onset = np.full((8, 8, 3), 100, np.uint8)
    apex = onset.copy()
    apex[0, 0] += 10
    found = pictures.difference(onset, apex)
    assert (found[1:] == 128).all()
    assert (found[0, 0] == 128 + 10 * pictures.DIFFERENCE_GAIN).all()


def test_best_and_worst_are_different_clips(corpora: Corpora) -> None:
    ids = list(corpora[1].column("clip_id"))
    figures = [ClipFigures(clip_id=c, identity=i / 10) for i, c in enumerate(ids[:5])]
    best, worst = Gallery(corpora[1]).extremes([*figures, ClipFigures(clip_id=ids[6])], "identity", 4)
    assert [c["clip"] for c in best] == ids[:2]
    assert [c["clip"] for c in worst] == [ids[4], ids[3]]
    assert worst[0]["figure"] == "0.40"
    assert Gallery(corpora[1]).extremes(figures, "au_error", 4) == ([], [])


def test_an_intensity_grid_needs_one_au_alone_on_one_face(corpora: Corpora) -> None:
    from mesynth.core import facs
    from mesynth.store.manifest import Row

    rows = []
    for i, level in enumerate((0.5, 0.1, 1.0, 0.1)):
        aus = Row.au_columns(facs.parse_request(f"12={level}"))
        rows.append(replace(corpora[1].row(i), subject="one", au_text=f"12={level}", **aus))
    manifest = Manifest.from_rows(rows, corpora[1].root)
    (code, who, found), *others = pictures.sweeps(manifest)
    assert (code, who, [r.au_text for r in found], others) == (12, "heads/one", ["12=0.1", "12=0.5", "12=1.0"], [])
    (title, cards), *_ = Gallery(manifest).grids(2)
    assert title == "AU 12 on heads/one"
    assert [c["target"] for c in cards] == ["12 .1", "12 .5", "12 1"]
    assert pictures.sweeps(manifest[:2]) == []
    assert pictures.sweeps(corpora[0]) == []


def test_shown_clips_are_of_many_people(corpora: Corpora) -> None:
    rows = pictures.spread(list(corpora[1]), 4)
    assert len({r.subject_key for r in rows[:4]}) == 4
    assert {r.clip_id for r in rows} == {r.clip_id for r in corpora[1]}
    assert len(rows) == 12
