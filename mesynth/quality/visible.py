"""What of an AU request can be seen at all: the vocabulary minus the pairs no picture can tell apart.

The judge is trained to name these values and control is measured against them, so that a generator is not
charged with a difference (blink against eyes closed) that exists in the vocabulary only.
"""

from __future__ import annotations

import numpy as np

from mesynth.facs import AU_CODES, AU_INDEX, MIDLINE

JAW_DROP_SHARE = 0.45
"""AU 26 at 1 opens the jaw this share of AU 27 at 1 (mesynth.head.model.AU_UNITS)."""
_MIDLINE_ROWS = [i for i, code in enumerate(AU_CODES) if code in MIDLINE]


def visible_aus(intensity: np.ndarray) -> np.ndarray:
    """[...,K,2] intensities in [0,1] -> the same shape, float32, with one value for one appearance.

    A midline AU has the mean of its sides on both; AU 43 and AU 45 are one lid closure (the larger); AU 26
    and AU 27 open one jaw, each row in its own unit; a closed lid leaves nothing of AU 5 and AU 7 to see.
    """
    out = np.array(intensity, np.float32)
    out[..., _MIDLINE_ROWS, :] = out[..., _MIDLINE_ROWS, :].mean(-1, keepdims=True)
    closure = np.maximum(out[..., AU_INDEX[43], :], out[..., AU_INDEX[45], :])
    out[..., AU_INDEX[43], :] = out[..., AU_INDEX[45], :] = closure
    for code in (5, 7):
        out[..., AU_INDEX[code], :] *= 1 - closure
    jaw = np.maximum(JAW_DROP_SHARE * out[..., AU_INDEX[26], :], out[..., AU_INDEX[27], :])
    out[..., AU_INDEX[27], :] = jaw
    out[..., AU_INDEX[26], :] = np.minimum(jaw / JAW_DROP_SHARE, 1)
    return out
