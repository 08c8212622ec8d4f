"""What every command line of this project shares: one line and exit code 2 on a user's mistake, options of one name
for one thing (the names that they had before are still taken, with a warning), tables and bars."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

import click

from mesynth.core.errors import MesynthError

Command = TypeVar("Command", bound=Callable[..., Any])
INTERRUPTED = 130
Bars = Callable[[str], Callable[[int, int], None]]


class MistakeException(click.ClickException):
    """A MesynthError at the edge."""

    exit_code = 2

    def __init__(self, error: BaseException) -> None:
        super().__init__(" ".join(str(error).split()))


class InterruptedException(click.ClickException):
    """Ctrl-C."""

    exit_code = INTERRUPTED


TRACEBACK = "MESYNTH_TRACEBACK"
"""Set to 1, what the machine refuses is shown with its traceback instead of one line."""
_WHERE = f"{TRACEBACK}=1 shows where"
_REFUSALS: Mapping[int, str] = {
    errno.ENOSPC: "the disk of {} is full; make room and run the same command again",
    errno.EDQUOT: "your quota on the disk of {} is used up; make room and run the same command again",
    errno.EACCES: "no permission for {}; choose another folder",
    errno.EPERM: "no permission for {}; choose another folder",
    errno.EROFS: "{} lies on a disk that is read-only here; choose another folder",
    errno.ENAMETOOLONG: "the name {} is longer than a file system takes (255 bytes a part); choose a shorter one",
    errno.ELOOP: "{} is a link that leads to itself; mend it or choose another folder",
    errno.ENOTDIR: "a part of {} is a file where a folder is meant; choose another path",
    errno.EISDIR: "{} is a folder where a file is meant; choose another path",
    errno.ENOENT: "{} is missing; check the path",
    errno.EEXIST: "{} exists already; choose another path",
    errno.ENOTEMPTY: "{} is not empty; choose another folder",
    errno.EMFILE: "too many files are open ({}); raise the limit with ulimit -n, or take fewer --workers",
    errno.ENFILE: "too many files are open on this machine ({}); end other programs and run the same command again",
    errno.EIO: "the disk of {} failed to read or write; check the disk and run the same command again",
    errno.ENODEV: "{} is on a disk that is not there any more; check it and run the same command again",
    errno.ESTALE: "{} is on a network disk that is not there any more; run the same command again",
    errno.ETXTBSY: "{} is being used by another program; end it and run the same command again",
}
_NO_MEMORY = (
    "memory ran out{}; take fewer --workers, a smaller batch or size, or raise the limit (ulimit -v), and run the same "
    "command again"
)
_SIGNS_OF_MEMORY = (
    "cannot allocate memory", "can't allocate memory", "failed to map segment", "out of memory", "insufficient memory",
    "unable to allocate", "can't start new thread", "std::bad_alloc",
)  # fmt: skip
"""How libraries say it, some as RuntimeError or ImportError."""


def refusal(error: BaseException) -> str:
    """What the machine, or the input's shape, refuses, as one sentence with the value and the way out; "" for a fault
    of the program.

    >>> refusal(OSError(errno.ENOTDIR, "Not a directory", "a.txt/out"))
    'a part of a.txt/out is a file where a folder is meant; choose another path'
    >>> refusal(KeyError("clip"))
    ''
    """
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or (
        (isinstance(error, (RuntimeError, ImportError, OSError)) or type(error).__module__ == "cv2")
        and (getattr(error, "errno", None) == errno.ENOMEM or any(sign in text.lower() for sign in _SIGNS_OF_MEMORY))
    ):
        return _NO_MEMORY.format(f" ({text[:160]})" if text else "")
    if isinstance(error, OSError):
        names = [os.fsdecode(n) for n in (error.filename, error.filename2) if isinstance(n, (str, bytes, os.PathLike))]
        where = _brief(" and ".join(names)) if names else "a file"
        if (words := _REFUSALS.get(error.errno or 0)) is not None:
            return words.format(where)
        return f"{where}: {error.strerror or text or type(error).__name__}; check the path and the disk ({_WHERE})"
    if isinstance(error, RecursionError):
        return f"the input is nested too deeply to be read; is it the right file? ({_WHERE})"
    if isinstance(error, UnicodeError):
        # Text that the locale cannot name, or bytes of another one; str(error) of a long text is long.
        piece = getattr(error, "object", "")
        shown = _brief(piece if isinstance(piece, str) else repr(piece))
        kind = getattr(error, "encoding", "unicode")
        return f"{shown!r} is no text in {kind}; rename it, or run the same command with PYTHONUTF8=1 ({_WHERE})"
    if isinstance(error, OverflowError) or (type(error).__name__ == "ArrowInvalid" and "too large to fit" in text):
        return f"a number is too large for what it counts ({text[:160]}); check the input ({_WHERE})"
    if isinstance(error, ValueError) and text.lower().startswith(
        ("embedded null", "source code string cannot contain")
    ):
        return f"a path or name holds a NUL character, which no file system takes; check the input ({_WHERE})"
    if type(error).__name__ in ("DecompressionBombError", "DecompressionBombWarning"):
        return f"a picture is larger than any frame ({text[:160]}); check the input ({_WHERE})"
    return ""


def _brief(name: str) -> str:
    """A path of which both ends can be read."""
    return name if len(name) <= 200 else f"{name[:80]}...{name[-60:]}"


def translate(error: BaseException) -> NoReturn:
    """Raise what click shows as one line: MesynthError -> exit code 2, an interrupt -> 130, what the machine refuses
    (:func:`refusal`) -> 2. Everything else is a fault of the program and keeps its traceback."""
    if isinstance(error, MesynthError):
        # By name: importing the stage engine only to know its class would slow every start.
        if type(error).__name__ == "Interrupted":
            raise InterruptedException(str(error)) from None
        raise MistakeException(error) from None
    if isinstance(error, KeyboardInterrupt):
        raise InterruptedException("interrupted; the same command goes on from what is finished") from None
    closed = isinstance(error, OSError) and error.errno == errno.EPIPE  # by who reads the output: click's business
    if not closed and not os.environ.get(TRACEBACK) and (words := refusal(error)):
        raise MistakeException(OSError(words)) from None
    raise error


class MistakeGroup(click.Group):
    """A click group whose commands may raise MesynthError.

    Commands answer ``--help`` without running, so heavy imports belong inside them.
    """

    def main(self, *args: Any, **kwargs: Any) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if callable(change := getattr(stream, "reconfigure", None)):
                change(errors="backslashreplace")  # a name that a terminal or a pipe cannot show stops nothing
        return super().main(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort, click.ClickException):
            raise
        except (Exception, KeyboardInterrupt) as error:
            translate(error)


class Verb(click.Command):
    """A command that still takes the names its options had before, with a line of warning on stderr.

    Args:
        former: former name -> name, as on the command line (``{"--people": "--subjects"}``). A name of "" has become
            a positional argument: the value goes behind the others.
    """

    def __init__(self, *args: Any, former: Mapping[str, str] | None = None, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.former = dict(former or {})

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, self._renamed(args))

    def _renamed(self, args: Sequence[str]) -> list[str]:
        kept: list[str] = []
        positional: list[str] = []
        told: set[str] = set()
        rest = iter(args)
        for word in rest:
            if word == "--":
                return [*kept, word, *rest, *positional]
            name, equals, value = word.partition("=")
            if name not in self.former:
                kept.append(word)
                continue
            now = self.former[name]
            if name not in told:
                told.add(name)
                how = f"is called {now} now" if now else "is gone: give its value without it"
                click.echo(f"Warning: {name} {how}; the former name will go with a coming version", err=True)
            if now:
                kept.append(now + equals + value)
            else:
                positional += [value] if equals else [next(rest, "")]
        return kept + positional


def list_recipes_option(*folders: str) -> Callable[[Command], Command]:
    """``--list``: print the names of the recipes in ``folders``, one a line, and end."""

    def show(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
        if wanted and not ctx.resilient_parsing:
            from mesynth.config import list_recipes

            for folder in folders:
                for name in list_recipes(folder):
                    click.echo(name)
            ctx.exit()

    return click.option(
        "--list", is_flag=True, is_eager=True, expose_value=False, callback=show, help="Name the recipes, and end."
    )


def json_option(command: Command) -> Command:
    """``--json``: the verb prints one JSON object on stdout (parameter ``as_json``)."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")(command)


def dry_run_option(command: Command) -> Command:
    """``--dry-run``: check everything, say what would be done, write nothing (parameter ``dry_run``)."""
    return click.option("--dry-run", is_flag=True, help="Check and say what would be done; write nothing.")(command)


def echo_json(value: Any) -> None:
    """One JSON object on stdout; NaN and infinity become null, so that any JSON reader takes it."""
    click.echo(json.dumps(_finite(value), indent=2, default=str, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def show_result(result: dict[str, Any], as_json: bool) -> None:
    """A flat result for people, or as JSON for programs."""
    if as_json:
        echo_json(result)
        return
    for key, value in result.items():
        if isinstance(value, dict):
            value = ", ".join(f"{k} {v}" for k, v in value.items())
        click.echo(f"{key:>10}  {value}")


@contextmanager
def progress_bars(*, lines: bool = True) -> Iterator[Bars]:
    """Yields ``bar(name) -> report(done, total)``: bars on a terminal, elsewhere a line per step if ``lines``."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:

        def bar(name: str) -> Callable[[int, int], None]:
            task = progress.add_task(name, total=None)
            if lines and not console.is_terminal:
                console.print(f"{name} ...")

            def report(done: int, total: int) -> None:
                progress.update(task, completed=done, total=total)

            return report

        yield bar


def by_step(bars: Bars) -> Callable[[str, int, int], None]:
    """``report(step, done, total)`` over ``bars``: a bar per step, made when the step first reports."""
    reports: dict[str, Callable[[int, int], None]] = {}

    def report(step: str, done: int, total: int) -> None:
        if step not in reports:
            reports[step] = bars(step)
        reports[step](done, total)

    return report


def late_bar(bars: Bars, name: str) -> Callable[[int, int], None]:
    """A bar that is made when it is first told something: a mistake found before that stands alone."""
    report = by_step(bars)
    return lambda done, total: report(name, done, total)
