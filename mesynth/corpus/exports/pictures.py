"""Pictures as other code bases expect their bytes."""

from __future__ import annotations

import cv2
import numpy as np

from mesynth.types import optical_strain


def jpeg_bytes(image: np.ndarray) -> bytes:
    """[H,W,3] uint8 RGB or [H,W] grey as JPEG of quality 100 without chroma subsampling: motion this small must not
    drown in compression."""
    bgr = image[..., ::-1] if image.ndim == 3 else image
    choice = [cv2.IMWRITE_JPEG_QUALITY, 100]
    choice += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    done, buffer = cv2.imencode(".jpg", bgr, choice)
    assert done
    return bytes(buffer)


def grey(rgb: np.ndarray) -> np.ndarray:
    """[H,W] uint8 (ITU-R BT.601 luma) of [H,W,3]."""
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY))


def flow_planes(uv: np.ndarray, size: int) -> np.ndarray:
    """[3,S,S] float32: u, v and optical strain of flow [2,H,W], shrunk by area.

    u and v keep the pixels of the fine grid; strain is computed there, before shrinking, as in the published images.
    """
    way = cv2.INTER_AREA if size < min(uv.shape[1:]) else cv2.INTER_LINEAR
    planes = (uv[0], uv[1], optical_strain(uv))
    return np.stack([cv2.resize(np.ascontiguousarray(p), (size, size), interpolation=way) for p in planes])


def stretched(plane: np.ndarray) -> np.ndarray:
    """uint8: minimum to 0, maximum to 255, rounded; a flat plane is 0."""
    low, high = float(plane.min()), float(plane.max())
    if not high > low:
        return np.zeros(plane.shape, np.uint8)
    return np.round((plane.astype(np.float64) - low) / (high - low) * 255).astype(np.uint8)


def flow_image(uv: np.ndarray, size: int) -> bytes:
    """A PNG whose R, G, B hold u, v and optical strain of flow [2,H,W], each stretched to 0..255 (``cv2.imread``
    gives strain, v, u), as published with STSTNet (Liong et al., FG 2019)."""
    u, v, strain = (stretched(plane) for plane in flow_planes(uv, size))
    done, buffer = cv2.imencode(".png", np.stack([strain, v, u], -1))
    assert done
    return bytes(buffer)
