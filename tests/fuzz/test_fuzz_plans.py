"""Damaged plans: refused in one line, or the rows that were planned."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mesynth.core.errors import ManifestError
from mesynth.corpus.design import load_design, make_sources
from mesynth.corpus.plan import INFO_FILE, ROWS_FILE, PlanRow, StoredPlan, virtual_faces, write_plan_folder
from mesynth.corpus.planning import Planner
from tests.fuzz.damage import damaged, result


@pytest.fixture
def plan(tmp_path: Path) -> tuple[Path, list[PlanRow]]:
    design = load_design(None, ["rows.count=30"])
    rows = list(Planner(design, 5, make_sources(design.aus, None, ())))
    write_plan_folder(tmp_path / "plan", rows, virtual_faces(5), {"rows": 30}, {"size": 96})
    return tmp_path / "plan", rows


def test_a_whole_plan_is_what_was_planned(plan: tuple[Path, list[PlanRow]]) -> None:
    assert [row.seed for row in StoredPlan.read(plan[0])] == [row.seed for row in plan[1]]


def test_damaged_descriptions(plan: tuple[Path, list[PlanRow]]) -> None:
    folder, rows = plan
    whole, refused = (folder / INFO_FILE).read_bytes(), 0
    for bad in damaged(whole, 300):
        (folder / INFO_FILE).write_bytes(bad)
        found = result(lambda: StoredPlan.read(folder))
        refused += found is None
        assert found is None or len(found) == len(rows)
    assert refused > 100


def test_damaged_rows(plan: tuple[Path, list[PlanRow]]) -> None:
    """Found when the plan is opened or when its rows are read."""
    folder, rows = plan
    whole, refused = (folder / ROWS_FILE).read_bytes(), 0
    for bad in damaged(whole, 200):
        (folder / ROWS_FILE).write_bytes(bad)
        found = result(lambda: list(StoredPlan.read(folder)))
        refused += found is None
        assert found is None or len(found) == len(rows)
    assert refused > 100


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", '{"rows": 30}', '{"rows": 30, "faces": 3}'])
def test_descriptions_that_are_none(plan: tuple[Path, list[PlanRow]], text: str) -> None:
    (plan[0] / INFO_FILE).write_text(text)
    with pytest.raises(ManifestError):
        StoredPlan.read(plan[0])


def test_a_description_nested_too_deep(plan: tuple[Path, list[PlanRow]]) -> None:
    (plan[0] / INFO_FILE).write_text("[" * 100_000)
    result(lambda: StoredPlan.read(plan[0]))


@pytest.mark.parametrize(("key", "value"), [("rows", 10**12), ("rows", -1), ("faces", [[1]]), ("hash", 3)])
def test_descriptions_of_another_plan(plan: tuple[Path, list[PlanRow]], key: str, value: object) -> None:
    info = json.loads((plan[0] / INFO_FILE).read_text())
    (plan[0] / INFO_FILE).write_text(json.dumps(info | {key: value}))
    with pytest.raises(ManifestError):
        StoredPlan.read(plan[0])
