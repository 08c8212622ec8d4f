"""Clips with flow at key times: what is rendered, what is estimated, and what a draw decides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mesynth.core import facs
from mesynth.core.errors import ConfigError, ManifestError
from mesynth.core.profiles import Profile
from mesynth.core.seeds import stream
from mesynth.motion.key_times import KEYS, RISING, key_times, level
from mesynth.preprocess.flow import sequence_flows
from mesynth.store.shards import read_frames
from mesynth.store.stage import read_skipped
from mesynth.training.data.camera import OFF
from mesynth.training.data.rendered import person_key
from mesynth.training.data.sequences import (
    Moves,
    SequenceBatch,
    SequenceConfig,
    SequenceSet,
    Stand,
    draw_moves,
    list_subjects,
    open_pairs,
    record_clips,
)
from tests.training import small_manifest
from tests.training.rendered import rendered_batch

SIZE = 32
SMALL: dict[str, Any] = {"size": SIZE, "identities": 2, "per_identity": 4, "validation_identities": 1}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def sets(cache: Path) -> tuple[SequenceSet, SequenceSet]:
    return open_pairs(SequenceConfig(**SMALL), cache=cache)


def same(one: SequenceBatch, other: SequenceBatch) -> bool:
    pairs = [(getattr(one, n).numpy(), getattr(other, n).numpy()) for n in one._tensors()]
    tensors = all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in pairs)
    return tensors and np.array_equal(one.clock, other.clock) and np.array_equal(one.seeds, other.seeds)


# ---------------------------------------------------------------- what is rendered


@pytest.mark.parametrize("lag", [0.0, 0.15])
def test_each_unit_moves_by_its_own_curve(lag: float) -> None:
    config = SequenceConfig(**SMALL, lag=lag, ordered=0.0).clips()
    moves = draw_moves(config, config.people.first, 3, stream(0, "moves"))
    at = np.linspace(0, 1, 401)
    shown = moves.shown(at)
    assert not shown[[0, -1]].round(6).any()
    assert np.allclose(shown.max(0), moves.aus, atol=2e-3)
    assert (np.abs(moves.shift) <= lag).all()
    active = moves.aus.max(1) > 0
    peaks = at[shown.max(2).argmax(0)][active]
    assert np.abs(peaks - moves.profile.apex - moves.shift[active]).max() < 0.06  # hurried near the clip's ends
    assert (np.ptp(shown[:, active] / moves.aus[active].clip(1e-6), axis=1).max() > 0) == bool(active.any())


def test_habits_are_every_persons_and_the_rest_is_drawn() -> None:
    shifts = {}
    for ordered in (0.0, 1.0):
        config = SequenceConfig(**SMALL, ordered=ordered).clips()
        shifts[ordered] = [draw_moves(config, 920_000 + p, 0, stream(p, "moves")).shift for p in (0, 1)]
    assert np.array_equal(shifts[1.0][0], shifts[1.0][1])
    assert np.abs(shifts[0.0][0] - shifts[0.0][1]).max() > 0.05
    assert np.ptp(shifts[1.0][0]) > 0.15


def test_flow_is_exact_at_every_time() -> None:
    """The frame, read where the flow leads, is the onset."""
    import cv2

    config = SequenceConfig(size=96, identities=1, per_identity=1).clips()
    stand = Stand.drawn(config.people, 3, stream(0, "stand"))
    aus = facs.parse_request("12=0.6,4=0.5").intensity
    shift = np.zeros(len(facs.AU_CODES))
    shift[facs.AU_INDEX[4]] = 0.15
    moves = Moves(aus, Profile(apex=0.4), 0.3, shift)
    shown = moves.shown(np.array([0.2, 0.4, 0.6]))
    flows, seen = stand.flows(shown)
    frames = stand.frames(np.concatenate([0 * shown[:1], shown])).astype(np.float32)
    x, y = np.meshgrid(np.arange(96, dtype=np.float32), np.arange(96, dtype=np.float32))
    for t in range(3):
        back = cv2.remap(frames[t + 1], x + flows[t, 0], y + flows[t, 1], cv2.INTER_LINEAR)
        moved = np.hypot(*flows[t]) > 0.4
        before, after = (np.abs(f - frames[0])[moved & seen[t]].mean() for f in (frames[t + 1], back))
        assert after < 0.6 * before, t


def test_without_lag_a_clip_is_nearly_the_profile_times_its_apex_and_with_lag_it_is_not(cache: Path) -> None:
    left = []
    for lag in (0.0, 0.15):
        made = open_pairs(SequenceConfig(**SMALL, lag=lag, camera=OFF, flip=False), cache=cache)[0]
        batch = made.batch(np.arange(8))
        levels = [level(key_times(c[0]), Profile(apex=c[0], decay="exponential" if c[2] else "cosine"))
                  for c in batch.clock]  # fmt: skip
        share = torch.from_numpy(np.stack(levels).astype(np.float32))[:, :, None, None, None] * batch.flow[:, None]
        inside = batch.seen[:, :, None]
        rest, whole = ((x * inside).square().sum() for x in (batch.flows - share, batch.flows))
        left.append(float((rest / whole).sqrt()))
    assert left[0] < 0.06
    assert left[1] > 3 * left[0]


# ---------------------------------------------------------------- what a draw decides


def test_a_batch_is_what_its_fields_say(sets: tuple[SequenceSet, SequenceSet]) -> None:
    batch = sets[0].batch(np.arange(6))
    assert batch.flows.shape == (6, KEYS, 2, SIZE, SIZE)
    assert batch.seen.shape == (6, KEYS, SIZE, SIZE)
    assert batch.onset.shape == batch.frame.shape == (6, 3, SIZE, SIZE)
    assert torch.equal(batch.flow, batch.flows[:, RISING - 1])
    assert torch.equal(batch.valid, batch.seen[:, RISING - 1])
    assert bool(batch.known.all())
    assert ((batch.clock[:, 0] >= 0.2) & (batch.clock[:, 0] <= 0.8)).all()
    assert ((batch.clock[:, 3] >= 0.1) & (batch.clock[:, 3] <= 0.5)).all()
    lengths = batch.flows.norm(dim=2).amax((2, 3))
    assert bool((lengths.amax(1) > 0).all())
    assert float((lengths[:, -1] / lengths.amax(1)).mean()) < 0.5  # nearly over


def test_a_draw_alone_decides(sets: tuple[SequenceSet, SequenceSet]) -> None:
    together = sets[0].batch(np.arange(20))
    for order in ([3, 17, 0], [5]):
        assert same(sets[0].batch(np.array(order)), together.rows(np.array(order)))
    first = {s.tobytes() for s in together.onset[:8].numpy()}
    assert len(first) == 8  # an epoch shows every clip once
    assert not same(sets[0].batch(np.arange(8)), sets[0].batch(np.arange(8, 16)))


def test_moved_rows_keep_everything(sets: tuple[SequenceSet, SequenceSet]) -> None:
    batch = sets[0].batch(np.arange(3))
    assert same(batch.to("cpu"), batch)
    assert batch.to("cpu").clock is batch.clock


def test_joined_parts_are_the_whole(sets: tuple[SequenceSet, SequenceSet]) -> None:
    whole = sets[0].batch(np.arange(5))
    parts = [whole.rows(np.arange(2)), whole.rows(np.arange(2, 5))]
    assert same(SequenceBatch.joined(parts), whole)


def test_mirrored_clips_are_mirrored_whole(cache: Path) -> None:
    turned, plain = (
        open_pairs(SequenceConfig(**SMALL, flip=flip, camera=OFF), cache=cache)[0].batch(np.arange(8))
        for flip in (True, False)
    )
    found = [i for i in range(8) if not torch.equal(turned.onset[i], plain.onset[i])]
    assert 0 < len(found) < 8
    for i in found:
        assert torch.equal(turned.onset[i], plain.onset[i].flip(-1))
        back = turned.flows[i].flip(-1) * torch.tensor([-1.0, 1.0])[:, None, None]
        assert torch.equal(back, plain.flows[i])
        assert torch.equal(turned.seen[i].flip(-1), plain.seen[i])
        assert torch.equal(turned.aus[i].flip(-1), plain.aus[i])


def test_validation_is_fixed_unseen_and_plain(sets: tuple[SequenceSet, SequenceSet], cache: Path) -> None:
    learned, held = sets
    assert not set(learned.subjects_seen) & set(held.subjects_seen)
    whole = next(iter(held.validation(4)))
    parts = list(held.validation(3, batch=2))
    assert [len(b) for b in parts] == [2, 1]
    assert same(parts[1], whole.rows(np.array([2])))
    assert learned.subjects_seen == list_subjects(SequenceConfig(**SMALL))
    assert [name.partition(" ")[0] for name in learned.licences] == ["CC0-1.0"]
    again = open_pairs(SequenceConfig(**SMALL), cache=cache)[0]
    assert again.data_hash == learned.data_hash


def test_excluded_people_are_left_out(cache: Path) -> None:
    out = person_key(920_001)
    learned, _ = open_pairs(SequenceConfig(**SMALL), exclude_subjects=[out], cache=cache)
    assert learned.subjects_seen == (person_key(920_000),)
    with pytest.raises(ConfigError, match="excluded subject 'x/1' is not in the data"):
        open_pairs(SequenceConfig(**SMALL), exclude_subjects=["x/1"], cache=cache)
    with pytest.raises(ConfigError, match="nobody is left to learn from after excluding 2"):
        open_pairs(SequenceConfig(**SMALL), exclude_subjects=[out, person_key(920_000)], cache=cache)


def test_pairs_are_clips_of_which_the_apex_alone_is_known() -> None:
    pairs = rendered_batch([1], 2, SIZE)
    clips = SequenceBatch.of_pairs(replace(pairs, has_flow=torch.tensor([True, False])))
    assert torch.equal(clips.flows[:, RISING - 1], pairs.flow)
    assert clips.has_keys.sum(1).tolist() == [1, 0]
    assert SequenceBatch.of_pairs(clips) is clips


# ---------------------------------------------------------------- recorded clips


def test_recorded_clips_have_estimated_flow_at_their_key_frames(tmp_path: Path) -> None:
    jobs = small_manifest.jobs("a/1", "a/2", "b/1")
    jobs[1] = replace(jobs[1], changes={"apex_index": 4})  # the apex is the last frame: no offset
    manifest = small_manifest.write(tmp_path / "clips", jobs)
    config = SequenceConfig(source="manifest", size=32, manifests=(tmp_path / "clips",), camera=OFF, flip=False)
    learned, held = open_pairs(config, cache=tmp_path / "cache")
    assert len(learned) + len(held) == len(jobs) - 1
    assert not set(learned.subjects) & set(held.subjects)
    place = next((tmp_path / "cache").glob("recorded-*"))
    assert [s.reason for s in read_skipped(place)] == ["no onset, apex and offset among 5 frames"]
    frames = {row.clip_id: read_frames(manifest.root, row) for row in manifest}
    batch = next(iter(learned.validation(1)))
    onset = (batch.onset[0].permute(1, 2, 0) * 255).round().byte().numpy()
    clip = next(f for f in frames.values() if np.array_equal(f[0], onset))
    flows = sequence_flows(clip, "dis")
    assert torch.allclose(batch.flow[0], torch.from_numpy(flows[small_manifest.APEX - 1]), atol=0.01)
    assert batch.clock[0].tolist() == pytest.approx([0.5, 0, 0, 4 / next(iter(manifest)).fps])
    assert not bool(batch.known[0, 2].any())


def test_small_pictures_are_refused(tmp_path: Path) -> None:
    small_manifest.write(tmp_path / "clips", small_manifest.jobs("a/1"))
    with pytest.raises(ManifestError, match="square crops of at least 64"):
        record_clips(tmp_path / "out", tmp_path / "clips", 64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": "video"}, "data.source 'video' is unknown"),
        ({"source": "manifest"}, "data.manifests is empty"),
        ({"manifests": (Path("x"),)}, "data.manifests has no effect"),
        ({"source": "manifest", "manifests": (Path("x"),), "lag": 0.1}, "data.lag has no effect"),
        ({"lag": 0.5}, "lag=0.5 is outside 0..0.3"),
        ({"ordered": 2}, "ordered=2 is no share"),
        ({"validation_share": 2.0}, "data.validation_share=2 is no share"),
        ({"size": 8}, "size=8 is outside"),
    ],
)
def test_bad_configurations(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")) as error:
        SequenceConfig(**change)
    assert "\n" not in str(error.value)
