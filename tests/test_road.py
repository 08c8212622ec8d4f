"""The README's road by its own commands, as small as it gets: render, prepare, generate, measure, recognise."""

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

import mesynth.cli
import recognizer.cli
from mesynth.store.manifest import Manifest

pytestmark = pytest.mark.slow
PROGRAMS: dict[str, click.Group] = {"mesynth": mesynth.cli.main, "recognizer": recognizer.cli.main}


def _run(program: str, *args: object, code: int = 0) -> str:
    """The verb in this process: a process a verb would import torch a dozen times."""
    done = CliRunner().invoke(PROGRAMS[program], [str(arg) for arg in args])
    assert done.exit_code == code, done.stderr + done.stdout
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return done.stdout if code == 0 else done.stderr


def _json(program: str, *args: object) -> Any:
    return json.loads(_run(program, *args, "--json"))


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Database, prepared database, faces, corpus, and the corpus with estimated flow."""
    out = tmp_path_factory.mktemp("road")
    _run("mesynth", "render", "--subjects", 4, "--clips", 3, "--size", 160, "--out", out / "database")
    prepared = _json("mesynth", "prepare", "casme2", "--root", out / "database", "--out", out / "real")
    assert prepared["clips"] == 12
    assert prepared["subjects"] == 4
    _run("mesynth", "render", "--layout", "faces", "--subjects", 3, "--out", out / "faces")
    made = _json(
        "mesynth", "generate", "--faces", out / "faces", "--emotion", "negative,positive,surprise", "--count", 18,
        "--fps", 60, "--noise", 1.5, "--head-motion", 1, "--blink", 0.3, "--style", 1, "--out", out / "corpus",
    )  # fmt: skip
    assert made["classes"] == {"negative": 6, "positive": 6, "surprise": 6}
    _run(
        "mesynth", "prepare", "corpus", "--root", out / "corpus", "--landmarker", "stored", "--out", out / "corpus-tvl1"
    )  # fmt: skip
    return out


def test_the_loader_reads_what_render_wrote(road: Path) -> None:
    real = Manifest.read(road / "real")
    assert set(real.column("provenance.kind")) == {"rendered"}
    assert {"negative", "positive", "surprise"} <= set(real.column("label"))
    assert all(row.provenance.subjects_seen == (row.subject_key,) for row in real)


def test_measures(road: Path) -> None:
    report = _json(
        "mesynth", "measure", "--real", road / "real", "--synthetic", road / "corpus", "--clips", 8, "--out",
        road / "quality",
    )  # fmt: skip
    rows = {row["name"]: row for row in report["rows"]}
    kid = next(name for name in rows if name.startswith("KID"))
    assert rows[kid]["value"] is not None
    assert rows["AU ICC(3,1)"]["value"] > 0.3
    assert rows["flow end-point error"]["value"] < rows["flow end-point error"]["reference"]["zero flow"]
    assert rows["rise time error"]["value"] < 80
    assert (road / "quality" / "report.md").is_file()


def test_recognition_with_and_without(road: Path) -> None:
    alone = _json("recognizer", "loso", "--real", road / "real", "model=lda", "--out", road / "lda")
    assert alone["metrics"]["n"] == sum(map(sum, alone["metrics"]["confusion"]))
    mixed = _json(
        "recognizer", "loso", "--real", road / "real", "--synthetic", road / "corpus-tvl1", "model=lda",
        "mix.ratio=0.5", "--out", road / "mixed",
    )  # fmt: skip
    assert mixed["metrics"]["n"] == alone["metrics"]["n"]
    assert 0 < mixed["metrics"]["uf1"] <= 1


def test_ablation(road: Path) -> None:
    result = _json(
        "recognizer", "ablate", "--real", road / "real", "--synthetic", road / "corpus-tvl1", "models=[lda]",
        "ratios=[0,0.5]", "seeds=[0,1]", "resamples=200", "--out", road / "ablation",
    )  # fmt: skip
    assert {s["ratio"] for s in result["summary"]} == {0.0, 0.5}
    assert (road / "ablation" / "curve.png").read_bytes()[:4] == b"\x89PNG"


def test_a_corpus_on_the_databases_own_subjects_is_refused(road: Path) -> None:
    _run(
        "mesynth", "generate", "--faces", road / "real", "--emotion", "negative,positive,surprise", "--count", 12,
        "--fps", 60, "--out", road / "leaky",
    )  # fmt: skip
    error = _run(
        "recognizer", "loso", "--real", road / "real", "--synthetic", road / "leaky", "model=lda", "--out",
        road / "refused", code=2,
    )  # fmt: skip
    lines = [line for line in error.splitlines() if line.strip()]
    assert "saw subject rendered-0/sub01" in lines[-1]
    assert not (road / "refused" / "result.json").exists()
