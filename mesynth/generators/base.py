"""What all generators share: the call, loading from a saved folder, gains, and the card.

Gains of a calibrated generator say how much more or less of an AU to ask its network for: one that shows 80 % of what
it is asked for is asked for 1.25 times as much. They lie in the generator's facts, are fitted by
:mod:`mesynth.benchmark.calibrate`, and are applied where a family hands AUs to its network. Clips keep the AUs that the
user asked for. A card is written from the facts alone: nothing in it is typed in.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import yaml

from mesynth.core.devices import autocast, check_precision, find_device
from mesynth.core.errors import MesynthError
from mesynth.core.facs import AU_CODES, AU_INDEX, reject_conflicts
from mesynth.core.process import part
from mesynth.core.types import AUVector
from mesynth.motion.nuisance import Nuisance
from mesynth.motion.onset import Answer, Onset, concerns
from mesynth.store.generator_folder import (
    FAMILIES,
    INDEX,
    UNTRAINED,
    GeneratorFacts,
    PipelineError,
    has_property,
    read_facts,
    save_pipeline,
    saved_folder,
)
from mesynth.store.hub import MODEL, fetch, is_hub

if TYPE_CHECKING:
    from mesynth.core.profiles import Profile
    from mesynth.core.types import Sample
    from mesynth.motion.prior import Face


ROWS_AT_ONCE = 32
"""Rows in one forward pass elsewhere than on the CPU: of motion families clips, of painters clips whose frames go
through in portions of their own."""


@dataclass(frozen=True, eq=False)
class ClipRequest:
    """One call of a generator, as its parts pass it on; see :meth:`Generator.generate`."""

    face: Face
    aus: AUVector
    profile: Profile
    n_frames: int
    fps: float
    nuisance: Nuisance = Nuisance()
    seed: int = 0

    def answered(self, sample: Sample, shown: AUVector | None = None) -> Sample:
        """What a family made, with the AUs that were asked for, or ``shown``, and without the face's margin."""
        if self.face.margin and sample.clip.frames.shape[1:3] == self.face.image.shape[:2]:
            from mesynth.motion.prior import inner

            sample = inner(sample, self.face.margin)
        return replace(sample, aus=self.aus if shown is None else shown)

    def for_onset(self) -> tuple[ClipRequest, Answer]:
        """The request as its face can show it; see :mod:`mesynth.motion.onset`.

        Raises:
            AUConflictError: AUs that exclude each other.
            OnsetError: an AU that cannot be shown from this onset.
        """
        reject_conflicts(self.aus)
        if not concerns(self.aus):
            return self, Answer(self.aus, self.aus)
        answer = Onset.of(self.face.landmarks).answer(self.aus).or_raise()
        return (self if answer.aus is self.aus else replace(self, aus=answer.aus)), answer


class Pretrained:
    """What generators of clips and of flow images share: where they run, come from and are published."""

    family: str
    size: int
    facts: GeneratorFacts
    folder: Path | None = None
    """Where it was loaded from; None for one without training."""
    device: str = "cpu"
    """Where its networks run, and where frames are made; see :meth:`to`."""
    precision: str = "fp32"
    """Of products in its networks; see :meth:`to`."""
    torch_frames: bool | None = None
    """Whether frames are made by torch, on the device; None: elsewhere than on the CPU."""
    rows_at_once: int | None = None
    """Rows of many clips in one forward pass; None: one on the CPU, where a row has the same bytes in any company, and
    :data:`ROWS_AT_ONCE` elsewhere."""

    @classmethod
    def from_pretrained(cls, name: str | Path) -> Self:
        """A trained generator: one that ships, a folder, or ``hf://ORG/NAME``; see :func:`mesynth.load_generator`.

        Raises:
            PipelineError: also a generator of another family than the class that is asked.

        >>> Generator.from_pretrained("motion_gan").family
        'motion_gan'
        """
        found: Pretrained = load_pipeline(found_folder(str(name)))
        if not isinstance(found, cls):
            raise PipelineError(f"'{name}' is a {found.family}, no {cls.__name__}; call mesynth.load_generator")
        return found

    def to(self, device: Any, precision: str = "fp32") -> Self:
        """Run its networks and make frames there: "auto", "cpu", "cuda", "cuda:1", "mps". Returns the generator itself.

        On the CPU a clip has the same bytes whatever is made beside it. Elsewhere many rows share a forward pass, and
        frames agree with the CPU's within a grey level or two (docs/corpora.md). ``precision``: "bf16" for products of
        networks in bfloat16.

        Raises:
            ConfigError: no such device, or one that does not know the precision.

        >>> Generator.from_pretrained("motion_gan").to("cpu").device
        'cpu'
        """
        where = find_device(str(device), "device ")
        check_precision(precision, where, "precision ")
        for network in self._networks():
            network.to(where)
        self.device, self.precision = where, precision
        return self

    def _networks(self) -> list[Any]:
        """What :meth:`to` moves."""
        network = getattr(self, "network", None)
        return [] if network is None else [network]

    @property
    def frames_on(self) -> str | None:
        """The device where torch makes frames; None: numba makes them, see :mod:`mesynth.motion.batched`."""
        wanted = self.device != "cpu" if self.torch_frames is None else self.torch_frames
        return self.device if wanted else None

    def blocks(self, rows: int) -> Iterator[slice]:
        """``rows`` in the portions that go through the networks together; see :attr:`rows_at_once`."""
        step = self.rows_at_once or (1 if self.device == "cpu" else ROWS_AT_ONCE)
        return (slice(start, min(start + step, rows)) for start in range(0, rows, step))

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of a forward pass, as :attr:`precision` has it."""
        return autocast(self.device, self.precision)

    def push_to_hub(
        self, name: str, *, private: bool = True, may_publish: bool = False, token: str | None = None
    ) -> str:
        """Publish the folder that it was loaded from, as it lies there: see :func:`mesynth.push_to_hub`.

        Raises:
            PipelineError: a generator without training has no folder.
        """
        if self.folder is None:
            raise PipelineError(f"{self.family} is not trained and has no folder to publish; it comes with mesynth")
        from mesynth.store.hub import push_to_hub

        return push_to_hub(self.folder, name, private=private, may_publish=may_publish, token=token)


class Generator(Pretrained, ABC):
    """Clips of a face: a family says with :meth:`clip_of` how one is made. Safe to call in any order."""

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
        **own: Any,
    ) -> tuple[Sample, tuple[str, ...]]:
        """The clip at ``face.image``'s size, less the face's margin, with its onset -> apex flow, and warnings.

        Frame 0 is the input face; frame ``profile.apex_index(n_frames)`` is the apex. The same arguments give the
        same bytes on one machine, whatever was generated before. ``own``: what :meth:`clip_of` of a family takes
        beside the request.

        The sample's AUs are what is shown of the request on this face; where that is less, a warning says so.

        Raises:
            AUConflictError: AUs that exclude each other.
            OnsetError: an AU that this onset cannot show (a smile lowered where there is none).
            MesynthError: what the family cannot take.
        """
        request = ClipRequest(face, aus, profile, n_frames, fps, nuisance, seed)
        asked, answer = self._able(request)
        sample, warnings = self.clip_of(asked, **own)
        return asked.answered(sample, answer.shown), (*answer.notes, *warnings)

    def generate_many(self, requests: Sequence[ClipRequest]) -> Iterator[tuple[Sample, tuple[str, ...]]]:
        """What :meth:`generate` makes of each request, in their order, one clip in memory at a time.

        Elsewhere than on the CPU the rows of many clips go through the networks together (:attr:`rows_at_once`). A clip
        does not depend on the others: on the CPU to the bit.

        Raises:
            AUConflictError, OnsetError, MesynthError: as :meth:`generate`.
        """
        able = [self._able(request) for request in requests]
        for block in self.blocks(len(requests)):
            together = able[block]
            made = self.clips_of([request for request, _ in together])
            for request, answer in together:
                with part("model"):  # makers of frames inside it take "warp" off
                    sample, warnings = next(made)
                yield request.answered(sample, answer.shown), (*answer.notes, *warnings)

    def _able(self, request: ClipRequest) -> tuple[ClipRequest, Answer]:
        """The request as face and family can show it."""
        if (request.aus.intensity < 0).any():
            check_signs(self.family, request.aus)
        return request.for_onset()

    def clips_of(self, requests: Sequence[ClipRequest]) -> Iterator[tuple[Sample, tuple[str, ...]]]:
        """:meth:`clip_of` of each; a family whose network takes many rows asks it once for all of them."""
        return (self.clip_of(request) for request in requests)

    @abstractmethod
    def clip_of(self, request: ClipRequest) -> tuple[Sample, tuple[str, ...]]:
        """The clip at its face's size with its onset -> apex flow, and warnings. The AUs do not exclude each other.
        Whoever can may leave out the face's margin, which :meth:`generate` cuts off otherwise.

        The sample may carry other AUs (those that the network was asked for): :meth:`generate` puts the request's back.
        """


def check_signs(family: str, aus: AUVector) -> None:
    """Refuse AUs that are lowered where a family does not move a face's pixels by fields of AUs.

    Raises:
        MesynthError: names the first such AU.
    """
    lowered = np.flatnonzero((aus.intensity < 0).any(1))
    if len(lowered) and family not in UNTRAINED and not has_property(family, "lowers"):
        raise MesynthError(
            f"{family} cannot lower AU {AU_CODES[lowered[0]]}: it never saw that; use motion-prior, landmark-mean, "
            "motion_gan or motion_diffusion, or an intensity from 0 on"
        )


def found_folder(name: str) -> Path:
    """Where a trained generator lies that is named by a user: one that ships, a folder, or ``hf://ORG/NAME``, which is
    fetched. A run's folder stands for the generator in it."""
    folder = fetch(name, MODEL) if is_hub(name) else saved_folder(name)
    if not (folder / INDEX).is_file() and (folder / "generator" / INDEX).is_file():
        return folder / "generator"
    return folder


def load_pipeline(folder: Path | str, gains: Mapping[str, float] | None = None) -> Generator:
    """The generator saved in ``folder``, on the CPU; ``gains``: in place of its own.

    Raises:
        PipelineError: missing, foreign or damaged (the file is named).
    """
    folder = Path(folder)
    facts = read_facts(folder)
    if gains is not None:
        facts = replace(facts, gains=dict(gains))
    generator: Generator = FAMILIES[facts.name].load(folder, facts)
    generator.folder = folder
    return generator


# ------------------------------------------------------------------- gains


LEAST, MOST = 0.5, 2.0
"""Gains are kept within these: beyond, the network does not do what it is asked, and a factor will not mend it."""


def calibrated(aus: AUVector, facts: GeneratorFacts) -> AUVector:
    """The AUs to ask the network for: ``min(1, gain a)`` of every intensity; the same object without gains.

    Intensity 0 stays 0, unknown stays unknown, and what layers draw (:data:`mesynth.motion.layers.LAYERED`) as asked.
    """
    if not facts.gains:
        return aus
    factor = np.ones((len(AU_INDEX), 1), np.float32)
    for code, gain in facts.gains.items():
        factor[AU_INDEX[int(code)]] = gain
    return AUVector(np.minimum(1, factor * aus.intensity, dtype=np.float32), aus.known)


# ------------------------------------------------------------------- card


_SHOWN = 12


_GENERATE = 'sample, warnings = load_pipeline("this folder").generate(face, aus, profile, n_frames=65, fps=200)'


def save_trained(
    folder: Path,
    networks: Mapping[str, Any],
    facts: GeneratorFacts,
    *,
    title: str,
    what: str,
    limits: str,
    use: str = "",
    licences: Iterable[str] = (),
) -> None:
    """Write a trained generator's folder with its card; see :func:`save_pipeline` and :func:`model_card`.

    ``licences``: of networks of others in it, beside those of the data.
    """
    plain = replace(facts, licences=(*facts.licences, *licences)).plain()
    counted = {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()}
    card = model_card(plain, title=title, what=what, limits=limits, parameters=counted, use=use or _GENERATE)
    save_pipeline(folder, networks, plain, card, size=facts.size)


def model_card(
    facts: Mapping[str, Any],
    *,
    title: str,
    what: str,
    limits: str,
    parameters: Mapping[str, int],
    use: str = _GENERATE,
) -> str:
    """Markdown: what it is and is not, whom it learned from, licences, figures, how to use it (``use``: Python).

    ``facts`` has the keys of :class:`mesynth.store.generator_folder.GeneratorFacts` that training knows;
    ``parameters`` are counted by network. ``what`` and ``limits`` are the family's own paragraphs.
    """
    seen = list(facts["subjects_seen"])
    shown = ", ".join(seen[:_SHOWN]) + (f" and {len(seen) - _SHOWN} more (mesynth.json)" if len(seen) > _SHOWN else "")
    figures = "\n".join(f"| {name} | {float(value):.4g} |" for name, value in sorted(facts["figures"].items()))
    sizes = ", ".join(f"{name} {count:,}" for name, count in parameters.items())
    front = {
        "library_name": "mesynth",
        "license": "other",
        "license_name": "; ".join(facts["licences"]) or "see-below",
        "tags": ["micro-expression", "facial-action-units", "optical-flow", facts["name"]],
    }
    return f"""---
{yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=1000).strip()}
---

# {title}

{what.strip()}

**Limits.** {limits.strip()}

## Data

{len(seen)} subjects: {shown or "none"}.
Licences of the data: {"; ".join(facts["licences"]) or "none"}. A clip made with this generator carries these subjects
as seen; a recognizer's fold that holds one of them out refuses the clip.

## Training

Family `{facts["name"]}`, {facts["images"]:,} pairs, seed {facts["seed"]}, mesynth {facts["code_version"]}.
Parameters: {sizes}. Data `{facts["data_hash"]}`, configuration `{facts["config_hash"]}`.

## Figures on validation pairs

| measure | value |
|---|---|
{figures or "| none | |"}

## Use

```python
from mesynth.generators.base import load_pipeline

{use}
```
"""
