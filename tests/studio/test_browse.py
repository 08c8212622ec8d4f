"""A corpus to look through: filters, pages, a clip's page, verdicts, and what is handed on."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from mesynth.core.errors import ConfigError, ManifestError, MesynthError, RunFolderError
from mesynth.core.facs import AU_INDEX
from mesynth.store.manifest import Manifest
from mesynth.store.shards import read_flow
from mesynth.studio import browse, view
from mesynth.studio.browse import Library, au_words

SAMPLES = Path(__file__).parents[2] / "samples" / "corpus"


@pytest.fixture(scope="module")
def library() -> Library:
    return Library(SAMPLES)


@pytest.fixture(scope="module")
def flows(tmp_path_factory: pytest.TempPathFactory) -> Library:
    from mesynth.api import generate

    out = tmp_path_factory.mktemp("flows") / "flow"
    generate(kind="flow", emotion=["surprise", "negative", "positive"], count=30, out=out)
    return Library(out)


def test_folders_that_hold_no_corpus(tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("x")
    for folder in (tmp_path, tmp_path / "absent", tmp_path / "file.txt"):
        with pytest.raises((ManifestError, MesynthError)) as error:
            Library(folder)
        assert "\n" not in str(error.value)
        assert str(folder) in str(error.value)
    for empty in ("", "   "):
        with pytest.raises(ConfigError, match="no folder is named"):
            Library(empty)
    damaged = shutil.copytree(SAMPLES, tmp_path / "damaged")
    (damaged / "manifest.parquet").write_bytes(b"no table")
    with pytest.raises(MesynthError):
        Library(damaged)


def test_facets_count_what_is_there(library: Library) -> None:
    facets = library.facets()
    rows = list(library.manifest)
    assert facets.generators == {"motion-prior": 8}
    assert sum(facets.subjects.values()) == len(rows) == len(library)
    assert facets.emotions["negative"] == sum(row.label == "negative" for row in rows)
    assert facets.aus["12 lip corner puller"] == sum(" 12" in " " + row.au_text.replace("L", " ") for row in rows)
    assert library.summary().startswith("8 clips of 4 people (motion-prior 8); classes: negative 4")


def test_filters_agree_with_the_rows(library: Library) -> None:
    rows = list(library.manifest)
    for emotion in library.facets().emotions:
        wanted = [i for i, row in enumerate(rows) if emotion in (row.emotion, row.label)]
        assert library.select(emotion=emotion).tolist() == wanted
    for subject in library.facets().subjects:
        assert library.select(subject=subject).tolist() == [i for i, r in enumerate(rows) if r.subject_key == subject]
    for au, count in library.facets().aus.items():
        assert len(library.select(au=au)) == count
    assert library.select().tolist() == list(range(8))
    assert library.select(emotion="surprise", au="12").tolist() == []
    assert library.select(generator="nobody").tolist() == []
    assert library.select(verdict="with a warning").tolist() == [i for i, row in enumerate(rows) if row.warnings]
    for wrong in ({"au": "99"}, {"au": "smile"}, {"verdict": "good"}):
        with pytest.raises(ConfigError):
            library.select(**wrong)


def test_pages_are_made_when_they_are_shown(flows: Library) -> None:
    indices = flows.select()
    assert flows.pages(indices) == 3
    assert flows.pages([]) == 1
    assert not flows._thumbs
    assert [card.index for card in flows.page(indices, 2)] == list(range(12, 24))
    assert set(flows._thumbs) == set(range(12, 24))
    assert [card.index for card in flows.page(indices, 3)] == list(range(24, 30))
    assert flows.page(indices, 99) == flows.page(indices, 3)
    assert flows.page(indices, -1)[0].index == 0
    assert all(card.kind == "png" for card in flows.page(indices))
    assert flows.page([], 1) == []


def test_cards_move(library: Library) -> None:
    card = library.page(library.select(), 1, 1)[0]
    assert card.kind == "mp4"
    import io

    with av.open(io.BytesIO(card.picture)) as container:
        assert sum(1 for _ in container.decode(video=0)) == library.manifest.row(0).n_frames
    shown = view.grid([card], {card.index})
    assert 'aria-pressed="true"' in shown
    assert "<video" in shown


def test_a_clip_s_page(library: Library) -> None:
    page = library.clip(1)
    facts, origin = dict(page.facts), dict(page.provenance)
    row = library.manifest.row(1)
    assert facts["person"] == row.subject_key
    assert facts["length"] == f"{row.n_frames} frames, 300 ms at 50 a second"
    assert facts["motion"].startswith(f"at most {np.hypot(*read_flow(SAMPLES, row)).max():.2f} px")
    assert origin["generator"] == "motion-prior"
    assert origin["seed"] == str(row.provenance.seed)
    assert page.apex is not None
    assert page.difference is not None
    assert row.clip_id in view.clip_page(page)
    for wrong in (-1, 8, 10**9):
        with pytest.raises(ConfigError, match="there is no clip"):
            library.clip(wrong)


def test_the_most_alike_is_the_least_different(flows: Library) -> None:
    near = flows.neighbour(0)
    assert near is not None
    assert near.index != 0
    others = [flows.neighbour(i) for i in range(len(flows))]
    assert all(n is not None and n.index != i for i, n in enumerate(others))
    back = flows.neighbour(near.index)
    assert back is not None
    assert back.difference <= near.difference + 1e-6  # 0 is among those it chose from


def test_a_clip_twice_is_most_like_itself(tmp_path: Path, flows: Library) -> None:
    rows = list(flows.manifest)[:4]
    twin = replace(rows[2], clip_id="twin")
    folder = shutil.copytree(flows.manifest.root, tmp_path / "twins")
    Manifest.from_rows([*rows, twin], folder).write(folder)
    near = Library(folder).neighbour(4)
    assert near is not None
    assert (near.index, near.difference) == (2, 0)


def test_verdicts(library: Library, flows: Library) -> None:
    told: list[tuple[int, int]] = []
    found = library.check([0, 3], lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]
    assert set(found) == {0, 3}
    passed = [i for i, text in found.items() if text == browse.PASSES]
    assert library.select(verdict="passes the checks").tolist() == passed
    assert library.select(verdict="not checked yet").tolist() == [1, 2, 4, 5, 6, 7]
    library.verdicts[5] = "identity 0.4, limit 0.32"
    assert library.select(verdict="fails a check").tolist() == [i for i in found if i not in passed] + [5]
    del library.verdicts[5]
    assert flows.check([0]) == {0: "cannot be checked: no frames"}
    assert flows.select(verdict="fails a check").tolist() == []


def test_a_selection_is_a_corpus_and_an_export(library: Library, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    assert "2 clips written" in library.export([5, 1, 5], browse.SELECTION, out)
    made = Library(out)
    assert made.manifest.column("clip_id").tolist() == [library.manifest.row(i).clip_id for i in (1, 5)]
    assert made.clip(0).apex is not None  # frames are found where they are
    library.export([5, 1], browse.SELECTION, out)  # once more changes nothing
    with pytest.raises(RunFolderError):
        library.export([2], browse.SELECTION, out)
    assert "3 clips written" in library.export([0, 1, 2], "frames", tmp_path / "frames")
    assert (tmp_path / "frames" / "annotations.csv").is_file()
    with pytest.raises(ConfigError, match="no clip is marked"):
        library.export([], "frames", tmp_path / "x")
    with pytest.raises(ConfigError, match="form 'zip' is unknown"):
        library.export([0], "zip", tmp_path / "x")
    with pytest.raises(ConfigError, match="no folder is named"):
        library.export([0], "frames", " ")
    with pytest.raises(ConfigError, match="clip 8 is not in"):
        library.export([8], "frames", tmp_path / "x")
    (tmp_path / "file").write_text("x")
    for form in (browse.SELECTION, "frames"):
        with pytest.raises((MesynthError, OSError)):
            library.export([0], form, tmp_path / "file" / "x")
    assert not (tmp_path / "x").exists()


def test_a_damaged_clip_is_a_grey_card_and_says_why(tmp_path: Path) -> None:
    folder = shutil.copytree(SAMPLES, tmp_path / "corpus")
    (folder / "frames-000000.tar").unlink()
    library = Library(folder)
    cards = library.page(library.select())
    assert "png" in {card.kind for card in cards}
    hurt = next(card.index for card in cards if card.kind == "png")
    page = library.clip(hurt)
    assert page.apex is None
    assert any("frames-000000.tar" in note for note in page.notes)


def test_what_comes_from_files_is_escaped(library: Library) -> None:
    page = library.clip(0)
    evil = '<img src=x onerror="alert(1)">'
    hurt = replace(page, facts=(("emotion", evil),), notes=(evil,), row=replace(page.row, clip_id=evil))
    assert evil not in view.clip_page(hurt)
    card = replace(library.page([0])[0], title=evil, line=evil, clip_id=evil, verdict=evil)
    assert evil not in view.grid([card], ())
    assert evil not in view.message(evil, "problem")


def test_action_units_in_words(library: Library) -> None:
    row = library.manifest.row(1)  # L1=0.75,R1=0.233
    assert au_words(row) == "L1D+R1B"
    unknown = replace(row, au_known=(False,) * 50, au_intensity=(0.0,) * 50)
    assert au_words(unknown) == "1"
    smile = [i // 2 == AU_INDEX[12] for i in range(50)]
    lowered = replace(row, au_intensity=tuple(-0.2 * on for on in smile), au_present=tuple(map(int, smile)))
    assert au_words(lowered) == "12-B"  # less of a smile is none
    assert au_words(replace(row, au_present=(-1,) * 50, au_text="4+7")) == "4+7"
    assert au_words(replace(row, au_present=(-1,) * 50, au_text="")) == "action units not coded"
