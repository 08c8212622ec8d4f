"""Weights of ours as files: tensors that are read and put together as safetensors."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from mesynth.core.errors import WeightsUnavailable, first_line

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


def read_weights(path: Path, key: str, what: str, remedy: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors of a safetensors file of ours, and the JSON record that travels with them under ``key``.

    ``what``: its name in messages; ``remedy``: how to make it anew.

    Raises:
        WeightsUnavailable: the file is missing, damaged, or something else.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise WeightsUnavailable(f"{what}: {path} is missing; reinstall mesynth, or train it: {remedy}")
    try:
        with safe_open(path, "pt") as handle:
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
            record = json.loads((handle.metadata() or {})[key])
    except (SafetensorError, OSError, KeyError, ValueError, RecursionError) as error:
        raise _foreign(path, what, error) from None
    if not isinstance(record, dict):
        raise _foreign(path, what, TypeError(f"its record is a {type(record).__name__}"))
    return tensors, record


def read_network(
    path: Path,
    key: str,
    what: str,
    remedy: str,
    build: Callable[[dict[str, torch.Tensor], dict[str, Any]], T],
) -> T:
    """What ``build`` makes of the tensors and the record of :func:`read_weights`.

    Raises:
        WeightsUnavailable: as :func:`read_weights`, or what ``build`` raises (KeyError, ValueError, TypeError,
            RuntimeError) in one line.
    """
    tensors, record = read_weights(path, key, what, remedy)
    try:
        return build(tensors, record)
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise _foreign(path, what, error) from None


def _foreign(path: Path, what: str, error: Exception) -> WeightsUnavailable:
    """For a file whose tensors or record do not fit: one line with the reason."""
    reason = first_line(error)
    return WeightsUnavailable(f"{what}: {path} is no file of it ({reason}); reinstall or retrain it")


def tensors_sha256(tensors: dict[str, torch.Tensor]) -> str:
    """sha256 over names and float32 bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].float().numpy().tobytes())
    return digest.hexdigest()


def packed(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> bytes:
    """The bytes of a safetensors file; equal tensors and metadata give equal ones.

    >>> import torch
    >>> one = packed({"a": torch.zeros(2)}, {"x": "1", "y": "2"})
    >>> one == packed({"a": torch.zeros(2)}, {"y": "2", "x": "1"})
    True
    """
    from safetensors.torch import save

    data = save(tensors, metadata=metadata)
    end = 8 + int.from_bytes(data[:8], "little")
    return data[:8] + _in_order(data[8:end]) + data[end:]


def _in_order(header: bytes) -> bytes:
    """A safetensors header of the same length, its metadata by key: the library's own order differs at every call."""
    entries = json.loads(header)
    if "__metadata__" in entries:
        entries["__metadata__"] = dict(sorted(entries["__metadata__"].items()))
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    return text.ljust(len(header)) if len(text) <= len(header) else header


def join_tensors(parts: Sequence[Path], target: Path, metadata: dict[str, str]) -> bool:
    """The tensors of safetensors files, one file after the other along dimension 0, as one; False if there are none.

    Tensors of one name have the same type, and the same shape but for dimension 0. Memory is that of one tensor of one
    file: they are put together in a temporary folder beside ``target``, which needs as much space once more, and the
    library reads them from there. ``target`` appears when it is complete.

    Raises:
        OSError: a part cannot be read, or the disk is full.
    """
    from safetensors import safe_open
    from safetensors.numpy import save_file

    found: dict[str, list[tuple[Path, list[int]]]] = {}
    kinds: dict[str, np.dtype[Any]] = {}
    for part in parts:
        with safe_open(part, framework="np") as opened:
            for name in opened.keys():  # noqa: SIM118
                tensor = opened.get_tensor(name)
                found.setdefault(name, []).append((part, list(tensor.shape)))
                kinds[name] = tensor.dtype
    if not found:
        return False
    folder = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(folder, ignore_errors=True)  # left by a kill
    folder.mkdir()
    joined: dict[str, np.ndarray] = {}
    try:
        for number, (name, pieces) in enumerate(found.items()):
            shape = (sum(piece[0] for _, piece in pieces), *pieces[0][1][1:])
            joined[name] = _mapped(folder / str(number), kinds[name], shape)
            at = 0
            for part, piece in pieces:
                with safe_open(part, framework="np") as opened:
                    joined[name][at : at + piece[0]] = opened.get_tensor(name)
                at += piece[0]
        made = folder / target.name
        save_file(joined, made, metadata=metadata)
        with open(made, "r+b") as file:
            header = file.read(int.from_bytes(file.read(8), "little"))
            file.seek(8)
            file.write(_in_order(header))
        made.chmod(0o644)  # the library's files come readable by one alone
        os.replace(made, target)
    finally:
        joined.clear()  # Windows removes no file that is mapped
        shutil.rmtree(folder, ignore_errors=True)
    return True


def _mapped(file: Path, kind: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
    if 0 in shape:  # no map of an empty file
        return np.zeros(shape, kind)
    return np.memmap(file, kind, "w+", shape=shape)
