"""The prepare stage: from a release (or a corpus) to aligned crops and flow."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from mesynth.api import prepare as run_prepare
from mesynth.cli import main
from mesynth.core.errors import (
    DatasetLayoutError,
    MesynthError,
    NoFaceError,
    RunFolderError,
    UnreadableImageError,
    WeightsUnavailable,
)
from mesynth.core.facs import parse_request
from mesynth.core.framing import OWN, KnownFraming, parse_framing
from mesynth.data import ClipDataset
from mesynth.datasets.casme2 import CASME2, load_casme2
from mesynth.datasets.check import check, kinds_of_warnings
from mesynth.datasets.load import load_release
from mesynth.preprocess import landmarks as landmarks_module
from mesynth.preprocess.align import EYE_LINE, IOD_SHARE, eye_centres
from mesynth.preprocess.config import PrepareConfig
from mesynth.preprocess.flow import estimate_flow
from mesynth.preprocess.prepare import early_frame, prepare, thin
from mesynth.store.manifest import EARLY, Manifest, Row
from mesynth.store.shards import (
    frame_names,
    known_framing,
    read_extra,
    read_flow,
    read_frames,
    read_landmarks,
    read_span,
)
from mesynth.store.stage import Interrupted, read_skipped, shard_size
from mesynth.store.videos import read_image
from recognizer.data import DataConfig, load
from recognizer.views import VIEWS
from tests.preprocess.faces import PEAK, write_faces


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return load_casme2(write_faces(tmp_path_factory.mktemp("release")))


@pytest.fixture(scope="module")
def prepared(source: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return prepare(source, tmp_path_factory.mktemp("prepared") / "out", landmarker="mediapipe", workers=1)


@pytest.fixture
def own(tmp_path: Path) -> Manifest:
    """A release that a test may damage."""
    return load_casme2(write_faces(tmp_path / "release"))


def shards(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.glob("*.tar"))}


def test_rows_keep_their_annotation(source: Manifest, prepared: Manifest) -> None:
    assert len(prepared) == len(source) == 3
    for before, after in zip(source, prepared, strict=True):
        changed = {"height", "width", "frame_files", "frames", "flow", "provenance"}
        for name in set(vars(before)) - changed:
            assert getattr(before, name) == getattr(after, name), name
        assert (after.height, after.width, after.frame_files) == (128, 128, ())
        assert len(after.provenance.parents) == 1
        assert replace(after.provenance, parents=(), code_version="") == before.provenance


def test_parents_name_the_source_frames(source: Manifest, prepared: Manifest) -> None:
    before, after = source.row(0), prepared.row(0)
    digest = hashlib.sha256(b"".join((source.root / f).read_bytes() for f in before.frame_files))
    assert after.provenance.parents == (digest.hexdigest(),)


def test_crops_are_canonical(prepared: Manifest) -> None:
    for row in prepared:
        points = read_landmarks(prepared.root, row)
        right, left = eye_centres(points)
        assert (left - right) == pytest.approx([IOD_SHARE * 128, 0], abs=0.05)
        assert (left + right) / 2 == pytest.approx([63.5, EYE_LINE * 128 - 0.5], abs=0.05)
        frames = read_frames(prepared.root, row)
        assert frames.shape == (row.n_frames, 128, 128, 3)


def test_landmarks_fit_the_stored_onset(prepared: Manifest) -> None:
    made = landmarks_module.MediapipeLandmarker()
    row = prepared.row(0)
    again = made.detect(read_frames(prepared.root, row)[0])
    made.close()
    assert np.hypot(*(again - read_landmarks(prepared.root, row)).T).mean() < 2


def test_flow_is_the_motion_put_in(prepared: Manifest) -> None:
    """The mouth rises by PEAK source pixels at the apex; nothing else moves."""
    for row in prepared:
        uv = read_flow(prepared.root, row)
        frames = read_frames(prepared.root, row)
        assert np.array_equal(uv, estimate_flow(frames[0], frames[row.apex_index]).uv)
        share = {8: 0.8, 98: 1.0, 5: 1.0}[row.onset]
        lips = read_landmarks(prepared.root, row)[60:68].mean(0).round().astype(int)
        scale = IOD_SHARE * 128 / 42.9  # the astronaut's eyes are 42.9 px apart
        assert uv[1, lips[1], lips[0]] == pytest.approx(-share * PEAK * scale, rel=0.25)
        assert np.hypot(*uv[:, :40]).mean() < 0.1


def test_without_an_apex_flow_goes_to_the_middle_frame(prepared: Manifest) -> None:
    row = prepared.row(1)
    assert (row.apex, row.apex_index, row.n_frames) == (None, 2, 5)
    assert "middle frame" in row.warnings[0]


def test_a_loader_that_leaves_the_apex_open(source: Manifest, tmp_path: Path) -> None:
    """SMIC has no apex: its loader may point nowhere, and the middle frame is taken here."""
    row = replace(source.row(0), apex=None, apex_index=0)
    made = prepare(Manifest.from_rows([row], source.root), tmp_path / "out", landmarker="mediapipe", workers=1)
    assert made.row(0).apex_index == 2
    assert np.abs(read_flow(made.root, made.row(0))).max() > 1


def test_frames_named_by_the_clock_and_an_apex_at_the_onset(source: Manifest, tmp_path: Path) -> None:
    """Frame numbers of 64 bits come through; a flow that is zero because of the annotation is said to be."""
    start, row = 1_561_983_045_123_456_789, source.row(0)
    row = replace(row, onset=start, apex=start, offset=start + 400_000_000, apex_index=0)
    made = prepare(Manifest.from_rows([row], source.root), tmp_path / "out", landmarker="mediapipe", workers=1)
    again = Manifest.read(tmp_path / "out").row(0)
    assert (again.onset, again.apex, again.offset) == (start, start, start + 400_000_000)
    assert np.abs(read_flow(made.root, made.row(0))).max() < 1e-3
    assert again.warnings[-1] == "the apex is the onset's frame: the flow from one to the other is zero"
    assert kinds_of_warnings(made)[again.warnings[-1]] == 1


def test_prepared_again_from_its_own_output(prepared: Manifest, tmp_path: Path) -> None:
    """A manifest with shards is as good an input as image files; stored landmarks make it exact."""
    again = prepare(prepared, tmp_path / "again", landmarker="stored", workers=1)
    for one, two in zip(prepared, again, strict=True):
        assert two.provenance.parents == (*one.provenance.parents, one.frames.sha256 if one.frames else "")
        difference = read_frames(prepared.root, one).astype(int) - read_frames(again.root, two)
        assert np.abs(difference).max() <= 1


def test_size_and_method_and_no_frames(source: Manifest, tmp_path: Path) -> None:
    made = prepare(
        source,
        tmp_path / "out",
        PrepareConfig(size=64, method="farneback", keep_frames=False),
        landmarker="mediapipe",
    )
    assert read_flow(made.root, made.row(0)).shape == (2, 64, 64)
    assert made.row(0).frames is None
    assert not list((tmp_path / "out").glob("frames-*.tar"))


def test_long_clips_are_thinned(source: Manifest, prepared: Manifest, tmp_path: Path) -> None:
    made = prepare(source, tmp_path / "out", landmarker="mediapipe", config=PrepareConfig(max_frames=4))
    for full, thinned in zip(prepared, made, strict=True):
        all_frames, some = read_frames(prepared.root, full), read_frames(made.root, thinned)
        assert len(some) == thinned.n_frames <= 4
        assert np.array_equal(some[0], all_frames[0])
        assert np.array_equal(some[-1], all_frames[-1])
        assert np.array_equal(some[thinned.apex_index], all_frames[full.apex_index])
        assert np.array_equal(read_flow(made.root, thinned), read_flow(prepared.root, full))
        assert (thinned.n_frames - 1) / thinned.fps == pytest.approx((full.n_frames - 1) / full.fps)
        assert thinned.warnings[-1] == f"thinned from {full.n_frames} to {thinned.n_frames} frames"


@pytest.mark.parametrize("n", [3, 5, 24, 141])
@pytest.mark.parametrize("limit", [3, 4, 9, 24])
def test_thin_keeps_what_is_annotated(n: int, limit: int) -> None:
    for apex in range(n):
        kept = thin(n, apex, limit)
        assert {0, apex, n - 1} <= set(kept)
        assert kept == sorted(set(kept))
        assert min(n, limit) - 1 <= len(kept) <= limit


# ---------------------------------------------------------------- early parts


@pytest.mark.parametrize("apex", [1, 2, 3, 7, 20, 141])
@pytest.mark.parametrize("share", [0.01, 0.1, 0.3, 0.5, 0.99])
def test_the_early_frame_is_the_nearest_and_never_the_onset(apex: int, share: float) -> None:
    away = [abs(share * apex - k) for k in range(apex + 1)]
    nearest = max(k for k, d in enumerate(away) if d <= min(away) + 1e-9)
    if nearest:
        assert early_frame(apex, share) == nearest
        return
    with pytest.raises(
        MesynthError, match=rf"early={share:g} of the {apex} frames .* ends at the onset itself"
    ) as error:
        early_frame(apex, share)
    least = float(str(error.value).split("; early=")[1].split()[0])
    assert early_frame(apex, least) == 1
    with pytest.raises(MesynthError, match="the onset itself"):
        early_frame(apex, least - 0.01)


def test_an_early_part_ends_before_the_apex(source: Manifest, prepared: Manifest, tmp_path: Path) -> None:
    """Frames, flow, inputs, fps and apex are those of the whole clip up to that frame; the annotation stays."""
    whole = prepare(
        source, tmp_path / "whole", PrepareConfig(size=64, inputs=("flows", "difference")), landmarker="mediapipe"
    )
    config = PrepareConfig(size=64, inputs=("flows", "difference", "dynamic", "landmarks"), early=0.6)
    made = prepare(source, tmp_path / "out", config, landmarker="mediapipe")
    assert [row.clip_id for row in made] == [whole.row(i).clip_id for i in (0, 2)]
    assert read_skipped(made.root)[0].reason == (
        "early=0.6 is a share of the way to an apex, and none is annotated; --apex flow spots it"
    )
    for row in made:
        full = next(one for one in whole if one.clip_id == row.clip_id)
        end = {3: 2, 2: 1}[full.apex_index]
        assert (row.n_frames, row.apex_index, row.fps) == (end + 1, end, full.fps)
        assert (row.onset, row.apex, row.offset) == (full.onset, full.apex, full.offset)
        assert (row.expression, row.label, row.au_text, row.au_present) == (
            full.expression, full.label, full.au_text, full.au_present,
        )  # fmt: skip
        assert row.warnings[-1] == f"{EARLY}: ends at frame {end} of the {full.apex_index} from onset to apex"
        assert len(row.provenance.parents) == 1
        before, frames = read_frames(whole.root, full), read_frames(made.root, row)
        assert np.array_equal(frames, before[: end + 1])
        assert np.array_equal(read_flow(made.root, row), estimate_flow(before[0], before[end]).uv)
        flows, of_all = (read_extra(m.root, r, "flows") for m, r in ((made, row), (whole, full)))
        assert flows.shape == (end, 2, 64, 64)
        assert np.array_equal(flows, of_all[:end])
        assert read_extra(made.root, row, "landmarks").shape == (end + 1, 68, 2)
        assert np.array_equal(read_extra(made.root, row, "difference"), frames[-1].astype(np.int16) - frames[0])
        # The mouth rises and falls evenly: frames 2 and 3 of the first clip are alike, frame 1 of the other half way.
        moved = [np.abs(read_flow(m.root, r)).max() for m, r in ((made, row), (whole, full))]
        assert moved[0] / moved[1] == pytest.approx({3: 1.0, 2: 0.5}[full.apex_index], rel=0.25)
    assert kinds_of_warnings(made)[f"{EARLY}: ends at frame N of the N from onset to apex"] == 2


def test_what_is_thinned_is_the_early_part(source: Manifest, tmp_path: Path) -> None:
    """So that as many frames as asked for are of it; and clips whose apex is the onset are left out."""
    rows = [replace(source.row(0), apex=8, apex_index=0, clip_id="still"), source.row(0)]
    rows[1] = replace(rows[1], apex=13, apex_index=5)  # the whole clip rises
    config = PrepareConfig(size=64, early=0.8, max_frames=3)
    made = prepare(Manifest.from_rows(rows, source.root), tmp_path / "out", config, landmarker="mediapipe")
    assert (made.row(0).n_frames, made.row(0).apex_index, made.row(0).fps) == (3, 2, source.row(0).fps / 2)
    assert made.row(0).warnings[-2:] == (
        f"{EARLY}: ends at frame 4 of the 5 from onset to apex", "thinned from 5 to 3 frames",
    )  # fmt: skip
    assert [entry.reason for entry in read_skipped(made.root)] == [
        "early=0.8 of the 0 frames from onset to apex ends at the onset itself"
    ]


def test_an_early_part_towards_a_spotted_apex(source: Manifest, tmp_path: Path) -> None:
    row = replace(source.row(1), apex=None, apex_index=2)
    short = replace(row, clip_id="short", frame_files=row.frame_files[:4], n_frames=4)
    rows = Manifest.from_rows([row, short], source.root)
    whole = prepare(rows, tmp_path / "whole", PrepareConfig(apex="flow"), landmarker="mediapipe")
    made = prepare(rows, tmp_path / "out", PrepareConfig(apex="flow", early=0.5), landmarker="mediapipe")
    apex = whole.row(0).apex_index
    (early,) = made
    assert (early.n_frames, early.apex_index) == (early_frame(apex, 0.5) + 1, early_frame(apex, 0.5))
    assert f"apex spotted by flow at stored frame {apex}" in early.warnings
    assert read_skipped(made.root)[0].reason == (
        "early=0.5 is a share of the way to an apex, and 4 frames are too few to spot an apex"
    )


def test_an_early_part_does_not_say_how_strong_the_apex_was(source: Manifest, prepared: Manifest) -> None:
    """What is known to be absent stays so."""
    vector = parse_request("12=0.8,L4=0.2")
    row = replace(source.row(0), **Row.au_columns(vector))
    made = prepare(
        Manifest.from_rows([row], source.root), prepared.root.parent / "early-aus", PrepareConfig(early=0.5),
        landmarker="mediapipe",
    ).row(0)  # fmt: skip
    shown = vector.intensity > 0
    assert np.array_equal(made.aus.mask, ~shown)
    assert (made.aus.intensity == 0).all()
    assert made.au_present == row.au_present


def test_nothing_early_is_one_line_and_whole_clips_are_the_runs_they_were(source: Manifest, tmp_path: Path) -> None:
    with pytest.raises(NoFaceError, match=r"none of 3 clips could be prepared; .*early=0\.1 of the 3 frames") as error:
        prepare(source, tmp_path / "none", PrepareConfig(early=0.1), landmarker="mediapipe")
    assert "\n" not in str(error.value)
    prepare(source, tmp_path / "out", PrepareConfig(size=64, early=1.0), landmarker="mediapipe")
    assert "early" not in (tmp_path / "out" / "run.yaml").read_text()
    with pytest.raises(RunFolderError, match="early"):
        prepare(source, tmp_path / "out", PrepareConfig(size=64, early=0.5), landmarker="mediapipe")


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "nan", "a lot"])
def test_shares_that_are_none_are_one_line(value: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        main, ["prepare", "casme2", "--root", str(tmp_path), "--early", value, "--out", str(tmp_path / "out")]
    )
    assert done.exit_code == 2
    assert done.output.count("Error") == 1
    assert "early" in done.output.splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_two_processes_write_the_same(source: Manifest, prepared: Manifest, tmp_path: Path) -> None:
    # more clips than fit one shard, so that there is work for two processes
    rows = [replace(row, clip_id=f"{row.clip_id}/{i}") for i in range(2) for row in source]
    assert len(rows) > shard_size(len(rows))
    many = Manifest.from_rows(rows, source.root)
    one = prepare(many, tmp_path / "one", landmarker="mediapipe", workers=1)
    two = prepare(many, tmp_path / "two", landmarker="mediapipe", workers=2)
    assert one.hash() == two.hash()
    assert shards(tmp_path / "one") == shards(tmp_path / "two")


# ---------------------------------------------------------------- what goes wrong


def blacken(manifest: Manifest, index: int) -> None:
    for file in manifest.row(index).frame_files:
        assert cv2.imwrite(str(manifest.root / file), np.zeros((224, 224, 3), np.uint8))


def test_a_clip_without_a_face_is_left_out_and_listed(own: Manifest, tmp_path: Path) -> None:
    blacken(own, 1)
    out = tmp_path / "out"
    made = prepare(own, out, landmarker="mediapipe", workers=1)
    assert [row.clip for row in made] == ["EP02_01f", "EP02_01"]
    (skipped,) = read_skipped(out)
    assert skipped.clip_id == own.row(1).clip_id
    assert "no face found in a 224x224 picture" in skipped.reason
    again = prepare(own, out, landmarker="mediapipe", workers=1)  # the same command finds it finished
    assert again.hash() == made.hash()
    assert len(read_skipped(out)) == 1


def test_no_clip_with_a_face(own: Manifest, tmp_path: Path) -> None:
    for i in range(3):
        blacken(own, i)
    for _ in range(2):  # the second time it is not mistaken for a finished run
        with pytest.raises(NoFaceError, match="none of 3 clips could be prepared; casme2/sub01/EP02_01f/8"):
            prepare(own, tmp_path / "out", landmarker="mediapipe", workers=1)


def test_frames_that_went_missing(own: Manifest, tmp_path: Path) -> None:
    """Gone since the manifest was made: onset 8, frame 10 and apex 11 of frames 8..13."""
    for number in (8, 10, 11):
        (own.root / f"CASME2_RAW_selected/sub01/EP02_01f/img{number}.png").unlink()
    row = prepare(own, tmp_path / "out", landmarker="mediapipe", workers=1).row(0)
    assert (row.n_frames, row.apex_index) == (3, 1)  # 9, 12, 13
    onset, apex, count = row.warnings
    assert "img8.png is gone" in onset
    assert "img9.png taken" in onset
    assert "img11.png is gone" in apex
    assert "img12.png taken" in apex
    assert count == "3 of 6 frame files are gone"


def test_a_database_that_moved(own: Manifest, tmp_path: Path) -> None:
    moved = Manifest(own.table, tmp_path / "elsewhere")
    with pytest.raises(MesynthError, match="0 of its 6 frame files"):
        prepare(moved, tmp_path / "out", landmarker="mediapipe", workers=1)


def test_truncated_frame(own: Manifest, tmp_path: Path) -> None:
    file = own.root / own.row(0).frame_files[2]
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UnreadableImageError, match=r"img10\.png"):
        prepare(own, tmp_path / "out", landmarker="mediapipe", workers=1)


def test_folder_of_another_run(source: Manifest, prepared: Manifest, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="another run"):
        prepare(source, prepared.root, landmarker="mediapipe", workers=1, config=PrepareConfig(size=64))
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(RunFolderError, match="not empty"):
        prepare(source, tmp_path, landmarker="mediapipe", workers=1)


def test_interrupted_and_resumed(source: Manifest, prepared: Manifest, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        prepare(source, tmp_path / "out", landmarker="mediapipe", workers=1, progress=stop)
    made = prepare(source, tmp_path / "out", landmarker="mediapipe", workers=1)
    assert made.hash() == prepared.hash()
    assert not (tmp_path / "out" / "skipped.csv").exists()


def test_unknown_landmarker(source: Manifest, tmp_path: Path) -> None:
    with pytest.raises(MesynthError, match="openface"):
        prepare(source, tmp_path / "out", landmarker="openface")
    assert not (tmp_path / "out").exists()


def test_unknown_device(source: Manifest, tmp_path: Path) -> None:
    with pytest.raises(MesynthError, match=r"abacus.*choose auto, cpu, cuda"):
        prepare(source, tmp_path / "out", landmarker="mediapipe", device="abacus")
    assert not (tmp_path / "out").exists()


def test_empty_manifest(tmp_path: Path) -> None:
    with pytest.raises(MesynthError, match="no clips"):
        prepare(Manifest.from_rows([], tmp_path), tmp_path / "out")


def test_landmark_weights_missing(source: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(WeightsUnavailable, match="s3fd"):
        prepare(source, tmp_path / "out", landmarker="face-alignment", workers=1)
    assert not (tmp_path / "out").exists()  # the folder is free for a run with another landmarker


def test_given_landmarks(source: Manifest, prepared: Manifest, tmp_path: Path) -> None:
    """From a table, one clip by its id and one by its file name; the third is not in it."""
    made = landmarks_module.MediapipeLandmarker()
    found = [made.detect(read_image(source.root / row.frame_files[0])) for row in source]
    made.close()
    table = tmp_path / "l.npz"
    np.savez(table, **{source.row(0).clip_id: found[0], "img98.png": found[1]})
    result = prepare(source, tmp_path / "out", landmarker=str(table), workers=1)
    assert len(result) == 2
    assert read_landmarks(result.root, result.row(1)) == pytest.approx(read_landmarks(prepared.root, prepared.row(1)))
    assert "no landmarks for casme2/sub02/EP02_01/5" in read_skipped(tmp_path / "out")[0].reason
    np.savez(table, **{source.row(0).clip_id: found[0]})
    with pytest.raises(RunFolderError):  # the table's content is part of the run
        prepare(source, tmp_path / "out", landmarker=str(table), workers=1)


# ---------------------------------------------------------------- depth, size, several faces


def test_twelve_bits_in_sixteen_are_the_same_clip(own: Manifest, prepared: Manifest, tmp_path: Path) -> None:
    """Frames, landmarks and flow, to the byte."""
    for file in own.row(0).frame_files:
        picture = cv2.imread(str(own.root / file))
        assert cv2.imwrite(str(own.root / file), picture.astype(np.uint16) << 4)
    loaded = load_casme2(own.root)
    assert any("frames have 16 bits" in text for text in loaded.row(0).warnings)
    assert not any("16 bits" in text for text in loaded.row(1).warnings)
    made = prepare(loaded, tmp_path / "out", landmarker="mediapipe", workers=1)
    assert "16-bit frames use 12 bits: all of them divided by 16" in made.row(0).warnings
    for before, after in zip(prepared, made, strict=True):
        assert np.array_equal(read_frames(prepared.root, before), read_frames(made.root, after))
        assert np.array_equal(read_flow(prepared.root, before), read_flow(made.root, after))


def test_frames_of_two_sizes_are_no_clip(own: Manifest, tmp_path: Path) -> None:
    """One crop would show the smaller frame at another scale. The loader sees it on onset, apex and offset."""
    row = own.row(0)
    files = row.frame_files
    for which in (0, row.apex_index, len(files) - 1, 1):
        file = own.root / files[which]
        whole = file.read_bytes()
        cv2.imwrite(str(file), cv2.resize(cv2.imread(str(file)), None, fx=0.5, fy=0.5))
        with pytest.raises(UnreadableImageError, match=r"frames of one clip differ in size: .*112x112"):
            prepare(own, tmp_path / f"out{which}", landmarker="mediapipe", workers=1)
        if which != 1:
            with pytest.raises(DatasetLayoutError, match="differ in size"):
                load_casme2(own.root)
            found = check(load_release(CASME2, own.root))
            assert "differ in size" in found.problems[0].reason
            assert not found.complete
        if which == 1:
            made = prepare(own, tmp_path / "skipped", landmarker="mediapipe", workers=1, skip_bad=True)
            assert len(made) == len(own) - 1
            assert "differ in size" in read_skipped(tmp_path / "skipped")[0].reason
        file.write_bytes(whole)


def test_which_of_two_faces_on_an_onset(own: Manifest, tmp_path: Path) -> None:
    """A smaller second face beside the first: said, and either can be asked for; found once for both."""
    manifest = Manifest.from_rows([own.row(0)], own.root)
    for file in own.row(0).frame_files:
        picture = cv2.imread(str(own.root / file))
        small = cv2.copyMakeBorder(cv2.resize(picture, (168, 168)), 28, 28, 0, 0, cv2.BORDER_REPLICATE)
        cv2.imwrite(str(own.root / file), np.concatenate([small, picture], 1))
    cache = tmp_path / "cache"
    made = {
        face: prepare(
            manifest, tmp_path / face, PrepareConfig(face=face), landmarker="mediapipe", workers=1, cache=cache
        )
        for face in ("largest", "1", "2")
    }
    assert len(list(cache.rglob("*.npy"))) == 1
    assert "the onset shows 2 faces: taken was the largest, 2 from the left" in made["largest"].row(0).warnings
    assert "the onset shows 2 faces: taken was 1 from the left" in made["1"].row(0).warnings
    frames = {face: read_frames(m.root, m.row(0)) for face, m in made.items()}
    assert np.array_equal(frames["largest"], frames["2"])
    assert np.abs(frames["1"].astype(int) - frames["2"]).mean() > 1
    with pytest.raises(NoFaceError, match="shows 2 faces and no face 3"):
        prepare(manifest, tmp_path / "3", PrepareConfig(face="3"), landmarker="mediapipe", workers=1, cache=cache)


def test_an_onset_that_stands_on_its_head_is_told(own: Manifest, tmp_path: Path) -> None:
    row = own.row(0)
    for name in row.frame_files:
        file = own.root / name
        assert cv2.imwrite(str(file), np.ascontiguousarray(cv2.imread(str(file))[::-1, ::-1]))
    made = prepare(own, tmp_path / "out", landmarker="mediapipe", cache=tmp_path / "found")
    told = [any("looks upside down" in warning for warning in row.warnings) for row in made]
    assert told == [True, False, False]
    again = prepare(own, tmp_path / "again", landmarker="mediapipe", cache=tmp_path / "found")
    assert [row.warnings for row in again] == [row.warnings for row in made]


def test_a_damaged_frame_names_the_way_on(own: Manifest, tmp_path: Path) -> None:
    (own.root / own.row(0).frame_files[2]).write_bytes(b"")
    with pytest.raises(UnreadableImageError, match="it is empty; replace it; --skip-bad goes on without"):
        prepare(own, tmp_path / "out", landmarker="mediapipe")


# ---------------------------------------------------------------- where faces lie


def test_our_crop_is_recorded_and_changes_no_run(prepared: Manifest) -> None:
    assert prepared.framing == KnownFraming(framing=OWN)
    assert "frame:" not in (prepared.root / "run.yaml").read_text()
    again = known_framing(replace(prepared, meta={}))  # as of a folder that records nothing
    assert again is not None
    assert not again.differs(KnownFraming(framing=OWN))


@pytest.mark.parametrize("frame", ["eyes=0.57,row=0.25,column=0.48", "eyes=0.5,height=0.4", "row=0.3"])
def test_faces_lie_where_they_are_asked_to(prepared: Manifest, tmp_path: Path, frame: str) -> None:
    made = run_prepare("corpus", prepared.root, tmp_path / "a", landmarker="stored", frame=frame, size=96)
    wanted = parse_framing(frame)
    assert made.framing == KnownFraming(framing=wanted)
    for row in made:
        right, left = eye_centres(read_landmarks(made.root, row))
        assert left[0] - right[0] == pytest.approx(wanted.eyes * 96, rel=0.01)
        assert (left + right) / 2 == pytest.approx(np.array([wanted.column, wanted.row]) * 96 - 0.5, abs=0.2)
    like = run_prepare("corpus", prepared.root, tmp_path / "b", landmarker="stored", frame=f"like:{made.root}", size=96)
    assert shards(like.root) == shards(made.root)


@pytest.mark.parametrize(
    ("steps", "words"),
    [({"frame": "eyes=3"}, "eyes=3"), ({"frame": "nose=1"}, "nose=1"), ({"frame": "like:no/such"}, "no/such"),
     ({"frame": "eyes=0.5", "crop": "piecewise"}, "needs crop 'similarity'")],
)  # fmt: skip
def test_frames_that_cannot_be(prepared: Manifest, tmp_path: Path, steps: dict[str, str], words: str) -> None:
    with pytest.raises(MesynthError, match=words):
        run_prepare("corpus", prepared.root, tmp_path / "a", landmarker="stored", **steps)  # type: ignore[arg-type]
    options = [part for name, value in steps.items() for part in (f"--{name}", value)]
    command = ["prepare", "corpus", "--root", str(prepared.root), "--out", str(tmp_path / "a"), *options]
    told = CliRunner().invoke(main, command)
    assert told.exit_code == 2
    assert words in " ".join(told.output.split())
    assert not (tmp_path / "a").exists()


@pytest.fixture(scope="module")
def filmed(source: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """:func:`prepared` by the command, its frames as video."""
    out = tmp_path_factory.mktemp("filmed") / "out"
    command = ["prepare", "casme2", "--root", str(source.root), "--store", "video", "--landmarker", "mediapipe"]
    done = CliRunner().invoke(main, [*command, "--out", str(out), "--workers", "1"])
    assert done.exit_code == 0, done.output
    return Manifest.read(out)


def test_clips_prepared_into_videos_are_the_same_clips(prepared: Manifest, filmed: Manifest, tmp_path: Path) -> None:
    for one, two in zip(prepared, filmed, strict=True):
        assert one.frames
        assert two.frames
        assert frame_names(read_span(prepared.root, one.frames)) == [f"{i:03d}.png" for i in range(one.n_frames)]
        assert frame_names(read_span(filmed.root, two.frames)) == ["frames.mkv"]
        assert np.array_equal(read_frames(prepared.root, one), read_frames(filmed.root, two))
        ends = [0, one.apex_index]
        assert np.array_equal(read_frames(prepared.root, one, ends), read_frames(filmed.root, two, ends))
        assert replace(one, frames=None, flow=None) == replace(two, frames=None, flow=None)
        assert np.array_equal(read_flow(prepared.root, one), read_flow(filmed.root, two))
    # The flow is in other tars, with the same bytes.
    flows = [{k: v for k, v in shards(m.root).items() if k.startswith("flow")} for m in (prepared, filmed)]
    assert flows[0] == flows[1]
    again = [prepare(m, tmp_path / m.root.parent.name, landmarker="stored", workers=1) for m in (prepared, filmed)]
    assert shards(again[0].root) == shards(again[1].root)


def test_a_corpus_of_videos_feeds_training_and_recognizers(prepared: Manifest, filmed: Manifest) -> None:
    parts = ["frames", "flow", "landmarks"]
    for one, two in zip(ClipDataset(prepared, parts=parts), ClipDataset(filmed, parts=parts), strict=True):
        assert one.keys() == two.keys()
        for name in (*parts, "label", "apex", "length"):
            assert np.array_equal(np.asarray(one[name]), np.asarray(two[name])), name
    config = DataConfig(frame_size=32, frames=4, key_frames=2)
    views = tuple(name for name, view in VIEWS.items() if not view.costly)  # those that are read off the frames
    read = [load(m, config, views=views).inputs() for m in (prepared, filmed)]
    assert read[0].keys() == read[1].keys() == set(views)
    for name, view in read[0].items():
        assert np.ptp(view) > 0, name
        np.testing.assert_array_equal(view, read[1][name], err_msg=name)
