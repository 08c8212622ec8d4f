"""The two facades: names that are there, explained, and imported only when they are used."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import mesynth
import mesynth.cli
import recognizer
import recognizer.cli
from mesynth.core import lazy_names

ROOT = Path(__file__).parent.parent
HOOKS = ["register_database", "register_generator", "register_metric"]


def _for_editors(package: str) -> set[str]:
    """Names that the TYPE_CHECKING block of a package imports."""
    tree = ast.parse((ROOT / package.replace(".", "/") / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    return {alias.name for node in ast.walk(block) if isinstance(node, ast.ImportFrom) for alias in node.names}


@pytest.mark.parametrize("name", mesynth.__all__)
def test_every_name_is_there_and_explained(name: str) -> None:
    value = getattr(mesynth, name)
    assert name in dir(mesynth)
    assert name == "__version__" or ">>>" in value.__doc__


@pytest.mark.parametrize("name", sorted(set(recognizer.__all__) - {"Model"}))
def test_every_name_of_the_recognizers_is_there_and_explained(name: str) -> None:
    assert getattr(recognizer, name).__doc__
    assert name in dir(recognizer)


FUNCTIONS = {
    "mesynth": {"drive": "drive", "render": "render", "prepare": "prepare", "generate": "generate", "plan": "plan"},
    "recognizer": {"spot": "spot", "aus": "count_aus", "loso": "loso", "train": "train", "predict": "predict"},
}
OF_SHELLS = {"dry_run", "as_json", "shard", "engine", "address", "gpus", "skip_bad", "check_only", "download"}


@pytest.mark.parametrize(("verb", "name"), [("mesynth drive", "drive"), ("recognizer spot", "spot")])
def test_a_verb_and_its_function_take_the_same_with_the_same_defaults(verb: str, name: str) -> None:
    package, word = verb.split()
    command = {"mesynth": mesynth.cli.main, "recognizer": recognizer.cli.main}[package].commands[word]
    function = inspect.signature(getattr({"mesynth": mesynth, "recognizer": recognizer}[package], name)).parameters
    # --train is a function of its own: recognizer.train_spotter
    taken = {p.name: p.required for p in command.params if p.name not in {*OF_SHELLS, "training"}}
    assert set(taken) == set(function) - {"progress"}
    values = command.make_context(word, [], resilient_parsing=True).params
    for key, required in taken.items():
        if not required and key not in {"exclude_subjects", "workers"}:
            assert function[key].default == values[key], key


@pytest.mark.parametrize(("package", "verb"), [(p, v) for p, verbs in FUNCTIONS.items() for v in verbs])
def test_verbs_have_functions(package: str, verb: str) -> None:
    module = {"mesynth": mesynth, "recognizer": recognizer}[package]
    assert verb in module.cli.main.commands
    assert ">>>" in getattr(module, FUNCTIONS[package][verb]).__doc__ or verb in ("train", "predict")


@pytest.mark.parametrize("package", ["mesynth", "mesynth.head", "mesynth.metrics"])
def test_editors_see_the_names_that_are_there(package: str) -> None:
    module = __import__(package, fromlist=["__all__"])
    assert sorted(set(module.__all__) - {"__version__"}) == sorted(module._HOME)
    assert _for_editors(package) | set(HOOKS) >= set(module._HOME)
    assert _for_editors(package) <= set(module._HOME)


def test_the_names_of_a_days_work_are_among_them() -> None:
    wanted = {
        "generate", "prepare", "plan", "measure", "compare", "train", "load_generator", "load_corpus", "render",
        "Manifest", "Clip", "AUVector", "parse_annotation", "parse_request",
    }  # fmt: skip
    assert wanted <= set(mesynth.__all__)
    with pytest.raises(AttributeError, match="genrate"):
        mesynth.genrate  # noqa: B018


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, mesynth; print(sorted({'torch', 'numpy', 'scipy', 'pyarrow', 'click'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_a_name_is_looked_up_once() -> None:
    get, names = lazy_names("mesynth.core", {"stream": "seeds", "letters": "facs:LETTER_INTENSITY"})
    assert get("letters") is sys.modules["mesynth.core"].letters  # type: ignore[attr-defined]
    assert {"stream", "letters"} <= set(names())
    with pytest.raises(AttributeError, match=r"mesynth\.core"):
        get("LETTER_INTENSITY")
    del sys.modules["mesynth.core"].letters  # type: ignore[attr-defined]
