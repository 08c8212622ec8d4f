"""Real processes that start at once: forked from one that has loaded what takes seconds to load, torch above all.

A test that kills a command, presses Ctrl-C or starts several needs processes, not interpreters that load torch anew.
The server has run nothing but imports, so what it forks is as good as new; a test of how an interpreter starts, of what
it loads or what is left when it ends, starts its own.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOADED = (
    "torch._dynamo",  # by the first optimiser
    "accelerate",
    "mesynth.corpus.generate",
    "mesynth.metrics.measure",
    "mesynth.training.train",
    "mesynth.training.data.pairs",
    "recognizer.ablation",
    "recognizer.study",
    "torch.distributed.run",
)
"""What the server imports, and with it most of what commands do."""


class Process:
    """A started command, as :class:`subprocess.Popen` shows one; what it says goes into files."""

    def __init__(self, server: _Server, pid: int, files: tuple[Path, Path]) -> None:
        self._server, self.pid, self._files = server, pid, files

    @property
    def returncode(self) -> int | None:
        """The exit code; -N: ended by signal N; None: it runs."""
        return self._server.ended.get(self.pid)

    def poll(self) -> int | None:
        self._server.listen(0)
        return self.returncode

    def wait(self, timeout: float = 120) -> int:
        end = time.monotonic() + timeout
        while self.returncode is None:
            left = end - time.monotonic()
            if left <= 0:
                self.kill()
                raise subprocess.TimeoutExpired("a warm process", timeout, *self.said())
            self._server.listen(left)
        return self.returncode

    def communicate(self, timeout: float = 120) -> tuple[str, str]:
        """What it said, once it has ended."""
        self.wait(timeout)
        return self.said()

    def said(self) -> tuple[str, str]:
        """What it has said so far: output, errors."""
        out, errors = (file.read_text(errors="replace") for file in self._files)
        return out, errors

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class _Server:
    def __init__(self) -> None:
        self.ended: dict[int, int] = {}
        self._begun: list[int] = []
        self._folder = tempfile.TemporaryDirectory(prefix="warm-")
        self._started = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.warm"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}, bufsize=0,
        )  # fmt: skip
        self._rest = b""
        atexit.register(self.close)

    def start(self, words: Sequence[str], cwd: Path, environment: dict[str, str], gate: Path | None) -> Process:
        self._started += 1
        files = tuple(Path(self._folder.name) / f"{self._started}.{kind}" for kind in ("out", "err"))
        asked = {
            "words": list(words), "cwd": str(cwd), "environment": environment, "files": [str(f) for f in files],
            "gate": str(gate or ""),
        }  # fmt: skip
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked).encode() + b"\n")
        while not self._begun:
            self.listen(60)
        return Process(self, self._begun.pop(), (files[0], files[1]))

    def listen(self, seconds: float) -> None:
        """Take in what the server tells within so many seconds: (pid) has begun, or (pid, code) has ended."""
        out = self._process.stdout
        assert out is not None
        if not select.select([out], [], [], seconds)[0]:
            return
        told = os.read(out.fileno(), 1 << 16)
        assert told, "the server of warm processes has ended"
        *lines, self._rest = (self._rest + told).split(b"\n")
        for pid, *code in map(json.loads, lines):
            if code:
                self.ended[pid] = code[0]
            else:
                self.ended.pop(pid, None)  # of a process that had the number before
                self._begun.append(pid)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()  # it kills what still runs, and ends
        self._process.wait()
        self._folder.cleanup()


_servers: list[_Server] = []


def start(*words: str, cwd: Path = ROOT, gate: Path | None = None, **environment: str) -> Process:
    """Start ``python -m WORDS`` in a process group of its own, with the environment of this process and what is given.

    With a ``gate`` it begins when that file is there: several that wait for one begin at once. The first call in a
    process loads the server, which takes seconds.
    """
    if not _servers:
        _servers.append(_Server())
    return _servers[0].start(words, cwd, dict(os.environ) | {"OMP_NUM_THREADS": "1"} | environment, gate)


def run(*words: str, cwd: Path = ROOT, timeout: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
    """The same, until it has ended."""
    process = start(*words, cwd=cwd, **environment)
    out, errors = process.communicate(timeout)
    return subprocess.CompletedProcess(words, process.wait(), out, errors)


def _serve() -> dict[str, object]:
    """Fork a process a request; returns in a forked one, with its request."""
    import importlib

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in LOADED:
        importlib.import_module(name)
    assert threading.active_count() == 1, "a thread that a fork would lose"
    gc.collect()
    gc.freeze()  # a forked process that collected garbage would copy all of this
    ours, bell = os.pipe()
    os.set_blocking(bell, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(bell)
    running: set[int] = set()
    asked, wanted = b"", 0
    while True:
        ready = select.select([0, ours], [], [])[0]
        if ours in ready:
            os.read(ours, 1024)
        for pid in list(running):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                running.remove(pid)
                os.write(1, json.dumps([pid, os.waitstatus_to_exitcode(status)]).encode() + b"\n")
        if 0 in ready:
            told = os.read(0, 1 << 20)
            if not told:
                break
            *lines, asked = (asked + told).split(b"\n")
            for line in lines:
                wanted += 1
                pid = os.fork()
                if not pid:
                    signal.set_wakeup_fd(-1)
                    os.close(ours)
                    os.close(bell)
                    request: dict[str, object] = json.loads(line)
                    return request
                running.add(pid)
                os.write(1, json.dumps([pid]).encode() + b"\n")
    for pid in running:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    os._exit(0)


def _become(request: dict[str, object]) -> str:
    """Take the place that the request describes; returns the module that is to run."""
    words, environment, files = request["words"], request["environment"], request["files"]
    assert isinstance(words, list)
    assert isinstance(environment, dict)
    assert isinstance(files, list)
    os.setsid()
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    for place, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), place)
    os.chdir(str(request["cwd"]))
    os.environ.clear()
    os.environ.update(environment)
    # A new interpreter would have begun with these.
    given = [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
    sys.path[:1] = [os.getcwd(), *(place for place in given if place not in sys.path[1:])]
    sys.argv = words
    while request["gate"] and not os.path.exists(str(request["gate"])):
        time.sleep(0.01)
    return str(words[0])


if __name__ == "__main__":
    runpy.run_module(_become(_serve()), run_name="__main__", alter_sys=True)
