"""What coders get says nothing of where a clip comes from; what is drawn is what was asked for."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from click.testing import CliRunner

from mesynth.cli import main
from mesynth.core.errors import MesynthError
from mesynth.core.facs import AU_CODES, AU_NAMES, MIDLINE
from mesynth.panel.write import PER, PanelConfig, draft, keyed, padded, shown_frames, write_panel
from mesynth.store.manifest import Manifest
from mesynth.store.shards import read_frames
from tests.panel.conftest import Panel
from tests.panel.corpora import REQUESTS, write_corpus


def page_data(folder: Path) -> dict[str, Any]:
    text = (folder / "for-coders" / "index.html").read_text()
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def videos(folder: Path) -> list[Path]:
    return sorted((folder / "for-coders" / "clips").iterdir())


def test_coders_get_a_page_and_clips_and_nothing_else(panel: Panel) -> None:
    files = {str(f.relative_to(panel.folder)) for f in panel.folder.rglob("*") if f.is_file()}
    clips = {f"for-coders/clips/{name}.mp4" for name in panel.key["items"]}
    assert files == {"key.json", "for-coders/index.html"} | clips
    assert len(clips) == 18 + 3 + 4


def test_nothing_for_coders_names_a_source(panel: Panel) -> None:
    """Neither names, nor bytes of the files, nor the page: what the key says of a clip occurs nowhere."""
    words = {b"secret", b"happiness", b"surprise", b"seed", panel.key["secret"].encode(), b"rendered"}
    for manifest in panel.corpora.values():
        words |= {manifest.hash()[:16].encode(), str(manifest.root).encode()}
        words |= {str(v).encode() for column in ("clip_id", "database") for v in manifest.column(column)}
    for file in (panel.folder / "for-coders").rglob("*"):
        assert not any(word in file.name.encode() for word in words)
        if file.is_file():
            data = file.read_bytes()
            assert [word for word in words if word in data] == []
    data = page_data(panel.folder)
    shown = json.dumps({key: value for key, value in data.items() if key != "aus"})
    assert not re.search("real|synth(?!-panel)|DB|corpus", shown.replace("mesynth-panel", ""))


def test_all_clips_are_alike_but_for_their_pictures(panel: Panel) -> None:
    forms, dates, boxes = set(), set(), set()
    for file in videos(panel.folder):
        assert re.fullmatch(r"[0-9a-f]{16}\.mp4", file.name)
        with av.open(str(file)) as video:
            stream = video.streams.video[0]
            codec = stream.codec_context
            forms.add(
                (codec.name, codec.profile, codec.pix_fmt, codec.width, codec.height, stream.average_rate,
                 bytes(codec.extradata or b""), tuple(sorted((video.metadata | stream.metadata).items())))
            )  # fmt: skip
        dates.add((file.stat().st_mtime, file.stat().st_mode, file.stat().st_size))
        boxes.add(file.read_bytes()[:4])
    assert len(forms) == 1
    assert len(dates) == 1
    assert len(boxes) == 1


def test_names_are_keyed_hashes(panel: Panel, tmp_path: Path) -> None:
    """The same clips under another secret have other names, in another order; the secret is in the key alone."""
    for name, item in panel.key["items"].items():
        assert name == keyed(panel.key["secret"], item["role"], item["corpus"], item["clip_id"])
    again = write_panel(draft(panel.corpora, PanelConfig(clips=18, practice=3, repeats=4)), tmp_path / "again")
    key = json.loads((again / "key.json").read_text())
    assert key["secret"] != panel.key["secret"]
    assert not set(key["items"]) & set(panel.key["items"])
    clips = [sorted(i["clip_id"] for i in k["items"].values()) for k in (key, panel.key)]
    assert clips[0] == clips[1]  # the same seed draws the same clips
    same = write_panel(
        draft(panel.corpora, PanelConfig(clips=18, practice=3, repeats=4)), tmp_path / "same", secret=key["secret"]
    )
    for file in (again / "for-coders").rglob("*"):
        if file.is_file():
            assert file.read_bytes() == (same / file.relative_to(again)).read_bytes()


def test_orders_are_shuffled_and_keep_repeats_apart(panel: Panel) -> None:
    data, items = page_data(panel.folder), panel.key["items"]
    assert sorted(data["practice"]) == sorted(n for n, i in items.items() if i["role"] == "practice")
    rated = sorted(n for n, i in items.items() if i["role"] != "practice")
    twins = [(n, i["of"]) for n, i in items.items() if i["role"] == "repeat"]
    assert len(twins) == 4
    assert len({tuple(order) for order in data["orders"]}) == len(data["orders"]) == 12
    for order in data["orders"]:
        assert sorted(order) == rated
        assert order != rated
        assert min(abs(order.index(a) - order.index(b)) for a, b in twins) >= 4
    # No place in the order goes with a source.
    kinds = np.array([[items[n]["kind"] == "real" for n in order] for order in data["orders"]])
    assert 0 < kinds[:, :5].mean() < 0.8


def test_a_repeat_is_the_same_clip_under_another_name(panel: Panel) -> None:
    for name, item in panel.key["items"].items():
        if item["role"] == "repeat":
            first, second = (panel.folder / "for-coders" / "clips" / f"{n}.mp4" for n in (name, item["of"]))
            assert first.read_bytes() == second.read_bytes()
            assert item["clip_id"] == panel.key["items"][item["of"]]["clip_id"]


def test_the_key_says_what_was_asked_for(panel: Panel) -> None:
    for item in panel.key["items"].values():
        row = next(r for r in panel.corpora[item["corpus"]] if r.clip_id == item["clip_id"])
        assert item["present"] == np.array(row.au_present).reshape(len(AU_CODES), 2).tolist()
        assert item["au_text"] in REQUESTS
        assert item["kind"] == row.provenance.kind
        assert item["subject"] == row.subject_key


def test_the_videos_show_the_clips(panel: Panel) -> None:
    for name, item in list(panel.key["items"].items())[:6]:
        row = next(r for r in panel.corpora[item["corpus"]] if r.clip_id == item["clip_id"])
        frames = read_frames(panel.corpora[item["corpus"]].root, row)
        with av.open(str(panel.folder / "for-coders" / "clips" / f"{name}.mp4")) as video:
            shown = np.stack([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)])
        assert shown.shape == frames.shape
        assert np.abs(shown.astype(int) - frames).mean() < 3


@pytest.mark.parametrize("per", PER)
def test_clips_are_drawn_evenly(panel: Panel, per: str) -> None:
    made = draft(panel.corpora, PanelConfig(clips=12, practice=0, per=per))
    of = {
        "kind": lambda c: c.row.provenance.kind, "corpus": lambda c: c.corpus, "subject": lambda c: c.row.subject_key,
        "emotion": lambda c: c.row.emotion,
    }[per]  # fmt: skip
    counts = Counter(map(of, made.rated))
    assert max(counts.values()) - min(counts.values()) <= 1
    assert len(counts) == {"kind": 3, "corpus": 3, "subject": 12, "emotion": 2}[per]
    assert len({c.row.clip_id for c in made.rated}) == 12
    other = draft(panel.corpora, PanelConfig(clips=12, practice=0, per=per, seed=1))
    assert [c.row.clip_id for c in other.rated] != [c.row.clip_id for c in made.rated]


def test_a_kind_that_runs_out_leaves_its_place_to_others(tmp_path: Path) -> None:
    corpora = {"a": write_corpus(tmp_path / "a", "real", clips=2), "b": write_corpus(tmp_path / "b", "synthetic")}
    made = draft(corpora, PanelConfig(clips=8, practice=1))
    assert made.summary()["kinds"] == {"real": 2, "synthetic": 6}


def test_faster_and_larger_clips_are_shown_as_the_others(tmp_path: Path) -> None:
    corpora = {
        "fast": write_corpus(tmp_path / "fast", "real", fps=200.0, size=96, length=40, clips=4, first=3),
        "slow": write_corpus(tmp_path / "slow", "synthetic", fps=50.0, size=64, length=10, clips=4, grey=True),
    }
    made = draft(corpora, PanelConfig(practice=0, repeats=0))
    assert (made.fps, made.size, made.grey) == (50.0, 64, True)
    fast = next(c for c in made.rated if c.corpus == "fast")
    assert fast.frames == tuple(range(0, 40, 4))
    assert fast.frames[fast.apex] == 20
    assert [note.split(" (")[0] for note in made.notes] == [
        "frame rates differ", "sizes differ", "some clips are grey: all are shown in grey",
    ]  # fmt: skip
    out = write_panel(made, tmp_path / "panel")
    sizes = set()
    for file in videos(out):
        with av.open(str(file)) as video:
            frame = next(video.decode(video=0))
            sizes.add((frame.width, frame.height))
            picture = frame.to_ndarray(format="rgb24").astype(int)
            assert np.ptp(picture, axis=-1).max() <= 3
    assert sizes == {(64, 64)}


@pytest.mark.parametrize(("ratio", "steps"), [(1.0, 10), (2.5, 4), (3.0, 3)])
def test_the_apex_is_always_shown(tmp_path: Path, ratio: float, steps: int) -> None:
    corpora = {"a": write_corpus(tmp_path / "a", "real", clips=2)}
    made = draft(corpora, PanelConfig(practice=0, fps=50.0 / ratio))
    for clip in made.rated:
        assert clip.frames[clip.apex] == 5
        assert len(clip.frames) == steps
        assert list(clip.frames) == sorted(set(clip.frames))


def test_lengths_that_tell_are_told_and_can_be_cut(tmp_path: Path) -> None:
    corpora = {
        "r": write_corpus(tmp_path / "r", "real", length=(20, 24), clips=4),
        "s": write_corpus(tmp_path / "s", "synthetic", length=12, clips=4),
    }
    noticed = draft(corpora, PanelConfig(practice=0)).notes
    (said,) = noticed
    assert said.startswith("lengths tell real clips from others (real 0.4 to 0.48 s and others 0.24 to 0.24 s); ")
    assert said.endswith("; --seconds 0.24 cuts all alike")
    made = draft(corpora, PanelConfig(practice=0, seconds=0.24))
    assert {len(c.frames) for c in made.rated} == {12}
    assert all(c.frames[c.apex] == c.row.apex_index for c in made.rated)
    assert made.notes == []


def test_clips_that_cannot_be_shown_are_left_out_and_told(tmp_path: Path) -> None:
    made = draft({"a": write_corpus(tmp_path / "a", "real", damage=(1, 4))}, PanelConfig(practice=0))
    assert len(made.rated) == 6
    assert set(made.left_out.values()) == {"its frame rate is not known (fps nan)"}


def test_the_middle_square_is_shown() -> None:
    frames = np.zeros((3, 20, 40, 3), np.uint8)
    frames[:, :, 10:30] = 200
    assert (shown_frames(frames, [0, 2], 10, False) == 200).all()
    assert shown_frames(frames, [0, 2], 10, True).shape == (2, 10, 10, 3)


@pytest.mark.parametrize("extra", [8, 9, 5000])
def test_a_padded_file_is_a_box_longer(extra: int) -> None:
    out = padded(b"x" * 100, 100 + extra)
    assert len(out) == 100 + extra
    assert int.from_bytes(out[100:104], "big") == extra
    assert out[104:108] == b"free"


def test_every_unit_has_a_name_and_a_look(panel: Panel) -> None:
    units = page_data(panel.folder)["aus"]
    assert [unit["au"] for unit in units] == list(AU_CODES)
    for unit in units:
        assert unit["name"] == AU_NAMES[unit["au"]]
        assert len(unit["look"]) > 25
        assert unit["sides"] == (unit["au"] not in MIDLINE)
    assert len({unit["look"] for unit in units}) == len(units)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"per": "colour"}, "per 'colour' is unknown; choose from kind, corpus, subject, emotion"),
        ({"clips": 0}, "clips=0 is out of range; give 1 to 1000"),
        ({"clips": 24}, "clips=24 and practice=3 ask for more than the 24 clips that there are"),
        ({"practice": -1}, "practice=-1 is out of range"),
        ({"practice": 24}, "ask for more than the 24 clips"),
        ({"repeats": 22}, "repeats=22 is more than the 21 rated clips"),
        (
            {"fps": 60.0},
            "fps=60 is more than clips of real have (50 frames a second); filling in would tell them apart",
        ),
        ({"fps": 0.0}, "fps=0 is out of range"),
        ({"fps": float("nan")}, "fps=nan is out of range"),
        ({"fps": 3.0}, "ask for more than the 0 clips that there are; 24 cannot be shown, the first: only 1 frame"),
        ({"size": 128}, "size=128 is more than clips of real have (64 pixels)"),
        ({"size": 8}, "size=8 is out of range; give 48 to 512 pixels"),
        ({"seconds": 9.0}, "it lasts 0.2 s, shorter than --seconds 9"),
        ({"seconds": -1.0}, "seconds=-1 is out of range"),
        ({"coders": ("anna", "Anna")}, "coder 'Anna' is named twice"),
        ({"coders": ("<b>",)}, "coder '<b>' is no name"),
        ({"seed": -1}, "seed=-1 must not be negative"),
    ],
)
def test_options_out_of_range_are_one_line(panel: Panel, options: dict[str, Any], says: str) -> None:
    with pytest.raises(MesynthError) as error:
        draft(panel.corpora, PanelConfig(**options))
    assert says in str(error.value)


def test_corpora_that_cannot_be_shown_are_refused(tmp_path: Path) -> None:
    tiny = {"tiny": write_corpus(tmp_path / "tiny", "real", size=32)}
    with pytest.raises(MesynthError, match="clips of tiny are 32 pixels wide, too small to code; at least 48"):
        draft(tiny, PanelConfig())
    empty = {"empty": Manifest.from_rows([], tmp_path)}
    with pytest.raises(MesynthError, match="no clip has frames"):
        draft(empty, PanelConfig())
    still = {"still": write_corpus(tmp_path / "still", "real", damage=range(8))}
    with pytest.raises(MesynthError, match="no clip of still says its frame rate"):
        draft(still, PanelConfig())


def run(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["panel", *map(str, words)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_the_command_writes_it_once(panel: Panel, tmp_path: Path) -> None:
    folders = [m.root for m in panel.corpora.values()]
    code, said = run(*folders, "--clips", 6, "--practice", 1, "--coders", "anna, ben", "--out", tmp_path / "p")
    assert code == 0, said
    assert "Give coders the folder" in said
    data = page_data(tmp_path / "p")
    assert data["coders"] == ["anna", "ben"]
    assert len(data["orders"]) == 2
    code, said = run(*folders, "--out", tmp_path / "p")
    assert code == 2
    assert "holds a panel already" in said
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    assert "is not empty; choose another --out" in run(*folders, "--out", tmp_path / "full")[1]
    (tmp_path / "empty").mkdir()
    assert run(folders[0], "--clips", 4, "--practice", 0, "--out", tmp_path / "empty")[0] == 0
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nowhere", "--out", "p"], "no manifest.parquet in nowhere"),
        (["nowhere"], "give --out for the panel's folder"),
        (["{real}", "{real}", "--out", "p"], "is given twice"),
        (["{real}", "--per", "colour", "--out", "p"], "per 'colour' is unknown"),
        (["{real}", "--clips", "99", "--out", "p"], "ask for more than the 8 clips"),
        (["{real}", "--bootstrap", "clip", "--out", "p"], "--bootstrap has no effect without --collect"),
        (["--collect", "{panel}", "a.json", "--clips", "3"], "--clips has no effect with --collect"),
        ([], "Missing argument"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(
    panel: Panel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = run(*(w.format(real=panel.corpora["real"].root, panel=panel.folder) for w in words))
    assert code == 2
    assert says in said
    assert list(tmp_path.iterdir()) == []


def test_a_machine_that_cannot_write_videos_is_told(
    panel: Panel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mesynth.corpus.previews._CODECS", {"mp4": ("no_such_encoder",)})
    code, said = run(panel.corpora["real"].root, "--clips", 3, "--out", tmp_path / "p")
    assert code == 2
    assert "clips of a panel are H.264, which the PyAV here cannot write; install the wheel of av" in said
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_nothing(panel: Panel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = draft(panel.corpora, PanelConfig(clips=3, practice=0))
    monkeypatch.setattr("mesynth.panel.write.render", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_panel(made, tmp_path / "p")
    assert list(tmp_path.iterdir()) == []
