"""Clips as PyTorch reads them: what an item holds, who is left out, lengths, sizes, batches, and every bad input."""

from __future__ import annotations

import pickle
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

import mesynth
from mesynth.core import facs
from mesynth.core.errors import ConfigError, ManifestError, MesynthError, UnreadableImageError
from mesynth.core.types import N_AUS
from mesynth.data import ClipDataset, IterableClipDataset, ShardedSampler, clip_loader, collate_clips, resized_flow
from mesynth.datasets.registry import load as load_release
from mesynth.preprocess.interpolate import resample
from mesynth.store.manifest import SCHEMA, Manifest
from mesynth.store.shards import read_flow, read_frames, read_landmarks, read_valid
from mesynth.store.stage import run_stage
from recognizer.data import DataConfig, load
from recognizer.protocol import leaks
from tests.corpus.exports import corpora


@pytest.fixture(scope="module")
def samples() -> Manifest:
    return corpora.samples()


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return corpora.mixed(tmp_path_factory.mktemp("data") / "corpus")


@pytest.fixture(scope="module")
def whole(mixed: Manifest) -> Manifest:
    """Its clips that have frames and flow."""
    return mixed.filter(mixed.table["frames"].is_valid().to_numpy() & mixed.table["flow"].is_valid().to_numpy())


def test_an_item_is_what_the_corpus_says(samples: Manifest) -> None:
    clips = ClipDataset(samples, parts=["frames", "flow", "valid", "landmarks", "provenance"])
    assert len(clips) == len(samples)
    for i, row in enumerate(samples):
        item = clips[i]
        frames = read_frames(samples.root, row)
        assert (item["frames"].permute(0, 2, 3, 1).numpy() == frames).all()
        assert item["frames"].dtype == torch.uint8
        assert (item["flow"].numpy() == read_flow(samples.root, row)).all()
        valid = read_valid(samples.root, row)
        assert (item["valid"].numpy() == (True if valid is None else valid)).all()
        assert item["valid"].shape == item["flow"].shape[1:]
        assert (item["landmarks"].numpy() == read_landmarks(samples.root, row)).all()
        assert np.allclose(item["aus"].numpy(), row.aus.intensity)
        assert item["au_present"].flatten().tolist() == list(row.au_present)
        assert clips.classes[item["label"]] == row.label
        assert clips.subjects[item["subject"]] == row.subject_key
        assert (item["clip_id"], item["apex"], item["length"], item["fps"]) == (
            row.clip_id, row.apex_index, len(frames), row.fps,
        )  # fmt: skip
        assert item["kind"] == 2
        assert tuple(item["provenance"]["subjects_seen"]) == row.provenance.subjects_seen
    assert clips.labels.tolist() == [clips.classes.index(row.label) for row in samples]
    assert clips.clip_ids == [row.clip_id for row in samples]
    assert [clips.subjects[s] for s in clips.subject_of] == [row.subject_key for row in samples]
    assert clips[-1]["clip_id"] == samples.row(-1).clip_id
    with pytest.raises(IndexError):
        clips[len(clips)]


def test_what_is_unknown_is_nan_or_minus_one(tmp_path: Path) -> None:
    some = facs.parse_request("12=C")
    known = np.zeros((N_AUS, 2), np.bool_)
    known[facs.AU_INDEX[12]] = True
    vector = facs.AUVector(np.where(known, some.intensity, 0).astype(np.float32), known)
    row = corpora.clip_row("c0", emotion="others", label="", **corpora.Row.au_columns(vector))
    made = run_stage(tmp_path / "c", [(row, ())], corpora.make, config={"test": "unknown"})
    item = ClipDataset(made)[0]
    assert item["label"] == -1
    assert torch.isnan(item["aus"]).numpy().tolist() == (~known).tolist()
    assert (item["au_present"].numpy() == np.where(known, 1, -1)).all()
    assert ClipDataset(made, label="4")[0]["label"] == 3
    assert ClipDataset(made, label="emotion").classes == ("others",)
    with pytest.raises(ManifestError, match="none of the 1 clips has a class"):
        ClipDataset(made, labelled=True)


@pytest.mark.parametrize(
    ("label", "classes"),
    [
        ("3", ("negative", "positive", "surprise")),
        ("4", ("negative", "positive", "surprise", "others")),
        ("emotion", ("anger", "happiness", "others")),
    ],
)
def test_classes_follow_the_scheme(mixed: Manifest, label: str, classes: tuple[str, ...]) -> None:
    clips = ClipDataset(mixed, parts=[], label=label)
    assert clips.classes == classes
    words = mixed.column("emotion") if label == "emotion" else mixed.labels(label)
    assert [clips.classes[i] if i >= 0 else "" for i in clips.labels] == words.tolist()
    kept = ClipDataset(mixed, parts=[], label=label, labelled=True)
    assert len(kept) == sum(word != "" for word in words)
    assert kept.clip_ids == [row.clip_id for row, word in zip(mixed, words, strict=True) if word]


def test_named_classes_are_the_indices(mixed: Manifest) -> None:
    clips = ClipDataset(mixed, parts=[], classes=["positive", "negative"])
    assert [int(i) for i in clips.labels] == [{"positive": 0, "negative": 1}.get(w, -1) for w in mixed.column("label")]


def test_frames_in_files_of_their_own(samples: Manifest, tmp_path: Path) -> None:
    mesynth.export(samples, "frames", tmp_path / "frames")
    loose = load_release("generic", tmp_path / "frames")
    clips = ClipDataset(loose, length=5)
    assert clips.parts == ("frames",)
    for item, row in zip(clips, loose, strict=True):
        frames = read_frames(loose.root, row)
        first = row.apex_index - item["apex"]
        assert (item["frames"].permute(0, 2, 3, 1).numpy() == frames[first : first + 5]).all()
        assert item["kind"] == 0
    (loose.root / row.frame_files[0]).unlink()
    with pytest.raises(UnreadableImageError, match="cannot be read"):
        clips[len(clips) - 1]


# ---------------------------------------------------------------- leaks


@pytest.mark.parametrize(
    "held_out", [["photo/ann"], ["casme2/sub05"], ["samm/006", "photo/bob b"], "casme2/sub05", ["megc/7"], []]
)
def test_a_fold_meets_nobody_it_holds_out(whole: Manifest, held_out: Any) -> None:
    clips = ClipDataset(whole, exclude_subjects=held_out, parts=["flow", "provenance"])
    names = {held_out} if isinstance(held_out, str) else set(held_out)
    wanted = [r.clip_id for r in whole if not names & {r.subject_key, *r.provenance.subjects_seen}]
    assert clips.clip_ids == wanted
    assert clips.excluded == len(whole) - len(wanted)
    for item in clips:
        assert not names & {clips.subjects[item["subject"]], *item["provenance"]["subjects_seen"]}


def test_recognizers_and_data_sets_share_the_rule(whole: Manifest) -> None:
    pool = load([whole], DataConfig(size=28))
    ours = whole.filter(np.isin(whole.column("clip_id").astype(str), pool.clip_ids))
    for name in ("casme2/sub05", "photo/ann", "photo/bob b", "samm/006", "nobody/1"):
        assert ours.saw([name]).tolist() == leaks(pool, frozenset([name])).tolist()
    assert leaks(pool, frozenset(["casme2/sub05"])).sum() == 2  # shown by one clip, seen by another


@pytest.mark.parametrize("name", ["casme2/SUB05", "CASME2/sub05", "casme2/5", "casme2/sub5", "samm/6"])
def test_a_misspelt_subject_is_no_silent_leak(whole: Manifest, name: str) -> None:
    with pytest.raises(ConfigError, match=r"no clip has '.*'; is '(casme2/sub05|samm/006)' meant"):
        ClipDataset(whole, exclude_subjects=[name])


@pytest.mark.parametrize("name", ["sub05", "/sub05", "casme2/", ""])
def test_a_subject_needs_its_database(whole: Manifest, name: str) -> None:
    with pytest.raises(ConfigError, match="write database/subject"):
        ClipDataset(whole, exclude_subjects=[name])


def test_nobody_left_is_an_error(whole: Manifest) -> None:
    with pytest.raises(ManifestError, match=r"all \d+ clips show, or were made with the help of, an excluded subject"):
        ClipDataset(whole, exclude_subjects=sorted(set(whole.subject_keys())))


# ---------------------------------------------------------------- lengths and sizes


@pytest.mark.parametrize("fit", ["tim", "linear", "nearest"])
def test_resampled_as_prepare_does(samples: Manifest, fit: str) -> None:
    clips = ClipDataset(samples, parts=["frames"], length=7, fit=fit)
    for i, row in enumerate(samples):
        frames = read_frames(samples.root, row)
        video = torch.from_numpy(frames).permute(0, 3, 1, 2)[None].float()
        wanted, apex = resample(video, 7, fit, row.apex_index)
        item = clips[i]
        assert (item["frames"] == wanted[0].round().clamp(0, 255).to(torch.uint8)).all()
        assert (item["length"], item["apex"]) == (7, apex)
        assert item["fps"] == pytest.approx(row.fps * 6 / (len(frames) - 1))
        assert (item["frames"][apex] == video[0, row.apex_index].to(torch.uint8)).all()


@pytest.mark.parametrize("length", [1, 2, 5, 9, 12])
def test_padded_or_cut_around_the_apex(mixed: Manifest, length: int) -> None:
    row = next(row for row in mixed if row.frames is not None and row.n_frames == 9)
    one = mixed.filter(mixed.column("clip_id") == row.clip_id)
    frames = torch.from_numpy(read_frames(mixed.root, row)).permute(0, 3, 1, 2)
    item = ClipDataset(one, parts=["frames"], length=length)[0]
    assert item["frames"].shape == (length, *frames.shape[1:])
    assert item["length"] == min(length, 9)
    assert (item["frames"][item["apex"]] == frames[row.apex_index]).all()
    first = row.apex_index - item["apex"]
    assert (item["frames"][: item["length"]] == frames[first : first + length]).all()
    assert not item["frames"][item["length"] :].any()


def test_flow_keeps_its_meaning_at_another_size() -> None:
    u = np.zeros((2, 40, 80), np.float32)
    u[0], u[1] = 4.0, 2.0
    assert resized_flow(u, 20)[:, 3, 3].tolist() == [1.0, 1.0]
    assert resized_flow(u, 160)[:, 3, 3].tolist() == [8.0, 8.0]
    own = np.random.default_rng(0).normal(size=(2, 64, 64)).astype(np.float32)
    own /= np.sqrt(np.mean(own**2))  # as a published image: in units of its own rms, whatever the grid
    assert np.sqrt(np.mean(resized_flow(own, 16) ** 2)) == pytest.approx(1)


def test_every_part_gets_the_size(samples: Manifest) -> None:
    parts = ["frames", "flow", "valid", "landmarks"]
    full, small = ClipDataset(samples, parts=parts)[0], ClipDataset(samples, parts=parts, size=48)[0]
    assert full["frames"].shape[-2:] == (96, 96)
    assert small["frames"].shape[-2:] == small["flow"].shape[-2:] == small["valid"].shape == (48, 48)
    assert (small["landmarks"] + 0.5 - (full["landmarks"] + 0.5) / 2).abs().max() < 1e-4
    assert small["flow"].abs().mean() == pytest.approx(float(full["flow"].abs().mean()) / 2, rel=0.05)


def test_lengths_are_mixed_in_a_batch_with_a_mask(samples: Manifest) -> None:
    clips = ClipDataset(samples, length=4)
    short = clips[0] | {"frames": clips[0]["frames"][:3], "length": 3}
    batch = collate_clips([short, clips[1]])
    assert batch["frames"].shape[:2] == (2, 4)
    assert batch["mask"].tolist() == [[True, True, True, False], [True] * 4]
    assert not batch["frames"][0, 3].any()
    assert batch["label"].dtype == torch.int64
    assert batch["clip_id"] == [clips[0]["clip_id"], clips[1]["clip_id"]]
    assert batch["fps"].dtype == torch.float32


def test_sizes_are_not_mixed_in_a_batch(samples: Manifest, whole: Manifest) -> None:
    both = [samples, whole]
    assert len(ClipDataset(both)) == len(samples) + len(whole)
    clips = ClipDataset(both, parts=["flow"])
    with pytest.raises(MesynthError, match=r"'flow' of a batch has the shapes \(2, 32, 32\) and \(2, 96, 96\).*size="):
        collate_clips([clips[0], clips[len(samples)]])
    batch = next(iter(clip_loader(ClipDataset(both, size=32), len(samples) + len(whole))))
    assert batch["flow"].shape == (len(samples) + len(whole), 2, 32, 32)


def test_units_of_flow_are_not_mixed(samples: Manifest, tmp_path: Path) -> None:
    made = run_stage(tmp_path / "c", [(corpora.clip_row("c0"), ())], _in_own_rms, config={"test": "rms"})
    with pytest.raises(ManifestError, match=r"is in units of its own rms .*, of .* in pixels"):
        ClipDataset([samples, made], parts=["flow"])
    assert len(ClipDataset([samples, made], parts=["frames"])) == 9
    assert float(ClipDataset(made, size=16)[0]["flow"].square().mean()) == pytest.approx(1, abs=1e-5)


def _in_own_rms(job: Any) -> Any:
    made = corpora.make(job)
    assert made.flow is not None
    return replace(made, flow=(made.flow / np.sqrt(np.mean(made.flow**2))).astype(np.float32))


def test_a_transform_is_the_last_word(samples: Manifest) -> None:
    clips = ClipDataset(samples, parts=["flow"], transform=_with_strain)
    assert collate_clips([clips[0], clips[1]])["strength"].shape == (2, 96, 96)


def _with_strain(item: dict[str, Any]) -> dict[str, Any]:
    return item | {"strength": item["flow"].square().sum(0).sqrt()}


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 0}, "length=0 is no number of frames"),
        ({"length": -3}, "length=-3 is no number of frames"),
        ({"length": 2.5}, r"length=2\.5 is no number of frames"),
        ({"length": 2, "fit": "tim"}, "length=2 cannot hold onset, apex and offset"),
        ({"fit": "tim"}, "none is given"),
        ({"fit": "dtw", "length": 8}, "fit='dtw' is unknown; choose from pad, tim, linear, nearest"),
        ({"size": 0}, "size=0 is outside"),
        ({"size": 5000}, "size=5000 is outside"),
        ({"parts": ["flwo"]}, "part 'flwo' is unknown; choose from frames, flow"),
        ({"parts": "flow"}, "is no list of parts"),
        ({"label": "6"}, "label='6' is unknown; choose from 3, 4, 5, 7, objective, emotion"),
        ({"classes": []}, "at least one class"),
        ({"classes": ["positive", "positive"]}, "none twice"),
        ({"classes": ["joy"]}, "no clip is of class 'joy'; the clips have"),
    ],
)
def test_options_out_of_range(samples: Manifest, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ClipDataset(samples, **options)


def test_a_folder_that_is_no_corpus(tmp_path: Path, samples: Manifest) -> None:
    with pytest.raises(ManifestError, match=r"no manifest\.parquet"):
        ClipDataset(tmp_path)
    with pytest.raises(ManifestError, match="no corpus is given"):
        ClipDataset([])
    with pytest.raises(ManifestError, match="holds no clips"):
        ClipDataset(samples[:0])
    with pytest.raises(ManifestError, match="is in two of the corpora"):
        ClipDataset([samples, samples])


def test_a_missing_part_is_told_before_training(mixed: Manifest) -> None:
    with pytest.raises(
        ManifestError, match=r"1 of 11 clips have no frames, for example photo/ann/c4/0.*parts=\['flow'"
    ):
        ClipDataset(mixed)
    with pytest.raises(ManifestError, match=r"1 of 11 clips have no flow, for example photo/ann/c3/0"):
        ClipDataset(mixed, parts=["flow"])
    with pytest.raises(ManifestError, match="have no landmarks"):
        ClipDataset(mixed, parts=["landmarks"])
    flow = mesynth.Manifest(mixed.filter(~mixed.table["frames"].is_valid().to_numpy()).table, mixed.root)
    assert ClipDataset(flow).parts == ("flow",)


def test_a_torn_shard_is_told_when_it_is_read(tmp_path: Path) -> None:
    rows = [(corpora.clip_row(f"c{i}"), ()) for i in range(3)]
    made = run_stage(tmp_path / "c", rows, corpora.make, config={"test": "torn"})
    shard = made.root / made.row(0).flow.shard  # type: ignore[union-attr]
    shard.write_bytes(shard.read_bytes()[: made.row(2).flow.offset + 100])  # type: ignore[union-attr]
    clips = ClipDataset(made.root)
    assert clips[0]["flow"].shape == (2, 32, 32)
    with pytest.raises(ManifestError, match="is damaged at byte"):
        clips[2]
    shard.unlink()
    with pytest.raises(ManifestError, match="is missing"):
        ClipDataset(made.root)[0]


def test_a_clip_too_short_to_resample(tmp_path: Path) -> None:
    row = corpora.clip_row("c0", n_frames=1, apex_index=0)
    made = run_stage(tmp_path / "c", [(row, ())], corpora.make, config={"test": "short"})
    with pytest.raises(MesynthError, match=r"clip photo/ann/c0/0: .*; choose fit='pad'"):
        ClipDataset(made, length=4, fit="tim")[0]
    assert ClipDataset(made, length=4)[0]["length"] == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda c: ShardedSampler(c, rank=2, world_size=2),
        lambda c: ShardedSampler(c, rank=0),
        lambda c: ShardedSampler(c, seed=-1),
        lambda c: IterableClipDataset(c, rank=-1, world_size=2),
        lambda c: IterableClipDataset(c, size=8),
        lambda c: clip_loader(c, 0),
        lambda c: clip_loader(IterableClipDataset(c), shuffle=True),
    ],
)
def test_readers_refuse_nonsense(samples: Manifest, make: Any) -> None:
    with pytest.raises(ConfigError):
        make(ClipDataset(samples))


def test_an_empty_or_uneven_batch() -> None:
    with pytest.raises(MesynthError, match="no clips"):
        collate_clips([])
    with pytest.raises(MesynthError, match="'b' is in some items"):
        collate_clips([{"a": 1}, {"a": 1, "b": 2}])


# ---------------------------------------------------------------- memory


def many(count: int) -> Manifest:
    """A manifest of so many clips without shards, made column by column."""
    row = corpora.samples().table.slice(0, 1)
    table = row.take(pa.array(np.zeros(count, np.int64)))
    for name, values in (
        ("clip_id", [f"photo/p{i % 997:04d}/clip{i:07d}/0" for i in range(count)]),
        ("subject", [f"p{i % 997:04d}" for i in range(count)]),
    ):
        table = table.set_column(table.schema.get_field_index(name), SCHEMA.field(name), pa.array(values))
    return Manifest(table.cast(SCHEMA), Path("nowhere"))


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


def test_a_hundred_thousand_clips_are_arrays(traced: None) -> None:
    manifest = many(100_000)
    before = tracemalloc.get_traced_memory()[0]
    arrow = pa.total_allocated_bytes()
    clips = ClipDataset(manifest, parts=["frames"], exclude_subjects=["rendered/p0003"])
    held = tracemalloc.get_traced_memory()[0] - before + pa.total_allocated_bytes() - arrow
    assert len(clips) == 100_000 - 101
    assert held < 100e6  # bytes: about 0.6 kB a clip, of which half are its 50 action units
    assert tracemalloc.get_traced_memory()[0] - before < 60e6  # numpy; no object a clip
    assert len(pickle.dumps(clips)) < 100e6  # what a spawned worker gets
    before = tracemalloc.get_traced_memory()[0]
    for _ in IterableClipDataset(clips, shuffle=True)._order():
        pass
    assert tracemalloc.get_traced_memory()[0] - before < 5e6
