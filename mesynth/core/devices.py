"""Where networks and torch kernels run: the names of devices, which of them are here, and in what precision.

One owner of ``--device``, of ``train.device`` and of what :meth:`Generator.to` takes. A name is ``cpu``, ``cuda`` (the
first, ``cuda:1`` the second), ``mps`` (Apple's) or ``auto``, the first that is here of cuda, mps, cpu. torch is
imported only when something else than the CPU is asked for.
"""

from __future__ import annotations

import re
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from mesynth.core.errors import ConfigError

AUTO = "auto"
DEVICES = (AUTO, "cpu", "cuda", "mps")
PRECISIONS = ("fp32", "bf16")
"""bf16: products of networks in bfloat16 (torch.autocast); weights, sums and everything else stay float32."""
_NAME = re.compile(r"(?:cpu|mps|cuda(?::\d+)?)")


def devices_here() -> tuple[str, ...]:
    """What can be asked for on this machine, the CPU first.

    >>> devices_here()[0]
    'cpu'
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    cuda = ["cuda", *(f"cuda:{i}" for i in range(count))] if count else []
    return ("cpu", *cuda, *(["mps"] if torch.backends.mps.is_available() else []))


def find_device(name: str, option: str = "--device ") -> str:
    """The device that a user named, ``auto`` resolved. ``option``: what the name was given as, for the message.

    Raises:
        ConfigError: no such name, or one that is not here; what is here is named.

    >>> find_device("cpu")
    'cpu'
    >>> find_device("gpu")
    Traceback (most recent call last):
    mesynth.core.errors.ConfigError: --device gpu is unknown; choose auto, cpu, cuda, cuda:N or mps
    """
    if name == "cpu":
        return name
    if name != AUTO and not _NAME.fullmatch(name):
        raise ConfigError(f"{option}{name or repr(name)} is unknown; choose auto, cpu, cuda, cuda:N or mps")
    here = devices_here()
    if name == AUTO:
        return next((kind for kind in ("cuda", "mps") if kind in here), "cpu")
    if name not in here:
        which = name.split(":")[0]
        why = {"cuda": "no CUDA", "mps": "no Apple GPU"}[which] if which not in here else "no such GPU"
        raise ConfigError(f"{option}{name} is not here ({why}); there is {', '.join(here)}")
    return name


def check_precision(precision: str, device: str, option: str = "--precision ") -> None:
    """Refuse a precision that a device (of :func:`find_device`) cannot do.

    Raises:
        ConfigError: unknown, or not known to the device.

    >>> check_precision("bf16", "cpu")
    >>> check_precision("fp8", "cpu")
    Traceback (most recent call last):
    mesynth.core.errors.ConfigError: --precision fp8 is unknown; choose fp32 or bf16
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"{option}{precision} is unknown; choose {' or '.join(PRECISIONS)}")
    if precision == "fp32" or device == "cpu":
        return
    import torch

    if device == "mps" or not torch.cuda.is_bf16_supported():
        raise ConfigError(f"{option}{precision} is not known to {device}; use fp32")


def autocast(device: Any, precision: str = "fp32") -> AbstractContextManager[Any]:
    """The context of a network's forward pass on ``device``: nothing for fp32."""
    if precision == "fp32":
        return nullcontext()
    import torch

    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16)
