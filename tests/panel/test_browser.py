"""A coder at work in Chromium, from a folder: play, step, code, come back, save; then the answers are counted."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mesynth.cli import main
from tests.panel.conftest import Panel

pytestmark = pytest.mark.browser


def chromium() -> str:
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    assert found, "no Chromium on this machine: install it, set CHROMIUM, or deselect with -m 'not browser'"
    return found


def saved(page: Any, folder: Path) -> dict[str, Any]:
    with page.expect_download() as waiting:
        page.click("#save")
    path = folder / waiting.value.suggested_filename
    waiting.value.save_as(path)
    data: dict[str, Any] = json.loads(path.read_text())
    return data


def frame(page: Any) -> str:
    return str(page.inner_text("#time")).partition(" · ")[0]


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_a_coder_codes_a_clip(panel: Panel, tmp_path: Path, width: int, scheme: Any) -> None:
    from playwright.sync_api import sync_playwright

    asked: list[str] = []
    wrong: list[str] = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto((panel.folder / "for-coders" / "index.html").as_uri())
        page.click("#begin")
        assert "Give a name" in page.inner_text("#startProblem")
        page.fill("#name", "coder 1")
        page.press("#name", "Enter")
        page.wait_for_function("document.getElementById('video').readyState > 2")
        assert page.inner_text("#where").lower().startswith("practice 1 of 3")

        # It moves at three speeds, and goes frame by frame, where the file says.
        for key, rate in (("k", 0.25), ("l", 0.125), ("j", 1)):
            page.keyboard.press(key)
            assert page.evaluate("document.getElementById('video').playbackRate") == rate
        page.keyboard.press("Home")
        page.wait_for_function("!document.getElementById('video').seeking")
        assert frame(page) == "Frame 1 of 10"
        for number in (2, 3, 4):
            page.keyboard.press("ArrowRight")
            page.wait_for_function("!document.getElementById('video').seeking")
            assert frame(page) == f"Frame {number} of 10"
            shown = page.evaluate("Math.floor(document.getElementById('video').currentTime * 50)")
            assert shown == number - 1
        page.keyboard.press("ArrowLeft")
        assert frame(page) == "Frame 3 of 10"

        # Nothing goes on before all is answered; then a clip is coded by mouse, by keys and by codes.
        page.click("#next")
        assert page.inner_text("#open") == "Still open: action units, naturalness, filmed or made."
        page.click("[data-au='12']")
        page.click("#coded li >> text=/^L$/")
        page.click("#coded li >> text=/^D$/")
        page.evaluate("document.activeElement.blur()")
        page.keyboard.press("a")
        page.fill("#typed", "R4b 25L 1")
        page.press("#typed", "Enter")
        assert "Not taken: 25L." in page.inner_text("#typedProblem")
        page.click("[data-natural='5']")
        page.click("[data-verdict='synthetic']")
        item = {
            "aus": [
                {"au": 12, "side": "L", "intensity": "D", "onset": None, "apex": 2, "offset": None},
                {"au": 4, "side": "R", "intensity": "B", "onset": None, "apex": None, "offset": None},
                {"au": 1, "side": "B", "intensity": None, "onset": None, "apex": None, "offset": None},
            ],
            "naturalness": 5, "verdict": "synthetic",
        }  # fmt: skip
        data = saved(page, tmp_path)
        assert (data["coder"], data["panel"], len(data["items"])) == ("coder 1", panel.key["panel"], 1)
        (name,) = data["items"]
        assert panel.key["items"][name]["role"] == "practice"
        assert {k: v for k, v in data["items"][name].items() if k != "seconds"} == item

        # Every unit says what it looks like; nothing sticks out, and text can be read.
        assert page.locator("[data-au]").count() == 25
        for unit in page.locator("[data-au]").all():
            assert len(unit.get_attribute("aria-description")) > 25
        page.hover("[data-au='9']")
        assert page.inner_text("#tip").startswith("AU 9: nose wrinkler")
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        ink, paper = page.evaluate(
            "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
            ".map(c => c.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0))"
        )
        assert abs(ink - paper) > 500
        assert (paper > ink) == (scheme == "light")

        # Closed and opened again, it goes on where it was.
        page.click("#next")
        assert page.inner_text("#where").lower().startswith("practice 2 of 3")
        page.keyboard.press("n")
        page.keyboard.press("3")
        page.keyboard.press("r")
        page.close()
        page = context.new_page()
        page.goto((panel.folder / "for-coders" / "index.html").as_uri())
        for _ in range(5):  # on a busy machine another process of Chromium's may not yet see what this one's kept
            if page.inner_text("#where"):
                break
            page.wait_for_timeout(500)
            page.reload()
        assert page.inner_text("#where").lower().startswith("practice 2 of 3")
        assert page.get_attribute("[data-natural='3']", "aria-pressed") == "true"
        page.click("#previous")
        assert page.locator("#coded li").count() == 3

        # To the end, leaving clips open or coding them.
        page.click("#next")
        for number in range(24):
            if number % 2:
                page.keyboard.press("n")
                page.keyboard.press("6")
                page.keyboard.press("s")
                page.keyboard.press("Enter")
            else:
                page.click("#skip" if number else "#next")
        assert not page.is_hidden("#done")
        assert page.inner_text("#doneTitle") == "Thank you, coder 1"
        with page.expect_download() as waiting:
            page.click("#saveDone")
        path = tmp_path / waiting.value.suggested_filename
        assert path.name == "answers-coder-1.json"
        waiting.value.save_as(path)
        browser.close()
    assert wrong == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    ask = ["panel", "--collect", str(panel.folder), str(path), "--out", str(tmp_path / "r"), "--json"]
    done = CliRunner().invoke(main, ask)
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    order = [n for n in json.loads(path.read_text())["items"] if panel.key["items"][n]["role"] == "clip"]
    assert result["coders"][0]["clips"] == sum(
        json.loads(path.read_text())["items"][n]["aus"] is not None for n in order
    )
    assert result["coders"][0]["clips"] > 3


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (390, "light")])
def test_the_results_can_be_read_anywhere(panel: Panel, tmp_path: Path, width: int, scheme: Any) -> None:
    from playwright.sync_api import sync_playwright

    from mesynth.panel.collect import collect, read_all
    from tests.panel.corpora import answers, save

    files = read_all([save(tmp_path, answers(panel.key, name)) for name in ("anna", "ben", "chris")], panel.key)
    collect(panel.key, files).write(tmp_path, files, panel.key)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
        page.goto((tmp_path / "panel.html").as_uri())
        page.evaluate("for (const d of document.querySelectorAll('details')) d.open = true")
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        assert page.locator(".dots .dot").count() == 3
        assert page.evaluate("document.querySelector('.lead').getBoundingClientRect().bottom") < 844
        outside = page.evaluate(
            "[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll') &&"
            " e.getBoundingClientRect().right > innerWidth + 1).length"
        )
        assert outside == 0
        browser.close()
