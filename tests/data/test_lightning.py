"""The example with Lightning in docs/training-code.md is run as it stands there."""

from __future__ import annotations

import re
import shutil
import warnings
from pathlib import Path

import pytest

from tests.corpus.exports import corpora

PAGE = Path(__file__).parents[2] / "docs" / "training-code.md"


def test_the_documented_example_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lightning")
    code = next(block for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S) if "lightning" in block)
    shutil.copytree(corpora.SAMPLES, tmp_path / "corpus")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(code, str(PAGE), "exec"), names)
    trainer = names["trainer"]
    assert trainer.global_step == 2  # type: ignore[attr-defined]  # one batch of eight clips, twice
    assert float(trainer.callback_metrics["loss"]) > 0  # type: ignore[attr-defined]
