"""What a command does not load: modules that cost a second and that it has no use for."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mesynth.store.cluster import ShareDone, together
from mesynth.store.stage import run_stage
from tests.builders import NumberWorker

ROOT = Path(__file__).resolve().parents[2]
FACES = str(ROOT / "samples" / "corpus" / "faces")
NOT_USED = {
    "accelerate", "diffusers", "gradio", "jax", "lightning", "matplotlib", "scipy.signal", "scipy.stats", "skimage",
    "sklearn", "sympy", "tensorflow", "torch._dynamo", "torch._inductor", "torchvision", "transformers",
}  # fmt: skip
"""By no start below."""
CORPUS = str(ROOT / "samples" / "corpus")
SLOW = {"torch", "numba", "mediapipe", "scipy.special", "scipy.spatial"}
GENERATE = ("generate", "--faces", FACES, "--emotion", "negative", "--count", "1")
STARTS = {
    "motion-prior": ("mesynth", (*GENERATE, "--model", "motion-prior"), {"torch", "mediapipe"}),
    "motion_gan": ("mesynth", (*GENERATE, "--model", "motion_gan"), {"mediapipe"}),
    "plan": (
        "mesynth",
        ("plan", "corpus/three_classes", "rows.count=3", "--faces", FACES),
        {"torch", "mediapipe", "scipy.special", "scipy.spatial"},
    ),
    # @ is a corpus whose two shares are made and not closed.
    "merge": ("mesynth", ("merge", "@"), SLOW),
    "verify": ("mesynth", ("verify", CORPUS), {"torch", "numba", "mediapipe"}),
    "card": ("mesynth", ("card", CORPUS), {"torch", "numba", "mediapipe"}),
    "filter": (
        "mesynth",
        ("filter", CORPUS, "--keep", "duplicate=0.01"),
        {"torch", "mediapipe"},
    ),
    "augment": ("mesynth", ("augment", CORPUS), {"torch", "mediapipe"}),
    "submit": ("mesynth", ("submit", "generate", "--plan", "p", "--out", "o", "--dry-run"), SLOW),
    "flow": (
        "mesynth",
        ("generate", "--kind", "flow", "--emotion", "negative", "--count", "2", "--subjects", "2"),
        {"torch", "mediapipe"},
    ),
    "recognizer": (
        "recognizer",
        ("predict", "--manifest", str(ROOT / "samples" / "corpus")),
        {"mediapipe", "scipy.special"},
    ),
    "recognizer --help": (
        "recognizer",
        ("--help",),
        {"torch", "mediapipe", "numpy", "scipy", "pandas", "cv2", "numba"},
    ),
    "mesynth --help": ("mesynth", ("--help",), {"torch", "mediapipe", "numpy", "scipy", "pandas", "cv2", "numba"}),
}


NO_OUT = ("merge", "verify")


def _two_shares(folder: Path) -> Path:
    """A corpus of two processes, each on a disk of its own, copied together: what `merge` is for."""
    out = folder / "shares"
    for i in (0, 1):
        with together(f"{i}/2"), pytest.raises(ShareDone):
            run_stage(folder / f"{i}", list(range(8)), NumberWorker(), config={"numbers": 8})
        shutil.copytree(folder / f"{i}", out, dirs_exist_ok=True)
    return out


@pytest.mark.parametrize("start", STARTS)
def test_what_is_not_used_is_not_loaded(start: str, tmp_path: Path) -> None:
    program, words, also = STARTS[start]
    if "@" in words:
        words = tuple(str(_two_shares(tmp_path)) if word == "@" else word for word in words)
    out = () if {"--help", "--dry-run"} & {*words} or words[0] in NO_OUT else ("--out", str(tmp_path / "out"))
    code = (
        "import json, sys\n"
        f"sys.argv = {[program, *words, *out]!r}\n"
        f"from {program}.cli import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as end:\n"
        "    print(json.dumps([end.code or 0, sorted(sys.modules)]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=200, check=True
    )
    ended, modules = json.loads(done.stdout.splitlines()[-1])
    assert ended == 0, done.stderr
    assert (NOT_USED | also).isdisjoint(modules)
    # What runs, runs: the list above would hold of a command that ended early, too.
    assert {"--help", "--dry-run"} & {*words} or "pyarrow" in modules
    if start == "merge":
        assert (tmp_path / "shares" / "manifest.parquet").is_file()
    if out and start != "card":
        assert any((tmp_path / "out").iterdir())
    if start == "motion_gan":
        assert "torch" in modules
