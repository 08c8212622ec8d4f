"""Motion magnification of whole clips: make a faint expression larger without changing who shows it.

Four methods behind one call, :func:`magnify`. ``factor`` is always magnified over recorded displacement: 1 leaves a
clip as it is. ``lagrangian`` keeps lines sharp and carries the largest motion, as far as the flow it measures is right;
``phase`` is at its best below a pixel and needs no flow; ``eulerian`` is the fastest, falls short of the factor and
amplifies noise; ``learned`` lies between. Figures: tests/bench/bench_magnify.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesynth.core.errors import ConfigError
from mesynth.preprocess.magnify.classical import (
    EulerianConfig,
    FlowMethod,
    FoldError,
    LagrangianConfig,
    PhaseConfig,
    TemporalFilter,
    eulerian,
    lagrangian,
    multi_ratio,
    phase,
    require_clip,
    require_factor,
    require_fps,
)
from mesynth.preprocess.magnify.learned import LearnedMagnifier

if TYPE_CHECKING:
    import torch


METHODS = ("eulerian", "phase", "lagrangian", "learned")
Config = EulerianConfig | PhaseConfig | LagrangianConfig | LearnedMagnifier
_CONFIGS: dict[str, type[Config]] = {
    "eulerian": EulerianConfig,
    "phase": PhaseConfig,
    "lagrangian": LagrangianConfig,
    "learned": LearnedMagnifier,
}

__all__ = [
    "METHODS",
    "EulerianConfig",
    "FoldError",
    "LagrangianConfig",
    "LearnedMagnifier",
    "PhaseConfig",
    "TemporalFilter",
    "eulerian",
    "lagrangian",
    "magnify",
    "multi_ratio",
    "phase",
]


def magnify(
    video: torch.Tensor,
    factor: float,
    method: str = "lagrangian",
    *,
    config: Config | None = None,
    fps: float | None = None,
    flow: torch.Tensor | FlowMethod | None = None,
) -> torch.Tensor:
    """Magnify the motion of float [B,T,C,H,W] in [0,1] by ``factor`` (1..100); same shape, clipped to [0,1].

    config: the method's configuration (for ``learned`` a loaded :class:`LearnedMagnifier`), None for its defaults.
    fps: frames per second, needed by temporal filters with a band in Hz. flow: for ``lagrangian`` alone, see there.
    The device follows ``video``. The onset (frame 0) comes back unchanged unless a band in Hz is magnified.

    Raises:
        MesynthError: an unfit clip, factor, fps, flow, or an argument the method does not use.
    """
    if method not in METHODS:
        raise ConfigError(f"magnification method '{method}' is unknown; choose from {', '.join(METHODS)}")
    if config is not None and not isinstance(config, _CONFIGS[method]):
        raise ConfigError(f"config is a {type(config).__name__}; method '{method}' takes {_CONFIGS[method].__name__}")
    if flow is not None and method != "lagrangian":
        raise ConfigError(f"flow has no effect on method '{method}'; use lagrangian")
    if fps is not None:
        require_fps(fps, method)
    require_clip(video)
    require_factor(factor)
    if isinstance(config, EulerianConfig) or method == "eulerian":
        return eulerian(video, factor, config if isinstance(config, EulerianConfig) else EulerianConfig(), fps)
    if isinstance(config, PhaseConfig) or method == "phase":
        return phase(video, factor, config if isinstance(config, PhaseConfig) else PhaseConfig(), fps)
    if isinstance(config, LagrangianConfig) or method == "lagrangian":
        return lagrangian(video, factor, config if isinstance(config, LagrangianConfig) else LagrangianConfig(), flow)
    return (config or LearnedMagnifier.load()).magnify(video, factor)
