"""From a design, faces and a manifest of coded AUs to the rows of a plan, checked before anything is written.

Rows are drawn one after another; the same design, seed and inputs give the same rows."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from mesynth.core import facs, seeds
from mesynth.core.emotions import AUSampling
from mesynth.core.errors import ConfigError, LeakError
from mesynth.core.process import counted
from mesynth.core.profiles import MAX_DURATION_S, MIN_DURATION_S, draw_profile, frame_count
from mesynth.core.types import AUVector
from mesynth.corpus.design import (
    MAX_ROWS,
    AUDesign,
    AUSource,
    Design,
    Intensity,
    SampledAUs,
    make_sources,
    parse_intensity,
)
from mesynth.corpus.faces import Examination, find_faces
from mesynth.corpus.plan import (
    PlanFace,
    PlanRow,
    StoredPlan,
    Summary,
    face_of,
    pairs_of,
    plan_faces,
    summarise,
    virtual_faces,
    write_plan_folder,
)
from mesynth.motion.nuisance import Nuisance
from mesynth.motion.prior import WARP_LIMIT
from mesynth.store import digests
from mesynth.store.manifest import Manifest
from mesynth.store.stage import Progress

_WEAKEST, _STRONGEST = 0.02, facs.LETTER_INTENSITY["D"]  # FACS E is no micro-expression
_WEAK_SIDE = 0.35
_USUAL = AUSampling()
_MIDLINE = np.array([code in facs.MIDLINE for code in facs.AU_CODES])
_LIMITS = np.array([WARP_LIMIT.get(code, np.inf) for code in facs.AU_CODES])[:, None]
_GIVEN = Intensity("given")


@dataclass(frozen=True)
class DesignCell:
    """One combination of a source's factors."""

    entry: int
    intensity: Intensity
    sides: str
    profile: str
    nuisance: Nuisance


class Planner:
    """All rows of a design over ``n_faces`` faces. Each row's random numbers depend on the seed and its index alone."""

    def __init__(self, design: Design, n_faces: int, sources: Mapping[str, AUSource]) -> None:
        """Raises MesynthError without faces, for an emotion that a source cannot draw, or for too many rows."""
        if n_faces < 1:
            raise ConfigError("there is no face to plan for; give --faces a folder with pictures")
        self.design, self.n_faces, self.sources = design, n_faces, sources
        distributions = [parse_intensity(text) for text in design.aus.intensity]
        levels = list(product(design.clip.profiles, design.nuisance.levels()))
        self.cells: dict[tuple[str, str], list[DesignCell]] = {}
        for emotion, (name, source) in product(design.emotions, sources.items()):
            n = source.choices(emotion)
            shown = [(_GIVEN, "given")] if name == "fixed" else list(product(distributions, design.aus.sides))
            self.cells[emotion, name] = [
                DesignCell(entry, how, side, profile, nuisance)
                for entry, (how, side), (profile, nuisance) in product(range(n), shown, levels)
            ]
        if len(self) > MAX_ROWS:
            raise ConfigError(f"the design has {len(self)} rows, more than {MAX_ROWS}; take levels out or count rows")

    def __len__(self) -> int:
        rows = self.design.rows
        if rows.mode == "count":
            return rows.count
        return rows.seeds * self.n_faces * sum(map(len, self.cells.values()))

    def __iter__(self) -> Iterator[PlanRow]:
        drawn = self._balanced() if self.design.rows.mode == "count" else self._all()
        for index, (emotion, name, cell, face) in enumerate(drawn):
            yield self._row(index, emotion, name, cell, face)

    def _all(self) -> Iterator[tuple[str, str, DesignCell, int]]:
        """A repetition after the other, so that a plan's beginning is complete in itself."""
        for _ in range(self.design.rows.seeds):
            for (emotion, name), cells in self.cells.items():
                for cell, face in product(cells, range(self.n_faces)):
                    yield emotion, name, cell, face

    def _balanced(self) -> Iterator[tuple[str, str, DesignCell, int]]:
        """Emotions by their shares; in each, sources and cells once a round, in an order of the round's own. No face
        is taken again before all were."""
        emotions, names = self.design.emotions, list(self.sources)
        weights = np.array(self.design.weights)
        made = np.zeros(len(emotions), np.int64)
        rounds = _PermutedBlocks(self.design.seed)
        faces = _Faces(self.n_faces, len(emotions), self.design.seed, in_turn=bool(np.ptp(weights) < 1e-9))
        for index in range(self.design.rows.count):
            # The emotion that lags most behind its share; ties go to the first.
            c = int(np.argmax(np.round(weights * (index + 1) - made, 9)))
            turn = int(made[c])
            made[c] += 1
            name = names[rounds.take(f"source/{c}", turn, len(names))]
            cells = self.cells[emotions[c], name]
            cell = cells[rounds.take(f"cell/{c}/{name}", turn // len(names), len(cells))]
            yield emotions[c], name, cell, faces.take(index, c)

    def _row(self, index: int, emotion: str, name: str, cell: DesignCell, face: int) -> PlanRow:
        design = self.design
        rng = seeds.stream(design.seed, "design", index)
        source = self.sources[name]
        drawn = source.draw(emotion, cell.entry, rng)
        vector = show(drawn, cell.intensity, cell.sides, design.aus, rng, one_sided=source.one_sided)
        # The text is what the plan's file keeps; the row holds what is read back from it.
        profile = draw_profile(cell.profile, rng).rounded()
        seconds = float(np.clip(rng.uniform(*design.clip.duration), MIN_DURATION_S, MAX_DURATION_S))
        return PlanRow(
            index=index,
            face=face,
            emotion=drawn.emotion,
            intensity=pairs_of(vector.intensity),
            au_source=name,
            profile=profile,
            n_frames=frame_count(seconds, design.clip.fps),
            fps=design.clip.fps,
            nuisance=cell.nuisance,
            seed=int(rng.integers(2**31)),
            au_seen=drawn.seen,
        )


class _PermutedBlocks:
    """Takes each of n things once a round, in a random order of the round's own; equal turns take equal things."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._orders: dict[str, tuple[int, np.ndarray]] = {}

    def take(self, name: str, turn: int, n: int) -> int:
        """Which of ``n`` things ``name`` is at on this turn."""
        if n == 1:
            return 0  # whatever the order
        number = turn // n
        if self._orders.get(name, (-1, None))[0] != number:
            order = seeds.stream(self._seed, f"round/{name}", number).permutation(n)
            self._orders[name] = (number, order)
        return int(self._orders[name][1][turn % n])


class _Faces:
    """Faces, none of them again before all were; each meets the emotions as evenly as their shares allow."""

    def __init__(self, n_faces: int, n_emotions: int, seed: int, *, in_turn: bool) -> None:
        """``in_turn``: the emotions have equal shares, and so come in turn; then it is exactly even."""
        self.n_faces, self.n_emotions, self.seed, self.in_turn = n_faces, n_emotions, seed, in_turn
        self._met = np.zeros((n_emotions, n_faces), np.int64)
        self._left: list[int] = []

    def take(self, index: int, emotion: int) -> int:
        """The face of row ``index``; rows are asked for in order."""
        if self.in_turn:
            return face_of(index, self.n_faces, self.n_emotions, self.seed)
        if not self._left:
            stream = seeds.stream(self.seed, "round/faces", index // self.n_faces)
            self._left = [int(face) for face in stream.permutation(self.n_faces)]
        face = self._left.pop(int(np.argmin(self._met[emotion, self._left])))
        self._met[emotion, face] += 1
        return face


def show(
    drawn: SampledAUs, how: Intensity, sides: str, config: AUDesign, rng: np.random.Generator, *, one_sided: bool
) -> AUVector:
    """The AU vector of one clip: sides, then intensities, then what excludes each other damped.

    A midline AU has no sides. Drawn values stay in [.02, .75] and within what a warp can show
    (:data:`mesynth.motion.prior.WARP_LIMIT`); fixed requests are left as they are.
    """
    if how.kind == "given":
        return AUVector(drawn.strength.astype(np.float32))
    present = drawn.strength != 0
    known = np.where(present & ~np.isnan(drawn.strength), drawn.strength, 0)
    gain = np.ones((len(facs.AU_CODES), 2))
    weak_side, weak = int(rng.integers(2)), float(rng.uniform(0, _WEAK_SIDE))
    if rng.random() < config.unilateral and sides == "drawn" and not one_sided:
        gain[:, weak_side] = weak
    base = _draw(how, rng)
    smooth = how.kind in ("uniform", "beta", "coded")
    level = base * np.exp(config.spread * rng.standard_normal(len(base))) if smooth else base
    apart = np.exp(config.side_spread * rng.standard_normal(gain.shape)) if smooth else np.ones(gain.shape)
    both = known.max(1, keepdims=True) * np.ones(2)
    midline = _MIDLINE
    whole = present.any(1)
    if sides != "drawn":
        present, known = np.repeat(whole[:, None], 2, 1), both
    if sides in ("left", "right"):
        gain[:, 1 if sides == "left" else 0] = 0
    present[midline], known[midline] = whole[midline, None], both[midline]
    gain[midline], apart[midline] = 1, 1
    value = np.clip(level[:, None] * apart, _WEAKEST, _STRONGEST)
    if how.kind == "coded":
        value = np.where(known > 0, np.clip(known, _WEAKEST, 1), value)
    value = np.where(gain > 0, np.maximum(value * gain, _WEAKEST), 0)
    value = np.minimum(value, _LIMITS)
    return facs.damp(AUVector(np.where(present, value, 0).astype(np.float32)))


def _draw(how: Intensity, rng: np.random.Generator) -> np.ndarray:
    """[K] independent draws of a distribution."""
    k = len(facs.AU_CODES)
    if how.kind == "beta":
        return np.asarray(rng.beta(how.values[0], how.values[1], k))
    if how.kind in ("letters", "level"):
        return np.asarray(rng.choice(how.values, k))
    low, high = how.values if how.kind == "uniform" else (_USUAL.intensity_min, _USUAL.intensity_max)
    return np.asarray(rng.uniform(low, high, k))


# ------------------------------------------------------------------- make plan


@dataclass(frozen=True)
class PlanDraft:
    """A plan that is not written yet."""

    design: Design
    planner: Planner
    faces: list[PlanFace]
    faces_path: Path | None
    aus_hash: str
    excluded: tuple[str, ...]
    examination: Examination | None = None
    """How the faces were chosen."""

    def summary(self, progress: Progress | None = None) -> Summary:
        """Draws every row once and counts."""
        rows = counted(self.planner, len(self.planner), progress)
        return summarise(rows, self.faces, self.design.clip.size)

    def write(self, out: Path, progress: Progress | None = None, summary: Summary | None = None) -> StoredPlan:
        """See :func:`mesynth.corpus.plan.write_plan_folder`; how faces were chosen is written into it.

        ``summary``: counts the rows on their way, so that they are drawn once.
        """
        info = {"size": self.design.clip.size, "aus_from": self.aus_hash, "excluded": list(self.excluded)}
        if self.faces_path is not None:
            info["faces_path"] = os.path.relpath(self.faces_path, out)

        def drawn() -> Iterator[PlanRow]:
            for row in self.planner:
                if summary is not None:
                    summary.add(row, self.faces[row.face], self.design.clip.size)
                yield row

        rows = counted(drawn(), len(self.planner), progress)
        made = write_plan_folder(out, rows, self.faces, self.design.plain(), info)
        if self.examination is not None and self.examination.left_out:
            digests.enter_files(out, self.examination.write(out))
        return made


def draft_plan(
    design: Design,
    *,
    faces: Path | None = None,
    people: int = 0,
    aus_from: Path | None = None,
    exclude: Iterable[str] = (),
    examination: Examination | None = None,
) -> PlanDraft:
    """The plan of ``design`` on ``faces`` (see :func:`mesynth.corpus.faces.find_faces`), or on ``people`` face shapes.

    ``aus_from``: the manifest that coded sources read. ``exclude``: subjects as ``database/subject``; neither their
    faces nor their labels take part, nor what was made from them. ``examination``: of ``faces``, which says which are
    taken; without it all files are, unseen.

    Raises:
        ConfigError: faces and people both or neither, a subject that occurs nowhere, a source without its manifest.
        LeakError: nothing is left without the excluded subjects.
        MesynthError: what :func:`find_faces` and :class:`Manifest` refuse.
    """
    if (faces is None) == (people < 1):
        raise ConfigError(
            "give either --faces, or --subjects for flow images of people without pictures, one of the two"
        )
    excluded = tuple(sorted(set(exclude)))
    manifest = None if aus_from is None else Manifest.read(aus_from)
    known = set() if manifest is None else set(manifest.subject_keys())
    found = (
        virtual_faces(people)
        if faces is None
        else plan_faces(find_faces(faces) if examination is None else examination.taken)
    )
    known |= {key for face in found for key in face.seen}
    for key in excluded:
        if key not in known:
            raise ConfigError(
                f"--exclude-subjects {key} is no subject of the faces or of --aus-from; write database/subject, for "
                f"example {min(known)}"
            )
    kept = [face for face in found if not set(face.seen) & set(excluded)]
    if not kept:
        raise LeakError(f"every face has seen one of {', '.join(excluded)}; give faces of other people")
    sources = make_sources(design.aus, manifest, excluded)
    return PlanDraft(
        design=design,
        planner=Planner(design, len(kept), sources),
        faces=kept,
        faces_path=faces,
        aus_hash="" if manifest is None else manifest.hash(),
        excluded=excluded,
        examination=examination,
    )
