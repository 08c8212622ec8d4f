"""The page: who may see it and what it gives away, and that it works in a real browser on a desk and on a phone."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image
from skimage import data

from mesynth.cli import main
from mesynth.core.errors import ConfigError
from tests.recognizer.corpora import write_corpus

# Not importorskip: every process that collects tests would load it.
pytestmark = pytest.mark.skipif(find_spec("gradio") is None, reason="the extra studio is not installed")
SAMPLES = Path(__file__).parents[2] / "samples" / "corpus"


# ---------------------------------------------------------------- the verb


def test_help_does_not_load_gradio() -> None:
    code = (
        "import sys\nfrom mesynth.cli import main\nmain(['studio', '--help'], standalone_mode=False)\n"
        "sys.exit(bool({'gradio', 'fastapi', 'numpy', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--port" in done.stdout


def one_line(*args: object) -> str:
    done = CliRunner().invoke(main, ["studio", "--no-browser", *map(str, args)])
    assert done.exit_code == 2, done.output
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


def test_mistakes_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        assert f"port {port} is taken; choose another with --port" in one_line("--out", tmp_path / "a", "--port", port)
    for port in (-1, 70_000):
        assert f"port {port} is none" in one_line("--out", tmp_path / "a", "--port", port)
    assert "no manifest.parquet in" in one_line(tmp_path, "--out", tmp_path / "a", "--port", 0)
    (tmp_path / "file").write_text("x")
    assert "file" in one_line("--out", tmp_path / "file" / "x", "--port", 0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]  # nothing was begun
    monkeypatch.setitem(sys.modules, "mesynth.studio.page", None)
    monkeypatch.delitem(sys.modules, "mesynth.studio.page")
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert 'needs gradio, which is not installed: pip install "mesynth[studio]"' in one_line("--port", 0)


# ---------------------------------------------------------------- what stands between the page and the functions


def test_a_mistake_is_a_message_and_a_fault_is_not_hidden() -> None:
    from mesynth.studio.page import guarded

    def raises(error: Exception) -> Any:
        def handler(*_: object) -> Any:
            raise error

        def steps(*_: object) -> Iterator[Any]:
            yield "first"
            raise error

        return guarded(1, handler), guarded(1, steps)

    for error in (ConfigError("no <b>face</b>"), OSError(errno.ENOSPC, "No space left", "a/b")):
        plain, stepped = raises(error)
        assert 'role="alert"' in plain()
        assert "<b>" not in plain()
        first, last = list(stepped())
        assert (first, last) == ("first", plain())
    for fault in (KeyError("x"), ValueError("x"), RuntimeError("x"), ZeroDivisionError()):
        plain, stepped = raises(fault)
        with pytest.raises(type(fault)):
            plain()
        with pytest.raises(type(fault)):
            list(stepped())


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [("photo", "", "no face is chosen"), ("aus", "", "no action unit"), ("seed", None, "seed is empty"),
     ("head_motion", None, "head motion is empty")],
)  # fmt: skip
def test_what_is_left_empty_is_told(name: str, value: object, says: str) -> None:
    from mesynth.studio.page import _WISHED, wish_of

    full: dict[str, Any] = {
        "photo": "a.png", "which": 2, "anyway": False, "aus": "12=1", "onset": 0, "apex": 100, "hold": 0, "offset": 200,
        "decay": "cosine", "model": "motion-prior", "size": 128.0, "fps": 200, "noise": 0, "head_motion": 0, "blink": 0,
        "style": 0, "seed": 3.0,
    }  # fmt: skip
    wish = wish_of(*(full[key] for key in _WISHED))
    assert (wish.which, wish.size, wish.seed, wish.duration) == ("2", 128, 3, 0.2)
    with pytest.raises(ConfigError, match=says):
        wish_of(*((full | {name: value})[key] for key in _WISHED))


def test_the_curve_keeps_its_grips_where_there_is_no_clip() -> None:
    from mesynth.studio.face import Wish
    from mesynth.studio.view import curve_svg

    drawn = curve_svg(Wish(photo=Path("-"), aus=""))
    assert drawn.count('class="grip"') == 3
    assert "polyline" in drawn
    impossible = curve_svg(Wish(photo=Path("-"), aus="", apex=400.0))
    assert impossible.count('class="grip"') == 3
    assert "apex 400" in impossible
    assert "polyline" not in impossible


def test_every_action_unit_has_a_row() -> None:
    from mesynth.core import facs
    from mesynth.studio.view import board

    shown = board()
    for code in facs.AU_CODES:
        assert shown.count(f'data-code="{code}"') == 1
        assert facs.AU_NAMES[code] in shown
    assert shown.count('"sides none"') == len(facs.MIDLINE)


# ---------------------------------------------------------------- the server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("studio") / "studio"
    words = [sys.executable, "-m", "mesynth", "studio", "--out", str(folder), "--port", "0", "--no-browser"]
    log = folder.parent / "log"
    with open(log, "wb") as out:
        process = subprocess.Popen(words, stdout=out, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 180
    while "mesynth studio: http://127.0.0.1:" not in (said := log.read_text()):
        assert process.poll() is None, said
        assert time.monotonic() < deadline, said
        time.sleep(0.1)
    yield next(word for word in said.split() if word.startswith("http://127.0.0.1:")), folder
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0, log.read_text()
    assert "Traceback" not in log.read_text()


@pytest.mark.slow
def test_it_answers_this_machine_alone(server: tuple[str, Path], tmp_path: Path) -> None:
    import httpx

    address, folder = server
    port = int(address.rsplit(":", 1)[1])
    with httpx.Client(base_url=address, trust_env=False, follow_redirects=True) as client:
        page = client.get("/")
        assert page.status_code == 200
        assert "default-src 'self'" in page.headers["content-security-policy"]
        assert page.headers["x-content-type-options"] == "nosniff"
        assert client.get("/", headers={"Host": "evil.example"}).status_code == 400  # a name that was made to lead here
        (tmp_path / "secret.txt").write_text("hidden words")
        for path in (str(tmp_path / "secret.txt"), "/etc/passwd", str(folder.parent)):
            found = client.get(f"/gradio_api/file={path}")
            assert found.status_code in (403, 404)
            assert "hidden words" not in found.text
        for name in ("..", "%2e%2e%2f%2e%2e", "first", "a%2fb", "%00", "x" * 99):
            assert client.get(f"/study/{name}").status_code == 404 or name == ".."  # which a client takes away
        assert client.get("/docs").status_code != 200 or "swagger" not in client.get("/docs").text.lower()
    for other in {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {
        "127.0.0.1"
    }:
        with socket.socket() as knock:
            knock.settimeout(2)
            assert knock.connect_ex((str(other), port)) != 0


# ---------------------------------------------------------------- the stream of answers


class Queue:
    """Gradio's queue in short: a stream hands out what is due, and ends as soon as nothing is."""

    def __init__(self) -> None:
        self.due: list[bytes] = []
        self.ends = 0
        self.at_the_end: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/gradio_api/queue/join":
            parts = [await receive()]
            while parts[-1]["more_body"]:
                parts.append(await receive())
            body = b"".join(part["body"] for part in parts)
            self.due.append(json.loads(body)["data"][0].encode())
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"{}"})
            return
        assert (await receive())["type"] == "http.request"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while self.due:
            text = b'data: {"msg":"process_completed","of":"%s"}' % self.due.pop(0)
            await send({"type": "http.response.body", "body": text, "more_body": True})
        self.ends += 1  # from here on it is going to end
        if self.at_the_end is not None:
            await self.at_the_end()
        await send({"type": "http.response.body", "body": b'data: {"msg":"close_stream"}', "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _request(path: str, session: str) -> dict[str, Any]:
    return {"type": "http", "path": f"/gradio_api/queue/{path}", "query_string": f"session_hash={session}".encode()}


class Tab:
    """A page that sends events and hears its stream."""

    def __init__(self, app: Any, session: str) -> None:
        self.app, self.session = app, session
        self.heard: list[dict[str, Any]] = []
        self.gone = asyncio.Event()

    async def join(self, word: str) -> None:
        body = json.dumps({"data": [word], "session_hash": self.session}).encode()
        halves = iter([(body[:9], True), (body[9:], False)])  # a long one comes in several parts

        async def receive() -> Any:
            part, more = next(halves)
            return {"type": "http.request", "body": part, "more_body": more}

        async def send(message: Any) -> None:
            pass

        await self.app(_request("join", self.session), receive, send)

    async def stream(self) -> None:
        asked = False

        async def receive() -> Any:
            nonlocal asked
            if not asked:
                asked = True
                return {"type": "http.request", "body": b"", "more_body": False}
            await self.gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            self.heard.append(message)

        await self.app(_request("data", self.session), receive, send)

    def words(self) -> list[str]:
        lines = [m["body"].removeprefix(b"data: ") for m in self.heard if m.get("body")]
        return [json.loads(line)["of"] for line in lines]


async def _until(true: Any) -> None:
    for _ in range(1000):
        if true():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came")


def test_an_event_that_meets_the_end_of_the_stream_is_answered() -> None:
    """As Gradio ends it, the second event would wait forever: the page thinks that its stream is open."""
    from mesynth.studio.page import OpenStream

    async def run() -> None:
        queue = Queue()
        app = OpenStream(queue)
        tab, other = Tab(app, "one"), Tab(app, "two")

        async def meets() -> None:
            queue.at_the_end = None
            await tab.join("second")

        queue.at_the_end = meets
        await tab.join("first")  # before there is a stream, as a page does it
        task = asyncio.create_task(tab.stream())
        await _until(lambda: tab.words() == ["first", "second"])
        await _until(lambda: queue.ends == 2)
        for _ in range(50):
            await asyncio.sleep(0)
        assert queue.ends == 2  # nothing is due: nothing is asked
        await other.join("of another page")
        queue.due.clear()
        for _ in range(50):
            await asyncio.sleep(0)
        assert queue.ends == 2
        await tab.join("third")
        await _until(lambda: tab.words() == ["first", "second", "third"])
        assert [m["type"] for m in tab.heard].count("http.response.start") == 1
        assert all(m["more_body"] for m in tab.heard[1:])
        tab.gone.set()
        await asyncio.wait_for(task, 5)
        assert set(app.due) == {b"two"}

    asyncio.run(run())


def test_a_stream_that_is_refused_and_other_paths_are_passed_on() -> None:
    from mesynth.studio.page import OpenStream

    async def run() -> None:
        async def refuses(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 404, "headers": []})
            await send({"type": "http.response.body", "body": b'no "close_stream" here', "more_body": False})

        for path, kept in (("data", False), ("status", True)):
            tab = Tab(OpenStream(refuses), "one")
            sent: list[Any] = []

            async def send(message: Any, sent: list[Any] = sent) -> None:
                sent.append(message)

            async def gone() -> Any:
                return {"type": "http.disconnect"}

            await asyncio.wait_for(tab.app(_request(path, "one"), gone, send), 5)
            assert sent[0]["status"] == 404
            assert (len(sent) == 2) is kept
            assert tab.app.due == {}

    asyncio.run(run())


# ---------------------------------------------------------------- in a browser


def _chromium() -> str:
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    assert found, "no Chromium on this machine: install it, set CHROMIUM, or deselect with -m 'not browser'"
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        made = play.chromium.launch(executable_path=_chromium(), args=["--no-sandbox", "--disable-gpu"])
        yield made
        made.close()


@pytest.fixture(params=[1280, 390])
def page(request: pytest.FixtureRequest, browser: Any, server: tuple[str, Path]) -> Iterator[Any]:
    """The open page; nothing may be fetched from elsewhere, no script may fail, nothing may stick out."""
    address, _ = server
    made = browser.new_page(viewport={"width": request.param, "height": 900})
    made.set_default_timeout(60_000)
    fetched: list[str] = []
    wrong: list[str] = []
    made.on("request", lambda request: fetched.append(request.url))
    made.on("pageerror", lambda error: wrong.append(str(error)))
    made.goto(address)
    made.wait_for_selector("#ms-slow video")
    yield made
    assert [url for url in fetched if not url.startswith((address, "data:", "blob:"))] == []
    assert wrong == []
    assert made.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    made.close()


PLAYS = "id => { const v = document.querySelector(id + ' video'); return v && !v.error && v.currentTime > 0 }"
OTHER = "([id, was]) => { const e = document.querySelector(id); return e && e.src !== was }"


def slide(page: Any, au: int, value: float, side: str = "") -> None:
    row = page.locator(f'.ms-au[data-code="{au}"]')
    if side:
        row.locator(f'button[data-side="{side}"]').click()
    row.locator("input").evaluate(
        "(e, v) => { e.value = v; e.dispatchEvent(new Event('input', { bubbles: true })) }", value
    )


@pytest.mark.browser
@pytest.mark.slow
def test_a_face_in_a_browser(page: Any, server: tuple[str, Path], tmp_path: Path) -> None:
    assert "Good: neutral, frontal and whole." in page.inner_text("#ms-verdict")
    was = page.get_attribute("#ms-apex img", "src")
    slide(page, 12, 0.5, "L")
    page.wait_for_function(OTHER, arg=["#ms-apex img", was])
    assert page.locator('.ms-au[data-code="12"] .letter').inner_text() == "C"
    page.wait_for_selector("#ms-slow video")
    page.locator("#ms-slow").scroll_into_view_if_needed()
    for which in ("#ms-slow", "#ms-real"):
        page.wait_for_function(PLAYS, arg=which)
    length = [page.evaluate(f"document.querySelector('#ms-{which} video').duration") for which in ("slow", "real")]
    assert length[0] == pytest.approx(8 * length[1], rel=0.01)
    # an emotion, the command, a grip that is dragged
    page.click("#ms-presets button[data-value=disgust]")
    page.wait_for_selector('.ms-au[data-code="12"]:not(.moved)')
    page.wait_for_selector(".ms-au.moved")
    page.click("#ms-code button >> nth=0")
    page.wait_for_function("() => document.querySelector('#ms-shell')?.innerText?.includes('--au')")
    grip = page.locator('#ms-curve .grip[data-name="apex"] circle').first
    grip.scroll_into_view_if_needed()
    box = grip.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 20, y, steps=4)
    page.mouse.up()
    page.wait_for_function("() => Number(document.querySelector('#ms-apex-time input')?.value ?? 999) < 160")
    page.wait_for_function("() => document.querySelector('#ms-shell')?.innerText?.includes('apex=0.')")
    # units that exclude each other are one line, and the last pictures stay
    slide(page, 15, 0.5)
    slide(page, 12, 0.5)
    page.wait_for_selector("#ms-face-message .ms-problem")
    assert "AU 12" in page.inner_text("#ms-face-message")
    assert page.locator("#ms-apex img").count() == 1
    # a photo of one's own, and what is none; units that exclude each other would be said instead
    page.click("#ms-presets button[data-value=surprise]")
    page.wait_for_function("() => !document.querySelector('#ms-face-message .ms-problem')")
    (tmp_path / "note.png").write_bytes(b"no picture")
    page.set_input_files("#ms-drop input[type=file]", tmp_path / "note.png")
    page.wait_for_function("() => document.querySelector('#ms-face-message')?.innerText?.includes('cannot be read')")
    Image.fromarray(data.astronaut()).save(tmp_path / "astronaut.jpg")
    page.click("#ms-gallery button >> nth=1")
    page.wait_for_function("() => !document.querySelector('#ms-face-message .ms-problem')")
    was = page.get_attribute("#ms-onset-tile img", "src")
    page.set_input_files("#ms-drop input[type=file]", tmp_path / "astronaut.jpg")
    page.wait_for_function("() => document.querySelector('#ms-verdict')?.innerText?.includes('not neutral')")
    page.wait_for_function(OTHER, arg=["#ms-onset-tile img", was])
    page.wait_for_selector("#ms-slow video")
    page.click("#ms-save")
    page.wait_for_selector("#ms-saved .ms-done")
    assert list((server[1] / "clips").glob("*/clips/syn0000000/clip.mp4"))


@pytest.mark.browser
@pytest.mark.slow
def test_lowered_units_in_a_browser(page: Any, tmp_path: Path) -> None:
    """A slider goes below 0 where the photo shows the unit, and what another face cannot show is refused in words."""

    def low(au: int) -> float:
        return float(page.get_attribute(f'.ms-au[data-code="{au}"] input', "min"))

    def shell_text() -> str:
        return str(page.evaluate("document.querySelector('#ms-shell')?.innerText ?? ''"))

    page.click("#ms-code button >> nth=0")
    page.wait_for_function("() => document.querySelector('#ms-shell')?.innerText?.includes('--au')")
    assert {low(au) for au in (1, 4, 12, 25, 43)} == {0}
    Image.fromarray(data.astronaut()).save(tmp_path / "astronaut.jpg")
    page.set_input_files("#ms-drop input[type=file]", tmp_path / "astronaut.jpg")
    page.wait_for_function("() => Number(document.querySelector('.ms-au[data-code=\"12\"] input').min) < -0.25")
    assert low(25) < 0
    assert {low(au) for au in (1, 4, 5, 43, 45)} == {0}
    page.click("#ms-presets button[data-value='']")
    page.wait_for_function("() => !document.querySelector('.ms-au.moved')")
    slide(page, 12, -0.3)
    slide(page, 4, 0.2)
    page.wait_for_function("() => document.querySelector('#ms-shell')?.innerText?.includes('4=0.2,12=-0.3')")
    assert page.locator('.ms-au[data-code="12"] .letter').inner_text() == "\u2212B"
    assert "lowered" in page.get_attribute('.ms-au[data-code="12"] input', "aria-valuetext")
    page.wait_for_function("() => !document.querySelector('#ms-face-message .ms-problem')")
    page.wait_for_selector("#ms-slow video")
    # one side alone, and both again
    slide(page, 12, -0.4, "L")
    page.wait_for_function("() => document.querySelector('#ms-shell')?.innerText?.includes('4=0.2,L12=-0.4')")
    assert "R12" not in shell_text()
    page.click('.ms-au[data-code="12"] button[data-side="B"]')
    page.wait_for_function("() => document.querySelector('#ms-shell')?.innerText?.includes('4=0.2,12=-0.4')")
    # a face at rest: nothing is changed silently
    page.click("#ms-gallery button >> nth=1")
    page.wait_for_selector("#ms-face-message .ms-problem")
    assert "the left corner of this mouth shows no smile" in page.inner_text("#ms-face-message")
    assert page.input_value('.ms-au[data-code="12"] input') == "-0.4"
    assert low(25) == 0
    slide(page, 12, 0)
    page.wait_for_function("() => !document.querySelector('#ms-face-message .ms-problem')")
    assert low(12) == 0


@pytest.mark.browser
@pytest.mark.slow
def test_a_corpus_in_a_browser(page: Any, tmp_path: Path) -> None:
    page.get_by_role("tab", name="Corpus").click()
    folder = page.locator("#ms-folder textarea, #ms-folder input").first
    folder.fill(str(tmp_path / "absent"))
    page.click("#ms-open")
    page.wait_for_selector("#ms-corpus-message .ms-problem")
    folder.fill(str(SAMPLES))
    page.click("#ms-open")
    page.wait_for_function("() => document.querySelectorAll('#ms-grid .ms-clip').length === 8")
    page.wait_for_function(PLAYS, arg="#ms-grid .ms-clip")
    page.click("#ms-emotion input")
    page.locator("[role=option]", has_text="surprise").first.click()
    page.wait_for_function("() => document.querySelectorAll('#ms-grid .ms-clip').length === 2")
    page.click("#ms-grid .mark >> nth=0")
    page.wait_for_selector("#ms-grid .ms-clip.marked")
    page.click("#ms-grid .ms-clip .what >> nth=1")
    page.wait_for_selector("#ms-clip .ms-detail")
    assert "motion-prior" in page.inner_text("#ms-clip")
    was = page.inner_text("#ms-clip h3 >> nth=0")
    page.click("#ms-clip .ms-link")
    page.wait_for_function("was => document.querySelector('#ms-clip h3')?.innerText !== was", arg=was)
    page.locator("#ms-export-to textarea, #ms-export-to input").first.fill(str(tmp_path / "mine"))
    page.click("#ms-export")
    page.wait_for_selector("#ms-export-message .ms-done")
    assert (tmp_path / "mine" / "manifest.parquet").is_file()


@pytest.mark.browser
@pytest.mark.slow
def test_a_study_in_a_browser(page: Any, server: tuple[str, Path], tmp_path: Path) -> None:
    """Started, stopped in the middle, gone on with; on the desk up to its result."""
    width = page.viewport_size["width"]
    write_corpus(tmp_path / "real", subjects=4, database="A", seed=0)
    page.get_by_role("tab", name="Study").click()
    page.locator("#ms-study-name textarea, #ms-study-name input").first.fill(f"wide{width}")
    page.click("#ms-start")
    page.wait_for_selector("#ms-study-message .ms-problem")  # no database
    page.locator("#ms-database textarea, #ms-database input").first.fill(str(tmp_path / "real"))
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelector('#ms-commands')?.innerText?.includes('--layout faces')")
    assert "None" not in page.inner_text("#ms-commands")
    page.get_by_label("motion prior: no training").last.uncheck()
    page.get_by_label("flow prior: flow images, no faces").check()
    page.wait_for_function("() => document.querySelector('#ms-commands')?.innerText?.includes('--kind flow')")
    page.click("#ms-start")
    status = "word => document.querySelector('#ms-study-status')?.innerText?.startsWith(word)"
    page.wait_for_function(status, arg="Running")
    folder = server[1] / "studies" / f"wide{width}"
    deadline = time.monotonic() + 60
    while not (folder / "study.log").is_file():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    page.click("#ms-stop")
    page.wait_for_function(status, arg="Stopped")
    assert not (folder / "result").exists()
    if width < 1000:
        return
    page.click("#ms-start")
    page.wait_for_function(status, arg="Finished", timeout=180_000)
    with page.expect_popup() as opened:
        page.click("#ms-progress a")
    assert "synthetic" in opened.value.inner_text("body")
    opened.value.close()
