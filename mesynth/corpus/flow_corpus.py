"""Corpora of flow images without faces, by the flow prior or a flow GAN: plan rows in, one image a row out."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from mesynth.core import emotions, facs
from mesynth.core.errors import ConfigError, MesynthError
from mesynth.core.framing import COVERED, OWN, Framing, covered, reframed
from mesynth.core.process import part
from mesynth.core.types import AUVector
from mesynth.corpus.generate import Pace, run_plan
from mesynth.corpus.plan import FILE_NAME as PLAN_FILE
from mesynth.corpus.plan import VIRTUAL, Plan, PlanConfig, PlanFace, PlanRow, StoredPlan, virtual_faces, write_plan
from mesynth.motion.flow_prior import NAME, FlowNuisance, FlowPrior, FlowRequest, effective_intensity, tables
from mesynth.store.cluster import do_once
from mesynth.store.manifest import Manifest, Provenance, Row
from mesynth.store.run_folder import config_hash
from mesynth.store.stage import Jobs, Produced, Progress

if TYPE_CHECKING:
    from mesynth.generators.flow_gan.network import FlowGAN
    from mesynth.generators.registry import Model


LICENCE = "Apache-2.0; head meshes CC0-1.0"
_AT_ONCE = 256
"""Rows drawn at once. An image does not depend on it."""


@dataclass(frozen=True)
class Job:
    """One row, and the rows that are drawn along with it."""

    together: tuple[PlanRow, ...]
    place: int


class Batches:
    """Rows as :class:`Job` items: they come one at a time, as a stage wants them, and are drawn many at a time."""

    def __init__(self, rows: Jobs) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, part: slice, /) -> Batches:
        return Batches(self._rows[part])

    def __iter__(self) -> Iterator[Job]:
        rows = iter(self._rows)
        while together := tuple(islice(rows, _AT_ONCE)):
            yield from (Job(together, place) for place in range(len(together)))


class FlowWorker:
    """Makes the flow image of one row. Picklable: fields and networks are read in each process."""

    def __init__(
        self,
        model: Model | None,
        people: Sequence[str],
        size: int,
        nuisance: FlowNuisance,
        plan: str,
        framing: Framing = OWN,
    ) -> None:
        self.model, self.people, self.size, self.nuisance, self.plan = model, tuple(people), size, nuisance, plan
        self.framing = framing
        self._prior: FlowPrior | None = None
        self._gan: FlowGAN | None = None
        self._made: tuple[tuple[PlanRow, ...], np.ndarray] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_prior": None, "_gan": None, "_made": None}

    def __call__(self, job: Job) -> Produced:
        if self._made is None or self._made[0] is not job.together:
            self._made = (job.together, self._draw(job.together))
        return Produced(self._row(job.together[job.place]), flow=self._made[1][job.place])

    @part("model")
    def _draw(self, rows: tuple[PlanRow, ...]) -> np.ndarray:
        """[B,2,S,S] float32"""
        if self.model is not None:
            return self._sampled(rows)
        if self._prior is None:
            with part("load"):
                self._prior = FlowPrior(self.size, self.nuisance, self.framing)
        return self._prior.draw([self._asked(row) for row in rows])

    def _asked(self, row: PlanRow) -> FlowRequest:
        return FlowRequest(
            intensity=row.aus.intensity,
            person=self.people[row.face],
            seed=row.seed,
            profile=row.profile,
            n_frames=row.n_frames,
            fps=row.fps,
            head=row.nuisance.head,
            blink=row.nuisance.blink,
            style=row.nuisance.style,
        )

    def _sampled(self, rows: tuple[PlanRow, ...]) -> np.ndarray:
        from mesynth.generators.flow_gan.network import FlowGAN

        assert self.model is not None
        if self._gan is None:
            with part("load"):
                loaded = self.model.load()
            assert isinstance(loaded, FlowGAN)
            self._gan = loaded
        trained = self._gan.network.config["condition"]
        drawn = self._gan.sample(
            seeds=[row.seed for row in rows],
            labels=None if trained == "aus" else [emotions.label(row.emotion) for row in rows],
            aus=None if trained == "class" else np.stack([row.aus.intensity for row in rows]),
            size=self.size,
        )
        return drawn if self.framing == OWN else reframed(drawn, OWN, self.framing)

    def _row(self, plan: PlanRow) -> Row:
        learned = self.model.facts if self.model else None
        person = self.people[plan.face].partition("/")[2]
        aus = plan.aus if learned else AUVector(effective_intensity(self.nuisance, plan.aus.intensity))
        own = f"{VIRTUAL}/{person}"
        return Row(
            clip_id=f"{own}/syn{plan.index:07d}/0",
            database=VIRTUAL,
            subject=person,
            clip=f"syn{plan.index:07d}",
            **plan.columns(aus, (self.size, self.size), plan.profile.apex_index(plan.n_frames)),
            provenance=Provenance(
                database=VIRTUAL,
                subject=person,
                licence="; ".join(learned.licences) if learned else LICENCE,
                # No recorded face is shown: seen are the labels that gave the AUs, and whom a network learned from.
                subjects_seen=tuple(dict.fromkeys((own, *plan.au_seen, *(learned.subjects_seen if learned else ())))),
                parents=(self.plan,),
                generator=self.model.described if self.model else NAME,
                weights_sha256=learned.weights_sha256 if learned else fields_hash(),
                **plan.origin(),
            ),
        )


@lru_cache(maxsize=1)
def fields_hash() -> str:
    """sha256 of the fields that the flow prior moves skin by: what weights are to a network."""
    return hashlib.sha256(tables().fields.tobytes()).hexdigest()


def find_flow_model(name: str | Model, framing: Framing = OWN) -> Model | None:
    """None for the flow prior, else a saved flow GAN, by its name or as it was found.

    Raises:
        MesynthError: no such model, or one that makes frames.
        ConfigError: a network's images, which are drawn in our crop, do not show what ``framing`` does.
    """
    if name == NAME:
        return None
    from mesynth.generators.flow_gan.network import FAMILY
    from mesynth.generators.registry import find_model

    model = find_model(name) if isinstance(name, str) else name
    if model.name != FAMILY:
        given = name if isinstance(name, str) else name.folder or name.name
        raise MesynthError(
            f"model '{given}' is a {model.name} and makes frames; --kind flow takes {NAME} or a trained {FAMILY} folder"
        )
    if (shown := covered(OWN, framing)) < COVERED:
        raise ConfigError(
            f"{model.name} draws {shown:.0%} of a crop framed {framing.text()}; take one that lies inside ours "
            f"({OWN.text()}), or the {NAME}, which draws any"
        )
    return model


def generate_flow(
    rows: PlanConfig | StoredPlan,
    out: Path,
    *,
    model: str | Model = NAME,
    people: int = 0,
    size: int = 28,
    nuisance: FlowNuisance = FlowNuisance(),
    framing: Framing = OWN,
    **pace: Unpack[Pace],
) -> Manifest:
    """A corpus of flow images of ``size`` pixels in ``out``: manifest and shards, no frames; read as any corpus.

    ``rows``: a stored plan (each of its faces becomes a face shape), or what a plan is drawn from, of ``people`` face
    shapes (0: as many as rows, at most 1,000). Head motion, blinks and style are the rows' own; everything else, and
    how strong those are, is ``nuisance``. ``framing``: where faces lie; images of a GAN are taken there from our crop.
    Resumes, and gives the same bytes at any ``pace``, as
    :func:`mesynth.corpus.generate.generate`.

    Raises:
        RunFolderError: ``out`` holds another run or cannot be written.
        ConfigError: a size or strength out of range.
        MesynthError: a model that is no flow GAN, or rows that it cannot draw.
    """
    run = flow_run(rows, model=model, people=people, size=size, nuisance=nuisance, framing=framing)
    return run_plan(run, out, **pace)


@dataclass(frozen=True)
class FlowRun:
    """A :class:`mesynth.corpus.generate.CorpusRun` of flow images."""

    rows: Plan | StoredPlan
    model: Model | None
    people: list[str]
    size: int
    nuisance: FlowNuisance
    framing: Framing
    plan_hash: str
    config: dict[str, Any]

    bars = ("flow images",)

    def prepare(self, out: Path, workers: int, progress: Progress | None) -> None:
        if do_once(out, "plan", (out / PLAN_FILE).is_file):
            write_plan(self.rows, out)

    def jobs(self, rows: Jobs) -> Jobs:
        return Batches(rows)

    def worker(self, out: Path) -> FlowWorker:
        return FlowWorker(self.model, self.people, self.size, self.nuisance, self.plan_hash, self.framing)


def flow_run(
    rows: PlanConfig | StoredPlan,
    *,
    model: str | Model,
    people: int,
    size: int,
    nuisance: FlowNuisance,
    framing: Framing = OWN,
) -> FlowRun:
    """See :func:`generate_flow`. Raises ConfigError and MesynthError as it does; nothing is written."""
    chosen = find_flow_model(model, framing)
    FlowPrior.check_size(size)
    if chosen is not None and nuisance != FlowNuisance():
        raise MesynthError(f"flow nuisances are the {NAME}'s; {chosen.name} draws what it learned")
    given = (facs.parse_request(text) for text in rows.au) if isinstance(rows, PlanConfig) else (r.aus for r in rows)
    for aus in given:
        if (aus.intensity < 0).any():
            raise MesynthError(
                f"'{facs.format_vector(aus)}' lowers what a face shows, and flow images are drawn without one; give "
                "intensities from 0 on, or leave --kind flow out"
            )
    planned: Plan | StoredPlan
    identity: dict[str, Any]
    if isinstance(rows, StoredPlan):
        faces, planned, identity = rows.faces, rows, {"stored_plan": rows.hash}
    else:
        faces = virtual_faces(people or min(rows.count, 1000))
        planned = Plan(rows, len(faces))
        identity = {"plan": dataclasses.asdict(rows), "people": len(faces)}
    run: dict[str, Any] = {"generator": NAME} if chosen is None else chosen.identity
    run = {"kind": "flow"} | run | identity | {"size": size, "nuisance": dataclasses.asdict(nuisance)}
    if framing != OWN:
        run["framing"] = dataclasses.asdict(framing)
    shapes = [_person(face) for face in faces]
    return FlowRun(planned, chosen, shapes, size, nuisance, framing, config_hash(identity), run)


def _person(face: PlanFace) -> str:
    """The face shape of a planned face: its own name if it is virtual, else one that says nothing of the person."""
    if face.database == VIRTUAL:
        return face.key
    return f"{VIRTUAL}/{hashlib.sha256(repr(face.identity).encode()).hexdigest()[:12]}"
