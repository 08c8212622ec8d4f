from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesynth.core.errors import ConfigError, LeakError, ManifestError
from mesynth.core.types import optical_strain
from recognizer.data import FlowSet, load
from recognizer.protocol import (
    ARMS,
    COPIES,
    OWN_CLIPS,
    Fold,
    PoolTooSmallError,
    ProtocolConfig,
    copies,
    make_folds,
    mix,
    rounds_for,
    similarity,
)
from tests.recognizer.corpora import write_corpus


def saw(pool: FlowSet, clip: int, *subjects: str) -> FlowSet:
    """``pool`` where one clip's maker saw the given subjects."""
    seen = list(pool.subjects_seen)
    seen[clip] = subjects
    return replace(pool, subjects_seen=tuple(seen))


@pytest.mark.parametrize(("kind", "count"), [("loso", 8), ("lovo", 48), ("kfold", 3)])
def test_every_clip_is_tested_once(sets: dict[str, FlowSet], kind: str, count: int) -> None:
    real = sets["real"]
    folds = make_folds(real, ProtocolConfig(kind=kind, groups=3))
    assert len(folds) == count
    assert sorted(np.concatenate([f.test_index for f in folds])) == list(range(48))
    for fold in folds:
        assert len(fold.train_index) + len(fold.test_index) == 48
        shared = set(real.subjects[fold.train_index]) & set(real.subjects[fold.test_index])
        assert bool(shared) == (kind == "lovo")
        assert fold.subject_independent == (kind != "lovo")


def test_one_subject_number_in_two_databases_is_two_people(tmp_path: Path) -> None:
    both = load([write_corpus(tmp_path / d, subjects=2, clips=3, database=d) for d in ("A", "B")])
    assert [f.name for f in make_folds(both)] == ["A/00", "A/01", "B/00", "B/01"]
    assert [f.name for f in make_folds(both, ProtocolConfig(kind="cde"))] == [f.name for f in make_folds(both)]
    by_database = make_folds(both, ProtocolConfig(kind="lodo"))
    assert [(f.name, sorted(f.held_out)) for f in by_database] == [("A", ["A/00", "A/01"]), ("B", ["B/00", "B/01"])]


def test_from_one_database_to_another(tmp_path: Path) -> None:
    three = load([write_corpus(tmp_path / d, subjects=2, clips=3, database=d) for d in ("A", "B", "C")])
    folds = make_folds(three, ProtocolConfig(kind="hde"))
    assert [f.name for f in folds] == ["A->B", "A->C", "B->A", "B->C", "C->A", "C->B"]
    for fold in folds:
        source, target = fold.name.split("->")
        assert set(three.databases[fold.train_index]) == {source}
        assert set(three.databases[fold.test_index]) == {target}
        assert (len(fold.train_index), len(fold.test_index)) == (6, 6)
        assert fold.held_out == {f"{target}/00", f"{target}/01"}


@pytest.mark.parametrize("kind", ["cde", "hde", "lodo"])
def test_protocols_over_databases_need_two(sets: dict[str, FlowSet], kind: str) -> None:
    with pytest.raises(
        ManifestError, match=f"{kind} needs at least two databases with a class; the manifest has one: DB"
    ):
        make_folds(sets["real"], ProtocolConfig(kind=kind))


def test_kfold_is_even_and_seeded(sets: dict[str, FlowSet]) -> None:
    folds = make_folds(sets["real"], ProtocolConfig(kind="kfold", groups=4))
    assert [len(f.test_index) for f in folds] == [12, 12, 12, 12]
    again = make_folds(sets["real"], ProtocolConfig(kind="kfold", groups=4))
    other = make_folds(sets["real"], ProtocolConfig(kind="kfold", groups=4, seed=1))
    assert [f.held_out for f in folds] == [f.held_out for f in again]
    assert [f.held_out for f in folds] != [f.held_out for f in other]
    with pytest.raises(ManifestError, match="exceeds the 8 subjects"):
        make_folds(sets["real"], ProtocolConfig(kind="kfold", groups=9))


def test_synthetic_clips_are_never_tested_on(sets: dict[str, FlowSet]) -> None:
    with pytest.raises(ManifestError, match=r"48 clips to test on are synthetic.*--synthetic"):
        make_folds(replace(sets["real"], kinds=np.array(["synthetic"] * 48)))


def test_one_subject_cannot_be_left_out(sets: dict[str, FlowSet]) -> None:
    with pytest.raises(ManifestError, match="at least two subjects"):
        make_folds(sets["real"].take(np.arange(6)))


def test_a_fold_on_its_own_test_clips_is_a_leak() -> None:
    with pytest.raises(LeakError, match="trains on its own test clips"):
        Fold(name="x", train_index=np.arange(3), test_index=np.array([2]), held_out=frozenset({"a"}))


# ---------------------------------------------------------------- leaks


def test_a_generator_that_saw_the_subject_is_named(sets: dict[str, FlowSet]) -> None:
    pool = saw(sets["synthetic"], 7, "other/1", "DB/03")
    with pytest.raises(LeakError) as error:
        mix(sets["real"], pool, make_folds(sets["real"]), ratio=1)
    text = str(error.value)
    for word in (pool.clip_ids[7], "made by prior", "DB/03", "zero-weight", "synthetic"):
        assert str(word) in text


def test_zero_weight_keeps_one_pool_for_all_folds(sets: dict[str, FlowSet]) -> None:
    real, pool = sets["real"], sets["synthetic"]
    for clip in range(120):  # half of the pool saw somebody
        pool = saw(pool, clip, f"DB/{clip % 8:02d}")
    folds = make_folds(real)
    mixture = mix(real, pool, folds, ratio=1, policy="zero-weight")
    assert mixture.weights.shape == (8, 48 + 240)
    assert mixture.blocked.tolist() == [15] * 8
    assert mixture.n_added.tolist() == [42] * 8
    for fold, weights in zip(folds, mixture.weights, strict=True):
        used = np.flatnonzero(weights > 0)
        assert not weights[fold.test_index].any()
        for i in used:
            assert fold.held_out.isdisjoint(mixture.pool.subjects_seen[i])
    # What is blocked in one fold is used in another.
    assert (mixture.weights[:, 48:168] > 0).any()


@pytest.mark.parametrize("kind", ["real", "rendered"])
def test_a_real_clip_among_the_synthetic_is_held_to_the_same_rule(
    sets: dict[str, FlowSet], tmp_path: Path, kind: str
) -> None:
    copies = load(write_corpus(tmp_path / "copies", kind=kind, seed=3, subjects=8))  # of the same subjects
    copies = replace(copies, clip_ids=np.array([f"copy/{i}" for i in range(len(copies))]))
    with pytest.raises(LeakError, match=f"copy/0' \\({kind}\\) saw subject DB/00"):
        mix(sets["real"], copies, make_folds(sets["real"]), ratio=0.1)
    # Its face is enough, even if the provenance forgot to say so.
    forgot = replace(copies, subjects_seen=((),) * len(copies))
    with pytest.raises(LeakError, match="saw subject DB/00"):
        mix(sets["real"], forgot, make_folds(sets["real"]), ratio=0.1)


def test_a_real_training_clip_that_learned_from_the_test_subject(sets: dict[str, FlowSet]) -> None:
    real = saw(sets["real"], 0, "DB/00", "DB/05")  # e.g. warped with another subject's motion
    with pytest.raises(LeakError, match="saw subject DB/05"):
        mix(real, None, make_folds(real), ratio=0)
    mixture = mix(real, None, make_folds(real), ratio=0, policy="zero-weight")
    assert mixture.weights[5, 0] == 0
    assert mixture.n_real.tolist() == [42, 42, 42, 42, 42, 41, 42, 42]


def test_lovo_trains_on_the_subject_but_not_on_what_a_generator_learned_of_it(sets: dict[str, FlowSet]) -> None:
    folds = make_folds(sets["real"], ProtocolConfig(kind="lovo"))
    assert mix(sets["real"], sets["synthetic"], folds, ratio=1).n_real.tolist() == [47] * 48
    with pytest.raises(LeakError):
        mix(sets["real"], saw(sets["synthetic"], 0, "DB/00"), folds, ratio=1)


def test_no_synthetic_clip_no_leak(sets: dict[str, FlowSet]) -> None:
    mixture = mix(sets["real"], saw(sets["synthetic"], 0, "DB/00"), make_folds(sets["real"]), ratio=0)
    assert not mixture.weights[:, 48:].any()


# ---------------------------------------------------------------- ratios


@settings(max_examples=25, deadline=None)
@given(
    low=st.floats(0.01, 4),
    high=st.floats(0.01, 4),
    seed=st.integers(0, 1000),
    keep=st.sets(st.integers(0, 47), min_size=12),
)
def test_a_larger_ratio_contains_the_smaller_ones_clips(
    sets: dict[str, FlowSet], low: float, high: float, seed: int, keep: set[int]
) -> None:
    real = sets["real"].take(np.array(sorted(keep)))
    folds = make_folds(real)
    low, high = sorted((low, high))
    low, high = min(low, 1.5), min(high, 1.5)  # one class may hold every clip, and the pool 80 of each
    a = mix(real, sets["synthetic"], folds, ratio=low, seed=seed)
    b = mix(real, sets["synthetic"], folds, ratio=high, seed=seed)
    assert ((a.weights > 0) <= (b.weights > 0)).all()
    for f, fold in enumerate(folds):
        train = real.y[fold.train_index]
        assert a.n_added[f] == round(low * len(train))
        drawn = b.pool.y[(b.weights[f] > 0) & b.added]
        assert len(drawn) == b.n_added[f]
        wanted = high * np.bincount(train, minlength=3)
        assert (np.abs(np.bincount(drawn, minlength=3) - wanted) < 1.5).all()


def test_clips_depend_on_seed_and_fold_alone(sets: dict[str, FlowSet]) -> None:
    real, pool, folds = sets["real"], sets["synthetic"], make_folds(sets["real"])
    whole = mix(real, pool, folds, ratio=1, seed=3)
    alone = mix(real, pool, folds[2:3], ratio=1, seed=3)
    np.testing.assert_array_equal(whole.weights[2], alone.weights[0])
    assert (mix(real, pool, folds, ratio=1, seed=4).weights != whole.weights).any()


def test_a_small_pool_says_how_many_are_needed(sets: dict[str, FlowSet]) -> None:
    with pytest.raises(PoolTooSmallError, match=r"needs 84 synthetic clips of class \w+ and may use 80"):
        mix(sets["real"], sets["synthetic"], make_folds(sets["real"]), ratio=6)


def test_bad_requests(sets: dict[str, FlowSet]) -> None:
    real, folds = sets["real"], make_folds(sets["real"])
    for values, match in (
        ({"ratio": -1.0}, "mix.ratio"), ({"ratio": 1.0, "policy": "ignore"}, "mix.leak"),
        ({"ratio": 1.0, "arm": "magic"}, "magic"), ({"ratio": 0.0, "train_subjects": 9}, "exceeds the 7 subjects"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=match):
            mix(real, sets["synthetic"], folds, **values)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="pass --synthetic"):
        mix(real, None, folds, ratio=1)


# ---------------------------------------------------------------- controls


def test_duplicates_count_the_folds_own_clips_again(sets: dict[str, FlowSet]) -> None:
    mixture = mix(sets["real"], sets["synthetic"], make_folds(sets["real"]), ratio=1.5, arm="duplicates")
    assert mixture.weights.sum(1).tolist() == [42 + 63] * 8
    assert not mixture.weights[:, 48:].any()
    assert set(np.unique(mixture.weights)) == {0.0, 2.0, 3.0}


def test_shuffled_labels_keep_clips_and_counts(sets: dict[str, FlowSet]) -> None:
    folds = make_folds(sets["real"])
    plain = mix(sets["real"], sets["synthetic"], folds, ratio=1)
    shuffled = mix(sets["real"], sets["synthetic"], folds, ratio=1, arm="shuffled")
    np.testing.assert_array_equal(shuffled.pool.x, plain.pool.x)
    np.testing.assert_array_equal(shuffled.pool.y[:48], plain.pool.y[:48])
    assert 0.2 < (shuffled.pool.y[48:] == plain.pool.y[48:]).mean() < 0.5
    assert shuffled.pool.class_counts.tolist() == plain.pool.class_counts.tolist()


def test_synthetic_only(sets: dict[str, FlowSet]) -> None:
    mixture = mix(sets["real"], sets["synthetic"], make_folds(sets["real"]), ratio=1, arm="synthetic-only")
    assert not mixture.weights[:, :48].any()
    assert (mixture.weights[:, 48:].sum(1) == 42).all()


def test_copies_enter_where_synthetic_clips_would(sets: dict[str, FlowSet]) -> None:
    real, folds = sets["real"], make_folds(sets["real"])
    for arm in COPIES:
        mixture = mix(real, sets["synthetic"], folds, ratio=1.5, arm=arm)
        assert mixture.n_added.tolist() == [63] * 8
        assert mixture.weights[:, :48].sum(1).tolist() == [42] * 8
        assert (mixture.weights[:, 48:].sum(1) == 63).all()
        assert set(mixture.pool.generators[mixture.added]) == {f"control/{arm}"}
        for fold, weights in zip(folds, mixture.weights, strict=True):
            used = np.flatnonzero(weights > 0)
            assert not set(mixture.pool.subjects[used]) & fold.held_out
            # Every copy is of a clip that is learned from as well.
            assert set(used[used >= 48] % 48) <= set(used[used < 48])
    once = mix(real, None, folds, ratio=1, arm="mirror").weights
    thrice = mix(real, None, folds, ratio=3, arm="mirror").weights
    np.testing.assert_array_equal(thrice[:, 48:], 3 * once[:, 48:])  # there is one mirror image, counted again


def test_a_copy_of_a_leaky_clip_is_the_same_leak(sets: dict[str, FlowSet]) -> None:
    real = saw(sets["real"], 0, "DB/00", "DB/05")
    with pytest.raises(LeakError, match="saw subject DB/05"):
        mix(real, None, make_folds(real), ratio=1, arm="mirror")
    mixture = mix(real, None, make_folds(real), ratio=1, arm="mirror", policy="zero-weight")
    assert mixture.weights[5, 0] == mixture.weights[5, 48] == 0
    assert mixture.weights[4, 48] == 1


def test_copies_in_leave_one_video_out(sets: dict[str, FlowSet]) -> None:
    folds = make_folds(sets["real"], ProtocolConfig(kind="lovo"))
    mixture = mix(sets["real"], None, folds, ratio=1, arm="mirror")
    assert mixture.n_added.tolist() == [47] * 48
    for f, fold in enumerate(folds):
        assert not mixture.weights[f, 48 + fold.test_index].any()


def test_balanced_classes(sets: dict[str, FlowSet]) -> None:
    keep = np.flatnonzero((sets["real"].y != 2) | (np.arange(48) < 9))  # few of the last class
    real = sets["real"].take(keep)
    folds = make_folds(real)
    for arm in ("synthetic", "duplicates", "augmented"):
        mixture = mix(real, sets["synthetic"], folds, ratio=1, arm=arm, balance="class")
        for weights in mixture.weights:
            extra = weights.copy()
            extra[: len(real)] = np.maximum(extra[: len(real)] - 1, 0)
            counts = np.bincount(mixture.pool.y, weights=extra, minlength=3)
            assert counts.max() - counts.min() <= 1
    two = real.take(np.flatnonzero(real.y != 2))
    mixed = mix(two, sets["synthetic"], make_folds(two), ratio=1, balance="class")
    assert all((mixed.weights[f] * (mixed.pool.y == 2)).sum() > 0 for f in range(8)), "a class the real clips lack"
    own = mix(two, None, make_folds(two), ratio=1, arm="augmented", balance="class")
    assert own.n_added.tolist() == own.n_real.tolist()
    with pytest.raises(ConfigError, match=r"mix\.balance='even' is unknown; choose from same, class"):
        mix(real, None, folds, ratio=0, balance="even")


# ---------------------------------------------------------------- no fold ever sees its subject


@settings(max_examples=60, deadline=None)
@given(
    arm=st.sampled_from(ARMS), kind=st.sampled_from(["loso", "kfold", "cde", "hde", "lodo"]),
    ratio=st.floats(0.1, 3), seed=st.integers(0, 99), subjects=st.sampled_from([0, 1, 2]),
    balance=st.sampled_from(["same", "class"]), only_added=st.booleans(),
    leaky=st.lists(st.tuples(st.integers(0, 239), st.integers(0, 7)), max_size=20),
)  # fmt: skip
def test_no_fold_ever_sees_its_subject(
    sets: dict[str, FlowSet],
    arm: str,
    kind: str,
    ratio: float,
    seed: int,
    subjects: int,
    balance: str,
    only_added: bool,
    leaky: list[tuple[int, int]],
) -> None:
    """By any arm, protocol, ratio or balance: what a fold learns from neither shows nor saw whom it is tested on."""
    real, pool = sets["real"], sets["synthetic"]
    databases = np.where(np.arange(48) < 24, "A", "B")
    named = np.char.add(np.char.add(databases, "/"), np.char.partition(real.subjects.astype(str), "/")[:, 2])
    real = replace(real, databases=databases, subjects=named, subjects_seen=tuple((str(s),) for s in named))
    for clip, subject in leaky:
        pool = saw(pool, clip, str(np.unique(named)[subject]))
    folds = make_folds(real, ProtocolConfig(kind=kind, groups=3))
    asked = {
        "ratio": ratio, "seed": seed, "arm": arm, "train_subjects": subjects, "balance": balance,
        "only_added": only_added,
    }  # fmt: skip
    mixture = mix(real, pool, folds, policy="zero-weight", **asked)  # type: ignore[arg-type]
    for f, fold in enumerate(folds):
        for i in np.flatnonzero(mixture.weights[f] > 0):
            assert fold.held_out.isdisjoint({str(mixture.pool.subjects[i]), *mixture.pool.subjects_seen[i]})
        if subjects and not only_added and arm != "synthetic-only":
            assert len(np.unique(real.subjects[mixture.weights[f, :48] > 0])) == subjects
    if leaky and arm not in OWN_CLIPS:
        with pytest.raises(LeakError):
            mix(real, pool, folds, policy="raise", **asked)  # type: ignore[arg-type]
    else:
        same = mix(real, pool, folds, policy="raise", **asked)  # type: ignore[arg-type]
        np.testing.assert_array_equal(same.weights, mixture.weights)


def test_few_subjects_are_nested(sets: dict[str, FlowSet]) -> None:
    folds = make_folds(sets["real"])
    three = mix(sets["real"], None, folds, ratio=0, train_subjects=3)
    five = mix(sets["real"], None, folds, ratio=0, train_subjects=5)
    assert three.n_real.tolist() == [18] * 8
    assert (three.weights <= five.weights).all()


# ---------------------------------------------------------------- a count of clips instead of a ratio


@pytest.mark.parametrize("train_subjects", [0, 2])
def test_a_count_adds_as_many_of_every_class_whatever_the_real_clips(
    sets: dict[str, FlowSet], train_subjects: int
) -> None:
    real, made = sets["real"], sets["synthetic"]
    folds = make_folds(real)
    many, few = (mix(real, made, folds, count=n, train_subjects=train_subjects) for n in (30, 12))
    for mixture, n in ((many, 30), (few, 12)):
        for weights in mixture.weights:
            assert np.bincount(mixture.pool.y[mixture.added & (weights > 0)]).tolist() == [n, n, n]
        assert (mixture.n_added == 3 * n).all()
        assert (mixture.n_real == (42 if not train_subjects else 12)).all()
    assert ((few.weights > 0) <= (many.weights > 0)).all()  # a larger count contains a smaller one's clips
    assert (many.weights[0] != many.weights[1])[many.added].any()  # each fold draws its own


def test_more_than_there_are_is_refused_or_all_there_are(sets: dict[str, FlowSet]) -> None:
    real, made = sets["real"], sets["synthetic"]
    folds = make_folds(real)
    with pytest.raises(PoolTooSmallError, match="needs 81 synthetic clips of class negative and may use 80"):
        mix(real, made, folds, count=81)
    everything = mix(real, made, folds, count=1000, at_most=True)
    assert (everything.n_added == 240).all()
    assert everything.weights[:, everything.added].all()
    # A class of which a fold may use none is no amount: nothing would say that it was left out.
    blind = replace(made, subjects_seen=tuple(("DB/02",) if y == 1 else () for y in made.y))
    with pytest.raises(
        PoolTooSmallError, match="fold DB/02 may use none of the 80 synthetic clips of class positive; make some"
    ):
        mix(real, blind, folds, count=1000, at_most=True, policy="zero-weight")
    without = made.take(np.flatnonzero(made.y != 1))
    with pytest.raises(PoolTooSmallError, match="DB/00 may use none of the 0 synthetic clips of class positive; gener"):
        mix(real, without, folds, count=1000, at_most=True)


@pytest.mark.parametrize("arm", OWN_CLIPS)
def test_copies_of_a_count_are_of_the_classes_a_fold_has(sets: dict[str, FlowSet], arm: str) -> None:
    real = sets["real"]
    few = real.take((real.y != 2) | (real.subjects == "DB/03"))
    mixture = mix(few, None, make_folds(few), count=7, arm=arm)
    for fold, weights, n in zip(mixture.folds, mixture.weights, mixture.n_added, strict=True):
        lacks = fold.name == "DB/03"
        counted = np.array([weights[mixture.pool.y == c].sum() for c in range(3)])
        own = np.bincount(few.y[fold.train_index], minlength=3)
        assert (counted - own).tolist() == [7, 7, 0 if lacks else 7]
        assert n == (14 if lacks else 21)


def test_a_count_beside_a_ratio_is_refused(sets: dict[str, FlowSet]) -> None:
    for wrong in ({"count": 5, "ratio": 1.0}, {"count": -1}):
        with pytest.raises(ConfigError, match=r"mix\.count="):
            mix(sets["real"], sets["synthetic"], make_folds(sets["real"]), **wrong)
    with pytest.raises(ConfigError, match="a count of 5 needs synthetic clips"):
        mix(sets["real"], None, make_folds(sets["real"]), count=5)


# ---------------------------------------------------------------- copies


def test_copies_say_whose_they_are(sets: dict[str, FlowSet]) -> None:
    real = sets["real"]
    for kind in COPIES:
        made = copies(real, kind, rounds=2)
        assert len(made) == 96
        assert made.synthetic.all()
        assert set(made.generators) == {f"control/{kind}"}
        assert len(set(made.clip_ids) | set(real.clip_ids)) == 96 + 48
        for i in (0, 7, 48 + 7):
            assert made.subjects[i] == real.subjects[i % 48]
            assert made.subjects_seen[i] == (real.subjects[i % 48],)
            assert made.y[i] == real.y[i % 48]
    with pytest.raises(ConfigError, match="'halved' are unknown"):
        copies(real, "halved")


def test_what_a_clip_had_seen_its_copy_has_seen(sets: dict[str, FlowSet]) -> None:
    warped = replace(sets["real"], subjects_seen=(("DB/00", "other/9"),) * 48)
    assert copies(warped, "mirror").subjects_seen[47] == ("DB/00", "DB/07", "other/9")


def test_mirror_flips_flow_sides_and_frames(sets: dict[str, FlowSet]) -> None:
    views = {"apex": np.arange(48 * 2 * 4 * 4, dtype=np.uint8).reshape(48, 2, 4, 4)}
    real = replace(sets["real"], views=views)
    made = copies(real, "mirror")
    np.testing.assert_array_equal(made.x[:, 0], -real.x[:, 0, :, ::-1])
    np.testing.assert_array_equal(made.x[:, 1], real.x[:, 1, :, ::-1])
    np.testing.assert_array_equal(made.views["apex"], views["apex"][..., ::-1])
    np.testing.assert_allclose(made.x[:, 2], optical_strain(made.x[:, :2]), atol=1e-6)
    sides = made.au.reshape(48, -1, 2)
    np.testing.assert_array_equal(sides, real.au.reshape(48, -1, 2)[..., ::-1])
    twice = copies(made, "mirror")
    np.testing.assert_array_equal(twice.x, real.x)


def test_magnified_flow_is_larger_and_its_strain_with_it(sets: dict[str, FlowSet]) -> None:
    real = sets["real"]
    plain = copies(real, "magnified", rounds=2).x
    factor = np.abs(plain).sum((1, 2, 3)) / np.abs(np.tile(real.x, (2, 1, 1, 1))).sum((1, 2, 3))
    assert factor.min() >= 1.5 - 1e-3
    assert factor.max() <= 3 + 1e-3
    assert factor.std() > 0.3
    assert len(np.unique(factor.round(6))) == 96
    np.testing.assert_allclose(plain[:48], factor[:48, None, None, None] * real.x, rtol=2e-3, atol=1e-4)
    np.testing.assert_allclose(plain[:, 2], optical_strain(plain[:, :2]), rtol=1e-2, atol=1e-3)


def test_a_turned_face_moves_in_a_turned_direction() -> None:
    """A uniform motion to the right, of faces turned by 90 degrees and doubled, is a doubled motion down."""
    flow = np.zeros((2, 2, 16, 16))
    flow[:, 0] = 1.0
    turned = similarity(flow, np.array([90.0, 0.0]), np.array([2.0, 0.5]), np.zeros((2, 2)))
    np.testing.assert_allclose(turned[0, 0], 0, atol=1e-12)
    np.testing.assert_allclose(turned[0, 1], 2, atol=1e-12)
    np.testing.assert_allclose(turned[1, 0], 0.5, atol=1e-12)


def test_places_move_with_the_face() -> None:
    flow = np.zeros((3, 2, 17, 17))
    flow[:, 1, 8, 12] = 1.0  # four pixels right of the centre
    moved = similarity(flow, np.array([90.0, 0.0, 0.0]), np.ones(3), np.array([[0.0, 0], [3.0, -2], [0, 0]]))
    strength = np.abs(moved).sum(1)
    assert np.unravel_index(strength[0].argmax(), (17, 17)) == (12, 8)  # right becomes down
    assert np.unravel_index(strength[1].argmax(), (17, 17)) == (6, 15)
    np.testing.assert_allclose(moved[2], flow[2], atol=1e-12)


def test_turning_there_and_back_gives_the_field_again() -> None:
    grid = (np.arange(28) - 13.5) / 28
    y, x = np.meshgrid(grid, grid, indexing="ij")
    bump = np.exp(-((x - 0.1) ** 2 + (y + 0.15) ** 2) / 0.02)
    flow = np.stack([bump, -0.5 * bump])[None]
    angle, scale = np.array([8.0]), np.array([1.05])
    there = similarity(flow, angle, scale, np.zeros((1, 2)))
    back = similarity(there, -angle, 1 / scale, np.zeros((1, 2)))
    assert np.abs(there - flow).max() > 0.1
    assert np.abs(back - flow).max() < 0.05  # two linear interpolations


def test_augmented_copies_stay_near_their_clip(sets: dict[str, FlowSet]) -> None:
    real = sets["real"]
    made = copies(real, "augmented", rounds=2)
    plain = made.x
    np.testing.assert_allclose(plain[:, 2], optical_strain(plain[:, :2]), rtol=1e-2, atol=2e-3)
    a, b = plain[:48, :2].reshape(48, -1), real.x[:, :2].reshape(48, -1)
    a, b = (v - v.mean(1, keepdims=True) for v in (a, b))
    similar = (a @ b.T) / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)
    own = np.diag(similar)
    assert 0.4 < own.mean() < 0.97
    assert (similar.argmax(1) == np.arange(48)).mean() > 0.9
    assert (made.x[:48] != made.x[48:]).any()


def test_a_round_does_not_depend_on_how_many_there_are(sets: dict[str, FlowSet]) -> None:
    for kind in COPIES:
        one, three = (copies(sets["real"], kind, rounds=n, seed=4).x for n in (1, 3))
        np.testing.assert_array_equal(one, three[:48])
    other = copies(sets["real"], "augmented", seed=5).x
    assert (other != copies(sets["real"], "augmented", seed=4).x).any()
    assert (rounds_for("mirror", 5), rounds_for("augmented", 5), rounds_for("magnified", 500)) == (1, 5, 8)


def test_copies_of_flow_alone_refuse_frames(sets: dict[str, FlowSet]) -> None:
    real = replace(sets["real"], views={"frames": np.zeros((48, 10, 4, 4), np.uint8)})
    for kind in ("magnified", "augmented"):
        with pytest.raises(ConfigError, match=rf"{kind} copies exist for flow alone, and frames"):
            copies(real, kind)
