"""What the site adds to the pages when mkdocs builds it: help of every verb, recipes, the Python API, the page list.

mkdocs calls the functions by name (``hooks`` in mkdocs.yml). Each replaces one comment of a page, so that what is
generated can be neither stale nor edited by hand.
"""

from __future__ import annotations

import base64
import importlib
import re
import sys
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the checkout whose pages are built, wherever mkdocs was started
PROGRAMS = ("mesynth", "recognizer")


def on_config(config: Any) -> Any:
    """An entry of the navigation such as ``decisions/*.md`` becomes the files of that name."""
    config.nav = [_expanded(entry) for entry in config.nav]
    return config


def _expanded(entry: Any) -> Any:
    if isinstance(entry, dict):
        return {title: _expanded(what) for title, what in entry.items()}
    if isinstance(entry, list):
        return [page for one in entry for page in _pages(one)]
    return entry


def _pages(entry: Any) -> list[Any]:
    if isinstance(entry, str) and "*" in entry:
        docs = ROOT / "docs"
        return [str(file.relative_to(docs)) for file in sorted(docs.glob(entry))]
    return [_expanded(entry)]


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in what the comments of a page ask for."""
    for mark, fill in (("commands", commands), ("recipes", recipes)):
        if (comment := f"<!-- {mark} -->") in markdown:
            markdown = markdown.replace(comment, fill())
    markdown = re.sub(r"<!-- api: (\w+) -->", lambda match: api(match[1]), markdown)
    markdown = re.sub(r"<!-- gallery: (\w+) -->", lambda match: gallery(match[1]), markdown)
    return re.sub(r"(?s)\A.*<!-- include: ([\w./-]+) -->\s*", lambda match: included(match[1]), markdown)


def commands() -> str:
    """A section a verb with its help, and before them which verbs share an option."""
    shared: dict[str, list[str]] = {}
    sections = []
    for program in PROGRAMS:
        group = importlib.import_module(f"{program}.cli").main
        for name, command in sorted(group.commands.items()):
            verb = f"{program} {name}"
            text = command.get_help(click.Context(command, info_name=verb, max_content_width=100, terminal_width=100))
            sections.append(f"## {verb}\n\n```text\n{text}\n```\n")
            for parameter in command.params:
                if isinstance(parameter, click.Option) and not parameter.hidden:
                    shared.setdefault(parameter.opts[0], []).append(f"`{verb}`")
    rows = [f"| `{option}` | {', '.join(verbs)} |" for option, verbs in sorted(shared.items()) if len(verbs) > 2]
    table = "\n".join(["## Options that verbs share", "", "| option | verbs |", "|---|---|", *rows])
    return f"{table}\n\n" + "\n".join(sections)


def recipes() -> str:
    """A table a folder of ``configs/``, and every recipe in full."""
    parts = []
    for folder in sorted(path for path in (ROOT / "configs").iterdir() if path.is_dir()):
        rows, whole = [], []
        for file in sorted(folder.glob("*.yaml")):
            text = file.read_text(encoding="utf-8")
            about = re.match(r"(?:#.*\n)*", text)
            lines = (about[0] if about else "").splitlines()
            first = " ".join(line.lstrip("# ") for line in lines if "mesynth " not in line)
            name = str(file.relative_to(ROOT))
            rows.append(f"| `{name}` | {first.replace('|', chr(92) + '|')} |")
            body = "\n".join(f"    {line}".rstrip() for line in text.splitlines())
            whole.append(f'??? note "{name}"\n\n    ```yaml\n{body}\n    ```\n')
        parts.append("\n".join([f"## {folder.name}", "", "| recipe | what |", "|---|---|", *rows, "", *whole]))
    return "\n\n".join(parts)


def api(package: str) -> str:
    """An entry for every name that ``package.__all__`` makes public, from where it is defined.

    A package without ``__all__`` has no entries: its own docstring says what there is.
    """
    module = importlib.import_module(package)
    entries = []
    for name in sorted(getattr(module, "__all__", ())):
        thing = getattr(module, name)
        home = getattr(thing, "__module__", "") or ""
        if name.startswith("__") or not home.startswith(PROGRAMS):
            continue  # a constant or a module has no definition of its own to show
        where = f"{home}.{getattr(thing, '__qualname__', name)}"
        entries.append(f"::: {where}\n    options:\n      heading: {package}.{name}\n      heading_level: 2\n")
    return "\n".join(entries)


def included(name: str) -> str:
    """A page of the root folder, its links seen from ``docs/``; what lies outside the site becomes plain text."""

    def link(match: re.Match[str]) -> str:
        text, target = match[1], match[2]
        if target.startswith(("http", "#")):
            return match[0]
        return f"[{text}]({target[5:]})" if target.startswith("docs/") and ".md" in target else text

    return re.sub(r"\[([^\]]+)\]\(([^)]+)\)", link, (ROOT / name).read_text(encoding="utf-8"))


GALLERY_STYLE = """<style>
.gallery { display:grid; gap:1rem 1.4rem; grid-template-columns:repeat(auto-fill,minmax(min(15rem,100%),1fr)); }
.gallery figure { margin:0; max-width:none; text-align:left; }
.gallery div { display:grid; grid-template-columns:repeat(4,1fr); gap:4px; }
.gallery img { width:100%; border-radius:5px; display:block; }
.gallery figcaption { margin:.3rem 0 0; font-size:.7rem; max-width:none; }
</style>"""


def gallery(what: str) -> str:
    """Pictures of ``samples/``, inside the page: its clips moving and still, a sheet (aus, identities), or the strip
    and the sheet of a photograph."""
    from html import escape

    import cv2

    from mesynth.metrics.page import Gallery
    from mesynth.store.manifest import Manifest

    samples = ROOT / "samples"
    if (photograph := samples / "photographs" / f"{what}.webp").is_file():
        strip = photograph.with_name(f"{what}-moving.webp")
        both = ((strip, "moving"), (photograph, "every action unit"))
        return "\n\n".join(_inside(file.read_bytes(), f"{what}, {words}") for file, words in both)
    if what != "clips":
        sheet = cv2.imread(str(samples / f"{what}.png"))
        done, data = cv2.imencode(".webp", sheet, [cv2.IMWRITE_WEBP_QUALITY, 82])
        assert done
        return _inside(bytes(data), what)
    manifest = Manifest.read(samples / "corpus")
    shown = Gallery(manifest)
    rows = list(manifest)
    figures = []
    for still, strip in zip(shown.stills(rows, len(rows)), shown.strips(rows, len(rows)), strict=True):
        pictures = [(strip["moving"], "moving")] + [(still[name], name) for name in ("apex", "difference", "flow")]
        images = "".join(f'<img src="{uri}" alt="{escape(str(still["emotion"]))}, {name}">' for uri, name in pictures)
        words = f"<b>{escape(str(still['emotion']))}</b> {escape(str(still['target']))}"
        figures.append(f"<figure><div>{images}</div><figcaption>{words}</figcaption></figure>")
    return f'{GALLERY_STYLE}\n<div class="gallery">{"".join(figures)}</div>'


def _inside(webp: bytes, words: str) -> str:
    """A picture whose bytes are in the page."""
    text = base64.b64encode(webp).decode()
    return f'<img src="data:image/webp;base64,{text}" alt="{words}" loading="lazy">'
