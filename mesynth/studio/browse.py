"""A corpus to look through: what is in it, which clips are wanted, how one moves, where it comes from, what is like it.

Nothing is written but an export that was asked for. Frames are read when a clip is shown, a page of them at a time.
"""

from __future__ import annotations

import math
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mesynth.core import facs
from mesynth.core.errors import ConfigError, MesynthError
from mesynth.core.types import in_own_rms
from mesynth.corpus.exports.form import ExportSummary
from mesynth.corpus.exports.run import FORMS, export
from mesynth.corpus.filters import Checks, Limits
from mesynth.corpus.previews import video_bytes
from mesynth.metrics.base import ClipData
from mesynth.preprocess.flow import flow_picture
from mesynth.store.manifest import Manifest, Row, write_tables
from mesynth.store.run_folder import claim_folder, only_writer
from mesynth.store.shards import png_bytes, read_flow, read_flows, read_frames, read_mask
from mesynth.studio.face import difference, flow_overlay, letter

PER_PAGE = 12
ANY = "any"
_SIDE, _MOST_FRAMES, _SECONDS = 128, 40, 2.0
_COMPARED = 5_000
"""Clips among which the most alike is looked for."""
VERDICTS = (ANY, "no warning", "with a warning", "passes the checks", "fails a check", "not checked yet")
SELECTION = "corpus"
"""Among the forms of an export: a corpus of the marked clips, which points into the shards where they are."""
FORM_NAMES = (SELECTION, *FORMS)


@dataclass(frozen=True)
class Facets:
    """What there is to choose from, each with its number of clips, most first."""

    emotions: dict[str, int]
    aus: dict[str, int]
    subjects: dict[str, int]
    generators: dict[str, int]


@dataclass(frozen=True)
class Card:
    """A clip on a page."""

    index: int
    clip_id: str
    title: str
    line: str
    picture: bytes
    kind: str
    """"mp4" or "png"."""
    verdict: str


@dataclass(frozen=True)
class Neighbour:
    """The clip whose flow is most alike."""

    index: int
    """Its row in the corpus."""
    clip_id: str
    difference: float
    """Of the flows, relative to the larger; 0 is the same motion."""


@dataclass(frozen=True)
class ClipPage:
    """One clip: its pictures [H,W,3] uint8 where there are any, and what is known of it, in words."""

    row: Row
    index: int
    video: bytes | None
    onset: np.ndarray | None
    apex: np.ndarray | None
    difference: np.ndarray | None
    flow: np.ndarray | None
    facts: tuple[tuple[str, str], ...]
    provenance: tuple[tuple[str, str], ...]
    neighbour: Neighbour | None
    notes: tuple[str, ...]


class Library:
    """An open corpus or prepared database; safe to ask from several threads.

    Raises:
        ManifestError: the folder holds none (what lies near is named), or a damaged one.
    """

    def __init__(self, folder: Path | str) -> None:
        text = str(folder).strip()
        if not text:
            raise ConfigError("no folder is named; give one that prepare, render or generate wrote")
        self.manifest = Manifest.read(Path(text).expanduser())
        self.verdicts: dict[int, str] = {}
        self._lock = threading.RLock()
        self._thumbs: OrderedDict[int, tuple[bytes, str]] = OrderedDict()
        self._checks: Checks | None = None
        self._alike: Checks | None = None
        ids = self.manifest.column("clip_id")
        self._index = {str(name): i for i, name in enumerate(ids)}
        flat = self.manifest.table["au_present"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        self._present = (flat.reshape(len(ids), len(facs.AU_CODES), 2) == 1).any(2)
        self._subjects = self.manifest.subject_keys().astype(str)
        emotions, labels = self.manifest.column("emotion").astype(str), self.manifest.column("label").astype(str)
        self._emotions = np.where(emotions == "", labels, emotions)
        self._labels = labels
        makers = self.manifest.column("provenance.generator").astype(str)
        kinds = self.manifest.column("provenance.kind").astype(str)
        self._makers = np.where(makers == "", kinds, makers)
        warned = self.manifest.table["warnings"].combine_chunks()
        self._warned = np.diff(warned.offsets.to_numpy()) > 0 if len(ids) else np.zeros(0, bool)

    def __len__(self) -> int:
        return len(self.manifest)

    def summary(self) -> str:
        """One sentence on what is in it."""
        n = len(self)
        people = len(set(self._subjects))
        classes = ", ".join(f"{name} {count:,}" for name, count in Counter(filter(None, self._labels)).most_common())
        makers = ", ".join(f"{name} {count:,}" for name, count in Counter(self._makers).most_common(4))
        return f"{n:,} clips of {people:,} people ({makers})" + (f"; classes: {classes}." if classes else ".")

    def facets(self) -> Facets:
        """See :class:`Facets`."""

        def count(values: Iterable[str]) -> dict[str, int]:
            return dict(sorted(Counter(str(v) for v in values if v).items(), key=lambda pair: (-pair[1], pair[0])))

        present = self._present.sum(0)
        aus = {f"{code} {facs.AU_NAMES[code]}": int(n) for code, n in zip(facs.AU_CODES, present, strict=True) if n}
        words = [
            *self._emotions,
            *(label for label, emotion in zip(self._labels, self._emotions, strict=True) if label != emotion),
        ]
        return Facets(count(words), aus, count(self._subjects), count(self._makers))

    def select(
        self, *, emotion: str = ANY, au: str = ANY, subject: str = ANY, generator: str = ANY, verdict: str = ANY
    ) -> np.ndarray:
        """[K] numbers of the clips that all of these hold for, ascending; "any" holds for all.

        Raises:
            ConfigError: a verdict or an action unit that does not exist.
        """
        keep = np.ones(len(self), bool)
        if emotion not in (ANY, "", None):
            keep &= (self._emotions == emotion) | (self._labels == emotion)
        if au not in (ANY, "", None):
            code = au.split()[0]
            if not code.isdigit() or int(code) not in facs.AU_INDEX:
                raise ConfigError(f"action unit '{au}' is none of {', '.join(map(str, facs.AU_CODES))}")
            keep &= self._present[:, facs.AU_INDEX[int(code)]]
        if subject not in (ANY, "", None):
            keep &= self._subjects == subject
        if generator not in (ANY, "", None):
            keep &= self._makers == generator
        if verdict not in VERDICTS:
            raise ConfigError(f"verdict '{verdict}' is unknown; choose from {', '.join(VERDICTS)}")
        if verdict in ("no warning", "with a warning"):
            keep &= self._warned == (verdict == "with a warning")
        elif verdict != ANY:
            said = np.array([self.verdicts.get(i, "") for i in range(len(self))], dtype=object)
            checked = np.array([bool(text) for text in said], bool)
            passed = np.array([text == PASSES for text in said], bool)
            failed = np.array([bool(text) and text != PASSES and not text.startswith(_CANNOT) for text in said], bool)
            keep &= {"passes the checks": passed, "fails a check": failed}.get(verdict, ~checked)
        return np.flatnonzero(keep)

    def page(self, indices: Sequence[int] | np.ndarray, number: int = 1, per_page: int = PER_PAGE) -> list[Card]:
        """The cards of page ``number`` (from 1; beyond the last: the last), thumbnails made now."""
        pages = self.pages(indices, per_page)
        first = (min(max(number, 1), pages) - 1) * per_page
        return [self._card(int(i)) for i in indices[first : first + per_page]]

    @staticmethod
    def pages(indices: Sequence[int] | np.ndarray, per_page: int = PER_PAGE) -> int:
        """How many there are, at least 1."""
        return max(1, math.ceil(len(indices) / per_page))

    def _card(self, index: int) -> Card:
        row = self.manifest.row(index)
        picture, kind = self._thumb(index, row)
        title = self._emotions[index] or row.objective_class or "no class"
        return Card(index, row.clip_id, str(title), au_words(row), picture, kind, self.verdicts.get(index, ""))

    def _thumb(self, index: int, row: Row) -> tuple[bytes, str]:
        with self._lock:
            if index not in self._thumbs:
                self._thumbs[index] = self._made_thumb(row)
                while len(self._thumbs) > 20 * PER_PAGE:
                    self._thumbs.popitem(last=False)
            self._thumbs.move_to_end(index)
            return self._thumbs[index]

    def _made_thumb(self, row: Row) -> tuple[bytes, str]:
        try:
            if has_frames(row):
                return moving(read_frames(self.manifest.root, row), _SIDE), "mp4"
            return png_bytes(_enlarged(_flow_alone(read_flow(self.manifest.root, row)), _SIDE)), "png"
        except (MesynthError, OSError):  # one damaged clip is a grey card; its page says why
            return png_bytes(np.full((_SIDE, _SIDE, 3), 128, np.uint8)), "png"

    # ---------------------------------------------------------------- one clip

    def clip(self, index: int) -> ClipPage:
        """Everything about clip ``index``.

        Raises:
            ConfigError: there is no such clip.
        """
        if not 0 <= index < len(self):
            raise ConfigError(f"there is no clip {index}; the corpus has {len(self)}, counted from 0")
        row = self.manifest.row(index)
        frames = flow = None
        notes = list(row.warnings)
        try:
            frames = read_frames(self.manifest.root, row) if has_frames(row) else None
            flow = read_flow(self.manifest.root, row) if row.flow else None
        except MesynthError as error:
            notes.append(str(error))
        onset = None if frames is None else frames[0]
        apex = None if frames is None else frames[min(row.apex_index, len(frames) - 1)]
        overlay = None
        if flow is not None:
            fits = onset is not None and onset.shape[:2] == flow.shape[1:]
            if fits and onset is not None:
                overlay = flow_overlay(onset, flow, read_mask(self.manifest.root, row, "still"))
            else:
                overlay = _enlarged(_flow_alone(flow), _SIDE)
        neighbour = None
        if flow is not None and len(self) > 1:
            neighbour = self.neighbour(index)
        elif flow is None:
            notes.append("no flow, so nothing to compare it by; `mesynth prepare corpus` estimates it")
        return ClipPage(
            row,
            index,
            None if frames is None else moving(frames, 2 * _SIDE),
            onset,
            apex,
            None if onset is None or apex is None else difference(onset, apex),
            overlay,
            _facts(row, frames, flow, self.verdicts.get(index, "")),
            _provenance(row),
            neighbour,
            tuple(dict.fromkeys(notes)),
        )

    def neighbour(self, index: int) -> Neighbour | None:
        """The clip whose flow is most alike, among the first 5,000; None where nothing moves.

        The measure is that of the filter's check for duplicates: 0 for the same motion, 1 and more for another.
        """
        with self._lock:
            if self._alike is None:
                self._alike = Checks(Limits())
                part = self.manifest[:_COMPARED]
                with_flow = part.filter(np.array([row.flow is not None for row in part], bool))
                for row, flow in zip(with_flow, read_flows(with_flow), strict=True):
                    self._alike.keep(row.clip_id, flow)
            row = self.manifest.row(index)
            apart, other = self._alike.nearest(read_flow(self.manifest.root, row), other_than=row.clip_id)
        return Neighbour(self._index[other], other, apart) if other else None

    # ---------------------------------------------------------------- verdicts

    def check(
        self, indices: Sequence[int] | np.ndarray, progress: Callable[[int, int], object] | None = None
    ) -> dict[int, str]:
        """Run the checks of ``mesynth filter`` on these clips, at their usual limits; number -> what is said.

        Each clip by itself: whether two are duplicates depends on all, which ``mesynth filter`` looks at.
        """
        with self._lock:
            if self._checks is None:
                self._checks = Checks(Limits(duplicate=None))
            out = {}
            for done, index in enumerate(map(int, indices)):
                if index not in self.verdicts:
                    self.verdicts[index] = self._checked(self.manifest.row(index))
                out[index] = self.verdicts[index]
                if progress is not None:
                    progress(done + 1, len(indices))
            return out

    def _checked(self, row: Row) -> str:
        assert self._checks is not None
        try:
            if not has_frames(row):
                return f"{_CANNOT}: no frames"
            failed = self._checks.failed(self._checks.measure(ClipData("synthetic", row, self.manifest.root)))
        except MesynthError as error:
            return f"{_CANNOT}: {error}"
        return "; ".join(f"{name} {value:.3g}, limit {limit:g}" for name, value, limit, _ in failed) or PASSES

    # ---------------------------------------------------------------- hand on

    def export(self, indices: Iterable[int], form: str, out: Path | str) -> str:
        """Write the clips of these numbers into the new folder ``out``; returns one sentence.

        Raises:
            ConfigError: no clip is marked, no folder named, or an unknown form.
            RunFolderError: ``out`` holds something else, or cannot be written.
            MesynthError: the form can take none of them.
        """
        keep = np.zeros(len(self), bool)
        chosen = sorted(set(map(int, indices)))
        if not chosen:
            raise ConfigError("no clip is marked; mark some with the box on their card, or mark all that are shown")
        if chosen[0] < 0 or chosen[-1] >= len(self):
            raise ConfigError(f"clip {chosen[-1]} is not in this corpus of {len(self)}")
        if not str(out).strip():
            raise ConfigError("no folder is named to write into")
        keep[chosen] = True
        out = Path(str(out).strip()).expanduser()
        part = self.manifest.filter(keep)
        if form != SELECTION:
            account: ExportSummary = export(part, form, out)
            left = f", {account.left_out} left out (left_out.csv says why)" if account.left_out else ""
            return f"{account.clips} clips written to {out} as {form}{left}."
        claim_folder(out, {"selection": self.manifest.hash(), "clips": [r.clip_id for r in part]})
        with only_writer(out):
            joined = Manifest.join([part], out)
            write_tables(out, lambda: [joined.table], joined.meta, finishes=())
        return f"{len(part)} clips written to {out}: a corpus that points to {self.manifest.root}."


PASSES, _CANNOT = "passes", "cannot be checked"


def au_words(row: Row) -> str:
    """The action units as a coder writes them: ``L1D+12C``, ``12`` where no intensity is known.

    Intensities are told by the nearest FACS letter.
    """
    vector = row.aus
    terms = []
    for k, code in enumerate(facs.AU_CODES):
        present = [row.au_present[2 * k + side] == 1 for side in (0, 1)]
        if not any(present):
            continue
        left, right = (
            letter(float(vector.intensity[k, side])) if vector.mask[k, side] and present[side] else ""
            for side in (0, 1)
        )
        if all(present) and left == right:
            terms.append(f"{code}{left}")
        else:
            terms += [f"{side}{code}{text}" for side, text, on in zip("LR", (left, right), present, strict=True) if on]
    return "+".join(terms) or row.au_text or "action units not coded"


def has_frames(row: Row) -> bool:
    """Whether a clip is more than its flow."""
    return row.frames is not None or bool(row.frame_files)


def moving(frames: np.ndarray, side: int) -> bytes:
    """Frames [T,H,W,3] as an MP4 at most ``side`` pixels wide that takes two seconds, whatever the clip took."""
    if len(frames) > _MOST_FRAMES:
        frames = frames[np.linspace(0, len(frames) - 1, _MOST_FRAMES).round().astype(int)]
    small = np.stack([_enlarged(frame, side) for frame in frames])
    return video_bytes(small, "mp4", max(len(frames) / _SECONDS, 1.0))


def _enlarged(picture: np.ndarray, side: int) -> np.ndarray:
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    size = max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2)
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR if scale < 3 else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(picture, size, interpolation=how))


def _flow_alone(flow: np.ndarray) -> np.ndarray:
    return flow_picture(flow, max(float(np.hypot(*flow).max()), 0.1))


def _facts(row: Row, frames: np.ndarray | None, flow: np.ndarray | None, verdict: str) -> tuple[tuple[str, str], ...]:
    out = [
        ("person", row.subject_key),
        ("emotion", row.emotion or "not stated"),
        ("class", row.label or "none of the composite's three"),
        ("action units", au_words(row) + (f" ({row.au_text})" if "=" in row.au_text else "")),
    ]
    if frames is not None and row.fps > 0:
        length = 1000 * (row.n_frames - 1) / row.fps
        apex = 1000 * row.apex_index / row.fps
        out += [
            ("length", f"{row.n_frames} frames, {length:.0f} ms at {row.fps:g} a second"),
            ("apex", f"frame {row.apex_index}, {apex:.0f} ms after the onset"),
            ("frame size", f"{frames.shape[2]} x {frames.shape[1]} px"),
        ]
        change = np.abs(frames[min(row.apex_index, len(frames) - 1)].astype(np.int16) - frames[0]).mean()
        out.append(("change at the apex", f"{change:.2f} grey levels on average"))
    if flow is not None:
        way = np.hypot(*flow)
        if in_own_rms(flow):
            out.append(("motion", "flow without a unit, as published images have it"))
        else:
            out.append(("motion", f"at most {way.max():.2f} px, {way.mean():.2f} on average"))
    if verdict:
        out.append(("checks", verdict))
    return tuple(out)


def _provenance(row: Row) -> tuple[tuple[str, str], ...]:
    p = row.provenance
    seen = list(p.subjects_seen)
    shown = ", ".join(seen[:6]) + (f" and {len(seen) - 6} more" if len(seen) > 6 else "")
    pairs: list[tuple[str, Any]] = [
        ("kind", p.kind), ("generator", p.generator), ("people seen", shown), ("licence", p.licence),
        ("asked for", p.aus_asked), ("action units from", p.aus_source), ("profile", p.profile),
        ("seed", p.seed if p.seed >= 0 else ""), ("row of the plan", p.plan_row if p.plan_row >= 0 else ""),
        ("weights", p.weights_sha256[:16]), ("made from", ", ".join(parent[:16] for parent in p.parents)),
        ("written by", f"mesynth {p.code_version}" if p.code_version else ""), ("clip", row.clip_id),
    ]  # fmt: skip
    return tuple((name, str(value)) for name, value in pairs if value != "")
