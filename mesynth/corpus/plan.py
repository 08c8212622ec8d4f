"""The generation plan: one explicit row per clip, from which alone the clip is made; drawn, and on disk.

A row names the face, the AUs, the temporal profile and the seed. Rows are drawn from independent
streams, so a plan of 1,000 clips begins with the plan of 100 made by the same command.

On disk it is ``plan.parquet`` (a row a clip), ``design.yaml`` and ``plan.json`` (faces, hash), read in parts.
:class:`Summary` says what it will make before anything runs: classes, faces, AUs, sources, frames, expected size.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from itertools import chain, islice
from json.encoder import encode_basestring_ascii as write_string
from pathlib import Path
from typing import Any, Self, overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from mesynth import __version__
from mesynth.core import emotions, facs, seeds
from mesynth.core.emotions import AUSampling
from mesynth.core.errors import ManifestError, MesynthError, RunFolderError, first_line
from mesynth.core.profiles import MAX_DURATION_S, MIN_DURATION_S, Profile, draw_profile, frame_count, require_profile
from mesynth.core.types import N_AUS, AUVector
from mesynth.corpus.faces import FaceSource, find_faces
from mesynth.motion.nuisance import Nuisance
from mesynth.store import digests
from mesynth.store.manifest import Row
from mesynth.store.run_folder import require_name, temporary_beside

FILE_NAME = "plan.jsonl"


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """What a plan is drawn from. Either ``au`` (requests, taken in turn) or ``emotions`` (likewise) is given."""

    au: tuple[str, ...] = ()
    emotions: tuple[str, ...] = ()
    count: int = 1
    profile: str = "casme2"
    fps: float = 200.0
    duration: tuple[float, float] = (0.32, 0.32)
    """Seconds; drawn uniformly when the two differ."""
    size: int = 128
    seed: int = 0
    sampling: AUSampling = AUSampling()
    nuisance: Nuisance = Nuisance()

    def __post_init__(self) -> None:
        if bool(self.au) == bool(self.emotions):
            raise MesynthError('give either --au (for example "12=B,L4=0.2") or --emotion, one of the two')
        for request in self.au:
            facs.reject_conflicts(facs.parse_request(request))
        for emotion in self.emotions:
            emotions.require_emotion(emotion, self.sampling.source)
        if not 1 <= self.count <= 10_000_000:
            raise MesynthError(f"count={self.count} must be at least 1")
        if not 32 <= self.size <= 1024:
            raise MesynthError(f"size={self.size} px is outside [32, 1024]")
        require_profile(self.profile)
        if self.duration[0] > self.duration[1]:
            raise MesynthError(f"duration {self.duration[0]:g}:{self.duration[1]:g} must be ascending")
        for seconds in self.duration:
            frame_count(seconds, self.fps)


@dataclass(frozen=True, kw_only=True)
class PlanRow:
    """One clip to make. ``face`` counts the rows of the faces' manifest."""

    index: int
    face: int
    emotion: str
    intensity: tuple[tuple[float, float], ...]
    """[K][L, R], rows of facs.AU_CODES."""
    au_source: str
    profile: Profile
    n_frames: int
    fps: float
    nuisance: Nuisance
    seed: int
    au_seen: tuple[str, ...] = ()
    """``database/subject`` of everyone whose labels took part in drawing the AUs; nobody for tables and requests."""

    @property
    def aus(self) -> AUVector:
        """The target AUs."""
        return AUVector(np.array(self.intensity, np.float32))

    def cells(self) -> list[float]:
        """``intensity`` in one row [K*2], as float32 holds it."""
        return array("f", chain.from_iterable(self.intensity)).tolist()

    def request(self, cells: Sequence[float]) -> str:
        """:func:`mesynth.core.facs.format_vector` of the target AUs, of which these are the :meth:`cells`.

        Raises ValueError where they are out of shape or range.
        """
        if len(cells) != 2 * N_AUS or not all(0 <= value <= 1 for value in cells if value):
            return facs.format_vector(self.aus)  # which says what is wrong
        return facs.format_pairs(zip(cells[::2], cells[1::2], strict=True))

    def columns(self, shown: AUVector, size: tuple[int, int], apex: int) -> dict[str, Any]:
        """Of the manifest's row: what the plan says of a clip of ``size`` (height, width) that shows these AUs."""
        active = [facs.AU_CODES[k] for k in np.flatnonzero(shown.intensity.max(1) > 0)]
        return {
            "onset": 0,
            "apex": apex,
            "offset": self.n_frames - 1,
            "fps": self.fps,
            "n_frames": self.n_frames,
            "apex_index": apex,
            "height": size[0],
            "width": size[1],
            "emotion": self.emotion,
            "label": emotions.label(self.emotion),
            "objective_class": facs.objective_class(active),
            "au_text": facs.format_vector(shown),
        } | Row.au_columns(shown)

    def origin(self) -> dict[str, Any]:
        """Of the row's provenance: what the plan says of any clip made from it."""
        return {
            "kind": "synthetic",
            "plan_row": self.index,
            "seed": self.seed,
            "aus_asked": facs.format_vector(self.aus),
            "aus_source": self.au_source,
            "profile": self.profile.text(),
            "code_version": __version__,
        }


class _Rows(Sequence["PlanRow"]):
    """Rows that are made when they are looked at; a slice is as small as its whole."""

    _part: range
    """Indices of the rows."""

    def _row(self, index: int) -> PlanRow:
        raise NotImplementedError

    def _of(self, part: range) -> Self:
        """These rows alone."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self._part)

    @overload
    def __getitem__(self, index: int) -> PlanRow: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> PlanRow | Self:
        return self._of(self._part[index]) if isinstance(index, slice) else self._row(self._part[index])


class Plan(_Rows):
    """The rows of ``config`` over ``n_faces`` faces, each drawn when it is looked at: a plan of any length is small.

    Emotions are taken in turn, faces in random order per round, so that classes and faces stay balanced; AUs
    come from aggregate tables, never from a subject.
    """

    def __init__(self, config: PlanConfig, n_faces: int, part: range | None = None) -> None:
        """Raises MesynthError without faces."""
        if n_faces < 1:
            raise MesynthError("there is no face to generate on")
        self.config, self.n_faces = config, n_faces
        self._part = range(config.count) if part is None else part

    def _row(self, index: int) -> PlanRow:
        return _draw_row(self.config, self.n_faces, index)

    def _of(self, part: range) -> Plan:
        return Plan(self.config, self.n_faces, part)


def _draw_row(config: PlanConfig, n_faces: int, index: int) -> PlanRow:
    rng = seeds.stream(config.seed, "plan", index)
    if config.au:
        emotion, vector, source = "", facs.parse_request(config.au[index % len(config.au)]), "user"
    else:
        wanted = config.emotions[index % len(config.emotions)].strip().lower()
        emotion = emotions.draw_emotion(wanted, rng, config.sampling.source)
        vector, source = emotions.sample_aus(emotion, rng, config.sampling), config.sampling.source
    seconds = float(rng.uniform(*config.duration))
    return PlanRow(
        index=index,
        face=face_of(index, n_faces, len(config.emotions or config.au), config.seed),
        emotion=emotion,
        intensity=pairs_of(vector.intensity),
        au_source=source,
        profile=draw_profile(config.profile, rng),
        n_frames=frame_count(float(np.clip(seconds, MIN_DURATION_S, MAX_DURATION_S)), config.fps),
        fps=config.fps,
        nuisance=config.nuisance,
        seed=int(rng.integers(2**31)),
    )


def pairs_of(intensity: np.ndarray) -> tuple[tuple[float, float], ...]:
    """[K,2] as a row holds it."""
    return tuple(map(tuple, intensity.tolist()))


def face_of(index: int, n_faces: int, n_kinds: int, seed: int) -> int:
    """Row ``index``'s face: none is taken again before all were; and in every ``n_faces * n_kinds`` rows each face
    meets each emotion (or request; the kind of a row is ``index % n_kinds``) exactly once.

    A round of all faces keeps the order of its block, moved on by one whenever the kinds would fall on the same faces
    again: with g the greatest common divisor of both numbers, that is every ``n_kinds / g`` rounds.
    """
    block, rest = divmod(index, n_faces * n_kinds)
    turn, place = divmod(rest, n_faces)
    moved = turn // (n_kinds // math.gcd(n_faces, n_kinds))
    return int(_face_order(seed, block, n_faces)[(place + moved) % n_faces])


@lru_cache(maxsize=4)
def _face_order(seed: int, block: int, n_faces: int) -> np.ndarray:
    return seeds.stream(seed, "faces", block).permutation(n_faces)


def write_plan(rows: Iterable[PlanRow], folder: Path) -> Path:
    """``plan.jsonl``, one row a line, AUs in request form beside their exact values."""
    path = folder / FILE_NAME
    temporary = temporary_beside(path)
    encode = json.JSONEncoder().encode
    with open(temporary, "w") as file:
        for row in rows:
            # Field by field, and the intensities by themselves: a row has fifty of them, and few that are not 0.
            line: dict[str, Any] = {name: getattr(row, name) for name in _AFTER_INTENSITY}
            line |= {"profile": vars(row.profile), "nuisance": vars(row.nuisance)}
            line["au"] = row.request(row.cells())
            if not row.au_seen:
                del line["au_seen"]
            texts = _number_texts([value for pair in row.intensity for value in pair])
            pairs = ", ".join([f"[{left}, {right}]" for left, right in zip(texts[::2], texts[1::2], strict=True)])
            head = encode({name: getattr(row, name) for name in _BEFORE_INTENSITY})
            file.write(f'{head[:-1]}, "intensity": [{pairs}], {encode(line)[1:]}\n')
    os.replace(temporary, path)
    return path


_names = [f.name for f in fields(PlanRow)]
_BEFORE_INTENSITY = _names[: _names.index("intensity")]
_AFTER_INTENSITY = _names[_names.index("intensity") + 1 :]
_MINUS_ZERO = array("d", [-0.0]).tobytes()


def _number_texts(values: Sequence[float]) -> list[str]:
    """Finite floats as JSON has them; most are 0, whose text is known."""
    if _MINUS_ZERO in array("d", values).tobytes() and any(math.copysign(1, value) < 0 for value in values):
        return [json.dumps(value) for value in values]
    return ["0.0" if not v else repr(v) if type(v) is float else json.dumps(v) for v in values]


# ---------------------------------------------------------------- on disk


ROWS_FILE, DESIGN_FILE, INFO_FILE = "plan.parquet", "design.yaml", "plan.json"
_GROUP = 1024
"""Rows read at once."""
_STRINGS = pa.list_(pa.string())
SCHEMA = pa.schema(
    [
        ("index", pa.int64()), ("face", pa.int32()), ("face_key", pa.string()), ("emotion", pa.string()),
        ("label", pa.string()), ("au", pa.string()), ("au_intensity", pa.list_(pa.float32())),
        ("au_source", pa.string()), ("au_seen", _STRINGS), ("subjects_seen", _STRINGS), ("profile", pa.string()),
        ("n_frames", pa.int32()), ("fps", pa.float64()), ("noise", pa.float64()), ("head", pa.float64()),
        ("blink", pa.float64()), ("style", pa.float64()), ("seed", pa.int64()),
    ]
)  # fmt: skip
VIRTUAL = "flow-prior"
"""Database of people who exist as a face shape alone (flow images)."""


@dataclass(frozen=True)
class PlanFace:
    """One face of a plan: which one, and whom a clip of it has seen for that alone."""

    database: str
    subject: str
    sha256: str
    row: int
    seen: tuple[str, ...]

    @property
    def key(self) -> str:
        """``database/subject``."""
        return f"{self.database}/{self.subject}"

    @property
    def identity(self) -> tuple[str, str, str, int]:
        """What says whether a found face is this one (:attr:`mesynth.corpus.faces.FaceSource.identity`)."""
        return (self.database, self.subject, self.sha256, self.row)


def plan_faces(sources: Iterable[FaceSource]) -> list[PlanFace]:
    """The faces that :func:`mesynth.corpus.faces.find_faces` found."""
    return [
        PlanFace(s.database, s.subject, s.sha256, s.row, tuple(sorted({f"{s.database}/{s.subject}", *s.seen})))
        for s in sources
    ]


def virtual_faces(n: int) -> list[PlanFace]:
    """``n`` people without a picture: a face shape each, for flow images."""
    return [PlanFace(VIRTUAL, f"p{i:05d}", "", -1, (f"{VIRTUAL}/p{i:05d}",)) for i in range(n)]


def record(row: PlanRow, face: PlanFace) -> dict[str, Any]:
    """A line of ``plan.parquet``. ``subjects_seen``: the face's and the AUs', not the generator's."""
    cells = row.cells()
    return {
        "index": row.index,
        "face": row.face,
        "face_key": face.key,
        "emotion": row.emotion,
        "label": emotions.label(row.emotion),
        "au": row.request(cells),
        "au_intensity": cells,
        "au_source": row.au_source,
        "au_seen": list(row.au_seen),
        "subjects_seen": sorted({*face.seen, *row.au_seen}),
        "profile": row.profile.text(),
        "n_frames": row.n_frames,
        "fps": row.fps,
        **{name: getattr(row.nuisance, name) for name in ("noise", "head", "blink", "style")},
        "seed": row.seed,
    }


def _line_text(line: dict[str, Any], encode: Callable[[Any], str]) -> str:
    """A :func:`record` as JSON with its names in order, which a plan's hash is made of; ``encode`` sorts names."""
    rest = encode({name: value for name, value in line.items() if name not in _FIRST})
    cells = ", ".join(_number_texts(line["au_intensity"]))
    return f'{{"au": {write_string(line["au"])}, "au_intensity": [{cells}], {rest[1:]}'


_FIRST = ("au", "au_intensity")
assert (*_FIRST,) == tuple(sorted(SCHEMA.names)[:2])


def plan_row(line: dict[str, Any]) -> PlanRow:
    """The row of a line of ``plan.parquet``."""
    cells = line["au_intensity"]
    if len(cells) != 2 * N_AUS or None in cells:
        raise ValueError(f"{len(cells)} AU intensities, or a blank one; expected {2 * N_AUS}")
    return PlanRow(
        index=line["index"],
        face=line["face"],
        emotion=line["emotion"],
        intensity=tuple(zip(cells[::2], cells[1::2], strict=True)),
        au_source=line["au_source"],
        profile=Profile.parse(line["profile"]),
        n_frames=line["n_frames"],
        fps=line["fps"],
        nuisance=Nuisance(**{name: line[name] for name in ("noise", "head", "blink", "style")}),
        seed=line["seed"],
        au_seen=tuple(line["au_seen"]),
    )


def write_plan_folder(
    out: Path, rows: Iterable[PlanRow], faces: Sequence[PlanFace], design: dict[str, Any], info: dict[str, Any]
) -> StoredPlan:
    """Write a plan under a temporary name and rename the folder; an equal plan that is there already is left alone.

    ``info``: further entries of ``plan.json``; those named ``..._path`` are not part of the plan's hash.

    Raises:
        RunFolderError: ``out`` holds something else, or cannot be written.
    """
    out = Path(out)
    require_name(out)
    temporary = temporary_beside(out)
    try:
        temporary.mkdir(parents=True)
        digest, n = hashlib.sha256(), 0
        encode = json.JSONEncoder(sort_keys=True).encode
        with pq.ParquetWriter(temporary / ROWS_FILE, SCHEMA, compression="zstd", write_page_checksum=True) as writer:
            lines = (record(row, faces[row.face]) for row in rows)
            while part := list(islice(lines, _GROUP)):
                digest.update("".join(_line_text(line, encode) for line in part).encode())
                n += len(part)
                writer.write_table(pa.Table.from_pylist(part, schema=SCHEMA))
        people = [[*face.identity, list(face.seen)] for face in faces]
        plain = {name: value for name, value in info.items() if not name.endswith("_path")}
        digest.update(json.dumps({"faces": people, "design": design} | plain, sort_keys=True).encode())
        whole: dict[str, Any] = (
            {"rows": n, "hash": digest.hexdigest(), "code_version": __version__, digests.KEY: digests.LIST}
            | info
            | {"faces": people}
        )
        (temporary / DESIGN_FILE).write_text(yaml.safe_dump(design, sort_keys=False))
        (temporary / INFO_FILE).write_text(json.dumps(whole, indent=1) + "\n")
        digests.seal(temporary)
        try:
            if out.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(out))
            os.replace(temporary, out)
        except OSError as error:  # another process may have been first in this moment
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise
            _same_or_refuse(out, str(whole["hash"]))
    except OSError as error:
        raise RunFolderError(f"{out} cannot be written ({error.strerror}); choose another --out") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return StoredPlan.read(out)


def _same_or_refuse(out: Path, digest: str) -> None:
    try:
        same = StoredPlan.read(out).hash == digest
    except MesynthError:
        same = False
    if not same:
        raise RunFolderError(f"{out} exists and holds another plan or something else; choose another --out")


class StoredPlan(_Rows):
    """The rows of a plan folder, or some of them; what is sent to another process is the path and the range."""

    def __init__(self, folder: Path, info: dict[str, Any], part: range) -> None:
        self.folder, self.info, self._part = folder, info, part
        self._file: Any = None
        self._group: tuple[int, list[dict[str, Any]]] = (-1, [])

    @classmethod
    def read(cls, folder: Path | str) -> StoredPlan:
        """Raises ManifestError when the folder holds no plan, or a damaged one."""
        folder = Path(folder)
        try:
            info = json.loads((folder / INFO_FILE).read_text())
            stored = pq.ParquetFile(folder / ROWS_FILE)
            if stored.schema_arrow.remove_metadata() != SCHEMA or stored.metadata.num_rows != info["rows"]:
                raise ManifestError(f"{folder / ROWS_FILE} is not the plan that {INFO_FILE} describes; plan anew")
            people = [(*map(type, face), len(face)) for face in info["faces"]]
            if not isinstance(info["hash"], str) or any(p != (str, str, str, int, list, 5) for p in people):
                raise KeyError("faces")
            digests.check(folder, [INFO_FILE, ROWS_FILE, DESIGN_FILE], promised=info.get(digests.KEY) == digests.LIST)
        except FileNotFoundError:
            raise ManifestError(f"{folder} holds no plan; make one with `mesynth plan`") from None
        except ManifestError:
            raise
        except (
            pa.ArrowException,
            OSError,
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            RecursionError,
        ) as error:
            raise ManifestError(f"{folder} holds a damaged plan ({' '.join(str(error).split())}); plan anew") from None
        return cls(folder, info, range(info["rows"]))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None, "_group": (-1, []), "info": {"hash": self.hash}}

    @property
    def hash(self) -> str:
        """sha256 of the rows, the design and the faces."""
        return str(self.info["hash"])

    @property
    def size(self) -> int:
        """Crop width and height, pixels."""
        return int(self.info["size"])

    @property
    def faces(self) -> list[PlanFace]:
        """All faces, in the order that ``PlanRow.face`` counts."""
        return [PlanFace(d, s, sha, row, tuple(seen)) for d, s, sha, row, seen in self.info["faces"]]

    def find(self, faces: Path | None = None) -> list[FaceSource]:
        """The planned faces in ``faces``, or where they were when the plan was made.

        Raises:
            ManifestError: a planned face is not there, or is another picture now; or they have no pictures.
        """
        wanted = self.faces
        if any(face.database == VIRTUAL for face in wanted):
            raise ManifestError(f"the plan {self.folder} is of people without pictures; use --kind flow")
        folder = self.faces_folder(faces)
        here = {tuple(source.identity): source for source in find_faces(folder)}
        for face in wanted:
            if face.identity not in here:
                raise ManifestError(
                    f"{folder} does not hold the planned face {face.key} (or another picture of it); "
                    "give the folder it was planned from as --faces, or plan anew"
                )
        return [here[face.identity] for face in wanted]

    def faces_folder(self, faces: Path | None = None) -> Path:
        """Where the faces are: ``faces``, or where they were when the plan was made."""
        return faces or self.folder / str(self.info.get("faces_path", ""))

    def _of(self, part: range) -> StoredPlan:
        return StoredPlan(self.folder, self.info, part)

    def __iter__(self) -> Iterator[PlanRow]:
        for index in self._part:
            yield self._row(index)

    def _row(self, index: int) -> PlanRow:
        try:
            return plan_row(self._line(index))
        except MesynthError:
            raise
        except (pa.ArrowException, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            reason = first_line(error)
            raise ManifestError(f"row {index} of {self.folder / ROWS_FILE} is damaged ({reason}); plan anew") from None

    def _line(self, index: int) -> dict[str, Any]:
        group, place = divmod(index, _GROUP)
        if self._group[0] != group:
            if self._file is None:
                self._file = pq.ParquetFile(self.folder / ROWS_FILE, page_checksum_verification=True)
            self._group = (group, _lines(self._file.read_row_group(group)))
        line: dict[str, Any] = self._group[1][place]
        return line

    def tables(self) -> Iterator[pa.Table]:
        """All rows of the file as tables, one part at a time."""
        file = pq.ParquetFile(self.folder / ROWS_FILE)
        for group in range(file.num_row_groups):
            yield file.read_row_group(group)


def _lines(table: pa.Table) -> list[dict[str, Any]]:
    """``table.to_pylist()``; the intensities, which are most of it, in one go where each row has as many."""
    column = table["au_intensity"].combine_chunks()
    values = column.flatten()
    whole = not (column.null_count or values.null_count) and bool((np.diff(column.offsets) == 2 * N_AUS).all())
    cells = values.to_numpy().reshape(len(table), -1).tolist() if whole else column.to_pylist()
    lines: list[dict[str, Any]] = table.drop_columns(["au_intensity"]).to_pylist()
    for line, own in zip(lines, cells, strict=True):
        line["au_intensity"] = own
    return lines


# ---------------------------------------------------------------- what it will make


_BAR = 30
FLOW_SIZE = 28
_ONCE = 5_500  # landmarks, tar headers, and the rows of the manifest and the plan for a clip, bytes
_FACTORS = ("au_source", "profile_decay", "noise", "head", "blink", "style")


def frame_bytes(size: int, noise: float) -> float:
    """Expected bytes of a PNG frame of ``size`` pixels with sensor noise of ``noise`` grey levels.

    A fit to a photo and rendered heads at 96 to 256 px and noise 0 to 4, within a sixth of each: small crops hold more
    detail a pixel, and noise is what PNG cannot compress.
    """
    still = 1.4 + 46 / size
    return float(size**2 * (still + (2.4 - still) * (1 - np.exp(-noise / 3.5))))


@dataclass
class Summary:
    """Counts of a plan's rows; filled by :meth:`add`, a row at a time."""

    rows: int = 0
    frames: int = 0
    seconds: float = 0.0
    bytes: float = 0.0
    labels: Counter[str] = field(default_factory=Counter)
    emotions: Counter[str] = field(default_factory=Counter)
    faces: Counter[int] = field(default_factory=Counter)
    factors: dict[str, Counter[str]] = field(default_factory=lambda: {name: Counter() for name in _FACTORS})
    aus: Counter[int] = field(default_factory=Counter)
    sides: Counter[str] = field(default_factory=Counter)
    per_clip: Counter[int] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)
    intensity: np.ndarray = field(default_factory=lambda: np.zeros(101, np.int64))
    """Histogram over active (AU, side) cells, hundredths."""

    def add(self, row: PlanRow, face: PlanFace, size: int) -> None:
        """Count one row."""
        from mesynth.core.emotions import label

        cells = np.abs(np.array(row.intensity))
        active = cells > 0
        self.rows += 1
        self.frames += row.n_frames
        self.seconds += row.n_frames / row.fps
        self.bytes += row.n_frames * frame_bytes(size, row.nuisance.noise) + 9 * size**2 + _ONCE
        self.labels[label(row.emotion)] += 1
        self.emotions[row.emotion] += 1
        self.faces[row.face] += 1
        n = row.nuisance
        values = (row.au_source, row.profile.decay, *(f"{v:g}" for v in (n.noise, n.head, n.blink, n.style)))
        for name, value in zip(_FACTORS, values, strict=True):
            self.factors[name][value] += 1
        for code in (facs.AU_CODES[k] for k in np.flatnonzero(active.any(1))):
            self.aus[code] += 1
        one = {(True, False): "left", (False, True): "right"}.get((bool(active[:, 0].any()), bool(active[:, 1].any())))
        self.sides[one or ("uneven" if self._uneven(cells) else "both")] += 1
        self.per_clip[int(active.any(1).sum())] += 1
        self.seen.update({*face.seen, *row.au_seen})
        self.intensity += np.bincount(np.round(100 * cells[active]).astype(int), minlength=101)

    @staticmethod
    def _uneven(cells: np.ndarray) -> bool:
        """One side at less than half of the other."""
        strong, weak = sorted((cells[:, 0].max(), cells[:, 1].max()), reverse=True)
        return bool(weak < 0.5 * strong)

    def quantiles(self) -> tuple[float, float, float]:
        """5, 50 and 95 per cent of active intensities."""
        total = np.cumsum(self.intensity)
        low, middle, high = (float(np.searchsorted(total, share * total[-1])) / 100 for share in (0.05, 0.5, 0.95))
        return low, middle, high

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "rows": self.rows,
            "frames": self.frames,
            "expected_bytes": round(self.bytes),
            "expected_bytes_flow": self.flow_bytes,
            "classes": dict(sorted(self.labels.items())),
            "emotions": dict(self.emotions.most_common()),
            "faces": len(self.faces),
            "aus": {str(code): n for code, n in self.aus.most_common()},
            "aus_per_clip": {str(n): self.per_clip[n] for n in sorted(self.per_clip)},
            "sides": dict(self.sides.most_common()),
            "intensity": list(self.quantiles()),
            "sources": dict(self.factors["au_source"].most_common()),
            "subjects_seen": len(self.seen),
        }

    @property
    def flow_bytes(self) -> int:
        """Expected size of the rows as flow images of 28 px."""
        return round(self.rows * (8 * FLOW_SIZE**2 + _ONCE))

    def text(self) -> str:
        """For people."""
        faces = sorted(self.faces.values())
        spread = f"{faces[0]}" if faces[0] == faces[-1] else f"{faces[0]} to {faces[-1]}"
        low, middle, high = self.quantiles()
        minutes = self.seconds / 60
        subject, n_seen = self.seen.most_common(1)[0]
        lines = [
            f"{self.rows} rows on {len(faces)} faces ({spread} a face), {self.frames} frames: {minutes:.1f} minutes",
            f"classes    {_counts(self.labels)}",
            f"emotions   {_counts(self.emotions)}",
            *(f"{name.replace('_', ' '):<14} {_counts(c)}" for name, c in self.factors.items() if self._said(name, c)),
            f"sides      {_counts(self.sides)}",
            f"AUs a clip {', '.join(f'{n}: {self.per_clip[n]}' for n in sorted(self.per_clip))}",
            f"intensity  {low:.2f} / {middle:.2f} / {high:.2f} (5, 50, 95 %)",
            *self._histogram(),
            f"subjects seen: {len(self.seen)}; a fold without {subject} leaves out {n_seen} rows, the most of all",
            f"expected size: {_size(self.bytes)} with frames, {_size(self.flow_bytes)} as {FLOW_SIZE} px flow images",
        ]
        return "\n".join(lines)

    @staticmethod
    def _said(name: str, counts: Counter[str]) -> bool:
        return name == "au_source" or len(counts) > 1

    def _histogram(self) -> Iterable[str]:
        most = max(self.aus.values(), default=1)
        for code, n in sorted(self.aus.items()):
            bar = "#" * max(1, round(_BAR * n / most))
            yield f"  AU {code:<2} {facs.AU_NAMES[code]:<22} {n:>8} {bar}"


def summarise(rows: Iterable[PlanRow], faces: list[PlanFace], size: int) -> Summary:
    """Count ``rows``, one at a time."""
    summary = Summary()
    for row in rows:
        summary.add(row, faces[row.face], size)
    return summary


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{name or '(none)'} {n}" for name, n in counts.most_common())


def _size(n: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000 or unit == "GB":
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    raise AssertionError
