import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mesynth.core import facs
from mesynth.core.errors import MesynthError
from mesynth.core.profiles import Profile
from mesynth.core.types import AUVector
from mesynth.generators.base import ClipRequest, load_pipeline
from mesynth.generators.formation import motion_clip
from mesynth.generators.motion_gan.network import MotionGAN, MotionGenerator
from mesynth.motion.nuisance import Nuisance
from mesynth.motion.prior import Face, MotionPrior
from mesynth.preprocess.align import SimilarityCrop
from mesynth.store.generator_folder import GeneratorFacts, save_pipeline
from tests.generators.layered import check_lids_and_lips
from tests.generators.saved import FACTS, SIZE, lively
from tests.training.rendered import person_face

ASKED = facs.parse_request("12=0.6,L4=0.4")
ALL = Nuisance(noise=2, head=1, blink=1, style=1)


@pytest.fixture(scope="module")
def generator() -> MotionGAN:
    return MotionGAN(lively(), GeneratorFacts(**FACTS, size=SIZE))


@pytest.fixture(scope="module")
def face() -> Face:
    return person_face(31, 96)


def shown(frame: np.ndarray, uv: np.ndarray, onset: np.ndarray) -> float:
    """Mean |frame(x + F(x)) - onset(x)| in grey levels, away from the border."""
    height, width = uv.shape[1:]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    read = cv2.remap(frame.astype(np.float32), x + uv[0], y + uv[1], cv2.INTER_LINEAR)
    return float(np.abs(read - onset)[8:-8, 8:-8].mean())


@pytest.mark.parametrize("nuisance", [Nuisance(), Nuisance(head=1, style=1, blink=1)])
def test_the_reported_flow_is_what_the_apex_is_made_from(nuisance: Nuisance, face: Face) -> None:
    network = lively()
    torch.nn.init.zeros_(network.paint.weight)  # light does not change: what is left is motion
    made = MotionGAN(network, GeneratorFacts(**FACTS, size=SIZE))
    sample, _ = made.generate(face, ASKED, Profile(lag=0.05), n_frames=9, fps=100, nuisance=nuisance, seed=4)
    apex, uv = sample.clip.apex_frame, sample.flow.uv
    still = float(np.abs(apex.astype(float) - face.image)[8:-8, 8:-8].mean())
    assert shown(apex, uv, face.image) < 0.35 * still
    assert shown(apex, -uv, face.image) > still
    assert shown(apex, 1.3 * uv, face.image) > 1.1 * shown(apex, uv, face.image)


def test_onset_and_offset_are_the_input(generator: MotionGAN, face: Face) -> None:
    clip = generator.generate(face, ASKED, Profile(), n_frames=9, fps=100)[0].clip
    assert np.array_equal(clip.frames[0], face.image)
    assert np.array_equal(clip.frames[-1], face.image)
    assert not np.array_equal(clip.apex_frame, face.image)
    noisy = generator.generate(face, ASKED, Profile(), n_frames=9, fps=100, nuisance=ALL, seed=1)[0].clip
    assert np.array_equal(noisy.frames[0], face.image)
    assert not np.array_equal(noisy.frames[-1], face.image)


def test_intensity_zero_gives_the_face_back_in_every_frame(generator: MotionGAN, face: Face) -> None:
    nothing = AUVector(np.zeros((len(facs.AU_CODES), 2), np.float32))
    sample, warnings = generator.generate(face, nothing, Profile(), n_frames=5, fps=100)
    assert (sample.clip.frames == face.image).all()
    assert not sample.flow.uv.any()
    assert warnings == ()


def test_seeds_and_calls_do_not_disturb_each_other(generator: MotionGAN, face: Face) -> None:
    def run(seed: int) -> np.ndarray:
        return generator.generate(face, ASKED, Profile(), n_frames=5, fps=100, nuisance=ALL, seed=seed)[0].clip.frames

    first, other, again = run(1), run(2), run(1)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (150, 120), (97, 131)])
def test_faces_of_any_size_and_turn(height: int, width: int) -> None:
    """The same face turned by .2 rad and scaled: its flow turns and scales with it.

    Untrained heads: the flow depends on where the face is, not on how its picture was resampled.
    """
    generator = MotionGAN(MotionGenerator(size=SIZE, width=8), GeneratorFacts(**FACTS, size=SIZE))

    source = person_face(31, 128)
    c, s = np.cos(0.2) * height / 140, np.sin(0.2) * height / 140
    linear = np.array([[c, -s], [s, c]])
    matrix = np.column_stack([linear, np.array([width / 2, height / 2]) - linear @ np.array([64, 64])])
    image = cv2.warpAffine(source.image, matrix, (width, height), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REPLICATE)
    turned = Face(image, (source.landmarks @ linear.T + matrix[:, 2]).astype(np.float32))
    still = generator.generate(source, ASKED, Profile(), n_frames=3, fps=100)[0].flow.uv
    moved = generator.generate(turned, ASKED, Profile(), n_frames=3, fps=100)[0]
    assert moved.clip.frames.shape == (3, height, width, 3)
    for x, y in ((40, 90), (64, 64), (84, 40)):
        at = np.round(matrix @ np.array([x, y, 1])).astype(int)
        want = linear @ still[:, y, x]
        # Half a pixel of rounding, and a crop that was read from another sampling of the face.
        assert np.linalg.norm(moved.flow.uv[:, at[1], at[0]] - want) < 0.15 * np.abs(still).max() * height / 140


def test_untrained_fields_agree_with_the_motion_prior(face: Face) -> None:
    """Start of training: the prior of the mean face against the prior carried to this face by its landmarks."""
    made = MotionGAN(MotionGenerator(size=64, width=8), GeneratorFacts(**{**FACTS, "size": 64}))
    options = {"n_frames": 5, "fps": 100.0}
    ours = made.generate(face, facs.parse_request("12=0.5"), Profile(), **options)[0].flow.uv
    prior = MotionPrior(face).generate(facs.parse_request("12=0.5"), Profile(), **options)[0].flow.uv
    assert np.linalg.norm(ours - prior) < 0.5 * np.linalg.norm(prior)


def test_lids_and_lips_are_the_layers_own(generator: MotionGAN, face: Face) -> None:
    check_lids_and_lips(generator, face)


def test_conflicting_aus_are_refused(generator: MotionGAN, face: Face) -> None:
    with pytest.raises(MesynthError, match="exclude each other"):
        generator.generate(face, facs.parse_request("12=B,15=B"), Profile(), n_frames=5, fps=100)


def test_a_folding_flow_is_reported(generator: MotionGAN, face: Face) -> None:
    motion = generator.motion(face, ASKED)
    wild = dataclasses.replace(motion, bend=np.random.default_rng(0).normal(0, 3, motion.bend.shape).astype(np.float32))
    _, warnings = motion_clip(wild, ClipRequest(face, ASKED, Profile(), n_frames=3, fps=100))
    assert "folds" in warnings[0]


def test_a_wild_network_does_not_fold_and_is_kept_short(face: Face) -> None:
    network = lively(max_flow=0.06)
    assert network.correct is not None
    torch.nn.init.normal_(network.correct.weight, std=2.0)
    made = MotionGAN(network, GeneratorFacts(**FACTS, size=SIZE))
    sample, warnings = made.generate(face, ASKED, Profile(), n_frames=3, fps=100)
    assert not warnings
    lengths = np.linalg.norm(sample.flow.uv, axis=0)
    crop = SimilarityCrop.from_landmarks(face.landmarks, SIZE)
    limit = 0.06 * SIZE / crop.scale
    assert 0.3 * limit < lengths.max() <= 1.05 * limit


def test_same_result_from_disk(generator: MotionGAN, face: Face, tmp_path: Path) -> None:
    save_pipeline(tmp_path / "g", {"generator": generator.network}, FACTS, "", size=SIZE)
    clips = [
        g.generate(face, ASKED, Profile(), n_frames=5, fps=100, nuisance=ALL, seed=9)[0].clip.frames
        for g in (generator, load_pipeline(tmp_path / "g"))
    ]
    assert np.array_equal(*clips)
