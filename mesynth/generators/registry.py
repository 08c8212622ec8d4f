"""Generators by name: those without training, a model that ships with the package, or a folder that training wrote.

A name may carry options of the model's family after its last ``@``: ``runs/d@steps=8,guidance=2``.
"""

from __future__ import annotations

import inspect
import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mesynth import __version__
from mesynth.core import facs
from mesynth.core.devices import check_precision, find_device
from mesynth.core.errors import ConfigError, MesynthError
from mesynth.generators.base import ClipRequest, Generator, check_signs, found_folder, load_pipeline
from mesynth.motion.prior import NAME, MotionPrior, check_reach, check_spread
from mesynth.store.generator_folder import (
    INDEX,
    UNTRAINED,
    GeneratorFacts,
    PipelineError,
    makes_frames,
    read_facts,
    shipped_models,
)

if TYPE_CHECKING:
    from mesynth.core.types import AUVector, Sample


Option = bool | int | float | str
_FACES_KEPT = 8


class PriorGenerator(Generator):
    """The AU motion prior or the landmark mean behind the call that all generators share. They learned from nobody."""

    size = 0  # any

    def __init__(self, name: str = NAME, spread: float = 0.0) -> None:
        self.family, self.spread = name, spread
        self.facts = GeneratorFacts(
            name=name, size=0, subjects_seen=(), licences=(), data_hash="", config_hash="", images=0, seed=0,
            code_version=__version__,
        )  # fmt: skip
        self._priors: OrderedDict[int, MotionPrior] = OrderedDict()  # by identity of the face, which they keep alive

    def configured(self, *, spread: float = 0.0) -> Generator:
        """The prior whose seeds are people of their own: see :class:`mesynth.motion.prior.MotionPrior`.

        Raises:
            MesynthError: a spread out of range, or of the landmark mean.
        """
        check_spread(self.family, spread)
        return PriorGenerator(self.family, spread)

    def clip_of(self, request: ClipRequest) -> tuple[Sample, tuple[str, ...]]:
        """See :meth:`mesynth.motion.prior.MotionPrior.generate`; the fields of the last faces are kept."""
        key = id(request.face)
        if key not in self._priors:
            self._priors[key] = MotionPrior(request.face, self.family, self.spread)
            while len(self._priors) > _FACES_KEPT:
                self._priors.popitem(last=False)
        self._priors.move_to_end(key)
        return self._priors[key].generate(
            request.aus, request.profile, n_frames=request.n_frames, fps=request.fps, nuisance=request.nuisance,
            seed=request.seed, device=self.frames_on,
        )  # fmt: skip


@dataclass(frozen=True)
class Model:
    """Which generator a run uses: picklable, loaded in each process that needs it."""

    name: str
    """The family."""
    folder: Path | None
    """None for generators without training."""
    facts: GeneratorFacts
    options: tuple[tuple[str, Option], ...] = ()
    """Of the family, sorted by name; see :func:`configured`."""
    device: str = "cpu"
    """Where it is loaded to, as :func:`mesynth.core.devices.find_device` found it."""
    precision: str = "fp32"

    def load(self) -> Generator:
        """The generator with its options.

        Raises:
            PipelineError: the folder has changed since it was found.
            ConfigError: options that the family does not have.
        """
        generator: Generator = PriorGenerator(self.name) if self.folder is None else load_pipeline(self.folder)
        made = configured(generator, dict(self.options))
        if self.precision != "fp32":
            return made.to(self.device, self.precision)
        return made if self.device == "cpu" else made.to(self.device)

    def on(self, device: str, precision: str = "fp32") -> Model:
        """The same model, to be loaded there.

        Raises:
            ConfigError: the device is not here, or does not know the precision.

        >>> find_model("motion-prior").on("cpu").identity
        {'generator': 'motion-prior'}
        """
        where = find_device(device)
        check_precision(precision, where)
        return replace(self, device=where, precision=precision)

    @property
    def described(self) -> str:
        """For provenance: the family, with its options as a user writes them."""
        return self.name + (f"@{option_text(self.options)}" if self.options else "")

    @property
    def identity(self) -> dict[str, Any]:
        """What a run's result depends on; never where the folder lies."""
        weights = {"weights": self.facts.weights_sha256} if self.folder else {}
        # The CPU's bytes are the same on every machine; those of another device are its own.
        kind = self.device.partition(":")[0]
        where = ({"device": kind} if kind != "cpu" else {}) | (
            {"precision": self.precision} if self.precision != "fp32" else {}
        )
        return {"generator": self.name} | weights | ({"options": dict(self.options)} if self.options else {}) | where

    def check_frames(self) -> None:
        """Raise MesynthError for a family that makes flow images alone."""
        if not makes_frames(self.name):
            raise MesynthError(f"{self.name} makes flow images only, no frames; use --kind flow, or another --model")

    def check_request(self, aus: AUVector) -> None:
        """Refuse before anything is made what the model is known to refuse: the others refuse by themselves.

        Raises:
            MesynthError: AUs that exclude each other, an intensity beyond the motion prior's reach, or one below 0 that
                the family does not take.
        """
        check_signs(self.name, aus)
        if self.folder is None:
            check_reach(aus)
        else:
            facs.reject_conflicts(aus)


def find_model(name: str) -> Model:
    """A generator without training, the name of a shipped model, or a folder of ``mesynth train``, with options if any.

    A run's folder stands for the generator in it. A folder whose own name holds ``@`` is that folder; options of it
    come after one more ``@``.

    Raises:
        MesynthError: neither a known name nor a folder.
        ConfigError: options that cannot be read. Whether the family has them is found out by :meth:`Model.load`.
        PipelineError: a folder that is no saved generator, or a damaged one.
    """
    place, text = split_name(name)
    return replace(_found(place), options=parse_options(text, place) if text is not None else ())


def _found(name: str) -> Model:
    if name in UNTRAINED:
        return Model(name, None, PriorGenerator(name).facts)
    folder = found_folder(name)
    if not folder.is_dir():
        known = ", ".join([*UNTRAINED, *shipped_models()])
        raise MesynthError(f"model '{name}' is unknown; choose from {known}, or give a folder that training wrote")
    if not (folder / INDEX).is_file() and (folder / "cross_fit.json").is_file():
        raise PipelineError(
            f"{folder} holds the generators of a cross-fit, one for each group of subjects; name one of them "
            f"({folder / 'group-0'}), or the folder among the generators of `recognizer study`, which takes each "
            "where it may be taken"
        )
    facts = read_facts(folder)
    if not facts.subjects_seen:
        raise PipelineError(f"{folder} does not say whom it learned from (subjects_seen is empty); retrain it")
    return Model(facts.name, folder, facts)


# ---------------------------------------------------------------- options


def split_name(name: str) -> tuple[str, str | None]:
    """A model's name as a user writes it -> what it names, and the text of its options (None: there are none).

    >>> split_name("runs/d@steps=8,guidance=2")
    ('runs/d', 'steps=8,guidance=2')
    >>> split_name("runs/d")
    ('runs/d', None)
    """
    place, at, text = name.rpartition("@")
    # A folder may be called d@2: then the name is whole, unless what follows reads as options of what stands before.
    if not at or Path(name).is_dir() or ("=" not in text and not _exists(place)):
        return name, None
    return place, text


def _exists(place: str) -> bool:
    return place in UNTRAINED or place in shipped_models() or (bool(place) and Path(place).is_dir())


def split_models(text: str) -> list[str]:
    """Names separated by commas, which also separate options: a part ``name=value`` without an ``@`` goes on with the
    options of the name before it, where that has some.

    >>> split_models("motion-prior, runs/d@steps=8,guidance=2,runs/e")
    ['motion-prior', 'runs/d@steps=8,guidance=2', 'runs/e']
    """
    names: list[str] = []
    for part in (p.strip() for p in text.split(",")):
        if names and "@" in names[-1] and "@" not in part and part.partition("=")[0].isidentifier() and "=" in part:
            names[-1] += f",{part}"
        elif part:
            names.append(part)
    return names


def parse_options(text: str, place: str) -> tuple[tuple[str, Option], ...]:
    """``steps=8,guidance=2`` -> pairs sorted by name; numbers and true, false become such, the rest stays text.

    Raises:
        ConfigError: no ``name=value``, or a name twice; ``place`` is the model, for the message.
    """
    out: dict[str, Option] = {}
    for part in text.split(","):
        key, equals, value = (x.strip() for x in part.partition("="))
        if not equals or not key.isidentifier() or not value:
            raise ConfigError(f"'{part}' in '{place}@{text}' is no option; write for example {place}@steps=8")
        if key in out:
            raise ConfigError(f"'{place}@{text}' gives the option {key} twice; give it once")
        out[key] = _value(value)
    return tuple(sorted(out.items()))


def _value(text: str) -> Option:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        return number if math.isfinite(number) else text
    return text


def option_text(options: Mapping[str, Option] | tuple[tuple[str, Option], ...]) -> str:
    """As :func:`parse_options` reads it."""
    words = {True: "true", False: "false"}
    return ",".join(f"{k}={words[v] if isinstance(v, bool) else v}" for k, v in dict(options).items())


def configured(generator: Generator, options: Mapping[str, Option]) -> Generator:
    """The generator with ``options`` of its family, which has ``configured(**options) -> Generator`` if it takes any:
    another generator, which may share the first one's networks.

    Raises:
        ConfigError: an option that the family does not have (MesynthError for a value it cannot take).
    """
    if not options:
        return generator
    method = getattr(generator, "configured", None)
    known: list[str] = []
    if method is not None:
        parameters = inspect.signature(method).parameters.values()
        known = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
        if len(known) < len(parameters) or set(options) <= set(known):
            made: Generator = method(**options)
            made.folder = generator.folder
            assert made is not generator, "configured() makes another generator"
            return made
    unknown = next(name for name in options if name not in known)
    choice = f"choose from {', '.join(known)}" if known else "it knows none"
    raise ConfigError(f"{generator.family} has no option '{unknown}'; {choice}")
