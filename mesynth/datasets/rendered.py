"""Rendered people written to disk: neutral faces, clips in the layout of the CASME II release, and long videos.

Neutral faces are there to generate on: they belong to no subject of any database. On the rendered release every later
step runs as on the real thing. It is read back by :func:`mesynth.datasets.casme2.load_casme2`; beside the workbook it
holds ``mesynth-rendered.json`` with what made it and the exact action units of every clip.
"""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

import mesynth
from mesynth import __version__
from mesynth.core import facs
from mesynth.core.emotions import CASME2_SHARES, CLASS_OF, AUSampling, sample_aus
from mesynth.core.errors import MesynthError
from mesynth.core.process import counted
from mesynth.core.profiles import MAX_DURATION_S, draw_profile, frame_count
from mesynth.core.seeds import derived, stream
from mesynth.core.types import AUVector
from mesynth.datasets.casme2 import RENDERED_FILE, load_casme2
from mesynth.store import digests
from mesynth.store.cluster import do_once, writer
from mesynth.store.long_videos import MACRO_S, VIDEOS, LongVideo, LongVideos, Marked
from mesynth.store.manifest import Manifest, Provenance, Row
from mesynth.store.run_folder import claim_folder, write_bytes, write_last, write_listed
from mesynth.store.shards import npy_bytes, png_bytes
from mesynth.store.stage import Produced, Progress, run_stage
from mesynth.store.videos import encoded

if TYPE_CHECKING:
    from mesynth.head import Subject


CARD = "mesynth-faces.json"


MIN_SIZE = 64
MAX_SUBJECTS = 10_000


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """How many people are rendered, and how; raises MesynthError for what is out of range."""

    subjects: int = 12
    clips_per_subject: int = 8
    size: int = 192
    """Side of the frames, pixels."""
    fps: float = 60.0
    seed: int = 0
    macro: bool = False
    """Macro-expressions: half a second to four, intensities drawn from 0.6 to 1 (micro: 0.12 to 0.6) and, as all are,
    cut at FACS D and damped where AUs work together. The same seed has the same people."""

    def __post_init__(self) -> None:
        if not 1 <= self.subjects <= MAX_SUBJECTS:
            raise MesynthError(f"subjects={self.subjects} is outside 1..{MAX_SUBJECTS}")
        if not 1 <= self.clips_per_subject <= 99:  # a clip's random numbers are of its number, a hundred a subject
            raise MesynthError(f"clips={self.clips_per_subject} a subject are outside 1..99; render more subjects")
        if self.size < MIN_SIZE:
            raise MesynthError(f"size={self.size} is too small to show an expression; choose at least {MIN_SIZE}")
        if not 25 <= self.fps <= 1000:
            raise MesynthError(f"fps={self.fps:g} is outside 25..1000")
        if self.seed < 0:
            raise MesynthError(f"seed={self.seed} must not be negative")


def render_faces(
    out: Path | str, *, subjects: int = 24, size: int = 192, seed: int = 0, progress: Progress | None = None
) -> Path:
    """Write one neutral frontal face a person, ``personNNNNNNNNNN.png`` by identity seed, and a card.

    Returns ``out``.

    Identities come from a stream of their own (``derived(seed, "rendered-face", i)``), so they are not the
    people of :func:`mesynth.datasets.rendered.render_casme2` with the same seed.

    Raises:
        MesynthError: an argument out of range. RunFolderError: ``out`` holds something else.
    """
    from mesynth.head import Subject

    out = Path(out)
    Rendering(subjects=subjects, size=size, seed=seed)  # checks them
    claim_folder(out, {"stage": "render", "layout": "faces", "subjects": subjects, "size": size, "seed": seed})
    neutral = np.zeros((1, len(facs.AU_CODES), 2), np.float32)
    people = []
    with writer(out):
        if not do_once(out, "faces", (out / CARD).is_file):
            return out
        for i in counted(range(1, subjects + 1), subjects, progress):
            identity = derived(seed, "rendered-face", i)
            file = out / f"person{identity:010d}.png"  # a name that no other person has, in any folder
            people.append({"file": file.name, "identity_seed": identity})
            if not file.is_file():
                subject = Subject(identity, size=size, frontal=True)
                write_bytes(file, png_bytes(subject.render(neutral, noise_seed=identity)[0]))
        card = {"kind": "rendered", "licence": LICENCE, "version": __version__, "seed": seed, "people": people}
        write_last(out / CARD, (json.dumps(card, indent=1) + "\n").encode())
    return out


class FaceCard(NamedTuple):
    """Which pictures of a folder :func:`render_faces` wrote, and what they are; others beside them are not its."""

    kind: str = ""
    licence: str = ""
    files: frozenset[str] = frozenset()


def read_card(folder: Path) -> FaceCard:
    """The card of a folder of faces; one that names no file if the folder has none."""
    file = folder / CARD
    digests.check(folder, [CARD], partly=not file.is_file())  # pictures whose card was removed are no photos
    if not file.is_file():
        return FaceCard()
    try:
        card = json.loads(file.read_text())
        files = frozenset(str(person["file"]) for person in card["people"])
        return FaceCard(str(card["kind"]), str(card["licence"]), files)
    except (ValueError, KeyError, TypeError):
        raise MesynthError(f"{file} is damaged; render the faces again") from None


# ---------------------------------------------------------------- rendered


LICENCE = "CC0-1.0 (rendered from the MakeHuman-derived head)"
WORKBOOK = "CASME2-coding-20140508.xlsx"
FRAMES = "CASME2_RAW_selected"
PROFILE = "casme2"

_JPEG_QUALITY = 95
_OTHERS = 0.125  # share of clips outside the composite's three classes (0.39 in CASME II, where it is the rest class)
_ONE_SIDED = 0.4  # a coder writes L or R where the weaker side has less than this share of the stronger
_DURATION = (0.335, 0.09, 0.15)  # mean, standard deviation and minimum, s; CASME II: mean 67 frames at 200 fps
_MACRO_DURATION = (1.2, 0.5, 0.55, 4.0)  # mean, standard deviation, minimum and maximum, s (Ekman: 0.5 to 4 s)
_MACRO_AUS = AUSampling(intensity_min=0.6, intensity_max=1.0)
_MARGIN = (3, 8)  # frames before the onset and after the offset


@dataclass(frozen=True)
class _Job:
    """One clip to render."""

    subject: int
    clip: int
    emotion: str


def render_casme2(
    out: Path | str, wanted: Rendering = Rendering(), *, workers: int = 1, progress: Progress | None = None
) -> Manifest:
    """Render a small database of synthetic people into ``out``; the same command again resumes.

    ``workers``: processes, 0 for one per core. The files depend on what is ``wanted`` alone, bit for bit, whatever the
    number of processes. Each subject has clips of all three composite classes where it has at least three clips.

    Raises:
        RunFolderError: ``out`` holds something else.
    """
    out = Path(out)
    subjects, seed, fps = wanted.subjects, wanted.seed, float(wanted.fps)
    config = {"stage": "render", "layout": "casme2"} | asdict(wanted) | {"fps": fps, "version": mesynth.__version__}
    config = config if wanted.macro else {key: value for key, value in config.items() if key != "macro"}
    jobs = [
        _Job(s, c, emotion)
        for s in range(1, subjects + 1)
        for c, emotion in enumerate(draw_emotions(wanted.clips_per_subject, stream(seed, "rendered-emotions", s)))
    ]
    claim_folder(out, config)
    with writer(out):
        made = run_stage(
            out,
            jobs,
            _Renderer(wanted.size, fps, seed, wanted.macro),
            config=config,
            workers=workers,
            shard_clips=wanted.clips_per_subject,  # one subject per process: building a face costs as much as a clip
            progress=progress,
            held=True,
        )
        # The workbook last: a folder without it is no database yet.
        if do_once(out, "workbook", (out / WORKBOOK).is_file):
            write_listed(out, {RENDERED_FILE: _truth(made, seed, fps), WORKBOOK: _workbook(made)})
    return load_casme2(out)


def draw_emotions(n: int, rng: np.random.Generator) -> list[str]:
    """Emotions of one subject's clips: one per composite class first, the rest in CASME II's shares."""
    names, shares = list(CASME2_SHARES), np.array(list(CASME2_SHARES.values()))
    negative = shares * [CLASS_OF[name] == "negative" for name in names]
    emotions = ["happiness", "surprise", str(rng.choice(names, p=negative / negative.sum()))][:n]
    for _ in range(n - len(emotions)):
        emotions.append("others" if rng.random() < _OTHERS else str(rng.choice(names, p=shares)))
    return [emotions[i] for i in rng.permutation(n)]


def au_text(vector: AUVector) -> str:
    """What a CASME II coder would write: ``4+7``, ``L12``; a side where the other is much weaker, no letters."""
    terms = []
    for code, (left, right) in zip(facs.AU_CODES, vector.intensity, strict=True):
        if max(left, right) > 0:
            one_sided = min(left, right) < _ONE_SIDED * max(left, right) and code not in facs.MIDLINE
            terms.append((("L" if left > right else "R") if one_sided else "") + str(code))
    return "+".join(terms)


# ---------------------------------------------------------------- one clip


@lru_cache(maxsize=1)
def _subject(seed: int, size: int) -> Subject:
    from mesynth.head import Subject

    return Subject(seed, size=size, supersample=2)


@dataclass(frozen=True)
class _Renderer:
    size: int
    fps: float
    seed: int
    macro: bool = False

    def __call__(self, job: _Job) -> Produced:
        from mesynth.head import blink, head_motion

        index = job.subject * 100 + job.clip
        rng = stream(self.seed, "rendered-macro" if self.macro else "rendered-clip", index)
        aus = sample_aus(job.emotion, rng, _MACRO_AUS if self.macro else AUSampling())
        profile = draw_profile(PROFILE, rng)
        mean, sd, least, most = _MACRO_DURATION if self.macro else (*_DURATION, MAX_DURATION_S)
        seconds = float(np.clip(rng.normal(mean, sd), least, most))
        n = max(round(seconds * self.fps) + 1, 3) if self.macro else frame_count(seconds, self.fps)
        before, after = (int(v) for v in rng.integers(_MARGIN[0], _MARGIN[1] + 1, 2))
        start = int(rng.integers(1, 400))
        total = before + n + after

        curve = profile.alpha(n, profile.draw_lags(len(facs.AU_CODES), rng))  # [T,K]
        au = np.zeros((total, len(facs.AU_CODES), 2), np.float32)
        au[before : before + n] = curve[:, :, None] * aus.intensity
        closure = blink(total, rng, self.fps)
        au[:, facs.AU_INDEX[45]] = closure[:, None]
        pose = head_motion(total, rng, fps=self.fps)

        subject = _subject(derived(self.seed, "rendered-subject", job.subject), self.size)
        frames = subject.render(au, pose, noise_seed=derived(self.seed, "rendered-noise", index))
        who, clip = f"sub{job.subject:02d}", f"{'MA' if self.macro else 'EP'}{job.clip + 1:02d}_{1 + index % 7:02d}f"
        names = [f"{FRAMES}/{who}/{clip}/img{start + i}.jpg" for i in range(total)]
        inside = slice(before, before + n)
        database = f"rendered-{self.seed}"
        onset, text = start + before, au_text(aus)
        blinks = bool(closure[inside].max() > 0.2)
        row = Row(
            clip_id=f"{database}/{who}/{clip}/{onset}",
            database=database,
            subject=who,
            clip=clip,
            onset=onset,
            apex=onset + profile.apex_index(n),
            offset=onset + n - 1,
            fps=self.fps,
            n_frames=n,
            apex_index=profile.apex_index(n),
            height=self.size,
            width=self.size,
            emotion=job.emotion,
            expression="macro" if self.macro else "micro",
            label=CLASS_OF.get(job.emotion, ""),
            objective_class=facs.objective_class(facs.parse_annotation(text).codes),
            au_text=text,
            frame_files=tuple(names[inside]),
            warnings=("the subject blinks during the clip",) if blinks else (),
            provenance=Provenance(
                kind="rendered",
                database=database,
                subject=who,
                licence=LICENCE,
                subjects_seen=(f"{database}/{who}",),
                generator="mesynth.head",
                seed=subject.seed,
                aus_asked=facs.format_vector(aus),
                aus_source=AUSampling().source,
                profile=PROFILE,
            ),
            **Row.au_columns(aus),
        )
        return Produced(row, files={name: _jpeg(frame) for name, frame in zip(names, frames, strict=True)})


def _jpeg(rgb: np.ndarray) -> bytes:
    return encoded(rgb, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])


# ---------------------------------------------------------------- annotation files


def _truth(manifest: Manifest, seed: int, fps: float) -> bytes:
    clips = {}
    for row in manifest:
        source = asdict(row.provenance)
        more = {"expression": row.expression} if row.expression != "micro" else {}
        clips[f"{row.subject}/{row.clip}"] = {
            "au_intensity": list(row.au_intensity),
            "seed": source["seed"],
            "aus": source["aus_asked"],
            "aus_source": source["aus_source"],
            "profile": source["profile"],
            "warnings": list(row.warnings),
        } | more
    record = {
        "kind": "rendered", "database": f"rendered-{seed}", "seed": seed, "fps": fps, "licence": LICENCE,
        "version": mesynth.__version__, "clips": clips,
    }  # fmt: skip
    return json.dumps(record, indent=1).encode()


def _workbook(manifest: Manifest) -> bytes:
    """The coding workbook with the release's quirks: nameless blank columns, empty further sheets, int AUs."""
    from openpyxl import Workbook

    book = Workbook()
    sheet = book.active
    assert sheet is not None
    sheet.title = "Sheet1"
    sheet.append(
        ["Subject", "Filename", None, "OnsetFrame", "ApexFrame", "OffsetFrame", None, "Action Units",
         "Estimated Emotion"]
    )  # fmt: skip
    for row in manifest:
        aus = int(row.au_text) if row.au_text.isdecimal() else row.au_text
        subject = row.subject.removeprefix("sub")
        sheet.append([subject, row.clip, None, row.onset, row.apex, row.offset, None, aus, row.emotion])
    book.create_sheet("Sheet2")
    book.create_sheet("Sheet3")
    buffer = io.BytesIO()
    book.save(buffer)
    return without_dates(buffer.getvalue(), b"2014-05-08T00:00:00Z")


def without_dates(xlsx: bytes, written: bytes) -> bytes:
    """The same workbook with ``written`` as the time of writing, so that equal content is equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(xlsx)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "docProps/core.xml":
                data = re.sub(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", written, data)
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            new.writestr(info, data)
    return buffer.getvalue()


# ---------------------------------------------------------------- long videos


LONG_LANDMARKS = "landmarks.npz"
LONG_FRAMES, LONG_POINTS = "videos", "landmarks"
_MACRO = (1.2, 0.5, 0.6, 3.0)  # mean, standard deviation, least and most of a macro-expression, s
_MACRO_STRENGTH = (0.5, 1.0)  # of the strongest AU
_GAP = 0.8  # least seconds of a neutral face between two expressions, and at either end


@dataclass(frozen=True, kw_only=True)
class LongRendering:
    """Long videos to render; raises MesynthError for what is out of range."""

    subjects: int = 6
    videos_per_subject: int = 2
    seconds: tuple[float, float] = (10.0, 60.0)
    """A video's length is drawn between them."""
    rate: float = 10.0
    """Expressions a minute, at least one of either kind a video."""
    macro: float = 0.5
    """Share of macro-expressions."""
    size: int = 192
    fps: float = 30.0
    seed: int = 0

    def __post_init__(self) -> None:
        Rendering(
            subjects=self.subjects, clips_per_subject=self.videos_per_subject, size=self.size, fps=self.fps,
            seed=self.seed,
        )  # fmt: skip
        low, high = self.seconds
        if not 5 <= low <= high <= 600:
            raise MesynthError(f"seconds={low:g}:{high:g} of a long video are outside 5:600; 10:60 is usual")
        if not 1 <= self.rate <= 20:
            raise MesynthError(f"rate={self.rate:g} expressions a minute is outside 1..20; they must not touch")
        if not 0 <= self.macro <= 1:
            raise MesynthError(f"macro={self.macro:g} is no share of the expressions; give 0 to 1")


@dataclass(frozen=True)
class _Stretch:
    """The frames ``first`` to ``last`` of a video, with its ``number``-th expression in them."""

    subject: int
    video: int
    number: int
    first: int
    last: int


@dataclass(frozen=True, eq=False)
class _Event:
    onset: int
    apex: int
    offset: int
    emotion: str
    expression: str
    aus: AUVector
    curve: np.ndarray
    """[n,K]"""


@dataclass(frozen=True, eq=False)
class _Script:
    """What happens in a video: AUs [T,K,2], head pose [T,6], eyelid closure [T], and the expressions in order."""

    au: np.ndarray
    pose: np.ndarray
    closure: np.ndarray
    events: tuple[_Event, ...]

    def stretches(self, subject: int, video: int) -> list[_Stretch]:
        """The video cut midway between its expressions, so that each part holds one."""
        cuts = [0, *((a.offset + b.onset) // 2 for a, b in pairwise(self.events)), len(self.au)]
        return [_Stretch(subject, video, i, a, b - 1) for i, (a, b) in enumerate(pairwise(cuts))]


@lru_cache(maxsize=2)
def _script(wanted: LongRendering, subject: int, video: int) -> _Script:
    from mesynth.head import blink, head_motion

    rng = stream(wanted.seed, "rendered-long", subject * 100 + video)
    fps = wanted.fps
    total = round(rng.uniform(*wanted.seconds) * fps)
    most = int((total / fps - _GAP) / (_MACRO[3] + _GAP))  # so many fit, however long they are
    count = int(np.clip(round(wanted.rate * total / fps / 60), min(2, most), most))
    kinds = ["macro", "micro"] if 0 < wanted.macro < 1 and count > 1 else []
    kinds += ["macro" if rng.random() < wanted.macro else "micro" for _ in range(count - len(kinds))]
    kinds = [kinds[i] for i in rng.permutation(count)]
    drawn = [_event(kind, rng, fps) for kind in kinds]
    room = total - sum(len(event.curve) for event in drawn) - (count + 1) * round(_GAP * fps)
    gaps = rng.multinomial(max(room, 0), rng.dirichlet(np.full(count + 1, 2.0))) + round(_GAP * fps)
    au = np.zeros((total, len(facs.AU_CODES), 2), np.float32)
    at, events = 0, []
    for event, gap in zip(drawn, gaps, strict=False):
        at += int(gap)
        n = len(event.curve)
        au[at : at + n] = event.curve[:, :, None] * event.aus.intensity
        events.append(replace(event, onset=at, apex=at + event.apex, offset=at + n - 1))
        at += n
    closure = blink(total, rng, fps)
    row = facs.AU_INDEX[45]
    au[:, row] = np.maximum(au[:, row], closure[:, None])
    return _Script(au, head_motion(total, rng, fps=fps), closure, tuple(events))


def _event(kind: str, rng: np.random.Generator, fps: float) -> _Event:
    emotion = str(rng.choice(list(CASME2_SHARES), p=list(CASME2_SHARES.values())))
    aus = sample_aus(emotion, rng, AUSampling())
    profile = draw_profile(PROFILE, rng)
    if kind == "macro":
        mean, sd, least, most = _MACRO
        n = max(3, round(float(np.clip(rng.normal(mean, sd), least, most)) * fps))
        # Stronger, and held a while: within what AUs can show.
        gain = float(rng.uniform(*_MACRO_STRENGTH)) / float(aus.intensity.max())
        aus = AUVector(np.clip(aus.intensity * gain, 0, 1).astype(np.float32), aus.known)
        profile = replace(profile, hold=float(rng.uniform(0.05, 0.25)), apex=min(profile.apex, 0.6))
    else:
        mean, sd, least = _DURATION
        # One frame less than half a second at least: from there on an expression is a macro-expression.
        n = min(frame_count(float(np.clip(rng.normal(mean, sd), least, MAX_DURATION_S)), fps), _longest_micro(fps))
    curve = profile.alpha(n, profile.draw_lags(len(facs.AU_CODES), rng))
    return _Event(0, profile.apex_index(n), n - 1, emotion, kind, aus, curve)


def _longest_micro(fps: float) -> int:
    return math.ceil(MACRO_S * fps) - 1


@dataclass(frozen=True)
class _LongRenderer:
    wanted: LongRendering

    def __call__(self, job: _Stretch) -> Produced:
        wanted = self.wanted
        script = _script(wanted, job.subject, job.video)
        event = script.events[job.number]
        subject = _subject(derived(wanted.seed, "rendered-subject", job.subject), wanted.size)
        part = slice(job.first, job.last + 1)
        au, pose = script.au[part], script.pose[part]
        index = (job.subject * 100 + job.video) * 1000 + job.number
        frames = subject.render(au, pose, noise_seed=derived(wanted.seed, "rendered-long-noise", index))
        database, who, video = _long_names(wanted, job.subject, job.video)
        folder = f"{LONG_FRAMES}/{who}/{video}"
        names = [f"{folder}/{_long_frame(video, job.first + i)}" for i in range(len(frames))]
        inside = slice(event.onset - job.first, event.offset - job.first + 1)
        row = Row(
            clip_id=f"{database}/{who}/{video}/{event.onset}", database=database, subject=who, clip=video,
            onset=event.onset, apex=event.apex, offset=event.offset, fps=float(wanted.fps),
            n_frames=event.offset - event.onset + 1, apex_index=event.apex - event.onset, height=wanted.size,
            width=wanted.size, expression=event.expression, emotion=event.emotion,
            label=CLASS_OF.get(event.emotion, ""),
            objective_class=facs.objective_class(facs.parse_annotation(au_text(event.aus)).codes),
            au_text=au_text(event.aus), frame_files=tuple(names[inside]),
            warnings=("the subject blinks during the clip",)
            if script.closure[event.onset : event.offset + 1].max() > 0.2 else (),
            provenance=Provenance(
                kind="rendered", database=database, subject=who, licence=LICENCE,
                subjects_seen=(f"{database}/{who}",), generator="mesynth.head", seed=subject.seed,
                aus_asked=facs.format_vector(event.aus), aus_source=AUSampling().source, profile=PROFILE,
            ),
            **Row.au_columns(event.aus),
        )  # fmt: skip
        points = np.stack([subject.landmarks(a, p) for a, p in zip(au, pose, strict=True)])
        files = {name: _jpeg(frame) for name, frame in zip(names, frames, strict=True)}
        files[f"{LONG_POINTS}/{video}-{job.number:03d}.npy"] = npy_bytes(points)
        return Produced(row, files=files)


def _long_names(wanted: LongRendering, subject: int, video: int) -> tuple[str, str, str]:
    return f"rendered-long-{wanted.seed}", f"sub{subject:02d}", f"sub{subject:02d}_long{video + 1:02d}"


def _long_frame(video: str, number: int) -> str:
    """A name that no other frame has, so that one table of landmarks serves all videos."""
    return f"{video}_{number:05d}.jpg"


def render_long(
    out: Path | str, wanted: LongRendering = LongRendering(), *, workers: int = 1, progress: Progress | None = None
) -> Manifest:
    """Render long videos into ``out``: blinks, head motion, macro- and micro-expressions; the same command resumes.

    ``videos.csv`` and ``intervals.csv`` are the truth (:mod:`mesynth.store.long_videos`), ``landmarks.npz`` the exact
    landmarks [68,2] of every frame by file name, the manifest a row an expression. The files depend on what is
    ``wanted`` alone, whatever the number of processes.

    Raises:
        RunFolderError: ``out`` holds something else.
    """
    out = Path(out)
    scripts = {(s, v) for s in range(1, wanted.subjects + 1) for v in range(wanted.videos_per_subject)}
    config = {"stage": "render", "layout": "long"} | asdict(wanted) | {"version": mesynth.__version__}
    jobs = [job for s, v in sorted(scripts) for job in _script(wanted, s, v).stretches(s, v)]
    claim_folder(out, config)
    with writer(out):
        made = run_stage(
            out, jobs, _LongRenderer(wanted), config=config, workers=workers, progress=progress, held=True,
            shard_clips=4,
        )  # fmt: skip
        if do_once(out, "videos", (out / VIDEOS).is_file) and not (out / VIDEOS).is_file():
            _finish_long(out, wanted, jobs, made)
    return Manifest.read(out)


def _finish_long(out: Path, wanted: LongRendering, jobs: list[_Stretch], made: Manifest) -> None:
    """The tables last: a folder without them is no set of long videos yet."""
    last = {(job.subject, job.video): job for job in jobs}  # of each video its last part
    points: dict[str, np.ndarray] = {}
    videos = []
    for (s, v), job in sorted(last.items()):
        database, who, video = _long_names(wanted, s, v)
        folder = f"{LONG_FRAMES}/{who}/{video}"
        videos.append(
            LongVideo(
                database=database, subject=who, video=video, path=folder, fps=float(wanted.fps), frames=job.last + 1,
                licence=LICENCE,
            )
        )  # fmt: skip
        parts = [np.load(file) for file in sorted((out / LONG_POINTS).glob(f"{video}-*.npy"))]
        for i, face in enumerate(np.concatenate(parts)):
            points[_long_frame(video, i)] = face
    marked = tuple(
        Marked(
            database=row.database, subject=row.subject, video=row.clip, onset=row.onset, offset=row.offset,
            apex=row.apex, expression=row.expression, emotion=row.emotion, aus=row.au_text,
        )
        for row in made
    )  # fmt: skip
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **points)
    tables = LongVideos(root=out, videos=tuple(videos), intervals=marked).tables()
    write_listed(out, {LONG_LANDMARKS: buffer.getvalue()} | tables)
