from __future__ import annotations

import errno
import multiprocessing
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesynth.core import facs
from mesynth.core.errors import ConfigError, ManifestError, MesynthError
from mesynth.core.framing import OWN, KnownFraming
from mesynth.core.profiles import Profile
from mesynth.head import Subject
from mesynth.motion.nuisance import Nuisance
from mesynth.motion.prior import Face, MotionPrior
from mesynth.preprocess.align import SimilarityCrop
from mesynth.store.manifest import Manifest, framing_meta
from mesynth.store.shards import read_flow, read_frames, read_valid
from mesynth.training.data import pack as pack_module
from mesynth.training.data.pack import (
    META,
    Pack,
    PackConfig,
    PackedClip,
    Unusable,
    kept_frames,
    measured_levels,
    open_pack,
    pack_clip,
    reduced_flow,
    subject_groups,
)
from tests.builders import provenance
from tests.training import small_manifest
from tests.training.small_manifest import APEX, FRAMES, SIZE, Job

FULL = PackConfig(size=SIZE, frames=FRAMES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("clips") / "small"
    small_manifest.write(out, small_manifest.jobs("a/1", "a/2", "b/1"))
    return out


def one(tmp_path: Path, **changes: object) -> PackedClip | Unusable:
    """The packed form of a single clip with other columns or arrays."""
    made = changes.pop("made", {})
    config = changes.pop("config", FULL)
    manifest = small_manifest.write(tmp_path / "one", [Job("a/1", 0, changes, made)])  # type: ignore[arg-type]
    return pack_clip(manifest.root, manifest.row(0), config)  # type: ignore[arg-type]


# ---------------------------------------------------------------- the arrays


def test_a_pack_holds_what_the_manifest_holds(folder: Path, tmp_path: Path) -> None:
    manifest, pack = Manifest.read(folder), open_pack(folder, tmp_path, FULL)
    assert len(pack) == len(manifest) == 6
    assert pack.subjects == ("a/1", "a/2", "b/1")
    assert pack.licences == ("CC0",)
    for i, row in enumerate(manifest):
        own = slice(pack.first[i], pack.first[i + 1])
        assert pack.alpha[own][0] == 0
        assert pack.alpha[own][pack.apex[i]] == 1
        frames = read_frames(folder, row)
        assert (pack.frames[own][0] == frames[0]).all()
        assert (pack.frames[own][pack.apex[i]] == frames[APEX]).all()
        assert (pack.aus[own][pack.apex[i]] == row.aus.intensity).all()  # bit for bit
        assert (pack.known[i].astype(bool) == row.aus.mask).all()
        assert (pack.aus[own][:, ~row.aus.mask] == 0).all()
        assert pack.subjects[pack.subject[i]] == row.subject_key
        assert pack.label[i] == 1
        truth = read_flow(folder, row)
        stored = pack.flow[pack.flow_at[i]].astype(np.float32)
        assert np.abs(stored - truth).max() <= np.abs(truth).max() / 2048  # float16
        valid = np.unpackbits(pack.valid[pack.flow_at[i]], count=SIZE * SIZE).reshape(SIZE, SIZE)
        assert (valid.astype(bool) == read_valid(folder, row)).all()


def test_arrays_stay_on_disk_and_cannot_be_written(folder: Path, tmp_path: Path) -> None:
    pack = open_pack(folder, tmp_path, FULL)
    for array in (pack.frames, pack.flow, pack.valid):
        assert isinstance(array, np.memmap)
        assert not array.flags.writeable


def test_memory_does_not_grow_with_clips(tmp_path: Path) -> None:
    peaks = []
    for n in (4, 40):
        small_manifest.write(tmp_path / str(n), small_manifest.jobs("a/1", clips=n))
        tracemalloc.start()
        open_pack(tmp_path / str(n), tmp_path / "cache", FULL)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 36 * 10_000  # a clip's arrays are 24 kB; rows come in blocks of at most 1024


@given(st.integers(2, 300), st.integers(1, 299), st.integers(2, 20))
def test_onset_and_apex_are_always_kept(n_frames: int, apex: int, keep: int) -> None:
    apex = min(apex, n_frames - 1)
    kept = kept_frames(n_frames, apex, keep)
    assert {0, apex} <= set(kept.tolist())
    assert len(kept) == min(keep, n_frames)
    assert (np.diff(kept) > 0).all()
    assert kept[-1] < n_frames


def test_larger_pictures_are_reduced_with_their_flow(tmp_path: Path) -> None:
    uv = np.stack([np.full((SIZE, SIZE), 3.0), np.full((SIZE, SIZE), -1.0)]).astype(np.float32)
    valid = np.ones((SIZE, SIZE), np.bool_)
    valid[5, 9] = False
    clip = one(tmp_path, made={"flow": uv, "valid": valid}, config=PackConfig(size=SIZE // 2, frames=2))
    assert isinstance(clip, PackedClip)
    assert clip.frames.shape == (2, SIZE // 2, SIZE // 2, 3)
    assert clip.flow is not None
    assert clip.valid is not None
    np.testing.assert_allclose(clip.flow[0], 1.5, rtol=1e-5)
    np.testing.assert_allclose(clip.flow[1], -0.5, rtol=1e-5)
    assert not clip.valid[2, 4]
    assert clip.valid.sum() == clip.valid.size - 1


def test_reduced_flow_follows_reduced_pictures() -> None:
    """A linear field sampled on the finer grid and reduced is the field of the coarser grid."""
    fine, coarse = 96, 36
    y, x = np.mgrid[:fine, :fine] + 0.5
    uv = np.stack([0.02 * x, -0.01 * y]).astype(np.float32)
    small, valid = reduced_flow(uv, np.ones((fine, fine), np.bool_), coarse)
    scale = coarse / fine
    y, x = (np.mgrid[:coarse, :coarse] + 0.5) / scale
    np.testing.assert_allclose(small, np.stack([0.02 * x, -0.01 * y]) * scale, atol=5e-4)
    assert valid.all()


# ---------------------------------------------------------------- alpha


def test_levels_of_the_motion_prior_are_its_own(tmp_path: Path) -> None:
    """Per-AU intensities of a packed frame, against the flow that the prior made the frame from."""
    subject = Subject(3, size=96, frontal=True)
    crop = SimilarityCrop.from_landmarks(subject.landmarks(), SIZE)
    image = crop.frames(subject.render(np.zeros((1, len(facs.AU_CODES), 2), np.float32)))[0]
    prior = MotionPrior(Face(image, crop.points(subject.landmarks())))
    aus, profile, n, seed = facs.parse_request("12=0.6,1=0.5"), Profile(apex=0.4, lag=0.1), 20, 77
    sample, _ = prior.generate(aus, profile, n_frames=n, fps=60, seed=seed)
    flows = [step.skin for step in prior.steps(aus, profile, n, 60, Nuisance(), seed)]
    job = Job(
        "a/1", 0,
        {"n_frames": n, "apex_index": sample.clip.apex, **small_manifest.Row.au_columns(aus),
         "provenance": provenance(kind="synthetic", generator="motion-prior", seed=seed, profile=profile.text())},
        {"frames": sample.clip.frames, "flow": sample.flow.uv, "valid": sample.flow.valid},
    )  # fmt: skip
    manifest = small_manifest.write(tmp_path / "synthetic", [job])
    clip = pack_clip(manifest.root, manifest.row(0), PackConfig(size=SIZE, frames=n))
    assert isinstance(clip, PackedClip)
    assert len(clip.frames) == n
    cells = [(facs.AU_INDEX[code], side) for code in (1, 12) for side in (0, 1)]
    fields = prior.fields(cells)
    for t, flow in enumerate(flows):
        weights = np.array([clip.aus[t][cell] for cell in cells])
        np.testing.assert_allclose(np.einsum("a,ahwc->hwc", weights, fields), flow, atol=1e-4)
    between = clip.aus[3]
    assert between[cells[0]] / 0.5 != pytest.approx(between[cells[2]] / 0.6, abs=1e-3)  # AUs lag on their own


@pytest.mark.parametrize(("drift", "least"), [(0.0, 6), (0.3, 4), (1.0, 3)])
def test_measured_levels_follow_the_truth(drift: float, least: int) -> None:
    """Rendered clips with known alpha(t). A head that drifts and turns costs frames, not truth."""
    subject = Subject(5, size=192)
    alpha = np.array([0, 0.25, 0.5, 1.0, 0.7, 0.3, 0.0], np.float32)
    pose = np.zeros((7, 6))
    pose[:, 0], pose[:, 3] = (drift * amount * np.arange(7) / 6 for amount in (0.01, 0.02))
    crop, kept = SimilarityCrop.from_landmarks(subject.landmarks(), 96), []
    for text in ("4=0.8,L12=0.7", "1=0.3,2=0.3", "12=0.25"):
        aus = alpha[:, None, None] * facs.parse_request(text).intensity
        found = measured_levels(crop.frames(subject.render(aus, pose, noise_seed=1)), 3)
        told = np.isfinite(found)
        assert np.abs(found - alpha)[told].max() < 0.12
        kept.append(int(told.sum()))
    assert np.mean(kept) >= least


def test_a_clip_without_motion_keeps_onset_and_apex_only(tmp_path: Path) -> None:
    still = np.full((FRAMES, SIZE, SIZE, 3), 90, np.uint8)
    clip = one(tmp_path, made={"frames": still})
    assert isinstance(clip, PackedClip)
    assert clip.alpha.tolist() == [0, 1]
    assert clip.apex == 1


def test_a_profile_whose_apex_moved_is_not_believed(tmp_path: Path) -> None:
    source = provenance(kind="synthetic", profile=Profile(apex=0.9).text())
    clip = one(tmp_path, provenance=source, made={"frames": np.full((FRAMES, SIZE, SIZE, 3), 9, np.uint8)})
    assert isinstance(clip, PackedClip)
    assert len(clip.frames) == 2  # measured instead, and nothing moves


def test_an_unreadable_profile_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="profile 'nonsense'"):
        one(tmp_path, provenance=provenance(kind="synthetic", profile="nonsense"))


def test_a_clip_without_flow_is_packed_without(tmp_path: Path) -> None:
    job = Job("a/1", 0, made={"flow": None, "valid": None})
    small_manifest.write(tmp_path / "clips", [job, Job("a/2", 1)])
    pack = open_pack(tmp_path / "clips", tmp_path / "cache", FULL)
    assert pack.flow_at.tolist() == [-1, 0]
    small_manifest.write(tmp_path / "none", [job])
    assert open_pack(tmp_path / "none", tmp_path / "cache", FULL).flow.shape == (0, 2, SIZE, SIZE)


# ---------------------------------------------------------------- bad inputs


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"apex_index": 0, "apex": 0}, "onset is its apex"), ({"n_frames": 1, "apex_index": 0}, "single frame")],
)
def test_unusable_clips_are_counted(tmp_path: Path, changes: dict[str, int], reason: str) -> None:
    made = {"frames": np.zeros((changes.get("n_frames", FRAMES), SIZE, SIZE, 3), np.uint8)}
    bad = Job("a/1", 0, changes, made)
    small_manifest.write(tmp_path / "some", [bad, Job("a/2", 1)])
    pack = open_pack(tmp_path / "some", tmp_path / "cache", FULL)
    assert len(pack) == 1
    assert list(pack.unusable.values()) == [1]
    small_manifest.write(tmp_path / "all", [bad])
    with pytest.raises(ManifestError, match=f"none of 1 clips .* {reason}"):
        open_pack(tmp_path / "all", tmp_path / "cache", FULL)
    assert not list((tmp_path / "cache").glob("*.tmp"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": PackConfig(size=64)}, "fewer than size=64"),
        ({"width": 40}, "40 x 32 pixels"),
        ({"made": {"frames": None}}, "no aligned frames"),
        ({"n_frames": 9}, "holds 5 frames, its row says 9"),
        ({"made": {"flow": np.zeros((2, 8, 8), np.float32)}}, "no finite"),
        ({"made": {"flow": np.full((2, SIZE, SIZE), np.nan, np.float32)}}, "no finite"),
        ({"made": {"valid": np.ones((8, 8), np.bool_)}}, "does not fit its flow"),
    ],
)
def test_bad_clips_are_named(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        one(tmp_path, **changes)


def test_empty_and_missing_manifests(tmp_path: Path) -> None:
    Manifest.from_rows([], tmp_path).write(tmp_path)
    with pytest.raises(ManifestError, match="holds no clips"):
        open_pack(tmp_path, tmp_path / "cache", FULL)
    with pytest.raises(ManifestError, match=r"no manifest\.parquet"):
        open_pack(tmp_path / "nowhere", tmp_path / "cache", FULL)


def test_a_damaged_shard_is_named(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    shard = next(copy.glob("frames-*.tar"))
    data = bytearray(shard.read_bytes())
    data[2000] ^= 255
    shard.write_bytes(bytes(data))
    with pytest.raises(ManifestError, match="is damaged at byte"):
        open_pack(copy, tmp_path / "cache", FULL)


@pytest.mark.parametrize("change", [{"size": 8}, {"size": 4096}, {"frames": 0}])
def test_bad_config(change: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(change))}={next(iter(change.values()))}"):
        PackConfig(**change)


# ---------------------------------------------------------------- the cache


def content(pack: Pack) -> list[bytes]:
    return [f.read_bytes() for f in sorted(pack.folder.iterdir())]


def test_a_pack_is_made_once_and_keyed_by_how(folder: Path, tmp_path: Path) -> None:
    pack = open_pack(folder, tmp_path, FULL)
    stamp = (pack.folder / META).stat().st_mtime_ns
    again = open_pack(folder, tmp_path, FULL)
    assert (again.folder / META).stat().st_mtime_ns == stamp
    other = open_pack(folder, tmp_path, replace(FULL, frames=2))
    assert other.folder != pack.folder
    assert other.hash != pack.hash


@pytest.mark.parametrize(
    ("name", "how"),
    [
        *((name, how) for name in ("frames.bin", "flow.bin", "first.bin", META) for how in ("cut", "gone")),
        *((name, "changed") for name in ("aus.bin", "first.bin", META)),  # large arrays are checked by size alone
    ],
)
def test_a_damaged_pack_is_made_again(folder: Path, tmp_path: Path, name: str, how: str) -> None:
    pack = open_pack(folder, tmp_path, FULL)
    before, file = content(pack), pack.folder / name
    data = file.read_bytes()
    if how == "cut":
        file.write_bytes(data[:-1])
    elif how == "gone":
        file.unlink()
    else:
        file.write_bytes(data[:1] + b"?" + data[2:])
    assert content(open_pack(folder, tmp_path, FULL)) == before


def test_a_pack_left_half_written_is_made_again(folder: Path, tmp_path: Path) -> None:
    whole = open_pack(folder, tmp_path, FULL)
    before = content(whole)
    killed = whole.folder.with_name(f".{whole.folder.name}.tmp")
    whole.folder.rename(killed)  # as a kill before the last rename leaves it
    assert content(open_pack(folder, tmp_path, FULL)) == before
    assert not killed.exists()


def test_a_full_disk_is_one_line_and_leaves_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = pack_module._Writer.add

    def full(self: pack_module._Writer, rows: np.ndarray) -> None:
        if self.name == "flow" and self.rows == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        add(self, rows)

    monkeypatch.setattr(pack_module._Writer, "add", full)
    with pytest.raises(MesynthError, match=r"the disk of .* is full"):
        open_pack(folder, tmp_path, FULL)
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_written(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MesynthError, match="cannot be written"):
        open_pack(folder, tmp_path / "file", FULL)


def _open(folder: Path, cache: Path) -> None:
    open_pack(folder, cache, FULL)


def test_two_processes_may_make_one_pack_at_once(folder: Path, tmp_path: Path) -> None:
    alone = open_pack(folder, tmp_path / "alone", FULL)
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    processes = [context.Process(target=_open, args=(folder, tmp_path / "both")) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert content(open_pack(folder, tmp_path / "both", FULL)) == content(alone)


def test_what_clips_have_seen_is_kept(tmp_path: Path) -> None:
    small_manifest.write(tmp_path / "clips", [Job("a/1", 0, seen=("b/7", "c/2")), Job("a/2", 1)])
    pack = open_pack(tmp_path / "clips", tmp_path / "cache", FULL)
    assert [pack.seen_sets[s] for s in pack.seen] == [("a/1", "b/7", "c/2"), ("a/2",)]


def test_generators_learn_in_our_crop_alone(folder: Path, tmp_path: Path) -> None:
    """Clips that were prepared with --frame are refused; what says it is ours, within its error, is not."""
    for framing, origin, ok in (
        (OWN, "made", True), (replace(OWN, eyes=0.43), "estimated", True), (replace(OWN, eyes=0.43), "made", False),
    ):  # fmt: skip
        known = KnownFraming(framing=framing, origin=origin)
        shutil.copytree(folder, copy := tmp_path / f"{framing.eyes}{origin}")
        replace(Manifest.read(copy), meta=framing_meta(known)).write(copy)
        if ok:
            assert len(open_pack(copy, tmp_path / "cache", FULL)) == len(open_pack(folder, tmp_path / "cache", FULL))
        else:
            with pytest.raises(ManifestError, match=r"lie at eyes=0\.43,.* prepare the clips without --frame"):
                open_pack(copy, tmp_path / "cache", FULL)


# ---------------------------------------------------------------- groups of subjects


SUBJECTS = st.lists(
    st.tuples(st.sampled_from(["casme2", "samm", "smic"]), st.integers(0, 99)).map(lambda s: f"{s[0]}/{s[1]:02d}"),
    min_size=2, max_size=60, unique=True,
)  # fmt: skip


@given(SUBJECTS, st.integers(2, 10), st.integers(0, 5), st.randoms())
def test_groups_partition_balance_and_ignore_order(subjects, groups, seed, random) -> None:
    groups = min(groups, len(subjects))
    found = subject_groups(subjects, groups, seed)
    assert sorted(s for group in found for s in group) == sorted(subjects)  # covers, disjoint
    sizes = [len(group) for group in found]
    assert max(sizes) - min(sizes) <= 1
    for database in {s.partition("/")[0] for s in subjects}:
        counts = [sum(s.startswith(f"{database}/") for s in group) for group in found]
        assert max(counts) - min(counts) <= 1
    shuffled = list(subjects)
    random.shuffle(shuffled)
    assert subject_groups(shuffled, groups, seed) == found


def test_seeds_give_other_groups() -> None:
    subjects = [f"casme2/{i:02d}" for i in range(26)]
    assert len({subject_groups(subjects, 5, seed) for seed in range(5)}) == 5


@pytest.mark.parametrize(
    ("subjects", "groups", "message"),
    [
        (["a/1", "a/2"], 1, "at least 2"),
        (["a/1", "a/2"], 3, "more than the 2 subjects"),
        (["a/1", "a/1"], 2, "'a/1' is named twice"),
        (["a/1", "02"], 2, "'02' is no subject"),
        ([], 2, "more than the 0 subjects"),
    ],
)
def test_bad_input(subjects: list[str], groups: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        subject_groups(subjects, groups)
