import numpy as np
import pytest
import torch
from torch.func import vmap

from recognizer.models.ststnet import conv_pool, reference

GROUP = np.repeat(np.arange(3), (3, 5, 8))


def drawn(n: int, size: int, seed: int = 0, negative: bool = True) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    shapes = [(n, 3, size, size), (16, 27), (16,), (16,), (16,)]
    out = [torch.randn(shape, generator=g) for shape in shapes]
    if not negative:
        out[3] = out[3].abs()
    return out


@pytest.mark.parametrize("size", [28, 32])
def test_the_compiled_pass_equals_plain_operations(size: int) -> None:
    x, *parameters = drawn(7, size)
    mine, plain = ([p.clone().requires_grad_() for p in parameters] for _ in range(2))
    out, expected = conv_pool(x, *mine, GROUP), reference(x, *plain, GROUP)
    torch.testing.assert_close(out, expected, atol=2e-5, rtol=1e-5)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(3))
    (out * weights).sum().backward()
    (expected * weights).sum().backward()
    for a, b in zip(mine, plain, strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=2e-4, rtol=1e-4)


def test_it_is_the_published_layer_stack() -> None:
    x, weight, bias, gamma, beta = drawn(4, 28, seed=1, negative=False)
    streams, start = [], 0
    for filters in (3, 5, 8):
        part = slice(start, start + filters)
        maps = torch.nn.functional.conv2d(x, weight[part].reshape(-1, 3, 3, 3), bias[part], padding=2)
        normed = torch.nn.functional.group_norm(maps.relu(), 1, gamma[part], beta[part])
        streams.append(torch.nn.functional.max_pool2d(normed, 3, 3, 1))
        start += filters
    expected = torch.nn.functional.avg_pool2d(torch.cat(streams, 1), 2).flatten(1)
    torch.testing.assert_close(conv_pool(x, weight, bias, gamma, beta, GROUP), expected, atol=2e-5, rtol=1e-5)


def test_stacked_members_are_those_alone_to_the_bit() -> None:
    members = [drawn(5, 28, seed=s) for s in range(3)]
    stacked = [torch.stack(tensors).requires_grad_() for tensors in zip(*members, strict=True)]
    together = vmap(lambda *a: conv_pool(*a, GROUP))(*stacked)
    together.square().sum().backward()
    for m, tensors in enumerate(members):
        x, *parameters = tensors
        alone = [p.requires_grad_() for p in parameters]
        out = conv_pool(x, *alone, GROUP)
        assert torch.equal(together[m], out)
        out.square().sum().backward()
        for a, s in zip(alone, stacked[1:], strict=True):
            assert torch.equal(s.grad[m], a.grad)


def test_a_dead_stream_has_finite_gradients() -> None:
    x, weight, bias, gamma, beta = drawn(2, 28, seed=2)
    bias = (bias - 1000).requires_grad_()  # ReLU lets nothing through: no variance at all
    out = conv_pool(x, weight.requires_grad_(), bias, gamma.requires_grad_(), beta.requires_grad_(), GROUP)
    assert torch.isfinite(out).all()
    out.sum().backward()
    for tensor in (weight, bias, gamma, beta):
        assert torch.isfinite(tensor.grad).all()
