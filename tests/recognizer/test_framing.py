"""Clips whose faces lie elsewhere in the crop than the real clips': said, and read as those are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

import mesynth
from mesynth.core.errors import ConfigError
from mesynth.core.framing import ESTIMATED, OWN, Framing, KnownFraming, reframed, shared
from mesynth.motion.framing import stated_framing
from mesynth.store.manifest import Manifest, framing_meta, write_tables
from mesynth.store.shards import ShardWriter, frames_members, npy_bytes, read_flow
from recognizer import ablation, trained
from recognizer.cli import main
from recognizer.config import AblationConfig, RunConfig, load_config
from recognizer.data import DataConfig, FlowSet, flow_image, load
from recognizer.run import loso
from recognizer.sources import flow_notes, framed, framed_as, run_identity
from tests.builders import row
from tests.recognizer.corpora import write_corpus

TIGHT = Framing(eyes=0.57, height=0.46, row=0.25, column=0.48)
WIDE = Framing(eyes=0.25, height=0.25, row=0.35)


def _with(manifest: Manifest, framing: Framing | None, origin: str = "made") -> Manifest:
    known = None if framing is None else KnownFraming(framing=framing, origin=origin)
    return replace(manifest, meta=framing_meta(known))


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return write_corpus(tmp_path_factory.mktemp("framing") / "real", subjects=4)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return write_corpus(
        tmp_path_factory.mktemp("framing") / "made", kind="synthetic", database="virtual", clips=24,
        generator="flow-prior", subjects_seen=("virtual/00",),
    )  # fmt: skip


def test_a_corpus_drawn_in_our_crop_is_read_as_one_drawn_like_the_real_clips(tmp_path: Path) -> None:
    """The same draws of the flow prior in both framings: once taken there by the recognizer, once drawn there."""
    ask = {"kind": "flow", "emotion": ["surprise", "positive", "negative"], "count": 30, "nuisance": "none,style=1"}
    own = mesynth.generate(**ask, out=tmp_path / "own")  # type: ignore[arg-type]
    there = mesynth.generate(**ask, frame=TIGHT.text(), out=tmp_path / "there")  # type: ignore[arg-type]
    assert own.framing == KnownFraming(framing=OWN)
    assert there.framing == KnownFraming(framing=TIGHT)
    config = DataConfig()
    _, matched, target = framed([there], [own], config)
    assert target == there.framing
    assert isinstance(matched, list)

    def alike(one: FlowSet, other: FlowSet) -> float:
        a, b = one.x[:, :2].ravel(), other.x[:, :2].ravel()
        return float(a @ b / np.sqrt((a @ a) * (b @ b)))

    assert alike(load(matched, config), load(there, config)) > 0.97
    assert alike(load(own, config), load(there, config)) < 0.85


def test_the_values_are_those_of_the_flow_taken_there(real: Manifest, made: Manifest) -> None:
    _, matched, _ = framed([_with(real, TIGHT)], [_with(made, OWN)], DataConfig())
    assert isinstance(matched, list)
    loaded = load(matched)
    for i, one in enumerate(made):
        assert loaded.x[i].tobytes() == flow_image(reframed(read_flow(made.root, one), OWN, TIGHT)).tobytes()


@pytest.mark.parametrize(
    ("of_real", "of_made", "origin", "taken", "words"),
    [
        (TIGHT, OWN, "made", True, "is read as the latter"),
        (TIGHT, OWN, ESTIMATED, True, "is read as the latter"),
        (OWN, TIGHT, "made", False, "its crops show 6"),
        (OWN, WIDE, "made", True, "is read as the latter"),
        (OWN, OWN, "made", False, ""),
        (replace(OWN, row=0.38), OWN, ESTIMATED, False, ""),  # within an estimate's error
        (replace(OWN, row=0.38), OWN, "made", True, "is read as the latter"),
        (TIGHT, None, "made", False, "of made is not recorded"),
        (None, TIGHT, "made", False, "of real is not recorded"),
        (None, None, "made", False, ""),
    ],
)
def test_what_is_done_about_a_difference_is_said(
    real: Manifest, made: Manifest, of_real: Framing | None, of_made: Framing | None, origin: str, taken: bool,
    words: str,
) -> None:  # fmt: skip
    config = DataConfig()
    ours, theirs, _ = framed([_with(real, of_real, origin)], [_with(made, of_made)], config)
    assert isinstance(ours, list)
    assert isinstance(theirs, list)
    assert load(ours).x.tobytes() == load(real).x.tobytes()
    assert (load(theirs).x.tobytes() != load(made).x.tobytes()) == taken
    notes = flow_notes(ours, theirs)
    assert len(notes) == bool(words)
    for note in notes:
        assert words in note
        assert "\n" not in note
        for number in (of_real, of_made):
            if of_real and of_made and number:
                assert number.text() in note


def test_flow_stays_where_it_is_if_that_is_wanted(real: Manifest, made: Manifest) -> None:
    config = DataConfig(frame="own")
    ours, theirs, _ = framed([_with(real, TIGHT)], [_with(made, OWN)], config)
    assert isinstance(theirs, list)
    assert load(theirs, config).x.tobytes() == load(made, config).x.tobytes()
    [note] = flow_notes(ours, theirs)
    assert "data.frame=match reads made as the latter" in note
    with pytest.raises(ConfigError, match=r"data\.frame='near' is unknown; choose from match, each, own"):
        DataConfig(frame="near")


@pytest.mark.parametrize("first", [0, 1])
def test_of_two_real_databases_the_one_counts_that_the_other_shows(real: Manifest, made: Manifest, first: int) -> None:
    two = [_with(real, OWN), _with(made, TIGHT)]
    order = two if first == 0 else two[::-1]
    ours, _, target = framed(order, None, DataConfig())
    assert isinstance(ours, list)
    assert target == KnownFraming(framing=TIGHT)
    moved = [load(m).x.tobytes() != load(_with(m, None)).x.tobytes() for m in ours]
    assert moved == ([True, False] if first == 0 else [False, True])
    assert len(flow_notes(ours, None)) == 1


def test_sets_in_memory_are_left_alone(real: Manifest, made: Manifest) -> None:
    one, other = load(real), load(made)
    assert framed(one, other, DataConfig()) == (one, other, None)
    assert framed_as(one, KnownFraming(framing=TIGHT), DataConfig()) is one
    ours, theirs, target = framed(one, [_with(made, OWN)], DataConfig())
    assert ours is one
    assert target is None
    assert isinstance(theirs, list)
    assert load(theirs).x.tobytes() == other.x.tobytes()


def test_flow_in_units_of_its_own_rms_stays_in_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = []
    with ShardWriter(tmp_path / "x.tar") as writer:
        for i in range(4):
            flow = cv2.GaussianBlur(rng.normal(size=(28, 28, 2)), (0, 0), 2).transpose(2, 0, 1).astype(np.float32)
            flow /= np.sqrt((flow**2).mean())
            span = writer.add(f"{i:08d}", {"flow.npy": npy_bytes(flow)})
            rows.append(row(f"{i:03d}", flow=span, label="surprise"))
    source = _with(Manifest.from_rows(rows, tmp_path), OWN)
    moved = framed_as([source], KnownFraming(framing=TIGHT), DataConfig())
    assert isinstance(moved, list)
    there = load(moved)
    assert there.own_rms.all()
    assert np.sqrt((there.x[:, :2] ** 2).mean((1, 2, 3))) == pytest.approx(np.ones(4), abs=1e-5)
    assert there.x.tobytes() != load(source).x.tobytes()


def test_frames_go_where_the_flow_goes(tmp_path: Path) -> None:
    """A bright dot in the frames and a motion at the same place stay at one place."""
    y, x = np.mgrid[:64, :64]
    dot = np.exp(-((x - 26) ** 2 + (y - 30) ** 2) / 30)
    frames = np.repeat((200 * dot).astype(np.uint8)[None, :, :, None], 3, 0).repeat(3, 3)
    with ShardWriter(tmp_path / "x.tar") as writer:
        spans = writer.add("0", frames_members(frames)), writer.add("1", {"flow.npy": npy_bytes(
            np.stack([dot, dot]).astype(np.float32))})  # fmt: skip
    one = row("a", frames=spans[0], flow=spans[1], label="surprise", n_frames=3, apex_index=1)
    source = _with(Manifest.from_rows([one], tmp_path), OWN)
    moved = framed_as([source], KnownFraming(framing=TIGHT), DataConfig())
    assert isinstance(moved, list)
    config = DataConfig(size=64, frame_size=64)
    there = [((v + 0.5) / 64 - at) / 0.4 for v, at in ((26, OWN.column), (30, OWN.row))]  # eye distances from the eyes
    taken = 64 * (there[0] * TIGHT.eyes + TIGHT.column) - 0.5, 64 * (there[1] * TIGHT.height + TIGHT.row) - 0.5
    for manifest, where in ((source, (26, 30)), (moved[0], taken)):
        found = load(manifest, config, views=("flow", "apex"))
        centres = [
            np.array([(image * x).sum(), (image * y).sum()]) / image.sum()
            for image in (found.x[0, 0].astype(np.float64), found.views["apex"][0, 1].astype(np.float64))
        ]
        assert np.abs(centres[0] - centres[1]).max() < 0.5
        assert centres[0] == pytest.approx(where, abs=0.5)


# ---------------------------------------------------------------- runs


def _config(*settings: str) -> RunConfig:
    return load_config(RunConfig, None, ["mix.mode=synthetic-only", "mix.ratio=1", *settings])


def test_a_run_is_known_by_the_framing_it_read(real: Manifest, made: Manifest) -> None:
    def identity(of_real: Framing | None, *settings: str) -> str:
        config = _config(*settings)
        ours, theirs, _ = framed([_with(real, of_real)], [_with(made, OWN)], config.data)
        return json.dumps(run_identity("loso", ours, theirs, config), sort_keys=True)

    plain = identity(None)
    assert identity(OWN) == plain  # as before framings were known
    assert "frame" not in plain.replace("frames", "").replace("frame_size", "")
    others = [identity(TIGHT), identity(replace(TIGHT, row=0.3)), identity(TIGHT, "data.frame=own")]
    assert len({plain, *others}) == 4


def test_loso_reads_and_says_it(real: Manifest, made: Manifest, tmp_path: Path) -> None:
    result = loso(_with(real, TIGHT), _with(made, OWN), _config(), out=tmp_path / "run")
    assert [note for note in result.notes if "is read as the latter" in note]
    again = loso(_with(real, TIGHT), _with(made, OWN), _config(), out=tmp_path / "run")
    assert again.notes == result.notes
    direct = loso(_with(real, None), _with(made, None), _config())
    assert not direct.notes
    assert direct.predictions != result.predictions
    assert not loso(_with(real, TIGHT), None, RunConfig()).notes


def test_an_ablation_reads_and_says_it(real: Manifest, made: Manifest, tmp_path: Path) -> None:
    config = load_config(
        AblationConfig, None, ["models=[lda]", "ratios=[1]", "seeds=[0]", "modes=[synthetic-only]", "resamples=100"]
    )
    facts = ablation.plan(_with(real, TIGHT), _with(made, OWN), config)
    assert [note for note in facts["notes"] if "is read as the latter" in note]
    result = ablation.ablate(_with(real, TIGHT), _with(made, OWN), config, out=tmp_path / "a")
    assert [note for note in result.notes if "is read as the latter" in note]
    plain = ablation.ablate(_with(real, None), _with(made, None), config)
    assert not [note for note in plain.notes if "faces" in note]
    assert TIGHT.text() in (tmp_path / "a/run.yaml").read_text()


def test_a_saved_model_knows_its_framing_and_reads_other_clips_in_it(
    real: Manifest, made: Manifest, tmp_path: Path
) -> None:
    known = _with(real, TIGHT)
    trained.train(known, _with(made, OWN), _config(), out=tmp_path / "model")
    model = trained.load(tmp_path / "model")
    assert model.framing == KnownFraming(framing=TIGHT)
    assert TIGHT.text() in (tmp_path / "model/README.md").read_text()
    same = trained.predict(model, known)
    assert not same.notes
    other = trained.predict(model, _with(real, OWN))
    [note] = other.notes
    assert note.endswith(
        f"those of the clips that the model learned from at {TIGHT.text()}: real is read as the latter"
    )
    assert other.table["p_negative"].to_pylist() != same.table["p_negative"].to_pylist()
    [unknown] = trained.predict(model, _with(real, None)).notes
    assert "not recorded" in unknown
    assert trained.predict(model, _with(real, None)).table == same.table


def test_a_model_without_a_framing_reads_clips_as_they_are(real: Manifest, tmp_path: Path) -> None:
    trained.train(_with(real, None), model="lda", out=tmp_path / "model")
    model = trained.load(tmp_path / "model")
    assert model.framing is None
    result = trained.predict(model, _with(real, TIGHT))
    assert not result.notes
    assert result.table == trained.predict(model, _with(real, None)).table


def test_the_command_line_says_it(real: Manifest, made: Manifest, tmp_path: Path) -> None:
    _with(real, TIGHT).write(real.root)
    _with(made, OWN).write(made.root)
    try:
        command = ["loso", "--real", str(real.root), "--synthetic", str(made.root), "--out", str(tmp_path / "r")]
        settings = ["mix.mode=synthetic-only", "mix.ratio=1"]
        for more in ([], ["--dry-run"]):
            told = CliRunner().invoke(main, [*command, *more, *settings])
            assert told.exit_code == 0, told.output
            assert "made is read as the latter (data.frame=own leaves it)" in " ".join(told.output.split())
        train = ["train", "--real", str(real.root), "--synthetic", str(made.root), "--out", str(tmp_path / "model")]
        told = CliRunner().invoke(main, [*train, *settings])
        assert told.exit_code == 0, told.output
        assert "made is read as the latter" in told.stderr
        wide = write_corpus(tmp_path / "wide", subjects=2, database="W")
        _with(wide, OWN).write(wide.root)
        predict = ["predict", "--model", str(tmp_path / "model"), "--manifest", str(wide.root)]
        told = CliRunner().invoke(main, [*predict, "--out", str(tmp_path / "p")])
        assert told.exit_code == 0, told.output
        assert "wide is read as the latter" in told.stderr
    finally:
        _with(real, None).write(real.root)
        _with(made, None).write(made.root)


def test_an_empty_manifest_beside_others_changes_nothing(real: Manifest) -> None:
    none = real.filter(np.zeros(len(real), np.bool_))
    assert load([none, real]).x.tobytes() == load(real).x.tobytes()
    ours, _, target = framed([_with(none, TIGHT), _with(real, OWN)], None, DataConfig())
    assert isinstance(ours, list)
    assert load(ours).clip_ids.tolist() == load(real).clip_ids.tolist()
    assert target is not None


# ---------------------------------------------------------------- composites

LEFT = Framing(eyes=0.46, height=0.49, row=0.2, column=0.48)
RIGHT = Framing(eyes=0.57, height=0.43, row=0.27, column=0.49)


@pytest.fixture(scope="module")
def composite(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Two databases in one folder, framed unlike; clips of a third of which nothing is recorded."""
    root = tmp_path_factory.mktemp("composite")
    parts = [write_corpus(root / name, subjects=3, database=name, seed=i) for i, name in enumerate(("A", "B", "C"))]
    whole = Manifest.join(parts, root)
    known = KnownFraming(
        framing=TIGHT, origin=ESTIMATED,
        databases=tuple((name, KnownFraming(framing=f, origin=ESTIMATED)) for name, f in (("A", LEFT), ("B", RIGHT))),
    )  # fmt: skip
    return replace(whole, meta=framing_meta(known))


def test_a_composite_keeps_its_clips_and_others_are_taken_to_what_all_its_databases_show(
    composite: Manifest, made: Manifest
) -> None:
    config = DataConfig()
    ours, theirs, target = framed([composite], [_with(made, OWN)], config)
    assert isinstance(ours, list)
    assert isinstance(theirs, list)
    goal = shared([LEFT, RIGHT])
    assert target is not None
    assert (target.framing, target.databases) == (goal, ())
    assert load(ours, config).x.tobytes() == load(replace(composite, meta={}), config).x.tobytes()
    for clip, image in zip(made, load(theirs, config).x, strict=True):
        assert image.tobytes() == flow_image(reframed(read_flow(made.root, clip), OWN, goal)).tobytes()
    [note] = flow_notes(ours, theirs)
    assert goal.text() in note
    assert OWN.text() in note


@pytest.mark.parametrize("framing", [TIGHT, "goal"])
def test_clips_framed_like_a_composite_are_left_alone(
    composite: Manifest, made: Manifest, framing: Framing | str
) -> None:
    """As its whole was estimated (corpora made before databases were told apart), or as all its databases show."""
    own = shared([LEFT, RIGHT]) if isinstance(framing, str) else framing
    ours, theirs, _ = framed([composite], [_with(made, own)], DataConfig())
    assert isinstance(theirs, list)
    assert load(theirs).x.tobytes() == load(made).x.tobytes()
    assert flow_notes(ours, theirs) == []
    [again] = framed_as([composite], KnownFraming(framing=own), DataConfig())
    assert again is composite


def test_each_database_of_a_composite_is_taken_to_what_all_show(composite: Manifest) -> None:
    config = DataConfig(frame="each")
    ours, _, _ = framed([composite], None, config)
    assert isinstance(ours, list)
    found, goal = load(ours, config), shared([LEFT, RIGHT])
    images = dict(zip(found.clip_ids, found.x, strict=True))
    assert len(images) == len(composite)
    for clip in composite:
        flow = read_flow(composite.root, clip)
        of = {"A": LEFT, "B": RIGHT, "C": None}[clip.database]  # C lies at the goal, as far as is known
        assert images[clip.clip_id].tobytes() == flow_image(flow if of is None else reframed(flow, of, goal)).tobytes()
    assert len(flow_notes(ours, None)) == 2
    one, other = (run_identity("loso", m, None, load_config(RunConfig, None, [s])) for m, s in (
        (ours, "data.frame=each"), ([composite], "data.frame=match"),
    ))  # fmt: skip
    assert one != other
    result = loso([composite], None, load_config(RunConfig, None, ["model=lda", "data.frame=each"], synthetic=False))
    assert result.metrics.n == len(composite)


@pytest.mark.parametrize("text", ["", "A", "B"])
def test_like_a_composite_or_one_of_its_databases(composite: Manifest, text: str, tmp_path: Path) -> None:
    folder = tmp_path / "a:b"  # a colon in the folder's name is none of the grammar
    folder.mkdir()
    write_tables(folder, lambda: [composite.table], composite.meta)
    ask = f"like:{folder}:{text}" if text else f"like:{folder}"
    wanted = {"": shared([LEFT, RIGHT]), "A": LEFT, "B": RIGHT}[text]
    assert stated_framing(ask).framing == wanted
    corpus = mesynth.generate(kind="flow", emotion="surprise", count=2, frame=ask, out=tmp_path / "corpus")
    assert corpus.framing == KnownFraming(framing=wanted)
    with pytest.raises(ConfigError, match=r"no framing of a database 'D' is recorded in .*; choose from A, B"):
        stated_framing(f"like:{folder}:D")
    with pytest.raises(ConfigError, match=r"no framing of a database 'A' is recorded in .*; leave :A out"):
        stated_framing(f"like:{corpus.root}:A")


def test_a_record_of_one_database_is_read_and_written_as_before() -> None:
    before = (
        '{"framing": {"eyes": 0.5, "height": 0.5, "row": 0.3, "column": 0.5}, "origin": "estimated", "explained": 0.5, '
    )
    before += '"explained_own": 0.4, "images": 20}'
    known = KnownFraming.of_json(before)
    assert json.loads(known.to_json()) == json.loads(before)
    assert known.goal == known == known.of("anyone")
    several = replace(known, databases=(("A", known), ("B", KnownFraming(framing=OWN))))
    assert KnownFraming.of_json(several.to_json()) == several
    assert several.of("B").framing == OWN
    assert several.of("C") == known
    for broken in (before.replace("0.3", '"x"'), several.to_json().replace('"made"', '"guessed"'), '{"databases": {}}'):
        with pytest.raises(ConfigError):
            KnownFraming.of_json(broken)


def test_crops_that_share_no_face_have_no_goal_of_their_own() -> None:
    apart = [Framing(row=-0.5, eyes=1.5, height=1.5), Framing(row=1.5, eyes=1.5, height=1.5)]
    with pytest.raises(ConfigError, match="show nothing in common"):
        shared(apart)
    known = KnownFraming(framing=OWN, databases=tuple(zip("AB", (KnownFraming(framing=f) for f in apart), strict=True)))
    assert known.goal == KnownFraming(framing=OWN)
