"""What both command lines share: one-line errors with exit code 2, Ctrl-C, progress bars, --json."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from mesynth.errors import MesynthError

Bars = Callable[[str], Callable[[int, int], None]]

EXIT_USER, EXIT_INTERRUPTED = 2, 130


class UserError(click.ClickException):
    """A user's mistake: one line, exit code 2."""

    exit_code = EXIT_USER


class MesynthGroup(click.Group):
    """A command group whose commands turn user errors into one line and exit code 2, never a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; MesynthError, Ctrl-C and a full disk end it in a sentence."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _interrupted("interrupted; the same command goes on where it stopped")
        except MesynthError as error:
            if type(error).__name__ == "Interrupted":  # by name: importing the stage engine costs start-up time
                _interrupted(str(error))
            raise UserError(" ".join(str(error).split())) from None
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise UserError("the disk is full; make room and run the same command again") from None
            if isinstance(error, PermissionError):
                raise UserError(f"no permission for {error.filename}; choose another folder") from None
            raise


def _interrupted(text: str) -> None:
    click.echo(f"\n{text}", err=True)
    sys.exit(EXIT_INTERRUPTED)


json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


def show_result(result: dict[str, Any], as_json: bool) -> None:
    """Print a flat result for people, or as JSON for programs."""
    if as_json:
        click.echo(json.dumps(result, indent=2, default=str))
        return
    for key, value in result.items():
        if isinstance(value, dict):
            value = ", ".join(f"{k} {v}" for k, v in value.items())
        click.echo(f"{key:>10}  {value}")


@contextmanager
def progress_bars() -> Iterator[Bars]:
    """Yields ``bar(name) -> report(done, total)``: rich bars on a terminal, a line per step elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:

        def bar(name: str) -> Callable[[int, int], None]:
            task = progress.add_task(name, total=None)
            if not console.is_terminal:
                console.print(f"{name} ...")

            def report(done: int, total: int) -> None:
                progress.update(task, completed=done, total=total)

            return report

        yield bar
