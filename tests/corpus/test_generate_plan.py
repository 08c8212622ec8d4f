"""From a stored plan to clips: one a row, seen exactly what the row says, valid whatever the disk does."""

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from skimage import data

from mesynth.cli import main
from mesynth.core.errors import MesynthError
from mesynth.corpus.design import load_design
from mesynth.corpus.generate import Preview, generate_plan, prove_complete
from mesynth.corpus.plan import StoredPlan
from mesynth.corpus.planning import draft_plan
from mesynth.corpus.verify import verify
from mesynth.store.manifest import Manifest
from mesynth.store.shards import ShardWriter
from tests.corpus.coded import coded_manifest, made_bytes

SMALL = ["clip.size=48", "clip.fps=25", "clip.duration=[0.2,0.2]", "rows.count=6"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("generate-plan")
    (root / "faces").mkdir()
    image = data.astronaut()[..., ::-1]
    cv2.imwrite(str(root / "faces" / "a.png"), image)
    cv2.imwrite(str(root / "faces" / "b.png"), np.ascontiguousarray(image[:, ::-1]))
    coded_manifest(root / "coded")
    return root


@pytest.fixture(scope="module")
def plan(root: Path) -> StoredPlan:
    design = load_design(None, [*SMALL, "aus.sources=[coded]"])
    return draft_plan(design, faces=root / "faces", aus_from=root / "coded").write(root / "plan")


@pytest.fixture(scope="module")
def corpus(root: Path, plan: StoredPlan) -> Manifest:
    return generate_plan(plan, root / "corpus", preview=Preview(count=0), workers=1)


def _cli(*args: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in args])


def test_every_row_is_a_clip(corpus: Manifest, plan: StoredPlan) -> None:
    lines = pq.read_table(plan.folder / "plan.parquet").to_pylist()
    assert len(corpus) == len(lines) == 6
    for row, line in zip(corpus, lines, strict=True):
        assert row.provenance.plan_row == line["index"]
        assert row.provenance.seed == line["seed"]
        assert row.au_text == line["au"]
        assert row.subject_key == line["face_key"]
        assert row.provenance.aus_source == "coded"
        assert row.provenance.profile == line["profile"]
        assert sorted(row.provenance.subjects_seen) == line["subjects_seen"]
        assert any(subject.startswith("db/") for subject in row.provenance.subjects_seen)
        assert (row.label, row.n_frames) == (line["label"], line["n_frames"])
    assert verify(corpus.root).clean


def test_the_proof_finds_what_is_missing_or_twice(corpus: Manifest) -> None:
    prove_complete(corpus, 6)
    with pytest.raises(MesynthError, match="row 6 of the plan is 0 clips"):
        prove_complete(corpus, 7)
    with pytest.raises(MesynthError, match="row 2 of the plan is 0 clips"):
        prove_complete(corpus.filter(np.arange(6) != 2), 6)
    twice = Manifest(corpus.table.take([0, 1, 2, 3, 4, 5, 4]), corpus.root)
    with pytest.raises(MesynthError, match="row 4 of the plan is 2 clips"):
        prove_complete(twice, 6)
    with pytest.raises(MesynthError, match="row 5 of the plan is 1 clips"):
        prove_complete(corpus, 5)


def test_command_line(root: Path, plan: StoredPlan, corpus: Manifest) -> None:
    dry = _cli("generate", "--plan", plan.folder, "--out", root / "x", "--dry-run")
    assert "would generate 6 clips (36 frames of 48 px) on 2 faces" in dry.output
    made = _cli("generate", "--plan", plan.folder, "--preview", 0, "--workers", 1, "--out", root / "again")
    assert made.exit_code == 0, made.output
    assert made_bytes(root / "again") == made_bytes(corpus.root)


def test_faces_may_have_moved_but_not_changed(root: Path, plan: StoredPlan, tmp_path: Path) -> None:
    moved = shutil.copytree(root / "faces", tmp_path / "moved")
    assert [s.subject for s in plan.find(moved)] == ["a", "b"]
    (moved / "b.png").write_bytes((moved / "a.png").read_bytes())
    with pytest.raises(MesynthError, match="planned face photo/b"):
        plan.find(moved)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--count", "4"], "--count has no effect with --plan"),
        (["--au", "12=B"], "--au has no effect with --plan"),
        (["--size", "64"], "--size has no effect with --plan"),
        (["--nuisance", "none"], "--nuisance has no effect without --kind flow"),
        (["--faces", "/nowhere"], "does not exist"),
        (["--model", "nobody"], "model 'nobody' is unknown"),
    ],
)
def test_idle_options_are_refused(plan: StoredPlan, tmp_path: Path, args: list[str], says: str) -> None:
    result = _cli("generate", "--plan", plan.folder, *args, "--out", tmp_path / "x", "--workers", 1)
    assert result.exit_code == 2, result.output
    assert says in result.output
    assert not (tmp_path / "x").exists()


def test_rows_that_a_model_refuses_are_found_beforehand(root: Path, tmp_path: Path) -> None:
    design = load_design(None, ["emotions=[]", "aus.sources=[fixed]", "aus.fixed=['12=B','28=E']", "rows.count=4"])
    stored = draft_plan(design, faces=root / "faces").write(tmp_path / "plan")
    with pytest.raises(MesynthError, match=r"row \d of .*: AU 28 .* would fold the picture"):
        generate_plan(stored, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_virtual_people_have_no_frames(tmp_path: Path) -> None:
    stored = draft_plan(load_design(None, SMALL), people=2).write(tmp_path / "plan")
    with pytest.raises(MesynthError, match="use --kind flow"):
        generate_plan(stored, tmp_path / "x")


def test_a_full_disk_leaves_what_is_finished(
    root: Path, plan: StoredPlan, corpus: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second shard meets a full disk; the first stays, nothing half-written has its final name, a retry ends."""
    out = tmp_path / "out"
    whole, wrote = ShardWriter.add, []

    def add(self: ShardWriter, key: str, members: dict[str, bytes]) -> object:
        if "faces" not in self.path.parts and "000001" in self.path.name:
            raise OSError(28, "No space left on device")
        wrote.append(key)
        return whole(self, key, members)

    with monkeypatch.context() as patch:
        patch.setattr("mesynth.store.shards.ShardWriter.add", add)
        with pytest.raises(MesynthError, match=r"disk of .* is full; make room"):
            generate_plan(plan, out, preview=Preview(count=0), workers=1)
    assert len(Manifest.read(out / "parts" / "000000")) == 4
    assert not list(out.rglob("*.tmp"))
    assert not (out / "manifest.parquet").exists()
    assert generate_plan(plan, out, preview=Preview(count=0), workers=1).hash() == corpus.hash()
    assert made_bytes(out) == made_bytes(corpus.root)


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow beyond 20 kB: what a quota does."""
    before, old = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, old)


def test_a_quota_is_one_line(
    plan: StoredPlan, corpus: Manifest, tmp_path: Path, small_files: None, request: pytest.FixtureRequest
) -> None:
    shutil.copytree(corpus.root / "faces", tmp_path / "out" / "faces", ignore=shutil.ignore_patterns("sheet.png"))
    shutil.copy(corpus.root / "run.yaml", tmp_path / "out")
    with pytest.raises(MesynthError, match=r"cannot be written \(File too large\).*the same command again"):
        generate_plan(plan, tmp_path / "out", preview=Preview(count=0), workers=1)
    assert not (tmp_path / "out" / "manifest.parquet").exists()
    assert not list((tmp_path / "out").glob("*.tar"))


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root may write everywhere")
def test_no_permission_is_one_line(plan: StoredPlan, tmp_path: Path) -> None:
    out = tmp_path / "locked" / "out"
    out.parent.mkdir()
    out.parent.chmod(0o555)
    command = [
        sys.executable,
        "-m",
        "mesynth",
        "generate",
        "--plan",
        str(plan.folder),
        "--workers",
        "1",
        "--out",
        str(out),
    ]
    if os.geteuid() == 0:  # root without its privileges over files
        command = ["setpriv", "--bounding-set", "-dac_override", "--inh-caps", "-dac_override", *command]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    out.parent.chmod(0o755)
    if done.returncode == 0:
        pytest.skip("this machine lets the process write anyway")
    assert done.returncode == 2, done.stderr
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
