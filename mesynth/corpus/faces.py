"""Faces to generate on: one picture, a folder of pictures, or the onsets of a prepared manifest.

Every picture is looked at before anything is written (:func:`choose_faces`): what cannot be used is left out and
listed, all of it in one pass. Each face that is taken becomes a row of its own small manifest (crop and landmarks), so
that a generator process reads only the faces it needs.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np

from mesynth import __version__
from mesynth.core.errors import (
    ConfigError,
    DatasetLayoutError,
    LeakError,
    MesynthError,
    NoFaceError,
    RunFolderError,
    UnreadableImageError,
    WeightsUnavailable,
)
from mesynth.datasets.registry import database_of
from mesynth.datasets.rendered import FaceCard, read_card
from mesynth.head.render import contact_sheet
from mesynth.preprocess.align import SimilarityCrop
from mesynth.preprocess.config import LARGEST, STORED, face_number
from mesynth.preprocess.face_quality import FaceLimits, Measured, Unfit, find_upright, measure, number_text
from mesynth.preprocess.landmarks import (
    DetectedFace,
    Landmarker,
    choose_landmarker,
    native_silence,
    pick_faces,
    resolve_landmarker,
)
from mesynth.preprocess.prepare import landmarker_identity
from mesynth.store.manifest import FILE_NAME, Manifest, Provenance, Row
from mesynth.store.run_folder import claim_folder, write_bytes
from mesynth.store.shards import png_bytes, read_frames, read_landmarks
from mesynth.store.stage import Produced, Progress, run_stage
from mesynth.store.videos import is_video, read_photo

IMAGE_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".jp2", ".avif", ".heic", ".heif",
)  # fmt: skip
_OTHER_PICTURES = {
    ".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2", ".jxl", ".psd", ".xcf", ".svg", ".pdf", ".eps",
}  # fmt: skip
"""Suffixes of pictures that are not read."""
_MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF")
"""How files begin that are pictures whatever they are called; a BMP and a RIFF say more further on."""


@dataclass(frozen=True)
class FaceSource:
    """Where one face comes from: a picture file, or a row of a prepared manifest."""

    database: str
    subject: str
    licence: str
    sha256: str
    path: Path
    row: int = -1
    seen: tuple[str, ...] = ()
    """subjects_seen of the clip the face was taken from."""
    which: int = 0
    """Of several faces in a picture the one asked for, counted from 1 at image left; 0 for the largest."""
    landmarks: np.ndarray | None = field(default=None, compare=False, repr=False)
    """[68,2] in the picture's pixels, where they were found already."""
    warnings: tuple[str, ...] = ()
    """What is to be known of clips on this face."""

    @property
    def identity(self) -> tuple[object, ...]:
        """What the result depends on, without the machine's paths."""
        return (self.database, self.subject, self.sha256, self.row, *([self.which] if self.which else []))


@dataclass(frozen=True)
class LeftOut:
    """A file, or a face of it, that is not generated on: a line of ``skipped.csv`` for each reason."""

    file: str
    """Relative to the folder of faces."""
    unfit: Unfit


def find_faces(source: Path) -> list[FaceSource]:
    """The faces in ``source`` as their files are named, sorted, none opened; in a manifest, each subject's first onset.

    Raises:
        DatasetLayoutError: nothing there, or a folder without pictures.
        LeakError: the pictures are frames of a database; as plain files their subjects would go unnamed.
    """
    found, left = list_faces(source)
    if not found:
        raise DatasetLayoutError(_none_of(source, left))
    return found


def list_faces(source: Path) -> tuple[list[FaceSource], list[LeftOut]]:
    """As :func:`find_faces`, and the files that look like pictures and cannot be used as they are named."""
    if _printable(str(source)) != str(source):
        raise UnreadableImageError(f"{_printable(str(source))}: its name is not UTF-8; rename it")
    if found := database_of(source) if source.exists() else None:
        name, root = found
        raise LeakError(
            f"{source} lies in the {name} database {root}, whose people are subjects; run `mesynth prepare {name}` on "
            "it and give that folder as --faces, so that every clip names whom it shows"
        )
    if source.is_dir() and (source / FILE_NAME).is_file():
        return _manifest_faces(Manifest.read(source)), []
    if source.is_file():
        if is_video(source) or source.suffix.lower() in _OTHER_PICTURES:
            raise UnreadableImageError(f"{source} is {_no_picture(source, source.name)}")
        return [_picture(source, source.stem, read_card(source.parent))], []
    if not source.is_dir():
        what = "is neither a file nor a folder" if source.exists() else "does not exist"
        raise DatasetLayoutError(f"{source} {what}; --faces takes a picture, a folder, or a manifest folder")
    files, left = [], []
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source).as_posix()
        problem = _no_picture(path, name)
        if problem is None:
            files.append(path)
        elif problem:
            left.append(LeftOut(_printable(name), Unfit(problem, "")))
    if not files and not left:
        raise DatasetLayoutError(f"{source} holds no pictures ({', '.join(IMAGE_SUFFIXES)}); give a folder that does")
    named: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        named[path.relative_to(source).with_suffix("").as_posix().replace("/", "-")].append(path)
    cards = {folder: read_card(folder) for folder in {source, *(path.parent for path in files)}}
    faces = []
    for subject, paths in named.items():
        try:
            if len(paths) > 1:
                names = [path.relative_to(source).as_posix() for path in paths]
                for name in names:
                    others = " and ".join(other for other in names if other != name)
                    left.append(LeftOut(name, Unfit(f"would be the subject {subject}, as {others}; rename one", "")))
                continue
            faces.append(_picture(paths[0], subject, cards[paths[0].parent]))
        except UnreadableImageError as error:
            left.append(LeftOut(paths[0].relative_to(source).as_posix(), Unfit(str(error), "")))
    return faces, left


def _printable(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def _no_picture(path: Path, name: str) -> str | None:
    """None for a picture, "" for what is no picture and never meant as one, else why it cannot be taken."""
    suffix = path.suffix.lower()
    try:
        if path.is_dir():
            return "a link to a folder, which is not followed; give that folder" if path.is_symlink() else ""
        known = suffix in IMAGE_SUFFIXES
        if not known and suffix not in _OTHER_PICTURES and not is_video(path) and not _begins_like_a_picture(path):
            return ""
        if any(part.startswith(".") for part in Path(name).parts):
            return "a hidden file; rename it if it is a picture"
        if not path.is_file():
            return "a link that leads nowhere" if path.is_symlink() else "no regular file"
        name.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8; rename it"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if is_video(path):
        return "a video; save one frame as PNG or JPEG"
    return f"a {suffix} file, which is not read; save it as PNG or JPEG" if suffix in _OTHER_PICTURES else None


def _begins_like_a_picture(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(16)
    if start[:2] == b"BM":  # two letters are no sign: the header's length follows
        return start[14:16] in (b"\x28\0", b"\x6c\0", b"\x7c\0")
    return start.startswith(_MAGIC) and (start[:4] != b"RIFF" or start[8:12] == b"WEBP")


def _none_of(source: Path, left: Sequence[LeftOut], what: str = "no picture can be used") -> str:
    """One line that names every reason (the first files of many)."""
    if source.is_file() and left:
        return f"{source}: {'; '.join(entry.unfit.text() for entry in left)}"
    said = [f"{entry.file}: {entry.unfit.text()}" for entry in left]
    more = f"; and {len(said) - _NAMED} more" if len(said) > _NAMED else ""
    return f"{source}: {what}; {'; '.join(said[:_NAMED])}{more}"


_NAMED = 12


def _picture(path: Path, subject: str, card: FaceCard) -> FaceSource:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UnreadableImageError(f"{path} cannot be read ({error.strerror}); check the path") from None
    if path.name in card.files:  # not whatever was put beside it: a photo there shows a person with a photo's terms
        return FaceSource(card.kind, subject, card.licence, digest, path)
    return FaceSource("photo", subject, "as the photo", digest, path)


def _manifest_faces(manifest: Manifest) -> list[FaceSource]:
    keys = manifest.subject_keys()
    _, first = np.unique(keys.astype(str), return_index=True)
    faces = []
    for index in first:
        row = manifest.row(int(index))
        if row.frames is None and not row.frame_files:
            read_frames(manifest.root, row)  # raises the error that names the way out
        digest = row.flow.sha256 if row.flow else ""
        p = row.provenance
        faces.append(
            FaceSource(row.database, row.subject, p.licence, digest, manifest.root, int(index), p.subjects_seen)
        )
    return faces


def margin(size: int) -> int:
    """Pixels kept around a crop: a chin that drops or a head that turns must come from the picture, not from
    beyond its border."""
    return round(0.08 * size)


WHOLE = 0
"""As the size of a face: the picture it lies in, whole (of a manifest the onset as it is)."""
LONGEST = 1024
"""Of a whole picture, pixels; larger ones are made smaller."""


def whole_picture(image: np.ndarray, landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[H,W,3] uint8 and landmarks [68,2], made smaller where a side is longer than :data:`LONGEST`.

    >>> picture, _ = whole_picture(np.zeros((1500, 3000, 3), np.uint8), np.zeros((68, 2), np.float32))
    >>> picture.shape
    (512, 1024, 3)
    """
    height, width = image.shape[:2]
    k = LONGEST / max(height, width)
    if k >= 1:
        return image, landmarks
    size = round(width * k), round(height * k)
    scale = np.array(size) / (width, height)
    points = (landmarks + 0.5) * scale - 0.5  # shares are of the pixel grid from edge to edge
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.asarray(points, np.float32)


class FaceWorker:
    """Crops one face to ``size`` plus a :func:`margin` and finds its landmarks (a prepared onset brings its own);
    ``size`` :data:`WHOLE` keeps the picture whole."""

    def __init__(self, size: int, landmarker: str) -> None:
        self.size, self.landmarker = size, landmarker
        self._detector: Landmarker | None = None

    def __getstate__(self) -> dict[str, object]:
        return {"size": self.size, "landmarker": self.landmarker, "_detector": None}

    def __call__(self, source: FaceSource) -> Produced:
        image, landmarks = self._load(source)
        if self.size == WHOLE:
            picture, points = whole_picture(image, landmarks)
        else:
            crop = SimilarityCrop.from_landmarks(landmarks, self.size).padded(margin(self.size))
            picture, points = crop.frames(image[None])[0], crop.points(landmarks)
        key = f"{source.database}/{source.subject}"
        row = Row(
            clip_id=f"{key}/face",
            database=source.database,
            subject=source.subject,
            clip="face",
            onset=0,
            apex=None,
            offset=0,
            fps=1.0,
            n_frames=1,
            apex_index=0,
            height=picture.shape[0],
            width=picture.shape[1],
            warnings=source.warnings,
            provenance=Provenance(
                kind="rendered" if source.database == "rendered" else "real",
                database=source.database,
                subject=source.subject,
                licence=source.licence,
                subjects_seen=tuple(sorted({key, *source.seen})),
                parents=(source.sha256,) if source.sha256 else (),
                code_version=__version__,
            ),
        )
        return Produced(row, frames=picture[None], landmarks=points)

    def close(self) -> None:
        """Let go of the detector."""
        if self._detector is not None:
            self._detector.close()
            self._detector = None

    def _load(self, source: FaceSource) -> tuple[np.ndarray, np.ndarray]:
        if source.row >= 0:
            manifest = Manifest.read(source.path)
            row = manifest.row(source.row)
            return read_frames(manifest.root, row, [0])[0], read_landmarks(manifest.root, row)
        image = read_photo(source.path)[0]
        if source.landmarks is not None:
            return image, source.landmarks
        if self._detector is None:
            self._detector = choose_landmarker(self.landmarker)
        try:
            return image, self._detector.detect(image, _names(source))
        except MesynthError as error:
            raise type(error)(f"{source.path}: {error}") from None


def _names(source: FaceSource) -> tuple[str, ...]:
    """What landmarks by file may call a picture."""
    return (f"{source.database}/{source.subject}", str(source.path), source.path.name, source.subject)


# ---------------------------------------------------------------- which are fit


_MILD = ("mouth", "expression")
"""What a picture that is named by itself may show: there is no other to take, and clips on it are made, only worse."""
_TILE, _CAPTION, _LINE, _TILES = 144, 44, 22, 400
_GREEN, _RED = (40, 150, 60), (190, 40, 40)


@dataclass(frozen=True, eq=False)
class Examined:
    """One face of a file, or a file without one: what was measured, and whether it is taken."""

    file: str
    taken: FaceSource | None
    unfit: tuple[Unfit, ...] = ()
    measured: Measured = Measured({}, {})
    note: str = ""
    tile: np.ndarray | None = None
    """[144,144,3] uint8 RGB: the crop of a face, the whole picture where there is none."""


@dataclass(frozen=True, eq=False)
class Examination:
    """Every picture that was looked at, in their order."""

    source: Path
    limits: FaceLimits
    entries: tuple[Examined, ...]

    @property
    def taken(self) -> list[FaceSource]:
        """The faces to generate on."""
        return [entry.taken for entry in self.entries if entry.taken is not None]

    @property
    def left_out(self) -> list[LeftOut]:
        """A line of ``skipped.csv`` each."""
        return [LeftOut(e.file, unfit) for e in self.entries if e.taken is None for unfit in e.unfit]

    @property
    def reasons(self) -> dict[str, list[str]]:
        """File that is left out -> why."""
        return {e.file: [unfit.reason for unfit in e.unfit] for e in self.entries if e.taken is None}

    def write(self, out: Path) -> list[Path]:
        """``skipped.csv`` (if anything was left out), ``measured.csv`` and ``sheet.png`` in ``out``; returns them."""
        made = {MEASURED_FACES: self._measured_csv().encode()}
        if left := self.left_out:
            made[SKIPPED_FACES] = skipped_faces_csv(left).encode()
        if self.entries:
            made[SHEET] = png_bytes(self.sheet())
        for name, data in made.items():
            write_bytes(out / name, data)
        return [out / name for name in made]

    def _measured_csv(self) -> str:
        names = list(FaceLimits().__dict__)
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(["file", "taken", *names, "note"])
        writer.writerow(["limit", "", *(f"{getattr(self.limits, name):g}" for name in names), ""])
        for entry in self.entries:
            values = entry.measured.values
            cells = [number_text(values[name]) if name in values else "" for name in names]
            writer.writerow([entry.file, "yes" if entry.taken is not None else "no", *cells, entry.note])
        return buffer.getvalue()

    def sheet(self) -> np.ndarray:
        """A contact sheet: green what was taken, red with its first reason what was not; at most 400 files, the ones
        that were left out first."""
        shown = sorted(self.entries, key=lambda entry: entry.taken is not None)[:_TILES]
        return contact_sheet([_captioned(entry) for entry in shown], min(8, len(shown)))


def _captioned(entry: Examined) -> np.ndarray:
    """[H,W,3] uint8: the tile in a frame, the file's name and why it was left out below it."""
    colour = _GREEN if entry.taken is not None else _RED
    tile = np.full((_TILE + _CAPTION, _TILE, 3), 255, np.uint8)
    tile[:_TILE] = 225 if entry.tile is None else entry.tile
    cv2.rectangle(tile, (1, 1), (_TILE - 2, _TILE - 2), colour, 3)
    first = entry.unfit[0] if entry.unfit else None
    lines = [entry.file if len(entry.file) <= _LINE else ".." + entry.file[2 - _LINE :]]
    if first is not None:
        lines += textwrap.wrap(first.reason, _LINE)
        if first.measure:
            lines = [*lines[:2], f"{number_text(first.value)}, limit {first.limit:g}"]
    for row, line in enumerate(lines[:3]):
        place = (4, _TILE + 12 + 14 * row)
        shade = (0, 0, 0) if row == 0 else colour
        cv2.putText(tile, line, place, cv2.FONT_HERSHEY_SIMPLEX, 0.36, shade, 1, cv2.LINE_AA)
    return tile


def choose_faces(
    source: Path,
    *,
    face: str = LARGEST,
    limits: FaceLimits | None = None,
    landmarker: str = "auto",
    progress: Progress | None = None,
) -> Examination:
    """Look at every picture of ``source`` and say which faces can be generated on, all problems in one pass.

    ``face``: of several faces in a picture "largest", "all" (each a subject of its own), or which one, counted from 1
    at image left. ``limits``: None for the usual ones; a picture that is named by itself then may smile or gape, with a
    warning. The onsets of a manifest are taken as they are.

    Raises:
        ConfigError: ``face`` is none of these.
        DatasetLayoutError, LeakError: see :func:`find_faces`.
        UnreadableImageError, NoFaceError: not one face can be used; all reasons are named.
        WeightsUnavailable: there is no landmarker.
    """
    which = face_number(face, all_faces=True)
    sources, left = list_faces(source)
    if sources and all(s.row >= 0 for s in sources):
        if face != LARGEST:
            raise ConfigError(f"--face {face} has no effect with the manifest {source}; leave it out")
        return Examination(source, limits or FaceLimits(), tuple(Examined(s.subject, s) for s in sources))
    mild = _MILD if limits is None and source.is_file() else ()
    made = _examine(source, sources, left, which, limits or FaceLimits(), mild, landmarker, progress)
    if not made.taken:
        unreadable = all(not entry.measured.values and entry.tile is None for entry in made.entries)
        kind = UnreadableImageError if unreadable else NoFaceError
        failed = {entry.unfit.measure for entry in made.left_out}
        off = ",".join(f"{name}=off" for name in FaceLimits().__dict__ if name in failed)
        raise kind(_none_of(source, made.left_out) + (f"; to take such faces: --face-limits {off}" if off else ""))
    return made


def examine_planned(
    sources: Sequence[FaceSource], source: Path, landmarker: str = "auto", progress: Progress | None = None
) -> Examination | None:
    """The faces of a plan, which chose them: every one has to be found, whatever it measures. None for a manifest's.

    Raises:
        NoFaceError: all that cannot be used, in one line.
    """
    if all(s.row >= 0 for s in sources):
        return None
    made = _examine(source, sources, [], 0, FaceLimits.parse(_ALL_OFF), (), landmarker, progress)
    if left := made.left_out:
        raise NoFaceError(f"{_none_of(source, left, 'planned faces cannot be used')}; plan anew without them")
    return made


_ALL_OFF = ",".join(f"{name}=off" for name in FaceLimits().__dict__)


def examine_to_plan(source: Path, face_limits: str = "", progress: Progress | None = None) -> Examination | None:
    """:func:`choose_faces` for a plan: None where there is no landmarker; then `mesynth generate` finds the faces.

    Raises:
        ConfigError: limits that cannot be.
    """
    limits = FaceLimits.parse(face_limits) if face_limits else None
    try:
        return choose_faces(source, limits=limits, progress=progress)
    except WeightsUnavailable:
        return None


def _examine(
    source: Path,
    sources: Sequence[FaceSource],
    left: Sequence[LeftOut],
    which: int,
    limits: FaceLimits,
    mild: Sequence[str],
    landmarker: str,
    progress: Progress | None,
) -> Examination:
    entries = [Examined(entry.file, None, (entry.unfit,)) for entry in left]
    detector = choose_landmarker(landmarker) if sources else None
    first: dict[str, str] = {}
    try:
        for done, found in enumerate(sources):
            if progress is not None:
                progress(done, len(sources))
            assert detector is not None
            file = _file_name(found, source)
            twin = first.setdefault(found.sha256, file) if found.sha256 else file
            entries += _examined(found, file, detector, which, limits, mild, "" if twin == file else twin)
    finally:
        if detector is not None:
            detector.close()
    if progress is not None and sources:
        progress(len(sources), len(sources))
    shown = Counter[bool]()
    for i, entry in enumerate(entries):  # a sheet shows so many at most; thousands of tiles would fill the memory
        shown[entry.taken is not None] += 1
        if shown[entry.taken is not None] > _TILES:
            entries[i] = replace(entry, tile=None)
    places = {entry.file: Path(entry.file) for entry in entries}
    return Examination(source, limits, tuple(sorted(entries, key=lambda entry: places[entry.file])))


def _file_name(found: FaceSource, source: Path) -> str:
    return found.path.name if source.is_file() else found.path.relative_to(source).as_posix()


def _examined(
    source: FaceSource,
    file: str,
    detector: Landmarker,
    which: int,
    limits: FaceLimits,
    mild: Sequence[str],
    twin: str,
) -> list[Examined]:
    """The faces of one picture that are asked for; ``twin``: an earlier file of the same bytes."""
    try:
        with native_silence():
            image, notes = read_photo(source.path)
    except (MesynthError, MemoryError) as error:
        said = str(error).removeprefix(f"{source.path} ") or "this machine has no room for it"
        return [Examined(file, None, (Unfit(said, ""),))]
    notes += [f"the same picture as {twin}, under another subject: remove one of them"] if twin else []
    try:
        faces = find_upright(detector, image, _names(source))
    except NoFaceError as error:
        return [Examined(file, None, (Unfit(str(error), ""),), note="; ".join(notes), tile=_letterboxed(image))]
    try:
        chosen, said = pick_faces([face.points for face in faces], which)
    except NoFaceError as error:
        return [Examined(file, None, (Unfit(str(error), ""),), tile=_letterboxed(image))]
    notes += [said] if said else []
    made = []
    for place, index in enumerate(chosen, 1):
        several = which < 0 and len(faces) > 1
        number = place if several else max(which, 0)
        own = replace(
            source,
            subject=f"{source.subject}-face{number}" if several else source.subject,
            which=number,
        )
        made.append(
            _measured_face(own, f"{file}#{number}" if several else file, image, faces[index], limits, mild, notes)
        )
    return made


def _measured_face(
    source: FaceSource,
    file: str,
    image: np.ndarray,
    face: DetectedFace,
    limits: FaceLimits,
    mild: Sequence[str],
    notes: Sequence[str],
) -> Examined:
    try:
        measured = measure(image, face)
    except MesynthError as error:
        return Examined(file, None, (Unfit(str(error), ""),), note="; ".join(notes), tile=_letterboxed(image))
    unfit = measured.unfit(limits)
    said = [*notes, *(u.text() for u in unfit if u.measure in mild)]
    bad = tuple(u for u in unfit if u.measure not in mild)
    tile = SimilarityCrop.from_landmarks(face.points, _TILE).frames(image[None])[0]
    if {"roll", "outside", "size"} & {u.measure for u in bad}:  # the crop would hide what is wrong
        tile = _letterboxed(image)
    taken = None if bad else replace(source, landmarks=face.points, warnings=tuple(f"face: {text}" for text in said))
    return Examined(file, taken, bad, measured, "; ".join(said), tile)


def _letterboxed(image: np.ndarray) -> np.ndarray:
    """[144,144,3] uint8: the whole picture on grey."""
    height, width = image.shape[:2]
    scale = _TILE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)
    tile = np.full((_TILE, _TILE, 3), 225, np.uint8)
    y, x = (_TILE - size[1]) // 2, (_TILE - size[0]) // 2
    tile[y : y + size[1], x : x + size[0]] = small
    return tile


SKIPPED_FACES, MEASURED_FACES, SHEET = "skipped.csv", "measured.csv", "sheet.png"
_COLUMNS = ["file", "reason", "value", "limit"]


def skipped_faces_csv(left: Iterable[LeftOut]) -> str:
    """A header and a line for every reason; value and limit are empty where nothing was measured."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for entry in left:
        unfit = entry.unfit
        numbers = [number_text(unfit.value), f"{unfit.limit:g}"] if unfit.measure else ["", ""]
        writer.writerow([entry.file, " ".join(unfit.reason.split()), *numbers])
    return buffer.getvalue()


def skipped_faces(out: Path) -> dict[str, list[str]]:
    """File -> reasons, from the ``skipped.csv`` of the folder of faces ``out``; empty where none was left out.

    Raises:
        RunFolderError: the file is damaged.
    """
    file = out / SKIPPED_FACES
    if not file.is_file():
        return {}
    try:
        with file.open(newline="", encoding="utf-8") as handle:
            lines = list(csv.reader(handle, strict=True))
    except (ValueError, csv.Error) as error:
        raise RunFolderError(f"{file} is damaged ({error}); make the corpus anew") from None
    if lines[:1] != [_COLUMNS] or any(len(line) != len(_COLUMNS) for line in lines):
        raise RunFolderError(f"{file} is damaged: a line has not its four columns; make the corpus anew")
    reasons: dict[str, list[str]] = defaultdict(list)
    for name, reason, *_ in lines[1:]:
        reasons[name].append(reason)
    return dict(reasons)


def in_short(reasons: Mapping[str, Sequence[str]]) -> str:
    """``3 pictures were left out (tiny 2, cut off 1)``: a file counts by its first reason, which loses its details."""
    first = Counter(re.split(r" \(|[:;,]", each[0])[0] for each in reasons.values())
    why = [f"{reason} {n}" for reason, n in first.most_common(_KINDS)]
    rest = len(reasons) - sum(n for _, n in first.most_common(_KINDS))
    many = "1 picture was" if len(reasons) == 1 else f"{len(reasons)} pictures were"
    return f"{many} left out ({', '.join([*why, *([f'others {rest}'] if rest else [])])})"


_KINDS = 8


# ---------------------------------------------------------------- prepare


def face_landmarker(sources: list[FaceSource], landmarker: str) -> str:
    """The landmarker these faces need: "stored" if they all bring landmarks, else what ``landmarker`` stands for."""
    return STORED if all(s.row >= 0 for s in sources) else resolve_landmarker(landmarker)


def prepare_faces(
    sources: list[FaceSource],
    out: Path,
    size: int,
    *,
    landmarker: str = "auto",
    workers: int = 1,
    progress: Progress | None = None,
    examination: Examination | None = None,
) -> Manifest:
    """One row per face in ``out``: the crop with its margin [1,S+2M,S+2M,3], or the whole picture where ``size`` is
    :data:`WHOLE`, and its landmarks.

    ``examination``: how they were chosen; it is written beside them.
    """
    chosen = face_landmarker(sources, landmarker)
    config = {"faces": [s.identity for s in sources], "size": size, "landmarker": landmarker_identity(chosen)}
    if examination is not None and not (out / FILE_NAME).is_file():  # a finished folder is left as it is
        claim_folder(out, config)
        examination.write(out)
    # Loading a detector costs as much as some forty faces: few faces are quicker in this process.
    workers = 1 if len(sources) < 40 else workers
    return run_stage(out, sources, FaceWorker(size, chosen), config=config, workers=workers, progress=progress)
