"""The pictures of docs/preprocessing.md, and what that page and the pages of the databases say."""

from __future__ import annotations

import io
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from PIL import Image

import mesynth.cli
import recognizer.cli
from mesynth.core.errors import ConfigError
from mesynth.core.facs import parse_request
from mesynth.preprocess.config import (
    APEXES,
    CROPS,
    FLOWS,
    GLOBAL_MODELS,
    INPUTS,
    INTERPOLATIONS,
    MAGNIFIERS,
    STABILISERS,
    PrepareConfig,
)
from scripts.step_pictures import STEPS, Page, Scene, SceneConfig, draw, write_pictures
from scripts.step_pictures.page import MAX_BYTES, WIDTH

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
TEXT = (DOCS / "preprocessing.md").read_text(encoding="utf-8")
TINY = SceneConfig(size=48, fps=25, rise=4, fall=5, margin=2)
PAGES = [DOCS / "preprocessing.md", *sorted((DOCS / "databases").glob("*.md"))]


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene(TINY)


@pytest.fixture(scope="module")
def drawn(scene: Scene) -> Callable[[str], Page]:
    """A step's page of the scene, drawn once."""
    return cache(lambda step: draw(step, scene))


def commands(text: str, program: str) -> list[list[str]]:
    """The words after ``program`` of every line of a code block, and of every inline command with options."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    inline = re.findall(rf"`({program} [^`]* --[^`]*)`", prose)
    wanted = [line for line in (*lines, *inline) if line.startswith(program + " ")]
    return [shlex.split(line, comments=True)[1:] for line in wanted]


def parse(group: click.Group, verb: str, args: list[str]) -> dict[str, Any]:
    """The values of a verb's parameters; raises on an unknown verb, option or choice. Nothing is run."""
    assert verb in group.commands, verb
    return group.commands[verb].make_context(verb, list(args)).params


def pixels(page: Page) -> np.ndarray:
    canvas: Any = page.figure.canvas
    canvas.draw()
    return np.array(canvas.buffer_rgba())


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize("step", list(STEPS))
def test_a_step_draws_a_page(step: str, drawn: Callable[[str], Page]) -> None:
    page = drawn(step)
    data = page.png()
    picture = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
    assert picture.shape == (page.height, WIDTH, 3)
    assert (picture[0] == 255).all()
    assert (picture != 255).any(-1).mean() > 0.02
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 30
    assert len(data) <= MAX_BYTES
    assert page.clashes() == []


def test_a_scene_made_anew_gives_the_same_pixels(drawn: Callable[[str], Page]) -> None:
    """Whatever was drawn before, and in whatever order."""
    again = Scene(TINY)
    for step in reversed(STEPS):
        assert np.array_equal(pixels(draw(step, again)), pixels(drawn(step))), step


@pytest.mark.parametrize(("step", "mode"), [("spot", "RGB"), ("regions", "P")])
def test_the_same_bytes_twice(step: str, mode: str, drawn: Callable[[str], Page], tmp_path: Path) -> None:
    """In all colours, and in a palette."""
    (file,) = write_pictures(tmp_path, [step], TINY)
    assert file == tmp_path / f"{step}.png"
    assert file.read_bytes() == drawn(step).png()
    assert Image.open(file).mode == mode


def test_clashes_are_found() -> None:
    page = Page(100)
    page.text(20, 20, "one")
    page.text(200, 20, "two")
    assert page.clashes() == []
    page.text(22, 24, "three")
    page.text(WIDTH - 10, 60, "beyond")
    assert page.clashes() == ["'beyond' leaves the page", "'one' lies on 'three'"]


def test_an_unknown_step_is_one_line_and_writes_nothing(scene: Scene, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"step 'warp' is unknown; choose from crop, stabilise, .*augment"):
        list(write_pictures(tmp_path, ["spot", "warp"], TINY))
    script = ROOT / "scripts" / "make_step_pictures.py"
    done = subprocess.run(
        [sys.executable, str(script), "warp", "--out", str(tmp_path / "out")],
        capture_output=True, text=True, cwd=ROOT, check=False, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin"},
    )  # fmt: skip
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if "warp" in line] == done.stderr.splitlines()
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="unknown"):
        draw("warp", scene)


@pytest.mark.parametrize(
    "bad", [{"size": 8}, {"rise": 1}, {"fall": 0}, {"margin": -1}, {"fps": 0.0}, {"seed": -1}, {"rise": 2, "fall": 1}]
)
def test_bad_scenes_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="|".join(bad)):
        SceneConfig(**bad)  # type: ignore[arg-type]


# ---------------------------------------------------------------- the clip


def test_the_scene_knows_its_motion(scene: Scene) -> None:
    """Exact flow in the crop, read at a landmark, is that landmark's own motion."""
    assert scene.clip.shape == (10, 48, 48, 3)
    assert scene.long.shape == (14, 48, 48, 3)
    assert np.array_equal(scene.peak, parse_request(TINY.aus).intensity)
    assert scene.share[[0, scene.apex, -1]].tolist() == [0, 1, 0]
    flow, tracks = scene.exact(scene.apex), scene.tracks()
    points = np.round(scene.landmarks).astype(int)
    for index in (30, 48, 54, 57):  # nose, mouth corners, lower lip
        x, y = points[index]
        moved = tracks[scene.apex, index] - tracks[0, index]
        assert flow.face[y, x]
        assert flow.uv[:, y, x] == pytest.approx(moved, abs=0.2)
    left, right = (np.hypot(*(tracks[scene.apex, i] - tracks[0, i])) for i in (54, 48))
    assert left > right  # AU 12 is stronger on the subject's left
    still = scene.exact(scene.apex, expression=False, head=False)
    assert np.abs(still.uv).max() < 1e-5


def test_a_posed_clip_has_no_head_motion(scene: Scene) -> None:
    clean, noisy = scene.posed(), scene.posed(noise=True)
    assert np.array_equal(clean[0], clean[-1])
    assert not np.array_equal(noisy[0], noisy[-1])
    change = [np.abs(scene.posed(factor)[scene.apex].astype(int) - clean[0]).sum() for factor in (0.5, 1.0, 2.0)]
    assert change == sorted(change)


# ---------------------------------------------------------------- the page


def test_every_step_has_its_section_picture_and_command() -> None:
    shown = re.findall(r"!\[[^\]]+\]\(preprocessing/([\w-]+)\.png\)", TEXT)
    files = sorted(file.stem for file in (DOCS / "preprocessing").iterdir())
    assert sorted(shown) == sorted(STEPS) == files
    for section in TEXT.split("\n## ")[1:]:
        assert ("```bash\nmesynth " in section) == ("](preprocessing/" in section), section.split("\n")[0]
    for file in (DOCS / "preprocessing").iterdir():
        assert file.suffix == ".png"
        assert file.stat().st_size <= MAX_BYTES
        assert Image.open(file).size[0] == WIDTH


def test_every_function_named_exists() -> None:
    named = re.findall(r"`(mesynth(?:\.\w+)+)`", TEXT)
    assert len(set(named)) >= len(STEPS)
    for name in named:
        module, _, attribute = name.rpartition(".")
        assert hasattr(__import__(module, fromlist=[attribute]), attribute), name


@pytest.mark.parametrize("choices", [CROPS, STABILISERS, APEXES, MAGNIFIERS, INTERPOLATIONS, FLOWS, GLOBAL_MODELS])
def test_every_choice_is_named(choices: tuple[str, ...]) -> None:
    assert [choice for choice in choices if choice != "none" and f"`{choice}`" not in TEXT] == []


def test_the_table_of_inputs_is_complete() -> None:
    table = TEXT.split("## Inputs", 1)[1]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(INPUTS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_parse(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert commands(text, "mesynth")
    for program, group in (("mesynth", mesynth.cli.main), ("recognizer", recognizer.cli.main)):
        for verb, *args in commands(text, program):
            parse(group, verb, args)


def test_commands_hold_valid_configurations() -> None:
    """What click cannot check, as --magnify phase:4, is accepted by the configuration."""
    checked = 0
    for verb, *args in commands(TEXT, "mesynth"):
        if verb != "prepare":
            continue
        given = parse(mesynth.cli.main, verb, args)
        inputs = tuple(name for name in given["inputs"].split(",") if name)
        keys = ("size", "crop", "stabilise", "apex", "magnify", "resample", "method", "global_motion", "max_frames")
        keys += ("early",)
        PrepareConfig(inputs=inputs, **{key: given[key] for key in keys})
        checked += 1
    assert checked >= 8
