"""Flow folders: the bytes, our loader, the leak rule, and the walk that HTNet takes through them."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from mesynth.core.emotions import CLASSES_3
from mesynth.core.errors import ConfigError
from mesynth.core.types import optical_strain, stretched
from mesynth.corpus.exports.flow import FACES, TABLE, TREE, WHOLE, FlowFoldersForm
from mesynth.corpus.exports.form import Options
from mesynth.corpus.exports.imports import restored
from mesynth.corpus.exports.records import flow_image
from mesynth.corpus.exports.run import export
from mesynth.datasets.flow_folders import import_flow_folders, read_flow_folders, read_flow_image
from mesynth.store.manifest import Manifest
from mesynth.store.shards import STRETCHED, read_extra, read_flow
from tests.datasets.releases.flow_folders import planes_of, smooth_flow

Exported = Callable[[Manifest, str], Path]


def test_bytes_are_those_of_an_independent_writer() -> None:
    """112 px flow to 28 px, strain before shrinking, min-max per channel, R, G, B = u, v, strain."""
    for label in CLASSES_3:
        uv = smooth_flow(label, np.random.default_rng(3))
        bgr = cv2.imdecode(np.frombuffer(flow_image(uv, 28), np.uint8), cv2.IMREAD_COLOR)
        assert bgr.shape == (28, 28, 3)
        assert bgr.dtype == np.uint8
        assert (bgr[..., ::-1].transpose(2, 0, 1) == planes_of(uv)).all()
        assert (bgr.min((0, 1)) == 0).all()
        assert (bgr.max((0, 1)) == 255).all()


def test_a_flat_plane_is_zero_and_opencv_reads_strain_first() -> None:
    uv = np.zeros((2, 28, 28), np.float32)
    uv[0] = np.linspace(-1, 1, 28)[None]  # u grows to the right: no v, strain the same everywhere
    bgr = cv2.imdecode(np.frombuffer(flow_image(uv, 28), np.uint8), cv2.IMREAD_COLOR)
    assert (bgr[..., 1] == 0).all()
    assert (bgr[0, :, 2] == np.round(np.linspace(0, 255, 28))).all()
    assert (stretched(np.full((3, 3), 2.5, np.float32)) == 0).all()


def test_our_loader_reads_every_clip_in_its_class(samples: Manifest, exported: Exported) -> None:
    root = exported(samples, "flow-folders") / TREE
    found = read_flow_folders(root, database="export")
    assert found.violations == ()
    assert len(found.clips) == len(samples)
    assert sorted(clip.label for clip in found.clips) == sorted(row.label for row in samples)


def test_imported_flow_agrees_with_the_corpus(samples: Manifest, exported: Exported, tmp_path: Path) -> None:
    """Without being told the order of channels: physics must accept what we write."""
    folder = exported(samples, "flow-folders")
    made = import_flow_folders(folder / TREE, tmp_path / "back", database="export")
    back = restored(made, folder)
    ours = {row.clip_id: row for row in samples}
    assert {row.clip_id for row in back} == set(ours)
    for row in back:
        own = ours[row.clip_id]
        assert row.provenance == own.provenance
        uv = read_flow(samples.root, own)
        planes = read_extra(back.root, row, STRETCHED)
        for plane, exact in zip(planes, (uv[0], uv[1], optical_strain(uv)), strict=True):
            small = cv2.resize(exact, (28, 28), interpolation=cv2.INTER_AREA)
            unit = (small - small.min()) / (float(np.ptp(small)) or 1.0) * 255  # u of a raised brow is 0 throughout
            assert np.abs(plane - unit).max() <= 0.5 + 1e-3


def test_a_generator_that_saw_a_subject_is_kept_from_its_training(mixed: Manifest, exported: Exported) -> None:
    """Clip c2 shows somebody else, but its generator has seen casme2/sub05."""
    folder = exported(mixed, "flow-folders")
    with open(folder / "u_train_withheld.csv") as file:
        assert list(csv.reader(file)) == [["subject", "clip_id"], ["sub05", "photo/bob b/c2/0"]]
    c2 = next(path.name for path in (folder / WHOLE).iterdir() if path.name.endswith("_c2 .png"))
    assert not list((folder / TREE / "sub05/u_train").rglob(c2))
    others = [p for p in (folder / TREE).iterdir() if p.name != "sub05" and not list((p / "u_test").rglob(c2))]
    assert others
    assert all(list((person / "u_train").rglob(c2)) for person in others)
    found = read_flow_folders(folder / TREE, database="export")
    assert found.violations == (f"sub05/u_train lacks clips of other subjects: 1, first {c2.removesuffix(' .png')}",)


def test_no_clip_trains_on_whom_it_shows_or_has_seen(mixed: Manifest, exported: Exported) -> None:
    import json

    folder = exported(mixed, "flow-folders")
    lines = [json.loads(line) for line in (folder / "provenance.jsonl").read_text().splitlines()]
    keys = {line["as"]["subject"]: f"{line['database']}/{line['subject']}" for line in lines}
    seen = {line["as"]["file"]: line["provenance"]["subjects_seen"] for line in lines}
    files = list((folder / TREE).glob("*/u_train/*/*"))
    assert files
    for file in files:
        assert keys[file.parts[-4]] not in seen[file.name]
    assert sorted(p.name for p in (folder / TREE).glob("*/u_test/*/*")) == sorted(seen)


def test_the_walk_of_htnet(mixed: Manifest, exported: Exported) -> None:
    """main_HTNet.py: every file of every split is a key of the images in one folder and of the table."""
    folder = exported(mixed, "flow-folders")
    table = pd.read_csv(folder / TABLE)
    assert list(table) == ["dataset", "sub", "filename_o", "label", "apex", "imagename", "sub_filename"]
    named = {f"{sub} {name}".replace(" ", "_", 1) + " .png" for sub, name in zip(table["sub"], table["filename_o"])}  # noqa: B905
    images = {path.name: cv2.imread(str(path)) for path in (folder / WHOLE).iterdir()}
    assert set(images) == named
    assert all(image.shape == (28, 28, 3) for image in images.values())
    for person in (folder / TREE).iterdir():
        for split in ("u_train", "u_test"):
            for label in (person / split).iterdir():
                assert int(label.name) in (0, 1, 2)
                assert all(path.name in images for path in label.iterdir())
    for _, row in table.iterrows():
        if isinstance(row["imagename"], str):
            assert cv2.imread(str(folder / FACES / row["imagename"])) is not None
    assert table["imagename"].isna().sum() == 1  # c4 has flow and no frames


def test_options(samples: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export(samples, "flow-folders", tmp_path / "out", Options(size=40, train=False))
    tree = tmp_path / "out" / TREE
    assert not list(tree.glob("*/u_train/*"))
    assert read_flow_image(next(tree.rglob("*.png"))).shape == (3, 40, 40)
    monkeypatch.setattr("mesynth.corpus.exports.flow._MOST", 10)
    with pytest.raises(ConfigError, match=r"would hold 16 files .* --no-train"):
        FlowFoldersForm(samples, Options())
