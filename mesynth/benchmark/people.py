"""The people of a benchmark: rendered heads nobody learned from, and what they really do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np

from mesynth import __version__
from mesynth.benchmark.requests import BenchmarkConfig, Request
from mesynth.core import facs
from mesynth.core.errors import MesynthError
from mesynth.core.types import AUVector, Clip, Flow, Sample
from mesynth.corpus.faces import margin
from mesynth.generators.base import ClipRequest, Generator
from mesynth.head import Subject
from mesynth.head.render import HeadFlow, head_pose
from mesynth.motion.nuisance import Nuisance
from mesynth.motion.prior import MEAN, Face, MotionPrior
from mesynth.preprocess.align import SimilarityCrop
from mesynth.store.generator_folder import GeneratorFacts
from mesynth.training.data.rendered import RENDER_SCALE, TRAIN_SEEDS, cropped_flow, person_key

if TYPE_CHECKING:
    from mesynth.head.foreign import ForeignHead


@dataclass(frozen=True, eq=False)
class Exact:
    """What the person really shows at an apex, on the whole crop with its margin: ``apex`` [H,W,3] uint8, ``uv``
    [2,H,W] float32 pixels, ``valid`` [H,W] bool where the motion is known."""

    apex: np.ndarray
    uv: np.ndarray
    valid: np.ndarray


class Person:
    """One head seed, or one person of another ``head``, turned by yaw and pitch (degrees).

    ``face`` is the crop with its margin, as ``mesynth generate`` prepares faces; landmarks are exact, frames hold no
    sensor noise. ``onset`` [S,S,3], ``landmarks`` [68,2] and ``on_face`` [S,S] bool lie on the crop without its margin.
    """

    def __init__(
        self, seed: int, size: int, *, head: ForeignHead | None = None, yaw: float = 0.0, pitch: float = 0.0
    ) -> None:
        self.seed, self.size = seed, size
        self.key = person_key(seed) if head is None else f"head/{head.name}/person{seed:04d}"
        side = round(RENDER_SCALE * size)
        self._subject = Subject(seed, size=side) if head is None else head.subject(seed, side)
        self._pose = head_pose(yaw, pitch)
        landmarks = self._subject.landmarks(pose=self._pose)
        self._inset = margin(size)
        self._crop = SimilarityCrop.from_landmarks(landmarks, size).padded(self._inset)
        self._rest = np.zeros((len(facs.AU_CODES), 2), np.float32)
        self._exact: dict[bytes, Exact] = {}
        self._flows: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}
        onset = self._crop.frames(self._subject.render(self._rest[None], self._pose[None]))[0]
        self.face = Face(onset, self._crop.points(landmarks))
        self.onset = self.inner(onset)
        self.landmarks = self.face.landmarks - np.float32(self._inset)
        seen = self._moved(self._rest).face.astype(np.float32)
        side = self._crop.size
        self.on_face = self.inner(cv2.warpAffine(seen, self._crop.matrix, (side, side), flags=cv2.INTER_LINEAR) > 0.999)

    def inner(self, array: np.ndarray) -> np.ndarray:
        """[H,W,...] on the crop with its margin -> [S,S,...], as generated clips are cut."""
        middle = slice(self._inset, -self._inset)
        return np.ascontiguousarray(array[middle, middle])

    def inner_flow(self, uv: np.ndarray) -> np.ndarray:
        """[2,H,W] -> [2,S,S]."""
        return np.ascontiguousarray(uv[:, self._inset : -self._inset, self._inset : -self._inset])

    def _moved(self, intensity: np.ndarray) -> HeadFlow:
        return self._subject.flow(self._rest, intensity, self._pose, self._pose)

    def crop_points(self, aus: AUVector) -> np.ndarray:
        """The 68 landmarks [68,2] at an apex, on the crop without its margin."""
        points = self._crop.points(self._subject.landmarks(aus.intensity, self._pose))
        return np.asarray(points - np.float32(self._inset))

    def flow(self, request: Request) -> tuple[np.ndarray, np.ndarray]:
        """Exact motion [2,S,S] of a request, and [S,S] bool: face pixels still seen at the apex."""
        uv, valid = self._flow(request.aus)
        return self.inner_flow(uv), self.on_face & self.inner(valid)

    def _flow(self, aus: AUVector) -> tuple[np.ndarray, np.ndarray]:
        key = aus.intensity.tobytes()
        if key not in self._flows:
            self._flows[key] = cropped_flow(self._crop, self._moved(aus.intensity))
        return self._flows[key]

    def exact(self, aus: AUVector) -> Exact:
        """Rendered once for each AUs, and kept as long as the person."""
        key = aus.intensity.tobytes()
        if key not in self._exact:
            uv, valid = self._flow(aus)
            apex = self._crop.frames(self._subject.render(aus.intensity[None], self._pose[None]))[0]
            self._exact[key] = Exact(apex, uv, valid)
        return self._exact[key]


def person_of(config: BenchmarkConfig, seed: int, head: ForeignHead | None = None) -> Person:
    """The person of a benchmark with that seed or number."""
    return Person(seed, config.size, head=head, yaw=config.yaw, pitch=config.pitch)


class RenderedTruth(Generator):
    """The people themselves behind the call that all generators share: the ceiling of every figure."""

    family = "rendered"
    size = 0  # any

    def __init__(self) -> None:
        self.facts = GeneratorFacts(
            name=self.family, size=0, subjects_seen=(), licences=(), data_hash="", config_hash="", images=0, seed=0,
            code_version=__version__,
        )  # fmt: skip
        self._person: Person | None = None

    def meet(self, person: Person) -> None:
        """Whose clips come next."""
        self._person = person

    def clip_of(self, request: ClipRequest) -> tuple[Sample, tuple[str, ...]]:
        """See :class:`mesynth.generators.base.Generator`. Frames between onset and apex are rendered too.

        Raises:
            MesynthError: a face other than the person's, or nuisances, which are not part of the truth.
        """
        face, aus = request.face, request.aus
        if self._person is None or face is not self._person.face:
            raise MesynthError("the rendered truth knows only its own people")
        if request.nuisance != Nuisance():
            raise MesynthError("the rendered truth shows no nuisances; set them to 0")
        alpha = request.profile.alpha(request.n_frames)
        parts = [self._person.exact(AUVector(np.float32(a) * aus.intensity)) for a in alpha]
        apex = request.profile.apex_index(request.n_frames)
        frames = np.stack([face.image, *(part.apex for part in parts[1:])])
        return Sample(Clip(frames, request.fps, apex), Flow(parts[apex].uv, parts[apex].valid), aus), ()


@dataclass(frozen=True, eq=False)
class MeanFlows:
    """Exact flows of everyone, added up: ``total`` [R,2,S,S] float64 over ``people``."""

    total: np.ndarray
    people: int

    @staticmethod
    def of(
        people: Iterable[Person], targets: tuple[Request, ...], size: int, tick: Callable[[], None] = lambda: None
    ) -> MeanFlows:
        """Over all people, ``tick`` called after each; memory does not grow with them."""
        total, count = np.zeros((len(targets), 2, size, size)), 0
        for person in people:
            for i, request in enumerate(targets):
                total[i] += person.flow(request)[0]
            count += 1
            tick()
        return MeanFlows(total, count)

    def others(self, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Means over the others, given one person's flows [R,2,S,S]: the one over all requests [2,S,S], the first
        (which asks for nothing) left out, and the one of each request [R,2,S,S]."""
        same = (self.total - own) / (self.people - 1)
        return same[1:].mean(0), same


# ------------------------------------------------------------------- mean motions

HOME_PEOPLE = 8
"""Rendered people whose mean exact flow is the packaged head's mean; none of them is compared on."""
STEP = 1 / 512
"""Of stored flows, pixels."""


def stored(uv: np.ndarray) -> np.ndarray:
    """Flow in pixels -> int16 in units of a 512th, beyond 63 px cut off; NaN becomes 0."""
    return np.asarray(np.clip(np.round(np.nan_to_num(uv) / STEP), -32767, 32767), np.int16)


def flows_of(array: np.ndarray) -> np.ndarray:
    """What :func:`stored` made, in pixels, float32."""
    return array.astype(np.float32) * np.float32(STEP)


@lru_cache(maxsize=2)
def home_mean(likened: tuple[Request, ...], size: int) -> np.ndarray:
    """[A,2,S,S] float32: mean exact flow of HOME_PEOPLE of the packaged head, frontal, in the crop's frame."""
    people = (Person(seed, size) for seed in TRAIN_SEEDS[:HOME_PEOPLE])
    means = MeanFlows.of(people, likened, size)
    return np.asarray(means.total / means.people, np.float32)


def carried_mean(person: Person, likened: Sequence[Request]) -> np.ndarray:
    """[A,2,S,S] float32: what ``landmark-mean`` says of each request, also beyond the intensities that it shows."""
    prior = MotionPrior(person.face, MEAN)
    sides = range(len(facs.SIDES))
    moved = [
        prior.fields([(facs.AU_INDEX[r.code], side) for side in sides]).sum(0) * np.float32(r.level) for r in likened
    ]
    return np.stack([person.inner_flow(uv.transpose(2, 0, 1)) for uv in moved])
