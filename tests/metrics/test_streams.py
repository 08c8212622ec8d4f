"""Measures fed in batches: equal to the report's own functions, whatever the batches, merged, in torchmetrics."""

from __future__ import annotations

import copy
import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st

from mesynth.core.errors import MesynthError
from mesynth.data import ClipDataset, clip_loader
from mesynth.metrics.base import METRICS, ClipData, Setup
from mesynth.metrics.control import agreement
from mesynth.metrics.fid import frechet, kid
from mesynth.metrics.motion import flow_error
from mesynth.metrics.streams import AUErrors, FlowErrors, FrechetDistance, KernelDistance, StreamedMeasure
from tests.corpus.exports import corpora

RNG = np.random.default_rng(0)
REAL, MADE = RNG.normal(size=(40, 5)), RNG.normal(size=(31, 5)) * 2 + 1
FLOWS = RNG.normal(size=(2, 7, 2, 9, 8)).astype(np.float32)
AUS = np.abs(RNG.normal(size=(2, 12, 25, 2))).clip(0, 1).astype(np.float32)
UNKNOWN = RNG.random((12, 25, 2)) < 0.3


def _fed(measure: Any, part: slice = slice(None), cut: int = 1000) -> Any:
    """The measure after the rows ``part``, in batches of ``cut``."""
    for first in range(0, 60, cut):
        rows = slice(first, first + cut)
        if isinstance(measure, (FrechetDistance, KernelDistance)):
            for side, x in (("real", REAL), ("synthetic", MADE)):
                if len(batch := x[part][rows]):
                    measure.update(torch.from_numpy(batch), real=side == "real")
        elif isinstance(measure, FlowErrors):
            if len(FLOWS[0][part][rows]):
                measure.update(torch.from_numpy(FLOWS[0][part][rows]), FLOWS[1][part][rows])
        elif len(AUS[0][part][rows]):
            truth = np.where(UNKNOWN, np.nan, AUS[1])
            measure.update(AUS[0][part][rows], torch.from_numpy(truth[part][rows]))
    return measure


def _wanted(kind: type[StreamedMeasure]) -> dict[str, float]:
    if kind is FrechetDistance:
        return {"": frechet(MADE.astype(np.float32).astype(np.float64), REAL.astype(np.float32).astype(np.float64))}
    if kind is KernelDistance:
        return {"": kid(MADE.astype(np.float32), REAL.astype(np.float32))}
    if kind is FlowErrors:
        each = [vars(flow_error(a, b)) for a, b in zip(*FLOWS, strict=True)]
        return {name: float(np.mean([one[name] for one in each])) for name in each[0]}
    return {k: float(v) for k, v in vars(agreement(AUS[1][~UNKNOWN], AUS[0][~UNKNOWN])).items()}


KINDS = (FrechetDistance, KernelDistance, FlowErrors, AUErrors)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(cut=st.integers(1, 50), at=st.integers(2, 5))
def test_batches_and_merging_change_nothing(kind: type[Any], cut: int, at: int) -> None:
    wanted = _wanted(kind)
    one = _fed(kind(), slice(0, at), cut)
    one.merge(_fed(kind(), slice(at, None), cut + 1))
    for measure in (_fed(kind(), cut=cut), one):
        found = measure.compute()
        assert (found if isinstance(found, dict) else {"": found}) == pytest.approx(wanted, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_taken_in_is_an_error_and_reset_forgets(kind: type[Any]) -> None:
    measure = _fed(kind())
    before = copy.deepcopy(measure)
    measure.reset()
    with pytest.raises(MesynthError, match="update"):
        measure.compute()
    measure.merge(before)
    assert measure.compute() == before.compute()
    with pytest.raises(MesynthError, match="cannot be merged into"):
        measure.merge(_fed((FlowErrors if kind is not FlowErrors else AUErrors)()))


@pytest.mark.parametrize(
    ("measure", "given_", "message"),
    [
        (FrechetDistance(), (np.zeros(3),), r"features is float64 \[3\]; expected \[B,D\]"),
        (FrechetDistance(), (np.full((2, 3), np.nan),), "NaN or infinity"),
        (_fed(KernelDistance()), (np.zeros((2, 3)),), "features are 3 wide, those before were 5"),
        (FlowErrors(), (np.zeros((2, 8, 8)), np.zeros((2, 8, 8))), r"flow is float64 \[2, 8, 8\]"),
        (FlowErrors(), (np.zeros((1, 2, 8, 8)), np.zeros((1, 2, 4, 4))), "differ"),
        (FlowErrors(), (FLOWS[0], FLOWS[1], np.zeros((7, 9, 8), bool)), "no valid pixel"),
        (FlowErrors(), (FLOWS[0], FLOWS[1], np.ones((7, 8, 9), bool)), "valid is"),
        (AUErrors(), (np.zeros((2, 50)), np.zeros((2, 50))), r"expected \[B,25,2\]"),
        (AUErrors(), (np.full((1, 25, 2), np.nan), np.zeros((1, 25, 2))), "NaN or infinity where the truth"),
        (AUErrors(), (np.array([["a"]]), np.zeros((1, 25, 2))), "expected"),
    ],
)
def test_unfit_input(measure: Any, given_: tuple[Any, ...], message: str) -> None:
    with pytest.raises(MesynthError, match=message):
        measure.update(*given_)


def test_unknown_action_units_do_not_count() -> None:
    measure = AUErrors()
    measure.update(np.full((1, 25, 2), np.nan), np.full((1, 25, 2), np.nan))
    with pytest.raises(MesynthError, match="AUs are known"):
        measure.compute()


# ---------------------------------------------------------------- torchmetrics

torchmetrics = pytest.importorskip("torchmetrics")
from mesynth.metrics.torchmetrics import Measure  # noqa: E402


def test_they_stand_beside_others_in_a_collection() -> None:
    found = torchmetrics.MetricCollection(
        {
            "flow": Measure(FlowErrors),
            "aus": Measure(AUErrors),
            "accuracy": torchmetrics.classification.MulticlassAccuracy(3),
        }
    )
    clips = ClipDataset(corpora.samples(), parts=["flow"])
    for batch in clip_loader(clips, 3):
        found["flow"].update(batch["flow"] * 0, batch["flow"])
        found["aus"].update(batch["aus"] * 0.5, batch["aus"])
        found["accuracy"].update(batch["label"], batch["label"])
    values = {name: float(value) for name, value in found.compute().items()}
    assert values["relative"] == pytest.approx(1)
    assert values["slope"] == pytest.approx(0.5, abs=1e-3)
    assert values["accuracy"] == 1
    found.reset()
    with pytest.raises(MesynthError, match="no flow"):
        found["flow"].compute()


def test_a_step_is_that_of_its_batch_alone() -> None:
    pair = torchmetrics.MetricCollection([Measure(FlowErrors)])
    first = pair(torch.from_numpy(FLOWS[0][:3]), torch.from_numpy(FLOWS[1][:3]))
    second = pair(flow=torch.from_numpy(FLOWS[0][3:]), target=torch.from_numpy(FLOWS[1][3:]))
    assert float(first["epe"]) == pytest.approx(_fed(FlowErrors(), slice(0, 3)).compute()["epe"], rel=1e-5)
    assert float(second["epe"]) == pytest.approx(_fed(FlowErrors(), slice(3, None)).compute()["epe"], rel=1e-5)
    assert float(pair.compute()["epe"]) == pytest.approx(_wanted(FlowErrors)["epe"], rel=1e-5)


def test_states_merge_and_clones_are_apart() -> None:
    one, two = Measure(FrechetDistance), Measure(FrechetDistance)
    _fed(one.inner, slice(0, 9))
    _fed(two.inner, slice(9, None))
    clone = one.clone()
    one.merge_state(two)
    assert float(one.compute()) == pytest.approx(_wanted(FrechetDistance)[""], rel=1e-5)
    assert clone.inner.sides["real"][0] == 9
    with pytest.raises(MesynthError, match="give another Measure"):
        one.merge_state({})
    with pytest.raises(MesynthError, match=r"a dict has no compute\(\)"):
        Measure(dict)


def test_a_measure_of_the_report_is_one_too() -> None:
    samples = corpora.samples()
    metric = Measure(_report_flow)
    for row in samples[:2]:
        metric.update(ClipData("synthetic", row, samples.root))
    rows = {row.key: row.value for row in metric.inner.compute()}
    assert {name: float(value) for name, value in metric.compute().items()} == pytest.approx(rows, rel=1e-6)
    assert "flow_epe" in rows


def _report_flow() -> Any:
    return METRICS["flow"](Setup())


def _process(rank: int, port: int, out: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    try:
        metric = Measure(FlowErrors)
        rows = slice(0, 3) if rank == 0 else slice(3, None)
        metric.update(FLOWS[0][rows], FLOWS[1][rows])
        found = {name: float(value) for name, value in metric.compute().items()}
        torch.save((found, len(metric.inner.found)), f"{out}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def test_processes_give_one_figure(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.start_processes(_process, (port, str(tmp_path)), nprocs=2, start_method="fork")
    for rank, own in ((0, 3), (1, 4)):
        found, kept = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert found == pytest.approx(_wanted(FlowErrors), rel=1e-5)
        assert kept == own  # what others saw is not taken for one's own afterwards
