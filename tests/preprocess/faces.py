"""A tiny release of face clips whose mouth moves by a known field."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from skimage import data

from tests.datasets.releases.casme2 import ReleaseClip, write_release

MOUTH = (112, 140)  # in the 224 px picture below
PEAK = 4.0
WIDTH = 6.0  # standard deviation of the motion, pixels: the nose stays still


def face(share: float) -> np.ndarray:
    """[224,224,3]: the astronaut's face, its mouth moved up by ``share`` of PEAK pixels."""
    picture = data.astronaut()[0:224, 112:336]
    y, x = np.mgrid[:224, :224].astype(np.float32)
    bump = share * PEAK * np.exp(-((x - MOUTH[0]) ** 2 + (y - MOUTH[1]) ** 2) / (2 * WIDTH**2))
    return np.asarray(cv2.remap(picture, x, y + bump, cv2.INTER_CUBIC))


@lru_cache(None)
def _png(share: float) -> bytes:
    done, data = cv2.imencode(".png", face(share)[..., ::-1])
    assert done
    return bytes(data)


CLIPS = (
    ReleaseClip(onset=8, apex=11, offset=13),
    ReleaseClip(subject="02", name="EP01_01", onset=98, apex="/", offset=102, aus=12, emotion="happiness"),
    ReleaseClip(subject="02", name="EP02_01", onset=5, apex=7, offset=9, emotion="surprise"),
)


def write_faces(root: Path, clips: Sequence[ReleaseClip] = CLIPS) -> Path:
    """A release of face clips; lossless, so that what is compared is not JPEG."""
    write_release(root, clips, pattern="img{}.png")
    for clip in clips:
        onset, offset = int(str(clip.onset)), int(str(clip.offset))
        for n in clip.numbers:
            share = float(np.clip(1 - abs(2 * (n - onset) / (offset - onset) - 1), 0, 1))
            file = root / "CASME2_RAW_selected" / f"sub{clip.subject}" / clip.name / f"img{n}.png"
            file.write_bytes(_png(share))
    return root
