"""Temporal profiles: how an expression rises from onset to apex and falls back to offset.

A profile maps a clip's frames to a share of the apex intensity. A micro-expression lasts at most half
a second (Yan et al., 2013); in CASME II (200 fps, mean 67 frames) the apex sits at 0.51 +- 0.17.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mesynth.core.errors import MesynthError

MIN_DURATION_S, MAX_DURATION_S = 1 / 25, 0.5


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Shape of one onset-apex-offset curve.

    ``apex``: position of the apex as a share of the clip; ``hold``: share spent at the apex;
    ``decay``: "cosine" or "exponential"; ``lag``: largest delay of a single AU, as a share of the clip. Raises
    MesynthError for a value out of range.

    >>> Profile(apex=0.5).alpha(5).ravel().tolist()
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """

    apex: float = 0.51
    hold: float = 0.0
    decay: str = "cosine"
    lag: float = 0.0

    def __post_init__(self) -> None:
        if not 0.1 <= self.apex <= 0.9:
            raise MesynthError(f"profile apex {self.apex:g} is outside [0.1, 0.9]")
        if not 0 <= self.hold <= 0.5:
            raise MesynthError(f"profile hold {self.hold:g} is outside [0, 0.5]")
        if self.decay not in {"cosine", "exponential"}:
            raise MesynthError(f"profile decay '{self.decay}' is unknown; choose cosine or exponential")
        if not 0 <= self.lag <= 0.1:
            raise MesynthError(f"profile lag {self.lag:g} is outside [0, 0.1]")

    def apex_index(self, n_frames: int) -> int:
        """The frame of full intensity (the first, if the apex is held)."""
        return int(np.clip(round(self.apex * (n_frames - 1)), 1, max(n_frames - 2, 1)))

    def alpha(self, n_frames: int, lags: np.ndarray | None = None) -> np.ndarray:
        """[T] (or [T,K] with ``lags`` [K], shares of the clip) float32: 0 at onset and offset, 1 at the apex.

        Raised cosine up, optional hold, cosine or exponential down. A lag delays an AU's rise and
        advances nothing: every AU is back at 0 on the last frame and at 1 on the apex frame.
        """
        if n_frames < 3:
            raise MesynthError(f"a clip of {n_frames} frames has no room for onset, apex and offset; need 3")
        t = np.arange(n_frames, dtype=np.float64)
        apex = self.apex_index(n_frames)
        last = n_frames - 1
        hold_end = min(apex + self.hold * last, last - 1)
        start = np.zeros(1) if lags is None else np.minimum(np.asarray(lags, np.float64) * last, apex - 1)
        rise = np.clip((t[:, None] - start) / (apex - start), 0, 1)
        rise = 0.5 - 0.5 * np.cos(np.pi * rise)
        fall = np.clip((t[:, None] - hold_end) / (last - hold_end), 0, 1)
        if self.decay == "cosine":
            fall = 0.5 + 0.5 * np.cos(np.pi * fall)
        else:  # e^-4x, shifted and scaled so that it really reaches 0 at the offset
            fall = (np.exp(-4 * fall) - np.exp(-4)) / (1 - np.exp(-4))
        curve = np.where(t[:, None] <= apex, rise, fall).astype(np.float32)
        curve[apex] = 1.0
        return curve[:, 0] if lags is None else curve

    def text(self) -> str:
        """All parameters in a line, for provenance; :meth:`parse` reads it back.

        >>> Profile(apex=0.4).text()
        'apex=0.4,hold=0,decay=cosine,lag=0'
        """
        return f"apex={self.apex:.6g},hold={self.hold:.6g},decay={self.decay},lag={self.lag:.6g}"

    @staticmethod
    def parse(text: str) -> Profile:
        """The profile of :meth:`text`, or one of :data:`PROFILES` by name; what is left out is the default's.

        Raises:
            MesynthError: neither of both, or a value out of range.

        >>> Profile.parse("apex=0.4, decay=exponential")
        Profile(apex=0.4, hold=0.0, decay='exponential', lag=0.0)
        """
        if text in PROFILES:
            return PROFILES[text]
        values: dict[str, Any] = {}
        for part in text.split(","):
            key, equals, value = part.partition("=")
            key, value = key.strip(), value.strip()
            try:
                if not equals or key not in ("apex", "hold", "decay", "lag") or key in values:
                    raise ValueError
                values[key] = value if key == "decay" else float(value)
            except ValueError:
                raise MesynthError(
                    f"'{text}' is no temporal profile; expected a name or apex=0.5,hold=0.1,decay=cosine,lag=0.05"
                ) from None
        return Profile(**values)

    def rounded(self) -> Profile:
        """What :meth:`parse` reads back from :meth:`text`."""
        apex, hold, lag = (float(f"{number:.6g}") for number in (self.apex, self.hold, self.lag))
        return Profile(apex=apex, hold=hold, decay=self.decay, lag=lag)

    def draw_lags(self, n_aus: int, rng: np.random.Generator) -> np.ndarray:
        """One delay per AU, uniform in [0, lag]."""
        return rng.uniform(0, self.lag, n_aus) if self.lag else np.zeros(n_aus)


PROFILES: dict[str, Profile] = {
    "casme2": Profile(apex=0.51, lag=0.05),
    "symmetric": Profile(apex=0.5),
    "fast-rise": Profile(apex=0.3, decay="exponential", lag=0.05),
    "slow-rise": Profile(apex=0.7, lag=0.05),
    "held": Profile(apex=0.4, hold=0.2, lag=0.05),
}
_APEX_SD = {"casme2": 0.17}


def require_profile(name: str) -> Profile:
    """The profile of that name, or the one that ``apex=0.4,hold=0.1`` spells out. Raises MesynthError."""
    if name not in PROFILES and "=" not in name:
        known = ", ".join(PROFILES)
        raise MesynthError(f"profile '{name}' is unknown; choose from {known}, or write apex=0.4,hold=0.1")
    return Profile.parse(name)


def draw_profile(name: str, rng: np.random.Generator) -> Profile:
    """The named profile; where a database's spread of the apex is known, the apex is drawn from it."""
    profile = require_profile(name)
    if name in _APEX_SD:
        apex = float(np.clip(rng.normal(profile.apex, _APEX_SD[name]), 0.2, 0.8))
        decay = "exponential" if rng.random() < 0.3 else "cosine"
        return replace(profile, apex=apex, decay=decay)
    return profile


_MAX_FRAMES = 100_000


def frame_count(duration_s: float, fps: float) -> int:
    """Frames of a clip that lasts ``duration_s`` seconds, both ends included."""
    if not fps > 0:
        raise MesynthError(f"fps={fps:g} must be positive")
    if not MIN_DURATION_S <= duration_s <= MAX_DURATION_S:
        raise MesynthError(
            f"duration {duration_s:g} s is not a micro-expression's; "
            f"choose {MIN_DURATION_S:g} to {MAX_DURATION_S:g} s (1/25 to 1/2 second)"
        )
    if duration_s * fps > _MAX_FRAMES:
        raise MesynthError(f"fps={fps:g} makes {duration_s * fps:.3g} frames a clip; at most {_MAX_FRAMES} are made")
    return max(3, round(duration_s * fps) + 1)
