"""A plan row depends on its index alone; classes and faces stay balanced."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesynth.core.emotions import CLASS_OF
from mesynth.core.errors import MesynthError
from mesynth.corpus.plan import Plan, PlanConfig, face_of, write_plan

MIXED = PlanConfig(emotions=("negative", "positive", "surprise"), count=60, duration=(0.2, 0.5))


def test_a_longer_plan_begins_with_the_shorter() -> None:
    assert list(Plan(replace(MIXED, count=20), 5)) == list(Plan(MIXED, 5)[:20])


def test_classes_and_faces_are_balanced() -> None:
    rows = Plan(MIXED, 5)
    assert Counter(CLASS_OF[r.emotion] for r in rows) == {"negative": 20, "positive": 20, "surprise": 20}
    assert set(Counter(r.face for r in rows).values()) == {12}
    assert len({r.face for r in rows if r.emotion == "surprise"}) == 5


@given(n_faces=st.integers(1, 12), n_kinds=st.integers(1, 12), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_no_face_again_before_all_were(n_faces: int, n_kinds: int, seed: int) -> None:
    """And after every face has met every kind once, it begins anew in another order."""
    both = n_faces * n_kinds
    faces = [face_of(index, n_faces, n_kinds, seed) for index in range(2 * both)]
    for start in range(0, 2 * both, n_faces):
        assert sorted(faces[start : start + n_faces]) == list(range(n_faces))
    for block in (0, both):
        met = Counter((faces[i], i % n_kinds) for i in range(block, block + both))
        assert len(met) == both
        assert set(met.values()) == {1}


def test_few_clips_are_of_different_people() -> None:
    assert len({r.face for r in Plan(replace(MIXED, count=9), 9)}) == 9


def test_durations_and_frames() -> None:
    rows = Plan(MIXED, 5)
    assert min(r.n_frames for r in rows) >= 41
    assert max(r.n_frames for r in rows) <= 101
    assert len({r.n_frames for r in rows}) > 10


def test_the_same_aus_in_every_clip_when_asked() -> None:
    rows = Plan(PlanConfig(au=("12=B,L4=0.2",), count=3), 1)
    assert len({r.intensity for r in rows}) == 1
    assert {r.au_source for r in rows} == {"user"}
    assert len({r.seed for r in rows}) == 3


def test_a_plan_file_reads_back(tmp_path: Path) -> None:
    rows = Plan(MIXED, 5)
    lines = write_plan(rows, tmp_path).read_text().splitlines()
    first = json.loads(lines[0])
    assert len(lines) == 60
    assert first["seed"] == rows[0].seed
    assert first["intensity"] == [list(pair) for pair in rows[0].intensity]


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({}, "give either --au"),
        ({"au": ("12=B",), "emotions": ("fear",)}, "give either --au"),
        ({"au": ("12=B,15=B",)}, "exclude each other"),
        ({"emotions": ("joy",)}, "'joy' is not in"),
        ({"au": ("12=B",), "count": 0}, "count=0"),
        ({"au": ("12=B",), "size": 8}, "size=8"),
        ({"au": ("12=B",), "duration": (0.9, 0.9)}, "not a micro-expression"),
        ({"au": ("12=B",), "duration": (0.4, 0.2)}, "ascending"),
        ({"au": ("12=B",), "profile": "slow"}, "profile 'slow'"),
        ({"au": ("12=B",), "fps": 0.0}, "fps=0"),
    ],
)
def test_bad_plans_are_named(config: dict[str, object], says: str) -> None:
    with pytest.raises(MesynthError, match=says):
        PlanConfig(**config)  # type: ignore[arg-type]


def test_no_face_no_plan() -> None:
    with pytest.raises(MesynthError, match="no face"):
        Plan(MIXED, 0)


def test_several_requests_are_taken_in_turn() -> None:
    rows = Plan(PlanConfig(au=("12=A", "12=B"), count=4), 2)
    assert [max(map(max, r.intensity)) for r in rows] == pytest.approx([0.1, 0.25, 0.1, 0.25])


def test_a_plan_of_any_length_is_small() -> None:
    plan = Plan(replace(MIXED, count=10_000_000), 5)
    assert plan[9_999_990:][3].index == 9_999_993
    assert len(plan) == 10_000_000
