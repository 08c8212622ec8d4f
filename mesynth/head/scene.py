"""What the renderer's kernels read: one subject as plain arrays."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

# A real number in a kernel: float32 when called from another kernel, a Python float when called from Python.
Scalar = Any

# Columns of Scene.attributes.
# Columns 5 and 6 are eye-local coordinates on the eyeballs, a tooth number on the teeth, cloth on the skin.
U, V, LIP, LASH, HAIR, EYE_U, EYE_V, FACE = range(8)
TOOTH, CLOTH = EYE_U, EYE_V
# Channels of Scene.texture (uint8).
RED, GREEN, BLUE, OCCLUSION, STRAND, GLOSS, SHADOW, RELIEF = range(8)
# Scene.look: scalars of the shader.
EXPOSURE, KEY, FILL, AMBIENT, WARMTH, GRADIENT_X, GRADIENT_Y, LASH_STRENGTH, GAIN, HAIR_SOFT, LIP_SHIFT = range(11)


class Scene(NamedTuple):
    """One subject as arrays (float32 unless stated); built by render.Subject, read by the kernels.

    rest [V,3] canonical; basis [2K,V,3]; faces [F,3] int32; part [F] uint8; attributes [V,8]; vertex_eye [V]
    int8; eyes [2,4] = centre and radius; lids [n] int32 vertices kept outside the eyeballs; lips [2] int32 inner
    mid-lip vertices, upper and lower; texture [h,w,8] uint8; wrinkles [h,w,M] int8; tex_map [3] = u0, v0, texels
    per IOD; key, fill [3] unit directions; look [11]; hair, iris, lip, garment, background [3] linear RGB;
    camera [4] = focal length, distance, centre x, centre y.
    """

    rest: np.ndarray
    basis: np.ndarray
    faces: np.ndarray
    part: np.ndarray
    attributes: np.ndarray
    vertex_eye: np.ndarray
    eyes: np.ndarray
    lids: np.ndarray
    lips: np.ndarray
    texture: np.ndarray
    wrinkles: np.ndarray
    tex_map: np.ndarray
    key: np.ndarray
    fill: np.ndarray
    look: np.ndarray
    hair: np.ndarray
    iris: np.ndarray
    lip: np.ndarray
    garment: np.ndarray
    background: np.ndarray
    camera: np.ndarray
