"""Who takes part in a benchmark: a generator with what its saved form says, called in one way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mesynth.benchmark.people import Person, RenderedTruth
from mesynth.benchmark.requests import BENCHMARK_SEEDS
from mesynth.core.errors import LeakError, MesynthError
from mesynth.core.profiles import Profile
from mesynth.core.types import AUVector
from mesynth.generators.base import Generator
from mesynth.generators.registry import configured, find_model, split_name
from mesynth.store.generator_folder import UNTRAINED, WEIGHTS, makes_frames, shipped_models
from mesynth.training.data.rendered import person_key

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


def load_candidates(names: Sequence[str]) -> list[Candidate]:
    """Load generators by name (see :func:`mesynth.generators.registry.find_model`), in the order given.

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
        model = find_model(name)
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
