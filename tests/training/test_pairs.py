from __future__ import annotations

import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from mesynth.core import facs
from mesynth.core.errors import ConfigError, ManifestError
from mesynth.store.manifest import Manifest
from mesynth.store.shards import read_flow, read_frames, read_valid
from mesynth.training.data.batches import Batch
from mesynth.training.data.camera import OFF, CameraConfig
from mesynth.training.data.pack import PackConfig, open_formed, open_pack, subject_groups
from mesynth.training.data.pairs import PairConfig, PairSet, list_subjects, open_pairs
from tests.training import small_manifest
from tests.training.small_manifest import APEX, FRAMES, SIZE, Job

SUBJECTS = ("a/1", "a/2", "a/3", "b/1", "b/2")
RENDERED = PairConfig(size=32, identities=2, per_identity=4, validation_identities=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("clips") / "small"
    small_manifest.write(out, small_manifest.jobs(*SUBJECTS))
    return out


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def config(folder: Path, **changes: Any) -> PairConfig:
    return PairConfig(**({"source": "manifest", "manifests": (folder,), "size": SIZE, "frames": FRAMES} | changes))


def plain(folder: Path, cache: Path, **options: Any) -> PairSet:
    """All clips, neither mirrored nor degraded."""
    pack = open_pack(folder, cache, PackConfig(size=SIZE, frames=FRAMES))
    return PairSet([pack], [np.arange(len(pack))], **({"seed": 0} | options))


def as_bytes(batch: Batch) -> list[tuple[bytes, ...]]:
    """Every field of each pair."""
    values = [np.asarray(getattr(batch, f.name)) for f in fields(batch) if getattr(batch, f.name) is not None]
    return [tuple(v[i].tobytes() for v in values) for i in range(len(batch))]


def shown(batch: Batch, owner: dict[bytes, str]) -> set[str]:
    """Whom the onsets show (cameras off)."""
    return {owner[picture(onset)] for onset in batch.onset}


def picture(onset: torch.Tensor) -> bytes:
    return (onset * 255).round().byte().permute(1, 2, 0).contiguous().numpy().tobytes()


@pytest.fixture(scope="module")
def owner(folder: Path) -> dict[bytes, str]:
    """Onset, as stored and mirrored -> subject."""
    out = {}
    for row in Manifest.read(folder):
        onset = read_frames(folder, row)[0]
        out |= {onset.tobytes(): row.subject_key, np.ascontiguousarray(onset[:, ::-1]).tobytes(): row.subject_key}
    return out


# ---------------------------------------------------------------- what a batch holds


def test_a_batch_holds_what_the_clips_hold(folder: Path, cache: Path) -> None:
    manifest, pairs = Manifest.read(folder), plain(folder, cache)
    rows = {read_frames(folder, row)[0].tobytes(): row for row in manifest}
    batch = pairs.batch(np.arange(len(pairs)))
    assert {picture(onset) for onset in batch.onset} == set(rows)
    for i in range(len(batch)):
        row = rows[picture(batch.onset[i])]
        assert picture(batch.frame[i]) == read_frames(folder, row)[APEX].tobytes()
        assert batch.has_flow[i]
        truth = read_flow(folder, row)
        np.testing.assert_allclose(batch.flow[i], truth, atol=np.abs(truth).max() / 2048)
        assert (batch.valid[i].numpy() == read_valid(folder, row)).all()
        assert (batch.aus[i].numpy() == row.aus.intensity).all()
        assert (batch.known[i].numpy() == row.aus.mask).all()
        assert batch.label[i] == 1


def test_types_are_the_contracts(folder: Path, cache: Path) -> None:
    batch = plain(folder, cache).batch(np.arange(4))
    k = len(facs.AU_CODES)
    expected = {
        "onset": (torch.float32, (4, 3, SIZE, SIZE)), "frame": (torch.float32, (4, 3, SIZE, SIZE)),
        "flow": (torch.float32, (4, 2, SIZE, SIZE)), "valid": (torch.bool, (4, SIZE, SIZE)),
        "has_flow": (torch.bool, (4,)), "aus": (torch.float32, (4, k, 2)), "known": (torch.bool, (4, k, 2)),
        "label": (torch.int64, (4,)),
    }  # fmt: skip
    assert {n: (getattr(batch, n).dtype, tuple(getattr(batch, n).shape)) for n in expected} == expected
    assert batch.seeds.dtype == np.int64
    assert len(set(batch.seeds.tolist())) == 4
    assert batch.randn("z", 3).shape == (4, 3)


def test_frames_off_the_apex_have_their_share_and_no_flow(tmp_path: Path, cache: Path) -> None:
    """A clip whose profile is known: AUs follow it, unknown ones stay unknown, flow belongs to the apex."""
    from mesynth.core.profiles import Profile
    from tests.builders import provenance

    profile = Profile(apex=0.5)
    source = provenance(kind="synthetic", profile=profile.text())
    manifest = small_manifest.write(tmp_path / "clip", [Job("a/1", 0, {"provenance": source})])
    frames, aus = read_frames(manifest.root, manifest.row(0)), manifest.row(0).aus
    place = {f.tobytes(): t for t, f in enumerate(frames)}
    batch = plain(manifest.root, cache, apex_share=0.4).batch(np.arange(200))
    times = np.array([place[picture(f)] for f in batch.frame])
    assert set(times.tolist()) == {1, 2, 3, 4}
    assert (times == APEX).mean() == pytest.approx(0.4, abs=0.12)
    alpha = profile.alpha(FRAMES)[times]
    np.testing.assert_allclose(batch.aus.numpy(), alpha[:, None, None] * aus.intensity, atol=1e-6)
    assert (batch.known.numpy() == aus.mask).all()
    assert (batch.has_flow.numpy() == (times == APEX)).all()
    assert not batch.flow[~batch.has_flow].any()
    assert not batch.valid[~batch.has_flow].any()


def test_mirrored_pairs_are_mirrored_whole(folder: Path, cache: Path) -> None:
    draws = np.arange(200)
    straight, both = (plain(folder, cache, flip=flip).batch(draws) for flip in (False, True))
    mirrored = np.array([picture(a) != picture(b) for a, b in zip(straight.onset, both.onset, strict=True)])
    assert mirrored.mean() == pytest.approx(0.5, abs=0.12)
    m = torch.from_numpy(mirrored)
    for name in (f.name for f in fields(Batch) if f.name not in ("formed", "share")):  # the others are untouched
        assert (np.asarray(getattr(both, name))[~mirrored] == np.asarray(getattr(straight, name))[~mirrored]).all()
    for name in ("onset", "frame", "valid"):
        assert (getattr(both, name)[m] == getattr(straight, name)[m].flip(-1)).all()
    flow = straight.flow[m].flip(-1)
    assert (both.flow[m][:, 0] == -flow[:, 0]).all()
    assert (both.flow[m][:, 1] == flow[:, 1]).all()
    for name in ("aus", "known"):
        assert (getattr(both, name)[m] == getattr(straight, name)[m].flip(-1)).all()
    assert (both.label == straight.label).all()
    assert (both.seeds == straight.seeds).all()


def test_landmarks_follow_their_picture(tmp_path: Path, cache: Path) -> None:
    """Mirrored with the pair, as its mirror image's landmarks; errors are drawn by pair, in eye distances."""
    from mesynth.preprocess.align import MIRROR, eye_centres

    points = np.random.default_rng(4).uniform(4, 28, (68, 2)).astype(np.float32)
    points[36:42], points[42:48] = [8, 10], [24, 10]
    jobs = [Job("a/1", i, made={"landmarks": points}) for i in range(30)]
    small_manifest.write(tmp_path / "clips", jobs)
    straight, both, noisy = (
        plain(tmp_path / "clips", cache, **options).batch(np.arange(90))
        for options in ({}, {"flip": True}, {"landmark_noise": 0.02})
    )
    assert np.allclose(straight.landmarks, points)
    turned = (points * [-1, 1] + [SIZE - 1, 0])[MIRROR]
    mirrored = np.array([picture(a) != picture(b) for a, b in zip(straight.onset, both.onset, strict=True)])
    assert 20 < mirrored.sum() < 70
    assert np.allclose(both.landmarks[torch.from_numpy(mirrored)], turned, atol=1e-4)
    assert eye_centres(turned)[0, 0] < eye_centres(turned)[1, 0]  # image left is still first
    error = (noisy.landmarks.numpy() - points) / 16
    assert error.std() == pytest.approx(0.02, rel=0.05)
    assert abs(error.mean()) < 0.002
    again = plain(tmp_path / "clips", cache, landmark_noise=0.02).batch(np.arange(45, 60))
    assert (again.landmarks == noisy.landmarks[45:60]).all()


def test_reduced_landmarks_lie_on_the_same_places(tmp_path: Path, cache: Path) -> None:
    points = np.tile(np.array([[15.5, 7.5]], np.float32), (68, 1))  # the middle of the picture's width
    small_manifest.write(tmp_path / "clips", [Job("a/1", 0, made={"landmarks": points})])
    pack = open_pack(tmp_path / "clips", cache, PackConfig(size=16, frames=2))
    assert np.allclose(pack.landmarks[0], [7.5, 3.5])


def test_a_mirrored_face_moves_as_a_mirrored_request_would() -> None:
    """Column L of a mirrored pair lies where column R lay: the left of the subject is the right of the picture."""
    from mesynth.head import Subject

    subject, neutral = Subject(3, size=64, frontal=True), np.zeros((len(facs.AU_CODES), 2), np.float32)
    left = facs.parse_request("L12=1").intensity
    flows = [subject.flow(neutral, au).uv for au in (left, np.ascontiguousarray(left[:, ::-1]))]
    centre = [float(np.hypot(*uv).sum(0) @ np.arange(64) / np.hypot(*uv).sum()) for uv in (*flows, flows[0][..., ::-1])]
    assert centre[0] > 34 > 30 > centre[1]  # the subject's left is to the right
    assert centre[2] == pytest.approx(centre[1], abs=2)


def test_cameras_touch_pictures_only(folder: Path, cache: Path) -> None:
    draws = np.arange(50)
    clean = plain(folder, cache).batch(draws)
    seen = plain(folder, cache, camera=CameraConfig(probability=1.0)).batch(draws)
    names = [f.name for f in fields(Batch) if getattr(clean, f.name) is not None]
    values = [{name: np.asarray(getattr(batch, name)) for name in names} for batch in (clean, seen)]
    changed = {name for name, value in values[0].items() if not np.array_equal(value, values[1][name])}
    assert changed == {"onset", "frame"}
    assert seen.onset.min() >= 0
    assert seen.onset.max() <= 1


# ---------------------------------------------------------------- a draw decides everything


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(draws=st.lists(st.integers(0, 10_000), min_size=1, max_size=12), seed=st.integers(0, 3))
def test_a_pair_knows_neither_batch_nor_order(folder: Path, cache: Path, draws: list[int], seed: int) -> None:
    pairs = plain(folder, cache, seed=seed, flip=True, apex_share=0.5, camera=CameraConfig())
    together = as_bytes(pairs.batch(np.array(draws)))
    alone = [as_bytes(pairs.batch(np.array([d])))[0] for d in draws]
    assert together == alone
    assert as_bytes(pairs.batch(np.array(draws[::-1])))[::-1] == together


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(epoch=st.integers(0, 10**6), seed=st.integers(0, 100))
def test_every_epoch_shows_every_clip_once(folder: Path, cache: Path, epoch: int, seed: int) -> None:
    pairs = plain(folder, cache, seed=seed)
    n = len(pairs)
    batch = pairs.batch(np.arange(n) + epoch * n)
    assert len({picture(o) for o in batch.onset}) == n


def test_epochs_and_seeds_differ(folder: Path, cache: Path) -> None:
    def order(seed: int, epoch: int) -> tuple[bytes, ...]:
        pairs = plain(folder, cache, seed=seed)
        return tuple(picture(o) for o in pairs.batch(np.arange(len(pairs)) + epoch * len(pairs)).onset)

    assert len({order(s, e) for s in range(3) for e in range(3)}) == 9


def _draw(folder: Path, cache: Path, queue: Any) -> None:
    train, held = open_pairs(config(folder), cache=cache, seed=4)
    queue.put((as_bytes(train.batch(np.arange(30))), [as_bytes(b) for b in held.validation(8)], train.data_hash))


def test_two_processes_draw_the_same(folder: Path, tmp_path: Path) -> None:
    """Each opens the pairs itself, at once, in a cache that is empty."""
    context = multiprocessing.get_context("spawn")
    queue: Any = context.Queue()
    process = context.Process(target=_draw, args=(folder, tmp_path, queue))
    process.start()
    _draw(folder, tmp_path, queue)
    first, second = (queue.get(timeout=120) for _ in range(2))
    process.join()
    assert first == second


def test_threads_draw_the_same(folder: Path, cache: Path) -> None:
    pairs = plain(folder, cache, flip=True, camera=CameraConfig())
    parts = [np.arange(i, i + 8) for i in range(0, 160, 8)]
    with ThreadPoolExecutor(4) as pool:
        assert [as_bytes(b) for b in pool.map(pairs.batch, parts)] == [as_bytes(pairs.batch(p)) for p in parts]


def test_validation_is_fixed_and_clean(folder: Path, cache: Path) -> None:
    _, held = open_pairs(config(folder, validation_share=0.5), cache=cache)
    batches = list(held.validation(3, batch=2))
    assert [len(b) for b in batches] == [2, 1]
    again = list(held.validation(3, batch=3))
    assert as_bytes(batches[0]) + as_bytes(batches[1]) == as_bytes(again[0])
    assert sum(len(b) for b in held.validation(10_000)) == len(held)
    stored = {read_frames(folder, row)[i].tobytes() for row in Manifest.read(folder) for i in (0, APEX)}
    assert {picture(p) for p in torch.cat([again[0].onset, again[0].frame])} <= stored


# ---------------------------------------------------------------- whom nobody may see


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    excluded=st.sets(st.sampled_from(SUBJECTS), max_size=3), share=st.sampled_from([0, 0.1, 0.5, 1]),
    seed=st.integers(0, 20),
)  # fmt: skip
def test_excluded_and_validation_subjects_never_appear(
    folder: Path, cache: Path, owner: dict[bytes, str], excluded: set[str], share: float, seed: int
) -> None:
    wanted = config(folder, validation_share=share, camera=OFF)
    train, held = open_pairs(wanted, exclude_subjects=sorted(excluded), cache=cache, seed=seed)
    learned = shown(train.batch(np.arange(2 * len(train))), owner)
    validated = set().union(*(shown(b, owner) for b in held.validation(99))) | shown(held.batch(np.arange(20)), owner)
    assert learned == set(train.subjects)
    assert validated == set(held.subjects)
    assert learned
    assert validated
    assert not learned & validated
    assert learned | validated == set(SUBJECTS) - excluded
    assert not excluded & (set(train.subjects_seen) | set(held.subjects_seen))


def test_a_clip_that_has_seen_an_excluded_subject_is_left_out(tmp_path: Path, cache: Path) -> None:
    clips = [Job("a/1", 0, seen=("c/9",)), Job("a/1", 1), Job("a/2", 2), Job("a/3", 3, seen=("c/9",))]
    small_manifest.write(tmp_path / "clips", clips)
    everything = open_pairs(config(tmp_path / "clips"), cache=cache)
    assert sum(map(len, everything)) == 4
    assert "c/9" in everything[0].subjects_seen + everything[1].subjects_seen
    without = open_pairs(config(tmp_path / "clips"), exclude_subjects=["c/9"], cache=cache)
    assert sum(map(len, without)) == 2
    assert "c/9" not in without[0].subjects_seen + without[1].subjects_seen
    assert everything[0].data_hash != without[0].data_hash


def test_cross_fit_groups_cover_everyone_once(folder: Path, cache: Path) -> None:
    subjects = list_subjects(config(folder))
    assert subjects == tuple(sorted(SUBJECTS))
    for group in subject_groups(subjects, 3):
        train, held = open_pairs(config(folder), exclude_subjects=group, cache=cache)
        assert not set(group) & {*train.subjects_seen, *held.subjects_seen}


def test_several_manifests_are_one_set(folder: Path, tmp_path: Path, cache: Path) -> None:
    small_manifest.write(tmp_path / "more", small_manifest.jobs("c/1", "a/1"))
    train, held = open_pairs(config(folder, manifests=(folder, tmp_path / "more")), cache=cache)
    assert len(train) + len(held) == 14
    assert set(train.subjects) | set(held.subjects) == {*SUBJECTS, "c/1"}
    assert not set(train.subjects) & set(held.subjects)  # a/1 lies in both folders, never on both sides


# ---------------------------------------------------------------- rendered pairs


def test_rendered_pairs_open_and_say_whom_they_show(cache: Path) -> None:
    seen: list[str] = []
    train, held = open_pairs(RENDERED, cache=cache, progress=lambda name: seen.append(name) or (lambda n, of: None))
    assert (len(train), len(held)) == (8, 4)
    assert train.subjects_seen == ("rendered/person0000920000", "rendered/person0000920001")
    assert held.subjects_seen == ("rendered/person0000980000",)
    assert list_subjects(RENDERED) == train.subjects_seen
    assert seen == ["render", "render validation"]
    assert train.licences
    assert train.size == 32
    batch = train.batch(np.arange(8))
    assert batch.known.all()
    assert batch.has_flow.all()
    again, _ = open_pairs(RENDERED, cache=cache)
    assert again.data_hash == train.data_hash
    fewer, _ = open_pairs(RENDERED, cache=cache, exclude_subjects=["rendered/person0000920001"])
    assert fewer.subjects_seen == ("rendered/person0000920000",)


# ---------------------------------------------------------------- bad inputs


def test_unknown_excluded_subjects_are_named(folder: Path, cache: Path) -> None:
    with pytest.raises(ConfigError, match=r"excluded subject 'casme2/01' is not in the data; .* as a/1, a/2"):
        open_pairs(config(folder), exclude_subjects=["a/1", "casme2/01"], cache=cache)


def test_someone_must_be_left(folder: Path, cache: Path) -> None:
    with pytest.raises(ConfigError, match="1 subjects are left; at least 2"):
        open_pairs(config(folder), exclude_subjects=SUBJECTS[1:], cache=cache)
    with pytest.raises(ConfigError, match="nobody is left to learn from"):
        open_pairs(RENDERED, exclude_subjects=list_subjects(RENDERED), cache=cache)


def test_an_empty_manifest(tmp_path: Path, cache: Path) -> None:
    Manifest.from_rows([], tmp_path).write(tmp_path)
    with pytest.raises(ManifestError, match="holds no clips"):
        open_pairs(config(tmp_path), cache=cache)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": "video"}, "source 'video' is unknown"),
        ({"source": "manifest"}, "manifests is empty"),
        ({"source": "manifest", "manifests": ("x", "x")}, "names a folder twice"),
        ({"source": "manifest", "manifests": ("x",), "identities": 5}, "identities has no effect"),
        ({"manifests": ("x",)}, "manifests has no effect"),
        ({"apex_share": 0.7}, "apex_share has no effect"),
        ({"size": 8}, "size=8"),
        ({"rigs": 2.0}, "rigs=2 is no share"),
        ({"landmark_noise": 0.5}, "landmark_noise=0.5 is outside"),
        ({"size": 512}, "size=512 is more than 256"),
        ({"identities": 0}, "identities=0"),
        ({"identities": 100_000}, "leave their range"),
        ({"validation_identities": 20_000}, "leave their range"),
        ({"source": "manifest", "manifests": ("x",), "validation_share": 2.0}, "validation_share=2"),
        ({"single": 0.9, "neutral": 0.9}, "exceeds 1"),
    ],
)
def test_bad_config(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PairConfig(**change)


def test_config_loads_from_yaml() -> None:
    given = OmegaConf.create({"source": "manifest", "manifests": ["one", "two"], "camera": {"noise": 0.0}})
    base = OmegaConf.structured(PairConfig)
    OmegaConf.set_readonly(base, False)
    OmegaConf.set_readonly(base.camera, False)
    made = OmegaConf.to_object(OmegaConf.merge(base, given))
    assert made == PairConfig(source="manifest", manifests=(Path("one"), Path("two")), camera=CameraConfig(noise=0.0))
    assert isinstance(hash(made), int)


# ---------------------------------------------------------------- frames in layers beside them


def pretend(onset: np.ndarray, landmarks: np.ndarray, aus: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What tells onset, landmarks, AUs and left from right."""
    made = [np.roll(onset, 1 + round(100 * float(au.sum())), 1) for au in aus]
    share = np.linspace(0, 1, onset.shape[1], dtype=np.float32)[None].repeat(len(onset), 0)
    share[0, 0] = 1 if landmarks.mean() > 0 else 0
    return np.stack(made), share


@pytest.fixture(scope="module")
def placed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips with landmarks."""
    points = np.random.default_rng(4).uniform(4, 28, (68, 2)).astype(np.float32)
    points[36:42], points[42:48] = [8, 10], [24, 10]
    out = tmp_path_factory.mktemp("placed") / "clips"
    small_manifest.write(out, [Job(who, i, made={"landmarks": points}) for who in SUBJECTS for i in range(2)])
    return out


def test_formed_frames_lie_beside_their_pairs_and_are_mirrored_with_them(placed: Path, cache: Path) -> None:
    pack = open_pack(placed, cache, PackConfig(size=SIZE, frames=FRAMES))
    formed = open_formed(pack, cache, {"by": "pretend"}, pretend)
    assert formed.frames.shape == pack.frames.shape
    for i in range(len(pack)):
        rows = slice(pack.first[i], pack.first[i + 1])
        made, share = pretend(pack.frames[rows][0], pack.landmarks[i], pack.aus[rows][1:])
        assert np.array_equal(formed.frames[rows], np.concatenate([pack.frames[rows][:1], made]))
        assert np.array_equal(formed.share[i], np.round(255 * share).astype(np.uint8))
    draws = np.arange(80)
    for flip in (False, True):
        before = plain(placed, cache, flip=flip)
        pairs = before.formed(lambda pack: open_formed(pack, cache, {"by": "pretend"}, pretend))
        assert before.batch(draws).formed is None
        assert pairs.data_hash != before.data_hash
        batch = pairs.batch(draws)
        assert batch.formed is not None
        assert batch.share is not None
        assert (batch.formed.shape, batch.share.shape) == ((80, 3, SIZE, SIZE), (80, 1, SIZE, SIZE))
        ramp = batch.share[:, 0, 1]
        mirrored = ramp[:, 0] > ramp[:, -1]
        assert bool(mirrored.any()) is flip
        for i in range(len(batch)):
            onset, shown = (t[i].flip(-1) if mirrored[i] else t[i] for t in (batch.onset, batch.formed))
            asked = batch.aus[i].flip(-1) if mirrored[i] else batch.aus[i]
            assert torch.equal(shown, torch.roll(onset, 1 + round(100 * float(asked.sum())), 2))
        part = batch.rows(np.array([3, 1]))
        assert torch.equal(part.formed, batch.formed[[3, 1]])  # type: ignore[arg-type]
        joined = Batch.joined([part, batch.rows(np.array([0]))])
        assert torch.equal(joined.share, batch.share[[3, 1, 0]])  # type: ignore[arg-type]
        assert as_bytes(pairs.batch(draws[5:9])) == as_bytes(batch)[5:9]


def test_formed_frames_are_made_once_and_again_where_they_are_damaged(placed: Path, tmp_path: Path) -> None:
    pack, calls = open_pack(placed, tmp_path, PackConfig(size=SIZE, frames=FRAMES)), []

    def counted(*told: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        calls.append(1)
        return pretend(*told)

    def opened(**identity: str) -> int:
        calls.clear()
        open_formed(pack, tmp_path, identity, counted)
        return len(calls)

    assert opened(by="a") == len(pack)
    assert opened(by="a") == 0
    alone = open_formed(pack, tmp_path, {"by": "a"}, pretend)
    several = open_formed(pack, tmp_path, {"by": "several"}, pretend, workers=2)
    assert np.array_equal(several.frames, alone.frames)
    assert np.array_equal(several.share, alone.share)
    assert opened(by="b") == len(pack)
    for name in ("frames.bin", "share.bin", "pack.json"):
        for file in tmp_path.glob(f"formed-*/{name}"):
            file.write_bytes(file.read_bytes()[:-1])
        assert opened(by="a") == len(pack)
        assert opened(by="b") == len(pack)
    assert not list(tmp_path.glob(".formed*"))


def test_an_interrupted_forming_leaves_nothing_half(placed: Path, tmp_path: Path) -> None:
    pack = open_pack(placed, tmp_path, PackConfig(size=SIZE, frames=FRAMES))
    left = iter(range(3))

    def stops(*told: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return pretend(*told)

    with pytest.raises(KeyboardInterrupt):
        open_formed(pack, tmp_path, {}, stops)
    assert not list(tmp_path.glob("*formed*"))
    assert len(open_formed(pack, tmp_path, {}, pretend).share) == len(pack)


def test_formed_frames_need_landmarks_and_no_camera(folder: Path, placed: Path, tmp_path: Path) -> None:
    pack = open_pack(folder, tmp_path, PackConfig(size=SIZE, frames=FRAMES))
    pack = replace(pack, landmarks=np.full_like(pack.landmarks, np.nan))
    with pytest.raises(ManifestError, match=r"clip 0 of .* has no landmarks, which frames in layers need") as error:
        open_formed(pack, tmp_path, {}, pretend)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("*formed*"))
    seen = plain(placed, tmp_path, camera=CameraConfig(probability=0.3))
    with pytest.raises(ConfigError, match=r"data.camera.probability=0.3: .*set it to 0") as refused:
        seen.formed(lambda pack: open_formed(pack, tmp_path, {}, pretend))
    assert "\n" not in str(refused.value)
