"""The pretrained networks that measures, comparison and filters share, and the one place that finds and loads them.

Which weights the measures want, where they are looked for, and what stands in while they are missing; the face network,
128-d embeddings by which two pictures are of one person or of two; and :class:`Networks`, which loads each once. All of
it is read without torch.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from mesynth.core.errors import WeightsUnavailable
from mesynth.store import assets
from mesynth.store.assets import Need, hub_folder, package_file

if TYPE_CHECKING:
    from mesynth.metrics.networks.extractors import FeatureExtractor, PerceptualDistance
    from mesynth.metrics.networks.judge import AUJudge

T = TypeVar("T")
BATCH = 32
"""Pictures that a network sees at once."""
INCEPTION_FILE = "pt_inception-2015-12-05-6726825d.pth"
INCEPTION_URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{INCEPTION_FILE}"
ALEXNET_FILE = "alexnet-owt-7be5be79.pth"
ALEXNET_URL = f"https://download.pytorch.org/models/{ALEXNET_FILE}"


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

    def open(
        self, given: Path | str | None, allow_download: bool, package: str, missing: str
    ) -> tuple[Path | None, Any, dict[str, Any]]:
        """The file (:meth:`find`), the module ``package`` that the weights go with, and the tensors by name.

        Raises:
            WeightsUnavailable: ``missing`` where the package is not installed, or as :meth:`find` and :meth:`read`.
        """
        found = self.find(given, allow_download)
        try:
            module = importlib.import_module(package)
        except ImportError:
            raise WeightsUnavailable(missing) from None
        return found, module, self.read(found)

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


@dataclass(frozen=True)
class Preferred(Generic[T]):
    """A network, and what stands in while its weights cannot be had."""

    best: Callable[..., T]
    """``best(file, allow_download=)``; file None: the usual place."""
    stand_in: Callable[[], T]
    note: str
    """Names the best."""
    replaced: str
    """Says what the stand-in stands in for."""

    def __call__(self, file: Path | str | None = None, *, allow_download: bool = False) -> tuple[T, str]:
        """The best if its weights can be had, else the stand-in; and a note that says which was used and why.

        Raises:
            WeightsUnavailable: neither can be had, or the ``file`` given cannot be used.
        """
        try:
            return self.best(file, allow_download=allow_download), self.note
        except WeightsUnavailable as missing:
            if file is not None:
                raise
            try:
                return self.stand_in(), f"{self.replaced}: {missing}"
            except WeightsUnavailable as also:
                raise WeightsUnavailable(f"{missing}. Nor can the fallback be used: {also}") from None


def needs() -> list[Need]:
    """What each measure wants and whether it is on this machine (the rows of ``mesynth doctor``)."""
    resnet, five, stalex = (assets.find(a) for a in (assets.FACE_RESNET, assets.FACE_CHIP, assets.SHIFT_TOLERANT))
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
            present=stalex is not None,
            where=assets.SHIFT_TOLERANT.where,
            remedy=assets.SHIFT_TOLERANT.remedy,
            instead="nothing: these measures are reported as not measured",
        ),
        Need(
            name="face ResNet (identity)",
            purpose="identity preservation",
            present=None not in (resnet, five, dlib),
            where=f"{assets.FACE_RESNET.where}; and the package dlib-bin",
            remedy=assets.FACE_RESNET.remedy,
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


# ---------------------------------------------------------------- faces


CHIP, PADDING = 150, 0.25


class FaceEmbedder:
    """128-d embeddings of dlib's face ResNet (King, 2017; files of face-recognition-models, CC0).

    Raises:
        WeightsUnavailable: dlib-bin or face-recognition-models is not installed.
    """

    name = "dlib face ResNet, 128-d"

    def __init__(self) -> None:
        resnet, five = (assets.require(asset) for asset in (assets.FACE_RESNET, assets.FACE_CHIP))
        try:
            import dlib
        except ImportError:
            raise WeightsUnavailable("face ResNet: the package dlib is not installed; pip install dlib-bin") from None
        self._dlib: Any = dlib
        self._net: Any = dlib.face_recognition_model_v1(str(resnet))
        self._five: Any = dlib.shape_predictor(str(five))

    def __call__(self, frames: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """Frames [N,H,W,3] uint8 RGB of one clip and its onset landmarks [68,2] -> embeddings [N,128] float64.

        The chip is cut once, from the onset: a chip per frame would hide a drift of the face.
        """
        dlib = self._dlib
        low, high = landmarks.min(0), landmarks.max(0)
        # dlib's predictors expect their detector's box: brows to chin, about square.
        side, centre = float(np.max(high - low)), (low + high) / 2
        box = dlib.rectangle(*np.round([*(centre - side / 2), *(centre + side / 2)]).astype(int).tolist())
        shape = self._five(np.ascontiguousarray(frames[0]), box)
        chips = [dlib.get_face_chip(np.ascontiguousarray(f), shape, CHIP, PADDING) for f in frames]
        return np.asarray([np.array(v) for v in self._net.compute_face_descriptor(chips)], np.float64)


# ---------------------------------------------------------------- all of them


class GivenWeightsUnavailable(WeightsUnavailable):
    """A weight file that was given by name cannot be used: nothing stands in for it."""


class Networks:
    """Each network is loaded when it is first asked for, and kept. Picklable: a copy in a process loads its own.

    Args:
        inception, lpips, judge: weight files; None for the usual place (``mesynth doctor`` names it).
        allow_download: fetch what is missing of the picture networks.
        device: where the picture networks and the judge run (:func:`mesynth.core.devices.find_device`).

    >>> Networks().get("twice", lambda: [1, 2])
    [1, 2]
    """

    def __init__(
        self,
        *,
        inception: Path | str | None = None,
        lpips: Path | str | None = None,
        judge: Path | str | None = None,
        allow_download: bool = False,
        device: str = "cpu",
    ) -> None:
        self._device = device
        self._files: dict[str, Path | str | None] = {"inception": inception, "lpips": lpips, "judge": judge}
        self._allow_download = allow_download
        self._loaded: dict[str, Any] = {}
        self.notes: list[str] = []
        """Which network stands in for which, and why."""

    def __getstate__(self) -> dict[str, Any]:
        # What was missing has been fetched by the process that loaded first.
        return {**self.__dict__, "_loaded": {}, "notes": [], "_allow_download": False}

    def get(self, name: str, load: Callable[[], T]) -> T:
        """What ``load`` made when ``name`` was first asked for; for networks of measures from outside, too."""
        if name not in self._loaded:
            self._loaded[name] = load()
        found: T = self._loaded[name]
        return found

    @property
    def judge(self) -> AUJudge:
        """The network that reads AU intensities. Raises WeightsUnavailable."""
        from mesynth.metrics.networks.judge import AUJudge

        file = self._files["judge"]
        return self.get("judge", lambda: self._placed(_demanded(lambda: AUJudge.load(file), file)))

    @property
    def faces(self) -> FaceEmbedder:
        """The face embedder. Raises WeightsUnavailable."""
        return self.get("faces", FaceEmbedder)

    @property
    def pictures(self) -> tuple[FeatureExtractor, PerceptualDistance]:
        """Features of pictures and a perceptual distance, which may share a network. Raises WeightsUnavailable."""
        return self.get("pictures", lambda: _demanded(self._pictures, self._files["inception"], self._files["lpips"]))

    def _pictures(self) -> tuple[FeatureExtractor, PerceptualDistance]:
        from mesynth.metrics.networks.extractors import best_distance, best_extractor

        features, note = best_extractor(self._files["inception"], allow_download=self._allow_download)
        perceptual, other = best_distance(self._files["lpips"], allow_download=self._allow_download)
        self.notes += [note, other]
        return self._placed(features), self._placed(perceptual)

    def _placed(self, network: T) -> T:
        """On the device. What somebody else registered has no ``to`` and stays on the CPU."""
        to: Callable[[str], T] | None = getattr(network, "to", None)
        return network if to is None or self._device == "cpu" else to(self._device)


def _demanded(load: Callable[[], T], *files: Path | str | None) -> T:
    try:
        return load()
    except WeightsUnavailable as error:
        if any(file is not None for file in files):
            raise GivenWeightsUnavailable(str(error)) from None
        raise
