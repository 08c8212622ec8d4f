"""Shards and ablation cells as tasks of a Ray cluster of two nodes on this machine, one of which is killed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mesynth.core.errors import ConfigError, MesynthError
from mesynth.store.cluster import engine, on_engine, together
from mesynth.store.schedulers import RayEngine
from mesynth.store.stage import Produced, Skipped, run_stage
from recognizer.ablation import ablate
from recognizer.config import AblationConfig
from recognizer.data import FlowSet
from tests.builders import NumberWorker, tree_bytes

# Not importorskip: every process that collects tests would load it.
pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="the extra cluster is not installed")
JOBS = list(range(40))
CONFIG = {"jobs": len(JOBS)}


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A head and one more node; the tests stand in the order in which they use them up."""
    from ray.cluster_utils import Cluster

    room = {"num_cpus": 1, "object_store_memory": 80_000_000}
    with pytest.MonkeyPatch.context() as patch:
        # A worker has to find the tests' own tasks, wherever the command that uses it stands.
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        cluster = Cluster(initialize_head=True, head_node_args=room | {"include_dashboard": False})
        cluster.second = cluster.add_node(**room)
    yield cluster
    cluster.shutdown()


class Slow(NumberWorker):
    def __call__(self, job: int) -> Produced | Skipped:
        time.sleep(0.05)
        return super().__call__(job)


def test_one_corpus_with_a_node_killed_in_the_middle(nodes: Any, tmp_path: Path) -> None:
    run_stage(tmp_path / "alone", JOBS, NumberWorker(), config=CONFIG)
    told: list[int] = []

    def watch(done: int, total: int) -> None:
        told.append(done)
        if done >= 8 and nodes.second is not None:
            nodes.remove_node(nodes.second, allow_graceful=False)
            nodes.second = None

    with together(engine=RayEngine(nodes.address)):
        run_stage(tmp_path / "out", JOBS, Slow(), config=CONFIG, progress=watch)
    assert nodes.second is None
    assert told[-1] == len(JOBS)
    assert told == sorted(told)
    assert tree_bytes(tmp_path / "out") == tree_bytes(tmp_path / "alone")
    with together(engine=RayEngine(nodes.address)):
        run_stage(tmp_path / "out", JOBS, NumberWorker(fail_at=0), config=CONFIG)  # finished: no task is started


def test_what_a_task_raises_is_said_as_here(nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder that is named from where the command was started."""
    monkeypatch.chdir(tmp_path)
    with together(engine=RayEngine(nodes.address)), pytest.raises(MesynthError, match=r"^job 5 cannot be done"):
        run_stage(Path("out"), JOBS[:8], NumberWorker(fail_at=5), config=CONFIG)
    assert not list((tmp_path / "out").rglob("*.tmp"))
    with together(engine=RayEngine(nodes.address)):
        assert len(run_stage(Path("out"), JOBS[:8], NumberWorker(), config=CONFIG)) == 8
    assert (tmp_path / "out" / "manifest.parquet").is_file()


def test_a_task_that_no_node_can_take_is_refused(nodes: Any, tmp_path: Path) -> None:
    with (
        together(engine=RayEngine(nodes.address, gpus=1)),
        pytest.raises(ConfigError, match="0 GPUs, and a task takes"),
    ):
        run_stage(tmp_path / "out", JOBS, NumberWorker(), config=CONFIG)


def test_cells_of_an_ablation_are_tasks(nodes: Any, tmp_path: Path) -> None:
    y = np.arange(36) % 3
    x = np.random.default_rng(0).normal(size=(36, 3, 28, 28))
    x[np.arange(36), 1, 8 * y] += 3
    real = FlowSet.of(x, y, [f"s{i // 9}" for i in range(36)])
    made = FlowSet.of(x, y, ["x"] * 36, database="made", generator="mine", subjects_seen=[()] * 36)
    config = AblationConfig(models=("lda",), ratios=(0, 0.5), seeds=(0,), resamples=100)
    here = ablate(real, made, config)
    with on_engine(RayEngine(nodes.address)):
        there = ablate(real, made, config)
        kept = ablate(real, made, config, out=tmp_path / "out")
    assert there.summary == here.summary == kept.summary
    assert engine() is None


def test_an_object_cannot_go_to_ray(nodes: Any) -> None:
    from sklearn.naive_bayes import GaussianNB

    real = FlowSet.of(np.zeros((6, 3, 28, 28)), np.arange(6) % 3, ["a", "b"] * 3)
    with on_engine(RayEngine(nodes.address)), pytest.raises(ConfigError, match="is an object of this process"):
        ablate(real, real, AblationConfig(), models=[GaussianNB()])


def test_no_cluster_at_the_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def refuse(**_: Any) -> None:
        raise ConnectionError("nobody there")

    monkeypatch.setattr(ray, "init", refuse)
    with together(engine=RayEngine("127.0.0.1:1")), pytest.raises(ConfigError, match=r"answers at '127\.0\.0\.1:1'"):
        run_stage(tmp_path / "out", JOBS, NumberWorker(), config=CONFIG)
