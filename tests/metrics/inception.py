"""Random weights in the file format of the 2015 Inception: what it computes means nothing, how, and how fast, does."""

from __future__ import annotations

from functools import cache

import torch
from pytorch_fid import inception


@cache
def random_weights(seed: int = 0) -> dict[str, torch.Tensor]:
    """A state dict as pytorch-fid downloads it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = inception._inception_v3(num_classes=1008, aux_logits=False, weights=None)
        net.Mixed_5b = inception.FIDInceptionA(192, pool_features=32)
        net.Mixed_5c = inception.FIDInceptionA(256, pool_features=64)
        net.Mixed_5d = inception.FIDInceptionA(288, pool_features=64)
        net.Mixed_6b = inception.FIDInceptionC(768, channels_7x7=128)
        net.Mixed_6c = inception.FIDInceptionC(768, channels_7x7=160)
        net.Mixed_6d = inception.FIDInceptionC(768, channels_7x7=160)
        net.Mixed_6e = inception.FIDInceptionC(768, channels_7x7=192)
        net.Mixed_7b = inception.FIDInceptionE_1(1280)
        net.Mixed_7c = inception.FIDInceptionE_2(2048)
        for layer in net.modules():
            if isinstance(layer, torch.nn.Conv2d):  # torch's own start lets the signal die over 94 layers
                torch.nn.init.kaiming_normal_(layer.weight)
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.running_mean.normal_(0, 0.1)
                layer.running_var.uniform_(0.5, 2)
    state: dict[str, torch.Tensor] = net.state_dict()
    return state
