"""verify: clean corpora pass, a flipped byte anywhere in a shard is found and named, and so is all else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mesynth.cli import main
from mesynth.core.errors import ManifestError
from mesynth.corpus.card import corpus_facts, write_card, write_croissant
from mesynth.corpus.exports.run import export
from mesynth.corpus.verify import provenance_problems, verify
from mesynth.preprocess.augment import augment
from mesynth.store.manifest import Manifest, Row
from tests.builders import row as plain_row
from tests.corpus.exports.corpora import SAMPLES, clip_row


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SAMPLES, tmp_path / "corpus"))


def _flip(path: Path, place: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(data)


def _rewrite(corpus: Path, change: Callable[[Row], Row]) -> None:
    """Write the manifest with changed rows, and the hash that belongs to them."""
    manifest = Manifest.read(corpus)
    Manifest.from_rows([change(row) for row in manifest], corpus).write(corpus)


def test_the_shipped_corpus_is_clean(corpus: Path) -> None:
    seen: list[tuple[int, int]] = []
    verdict = verify(corpus, progress=lambda done, total: seen.append((done, total)))
    assert verdict.clean
    assert (verdict.clips, verdict.frames) == (8, 128)
    assert seen[-1] == (12, 12)  # clips and the faces beside them


@pytest.mark.parametrize("form", ["webdataset", "casme2", "frames"])
def test_exports_that_are_corpora_are_clean(form: str, tmp_path: Path) -> None:
    export(Manifest.read(SAMPLES), form, tmp_path / "out")
    verdict = verify(tmp_path / "out")
    assert verdict.problems == ()
    assert verdict.frames == 128


def test_augmented_copies_are_clean(tmp_path: Path) -> None:
    """They were made without weights."""
    assert verify(augment(Manifest.read(SAMPLES), tmp_path / "out").root).problems == ()


@pytest.mark.parametrize("shard", ["frames-000000.tar", "flow-000001.tar", "faces/frames-000000.tar"])
@pytest.mark.parametrize("where", [0.0, 0.001, 0.31, 0.62, 0.97, 1.0])
def test_a_flipped_byte_is_found_and_its_shard_named(corpus: Path, shard: str, where: float) -> None:
    size = (corpus / shard).stat().st_size
    place = min(int(where * size), size - 1)
    _flip(corpus / shard, place, bit=place % 8)
    problems = verify(corpus).problems
    assert len(problems) == 1
    assert problems[0].file == shard
    manifest = Manifest.read((corpus / shard).parent)
    spans = {row.clip_id: row.frames if "frames" in shard else row.flow for row in manifest}
    owners = [
        clip
        for clip, span in spans.items()
        if span and span.shard == Path(shard).name and span.offset <= place < span.offset + span.size
    ]
    assert [problems[0].clip_id] == (owners or [""])
    if owners:
        assert "are not what was written" in problems[0].what


def test_the_damaged_picture_is_named(corpus: Path) -> None:
    row = Manifest.read(corpus).row(0)
    assert row.frames is not None
    data = (corpus / row.frames.shard).read_bytes()
    place = data.index(b"00000000.003.png") + 512 + 5000  # behind the header of the fourth frame
    _flip(corpus / row.frames.shard, place)
    (problem,) = verify(corpus).problems
    assert "003.png is damaged" in problem.what
    assert "002.png" not in problem.what


def test_every_problem_is_listed(corpus: Path) -> None:
    for shard in ("frames-000000.tar", "frames-000001.tar"):
        _flip(corpus / shard, 3000)
    (corpus / "flow-000000.tar").unlink()
    (corpus / "frames-000099.tar").write_bytes(b"x")
    found = [(p.file, p.clip_id.split("/")[-2] if p.clip_id else "") for p in verify(corpus).problems]
    assert found == [
        ("frames-000000.tar", "syn0000000"), ("flow-000000.tar", ""), ("frames-000001.tar", "syn0000004"),
        ("frames-000099.tar", ""),
    ]  # fmt: skip


def test_a_shard_that_was_cut_off(corpus: Path) -> None:
    path = corpus / "frames-000001.tar"
    path.write_bytes(path.read_bytes()[:-300_000])
    problems = verify(corpus).problems
    assert any("its last clip ends at" in problem.what for problem in problems)
    assert any(problem.clip_id.endswith("syn0000007/0") for problem in problems)


def test_a_part_of_a_corpus_is_clean(corpus: Path) -> None:
    """A manifest of every other clip leaves gaps between its spans, which belong to nobody it knows."""
    manifest = Manifest.read(corpus)
    Manifest.from_rows([row for i, row in enumerate(manifest) if i % 2], corpus).write(corpus)
    assert verify(corpus).problems == ()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"n_frames": 15}, "holds 16 frames; the manifest says 15"),
        ({"height": 90}, "96x96 pixels; the manifest says 96x90"),
        ({"apex": 99}, "onset 0, apex 99 and offset 15 are out of order"),
        ({"apex_index": 16}, "apex_index 16 lies outside its 16 frames"),
        ({"au_intensity": (2.0,) * 50}, "AU intensities span [2, 2]; expected [0,1]"),
        ({"au_present": (0,) * 4}, "its action units have [4, 50] entries; expected 50"),
    ],
)
def test_rows_that_contradict_their_arrays(corpus: Path, change: dict[str, Any], says: str) -> None:
    _rewrite(corpus, lambda row: replace(row, **change) if row.clip == "syn0000003" else row)
    problems = verify(corpus).problems
    assert problems
    assert any(says in problem.what for problem in problems)
    assert all("syn0000003" in problem.clip_id for problem in problems)


def test_a_manifest_changed_without_its_hash(corpus: Path) -> None:
    manifest = Manifest.read(corpus)
    import pyarrow.parquet as pq

    emotions = ["anger", *manifest.column("emotion").tolist()[1:]]
    table = manifest.table.set_column(
        manifest.table.schema.get_field_index("emotion"), "emotion", [emotions]
    )  # fmt: skip
    pq.write_table(table.replace_schema_metadata(manifest.meta), corpus / "manifest.parquet")
    (problem,) = verify(corpus).problems
    assert (problem.file, problem.clip_id) == ("manifest.parquet", "")
    assert "its rows are not those its hash was made of" in problem.what


def test_with_croissant_any_flipped_byte_of_the_manifest_is_found(corpus: Path) -> None:
    manifest = Manifest.read(corpus)
    write_croissant(manifest, corpus_facts(manifest))
    assert verify(corpus).clean
    whole = (corpus / "manifest.parquet").read_bytes()
    for place in range(7, len(whole), 571):
        _flip(corpus / "manifest.parquet", place, place % 8)
        try:
            found = verify(corpus).problems
        except ManifestError:
            found = ()  # not to be read at all, and says so
        else:
            assert found, place
            assert all(problem.file == "manifest.parquet" or problem.clip_id for problem in found)
        (corpus / "manifest.parquet").write_bytes(whole)


# ---------------------------------------------------------------- provenance


def test_a_complete_provenance_has_no_problems() -> None:
    assert list(provenance_problems(clip_row("a"))) == []
    assert list(provenance_problems(plain_row())) == []


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ({"subjects_seen": ()}, "names nobody in subjects_seen"),
        ({"subjects_seen": ("x/y",)}, "subjects_seen does not name photo/ann, whom it shows"),
        ({"generator": ""}, "names no generator"),
        ({"generator": "motion_gan runs/a"}, "has no sha256 of the weights of motion_gan"),
        ({"seed": -1}, "has no seed"),
        ({"parents": ()}, "has no parents"),
        ({"profile": ""}, "has no profile"),
        ({"aus_source": ""}, "has no aus_source"),
        ({"code_version": ""}, "has no code_version"),
        ({"subject": ""}, "names no database or no subject"),
    ],
)
def test_gaps_in_the_provenance_are_told(source: dict[str, Any], says: str) -> None:
    (problem,) = provenance_problems(clip_row("a", source=source))
    assert says in problem


# ---------------------------------------------------------------- the verb


def test_verb(corpus: Path) -> None:
    clean = CliRunner().invoke(main, ["verify", str(corpus)])
    assert clean.exit_code == 0, clean.output
    _flip(corpus / "frames-000000.tar", 3000)
    _flip(corpus / "flow-000001.tar", 3000)
    broken = CliRunner().invoke(main, ["verify", str(corpus)])
    assert broken.exit_code == 2
    errors = [line for line in broken.stderr.splitlines() if line.startswith("Error")]
    assert len(errors) == 1
    assert "frames-000000.tar, rendered/person1095020040/syn0000000/0: bytes 0 to 262144" in errors[0]
    assert "(and 1 more)" in errors[0]
    assert len(broken.stdout.splitlines()) == 2
    told = CliRunner().invoke(main, ["verify", str(corpus), "--json"])
    assert told.exit_code == 2
    verdict = json.loads(told.stdout)
    assert verdict["clean"] is False
    assert [problem["file"] for problem in verdict["problems"]] == ["frames-000000.tar", "flow-000001.tar"]
    nothing = CliRunner().invoke(main, ["verify", str(corpus / "nowhere")])
    assert nothing.exit_code == 2
    assert "no manifest.parquet" in nothing.output


def test_a_card_does_not_disturb(corpus: Path) -> None:
    before = (corpus / "manifest.parquet").read_bytes()
    write_card(Manifest.read(corpus))
    assert verify(corpus).clean
    assert (corpus / "manifest.parquet").read_bytes() == before
