"""Compound micro-expressions: the rule case by case, and the composite of the releases."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesynth.core.emotions import CLASSES_3
from mesynth.core.errors import DatasetLayoutError
from mesynth.core.facs import AU_CODES
from mesynth.datasets.casme import CASME
from mesynth.datasets.casme2 import CASME2
from mesynth.datasets.cmed import CLASSES, CMED, MARKS, compose, compound
from mesynth.datasets.load import load_release, usable
from mesynth.datasets.samm import SAMM
from mesynth.datasets.smic import SMIC
from tests.datasets.releases.casme import CasmeClip, write_casme
from tests.datasets.releases.casme2 import ReleaseClip, write_release
from tests.datasets.releases.casme_sq import write_casme_sq
from tests.datasets.releases.samm import SammClip, write_samm
from tests.datasets.releases.smic import write_smic

WORDS = (
    "happiness",
    "surprise",
    "disgust",
    "sadness",
    "fear",
    "anger",
    "contempt",
    "repression",
    "others",
    "tense",
    "",
)


@pytest.mark.parametrize(
    ("emotion", "codes", "name"),
    [
        ("happiness", (12,), "positive"),
        ("Happiness", (6, 12), "positive"),
        ("happiness", (1, 2, 12), "positive+surprise"),
        ("surprise", (1, 2, 12), "positive+surprise"),
        ("surprise", (1, 2), "surprise"),
        ("surprise", (1, 2, 4), "negative+surprise"),
        ("disgust", (5, 9), "negative+surprise"),
        ("happiness", (4, 12), "positive+negative"),
        ("disgust", (4, 12), "positive+negative"),
        ("disgust", (4, 7), "negative"),  # AU 4 goes with disgust in most of its clips
        ("disgust", (4, 9, 10), "negative"),
        ("disgust", (4, 9, 15), "negative+negative"),
        ("repression", (14, 17), "negative+negative"),
        ("repression", (15, 17), "negative"),
        ("sadness", (1, 15), "negative"),
        ("sadness", (1, 2), "negative+surprise"),
        ("negative", (9, 15), "negative+negative"),  # CAS(ME)^2 names the class alone
        ("negative", (9,), "negative"),
        ("negative", (), "negative"),  # SMIC has no action units
        ("others", (4, 12), "positive+negative"),
        ("others", (1, 2, 4), "negative+surprise"),
        ("others", (4,), ""),
        ("tense", (9, 15), ""),  # two negative emotions, but nothing says that the clip is negative
        ("happiness", (1, 2, 4, 12), ""),  # all three classes
        ("", (), ""),
    ],
)
def test_the_rule(emotion: str, codes: tuple[int, ...], name: str) -> None:
    assert compound(emotion, codes) == name


@given(st.sampled_from(WORDS), st.sets(st.sampled_from(AU_CODES), max_size=6))
def test_any_clip_gets_one_of_the_classes_or_none(emotion: str, codes: set[int]) -> None:
    name = compound(emotion, codes)
    assert name in {"", *CLASSES}
    if emotion and emotion not in {"others", "tense"} and name:
        own = {"happiness": "positive", "surprise": "surprise"}.get(emotion, "negative")
        assert own in name.split("+")
    if "+" not in name and name:
        assert name in CLASSES_3


@given(st.sampled_from(WORDS), st.sets(st.sampled_from(AU_CODES), max_size=6))
def test_action_units_without_a_mark_change_nothing(emotion: str, codes: set[int]) -> None:
    marks = {code for options in MARKS.values() for mark in options for code in mark}
    assert compound(emotion, codes) == compound(emotion, codes & marks)


def test_published_classes_add_up() -> None:
    assert sum(CLASSES.values()) == 1050
    assert CMED.published["all"].clips is None  # most of them are synthesised: no copy could be complete


def write(root: Path) -> Path:
    write_casme(
        root / "CASME",
        [
            CasmeClip(),
            CasmeClip(name="EP01_6", aus="12+14", emotion="Tense"),
            CasmeClip(name="EP01_7", emotion="Tense"),
        ],
    )
    write_release(
        root / "CASME2",
        [ReleaseClip(aus="4+12"), ReleaseClip(name="EP03_02", aus="1+2+4", emotion="surprise"),
         ReleaseClip(name="EP03_03", aus="?", emotion="happiness")],
    )  # fmt: skip
    macro = SammClip(name="006_1_3", kind="Macro")
    write_samm(root / "SAMM", [SammClip(aus="(R6 or R12) + R15", emotion="Sadness"), macro])
    write_smic(root / "SMIC")
    return root


def test_labels_of_the_releases(tmp_path: Path) -> None:
    loaded = load_release(CMED, write(tmp_path))
    found = {row.clip_id: row.label for row in usable(loaded)}
    assert found == {
        "casme/sub01/EP01_5/7": "negative",
        "casme/sub01/EP01_6/7": "positive+negative",
        "casme2/sub01/EP02_01f/46": "positive+negative",
        "casme2/sub01/EP03_02/46": "negative+surprise",
        "casme2/sub01/EP03_03/46": "positive",  # '?' names nothing
        "samm/006/006_1_2/5310": "negative",  # an alternative is not certain
        "smic/s01/s1_ne_01/559740": "negative",
        "smic/s01/s1_sur_01/99998": "surprise",
        "smic/s11/s11_po_02/559740": "positive",
        "smic/s20/s20_po_10/559740": "positive",
    }
    assert loaded.unannotated == ()


def test_only_the_micro_expressions_of_casme_sq_enter(tmp_path: Path) -> None:
    root = write(tmp_path)
    write_casme_sq(root / "cas(me)^2")
    loaded = load_release(CMED, root)
    assert all("without" not in note for note in loaded.release.notes)
    rows = [row for row in loaded.manifest if row.database == "casme_sq"]
    assert rows
    assert {row.expression for row in rows} == {"micro"}
    assert {row.fps for row in rows} == {30.0}


def test_people_of_different_databases_stay_apart(tmp_path: Path) -> None:
    keys = {row.subject_key for row in load_release(CMED, write(tmp_path)).manifest}
    assert {"casme/sub01", "casme2/sub01"} <= keys


def test_it_says_that_it_is_a_reconstruction_and_what_is_missing(tmp_path: Path) -> None:
    notes = load_release(CMED, write(tmp_path)).release.notes
    assert notes[-3].startswith("a reconstruction by rule")
    assert notes[-2].startswith("without CAS(ME)^2, which ")
    assert notes[-1] == (
        "classes, published in brackets: negative 3 (233), positive 3 (82), surprise 1 (70), positive+surprise 0 (74), "
        "negative+surprise 1 (236), positive+negative 2 (197), negative+negative 0 (158)"
    )


def test_from_manifests(tmp_path: Path) -> None:
    root = write(tmp_path)
    pairs = ((CASME, "CASME"), (CASME2, "CASME2"), (SAMM, "SAMM"), (SMIC, "SMIC"))
    found = compose([usable(load_release(database, root / folder)) for database, folder in pairs], root)
    assert len(found.manifest) == sum(found.counts.values()) == 10
    assert found.counts["positive+negative"] == 2
    assert found.beside.startswith("negative 3 (233), positive 3 (82)")
    assert {row.clip_id: row.label for row in found.manifest} == {
        row.clip_id: row.label for row in load_release(CMED, root).manifest
    }


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetLayoutError, match="none of the folders CASME, CASME2, CASME_SQ, SAMM, SMIC"):
        load_release(CMED, tmp_path)
