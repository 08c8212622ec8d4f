"""What generators answer: the networks that measure it, and everything measured about one generator and one person.

A flow image is what recognizers of micro-expressions look at: u, v and strain at 28 px (Liong et al., 2019). It is its
own feature vector: KID's polynomial kernel compares the pictures as they are, so that no network, trained or random,
decides what counts. The kernel's cube sees means, variances and skewness of every pair and triple of values.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self
from zipfile import BadZipFile

import cv2
import numpy as np

from mesynth.benchmark.protocol import Candidate, MeanFlows, Person, Request, Shown, carried_mean, stored
from mesynth.core.errors import MesynthError, RunFolderError, WeightsUnavailable
from mesynth.core.facs import AU_CODES
from mesynth.core.seeds import derived
from mesynth.core.types import optical_strain
from mesynth.metrics.networks import FaceEmbedder, Networks
from mesynth.metrics.networks.extractors import FeatureExtractor, PerceptualDistance, distance
from mesynth.metrics.networks.judge import AUJudge
from mesynth.store.run_folder import write_bytes

SEPARATOR = "\n"
"""Between the warnings of one answer."""
_NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?!\w)")


@dataclass(frozen=True, kw_only=True)
class Warned:
    """``count`` answers carried the warning; ``worst`` is the one whose first number lies farthest from 0."""

    count: int
    worst: str


def grouped(texts: Iterable[str]) -> dict[str, Warned]:
    """Texts of answers, each any number of warnings joined by SEPARATOR -> what they have in common, with ``#`` for
    numbers, the most frequent first.

    >>> grouped(["folds (det -0.10)", "folds (det -2.5)", "by tvl1"])
    {'folds (det #)': Warned(count=2, worst='folds (det -2.5)'), 'by tvl1': Warned(count=1, worst='by tvl1')}
    """
    found: dict[str, list[str]] = {}
    for text in texts:
        for warning in dict.fromkeys(w for w in text.split(SEPARATOR) if w):
            found.setdefault(_NUMBER.sub("#", warning), []).append(warning)
    order = sorted(found, key=lambda kind: (-len(found[kind]), kind))
    return {kind: Warned(count=len(found[kind]), worst=max(sorted(found[kind]), key=_size)) for kind in order}


def _size(warning: str) -> float:
    first = _NUMBER.search(warning)
    return abs(float(first.group())) if first else 0.0


# ------------------------------------------------------------------- flow images


SIDE = 28
DIM = 3 * SIDE * SIDE
UNIT = 1 / 128
"""Share of the crop's side, a pixel of 128: motion up to about this counts in proportion, beyond by its logarithm
(asinh), or the few jaws that drop far would be all that is compared."""
FLOW_KID = "flow KID"


def flow_image(uv: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Flow [2,S,S] in pixels and where it counts [S,S] bool -> [DIM] float16: asinh of u, v in UNITs and their strain.

    Outside, where the truth is not known or not seen, nothing moves in any picture.
    """
    shown = np.where(inside, uv, 0).astype(np.float32).transpose(1, 2, 0)
    small = cv2.resize(np.ascontiguousarray(shown), (SIDE, SIDE), interpolation=cv2.INTER_AREA).transpose(2, 0, 1)
    small = small / np.float32(UNIT * uv.shape[-1])
    return np.arcsinh(np.concatenate([small.ravel(), optical_strain(small).ravel()])).astype(np.float16)


# ------------------------------------------------------------------- measure


_FORMER = {"judged": "measured"}
"""Arrays as they were called before 0.2."""
EQUAL_DB = 100.0
"""PSNR given to equal pictures, and the most that is given."""
SEEDS = 4
"""Clips of one request whose flows are compared with each other, unless more are asked for."""
_DRAWN = ("spread", "coverage", "energy")
_MOVES = 0.1
"""Pixels: where neither the truth nor any sample moves by as much, being inside or outside says nothing."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Instruments:
    """The networks that measure; None where weights are missing, and a note that says so."""

    judge: AUJudge
    features: FeatureExtractor | None
    perceptual: PerceptualDistance | None
    embedder: FaceEmbedder | None
    notes: tuple[str, ...]

    @staticmethod
    def load(device: str = "cpu") -> Instruments:
        """What this machine has, on ``device``. Raises WeightsUnavailable without the judge."""
        networks, notes = Networks(device=device), []
        judge = networks.judge
        features: FeatureExtractor | None = None
        perceptual: PerceptualDistance | None = None
        embedder: FaceEmbedder | None = None
        try:
            features, perceptual = networks.pictures
            notes += networks.notes
        except WeightsUnavailable as error:
            notes.append(f"pictures not measured: {error}")
        try:
            embedder = networks.faces
        except WeightsUnavailable as error:
            notes.append(f"identity not measured: {error}")
        return Instruments(
            judge=judge, features=features, perceptual=perceptual, embedder=embedder, notes=tuple(notes)
        )  # fmt: skip

    @property
    def names(self) -> dict[str, str]:
        """What a figure depends on besides the generators."""
        return {
            "judge": self.judge.meta.weights_sha256,
            "features": self.features.name if self.features else "",
            "perceptual": self.perceptual.name if self.perceptual else "",
            "identity": self.embedder.name if self.embedder else "",
        } | ({"device": self.judge.device} if self.judge.device != "cpu" else {})


@dataclass(frozen=True, eq=False, kw_only=True)
class _Stored:
    def save(self, file: Path) -> None:
        """As an npz without pickles; appears whole or not at all."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **{f.name: getattr(self, f.name) for f in fields(self)})
        write_bytes(file, buffer.getvalue())

    @classmethod
    def read(cls, file: Path) -> Self:
        """What :meth:`save` wrote. Raises RunFolderError where that was damaged since."""
        try:
            with np.load(file, allow_pickle=False) as stored:
                return cls(**{_FORMER.get(key, key): stored[key] for key in stored.files})
        except (BadZipFile, zlib.error, NotImplementedError, LookupError, TypeError, ValueError, EOFError) as error:
            raise RunFolderError(
                f"{file} is damaged ({' '.join(str(error).split())}); remove it and run the same command again"
            ) from None


@dataclass(frozen=True, eq=False, kw_only=True)
class Answers(_Stored):
    """What one generator did with one person. [R] arrays go with the requests; NaN where nothing was measured."""

    refused: np.ndarray
    """[R] why, as text; empty for an answer"""
    warned: np.ndarray
    """[R] text"""
    epe: np.ndarray
    """[R] pixels, mean over the face pixels still seen at the apex"""
    measured: np.ndarray
    """[R,K,2] AUs in [0,1]"""
    change: np.ndarray
    """[R] mean |apex - onset|, grey levels"""
    psnr: np.ndarray
    perceptual: np.ndarray
    identity: np.ndarray
    features: np.ndarray
    """[R,D]; NaN rows for requests that are not pictured"""
    spread: np.ndarray
    """[R] mean distance of the flows of two seeds, pixels"""
    coverage: np.ndarray
    """[R] share of what moves in which the truth lies within the seeds' range"""
    energy: np.ndarray
    """[R] energy score of the seeds' flows, pixels"""
    flow_images: np.ndarray
    """[I,DIM] of the imaged requests; NaN rows where they were refused"""
    flows: np.ndarray
    """[A,2,S,S] of the likened requests, as :func:`mesynth.benchmark.protocol.stored` has them; 0 where refused"""


@dataclass(frozen=True, eq=False, kw_only=True)
class References(_Stored):
    """What one person's figures are read against: [R] end-point errors of no motion, of the mean flow of others and
    of their mean at the same request; the onset against the true apex; the onset's embedding [E]."""

    zero: np.ndarray
    mean: np.ndarray
    same: np.ndarray
    psnr: np.ndarray
    perceptual: np.ndarray
    features: np.ndarray
    """[R,D] of the onset, on the rows of pictured requests"""
    embedding: np.ndarray
    inside: np.ndarray
    """[A,S,S] bool: pixels of the face still seen at the apex of each likened request"""
    carried: np.ndarray
    """[A,2,S,S] stored: the mean motion carried to this face by its landmarks"""
    home: np.ndarray
    """[A,2,S,S] stored: the packaged head's mean motion"""


def end_point_error(uv: np.ndarray, exact: np.ndarray, inside: np.ndarray) -> float:
    """Mean |uv - exact| of two [2,S,S] over [S,S] bool, pixels; NaN where nothing is inside."""
    if not inside.any():
        return float("nan")
    return float(np.hypot(*(uv.astype(np.float64) - exact)[:, inside]).mean())


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Of two uint8 pictures, dB; EQUAL_DB at most."""
    error = float(((a.astype(np.float64) - b) ** 2).mean())
    return EQUAL_DB if error == 0 else min(EQUAL_DB, float(10 * np.log10(255**2 / error)))


def measure_references(
    person: Person, targets: tuple[Request, ...], means: MeanFlows, home: np.ndarray, instruments: Instruments
) -> References:
    """The references of one person; ``home`` [A,2,S,S] is the packaged head's mean of the likened requests."""
    exact = [person.flow(request) for request in targets]
    mean, same = means.others(np.stack([uv for uv, _ in exact]))
    none = np.zeros_like(mean)
    n = len(targets)
    pictured = [i for i, request in enumerate(targets) if request.pictured]
    power, distant = np.full(n, np.nan), np.full(n, np.nan)
    for i in pictured:
        apex = person.inner(person.exact(targets[i].aus).apex)
        power[i] = psnr(person.onset, apex)
        if instruments.perceptual:
            distant[i] = distance(instruments.perceptual, person.onset[None], apex[None])[0]
    features = np.full((n, instruments.features.dim if instruments.features else 1), np.nan, np.float32)
    if instruments.features and pictured:
        features[pictured] = instruments.features(person.onset[None])
    embedding = np.full(1, np.nan)
    if instruments.embedder:
        embedding = instruments.embedder(person.onset[None], person.landmarks)[0]
    return References(
        zero=np.array([end_point_error(none, uv, inside) for uv, inside in exact]),
        mean=np.array([end_point_error(mean, uv, inside) for uv, inside in exact]),
        same=np.array([end_point_error(s, uv, inside) for s, (uv, inside) in zip(same, exact, strict=True)]),
        psnr=power,
        perceptual=distant,
        features=features,
        embedding=embedding,
        inside=np.stack([inside for (_, inside), r in zip(exact, targets, strict=True) if r.likened]),
        carried=stored(carried_mean(person, [r for r in targets if r.likened])),
        home=stored(home),
    )


def sampled(flows: np.ndarray, exact: np.ndarray, inside: np.ndarray) -> tuple[float, float]:
    """Coverage and energy score of flows [N,2,S,S] drawn for one request, against the exact one inside [S,S].

    Coverage is the share of displacements (u and v of each pixel where something moves) in which the truth lies between
    the least and the greatest of the N samples; (N - 1) / (N + 1) where it is one of their kind. The energy score
    (Gneiting and Raftery, JASA 2007) is the samples' mean end-point error less half their mean distance from each
    other: least where they spread as the truth does; of a single answer it is the end-point error.
    """
    moving = inside & (np.maximum(np.hypot(*exact), np.hypot(flows[:, 0], flows[:, 1]).max(0)) > _MOVES)
    within = (flows.min(0) <= exact) & (exact <= flows.max(0))
    coverage = float(within[:, moving].mean()) if moving.any() else float("nan")
    error = float(np.mean([end_point_error(flow, exact, inside) for flow in flows]))
    apart = [end_point_error(a, b, inside) for k, a in enumerate(flows) for b in flows[:k]]
    return coverage, error - float(np.mean(apart)) / 2


def question(
    candidate: Candidate,
    person: Person,
    targets: tuple[Request, ...],
    instruments: Instruments,
    seed: int,
    samples: int = SEEDS,
) -> Answers:
    """Ask one generator everything about one person; ``samples``: seeds of each diverse request."""
    n = len(targets)
    width = instruments.features.dim if instruments.features else 1
    refused, warned = [""] * n, [""] * n
    blank = {f: np.full(n, np.nan) for f in ("epe", "change", "psnr", "perceptual", "identity", *_DRAWN)}
    measured = np.full((n, len(AU_CODES), 2), np.nan, np.float32)
    features = np.full((n, width), np.nan, np.float32)
    images = {i: np.full(DIM, np.nan, np.float16) for i, request in enumerate(targets) if request.imaged}
    likened = {i: np.zeros((2, person.size, person.size), np.int16) for i, r in enumerate(targets) if r.likened}
    for i, request in enumerate(targets):
        own = derived(seed, f"contest-{person.seed}", i)
        more: list[Shown] = []
        try:
            shown = candidate.show(person, request.aus, own)
            if request.diverse:
                again = [derived(own, "contest-again", k) for k in range(1, samples)]
                more = [candidate.show(person, request.aus, other) for other in again]
        except MesynthError as error:
            refused[i] = str(error)
            continue
        warned[i] = SEPARATOR.join(shown.warnings)
        exact, inside = person.flow(request)
        blank["epe"][i] = end_point_error(shown.uv, exact, inside)
        if request.imaged:
            images[i] = flow_image(shown.uv, inside)
        if request.likened:
            likened[i] = stored(shown.uv)
        if more:
            flows = [shown.uv, *(other.uv for other in more)]
            pairs = [(a, b) for k, a in enumerate(flows) for b in flows[:k]]
            blank["spread"][i] = np.mean([end_point_error(a, b, person.on_face) for a, b in pairs])
            blank["coverage"][i], blank["energy"][i] = sampled(np.stack(flows), exact, inside)
        if shown.apex is None or shown.onset is None:
            continue
        blank["change"][i] = np.abs(shown.apex.astype(np.float64) - shown.onset).mean()
        measured[i] = instruments.judge.intensity(np.stack([shown.onset, shown.apex]), person.landmarks)[0]
        if request.pictured:
            _pictures(shown, person, request, instruments, i, blank, features)
    return Answers(
        refused=np.array(refused), warned=np.array(warned), measured=measured, features=features,
        flow_images=np.stack(list(images.values())), flows=np.stack(list(likened.values())), **blank,
    )  # fmt: skip


def _pictures(
    shown: Shown,
    person: Person,
    request: Request,
    instruments: Instruments,
    i: int,
    blank: dict[str, np.ndarray],
    features: np.ndarray,
) -> None:
    assert shown.apex is not None
    assert shown.onset is not None
    true = person.inner(person.exact(request.aus).apex)
    blank["psnr"][i] = psnr(shown.apex, true)
    if instruments.perceptual:
        blank["perceptual"][i] = distance(instruments.perceptual, shown.apex[None], true[None])[0]
    if instruments.features:
        features[i] = instruments.features(shown.apex[None])[0]
    if instruments.embedder:
        a, b = instruments.embedder(np.stack([shown.onset, shown.apex]), person.landmarks)
        blank["identity"][i] = np.linalg.norm(a - b)
