"""Frames with a CSV, flow arrays, moving pictures, and the data frame of MEB."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mesynth.core.types import optical_strain
from mesynth.corpus.exports.form import Options
from mesynth.corpus.exports.imports import restored
from mesynth.corpus.exports.records import clip_names, plain_people, safe
from mesynth.corpus.exports.run import export
from mesynth.corpus.previews import VIDEOS
from mesynth.datasets.registry import load
from mesynth.store.manifest import Manifest
from mesynth.store.shards import read_flow, read_frames, read_landmarks
from tests.corpus.exports.corpora import clip_row

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
