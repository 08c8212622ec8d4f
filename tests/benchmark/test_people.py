"""The exact truth of a benchmark, checked against what made it: landmarks of the head and the faces of `generate`."""

from __future__ import annotations

import numpy as np
import pytest

from mesynth.benchmark.answers import psnr
from mesynth.benchmark.people import Person, RenderedTruth
from mesynth.benchmark.requests import BENCHMARK_SEEDS, BenchmarkConfig, Request, requests
from mesynth.core.errors import ConfigError, MesynthError
from mesynth.core.facs import AU_CODES, AU_INDEX, MIDLINE
from mesynth.core.profiles import Profile
from mesynth.corpus import faces
from mesynth.head import Subject
from mesynth.metrics.judge_train import JUDGE_SEEDS
from mesynth.motion.warp import backward_flow, warp_backward
from mesynth.preprocess.align import SimilarityCrop
from mesynth.training.data.rendered import RENDER_SCALE, TRAIN_SEEDS, VALIDATION_SEEDS

SIZE = 128


@pytest.fixture(scope="module")
def person() -> Person:
    return Person(BENCHMARK_SEEDS[3], SIZE)


def test_nobody_else_has_these_people() -> None:
    for other in (TRAIN_SEEDS, VALIDATION_SEEDS, JUDGE_SEEDS):
        assert not set(other) & set(BENCHMARK_SEEDS)


def test_faces_are_those_that_generate_prepares(person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = Subject(person.seed, size=round(RENDER_SCALE * SIZE))
    picture = subject.render(np.zeros((1, len(AU_CODES), 2), np.float32))[0]
    monkeypatch.setattr(faces.FaceWorker, "_load", lambda *_: (picture, subject.landmarks()))
    made = faces.FaceWorker(SIZE, "auto")(faces.FaceSource("rendered", "x", "l", "", faces.Path("x")))
    assert made.frames is not None
    np.testing.assert_array_equal(made.frames[0], person.face.image)
    np.testing.assert_array_equal(made.landmarks, person.face.landmarks)
    assert f"rendered/person{person.seed:010d}" == person.key


@pytest.mark.parametrize(("code", "points"), [(1, (21, 22)), (4, (19, 24)), (9, (31, 35)), (12, (49, 53))])
def test_the_exact_flow_carries_the_landmarks(person: Person, code: int, points: tuple[int, ...]) -> None:
    request = Request(code, "B", 0.75)
    subject = Subject(person.seed, size=round(RENDER_SCALE * SIZE))
    crop = SimilarityCrop.from_landmarks(subject.landmarks(), SIZE)
    at, to = crop.points(subject.landmarks()), crop.points(subject.landmarks(request.aus.intensity))
    uv, inside = person.flow(request)
    for k in points:
        x, y = np.round(at[k]).astype(int)
        assert inside[y, x]
        moved = to[k] - at[k]
        assert np.hypot(*moved) > 0.5
        assert np.hypot(*(uv[:, y, x] - moved)) < 0.06 * np.hypot(*moved)


def test_the_onset_warped_by_the_exact_flow_is_nearly_the_apex(person: Person) -> None:
    request = Request(1, "B", 0.5)
    uv, _ = person.flow(request)
    forward = np.ascontiguousarray(uv.transpose(1, 2, 0))
    apex = person.inner(person.exact(request.aus).apex)
    warped = np.clip(warp_backward(person.onset, backward_flow(forward)) + 0.5, 0, 255).astype(np.uint8)
    assert psnr(warped, apex) > psnr(person.onset, apex) + 3


def test_the_face_is_most_of_the_crop_and_none_of_its_corners(person: Person) -> None:
    assert 0.3 < person.on_face.mean() < 0.95
    right, left = person.landmarks[36:42].mean(0), person.landmarks[42:48].mean(0)
    assert np.allclose((right + left) / 2, [0.5 * SIZE - 0.5, 0.35 * SIZE - 0.5], atol=1e-3)
    assert person.on_face[round(right[1]), round(right[0])]
    assert not person.on_face[0, 0]


def test_the_truth_knows_only_its_own_people(person: Person) -> None:
    truth, ask = RenderedTruth(), Request(12, "L", 0.5)
    with pytest.raises(MesynthError, match="only its own people"):
        truth.generate(person.face, ask.aus, Profile(apex=0.5), n_frames=3, fps=100.0)
    truth.meet(person)
    sample, _ = truth.generate(person.face, ask.aus, Profile(apex=0.5), n_frames=5, fps=100.0)
    assert sample.clip.apex == 2
    np.testing.assert_array_equal(sample.clip.frames[0], person.face.image)
    np.testing.assert_array_equal(sample.clip.frames[4], person.face.image)
    np.testing.assert_array_equal(sample.clip.apex_frame, person.exact(ask.aus).apex)


def test_requests_ask_for_every_au_on_both_sides_and_one() -> None:
    config = BenchmarkConfig()
    asked = requests(config)
    assert len(asked) == 1 + 5 * (25 + 18)
    assert not asked[0].aus.intensity.any()
    assert len({r.aus.intensity.tobytes() for r in asked}) == len(asked)
    for code in AU_CODES:
        own = [r for r in asked[1:] if r.code == code]
        assert [r.level for r in own if r.side == "B"] == list(config.levels)
        assert {r.side for r in own} == ({"B"} if code in MIDLINE else {"B", "L", "R"})
        assert [r.level for r in own if r.pictured] == [0.5, 1.0]
        for r in own:
            others = np.delete(r.aus.intensity, AU_INDEX[code], 0)
            assert not others.any()
    assert sum(r.diverse for r in asked) == 4


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"people": 1}, "at least 2"),
        ({"people": 10_001}, r"990000\.\.999999"),
        ({"first": 5}, "kept for comparing"),
        ({"size": 32}, r"64\.\.256"),
        ({"codes": (4, 99)}, "AU 99 is not in the vocabulary"),
        ({"codes": (12.5,)}, "AU 12.5"),
        ({"codes": ()}, "must be different"),
        ({"codes": (4, 4)}, "must be different"),
        ({"levels": (0.5, 0.2)}, "ascending"),
        ({"levels": (0.5, 1.2)}, "outside"),
        ({"levels": (0.0, 0.2)}, "outside"),
        ({"resamples": 3}, "resamples=3"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_bad_configurations(values: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        BenchmarkConfig(**values)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
