"""What a recognizer is shown of a clip beside its class: every view's form, how it is read, mirrored and shifted.

| view | of one clip | values in a batch | what |
|---|---|---|---|
| flow | 3,S,S | pixels of the S grid, or bytes | u, v and strain (its third channel), onset -> apex |
| apex | 2,F,F | 0..1 | onset and apex, grey |
| frames | T,F,F | 0..1 | the clip, grey |
| difference | 3,F,F | -1..1 | apex minus onset, RGB |
| dynamic | 3,F,F | share of 0..1, signed | dynamic image, onset to apex, RGB |
| active | 3,F,F | share of 0..1, may exceed 1 | active image of the whole clip, RGB |
| landmarks | T,68,2 | crop widths from the crop's centre | tracks (x, y), iBUG order, head motion in them |
| flows | K,3,S,S | as flow | flow from the onset to K key frames |
| eyes | 2,T,E,E | 0..1 | the subject's left and right eye with its brow, grey |
| mouth | T,E,E | 0..1 | the mouth, grey |
| patches | 51,T,16,16 | 0..1 | squares about the landmarks 17..67 of the onset, grey |

S is data.size (data.pool where that averages), F data.frame_size, E half of it, T data.frames, K data.key_frames. In
time, everything but key frames is brought to T by linear interpolation between the first and the last frame. Key frames
lie at k (n-1)/K, k = 1..K: from just after the onset, whose flow is zero, to the offset, evenly; the one nearest to the
apex is moved onto it, so that the flow to the apex is always among them.

``flows`` and ``landmarks`` take a flow estimator for every frame: ``mesynth prepare --inputs`` stores them, and a clip
without is refused. All others are functions of frames (and of the onset's landmarks): where they are not stored they
are computed when a clip is read, by the code that prepares them, to the same values. Strain has no view of its own.

In memory a view is uint8 or float16 (landmarks float32: a hundredth of a pixel counts); :func:`moved` and
:func:`as_floats` make float32 of a batch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import torch

from mesynth.core.errors import ConfigError, ManifestError, MesynthError
from mesynth.core.framing import Framing, KnownFraming, reframed, reframed_picture, reframed_points
from mesynth.core.types import LANDMARK_MIRROR
from mesynth.store.manifest import Manifest, Row
from mesynth.store.shards import read_extras, read_frames, read_landmarks

FLOW, APEX, FRAMES = "flow", "apex", "frames"
DIFFERENCE, DYNAMIC, ACTIVE = "difference", "dynamic", "active"
LANDMARKS, FLOWS, EYES, MOUTH, PATCHES = "landmarks", "flows", "eyes", "mouth", "patches"

READ_AS = "read as"
"""Key of a manifest's metadata in memory: the framing (:class:`KnownFraming`, JSON) that its clips are read in."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of the views a network may need."""

    size: int = 28
    """S of "flow" [B,3,S,S] and "flows" [B,K,3,S,S]."""
    frame_size: int = 64
    """F of "apex" [B,2,F,F], "frames" [B,T,F,F], and "difference", "dynamic", "active" [B,3,F,F]."""
    frames: int = 10
    """T of "frames", "landmarks" [B,T,68,2], "patches" [B,51,T,16,16], "eyes" and "mouth"."""
    key_frames: int = 8
    """K of "flows"."""

    @property
    def part_size(self) -> int:
        """E of "eyes" [B,2,T,E,E] and "mouth" [B,T,E,E]: half of F."""
        return self.frame_size // 2


# ---------------------------------------------------------------- the views


@dataclass(frozen=True, kw_only=True)
class View:
    """The form of a view, and what mirroring and shifting the face does to it."""

    dims: tuple[int | str, ...]
    """Of one clip: numbers, or attributes of :class:`Shape`."""
    dtype: type[Any] = np.uint8
    """In memory."""
    signed: bool = False
    """The first of its three channels is u, which a mirror turns round."""
    points: bool = False
    """Places instead of pixels."""
    follows: bool = False
    """Cut about landmarks: it moves with the face, so that a shift of the face in its crop leaves it as it is."""
    sides: tuple[int, ...] = ()
    """Order of its first dimension in the mirror."""
    prepared: bool = False
    """An input of ``mesynth prepare --inputs`` of the same name."""
    costly: bool = False
    """Read where it was prepared and not computed otherwise."""

    def of(self, shape: Shape) -> tuple[int, ...]:
        """The shape of one clip.

        >>> VIEWS["eyes"].of(Shape(frame_size=64, frames=10))
        (2, 10, 32, 32)
        """
        return tuple(d if isinstance(d, int) else getattr(shape, d) for d in self.dims)


_PICTURE: dict[str, Any] = {"dims": (3, "frame_size", "frame_size"), "dtype": np.float16, "prepared": True}
VIEWS: dict[str, View] = {
    FLOW: View(dims=(3, "size", "size"), dtype=np.float32, signed=True),
    APEX: View(dims=(2, "frame_size", "frame_size")),
    FRAMES: View(dims=("frames", "frame_size", "frame_size")),
    DIFFERENCE: View(**_PICTURE),
    DYNAMIC: View(**_PICTURE),
    ACTIVE: View(**_PICTURE),
    LANDMARKS: View(
        dims=("frames", 68, 2), dtype=np.float32, points=True, sides=LANDMARK_MIRROR, prepared=True, costly=True
    ),
    FLOWS: View(dims=("key_frames", 3, "size", "size"), dtype=np.float16, signed=True, prepared=True, costly=True),
    EYES: View(dims=(2, "frames", "part_size", "part_size"), follows=True, sides=(1, 0), prepared=True),
    MOUTH: View(dims=("frames", "part_size", "part_size"), follows=True, prepared=True),
    PATCHES: View(
        dims=(51, "frames", 16, 16), follows=True, sides=tuple(i - 17 for i in LANDMARK_MIRROR[17:]), prepared=True
    ),
}
"""By name, in the order of the table above."""


def require_known(names: Collection[str], reader: str) -> None:
    """Raises ConfigError for a name that is no view; ``reader``: the model that asks for it."""
    for name in names:
        if name == "strain":
            raise ConfigError(f"model {reader} needs view 'strain', which is the third channel of 'flow' and 'flows'")
        if name not in VIEWS:
            raise ConfigError(f"model {reader} needs view '{name}', which is unknown; choose from {', '.join(VIEWS)}")


def uses(names: Collection[str], attribute: str) -> bool:
    """Whether one of the views depends on this attribute of :class:`Shape`."""
    own = {attribute, "part_size"} if attribute == "frame_size" else {attribute}
    return any(own & set(VIEWS[name].dims) for name in names)


def to_prepare(names: Collection[str]) -> tuple[str, ...]:
    """Those that have to be prepared to be read: for ``mesynth prepare --inputs``."""
    return tuple(name for name, view in VIEWS.items() if name in names and view.costly)


# ---------------------------------------------------------------- mirrored, shifted, as numbers


def as_floats(x: torch.Tensor) -> torch.Tensor:
    """A view as it is in memory -> float32 as networks see it: bytes of pictures are divided by 255."""
    return x.float() / 255 if x.dtype == torch.uint8 else x.float()


def mirrored(name: str, x: np.ndarray, top: float = 0.0) -> np.ndarray:
    """A view [N,...] of the mirrored faces; u becomes ``top`` - u.

    >>> mirrored("eyes", np.arange(4, dtype=np.uint8).reshape(1, 2, 1, 1, 2)).ravel().tolist()
    [3, 2, 1, 0]
    """
    view = VIEWS[name]
    if view.points:
        return np.ascontiguousarray(x[..., list(view.sides), :] * np.array([-1, 1], x.dtype))
    out = np.ascontiguousarray(x[..., ::-1])
    if view.sides:
        out = out[:, list(view.sides)]
    if view.signed:
        out[..., 0, :, :] = top - out[..., 0, :, :]
    return out


def moved(
    name: str,
    x: torch.Tensor,
    index: torch.Tensor,
    flip: torch.Tensor,
    dy: torch.Tensor,
    dx: torch.Tensor,
    *,
    size: int,
    top: float = 0.0,
) -> torch.Tensor:
    """Clips ``index`` [...] of a view x [N,...], their faces shifted by (dy, dx) [...] pixels of a crop of ``size`` and
    then mirrored where ``flip`` -> [...,...] float32, as networks see them."""
    view = VIEWS[name]
    if view.points:
        shifted = x[index] + torch.stack([dx, dy], -1)[..., None, None, :].to(x.dtype) / size
        other = shifted[..., list(view.sides), :] * torch.tensor([-1.0, 1.0], device=x.device)
        return torch.where(flip[..., None, None, None], other, shifted)
    if view.follows:
        dy, dx = torch.zeros_like(dy), torch.zeros_like(dx)
    elif x.shape[-1] != size:
        factor = x.shape[-1] / size
        dy, dx = ((d * factor).round().long() for d in (dy, dx))
    out = gather_moved(x, index, flip, dy, dx, signed=view.signed, top=top)
    if view.sides:
        other = out.index_select(index.ndim, torch.tensor(view.sides, device=x.device))
        out = torch.where(flip.reshape(*flip.shape, *[1] * (out.ndim - flip.ndim)), other, out)
    return as_floats(out)


def gather_moved(
    x: torch.Tensor,
    index: torch.Tensor,
    flip: torch.Tensor,
    dy: torch.Tensor,
    dx: torch.Tensor,
    *,
    signed: bool,
    top: float = 0.0,
) -> torch.Tensor:
    """Clips ``index`` [...] of x [N,...,S,S], shifted by (dy, dx) [...] pixels, then mirrored where ``flip``.

    -> [...,...,S,S]. Edges repeat; if ``signed``, x is [N,...,C,S,S] and the first channel u, which a mirror makes
    ``top`` - u. One gather for both moves: this runs for every step of every member and would otherwise take as long as
    the network.
    """
    size, middle = x.shape[-1], x.shape[1:-2]
    grid = torch.arange(size, device=x.device)
    rows = (grid - dy[..., None]).clamp(0, size - 1)
    columns = (grid - dx[..., None]).clamp(0, size - 1)
    columns = torch.where(flip[..., None], columns.flip(-1), columns)
    pixels = (rows[..., :, None] * size + columns[..., None, :]).flatten(-2)
    clips = x.reshape(len(x), -1, size * size)[index]
    out = clips.gather(-1, pixels[..., None, :].expand(clips.shape)).reshape(*index.shape, *middle, size, size)
    if not signed:
        return out
    sign = torch.ones(*index.shape, middle[-1], device=x.device)
    sign[..., 0] = torch.where(flip, -1.0, 1.0)
    sign = sign.reshape(*index.shape, *[1] * (len(middle) - 1), middle[-1], 1, 1)
    out = out * sign
    return out + top * (sign < 0) if top else out


# ---------------------------------------------------------------- read


def move_of(manifest: Manifest) -> tuple[Framing, Framing] | None:
    """From which framing a manifest's clips are taken to which, if to another."""
    wanted, own = manifest.meta.get(READ_AS), manifest.framing
    return (own.framing, KnownFraming.of_json(wanted).framing) if wanted and own else None


def read_views(manifest: Manifest, row: Row, wanted: Sequence[str], shape: Shape) -> dict[str, np.ndarray]:
    """The views of one clip beside its flow, in the forms of :class:`View`; of ``flows`` u and v of the key frames
    alone, [K,2,H,W] float32 pixels, which become images as the flow does.

    Raises:
        ManifestError: a view that the clip has not and that cannot be computed from what it has.
    """
    clip = _Clip(manifest, row, shape)
    return {name: clip.view(name) for name in wanted}


_FORMS: dict[str, tuple[int, ...]] = {
    DIFFERENCE: (0, 0, 3), DYNAMIC: (0, 0, 3), ACTIVE: (0, 0, 3), LANDMARKS: (0, 68, 2), FLOWS: (0, 2, 0, 0),
    EYES: (2, 0, 0, 0, 3), MOUTH: (0, 0, 0, 3), PATCHES: (51, 0, 16, 16, 3),
}  # fmt: skip
"""Of the stored arrays; 0: any."""


class _Clip:
    """A clip that is being read: what two of its views need is read once."""

    def __init__(self, manifest: Manifest, row: Row, shape: Shape) -> None:
        self.manifest, self.row, self.shape = manifest, row, shape
        self.move = move_of(manifest)

    def view(self, name: str) -> np.ndarray:
        shape = self.shape
        if name in (APEX, FRAMES):
            self._need_frames(name, "no frames")
        if name == APEX:
            return np.stack([grey(self.frames[i], shape.frame_size) for i in (0, self.row.apex_index)])
        if name == FRAMES:
            return self._grey_in_time(self.frames, shape.frame_size)
        if name in (DIFFERENCE, DYNAMIC, ACTIVE):
            return self._picture(name)
        if name == LANDMARKS:
            return self._tracks()
        if name == FLOWS:
            return self._key_flows()
        part = self._cut(name)
        size = part.shape[-2] if name == PATCHES else shape.part_size
        if name == MOUTH:
            return self._grey_in_time(part, size)
        return np.stack([self._grey_in_time(one, size) for one in part])

    @cached_property
    def stored_frames(self) -> np.ndarray:
        frames, row = read_frames(self.manifest.root, self.row), self.row
        if len(frames) <= row.apex_index:
            raise ManifestError(
                f"clip {row.clip_id} has {len(frames)} frames and its apex at {row.apex_index}; prepare it"
            )
        return frames

    @cached_property
    def frames(self) -> np.ndarray:
        """[T,H,W,3] uint8 in the framing they are read in."""
        if self.move is None:
            return self.stored_frames
        return np.stack([reframed_picture(frame, *self.move) for frame in self.stored_frames])

    @cached_property
    def _stored(self) -> dict[str, np.ndarray]:
        """All inputs that were prepared; forms as they must be."""
        found = read_extras(self.manifest.root, self.row, tuple(_FORMS))
        for name, array in found.items():
            form = _FORMS[name]
            right = array.ndim == len(form) and all(f in (0, n) for f, n in zip(form, array.shape, strict=True))
            if not right or not array.size:
                shown = ",".join(str(f) if f else "*" for f in form)
                raise ManifestError(
                    f"input {name} of clip {self.row.clip_id} is {array.dtype} {array.shape}, not [{shown}]; prepare "
                    "it again"
                )
        return found

    def _array(self, name: str, frames: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """What ``mesynth prepare --inputs`` would store of these frames."""
        from mesynth.preprocess.config import PrepareConfig
        from mesynth.preprocess.inputs import make_inputs

        try:
            made = make_inputs(PrepareConfig(inputs=(name,)), frames, landmarks, self.row.apex_index)
        except MesynthError as error:
            raise ManifestError(f"view {name} of clip {self.row.clip_id}: {error}") from None
        return made[f"input_{name}"]

    def _need_frames(self, name: str, why: str) -> None:
        """One line for whoever has neither the view nor the frames it could be computed from."""
        if not self._shown:
            raise ManifestError(f"clip {self.row.clip_id} in {self.manifest.root} has {why}; {self._way(name)}")

    @property
    def _shown(self) -> bool:
        return self.row.frames is not None or bool(self.row.frame_files)

    def _way(self, name: str) -> str:
        """What makes a view; a database is prepared from its release, all else from its own manifest, if that has the
        frames."""
        if name in (APEX, FRAMES):
            return "`mesynth prepare ...` without --no-frames keeps them (flow images show none)"
        way = f"`mesynth prepare ... --inputs {name}` makes it"
        if not self._shown:
            return f"{way}, from the frames of the release"
        root = self.manifest.root
        return (
            f"{way} (of a corpus: `mesynth prepare corpus --root {root} --landmarker stored --inputs {name} --out NEW`)"
        )

    def _picture(self, name: str) -> np.ndarray:
        array = self._stored.get(name)
        if array is None:
            self._need_frames(name, f"no view '{name}', and no frames to compute it from")
            array = self._array(name, self.stored_frames, np.zeros((68, 2), np.float32))
        image = array.astype(np.float32) / 255 if name == DIFFERENCE else array.astype(np.float32)
        if self.move is not None:
            image = reframed_picture(image, *self.move)
        return _resized(image, self.shape.frame_size).transpose(2, 0, 1).astype(np.float16)

    def _cut(self, name: str) -> np.ndarray:
        """Crops about landmarks. In another framing they show another part of the face, so they are cut anew."""
        array = self._stored.get(name)
        if array is not None and self.move is None:
            return array
        has = f"its {name} cut in its own framing" if array is not None else f"no view '{name}'"
        self._need_frames(name, f"{has}, and no frames to cut them from")
        landmarks = read_landmarks(self.manifest.root, self.row)
        if self.move is not None:
            landmarks = reframed_points(landmarks, *self.move, *self.stored_frames.shape[1:3])
        return self._array(name, self.frames, landmarks)

    def _require(self, name: str) -> np.ndarray:
        array = self._stored.get(name)
        if array is None:
            root = self.manifest.root
            raise ManifestError(f"clip {self.row.clip_id} in {root} has no view '{name}'; {self._way(name)}")
        return array

    def _tracks(self) -> np.ndarray:
        tracks, row = self._require(LANDMARKS), self.row
        height, width = row.height, row.width
        if self.move is not None:
            tracks = np.stack([reframed_points(points, *self.move, height, width) for points in tracks])
        at = (tracks.astype(np.float32) + 0.5) / np.array([width, height], np.float32) - 0.5
        return _in_time(at, self.shape.frames)

    def _key_flows(self) -> np.ndarray:
        flows = self._require(FLOWS)
        times = key_times(len(flows) + 1, self.row.apex_index, self.shape.key_frames)
        whole = np.concatenate([np.zeros_like(flows[:1]), flows]).astype(np.float32)
        chosen = _at(whole, times)
        return chosen.astype(np.float32) if self.move is None else reframed(chosen, *self.move)

    def _grey_in_time(self, frames: np.ndarray, size: int) -> np.ndarray:
        """[T',H,W,3] uint8 RGB -> [T,size,size] uint8."""
        at = np.linspace(0, len(frames) - 1, self.shape.frames)
        below = np.floor(at).astype(int)
        needed = sorted({*below.tolist(), *np.minimum(below + 1, len(frames) - 1).tolist()})
        shown = {i: grey(frames[i], size).astype(np.float32) for i in needed}
        return np.rint(_at(shown, at, len(frames))).astype(np.uint8)


def key_times(n: int, apex: int, count: int) -> np.ndarray:
    """Times [count] of key frames in a clip of ``n`` frames, in frames from the onset: see the module.

    >>> key_times(9, 4, 4).tolist(), key_times(9, 5, 4).tolist()
    ([2.0, 4.0, 6.0, 8.0], [2.0, 5.0, 6.0, 8.0])
    """
    times = (n - 1) * np.arange(1, count + 1) / count
    times[np.abs(times - apex).argmin()] = apex
    return times


def _in_time(values: np.ndarray, length: int) -> np.ndarray:
    """[T',...] float -> [length,...], linearly between the first and the last."""
    return _at(values, np.linspace(0, len(values) - 1, length))


def _at(values: np.ndarray | Mapping[int, np.ndarray], times: np.ndarray, n: int = 0) -> np.ndarray:
    """``values`` by frame at fractional times, interpolated linearly; ``n`` frames where they are a mapping."""
    below = np.floor(times).astype(int)
    above, share = np.minimum(below + 1, (n or len(values)) - 1), times - below
    return np.stack([(1 - s) * values[a] + s * values[b] for a, b, s in zip(below, above, share, strict=True)])


def grey(frame: np.ndarray, size: int) -> np.ndarray:
    """[H,W,3] uint8 RGB -> [size,size] uint8."""
    return _resized(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), size)


def _resized(picture: np.ndarray, size: int) -> np.ndarray:
    """[H,W,...] -> [size,size,...]; averages where it shrinks."""
    if picture.shape[:2] == (size, size):
        return picture
    how = cv2.INTER_AREA if min(picture.shape[:2]) >= size else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, (size, size), interpolation=how))
