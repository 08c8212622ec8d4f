"""Training of ``image_diffusion``: denoise the change of the picture given onset and AUs, parts of both left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import nn

from mesynth.core.errors import ConfigError
from mesynth.generators.base import save_trained
from mesynth.generators.diffusion import dropped
from mesynth.generators.image_diffusion.config import MEAN, Config, build_foreign, find_foreign, find_mean_model
from mesynth.generators.image_diffusion.network import (
    Codec,
    Former,
    ImageDenoiser,
    LatentSpace,
    PixelSpace,
    Space,
    adopt_weights,
    adopted_config,
    expected_picture,
    faded,
    load_mean_model,
    painted,
    unet_config,
)
from mesynth.store.generator_folder import UNTRAINED, GeneratorFacts, saved_folder
from mesynth.training import losses as L
from mesynth.training import record
from mesynth.training.data.batches import Batch
from mesynth.training.data.pack import open_formed
from mesynth.training.data.pairs import refuse_camera
from mesynth.training.losses import mean_of
from mesynth.training.perceptual import STLPIPSLoss
from mesynth.training.task import Task, Updater

_LEAST_SIDE = 64
"""Half of it is what ST-LPIPS' network can read."""


class ImageDiffusionTask(Task):
    """See the module. One trained network, the denoiser; an autoencoder, where there is one, stays as it came."""

    name = "image_diffusion"
    averaged = ("denoiser",)

    def __init__(self, config: Config, size: int) -> None:
        model = config.model
        self._config, self.size = config, size
        self.frozen: dict[str, nn.Module] = {}
        space: Space
        if model.vae is not None:
            found = find_foreign(model.vae, "AutoencoderKL", "vae", "model.vae")
            vae: Any = build_foreign(AutoencoderKL, found)
            cell = 1 << (len(found.config["block_out_channels"]) - 1)
            self.frozen["vae"], space = vae, LatentSpace(vae, size)
        else:
            cell, space = model.patch, PixelSpace(size, model.patch)
        self._mean: GeneratorFacts | None = None
        self._expect, mean_model = "", None
        if model.mean_model is not None:
            self._expect = str(model.mean_model)
            if self._expect not in UNTRAINED:
                folder = saved_folder(model.mean_model)
                self._mean = find_mean_model(folder)
                if self._mean.size != size:
                    raise ConfigError(
                        f"model.mean_model={model.mean_model} works on {self._mean.size} pixels, data.size is {size}; "
                        "make them equal"
                    )
                self._expect = self._mean.name
                mean_model = load_mean_model(self._mean.name, folder / "generator")
                self.frozen["expected"] = mean_model
        if size < 8 or size % cell:
            raise ConfigError(f"data.size={size} must be a multiple of {cell}, at least 8, for these codes")
        self.codec = Codec(space, model.target, model.gain, mean_model, config.spread, model.layered)
        if config.loss.st_lpips:
            if size < _LEAST_SIDE:
                raise ConfigError(
                    f"loss.st_lpips looks at windows of half the side, and data.size={size} is less than "
                    f"{_LEAST_SIDE}; leave it out or choose a larger size"
                )
            self.frozen["st_lpips"] = STLPIPSLoss()
        self.networks: dict[str, nn.Module] = {"denoiser": self._denoiser(space)}

    def _denoiser(self, space: Space) -> Any:
        config, model = self._config, self._config.model
        inputs = 2 if model.mean_model is None else 3
        shape: dict[str, int] = {"channels": space.channels, "inputs": inputs, "side": space.side}
        base = None
        if model.base is not None:
            base = find_foreign(model.base, "UNet2DConditionModel", "unet", "model.base")
            unet = adopted_config(base, **shape)
        else:
            unet = unet_config(
                **shape, width=model.width, multipliers=model.multipliers, layers=model.layers, heads=model.heads,
                dim=model.dim,
            )  # fmt: skip
        names = ("vae_sha256", "vae_licence", "base_sha256", "base_licence")
        network = ImageDenoiser(
            unet=unet, channels=space.channels, size=self.size, patch=model.patch, target=model.target,
            gain=model.gain, expect=self._expect, spread=config.spread.saved(),
            identity_tokens=model.identity_tokens, identity_width=model.identity_width,
            process=asdict(config.process), sampling=asdict(config.sampling),
            origin={name: value for name in names if (value := getattr(model, name))}, layered=model.layered,
        )  # fmt: skip
        if base is not None:
            adopt_weights(network, base)
        if model.checkpointing:
            network.body.enable_gradient_checkpointing()
        return network

    def teachers(self) -> Mapping[str, GeneratorFacts]:
        """Who says what is expected."""
        return {"model.mean_model": self._mean} if self._mean else {}

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """One AdamW."""
        o = self._config.optim
        weights, betas = self.networks["denoiser"].parameters(), (o.beta1, o.beta2)
        adam = torch.optim.AdamW(weights, lr=o.lr, betas=betas, weight_decay=o.weight_decay, fused=True)
        return {"denoiser": adam}

    def check_data(self, data: Any) -> None:
        """No camera over frames in layers."""
        if self.codec.layered:
            refuse_camera(data.camera)

    def prepared(
        self, pairs: Any, cache: Path, progress: Callable[[int, int], None] | None = None, workers: int = 1
    ) -> Any:
        """With the frames in layers that generation forms of the mean model, where those are what is drawn around."""
        if not self.codec.layered:
            return pairs
        identity = {"mean_model": self._config.model.mean_model_sha256}
        form = Former(self._expect, self.codec.mean_model, self._mean)
        return pairs.formed(lambda pack: open_formed(pack, cache, identity, form, progress, workers=workers))

    def step(self, batch: Batch, images: int, updater: Updater) -> dict[str, torch.Tensor]:
        """Weighted squared error of the estimate of the clean data at a noise level that each pair draws, and what
        section ``loss`` says of the picture that it stands for."""
        loss = self._loss(self.networks["denoiser"], batch).mean()
        updater.update("denoiser", loss)
        return {"denoiser": loss.detach()}

    def _told(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What the network is told in training: AUs known [B,K,2], rows without condition and without AUs [B]."""
        if self._config.process.kind == MEAN:  # no guidance: it needs both, and gives the mean alone
            none = torch.zeros(len(batch), dtype=torch.bool, device=batch.onset.device)
            return batch.known, none, none
        known, null = dropped(batch.known, batch.rand("dropped", 1 + batch.known[0].numel()))
        null_aus = null | (batch.rand("null-aus", 1)[:, 0] < self._config.loss.drop_aus)
        # A frame in layers shows every AU: none can be hidden alone.
        return (batch.known if self.codec.layered else known), null, null_aus

    def _loss(self, network: nn.Module, batch: Batch) -> torch.Tensor:
        """[B]"""
        process, n, weights = self._config.process, len(batch), self._config.loss
        known, null, null_aus = self._told(batch)
        # A row without condition is scaled by what it shows, as its guided counterpart is.
        seen = torch.where(null_aus[:, None, None], batch.known, known)
        around = self.codec.around(batch.onset, batch.aus, seen, batch.formed)
        clean = self.codec.clean(self.codec.space.encode(batch.frame), around)
        sigma = process.train_sigma(batch.rand("sigma", 1)[:, 0] ** (1 / self._config.loss.skew))
        noisy = clean + sigma.view(-1, 1, 1, 1) * batch.randn("noise", *clean.shape[1:])

        def told(x: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = network(x, level, around.onset, batch.aus, known, null_aus, null, around.shown)
            return out

        made = process.denoised(told, noisy, sigma)
        assert len(made) == n
        error = (made - clean).square()
        if self.codec.layered and batch.share is not None:  # what cannot be painted is not asked for
            error = error * F.adaptive_avg_pool2d(batch.share, error.shape[-1])
        loss = weights.squared * process.weight(sigma) * mean_of(error)
        if weights.picture or weights.st_lpips:
            fade = faded(batch.aus) if self.codec.layered else torch.ones_like(sigma)
            picture = self._put(batch, self.codec.change(made, around, fade, None, whole=not self.codec.layered))
            if weights.picture:
                loss = loss + weights.picture * L.GREY_LEVELS * mean_of((picture - batch.frame).abs())
            if weights.st_lpips:
                at = batch.rand("window", 2)
                looked_at = [windows(shown, at) for shown in (picture.clamp(0, 1), batch.frame)]
                loss = loss + weights.st_lpips * self.frozen["st_lpips"](*looked_at)
        return loss

    def _put(self, batch: Batch, change: torch.Tensor) -> torch.Tensor:
        """Pictures [B,3,S,S] with a drawn change: on frames in layers, as far as these may be painted, or on onsets."""
        if not self.codec.layered:
            return batch.onset + change
        assert batch.formed is not None
        assert batch.share is not None
        return batch.formed + batch.share * change

    def _paint(self, network: nn.Module, batch: Batch, aus: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """Pictures [B,3,S,S], each with its pair's noise."""
        space, sampling = self.codec.space, self._config.sampling
        noise = batch.randn("sample", space.channels, space.side, space.side)
        return self._put(batch, painted(
            network, self.codec, self._config.process, sampling, batch.onset, aus, known, noise,
            whole=not self.codec.layered, formed=batch.formed,
        ))  # fmt: skip

    def validate(self, averaged: Mapping[str, nn.Module], batch: Batch) -> dict[str, torch.Tensor]:
        """Grey-level errors of a drawn picture and of the onset itself, the loss, and how it follows the AUs."""
        network, asked = averaged["denoiser"], batch.aus * batch.known
        picture = self._paint(network, batch, asked, batch.known)
        made, real = picture - batch.onset, batch.frame - batch.onset
        every = torch.ones_like(batch.known)
        if self.codec.layered:
            measures = self._drawn(picture, batch)
        else:
            measures = L.response(lambda aus: self._paint(network, batch, aus, every), batch.onset, batch.frame, asked)
        power = real.square().flatten(1).sum(1)
        gain = (made * real).flatten(1).sum(1) / power.clamp(min=1e-9)
        if self.codec.mean_model is not None and not self.codec.layered:
            expected = expected_picture(self.codec.mean_model, batch.onset, batch.aus, batch.known)
            measures["error_expected"] = L.GREY_LEVELS * mean_of((expected - batch.frame).abs())
        return measures | {
            "loss": self._loss(network, batch),
            "error": L.GREY_LEVELS * mean_of((picture - batch.frame).abs()),
            "error_onset": L.GREY_LEVELS * mean_of(real.abs()),
            "rms": L.GREY_LEVELS * mean_of((picture - batch.frame).square()).sqrt(),
            "rms_onset": L.GREY_LEVELS * mean_of(real.square()).sqrt(),
            "gain": torch.where(power > 1e-3, gain, torch.nan),
        }

    def _drawn(self, picture: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        """Against frames in layers, which follow the AUs by themselves: grey-level errors of these, how much is drawn
        on them and is missing of them, and the perceptual distances where they are what is learned."""
        formed = batch.formed
        assert formed is not None
        measures = {
            "error_expected": L.GREY_LEVELS * mean_of((formed - batch.frame).abs()),
            "rms_expected": L.GREY_LEVELS * mean_of((formed - batch.frame).square()).sqrt(),
            "change": L.GREY_LEVELS * mean_of((picture - formed).abs()),
            "real_change": L.GREY_LEVELS * mean_of((batch.frame - formed).abs()),
        }
        if "st_lpips" in self.frozen:
            for name, shown in (("st_lpips", picture), ("st_lpips_expected", formed)):
                measures[name] = self.frozen["st_lpips"](shown.clamp(0, 1), batch.frame)
        return measures

    def check(self, logged: Mapping[str, float], measured: Mapping[str, float]) -> str:
        """NaN, an output that ignores the AUs or equals the input, or change without measure."""
        change, real = measured.get("change", 1.0), measured.get("real_change", 1.0)
        if change > 10 * max(real, 0.5):
            return (
                f"the output is noise (change {change:.3g} grey levels, {real:.3g} in the data); "
                "train longer, or lower sampling.guidance"
            )
        return L.known_failure(logged, measured)

    def sheet(self, averaged: Mapping[str, nn.Module], batch: Batch) -> np.ndarray:
        """Onset, real frame, drawn; changes times 4; the AUs at a half and in full, or the frame in layers."""
        network, asked = averaged["denoiser"], batch.aus * batch.known
        with torch.no_grad():
            picture = self._paint(network, batch, asked, batch.known)
            if self.codec.layered and batch.formed is not None:
                columns = [
                    *(record.pictures(x) for x in (batch.onset, batch.frame, batch.formed, picture)),
                    *(record.changes(x, batch.onset) for x in (batch.frame, batch.formed, picture)),
                ]
                return record.sheet(columns, scale=max(1, 128 // self.size))
            top = asked.flatten(1).amax(1).clamp(min=1e-6).view(-1, 1, 1)
            steps = [self._paint(network, batch, share * asked / top, batch.known) for share in (0.5, 1.0)]
        columns = [
            *(record.pictures(x) for x in (batch.onset, batch.frame, picture)),
            *(record.changes(x, batch.onset) for x in (batch.frame, picture)),
            *(record.pictures(x) for x in steps),
        ]
        return record.sheet(columns, scale=max(1, 128 // self.size))

    def save(self, averaged: Mapping[str, nn.Module], folder: Path, facts: GeneratorFacts) -> None:
        """Write the pipeline directory; the autoencoder is copied into it, so that it loads anywhere."""
        model = self._config.model
        foreign = [
            f"{what} (sha256 {getattr(model, f'{name}_sha256')}): {getattr(model, f'{name}_licence')}"
            for name, what in (("vae", "autoencoder"), ("base", "base model"))
            if getattr(model, name) is not None
        ]
        what, limits = (_LAYERED, _LAYERED_LIMITS) if self.codec.layered else (_WHAT, _LIMITS)
        kept: dict[str, nn.Module] = {name: self.frozen[name] for name in ("vae", "expected") if name in self.frozen}
        save_trained(
            folder, {"denoiser": averaged["denoiser"], **kept}, facts, title="Image diffusion",
            what=what, limits=limits + (_FOREIGN if foreign else ""), licences=foreign,
        )  # fmt: skip


def windows(pictures: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """Of [B,3,S,S] a window of half the side each, at ``at`` [B,2] in [0,1) of the way: [B,3,S/2,S/2]."""
    half = pictures.shape[-1] // 2
    corners = (at * (pictures.shape[-1] - half + 1)).long().tolist()
    return torch.stack([p[:, y : y + half, x : x + half] for p, (y, x) in zip(pictures, corners, strict=True)])


_WHAT = """Paints a face at action-unit intensities of choice, per side, by denoising: the change of the picture is
drawn from noise and put onto the photo. Guidance on the AUs and on the onset have a scale each. Different seeds give
different pictures; intensity 0 gives the photo back bit for bit."""
_LAYERED = """Draws on the frame that generation forms in layers (docs/decisions/021) what layers leave: the texture of
lids and lips that move, shade, wrinkles. Nothing is drawn at intensity 0, nor where the face stands still; the flow of
its clips is that of the layers."""
_LAYERED_LIMITS = """It draws neither head motion nor style, and runs its network for every frame. No FACS coder has
looked at it; the figures below are all that was measured."""
_LIMITS = """It paints and does not move: the flow of its clips is estimated from their frames (TV-L1). It draws neither
head motion nor style, and needs several passes of its network for every frame. No FACS coder has looked at it; the
figures below are all that was measured."""
_FOREIGN = """ Weights of others are part of it (see the licences); who is in the pictures they learned from is not
known here and not among the subjects seen."""
