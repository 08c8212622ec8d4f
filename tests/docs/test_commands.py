"""Every command that the documents show runs, or says in the document why it cannot and is parsed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from mesynth.datasets.registry import DATABASES
from mesynth.metrics.base import METRICS
from mesynth.preprocess.flow import METHODS, _pairwise
from mesynth.store.generator_folder import FAMILIES
from recognizer.models import MODELS
from tests.docs.runner import PAGES, ROOT, Command, DocumentError, Session, blocks, commands, inline, parse
from tests.docs.tiny import SUBSTITUTIONS, Tiny, small

WITH_COMMANDS = [page for page in PAGES if any(b.language in ("bash", "console", "python") for b in blocks(page))]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("documents"))


@pytest.fixture(autouse=True)
def _registries() -> Iterator[None]:
    """What an example registers is gone when its page ends."""
    registries = (DATABASES, FAMILIES, METRICS, MODELS)
    before = [set(registry) for registry in registries]
    yield
    for registry, names in zip(registries, before, strict=True):
        for name in set(registry) - names:
            registry.remove(name)


@pytest.fixture(scope="module")
def _quick_dis() -> Iterator[None]:
    """DIS as it is fastest: pages compute thousands of fields, and nobody here looks at what is in them."""

    def dis(a: np.ndarray, b: np.ndarray, device: str) -> np.ndarray:
        return _pairwise(cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST).calc, a, b)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS, "dis", dis)
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("_quick_dis", "flows_once", "few_steps")
@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: str(page.relative_to(ROOT).with_suffix("")))
def test_a_page_does_what_it_says(
    page: Path, tiny: Tiny, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    account = Session(page, tmp_path, tiny).run()
    name = str(page.relative_to(ROOT))
    record_property("documents", json.dumps({"page": name, "ran": account.ran, "parsed": account.parsed}))
    assert account.ran or account.parsed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT).with_suffix("")))
def test_commands_inside_sentences_exist(page: Path) -> None:
    for command in inline(page):
        parse(command, whole=False)


def test_every_substitution_is_needed() -> None:
    """A row of the table that changes no documented command is taken out."""
    shown = [c for page in PAGES for b in blocks(page) if not b.reason and b.language in ("bash", "console")
             for c in commands(b.text, b.language)]  # fmt: skip
    assert [swap.why for swap in SUBSTITUTIONS if not any(swap.applies(c.words) for c in shown)] == []


# ---------------------------------------------------------------- the runner itself


def page_of(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "page.md"
    file.write_text(text)
    return file


def test_a_block_is_found_with_its_reason(tmp_path: Path) -> None:
    text = "a\n\n<!-- not run: needs a licence -->\n```bash\nmesynth doctor\n```\n\n```text\nmesynth nothing\n```\n"
    first, second = blocks(page_of(tmp_path, text))
    assert (first.line, first.language, first.reason) == (5, "bash", "needs a licence")
    assert (second.language, second.reason) == ("text", "")


@pytest.mark.parametrize(
    "text", ["```\nmesynth doctor\n```\n", "```sh\nls\n```\n", "<!-- not run: why -->\n```text\nls\n```\n"]
)
def test_no_command_hides(tmp_path: Path, text: str) -> None:
    with pytest.raises(DocumentError):
        blocks(page_of(tmp_path, text))


def test_words_of_a_shell() -> None:
    text = "A=1 mesynth doctor && cd x  # then\nmesynth plan a.yaml \\\n    --set 'x=[1, 2]' y=[a,b]\n"
    text += "printf 'a\\n' > f.csv"
    first, second, third, fourth = commands(text, line=10)
    assert (first.words, first.env, first.line) == (("mesynth", "doctor"), {"A": "1"}, 10)
    assert second.words == ("cd", "x")
    assert (third.words, third.line) == (("mesynth", "plan", "a.yaml", "--set", "x=[1, 2]", "y=[a,b]"), 11)
    assert (fourth.words, fourth.to) == (("printf", "a\\n"), "f.csv")
    with pytest.raises(DocumentError):
        commands("mesynth doctor | less")


@pytest.mark.parametrize(
    "text",
    [
        "mesynth conjure --out x",
        "mesynth generate --facez f --out x",
        "mesynth prepare casme2 --root x --crop oval --out x",
        "mesynth render",
        "recognizer loso --manifest x configs/recognizer/nobody.yaml --out y",
        "torchrun --nproc_per_node 2 -m mesynth train configs/gan/nobody.yaml --out x",
        "python scripts/nobody.py",
        "bash scripts/nobody.sh",
        "python -m tests.bench.nobody",
    ],
)
def test_parsing_finds_what_does_not_exist(text: str) -> None:
    with pytest.raises(DocumentError):
        parse(commands(text)[0])


def test_a_page_that_fails_names_the_line(tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.docs.runner.ROOT", tmp_path)
    page = page_of(tmp_path, "x\n\n```bash\nmesynth doctor\nmesynth verify nowhere\n```\n")
    (tmp_path / "work").mkdir()
    with pytest.raises(DocumentError) as error:
        Session(page, tmp_path / "work", tiny).run()
    assert str(error.value).startswith("page.md:5\n")
    assert "nowhere" in str(error.value)
    wrong = page_of(tmp_path, "```python\n>>> 1 + 1\n3\n```\n")
    with pytest.raises(DocumentError):
        Session(wrong, tmp_path / "work", tiny).run()


def test_commands_are_made_small(tiny: Tiny) -> None:
    words = small(Command(("mesynth", "generate", "--count", "1000", "--out", "x"), 1).words, tiny)
    assert int(words[words.index("--count") + 1]) < 100
