"""Exports that become a corpus again: identity, annotation, exact AUs, provenance, what is lost, and damage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from mesynth.cli import main
from mesynth.core import seeds
from mesynth.core.errors import ConfigError, ManifestError, MesynthError
from mesynth.core.framing import Framing, KnownFraming, reframed_picture
from mesynth.corpus.exports.form import Options
from mesynth.corpus.exports.run import FORMS, ProvenanceLines, export, import_export, read_export
from mesynth.corpus.verify import verify
from mesynth.datasets.flow_folders import UNITS, unstretch
from mesynth.store.digests import seal
from mesynth.store.manifest import Manifest, Row, framing_meta
from mesynth.store.shards import (
    STRETCHED,
    npy_bytes,
    png_bytes,
    read_extra,
    read_flow,
    read_frames,
    read_landmarks,
    read_valid,
)
from mesynth.store.stage import Interrupted, Produced, run_stage
from tests.builders import tree_bytes
from tests.corpus.exports.corpora import SIZE, clip_row, make

Exported = Callable[[Manifest, str], Path]
BACK = [name for name, form in FORMS.items() if form.comes_back]
FRAMES_EXACT = ("webdataset", "huggingface", "frames", "meb")
FLOW_EXACT = ("webdataset", "huggingface", "flow-npy")
WARNING = {"flow-folders": UNITS, "casme2": "frames were JPEG", "samm": "frames were grey JPEG"}


def _whole(job: Row) -> Produced:
    """A clip with everything that a corpus can hold of it but further arrays."""
    rng = seeds.stream(0, "imports-test", job.onset)
    return replace(make((job, ())), valid=rng.random((SIZE, SIZE)) < 0.9)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    rows = [clip_row(f"c{i}", subject=f"p{i % 3}", onset=10 * i, warnings=("squinting",)) for i in range(9)]
    meta = framing_meta(KnownFraming(framing=Framing(eyes=0.5, row=0.3), origin="given"))
    return run_stage(tmp_path_factory.mktemp("whole") / "corpus", rows, _whole, config={"test": "whole"}, meta=meta)


@pytest.fixture(scope="module")
def back(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A corpus exported to a form and imported again."""
    root = tmp_path_factory.mktemp("back")
    made: dict[tuple[Path, str], Path] = {}

    def folder(source: Manifest, form: str) -> Path:
        key = (source.root, form)
        if key not in made:
            made[key] = root / f"{len(made)}-{form}"
            import_export(exported(source, form), made[key])
        return made[key]

    return folder


def _pairs(source: Manifest, folder: Path) -> list[tuple[Row, Row]]:
    ours = {row.clip_id: row for row in source}
    return [(ours[row.clip_id], row) for row in Manifest.read(folder)]


def test_only_previews_do_not_come_back() -> None:
    assert set(FORMS) - set(BACK) == {"previews"}


@pytest.mark.parametrize("form", BACK)
def test_rows_come_back(form: str, mixed: Manifest, exported: Exported, back: Exported) -> None:
    """Identity, annotation, exact AUs, provenance: every column but where the files lie and what was lost."""
    pairs = _pairs(mixed, back(mixed, form))
    account = json.loads((exported(mixed, form) / "export.json").read_text())
    assert len(pairs) == account["clips"] > 0
    for own, row in pairs:
        lost = tuple(text for text in row.warnings if text not in own.warnings)
        files = {"frames": None, "flow": None, "frame_files": (), "warnings": own.warnings}
        size = {"height": own.height, "width": own.width} if form == "flow-folders" else {}
        assert replace(row, **files, **size) == replace(own, **files)
        assert [text.startswith(WARNING.get(form, "?")) for text in lost] == [True] * (form in WARNING)


@pytest.mark.parametrize("form", BACK)
def test_arrays_come_back(form: str, mixed: Manifest, whole: Manifest, back: Exported) -> None:
    for source in (mixed, whole):
        folder = back(source, form)
        for own, row in _pairs(source, folder):
            assert (row.frames is not None) == (form not in ("flow-npy", "flow-folders"))
            if form in FRAMES_EXACT:
                assert (read_frames(folder, row) == read_frames(source.root, own)).all()
            assert (row.flow is not None) == (form in (*FLOW_EXACT, "flow-folders") and own.flow is not None)
            if form in FLOW_EXACT and own.flow is not None:
                assert (read_flow(folder, row) == read_flow(source.root, own)).all()
                assert (read_landmarks(folder, row) == read_landmarks(source.root, own)).all()
                found, wanted = read_valid(folder, row), read_valid(source.root, own)
                assert (found is None) == (wanted is None)
                assert wanted is None or (found == wanted).all()


@pytest.mark.parametrize("form", BACK)
def test_what_comes_back_is_a_clean_corpus(form: str, whole: Manifest, back: Exported) -> None:
    assert verify(back(whole, form)).problems == ()
    assert Manifest.read(back(whole, form)).framing == whole.framing is not None


@pytest.mark.parametrize("form", [name for name, form in FORMS.items() if form.readable])
def test_what_is_read_where_it_lies_says_where_faces_lie(form: str, whole: Manifest, exported: Exported) -> None:
    assert Manifest.read(exported(whole, form)).framing == whole.framing


@pytest.mark.parametrize("form", ["webdataset", "huggingface"])
def test_a_whole_corpus_comes_back_byte_for_byte(form: str, whole: Manifest, back: Exported) -> None:
    ours, found = tree_bytes(whole.root), tree_bytes(back(whole, form))
    assert ours.keys() == found.keys()
    assert [name for name in ours if ours[name] != found[name]] == ["SHA256SUMS", "run.yaml"]  # which lists it


def test_further_arrays_come_back_from_webdataset_alone(tmp_path: Path) -> None:
    def work(row: Row) -> Produced:
        return replace(make((row, ())), extra={"input_mean": np.full(3, row.onset, np.float32)})

    source = run_stage(tmp_path / "corpus", [clip_row(f"c{i}", onset=i) for i in range(2)], work, config={})
    for form in ("webdataset", "huggingface"):
        export(source, form, tmp_path / form)
        made = import_export(tmp_path / form, tmp_path / f"{form}-back")
        if form == "webdataset":
            assert [read_extra(made.root, row, "mean").tolist() for row in made] == [[0.0] * 3, [1.0] * 3]
        else:
            with pytest.raises(MesynthError, match=r"no input_mean\.npy"):
                read_extra(made.root, made.row(0), "mean")


def test_flow_folders_come_back_as_published_images_are_read(
    mixed: Manifest, exported: Exported, back: Exported
) -> None:
    import cv2

    made = Manifest.read(back(mixed, "flow-folders"))
    lines = (exported(mixed, "flow-folders") / "provenance.jsonl").read_text().splitlines()
    for row, line in zip(made, lines, strict=True):
        file = json.loads(line)["as"]["file"]
        image = cv2.imread(str(exported(mixed, "flow-folders") / "STSNet_whole_norm_u_v_os" / file))
        planes = read_extra(made.root, row, STRETCHED)
        assert (planes == image[..., ::-1].transpose(2, 0, 1)).all()
        assert (read_flow(made.root, row) == unstretch(planes)).all()
        assert (row.height, row.width) == (28, 28)


@pytest.mark.parametrize("form", ["casme2", "samm"])
def test_jpeg_frames_come_back_within_a_few_grey_levels(form: str, samples: Manifest, back: Exported) -> None:
    for own, row in _pairs(samples, back(samples, form))[:2]:
        wanted = read_frames(samples.root, own).astype(float)
        if form == "samm":
            wanted = (wanted @ [0.299, 0.587, 0.114])[..., None]
        assert np.abs(read_frames(back(samples, form), row) - wanted).mean() < 1


# ---------------------------------------------------------------- streaming, resumption, processes


def test_lines_are_read_by_their_places(whole: Manifest, exported: Exported) -> None:
    lines = read_export(exported(whole, "frames")).lines
    names = [row.clip_id for row in whole]
    assert [line.record["clip_id"] for line in lines] == names
    part = lines[2:7][1:3]
    assert isinstance(part, ProvenanceLines)
    assert [(line.number, line.record["clip_id"]) for line in part] == [(4, names[3]), (5, names[4])]
    assert part.edges.nbytes == 3 * 8  # what travels to another process
    assert len(lines[9:]) == len(list(lines[9:])) == 0


def test_an_interrupted_import_goes_on(whole: Manifest, exported: Exported, back: Exported, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="the same command goes on"):
        import_export(exported(whole, "huggingface"), tmp_path / "out", progress=stop)
    import_export(exported(whole, "huggingface"), tmp_path / "out")
    assert tree_bytes(tmp_path / "out") == tree_bytes(back(whole, "huggingface"))


@pytest.mark.slow
@pytest.mark.parametrize("form", ["huggingface", "flow-npy", "webdataset"])
def test_one_worker_or_two_same_bytes(
    form: str, whole: Manifest, exported: Exported, back: Exported, tmp_path: Path
) -> None:
    import_export(exported(whole, form), tmp_path / "two", workers=2)
    assert tree_bytes(tmp_path / "two") == tree_bytes(back(whole, form))


# ---------------------------------------------------------------- damaged exports

Damage = Callable[[Path], object]


def _lines(change: Callable[[list[str]], list[str]]) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / "provenance.jsonl"
        path.write_text("".join(change(path.read_text().splitlines(keepends=True))))

    return damage


def _record(**changes: Any) -> Damage:
    """Changes of the third record; a dot leads into a mapping, None takes a key away."""

    def change(lines: list[str]) -> list[str]:
        record = json.loads(lines[2])
        for name, value in changes.items():
            *way, last = name.split("__")
            inner = record
            for step in way:
                inner = inner[step]
            if value is None:
                del inner[last]
            else:
                inner[last] = value
        return [*lines[:2], json.dumps(record) + "\n", *lines[3:]]

    return _lines(change)


def _parquet(change: Callable[[pa.Table], pa.Table]) -> Damage:
    def damage(folder: Path) -> None:
        path = next((folder / "data").glob("train-00000-*"))
        pq.write_table(change(pq.read_table(path)), path)

    return damage


def _file(pattern: str, data: bytes | None) -> Damage:
    """Replaces the first file of a pattern, or removes it."""

    def damage(folder: Path) -> None:
        path = sorted(folder.glob(pattern))[0]
        path.unlink()
        if data is not None:
            path.write_bytes(data)

    return damage


def _flip(pattern: str) -> Damage:
    def damage(folder: Path) -> None:
        path = sorted(folder.glob(pattern))[0]
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    return damage


SMALL = png_bytes(np.zeros((SIZE - 1, SIZE, 3), np.uint8))
PICKLED = (
    b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117) + b"\n" + b"x"
)
FLOW = "flow/p0/c0.npy"
DAMAGES: dict[str, tuple[str, Damage, str]] = {
    "no account": ("frames", _file("export.json", None), r"has no export\.json; give a folder that `mesynth export`"),
    "unknown form": ("frames", _file("export.json", b'{"form": "matlab", "clips": 9}'), r"export\.json is damaged"),
    "account no JSON": ("frames", _file("export.json", b"{"), r"export\.json is damaged"),
    "line missing": ("frames", _lines(lambda lines: lines[:-1]), r"has 8 lines for the 9 clips of export\.json"),
    "file missing": ("frames", _file("provenance.jsonl", None), r"provenance\.jsonl cannot be read"),
    "line cut": ("frames", _lines(lambda lines: [*lines[:-1], lines[-1][:200]]), r"line 9 of .* is damaged"),
    "line twice": ("frames", _lines(lambda lines: [*lines[:-1], lines[1]]), r"line 9 of .* for the second time"),
    "no key": ("frames", _record(onset=None), r"line 3 of .* is damaged \(no 'onset'\)"),
    "other type": ("frames", _record(height="tall"), r"line 3 of .* is damaged"),
    "short AUs": ("frames", _record(au_known=[True]), r"AUs of clip .* are damaged"),
    "AU out of range": ("frames", _record(au_intensity=[2.0] * 50), r"AUs of clip .* are damaged"),
    "no provenance": ("frames", _record(provenance=None), r"line 3 of .* is damaged \(no 'provenance'\)"),
    "no people seen": ("frames", _record(provenance__subjects_seen=None), r"line 3 .* \(no 'subjects_seen'\)"),
    "blank person seen": ("frames", _record(provenance__subjects_seen=[None]), r"subjects_seen is blank"),
    "no names": ("frames", _record(**{"as": {}}), r"line 3 of .* is damaged \(no 'video'\)"),
    "names elsewhere": ("frames", _record(as__video="../../frames"), r"which does not lie in it"),
    "frames of another number": ("frames", _record(n_frames=7, apex_index=3), r"has 7 frames, 9 of them here"),
    "apex outside": ("frames", _record(apex_index=9), r"apex_index 9 lies outside its 9 frames"),
    "picture missing": ("frames", _file("frames/p0/c0/*.png", None), r"000000\.png cannot be read"),
    "picture damaged": ("frames", _file("frames/p0/c0/*.png", SMALL[:60]), r"000000\.png cannot be read as an image"),
    "picture size": ("frames", _file("frames/p0/c0/*.png", SMALL), r"000000\.png is 32x31 pixels; .* has 32x32"),
    "casme2 size": ("casme2", _file("**/img*.jpg", SMALL), r"\.jpg is 32x31 pixels"),
    "samm missing": ("samm", _file("SAMM/*/*/*.jpg", None), r"\.jpg cannot be read"),
    "meb size": ("meb", _file("frames/*/*/*.png", SMALL), r"\.png is 32x31 pixels"),
    "flow image size": ("flow-folders", _record(as__size=32), r"is uint8 \(3, 28, 28\); expected uint8 \(3, 32, 32\)"),
    "flow image": ("flow-folders", _file("three_norm_u_v_os/*/u_test/*/*", b"no"), r"cannot be read as an image"),
    "no npy": ("flow-npy", _file(FLOW, b"not an array"), r"c0\.npy: an array cannot be read"),
    "pickle": ("flow-npy", _file(FLOW, PICKLED), r"c0\.npy: an array holds pickled objects; they are never loaded"),
    "npy cut": ("flow-npy", _file(FLOW, npy_bytes(np.zeros((2, 32, 32), np.float32))[:-4]), r"holds 8188 bytes"),
    "npy shape": (
        "flow-npy",
        _file(FLOW, npy_bytes(np.zeros((2, 8, 8), np.float32))),
        r"expected float32 \(2, 32, 32\)",
    ),
    "npy type": ("flow-npy", _file(FLOW, npy_bytes(np.zeros((2, 32, 32)))), r"is float64 \(2, 32, 32\)"),
    "npy NaN": ("flow-npy", _file(FLOW, npy_bytes(np.full((2, 32, 32), np.nan, np.float32))), r"holds NaN"),
    "npy missing": ("flow-npy", _file("valid/p0/c0.npy", None), r"c0\.npy cannot be read"),
    "shard flipped": ("webdataset", _flip("clips-000000.tar"), r"clips-000000\.tar is damaged at byte"),
    "shard missing": ("webdataset", _file("clips-000001.tar", None), r"clips-000001\.tar is missing"),
    "no column": ("huggingface", _parquet(lambda t: t.drop_columns(["flow"])), r"has no column 'flow'"),
    "row missing": ("huggingface", _parquet(lambda t: t[:3]), r"has 3 rows, provenance\.jsonl names row 3"),
    "rows in another order": ("huggingface", _parquet(lambda t: t.take([1, 0, 2, 3])), r"row 0 is clip .*/c1/10"),
    "flow of no shape": (
        "huggingface",
        _parquet(lambda t: t.set_column(t.schema.get_field_index("flow"), "flow", [[[[[1.0], [1.0, 2.0]]]] * 4])),
        r"flow is float32 \(\); expected float32 \(2, 32, 32\)",
    ),
    "no parquet": ("huggingface", _file("data/*", b"PAR1 and no more"), r"train-00000-.* cannot be read"),
    "parquet missing": ("huggingface", _file("data/*", None), r"train-00000-.* cannot be read"),
    "parquet flipped": ("huggingface", _flip("data/*"), r"train-00000-.* cannot be read"),
}


@pytest.mark.parametrize("name", list(DAMAGES))
def test_damage_is_one_line(name: str, whole: Manifest, exported: Exported, tmp_path: Path) -> None:
    form, damage, words = DAMAGES[name]
    folder = tmp_path / "copy"
    shutil.copytree(exported(whole, form), folder)
    damage(folder)
    with pytest.raises(MesynthError):  # by the digest list, if by nothing else
        import_export(folder, tmp_path / "listed")
    seal(folder)  # so that what is read is what is refused
    with pytest.raises(MesynthError, match=words) as error:
        import_export(folder, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out" / "manifest.parquet").exists()


def test_previews_are_for_looking_at(mixed: Manifest, exported: Exported, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"previews, which are for looking at .* --to webdataset"):
        import_export(exported(mixed, "previews"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unfinished_export_does_not_come_back(whole: Manifest, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done >= 5:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        export(whole, "frames", tmp_path / "half", progress=stop)
    with pytest.raises(ManifestError, match="give a folder that `mesynth export` has finished"):
        read_export(tmp_path / "half")


# ---------------------------------------------------------------- the verb


def test_verb(whole: Manifest, exported: Exported, tmp_path: Path) -> None:
    def run(*more: str) -> Any:
        folder = str(exported(whole, "huggingface"))
        return CliRunner().invoke(main, ["prepare", "export", "--root", folder, "--workers", "1", *more])

    out = str(tmp_path / "out")
    dry = run("--out", out, "--dry-run")
    assert "would import 9 clips of a huggingface export" in dry.output
    assert not (tmp_path / "out").exists()
    for option in (("--size", "64"), ("--check",), ("--no-frames",), ("--magnify", "phase:2")):
        refused = run("--out", out, *option)
        assert refused.exit_code == 2
        assert f"{option[0]} has no effect on an export" in refused.output
    assert "Missing option '--out'" in run().output
    done = run("--out", out, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["hash"] == whole.hash() == Manifest.read(out).hash()


def test_who_reads_flow_folders_of_ours_is_told_of_the_way_that_keeps_people(
    samples: Manifest, exported: Exported, tmp_path: Path
) -> None:
    tree = str(exported(samples, "flow-folders") / "three_norm_u_v_os")
    args = ["prepare", "flow_folders", "--root", tree, "--part", "x", "--out", str(tmp_path / "out"), "--dry-run"]
    done = CliRunner().invoke(main, args)
    assert done.exit_code == 0
    assert "`mesynth prepare export` on the folder above" in done.stderr


def test_landmarks_and_mask_go_where_the_flow_goes(whole: Manifest, tmp_path: Path) -> None:
    assert whole.framing is not None
    own, target = whole.framing.framing, Framing(eyes=0.6, height=0.5, row=0.3, column=0.5)
    export(whole, "flow-npy", tmp_path / "npy", Options(frame=target.text()))
    back = import_export(tmp_path / "npy", tmp_path / "back")
    for row, before in zip(back, whole, strict=True):
        points = read_landmarks(whole.root, before)
        u = ((points[:, 0] + 0.5) / SIZE - own.column) / own.eyes
        v = ((points[:, 1] + 0.5) / SIZE - own.row) / own.height
        there = np.stack([(u * 0.6 + 0.5) * SIZE - 0.5, (v * 0.5 + 0.3) * SIZE - 0.5], 1)
        assert read_landmarks(back.root, row) == pytest.approx(there, abs=1e-3)
        valid, mask = read_valid(back.root, row), read_valid(whole.root, before)
        assert valid is not None
        assert mask is not None
        assert valid.dtype == np.bool_
        assert (valid == (reframed_picture(mask.astype(np.float32), own, target) > 0.5)).all()
    with pytest.raises(ConfigError, match="has no option 'frame'"):
        export(whole, "webdataset", tmp_path / "no", Options(frame="eyes=0.6"))
