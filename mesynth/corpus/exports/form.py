"""What a form of export is: what it needs of a clip, how it writes a shard of clips, how it ends, how clips come back.

And what forms share, on the way out and on the way back: action units as a coder would write them, and frame numbers as
a release would count them. Names of people and clips: distinct, safe as file names, and never those of somebody else.
One clip as plain JSON: what travels beside every export so that leak safety survives it. Tables: CSV streamed row by
row, workbooks whose bytes follow from their cells alone. Pictures as other code bases expect their bytes. Files of an
export read back, each checked against what ``provenance.jsonl`` says of its clip.
"""

from __future__ import annotations

import csv
import io
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import cv2
import numpy as np
import pyarrow as pa

from mesynth.core import facs
from mesynth.core.emotions import CLASSES_3
from mesynth.core.errors import ConfigError, ManifestError
from mesynth.core.framing import (
    Framing,
    KnownFraming,
    covered,
    parse_framing,
    reframed_flow,
    reframed_picture,
    reframed_points,
)
from mesynth.core.types import flow_planes, stretched
from mesynth.corpus.previews import check_video
from mesynth.datasets.rendered import au_text, without_dates
from mesynth.motion.framing import stated_framing
from mesynth.store.manifest import SCHEMA, Manifest, Provenance, Row
from mesynth.store.run_folder import temporary_beside, write_bytes
from mesynth.store.shards import (
    MASKS,
    known_framing,
    member_pngs,
    npy_array,
    npy_bytes,
    png_bytes,
    read_flow,
    read_frames,
    read_span,
)
from mesynth.store.stage import Produced
from mesynth.store.videos import encoded, image_array


def has_aus(row: Row) -> bool:
    """Whether at least one action unit is known to be present."""
    return any(value == 1 for value in row.au_present)


def present_codes(row: Row) -> tuple[int, ...]:
    """Codes that are present on either side, ascending."""
    sides = np.array(row.au_present, np.int8).reshape(-1, 2)
    return tuple(code for code, pair in zip(facs.AU_CODES, sides, strict=True) if (pair == 1).any())


def au_cell(row: Row, *, letters: bool = False) -> str:
    """The AU cell of a workbook: the coder's own words, or what one would write for a generated clip.

    A generated clip's text is a request (``L12=0.48,R12=0.52``), which no loader of the field reads: it becomes
    ``12`` (``12C`` with ``letters``, the FACS letter whose nominal weight is nearest), ``L4`` where the other side is
    much weaker. What it says of intensities is rough; the exact values lie in ``provenance.jsonl``.
    """
    if "=" not in row.au_text and row.au_text:
        return row.au_text
    if not row.au_text and not any(row.au_intensity):
        codes = list(map(str, present_codes(row)))
        return "+".join([*codes, "?"] if codes and -1 in row.au_present else codes)  # ?: not all was coded
    vector = row.aus
    text = au_text(vector)
    if not letters or not text:
        return text
    terms = []
    for term in text.split("+"):
        code = int(term.lstrip("LR"))
        strength = float(vector.intensity[facs.AU_INDEX[code]].max())
        terms.append(term + min(facs.LETTER_INTENSITY, key=lambda name: abs(facs.LETTER_INTENSITY[name] - strength)))
    return "+".join(terms)


@dataclass(frozen=True)
class FrameNumbers:
    """Frame numbers of a clip: ``apex`` is None where none was annotated."""

    onset: int
    apex: int | None
    offset: int
    renumbered: bool = False
    """The clip was thinned or resampled: its stored frames are counted on from its onset."""

    def each(self) -> range:
        """The number of every stored frame."""
        return range(self.onset, self.offset + 1)


def numbers_of(row: Row) -> FrameNumbers:
    """The annotated numbers where the stored frames fit them, else numbers counted on from the onset."""
    apex = None if row.apex is None else row.onset + row.apex_index
    fits = row.offset - row.onset + 1 == row.n_frames and (row.apex is None or apex == row.apex)
    return FrameNumbers(row.onset, apex, row.onset + row.n_frames - 1, renumbered=not fits)


# ------------------------------------------------------------------- form


PROVENANCE_FILE = "provenance.jsonl"
FRAMES, FLOW, CLASS, AUS, EMOTION = "frames", "flow", "class", "au", "emotion"
_MISSING = {
    FRAMES: "no frames in this corpus",
    FLOW: "no flow; run `mesynth prepare corpus` on the corpus first",
    CLASS: "no class of the composite (negative, positive, surprise)",
    AUS: "no action unit is known to be present",
    EMOTION: "no emotion word",
}
_SIZES = (8, 1024)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What may be chosen; a form refuses an option that it does not have (:attr:`Form.accepts`)."""

    size: int = 0
    """Side of flow pictures, pixels; 0 for the form's own."""
    video: str = ""
    """One of :data:`mesynth.corpus.previews.VIDEOS`; empty for the first."""
    train: bool = True
    """Write the ``u_train`` folders of flow folders."""
    frame: str = ""
    """Where faces are to lie, as :func:`mesynth.motion.framing.stated_framing` reads it; empty: where they do."""

    def __post_init__(self) -> None:
        if self.frame:  # a database's folder is no part of what an export is known by
            object.__setattr__(self, "frame", stated_framing(self.frame).framing.text())
        if self.size and not _SIZES[0] <= self.size <= _SIZES[1]:
            raise ConfigError(f"size={self.size} px is outside {list(_SIZES)}")
        if self.video:
            check_video(self.video)

    def chosen(self) -> list[str]:
        """Names of the options that differ from their defaults."""
        return [name for name, value in vars(self).items() if value != getattr(Options(), name)]


@dataclass(frozen=True)
class SourceClip:
    """One clip on its way out: its row, its number in the corpus, and its arrays when they are asked for."""

    root: Path
    index: int
    row: Row
    move: tuple[Framing, Framing] | None = None
    """From which framing it is taken to which."""

    def pngs(self) -> list[bytes]:
        """The frames as PNG, byte for byte as the shard holds them."""
        if self.row.frames is None:
            return [png_bytes(frame) for frame in self.frames()]
        members = read_span(self.root, self.row.frames, verify=True)
        return member_pngs(members, self.row.clip_id)

    def frames(self) -> np.ndarray:
        """[T,H,W,3] uint8 RGB."""
        frames = read_frames(self.root, self.row)
        return np.stack([reframed_picture(frame, *self.move) for frame in frames]) if self.move else frames

    def flow(self) -> np.ndarray:
        """[2,H,W] float32, pixels, onset to apex."""
        flow = read_flow(self.root, self.row)
        return reframed_flow(flow, *self.move) if self.move else flow

    def flow_members(self) -> dict[str, bytes]:
        """``flow.npy``, ``landmarks.npy`` and what else the shard holds beside the flow; empty without flow. In another
        framing, these and the masks alone."""
        members = read_span(self.root, self.row.flow, verify=True) if self.row.flow else {}
        if self.move is None or not members:
            return members
        flow = self.flow()
        moved = {"flow.npy": flow}
        if "landmarks.npy" in members:
            moved["landmarks.npy"] = reframed_points(npy_array(members["landmarks.npy"]), *self.move, *flow.shape[1:])
        for name in MASKS:
            if name in members:
                mask = npy_array(members[name]).astype(np.float32)
                moved[name] = reframed_picture(mask, *self.move) > 0.5
        return {name: npy_bytes(array) for name, array in moved.items()}


@dataclass(frozen=True)
class ExportedClip:
    """A clip as exported: its row as the export can be read back, and under which names it lies there."""

    row: Row
    place: dict[str, str | int]


ExportedClips = Callable[[], Iterator[ExportedClip]]
"""All clips of an export in order, read anew at every call, a shard at a time."""


class Form(ABC):
    """One form of export, for one corpus and one choice of options.

    ``write`` is called once a shard, in any order, in processes of their own: what it writes depends on what
    ``__init__`` has gathered, the options and the shard alone, and it keeps nothing from one shard to the next.
    """

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = (FRAMES,)
    accepts: ClassVar[tuple[str, ...]] = ()
    readable: ClassVar[bool] = False
    """Whether the export is a mesynth manifest as well (``manifest.parquet`` is written)."""
    comes_back: ClassVar[bool] = True
    """Whether :meth:`back` can make a corpus of the export again."""

    def __init__(self, source: Manifest, options: Options) -> None:
        """Raises ConfigError on an option that this form does not have, or a framing that the clips do not show."""
        for option in options.chosen():
            if option not in self.accepts:
                raise ConfigError(f"export to {self.name} has no option '{option}'; leave it out")
        self.source, self.options = source, options
        self.framing, self.move = _framing(source, options.frame)

    def __getstate__(self) -> dict[str, Any]:
        """What ``write`` needs in another process: everything but the corpus' table."""
        return self.__dict__ | {"source": self.source[:0]}

    def lacks(self, row: Row) -> str:
        """Why this form cannot take the clip, "" where it can."""
        present = {
            FRAMES: row.frames is not None or bool(row.frame_files),
            FLOW: row.flow is not None,
            CLASS: row.label in CLASSES_3,
            AUS: has_aus(row),
            EMOTION: bool(row.emotion),
        }
        return "; ".join(_MISSING[need] for need in self.needs if not present[need])

    @abstractmethod
    def write(self, out: Path, shard: int, shards: int, clips: Iterator[SourceClip]) -> Iterator[ExportedClip]:
        """Write the clips of one shard; every file under a temporary name first."""

    def finish(self, out: Path, placed: ExportedClips) -> dict[str, object]:
        """What is written once all shards are there (workbooks, tables); facts for the account."""
        return {}

    @staticmethod
    def back(root: Path, row: Row, place: dict[str, Any]) -> Produced:
        """One clip of the export ``root`` with the arrays that lie there, if the form :attr:`comes_back`.

        ``row``: its line of ``provenance.jsonl``; ``place``: its names in the export. What the form has lost is a
        warning of the row.

        Raises:
            MesynthError: a file is missing, damaged, or not what the row says.
            KeyError, TypeError, ValueError: ``place`` is not what this form writes.
        """
        raise NotImplementedError


def _framing(source: Manifest, frame: str) -> tuple[KnownFraming | None, tuple[Framing, Framing] | None]:
    """Where faces lie in an export, and from which framing its clips are taken to which."""
    if not frame:
        return source.framing, None
    known, target = known_framing(source), KnownFraming(framing=parse_framing(frame))
    if known is None:
        raise ConfigError(f"where faces lie in {source.root} is not known, so frame '{frame}' cannot be reached")
    if not known.can_become(target):
        shown = covered(known.framing, target.framing)
        raise ConfigError(
            f"the clips of {source.root}, framed {known.text()}, show {shown:.0%} of a crop framed {frame}; choose a "
            "framing that lies inside theirs"
        )
    return target, (known.framing, target.framing) if known.framing != target.framing else None


@dataclass(frozen=True)
class ExportSummary:
    """What an export did: counts, and what its form has to say."""

    form: str
    out: str
    clips: int
    left_out: int
    reasons: dict[str, int] = field(default_factory=dict)
    facts: dict[str, object] = field(default_factory=dict)
    framing: str = ""
    """Of the clips, as the corpus records it (:meth:`mesynth.core.framing.KnownFraming.to_json`)."""

    def to_dict(self) -> dict[str, object]:
        """Flat, for JSON and people."""
        counts = {"form": self.form, "out": self.out, "clips": self.clips, "left out": self.left_out}
        return {**counts, **({"reasons": self.reasons} if self.reasons else {}), **self.facts}


def with_warning(row: Row, text: str) -> Row:
    """The row with one warning more, unless it has it."""
    return replace(row, warnings=tuple(dict.fromkeys((*row.warnings, text))))


def with_files(row: Row, files: list[str]) -> Row:
    """The row of a clip whose frames now are loose ``files``: no shard, no flow."""
    return replace(row, frames=None, flow=None, frame_files=tuple(files))


# ---------------------------------------------------------------- names


FIRST_NEW = 501
"""Number of the first person who is in no release: CASME II counts to 26, SAMM to 37, SMIC to 20."""


def safe(text: str) -> str:
    """``text`` as a file name: letters, digits, ``-`` and ``_``.

    >>> safe("EP02 01f"), safe("../x"), safe("")
    ('EP02_01f', '___x', '_')
    """
    return re.sub(r"[^\w-]|[^\x00-\x7f]", "_", text) or "_"


def people(source: Manifest, fresh: str, own: Mapping[str, str]) -> dict[str, str]:
    """``database/subject`` -> the name in the export.

    ``own``: database -> pattern of names that its people keep; everyone else becomes ``fresh.format(501)``, 502, ...
    in the order of their keys, so that nobody passes for a person of a real release.
    """
    keys = sorted(set(source.subject_keys().astype(str)))
    names = {}
    for key in keys:
        database, _, subject = key.partition("/")
        if database in own and re.fullmatch(own[database], subject):
            names[key] = subject
    taken = set(names.values())
    numbers = (name for number in count(FIRST_NEW) if (name := fresh.format(number)) not in taken)
    return names | {key: next(numbers) for key in keys if key not in names}


def plain_people(source: Manifest) -> dict[str, str]:
    """``database/subject`` -> the subject's own name as a file name, with its database where two people share it."""
    keys = sorted(set(source.subject_keys().astype(str)))
    shared = Counter(safe(key.partition("/")[2]) for key in keys)
    names: dict[str, str] = {}
    taken: set[str] = set()
    for key in keys:
        database, _, subject = key.partition("/")
        name = safe(subject) if shared[safe(subject)] == 1 else safe(f"{database}_{subject}")
        while name in taken:
            name += "_"
        taken.add(name)
        names[key] = name
    return names


def clip_names(source: Manifest) -> list[str]:
    """Per row, the clip's name as a file name: distinct within its subject, with the onset where a clip has several
    expressions, and with the row's number where even that is not enough."""
    subjects = source.subject_keys().astype(str)
    clips = [safe(str(clip)) for clip in source.column("clip")]
    onsets = source.column("onset")
    shared = Counter(zip(subjects, clips, strict=True))
    names = [
        clip if shared[subject, clip] == 1 else f"{clip}_{onset}"
        for subject, clip, onset in zip(subjects, clips, onsets, strict=True)
    ]
    again = Counter(zip(subjects, names, strict=True))
    return [
        name if again[subject, name] == 1 else f"{name}_row{index}"
        for index, (subject, name) in enumerate(zip(subjects, names, strict=True))
    ]


class NamedForm(Form):
    """A form whose files are told apart by people and clips. Names of people are their own as file names, or, with
    :attr:`fresh`, such as no release has."""

    fresh: ClassVar[str] = ""
    """Pattern of a new person's name, which is given a number."""
    own: ClassVar[Mapping[str, str]] = {}
    """Database -> pattern of names that its people keep."""

    def __init__(self, source: Manifest, options: Options) -> None:
        super().__init__(source, options)
        self.people = people(source, self.fresh, self.own) if self.fresh else plain_people(source)
        self.clips = clip_names(source)

    def names(self, clip: SourceClip) -> tuple[str, str]:
        """Of its person and of itself."""
        return self.people[clip.row.subject_key], self.clips[clip.index]


def one_database(source: Manifest) -> str:
    """The database of all clips, "" where there are several."""
    names = np.unique(source.column("database").astype(str))
    return str(names[0]) if len(names) == 1 else ""


# ------------------------------------------------------------------- records


_PLAIN = (
    "clip_id", "database", "subject", "clip", "onset", "apex", "offset", "apex_index", "n_frames", "fps", "height",
    "width", "expression", "emotion", "label", "objective_class", "au_text",
)  # fmt: skip
_LISTS = ("au_intensity", "au_known", "au_present", "warnings")


def record_of(placed: ExportedClip) -> dict[str, Any]:
    """One line of ``provenance.jsonl``: ``as`` are the names in the export, the rest is the clip's own.

    ``aus`` is the request that gives the intensities back, ``au_intensity`` holds them exactly ([K*2], rows of
    facs.AU_CODES, sides L and R).
    """
    row = placed.row
    return {
        "clip_id": row.clip_id, "as": placed.place, "database": row.database, "subject": row.subject, "clip": row.clip,
        "onset": row.onset, "apex": row.apex, "offset": row.offset, "apex_index": row.apex_index,
        "n_frames": row.n_frames, "fps": row.fps, "height": row.height, "width": row.width,
        "expression": row.expression, "emotion": row.emotion, "label": row.label,
        "objective_class": row.objective_class, "au_text": row.au_text, "aus": facs.format_vector(row.aus),
        "au_intensity": list(row.au_intensity), "au_known": list(row.au_known), "au_present": list(row.au_present),
        "warnings": list(row.warnings), "provenance": asdict(row.provenance),
    }  # fmt: skip


def row_of(record: dict[str, Any]) -> Row:
    """The row that :func:`record_of` was given, without its files.

    Raises:
        ManifestError: values that no row has.
        KeyError, TypeError, ValueError: a record that misses something, or holds something of another type.
    """
    values = {name: record[name] for name in _PLAIN} | {name: tuple(record[name]) for name in _LISTS}
    made = Row(**values, provenance=provenance_of(record))
    plain = vars(made) | {"provenance": vars(made.provenance)}
    row = Manifest(pa.Table.from_pylist([plain], SCHEMA), Path()).row(0)  # refuses values of other types
    if blank := _blank(values) or _blank(vars(row.provenance)):
        raise ManifestError(f"{blank} is blank")
    row.aus  # noqa: B018 - checked as it is made
    if len(row.au_present) != len(row.au_intensity):
        raise ManifestError(f"au_present has {len(row.au_present)} entries; expected {len(row.au_intensity)}")
    if not 0 <= row.apex_index < max(row.n_frames, 1):
        raise ManifestError(f"apex_index {row.apex_index} lies outside its {row.n_frames} frames")
    return row


def provenance_of(record: dict[str, Any]) -> Provenance:
    """The provenance of a line. Raises as :func:`row_of`."""
    source: dict[str, Any] = {field.name: record["provenance"][field.name] for field in fields(Provenance)}
    source |= {name: tuple(value) for name, value in source.items() if isinstance(value, list)}
    return Provenance(**source)


def _blank(values: dict[str, Any]) -> str:
    """The first value that is missing, or a list with a gap; an apex may be unknown."""
    gaps = (
        name
        for name, value in values.items()
        if (value is None and name != "apex") or (isinstance(value, (list, tuple)) and None in value)
    )
    return next(gaps, "")


# ------------------------------------------------------------------- tables


CellValue = str | int | float | None
_WRITTEN = b"2020-01-01T00:00:00Z"


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[CellValue]]) -> None:
    """Write under a temporary name, then rename; one row is held at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    with open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
    temporary.replace(path)


def write_workbook(path: Path, sheets: Mapping[str, Iterable[Sequence[CellValue]]]) -> None:
    """An .xlsx of sheets, each an iterable of rows; None leaves a cell blank. Cells go to disk as they come."""
    from openpyxl import Workbook

    book = Workbook(write_only=True)
    for title, rows in sheets.items():
        sheet = book.create_sheet(title)
        for row in rows:
            sheet.append(list(row))
    buffer = io.BytesIO()
    book.save(buffer)
    write_bytes(path, without_dates(buffer.getvalue(), _WRITTEN))


# ------------------------------------------------------------------- pictures


def jpeg_bytes(image: np.ndarray) -> bytes:
    """[H,W,3] uint8 RGB or [H,W] grey as JPEG of quality 100 without chroma subsampling: motion this small must not
    drown in compression."""
    choice = [cv2.IMWRITE_JPEG_QUALITY, 100]
    choice += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    return encoded(image, ".jpg", choice)


def grey(rgb: np.ndarray) -> np.ndarray:
    """[H,W] uint8 (ITU-R BT.601 luma) of [H,W,3]."""
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY))


def flow_image(uv: np.ndarray, size: int) -> bytes:
    """A PNG whose R, G, B hold u, v and optical strain of flow [2,H,W], each stretched to 0..255 (``cv2.imread``
    gives strain, v, u), as published with STSTNet (Liong et al., FG 2019)."""
    return encoded(np.stack([stretched(plane) for plane in flow_planes(uv, size)], -1), ".png")


# ------------------------------------------------------------------- reading


AGAIN = "export the corpus again, or copy the export again"


def inside(root: Path, name: str) -> Path:
    """The file ``name`` below ``root``. Raises ManifestError on a name that leads elsewhere."""
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\\" in name:
        raise ManifestError(f"{root} names the file '{name}', which does not lie in it; {AGAIN}")
    return root / path


def file_bytes(root: Path, name: str) -> bytes:
    """The bytes of a file of the export. Raises ManifestError where it is missing."""
    path = inside(root, name)
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise ManifestError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error}); {AGAIN}") from None


def picture_files(root: Path, row: Row, names: Iterable[str]) -> np.ndarray:
    """[T,H,W,3] uint8 RGB of loose picture files; see :func:`pictures`."""
    return pictures(row, ((str(inside(root, name)), file_bytes(root, name)) for name in names))


def pictures(row: Row, named: Iterable[tuple[str, bytes]]) -> np.ndarray:
    """[T,H,W,3] uint8 RGB of encoded pictures and their names.

    Raises:
        UnreadableImageError: one is damaged.
        ManifestError: one has another size than its clip, or there are too few or too many.
    """
    images = []
    for name, data in named:
        image = image_array(data, name)
        if image.shape[:2] != (row.height, row.width):
            height, width = image.shape[:2]
            raise ManifestError(
                f"{name} is {width}x{height} pixels; clip {row.clip_id} has {row.width}x{row.height}; {AGAIN}"
            )
        images.append(image)
    if len(images) != row.n_frames or not images:
        raise ManifestError(f"clip {row.clip_id} has {row.n_frames} frames, {len(images)} of them here; {AGAIN}")
    return np.stack(images)


def array(data: bytes, name: str) -> np.ndarray:
    """An array of npy bytes, never unpickled. Raises ManifestError, which names it, where they are no npy."""
    try:
        return npy_array(data)
    except ManifestError as error:
        raise ManifestError(f"{name}: {error}") from None


def stored(row: Row, arrays: Mapping[str, tuple[str, np.ndarray]]) -> dict[str, Any]:
    """What :class:`mesynth.store.stage.Produced` takes: ``flow``, ``landmarks``, ``valid``, and the rest as ``extra``.

    ``arrays``: kind -> (name for errors, array). Raises ManifestError on another shape or type than the row's.
    """
    size = (row.height, row.width)
    wanted: dict[str, tuple[tuple[int, ...], type[np.generic]]] = {
        "flow": ((2, *size), np.float32), "landmarks": ((68, 2), np.float32),
        **dict.fromkeys(("valid", "new", "still"), (size, np.bool_)),
    }  # fmt: skip
    known = {
        kind: shaped(found, name, *wanted[kind]) if kind in wanted else found for kind, (name, found) in arrays.items()
    }
    beside = ("new", "still")
    plain = {kind: found for kind, found in known.items() if kind in wanted and kind not in beside}
    return {**plain, "extra": {kind: found for kind, found in known.items() if kind not in plain}}


def shaped(found: np.ndarray, name: str, shape: tuple[int, ...], kind: type[np.generic]) -> np.ndarray:
    """``found``. Raises ManifestError where it has another shape or type, or holds NaN or infinity."""
    if found.shape != shape or found.dtype != kind:
        raise ManifestError(f"{name} is {found.dtype} {found.shape}; expected {np.dtype(kind)} {shape}; {AGAIN}")
    if found.dtype.kind == "f" and not np.isfinite(found).all():
        raise ManifestError(f"{name} holds NaN or infinity; {AGAIN}")
    return found
