import pytest
import torch

from mesynth.generators.motion_gan.network import ActionReader, MotionDiscriminator


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return (
        torch.rand(3, 3, 32, 32, generator=g),
        torch.rand(3, 3, 32, 32, generator=g),
        torch.randn(3, 2, 32, 32, generator=g),
    )


def test_no_statistics_over_the_batch(pair: tuple[torch.Tensor, ...]) -> None:
    torch.manual_seed(0)
    network = MotionDiscriminator(32, 8).eval()
    seen = network.observe(*pair, torch.ones(3, dtype=torch.bool))
    together, alone = network(seen), network(seen[1:2])
    assert torch.allclose(together[0][1:2], alone[0], atol=1e-5)
    assert torch.allclose(together[1][1:2], alone[1], atol=1e-5)
    assert not any("BatchNorm" in type(m).__name__ for m in network.modules())


def test_a_missing_flow_is_no_sign_of_a_real_pair(pair: tuple[torch.Tensor, ...]) -> None:
    onset, frame, flow = pair
    network, none = MotionDiscriminator(32, 8), torch.zeros(3, dtype=torch.bool)
    assert torch.equal(network.observe(onset, frame, flow, none), network.observe(onset, frame, 0 * flow, none))
    assert not torch.equal(network.observe(onset, frame, flow, ~none), network.observe(onset, frame, 0 * flow, ~none))


def test_every_input_matters_to_score_and_aus(pair: tuple[torch.Tensor, ...]) -> None:
    torch.manual_seed(0)
    network = MotionDiscriminator(32, 8)
    seen = network.observe(*pair, torch.ones(3, dtype=torch.bool)).requires_grad_(True)
    score, read = network(seen)
    assert score.shape[:2] == (3, 1)
    assert read.shape == (3, 25, 2)
    for out in (score, read):
        (grad,) = torch.autograd.grad(out.square().sum(), seen, retain_graph=True)
        assert bool((grad.abs().amax((0, 2, 3)) > 0).all())


def test_the_aus_head_can_tell_sides(pair: tuple[torch.Tensor, ...]) -> None:
    torch.manual_seed(0)
    network = MotionDiscriminator(32, 8)
    seen = network.observe(*pair, torch.ones(3, dtype=torch.bool))
    assert not torch.allclose(network(seen)[1], network(seen.flip(-1))[1], atol=1e-3)


def test_the_reader_reads_nothing_where_nothing_changes(pair: tuple[torch.Tensor, ...]) -> None:
    torch.manual_seed(0)
    reader, (onset, frame, _) = ActionReader(8), pair
    assert not reader(onset, onset).any()
    assert reader(onset, frame).abs().max() > 0
