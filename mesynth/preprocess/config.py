"""What `prepare` does to a clip, step by step; every key of it changes the result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mesynth.core.errors import ConfigError

if TYPE_CHECKING:
    from mesynth.core.framing import Framing

CROP_SIZE = 128
MIN_SIZE, MAX_SIZE = 32, 4096
"""Pixels of a crop's side."""
MAX_FRAMES = 10_000
"""Of a clip that is resampled."""
CROPS = ("similarity", "piecewise")
STABILISERS = ("none", "ecc", "phase")
APEXES = ("annotated", "flow", "frequency", "difference")
GLOBAL_MODELS = ("none", "translation", "similarity", "affine")
MAGNIFIERS = ("eulerian", "phase", "lagrangian", "learned")
INTERPOLATIONS = ("tim", "linear", "flow", "nearest")
FLOWS = ("tvl1", "dis", "farneback", "raft")
INPUTS = ("difference", "dynamic", "active", "landmarks", "flows", "eyes", "mouth", "patches")
MAX_FACTOR = 100.0
STORED = "stored"
"""Landmarker name: use the landmarks that the input manifest already holds (generated and prepared corpora)."""


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """The steps of `prepare` in their order; the defaults align, crop and measure, and change nothing else."""

    size: int = CROP_SIZE
    """Side of the crops, pixels."""
    max_frames: int | None = None
    """Longer clips are thinned evenly, keeping onset, apex and offset; their fps falls accordingly."""
    face: str = "largest"
    """Of several faces on an onset "largest", or which, counted from 1 at image left; a warning says which it was."""
    crop: str = "similarity"
    """"similarity" keeps the face's shape; "piecewise" carries its landmarks onto a mean face. One per clip."""
    frame: str = ""
    """Where the face lies in the crop: "" is ours; "eyes=0.57,row=0.25" (:func:`mesynth.core.framing.parse_framing`).
    Other framings are for recognition by flow: generators learn in ours."""
    stabilise: str = "none"
    """Head motion that remains after the crop: measured on rigid regions and taken out by "ecc" or "phase"."""
    apex: str = "annotated"
    """Where no apex is annotated: the middle frame ("annotated"), or spotted by "flow", "frequency", "difference"."""
    early: float = 1.0
    """Below 1 a clip is the early part of its expression: it ends at the frame nearest to this share of the way from
    onset to apex, which counts as its apex from here on (flow, inputs). Macro-expressions then move less, nearer
    to micro-expressions. 1 leaves clips whole."""
    magnify: str = ""
    """"method:factor", for example "lagrangian:2"; methods eulerian, phase, lagrangian, learned."""
    resample: str = ""
    """"method:frames", for example "tim:10"; methods tim, linear, flow, nearest."""
    method: str = "tvl1"
    """Optical flow, onset to apex."""
    global_motion: str = "none"
    """Motion of the whole head taken out of the flow: "translation", "similarity" or "affine"."""
    inputs: tuple[str, ...] = ()
    """Further arrays to store, see :mod:`mesynth.preprocess.inputs`."""
    keep_frames: bool = True
    """False stores flow, landmarks and inputs alone."""
    store: str = "png"
    """How frames are stored: "png", or "video", lossless H.264 in RGB."""

    def __post_init__(self) -> None:
        if self.store != "png":
            from mesynth.store.shards import check_pictures

            check_pictures(self.store, "store")
            if not self.keep_frames:
                raise ConfigError(f"store={self.store} has no effect without frames; leave it out, or keep them")
        if not MIN_SIZE <= self.size <= MAX_SIZE:
            many = "small" if self.size < MIN_SIZE else "large"
            raise ConfigError(f"size={self.size} is too {many} for a face crop; choose {MIN_SIZE} to {MAX_SIZE}")
        if self.max_frames is not None and self.max_frames < 3:
            raise ConfigError(f"max_frames={self.max_frames} has no room for onset, apex and offset; choose at least 3")
        for name, choices in (
            ("crop", CROPS), ("stabilise", STABILISERS), ("apex", APEXES), ("global_motion", GLOBAL_MODELS),
        ):  # fmt: skip
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name} '{getattr(self, name)}' is unknown; choose from {', '.join(choices)}")
        if self.method not in FLOWS:
            raise ConfigError(f"flow method '{self.method}' is unknown; choose from {', '.join(FLOWS)}")
        for name in self.inputs:
            if name not in INPUTS:
                raise ConfigError(f"input '{name}' is unknown; choose from {', '.join(INPUTS)}")
        if len(set(self.inputs)) != len(self.inputs):
            raise ConfigError(f"inputs {', '.join(self.inputs)} name one array twice")
        if self.frame and self.crop != "similarity" and not self._own:
            raise ConfigError(
                f"frame '{self.frame}' needs crop 'similarity'; '{self.crop}' is our mean face in our crop"
            )
        if not 0 < self.early <= 1:
            raise ConfigError(
                f"early={self.early:g} is outside (0, 1]; 0.3 ends clips three tenths of the way from onset to apex, "
                "1 leaves them whole"
            )
        face_number(self.face)
        self.magnifier()
        self.resampler()

    @property
    def framing(self) -> Framing:
        """Of the crops. Raises ConfigError for what is none."""
        from mesynth.core.framing import OWN, parse_framing  # numpy; and --help reads this module

        return parse_framing(self.frame) if self.frame else OWN

    @property
    def _own(self) -> bool:
        from mesynth.core.framing import OWN

        return self.framing == OWN

    def magnifier(self) -> tuple[str, float] | None:
        """(method, factor), None for no magnification."""
        if not self.magnify:
            return None
        method, factor = _method_and_number("magnify", self.magnify, MAGNIFIERS, "phase:4")
        if not 1 < factor <= MAX_FACTOR:
            raise ConfigError(f"magnify factor {factor:g} is outside (1, {MAX_FACTOR:g}]")
        return method, factor

    def resampler(self) -> tuple[str, int] | None:
        """(method, number of frames), None for the clip's own frames."""
        if not self.resample:
            return None
        method, frames = _method_and_number("resample", self.resample, INTERPOLATIONS, "tim:10")
        if not 3 <= frames <= MAX_FRAMES or frames != int(frames):
            raise ConfigError(f"resample to {frames:g} frames: need a whole number of 3 to {MAX_FRAMES}")
        return method, int(frames)


LARGEST, ALL_FACES = "largest", "all"


def face_number(face: str, *, all_faces: bool = False) -> int:
    """0 for the largest face of a picture, -1 for all (where ``all_faces`` may be), else a number from 1 at image left.

    Raises:
        ConfigError: none of these.
    """
    if face == LARGEST or (all_faces and face == ALL_FACES):
        return 0 if face == LARGEST else -1
    if face.isascii() and face.isdigit() and 1 <= int(face) <= 999:
        return int(face)
    choices = f"{LARGEST}, {ALL_FACES}," if all_faces else f"{LARGEST}"
    raise ConfigError(f"face '{face}' is unknown; choose {choices} or a number from 1 at image left")


def _method_and_number(what: str, text: str, methods: tuple[str, ...], example: str) -> tuple[str, float]:
    method, _, number = text.partition(":")
    if method not in methods:
        raise ConfigError(f"{what} method '{method}' is unknown; choose from {', '.join(methods)}, as in {example}")
    try:
        return method, float(number)
    except ValueError:
        raise ConfigError(f"{what} '{text}' lacks a number; write for example {example}") from None
