"""Configuration of ``image_diffusion``: the sections model, process, loss, optim and sampling of a recipe.

It may name networks of others in folders as diffusers writes them. They are read as data alone: a JSON configuration
and a safetensors file; no network access, nothing executed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from mesynth.config import check_range
from mesynth.core.errors import ConfigError, WeightsUnavailable, first_line
from mesynth.generators.diffusion_config import KINDS, Process, Sampling
from mesynth.store.digests import DigestError, file_sha256
from mesynth.store.generator_folder import (
    FAMILIES,
    UNTRAINED,
    WEIGHTS,
    GeneratorFacts,
    PipelineError,
    read_facts,
    saved_folder,
)
from mesynth.training.config import AdamWConfig

if TYPE_CHECKING:
    import torch

_NAMES = (WEIGHTS, "diffusion_pytorch_model.fp16.safetensors")
_OLD_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
"""Names of an autoencoder's attention before diffusers 0.17, as the files of Stable Diffusion 1 have them."""
_Network = TypeVar("_Network")


@dataclass(frozen=True)
class Foreign:
    """A network of somebody else's in a folder as diffusers writes it; found, not yet read."""

    folder: Path
    weights: Path
    config: dict[str, Any]
    """Without where it came from."""

    @property
    def sha256(self) -> str:
        """Of the weights' file."""
        return file_sha256(self.weights)


def find_foreign(folder: Path, kind: str, part: str, key: str) -> Foreign:
    """The network of class ``kind`` in ``folder``, or in its subfolder ``part`` (a whole pipeline was given).

    ``key``: what names the folder in a recipe, for messages.

    Raises:
        WeightsUnavailable: missing, of another class, or not in safetensors.
    """
    found = next((f for f in (folder, folder / part) if (f / "config.json").is_file()), None)
    if found is None:
        raise WeightsUnavailable(f"{key}={folder} holds no config.json; give a folder of a diffusers {kind}")
    try:
        config = json.loads((found / "config.json").read_text())
        named = config["_class_name"]
    except (OSError, ValueError, KeyError, TypeError):
        raise WeightsUnavailable(f"{found / 'config.json'} is no diffusers configuration; copy {key} again") from None
    if named != kind:
        raise WeightsUnavailable(f"{key}={folder} holds a {named}; give a folder of a diffusers {kind}")
    weights = next((found / name for name in _NAMES if (found / name).is_file()), None)
    if weights is None:
        raise WeightsUnavailable(f"{found} holds no {WEIGHTS}; {key} must be in safetensors (other files are not read)")
    return Foreign(found, weights, {k: v for k, v in config.items() if not k.startswith("_")})


def read_state(foreign: Foreign) -> dict[str, torch.Tensor]:
    """Its tensors in float32. Raises WeightsUnavailable for a damaged file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return {_renamed(name): tensor.float() for name, tensor in load_file(foreign.weights).items()}
    except (OSError, SafetensorError) as error:
        raise unfit(foreign, error) from None


def _renamed(name: str) -> str:
    for old, new in _OLD_ATTENTION.items():
        name = name.replace(f"mid_block.attentions.0{old}", f"mid_block.attentions.0{new}")
    return name


def build_foreign(kind: type[_Network], foreign: Foreign) -> _Network:
    """The network itself, frozen, in evaluation mode. Raises WeightsUnavailable for weights that do not fit."""
    state = read_state(foreign)
    try:
        network: Any = kind.from_config(foreign.config)  # type: ignore[attr-defined]
        network.load_state_dict(state)
    except (ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise unfit(foreign, error) from None
    made: _Network = network.eval().requires_grad_(False)
    return made


def unfit(foreign: Foreign, error: Exception) -> WeightsUnavailable:
    """For weights that are not those of their configuration: one line with the reason."""
    reason = first_line(error)
    return WeightsUnavailable(f"{foreign.weights} does not fit its config.json ({reason}); copy it again")


# ---------------------------------------------------------------- the recipe


TARGETS = ("change", "picture")
_SCRATCH_ONLY = ("width", "multipliers", "layers", "heads", "dim")


MEAN = "mean"


@dataclass(frozen=True, kw_only=True)
class ImageProcess(Process):
    """How noise is added and taken away, or that there is none.

    ``kind`` "mean": a regression. The network sees no noise and says what is to be expected; every seed gives the same,
    and one step of any solver is all it takes.
    """

    kinds: ClassVar[tuple[str, ...]] = (*KINDS, MEAN)

    def train_sigma(self, u: torch.Tensor) -> torch.Tensor:
        """See :class:`Process`."""
        return 0 * u + self.sigma_max if self.kind == MEAN else super().train_sigma(u)

    def level(self, sigma: torch.Tensor) -> torch.Tensor:
        """See :class:`Process`."""
        return 0 * sigma + 1000 if self.kind == MEAN else super().level(sigma)

    def denoised(
        self, network: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], x: torch.Tensor, sigma: torch.Tensor
    ) -> torch.Tensor:
        """See :class:`Process`."""
        if self.kind == MEAN:
            return self.sigma_data * network(x.new_zeros(x.shape), self.level(sigma)).to(x.dtype)
        return super().denoised(network, x, sigma)

    def target(self, x: torch.Tensor, clean: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """See :class:`Process`."""
        return clean / self.sigma_data if self.kind == MEAN else super().target(x, clean, sigma)

    def weight(self, sigma: torch.Tensor) -> torch.Tensor:
        """See :class:`Process`."""
        return 0 * sigma + self.sigma_data**-2 if self.kind == MEAN else super().weight(sigma)


@dataclass(frozen=True, kw_only=True)
class ImageSampling(Sampling):
    """How pictures are drawn; ``guidance`` is that on the AUs."""

    identity_guidance: float = 1.0
    """Guidance on the onset: 1 is none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.identity_guidance <= 20:
            raise ConfigError(f"identity_guidance={self.identity_guidance:g} is outside 0..20")


@dataclass(frozen=True)
class Spread:
    """How far frames lie from what is expected of them, in the unit of codes.

    ``sigma_min^2 + sigma_share^2 near + sigma_data^2 unknown``: of rendered people the variance
    grows in proportion to the expected change around a place (``near``); ``unknown`` is the share of unknown AUs.
    """

    sigma_min: float = 0.002
    sigma_share: float = 0.4
    sigma_data: float = 0.04

    def __post_init__(self) -> None:
        for name in ("sigma_min", "sigma_share", "sigma_data"):
            if not 0 < getattr(self, name) < 100:
                raise ConfigError(f"spread {name}={getattr(self, name):g} must be positive")

    def of(self, expected: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """Expected change [B,C,h,w] and which AUs are known [B,K,2] -> [B,1,h,w]."""
        import torch.nn.functional as F

        change = F.pad(expected.abs().mean(1, keepdim=True), (2, 2, 2, 2), mode="replicate")
        unknown = 1 - known.flatten(1).to(expected.dtype).mean(1).view(-1, 1, 1, 1)
        near = F.avg_pool2d(change, 5, 1)
        return (self.sigma_min**2 + self.sigma_share**2 * near + self.sigma_data**2 * unknown).sqrt()

    def saved(self) -> dict[str, float]:
        """As saved generators have it."""
        return {old: getattr(self, new) for old, new in _SAVED.items()}

    @staticmethod
    def read(saved: Mapping[str, Any]) -> Spread:
        """Of :meth:`saved`. Raises KeyError or ConfigError for what was not."""
        return Spread(**{_SAVED[old]: value for old, value in saved.items()})


_SAVED = {"floor": "sigma_min", "share": "sigma_share", "whole": "sigma_data"}


def mean_families() -> list[str]:
    """Families whose generators may be a mean model."""
    return [name for name in FAMILIES if FAMILIES[name].mean_network]


def find_mean_model(folder: Path) -> GeneratorFacts:
    """Facts of a saved generator that can say what is expected, every file of it checked.

    Raises:
        PipelineError: no saved generator, a damaged one, another family, or one that does not say whom it has seen.
    """
    facts = read_facts(folder)
    if facts.name not in mean_families():
        raise PipelineError(f"{folder} holds a {facts.name}; give a {' or '.join(mean_families())}")
    if not facts.subjects_seen:
        raise PipelineError(f"{folder} does not say whom it learned from (subjects_seen is empty); retrain it")
    return facts


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Architecture; see mesynth.generators.image_diffusion.network."""

    target: str = "change"
    """What is diffused: "change" (frame - onset, put onto the photo) or "picture" (the frame itself)."""
    gain: float = 18.0
    """What is diffused times this has about the process's sigma_data: measure it when the space is another. With
    ``mean_model`` the section ``spread`` says it instead."""
    patch: int = 2
    """Pixels of a side that become channels: 2 spares three quarters of the work."""
    width: int = 64
    """Channels at the finest level."""
    multipliers: tuple[int, ...] = (1, 2, 3)
    """Channels of each level over ``width``, one level each; all but the first attend to the AUs."""
    layers: int = 1
    """Residual blocks of a level."""
    heads: int = 4
    """Attention heads."""
    dim: int = 128
    """Length of a token."""
    identity_tokens: int = 4
    """Tokens that tell who it is."""
    identity_width: int = 32
    """Channels of the small encoder that makes them."""
    mean_model: Path | None = None
    """What makes the picture that is expected: a saved motion_gan or au_icgan of the same size (a folder, or the name
    of one that ships), or motion-prior or landmark-mean, which learned from nobody. What differs from that is drawn
    (docs/decisions/015). It stays as it is, and is copied into the saved generator."""
    mean_model_sha256: str = ""
    """Of its weights, of a generator without training its name; filled in, or checked when given."""
    layered: bool = False
    """What is expected is the frame that generation forms of the mean model, in layers and with folds
    (docs/decisions/021), and what is drawn is put onto that: training and use agree. False: a smooth warp, as before
    there were layers. Generators without training have no other."""
    checkpointing: bool = False
    """Compute activations twice to save memory."""
    vae: Path | None = None
    """Folder of a diffusers AutoencoderKL: pictures are diffused in its latents. Copied into the saved generator."""
    vae_licence: str = ""
    """Under which licence you have it; stands in the generator's facts."""
    vae_sha256: str = ""
    """Of its weights; filled in, or checked when given."""
    base: Path | None = None
    """Folder of a diffusers UNet2DConditionModel (Stable Diffusion 1 or 2) to start from."""
    base_licence: str = ""
    """Under which licence you have it."""
    base_sha256: str = ""
    """Of its weights; filled in, or checked when given."""

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise ConfigError(f"model.target '{self.target}' is unknown; choose {' or '.join(TARGETS)}")
        if not (math.isfinite(self.gain) and self.gain > 0):
            raise ConfigError(f"model.gain={self.gain:g} must be positive")
        if self.patch not in (1, 2, 4, 8):
            raise ConfigError(f"model.patch={self.patch} is unknown; choose 1, 2, 4 or 8")
        for name, least, most in (("width", 8, 1024), ("layers", 1, 8), ("heads", 1, 64), ("dim", 8, 4096),
                                  ("identity_tokens", 1, 256), ("identity_width", 4, 1024)):  # fmt: skip
            check_range("model", self, least, most, name)
        object.__setattr__(self, "multipliers", tuple(self.multipliers))
        if not 1 <= len(self.multipliers) <= 6 or any(not 1 <= m <= 16 for m in self.multipliers):
            raise ConfigError(f"model.multipliers={list(self.multipliers)}: give one to six numbers of 1 to 16")
        if self.width % 8 or self.width % self.heads:
            raise ConfigError(f"model.width={self.width} must be a multiple of 8 and of model.heads={self.heads}")
        self._check_mean_model()
        self._foreign("vae", "AutoencoderKL", "vae")
        self._foreign("base", "UNet2DConditionModel", "unet")

    def _check_mean_model(self) -> None:
        """The generator is there, whole, and the one that the recipe means."""
        if self.mean_model is None:
            return
        object.__setattr__(self, "mean_model", Path(self.mean_model))
        if self.target != "change":
            raise ConfigError(f"model.mean_model is what a change is drawn around; model.target is {self.target}")
        if str(self.mean_model) in UNTRAINED:
            found = str(self.mean_model)
            object.__setattr__(self, "layered", True)
        else:
            try:
                facts = find_mean_model(saved_folder(self.mean_model))
            except (PipelineError, DigestError) as error:
                raise ConfigError(f"model.mean_model: {error}") from None
            found = facts.weights_sha256
            if self.layered and FAMILIES[facts.name].paints_frames:
                raise ConfigError(
                    f"model.mean_model={self.mean_model} is a {facts.name}, which paints and forms no layers; leave "
                    "model.layered out"
                )
        if self.layered and self.vae is not None:
            raise ConfigError("model.vae draws in latents, model.layered in pixels of the frame; leave one out")
        if self.mean_model_sha256 not in ("", found):
            meant = self.mean_model_sha256[:12]
            raise ConfigError(
                f"model.mean_model={self.mean_model} has sha256 {found[:12]}.., the recipe means {meant}.."
            )
        object.__setattr__(self, "mean_model_sha256", found)

    def _foreign(self, name: str, kind: str, part: str) -> None:
        """The folder is there, its licence is told, its weights are those that the recipe means."""
        folder, given = getattr(self, name), getattr(self, f"{name}_sha256")
        if folder is None:
            return
        object.__setattr__(self, name, Path(folder))
        if not getattr(self, f"{name}_licence").strip():
            raise ConfigError(
                f"model.{name} is given without model.{name}_licence; say under which licence you have it"
            )
        try:
            found = find_foreign(Path(folder), kind, part, f"model.{name}").sha256
        except WeightsUnavailable as error:
            raise ConfigError(str(error)) from None
        if given not in ("", found):
            raise ConfigError(f"model.{name}={folder} has sha256 {found[:12]}.., the recipe means {given[:12]}..")
        object.__setattr__(self, f"{name}_sha256", found)

    def idle(self) -> dict[str, str]:
        """Keys without effect, and why."""
        out: dict[str, str] = {}
        if self.mean_model is not None:
            out["gain"] = "model.mean_model has the section spread instead"
        else:
            out |= dict.fromkeys(("mean_model_sha256", "layered"), "model.mean_model is not given")
        if self.base is not None:
            out |= dict.fromkeys(_SCRATCH_ONLY, "model.base says what the network looks like")
        if self.vae is not None:
            out["patch"] = "model.vae says what codes look like"
        for name in ("vae", "base"):
            if getattr(self, name) is None:
                out |= dict.fromkeys((f"{name}_licence", f"{name}_sha256"), f"model.{name} is not given")
        return out


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What training leaves out of the condition; the loss itself is the process's.

    The first kind is shared by all diffusion generators: a row loses everything (a tenth), all AUs (a tenth) or single
    AUs (a tenth); lost AUs are unknown.
    """

    drop_aus: float = 0.1
    """Share of the other rows that have the onset but no AUs at all: what guidance on the AUs is measured against."""
    skew: float = 3.0
    """Noise levels are drawn at u^(1/skew) of a uniform u: 1 as the process has them. Above 1 more of them are high:
    given onset and AUs little is left open, and what the network makes of them is decided while noise is high."""
    squared: float = 1.0
    """Weight of the squared error of what is diffused."""
    picture: float = 0.0
    """Weight of the mean absolute error of the picture that the network's estimate stands for, in grey levels."""
    st_lpips: float = 0.0
    """Weight of that picture's ST-LPIPS to the true frame (Ghildyal and Liu, 2022; needs stlpips-pytorch): a squared
    error alone draws what is blurred. Looked at in a window of half the side that each pair draws: a quarter of the
    work."""

    def __post_init__(self) -> None:
        for name in ("squared", "picture", "st_lpips"):
            if not 0 <= getattr(self, name) <= 1000:
                raise ConfigError(f"loss.{name}={getattr(self, name):g} is outside 0..1000")
        if not (self.squared or self.picture or self.st_lpips):
            raise ConfigError("loss.squared, loss.picture and loss.st_lpips are all 0; give one of them a weight")
        if not 0 <= self.drop_aus < 1:
            raise ConfigError(f"loss.drop_aus={self.drop_aus:g} is outside [0, 1)")
        if not 0.1 <= self.skew <= 10:
            raise ConfigError(f"loss.skew={self.skew:g} is outside .1..10")


@dataclass(frozen=True, kw_only=True)
class OptimConfig(AdamWConfig):
    """AdamW."""

    lr: float = 2e-4
    """Learning rate."""

    def __post_init__(self) -> None:
        if not 0 < self.lr < 1:
            raise ConfigError(f"optim.lr={self.lr:g} is outside (0, 1)")
        if not 0 <= self.weight_decay < 10:
            raise ConfigError(f"optim.weight_decay={self.weight_decay:g} is outside [0, 10)")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"optim.{name}={getattr(self, name):g} is outside [0, 1)")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Sections of a recipe with ``task: image_diffusion``."""

    model: ModelConfig = field(default_factory=ModelConfig)
    process: ImageProcess = field(default_factory=ImageProcess)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    sampling: ImageSampling = field(default_factory=ImageSampling)
    """For validation, sheets, and whoever loads the generator and asks for nothing else."""
    spread: Spread = field(default_factory=Spread)
    """How far frames are likely to lie from what ``model.mean_model`` says."""

    def idle(self) -> dict[str, str]:
        """Keys without effect, and why."""
        return {} if self.model.mean_model is not None else {"spread": "model.mean_model is not given"}
