"""Blocks that published networks have in common, once: residual, Inception, attention of all kinds, graphs, ConvLSTM,
angular margins, a reversed gradient.

As in :mod:`recognizer.models.common`: nothing draws from a generator and nothing keeps a state but running statistics,
so that a stack under vmap gives what its members give one by one. Norms are chosen by whoever builds: ``BatchNorm``
where a paper or its code has it, :func:`recognizer.models.common.norm` where neither says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from recognizer.models.common import BatchNorm, Dropout, he, known_mean

Norm = Callable[[int], nn.Module]
"""Channels -> a layer."""


# ---------------------------------------------------------------- convolutions


class ResidualBlock(nn.Module):
    """Basic block of ResNet (He et al., 2016): two 3x3 convolutions, the first with the stride, and a skip.

    [B,a,H,W] -> [B,b,H/stride,W/stride]. The skip is a 1x1 convolution where the shape changes.
    """

    def __init__(self, a: int, b: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(a, b, 3, stride, 1, bias=False), BatchNorm(b), nn.ReLU(),
            nn.Conv2d(b, b, 3, 1, 1, bias=False), BatchNorm(b),
        )  # fmt: skip
        same = a == b and stride == 1
        self.skip = nn.Identity() if same else nn.Sequential(nn.Conv2d(a, b, 1, stride, bias=False), BatchNorm(b))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return F.relu(self.body(x) + self.skip(x))


class ResNet18(nn.Sequential):
    """ResNet-18 without its classifier: [B,C,F,F] -> [B,widths[-1]], the mean over places.

    A 7x7 convolution with stride 2, max-pooling 3/2, ``blocks`` basic blocks at each of ``widths``, every stage but the
    first at half the side of the one before. ``pooled=False`` gives the maps.
    """

    def __init__(
        self, channels: int, widths: Sequence[int] = (64, 128, 256, 512), *, blocks: int = 2, pooled: bool = True
    ) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(channels, widths[0], 7, 2, 3, bias=False), BatchNorm(widths[0]), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        ]  # fmt: skip
        before = widths[0]
        for i, width in enumerate(widths):
            layers += [ResidualBlock(before, width, 1 if i == 0 else 2)]
            layers += [ResidualBlock(width, width) for _ in range(blocks - 1)]
            before = width
        if pooled:
            layers += [Mean()]
        super().__init__(*layers)
        self.apply(he)


class Mean(nn.Module):
    """Mean over all places: [B,C,...] -> [B,C]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return x.flatten(2).mean(2)


class Inception(nn.Module):
    """Inception module (Szegedy et al., CVPR 2015): 1x1, 3x3, 5x5 and pooled branches side by side.

    [B,inputs,H,W] -> [B,sum,H,W] with ``sum`` = one + three + five + pooled; ``reduce_*`` are the widths of the 1x1
    convolutions before the larger kernels. Every convolution is followed by ``norm`` (none: identity) and ReLU.

    >>> Inception(3, one=6, reduce_three=4, three=6, reduce_five=4, five=6, pooled=6)(torch.zeros(2, 3, 8, 8)).shape
    torch.Size([2, 24, 8, 8])
    """

    def __init__(
        self, inputs: int, *, one: int, reduce_three: int, three: int, reduce_five: int, five: int, pooled: int,
        norm: Norm | None = None,
    ) -> None:  # fmt: skip
        super().__init__()

        def conv(a: int, b: int, kernel: int) -> list[nn.Module]:
            made: list[nn.Module] = [nn.Conv2d(a, b, kernel, padding=kernel // 2)]
            return [*made, *([norm(b)] if norm else []), nn.ReLU()]

        self.branches = nn.ModuleList((
            nn.Sequential(*conv(inputs, one, 1)),
            nn.Sequential(*conv(inputs, reduce_three, 1), *conv(reduce_three, three, 3)),
            nn.Sequential(*conv(inputs, reduce_five, 1), *conv(reduce_five, five, 5)),
            nn.Sequential(nn.MaxPool2d(3, 1, 1), *conv(inputs, pooled, 1)),
        ))  # fmt: skip
        self.width = one + three + five + pooled

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return torch.cat([branch(x) for branch in self.branches], 1)


class ConvLstm(nn.Module):
    """Convolutional LSTM (Shi et al., NeurIPS 2015), without peepholes: [B,T,C,H,W] -> all states [B,T,hidden,H,W].

    >>> ConvLstm(2, 4, 3)(torch.zeros(1, 5, 2, 6, 6)).shape
    torch.Size([1, 5, 4, 6, 6])
    """

    def __init__(self, inputs: int, hidden: int, kernel: int = 3) -> None:
        super().__init__()
        self.seen = nn.Conv2d(inputs, 4 * hidden, kernel, padding=kernel // 2)
        self.held = nn.Conv2d(hidden, 4 * hidden, kernel, padding=kernel // 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        gates = self.seen(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        state = cell = torch.zeros_like(gates[:, 0, : gates.shape[2] // 4])
        states = []
        for t in range(x.shape[1]):
            keep, write, show, content = (gates[:, t] + self.held(state)).chunk(4, 1)
            # A forget gate that begins open (Jozefowicz et al., 2015), as in common.Lstm.
            cell = torch.sigmoid(keep + 1) * cell + torch.sigmoid(write) * torch.tanh(content)
            state = torch.sigmoid(show) * torch.tanh(cell)
            states.append(state)
        return torch.stack(states, 1)


def wheel(flow: torch.Tensor) -> torch.Tensor:
    """Flow as a coloured picture: [B,3,S,S] (u, v, whatever) -> red, green, blue [B,3,S,S] in [0,1].

    Hue is the direction, brightness the length between the picture's least and largest, saturation 1. Not to be
    differentiated.

    >>> right = torch.tensor([1.0, 0, 0])[:, None, None] * torch.tensor([[0.0, 1.0]])
    >>> wheel(right[None])[0, :, 0, 1]  # motion to the right is red
    tensor([1., 0., 0.])
    """
    u, v = flow[:, 0].detach(), flow[:, 1].detach()
    length = (u.square() + v.square()).sqrt()
    length = length - length.amin((1, 2), keepdim=True)
    bright = length / length.amax((1, 2), keepdim=True).clamp(min=1e-12)
    sixth = torch.atan2(v, u) * (3 / torch.pi)  # of the circle, -3..3
    planes = []
    for offset in (5, 3, 1):
        k = (sixth + offset + 6) % 6
        planes.append(bright * (1 - torch.minimum(k, 4 - k).clamp(0, 1)))
    return torch.stack(planes, 1)


# ---------------------------------------------------------------- attention


class SqueezeExcite(nn.Module):
    """Squeeze-and-excitation (Hu, Shen and Sun, CVPR 2018): a gate a channel, from the mean of every channel.

    [B,C,...] -> the same shape.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.gate = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        gate = torch.sigmoid(self.gate(x.flatten(2).mean(2)))
        return x * gate.unflatten(1, (-1, *[1] * (x.ndim - 2)))


class ChannelAttention(nn.Module):
    """CBAM's channel gate (Woo et al., ECCV 2018): one small network on mean and maximum of every channel, summed.

    Maps [B,C,H,W] -> gates [B,C,1,1] in (0,1).
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.gate = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        flat = x.flatten(2)
        return torch.sigmoid(self.gate(flat.mean(2)) + self.gate(flat.amax(2)))[..., None, None]


class SpatialAttention(nn.Module):
    """CBAM's spatial gate: a convolution over mean and maximum of all channels. [B,C,H,W] -> [B,1,H,W] in (0,1)."""

    def __init__(self, kernel: int = 7) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel, padding=kernel // 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return torch.sigmoid(self.conv(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)))


class Cbam(nn.Module):
    """Convolutional block attention (Woo et al., ECCV 2018): the channel gate, then the spatial one.

    [B,C,H,W] -> the same shape.
    """

    def __init__(self, channels: int, reduction: int = 16, kernel: int = 7) -> None:
        super().__init__()
        self.channel, self.spatial = ChannelAttention(channels, reduction), SpatialAttention(kernel)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        x = x * self.channel(x)
        return x * self.spatial(x)


class NonLocal(nn.Module):
    """Non-local block, embedded Gaussian (Wang et al., CVPR 2018): every place hears all places, plus a skip.

    [B,C,...] -> the same shape, for maps, clips or sequences. The last layer begins at zero, so the block begins as the
    identity, as its authors advise.
    """

    def __init__(self, channels: int, inner: int | None = None) -> None:
        super().__init__()
        inner = inner or max(channels // 2, 1)
        self.query, self.key, self.value = (nn.Linear(channels, inner) for _ in range(3))
        self.out = nn.Linear(inner, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        places = x.flatten(2).transpose(1, 2)
        attention = (self.query(places) @ self.key(places).transpose(1, 2)).softmax(-1)
        heard: torch.Tensor = self.out(attention @ self.value(places))
        return x + heard.transpose(1, 2).reshape(x.shape)


class SelfAttention(nn.Module):
    """Multi-head attention (Vaswani et al., 2017): queries [B,N,dim], keys and values [B,M,dim] -> [B,N,dim].

    ``seen`` [N,M] or [B,N,M] bool says who may hear whom; None: everybody. Written out, for ``nn.MultiheadAttention``'s
    fast path is not fit for vmap.
    """

    def __init__(self, dim: int, heads: int, *, bias: bool = True) -> None:
        super().__init__()
        assert dim % heads == 0, f"{heads} heads do not divide {dim}"
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(dim, dim, bias=bias) for _ in range(3))
        self.out = nn.Linear(dim, dim)

    def forward(
        self, x: torch.Tensor, heard: torch.Tensor | None = None, seen: torch.Tensor | None = None
    ) -> torch.Tensor:
        """See the class; without ``heard``, x hears itself."""
        heard = x if heard is None else heard
        query, key, value = (
            layer(t).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer, t in ((self.query, x), (self.key, heard), (self.value, heard))
        )  # [B,h,N or M,d]
        logits = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
        if seen is not None:
            logits = torch.where(seen if seen.ndim == 2 else seen[:, None], logits, -1e9)
        out: torch.Tensor = self.out((logits.softmax(-1) @ value).transpose(1, 2).flatten(2))
        return out


class TransformerLayer(nn.Module):
    """Encoder layer of the transformer: attention and a two-layer network, each with a skip. [B,N,dim] -> the same.

    ``before``: norms stand before the parts (as in ViT), else after their skips (as in Vaswani et al., 2017).
    """

    def __init__(self, dim: int, heads: int, hidden: int, *, dropout: float = 0.0, before: bool = True) -> None:
        super().__init__()
        self.before = before
        self.attention, self.drop = SelfAttention(dim, heads), Dropout(dropout)
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU() if before else nn.ReLU(), Dropout(dropout), nn.Linear(hidden, dim),
            Dropout(dropout),
        )  # fmt: skip
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))

    def forward(self, x: torch.Tensor, seen: torch.Tensor | None = None) -> torch.Tensor:
        """See the class; ``seen`` as in :class:`SelfAttention`."""
        one, two = self.norms
        if self.before:
            x = x + self.drop(self.attention(one(x), seen=seen))
            return x + self.mlp(two(x))
        x = one(x + self.drop(self.attention(x, seen=seen)))
        out: torch.Tensor = two(x + self.mlp(x))
        return out


# ---------------------------------------------------------------- graphs


def propagation(adjacency: torch.Tensor, *, loops: bool = True) -> torch.Tensor:
    """D^-1/2 (A + I) D^-1/2 of weights [...,N,N] >= 0 (Kipf and Welling, ICLR 2017); without ``loops``, of A itself.

    A node without any edge keeps a row of zeros.
    """
    if loops:
        adjacency = adjacency + torch.eye(adjacency.shape[-1], dtype=adjacency.dtype, device=adjacency.device)
    degree = adjacency.sum(-1)
    scale = torch.where(degree > 0, degree.clamp(min=1e-12).rsqrt(), 0.0)
    return scale[..., :, None] * adjacency * scale[..., None, :]


class GraphConv(nn.Module):
    """Graph convolution (Kipf and Welling, ICLR 2017): nodes [B,N,inputs], who hears whom and how much [N,N] or [B,N,N]
    (:func:`propagation`) -> [B,N,outputs], before any activation."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=bias)

    def forward(self, nodes: torch.Tensor, propagate: torch.Tensor) -> torch.Tensor:
        """See the class."""
        out: torch.Tensor = self.linear(propagate @ nodes)
        return out


class GraphAttention(nn.Module):
    """Graph attention (Velickovic et al., ICLR 2018): nodes [B,N,inputs] and who hears whom, [B,N,N] bool ->
    [B,N,outputs]; ``heads`` share ``outputs`` out among them."""

    def __init__(self, inputs: int, heads: int, outputs: int | None = None) -> None:
        super().__init__()
        outputs = outputs or inputs
        assert outputs % heads == 0, f"{heads} heads do not divide {outputs}"
        self.heads = heads
        self.value = nn.Linear(inputs, outputs, bias=False)
        self.say = nn.Linear(outputs, heads, bias=False)
        self.hear = nn.Linear(outputs, heads, bias=False)

    def forward(self, nodes: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        """See the class."""
        value = self.value(nodes)
        logits = F.leaky_relu(self.hear(value)[:, :, None] + self.say(value)[:, None], 0.2)  # [B,hearer,speaker,heads]
        attention = torch.where(edges[..., None], logits, -1e9).softmax(2)
        heard = torch.einsum("bijh,bjhd->bihd", attention, value.unflatten(2, (self.heads, -1)))
        return F.elu(heard.flatten(2))


# ---------------------------------------------------------------- gradients and margins


def focal(scores: torch.Tensor, y: torch.Tensor, gamma: float) -> torch.Tensor:
    """Focal loss (Lin et al., ICCV 2017), mean over a batch: scores [B,C], y [B]."""
    own = -F.cross_entropy(scores, y, reduction="none")
    return -((1 - own.exp()).clamp(min=1e-6) ** gamma * own).mean()


def reversed_gradient(x: torch.Tensor, strength: float | torch.Tensor = 1.0) -> torch.Tensor:
    """x, whose gradient is turned round and times ``strength`` (Ganin and Lempitsky, ICML 2015).

    >>> x = torch.ones(2, requires_grad=True)
    >>> reversed_gradient(3 * x, 0.5).sum().backward()
    >>> x.grad
    tensor([-1.5000, -1.5000])
    """
    fixed = x.detach()
    return fixed + strength * (fixed - x)  # the difference is exactly 0


def judged_loss(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy of a judge's logits [B] over labels [B] of 0 and 1, -1 unknown; 0 where the batch does not
    show both, for there is nothing to tell apart."""
    both = (label == 0).any() & (label == 1).any()
    each = F.binary_cross_entropy_with_logits(logits, label.clamp(min=0).to(logits.dtype), reduction="none")
    return known_mean(each, (label >= 0) & both)


def guided_triplet(features: torch.Tensor, guides: torch.Tensor, y: torch.Tensor, macro: torch.Tensor) -> torch.Tensor:
    """Triplets with a soft margin on unit features [B,D]: of every micro-expression (macro 0), against the farthest
    guide [B,D] of a macro-expression (macro 1) of its class and the nearest one of another. 0 without such a pair."""
    distance = (2 - 2 * cosines(features, guides)).clamp(min=1e-6).sqrt()
    there = (macro == 1)[None]
    same, other = (y[:, None] == y) & there, (y[:, None] != y) & there
    far = torch.where(same, distance, -torch.inf).amax(1)
    near = torch.where(other, distance, torch.inf).amin(1)
    usable = same.any(1) & other.any(1) & (macro == 0)
    each = F.softplus(torch.where(usable, far, 0.0) - torch.where(usable, near, 0.0))
    return known_mean(each, usable)


def of_class(each: torch.Tensor, y: torch.Tensor, counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For every clip the mean of ``each`` [B] over the clips of its class that ``counts`` [B] bool, [B], and whether
    there is one, [B] bool."""
    share = ((y[:, None] == y) & counts[None]).to(each.dtype)
    number = share.sum(1)
    return share @ torch.where(counts, each, 0.0) / number.clamp(min=1), number > 0


def cosines(features: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """Features [B,D] and directions [C,D] of any lengths -> [B,C] in [-1,1]."""
    return F.normalize(features, dim=-1, eps=1e-6) @ F.normalize(directions, dim=-1, eps=1e-6).T


def with_margin(cosines: torch.Tensor, y: torch.Tensor, kind: str, margin: float) -> torch.Tensor:
    """Cosines [B,C] with the own class's made harder, y [B]: by ``arcface`` cos(angle + margin) (Deng et al., CVPR
    2019; beyond pi - margin a straight line goes on, as in their code), by ``cosface`` cos - margin (Wang et al., CVPR
    2018).

    >>> with_margin(torch.tensor([[0.5, 0.2]]), torch.tensor([0]), "cosface", 0.35)
    tensor([[0.1500, 0.2000]])
    """
    own = F.one_hot(y, cosines.shape[-1]).to(torch.bool)
    if kind == "cosface":
        return torch.where(own, cosines - margin, cosines)
    angle = torch.as_tensor(margin, dtype=cosines.dtype, device=cosines.device)
    # sin of the angle; its slope at +-1 is infinite, so the root stops short of it.
    sine = (1 - cosines.square()).clamp(min=1e-6).sqrt()
    moved = cosines * angle.cos() - sine * angle.sin()
    harder = torch.where(cosines > -angle.cos(), moved, cosines - margin * angle.sin())
    return torch.where(own, harder, cosines)
