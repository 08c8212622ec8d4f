"""Rendering: determinism, sides, identities, arguments."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from mesynth.core.errors import MesynthError
from mesynth.core.facs import AU_CODES
from mesynth.head import HeadModel, Subject, au_sheet, blink, contact_sheet, head_motion, identities_sheet
from mesynth.head.identity import sample_identity
from mesynth.head.model import rotation
from tests.head.people import frontal

K = len(AU_CODES)


def aus(frames: int = 1, **values: float | tuple[float, float]) -> np.ndarray:
    """aus(2, au12=.5) -> [2,K,2] with AU 12 at .5 on both sides; a pair is (L, R)."""
    out = np.zeros((frames, K, 2), np.float32)
    for name, value in values.items():
        out[:, AU_CODES.index(int(name[2:]))] = value
    return out


@pytest.fixture(scope="module")
def subject() -> Subject:
    return frontal(3)


def gray(image: np.ndarray) -> np.ndarray:
    return image.astype(np.float32).mean(-1)


def test_one_seed_gives_the_same_bytes(subject: Subject):
    au, pose = aus(3, au12=0.3), head_motion(3, np.random.default_rng(0))
    again = Subject(3, frontal=True)
    first = subject.render(au, pose, noise_seed=5)
    assert first.shape == (3, 128, 128, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again.render(au, pose, noise_seed=5))
    assert not np.array_equal(first, again.render(au, pose, noise_seed=6))


def test_threads_do_not_change_a_byte(subject: Subject):
    from mesynth.head.shade import set_threads

    au = np.concatenate([aus(4, au4=0.4), aus(3, au45=0.6)])
    before = set_threads(1)
    try:
        single = subject.render(au, noise_seed=1)
        alone = Subject(3, frontal=True).render(au, noise_seed=1)
        set_threads(3)
        several = subject.render(au, noise_seed=1)
    finally:
        set_threads(before)
    assert np.array_equal(single, several)
    assert np.array_equal(single, alone)


def test_rendering_survives_threads_and_a_fork(subject: Subject):
    """Data loaders fork after the parent has rendered; compiled parallel loops would abort the child."""
    au = aus(4, au12=0.3)
    want = subject.render(au)
    with ThreadPoolExecutor(4) as pool:
        assert all(np.array_equal(want, got) for got in pool.map(lambda _: subject.render(au), range(8)))
    with multiprocessing.get_context("fork").Pool(1) as workers:
        total = workers.apply_async(_rendered_total, (3,)).get(timeout=60)
    assert total == int(want.sum())


def _rendered_total(seed: int) -> int:
    return int(Subject(seed, frontal=True).render(aus(4, au12=0.3)).sum())


def test_a_frame_does_not_depend_on_its_clip(subject: Subject):
    au = np.concatenate([aus(), aus(au12=0.5), aus(au1=0.5)])
    clip = subject.render(au)
    for t in range(3):
        assert np.array_equal(clip[t], subject.render(au[t : t + 1])[0])


def test_nothing_moves_without_aus_pose_or_noise(subject: Subject):
    frames = subject.render(aus(4))
    assert (frames == frames[0]).all()


def test_noise_differs_from_frame_to_frame_and_is_small(subject: Subject):
    frames = subject.render(aus(3), noise_seed=0).astype(np.float32)
    clean = subject.render(aus(1)).astype(np.float32)
    residual = frames - clean
    assert 0.3 < residual.std() < 6
    assert abs(np.corrcoef(residual[0].ravel(), residual[1].ravel())[0, 1]) < 0.1


def test_left_is_image_right(subject: Subject):
    neutral = gray(subject.render(aus())[0])
    for code in (2, 12, 45):
        left = np.abs(gray(subject.render(aus(**{f"au{code}": (0.8, 0.0)}))[0]) - neutral)
        right = np.abs(gray(subject.render(aus(**{f"au{code}": (0.0, 0.8)}))[0]) - neutral)
        assert left[:, 70:].sum() > 4 * left[:, :58].sum(), code
        assert right[:, :58].sum() > 4 * right[:, 70:].sum(), code


def test_both_sides_of_a_smile_are_alike(subject: Subject):
    moved = subject.landmarks(aus(au12=0.5)[0]) - subject.landmarks()
    assert moved[48, 0] == pytest.approx(-moved[54, 0], rel=0.25)
    assert moved[48, 1] == pytest.approx(moved[54, 1], rel=0.25)
    assert moved[48, 1] < -2, "lip corners go up"


def test_midline_aus_take_the_mean_of_the_sides(subject: Subject):
    for code in (17, 25, 26):
        one = subject.landmarks(aus(**{f"au{code}": (0.8, 0.0)})[0])
        both = subject.landmarks(aus(**{f"au{code}": 0.4})[0])
        assert np.allclose(one, both, atol=1e-4), code


def test_closing_twice_is_closing_once(subject: Subject):
    once = subject.render(aus(au45=1.0))
    assert np.array_equal(once, subject.render(aus(au45=1.0, au43=0.7)))
    assert np.array_equal(once, subject.render(aus(au45=1.0, au5=0.5)))


@pytest.mark.parametrize("seed", range(12))
def test_a_closed_lid_covers_the_eyeball(seed: int):
    from mesynth.head.model import EYE
    from mesynth.head.raster import rasterize

    person = frontal(seed)
    rest = sample_identity(HeadModel.load(), seed).camera  # as the head is held that does not face the camera
    pose = np.array([rest.yaw, rest.pitch, rest.roll, 0, 0, 0])
    counts = []
    for au in (aus()[0], aus(au45=1.0)[0]):
        screen = person._screen(au, pose)
        triangle, _ = rasterize(screen, person._scene.faces, 256, 256)
        seen = person._scene.part[triangle[triangle >= 0]]
        counts.append(int((seen == EYE).sum()))
    assert counts[0] > 150, "open eyes show eyeballs"
    assert counts[1] <= 0.03 * counts[0], counts


@pytest.mark.parametrize("seed", range(12))
def test_lips_are_shut_at_rest(seed: int):
    from mesynth.head.model import MOUTH
    from mesynth.head.raster import rasterize

    person = frontal(seed)
    triangle, _ = rasterize(person._screen(aus()[0], np.zeros(6)), person._scene.faces, 256, 256)
    assert (person._scene.part[triangle[triangle >= 0]] >= MOUTH).sum() < 12


def test_the_mouth_opens_onto_something_dark(subject: Subject):
    shut, opened = gray(subject.render(aus())[0]), gray(subject.render(aus(au27=1.0))[0])
    rest, points = subject.landmarks(), subject.landmarks(aus(au27=1.0)[0])
    dropped = (points - rest)[60:68, 1]
    assert abs(dropped[1:4]).max() < 0.1 * dropped[5:8].min()  # the inner upper lip stays, all of the lower one goes
    x, y = points[[62, 66]].mean(0).round().astype(int)
    assert points[66, 1] - points[62, 1] > 8
    assert opened[y, x] < 0.5 * shut[y, x - 25 : x + 25].mean()


def test_identities_differ_in_shape_and_colour():
    people = [frontal(seed) for seed in range(8)]
    shapes = np.array([p.landmarks() for p in people])
    colours = np.array([p.render(aus())[0][40:110, 30:98].mean((0, 1)) for p in people])
    for i in range(8):
        for j in range(i):
            assert np.abs(shapes[i] - shapes[j]).mean() > 0.4, (i, j)
    assert colours.mean(1).std() > 12
    assert len({str(p.attributes) for p in people}) == 8


def test_framing():
    for seed in range(8):
        points = frontal(seed).landmarks()
        iod = np.linalg.norm(points[42:48].mean(0) - points[36:42].mean(0)) / 128
        assert 0.31 < iod < 0.42, seed
        assert 110 < points[8, 1] < 128, "the chin is in the picture"
        assert points[17:27, 1].min() > 12, "the forehead is in the picture"


def test_pose_moves_as_documented(subject: Subject):
    rest = subject.landmarks()
    iod = np.linalg.norm(rest[42:48].mean(0) - rest[36:42].mean(0))

    def moved(**offset: float) -> np.ndarray:
        names = ("yaw", "pitch", "roll", "tx", "ty", "scale")
        return subject.landmarks(pose=np.array([offset.get(n, 0.0) for n in names])) - rest

    assert np.allclose(moved(tx=0.1).mean(0), [0.1 * iod, 0], atol=0.3)
    assert np.allclose(moved(ty=0.1).mean(0), [0, 0.1 * iod], atol=0.3)
    assert moved(yaw=0.1)[30, 0] > 2
    assert moved(pitch=0.1)[30, 1] > 2
    assert moved(roll=0.1)[0, 1] > 1 > -1 > moved(roll=0.1)[16, 1]
    assert moved(scale=0.1)[8, 1] > 2


def test_rotation_is_orthonormal():
    r = rotation(np.array([0.3, -0.2, 0.1]))
    assert np.allclose(r @ r.T, np.eye(3))
    assert np.linalg.det(r) == pytest.approx(1)


def test_head_motion_is_small_smooth_and_starts_at_rest():
    seen = []
    for seed in range(30):
        pose = head_motion(100, np.random.default_rng(seed))
        assert pose.shape == (100, 6)
        assert (pose[0] == 0).all()
        assert np.abs(np.diff(pose, axis=0)).max() < 1e-3
        rest, last = (SUBJECT_FOR_MOTION.landmarks(pose=p) for p in (pose[0], pose[-1]))
        seen.append(np.linalg.norm(last - rest, axis=1).mean())
    assert 0.2 < np.median(seen) < 1.2
    assert max(seen) < 4
    assert (head_motion(50, np.random.default_rng(0), sd=0.0) == 0).all()


SUBJECT_FOR_MOTION = Subject(1)


def test_blinks_are_rare_whole_and_short():
    total, closed = 0, 0
    for seed in range(60):
        closure = blink(400, np.random.default_rng(seed), 200.0)
        assert closure.shape == (400,)
        assert closure.min() >= 0
        assert closure.max() <= 1
        runs = np.flatnonzero(np.diff(np.r_[0, closure > 0, 0].astype(int)))
        lengths = (runs[1::2] - runs[::2]) / 200.0
        assert (lengths < 0.8).all()
        total, closed = total + 1, closed + int(closure.max() > 0.5)
    assert 0.15 < closed / total < 0.8


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda: Subject(-1), "seed -1"),
        (lambda: Subject(0, size=4), "size 4"),
        (lambda: Subject(0, supersample=9), "supersample 9"),
        (lambda: SUBJECT_FOR_MOTION.render(np.zeros((K, 2))), "shape"),
        (lambda: SUBJECT_FOR_MOTION.render(np.zeros((0, K, 2))), "shape"),
        (lambda: SUBJECT_FOR_MOTION.render(np.full((1, K, 2), np.nan)), "NaN"),
        (lambda: SUBJECT_FOR_MOTION.render(np.full((1, K, 2), 1.5)), "1.5"),
        (lambda: SUBJECT_FOR_MOTION.render(np.full((1, K, 2), -0.5)), "-0.5"),
        (lambda: SUBJECT_FOR_MOTION.render(np.zeros((2, K, 2)), np.zeros((1, 6))), "pose"),
        (lambda: SUBJECT_FOR_MOTION.render(np.zeros((1, K, 2)), np.full((1, 6), np.inf)), "pose"),
        (lambda: SUBJECT_FOR_MOTION.landmarks(pose=np.full(6, 9.0)), "too large"),
        (lambda: head_motion(0, np.random.default_rng(0)), "n_frames"),
        (lambda: blink(5, np.random.default_rng(0), -1.0), "fps"),
        (lambda: contact_sheet([], 3), "0 images"),
    ],
)
def test_bad_arguments_name_the_value(change, match):
    with pytest.raises(ValueError, match=match):
        change()


def test_sheets():
    sheet = identities_sheet(range(3), size=32, columns=2)
    assert sheet.dtype == np.uint8
    assert sheet.shape == (2 * 35 + 3, 2 * 35 + 3, 3)
    assert au_sheet(0, size=32, columns=13).shape[0] == 4 * 35 + 3
    with pytest.raises(ValueError, match="sizes"):
        contact_sheet([np.zeros((4, 4, 3), np.uint8), np.zeros((5, 4, 3), np.uint8)], 2)


# ---------------------------------------------------------------- before the face


def _brows_and_lids() -> tuple[np.ndarray, np.ndarray]:
    return aus()[0], aus(au4=0.9, au6=0.8)[0]


@pytest.fixture(scope="module", params=["glasses", "brow_hair"])
def dressed(request: pytest.FixtureRequest) -> tuple[str, Subject]:
    return request.param, Subject(3, frontal=True, **{request.param: True})


def test_what_is_worn_stands_still_before_skin_that_moves(subject: Subject, dressed: tuple[str, Subject]) -> None:
    """Where frames or locks are seen nothing moves, though the skin behind them does; flow elsewhere is the same, of
    skin that is seen through lenses as well."""
    name, wearer = dressed
    rest, moved = _brows_and_lids()
    bare, worn = subject.flow(rest, moved), wearer.flow(rest, moved)
    plain, shown = (gray(s.render(rest[None])[0]) for s in (subject, wearer))
    still = (np.hypot(*worn.uv) < 1e-3) & (np.hypot(*bare.uv) > 0.3)
    assert still.sum() > {"glasses": 80, "brow_hair": 60}[name]
    assert (np.abs(shown - plain)[still] > 3).mean() > 0.9
    assert not worn.face[still].any()
    assert not (worn.face & ~bare.face).any()
    same = (worn.uv == bare.uv).all(0) & (np.hypot(*bare.uv) > 0.3)
    assert same.sum() > 4 * still.sum()
    if name == "glasses":  # lenses tint what moves behind them
        assert (same & (np.abs(shown - plain) > 2)).sum() > 300


def test_skin_that_goes_behind_what_is_worn_is_hidden(subject: Subject, dressed: tuple[str, Subject]) -> None:
    _, wearer = dressed
    bare, worn = (s.flow(*_brows_and_lids()) for s in (subject, wearer))
    hidden = bare.visible & ~worn.visible & (worn.uv == bare.uv).all(0)
    assert hidden.sum() > 5
    rest = _brows_and_lids()[0]
    assert wearer.flow(rest, rest).visible.sum() >= subject.flow(rest, rest).visible.sum()


def test_what_is_worn_moves_with_the_head(dressed: tuple[str, Subject]) -> None:
    _, wearer = dressed
    rest = aus()[0]
    pose = np.zeros(6)
    pose[3] = 0.1  # a tenth of the eye distance to image right
    uv = wearer.flow(rest, rest, None, pose).uv
    on = np.hypot(*uv) > 0
    assert on.mean() > 0.4
    assert uv[0][on].min() > 3.0


def test_everyone_wears_their_own_and_each_by_itself() -> None:
    pictures = {}
    for seed in (3, 4):
        for kind in ({}, {"glasses": True}, {"brow_hair": True}, {"glasses": True, "brow_hair": True}):
            made = Subject(seed, size=96, frontal=True, **kind)
            pictures[seed, tuple(kind)] = gray(made.render(aus())[0])
            assert set(kind) == {k for k, v in made.attributes.items() if v == "yes"}
    masks = {key: np.abs(image - pictures[key[0], ()]) > 8 for key, image in pictures.items()}
    for kind in (("glasses",), ("brow_hair",)):
        a, b = masks[3, kind], masks[4, kind]
        assert (a & b).sum() < 0.75 * (a | b).sum()
    both = masks[3, ("glasses", "brow_hair")]
    assert (both & (masks[3, ("glasses",)] | masks[3, ("brow_hair",)])).sum() > 0.97 * both.sum()


def test_a_near_camera_enlarges_the_nose_and_not_the_face() -> None:
    def shown(distance: float | None) -> tuple[float, float]:
        lm = Subject(5, frontal=True, distance=distance).landmarks()
        eyes = float(np.hypot(*(lm[42:48].mean(0) - lm[36:42].mean(0))))
        return eyes, float(np.hypot(*(lm[35] - lm[31]))) / eyes

    near, usual, far = shown(5.5), shown(None), shown(60.0)
    assert near[1] > usual[1] > far[1]
    assert near[1] > 1.03 * far[1]
    assert abs(near[0] / far[0] - 1) < 0.06


@pytest.mark.parametrize("distance", [4.9, 101.0, float("nan")])
def test_a_camera_in_the_face_is_refused(distance: float) -> None:
    with pytest.raises(MesynthError, match=rf"distance {distance:g} is outside 5..100 eye distances"):
        Subject(0, distance=distance)
