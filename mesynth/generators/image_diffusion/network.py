"""The network of ``image_diffusion``, and the spaces that pictures are diffused in.

A code is what is diffused, [B,channels,side,side]: pixels, or the latents of a frozen autoencoder that the user has.
The network is diffusers' conditional U-Net. The onset's code is concatenated to the noisy one; AU tokens and identity
tokens are attended to; the AUs as one vector are added to the noise level's embedding. What is left out for guidance is
replaced by learned values, for the AUs and for the onset separately. Where there is a mean model, the network also sees
the change that it expects (docs/decisions/015).
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from torch import nn

from mesynth.core.errors import ConfigError
from mesynth.generators.blocks import group_norm
from mesynth.generators.diffusion.tokens import AUTokens
from mesynth.generators.image_diffusion.foreign import Foreign, read_state, unfit


class Space(Protocol):
    """Pictures [B,3,S,S] in [0,1] to codes and back."""

    channels: int
    side: int

    def encode(self, picture: torch.Tensor) -> torch.Tensor:
        """[B,3,S,S] -> [B,channels,side,side], about unit variance or in [-1,1]."""
        ...

    def moved(self, code: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
        """What ``change`` of a code changes in its picture: [B,C,h,w] twice -> [B,3,S,S], exactly 0 for 0."""
        ...


class PixelSpace:
    """Pixels in [-1,1]; ``patch`` x ``patch`` of them become channels (a smaller grid is faster, nothing is lost)."""

    def __init__(self, size: int, patch: int) -> None:
        self.channels, self.side, self._patch = 3 * patch**2, size // patch, patch

    def encode(self, picture: torch.Tensor) -> torch.Tensor:
        """See :class:`Space`."""
        return F.pixel_unshuffle(2 * picture - 1, self._patch)

    def moved(self, code: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
        """See :class:`Space`."""
        return F.pixel_shuffle(change, self._patch) / 2


class LatentSpace:
    """Latents of an AutoencoderKL (the mean of its posterior), scaled as its configuration says.

    What the autoencoder itself loses is not put into the picture: a change is the difference of two decoded pictures
    (van den Oord et al., 2017, and Rombach et al., 2022, for latents; the difference is ours).
    """

    def __init__(self, vae: Any, size: int) -> None:
        config = vae.config
        self.vae, self.channels = vae, int(config.latent_channels)
        self.side = size >> (len(config.block_out_channels) - 1)
        self._scale, self._shift = float(config.scaling_factor), float(config.shift_factor or 0.0)

    @torch.no_grad()
    def encode(self, picture: torch.Tensor) -> torch.Tensor:
        """See :class:`Space`."""
        latents: torch.Tensor = self.vae.encode(2 * picture - 1).latent_dist.mode()
        return (latents - self._shift) * self._scale

    @torch.no_grad()
    def moved(self, code: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
        """See :class:`Space`."""
        return (self._decode(code + change) - self._decode(code)) / 2

    def _decode(self, code: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.vae.decode(code / self._scale + self._shift).sample
        return out


_POOLED = 2  # side of the grid that the onset is pooled to: left and right, upper and lower face stay apart


class IdentityTokens(nn.Module):
    """The onset's code [B,C,h,w] -> ``count`` tokens [B,count,dim]: two strided convolutions, pooled, one layer."""

    def __init__(self, channels: int, width: int, count: int, dim: int) -> None:
        super().__init__()
        self.count = count
        self.tower = nn.Sequential(
            nn.Conv2d(channels, width, 3, 2, 1), group_norm(width), nn.SiLU(),
            nn.Conv2d(width, 2 * width, 3, 2, 1), group_norm(2 * width), nn.SiLU(),
            nn.AdaptiveAvgPool2d(_POOLED), nn.Flatten(), nn.Linear(2 * width * _POOLED**2, count * dim),
        )  # fmt: skip

    def forward(self, code: torch.Tensor) -> torch.Tensor:
        """See the class."""
        out: torch.Tensor = self.tower(code)
        return out.view(len(code), self.count, -1)


class ImageDenoiser(ModelMixin, ConfigMixin):
    """(noisy code, noise level, onset's code, AUs) -> what :class:`mesynth.generators.diffusion.config.Process` asks.

    ``unet`` is the configuration of a UNet2DConditionModel with ``time_cond_proj_dim`` = ``cross_attention_dim``, see
    :func:`unet_config`. The other values are what a loaded generator needs to know: ``space`` (size, patch or the
    autoencoder), ``target``, ``gain``, ``expect`` (the family that says what is expected, or ""), ``spread``,
    ``process`` and ``sampling`` as their owners' configurations, and ``origin`` (hashes and licences of other people's
    networks).
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        unet: dict[str, Any],
        channels: int = 12,
        identity_tokens: int = 4,
        identity_width: int = 32,
        size: int = 64,
        patch: int = 2,
        target: str = "change",
        gain: float = 18.0,
        expect: str = "",
        spread: dict[str, Any] | None = None,
        process: dict[str, Any] | None = None,
        sampling: dict[str, Any] | None = None,
        origin: dict[str, str] | None = None,
    ) -> None:
        super().__init__()
        body: Any = UNet2DConditionModel(**dict(unet))
        self.body = body
        dim = int(unet["cross_attention_dim"])
        self.tokens = AUTokens(dim)
        self.identity = IdentityTokens(channels, identity_width, identity_tokens, dim)
        self.null_identity = nn.Parameter(0.5 * torch.randn(identity_tokens, dim))
        self.null_onset = nn.Parameter(torch.zeros(channels, 1, 1))
        # At first the network says 0: the best linear denoiser.
        for parameter in self.body.conv_out.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self,
        x: torch.Tensor,
        level: torch.Tensor,
        onset: torch.Tensor,
        aus: torch.Tensor,
        known: torch.Tensor,
        null_aus: torch.Tensor,
        null_onset: torch.Tensor,
        expected: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """``x``, ``onset``, ``expected`` [B,C,h,w]; ``level`` [B] in 0..1000; ``aus``, ``known`` [B,K,2]; nulls bool.

        ``expected``: the change that is expected, where the network was made to see one; it tells of onset and AUs and
        is 0 under either null.
        """
        told = self.tokens(aus, known, null_aus)
        identity = torch.where(null_onset[:, None, None], self.null_identity, self.identity(onset))
        shown = torch.where(null_onset[:, None, None, None], self.null_onset, onset)
        seen = [x, shown]
        if expected is not None:
            untold = (null_aus | null_onset)[:, None, None, None]
            seen.append(torch.where(untold, torch.zeros_like(expected), expected))
        out: torch.Tensor = self.body(
            torch.cat(seen, 1),
            level,
            encoder_hidden_states=torch.cat([told.tokens, identity], 1),
            timestep_cond=told.pooled,
            return_dict=False,
        )[0]
        return out


def unet_config(
    *, channels: int, side: int, width: int, multipliers: tuple[int, ...], layers: int, heads: int, dim: int,
    inputs: int = 2,
) -> dict[str, Any]:  # fmt: skip
    """A U-Net from scratch that sees ``inputs`` codes: attention everywhere but at the finest level.

    Raises:
        ConfigError: the code's side cannot be halved that often.
    """
    levels = len(multipliers)
    _check_side(side, levels)
    attends = ["CrossAttnDownBlock2D"] * (levels - 1)
    return {
        "sample_size": side, "in_channels": inputs * channels, "out_channels": channels,
        "block_out_channels": [width * m for m in multipliers], "layers_per_block": layers,
        "down_block_types": ["DownBlock2D", *attends],
        "up_block_types": [*(name.replace("Down", "Up") for name in attends), "UpBlock2D"],
        "attention_head_dim": heads, "norm_num_groups": min(width // 4, 32), "cross_attention_dim": dim,
        "time_cond_proj_dim": dim, "resnet_time_scale_shift": "scale_shift",
    }  # fmt: skip


_UNUSED = ("class_embed_type", "num_class_embeds", "addition_embed_type", "encoder_hid_dim", "time_cond_proj_dim")
"""Of a base model: each would want an input that we do not have."""


def adopted_config(base: Foreign, *, channels: int, side: int, inputs: int = 2) -> dict[str, Any]:
    """The configuration of a base model's U-Net, widened to ``inputs`` codes and our vector of AUs.

    Raises:
        ConfigError: it works on other channels, or wants inputs that we do not have (SDXL's sizes, class labels).
    """
    config = dict(base.config)
    for name in _UNUSED:
        if config.get(name) is not None:
            raise ConfigError(
                f"model.base={base.folder} has {name}={config[name]}, which is not supported; use SD 1 or 2"
            )
    taken, given, dim = config.get("in_channels"), config.get("out_channels"), config.get("cross_attention_dim")
    if taken not in (channels, inputs * channels) or given != channels:
        raise ConfigError(
            f"model.base={base.folder} maps {taken} channels to {given}, codes here have {channels}; "
            "use the base model that belongs to model.vae"
        )
    if not isinstance(dim, int):
        raise ConfigError(f"model.base={base.folder} has cross_attention_dim={dim}; one number is supported")
    _check_side(side, len(config.get("block_out_channels", ())))
    return config | {"in_channels": inputs * channels, "sample_size": side, "time_cond_proj_dim": dim}


def adopt_weights(network: ImageDenoiser, base: Foreign) -> None:
    """Start from a base model: its weights, with zeros for the further channels, so that at first it sees x alone.

    After Brooks et al. ("InstructPix2Pix", 2023), who widened Stable Diffusion in this way.

    Raises:
        WeightsUnavailable: the file does not fit its own configuration.
    """
    state = read_state(base)
    wide = network.body.state_dict()
    try:
        given = state["conv_in.weight"]
        state["conv_in.weight"] = torch.cat([given, given.new_zeros(wide["conv_in.weight"].shape).narrow(
            1, given.shape[1], wide["conv_in.weight"].shape[1] - given.shape[1])], 1)  # fmt: skip
        own = {name: 0 * wide[name] for name in wide if name.startswith("time_embedding.cond_proj")}
        network.body.load_state_dict(state | own)
    except (KeyError, RuntimeError, IndexError) as error:
        raise unfit(base, error) from None


def _check_side(side: int, levels: int) -> None:
    if levels < 1 or side % (1 << (levels - 1)) or side >> (levels - 1) < 2:
        raise ConfigError(
            f"codes of {side} x {side} cannot be halved {levels - 1} times; use fewer levels or another size"
        )
