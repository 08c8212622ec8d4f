"""Tiny networks of "somebody else", randomly initialised and saved as diffusers saves them."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel


def save_vae(folder: Path, latent: int = 4) -> AutoencoderKL:
    """A quarter of the side, ``latent`` channels, a scaling factor and a shift that are not 1 and 0."""
    torch.manual_seed(5)
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 16), down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3, latent_channels=latent, norm_num_groups=4, sample_size=32,
        scaling_factor=0.5, shift_factor=0.1,
    )  # fmt: skip
    vae.save_pretrained(folder)
    return vae.eval().requires_grad_(False)


def save_unet(folder: Path, **options: object) -> UNet2DConditionModel:
    """Two levels, cross-attention of 24 numbers."""
    torch.manual_seed(6)
    values: dict[str, object] = {
        "sample_size": 8, "in_channels": 4, "out_channels": 4, "block_out_channels": (8, 16), "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "attention_head_dim": 2,
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "norm_num_groups": 4, "cross_attention_dim": 24,
    }  # fmt: skip
    unet = UNet2DConditionModel(**{**values, **options})  # type: ignore[arg-type]
    unet.save_pretrained(folder)
    return unet.eval().requires_grad_(False)
