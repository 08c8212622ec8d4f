"""The builder, on its parts and on a hand-made folder."""

from __future__ import annotations

import gzip
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mesynth.core.errors import MesynthError
from mesynth.head.build import deterministic_npz, head_arrays, read_obj, read_target, split_sides, unit_name

ROOT = Path(__file__).resolve().parents[2]


def test_archives_are_deterministic_and_readable():
    rng = np.random.default_rng(0)
    arrays = {"b": rng.normal(size=(50, 3)).astype(np.float16), "a": np.arange(9, dtype=np.uint16)}
    first = deterministic_npz(arrays)
    assert first == deterministic_npz(dict(reversed(arrays.items())))
    with np.load(io.BytesIO(first), allow_pickle=False) as archive:
        assert np.array_equal(archive["b"], arrays["b"])
    changed = {**arrays, "a": arrays["a"] + 1}
    assert deterministic_npz(changed) != first


def test_sides_are_named_and_directions_are_not():
    assert unit_name("eyeBlinkLeft") == "eyeBlink_L"
    assert unit_name("mouthSmileRight") == "mouthSmile_R"
    for direction in ("jawLeft", "jawRight", "mouthLeft", "mouthRight", "jawOpen"):
        assert unit_name(direction) == direction


def test_split_halves_add_up():
    x = np.linspace(-1, 1, 21)
    delta = np.ones((21, 3), np.float32)
    left, right = split_sides(delta, x, 0.1)
    assert np.allclose(left + right, delta)
    assert left[-1, 0] > 0.99
    assert left[0, 0] < 0.01


def test_obj_and_targets_are_read(tmp_path: Path):
    obj = tmp_path / "base.obj"
    obj.write_text("v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nvt 0 0\nvt 1 1\ng body\nf 1/1 2/1 3/2 4/2\n")
    mesh = read_obj(obj)
    assert mesh.quads.tolist() == [[0, 1, 2, 3]]
    assert mesh.groups.tolist() == ["body"]
    packed = tmp_path / "x.target.gz"
    packed.write_bytes(gzip.compress(b"# comment\n2 0.5 0 -1\n"))
    delta = read_target(packed, 4)
    assert delta[2].tolist() == [0.5, 0.0, -1.0]
    assert np.abs(delta).sum() == 1.5
    with pytest.raises(MesynthError, match="vertex 2"):
        read_target(packed, 2)
    obj.write_text("v 0 0 0\nf 1 1 1\n")
    with pytest.raises(MesynthError, match="3 corners"):
        read_obj(obj)


def test_a_mesh_that_is_not_makehuman_is_refused(tmp_path: Path):
    folder = tmp_path / "mpfb2" / "3dobjs"
    folder.mkdir(parents=True)
    (folder / "base.obj").write_text("v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\ng body\nf 1 2 3 4\n")
    with pytest.raises(MesynthError, match="hm08"):
        head_arrays(tmp_path)


def test_the_script_answers_a_wrong_folder_in_one_line(tmp_path: Path):
    out = tmp_path / "head.npz"
    command = [sys.executable, str(ROOT / "scripts" / "build_head.py"), str(tmp_path), "--out", str(out)]
    result = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT), "PATH": ""})
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert not out.exists()
