"""What every command line of this project shares: one line and exit code 2 on a user's mistake, options of one name
for one thing (the names that they had before are still taken, with a warning), tables and bars."""

from __future__ import annotations

import errno
import json
import warnings
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


def translate(error: BaseException) -> NoReturn:
    """Raise what click shows as one line: MesynthError -> exit code 2, an interrupt -> 130; else unchanged."""
    if isinstance(error, MesynthError):
        # By name: importing the stage engine only to know its class would slow every start.
        if type(error).__name__ == "Interrupted":
            raise InterruptedException(str(error)) from None
        raise MistakeException(error) from None
    if isinstance(error, KeyboardInterrupt):
        raise InterruptedException("interrupted; the same command goes on from what is finished") from None
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        raise MistakeException(OSError("the disk is full; make room and run the same command again")) from None
    if isinstance(error, PermissionError):
        raise MistakeException(OSError(f"no permission for {error.filename}; choose another folder")) from None
    raise error


class MistakeGroup(click.Group):
    """A click group whose commands may raise MesynthError.

    Commands answer ``--help`` without running, so heavy imports belong inside them.
    """

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (MesynthError, KeyboardInterrupt, OSError) as error:
            translate(error)

    def main(self, *args: Any, **options: Any) -> Any:
        """As click's; what this project warns of is one line on stderr, without the line of code it comes from."""
        with warnings.catch_warnings():
            shown = warnings.showwarning

            def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
                if category.__module__.partition(".")[0] in ("mesynth", "recognizer"):
                    click.echo(f"Warning: {message}", err=True)
                else:
                    shown(message, category, *where, **more)

            warnings.showwarning = show
            return super().main(*args, **options)


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
