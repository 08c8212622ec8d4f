"""Rows of many clips in one forward pass: a clip does not depend on what is made beside it, on no device, in no family.

On the CPU to the bit; where rows go together (on CUDA; here also forced on the CPU) within the tolerances stated below.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from mesynth.core import facs
from mesynth.core.errors import ConfigError
from mesynth.core.profiles import Profile
from mesynth.core.types import Sample
from mesynth.generators.base import ClipRequest, Generator
from mesynth.generators.flow_gan.network import FlowGAN
from mesynth.generators.flow_volume.network import FlowVolume
from mesynth.generators.image_diffusion.network import ImageDiffusion
from mesynth.generators.motion_diffusion.network import MotionDiffusion
from mesynth.generators.motion_gan.network import MotionGAN
from mesynth.generators.registry import PriorGenerator, find_model
from mesynth.motion.nuisance import Nuisance
from mesynth.store.generator_folder import GeneratorFacts
from tests.devices import CUDA, DEVICES
from tests.generators import (
    saved,
    test_au_icgan,
    test_flow_gan,
    test_flow_volume,
    test_ice_gan,
    test_image_diffusion,
    test_motion_diffusion,
)
from tests.generators.gan_facts import facts as gan_facts
from tests.training.rendered import person_face

FLOW, LEVELS, SHARE = 2e-3, 1, 1.2e-2
"""Pixels that flow may differ by where rows go together, and the share of a frame's values that may differ by more than
LEVELS: painters that were never trained jump by tens of levels from pixel to pixel, and OpenCV rounds places."""
BF16_FLOW, BF16_FRAMES = 0.01, 0.05
"""Mean pixels and grey levels that products in bfloat16 may move a shipped generator's flow and frames by."""


def _facts(name: str, size: int) -> GeneratorFacts:
    return GeneratorFacts(**gan_facts(name), size=size)


def _made(family: str) -> Any:
    if family == "motion-prior":
        return PriorGenerator()
    if family == "motion_gan":
        return MotionGAN(saved.lively(z=4, face=True), _facts(family, saved.SIZE))
    if family == "motion_diffusion":
        return MotionDiffusion(test_motion_diffusion.network(guidance=2.0), _facts(family, 32))
    if family == "motion_diffusion_fast":
        return MotionDiffusion(test_motion_diffusion.network(solver="few", steps=2), _facts("motion_diffusion", 32))
    if family == "flow_volume":
        return FlowVolume(test_flow_volume.lively(), _facts(family, 32))
    if family == "image_diffusion":
        return ImageDiffusion(test_image_diffusion.network(), _facts(family, 16))
    if family == "image_diffusion around motion_gan":
        network = test_image_diffusion.network(expect="motion_gan")
        return ImageDiffusion(network, _facts("image_diffusion", 16), mean_model=saved.lively(size=16))
    return test_au_icgan.generator() if family == "au_icgan" else test_ice_gan.generator()


PAINTERS = ("image_diffusion", "image_diffusion around motion_gan", "au_icgan", "ice_gan")
FAMILIES = ("motion-prior", "motion_gan", "motion_diffusion", "motion_diffusion_fast", "flow_volume", *PAINTERS)


@pytest.fixture(scope="module")
def generators() -> dict[str, Generator]:
    return {family: _made(family) for family in FAMILIES}


@pytest.fixture(scope="module")
def requests() -> list[ClipRequest]:
    """Eight rows of two people, of other AUs, lengths, seeds and nuisances; one asks for nothing."""
    faces = [person_face(p, 48) for p in (3, 4)]
    texts = ["12=0.8", "4=0.5,R12=0.6", "1=1,2=1", "25=0.7,12=0.4", "6=0.6", "26=0.8,20=0.4", "L45=1,15=0.5"]
    rows = [facs.parse_request(text) for text in texts]
    rows.insert(2, facs.AUVector(np.zeros_like(rows[0].intensity)))
    return [
        ClipRequest(faces[i % 2], aus, Profile(apex=0.5), 4 + i % 3, 50.0, Nuisance(noise=1.5 * (i % 2)), 10 + i)
        for i, aus in enumerate(rows)
    ]


def alone(generator: Generator, row: ClipRequest) -> Sample:
    return generator.generate(
        row.face, row.aus, row.profile, n_frames=row.n_frames, fps=row.fps, nuisance=row.nuisance, seed=row.seed
    )[0]


def together(generator: Generator, rows: Sequence[ClipRequest]) -> list[Sample]:
    return [sample for sample, _ in generator.generate_many(rows)]


def check_alike(ours: Sample, theirs: Sample, family: str, flow: float = FLOW) -> None:
    assert ours.aus is theirs.aus
    assert ours.clip.frames.shape == theirs.clip.frames.shape
    apart = np.abs(ours.clip.frames.astype(int) - theirs.clip.frames)
    assert (apart > LEVELS).mean() <= SHARE
    if family not in PAINTERS:  # theirs is estimated from frames that may differ by a grey level
        assert np.abs(ours.flow.uv - theirs.flow.uv).max() < flow


@pytest.mark.parametrize("count", [1, 3, 8])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_clip_has_the_same_bytes_in_any_company(
    generators: dict[str, Generator], requests: list[ClipRequest], family: str, count: int
) -> None:
    rows = requests[8 - count :]
    made = together(generators[family], rows)
    assert len(made) == count
    first, last = alone(generators[family], rows[0]), alone(generators[family], rows[-1])
    for ours, theirs in ((made[0], first), (made[-1], last)):
        assert np.array_equal(ours.clip.frames, theirs.clip.frames)
        assert np.array_equal(ours.flow.uv, theirs.flow.uv)
        assert np.array_equal(ours.flow.valid, theirs.flow.valid)
    assert (last.clip.frames[last.clip.apex] != last.clip.frames[0]).any()


@pytest.mark.parametrize("at_once", [1, 3, 8])
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_that_go_together_are_those_that_go_alone(
    generators: dict[str, Generator], requests: list[ClipRequest], family: str, device: str, at_once: int
) -> None:
    """The path of a GPU: one forward pass for many rows, frames by torch; forced on the CPU, real on CUDA."""
    wide = copy.deepcopy(generators[family]).to(device)
    wide.rows_at_once, wide.torch_frames = at_once, True
    calls = []
    if network := getattr(wide, "network", None):
        network.register_forward_pre_hook(lambda _, given: calls.append(len(given[0])))
    rows = requests if at_once == 8 else requests[:4]
    for ours, row in zip(together(wide, rows), rows, strict=True):
        check_alike(ours, alone(generators[family], row), family)
        if not row.aus.intensity.any() and not row.nuisance.noise:
            assert (ours.clip.frames == row.face.image).all()
    if calls:  # of ice_gan and under guidance there are more rows than were asked for
        assert max(calls) >= min(at_once, 4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["motion_gan", "motion_diffusion", "motion_diffusion_fast"])
def test_bf16_is_harmless_to_what_ships(requests: list[ClipRequest], name: str, device: str) -> None:
    exact, half = find_model(name).load(), find_model(name).on(device, "bf16").load()
    half.rows_at_once = 2
    rows = requests[:2]
    changed = False
    for ours, row in zip(together(half, rows), rows, strict=True):
        theirs = alone(exact, row)
        assert np.abs(ours.flow.uv - theirs.flow.uv).mean() < BF16_FLOW
        assert np.abs(ours.clip.frames.astype(int) - theirs.clip.frames).mean() < BF16_FRAMES
        changed |= not np.array_equal(ours.flow.uv, theirs.flow.uv)
    assert changed  # the option reaches the network


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("family", ["flow_volume", "image_diffusion", "au_icgan", "ice_gan"])
def test_bf16_reaches_every_family(
    generators: dict[str, Generator], requests: list[ClipRequest], family: str, device: str
) -> None:
    half = copy.deepcopy(generators[family]).to(device, "bf16")
    (ours,), theirs = together(half, requests[:1]), alone(generators[family], requests[0])
    apart = np.abs(ours.clip.frames.astype(int) - theirs.clip.frames)
    assert 0 < apart.mean() < 1


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("count", [1, 3, 8])
def test_flow_images_in_any_company(count: int, device: str) -> None:
    generator = test_flow_gan.generator()
    aus = test_flow_gan.some_aus(8)
    labels = ["positive", "negative", "surprise", ""] * 2
    every = generator.sample(seeds=range(8), labels=labels, aus=aus, size=36)
    some = generator.sample(seeds=range(count), labels=labels[:count], aus=aus[:count], size=36)
    assert np.array_equal(some, every[:count])
    wide = FlowGAN(copy.deepcopy(generator.network), generator.facts).to(device)
    wide.rows_at_once = count
    other = wide.sample(seeds=range(8), labels=labels, aus=aus, size=36)
    assert np.abs(other - every).max() < FLOW


def test_a_generator_says_where_it_is_and_keeps_its_options_there() -> None:
    made = _made("motion_diffusion")
    assert (made.device, made.precision, made.frames_on) == ("cpu", "fp32", None)
    made.rows_at_once = 5
    assert made.configured(steps=2).rows_at_once == 5
    assert [(b.start, b.stop) for b in made.blocks(12)] == [(0, 5), (5, 10), (10, 12)]
    for name, words in (("gpu", "device gpu is unknown"), ("cuda:77", "is not here")):
        with pytest.raises(ConfigError, match=words):
            made.to(name)
    with pytest.raises(ConfigError, match="precision int8 is unknown"):
        made.to("cpu", "int8")
    assert made.device == "cpu"


@pytest.mark.parametrize("device", [CUDA])
@pytest.mark.parametrize("name", ["motion_gan", "motion_diffusion", "motion_diffusion_fast"])
def test_shipped_generators_on_a_gpu(requests: list[ClipRequest], name: str, device: str) -> None:
    here, there = find_model(name).load(), find_model(name).on(device).load()
    for ours, row in zip(together(there, requests), requests, strict=True):
        check_alike(ours, alone(here, row), name, flow=0.01)


def test_torch_knows_what_is_here() -> None:
    from mesynth.core.devices import devices_here, find_device

    assert ("cuda" in devices_here()) == torch.cuda.is_available()
    assert find_device("auto") in devices_here()
