"""Several processes, one folder: any number of them, killed or not, writes what one writes, to the byte."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp

import pytest

from mesynth.api import merge
from mesynth.core.errors import ConfigError, MesynthError, RunFolderError
from mesynth.store import cluster
from mesynth.store.cluster import TOGETHER, Member, Share, ShareDone, launcher_share, together, writer
from mesynth.store.manifest import Manifest
from mesynth.store.run_folder import LOCK_FILE, claim_folder, only_writer
from mesynth.store.schedulers import Submission
from mesynth.store.stage import PARTS, _unless_finished, journal, merge_stage, read_closing, run_stage
from tests.builders import NumberWorker, tree_bytes

JOBS = list(range(40))
CONFIG = {"jobs": len(JOBS)}


@lru_cache(maxsize=1)
def alone() -> dict[str, bytes]:
    """What a single process writes."""
    out = Path(mkdtemp()) / "alone"
    run_stage(out, JOBS, NumberWorker(), config=CONFIG)
    return tree_bytes(out)


def make(out: Path, worker: Callable[[int], object] | None = None, workers: int = 1) -> Manifest:
    return run_stage(out, JOBS, worker or NumberWorker(), config=CONFIG, workers=workers)


class Processes:
    """Forked, so that nothing is imported again; each says in a file how it ended."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.pids = folder, {}

    def start(self, name: int, work: Callable[[], object]) -> None:
        pid = os.fork()
        if pid:
            self.pids[name] = pid
            return
        try:
            said = ""
            try:
                work()
            except MesynthError as error:
                said = str(error)
            (self.folder / f"{name}.txt").write_text(said)
            os._exit(2 if said else 0)
        finally:
            os._exit(1)

    def ended(self, name: int) -> tuple[int, str]:
        """(exit code, or minus the signal; what it said)."""
        _, status = os.waitpid(self.pids.pop(name), 0)
        file = self.folder / f"{name}.txt"
        return os.waitstatus_to_exitcode(status), file.read_text() if file.is_file() else ""


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    if not hasattr(os, "fork"):
        pytest.skip("processes are forked here, so that nothing is imported again")
    (tmp_path / "said").mkdir()
    started = Processes(tmp_path / "said")
    yield started
    for pid in started.pids.values():
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def rank(out: Path, share: Share, worker: Callable[[int], object] | None = None) -> None:
    token = cluster._share.set(share)
    try:
        make(out, worker)
    finally:
        cluster._share.reset(token)


class Killed:
    """Kills its process at its third clip, in the middle of a shard; says so before, if others wait for it."""

    def __init__(self, how: int = signal.SIGKILL, say: Path | None = None) -> None:
        self.left, self.how, self.say = 3, how, say

    def __call__(self, job: int) -> object:
        self.left -= 1
        if not self.left:
            if self.say is not None:
                self.say.touch()
            os.kill(os.getpid(), self.how)
        return NumberWorker()(job)


class Waiting:
    """Holds its first shard until another process is killed: it would be made before that one has begun."""

    def __init__(self, until: Path) -> None:
        self.until = until

    def __call__(self, job: int) -> object:
        while not self.until.exists():
            time.sleep(0.01)
        return NumberWorker()(job)


# ------------------------------------------------------------------- one corpus, one hash


@pytest.mark.parametrize("n", [1, 3, 8])
def test_any_number_of_processes_write_what_one_writes(n: int, tmp_path: Path, processes: Processes) -> None:
    for i in range(n):
        processes.start(i, lambda i=i: rank(tmp_path / "out", Share(i, n)))
    assert [processes.ended(i) for i in range(n)] == [(0, "")] * n
    assert tree_bytes(tmp_path / "out") == alone()


def test_the_shards_of_a_killed_process_are_taken_over(tmp_path: Path, processes: Processes) -> None:
    said = tmp_path / "killed"
    for i in range(8):
        worker = Killed(say=said) if i == 3 else Waiting(said)
        processes.start(i, lambda i=i, worker=worker: rank(tmp_path / "out", Share(i, 8), worker))
    ended = [processes.ended(i) for i in range(8)]
    assert ended[3] == (-signal.SIGKILL, "")
    assert ended[:3] + ended[4:] == [(0, "")] * 7
    assert tree_bytes(tmp_path / "out") == alone()


def test_when_the_first_is_killed_another_closes(tmp_path: Path, processes: Processes) -> None:
    said = tmp_path / "killed"
    for i in range(3):
        worker = Killed(say=said) if i == 0 else Waiting(said)
        processes.start(i, lambda i=i, worker=worker: rank(tmp_path / "out", Share(i, 3), worker))
    assert [processes.ended(i)[0] for i in range(3)] == [-signal.SIGKILL, 0, 0]
    assert tree_bytes(tmp_path / "out") == alone()


def test_a_process_that_was_stopped_and_goes_on_does_no_harm(
    tmp_path: Path, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is there, but silent: its shard is made again, and when it wakes up all is finished."""
    monkeypatch.setenv("MESYNTH_LEASE_SECONDS", "1")
    out = tmp_path / "out"
    processes.start(0, lambda: rank(out, Share(0, 2), Killed(signal.SIGSTOP)))
    os.waitpid(processes.pids[0], os.WUNTRACED)
    processes.start(1, lambda: rank(out, Share(1, 2)))
    assert processes.ended(1) == (0, "")
    assert tree_bytes(out) | alone() == tree_bytes(out)
    os.kill(processes.pids[0], signal.SIGCONT)
    assert processes.ended(0) == (0, "")
    assert tree_bytes(out) == alone()


def test_all_killed_and_started_again(tmp_path: Path, processes: Processes) -> None:
    """With another number of processes: as a resumed run."""
    for i in range(3):
        processes.start(i, lambda i=i: rank(tmp_path / "out", Share(i, 3), Killed()))
    assert {processes.ended(i)[0] for i in range(3)} == {-signal.SIGKILL}
    assert not (tmp_path / "out" / "manifest.parquet").exists()
    for i in range(2):
        processes.start(i, lambda i=i: rank(tmp_path / "out", Share(i, 2)))
    assert [processes.ended(i) for i in range(2)] == [(0, "")] * 2
    assert tree_bytes(tmp_path / "out") == alone()


def test_a_hundred_that_start_together_behave(tmp_path: Path, processes: Processes) -> None:
    """More than there are shards; all wait until the corpus is closed, and none is refused."""
    gate = tmp_path / "go"

    def wait_and_run(i: int) -> None:
        while not gate.exists():
            time.sleep(0.01)
        rank(tmp_path / "out", Share(i, 100))

    for i in range(100):
        processes.start(i, lambda i=i: wait_and_run(i))
    gate.touch()
    assert [processes.ended(i) for i in range(100)] == [(0, "")] * 100
    assert tree_bytes(tmp_path / "out") == alone()


def test_processes_of_a_member_take_shards_too(tmp_path: Path) -> None:
    with together():
        token = cluster._share.set(Share(0, 2))
        try:
            make(tmp_path / "out", workers=2)
        finally:
            cluster._share.reset(token)
    assert tree_bytes(tmp_path / "out") == alone()


# ------------------------------------------------------------------- shares without a rendezvous


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_shares_one_after_the_other(order: tuple[int, ...], tmp_path: Path) -> None:
    out = tmp_path / "out"
    for i in order[:-1]:
        with together(f"{i}/3"), pytest.raises(ShareDone, match=rf"share {i}/3 .* `mesynth merge {out}` does"):
            make(out)
        assert not (out / "manifest.parquet").exists()
        assert not (out / TOGETHER).exists()
    with together(f"{order[-1]}/3"):
        make(out)
    assert tree_bytes(out) == alone()


def test_a_share_makes_its_own_shards_alone(tmp_path: Path) -> None:
    made: list[int] = []

    def worker(job: int) -> object:
        made.append(job)
        return NumberWorker()(job)

    with together("1/3"), pytest.raises(ShareDone):
        make(tmp_path / "out", worker)
    assert made == [job for job in JOBS if job // 4 % 3 == 1]  # four clips a shard


def test_merge_closes_what_shares_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last share was stopped between its last shard and the end."""
    out = tmp_path / "out"
    monkeypatch.setattr("mesynth.store.stage._close_together", _stopped)
    for i in (0, 1):
        with together(f"{i}/2"), pytest.raises(ShareDone):
            make(out)
    monkeypatch.undo()
    assert not (out / "manifest.parquet").exists()
    merge_stage(out, read_closing(out))
    assert tree_bytes(out) == alone()


def _stopped(*_: object) -> None:
    raise ShareDone("stopped")


def test_shares_of_disks_of_their_own_are_merged_where_they_are_copied_together(tmp_path: Path) -> None:
    for i in (0, 1):
        with together(f"{i}/2"), pytest.raises(ShareDone):
            make(tmp_path / f"{i}")
        shutil.copytree(tmp_path / f"{i}", tmp_path / "out", dirs_exist_ok=True)
    merge(tmp_path / "out")
    assert tree_bytes(tmp_path / "out") == alone()


@pytest.mark.parametrize("what", ["another run", "another shard"])
def test_merge_refuses_a_shard_that_somebody_copied_here(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a folder of another plan, or under another number; the same command makes it anew once it is removed."""
    monkeypatch.setattr("mesynth.store.stage._close_together", _stopped)
    out, other = tmp_path / "out", tmp_path / "other"
    for i in (0, 1):
        with together(f"{i}/2"), pytest.raises(ShareDone):
            make(out)
        with together(f"{i}/2"), pytest.raises(ShareDone):
            run_stage(other, JOBS, NumberWorker(), config=CONFIG | {"seed": 1})
    monkeypatch.undo()
    taken = journal(other, 3) if what == "another run" else journal(out, 2)
    shutil.rmtree(journal(out, 3).parent)
    shutil.copytree(taken.parent, journal(out, 3).parent)
    with pytest.raises(RunFolderError, match=r"000003 is a shard of another run, or another shard of this one; remove"):
        merge_stage(out, read_closing(out))
    with pytest.raises(RunFolderError, match="000003 is a shard of another run"):
        make(out)
    assert not (out / "manifest.parquet").exists()
    assert not list(out.rglob("*.tmp"))
    shutil.rmtree(journal(out, 3).parent)
    make(out)
    assert tree_bytes(out) == alone()


@pytest.mark.parametrize("share", ["0/2", ""])
def test_merge_twice_and_beside_those_that_write(share: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr("mesynth.store.stage._close_together", _stopped)
    for i in (0, 1):
        with together(f"{i}/2"), pytest.raises(ShareDone):
            make(out)
    monkeypatch.undo()
    before = tree_bytes(out)
    with together(share), writer(out):
        hidden = cluster._share.set(None), cluster._members.set({})
        try:
            with pytest.raises(RunFolderError, match="is being written by"):
                merge(out)
        finally:
            cluster._share.reset(hidden[0])
            cluster._members.reset(hidden[1])
    assert tree_bytes(out) == before
    assert merge(out) == merge(out)
    assert tree_bytes(out) == alone()


def test_merge_says_which_shards_are_missing(tmp_path: Path) -> None:
    with together("0/4"), pytest.raises(ShareDone):
        make(tmp_path / "out")
    with pytest.raises(RunFolderError, match=r"7 of 10 shards of .* are missing \(numbers 1, 2, 3, 5, 6 \.\.\.\)"):
        merge_stage(tmp_path / "out", read_closing(tmp_path / "out"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "damaged"),
        ("[]", "damaged"),
        ('{"kind": "stage", "last": "manifest.parquet", "jobs": 3, "shards": 9}', "cannot be"),
        ('{"kind": "stage", "last": "manifest.parquet", "jobs": -3, "shards": -1}', "cannot be"),
        ('{"kind": 1, "last": "x", "jobs": 3, "shards": 1}', "kind is missing"),
        (None, "holds no shards that wait to be merged"),
    ],
)
def test_what_is_no_folder_of_shares(text: str | None, words: str, tmp_path: Path) -> None:
    (tmp_path / PARTS).mkdir()
    if text is not None:
        (tmp_path / PARTS / "closing.json").write_text(text)
    with pytest.raises(RunFolderError, match=words):
        read_closing(tmp_path)


def test_a_mistake_of_one_leaves_no_lease(tmp_path: Path) -> None:
    with together("0/2"), pytest.raises(MesynthError, match="job 0 cannot be done"):
        make(tmp_path / "out", NumberWorker(fail_at=0))
    assert not (tmp_path / "out" / TOGETHER).exists()
    with together("0/2"), pytest.raises(ShareDone):
        make(tmp_path / "out")


# ------------------------------------------------------------------- alone or together


def test_one_alone_is_refused_beside_those_that_write_together(tmp_path: Path) -> None:
    claim_folder(tmp_path, CONFIG)
    with together("0/2"), writer(tmp_path) as member:
        assert member is not None
        with pytest.raises(RunFolderError, match=r"written by a process together .* join with --shard i/N"):
            _alone(tmp_path)
    _alone(tmp_path)
    assert not (tmp_path / LOCK_FILE).exists()


def _alone(out: Path) -> None:
    token = cluster._share.set(None), cluster._members.set({})
    try:
        with writer(out) as member:
            assert member is None
    finally:
        cluster._share.reset(token[0])
        cluster._members.reset(token[1])


def test_those_that_write_together_are_refused_beside_one_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster.time, "sleep", lambda _: None)
    with (
        only_writer(tmp_path), together("0/2"),
        pytest.raises(RunFolderError, match="being written by another process"), writer(tmp_path),
    ):  # fmt: skip
        pass


# ------------------------------------------------------------------- leases


def member(out: Path, number: int = 0) -> Member:
    made = Member(out, Share(number, 100))
    made._tell()
    return made


def of_elsewhere(one: Member, seconds_ago: float, clock: str = "2001-01-01") -> None:
    """As a machine wrote it whose process numbers mean nothing here, whatever its clock said."""
    record = json.loads(one._file.read_text()) | {"machine": "elsewhere", "since": clock}
    one._file.write_text(json.dumps(record))
    os.utime(one._file, (time.time() - seconds_ago,) * 2)


@pytest.mark.parametrize(("seconds", "clock", "taken"), [(1, "1970", False), (50, "2099", False), (61, "2099", True)])
def test_an_age_is_the_file_systems(seconds: float, clock: str, taken: bool, tmp_path: Path) -> None:
    holder, other = member(tmp_path), member(tmp_path, 1)
    assert holder.take("000000")
    of_elsewhere(holder, seconds, clock)
    assert other.take("000000") == taken


def test_a_holder_that_left_or_is_no_process_here_is_gone_at_once(tmp_path: Path) -> None:
    holder, other = member(tmp_path), member(tmp_path, 1)
    assert holder.take("a")
    assert not other.take("a")
    record = json.loads(holder._file.read_text())
    holder._file.write_text(json.dumps(record | {"born": "1"}))  # another process has the number now
    other._known.clear()
    assert other.take("a")
    assert not holder.take("a")
    other.leave()
    assert holder.take("a")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"machine": 3}'])
def test_a_heartbeat_that_cannot_be_read_counts_by_its_age(text: str, tmp_path: Path) -> None:
    holder, other = member(tmp_path), member(tmp_path, 1)
    assert holder.take("a")
    holder._file.write_text(text)
    assert not other.take("a")
    os.utime(holder._file, (time.time() - 100,) * 2)
    assert other.take("a")


@pytest.mark.parametrize("left", [b"\0" * 40, b"\xff\xfe\x80", b"../../etc/passwd", b"a/b", b"x" * 5000])
def test_a_damaged_lease_is_nobodys(left: bytes, tmp_path: Path) -> None:
    """A machine that goes down may leave a file of zeros."""
    one = Member(tmp_path, Share(0, 2))
    one.enter()
    lease = one.folder / "leases" / "000001"
    lease.parent.mkdir(exist_ok=True)
    lease.write_bytes(left)
    assert one.take("000001")
    assert lease.read_text() == one.name
    lease.write_bytes(left)
    one.drop("000001")
    assert lease.read_bytes() == left  # not this process's
    one.leave()
    assert not one.folder.exists()


def test_a_lease_is_taken_by_one(tmp_path: Path, processes: Processes) -> None:
    """Also the lease of a dead one, for which all reach at once."""
    dead = member(tmp_path)
    for i in range(30):
        assert dead.take(str(i))
    dead._file.unlink()

    def reach(number: int) -> None:
        one = member(tmp_path, number)
        got = [i for i in range(30) if one.take(str(i))]
        (tmp_path / f"{number}.got").touch()
        while len(list(tmp_path.glob("*.got"))) < 6:  # who ends is dead, and his leases are free
            time.sleep(0.01)
        raise MesynthError(",".join(map(str, got)) or "nothing")

    for n in range(6):
        processes.start(n, lambda n=n: reach(n))
    got = [int(i) for n in range(6) for i in processes.ended(n)[1].split(",") if i != "nothing"]
    assert sorted(got) == list(range(30))


def test_who_lost_a_shard_to_another_says_nothing(tmp_path: Path) -> None:
    def fails(*_: object) -> Iterator[int]:
        yield 1
        raise FileNotFoundError("a temporary file that another has cleared away")

    with pytest.raises(FileNotFoundError):
        list(_unless_finished(fails, tmp_path, "last", 0, 1, 0, [1]))
    (tmp_path / PARTS / "000000").mkdir(parents=True)
    (tmp_path / PARTS / "000000" / "manifest.parquet").touch()
    assert list(_unless_finished(fails, tmp_path, "last", 0, 1, 0, [1])) == [1]
    (tmp_path / "last").touch()
    assert list(_unless_finished(fails, tmp_path, "last", 1, 2, 0, [1])) == []


# ------------------------------------------------------------------- who takes part


@pytest.mark.parametrize(
    "text", ["8/8", "9/8", "-1/8", "1", "/8", "1/", "a/b", "1/0", "0/0", "1.5/3", "1/8/2", "", " "][:-2]
)
def test_no_share(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--shard"):
        Share.parse(text)


@pytest.mark.parametrize("n", [1, 2, 7])
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_shares_cover_every_shard_once(n: int, count: int) -> None:
    assert sorted(i for r in range(count) for i in Share(r, count, True).order(n)) == list(range(n))
    for r in range(count):
        order = Share(r, count).order(n)
        assert sorted(order) == list(range(n))
        assert order[: len(Share(r, count, True).order(n))] == Share(r, count, True).order(n)


@pytest.mark.parametrize(
    ("environment", "share"),
    [
        ({}, None),
        ({"RANK": "1", "WORLD_SIZE": "3"}, Share(1, 3)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, None),
        ({"SLURM_PROCID": "5", "SLURM_NTASKS": "6"}, Share(5, 6)),
        ({"SLURM_PROCID": "5", "SLURM_NTASKS": "9", "SLURM_STEP_NUM_TASKS": "6"}, Share(5, 6)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, None),
        ({"SLURM_NTASKS": "64"}, None),  # a shell of salloc: no task
        ({"RANK": "1", "WORLD_SIZE": "2", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, Share(1, 2)),
        ({"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "4"}, Share(2, 4)),
        ({"SLURM_PROCID": "6", "SLURM_NTASKS": "6"}, "SLURM says SLURM_PROCID=6"),
        ({"SLURM_PROCID": "x", "SLURM_NTASKS": "6"}, "SLURM says"),
        ({"RANK": "3", "WORLD_SIZE": "3"}, "RANK=3"),
    ],
)
def test_what_a_launcher_says(environment: dict[str, str], share: Share | str | None) -> None:
    if isinstance(share, str):
        with pytest.raises(ConfigError, match=share):
            launcher_share(environment)
    else:
        assert launcher_share(environment) == share


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "nan", "1e9"])
def test_no_patience(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESYNTH_LEASE_SECONDS", text)
    with pytest.raises(ConfigError, match="MESYNTH_LEASE_SECONDS"):
        cluster.patience()


@pytest.mark.parametrize(
    ("environment", "share", "workers"),
    [
        ({"SLURM_CPUS_PER_TASK": "3"}, Share(0, 8), 3),
        ({"LOCAL_WORLD_SIZE": "2"}, Share(0, 8), 3),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "64"}, Share(0, 64), 6),
        ({}, Share(0, 100), 1),
        ({}, Share(0, 2), 3),
        ({}, Share(0, 2, fixed=True), 6),
        ({}, None, 6),
    ],
)
def test_ranks_of_one_machine_share_its_cores(
    environment: dict[str, str], share: Share | None, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    token = cluster._share.set(share)
    try:
        assert cluster.default_workers(environment) == workers
    finally:
        cluster._share.reset(token)


# ------------------------------------------------------------------- SLURM's settings


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90", 90), ("1:30", 2), ("1:30:00", 90), ("2-12", 3600), ("1-00:30", 1470), ("1-1:1:1", 1502), ("0:01", 1)],
)
def test_times_as_sbatch_takes_them(text: str, minutes: int) -> None:
    assert Submission.of(["generate"], Path("c"), tasks=1, slurm=f"time={text}").settings == {"timeout_min": minutes}


@pytest.mark.parametrize("text", ["time", "time=", "=3", "time=1h", "time=0", "time=1:2:3:4", "a b=3", "qos=a,qos=b"])
def test_no_settings(text: str) -> None:
    with pytest.raises(ConfigError, match="--slurm"):
        Submission.of(["generate"], Path("c"), tasks=1, slurm=text)


def test_settings_are_sbatchs() -> None:
    made = Submission.of(
        ["export", "c"], Path("o"), tasks=2, slurm="partition=gpu, gres=gpu:1,mem-gb=8,cpus_per_task=4"
    )
    assert made.settings == {"slurm_partition": "gpu", "slurm_gres": "gpu:1", "mem_gb": 8, "cpus_per_task": 4}
    assert made.command(1)[1:] == ["-m", "mesynth", "export", "c", "--shard", "1/2"]
