"""Rows depend on their index alone, classes and faces stay balanced; on disk they come back equal."""

import json
import os
import pickle
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from mesynth.cli import main
from mesynth.core import facs
from mesynth.core.emotions import CLASS_OF
from mesynth.core.errors import MesynthError
from mesynth.core.types import AUVector
from mesynth.corpus import plan as module
from mesynth.corpus.design import load_design
from mesynth.corpus.plan import Plan, PlanConfig, StoredPlan, face_of, write_plan
from mesynth.corpus.planning import draft_plan
from mesynth.store.manifest import Manifest
from tests.builders import tree_bytes
from tests.corpus.coded import coded_manifest

# ---------------------------------------------------------------- drawn


MIXED = PlanConfig(emotions=("negative", "positive", "surprise"), count=60, duration=(0.2, 0.5))


def test_a_longer_plan_begins_with_the_shorter() -> None:
    assert list(Plan(replace(MIXED, count=20), 5)) == list(Plan(MIXED, 5)[:20])


def test_classes_and_faces_are_balanced() -> None:
    rows = Plan(MIXED, 5)
    assert Counter(CLASS_OF[r.emotion] for r in rows) == {"negative": 20, "positive": 20, "surprise": 20}
    assert set(Counter(r.face for r in rows).values()) == {12}
    assert len({r.face for r in rows if r.emotion == "surprise"}) == 5


@given(n_faces=st.integers(1, 12), n_kinds=st.integers(1, 12), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_no_face_again_before_all_were(n_faces: int, n_kinds: int, seed: int) -> None:
    """And after every face has met every kind once, it begins anew in another order."""
    both = n_faces * n_kinds
    faces = [face_of(index, n_faces, n_kinds, seed) for index in range(2 * both)]
    for start in range(0, 2 * both, n_faces):
        assert sorted(faces[start : start + n_faces]) == list(range(n_faces))
    for block in (0, both):
        met = Counter((faces[i], i % n_kinds) for i in range(block, block + both))
        assert len(met) == both
        assert set(met.values()) == {1}


def test_few_clips_are_of_different_people() -> None:
    assert len({r.face for r in Plan(replace(MIXED, count=9), 9)}) == 9


def test_durations_and_frames() -> None:
    rows = Plan(MIXED, 5)
    assert min(r.n_frames for r in rows) >= 41
    assert max(r.n_frames for r in rows) <= 101
    assert len({r.n_frames for r in rows}) > 10


def test_the_same_aus_in_every_clip_when_asked() -> None:
    rows = Plan(PlanConfig(au=("12=B,L4=0.2",), count=3), 1)
    assert len({r.intensity for r in rows}) == 1
    assert {r.au_source for r in rows} == {"user"}
    assert len({r.seed for r in rows}) == 3


def test_a_plan_file_reads_back(tmp_path: Path) -> None:
    rows = Plan(MIXED, 5)
    lines = write_plan(rows, tmp_path).read_text().splitlines()
    first = json.loads(lines[0])
    assert len(lines) == 60
    assert first["seed"] == rows[0].seed
    assert first["intensity"] == [list(pair) for pair in rows[0].intensity]


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({}, "give either --au"),
        ({"au": ("12=B",), "emotions": ("fear",)}, "give either --au"),
        ({"au": ("12=B,15=B",)}, "exclude each other"),
        ({"emotions": ("joy",)}, "'joy' is not in"),
        ({"au": ("12=B",), "count": 0}, "count=0"),
        ({"au": ("12=B",), "size": 8}, "size=8"),
        ({"au": ("12=B",), "duration": (0.9, 0.9)}, "not a micro-expression"),
        ({"au": ("12=B",), "duration": (0.4, 0.2)}, "ascending"),
        ({"au": ("12=B",), "profile": "slow"}, "profile 'slow'"),
        ({"au": ("12=B",), "fps": 0.0}, "fps=0"),
    ],
)
def test_bad_plans_are_named(config: dict[str, object], says: str) -> None:
    with pytest.raises(MesynthError, match=says):
        PlanConfig(**config)  # type: ignore[arg-type]


def test_no_face_no_plan() -> None:
    with pytest.raises(MesynthError, match="no face"):
        Plan(MIXED, 0)


def test_several_requests_are_taken_in_turn() -> None:
    rows = Plan(PlanConfig(au=("12=A", "12=B"), count=4), 2)
    assert [max(map(max, r.intensity)) for r in rows] == pytest.approx([0.1, 0.25, 0.1, 0.25])


def test_a_plan_of_any_length_is_small() -> None:
    plan = Plan(replace(MIXED, count=10_000_000), 5)
    assert plan[9_999_990:][3].index == 9_999_993
    assert len(plan) == 10_000_000


# ---------------------------------------------------------------- on disk


DESIGN = ["rows.count=1110", "aus.sources=[published,coded,cooccurrence]", "nuisance.head=[0,1]"]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return coded_manifest(tmp_path_factory.mktemp("coded"))


@pytest.fixture(scope="module")
def stored(manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> StoredPlan:
    draft = draft_plan(load_design(None, DESIGN), people=7, aus_from=manifest.root, exclude=("db/02",))
    return draft.write(tmp_path_factory.mktemp("plans") / "plan")


def _cli(*args: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in args])


def _refused(result: Result, says: str) -> None:
    assert result.exit_code == 2, result.output
    assert len([line for line in result.output.splitlines() if line.startswith("Error")]) == 1
    assert says in result.output


def test_rows_come_back_equal(stored: StoredPlan, manifest: Manifest) -> None:
    drawn = list(draft_plan(load_design(None, DESIGN), people=7, aus_from=manifest.root, exclude=("db/02",)).planner)
    assert list(stored) == drawn
    assert len(stored) == 1110
    assert stored[1050] == drawn[1050]
    assert list(stored[1020:1030]) == drawn[1020:1030]  # over the border of two row groups
    assert list(stored[1000:][30:40]) == drawn[1030:1040]
    part = pickle.dumps(stored[100:200])
    assert len(part) < 2000
    assert list(pickle.loads(part)) == drawn[100:200]


def test_subjects_seen_are_exact(stored: StoredPlan) -> None:
    lines = pq.read_table(stored.folder / "plan.parquet").to_pylist()
    faces = stored.faces
    assert {line["au_source"] for line in lines} == {"published", "coded", "cooccurrence"}
    for line in lines:
        assert line["subjects_seen"] == sorted({*faces[line["face"]].seen, *line["au_seen"]})
        assert "db/02" not in line["subjects_seen"]
        wanted = {"published": {0}, "coded": {1}, "cooccurrence": {1, 2, 3}}[line["au_source"]]
        assert len(line["au_seen"]) in wanted


def test_the_same_plan_again_and_another(stored: StoredPlan, manifest: Manifest) -> None:
    before = tree_bytes(stored.folder)
    again = draft_plan(load_design(None, DESIGN), people=7, aus_from=manifest.root, exclude=("db/02",))
    assert again.write(stored.folder).hash == stored.hash
    assert tree_bytes(stored.folder) == before
    for changed, people in ((["seed=1"], 7), ([], 8)):
        other = draft_plan(load_design(None, [*DESIGN, *changed]), people=people, aus_from=manifest.root)
        with pytest.raises(MesynthError, match="holds another plan"):
            other.write(stored.folder)
    assert tree_bytes(stored.folder) == before
    assert os.listdir(stored.folder.parent) == ["plan"]


def test_the_design_is_kept(stored: StoredPlan) -> None:
    assert load_design(stored.folder / "design.yaml") == load_design(None, DESIGN)


def test_a_killed_writer_leaves_no_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draft = draft_plan(load_design(None, ["rows.count=2000"]), people=2)

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pyarrow.parquet.ParquetWriter.write_table", full)
    with pytest.raises(MesynthError, match="No space left"):
        draft.write(tmp_path / "plan")
    assert os.listdir(tmp_path) == []


def test_damaged_plans_are_named(stored: StoredPlan, tmp_path: Path) -> None:
    with pytest.raises(MesynthError, match="holds no plan"):
        StoredPlan.read(tmp_path)
    for name, data in (("plan.json", b"{"), ("plan.json", b"{}"), ("plan.parquet", b"PAR1")):
        folder = tmp_path / name / str(len(data))
        folder.mkdir(parents=True)
        for file, whole in tree_bytes(stored.folder).items():
            (folder / file).write_bytes(data if file == name else whole)
        with pytest.raises(MesynthError, match="damaged"):
            StoredPlan.read(folder)
    info = json.loads((stored.folder / "plan.json").read_text()) | {"rows": 3}
    (folder / "plan.parquet").write_bytes((stored.folder / "plan.parquet").read_bytes())
    (folder / "plan.json").write_text(json.dumps(info))
    with pytest.raises(MesynthError, match="is not the plan"):
        StoredPlan.read(folder)


def test_excluded_people(manifest: Manifest) -> None:
    design = load_design(None, ["rows.count=10"])
    kept = draft_plan(design, people=3, exclude=("flow-prior/p00001",))
    assert [face.subject for face in kept.faces] == ["p00000", "p00002"]
    with pytest.raises(MesynthError, match="every face has seen"):
        draft_plan(design, people=1, exclude=("flow-prior/p00000",))
    with pytest.raises(MesynthError, match="db/77 is no subject"):
        draft_plan(load_design(None, DESIGN), people=3, aus_from=manifest.root, exclude=("db/77",))


def test_summary_counts(stored: StoredPlan, manifest: Manifest) -> None:
    summary = draft_plan(load_design(None, DESIGN), people=7, aus_from=manifest.root, exclude=("db/02",)).summary()
    lines = pq.read_table(stored.folder / "plan.parquet").to_pylist()
    plain = summary.plain()
    assert plain["rows"] == len(lines)
    assert plain["frames"] == sum(line["n_frames"] for line in lines)
    assert plain["classes"] == {"negative": 370, "positive": 370, "surprise": 370}
    assert plain["faces"] == 7
    assert plain["sources"]["coded"] == sum(line["au_source"] == "coded" for line in lines)
    twelve = sum("12=" in line["au"].split(",")[-1] or ",12=" in f",{line['au']}" for line in lines)
    assert plain["aus"]["12"] >= twelve > 150
    assert plain["subjects_seen"] == len({s for line in lines for s in line["subjects_seen"]})
    assert sum(plain["sides"].values()) == 1110


def test_command_line(tmp_path: Path, manifest: Manifest) -> None:
    file = tmp_path / "d.yaml"
    file.write_text("rows: {count: 30}\naus: {sources: [coded]}\n")
    out = tmp_path / "plan"
    args = ["plan", file, "--subjects", 4, "--aus-from", manifest.root, "--out", out]
    dry = _cli(*args, "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert "30 rows on 4 faces" in dry.output
    assert "AU 12" in dry.output
    assert "nothing written" in dry.output
    assert not out.exists()
    made = _cli(*args)
    assert made.exit_code == 0, made.output
    assert made.output.splitlines()[:-1] == dry.output.splitlines()[:-1]
    assert len(StoredPlan.read(out)) == 30
    printed = _cli(*args, "--json")
    assert json.loads(printed.stdout)["hash"] == StoredPlan.read(out).hash
    fewer = _cli(*args[:-1], tmp_path / "b", "--exclude-subjects", "db/01, db/04", "rows.count=9")
    assert fewer.exit_code == 0, fewer.output
    seen = {s for line in pq.read_table(tmp_path / "b" / "plan.parquet").to_pylist() for s in line["au_seen"]}
    assert seen == {"db/02", "db/03"}


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--subjects", "2"], "give --out"),
        (["--out", "x"], "give either --faces, or --subjects"),
        (["--out", "x", "--subjects", "2", "--faces", "nowhere"], "give either --faces, or --subjects"),
        (["--out", "x", "--faces", "nowhere"], "does not exist"),
        (["--out", "x", "--subjects", "2", "--aus-from", "nowhere"], "no manifest.parquet"),
        (["--out", "x", "--subjects", "2", "--exclude-subjects", "db/1"], "db/1 is no subject"),
        (["--out", "x", "--subjects", "2", "rows.cuont=3"], "nearest: rows.count"),
        (["--out", "/proc/plan", "--subjects", "2"], "cannot be written"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], says: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d.yaml").write_text("rows: {count: 3}\n")
    _refused(_cli("plan", "d.yaml", *args), says)
    assert os.listdir(tmp_path) == ["d.yaml"]


@pytest.mark.parametrize("request_", ["12=B", "L15=0.2673,R15=0.2769,4=1", "12=-0,4=0.3"])
@pytest.mark.parametrize("seen", [(), ("casme2/01", "ä/2")])
def test_the_texts_of_a_row_are_those_of_json(request_: str, seen: tuple[str, ...], tmp_path: Path) -> None:
    """The hash of a plan and its lines in a corpus, as 0.1 wrote them."""
    plain = Plan(PlanConfig(au=(request_,), count=3, seed=4), 2)
    rows = [replace(row, au_seen=seen) for row in plain]
    faces = module.virtual_faces(2)
    for row in rows:
        line = module.record(row, faces[row.face])
        cells = np.array(row.intensity, np.float32)
        assert (line["au"], line["au_intensity"]) == (facs.format_vector(AUVector(cells)), cells.ravel().tolist())
        encode = json.JSONEncoder(sort_keys=True).encode
        assert module._line_text(line, encode) == json.dumps(line, sort_keys=True)
    written = write_plan(rows, tmp_path).read_text().splitlines()
    for row, text in zip(rows, written, strict=True):
        wanted = asdict(row) | {"au": facs.format_vector(row.aus)}
        if not seen:
            del wanted["au_seen"]
        assert text == json.dumps(wanted)
    stored = module.write_plan_folder(tmp_path / "plan", rows, faces, {}, {"size": 128})
    assert [row.intensity for row in stored] == [row.intensity for row in rows]
    assert [str(row.intensity) for row in stored] == [str(row.intensity) for row in rows]  # -0.0 as well


@pytest.mark.parametrize("cell", [-0.1, 1.5, float("nan")])
def test_a_row_out_of_range_is_refused(cell: float, tmp_path: Path) -> None:
    row = Plan(PlanConfig(au=("12=B",)), 1)[0]
    bad = replace(row, intensity=((cell, 0.0), *row.intensity[1:]))
    with pytest.raises(ValueError, match="AU intensities span"):
        write_plan([bad], tmp_path)
    with pytest.raises(ValueError, match="shape"):
        write_plan([replace(row, intensity=row.intensity[1:])], tmp_path)
    assert not [file for file in tmp_path.iterdir() if not file.name.endswith(".tmp")]
