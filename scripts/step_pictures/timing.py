"""Pictures of the steps that concern time: spotting, magnification, resampling, key frames."""

from __future__ import annotations

import numpy as np

from mesynth.core.seeds import stream
from mesynth.preprocess.interpolate import (
    Marks,
    SubsampleConfig,
    draw_subsample,
    draw_warp,
    positions_for,
    resample,
    snippets,
    window,
)
from mesynth.preprocess.magnify import METHODS, magnify
from mesynth.preprocess.spot import METHODS as MEASURES
from mesynth.preprocess.spot import spot_apex
from mesynth.preprocess.warping import to_frames
from scripts.step_pictures.page import BLUE, EDGE, GAP, GREEN, GREY, ORANGE, RED, TITLE, WIDTH, Page, column
from scripts.step_pictures.scene import Scene, video

FACTOR = 4.0
_FAINT = 0.5
"""Strength of the expression that is magnified, share of the scene's; its head stays still, so the truth is known."""
_STRIP = 8
_THIN = 8
"""Every eighth frame is given to the interpolators."""
_MOUTH = 54  # landmark of the subject's left mouth corner, which moves most
_ZOOM = 0.22  # side of the zoomed square, share of the crop


def spotting(scene: Scene) -> Page:
    """The measures of the three methods over time, with what they found and the truth."""
    width = (WIDTH - 3 * 44 - EDGE) / 3
    page = Page(250)
    start = scene.config.margin
    truth = (start, start + scene.apex, start + scene.n_frames - 1)
    for i, (method, colour) in enumerate(zip(MEASURES, (BLUE, ORANGE, RED), strict=True)):
        found = spot_apex(scene.long_still, scene.long_landmarks, scene.fps, method)
        title = f"{method}: apex {found.apex}, true {truth[1]}; confidence {found.confidence:.2f}"
        axes = page.axes(44 + i * (width + 44), EDGE + TITLE, width, 150, title)
        span = np.ptp(found.curve)
        axes.plot((found.curve - found.curve.min()) / (span if span > 0 else 1), color=colour, lw=2)
        for t, style in zip(truth, ("--", "-", "--"), strict=True):
            axes.axvline(t, color=GREEN, lw=1.2, ls=style, zorder=0)
        for t, mark in zip((found.onset, found.apex, found.offset), (">", "v", "<"), strict=True):
            axes.plot(t, 1.12, mark, color=colour, ms=7, clip_on=False)
        axes.set(xlim=(0, len(found.curve) - 1), ylim=(0, 1.2), yticks=(0, 1), xlabel="frame")
        if i == 0:
            axes.set_ylabel("measure, stretched to 0..1")
    page.text(
        44, page.height - 26, "green: true onset, apex and offset; triangles: as spotted (onset ▶  apex ▼  offset ◀)"
    )
    return page


def magnification(scene: Scene) -> Page:
    """Onset, apex, and the apex magnified by each method beside the same expression rendered as strong."""
    columns = len(METHODS) + 3
    side = column(columns)
    page = Page(round(EDGE + 3 * side + 3 * TITLE + 30))
    faint = scene.posed(_FAINT, noise=True)
    clip = video(faint)
    made = {name: to_frames(magnify(clip, FACTOR, name, fps=scene.fps)[0]) for name in METHODS}
    truth = scene.posed(FACTOR * _FAINT)
    shown = {"onset": faint, "apex": faint, **made, f"rendered x {FACTOR:g}": truth}
    box, cut = _around_mouth(scene), round(float(scene.landmarks[_MOUTH, 0]))
    rows, cols = box
    top = EDGE + TITLE
    for i, (name, frames) in enumerate(shown.items()):
        left = EDGE + i * (side + GAP)
        picture = frames[0 if name == "onset" else scene.apex]
        panel = page.picture(left, top, side, picture, name)
        title = f"{_psnr(picture, truth[scene.apex]):.1f} dB" if 0 < i < columns - 1 else ""
        page.picture(left, top + side + TITLE, side, picture[box], title, pixels=True)
        if name == "onset":
            x, y = [cols.start, cols.stop, cols.stop, cols.start, cols.start], [rows.start] * 2 + [rows.stop] * 2
            panel.plot(np.array(x) - 0.5, np.array([*y, rows.start]) - 0.5, color=ORANGE, lw=1.2)
            panel.plot([cut, cut], [rows.start, rows.stop - 1], color=BLUE, lw=1.5)
            words = "Above: the orange\nsquare.\n\nHere: the blue line\nover time, onset left,\noffset right."
            page.text(left, top + 2 * side + 2 * TITLE + 6, words)
        else:
            page.picture(left, top + 2 * side + TITLE + GAP, side, frames[:, rows, cut].transpose(1, 0, 2), height=side,
                         pixels=True)  # fmt: skip
    words = f"dB: peak signal-to-noise ratio of the whole apex to the one rendered {FACTOR:g} times as strong"
    page.text(EDGE, page.height - 24, words)
    return page


def resampling(scene: Scene) -> Page:
    """The clip in a few frames; below, a thinned clip brought back to its length by each method."""
    side, wide = column(_STRIP), column(5)
    page = Page(round(EDGE + 2 * TITLE + side + GAP + 200))
    few, _ = resample(video(scene.still), _STRIP, "tim", scene.apex)
    where, apex = positions_for(scene.n_frames, _STRIP, scene.apex)
    titles = [f"frame {p:.1f}" + (" (apex)" if i == apex else "") for i, p in enumerate(where)]
    page.row(EDGE + TITLE, list(to_frames(few[0])), titles)
    truth = scene.posed()
    whole = (len(truth) - 1) // _THIN * _THIN + 1
    truth = truth[:whole]
    given = video(truth[::_THIN])
    rows, _ = _around_mouth(scene, 0.6)
    cut = round(float(scene.landmarks[_MOUTH, 0]))
    made = {"true frames": truth}
    made |= {name: to_frames(resample(given, whole, name)[0][0]) for name in ("nearest", "linear", "tim", "flow")}
    top = EDGE + TITLE + side + TITLE + GAP
    for i, (name, frames) in enumerate(made.items()):
        between = np.arange(whole) % _THIN != 0
        error = np.sqrt(np.square(frames[between].astype(np.float64) - truth[between])[:, rows].mean())
        title = name if i == 0 else f"{name}: error {error:.2f} grey levels"
        panel = page.picture(EDGE + i * (wide + GAP), top, wide, frames[:, rows, cut].transpose(1, 0, 2), title,
                             height=150, pixels=True)  # fmt: skip
        if i == 0:
            below = rows.stop - rows.start - 1.5
            panel.plot(
                np.arange(0, whole, _THIN), np.full(whole // _THIN + 1, below), "^", color=BLUE, ms=5, clip_on=False
            )
            panel.set(xlim=(-0.5, whole - 0.5))
    words = f"a line through the mouth corner over time; each method was given every {_THIN}th frame (triangles)"
    page.text(EDGE, page.height - 26, words)
    return page


def key_frames(scene: Scene) -> Page:
    """Which frames each choice takes, on the clip's time axis; onset, apex and offset as pictures."""
    page = Page(330)
    marks = Marks(onset=0, apex=scene.apex, offset=scene.n_frames - 1, n_frames=scene.n_frames)
    n, rng = scene.n_frames, stream(scene.config.seed, "gallery key frames")
    chosen = {
        "pair": marks.pair(),
        "triple": marks.triple(),
        "8 snippets, middle": snippets(n, 8),
        "8 snippets, random": snippets(n, 8, rng),
        "window, apex ± 3": window(n, scene.apex, 3),
        "random, 50 % kept": draw_subsample(rng, marks, SubsampleConfig(keep=0.5))[0],
        "time warp to 12": draw_warp(rng, marks, min(12, n))[0],
    }
    side, left, top = 86.0, 130.0, EDGE + TITLE
    width = WIDTH - left - side - 3 * GAP
    axes = page.axes(left, top, width, 70, "intensity of the expression")
    axes.plot(scene.share, color=GREEN, lw=2)
    axes.set(xlim=(-0.5, n - 0.5), ylim=(-0.05, 1.1), yticks=(0, 1), xticks=())
    lanes = page.axes(left, top + 90, width, 170)
    for i, where in enumerate(chosen.values()):
        lanes.plot([0, n - 1], [i, i], color="0.85", lw=1, zorder=0)
        lanes.plot(where, np.full(len(where), i), "o", color=BLUE if i < 2 else ORANGE if i < 5 else RED, ms=5)
    lanes.axvline(scene.apex, color=GREY, lw=1, ls=":", zorder=0)
    lanes.set(xlim=(-0.5, n - 0.5), ylim=(len(chosen) - 0.4, -0.6), xlabel="frame", yticks=range(len(chosen)))
    lanes.set_yticklabels(list(chosen))
    lanes.spines["left"].set_visible(False)
    lanes.tick_params(axis="y", length=0)
    for i, (name, t) in enumerate(zip(("onset", "apex", "offset"), marks.triple(), strict=True)):
        page.picture(WIDTH - EDGE - side, top + i * (side + TITLE), side, scene.still[t], f"{name} {t}")
    return page


def _around_mouth(scene: Scene, share: float = 1.0) -> tuple[slice, slice]:
    """Rows and columns of a square about the mouth corner, a little above it, for that is where it goes."""
    reach = max(4, round(share * _ZOOM * scene.size / 2))
    x, y = np.round(scene.landmarks[_MOUTH]).astype(int)
    y -= reach // 4
    return slice(y - reach, y + reach), slice(x - reach, x + reach)


def _psnr(picture: np.ndarray, truth: np.ndarray) -> float:
    error = np.square(picture.astype(np.float64) - truth).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-6)))
