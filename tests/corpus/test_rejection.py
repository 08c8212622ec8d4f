"""Rejected clips are drawn again until the plan is full; what is rejected is listed, what cannot be is said."""

import csv
import json
import re
import signal
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from skimage import data

from mesynth.cli import main
from mesynth.core.errors import MesynthError
from mesynth.corpus.design import load_design
from mesynth.corpus.filters import Checks, Limits, filter_corpus, parse_keep
from mesynth.corpus.flow_corpus import flow_run
from mesynth.corpus.generate import Preview, ProcessTimes, Throughput, generate, joined
from mesynth.corpus.plan import Plan, PlanConfig
from mesynth.corpus.planning import draft_plan
from mesynth.corpus.rejection import (
    Acceptance,
    AcceptedCorpus,
    Attempt,
    generate_flow_until_accepted,
    generate_until_accepted,
)
from mesynth.corpus.verify import verify
from mesynth.metrics.base import ClipData
from mesynth.motion.flow_prior import FlowNuisance
from mesynth.motion.nuisance import Nuisance
from mesynth.store.manifest import Manifest
from mesynth.store.run_folder import LOCK_FILE
from mesynth.store.shards import read_flow
from tests import warm
from tests.builders import tree_bytes
from tests.corpus.coded import made_bytes
from tests.corpus.until import ALIKE, APART, CONFIG, MOMENTS, alike, snapshots

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("until")
    cv2.imwrite(str(root / "a.png"), data.astronaut()[..., ::-1])
    return root


@pytest.fixture(scope="module")
def plain(root: Path) -> Manifest:
    return generate(root / "a.png", CONFIG, root / "plain", preview=Preview(count=2))


@pytest.fixture(scope="module")
def errors(plain: Manifest) -> np.ndarray:
    """Largest AU error of each clip of the plain corpus."""
    return _errors(plain)


@pytest.fixture(scope="module")
def half(errors: np.ndarray) -> Limits:
    """Half of the plain corpus is beyond this."""
    return Limits(identity=None, control=float(np.median(errors)), artefact=None)


@pytest.fixture(scope="module")
def full(root: Path, half: Limits) -> AcceptedCorpus:
    return _make(root, "full", half, attempts=100)


@pytest.fixture(scope="module")
def apart(root: Path) -> AcceptedCorpus:
    """Made without a pause; the folder as it was at each of :data:`MOMENTS` lies in ``at``."""
    with snapshots(root / "apart", root / "at"):
        return alike(root / "a.png", root / "apart")


def _make(
    root: Path, name: str, limits: Limits, attempts: int, config: PlanConfig = CONFIG, workers: int = 1
) -> AcceptedCorpus:
    acceptance, preview = Acceptance(limits=limits, attempts=attempts), Preview(count=2)
    return generate_until_accepted(
        config, root / name, acceptance, faces=root / "a.png", preview=preview, workers=workers
    )


def _errors(manifest: Manifest) -> np.ndarray:
    checks = Checks(Limits(identity=None))
    return np.array([checks.control(ClipData("synthetic", row, manifest.root)) for row in manifest])


def _lines(folder: Path) -> list[dict[str, str]]:
    with open(folder / "rejected.csv", newline="") as file:
        return list(csv.DictReader(file))


def _cli(*args: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in args])


def test_where_nothing_is_rejected_the_corpus_is_the_plain_one(root: Path, plain: Manifest) -> None:
    wide = Limits(identity=None, control=5, artefact=1, duplicate=0)
    made = _make(root, "wide", wide, attempts=1)
    assert (made.rejected, made.never) == (0, ())
    assert made.manifest.hash() == plain.hash()
    own = {"run.yaml", "manifest.parquet", "SHA256SUMS"}
    before, after = made_bytes(plain.root), made_bytes(root / "wide")
    assert set(after) - set(before) == {"rejected.csv"}
    assert {n: d for n, d in before.items() if n not in own} == {n: after[n] for n in before if n not in own}


def test_the_plan_is_filled(full: AcceptedCorpus, plain: Manifest, errors: np.ndarray, half: Limits) -> None:
    """About half is rejected at first; each replacement has the condition of its row and passes."""
    limit = half.control
    assert limit is not None
    assert full.never == ()
    assert len(full.manifest) == len(plain) == 12
    assert (_errors(full.manifest) <= limit).all()
    columns = ("clip_id", "label", "emotion", "au_text", "n_frames", "subject", "provenance.profile")
    for name in columns:
        assert full.manifest.column(name).tolist() == plain.column(name).tolist()
    lines = _lines(full.manifest.root)
    first = {int(line["plan_row"]): float(line["value"]) for line in lines if line["attempt"] == "1"}
    assert set(first) == set(np.flatnonzero(errors > limit).tolist())
    for index, value in first.items():
        assert value == pytest.approx(errors[index], rel=1e-5)  # what is judged in memory is what is stored
    tries = [sum(int(line["plan_row"]) == i for line in lines) + 1 for i in range(12)]
    assert full.rejected == sum(tries) - 12 == len(lines)
    for row, planned, attempt in zip(full.manifest, Plan(CONFIG, 1), tries, strict=True):
        assert row.provenance.seed == Attempt(planned, attempt).row.seed
    assert all(float(line["value"]) > float(line["limit"]) for line in lines)


def test_the_folder_is_a_corpus_like_any_other(full: AcceptedCorpus, half: Limits, tmp_path: Path) -> None:
    folder = full.manifest.root
    assert verify(folder).clean
    assert not (folder / "rounds").exists()
    assert {p.name for p in (folder / "clips").iterdir()} == {"syn0000000", "syn0000001"}
    kept, rejected = filter_corpus(folder, tmp_path / "kept", half)
    assert rejected == []
    assert len(kept) == 12
    before = tree_bytes(folder)
    again = generate_until_accepted(
        CONFIG, folder, Acceptance(limits=half, attempts=100), faces=folder.parent / "a.png", preview=Preview(count=2)
    )
    assert (again.rejected, again.reasons) == (full.rejected, full.reasons)
    assert tree_bytes(folder) == before


def test_rows_that_are_never_accepted_are_listed(root: Path, errors: np.ndarray, half: Limits) -> None:
    """With one try the accepted are those that a filter would keep; the command says so and does not end well."""
    assert half.control is not None
    args = ["generate", "--faces", root / "a.png", "--emotion", ",".join(CONFIG.emotions), "--count", 12]
    args += ["--fps", 25, "--duration", 0.2, "--size", 64, "--style", 1, "--head-motion", 1, "--workers", 1]
    args += ["--until-accepted", "--attempts", 1, "--keep", f"control={half.control!r}", "--out", root / "short"]
    dry = _cli(*args, "--dry-run")
    forecast = r"would generate 12 clips .* until accepted by control=[\d.]+, in up to 1 attempts each"
    assert re.search(forecast, dry.output)
    done = _cli(*args, "--json")
    assert done.exit_code == 1, done.output
    beyond = np.flatnonzero(errors > half.control)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"Warning: {len(beyond)} of 12 rows were never accepted; ")
    printed = json.loads(done.stdout)
    assert (printed["clips"], printed["never accepted"]) == (12 - len(beyond), len(beyond))
    with open(root / "short" / "skipped.csv", newline="") as file:
        listed = list(csv.DictReader(file))
    assert [int(str(line["reason"]).split()[1]) for line in listed] == beyond.tolist()
    assert "was never accepted in 1 try; the last failed control" in listed[0]["reason"]
    kept = Manifest.read(root / "short")
    assert sorted([*kept.column("provenance.plan_row"), *beyond]) == list(range(12))
    assert verify(kept.root).clean


def test_what_redraws_cannot_change_is_given_up(root: Path) -> None:
    """Without nuisances the prior shows the same for any seed; a blink may come or not."""
    strict = Limits(identity=None, control=0.01, artefact=None, duplicate=None)
    still = replace(CONFIG, count=2, nuisance=Nuisance())
    made = _make(root, "still", strict, attempts=9, config=still)
    assert len(made.manifest) == 0
    assert (made.rejected, len(made.never)) == (4, 2)
    assert "in 2 tries" in made.never[0].reason
    assert "another try would show the same" in made.never[0].reason
    assert verify(root / "still").clean
    blinking = _make(root, "blinking", strict, 9, config=replace(still, nuisance=Nuisance(blink=0.3)))
    assert blinking.rejected == 18
    assert "another try" not in blinking.never[0].reason


def test_duplicates_of_all_rounds(apart: AcceptedCorpus) -> None:
    """Whichever two accepted clips: their flows differ by the limit."""
    limit = APART.limits.duplicate
    assert limit is not None
    assert apart.never == ()
    assert len(apart.manifest) == ALIKE.count
    lines = _lines(apart.manifest.root)
    assert max(int(line["attempt"]) for line in lines if line["check"] == "duplicate") > 1  # several rounds
    flows = [read_flow(apart.manifest.root, row) for row in apart.manifest]
    for i, flow in enumerate(flows):
        checks = Checks(APART.limits)
        for j in set(range(len(flows))) - {i}:
            checks.keep(str(j), flows[j])
        assert checks.nearest(flow)[0] >= limit
    ids = apart.manifest.column("clip_id").tolist()
    assert all(line["of"] in ids for line in lines if line["check"] == "duplicate")
    assert verify(apart.manifest.root).clean


def test_a_fixed_answer_is_a_duplicate_for_good(root: Path) -> None:
    only = Limits(identity=None, control=None, artefact=None)
    config = replace(ALIKE, au=("12=C",), count=3, nuisance=Nuisance(noise=2))  # another picture, the same flow
    made = _make(root, "fixed", only, attempts=9, config=config)
    assert made.manifest.column("provenance.plan_row").tolist() == [0]
    assert [(line["plan_row"], line["attempt"]) for line in _lines(root / "fixed")] == [
        ("1", "1"), ("1", "2"), ("2", "1"), ("2", "2"),
    ]  # fmt: skip
    assert all("another try would show the same" in entry.reason for entry in made.never)


def test_flow_images(tmp_path: Path) -> None:
    config = PlanConfig(emotions=("surprise", "fear"), count=30, nuisance=Nuisance(head=1, blink=0.3, style=1))
    args = ["generate", "--kind", "flow", "--emotion", "surprise,fear", "--count", 30, "--workers", 1]
    until = ["--until-accepted", "--keep", "duplicate=0.6", "--attempts", 20, "--out", tmp_path / "flow", "--json"]
    done = _cli(*args, *until)
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert (printed["clips"], printed["frames"], printed["flow images"]) == (30, 0, 30)
    assert printed["rejected tries"] > 0
    made = Manifest.read(tmp_path / "flow")
    kept, rejected = filter_corpus(tmp_path / "flow", tmp_path / "kept", parse_keep("duplicate=0.6"))
    assert (len(kept), rejected) == (30, [])
    labels = made.column("emotion").tolist()
    assert labels == ["surprise", "fear"] * 15
    assert verify(made.root).clean
    run = flow_run(config, model="flow-prior", people=0, size=28, nuisance=FlowNuisance())
    with pytest.raises(MesynthError, match="identity needs frames"):
        generate_flow_until_accepted(run, tmp_path / "x", Acceptance())


def test_identity_is_checked_too(root: Path) -> None:
    pytest.importorskip("dlib")
    config = replace(CONFIG, count=2)
    checks = Checks(Limits())
    made = _make(root, "who", Limits(), attempts=20, config=config)
    limit = Limits().identity
    assert limit is not None
    assert all(checks.identity(ClipData("synthetic", row, made.manifest.root)) <= limit for row in made.manifest)
    strict = _make(root, "nobody", Limits(identity=0, control=None, artefact=None, duplicate=None), 2, config)
    assert strict.reasons == {"identity": 4}


def test_flow_images_are_not_counted_as_frames(tmp_path: Path) -> None:
    args = ["generate", "--kind", "flow", "--emotion", "fear", "--count", 3, "--size", 20, "--workers", 1]
    shown = _cli(*args, "--out", tmp_path / "flow").output
    assert re.search(r"frames +0\n", shown)
    assert re.search(r"flow images +3\n", shown)
    assert re.search(r"pixels +20x20\n", shown)


def test_stored_plans(root: Path, half: Limits, tmp_path: Path) -> None:
    settings = ["clip.size=64", "clip.fps=25", "clip.duration=[0.2,0.2]", "rows.count=6", "nuisance.style=[1]"]
    settings.append("emotions=[happiness,contempt]")
    stored = draft_plan(load_design(None, settings), faces=root / "a.png").write(tmp_path / "plan")
    made = generate_until_accepted(stored, tmp_path / "corpus", Acceptance(limits=half, attempts=100))
    assert made.rejected > 0
    for row, planned in zip(made.manifest, stored, strict=True):
        assert (row.provenance.plan_row, row.emotion) == (planned.index, planned.emotion)
        np.testing.assert_array_equal(row.aus.intensity, planned.aus.intensity)


@pytest.mark.slow
def test_any_number_of_processes_gives_the_same(root: Path, full: AcceptedCorpus, half: Limits) -> None:
    _make(root, "two", half, attempts=100, workers=2)
    assert made_bytes(root / "two") == made_bytes(full.manifest.root)


@pytest.mark.parametrize("moment", MOMENTS)
def test_resumed(root: Path, apart: AcceptedCorpus, moment: str) -> None:
    """What a kill leaves on the disk in rounds, between them, and while they are gathered: the same call ends it with
    the same bytes."""
    out = root / "at" / moment
    assert (out / LOCK_FILE).exists()  # as after a kill: of a process that does not hold it any more
    assert (out / "rounds").is_dir()
    assert (out / "manifest.parquet").exists() == (moment == "tidying")
    made = alike(root / "a.png", out)
    assert made.rejected == apart.rejected
    assert tree_bytes(out) == tree_bytes(apart.manifest.root)


@pytest.mark.slow
def test_killed_and_resumed(root: Path, apart: AcceptedCorpus, tmp_path: Path) -> None:
    """kill -9 of a whole process; what it leaves is what the other moments are copies of."""
    out = tmp_path / "out"
    killed = warm.run("tests.corpus.until", str(root / "a.png"), str(out), "second round")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (out / LOCK_FILE).exists()
    assert (out / "rounds" / "001").is_dir()
    assert not (out / "manifest.parquet").exists()
    assert alike(root / "a.png", out).rejected == apart.rejected
    assert tree_bytes(out) == tree_bytes(apart.manifest.root)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--keep", "control"], "--keep has no effect without --until-accepted"),
        (["--attempts", "3"], "--attempts has no effect without --until-accepted"),
        (["--until-accepted", "--attempts", "0"], "attempts=0 is outside 1..1000"),
        (["--until-accepted", "--keep", "beauty"], "check 'beauty' is unknown"),
        (["--until-accepted", "--kind", "flow", "--keep", "control"], "--keep control needs frames"),
    ],
)
def test_mistakes_are_one_line(root: Path, tmp_path: Path, args: list[str], says: str) -> None:
    faces = [] if "flow" in args else ["--faces", root / "a.png"]
    result = _cli("generate", "--au", "12=B", *faces, *args, "--out", tmp_path / "x")
    assert result.exit_code == 2, result.output
    assert says in result.output
    assert len(result.output.strip().splitlines()) == 1
    assert not (tmp_path / "x").exists()


def test_another_limit_is_another_run(full: AcceptedCorpus, half: Limits) -> None:
    root = full.manifest.root.parent
    with pytest.raises(MesynthError, match="holds another run"):
        _make(root, "full", replace(half, control=4.0), attempts=100)
    (copy := root / "damaged").mkdir()
    full.manifest.write(copy)
    with pytest.raises(MesynthError, match=r"rejected.csv cannot be read"):
        AcceptedCorpus.read(copy)


def test_rounds_are_timed_as_one_run() -> None:
    def times(clips: int) -> ProcessTimes:
        seconds = dict.fromkeys(ProcessTimes.__dataclass_fields__, 1.0)
        return ProcessTimes(**seconds | {"clips": clips, "frames": 2 * clips})

    whole = joined([
        Throughput(wall=3, processes=(times(5), times(4))), Throughput(wall=1, processes=(times(2),)),
    ])  # fmt: skip
    assert whole.wall == 4
    assert [(p.clips, p.frames, p.model) for p in whole.processes] == [(7, 14, 2.0), (4, 8, 1.0)]
