"""Pictures of the steps that place a face: landmarks and crops, head motion, regions, augmentation."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from skimage import data

from mesynth.core.facs import format_vector
from mesynth.core.types import AUVector, Flow
from mesynth.preprocess.align import PiecewiseAffineCrop, SimilarityCrop
from mesynth.preprocess.augment import Transform
from mesynth.preprocess.flow import estimate_flow, flow_picture, grayscale
from mesynth.preprocess.landmarks import choose_landmarker
from mesynth.preprocess.regions import (
    eye_crop,
    grid_boxes,
    hide_eyes_mask,
    keep_mask,
    landmark_patches,
    mouth_crop,
    region_polygons,
    rigid_mask,
)
from scripts.step_pictures.page import BAR, BLUE, EDGE, GAP, GREEN, ORANGE, RED, TITLE, WIDTH, Page, column
from scripts.step_pictures.scene import Scene

FLOW_SCALE = 2.5
"""Pixels of motion at full colour in every picture of flow."""
_CHANGE = 25.0  # grey levels at the end of the scale of |frame - onset|


def landmarks(scene: Scene) -> Page:
    """Landmarks as found, and both crops: the rendered person above, a photograph below."""
    side = column(4)
    page = Page(round(EDGE + 2 * (TITLE + side) + GAP))
    finder = choose_landmarker()
    photo = data.astronaut()[30:220, 130:320]
    titles = ("landmarks found, mesh", "similarity", "piecewise affine", "piecewise affine, its mesh")
    for i, image in enumerate((scene.source[scene.config.margin], photo)):
        found = finder.detect(image)
        rigid = SimilarityCrop.from_landmarks(found, scene.size)
        shaped = PiecewiseAffineCrop.from_landmarks(found, scene.size)
        crops = [rigid.frames(image[None])[0], shaped.frames(image[None])[0]]
        panels = page.row(EDGE + TITLE + i * (side + TITLE + 4), [image, crops[0], crops[1], crops[1]], titles)
        sides = (*image.shape[:2][::-1], scene.size)
        _mesh(panels[0], shaped.source, shaped.triangles, sides[0], sides[1])
        _mesh(panels[3], shaped.target, shaped.triangles, scene.size, scene.size)
        panels[0].plot(*found.T, ".", color=GREEN, ms=4)
        for panel, points in zip(panels[1:3], (rigid.points(found), shaped.points(found)), strict=True):
            panel.plot(*points.T, ".", color=GREEN, ms=4)
            _frame(panel, scene.size, scene.size)
    return page


def head_motion(scene: Scene) -> Page:
    """What differs from the onset before and after stabilising, and the drift, measured and true."""
    side = column(5)
    page = Page(round(EDGE + TITLE + side + BAR + TITLE + 210))
    before, after, drift = scene.clip, scene.still, scene.stabilised.drift
    last = scene.n_frames - 1
    top = EDGE + TITLE
    page.picture(EDGE, top, side, before[0], "onset")
    named = (("apex", scene.apex, before), ("apex, stabilised", scene.apex, after),
             ("last frame", last, before), ("last frame, stabilised", last, after))  # fmt: skip
    for i, (name, t, frames) in enumerate(named, 1):
        change = 255 * np.abs(grayscale(frames[t]) - grayscale(frames[0]))
        where = EDGE + i * (side + GAP)
        panel = page.picture(where, top, side, change, name, cmap="inferno", vmin=0, vmax=_CHANGE)
        page.bar(panel, "|frame − onset|, grey levels", (0, _CHANGE))
    truth = _true_drift(scene)
    axes = page.axes(56, page.height - 200, WIDTH - 320, 150, "mean displacement of the rigid regions since the onset")
    frames_axis = np.arange(scene.n_frames)
    axes.plot(frames_axis, drift.before, color=ORANGE, lw=2, label="before, measured")
    axes.plot(frames_axis, truth[0], color=GREEN, lw=1.5, ls="--", label="before, true")
    axes.plot(frames_axis, drift.after, color=BLUE, lw=2, label="after, measured")
    axes.plot(frames_axis, truth[1], color=GREEN, lw=1.5, ls=":", label="after, true")
    axes.axvline(scene.apex, color="0.6", lw=1, zorder=0)
    axes.set(xlabel="frame (grey line: apex)", ylabel="pixels", xlim=(0, last), ylim=(0, None))
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)
    return page


def _true_drift(scene: Scene) -> np.ndarray:
    """[2,T] mean displacement of the rigid pixels by the head alone: as recorded, and what stabilising leaves of it."""
    mask = rigid_mask(scene.landmarks, scene.size)
    y, x = np.nonzero(mask)
    points = np.stack([x, y]).astype(np.float64)
    out = np.zeros((2, scene.n_frames))
    for t, matrix in enumerate(scene.stabilised.transforms):
        uv = scene.exact(t, expression=False).uv[:, mask]
        found = matrix[:, :2] @ points + matrix[:, 2:] - points
        out[:, t] = np.hypot(*uv).mean(), np.hypot(*(uv - found)).mean()
    return out


def regions(scene: Scene) -> Page:
    """Polygons, blocks and masks above; crops and patches below."""
    side = column(5)
    page = Page(round(EDGE + 2 * (TITLE + side) + GAP))
    top, lower_row = float(EDGE + TITLE), EDGE + side + 2 * TITLE + 4
    size, points = scene.size, scene.landmarks
    face = scene.still[0]
    cheeks = keep_mask(points, size, ("left_cheek", "right_cheek"))
    pictures = [face, face, _tinted(face, rigid_mask(points, size), GREEN), _hidden(face, hide_eyes_mask(points, size)),
                _hidden(face, cheeks)]  # fmt: skip
    titles = ("regions of the muscles", "blocks, 6 x 6", "rigid parts", "eyes hidden", "cheeks kept")
    panels = page.row(top, pictures, titles)
    for i, polygon in enumerate(region_polygons(points).values()):
        panels[0].fill(*polygon.T, fill=False, ec=(BLUE, ORANGE, GREEN, RED)[i % 4], lw=1.2)
    for left, upper, right, lower in grid_boxes(size, 6, 6):
        panels[1].plot(*np.array([(left, upper), (right, upper), (right, lower), (left, lower), (left, upper)]).T - 0.5,
                       color="white", lw=0.8)  # fmt: skip
    for panel in panels[:2]:
        _frame(panel, size, size)
    left, right = eye_crop(face[None], points, size)[:, 0]
    mouth = mouth_crop(face[None], points, size)[0]
    page.row(lower_row, [right, left, mouth], ("subject's right eye", "subject's left eye", "mouth"), side=side)
    patch = max(8, size // 8)
    patches = landmark_patches(face[None], points, patch)[:, 0]
    per_row, pad = 12, 1
    tiles = np.pad(patches, ((0, -len(patches) % per_row), (pad, pad), (pad, pad), (0, 0)), constant_values=255)
    rows = tiles.reshape(-1, per_row, *tiles.shape[1:]).transpose(0, 2, 1, 3, 4)
    mosaic = rows.reshape(-1, per_row * tiles.shape[2], 3)
    page.picture(
        EDGE + 3 * (side + GAP), lower_row, 2 * side + GAP, mosaic, f"51 patches of {patch} x {patch} about landmarks"
    )
    return page


def augmentation(scene: Scene) -> Page:
    """One clip changed in four ways: apex with the motion as arrows, the flow as colour, the AUs a side."""
    side = column(5)
    page = Page(round(EDGE + 2 * (TITLE + side) + 2 * TITLE + 2 * GAP))
    frames = scene.still[[0, scene.apex]]
    flow = estimate_flow(frames[0], frames[1])
    aus = AUVector(scene.peak, np.ones_like(scene.peak, dtype=np.bool_))
    shift = 0.06 * scene.size
    changes = {
        "original": Transform(),
        "mirrored": Transform(flip=True),
        "turned by 8°": Transform(rotation=8),
        "1.08 times, shifted": Transform(scale=1.08, shift=(shift, -shift)),
        "light and noise": Transform(brightness=0.08, contrast=1.2, gamma=1.2, noise=0.02, noise_seed=1),
    }
    for i, (name, change) in enumerate(changes.items()):
        left, top = EDGE + i * (side + GAP), EDGE + TITLE
        moved = change.flow(flow)
        panel = page.picture(left, top, side, change.frames(frames)[1], name)
        _arrows(panel, moved)
        panel.plot(*change.landmarks(scene.landmarks, scene.size, scene.size).T, ".", color=GREEN, ms=2)
        _frame(panel, scene.size, scene.size)
        page.picture(left, top + side + TITLE + 4, side, flow_picture(moved.uv, FLOW_SCALE), "flow")
        words = format_vector(change.aus(aus)).split(",")
        half = -(-len(words) // 2)
        lines = ",".join(words[:half]) + ",\n" + ",".join(words[half:]) if len(words) > 1 else words[0]
        page.text(left, top + 2 * side + TITLE + 10, f"AU {lines}")
    return page


# ---------------------------------------------------------------- pieces


def _arrows(panel: Axes, flow: Flow, longer: float = 4.0) -> None:
    """Every eighth pixel that moves by more than .3 px, ``longer`` times as long as its motion."""
    v, u = flow.uv[1], flow.uv[0]
    step = max(4, len(u) // 16)
    y, x = np.mgrid[step // 2 : len(u) : step, step // 2 : len(u) : step]
    far = np.hypot(u, v)[y, x] > 0.3
    panel.quiver(x[far], y[far], longer * u[y, x][far], longer * v[y, x][far], angles="xy", scale_units="xy", scale=1,
                 color=BLUE, width=0.01)  # fmt: skip


def _mesh(panel: Axes, vertices: np.ndarray, triangles: np.ndarray, width: int, height: int) -> None:
    panel.triplot(*vertices.T, triangles, color="white", lw=0.5, alpha=0.9)
    _frame(panel, width, height)


def _frame(panel: Axes, width: int, height: int) -> None:
    """Keep the view on the picture whatever is drawn over it."""
    panel.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


def _tinted(image: np.ndarray, mask: np.ndarray, colour: str) -> np.ndarray:
    mixed = 0.45 * image + 0.55 * 255 * np.array(to_rgb(colour))
    return np.where(mask[..., None], mixed, image).astype(np.uint8)


def _hidden(image: np.ndarray, keep: np.ndarray) -> np.ndarray:
    return np.where(keep[..., None], image, 235).astype(np.uint8)
