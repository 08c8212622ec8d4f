"""Classic augmentation as a stage: changed copies of prepared clips, with flow, landmarks and AUs changed alike.

The control that synthetic data has to beat, and leak-safe in the same way: a copy carries its subject in
``subjects_seen``, so a fold that holds the subject out never learns from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

import mesynth
from mesynth.errors import ConfigError, ManifestError
from mesynth.facs import AU_CODES
from mesynth.manifest import Manifest, Row
from mesynth.preprocess.augment import AugmentConfig, Transform, draw
from mesynth.preprocess.keyframes import Marks, SubsampleConfig, draw_subsample
from mesynth.seeds import derived, stream
from mesynth.shards import read_flow, read_frames, read_landmarks, read_valid
from mesynth.stage import Produced, Progress, run_stage
from mesynth.types import AUVector, Flow

GENERATOR = "mesynth.augment"
MAX_COPIES = 1000


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
        if not 1 <= self.copies <= MAX_COPIES:
            raise ConfigError(f"copies={self.copies} is outside 1..{MAX_COPIES}")
        if not self.ratios or not all(0 < ratio <= 10 for ratio in self.ratios):
            raise ConfigError(f"ratios {self.ratios} must be numbers in (0, 10]; 1 leaves the motion as it is")
        if not 0 < self.keep <= 1:
            raise ConfigError(f"keep={self.keep:g} is no share of the frames; choose a number in (0, 1]")
        if self.change.crop is not None:
            raise ConfigError("a crop would change the clips' size; leave change.crop out")
        if self.seed < 0:
            raise ConfigError(f"seed={self.seed} must not be negative")


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
    """
    if len(manifest) == 0:
        raise ManifestError(f"the manifest of {manifest.root} holds no clips; nothing to augment")
    run = {"stage": "augment", "input": manifest.hash(), "version": mesynth.__version__, **asdict(config)}
    jobs = _Copies(manifest, config.copies)
    return run_stage(Path(out), jobs, _Copier(manifest.root, config), config=run, workers=workers, progress=progress)


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

    from mesynth.preprocess.arrays import to_frames, to_video
    from mesynth.preprocess.flow import sequence_flows
    from mesynth.preprocess.magnify import LagrangianConfig, multi_ratio

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
