"""How far the flow images of a generator are from those of rendered people, as distributions: the flow KID.

A flow image is what recognizers of micro-expressions look at: u, v and strain at 28 px (Liong et al., 2019). It is its
own feature vector: KID's polynomial kernel compares the pictures as they are, so that no network, trained or random,
decides what counts. The kernel's cube sees means, variances and skewness of every pair and triple of values.
"""

from __future__ import annotations

import cv2
import numpy as np

from mesynth.types import optical_strain

SIDE = 28
DIM = 3 * SIDE * SIDE
UNIT = 1 / 128
"""Share of the crop's side, a pixel of 128: motion up to about this counts in proportion, beyond by its logarithm
(asinh), or the few jaws that drop far would be all that is compared."""
FLOW_KID = "flow KID"


def flow_image(uv: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Flow [2,S,S] in pixels and where it counts [S,S] bool -> [DIM] float16: asinh of u, v in UNITs and their strain.

    Outside, where the truth is not known or not seen, nothing moves in any picture.
    """
    shown = np.where(inside, uv, 0).astype(np.float32).transpose(1, 2, 0)
    small = cv2.resize(np.ascontiguousarray(shown), (SIDE, SIDE), interpolation=cv2.INTER_AREA).transpose(2, 0, 1)
    small = small / np.float32(UNIT * uv.shape[-1])
    return np.arcsinh(np.concatenate([small.ravel(), optical_strain(small).ravel()])).astype(np.float16)
