"""Clips of any manifest as memory-mapped arrays, so that a training step reads pairs and decodes nothing.

A pack lies in a cache folder of its own, named after the manifest's hash and how it was made; it appears under that
name only when complete, and one that is damaged is made again. Writing needs the memory of one clip.

Flow is kept as float16: the error is at most 1/4096 of a component (.002 px at 8 px).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from mesynth.core.errors import ManifestError, MesynthError
from mesynth.core.framing import OWN, KnownFraming
from mesynth.core.process import counted
from mesynth.store.manifest import Manifest
from mesynth.store.run_folder import file_lock, write_text
from mesynth.training.data.packed_clip import PackConfig, PackedClip, Unusable, pack_clip

META = "pack.json"
_FORMAT = 2
_SMALL = ("first", "apex", "flow_at", "alpha", "aus", "known", "landmarks", "label", "subject", "seen")
_TYPES: dict[str, str] = {
    "frames": "u1", "flow": "<f2", "valid": "u1", "first": "<i8", "apex": "<i4", "flow_at": "<i8", "alpha": "<f4",
    "aus": "<f4", "known": "u1", "landmarks": "<f4", "label": "i1", "subject": "<i4", "seen": "<i4",
}  # fmt: skip
Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Pack:
    """N clips of F frames in all, read-only arrays that stay on disk."""

    folder: Path
    frames: np.ndarray
    """[F,S,S,3] uint8, clip after clip, each onset first"""
    first: np.ndarray
    """[N+1] int64: clip i has the frames first[i] .. first[i+1]-1"""
    apex: np.ndarray
    """[N] int32: place of the apex among the clip's frames, at least 1; 0 for a face alone"""
    alpha: np.ndarray
    """[F] float32: share of the apex expression (see packed_clip.levels)"""
    aus: np.ndarray
    """[F,K,2] float32 intensities, 0 where unknown"""
    known: np.ndarray
    """[N,K,2] uint8, 1 where known"""
    landmarks: np.ndarray
    """[N,68,2] float32 pixels of the onset; NaN where there are none"""
    flow_at: np.ndarray
    """[N] int64: row of ``flow`` and ``valid``, -1 for a clip without flow"""
    flow: np.ndarray
    """[M,2,S,S] float16 pixels, onset -> apex"""
    valid: np.ndarray
    """[M,ceil(S*S/8)] uint8, bits of [S,S]"""
    label: np.ndarray
    """[N] int8 class of the composite, -1 for none"""
    subject: np.ndarray
    """[N] int32 index into ``subjects``"""
    seen: np.ndarray
    """[N] int32 index into ``seen_sets``"""
    subjects: tuple[str, ...]
    seen_sets: tuple[tuple[str, ...], ...]
    """What clips have seen (Provenance.subjects_seen, the person shown included)."""
    licences: tuple[str, ...]
    size: int
    hash: str
    """Of the manifest and the way it was packed."""
    unusable: dict[str, int]
    """Reasons for which clips were left out, with how many."""

    def __len__(self) -> int:
        return len(self.apex)


def open_pack(folder: Path | str, cache: Path, config: PackConfig, progress: Progress | None = None) -> Pack:
    """The pack of the manifest in ``folder``, made in ``cache`` unless it is there and whole.

    Several processes may ask for one pack at once: one makes it, the others wait.

    Raises:
        ManifestError: no manifest, no clips, none that can be used, or a damaged shard.
        MesynthError: the disk is full.
    """
    manifest = Manifest.read(folder)
    if len(manifest) == 0:
        raise ManifestError(f"the manifest of {manifest.root} holds no clips; nothing to learn from")
    own = KnownFraming(framing=OWN)
    if (known := manifest.framing) is not None and known.differs(own):
        raise ManifestError(
            f"faces of {manifest.root} lie at {known.text()}, and generators learn in our crop ({own.text()}); prepare "
            "the clips without --frame"
        )
    digest = _digest(manifest, config)
    target = Path(cache) / f"pack-{digest[:20]}"
    with locked(Path(cache)):
        found = _read(target, digest)
        if found is None:
            _build(manifest, target, digest, config, progress)
            found = _read(target, digest)
            assert found is not None
    return found


def _digest(manifest: Manifest, config: PackConfig) -> str:
    # The stored hash is of the rows as written; a table changed in memory has lost its claim to it.
    rows = manifest.meta.get("mesynth.hash") or manifest.hash()
    return hashlib.sha256(json.dumps([_FORMAT, rows, config.record()]).encode()).hexdigest()


@contextmanager
def locked(cache: Path) -> Iterator[None]:
    """Exclusive use of a cache folder; waits for another process, and survives its death."""
    with ExitStack() as stack:
        try:
            cache.mkdir(parents=True, exist_ok=True)
            stack.enter_context(file_lock(cache / ".lock", wait=True))
        except OSError as error:
            raise MesynthError(f"cache {cache} cannot be written ({error.strerror}); choose another folder") from None
        yield


# ---------------------------------------------------------------- writing


def _build(manifest: Manifest, target: Path, digest: str, config: PackConfig, progress: Progress | None) -> None:
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        for old in (temporary, target):
            shutil.rmtree(old, ignore_errors=True)
        temporary.mkdir(parents=True)
        meta = _write_arrays(manifest, temporary, config, progress)
        write_text(temporary / META, json.dumps(meta | {"format": _FORMAT, "hash": digest, "size": config.size}))
        os.replace(temporary, target)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise MesynthError(f"the disk of {target.parent} is full; make room or choose another cache") from None
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


class _Writer:
    """Appends to one plain file an array; ordinary writes, because a full disk kills a process that maps memory."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name, self.rows, self._dtype = name, 0, np.dtype(_TYPES[name])
        self._file: IO[bytes] = open(folder / f"{name}.bin", "wb")  # noqa: SIM115 - closed by _write_arrays

    def add(self, rows: np.ndarray) -> None:
        """Append [n,...]."""
        self._file.write(np.ascontiguousarray(rows, self._dtype).tobytes())
        self.rows += len(rows)

    def close(self) -> None:
        self._file.close()


def _write_arrays(manifest: Manifest, folder: Path, config: PackConfig, progress: Progress | None) -> dict[str, Any]:
    writers = {name: _Writer(folder, name) for name in _TYPES}
    subjects: dict[str, int] = {}
    seen_sets: dict[tuple[str, ...], int] = {}
    licences: set[str] = set()
    unusable: dict[str, int] = {}
    try:
        writers["first"].add(np.zeros(1))
        for row in counted(manifest, len(manifest), progress):
            clip = pack_clip(manifest.root, row, config)
            if isinstance(clip, Unusable):
                unusable[clip.reason] = unusable.get(clip.reason, 0) + 1
            else:
                seen = tuple(sorted({row.subject_key, *row.provenance.subjects_seen}))
                _write_clip(writers, clip)
                writers["subject"].add(np.array([subjects.setdefault(row.subject_key, len(subjects))]))
                writers["seen"].add(np.array([seen_sets.setdefault(seen, len(seen_sets))]))
                licences.add(row.provenance.licence)
    finally:
        for writer in writers.values():
            writer.close()
    if not writers["apex"].rows:
        reason = max(unusable, key=lambda key: unusable[key])
        raise ManifestError(f"none of {len(manifest)} clips in {manifest.root} can be learned from: {reason}")
    return {
        "rows": {name: writer.rows for name, writer in writers.items()},
        "sha256": {name: _sha256(folder / f"{name}.bin") for name in _SMALL},
        "subjects": list(subjects), "seen": [list(s) for s in seen_sets], "licences": sorted(licences),
        "unusable": unusable,
    }  # fmt: skip


def _write_clip(writers: dict[str, _Writer], clip: PackedClip) -> None:
    writers["frames"].add(clip.frames)
    writers["first"].add(np.array([writers["frames"].rows]))
    writers["apex"].add(np.array([clip.apex]))
    writers["alpha"].add(clip.alpha)
    writers["aus"].add(clip.aus)
    writers["known"].add(clip.known[None])
    writers["landmarks"].add(clip.landmarks[None])
    writers["label"].add(np.array([clip.label]))
    writers["flow_at"].add(np.array([-1 if clip.flow is None else writers["flow"].rows]))
    if clip.flow is not None:
        assert clip.valid is not None
        writers["flow"].add(clip.flow[None])
        writers["valid"].add(np.packbits(clip.valid.ravel())[None])


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


# ---------------------------------------------------------------- reading


def _read(folder: Path, digest: str) -> Pack | None:
    """The pack in ``folder``; None where there is none or it is not whole (sizes, hashes of the small arrays)."""
    try:
        meta = json.loads((folder / META).read_text())
        if meta["format"] != _FORMAT or meta["hash"] != digest:
            return None
        arrays = {name: _map(folder / f"{name}.bin", name, meta["rows"][name], meta["size"]) for name in _TYPES}
        if any(_sha256(folder / f"{name}.bin") != meta["sha256"][name] for name in _SMALL):
            return None
        return Pack(
            folder,
            **arrays,
            subjects=tuple(meta["subjects"]),
            seen_sets=tuple(tuple(s) for s in meta["seen"]),
            licences=tuple(meta["licences"]),
            size=meta["size"],
            hash=digest,
            unusable=meta["unusable"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None  # the cache is ours: what cannot be read is made again


def _map(file: Path, name: str, rows: int, size: int) -> np.ndarray:
    from mesynth.core.types import N_AUS

    tails: dict[str, tuple[int, ...]] = {
        "frames": (size, size, 3), "flow": (2, size, size), "valid": (-(-size * size // 8),), "aus": (N_AUS, 2),
        "known": (N_AUS, 2), "landmarks": (68, 2),
    }  # fmt: skip
    shape, dtype = (rows, *tails.get(name, ())), np.dtype(_TYPES[name])
    if file.stat().st_size != int(np.prod(shape)) * dtype.itemsize:
        raise ValueError(f"{file} is cut short")
    if name in _SMALL:
        return np.fromfile(file, dtype).reshape(shape)
    return np.memmap(file, dtype, "r", shape=shape) if rows else np.zeros(shape, dtype)
