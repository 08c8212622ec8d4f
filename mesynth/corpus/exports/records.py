"""What forms of export share, on the way out and on the way back.

Names of people and clips: distinct, safe as file names, and never those of somebody else. One clip as plain JSON: what
travels beside every export so that leak safety survives it. Tables: CSV streamed row by row, workbooks whose bytes
follow from their cells alone. Pictures as other code bases expect their bytes. Files of an export read back, each
checked against what ``provenance.jsonl`` says of its clip."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import cv2
import numpy as np
import pyarrow as pa

from mesynth.core import facs
from mesynth.core.errors import ManifestError
from mesynth.core.types import flow_planes, stretched
from mesynth.corpus.exports.form import ExportedClip, Form, Options, SourceClip
from mesynth.datasets.rendered import without_dates
from mesynth.store.manifest import SCHEMA, Manifest, Provenance, Row
from mesynth.store.run_folder import temporary_beside, write_bytes
from mesynth.store.shards import npy_array
from mesynth.store.videos import image_array

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
    bgr = image[..., ::-1] if image.ndim == 3 else image
    choice = [cv2.IMWRITE_JPEG_QUALITY, 100]
    choice += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    done, buffer = cv2.imencode(".jpg", bgr, choice)
    assert done
    return bytes(buffer)


def grey(rgb: np.ndarray) -> np.ndarray:
    """[H,W] uint8 (ITU-R BT.601 luma) of [H,W,3]."""
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY))


def flow_image(uv: np.ndarray, size: int) -> bytes:
    """A PNG whose R, G, B hold u, v and optical strain of flow [2,H,W], each stretched to 0..255 (``cv2.imread``
    gives strain, v, u), as published with STSTNet (Liong et al., FG 2019)."""
    u, v, strain = (stretched(plane) for plane in flow_planes(uv, size))
    done, buffer = cv2.imencode(".png", np.stack([strain, v, u], -1))
    assert done
    return bytes(buffer)


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
