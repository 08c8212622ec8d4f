"""What a command does not load: modules that cost a second and that it has no use for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FACES = str(ROOT / "samples" / "corpus" / "faces")
NOT_USED = {
    "accelerate", "diffusers", "gradio", "jax", "lightning", "matplotlib", "scipy.signal", "scipy.stats", "skimage",
    "sklearn", "sympy", "tensorflow", "torch._dynamo", "torch._inductor", "torchvision", "transformers",
}  # fmt: skip
"""By no start below."""
GENERATE = ("generate", "--faces", FACES, "--emotion", "negative", "--count", "1")
STARTS = {
    "motion-prior": ("mesynth", (*GENERATE, "--model", "motion-prior"), {"torch", "mediapipe"}),
    "motion_gan": ("mesynth", (*GENERATE, "--model", "motion_gan"), {"mediapipe"}),
    "plan": (
        "mesynth",
        ("plan", "corpus/three_classes", "rows.count=3", "--faces", FACES),
        {"torch", "mediapipe", "scipy.special", "scipy.spatial"},
    ),
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


@pytest.mark.parametrize("start", STARTS)
def test_what_is_not_used_is_not_loaded(start: str, tmp_path: Path) -> None:
    program, words, also = STARTS[start]
    out = () if "--help" in words else ("--out", str(tmp_path / "out"))
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
    assert "--help" in words or "pyarrow" in modules
    if out and "--dry-run" not in words:
        assert any((tmp_path / "out").iterdir())
    if start == "motion_gan":
        assert "torch" in modules
