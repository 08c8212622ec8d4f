"""What all exports share: nothing missing without a reason, provenance beside, resumption, refusals, the verb."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from mesynth.cli import corpus, main
from mesynth.core import facs
from mesynth.core.errors import ConfigError, ManifestError, RunFolderError
from mesynth.corpus.exports.form import Options
from mesynth.corpus.exports.run import FORMS, export, forecast
from mesynth.store.manifest import Manifest
from mesynth.store.stage import Interrupted
from tests.builders import tree_bytes

Exported = Callable[[Manifest, str], Path]
LEFT = {
    "flow-folders": {"c3": "no flow", "c5": "no class", "c7": "no class"},
    "casme2": {"c4": "no frames", "c6": "no action unit", "c7": "no emotion"},
    "samm": {"c4": "no frames", "c6": "no action unit", "c7": "no emotion"},
    "webdataset": {"c4": "no frames"},
    "huggingface": {"c4": "no frames"},
    "frames": {"c4": "no frames"},
    "previews": {"c4": "no frames"},
    "flow-npy": {"c3": "no flow"},
    "meb": {"c3": "no flow", "c4": "no frames", "c6": "no action unit", "c7": "no emotion"},
}


def _left(folder: Path) -> dict[str, str]:
    with open(folder / "left_out.csv", newline="") as file:
        return {row["clip_id"].split("/")[2]: row["reason"] for row in csv.DictReader(file)}


def _lines(folder: Path) -> list[dict]:  # type: ignore[type-arg]
    return [json.loads(line) for line in (folder / "provenance.jsonl").read_text().splitlines()]


def test_the_verb_and_the_registry_know_the_same_forms() -> None:
    assert tuple(FORMS) == corpus.FORMS


@pytest.mark.parametrize("form", list(FORMS))
def test_a_clip_is_exported_or_listed_with_its_reason(form: str, mixed: Manifest, exported: Exported) -> None:
    folder = exported(mixed, form)
    left = _left(folder)
    assert left.keys() == LEFT[form].keys()
    assert all(reason.startswith(LEFT[form][clip]) for clip, reason in left.items())
    account = json.loads((folder / "export.json").read_text())
    assert account["left_out"] == len(left) == sum(account["reasons"].values())
    assert account["clips"] == len(_lines(folder)) == len(mixed) - len(left)
    expected = forecast(mixed, form)
    assert (expected.clips, len(expected.left_out)) == (account["clips"], account["left_out"])
    assert not (folder / "parts").exists()
    assert not list(folder.rglob("*.tmp"))


@pytest.mark.parametrize("form", list(FORMS))
def test_provenance_survives_every_export(form: str, mixed: Manifest, exported: Exported) -> None:
    rows = {row.clip_id: row for row in mixed}
    for line in _lines(exported(mixed, form)):
        row, source = rows[line["clip_id"]], line["provenance"]
        assert source["kind"] == "synthetic"
        assert tuple(source["subjects_seen"]) == row.provenance.subjects_seen
        assert (source["generator"], source["seed"], source["licence"]) == ("motion-prior", 7, "CC0-1.0")
        assert tuple(line["au_intensity"]) == row.au_intensity
        if line["aus"]:
            assert facs.parse_request(line["aus"]).intensity == pytest.approx(row.aus.intensity, abs=1e-4)


def _stop_after(clips: int) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        if done >= clips:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("form", list(FORMS))
@pytest.mark.parametrize("stop", [1, 6])
def test_an_interrupted_export_goes_on_and_ends_with_the_same_bytes(
    form: str, stop: int, samples: Manifest, exported: Exported, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(Interrupted, match="the same command goes on"):
        export(samples, form, out, progress=_stop_after(stop))
    assert not (out / "export.json").exists()
    (out / "stray.tmp").write_bytes(b"left by a kill")
    export(samples, form, out)
    assert tree_bytes(out) == tree_bytes(exported(samples, form))


def test_a_finished_shard_is_not_made_twice(samples: Manifest, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        export(samples, "frames", tmp_path / "out", progress=_stop_after(6))
    first = sorted((tmp_path / "out/frames").rglob("*.png"))[0]
    first.write_bytes(b"mine")
    export(samples, "frames", tmp_path / "out")
    assert first.read_bytes() == b"mine"


def test_a_finished_export_is_returned_as_it_is(mixed: Manifest, exported: Exported) -> None:
    folder = exported(mixed, "flow-npy")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    seen: list[tuple[int, int]] = []
    account = export(mixed, "flow-npy", folder, progress=lambda done, total: seen.append((done, total)))
    assert (account.clips, account.left_out, account.out) == (10, 1, str(folder))
    assert seen == [(11, 11)]
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_refusals(samples: Manifest, mixed: Manifest, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match=r"form 'matlab' is unknown; choose from flow-folders"):
        export(samples, "matlab", out)
    with pytest.raises(ConfigError, match="export to samm has no option 'size'"):
        export(samples, "samm", out, Options(size=28))
    with pytest.raises(ConfigError, match=r"size=4 px is outside \[8, 1024\]"):
        Options(size=4)
    with pytest.raises(ConfigError, match="video 'avi' is unknown"):
        Options(video="avi")
    with pytest.raises(ManifestError, match="holds no clips"):
        export(samples[:0], "samm", out)
    nothing = Manifest.from_rows([row for row in mixed if row.clip == "c4"], mixed.root)
    with pytest.raises(ManifestError, match=r"no clip of .* to casme2; the first has no frames in this corpus"):
        export(nothing, "casme2", out)
    assert not out.exists()
    export(samples, "flow-npy", out)
    with pytest.raises(RunFolderError, match="holds another run"):
        export(mixed, "flow-npy", out)
    with pytest.raises(RunFolderError, match="holds another run"):
        export(samples, "frames", out)


def test_a_damaged_shard_stops_the_export(samples: Manifest, tmp_path: Path) -> None:
    copy = corpus_copy(samples, tmp_path)
    shard = copy.root / "frames-000000.tar"
    data = bytearray(shard.read_bytes())
    data[5000] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ManifestError, match=r"frames-000000\.tar is damaged"):
        export(copy, "webdataset", tmp_path / "out")
    assert not (tmp_path / "out" / "export.json").exists()
    assert not list((tmp_path / "out").glob("*.tar*"))


def corpus_copy(source: Manifest, folder: Path) -> Manifest:
    import shutil

    shutil.copytree(source.root, folder / "copy")
    return Manifest.read(folder / "copy")


def test_verb(samples: Manifest, tmp_path: Path) -> None:
    out = tmp_path / "flow"
    args = ["export", str(samples.root), "--to", "flow-folders", "--out", str(out)]
    dry = CliRunner().invoke(main, [*args, "--dry-run"])
    assert "would export 8 clips to flow-folders" in dry.output
    assert not out.exists()
    done = CliRunner().invoke(main, [*args, "--json", "--no-train", "--size", "40"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["clips"], found["left out"], found["subjects"]) == (8, 0, 4)
    wrong = CliRunner().invoke(main, [*args[:-1], str(tmp_path / "x"), "--video", "mp4"])
    assert wrong.exit_code == 2
    assert "export to flow-folders has no option 'video'" in wrong.output
