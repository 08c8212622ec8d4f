"""Clips read by threads or by processes: whoever read them, the figures are the same to the bit."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesynth.core import seeds
from mesynth.core.errors import ConfigError, MesynthError
from mesynth.core.registry import Registry
from mesynth.metrics import evaluate as module
from mesynth.metrics.base import (
    LEFT_OUT,
    METRICS,
    ClipData,
    ClipMetric,
    MeasureConfig,
    MeasureRow,
    Observation,
    Setup,
    walk,
)
from mesynth.metrics.evaluate import Evaluation, Makers, Side, evaluate, evaluate_slice
from mesynth.metrics.measure import measure, measure_all
from mesynth.metrics.pictures import Diversity, Pictures
from mesynth.metrics.report import Comparison
from mesynth.store import cluster
from mesynth.store.manifest import Manifest
from mesynth.store.stage import Produced, run_stage
from tests.builders import provenance, row

Corpora = tuple[Manifest, Manifest]
NOBODY: frozenset[str] = frozenset()


class Scribe(ClipMetric):
    """Writes down what it is given; cannot use some clips, has no use for others, and half a use for some."""

    label = "scribe"
    refused: AbstractSet[str] = NOBODY
    idle: AbstractSet[str] = NOBODY
    half: AbstractSet[str] = NOBODY

    def observe(self, clip: ClipData) -> Observation:
        name = clip.row.clip_id
        if name in Scribe.refused:
            raise MesynthError(f"{name} is no good")
        if name in Scribe.idle and not self.limit:
            return {}
        half = {LEFT_OUT: "only half"} if name in Scribe.half else {}
        return {"text": name, "number": 1 / 3, "map": clip.frames[0, :3, :3, 0].astype(np.float16)} | half

    def compute(self) -> list[MeasureRow]:
        return []

    def taken(self, side: str) -> list[dict[str, Any]]:
        return [{name: np.asarray(v).tolist() for name, v in o.items()} for o in self.observations[side]]


class First(Scribe):
    """Another class, so that both are kept apart."""

    label = "first"
    limit = 3


class Mean:
    """From outside: a running sum, and no state that could come from another process."""

    label = "mean"

    def __init__(self, setup: Setup) -> None:
        self.sums = {"real": 0.0, "synthetic": 0.0}
        self.n = 0

    def update(self, clip: ClipData) -> None:
        self.sums[clip.side] += float(clip.frames.mean())
        self.n += 1

    def merge(self, other: Mean) -> None:
        self.n += other.n
        for side, value in other.sums.items():
            self.sums[side] += value

    def compute(self) -> Sequence[MeasureRow]:
        return [MeasureRow(group=self.label, name="grey level", value=self.sums["synthetic"] / self.n, n=self.n)]


def make_small(job: tuple[str, int]) -> Produced:
    kind, number = job
    rng = seeds.stream(number, kind)
    shown = row(
        str(number), clip_id=f"{kind}{number}", n_frames=3, apex_index=1, offset=2, provenance=provenance(kind=kind)
    )
    return Produced(
        shown, frames=rng.integers(0, 255, (3, 16, 16, 3), dtype=np.uint8), flow=np.zeros((2, 16, 16), np.float32)
    )


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Corpora:
    """Twelve clips a side with names as those of ``corpora``, for measures that look at next to nothing."""
    root = tmp_path_factory.mktemp("small")
    real, synthetic = (
        run_stage(root / kind, [(kind, i) for i in range(12)], make_small, config={"kind": kind})
        for kind in ("rendered", "synthetic")
    )
    return real, synthetic


@pytest.fixture
def makers(monkeypatch: pytest.MonkeyPatch) -> Makers:
    """The pool's work done in this process, with measures of these tests."""

    def run(task: Any, jobs: Iterator[tuple[Any, ...]], *, report: Any, **_: object) -> None:
        done = 0
        for job in jobs:
            *_, last = task(*job)
            report(done := done + last)

    monkeypatch.setattr(module, "run_pool", run)
    some: Registry[Any] = Registry("measure", "no.group", {"scribe": Scribe, "first": First, "mean": Mean})
    monkeypatch.setattr(module, "METRICS", some)
    return Makers(Setup(), ("scribe", "first", "mean"))


def damaged(manifest: Manifest, numbers: AbstractSet[int]) -> Manifest:
    """Some clips' frames are missing."""
    rows = [
        dataclasses.replace(one, frames=one.frames and dataclasses.replace(one.frames, shard="gone.tar"))
        if i in numbers
        else one
        for i, one in enumerate(manifest)
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
def test_threads_and_processes_take_in_the_same_clips(
    makers: Makers, small: Corpora, refused: set[int], idle: set[int], half: set[int], unreadable: set[int],
    limit: int, turn: list[int],
) -> None:  # fmt: skip
    names = [{f"{kind}{i}" for kind in ("rendered", "synthetic") for i in chosen} for chosen in (refused, idle, half)]
    sides: list[Side] = [
        ("real", damaged(small[0], unreadable), np.array(turn)),
        ("synthetic", damaged(small[1], unreadable), np.array(turn[::-1])),
    ]
    with pytest.MonkeyPatch.context() as patch:
        for name, found in zip(("refused", "idle", "half"), names, strict=True):
            patch.setattr(Scribe, name, found)
        patch.setattr(First, "limit", limit)
        one, two = (evaluate(sides[0], {"s": sides[1]}, makers, workers=n)[0]["s"] for n in (1, 2))
        for kind, _, rows in sides:
            usable = [i for i in rows if i not in unreadable | refused]
            order = [f"{'rendered' if kind == 'real' else kind}{i}" for i in usable]
            for found in (one, two):
                assert [t["text"] for t in found.metrics["first"].taken(kind)] == order[:limit]  # type: ignore[attr-defined]
                whole = found.metrics["scribe"].taken(kind)  # type: ignore[attr-defined]
                assert [t["text"] for t in whole] == [name for name in order if name not in names[1]]
                assert found.metrics["mean"].n == 2 * (12 - len(unreadable))  # type: ignore[attr-defined]
            for name in ("scribe", "first"):
                assert one.metrics[name].taken(kind) == two.metrics[name].taken(kind)  # type: ignore[attr-defined]
    assert one.metrics["mean"].sums == two.metrics["mean"].sums  # type: ignore[attr-defined]
    assert json.dumps(one.left_out) == json.dumps(two.left_out)  # in the same order, too


def test_ranks_share_the_clips(makers: Makers, small: Corpora, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each clip is looked at by one of them, and all have the figures."""
    real, synthetic = (("real", small[0], np.arange(12)), ("synthetic", small[1], np.arange(12)))
    only = Makers(makers.setup, ("scribe",))
    alone = evaluate(real, {"s": synthetic}, only)[0]["s"]
    looked: list[str] = []
    observe = Scribe.observe
    monkeypatch.setattr(Scribe, "observe", lambda self, clip: looked.append(clip.row.clip_id) or observe(self, clip))
    found: dict[int, Evaluation] = {}
    both = threading.Barrier(3)

    def rank(number: int) -> None:
        cluster._share.set(cluster.Share(number, 3))
        with cluster.writer(tmp_path):
            both.wait(30)
            found[number] = evaluate(real, {"s": synthetic}, only)[0]["s"]

    threads = [threading.Thread(target=rank, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(looked) == sorted([f"rendered{i}" for i in range(12)] + [f"synthetic{i}" for i in range(12)])
    for kind in ("real", "synthetic"):
        for evaluation in found.values():
            assert evaluation.metrics["scribe"].taken(kind) == alone.metrics["scribe"].taken(kind)  # type: ignore[attr-defined]
    assert len(found) == 3
    assert list(tmp_path.iterdir()) == []


def test_it_looks_no_further_than_a_limit_needs(
    makers: Makers, small: Corpora, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    looked: list[str] = []
    observe = Scribe.observe
    monkeypatch.setattr(Scribe, "observe", lambda self, clip: looked.append(clip.row.clip_id) or observe(self, clip))
    side = ("real", small[0], np.arange(12))
    part = evaluate_slice(makers(["first"]), side, 0)
    assert looked == ["rendered0", "rendered1", "rendered2"]
    assert set(part.seconds) == {"first"}
    part.save(tmp_path / "part.npz")
    again = Evaluation.read(tmp_path / "part.npz", makers)
    assert (again.used, again.left_out, again.seconds) == (part.used, part.left_out, part.seconds)
    assert again.metrics["first"].taken("real") == part.metrics["first"].taken("real")  # type: ignore[attr-defined]
    monkeypatch.setattr(Scribe, "refused", {"rendered1"})
    looked.clear()
    only = Makers(makers.setup, ("first",))
    found, _ = evaluate(side, {"s": ("synthetic", small[1], np.arange(4))}, only, workers=2)
    assert [name for name in looked if name.startswith("rendered")] == [f"rendered{i}" for i in range(4)]
    assert len(found["s"].metrics["first"].taken("real")) == 3  # type: ignore[attr-defined]


def test_progress_and_a_side_that_cannot_be_read(
    makers: Makers, corpora: Corpora, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, int]] = []
    real, synthetic = (("real", corpora[0], np.arange(9)), ("synthetic", corpora[1], np.arange(9)))
    evaluate(real, {"s": synthetic}, makers, workers=2, progress=lambda *n: told.append(n))
    assert told[-1] == (18, 18)
    assert told == sorted(told)
    monkeypatch.setattr(module, "METRICS", METRICS)
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
        side = "real"
        frames = np.zeros((3, 4, 5, 3), np.uint8)
        row = type("R", (), {"apex_index": 1, "clip_id": "c", "subject_key": "s"})

        def once(self, maker: object, make: Callable[[], object]) -> object:
            return make()

    setup = Setup()
    setup.networks.get("pictures", lambda: (None, Distance()))
    found, again = Diversity(setup), Diversity(setup)
    found.update(Clip())  # type: ignore[arg-type]
    again.restore({key: np.asarray(value) for key, value in found.state().items()})
    for diversity in (found, again):
        (kept,) = diversity.maps("real")[0]
        assert kept.stride() == Distance().maps(Clip.frames)[0][1:].stride()
        assert (kept.numpy() == np.arange(60, 120).reshape(1, 3, 4, 5)).all()


def test_the_pictures_network_sees_a_clip_once(corpora: Corpora) -> None:
    setup, seen = Setup(MeasureConfig(clips=4)), []
    features, perceptual = setup.networks.pictures

    class Counted:
        name = perceptual.name
        between = staticmethod(perceptual.between)

        def maps(self, frames: np.ndarray) -> list[torch.Tensor]:
            seen.append(frames.shape[0])
            return perceptual.maps(frames)

    counted = Setup(setup.config)
    counted.networks.get("pictures", lambda: (features, Counted()))
    clips = list(walk(corpora[1], np.arange(3), "synthetic", {}))
    for made, alone in ((Pictures(counted), Pictures(setup)), (Diversity(counted), Diversity(setup))):
        for clip, again in zip(clips, walk(corpora[1], np.arange(3), "synthetic", {}), strict=True):
            made.update(clip)
            alone.update(again)
        for mine, other in zip(made.observations["synthetic"], alone.observations["synthetic"], strict=True):
            assert mine.keys() == other.keys()
            shared = {key for key in mine if key.startswith("map") or key == "moved"}
            assert shared
            assert all(np.array_equal(mine[key], other[key]) for key in shared)
    assert seen == [2, 2, 2]  # not six


def test_a_measure_from_outside_stands_in_the_report_without_an_edit(
    corpora: Corpora, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(METRICS._added, "mean", Mean)
    monkeypatch.setitem(METRICS._loaded, "mean", Mean)
    found = measure_all(corpora[0], {"s": corpora[1]}, MeasureConfig(clips=4, identity_clips=1))
    grey = found.reports["s"].row("grey_level")
    assert (grey.group, grey.n) == ("mean", 8)
    found.write(tmp_path)
    assert "grey level" in (tmp_path / "report.md").read_text()
    assert '"grey_level"' in (tmp_path / "report.json").read_text()


def test_what_ships_cannot_be_replaced() -> None:
    from mesynth.metrics import register

    with pytest.raises(ConfigError, match="identity"):
        register("identity")(Mean)


# ---------------------------------------------------------------- real processes


def _plain(found: Comparison) -> str:
    record = found.to_dict()
    for report in record["corpora"].values():
        assert report.pop("seconds")["sequence"] > 0
    clips = {name: [dataclasses.asdict(c) for c in figures] for name, figures in found.clips.items()}
    return json.dumps([record, clips])


@pytest.mark.slow
def test_one_process_or_three_the_same_report(corpora: Corpora, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows, notes, settings, clips and memorisation: the same seed gives them again, whoever read the clips."""
    monkeypatch.setitem(METRICS._added, "mean", Mean)  # which other processes do not know
    monkeypatch.setitem(METRICS._loaded, "mean", Mean)
    real, synthetic = corpora
    # Clips that cannot be read, and clips without landmarks, on both sides of the limit.
    rows = [dataclasses.replace(r, flow=None) if i in (1, 5, 8) else r for i, r in enumerate(synthetic)]
    holes = damaged(Manifest.from_rows(rows, synthetic.root), {0, 9})
    some = Manifest.from_rows(list(synthetic)[:4], synthetic.root)
    config = MeasureConfig(clips=12, identity_clips=3)
    texts = {
        _plain(measure_all(damaged(real, {4}), {"a": some, "b": holes}, config, training=some, workers=workers))
        for workers in (1, 3)
    }
    assert len(texts) == 1
    text = texts.pop()
    assert "clips left out" in text
    assert "grey_level" in text


class Deadly(Makers):
    def __call__(self, names: Any = None) -> Any:
        if os.getpid() != int(self.names[0]):
            os._exit(1)
        return {}


class Unable(Makers):
    def __call__(self, names: Any = None) -> Any:
        if os.getpid() != int(self.names[0]):
            raise MesynthError("no such weights")
        return {}


@pytest.mark.slow
def test_a_process_that_dies_or_cannot_is_one_line(corpora: Corpora) -> None:
    side = ("real", corpora[0], np.arange(8))  # one slice: one process
    for makers, words in ((Deadly, "a worker process died .* fewer --workers"), (Unable, "no such weights")):
        with pytest.raises(MesynthError, match=words) as caught:
            evaluate(side, {}, makers(Setup(), (str(os.getpid()),)), workers=2)
        assert "\n" not in str(caught.value)
