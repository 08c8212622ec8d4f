"""The quality page and the files beside it: several corpora in columns, in a real browser on a phone and on a desk."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from mesynth.core.errors import ConfigError
from mesynth.metrics import page
from mesynth.metrics.base import MeasureConfig
from mesynth.metrics.measure import measure, measure_all
from mesynth.metrics.report import CLIP_COLUMNS, CSV_COLUMNS, FORMAT, Comparison, corpus_names
from mesynth.store.manifest import Manifest

pytestmark = pytest.mark.usefixtures("flows_once")
CONFIG = MeasureConfig(clips=8, identity_clips=4)
Corpora = tuple[Manifest, Manifest]


@pytest.fixture(scope="module")
def found(corpora: Corpora) -> Comparison:
    """Two corpora: all synthetic clips, and those of two people; the second's first clip has lost its flow."""
    real, synthetic = corpora
    some = [row for row in synthetic if int(row.subject) % 2 == 0]
    some[0] = replace(some[0], flow=None)
    fewer = Manifest.from_rows(some, synthetic.root)
    return measure_all(real, {"whole": synthetic, "<fewer>": fewer}, CONFIG)


@pytest.fixture(scope="module")
def folder(found: Comparison, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page")
    page.write_page(found, out, command="mesynth measure --real r --synthetic s --out 'o & o'")
    return out


def test_a_corpus_has_the_figures_it_has_alone(found: Comparison, corpora: Corpora) -> None:
    alone = measure(*corpora, CONFIG)
    assert found.reports["whole"].rows == alone.rows
    assert found.reports["whole"].corpora == alone.corpora
    assert found.reports["<fewer>"].rows != alone.rows


def test_one_corpus_keeps_its_report_and_gains_the_tables(whole: Comparison, tmp_path: Path) -> None:
    one = whole
    report = one.reports["c"]
    assert one.to_dict() == report.to_dict()
    assert set(one.to_dict()) == {"rows", "corpora", "settings", "notes", "seconds", "plots"}
    assert one.to_markdown() == report.to_markdown()
    names = {f.name for f in one.write(tmp_path)}
    assert {"report.json", "report.md", "measures.csv", "clips.csv", "flow.png"} <= names
    # Its own training set: every clip is its own nearest neighbour.
    assert all(c.nearest == c.clip_id for c in one.clips["c"])
    text = page.page(one)
    assert "How good is c?" in text
    assert "yes: more are near than chance explains" in text
    assert "Nearest training clips" in text


def test_files_of_several_corpora(found: Comparison, tmp_path: Path) -> None:
    files = found.write(tmp_path)
    assert all(f.is_file() for f in files)
    whole = json.loads((tmp_path / "report.json").read_text())
    assert whole["format"] == FORMAT
    alone = json.loads((tmp_path / "whole" / "report.json").read_text())
    assert whole["corpora"]["whole"] | {"digests": alone["digests"]} == alone
    lines = list(csv.DictReader((tmp_path / "measures.csv").open()))
    assert tuple(lines[0]) == CSV_COLUMNS
    assert len(lines) == sum(len(r.rows) for r in found.reports.values())
    kid = next(line for line in lines if line["corpus"] == "whole" and line["key"] == "kid")
    assert float(kid["value"]) == found.reports["whole"].row(kid["key"]).value
    clips = list(csv.DictReader((tmp_path / "clips.csv").open()))
    assert tuple(clips[0]) == CLIP_COLUMNS
    assert {c["clip_id"] for c in clips} <= {*found.synthetic["whole"].column("clip_id")}
    assert sum(bool(c["identity_distance"]) for c in clips if c["corpus"] == "whole") == CONFIG.identity_clips
    assert "| whole | <fewer> |" in (tmp_path / "report.md").read_text()
    assert found.table().row_count > 8


def test_the_page_says_everything_in_order(folder: Path, found: Comparison) -> None:
    text = (folder / "report.html").read_text()
    heads = re.findall(r"<h2>(.*?)</h2>|<summary>([^<]+)<small>", text)
    assert [a or b for a, b in heads] == [
        "Clips", "Best and worst clips", "One action unit, weak to strong", "Nearest real clips", "Figures", "Plots",
        "How this was made, and again",
    ]  # fmt: skip
    lead = re.findall(r'<p class="lead">(.*?)</p>', text)
    for name, said in zip(("whole", "&lt;fewer&gt;"), lead, strict=True):  # the answer comes first, a line a corpus
        assert re.match(rf"{name}: \d of 7 questions come out well, \d badly", said)
    assert text.index(lead[-1]) < text.index("Are action units as strong") < text.index("<h2>Clips")
    assert len(text) < page.LIMIT
    assert "<script" not in text
    assert not re.findall(r"""(?:src|href|srcset)=["'](?!data:)""", text)
    assert "<fewer>" not in text  # a folder may be called anything
    assert "&lt;fewer&gt;" in text
    assert "o &amp; o" in text
    for report in found.reports.values():
        assert report.corpora["synthetic"]["hash"] in text
        assert all(row.name in text.replace("&amp;", "&") for row in report.rows if row.headline)
    assert "STAlexNet was used instead" in text
    assert "no flow" in text  # the clip without one is shown all the same
    assert "Left out: no face of this corpus shows an action unit alone" in text


def test_pages_shrink_until_they_fit(found: Comparison, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = page.page(found)
    monkeypatch.setattr(page, "LIMIT", len(whole) - 1)
    assert len(page.page(found)) < len(whole)


def test_clips_that_cannot_be_shown_are_listed(found: Comparison, tmp_path: Path) -> None:
    gone = Manifest(found.synthetic["whole"].table, tmp_path)
    text = page.page(replace(found, synthetic={**found.synthetic, "whole": gone}))
    assert "no picture of synthetic" in text
    assert "is missing" in text


def test_names_tell_folders_apart(tmp_path: Path) -> None:
    assert corpus_names([tmp_path / "a" / "c", tmp_path / "b" / "c"]) == ["a-c", "b-c"]
    assert corpus_names([tmp_path / "x"]) == ["x"]
    assert corpus_names([tmp_path / "c", tmp_path / "c" / "c"])[1] == "c-c"
    assert len(set(corpus_names([tmp_path / "a" / "b-c", tmp_path / "a-b" / "c", tmp_path / "c"]))) == 3
    with pytest.raises(ConfigError, match="given twice"):
        corpus_names([tmp_path / "x", tmp_path / "y" / ".." / "x"])


def test_no_corpus_is_refused(corpora: Corpora) -> None:
    with pytest.raises(ConfigError, match="at least one"):
        measure_all(corpora[0], {})


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1200, "light")])
def test_page_in_a_browser(folder: Path, width: int, scheme: Literal["light", "dark"]) -> None:
    """Every picture loads, nothing is fetched, nothing sticks out, text stands out by day and night."""
    from playwright.sync_api import sync_playwright

    requests: list[str] = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=_chromium(), args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        tab.on("request", lambda request: requests.append(request.url))
        tab.goto((folder / "report.html").as_uri())
        height = tab.evaluate("document.documentElement.scrollHeight")
        tab.evaluate("for (const d of document.querySelectorAll('details')) d.open = true")
        sizes = tab.evaluate("[...document.images].map(i => i.complete ? i.naturalWidth : 0)")
        overflow = tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        outside = tab.evaluate(
            "[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll') &&"
            " e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
        )
        colours = tab.evaluate(
            "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
        )
        verdicts = tab.evaluate("document.querySelectorAll('.cards li').length")
        top = tab.evaluate("document.querySelector('.cards').getBoundingClientRect().top")
        browser.close()
    assert len(sizes) > 40
    assert min(sizes) > 0
    assert overflow <= 0
    assert outside == []
    assert verdicts == 14  # seven questions, two corpora
    assert top < 900  # verdicts come first
    ink, paper = (sum(map(int, re.findall(r"\d+", c)[:3])) for c in colours)
    assert (ink < 150 < 700 < paper) if scheme == "light" else (paper < 150 < 600 < ink)
    assert height < {360: 13_500, 1200: 6_150}[width]  # half of what it was with everything open
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []


def _chromium() -> str:
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    assert found, "no Chromium on this machine: install it, set CHROMIUM, or deselect with -m 'not browser'"
    return found


def test_the_command_writes_the_page_and_tells_mistakes(corpora: Corpora, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from mesynth.cli import main
    from mesynth.store.run_folder import only_writer

    ask = ["measure", "--real", str(corpora[0].root), "--synthetic", str(corpora[1].root), "--clips", "4"]
    runner, out = CliRunner(), tmp_path / "quality"
    done = runner.invoke(main, [*ask, "--json", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["corpora"]["real"]["measured"] == 4
    assert "How good is synthetic?" in (out / "report.html").read_text()
    assert not list(out.glob(".*"))
    with only_writer(out):
        second = runner.invoke(main, [*ask, "--out", str(out)])
    assert second.exit_code == 2
    assert "being written by another process" in second.output
    (tmp_path / "file").write_text("")
    assert "is a file" in runner.invoke(main, [*ask, "--out", str(tmp_path / "file")]).output
    twice = runner.invoke(main, [*ask, "--synthetic", str(corpora[1].root), "--out", str(out)])
    assert "given twice" in twice.output
