"""Pixel and latent codes; folders of other people's networks are read as data, or refused in a line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from mesynth.core.errors import WeightsUnavailable
from mesynth.generators.image_diffusion.config import build_foreign, find_foreign
from mesynth.generators.image_diffusion.network import LatentSpace, PixelSpace
from mesynth.store.generator_folder import WEIGHTS, file_sha256
from tests.generators.tiny_foreign import save_unet, save_vae


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_pixel_codes_lose_nothing(patch: int) -> None:
    space = PixelSpace(16, patch)
    onset, frame = torch.rand(2, 2, 3, 16, 16)
    one, other = space.encode(onset), space.encode(frame)
    assert one.shape == (2, space.channels, space.side, space.side)
    torch.testing.assert_close(onset + space.moved(one, other - one), frame, atol=1e-6, rtol=0)
    assert not space.moved(one, 0 * one).any()


def test_latents_are_scaled_means_and_a_change_is_a_difference_of_decoded_pictures(tmp_path: Path) -> None:
    vae = save_vae(tmp_path)
    space = LatentSpace(vae, 32)
    assert (space.channels, space.side) == (4, 8)
    picture, change = torch.rand(2, 3, 32, 32), torch.randn(2, 4, 8, 8)
    code = space.encode(picture)
    mean = vae.encode(2 * picture - 1).latent_dist.mean
    torch.testing.assert_close(code, (mean - 0.1) * 0.5)
    decoded = [vae.decode(c / 0.5 + 0.1).sample / 2 for c in (code + change, code)]
    torch.testing.assert_close(space.moved(code, change), decoded[0] - decoded[1])
    assert not space.moved(code, 0 * change).any()


def test_a_folder_is_found_alone_and_inside_a_pipeline(tmp_path: Path) -> None:
    given = save_vae(tmp_path / "sd" / "vae")
    for folder in (tmp_path / "sd" / "vae", tmp_path / "sd"):
        found = find_foreign(folder, "AutoencoderKL", "vae", "model.vae")
        assert found.sha256 == file_sha256(tmp_path / "sd" / "vae" / WEIGHTS)
        assert not any(key.startswith("_") for key in found.config)
    read = build_foreign(AutoencoderKL, found)
    assert not any(p.requires_grad for p in read.parameters())
    for name, value in given.state_dict().items():
        assert torch.equal(read.state_dict()[name], value), name


def test_attention_under_its_old_names_is_read(tmp_path: Path) -> None:
    given = save_vae(tmp_path)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = load_file(tmp_path / WEIGHTS)
    renamed = {}
    for name, value in state.items():
        for new, before in old.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{before}.")
        renamed[name] = value
    assert set(renamed) != set(state)
    save_file(renamed, tmp_path / WEIGHTS)
    read = build_foreign(AutoencoderKL, find_foreign(tmp_path, "AutoencoderKL", "vae", "model.vae"))
    assert all(torch.equal(read.state_dict()[n], v) for n, v in given.state_dict().items())


def test_what_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    def refused(folder: Path, says: str) -> None:
        with pytest.raises(WeightsUnavailable, match=says) as error:
            build_foreign(AutoencoderKL, find_foreign(folder, "AutoencoderKL", "vae", "model.vae"))
        assert "\n" not in str(error.value)

    refused(tmp_path / "nowhere", "holds no config.json")
    save_unet(tmp_path / "unet")
    refused(tmp_path / "unet", "holds a UNet2DConditionModel; give a folder of a diffusers AutoencoderKL")
    save_vae(tmp_path / "vae")
    config, weights = tmp_path / "vae" / "config.json", tmp_path / "vae" / WEIGHTS
    good = config.read_text()
    for text in ("{", "[]", "{}"):
        config.write_text(text)
        refused(tmp_path / "vae", "is no diffusers configuration")
    config.write_text(json.dumps(json.loads(good) | {"latent_channels": 3}))
    refused(tmp_path / "vae", "does not fit its config.json")
    config.write_text(good)
    weights.write_bytes(weights.read_bytes()[:100])
    refused(tmp_path / "vae", "does not fit its config.json")
    weights.rename(tmp_path / "vae" / "diffusion_pytorch_model.bin")
    refused(tmp_path / "vae", "must be in safetensors")
