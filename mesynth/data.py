"""Corpora and prepared databases in other people's training code: PyTorch data sets over their clips.

:class:`ClipDataset` reads by place, :class:`IterableClipDataset` one after the other; both give the same items, and
:func:`collate_clips` makes batches of them. :func:`clip_loader` puts them together. Nothing is copied into memory
beforehand: a data set holds arrays of a few hundred bytes a clip, whatever its frames weigh.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, default_collate, get_worker_info

from mesynth.core.emotions import CLASSES_3, SCHEMES, class_names
from mesynth.core.errors import ConfigError, ManifestError, MesynthError
from mesynth.core.seeds import stream
from mesynth.core.types import N_AUS, in_own_rms
from mesynth.preprocess.interpolate import WEIGHTS, resample, resampled_fps
from mesynth.store.hub import local_folder
from mesynth.store.manifest import KINDS, Manifest, Span, held_out, require_spelt
from mesynth.store.shards import FLOW_PARTS, ShardReader, flow_parts, frames_of, read_flows

__all__ = ["ClipDataset", "IterableClipDataset", "ShardedSampler", "clip_loader", "collate_clips"]

Source = str | Path | Manifest
Item = dict[str, Any]
PARTS = ("frames", *FLOW_PARTS, "provenance")
FITS = ("pad", *WEIGHTS)
SMALLEST = 8
"""Pixels a side."""
_OPEN = 8  # shards that a process keeps open
_BLOCK, _WINDOW = 32, 4096  # clips read together, and clips among which a stream shuffles


# ---------------------------------------------------------------- what clips there are


def _manifests(source: Source | Sequence[Source]) -> list[Manifest]:
    several = [source] if isinstance(source, (str, Path, Manifest)) else list(source)
    if not several:
        raise ManifestError("no corpus is given; name a folder that prepare, render or generate wrote")
    found = [one if isinstance(one, Manifest) else Manifest.read(local_folder(one)) for one in several]
    if (empty := next((m for m in found if not len(m)), None)) is not None:
        raise ManifestError(f"the corpus {empty.root} holds no clips; there is nothing to read")
    if len(found) > 1:
        ids = pa.concat_arrays([m.table["clip_id"].combine_chunks() for m in found])
        counts = pc.value_counts(ids)
        twice = counts.filter(pc.greater(pc.struct_field(counts, "counts"), 1))
        if len(twice):
            raise ManifestError(
                f"clip '{twice[0]['values']}' is in two of the corpora ({len(twice)} such clips); give each clip once"
            )
    return found


def _labels(manifests: Sequence[Manifest], label: str, classes: Sequence[str] | None) -> tuple[np.ndarray, list[str]]:
    """[N] int64 class of each clip, -1 for none, and the classes by index."""
    if label not in (*SCHEMES, "objective", "emotion"):
        raise ConfigError(f"label='{label}' is unknown; choose from {', '.join(SCHEMES)}, objective, emotion")
    words = np.concatenate(
        [m.column("emotion").astype(str) if label == "emotion" else m.labels(label) for m in manifests]
    )
    if classes is None:
        first: tuple[str, ...] = CLASSES_3 if label == "3" else ()
        if label in SCHEMES and label != "3":
            databases = sorted({str(d) for m in manifests for d in np.unique(m.column("database").astype(str))})
            first = tuple(dict.fromkeys(name for d in databases for name in class_names(label, d)))
        names = [*first, *sorted(set(words.tolist()) - {"", *first})]
    else:
        names = [classes] if isinstance(classes, str) else list(classes)
        if not names or len(set(names)) != len(names) or "" in names:
            raise ConfigError(f"classes={names} must name at least one class, and none twice")
        if unknown := [name for name in names if name not in set(words.tolist())]:
            there = ", ".join(sorted(set(words.tolist()) - {""})) or "none"
            raise ConfigError(f"classes: no clip is of class '{unknown[0]}'; the clips have {there}")
    place = {name: i for i, name in enumerate(names)}
    found, which = np.unique(words, return_inverse=True)
    return np.array([place.get(str(name), -1) for name in found], np.int64)[which.ravel()], names


def _aus(manifest: Manifest) -> tuple[np.ndarray, np.ndarray]:
    """Intensities [N,K,2] float32 (NaN: unknown) and presence [N,K,2] int8 (-1: unknown)."""
    shape = (len(manifest), N_AUS, 2)
    flat = {}
    for name in ("au_intensity", "au_known", "au_present"):
        values = pc.list_flatten(manifest.table[name]).to_numpy(zero_copy_only=False)
        if len(values) != np.prod(shape):
            raise ManifestError(f"the AUs in {manifest.root} are not {N_AUS} x 2 a clip; make it anew")
        flat[name] = values.reshape(shape)
    intensity = np.where(flat["au_known"].astype(bool), flat["au_intensity"], np.nan).astype(np.float32)
    return intensity, flat["au_present"].astype(np.int8)


@dataclass(frozen=True)
class _Clips:
    """All clips of a data set, by place: arrays and Arrow columns, no objects."""

    numbers: dict[str, np.ndarray]
    aus: np.ndarray
    present: np.ndarray
    columns: pa.Table
    roots: tuple[Path, ...]


_PLACE = ("clip_id", "frame_files", "frames", "flow")
_NUMBERS = ("n_frames", "apex_index", "fps", "height", "width")


def _clips(manifests: Sequence[Manifest], label: np.ndarray, subject: np.ndarray, provenance: bool) -> _Clips:
    names = [*_PLACE, *(["provenance"] if provenance else [])]
    kinds = np.concatenate([m.column("provenance.kind").astype(str) for m in manifests])
    numbers = {name: np.concatenate([m.column(name) for m in manifests]) for name in _NUMBERS}
    numbers |= {
        "label": label,
        "subject": subject,
        "kind": np.array([KINDS.index(kind) for kind in kinds.tolist()], np.int64),
        "source": np.repeat(np.arange(len(manifests)), [len(m) for m in manifests]),
    }
    aus = [_aus(m) for m in manifests]
    return _Clips(
        numbers=numbers,
        aus=np.concatenate([a for a, _ in aus]),
        present=np.concatenate([p for _, p in aus]),
        columns=pa.concat_tables([m.table.select(names) for m in manifests]).combine_chunks(),
        roots=tuple(m.root for m in manifests),
    )


# ---------------------------------------------------------------- the data set


class ClipDataset(Dataset[Item]):
    """Clips of corpora and prepared databases as tensors, read when they are asked for (map-style).

    An item is a dict. Always there:

    - ``aus`` [25,2] float32: intensity in [0,1], rows :data:`mesynth.core.facs.AU_CODES`, sides (L, R); NaN: unknown;
      below 0: less than the onset shows.
    - ``au_present`` [25,2] int64: 1 present, 0 absent, -1 unknown.
    - ``label``: place in :attr:`classes`, -1: the clip has no such class.
    - ``subject``: place in :attr:`subjects`; ``kind``: 0 real, 1 rendered, 2 synthetic; ``clip_id``: text.
    - ``length``: frames that are the clip's; ``apex``: place of the apex among them; ``fps``: frames per second;
      ``index``: the item's own place.

    As ``parts`` say:

    - ``frames`` [T,3,H,W] uint8 RGB.
    - ``flow`` [2,H,W] float32: onset -> apex, pixels, x right and y down; ``valid`` [H,W] bool: False where an onset
      pixel is hidden at the apex; ``landmarks`` [68,2] float32: the onset's, pixels.
    - ``provenance``: dict of :class:`mesynth.store.manifest.Provenance` (generator, licence, ``subjects_seen`` ...).

    Items may be read in worker processes, started by fork or by spawn; every file is held against its sha256.

    Args:
        source: a folder, a :class:`mesynth.Manifest`, ``hf://datasets/NAME/CORPUS``, or several of these.
        parts: what to read; None: frames and flow, as far as the clips have them.
        exclude_subjects: ``database/subject`` names a fold holds out. Clips that show one of them, **or that one of
            them took part in making**, are not in the data set.
        length: frames of every item; None: as stored.
        fit: how clips get that length. "pad": behind a shorter clip stand black frames (``length`` says how many are
            the clip's), of a longer one the frames around the apex are kept; "tim", "linear", "nearest": resampled from
            first to last frame with the apex kept (:mod:`mesynth.preprocess.interpolate`).
        size: side of frames and flow, pixels; flow is then in pixels of that grid. None: as stored.
        label: what the class is: scheme "3" (MEGC 2019), "4", "5", "7", "objective", or "emotion".
        classes: classes by index; None: those of the scheme. Clips of others have label -1.
        labelled: leave out clips with label -1.
        transform: applied to every item, last.

    Raises:
        ManifestError: a source is no corpus or holds no clips, a clip lacks a part, or no clip is left.
        ConfigError: a value out of range, or a subject that is misspelt.
        MesynthError: when an item is read: a damaged shard, or a clip too short to be resampled.

    >>> import mesynth, tempfile
    >>> corpus = mesynth.generate(kind="flow", emotion=["surprise", "negative"], count=6, out=tempfile.mkdtemp() + "/c")
    >>> clips = mesynth.ClipDataset(corpus, exclude_subjects=[corpus.subject_keys()[0]])
    >>> clips.classes, clips[0]["flow"].shape, clips[0]["aus"].shape
    (('negative', 'positive', 'surprise'), torch.Size([2, 28, 28]), torch.Size([25, 2]))
    """

    def __init__(
        self,
        source: Source | Sequence[Source],
        *,
        parts: Collection[str] | None = None,
        exclude_subjects: str | Collection[str] = (),
        length: int | None = None,
        fit: str = "pad",
        size: int | None = None,
        label: str = "3",
        classes: Sequence[str] | None = None,
        labelled: bool = False,
        transform: Callable[[Item], Item] | None = None,
    ) -> None:
        _check(length, fit, size, parts)
        excluded = held_out(exclude_subjects)
        manifests = _manifests(source)
        kept = [_without(m, excluded) for m in manifests]
        if excluded:
            require_spelt(excluded, {name for m in manifests for name in _known(m)})
        self.excluded = sum(map(len, manifests)) - sum(map(len, kept))
        """Clips left out because of ``exclude_subjects``."""
        if not any(map(len, kept)):
            raise ManifestError(
                f"all {self.excluded} clips show, or were made with the help of, an excluded subject "
                f"({', '.join(sorted(excluded)[:3])}); hold out fewer, or make clips without them"
            )
        labels, names = _labels(kept, label, classes)
        if labelled:
            if (labels < 0).all():
                raise ManifestError(
                    f"none of the {len(labels)} clips has a class (label='{label}'); leave out labelled"
                )
            cuts = np.cumsum([0, *map(len, kept)])
            kept = [m.filter(labels[a:b] >= 0) for m, a, b in zip(kept, cuts[:-1], cuts[1:], strict=True)]
            labels = labels[labels >= 0]
        shown = np.concatenate([m.subject_keys().astype(str) for m in kept])
        people, subject = np.unique(shown, return_inverse=True)
        self.classes: tuple[str, ...] = tuple(names)
        """Names of the labels."""
        self.subjects: tuple[str, ...] = tuple(map(str, people))
        """``database/subject`` of the people shown."""
        self.parts = _parts(kept, parts)
        if "flow" in self.parts:
            _require_one_unit([m for m in kept if len(m)])
        self.length, self.fit, self.size, self.transform = length, fit, size, transform
        self._clips = _clips(kept, labels, subject.ravel().astype(np.int64), "provenance" in self.parts)
        self._local = threading.local()

    def __len__(self) -> int:
        return len(self._clips.aus)

    @property
    def labels(self) -> np.ndarray:
        """[N] int64, -1: no class. For samplers that balance classes."""
        return self._clips.numbers["label"]

    @property
    def subject_of(self) -> np.ndarray:
        """[N] int64: place in :attr:`subjects` of whom each clip shows."""
        return self._clips.numbers["subject"]

    @property
    def clip_ids(self) -> list[str]:
        """Of all clips, in their order."""
        return list(self._clips.columns["clip_id"].to_pylist())

    def __getitem__(self, index: int) -> Item:
        at = range(len(self))[index]
        found = self._item(at)
        return found if self.transform is None else self.transform(found)

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """Several items at once, as PyTorch's loader asks for a batch: neighbours in a shard are read in its order."""
        order = sorted(range(len(indices)), key=lambda i: indices[i])
        found = {i: self[indices[i]] for i in order}
        return [found[i] for i in range(len(indices))]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_local"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._local = threading.local()

    # ---------------------------------------------------------------- one item

    def _item(self, at: int) -> Item:
        clips, record = self._clips, self._clips.columns.slice(at, 1).to_pylist()[0]
        number = {name: values[at] for name, values in clips.numbers.items()}
        clip_id = record["clip_id"]
        item: Item = {
            "index": at, "clip_id": clip_id, "label": int(number["label"]), "subject": int(number["subject"]),
            "kind": int(number["kind"]), "length": int(number["n_frames"]), "apex": int(number["apex_index"]),
            "fps": float(number["fps"]), "aus": torch.from_numpy(clips.aus[at].copy()),
            "au_present": torch.from_numpy(clips.present[at].astype(np.int64)),
        }  # fmt: skip
        root = clips.roots[number["source"]]
        if "frames" in self.parts:
            span = record["frames"] and Span(**record["frames"])
            item |= self._fitted(frames_of(self._reader(root, span), clip_id, span, record["frame_files"]), item)
        wanted = [part for part in FLOW_PARTS if part in self.parts]
        if wanted:
            span = record["flow"] and Span(**record["flow"])
            found = flow_parts(self._reader(root, span), clip_id, span, wanted)
            item |= self._of_flow(found, int(number["height"]), int(number["width"]), "valid" in wanted)
        if "provenance" in self.parts:
            item["provenance"] = record["provenance"]
        return item

    def _fitted(self, frames: np.ndarray, item: Item) -> Item:
        """Frames [T,H,W,3] at their size and length, with the numbers that follow from it."""
        apex, fps, length = item["apex"], item["fps"], self.length
        if not 0 <= apex < len(frames):
            raise ManifestError(f"clip {item['clip_id']} has {len(frames)} frames and its apex at {apex}; prepare it")
        if length is not None and self.fit == "pad" and len(frames) > length:
            first = min(max(apex - length // 2, 0), len(frames) - length)
            frames, apex = frames[first : first + length], apex - first
        if self.size is not None and frames.shape[1:3] != (self.size, self.size):
            way = cv2.INTER_AREA if min(frames.shape[1:3]) >= self.size else cv2.INTER_LINEAR
            frames = np.stack([cv2.resize(f, (self.size, self.size), interpolation=way) for f in frames])
        video = torch.from_numpy(_planes(frames))
        if length is None or length == len(video):
            return {"frames": video, "length": len(video), "apex": apex}
        if self.fit == "pad":
            return {"frames": _padded(video, length), "length": len(video), "apex": apex}
        try:
            made, placed = resample(video[None].float(), length, self.fit, apex)
            fps = resampled_fps(fps, len(video), length)
        except MesynthError as error:
            raise MesynthError(f"clip {item['clip_id']}: {error}; choose fit='pad' or another length") from None
        resampled = made[0].round_().clamp_(0, 255).to(torch.uint8)
        return {"frames": resampled, "length": length, "apex": int(placed or 0), "fps": fps}

    def _of_flow(self, found: Mapping[str, np.ndarray], height: int, width: int, valid: bool) -> Item:
        item: Item = {}
        if "flow" in found:
            item["flow"] = torch.from_numpy(resized_flow(found["flow"].astype(np.float32, copy=False), self.size))
        if valid:
            mask = found.get("valid", np.ones((height, width), np.bool_))
            if self.size is not None and mask.shape != (self.size, self.size):  # valid where all that it covers is
                share = cv2.resize(mask.astype(np.float32), (self.size, self.size), interpolation=cv2.INTER_AREA)
                mask = share > 0.999
            item["valid"] = torch.from_numpy(np.ascontiguousarray(mask))
        if "landmarks" in found:
            points: np.ndarray = found["landmarks"].astype(np.float32)
            if self.size is not None:
                points = (points + 0.5) * (np.float32(self.size) / np.array([width, height], np.float32)) - 0.5
            item["landmarks"] = torch.from_numpy(points.astype(np.float32))
        return item

    def _reader(self, root: Path, span: Span | None) -> ShardReader:
        """One open file a shard, of this process and thread alone: forked ones would share a place in it."""
        here, kept = self._local, getattr(self._local, "readers", None)
        if kept is None or here.process != os.getpid():
            here.process, here.readers = os.getpid(), OrderedDict()
            kept = here.readers
        key = (root, span.shard if span is not None else "")
        if key not in kept:
            kept[key] = ShardReader(root)
            if len(kept) > _OPEN:
                kept.popitem(last=False)[1].close()
        kept.move_to_end(key)
        return kept[key]


def _check(length: int | None, fit: str, size: int | None, parts: Collection[str] | None) -> None:
    if length is not None and (not isinstance(length, (int, np.integer)) or isinstance(length, bool) or length < 1):
        raise ConfigError(f"length={length} is no number of frames; give 1 or more, or None to keep clips as they are")
    if fit not in FITS:
        raise ConfigError(f"fit='{fit}' is unknown; choose from {', '.join(FITS)}")
    if fit != "pad" and length is None:
        raise ConfigError(f"fit='{fit}' resamples to a length, and none is given; give length=, such as length=16")
    if fit != "pad" and length is not None and length < 3:
        raise ConfigError(f"length={length} cannot hold onset, apex and offset; resample to at least 3 frames")
    if size is not None and (
        not isinstance(size, (int, np.integer)) or isinstance(size, bool) or not SMALLEST <= size <= 4096
    ):
        raise ConfigError(f"size={size} is outside {SMALLEST}..4096 pixels; give None to keep clips as they are")
    if parts is not None:
        if isinstance(parts, str) or not all(isinstance(part, str) for part in parts):
            raise ConfigError(f"parts={parts!r} is no list of parts; write parts=['flow']")
        if unknown := next((part for part in parts if part not in PARTS), ""):
            raise ConfigError(f"part '{unknown}' is unknown; choose from {', '.join(PARTS)}")


def _without(manifest: Manifest, excluded: frozenset[str]) -> Manifest:
    return manifest.filter(~manifest.saw(excluded)) if excluded else manifest


def _known(manifest: Manifest) -> set[str]:
    sets, _ = manifest.subject_sets()
    return set(map(str, np.unique(manifest.subject_keys().astype(str)))).union(*sets)


def _parts(manifests: Sequence[Manifest], asked: Collection[str] | None) -> tuple[str, ...]:
    """Raises ManifestError where a clip lacks one."""
    lacks: dict[str, list[str]] = {"frames": [], "flow": []}
    for m in manifests:
        loose = np.asarray(pc.list_value_length(m.table["frame_files"]).to_numpy()) > 0
        stored = {name: m.table[name].is_valid().to_numpy() for name in lacks}
        stored["frames"] = stored["frames"] | loose
        for name, there in stored.items():
            lacks[name] += m.table["clip_id"].filter(pa.array(~there)).to_pylist()
    total = sum(map(len, manifests))
    parts = tuple(asked) if asked is not None else tuple(name for name, ids in lacks.items() if len(ids) < total)
    if asked is None and not parts:
        raise ManifestError(f"the {total} clips have neither frames nor flow; prepare them, or name other parts")
    for part in parts:
        ids = lacks["flow" if part in FLOW_PARTS else "frames"] if part != "provenance" else []
        if ids:
            way = "prepare them" if part in FLOW_PARTS else "use the corpus that has them"
            others = "name the parts to read, such as parts=['flow']" if part == "frames" else "parts=['frames']"
            raise ManifestError(f"{len(ids)} of {total} clips have no {part}, for example {ids[0]}; {way}, or {others}")
    return parts


def _require_one_unit(manifests: Sequence[Manifest]) -> None:
    """Raises ManifestError where the first clips of two corpora have flow in pixels and in units of its own rms."""
    if len(manifests) < 2:
        return
    own = [in_own_rms(next(read_flows(m[:1]))) for m in manifests]
    if len(set(own)) > 1:
        one, other = manifests[own.index(True)].root, manifests[own.index(False)].root
        raise ManifestError(
            f"flow of {one} is in units of its own rms (published flow images), of {other} in pixels; a network cannot "
            "learn from both: make a data set of each"
        )


def resized_flow(uv: np.ndarray, size: int | None) -> np.ndarray:
    """Flow [2,H,W] float32 on a grid of ``size`` x ``size``, in that grid's pixels (in units of its own rms where it is
    in them, as what is read from published flow images).

    >>> resized_flow(np.full((2, 64, 32), 2.0, np.float32), 16)[:, 0, 0].tolist()
    [1.0, 0.5]
    """
    height, width = uv.shape[1:]
    if size is None or (height, width) == (size, size):
        return np.ascontiguousarray(uv)
    way = cv2.INTER_AREA if min(height, width) >= size else cv2.INTER_LINEAR
    planes: np.ndarray = np.stack(
        [cv2.resize(np.ascontiguousarray(plane), (size, size), interpolation=way) for plane in uv]
    )
    if in_own_rms(uv):
        return np.asarray(planes / max(float(np.sqrt(np.mean(planes**2))), 1e-6), np.float32)
    return np.asarray(planes * np.array([size / width, size / height], np.float32)[:, None, None])


def _planes(frames: np.ndarray) -> np.ndarray:
    """[T,H,W,3] -> [T,3,H,W], seven times as fast as a permuted copy."""
    out = np.empty((len(frames), 3, *frames.shape[1:3]), np.uint8)
    for frame, planes in zip(frames, out, strict=True):
        cv2.split(frame, list(planes))
    return out


def _padded(video: torch.Tensor, length: int) -> torch.Tensor:
    """[T,...] with zeros behind, [length,...]."""
    behind = video.new_zeros((length - len(video), *video.shape[1:]))
    return torch.cat([video, behind])


# ---------------------------------------------------------------- who reads what


def _place(rank: int | None, world_size: int | None) -> tuple[int, int] | None:
    """Rank and number of processes as given, else of torch.distributed; None where neither says."""
    if (rank is None) != (world_size is None):
        raise ConfigError(f"rank={rank} and world_size={world_size} go together; give both or neither")
    if rank is not None and world_size is not None:
        if not 0 <= rank < world_size:
            raise ConfigError(f"rank={rank} is outside 0..{world_size - 1}, the processes of world_size={world_size}")
        return rank, world_size
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return None


def share(order: np.ndarray, part: int, parts: int, *, even: bool = False) -> np.ndarray:
    """The ``part``-th of ``parts`` runs of ``order`` [N], which differ by one in length at most; ``even``: not at all,
    and up to parts-1 of the last are left out.

    >>> [share(np.arange(5), i, 2).tolist() for i in range(2)]
    [[0, 1, 2], [3, 4]]
    """
    return np.array_split(order[: len(order) // parts * parts] if even else order, parts)[part]


class ShardedSampler(Sampler[int]):
    """Places for a map-style data set: those of this process of a distributed run, each exactly once over all of them.

    Unlike ``torch.utils.data.DistributedSampler`` it repeats no clip: processes may differ by one clip, or with
    ``even`` leave out up to ``world_size - 1`` clips an epoch, other ones each time.

    Args:
        clips: the data set, or how many clips it has.
        shuffle: another order each epoch (:meth:`set_epoch`), the same on every machine.
        seed: of the order.
        even: give every process as many, for steps that all processes take together.
        rank: which process this is, instead of torch.distributed's.
        world_size: of how many.

    Raises:
        ConfigError: a rank that there is not, or a negative seed.

    >>> parts = [list(ShardedSampler(5, shuffle=True, rank=r, world_size=2)) for r in range(2)]
    >>> sorted(parts[0] + parts[1])
    [0, 1, 2, 3, 4]
    """

    def __init__(
        self,
        clips: Dataset[Any] | int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        even: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        self.count = clips if isinstance(clips, int) else len(clips)  # type: ignore[arg-type]
        self.shuffle, self.seed, self.even, self.epoch = shuffle, seed, even, 0
        self._given = (rank, world_size)
        _place(rank, world_size)
        stream(seed, "clips")

    def set_epoch(self, epoch: int) -> None:
        """The order of that epoch, from the next pass on."""
        self.epoch = epoch

    def _share(self) -> np.ndarray:
        order = np.arange(self.count)
        if self.shuffle:
            order = stream(self.seed, "clips", self.epoch).permutation(self.count)
        return share(order, *(_place(*self._given) or (0, 1)), even=self.even)

    def __iter__(self) -> Iterator[int]:
        return iter(self._share().tolist())

    def __len__(self) -> int:
        return len(self._share())


class IterableClipDataset(IterableDataset[Item]):
    """The items of a :class:`ClipDataset` one after the other, read along the shards (for disks that dislike seeks).

    Every clip comes once an epoch: each process of a distributed run has its share, each worker of a loader a share of
    that. ``shuffle`` moves runs of 32 neighbours about and then clips within 4096 (all of them in a smaller corpus), by
    ``seed`` and :meth:`set_epoch`, which persistent workers hear of too.

    Args:
        clips: a :class:`ClipDataset`, or a source for one, with ``options`` of it.
        shuffle: as :class:`ShardedSampler` has it; so are the others.
        seed: of the order.
        even: give every process as many.
        rank: which process this is.
        world_size: of how many.

    Raises:
        MesynthError: as :class:`ClipDataset` and :class:`ShardedSampler`.

    >>> import mesynth, tempfile
    >>> corpus = mesynth.generate(kind="flow", emotion="surprise", count=5, out=tempfile.mkdtemp() + "/c")
    >>> parts = [IterableClipDataset(corpus, shuffle=True, rank=r, world_size=2) for r in range(2)]
    >>> sorted(item["index"] for part in parts for item in part)
    [0, 1, 2, 3, 4]
    """

    def __init__(
        self,
        clips: ClipDataset | Source | Sequence[Source],
        *,
        shuffle: bool = False,
        seed: int = 0,
        even: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
        **options: Any,
    ) -> None:
        if isinstance(clips, ClipDataset) and options:
            raise ConfigError(f"{min(options)} goes with a source, not with a ClipDataset that is made already")
        self.clips = clips if isinstance(clips, ClipDataset) else ClipDataset(clips, **options)
        self.shuffle, self.seed, self.even = shuffle, seed, even
        self._given, self._sent = (rank, world_size), None if rank is None else _place(rank, world_size)
        _place(rank, world_size)
        stream(seed, "clips")
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # seen by workers that stay

    def set_epoch(self, epoch: int) -> None:
        """The order of that epoch, from the next pass on."""
        self._epoch.fill_(epoch)

    def __getstate__(self) -> dict[str, Any]:
        # A worker that is started anew knows nothing of the distributed run.
        return self.__dict__ | {"_sent": _place(*self._given) or self._sent}

    def _rank(self) -> tuple[int, int]:
        return _place(*self._given) or self._sent or (0, 1)

    def __len__(self) -> int:
        rank, processes = self._rank()
        return len(share(np.arange(len(self.clips)), rank, processes, even=self.even))

    def _order(self) -> np.ndarray:
        order = np.arange(len(self.clips))
        if not self.shuffle:
            return order
        rng = stream(self.seed, "clips", int(self._epoch))
        if len(order) > _WINDOW:
            blocks = [order[i : i + _BLOCK] for i in range(0, len(order), _BLOCK)]
            order = np.concatenate([blocks[i] for i in rng.permutation(len(blocks))])
        return np.concatenate([rng.permutation(order[i : i + _WINDOW]) for i in range(0, len(order), _WINDOW)])

    def __iter__(self) -> Iterator[Item]:
        worker = get_worker_info()
        mine = share(self._order(), *self._rank(), even=self.even)
        if worker is not None:
            mine = share(mine, worker.id, worker.num_workers)
        for first in range(0, len(mine), _BLOCK):
            for at in mine[first : first + _BLOCK].tolist():
                yield self.clips[at]


# ---------------------------------------------------------------- batches


def collate_clips(items: Sequence[Item]) -> Item:
    """A batch of items: tensors and numbers stacked, texts and dicts as lists.

    Clips of several lengths get black frames behind, ``frames`` [B,T,3,H,W] with T of the longest; ``mask`` [B,T] bool
    is True on the clips' own frames. What a ``transform`` added is stacked as well.

    Raises:
        MesynthError: no items, or tensors of several sizes (give the data set a ``size``).

    >>> short, long = ({"frames": torch.ones(t, 3, 8, 8), "length": t} for t in (2, 3))
    >>> batch = collate_clips([short, long])
    >>> batch["frames"].shape, batch["mask"].tolist()
    (torch.Size([2, 3, 3, 8, 8]), [[True, True, False], [True, True, True]])
    """
    if not items:
        raise MesynthError("a batch of no clips cannot be made; give at least one item")
    if odd := next((item for item in items if set(item) != set(items[0])), None):
        name = min(set(odd) ^ set(items[0]))
        raise MesynthError(f"'{name}' is in some items of a batch and not in others; a transform must treat all alike")
    batch: Item = {}
    for name in items[0]:
        values = [item[name] for item in items]
        if name == "frames" and torch.is_tensor(values[0]) and "length" in items[0]:
            longest = max(map(len, values))
            values = [_padded(video, longest) if len(video) < longest else video for video in values]
            length = torch.tensor([item["length"] for item in items])
            batch["mask"] = torch.arange(longest) < length[:, None]
        batch[name] = _stacked(name, values)
    return batch


def _stacked(name: str, values: list[Any]) -> Any:
    first = values[0]
    if torch.is_tensor(first) or isinstance(first, np.ndarray):
        shapes = sorted({tuple(value.shape) for value in values})
        if len(shapes) > 1:
            raise MesynthError(
                f"'{name}' of a batch has the shapes {shapes[0]} and {shapes[-1]}; give the data set one size, such as "
                "size=128, or batches of one clip"
            )
        return default_collate(values)
    if isinstance(first, float):
        return torch.tensor(values, dtype=torch.float32)
    return default_collate(values) if isinstance(first, (bool, int)) else values


def clip_loader(
    clips: ClipDataset | IterableClipDataset,
    batch_size: int = 16,
    *,
    shuffle: bool = False,
    seed: int = 0,
    even: bool = False,
    **options: Any,
) -> DataLoader[Item]:
    """A ``torch.utils.data.DataLoader`` over clips: batches by :func:`collate_clips`, each process of a distributed run
    its share. ``loader.sampler.set_epoch(e)`` (of a stream: ``loader.dataset.set_epoch(e)``) begins epoch e.

    Args:
        clips: a data set; one that is a stream has its own order.
        batch_size: clips a batch and process.
        shuffle: another order each epoch.
        seed: of the order.
        even: give every process as many; see :class:`ShardedSampler`.
        options: of DataLoader: ``num_workers=4``, ``multiprocessing_context="spawn"``, ``pin_memory=True`` ...

    Raises:
        ConfigError: shuffle, seed or even of a stream, or a batch size below 1.

    >>> import mesynth, tempfile
    >>> corpus = mesynth.generate(kind="flow", emotion="surprise", count=4, out=tempfile.mkdtemp() + "/c")
    >>> batch = next(iter(clip_loader(ClipDataset(corpus), 3, shuffle=True)))
    >>> batch["flow"].shape, batch["label"].tolist()
    (torch.Size([3, 2, 28, 28]), [2, 2, 2])
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size={batch_size} is no number of clips; give 1 or more")
    options = {"collate_fn": collate_clips} | options
    if isinstance(clips, IterableClipDataset):
        if shuffle or seed or even:
            raise ConfigError("a stream has its own order; give shuffle, seed and even to IterableClipDataset")
        return DataLoader(clips, batch_size, **options)
    sampler = ShardedSampler(clips, shuffle=shuffle, seed=seed, even=even)
    return DataLoader(clips, batch_size, sampler=sampler, **options)
