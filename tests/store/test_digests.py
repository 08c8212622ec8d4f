"""Digest lists: what they list and how, what is told of a folder that is not what was written."""

from __future__ import annotations

import os
import shutil
import subprocess
import tracemalloc
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from mesynth.core.errors import MesynthError
from mesynth.store import digests
from mesynth.store.digests import LIST, DigestError, WrittenBeforeDigests, audit, check, enter, entries, seal
from mesynth.store.manifest import FILE_NAME, Manifest
from mesynth.store.run_folder import RUN_FILE, claim_folder, write_beside, write_last
from mesynth.store.stage import read_notes, read_skipped, run_stage
from tests.builders import NumberWorker, row, tree_bytes

ODD = ["a b", "b\nc", "c\\d", "d\re", "ü", "数据", "e\\n", "-f", "#g", "a/z", "a-b/y", "A/x"]
SHIPPED = sorted((Path(digests.__file__).parents[1] / "generators" / "data").iterdir())


def folder_of(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def found(folder: Path) -> dict[str, bool]:
    """path -> whether it is harm."""
    return {finding.path: finding.harm for finding in audit(folder)}


# ---------------------------------------------------------------- the list


def test_every_name_comes_back(tmp_path: Path) -> None:
    seal(folder_of(tmp_path, *ODD))
    assert sorted(path for path, _ in entries(tmp_path)) == sorted(ODD)
    assert found(tmp_path) == {}
    check(tmp_path, ODD)


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no coreutils")
def test_sha256sum_reads_it(tmp_path: Path) -> None:
    seal(folder_of(tmp_path, *ODD))
    command = ["sha256sum", "--strict", "--quiet", "-c", LIST]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (tmp_path / "b\nc").write_text("other")
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 1


def test_a_list_is_a_function_of_the_content(tmp_path: Path) -> None:
    seal(folder_of(tmp_path / "one", *ODD))
    folder_of(tmp_path / "two", *ODD[::-1], "begun.tmp", ".writing", ".x.12.tmp", ".DS_Store", digests.LEDGER)
    for name in ODD[::3]:  # in another order, and one after the other
        enter(tmp_path / "two", {name: digests.file_sha256(tmp_path / "two" / name)})
    enter(tmp_path / "two", {name: digests.file_sha256(tmp_path / "two" / name) for name in ODD})
    assert (tmp_path / "one" / LIST).read_bytes() == (tmp_path / "two" / LIST).read_bytes()
    assert found(tmp_path / "two") == {}
    seal(tmp_path / "two")
    assert (tmp_path / "one" / LIST).read_bytes() == (tmp_path / "two" / LIST).read_bytes()


def test_a_copy_by_way_of_windows_is_read(tmp_path: Path) -> None:
    seal(folder_of(tmp_path, "a", "b/c"))
    whole = (tmp_path / LIST).read_bytes()
    assert b"\\" not in whole
    (tmp_path / LIST).write_bytes(whole.replace(b"\n", b"\r\n"))
    assert found(tmp_path) == {}


def test_moved_and_copied_folders_are_whole(tmp_path: Path) -> None:
    seal(folder_of(tmp_path / "one", "a", "b/c"))
    shutil.copytree(tmp_path / "one", tmp_path / "two" / "three")
    (tmp_path / "one").rename(tmp_path / "four")
    assert found(tmp_path / "four") == found(tmp_path / "two" / "three") == {}


def test_a_folder_inside_stands_with_its_own_list(tmp_path: Path) -> None:
    seal(folder_of(tmp_path / "out" / "in", "a"))
    folder_of(tmp_path / "out", "b")
    seal(tmp_path / "out")
    assert [path for path, _ in entries(tmp_path / "out")] == ["b", f"in/{LIST}"]
    (tmp_path / "out" / "in" / "a").write_text("other")
    assert found(tmp_path / "out") == {"in/a": True}
    (tmp_path / "out" / "in" / LIST).unlink()
    assert found(tmp_path / "out") == {f"in/{LIST}": True, "in/a": False}


def test_a_link_to_a_folder_above_has_an_end(tmp_path: Path) -> None:
    folder_of(tmp_path, "a/b")
    os.symlink(tmp_path, tmp_path / "a" / "up", target_is_directory=True)
    seal(tmp_path)
    assert [path for path, _ in entries(tmp_path)] == ["a/b"]


def test_memory_does_not_grow_with_files(tmp_path: Path) -> None:
    def lines(count: int) -> int:
        enter(tmp_path, dict.fromkeys(map("{:08d}".format, range(count)), "0" * 64))
        tracemalloc.start()
        try:
            assert sum(finding.harm for finding in audit(tmp_path)) == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few = lines(200)
    # Twice: Python's own table of interned names may grow by megabytes at any time, but not twice in a row.
    many = min(lines(2000), lines(2000))
    assert many < 1.5 * few + 20_000


# ---------------------------------------------------------------- differences


def test_each_difference_is_told(tmp_path: Path) -> None:
    seal(folder_of(tmp_path, "changed", "gone", "kept", "moved"))
    (tmp_path / "changed").write_bytes(b"changeD")
    (tmp_path / "gone").unlink()
    (tmp_path / "moved").rename(tmp_path / "new")
    assert found(tmp_path) == {"changed": True, "gone": True, "moved": True, "new": False}
    for name, says in {"changed": "is not the file that was written", "gone": "is missing"}.items():
        with pytest.raises(DigestError, match=rf"{name} {says}.*verify .* --seal") as told:
            check(tmp_path, [name])
        assert len(str(told.value).splitlines()) == 1
    check(tmp_path, ["kept"])
    with pytest.warns(WrittenBeforeDigests, match="new is not in the folder's SHA256SUMS"):
        check(tmp_path, ["new"])


def test_any_flipped_bit_and_any_cut_of_the_list_is_noticed(tmp_path: Path) -> None:
    """Of the list itself no byte is without a meaning."""
    seal(folder_of(tmp_path, "a", "b\nc"))
    whole = (tmp_path / LIST).read_bytes()
    damaged = [whole[:place] for place in range(0, len(whole), 3)]
    damaged += [whole[:p] + bytes([whole[p] ^ 1 << p % 8]) + whole[p + 1 :] for p in range(len(whole))]
    damaged += [whole + b"\n", whole + whole, b"\n" + whole, b"".join(whole.splitlines(keepends=True)[1:])]
    for bad in damaged:
        (tmp_path / LIST).write_bytes(bad)
        assert found(tmp_path)[LIST], bad
        with pytest.raises(DigestError, match="damaged or was cut off"):
            check(tmp_path, ["a"])


def test_a_list_that_was_removed_is_told_from_an_old_folder(tmp_path: Path) -> None:
    old = folder_of(tmp_path / "old", "a")
    with pytest.warns(WrittenBeforeDigests, match="written before digests"):
        assert check(old, ["a"]) is False
    claim_folder(tmp_path / "new", {"a": 1})
    write_last(tmp_path / "new" / "a", b"a")
    assert check(tmp_path / "new", ["a"])
    (tmp_path / "new" / LIST).unlink()
    with pytest.raises(DigestError, match="has lost its SHA256SUMS"):
        check(tmp_path / "new", ["a"])


def test_what_is_written_beside_is_listed_where_there_is_a_list(tmp_path: Path) -> None:
    write_beside(tmp_path / "old" / "README.md", b"a card")
    assert not (tmp_path / "old" / LIST).exists()
    seal(folder_of(tmp_path / "new", "a"))
    write_beside(tmp_path / "new" / "README.md", b"a card")
    assert [path for path, _ in entries(tmp_path / "new")] == ["README.md", "a"]
    assert found(tmp_path / "new") == {}


# ---------------------------------------------------------------- stages


def test_a_stage_is_sealed_and_its_parts_are(tmp_path: Path) -> None:
    run_stage(tmp_path / "a", range(20), NumberWorker(), config={})
    listed = [path for path, _ in entries(tmp_path / "a")]
    assert listed == sorted(set(tree_bytes(tmp_path / "a")) - {LIST})
    assert {RUN_FILE, FILE_NAME, "skipped.csv", "notes.jsonl", "clips/0.txt"} <= set(listed)
    assert found(tmp_path / "a") == {}


@pytest.mark.parametrize("moment", ["after the list", "after the manifest"])
def test_a_kill_at_the_end_costs_nothing(tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the list and the last file, and between that and the end of the journals."""
    run_stage(tmp_path / "whole", range(6), NumberWorker(), config={})
    names = {"after the list": ("replace", FILE_NAME), "after the manifest": ("rmtree", "parts")}
    module, name = names[moment]
    home = os if module == "replace" else shutil
    real: Callable[..., None] = getattr(home, module)

    def killed(*arguments: object, **options: object) -> None:
        if arguments[-1] == tmp_path / "cut" / name:
            raise KeyboardInterrupt
        real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(home, module, killed)
        with pytest.raises(MesynthError, match="interrupted"):
            run_stage(tmp_path / "cut", range(6), NumberWorker(), config={})
    assert (tmp_path / "cut" / FILE_NAME).is_file() == (moment == "after the manifest")
    assert (tmp_path / "cut" / LIST).is_file()
    run_stage(tmp_path / "cut", range(6), NumberWorker(), config={})
    assert tree_bytes(tmp_path / "cut") == tree_bytes(tmp_path / "whole")


def test_a_manifest_that_somebody_writes_has_a_list(tmp_path: Path) -> None:
    Manifest.from_rows([row("a")], tmp_path).write(tmp_path)
    Manifest.from_rows([row("b")], tmp_path).write(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Manifest.read(tmp_path).meta.keys() == {"mesynth.hash"}
    (tmp_path / LIST).unlink()
    with pytest.raises(DigestError, match="has lost its"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize("name", ["run.yaml", "skipped.csv", "notes.jsonl", FILE_NAME])
def test_what_trust_rests_on_is_checked_when_it_is_read(tmp_path: Path, name: str) -> None:
    run_stage(tmp_path, range(20), NumberWorker(), config={"seed": 1})
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:])
    reads = {"skipped.csv": partial(read_skipped, tmp_path), "notes.jsonl": partial(read_notes, tmp_path)}
    with pytest.raises(MesynthError, match=name):
        reads.get(name, partial(Manifest.read, tmp_path))()
    if name == "run.yaml":
        with pytest.raises(DigestError, match=r"run\.yaml is not the file that was written"):
            claim_folder(tmp_path, {"seed": 1})


def test_reading_a_manifest_opens_no_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_stage(tmp_path, range(4), NumberWorker(), config={})
    hashed: list[str] = []
    real = digests.file_sha256
    monkeypatch.setattr(digests, "file_sha256", lambda path: hashed.append(path.name) or real(path))
    Manifest.read(tmp_path)
    assert sorted(hashed) == [FILE_NAME, RUN_FILE]


# ---------------------------------------------------------------- what ships


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
def test_shipped_generators_are_sealed(folder: Path) -> None:
    assert set(tree_bytes(folder)) - {LIST} == {path for path, _ in entries(folder)}
    assert found(folder) == {}


def test_the_sample_corpus_is_sealed() -> None:
    samples = Path(__file__).parents[2] / "samples" / "corpus"
    assert list(digests.listed_folders(samples)) == ["", "faces/"]
    assert found(samples) == {}
