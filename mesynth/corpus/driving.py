"""A corpus of driven clips: every clip of a driver on other people's faces, with whom it has seen.

A driven clip shows the face's person and moves as the driver's, so both count as seen, and everybody whom the driver
itself had seen: no fold that holds one of them out may learn from it.
"""

from __future__ import annotations

import dataclasses
import operator
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mesynth import __version__
from mesynth.core import facs
from mesynth.core.errors import ConfigError, LeakError, ManifestError, MesynthError
from mesynth.core.framing import OWN, KnownFraming
from mesynth.core.profiles import require_profile
from mesynth.core.seeds import derived
from mesynth.core.types import AUVector
from mesynth.corpus.faces import FaceSource, choose_faces, face_landmarker, margin, prepare_faces
from mesynth.corpus.generate import Preview, masks, writable
from mesynth.corpus.previews import loose_files
from mesynth.motion.driving import Driver, drive, measured, of_flow, shown_aus
from mesynth.motion.prior import Face
from mesynth.preprocess.align import SimilarityCrop
from mesynth.preprocess.flow import raft_file
from mesynth.preprocess.landmarks import choose_landmarker, resolve_landmarker
from mesynth.preprocess.prepare import landmarker_identity
from mesynth.store.digests import file_sha256
from mesynth.store.long_videos import PICTURES, is_picture, pictures_in
from mesynth.store.manifest import FILE_NAME, Manifest, Provenance, Row, framing_meta, held_out, require_spelt
from mesynth.store.run_folder import claim_folder, only_writer
from mesynth.store.shards import read_flow, read_frames, read_landmarks
from mesynth.store.stage import Produced, Progress, run_stage
from mesynth.store.videos import file_of, frame_count, frame_name, is_video, read_pictures, video_fps

GENERATOR = "driving"
DRIVER = "driver"
"""Folder of a driver that was a video: its frames, prepared."""
_CACHED = 8


@dataclass(frozen=True, kw_only=True)
class DriveConfig:
    """How clips are driven; raises MesynthError for what cannot be."""

    intensity: float = 1.0
    """Times the driver's motion."""
    every: bool = False
    """Every driver on every face; else faces are taken in turn."""
    flow: str = "dis"
    """Method; "dis" carries large motions better than "tvl1" and is quicker (`python -m tests.bench.bench_driving`)."""
    size: int = 128
    noise: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        from mesynth.motion.driving import MOST
        from mesynth.preprocess.config import FLOWS

        if not 0 <= self.intensity <= MOST:
            raise MesynthError(f"intensity={self.intensity:g} is outside 0..{MOST:g} times the driver's motion")
        if self.flow not in FLOWS:
            raise MesynthError(f"flow method '{self.flow}' is unknown; choose from {', '.join(FLOWS)}")
        if not 32 <= self.size <= 1024:
            raise MesynthError(f"size={self.size} pixels is outside 32..1024")
        if not 0 <= self.noise < float("inf"):
            raise MesynthError(f"noise={self.noise:g} grey levels must be finite and not negative")
        if self.seed < 0:
            raise MesynthError(f"seed={self.seed} must not be negative; give 0 or more")


@dataclass(frozen=True, kw_only=True)
class VideoDriver:
    """A stretch of a video (or of a folder's frames) as the driver, and whom it shows."""

    path: Path
    onset: int
    apex: int
    offset: int
    """Frames, from 0."""
    subject: str
    """``database/subject``, as in the clips of the same person, so that folds can tell."""
    licence: str
    fps: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.onset < self.apex <= self.offset or self.offset < self.onset + 2:
            raise ConfigError(
                f"interval {self.onset},{self.apex},{self.offset} does not rise from onset over apex to offset, at "
                "least 3 frames"
            )
        if self.subject.count("/") != 1 or not all(self.subject.split("/")):
            raise ConfigError(f"driver subject '{self.subject}' is not DATABASE/SUBJECT; write for example own/anna")
        if not self.licence.strip():
            raise ConfigError("a driver needs a licence; write unknown if it is")


def driver_of(
    driver: Path | str, interval: str | Sequence[int] | None, subject: str | None, licence: str, fps: float | None
) -> Path | VideoDriver:
    """What is meant: prepared clips where there is no ``interval`` (frames from 0, or "12,30,51"), else a stretch of a
    video that shows ``subject``.

    Raises:
        ConfigError: an interval that is none, a video of nobody or without an interval, what has no effect on prepared
            clips.

    >>> driver_of("smile.mp4", "12,30,51", "own/anna", "unknown", None).apex
    30
    """
    path = Path(driver)
    if interval is None:
        idle = "fps" if fps is not None else "driver-subject" if subject is not None else ""
        idle = idle or ("driver-licence" if licence != "unknown" else "")
        if idle:
            raise ConfigError(f"--{idle} has no effect on prepared clips; with --interval the driver is a video")
        frames = path.is_dir() and not (path / FILE_NAME).is_file() and any(map(is_picture, path.iterdir()))
        if frames or (path.is_file() and is_video(path)):
            what = "a folder of frames" if frames else "a video"
            raise ConfigError(
                f"driver {path} is {what}, not prepared clips; say which frames move, and whom it shows: "
                "--interval ONSET,APEX,OFFSET --driver-subject DATABASE/SUBJECT"
            )
        return path
    if subject is None:
        raise ConfigError("--interval takes a video, which does not say whom it shows; add --driver-subject")
    try:
        words = interval.split(",") if isinstance(interval, str) else [operator.index(frame) for frame in interval]
        onset, apex, offset = map(int, words)
    except (TypeError, ValueError):
        raise ConfigError(f"--interval {interval} is not ONSET,APEX,OFFSET in frame numbers from 0") from None
    return VideoDriver(path=path, onset=onset, apex=apex, offset=offset, subject=subject, licence=licence, fps=fps)


@dataclass(frozen=True)
class _Job:
    index: int
    clip: int
    face: int


def driven_pairs(clips: int, faces: int, every: bool) -> list[tuple[int, int]]:
    """(clip, face) of each driven clip.

    >>> driven_pairs(3, 2, False), driven_pairs(2, 2, True)
    ([(0, 0), (1, 1), (2, 0)], [(0, 0), (0, 1), (1, 0), (1, 1)])
    """
    if every:
        return [(i, j) for i in range(clips) for j in range(faces)]
    return [(i, i % faces) for i in range(clips)]


def drive_faces(
    drivers: Path | VideoDriver,
    faces: Path,
    out: Path,
    config: DriveConfig = DriveConfig(),
    *,
    exclude_subjects: Collection[str] = (),
    preview: Preview = Preview(),
    landmarker: str = "auto",
    workers: int = 1,
    progress: Callable[[str], Progress] | None = None,
) -> Manifest:
    """Drive ``faces`` (a picture, a folder, a prepared manifest) by the clips of ``drivers`` into ``out``.

    ``drivers``: a folder of prepared or generated clips, or a stretch of a video. ``exclude_subjects``: people
    (``database/subject``) who are held out and must not be seen. The same call resumes.

    Raises:
        LeakError: a held-out person in a driver or on a face.
        ManifestError: drivers without landmarks, or with neither frames nor flow.
        MesynthError: what :class:`DriveConfig` refuses, faces that cannot be used, ``out`` of another run.
    """
    out, bar = Path(out), progress or (lambda name: lambda done, total: None)
    held = held_out(exclude_subjects)
    if isinstance(drivers, VideoDriver):  # what cannot drive is found out before faces are looked at
        _refuse(held, [(drivers.subject,)], "the driver is")
        identity, known = _video_identity(drivers, landmarker), {drivers.subject}
    else:
        source = Manifest.read(drivers)
        known = _checked(source, held)
        identity = {"manifest": source.hash()}
    if config.flow == "raft" and not (out / FILE_NAME).is_file():
        raft_file()
    examination = choose_faces(faces, landmarker=landmarker, progress=bar("look at faces"))
    sources = examination.taken
    _refuse_faces(held, sources, known)
    chosen = face_landmarker(sources, landmarker)
    run = {
        "generator": GENERATOR, "driver": identity, "faces": [s.identity for s in sources],
        "landmarker": landmarker_identity(chosen), "preview": asdict(preview), "version": __version__,
    } | asdict(config)  # fmt: skip
    claim_folder(out, run)
    with only_writer(out), writable(out):
        folder = out / DRIVER if isinstance(drivers, VideoDriver) else Path(drivers)
        if isinstance(drivers, VideoDriver):
            _prepare_video(drivers, identity, folder, landmarker)
        prepare_faces(
            sources, out / "faces", config.size, landmarker=landmarker, workers=workers, progress=bar("faces"),
            examination=examination,
        )  # fmt: skip
        pairs = driven_pairs(len(Manifest.read(folder)), len(sources), config.every)
        jobs = [_Job(i, clip, face) for i, (clip, face) in enumerate(pairs)]
        return run_stage(
            out, jobs, DriveWorker(folder, out / "faces", config, preview), config=run, workers=workers,
            progress=bar("clips"), held=True, meta=framing_meta(KnownFraming(framing=OWN)),
        )  # fmt: skip


def _refuse_faces(held: Collection[str], faces: Sequence[FaceSource], known: Collection[str]) -> None:
    """``known``: whom the drivers have seen; nobody but these and those on faces can be meant by a name."""
    seen = [(*one.seen, f"{one.database}/{one.subject}") for one in faces]
    _refuse(held, seen, "the face of")
    require_spelt(held, {*known, *(name for people in seen for name in people)})


def _refuse(held: Collection[str], seen: Iterable[Sequence[str]], what: str) -> None:
    for people in seen:
        if found := set(held) & set(people):
            name = min(found)
            raise LeakError(f"{what} {name}, who is held out (exclude_subjects); take clips and faces of others")


def _checked(source: Manifest, held: Collection[str]) -> set[str]:
    """Refuse before anything is made what cannot drive; whom the clips have seen."""
    known: set[str] = set()
    if not len(source):
        raise ManifestError(f"{source.root} holds no clip to drive with")
    for row in source:
        seen = (*row.provenance.subjects_seen, row.subject_key)
        _refuse(held, [seen], f"clip {row.clip_id} has seen")
        known.update(seen)
        if row.flow is None:
            raise ManifestError(
                f"clip {row.clip_id} of {source.root} has no landmarks: it is not prepared; run `mesynth prepare` on "
                "it and drive with the result"
            )
        if row.frames is not None and (row.apex_index < 1 or row.n_frames < 3):
            raise ManifestError(
                f"clip {row.clip_id} of {source.root} has {row.n_frames} frames and its apex at {row.apex_index}; a "
                "driver needs 3 frames and an apex after the onset: drive with a manifest without it"
            )
    for one in {row.database: row for row in source}.values():  # clips of a database were prepared alike
        read_landmarks(source.root, one)
    return known


def _video_identity(video: VideoDriver, landmarker: str) -> dict[str, Any]:
    """What the driver's motion depends on: the files of its frames by their content, not where they lie."""
    root, names, fps = _frames_of(video)
    files = dict.fromkeys(map(file_of, names[video.onset : video.offset + 1]))
    return asdict(video) | {
        "path": video.path.name, "fps": fps, "files": {name: file_sha256(root / name) for name in files},
        "landmarker": landmarker_identity(resolve_landmarker(landmarker)),
    }  # fmt: skip


def _prepare_video(video: VideoDriver, identity: dict[str, Any], out: Path, landmarker: str) -> None:
    if not (out / FILE_NAME).is_file():
        run_stage(out, [video], _VideoWorker(landmarker), config={"stage": "driver"} | identity)


def _frames_of(video: VideoDriver) -> tuple[Path, list[str], float]:
    """(folder, names of all its frames in order, frames a second). Raises ConfigError where it has no such stretch."""
    path = video.path
    if path.is_dir():
        root, names = path, pictures_in(path)
        fps = video.fps
    elif is_video(path):
        root, names = path.parent, [frame_name(path.name, i) for i in range(frame_count(path))]
        fps = video.fps or video_fps(path)
    else:
        what = "is neither a video nor a folder of frames" if path.exists() else "does not exist"
        raise ConfigError(f"driver {path} {what}")
    if fps is None or not 1 <= fps <= 10_000:
        raise ConfigError(f"driver {path} does not tell its frame rate; pass --fps")
    if not names:
        raise ConfigError(f"driver {path} holds no frames ({', '.join(PICTURES)})")
    if video.offset >= len(names):
        raise ConfigError(f"the driver's offset {video.offset} is after its last frame, {len(names) - 1}, of {path}")
    return root, names, fps


class _VideoWorker:
    """Cuts, aligns and crops the stretch of a video. Landmarks are found on its onset."""

    def __init__(self, landmarker: str) -> None:
        self.landmarker = landmarker

    def __call__(self, video: VideoDriver) -> Produced:
        root, names, fps = _frames_of(video)
        shown = names[video.onset : video.offset + 1]
        pictures = list(read_pictures(root, shown))
        detector = choose_landmarker(self.landmarker)
        try:
            points = detector.detect(pictures[0], (video.path.name, shown[0], Path(shown[0]).name))
        finally:
            detector.close()
        crop = SimilarityCrop.from_landmarks(points, 128)
        frames = np.concatenate([crop.frames(picture[None]) for picture in pictures])
        database, subject = video.subject.split("/")
        n, apex = len(frames), video.apex - video.onset
        row = Row(
            clip_id=f"{video.subject}/{video.path.name}/{video.onset}", database=database, subject=subject,
            clip=video.path.name, onset=video.onset, apex=video.apex, offset=video.offset, fps=float(fps), n_frames=n,
            apex_index=apex, height=128, width=128,
            provenance=Provenance(
                kind="real", database=database, subject=subject, licence=video.licence,
                subjects_seen=(video.subject,), code_version=__version__,
            ),
        )  # fmt: skip
        return Produced(row, frames=frames, landmarks=crop.points(points))


class DriveWorker:
    """Makes one driven clip. Picklable: drivers and faces are read lazily, each process keeps a few."""

    def __init__(self, drivers: Path, faces: Path, config: DriveConfig, preview: Preview) -> None:
        self.drivers, self.faces, self.config, self.preview = drivers, faces, config, preview
        self._forget()

    def _forget(self) -> None:
        self._manifests: tuple[Manifest, Manifest] | None = None
        self._kept: OrderedDict[tuple[str, int], Any] = OrderedDict()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_manifests": None, "_kept": OrderedDict()}

    def __call__(self, job: _Job) -> Produced:
        if self._manifests is None:
            self._manifests = Manifest.read(self.drivers), Manifest.read(self.faces)
        clips, people = self._manifests
        clip, person = clips.row(job.clip), people.row(job.face)
        driver: Driver = self._once(DRIVER, job.clip, lambda: read_driver(clips.root, clip, self.config.flow))
        face: Face = self._once(
            "face", job.face,
            lambda: Face(
                read_frames(people.root, person)[0], read_landmarks(people.root, person), margin(self.config.size)
            ),
        )  # fmt: skip
        sample, warnings = drive(
            face, driver, self.config.intensity, self.config.noise, derived(self.config.seed, "driving", job.index)
        )
        row = self._row(job, clip, person, driver, sample.clip.frames.shape, warnings)
        files = loose_files(row.clip, sample, self.preview.video) if job.index < self.preview.count else {}
        return Produced(
            row, frames=sample.clip.frames, flow=sample.flow.uv, landmarks=face.landmarks - np.float32(face.margin),
            valid=sample.flow.valid, extra=masks(sample.flow), files=files,
        )  # fmt: skip

    def _once(self, what: str, index: int, make: Callable[[], Any]) -> Any:
        key = what, index
        if key not in self._kept:
            self._kept[key] = make()
            while len(self._kept) > _CACHED:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def _row(
        self, job: _Job, clip: Row, face: Row, driver: Driver, shape: Sequence[int], warnings: tuple[str, ...]
    ) -> Row:
        config, name = self.config, f"drv{job.index:07d}"
        shown = shown_aus(driver, config.intensity)
        none = config.intensity == 0
        present = np.array(clip.au_present, np.int8).reshape(-1, 2)
        present = np.where(present > 0, 0, present) if none else present
        parents = [*face.provenance.parents, *(span.sha256 for span in (clip.frames or clip.flow,) if span)]
        return Row(
            clip_id=f"{face.subject_key}/{name}/0", database=face.database, subject=face.subject, clip=name, onset=0,
            apex=driver.apex, offset=shape[0] - 1, fps=driver.fps, n_frames=shape[0], apex_index=driver.apex,
            height=shape[1], width=shape[2], expression=clip.expression, emotion="" if none else clip.emotion,
            label="" if none else clip.label, objective_class="" if none else clip.objective_class,
            au_text="" if none else clip.au_text, warnings=(*face.warnings, *warnings),
            provenance=Provenance(
                kind="synthetic", database=face.database, subject=face.subject,
                licence="; ".join(dict.fromkeys((face.provenance.licence, clip.provenance.licence))),
                # Whose face it shows, who moved, and everybody whom the clip that moved had seen.
                subjects_seen=tuple(
                    dict.fromkeys(
                        (*face.provenance.subjects_seen, clip.subject_key, *clip.provenance.subjects_seen)
                    )
                ),
                parents=tuple(parents), generator=f"{GENERATOR}@intensity={config.intensity:g}", plan_row=job.index,
                seed=derived(config.seed, "driving", job.index), aus_asked=facs.format_vector(shown),
                aus_source=f"clip {clip.clip_id}", profile="the driver's", code_version=__version__,
            ),
            **Row.au_columns(shown, present),
        )  # fmt: skip


def read_driver(root: Path, row: Row, flow: str = "dis") -> Driver:
    """The motion of a prepared clip: of its frames, or where it has none of its flow, timed as CASME II's mean clip."""
    points = read_landmarks(root, row)
    aus: AUVector = row.aus
    if row.frames is None:
        profile = require_profile("casme2")
        n = max(3, row.n_frames)
        profile = dataclasses.replace(profile, apex=float(np.clip(row.apex_index / (n - 1), 0.1, 0.9)))
        return of_flow(read_flow(root, row), points, profile.alpha(n), profile.apex_index(n), row.fps, aus)
    frames = read_frames(root, row)
    return measured(frames, points, row.apex_index, row.fps, aus, flow)


def forecast(
    drivers: Path | VideoDriver, faces: Path, config: DriveConfig, exclude_subjects: Collection[str] = ()
) -> str:
    """What would be made, after every check that needs no work."""
    from mesynth.corpus.faces import find_faces

    found: list[FaceSource] = find_faces(faces)
    held, clips = held_out(exclude_subjects), 1
    if isinstance(drivers, VideoDriver):
        _refuse(held, [(drivers.subject,)], "the driver is")
        _frames_of(drivers)
        known = {drivers.subject}
    else:
        source = Manifest.read(drivers)
        known, clips = _checked(source, held), len(source)
    _refuse_faces(held, found, known)
    return f"{len(driven_pairs(clips, len(found), config.every))} clips of {clips} drivers on {len(found)} faces"
