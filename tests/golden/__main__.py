"""Golden bytes: whether anything that the command lines write has changed, file by file and figure by figure.

    python -m tests.golden record before.json --work DIR [--only NAME,...]
    python -m tests.golden compare before.json --work DIR [--only NAME,...]

It runs the command lines of :mod:`tests.golden.cases` and nothing else of the package, so that it outlives any move of
modules. Both sides have to run on one machine with the same versions of torch, numpy and OpenCV.

What is kept of a file:

- pictures, arrays, tar shards, csv of exports: its sha256;
- parquet, jsonl, csv of reports: a sha256 for each column, so that a column more is no change of the others;
- json, and what ``--json`` prints: each value by its path;
- safetensors and npz: a sha256 of the arrays (``values``), and of their names with them (``names``).

Nothing is kept of what is bound to the time, host, folder or version (DROPPED), of sentences, of html and yaml. Hashes
that name settings or a version, plots, texts and names of arrays are kept apart (SOFT): a difference is told, and does
not fail. A value that went to another name is told as renamed, and does not fail either.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import re
import shlex
import string
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from tests.golden.cases import CASES

ROOT = Path(__file__).parents[2]
Leaves = dict[str, Any]

DROPPED = re.compile(
    r"(^|\.)(seconds|wall|out|code_version|version|tried|card|croissant|corpus|command|config|notes?|text|unit|title"
    r"|threads|cores|images_per_s|clips_per_second|_class_name|_diffusers_version|dateCreated|datePublished"
    r"|dateModified)(\.|$)|^files\.|clips/s|clip of \d+ frames|speed|description"
)
"""Paths of values that differ between two runs, two hosts or two wordings."""
SOFT = re.compile(
    r"(^|[.:])(hash|config_hash|data_hash|aus_from|input)$|:names$|\.md$"
    r"|^(measure|ablate|compare|calibrate|train[^/]*)/.*\.png$"
)
SKIPPED = re.compile(r"\.(html|yaml|tmp|lock)$|(^|/)((throughput|state)\.json|SHA256SUMS)$")
RAW_CSV = re.compile(r"^(?!measure/|compare/|calibrate/)")


# ---------------------------------------------------------------- what is kept of a file


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value by its path; lists of plain values are one value, objects in a list go by their name."""
    if path and DROPPED.search(path):
        return
    if isinstance(value, dict):
        for key, part in value.items():
            yield from leaves(part, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and any(isinstance(part, dict | list) for part in value):
        met: dict[str, int] = {}
        for i, part in enumerate(value):
            name = str(part.get("name", part.get("model", i))) if isinstance(part, dict) else str(i)
            met[name] = met.get(name, 0) + 1
            yield from leaves(part, f"{path}.{name}" + (f"#{met[name]}" if met[name] > 1 else ""))
    else:
        yield path, value


def columns(records: list[dict[str, Any]]) -> Leaves:
    """A hash for each column of a table, nested ones by their path."""
    found: dict[str, list[str]] = {}
    for record in records:
        for path, value in leaves(record):
            found.setdefault(path, []).append(json.dumps(value, default=lambda b: sha(bytes(b))))
    return {path: sha("\n".join(values).encode()) for path, values in found.items()}


def arrays(file: Path) -> Iterator[tuple[str, bytes]]:
    """Name, and type, shape and bytes, of each array."""
    if file.suffix == ".npz":
        with np.load(file, allow_pickle=False) as held:
            for name in held.files:
                array = np.ascontiguousarray(held[name])
                yield name, f"{array.dtype}{list(array.shape)}".encode() + array.tobytes()
        return
    data = file.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    for name, about in json.loads(data[8:start]).items():
        if name != "__metadata__":
            first, last = about["data_offsets"]
            yield name, f"{about['dtype']}{about['shape']}".encode() + data[start + first : start + last]


def kept(file: Path, name: str, work: Path) -> Leaves:
    """What is kept of a file called ``case/path``."""
    match file.suffix:
        case ".parquet":
            return columns(pq.read_table(file).to_pylist())
        case ".jsonl":
            return columns([json.loads(line) for line in file.read_text().splitlines()])
        case ".json":
            return printed(file.read_text(), work)
        case ".csv" if not RAW_CSV.search(name):
            with open(file, newline="") as stream:
                return columns([row for row in csv.DictReader(stream) if not DROPPED.search(row.get("measure", ""))])
        case ".safetensors" | ".npz":
            held = sorted((key, sha(data)) for key, data in arrays(file) if not DROPPED.search(key))
            return {"names": sha(str(held).encode()), "values": sha(str(sorted(v for _, v in held)).encode())}
        case ".md":
            return {"": sha(re.sub(r"\d+\.\d+\.\d+\S*", "", file.read_text().replace(str(work), "")).encode())}
    return {"": sha(file.read_bytes())}


def printed(text: str, work: Path) -> Leaves:
    """The leaves of JSON."""
    return dict(leaves(json.loads(text.replace(str(work), "WORK"))))


# ---------------------------------------------------------------- running


class CaseFailed(Exception):
    """A command line ended as it should not, or an earlier case that it needs did."""


def needs(name: str) -> list[str]:
    """The cases whose folders a case reads."""
    fields = {field for _, field, _, _ in string.Formatter().parse(CASES[name]) if field}
    return [earlier for earlier in CASES if earlier in fields]


def run_case(name: str, work: Path) -> Leaves:
    """Everything kept of one case, by ``path:leaf``. Raises CaseFailed."""
    folders = {case: str(work / case) for case in CASES} | {"out": str(work / name)}
    (work / name).mkdir()
    threads = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment = os.environ | threads | {"PYTHONPATH": str(ROOT), "MESYNTH_CACHE": str(work / "cache")}
    found: Leaves = {}
    for step, line in enumerate(CASES[name].split("&&")):
        words = [word.format_map(folders) for word in shlex.split(line)]
        done = subprocess.run(
            [sys.executable, "-m", *words], capture_output=True, text=True, cwd=ROOT, env=environment, check=False
        )
        if done.returncode not in (0, 1) or "Traceback" in done.stderr:  # 1: done, but not all of it
            raise CaseFailed(f"exit code {done.returncode} of {shlex.join(words)}\n{done.stderr.strip()[-2000:]}")
        found[f"exit#{step}"] = done.returncode
        if "--json" in words:
            found |= {f"stdout#{step}:{path}": value for path, value in printed(done.stdout, work).items()}
    for file in sorted((work / name).rglob("*")):
        path = file.relative_to(work / name).as_posix()
        if file.is_file() and not SKIPPED.search(path):
            for leaf, value in kept(file, f"{name}/{path}", work).items():
                found[f"{path}:{leaf}" if leaf else path] = value
    return found


def run_cases(only: list[str], work: Path) -> Iterator[tuple[str, Leaves | CaseFailed]]:
    """Each case asked for (all, if none), after those that it needs; these count, too."""
    wanted = set(only or CASES)
    for name in reversed(CASES):
        if name in wanted:
            wanted |= set(needs(name))
    work.mkdir(parents=True, exist_ok=True)
    if any(work.iterdir()):
        sys.exit(f"{work} is not empty: what lies there would be taken for new; choose another --work")
    failed: set[str] = set()
    for name in CASES:
        if name not in wanted:
            continue
        start = time.perf_counter()
        try:
            if missing := failed & set(needs(name)):
                raise CaseFailed(f"needs {', '.join(sorted(missing))}")
            result: Leaves | CaseFailed = run_case(name, work)
        except CaseFailed as error:
            failed.add(name)
            result = error
        print(f"{name}: {time.perf_counter() - start:.1f} s", file=sys.stderr, flush=True)
        yield name, result


# ---------------------------------------------------------------- comparing


def differences(name: str, before: Leaves, after: Leaves) -> dict[str, list[str]]:
    """What differs, by kind; only "changed" and "gone" are failures."""
    told: dict[str, list[str]] = {kind: [] for kind in ("changed", "gone", "soft", "renamed", "removed", "added")}
    for key in before.keys() & after.keys():
        if json.dumps(before[key]) != json.dumps(after[key]):  # NaN is itself
            kind = "soft" if SOFT.search(f"{name}/{key}") else "changed"
            told[kind].append(f"{name}  {key}: {before[key]} -> {after[key]}")
    new = {key: json.dumps(after[key]) for key in sorted(after.keys() - before.keys())}
    files = {key.partition(":")[0] for key in after}
    for key in sorted(before.keys() - after.keys()):
        same = next((other for other, value in new.items() if value == json.dumps(before[key])), None)
        if same is not None:
            del new[same]
            told["renamed"].append(f"{name}  {key} -> {same}")
        elif key.partition(":")[0] in files or SOFT.search(f"{name}/{key}"):
            told["removed"].append(f"{name}  {key}: {before[key]}")
        else:
            told["gone"].append(f"{name}  {key}: {before[key]}")
    told["added"] = [f"{name}  {key}: {value}" for key, value in new.items()]
    return told


def versions() -> dict[str, str]:
    names = ("torch", "numpy", "opencv-python", "scipy", "numba", "scikit-learn", "diffusers", "mediapipe", "pyarrow")
    return {name: version(name) for name in names}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description=__doc__)
    parser.add_argument("verb", choices=("record", "compare"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="new folder for what the command lines write")
    parser.add_argument("--only", default="", help="cases, comma-separated; those they need are run, too")
    args = parser.parse_args()
    only = [name for name in args.only.split(",") if name]
    if unknown := set(only) - set(CASES):
        parser.error(f"no case {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    work = args.work.resolve()
    if args.verb == "record":
        results = dict(run_cases(only, work))
        cases = {name: result for name, result in results.items() if not isinstance(result, CaseFailed)}
        args.file.write_text(json.dumps({"versions": versions(), "cases": cases}, indent=0))
        for name in results.keys() - cases.keys():
            print(f"failed   {name}: {results[name]}")
        print(f"{len(cases)} cases, {sum(map(len, cases.values()))} values: {args.file}")
        return 1 if len(cases) < len(results) else 0
    recorded = json.loads(args.file.read_text())
    for package, old in recorded["versions"].items():
        if versions()[package] != old:
            print(f"other version  {package} {old} -> {versions()[package]}")
    told: dict[str, list[str]] = {}
    failed, compared = [], 0
    for name, result in run_cases(only or list(recorded["cases"]), work):
        if isinstance(result, CaseFailed):
            failed.append(f"{name}: {result}")
        elif name in recorded["cases"]:
            compared += len(result)
            for kind, lines in differences(name, recorded["cases"][name], result).items():
                told.setdefault(kind, []).extend(lines)
    for kind, lines in {"failed": failed, **told}.items():
        for line in sorted(lines):
            print(f"{kind:8s} {line}")
    print(f"{compared} values compared: " + ", ".join(f"{len(v)} {k}" for k, v in {"failed": failed, **told}.items()))
    return 1 if failed or told.get("changed") or told.get("gone") else 0


if __name__ == "__main__":
    sys.exit(main())
