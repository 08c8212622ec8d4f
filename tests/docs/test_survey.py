"""docs/survey.md and the registries say the same: what stands here, under which name, and how it is run."""

from __future__ import annotations

import re
import shlex
from importlib import import_module

import pytest

from mesynth.config import find_recipe
from mesynth.datasets.registry import DATABASES
from mesynth.store.generator_folder import FAMILIES
from recognizer.models import CLOSED, HANDCRAFTED, MODELS, NETWORKS, PUBLISHED, section_class
from recognizer.views import VIEWS
from tests.docs.runner import ROOT, Command, parse
from tests.recognizer.zoo import ZOO, small

TEXT = (ROOT / "docs" / "survey.md").read_text(encoding="utf-8")
STATES = ("works", "partly", "not")


def tables(title: str) -> list[dict[str, str]]:
    """Rows of all tables below a heading, each by the names of its columns."""
    rows: list[dict[str, str]] = []
    head: list[str] = []
    for line in TEXT.partition(f"\n## {title}\n")[2].partition("\n## ")[0].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if not cells:
            head = []
        elif not head:
            head = cells
        elif not set(line) <= set("|-"):
            assert len(cells) == len(head), line
            rows.append(dict(zip(head, cells, strict=True)))
    return rows


DATA, METHODS, MADE = tables("Databases"), tables("Recognition methods"), tables("Generation")


def coded(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def rows_of(model: str) -> list[dict[str, str]]:
    return [row for row in METHODS if row.get("model") == f"`{model}`"]


def test_every_published_model_stands_on_the_page_once_and_nothing_else_does() -> None:
    named = [name for row in METHODS if "model" in row for name in coded(row["model"])]
    assert sorted(named) == sorted(MODELS.shipped())
    judged = {name for row in METHODS if "here" in row for name in coded(row.get("model", ""))}
    assert {*PUBLISHED, *HANDCRAFTED} <= judged <= {*CLOSED, *NETWORKS}


def test_every_database_and_every_family_stands_on_the_page() -> None:
    readers = {name for row in DATA for name in coded(row["here"])}
    assert set(DATABASES.shipped()) <= readers
    families = {name for row in MADE for name in coded(row["family"])}
    assert families == {*FAMILIES.shipped()}


@pytest.mark.parametrize(
    "row", [r for r in (*DATA, *METHODS, *MADE) if "here" in r], ids=lambda r: next(iter(r.values()))
)
def test_a_row_says_works_partly_or_not_and_how_it_is_run(row: dict[str, str]) -> None:
    state = re.match(r"\w+", row["here"])
    assert state is not None
    assert state[0] in STATES
    if state[0] == "not":
        assert not coded(row.get("command", ""))
    if state[0] == "partly":
        assert re.match(r"partly: |partly: `\w+` \(", row["here"]), "it says what is missing"


@pytest.mark.parametrize("text", sorted({c for row in (*DATA, *METHODS, *MADE) for c in coded(row.get("command", ""))}))
def test_a_command_of_the_page_exists(text: str) -> None:
    words = tuple(shlex.split(text))
    parse(Command(words, 1), whole=False)
    if words[:2] != ("mesynth", "prepare") and "=" not in words[2]:
        find_recipe(words[2])


@pytest.mark.parametrize("name", [*PUBLISHED, *HANDCRAFTED])
def test_a_published_name_with_our_own_sizes_does_not_work_but_partly(name: str) -> None:
    [row] = rows_of(name)
    assert row["command"] == f"`recognizer loso configs/recognizer/{name}.yaml`"
    assert section_class(name) is not None
    if name in HANDCRAFTED:
        return
    about = import_module(f"recognizer.models.{name}").__doc__ or ""
    ours = "our own sizes" in " ".join(about.split())
    assert ours == ("our own sizes" in row["here"]), row["here"]
    assert not ours or row["here"].startswith("partly")


def test_inputs_name_views_and_networks_that_read_them() -> None:
    seen = set()
    for row in tables("Inputs"):
        for view in coded(row["view here"]):
            assert view in VIEWS or view == "flow", view
            seen.add(view)
        names = coded(row["networks that read it"])
        assert set(names) <= set(PUBLISHED)
        for name in set(names) & set(ZOO) if "any of these" not in row["view here"] else ():
            assert set(small(name).build().needs) & set(coded(row["view here"])), name
    assert seen == {*VIEWS, "flow"}


def test_sizes_and_times_are_those_of_the_page_that_measures_them() -> None:
    measured = {}
    for line in (ROOT / "docs" / "recognizers.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 8 and coded(cells[0]):
            measured[coded(cells[0])[0]] = (f"{cells[3]} ({cells[4]})", cells[5])
    assert set(measured) == set(ZOO)
    for name, (parameters, time) in measured.items():
        [row] = rows_of(name)
        assert (row["parameters"], row["ms per clip"]) == (parameters, time)
        assert re.fullmatch(r"\d+(\.\d)?|-", row["study, s"]), name


def test_what_was_measured_stands_on_the_pages_that_say_how() -> None:
    """No figure of the last columns is this page's own."""
    sources = "".join((ROOT / "docs" / name).read_text() for name in ("recognizers.md", "figures.md"))
    for row in METHODS:
        for uf1, uar in re.findall(r"UF1 (\.\d+) / UAR (\.\d+)", row.get("measured here", "")):
            assert re.search(rf"{re.escape(uf1)}(?: \[[^\]]+\])? / {re.escape(uar)}", sources), (row["model"], uf1, uar)
