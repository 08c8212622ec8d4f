"""Who reads which clip: workers by fork and by spawn, processes of a distributed run, epochs; each clip once."""

from __future__ import annotations

import os
import pickle
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from mesynth.data import ClipDataset, IterableClipDataset, ShardedSampler, clip_loader, collate_clips, share
from tests.corpus.exports import corpora


@pytest.fixture(scope="module")
def clips() -> ClipDataset:
    return ClipDataset(corpora.samples(), size=32)


def _ids(loader: Any) -> list[int]:
    return [int(i) for batch in loader for i in batch["index"]]


@settings(max_examples=40, deadline=None)
@given(n=st.integers(0, 300), parts=st.integers(1, 9), workers=st.integers(1, 5))
def test_shares_of_shares_are_everything_once(n: int, parts: int, workers: int) -> None:
    order = np.random.default_rng(n).permutation(n)
    pieces = [share(order, p, parts) for p in range(parts)]
    found = np.concatenate([share(piece, w, workers) for piece in pieces for w in range(workers)])
    assert found.tolist() == order.tolist()
    assert max(map(len, pieces)) - min(map(len, pieces)) <= 1
    even = [share(order, p, parts, even=True) for p in range(parts)]
    assert {len(piece) for piece in even} == {n // parts}
    assert max(Counter(np.concatenate(even).tolist()).values(), default=1) == 1


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 9000), world=st.integers(1, 4), epoch=st.integers(0, 3), seed=st.integers(0, 3))
def test_samplers_agree_on_one_order(n: int, world: int, epoch: int, seed: int) -> None:
    samplers = [ShardedSampler(n, shuffle=True, seed=seed, rank=r, world_size=world) for r in range(world)]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    found = [i for sampler in samplers for i in sampler]
    assert sorted(found) == list(range(n))
    assert [len(sampler) for sampler in samplers] == [len(list(sampler)) for sampler in samplers]


@pytest.mark.parametrize("size", [5, 4096, 5000])
def test_a_stream_is_a_permutation_by_seed_and_epoch(clips: ClipDataset, size: int) -> None:
    stream = IterableClipDataset(clips, shuffle=True, seed=1)
    stream.clips = _Many(size)  # type: ignore[assignment]
    first = stream._order()
    assert sorted(first.tolist()) == list(range(size))
    assert (stream._order() == first).all()
    stream.set_epoch(1)
    second = stream._order()
    assert sorted(second.tolist()) == list(range(size))
    assert (second != first).any()
    assert np.abs(np.corrcoef(np.arange(size), second)[0, 1]) < 0.9


class _Many:
    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size


@pytest.mark.parametrize(("method", "stream"), [("fork", False), ("fork", True), ("spawn", True)])
def test_workers_lose_and_double_nothing(clips: ClipDataset, method: str, stream: bool) -> None:
    clips[0]  # a reader is open when the workers are forked: they must not share its place in the file
    data = IterableClipDataset(clips, shuffle=True) if stream else clips
    options: dict[str, Any] = {} if stream else {"shuffle": True}
    loader = clip_loader(data, 3, num_workers=2, multiprocessing_context=method, **options)
    found: dict[int, torch.Tensor] = {}
    for batch in loader:
        for i, flow in zip(batch["index"].tolist(), batch["flow"], strict=True):
            assert i not in found
            found[i] = flow
    assert sorted(found) == list(range(len(clips)))
    assert all((found[i] == clips[i]["flow"]).all() for i in found)


def test_workers_that_stay_hear_of_the_epoch(clips: ClipDataset) -> None:
    stream = IterableClipDataset(clips, shuffle=True, seed=3)
    loader = DataLoader(stream, 2, num_workers=1, collate_fn=collate_clips, persistent_workers=True,
                        multiprocessing_context="fork")  # fmt: skip
    first = _ids(loader)
    assert _ids(loader) == first
    stream.set_epoch(1)
    second = _ids(loader)
    assert sorted(second) == sorted(first)
    assert second != first
    alone = IterableClipDataset(clips, shuffle=True, seed=3)
    assert _ids(clip_loader(alone, 2)) == first


def test_the_order_is_the_seeds(clips: ClipDataset) -> None:
    def order(seed: int, epoch: int) -> list[int]:
        loader = clip_loader(clips, 3, shuffle=True, seed=seed)
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        return _ids(loader)

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
    assert _ids(clip_loader(clips, 3)) == list(range(len(clips)))


def _process(rank: int, world: int, port: int, clips: ClipDataset, out: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=world)
    try:
        stream = IterableClipDataset(clips, shuffle=True)
        found = {
            "map": _ids(clip_loader(clips, 2, shuffle=True)),
            "even": _ids(clip_loader(clips, 2, shuffle=True, even=True)),
            "workers": _ids(clip_loader(stream, 2, num_workers=2, multiprocessing_context="fork")),
        }
        sent = pickle.dumps(stream)  # to a worker that is started anew, and knows nothing of the run
    finally:
        dist.destroy_process_group()
    found["sent"] = [item["index"] for item in pickle.loads(sent)]
    torch.save(found, f"{out}/{rank}.pt")


def test_processes_of_a_distributed_run_share_the_clips(tmp_path: Path) -> None:
    clips = ClipDataset(corpora.samples()[:7], parts=["flow"], size=8)  # 7: not to be shared evenly
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.start_processes(_process, (2, port, clips, str(tmp_path)), nprocs=2, start_method="fork")
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for way in ("map", "workers", "sent"):
        assert sorted(found[0][way] + found[1][way]) == list(range(7))
        assert {len(one[way]) for one in found} == {3, 4}
    assert [len(one["even"]) for one in found] == [3, 3]
    assert not set(found[0]["even"]) & set(found[1]["even"])
