"""What the documents point to exists: links, files, modules, and the excerpts of files."""

from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path

import pytest
import yaml

import mesynth
import tests.docs.excerpts
from mesynth.datasets.registry import DATABASES
from mesynth.metrics.base import METRICS
from mesynth.store.generator_folder import FAMILIES
from recognizer.models import MODELS
from tests.docs.excerpts import excerpts, section
from tests.docs.runner import PAGES, ROOT, Block

TEXTS = (*PAGES, ROOT / "CHANGELOG.md", ROOT / "pyproject.toml", ROOT / "mkdocs.yml")
CODE = sorted(
    file
    for folder in ("mesynth", "recognizer", "configs", "scripts")
    for file in (ROOT / folder).rglob("*")
    if file.suffix in (".py", ".yaml", ".sh")
)
ROOMS = ("docs", "configs", "scripts", "samples", "tests", "mesynth", "recognizer")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_FILE = re.compile(rf"(?<![\w./-])((?:{'|'.join(ROOMS)})/[\w./{{}},*-]*\w[\w./{{}},*-]*)")
_NAME = re.compile(r"`((?:mesynth|recognizer)(?:\.\w+)+)(?:\(.*?\))?`")


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub and mkdocs make them."""
    text = re.sub(r"(?ms)^```.*?^```", "", page.read_text(encoding="utf-8"))
    heads = re.findall(r"^#+ +(.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", [page for page in TEXTS if page.suffix == ".md"], ids=ids)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"(?ms)^```.*?^```", "", page.read_text(encoding="utf-8"))
    dead = []
    for target in _LINK.findall(text):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            dead.append(target)
    assert dead == []


def files_named(text: str) -> list[str]:
    """Paths of this repository in a text, braces resolved: ``a/{b,c}.yaml`` are two."""
    found = []
    for name in _FILE.findall(text):
        name = name.rstrip(".,-{")
        if match := re.search(r"\{([^}]*)\}", name):
            found += [name.replace(match[0], part) for part in match[1].split(",")]
        else:
            found.append(name)
    return found


@pytest.mark.parametrize("file", TEXTS, ids=ids)
def test_files_named_in_documents_exist(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    missing = [name for name in files_named(text) if not exists(name)]
    assert missing == []


def exists(name: str) -> bool:
    """Whether a file, a folder, a module without its ending, or a decision by its number alone is there."""
    ending = "*" if name.startswith("docs/decisions/") else ""
    return any(list(ROOT.glob(name + end)) for end in (ending, ".py"))


def test_documents_named_in_the_code_exist() -> None:
    missing = [
        f"{ids(file)}: {name}"
        for file in CODE
        for name in files_named(file.read_text(encoding="utf-8"))
        if name.startswith("docs/") and not exists(name)
    ]
    assert missing == []


GROUPS = {registry.group for registry in (DATABASES, FAMILIES, METRICS, MODELS)}
"""Of entry points: written as a module is."""


@pytest.mark.parametrize("page", [page for page in PAGES if _NAME.search(page.read_text(encoding="utf-8"))], ids=ids)
def test_names_of_python_exist(page: Path) -> None:
    for name in sorted(set(_NAME.findall(page.read_text(encoding="utf-8"))) - GROUPS):
        assert resolves(name), name


def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            thing: object = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            if not hasattr(thing, part):
                return False
            thing = getattr(thing, part)
        return True
    return False


@pytest.mark.parametrize("block", excerpts(), ids=lambda block: "-".join(block.source))
def test_an_excerpt_is_what_the_file_holds(block: Block) -> None:
    assert block.source is not None
    assert block.text == section(*block.source), "run `python -m tests.docs.excerpts`"


def test_the_citation_is_of_this_version() -> None:
    """What CFF 1.2.0 requires, and facts that the package states too."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert citation["message"]
    assert [author["name"] for author in citation["authors"]] == ["The mesynth authors"]
    assert citation["title"].startswith("mesynth")
    assert citation["version"] == mesynth.__version__
    package = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["license"] == package["license"]
    assert f"\n## {mesynth.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_excerpts_are_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where an excerpt before another one has grown."""
    one, two = "    # [one]\n    first()\n    second()\n    # [end]\n", "# [two]\nlast()\n# [end]\n"
    (tmp_path / "a.py").write_text(f"if x:\n{one}{two}")
    page = tmp_path / "page.md"
    page.write_text("".join(f"<!-- from: a.py#{name} -->\n```python\nold\n```\n\n" for name in ("one", "two")))
    monkeypatch.setattr(tests.docs.excerpts, "ROOT", tmp_path)
    monkeypatch.setattr(tests.docs.excerpts, "PAGES", (page,))
    tests.docs.excerpts.main()
    assert [block.text for block in excerpts()] == ["first()\nsecond()\n", "last()\n"]
    with pytest.raises(ValueError, match="three"):
        section("a.py", "three")


def test_what_is_not_there_is_found() -> None:
    assert files_named("see docs/nobody.md, `configs/gan/{a,b}.yaml` and xdocs/no.md") == [
        "docs/nobody.md", "configs/gan/a.yaml", "configs/gan/b.yaml",
    ]  # fmt: skip
    assert resolves("mesynth.core.facs.parse_request")
    assert not resolves("mesynth.core.facs.nobody")
    assert not resolves("mesynth.nobody")
