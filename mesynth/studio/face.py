"""One face and what it is asked to show: what the picture is worth, the apex at once, the clip, and the command.

Every clip goes the way of ``mesynth generate``: the same choice of the face, the same crop, the same row of a plan, the
same worker. So the command that is shown makes the bytes that are shown.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import threading
from collections import OrderedDict
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mesynth.core import facs, seeds
from mesynth.core.emotions import PUBLISHED, AUSampling, sample_aus
from mesynth.core.errors import ConfigError, MesynthError, UnreadableImageError
from mesynth.core.profiles import MAX_DURATION_S, MIN_DURATION_S, Profile
from mesynth.core.types import AUVector
from mesynth.corpus.faces import FaceSource, choose_faces, prepare_faces
from mesynth.corpus.generate import GenerateWorker, Preview
from mesynth.corpus.generation import Generation
from mesynth.corpus.plan import Plan
from mesynth.corpus.previews import DIFFERENCE_GAIN, FLOW_SCALE, hatched
from mesynth.generators.registry import find_model
from mesynth.motion.onset import Onset
from mesynth.preprocess.config import LARGEST
from mesynth.preprocess.face_quality import FaceLimits, number_text
from mesynth.preprocess.flow import flow_picture
from mesynth.store.generator_folder import UNTRAINED, makes_frames, read_facts, saved_folder, shipped_models
from mesynth.store.run_folder import write_bytes

if TYPE_CHECKING:
    from mesynth.corpus.faces import Examination
    from mesynth.corpus.plan import PlanRow
    from mesynth.store.stage import Produced

MAX_UPLOAD = 64 << 20
"""Bytes of a picture that the page takes."""
LETTERS = facs.LETTER_INTENSITY
_WORDS = {
    "size": "face is large enough", "roll": "head is level", "yaw": "looks at the camera",
    "pitch": "neither looks up nor down", "outside": "face is whole", "eyes": "eyes are open",
    "mouth": "mouth is closed", "expression": "neutral", "visible": "nothing covers it",
}  # fmt: skip
_UNITS = {"size": " px", "roll": "°", "yaw": "°", "pitch": "°"}


# ---------------------------------------------------------------- pictures


def keep_photo(folder: Path, upload: Path | str, name: str = "") -> Path:
    """Copy an uploaded picture, byte for byte, to ``folder/photos`` under a name made of its content.

    What the picture was called gives its suffix at most: it never becomes a path.

    Raises:
        UnreadableImageError: it is missing, empty, or larger than :data:`MAX_UPLOAD`.
    """
    upload = Path(upload)
    shown = re.sub(r"[^\w. -]", "_", name or upload.name)[-60:]
    try:
        size = upload.stat().st_size
        data = upload.read_bytes() if size <= MAX_UPLOAD else b""
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UnreadableImageError(f"{shown} cannot be read ({reason}); drop it again") from None
    if size > MAX_UPLOAD:
        raise UnreadableImageError(f"{shown} has {size >> 20} MB, more than {MAX_UPLOAD >> 20}; make it smaller")
    if not data:
        raise UnreadableImageError(f"{shown} is empty; drop another picture")
    suffix = Path(name or upload.name).suffix.lower()
    suffix = suffix if re.fullmatch(r"\.[a-z0-9]{1,5}", suffix) else ""
    kept = folder / "photos" / f"{hashlib.sha256(data).hexdigest()[:16]}{suffix}"
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(kept, data)
    return kept


RENDERED, RENDER_SIZE = 6, 256


def rendered_faces(folder: Path) -> list[Path]:
    """Pictures of people that nobody is, rendered into ``folder/rendered`` on the first call."""
    from mesynth.api import render

    out = folder / "rendered"
    render(out, subjects=RENDERED, layout="faces", size=RENDER_SIZE)
    return sorted(out.glob("*.png"))


# ---------------------------------------------------------------- what a picture is worth


@dataclass(frozen=True)
class Check:
    """One thing that is measured on a face."""

    name: str
    words: str
    value: str
    limit: str
    kept: bool


@dataclass(frozen=True)
class Intake:
    """What a picture holds: how many faces, which one is taken, what it keeps, and whether it can be used."""

    photo: Path
    faces: int
    which: str
    usable: bool
    sentence: str
    checks: tuple[Check, ...]
    notes: tuple[str, ...]
    tiles: tuple[np.ndarray, ...]
    """A crop [144,144,3] uint8 of each face, from image left."""
    lowest: dict[int, tuple[float, float]]
    """How far below 0 the AUs of it may go that can be lowered, see :meth:`mesynth.motion.onset.Onset.lowest`."""


def intake(photo: Path, which: str = LARGEST, *, anyway: bool = False) -> Intake:
    """Look at a picture as ``mesynth generate --faces`` does.

    ``which``: "largest", or the face's number from 1 at image left; ``anyway``: keep no limit.

    Raises:
        UnreadableImageError: no picture, or one that cannot be read.
        NoFaceError: no face in it, or not so many. ConfigError: ``which`` is neither.
    """
    every = _all_faces(photo, *_state(photo))
    limits = FaceLimits()
    examined = every.entries
    chosen = _chosen(photo, which, _ALL_OFF)
    entry = next(e for e in chosen.entries if e.taken is not None)
    unfit = {u.measure: u for u in entry.measured.unfit(limits)}
    mild = {"mouth", "expression"}
    checks = tuple(
        Check(
            name,
            _WORDS[name],
            number_text(value) + _UNITS.get(name, ""),
            f"{getattr(limits, name):g}",
            name not in unfit,
        )
        for name, value in entry.measured.values.items()
    )
    bad = [u.text() for u in unfit.values() if u.measure not in mild]
    soft = [u.text() for u in unfit.values() if u.measure in mild]
    count = f"{len(examined)} faces; the {'largest' if which == LARGEST else f'one numbered {which}'} is taken. "
    count = count if len(examined) > 1 else ""
    if bad and not anyway:
        sentence = f"{count}Not usable as it is: {'; '.join(bad)}."
    elif bad:
        sentence = f"{count}Taken anyway, though: {'; '.join([*bad, *soft])}."
    elif soft:
        sentence = f"{count}Usable, though not neutral: {'; '.join(soft)}. Clips will show it throughout."
    else:
        sentence = f"{count}Good: neutral, frontal and whole."
    tiles = tuple(e.tile for e in examined if e.tile is not None)
    notes = tuple(note for note in entry.note.split("; ") if note and note not in bad + soft)
    assert entry.taken is not None
    assert entry.taken.landmarks is not None  # of a picture that was looked at
    lowest = Onset.of(entry.taken.landmarks).lowest()
    return Intake(photo, len(examined), which, not bad or anyway, sentence, checks, notes, tiles, lowest)


_ALL_OFF = ",".join(f"{f.name}=off" for f in fields(FaceLimits))


def _state(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise UnreadableImageError(f"{path} cannot be read ({error.strerror}); check the path") from None
    return found.st_size, found.st_mtime_ns


@lru_cache(maxsize=32)
def _all_faces(photo: Path, size: int, changed: int) -> Examination:
    return choose_faces(photo, face="all", limits=FaceLimits.parse(_ALL_OFF))


def _chosen(photo: Path, which: str, limits: str) -> Examination:
    return _chosen_of(photo, *_state(photo), which, limits)


@lru_cache(maxsize=32)
def _chosen_of(photo: Path, size: int, changed: int, which: str, limits: str) -> Examination:
    return choose_faces(photo, face=which, limits=FaceLimits.parse(limits) if limits else None)


# ---------------------------------------------------------------- what is asked for


@dataclass(frozen=True, kw_only=True)
class Wish:
    """Everything the Face tab says. Times are milliseconds on one line; the clip goes from onset to offset."""

    photo: Path
    aus: str
    """A request as ``--au`` takes it: "12=0.25,L4=0.1", "12=-0.2"."""
    which: str = LARGEST
    anyway: bool = False
    model: str = "motion-prior"
    size: int = 128
    onset: float = 0.0
    apex: float = 160.0
    hold: float = 0.0
    """How long the apex lasts."""
    offset: float = 320.0
    decay: str = "cosine"
    """How it fades: see :class:`mesynth.core.profiles.Profile`."""
    lag: float = 0.0
    """Standard deviation of AUs' own times, a share of the clip."""
    fps: float = 200.0
    noise: float = 0.0
    """Grey levels, on every frame but the onset."""
    head_motion: float = 0.0
    """1 is a seated recording's; of ``style`` 1 is usual, ``blink`` is a probability."""
    blink: float = 0.0
    style: float = 0.0
    seed: int = 0

    @property
    def duration(self) -> float:
        """Seconds from onset to offset. Raises MesynthError for what is no micro-expression."""
        seconds = round((self.offset - self.onset) / 1000, 4)
        if not MIN_DURATION_S <= seconds <= MAX_DURATION_S:
            raise MesynthError(
                f"from onset to offset are {1000 * seconds:g} ms, and a micro-expression takes "
                f"{1000 * MIN_DURATION_S:g} to {1000 * MAX_DURATION_S:g}; move one of them"
            )
        return seconds

    @property
    def profile(self) -> Profile:
        """The curve from onset to offset. Raises MesynthError where the apex is too near to one of them."""
        length = 1000 * self.duration
        share = round((self.apex - self.onset) / length, 4)
        if not 0.1 <= share <= 0.9:
            raise MesynthError(
                f"the apex at {self.apex:g} ms lies at {100 * share:.0f} % between onset {self.onset:g} and offset "
                f"{self.offset:g} ms; keep it between 10 and 90 %"
            )
        if not 0 <= self.hold <= length / 2:
            raise MesynthError(
                f"the apex is held for {self.hold:g} ms, and at most half of the clip's {length:g} ms are; "
                "hold it shorter"
            )
        return Profile(apex=share, hold=round(self.hold / length, 4), decay=self.decay, lag=round(self.lag / length, 4))

    def settings(self) -> dict[str, Any]:
        """What differs from the defaults of ``mesynth.generate``, in its names."""
        facs.reject_conflicts(facs.parse_request(self.aus))
        usual = Generation()
        given: dict[str, Any] = {
            "aus": self.aus, "model": self.model, "profile": self.profile.text(), "fps": float(self.fps),
            "duration": self.duration, "size": int(self.size), "noise": float(self.noise),
            "head_motion": float(self.head_motion), "blink": float(self.blink), "style": float(self.style),
            "face": self.which, "face_limits": _ALL_OFF if self.anyway else "", "seed": int(self.seed),
        }  # fmt: skip
        zero_by_default = {"head_motion": 0.0, "blink": 0.0, "style": 0.0, "size": 128, "model": "motion-prior"}
        default = {f.name: getattr(usual, f.name) for f in fields(usual)} | zero_by_default | {"duration": 0.32}
        return {name: value for name, value in given.items() if name == "aus" or value != default[name]}

    def generation(self) -> Generation:
        """As the command line and the library hold it. Raises MesynthError for what they refuse."""
        given = self.settings()
        seconds = given.pop("duration", 0.32)
        wanted = Generation(**given | {"faces": self.photo, "aus": (given["aus"],), "duration": (seconds, seconds)})
        wanted.check({*given} - {"aus"})
        return wanted

    def command(self, out: Path | str) -> str:
        """The line of a shell that makes it."""
        words = ["mesynth", "generate", "--faces", str(self.photo)]
        for name, value in self.settings().items():
            option = {"aus": "--au"}.get(name, "--" + name.replace("_", "-"))
            words += [option, f"{value:g}" if isinstance(value, float) else str(value)]
        return shlex.join([*words, "--out", str(out)])

    def python(self, out: Path | str) -> str:
        """The lines of Python that make it."""
        given = "".join(f"    {name}={value!r},\n" for name, value in self.settings().items())
        return f"import mesynth\n\nmesynth.generate(\n    {str(self.photo)!r},\n{given}    out={str(out)!r},\n)\n"


def preset(emotion: str, seed: int = 0) -> str:
    """Action units that go with an emotion, drawn from the published tables as ``--emotion`` draws them.

    >>> preset("surprise")
    '1=0.34,2=0.27,5=0.38'
    >>> preset("boredom")
    Traceback (most recent call last):
    mesynth.core.errors.ConfigError: emotion 'boredom' has no table; choose from happiness, ...
    """
    if emotion not in PUBLISHED:
        raise ConfigError(f"emotion '{emotion}' has no table; choose from {', '.join(PUBLISHED)}")
    drawn = sample_aus(emotion, seeds.stream(seed, "preset"), AUSampling(unilateral=0.0))
    both = drawn.intensity.mean(1, keepdims=True).round(2)
    return facs.format_vector(AUVector(np.repeat(both, 2, 1).astype(np.float32)))


def letter(intensity: float) -> str:
    """The FACS letter whose weight is nearest, with a minus for what is lowered; "" for none at all.

    >>> [letter(x) for x in (0, 0.05, 0.3, 0.6, 0.7, 1, -0.2)]
    ['', 'A', 'B', 'C', 'D', 'E', '-B']
    """
    if not intensity:
        return ""
    near = min(LETTERS, key=lambda name: abs(LETTERS[name] - abs(intensity)))
    return near if intensity > 0 else f"-{near}"


def models() -> list[tuple[str, str]]:
    """(what it is, name) of every generator that makes frames without being trained first."""
    shown = [("motion prior: no training", UNTRAINED[0]), *((name.replace("-", " "), name) for name in UNTRAINED[1:])]
    for name in shipped_models():
        family = read_facts(saved_folder(name)).name
        if makes_frames(family):
            shown.append((f"{name.replace('_', ' ')}: trained", name))
    return [(words, name) for words, name in shown if makes_frames(name) or name not in UNTRAINED]


def curve(wish: Wish) -> np.ndarray:
    """[N,2]: milliseconds, and the share of the apex's intensity there. Raises MesynthError as the wish does."""
    n = 121
    alpha = wish.profile.alpha(n)
    return np.stack([np.linspace(wish.onset, wish.offset, n), alpha], 1)


# ---------------------------------------------------------------- what is shown


@dataclass(frozen=True, eq=False)
class Shown:
    """Pictures of a wish, [H,W,3] uint8 RGB, and of a whole clip its frames [T,H,W,3]."""

    onset: np.ndarray
    apex: np.ndarray
    difference: np.ndarray
    flow: np.ndarray
    largest: float
    """Pixels that the fastest point has moved at the apex."""
    warnings: tuple[str, ...]
    frames: np.ndarray | None = None
    fps: float = 0.0
    apex_index: int = 0


_KEPT = 6


class FaceDesk:
    """Faces that were looked at and generators that were loaded, kept so that the next picture comes at once.

    ``folder``: where photos, crops and saved clips go. Calls may come from several threads; one works at a time.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._workers: OrderedDict[tuple[Any, ...], GenerateWorker] = OrderedDict()
        self._lock = threading.Lock()

    def apex(self, wish: Wish) -> Shown:
        """Onset, apex, flow and difference alone: a clip of three frames, so that the answer comes at once.

        Without noise and head motion these are the pictures of the clip; with them the clip's own apex differs, as its
        frames draw other noise.
        """
        row = self._row(wish)
        return self._made(wish, replace(row, n_frames=3, profile=replace(row.profile, apex=0.5, hold=0.0, lag=0.0)))

    def clip(self, wish: Wish) -> Shown:
        """All of it. Raises MesynthError as ``mesynth generate`` does."""
        return self._made(wish, self._row(wish), whole=True)

    def save(self, wish: Wish, name: str = "") -> Path:
        """Run what :meth:`Wish.command` says, into a new folder of ``folder/clips``; returns that folder."""
        from mesynth.api import generate

        out = self.out_of(wish, name)
        given = wish.settings()
        with self._lock:
            generate(wish.photo, out=out, **given)
        return out

    def out_of(self, wish: Wish, name: str = "") -> Path:
        """The folder a wish is saved to: one wish, one folder.

        Raises:
            ConfigError: a name that is no plain name.
        """
        if name and not re.fullmatch(r"[\w][\w. -]{0,60}", name):
            raise ConfigError(f"'{name[:60]}' is no name for a folder; take letters, digits, - and _")
        digest = hashlib.sha256(repr((wish.photo.name, wish.settings())).encode()).hexdigest()[:8]
        return self.folder / "clips" / (name or f"clip-{digest}")

    def _row(self, wish: Wish) -> PlanRow:
        row = Plan(wish.generation().config, 1)[0]
        model = find_model(wish.model)
        model.check_frames()
        model.check_request(row.aus)
        return row

    def _made(self, wish: Wish, row: PlanRow, whole: bool = False) -> Shown:
        with self._lock:
            made = self._worker(wish)(row)
        return shown(made, whole)

    def _worker(self, wish: Wish) -> GenerateWorker:
        key = (wish.photo, *_state(wish.photo), wish.which, wish.anyway, wish.size, wish.model)
        if key not in self._workers:
            limits = _ALL_OFF if wish.anyway else ""
            examination = _chosen(wish.photo, wish.which, limits)
            sources: list[FaceSource] = examination.taken
            name = hashlib.sha256(repr((key[1:-1], str(wish.photo), sources[0].sha256)).encode()).hexdigest()[:16]
            faces = self.folder / ".crops" / name
            prepare_faces(sources, faces, int(wish.size), examination=examination)
            self._workers[key] = GenerateWorker(find_model(wish.model), faces, int(wish.size), Preview(count=0))
            while len(self._workers) > _KEPT:
                self._workers.popitem(last=False)
        self._workers.move_to_end(key)
        return self._workers[key]


def shown(made: Produced, whole: bool = False) -> Shown:
    """The pictures of a clip."""
    assert made.frames is not None
    assert made.flow is not None
    row = made.row
    onset, apex = made.frames[0], made.frames[row.apex_index]
    return Shown(
        onset=onset,
        apex=apex,
        difference=difference(onset, apex),
        flow=flow_overlay(onset, made.flow, made.extra.get("still")),
        largest=float(np.hypot(*made.flow).max()),
        warnings=row.warnings,
        frames=made.frames if whole else None,
        fps=row.fps,
        apex_index=row.apex_index,
    )


def difference(onset: np.ndarray, apex: np.ndarray) -> np.ndarray:
    """[H,W,3] uint8: what became brighter or darker, four times as strong, around grey."""
    return np.clip(128 + DIFFERENCE_GAIN * (apex.astype(np.int16) - onset), 0, 255).astype(np.uint8)


def flow_overlay(onset: np.ndarray, flow: np.ndarray, still: np.ndarray | None = None) -> np.ndarray:
    """[H,W,3] uint8: the onset, grey, coloured where it moves, hatched where no expression can move it (``still``).

    The colour is the direction, its depth the way.

    The scale is the strongest motion of the clip, at least a tenth of what sheets show: a faint one is seen, too.
    """
    grey = onset.astype(np.float32).mean(-1, keepdims=True)
    grey = np.repeat(64 + 0.7 * grey, 3, -1)
    way = np.hypot(flow[0], flow[1])
    scale = max(float(way.max()), FLOW_SCALE / 10)
    share = np.clip(way / scale, 0, 1)[..., None] ** 0.7
    coloured = (1 - 0.8 * share) * grey + 0.8 * share * flow_picture(flow, scale)
    return hatched(np.clip(coloured, 0, 255).astype(np.uint8), still)
