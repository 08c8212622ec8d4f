"""Devices that tests run on: the CPU, and CUDA where there is one (marked ``cuda``: `pytest -m cuda` runs these)."""

from __future__ import annotations

import pytest
import torch

NEEDS_CUDA = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]
CUDA = pytest.param("cuda", marks=NEEDS_CUDA)
DEVICES = ["cpu", CUDA]
