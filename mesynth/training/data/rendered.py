"""Training pairs of the 3D head: a neutral onset, a later frame, the exact motion between them, the exact AUs.

Each pair is a row of an ordinary manifest of two frames, cropped as `prepare` crops. Frames hold no sensor noise and
no compression: cameras are added when pairs are drawn (:mod:`mesynth.training.data.camera`), anew each time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

import mesynth
from mesynth.config import check_share
from mesynth.core import emotions, facs
from mesynth.core.emotions import CLASSES_3, AUSampling, draw_emotion, sample_aus
from mesynth.core.errors import ConfigError
from mesynth.core.seeds import stream
from mesynth.core.types import AUVector
from mesynth.preprocess.align import SimilarityCrop, eye_centres
from mesynth.store.manifest import Manifest, Provenance, Row
from mesynth.store.stage import Produced, Progress, run_stage
from mesynth.training.data.camera import CameraConfig

if TYPE_CHECKING:
    from mesynth.head import HeadFlow, Subject


TRAIN_SEEDS = range(920_000, 980_000)
"""Head seeds of people that generators learn from. The judge (900 000 on) and the learned magnifier (910 000 on)
have people of their own."""
VALIDATION_SEEDS = range(980_000, 990_000)
"""Head seeds of people that validate generators; nobody learns from them."""
DATABASE = "rendered"
MIN_SIZE, MAX_SIZE = 16, 256
RENDER_SCALE = 1.5
"""Side of the render over the side of the crop: the crop shrinks the face a little (factor .67 to .83), as it does
with recordings, and never enlarges it."""
LEAST, MOST = 0.02, 1.0
"""Range of the intensities of AUs that are shown at all."""
NEAR, FAR = 5.5, 60.0
"""Distances of cameras, IOD: some 35 cm, as telephones are held, to 4 m."""
_LATER = {"glasses": 0.0, "brow_hair": 0.0, "focal": 0.0}
"""Settings that came later, as pairs were before: folders of then are resumed."""
_SPEED = 200.0
_SUPERSAMPLE = 2


KINDS = ("rendered", "manifest")


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Where training data come from, and how they are varied: what sections ``data`` of recipes share."""

    source: str = "rendered"
    """"rendered": people of the 3D head, made on first use; "manifest": clips of prepared or generated folders."""
    size: int = 64
    """Side of the pictures, pixels."""
    manifests: tuple[Path, ...] = ()
    """Folders with a manifest of aligned frames, for source "manifest"."""
    validation_share: float = 0.1
    """Share of each database's subjects that validate and are never learned from (at least one in all)."""
    identities: int = 200
    """Rendered people to learn from."""
    flip: bool = True
    """Mirror half of what is drawn, with flow, visibility and AU sides."""
    camera: CameraConfig = field(default_factory=CameraConfig)
    """Cameras that training data are seen by; validation data are left as they are."""

    def idle(self) -> dict[str, str]:
        """Keys without effect, and why."""
        return {}

    def check_source(self, *folders: str) -> None:
        """Make paths of the fields ``folders``. Raises ConfigError for an unknown source."""
        for name in folders:
            object.__setattr__(self, name, tuple(Path(p) for p in getattr(self, name)))
        if self.source not in KINDS:
            raise ConfigError(f"data.source '{self.source}' is unknown; choose {' or '.join(KINDS)}")

    def check_idle(self) -> None:
        """Raises ConfigError for a key that was set and has no effect."""
        defaults = {f.name: f.default for f in fields(self)}
        for name, why in self.idle().items():
            if getattr(self, name) != defaults[name]:
                raise ConfigError(f"data.{name} has no effect: {why}; leave it out")


EMPTY = "data.manifests is empty; name the folders to learn from, as in data.manifests=[prepared]"


@dataclass(frozen=True, kw_only=True)
class RenderConfig:
    """Whom is rendered and what they do; the bytes depend on this alone."""

    first: int = TRAIN_SEEDS.start
    """Head seed of the first person; the others follow."""
    identities: int = 200
    per_identity: int = 30
    """Pairs of each person."""
    size: int = 64
    """Side of the crops, pixels."""
    neutral: float = 0.05
    """Share of pairs without AUs: head movement at most."""
    single: float = 0.4
    """Share of pairs with one AU alone; people take turns through every AU on either side and both."""
    emotional: float = 0.2
    """Share of pairs with the AUs of an emotion, labelled with its class; classes come equally often. The others mix
    one to four AUs freely and have no label."""
    blink: float = 0.08
    """Share of pairs whose lids are also part closed at the later frame; AU 45 says how far."""
    still: float = 0.5
    """Share of pairs without head movement."""
    head: float = 0.5
    """Largest scale of the head movement (mesynth.head.head_motion) of the others, drawn from 0 to this."""
    turn: float = 2.5
    """Standard deviation of the onset's head angles about the person's resting pose, degrees."""
    yaw: float = 0.0
    """Largest angle by which half of the onsets are turned besides, to either side, degrees; a third up or down."""
    rigs: float = 0.0
    """Share of people whose muscles pull as a rig of their own says (:func:`mesynth.motion.fields.draw_rig`); the
    others all have the head's face units."""
    expressive: float = 0.0
    """Share of pairs whose onset shows AUs already: half-open or smiling mouths, narrow eyes, moved brows. The pair's
    AUs are what comes on top."""
    glasses: float = 0.0
    """Share of people with glasses: they move with the head and not with the skin, which is seen through the lenses."""
    brow_hair: float = 0.0
    """Share of people with locks of hair over forehead and brows, which move with the head alone."""
    focal: float = 0.0
    """Share of people whose camera stands NEAR..FAR eye distances away (the log is uniform) in place of 10..16, with
    the focal length that keeps the face as large."""
    jitter: float = 0.01
    """Standard deviation of the crop's landmark error, in inter-ocular distances (and of its log scale)."""
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.identities, self.per_identity) < 1:
            raise ConfigError(
                f"identities={self.identities} and per_identity={self.per_identity} must each be at least 1"
            )
        if not any(self.first in part and self.people[-1] in part for part in (TRAIN_SEEDS, VALIDATION_SEEDS)):
            raise ConfigError(
                f"head seeds {self.people[0]}..{self.people[-1]} leave their range; training people are "
                f"{TRAIN_SEEDS.start}..{TRAIN_SEEDS.stop - 1}, validation people "
                f"{VALIDATION_SEEDS.start}..{VALIDATION_SEEDS.stop - 1}: choose fewer identities"
            )
        if not MIN_SIZE <= self.size <= MAX_SIZE:
            raise ConfigError(f"size={self.size} is outside {MIN_SIZE}..{MAX_SIZE} pixels")
        check_share("", self, "neutral", "single", "emotional", "blink", "still", "rigs", "expressive", "glasses",
                    "brow_hair", "focal")  # fmt: skip
        if (total := self.neutral + self.single + self.emotional) > 1 + 1e-9:
            raise ConfigError(f"neutral + single + emotional = {total:g} exceeds 1")
        for name, most in (("head", 4.0), ("turn", 10.0), ("yaw", 35.0), ("jitter", 0.1)):
            if not 0 <= getattr(self, name) <= most:
                raise ConfigError(f"{name}={getattr(self, name):g} is outside 0..{most:g}")
        if self.seed < 0:
            raise ConfigError(f"seed={self.seed} must not be negative")

    @property
    def people(self) -> range:
        """Head seeds, one a person."""
        return range(self.first, self.first + self.identities)


def person_key(head_seed: int) -> str:
    """``database/subject`` of a head seed: the name that `mesynth render --layout faces` gives the same person."""
    return f"{DATABASE}/{_person(head_seed)}"


def _person(head_seed: int) -> str:
    return f"person{head_seed:010d}"


def render_pairs(out: Path, config: RenderConfig, *, workers: int = 1, progress: Progress | None = None) -> Manifest:
    """Render the pairs of ``config`` into ``out``; the same call resumes, any ``workers`` gives the same bytes.

    Raises:
        RunFolderError: ``out`` holds something else.
    """
    jobs = [(person, i) for person in config.people for i in range(config.per_identity)]
    settings = dict(item for item in asdict(config).items() if item not in _LATER.items())
    record = {"stage": "training-pairs", **settings, "version": mesynth.__version__}
    # Whole people in a shard: building a face costs as much as thirty frames.
    people = max(1, config.identities // 32)
    shard_clips = config.per_identity * people
    return run_stage(
        out, jobs, _Renderer(config), config=record, workers=workers, shard_clips=shard_clips, progress=progress
    )


# ---------------------------------------------------------------- what is asked of the head


def single_cells() -> list[tuple[int, tuple[int, ...]]]:
    """Every AU alone, (row, columns): left, right and both sides; both only where the muscle crosses the midline."""
    cells: list[tuple[int, tuple[int, ...]]] = []
    for row, code in enumerate(facs.AU_CODES):
        cells += [(row, (0, 1))] if code in facs.MIDLINE else [(row, (0,)), (row, (1,)), (row, (0, 1))]
    return cells


def draw_intensity(rng: np.random.Generator, n: int = 1) -> np.ndarray:
    """[n] in [LEAST, MOST]; the square of a uniform number: 70 % lie below .5, the median is .27."""
    return LEAST + (MOST - LEAST) * rng.random(n) ** 2


def draw_aus(config: RenderConfig, person: int, index: int, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """AU intensities [K,2] float32 of pair ``index`` of a person, and its emotion or "".

    Single AUs come first, then neutral, emotional and mixed pairs in random order. Conflicts are damped.
    """
    singles = round(config.single * config.per_identity)
    if index < singles:
        cells = single_cells()
        row, columns = cells[((person - config.first) * singles + index) % len(cells)]
        out = np.zeros((len(facs.AU_CODES), 2), np.float32)
        out[row, list(columns)] = draw_intensity(rng)
        return out, ""
    kind = rng.random() * (1 - config.single)
    if kind < config.neutral:
        return np.zeros((len(facs.AU_CODES), 2), np.float32), ""
    emotion = ""
    if kind < config.neutral + config.emotional:
        emotion = draw_emotion(str(rng.choice(CLASSES_3)), rng)
        drawn = sample_aus(emotion, rng, AUSampling(intensity_min=0.06, intensity_max=0.75)).intensity
    else:
        drawn = facs.damp(AUVector(_mixture(rng))).intensity
    return np.where(drawn < LEAST, np.float32(0), drawn), emotion


def _mixture(rng: np.random.Generator) -> np.ndarray:
    """[K,2] float32: one to four AUs, a third of those with sides mainly on one."""
    out = np.zeros((len(facs.AU_CODES), 2), np.float32)
    for row in rng.choice(len(facs.AU_CODES), size=int(rng.integers(1, 5)), replace=False):
        sides = draw_intensity(rng) * np.exp(0.15 * rng.standard_normal(2))
        if facs.AU_CODES[row] in facs.MIDLINE:
            sides[:] = sides.mean()
        elif rng.random() < 0.35:
            sides[rng.integers(2)] *= rng.uniform(0, 0.35)
        out[row] = np.clip(sides, 0, MOST)
    return out


_SHOWN = (1, 2, 4, 5, 7, 12, 15, 17, 25, 26, 43)
"""AUs that onsets may show."""


def draw_onset(rng: np.random.Generator) -> np.ndarray:
    """[K,2] float32: one or two AUs that an expressive onset shows, at .05 to .6, alike on both sides; conflicts are
    damped."""
    out = np.zeros((len(facs.AU_CODES), 2), np.float32)
    for code in rng.choice(_SHOWN, size=int(rng.integers(1, 3)), replace=False):
        out[facs.AU_INDEX[int(code)]] = rng.uniform(0.05, 0.6)
    return facs.damp(AUVector(out)).intensity


# ---------------------------------------------------------------- one pair


def appearance_of(config: RenderConfig, person: int) -> dict[str, Any]:
    """What a person's picture has that others' lack, as arguments of :class:`mesynth.head.Subject`."""
    rng = stream(config.seed, "training-looks", person)
    # Every number is drawn whatever is asked for: one setting leaves the other looks alone.
    glasses, brow_hair, focal, place = rng.random(4)
    looks: dict[str, Any] = {}
    if glasses < config.glasses:
        looks["glasses"] = True
    if brow_hair < config.brow_hair:
        looks["brow_hair"] = True
    if focal < config.focal:
        looks["distance"] = round(float(NEAR * (FAR / NEAR) ** place), 2)
    return looks


@lru_cache(maxsize=1)
def rigged_subject(person: int, size: int, seed: int, rigs: float, looks: tuple[tuple[str, Any], ...] = ()) -> Subject:
    from mesynth.head import Subject
    from mesynth.motion.fields import draw_rig

    rng = stream(seed, "training-rig", person)
    basis = draw_rig(rng) if rng.random() < rigs else None
    return Subject(person, size=size, supersample=_SUPERSAMPLE, basis=basis, **dict(looks))


@dataclass(frozen=True)
class _Renderer:
    config: RenderConfig

    def __call__(self, job: tuple[int, int]) -> Produced:
        from mesynth.head import head_motion

        config = self.config
        person, index = job
        rng = stream(config.seed, f"training-pair-{person}", index)
        aus = np.zeros((2, len(facs.AU_CODES), 2), np.float32)
        aus[1], emotion = draw_aus(config, person, index, rng)
        if rng.random() < config.blink:
            row = facs.AU_INDEX[45]
            aus[1, row] = np.maximum(aus[1, row], np.float32(rng.uniform(0.1, 1.0)))
        pose = np.zeros((2, 6))
        pose[:, :3] = np.clip(rng.normal(0, np.radians(config.turn), 3), -0.3, 0.3)
        moves = rng.random() >= config.still
        motion = head_motion(int(rng.integers(5, 80)), rng, sd=rng.uniform(0, config.head), fps=_SPEED)[-1]
        pose[1] += motion if moves else 0
        if config.yaw and rng.random() < 0.5:
            pose[:, :2] += np.radians(rng.uniform(-config.yaw, config.yaw, 2) * [1, 1 / 3])
        if config.expressive and rng.random() < config.expressive:
            aus[0] = draw_onset(rng)
            aus[1] = np.clip(aus[0] + aus[1], 0, MOST)

        looks = tuple(appearance_of(config, person).items())
        subject = rigged_subject(person, round(config.size * RENDER_SCALE), config.seed, config.rigs, looks)
        landmarks = subject.landmarks(pose=pose[0])
        crop = SimilarityCrop.from_landmarks(_misplaced(landmarks, config.jitter, rng), config.size)
        frames = crop.frames(subject.render(aus, pose))
        uv, valid = cropped_flow(crop, subject.flow(aus[0], aus[1], pose[0], pose[1]))
        row_ = self._row(person, index, AUVector(aus[1] - aus[0]), emotion, looks)
        return Produced(row_, frames=frames, flow=uv, landmarks=crop.points(landmarks), valid=valid)

    def _row(self, person: int, index: int, aus: AUVector, emotion: str, looks: tuple[tuple[str, Any], ...]) -> Row:
        from mesynth.datasets.rendered import LICENCE  # here, because it brings the readers of workbooks

        key, clip, size = person_key(person), f"pair{index:05d}", self.config.size
        worn = ",".join(f"{name}={'true' if value is True else value}" for name, value in looks)
        return Row(
            clip_id=f"{key}/{clip}/0",
            database=DATABASE,
            subject=_person(person),
            clip=clip,
            onset=0,
            apex=1,
            offset=1,
            fps=_SPEED,
            n_frames=2,
            apex_index=1,
            height=size,
            width=size,
            emotion=emotion,
            label=emotions.label(emotion),
            **Row.au_columns(aus),
            provenance=Provenance(
                kind="rendered",
                database=DATABASE,
                subject=_person(person),
                licence=LICENCE,
                subjects_seen=(key,),
                generator="mesynth.head" + (f"@{worn}" if worn else ""),
                seed=person,
                aus_asked=facs.format_vector(aus),
                aus_source="training pairs",
                code_version=mesynth.__version__,
            ),
        )


def _misplaced(landmarks: np.ndarray, sd: float, rng: np.random.Generator) -> np.ndarray:
    """Landmarks [68,2] with one small error of place and scale, as a detector's are."""
    error = rng.normal(0, 1, 3) * sd
    right, left = eye_centres(landmarks)
    centre = landmarks.mean(0)
    moved = (landmarks - centre) * np.exp(error[0]) + centre + error[1:] * np.hypot(*(left - right))
    return np.asarray(moved, np.float32)


def cropped_flow(crop: SimilarityCrop, flow: HeadFlow) -> tuple[np.ndarray, np.ndarray]:
    """The head's exact flow on the crop's grid, in the crop's pixels: uv [2,S,S] float32, valid [S,S] bool.

    A crop pixel reads the four source pixels round its place (bilinear) and is valid where all of them are: a seen
    point of the head, or background that the head comes nowhere near (at rest, flow 0).
    """
    seen = flow.visible | _static_background(flow)
    matrix = crop.matrix
    inverse = np.linalg.inv(matrix[:, :2])
    grid = np.stack(np.meshgrid(np.arange(crop.size), np.arange(crop.size), indexing="xy"), -1)  # [S,S,2] = (x, y)
    places = (grid - matrix[:, 2]) @ inverse.T
    uv = np.zeros((crop.size, crop.size, 2))
    valid = np.ones((crop.size, crop.size), np.bool_)
    height, width = seen.shape
    source = flow.uv.transpose(1, 2, 0)
    for x, y, weight in _neighbours(places):
        inside = (x >= 0) & (y >= 0) & (x < width) & (y < height)
        x, y = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
        uv += (weight * inside)[..., None] * source[y, x]
        valid &= (inside & seen[y, x]) | (weight < 1e-6)
    return np.ascontiguousarray((uv @ matrix[:, :2].T).transpose(2, 0, 1), np.float32), valid


def _neighbours(places: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """x, y and bilinear weight of the four pixels round each place [...,2]."""
    low = np.floor(places).astype(np.int64)
    share = places - low
    for dy in (0, 1):
        for dx in (0, 1):
            wx = share[..., 0] if dx else 1 - share[..., 0]
            wy = share[..., 1] if dy else 1 - share[..., 1]
            yield low[..., 0] + dx, low[..., 1] + dy, wx * wy


def _static_background(flow: HeadFlow) -> np.ndarray:
    """[H,W] bool: background that no part of the head covers in either frame."""
    head = flow.visible | (flow.uv != 0).any(0)
    reach = 2 + int(np.ceil(np.abs(flow.uv).max()))
    return cv2.dilate(head.astype(np.uint8), np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)) == 0
