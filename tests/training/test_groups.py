from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesynth.core.errors import ConfigError
from mesynth.training.data.pack import subject_groups

SUBJECTS = st.lists(
    st.tuples(st.sampled_from(["casme2", "samm", "smic"]), st.integers(0, 99)).map(lambda s: f"{s[0]}/{s[1]:02d}"),
    min_size=2, max_size=60, unique=True,
)  # fmt: skip


@given(SUBJECTS, st.integers(2, 10), st.integers(0, 5), st.randoms())
def test_groups_partition_balance_and_ignore_order(subjects, groups, seed, random) -> None:
    groups = min(groups, len(subjects))
    found = subject_groups(subjects, groups, seed)
    assert sorted(s for group in found for s in group) == sorted(subjects)  # covers, disjoint
    sizes = [len(group) for group in found]
    assert max(sizes) - min(sizes) <= 1
    for database in {s.partition("/")[0] for s in subjects}:
        counts = [sum(s.startswith(f"{database}/") for s in group) for group in found]
        assert max(counts) - min(counts) <= 1
    shuffled = list(subjects)
    random.shuffle(shuffled)
    assert subject_groups(shuffled, groups, seed) == found


def test_seeds_give_other_groups() -> None:
    subjects = [f"casme2/{i:02d}" for i in range(26)]
    assert len({subject_groups(subjects, 5, seed) for seed in range(5)}) == 5


@pytest.mark.parametrize(
    ("subjects", "groups", "message"),
    [
        (["a/1", "a/2"], 1, "at least 2"),
        (["a/1", "a/2"], 3, "more than the 2 subjects"),
        (["a/1", "a/1"], 2, "'a/1' is named twice"),
        (["a/1", "02"], 2, "'02' is no subject"),
        ([], 2, "more than the 0 subjects"),
    ],
)
def test_bad_input(subjects: list[str], groups: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        subject_groups(subjects, groups)
