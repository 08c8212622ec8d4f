"""Spotters on videos whose expressions are known, and SOFTNet's parts against closed forms."""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from mesynth.core.errors import ConfigError, LeakError, ManifestError, MesynthError, WeightsUnavailable
from mesynth.datasets.rendered import LongRendering, render_long
from mesynth.preprocess.spot import face_regions
from mesynth.store.long_videos import LongVideo, LongVideos, Marked, intervals_csv, read_intervals
from recognizer import spotter as module
from recognizer.cli import main
from recognizer.spotter import (
    Observation,
    SOFTNet,
    SpotRun,
    Spotter,
    SpotterConfig,
    fit,
    fit_spotter,
    flow_picture,
    frame_labels,
    read_scores,
    run_spotting,
    train_on,
    unit_range,
)
from tests.builders import tree_bytes
from tests.stopped import check_stop, whole_run

pytestmark = pytest.mark.usefixtures("flows_once")


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("long") / "long"
    render_long(folder, LongRendering(subjects=2, videos_per_subject=1, seconds=(5.0, 5.0), size=64, fps=25.0, macro=0))
    return folder


# ---------------------------------------------------------------- parts


def test_network_is_the_published_one() -> None:
    """Against a restatement layer by layer, with weights copied."""
    network = SOFTNet().eval()
    x = torch.rand(3, 3, 42, 42, generator=torch.Generator().manual_seed(0))
    weights = network.state_dict()
    maps = []
    for i in range(3):
        kernel, bias = weights[f"streams.{i}.weight"].numpy(), weights[f"streams.{i}.bias"].numpy()
        padded = np.pad(x[:, i].numpy(), ((0, 0), (2, 2), (2, 2)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), (1, 2))
        answer = np.maximum(np.einsum("nyxab,fab->nfyx", windows, kernel[:, 0]) + bias[:, None, None], 0)
        maps.append(answer.reshape(3, -1, 14, 3, 14, 3).max((3, 5)))
    pooled = np.concatenate(maps, 1).reshape(3, 16, 7, 2, 7, 2).max((3, 5)).reshape(3, -1)
    hidden = np.maximum(pooled @ weights["dense.weight"].numpy().T + weights["dense.bias"].numpy(), 0)
    told = hidden @ weights["out.weight"].numpy()[0] + weights["out.bias"].numpy()
    with torch.no_grad():
        np.testing.assert_allclose(network(x).numpy(), told, atol=1e-5)
    assert [layer.out_channels for layer in network.streams] == [3, 5, 8]


def test_head_motion_and_eyes_are_not_seen() -> None:
    still = flow_picture(np.zeros((2, 128, 128), np.float32))
    moved = flow_picture(np.stack([np.full((128, 128), 3.0), np.full((128, 128), -2.0)]).astype(np.float32))
    assert not still.any()
    np.testing.assert_allclose(moved, 0, atol=1e-6)
    v, u = np.mgrid[:128, :128].astype(np.float32)
    brow = np.stack([0 * u, -2 * np.exp(-((v - 34) ** 2) / 30)])
    seen = flow_picture(brow)
    assert seen[1, :21].max() > 1.5  # upwards or downwards
    assert seen[1, 21:].max() < 0.05
    assert flow_picture(-brow)[1] == pytest.approx(seen[1])
    blink = np.stack([0 * u, 5.0 * face_regions(128, 128).eyes]).astype(np.float32)
    assert not flow_picture(blink)[1].any()


def test_pictures_are_scaled_one_by_one() -> None:
    pictures = np.random.default_rng(0).normal(size=(3, 3, 4, 4)).astype(np.float32)
    pictures[1, 2] = 7
    scaled = unit_range(pictures)
    assert scaled[1, 2].tolist() == np.zeros((4, 4)).tolist()
    assert scaled.min() == 0
    assert scaled[0].max((1, 2)) == pytest.approx(1)
    np.testing.assert_allclose(unit_range(pictures * 5 + 2), scaled, atol=1e-5)


@pytest.mark.parametrize(("k", "truth", "ones"), [(3, [(10, 12)], range(8, 13)), (1, [(4, 4)], [4]), (5, [], [])])
def test_labels(k: int, truth: list[tuple[int, int]], ones: Any) -> None:
    step = frame_labels(20, k, truth)
    assert np.flatnonzero(step).tolist() == list(ones)
    soft = frame_labels(20, k, truth, "iou")
    assert ((soft > 0) == (step > 0)).all()
    assert all(0 <= s <= 1 for s in soft)


@pytest.mark.parametrize("k", [2, 6])
@pytest.mark.parametrize("middle", [20, 47, 63])
def test_a_peak_is_read_around_its_middle(k: int, middle: int) -> None:
    scores = np.zeros(100)
    scores[middle - k : middle + k] = 1  # the frames whose next k overlap an expression of k around the middle
    ((first, last, height),) = read_scores(scores, k)
    assert (first, last) == (middle - k, middle + k)
    assert height == pytest.approx(1)
    assert read_scores(np.zeros(100), k) == []
    assert read_scores(scores[: 2 * k], k) == []


def _toy(seed: int, marks: list[tuple[int, int]], n: int = 120) -> Observation:
    """A mouth that brightens in the frames marked, amid noise."""
    rng = np.random.default_rng(seed)
    pictures = rng.random((n, 3, 42, 42)) * 0.3
    for first, last in marks:
        pictures[max(0, first - 4) : last + 1, 1, 24:36, 10:30] += 1
    return Observation(pictures.astype(np.float16), np.ones(n, bool), 1, 25.0)


def _videos(n: int = 3) -> tuple[list[LongVideo], list[Observation], list[list[Marked]]]:
    videos, seen, truth = [], [], []
    for i in range(n):
        video = LongVideo(database="toy", subject=f"s{i}", video=f"v{i}", path=f"v{i}", fps=25.0, frames=125)
        spans = [(30 + 5 * i, 39 + 5 * i), (85, 94)]
        videos.append(video)
        seen.append(_toy(i, spans))
        truth.append([Marked(database="toy", subject=f"s{i}", video=f"v{i}", onset=a, offset=b) for a, b in spans])
    return videos, seen, truth


QUICK = SpotterConfig(epochs=3, batch=48, learning_rate=0.05, labels="iou")


def test_learns_and_finds_in_others(tmp_path: Path) -> None:
    videos, seen, truth = _videos()
    spotter = fit_spotter(videos[1:], seen[1:], truth[1:], QUICK)
    assert spotter.subjects_seen == ("toy/s1", "toy/s2")
    found = spotter.found(videos[0], seen[0])
    from recognizer.spotting import score

    assert score(videos[:1], truth[0], found, kinds=["micro"]).counts().tp == 2
    once = replace(QUICK, epochs=1)
    first, second = (fit_spotter(videos[1:2], seen[1:2], truth[1:2], once).network.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    spotter.save(tmp_path / "spotter")
    loaded = Spotter.load(tmp_path / "spotter")
    assert loaded.config == QUICK
    assert loaded.found(videos[0], seen[0]) == found
    loaded.check_unseen(["toy/s0"])
    with pytest.raises(LeakError, match="toy/s1 and 1 more"):
        loaded.check_unseen(video.person for video in videos)
    blind = replace(seen[0], known=np.arange(120) < 60)
    assert all(m.onset < 70 for m in spotter.found(videos[0], blind))


@pytest.mark.parametrize("marks", [[], [(0, 119)]])
def test_nothing_to_tell_apart(marks: list[tuple[int, int]]) -> None:
    with pytest.raises(MesynthError, match="training videos show"):
        fit([_toy(0, [])], [frame_labels(120, 5, marks)], QUICK)


def test_faulty_spotters(tmp_path: Path) -> None:
    with pytest.raises(WeightsUnavailable, match="no spotter in"):
        Spotter.load(tmp_path)
    Spotter(SOFTNet(), QUICK, ()).save(tmp_path / "nobody")
    with pytest.raises(WeightsUnavailable, match="whom it learned from"):
        Spotter.load(tmp_path / "nobody")
    Spotter(SOFTNet(), QUICK, ("d/1",)).save(tmp_path / "cut")
    (tmp_path / "cut/model.safetensors").write_bytes(b"0" * 40)
    with pytest.raises(MesynthError, match="cut"):
        Spotter.load(tmp_path / "cut")


@pytest.mark.parametrize(
    "wrong",
    [
        {"expression": "mini"}, {"flow": "magic"}, {"labels": "soft"}, {"half_s": -1}, {"epochs": 0},
        {"epochs": 1.5}, {"seed": -1},
        {"batch": 0}, {"learning_rate": 2},
        {"peak": 1},
    ],
)  # fmt: skip
def test_settings_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        SpotterConfig(**wrong)


# ---------------------------------------------------------------- over videos


def _alone(long: Path, folder: Path) -> LongVideos:
    """The first video, listed elsewhere."""
    whole = LongVideos.read(long)
    first = replace(whole.videos[0], path=str(whole.place(whole.videos[0]).resolve()))
    alone = LongVideos(root=folder, videos=(first,), intervals=whole.of(first))
    folder.mkdir(exist_ok=True)
    for name, data in alone.tables().items():
        (folder / name).write_bytes(data)
    return alone


def test_movement_over_rendered_videos(long: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(long / "landmarks.npz", tmp_path)
    _alone(long, tmp_path)
    long = tmp_path
    ran = CliRunner().invoke(main, ["spot", str(long), "--out", str(tmp_path / "run"), "--json"])
    assert ran.exit_code == 0, ran.output
    facts = json.loads(ran.stdout)
    truth = LongVideos.read(long).intervals
    assert facts["micro"]["tp"] + facts["micro"]["fn"] == len(truth) == facts["all"]["tp"] + facts["all"]["fn"]
    found = read_intervals(tmp_path / "run/predictions.csv")
    assert facts["micro"]["tp"] + facts["micro"]["fp"] == len(found)
    # The same command does nothing anew; its predictions, given, have the same score.
    monkeypatch.setattr(module, "moved_in", None)
    assert run_spotting(long, tmp_path / "run").to_dict()["micro"] == {k: facts["micro"][k] for k in facts["micro"]}
    ran = CliRunner().invoke(
        main, ["spot", str(long), "--predictions", str(tmp_path / "run/predictions.csv"), "--out", str(tmp_path / "x")]
    )
    assert ran.exit_code == 0, ran.output
    assert "Spotting, IoU 0.5" in ran.output


def test_a_recognizer_names_what_is_spotted(long: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(long / "landmarks.npz", tmp_path)
    alone = _alone(long, tmp_path)
    given = [replace(m, emotion="") for m in alone.intervals]
    (tmp_path / "found.csv").write_bytes(intervals_csv(given))
    run = SpotRun(predictions=tmp_path / "found.csv", recognizer="shipped")
    result = run_spotting(tmp_path, tmp_path / "run", run)
    assert result.counts().figures()["f1"] == 1
    named = read_intervals(tmp_path / "run/predictions.csv")
    assert {m.emotion for m in named} <= {"negative", "positive", "surprise"}
    facts = json.loads((tmp_path / "run/scores.json").read_text())
    counted = [t for t in result.pairs if t[1].emotion]
    if counted:  # others have no class
        assert facts["recognition"]["n"] == len(counted)
        assert facts["recognition"]["strs"] == pytest.approx(facts["recognition"]["f1"])
    shipped = module.Recognizer.load("shipped")
    known = replace(shipped, subjects_seen=frozenset({alone.videos[0].person}))
    monkeypatch.setattr(module.Recognizer, "load", lambda _: known)
    with pytest.raises(LeakError, match="sub01"):
        run_spotting(tmp_path, tmp_path / "leak", run)


def test_learned_over_rendered_videos(long: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learned_from: list[set[str]] = []
    train = module.fit_spotter

    def watched(videos: Any, *rest: Any) -> Spotter:
        learned_from.append({video.person for video in videos})
        return train(videos, *rest)

    monkeypatch.setattr(module, "fit_spotter", watched)
    config = SpotterConfig(flow="dis", epochs=1)
    run = SpotRun(method="softnet", expressions=("micro",), config=config)
    result = run_spotting(long, tmp_path / "run", run)
    people = {v.person for v in LongVideos.read(long).videos}
    assert learned_from == [people - {person} for person in sorted(people)]
    assert result.counts().truth == len(LongVideos.read(long).intervals)
    monkeypatch.setattr(module, "observe", None)  # flow is kept
    again = run_spotting(long, tmp_path / "run", run)
    assert again.counts() == result.counts()
    assert len(learned_from) == 2


def test_a_saved_spotter_refuses_whom_it_knows(long: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = LongVideos.read(long)
    shown = [_toy(i, [(m.onset, m.offset) for m in videos.of(v)], v.frames - 5) for i, v in enumerate(videos.videos)]

    def observed(*_: Any) -> list[Observation]:
        return shown

    with monkeypatch.context() as toys:
        toys.setattr(module, "_observed", observed)
        train_on(long, tmp_path / "spotter", SpotRun(method="softnet", expressions=("micro",), config=QUICK))
    assert {"model.safetensors", "spotter.json", "run.yaml"} <= {p.name for p in (tmp_path / "spotter").iterdir()}
    assert Spotter.load(tmp_path / "spotter").subjects_seen == tuple(sorted(v.person for v in videos.videos))
    ran = CliRunner().invoke(
        main, ["spot", str(long), "--spotter", str(tmp_path / "spotter"), "--out", str(tmp_path / "leak")]
    )
    assert ran.exit_code == 2
    assert "learned from rendered-long-0/sub01 and 1 more" in ran.output
    assert not (tmp_path / "leak").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--flow", "dis"], "--flow has no effect"),
        (["--train", "--predictions", "x.csv"], "leave one out"),
        (["--iou", "0"], "iou=0"),
        (["--predictions", "nowhere.csv"], "no nowhere.csv"),
        (["--spotter", "nowhere", "--expression", "micro"], "--expression has no effect"),
        (["--spotter", "nowhere"], "no spotter in nowhere"),
        (["--train"], "one kind"),
        (["--method", "softnet", "--epochs", "0"], "epochs=0"),
        (["--method", "softnet"], "marks no macro-expression"),
        (["--train", "--expression", "macro"], "marks no macro-expression"),
        (["--landmarker", "none.npz"], "none.npz"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(long: Path, tmp_path: Path, arguments: list[str], says: str) -> None:
    ran = CliRunner().invoke(main, ["spot", str(long), "--out", str(tmp_path / "out"), *arguments])
    assert ran.exit_code == 2, ran.output
    assert says in ran.output
    assert "Traceback" not in ran.output
    assert not (tmp_path / "out").exists()


def test_one_person_and_wrong_rows(long: Path, tmp_path: Path) -> None:
    whole, alone = LongVideos.read(long), _alone(long, tmp_path)
    with pytest.raises(ConfigError, match="shows one person"):
        run_spotting(tmp_path, tmp_path / "out", SpotRun(method="softnet"))
    short = replace(alone, videos=(replace(alone.videos[0], frames=124),), intervals=())
    for name, data in short.tables().items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ConfigError, match="has 125 frames, its row says 124"):
        run_spotting(tmp_path, tmp_path / "out", SpotRun(landmarker=str(long / "landmarks.npz")))
    (tmp_path / "intervals.csv").write_bytes(intervals_csv(whole.intervals))
    with pytest.raises(ManifestError, match="does not list"):
        LongVideos.read(tmp_path)


def test_who_is_tested_leaves_somebody_to_learn_from(long: Path, tmp_path: Path) -> None:
    """One person's expressions alone are refused before any flow; a spotter that is saved may learn from them."""
    videos = LongVideos.read(long)
    mine = replace(videos, root=tmp_path, intervals=videos.of(videos.videos[0]))
    mine = replace(mine, videos=tuple(replace(v, path=str(videos.place(v).resolve())) for v in videos.videos))
    for name, data in mine.tables().items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ConfigError, match=r"marks micro-expressions of rendered-long-0/sub01 alone"):
        run_spotting(tmp_path, tmp_path / "out", SpotRun(method="softnet", expressions=("micro",)))
    assert not (tmp_path / "out").exists()
    module._require_marks(mine, ["micro"], apart=False)


# ---------------------------------------------------------------- stopped, and asked for again


_SOFTNET = ["--expression", "micro", "--flow", "dis", "--epochs", "1"]
REQUESTS: dict[str, tuple[list[str], str]] = {
    "movement": ([], "scores.json"),
    "softnet": (["--method", "softnet", *_SOFTNET], "scores.json"),
    "train": (["--train", *_SOFTNET], "spotter.json"),
    "given": (["--predictions", "found.csv", "--recognizer", "shipped"], "scores.json"),
}
"""Words of a command, and the file that ends its run."""


def _spot(long: Path, words: list[Any], out: Path) -> Any:
    return CliRunner().invoke(main, ["spot", str(long), *map(str, words), "--out", str(out)])


@pytest.fixture(scope="module")
def requests(long: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    found = tmp_path_factory.mktemp("found") / "found.csv"
    found.write_bytes(intervals_csv([replace(one, emotion="") for one in LongVideos.read(long).intervals]))
    return {kind: [str(found) if w == "found.csv" else w for w in words] for kind, (words, _) in REQUESTS.items()}


@pytest.fixture(scope="module")
def whole(
    long: Path, requests: dict[str, list[str]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, tuple[int, dict[str, bytes]]]]:
    """Of each request the folder of a run that nobody stopped, and what is in it."""
    made: dict[str, tuple[Path, tuple[int, dict[str, bytes]]]] = {}
    for kind, words in requests.items():
        out = tmp_path_factory.mktemp("whole") / "run"
        made[kind] = out, whole_run(out, partial(_spot, long, words, out))
        assert REQUESTS[kind][1] in made[kind][1][1]
    return made


@pytest.mark.parametrize(
    ("kind", "how", "share"),
    [
        ("movement", signal.SIGINT, 0.2), ("softnet", signal.SIGKILL, 0.5), ("train", signal.SIGKILL, 1.0),
        ("train", signal.SIGINT, 0.5), ("given", signal.SIGKILL, 0.5),
        pytest.param("movement", signal.SIGKILL, 1.0, marks=pytest.mark.slow),
        pytest.param("softnet", signal.SIGINT, 0.2, marks=pytest.mark.slow),
        pytest.param("train", signal.SIGKILL, 0.5, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_stopped_in_the_middle_then_resumed(
    long: Path, requests: dict[str, list[str]], whole: dict[str, Any], tmp_path: Path, kind: str, how: signal.Signals,
    share: float,
) -> None:  # fmt: skip
    out, words = tmp_path / "run", requests[kind]
    command = ["recognizer", "spot", long, *words, "--out", out]
    check_stop(how, share, whole[kind][1], out, command, lambda: _spot(long, words, out), REQUESTS[kind][1])


def test_a_finished_request_does_nothing_and_another_is_refused(
    long: Path, requests: dict[str, list[str]], whole: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere, edited, given = tmp_path / "elsewhere", tmp_path / "edited", tmp_path / "given.csv"
    for folder in (elsewhere, edited):
        shutil.copytree(long, folder)
    picture = next(iter(sorted(edited.rglob("*.png")) or sorted(edited.rglob("*.jpg"))))
    picture.write_bytes(picture.read_bytes() + b"0")
    given.write_text("subject,video,onset,offset\n")
    with monkeypatch.context() as nothing:
        for name in ("observe", "moved_in", "fit_spotter", "classify"):
            nothing.setattr(module, name, None)
        for kind, words in requests.items():
            out, (_, before) = whole[kind]
            again = _spot(elsewhere, words, out)
            assert again.exit_code == 0, again.output
            assert tree_bytes(out) == before
    for kind, videos, changes in [
        ("movement", long, ["--iou", "0.4"]), ("movement", edited, []), ("movement", long, ["--expression", "micro"]),
        ("softnet", long, ["--seed", "1"]), ("train", long, ["--epochs", "2"]), ("train", edited, []),
        ("given", long, ["--predictions", given]),
    ]:  # fmt: skip
        out, (_, before) = whole[kind]
        told = _spot(videos, [*requests[kind], *changes], out)
        assert (told.exit_code, len(told.stderr.splitlines())) == (2, 1), (kind, changes, told.output)
        assert "holds another run" in told.stderr
        assert tree_bytes(out) == before


def test_progress_counts_frames_and_begins_where_a_stopped_run_ended(long: Path, tmp_path: Path) -> None:
    """Each step speaks before its first piece, never goes back and ends with all of it."""
    told: dict[str, list[tuple[float, float]]] = {}

    def progress(step: str, done: float, total: float) -> None:
        told.setdefault(step, []).append((done, total))

    frames = sum(video.frames for video in LongVideos.read(long).videos)
    config = SpotterConfig(flow="dis", epochs=2)
    run_spotting(long, tmp_path / "run", SpotRun(method="softnet", expressions=("micro",), config=config), progress)
    totals = {"look at videos": 2, "flow, micro": frames, "people, micro": 2}
    assert told.keys() == totals.keys()
    for step, total in totals.items():
        done = [done for done, _ in told[step]]
        assert {t for _, t in told[step]} == {total}
        assert (done[0], done[-1]) == (0, total)
        assert done == sorted(done)
        assert len(set(done)) > (4 if step != "look at videos" else 2)
    first = LongVideos.read(long).videos[0]
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "00000-movement.csv").write_bytes(intervals_csv([]))
    told.clear()
    videos = LongVideos.read(long)
    module._moved(videos, module._opened(videos, None), module._detector(videos, "auto")[1], kept, progress)
    assert told["spotting"][0] == (first.frames, frames)
    assert told["spotting"][-1] == (frames, frames)
