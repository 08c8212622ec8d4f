"""The framing of flow images, found from the images alone: no label, no landmark, no picture.

Motion of faces fills a small subspace, and which one depends on where the face lies. The flow prior draws the
action units of emotions, as papers count them, in a wide crop. A framing is as good as the likelihood of the images
under a Gaussian with the mean and covariance of these draws, brought to that framing; each image's own scale is
profiled out. Labels take no part, so a framing may be found on all clips of a database before it is split into folds.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import astuple, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from mesynth.core import seeds
from mesynth.core.emotions import CLASSES_3, draw_emotion, sample_aus
from mesynth.core.errors import ConfigError
from mesynth.core.framing import ESTIMATED, GIVEN, LIKE, OWN, Framing, KnownFraming, parse_framing, reframed
from mesynth.core.profiles import Profile
from mesynth.motion.flow_prior import FlowPrior, FlowRequest
from mesynth.store.manifest import Manifest
from mesynth.store.shards import known_framing, read_flows

_WIDE = Framing(eyes=0.25, height=0.25, row=1 / 3, column=0.5)
"""Shows two eye distances to every side, so that any usual crop lies inside."""
_DRAWS, _SIDE = 300, 28
_CELLS, _SHRINKAGE = 14, 0.3
"""The likelihood is of means over 14 x 14 cells, with that much of the covariance's trace spread over its diagonal. On
the 34 subjects of docs/decisions/019 the framing found is the same for shrinkages of .1 to .9 and 7 x 7 cells."""
_DIRECTIONS = 20
"""Principal directions of the draws that :attr:`KnownFraming.explained` speaks of."""
_LEAST = 0.3
"""Of :attr:`KnownFraming.explained`: published flow images reach .59, the prior's own .85, white noise .01; noise in
blocks of 7 pixels reaches .44 and is taken for faces."""
_MOST = 500  # images that are looked at: evenly taken
_FEWEST = 12
_STEPS = (0.05, 0.05, 0.05, 0.025)
"""First steps in eyes, height, row and column; they are halved until the smallest is below a tenth of a pixel of 28."""


@lru_cache(maxsize=1)
def _wide_draws() -> np.ndarray:
    """[N,2,56,56] float32, a third of them of each class of the composite."""
    requests = []
    for i in range(_DRAWS):
        rng = seeds.stream(0, f"framing/{i}")
        emotion = draw_emotion(CLASSES_3[i % 3], rng)
        requests.append(
            FlowRequest(
                intensity=sample_aus(emotion, rng).intensity, person=f"framing{i % 60}", seed=int(rng.integers(2**31)),
                profile=Profile(apex=0.5), n_frames=65, fps=200.0,
            )
        )  # fmt: skip
    return FlowPrior(2 * _SIDE, framing=_WIDE).draw(requests)


def find_framing(flows: Sequence[np.ndarray] | np.ndarray) -> KnownFraming:
    """The framing of flow images [2,H,W], in pixels or any unit of one scale for u and v (some seconds).

    Raises:
        ConfigError: fewer than 12 images, images without motion, or motion unlike that of faces.
    """
    chosen = flows[:: max(1, len(flows) // _MOST)][:_MOST]
    small = [reframed(np.asarray(flow, np.float32), OWN, OWN, _SIDE) for flow in chosen]
    real = _unit(np.stack(small)) if small else np.zeros((0, 2 * _SIDE**2))
    real = real[np.isfinite(real).all(1) & (np.abs(real).max(1) > 0)] if len(real) else real
    if len(real) < _FEWEST:
        raise ConfigError(
            f"{len(real)} flow images with motion say too little about their framing; it takes {_FEWEST}, or give it: "
            f"{OWN.text()}"
        )
    cells = _cells(real)
    best = _likelihood(cells, OWN)
    place, steps = np.array(astuple(OWN)), np.array(_STEPS)
    while steps.min() * _SIDE > 0.1:
        improved = False
        for i in np.repeat(np.arange(len(steps)), 2):
            steps[i] *= -1  # both directions in turn
            tried = place.copy()
            tried[i] += steps[i]
            try:
                value = _likelihood(cells, Framing(**dict(zip(_NAMES, tried.tolist(), strict=True))))
            except ConfigError:
                continue
            if value > best:
                place, best, improved = tried, value, True
        steps = np.abs(steps) if improved else np.abs(steps) / 2
    framing = Framing(**{name: round(value, 4) for name, value in zip(_NAMES, place.tolist(), strict=True)})
    explained = _explained(real, framing)
    if explained < _LEAST:
        raise ConfigError(
            f"the motion in {len(real)} flow images is not that of faces (in no framing does it explain more than "
            f"{explained:.0%} of them, {_LEAST:.0%} is little), so their framing is not known; or give it: {OWN.text()}"
        )
    return KnownFraming(
        framing=framing,
        origin=ESTIMATED,
        images=len(real),
        explained=round(explained, 4),
        explained_own=round(_explained(real, OWN), 4),
    )


def find_framings(flows: Sequence[np.ndarray] | np.ndarray, databases: Sequence[str]) -> KnownFraming:
    """:func:`find_framing` of all images, and, where they are of several ``databases`` [N], of each by itself: crops of
    one differ from those of another. Left out is one whose own images say too little.

    Raises: as :func:`find_framing`, of all images.
    """
    whole, names = find_framing(flows), np.asarray(databases, np.str_)
    if len(np.unique(names)) < 2:
        return whole
    found = []
    for name in np.unique(names):
        with suppress(ConfigError):
            found.append((str(name), find_framing([flow for flow, of in zip(flows, names, strict=True) if of == name])))
    return replace(whole, databases=tuple(found))


def framing_of(folder: Path | str) -> KnownFraming:
    """The framing of a prepared database or corpus: as recorded, by its landmarks, or else :func:`find_framings` of its
    flow, real clips' alone where it has any.

    Raises:
        ManifestError: no manifest there, or clips without flow.
        ConfigError: too few clips, or none that move.
    """
    manifest = Manifest.read(folder)
    known = known_framing(manifest)
    if known is not None:
        return known
    kinds = manifest.column("provenance.kind")
    rows = np.flatnonzero(kinds == "real") if (kinds == "real").any() else np.arange(len(manifest))
    looked_at = np.zeros(len(manifest), np.bool_)
    looked_at[rows[:: max(1, len(rows) // _MOST)][:_MOST]] = True
    chosen = manifest.filter(looked_at)
    flows = [reframed(flow, OWN, OWN, _SIDE) for flow in read_flows(chosen)]
    return find_framings(flows, [str(name) for name in chosen.column("database")])


def stated_framing(text: str) -> KnownFraming:
    """``own``, ``eyes=0.57,row=0.25`` (:func:`mesynth.core.framing.parse_framing`), ``like:PREPARED``: as that database
    is framed (of a composite, what all its databases show), or ``like:PREPARED:DATABASE``: as one of a composite's is.

    Raises:
        ConfigError: none of these, a database whose framing cannot be found, or one that is not in the composite.
        ManifestError: no prepared database there.

    >>> stated_framing("eyes=0.5").text()
    'eyes=0.5,height=0.5,row=0.35,column=0.5 (given)'
    """
    if text.startswith(LIKE):
        folder, colon, database = text.removeprefix(LIKE).rpartition(":")
        if not colon or Path(text.removeprefix(LIKE)).exists():  # a folder's name may hold a colon
            return framing_of(text.removeprefix(LIKE)).goal
        known = framing_of(folder)
        there = dict(known.databases)
        if database not in there:
            which = f"choose from {', '.join(there)}" if there else f"leave :{database} out"
            lacking = f"no framing of a database '{database}' is recorded in {folder}"
            raise ConfigError(f"{lacking}; {which}")
        return there[database]
    return KnownFraming(framing=parse_framing(text), origin=GIVEN)


_NAMES = ("eyes", "height", "row", "column")


def _unit(flows: np.ndarray) -> np.ndarray:
    """[N,2*S*S] of length 1, the median of each channel (still skin) taken out; 0 where nothing moves."""
    flat = (flows - np.median(flows, axis=(2, 3), keepdims=True)).reshape(len(flows), -1)
    length = np.sqrt((flat**2).sum(1, keepdims=True))
    return flat / np.where(length > 0, length, 1)


def _explained(real: np.ndarray, framing: Framing) -> float:
    from scipy.linalg import eigh

    drawn = _unit(reframed(_wide_draws(), _WIDE, framing, _SIDE))
    n = len(drawn)
    values, vectors = eigh(drawn @ drawn.T, subset_by_index=[n - _DIRECTIONS, n - 1])
    directions = drawn.T @ vectors / np.sqrt(values)
    return float(((real @ directions) ** 2).sum(1).mean())


def _cells(flat: np.ndarray) -> np.ndarray:
    """[N,2*S*S] -> [N,2*14*14]: means over cells."""
    k = _SIDE // _CELLS
    return flat.reshape(len(flat), 2, _CELLS, k, _CELLS, k).mean((3, 5)).reshape(len(flat), -1)


@lru_cache(maxsize=64)
def _gaussian(framing: Framing) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean [D] of the draws in ``framing``, and their covariance's eigenvalues [D] and vectors [D,D]. Kept: searches
    for a composite's databases pass the same places."""
    from scipy.linalg import eigh

    wide = _wide_draws()
    mirrored = wide[..., ::-1] * np.array([-1, 1], np.float32)[:, None, None]  # faces have no preferred side
    drawn = reframed(np.concatenate([wide, mirrored]), _WIDE, framing, _SIDE)
    cells = _cells(_unit(drawn)).astype(np.float64)
    covariance = np.cov(cells, rowvar=False, bias=True)
    values, vectors = eigh(covariance)
    values = (1 - _SHRINKAGE) * values + _SHRINKAGE * np.trace(covariance) / len(covariance)
    return cells.mean(0), values, vectors


def _likelihood(real: np.ndarray, framing: Framing) -> float:
    """Mean log-likelihood of images [N,D] under the draws' Gaussian in ``framing``, up to a constant: -log det / 2
    - D/2 log(q/D), q the squared Mahalanobis length; that is the maximum over each image's own scale."""
    mean, values, vectors = _gaussian(framing)
    d = len(mean)
    length = (((real - mean) @ vectors) ** 2 / values).sum(1)
    return float(-0.5 * d * np.log(length / d).mean() - 0.5 * np.log(values).sum())
