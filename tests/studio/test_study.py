"""A study: its commands, what it costs, starting, stopping and going on, and every way to be wrong."""

from __future__ import annotations

import json
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mesynth.core.errors import ConfigError, ManifestError, MesynthError, RunFolderError
from mesynth.store.manifest import Manifest
from mesynth.studio import study, view
from mesynth.studio.study import DONE, FAILED, IDLE, RUNNING, STOPPED, Runner, State, Step, Study, look_at, read_study
from tests.recognizer.corpora import write_corpus


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("database") / "real"
    write_corpus(folder, subjects=4, database="A", seed=0)
    return folder


@pytest.fixture
def asked(tmp_path: Path, database: Path) -> Study:
    return Study(
        folder=tmp_path / "first", database=database, generators=(study.FLOW_PRIOR,), ratios=(1.0,), clips=0, seeds=1
    )


def test_commands_in_their_order(asked: Study) -> None:
    several = replace(asked, generators=("motion-prior", "motion_gan", study.FLOW_PRIOR), ratios=(2, 0.5), seeds=3)
    steps = several.steps()
    assert [step.name for step in steps] == [
        "faces", "clips of motion-prior", "flow of motion-prior", "clips of motion_gan", "flow of motion_gan",
        "clips of flow-prior", "recognizers",
    ]  # fmt: skip
    ablation = steps[-1].words
    assert ablation[:2] == ("recognizer", "ablate")
    assert {"ratios=[0,0.5,2]", "seeds=[0,1,2]", "models=[lda]", "per_source=true"} <= set(ablation)
    assert ablation.count("--synthetic") == 3
    assert all(shlex.split(step.text) == list(step.words) for step in steps)
    assert all(step.argv[:2] == [sys.executable, "-m"] for step in steps)
    assert len({step.out for step in steps}) == len(steps)
    seeds = [step.words[step.words.index("--seed") + 1] for step in steps if "--seed" in step.words]
    assert len(set(seeds)) == 3  # clips of two corpora never have one seed and one generator
    assert replace(several, faces=str(asked.database)).steps()[0].name == "clips of motion-prior"
    with pytest.raises(ConfigError, match="the pictures people do not exist"):
        replace(several, faces="people").steps()


def test_cells_are_those_of_the_ablation(asked: Study, tmp_path: Path) -> None:
    """As `recognizer ablate --dry-run` counts them."""
    from recognizer.ablation import plan
    from recognizer.config import AblationConfig, load_config

    wanted = replace(asked, ratios=(0.5, 1.0), seeds=2)
    real = Manifest.read(asked.database)
    made = Manifest.read(write_corpus(tmp_path / "made", subjects=4, database="B", seed=1).root)
    config = load_config(AblationConfig, None, wanted._settings(False))
    assert wanted.cells() == plan([real], [made], config)["cells"] == 6


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"generators": ()}, "no generator is chosen"), ({"recognizers": ()}, "no recognizer"),
        ({"ratios": ()}, "no ratio"),
        ({"clips": -1}, "clips=-1 is outside"), ({"people": 0}, "people=0"), ({"seeds": 1000}, "seeds=1000"),
        ({"ratios": (0.0,)}, "ratio 0 is outside"), ({"ratios": (-1.0,)}, "ratio -1"), ({"ratios": (1e9,)}, "ratio 1e"),
    ],
)  # fmt: skip
def test_studies_that_cannot_be(change: dict[str, object], says: str, asked: Study) -> None:
    with pytest.raises(ConfigError, match=says):
        replace(asked, **change)  # type: ignore[arg-type]


def test_databases_that_cannot_be_studied(tmp_path: Path, database: Path) -> None:
    with pytest.raises(ManifestError, match=r"no manifest\.parquet"):
        look_at(tmp_path)
    with pytest.raises(ConfigError, match="no database is named"):
        look_at("  ")
    rows = list(Manifest.read(database))
    for name, kept, says in (
        ("one", [row for row in rows if row.subject == rows[0].subject], "show 1 person"),
        ("mute", [replace(row, label="", emotion="") for row in rows], "no clip of .* has one of the classes"),
        ("still", [replace(row, flow=None) for row in rows], "have no flow"),
    ):
        (tmp_path / name).mkdir()
        Manifest.from_rows(kept, tmp_path / name).write(tmp_path / name)
        with pytest.raises(ManifestError, match=says):
            look_at(tmp_path / name)
    assert look_at(database).people == 4


@pytest.mark.parametrize("ratios", [(0.5,), (1.0, 2.0), (2.6,)])
def test_there_are_as_many_clips_as_the_ratios_take(ratios: tuple[float, ...], asked: Study) -> None:
    """8 of each class: a study that would fail in its last step is refused before its first."""
    known = look_at(asked.database)
    wanted = replace(asked, ratios=ratios)
    least = wanted.count(known)
    assert least == 3 * -(-8 * max(ratios) // 1)
    assert replace(wanted, clips=least).count(known) == least
    with pytest.raises(ConfigError, match=rf"a third of clips={least - 3} is .*give at least {least}, or 0"):
        replace(wanted, clips=least - 3).steps()


def test_unknown_recognizers_and_generators_are_told_before_anything_runs(asked: Study) -> None:
    with pytest.raises(MesynthError, match="ldaa"):
        replace(asked, recognizers=("ldaa",)).cells()
    with pytest.raises(MesynthError, match="motion_gun"):
        replace(asked, generators=("motion_gun",)).estimate()
    assert not asked.folder.exists()


def test_names_of_studies(tmp_path: Path) -> None:
    assert study.study_folder(tmp_path, " my study-2 ") == tmp_path / "studies" / "my study-2"
    for name in ("", "..", "../x", "a/b", ".x", "a\\b", "x" * 99, "a\0"):
        with pytest.raises(ConfigError, match="no name for a study"):
            study.study_folder(tmp_path, name)


def test_a_folder_is_one_study(asked: Study, tmp_path: Path) -> None:
    asked.write()
    asked.write()
    assert read_study(asked.folder) == asked
    with pytest.raises(RunFolderError, match="holds another study"):
        replace(asked, clips=48).write()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="is not empty and holds no study"):
        replace(asked, folder=tmp_path / "mine").write()
    with pytest.raises(RunFolderError, match="holds no study"):
        read_study(tmp_path / "mine")
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunFolderError, match="cannot be written"):
        replace(asked, folder=tmp_path / "file" / "x").write()
    for text in ("", "{", "[]", "{}", json.dumps({"clips": "many"})):
        (asked.folder / study.SPEC).write_text(text)
        with pytest.raises(RunFolderError, match="damaged"):
            read_study(asked.folder)


def test_estimates_are_measured(asked: Study) -> None:
    found = asked.estimate()
    assert set(found.seconds) == {"clips of flow-prior", "recognizers"}
    assert all(seconds > 0 for seconds in found.seconds.values())
    assert found.cells == asked.cells()
    assert asked.count(look_at(asked.database)) == 24
    twice = replace(asked, clips=48).estimate()
    assert twice.seconds["clips of flow-prior"] == pytest.approx(2 * found.seconds["clips of flow-prior"])
    assert twice.bytes == 2 * found.bytes
    assert "trainings of all folds" in found.text()


# ---------------------------------------------------------------- run


def steps_of(*programs: str) -> list[Step]:
    class Program(Step):
        @property
        def argv(self) -> list[str]:
            return [sys.executable, "-c", self.words[0]]

    return [Program(f"step {i}", (text,)) for i, text in enumerate(programs)]


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Runner:
    return Runner()


SLOW = """
import time
for i in range(600):
    print(f"clips: {i} of 600, 10 a second, 1 min left", flush=True)
    time.sleep(0.1)
"""


def test_it_runs_and_says_how_it_stands(asked: Study, runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Study, "steps", lambda _: steps_of("print('one')", "print('two')"))
    assert runner.state() == State(IDLE)
    runner.start(asked)
    assert runner.wait(60) == DONE
    state = runner.state(asked.folder)
    assert (state.status, state.done, state.steps) == (DONE, 2, 2)
    assert "one" in state.log
    assert "two" in state.log
    assert state.result is None


def test_a_failed_step_ends_it(asked: Study, runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Study, "steps", lambda _: steps_of("import sys; sys.exit('disk full')", "print('never')"))
    runner.start(asked)
    assert runner.wait(60) == FAILED
    state = runner.state(asked.folder)
    assert (state.done, state.step) == (0, "step 0")
    assert "disk full" in state.log
    assert "\nnever" not in state.log
    assert "goes on once that is mended" in view.study_state(state)


def test_stop_is_heard_and_one_runs_at_a_time(asked: Study, runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Study, "steps", lambda _: steps_of(SLOW))
    runner.start(asked)
    deadline = time.monotonic() + 60
    while "of 600" not in runner.state(asked.folder).line:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert runner.state(asked.folder).status == RUNNING
    assert "1 min left" in runner.state(asked.folder).text()
    with pytest.raises(ConfigError, match="the study first is running; stop it first"):
        runner.start(asked)
    assert Runner().state(asked.folder).status == STOPPED  # as another studio sees it
    process = runner._process
    runner.stop()
    assert runner.wait(1) == STOPPED
    assert process is not None
    assert process.poll() not in (None, 0)
    assert "KeyboardInterrupt" in runner.state(asked.folder).log  # as Ctrl-C, not killed
    runner.stop()


def test_the_end_of_a_log(tmp_path: Path) -> None:
    assert study.tail(tmp_path / "absent") == ""
    (tmp_path / "log").write_text("".join(f"line {i}\n" for i in range(1000)))
    end = study.tail(tmp_path / "log", 100)
    assert end.startswith("line ")
    assert end.endswith("line 999\n")
    assert len(end) < 100


def test_sizes() -> None:
    assert [study.size_text(n) for n in (0, 999, 1000, 12_345, 9_940_000, 2e12)] == [
        "0 bytes", "999 bytes", "1.0 kB", "12 kB", "9.9 MB", "2000 GB",
    ]  # fmt: skip
