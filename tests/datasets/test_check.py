"""Is my copy complete? The account of a release, as object, table, JSON and exit code."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console

import mesynth.cli
from mesynth.core.facs import AU_INDEX
from mesynth.datasets.casme2 import CASME2
from mesynth.datasets.check import check
from mesynth.datasets.load import load_release
from mesynth.datasets.samm import SAMM
from tests.datasets.releases.casme2 import CLIPS, WORKBOOK, ReleaseClip, write_release, write_workbook
from tests.datasets.releases.samm import SammClip, write_samm


def text(root: Path) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(check(load_release(CASME2, root)).table())
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_counts_beside_the_published_ones(tmp_path: Path) -> None:
    found = check(load_release(CASME2, write_release(tmp_path)))
    assert (found.annotated, found.usable, found.subjects) == (5, 5, 4)
    assert found.emotions == {"disgust": 2, "happiness": 1, "surprise": 1, "others": 1}
    assert found.classes["3"] == {"negative": 2, "positive": 1, "surprise": 1, "": 1}
    assert found.classes["5"] == {"disgust": 2, "happiness": 1, "repression": 0, "surprise": 1, "others": 1}
    assert found.classes["objective"] == {"I": 1, "II": 1, "III": 1, "IV": 0, "V": 0, "VI": 0, "VII": 1, "": 1}
    assert found.published.emotions["disgust"] == 63
    assert not found.complete  # 5 clips are not 255
    shown = text(tmp_path)
    assert "5 (255)" in shown
    assert "disgust 2 (63)" in shown
    assert "repression 0 (27)" in shown
    assert "NOT complete" in shown


def test_what_is_wrong_is_listed(tmp_path: Path) -> None:
    clips = [
        *CLIPS,
        ReleaseClip(name="EP90_01", on_disk=[46, 47, 50, 51, 55]),
        ReleaseClip(name="EP91_01", onset="x", on_disk=[1]),
    ]
    root = write_release(tmp_path, clips)
    spare = root / "CASME2_RAW_selected/sub01/EP99_77"
    spare.mkdir()
    found = check(load_release(CASME2, root))
    assert [p.clip for p in found.problems] == ["sub01/EP91_01"]
    assert found.missing_frames == {"sub01/EP90_01": 5}
    assert found.unannotated == ("CASME2_RAW_selected/sub01/EP99_77",)
    assert (found.annotated, found.usable) == (7, 6)
    assert found.warnings["N of N annotated frames are not on disk"] == 1
    shown = text(root)
    assert "cannot be used: sub01/EP91_01: clip sub01/EP91_01 has onset 'x'" in shown
    assert "frames missing: sub01/EP90_01: 5" in shown


def test_the_verb_writes_nothing_and_says_by_its_exit_code(tmp_path: Path) -> None:
    root = write_release(tmp_path / "release")
    before = sorted(root.rglob("*"))
    result = CliRunner().invoke(mesynth.cli.main, ["prepare", "casme2", "--root", str(root), "--check", "--json"])
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert (found["usable"], found["complete"], found["published"]["clips"]) == (5, False, 255)
    assert sorted(root.rglob("*")) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["release"]
    result = CliRunner().invoke(mesynth.cli.main, ["prepare", "casme2", "--root", str(tmp_path), "--check"])
    assert result.exit_code == 2
    assert "it holds release/" in " ".join(result.stderr.split())


def test_a_complete_copy_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from mesynth.datasets import registry
    from mesynth.datasets.database import Published

    small = replace(CASME2, published={"all": Published(clips=5, subjects=4)})
    monkeypatch.setitem(registry.DATABASES._loaded, "casme2", small)
    result = CliRunner().invoke(
        mesynth.cli.main, ["prepare", "casme2", "--root", str(write_release(tmp_path)), "--check"]
    )  # fmt: skip
    assert result.exit_code == 0
    assert result.output.rstrip().endswith("complete")
    assert "NOT complete" not in result.output


UNDECIDED = {
    "EP21_01": ("14or23", "action units not decided; '14or23': AU 14, 23 undecided"),
    "EP21_02": ("4+7?", "action units not decided; '4+7?': AU 7 undecided"),
    "EP21_03": ("smile", "'smile' not understood"),
    "EP21_04": ("4.5", "'4.5' not understood"),
}


def test_undecided_action_units_are_counted_and_never_absent(tmp_path: Path) -> None:
    clips = [*CLIPS, *(ReleaseClip(name=name, aus=cell) for name, (cell, _) in UNDECIDED.items())]
    clips += [ReleaseClip(name="EP21_05", aus="A4+7"), ReleaseClip(name="EP21_06", aus="NULL")]
    root = write_release(tmp_path, clips)
    loaded = load_release(CASME2, root)
    found = check(loaded)
    assert [note.clip for note in found.undecided] == [f"sub01/{name}" for name in UNDECIDED]
    for note, (_, says) in zip(found.undecided, UNDECIDED.values(), strict=True):
        assert says in note.reason
    assert found.action_units == {"decided": 5, "undecided": 4, "not annotated": 2}
    assert found.warnings["action units not decided"] == 4
    rows = {row.clip: row for row in loaded.manifest}
    for name in UNDECIDED:
        assert rows[name].objective_class == ""
        assert any(w.startswith("action units not decided") for w in rows[name].warnings)
    either = np.array(rows["EP21_01"].au_present).reshape(-1, 2)
    assert [either[AU_INDEX[code]].tolist() for code in (14, 23, 4)] == [[-1, -1], [-1, -1], [0, 0]]
    assert not rows["EP21_01"].aus.mask[[AU_INDEX[14], AU_INDEX[23]]].any()
    assert set(rows["EP21_03"].au_present) == set(rows["EP21_06"].au_present) == {-1}
    assert (rows["EP21_05"].objective_class, rows["EP21_06"].objective_class) == ("III", "")
    shown = text(root)
    assert "decided 5, undecided 4, not annotated 2" in shown
    assert "undecided: sub01/EP21_01: action units not decided; '14or23'" in shown
    result = CliRunner().invoke(mesynth.cli.main, ["prepare", "casme2", "--root", str(root), "--check", "--json"])
    told = json.loads(result.stdout)
    assert told["action_units"] == found.action_units
    assert [note["clip"] for note in told["undecided"]] == [note.clip for note in found.undecided]


def test_an_undecided_action_unit_is_no_target_of_a_recognizer_or_a_generator(tmp_path: Path) -> None:
    import torch

    from recognizer.models.common import au_loss

    row = load_release(CASME2, write_release(tmp_path, [ReleaseClip(aus="4+14or23")])).manifest.row(0)
    au = torch.tensor(row.au_present)[None]
    logits = torch.zeros(1, au.shape[1], requires_grad=True)
    au_loss(logits, au).backward()
    assert logits.grad is not None
    touched = logits.grad[0].reshape(-1, 2).ne(0).any(1)
    assert [bool(touched[AU_INDEX[code]]) for code in (4, 14, 23, 12)] == [
        False,
        False,
        False,
        True,
    ]  # a bare or: 4 too
    known = row.aus.mask  # what training masks its terms with
    assert [bool(known[AU_INDEX[code]].any()) for code in (4, 14, 23, 12)] == [False, False, False, True]


def test_an_undecided_action_unit_without_a_row_is_counted_as_undecided(tmp_path: Path) -> None:
    clips = [ReleaseClip(name=f"EP9{i}_01", aus=aus) for i, aus in enumerate(["13?", "10or11", "4", "AD38?"])]
    found = check(load_release(CASME2, write_release(tmp_path, clips)))
    assert len(found.undecided) == 3
    assert found.action_units == {"decided": 1, "undecided": 3, "not annotated": 0}


@pytest.mark.parametrize("cell", [8, 0, "VIII", "3?", "III or IV", "³"])
def test_an_objective_class_that_is_none_is_told_and_not_kept(cell: object, tmp_path: Path) -> None:
    clips = [SammClip(objective=cell), SammClip(name="006_1_3", objective=cell, aus="13?")]
    loaded = load_release(SAMM, write_samm(tmp_path, clips))
    found = check(loaded)
    assert [row.objective_class for row in loaded.manifest] == ["III", ""]
    assert sum(found.classes["objective"].values()) == 2
    said = [next(w for w in row.warnings if "none of I to VII" in w) for row in loaded.manifest]
    assert "III, that of the action units, stands in" in said[0]
    assert "left out" in said[1]


@pytest.mark.parametrize(
    ("word", "said"),
    [("happines", "is happiness meant?"), ("Disgsut", "is disgust meant?"), ("anger?", "undecided"),
     ("anger or fear", "undecided"), ("?", "undecided")],
)  # fmt: skip
def test_an_emotion_that_is_not_understood_is_told_and_of_no_class(word: str, said: str, tmp_path: Path) -> None:
    clips = [ReleaseClip(emotion=word), ReleaseClip(name="EP90_01", emotion="boredom")]
    loaded = load_release(CASME2, write_release(tmp_path, clips))
    first, own = loaded.manifest
    assert any(said in warning for warning in first.warnings)
    assert not own.warnings
    assert check(loaded).classes["4"] == {"negative": 0, "positive": 0, "surprise": 0, "others": 1, "": 1}


def test_a_subject_in_digits_that_are_no_decimals_is_a_problem_of_its_row(tmp_path: Path) -> None:
    root = write_release(tmp_path, [ReleaseClip(), ReleaseClip(subject="²", name="EP90_01")])
    assert [p.clip for p in load_release(CASME2, root).problems] == ["²/EP90_01"]


def test_a_name_that_no_folder_can_have_is_a_problem_of_its_row(tmp_path: Path) -> None:
    root = write_release(tmp_path, [ReleaseClip()])
    write_workbook(root / WORKBOOK, [ReleaseClip(), ReleaseClip(name="x" * 300)])
    loaded = load_release(CASME2, root)
    (problem,) = loaded.problems
    assert "with 300 letters; correct the cell" in problem.reason
    assert len(loaded.manifest) == 1
