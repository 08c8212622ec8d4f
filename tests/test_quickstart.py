"""The whole road at its smallest: everything the page claims is there, twice the same, and resumable."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from mesynth import quickstart
from mesynth.core.errors import MesynthError
from mesynth.corpus.verify import verify
from mesynth.quickstart import Scale, generators, run
from mesynth.store.manifest import Manifest
from recognizer.trained import load, standing

TINY = Scale(
    subjects=4, clips=3, faces=4, synthetic=24, measured=4, steps=12, ratios=(0.0, 1.0), few_subjects=2,
    compared=2, asked=(12,), levels=(1.0,),
)  # fmt: skip

SHOWN = ("happiness", "disgust")
"""Emotions of the photo's clips."""


@pytest.fixture(autouse=True, scope="module")
def _few_clips_of_the_photo() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quickstart, "SHOW", SHOWN)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, few_steps: None) -> Path:
    return run(tmp_path_factory.mktemp("quick") / "start", scale=TINY)


@pytest.mark.slow
def test_page_is_self_contained_and_complete(finished: Path) -> None:
    page = finished.read_text()
    headings = (
        "One photo",
        "has seen nobody",
        "Generators beside",
        "embedded database",
        "synthetic corpus",
        "Quality",
        "Recognition",
    )
    for heading in (*headings, "A leak, refused"):
        assert heading in page
    assert page.count("data:image/gif;base64,") == len(SHOWN) * len(generators())
    assert page.count("data:image/png;base64,") >= 20
    assert not re.search(r'(?:src|href)="(?!data:)', page)  # nothing is fetched
    assert "<script" not in page


@pytest.mark.slow
def test_the_leak_is_refused_by_name(finished: Path) -> None:
    page = finished.read_text()
    refusal = page[page.index('class="refusal"') :].split("</pre>")[0]
    assert "rendered-0/sub01" in refusal
    assert "motion-prior" in refusal


@pytest.mark.slow
def test_database_and_corpus_share_nobody(finished: Path) -> None:
    real = Manifest.read(finished.parent / "real")
    synthetic = Manifest.read(finished.parent / "synthetic")
    assert set(real.column("provenance.kind")) == {"rendered"}
    assert set(synthetic.column("provenance.kind")) == {"synthetic"}
    seen = {subject for row in synthetic.subjects_seen() for subject in row}
    assert not seen & set(real.subject_keys())
    assert len(synthetic) == 24


@pytest.mark.slow
def test_results_lie_beside_the_page(finished: Path) -> None:
    assert (verify(finished.parent).kind, verify(finished.parent).problems) == ("quickstart", ())
    measures = json.loads((finished.parent / "measures" / "report.json").read_text())
    assert any(row["name"].startswith("KID") for row in measures["rows"])
    ablation = json.loads((finished.parent / "ablation" / "result.json").read_text())
    assert {s["ratio"] for s in ablation["summary"]} == {0.0, 1.0}
    assert {s["train_subjects"] for s in ablation["summary"]} == {0, 2}
    seconds = json.loads((finished.parent / "seconds.json").read_text())
    assert len(seconds) == 12
    for taken in seconds.values():
        assert set(taken) == {"wall", "processor"}
        assert 0 <= taken["wall"] < 3600
    assert sum(taken["processor"] for taken in seconds.values()) > 1


@pytest.mark.slow
def test_the_recognizer_that_ships_answers(finished: Path) -> None:
    page = finished.read_text()
    table = page[page.index("A recognizer that has seen nobody") : page.index("The intensity you ask for")]
    assert table.count("<tr>") == 1 + len(generators())
    answers = re.findall(r"<td>(?:negative|positive|surprise) [01]\.\d\d</td>", table)
    assert len(answers) == len(SHOWN) * len(generators())
    assert all(line in table for line in standing(load("shipped")))
    zero_shot = json.loads((finished.parent / "loso" / "shipped" / "result.json").read_text())
    assert {fold["real"] + fold["synthetic"] for fold in zero_shot["folds"]} == {0}
    assert zero_shot["metrics"]["n"] == len(Manifest.read(finished.parent / "real"))
    assert "shipped (zero-shot)" in page


@pytest.mark.slow
def test_the_same_command_resumes(finished: Path) -> None:
    before = (finished.parent / "synthetic" / "manifest.parquet").stat().st_mtime_ns
    (finished.parent / "report.html").unlink()
    assert run(finished.parent, scale=TINY).is_file()
    assert (finished.parent / "synthetic" / "manifest.parquet").stat().st_mtime_ns == before


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark")])
def test_page_in_a_browser(finished: Path, width: int, scheme: Literal["light", "dark"]) -> None:
    """Every picture loads, nothing is fetched, nothing sticks out, on a desk and on a phone."""
    from playwright.sync_api import sync_playwright

    requests: list[str] = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=_chromium(), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.on("request", lambda request: requests.append(request.url))
        page.goto(finished.as_uri())
        sizes = page.evaluate("[...document.images].map(i => i.complete ? i.naturalWidth : 0)")
        overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        cells = page.evaluate("[...document.querySelectorAll('td')].filter(c => !c.textContent.trim()).length")
        rows = page.evaluate("document.querySelectorAll('tr').length")
        browser.close()
    assert len(sizes) >= 24
    assert min(sizes) > 0
    assert overflow <= 0
    assert rows > 30
    assert cells < rows  # the odd empty cell is a figure without reference; empty columns are not
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []


def _chromium() -> str:
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    assert found, "no Chromium on this machine: install it, set CHROMIUM, or deselect with -m 'not browser'"
    return found


def test_one_generator_of_each_family_is_shown() -> None:
    assert generators()[0] == "motion-prior"
    assert {"landmark-mean", "motion_gan", "motion_diffusion"} <= set(generators())
    assert "motion_diffusion_fast" not in generators()


def test_mistakes_are_told_before_the_work_starts(tmp_path: Path) -> None:
    with pytest.raises(MesynthError, match="subjects=2 is too few"):
        Scale(subjects=2)
    with pytest.raises(MesynthError, match=r"me\.jpg does not exist"):
        run(tmp_path / "a", photo=tmp_path / "me.jpg")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "notes.txt").write_text("mine")
    with pytest.raises(MesynthError, match="is not empty"):
        run(tmp_path / "b")
