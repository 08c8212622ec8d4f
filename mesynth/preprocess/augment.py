"""Classic augmentation that knows about flow: the transforms, and the stage that writes changed copies.

One transform moves frames, flow, landmarks and AUs together. Order: mirror, then rotation and scale about the picture's
centre, then shift, then crop; photometric changes and noise on the frames last. Flow vectors turn and grow with the
picture; photometric changes leave them alone.

As a stage it is the control that synthetic data has to beat, and leak-safe in the same way: a copy carries its subject
in ``subjects_seen``, so a fold that holds the subject out never learns from it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import mesynth
from mesynth.core.errors import ConfigError, ManifestError, MesynthError
from mesynth.core.facs import AU_CODES, mirrored
from mesynth.core.seeds import derived, stream
from mesynth.core.types import AUVector, Clip, Flow, Sample
from mesynth.preprocess.align import MIRROR
from mesynth.preprocess.interpolate import Marks, SubsampleConfig, draw_subsample
from mesynth.store.manifest import Manifest, Row, framing_meta
from mesynth.store.remote import delivers
from mesynth.store.shards import read_flow, read_frames, read_landmarks, read_valid
from mesynth.store.stage import Produced, Progress, run_stage


@dataclass(frozen=True, kw_only=True)
class Transform:
    """One augmentation. The default changes nothing.

    ``flip`` mirrors left and right; ``rotation`` degrees, anticlockwise as seen; ``scale`` enlarges above 1; ``shift``
    (x right, y down) pixels; ``crop`` (height, width) pixels of the result, None for the whole picture, at
    ``crop_at`` (down, right) in [0,1], 0 at the top left; values v in [0,1] become
    ``((v - .5) contrast + .5 + brightness) ** gamma``, clipped; ``noise`` standard deviation in units of [0,1], drawn
    anew for each frame from ``noise_seed``.
    """

    flip: bool = False
    rotation: float = 0.0
    scale: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    crop: tuple[int, int] | None = None
    crop_at: tuple[float, float] = (0.5, 0.5)
    brightness: float = 0.0
    contrast: float = 1.0
    gamma: float = 1.0
    noise: float = 0.0
    noise_seed: int = 0

    def __post_init__(self) -> None:
        numbers = (self.rotation, self.scale, *self.shift, *self.crop_at, self.brightness, self.contrast, self.gamma)
        if not all(math.isfinite(v) for v in (*numbers, self.noise)):
            raise MesynthError(f"a transform's numbers must be finite, got {self}")
        for name in ("scale", "contrast", "gamma"):
            if not getattr(self, name) > 0:
                raise MesynthError(f"transform {name}={getattr(self, name):g} must be positive; 1 changes nothing")
        if self.noise < 0 or self.noise_seed < 0:
            raise MesynthError(f"transform noise={self.noise:g}, noise_seed={self.noise_seed} must not be negative")
        if self.crop is not None and min(self.crop) < 1:
            raise MesynthError(f"crop {self.crop} is no picture size; give (height, width) of at least 1")
        if not all(0 <= v <= 1 for v in self.crop_at):
            raise MesynthError(f"crop_at {self.crop_at} is outside [0, 1]; 0 is top left, 1 bottom right")

    def matrix(self, height: int, width: int) -> np.ndarray:
        """[2,3] float64: pixels (x, y) of a picture of this size to pixels of the result.

        Raises:
            MesynthError: the crop is larger than the picture.
        """
        angle = math.radians(self.rotation)
        cos, sin = self.scale * math.cos(angle), self.scale * math.sin(angle)
        linear = np.array([[cos, sin], [-sin, cos]]) @ np.diag([-1.0 if self.flip else 1.0, 1.0])
        centre = np.array([(width - 1) / 2, (height - 1) / 2])
        top, left = self._corner(height, width)
        return np.column_stack([linear, centre - linear @ centre + self.shift - [left, top]])

    def frames(self, frames: np.ndarray) -> np.ndarray:
        """[T,H,W,3] uint8 RGB -> the same kind: bicubic, borders replicated, rounded once at the end.

        Raises:
            MesynthError: not a uint8 RGB video, or a crop larger than it.
        """
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
            raise MesynthError(f"frames are {frames.dtype} {frames.shape}; expected uint8 RGB of shape [T,H,W,3]")
        if not self._resamples:
            moved = self._cut(frames[:, :, ::-1] if self.flip else frames, (1, 2))
            return np.ascontiguousarray(moved) if not self._photometric else self._developed(moved)
        size = self._size(*frames.shape[1:3])
        matrix = self.matrix(*frames.shape[1:3])
        out = np.empty((len(frames), *size, 3), np.float32)
        for source, target in zip(frames, out, strict=True):
            picture = np.ascontiguousarray(source, np.float32)
            cv2.warpAffine(
                picture, matrix, size[::-1], dst=target, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
            )
        return self._developed(out)

    def flow(self, flow: Flow) -> Flow:
        """The flow of the transformed frames: moved with the picture, its vectors mirrored, turned and scaled.

        Bilinear; what comes from outside the picture, or from a pixel that was not valid, is not valid.

        Raises:
            MesynthError: a crop larger than the picture.
        """
        height, width = flow.uv.shape[1:]
        if not self._resamples:
            uv = flow.uv[:, :, ::-1] if self.flip else flow.uv
            # Not 0 - u: the sign of a zero must come back when mirrored twice.
            uv = np.stack([-uv[0], uv[1]]) if self.flip else uv
            valid = flow.valid
            if valid is not None:
                valid = np.ascontiguousarray(self._cut(valid[:, ::-1] if self.flip else valid, (0, 1)))
            return Flow(np.ascontiguousarray(self._cut(uv, (1, 2))), valid)
        matrix, size = self.matrix(height, width), self._size(height, width)
        vectors = np.ascontiguousarray(np.moveaxis(flow.uv, 0, 2))
        moved = cv2.warpAffine(
            vectors, matrix, size[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )  # fmt: skip
        uv = np.einsum("ij,hwj->ihw", matrix[:, :2], moved.astype(np.float64)).astype(np.float32)
        seen = np.ones((height, width), np.float32) if flow.valid is None else flow.valid.astype(np.float32)
        share = cv2.warpAffine(
            seen, matrix, size[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0
        )  # fmt: skip
        return Flow(uv, share > 0.99)

    def landmarks(self, points: np.ndarray, height: int, width: int) -> np.ndarray:
        """[...,68,2] pixels in a picture of this size -> the same in the result, renamed where mirrored.

        Raises:
            MesynthError: not 68 points, or a crop larger than the picture.
        """
        if points.shape[-2:] != (68, 2):
            raise MesynthError(f"landmarks have shape {points.shape}; expected [...,68,2] in iBUG order")
        matrix = self.matrix(height, width)
        moved = (points.astype(np.float64) @ matrix[:, :2].T + matrix[:, 2]).astype(points.dtype)
        return moved[..., MIRROR, :] if self.flip else moved

    def aus(self, aus: AUVector) -> AUVector:
        """The AUs of the transformed face: left and right change places where it is mirrored."""
        if not self.flip:
            return aus
        return AUVector(np.ascontiguousarray(aus.intensity[:, ::-1]), np.ascontiguousarray(aus.mask[:, ::-1]))

    def sample(self, sample: Sample) -> Sample:
        """Frames, flow and AUs of a sample at once. Raises as :meth:`frames`."""
        clip = Clip(self.frames(sample.clip.frames), sample.clip.fps, sample.clip.apex)
        return Sample(clip, self.flow(sample.flow), self.aus(sample.aus))

    # ------------------------------------------------------------ pieces

    @property
    def _resamples(self) -> bool:
        return self.rotation != 0 or self.scale != 1 or any(self.shift)

    @property
    def _photometric(self) -> bool:
        return self.brightness != 0 or self.contrast != 1 or self.gamma != 1 or self.noise > 0

    def _size(self, height: int, width: int) -> tuple[int, int]:
        if self.crop is None:
            return height, width
        if self.crop[0] > height or self.crop[1] > width:
            raise MesynthError(f"crop {self.crop} is larger than the picture's {(height, width)}; choose a smaller one")
        return self.crop

    def _corner(self, height: int, width: int) -> tuple[int, int]:
        size = self._size(height, width)
        return round(self.crop_at[0] * (height - size[0])), round(self.crop_at[1] * (width - size[1]))

    def _cut(self, array: np.ndarray, axes: tuple[int, int]) -> np.ndarray:
        size = (array.shape[axes[0]], array.shape[axes[1]])
        (top, left), (h, w) = self._corner(*size), self._size(*size)
        where = [slice(None)] * array.ndim
        where[axes[0]], where[axes[1]] = slice(top, top + h), slice(left, left + w)
        return array[tuple(where)]

    def _developed(self, frames: np.ndarray) -> np.ndarray:
        """Photometric changes of [T,h,w,3] in 0..255, any type -> uint8."""
        rng = np.random.default_rng(self.noise_seed)
        out = np.empty(frames.shape, np.uint8)
        for source, target in zip(frames, out, strict=True):
            value = source.astype(np.float32)
            if self._photometric:
                value = (value / 255 - 0.5) * self.contrast + (0.5 + self.brightness)
                value = np.clip(value, 0, 1) ** self.gamma
                if self.noise > 0:
                    value = value + self.noise * rng.standard_normal(value.shape, np.float32)
                value = value * 255
            target[:] = np.clip(np.round(value), 0, 255)
        return out


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Ranges to draw a :class:`Transform` from; each is symmetric about no change, scales in the logarithm."""

    flip: float = 0.5
    """Probability of mirroring."""
    rotation: float = 8.0
    """Largest rotation, degrees."""
    scale: float = 1.08
    """Largest enlargement; the smallest is its inverse."""
    shift: float = 4.0
    """Largest shift along either axis, pixels."""
    crop: tuple[int, int] | None = None
    """Size (height, width) of a crop at a random place; None for the whole picture."""
    brightness: float = 0.08
    contrast: float = 1.2
    gamma: float = 1.2
    noise: float = 0.01
    """Largest standard deviation of noise, units of [0,1]; drawn from 0 up."""

    def __post_init__(self) -> None:
        if not 0 <= self.flip <= 1:
            raise MesynthError(f"augmentation flip={self.flip:g} is no probability; choose a number in [0, 1]")
        for name in ("rotation", "shift", "brightness", "noise"):
            if not 0 <= getattr(self, name) < math.inf:
                raise MesynthError(f"augmentation {name}={getattr(self, name):g} must not be negative; 0 is none")
        for name in ("scale", "contrast", "gamma"):
            if not 1 <= getattr(self, name) < math.inf:
                raise MesynthError(f"augmentation {name}={getattr(self, name):g} must be at least 1; 1 is none")
        if self.crop is not None and min(self.crop) < 1:
            raise MesynthError(f"augmentation crop {self.crop} is no picture size; give (height, width)")


def draw(rng: np.random.Generator, config: AugmentConfig = AugmentConfig()) -> Transform:
    """Draw one transform. The same number of random values is used whatever the ranges are."""
    flip, rotation, scale, dx, dy, top, left, brightness, contrast, gamma, noise = rng.random(11)

    def factor(largest: float, share: float) -> float:
        return float(largest ** (2 * share - 1))

    return Transform(
        flip=bool(flip < config.flip),
        rotation=float(config.rotation * (2 * rotation - 1)),
        scale=factor(config.scale, scale),
        shift=(float(config.shift * (2 * dx - 1)), float(config.shift * (2 * dy - 1))),
        crop=config.crop,
        crop_at=(float(top), float(left)),
        brightness=float(config.brightness * (2 * brightness - 1)),
        contrast=factor(config.contrast, contrast),
        gamma=factor(config.gamma, gamma),
        noise=float(config.noise * noise),
        noise_seed=int(rng.integers(2**31)),
    )


# ---------------------------------------------------------------- augmented


GENERATOR = "mesynth.augment"
_MAX_COPIES = 1000


@dataclass(frozen=True, kw_only=True)
class CopiesConfig:
    """How many copies of a clip, and how each is changed."""

    copies: int = 1
    change: AugmentConfig = field(default_factory=AugmentConfig)
    """Mirror, rotation, scale, shift, light, noise."""
    ratios: tuple[float, ...] = (1.0,)
    """Motion is magnified by one of these per copy, in turn (below 1: fainter)."""
    keep: float = 1.0
    """Share of the frames between onset, apex and offset that stay."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.copies <= _MAX_COPIES:
            raise ConfigError(f"copies={self.copies} is outside 1..{_MAX_COPIES}")
        if not self.ratios or not all(0 < ratio <= 10 for ratio in self.ratios):
            raise ConfigError(f"ratios {self.ratios} must be numbers in (0, 10]; 1 leaves the motion as it is")
        if not 0 < self.keep <= 1:
            raise ConfigError(f"keep={self.keep:g} is no share of the frames; choose a number in (0, 1]")
        if self.change.crop is not None:
            raise ConfigError("a crop would change the clips' size; leave change.crop out")
        if self.seed < 0:
            raise ConfigError(f"seed={self.seed} must not be negative")


@delivers
def augment(
    manifest: Manifest,
    out: Path | str,
    config: CopiesConfig = CopiesConfig(),
    *,
    workers: int = 1,
    progress: Progress | None = None,
) -> Manifest:
    """Write ``config.copies`` changed copies of every clip of a prepared ``manifest`` into ``out``.

    A copy depends on the clip and the seed alone; the same command resumes. Copies are of kind "synthetic".

    Raises:
        ManifestError: a clip has no frames or no flow.
        RunFolderError: ``out`` holds something else.

    >>> from mesynth.store.manifest import Manifest
    >>> augment(Manifest.from_rows([], Path("nowhere")), "copies")
    Traceback (most recent call last):
    mesynth.core.errors.ManifestError: the manifest of nowhere holds no clips; nothing to augment
    """
    if len(manifest) == 0:
        raise ManifestError(f"the manifest of {manifest.root} holds no clips; nothing to augment")
    run = {"stage": "augment", "input": manifest.hash(), "version": mesynth.__version__, **asdict(config)}
    jobs = _Copies(manifest, config.copies)
    return run_stage(
        Path(out), jobs, _Copier(manifest.root, config), config=run, workers=workers, progress=progress,
        meta=framing_meta(manifest.framing),
    )  # fmt: skip


@dataclass(frozen=True)
class _Copies(Sequence[Any]):
    """(row, which copy) for every clip and copy, without holding them."""

    manifest: Manifest
    copies: int
    first: int = 0
    last: int | None = None

    @property
    def _stop(self) -> int:
        return len(self.manifest) * self.copies if self.last is None else self.last

    def __len__(self) -> int:
        return self._stop - self.first

    def __getitem__(self, part: Any) -> Any:
        if not isinstance(part, slice):
            index = range(self.first, self._stop)[part]
            return self.manifest.row(index // self.copies), index % self.copies
        start, stop, step = part.indices(len(self))
        assert step == 1
        first, last = self.first + start, self.first + max(stop, start)
        # what is sent to another process is the clips of the part, not the whole manifest
        low = first // self.copies
        rows = self.manifest[low : -(-last // self.copies)]
        return _Copies(rows, self.copies, first - low * self.copies, last - low * self.copies)

    def __iter__(self) -> Iterator[tuple[Row, int]]:
        row: Row | None = None
        for index in range(self.first, self._stop):
            if row is None or index % self.copies == 0:
                row = self.manifest.row(index // self.copies)
            yield row, index % self.copies


@dataclass(frozen=True)
class _Copier:
    root: Path
    config: CopiesConfig

    def __call__(self, job: tuple[Row, int]) -> Produced:
        row, copy = job
        config = self.config
        rng = stream(config.seed, f"augment/{row.clip_id}", copy)
        change = draw(rng, config.change)
        frames, uv, valid = read_frames(self.root, row), read_flow(self.root, row), read_valid(self.root, row)
        apex, fps = row.apex_index, row.fps
        if config.keep < 1 and 0 < apex < len(frames):
            marks = Marks(onset=0, apex=apex, offset=len(frames) - 1, n_frames=len(frames))
            index, kept = draw_subsample(rng, marks, SubsampleConfig(keep=config.keep))
            fps *= (len(index) - 1) / (len(frames) - 1)  # the clip still lasts as long
            frames, apex = frames[index], kept.apex
        ratio = config.ratios[copy % len(config.ratios)]
        if ratio != 1 and apex > 0:
            frames, uv = _magnified(frames, apex, ratio)
        flow = change.flow(Flow(uv, valid))
        height, width = frames.shape[1:3]
        parent = row.frames.sha256 if row.frames else ""
        made = replace(
            row,
            clip_id=f"{row.clip_id}~{config.seed}.{copy}",
            clip=f"{row.clip}~{config.seed}.{copy}",
            fps=fps,
            n_frames=len(frames),
            apex_index=apex,
            au_text=mirrored(row.au_text) if change.flip else row.au_text,
            frame_files=(),
            frames=None,
            flow=None,
            provenance=replace(
                row.provenance,
                kind="synthetic",
                parents=(*row.provenance.parents, parent),
                generator=GENERATOR,
                plan_row=copy,
                seed=derived(config.seed, f"augment/{row.clip_id}", copy),
                aus_source="parent",
                code_version=mesynth.__version__,
            ),
            **_aus(row, change, exact=ratio == 1),
        )
        return Produced(
            made,
            frames=change.frames(frames),
            flow=flow.uv,
            landmarks=change.landmarks(read_landmarks(self.root, row), height, width),
            valid=flow.valid,
            notes={"ratio": ratio, **{k: v for k, v in asdict(change).items() if k != "noise_seed"}},
        )


def _magnified(frames: np.ndarray, apex: int, ratio: float) -> tuple[np.ndarray, np.ndarray]:
    """Frames [T,H,W,3] with their motion ``ratio`` times as large, and their flow onset -> apex [2,H,W]."""
    import torch

    from mesynth.preprocess.flow import sequence_flows
    from mesynth.preprocess.magnify import LagrangianConfig, multi_ratio
    from mesynth.preprocess.warping import to_frames, to_video

    flows = torch.from_numpy(sequence_flows(frames))[None]
    shown, moved = multi_ratio(to_video(frames)[None], flows, (ratio,), LagrangianConfig())
    return to_frames(shown[0, 0]), np.ascontiguousarray(moved[0, 0, apex - 1].numpy(), np.float32)


def _aus(row: Row, change: Transform, *, exact: bool) -> dict[str, Any]:
    """AU columns of the copy: sides swapped where mirrored; magnified intensities are not known any more."""
    vector = change.aus(row.aus)
    if not exact:
        known = vector.mask & (vector.intensity == 0)
        vector = AUVector(np.zeros_like(vector.intensity), known)
    present = np.array(row.au_present, np.int8).reshape(len(AU_CODES), 2)
    return Row.au_columns(vector, present[:, ::-1] if change.flip else present)
