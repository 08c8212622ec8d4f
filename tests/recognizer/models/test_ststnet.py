import pytest
import torch
import torch.nn.functional as F
from torch.func import vmap

from recognizer.models.ststnet import conv_pool, reference

SIGN = torch.tensor([1.0, -1.0] * 8)


def drawn(n: int, size: int, seed: int = 0) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=g) for shape in ((n, 3, size, size), (16, 27), (16,))]


@pytest.mark.parametrize("size", [28, 32])
@pytest.mark.parametrize("level", [0.0, 100.0])
def test_the_compiled_pass_equals_plain_operations(size: int, level: float) -> None:
    x, *parameters = drawn(7, size)
    parameters[1] = parameters[1] + level  # maps far from 0 that vary little
    mine, plain = ([p.clone().requires_grad_() for p in parameters] for _ in range(2))
    out, expected = conv_pool(x, *mine, SIGN), reference(x, *plain, SIGN)
    for a, b in zip(out, expected, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-5)
    g = torch.Generator().manual_seed(3)
    weights = [torch.randn(part.shape, generator=g) for part in out]
    for parts in (out, expected):
        sum((part * w).sum() for part, w in zip(parts, weights, strict=True)).backward()  # type: ignore[union-attr]
    for a, b in zip(mine, plain, strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=2e-4, rtol=1e-4)


def test_it_is_what_the_published_layers_begin_with() -> None:
    x, weight, bias = drawn(4, 28, seed=1)
    maps = F.conv2d(x, weight.reshape(-1, 3, 3, 3), bias, padding=2).relu()
    pooled = F.max_pool2d(maps, 3, 3, 1)
    low = -F.max_pool2d(-maps, 3, 3, 1)
    best, mean, variance = conv_pool(x, weight, bias, SIGN)
    expected = torch.where(SIGN[:, None, None] > 0, pooled, low)
    torch.testing.assert_close(best, expected, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(mean, maps.mean((2, 3)), atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(variance, maps.var((2, 3), correction=0), atol=2e-5, rtol=1e-5)


def test_stacked_members_are_those_alone_to_the_bit() -> None:
    members = [[*drawn(5, 28, seed=s), SIGN.roll(s)] for s in range(3)]
    stacked = [torch.stack(tensors) for tensors in zip(*members, strict=True)]
    for tensor in stacked[1:3]:
        tensor.requires_grad_()
    together = vmap(conv_pool)(*stacked)
    sum(part.square().sum() for part in together).backward()
    for m, (x, weight, bias, sign) in enumerate(members):
        alone = [weight.requires_grad_(), bias.requires_grad_()]
        out = conv_pool(x, *alone, sign)
        for a, b in zip(together, out, strict=True):
            assert torch.equal(a[m], b)
        sum(part.square().sum() for part in out).backward()  # type: ignore[union-attr]
        for a, s in zip(alone, stacked[1:3], strict=True):
            assert s.grad is not None
            assert a.grad is not None
            assert torch.equal(s.grad[m], a.grad)


def test_a_dead_stream_has_finite_gradients() -> None:
    x, weight, bias = drawn(2, 28, seed=2)
    bias = (bias - 1000).requires_grad_()  # ReLU lets nothing through: no variance at all
    out = conv_pool(x, weight.requires_grad_(), bias, SIGN)
    assert not any(part.any() for part in out)
    sum(part.sum() for part in out).backward()  # type: ignore[union-attr]
    for tensor in (weight, bias):
        assert tensor.grad is not None
        assert not tensor.grad.any()
