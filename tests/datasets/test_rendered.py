"""Rendered subjects in the CASME II layout."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from mesynth.cli import main
from mesynth.core.emotions import CLASS_OF
from mesynth.core.errors import MesynthError, RunFolderError
from mesynth.core.facs import parse_annotation, parse_request
from mesynth.datasets import rendered as rendered_module
from mesynth.datasets.casme2 import RENDERED_FILE, load_casme2
from mesynth.datasets.rendered import (
    FRAMES,
    WORKBOOK,
    Rendering,
    _Job,
    _Renderer,
    _subject,
    au_text,
    draw_emotions,
    render_casme2,
)
from mesynth.preprocess.flow import estimate_flows
from mesynth.store.manifest import Manifest
from mesynth.store.shards import read_frames
from mesynth.store.stage import Interrupted

SMALL = Rendering(subjects=2, clips_per_subject=3, size=64, fps=60.0, seed=5)


def digest(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rendered") / "db"
    render_casme2(out, SMALL)
    return out


def test_layout(rendered: Path) -> None:
    names = {p.name for p in rendered.iterdir()}
    assert {FRAMES, WORKBOOK, RENDERED_FILE} <= names
    assert sorted(p.name for p in (rendered / FRAMES).iterdir()) == ["sub01", "sub02"]
    assert not list(rendered.rglob("*.tmp"))
    assert not list(rendered.glob("*.tar"))
    for row in load_casme2(rendered):
        on_disk = list((rendered / FRAMES / row.subject / row.clip).glob("img*.jpg"))
        assert len(on_disk) > row.n_frames  # frames before the onset and after the offset


def test_macro_expressions_are_long_strong_and_of_the_same_people(rendered: Path, tmp_path: Path) -> None:
    render_casme2(tmp_path / "macro", replace(SMALL, subjects=1, macro=True, fps=30.0))
    read, micro = list(load_casme2(tmp_path / "macro")), list(load_casme2(rendered))
    assert read == list(Manifest.read(tmp_path / "macro"))
    assert {row.expression for row in read} == {"macro"}
    assert {row.expression for row in micro} == {"micro"}
    assert all(0.5 < (row.n_frames - 1) / row.fps <= 4 for row in read)
    strong, weak = (np.mean([max(row.au_intensity) for row in rows]) for rows in (read, micro))
    assert strong > 1.1 * weak
    assert {(row.subject, row.provenance.seed) for row in read} <= {(r.subject, r.provenance.seed) for r in micro}
    assert not {row.clip_id for row in read} & {row.clip_id for row in micro}


def test_workbook_has_the_releases_quirks(rendered: Path) -> None:
    sheets = pd.read_excel(rendered / WORKBOOK, sheet_name=None, dtype=object, engine="openpyxl")
    assert list(sheets) == ["Sheet1", "Sheet2", "Sheet3"]
    assert [c for c in sheets["Sheet1"].columns if str(c).startswith("Unnamed")] == ["Unnamed: 2", "Unnamed: 6"]
    assert set(sheets["Sheet1"]["Subject"]) == {"01", "02"}


def test_rows_read_back_equal_the_rows_rendered(rendered: Path) -> None:
    """Workbook and json carry everything: the loader's manifest is the renderer's own."""
    assert list(load_casme2(rendered)) == list(Manifest.read(rendered))


def test_check_says_that_it_is_rendered_and_whether_all_of_it_is_there(rendered: Path, tmp_path: Path) -> None:
    """Complete is what was rendered: the 255 clips of the release are no measure of it."""
    words = ["prepare", "casme2", "--check", "--root"]
    found = CliRunner().invoke(main, [*words, str(rendered)])
    assert found.exit_code == 0, found.output
    assert "rendered by mesynth, of nobody" in found.output
    told = json.loads(CliRunner().invoke(main, [*words, str(rendered), "--json"]).stdout)
    assert (told["kind"], told["complete"], told["annotated"], told["published"]["clips"]) == ("rendered", True, 6, 6)
    assert (told["subjects"], told["published"]["subjects"], told["differences"]) == (2, 2, [])
    part = shutil.copytree(rendered, tmp_path / "part")
    shutil.rmtree(next((part / FRAMES / "sub01").iterdir()))
    assert CliRunner().invoke(main, [*words, str(part)]).exit_code == 1
    rows = pd.read_excel(rendered / WORKBOOK, sheet_name="Sheet1", dtype=object, engine="openpyxl")
    rows.iloc[:4].to_excel(rendered.parent / "short.xlsx", index=False)
    short = CliRunner().invoke(main, [*words, str(rendered), "--annotation", str(rendered.parent / "short.xlsx")])
    assert short.exit_code == 1
    assert "clips 4 (6)" in short.output


def test_truth_and_annotation_agree(rendered: Path) -> None:
    for row in load_casme2(rendered):
        assert row.provenance.kind == "rendered"
        assert row.provenance.subjects_seen == (f"rendered-5/{row.subject}",)
        assert row.label == CLASS_OF.get(row.emotion, "")
        assert row.fps == 60.0
        assert row.aus.mask.all()
        active = {code for code, pair in zip(parse_codes(), row.aus.intensity, strict=True) if pair.max() > 0}
        assert set(parse_annotation(row.au_text).codes) == active


def parse_codes() -> tuple[int, ...]:
    from mesynth.core.facs import AU_CODES

    return AU_CODES


def test_every_subject_shows_every_class(rendered: Path) -> None:
    labels: dict[str, set[str]] = {}
    for row in load_casme2(rendered):
        labels.setdefault(row.subject, set()).add(row.label)
    assert labels == {key: {"negative", "positive", "surprise"} for key in ("sub01", "sub02")}


def test_something_moves_and_returns(rendered: Path) -> None:
    """The face deforms more from onset to apex than from onset to offset; people differ from each other."""
    rows = list(load_casme2(rendered))
    apex, offset = [], []
    for row in rows:
        frames = read_frames(rendered, row)
        # strain, not difference: the head also drifts, which deforms nothing
        to_apex, to_offset = estimate_flows(frames[[0, 0]], frames[[row.apex_index, -1]])
        apex.append(np.percentile(to_apex.strain(), 98))
        offset.append(np.percentile(to_offset.strain(), 98))
    assert np.mean(apex) > 1.2 * np.mean(offset)
    one, two = (read_frames(rendered, rows[i])[0].astype(np.float32) for i in (0, -1))
    assert np.abs(one - two).mean() > 5


def test_a_clip_does_not_depend_on_processes_or_on_other_clips(rendered: Path) -> None:
    """A worker that was sent elsewhere renders any clip alone; the stage only hands jobs to workers."""
    _subject.cache_clear()
    worker = pickle.loads(pickle.dumps(_Renderer(SMALL.size, SMALL.fps, SMALL.seed)))
    rows = list(Manifest.read(rendered))
    for index in (4, 1):
        subject, clip = divmod(index, SMALL.clips_per_subject)
        made = worker(_Job(subject + 1, int(clip), rows[index].emotion))
        assert made.row == rows[index]
        for name, data in made.files.items():
            assert data == (rendered / name).read_bytes()
        folder = (rendered / next(iter(made.files))).parent
        assert {f"{folder.relative_to(rendered)}/{p.name}" for p in folder.iterdir()} == set(made.files)


def test_an_interrupted_run_resumes_to_the_same_bytes(rendered: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    out = tmp_path / "db"
    with pytest.raises(Interrupted):
        render_casme2(out, SMALL, progress=stop)
    assert not (out / WORKBOOK).exists()
    seen: list[int] = []
    render_casme2(out, SMALL, progress=lambda done, total: seen.append(done))
    assert seen == [3, 4, 5, 6]  # the first subject was not rendered again
    assert digest(out) == digest(rendered)


def test_another_run_in_the_folder(rendered: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="another run"):
        render_casme2(rendered, replace(SMALL, seed=6))
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(RunFolderError, match="not empty"):
        render_casme2(tmp_path, SMALL)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"subjects": 0}, "subjects=0"),
        ({"subjects": 10_001}, "subjects=10001 is outside 1..10000"),
        ({"clips_per_subject": 0}, "clips=0"),
        ({"clips_per_subject": 100}, "clips=100"),
        ({"size": 8}, "size=8"),
        ({"fps": 5.0}, "fps=5"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_arguments_out_of_range(tmp_path: Path, values: dict[str, float], words: str) -> None:
    with pytest.raises(MesynthError, match=words):
        render_casme2(tmp_path / "db", replace(SMALL, **values))  # type: ignore[arg-type]
    assert not (tmp_path / "db").exists()


@pytest.mark.parametrize("layout", ["casme2", "faces"])
@pytest.mark.parametrize("value", ["0", "-3", "10001"])
def test_a_dry_run_refuses_what_the_run_refuses(tmp_path: Path, layout: str, value: str) -> None:
    out = str(tmp_path / "db")
    for more in ([], ["--dry-run"]):
        told = CliRunner().invoke(main, ["render", "--layout", layout, "--subjects", value, "--out", out, *more])
        assert told.exit_code == 2
        assert f"subjects={value} is outside 1..10000" in told.output
    assert list(tmp_path.iterdir()) == []


class _Grey:
    """A person without a head: frames of one grey value each."""

    def __init__(self, seed: int, size: int) -> None:
        self.seed, self.size = seed, size

    def render(self, au: np.ndarray, pose: np.ndarray, noise_seed: int) -> np.ndarray:
        return np.full((len(au), self.size, self.size, 3), noise_seed % 256, np.uint8)


def test_more_people_than_two_digits_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first 99 are who they are among fewer; every one has a folder, clips and random numbers of its own."""
    monkeypatch.setattr(rendered_module, "_subject", _Grey)
    few = render_casme2(tmp_path / "few", Rendering(subjects=9, clips_per_subject=1, size=64, seed=5))
    many = render_casme2(tmp_path / "many", Rendering(subjects=103, clips_per_subject=1, size=64, seed=5))
    names = [f"sub{i:02d}" for i in range(1, 104)]
    assert names[98:100] == ["sub99", "sub100"]
    assert many.column("subject").tolist() == names
    assert sorted(p.name for p in (tmp_path / "many" / FRAMES).iterdir()) == sorted(names)
    assert list(many)[:9] == list(few)
    assert len({row.provenance.seed for row in many}) == 103
    assert len({tuple(read_frames(many.root, row)[:, 0, 0, 0]) for row in many}) > 60  # of 256 greys, and lengths


def test_rendered_people_of_any_number_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last person that may be rendered, beside the first."""
    monkeypatch.setattr(rendered_module, "_subject", _Grey)
    renderer = _Renderer(64, 60.0, 5)
    rows = []
    for number in (1, 99, 100, 1000, 10_000):
        made = renderer(_Job(number, 98, "surprise"))
        rows.append(made.row)
        for name, data in made.files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(data)
    manifest = Manifest.from_rows(rows, tmp_path)
    (tmp_path / RENDERED_FILE).write_bytes(rendered_module._truth(manifest, 5, 60.0))
    (tmp_path / WORKBOOK).write_bytes(rendered_module._workbook(manifest))
    read = load_casme2(tmp_path)
    assert read.column("subject").tolist() == ["sub01", "sub99", "sub100", "sub1000", "sub10000"]
    assert [row.clip_id for row in read] == [row.clip_id for row in rows]


def test_emotions_follow_casme2_with_every_class() -> None:
    drawn = [draw_emotions(8, np.random.default_rng(i)) for i in range(300)]
    for emotions in drawn:
        assert {CLASS_OF.get(e, "") for e in emotions} >= {"negative", "positive", "surprise"}
    flat = [e for emotions in drawn for e in emotions]
    share = {e: flat.count(e) / len(flat) for e in set(flat)}
    assert share["disgust"] == max(share.values())
    assert 0.04 < share["others"] < 0.12
    assert len(draw_emotions(1, np.random.default_rng(0))) == 1


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ("4=B,7=C", "4+7"),
        ("L12=B", "L12"),
        ("L12=0.3,R12=0.05", "L12"),
        ("L12=0.3,R12=0.25", "12"),
        ("17=A,R14=B", "R14+17"),
    ],
)
def test_au_text(asked: str, text: str) -> None:
    assert au_text(parse_request(asked)) == text
