"""Frames with a CSV, flow arrays, moving pictures, MEB, WebDataset shards and Hugging Face parquet: in the form their
libraries ask for, and by them if installed.
"""

from __future__ import annotations

import csv
import io
import json
import re
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from mesynth.core.emotions import CLASSES_3
from mesynth.core.types import optical_strain
from mesynth.corpus.exports.form import Options, clip_names, plain_people, safe
from mesynth.corpus.exports.run import export, restored
from mesynth.corpus.previews import VIDEOS
from mesynth.datasets.registry import load
from mesynth.store.manifest import Manifest
from mesynth.store.shards import read_flow, read_frames, read_landmarks, read_valid
from tests.corpus.exports.corpora import clip_row

# ---------------------------------------------------------------- plain files


Exported = Callable[[Manifest, str], Path]


@pytest.mark.parametrize("which", ["samples", "mixed"])
def test_the_generic_loader_reads_frames_and_csv(
    which: str, request: pytest.FixtureRequest, exported: Exported
) -> None:
    source: Manifest = request.getfixturevalue(which)
    folder = exported(source, "frames")
    plain = load("generic", folder)
    back = restored(plain, folder)
    ours = {row.clip_id: row for row in source}
    assert len(back) == sum(row.frames is not None for row in source)
    for read, row in zip(plain, back, strict=True):
        own = ours[row.clip_id]
        assert (read.database, read.subject, read.fps) == (own.database, own.subject, own.fps)
        assert (read.emotion, read.label, read.n_frames) == (own.emotion, own.label, own.n_frames)
        assert (read_frames(folder, read) == read_frames(source.root, own)).all()
        assert row.provenance == own.provenance


def test_flow_arrays(mixed: Manifest, exported: Exported) -> None:
    folder = exported(mixed, "flow-npy")
    index = pd.read_csv(folder / "index.csv").set_index("clip_id")
    rows = [row for row in mixed if row.flow]
    assert len(index) == len(rows) == 10
    for row in rows:
        line = index.loc[row.clip_id]
        flow = np.load(folder / str(line["file"]), allow_pickle=False)
        assert flow.dtype == np.float32
        assert (flow == read_flow(mixed.root, row)).all()
        assert (np.load(folder / str(line["landmarks"])) == read_landmarks(mixed.root, row)).all()


@pytest.mark.parametrize("video", VIDEOS)
def test_previews(video: str, samples: Manifest, tmp_path: Path) -> None:
    export(samples, "previews", tmp_path / "out", Options(video=video))
    with open(tmp_path / "out/index.csv", newline="") as file:
        lines = {line["clip_id"]: line for line in csv.DictReader(file)}
    for row in samples:
        path = tmp_path / "out" / lines[row.clip_id]["file"]
        wanted = read_frames(samples.root, row)
        if video in ("gif", "apng"):
            with Image.open(path) as picture:
                assert picture.n_frames >= 2  # equal neighbours are merged into one, shown longer
                first = np.asarray(picture.convert("RGB"))
        else:
            capture = cv2.VideoCapture(str(path))
            frames = []
            while (done := capture.read())[0]:
                frames.append(done[1])
            assert len(frames) == row.n_frames
            first = frames[0][..., ::-1]
        assert np.abs(first.astype(float) - wanted[0]).mean() < 8


# ---------------------------------------------------------------- MEB


@pytest.mark.parametrize("which", ["samples", "mixed"])
def test_the_data_frame_passes_the_checks_of_meb(
    which: str, request: pytest.FixtureRequest, exported: Exported
) -> None:
    """Its rules: apex between onset and offset, file numbers from onset to offset in order, n_frames files."""
    source: Manifest = request.getfixturevalue(which)
    folder = exported(source, "meb")
    frame = pd.read_csv(folder / "data_frame.csv", index_col=0, dtype={"subject": str, "material": str, "AU": str})
    flow = np.load(folder / "optical_flow.npy", mmap_mode="r")
    assert flow.shape == (len(frame), 3, 64, 64)
    assert flow.dtype == np.float32
    assert list(frame.index) == list(range(len(frame)))
    assert not frame.duplicated(["subject", "material"]).any()
    for _, row in frame.iterrows():
        names = [p.name for p in (folder / "frames" / row["subject"] / row["material"]).iterdir()]
        digits = sorted(int("".join(c for c in name if c.isdigit())) for name in names)
        assert digits == list(range(row["onset"], row["offset"] + 1))
        assert len(names) == row["n_frames"]
        assert row["onset"] <= row["apex"] <= row["offset"]
        assert row["apexf"] == row["apex"] - row["onset"]
        named = {int(re.sub(r"\D", "", term)) for term in row["AU"].split("+") if re.fullmatch(r"[LR]?\d+[A-E]?", term)}
        assert named <= {int(column[2:]) for column in frame.columns[10:] if row[column] == 1} | {6}


def test_flow_of_the_data_frame(samples: Manifest, exported: Exported) -> None:
    flow = np.load(exported(samples, "meb") / "optical_flow.npy")
    for row, found in zip(samples, flow, strict=True):
        uv = read_flow(samples.root, row)
        for plane, exact in zip(found, (uv[0], uv[1], optical_strain(uv)), strict=True):
            small = cv2.resize(exact, (64, 64), interpolation=cv2.INTER_AREA)
            assert plane == pytest.approx((small - small.min()) / (float(np.ptp(small)) or 1.0), abs=1e-6)


# ---------------------------------------------------------------- names


def test_names_never_meet(tmp_path: Path) -> None:
    rows = [
        clip_row("a"), clip_row("a", onset=9), clip_row("a 9"), clip_row("a.9"), clip_row("a", "casme2", "ann"),
        clip_row("../../x", subject="ann 1"), clip_row("x", subject="ann_1"), clip_row("ü", subject=".."),
    ]  # fmt: skip
    source = Manifest.from_rows(rows, tmp_path)
    people, clips = plain_people(source), clip_names(source)
    whole = [(people[row.subject_key], clip) for row, clip in zip(rows, clips, strict=True)]
    assert len(set(whole)) == len(rows)
    assert all(re.fullmatch(r"[\w-]+", part, re.ASCII) for pair in whole for part in pair)
    assert safe("..") == "__"


# ---------------------------------------------------------------- libraries


def test_samples_stand_together_under_one_key(mixed: Manifest, exported: Exported) -> None:
    folder = exported(mixed, "webdataset")
    seen: list[str] = []
    for path in sorted(folder.glob("clips-*.tar")):
        with tarfile.open(path, "r:") as tar:
            names = tar.getnames()
        keys = [name.partition(".")[0] for name in names]
        assert all(keys[i] == keys[i + 1] or keys[i] not in keys[i + 1 :] for i in range(len(keys) - 1))
        seen += dict.fromkeys(keys)
    assert len(seen) == len(set(seen)) == 10


def test_a_webdataset_export_is_a_corpus(samples: Manifest, exported: Exported) -> None:
    back = Manifest.read(exported(samples, "webdataset"))
    for ours, row in zip(samples, back, strict=True):
        assert row.provenance == ours.provenance
        assert (read_frames(back.root, row) == read_frames(samples.root, ours)).all()
        assert (read_flow(back.root, row) == read_flow(samples.root, ours)).all()
        assert (read_landmarks(back.root, row) == read_landmarks(samples.root, ours)).all()


def test_the_webdataset_library_reads_it(samples: Manifest, exported: Exported) -> None:
    wds = pytest.importorskip("webdataset")
    urls = [str(path) for path in sorted(exported(samples, "webdataset").glob("clips-*.tar"))]
    found = list(wds.WebDataset(urls, shardshuffle=False).decode("rgb8"))
    assert len(found) == len(samples)
    for ours, sample in zip(samples, found, strict=True):
        frames = np.stack([sample[f"{i:03d}.png"] for i in range(ours.n_frames)])
        assert (frames == read_frames(samples.root, ours)).all()
        assert (sample["flow.npy"] == read_flow(samples.root, ours)).all()
        assert sample["cls"] == CLASSES_3.index(ours.label)
        assert sample["json"]["clip_id"] == ours.clip_id
        assert tuple(sample["json"]["provenance"]["subjects_seen"]) == ours.provenance.subjects_seen


# ---------------------------------------------------------------- Hugging Face


def test_parquet_says_what_its_columns_are(samples: Manifest, exported: Exported) -> None:
    files = sorted((exported(samples, "huggingface") / "data").iterdir())
    assert [f.name for f in files] == ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    schema = pq.read_schema(files[0])
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert list(features) == schema.names
    assert features["frames"] == {"feature": {"_type": "Image"}, "_type": "Sequence"}
    assert features["label"] == {"names": list(CLASSES_3), "_type": "ClassLabel"}
    assert features["flow"] == {"shape": [2, 96, 96], "dtype": "float32", "_type": "Array3D"}
    assert features["provenance"]["subjects_seen"]["feature"] == {"dtype": "string", "_type": "Value"}
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    for ours, row in zip(samples, rows, strict=True):
        frames = np.stack([np.asarray(Image.open(io.BytesIO(image["bytes"]))) for image in row["frames"]])
        assert (frames == read_frames(samples.root, ours)).all()
        assert (np.array(row["flow"], np.float32) == read_flow(samples.root, ours)).all()
        assert CLASSES_3[row["label"]] == ours.label
        assert row["aus"] == sorted({c for c, p in zip(_codes(), ours.au_present, strict=True) if p == 1})


def _codes() -> list[int]:
    from mesynth.core.facs import AU_CODES

    return [code for code in AU_CODES for _ in "LR"]


@pytest.mark.parametrize("which", ["samples", "mixed"])
def test_the_datasets_library_reads_it(
    which: str, request: pytest.FixtureRequest, exported: Exported, tmp_path: Path
) -> None:
    datasets = pytest.importorskip("datasets")
    source: Manifest = request.getfixturevalue(which)
    folder = exported(source, "huggingface")
    config = yaml.safe_load((folder / "README.md").read_text().split("---")[1])["configs"][0]
    files = [str(folder / entry["path"]) for entry in config["data_files"]]
    found = datasets.load_dataset("parquet", data_files={"train": files}, cache_dir=str(tmp_path), split="train")
    rows = [row for row in source if row.frames]
    assert len(found) == len(rows)
    for ours, row in zip(rows, found, strict=True):
        frames = np.stack([np.asarray(image) for image in row["frames"]])
        assert (frames == read_frames(source.root, ours)).all()
        assert row["label"] == (CLASSES_3.index(ours.label) if ours.label else -1)
        assert tuple(row["provenance"]["subjects_seen"]) == ours.provenance.subjects_seen
        if ours.flow:
            assert (np.array(row["flow"], np.float32) == read_flow(source.root, ours)).all()
        else:
            assert row["flow"] is None
    assert found.features["label"].names == list(CLASSES_3)


def test_flows_of_two_sizes_are_nested_lists(mixed: Manifest, exported: Exported) -> None:
    schema = pq.read_schema(next((exported(mixed, "huggingface") / "data").iterdir()))
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert features["flow"]["_type"] == "Sequence"
    assert features["flow"]["feature"]["feature"]["feature"] == {"dtype": "float32", "_type": "Value"}


def test_it_batches_as_tensors_of_fixed_shapes(samples: Manifest, exported: Exported, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    import torch

    folder = exported(samples, "huggingface")
    # As of the hub: the folder's own card says which files are tables.
    found = datasets.load_dataset(str(folder), cache_dir=str(tmp_path), split="train")
    assert found.features["flow"] == datasets.Array3D(shape=(2, 96, 96), dtype="float32")
    held = found.with_format("torch")
    start = time.process_time()
    item = held[0]
    assert time.process_time() - start < 0.2  # seconds
    row = samples.row(0)
    assert (item["frames"].permute(0, 2, 3, 1).numpy() == read_frames(samples.root, row)).all()
    assert (item["flow"].numpy() == read_flow(samples.root, row)).all()
    assert (item["landmarks"].numpy() == read_landmarks(samples.root, row)).all()
    for one, ours in zip(held, samples, strict=True):
        mask = read_valid(samples.root, ours)
        assert one["valid"].dtype == torch.bool
        assert (one["valid"].numpy() == (True if mask is None else mask)).all()
    chosen = held.select_columns(["flow", "valid", "landmarks", "au_intensity", "au_present", "label", "apex_index"])
    batch = next(iter(torch.utils.data.DataLoader(chosen, batch_size=8)))
    assert {name: tuple(values.shape) for name, values in batch.items()} == {
        "flow": (8, 2, 96, 96), "valid": (8, 96, 96), "landmarks": (8, 68, 2), "au_intensity": (8, 50),
        "au_present": (8, 50), "label": (8,), "apex_index": (8,),
    }  # fmt: skip
    lengths = sorted({row.n_frames for row in samples}, key=samples.column("n_frames").tolist().count)
    alike = [i for i, row in enumerate(samples) if row.n_frames == lengths[-1]]
    frames = next(iter(torch.utils.data.DataLoader(held.select_columns(["frames"]).select(alike), len(alike))))
    assert frames["frames"].shape == (len(alike), lengths[-1], 3, 96, 96)


def test_the_card_of_a_data_set_is_read_by_the_hub(samples: Manifest, exported: Exported) -> None:
    from huggingface_hub import DatasetCard

    card = DatasetCard.load(exported(samples, "huggingface") / "README.md")
    held = card.data.to_dict()
    assert held["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]
    assert held["license"]
    assert "\n# Synthetic micro-expressions\n" in card.text
