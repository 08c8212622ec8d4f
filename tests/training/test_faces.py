"""Faces without clips: packed in the canonical crop, mixed into the draws, split by subject like everything else."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesynth.core import seeds
from mesynth.core.errors import ConfigError, ManifestError
from mesynth.preprocess.align import EYE_LINE, IOD_SHARE, SimilarityCrop
from mesynth.store.manifest import Manifest
from mesynth.store.shards import read_frames
from mesynth.training.data.batches import Batch
from mesynth.training.data.camera import OFF
from mesynth.training.data.pack import PackConfig, PackedClip, open_pack, pack_clip
from mesynth.training.data.pairs import MixedPairs, PairConfig, PairSet, list_subjects, open_pairs
from tests.training import small_manifest
from tests.training.small_manifest import SIZE, Job
from tests.training.test_pairs import as_bytes, picture

PEOPLE, FACES = ("a/1", "a/2", "a/3", "b/1", "b/2"), ("a/2", "c/1", "c/2", "c/3", "c/4")
ALONE = PackConfig(size=SIZE, frames=1)


def landmarks(size: int = SIZE) -> np.ndarray:
    """68 points whose eyes lie where a canonical crop of ``size`` has them."""
    points = np.full((68, 2), 0.7 * size, np.float32)
    for eye, side in ((slice(36, 42), -0.5), (slice(42, 48), 0.5)):
        points[eye] = (np.array([0.5 + side * IOD_SHARE, EYE_LINE]) * size - 0.5).astype(np.float32)
    return points


def face(subject: str, number: int, **made: Any) -> Job:
    """One picture of a subject, as the faces of a generated corpus are stored."""
    shown = seeds.stream(3, f"face-{subject}", number).integers(0, 255, (1, SIZE, SIZE, 3), dtype=np.uint8)
    made = {"frames": shown, "flow": None, "valid": None, "landmarks": landmarks()} | made
    side = made["frames"].shape[1]
    return Job(subject, number, {"n_frames": 1, "apex_index": 0, "height": side, "width": side}, made)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("faces")
    small_manifest.write(out / "clips", small_manifest.jobs(*PEOPLE))
    small_manifest.write(out / "faces", [face(subject, i) for i, subject in enumerate(FACES * 2)])
    return out


def config(place: Path, **changes: Any) -> PairConfig:
    given = {"source": "manifest", "manifests": (place / "clips",), "faces": (place / "faces",), "size": SIZE}
    return PairConfig(**(given | {"frames": 2, "camera": OFF, "validation_share": 0.3} | changes))


def opened(place: Path, exclude: tuple[str, ...] = (), seed: int = 0, **changes: Any) -> tuple[MixedPairs, MixedPairs]:
    sides = open_pairs(config(place, **changes), exclude_subjects=exclude, cache=place / "cache", seed=seed)
    assert all(isinstance(side, MixedPairs) for side in sides)
    return sides  # type: ignore[return-value]


@pytest.fixture(scope="module")
def owner(place: Path) -> dict[bytes, str]:
    """Onset, as stored and mirrored -> subject."""
    out = {}
    for folder in ("clips", "faces"):
        for row in Manifest.read(place / folder):
            onset = read_frames(place / folder, row)[0]
            out |= dict.fromkeys((onset.tobytes(), np.ascontiguousarray(onset[:, ::-1]).tobytes()), row.subject_key)
    return out


def is_face(batch: Batch) -> np.ndarray:
    return ~batch.paired.numpy()


# ---------------------------------------------------------------- one face


def test_a_face_is_its_onset_and_nothing_is_known_of_it(place: Path) -> None:
    manifest = Manifest.read(place / "faces")
    clip = pack_clip(manifest.root, manifest.row(0), ALONE)
    assert isinstance(clip, PackedClip)
    assert (clip.frames == read_frames(manifest.root, manifest.row(0))).all()
    assert (clip.frames.shape[0], clip.apex, clip.label, clip.flow, clip.valid) == (1, 0, -1, None, None)
    assert not clip.known.any()
    assert not clip.aus.any()


def test_the_onset_of_a_clip_is_a_face(tmp_path: Path) -> None:
    manifest = small_manifest.write(tmp_path / "clip", [Job("a/1", 0, {}, {"landmarks": landmarks()})])
    clip = pack_clip(manifest.root, manifest.row(0), ALONE)
    assert isinstance(clip, PackedClip)
    assert (clip.frames[0] == read_frames(manifest.root, manifest.row(0))[0]).all()
    assert not clip.known.any()


@pytest.mark.parametrize("size", [32, 20])
def test_a_margin_round_the_face_is_cut_off(tmp_path: Path, size: int) -> None:
    """A picture with a margin and the canonical crop of it give the same face."""
    noise = seeds.stream(0, "margin").integers(0, 255, (64, 64, 3), dtype=np.uint8)
    photo = cv2.GaussianBlur(noise, (0, 0), 3)
    points = landmarks(64) * 0.7 + 9
    tight = SimilarityCrop.from_landmarks(points, 32)
    made = {}
    for name, crop in (("tight", tight), ("wide", tight.padded(6))):
        stored = {"frames": crop.frames(photo[None]), "landmarks": crop.points(points)}
        manifest = small_manifest.write(tmp_path / name, [face("c/1", 0, **stored)])
        made[name] = pack_clip(manifest.root, manifest.row(0), PackConfig(size=size, frames=1)).frames[0].astype(float)  # type: ignore[union-attr]
    spread = made["tight"].std()
    assert np.abs(made["wide"] - made["tight"])[2:-2, 2:-2].mean() < 0.05 * spread
    shifted = np.roll(made["tight"], 2, 1)
    assert np.abs(shifted - made["tight"])[2:-2, 2:-2].mean() > 0.2 * spread


@pytest.mark.parametrize(
    ("made", "size", "says"),
    [
        ({"landmarks": np.zeros((68, 2), np.float32)}, SIZE, "eye centres are 0 pixels apart.*prepare it again"),
        ({}, 40, "32 px frames, fewer than size=40"),
        ({"landmarks": landmarks(24)}, SIZE, "24 px frames, fewer than size=32"),
        ({"landmarks": None}, 48, "32 px frames, fewer than size=48"),
    ],
)
def test_faces_that_cannot_be_used(tmp_path: Path, made: dict[str, Any], size: int, says: str) -> None:
    manifest = small_manifest.write(tmp_path / "one", [face("c/1", 0, **made)])
    with pytest.raises(ManifestError, match=says) as error:
        pack_clip(manifest.root, manifest.row(0), PackConfig(size=size, frames=1))
    assert "\n" not in str(error.value)


def test_a_face_that_is_not_square(tmp_path: Path) -> None:
    job = face("c/1", 0, frames=np.zeros((1, SIZE, SIZE + 4, 3), np.uint8), landmarks=None)
    job.changes["width"] = SIZE + 4
    manifest = small_manifest.write(tmp_path / "one", [job])
    with pytest.raises(ManifestError, match="36 x 32 pixels; training needs square crops"):
        pack_clip(manifest.root, manifest.row(0), ALONE)


# ---------------------------------------------------------------- draws


def test_a_drawn_face_is_a_frame_like_its_onset(place: Path) -> None:
    batch = opened(place)[0].batch(np.arange(64))
    alone = torch.from_numpy(is_face(batch))
    assert alone.sum() == 32
    assert (batch.frame[alone] == batch.onset[alone]).all()
    assert not batch.has_flow[alone].any()
    assert not batch.flow[alone].any()
    assert not batch.valid[alone].any()
    assert not batch.aus[alone].any()
    assert (batch.label[alone] == -1).all()
    assert batch.paired[~alone].all()
    assert len(set(batch.seeds.tolist())) == 64
    aus, known = batch.targets()
    assert ((aus[alone] > 0).any(2).sum(1) == 2).all()
    assert known[alone].all()
    assert (aus[~alone] == batch.aus[~alone]).all()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(draws=st.lists(st.integers(0, 10_000), min_size=1, max_size=10), share=st.sampled_from([0.1, 0.5, 0.85]))
def test_a_draw_knows_neither_batch_nor_order(place: Path, draws: list[int], share: float) -> None:
    pairs = opened(place, faces_share=share)[0]
    together = as_bytes(pairs.batch(np.array(draws)))
    assert together == [as_bytes(pairs.batch(np.array([d])))[0] for d in draws]
    assert as_bytes(pairs.batch(np.array(draws[::-1])))[::-1] == together


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0.01, 0.99), blocks=st.integers(1, 30), seed=st.integers(0, 5))
def test_the_share_is_exact_and_every_number_comes_once(place: Path, share: float, blocks: int, seed: int) -> None:
    pairs = opened(place, faces_share=share, seed=seed)[0]
    which, numbers = pairs.faces_among(np.arange(64 * blocks))
    assert which.sum() == int(np.floor(64 * blocks * share))
    for kind in (which, ~which):
        assert numbers[kind].tolist() == list(range(int(kind.sum())))


def test_no_process_gets_all_the_faces(place: Path) -> None:
    which, _ = opened(place)[0].faces_among(np.arange(6400))
    for processes in (2, 4, 8):
        shares = [which[rank::processes].mean() for rank in range(processes)]
        assert max(abs(s - 0.5) for s in shares) < 0.06


def test_every_face_and_every_pair_is_shown_equally_often(place: Path) -> None:
    pairs, _ = opened(place, flip=False)
    batch = pairs.batch(np.arange(64 * 20))
    for kind in (is_face(batch), ~is_face(batch)):
        counts = Counter(picture(onset) for onset, one in zip(batch.onset, kind, strict=True) if one)
        assert max(counts.values()) - min(counts.values()) <= 1


def test_validation_shows_both_and_keeps_the_order_of_pairs(place: Path) -> None:
    held = opened(place, validation_share=0.5)[1]
    without = open_pairs(config(place, faces=(), validation_share=0.5), cache=place / "cache")[1]
    batches = list(held.validation(6, batch=4))
    assert [len(b) for b in batches] == [4, 2]
    rows = Batch.joined(batches)
    assert is_face(rows).tolist() == [False, True] * 3
    pairs = as_bytes(rows.rows(np.flatnonzero(~is_face(rows))))
    assert pairs == as_bytes(next(iter(without.validation(6))))[: len(pairs)]
    everything = Batch.joined(list(held.validation(10_000)))
    assert len(everything) == len(held)
    held = opened(place, faces_share=0.9)[1]
    assert is_face(Batch.joined(list(held.validation(2)))).tolist() == [False, True]
    few = Batch.joined(list(held.validation(10_000)))  # faces come first and then run out
    assert len(few) == len(held)
    assert len({picture(onset) for onset in few.onset}) == len(held)


# ---------------------------------------------------------------- who


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    excluded=st.sets(st.sampled_from(sorted({*PEOPLE, *FACES})), max_size=3), share=st.sampled_from([0.1, 0.5]),
    seed=st.integers(0, 10),
)  # fmt: skip
def test_nobody_is_on_both_sides_and_nobody_excluded_on_either(
    place: Path, owner: dict[bytes, str], excluded: set[str], share: float, seed: int
) -> None:
    train, held = opened(place, tuple(excluded), seed, validation_share=share)
    learned = {owner[picture(o)] for o in train.batch(np.arange(256)).onset}
    validated = {owner[picture(o)] for b in held.validation(99) for o in b.onset}
    assert learned == set(train.subjects)
    assert validated == set(held.subjects)
    assert not learned & validated
    assert learned | validated == {*PEOPLE, *FACES} - excluded
    assert not excluded & {*train.subjects_seen, *held.subjects_seen}
    plain = open_pairs(
        config(place, faces=(), validation_share=share), exclude_subjects=excluded & {*PEOPLE}, cache=place / "cache",
        seed=seed,
    )  # fmt: skip
    for mixed, alone in zip((train, held), plain, strict=True):
        assert isinstance(alone, PairSet)
        assert set(alone.subjects) <= set(mixed.subjects)  # faces do not change how pairs are split


def test_the_hash_knows_faces_and_share_and_paths_do_not_count(place: Path, tmp_path: Path) -> None:
    hashes = {opened(place, faces_share=share)[0].data_hash for share in (0.3, 0.5)}
    hashes |= {
        opened(place, exclude=("c/1",))[0].data_hash,
        open_pairs(config(place, faces=()), cache=place)[0].data_hash,
    }
    assert len(hashes) == 4
    assert list_subjects(config(place)) == tuple(sorted({*PEOPLE, *FACES}))


def test_faces_alone(place: Path) -> None:
    only = config(place, manifests=(), frames=PairConfig.frames)
    assert only.faces_alone
    train, held = open_pairs(only, cache=place / "cache")
    assert is_face(train.batch(np.arange(20))).all()
    assert set(train.subjects) | set(held.subjects) == set(FACES)
    assert not set(train.subjects) & set(held.subjects)
    with pytest.raises(ConfigError, match="1 subjects are left"):
        open_pairs(only, exclude_subjects=FACES[1:], cache=place / "cache")


def test_a_single_face_beside_rendered_people_is_learned_from(tmp_path: Path) -> None:
    small_manifest.write(tmp_path / "one", [face("c/1", 0)])
    small = {"size": SIZE, "identities": 2, "per_identity": 2, "validation_identities": 1}
    train, held = open_pairs(PairConfig(**small, faces=(tmp_path / "one",)), cache=tmp_path / "cache")  # type: ignore[arg-type]
    assert "c/1" in train.subjects_seen
    assert held.subjects == ("rendered/person0000980000",)
    assert [len(b) for b in held.validation(9)] == [2]
    with pytest.raises(ConfigError, match="no face is left to learn from"):
        open_pairs(
            PairConfig(**small, faces=(tmp_path / "one",)), exclude_subjects=["c/1"], cache=tmp_path / "cache"  # type: ignore[arg-type]
        )  # fmt: skip


def test_packs_of_faces_and_of_clips_are_told_apart(place: Path) -> None:
    small_manifest.write(place / "both", [Job("a/1", 0, {}, {"landmarks": landmarks()})])
    clips = open_pack(place / "both", place / "cache", PackConfig(size=SIZE, frames=2))
    faces = open_pack(place / "both", place / "cache", ALONE)
    assert len(clips.frames) == 2
    assert len(faces.frames) == 1
    assert clips.hash != faces.hash


# ---------------------------------------------------------------- bad configurations


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"faces_share": 0.4}, "faces_share has no effect: data.faces names no folder"),
        ({"faces": ("f",), "faces_share": 0.0}, "faces_share=0 draws no face"),
        ({"faces": ("f",), "faces_share": 1.0}, "faces_share=1 draws nothing but faces"),
        ({"faces": ("f",), "faces_share": 1.5}, "faces_share=1.5 is no share"),
        ({"faces": ("f",), "faces_share": float("nan")}, "faces_share=nan is no share"),
        ({"faces": ("f", "f")}, "data.faces names a folder twice"),
        ({"source": "manifest", "faces": ("f",), "frames": 4}, "frames has no effect: there are faces alone"),
        (
            {"source": "manifest", "faces": ("f",), "faces_share": 0.4},
            "faces_share has no effect: there are faces alone",
        ),
        ({"source": "manifest", "manifests": ("m",), "frames": 1}, "data.frames=1 is less than 2"),
        ({"validation_share": 0.3}, "validation_share has no effect"),
    ],
)
def test_bad_config(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        PairConfig(**change)
    assert "\n" not in str(error.value)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="nowhere"):
        open_pairs(PairConfig(source="manifest", faces=(tmp_path / "nowhere",)), cache=tmp_path)


def test_an_excluded_subject_must_be_in_clips_or_faces(place: Path) -> None:
    opened(place, ("c/1",))
    with pytest.raises(ConfigError, match="excluded subject 'd/1' is not in the data"):
        opened(place, ("d/1",))
