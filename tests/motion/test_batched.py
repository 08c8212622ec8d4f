"""Frames made by torch, all at once, are those that are made one by one: warp, noise, composition, layers and folds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mesynth.core import facs
from mesynth.core.profiles import Profile
from mesynth.head import Subject
from mesynth.motion.batched import APART, carried_back, composed, quantised
from mesynth.motion.layers import Course
from mesynth.motion.nuisance import Nuisance, recorded
from mesynth.motion.prior import Face, MotionPrior
from tests.devices import DEVICES
from tests.motion.test_layers import rendered

FRAMES = 5


@pytest.fixture(scope="module")
def faces() -> dict[str, MotionPrior]:
    """At rest, with an open mouth, with half closed eyes, with glasses."""
    return {"rest": MotionPrior(rendered(5)), "open": MotionPrior(rendered(3, "25=1,26=0.5")),
            "half": MotionPrior(rendered(2, "45=0.5")), "glasses": MotionPrior(wearing(8))}  # fmt: skip


def wearing(seed: int) -> Face:
    subject = Subject(seed, 160, frontal=True, glasses=True)
    shown = Face(subject.render(np.zeros((1, len(facs.AU_CODES), 2), np.float32))[0], subject.landmarks())
    assert shown.layers.front is not None
    return shown


def course(prior: MotionPrior, request: str, **nuisance: float) -> Course:
    aus = facs.parse_request(request)
    return prior.steps(aus, Profile(), FRAMES, 50, Nuisance(**nuisance), 7)


def check_alike(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Within the tolerance that is stated."""
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype == np.uint8
    apart = np.abs(ours.astype(int) - theirs)
    assert (apart > 1).mean() <= APART
    assert (apart > 0).mean() < 0.02


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("kind", "request_text"),
    [
        ("rest", "4=1,R12=0.8"), ("rest", "L45=1,25=1,26=1"), ("rest", "27=1,1=0.4"), ("open", "24=1,17=0.6"),
        ("open", "45=0.5,26=1"), ("open", "12=0.5"), ("half", "43=0.6,6=1"), ("half", "5=1,20=1,16=1"),
        ("open", "12=1,45=1"), ("glasses", "4=1,45=1"),
    ],
)  # fmt: skip
def test_frames_are_those_made_one_by_one(
    faces: dict[str, MotionPrior], kind: str, request_text: str, device: str
) -> None:
    prior = faces[kind]
    shown = prior.generate(facs.parse_request(request_text), Profile(), n_frames=FRAMES, fps=50, seed=7)[0]
    ours = composed(prior.face.layers, course(prior, request_text), 0, np.random.default_rng(0), device)
    moved = np.abs(shown.clip.frames.astype(int) - shown.clip.frames[0])
    assert moved.max() > 8  # there is something to agree on
    check_alike(ours, shown.clip.frames)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["rest", "glasses"])
def test_head_motion_noise_and_blinks_too(faces: dict[str, MotionPrior], kind: str, device: str) -> None:
    prior, nuisance = faces[kind], Nuisance(head=2, noise=2.5, blink=1, style=1)
    request = facs.parse_request("12=0.7,25=0.4"), Profile()
    one, other = (
        prior.generate(*request, n_frames=FRAMES, fps=50, nuisance=nuisance, seed=11, device=on)[0]
        for on in (None, device)
    )
    check_alike(other.clip.frames, one.clip.frames)
    assert np.array_equal(one.clip.frames[0], prior.face.image)
    assert np.array_equal(other.clip.frames[0], prior.face.image)
    assert np.array_equal(one.flow.uv, other.flow.uv)  # computed once, on the CPU


@pytest.mark.parametrize("device", DEVICES)
def test_the_change_of_light_and_the_bent_part_too(faces: dict[str, MotionPrior], device: str) -> None:
    prior, size = faces["rest"], 128
    y, x = np.mgrid[:size, :size].astype(np.float32)
    wave = np.stack([np.sin(y / 9), np.cos(x / 11)], -1)
    light = 20 * np.stack([np.sin(x / 13), np.cos(y / 7), np.sin((x + y) / 17)], -1)
    plain = course(prior, "12=0.5,26=0.6")
    assert plain.jaws is not None
    drops = plain.aus[:, facs.AU_INDEX[26]]
    asked = replace(
        plain, share=np.linspace(0, 1, FRAMES), bend=wave.astype(np.float32), change=light.astype(np.float32),
        drops=drops, jaws=3 * np.stack([wave, wave[::-1]]).astype(np.float32),
    )  # fmt: skip
    theirs = np.stack([np.clip(prior.face.layers.frame(step) + 0.5, 0, 255).astype(np.uint8) for step in asked])
    check_alike(composed(prior.face.layers, asked, 0, np.random.default_rng(0), device), theirs)


@pytest.mark.parametrize("device", DEVICES)
def test_nothing_asked_for_is_the_picture_to_the_bit(faces: dict[str, MotionPrior], device: str) -> None:
    for prior in faces.values():
        asked = course(prior, "12=1")
        asked = replace(asked, aus=np.zeros_like(asked.aus), weights=np.zeros_like(asked.weights))
        assert (composed(prior.face.layers, asked, 0, np.random.default_rng(0), device) == prior.face.image).all()


@pytest.mark.parametrize("device", DEVICES)
def test_a_frame_does_not_depend_on_how_many_are_made_at_once(
    faces: dict[str, MotionPrior], monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    prior = faces["open"]
    whole = composed(prior.face.layers, course(prior, "12=0.6,25=1"), 3, np.random.default_rng(2), device)
    monkeypatch.setattr("mesynth.motion.batched._PIXELS", 2 * 128 * 128)
    parted = composed(prior.face.layers, course(prior, "12=0.6,25=1"), 3, np.random.default_rng(2), device)
    check_alike(parted, whole)
    if device == "cpu":
        assert np.array_equal(parted, whole)


@pytest.mark.parametrize("device", DEVICES)
def test_changes_are_carried_back_as_opencv_does(device: str) -> None:
    from mesynth.generators.painting import carried_back as one_by_one
    from mesynth.preprocess.align import SimilarityCrop

    face: Face = rendered(5)
    crop = SimilarityCrop.from_landmarks(face.landmarks, 48)
    y, x = np.mgrid[:48, :48].astype(np.float32)
    change = np.stack([np.stack([np.sin(x / k), np.cos(y / k), np.sin((x - y) / k)]) for k in (5, 9)])
    theirs = one_by_one(change.transpose(0, 2, 3, 1), crop, face.image.shape[:2])
    ours = carried_back(torch.from_numpy(change).to(device), crop.matrix, face.image.shape[:2]).cpu().numpy()
    assert np.abs(ours - theirs).mean() < 2e-3
    assert np.abs(ours - theirs).max() < 0.1  # OpenCV rounds positions to 1/32 pixel
    assert theirs.std() > 0.1


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("noise", [0.0, 2.5])
def test_noise_is_what_the_camera_records(noise: float, device: str) -> None:
    """The same numbers, rounded and cut off alike."""
    frames = np.random.default_rng(3).uniform(-20, 280, (3, 7, 9, 3)).astype(np.float32)
    frames[0, 0, 0] = (0.4, 254.6, 300.0)
    one, other = np.random.default_rng(1), np.random.default_rng(1)
    theirs = np.stack([recorded(frame, noise, one) for frame in frames])
    ours = quantised(torch.from_numpy(frames).to(device), noise, other)
    assert (ours != theirs).mean() < 0.01  # on the boundary of two levels
    assert np.abs(ours.astype(int) - theirs).max() <= 1
    assert one.bit_generator.state == other.bit_generator.state
    assert noise or ours[0, 0, 0].tolist() == [0, 255, 255]


@pytest.mark.parametrize("device", DEVICES)
def test_the_margin_is_left_out(faces: dict[str, MotionPrior], device: str) -> None:
    face = faces["rest"].face
    framed = MotionPrior(Face(face.image, face.landmarks, 6))
    one, other = (
        framed.generate(
            facs.parse_request("27=0.6"), Profile(), n_frames=4, fps=50, nuisance=Nuisance(noise=2), seed=3, device=on
        )[0]
        for on in (None, device)
    )
    assert one.clip.frames.shape == (4, 116, 116, 3)
    check_alike(other.clip.frames, one.clip.frames)
