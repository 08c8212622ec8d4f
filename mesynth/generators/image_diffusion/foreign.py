"""Networks of others in folders as diffusers writes them, read as data alone.

A JSON configuration and a safetensors file; no network access, nothing executed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mesynth.core.errors import WeightsUnavailable
from mesynth.store.digests import file_sha256
from mesynth.store.generator_folder import WEIGHTS

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
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return WeightsUnavailable(f"{foreign.weights} does not fit its config.json ({reason}); copy it again")
