"""Generators by name: the motion prior, a model that ships with the package, or a folder that training wrote."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mesynth import __version__
from mesynth.errors import MesynthError
from mesynth.generators.pipeline import INDEX, Generator, GeneratorFacts, PipelineError, load_pipeline, read_facts
from mesynth.motion.nuisance import Nuisance
from mesynth.motion.prior import NAME, Face, MotionPrior

if TYPE_CHECKING:
    from mesynth.temporal import Profile
    from mesynth.types import AUVector, Sample

SHIPPED = Path(__file__).parent.parent / "generators" / "data"
"""One folder a model that comes with the package."""
_FACES_KEPT = 8


class PriorGenerator:
    """The AU motion prior behind the call that all generators share. It learned from nobody."""

    family = NAME
    size = 0  # any

    def __init__(self) -> None:
        self.facts = GeneratorFacts(
            name=NAME, size=0, subjects_seen=(), licences=(), data_hash="", config_hash="", images=0, seed=0,
            code_version=__version__,
        )  # fmt: skip
        self._priors: OrderedDict[int, MotionPrior] = OrderedDict()  # by identity of the face, which they keep alive

    def generate(
        self,
        face: Face,
        aus: AUVector,
        profile: Profile,
        *,
        n_frames: int,
        fps: float,
        nuisance: Nuisance = Nuisance(),
        seed: int = 0,
    ) -> tuple[Sample, tuple[str, ...]]:
        """See :meth:`mesynth.motion.prior.MotionPrior.generate`; the fields of the last faces are kept."""
        key = id(face)
        if key not in self._priors:
            self._priors[key] = MotionPrior(face)
            while len(self._priors) > _FACES_KEPT:
                self._priors.popitem(last=False)
        self._priors.move_to_end(key)
        return self._priors[key].generate(
            aus, profile, n_frames=n_frames, fps=fps, nuisance=nuisance, seed=seed
        )  # fmt: skip


@dataclass(frozen=True)
class Model:
    """Which generator a run uses: picklable, loaded in each process that needs it."""

    name: str
    """For messages and provenance: the family."""
    folder: Path | None
    """None for the motion prior."""
    facts: GeneratorFacts

    def load(self) -> Generator:
        """Raises PipelineError when the folder has changed since it was found."""
        return PriorGenerator() if self.folder is None else load_pipeline(self.folder)

    @property
    def identity(self) -> dict[str, Any]:
        """What a run's result depends on; never where the folder lies."""
        return {"generator": self.name} | ({"weights": self.facts.weights_sha256} if self.folder else {})


def shipped_models() -> list[str]:
    """Names of the models that come with the package."""
    if not SHIPPED.is_dir():
        return []
    return sorted(folder.name for folder in SHIPPED.iterdir() if (folder / INDEX).is_file())


def find_model(name: str) -> Model:
    """``motion-prior``, the name of a shipped model, or a folder that ``mesynth train`` wrote.

    A run's folder stands for the generator in it.

    Raises:
        MesynthError: neither a known name nor a folder.
        PipelineError: a folder that is no saved generator, or a damaged one.
    """
    if name == NAME:
        return Model(NAME, None, PriorGenerator().facts)
    if name in shipped_models():
        folder = SHIPPED / name
    else:
        folder = Path(name)
        if not folder.is_dir():
            known = ", ".join([NAME, *shipped_models()])
            raise MesynthError(f"model '{name}' is unknown; choose from {known}, or give a folder that training wrote")
        if not (folder / INDEX).is_file() and (folder / "generator" / INDEX).is_file():
            folder = folder / "generator"
    facts = read_facts(folder)
    if not facts.subjects_seen:
        raise PipelineError(f"{folder} does not say whom it learned from (subjects_seen is empty); retrain it")
    return Model(facts.name, folder, facts)
