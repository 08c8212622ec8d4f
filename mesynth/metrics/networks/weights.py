"""The weights the measures want, where they are looked for, and what stands in while they are missing."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

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


@dataclass(frozen=True)
class Published:
    """A weight file that its authors publish: ``what`` it is, and the ``option`` that names another copy of it."""

    network: str
    what: str
    file: str
    url: str
    option: str

    def here(self, given: Path | str | None = None) -> Path | None:
        """The file given, or torch.hub's copy; None if neither is there. Raises WeightsUnavailable: it is no file."""
        cached = hub_folder() / self.file
        return given_file(given, self.network) or (cached if cached.is_file() else None)

    def find(self, given: Path | str | None, allow_download: bool) -> Path | None:
        """:meth:`here`; None only where it may be fetched. Raises WeightsUnavailable."""
        found = self.here(given)
        if found is None and not allow_download:
            raise WeightsUnavailable(
                f"{self.what}: {self.file} is not in {hub_folder()}; put it there "
                f"(from {self.url}), pass {self.option}=FILE, or allow the download"
            )
        return found

    def read(self, found: Path | None) -> dict[str, Any]:
        """Tensors by name, from the file or fetched into torch.hub's folder. Raises WeightsUnavailable."""
        import torch

        try:
            if found is not None:
                state: dict[str, Any] = torch.load(found, map_location="cpu", weights_only=True)
            else:  # the name ends in the file's hash
                state = torch.hub.load_state_dict_from_url(self.url, weights_only=True, check_hash=True)
        except Exception as error:  # no network, truncated file, not a weight file
            raise WeightsUnavailable(f"{self.what}: {found or self.url} cannot be read ({error})") from None
        return state

    def need(self, name: str, purpose: str, *, beside: bool, also: str = "", instead: str) -> Need:
        """The row of ``mesynth doctor``; ``beside``: whether the package that it goes with is here."""
        option = self.option.replace("_", "-")
        return Need(
            name=name,
            purpose=purpose,
            present=self.here() is not None and beside,
            where=str(hub_folder() / self.file),
            remedy=f"put {self.file} there (from {self.url}), or pass --{option} FILE{also}",
            instead=instead,
        )


INCEPTION = Published("Inception", "Inception weights", INCEPTION_FILE, INCEPTION_URL, "inception_weights")
"""Of the published FID."""
ALEXNET = Published("AlexNet", "LPIPS trunk", ALEXNET_FILE, ALEXNET_URL, "lpips_weights")
"""torchvision's AlexNet."""


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
    resnet, five = (package_file("face_recognition_models", f) for f in (DLIB_RESNET, DLIB_FIVE))
    dlib = importlib.util.find_spec("_dlib_pybind11") or importlib.util.find_spec("dlib")
    return [
        INCEPTION.need(
            "Inception (FID, KID)",
            "features of FID and KID as published",
            beside=importlib.util.find_spec("pytorch_fid") is not None,
            instead="FD-STAlexNet and KID-STAlexNet",
        ),
        ALEXNET.need(
            "AlexNet trunk (LPIPS)",
            "LPIPS as published",
            beside=package_file("lpips", "weights/v0.1/alex.pth") is not None,
            also="; pip install lpips",
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
