"""What every generator of a benchmark meets, requests and people, and the candidates, all called in one way.

Each AU is requested alone, at each intensity, on both sides and on one. The people are rendered heads nobody learned
from, whose motion is known exactly. A candidate is a generator with what its saved form says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from mesynth import __version__
from mesynth.core.errors import ConfigError, LeakError, MesynthError
from mesynth.core.facs import AU_CODES, AU_INDEX, LETTER_INTENSITY, MIDLINE, SIDES
from mesynth.core.profiles import Profile
from mesynth.core.types import AUVector, Clip, Flow, Sample
from mesynth.corpus.faces import margin
from mesynth.generators.base import ClipRequest, Generator
from mesynth.generators.registry import configured, find_model, split_name
from mesynth.head import Subject
from mesynth.head.render import MAX_SIZE, HeadFlow, head_pose
from mesynth.motion.nuisance import Nuisance
from mesynth.motion.prior import MEAN, Face, MotionPrior
from mesynth.preprocess.align import SimilarityCrop
from mesynth.store.generator_folder import UNTRAINED, WEIGHTS, GeneratorFacts, makes_frames, shipped_models
from mesynth.training.data.rendered import RENDER_SCALE, TRAIN_SEEDS, cropped_flow, person_key

if TYPE_CHECKING:
    from mesynth.head.foreign import ForeignHead


# ---------------------------------------------------------------- requests


BENCHMARK_SEEDS = range(990_000, 1_000_000)
"""Head seeds of the people that generators are compared on; nobody trains or is chosen on them."""
MIDDLE = 0.5
MAX_DIVERSE = 4
MAX_PICTURED = 6
"""AUs whose pictures are compared on another head: there motion is what is asked about."""


def check_size(size: int) -> None:
    """Raise ConfigError for a side of crops, in pixels, that cannot be measured on."""
    if not 64 <= size <= 256:
        raise ConfigError(f"size={size} is outside 64..256 pixels")


def check_codes(codes: Sequence[int]) -> None:
    """Raise ConfigError for no AUs, an unknown one, and one given twice."""
    unknown = [code for code in codes if code not in AU_INDEX]
    if unknown or not codes or len(set(codes)) != len(codes):
        what = f"AU {unknown[0]} is not in the vocabulary" if unknown else f"AUs {codes} must be different"
        raise ConfigError(f"{what}; choose from {', '.join(map(str, AU_CODES))}")


def check_least(config: object, **least: int) -> None:
    """Raise ConfigError for a field of ``config`` that is less than its ``least``."""
    for name, smallest in least.items():
        if getattr(config, name) < smallest:
            raise ConfigError(f"{name}={getattr(config, name)} is too small; choose at least {smallest}")


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """Whom the generators meet and the requests they get; every figure but the seconds depends on this alone."""

    people: int = 8
    """Rendered people; intervals come from resampling them."""
    first: int = BENCHMARK_SEEDS.start
    """Head seed of the first person; the others follow."""
    size: int = 128
    """Side of the crops, pixels."""
    codes: tuple[int, ...] = AU_CODES
    levels: tuple[float, ...] = tuple(LETTER_INTENSITY.values())
    """Target intensities of each AU; 0 is always requested once."""
    resamples: int = 500
    """Bootstrap draws of people."""
    clip_frames: int = 64
    """Frames of the clip that is timed."""
    repeats: int = 3
    """Timed clips, after one that is not counted."""
    samples: int = 4
    """Seeds of each request whose spread is looked at. The truth lies in the range of N with a probability of
    (N - 1) / (N + 1) where it is one of their kind: 19 have a range of 90 %."""
    seed: int = 0
    head: str = ""
    """Hash of the blendshape head whose people they are (mesynth.head.foreign); empty: the packaged head's."""
    yaw: float = 0.0
    """Degrees that every head is turned to image right."""
    pitch: float = 0.0
    """Degrees that every head is turned down."""

    def __post_init__(self) -> None:
        if self.people < 2:
            raise ConfigError(f"people={self.people} leaves no other people to compare with; choose at least 2")
        inside = self.first in BENCHMARK_SEEDS and self.first + self.people <= BENCHMARK_SEEDS.stop
        if not self.head and not inside:
            raise ConfigError(
                f"people {self.first}..{self.first + self.people - 1} leave the head seeds kept for comparing, "
                f"{BENCHMARK_SEEDS.start}..{BENCHMARK_SEEDS.stop - 1}; choose fewer"
            )
        head_pose(self.yaw, self.pitch)  # checks them
        check_size(self.size)
        assert RENDER_SCALE * self.size <= MAX_SIZE
        check_codes(self.codes)
        if not self.levels or list(self.levels) != sorted(set(self.levels)):
            raise ConfigError(f"levels {self.levels} must be ascending intensities")
        if not 0 < self.levels[0] <= self.levels[-1] <= 1:
            raise ConfigError(f"levels {self.levels} are outside (0, 1]; 1 is FACS E")
        check_least(self, resamples=20, clip_frames=3, repeats=1, samples=2, seed=0)

    @property
    def seeds(self) -> range:
        """Head seeds, one a person; of another head its people's numbers."""
        first = 0 if self.head else self.first
        return range(first, first + self.people)


@dataclass(frozen=True)
class Request:
    """One AU at one intensity; ``side`` is "B" (both), "L" or "R". Intensity 0 asks for nothing."""

    code: int
    side: str
    level: float
    pictured: bool = False
    """Its apex also takes part in the figures of pictures and identity."""
    diverse: bool = False
    """It is made with several seeds."""
    imaged: bool = False
    """Its flow also takes part in the distance between distributions of flow images."""
    likened: bool = False
    """Its flow is also held against mean motions (mesynth.benchmark.figures)."""

    @property
    def aus(self) -> AUVector:
        """As a generator takes it."""
        out = np.zeros((len(AU_CODES), 2), np.float32)
        out[AU_INDEX[self.code], [0, 1] if self.side == "B" else [SIDES.index(self.side)]] = self.level
        return AUVector(out)

    @property
    def name(self) -> str:
        """As a user writes it."""
        return f"{'' if self.side == 'B' else self.side}{self.code}={self.level:g}"


def requests(config: BenchmarkConfig) -> tuple[Request, ...]:
    """All requests; the first asks for nothing.

    Sided AUs are also requested on one side, left and right in turns from level to level. Pictures are compared on
    both-sided requests at the level nearest to the middle and at the highest, flow images at these levels on all;
    both-sided requests at the level nearest to the middle are held against mean motions.
    """
    return requests_of(config.codes, config.levels, MAX_PICTURED if config.head else None)


def requests_of(codes: Sequence[int], levels: Sequence[float], pictured: int | None = None) -> tuple[Request, ...]:
    """:func:`requests` of ``codes`` at ``levels``, ascending; pictures of at most ``pictured`` AUs, None for all."""
    middle = min(levels, key=lambda level: abs(level - MIDDLE))
    spread, shown = (
        {codes[i] for i in np.linspace(0, len(codes) - 1, min(count, len(codes))).round().astype(int)}
        for count in (MAX_DIVERSE, len(codes) if pictured is None else pictured)
    )
    out = [Request(codes[0], "B", 0.0)]
    for i, code in enumerate(codes):
        for level in levels:
            chosen = level in (middle, levels[-1])
            out.append(
                Request(
                    code,
                    "B",
                    level,
                    chosen and code in shown,
                    level == middle and code in spread,
                    chosen,
                    level == middle,
                )
            )
        if code not in MIDLINE:
            for j, level in enumerate(levels):
                out.append(Request(code, SIDES[(i + j) % 2], level, imaged=level in (middle, levels[-1])))
    return tuple(out)


# ---------------------------------------------------------------- people


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
        self._rest = np.zeros((len(AU_CODES), 2), np.float32)
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
    sides = range(len(SIDES))
    moved = [prior.fields([(AU_INDEX[r.code], side) for side in sides]).sum(0) * np.float32(r.level) for r in likened]
    return np.stack([person.inner_flow(uv.transpose(2, 0, 1)) for uv in moved])


# ---------------------------------------------------------------- candidates


TRUTH = "rendered truth"
_PROFILE = Profile(apex=0.5)
_FRAMES = 3
"""Onset, apex, offset: the apex does not depend on how many frames lie between."""
_FPS = 200.0


@dataclass(frozen=True, eq=False)
class Shown:
    """An answer, on the crop without its margin: ``uv`` [2,S,S] float32 pixels, ``onset`` and ``apex`` [S,S,3] uint8
    (None from a family without frames), warnings."""

    uv: np.ndarray
    onset: np.ndarray | None
    apex: np.ndarray | None
    warnings: tuple[str, ...] = ()


def unframed(family: str) -> str:
    """Why generators of a family make no frames; empty when they do."""
    return "" if makes_frames(family) else "makes flow images only, no frames"


@dataclass(frozen=True, eq=False, kw_only=True)
class Candidate:
    """A generator under a name of its own."""

    name: str
    generator: Generator
    parameters: int = 0
    weight_bytes: int = 0
    identity: dict[str, Any] = field(default_factory=dict)
    """What its figures depend on; never where it lies."""

    @property
    def frameless(self) -> str:
        """Why there are no frames; empty when there are. Then ``flows(seeds=, aus=, size=)`` is called instead."""
        return unframed(self.generator.family)

    def meet(self, person: Person) -> None:
        """Tell the truth whose turn it is."""
        if isinstance(self.generator, RenderedTruth):
            self.generator.meet(person)

    def show(self, person: Person, aus: AUVector, seed: int) -> Shown:
        """The answer to one request.

        Raises:
            MesynthError: the generator refuses it, or answers at another size.
        """
        if self.frameless:
            flows = getattr(self.generator, "flows", None)
            if flows is None:
                raise MesynthError(f"{self.name} {self.frameless}, and has no flows()")
            (flow,) = flows(seeds=[seed], aus=[aus], size=person.size)
            return Shown(flow.uv, None, None)
        sample, warnings = self.generator.generate(
            person.face, aus, _PROFILE, n_frames=_FRAMES, fps=_FPS, seed=seed
        )  # fmt: skip
        frames = sample.clip.frames
        if frames.shape != (_FRAMES, *person.face.image.shape):
            want = (_FRAMES, *person.face.image.shape)
            raise MesynthError(f"{self.name} answered with frames {frames.shape} where {want} were asked for")
        onset, apex = person.inner(frames[0]), person.inner(frames[sample.clip.apex])
        return Shown(person.inner_flow(sample.flow.uv), onset, apex, warnings)


def default_models() -> list[str]:
    """Those without training and everything that ships with the package."""
    return [*UNTRAINED, *shipped_models()]


def load_candidates(names: Sequence[str], device: str = "cpu") -> list[Candidate]:
    """Load generators by name (see :func:`mesynth.generators.registry.find_model`), in the order given, on ``device``.

    Raises:
        MesynthError: an unknown name, one given twice or none.
        PipelineError: a damaged folder.
        LeakError: a generator learned from people it would be compared on.
    """
    if not names:
        raise MesynthError(f"no model was named; give --models, for example {','.join(default_models())}")
    candidates: list[Candidate] = []
    loaded: dict[Path | str, Generator] = {}  # the same model with other options shares its networks
    met: set[object] = set()
    for name, shown in zip(names, shown_names(names), strict=True):
        model = find_model(name).on(device)
        place = model.folder or model.name
        if (place, model.options) in met:
            raise MesynthError(f"model '{name}' is given twice; name each once")
        met.add((place, model.options))
        refuse_leaks(name, model.facts.subjects_seen)
        parameters, size = weights_size(model.folder, model.facts.networks) if model.folder else (0, 0)
        if place not in loaded:
            loaded[place] = replace(model, options=()).load()
        generator = configured(loaded[place], dict(model.options))
        candidates.append(
            Candidate(
                name=shown, generator=generator, parameters=parameters, weight_bytes=size, identity=model.identity
            )
        )
    return candidates


def shown_names(names: Sequence[str]) -> list[str]:
    """Names as results show them: of a folder its last two parts, unless two would then be called the same; and its
    options.

    >>> shown_names(["motion-prior", "/data/of/me/runs/a", "runs/d@steps=8, guidance=2"])
    ['motion-prior', 'runs/a', 'runs/d@steps=8,guidance=2']
    """
    parted = [split_name(name) for name in names]
    tails = ["" if text is None else "@" + "".join(text.split()) for _, text in parted]
    short = ["/".join(part for part in Path(place).parts[-2:] if part != "/") for place, _ in parted]
    short = [place + tail for place, tail in zip(short, tails, strict=True)]
    return short if len(set(short)) == len(short) else list(names)


def refuse_leaks(name: str, subjects_seen: Sequence[str]) -> None:
    """Raises LeakError when one of ``subjects_seen`` is kept for comparing."""
    kept = {person_key(seed) for seed in BENCHMARK_SEEDS}
    met = sorted(kept.intersection(subjects_seen))
    if met:
        raise LeakError(
            f"{name} learned from {met[0]}{f' and {len(met) - 1} more' if len(met) > 1 else ''}, kept for comparing "
            f"(head seeds {BENCHMARK_SEEDS.start}..{BENCHMARK_SEEDS.stop - 1}); train it without them"
        )


def weights_size(folder: Path, networks: Sequence[str]) -> tuple[int, int]:
    """Parameters and bytes of the weight files of a saved generator; reads their headers alone."""
    from safetensors import safe_open

    parameters = size = 0
    for network in networks:
        file = folder / network / WEIGHTS
        size += file.stat().st_size
        with safe_open(file, "np") as tensors:
            parameters += sum(int(np.prod(tensors.get_slice(key).get_shape())) for key in tensors.keys())  # noqa: SIM118
    return parameters, size
