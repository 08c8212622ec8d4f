import json
import os
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner

from mesynth.core.emotions import CLASSES_3
from mesynth.core.errors import ConfigError, LeakError, ManifestError, RunFolderError
from mesynth.core.statistics import Interval
from mesynth.corpus.verify import verify
from mesynth.store.digests import DigestError
from mesynth.store.manifest import Manifest
from recognizer import ablation_result, results
from recognizer.ablation import ablate, plan
from recognizer.ablation_page import page
from recognizer.ablation_result import Cell, CellRunner, conditions, grid, groups, read_cell, verdict, write_cell
from recognizer.cli import main
from recognizer.config import AblationConfig, load_config
from recognizer.data import FlowSet
from recognizer.protocol import PoolTooSmallError, make_folds
from recognizer.report import ablation_markdown, tally
from tests import warm
from tests.recognizer.corpora import write_corpus

ROOT = Path(__file__).parents[2]
SMALL = ["models=[lda]", "seeds=[0,1]", "ratios=[1,2]", "resamples=300"]
FILES = {
    "run.yaml", "config.yaml", "result.json", "curve.png", "predictions.parquet", "ablation.parquet",
    "ablation.jsonl", "ablation.html", "report.md", "SHA256SUMS",
}  # fmt: skip


def load(*settings: str) -> AblationConfig:
    return load_config(AblationConfig, None, [*SMALL, *settings])


@pytest.fixture(scope="module")
def two_databases(tmp_path_factory: pytest.TempPathFactory) -> list[Manifest]:
    root = tmp_path_factory.mktemp("databases")
    return [write_corpus(root / name, subjects=4, database=name, seed=i) for i, name in enumerate("AB")]


# ---------------------------------------------------------------- the grid


def test_counts_stand_where_ratios_do(corpora: dict[str, Manifest], tmp_path: Path) -> None:
    settings = ["models=[lda]", "seeds=[0,1]", "resamples=300", "counts=[40,10]", "controls=[shuffled,duplicates]"]
    config = load_config(AblationConfig, None, settings)
    assert [c.count for c in conditions(config, ["all"]) if c.arm == "synthetic"] == [10, 40]
    result = ablate(corpora["real"], corpora["synthetic"], config, out=tmp_path / "a")
    assert [(s.arm, s.amount_text) for s in result.summary[:3]] == [
        ("none", "x0"), ("synthetic", "10 a class"), ("synthetic", "40 a class"),
    ]  # fmt: skip
    assert {row["n_synthetic"] for row in result.rows if row["arm"] == "shuffled"} == {30, 120}
    assert result.config["counts"] == [10, 40]
    assert "ratios" not in result.config
    text = (tmp_path / "a" / "ablation.html").read_text()
    assert "added clips of each class" in text
    assert "40 a class, fixed before the results" in text
    assert "synthetic 40 a class" in (tmp_path / "a" / "report.md").read_text()
    assert ablate(corpora["real"], corpora["synthetic"], config, out=tmp_path / "a").summary == result.summary
    assert plan(corpora["real"], corpora["synthetic"], config)["counts"] == [10, 40]
    with pytest.raises(ConfigError, match="ratios has no effect: 'counts' says how many are added"):
        load_config(AblationConfig, None, [*settings, "ratios=[1]"])
    with pytest.raises(ConfigError, match=r"counts=\[0, 3\] must be positive"):
        load_config(AblationConfig, None, ["counts=[3,0]"])


def test_the_grid_holds_every_condition_once() -> None:
    config = load(
        "models=[lda,region_attention]", "modes=[pool,pretrain,synthetic-only]", "train_subjects=[2,0]",
        "controls=[shuffled,duplicates,mirror,synthetic-only]",
    )  # fmt: skip
    found = conditions(config, ["all", "a", "b"])
    assert len(set(found)) == len(found)
    assert not [c for c in found if c.model == "lda" and c.mode == "pretrain"]
    usual = 1 + 2 * (3 + 3 + 3 + 1 + 1)  # none; synthetic, shuffled, synthetic-only by source; two of own clips
    alone = 1 + 2 * (3 + 3 + 1)  # in synthetic-only, duplicates would be the baseline, and the arm is the mode
    lda, network = usual + alone, 2 * usual + alone
    assert len(found) == 2 * (lda + network)
    assert {c.source for c in found if c.arm in ("none", "duplicates", "mirror")} == {""}
    assert {c.source for c in found if c.arm in ("synthetic", "shuffled")} == {"all", "a", "b"}
    listed = grid(config, ["all", "a", "b"])
    assert [c.index for c in listed] == list(range(2 * len(found)))
    assert len({c.path(Path()) for c in listed}) == len(listed)


def test_a_mode_no_model_can_do_is_refused() -> None:
    with pytest.raises(ConfigError, match="pretrain is for networks"):
        load("modes=[pretrain]")
    with pytest.raises(ConfigError, match="'blend' is unknown; choose from pool"):
        load("modes=[blend]")
    with pytest.raises(ConfigError, match=r"mix.mode has no effect: an ablation reads 'modes'"):
        load("mix.mode=pool")
    with pytest.raises(ConfigError, match=r"mix\.fuse_weight has no effect"):
        load("mix.fuse_weight=0.3")
    assert load("modes=[fuse]", "mix.fuse_weight=0.3").mix.fuse_weight == 0.3
    with pytest.raises(ConfigError, match="robust divides the size of the motion out"):
        load("controls=[magnified]", "data.normalise=robust")


# ---------------------------------------------------------------- answers


def test_an_ablation_answers_with_controls(sets: dict[str, FlowSet]) -> None:
    names = ["shuffled", "duplicates", "synthetic-only", "mirror", "magnified", "augmented"]
    result = ablate(sets["real"], sets["synthetic"], load(f"controls=[{','.join(names)}]", "train_subjects=[2,0]"))
    assert len(result.summary) == 2 * (1 + 2 * 7)
    assert len(result.rows) == len(result.summary) * 2
    assert result.comparisons == 28
    at = {(s.train_subjects, s.arm, s.ratio): s for s in result.summary}
    assert at[0, "none", 0.0].difference is None
    for s in result.summary:
        assert s.uf1.low <= s.uf1.value <= s.uf1.high
        if s.difference:
            assert s.p_holm is not None
            assert s.p_holm >= s.difference.p
            base = at[s.train_subjects, "none", 0.0]
            assert s.uf1.value == pytest.approx(base.uf1.value + s.difference.value)
    counts = {(r["train_subjects"], r["arm"], r["ratio"]): (r["n_real"], r["n_synthetic"]) for r in result.rows}
    assert counts[0, "none", 0.0] == (42, 0)
    assert counts[0, "synthetic", 2.0] == (42, 84)
    assert counts[2, "duplicates", 1.0] == counts[2, "mirror", 1.0] == counts[2, "augmented", 1.0] == (12, 12)
    assert counts[0, "synthetic-only", 1.0] == (0, 42)
    assert result.curve.startswith(b"\x89PNG")


def test_clean_clips_help_where_real_subjects_are_few_and_their_labels_matter(sets: dict[str, FlowSet]) -> None:
    result = ablate(sets["real"], sets["synthetic"], load("ratios=[12]", "controls=[shuffled]", "train_subjects=[2]"))
    at = {s.arm: s for s in result.summary}
    assert at["synthetic"].verdict.startswith("gain shown: +")
    assert at["synthetic"].uf1.value > at["none"].uf1.value + 0.05
    assert at["shuffled"].uf1.value < at["none"].uf1.value
    assert tally(result) == "The comparison shows a gain from synthetic clips."


def test_duplicates_in_a_closed_form_model_are_no_gain_and_said_so(sets: dict[str, FlowSet]) -> None:
    result = ablate(sets["real"], sets["synthetic"], load("ratios=[1]", "controls=[duplicates]"))
    point = next(s for s in result.summary if s.arm == "duplicates")
    assert point.verdict == "no gain shown: +0.000 [+0.000, +0.000]"
    assert "no gain shown: +0.000" in ablation_markdown(result)


def test_an_ablation_that_cannot_show_anything_says_so(sets: dict[str, FlowSet]) -> None:
    few = sets["real"].take(np.isin(sets["real"].subjects, ["DB/00", "DB/01", "DB/02", "DB/03"]))
    result = ablate(few, sets["synthetic"], load("ratios=[2]"))
    # Of the 16 ways to swap four subjects' outcomes two are as extreme as the best: p cannot fall below 1/8.
    assert result.summary[1].p_holm is not None
    assert result.summary[1].p_holm >= 0.125
    assert "cannot fall below 0.12: nothing could have been shown" in page(result)
    assert "nothing could have been shown" in ablation_markdown(result)
    assert "nothing could" not in page(ablate(sets["real"], sets["synthetic"], load("ratios=[2]")))


def test_a_verdict_needs_interval_and_corrected_p() -> None:
    assert verdict(Interval(value=0.05, sd=0.01, low=0.03, high=0.07), 0.01).startswith("gain shown: +0.050")
    assert verdict(Interval(value=0.05, sd=0.01, low=0.03, high=0.07), 0.2).startswith("no gain shown")
    assert verdict(Interval(value=-0.05, sd=0.01, low=-0.07, high=-0.03), 0.01).startswith("loss shown: -0.050")
    assert verdict(Interval(value=-0.05, sd=0.01, low=-0.07, high=0.01), 0.01).startswith("no gain shown")


@pytest.mark.slow
def test_modes_of_a_network(sets: dict[str, FlowSet]) -> None:
    settings = [
        "models=[region_attention]", "modes=[pool,prior,pretrain,fuse,synthetic-only]", "seeds=[0]", "ratios=[0,1]",
        "train.steps=6", "mix.pretrain_steps=3", "train.batch=12", "protocol.kind=kfold", "protocol.groups=3",
    ]  # fmt: skip
    result = ablate(sets["real"], sets["synthetic"], load(*settings))
    at = {(s.mode, s.arm): s.uf1.value for s in result.summary}
    assert len(at) == 10
    # With one stage and no synthetic clip, pool and synthetic-only are the same training; fuse is an ensemble of two.
    assert at["pool", "none"] == at["synthetic-only", "none"]
    assert len({at["pool", "none"], at["prior", "none"], at["fuse", "none"]}) == 3
    assert all(at[mode, "none"] != at[mode, "synthetic"] for mode, _ in at)


def test_every_corpus_by_itself(corpora: dict[str, Manifest], tmp_path: Path) -> None:
    other = write_corpus(
        tmp_path / "other", subjects=12, clips=12, kind="synthetic", database="made2", seed=5, subjects_seen=(),
        shuffled=True,
    )  # fmt: skip
    both = [corpora["synthetic"], other]
    result = ablate(corpora["real"], both, load("ratios=[2]", "modes=[pool]", "per_source=true"))
    at = {(s.arm, s.source): s.uf1.value for s in result.summary}
    assert set(at) == {("none", ""), ("synthetic", "all"), ("synthetic", "synthetic"), ("synthetic", "other")}
    assert result.sources == {"all": 384, "synthetic": 240, "other": 144}
    assert at["synthetic", "synthetic"] > at["synthetic", "other"] + 0.1  # whose labels say nothing
    alone = ablate(corpora["real"], both[:1], load("ratios=[2]", "modes=[pool]"))
    assert alone.summary[1].uf1 == next(s for s in result.summary if s.source == "synthetic").uf1
    with pytest.raises(PoolTooSmallError, match=r"source other, x4: fold DB/00 needs .* may use 48"):
        ablate(corpora["real"], both, load("ratios=[4]", "per_source=true"))
    twin = tmp_path / "b" / "synthetic"
    shutil.copytree(other.root, twin)
    named = plan(corpora["real"], [corpora["synthetic"], twin], load("per_source=true"))["sources"]
    assert named == ["all", f"{corpora['synthetic'].root.parent.name}/synthetic", "b/synthetic"]


def test_from_database_to_database(two_databases: list[Manifest], corpora: dict[str, Manifest]) -> None:
    config = load("protocol.kind=hde", "ratios=[2]", "controls=[shuffled]", "modes=[pool]")
    result = ablate(two_databases, corpora["synthetic"], config)
    assert [(f.fold, f.arm) for f in result.by_fold] == [("A->B", "synthetic"), ("B->A", "synthetic")]
    for f in result.by_fold:
        assert f.difference.value == pytest.approx(f.uf1 - f.without)
        assert f.difference.low <= f.difference.value <= f.difference.high
    assert "A-&gt;B" in page(result)
    assert "| A->B |" in ablation_markdown(result)
    within = ablate(two_databases, corpora["synthetic"], load("protocol.kind=cde"))
    assert within.by_fold == ()
    with pytest.raises(ManifestError, match="at least two databases"):
        ablate(corpora["real"], corpora["synthetic"], config)


def test_a_leak_stops_it_before_anything_is_trained(
    corpora: dict[str, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaky = write_corpus(
        tmp_path / "leaky", kind="synthetic", database="leaky", clips=30, subjects_seen=("DB/06",), generator="gan"
    )

    def never(*_: object, **__: object) -> None:
        raise AssertionError("trained before the check")

    monkeypatch.setattr(ablation_result, "fit", never)
    for mode in ("pool", "prior", "fuse", "synthetic-only"):
        with pytest.raises(LeakError, match="saw subject DB/06"):
            ablate(corpora["real"], [corpora["synthetic"], leaky], load(f"modes=[{mode}]"))


def test_seeds_change_which_clips_are_drawn(sets: dict[str, FlowSet]) -> None:
    result = ablate(sets["real"], sets["synthetic"], load())
    values = [r["uf1"] for r in result.rows if r["ratio"] == 1]
    assert len(np.unique(values)) == 2


# ---------------------------------------------------------------- files, stops and processes


def test_files_and_resume(corpora: dict[str, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, fitted = tmp_path / "a", []
    config = load("controls=[shuffled]")
    real_fit = ablation_result.fit

    def stop_at_fourth(*args: object, **kwargs: object) -> object:
        fitted.append(1)
        if len(fitted) == 4:
            raise KeyboardInterrupt
        return real_fit(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(ablation_result, "fit", stop_at_fourth)
    with pytest.raises(KeyboardInterrupt):
        ablate(corpora["real"], corpora["synthetic"], config, out=out)
    assert len(list((out / "parts").iterdir())) == 6 + 2  # one group of ratios and seeds, two controls
    (out / "parts" / "00002-lda-prior-synthetic-x1-0-0.parquet").unlink()
    resumed = ablate(corpora["real"], corpora["synthetic"], config, out=out)
    assert len(fitted) == 4 + 1 + 2, "a finished control must not be trained again, a group with a gap must"
    assert {p.name for p in out.iterdir()} == FILES
    fresh = ablate(corpora["real"], corpora["synthetic"], config)
    assert resumed.rows == fresh.rows
    assert resumed.summary == fresh.summary
    rows = [json.loads(line) for line in (out / "ablation.jsonl").read_text().splitlines()]
    assert rows == list(fresh.rows) == pq.read_table(out / "ablation.parquet").to_pylist()
    trained = len(fitted)
    again = ablate(corpora["real"], corpora["synthetic"], config, out=out)
    assert len(fitted) == trained
    assert again == resumed
    with pytest.raises(RunFolderError, match="another run"):
        ablate(corpora["real"], corpora["synthetic"], load(), out=out)
    assert (verify(out).kind, verify(out).problems, verify(out).notes) == ("ablation", (), ())
    whole = (out / "result.json").read_text()
    (out / "result.json").write_text(whole.replace('"uf1": ', '"uf1":  ', 1))
    with pytest.raises(DigestError, match=r"result\.json is not the file that was written"):
        ablate(corpora["real"], corpora["synthetic"], config, out=out)
    (out / "result.json").write_text("{")
    with pytest.raises(RunFolderError, match="damaged result"):
        ablate(corpora["real"], corpora["synthetic"], config, out=out)


@pytest.mark.parametrize("mode", ["pool", "prior", "fuse"])
@pytest.mark.parametrize("model", ["lda", "ststnet"])
def test_a_cell_gives_the_same_alone_and_in_its_group(sets: dict[str, FlowSet], model: str, mode: str) -> None:
    quick = ["train.steps=6", "train.batch=8"] if model == "ststnet" else []
    quick += ["mix.pretrain_steps=4"] if quick and mode == "prior" else []
    split = ["protocol.kind=kfold", "protocol.groups=3"]
    config = load(f"models=[{model}]", f"modes=[{mode}]", "train_subjects=[2,0]", "controls=[shuffled]", *split, *quick)
    runner = CellRunner(config, sets["real"], {"all": sets["synthetic"]}, make_folds(sets["real"], config.protocol))
    found = groups(grid(config, ["all"]))
    assert [len(group) for group in found] == [6, 1, 1, 1, 1] * 2
    together = runner.run(found[5])
    for cell, result in zip(found[5], together, strict=True):
        alone = runner.run([cell])[0]
        assert (alone.n_real, alone.n_added) == (result.n_real, result.n_added)
        for name in alone.table.column_names:
            a, b = alone.table[name].to_pylist(), result.table[name].to_pylist()
            if name == "scores":
                np.testing.assert_allclose(np.array(a, float), np.array(b, float), atol=1e-4)
            elif name != "predicted":
                assert a == b, name


def test_the_page_gives_the_command_that_makes_it_again(corpora: dict[str, Manifest], tmp_path: Path) -> None:
    first = ablate(corpora["real"], corpora["synthetic"], load("ratios=[1]"), out=tmp_path / "a")
    assert first.command in (tmp_path / "a" / "ablation.html").read_text()
    words = first.command.split()
    assert words[:2] == ["recognizer", "ablate"]
    config = load_config(AblationConfig, words[2])
    again = ablate(words[4], words[6], config, out=words[8])
    assert again.rows == first.rows
    assert again.config_hash == first.config_hash


def test_a_damaged_cell_is_named(corpora: dict[str, Manifest], tmp_path: Path) -> None:
    config = load("ratios=[1]", "seeds=[0]")
    table = ablate(corpora["real"], corpora["synthetic"], config, out=tmp_path / "a")
    assert table.comparisons == 1
    stored = results.read_table(tmp_path / "a" / "predictions.parquet")
    path = Cell(0, conditions(config, ["all"])[0], 0).path(tmp_path)
    write_cell(ablation_result.CellResult(stored, 1.0, 2.0, 3.0), path)
    assert read_cell(path).n_added == 2.0
    results.write_table(stored.replace_schema_metadata(None), path)
    with pytest.raises(ManifestError, match=r"is no cell of an ablation; remove it"):
        read_cell(path)


def _words(corpora: dict[str, Manifest], out: Path, *settings: str) -> list[str]:
    paths = ["--real", str(corpora["real"].root), "--synthetic", str(corpora["synthetic"].root), "--out", str(out)]
    return ["ablate", *SMALL, "controls=[mirror]", *settings, *paths]


def _here(corpora: dict[str, Manifest], out: Path, *settings: str) -> str:
    """The same in this process, with as many threads: how members are stacked moves their last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        result = CliRunner().invoke(main, _words(corpora, out, *settings), catch_exceptions=False)
    finally:
        torch.set_num_threads(threads)
    assert result.exit_code == 0, result.output
    return result.output


def _start(corpora: dict[str, Manifest], out: Path, *settings: str, **environment: str) -> warm.Process:
    return warm.start("recognizer", *_words(corpora, out, *settings), **environment)


def _same(a: Path, b: Path) -> None:
    assert {p.name for p in a.iterdir()} == {p.name for p in b.iterdir()} == FILES
    for name in ("predictions.parquet", "ablation.parquet", "ablation.jsonl", "config.yaml"):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name


@pytest.mark.slow
def test_two_processes_do_the_work_of_one(
    corpora: dict[str, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _here(corpora, tmp_path / "one").count("4 comparisons were made") == 1
    # Two as a launcher starts them, which tells each its place by these variables; this process is the first.
    second = _start(corpora, tmp_path / "two", RANK="1", WORLD_SIZE="2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert _here(corpora, tmp_path / "two").count("4 comparisons were made") == 1
    output, errors = second.communicate(timeout=400)
    assert second.returncode == 0, errors
    assert output == "", "one process speaks for both"
    _same(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_killed_between_cells_it_goes_on(corpora: dict[str, Manifest], tmp_path: Path) -> None:
    network = [
        "models=[region_attention]", "train.steps=30", "mix.pretrain_steps=5", "train.batch=8", "ratios=[1]",
    ]  # fmt: skip
    process = _start(corpora, tmp_path / "killed", *network)
    parts = tmp_path / "killed" / "parts"
    deadline = time.monotonic() + 300
    while len(list(parts.glob("*.parquet"))) < 2:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    kept = {p.name: p.stat().st_mtime_ns for p in parts.glob("*.parquet")}
    assert 2 <= len(kept) < 6
    for name in ("whole", "killed"):
        _here(corpora, tmp_path / name, *network)
    _same(tmp_path / "whole", tmp_path / "killed")


def test_processes_need_a_folder(sets: dict[str, FlowSet], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ConfigError, match="2 processes share an ablation through its folder"):
        ablate(sets["real"], sets["synthetic"], load())


# ---------------------------------------------------------------- the page


@pytest.fixture(scope="module")
def page_file(corpora: dict[str, Manifest], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page") / "a"
    settings = load("modes=[pool,prior]", "controls=[shuffled,mirror]", "train_subjects=[2,0]", "seeds=[0]")
    ablate(corpora["real"], corpora["synthetic"], settings, out=folder)
    return folder / "ablation.html"


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (360, "dark")])
def test_page_in_a_browser(page_file: Path, width: int, scheme: Literal["light", "dark"]) -> None:
    """All curves are drawn, nothing is fetched, nothing sticks out, on a desk and on a phone."""
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    assert found, "no Chromium on this machine: install it, set CHROMIUM, or deselect with -m 'not browser'"
    requests: list[str] = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        tab.on("request", lambda request: requests.append(request.url))
        tab.goto(page_file.as_uri())
        folded = tab.evaluate("[...document.querySelectorAll('pre')].every(e => !e.checkVisibility())")
        tab.evaluate("for (const d of document.querySelectorAll('details')) d.open = true")
        ink, paper = tab.evaluate(
            "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
            ".map(c => c.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0))"
        )
        overflow = tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        curves = tab.evaluate("document.querySelectorAll('.panels:not(.persons) figure > svg').length")
        behind = [tab.locator(where).count() for where in (".persons figure > svg", "table.matrix")]
        sizes = tab.evaluate(
            "[...document.querySelectorAll('figure > svg text')]"
            ".map(t => parseFloat(getComputedStyle(t).fontSize) * t.getScreenCTM().a)"
        )
        first = tab.evaluate("document.querySelector('h2').textContent")
        text = tab.evaluate("document.body.innerText")
        browser.close()
    assert overflow <= 0
    assert curves == 4 + 2
    assert behind == [4, 8]  # of each headline comparison: its people, and confusions without and with
    assert folded, "settings and command are folded away"
    assert abs(ink - paper) > 500
    assert (paper > ink) == (scheme == "light")
    assert min(sizes) >= 9.5, "labels of curves must be legible"
    assert first == "Verdicts"
    assert "NaN" not in text
    assert len([url for url in requests if not url.startswith("data:")]) == 1


@pytest.mark.slow
def test_confusions_and_people_are_those_of_the_predictions(page_file: Path) -> None:
    """Counted again from predictions.parquet, as the page shows them."""
    text = page_file.read_text()
    table = pq.read_table(page_file.parent / "predictions.parquet").to_pylist()
    none = [row for row in table if row["arm"] == "none" and row["train_subjects"] == 0 and row["mode"] == "pool"]
    names = sorted({row["subject"] for row in none})
    shares = {n: [r["y"] == r["predicted"] for r in none if r["subject"] == n] for n in names}
    for name, right in shares.items():
        assert f"<td>{name}</td><td>{len(right)}</td><td>{np.mean(right):.2f}</td>" in text
    for truth in range(3):
        row = [sum(r["y"] == truth and r["predicted"] == answer for r in none) for answer in range(3)]
        cells = "".join(rf"<td[^>]*>{round(100 * n / sum(row))}&nbsp;%<small>{n}</small></td>" for n in row)
        assert re.search(rf"<th>{CLASSES_3[truth]}</th>{cells}", text)
