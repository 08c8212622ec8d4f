"""What a corpus of any size takes on any number of processes, from rates measured here; and where memory is not flat.

    python -m tests.bench.bench_scale                          # rates, memory, the table; some minutes
    python -m tests.bench.bench_scale --rows 10000000 --shard-rows 4096 --once  # ten million rows: half an hour, 8 GB
    python -m tests.bench.bench_scale --stream                 # a corpus on a local S3 server into a training loop

Plan and merge are measured on synthetic rows (500 drawn ones, and the journal of a shard, each with other names), every
size in a process of its own, whose peak is the kernel's (VmHWM). --once: without a fourth of the rows before, by which
peaks are followed to ten million. A corpus' shards have 256 rows; larger ones are read and written sooner, and held as
a whole. The table is a simulation: clips of --clip-seconds are made in shards, each process takes the next one that is
free; before them lies what one process does while all others wait (its copy of the plan), behind them the merge.
Processes are taken to be as fast as one alone: cores, disks and networks that they share make it worse, and the table
says nothing about them.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PLAN = """
import sys, time
from dataclasses import replace
from pathlib import Path
from mesynth.corpus.design import load_design
from mesynth.corpus.plan import write_plan, write_plan_folder
from mesynth.corpus.planning import draft_plan
n, out = int(sys.argv[1]), Path(sys.argv[2])
draft = draft_plan(load_design(None, ["rows.count=500"]), people=1000)
started = time.perf_counter()
few = list(draft.planner)
drawn = (time.perf_counter() - started) / 500
rows = lambda: (replace(few[i % 500], index=i, face=i % 1000, seed=i) for i in range(n))
started = time.perf_counter()
plan = write_plan_folder(out / "plan", rows(), draft.faces, draft.design.plain(), {"size": 128})
written = (time.perf_counter() - started) / n
started = time.perf_counter()
write_plan(plan, out)
copied = (time.perf_counter() - started) / n
size = (out / "plan" / "plan.parquet").stat().st_size / n
print(drawn, written, copied, size)
for name in ("plan/plan.parquet", "plan.jsonl"):  # the merge has its own
    (out / name).unlink()
"""
JOURNALS = """
import sys, time
from pathlib import Path
import numpy as np
import pyarrow as pa
from mesynth.core.types import N_AUS
from mesynth.store.manifest import Manifest, Span
from mesynth.store.run_folder import claim_folder, write_listed, write_text
from mesynth.store.stage import CLOSING, NOTES_FILE, PARTS, SKIPPED_FILE, journal, skipped_csv
from dataclasses import replace
import json
from mesynth.store.manifest import Provenance, Row
n, out, SIZE = int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
claim_folder(out, {"rows": n})
who = Provenance(kind="synthetic", database="faces", subject="p", licence="CC0-1.0", subjects_seen=("faces/p",),
                 parents=("0" * 64,), generator="motion-prior", plan_row=0, seed=1, aus_asked="4=0.3,7=0.2",
                 aus_source="published", profile="apex=0.4,hold=0.1,decay=exponential,lag=0.05", code_version="0")
span = Span("frames-000000.tar", 1024, 2000000, "0" * 64)
row = Row(clip_id="", database="faces", subject="p", clip="syn0000000", onset=0, apex=26, offset=64, fps=200.0,
          n_frames=65, apex_index=26, height=128, width=128, emotion="disgust", label="negative",
          objective_class="IV", au_text="4=0.3,7=0.2", frames=span, flow=span, provenance=who)
rng = np.random.default_rng(0)
rows = []
for i in range(SIZE):
    cells = np.zeros(2 * N_AUS, np.float32)
    cells[rng.integers(0, 2 * N_AUS, 4)] = rng.random(4)
    rows.append(replace(row, clip_id=str(i), au_intensity=tuple(cells.tolist()), provenance=replace(who, plan_row=i)))
table = Manifest.from_rows(rows, out).table
where = table.schema.get_field_index("clip_id")
started = time.perf_counter()
shards = -(-n // SIZE)
for index in range(shards):
    few = min(SIZE, n - index * SIZE)
    ids = pa.array([f"faces/p/syn{index * SIZE + i:07d}/0" for i in range(few)])
    folder = journal(out, index).parent
    write_listed(folder, {SKIPPED_FILE: skipped_csv([]).encode(), NOTES_FILE: b""})
    named = table.slice(0, few).set_column(where, table.schema.field(where), pa.chunked_array([ids]))
    Manifest(named, out).write(folder)
record = {"kind": "stage", "last": "manifest.parquet", "jobs": n, "shards": shards, "skipped": [], "meta": {}}
write_text(out / PARTS / CLOSING, json.dumps(record))
print((time.perf_counter() - started) / n)
"""
MERGE = """
import sys, time
from mesynth.api import merge
started = time.perf_counter()
made = merge(sys.argv[2])
assert made["clips"] == int(sys.argv[1])
print((time.perf_counter() - started) / made["clips"])
"""
READ = """
import sys, time
from mesynth.store.manifest import Manifest
started = time.perf_counter()
n = len(Manifest.read(sys.argv[2]))
print((time.perf_counter() - started) / n)
"""
GIB = 2**30
READ_AT_MOST = 2_000_000
"""Rows whose table is read as a whole: it is what grows with them, 1.6 kB each."""


def run(code: str, *arguments: object) -> tuple[list[float], float]:
    """What the code prints, and the peak of its process in GiB."""
    told = "\nprint(*[line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')])"
    words = [sys.executable, "-c", code + told, *(str(a) for a in arguments)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    *figures, peak = done.stdout.split()
    return [float(figure) for figure in figures], 1024 * int(peak) / GIB


def measured(rows: int, shard_rows: int) -> dict[str, float]:
    """Seconds a row and peaks."""

    def stage(what: str, code: str, *arguments: object) -> tuple[list[float], float]:
        started = time.perf_counter()
        figures, peak = run(code, rows, *arguments)
        print(f"{what} of {rows:,} rows: {time.perf_counter() - started:.0f} s, {peak:.2f} GiB", file=sys.stderr)
        return figures, peak

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (drawn, written, copied, size), plan = stage("plan", PLAN, folder)
        (journals,), _ = stage("journals", JOURNALS, folder / "corpus", shard_rows)
        (merged,), merge = stage("merge", MERGE, folder / "corpus")
        read = math.nan if rows > READ_AT_MOST else stage("reading", READ, folder / "corpus")[1]
        stored = (folder / "corpus" / "manifest.parquet").stat().st_size / rows
    return {
        "draw": drawn, "write": written, "copy": copied, "plan bytes": size, "journal": journals, "merge": merged,
        "manifest bytes": stored, "plan GiB": plan, "merge GiB": merge, "read GiB": read,
    }  # fmt: skip


def hours(clips: int, workers: int, clip: float, start: float, rates: dict[str, float]) -> dict[str, float]:
    """By part: the plan's copy and the merge by one process, the shards by all."""
    shards = -(-clips // 256) if clips >= 4096 else -(-clips // max(clips // 16, 4))
    rounds = math.ceil(shards / workers)
    each = clips / shards
    return {
        "plan": rates["copy"] * clips / 3600,
        "clips": (start + rounds * each * (clip + rates["journal"])) / 3600,
        "merge": rates["merge"] * clips / 3600,
    }


def table(clip: float, size: float, start: float, rates: dict[str, float]) -> None:
    """Hours, and the part that takes most of them beside the clips."""
    print("| clips | on disk | 1 process | 8 | 64 | 512 | at 512 in the plan, clips, merge |")
    print("|---|---|---|---|---|---|---|")
    for clips in (10_000, 100_000, 1_000_000, 10_000_000):
        cells = []
        for workers in (1, 8, 64, 512):
            parts = hours(clips, workers, clip, start, rates)
            cells.append(f"{sum(parts.values()):.3g} h")
        shares = ", ".join(f"{100 * part / sum(parts.values()):.0f} %" for part in parts.values())
        print(f"| {clips:,} | {clips * size / 1e9:,.0f} GB | {' | '.join(cells)} | {shares} |")


def stream() -> None:
    """Clips of a corpus of a local S3 server and of the disk, in turn, into batches."""
    import logging
    import os

    import s3fs
    from moto.server import ThreadedMotoServer

    import mesynth
    from mesynth.data import IterableClipDataset, clip_loader

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ |= {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing", "NO_PROXY": "127.0.0.1",
                   "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": f"http://{host}:{port}"}  # fmt: skip
    s3fs.S3FileSystem().mkdir("bench")
    samples = Path(__file__).parents[2] / "samples" / "corpus"
    with tempfile.TemporaryDirectory() as name:
        os.environ["MESYNTH_CACHE"] = name
        s3fs.S3FileSystem().put(str(samples), "bench/clips", recursive=True)
        flow = {"kind": "flow", "emotion": "surprise", "count": 2000, "out": Path(name) / "flow"}
        mesynth.generate(**flow)
        s3fs.S3FileSystem().put(str(flow["out"]), "bench/flow", recursive=True)
        for what, here in (("clips", samples), ("flow", Path(name) / "flow")):
            total = sum(file.stat().st_size for file in here.glob("*.tar"))
            best = {}
            for _ in range(3):
                for place in (str(here), f"s3://bench/{what}"):
                    clips = IterableClipDataset(place, length=16 if what == "clips" else None)
                    started = time.perf_counter()
                    n = sum(len(batch["label"]) for batch in clip_loader(clips, batch_size=16))
                    best[place] = max(best.get(place, 0.0), n / (time.perf_counter() - started))
            disk, remote = best.values()
            rate = remote * total / n / 1e6
            print(f"{what}: {disk:.0f} a second from the disk, {remote:.0f} from S3 ({rate:.1f} MB/s)")
    server.stop()


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=80_000)
    parser.add_argument("--shard-rows", type=int, default=256)
    parser.add_argument("--once", action="store_true")
    parser.add_argument("--clip-seconds", type=float, default=0.387, help="of bench_frames, or of --dry-run")
    parser.add_argument("--clip-bytes", type=float, default=2.05e6)
    parser.add_argument("--start-seconds", type=float, default=4.0)
    parser.add_argument("--stream", action="store_true")
    chosen = parser.parse_args()
    if chosen.stream:
        stream()
        return
    few = {} if chosen.once else measured(max(chosen.rows // 4, 1), chosen.shard_rows)
    many = measured(chosen.rows, chosen.shard_rows)
    for name, value in many.items():
        if name.endswith("GiB") and chosen.once:
            print(f"{name}: {value:.2f} of {chosen.rows:,} rows")
        elif name.endswith("GiB"):
            slope = (value - few[name]) / (chosen.rows - chosen.rows // 4)
            whole = value + slope * (1e7 - chosen.rows)
            print(f"{name}: at most {value:.2f}, of ten million rows by the slope {whole:.2f}")
        elif name.endswith("bytes"):
            print(f"{name}: {value:.0f} a row")
        else:
            print(f"{name}: {1e6 * value:.0f} microseconds a row")
    table(chosen.clip_seconds, chosen.clip_bytes, chosen.start_seconds, many)


if __name__ == "__main__":
    main()
