"""Pictures of every preprocessing step, drawn from a rendered clip whose motion is known: docs/preprocessing.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mesynth.core.errors import ConfigError
from mesynth.store.run_folder import write_bytes
from scripts.step_pictures import motion, space, timing
from scripts.step_pictures.page import Page
from scripts.step_pictures.scene import Scene, SceneConfig

STEPS: dict[str, Callable[[Scene], Page]] = {
    "crop": space.landmarks,
    "stabilise": space.head_motion,
    "spot": timing.spotting,
    "magnify": timing.magnification,
    "resample": timing.resampling,
    "keyframes": timing.key_frames,
    "flow": motion.flow,
    "parts": motion.parts,
    "global-motion": motion.head_out_of_flow,
    "pictures": motion.summary,
    "tracks": motion.tracks,
    "regions": space.regions,
    "augment": space.augmentation,
}
"""Step -> what draws its page."""

__all__ = ["STEPS", "Page", "Scene", "SceneConfig", "draw", "write_pictures"]


def draw(step: str, scene: Scene) -> Page:
    """The page of one step of :data:`STEPS`.

    Raises:
        ConfigError: an unknown step.
        WeightsUnavailable: step "crop" without a landmarker on this machine.
    """
    if step not in STEPS:
        raise ConfigError(f"step '{step}' is unknown; choose from {', '.join(STEPS)}")
    return STEPS[step](scene)


def write_pictures(out: Path | str, steps: Sequence[str] = (), config: SceneConfig = SceneConfig()) -> Iterator[Path]:
    """Write ``out``/STEP.png for each of ``steps`` (all without any) and yield the file. Raises as :func:`draw`."""
    scene = Scene(config)
    for step in steps:
        if step not in STEPS:
            raise ConfigError(f"step '{step}' is unknown; choose from {', '.join(STEPS)}")
    for step in steps or STEPS:
        file = Path(out) / f"{step}.png"
        write_bytes(file, draw(step, scene).png())
        yield file
