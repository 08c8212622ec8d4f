"""The comparer of golden bytes says what differs, and takes nothing for equal that is not."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from tests.golden.__main__ import differences, kept, needs
from tests.golden.cases import CASES


def test_differences_by_kind() -> None:
    before = {"a.tar": "1", "b.tar": "2", "r.json:asked": 0.5, "r.json:old": 3, "stdout#0:hash": "x", "r.json:n": 1}
    after = {"a.tar": "9", "r.json:target": 0.5, "r.json:new": 4, "stdout#0:hash": "y", "r.json:n": 1}
    assert differences("case", before, before)["changed"] == []
    found = differences("case", before, after)
    assert {kind: [line.split()[1] for line in lines] for kind, lines in found.items()} == {
        "changed": ["a.tar:"], "gone": ["b.tar:"], "soft": ["stdout#0:hash:"], "renamed": ["r.json:asked"],
        "removed": ["r.json:old:"], "added": ["r.json:new:"],
    }  # fmt: skip


def test_not_a_number_equals_itself_alone() -> None:
    assert differences("case", {"v": float("nan")}, {"v": float("nan")})["changed"] == []
    assert differences("case", {"v": float("nan")}, {"v": 0.0})["changed"]


def test_each_kind_of_file(tmp_path: Path) -> None:
    def values(name: str) -> dict[str, object]:
        return kept(tmp_path / name, f"case/{name}", tmp_path)

    rows = [{"n": 1, "provenance": {"seed": 5, "code_version": "0.1"}}, {"n": 2, "provenance": {"seed": 6}}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert set(values("a.parquet")) == {"n", "provenance.seed"}
    (tmp_path / "a.json").write_text(json.dumps({"rows": [{"name": "KID", "value": 1.5}], "seconds": {"load": 3}}))
    assert values("a.json") == {"rows.KID.name": "KID", "rows.KID.value": 1.5}
    for name, other in (("x", 0), ("y", 0), ("x", 1)):
        save_file({name: np.full(2, other, np.float32)}, tmp_path / f"{name}{other}.safetensors")
    x, y, z = (values(f"{name}.safetensors") for name in ("x0", "y0", "x1"))
    assert x["values"] == y["values"] != z["values"]
    assert x["names"] != y["names"]


@pytest.mark.parametrize("name", CASES)
def test_a_case_reads_what_earlier_cases_wrote(name: str) -> None:
    order = list(CASES)
    assert all(order.index(earlier) < order.index(name) for earlier in needs(name))
    CASES[name].format_map(dict.fromkeys([*order, "out"], ""))  # every name in braces is a case
