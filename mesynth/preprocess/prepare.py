"""`prepare`: from a database on disk to aligned crops, landmarks and optical flow.

A clip's frames are read wherever they lie, one at a time (a raw clip at full resolution may be a gigabyte), and go
through the steps of :class:`PrepareConfig`, from frames on disk to what is stored.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

import mesynth
from mesynth.core.devices import find_device
from mesynth.core.errors import MesynthError, NoFaceError, UnreadableImageError
from mesynth.core.framing import OWN, KnownFraming
from mesynth.preprocess.align import SimilarityCrop
from mesynth.preprocess.config import STORED, PrepareConfig, face_number
from mesynth.preprocess.face_quality import looks_upside_down
from mesynth.preprocess.flow import estimate_flow, raft_file
from mesynth.preprocess.landmarks import (
    LandmarkCache,
    Landmarker,
    choose_landmarker,
    pick_faces,
    resolve_landmarker,
)
from mesynth.store.manifest import EARLY, FILE_NAME, Manifest, Row, framing_meta
from mesynth.store.run_folder import claim_folder
from mesynth.store.shards import PICTURES, frames_members, read_frames, read_landmarks
from mesynth.store.stage import SKIPPED_FILE, Produced, Progress, Skipped, read_skipped, run_stage
from mesynth.store.videos import begun, file_of, read_pictures


@dataclass(frozen=True)
class Source:
    """Names of the frames that are there, and the apex among them."""

    root: Path
    row: Row
    names: tuple[str, ...]
    apex: int
    warnings: tuple[str, ...]

    @staticmethod
    def of(root: Path, row: Row) -> Source:
        """Missing files are left out; where one was annotated, the nearest frame takes its place with a warning."""
        warnings = list(row.warnings)
        # Without an annotated apex a loader points at the middle frame, or at nothing (0).
        apex = row.apex_index if row.apex is not None or row.apex_index else (row.n_frames - 1) // 2
        if row.frames is not None:
            return Source(root, row, tuple(map(str, range(row.n_frames))), apex, tuple(warnings))
        if not row.frame_files:
            read_frames(root, row)  # raises the error that names the way out
        files = [file_of(name) for name in row.frame_files]
        there = {file for file in set(files) if (root / file).is_file()}
        present = [i for i, file in enumerate(files) if file in there]
        if len(present) < 2:
            raise MesynthError(
                f"clip {row.clip_id} has {len(present)} of its {len(row.frame_files)} frame files below {root}; "
                "load the database again from the folder where it lies now"
            )
        for what, index in (("onset", 0), ("apex", apex), ("offset", len(row.frame_files) - 1)):
            if index not in present:
                taken = min(present, key=lambda i: (abs(i - index), i))
                warnings.append(f"{what} file {row.frame_files[index]} is gone; {row.frame_files[taken]} taken")
        if missing := len(row.frame_files) - len(present):
            warnings.append(f"{missing} of {len(row.frame_files)} frame files are gone")
        apex = min(range(len(present)), key=lambda k: (abs(present[k] - apex), k))
        return Source(root, row, tuple(row.frame_files[i] for i in present), apex, tuple(warnings))

    def frames(self, keep: list[int], digest: hashlib._Hash, notes: list[str] | None = None) -> Iterator[np.ndarray]:
        """The kept frames [H,W,3] in order, all of one size; feeds what their files hold to ``digest``.

        ``notes`` is told what had to be done to read them.
        """
        if self.row.frames is not None:
            yield from read_frames(self.root, self.row)[keep]
            return
        yield from read_pictures(self.root, [self.names[index] for index in keep], digest, notes)


def thin(n: int, apex: int, limit: int | None) -> list[int]:
    """Indices of at most ``limit`` of ``n`` frames, evenly spread on both sides of the apex.

    >>> thin(11, 4, 5)
    [0, 2, 4, 7, 10]
    >>> thin(4, 1, None)
    [0, 1, 2, 3]
    """
    if limit is None or n <= limit:
        return list(range(n))
    before = round((limit - 1) * apex / (n - 1))  # intervals before the apex
    if apex > 0:
        before = max(before, 1)
    if apex < n - 1:
        before = min(before, limit - 2)
    rise = np.linspace(0, apex, before + 1)
    fall = np.linspace(apex, n - 1, limit - before)
    return sorted({round(float(t)) for t in (*rise, *fall)})


class _Unfit(MesynthError):
    """A clip in which there is nothing to prepare as asked: left out and listed, as one without a face is."""


def early_frame(apex: int, share: float) -> int:
    """The frame nearest to ``share`` of the way from the onset, frame 0, to ``apex``; of two as near the later.

    Raises MesynthError where that is the onset.

    >>> [early_frame(apex, 0.3) for apex in (2, 5, 10, 40)]
    [1, 2, 3, 12]
    """
    frame = math.floor(round(share * apex, 9) + 0.5)  # 0.3 * 5 is no more than a half, whatever it is to a computer
    if frame == 0:
        least = math.ceil(50 / apex) / 100 if apex else 0
        way = f"; early={least:g} takes the frame after it" if apex else ""
        raise _Unfit(f"early={share:g} of the {apex} frames from onset to apex ends at the onset itself{way}")
    return frame


def fingerprint(manifest: Manifest) -> str:
    """sha256 of what a run over ``manifest`` depends on: its rows, and the sizes of the image files they name.

    Sizes, not contents: a replaced frame is noticed without reading a database twice.
    """
    digest = hashlib.sha256(manifest.hash().encode())
    for row in manifest:
        for file in dict.fromkeys(map(file_of, row.frame_files)):
            try:
                digest.update(f"{(manifest.root / file).stat().st_size} ".encode())
            except OSError:  # gone; the clip says so when it is read
                digest.update(b"- ")
    return digest.hexdigest()


# ---------------------------------------------------------------- one clip


def landmarker_identity(name: str) -> str:
    """What the result depends on: a network's name, or the content of a landmark table, not where it lies."""
    path = Path(name)
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}" if path.is_file() else name


@lru_cache(maxsize=1)
def landmarker_of(name: str, identity: str, device: str) -> Landmarker:
    """One per process: building one takes longer than a clip. ``identity`` tells edited tables apart."""
    return choose_landmarker(name, device=device)


@dataclass(frozen=True)
class _ClipWorker:
    """Picklable; the landmarker is built in the process that needs it."""

    root: Path
    config: PrepareConfig
    landmarker: str
    identity: str
    device: str = "cpu"
    cache: Path | None = None
    """Folder of found landmarks, see :class:`LandmarkCache`."""
    skip_bad: bool = False

    def __call__(self, row: Row) -> Produced | Skipped:
        try:
            return self._produce(row)
        except (NoFaceError, _Unfit) as error:
            return Skipped(row.clip_id, str(error))
        except MesynthError as error:
            if not self.skip_bad:
                if type(error) is UnreadableImageError:
                    raise UnreadableImageError(f"{error}; --skip-bad goes on without such clips") from None
                raise
            return Skipped(row.clip_id, str(error))

    def _produce(self, row: Row) -> Produced:
        source = Source.of(self.root, row)
        said: list[str] = []
        spotted = self.config.apex != "annotated" and row.apex is None
        if self.config.early < 1 and not spotted:  # so that what is thinned, aligned and measured is what is kept
            if row.apex is None:
                raise _Unfit(
                    f"early={self.config.early:g} is a share of the way to an apex, and none is annotated; --apex flow "
                    "spots it"
                )
            end = early_frame(source.apex, self.config.early)
            said = [_early_part(end, source.apex)]
            source = replace(source, names=source.names[: end + 1], apex=end)
        keep = thin(len(source.names), source.apex, self.config.max_frames)
        digest = hashlib.sha256()
        notes: list[str] = []
        frames = source.frames(keep, digest, notes)
        onset = next(frames)
        landmarks = self._landmarks(row, onset, source.names[0], notes)
        state = _State(row, self.config, self.device, (*source.warnings, *said, *notes))
        if len(keep) < len(source.names):
            state.warnings.append(f"thinned from {len(source.names)} to {len(keep)} frames")
        state.fps = row.fps * (len(keep) - 1) / (len(source.names) - 1)  # the clip still lasts as long
        state.apex = keep.index(source.apex)
        state.crop(landmarks, onset, frames)
        parent = row.frames.sha256 if row.frames else digest.hexdigest()  # complete now that every frame was read
        state.stabilise()
        state.spot()
        if self.config.early < 1 and spotted:
            state.end_early()
        state.magnify()
        state.resample()
        return state.produced(parent)

    def _landmarks(self, row: Row, onset: np.ndarray, file: str, notes: list[str]) -> np.ndarray:
        if self.landmarker == STORED:
            return read_landmarks(self.root, row)
        faces = self._faces(onset, (row.clip_id, file, Path(file).name))
        (index,), said = pick_faces(list(faces), face_number(self.config.face))
        if said:
            notes.append(f"the onset shows {said}")
        if not Path(self.landmarker).is_file():
            detector = landmarker_of(self.landmarker, self.identity, self.device)
            if looks_upside_down(detector, onset, faces[index]):
                notes.append("the onset looks upside down: its landmarks mean little, turn the frames and prepare anew")
        return faces[index]

    def _faces(self, onset: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
        """[N,68,2], the largest first."""
        detector = landmarker_of(self.landmarker, self.identity, self.device)
        if self.cache is None or Path(self.landmarker).is_file():  # a table is read faster than a cache
            return np.stack([face.points for face in detector.faces(onset, names)])
        cache = LandmarkCache(self.cache, f"{self.identity} {_version(self.landmarker)} all faces")
        found = cache.get(onset)
        if found is None:
            try:
                found = np.stack([face.points for face in detector.faces(onset, names)])
            except NoFaceError:
                cache.put(onset, None)
                raise
            cache.put(onset, found)
        return found


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


class _State:
    """A clip between two steps: crops, where the apex is among them, and what was said about it."""

    def __init__(self, row: Row, config: PrepareConfig, device: str, warnings: tuple[str, ...]) -> None:
        self.row, self.config, self.device = row, config, device
        self.warnings = list(warnings)
        self.notes: dict[str, Any] = {}
        self.apex, self.fps = 0, row.fps
        self.frames = np.zeros((0, 0, 0, 3), np.uint8)
        self.landmarks = np.zeros((68, 2), np.float32)

    def crop(self, landmarks: np.ndarray, onset: np.ndarray, rest: Iterator[np.ndarray]) -> None:
        """One transform for all frames, each cropped as it is read."""
        if self.config.crop == "piecewise":
            from mesynth.preprocess.align import PiecewiseAffineCrop

            crop: SimilarityCrop | PiecewiseAffineCrop = PiecewiseAffineCrop.from_landmarks(landmarks, self.config.size)
        else:
            crop = SimilarityCrop.from_landmarks(landmarks, self.config.size, self.config.framing)
        self.frames = np.stack([*crop.each(chain([onset], rest))])
        self.landmarks = crop.points(landmarks)

    def stabilise(self) -> None:
        if self.config.stabilise == "none":
            return
        from mesynth.preprocess.stabilise import StabiliseConfig, stabilise

        done = stabilise(self.frames, self.landmarks, StabiliseConfig(method=self.config.stabilise))  # type: ignore[arg-type]
        self.frames = done.frames
        self.notes["drift"] = done.drift.to_dict()

    def spot(self) -> None:
        """An apex for clips whose coders gave none."""
        if self.config.apex == "annotated" or self.row.apex is not None:
            return
        from mesynth.preprocess.spot import MIN_FRAMES, spot_apex

        if len(self.frames) < MIN_FRAMES:
            self.warnings.append(f"{len(self.frames)} frames are too few to spot an apex")
            return
        spotted = spot_apex(self.frames, self.landmarks, self.fps, method=self.config.apex)
        self.apex = spotted.apex
        self.warnings = [w for w in self.warnings if "middle frame stands in" not in w]
        self.warnings.append(f"apex spotted by {self.config.apex} at stored frame {spotted.apex}")
        if spotted.confidence == 0:
            self.warnings.append("nothing stands out in the clip: the spotted apex means little")
        self.notes["spotted"] = {"apex": spotted.apex, "confidence": spotted.confidence}

    def end_early(self) -> None:
        """Of a clip whose apex was spotted: drop what is after the share of the way to it that is asked for."""
        if "spotted" not in self.notes:
            raise _Unfit(f"early={self.config.early:g} is a share of the way to an apex, and {self.warnings[-1]}")
        end = early_frame(self.apex, self.config.early)
        self.warnings.append(_early_part(end, self.apex))
        self.frames, self.apex = self.frames[: end + 1], end

    def magnify(self) -> None:
        asked = self.config.magnifier()
        if asked is None:
            return
        from mesynth.preprocess.magnify import magnify
        from mesynth.preprocess.warping import to_frames, to_video

        method, factor = asked
        video = to_video(self.frames, self.device)[None]
        self.frames = to_frames(magnify(video, factor, method=method, fps=self.fps)[0])

    def resample(self) -> None:
        asked = self.config.resampler()
        if asked is None:
            return
        from mesynth.preprocess.interpolate import resample, resampled_fps
        from mesynth.preprocess.warping import to_frames, to_video

        method, n = asked
        self.fps = resampled_fps(self.fps, len(self.frames), n)
        video, apex = resample(to_video(self.frames, self.device)[None], n, method, self.apex)
        assert apex is not None
        self.frames, self.apex = to_frames(video[0]), apex

    def produced(self, parent: str) -> Produced:
        config, row = self.config, self.row
        # While the flow is estimated, which keeps one core busy.
        members = begun(partial(frames_members, self.frames, config.store, self.apex)) if config.keep_frames else None
        uv = estimate_flow(self.frames[0], self.frames[self.apex], config.method, self.device).uv
        if self.apex == 0:
            self.warnings.append("the apex is the onset's frame: the flow from one to the other is zero")
        if config.global_motion != "none":
            uv = self._without_global_motion(uv)
        extra = {}
        if config.inputs:
            from mesynth.preprocess.inputs import make_inputs

            extra = make_inputs(config, self.frames, self.landmarks, self.apex, self.device)
        made = replace(
            _no_stronger(row) if config.early < 1 else row,
            fps=self.fps,
            n_frames=len(self.frames),
            apex_index=self.apex,
            height=config.size,
            width=config.size,
            frame_files=(),
            frames=None,
            flow=None,
            warnings=tuple(self.warnings),
            provenance=replace(
                row.provenance,
                parents=(*row.provenance.parents, parent),
                code_version=mesynth.__version__,
            ),
        )
        return Produced(
            made,
            frames=self.frames if config.keep_frames else None,
            pictures=config.store,
            members=members,
            flow=uv,
            landmarks=self.landmarks,
            extra=extra,
            notes=self.notes,
        )

    def _without_global_motion(self, uv: np.ndarray) -> np.ndarray:
        import torch

        from mesynth.preprocess.regions import rigid_mask
        from mesynth.preprocess.warping import remove_global_motion

        weights = torch.from_numpy(rigid_mask(self.landmarks, self.config.size).astype(np.float32))
        local, _ = remove_global_motion(torch.from_numpy(uv)[None], weights, self.config.global_motion)  # type: ignore[arg-type]
        return np.ascontiguousarray(local[0].numpy(), np.float32)


def _early_part(end: int, apex: int) -> str:
    return f"{EARLY}: ends at frame {end} of the {apex} from onset to apex"


def _no_stronger(row: Row) -> Row:
    """Without the intensities of its AUs, which are those at the apex; which AUs are there stays known."""
    intensity, known = np.array(row.au_intensity, np.float32), np.array(row.au_known, np.bool_)
    shown = known & (intensity > 0)
    intensity[shown], known[shown] = 0, False
    return replace(row, au_intensity=tuple(intensity.tolist()), au_known=tuple(known.tolist()))


# ---------------------------------------------------------------- prepare


def prepare(
    manifest: Manifest,
    out: Path | str,
    config: PrepareConfig = PrepareConfig(),
    *,
    landmarker: str = "auto",
    device: str = "cpu",
    workers: int = 1,
    cache: Path | None = None,
    skip_bad: bool = False,
    skipped: Sequence[Skipped] = (),
    progress: Progress | None = None,
) -> Manifest:
    """Align, crop and measure every clip of ``manifest``; write the result into ``out``.

    Landmarks are found once per clip, on its onset; one transform serves all of its frames; flow goes from the
    onset to the apex (to the middle frame where no apex is annotated, unless ``config`` spots one).

    ``landmarker``: see :func:`resolve_landmarker`, or "stored". ``workers``: processes, 0 for one per core.
    ``cache``: folder of landmarks found before, None for none. ``skip_bad``: a clip whose frames cannot be read
    is left out too. ``skipped``: what the loader left out, listed first.

    A clip whose onset shows no face, or whose early part (``config.early``) is its onset alone or has no apex to end
    before, is left out and listed by :func:`mesynth.store.stage.read_skipped`; the same
    command resumes, and does nothing where all is done.

    Raises:
        MesynthError: unreadable frames, an empty manifest, a device that is not there.
        NoFaceError: not one clip shows a face.
        WeightsUnavailable, RunFolderError: see :func:`resolve_landmarker`, :func:`claim_folder`.
    """
    out = Path(out)
    if len(manifest) == 0:
        raise MesynthError(f"the manifest of {manifest.root} holds no clips; nothing to prepare")
    device = find_device(device)
    name = landmarker if landmarker == STORED else resolve_landmarker(landmarker)
    identity = landmarker_identity(name)
    run = {
        "stage": "prepare", "input": fingerprint(manifest), "landmarker": identity, "skip_bad": skip_bad,
        **asdict(config), "version": mesynth.__version__,
    }  # fmt: skip
    if config.framing == OWN:
        del run["frame"]  # as runs were known before crops could be framed otherwise
    if config.early == 1:
        del run["early"]  # as runs were known before clips could end early
    if config.store == PICTURES[0]:
        del run["store"]  # as runs were known before there were videos
    if name != STORED and not (out / FILE_NAME).is_file():
        landmarker_of(name, identity, device)  # missing weights are found out before the folder is claimed
    if config.method == "raft" and not (out / FILE_NAME).is_file():
        raft_file()
    claim_folder(out, run)
    worker = _ClipWorker(manifest.root, config, name, identity, device, cache, skip_bad)
    result = run_stage(
        out, manifest, worker, config=run, workers=workers, skipped=skipped, progress=progress,
        meta=framing_meta(KnownFraming(framing=config.framing)),
    )  # fmt: skip
    if len(result) == 0:
        first = read_skipped(out)[-len(manifest)]
        every = f" ({out / SKIPPED_FILE} lists all)" if len(manifest) > 1 else ""
        raise NoFaceError(f"none of {len(manifest)} clips could be prepared; {first.clip_id}: {first.reason}{every}")
    return result
