"""What the rigs say of the AUs, their mean on the face, and rigs drawn for training."""

from __future__ import annotations

import numpy as np
import pytest

from mesynth.core import facs
from mesynth.core.errors import MesynthError
from mesynth.core.profiles import Profile
from mesynth.head import Subject
from mesynth.head.model import EXPRESSION_UNITS, HeadModel, rotation
from mesynth.motion.fields import RIGS, K, draw_rig, has_rigs, mean_table, rig_basis, table_of
from mesynth.motion.prior import MEAN, NAME, Face, MotionPrior, head_turn

ROW = facs.AU_INDEX


def landmark_motion(basis: np.ndarray, code: int, landmark: int, side: int = 0) -> np.ndarray:
    return basis[ROW[code], side][HeadModel.load().landmarks[landmark]]


@pytest.mark.parametrize("name", RIGS)
@pytest.mark.parametrize(
    ("code", "landmark", "direction"),
    [
        (1, 22, (0, 1)), (2, 25, (0, 1)), (4, 22, (0, -1)), (12, 54, (1, 1)), (15, 54, (0, -1)), (26, 8, (0, -1)),
        (10, 52, (0, 1)),
    ],
)  # fmt: skip
def test_every_rig_pulls_where_facs_says(name: str, code: int, landmark: int, direction: tuple[int, int]) -> None:
    """On the subject's left (image right); y is up."""
    basis = rig_basis(name)
    moved = landmark_motion(basis, code, landmark) + landmark_motion(basis, code, landmark, 1)
    for axis, sign in enumerate(direction):
        if sign:
            assert sign * moved[axis] > 0.005, (name, code)


def test_expression_units_know_the_aus_of_their_table_and_no_other() -> None:
    basis = rig_basis("expression units")
    moves = np.abs(basis).max((1, 2, 3)) > 0
    assert {code for code, m in zip(facs.AU_CODES, moves, strict=True) if m} == set(EXPRESSION_UNITS)
    assert np.array_equal(moves, has_rigs()[list(RIGS).index("expression units")])


@pytest.mark.parametrize("name", RIGS)
def test_sides_are_the_subjects(name: str) -> None:
    basis, x = rig_basis(name), HeadModel.load().vertices[:, 0]
    for code in (1, 2, 4, 12, 15):
        if code in EXPRESSION_UNITS or name != "expression units":
            length = np.linalg.norm(basis[ROW[code]], axis=-1)
            assert (length[0] * x).sum() > 0 > (length[1] * x).sum(), (name, code)


def test_the_mean_is_the_mean() -> None:
    """Of AU 6, which two rigs know, of AU 12, which three do, and of AU 24, of which the bumps, written from the
    manual, count four times; the table's blur takes little of it."""
    mean, shares = mean_table().fields, {6: (0.5, 0.0, 0.5), 12: (0.4, 0.2, 0.4), 24: (0.4 / 2.2, 0.2 / 2.2, 1.6 / 2.2)}
    for code, share in shares.items():
        parts = 0.85 * sum(s * table_of(rig_basis(name)).fields[ROW[code]] for s, name in zip(share, RIGS, strict=True))
        off = np.linalg.norm(mean[ROW[code]] - parts, axis=-1)
        assert off.mean() < 0.05 * np.linalg.norm(parts, axis=-1).max()


def test_a_table_gives_its_own_points_back_and_nothing_beyond_the_face() -> None:
    table = mean_table()
    low, high = -1.7, 1.7
    u, v = low + (high - low) * 40 / 128, -1.3 + 3.4 * 70 / 128
    read = table.read(np.array([[[u, v], [u, v]]]), [(ROW[12], 1)])
    assert np.allclose(read[0, 0, 0], table.fields[ROW[12], 1, 70, 40], atol=1e-6)
    assert not table.read(np.array([[[9.0, 9.0], [-9.0, 0.0]]]), [(ROW[12], 1)]).any()


def test_drawn_rigs_differ_and_keep_to_the_known_ones() -> None:
    rigs = [draw_rig(np.random.default_rng(seed)) for seed in range(12)]
    assert np.array_equal(rigs[0], draw_rig(np.random.default_rng(0)))
    mean = np.mean(rigs, 0)
    for code in (1, 2, 4, 12, 15, 20):
        row = ROW[code]
        truth = sum(rig_basis(name)[row] for name in ("face units", "bumps"))
        cosine = (mean[row] * truth).sum() / np.sqrt((mean[row] ** 2).sum() * (truth**2).sum())
        assert cosine > 0.8, code
        spread = np.mean([np.linalg.norm(rig[row] - mean[row]) for rig in rigs]) / np.linalg.norm(mean[row])
        assert 0.2 < spread < 1.5, code
    midline = [ROW[code] for code in facs.MIDLINE]
    assert all(np.isfinite(rig[midline]).all() for rig in rigs)


def test_a_subject_moves_by_the_basis_it_was_given() -> None:
    au = np.zeros((K, 2), np.float32)
    au[ROW[12]] = 0.5
    own, other = Subject(3, size=64, frontal=True), Subject(3, size=64, frontal=True, basis=rig_basis("bumps"))
    assert np.array_equal(own.landmarks(), other.landmarks())
    assert np.abs(own.landmarks(au) - other.landmarks(au)).max() > 0.2
    still = Subject(3, size=64, frontal=True, basis=np.zeros_like(HeadModel.load().au_basis))
    assert np.array_equal(still.landmarks(au), own.landmarks())
    with pytest.raises(MesynthError, match=r"basis has shape \(2, 2\)"):
        Subject(3, basis=np.zeros((2, 2)))
    with pytest.raises(MesynthError, match="basis"):
        Subject(3, basis=np.full_like(HeadModel.load().au_basis, np.nan))


@pytest.mark.parametrize("yaw", [-30.0, 0.0, 20.0])
@pytest.mark.parametrize("pitch", [-15.0, 0.0, 15.0])
def test_the_head_turns_as_it_is_turned(yaw: float, pitch: float) -> None:
    """The mean head's own landmarks under scaled orthography; the eyes level, whatever the roll."""
    model = HeadModel.load()
    turn = rotation(np.radians([yaw, pitch, 7.0]))
    shown = (model.vertices[model.landmarks] @ turn.T)[:, :2] * [40, -40] + [64, 60]
    axes = head_turn(shown.astype(np.float32))
    forth = axes[:, 2]  # what comes to the viewer moves as the nose's tip does against the head
    assert not yaw or np.sign(forth[0]) == np.sign(yaw)
    assert not pitch or np.sign(forth[1]) == np.sign(pitch)
    # Lengths and angles in the picture; the picture itself is levelled by the eyes, which yaw and pitch tilt together.
    true = rotation(np.radians([yaw, pitch, 0.0]))[:2] * [1, -1, 1]
    made, wanted = (a.T @ a / np.trace(a.T @ a) for a in (axes, true))
    assert np.abs(made - wanted).max() < 0.05


def test_fields_turn_with_the_head() -> None:
    """A cheek that is puffed towards the viewer moves sideways in the picture of a turned head, the exact flow says."""
    au = np.zeros((K, 2), np.float32)
    au[ROW[34]] = 0.5
    subject = Subject(5, size=128, frontal=True)
    pose = np.array([np.radians(30.0), 0, 0, 0, 0, 0])
    face = Face(subject.render(np.zeros((1, K, 2), np.float32), pose[None])[0], subject.landmarks(pose=pose))
    truth = subject.flow(np.zeros_like(au), au, pose, pose)
    cells = [(ROW[34], 0), (ROW[34], 1)]
    mean = 0.5 * MotionPrior(face, MEAN).fields(cells).sum(0)
    flat = 0.5 * MotionPrior(face, NAME).fields(cells).sum(0)
    seen = truth.face & truth.visible

    def error(flow: np.ndarray) -> float:
        return float(np.linalg.norm(flow[seen] - truth.uv.transpose(1, 2, 0)[seen], axis=-1).mean())

    assert error(mean) < error(flat)


def test_the_landmark_mean_is_nearer_to_a_rendered_person_than_the_prior() -> None:
    subject = Subject(21, size=128, frontal=True)
    still = np.zeros((1, K, 2), np.float32)
    face = Face(subject.render(still)[0], subject.landmarks())
    errors: dict[str, list[float]] = {NAME: [], MEAN: []}
    for code in (1, 4, 12, 15, 20, 26):
        au = still[0].copy()
        au[ROW[code]] = 0.5
        truth = subject.flow(still[0], au)
        for name, found in errors.items():
            field = 0.5 * MotionPrior(face, name).fields([(ROW[code], 0), (ROW[code], 1)]).sum(0)
            found.append(float(np.linalg.norm(field - truth.uv.transpose(1, 2, 0), axis=-1)[truth.face].mean()))
    assert np.mean(errors[MEAN]) < 0.9 * np.mean(errors[NAME])


def test_intensity_zero_gives_the_picture_back() -> None:
    subject = Subject(8, size=64, frontal=True)
    face = Face(subject.render(np.zeros((1, K, 2), np.float32))[0], subject.landmarks())
    sample, warnings = MotionPrior(face, MEAN).generate(
        facs.parse_request("12=0"), Profile(apex=0.5), n_frames=5, fps=60
    )
    assert (sample.clip.frames == face.image).all()
    assert not sample.flow.uv.any()
    assert not warnings
