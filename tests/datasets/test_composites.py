"""The composite of MEGC 2019: by its rule, by its list, what is said where they differ; CMED, reconstructed by rule."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesynth.core.emotions import CLASSES_3
from mesynth.core.errors import DatasetLayoutError
from mesynth.core.facs import AU_CODES
from mesynth.datasets.casme import CASME
from mesynth.datasets.casme2 import CASME2
from mesynth.datasets.check import check
from mesynth.datasets.composites import (
    CMED,
    CMED_CLASSES,
    EXPECTED,
    MARKS,
    MEGC2019,
    compose_cmed,
    compose_megc2019,
    compound,
    differences,
    read_list,
)
from mesynth.datasets.database import plain_id
from mesynth.datasets.load import Correction, Loaded, load_release, usable
from mesynth.datasets.samm import SAMM
from mesynth.datasets.smic import SMIC
from mesynth.store.manifest import Manifest
from tests.datasets.releases.casme import CasmeClip, write_casme
from tests.datasets.releases.casme2 import ReleaseClip, write_release
from tests.datasets.releases.casme_sq import write_casme_sq
from tests.datasets.releases.megc2019 import (
    SMALL_LIST,
    SMALL_SAMM,
    full_casme2,
    full_samm,
    full_smic,
    write_list,
    write_megc2019,
)
from tests.datasets.releases.samm import SammClip, write_samm
from tests.datasets.releases.smic import write_smic

# ---------------------------------------------------------------- MEGC 2019


SMALL = {
    ("casme2/sub01", "EP02_01f", "negative"),
    ("casme2/sub01", "EP03_02", "positive"),
    ("casme2/sub26", "EP18_51", "surprise"),
    ("samm/006", "006_1_2", "negative"),
    ("samm/007", "007_3_1", "negative"),
    ("smic/s01", "s1_ne_01", "negative"),
    ("smic/s01", "s1_sur_01", "surprise"),
}


def found(manifest: Manifest) -> set[tuple[str, str, str]]:
    return {(row.subject_key, row.clip, row.label) for row in manifest}


def manifests(root: Path) -> list[Manifest]:
    pairs = ((CASME2, "CASME2"), (SAMM, "samm"), (SMIC, "SMIC"))
    return [usable(load_release(database, root / folder)) for database, folder in pairs]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("megc")
    return write_megc2019(root, full_casme2(), full_samm(), full_smic())


@pytest.fixture(scope="module")
def loaded_full(full: Path) -> Loaded:
    return load_release(MEGC2019, full)


# ---------------------------------------------------------------- the rule


def test_the_rule_on_small_releases(tmp_path: Path) -> None:
    loaded = load_release(MEGC2019, write_megc2019(tmp_path))
    assert found(usable(loaded)) == SMALL
    assert loaded.unannotated == ()  # clips the rule leaves out are not unannotated


def test_rows_keep_their_own_database(tmp_path: Path) -> None:
    by_clip = {row.clip: row for row in load_release(MEGC2019, write_megc2019(tmp_path)).manifest}
    casme2, samm, smic = (by_clip[name] for name in ("EP02_01f", "006_1_2", "s1_ne_01"))
    assert casme2.clip_id == "casme2/sub01/EP02_01f/46"
    assert (casme2.fps, samm.fps, smic.fps) == (200.0, 200.0, 100.0)
    assert [row.provenance.licence for row in (casme2, samm, smic)] == [
        "CASME II licence agreement", "SAMM licence agreement", "SMIC licence agreement",
    ]  # fmt: skip
    assert samm.provenance.subjects_seen == ("samm/006",)
    assert (smic.provenance.kind, smic.provenance.database) == ("real", "smic")
    assert samm.frame_files[0] == "samm/SAMM/006/006_1_2/006_05310.jpg"
    assert (tmp_path / samm.frame_files[0]).is_file()
    assert casme2.emotion == "disgust"  # the database's own word


def test_published_counts_follow_from_published_emotions(loaded_full: Loaded) -> None:
    """As many clips of each emotion as the three releases have give exactly the composite's counts."""
    manifest = usable(loaded_full)
    assert len(manifest) == 442
    assert Counter(row.label for row in manifest) == {"negative": 250, "positive": 109, "surprise": 83}
    assert len({row.subject_key for row in manifest}) == 68
    for name, expected in EXPECTED.items():
        rows = [row for row in manifest if row.database == name]
        counts = Counter(row.label for row in rows)
        assert dict(counts) | {"clips": len(rows), "subjects": len({r.subject for r in rows})} == expected
    keys = {row.subject_key for row in manifest}
    assert not keys & {"casme2/sub10", "casme2/sub18", "samm/025"}


def test_counts_are_told_beside_the_published_ones(loaded_full: Loaded) -> None:
    loaded = loaded_full
    assert "casme2: negative 88 (88), positive 32 (32), surprise 25 (25), clips 145 (145), subjects 24 (24)" in (
        loaded.release.notes
    )
    assert "all: negative 250 (250), positive 109 (109), surprise 83 (83), clips 442 (442), subjects 68 (68)" in (
        loaded.release.notes
    )
    report = check(loaded)
    assert (report.annotated, report.published.clips, report.published.subjects) == (442, 442, 68)
    assert report.complete


def test_corrections_apply_with_the_lines_own_database(tmp_path: Path) -> None:
    root = write_megc2019(tmp_path)
    fixes = [
        Correction("casme2", "sub01/EP02_01f", "apex", "50", "52", "seen on the video"),
        Correction("megc2019", "006/006_1_2", "apex", "5313", "5314", "of no database"),
    ]
    loaded = load_release(MEGC2019, root, corrections=fixes)
    by_clip = {row.clip: row for row in loaded.manifest}
    assert (by_clip["EP02_01f"].apex, by_clip["006_1_2"].apex) == (52, 5313)
    assert [p.clip for p in loaded.corrected] == ["casme2/sub01/EP02_01f"]


# ---------------------------------------------------------------- the list


def test_the_list_decides_and_agrees(tmp_path: Path) -> None:
    root = write_megc2019(tmp_path)
    write_list(root)
    loaded = load_release(MEGC2019, root)
    assert found(usable(loaded)) == SMALL
    assert "combined_3class_gt.csv decides; the rule disagrees on 0 clips" in loaded.release.notes
    assert loaded.release.sources[-1] == "combined_3class_gt.csv"
    assert found(load_release(MEGC2019, root, part="rule").manifest) == SMALL


def test_every_difference_is_listed(tmp_path: Path) -> None:
    root = write_megc2019(tmp_path)
    others = ("casme2", "sub01", "EP03_03", 0)
    write_list(root, [*SMALL_LIST[1:-1], ("smic", "s01", "s01_sur_01", 1), others])
    loaded = load_release(MEGC2019, root)
    assert loaded.release.notes[-8:-4] == (
        "combined_3class_gt.csv decides; the rule disagrees on 3 clips",
        "casme2/sub1/ep2_1f: negative by the rule, not in it by the list",
        "casme2/sub1/ep3_3: not in it by the rule, negative by the list",
        "smic/s1/s1_sur_1: surprise by the rule, positive by the list",
    )
    expected = SMALL - {("casme2/sub01", "EP02_01f", "negative"), ("smic/s01", "s1_sur_01", "surprise")}
    expected |= {("casme2/sub01", "EP03_03", "negative"), ("smic/s01", "s1_sur_01", "positive")}
    assert found(usable(loaded)) == expected


def test_a_listed_clip_that_no_release_has_is_a_problem(tmp_path: Path) -> None:
    root = write_megc2019(tmp_path)
    write_list(root, [*SMALL_LIST, ("samm", "9", "009_2_1", 0)])
    loaded = load_release(MEGC2019, root)
    assert [p.clip for p in loaded.problems] == ["samm/9/9_2_1"]
    with pytest.raises(DatasetLayoutError, match=r"samm/9/9_2_1 of combined_3class_gt\.csv is in no release"):
        usable(loaded)
    assert found(usable(loaded, skip_bad=True)) == SMALL


def test_full_list_and_rule_agree(full: Path, loaded_full: Loaded, tmp_path: Path) -> None:
    number = {"negative": 0, "positive": 1, "surprise": 2}
    parts = manifests(full)
    by_rule = compose_megc2019(parts, full)
    rows = []
    for row in by_rule.manifest:
        padded = (
            row.clip.replace(f"s{int(row.subject[1:])}_", f"{row.subject}_") if row.database == "smic" else row.clip
        )
        subject = str(int(row.subject)) if row.database == "samm" else row.subject
        rows.append((row.database, subject, padded, number[row.label]))
    by_list = compose_megc2019(parts, full, listed=write_list(tmp_path, rows))
    assert by_list.differences == by_list.missing == ()
    assert by_list.manifest.hash() == by_rule.manifest.hash()
    assert len(by_rule.manifest) == 442
    assert by_rule.counts[-1].startswith("all: negative 250 (250)")
    assert found(by_rule.manifest) == found(loaded_full.manifest)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("casme2,sub01,EP02_01f,3\n", "row 1: 'casme2,sub01,EP02_01f,3' is no row"),
        ("casme2,sub01,EP02_01f\n", "is no row like"),
        ("casme2,sub01,EP02_01f,0\nfer2013,1,2,0\n", "row 2"),
        ("casme2,sub01,EP02_01f,0\ncasme2,sub1,EP2_1f,2\n", "as negative and as surprise; remove one row"),
        ("\n,,,\n", "lists no clip"),
    ],
)
def test_a_damaged_list(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DatasetLayoutError, match=says) as error:
        read_list(tmp_path / "a.csv")
    assert "\n" not in str(error.value)


def test_a_header_words_for_classes_and_repeated_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        "\ufeffdataset,subject,clip,class\nCASME II,sub01,EP02_01f,Negative\ncasme2,1,x,1.0\n"
        "samm,6,006_1_2,0\nsamm,006,006_1_2,0\n"
    )
    listed = read_list(tmp_path / "a.csv")
    assert listed.labels == {
        ("casme2", "sub1", "ep2_1f"): "negative",
        ("casme2", "1", "x"): "positive",
        ("samm", "6", "6_1_2"): "negative",
    }
    assert listed.notes == ("a.csv lists samm/6/6_1_2 twice",)


@given(st.integers(0, 999), st.integers(0, 99), st.sampled_from(["ne", "po", "sur"]), st.integers(1, 4))
def test_padding_and_case_do_not_matter(subject: int, clip: int, emotion: str, width: int) -> None:
    plain = plain_id(f"s{subject}_{emotion}_{clip}")
    assert plain == f"s{subject}_{emotion}_{clip}"
    assert plain_id(f" S{subject:0{width}d}_{emotion.upper()}_{clip:0{width}d} ") == plain
    assert plain_id(f"s{subject + 1}_{emotion}_{clip}") != plain


@given(st.dictionaries(st.text("s1_é", max_size=3), st.sampled_from(["negative", "positive"])))
def test_a_list_does_not_differ_from_itself(labels: dict[str, str]) -> None:
    keyed = {("samm", "6", name): value for name, value in labels.items()}
    assert differences(keyed, keyed) == ()
    assert len(differences(keyed, {})) == len(keyed)


# ---------------------------------------------------------------- what users get wrong


def test_a_missing_release_and_a_missing_list(tmp_path: Path) -> None:
    root = write_megc2019(tmp_path)
    with pytest.raises(DatasetLayoutError, match="no CSV of the challenge"):
        load_release(MEGC2019, root, part="list")
    (root / "notes.csv").write_text("a,b\n1,2\n")
    assert found(load_release(MEGC2019, root).manifest) == SMALL  # another CSV is not the list
    (root / "samm").rename(root / "elsewhere")
    with pytest.raises(DatasetLayoutError, match=r"no folder SAMM in .*put \(or link\) the release of SAMM there"):
        load_release(MEGC2019, root)
    with pytest.raises(DatasetLayoutError, match="no clip of SAMM among the manifests"):
        compose_megc2019([usable(load_release(CASME2, root / "CASME2"))], root)


def test_linked_releases(tmp_path: Path) -> None:
    real = write_megc2019(tmp_path / "real")
    root = tmp_path / "links"
    root.mkdir()
    for name, target in (("CASMEII", "CASME2"), ("SAMM", "samm"), ("smic", "SMIC")):
        (root / name).symlink_to(real / target)
    assert found(load_release(MEGC2019, root).manifest) == SMALL


def test_other_parts_of_smic_do_not_enter(tmp_path: Path) -> None:
    root = write_megc2019(tmp_path)
    write_smic(root / "SMIC", camera="VIS")
    vis = usable(load_release(SMIC, root / "SMIC", part="vis"))
    assert found(compose_megc2019([*manifests(root), vis], root).manifest) == SMALL


def test_macro_movements_do_not_enter(tmp_path: Path) -> None:
    macro = SammClip(name="006_1_3", kind="Macro")
    root = write_megc2019(tmp_path, samm=[*SMALL_SAMM, macro])
    assert found(load_release(MEGC2019, root).manifest) == SMALL
    assert found(compose_megc2019(manifests(root), root).manifest) == SMALL


def test_a_broken_line_is_told_with_its_database(tmp_path: Path) -> None:
    root = write_megc2019(tmp_path)
    for file in (root / "CASME2/CASME2_RAW_selected/sub01/EP02_01f").glob("*.jpg"):
        file.unlink()
    loaded = load_release(MEGC2019, root)
    assert [p.clip for p in loaded.problems] == ["casme2/sub01/EP02_01f"]


def test_frames_belong_to_the_release_and_not_to_the_composite(tmp_path: Path) -> None:
    """/data may hold the three releases, and faces beside them that are nobody's subjects."""
    root = write_megc2019(tmp_path)
    assert not MEGC2019.is_release(root)
    assert CASME2.is_release(root / "CASME2")
    assert SAMM.is_release(root / "samm")
    assert SMIC.is_release(root / "SMIC")


# ---------------------------------------------------------------- CMED


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
    assert name in {"", *CMED_CLASSES}
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
    assert sum(CMED_CLASSES.values()) == 1050
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
    found = compose_cmed([usable(load_release(database, root / folder)) for database, folder in pairs], root)
    assert len(found.manifest) == sum(found.counts.values()) == 10
    assert found.counts["positive+negative"] == 2
    assert found.beside.startswith("negative 3 (233), positive 3 (82)")
    assert {row.clip_id: row.label for row in found.manifest} == {
        row.clip_id: row.label for row in load_release(CMED, root).manifest
    }


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetLayoutError, match="none of the folders CASME, CASME2, CASME_SQ, SAMM, SMIC"):
        load_release(CMED, tmp_path)
