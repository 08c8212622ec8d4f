"""Flipped bits and cut files in every kind of folder: nothing goes unnoticed by verify, nor by the readers what trust
rests on."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner

import mesynth
from mesynth.cli import main
from mesynth.core.errors import MesynthError
from mesynth.corpus.exports.run import export, read_export
from mesynth.corpus.filters import Limits, filter_corpus
from mesynth.corpus.flow_corpus import flow_run
from mesynth.corpus.plan import PlanConfig, StoredPlan
from mesynth.corpus.rejection import Acceptance, AcceptedCorpus, generate_flow_until_accepted
from mesynth.corpus.verify import KINDS, kind_of, verify
from mesynth.datasets.casme2 import load_casme2
from mesynth.datasets.rendered import WORKBOOK, Rendering, read_card, render_casme2, render_faces
from mesynth.generators.base import load_pipeline
from mesynth.metrics.report import MeasureReport
from mesynth.motion.flow_prior import FlowNuisance
from mesynth.store import digests
from mesynth.store.digests import LIST, DigestError, WrittenBeforeDigests
from mesynth.store.generator_folder import read_facts, save_with_gains
from mesynth.store.manifest import Manifest
from mesynth.store.run_folder import write_listed
from mesynth.store.stage import Produced, Skipped, run_stage
from mesynth.training import checkpoint
from mesynth.training.config import load_recipe
from mesynth.training.train import Machine, cross_fit, train
from recognizer.config import RunConfig, load_config
from recognizer.run import loso
from recognizer.trained import Recognizer
from recognizer.trained import train as train_recognizer
from tests.builders import with_family
from tests.corpus.exports.corpora import clip_row, make
from tests.generators.saved import saved
from tests.recognizer.corpora import write_corpus
from tests.training import toy

FLIPS, CUTS = 1000, 200
EMOTIONS = ("negative", "positive", "surprise")


def _flow_corpus(out: Path) -> None:
    mesynth.generate(kind="flow", emotion=list(EMOTIONS), count=3, out=out)


def _prepared(out: Path) -> None:
    def worker(name: str) -> Produced:
        return replace(make((clip_row(name), ())), notes={"drift": 0.25}, files={f"clips/{name}.txt": b"to look at"})

    left = [Skipped("photo/ann/c9/0", "no face in frame 3")]
    run_stage(out, ["c0", "c1", "c2"], worker, config={"stage": "prepare", "size": 32}, skipped=left)


def _filtered(out: Path) -> None:
    _flow_corpus(out.with_name("all"))
    filter_corpus(out.with_name("all"), out, Limits(identity=None, control=None, artefact=None, duplicate=0.1))


def _accepted(out: Path) -> None:
    until = Acceptance(limits=Limits(identity=None, control=None, artefact=None, duplicate=0.01), attempts=2)
    rows = PlanConfig(emotions=EMOTIONS, count=3, fps=50, duration=(0.2, 0.3), size=128)
    run = flow_run(rows, model="flow-prior", people=2, size=28, nuisance=FlowNuisance())
    generate_flow_until_accepted(run, out, until)


def _trained(out: Path, patch: pytest.MonkeyPatch, groups: int = 0) -> None:
    with_family(patch, "toy", toy.TOY)
    file = out.with_name(f"{out.name}.toy.yaml")
    file.write_text(toy.recipe_text(images=64, checkpoint_images=32, validate_images=32))
    machine = Machine(device="cpu")
    if groups:
        cross_fit(load_recipe(file), out, groups, machine=machine)
    else:
        train(load_recipe(file), out, machine=machine)


def _checkpoint(root: Path) -> None:
    tensors = {"networks": {"a": torch.arange(6.0).reshape(2, 3)}, "optimisers": {"0/m": torch.ones(3)}}
    state = {"clock": {"images": 100, "seconds": 1.25, "losses": [{}]}, "optimisers": {"body": {"lr": 0.0002}}}
    made = checkpoint.write(root.with_name("some"), 100, checkpoint.Saved(tensors, state), keep=1)
    made.rename(root)


def _calibrated(out: Path) -> None:
    saved(out.with_name("plain"))
    save_with_gains(out.with_name("plain"), out, {"12": 1.25}, "", ["rendered/c"])
    write_listed(out, {"calibration.json": json.dumps({"gains": {"12": 1.25}}).encode()})


def _recognized(out: Path, *, whole: bool) -> None:
    clips = write_corpus(out.with_name(f"{out.name}-clips"), subjects=3, clips=3)
    if whole:
        config = load_config(RunConfig, None, ["model=ststnet", "seeds=[0]", "train.steps=1"], synthetic=False)
        train_recognizer([clips], None, config, out=out)
    else:
        loso([clips], None, load_config(RunConfig, None, ["model=lda", "seeds=[0]"], synthetic=False), out=out)


def _loso_again(out: Path) -> object:
    clips = Manifest.read(out.with_name(f"{out.name}-clips"))
    return loso([clips], None, load_config(RunConfig, None, ["model=lda", "seeds=[0]"], synthetic=False), out=out)


def _exported(out: Path) -> None:
    _flow_corpus(out.with_name("source"))
    export(Manifest.read(out.with_name("source")), "flow-npy", out)


def _planned(out: Path) -> None:
    mesynth.plan("corpus/three_classes", out, subjects=2, overrides=["rows.count=6"])


BUILD: dict[str, Callable[[Path, pytest.MonkeyPatch], object]] = {
    "corpus": lambda out, _: _flow_corpus(out),
    "prepared": lambda out, _: _prepared(out),
    "filtered": lambda out, _: _filtered(out),
    "accepted": lambda out, _: _accepted(out),
    "rendered": lambda out, _: render_casme2(
        out, Rendering(subjects=1, clips_per_subject=1, size=64, fps=30.0, seed=5)
    ),
    "faces": lambda out, _: render_faces(out, subjects=1, size=64, seed=5),
    "plan": lambda out, _: _planned(out),
    "generator": lambda out, _: saved(out),
    "calibrated": lambda out, _: _calibrated(out),
    "checkpoint": lambda out, _: _checkpoint(out),
    "training": lambda out, patch: _trained(out, patch),
    "cross-fit": lambda out, patch: _trained(out, patch, groups=2),
    "loso": lambda out, _: _recognized(out, whole=False),
    "recognizer": lambda out, _: _recognized(out, whole=True),
    "export": lambda out, _: _exported(out),
    "report": lambda out, _: MeasureReport(rows=(), corpora={}, settings={"seed": 7}).write(out),
}
READERS: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "corpus": (Manifest.read, ("manifest.parquet", "plan.jsonl", "run.yaml")),
    "prepared": (Manifest.read, ("manifest.parquet", "skipped.csv", "run.yaml")),
    "filtered": (Manifest.read, ("manifest.parquet", "rejected.csv", "run.yaml")),
    "accepted": (AcceptedCorpus.read, ("manifest.parquet", "rejected.csv", "run.yaml")),
    "faces": (read_card, ("mesynth-faces.json",)),
    "rendered": (load_casme2, ("mesynth-rendered.json", WORKBOOK)),
    "plan": (StoredPlan.read, ("plan.json", "plan.parquet", "design.yaml")),
    "generator": (
        read_facts,
        ("mesynth.json", "generator/config.json", "generator/diffusion_pytorch_model.safetensors"),
    ),
    "calibrated": (load_pipeline, ("mesynth.json", "generator/config.json")),
    "checkpoint": (checkpoint.read, ("state.json", "networks.safetensors", "optimisers.safetensors")),
    "loso": (_loso_again, ("result.json", "predictions.parquet", "config.yaml")),
    "recognizer": (Recognizer.load, ("model.safetensors", "config.yaml", "preparation.yaml")),
    "export": (read_export, ("export.json", "provenance.jsonl")),
}
"""Of each kind what its reader trusts; the others have no reader but those of what lies in them."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    root = tmp_path_factory.mktemp("sealed")
    with pytest.MonkeyPatch.context() as patch:
        for kind, build in BUILD.items():
            (root / kind).mkdir()
            build(root / kind / "out", patch)
        yield {kind: root / kind / "out" for kind in BUILD}


def _noticed(read: Callable[[], Any]) -> bool:
    try:
        read()
    except MesynthError as error:
        return len(str(error).splitlines()) == 1
    return False


def _unclean(folder: Path) -> bool:
    return _noticed(lambda: None if verify(folder).clean else _refuse())


def _refuse() -> None:
    raise MesynthError("not clean")


def _damage(folder: Path, files: list[str], rng: np.random.Generator, *, cut: bool) -> tuple[Path, bytes]:
    """Damage one file; returns it and what it held."""
    file = folder / files[rng.integers(len(files))]
    whole = file.read_bytes()
    place = int(rng.integers(len(whole)))
    bad = (
        whole[:place] if cut else whole[:place] + bytes([whole[place] ^ 1 << int(rng.integers(8))]) + whole[place + 1 :]
    )
    file.write_bytes(bad)
    return file, whole


def _files(folder: Path) -> list[str]:
    """All of a folder, its lists too; none of them is empty or holds a byte without meaning to its list."""
    return [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*")) if p.is_file() and p.stat().st_size]


def test_every_kind_is_told_and_clean(folders: dict[str, Path]) -> None:
    told = {kind: kind_of(folder) for kind, folder in folders.items()}
    assert set(told.values()) <= set(KINDS.values()), told
    assert {told[kind] for kind in ("plan", "export", "training", "loso", "recognizer", "faces", "calibrated")} == {
        "plan", "export", "training run", "recognizer run", "recognizer", "rendered faces", "calibrated generator",
    }  # fmt: skip
    for kind, folder in folders.items():
        verdict = verify(folder)
        assert (verdict.problems, verdict.notes) == ((), ()), kind
        assert verdict.kind == told[kind]
        listed = {f"{prefix}{path}" for prefix in digests.listed_folders(folder)
                  for path, _ in digests.entries(folder / prefix)} | {LIST}  # fmt: skip
        assert set(_files(folder)) <= listed, kind


@pytest.mark.parametrize(("cut", "count"), [(False, FLIPS), (True, CUTS)], ids=["flips", "cuts"])
def test_no_damage_goes_unnoticed(
    folders: dict[str, Path], cut: bool, count: int, record_property: Callable[[str, object], None]
) -> None:
    """Counted by kind; what verify does not notice would be named."""
    rng, made, missed = np.random.default_rng(14), Counter[str](), []
    kinds = list(folders)
    files = {kind: _files(folder) for kind, folder in folders.items()}
    for number in range(count):
        kind = kinds[number % len(kinds)]
        file, whole = _damage(folders[kind], files[kind], rng, cut=cut)
        try:
            made[kind] += 1
            if not _unclean(folders[kind]):
                missed.append(file)
        finally:
            file.write_bytes(whole)
    record_property("noticed by kind", dict(made))
    print(f"{'cuts' if cut else 'flips'} by kind, all noticed:", dict(made))  # pytest -rP shows it
    assert missed == []
    assert made.total() == count
    assert min(made.values()) >= count // len(kinds)
    assert all(verify(folder).clean for folder in folders.values())


@pytest.mark.parametrize("kind", READERS)
def test_readers_refuse_what_was_changed(folders: dict[str, Path], kind: str) -> None:
    read, trusted = READERS[kind]
    read(folders[kind])
    rng = np.random.default_rng(7)
    for number in range(4 * len(trusted)):
        file, whole = _damage(folders[kind], [trusted[number % len(trusted)]], rng, cut=number % 4 == 3)
        try:
            assert _noticed(partial(read, folders[kind])), file
        finally:
            file.write_bytes(whole)


@pytest.mark.parametrize(("kind", "name"), [("faces", "mesynth-faces.json"), ("rendered", "mesynth-rendered.json")])
def test_what_was_rendered_is_no_recording_where_the_file_that_says_so_was_removed(
    folders: dict[str, Path], kind: str, name: str
) -> None:
    file = folders[kind] / name
    whole = file.read_bytes()
    file.unlink()
    try:
        with pytest.raises(DigestError, match=f"{name} is missing"):
            READERS[kind][0](folders[kind])
    finally:
        file.write_bytes(whole)


@pytest.mark.parametrize(
    ("kind", "name", "old", "new"),
    [
        ("checkpoint", "state.json", '"lr": 0.0002', '"lr": 0.0009'),
        ("checkpoint", "state.json", '"seconds": 1.25', '"seconds": 1.35'),
        ("generator", "mesynth.json", "rendered/a", "rendered/q"),
        ("corpus", "plan.jsonl", '"seed": ', '"seed": 1'),
        ("loso", "result.json", '"n": 9', '"n": 8'),
        ("plan", "plan.json", '"hash": "', '"hash": "0'),
        ("export", "provenance.jsonl", '"seed": ', '"seed": 1'),
    ],
)
def test_a_digit_with_a_meaning(folders: dict[str, Path], kind: str, name: str, old: str, new: str) -> None:
    """Changes that stay well-formed."""
    file = folders[kind] / name
    whole = file.read_text()
    assert old in whole
    file.write_text(whole.replace(old, new, 1))
    try:
        with pytest.raises(MesynthError, match=name):
            READERS[kind][0](folders[kind])
        assert not verify(folders[kind]).clean
    finally:
        file.write_text(whole)


@pytest.mark.parametrize("kind", READERS)
def test_a_list_that_was_removed_is_missed(folders: dict[str, Path], kind: str) -> None:
    file = folders[kind] / LIST
    whole = file.read_bytes()
    file.unlink()
    try:
        with pytest.raises(DigestError, match="has lost its SHA256SUMS"):
            READERS[kind][0](folders[kind])
        problems = verify(folders[kind]).problems
        assert [problem.file for problem in problems] == [LIST]
    finally:
        file.write_bytes(whole)


@pytest.mark.parametrize("kind", ["training", "cross-fit", "report"])
def test_verify_misses_a_list_where_no_reader_does(folders: dict[str, Path], kind: str) -> None:
    file = folders[kind] / LIST
    whole = file.read_bytes()
    file.unlink()
    try:
        assert [problem.file for problem in verify(folders[kind]).problems] == [LIST]
    finally:
        file.write_bytes(whole)


# ---------------------------------------------------------------- the verb


def test_the_verb_on_a_generator(folders: dict[str, Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folders["generator"], tmp_path / "copy"))
    (copy / "notes.txt").write_text("mine")
    clean = CliRunner().invoke(main, ["verify", str(copy)])
    assert clean.exit_code == 0, clean.output
    assert "notes.txt is not in SHA256SUMS: somebody put it there later" in clean.stderr
    assert [line.split() for line in clean.stdout.splitlines()] == [
        ["kind", "generator"],
        ["files", "4"],
        ["problems", "0"],
    ]
    (copy / "mesynth.json").write_text((copy / "mesynth.json").read_text().replace("rendered/a", "rendered/q"))
    broken = CliRunner().invoke(main, ["verify", str(copy)])
    assert broken.exit_code == 2
    (line,) = [line for line in broken.stderr.splitlines() if line.startswith("Error")]
    assert "mesynth.json: is not the file that was written" in line
    assert "copy the generator again" in line
    told = CliRunner().invoke(main, ["verify", str(copy), "--json"])
    assert json.loads(told.stdout)["problems"][0]["file"] == "mesynth.json"
    meant = CliRunner().invoke(main, ["verify", str(copy), "--seal"])
    assert meant.exit_code == 0, meant.output
    assert "listed as they are: 5 files" in meant.stderr
    assert read_facts(copy).subjects_seen == ("rendered/q", "rendered/b")


def test_a_folder_of_folders(folders: dict[str, Path], tmp_path: Path) -> None:
    """Checkpoints of a run, runs of a lab; what is unfinished is told."""
    found = verify(folders["training"] / "checkpoints")
    assert (found.problems, found.kind, len(found.notes)) == ((), "", 1)
    copy = Path(shutil.copytree(folders["training"], tmp_path / "runs" / "a"))
    assert verify(copy.parent).files == verify(copy).files > 12
    state = next(copy.glob("checkpoints/*/state.json"))
    state.write_text(state.read_text().replace("1", "2", 1))
    at = state.relative_to(copy).as_posix()
    assert [problem.file for problem in verify(copy.parent).problems] == [f"a/{at}"]
    shutil.rmtree(copy / "generator")
    (copy / LIST).unlink()
    unfinished = verify(copy)
    assert [problem.file for problem in unfinished.problems] == [at]
    assert "is unfinished" in unfinished.notes[0]


def test_an_old_folder_is_read_with_a_warning(folders: dict[str, Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folders["checkpoint"], tmp_path / "000000000100"))
    state = json.loads((copy / "state.json").read_text())
    del state[digests.KEY]
    (copy / "state.json").write_text(json.dumps(state))
    (copy / LIST).unlink()
    with pytest.warns(WrittenBeforeDigests, match="written before digests"):
        assert checkpoint.read(copy)[0] == 100
    with pytest.warns(WrittenBeforeDigests):
        verdict = verify(copy)
    assert verdict.clean
    assert "written before digests" in verdict.notes[0]
    (copy / "networks.safetensors").write_bytes(b"other")
    assert not verify(copy).clean
    assert asdict(verdict)["kind"] == "checkpoint"


def test_the_verb_warns_in_one_line(tmp_path: Path) -> None:
    Manifest.from_rows([clip_row("a")], tmp_path).write(tmp_path)
    table = pq.read_table(tmp_path / "manifest.parquet")
    pq.write_table(table.replace_schema_metadata(None), tmp_path / "manifest.parquet")
    (tmp_path / LIST).unlink()
    done = CliRunner().invoke(main, ["export", str(tmp_path), "--to", "previews", "--out", str(tmp_path / "out")])
    (told,) = [line for line in done.stderr.splitlines() if "before digests" in line]
    assert told.startswith(f"Warning: {tmp_path} was written before digests: it has no SHA256SUMS")


def test_what_is_no_folder_of_ours_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    for words in (
        ["verify", str(tmp_path)],
        ["verify", str(tmp_path), "--seal"],
        ["verify", str(tmp_path / "nowhere")],
    ):
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 2
        assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / LIST).exists()
