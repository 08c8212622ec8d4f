"""The site builds without a warning, holds every page, and a newcomer is two clicks from each."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config

import mesynth.cli
import recognizer.cli
from mesynth.store.manifest import Manifest
from tests.docs.runner import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as ``mkdocs build --strict`` does: a dead link, a lost page or an unknown name is an error."""
    out = tmp_path_factory.mktemp("site")
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(out), strict=True))
    return out


@pytest.mark.slow
def test_every_page_is_there(site: Path) -> None:
    pages = {file.relative_to(ROOT / "docs").with_suffix(".html") for file in (ROOT / "docs").rglob("*.md")}
    for page in pages:
        assert (site / str(page).replace("README", "index")).is_file(), page


@pytest.mark.slow
def test_what_is_generated_is_complete(site: Path) -> None:
    commands = (site / "reference" / "commands.html").read_text()
    for name, group in (("mesynth", mesynth.cli.main), ("recognizer", recognizer.cli.main)):
        for verb in group.commands:
            assert f">{name} {verb}<" in commands
    recipes = (site / "reference" / "recipes.html").read_text()
    files = sorted((ROOT / "configs").rglob("*.yaml"))
    assert [file.name for file in files if f"<code>{file.relative_to(ROOT)}</code>" not in recipes] == []
    for package in (mesynth, recognizer):
        page = (site / "api" / f"{package.__name__}.html").read_text()
        public = [name for name in getattr(package, "__all__", ()) if not name.startswith("__")]
        shown = [name for name in public if callable(getattr(package, name))]
        assert [name for name in shown if f"{package.__name__}.{name}" not in page] == []
    contributing = (site / "contributing.html").read_text()
    assert "A generator family" in contributing
    assert "<!-- include" not in contributing


@pytest.mark.slow
def test_the_gallery_shows_the_samples(site: Path) -> None:
    page = (site / "gallery.html").read_text()
    assert "<!-- gallery" not in page
    assert page.count("<figure>") == len(Manifest.read(ROOT / "samples" / "corpus"))
    assert page.count('src="data:image/webp;base64,') == 4 * page.count("<figure>") + 2
    assert len(page) < 3_000_000


@pytest.mark.slow
def test_the_photographs_are_in_their_page(site: Path) -> None:
    page = (site / "photographs.html").read_text()
    assert "<!-- gallery" not in page
    pictures = sorted((ROOT / "samples" / "photographs").glob("*.webp"))
    assert len(pictures) >= 12
    assert page.count('src="data:image/webp;base64,') == len(pictures)  # each of them, once
    assert len(page) < 2_000_000


@pytest.mark.slow
def test_nothing_is_fetched(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert re.findall(r'(?:src|href)="(?:https?:)?//[^"]+\.(?:js|css|woff2?)"', page.read_text()) == []


def test_two_clicks_reach_every_page() -> None:
    """A tab, then a page: nothing lies deeper in the list of pages."""

    def depth(entry: Any) -> int:
        if isinstance(entry, list):
            return max(map(depth, entry))
        [inside] = entry.values() if isinstance(entry, dict) else [None]
        return 1 + depth(inside) if isinstance(inside, list) else 1

    nav: Any = load_config(str(ROOT / "mkdocs.yml")).nav
    assert max(map(depth, nav)) <= 2
    start = (ROOT / "docs" / "index.md").read_text()
    tasks = [page for section in nav[:4] for page in next(iter(section.values()))]
    named = [page if isinstance(page, str) else next(iter(page.values())) for page in tasks]
    assert [page for page in named if page != "index.md" and f"({page})" not in start] == []
