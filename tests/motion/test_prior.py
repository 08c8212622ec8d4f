"""The motion prior moves what was asked, on the side that was asked, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from mesynth.core import facs
from mesynth.core.errors import MesynthError
from mesynth.core.profiles import PROFILES, Profile
from mesynth.core.types import Sample
from mesynth.generators.base import ClipRequest, Generator
from mesynth.generators.registry import PriorGenerator
from mesynth.head import Subject
from mesynth.motion.fields import MAX_SPREAD, au_field, bumps, drawn_bumps
from mesynth.motion.nuisance import Nuisance, blink_curve, head_path
from mesynth.motion.prior import MEAN, NAME, WARP_LIMIT, Face, MotionPrior, face_map
from mesynth.motion.warp import stays_inside

STILL = np.zeros((1, 25, 2), np.float32)
PROFILE = Profile(apex=0.5)


@pytest.fixture(scope="module")
def subject() -> Subject:
    return Subject(11, size=128, frontal=True)


@pytest.fixture(scope="module")
def prior(subject: Subject) -> MotionPrior:
    return MotionPrior(Face(subject.render(STILL)[0], subject.landmarks()))


def _apex_flow(prior: MotionPrior, request: str) -> np.ndarray:
    sample, _ = prior.generate(facs.parse_request(request), PROFILE, n_frames=5, fps=60)
    return sample.flow.uv


def test_intensity_zero_returns_the_input_bit_for_bit(prior: MotionPrior) -> None:
    sample, _ = prior.generate(facs.parse_request("12=0,4=0"), PROFILE, n_frames=7, fps=60)
    assert (sample.clip.frames == prior.face.image).all()
    assert (sample.flow.uv == 0).all()


def test_first_and_last_frame_are_the_neutral_face(prior: MotionPrior) -> None:
    sample, _ = prior.generate(facs.parse_request("12=C"), PROFILES["casme2"], n_frames=21, fps=60)
    assert (sample.clip.frames[0] == prior.face.image).all()
    assert (sample.clip.frames[-1] == prior.face.image).all()
    change = np.abs(sample.clip.frames.astype(int) - prior.face.image).mean((1, 2, 3))
    assert change.argmax() == sample.clip.apex


@pytest.mark.parametrize("code", sorted(bumps()))
def test_sides_add_up_and_mirror(code: int) -> None:
    uv = np.stack(np.meshgrid(np.linspace(-1, 1, 41), np.linspace(-0.8, 1.6, 49)), -1)
    left, right = au_field(code, 0, uv), au_field(code, 1, uv)
    np.testing.assert_allclose(left[:, ::-1] * [-1, 1, 1], right, atol=1e-6)
    # The pull of one side has its centre of mass on that side.
    weight = np.linalg.norm(left, axis=-1)
    if code not in facs.MIDLINE:
        assert (weight * uv[..., 0]).sum() / weight.sum() > 0.1


def test_left_is_the_subjects_left(prior: MotionPrior) -> None:
    magnitude = np.hypot(*_apex_flow(prior, "L12=C"))
    assert magnitude[:, 64:].max() > 2
    assert magnitude[:, 64:].sum() > 8 * magnitude[:, :60].sum()


@pytest.mark.parametrize(
    ("request_text", "landmark", "direction"),
    [
        ("12=C", 54, (1, -1)),  # the left lip corner goes out and up
        ("15=C", 54, (1, 1)),
        ("4=C", 22, (-1, 1)),  # the inner brow goes in and down
        ("1=C", 22, (0, -1)),
        ("2=C", 25, (0, -1)),
        ("26=C", 8, (0, 1)),  # the chin drops
        ("20=C", 54, (1, 0)),
    ],
)
def test_landmarks_go_where_facs_says(
    prior: MotionPrior, subject: Subject, request_text: str, landmark: int, direction: tuple[int, int]
) -> None:
    x, y = np.round(subject.landmarks()[landmark] + [0, -2]).astype(int)
    moved = _apex_flow(prior, request_text)[:, y, x]
    for component, sign in zip(moved, direction, strict=True):
        if sign:
            assert np.sign(component) == sign, f"{request_text}: moved {moved}"
            assert abs(component) > 0.25


@pytest.mark.parametrize("request_text", ["12=C", "4=C", "15=C", "20=C", "14=C", "10=C", "L12=C", "24=C"])
def test_agrees_with_the_3d_head_better_than_no_motion(prior: MotionPrior, subject: Subject, request_text: str) -> None:
    """On a face of the 3D head the prior explains most of the mesh's exact flow."""
    aus = facs.parse_request(request_text).intensity
    exact = subject.flow(STILL[0], aus)
    prior_flow = _apex_flow(prior, request_text)
    seen = exact.visible & exact.face
    error = np.hypot(*(prior_flow - exact.uv))[seen].mean()
    assert error < 0.75 * np.hypot(*exact.uv)[seen].mean()


@pytest.mark.parametrize("code", [1, 4, 15, 20])
def test_flow_is_linear_in_intensity(prior: MotionPrior, code: int) -> None:
    """Where no lid or lip moves by itself."""
    np.testing.assert_allclose(
        _apex_flow(prior, f"{code}=0.5"), 5 * _apex_flow(prior, f"{code}=0.1"), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("request_text", ["12=B,4=B", "1=D,2=D", "25=E,26=E", "45=E", "24=E,17=C"])
def test_frames_follow_the_flow(prior: MotionPrior, request_text: str) -> None:
    """Reading the apex where the flow goes gives the onset back, but where the flow says that it is hidden."""
    from mesynth.motion.warp import warp_backward

    sample, _ = prior.generate(facs.parse_request(request_text), PROFILE, n_frames=5, fps=60)
    again = warp_backward(sample.clip.apex_frame, np.ascontiguousarray(sample.flow.uv.transpose(1, 2, 0)))
    wrong = np.abs(again - prior.face.image).mean(-1)
    assert sample.flow.valid is not None
    assert sample.flow.valid.mean() > 0.9
    assert wrong[sample.flow.valid].mean() < 1.2  # lashes are taken off a lid that closes
    still = np.abs(sample.clip.apex_frame.astype(float) - prior.face.image).mean(-1)
    assert wrong[sample.flow.valid].mean() < 0.5 * still.mean()


@pytest.mark.parametrize("code", facs.AU_CODES)
def test_no_request_within_reach_folds_the_face(prior: MotionPrior, code: int) -> None:
    strength = WARP_LIMIT.get(code, 0.75)
    _, warnings = prior.generate(facs.parse_request(f"{code}={strength}"), PROFILE, n_frames=3, fps=60)
    assert warnings == ()


def test_out_of_reach_and_conflicting_requests_are_refused(prior: MotionPrior) -> None:
    with pytest.raises(MesynthError, match=r"AU 28 .* would fold the picture; the motion prior shows it up to 0\.6"):
        _apex_flow(prior, "28=E")
    for code in (26, 27, 43, 45):  # a mouth that opens and a lid that closes are layers
        assert np.abs(_apex_flow(prior, f"{code}=1")).max() > 4
    with pytest.raises(facs.AUConflictError):
        _apex_flow(prior, "12=B,15=B")


def test_noise_is_independent_per_frame_and_spares_the_onset(prior: MotionPrior) -> None:
    sample, _ = prior.generate(facs.parse_request("12=0"), PROFILE, n_frames=5, fps=60, nuisance=Nuisance(noise=3.0))
    residual = sample.clip.frames.astype(float) - prior.face.image
    assert (residual[0] == 0).all()
    assert residual[1].std() == pytest.approx(3, abs=0.3)
    assert abs(np.corrcoef(residual[1].ravel(), residual[2].ravel())[0, 1]) < 0.02


def test_head_motion_moves_the_face_and_is_part_of_the_flow(prior: MotionPrior) -> None:
    sample, _ = prior.generate(
        facs.parse_request("12=0"), PROFILE, n_frames=9, fps=60, nuisance=Nuisance(head=1), seed=4
    )
    centre = sample.flow.uv[:, 40:90, 40:90]
    assert 0.02 < np.hypot(*centre).mean() < 4


def test_style_changes_where_and_which_way_but_keeps_side_and_size(prior: MotionPrior) -> None:
    def flow(style: float, seed: int) -> np.ndarray:
        nuisance = Nuisance(style=style)
        request = facs.parse_request("L12=C")
        sample, _ = prior.generate(request, PROFILE, n_frames=5, fps=60, nuisance=nuisance, seed=seed)
        return sample.flow.uv

    plain = flow(0, 0)
    styled = [flow(1, seed) for seed in range(8)]
    for uv in styled:
        assert 0.1 < np.hypot(*(uv - plain)).mean() / np.hypot(*plain).mean() < 1.2
        assert 0.6 < np.hypot(*uv).max() / np.hypot(*plain).max() < 1.4
        magnitude = np.hypot(*uv)
        assert magnitude[:, 64:].sum() > 4 * magnitude[:, :64].sum()
    assert np.abs(styled[0] - styled[1]).max() > 0.5
    zero, _ = prior.generate(facs.parse_request("12=0"), PROFILE, n_frames=5, fps=60, nuisance=Nuisance(style=1))
    assert (zero.clip.frames == prior.face.image).all()


def _field(prior: MotionPrior, code: int, side: int, seed: int = 0) -> np.ndarray:
    return prior._own_fields([(facs.AU_INDEX[code], side)], 0.0, seed)[0]


def test_a_spread_draws_each_seed_a_person_around_the_mean(prior: MotionPrior) -> None:
    spread = MotionPrior(prior.face, NAME, 1.0)
    plain = prior.fields([(facs.AU_INDEX[12], 0)])[0]
    people = np.stack([_field(spread, 12, 0, seed) for seed in range(40)])
    assert np.array_equal(people[3], _field(spread, 12, 0, 3))
    assert (np.abs(people - plain).max((1, 2, 3)) > 0.1).all()
    assert (people[0] != people[1]).any()
    mean = people.mean(0)
    assert (mean * plain).sum() > 0.9 * np.sqrt((mean**2).sum() * (plain**2).sum())
    # The range of 19 draws holds the mean almost everywhere that it moves.
    moving = np.hypot(plain[..., 0], plain[..., 1]) > 0.5
    inside = (people[:19].min(0) <= plain) & (plain <= people[:19].max(0))
    assert inside[moving].mean() > 0.97


def test_without_a_spread_every_seed_is_the_mean(prior: MotionPrior) -> None:
    none = MotionPrior(prior.face, NAME, 0.0)
    request = facs.parse_request("12=C,4=B")
    clips = [none.generate(request, PROFILE, n_frames=3, fps=60, seed=seed)[0] for seed in (0, 9)]
    assert (clips[0].clip.frames == clips[1].clip.frames).all()
    assert (clips[0].flow.uv == prior.generate(request, PROFILE, n_frames=3, fps=60)[0].flow.uv).all()


@pytest.mark.parametrize("spread", [0.0, 0.5, 1.0, MAX_SPREAD])
def test_drawn_tables_keep_what_is_one_motion_together(spread: float) -> None:
    table, sides = drawn_bumps(spread, np.random.default_rng(5))
    assert set(table) == set(bumps())
    np.testing.assert_allclose(table[43], table[45])
    np.testing.assert_allclose(table[27][:, :4], table[26][:, :4])
    uv = np.stack(np.meshgrid(np.linspace(-1, 1, 21), np.linspace(-0.8, 1.6, 25)), -1)
    for code in facs.AU_CODES:
        left, right = au_field(code, 0, uv, table), au_field(code, 1, uv, table)
        np.testing.assert_allclose(left[:, ::-1] * [-1, 1, 1], right, atol=1e-6)
        if code in facs.MIDLINE:
            assert sides[facs.AU_INDEX[code], 0] == sides[facs.AU_INDEX[code], 1]
        if not spread:
            np.testing.assert_allclose(left, au_field(code, 0, uv), atol=1e-6)


@pytest.mark.parametrize("spread", [-0.1, 2.5, float("nan"), "much", True])
def test_a_spread_that_cannot_be_is_refused(prior: MotionPrior, spread: object) -> None:
    with pytest.raises(MesynthError, match=rf"spread={spread} is outside 0..2"):
        PriorGenerator().configured(spread=spread)  # type: ignore[arg-type]


def test_the_mean_has_no_spread() -> None:
    with pytest.raises(MesynthError, match=f"{MEAN} has no option 'spread'.*choose {NAME}@spread=1"):
        PriorGenerator(MEAN).configured(spread=1.0)


@pytest.mark.parametrize("code", [9, 14, 18, 22, 24])
def test_look_alikes_are_what_they_are(code: int) -> None:
    """By the prior's own fields each is nearer to itself as the head's other artists have it than to its look-alike."""
    from mesynth.motion.fields import rig_basis, table_of

    like = {9: 4, 14: 12, 24: 12, 22: 18, 18: 22}[code]
    uv = np.stack(np.meshgrid(np.linspace(-1, 1, 41), np.linspace(-0.6, 1.7, 47)), -1)
    rig = table_of(rig_basis("face units"))

    def whole(code: int) -> np.ndarray:
        return au_field(code, 0, uv)[..., :2] + au_field(code, 1, uv)[..., :2]

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()))

    own, other = (rig.read(uv, [(facs.AU_INDEX[c], s) for s in (0, 1)]).sum(0)[..., :2] for c in (code, like))
    assert cosine(whole(code), own) > cosine(whole(code), other)


def test_the_prior_turns_with_the_head() -> None:
    """By 25 degrees: its directions are those of the turned head."""
    from mesynth.head.render import head_pose

    subject = Subject(11, size=128, frontal=True)
    pose = head_pose(25.0, 0.0)
    face = Face(subject.render(STILL, pose[None])[0], subject.landmarks(pose=pose))
    turned = MotionPrior(face)
    for request_text, least in (("12=C", 0.85), ("4=C", 0.8), ("20=C", 0.75), ("15=C", 0.8)):
        aus = facs.parse_request(request_text).intensity
        exact = subject.flow(STILL[0], aus, pose, pose)
        flow = turned.generate(facs.parse_request(request_text), PROFILE, n_frames=3, fps=60)[0].flow.uv
        seen = exact.visible & exact.face
        a, b = flow[:, seen].astype(float), exact.uv[:, seen].astype(float)
        assert (a * b).sum() > least * np.sqrt((a**2).sum() * (b**2).sum()), request_text


def test_one_nuisance_does_not_shift_another() -> None:
    a = head_path(10, 1.0, np.random.default_rng(0))
    b = head_path(10, 2.0, np.random.default_rng(0))
    np.testing.assert_allclose(b, 2 * a)
    assert (a[0] == 0).all()
    assert not blink_curve(50, 200, 0.0, np.random.default_rng(0)).any()
    assert blink_curve(50, 200, 1.0, np.random.default_rng(0)).max() > 0.03


def test_same_seed_same_clip(prior: MotionPrior) -> None:
    def make(seed: int) -> np.ndarray:
        nuisance = Nuisance(noise=1, head=1, blink=1)
        sample, _ = prior.generate(
            facs.parse_request("4=B"), PROFILES["casme2"], n_frames=9, fps=60, nuisance=nuisance, seed=seed
        )
        return sample.clip.frames

    assert (make(1) == make(1)).all()
    assert (make(1) != make(2)).any()


def test_bad_faces_are_named() -> None:
    with pytest.raises(MesynthError, match="a face is"):
        Face(np.zeros((8, 8), np.uint8), np.zeros((68, 2), np.float32))
    with pytest.raises(MesynthError, match="landmarks have shape"):
        Face(np.zeros((8, 8, 3), np.uint8), np.zeros((5, 2), np.float32))
    with pytest.raises(ValueError, match="px apart"):
        face_map(np.zeros((68, 2)), 8, 8, np.zeros((68, 2)))
    with pytest.raises(MesynthError, match="noise=99"):
        Nuisance(noise=99)


class _Whole(Generator):
    """A generator that knows of no margin."""

    def clip_of(self, request: ClipRequest) -> tuple[Sample, tuple[str, ...]]:
        return PriorGenerator().clip_of(replace(request, face=request.face.whole))


@pytest.mark.parametrize("request_text", ["4=0.5,6=0.4,12=0.6", "25=0.7,26=0.5,45=0.6"])
@pytest.mark.parametrize("maker", [PriorGenerator, _Whole])
def test_a_margin_is_looked_at_and_not_shown(
    prior: MotionPrior, request_text: str, maker: Callable[[], Generator]
) -> None:
    face, aus = prior.face, facs.parse_request(request_text)
    asked = {"n_frames": 7, "fps": 60, "nuisance": Nuisance(head=2), "seed": 3}
    whole, _ = prior.generate(aus, PROFILE, **asked)
    shown, _ = maker().generate(Face(face.image, face.landmarks, 10), aus, PROFILE, **asked)
    middle = np.s_[10:-10, 10:-10]
    assert shown.clip.frames.shape == (7, 108, 108, 3)
    assert np.abs(shown.clip.frames.astype(int) - whole.clip.frames[:, *middle]).max() <= 1
    np.testing.assert_array_equal(shown.flow.uv, whole.flow.uv[:, *middle])
    for name in ("new", "still"):
        np.testing.assert_array_equal(getattr(shown.flow, name), getattr(whole.flow, name)[middle])
    assert not (shown.flow.valid & ~whole.flow.valid[middle]).any()
    assert (shown.flow.valid == (whole.flow.valid[middle] & stays_inside(shown.flow.uv))).all()


@pytest.mark.parametrize("margin", [-1, 64, 70])
def test_a_margin_that_leaves_nothing_is_refused(prior: MotionPrior, margin: int) -> None:
    with pytest.raises(MesynthError, match=f"margin of {margin} pixels"):
        Face(prior.face.image, prior.face.landmarks, margin)
