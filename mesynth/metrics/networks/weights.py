"""The weights the measures want, where they are looked for, and what stands in while they are missing."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from mesynth.core.errors import WeightsUnavailable
from mesynth.store.weights import Need, hub_folder, package_file

T = TypeVar("T")
INCEPTION_FILE = "pt_inception-2015-12-05-6726825d.pth"
INCEPTION_URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{INCEPTION_FILE}"
ALEXNET_FILE = "alexnet-owt-7be5be79.pth"
ALEXNET_URL = f"https://download.pytorch.org/models/{ALEXNET_FILE}"
STALEX_FILE = "weights/vST0.0/alex_shift_tolerant.pth"
DLIB_RESNET = "models/dlib_face_recognition_resnet_model_v1.dat"
DLIB_FIVE = "models/shape_predictor_5_face_landmarks.dat"


def given_file(path: Path | str | None, what: str) -> Path | None:
    """``path`` if given; raises WeightsUnavailable when it names no file."""
    if path is None:
        return None
    file = Path(path).expanduser()
    if not file.is_file():
        raise WeightsUnavailable(f"{what} weights: {file} is no file; check the path")
    return file


def _in_hub(name: str, given: Path | str | None, what: str) -> Path | None:
    """The file given, else torch.hub's copy, else None."""
    cached = hub_folder() / name
    return given_file(given, what) or (cached if cached.is_file() else None)


def inception_file(given: Path | str | None = None) -> Path | None:
    """The FID Inception weights: the file given, or torch.hub's copy; None if neither is there."""
    return _in_hub(INCEPTION_FILE, given, "Inception")


def alexnet_file(given: Path | str | None = None) -> Path | None:
    """torchvision's AlexNet weights (the LPIPS trunk): the file given, or torch.hub's copy."""
    return _in_hub(ALEXNET_FILE, given, "AlexNet")


def stalex_file() -> Path | None:
    """The shift-tolerant AlexNet that ships in the package stlpips-pytorch."""
    return package_file("stlpips_pytorch", STALEX_FILE)


def first_available(
    best: Callable[[], T], stand_in: Callable[[], T], *, demanded: bool, note: str, replaced: str
) -> tuple[T, str]:
    """``best()`` with ``note``, else ``stand_in()`` with a note that says what it ``replaced`` and why.

    Raises:
        WeightsUnavailable: neither can be had, or the best was ``demanded`` (its file was given) and cannot.
    """
    try:
        return best(), note
    except WeightsUnavailable as missing:
        if demanded:
            raise
        try:
            return stand_in(), f"{replaced}: {missing}"
        except WeightsUnavailable as also:
            raise WeightsUnavailable(f"{missing}. Nor can the fallback be used: {also}") from None


def needs() -> list[Need]:
    """What each measure wants and whether it is on this machine (the rows of ``mesynth doctor``)."""
    lpips_heads = package_file("lpips", "weights/v0.1/alex.pth")
    resnet, five = (package_file("face_recognition_models", f) for f in (DLIB_RESNET, DLIB_FIVE))
    dlib = importlib.util.find_spec("_dlib_pybind11") or importlib.util.find_spec("dlib")
    return [
        Need(
            name="Inception (FID, KID)",
            purpose="features of FID and KID as published",
            present=inception_file() is not None and importlib.util.find_spec("pytorch_fid") is not None,
            where=str(hub_folder() / INCEPTION_FILE),
            remedy=f"put {INCEPTION_FILE} there (from {INCEPTION_URL}), or pass --inception-weights FILE",
            instead="FD-STAlexNet and KID-STAlexNet",
        ),
        Need(
            name="AlexNet trunk (LPIPS)",
            purpose="LPIPS as published",
            present=alexnet_file() is not None and lpips_heads is not None,
            where=str(hub_folder() / ALEXNET_FILE),
            remedy=f"put {ALEXNET_FILE} there (from {ALEXNET_URL}), or pass --lpips-weights FILE; pip install lpips",
            instead="ST-LPIPS",
        ),
        Need(
            name="shift-tolerant AlexNet (FD-STAlexNet, ST-LPIPS)",
            purpose="distribution and perceptual distance without downloads",
            present=stalex_file() is not None,
            where=f"{STALEX_FILE} in the package stlpips-pytorch",
            remedy="pip install stlpips-pytorch==0.0.2",
            instead="nothing: these measures are reported as not measured",
        ),
        Need(
            name="face ResNet (identity)",
            purpose="identity preservation",
            present=None not in (resnet, five, dlib),
            where=f"{DLIB_RESNET} in the package face-recognition-models, and the package dlib-bin",
            remedy="pip install dlib-bin face-recognition-models",
            instead="nothing: identity is reported as not measured",
        ),
        Need(
            name="AU judge",
            purpose="AU control",
            present=(Path(__file__).parent / "data" / "judge.safetensors").is_file(),
            where="mesynth/metrics/networks/data/judge.safetensors",
            remedy="reinstall mesynth, or "
            "python -m mesynth.metrics.judge_train configs/quality/judge.yaml --out DIR",
            instead="nothing: AU control is reported as not measured",
        ),
    ]  # fmt: skip
