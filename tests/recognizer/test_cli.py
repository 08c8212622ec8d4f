import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from mesynth.core.errors import LeakError
from mesynth.corpus.verify import verify
from mesynth.store.manifest import Manifest
from mesynth.store.stage import Interrupted
from recognizer import run as protocol_run
from recognizer.cli import main
from tests import warm
from tests.recognizer.corpora import write_corpus

ROOT = Path(__file__).parents[2]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def mistake(*arguments: object) -> str:
    """The one line a user's mistake gets."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("Error: ")
    return str(lines[0])


@pytest.mark.parametrize("verb", ["loso", "ablate", "train", "import", "predict"])
def test_every_verb_has_an_example(verb: str) -> None:
    assert f"Example: recognizer {verb} " in run(verb, "--help").output


def test_help_is_quick_and_needs_no_torch() -> None:
    code = "import sys; from recognizer.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "assert not {'torch', 'omegaconf', 'pyarrow', 'cv2'} & set(sys.modules)"
    times = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.5


def test_corpora_may_be_named_among_the_settings(corpora: dict[str, Manifest], tmp_path: Path) -> None:
    real, made = corpora["real"].root, corpora["synthetic"].root
    words = ["loso", "model=lda", "--real", real, "--json"]
    one = run(*words, "--synthetic", made, "--out", tmp_path / "one")
    two = run(*words, f"data.synthetic=[{made}]", "mix.prior_weight=null", "--out", tmp_path / "two")
    assert one.exit_code == two.exit_code == 0, two.output
    assert json.loads(one.stdout)["config_hash"] == json.loads(two.stdout)["config_hash"]
    same = [(tmp_path / name / "predictions.parquet").read_bytes() for name in ("one", "two")]
    assert same[0] == same[1]
    assert "nowhere" in mistake(*words[:-1], "data.synthetic=[nowhere]", "--out", tmp_path / "three")


def test_loso_prints_writes_and_resumes(corpora: dict[str, Manifest], tmp_path: Path) -> None:
    command = [
        "loso",
        "--real",
        corpora["real"].root,
        "--synthetic",
        corpora["synthetic"].root,
        "--out",
        tmp_path / "r",
    ]
    first = run(*command)
    assert first.exit_code == 0, first.output
    assert "UF1" in first.output
    assert "synthetic training clips per fold: 240 to 240" in first.output
    assert "| UF1 |" in (tmp_path / "r" / "report.md").read_text()
    assert verify(tmp_path / "r").notes == ()
    again = run(*command, "--json")
    assert json.loads(again.stdout)["metrics"]["n"] == 48
    assert json.loads(again.stdout)["seconds"] == json.loads((tmp_path / "r" / "result.json").read_text())["seconds"]


def test_dry_run_checks_and_writes_nothing(corpora: dict[str, Manifest], tmp_path: Path) -> None:
    base = ["--real", corpora["real"].root, "--out", tmp_path / "no", "--dry-run", "--json"]
    facts = json.loads(run("loso", *base).stdout)
    assert (facts["folds"], facts["clips"], facts["synthetic_per_fold"]) == (8, 48, [0, 0])
    facts = json.loads(run("ablate", *base, "--synthetic", corpora["synthetic"].root, "ratios=[0,1]").stdout)
    assert facts["synthetic_per_fold"] == [42, 42]
    assert run("train", *base).exit_code == 0
    assert "needs 84 synthetic clips" in mistake(
        "ablate", *base, "--synthetic", corpora["synthetic"].root, "ratios=[6]", "models=[lda]"
    )
    assert not (tmp_path / "no").exists()


def test_ablate(corpora: dict[str, Manifest], tmp_path: Path) -> None:
    result = run(
        "ablate", "--real", corpora["real"].root, "--synthetic", corpora["synthetic"].root, "--out", tmp_path / "a",
        ROOT / "configs/ablation/quick.yaml", "models=[region_attention]", "ratios=[0,1]", "train.steps=5",
        "mix.pretrain_steps=5", "--json",
    )  # fmt: skip
    assert result.exit_code == 2, "prior_weight of the recipe has no effect without lda"
    assert "mix.prior_weight has no effect" in result.stderr
    result = run(
        "ablate", "--real", corpora["real"].root, "--synthetic", corpora["synthetic"].root, "--out", tmp_path / "a",
        "models=[lda]", "ratios=[0,1]", "seeds=[0]",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "1 comparison was made" in result.output
    assert re.search(r"\(p (\.\d{3}|1\.000|< \.001), Holm (\.\d{3}|1\.000|< \.001)\)", result.output)
    assert max(map(len, result.output.splitlines()[:8])) <= 80
    assert (tmp_path / "a" / "curve.png").stat().st_size > 10_000


@pytest.mark.parametrize("settings", [["model=lda"], ["model=region_attention", "train.steps=40", "seeds=[0,1]"]])
def test_train_then_predict(corpora: dict[str, Manifest], tmp_path: Path, settings: list[str]) -> None:
    saved, real = tmp_path / "model", corpora["real"].root
    trained = run("train", "--real", real, "--out", saved, *settings, "--json")
    assert trained.exit_code == 0, trained.output
    card = (saved / "README.md").read_text()
    assert "DB/00, DB/01" in card
    assert "48 real and 0 synthetic" in card
    assert run("train", "--real", real, "--out", saved, *settings).exit_code == 0

    fresh = write_corpus(tmp_path / "new", database="NEW", subjects=5, seed=9, size=96)
    result = run("predict", "--model", saved, "--manifest", fresh.root, "--out", tmp_path / "p", "--json")
    facts = json.loads(result.stdout)
    assert (facts["n"], facts["n_seen"]) == (30, 0)
    assert facts["metrics"]["uf1"] > 0.55
    table = pq.read_table(tmp_path / "p" / "predictions.parquet").to_pylist()
    assert sum(table[0][f"p_{c}"] for c in ("negative", "positive", "surprise")) == pytest.approx(1)

    own = run("predict", "--model", saved, "--manifest", real, "--out", tmp_path / "own")
    assert "48 of them show subjects the model learned from" in own.output
    assert "UF1" not in own.output


def test_mistakes_are_one_line_and_exit_code_two(corpora: dict[str, Manifest], tmp_path: Path) -> None:
    real, made, out = corpora["real"].root, corpora["synthetic"].root, tmp_path / "x"
    assert "no manifest.parquet in" in mistake("loso", "--real", tmp_path / "absent", "--out", out)
    assert "unknown key 'modle'; nearest: model" in mistake("loso", "--real", real, "--out", out, "modle=lda")
    assert "without effect" in mistake("loso", "--real", real, "--out", out, "mix.ratio=2").replace(
        "no effect", "without effect"
    )
    assert "pass --synthetic" in mistake("ablate", "--real", real, "--out", out)
    assert "are synthetic" in mistake("loso", "--real", made, "--out", out)
    assert "no recognizer in" in mistake("predict", "--model", out, "--manifest", real, "--out", tmp_path / "y")
    assert "check the path" in mistake("loso", "no.yaml", "--real", real, "--out", tmp_path / "z")
    full = tmp_path / "full"
    full.mkdir()
    (full / "a.txt").write_text("mine")
    assert "is not empty" in mistake("loso", "--real", real, "--out", full)


def test_a_leak_names_clip_and_subject(corpora: dict[str, Manifest], tmp_path: Path) -> None:
    leaky = write_corpus(
        tmp_path / "leaky", kind="synthetic", database="made", clips=12, subjects_seen=("DB/01",), generator="gan-7"
    )
    command = ["loso", "--real", corpora["real"].root, "--synthetic", leaky.root, "--out", tmp_path / "r"]
    line = mistake(*command)
    for word in ("made/00/synthetic0000/1", "gan-7", "DB/01"):
        assert word in line


@pytest.mark.parametrize(
    ("error", "code"), [(LeakError("a\nb"), 2), (Interrupted("stopped"), 130), (KeyboardInterrupt(), 130)]
)
def test_exit_codes(
    corpora: dict[str, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(protocol_run, "loso", fail)
    result = run("loso", "--real", corpora["real"].root, "--out", tmp_path / "r")
    assert result.exit_code == code
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_real_process(corpora: dict[str, Manifest], tmp_path: Path) -> None:
    command = ["loso", "--real", str(corpora["real"].root), "--out"]
    good = run(*command, tmp_path / "r", "--json")
    assert json.loads(good.stdout)["metrics"]["uf1"] > 0.6
    bad = warm.run("recognizer", *command, str(tmp_path / "r"), "seeds=[7]")
    assert bad.returncode == 2
    assert "Traceback" not in bad.stderr
    assert "holds another run" in bad.stderr


def test_ctrl_c_ends_a_training_at_once(corpora: dict[str, Manifest], tmp_path: Path) -> None:
    out = tmp_path / "r"
    settings = ["model=region_attention", "train.steps=20000"]
    process = warm.start("recognizer", "loso", "--real", str(corpora["real"].root), "--out", str(out), *settings)
    try:
        while not out.exists():
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        _, text = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in text
    assert "the same command goes on" in text


@pytest.mark.parametrize(
    ("verb", "settings", "words"),
    [
        ("loso", ["model=lda", "data.classes=[negative,positive,sleepy]"], "class sleepy has no test clip"),
        ("loso", ["model=lda", "protocol.kind=cde"], "needs at least two databases"),
        ("loso", ["model=lda", "protocol.kind=kfold", "protocol.groups=99"], "exceeds the 8 subjects"),
        ("loso", ["model=elrcn"], "has no frames"),
        ("ablate", ["models=[lda]", "data.classes=[negative,positive,sleepy]"], "class sleepy has no test clip"),
        ("ablate", ["models=[lda]", "counts=[9999]"], "needs 9999 synthetic clips"),
        ("train", ["model=lda", "mix.count=9999"], "needs 9999 synthetic clips"),
    ],
)
@pytest.mark.parametrize("before", ["nothing", "an empty folder"])
def test_a_refused_run_leaves_what_it_found(
    corpora: dict[str, Manifest], tmp_path: Path, verb: str, settings: list[str], words: str, before: str
) -> None:
    out = tmp_path / "runs" / "deep" / "out"
    if before != "nothing":
        out.mkdir(parents=True)
    with_made = verb != "loso"
    made = ["--synthetic", corpora["synthetic"].root] if with_made else []
    result = run(verb, "--real", corpora["real"].root, *made, *settings, "--out", out)
    assert result.exit_code == 2
    assert words in result.stderr
    assert [p.relative_to(tmp_path) for p in tmp_path.rglob("*")] == (
        [] if before == "nothing" else [Path("runs"), Path("runs/deep"), Path("runs/deep/out")]
    )


@pytest.mark.parametrize(("real", "words"), [(True, "learns from no real clip: the 48 given say where"), (False, "")])
def test_real_clips_that_are_not_learned_from_are_said(
    corpora: dict[str, Manifest], tmp_path: Path, real: bool, words: str
) -> None:
    given = ["--real", corpora["real"].root] if real else []
    command = ["train", "recognizer/shipped", *given, "--synthetic", corpora["synthetic"].root, "--out", tmp_path / "m"]
    planned, done = run(*command, "--dry-run"), run(*command)
    assert done.exit_code == planned.exit_code == 0, done.output
    for said in (planned.output, done.stderr):
        assert (words in said) if words else ("real clip" not in said)


@pytest.mark.parametrize("real", [True, False])
@pytest.mark.parametrize("model", ["lda", "svm"])
def test_what_is_advised_instead_of_pretraining_works(
    corpora: dict[str, Manifest], tmp_path: Path, real: bool, model: str
) -> None:
    given = ["--real", corpora["real"].root] if real else []
    command = ["train", *given, "--synthetic", corpora["synthetic"].root, f"model={model}", "--out", tmp_path / "m"]
    refused = run(*command, "mix.mode=pretrain")
    assert refused.exit_code == 2
    advice = refused.stderr.strip().rsplit("choose ", 1)[1]
    assert run(*command, advice).exit_code == 0


def test_pretraining_of_a_network_without_real_clips_is_told_what_works(
    corpora: dict[str, Manifest], tmp_path: Path
) -> None:
    command = [
        "train",
        "--synthetic",
        corpora["synthetic"].root,
        "model=offapex",
        "train.steps=2",
        "--out",
        tmp_path / "m",
    ]
    refused = run(*command, "mix.mode=pretrain")
    assert refused.exit_code == 2
    advice = refused.stderr.strip().rsplit("choose ", 1)[1]
    assert run(*command, advice).exit_code == 0


def test_a_prior_weight_without_real_clips_is_refused(corpora: dict[str, Manifest], tmp_path: Path) -> None:
    result = run(
        "train", "--synthetic", corpora["synthetic"].root, "model=lda", "mix.prior_weight=3", "--out", tmp_path / "m"
    )
    assert result.exit_code == 2
    assert "mix.prior_weight=3 weighs synthetic clips against real ones" in result.stderr


@pytest.mark.parametrize("modes", ["modes=[pretrain]", "mix.mode=pretrain"])
def test_an_ablation_is_advised_in_its_own_words(corpora: dict[str, Manifest], tmp_path: Path, modes: str) -> None:
    corpus = ["--real", corpora["real"].root, "--synthetic", corpora["synthetic"].root, "--out", tmp_path / "m"]
    result = run("ablate", *corpus, "models=[lda]", modes)
    assert result.exit_code == 2
    assert ("choose modes=[prior]" if modes.startswith("modes") else "an ablation reads 'modes'") in result.stderr


def test_an_ablation_says_what_folds_chose(corpora: dict[str, Manifest], tmp_path: Path) -> None:
    corpus = ["--real", corpora["real"].root, "--synthetic", corpora["synthetic"].root]
    result = run("ablate", *corpus, "models=[lda]", "counts=[20]", "seeds=[0,1]", "--out", tmp_path / "a")
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "a" / "result.json").read_text())
    none, added = found["summary"]
    assert none["prior_weights"] == []
    assert sum(n for _, n in added["prior_weights"]) == 2 * 8  # seeds x folds
    assert {value for value, _ in added["prior_weights"]} <= {0, 1, 3, 10, 30, 100, 300}
    per_seed = [row["prior_weights"] for row in found["rows"]]
    assert per_seed[:2] == ["", ""]
    assert all(text for text in per_seed[2:])
    assert "weight" in result.output
    page = (tmp_path / "a" / "ablation.html").read_text()
    assert '<th title="mix.prior_weight as folds chose it' in page
    again = run("ablate", *corpus, "models=[lda]", "counts=[20]", "seeds=[0,1]", "--out", tmp_path / "a", "--json")
    assert json.loads(again.output)["summary"][1]["prior_weights"] == added["prior_weights"]
    fixed = run(
        "ablate", *corpus, "models=[lda]", "counts=[20]", "seeds=[0]", "mix.prior_weight=3", "--out", tmp_path / "b"
    )
    assert "weight" not in fixed.output
