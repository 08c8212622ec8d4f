"""The study as one command: on the flow mimic for speed, and once on rendered people with everything (slow)."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result

import mesynth
import mesynth.cli
from mesynth import api
from mesynth.core.errors import LeakError, MesynthError, RunFolderError
from mesynth.corpus.verify import verify
from mesynth.datasets.registry import DATABASES
from mesynth.metrics.base import MeasureRow
from mesynth.metrics.report import ClipFigures, Comparison, MeasureReport, corpus_names
from mesynth.store.generator_folder import FAMILIES
from mesynth.store.manifest import Manifest
from recognizer import study_report
from recognizer.ablation_result import read_result
from recognizer.cli import main
from recognizer.data import FlowSet
from recognizer.models import HANDCRAFTED, MODELS, PUBLISHED
from recognizer.protocol import PROTOCOLS, ProtocolConfig, make_folds, mix
from recognizer.sources import as_flow_set
from recognizer.study import forecast, load_study, run_study
from recognizer.study_plan import StudyConfig, clips_asked, held_out_groups, plan
from tests import warm
from tests.recognizer.corpora import write_corpus

FLOW = [
    "generators=[flow-prior]", "recognizers=[lda]", "ratios=[0,1]", "seeds=[0]", "controls=[shuffled]", "resamples=200",
]  # fmt: skip


def on(real: Path | Manifest, *settings: str) -> StudyConfig:
    root = real.root if isinstance(real, Manifest) else real
    return load_study(None, [*FLOW, f"real=[{root}]", *settings])


def typed(*words: object) -> Result:
    return CliRunner().invoke(main, ["study", *map(str, words)])


@pytest.fixture(scope="module")
def finished(corpora: dict[str, Manifest], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of flow images, in a folder of its own database, whose ledger other tests do not write."""
    root = tmp_path_factory.mktemp("study")
    write_corpus(root / "real")
    out = root / "out"
    run_study(on(root / "real"), out)
    return out


# ---------------------------------------------------------------- what comes out


def page_text(out: Path) -> str:
    return (out / "report.html").read_text()


def test_the_first_sentence_and_every_number_are_the_ablations(finished: Path) -> None:
    found = json.loads((finished / "ablation" / "result.json").read_text())
    s = next(s for s in found["summary"] if s["arm"] == "synthetic")
    d = s["difference"]
    page = page_text(finished)
    first = re.search(r"<h1>(.*?)</h1>", page)
    assert first
    assert f"UF1 {d['value']:+.3f} [{d['low']:+.3f}, {d['high']:+.3f}], paired by subject." in first[1]
    word = {"gain": "help here", "loss": "harm here"}.get(s["verdict"].split()[0], "is not shown")
    assert word in first[1]
    assert page.count("<h1>") == 1
    tex = (finished / "tables" / "comparisons.tex").read_text()
    assert len([line for line in tex.splitlines() if line.startswith("lda")]) == found["comparisons"] == 2
    for one in found["summary"]:
        assert f"{one['uf1']['value']:.3f}" in (finished / "tables" / "conditions.tex").read_text()
        assert f"{one['uf1']['value']:.3f}" in page
        if one["difference"]:
            size = f"{one['difference']['value']:+.3f}".replace("-", "$-$")
            assert size in tex
            assert f"{one['uf1']['value'] - one['difference']['value']:.3f}" in tex


@pytest.mark.parametrize("order", [(3, 6, 0), (0, 3, 6), (6, 3)])
def test_all_real_subjects_answer_whatever_else_was_asked(finished: Path, order: tuple[int, ...]) -> None:
    result = read_result(finished / "ablation")
    rows = []
    for n in order:
        for s in result.summary:
            d = s.difference and replace(s.difference, value=0.1 * n, low=0.01 * n, high=0.2 * n)
            rows.append(replace(s, train_subjects=n, difference=d, verdict=s.verdict and "gain shown: x"))
    said = study_report.answer(replace(result, summary=tuple(rows)))
    if 0 in order:
        assert said == "Synthetic data help here: UF1 +0.000 [+0.000, +0.000], paired by subject."
    else:
        assert said.startswith(
            "Synthetic data help here: UF1 +0.600 [+0.060, +1.200] with 6 real subjects to learn from"
        )


@pytest.mark.parametrize(
    ("verdict", "words"),
    [("gain shown", "help here:"), ("loss shown", "harm here:"), ("no gain shown", "help here is not shown:")],
)
def test_the_answer_follows_the_verdict(finished: Path, verdict: str, words: str) -> None:
    result = read_result(finished / "ablation")
    rows = tuple(replace(s, verdict=s.verdict and f"{verdict}: x") for s in result.summary)
    assert words in study_report.answer(replace(result, summary=rows))


def test_the_methods_paragraph_says_what_reviewers_ask(finished: Path) -> None:
    text = (finished / "methods.md").read_text()
    real = Manifest.read(finished.parent / "real")
    for asked in (
        "48 clips of 8 subjects", "16 negative, 16 positive, 16 surprise",
        "protocol loso: 8 folds, each holding out 1 subject",
        "1 seed (0)", real.hash()[:12], "2 comparisons", "0 other configurations were finished", "(200 draws)",
        f"mesynth[@mesynth] {mesynth.__version__}", "flow prior learned from nobody", "controls: shuffled",
    ):  # fmt: skip
        assert asked in text, asked
    assert text.count("<<") == 0


def test_what_is_cited_is_in_the_bibliography_and_nothing_else(finished: Path) -> None:
    keys = set(re.findall(r"^@\w+\{(\w+),", (finished / "references.bib").read_text(), re.M))
    assert set(re.findall(r"\\cite\{(\w+)\}", (finished / "methods.tex").read_text())) == keys
    assert set(re.findall(r"\[@(\w+)\]", (finished / "methods.md").read_text())) == keys
    assert {"see2019megc", "mesynth"} <= keys


def columns(tabular: str) -> set[int]:
    """Cells of every row, by a LaTeX parser that knows groups and escapes."""
    from pylatexenc.latexwalker import LatexSpecialsNode, LatexWalker, get_default_latex_context_db

    nodes, _, _ = LatexWalker(
        tabular, tolerant_parsing=False, latex_context=get_default_latex_context_db()
    ).get_latex_nodes()
    table = next(n for n in nodes if getattr(n, "environmentname", "") == "table")
    inner = next(n for n in table.nodelist if getattr(n, "environmentname", "") == "tabular")
    spec = inner.nodeargd.argnlist[-1].latex_verbatim().strip("{}") if inner.nodeargd else ""
    counts, cells = set(), 1
    for node in inner.nodelist:
        if isinstance(node, LatexSpecialsNode) and node.specials_chars == "&":
            cells += 1
        elif getattr(node, "macroname", "") == "\\":
            counts.add(cells)
            cells = 1
    return counts | ({len(spec)} if spec else set())


@pytest.mark.parametrize("name", ["conditions", "comparisons", "generators"])
def test_tables_are_latex(finished: Path, name: str) -> None:
    tex = (finished / "tables" / f"{name}.tex").read_text()
    assert len(columns(tex)) == 1
    assert all(word in tex for word in (r"\toprule", r"\midrule", r"\bottomrule", r"\caption", r"\label"))


@pytest.mark.parametrize("text", ["a_b & 5 % {x} ~ $ # ^ \\", "[1, 2]", "-0.5", "p < .001"])
def test_any_text_stands_in_a_table(text: str, tmp_path: Path) -> None:
    tex = study_report.latex_table([text, "b"], [[text, "1.0"], ["[-1, 2]", "-2"]], text, "tab:x")
    assert columns(tex) == {2}
    compiled(tex, tmp_path)


def compiled(body: str, place: Path) -> None:
    if shutil.which("pdflatex") is None:
        return
    (place / "t.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n" + body + "\\end{document}"
    )
    run = subprocess.run(
        ["pdflatex", "-interaction=batchmode", "-halt-on-error", "t.tex"], cwd=place, timeout=60, check=False
    )
    assert run.returncode == 0, (place / "t.log").read_text()[-2000:]


def test_pdflatex_compiles_all_of_it(finished: Path, tmp_path: Path) -> None:
    tables = [file.read_text() for file in sorted((finished / "tables").glob("*.tex"))]
    assert len(tables) == 3
    compiled("\n".join([*tables, (finished / "methods.tex").read_text()]), tmp_path)


def test_figures_and_files_are_there_and_verify(finished: Path) -> None:
    assert (finished / "figures" / "amount.pdf").read_bytes().startswith(b"%PDF")
    assert "<svg" in (finished / "figures" / "amount.svg").read_text()
    for link in re.findall(r'<a href="([^"]+)"', page_text(finished)):
        assert (finished / link).is_file(), link
    checked = verify(finished)
    assert (checked.kind, checked.clean) == ("study", True), checked.problems


def test_commands_on_the_page_are_those_that_ran(finished: Path) -> None:
    """Typed by hand, each finds its folder finished: it is the same run."""
    steps = json.loads((finished / "steps.json").read_text())
    assert [step["state"] for step in steps.values()] == ["finished"] * 2
    before = {file: file.read_bytes() for file in finished.rglob("*") if file.is_file()}
    for step in steps.values():
        program, *words = shlex.split(step["command"])
        result = CliRunner().invoke({"mesynth": mesynth.cli.main, "recognizer": main}[program], words)
        assert result.exit_code == 0, (step["command"], result.output)
        assert step["command"] in page_text(finished).replace("&#39;", "'")
    assert {file: file.read_bytes() for file in before} == before


def test_the_same_command_finds_it_and_another_is_refused(finished: Path) -> None:
    real = finished.parent / "real"
    again = run_study(on(real), finished)
    assert again.answer in page_text(finished)
    assert again.ablation == read_result(finished / "ablation")
    with pytest.raises(RunFolderError, match="holds another run"):
        run_study(on(real, "resamples=300"), finished)
    assert load_study(finished / "study.yaml").plain() == on(real).plain()


# ---------------------------------------------------------------- mistakes


MISTAKES: dict[str, tuple[str, str]] = {
    "generatorz: [motion-prior]": ("unknown key 'generatorz'; nearest: generators", ""),
    "corpora: {clipz: 3}": ("unknown key 'corpora.clipz'; nearest: corpora.clips", ""),
    "generators: [motion_gun]": ("generators: model 'motion_gun' is unknown; choose from", ""),
    "generators: [gan/motion_64]": ("generators: gan/motion_64 learns from rendered people", ""),
    "generators: [gan/motion_64_manifest]": ("learns from frames, and", "has none; name flow-prior"),
    "generators: [motion-prior]\ncorpora: {faces: database}": (
        "corpora.faces=database shows the faces of",
        "no frames",
    ),
    "generators: []": ("generators is empty", ""),
    "generators: [flow-prior, flow-prior]": ("generators names flow-prior twice", ""),
    "recognizers: []": ("recognizers is empty; choose from lda", ""),
    "recognizers: [resnet]": ("recognizers: 'resnet' is unknown; choose from lda", ""),
    "ratios: [many]": ("ratios", "many"),
    "ratios: [-1]": ("must not be negative", "-1"),
    "ratios: much": ("is no list", "much"),
    "seeds: []": ("seeds=[]", "at least one"),
    "protocol: {kind: lopo}": ("protocol.kind='lopo' is unknown; choose from loso", ""),
    "protocol: {kind: cde}": ("cde needs at least two databases", ""),
    "controls: [placebo]": ("controls: 'placebo' is unknown", "shuffled"),
    "real: []\nembedded: {subjects: 0}": ("subjects=0 is outside 1..10000", ""),
    "real: []\nembedded: {size: 8}": ("size=8 is too small", ""),
    "real: []\nfine_tuning: {groups: 9}\ngenerators: [gan/motion_tiny_manifest]": (
        "fine_tuning.groups=9 is more than embedded.subjects=4",
        "",
    ),
    "corpora: {duration: [0.2, 2]}\ngenerators: [motion-prior]": ("corpora: ", "1/25 to 1/2 second"),
    "corpora: {size: 8}\ngenerators: [motion-prior]": ("corpora: size=8 px is outside", ""),
    "corpora: {noise: -1}\ngenerators: [motion-prior]": ("corpora: ", "noise"),
    "real: [nowhere]": ("no manifest.parquet in nowhere", ""),
    "measures: {clips: 2}": ("measures.clips=2 is too few", ""),
    "corpora: {faces: nobody, clips: 3}\ngenerators: [motion-prior]": ("corpora.faces=nobody is not there", "rendered"),
    "corpora: {duration: [0.3]}": ("corpora.duration=[0.3]", "from and to"),
    "svm: {c: 3}": ("svm.c has no effect: model lda does not read it", ""),
    "- a": ("holds a list", ""),
    "a: [": ("is no YAML", ""),
}


@pytest.mark.parametrize("text", MISTAKES, ids=[text.split("\n")[0] for text in MISTAKES])
@pytest.mark.parametrize("dry", [False, True], ids=["run", "dry"])
def test_a_mistake_is_one_line_and_leaves_nothing(
    text: str, dry: bool, corpora: dict[str, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "study.yaml"
    usual = {"real": [str(corpora["real"].root)], "recognizers": ["lda"], "generators": ["flow-prior"], "seeds": [0]}
    own = {line.partition(":")[0] for line in text.splitlines()}
    lines = [text, *(f"{key}: {json.dumps(value)}" for key, value in usual.items() if key not in own)]
    file.write_text(text if text[:2] in ("- ", "a:") else "\n".join(lines))
    result = typed(file, "--out", tmp_path / "out", *(["--dry-run"] if dry else []))
    said = [line for line in result.output.splitlines() if line.startswith("Error: ")]
    assert result.exit_code == 2, result.output
    assert len(said) == 1
    assert all(word in said[0] for word in MISTAKES[text]), said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["study.yaml"]


def test_counts_of_a_setting_replace_the_ratios_of_a_recipe() -> None:
    assert load_study("study/quick", ["counts=[5]"]).ablation.counts == (5,)
    assert load_study("study/quick", ["counts=[5]"]).plain().get("ratios") is None
    with pytest.raises(MesynthError, match="ratios has no effect: 'counts'"):
        load_study("study/quick", ["counts=[5]", "ratios=[1]"])


def test_across_databases_each_fold_has_a_table_row(tmp_path: Path) -> None:
    """Several real databases; folds that hold out a whole one."""
    roots = [write_corpus(tmp_path / name, subjects=3, database=name, seed=i).root for i, name in enumerate("AB")]
    config = load_study(None, [*FLOW, f"real=[{roots[0]},{roots[1]}]", "protocol.kind=hde", "controls=[]"])
    run_study(config, tmp_path / "out")
    tex = (tmp_path / "out" / "tables" / "folds.tex").read_text()
    assert r"A-$>$B" in tex
    assert columns(tex) == {6}
    compiled(tex, tmp_path)
    text = (tmp_path / "out" / "methods.md").read_text()
    assert "6 subjects of A, B" in text
    assert "protocol hde[@see2019megc]: 2 folds, each holding out 3 subjects" in text


@pytest.mark.parametrize("name", ["study/default", "study/quick"])
def test_shipped_studies_are_read_and_saved_alike(name: str, tmp_path: Path) -> None:
    config = load_study(name)
    (tmp_path / "again.yaml").write_text(study_report.yaml_text(config.plain()))
    assert load_study(tmp_path / "again.yaml").plain() == config.plain()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    result = typed(tmp_path / "none.yaml", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "cannot be read (no such file)" in result.output


# ---------------------------------------------------------------- leaks


def leaky(folder: Path, seen: tuple[str, ...]) -> Manifest:
    return write_corpus(folder, subjects=20, clips=12, kind="synthetic", database="made", seed=1, subjects_seen=seen,
                        generator="prior")  # fmt: skip


@pytest.mark.parametrize("more", [[], ["corpora.faces=database"]], ids=["raise", "also where folds pick"])
def test_a_corpus_whose_generator_saw_a_test_subject_is_refused(
    more: list[str], corpora: dict[str, Manifest], tmp_path: Path
) -> None:
    leaky(tmp_path / "leaky", ("DB/03",))
    with pytest.raises(LeakError, match="saw subject DB/03, whom fold DB/03 holds out"):
        run_study(on(corpora["real"], f"synthetic=[{tmp_path / 'leaky'}]", *more), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_corpora_that_are_there_take_part(corpora: dict[str, Manifest], tmp_path: Path) -> None:
    made = corpora["synthetic"].root
    ahead = plan(on(corpora["real"], "generators=[]", f"synthetic=[{made}]"), tmp_path / "out")
    assert ahead.corpora == (made,)
    assert [step.kind for step in ahead.steps] == ["ablate"]


# ---------------------------------------------------------------- folds, groups, amounts


@pytest.mark.parametrize("kind", PROTOCOLS)
@pytest.mark.parametrize("groups", [2, 3])
def test_every_fold_has_a_group_that_never_saw_whom_it_tests(kind: str, groups: int) -> None:
    people = [(f"d{d}", f"d{d}/s{s:02d}") for d in range(2) for s in range(4) for _ in range(3)]
    y = np.arange(len(people)) % 3
    real = FlowSet.of(np.random.default_rng(0).normal(size=(len(y), 3, 28, 28)), y, [s for _, s in people])
    real = replace(real, databases=np.array([d for d, _ in people]), subjects=np.array([s for _, s in people]))
    folds = make_folds(real, ProtocolConfig(kind=kind, groups=3))
    found = held_out_groups(folds, groups, 0)
    for fold in folds:
        assert sum(fold.held_out <= group for group in found) == 1
    if kind in ("loso", "cde", "lovo"):
        assert len(found) == groups
    assert sum(map(len, found)) == len(set().union(*found))


@pytest.mark.parametrize(("groups", "words"), [(9, "more than the 8 subjects"), (1, "choose at least 2")])
def test_groups_that_cannot_be_made_name_their_key(groups: int, words: str, corpora: dict[str, Manifest]) -> None:
    clips = as_flow_set([corpora["real"]], on(corpora["real"]).ablation, None, "")
    folds = make_folds(clips, ProtocolConfig(kind="loso"))
    with pytest.raises(MesynthError, match=rf"^fine_tuning\.groups={groups}: .*{words}"):
        held_out_groups(folds, groups, 0)


@pytest.mark.parametrize("balance", ["same", "class"])
@pytest.mark.parametrize("ratio", [0.5, 2])
def test_as_many_clips_as_the_largest_ratio_asks(balance: str, ratio: float, corpora: dict[str, Manifest]) -> None:
    config = on(corpora["real"], f"ratios=[0,{ratio}]", f"mix.balance={balance}").ablation
    clips = as_flow_set([corpora["real"]], config, None, "")
    folds = make_folds(clips, config.protocol)
    n = clips_asked(config, clips, folds, "rendered")
    made = FlowSet.of(
        np.zeros((n, 3, 28, 28)), np.arange(n) % 3, ["x"] * n, database="made", generator="g", subjects_seen=[()] * n
    )
    mix(clips, made, folds, ratio=ratio, balance=balance)  # PoolTooSmallError otherwise
    assert n <= 3 * (np.ceil(ratio * 16) + 1)
    shown = FlowSet.of(
        np.zeros((m := clips_asked(config, clips, folds, "database"), 3, 28, 28)), np.arange(m) % 3,
        [f"DB/{i // 3 % 8:02d}" for i in range(m)], database="made", generator="g", subjects_seen=[()] * m,
    )  # fmt: skip
    mix(clips, shown, folds, ratio=ratio, balance=balance, policy="zero-weight")


# ---------------------------------------------------------------- stopped and gone on with


def test_ctrl_c_in_a_step_goes_on_from_what_is_finished(
    corpora: dict[str, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, out = on(corpora["real"]), tmp_path / "out"
    made: list[Any] = []
    generate = api.generate
    monkeypatch.setattr(api, "generate", lambda *a, **k: made.append(k["out"]) or generate(*a, **k))
    from recognizer import ablation

    ablate = ablation.ablate

    def stopped(*args: Any, **more: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(ablation, "ablate", stopped)
    with pytest.raises(KeyboardInterrupt):
        run_study(config, out)
    states = {name: step["state"] for name, step in json.loads((out / "steps.json").read_text()).items()}
    assert states == {"corpora/flow-prior": "finished", "ablation": "interrupted"}
    monkeypatch.setattr(ablation, "ablate", ablate)
    told: list[str] = []
    run_study(config, out, say=told.append)
    assert len(made) == 1
    assert [line.split()[2:4] for line in told] == [["ablate", str(out / "ablation.yaml")]]
    assert verify(out).clean


def test_dry_run_lists_every_command_with_time_and_bytes_and_writes_nothing(
    corpora: dict[str, Manifest], tmp_path: Path
) -> None:
    found = forecast(on(corpora["real"]), tmp_path / "out")
    assert [one.step.kind for one in found] == ["generate", "ablate"]
    assert all(one.seconds and one.seconds > 0 for one in found)
    assert (found[0].bytes or 0) > 1000
    assert not (tmp_path / "out").exists()
    lines = study_report.expected_lines(found)
    assert lines[0].startswith("mesynth generate --kind flow")
    assert lines[-1].startswith("2 commands, about ")
    plain = study_report.expected_plain(found)
    assert plain["hours"] == pytest.approx(sum(one.seconds or 0 for one in found) / 3600)


# ---------------------------------------------------------------- references


def test_references_are_whole_and_asked_for_by_names_that_exist() -> None:
    needed = {
        "article": {"author", "title", "journal", "year"}, "misc": {"author", "title"},
        "inproceedings": {"author", "title", "booktitle", "year"},
    }  # fmt: skip
    names = {*DATABASES, *MODELS, *PROTOCOLS, *FAMILIES, "uf1", "fid", "kid", "lpips", "mesynth"}
    called: list[str] = []
    for key, entry in study_report.known_references().items():
        assert re.fullmatch(r"[a-z0-9]+", key)
        assert needed[entry["type"]] <= set(entry), key
        assert set(entry["for"]) <= names, key
        called += entry["for"]
        assert str(entry["title"]).count("{") == str(entry["title"]).count("}")
        assert str(entry.get("year", "")) == "" or str(entry["year"]) in key
    assert len(called) == len(set(called))
    assert {"casme", "casme2", "samm", "smic", "mmew", "4dme", "dfme", "casme3", "casme_sq", "meview"} <= set(called)
    assert {*PUBLISHED, *HANDCRAFTED} <= set(called)


# ---------------------------------------------------------------- all of it, on rendered people


TINY = [
    "embedded.subjects=4", "embedded.clips=3", "embedded.size=64", "embedded.fps=25", "corpora.people=2",
    "corpora.clips=15", "corpora.fps=25", "corpora.duration=[0.2,0.24]", "measures.clips=4", "seeds=[0]",
    "resamples=100",
]  # fmt: skip


def measured(real: Path, corpora: list[Path], out: Path, *, clips: int, **_: object) -> None:
    """What `mesynth measure` writes, of made-up figures: loading its networks takes longer than all the rest."""
    assert clips == 4
    reports = {}
    for i, name in enumerate(names := corpus_names(corpora)):
        rows = [
            MeasureRow(group="g", name="KID", key="kid", value=0.1 * i, low=0.05 * i, high=0.2 * i, headline=True),
            MeasureRow(group="g", name="LPIPS onset-apex", key="lpips_onset_apex", value=0.3, reference={"real": 0.25}),
            MeasureRow(group="g", name="shown nowhere", value=7.0),
            MeasureRow(group="g", name="FID", key="fid", value=None, note="not measured: no weights", headline=True),
        ]
        reports[name] = MeasureReport(rows=tuple(rows), corpora={}, settings={})
    made = {name: Manifest.read(folder) for name, folder in zip(names, corpora, strict=True)}
    nothing: dict[str, tuple[ClipFigures, ...]] = dict.fromkeys(names, ())
    Comparison(real=Manifest.read(real), synthetic=made, reports=reports, clips=nothing).write(out)
    (out / "report.html").write_text("measures")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MESYNTH_CACHE", str(place / "cache"))
        patch.setattr(api, "measure", measured)
        run_study(load_study("study/quick", TINY), place / "out")
    return place / "out"


@pytest.mark.slow
def test_fine_tuned_generators_know_nobody_whom_their_folds_test(whole: Path) -> None:
    prepared = Manifest.read(whole / "prepared")
    people = set(map(str, prepared.subject_keys()))
    generators = [whole / "generators" / "motion_tiny_manifest" / f"group-{g}" for g in range(2)]
    seen = [set(mesynth.load_generator(str(folder)).facts.subjects_seen) for folder in generators]
    config = load_study(whole / "study.yaml").ablation
    clips = as_flow_set([prepared], config, None, "")
    folds = make_folds(clips, config.protocol)
    groups = held_out_groups(folds, 2, 0)
    assert set().union(*groups) == people
    assert all(not (own & group) for own, group in zip(seen, groups, strict=True))
    made = as_flow_set(
        [Manifest.read(whole / "estimated" / "motion_tiny_manifest" / f"group-{g}") for g in range(2)], config, None, ""
    )
    mixture = mix(clips, made, folds, ratio=1, policy="zero-weight")
    for f, fold in enumerate(folds):
        assert not fold.held_out & set(mixture.subjects_seen(f))
        assert mixture.n_added[f] == len(fold.train_index)
    page = page_text(whole)
    assert "motion_tiny_manifest" in page
    for text in (page, tex := (whole / "tables" / "measures.tex").read_text()):
        assert "0 [0, 0]" in text  # the motion prior's
        assert "0.1 to 0.2" in text  # over the groups
        assert "0.25" in text  # of the real clips
        assert "not measured" in text
        assert "shown nowhere" not in text
    assert columns(tex) == {4}
    cited = set(re.findall(r"\{(\w+),\n", (whole / "references.bib").read_text()))
    assert {"binkowski2018kid", "zhang2018lpips"} <= cited
    assert "heusel2017fid" not in cited
    sources = {s.source for s in read_result(whole / "ablation").summary}
    assert {"all", "motion-prior", "motion_tiny_manifest"} <= sources


@pytest.mark.slow
def test_a_cross_fit_goes_on_into_a_study_and_one_of_its_generators_alone_is_refused(
    whole: Path, tmp_path: Path
) -> None:
    generators = whole / "generators" / "motion_tiny_manifest"
    alone = load_study("study/quick", [*TINY, f"real=[{whole / 'prepared'}]", f"generators=[{generators / 'group-0'}]"])
    with pytest.raises(LeakError, match=r"generator .*group-0 saw subject rendered-0/sub0\d, whom fold"):
        plan(alone, tmp_path / "a")
    runner = CliRunner()
    trained = runner.invoke(
        mesynth.cli.main,
        ["train", "gan/motion_tiny_manifest", f"data.manifests=[{whole / 'prepared'}]", "run.images=16",
         "run.validate_images=16", "run.checkpoint_images=16", "run.log_images=16", "--cross-fit", "2",
         "--workers", "1", "--cache", str(tmp_path / "c"), "--out", str(tmp_path / "crossed")],
    )  # fmt: skip
    assert trained.exit_code == 0, trained.output
    crossed = load_study("study/quick", [*TINY, f"real=[{whole / 'prepared'}]", f"generators=[{tmp_path / 'crossed'}]"])
    ahead = plan(crossed, tmp_path / "b")
    assert len(ahead.makers[0].groups) == 2
    assert ahead.ablation.mix.leak == "zero-weight"
    assert [step.kind for step in ahead.steps].count("train") == 0
    with pytest.raises(MesynthError, match="holds the generators of a cross-fit"):
        mesynth.load_generator(str(tmp_path / "crossed"))


@pytest.mark.slow
def test_commands_of_the_whole_study_are_those_that_ran(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESYNTH_CACHE", str(whole.parent / "cache"))
    for step in json.loads((whole / "steps.json").read_text()).values():
        program, *words = shlex.split(step["command"])
        if words[0] in ("measure", "ablate"):
            continue  # measures are made anew; the ablation is held by its test above
        result = CliRunner().invoke({"mesynth": mesynth.cli.main, "recognizer": main}[program], words)
        assert result.exit_code == 0, (step["command"], result.output)


@pytest.mark.slow
def test_a_study_killed_in_every_stage_goes_on(tmp_path: Path) -> None:
    write_corpus(tmp_path / "real")
    file = tmp_path / "study.yaml"
    recipe = {
        "real": [str(tmp_path / "real")], "generators": ["flow-prior"], "recognizers": ["lda"], "ratios": [0, 1, 2],
        "seeds": [0, 1], "controls": ["shuffled"], "corpora": {"clips": 300}, "resamples": 200,
    }  # fmt: skip
    file.write_text(yaml.safe_dump(recipe))
    steps = tmp_path / "out" / "steps.json"
    for stage in ("corpora/flow-prior", "ablation"):
        process = warm.start("recognizer", "study", str(file), "--out", str(tmp_path / "out"))
        while process.poll() is None:
            if steps.is_file() and json.loads(steps.read_text()).get(stage, {}).get("state") == "begun":
                break
            time.sleep(0.01)
        assert process.poll() is None, "it was over before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "out" / "study.json").exists()
    result = typed(file, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert verify(tmp_path / "out").clean
