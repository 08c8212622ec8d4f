"""What the documents tell people to type, typed: blocks of commands are found, made small, and run in order.

A page is run in a folder of its own. Its commands see the data of ``tests/docs/tiny.py`` under the names that the page
uses (``/data/CASME2``, ``faces/``, ``prepared/casme2``), unless an earlier command of the page made them. A block that
cannot run here says so in the document, in the line above it::

    <!-- not run: needs a CUDA device -->

Its commands are then parsed: verbs, options, choices, recipes and scripts exist. So are the commands inside sentences.
"""

from __future__ import annotations

import doctest
import os
import re
import shlex
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
from click.testing import CliRunner

import mesynth.cli
import recognizer.cli
from mesynth.config import find_recipe
from mesynth.core.errors import ConfigError
from tests import warm
from tests.docs.tiny import CODES, Tiny, small

ROOT = Path(__file__).resolve().parents[2]
GROUPS: dict[str, click.Group] = {"mesynth": mesynth.cli.main, "recognizer": recognizer.cli.main}
PAGES = (
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "samples/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
)
SHELL, PYTHON = ("bash", "console"), ("python",)
INERT = frozenset({"text", "csv", "yaml", "json", "toml", "html"})
"""Languages of blocks that nobody types."""
BUILTINS = frozenset({"printf", "mkdir", "cp", "ls", "cat"})
"""Programs of the shell that documents may use beside the project's own."""
LAUNCHERS = {"torchrun": "torch.distributed.run", "accelerate": "accelerate.commands.accelerate_cli"}
"""Programs that start several processes, and the modules that they are."""

INLINE = "inside a sentence"

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[\w+-]*)[^\n`]*\n(?P<text>.*?)^(?P=indent)``` *$", re.M | re.S)
_MARK = re.compile(r"<!-- not run: (?P<reason>.+?) -->\s*\Z")
_FROM = re.compile(r"<!-- from: (?P<file>[^#\s]+)#(?P<section>[\w-]+) -->\s*\Z")
_INLINE = re.compile(r"`((?:mesynth|recognizer|python|bash|torchrun|accelerate) [^`]+)`")


class DocumentError(AssertionError):
    """A document that says what does not work; names page, line and command."""


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, the line of its first command, its language, and why it is not run ("": it is)."""

    page: Path
    line: int
    language: str
    text: str
    reason: str = ""
    source: tuple[str, str] | None = None
    """File and section that the block is an excerpt of."""


@dataclass(frozen=True)
class Command:
    """One command: its words, variables set for it alone, the file its output goes to, and its line in the page."""

    words: tuple[str, ...]
    line: int
    env: dict[str, str] = field(default_factory=dict)
    to: str = ""

    def __str__(self) -> str:
        return shlex.join(self.words)


@dataclass
class Account:
    """What became of a page's commands: those that ran, with processor seconds; those that were parsed, with why."""

    ran: list[tuple[str, float]] = field(default_factory=list)
    parsed: list[tuple[str, str]] = field(default_factory=list)


def blocks(page: Path) -> list[Block]:
    """Every fenced block of a page, whatever its language.

    Raises:
        DocumentError: a block says in no known language what it is, so that a command could hide in it; or a mark that
            gives no reason.
    """
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start("text")) + 1
        language = match["language"]
        mark, source = _MARK.search(text[: match.start()]), _FROM.search(text[: match.start()])
        if language not in (*SHELL, *PYTHON, *INERT):
            raise DocumentError(f"{page.name}:{line - 1} a block of language '{language}'; say text, bash, python, ...")
        if mark and language in INERT:
            raise DocumentError(f"{page.name}:{line - 1} is marked 'not run', but nothing in it is a command")
        reason = mark["reason"] if mark else f"an excerpt of {source['file']}, which CI runs" if source else ""
        found.append(Block(page, line, language, match["text"], reason, (source[1], source[2]) if source else None))
    return found


def commands(text: str, language: str = "bash", line: int = 1) -> list[Command]:
    r"""The commands of a block: continued lines are joined, comments dropped, ``&&`` parts them.

    >>> [str(c) for c in commands("cd a && mesynth doctor  # look\nmesynth plan x.yaml \\\n  --out b")]
    ['cd a', 'mesynth doctor', 'mesynth plan x.yaml --out b']
    """
    made: list[Command] = []
    joined, first = "", line
    for number, row in enumerate(text.splitlines(), line):
        if language == "console":
            if not row.startswith("$ "):
                continue  # what the program answers
            row = row[2:]
        first = first if joined else number
        if row.rstrip().endswith("\\"):
            joined += row.rstrip()[:-1] + " "
            continue
        made += _parts(joined + row, first)
        joined = ""
    return made


def _parts(row: str, line: int) -> Iterator[Command]:
    lexer = shlex.shlex(row, posix=True, punctuation_chars="&|;<>")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, "&&"]:
        if word != "&&":
            words.append(word)
            continue
        if words:
            yield _command(words, line)
        words = []


def _command(words: list[str], line: int) -> Command:
    env: dict[str, str] = {}
    to = ""
    while words and re.match(r"[A-Z_]+=", words[0]):
        name, _, value = words.pop(0).partition("=")
        env[name] = value
    if ">" in words:
        place = words.index(">")
        to = words[place + 1]
        words = words[:place] + words[place + 2 :]
    if strange := [word for word in words if word and set(word) <= set("&|;<>")]:
        raise DocumentError(f"line {line}: '{strange[0]}' is a feature of the shell that documents do without")
    return Command(tuple(words), line, env, to)


def inline(page: Path) -> list[Command]:
    """Commands with options inside the sentences of a page."""
    text = page.read_text(encoding="utf-8")
    prose = _FENCE.sub(lambda match: "\n" * match[0].count("\n"), text)
    found = []
    for match in _INLINE.finditer(prose):
        if "..." in match[1] or " -" not in match[1]:
            continue
        found.append(Command(tuple(shlex.split(" ".join(match[1].split()))), prose.count("\n", 0, match.start()) + 1))
    return found


# ---------------------------------------------------------------- parsing alone


def parse(command: Command, *, whole: bool = True) -> None:
    """Check a command without running it; not ``whole``: a sentence may leave out what is required.

    Raises:
        DocumentError: an unknown program, verb, option or choice, or a recipe or script that does not exist.
    """
    words = list(command.words)
    if words[0] in LAUNCHERS:
        if "-m" not in words:
            if not whole:
                return
            raise DocumentError(f"'{command}' starts no module of this project")
        words = words[words.index("-m") + 1 :]
    if words[0] == "python" and words[1] == "-m":
        words = words[2:]
        if words[0] not in GROUPS:
            place = ROOT / words[0].replace(".", "/")
            found = place.with_suffix(".py").is_file() or (place / "__main__.py").is_file()
            if not found and words[0].startswith("tests"):
                raise DocumentError(f"there is no module {words[0]}")
            return
    if words[0] in ("python", "bash"):
        if not (ROOT / words[1]).is_file():
            raise DocumentError(f"there is no file {words[1]}")
        return
    if words[0] not in GROUPS:
        return  # pip, git and the like: nothing of ours
    group = GROUPS[words[0]]
    if words[1] not in group.commands:
        raise DocumentError(f"'{words[0]}' has no verb '{words[1]}'")
    if "--help" in words:
        return
    try:
        context = group.commands[words[1]].make_context(words[1], words[2:], resilient_parsing=False)
    except click.ClickException as error:
        if not whole and type(error) in (click.MissingParameter, click.BadOptionUsage):
            return  # an option without its value, or a verb without the folders it needs
        raise DocumentError(error.format_message()) from None
    named = [context.params.get(name) for name in ("recipe", "config", "design")]
    for value in (*named, *context.params.get("settings", ())):
        text = str(value or "")
        if re.match(r"(configs/\S+\.yaml|\w+/\w+)$", text) and "=" not in text:
            try:
                find_recipe(text)
            except ConfigError as error:
                raise DocumentError(str(error)) from None


# ---------------------------------------------------------------- running


@dataclass
class Session:
    """The commands of one page, run one after the other in ``folder``."""

    page: Path
    folder: Path
    tiny: Tiny
    account: Account = field(default_factory=Account)
    names: dict[str, object] = field(default_factory=dict)

    def run(self) -> Account:
        """Run or parse every command of the page, blocks first, sentences after.

        Raises:
            DocumentError: with page, line, the command as documented, as run, and what it said.
        """
        here = Path.cwd()
        os.chdir(self.folder)
        try:
            for block in blocks(self.page):
                if block.language in PYTHON:
                    self._python(block)
                elif block.language in SHELL:
                    for command in commands(block.text, block.language, block.line):
                        self._take(command, block.reason)
            for command in inline(self.page):
                self._take(command, INLINE)
        finally:
            os.chdir(here)
        return self.account

    def _take(self, command: Command, reason: str) -> None:
        try:
            parse(command, whole=reason != INLINE)
            if reason:
                self.account.parsed.append((str(command), reason))
                return
            start = seconds()
            self._run(command)
        except DocumentError as error:
            raise DocumentError(f"{self.page.relative_to(ROOT)}:{command.line}\n  {command}\n  {error}") from None
        self.account.ran.append((str(command), seconds() - start))

    def _python(self, block: Block) -> None:
        if block.reason:
            compile(block.text, str(self.page), "exec")  # raises SyntaxError
            self.account.parsed.append((block.text.splitlines()[0], block.reason))
            return
        self.tiny.provide_named(block.text, self.folder)
        start = seconds()
        try:
            if ">>>" in block.text:
                _examples(block.text, self.names, self.page, block.line)
            else:
                exec(compile("\n" * (block.line - 1) + block.text, str(self.page), "exec"), self.names)
        except Exception:
            raise DocumentError(f"{self.page.relative_to(ROOT)}:{block.line}\n{traceback.format_exc()}") from None
        self.account.ran.append((block.text.splitlines()[0], seconds() - start))

    def _run(self, command: Command) -> None:
        words = small(command.words, self.tiny)
        self.tiny.provide(words, self.folder)
        program = words[0]
        if program == "cd":
            os.chdir(words[1])
        elif program == "source":
            if words[1] != ".venv/bin/activate":
                raise DocumentError(f"'{words[1]}' is no environment that this project makes")
        elif program in GROUPS:
            self._verb(command, words)
        elif program in BUILTINS or program == "python" or program in LAUNCHERS:
            self._process(command, words)
        else:
            raise DocumentError(f"'{program}' cannot run here; mark the block: <!-- not run: WHY -->")

    def _verb(self, command: Command, words: Sequence[str]) -> None:
        result = CliRunner().invoke(GROUPS[words[0]], list(words[1:]), env=command.env, prog_name=words[0])
        answers = next((codes for option, codes in CODES.items() if option in words), (0,))
        if result.exit_code in answers:
            return
        raised = result.exc_info
        trace = "".join(traceback.format_exception(*raised)) if raised and raised[0] is not SystemExit else ""
        raise DocumentError(f"as run: {shlex.join(words)}\n  exit code {result.exit_code}\n{result.output}{trace}")

    def _process(self, command: Command, words: Sequence[str]) -> None:
        path = {"PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))}
        if words[0] in LAUNCHERS:  # as on a machine without GPUs: it may have fewer than the command has processes
            env = path | {"CUDA_VISIBLE_DEVICES": ""} | command.env
            done = warm.run(LAUNCHERS[words[0]], *_forked(words), cwd=Path.cwd(), timeout=600, **env)
        else:
            words = [sys.executable, *words[1:]] if words[0] == "python" else words
            env = os.environ | path | command.env
            done = subprocess.run(words, capture_output=True, text=True, check=False, env=env)
        if done.returncode:
            raise DocumentError(f"as run: {shlex.join(words)}\n  exit code {done.returncode}\n{done.stderr}")
        if command.to:
            target = Path(command.to)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(done.stdout, encoding="utf-8")


def _forked(words: Sequence[str]) -> list[str]:
    """The arguments of a launcher; torchrun's processes are forked from it and need not load torch once more."""
    out = list(words[1:])
    if words[0] == "torchrun":
        place = out.index("-m")
        module = ROOT / out[place + 1] / "__main__.py"
        out[place : place + 2] = ["--start_method", "fork", "--run_path", str(module)]
    return out


def seconds() -> float:
    """Of processor time so far, children included."""
    return sum(os.times()[:4])


def _examples(text: str, names: dict[str, object], page: Path, line: int) -> None:
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    test = doctest.DocTestParser().get_doctest(text, names, page.name, str(page), line)
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=flags, verbose=False)
    runner.run(test, out=said.append, clear_globs=False)
    names.update(test.globs)
    if runner.failures:
        raise DocumentError("".join(said))
