"""Folders with an address: a local S3 server, and memory. Nothing leaves this machine."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import mesynth
from mesynth.cli import main
from mesynth.core.errors import ConfigError, ManifestError, RunFolderError
from mesynth.data import ClipDataset, IterableClipDataset
from mesynth.store.digests import DigestError
from mesynth.store.manifest import Manifest
from mesynth.store.remote import RemotePath, delivered, fetched, is_remote, place, shown
from mesynth.store.shards import read_flows
from tests.builders import tree_bytes

FLOW = {"kind": "flow", "emotion": "surprise", "count": 12}


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server")
    import s3fs

    started = server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    started.start()
    host, port = started.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing", "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://{host}:{port}", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1",
        }.items():  # fmt: skip
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("bucket")
        yield "s3://bucket"
        s3fs.S3FileSystem.clear_instance_cache()
    started.stop()


@pytest.fixture
def memory() -> Iterator[str]:
    import fsspec

    yield "memory://bucket"
    fsspec.filesystem("memory").store.clear()


@pytest.fixture(params=["memory", "s3"])
def bucket(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("local") / "flow"
    mesynth.generate(**FLOW, out=out)
    return out


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def test_what_is_written_to_an_address_is_what_a_disk_has(bucket: str, local: Path) -> None:
    made = mesynth.generate(**FLOW, out=f"{bucket}/a/flow")
    assert str(made.root) == f"{bucket}/a/flow"
    assert made.hash() == Manifest.read(local).hash()
    remote = place(f"{bucket}/a/flow")
    assert isinstance(remote, RemotePath)
    assert {name: (remote / name).read_bytes() for name in remote.files()} == tree_bytes(local)
    assert tree_bytes(fetched(remote)) == tree_bytes(local)


def test_clips_are_read_by_range(bucket: str, local: Path) -> None:
    made = mesynth.generate(**FLOW, out=f"{bucket}/b/flow")
    here = list(read_flows(Manifest.read(local)))
    assert all(np.array_equal(a, b) for a, b in zip(read_flows(made), here, strict=True))
    data = ClipDataset(f"{bucket}/b/flow")
    assert np.array_equal(data[7]["flow"].numpy(), here[7])
    streamed = {item["clip_id"]: item["flow"].numpy() for item in IterableClipDataset(f"{bucket}/b/flow")}
    assert all(np.array_equal(streamed[name], flow) for name, flow in zip(data.clip_ids, here, strict=True))


def test_the_same_command_again_makes_nothing_and_another_is_refused(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{bucket}/c/flow"
    words = ["generate", "--kind", "flow", "--emotion", "surprise", "--workers", 1, "--out", url, "--count"]
    first = run(*words, 8)
    assert first.exit_code == 0, first.output
    assert url in first.stdout
    assert "staging" not in first.stdout
    monkeypatch.setattr("mesynth.corpus.flow_corpus.FlowWorker.__call__", None)  # nothing can be made now
    again = run(*words, 8)
    assert again.exit_code == 0, again.output
    other = run(*words, 9)
    assert other.exit_code == 2
    assert f"{url} holds another run" in " ".join(shown(line) for line in other.stderr.splitlines()) or (
        "holds another run" in other.stderr
    )
    assert other.stderr.count("\n") == 1


def test_exports_and_back(bucket: str, local: Path) -> None:
    url = f"{bucket}/d"
    mesynth.generate(**FLOW, out=f"{url}/flow")
    done = run("export", f"{url}/flow", "--to", "flow-npy", "--out", f"{url}/npy")
    assert done.exit_code == 0, done.output
    back = run("prepare", "export", "--root", f"{url}/npy", "--workers", 1, "--out", f"{url}/back")
    assert back.exit_code == 0, back.output
    flows = zip(read_flows(Manifest.read(f"{url}/back")), read_flows(Manifest.read(local)), strict=True)
    assert all(np.array_equal(a, b) for a, b in flows)


def test_what_was_made_before_a_stop_is_used(memory: str, tmp_path: Path) -> None:
    out = Path(f"{memory}/e")

    def stopped() -> None:
        with delivered(out) as folder:
            folder.mkdir(parents=True)
            (folder / "run.yaml").write_text("begun")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        stopped()
    assert not place(out).exists()
    with delivered(out) as folder:
        assert (folder / "run.yaml").read_text() == "begun"
        assert shown(folder / "run.yaml") == f"{memory}/e/run.yaml"
    assert (place(out) / "run.yaml").read_text() == "begun"
    assert not folder.exists()


def test_the_last_file_is_sent_last(memory: str, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    fs, sent = fsspec.filesystem("memory"), []
    put = fs.put_file
    monkeypatch.setattr(fs, "put_file", lambda here, there: (sent.append(Path(there).name), put(here, there)))
    mesynth.generate(**FLOW, out=f"{memory}/f")
    assert sent[-2:] == ["manifest.parquet", "SHA256SUMS"] or sent[-1] == "manifest.parquet"
    assert sorted(sent) == sorted(tree_bytes(local))


def test_something_else_at_the_address_is_left_alone(memory: str) -> None:
    place(f"{memory}/g/photo.jpg").open("wb").close()
    with pytest.raises(RunFolderError, match="is not empty and holds no run of this command"):
        mesynth.generate(**FLOW, out=f"{memory}/g")


def test_damage_is_found(memory: str) -> None:
    mesynth.generate(**FLOW, out=f"{memory}/h")
    shard = next(name for name in place(f"{memory}/h").files() if name.endswith(".tar"))  # type: ignore[attr-defined]
    file = place(f"{memory}/h") / shard
    data = bytearray(file.read_bytes())
    data[700] ^= 1
    with file.open("wb") as handle:
        handle.write(bytes(data))
    with pytest.raises(ManifestError, match=f"{memory}/h/{shard} is damaged"):
        list(read_flows(Manifest.read(f"{memory}/h")))
    with (place(f"{memory}/h") / "run.yaml").open("wb") as handle:
        handle.write(b"hash: 3\n")
    with pytest.raises(DigestError, match=r"run\.yaml is not the file that was written"):
        Manifest.read(f"{memory}/h")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["export", "memory://none", "--to", "frames", "--out", "o"], "no manifest.parquet in memory://none"),
        (["export", "ssh+x://none", "--to", "frames", "--out", "o"], "the scheme ssh+x is unknown"),
        (["generate", "--kind", "flow", "--emotion", "surprise", "--out", "foo://bar/x"], "the scheme foo is unknown"),
        (
            ["generate", "--kind", "flow", "--emotion", "surprise", "--shard", "0/2", "--out", "memory://x/y"],
            "--out memory://x/y is written by one process",
        ),
        (
            ["generate", "--faces", "memory://nobody/x", "--au", "12=B", "--out", "o"],
            "nothing lies at memory://nobody/x",
        ),
    ],
)
def test_mistakes(words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*words)
    assert done.exit_code == 2, done.output
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "words",
    [
        ["plan", "corpus/three_classes", "rows.count=2", "--subjects", 2, "--out", "memory://a/b"],
        ["filter", "CORPUS", "--keep", "duplicate", "--out", "memory://a/b"],
        ["card", "CORPUS", "--out", "memory://a/b/README.md"],
        ["calibrate", "motion_gan", "--out", "memory://a/b"],
        ["quickstart", "--out", "memory://a/b"],
    ],
)
def test_what_writes_into_folders_alone_refuses_an_address(
    words: list[object], local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*(local if word == "CORPUS" else word for word in words))
    assert done.exit_code == 2, done.output
    assert "memory://a/b" in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert os.listdir(tmp_path) == []


def test_verify_of_an_address(memory: str) -> None:
    mesynth.generate(**FLOW, out=f"{memory}/i")
    assert run("verify", f"{memory}/i").exit_code == 0
    with (place(f"{memory}/i") / "plan.jsonl").open("wb") as handle:
        handle.write(b"{}")
    done = run("verify", f"{memory}/i")
    assert done.exit_code == 2
    assert "plan.jsonl" in done.stdout + done.stderr


def test_a_bucket_that_is_not_there(s3: str) -> None:
    done = run("generate", "--kind", "flow", "--emotion", "surprise", "--workers", 1, "--out", "s3://other/x")
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1
    assert "s3://other/x" in done.stderr


def test_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    def missing(url: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(ConfigError, match=r"pip install 'mesynth\[cluster\]'"):
        place("s3://bucket/a")
    with pytest.raises(ConfigError, match="pip install 'gcsfs'"):
        place("gs://bucket/a")


def test_addresses_are_told_from_paths() -> None:
    assert [is_remote(p) for p in ("s3://b/a", "s3:/b/a", "memory://x", "a/b", "C:/x", "/s3://b", "hf://lab/x", 3)] == [
        True, True, True, False, False, False, False, False,
    ]  # fmt: skip
    path = place("s3://b/a/c.tar")
    assert (str(path), str(path.parent), path.name, str(path.parent / "d")) == (
        "s3://b/a/c.tar", "s3://b/a", "c.tar", "s3://b/a/d",
    )  # fmt: skip
    assert type(path.parent / "d") is RemotePath
    assert pickle.loads(pickle.dumps(path)) == path
    with pytest.raises(OSError, match="whole files"):
        path.open("a")
