from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from mesynth.core import facs
from mesynth.core.emotions import CLASSES_3, PUBLISHED, label
from mesynth.core.errors import ConfigError, RunFolderError
from mesynth.core.types import AUVector
from mesynth.head import Subject
from mesynth.metrics.judge_train import JUDGE_SEEDS
from mesynth.preprocess.align import EYE_LINE, IOD_SHARE, SimilarityCrop, eye_centres
from mesynth.preprocess.magnify.learned_train import TripleConfig
from mesynth.store.manifest import Manifest, Row
from mesynth.store.shards import read_flow, read_frames, read_landmarks, read_valid
from mesynth.store.stage import Interrupted, Produced
from mesynth.training.data import rendered
from mesynth.training.data.rendered import (
    LEAST,
    RENDER_SCALE,
    TRAIN_SEEDS,
    VALIDATION_SEEDS,
    RenderConfig,
    appearance_of,
    cropped_flow,
    draw_aus,
    draw_intensity,
    render_pairs,
    single_cells,
)
from tests.builders import tree_bytes

SIZE = 64
SMALL = RenderConfig(identities=2, per_identity=10, size=SIZE, still=0.3, head=1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pairs") / "small"
    render_pairs(out, SMALL)
    return out


def warped_back(frame: np.ndarray, uv: np.ndarray) -> np.ndarray:
    size = frame.shape[0]
    y, x = np.mgrid[:size, :size].astype(np.float32)
    return cv2.remap(frame, x + uv[0], y + uv[1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def test_the_later_frame_warped_back_is_the_onset(folder: Path) -> None:
    manifest = Manifest.read(folder)
    still, moved = [], []
    for row in manifest:
        onset, frame = read_frames(folder, row).astype(np.float64)
        uv, valid = read_flow(folder, row), read_valid(folder, row)
        assert valid is not None
        assert valid.mean() > 0.75
        back = warped_back(frame, uv).astype(np.float64)
        still.append(np.abs(frame - onset)[valid])
        moved.append(np.abs(back - onset)[valid])
    # What is left is shading: folds and light that move with the skin; most pixels agree to a grey level or two.
    assert np.median(np.concatenate(moved)) < 0.6
    assert np.percentile(np.concatenate(moved), 95) < 4.0
    assert np.concatenate(moved).mean() < 0.7 * np.concatenate(still).mean()


def test_a_moving_head_is_followed() -> None:
    """Head movement alone changes no shading to speak of, so the flow must explain nearly all of it."""
    subject = Subject(TRAIN_SEEDS.start, size=round(SIZE * RENDER_SCALE))
    neutral = np.zeros((2, len(facs.AU_CODES), 2), np.float32)
    pose = np.zeros((2, 6))
    pose[1] = 0.03, -0.02, 0.03, 0.03, -0.02, 0.02
    crop = SimilarityCrop.from_landmarks(subject.landmarks(), SIZE)
    onset, frame = crop.frames(subject.render(neutral, pose)).astype(np.float64)
    uv, valid = cropped_flow(crop, subject.flow(neutral[0], neutral[1], pose[0], pose[1]))
    error, change = (np.abs(p - onset)[valid] for p in (warped_back(frame, uv), frame))
    assert np.median(error) < 1.5
    assert error.mean() < 0.35 * change.mean()


@pytest.mark.parametrize("turn", [0.0, 0.3])
def test_flow_carries_landmarks_to_where_the_head_has_them(turn: float) -> None:
    """Projected landmarks are independent of the flow's rasteriser; the crop turns, shrinks and shifts both."""
    subject = Subject(TRAIN_SEEDS.start + 3, size=160)
    aus = np.zeros((2, len(facs.AU_CODES), 2), np.float32)
    aus[1] = facs.parse_request("1=0.8,L12=0.9,17=0.5,6=0.7").intensity
    pose = np.array([[0, 0, turn, 0, 0, 0], [0.01, 0, turn, 0.02, 0, 0.01]])
    onset = subject.landmarks(aus[0], pose[0])
    crop = SimilarityCrop.from_landmarks(onset, 96)
    uv, valid = cropped_flow(crop, subject.flow(aus[0], aus[1], pose[0], pose[1]))
    inner = [*range(17, 27), *range(31, 36), *range(48, 60)]  # brows, nose, outer lips: on the skin, not on outlines
    start = crop.points(onset)[inner]
    truth = crop.points(subject.landmarks(aus[1], pose[1]))[inner] - start
    found = np.stack([cv2.remap(c, start[:, None, 0], start[:, None, 1], cv2.INTER_LINEAR)[:, 0] for c in uv], 1)
    seen = cv2.remap(valid.astype(np.float32), start[:, None, 0], start[:, None, 1], cv2.INTER_LINEAR)[:, 0] > 0.999
    assert seen.sum() >= 20
    error = np.hypot(*(found - truth)[seen].T)
    assert np.hypot(*truth[seen].T).max() > 2
    assert np.median(error) < 0.05
    assert error.max() < 0.35  # lip corners, where the flow is steep


def test_pictures_show_the_aus_of_the_row(tmp_path: Path) -> None:
    """Without movement and landmark error a pair can be rendered again from its row alone, byte for byte."""
    config = RenderConfig(identities=1, per_identity=12, size=48, still=1.0, turn=0, jitter=0, blink=0.5)
    manifest = render_pairs(tmp_path / "out", config)
    subject = Subject(config.first, size=round(48 * RENDER_SCALE))
    crop = SimilarityCrop.from_landmarks(subject.landmarks(), 48)
    eyes = eye_centres(read_landmarks(manifest.root, manifest.row(0)))
    np.testing.assert_allclose(eyes[:, 1] + 0.5, EYE_LINE * 48, atol=0.01)
    assert np.hypot(*(eyes[1] - eyes[0])) == pytest.approx(IOD_SHARE * 48, abs=0.01)
    blinks = 0
    for row in manifest:
        assert row.aus.mask.all()
        aus = np.stack([np.zeros_like(row.aus.intensity), row.aus.intensity])
        assert (crop.frames(subject.render(aus)) == read_frames(manifest.root, row)).all()
        blinks += bool((row.aus.intensity[facs.AU_INDEX[45]] > 0).all())
    assert 2 <= blinks <= 10


def test_people_with_rigs_move_in_ways_of_their_own(tmp_path: Path) -> None:
    """The same faces, AUs and poses; the same picture before, another after. Who has a rig is drawn per person."""
    shared = {"identities": 4, "per_identity": 3, "size": 32, "still": 1.0}
    plain, own, some = (
        render_pairs(tmp_path / str(rigs), RenderConfig(rigs=rigs, **shared)) for rigs in (0.0, 1.0, 0.5)
    )
    changed = []
    for row, other, third in zip(plain, own, some, strict=True):
        assert np.array_equal(row.aus.intensity, other.aus.intensity)
        assert (read_frames(plain.root, row)[0] == read_frames(own.root, other)[0]).all()
        flows = [read_flow(m.root, r) for m, r in ((plain, row), (own, other), (some, third))]
        if row.aus.intensity.any():
            assert np.abs(flows[0] - flows[1]).max() > 1e-3
            changed.append((row.subject, bool(np.abs(flows[0] - flows[2]).max() > 1e-3)))
    drawn = {subject: {c for s, c in changed if s == subject} for subject, _ in changed}
    assert all(len(kinds) == 1 for kinds in drawn.values())
    assert {c for _, c in changed} == {True, False}


def test_looks_are_drawn_per_person_and_do_not_shift_each_other() -> None:
    everything = RenderConfig(glasses=0.4, brow_hair=0.3, focal=0.6)
    drawn = [appearance_of(everything, person) for person in range(920_000, 921_000)]
    for name, share in (("glasses", 0.4), ("brow_hair", 0.3), ("distance", 0.6)):
        assert abs(np.mean([name in looks for looks in drawn]) - share) < 0.05
        setting = {name if name != "distance" else "focal": share}
        alone = [appearance_of(RenderConfig(**setting), person) for person in range(920_000, 920_200)]
        assert [looks.get(name) for looks in alone] == [looks.get(name) for looks in drawn[:200]]
        assert all(set(looks) <= {name} for looks in alone)
    distances = np.array([looks["distance"] for looks in drawn if "distance" in looks])
    assert distances.min() > 5.4 < 50 < distances.max() < 60.1
    assert abs(np.median(distances) / np.sqrt(5.5 * 60) - 1) < 0.15


def test_looks_change_the_picture_and_no_motion_of_the_skin_and_are_told(tmp_path: Path) -> None:
    shared = {"identities": 2, "per_identity": 2, "size": 48, "still": 1.0, "blink": 0.0, "neutral": 0.0, "turn": 0.0}
    plain, worn = (
        render_pairs(tmp_path / str(share), RenderConfig(glasses=share, brow_hair=share, **shared))
        for share in (0.0, 1.0)
    )
    for row, other in zip(plain, worn, strict=True):
        assert row.provenance.generator == "mesynth.head"
        assert other.provenance.generator == "mesynth.head@glasses=true,brow_hair=true"
        assert np.array_equal(row.aus.intensity, other.aus.intensity)
        onsets = [read_frames(m.root, r)[0].astype(int) for m, r in ((plain, row), (worn, other))]
        assert (np.abs(onsets[0] - onsets[1]).max(-1) > 8).mean() > 0.05
        flows = [read_flow(m.root, r) for m, r in ((plain, row), (worn, other))]
        assert (np.isclose(*flows, atol=1e-5) | np.isclose(flows[1], 0, atol=0.3)).mean() > 0.85


def test_folders_of_before_are_resumed(tmp_path: Path) -> None:
    """What is off is not part of a folder's record."""
    render_pairs(tmp_path / "out", RenderConfig(identities=1, per_identity=1, size=32))
    record = "".join(path.read_text() for path in (tmp_path / "out").glob("*") if path.suffix in (".json", ".yaml"))
    assert "per_identity" in record
    assert "brow_hair" not in record


def test_expressive_onsets_show_aus_and_the_row_says_what_comes_on_top(tmp_path: Path) -> None:
    config = RenderConfig(identities=1, per_identity=12, size=48, still=1.0, turn=0, jitter=0, blink=0, expressive=1.0)
    manifest = render_pairs(tmp_path / "out", config)
    subject = Subject(config.first, size=round(48 * RENDER_SCALE))
    neutral = subject.landmarks()
    crop = SimilarityCrop.from_landmarks(neutral, 48)
    shown = 0
    for row in manifest:
        onset = read_frames(manifest.root, row)[0]
        shown += bool((onset != crop.frames(subject.render(np.zeros((1, *row.aus.intensity.shape), np.float32)))).any())
        assert row.aus.intensity.min() >= 0
        assert row.aus.intensity.max() <= 1
        if not row.aus.intensity.any():
            assert np.abs(read_flow(manifest.root, row)).max() < 1e-5
    assert shown == len(manifest)


def test_half_of_the_onsets_are_turned(tmp_path: Path) -> None:
    config = RenderConfig(identities=1, per_identity=24, size=32, still=1.0, turn=0, jitter=0, yaw=35.0)
    manifest = render_pairs(tmp_path / "out", config)
    width = []  # of the nose and mouth's place between the eyes: a turned head has them to one side
    for row in manifest:
        points = read_landmarks(manifest.root, row)
        eyes = eye_centres(points)
        width.append(abs(points[30, 0] - eyes[:, 0].mean()) / np.hypot(*(eyes[1] - eyes[0])))
    rest = min(width)
    turned = np.array(width) > rest + 0.03
    assert 6 <= turned.sum() <= 18


def test_static_background_is_known_to_rest(folder: Path) -> None:
    counted = 0
    for row in Manifest.read(folder):
        uv, valid = read_flow(folder, row), read_valid(folder, row)
        assert valid is not None
        rest = valid & (uv == 0).all(0)
        frames = read_frames(folder, row).astype(int)
        assert np.abs(frames[0] - frames[1])[rest].max(initial=0) <= 1
        counted += int(rest.sum())
    assert counted > 1000


def test_single_aus_take_turns_through_the_vocabulary() -> None:
    config = RenderConfig(identities=8, per_identity=20, single=0.5)
    shown = set()
    for person in config.people:
        for i in range(10):
            aus, emotion = draw_aus(config, person, i, np.random.default_rng(i))
            assert not emotion
            rows = np.flatnonzero(aus.any(1))
            assert len(rows) == 1
            assert LEAST <= aus.max() <= 1
            shown.add((int(rows[0]), tuple(np.flatnonzero(aus[rows[0]]).tolist())))
    assert shown == set(single_cells())
    assert len(shown) == 3 * 18 + 7
    assert {row for row, _ in shown} == set(range(len(facs.AU_CODES)))


def test_every_single_au_moves_something() -> None:
    subject = Subject(TRAIN_SEEDS.start, size=64)
    neutral = np.zeros((len(facs.AU_CODES), 2), np.float32)
    for row, columns in single_cells():
        aus = neutral.copy()
        aus[row, list(columns)] = 1
        assert np.hypot(*subject.flow(neutral, aus).uv).max() > 0.3, facs.AU_CODES[row]


def test_draws_are_mostly_micro_and_never_conflict() -> None:
    assert 0.6 < (draw_intensity(np.random.default_rng(0), 5000) < 0.5).mean() < 0.8
    config = RenderConfig(single=0.0, neutral=0.2, emotional=0.0)
    drawn = [draw_aus(config, config.first, i, np.random.default_rng(i))[0] for i in range(600)]
    active = [(a > 0).any(1).sum() for a in drawn]
    assert set(active) == {0, 1, 2, 3, 4}
    assert np.mean(np.array(active) == 0) == pytest.approx(0.2, abs=0.06)
    for aus in drawn:
        assert not facs.conflicts(AUVector(aus))
        assert ((aus == 0) | ((aus >= LEAST) & (aus <= 1))).all()
    assert np.mean([(a[:, 0] != a[:, 1]).any() for a in drawn]) > 0.5
    peaks = np.concatenate([a.max(1)[a.any(1)] for a in drawn])
    assert (peaks < 0.5).mean() > 0.6


def test_emotional_pairs_have_their_class() -> None:
    config = RenderConfig(single=0.2, neutral=0.1, emotional=0.7, per_identity=600)
    drawn = [draw_aus(config, config.first, i, np.random.default_rng(i)) for i in range(600)]
    assert all(not emotion for _, emotion in drawn[:120])
    assert np.mean([bool(emotion) for _, emotion in drawn]) == pytest.approx(0.7, abs=0.04)
    labels = [label(emotion) for _, emotion in drawn if emotion]
    assert sorted(set(labels)) == sorted(CLASSES_3)
    for name in CLASSES_3:
        assert labels.count(name) / len(labels) == pytest.approx(1 / 3, abs=0.07)
    for aus, emotion in drawn:
        if emotion == "happiness":
            assert set(np.flatnonzero(aus.any(1))) <= {facs.AU_INDEX[code] for code in PUBLISHED["happiness"]}


def test_an_interrupted_run_goes_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in the second person, finished by the same call: the first is not rendered again, the bytes agree."""
    render, made = rendered._Renderer.__call__, []

    def stopping(self: rendered._Renderer, job: tuple[int, int]) -> Produced:
        made.append(job)
        if len(made) == 13:
            raise KeyboardInterrupt
        return render(self, job)

    monkeypatch.setattr(rendered._Renderer, "__call__", stopping)
    with pytest.raises(Interrupted, match="the same command goes on"):
        render_pairs(tmp_path / "out", SMALL)
    render_pairs(tmp_path / "out", SMALL)
    assert [person for person, _ in made].count(SMALL.first) == 10
    assert tree_bytes(tmp_path / "out") == tree_bytes(folder)


def test_two_processes_write_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    render_pairs(tmp_path / "two", SMALL, workers=2)
    assert tree_bytes(tmp_path / "two") == tree_bytes(folder)


def test_the_same_call_does_nothing_and_another_is_refused(folder: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    assert len(render_pairs(folder, SMALL)) == 20
    assert {p: p.stat().st_mtime_ns for p in folder.iterdir()} == before
    with pytest.raises(RunFolderError, match="another run"):
        render_pairs(folder, RenderConfig(identities=2, per_identity=10, size=SIZE))


def test_people_belong_to_one_purpose() -> None:
    magnifier = {*TripleConfig().train_people(), *TripleConfig().held_out_people()}
    used = [set(JUDGE_SEEDS), magnifier, set(TRAIN_SEEDS), set(VALIDATION_SEEDS)]
    assert sum(map(len, used)) == len(set.union(*used))


def test_rows_say_where_pairs_come_from(folder: Path) -> None:
    manifest = Manifest.read(folder)
    row: Row = manifest.row(-1)
    assert row.subject_key == "rendered/person0000920001"
    assert row.provenance.subjects_seen == (row.subject_key,)
    assert row.provenance.seed == 920_001
    assert "CC0" in row.provenance.licence
    assert len(set(manifest.subject_keys())) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"identities": 0}, "identities=0"),
        ({"identities": 60_001}, "leave their range"),
        ({"first": 900_000}, "leave their range"),
        ({"first": 980_000, "identities": 10_001}, "leave their range"),
        ({"size": 8}, "size=8"),
        ({"neutral": 0.5, "single": 0.4}, "neutral \\+ single \\+ emotional = 1.1 exceeds 1"),
        ({"still": 1.5}, "still=1.5"),
        ({"rigs": 1.5}, "rigs=1.5 is no share"),
        ({"expressive": -0.1}, "expressive=-0.1 is no share"),
        ({"glasses": 1.1}, "glasses=1.1 is no share"),
        ({"brow_hair": -1.0}, "brow_hair=-1 is no share"),
        ({"focal": 7.0}, "focal=7 is no share"),
        ({"yaw": 40.0}, "yaw=40 is outside 0..35"),
        ({"head": -1.0}, "head=-1"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_bad_config(change: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RenderConfig(**change)  # type: ignore[arg-type]
