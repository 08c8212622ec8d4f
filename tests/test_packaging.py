"""What is installed: the locks of requirements/, scripts that install them, the wheel and three journeys from it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image
from skimage import data

from mesynth.config import recipes_root
from mesynth.core.errors import ConfigError

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = ("offline", "test")
# Two packages with one cv2 folder: scripts/lock.sh leaves out the smaller, which others of our dependencies name.
STANDS_FOR = {"opencv-python": "opencv-contrib-python"}
SYSTEMS = [
    {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"},
    {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "aarch64"},
    {"sys_platform": "darwin", "platform_system": "Darwin", "platform_machine": "arm64"},
    {"sys_platform": "win32", "platform_system": "Windows", "platform_machine": "AMD64"},
]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")


class Locked(NamedTuple):
    requirement: Requirement
    version: str
    hashes: frozenset[str]

    def applies(self, environment: dict[str, str]) -> bool:
        return self.requirement.marker is None or self.requirement.marker.evaluate(environment)


def read_lock(extras: str) -> dict[str, Locked]:
    text = (ROOT / "requirements" / f"{extras}.txt").read_text()
    found = {}
    for block in re.findall(r"^[a-z0-9].*\n(?:    .*\n)*", text, re.MULTILINE):
        requirement = Requirement(block.splitlines()[0].rstrip("\\ "))
        (pin,) = requirement.specifier
        assert pin.operator == "=="
        assert requirement.name not in found, "one version for all systems and Pythons"
        hashes = frozenset(re.findall(r"--hash=sha256:([0-9a-f]{64})\b", block))
        found[requirement.name] = Locked(requirement, pin.version, hashes)
    return found


def asked(extras: str) -> list[Requirement]:
    """What pyproject.toml asks for, the project's own extras spelt out, and what builds it."""
    named, extra = PROJECT["project"]["dependencies"], PROJECT["project"]["optional-dependencies"]
    lines = [*PROJECT["build-system"]["requires"], *named]
    waiting = [extras]
    while waiting:
        for line in extra[waiting.pop()]:
            requirement = Requirement(line)
            if requirement.name == PROJECT["project"]["name"]:
                waiting.extend(requirement.extras)
            else:
                lines.append(line)
    return [Requirement(line) for line in lines]


@pytest.mark.parametrize("extras", EXTRAS)
def test_lock_covers_every_dependency(extras: str) -> None:
    lock = read_lock(extras)
    environments = [system | {"python_version": python} for system in SYSTEMS for python in PYTHONS]
    requirements = asked(extras)
    assert len(requirements) > 30
    for requirement in requirements:
        name = canonicalize_name(requirement.name)
        entry = lock[STANDS_FOR.get(name, name)]
        assert requirement.specifier.contains(entry.version), f"{requirement} but {entry.version} is locked"
        assert all(entry.applies(environment) for environment in environments), entry.requirement


def test_lock_needs_nothing_beside_it() -> None:
    """Installed with --no-deps: what a locked package of this environment requires is locked, too."""
    lock, seen = read_lock("test"), set()
    waiting = [(name, "") for name in lock]
    while waiting:
        name, extra = waiting.pop()
        entry = lock.get(name)
        if entry is None or (name, extra) in seen or not entry.applies({}):
            continue
        seen.add((name, extra))
        try:
            if metadata.version(name) != entry.version:
                continue  # not the locked environment: another release has other requirements
        except metadata.PackageNotFoundError:
            continue  # left out on purpose (MESYNTH_TORCH=own)
        for needed in map(Requirement, metadata.requires(name) or []):
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                found = canonicalize_name(needed.name)
                found = STANDS_FOR.get(found, found)
                assert found in lock, f"{name} requires {needed}"
                assert found in STANDS_FOR.values() or needed.specifier.contains(lock[found].version), (name, needed)
                waiting.extend((found, of) for of in needed.extras)
    assert len(seen) > 50


@pytest.mark.parametrize("extras", EXTRAS)
def test_lock_names_packages_and_hashes_alone(extras: str) -> None:
    """No index, no host, no folder of the machine that made it; every entry has hashes."""
    line = re.compile(
        r"|# This file was autogenerated by uv via the following command:|#    bash scripts/lock\.sh"
        r"|# The following packages were excluded from the output:|# opencv-python"
        r"|[a-z0-9.-]+==[a-z0-9.]+( ; [a-z0-9_.'<>=!() ]+)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?"
        r"|    # via|    #(   | via )(-|-c requirements/held\.in|mesynth \(pyproject\.toml\)|[a-z0-9-]+)",
        re.IGNORECASE,
    )
    for text in (ROOT / "requirements" / f"{extras}.txt").read_text().splitlines():
        assert line.fullmatch(text), text
    assert all(entry.hashes for entry in read_lock(extras).values())


def test_locks_agree() -> None:
    offline, test = read_lock("offline"), read_lock("test")
    # One version and its files; the systems that want a package may be more with more extras.
    assert {name: locked[1:] for name, locked in offline.items()}.items() <= {
        name: locked[1:] for name, locked in test.items()
    }.items()
    held = map(Requirement, re.findall(r"^[a-z].*", (ROOT / "requirements" / "held.in").read_text(), re.MULTILINE))
    assert {entry.name: str(entry.specifier) for entry in held} == {
        name: f"=={test[name].version}" for name in ("torch", "torchvision")
    }


def test_every_dependency_has_a_lower_bound() -> None:
    for requirement in asked("test"):
        assert {bound.operator for bound in requirement.specifier} & {">=", "==", "~="}, requirement


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[Path]:
    """A virtual environment whose programs note how they were called, and succeed; except mypy."""
    programs = tmp_path / "venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("python", "ruff", "mypy", "lint-imports"):
        code = 3 if name == "mypy" else 0
        (programs / name).write_text(f'#!/bin/sh\necho "{name} $*" >>"{tmp_path}/calls"\nexit {code}\n')
        (programs / name).chmod(0o755)
    yield programs.parent
    shutil.rmtree(programs.parent)


def run(script: str, environment: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("MESYNTH_", "PYTEST_"))}
    given = {"PYTHON": sys.executable, "CHROMIUM": "none", "VENV": str(environment), "MESYNTH_INSTALLER": "pip"}
    command = ["bash", str(ROOT / "scripts" / script), *arguments]
    return subprocess.run(command, env=kept | given | settings, capture_output=True, text=True, check=False)


def calls(environment: Path) -> list[str]:
    return (environment.parent / "calls").read_text().splitlines()


def test_a_failed_check_does_not_end_the_tests(environment: Path) -> None:
    done = run("test.sh", environment, "-k", "some words", PYTEST_WORKERS="5")
    assert done.returncode == 1
    assert done.stdout.endswith(
        "== summary\nruff check: passed\nruff format: passed\nimport-linter: passed\n"
        "pytest: passed\nmypy: FAILED (exit code 3)\n"
    )
    (pytest_words,) = [call for call in calls(environment) if call.startswith("python -m pytest")]
    assert pytest_words.startswith("python -m pytest -n 5 --dist loadfile ")
    assert pytest_words.endswith(" --durations=10 -k some words")


@pytest.mark.parametrize("after", ["0", "0.5"])  # mypy has ended before the tests did, or long after
def test_all_passed_is_a_success(environment: Path, after: str) -> None:
    (environment / "bin" / "mypy").write_text(f"#!/bin/sh\nsleep {after}\n")
    done = run("test.sh", environment)
    assert done.stdout.count(": passed\n") == 5
    assert done.returncode == 0


def test_installed_once_a_lock(environment: Path) -> None:
    folder = str(environment)
    assert run("setup.sh", environment, folder, "offline").returncode == 0
    first = calls(environment)
    assert [call.split(" -r ")[0].split("--disable-pip-version-check ")[1] for call in first] == [
        "--require-hashes --no-deps",
        "--require-hashes --no-deps --no-build-isolation",
        "--no-deps --no-build-isolation --editable .",
    ]
    wanted = (ROOT / "requirements" / "offline.txt").read_text()
    assert (environment / "lock.txt").read_text() == wanted[wanted.index("\nabsl-py==") + 1 :]
    (ROOT / "requirements" / "offline.txt").touch()
    assert run("setup.sh", environment, folder, "offline").returncode == 0
    assert calls(environment) == first  # touched, not changed
    stamp = environment / ".installed-offline"
    stamp.write_text("1" + stamp.read_text())
    assert run("setup.sh", environment, folder, "offline").returncode == 0
    assert calls(environment) == first * 2


def test_own_torch_is_kept(environment: Path) -> None:
    assert run("setup.sh", environment, str(environment), "test", MESYNTH_TORCH="own").returncode == 0
    left = re.findall(r"^([a-z0-9.-]+)==", (environment / "lock.txt").read_text(), re.MULTILINE)
    out = set(read_lock("test")) - set(left)
    assert {"torch", "torchvision", "triton", "cuda-toolkit", "nvidia-cudnn-cu13"} <= out
    assert all(re.match(r"(torch|torchvision|triton|nvidia-.*|cuda-.*)$", name) for name in out)
    assert (environment / "lock.txt").read_text().count("--hash=") == sum(
        len(read_lock("test")[n].hashes) for n in left
    )


@pytest.mark.parametrize(
    ("settings", "value"),
    [
        ({"MESYNTH_VERSIONS": "oldest"}, "oldest"),
        ({"MESYNTH_VERSIONS": "lowest"}, "uv"),
        ({"MESYNTH_TORCH": "cpu"}, "cpu"),
        ({"MESYNTH_VERSIONS": "newest", "MESYNTH_TORCH": "own"}, "MESYNTH_VERSIONS=locked"),
        ({"MESYNTH_INSTALLER": "conda"}, "conda"),
    ],
)
def test_unknown_settings(environment: Path, settings: dict[str, str], value: str) -> None:
    done = run("setup.sh", environment, str(environment), "test", **settings)
    assert done.returncode == 2
    assert value in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (environment.parent / "calls").exists()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that no build/ is left in the checkout."""
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("mesynth", "recognizer", "configs"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.nb[ic]"))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, copy)
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(out)], cwd=copy, check=True, capture_output=True)
    (file,) = out.iterdir()
    return file


@pytest.mark.slow
def test_wheel_carries_the_recipes(wheel: Path, fresh: Fresh, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        carried = {name: archive.read(name) for name in archive.namelist() if name.startswith("mesynth/recipes/")}
    files = [file for file in (ROOT / "configs").rglob("*") if file.is_file()]
    assert len(files) > 20
    assert carried == {
        f"mesynth/recipes/{file.relative_to(ROOT / 'configs').as_posix()}": file.read_bytes() for file in files
    }
    # Unpacked is what an installation is: the recipes are found from there, whatever folder one works in.
    show = "from mesynth.config import recipes_root; print(recipes_root())"
    done = subprocess.run(
        [sys.executable, "-c", show], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(fresh.site)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert Path(done.stdout.strip()) == (fresh.site / "mesynth" / "recipes").resolve()


@pytest.mark.slow
def test_wheel_holds_the_product_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"mesynth", "recognizer"}
    product = {
        file.relative_to(ROOT).as_posix()
        for room in ("mesynth", "recognizer")
        for file in (ROOT / room).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts and file.suffix not in (".nbi", ".nbc")
    }
    assert product <= names, "package data that pyproject.toml forgets"


@pytest.mark.slow
def test_an_installation_has_its_recognizer(fresh: Fresh, tmp_path: Path) -> None:
    show = (
        "import recognizer; r = recognizer.load('shipped'); print(recognizer.__file__, r.config.model, r.subjects_seen)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", show], cwd=tmp_path, capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": str(fresh.site)},
    )  # fmt: skip
    assert done.stdout.split(maxsplit=1)[0] == str(fresh.site / "recognizer" / "__init__.py")
    assert "lda frozenset()" in done.stdout


def test_recipes_of_a_checkout() -> None:
    assert recipes_root() == ROOT / "configs"


def test_lost_recipes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("mesynth.config.__file__", str(tmp_path / "mesynth" / "config.py"))
    with pytest.raises(ConfigError, match=re.escape(str(tmp_path / "mesynth" / "recipes"))):
        recipes_root()


# ---------------------------------------------------------------- three journeys, from the wheel, in an empty folder


DRIVER = """
import shlex, sys
from importlib import metadata
scripts = {one.name: one for one in metadata.distribution("mesynth").entry_points if one.group == "console_scripts"}
for typed in sys.argv[1:]:
    words = shlex.split(typed)
    scripts[words[0]].load()(words[1:], standalone_mode=False)
"""
"""Types commands one after the other into one process: each of its own would import torch again."""


class Fresh(NamedTuple):
    """The wheel as an installation has it, and a folder in which nothing of the checkout lies."""

    site: Path
    folder: Path

    def python(self, code: str, *arguments: str) -> str:
        path = os.pathsep.join((str(self.site), str(ROOT / "tests" / "data")))  # the second for fake_hub alone
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=self.folder, env=os.environ | {"PYTHONPATH": path},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def type(self, *commands: str) -> None:
        self.python(DRIVER, *commands)

    def answer(self, code: str) -> Any:
        """What the code prints last, as JSON; ``mesynth`` is the wheel's."""
        found = json.loads(self.python(code).splitlines()[-1])
        assert Path(found.pop("file")).is_relative_to(self.site)
        return found


@pytest.fixture(scope="module")
def fresh(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Fresh:
    place = tmp_path_factory.mktemp("fresh")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place / "site")
    # What numba and Python made of the same files is taken along, as far as there is any: to compile it anew takes
    # longer than the journeys. It holds for a source of the same time and size.
    kinds = ("*.nb[ic]", f"*.{sys.implementation.cache_tag}.pyc")
    for made in [file for room in ("mesynth", "recognizer") for kind in kinds for file in (ROOT / room).rglob(kind)]:
        folder = made.parent.parent.relative_to(ROOT)
        (place / "site" / folder / "__pycache__").mkdir(exist_ok=True)
        shutil.copy(made, place / "site" / folder / "__pycache__")
    for file in (place / "site").rglob("*.py"):
        source = ROOT / file.relative_to(place / "site")
        if source.is_file():
            os.utime(file, ns=(source.stat().st_atime_ns, source.stat().st_mtime_ns))
    (place / "empty").mkdir()
    return Fresh(place / "site", place / "empty")


@pytest.fixture(scope="module")
def corpus(fresh: Fresh) -> Path:
    """Clips of three pictures: a photograph, and two rendered people in its folder."""
    photos = fresh.folder / "photos"
    fresh.type("mesynth render --layout faces --subjects 2 --out photos")
    Image.fromarray(data.astronaut()).save(photos / "ann.jpg", quality=95)
    fresh.type(
        "mesynth generate --faces photos --face-limits mouth=off,expression=off --emotion negative,positive,surprise"
        " --count 9 --fps 50 --size 96 --preview 1 --workers 1 --out corpus"
    )
    return fresh.folder / "corpus"


@pytest.mark.slow
def test_own_photos_to_a_training_batch(fresh: Fresh, corpus: Path) -> None:
    found = fresh.answer("""
import json, torch, mesynth
from mesynth.data import ClipDataset, clip_loader
train = ClipDataset("corpus", parts=["frames", "flow"], length=8, fit="tim", size=64, labelled=True)
batch = next(iter(clip_loader(train, batch_size=8, shuffle=True, seed=0)))
network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2 * 64 * 64, len(train.classes)))
loss = torch.nn.functional.cross_entropy(network(batch["flow"]), batch["label"])
loss.backward()
print(json.dumps({
    "file": mesynth.__file__, "clips": len(train), "classes": train.classes, "subjects": train.subjects,
    "frames": [*batch["frames"].shape, str(batch["frames"].dtype)], "flow": [*batch["flow"].shape],
    "labels": sorted(set(batch["label"].tolist())), "moved": bool((batch["flow"].abs().amax((1, 2, 3)) > 0.1).all()),
    "loss": loss.item(), "gradient": network[1].weight.grad.abs().max().item(),
}))""")
    assert found["frames"] == [8, 8, 3, 64, 64, "torch.uint8"]
    assert found["flow"] == [8, 2, 64, 64]
    assert found["moved"], "a clip whose flow is still"
    assert (found["clips"], found["classes"]) == (9, ["negative", "positive", "surprise"])
    assert len(found["subjects"]) == 3
    assert "photo/ann" in found["subjects"]
    assert found["labels"] == [0, 1, 2]
    assert 0 < found["loss"] < float("inf")
    assert found["gradient"] > 0
    assert len(list((corpus / "clips").glob("*/clip.mp4"))) == 1


@pytest.mark.slow
def test_a_prepared_database_to_the_papers_table(fresh: Fresh) -> None:
    fresh.type(
        "mesynth render --subjects 4 --clips 3 --size 96 --workers 1 --out database",
        "mesynth prepare casme2 --root database --workers 1 --out prepared",
        "recognizer study 'real=[prepared]' 'generators=[motion-prior]' 'recognizers=[lda]' 'ratios=[0,1]' 'seeds=[0]'"
        " 'controls=[shuffled]' corpora.people=2 corpora.size=64 corpora.fps=30 measures.clips=0 resamples=100"
        " --out study",
    )
    study = fresh.folder / "study"
    result = json.loads((study / "ablation" / "result.json").read_text())
    tex = (study / "tables" / "conditions.tex").read_text()
    body = tex[tex.index("\\midrule") : tex.index("\\bottomrule")]
    rows = [[cell.strip() for cell in line.rstrip("\\ ").split("&")] for line in body.splitlines() if "&" in line]
    assert [row[1] for row in rows] == ["none", "synthetic x1", "shuffled x1"]
    for row, condition in zip(rows, result["summary"], strict=True):
        uf1 = condition["uf1"]
        assert row[2] == f"{uf1['value']:.3f}"
        assert row[3] == f"[{uf1['low']:.3f}, {uf1['high']:.3f}]"
    difference = next(one["difference"] for one in result["summary"] if one["arm"] == "synthetic")
    headline = re.search(r"<h1>(.*?)</h1>", (study / "report.html").read_text())
    assert headline
    assert f"UF1 {difference['value']:+.3f}" in headline[1]


@pytest.mark.slow
def test_a_corpus_to_a_published_data_set(fresh: Fresh, corpus: Path) -> None:
    fresh.type(
        "mesynth card corpus --creator 'A lab'",
        "mesynth export corpus --to huggingface --out hub",
        "mesynth verify hub",
    )
    found = fresh.answer("""
import json, pathlib, pytest, fake_hub, mesynth
from mesynth.store.shards import read_flow, read_frames
ours, same = mesynth.load_corpus("corpus"), []
with pytest.MonkeyPatch.context() as patch, fake_hub.running(pathlib.Path("there").resolve(), patch) as hub:
    address = mesynth.push_to_hub("hub", "lab/smiles")
    back = mesynth.load_corpus("hf://datasets/lab/smiles")
    for mine, theirs in zip(ours, back, strict=True):
        same.append([
            mine.provenance == theirs.provenance, mine.label == theirs.label, mine.au_text == theirs.au_text,
            bool((read_frames(ours.root, mine) == read_frames(back.root, theirs)).all()),
            bool((read_flow(ours.root, mine) == read_flow(back.root, theirs)).all()),
        ])
    print(json.dumps({
        "file": mesynth.__file__, "address": address, "same": same, "elsewhere": str(back.root),
        "private": list(hub.private.values()), "files": hub.files("dataset", "lab/smiles"),
    }))""")
    assert found["address"] == "hf://datasets/lab/smiles"
    assert found["private"] == [True]
    assert found["same"] == [[True] * 5] * 9
    assert Path(found["elsewhere"]) not in (corpus, fresh.folder / "hub")
    assert {"README.md", "SHA256SUMS", "export.json"} <= set(found["files"])
