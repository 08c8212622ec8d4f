"""Gains change what a network is asked for, and what a generator is called."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mesynth.core import facs
from mesynth.core.errors import RunFolderError
from mesynth.core.facs import AU_INDEX
from mesynth.core.types import AUVector
from mesynth.generators.base import calibrated, load_pipeline
from mesynth.store.digests import WrittenBeforeDigests
from mesynth.store.generator_folder import INDEX, PipelineError, read_facts, save_with_gains
from tests.generators.saved import FACTS, saved


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gains") / "plain"
    saved(folder)
    return folder


def test_intensities_are_multiplied_up_to_one(plain: Path) -> None:
    facts = replace(read_facts(plain), gains={"12": 1.5, "4": 0.5})
    aus = facs.parse_request("12=0.4,L4=0.6,1=0.3")
    got = calibrated(aus, facts).intensity
    want = np.zeros_like(aus.intensity)
    want[AU_INDEX[12]], want[AU_INDEX[4]], want[AU_INDEX[1]] = 0.6, [0.3, 0], 0.3
    np.testing.assert_allclose(got, want, atol=1e-7)
    assert got.dtype == np.float32
    assert calibrated(facs.parse_request("12=0.9"), facts).intensity.max() == 1


def test_nothing_stays_nothing_and_unknown_unknown(plain: Path) -> None:
    facts = replace(read_facts(plain), gains={"12": 2.0})
    known = np.ones((25, 2), np.bool_)
    known[AU_INDEX[12]] = False
    aus = AUVector(np.zeros((25, 2), np.float32), known)
    got = calibrated(aus, facts)
    assert not got.intensity.any()
    np.testing.assert_array_equal(got.known, known)
    assert calibrated(aus, read_facts(plain)) is aus


def test_gains_travel_and_change_the_hash(plain: Path, tmp_path: Path) -> None:
    before = read_facts(plain)
    digest = save_with_gains(plain, tmp_path / "a", {"12": 1.25}, "\nnote\n", ["rendered/person0000989999"])
    after = read_facts(tmp_path / "a")
    assert after == replace(
        before, gains={"12": 1.25}, weights_sha256=digest,
        subjects_seen=(*before.subjects_seen, "rendered/person0000989999"),
    )  # fmt: skip
    assert digest != before.weights_sha256
    assert save_with_gains(plain, tmp_path / "b", {"12": 1.26}, "") != digest
    assert save_with_gains(tmp_path / "a", tmp_path / "c", {}, "") == before.weights_sha256
    assert (tmp_path / "a/README.md").read_text() == "# card\n\nnote\n"
    assert load_pipeline(tmp_path / "a").facts.gains == {"12": 1.25}
    assert load_pipeline(plain, gains={"4": 0.5}).facts.gains == {"4": 0.5}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "c"]


def test_an_index_written_before_there_were_gains_is_read(plain: Path, tmp_path: Path) -> None:
    saved(tmp_path / "old")
    index = json.loads((tmp_path / "old" / INDEX).read_text())
    assert index["facts"].pop("gains") == {}
    assert index.pop("digests") == "SHA256SUMS"
    (tmp_path / "old" / INDEX).write_text(json.dumps(index))
    (tmp_path / "old" / "SHA256SUMS").unlink()
    with pytest.warns(WrittenBeforeDigests, match="old was written before digests"):
        assert read_facts(tmp_path / "old") == read_facts(plain)


def test_a_changed_gain_is_noticed(plain: Path, tmp_path: Path) -> None:
    save_with_gains(plain, tmp_path / "a", {"12": 1.25}, "")
    file = tmp_path / "a" / INDEX
    file.write_text(file.read_text().replace("1.25", "1.5"))
    with pytest.raises(PipelineError, match="as saved"):
        read_facts(tmp_path / "a")


@pytest.mark.parametrize("gains", [{"99": 1.0}, {"smile": 1.0}, {"12": -1.0}, {"12": float("nan")}, {"12": "2"}])
def test_a_gain_must_be_a_positive_number_of_an_au(plain: Path, tmp_path: Path, gains: dict[str, float]) -> None:
    with pytest.raises(PipelineError, match=r"gain|do not fit|calibrate"):
        save_with_gains(plain, tmp_path / "a", gains, "")
    assert not (tmp_path / "a").exists()
    with pytest.raises(PipelineError):
        saved(tmp_path / "b", **{**FACTS, "gains": gains})


def test_other_folders_are_left_alone(plain: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("x")
    with pytest.raises(RunFolderError, match="no saved generator"):
        save_with_gains(plain, tmp_path / "mine", {}, "")
    with pytest.raises(PipelineError, match="missing"):
        save_with_gains(tmp_path / "mine", tmp_path / "x", {}, "")
