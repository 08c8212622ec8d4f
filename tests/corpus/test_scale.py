"""Memory does not grow with the corpus: peaks of whole processes, for few rows and for many."""

import subprocess
import sys
from pathlib import Path

import pytest

from mesynth.corpus.design import load_design
from mesynth.corpus.planning import draft_plan
from mesynth.store.manifest import Manifest

FACES = Path(__file__).parents[2] / "samples" / "corpus"
TINY = ["clip.size=32", "clip.fps=25", "clip.duration=[0.2,0.2]", "nuisance.noise=[1.5]"]
MIB = 2**20


def _peak(code: str, *arguments: object) -> int:
    """Bytes that a new process had at most while it ran ``code``, in which ``sys.argv`` are the arguments."""
    # Not ru_maxrss, which is at least what the process that started this one had.
    told = "\nprint(*[line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')])"
    words = [sys.executable, "-c", code + told, *(str(a) for a in arguments)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return 1024 * int(done.stdout.split()[-1])


GENERATE = "import sys; from mesynth.cli import main; main(sys.argv[1:], standalone_mode=False)"
PLAN = f"""
import sys
from dataclasses import replace
from pathlib import Path
from mesynth.corpus.design import load_design
from mesynth.corpus.planning import draft_plan
from mesynth.corpus.plan import write_plan_folder
drawn, stored, out = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
draft = draft_plan(load_design(None, {TINY!r} + [f"rows.count={{drawn}}"]), people=1000)
assert len(draft.write(out / "drawn")) == drawn
first = next(iter(draft.planner))
rows = (replace(first, index=i, face=i % 1000, seed=i) for i in range(stored))
plan = write_plan_folder(out / "stored", rows, draft.faces, draft.design.plain(), {{"size": 32}})
assert len(plan) == stored
"""
ITERATE = """
import sys
from mesynth.corpus.plan import StoredPlan
plan = StoredPlan.read(sys.argv[1])
assert sum(row.seed == i for i, row in enumerate(plan)) == int(sys.argv[2])
"""
SHARDS = """
import sys
from pathlib import Path
from mesynth.corpus.plan import StoredPlan
from mesynth.store.stage import Skipped, run_stage
plan = StoredPlan.read(sys.argv[1])[:int(sys.argv[2])]
run_stage(Path(sys.argv[3]), plan, lambda row: Skipped(str(row.index), "x"), config={}, shard_clips=100)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "few", "many", "most"), [("clips", 100, 500, 40_000), ("flow", 1500, 6000, 12_000)])
def test_generation_is_flat_in_the_number_of_clips(kind: str, few: int, many: int, most: int, tmp_path: Path) -> None:
    """A clip's six frames are 18 kB and its row some 3; parts read at once grow up to 1,024 rows, which is the rest."""
    peaks = []
    for rows in (few, many):
        out, plan = tmp_path / f"out{rows}", tmp_path / f"plan{rows}"
        draft_plan(load_design(None, [*TINY, f"rows.count={rows}"]), faces=FACES).write(plan)
        options = ["--preview", 0] if kind == "clips" else ["--kind", "flow"]
        peaks.append(_peak(GENERATE, "generate", "--plan", plan, *options, "--workers", 1, "--out", out))
        assert len(Manifest.read(out)) == rows
    assert peaks[1] - peaks[0] < most * (many - few)


@pytest.mark.slow
def test_a_plan_of_many_rows_is_small(tmp_path: Path) -> None:
    """Drawn, written, opened, walked, and cut into shards as a stage does, each in a process of its own."""
    few = _peak(PLAN, 100, 2_000, tmp_path / "few")
    many = _peak(PLAN, 600, 16_000, tmp_path / "many")
    assert many - few < 12 * MIB
    stored = tmp_path / "many" / "stored"
    walked = _peak(ITERATE, stored, 16_000)
    assert walked - _peak(ITERATE, tmp_path / "few" / "stored", 2_000) < 12 * MIB
    # A shard's jobs keep the 1,024 rows last read: 80 shards are not to be kept.
    assert _peak(SHARDS, stored, 8_000, tmp_path / "b") - _peak(SHARDS, stored, 2_000, tmp_path / "a") < 16 * MIB
    assert max(many, walked) < 600 * MIB
