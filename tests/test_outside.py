"""A package of others, installed beside mesynth, adds a database, a family, a measure and a recognizer.

Nothing in this repository names it. Commands run in an environment of their own, as its users would run them.
"""

from __future__ import annotations

import csv
import json
import os
import shlex
import shutil
import site
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from mesynth.core import facs
from mesynth.core.profiles import Profile
from mesynth.head import Subject

ROOT = Path(__file__).parents[1]
PEOPLE, FRAMES, SIZE = 4, 7, 96
EMOTIONS = {"happiness": "12=0.6", "disgust": "4=0.6", "surprise": "1=0.6,2=0.6"}
RECIPE = """
task: mean_flow
data: {source: rendered, size: 32, identities: 4, per_identity: 6, validation_identities: 1, still: 1.0}
run: {images: 64, batch: 8, log_images: 32, validate_images: 64, validation: 4, sheet: 2, checkpoint_images: 64}
"""
OWN = """
task: mean_flow
data: {source: manifest, manifests: [prepared], size: 32}
run: {images: 16, batch: 8, log_images: 8, validate_images: 16, validation: 2, sheet: 2, checkpoint_images: 16}
"""

SERVES = """
import json, sys
from click.testing import CliRunner
import mesynth.cli, recognizer.cli
answers, sys.stdout = sys.stdout, sys.stderr
for typed in sys.stdin:
    program, *words = json.loads(typed)
    group = {"mesynth": mesynth.cli.main, "recognizer": recognizer.cli.main}[program]
    said = CliRunner().invoke(group, words, prog_name=program)
    print(json.dumps([said.exit_code, said.stdout, said.stderr, repr(said.exception)]), file=answers, flush=True)
"""
"""One process types all commands: each of its own would import torch again."""

pytestmark = pytest.mark.slow


class Outside:
    """An environment that has the package, and a folder in which its users work."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        environment, source = folder / "environment", folder / "source"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
        self.python = environment / ("Scripts" if os.name == "nt" else "bin") / "python"
        shutil.copytree(ROOT / "tests" / "outside", source)  # a build leaves folders where it runs
        purelib = subprocess.run(
            [str(self.python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            check=True, capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip
        # What this environment has, and this checkout; the package alone is new.
        here = [str(ROOT), *site.getsitepackages()]
        (Path(purelib) / "beside.pth").write_text("\n".join(here) + "\n")
        subprocess.run(
            [sys.executable, "-m", "pip", "--python", str(self.python), "install", "--quiet", "--no-deps",
             "--no-build-isolation", "--no-index", "--disable-pip-version-check", str(source)],
            check=True,
        )  # fmt: skip

        environ = os.environ | {"OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [str(self.python), "-c", SERVES], cwd=self.folder, env=environ, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def type(self, command: str, *, fails: bool = False) -> tuple[str, str]:
        """A command of mesynth or recognizer there; its output and errors."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(shlex.split(command)) + "\n")
        self.process.stdin.flush()
        code, out, errors, raised = json.loads(self.process.stdout.readline())
        assert code == (2 if fails else 0), (command, out[-2000:], errors[-2000:], raised)
        return out, errors

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(60) == 0


def write_beach(root: Path) -> None:
    """A release in the layout of the package's database: a folder of pictures a clip, a table of its own."""
    rows = []
    for seed in range(PEOPLE):
        person = Subject(seed + 900, SIZE)
        for emotion, au in EMOTIONS.items():
            clip = f"p{seed}-{emotion}"
            vector = facs.parse_request(au)
            share = Profile(apex=0.5).alpha(FRAMES, np.zeros(len(facs.AU_CODES)))
            frames = person.render(share[:, :, None] * vector.intensity[None])
            (root / clip).mkdir(parents=True)
            for t, frame in enumerate(frames):
                assert cv2.imwrite(str(root / clip / f"{t + 1:03d}.png"), frame[..., ::-1])
            codes = "+".join(item.partition("=")[0] for item in au.split(","))
            rows.append((f"p{seed}", clip, 1, FRAMES // 2 + 1, FRAMES, codes, emotion))
    with open(root / "beach.csv", "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(("person", "clip", "onset", "apex", "offset", "aus", "emotion"))
        table.writerows(rows)


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    made = Outside(tmp_path_factory.mktemp("outside"))
    write_beach(made.folder / "beach")
    (made.folder / "mean.yaml").write_text(RECIPE)
    made.type(f"mesynth prepare beach --root beach --workers 1 --size {SIZE} --method dis --out prepared")
    made.type("mesynth train mean.yaml --workers 1 --out mean")
    yield made
    made.close()


def generate(outside: Outside, model: str, people: int, out: str) -> None:
    """Make clips of rendered people."""
    asked = "--emotion negative,positive,surprise --count 9 --fps 30"
    outside.type(f"mesynth render --layout faces --subjects {people} --size 128 --out {out}-faces")
    outside.type(f"mesynth generate --faces {out}-faces {asked} --model {model} --workers 1 --out {out}")


def test_its_database_is_prepared_and_checked_like_any_other(outside: Outside) -> None:
    told = json.loads(outside.type("mesynth prepare beach --root beach --check --json")[0])
    assert told["usable"] == PEOPLE * len(EMOTIONS)
    from mesynth.store.manifest import Manifest

    manifest = Manifest.read(outside.folder / "prepared")
    assert set(manifest.subject_keys()) == {f"beach/p{seed}" for seed in range(PEOPLE)}
    # As its users type it: a process of their own.
    wrong = subprocess.run(
        [str(outside.python), "-m", "mesynth", "prepare", "beech", "--root", "beach", "--out", "never"],
        cwd=outside.folder, capture_output=True, text=True,
    )  # fmt: skip
    assert wrong.returncode == 2
    assert "beach" in wrong.stderr  # among the databases there are
    assert not (outside.folder / "never").exists()


def test_its_generator_is_trained_and_its_measure_stands_in_the_report(outside: Outside) -> None:
    generate(outside, "mean", 3, "corpus")
    outside.type("mesynth measure --real prepared --synthetic corpus --clips 6 --workers 1 --out quality")
    page = (outside.folder / "quality" / "report.html").read_text()
    assert "pixels that move" in page
    report = json.loads((outside.folder / "quality" / "report.json").read_text())
    rows = [row for row in report["rows"] if row["key"] == "motion_share"]
    assert len(rows) == 1
    assert rows[0]["group"] == "motion share"
    assert 0 <= rows[0]["value"] <= 1


def test_its_clips_are_checked_for_leaks(outside: Outside) -> None:
    (outside.folder / "own.yaml").write_text(OWN)
    outside.type("mesynth train own.yaml --workers 1 --out own")
    generate(outside, "own", 2, "leaking")
    facts = json.loads((outside.folder / "own" / "generator" / "mesynth.json").read_text())["facts"]
    assert set(facts["subjects_seen"]) <= {f"beach/p{seed}" for seed in range(PEOPLE)}
    assert facts["subjects_seen"]
    _, refused = outside.type("recognizer loso --real prepared --synthetic leaking model=lda --out refused", fails=True)
    assert "beach/p" in refused
    assert not (outside.folder / "refused" / "result.json").exists()


def test_its_model_runs_in_an_ablation(outside: Outside) -> None:
    if not (outside.folder / "corpus").exists():
        generate(outside, "mean", 3, "corpus")
    outside.type(
        "recognizer ablate --real prepared --synthetic corpus 'models=[two_layers]' 'seeds=[0]' 'ratios=[0,1]'"
        " 'controls=[shuffled]' resamples=200 train.steps=8 two_layers.hidden=8 --out ablation"
    )
    result = json.loads((outside.folder / "ablation" / "result.json").read_text())
    assert "two_layers" in json.dumps(result)
    assert "two_layers" in (outside.folder / "ablation" / "ablation.html").read_text()
