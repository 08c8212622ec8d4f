"""Steps of prepare: what is accepted, and what is refused in one line."""

from __future__ import annotations

import pytest

from mesynth.core.errors import ConfigError
from mesynth.preprocess.config import INPUTS, PrepareConfig


def test_the_defaults_change_nothing_but_crop_and_flow() -> None:
    config = PrepareConfig()
    assert (config.magnifier(), config.resampler(), config.inputs) == (None, None, ())
    assert (config.crop, config.stabilise, config.apex, config.global_motion) == (
        "similarity", "none", "annotated", "none",
    )  # fmt: skip


def test_methods_with_numbers() -> None:
    config = PrepareConfig(magnify="phase:4", resample="tim:10", inputs=INPUTS)
    assert config.magnifier() == ("phase", 4.0)
    assert config.resampler() == ("tim", 10)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": 16}, "size=16"),
        ({"method": "raft9"}, "'raft9'.*tvl1, dis, farneback, raft"),
        ({"max_frames": 2}, "max_frames=2"),
        ({"crop": "procrustes"}, "crop 'procrustes'.*similarity, piecewise"),
        ({"stabilise": "warp"}, "stabilise 'warp'"),
        ({"apex": "guess"}, "apex 'guess'"),
        ({"global_motion": "perspective"}, "global_motion 'perspective'"),
        ({"magnify": "phase"}, "'phase' lacks a number.*phase:4"),
        ({"magnify": "wavelet:4"}, "'wavelet'"),
        ({"magnify": "phase:1"}, r"factor 1 is outside \(1, 100\]"),
        ({"magnify": "phase:nan"}, "factor nan"),
        ({"resample": "tim:2"}, "2 frames"),
        ({"resample": "tim:10.5"}, "10.5 frames"),
        ({"resample": "tim:nan"}, "nan frames"),
        ({"resample": "tim:inf"}, "3 to 10000"),
        ({"resample": "tim:1e9"}, "1e\\+09 frames"),
        ({"size": 100_000}, "100000 is too large"),
        ({"resample": "cubic:10"}, "'cubic'"),
        ({"early": 0.0}, r"early=0 is outside \(0, 1\]"),
        ({"early": -0.3}, r"early=-0\.3 is outside"),
        ({"early": 1.01}, r"early=1\.01 is outside"),
        ({"early": 30}, "early=30 is outside"),
        ({"early": float("nan")}, "early=nan is outside"),
        ({"early": float("inf")}, "early=inf is outside"),
        ({"inputs": ("strain",)}, "input 'strain'"),
        ({"inputs": ("eyes", "eyes")}, "twice"),
    ],
)
def test_what_is_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        PrepareConfig(**options)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
