"""The command lines: quick help with examples, what the README says runs, one line per mistake."""

import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import mesynth.cli
import recognizer.cli
from mesynth.commandline import MistakeGroup
from mesynth.config import find_recipe
from mesynth.core.errors import ConfigError

ROOT = Path(__file__).parent.parent
GROUPS: dict[str, click.Group] = {"mesynth": mesynth.cli.main, "recognizer": recognizer.cli.main}
VERBS = [(name, verb) for name, group in GROUPS.items() for verb in group.commands]


@pytest.mark.parametrize(("name", "verb"), VERBS)
def test_help_has_an_example(name: str, verb: str) -> None:
    result = CliRunner().invoke(GROUPS[name], [verb, "--help"])
    assert result.exit_code == 0
    assert f"{name} {verb}" in result.output.replace("Usage:", "", 1).split("Example", 1)[1]


@pytest.mark.parametrize("name", list(GROUPS))
def test_help_answers_at_once(name: str) -> None:
    """Torch and numba are not imported for --help: they alone take over a second."""
    code = f"import sys, {name}.cli; print(sorted({{'torch', 'numba', 'cv2', 'scipy'}} & set(sys.modules)))"
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
    assert time.perf_counter() - start < 10


def _commands(text: str) -> list[list[str]]:
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL) + re.findall(r"<pre>(.*?)</pre>", text, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    parsed = [shlex.split(line, comments=True) for line in lines]
    return [words for words in parsed if words and words[0] in GROUPS]


@pytest.mark.parametrize("file", ["README.md", "mesynth/quickstart.html"])
def test_documented_commands_exist_with_their_options(file: str) -> None:
    commands = _commands((ROOT / file).read_text())
    assert len(commands) >= 6
    for name, verb, *args in commands:
        command = GROUPS[name].commands[verb]
        context = command.make_context(verb, list(args))  # raises on an unknown option or a missing argument
        recipes = [context.params[name] for name in ("recipe", "design") if name in context.params]
        for setting in (*context.params.get("settings", ()), *recipes):
            assert "=" in setting or find_recipe(setting).is_file(), setting


def test_doctor_tells_what_is_missing_and_how_to_mend_it() -> None:
    result = CliRunner().invoke(mesynth.cli.main, ["doctor", "--json"])
    needs = json.loads(result.stdout)
    assert len(needs) >= 4
    for need in needs:
        assert need["where"]
        assert need["present"] or need["remedy"]
    text = CliRunner().invoke(mesynth.cli.main, ["doctor"]).output
    assert all(need["name"] in text for need in needs)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["prepare", "casme9", "--root", "x", "--out", "y"], "casme9"),
        (["prepare", "casme2", "--root", "nowhere", "--out", "y"], "nowhere"),
        (["measure", "--real", "nowhere", "--synthetic", "x", "--out", "y"], "nowhere"),
        (["render", "--subjects", "0", "--out", "OUT"], "subjects=0"),
        (["render", "--layout", "faces", "--size", "9", "--out", "OUT"], "size=9"),
        (["quickstart", "--subjects", "2", "--out", "OUT"], "subjects=2"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, args: list[str], says: str) -> None:
    args = [str(tmp_path / "out") if a == "OUT" else a for a in args]
    done = CliRunner().invoke(mesynth.cli.main, args)
    assert done.exit_code == 2
    _one_line(done.stderr, says)
    assert not (tmp_path / "out" / "manifest.parquet").exists()


def test_a_mistake_of_a_real_process_is_one_line() -> None:
    words = [sys.executable, "-m", "mesynth", "measure", "--real", "nowhere", "--synthetic", "x", "--out", "y"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2
    _one_line(done.stderr, "nowhere")


def _one_line(stderr: str, says: str) -> None:
    slow = re.compile(r"[\w ]+: .*so far")  # a machine on which imports take ten seconds
    errors = [line for line in stderr.splitlines() if line.strip() and not slow.fullmatch(line)]
    assert len(errors) == 1, stderr
    assert says in errors[0]


@pytest.mark.parametrize(
    ("name", "meant"), [("geme", "recognizer/geme"), ("motion_64", "gan/motion_64"), ("gan/motion_46", "gan/motion_64")]
)
def test_an_unknown_recipe_names_the_nearest(name: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=rf"recipe '{name}' is unknown; did you mean .*{meant}\b.*\?"):
        find_recipe(name)


def test_an_interrupt_that_met_compiled_code_is_an_interrupt() -> None:
    """CPython says SystemError where Ctrl-C comes while C has called Python, as numba does to load a kernel."""

    @click.group(cls=MistakeGroup)
    def group() -> None:
        pass

    @group.command()
    @click.option("--fault", is_flag=True)
    def verb(fault: bool) -> None:
        try:
            raise KeyError if fault else KeyboardInterrupt
        except BaseException as error:
            raise SystemError("returned a result with an exception set") from error

    stopped = CliRunner().invoke(group, ["verb"])
    assert stopped.exit_code == 130
    assert "interrupted; the same command goes on" in stopped.stderr
    assert isinstance(CliRunner().invoke(group, ["verb", "--fault"]).exception, SystemError)
