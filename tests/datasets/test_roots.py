"""A wrong root is told the right one, whatever the database and the mistake; and which of the clips are meant."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import mesynth
from mesynth.api import load_database
from mesynth.cli import main
from mesynth.core.errors import ConfigError, DatasetLayoutError, ManifestError
from mesynth.datasets.casme2 import load_casme2
from mesynth.datasets.check import check
from mesynth.datasets.flow_folders import read_flow_folders
from mesynth.datasets.load import Selection
from mesynth.datasets.registry import DATABASES, find_roots, load, load_release_of
from mesynth.store.manifest import Manifest
from mesynth.store.stage import run_shards
from recognizer.cli import main as recognizer
from tests.datasets.releases.casme import write_casme
from tests.datasets.releases.casme2 import write_release
from tests.datasets.releases.casme3 import write_casme3
from tests.datasets.releases.casme_sq import write_casme_sq
from tests.datasets.releases.dfme import write_dfme
from tests.datasets.releases.flow_folders import flow_images, write_flow_folders
from tests.datasets.releases.fourdme import write_fourdme
from tests.datasets.releases.generic import write_recordings
from tests.datasets.releases.megc2019 import write_megc2019
from tests.datasets.releases.mmew import write_mmew
from tests.datasets.releases.samm import write_samm
from tests.datasets.releases.samm_long import write_samm_long
from tests.datasets.releases.smic import write_smic, write_smic_long

WRITERS: dict[str, Callable[[Path], Path]] = {
    "casme": write_casme,
    "casme2": write_release,
    "casme3": write_casme3,
    "casme_sq": write_casme_sq,
    "dfme": write_dfme,
    "4dme": write_fourdme,
    "mmew": write_mmew,
    "samm": write_samm,
    "samm_long": write_samm_long,
    "smic": write_smic,
    "generic": write_recordings,
    "meview": lambda root: write_recordings(root, name="meview.csv"),
    "megc2019": write_megc2019,
    "cmed": write_megc2019,
}
BOOKS = {".xlsx", ".xls", ".csv"}
ANNOTATED = [name for name in WRITERS if DATABASES[name].annotation and name != "smic"]


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each release as ``NAME/given/a/b/NAME release``, nothing else around it."""
    made = {}
    for name, write in WRITERS.items():
        root = tmp_path_factory.mktemp(name) / "given" / "a" / "b" / f"{name} release"
        root.mkdir(parents=True)
        made[name] = write(root)
    return made


def refusal(name: str, root: Path, **options: object) -> str:
    with pytest.raises(DatasetLayoutError) as error:
        load_release_of(name, root, **options)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    return str(error.value)


def suggested(said: str) -> list[Path]:
    """The folders of ``--root`` in a message."""
    return [Path(found.strip("'")) for found in re.findall(r"--root ('[^']+'|[^\s`;,]+)", said)]


def test_every_database_is_tried(roots: dict[str, Path]) -> None:
    assert roots.keys() == set(DATABASES)
    for name, root in roots.items():
        assert [found.path for found in find_roots(root, name)] == [root]
        assert len(load_release_of(name, root).manifest)


@pytest.mark.parametrize("levels", [1, 3])
@pytest.mark.parametrize("name", list(WRITERS))
def test_too_high(name: str, levels: int, roots: dict[str, Path]) -> None:
    root = roots[name]
    said = refusal(name, root.parents[levels - 1])
    assert f"is {levels} level{'s' if levels > 1 else ''} lower: use --root '{root}'" in said
    assert suggested(said) == [root]


@pytest.mark.parametrize("name", list(WRITERS))
def test_too_low(name: str, roots: dict[str, Path]) -> None:
    """Every folder inside a release, as far as frames go."""
    root = roots[name]
    inner = sorted((p for p in root.rglob("*") if p.is_dir()), key=lambda p: (len(p.parts), p.name))
    refused = 0
    for folder in [*inner[:3], *inner[-2:]]:
        try:  # an archive in a folder of its own, or the folder of one camera
            assert len(load_release_of(name, folder).manifest)
            continue
        except DatasetLayoutError:
            pass
        levels = len(folder.parts) - len(root.parts)
        said = refusal(name, folder)
        assert f"is {levels} level{'s' if levels > 1 else ''} higher: use --root '{root}'" in said
        refused += 1
    assert refused >= 2


@pytest.mark.parametrize("name", list(WRITERS))
def test_a_file_is_given(name: str, roots: dict[str, Path]) -> None:
    """The workbook, or a picture or video of the release."""
    root = roots[name]
    files = [p for p in root.rglob("*") if p.is_file()]
    books = [p for p in files if p.suffix in BOOKS and "~$" not in p.name]
    pictures = [p for p in files if p.suffix in {".jpg", ".png", ".bmp", ".mp4"}]
    for file in [*books[:1], pictures[0], pictures[-1]]:
        said = refusal(name, file)
        assert f"{file} is a file" in said
        assert suggested(said) == [root]


@pytest.mark.parametrize("name", [*ANNOTATED, "smic"])
def test_the_name_is_misspelt_or_the_folder_is_empty(name: str, roots: dict[str, Path]) -> None:
    root = roots[name]
    said = refusal(name, root.with_name(f"{name} releese"))
    assert "does not exist" in said
    assert suggested(said) == [root]
    empty = root.with_name("empty")
    empty.mkdir(exist_ok=True)
    said = refusal(name, empty)
    empty.rmdir()
    assert "it is empty" in said
    assert suggested(said) == [root]


@pytest.mark.parametrize("name", list(WRITERS))
def test_nothing_is_near(name: str, tmp_path: Path) -> None:
    """A way out all the same: what the root holds."""
    empty = tmp_path / "here" / "empty"
    empty.mkdir(parents=True)
    said = refusal(name, empty)
    assert DATABASES[name].layout in said
    assert suggested(said) == []
    gone = refusal(name, tmp_path / "no" / "such" / "folder")
    assert "does not exist" in gone
    assert DATABASES[name].layout in gone


@pytest.mark.parametrize(
    ("name", "archive"),
    [
        ("casme2", "CASME2_RAW_selected.zip"), ("samm", "SAMM.7z"), ("casme3", "part_A.part01.rar"),
        ("smic", "SMIC_all_raw.tar.gz"), ("dfme", "train.z01"), ("megc2019", "CASME2.zip"), ("generic", "clips.ZIP"),
    ],
)  # fmt: skip
def test_still_packed(name: str, archive: str, tmp_path: Path) -> None:
    folder = tmp_path / "here" / "packed"
    folder.mkdir(parents=True)
    (folder / archive).write_bytes(b"PK")
    assert f"unpack {archive} first" in refusal(name, folder)
    assert f"unpack {archive} first" in refusal(name, folder / archive)


def test_frames_still_packed_beside_the_workbook(tmp_path: Path) -> None:
    root = write_release(tmp_path / "here" / "CASME2")
    (root / "CASME2_RAW_selected.zip").write_bytes(b"PK")
    load_release_of("casme2", root)
    shutil.rmtree(root / "CASME2_RAW_selected")
    said = refusal("casme2", root)
    assert "no folder CASME2_RAW_selected" in said
    assert "unpack CASME2_RAW_selected.zip first" in said


SINGLE = [name for name in WRITERS if DATABASES[name].is_root is None]


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("meant", ["casme2", "samm", "megc2019"])
@pytest.mark.parametrize("name", [name for name in SINGLE if name not in ("generic",)])
def test_another_database(name: str, meant: str, inside: bool, roots: dict[str, Path]) -> None:
    if name == meant:
        return
    root = roots[name]
    given = root
    if inside:
        given = next(p for p in sorted(root.rglob("*")) if p.is_dir())
    said = refusal(meant, given)
    assert f"this is {DATABASES[name].title}: use `mesynth prepare {name} --root '{root}'`" in said, said


def test_a_folder_of_several_databases(roots: dict[str, Path]) -> None:
    both = roots["megc2019"]
    assert suggested(refusal("samm", both)) == [both / "samm"]
    assert suggested(refusal("casme3", both)) == [both / "CASME2", both / "SMIC", both / "samm"]
    assert suggested(refusal("megc2019", both / "SMIC")) == [both]


def test_paths_as_people_write_them(roots: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    root = roots["casme2"]
    monkeypatch.chdir(root.parent)
    assert suggested(refusal("casme2", Path("."))) == [root]
    assert suggested(refusal("casme2", Path(root.name, "CASME2_RAW_selected", "sub01", ".."))) == [root]
    with pytest.raises(DatasetLayoutError, match="1 level lower: use --root"):
        load_casme2(".")
    monkeypatch.chdir(root / "CASME2_RAW_selected")
    assert suggested(refusal("casme2", Path("."))) == [root]
    load_release_of("casme2", "..")


def test_another_database_and_the_one_that_was_meant_beside_it(tmp_path: Path) -> None:
    samm, casme2 = write_samm(tmp_path / "in/samm"), write_release(tmp_path / "in/casme2")
    said = refusal("casme2", samm)
    assert f"this is SAMM: use `mesynth prepare samm --root {samm}`; CASME II is beside it: --root {casme2}" in said
    assert f"CASME II is beside it: --root {casme2}" in refusal("casme2", samm / "SAMM_Micro_FACS_Codes_v2.xlsx")


@pytest.mark.parametrize(
    ("written", "meant"), [("CASME2", "casme2"), ("CAS(ME)3", "casme3"), ("4-DME", "4dme"), ("smmm", "samm")]
)
def test_a_database_misspelt(written: str, meant: str, tmp_path: Path) -> None:
    assert refusal(written, tmp_path).endswith(f"did you mean {meant}?")


def test_a_composite_without_a_member_keeps_its_own_words(tmp_path: Path) -> None:
    write_release(tmp_path / "in" / "CASME2")
    assert "put (or link) the release of SAMM there" in refusal("megc2019", tmp_path / "in")


def test_other_frames_or_another_part(tmp_path: Path) -> None:
    root = write_release(tmp_path / "in" / "CASME2")
    assert "this copy has part all, frames auto" in refusal("casme2", root, frames="cropped")
    smic = write_smic_long(tmp_path / "in" / "extended")
    assert "this copy has part long, frames auto" in refusal("smic", smic, part="hs")


def test_corpora_exports_and_flow_images(roots: dict[str, Path], tmp_path: Path) -> None:
    corpus = tmp_path / "in" / "corpus"
    load("casme2", roots["casme2"]).write(corpus)
    assert f"use `mesynth prepare corpus --root {corpus}`" in refusal("samm", corpus)
    flow = write_flow_folders(tmp_path / "in" / "flow", flow_images())
    assert f"this is flow images: use `mesynth prepare flow_folders --root {flow}`" in refusal("casme2", flow)
    for wrong in (flow / "006", flow / "006" / "u_test" / "0"):
        with pytest.raises(DatasetLayoutError, match=f"higher: use --root {flow}"):
            read_flow_folders(wrong)
    with pytest.raises(DatasetLayoutError, match=f"1 level lower: use --root {flow}"):
        read_flow_folders(tmp_path / "in")
    with pytest.raises(ManifestError, match=f"there is one in {corpus}$"):
        Manifest.read(tmp_path / "in")
    with pytest.raises(ManifestError, match=f"there is one in {corpus}$"):
        mesynth.load_corpus(corpus / "shards")
    with pytest.raises(ManifestError, match=r"this is SAMM: use `mesynth prepare samm --root .* --out FOLDER`"):
        mesynth.load_corpus(roots["samm"])
    (tmp_path / "in" / "nothing").mkdir()
    (tmp_path / "alone" / "nothing").mkdir(parents=True)
    with pytest.raises(ManifestError, match="give a folder written by prepare, render or generate"):
        Manifest.read(tmp_path / "alone" / "nothing")


@pytest.mark.parametrize(
    "verb",
    [
        ["measure", "--real", "{}", "--synthetic", "{}", "--out", "{}/x"],
        ["export", "{}", "--to", "casme2", "--out", "{}/x"],
        ["verify", "{}"],
        ["filter", "{}", "--dry-run"],
        ["prepare", "corpus", "--root", "{}", "--out", "{}/x"],
        ["recognizer", "loso", "--real", "{}", "model=lda", "--out", "{}/x"],
        ["recognizer", "train", "--real", "{}", "model=lda", "--out", "{}/x"],
    ],
)
def test_a_release_where_a_corpus_is_meant(verb: list[str], roots: dict[str, Path]) -> None:
    root = roots["samm"]
    program = recognizer if verb[0] == "recognizer" else main
    words = [word.format(root) for word in verb if word != "recognizer"]
    found = CliRunner().invoke(program, words)
    assert found.exit_code == 2, found.output
    assert f"this is SAMM: use `mesynth prepare samm --root '{root}' --out FOLDER`" in found.stderr
    assert len(found.stderr.splitlines()) == 1
    assert not (root / "x").exists()


def test_an_outside_database_is_recognised_as_those_that_ship(tmp_path: Path) -> None:
    from mesynth.datasets.database import AnnotatedClip, Database, Release
    from mesynth.datasets.registry import register

    def read(root: Path, part: str, frames: str) -> Release:
        (root / "mine.txt").read_text()
        return Release(lines=(AnnotatedClip(subject="a", clip="b", folder="frames"),))

    register(
        Database(
            name="mine", title="Mine", fps=1.0, licence="x", paper="", read=read, layout="mine.txt and frames/",
            is_release=lambda folder: (folder / "mine.txt").is_file(),
        )
    )  # fmt: skip
    try:
        root = tmp_path / "in" / "deep"
        (root / "frames").mkdir(parents=True)
        (root / "mine.txt").write_text("")
        assert f"1 level lower: use --root {root}" in refusal("mine", tmp_path / "in")
        (tmp_path / "other" / "empty").mkdir(parents=True)
        assert "no mine.txt in" in refusal("mine", tmp_path / "other" / "empty")
        assert "the root of Mine holds mine.txt and frames/" in refusal("mine", tmp_path / "other" / "empty")
        assert f"this is Mine: use `mesynth prepare mine --root {root}`" in refusal("casme2", root)
    finally:
        DATABASES.remove("mine")


# ---------------------------------------------------------------- another annotation file


@pytest.mark.parametrize("name", ANNOTATED)
def test_a_renamed_workbook_is_given_by_name(name: str, roots: dict[str, Path], tmp_path: Path) -> None:
    root = shutil.copytree(roots[name], tmp_path / "in" / "of a lab")
    usual = load_release_of(name, root)
    book = root / usual.release.sources[0]
    for other in (p for p in root.rglob("*") if p.suffix in BOOKS and p != book):
        other.unlink()
    renamed = book.rename(book.with_name(f"zz coding{book.suffix}"))
    if name not in ("casme", "generic"):  # a single table beside the frames is theirs, whatever its name
        assert "if it has another name, give it with --annotation FILE" in refusal(name, root) or name == "meview"
        assert "--annotation FILE" in refusal(name, root)
    elsewhere = Path(shutil.copy(renamed, tmp_path / f"elsewhere{book.suffix}"))
    for place in (renamed, elsewhere):
        loaded = load_release_of(name, root, annotation=place)
        assert loaded.release.sources[0] in (place.name, place.relative_to(root).as_posix() if place == renamed else "")
        assert [row.clip_id for row in loaded.manifest] == [row.clip_id for row in usual.manifest]
    assert "does not exist" in refusal(name, root, annotation=tmp_path / "gone.xlsx")
    assert "is a folder" in refusal(name, root, annotation=tmp_path)


@pytest.mark.parametrize("name", ["megc2019", "cmed"])
def test_a_composite_has_no_annotation_file(name: str, roots: dict[str, Path], tmp_path: Path) -> None:
    assert "has no annotation file" in refusal(name, roots[name], annotation=tmp_path / "x.xlsx")


def test_parts_without_an_annotation_file(roots: dict[str, Path], tmp_path: Path) -> None:
    assert "take part long" in refusal("smic", roots["smic"], annotation=tmp_path / "x.xlsx")
    assert "leave out --annotation" in refusal("mmew", roots["mmew"], part="macro", annotation=tmp_path / "x.xlsx")
    assert "--part train" in refusal("dfme", roots["dfme"], part="all", annotation=tmp_path / "x.xlsx")


# ---------------------------------------------------------------- some of the clips

KEYS = [
    ("casme2", "sub01", "EP02_01f", "46"),
    ("casme2", "sub01", "EP03_02", "9"),
    ("casme2", "sub02", "EP02_01f", "5"),
    ("casme2", "sub17", "EP01_02", "1"),
    ("samm", "006", "006_1_2", "7"),
    ("samm", "017", "a_355", "355"),
    ("samm", "017", "a_355", "400"),
]


@pytest.mark.parametrize(
    ("subjects", "clips", "limit", "expected"),
    [
        ((), (), None, range(7)),
        (("sub01",), (), None, [0, 1]),
        (("sub1", "SUB17"), (), None, [0, 1, 3]),
        (("casme2/sub02", "samm/6"), (), None, [2, 4]),
        (("sub17", "sub01"), (), 2, [0, 1]),
        (("2",), (), None, [0, 1, 2]),
        (("017",), (), None, [5, 6]),
        ((), ("EP03_02",), None, [1]),
        ((), ("ep3_2",), None, [1]),
        ((), ("sub02/EP02_01f", "casme2/sub17/EP01_02"), None, [2, 3]),
        ((), ("017/a_355",), None, [5, 6]),
        ((), ("017/a_355/400", "casme2/sub01/EP02_01f/46"), None, [0, 6]),
        (("sub02",), ("EP02_01f",), None, [2]),
        ((), (), 3, [0, 1, 2]),
        ((), (), 99, range(7)),
    ],
)
def test_selection(subjects: tuple[str, ...], clips: tuple[str, ...], limit: int | None, expected: list[int]) -> None:
    assert Selection(subjects, clips, limit).of(KEYS, "D") == list(expected)
    assert Selection.parse(",".join(subjects) or (), ",".join(clips) or (), limit).of(KEYS, "D") == list(expected)


@pytest.mark.parametrize(
    ("subjects", "clips", "says"),
    [
        (("sub99",), (), r"subject 'sub99' is none of the 5 of D; nearest: sub0?\d"),
        (("sub01", "sab02", "sbu3"), (), r"subject 'sab02' is none of the 5 of D \(nor are sbu3\); nearest: sub02"),
        (("samm/sub01",), (), "subject 'samm/sub01' is none of the 5 of D; nearest: "),
        (("6",), (), "may be 006 or 6 people; write 006"),
        (("9",), (), "subjects=9: D has 5; give 1 to 5"),
        (("0",), (), "subjects=0: D has 5"),
        (("03",), (), "subject '03' is none of the 5"),
        ((), ("EP02_01f",), r"clip 'EP02_01f' is 2 of D; write one of casme2/sub01/EP02_01f, casme2/sub02/EP02_01f"),
        ((), ("EP02_01g",), "clip 'EP02_01g' is none of the 6 of D; nearest: EP02_01f"),
        (("sub17",), ("EP02_01f",), "clip 'EP02_01f' is none of the 1 of D; nearest: EP01_02"),
        ((), ("sub01/EP02_02f",), "nearest: sub01/EP02_01f"),
    ],
)
def test_selection_refuses(subjects: tuple[str, ...], clips: tuple[str, ...], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Selection(subjects, clips).of(KEYS, "D")


@pytest.mark.parametrize("empty", ["", " , ", ["", ""]])
def test_an_empty_name_is_not_everybody(empty: str | list[str]) -> None:
    with pytest.raises(ConfigError, match="names none; leave it out to take all"):
        Selection.parse(subjects=empty)


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_leaves_a_clip(limit: int) -> None:
    with pytest.raises(ConfigError, match=f"limit={limit}"):
        Selection(limit=limit)


@pytest.mark.parametrize("name", list(WRITERS))
def test_one_person_of_every_database(name: str, roots: dict[str, Path]) -> None:
    """What is said is said of the chosen clips alone, and no frame of others is looked at."""
    root = roots[name]
    whole = load_release_of(name, root)
    first = next(iter(whole.manifest))
    some = load_release_of(name, root, select=Selection.parse([first.subject_key]))
    assert {row.subject_key for row in some.manifest} == {first.subject_key}
    assert {row.clip_id for row in some.manifest} == {
        row.clip_id for row in whole.manifest if row.subject_key == first.subject_key
    }
    assert {p.clip for p in some.problems} <= {p.clip for p in whole.problems}
    assert some.unannotated == whole.unannotated
    assert len(load_release_of(name, root, select=Selection(limit=1)).release.lines) == 1


def test_prepare_takes_three_people_of_a_tree_and_leaves_no_junk(tmp_path: Path) -> None:
    """The annotation names people whose folders are not there; nobody who was not asked for is spoken of."""
    root = write_release(tmp_path / "CASME2")
    people = list(dict.fromkeys(row.subject for row in load("casme2", root, skip_bad=True)))
    shutil.rmtree(root / "CASME2_RAW_selected" / people[-1])
    _, skipped = load_database("casme2", root, skip_bad=True)
    assert skipped
    for who in (",".join(people[:2]), "2"):
        _, skipped = load_database("casme2", root, subjects=who, skip_bad=True)
        assert skipped == []
        words = ["prepare", "casme2", "--root", str(root), "--subjects", who, "--dry-run", "--out", str(tmp_path / "o")]
        found = CliRunner().invoke(main, words)
        assert found.exit_code == 0, found.output
        assert "clips of 2 subjects" in found.stdout
    named = ["--subjects", people[0], "--subjects", people[1], "--limit", "1"]
    found = CliRunner().invoke(main, ["prepare", "casme2", "--root", str(root), *named, "--dry-run", "--out", "o"])
    assert "would prepare 1 clips of 1 subjects" in found.stdout
    found = CliRunner().invoke(main, ["prepare", "casme2", "--root", str(root), "--subjects", "sub99", "--out", "o"])
    assert (found.exit_code, len(found.stderr.splitlines())) == (2, 1)
    assert "'sub99' is none of" in found.stderr


def test_check_of_some_people_is_complete_without_the_others(roots: dict[str, Path]) -> None:
    root = roots["casme2"]
    assert not check(load_release_of("casme2", root)).complete  # 255 clips were published
    first = load_release_of("casme2", root).release.lines[0].subject
    found = check(load_release_of("casme2", root, select=Selection((first,))))
    assert found.complete
    assert any(re.search(r"\d of \d annotated clips, 1 of \d subjects were chosen", note) for note in found.notes)
    told = CliRunner().invoke(
        main, ["prepare", "casme2", "--root", str(root), "--subjects", first, "--check", "--json"]
    )
    assert told.exit_code == 0, told.output


@pytest.mark.parametrize("database", ["flow_folders", "export"])
@pytest.mark.parametrize("option", ["--subjects", "--clips", "--limit", "--annotation"])
def test_no_choice_among_what_is_prepared_already(database: str, option: str, tmp_path: Path) -> None:
    words = ["prepare", database, "--root", str(tmp_path), "--out", str(tmp_path / "x"), option, "3"]
    found = CliRunner().invoke(main, words)
    assert found.exit_code == 2
    assert f"{option} has no effect" in found.stderr
    with pytest.raises(ConfigError, match=rf"{option[2:]} has no effect"):
        mesynth.prepare(database, tmp_path, tmp_path / "x", **{option[2:]: 3})  # type: ignore[arg-type]


def test_of_a_corpus(roots: dict[str, Path], tmp_path: Path) -> None:
    manifest = load("casme2", roots["casme2"])
    manifest.write(tmp_path / "corpus")
    first = next(iter(manifest))
    kept, _ = load_database("corpus", tmp_path / "corpus", subjects=[first.subject_key], limit=1)
    assert [row.clip_id for row in kept] == [first.clip_id]
    assert load("corpus", tmp_path / "corpus", select=Selection(clips=(first.clip_id,))).row(0).clip_id == first.clip_id
    with pytest.raises(ConfigError, match="'sub77' is none of"):
        load_database("corpus", tmp_path / "corpus", subjects="sub77")
    with pytest.raises(ConfigError, match="no annotation file"):
        load_database("corpus", tmp_path / "corpus", annotation="x.csv")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("CASME II", "casme2"), ("casmeII", "casme2"), ("CASME-2", "casme2"), ("CAS(ME)^2", "casme_sq"),
        ("CAS(ME)2", "casme_sq"), ("casme^2", "casme_sq"), ("CASME III", "casme3"), ("CAS(ME)^3", "casme3"),
        ("cas(me)3", "casme3"), ("MEGC 2019", "megc2019"), ("4D-ME", "4dme"), ("SAMM ", "samm"), ("smic-hs", "smic"),
    ],
)  # fmt: skip
def test_a_title_as_papers_write_it(written: str, meant: str) -> None:
    with pytest.raises(DatasetLayoutError, match=f"did you mean {meant}\\?$"):
        load(written, ".")


def test_what_may_not_be_looked_into_is_no_root(
    roots: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "others/secret").mkdir(parents=True)
    shutil.copytree(roots["casme2"], tmp_path / "others/x/CASME2")

    def is_release(folder: Path) -> bool:
        if folder.name == "secret":
            raise PermissionError(13, "Permission denied", str(folder))
        return casme2.is_release(folder)

    casme2 = DATABASES["casme2"]
    monkeypatch.setitem(DATABASES._loaded, "casme2", replace(casme2, is_release=is_release))
    assert suggested(refusal("casme2", tmp_path)) == [tmp_path / "others/x/CASME2"]


def test_nothing_but_the_refusal_is_said_of_what_lies_near(roots: dict[str, Path], tmp_path: Path) -> None:
    """A rendered folder of an earlier version, which is warned of when it is read, is only looked at here."""
    shutil.copytree(roots["samm"], tmp_path / "SAMM")
    old = shutil.copytree(roots["casme2"], tmp_path / "in/CASME2")
    facts = {"kind": "rendered", "database": "d", "fps": 200.0, "licence": "none", "seed": 1, "clips": {}}
    (old / "mesynth-rendered.json").write_text(json.dumps(facts))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "beside it" not in refusal("casme2", tmp_path / "SAMM")
        assert "1 level lower" in refusal("casme2", tmp_path / "in")
    said = refusal("casme2", tmp_path / "SAMN")
    assert "near it is SAMM: use" in said or "SAMM does" in said


@pytest.mark.parametrize("words", [["prepare", "casme2", "--root", ".", "--out", "x"], ["augment", ".", "--out", "x"]])
def test_fewer_than_no_processes(words: list[str]) -> None:
    found = CliRunner().invoke(main, [*words, "--workers", "-1"])
    assert found.exit_code == 2
    assert "-1 is not in the range" in found.stderr
    with pytest.raises(ConfigError, match="workers=-1"):
        run_shards(Path("x"), [], None, None, last="y", workers=-1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"subjects": 2.5}, "subjects=2.5 is neither a name"),
        ({"subjects": [1, 2]}, r"subject '1' is none of the 5 of D \(nor are 2\)"),
        ({"subjects": True}, "subject 'True' is none"),
        ({"clips": 3}, "clips=3 is neither a name"),
        ({"limit": "2"}, "limit='2' is no whole number"),
        ({"limit": 2.5}, "limit=2.5 is no whole number"),
        ({"limit": True}, "limit=True is no whole number"),
    ],
)
def test_what_python_may_hand_over(given: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Selection.parse(**given).of(KEYS, "D")  # type: ignore[arg-type]


def test_none_is_all() -> None:
    assert not Selection.parse(None, None, None)
    assert len(Selection.parse(np.int64(2)).of(KEYS, "D")) < len(KEYS)
