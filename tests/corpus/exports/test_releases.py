"""CASME II- and SAMM-like folders read back by the loaders of those releases; flow folders: the bytes, our loader, the
leak rule, and the walk that HTNet takes through them.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesynth.core import facs
from mesynth.core.emotions import CLASSES_3
from mesynth.core.errors import ConfigError, ManifestError
from mesynth.core.types import optical_strain, stretched
from mesynth.corpus.exports.form import Options, au_cell, flow_image, numbers_of
from mesynth.corpus.exports.releases import FACES, TABLE, TREE, WHOLE, FlowFoldersForm
from mesynth.corpus.exports.run import export, restored
from mesynth.datasets.flow_folders import import_flow_folders, read_flow_folders, read_flow_image
from mesynth.datasets.registry import load, load_release_of
from mesynth.store.manifest import Manifest, Row
from mesynth.store.shards import STRETCHED, read_extra, read_flow, read_frames
from tests.corpus.exports.corpora import clip_row
from tests.datasets.releases.flow_folders import planes_of, smooth_flow

Exported = Callable[[Manifest, str], Path]
FORMS = ("casme2", "samm")


def _pairs(source: Manifest, folder: Path, form: str) -> list[tuple[Row, Row]]:
    """(row of the corpus, row that the release's loader reads), matched through provenance.jsonl."""
    back = restored(load(form, folder), folder)
    plain = list(load(form, folder))
    ours = {row.clip_id: row for row in source}
    return [(ours[known.clip_id], row) for known, row in zip(back, plain, strict=True)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("which", ["samples", "mixed"])
def test_the_releases_own_loader_reads_every_clip(
    form: str, which: str, request: pytest.FixtureRequest, exported: Exported
) -> None:
    source: Manifest = request.getfixturevalue(which)
    folder = exported(source, form)
    loaded = load_release_of(form, folder)
    assert loaded.problems == ()
    assert loaded.missing_frames == {}
    assert loaded.unannotated == ()
    pairs = _pairs(source, folder, form)
    assert len(pairs) == {"samples": 8, "mixed": 8}[which]
    for ours, read in pairs:
        numbers = numbers_of(ours)
        assert (read.n_frames, read.apex_index) == (ours.n_frames, ours.apex_index)
        assert (read.onset, read.apex, read.offset) == (numbers.onset, numbers.apex, numbers.offset)
        if not numbers.renumbered:
            assert (read.onset, read.apex, read.offset) == (ours.onset, ours.apex, ours.offset)
        assert read.emotion == ours.emotion
        assert read.label == ours.label
        assert read.au_text == au_cell(ours, letters=form == "samm")
        said, meant = facs.parse_annotation(read.au_text).presence(), np.array(ours.au_present).reshape(-1, 2)
        if ours.clip != "c9" and which == "mixed":  # a coder's own words, which leave AUs undecided
            assert (said == meant).all()
        assert (said.max(1) == 1).sum() == (meant.max(1) == 1).sum() or ours.clip == "c9"


@pytest.mark.parametrize("form", FORMS)
def test_people_are_told_apart_and_are_nobody_elses(form: str, mixed: Manifest, exported: Exported) -> None:
    pairs = _pairs(mixed, exported(mixed, form), form)
    names = {ours.subject_key: read.subject_key for ours, read in pairs}
    assert len(set(names.values())) == len(names) == len({ours.subject_key for ours, _ in pairs})
    if form == "samm":
        assert names.pop("samm/006") == "samm/006"
        assert sorted(name.split("/")[1] for name in names.values()) == ["501", "502", "503"]
    else:  # a mixture of databases is a database of its own, whatever its people are called
        assert all(name.startswith("export-") for name in names.values())
        assert names["casme2/sub05"].endswith("/sub05")
        assert {read.provenance.kind for _, read in pairs} == {"synthetic"}


def test_clips_on_casme2_faces_stay_casme2_subjects(tmp_path: Path, exported: Exported) -> None:
    from mesynth.corpus.exports.run import export
    from mesynth.store.stage import run_stage
    from tests.corpus.exports.corpora import make

    rows = [clip_row(f"c{i}", "casme2", f"sub{i:02d}") for i in (3, 7)]
    source = run_stage(tmp_path / "corpus", [(row, ()) for row in rows], make, config={})
    export(source, "casme2", tmp_path / "out")
    assert set(load("casme2", tmp_path / "out").subject_keys()) == {"casme2/sub03", "casme2/sub07"}
    assert {row.provenance.kind for row in load("casme2", tmp_path / "out")} == {"synthetic"}


@pytest.mark.parametrize("form", FORMS)
def test_restored_is_the_corpus_again(form: str, mixed: Manifest, exported: Exported) -> None:
    folder = exported(mixed, form)
    ours = {row.clip_id: row for row in mixed}
    for row in restored(load(form, folder), folder):
        own = ours[row.clip_id]
        assert row.provenance == own.provenance
        assert row.subject_key == own.subject_key
        assert (row.au_intensity, row.au_present, row.label, row.fps) == (
            own.au_intensity, own.au_present, own.label, own.fps,
        )  # fmt: skip


def test_restoring_something_else_is_refused(mixed: Manifest, samples: Manifest, exported: Exported) -> None:
    with pytest.raises(ManifestError, match="is not in"):
        restored(load("casme2", exported(mixed, "casme2")), exported(samples, "samm"))
    with pytest.raises(ManifestError, match=r"no provenance\.jsonl"):
        restored(samples, samples.root)


@pytest.mark.parametrize(("form", "most"), [("casme2", 1.0), ("samm", 1.0)])
def test_jpeg_loses_less_than_a_grey_level_on_average(
    form: str, most: float, samples: Manifest, exported: Exported
) -> None:
    for ours, read in _pairs(samples, exported(samples, form), form)[:3]:
        wanted = read_frames(samples.root, ours)
        if form == "samm":
            wanted = np.stack([cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in wanted])[..., None]
        found = read_frames(exported(samples, form), read)
        assert np.abs(found.astype(float) - wanted).mean() < most


def test_samm_frames_are_grey_and_casme2_frames_are_not(samples: Manifest, exported: Exported) -> None:
    samm = next(exported(samples, "samm").rglob("*.jpg"))
    casme2 = next(exported(samples, "casme2").rglob("*.jpg"))
    assert cv2.imread(str(samm), cv2.IMREAD_UNCHANGED).ndim == 2
    assert cv2.imread(str(casme2), cv2.IMREAD_UNCHANGED).ndim == 3


@pytest.mark.parametrize("form", FORMS)
def test_the_folder_is_a_manifest_too(form: str, samples: Manifest, exported: Exported) -> None:
    back = Manifest.read(exported(samples, form))
    assert back.meta["mesynth.hash"] == back.hash()
    assert [row.provenance for row in back] == [row.provenance for row in samples]
    assert read_frames(back.root, back.row(0)).shape == read_frames(samples.root, samples.row(0)).shape


def test_workbooks_as_scripts_of_the_field_open_them(mixed: Manifest, exported: Exported) -> None:
    """The columns, and the thirteen rows above SAMM's header, that published loaders count on."""
    casme2 = pd.read_excel(exported(mixed, "casme2") / "CASME2-coding-20140508.xlsx", engine="openpyxl")
    casme2 = casme2.drop(["Unnamed: 2", "Unnamed: 6"], axis=1)
    assert list(casme2) == [
        "Subject", "Filename", "OnsetFrame", "ApexFrame", "OffsetFrame", "Action Units", "Estimated Emotion",
    ]  # fmt: skip
    assert sorted(set(casme2["Subject"].astype(int))) == [5, 501, 502, 503]
    raw = pd.read_excel(exported(mixed, "samm") / "SAMM_Micro_FACS_Codes_v2.xlsx", engine="openpyxl")
    assert raw.loc[12].tolist()[:2] == ["Subject", "Filename"]
    assert len(raw.iloc[13:]) == len(casme2) == 8


def test_equal_corpora_give_equal_workbooks(samples: Manifest, exported: Exported, tmp_path: Path) -> None:
    from mesynth.corpus.exports.run import export

    export(samples, "samm", tmp_path / "again")
    name = "SAMM_Micro_FACS_Codes_v2.xlsx"
    assert (tmp_path / "again" / name).read_bytes() == (exported(samples, "samm") / name).read_bytes()


# ---------------------------------------------------------------- cells and numbers


def test_au_cells() -> None:
    row = clip_row("x")
    assert au_cell(row) == "L4+12"
    assert au_cell(row, letters=True) == "L4B+12C"
    assert au_cell(clip_row("x", au_text="4D+ref(6)+R12")) == "4D+ref(6)+R12"
    present = tuple(int(code in {4, 17}) for code in facs.AU_CODES for _ in "LR")
    unknown = clip_row("x", au_text="", au_intensity=(0.0,) * 50, au_known=(False,) * 50, au_present=present)
    assert au_cell(unknown) == "4+17"
    partly = tuple(
        -1 if code == 12 else value for value, code in zip(present, np.repeat(facs.AU_CODES, 2), strict=True)
    )
    open_ = au_cell(replace(unknown, au_present=partly))
    assert (open_, facs.parse_annotation(open_).open) == ("4+17+?", True)


@given(st.dictionaries(st.sampled_from(facs.AU_CODES), st.floats(0.05, 1), min_size=1, max_size=5))
def test_a_bilateral_request_comes_back_as_the_same_codes(asked: dict[int, float]) -> None:
    vector = facs.parse_request(",".join(f"{code}={value}" for code, value in asked.items()))
    row = clip_row("x", au_text=facs.format_vector(vector), **Row.au_columns(vector))
    for letters in (False, True):
        read = facs.parse_annotation(au_cell(row, letters=letters))
        assert read.codes == tuple(sorted(asked))
        assert not read.unknown_text
    strengths = read.vector().intensity.max(1)
    for code, value in asked.items():
        assert abs(strengths[facs.AU_INDEX[code]] - value) <= 0.13  # half the widest step between two letters


def test_frame_numbers() -> None:
    assert numbers_of(clip_row("x", onset=46)).each() == range(46, 55)
    thinned = numbers_of(clip_row("x", offset=30, apex=20, apex_index=5))
    assert (thinned.onset, thinned.apex, thinned.offset, thinned.renumbered) == (0, 5, 8, True)
    assert numbers_of(clip_row("x", apex=None)).apex is None


# ---------------------------------------------------------------- flow folders


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
    monkeypatch.setattr("mesynth.corpus.exports.releases._MOST", 10)
    with pytest.raises(ConfigError, match=r"would hold 24 files .* --no-train"):
        FlowFoldersForm(samples, Options())
