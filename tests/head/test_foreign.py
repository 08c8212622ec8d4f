"""Heads of others: what a file means, what is refused and how, and that pictures and motion are right."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesynth.core.errors import MesynthError
from mesynth.core.facs import AU_CODES, AU_INDEX
from mesynth.head.foreign import ForeignHead, shape_name
from mesynth.head.model import AU_UNITS, EYE, MOUTH, TEETH, HeadModel
from mesynth.store.shards import npy_bytes
from tests.head.heads import arrays, write

Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> ForeignHead:
    return ForeignHead.read(write(tmp_path_factory.mktemp("heads") / "lab.npz", arrays()))


def asked(code: int, level: float = 0.5) -> np.ndarray:
    out = np.zeros((len(AU_CODES), 2), np.float32)
    out[AU_INDEX[code]] = level
    return out


def test_it_has_the_aus_its_shapes_show_and_names_what_the_others_lack(head: ForeignHead) -> None:
    assert head.available == (4, 12, 26, 27, 43, 45)
    assert set(head.missing) == set(AU_CODES) - set(head.available)
    assert head.missing[24] == ("mouthPress_L", "mouthPress_R", "mouthRollLower", "mouthRollUpper")
    assert head.people == 0
    assert head.name == "lab"


def test_its_shapes_are_the_packaged_heads_in_the_canonical_frame(head: ForeignHead) -> None:
    own = HeadModel.load()
    for code in head.available:
        np.testing.assert_allclose(head.model.au_basis[AU_INDEX[code]], own.au_basis[AU_INDEX[code]], atol=2e-6)
    np.testing.assert_allclose(head.model.vertices, own.vertices, atol=1e-5)


def test_the_flow_is_the_projected_displacement_of_the_landmarks(head: ForeignHead) -> None:
    subject = head.subject(1, 128, yaw=10)
    rest, moved = subject.landmarks(), subject.landmarks(asked(12))
    flow = subject.flow(np.zeros_like(asked(12)), asked(12))
    for i in (48, 54, 51, 30, 8):
        x, y = np.round(rest[i]).astype(int)
        np.testing.assert_allclose(flow.uv[:, y, x], (moved - rest)[i], atol=0.35)
    assert np.linalg.norm((moved - rest)[48]) > 2


def test_half_a_request_is_half_the_motion_and_a_side_is_that_side(head: ForeignHead) -> None:
    subject = head.subject(0, 96)
    still = np.zeros_like(asked(12))
    whole, half = subject.flow(still, asked(12, 0.8)).uv, subject.flow(still, asked(12, 0.4)).uv
    np.testing.assert_allclose(half, whole / 2, atol=0.06)
    left = asked(12)
    left[AU_INDEX[12], 1] = 0
    uv = np.abs(subject.flow(still, left).uv).sum(0)
    assert uv[:, 48:].sum() > 5 * uv[:, :48].sum()


def test_a_picture_shows_a_face_with_eyes_of_the_right_contrast(head: ForeignHead) -> None:
    person = head.person(0, 128)
    assert person.onset.shape == (128, 128, 3)
    grey = person.onset.mean(-1)
    lm = person.landmarks
    for eye in (lm[36:42], lm[42:48]):
        x, y = eye.mean(0).round().astype(int)
        near = grey[y - 4 : y + 5, x - 8 : x + 9]
        assert near.max() - near.min() > 60
    flow = person.flow(asked(26))
    assert flow.face[lm[30, 1].astype(int), lm[30, 0].astype(int)]
    assert not flow.face[2, 2]
    assert flow.uv[1][flow.face].mean() > 0.2  # the jaw drops


def test_people_differ_and_a_person_is_always_the_same(head: ForeignHead) -> None:
    a, b = head.person(0, 64), head.person(1, 64)
    assert np.abs(a.landmarks - b.landmarks).max() > 0.3
    np.testing.assert_array_equal(a.onset, head.person(0, 64).onset)
    right, left = a.landmarks[36:42].mean(0), a.landmarks[42:48].mean(0)
    assert 0.30 < np.hypot(*(left - right)) / 64 < 0.41


@pytest.mark.parametrize(("yaw", "pitch"), [(25, 0), (-25, 0), (0, 20), (15, -15)])
def test_a_turned_head_turns_as_the_packaged_one(head: ForeignHead, yaw: float, pitch: float) -> None:
    straight, turned = head.person(0, 128), head.person(0, 128, yaw, pitch)
    eyes = [p.landmarks[36:48].mean(0) for p in (straight, turned)]
    np.testing.assert_allclose(eyes[1], eyes[0], atol=2)
    nose = (turned.landmarks[30] - eyes[1]) - (straight.landmarks[30] - eyes[0])
    for moved, angle in zip(nose, (yaw, pitch), strict=True):
        assert abs(moved) < 1.5 if angle == 0 else moved * np.sign(angle) > 2


# ------------------------------------------------------------------- other forms of the same head


def same(path: Path, given: Arrays, head: ForeignHead, tolerance: float = 2e-5) -> ForeignHead:
    found = ForeignHead.read(write(path / "other.npz", given))
    np.testing.assert_allclose(found.model.vertices, head.model.vertices, atol=tolerance)
    np.testing.assert_allclose(found.model.au_basis, head.model.au_basis, atol=tolerance)
    return found


def _renamed(given: Arrays, names: Callable[[str], str]) -> Arrays:
    return given | {"expr_names": np.array([names(str(name)) for name in given["expr_names"]])}


FORMS: dict[str, Callable[[Arrays], Arrays]] = {
    "another unit": lambda a: a | {k: a[k] * np.float32(0.01) for k in ("vertices", "expr", "ident")},
    "another place": lambda a: a | {"vertices": a["vertices"] + np.float32(7)},
    "neutral": lambda a: {("neutral" if k == "vertices" else k): v for k, v in a.items()},
    "landmarks": lambda a: {("landmarks" if k == "lm68" else k): v for k, v in a.items()},
    "Left and Right": lambda a: _renamed(a, lambda n: n.replace("_L", "Left").replace("_R", "Right")),
    "a prefix": lambda a: _renamed(a, lambda n: f"head.{n}"),
    "other case": lambda a: _renamed(a, lambda n: n[0].upper() + n[1:]),
    "_left and _right": lambda a: _renamed(a, lambda n: n.replace("_L", "_left").replace("_R", "_right")),
    "bytes": lambda a: a | {"expr_names": a["expr_names"].astype("S")},
    "clockwise": lambda a: a | {"faces": a["faces"][:, ::-1]},
    "float indices": lambda a: a | {"faces": a["faces"].astype(np.float64)},
    "wide": lambda a: a | {"expr": a["expr"].astype(np.float64), "faces": a["faces"].astype(np.uint64)},
    "what nobody knows": lambda a: a | {"comment": np.array("hello"), "lm478": np.zeros(478)},
}


@pytest.mark.parametrize("form", FORMS)
def test_one_head_in_many_forms(form: str, head: ForeignHead, tmp_path: Path) -> None:
    found = same(tmp_path, FORMS[form](arrays()), head)
    assert found.available == head.available
    np.testing.assert_array_equal(np.sort(found.model.faces, 1), np.sort(head.model.faces, 1))
    corners = found.model.vertices[found.model.faces]
    own = head.model.vertices[head.model.faces]
    areas = [np.cross(c[:, 1] - c[:, 0], c[:, 2] - c[:, 0])[:, 2] for c in (corners, own)]
    assert (np.sign(areas[0]) == np.sign(areas[1])).mean() > 0.999
    assert bool(found.notes) == (form == "clockwise")


@pytest.mark.parametrize("kind", [np.int8, np.float16])
def test_small_types_with_factors(kind: type, head: ForeignHead, tmp_path: Path) -> None:
    given = arrays()
    top = np.abs(given["expr"]).max((1, 2), keepdims=True)
    steps = 127 if kind is np.int8 else 1
    stored = given["expr"] / top * steps
    stored = np.round(stored) if kind is np.int8 else stored
    given |= {"expr": stored.astype(kind), "expr_scale": top / steps}
    step = 4e-4 if kind is np.float16 else 0.51 * float(top.max()) / 127 / (10 * HeadModel.load().unit)
    same(tmp_path, given, head, step)
    same(tmp_path, given | {"expr_scale": given["expr_scale"].ravel()}, head, step)


def test_au_names_and_a_shape_without_sides_are_shared_between_them(head: ForeignHead, tmp_path: Path) -> None:
    given = arrays()
    names = [str(name) for name in given["expr_names"]]
    smile = given["expr"][names.index("mouthSmile_L")] + given["expr"][names.index("mouthSmile_R")]
    jaw = given["expr"][names.index("jawOpen")]
    given |= {"expr": np.stack([smile, jaw]), "expr_names": np.array(["AU12", "au_26"])}
    found = ForeignHead.read(write(tmp_path / "aus.npz", given))
    assert found.available == (12, 26)
    both = found.model.au_basis[AU_INDEX[12]]
    np.testing.assert_allclose(both.sum(0), head.model.au_basis[AU_INDEX[12]].sum(0), atol=2e-5)
    assert np.abs(both[0][found.model.vertices[:, 0] < -0.4]).max() < 0.03 * np.abs(both[0]).max()
    # AU 26 as its maker has it, not the share of jawOpen.
    np.testing.assert_allclose(found.model.au_basis[AU_INDEX[26]].sum(0), jaw / found.model.unit, atol=2e-5)


def test_whole_people_instead_of_modes(tmp_path: Path) -> None:
    given = arrays()
    people = np.stack([given["vertices"], given["vertices"] + given["ident"][0], 0.9 * given["vertices"] + 3])
    del given["ident"]
    found = ForeignHead.read(write(tmp_path / "people.npz", given | {"identities": people}))
    assert found.people == 3
    np.testing.assert_allclose(found.vertices(0)[0], found.model.vertices, atol=2e-5)
    np.testing.assert_allclose(found.vertices(2)[0], found.model.vertices, atol=2e-5)
    assert found.vertices(2)[1] == pytest.approx(0.9, abs=1e-4)
    assert np.abs(found.vertices(1)[0] - found.model.vertices).max() > 0.05
    with pytest.raises(MesynthError, match="people has no person 3; its people are 3, counted from 0"):
        found.subject(3)
    one = ForeignHead.read(write(tmp_path / "one.npz", {k: v for k, v in given.items() if k != "identities"}))
    assert one.people == 1


def test_own_colours_are_shown(tmp_path: Path) -> None:
    given = arrays()
    lm = given["vertices"][given["lm68"]]
    colours = np.full((len(given["vertices"]), 3), (60, 90, 200), np.uint8)
    colours[given["vertices"][:, 1] < lm[33, 1]] = (60, 200, 90)
    person = ForeignHead.read(write(tmp_path / "c.npz", given | {"colours": colours})).person(0, 128)
    brow = person.landmarks[27].round().astype(int)
    chin = (0.5 * (person.landmarks[57] + person.landmarks[8])).round().astype(int)
    assert person.onset[brow[1] - 12, brow[0]].argmax() == 2
    assert person.onset[chin[1], chin[0]].argmax() == 1
    by_material = np.tile(np.array([[0.3, 0.4, 0.9]]), (5, 1))
    plain = ForeignHead.read(write(tmp_path / "m.npz", given | {"mat_colours": by_material}))
    assert plain.plain
    assert plain.person(0, 128).onset[brow[1] - 12, brow[0]].argmax() == 2


def test_people_have_colours_of_their_own(tmp_path: Path) -> None:
    given = arrays()
    people = np.stack([given["vertices"], given["vertices"] + given["ident"][0]])
    colours = np.stack([np.full((len(given["vertices"]), 3), tone) for tone in ((0.7, 0.2, 0.2), (0.2, 0.2, 0.7))])
    found = ForeignHead.read(write(tmp_path / "two.npz", given | {"identities": people, "colours": colours}))
    for i, channel in ((0, 0), (1, 2)):
        person = found.person(i, 96)
        x, y = person.landmarks[30].round().astype(int)
        assert person.onset[y, x].argmax() == channel


def test_what_is_half_there_is_left_out_and_named(tmp_path: Path) -> None:
    given = arrays()
    names = [str(name) for name in given["expr_names"]]
    expr = given["expr"].copy()
    expr[names.index("eyeBlink_L")] = 0
    keep = [i for i, name in enumerate(names) if name != "browDown_R"]
    expr, names = expr[keep], [names[i] for i in keep]
    expr = np.concatenate([expr, given["expr"][:1]])
    file = write(tmp_path / "half.npz", given | {"expr": expr, "expr_names": np.array([*names, "AU14_L"])})
    found = ForeignHead.read(file)
    assert found.available == (12, 26, 27)
    assert found.missing[4] == ("browDown_R",)
    assert found.missing[14] == ("AU14_R",)
    assert found.missing[43] == found.missing[45] == ("eyeBlink_L",)
    assert found.notes == ("shapes that move nothing and count as missing: eyeBlink_L",)


def test_eyes_and_mouth_are_found_without_materials(head: ForeignHead, tmp_path: Path) -> None:
    given = {k: v for k, v in arrays().items() if not k.startswith("mat")}
    found = ForeignHead.read(write(tmp_path / "bare.npz", given))
    assert ((found.model.part == EYE) == (head.model.part == EYE)).all()
    lips = found.model.vertices[found.model.landmarks[60:68], 2].min()
    inside = np.isin(arrays()["mat"], (MOUTH, TEETH))
    assert (found.model.part[inside] == MOUTH).mean() > 0.6
    middle = found.model.vertices[found.model.faces].mean(1)
    assert (middle[found.model.part == MOUTH, 2] < lips).all()
    subject = found.subject(0, 128)
    (x, top), (_, bottom) = subject.landmarks(asked(27, 1.0))[[62, 66]].round().astype(int)
    shut, gaping = subject.render(np.stack([asked(27, 0), asked(27, 1.0)])).mean(-1)[:, top:bottom, x]
    assert gaping.min() < 0.4 * shut.min()
    assert (gaping < 0.6 * shut).mean() > 0.4


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("M_IrisLeft", EYE), ("eye_L", EYE), ("Eyes", EYE), ("EyeBall", EYE), ("sclera.001", EYE),
        ("Teeth_Upper", TEETH),
        ("M_EyeLashes", -2), ("eyeLashes", -2), ("M_EyeOcclusion", -2), ("M_LacrimalFluid", -2), ("Eyebrows", -1),
        ("hair_cap", -1), ("M_Face", 0), ("eyelid", 0), ("skin", 0), ("Tongue", 4), ("M_GumsTongue", 4),
        ("mouthSocket", MOUTH), ("chair", -1),
    ],
)  # fmt: skip
def test_materials_by_name(name: str, kind: int) -> None:
    from mesynth.head.foreign import _material

    assert _material(name) == kind


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("browDown_L", "browDown_L"), ("browDownLeft", "browDown_L"), ("BROWDOWN_R", "browDown_R"),
        ("browDown.R", "browDown_R"), ("mesh.browDownRight", "browDown_R"), ("bs:jawOpen", "jawOpen"),
        ("AU1", (1, "")), ("au_04_left", (4, "L")), ("AU12R", (12, "R")), ("AU45_R", (45, "R")), ("AU99", None),
        ("mouthLeft", None), ("jawRight", None), ("tongueOut", None), ("", None), ("AU", None),
        ("browInnerUp", "browInnerUp"),
    ],
)  # fmt: skip
def test_shapes_by_name(name: str, meaning: object) -> None:
    assert shape_name(name) == meaning


def test_every_unit_of_the_table_is_understood_in_every_spelling() -> None:
    for units in AU_UNITS.values():
        for starred in units:
            name = starred.removesuffix("*")
            for end, side in (("_L", "L"), ("Right", "R"), ("_r", "R"), ("left", "L")):
                assert shape_name(name + end) == f"{name}_{side}"
            assert shape_name(name) == name


# ------------------------------------------------------------------- what is refused


def _changed(name: str, at: tuple[int, ...], value: float) -> Callable[[Arrays], Arrays]:
    def change(given: Arrays) -> Arrays:
        array = given[name].astype(np.float64 if np.isnan(value) or np.isinf(value) else given[name].dtype)
        array[at] = value
        return given | {name: array}

    return change


BAD: dict[str, tuple[Callable[[Arrays], Arrays], str]] = {
    "no vertices": (lambda a: {k: v for k, v in a.items() if k != "vertices"}, r"no array 'vertices' \(or 'neutral'\)"),
    "no faces": (lambda a: {k: v for k, v in a.items() if k != "faces"}, "no array 'faces'"),
    "no landmarks": (lambda a: {k: v for k, v in a.items() if k != "lm68"}, "no array 'lm68'"),
    "no shapes": (lambda a: {k: v for k, v in a.items() if k != "expr"}, "no array 'expr'"),
    "no names": (lambda a: {k: v for k, v in a.items() if k != "expr_names"}, "no array 'expr_names'"),
    "twice": (lambda a: a | {"neutral": a["vertices"]}, "vertices and neutral mean the same"),
    "flat": (lambda a: a | {"vertices": a["vertices"].ravel()}, r"vertices has shape \(14442,\); expected \(any, 3\)"),
    "pentagons": (lambda a: a | {"faces": np.zeros((500, 5), int)}, r"faces has shape \(500, 5\); expected \(any, 3\)"),
    "few points": (lambda a: a | {"vertices": a["vertices"][:50]}, "vertices has 50 points"),
    "fewer vertices": (lambda a: a | {"vertices": a["vertices"][:-1]}, "faces holds 4813, and there are 4813 vertices"),
    "nan": (_changed("vertices", (7, 1), np.nan), r"vertices holds NaN or infinity, first at \(7, 1\)"),
    "inf": (_changed("expr", (0, 3, 2), np.inf), r"expr holds NaN or infinity, first at \(0, 3, 2\)"),
    "huge": (_changed("vertices", (7, 1), 1e9), r"vertices reaches 1e\+09"),
    "far landmark": (_changed("lm68", (3,), 999999), "lm68 holds 999999, and there are 4814 vertices"),
    "negative": (_changed("faces", (0, 0), -1), "faces holds -1"),
    "67": (lambda a: a | {"lm68": a["lm68"][:67]}, r"lm68 has shape \(67,\); expected \(68\)"),
    "one eye": (lambda a: a | {"lm68": np.full(68, 5)}, "lm68 has both eyes"),
    "halves": (lambda a: a | {"faces": a["faces"] + 0.5}, "faces is of type float64; give whole numbers"),
    "texts": (lambda a: a | {"vertices": a["vertices"].astype("U8")}, "vertices is of type <U8; give numbers"),
    "complex": (lambda a: a | {"expr": a["expr"].astype(np.complex64)}, "expr is of type complex64; give numbers"),
    "number names": (lambda a: a | {"expr_names": np.arange(len(a["expr"]))}, "expr_names is of type int64"),
    "names fewer": (lambda a: a | {"expr_names": a["expr_names"][:-1]}, "expr_names has shape"),
    "foreign names": (
        lambda a: a | {"expr_names": np.array([f"k{i}" for i in range(len(a["expr"]))])},
        r"gives no AU on both sides \(k0, k1",
    ),
    "a name twice": (
        lambda a: a | {"expr_names": np.array(["jawOpen", "JawOpen", *a["expr_names"][2:]])}, "'JawOpen' twice",
    ),
    "one side": (
        lambda a: a | {"expr": a["expr"][:1], "expr_names": np.array(["AU12_L"])},
        r"gives no AU on both sides \(AU12_L",
    ),
    "still": (lambda a: a | {"expr": a["expr"] * 0}, "gives no AU on both sides"),
    "absolute": (lambda a: a | {"expr": a["expr"] + a["vertices"] + 100}, "inter-ocular distances; give displacements"),
    "no factor": (lambda a: a | {"expr": a["expr"].astype(np.int8)}, "expr is int8 without expr_scale"),
    "wrong factor": (lambda a: a | {"expr_scale": np.ones((2, 3, 4, 5))}, "expr_scale has shape"),
    "nan factor": (lambda a: a | {"expr_scale": np.full(len(a["expr"]), np.nan)}, "expr_scale holds something other"),
    "ident short": (lambda a: a | {"ident": a["ident"][:, :-1]}, "ident has shape"),
    "ident whole": (lambda a: a | {"ident": a["ident"] + a["vertices"]}, "whole face as mode 0; whole faces"),
    "ident large": (lambda a: a | {"ident": a["ident"] * 100}, "ident moves vertices by"),
    "identities small": (lambda a: a | {"identities": a["ident"]}, "identities has person 0 with eyes"),
    "z up": (lambda a: a | {"vertices": a["vertices"][:, [0, 2, 1]]}, "turn the head so that x points to its left"),
    "mirrored": (lambda a: a | {"vertices": a["vertices"] * np.array([-1, 1, 1], np.float32)}, "turn the head"),
    "mat short": (lambda a: a | {"mat": a["mat"][:-1]}, "mat has shape"),
    "mat beyond": (lambda a: a | {"mat": a["mat"] + 9}, "and there are 5 materials"),
    "names without mat": (lambda a: {k: v for k, v in a.items() if k != "mat"}, "mat is missing"),
    "colours short": (lambda a: a | {"colours": np.zeros((9, 3), np.uint8)}, "colours has shape"),
    "colours of few": (lambda a: a | {"colours": np.zeros((3, 4814, 3), np.uint8)}, "colours are of 3 people"),
    "bright": (lambda a: a | {"colours": np.full((4814, 3), 7.0)}, "colours reaches 7; give sRGB"),
    "mat colours short": (lambda a: a | {"mat_colours": np.zeros((2, 3))}, "has 2 rows, and mat names material 4"),
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD)
def test_what_is_wrong_is_named_in_one_line(bad: str, tmp_path: Path) -> None:
    change, message = BAD[bad]
    with pytest.raises(MesynthError, match=message) as error:
        ForeignHead.read(write(tmp_path / "bad.npz", change(arrays())))
    assert "\n" not in str(error.value)
    assert "bad.npz" in str(error.value)


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    given = arrays()
    names = given.pop("expr_names")
    path = tmp_path / "pickled.npz"
    np.savez(path, expr_names=names.astype(object), **given)  # type: ignore[arg-type]
    with pytest.raises(MesynthError, match=r"expr_names cannot be read .*never loaded"):
        ForeignHead.read(path)


def _member(name: str, data: bytes) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"{name}.npy", data)

    return make


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda path: None, "is no file"),
    "empty": (lambda path: path.touch(), "is no readable npz"),
    "text": (lambda path: shutil.copy(__file__, path), "is no readable npz"),
    "no npy": (_member("vertices", b"hello"), "vertices cannot be read"),
    "short": (_member("vertices", npy_bytes(np.zeros((300, 3)))[:-8]), "vertices cannot be read"),
    "says more": (
        _member("vertices", npy_bytes(np.zeros((3, 3))).replace(b"(3, 3)", b"(99999999999, 3)")[:200]),
        "vertices cannot be read",
    ),
}  # fmt: skip


@pytest.mark.parametrize("broken", BROKEN)
def test_damaged_files(broken: str, tmp_path: Path) -> None:
    make, message = BROKEN[broken]
    path = tmp_path / "broken.npz"
    make(path)
    with pytest.raises(MesynthError, match=message) as error:
        ForeignHead.read(path)
    assert "\n" not in str(error.value)


def test_what_would_not_fit_memory_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mesynth.head.foreign.MAX_BYTES", 10_000)
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("unpacked"))
    with pytest.raises(MesynthError, match="bytes of arrays, more than 10,000; leave out"):
        ForeignHead.read(write(tmp_path / "large.npz", arrays()))


TYPES = ("U4", "f8", "i2", "?", "c8", "S3", "M8[s]")


def _spoiled(data: st.DataObject, array: np.ndarray) -> np.ndarray:
    """The array in another shape, type or size, or holding anything."""
    kind = data.draw(st.sampled_from(["shape", "flat", "type", "scalar", "empty", "noise"]))
    if kind == "type" and array.dtype.kind != "U":
        return array.astype(data.draw(st.sampled_from(TYPES)), casting="unsafe")
    return {
        "shape": array[..., None],
        "flat": array.ravel(),
        "scalar": np.array(data.draw(st.integers(-5, 5))),
        "empty": array[:0],
    }.get(kind, np.random.default_rng(data.draw(st.integers(0, 99))).integers(-9, 99, array.shape))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_file_is_read_or_refused_in_one_line(data: st.DataObject, tmp_path: Path) -> None:
    file = arrays(("jawOpen",))
    name = data.draw(st.sampled_from(sorted(file)))
    if spoil := data.draw(st.booleans()):
        file[name] = _spoiled(data, file[name])
    path = write(tmp_path / "any.npz", file)
    if not spoil:
        raw = bytearray(path.read_bytes())
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at : at + data.draw(st.integers(1, 40))] = data.draw(st.binary(max_size=30))
        path.write_bytes(raw)
    said = ""
    try:
        ForeignHead.read(path)
    except MesynthError as error:
        said = str(error)
    assert "\n" not in said
    assert not said or "any.npz" in said
