"""The dataset card and Croissant metadata: counted from the rows, and in the form that their readers ask for."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from mesynth.cli import main
from mesynth.core.errors import ManifestError, MesynthError, RunFolderError
from mesynth.corpus.card import (
    CONFORMS_TO,
    CardConfig,
    card_text,
    corpus_config,
    corpus_facts,
    croissant,
    licence_id,
    read_quality,
    write_card,
    write_croissant,
)
from mesynth.corpus.verify import verify
from mesynth.metrics.base import MeasureRow
from mesynth.metrics.report import MeasureReport
from mesynth.store.manifest import Manifest
from tests.builders import tree_bytes
from tests.corpus.exports.corpora import SAMPLES, clip_row


@pytest.fixture
def corpus(tmp_path: Path) -> Manifest:
    return Manifest.read(shutil.copytree(SAMPLES, tmp_path / "corpus"))


def _cell(text: str, start: str) -> list[str]:
    """The cells behind the first one of the only table line that begins so."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {start} |")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def _report(hash_: str) -> MeasureReport:
    rows = (
        MeasureRow(group="g", name="KID", value=0.0123, low=0.01, high=0.02, reference={"real": 0.001}, n=8),
        MeasureRow(group="g", name="FID", value=None, note="not measured: no weights"),
    )
    corpora = {"real": {"clips": 5, "hash": "r"}, "synthetic": {"clips": 8, "hash": hash_}}
    return MeasureReport(rows=rows, corpora=corpora, settings={})


def test_front_matter_is_what_the_hub_reads(corpus: Manifest) -> None:
    text = card_text(corpus_facts(corpus), corpus_config(corpus, title="Small"))
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["license"] == "cc0-1.0"
    assert front["pretty_name"] == "Small"
    assert front["size_categories"] == ["n<1K"]
    assert front["configs"][0]["data_files"] == [{"split": "train", "path": "manifest.parquet"}]


def test_every_section_is_there_and_counts_are_those_of_the_rows(corpus: Manifest) -> None:
    text = card_text(corpus_facts(corpus))
    headings = [line[3:] for line in text.splitlines() if line.startswith("## ")]
    assert headings == [
        "How it was made", "Faces and licences", "Classes and action units", "Quality", "Intended use", "Limits",
        "Not for identifying people", "How to cite",
    ]  # fmt: skip
    labels = corpus.column("label").tolist()
    for name in set(labels):
        assert _cell(text, f"class: {name}") == [str(labels.count(name))]
    with_12 = [row for row in corpus if row.au_present[2 * 8] == 1 or row.au_present[2 * 8 + 1] == 1]
    assert _cell(text, "12 lip corner puller")[0] == str(len(with_12))
    assert _cell(text, "generator: motion-prior") == ["8"]
    assert "8 clips of 4 people, 128 frames, 0.32 s long" in text
    assert _cell(text, "rendered") == ["4", "8"]
    assert "must not be used to identify" in text
    assert "Nobody but the people shown took part" in text


def test_sides_and_strength_of_action_units() -> None:
    facts = corpus_facts([clip_row("a"), clip_row("b")])
    assert facts.aus[4][:3] == [2, 0, 0]
    assert facts.aus[12][:3] == [0, 0, 2]
    assert _cell(card_text(facts), "4 brow lowerer") == ["2", "2", "0", "0", "0.20"]
    assert _cell(card_text(facts), "12 lip corner puller") == ["2", "0", "0", "2", "0.50"]


def test_whom_generators_have_seen_and_what_is_missing_is_told() -> None:
    rows = [clip_row("a", seen=("casme2/sub05", "casme2/sub06")), clip_row("b", source={"generator": "", "seed": -1})]
    text = card_text(corpus_facts(rows), CardConfig(left_out=3))
    assert "generators learned from 2 people: 2 of casme2" in text
    assert "1 synthetic clips name no generator or no seed" in text
    assert "3 clips were left out" in text


@pytest.mark.parametrize(
    ("licences", "name"),
    [
        (("CC0-1.0 (rendered)", "CC0-1.0"), "cc0-1.0"),
        (("CC0-1.0", "Apache-2.0"), "other"),
        (("CC0-1.0; CASME II licence agreement",), "other"),
        (("as the photo",), "other"),
    ],
)
def test_licence(licences: tuple[str, ...], name: str) -> None:
    rows = [clip_row(f"c{i}", source={"licence": licence}) for i, licence in enumerate(licences)]
    facts = corpus_facts(rows)
    assert licence_id(facts) == name
    text = card_text(facts)
    assert all(licence in text for licence in licences)


def test_quality_is_quoted_only_from_a_report_on_this_corpus(corpus: Manifest, tmp_path: Path) -> None:
    assert "Not measured for this card" in card_text(corpus_facts(corpus), corpus_config(corpus))
    _report(corpus.hash()).write(tmp_path / "report")
    text = card_text(corpus_facts(corpus), corpus_config(corpus, tmp_path / "report"))
    assert _cell(text, "KID") == ["0.0123 [0.01, 0.02]", "real 0.001"]
    assert _cell(text, "FID") == ["not measured", "not measured: no weights"]
    _report(corpus.hash()).write(corpus.root / "quality")  # found by itself
    assert read_quality(corpus)["corpora"]["synthetic"]["clips"] == 8
    _report("0" * 64).write(tmp_path / "other")
    with pytest.raises(MesynthError, match="measures another corpus"):
        read_quality(corpus, tmp_path / "other")
    with pytest.raises(MesynthError, match=r"no report\.json"):
        read_quality(corpus, tmp_path)
    (tmp_path / "other/report.json").write_text("{}")
    with pytest.raises(MesynthError, match="is no report"):
        read_quality(corpus, tmp_path / "other")


def test_somebody_elses_readme_is_left_alone(corpus: Manifest) -> None:
    (corpus.root / "README.md").write_text("mine\n")
    with pytest.raises(RunFolderError, match="was not written by mesynth card"):
        write_card(corpus)
    assert (corpus.root / "README.md").read_text() == "mine\n"
    (corpus.root / "README.md").unlink()
    first = write_card(corpus).read_text()
    assert write_card(corpus).read_text() == first  # its own is written anew
    with pytest.raises(ManifestError, match="holds no clips"):
        write_card(corpus[:0])


# ---------------------------------------------------------------- Croissant

REQUIRED = (
    "@context", "@type", "conformsTo", "description", "license", "name", "url", "creator", "datePublished",
    "distribution",
)  # fmt: skip
"""Of the format specification 1.0, section "Dataset-level information"."""


def test_required_properties_and_hashes(corpus: Manifest) -> None:
    record = croissant(corpus, corpus_facts(corpus), corpus.root, CardConfig())
    assert all(record[name] for name in REQUIRED)
    assert record["@type"] == "sc:Dataset"
    assert record["conformsTo"] == CONFORMS_TO == "http://mlcommons.org/croissant/1.0"
    assert record["license"] == ["https://creativecommons.org/publicdomain/zero/1.0/"]
    names = [entry["name"] for entry in record["distribution"]]
    assert sorted(names) == sorted(["manifest.parquet", *(path.name for path in corpus.root.glob("*.tar"))])
    for entry in record["distribution"]:
        data = (corpus.root / entry["contentUrl"]).read_bytes()
        assert entry["sha256"] == hashlib.sha256(data).hexdigest()
        assert entry["contentSize"] == f"{len(data)} B"
        assert entry["@type"] == "cr:FileObject"
    (records,) = record["recordSet"]
    ids = [field["@id"] for field in records["field"]]
    assert len(set(ids)) == len(ids)
    assert records["key"]["@id"] in ids
    for field in records["field"]:
        assert field["source"]["fileObject"]["@id"] == "manifest.parquet"
        assert field["source"]["extract"]["column"] in corpus.table.schema.names


def test_licences_that_are_no_address_are_named(corpus: Manifest) -> None:
    facts = corpus_facts([clip_row("a", source={"licence": "as the photo"}), clip_row("b")])
    assert croissant(corpus, facts, corpus.root, CardConfig())["license"] == [
        {"@type": "sc:CreativeWork", "name": "CC0-1.0"}, {"@type": "sc:CreativeWork", "name": "as the photo"},
    ]  # fmt: skip


def test_mlcroissant_accepts_and_reads_it(corpus: Manifest) -> None:
    mlc = pytest.importorskip("mlcroissant")
    file = write_croissant(corpus, corpus_facts(corpus))
    data = mlc.Dataset(jsonld=file)
    assert not data.metadata.ctx.issues.errors
    found = list(data.records("clips"))
    assert len(found) == len(corpus)
    for row, record in zip(corpus, found, strict=True):
        values = {name.rpartition("/")[2]: value for name, value in record.items()}
        assert values["clip_id"] == row.clip_id.encode()
        assert values["n_frames"] == row.n_frames


# ---------------------------------------------------------------- the verb


def test_verb(corpus: Manifest, tmp_path: Path) -> None:
    before = tree_bytes(corpus.root)
    done = CliRunner().invoke(
        main, ["card", str(corpus.root), "--creator", "A lab", "--url", "https://a.org", "--json"]
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["clips"] == 8
    after = tree_bytes(corpus.root)
    assert [name for name in before if after[name] != before[name]] == ["SHA256SUMS"]  # which lists them
    assert (verify(corpus.root).problems, verify(corpus.root).notes) == ((), ())
    assert set(after) - set(before) == {"README.md", "croissant.json"}
    record = json.loads(after["croissant.json"])
    assert (record["url"], record["creator"]["name"]) == ("https://a.org", "A lab")

    elsewhere = tmp_path / "docs" / "CARD.md"
    assert CliRunner().invoke(main, ["card", str(corpus.root), "--out", str(elsewhere)]).exit_code == 0
    record = json.loads((elsewhere.parent / "croissant.json").read_text())
    for entry in record["distribution"]:
        assert (elsewhere.parent / entry["contentUrl"]).is_file()
    missing = CliRunner().invoke(main, ["card", str(tmp_path / "nowhere")])
    assert missing.exit_code == 2
