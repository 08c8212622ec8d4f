"""Looking at clips in several processes: whoever looked, the figures are the same to the bit."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesynth.core.errors import ConfigError, MesynthError
from mesynth.metrics import evaluate
from mesynth.metrics.clips import ClipData
from mesynth.metrics.collectors import LEFT_OUT, Diversity, Seen
from mesynth.metrics.comparison import Comparison
from mesynth.metrics.evaluate import Side, feed, feed_ahead, feed_all, looked_ahead
from mesynth.metrics.measure import MeasureConfig, measure, measure_all
from mesynth.metrics.report import MeasureRow
from mesynth.store.manifest import Manifest, Row

Corpora = tuple[Manifest, Manifest]


class Scribe:
    """Writes down what it is given; cannot use some clips, has no use for others, and half a use for some."""

    group = "scribe"

    def __init__(
        self, limit: int | None, refused: AbstractSet[str], idle: AbstractSet[str], half: AbstractSet[str]
    ) -> None:
        self.limit = limit
        self._refused, self._idle, self._half = refused, idle, half
        self.taken: list[tuple[str, str, dict[str, Any]]] = []

    def see(self, clip: ClipData) -> Seen:
        name = clip.row.clip_id
        if name in self._refused:
            raise MesynthError(f"{name} is no good")
        if name in self._idle:
            return {}
        half = {LEFT_OUT: "only half"} if name in self._half else {}
        return {"text": name, "number": 1 / 3, "map": clip.frames[0, :3, :3, 0].astype(np.float16)} | half

    def take(self, side: str, row: Row, seen: Seen) -> None:
        self.taken.append((side, row.clip_id, {name: np.asarray(v).tolist() for name, v in seen.items()}))

    def rows(self) -> list[MeasureRow]:
        return []

    def plots(self) -> dict[str, bytes]:
        return {}


class First(Scribe):
    """Another class, so that both are kept apart."""

    group = "first"


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool's work done in this process."""

    def run(task: Any, jobs: Iterator[tuple[Any, ...]], *, report: Any, **_: object) -> None:
        done = 0
        for job in jobs:
            *_, last = task(*job)
            report(done := done + last)

    monkeypatch.setattr(evaluate, "run_pool", run)


def damaged(manifest: Manifest, numbers: AbstractSet[int]) -> Manifest:
    """Some clips' frames are missing."""
    rows = [
        dataclasses.replace(row, frames=row.frames and dataclasses.replace(row.frames, shard="gone.tar"))
        if i in numbers
        else row
        for i, row in enumerate(manifest)
    ]
    return Manifest.from_rows(rows, manifest.root)


few = st.sets(st.integers(0, 11), max_size=6)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    refused=few,
    idle=few,
    half=few,
    unreadable=few,
    limit=st.sampled_from([1, 2, 5, 12]),
    turn=st.permutations(range(12)),
)
@pytest.mark.usefixtures("here")
def test_what_was_seen_ahead_counts_as_what_is_seen_now(
    corpora: Corpora, refused: set[int], idle: set[int], half: set[int], unreadable: set[int], limit: int,
    turn: list[int],
) -> None:  # fmt: skip
    names = [{f"{kind}{i}" for kind in ("rendered", "synthetic") for i in chosen} for chosen in (refused, idle, half)]
    sides: list[Side] = [
        ("real", damaged(corpora[0], unreadable), np.array(turn)),
        ("synthetic", damaged(corpora[1], unreadable), np.array(turn[::-1])),
    ]

    def load() -> list[Any]:
        return [Scribe(None, *names), First(limit, *names)]

    ways = [(lambda c, **_: feed_all(sides[0], {"s": sides[1]}, c, list, None)),
            (lambda c, **k: feed_ahead(sides[0], {"s": sides[1]}, c, list, None, workers=2, **k))]  # fmt: skip
    one, two = (way(load(), load=load) for way in ways)
    assert len(one.collectors["s"][1].taken) <= 2 * limit
    for mine, theirs in zip(one.collectors["s"], two.collectors["s"], strict=True):
        assert sorted(mine.taken, key=lambda t: t[0]) == theirs.taken  # two threads mix the sides, not the clips
    assert json.dumps(one.left_out) == json.dumps(two.left_out)  # in the same order, too


@pytest.mark.usefixtures("here")
def test_it_looks_no_further_than_a_limit_needs(corpora: Corpora, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    see = Scribe.see
    monkeypatch.setattr(Scribe, "see", lambda self, clip: looked.append(clip.row.clip_id) or see(self, clip))
    side = ("real", corpora[0], np.arange(12))

    def load() -> list[Any]:
        return [First(3, set(), set(), set())]

    own = load()
    with looked_ahead([side], load, 2, None) as seen:
        assert looked == ["rendered0", "rendered1", "rendered2"]
        feed(*side, own, looks=seen.looks(0))
        assert set(seen.seconds(0)) == {"first"}
    assert len(looked) == len(own[0].taken) == 3
    assert not any(file.exists() for files in seen.files for file in files)


@pytest.mark.usefixtures("here")
def test_progress_and_a_side_that_cannot_be_read(corpora: Corpora) -> None:
    told: list[tuple[int, int]] = []
    measure(*corpora, MeasureConfig(clips=9, identity_clips=1), workers=2, progress=lambda *n: told.append(n))
    assert told[-1] == (18, 18)
    assert told == sorted(told)
    with pytest.raises(MesynthError, match=r"no clip of the synthetic manifest .* can be read"):
        measure(corpora[0], damaged(corpora[1], set(range(12))), MeasureConfig(clips=4), workers=2)
    with pytest.raises(ConfigError, match="workers=-1"):
        measure(*corpora, workers=-1)


@pytest.mark.parametrize("last", [True, False])
def test_maps_keep_their_order_in_memory(last: bool) -> None:
    # Sums follow it: another order is another last bit.
    class Distance:
        name = "d"

        def maps(self, frames: np.ndarray) -> list[torch.Tensor]:
            maps = torch.arange(2 * 3 * 4 * 5, dtype=torch.float32).reshape(2, 3, 4, 5)
            return [maps.to(memory_format=torch.channels_last if last else torch.contiguous_format)]

    class Clip:
        frames = np.zeros((3, 4, 5, 3), np.uint8)
        row = type("R", (), {"apex_index": 1})

    found = Diversity(Distance())  # type: ignore[arg-type]
    found.take("real", None, found.see(Clip()))  # type: ignore[arg-type]
    (kept,) = found._kept["real"][0]
    assert kept.stride() == Distance().maps(Clip.frames)[0][1:].stride()
    assert (kept.numpy() == np.arange(60, 120).reshape(1, 3, 4, 5)).all()


# ---------------------------------------------------------------- real processes


def _plain(found: Comparison) -> str:
    record = found.to_dict()
    for report in record["corpora"].values():
        assert report.pop("seconds")["sequence"] > 0
    clips = {name: [dataclasses.asdict(c) for c in figures] for name, figures in found.clips.items()}
    return json.dumps([record, clips])


@pytest.mark.slow
def test_one_process_two_or_three_the_same_report(corpora: Corpora) -> None:
    real, synthetic = corpora
    # Clips that cannot be read, and clips without landmarks, on both sides of the limit.
    rows = [dataclasses.replace(row, flow=None) if i in (1, 5, 8) else row for i, row in enumerate(synthetic)]
    holes = damaged(Manifest.from_rows(rows, synthetic.root), {0, 9})
    config = MeasureConfig(clips=12, identity_clips=3)
    texts = {
        _plain(
            measure_all(damaged(real, {4}), {"a": synthetic, "b": holes}, config, training=synthetic, workers=workers)
        )
        for workers in (1, 2, 3)
    }
    assert len(texts) == 1
    assert "clips left out" in texts.pop()


def _dead() -> list[Any]:
    os._exit(1)


def _unable(why: str) -> list[Any]:
    raise MesynthError(why)


@pytest.mark.slow
def test_a_process_that_dies_or_cannot_is_one_line(corpora: Corpora, tmp_path: Path) -> None:
    side = ("real", corpora[0], np.arange(12))
    cases = ((_dead, "a worker process died .* fewer --workers"), (partial(_unable, "no such weights"), "no such"))
    for load, words in cases:
        with pytest.raises(MesynthError, match=words) as caught, looked_ahead([side], load, 2, None):
            pass
        assert "\n" not in str(caught.value)
