"""One name for one thing across verbs; the names that were before are still taken, with one line of warning."""

import json
import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

import mesynth.cli
import recognizer.cli
from mesynth.commandline import Verb
from mesynth.config import list_recipes
from mesynth.store.manifest import Manifest
from tests.recognizer.corpora import write_corpus

GROUPS: dict[str, click.Group] = {"mesynth": mesynth.cli.main, "recognizer": recognizer.cli.main}
FORMER = [
    (group, name, old, command.former[old])
    for group, verbs in GROUPS.items()
    for name, command in verbs.commands.items()
    if isinstance(command, Verb)
    for old in command.former
]


def call(program: str, *words: object) -> Result:
    return CliRunner().invoke(GROUPS[program], [str(word) for word in words])


@click.command(cls=Verb, former={"--people": "--subjects", "--set": ""})
@click.argument("recipe")
@click.argument("settings", nargs=-1)
@click.option("--subjects", default=0)
def verb(recipe: str, settings: tuple[str, ...], subjects: int) -> None:
    click.echo(json.dumps([recipe, list(settings), subjects]))


@pytest.mark.parametrize(
    ("words", "means", "warnings"),
    [
        (["r", "a=1", "--subjects", "3"], ["r", ["a=1"], 3], 0),
        (["r", "--people", "3"], ["r", [], 3], 1),
        (["r", "--people=3", "a=1"], ["r", ["a=1"], 3], 1),
        (["--set", "a=1", "--set=b=--people", "r", "--people", "2"], ["r", ["a=1", "b=--people"], 2], 2),
        (["--set", "a=1", "--", "r", "--people"], ["r", ["--people", "a=1"], 0], 1),
    ],
)
def test_former_names_mean_what_they_meant(words: list[str], means: list[object], warnings: int) -> None:
    result = CliRunner().invoke(verb, words)
    assert json.loads(result.stdout) == means
    lines = result.stderr.splitlines()
    assert len(lines) == warnings
    assert all(line.startswith("Warning: --") for line in lines)


def test_a_former_name_without_its_value_is_a_mistake() -> None:
    assert CliRunner().invoke(verb, ["r", "--people"]).exit_code == 2


@pytest.mark.parametrize(("group", "name", "old", "now"), FORMER)
def test_each_former_name_leads_to_a_name_that_is_there(group: str, name: str, old: str, now: str) -> None:
    command = GROUPS[group].commands[name]
    names = {word for parameter in command.params for word in parameter.opts}
    assert old not in names
    assert now in names or (now == "" and any(isinstance(p, click.Argument) for p in command.params))
    table = (Path(__file__).parents[2] / "docs" / "reference/names.md").read_text()
    assert re.search(rf"^\| `{group} {name}` \| `{old}[ `]", table, re.MULTILINE), "docs/reference/names.md needs a row"


def test_one_name_for_one_thing() -> None:
    """Words that once stood for the same thing are gone, and a name has one kind of value wherever it occurs."""
    kinds: dict[str, set[str]] = {}
    for verbs in GROUPS.values():
        for verb, command in verbs.commands.items():
            for parameter in command.params:
                if isinstance(parameter, click.Option):
                    kind = "flag" if parameter.is_flag else parameter.type.name
                    if verb == "prepare" and parameter.opts[0] == "--subjects":
                        assert (kind, parameter.multiple) == ("text", True)  # a number does as well
                        continue
                    kinds.setdefault(parameter.opts[0], set()).add(kind)
    assert not {"--people", "--set", "--processes", "--output", "--corpus"} & set(kinds)
    for name in ("--workers", "--seed", "--out", "--json", "--dry-run", "--device", "--subjects", "--real", "--keep"):
        assert len({kind.removesuffix(" range") for kind in kinds[name]}) == 1, name


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Manifest]:
    folder = tmp_path_factory.mktemp("corpora")
    return {
        "real": write_corpus(folder / "real", database="DB", subjects=4, clips=6),
        "synthetic": write_corpus(folder / "synthetic", kind="synthetic", database="made", subjects=4, clips=6),
    }


@pytest.mark.parametrize(
    ("old", "now"),
    [
        (["mesynth", "plan", "corpus/three_classes", "--set", "rows.count=6", "--people", "2", "--dry-run"],
         ["mesynth", "plan", "corpus/three_classes", "rows.count=6", "--subjects", "2", "--dry-run"]),
        (["mesynth", "generate", "--kind", "flow", "--emotion", "surprise", "--people", "3", "--out", "x", "--dry-run"],
         ["mesynth", "generate", "--kind", "flow", "--emotion", "surprise", "--subjects", "3", "--out", "x",
          "--dry-run"]),
        (["mesynth", "augment", "--manifest", "REAL", "--keep", "0.5", "--copies", "2", "--out", "x", "--dry-run"],
         ["mesynth", "augment", "REAL", "--keep-frames", "0.5", "--copies", "2", "--out", "x", "--dry-run"]),
        (["recognizer", "train", "--manifest", "REAL", "--set", "model=lda", "--out", "x", "--dry-run"],
         ["recognizer", "train", "--real", "REAL", "model=lda", "--out", "x", "--dry-run"]),
        (["recognizer", "loso", "--manifest", "REAL", "model=lda", "--out", "x", "--dry-run", "--json"],
         ["recognizer", "loso", "--real", "REAL", "model=lda", "--out", "x", "--dry-run", "--json"]),
        (["recognizer", "ablate", "--manifest", "REAL", "--synthetic", "MADE", "models=[lda]",
          "ratios=[0,1]", "--out", "x", "--dry-run", "--json"],
         ["recognizer", "ablate", "--real", "REAL", "--synthetic", "MADE", "models=[lda]",
          "ratios=[0,1]", "--out", "x", "--dry-run", "--json"]),
    ],
)  # fmt: skip
def test_old_command_lines_say_the_same(corpora: dict[str, Manifest], old: list[str], now: list[str]) -> None:
    places = {"REAL": corpora["real"].root, "MADE": corpora["synthetic"].root}
    before, after = (call(*[places.get(word, word) for word in words]) for words in (old, now))
    assert before.exit_code == after.exit_code == 0, before.output + after.output
    assert before.stdout == after.stdout
    warned = [line for line in before.stderr.splitlines() if line.startswith("Warning: ")]
    assert len(warned) == len({word for word in old if word in {"--set", "--people", "--manifest", "--keep"}})
    assert "Warning" not in after.stderr


@pytest.mark.parametrize(
    ("words", "folders"),
    [
        (["mesynth", "train", "--list"], ("gan", "diffusion")),
        (["mesynth", "plan", "--list"], ("corpus",)),
        (["recognizer", "loso", "--list"], ("recognizer",)),
        (["recognizer", "train", "--list"], ("recognizer",)),
        (["recognizer", "ablate", "--list"], ("ablation",)),
    ],
)
def test_recipes_are_listed(words: list[str], folders: tuple[str, ...]) -> None:
    result = call(*words)
    assert result.exit_code == 0
    assert result.stdout.split() == [name for folder in folders for name in list_recipes(folder)] != []


def test_recipes_are_found_by_name_wherever_one_is(
    corpora: dict[str, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("gan/motion_tiny", "configs/gan/motion_tiny.yaml"):
        assert json.loads(call("mesynth", "train", name, "--out", "x", "--dry-run", "--json").stdout)["task"]
    base = ["loso", "--real", corpora["real"].root, "--out", "x", "--dry-run", "--json"]
    assert json.loads(call("recognizer", *base, "recognizer/lda").stdout)["models"] == ["lda"]
    (tmp_path / "mine.yaml").write_text("model: svm\n")
    assert json.loads(call("recognizer", *base, "mine.yaml").stdout)["models"] == ["svm"]
    for words in (["mesynth", "train", "gan/motion_tny", "--out", "x"], ["recognizer", *base, "recognizer/lad"]):
        refused = call(*words)
        assert refused.exit_code == 2
        assert len(refused.stderr.splitlines()) == 1
        assert "gan/motion_tiny" in refused.stderr or "recognizer/lda" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]
