"""A face driven by another person's clip: the motion arrives where it belongs, identity stays, leaks are told."""

from __future__ import annotations

import shutil
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from mesynth.cli import main
from mesynth.core import facs
from mesynth.core.errors import ConfigError, LeakError, ManifestError, MesynthError
from mesynth.core.profiles import Profile
from mesynth.corpus.driving import DriveConfig, VideoDriver, drive_faces, driven_pairs
from mesynth.corpus.generate import Preview
from mesynth.head import Subject
from mesynth.motion.driving import Carrier, Driver, drive, measured, of_flow, skin_motion
from mesynth.motion.prior import Face
from mesynth.preprocess.regions import hide_eyes_mask
from mesynth.store.manifest import Manifest, Provenance, Row
from mesynth.store.shards import read_flow, read_frames
from mesynth.store.stage import Produced, run_stage
from recognizer.protocol import Fold, check_maker
from tests.builders import tree_bytes
from tests.recognizer.recordings import write_frames
from tests.stopped import check_stop, whole_run

SIZE = 96
NONE = np.zeros((len(facs.AU_CODES), 2), np.float32)


def _face(seed: int) -> Face:
    subject = Subject(seed, size=SIZE, supersample=1, frontal=True)
    return Face(subject.render(NONE[None], noise_seed=seed)[0], subject.landmarks())


def _clip(seed: int, request: str, n: int = 7) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames, landmarks of the onset, exact flow [2,H,W] onset -> apex."""
    subject = Subject(seed, size=SIZE, supersample=1, frontal=True)
    au = Profile(apex=0.5).alpha(n)[:, None, None] * facs.parse_request(request).intensity
    return subject.render(au), subject.landmarks(), subject.flow(NONE, au[n // 2]).uv


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()))


@pytest.mark.parametrize("request_", ["12=0.4", "1=0.6,2=0.6", "4=0.8"])
def test_motion_arrives_as_the_other_person_would_show_it(request_: str) -> None:
    frames, points, _ = _clip(1, request_)
    face, truth = _face(2), _clip(2, request_)[2]
    sample, _ = drive(face, measured(frames, points, 3, 60.0, flow="dis"))
    length = np.hypot(*truth)
    skin = length > 0.1 * length.max()
    made = sample.flow.uv
    assert _cosine(made[:, skin], truth[:, skin]) > 0.85
    assert np.hypot(*(made - truth))[skin].mean() < 0.5 * length[skin].mean()  # standing still would be 1
    known, _ = drive(face, of_flow(_clip(1, request_)[2], points, Profile(apex=0.5).alpha(7), 3, 60.0))
    assert np.hypot(*(known.flow.uv - truth))[skin].mean() < 0.4 * length[skin].mean()
    assert sample.clip.apex == 3
    np.testing.assert_array_equal(sample.clip.frames[0], face.image)


def test_the_same_face_gets_its_own_motion_back() -> None:
    frames, points, truth = _clip(3, "12=0.8")
    face = Face(frames[0], points)
    smooth = skin_motion(truth, points)
    carried = Carrier(of_flow(truth, points, np.array([0, 0.5, 1, 0.5, 0]), 2, 60.0), face).carry(smooth)
    inside = np.abs(face.place.uv).max(-1) < 0.9
    np.testing.assert_allclose(carried[inside], smooth[inside], atol=0.02 * np.abs(smooth).max() + 1e-3)


def test_a_turned_and_larger_face_turns_and_enlarges_the_motion() -> None:
    _, points, truth = _clip(3, "12=0.8")
    driver = of_flow(truth, points, np.array([0, 0.5, 1, 0.5, 0]), 2, 60.0)
    quarter = np.array([[0.0, -1.0], [1.0, 0.0]])
    middle = np.array([SIZE / 2, SIZE / 2])
    turned = (points - middle) @ quarter.T * 1.5 + middle * 1.5
    face = Face(np.full((int(SIZE * 1.5),) * 2 + (3,), 120, np.uint8), turned.astype(np.float32))
    made = Carrier(driver, face).carry(driver.fields[2])
    own = Carrier(driver, Face(np.full((SIZE, SIZE, 3), 120, np.uint8), points)).carry(driver.fields[2])
    for place in (points[48], points[54], points[57]):
        there = (place - middle) @ quarter.T * 1.5 + middle * 1.5
        (x, y), (a, b) = np.round(place).astype(int), np.round(there).astype(int)
        np.testing.assert_allclose(made[b, a], quarter @ own[y, x] * 1.5, atol=0.15 * np.abs(own).max() * 1.5)


def test_intensity_scales_and_nothing_is_nothing() -> None:
    frames, points, _ = _clip(1, "12=0.8")
    driver, face = measured(frames, points, 3, 60.0, flow="dis"), _face(2)
    still, _ = drive(face, driver, 0.0)
    assert (still.clip.frames == face.image).all()
    assert not still.flow.uv.any()
    one, two = (drive(face, driver, k)[0].flow.uv for k in (0.5, 1.0))
    moving = np.hypot(*two) > 0.3
    ratio = np.hypot(*two)[moving] / np.hypot(*one)[moving]
    assert np.median(ratio) == pytest.approx(2, abs=0.1)


def test_head_motion_and_blinks_are_not_carried() -> None:
    points = _face(1).landmarks
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    head = np.stack([1.5 - 0.02 * (y - 40), -0.8 + 0.02 * (x - 40)]).astype(np.float32)
    assert np.abs(skin_motion(head, points)).max() < 1e-3
    blink = np.stack([0 * x, 3.0 * ~hide_eyes_mask(points, SIZE)]).astype(np.float32)
    assert np.abs(skin_motion(blink, points)).max() < 1e-3


@pytest.mark.parametrize(
    "call",
    [
        lambda: measured(np.zeros((2, 32, 32, 3), np.uint8), np.zeros((68, 2)), 1, 60.0),
        lambda: measured(np.zeros((5, 32, 32, 3), np.uint8), np.zeros((68, 2)), 0, 60.0),
        lambda: Driver(np.zeros((5, 8, 8), np.float32), np.zeros(5), np.zeros((68, 2)), 1, 60.0, None),  # type: ignore
        lambda: drive(None, None, 3.5),  # type: ignore[arg-type]
        lambda: drive(None, None, 1, -1.0),  # type: ignore[arg-type]
        lambda: DriveConfig(intensity=-1),
        lambda: DriveConfig(flow="magic"),
        lambda: DriveConfig(size=8),
        lambda: DriveConfig(seed=-1),
        lambda: VideoDriver(path=Path("v"), onset=5, apex=5, offset=9, subject="a/b", licence="x"),
        lambda: VideoDriver(path=Path("v"), onset=0, apex=2, offset=3, subject="anna", licence="x"),
        lambda: VideoDriver(path=Path("v"), onset=0, apex=2, offset=3, subject="a/b", licence=" "),
    ],
)  # fmt: skip
def test_what_cannot_be(call: Any) -> None:
    with pytest.raises(MesynthError) as error:
        call()
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------- a corpus


class _Prepared:
    def __call__(self, seed: int) -> Produced:
        frames, points, truth = _clip(seed, "12=0.8")
        aus = facs.parse_request("12=0.8")
        row = Row(
            clip_id=f"db/s{seed}/c/0", database="db", subject=f"s{seed}", clip="c", onset=0, apex=3, offset=6, fps=60.0,
            n_frames=7, apex_index=3, height=SIZE, width=SIZE, emotion="happiness", label="positive", au_text="12",
            provenance=Provenance(
                kind="real", database="db", subject=f"s{seed}", licence="research only",
                subjects_seen=(f"db/s{seed}", "older/person"),
            ),
            **Row.au_columns(aus),
        )  # fmt: skip
        # The second is a clip of flow alone.
        return Produced(row, frames=frames if seed == 1 else None, flow=truth, landmarks=points)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drivers") / "prepared"
    run_stage(folder, [1, 4], _Prepared(), config={"stage": "test"})
    return folder


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared manifest of one other person."""

    def made(_: int) -> Produced:
        face = _face(2)
        row = Row(
            clip_id="people/p2/c/0", database="people", subject="p2", clip="c", onset=0, apex=0, offset=0, fps=60.0,
            n_frames=1, apex_index=0, height=SIZE, width=SIZE,
            provenance=Provenance(
                kind="real", database="people", subject="p2", licence="own", subjects_seen=("people/p2",)
            ),
        )  # fmt: skip
        return Produced(row, frames=face.image[None], landmarks=face.landmarks)

    folder = tmp_path_factory.mktemp("people") / "people"
    run_stage(folder, [0], made, config={"stage": "test"})
    return folder


def test_pairs() -> None:
    for clips in (1, 3, 5):
        for faces in (1, 2, 7):
            assert len(driven_pairs(clips, faces, False)) == clips
            assert len(set(driven_pairs(clips, faces, True))) == clips * faces


def test_a_driven_clip_has_seen_both(prepared: Path, people: Path, tmp_path: Path) -> None:
    config = DriveConfig(intensity=0.5, flow="dis", size=64)
    made = drive_faces(prepared, people, tmp_path / "driven", config, preview=Preview(count=0))
    assert len(made) == 2
    for row, driver in zip(made, Manifest.read(prepared), strict=True):
        seen = row.provenance.subjects_seen
        assert set(seen) == {"people/p2", driver.subject_key, "older/person"}
        assert row.subject_key == "people/p2"
        assert row.provenance.licence == "own; research only"
        assert row.provenance.kind == "synthetic"
        assert row.provenance.aus_source == f"clip {driver.clip_id}"
        assert (driver.frames or driver.flow).sha256 in row.provenance.parents  # type: ignore[union-attr]
        assert row.label == "positive"
        assert row.aus.intensity.max() == pytest.approx(0.4)
        assert read_frames(made.root, row).shape == (7, 64, 64, 3)
        assert np.hypot(*read_flow(made.root, row)).max() > 0.2
    first, second = made.subjects_seen()
    for person in ("people/p2", "db/s1", "older/person"):
        fold = Fold(name="out", train_index=np.array([0]), test_index=np.array([1]), held_out=frozenset({person}))
        with pytest.raises(LeakError, match=person):
            check_maker("driven", first, fold)
        if person == "db/s1":
            check_maker("driven", second, fold)


@pytest.mark.parametrize("held", ["db/s1", "older/person", "people/p2"])
def test_held_out_people_are_refused(prepared: Path, people: Path, tmp_path: Path, held: str) -> None:
    with pytest.raises(LeakError, match=held):
        drive_faces(prepared, people, tmp_path / "driven", exclude_subjects=[held])
    assert not (tmp_path / "driven").exists()


def test_command_line(prepared: Path, people: Path, tmp_path: Path) -> None:
    def run(*words: str) -> Any:
        return CliRunner().invoke(main, ["drive", "--faces", str(people), "--out", str(tmp_path / "out"), *words])

    frames, none, video = tmp_path / "one", tmp_path / "none", tmp_path / "smile.mp4"
    frames.mkdir()
    none.mkdir()
    (frames / "img1.png").write_bytes(b"")
    video.write_bytes(b"")
    told = run("--driver", str(prepared), "--every", "--dry-run")
    assert told.exit_code == 0, told.output
    assert "2 clips of 2 drivers on 1 faces" in told.output
    for words, says in [
        (("--driver", str(prepared), "--intensity", "9"), "intensity=9"),
        (("--driver", str(prepared), "--fps", "30"), "--fps has no effect"),
        (("--driver", str(prepared), "--interval", "1,2"), "driver-subject"),
        (("--driver", str(prepared), "--interval", "1,x,2", "--driver-subject", "a/b"), "1,x,2"),
        (("--driver", "nowhere", "--interval", "0,2,4", "--driver-subject", "a/b"), "nowhere does not exist"),
        (("--driver", str(prepared), "--exclude-subjects", "db/s4"), "db/s4"),
        (("--driver", str(prepared), "--driver-licence", "hers"), "--driver-licence has no effect"),
        (("--driver", "nowhere"), "no manifest.parquet in nowhere"),
        (("--driver", str(frames)), f"{frames} is a folder of frames, not prepared clips"),
        (("--driver", str(video)), f"{video} is a video, not prepared clips"),
        (("--driver", str(frames), "--interval", "0,0,0", "--driver-subject", "a/b"), "interval 0,0,0"),
        (("--driver", str(frames), "--interval", "0,1,2", "--driver-subject", "a/b", "--fps", "30"), "last frame, 0"),
        (("--driver", str(frames), "--interval", "0,1,2", "--driver-subject", "a/b"), "pass --fps"),
        (("--driver", str(frames), "--interval", "0,1,2", "--driver-subject", "a/b", "--fps", "nan"), "pass --fps"),
        (("--driver", str(prepared), "--noise", "nan"), "noise=nan"),
        (("--driver", str(prepared), "--noise", "inf"), "noise=inf"),
        (("--driver", str(prepared), "--preview", "-1"), "preview=-1"),
        (("--driver", str(prepared), "--exclude-subjects", "s4"), "'s4' is no subject; write database/subject"),
        (("--driver", str(prepared), "--exclude-subjects", "db/s04"), "no clip has 'db/s04'; is 'db/s4' meant?"),
        (("--driver", str(prepared), "--exclude-subjects", "people/P2"), "is 'people/p2' meant?"),
        (("--driver", str(prepared), "--exclude-subjects", "db/04", "--dry-run"), "is 'db/s4' meant?"),
        (
            ("--driver", str(prepared), "--exclude-subjects", "db/s4,s1", "--dry-run"),
            "'s1' is no subject; write database/subject",
        ),
        (("--driver", str(none), "--interval", "0,1,2", "--driver-subject", "a/b", "--fps", "30"), "holds no frames"),
    ]:
        failed = run(*words)
        assert failed.exit_code == 2, failed.output
        assert says in " ".join(failed.output.split())
        assert "Traceback" not in failed.output
        assert not (tmp_path / "out").exists()


def _shown(folder: Path, seed: int = 1) -> Path:
    """Frames of a driver in ``folder``/shown, and the landmarks of its onset beside them."""
    frames, points, _ = _clip(seed, "12=0.8", 9)
    named: dict[str, Any] = {"img2.png": points}
    out = write_frames(folder / "shown", frames)
    np.savez(folder / "points.npz", **named)
    return out


def test_a_video_drives(people: Path, tmp_path: Path) -> None:
    folder = _shown(tmp_path)
    video = VideoDriver(path=folder, onset=1, apex=4, offset=8, subject="own/anna", licence="hers", fps=60.0)
    config = DriveConfig(flow="dis", size=64)
    kwargs: dict[str, Any] = {"landmarker": str(tmp_path / "points.npz"), "preview": Preview(count=0)}
    made = drive_faces(video, people, tmp_path / "driven", config, **kwargs)
    (row,) = made
    assert set(row.provenance.subjects_seen) == {"people/p2", "own/anna"}
    assert row.provenance.licence == "own; hers"
    assert (row.n_frames, row.apex_index) == (8, 3)
    assert row.label == ""
    assert not row.aus.mask.any()
    with pytest.raises(LeakError, match="own/anna"):
        drive_faces(video, people, tmp_path / "other", config, exclude_subjects=["own/anna"], **kwargs)
    late = VideoDriver(path=folder, onset=1, apex=4, offset=80, subject="own/anna", licence="hers", fps=60.0)
    with pytest.raises(ConfigError, match="after its last frame, 8"):
        drive_faces(late, people, tmp_path / "late", config, **kwargs)


def test_unprepared_clips_do_not_drive(people: Path, tmp_path: Path) -> None:
    def bare(_: int) -> Produced:
        row = replace(next(iter(Manifest.read(people))), frames=None, flow=None)
        return Produced(row, frames=np.zeros((3, 32, 32, 3), np.uint8))

    run_stage(tmp_path / "bare", [0], bare, config={})
    with pytest.raises(ManifestError, match="not prepared"):
        drive_faces(tmp_path / "bare", people, tmp_path / "driven")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"apex_index": 0, "apex": 0}, "7 frames and its apex at 0"),
        ({"n_frames": 2, "apex_index": 1}, "2 frames and its apex at 1"),
    ],
)
def test_a_clip_that_does_not_rise_is_refused_before_the_work(
    prepared: Path, people: Path, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    shutil.copytree(prepared, tmp_path / "some")
    first, *rest = Manifest.read(prepared)
    Manifest.from_rows([*rest, replace(first, **changes)], tmp_path / "some").write(tmp_path / "some")
    with pytest.raises(ManifestError, match=f"db/s1/c/0 .* has {says}"):
        drive_faces(tmp_path / "some", people, tmp_path / "driven")
    assert not (tmp_path / "driven").exists()


def test_flow_without_landmarks_is_refused_before_the_work(people: Path, tmp_path: Path) -> None:
    def flow_image(_: int) -> Produced:
        return replace(_Prepared()(4), landmarks=None)

    run_stage(tmp_path / "images", [0], flow_image, config={})
    with pytest.raises(ManifestError, match=r"db/s4/c/0 has no landmarks\.npy"):
        drive_faces(tmp_path / "images", people, tmp_path / "driven")
    assert not (tmp_path / "driven").exists()


# ---------------------------------------------------------------- stopped, and asked for again


@pytest.fixture(scope="module")
def requests(prepared: Path, people: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """Words of a command for each kind of driver: clips in two shards, and frames of a video."""
    folder = tmp_path_factory.mktemp("requests")
    shutil.copytree(prepared, folder / "five")
    rows = [replace(row, clip_id=f"{row.clip_id}{i}") for i in range(3) for row in Manifest.read(prepared)][:5]
    Manifest.from_rows(rows, folder / "five").write(folder / "five")
    common = ["drive", "--faces", people, "--size", "64", "--preview", "1", "--driver"]
    video = [_shown(folder), "--interval", "1,4,8", "--driver-subject", "own/anna", "--fps", "60"]
    return {
        "clips": [*common, folder / "five"],
        "video": [*common, *video, "--landmarker", folder / "points.npz"],
    }  # fmt: skip


def _drive(words: list[Any], out: Path) -> Any:
    return CliRunner().invoke(main, [*map(str, words), "--out", str(out)])


@pytest.fixture(scope="module")
def whole(
    requests: dict[str, list[Any]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, tuple[int, dict[str, bytes]]]]:
    """Of each request the folder of a run that nobody stopped, and what is in it."""
    made: dict[str, tuple[Path, tuple[int, dict[str, bytes]]]] = {}
    for name, words in requests.items():
        out = tmp_path_factory.mktemp("whole") / "driven"
        made[name] = out, whole_run(out, partial(_drive, words, out))
        assert "manifest.parquet" in made[name][1][1]
    return made


@pytest.mark.parametrize(
    ("kind", "how", "share"),
    [
        ("clips", signal.SIGINT, 0.4), ("clips", signal.SIGKILL, 0.7), ("clips", signal.SIGKILL, 1.0),
        pytest.param("clips", signal.SIGKILL, 0.0, marks=pytest.mark.slow), ("video", signal.SIGKILL, 0.5),
        pytest.param("video", signal.SIGINT, 0.1, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_stopped_in_the_middle_then_resumed(
    requests: dict[str, list[Any]], whole: dict[str, Any], tmp_path: Path, kind: str, how: signal.Signals, share: float
) -> None:
    out, words = tmp_path / "driven", requests[kind]
    command = ["mesynth", *words, "--out", out]
    check_stop(how, share, whole[kind][1], out, command, lambda: _drive(words, out), "manifest.parquet")


def test_a_finished_request_does_nothing_and_another_is_refused(
    requests: dict[str, list[Any]], whole: dict[str, Any], tmp_path: Path
) -> None:
    """Whatever the result depends on makes another request, and nothing else does: where things lie, processes."""
    elsewhere, edited = tmp_path / "elsewhere", tmp_path / "edited"
    for name in ("shown", "points.npz", "five"):
        place = next(Path(word) for words in requests.values() for word in words if Path(str(word)).name == name)
        for folder in (elsewhere, edited):
            folder.mkdir(exist_ok=True)
            if place.is_dir():
                shutil.copytree(place, folder / name)
            else:
                shutil.copy(place, folder / name)
    frames = _clip(3, "12=0.8", 9)[0]
    shutil.rmtree(edited / "shown")
    write_frames(edited / "shown", frames)
    moved = {
        kind: [elsewhere / word.name if isinstance(word, Path) and word.name != "people" else word for word in words]
        for kind, words in requests.items()
    }
    for kind, words in moved.items():
        out, (_, before) = whole[kind]
        assert _drive([*words, "--workers", "2"], out).exit_code == 0
        assert tree_bytes(out) == before
    moved_points = dict(np.load(elsewhere / "points.npz"))
    np.savez(edited / "points.npz", **{name: points + 1 for name, points in moved_points.items()})
    for kind, changes in [
        ("clips", ["--intensity", "0.5"]), ("clips", ["--every", "--seed", "1"]), ("clips", ["--size", "96"]),
        ("clips", ["--preview", "0"]), ("video", ["--interval", "1,5,8"]), ("video", ["--driver", edited / "shown"]),
        ("video", ["--landmarker", edited / "points.npz"]), ("video", ["--driver-licence", "hers"]),
    ]:  # fmt: skip
        out, (_, before) = whole[kind]
        told = _drive([*requests[kind], *changes], out)
        assert (told.exit_code, len(told.output.splitlines())) == (2, 1), (changes, told.output)
        assert "holds another run" in told.output
        assert tree_bytes(out) == before
