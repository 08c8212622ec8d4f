"""Editions of the workbooks: recognised by what they count, and the composite of MEGC 2019 the same with each of them.

The ids and classes of the challenge's list are public; which of its negative clips are disgust and which repression is
made up here, as are the names of the other clips.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

import mesynth.cli
from mesynth.api import load_database
from mesynth.datasets import database as tables
from mesynth.datasets.casme2 import CASME2
from mesynth.datasets.casme3 import CASME3
from mesynth.datasets.check import check
from mesynth.datasets.composites import EXPECTED, MEGC2019, NOT_IN_441, compose_megc2019, official
from mesynth.datasets.database import (
    AnnotatedClip,
    Database,
    Published,
    Release,
    editions,
    known_rows,
    labels_hash,
    recognise,
)
from mesynth.datasets.load import load_release, usable
from mesynth.datasets.registry import DATABASES
from mesynth.datasets.samm import SAMM
from mesynth.datasets.smic import SMIC
from mesynth.store.manifest import Manifest
from tests.datasets.releases.casme2 import HEADER, WORKBOOK, ReleaseClip, write_release, write_workbook
from tests.datasets.releases.common import write_book
from tests.datasets.releases.megc2019 import write_megc2019
from tests.datasets.releases.samm import SammClip
from tests.datasets.releases.smic import SmicClip, write_smic

SHORT = {"onset": 1, "apex": 2, "offset": 3}
BECAME_SURPRISE = ("EP07_01", "EP07_04f", "EP10_03")  # of sub24, in the edition of 2019


def listed() -> list[tuple[str, str, str, int]]:
    """The shipped list as written: database, subject, clip, class."""
    text = (Path(tables.__file__).parent / "megc2019.csv").read_text()
    rows = (line.split(",") for line in text.splitlines())
    return [(database, subject, clip, int(number)) for database, subject, clip, number in rows]


def of_2014() -> list[ReleaseClip]:
    """255 clips, with the emotions that the edition of 2014 counts."""
    left = {"disgust": 61, "repression": 27}
    clips = []
    for database, subject, clip, number in listed():
        if database != "casme2":
            continue
        emotion = ("", "happiness", "surprise")[number]
        if not emotion:
            emotion = next(word for word, n in left.items() if n)
            left[emotion] -= 1
        clips.append((subject[3:], clip, emotion))
    clips += [("04", "EP12_01f", "disgust"), ("05", "EP09_05f", "disgust")]
    clips += [("24", name, "sadness") for name in BECAME_SURPRISE]
    clips += [("17", f"EP90_{i:02d}", "sadness") for i in range(4)] + [("10", f"EP91_{i}", "fear") for i in range(2)]
    clips += [(("10", "18")[i % 2], f"EP92_{i:02d}", "others") for i in range(99)]
    return [
        ReleaseClip(subject=s, name=n, emotion=e, **SHORT, on_disk=(1, 2, 3))  # type: ignore[arg-type]
        for s, n, e in clips
    ]


def of_2019() -> list[ReleaseClip]:
    """The same clips, three of them surprise."""
    return [replace(c, emotion="surprise") if (c.subject, c.name) in CHANGED else c for c in of_2014()]


CHANGED = {("24", name) for name in BECAME_SURPRISE}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three releases with the ids of the list, CASME II in the edition of 2014."""
    negative = ["Anger"] * 57 + ["Contempt"] * 12 + ["Disgust"] * 9 + ["Fear"] * 8 + ["Sadness"] * 6
    rows = [(s, c, ("", "Happiness", "Surprise")[n] or negative.pop()) for d, s, c, n in listed() if d == "samm"]
    rows += [("025", f"025_9_{i}", "Other") for i in range(26)]
    samm = [SammClip(subject=s, name=c, emotion=e, **SHORT) for s, c, e in rows]  # type: ignore[arg-type]
    words = ("negative", "positive", "surprise")
    smic = [
        SmicClip(subject=f"s{int(s[1:])}", name=f"s{int(s[1:])}_{c.split('_', 1)[1]}", emotion=words[n], first=10, n=3)
        for d, s, c, n in listed()
        if d == "smic"
    ]
    return write_megc2019(tmp_path_factory.mktemp("official"), of_2014(), samm, smic)


@pytest.fixture
def newer(root: Path, tmp_path: Path) -> Path:
    """The same frames, CASME II with the workbook of 2019."""
    for name in ("samm", "SMIC"):
        (tmp_path / name).symlink_to(root / name)
    (tmp_path / "CASME2").mkdir()
    frames = "CASME2_RAW_selected"
    (tmp_path / "CASME2" / frames).symlink_to(root / "CASME2" / frames)
    write_workbook(tmp_path / "CASME2/CASME2-coding-20190701.xlsx", of_2019())
    return tmp_path


def counted(manifest: Manifest) -> dict[str, dict[str, int]]:
    out = {}
    for name in EXPECTED:
        rows = [row for row in manifest if row.database == name]
        counts = Counter(row.label for row in rows)
        out[name] = dict(counts) | {"clips": len(rows), "subjects": len({row.subject for row in rows})}
    return out


# ---------------------------------------------------------------- the composite


def test_the_shipped_list_has_the_published_counts() -> None:
    for name, expected in EXPECTED.items():
        mine = {key: label for key, label in official().items() if key[0] == name}
        counts = Counter(mine.values())
        assert dict(counts) | {"clips": len(mine), "subjects": len({key[1] for key in mine})} == expected
    assert (len(official()), len({key[:2] for key in official()})) == (442, 68)
    assert official().keys() - official("441").keys() == {NOT_IN_441}
    assert official()[NOT_IN_441] == "negative"


def test_the_edition_of_2014_and_the_list_agree(root: Path) -> None:
    loaded = load_release(MEGC2019, root)
    assert counted(usable(loaded)) == EXPECTED
    assert loaded.release.notes[0] == (
        "the challenge's list of 442 clips decides; the rule disagrees on 0 clips (editions: casme2 20140508, samm v2)"
    )
    found = check(loaded)
    assert (found.complete, found.edition, found.annotated) == (True, "442", 442)


def test_the_edition_of_2019_changes_no_clip_of_the_composite(newer: Path, root: Path) -> None:
    loaded = load_release(MEGC2019, newer)
    manifest = usable(loaded)
    assert counted(manifest) == EXPECTED
    assert manifest.hash() == usable(load_release(MEGC2019, root)).hash()
    assert loaded.release.notes[:4] == (
        "the challenge's list of 442 clips decides; the rule disagrees on 3 clips (editions: casme2 20190701, samm v2)",
        "casme2/sub24/ep10_3: surprise by the rule, not in it by the list",
        "casme2/sub24/ep7_1: surprise by the rule, not in it by the list",
        "casme2/sub24/ep7_4f: surprise by the rule, not in it by the list",
    )
    assert check(loaded).complete
    assert [name for name, _ in loaded.release.changed] == [f"casme2/sub24/{name}" for name in BECAME_SURPRISE]
    _, skipped = load_database("megc2019", newer)  # what `mesynth prepare` writes to skipped.csv and says
    assert skipped[0].reason == (
        "surprise by the workbook (casme2 20190701, samm v2), and not in the challenge's list of 442 clips"
    )


def test_a_class_that_an_edition_changed_is_the_lists_and_told(newer: Path) -> None:
    clips = [replace(c, emotion="sadness") if c.name == "EP01_13" else c for c in of_2019()]
    write_workbook(newer / "CASME2/CASME2-coding-20190701.xlsx", clips)
    row = next(row for row in load_release(MEGC2019, newer).manifest if row.clip == "EP01_13")
    assert (row.emotion, row.label) == ("sadness", "surprise")
    said = "class surprise of the challenge's list of 442 clips; the workbook's emotion 'sadness' is of no class"
    assert row.warnings == (f"{said} by the rule",)


def test_a_part_of_smic_does_not_leave_it_to_the_rule(newer: Path) -> None:
    (newer / "SMIC").unlink()
    write_smic(newer / "SMIC", [SmicClip()])
    loaded = load_release(MEGC2019, newer)
    assert (len(loaded.manifest), len(loaded.problems)) == (279, 163)
    assert "complete the release of smic" in loaded.problems[0].reason


def test_by_the_rule_the_edition_of_2019_is_not_complete(newer: Path) -> None:
    loaded = load_release(MEGC2019, newer, part="rule")
    found = check(loaded)
    assert (len(loaded.manifest), found.complete) == (445, False)
    assert found.differences == ("clips 445 (442)",)


def test_the_second_list(newer: Path) -> None:
    loaded = load_release(MEGC2019, newer, part="441")
    found = check(loaded)
    assert (len(usable(loaded)), found.published.clips, found.edition, found.complete) == (441, 441, "441", True)
    assert (
        "samm: negative 91 (91), positive 26 (26), surprise 15 (15), clips 132 (132), subjects 28 (28)" in found.notes
    )
    assert ("samm", "032", "032_3_1") not in {(row.database, row.subject, row.clip) for row in loaded.manifest}


@pytest.mark.parametrize(("clips", "line"), [(442, "clips decides"), (441, "challenge's list of 441 clips")])
def test_a_csv_beside_the_releases_is_recognised(newer: Path, clips: int, line: str) -> None:
    rows = [row for row in listed() if clips == 442 or row[2] != "032_3_1"]
    (newer / "gt.csv").write_text("\n,,,\n".join(",".join(map(str, row)) for row in rows))
    found = check(load_release(MEGC2019, newer))
    assert (found.edition, found.annotated, found.published.clips, found.complete) == (str(clips), clips, clips, True)
    assert f"gt.csv is the challenge's list of {clips} clips" in found.notes


def test_a_csv_that_is_no_list_of_the_challenge_is_told(newer: Path) -> None:
    rows = [(d, s, c, 2 if c == "EP02_01f" and s == "sub01" else n) for d, s, c, n in listed()]
    (newer / "gt.csv").write_text("\n".join(",".join(map(str, row)) for row in rows))
    found = check(load_release(MEGC2019, newer))
    assert "gt.csv is no list of the challenge: 1 clips differ from its list of 442" in found.notes
    assert found.edition == ""


def test_a_listed_clip_that_no_workbook_names_is_a_problem(newer: Path) -> None:
    write_workbook(newer / "CASME2/CASME2-coding-20190701.xlsx", of_2019()[1:])
    loaded = load_release(MEGC2019, newer)
    assert [p.clip for p in loaded.problems] == ["casme2/sub01/ep2_1f"]
    assert "of the challenge's list of 442 clips is in no release" in loaded.problems[0].reason
    assert not check(loaded).complete


def test_from_prepared_manifests_the_list_decides_as_well(newer: Path) -> None:
    parts = [usable(load_release(d, newer / f)) for d, f in ((CASME2, "CASME2"), (SAMM, "samm"), (SMIC, "SMIC"))]
    made = compose_megc2019(parts, newer)
    assert counted(made.manifest) == EXPECTED
    assert len(made.differences) == 3


# ---------------------------------------------------------------- recognised


def lines(clips: list[ReleaseClip]) -> tuple[AnnotatedClip, ...]:
    return tuple(AnnotatedClip(subject=f"sub{c.subject}", clip=c.name, folder="", emotion=c.emotion) for c in clips)


@pytest.mark.parametrize(("clips", "name"), [(of_2014(), "20140508"), (of_2019(), "20190701")])
def test_an_edition_is_what_it_counts(clips: list[ReleaseClip], name: str) -> None:
    for order in (clips, clips[::-1]):
        found = recognise("casme2", "all", Release(lines=lines(order)))
        assert found.name == name
        assert "some labels are not" in found.notes[0]  # emotions are made up here, so the hash is another


def test_labels_that_are_the_editions_are_told_by_their_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    own = lines(of_2019())
    mine = [
        replace(one, labels_sha256=labels_hash(own)) if one.name == "20190701" else one for one in editions("casme2")
    ]
    monkeypatch.setattr(tables, "editions", lambda database, part="": tuple(mine))
    assert recognise("casme2", "all", Release(lines=own)).notes == ()
    swapped = (replace(own[0], emotion=own[1].emotion), replace(own[1], emotion=own[0].emotion), *own[2:])
    assert labels_hash(swapped) != labels_hash(own)
    assert len(recognise("casme2", "all", Release(lines=swapped)).notes) == 1


def test_a_workbook_saved_anew_is_told(newer: Path) -> None:
    book = newer / "CASME2/CASME2-coding-20190701.xlsx"
    rows = [[c.subject, c.name, None, 1, 2, 3, None, c.aus, c.emotion, 3] for c in of_2019()]
    write_book(book, {"Sheet1": [[*HEADER, "Objective Classes"], *rows]})
    assert all("not quite" not in note for note in check(load_release(CASME2, newer / "CASME2")).notes)
    write_book(book, {"labels": [HEADER, *(row[:-1] for row in rows)]})
    assert (
        "the workbook is not quite as edition 20190701 came: its sheet is 'labels', not 'Sheet1' and it lacks the "
        "columns Objective Classes"
    ) in check(load_release(CASME2, newer / "CASME2")).notes


def test_known_rows_of_the_edition_are_listed(newer: Path) -> None:
    found = check(load_release(CASME2, newer / "CASME2"))
    assert found.edition == "20190701"
    assert (found.published.emotions["surprise"], found.published.emotions["sadness"]) == (28, 4)
    assert [line.split(":")[0] for line in found.known] == [f"sub24/{name}" for name in BECAME_SURPRISE]
    assert found.known[0] == "sub24/EP07_01: emotion is surprise (sadness); changed since 20140508"
    assert found.complete


@pytest.mark.parametrize(("apex", "told"), [(5105, True), (1105, False)])
def test_a_repaired_row_is_no_known_fault(apex: int, told: bool) -> None:
    negative = ["Anger"] * 57 + ["Contempt"] * 12 + ["Disgust"] * 9 + ["Fear"] * 8 + ["Sadness"] * 6
    emotions = [*negative, *["Happiness"] * 26, *["Other"] * 26, *["Surprise"] * 15]
    all_ = [AnnotatedClip(subject="028", clip=f"028_9_{i}", folder="", emotion=e) for i, e in enumerate(emotions)]
    all_[0] = replace(all_[0], clip="028_4_1", apex=apex)
    found = recognise("samm", "all", Release(lines=tuple(all_)))
    assert found.name == "v2"
    assert [row.clip for row in found.known] == (["028/028_4_1"] if told else [])


def test_every_table_is_consistent() -> None:
    for database in DATABASES:
        for one in editions(database):
            assert one.source
            assert not one.emotions or sum(one.emotions.values()) == one.rows or "add up to" in one.source
            assert not one.objective or sum(one.objective.values()) == one.rows
        names = {one.name for one in editions(database)} | {""}
        assert all(row.edition in names and row.source for row in known_rows(database))
        assert {one.part for one in editions(database)} <= {*DATABASES[database].parts, "442", "441"}


def test_part_c_of_casme3_has_thirty_people() -> None:
    assert (CASME3.published["c"].clips, CASME3.published["c"].subjects) == (165, 30)


# ---------------------------------------------------------------- complete


def test_complete_compares_emotions_and_subjects(tmp_path: Path) -> None:
    clips = [
        ReleaseClip(name=f"EP{i:02d}", subject=f"0{1 + i % 2}", emotion=e) for i, e in enumerate(("disgust", "fear"))
    ]
    root = write_release(tmp_path, clips)

    def differences(**published: object) -> tuple[str, ...]:
        database: Database = replace(CASME2, published={"all": Published(**published)})  # type: ignore[arg-type]
        found = check(load_release(database, root))
        assert found.complete == (not found.differences)
        return found.differences

    assert differences(clips=2, subjects=2, emotions={"Disgust": 1, "fear": 1}) == ()
    assert differences(clips=2, subjects=3) == ("subjects 2 (3)",)
    assert differences(clips=2, emotions={"disgust": 2}) == ("disgust 1 (2)", "fear 1 (0)")
    assert differences(clips=3) == ("clips 2 (3)",)
    assert differences(clips=2, emotions={"disgust": 5}) == ()  # as a survey counts, not the workbook


def test_an_unknown_edition_is_told_with_what_differs(newer: Path) -> None:
    clips = [replace(c, emotion="fear") if c.name == "EP90_00" else c for c in of_2019()]
    write_workbook(newer / "CASME2/CASME2-coding-20190701.xlsx", clips)
    result = CliRunner().invoke(
        mesynth.cli.main, ["prepare", "casme2", "--root", str(newer / "CASME2"), "--check", "--json"]
    )
    found = json.loads(result.stdout)
    assert (result.exit_code, found["edition"], found["complete"]) == (1, "", False)
    assert "20190701 is nearest, published in brackets: fear 3 (2), sadness 3 (4)" in found["notes"][-1]


# ---------------------------------------------------------------- objective classes


def with_classes(root: Path, clips: list[ReleaseClip], column: str = "") -> Path:
    """The objective workbook of 2014 (every class VII), and the coding workbook with or without a column of its own."""
    rows = [["Subject", "Filename", "Objective Class"], *([c.subject, c.name, 7] for c in clips)]
    write_book(root / "CASME2-ObjectiveClasses.xlsx", {"Sheet1": rows})
    body = [[c.subject, c.name, None, 1, 2, 3, None, c.aus, c.emotion, *([3] if column else [])] for c in clips]
    for book in root.glob("CASME2-coding*"):
        book.unlink()
    write_book(root / WORKBOOK, {"Sheet1": [[*HEADER, *([column] if column else [])], *body]})
    return root


def test_objective_classes_of_another_edition_are_not_applied(newer: Path) -> None:
    loaded = load_release(CASME2, with_classes(newer / "CASME2", of_2019()))
    assert {row.objective_class for row in loaded.manifest} == {"III"}  # 4+7
    note = loaded.release.notes[0]
    assert note.startswith("CASME2-ObjectiveClasses.xlsx is not used: they are those of 20140508, and the workbook is")
    assert "255 classes differ" in note
    assert "CASME2-ObjectiveClasses.xlsx" not in loaded.release.sources


@pytest.mark.parametrize("column", ["Objective Classes", "Objective Class"])
def test_the_workbooks_own_column_of_classes_wins(newer: Path, column: str) -> None:
    loaded = load_release(CASME2, with_classes(newer / "CASME2", of_2019(), column))
    assert {row.objective_class for row in loaded.manifest} == {"III"}
    assert "its workbook has a column of them; 255 classes differ" in loaded.release.notes[0]


def test_objective_classes_of_the_same_edition_are_applied(newer: Path) -> None:
    loaded = load_release(CASME2, with_classes(newer / "CASME2", of_2014()))
    assert {row.objective_class for row in loaded.manifest} == {"VII"}
    assert loaded.release.sources == (WORKBOOK, "CASME2-ObjectiveClasses.xlsx")


def test_objective_classes_beside_an_unknown_edition_are_told(tmp_path: Path) -> None:
    clips = [ReleaseClip(on_disk=(1, 2, 3))]
    loaded = load_release(CASME2, with_classes(write_release(tmp_path, clips), clips))
    assert [row.objective_class for row in loaded.manifest] == ["VII"]
    assert "the edition of the workbook is not known" in loaded.release.notes[0]


# ---------------------------------------------------------------- as laboratories keep them


def refused(name: str, root: Path, *options: str) -> str:
    result = CliRunner().invoke(mesynth.cli.main, ["prepare", name, "--root", str(root), "--check", *options])
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_another_edition_beside_is_told(newer: Path) -> None:
    write_workbook(newer / "CASME2/CASME2-coding-20140508.xlsx", of_2014())
    assert "CASME2-coding-20190701.xlsx lies beside it" in load_release(CASME2, newer / "CASME2").release.notes[0]
    chosen = load_release(CASME2, newer / "CASME2", annotation=newer / "CASME2/CASME2-coding-20190701.xlsx")
    assert not any("beside" in note for note in chosen.release.notes)


def test_a_renamed_workbook_in_a_composite_has_a_way_out(newer: Path) -> None:
    (newer / "CASME2/CASME2-coding-20190701.xlsx").rename(newer / "CASME2/labels.xlsx")
    assert "MEGC 2019 takes no --annotation: rename the workbook (is it 'labels.xlsx'?)" in refused("megc2019", newer)
    assert "give it with --annotation FILE (is it 'labels.xlsx'?)" in refused("casme2", newer / "CASME2")


def test_so_many_rows_alone_are_no_edition_for_certain(newer: Path) -> None:
    clips = of_2019()
    write_workbook(newer / "CASME2/CASME2-coding-20190701.xlsx", [*clips, replace(clips[3], onset=2)])
    found = check(load_release(CASME2, newer / "CASME2"))
    assert found.edition == "updated"
    assert any("of which no more is known" in note for note in found.notes)


def test_rows_that_a_workbook_lacks_are_no_disagreement_and_nobody_new(newer: Path) -> None:
    write_workbook(newer / "CASME2/CASME2-coding-20190701.xlsx", [c for c in of_2014() if c.name != "EP02_01f"])
    loaded = load_release(MEGC2019, newer)
    assert loaded.problems
    assert not any("not in it by the rule" in note for note in loaded.release.notes)
    assert check(loaded).differences == ()  # sub1 of the list is sub01 of the workbook


@pytest.mark.parametrize("sign", [";", "\t"])
def test_a_list_as_other_spreadsheets_write_it(sign: str, newer: Path) -> None:
    (newer / "gt.csv").write_text("\n".join(sign.join(map(str, row)) for row in listed()))
    found = check(load_release(MEGC2019, newer))
    assert (found.edition, found.complete) == ("442", True)
    assert "gt.csv is the challenge's list of 442 clips" in found.notes


def test_objective_classes_that_contradict_each_other_are_refused(newer: Path) -> None:
    rows = [("sub01", "EP02_01f", 3), ("01", "EP02_01f", "I")]
    write_book(
        newer / "CASME2/CASME2-ObjectiveClasses.xlsx", {"a": [("Subject", "Filename", "Objective Class"), *rows]}
    )
    assert "lists sub01/EP02_01f in class III and in I; remove one row" in refused("casme2", newer / "CASME2")


def test_a_table_that_is_no_workbook_is_told_what_to_do(newer: Path) -> None:
    (newer / "labels.csv").write_text("Subject,Filename\n")
    said = refused("casme2", newer / "CASME2", "--annotation", str(newer / "labels.csv"))
    assert "labels.csv is no workbook; save it as .xlsx" in said
