"""Long videos, and the intervals of them: two tables that every spotter reads and every score is taken from.

``videos.csv`` has a row a video: database, subject, video, path, fps, frames, licence. ``path`` is a video file or a
folder of frames, relative to the table's own folder or absolute. ``intervals.csv`` has a row an interval: subject,
video, onset, offset, and where they are known database, apex, expression (micro, macro), emotion, aus, score.
Predictions are a table of the same form. Frame numbers count from 0 in the video; onset and offset are both inside.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from mesynth.core.errors import ManifestError
from mesynth.store.manifest import EXPRESSIONS, Manifest
from mesynth.store.videos import frame_count, frame_name, video_frame

VIDEOS, INTERVALS = "videos.csv", "intervals.csv"
MACRO_S = 0.5
"""Seconds: an expression that lasts as long is a macro-expression, a shorter one a micro-expression (MEGC 2020)."""
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
Key = tuple[str, str, str]
"""database, subject, video"""


@dataclass(frozen=True, kw_only=True)
class LongVideo:
    """A row of ``videos.csv``."""

    database: str
    subject: str
    video: str
    path: str
    fps: float
    frames: int
    licence: str = "unknown"

    @property
    def key(self) -> Key:
        """What intervals name it by."""
        return self.database, self.subject, self.video

    @property
    def person(self) -> str:
        """``database/subject``."""
        return f"{self.database}/{self.subject}"


@dataclass(frozen=True, kw_only=True)
class Marked:
    """A row of ``intervals.csv``: annotated, or predicted. Both ends are inside.

    >>> Marked(database="a", subject="1", video="v", onset=10, offset=19).length
    10
    """

    database: str
    subject: str
    video: str
    onset: int
    offset: int
    apex: int | None = None
    expression: str = ""
    """"micro", "macro", or empty: told by its length."""
    emotion: str = ""
    aus: str = ""
    score: float | None = None
    """Of a prediction: how sure it is; figures do not depend on it."""

    def __post_init__(self) -> None:
        place = f"{self.subject}/{self.video}"
        if not 0 <= self.onset <= self.offset:
            raise ManifestError(
                f"interval {self.onset} to {self.offset} of {place} does not go from an onset, 0 or later, to its "
                "offset; correct it"
            )
        if self.expression and self.expression not in EXPRESSIONS:
            raise ManifestError(
                f"expression '{self.expression}' of {place}, frame {self.onset}, is unknown; write micro, macro, or "
                "leave it empty"
            )

    @property
    def key(self) -> Key:
        """Of its video."""
        return self.database, self.subject, self.video

    @property
    def length(self) -> int:
        """Frames, both ends counted."""
        return self.offset - self.onset + 1

    def kind(self, fps: float) -> str:
        """ "micro" or "macro": as it says, else by its duration (:data:`MACRO_S`).

        >>> Marked(database="a", subject="1", video="v", onset=0, offset=14).kind(30.0)
        'macro'
        """
        return self.expression or ("macro" if self.length / fps >= MACRO_S else "micro")


@dataclass(frozen=True, kw_only=True)
class LongVideos:
    """Videos and what is annotated in them, and the folder that relative paths start from."""

    root: Path
    videos: tuple[LongVideo, ...]
    intervals: tuple[Marked, ...]

    def __post_init__(self) -> None:
        keys = [video.key for video in self.videos]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise ManifestError(f"video {'/'.join(twice)} is listed twice in {self.root / VIDEOS}; remove a row")
        frames = {video.key: video.frames for video in self.videos}
        check_inside(self.intervals, frames, str(self.root / INTERVALS))

    @staticmethod
    def read(folder: Path | str) -> LongVideos:
        """Both tables of a folder. Raises ManifestError for what is missing, or cannot be."""
        folder = Path(folder)
        file = folder / VIDEOS
        if not file.is_file():
            raise ManifestError(
                f"no {VIDEOS} in {folder}; `mesynth render --long` writes one, `mesynth prepare DATABASE "
                "--long-videos` lists those of a database"
            )
        videos = []
        for place, cells in _rows(file, ("subject", "video", "path", "fps", "frames")):
            fps, frames = _number(place, cells, "fps"), _whole(place, cells, "frames")
            if not (math.isfinite(fps) and fps > 0) or frames < 1:
                raise ManifestError(f"{place}: fps={fps:g} and frames={frames} of a video must be positive")
            videos.append(
                LongVideo(
                    database=cells.get("database") or "own", subject=cells["subject"], video=cells["video"],
                    path=cells["path"], fps=fps, frames=frames, licence=cells.get("licence") or "unknown",
                )
            )  # fmt: skip
        if not videos:
            raise ManifestError(f"{file} lists no video; add a row for each, or list those of a database anew")
        return LongVideos(root=folder, videos=tuple(videos), intervals=tuple(read_intervals(folder / INTERVALS)))

    def of(self, video: LongVideo) -> tuple[Marked, ...]:
        """What is annotated in ``video``."""
        return tuple(marked for marked in self.intervals if marked.key == video.key)

    def place(self, video: LongVideo) -> Path:
        """The file or folder of a video. Raises ManifestError where there is none."""
        place = self.root / video.path
        if not place.exists():
            raise ManifestError(f"video {'/'.join(video.key)} is not at {place}; correct its path in {VIDEOS}")
        return place

    def tables(self) -> dict[str, bytes]:
        """Both files."""
        return {VIDEOS: _table(LongVideo, self.videos), INTERVALS: intervals_csv(self.intervals)}

    @staticmethod
    def of_manifest(manifest: Manifest) -> LongVideos:
        """The videos that the clips of an unprepared manifest were marked in, each the folder or the file of its
        frames; paths are absolute, as the tables lie elsewhere.

        A video that no clip is marked in is not named by a manifest, so it is not among them.

        Raises:
            ManifestError: clips whose frames are not files, or lie in several folders.
        """
        videos: dict[Key, LongVideo] = {}
        marked = []
        for row in manifest:
            if not row.frame_files:
                raise ManifestError(
                    f"clip {row.clip_id} names no frames of a video: it is prepared, which cut it out; list the long "
                    "videos of the release itself"
                )
            folder, names = _listed(manifest.root, row.frame_files, row.clip_id)
            key = (row.database, row.subject, Path(folder).name)
            onset, offset = (names.index(name) for name in (row.frame_files[0], row.frame_files[-1]))
            apex = names.index(row.frame_files[row.apex_index]) if row.apex is not None else None
            videos.setdefault(
                key,
                LongVideo(
                    database=key[0], subject=key[1], video=key[2], path=str((manifest.root / folder).resolve()),
                    fps=row.fps, frames=len(names), licence=row.provenance.licence,
                ),
            )  # fmt: skip
            marked.append(
                Marked(
                    database=key[0], subject=key[1], video=key[2], onset=onset, offset=offset, apex=apex,
                    expression=row.expression, emotion=row.emotion, aus=row.au_text,
                )
            )  # fmt: skip
        marked.sort(key=lambda one: (one.key, one.onset, one.offset))
        return LongVideos(root=manifest.root, videos=tuple(videos.values()), intervals=tuple(marked))


def pictures_in(folder: Path) -> list[str]:
    """Names of the frames of a folder, in the order of the numbers in them: img2.png before img10.png."""
    return sorted((path.name for path in folder.iterdir() if is_picture(path)), key=_by_number)


def is_picture(path: Path) -> bool:
    """Whether a file is named like a frame."""
    return path.suffix.lower() in PICTURES and not path.name.startswith(".")


def _by_number(name: str) -> list[tuple[int, int | str]]:
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name) if part]


def check_inside(intervals: Iterable[Marked], frames: dict[Key, int], source: str) -> None:
    """Raise ManifestError for an interval of an unknown video, or one that ends after it."""
    for one in intervals:
        if one.key not in frames:
            meant = [key[0] for key in frames if key[1:] == one.key[1:]]
            way = f"write {' or '.join(meant)} into its column database" if meant else "correct or add it"
            raise ManifestError(f"{source} marks frames of {'/'.join(one.key)}, which {VIDEOS} does not list; {way}")
        if one.offset >= frames[one.key]:
            raise ManifestError(
                f"{source}: interval {one.onset} to {one.offset} ends after the last frame, {frames[one.key] - 1}, of "
                f"{'/'.join(one.key)}; frames count from 0"
            )


def read_intervals(file: Path | str) -> list[Marked]:
    """A table of intervals, annotated or predicted. Raises ManifestError that names file and line."""
    file = Path(file)
    found = []
    for place, cells in _rows(file, ("subject", "video", "onset", "offset")):
        try:
            found.append(
                Marked(
                    database=cells.get("database") or "own", subject=cells["subject"], video=cells["video"],
                    onset=_whole(place, cells, "onset"), offset=_whole(place, cells, "offset"),
                    apex=_whole(place, cells, "apex") if cells.get("apex") else None,
                    expression=cells.get("expression", ""), emotion=cells.get("emotion", ""),
                    aus=cells.get("aus", ""), score=_number(place, cells, "score") if cells.get("score") else None,
                )
            )  # fmt: skip
        except ManifestError as error:
            raise ManifestError(str(error) if str(error).startswith(str(file)) else f"{place}: {error}") from None
    return found


def intervals_csv(intervals: Sequence[Marked]) -> bytes:
    """The table of :func:`read_intervals`."""
    return _table(Marked, intervals)


def _table(kind: type, rows: Sequence[object]) -> bytes:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = [field.name for field in fields(kind)]
    writer.writerow(names)
    for row in rows:
        cells = (getattr(row, name) for name in names)
        writer.writerow(["" if c is None else f"{c:.10g}" if isinstance(c, float) else c for c in cells])
    return buffer.getvalue().encode()


def _rows(file: Path, needed: Sequence[str]) -> Iterable[tuple[str, dict[str, str]]]:
    """(place for messages, cells without spaces around them) of each row."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ManifestError(f"there is no {file}; it is a CSV with the columns {', '.join(needed)}") from None
    except (OSError, ValueError) as error:
        raise ManifestError(f"{file} cannot be read ({error}); save it as CSV in UTF-8") from None
    reader = csv.DictReader(io.StringIO(text), skipinitialspace=True)
    try:
        header = [name.strip().lower() for name in reader.fieldnames or []]
        if missing := [name for name in needed if name not in header]:
            raise ManifestError(f"{file} lacks the column {missing[0]}; it needs {', '.join(needed)}")
        reader.fieldnames = header
        for cells in reader:
            place = f"{file} line {reader.line_num}"
            plain = {k: (v or "").strip() for k, v in cells.items() if isinstance(k, str) and not isinstance(v, list)}
            if empty := [name for name in needed if not plain[name]]:
                raise ManifestError(f"{place} has no {empty[0]}")
            yield place, plain
    except csv.Error as error:
        raise ManifestError(f"{file} is no CSV ({error})") from None


def _number(place: str, cells: dict[str, str], name: str) -> float:
    try:
        return float(cells[name])
    except ValueError:
        raise ManifestError(f"{place}: {name} '{cells[name]}' is no number") from None


def _whole(place: str, cells: dict[str, str], name: str) -> int:
    value = _number(place, cells, name)
    if not (math.isfinite(value) and value == int(value)):
        raise ManifestError(f"{place}: {name} '{cells[name]}' is no frame number")
    return int(value)


def _listed(root: Path, names: Sequence[str], clip: str) -> tuple[str, list[str]]:
    """(folder or video file, names of all its frames in order) that a clip's frames lie in."""
    if found := video_frame(names[0]):
        video = found[0]
        return video, [frame_name(video, i) for i in range(frame_count(root / video))]
    folders = {Path(name).parent.as_posix() for name in names}
    if len(folders) > 1:
        raise ManifestError(f"the frames of clip {clip} lie in {len(folders)} folders; a video is one folder")
    folder = folders.pop()
    return folder, [f"{folder}/{name}" if folder != "." else name for name in pictures_in(root / folder)]
