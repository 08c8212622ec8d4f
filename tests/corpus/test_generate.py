"""From a picture or a manifest to a corpus: what it holds, that it repeats, and every way it can go wrong."""

import json
import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from skimage import data

from mesynth.cli import main
from mesynth.core.errors import RunFolderError
from mesynth.corpus.exports.run import export, import_export
from mesynth.corpus.faces import margin
from mesynth.corpus.generate import Preview, generate
from mesynth.corpus.plan import PlanConfig
from mesynth.corpus.verify import verify
from mesynth.motion.nuisance import Nuisance
from mesynth.store import shards, videos
from mesynth.store.manifest import Manifest
from tests import warm
from tests.corpus.coded import made_bytes

CONFIG = PlanConfig(
    emotions=("surprise", "positive"), count=4, fps=50, duration=(0.2, 0.3), size=96,
    nuisance=Nuisance(noise=1, head=1, blink=0.5),
)  # fmt: skip


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "astronaut.png"
    cv2.imwrite(str(path), data.astronaut()[..., ::-1])
    return path


@pytest.fixture(scope="module")
def corpus(photo: Path, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return generate(photo, CONFIG, tmp_path_factory.mktemp("out") / "corpus", preview=Preview(count=1), workers=1)


def _cli(*args: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in args])


def _refused(result: Result, says: str) -> None:
    assert result.exit_code == 2, result.output
    lines = [line for line in result.output.splitlines() if line.startswith("Error")]
    assert len(lines) == 1, result.output
    assert says in lines[0]
    assert "Traceback" not in result.output


def test_clips_are_what_the_rows_say(corpus: Manifest) -> None:
    assert len(corpus) == 4
    for row in corpus:
        frames = shards.read_frames(corpus.root, row)
        flow = shards.read_flow(corpus.root, row)
        assert frames.shape == (row.n_frames, 96, 96, 3)
        assert flow.shape == (2, 96, 96)
        assert 10 <= row.n_frames <= 16
        assert row.au_text
        assert np.hypot(*flow).max() > 0.05
        change = np.abs(frames.astype(int) - frames[0]).mean((1, 2, 3))
        assert change[row.apex_index] > 0
    assert corpus.column("label").tolist() == ["surprise", "positive"] * 2


def test_masks_lie_beside_the_flow(corpus: Manifest, photo: Path, tmp_path: Path) -> None:
    """And go along into an export and back."""
    config = PlanConfig(au=("L45=1,25=0.8,26=0.5",), count=1, size=96)
    made = generate(photo, config, tmp_path / "made", preview=Preview(count=0), workers=1)
    row = made.row(0)
    masks = {}
    for name in ("valid", "new", "still"):
        mask = shards.read_mask(made.root, row, name)
        assert mask is not None
        masks[name] = mask
        assert mask.shape == (96, 96)
        assert mask.dtype == np.bool_
    assert 20 < masks["new"].sum() < 2000
    assert 20 < (~masks["valid"]).sum() < 2000
    flow = shards.read_flow(made.root, row)
    assert not flow[:, masks["still"]].any()
    export(made, "flow-npy", tmp_path / "out")
    back = import_export(tmp_path / "out", tmp_path / "back")
    for name, mask in masks.items():
        found = shards.read_mask(back.root, back.row(0), name)
        assert found is not None
        assert np.array_equal(found, mask)
    assert shards.read_mask(corpus.root, corpus.row(0), "still") is not None


def test_provenance_names_face_seed_and_aus(corpus: Manifest, photo: Path) -> None:
    for index, row in enumerate(corpus):
        p = row.provenance
        assert (p.kind, p.generator, p.plan_row) == ("synthetic", "motion-prior", index)
        assert p.subjects_seen == ("photo/astronaut",)
        assert p.aus_asked == row.au_text
        assert len(p.parents[0]) == 64
        assert p.seed >= 0
        assert "apex=" in p.profile


def test_previews_lie_loose(corpus: Manifest) -> None:
    folder = corpus.root / "clips" / "syn0000000"
    row = corpus.row(0)
    assert len(list((folder / "frames").iterdir())) == row.n_frames
    with av.open(str(folder / "clip.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == row.n_frames
    np.testing.assert_array_equal(np.load(folder / "flow.npy"), shards.read_flow(corpus.root, row))
    assert videos.read_image(folder / "flow.png").shape == (96, 96, 3)
    assert not (corpus.root / "clips" / "syn0000001").exists()


@pytest.fixture(scope="module")
def filmed(photo: Path, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """The same corpus with a video a clip."""
    out = tmp_path_factory.mktemp("filmed") / "corpus"
    return generate(photo, CONFIG, out, preview=Preview(count=1), pictures="video", workers=1)


def test_frames_stored_as_video_are_the_same_frames(corpus: Manifest, filmed: Manifest, tmp_path: Path) -> None:
    for png, video in zip(corpus, filmed, strict=True):
        assert video.frames is not None
        assert list(shards.read_span(filmed.root, video.frames)) == ["frames.mkv"]
        whole = shards.read_frames(corpus.root, png)
        np.testing.assert_array_equal(shards.read_frames(filmed.root, video), whole)
        ends = [0, png.apex_index]
        np.testing.assert_array_equal(shards.read_frames(filmed.root, video, ends), whole[ends])
        np.testing.assert_array_equal(shards.read_flow(filmed.root, video), shards.read_flow(corpus.root, png))
    assert verify(filmed.root).clean
    assert verify(filmed.root).frames == verify(corpus.root).frames
    for form in ("frames", "webdataset"):  # exports are unchanged, to the byte
        files = []
        for source in (corpus, filmed):
            out = tmp_path / f"{form}-{source.root.parent.name}"
            export(source, form, out)
            pictures = sorted(p for p in out.rglob("*") if p.suffix in (".png", ".tar"))
            files.append({str(p.relative_to(out)): p.read_bytes() for p in pictures})
        assert files[0].keys() == files[1].keys()
        if form == "frames":
            assert files[0]
            assert files[0] == files[1]
    with open(filmed.root / "frames-000000.tar", "rb") as tar:
        data = bytearray(tar.read())
    damaged = Path(shutil.copytree(filmed.root, tmp_path / "damaged"))
    data[3000] ^= 8
    (damaged / "frames-000000.tar").write_bytes(data)
    assert any("bytes 0 to" in str(p) or "damaged" in str(p) for p in verify(damaged).problems)


def test_another_form_is_another_run(filmed: Manifest, photo: Path) -> None:
    with pytest.raises(RunFolderError, match="holds another run"):
        generate(photo, CONFIG, filmed.root, preview=Preview(count=1), workers=1)


@pytest.mark.slow
def test_same_seed_same_bytes_with_one_process_or_two(photo: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, count=10, size=48)  # three shards
    for name, workers in {"a": 1, "b": 1, "c": 2}.items():
        generate(photo, config, tmp_path / name, preview=Preview(count=1), workers=workers)
        generate(photo, config, tmp_path / f"{name}v", preview=Preview(count=1), pictures="video", workers=workers)
    first, film = made_bytes(tmp_path / "a"), made_bytes(tmp_path / "av")
    assert film == made_bytes(tmp_path / "bv") == made_bytes(tmp_path / "cv")
    assert first == made_bytes(tmp_path / "b")
    assert first == made_bytes(tmp_path / "c")
    other = generate(photo, replace(config, seed=1), tmp_path / "d", workers=1)
    assert other.hash() != Manifest.read(tmp_path / "a").hash()


def test_a_corpus_is_a_source_of_faces(corpus: Manifest, tmp_path: Path) -> None:
    config = PlanConfig(au=("12=C",), count=1, fps=50, size=64)
    made = generate(corpus.root, config, tmp_path / "a", workers=1)
    assert made.row(0).provenance.subjects_seen == ("photo/astronaut",)
    assert shards.read_frames(made.root, made.row(0)).shape[1:] == (64, 64, 3)


def test_command_line_makes_a_clip(photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "smile"
    args = ["generate", "--faces", photo, "--au", "12=B,L4=0.2", "--fps", 50, "--out", out, "--json", "--workers", 1]
    result = _cli(*args)
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert printed["clips"] == 1
    assert printed["hash"] == Manifest.read(out).hash()
    assert _cli(*args).exit_code == 0  # the same command again changes nothing
    assert _cli(*args[:-2], "--seed", 1).exit_code == 2


def test_zero_intensity_gives_the_crop_back(photo: Path, tmp_path: Path) -> None:
    made = generate(photo, PlanConfig(au=("12=0",), fps=50, size=64), tmp_path / "a", workers=1)
    frames = shards.read_frames(made.root, made.row(0))
    faces = Manifest.read(tmp_path / "a" / "faces")
    m = margin(64)
    assert (frames == shards.read_frames(faces.root, faces.row(0))[0, m:-m, m:-m]).all()


@pytest.mark.parametrize("shape", [(512, 512), (300, 420), (1536, 1200)])
def test_whole_pictures_move_where_the_face_is(photo: Path, tmp_path: Path, shape: tuple[int, int]) -> None:
    """Frames are the picture itself, as large as 1024 pixels a side; only the head moves in it, by its own flow."""
    height, width = shape
    picture = cv2.resize(cv2.imread(str(photo)), (max(shape), max(shape)))[:height, :width]
    path = tmp_path / "portrait.png"
    cv2.imwrite(str(path), picture)
    config = replace(CONFIG, au=("4=1,12=1",), emotions=(), count=1, nuisance=Nuisance(head=1))
    made = generate(path, config, tmp_path / "out", whole=True, preview=Preview(count=0), landmarker="mediapipe")
    row = made.row(0)
    frames = shards.read_frames(made.root, row)
    k = min(1, 1024 / max(shape))
    assert frames.shape[1:3] == (row.height, row.width) == (round(height * k), round(width * k))
    if k == 1:
        np.testing.assert_array_equal(frames[0], picture[..., ::-1])
    points = shards.read_landmarks(made.root, row)
    middle, iod = points[27:].mean(0), np.linalg.norm(points[42:48].mean(0) - points[36:42].mean(0))
    y, x = np.mgrid[: row.height, : row.width]
    far = np.hypot(x - middle[0], y - middle[1]) / iod
    moved = np.abs(frames[row.apex_index].astype(int) - frames[0]).max(-1)
    assert moved[far > 3].max() == 0
    assert moved[far < 1].max() > 30
    assert np.abs(shards.read_flow(made.root, row)[:, far > 3]).max() == 0
    assert made.framing is None


def test_a_whole_picture_and_its_crop_have_one_motion(photo: Path, tmp_path: Path) -> None:
    """The flow on the picture is that on the crop, in the picture's pixels."""
    config = replace(CONFIG, au=("12=0.5",), emotions=(), count=1, size=192, nuisance=Nuisance())
    made = [
        generate(photo, config, tmp_path / str(whole), whole=whole, preview=Preview(count=0)) for whole in (False, True)
    ]
    longest = []
    for manifest in made:
        row = manifest.row(0)
        points = shards.read_landmarks(manifest.root, row)
        iod = np.linalg.norm(points[42:48].mean(0) - points[36:42].mean(0))
        longest.append(np.linalg.norm(shards.read_flow(manifest.root, row), axis=0).max() / iod)
    assert longest[0] == pytest.approx(longest[1], rel=0.05)


def test_dry_run_writes_nothing(photo: Path, tmp_path: Path) -> None:
    result = _cli("generate", "--faces", photo, "--au", "12=B", "--out", tmp_path / "a", "--dry-run")
    assert result.exit_code == 0
    assert "would generate 1 clips (65 frames of 128 px) on 1 faces" in result.output
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--au", "99=B"], "AU 99 is not in the vocabulary"),
        (["--au", "12=2"], "intensity 2 in '12=2' is outside [0, 1]"),
        (["--au", "12=B,15=B"], "AU 12 and AU 15 exclude each other"),
        (["--au", "28=E"], "would fold the picture"),
        (["--emotion", "joy"], "'joy' is not in the published table"),
        ([], "give either --au"),
        (["--au", "12=B", "--duration", "3"], "not a micro-expression"),
        (["--au", "12=B", "--duration", "long"], "'long' is no number"),
        (["--au", "12=B", "--profile", "slow"], "profile 'slow' is unknown"),
        (["--au", "12=B", "--video", "avi"], "video 'avi' is unknown"),
        (["--au", "12=B", "--landmarker", "eyes"], "'eyes'"),
        (["--au", "12=B", "--frames", "jpeg"], "--frames 'jpeg' is unknown; choose png or video"),
        (["--au", "12=B", "--frame", "full", "--size", "96"], "--size has no effect with --frame full"),
        (["--au", "12=B", "--frame", "half"], "--frame has no effect without --kind flow, unless it is full"),
        (["--au", "12=B", "--frame", "full", "--until-accepted"], "--until-accepted has no effect with --frame full"),
    ],
)
def test_bad_requests_end_in_one_line(photo: Path, tmp_path: Path, args: list[str], says: str) -> None:
    out = tmp_path / "a"
    result = _cli("generate", "--faces", photo, *args, "--out", out, "--workers", 1)
    _refused(result, says)
    assert not (out / "manifest.parquet").exists()


def test_bad_faces_end_in_one_line(tmp_path: Path) -> None:
    wall = tmp_path / "wall.png"
    cv2.imwrite(str(wall), np.full((128, 128, 3), 127, np.uint8))
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(cv2.imencode(".jpg", data.astronaut())[1].tobytes()[:20])
    (tmp_path / "empty").mkdir()
    for faces, says in {
        wall: "no face",
        cut: "cannot be read as an image",
        tmp_path / "empty": "holds no pictures",
        tmp_path / "nowhere": "does not exist",
    }.items():
        result = _cli(
            "generate", "--faces", faces, "--au", "12=B", "--out", tmp_path / "out" / faces.name, "--workers", 1
        )
        _refused(result, says)
        assert faces.name in result.output


def test_frames_of_a_database_are_no_anonymous_faces(photo: Path, tmp_path: Path) -> None:
    """As plain files their subjects would be called by file names, and the folds could not refuse them."""
    folder = tmp_path / "CASME2_RAW_selected" / "sub01" / "EP02_01f"
    folder.mkdir(parents=True)
    (folder / "img46.png").write_bytes(photo.read_bytes())
    (tmp_path / "CASME2-coding-20140508.xlsx").write_bytes(b"")
    for faces in (folder / "img46.png", folder, tmp_path):
        result = _cli("generate", "--faces", faces, "--au", "12=B", "--out", tmp_path / "out")
        _refused(result, "lies in the casme2 database")
    assert not (tmp_path / "out").exists()


def test_anothers_folder_is_refused(photo: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    _refused(_cli("generate", "--faces", photo, "--au", "12=B", "--out", tmp_path), "is not empty")


MANY = ["--emotion", "fear", "--count", 48, "--fps", 50, "--size", 64, "--preview", 12]


@pytest.fixture(scope="module")
def undisturbed(photo: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed") / "corpus"
    done = _cli("generate", "--faces", photo, *MANY, "--frames", "video", "--workers", 1, "--out", out)
    assert done.exit_code == 0, done.output
    return made_bytes(out)


@pytest.mark.slow
@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_stopped_in_the_middle_then_resumed(
    photo: Path, undisturbed: dict[str, bytes], tmp_path: Path, how: signal.Signals, code: int
) -> None:
    """Ctrl-C or a kill while two processes work; the same command then gives the bytes of an undisturbed run."""
    out = tmp_path / "a"
    command = ["generate", "--faces", photo, *MANY, "--frames", "video", "--out", out]
    running = warm.start("mesynth", *map(str, command), "--workers", "2")
    deadline = time.monotonic() + 60
    while not list(out.glob("parts/*/manifest.parquet")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(running.pid, how)  # a terminal sends Ctrl-C to the whole group
    errors = running.communicate(timeout=60)[1]
    assert running.returncode == code, errors
    assert "Traceback" not in errors
    assert not (out / "manifest.parquet").exists()
    if how is signal.SIGINT:
        assert "the same command goes on" in errors
        assert not list(out.rglob("*.tmp"))
    done = _cli(*command, "--workers", 1)
    assert done.exit_code == 0, done.output
    assert made_bytes(out) == undisturbed
