"""Lids close, mouths open and narrow, what is still stays; nothing asked for changes nothing; masks say what is
true."""

import pickle

import cv2
import numpy as np
import pytest

from mesynth.benchmark.protocol import Person
from mesynth.core import facs
from mesynth.core.profiles import Profile
from mesynth.core.types import AUVector
from mesynth.head import Subject
from mesynth.motion import layers as forming
from mesynth.motion.layers import LAYERED, Layers, Slit, Step, _summed, drawn_amounts, skin_aus, with_layered
from mesynth.motion.nuisance import Nuisance
from mesynth.motion.prior import Face, MotionPrior
from mesynth.motion.warp import warp_backward

SIZE = 128
STILL = np.zeros((1, len(facs.AU_CODES), 2), np.float32)


def rendered(seed: int, request: str = "") -> Face:
    """A rendered person at rest, or showing AUs: a photo of an open mouth, of half closed eyes."""
    subject = Subject(seed, SIZE, frontal=True)
    aus = facs.parse_request(request).intensity if request else STILL[0]
    return Face(subject.render(aus[None])[0], subject.landmarks(aus))


@pytest.fixture(scope="module")
def closed() -> Face:
    return rendered(5)


@pytest.fixture(scope="module")
def opened() -> Face:
    return rendered(3, "25=1,26=0.5")


def step(face: Face, request: str, skin: np.ndarray | None = None) -> Step:
    """Lids and lips alone, or over ``skin``."""
    none = np.zeros((*face.image.shape[:2], 2), np.float32)
    return Step(none if skin is None else skin, facs.parse_request(request).intensity if request else STILL[0])


def shown(face: Face, request: str) -> np.ndarray:
    return np.clip(face.layers.frame(step(face, request)) + 0.5, 0, 255).astype(np.uint8)


def covered(face: Face, request: str, side: int) -> float:
    """Share of what is seen of an eyeball that ``request`` hides; side 0 = the subject's left."""
    eye = face.layers.eyes[side]
    y, x = np.mgrid[:SIZE, :SIZE]
    s, v = eye.slit.of(np.stack([x, y], -1).astype(float))
    grid = np.linspace(-1.5, 1.5, len(eye.up))
    ball = (np.abs(s) < 0.9) & (v > np.interp(s, grid, eye.up)) & (v < np.interp(s, grid, eye.low))
    assert ball.sum() > 30
    return float(face.layers.truth(step(face, request)).hidden[ball].mean())


def hole(face: Face, request: str) -> float:
    """Pixels that show the inside of the mouth."""
    share = np.zeros((4, SIZE, SIZE), np.float32)
    face.layers.frame(step(face, request), share)
    (x0, y0), (x1, y1) = face.landmarks[48:68].min(0).astype(int) - 8, face.landmarks[48:68].max(0).astype(int) + 30
    return float(share[3, max(y0, 0) : y1, max(x0, 0) : x1].sum())


@pytest.mark.parametrize("request_text", ["", "45=0.7", "25=0.8,26=0.5", "24=0.9,5=0.5", "4=0.4,6=0.5,12=0.6"])
@pytest.mark.parametrize("turned", [False, True])
def test_the_inner_part_is_that_of_the_whole(opened: Face, request_text: str, turned: bool) -> None:
    """Nothing that a frame shows depends on whether its margin is made: slits, folds and the head included."""
    aus = facs.parse_request(request_text).intensity if request_text else STILL[0]
    prior = MotionPrior(opened)
    cells = [(int(k), int(s)) for k, s in np.argwhere(skin_aus(AUVector(aus, np.ones_like(aus, bool))).intensity > 0)]
    skin = np.einsum("a,ahwc->hwc", np.array([aus[c] for c in cells], np.float32), prior.fields(cells))
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    head = np.stack([1.3 + 0.01 * (y - 64), -0.8 + 0.01 * (x - 64)], -1).astype(np.float32) if turned else None
    light = np.random.default_rng(0).uniform(-5, 5, (SIZE, SIZE, 3)).astype(np.float32)
    step = Step(np.ascontiguousarray(skin, np.float32), aus, head, light)
    whole = opened.layers.frame(step)
    for inset in (1, 10, 31):
        middle = np.s_[inset:-inset, inset:-inset]
        np.testing.assert_allclose(opened.layers.frame(step, inset=inset), whole[middle], atol=0.05)


@pytest.mark.parametrize("request_text", ["", "25=0.6,26=0.3", "25=1,26=1", "45=0.5", "5=1"])
@pytest.mark.parametrize("seed", [2, 8])
def test_nothing_asked_for_changes_nothing(seed: int, request_text: str) -> None:
    """Whatever the photo shows, to the bit; a motion that is hardly there hardly shows."""
    face = rendered(seed, request_text)
    none = np.zeros((SIZE, SIZE, 2), np.float32)
    assert np.array_equal(face.layers.frame(Step(none, STILL[0])), face.image)
    assert np.array_equal(face.layers.frame(Step(none, STILL[0], head=none)), face.image)
    truth = face.layers.truth(Step(none, STILL[0]))
    assert not truth.flow.any()
    assert not truth.hidden.any()
    assert not truth.new.any()
    little = face.layers.frame(step(face, "45=0.0001,25=0.0001,26=0.0001,6=0.0001,24=0.0001"))
    assert np.abs(little - face.image).max() < 4
    assert np.abs(little - face.image).mean() < 0.02


@pytest.mark.parametrize("code", [43, 45])
@pytest.mark.parametrize(
    ("seed", "onset"), [(2, ""), (5, ""), (8, ""), (11, ""), (12, ""), (3, "45=0.4"), (5, "5=0.8")]
)
def test_lids_close_all_the_way_from_where_they_are(seed: int, onset: str, code: int) -> None:
    face = rendered(seed, onset)
    for side in (0, 1):
        shares = [covered(face, f"{code}={a}", side) for a in (0.25, 0.5, 0.75, 1)]
        assert shares == sorted(shares)
        assert shares[0] < 0.75
        assert shares[-1] > 0.97


def test_one_eye_closes_alone(closed: Face) -> None:
    """The subject's left is the image's right."""
    assert covered(closed, "L45=1", 0) > 0.97
    assert covered(closed, "L45=1", 1) == 0
    changed = np.abs(shown(closed, "L45=1").astype(int) - closed.image).sum(-1) > 0
    assert changed[:, SIZE // 2 :].sum() > 100
    assert not changed[:, : SIZE // 2 - 4].any()


def test_a_lid_that_is_raised_shows_more_of_the_eyeball(closed: Face) -> None:
    truth = closed.layers.truth(step(closed, "5=1"))
    assert truth.new.sum() > 20
    assert truth.flow[..., 1].min() < -1


@pytest.mark.parametrize("seed", [5, 11, 21])
def test_an_eye_that_opens_is_an_eye(seed: int) -> None:
    """White above a whole iris, lights in it and the lower lid as they were: nearer to the truth than the onset is."""
    subject = Subject(seed, 192, frontal=True)
    face = Face(subject.render(STILL)[0], subject.landmarks())
    true = subject.render(facs.parse_request("5=1").intensity[None])[0].astype(float)
    left = np.abs(face.layers.frame(step(face, "5=1")) - true).sum()
    assert left < 0.8 * np.abs(face.image - true).sum()


def test_a_lid_that_unfolds_has_fewer_stripes(closed: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is dark over the eye is not drawn out over it; a lid without any is left as it is, to the bit."""
    eye, image = closed.layers.eyes[0], closed.image.copy()
    y, x = np.mgrid[:SIZE, :SIZE]
    s, v = eye.slit.of(np.stack([x, y], -1).astype(float))
    above = np.interp(s, np.linspace(-1.5, 1.5, len(eye.up)), eye.up) - v
    dark = (np.abs(s) < 1) & (above > 2) & (above < 6) & (x % 12 < 6)
    image[dark] = image[dark] // 3
    lid = (np.abs(s) < 0.7) & (above < 0) & (above > -4)  # where the eye was

    def closes() -> tuple[np.ndarray, float]:
        plain, striped = (Face(picture, closed.landmarks) for picture in (closed.image, image))
        across = np.abs(np.diff(shown(striped, "45=1").astype(float).mean(-1), axis=1))
        return shown(plain, "45=1"), float(across[lid[:, 1:]].mean())

    plain, few = closes()
    monkeypatch.setattr(forming, "_STRIPES", 9.0)
    same, many = closes()
    assert few < 0.8 * many
    assert np.array_equal(plain, same)


def test_each_lid_has_the_motion_of_its_own_side(closed: Face) -> None:
    """A field that rises smoothly towards the cheek drags the upper lid no further than the skin above it goes, and
    carries the lower lid to its edge."""
    layers, none = closed.layers, np.zeros((SIZE, SIZE, 2), np.float32)
    eye = layers.eyes[0]
    s, v = eye.slit.of(np.stack(np.mgrid[:SIZE, :SIZE][::-1], -1).astype(float))
    grid = np.linspace(-1.5, 1.5, len(eye.up))
    up, low = (v - np.interp(s, grid, edge) for edge in (eye.up, eye.low))
    skin = none.copy()
    skin[..., 1] = -3 / (1 + np.exp(-(low - 1) / 2))
    flow = layers.truth(Step(skin, STILL[0])).flow[..., 1]
    middle = np.abs(s) < 0.5
    upper, lower = middle & (up < 0) & (up > -2), middle & (low > 0) & (low < 2)
    assert upper.sum() > 10
    assert lower.sum() > 10
    above = skin[..., 1][middle & (np.abs(up + 0.1 * layers.iod) < 1)].min()
    assert flow[upper].min() > above - 0.02 > skin[..., 1][upper].min() + 0.05
    below = skin[..., 1][middle & (np.abs(low - 0.03 * layers.iod) < 0.5)].mean()
    assert flow[lower].mean() < 0.9 * below < 0
    assert np.array_equal(layers.frame(Step(none, STILL[0])), closed.image)


@pytest.mark.parametrize("seed", [2, 3, 5, 8, 12, 21])
def test_closed_mouths_open_and_more_so(seed: int) -> None:
    face = rendered(seed)
    holes = [
        hole(face, r) for r in ("25=0.25", "25=0.5", "25=1", "25=1,26=0.25", "25=1,26=0.5", "25=1,26=1", "25=1,27=1")
    ]
    assert hole(face, "45=1") == 0
    assert holes == sorted(holes)
    assert holes[0] > 2
    assert holes[2] > 25
    assert holes[-1] > 4 * holes[2]
    truth = face.layers.truth(step(face, "25=1,26=1"))
    assert truth.new.sum() > 100
    assert truth.flow[..., 1].max() > 5


@pytest.mark.parametrize("onset", ["25=0.5", "25=1,26=0.3", "25=1,26=0.6", "25=1,27=0.8"])
@pytest.mark.parametrize("code", [23, 24])
def test_open_mouths_narrow(onset: str, code: int) -> None:
    face = rendered(5, onset)
    before = hole(face, "25=0.01")
    holes = [hole(face, f"{code}={a}") for a in (0.25, 0.5, 1)]
    assert [before, *holes] == sorted([before, *holes], reverse=True)
    assert holes[-1] < 0.9 * before
    if face.layers.gap < 0.2 and code == 24:
        assert holes[-1] < 0.15 * before


@pytest.mark.parametrize("yaw", [-38, 38])
@pytest.mark.parametrize("aside", [0, 0.6, -0.6])
def test_a_turned_face_is_skin_from_brows_to_lips(yaw: float, aside: float) -> None:
    """Its nose and the far half of its mouth may stick out of the outline that a detector gives its jaw."""
    face = Person(5, SIZE, yaw=yaw).face
    points = face.landmarks.copy()
    points[:17, 0] += aside * np.linalg.norm(points[36:42].mean(0) - points[42:48].mean(0))
    middle = np.zeros(face.image.shape[:2], np.uint8)
    cv2.fillPoly(middle, [cv2.convexHull(points[17:].round().astype(np.int32))], (1,))
    assert Face(face.image, points).layers.skin[middle > 0].mean() > 0.85


@pytest.mark.parametrize("onset", ["", "25=1,26=0.5"])
@pytest.mark.parametrize("tint", [(1.0, 1.0, 1.0), (1.0, 0.84, 0.66)], ids=["grey", "sepia"])
def test_a_mouth_has_no_colour_that_its_picture_has_not(onset: str, tint: tuple[float, float, float]) -> None:
    """Behind lips that part there are tongue and teeth: of one colour for each brightness in a grey or toned print."""
    face = rendered(5, onset)
    grey = cv2.cvtColor(face.image, cv2.COLOR_RGB2GRAY)[..., None].astype(np.float64)
    toned = Face((0.9 * grey * tint + 0.5).astype(np.uint8), face.landmarks)
    frame = shown(toned, "26=1").astype(np.float64)
    assert hole(toned, "26=1") > 60
    light = frame.mean(-1, keepdims=True) / np.mean(tint)
    assert np.abs(frame - light * tint).max() < 6
    assert np.ptp(shown(face, "26=1").astype(int), -1).max() > 60  # a coloured one keeps its red


def test_aus_are_relative_to_the_mouth_of_the_photo(opened: Face) -> None:
    """An open mouth shows its own inside where it showed it before: teeth and tongue do not move with the lips."""
    assert opened.layers.open
    frame, truth = shown(opened, "25=1"), opened.layers.truth(step(opened, "25=1"))
    x, y = opened.landmarks[60:68].mean(0).round().astype(int)
    assert not truth.flow[y, x].any()
    assert np.abs(frame[y, x].astype(int) - opened.image[y, x]).max() < 12


def painted_mouth(face: Face, shades: tuple[tuple[int, int, int], ...]) -> Face:
    """``face`` with its open mouth painted in bands of equal height, from the upper lip down."""
    lip = face.layers.lip
    y, x = np.mgrid[:SIZE, :SIZE]
    s, v = lip.of(np.stack([x, y], -1).astype(float))
    up, low = (np.interp(s, np.linspace(-1.5, 1.5, len(edge)), edge) for edge in face.layers._lips[:2])
    t = (v - up) / np.maximum(low - up, 1e-6)
    image = face.image.copy()
    inside = (np.abs(s) < 0.95) & (t > 0) & (t < 1)
    image[inside] = np.array(shades, np.uint8)[(t[inside] * len(shades)).astype(int)]
    return Face(image, face.landmarks)


WHITE, SHADED, DARK = (230, 225, 210), (120, 115, 105), (30, 10, 10)


@pytest.mark.parametrize("upper", [WHITE, SHADED])
def test_lower_teeth_go_with_the_jaw_and_upper_ones_do_not(opened: Face, upper: tuple[int, int, int]) -> None:
    face = painted_mouth(opened, (upper, DARK, WHITE))
    step_ = step(face, "26=0.6")
    truth, lip = face.layers.truth(step_), face.layers.lip
    drop = face.layers._moved_skin(step_).mouth[0] * face.layers.iod
    assert drop > 3
    gap = face.layers.gap * face.layers.iod
    for share, way in ((0.15, 0.0), (0.85, drop)):
        x, y = lip.to(np.zeros(1), face.layers._lips[0][96] + share * gap)[0].round().astype(int)
        assert abs(truth.flow[y, x] @ lip.n - way) < 0.5
        assert not truth.new[y, x]
        arrived = face.layers.frame(step_)[(y + truth.flow[y, x, 1]).round().astype(int), x]
        assert np.abs(arrived - face.image[y, x]).max() < 25


def test_teeth_from_lip_to_lip_are_upper_ones(opened: Face) -> None:
    face = painted_mouth(opened, (WHITE,))
    truth, lip = face.layers.truth(step(face, "26=0.6")), face.layers.lip
    x, y = lip.mid.round().astype(int)
    assert not truth.flow[y - 1 : y + 2, x - 2 : x + 3].any()


def test_lips_open_in_a_curve_whatever_the_jaw_that_is_drawn(closed: Face) -> None:
    """A network's jaw that is pointed at the lips' middle moves the chin, not the lip's edge."""
    layers, request = closed.layers, "26=1"
    y, x = np.mgrid[:SIZE, :SIZE]
    s, v = layers.lip.of(np.stack([x, y], -1).astype(float))
    pointed = (0.35 * layers.iod * np.exp(-((s / 0.25) ** 2)) * (v > -2)).astype(np.float32)
    drawn = Step(step(closed, request).skin, step(closed, request).aus, jaw=np.stack([0 * pointed, pointed], -1))
    own, other = layers._moved_skin(step(closed, request)), layers._moved_skin(drawn)
    lower = layers._most[1]
    np.testing.assert_allclose(lower.arrived(other.below), lower.arrived(own.below), atol=0.03 * layers.iod)
    chin = layers.points[8] - 0.12 * layers.iod * layers.n
    at = tuple(chin[::-1].round().astype(int))
    assert abs(other.below[at][1] - pointed[at]) < 0.04 * layers.iod
    # What is hidden and what is new is said of the frame that is shown.
    share = np.zeros((4, SIZE, SIZE), np.float32)
    layers.frame(drawn, share)
    mouth = np.s_[int(closed.landmarks[33, 1]) :]
    assert (share[3][mouth] > 0.5).sum() > 100
    assert np.array_equal(layers.truth(drawn).new[mouth], share[3][mouth] > 0.5)


def test_a_brow_does_not_touch_an_open_mouth(opened: Face) -> None:
    sample, _ = MotionPrior(opened).generate(facs.parse_request("1=1,2=1"), Profile(), n_frames=3, fps=50)
    (x0, y0), (x1, y1) = opened.landmarks[48:68].min(0).astype(int), opened.landmarks[48:68].max(0).astype(int)
    box = np.s_[y0:y1, x0:x1]
    assert np.abs(sample.clip.frames[1][box].astype(int) - opened.image[box]).max() <= 2
    assert np.abs(sample.clip.frames[1].astype(int) - opened.image).max() > 20


def test_what_stays_still_stays_still_under_any_motion(closed: Face) -> None:
    still = closed.layers.still
    assert 0.1 < still.mean() < 0.7
    rng = np.random.default_rng(0)
    wild = rng.normal(0, 2, (SIZE, SIZE, 2)).astype(np.float32)
    everything = AUVector(np.ones((len(facs.AU_CODES), 2), np.float32)).intensity
    truth = closed.layers.truth(Step(wild, everything))
    assert not truth.flow[still].any()
    for code in facs.AU_CODES:
        sample, _ = MotionPrior(closed).generate(facs.parse_request(f"{code}=0.6"), Profile(), n_frames=3, fps=50)
        assert sample.flow.still is not None
        assert np.array_equal(sample.clip.frames[1][still], closed.image[still]), code
        assert not sample.flow.uv[:, still].any(), code


@pytest.mark.parametrize("seed", [2, 5, 11])
def test_still_is_background_and_hair_not_the_face(seed: int) -> None:
    """Against the head's exact mask: what is inside the face's outline moves."""
    subject = Subject(seed, SIZE, frontal=True)
    face = Face(subject.render(STILL)[0], subject.landmarks())
    exact = subject.flow(STILL[0], facs.parse_request("12=1").intensity).face
    moves = ~face.layers.still
    inner = np.zeros((SIZE, SIZE), np.uint8)
    cv2.fillConvexPoly(inner, cv2.convexHull(face.landmarks[17:68].round().astype(np.int32)), (1,))
    assert moves[inner > 0].mean() > 0.98
    assert moves[~exact].mean() < 0.25


@pytest.mark.parametrize("request_text", ["45=1", "25=1,26=0.6", "24=1", "5=1", "6=1,12=1", "1=1,4=0.5"])
def test_masks_mean_what_they_say(opened: Face, request_text: str) -> None:
    """Seen pixels are found where their flow goes, hidden ones are not; what is new came from nowhere."""
    prior = MotionPrior(opened)
    sample, _ = prior.generate(facs.parse_request(request_text), Profile(), n_frames=3, fps=50)
    flow, valid = np.ascontiguousarray(sample.flow.uv.transpose(1, 2, 0)), sample.flow.valid
    assert valid is not None
    assert sample.flow.new is not None
    wrong = np.abs(warp_backward(sample.clip.apex_frame, flow) - opened.image).mean(-1)
    assert wrong[valid].mean() < 1.2
    if (~valid).sum() > 40:
        assert wrong[~valid].mean() > 4 * wrong[valid].mean()
    reached = np.zeros((SIZE, SIZE), bool)
    y, x = np.mgrid[:SIZE, :SIZE]
    at = (np.stack([x, y], -1) + flow)[valid & (np.abs(flow).max(-1) > 0)].round().astype(int)
    inside = (at >= 0).all(1) & (at < SIZE).all(1)
    reached[at[inside, 1], at[inside, 0]] = True
    assert (reached & sample.flow.new).sum() <= 0.25 * sample.flow.new.sum() + 2


def test_shares_add_up_and_closed_lips_show_no_line(closed: Face) -> None:
    rng = np.random.default_rng(1)
    smooth = np.stack([np.full((SIZE, SIZE), a, np.float32) for a in rng.normal(0, 1.5, 2)], -1)
    share = np.zeros((4, SIZE, SIZE), np.float32)
    share[0] = 1
    closed.layers.frame(step(closed, "", smooth), share)
    np.testing.assert_allclose(share.sum(0), 1, atol=1e-5)
    mouth = closed.landmarks[48:68]
    box = np.s_[int(mouth[:, 1].min()) : int(mouth[:, 1].max()), int(mouth[:, 0].min()) : int(mouth[:, 0].max())]
    assert share[3][box].max() == 0


def test_head_motion_takes_eyes_and_mouth_along(opened: Face) -> None:
    """A whole pixel to the right: the same frame, a pixel to the right."""
    head = np.zeros((SIZE, SIZE, 2), np.float32)
    head[..., 0] = 1
    for request in ("45=0.5", "25=1,26=0.3", "24=1"):
        plain = opened.layers.frame(step(opened, request))
        moved = opened.layers.frame(Step(step(opened, request).skin, facs.parse_request(request).intensity, head))
        np.testing.assert_allclose(moved[20:110, 20:110], plain[20:110, 19:109], atol=0.6)
        a, b = (opened.layers.truth(Step(step(opened, request).skin, facs.parse_request(request).intensity, h))
                for h in (None, head))  # fmt: skip
        np.testing.assert_allclose((b.flow - a.flow)[20:110, 20:110], head[20:110, 20:110], atol=1e-3)


def test_same_bytes_in_any_order_and_after_pickling(closed: Face) -> None:
    first = shown(closed, "45=0.7,25=0.5")
    shown(closed, "5=1,27=1")
    assert np.array_equal(first, shown(closed, "45=0.7,25=0.5"))
    other = Face(closed.image.copy(), closed.landmarks.copy())
    assert np.array_equal(first, shown(other, "45=0.7,25=0.5"))
    assert np.array_equal(first, shown(pickle.loads(pickle.dumps(other)), "45=0.7,25=0.5"))


def test_amounts_are_a_person_s(closed: Face) -> None:
    drawn = np.stack([drawn_amounts(1.0, np.random.default_rng(seed)) for seed in range(400)])
    row = facs.AU_INDEX
    assert abs(np.log(drawn[:, row[26]]).std() - 0.27) < 0.03
    assert np.array_equal(drawn[:, row[26]], drawn[:, row[27]])
    assert (drawn[:, [row[43], row[45], row[12]]] == 1).all()
    one, other = (
        MotionPrior(closed, spread=1.0).generate(
            facs.parse_request("45=1,25=0.5"), Profile(), n_frames=3, fps=50, seed=k
        )
        for k in (1, 2)
    )
    lids = closed.layers.eyes[0].box
    box = np.s_[1, lids[0] : lids[1], lids[2] : lids[3]]
    assert np.array_equal(one[0].clip.frames[box], other[0].clip.frames[box])  # a closed eye is closed
    assert (one[0].clip.frames[1] != other[0].clip.frames[1]).any()


def test_a_generator_is_not_asked_for_what_layers_draw() -> None:
    asked = facs.parse_request("L12=0.5,25=0.4,45=1,7=0.2")
    skin = skin_aus(asked)
    assert [int(c) for c in np.array(facs.AU_CODES)[skin.intensity.any(1)]] == [7, 12]
    assert skin_aus(skin) is skin
    assert with_layered(skin, skin) is skin
    assert np.array_equal(with_layered(skin, asked).intensity, asked.intensity)
    assert set(LAYERED) < set(facs.AU_CODES)


def test_a_blink_closes_the_lids_as_far_as_it_goes(closed: Face) -> None:
    prior = MotionPrior(closed)
    nothing = AUVector(STILL[0].copy())
    steps = list(prior.steps(nothing, Profile(), 40, 100, Nuisance(blink=1), 3))
    deepest = max(steps, key=lambda s: float(s.aus.max()))
    assert 0.05 < deepest.aus[facs.AU_INDEX[45]].max() <= 0.5
    assert not deepest.skin.any()
    assert not np.array_equal(np.clip(closed.layers.frame(deepest) + 0.5, 0, 255).astype(np.uint8), closed.image)


def _strange() -> dict[str, Face]:
    plain = rendered(5)
    rng = np.random.default_rng(0)
    points = plain.landmarks
    noise = rng.integers(0, 256, plain.image.shape, dtype=np.uint8)
    shut = points.copy()
    for up, low in ((37, 41), (38, 40), (43, 47), (44, 46)):
        shut[up] = shut[low]
    profile = points.copy()
    profile[:, 0] = 64 + 0.35 * (points[:, 0] - 64)
    tilted = (points - 64) @ np.array([[0.6, 0.8], [-0.8, 0.6]], np.float32) + 64
    return {
        "noise": Face(noise, points),
        "one colour": Face(np.full_like(noise, 120), points),
        "black": Face(np.zeros_like(noise), points),
        "small": Face(plain.image[::5, ::5].copy(), points / 5),
        "cut off": Face(plain.image, points + np.float32([60, 0])),
        "outside": Face(plain.image, points - np.float32([0, 90])),
        "upside down": Face(plain.image[::-1, ::-1].copy(), 127 - points),
        "tilted": Face(plain.image, tilted.astype(np.float32)),
        "narrow": Face(plain.image, profile),
        "eyes shut": Face(plain.image, shut),
        "wide picture": Face(np.concatenate([plain.image, noise], 1), points),
        "mirrored points": Face(plain.image, points * np.float32([-1, 1]) + np.float32([127, 0])),
    }


STRANGE = _strange()


@pytest.mark.parametrize("name", sorted(STRANGE))
def test_strange_pictures_are_moved_or_left_alone(name: str) -> None:
    """No error and no NaN, and nothing where nothing is asked for."""
    face = STRANGE[name]
    layers = Layers(face.image, face.landmarks, face.place.uv)
    none = np.zeros((*face.image.shape[:2], 2), np.float32)
    assert np.array_equal(layers.frame(Step(none, STILL[0])), face.image)
    for request in ("45=1", "5=1", "25=1,27=1", "24=1", "6=1,12=1"):
        one = Step(none, facs.parse_request(request).intensity)
        frame, truth = layers.frame(one), layers.truth(one)
        assert np.isfinite(frame).all()
        assert np.isfinite(truth.flow).all()
        assert frame.min() >= 0
        assert frame.max() <= 255.5


@pytest.mark.parametrize("power", [0.75, 1.0])
def test_contours_pass_through_their_points_and_end_at_the_corners(power: float) -> None:
    slit = Slit(np.array([10.0, 20.0]), np.array([50.0, 28.0]))
    points = slit.to(np.array([-0.5, 0.1, 0.6]), np.array([-3.0, -5.0, -2.0]))
    contour = slit.contour(points, power)
    grid = np.linspace(-1.5, 1.5, len(contour))
    s, v = slit.of(points)
    np.testing.assert_allclose(np.interp(s, grid, contour), v, atol=0.05)
    assert np.abs(contour[np.abs(grid) > 1]).max() == 0


@pytest.mark.parametrize("n", [0, 1, 5])
@pytest.mark.parametrize("shape", [(3, 4), (33, 64), (149, 150)])
def test_fields_are_added_up(n: int, shape: tuple[int, int], rng: np.random.Generator) -> None:
    """Of any number and size, in parts; of other numbers than float32 as well."""
    weights, fields = rng.standard_normal(n), rng.standard_normal((n, *shape, 2))
    exact = np.einsum("a,ahwc->hwc", weights, fields)
    assert np.allclose(_summed(weights.astype(np.float32), fields.astype(np.float32)), exact, atol=1e-5)
    assert np.array_equal(_summed(weights, fields), exact)
    assert _summed(weights.astype(np.float32), fields.astype(np.float32)).dtype == np.float32
