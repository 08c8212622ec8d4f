"""Figures of one generator's apex frames and flow images: distance to the truth, to its distribution, to the person."""

from __future__ import annotations

import numpy as np

from mesynth.quality.contest import resampling
from mesynth.quality.contest.figures import Answered, Figure, figure
from mesynth.quality.contest.flow_images import FLOW_KID
from mesynth.quality.contest.measure import Instruments


def picture_figures(a: Answered, instruments: Instruments) -> list[Figure]:
    """PSNR, perceptual distance, KID and Frechet distance of apex frames against the true apex of each request."""
    why, w = a.absent or "every request was refused", a.weights
    out = [
        figure("PSNR to the true apex", resampling.mean(w, a.stack("psnr")), "dB", why),
        figure("  PSNR of the onset", resampling.mean(w, _like(a, a.referred("psnr"))), "dB", why),
    ]
    if instruments.perceptual is None or instruments.features is None:
        return [*out, Figure(name="LPIPS, KID, FID", value=None, note="no weights; see the notes")]
    name = instruments.perceptual.name
    out += [
        figure(f"{name} to the true apex", resampling.mean(w, a.stack("perceptual")), "", why),
        figure(f"  {name} of the onset", resampling.mean(w, _like(a, a.referred("perceptual"))), "", why),
    ]
    suffix = instruments.features.suffix
    distances = [f"KID{suffix}", "FID" if not suffix else f"FD{suffix}"]
    own, truth, still = _features(a)
    if sum(map(len, own)) < 2:
        return [*out, *(Figure(name=n, value=None, note=why) for n in distances)]
    for found, distance in zip((resampling.paired_kid, resampling.paired_frechet), distances, strict=True):
        out += [
            figure(distance, found(w, own, truth), "", why),
            figure(f"  {distance} of the onset", found(w, still, truth)),
        ]
    return out


def _like(a: Answered, reference: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(a.stack("psnr")), np.nan, reference)


def _features(a: Answered) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """The generator's apexes, the true ones and the onsets, per person, on the requests it answered."""
    sets: tuple[list[np.ndarray], ...] = ([], [], [])
    for own, truth, beside in zip(a.own, a.truth, a.beside, strict=True):
        kept = ~np.isnan(own.features).any(1) & ~np.isnan(truth.features).any(1)
        for target, features in zip(sets, (own.features, truth.features, beside.features), strict=True):
            target.append(features[kept])
    return sets[0], sets[1], sets[2]


def identity_figures(a: Answered, instruments: Instruments) -> list[Figure]:
    """Embedding distance onset -> apex, minus the truth's on the same requests, and between different people."""
    if instruments.embedder is None:
        return [Figure(name="identity distance", value=None, note="no weights; see the notes")]
    why, w = a.absent or "every request was refused", a.weights
    own, true = a.stack("identity"), np.stack([t.identity for t in a.truth])
    onsets = np.stack([b.embedding for b in a.beside])
    apart = np.linalg.norm(onsets[:, None] - onsets[None], axis=-1)
    return [
        figure("identity distance", resampling.mean(w, own), "", why),
        figure("  more than the truth", resampling.mean(w, own - true), "", why),
        figure("  between people", resampling.between(w, apart)),
    ]


def flow_image_figures(a: Answered) -> list[Figure]:
    """KID of the flow images of all answers to imaged requests against the exact ones; beside it, that of no motion.

    Pairs of different people alone count (:func:`mesynth.quality.contest.resampling.paired_kid`): the truth has 0.
    """
    own, truth, still = [], [], []
    for answers, exact in zip(a.own, a.truth, strict=True):
        kept = ~np.isnan(answers.flow_images).any(1)
        own.append(answers.flow_images[kept])
        truth.append(exact.flow_images[kept])
        still.append(np.zeros_like(truth[-1]))
    names = (FLOW_KID, f"  {FLOW_KID} of no motion")
    if sum(map(len, own)) < 2:
        return [Figure(name=name, value=None, note="every request was refused") for name in names]
    return [
        figure(name, resampling.paired_kid(a.weights, images, truth))
        for name, images in zip(names, (own, still), strict=True)
    ]
