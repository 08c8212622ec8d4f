"""The learned magnifier's held-out figures and its model card."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from mesynth import seeds
from mesynth.preprocess.magnify.learned import LearnedMagnifier
from mesynth.preprocess.magnify.learned_data import (
    HELD_OUT_PHOTOGRAPHS,
    TRAIN_PHOTOGRAPHS,
    TripleConfig,
    face_pictures,
    photographs,
    smooth_flow,
)
from mesynth.preprocess.magnify.measure import displacement_slope, noise_gain, psnr
from mesynth.preprocess.magnify.warping import fold_limit, invert, warp

if TYPE_CHECKING:
    from mesynth.preprocess.magnify.learned_train import MagnifierConfig

CASES = ((0.2, 10.0), (0.5, 4.0), (1.0, 3.0), (0.3, 2.0))
"""(peak displacement in pixels, factor) of the card's rows."""
_SD = 2 / 255


def held_out_figures(magnifier: LearnedMagnifier, config: TripleConfig) -> dict[str, float]:
    """Figures on pictures of people and photographs that were not learned from; the card explains them."""
    pictures = np.concatenate(
        [face_pictures(config.unseen(), 1, config.size), photographs(HELD_OUT_PHOTOGRAPHS, config.size)[::4]]
    )
    source = torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div(255)
    rng = seeds.stream(0, "magnifier-held-out")
    unit = smooth_flow(rng, len(source), config.size, source.device)
    unit = unit * (fold_limit(unit, 0.3) / 3.2).clamp(max=1).view(-1, 1, 1, 1)
    # Half a pixel off the grid, so that onset and frame are interpolated alike.
    half = torch.full_like(unit, 0.5)
    onset = warp(source, half)
    figures = {}
    for peak, factor in CASES:
        frame, truth = (warp(source, invert(unit * peak * m) + half) for m in (1.0, factor))
        pair = torch.stack([onset, frame], 1).clamp(0, 1)
        made = magnifier.magnify(pair, factor)[:, 1]
        name = f"{peak:g} px x{factor:g}"
        figures[f"{name}: psnr"] = psnr(made, truth)
        figures[f"{name}: psnr unmagnified"] = psnr(frame, truth)
        figures[f"{name}: gain"] = displacement_slope(onset, made, unit * peak)
        figures[f"{name}: true gain"] = displacement_slope(onset, truth, unit * peak)
        generator = torch.Generator().manual_seed(0)
        figures[f"{name}: noise gain"] = noise_gain(
            lambda video, m=factor: magnifier.magnify(video, m),  # type: ignore[misc]
            pair,
            _SD,
            generator,
        )
    return {name: round(value, 3) for name, value in figures.items()}


def magnifier_card(magnifier: LearnedMagnifier, config: MagnifierConfig) -> str:
    """Markdown card, made from the figures that travel with the weights."""
    meta, t = magnifier.meta, config.triples
    rows = []
    for peak, factor in CASES:
        f = {
            key.split(": ")[1]: value
            for key, value in meta.figures.items()
            if key.startswith(f"{peak:g} px x{factor:g}:")
        }
        rows.append(
            f"| {peak:g} | {factor:g} | {f['psnr unmagnified']:.1f} | {f['psnr']:.1f} | {f['gain']:.2f} "
            f"| {f['true gain']:.2f} | {f['noise gain']:.2f} |"
        )
    parameters = sum(value.numel() for value in magnifier._net.parameters())
    table = "\n".join(rows)
    return f"""# Learned motion magnifier

Onset and frame -> the frame with its motion since the onset magnified. Encoder, manipulator and decoder in the manner
of Oh et al., "Learning-based video motion magnification", ECCV 2018, at half resolution, {parameters} parameters. The
decoder's answer is used as a change to the frame, so a still frame and factor 1 come back exactly.

**What it knows.** It learned from synthetic pairs only: smooth random warps of pictures. It has seen factors up to
{meta.max_factor:g} and magnified displacements up to {meta.max_motion:g} pixels, on pictures where a face is 128 to
160 pixels wide; beyond that it falls short of the factor. Thin lines that have to move by several pixels come out
soft: the mouth line under AU 12 of intensity .15 (2 pixels) at factor 4, and brows leave a trace where they were. It
knows no occlusion, no change of light and no wrinkle that appears. Real faces: not measured.

## Data and command

`python -m mesynth.preprocess.magnify.learned_train configs/preprocess/magnifier.yaml --out DIR`, then copy
`magnifier.safetensors` and `magnifier.md` into `mesynth/preprocess/magnify/data/`. {t.people} rendered people
(head seeds {t.seen()[0]} to {t.seen()[-1]}) in {t.looks} pictures each, and scikit-image's
{", ".join(TRAIN_PHOTOGRAPHS)} (public domain or CC0).
Peak motion {t.min_motion:g} to {t.max_motion:g} px, factor {t.min_factor:g} to {t.max_factor:g}, noise up to sd
{t.noise:g} on onset and frame. {config.steps} steps of {config.batch} triples of {t.patch} px, seed {config.seed}.
Weights sha256 (tensors): `{meta.weights_sha256}`.

## Figures on pictures never learned from

{t.held_out} people (head seeds {t.unseen()[0]} to {t.unseen()[-1]}) and {", ".join(HELD_OUT_PHOTOGRAPHS)}.
PSNR in dB against the truly magnified picture, of the frame as it was and as magnified. Gain: slope of the
displacement that TV-L1 finds in the magnified frame on the frame's known displacement, beside the same slope of the
truly magnified frame. Noise gain: what noise of sd 2 grey levels on onset and frame adds, over the noise itself.

| peak px (at most) | factor | PSNR before | PSNR after | gain | gain of the truth | noise gain |
|---|---|---|---|---|---|---|
{table}
"""
