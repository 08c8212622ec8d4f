import numpy as np
import torch

from mesynth.core.facs import AU_CODES, AU_INDEX
from mesynth.generators.motion_gan.network import MotionGenerator
from mesynth.generators.painting import PriorFlow

K, SIZE = len(AU_CODES), 32


def test_it_is_the_flow_of_an_untrained_motion_generator() -> None:
    aus = torch.rand(3, K, 2) * 0.1
    network = MotionGenerator(size=2 * SIZE, width=4, blocks=0, correction=False, residual=False, max_flow=0.9)
    with torch.no_grad():
        seen = network.encode(torch.rand(3, 3, 2 * SIZE, 2 * SIZE))
        want = torch.einsum("bks,bkschw->bchw", aus, seen.fields)
    torch.testing.assert_close(PriorFlow(SIZE)(aus), want, atol=1e-5, rtol=1e-5)


def test_it_is_linear_and_knows_sides() -> None:
    prior, aus = PriorFlow(SIZE), torch.zeros(1, K, 2)
    aus[0, AU_INDEX[12], 0] = 0.5
    flow = prior(aus)
    torch.testing.assert_close(prior(-2 * aus), -2 * flow)
    length = flow[0].square().sum(0).sqrt().numpy()
    x, y = np.unravel_index(length.argmax(), length.shape)[::-1]
    assert x > SIZE / 2  # the subject's left is on the picture's right
    assert y > SIZE / 2
    assert not list(prior.parameters())
