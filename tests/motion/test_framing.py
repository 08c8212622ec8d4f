"""Framings found from flow alone."""

from __future__ import annotations

import numpy as np
import pytest

from mesynth.core import facs
from mesynth.core.errors import ConfigError
from mesynth.core.framing import OWN, Framing
from mesynth.core.profiles import Profile
from mesynth.motion.flow_prior import FlowPrior, FlowRequest, K
from mesynth.motion.framing import find_framing, find_framings


def _flows(framing: Framing, n: int = 60) -> np.ndarray:
    """[N,2,28,28] of usual combinations, by other random numbers than the search draws."""
    rng = np.random.default_rng(7)
    requests = []
    for i in range(n):
        intensity = np.zeros((K, 2), np.float32)
        for au in [(12, 6), (4, 7), (1, 2), (4,), (12,), (15, 17)][i % 6]:
            intensity[facs.AU_INDEX[au]] = rng.uniform(0.3, 1)
        timing = {"profile": Profile(apex=0.5), "n_frames": 65, "fps": 200.0}
        requests.append(FlowRequest(intensity=intensity, person=f"other{i}", seed=10_000 + i, **timing))
    return FlowPrior(28, framing=framing).draw(requests)


@pytest.mark.parametrize("framing", [OWN, Framing(eyes=0.57, height=0.46, row=0.25, column=0.48)])
def test_a_known_framing_is_found(framing: Framing) -> None:
    found = find_framing(_flows(framing) * 3.0)  # the unit does not matter
    assert found.framing.distance(framing) < 0.07  # two pixels of 28
    assert found.explained > found.explained_own - 0.01
    assert found.images == 60
    if framing != OWN:
        assert found.explained > found.explained_own + 0.03
        assert found.framing.distance(framing) < 0.5 * framing.distance(OWN)


def test_too_few_images_or_none_that_move_are_refused() -> None:
    flows = _flows(OWN, 6)
    for few in (flows, np.zeros((40, 2, 28, 28)), np.concatenate([flows, np.full((40, 2, 28, 28), 0.5)])):
        with pytest.raises(ConfigError, match=r"^[06] flow images"):
            find_framing(few)


def test_motion_unlike_that_of_faces_has_no_framing() -> None:
    noise = np.random.default_rng(0).normal(size=(24, 2, 28, 28)).astype(np.float32)
    with pytest.raises(ConfigError, match="the motion in 24 flow images is not that of faces"):
        find_framing(noise)


def test_each_database_of_a_composite_is_found() -> None:
    """By its own images; one with too few of them is left out."""
    tight = Framing(eyes=0.57, height=0.46, row=0.25, column=0.48)
    flows = np.concatenate([_flows(OWN, 30), _flows(tight, 30), _flows(OWN, 5)])
    names = ["ours"] * 30 + ["theirs"] * 30 + ["few"] * 5
    found = find_framings(flows, names)
    assert [name for name, _ in found.databases] == ["ours", "theirs"]
    for name, framing in (("ours", OWN), ("theirs", tight)):
        assert found.of(name).framing.distance(framing) < 0.05
    with pytest.raises(ConfigError, match=r"^5 flow images"):
        find_framings(flows[-5:], names[-5:])
