"""What every command line of this project shares: one line and exit code 2 on a user's mistake, options of one name
for one thing (the names that they had before are still taken, with a warning), tables and bars."""

from __future__ import annotations

import errno
import json
import os
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, TextIO, TypeVar

import click

from mesynth.core.errors import MesynthError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

Command = TypeVar("Command", bound=Callable[..., Any])
INTERRUPTED = 130
Bars = Callable[[str], Callable[[float, float], None]]


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


def _is_interrupt(error: BaseException) -> bool:
    """Ctrl-C, also where it met Python that C had called (numba loading a kernel), which makes a SystemError of it."""
    while isinstance(error, SystemError) and error.__cause__ is not None:
        error = error.__cause__
    return isinstance(error, KeyboardInterrupt)


def translate(error: BaseException) -> NoReturn:
    """Raise what click shows as one line: MesynthError -> exit code 2, an interrupt -> 130, what the machine refuses
    (:func:`refusal`) -> 2. Everything else is a fault of the program and keeps its traceback."""
    if isinstance(error, MesynthError):
        # By name: importing the stage engine only to know its class would slow every start.
        if type(error).__name__ == "Interrupted":
            raise InterruptedException(str(error)) from None
        raise MistakeException(error) from None
    if _is_interrupt(error):
        raise InterruptedException("interrupted; the same command goes on from what is finished") from None
    closed = isinstance(error, OSError) and error.errno == errno.EPIPE  # by who reads the output: click's business
    if not closed and not os.environ.get(TRACEBACK) and (words := refusal(error)):
        raise MistakeException(OSError(words)) from None
    raise error


_LEAST_SPACE = 512
"""MiB of address space below which the libraries themselves wait for ever or abort while they are loaded (OpenBLAS)."""


def _require_address_space() -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY and limit < _LEAST_SPACE << 20:
        raise MesynthError(
            f"memory is limited to {limit >> 20} MiB of address space (ulimit -v), and {_LEAST_SPACE} are the least to "
            "start in; raise the limit, verbs with networks need some GiB"
        )


def _not_negative(_: click.Context, param: click.Parameter, value: Any) -> Any:
    if isinstance(value, int) and value < 0:
        raise click.BadParameter(f"{param.name}={value} must not be negative; give 0 or more")
    return value


class MistakeGroup(click.Group):
    """A click group whose commands may raise MesynthError.

    Commands answer ``--help`` without running, so heavy imports belong inside them.
    """

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """As click's; ``--seed`` and ``--workers`` of every command count from 0."""
        for param in cmd.params:
            if param.name in ("seed", "workers") and param.callback is None:
                param.callback = _not_negative
        super().add_command(cmd, name)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            if "--help" not in ctx.args:
                _require_address_space()
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort, click.ClickException):
            raise
        except (Exception, KeyboardInterrupt) as error:
            translate(error)

    def main(self, *args: Any, **options: Any) -> Any:
        """As click's; what this project warns of is one line on stderr, without the line of code it comes from."""
        for stream in (sys.stdout, sys.stderr):
            if callable(change := getattr(stream, "reconfigure", None)):
                change(errors="backslashreplace")  # a name that a terminal or a pipe cannot show stops nothing
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


def engine_options(command: Command) -> Command:
    """``--engine``, ``--address`` and ``--gpus``, of :meth:`mesynth.store.schedulers.RayEngine.of`."""
    for option in (
        click.option("--gpus", type=float, default=0.0, help="GPUs that a task of --engine ray takes [default: none]."),
        click.option("--address", default="", help="Ray cluster of --engine ray [default: the one that is there]."),
        click.option(
            "--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True,
            help="Where the parts of the work are done: on this machine, or as tasks of a Ray cluster.",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


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


# ------------------------------------------------------------------- progress


_FIRST, _LONGEST = 5.0, 30.0
"""Seconds until a log's first line, and between lines once a job has gone on for a while."""
_SAMPLES, _SPACING = 60, 2.0  # a rate is that of the last two minutes, or of the last 60 reports if they come slower


class Pace:
    """What a job has told: how much is done, how fast it goes, and what time is left.

    The first report says where the job begins (a resumed one not at 0); what was there before makes no rate.

    >>> pace = Pace("clips", now=0.0)
    >>> pace.tell(0, 255, now=1.0)
    >>> pace.tell(37, 255, now=21.0)
    >>> pace.line(now=21.0)
    'clips: 37 of 255, 1.9 a second, 1 min 58 s left, 21 s so far'
    """

    def __init__(self, name: str, now: float) -> None:
        self.name, self.began = name, now
        self.done, self.total = 0.0, 0.0
        self.told = False
        self._first = (now, 0.0)
        self._seen: deque[tuple[float, float]] = deque(maxlen=_SAMPLES)
        self._last = now

    @property
    def finished(self) -> bool:
        """All is done, as far as one was told how much there is."""
        return self.told and 0 < self.total <= self.done

    def tell(self, done: float, total: float, now: float) -> None:
        """``done`` of ``total`` (0: nobody knows how many)."""
        if not self.told or done < self.done:
            # Some jobs speak up after their first piece only: it took the time since they began.
            since_began = not self.told and 0 < done <= 1 and now > self.began
            self._first = (self.began, 0.0) if since_began else (now, done)
            self._seen.clear()
            self._seen.append(self._first)
        elif done > self.done and now - self._seen[-1][0] >= _SPACING:
            self._seen.append((now, done))
        if done != self.done or not self.told:
            self._last = now
        self.done, self.total, self.told = done, total, True

    def rate(self) -> float:
        """Pieces a second lately, over all once finished; 0 while unknown."""
        began, before = self._first if self.finished or not self._seen else self._seen[0]
        return (self.done - before) / (self._last - began) if self._last > began else 0.0

    def left(self, now: float) -> float | None:
        """Seconds to go; None while nothing can be said."""
        rate = self.rate()
        if not rate or self.total <= 0:
            return None
        return max((self.total - self.done) / rate - min(now - self._last, 1 / rate), 0.0)

    def words(self, now: float) -> str:
        """Done of total, rate, time left, time so far: as much of it as is known."""
        said, left = [], self.left(now)
        if self.told:
            said.append(f"{int(self.done):,}" + (f" of {int(self.total):,}" if self.total > 0 else ""))
        if rate := self.rate():
            said.append(_per_time(rate))
        if self.finished:
            return ", ".join([*said, duration(self._last - self.began)])
        if left is not None:
            said.append(f"{duration(left)} left")
        return ", ".join([*said, f"{duration(now - self.began)} so far"])

    def line(self, now: float) -> str:
        """For a log."""
        return f"{self.name}: {self.words(now)}"


def duration(seconds: float) -> str:
    """A time as people say it.

    >>> [duration(s) for s in (0.42, 9.96, 59.7, 115, 7265, 100_000)]
    ['0.4 s', '10 s', '1 min 00 s', '1 min 55 s', '2 h 01 min', '1 d 03 h']
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, unit, part, of in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part:02d} {of}"
    return f"{whole} s"


def _per_time(rate: float) -> str:
    for unit, seconds in (("second", 1), ("minute", 60), ("hour", 3600)):
        if rate * seconds >= 1 or unit == "hour":
            break
    value = rate * seconds
    return f"{value:,.0f} a {unit}" if value >= 9.95 else f"{value:.2g} a {unit}"


class Board:
    """Every bar of one verb: drawn on a terminal, and a line now and then anywhere else.

    Lines come after 5 seconds (10 where a job says nothing at all), then at growing intervals of up to 30, as soon as
    there is an estimate where a line had none, and when a step ends; a verb that takes less says nothing. ``tick`` is
    called every second or so, so that a job that says nothing is heard of too.
    """

    def __init__(self, stream: TextIO, *, live: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._lock = threading.RLock()
        self._open: list[Pace] = []
        self._current: Pace | None = None
        self._wait = self._next = 0.0
        self._unestimated = False
        self._began = self._ended = clock()
        self.drawn = _drawn(stream, clock) if live else None
        self._tasks: dict[int, TaskID] = {}

    def bar(self, name: str) -> Callable[[float, float], None]:
        """``report(done, total)`` of a step; nothing is shown before it says something, or is slow to."""
        with self._lock:
            pace = Pace(name, self._clock())
            self._open.append(pace)
            self._choose()
        return partial(self._tell, pace)

    def tick(self) -> None:
        """Show the step that is at work, if it is time."""
        with self._lock:
            now = self._clock()
            if (pace := self._current) is None or now < self._next:
                return
            self._write(pace, now)
            self._wait = min(self._wait + _FIRST, _LONGEST)
            self._next = now + self._wait

    def _tell(self, pace: Pace, done: float, total: float) -> None:
        if done <= 0 and total <= 0:  # nothing to do, nothing to say
            return
        with self._lock:
            now, was = self._clock(), pace.finished
            if not pace.told:
                pace.began = max(pace.began, self._ended)  # made early, begun when the step before it ended
                if self._wait == _FIRST:  # no line yet
                    self._next = min(self._next, max(pace.began + _FIRST, now))
            pace.tell(done, total, now)
            if pace.finished:
                self._ended = now
                if not was and now - self._began >= _FIRST:
                    self._write(pace, now)
                if pace in self._open:
                    self._open.remove(pace)
            elif pace not in self._open:
                self._open.append(pace)
            self._choose(pace)
            if self.drawn is not None:
                self._write(pace, now)
            elif self._unestimated and pace is self._current and pace.left(now) is not None:
                self._next = now
                self.tick()

    def _choose(self, told: Pace | None = None) -> None:
        """Lines are about the step that spoke last, or else the first that has not yet."""
        pace = told if told in self._open else next(iter(self._open), None)
        if pace is not self._current and (told is not None or self._current not in self._open):
            self._current, self._wait, self._unestimated = pace, _FIRST, False
            # What has not begun may still be refused, in one line: it is left a little longer.
            self._next = self._clock() + (_FIRST if told is not None else 2 * _FIRST)

    def _write(self, pace: Pace, now: float) -> None:
        if self.drawn is not None:
            task = self._tasks.get(id(pace))
            if task is None:
                task = self._tasks[id(pace)] = self.drawn.add_task(pace.name, total=None, pace=pace)
            self.drawn.update(task, completed=pace.done, total=pace.total if pace.total > 0 else None)
            return
        self._unestimated = not pace.finished and pace.left(now) is None
        with suppress(OSError, ValueError):  # a log that is gone stops no job
            self._stream.write(pace.line(now) + "\n")
            self._stream.flush()


def _drawn(stream: TextIO, clock: Callable[[], float]) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
    from rich.text import Text

    class Words(ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text(task.fields["pace"].words(clock()))

    columns = (TextColumn("{task.description:<28}"), BarColumn(bar_width=24), Words())
    return Progress(*columns, console=Console(file=stream, stderr=True))


_bars_shown: ContextVar[bool] = ContextVar("bars_shown", default=True)


@contextmanager
def no_bars() -> Iterator[None]:
    """:func:`progress_bars` are silent in this block: another process shows them."""
    token = _bars_shown.set(False)
    try:
        yield
    finally:
        _bars_shown.reset(token)


@contextmanager
def progress_bars(*, shown: bool = True) -> Iterator[Bars]:
    """Yields ``bar(name) -> report(done, total)`` of a verb's steps (:class:`Board`); silent if not ``shown``."""
    if not shown or not _bars_shown.get():
        yield lambda name: lambda done, total: None
        return
    stream: TextIO | None = sys.stderr
    if stream is None:  # closed by whoever started this (2>&-)
        yield lambda name: lambda done, total: None
        return
    board = Board(stream, live=stream.isatty() and os.environ.get("TERM") != "dumb")
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(1.0):
            board.tick()

    watcher = threading.Thread(target=watch, name="progress", daemon=True)
    with board.drawn or nullcontext():
        watcher.start()
        try:
            yield board.bar
        finally:
            ended.set()
            watcher.join()


def by_step(bars: Bars) -> Callable[[str, float, float], None]:
    """``report(step, done, total)`` over ``bars``: a bar per step, made when the step first reports."""
    reports: dict[str, Callable[[float, float], None]] = {}

    def report(step: str, done: float, total: float) -> None:
        if step not in reports:
            reports[step] = bars(step)
        reports[step](done, total)

    return report
