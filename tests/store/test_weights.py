"""Tensors of several safetensors files as one."""

from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from mesynth.store.weights import join_tensors


def test_tensors_of_files_follow_each_other(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    made = [
        {
            "weight": rng.normal(size=(n, 3, 2)).astype(np.float32),
            "counts": np.arange(n, dtype=np.int64),
            "none": np.zeros((0, 4), np.float16),
        }
        for n in (2, 1, 4)
    ]
    made[1]["late"] = np.ones((1, 5), np.float64)
    parts = [tmp_path / f"{i}.safetensors" for i in range(3)]
    for part, tensors in zip(parts, made, strict=True):
        save_file(tensors, part)
    target = tmp_path / "whole" / "weights.safetensors"
    target.parent.mkdir()
    assert join_tensors(parts, target, {"folds": "7"})
    read = load_file(target)
    assert set(read) == {"weight", "counts", "none", "late"}
    for name, value in read.items():
        expected = np.concatenate([tensors[name] for tensors in made if name in tensors])
        assert value.dtype == expected.dtype
        np.testing.assert_array_equal(value, expected)
    with safe_open(target, "np") as opened:
        assert opened.metadata() == {"folds": "7"}
    assert list(target.parent.iterdir()) == [target]


def test_nothing_is_written_of_nothing(tmp_path: Path) -> None:
    save_file({}, tmp_path / "empty.safetensors")
    assert not join_tensors([tmp_path / "empty.safetensors"], tmp_path / "out", {})
    assert not (tmp_path / "out").exists()
