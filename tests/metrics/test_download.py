"""Weights that are missing are fetched when asked for, and never else. The network is replaced."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from mesynth.cli import main
from mesynth.metrics.networks import ALEXNET_URL, INCEPTION_URL
from mesynth.store.manifest import Manifest
from tests.metrics.inception import random_weights

pytestmark = pytest.mark.usefixtures("flows_once")
Fetch = Callable[[str], dict[str, torch.Tensor]]


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Addresses asked for, on a machine without cached weights and without a network."""
    asked: list[str] = []

    def fail(url: str, **_: object) -> dict[str, torch.Tensor]:
        asked.append(url)
        raise URLError("Temporary failure in name resolution")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fail)
    return asked


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for i in range(3):
        cv2.imwrite(str(tmp_path / "pictures" / f"{i}.png"), rng.integers(0, 256, (20, 20, 3), dtype=np.uint8))
    return tmp_path / "pictures"


def test_fid_fetches_only_when_asked(fetched: list[str], pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verb = ["fid", str(pictures), str(pictures), "--json"]
    without = CliRunner().invoke(main, verb)
    assert without.exit_code == 0, without.output
    assert json.loads(without.stdout)["name"] == "FID-STAlexNet"
    assert fetched == []

    def fetch(url: str, **_: object) -> dict[str, torch.Tensor]:
        fetched.append(url)
        return random_weights()

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fetch)
    done = CliRunner().invoke(main, [*verb, "--download"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["name"] == "FID"
    assert fetched == [INCEPTION_URL]


@pytest.mark.parametrize("more", [[], ["--published-resize"]])
def test_fid_that_cannot_fetch_is_one_line(fetched: list[str], pictures: Path, more: list[str]) -> None:
    done = CliRunner().invoke(main, ["fid", str(pictures), str(pictures), "--download", *more])
    assert done.exit_code == 2
    (line,) = done.stderr.strip().splitlines()
    assert INCEPTION_URL in line
    assert "name resolution" in line
    assert fetched == [INCEPTION_URL]


def test_measure_asks_for_what_is_missing_and_says_what_did_not_come(
    fetched: list[str], corpora: tuple[Manifest, Manifest], tmp_path: Path
) -> None:
    verb = ["measure", "--real", str(corpora[0].root), "--synthetic", str(corpora[1].root), "--clips", "4"]
    plain = CliRunner().invoke(main, [*verb, "--out", str(tmp_path / "plain")])
    assert plain.exit_code == 0, plain.output
    assert fetched == []
    assert "used instead" not in plain.stderr
    done = CliRunner().invoke(main, [*verb, "--out", str(tmp_path / "asked"), "--download"])
    assert done.exit_code == 0, done.output
    assert fetched == [INCEPTION_URL, *([ALEXNET_URL] if importlib.util.find_spec("lpips") else [])]
    told = [line for line in done.stderr.splitlines() if "used instead of" in line]
    assert len(told) == 2
    assert INCEPTION_URL in told[1]
    report = json.loads((tmp_path / "asked" / "report.json").read_text())
    assert set(told) <= set(report["notes"])


@pytest.mark.slow
def test_processes_use_what_was_fetched_and_fetch_nothing(
    fetched: list[str], corpora: tuple[Manifest, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mesynth.metrics.base import MeasureConfig
    from mesynth.metrics.measure import measure
    from mesynth.metrics.networks import INCEPTION_FILE
    from mesynth.store.assets import hub_folder

    def fetch(url: str, **_: object) -> dict[str, torch.Tensor]:
        fetched.append(url)
        if url != INCEPTION_URL:
            raise URLError("no route")
        hub_folder().mkdir(parents=True)
        torch.save(state := random_weights(), hub_folder() / INCEPTION_FILE)
        return state

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fetch)
    config = MeasureConfig(clips=4, identity_clips=1)
    two = measure(*corpora, config, allow_download=True, workers=2)
    assert fetched.count(INCEPTION_URL) == 1
    assert two.settings["features"] == "Inception-2015"
    assert measure(*corpora, config).rows == two.rows  # the cached file, in this process
