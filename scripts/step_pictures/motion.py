"""Pictures of the steps that measure motion: flow, its parts, the head's share, pictures of motion, tracks."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.axes import Axes

from mesynth.preprocess.align import eye_centres
from mesynth.preprocess.flow import estimate_flow, flow_picture
from mesynth.preprocess.inputs import (
    active_image,
    difference_image,
    dynamic_image,
    follow,
    to_picture,
    without_head_motion,
)
from mesynth.preprocess.regions import rigid_mask
from mesynth.preprocess.warping import Model, global_motion, magnitude, orientation, remove_global_motion, strain
from scripts.step_pictures.page import BAR, BLUE, EDGE, GAP, GREEN, ORANGE, TITLE, WIDTH, Page, column
from scripts.step_pictures.scene import Scene, video
from scripts.step_pictures.space import FLOW_SCALE, _frame, _tinted

_LONGER = 5.0
_ERROR = 1.0  # pixels at the end of the scale of end-point errors
_MODELS: tuple[Model, ...] = ("translation", "similarity", "affine")
_CORNER = {"left": 54, "right": 48}
"""Landmarks of the subject's mouth corners."""


def flow(scene: Scene) -> Page:
    """The exact flow and three estimates of it, at one scale; below, how far each is off."""
    side = column(4)
    page = Page(round(EDGE + 2 * (TITLE + side) + BAR + 4))
    top = EDGE + TITLE
    truth = scene.exact(scene.apex)
    seen = truth.face & truth.visible
    page.picture(EDGE, top, side, flow_picture(truth.uv * seen, FLOW_SCALE), "exact (face only)")
    _wheel(page, EDGE, top + side + TITLE + 4, side)
    for i, method in enumerate(("tvl1", "dis", "farneback"), 1):
        uv = estimate_flow(scene.clip[0], scene.clip[scene.apex], method).uv
        error = np.hypot(*(uv - truth.uv))
        left = EDGE + i * (side + GAP)
        page.picture(left, top, side, flow_picture(uv, FLOW_SCALE), method)
        off, title = np.where(seen, error, np.nan), f"{method}: mean error {error[seen].mean():.2f} px"
        panel = page.picture(left, top + side + TITLE + 4, side, off, title, cmap="inferno", vmin=0, vmax=_ERROR)
        panel.set_facecolor("0.85")
        page.bar(panel, "end-point error, pixels", (0, _ERROR))
    return page


def parts(scene: Scene) -> Page:
    """TV-L1 flow taken apart."""
    side = column(5)
    page = Page(round(EDGE + TITLE + side + BAR + 6))
    top = EDGE + TITLE
    uv = torch.from_numpy(estimate_flow(scene.still[0], scene.still[scene.apex]).uv)
    size, angle = magnitude(uv), orientation(uv)
    end, tears = FLOW_SCALE, 0.3
    shown = (
        ("u", uv[0], "RdBu_r", -end, end, "pixels, to image right"),
        ("v", uv[1], "RdBu_r", -end, end, "pixels, down"),
        ("magnitude", size, "viridis", 0, end, "pixels"),
        ("orientation (> 0.3 px)", torch.where(size > 0.3, angle, torch.nan), "twilight", -np.pi, np.pi, "radians"),
        ("strain", strain(uv), "magma", 0, tears, "per pixel"),
    )
    for i, (name, values, colours, low, high, unit) in enumerate(shown):
        panel = page.picture(EDGE + i * (side + GAP), top, side, values.numpy(), name, pixels=i == 3, cmap=colours,
                             vmin=low, vmax=high)  # fmt: skip
        radians = unit == "radians"
        page.bar(panel, unit, (low, 0, high) if low else (0, high), ("−π", "0", "π") if radians else None)
    return page


def head_out_of_flow(scene: Scene) -> Page:
    """Flow with the head's motion, what was fitted on the rigid parts, what is left, and the truth."""
    side = column(5)
    page = Page(round(EDGE + TITLE + side + 2 * TITLE))
    top = EDGE + TITLE
    mask = rigid_mask(scene.landmarks, scene.size)
    uv = torch.from_numpy(estimate_flow(scene.clip[0], scene.clip[scene.apex]).uv)[None]
    weights = torch.from_numpy(mask.astype(np.float32))
    results = {model: remove_global_motion(uv, weights, model) for model in _MODELS}
    left, fitted = results["similarity"]
    head = global_motion(fitted, scene.size, scene.size)
    truth = scene.exact(scene.apex, head=False)
    seen = truth.face & truth.visible
    pictures = [_tinted(scene.clip[0], mask, GREEN)]
    pictures += [flow_picture(f[0].numpy(), FLOW_SCALE) for f in (uv, head, left)]
    pictures.append(flow_picture(truth.uv * seen, FLOW_SCALE))
    titles = ("fitted on the rigid parts", "TV-L1 flow, head moving", "fitted similarity", "flow minus similarity",
              "exact, head still (face)")  # fmt: skip
    page.row(top, pictures, titles)

    def error(field: torch.Tensor) -> str:
        return f"{np.hypot(*(field[0].numpy() - truth.uv))[seen].mean():.2f}"

    words = ", ".join(f"{model} {error(result[0])}" for model, result in results.items())
    distance = "mean distance to the exact flow of the expression, pixels"
    page.text(EDGE, top + side + 8, f"{distance}: as measured {error(uv)}; minus {words}")
    return page


def summary(scene: Scene) -> Page:
    """A clip in one picture, at one scale."""
    page = Page(round(EDGE + TITLE + column(5) + GAP))
    clip = video(scene.still)
    made = [
        to_picture(difference_image(clip, scene.apex), 0.15),
        to_picture(dynamic_image(clip[:, : scene.apex + 1]), 0.15),
        to_picture(active_image(clip), 0.5, 0.5),
    ]
    pictures = [scene.still[0], scene.still[scene.apex], *(m[0].permute(1, 2, 0).numpy() for m in made)]
    page.row(EDGE + TITLE, pictures, ("onset", "apex", "difference, grey ± 15 %", "dynamic, grey ± 15 %", "active"))
    return page


def tracks(scene: Scene) -> Page:
    """Landmarks carried along by flow, drawn with their motion five times as long; the mouth corners over time."""
    side = column(4)
    page = Page(round(EDGE + TITLE + side + GAP))
    top = EDGE + TITLE
    points, flows = torch.from_numpy(scene.landmarks)[None], torch.from_numpy(scene.flows)[None]
    followed = follow(points, flows)
    freed = without_head_motion(followed)[0].numpy()
    exact = scene.tracks(head=False)
    grey = (0.5 * scene.clip[0].mean(-1, keepdims=True).repeat(3, -1) + 127).astype(np.uint8)
    named = (("followed, motion x 5", followed[0].numpy(), ORANGE), ("head motion taken out, x 5", freed, BLUE),
             ("exact, head still, x 5", exact, GREEN))  # fmt: skip
    for i, (name, moved, colour) in enumerate(named):
        panel = page.picture(EDGE + i * (side + GAP), top, side, grey, name)
        drawn = moved[:1] + _LONGER * (moved - moved[:1])
        for track in drawn[: scene.apex + 1].transpose(1, 2, 0):
            panel.plot(*track, color=colour, lw=1.2)
        panel.plot(*moved[0].T, ".", color="black", ms=2)
        _frame(panel, scene.size, scene.size)
    axes = page.axes(EDGE + 3 * (side + GAP) + 40, top, side - 48, side - 40, "mouth corners, distance")
    right, left = eye_centres(scene.landmarks)
    unit = 100 / float(np.hypot(*(left - right)))
    for who, style in (("left", "-"), ("right", "--")):
        for moved, colour, name in ((freed, BLUE, "measured"), (exact, GREEN, "exact")):
            way = unit * np.hypot(*(moved - moved[0])[:, _CORNER[who]].T)
            axes.plot(way, color=colour, ls=style, lw=1.5, label=f"{who}, {name}")
    axes.set(xlabel="frame", ylabel="% of the eyes' distance", xlim=(0, scene.n_frames - 1))
    axes.set_ylim(0, 1.75 * axes.get_ylim()[1])
    axes.legend(frameon=False, loc="upper left", fontsize=8)
    return page


def _wheel(page: Page, left: float, top: float, side: float) -> Axes:
    """The colours of flow: direction and length."""
    reach = np.linspace(-FLOW_SCALE, FLOW_SCALE, 201)
    uv = np.stack(np.meshgrid(reach, reach)).astype(np.float32)
    inside = np.hypot(*uv) <= FLOW_SCALE
    wheel = flow_picture(uv * inside, FLOW_SCALE)
    inset = side / 5
    panel = page.picture(left + inset, top + inset, side - 2 * inset, wheel, "")
    middle = left + side / 2
    assert middle < WIDTH
    page.text(middle, top + inset - 16, "up", ha="center")
    page.text(middle, top + side - inset + 4, "down", ha="center")
    page.text(left + inset - 4, top + side / 2, "left", ha="right", va="center")
    page.text(left + side - inset + 4, top + side / 2, "right", va="center")
    page.text(middle, top + side + 6, f"rim: {FLOW_SCALE:g} pixels", ha="center")
    return panel
