"""Rows of a design: counts, balance, sides, intensities; every drawn row can be shown by the default generator."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesynth.core import facs
from mesynth.core.emotions import CLASS_OF
from mesynth.core.errors import MesynthError
from mesynth.corpus.design import load_design, make_sources
from mesynth.corpus.plan import PlanRow
from mesynth.corpus.planning import Planner, _PermutedBlocks
from mesynth.motion.prior import check_reach
from mesynth.store.manifest import Manifest
from tests.corpus.coded import coded_manifest


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return coded_manifest(tmp_path_factory.mktemp("coded"))


def planner(settings: list[str], n_faces: int = 5, manifest: Manifest | None = None) -> Planner:
    design = load_design(None, settings)
    return Planner(design, n_faces, make_sources(design.aus, manifest, ()))


def rows(settings: list[str], n_faces: int = 5, manifest: Manifest | None = None) -> list[PlanRow]:
    made = planner(settings, n_faces, manifest)
    out = list(made)
    assert len(out) == len(made)
    assert [row.index for row in out] == list(range(len(out)))
    return out


def test_classes_sources_levels_and_faces_are_balanced() -> None:
    made = rows(["rows.count=180", "aus.sources=[published,expert]", "nuisance.head=[0,1,2]"])
    assert Counter(CLASS_OF[r.emotion] for r in made) == {"negative": 60, "positive": 60, "surprise": 60}
    assert Counter((CLASS_OF[r.emotion], r.au_source) for r in made) == Counter(
        {(c, s): 30 for c in ("negative", "positive", "surprise") for s in ("published", "expert")}
    )
    assert set(Counter((CLASS_OF[r.emotion], r.nuisance.head) for r in made).values()) == {20}
    assert set(Counter((CLASS_OF[r.emotion], r.face) for r in made).values()) == {12}


def test_shares() -> None:
    made = rows(["rows.count=100", "shares=[0.5,0.3,0.2]"])
    assert Counter(CLASS_OF[r.emotion] for r in made) == {"negative": 50, "positive": 30, "surprise": 20}
    first = Counter(CLASS_OF[r.emotion] for r in made[:10])
    assert first == {"negative": 5, "positive": 3, "surprise": 2}  # also at the beginning


@pytest.mark.parametrize("shares", ["", "shares=[0.5,0.3,0.2]", "shares=[0.62,0.2,0.18]"])
@pytest.mark.parametrize("n_faces", [1, 3, 7, 10])
def test_no_face_again_before_all_were(shares: str, n_faces: int) -> None:
    made = rows(["rows.count=210", *([shares] if shares else [])], n_faces)
    for start in range(0, 210 - n_faces + 1, n_faces):
        assert sorted(r.face for r in made[start : start + n_faces]) == list(range(n_faces))
    for name in ("negative", "positive", "surprise"):
        met = Counter(r.face for r in made if CLASS_OF[r.emotion] == name)
        assert max(met.values()) - min(met[face] for face in range(n_faces)) <= (2 if shares else 1)


def test_a_longer_plan_begins_with_the_shorter() -> None:
    assert rows(["rows.count=40"]) == rows(["rows.count=130"])[:40]
    assert rows(["rows.count=40"]) != rows(["rows.count=40", "seed=1"])


def test_factorial_is_every_combination_once() -> None:
    factors = [
        "rows.mode=factorial", "rows.seeds=2", "emotions=[surprise,fear]", "aus.sources=[published,expert]",
        "aus.intensity=['level:0.25','letters:A:B']", "aus.sides=[both,left]", "clip.profiles=[symmetric,held]",
        "nuisance.head=[0,1]", "nuisance.noise=[0]",
    ]  # fmt: skip
    made = rows(factors, n_faces=3)
    assert len(made) == 2 * 2 * 2 * 2 * 2 * 2 * 2 * 3
    cells = Counter((r.emotion, r.au_source, r.profile.hold, r.nuisance.head, r.face) for r in made)
    assert len(cells) == 2 * 2 * 2 * 2 * 3
    assert set(cells.values()) == {2 * 2 * 2}
    assert len({r.seed for r in made}) == len(made)
    half = [(r.emotion, r.au_source, r.profile, r.nuisance, r.face) for r in made[: len(made) // 2]]
    assert half == [(r.emotion, r.au_source, r.profile, r.nuisance, r.face) for r in made[len(made) // 2 :]]


def test_fixed_requests_are_taken_as_they_are() -> None:
    settings = ["emotions=[]", "aus.sources=[fixed]", "aus.fixed=['positive: 12=B,L6=0.3','fear: 20=E']"]
    made = rows([*settings, "rows.mode=factorial"], n_faces=2)
    assert [(r.emotion, facs.format_vector(r.aus)) for r in made[::2]] == [
        ("positive", "L6=0.3,12=0.25"),
        ("fear", "20=1"),
    ]
    with pytest.raises(MesynthError, match="no request for 'surprise'"):
        planner(["emotions=[surprise]", *settings[1:]])


def test_sides() -> None:
    midline = np.array([code in facs.MIDLINE for code in facs.AU_CODES])
    for side, column in (("left", 0), ("right", 1)):
        for row in rows(["rows.count=60", f"aus.sides=[{side}]"]):
            cells = np.array(row.intensity)
            assert (cells[~midline, 1 - column] == 0).all()
            assert (cells[midline, 0] == cells[midline, 1]).all()
    apart = [np.array(r.intensity)[~midline] for r in rows(["rows.count=300", "emotions=[surprise]"])]
    weak = np.mean([min(c.max(0)) < 0.4 * max(c.max(0)) for c in apart])
    assert 0.27 < weak < 0.43  # unilateral with probability .35
    for row in rows(["rows.count=60", "aus.sides=[both]", "aus.side_spread=0", "emotions=[surprise]"]):
        cells = np.array(row.intensity)
        np.testing.assert_array_equal(cells[:, 0], cells[:, 1])


def test_intensity_distributions() -> None:
    def strongest(how: str) -> np.ndarray:
        settings = ["rows.count=400", "emotions=[contempt]", f"aus.intensity=['{how}']", "aus.sides=[both]"]
        return np.array(
            [max(max(pair) for pair in r.intensity) for r in rows([*settings, "aus.spread=0", "aus.side_spread=0"])]
        )

    assert set(np.round(strongest("level:0.3"), 6)) == {0.3}
    letters = Counter(np.round(strongest("letters:A:C"), 6))
    assert set(letters) == {0.1, 0.5}
    assert 150 < letters[0.1] < 250
    uniform = strongest("uniform:0.2:0.4")
    assert uniform.min() >= 0.2 - 1e-6
    assert uniform.max() <= 0.4 + 1e-6
    assert uniform.mean() == pytest.approx(0.3, abs=0.01)
    assert strongest("beta:2:6").mean() == pytest.approx(0.25, abs=0.03)


def test_coded_intensities_are_kept_and_their_subjects_named(manifest: Manifest) -> None:
    made = rows(["rows.count=120", "aus.sources=[coded]", "aus.intensity=[coded]"], manifest=manifest)
    known = [r for r in made if r.au_seen == ("db/03",) and CLASS_OF[r.emotion] == "positive"]
    assert known
    for row in known:
        assert facs.format_vector(row.aus) == "6=0.5,12=0.75"
    right = [r for r in made if r.au_seen == ("db/01",) and r.emotion == "happiness"]
    assert right
    assert all(facs.format_vector(r.aus).startswith("R12=") for r in right)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), source=st.sampled_from(["published", "expert", "coded", "cooccurrence", "macro"]),
       sides=st.sampled_from(["drawn", "both", "left", "right"]),
       how=st.sampled_from(["uniform:0.12:0.6", "beta:5:1", "letters:C:E", "level:1", "coded"]))  # fmt: skip
def test_every_drawn_row_can_be_shown(manifest: Manifest, seed: int, source: str, sides: str, how: str) -> None:
    design = [f"seed={seed}", "rows.count=6", f"aus.sources=[{source}]", f"aus.sides=[{sides}]",
              f"aus.intensity=['{how}']", "clip.duration=[0.04,0.5]"]  # fmt: skip
    for row in rows(design, manifest=manifest if source in ("coded", "cooccurrence", "macro") else None):
        check_reach(row.aus)
        assert row.aus.intensity.max() > 0
        assert 0 <= row.face < 5
        assert bool(row.au_seen) == (source in ("coded", "cooccurrence", "macro"))


def test_rounds_take_each_thing_once() -> None:
    rounds = _PermutedBlocks(3)
    taken = [rounds.take("a", turn, 7) for turn in range(21)]
    assert [sorted(taken[i : i + 7]) for i in (0, 7, 14)] == [list(range(7))] * 3
    assert taken[:7] != taken[7:14]
    assert _PermutedBlocks(3).take("a", 9, 7) == taken[9]


def test_too_many_rows_and_no_face() -> None:
    with pytest.raises(MesynthError, match="no face"):
        planner([], n_faces=0)
    with pytest.raises(MesynthError, match="more than 10000000"):
        planner(["rows.mode=factorial", "rows.seeds=10000000"])
    huge = planner(["rows.count=10000000"])
    assert len(list(islice(huge, 5))) == 5  # drawn as it is walked
