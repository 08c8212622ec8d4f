"""A study: does synthetic data help on this database? Its commands, what they will cost, and running them.

A study is a folder with ``study.json`` (what was chosen), ``study.log`` (what the commands said) and what they made.
Each step is a command line of this project in a process of its own, which goes on where it was stopped.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from mesynth.commandline import duration
from mesynth.core.errors import ConfigError, ManifestError, RunFolderError
from mesynth.core.framing import MADE, OWN
from mesynth.core.profiles import frame_count
from mesynth.core.types import in_own_rms
from mesynth.corpus.plan import frame_bytes
from mesynth.store.manifest import Manifest
from mesynth.store.run_folder import write_text
from mesynth.store.shards import known_framing, read_flow

SPEC, LOG, RESULT = "study.json", "study.log", "result"
PAGE = "ablation.html"
FLOW_PRIOR = "flow-prior"
FPS, SECONDS, SIZE, NOISE = 50.0, 0.32, 128, 1.5
"""Of the clips that are made: a recognizer reads onset and apex, so frames between them are few."""
_CLASSES = "negative,positive,surprise"
_ROW_BYTES = 5_500  # landmarks, tar headers and the row of the manifest


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is asked. Raises ConfigError for what cannot be run."""

    folder: Path
    database: Path
    generators: tuple[str, ...] = ("motion-prior",)
    recognizers: tuple[str, ...] = ("lda",)
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    clips: int = 0
    """Of each generator; 0: as many as the largest ratio takes (:meth:`count`)."""
    people: int = 20
    """Rendered faces that clips are made on; nobody of the database is."""
    faces: str = ""
    """Instead of rendered ones: a folder of pictures of other people."""
    seeds: int = 3

    def __post_init__(self) -> None:
        for name, what in (("generators", "generator"), ("recognizers", "recognizer"), ("ratios", "ratio")):
            if not getattr(self, name):
                raise ConfigError(f"no {what} is chosen; choose at least one")
        for name, low, high in (("clips", 0, 1_000_000), ("people", 1, 10_000), ("seeds", 1, 100)):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name}={getattr(self, name)} is outside {low}..{high}")
        for ratio in self.ratios:
            if not 0 < ratio <= 100:
                raise ConfigError(f"ratio {ratio:g} is outside (0, 100]; 1 is as many synthetic clips as real ones")

    def count(self, known: Database) -> int:
        """Clips of each generator, a third of them of each class.

        Raises:
            ConfigError: fewer are asked for than the largest ratio takes of the largest class.
        """
        most = max(known.classes, key=lambda name: known.classes[name])
        each = math.ceil(max(self.ratios) * known.classes[most])
        if not self.clips:
            return 3 * each
        if self.clips // 3 < each:
            raise ConfigError(
                f"ratio {max(self.ratios):g} takes {each} synthetic clips of class {most} (the database has "
                f"{known.classes[most]}), and a third of clips={self.clips} is {self.clips // 3}; give at least "
                f"{3 * each}, or 0 for as many as it takes"
            )
        return self.clips

    # ---------------------------------------------------------------- commands

    def steps(self) -> list[Step]:
        """The commands in their order.

        Raises:
            ManifestError, ConfigError: see :func:`look_at`.
        """
        known = look_at(self.database)
        frames = [name for name in self.generators if name != FLOW_PRIOR]
        if frames and known.own_rms:
            raise ConfigError(
                f"{self.database} holds published flow images, in units of their own; {frames[0]} makes flow in "
                f"pixels: choose {FLOW_PRIOR} alone"
            )
        if frames and self.faces and not Path(self.faces).exists():
            raise ConfigError(f"the pictures {self.faces} do not exist; give a folder, or none for rendered people")
        clips = self.count(known)
        out, faces = [], self.faces or str(self.folder / "faces")
        if frames and not self.faces:
            out.append(
                Step("faces", _mesynth("render", "--layout", "faces", "--subjects", self.people, "--out", faces))
            )
        corpora = []
        for seed, name in enumerate(self.generators):
            made = self.folder / _folder_name(name)
            common = ["--emotion", _CLASSES, "--count", clips, "--seed", seed]
            if name == FLOW_PRIOR:
                framed = ["--frame", f"like:{self.database}"] if known.framed else []
                out.append(
                    Step(f"clips of {name}", _mesynth("generate", "--kind", "flow", *common, *framed, "--out", made))
                )
                corpora.append(made)
                continue
            recorded = ["--noise", f"{NOISE:g}", "--head-motion", 1, "--blink", "0.3", "--style", 1]
            clip = ["--fps", f"{FPS:g}", "--duration", f"{SECONDS:g}", "--preview", 3]
            given = ["--faces", faces, "--model", name, *common, *clip, *recorded]
            out.append(Step(f"clips of {name}", _mesynth("generate", *given, "--out", made)))
            prepared = made.with_name(made.name + "-tvl1")
            stored = ["--root", made, "--landmarker", "stored"]
            out.append(Step(f"flow of {name}", _mesynth("prepare", "corpus", *stored, "--out", prepared)))
            corpora.append(prepared)
        pairs = [word for corpus in corpora for word in ("--synthetic", corpus)]
        settings = self._settings(known.own_rms)
        given = [*settings, "--real", self.database, *pairs, "--out", self.folder / RESULT]
        out.append(Step("recognizers", ("recognizer", "ablate", *map(str, given))))
        return out

    def _settings(self, own_rms: bool) -> list[str]:
        ratios = ",".join(f"{ratio:g}" for ratio in sorted({0.0, *self.ratios}))
        return [
            f"models=[{','.join(self.recognizers)}]", f"ratios=[{ratios}]",
            f"seeds=[{','.join(map(str, range(self.seeds)))}]", "modes=[prior]",
            *(["per_source=true"] if len(self.generators) > 1 else []),
            *(["data.normalise=robust"] if own_rms else []),
        ]  # fmt: skip

    def script(self) -> str:
        """The commands as lines of a shell."""
        return "\n".join(step.text for step in self.steps())

    # ---------------------------------------------------------------- what it will cost

    def cells(self) -> int:
        """Trainings of all folds that the last step comes to."""
        from recognizer.ablation_result import grid
        from recognizer.config import AblationConfig, load_config

        config = load_config(AblationConfig, None, self._settings(False))
        several = [_folder_name(name) for name in self.generators] if len(self.generators) > 1 else []
        return len(grid(config, ["all", *several]))

    def bytes(self) -> int:
        """Expected size of what is made, on disk."""
        clips = self.count(look_at(self.database))
        n = frame_count(SECONDS, FPS)
        clip = n * frame_bytes(SIZE, NOISE) + 9 * SIZE**2 + _ROW_BYTES
        flow = 8 * 28**2 + _ROW_BYTES
        return round(sum(clips * (flow if name == FLOW_PRIOR else 2 * clip) for name in self.generators))

    def estimate(self) -> Estimate:
        """How long it will take on this machine: a clip of each generator and a few steps of each recognizer are timed.

        Raises as the commands do: a database that recognizers cannot read is found here.
        """
        steps = self.steps()
        clips = self.count(look_at(self.database))
        cores = os.cpu_count() or 1
        parts: dict[str, float] = {}
        for name in self.generators:
            each = _seconds_a_clip(name)
            parts[f"clips of {name}"] = clips * each / (1 if name == FLOW_PRIOR else cores)
            if name != FLOW_PRIOR:
                parts[f"flow of {name}"] = clips * _seconds_a_flow() / cores
        cells = self.cells()
        each_model = [_seconds_a_cell(self.database, name) for name in self.recognizers]
        parts["recognizers"] = cells / len(self.recognizers) * sum(each_model)
        if any(step.name == "faces" for step in steps):
            parts["faces"] = self.people * _seconds_a_face()
        return Estimate(parts, cells, self.bytes())

    # ---------------------------------------------------------------- on disk

    def write(self) -> None:
        """Make the folder this study's.

        Raises:
            RunFolderError: it holds another study or something else, or cannot be written.
        """
        spec = self.folder / SPEC
        if spec.is_file():
            if read_study(self.folder) != self:
                raise RunFolderError(f"{self.folder} holds another study; give this one another name")
            return
        if self.folder.is_dir() and any(self.folder.iterdir()):
            raise RunFolderError(f"{self.folder} is not empty and holds no study; give this one another name")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(spec, json.dumps(asdict(self) | {"folder": "", "database": str(self.database)}, indent=1) + "\n")
        except OSError as error:
            raise RunFolderError(f"{self.folder} cannot be written ({error.strerror}); choose another folder") from None


def read_study(folder: Path) -> Study:
    """The study in ``folder``. Raises RunFolderError where there is none, or a damaged one."""
    spec = folder / SPEC
    try:
        given: dict[str, Any] = json.loads(spec.read_text(encoding="utf-8"))
        lists = {name: tuple(given[name]) for name in ("generators", "recognizers", "ratios")}
        return Study(**given | lists | {"folder": folder, "database": Path(given["database"])})
    except OSError:
        raise RunFolderError(f"{folder} holds no study ({SPEC}); start one, or choose another folder") from None
    except (ValueError, TypeError, KeyError) as error:
        raise RunFolderError(f"{spec} is damaged ({error}); start the study anew in another folder") from None


@dataclass(frozen=True)
class Step:
    """One command."""

    name: str
    words: tuple[str, ...]

    @property
    def text(self) -> str:
        """As a shell takes it."""
        return shlex.join(self.words)

    @property
    def argv(self) -> list[str]:
        """As this interpreter runs it."""
        return [sys.executable, "-m", *self.words]

    @property
    def out(self) -> Path:
        """The folder that it writes."""
        return Path(self.words[self.words.index("--out") + 1])


def _mesynth(*words: object) -> tuple[str, ...]:
    return ("mesynth", *map(str, words))


def _folder_name(generator: str) -> str:
    return re.sub(r"[^\w.-]", "_", Path(generator.split("@")[0]).name + generator[len(generator.split("@")[0]) :])


# ---------------------------------------------------------------- the database


@dataclass(frozen=True)
class Database:
    """What a study has to know of real clips."""

    clips: int
    people: int
    classes: dict[str, int]
    own_rms: bool
    """Flow as published images have it, without a unit."""
    framed: bool
    """Faces lie elsewhere in its pictures than in our crops."""

    def text(self) -> str:
        """One sentence."""
        classes = ", ".join(f"{name} {n}" for name, n in self.classes.items())
        return f"{self.clips} clips of {self.people} people: {classes}."


def look_at(folder: Path | str) -> Database:
    """What is in a prepared database.

    Raises:
        ManifestError: no manifest there; clips without flow or class, or of one person alone.
    """
    if not str(folder).strip():
        raise ConfigError("no database is named; give a folder that `mesynth prepare` wrote")
    manifest = Manifest.read(folder)
    labels = manifest.labels("3")
    counts = {name: int((labels == name).sum()) for name in _CLASSES.split(",")}
    people = len(set(manifest.subject_keys()[labels != ""]))
    if not any(counts.values()):
        raise ManifestError(f"no clip of {folder} has one of the classes {_CLASSES}; there is nothing to recognize")
    if people < 2:
        raise ManifestError(f"the clips of {folder} show {people} person; leaving one out needs at least 2")
    first = next((row for row in manifest if row.flow is not None), None)
    if first is None:
        raise ManifestError(f"the clips of {folder} have no flow; run `mesynth prepare` on them first")
    own_rms = in_own_rms(read_flow(manifest.root, first))
    framing = known_framing(manifest)
    # Flow in pixels of which nothing is recorded is that of our own crops: published images alone may lie anyhow.
    framed = own_rms if framing is None else not (framing.origin == MADE and framing.framing == OWN)
    return Database(len(manifest), people, counts, own_rms, framed)


# ---------------------------------------------------------------- estimates


@dataclass(frozen=True)
class Estimate:
    """Seconds by step, trainings, and bytes."""

    seconds: dict[str, float]
    cells: int
    bytes: int

    @property
    def total(self) -> float:
        """Seconds."""
        return sum(self.seconds.values())

    def text(self) -> str:
        """One sentence."""
        parts = ", ".join(f"{name} {duration(seconds)}" for name, seconds in self.seconds.items())
        return (
            f"About {duration(self.total)} on this machine and {size_text(self.bytes)} of disk ({parts}); "
            f"{self.cells} trainings of all folds."
        )


def size_text(n: float) -> str:
    """Bytes as people say them.

    >>> size_text(1_530_000), size_text(27e9)
    ('1.5 MB', '27 GB')
    """
    for unit in ("bytes", "kB", "MB", "GB"):
        if n < 1000 or unit == "GB":
            break
        n /= 1000
    return f"{n:.0f} {unit}" if n >= 9.95 or unit == "bytes" else f"{n:.1f} {unit}"


_timed: dict[tuple[str, str], float] = {}
"""What was measured by this process: (what, of which) -> seconds."""


def _seconds_a_clip(name: str) -> float:
    if ("clip", name) not in _timed:
        if name == FLOW_PRIOR:
            return _seconds_a_flow_image()
        from mesynth.api import load_generator
        from mesynth.core.facs import parse_request
        from mesynth.core.profiles import PROFILES
        from mesynth.head.model import HeadModel
        from mesynth.motion.prior import Face

        generator = load_generator(name)
        model = HeadModel.load()
        points = np.asarray(model.uv[model.landmarks], np.float32)
        low, high = points.min(0), points.max(0)
        landmarks = ((points - low) / (high - low).max() * 0.7 * SIZE + 0.15 * SIZE).astype(np.float32)
        picture = np.random.default_rng(0).integers(90, 160, (SIZE, SIZE, 3)).astype(np.uint8)
        face = Face(picture, landmarks)
        n = frame_count(SECONDS, FPS)
        for turn in range(2):  # the first compiles and loads
            began = time.perf_counter()
            generator.generate(face, parse_request("12=C,4=B"), PROFILES["casme2"], n_frames=n, fps=FPS, seed=turn)
            _timed["clip", name] = time.perf_counter() - began
    return _timed["clip", name]


_TIMED_IMAGES = 40


def _seconds_a_flow_image() -> float:
    from mesynth.api import generate

    for count in (1, _TIMED_IMAGES):  # the first compiles and loads
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            generate(kind="flow", emotion="surprise", count=count, out=Path(folder) / "flow")
            _timed["clip", FLOW_PRIOR] = (time.perf_counter() - began) / count
    return _timed["clip", FLOW_PRIOR]


def _seconds_a_face() -> float:
    if ("face", "") not in _timed:
        from mesynth.api import render

        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            render(Path(folder) / "faces", subjects=1, layout="faces")
            _timed["face", ""] = time.perf_counter() - began
    return _timed["face", ""]


def _seconds_a_flow() -> float:
    if ("flow", "") not in _timed:
        from mesynth.preprocess.flow import estimate_flow

        pair = np.random.default_rng(0).integers(0, 255, (2, SIZE, SIZE, 3)).astype(np.uint8)
        for _ in range(2):
            began = time.perf_counter()
            estimate_flow(pair[0], pair[1])
            _timed["flow", ""] = time.perf_counter() - began + 0.03  # and the frames read, cropped, written
    return _timed["flow", ""]


_TRIED = (2, 6)


def _seconds_a_cell(database: Path, model: str) -> float:
    """A training of all folds. Of a network a few steps are timed, and the rest is reckoned from them."""
    key = ("cell", f"{model} {Path(database).resolve()}")
    if key not in _timed:
        from recognizer import loso
        from recognizer.config import RunConfig, load_config
        from recognizer.models import CLOSED

        real = Manifest.read(database)

        def timed(*settings: str) -> float:
            config = load_config(RunConfig, None, [f"model={model}", "seeds=[0]", *settings])
            began = time.perf_counter()
            loso(real, None, config)
            return time.perf_counter() - began

        if model in CLOSED:
            _timed[key] = timed()
        else:
            few, more = (timed(f"train.steps={steps}") for steps in _TRIED)
            steps = load_config(RunConfig, None, [f"model={model}"]).train.steps
            each = max(more - few, 0.0) / (_TRIED[1] - _TRIED[0])
            _timed[key] = max(few - _TRIED[0] * each, 0.0) + steps * each
    return _timed[key]


# ---------------------------------------------------------------- run

IDLE, RUNNING, STOPPED, FAILED, DONE = "not started", "running", "stopped", "failed", "finished"
_TAIL = 4000


@dataclass(frozen=True)
class State:
    """How a study stands."""

    status: str
    step: str = ""
    done: int = 0
    steps: int = 0
    line: str = ""
    """What the step last said of its progress: done of total, rate, time left."""
    log: str = ""
    result: Path | None = None

    def text(self) -> str:
        """One line."""
        said = [self.status.capitalize()]
        if self.step and self.status != DONE:
            said.append(f"step {min(self.done + 1, self.steps)} of {self.steps}: {self.step}")
        if self.line and self.status == RUNNING:
            said.append(self.line)
        return ", ".join(said) + "."


_PROGRESS = re.compile(r"^[\w -]+: [\d,]+ of [\d,]+.*")


@dataclass
class Runner:
    """Runs studies, one at a time, each step in a process; stopped with this process at the latest."""

    study: Study | None = None
    _process: subprocess.Popen[bytes] | None = None
    _thread: threading.Thread | None = None
    _stopping: threading.Event = field(default_factory=threading.Event)
    _status: str = IDLE
    _at: int = 0
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def start(self, study: Study) -> None:
        """Begin, or go on with a study that was stopped.

        Raises:
            ConfigError: a study is running. RunFolderError: see :meth:`Study.write`; others as :meth:`Study.steps`.
        """
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                running = self.study.folder.name if self.study else ""
                raise ConfigError(f"the study {running} is running; stop it first")
            steps = study.steps()
            study.write()
            self.study, self._status, self._at = study, RUNNING, 0
            self._stopping.clear()
            self._thread = threading.Thread(target=self._run, args=(study, steps), name="study", daemon=True)
            self._thread.start()
        atexit.register(self.stop)

    def stop(self, wait: float = 30.0) -> None:
        """Interrupt the step at work as Ctrl-C does, and wait until it has left a folder that goes on."""
        with self._lock:
            thread, process = self._thread, self._process
        if thread is None or not thread.is_alive():
            return
        self._stopping.set()
        if process is not None and process.poll() is None:
            _interrupt(process)
            try:
                process.wait(wait)
            except subprocess.TimeoutExpired:
                process.kill()
        if thread is not threading.current_thread():
            thread.join(wait)

    def wait(self, seconds: float) -> str:
        """Until it is over, or so long; the status."""
        if self._thread is not None:
            self._thread.join(seconds)
        return self._status

    def state(self, folder: Path | None = None) -> State:
        """Of the study that runs or ran here, or of another in ``folder``."""
        mine = self.study is not None and (folder is None or self.study.folder == folder)
        if not mine and folder is None:
            return State(IDLE)
        place = self.study.folder if mine and self.study is not None else folder
        assert place is not None
        log = tail(place / LOG)
        page = place / RESULT / PAGE
        result = page if page.is_file() else None
        if not mine:
            known = (place / SPEC).is_file()
            return State(DONE if result else STOPPED if known else IDLE, log=log, result=result)
        assert self.study is not None
        steps = self.study.steps()
        lines = [line for line in log.splitlines() if _PROGRESS.match(line)]
        at = min(self._at, len(steps) - 1)
        line = lines[-1] if lines and self._status == RUNNING else ""
        return State(self._status, steps[at].name, self._at, len(steps), line, log, result)

    def _run(self, study: Study, steps: list[Step]) -> None:
        status = DONE
        try:
            with open(study.folder / LOG, "ab") as log:
                for number, step in enumerate(steps):
                    self._at = number
                    if self._stopping.is_set():
                        status = STOPPED
                        break
                    code = self._step(step, log)
                    if code != 0:
                        status = STOPPED if self._stopping.is_set() else FAILED
                        break
                else:
                    self._at = len(steps)
        except OSError as error:
            status = FAILED
            print(f"study {study.folder}: {error}", file=sys.stderr)
        self._status = status

    def _step(self, step: Step, log: IO[bytes]) -> int:
        log.write(f"\n$ {step.text}\n".encode())
        log.flush()
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        with self._lock:
            # A session of its own: Ctrl-C in the studio's terminal reaches it through stop(), once.
            self._process = subprocess.Popen(
                step.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment,
                start_new_session=True,
            )  # fmt: skip
            if self._stopping.is_set():
                _interrupt(self._process)
        return self._process.wait()


def _interrupt(process: subprocess.Popen[bytes]) -> None:
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
    else:  # Windows
        process.terminate()


def tail(log: Path, most: int = _TAIL) -> str:
    """The last lines of a log, at most so many characters; "" where there is none."""
    try:
        with open(log, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - most))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return text if len(text) < most else text.partition("\n")[2]


_NAME = re.compile(r"[\w][\w. -]{0,60}")


def study_folder(studio: Path, name: str) -> Path:
    """Where a study of that name lies. Raises ConfigError for what is no plain name."""
    name = name.strip()
    if not _NAME.fullmatch(name):
        raise ConfigError(f"'{name[:60]}' is no name for a study; take letters, digits, - and _")
    return studio / "studies" / name


def recognizers() -> list[str]:
    """Names of the recognizers that ship, those in closed form first."""
    from recognizer.models import CLOSED, MODELS

    return sorted(MODELS, key=lambda name: (name not in CLOSED, name))
