"""When things happen in a clip: key times, the level of a temporal profile at them, and what a network is told of both.

Times are shares of the clip: 0 is the onset frame, 1 the offset frame. Curves are those of
:class:`mesynth.core.profiles.Profile`, as functions of time instead of frames.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from mesynth.core.profiles import Profile

KEYS = 8
"""Key times of a clip, onset and offset not counted: nothing has moved there."""
RISING = KEYS // 2
"""Of them, up to and with the apex."""
TOLD = 17
"""Numbers a network is told of each key time (:meth:`Timing.told`)."""
_LONGEST = 0.5
"""Seconds."""


def key_times(apex: float) -> np.ndarray:
    """[KEYS] ascending shares of the clip: the rise in equal parts, the apex itself, the fall in equal parts."""
    falling = KEYS - RISING
    rise = apex * np.arange(1, RISING + 1) / RISING
    return np.concatenate([rise, apex + (1 - apex) * np.arange(1, falling + 1) / (falling + 1)])


def level(at: np.ndarray, profile: Profile, shift: np.ndarray | float = 0.0) -> np.ndarray:
    """Share of the apex expression at times ``at``, which is broadcast against ``shift``; float64.

    ``shift``: how much later (or earlier, below 0) than the profile an action unit starts, peaks and ends, a share of
    the clip. It is at rest at 0 and 1 whatever its shift: what would reach beyond the clip is hurried.
    """
    at, shift = np.asarray(at, np.float64), np.asarray(shift, np.float64)
    start, end = np.maximum(shift, 0), np.minimum(1 + shift, 1)
    peak = np.clip(profile.apex + shift, start + 0.05, end - 0.05)
    held = np.minimum(peak + profile.hold, end - 0.05)
    rise = 0.5 - 0.5 * np.cos(np.pi * np.clip((at - start) / (peak - start), 0, 1))
    fall = np.clip((at - held) / (end - held), 0, 1)
    if profile.decay == "cosine":
        down = 0.5 + 0.5 * np.cos(np.pi * fall)
    else:
        down = (np.exp(-4 * fall) - np.exp(-4)) / (1 - np.exp(-4))
    return np.where(at <= peak, rise, down)


def slack(at: np.ndarray, profile: Profile, wander: float) -> np.ndarray:
    """About the standard deviation of the level at ``at`` [...] if peaks wander by ``wander`` (uniformly).

    Of nine shifts with both ends of the range among them, which is up to a quarter more than of all: noise that is a
    little too wide does less harm than noise that does not reach the data.
    """
    shifts = np.linspace(-1, 1, 9) * np.sqrt(3) * wander
    return np.asarray(level(np.asarray(at)[..., None], profile, shifts).std(-1))


def on_frames(profile: Profile, n_frames: int) -> Profile:
    """The profile with its apex where a clip of ``n_frames`` has it: on a frame."""
    return replace(profile, apex=float(np.clip(profile.apex_index(n_frames) / (n_frames - 1), 0.1, 0.9)))


def key_weights(keys: np.ndarray, n_frames: int, apex_index: int) -> np.ndarray:
    """[n_frames,KEYS] float32: what each frame takes of what is known at ``keys`` [KEYS].

    A cubic spline that is 0 and level at the onset and the offset; a frame at a key time takes that key alone.
    """
    from scipy.interpolate import CubicSpline

    places = np.concatenate([[0.0], keys, [1.0]])
    values = np.eye(KEYS + 2)
    out = CubicSpline(places, values, bc_type="clamped")(np.arange(n_frames) / (n_frames - 1))[:, 1:-1]
    out[[0, -1]] = 0
    out[apex_index] = values[RISING, 1:-1]
    return np.asarray(out, np.float32)


@dataclass(frozen=True, eq=False)
class Timing:
    """When the key frames of B clips are."""

    at: torch.Tensor
    """[B,T] shares of the clip"""
    level: torch.Tensor
    """[B,T] share of the apex expression, as the profile has it"""
    slack: torch.Tensor
    """[B,T]: how uncertain the level is, as AUs do not keep to the profile (standard deviation)"""
    apex: torch.Tensor
    """[B] share of the clip"""
    seconds: torch.Tensor
    """[B] from onset to offset"""

    @staticmethod
    def of(profile: Profile, seconds: float, wander: float) -> Timing:
        """One clip's."""
        at = key_times(profile.apex)
        rows = (at, level(at, profile), slack(at, profile, wander))
        at_, level_, slack_ = (torch.from_numpy(np.asarray(row, np.float32))[None] for row in rows)
        return Timing(at_, level_, slack_, torch.tensor([profile.apex]), torch.tensor([seconds]))

    def to(self, device: torch.device | str) -> Timing:
        """The same on another device."""
        return Timing(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))

    def told(self) -> torch.Tensor:
        """[B,T,TOLD]: place in the clip and on the way up or down, level, its uncertainty, apex, duration."""
        apex = self.apex[:, None]
        way = torch.where(self.at <= apex, self.at / apex, 1 + (self.at - apex) / (1 - apex))  # 0..2, 1 at the apex
        turns = torch.pi * torch.arange(1, 4, device=self.at.device)
        waves = [f(x[..., None] * turns) for x in (self.at, way / 2) for f in (torch.sin, torch.cos)]
        seconds = self.seconds[:, None] / _LONGEST
        plain = [self.level, self.slack, way - 1, apex.expand_as(self.at), seconds.expand_as(self.at)]
        return torch.cat([torch.stack(plain, -1), *waves], -1)
