"""What a form of export is: what it needs of a clip, how it writes a shard of clips, how it ends, how clips come back.

Here too: action units as a coder would write them, and frame numbers as a release would count them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mesynth.core import facs
from mesynth.core.emotions import CLASSES_3
from mesynth.core.errors import ConfigError
from mesynth.core.framing import (
    Framing,
    KnownFraming,
    covered,
    parse_framing,
    reframed_flow,
    reframed_picture,
    reframed_points,
)
from mesynth.corpus.previews import check_video
from mesynth.datasets.rendered import au_text
from mesynth.motion.framing import stated_framing
from mesynth.store.manifest import Manifest, Row
from mesynth.store.shards import (
    MASKS,
    known_framing,
    npy_array,
    npy_bytes,
    png_bytes,
    read_flow,
    read_frames,
    read_span,
)
from mesynth.store.stage import Produced


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
        return [members[name] for name in sorted(members) if name.endswith(".png")]

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
