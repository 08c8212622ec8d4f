"""What a machine or an input refuses, whatever the verb: one line, exit code 2, nothing half-written.

And every verb that writes a folder holds it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
import numpy as np
import pyarrow as pa
import pytest
import yaml
from click.testing import CliRunner, Result
from PIL import Image

import mesynth.cli
import recognizer.cli
from mesynth.commandline import TRACEBACK, MistakeGroup, refusal
from mesynth.config import read_given, read_yaml
from mesynth.core.errors import ConfigError, RunFolderError, UnreadableImageError
from mesynth.datasets.files import picture_size
from mesynth.store.run_folder import only_maker, only_writer, write_bytes
from tests.recognizer.corpora import write_corpus

GROUPS: dict[str, click.Group] = {"mesynth": mesynth.cli.main, "recognizer": recognizer.cli.main}


def run(*words: object) -> Result:
    return CliRunner().invoke(GROUPS[str(words[0])], [str(word) for word in words[1:]])


def line_of(result: Result) -> str:
    """The one line of a mistake (how far the work had come may stand before it)."""
    raised = result.exception
    assert raised is None or isinstance(raised, SystemExit), repr(raised)
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if not line.endswith(" ...")]
    if lines[0].startswith("Usage:"):  # click's own: usage, a hint, the mistake
        lines = lines[-1:]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("Error: ")
    return lines[0]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A little of everything that verbs read."""
    root = tmp_path_factory.mktemp("world")
    for words in (
        ("mesynth", "render", "--subjects", 1, "--clips", 1, "--size", 64, "--fps", 30, "--workers", 1, "--out",
         root / "db"),
        ("mesynth", "render", "--layout", "faces", "--subjects", 1, "--size", 64, "--out", root / "faces"),
        ("mesynth", "generate", "--kind", "flow", "--emotion", "surprise", "--count", 2, "--workers", 1, "--out",
         root / "flow"),
    ):  # fmt: skip
        result = run(*words)
        assert result.exit_code == 0, result.output
    write_corpus(root / "real", size=64)
    trained = run("recognizer", "train", "--real", root / "real", "model=lda", "--out", root / "model")
    assert trained.exit_code == 0, trained.output
    return root


WRITES: dict[str, str] = {
    "render": "mesynth render --subjects 1 --clips 1 --size 64 --fps 30 --workers 1 --out @",
    "render faces": "mesynth render --layout faces --subjects 1 --size 64 --out @",
    "generate flow": "mesynth generate --kind flow --emotion surprise --count 1 --workers 1 --out @",
    "generate until": "mesynth generate --kind flow --emotion surprise --count 1 --until-accepted "
    "--keep duplicate=0.001 --workers 1 --out @",
    "generate plan": "mesynth plan corpus/sweep --subjects 2 --out @",
    "prepare": "mesynth prepare casme2 --root W/db --workers 1 --out @",
    "augment": "mesynth augment W/flow --workers 1 --out @",
    "train": "mesynth train gan/motion_tiny --device cpu --workers 1 --out @",
    "train groups": "mesynth train gan/motion_tiny --device cpu --cross-fit 2 --workers 1 --out @",
    "calibrate": "mesynth calibrate motion_gan --subjects 2 --out @",
    "filter": "mesynth filter W/flow --keep duplicate=0.01 --out @",
    "measure": "mesynth measure --real W/real --synthetic W/flow --clips 4 --out @",
    "compare": "mesynth compare --models motion-prior --subjects 2 --aus 12 --levels 1 --size 64 --out @",
    "export": "mesynth export W/flow --to flow-npy --workers 1 --out @",
    "quickstart": "mesynth quickstart --workers 1 --out @",
    "loso": "recognizer loso --real W/real model=lda --out @",
    "ablate": "recognizer ablate --real W/real --synthetic W/flow models=[lda] ratios=[0,1] seeds=[0] --out @",
    "recognizer train": "recognizer train --real W/real model=lda --out @",
    "predict": "recognizer predict --model W/model --manifest W/real --out @",
}
"""Every verb that makes a folder, as small as it goes; W is the world, @ the folder."""


def _words(command: str, world: Path, out: object) -> list[str]:
    return [word.replace("@", str(out)) if "@" in word else word.replace("W/", f"{world}/") for word in command.split()]


@pytest.mark.parametrize("verb", [verb for verb in WRITES if verb != "generate plan"])
def test_a_folder_that_is_held_is_left_alone(verb: str, world: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if verb != "calibrate":
        out.mkdir()
    with only_maker(out) if verb == "calibrate" else only_writer(out):
        said = line_of(run(*_words(WRITES[verb], world, out)))
    assert said == f"Error: {out} is being written by another process; wait for it or choose another --out"
    left = sorted(path.name for path in out.rglob("*")) if out.exists() else []
    assert left in ([], ["run.yaml"]), "who may not write has written"


@pytest.mark.parametrize("what", [("--seed", "-1"), ("--workers", "-1"), ("--fps", "1e308")], ids=" ".join)
@pytest.mark.parametrize(
    "verb",
    [
        "mesynth generate --faces W/faces --au 12=B --count 1 --landmarker mediapipe",
        "mesynth generate --kind flow --emotion surprise --count 1",
        "mesynth render --subjects 1 --clips 1 --size 64",
        "mesynth augment W/flow",
    ],
)
def test_numbers_that_count_nothing(verb: str, what: tuple[str, str], world: Path, tmp_path: Path) -> None:
    if what[0] == "--fps" and ("augment" in verb or "flow --emotion" in verb):
        pytest.skip("this verb makes no frames of its own")
    said = line_of(run(*_words(verb, world, ""), *what, "--out", tmp_path / "out"))
    assert what[0].lstrip("-") in said.lower()
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


REFUSED_LATE = (
    "mesynth train gan/motion_64_manifest data.manifests=[W/flow] --device cpu --workers 1 --out @",
    "mesynth filter W/flow --keep identity=0.1 --out @", "mesynth export W/flow --to frames --workers 1 --out @",
    "mesynth augment W/real --ratios 0.5 --workers 1 --out @",
    "mesynth measure --real W/real --synthetic W/real --out @",
    "mesynth generate --faces W/faces --model flow_gan --emotion surprise --count 1 --workers 1 --out @",
    "recognizer loso --real W/flow model=lda --out @", "recognizer loso --model W/model --real W/real --out @",
    "recognizer ablate --real W/real --synthetic W/flow models=[lda] counts=[99] seeds=[0] --out @",
    "recognizer train --synthetic W/flow model=lda --out @",
    "recognizer predict --model shipped --video W/faces --fps 30 --out @",
)  # fmt: skip
"""What is only seen in the data, long after the options."""


@pytest.mark.parametrize("command", REFUSED_LATE)
def test_a_refused_run_leaves_no_folder(command: str, world: Path, tmp_path: Path) -> None:
    line_of(run(*_words(command, world, tmp_path / "runs" / "out")))
    assert list(tmp_path.iterdir()) == []


def _hostile(folder: Path) -> dict[str, Path]:
    """Paths that no file system takes, or that lead nowhere."""
    (folder / "file").write_text("x")
    (folder / "loop").symlink_to(folder / "loop")
    os.mkfifo(folder / "pipe")
    return {
        "256 letters": folder / ("x" * 256),
        "umlauts of 256 bytes": folder / ("\u00fc" * 128),
        "longer than a path": folder.joinpath(*["y" * 200] * 30),
        "NUL": folder / "a\0b",
        "no text": folder / "a\udcff",
        "a link to itself": folder / "loop",
        "behind a link to itself": folder / "loop" / "out",
        "inside a file": folder / "file" / "out",
        "a file": folder / "file",
        "a pipe": folder / "pipe",
    }


KINDS = (
    "256 letters", "umlauts of 256 bytes", "longer than a path", "NUL", "no text", "a link to itself",
    "behind a link to itself", "inside a file", "a file", "a pipe",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_places_that_cannot_be_written(kind: str, world: Path, tmp_path: Path) -> None:
    place = _hostile(tmp_path)[kind]
    before = sorted(tmp_path.iterdir())
    for verb, command in WRITES.items():
        said = line_of(run(*_words(command, world, place)))
        assert "Errno" not in said, verb
    assert sorted(tmp_path.iterdir()) == before, "something was written"


READS = (
    "mesynth generate --faces @ --emotion surprise --count 1 --out OUT", "mesynth generate --plan @ --out OUT",
    "mesynth generate --faces W/faces --model @ --emotion surprise --count 1 --out OUT",
    "mesynth generate --faces W/faces --landmarker @ --emotion surprise --count 1 --out OUT",
    "mesynth generate --kind flow --emotion @ --count 1 --out OUT",
    "mesynth generate --kind flow --au @ --count 1 --out OUT", "mesynth plan @ --out OUT",
    "mesynth plan corpus/sweep --faces @ --out OUT",
    "mesynth plan corpus/sweep --subjects 2 --aus-from @ --out OUT",
    "mesynth prepare casme2 --root @ --out OUT", "mesynth prepare casme2 --root @ --check",
    "mesynth prepare samm --root @ --check", "mesynth prepare generic --root @ --out OUT",
    "mesynth prepare @ --root W/db --out OUT", "mesynth augment @ --out OUT", "mesynth train @ --out OUT",
    "mesynth train gan/motion_tiny run.start=@ --device cpu --out OUT",
    "mesynth train gan/motion_64_manifest data.manifests=[@] --device cpu --out OUT",
    "mesynth calibrate @ --out OUT", "mesynth filter @ --keep duplicate=0.01 --out OUT",
    "mesynth filter W/flow --keep @ --out OUT", "mesynth measure --real @ --synthetic W/flow --out OUT",
    "mesynth measure --real W/real --synthetic W/flow --inception-weights @ --out OUT",
    "mesynth compare --models @ --out OUT", "mesynth export @ --to flow-npy --out OUT", "mesynth card @",
    "mesynth card W/flow --quality @ --out OUT", "mesynth verify @", "mesynth fid @ W/faces",
    "mesynth fid W/faces W/faces --inception-weights @", "mesynth quickstart --photo @ --out OUT",
    "recognizer loso --real @ model=lda --out OUT", "recognizer loso --real W/real --synthetic @ model=lda --out OUT",
    "recognizer loso @ --real W/real --out OUT", "recognizer predict --model @ --manifest W/real --out OUT",
    "recognizer predict --model W/model --manifest @ --out OUT",
    "recognizer predict --model W/model --video @ --out OUT",
)  # fmt: skip


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "a pipe"])
def test_names_that_cannot_be_read(kind: str, world: Path, tmp_path: Path) -> None:
    place = _hostile(tmp_path)[kind]
    before = sorted(tmp_path.iterdir())
    for command in READS:
        line_of(run(*[word.replace("OUT", str(tmp_path / "out")) for word in _words(command, world, place)]))
        left = [path.name for path in (tmp_path / "out").rglob("*")] if (tmp_path / "out").exists() else []
        assert not left or "run.yaml" in left, command
    assert sorted(p for p in tmp_path.iterdir() if p.name != "out") == before


def test_a_device_or_a_pipe_is_not_replaced_by_a_file(tmp_path: Path, world: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(RunFolderError, match="is a device or a pipe"):
        write_bytes(pipe, b"card")
    assert "is a device or a pipe" in line_of(run("mesynth", "card", world / "flow", "--out", pipe))
    assert pipe.is_fifo()
    assert [p.name for p in tmp_path.iterdir()] == ["pipe"]


# ---------------------------------------------------------------- the one translation


def _raising(error: BaseException) -> Result:
    group = MistakeGroup("group")

    @group.command()
    def verb() -> None:
        raise error

    return CliRunner().invoke(group, ["verb"])


def _too_large() -> MemoryError:
    with pytest.raises(MemoryError) as error:
        np.empty(1 << 60, np.uint8)
    return error.value


REFUSED: list[tuple[BaseException, str]] = [
    *((OSError(number, os.strerror(number), "runs/a"), words) for number, words in [
        (errno.ENOSPC, "the disk of runs/a is full; make room"),
        (errno.EDQUOT, "your quota on the disk of runs/a is used up"),
        (errno.EACCES, "no permission for runs/a"), (errno.EPERM, "no permission for runs/a"),
        (errno.EROFS, "runs/a lies on a disk that is read-only"),
        (errno.ENAMETOOLONG, "longer than a file system takes"),
        (errno.ELOOP, "runs/a is a link that leads to itself"), (errno.ENOTDIR, "a part of runs/a is a file"),
        (errno.EISDIR, "runs/a is a folder where a file is meant"), (errno.ENOENT, "runs/a is missing; check the path"),
        (errno.EEXIST, "runs/a exists already"), (errno.ENOTEMPTY, "runs/a is not empty"),
        (errno.EMFILE, "too many files are open (runs/a); raise the limit with ulimit -n"),
        (errno.ENFILE, "too many files are open on this machine"), (errno.EIO, "the disk of runs/a failed"),
        (errno.ENODEV, "a disk that is not there any more"),
        (errno.ESTALE, "a network disk that is not there any more"),
        (errno.ETXTBSY, "is being used by another program"), (errno.ENOMEM, "memory ran out"),
        (errno.EXDEV, f"runs/a: {os.strerror(errno.EXDEV)}; check the path and the disk"),
    ]),
    (OSError(errno.ENOSPC, "No space left on device"), "the disk of a file is full"),
    (OSError("cannot be opened"), "a file: cannot be opened; check the path"),
    (OSError(errno.ENOENT, "x", b"by\xfftes"), "is missing"),
    (MemoryError(), "memory ran out; take fewer --workers"),
    (_too_large(), "memory ran out (Unable to allocate 1"),
    (RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"), "memory ran out"),
    (RuntimeError("can't start new thread"), "memory ran out"),
    (ImportError("libtorch.so: failed to map segment from shared object"), "memory ran out (libtorch.so"),
    (RecursionError("maximum recursion depth exceeded"), "the input is nested too deeply"),
    (OverflowError("Python int too large to convert to C long"), "a number is too large for what it counts"),
    (pa.ArrowInvalid("Value 1099511627776 too large to fit in C integer type"), "a number is too large"),
    (UnicodeEncodeError("latin-1", "sub\u7b11", 3, 4, "ordinal not in range"), "'sub\u7b11' is no text in latin-1"),
    (UnicodeEncodeError("utf-8", "a\udcff", 1, 2, "surrogates not allowed"), "is no text in utf-8; rename it"),
    (UnicodeDecodeError("utf-8", b"\xff" * 999, 0, 1, "invalid start byte"), "is no text in utf-8"),
    (ValueError("embedded null byte"), "holds a NUL character"),
    (ValueError("embedded null character in path"), "holds a NUL character"),
    (Image.DecompressionBombError("Image size (9 pixels) exceeds"), "a picture is larger than any frame"),
]  # fmt: skip


@pytest.mark.parametrize(("error", "words"), REFUSED, ids=lambda value: type(value).__name__)
def test_what_the_machine_refuses_is_one_line(
    error: BaseException, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = line_of(_raising(error))
    assert words in said.replace("\\u7b11", "\u7b11")
    assert len(said) < 500
    monkeypatch.setenv(TRACEBACK, "1")
    assert _raising(error).exception is error


@pytest.mark.parametrize(
    "error",
    [KeyError("clip"), ValueError("no array"), TypeError("x"), AssertionError(), RuntimeError("shapes differ"),
     ImportError("no module named x"), ZeroDivisionError(), IndexError("list index out of range")],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_a_fault_of_the_program_keeps_its_traceback(error: Exception) -> None:
    assert refusal(error) == ""
    assert _raising(error).exception is error


def test_a_reader_that_has_enough_is_no_mistake() -> None:
    """``mesynth ... | head``: click ends with 1 and says nothing."""
    result = _raising(BrokenPipeError(errno.EPIPE, "Broken pipe"))
    assert (result.exit_code, result.output) == (1, "")


# ---------------------------------------------------------------- shapes of input


def _bomb(levels: int, merged: bool) -> str:
    lines = ["a0: &a0 {x: 1}"]
    for i in range(1, levels):
        nine = ",".join([f"*a{i - 1}"] * 9)
        lines.append(f"a{i}: &a{i} " + (f"{{<<: [{nine}]}}" if merged else f"[{nine}]"))
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (_bomb(40, False), "stands for more than 100,000 values"),
        (_bomb(40, True), "stands for more than 100,000 values"),
        ("[" * 2_000, "is nested more than 100 deep"),
        ("a: " + "[" * 101 + "]" * 101, "is nested more than 100 deep"),
        ("\n".join(["a0: &a0 [1]", *(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 200))]), "nested more than 100 deep"),
        ("&a [*a]", "an alias inside what it names"),
        ("a: &a {b: *a}", "an alias inside what it names"),
        ("a: 2024-02-31", "is no YAML: day is out of range"),
        ("a: \0", "is no YAML"),
        ("a: " + "9" * 5000, "is no YAML: Exceeds the limit"),
        ("{[a]: b}", "is no YAML"),
        ("!!python/object/apply:os.system [ls]", "is no YAML: could not determine a constructor"),
        ("\ta: 1", "is no YAML"),
        ("a: {<<: 3}", "is no YAML"),
        ("a: [1", "is no YAML"),
        ("[1, 2]", "holds a list"),
    ],
)
def test_a_recipe_that_is_none_is_one_line(text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_given(file)
    assert words in line_of(run("mesynth", "train", file, "--out", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("text", "words"), [("[" * 2_000, "nested more than 100 deep"), ("a: [1", "is no YAML")])
def test_without_libyaml_the_same_is_said(
    text: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mesynth.config._Loader", yaml.SafeLoader)
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_given(file)


@pytest.mark.parametrize(
    "setting",
    ["a=" + "[" * 1500, "a=&x [*x]", "a=" + "9" * 5000, "a=\0", "a=\ud800", "." * 5000 + "=1", "a=" + "{b: " * 300],
    ids=range(7),
)
def test_a_setting_that_is_none_is_one_line(setting: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_given(None, [setting])
    assert len(str(error.value)) < 500


def test_yaml_is_counted_as_it_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_yaml("a: &a [1, 2]\nb: {c: *a}\n") == {"a": [1, 2], "b": {"c": [1, 2]}}
    assert read_yaml("") is None
    assert read_yaml("base: &b {x: 1}\nown: {<<: *b, y: 2}") == {"base": {"x": 1}, "own": {"x": 1, "y": 2}}
    monkeypatch.setattr("mesynth.config._MOST_VALUES", 10)
    assert read_yaml("[1,2,3,4,5,6,7,8,9]") == list(range(1, 10))
    with pytest.raises(OverflowError):
        read_yaml("[1,2,3,4,5,6,7,8,9,10]")


def _png(width: int, height: int) -> bytes:
    """A picture's header alone."""
    import struct
    import zlib

    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body)) + b"\0" * 8


@pytest.mark.parametrize(("width", "height"), [(100_000, 1_000), (2**31 - 1, 2**31 - 1), (200_000, 200_000), (0, 0)])
def test_a_header_that_claims_too_much_is_no_picture(width: int, height: int, tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(_png(width, height))
    with pytest.raises(UnreadableImageError):
        picture_size(tmp_path, "1.png")


CELLS = ("x" * 400, "\u00fc" * 200, "a\0b", "9" * 400, "1e308", "../" * 100, "\u7b11", "-1", "nan")


@pytest.mark.parametrize("column", ["video", "subject", "onset", "apex", "offset", "aus", "emotion", "fps", "clip"])
def test_cells_that_no_file_system_or_number_takes(column: str, tmp_path: Path) -> None:
    """Read, left out with a reason or refused in one line; never a traceback."""
    for clip in "ab":
        (tmp_path / clip).mkdir()
        for frame in range(1, 5):
            Image.new("RGB", (64, 64), (frame, 90, 90)).save(tmp_path / clip / f"{frame}.png")
    plain = dict.fromkeys(("video", "clip"), "a") | {
        "subject": "s1", "onset": "1", "apex": "2", "offset": "4", "aus": "1+2", "emotion": "surprise", "fps": "100",
    }  # fmt: skip
    for cell in CELLS:
        rows = [plain, plain | {"video": "b", "clip": "b", column: cell}]
        text = "".join(",".join(line) + "\n" for line in (list(plain), *(list(row.values()) for row in rows)))
        (tmp_path / "annotations.csv").write_text(text, encoding="utf-8")
        result = run("mesynth", "prepare", "generic", "--root", tmp_path, "--check")
        if result.exit_code == 2:
            line_of(result)
        else:
            assert result.exit_code in (0, 1), (cell, repr(result.exception))
            assert result.exception is None or isinstance(result.exception, SystemExit)


# ---------------------------------------------------------------- processes of their own


def _process(words: Sequence[object], environment: Mapping[str, str], kib: int = 0) -> tuple[int, bytes, bytes]:
    """Run a module; ``kib``: of address space, limited by a shell, as a fork of this process could wait for ever."""
    limited = ["sh", "-c", f'ulimit -v {kib}; exec "$@"', "sh"] if kib else []
    done = subprocess.run(
        [*limited, sys.executable, "-m", *map(str, words)], capture_output=True, check=False,
        env={**os.environ, **environment}, cwd=Path(__file__).parents[2], timeout=120,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("mib", [250, 400])
def test_too_little_memory_is_one_line(mib: int, tmp_path: Path) -> None:
    words = ("mesynth", "generate", "--kind", "flow", "--emotion", "surprise", "--count", 1, "--out", tmp_path / "out")
    code, _, said = _process(words, {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}, mib << 10)
    assert code == 2, said
    assert said.count(b"\n") == 1, said
    assert said.startswith(b"Error: memory "), said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "environment",
    [{"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONIOENCODING": "latin-1"}],
    ids=["C", "ASCII", "latin-1 pipe"],
)
def test_names_that_the_terminal_cannot_show(environment: dict[str, str], tmp_path: Path) -> None:
    """Umlauts and Chinese in folders, with a pipe or a locale that has neither: done, or said in one line."""
    out = tmp_path / "M\u00fcller \u5fae\u8868\u60c5"
    words = ("mesynth", "plan", "corpus/sweep", "aus.fixed=[1=A]", "--subjects", 2, "--out", out)
    code, _, said = _process(words, environment)
    if code == 0:
        assert sorted(p.name for p in out.iterdir()) == ["SHA256SUMS", "design.yaml", "plan.json", "plan.parquet"]
    else:
        assert code == 2
        assert said.count(b"\n") == 1, said
        assert said.startswith(b"Error: ")
        assert b"PYTHONUTF8=1" in said
        assert list(tmp_path.iterdir()) == []
    assert b"Traceback" not in said
    assert code == (2 if environment.get("PYTHONUTF8") == "0" else 0), said
    code, _, said = _process(("mesynth", "card", tmp_path / "\u00fc\u7b11"), environment)
    assert (code, said.count(b"\n")) == (2, 1), said
    assert b"no manifest.parquet in" in said
