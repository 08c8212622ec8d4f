"""The recognizer that ships, trained recognizers tested as they are, and recognizers that learn from no real clip."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

import mesynth
import recognizer
from mesynth.core.errors import ConfigError, LeakError, ManifestError, RunFolderError
from mesynth.core.framing import KnownFraming, parse_framing
from mesynth.core.types import in_own_rms
from mesynth.corpus.verify import verify
from mesynth.store.digests import DigestError, seal
from mesynth.store.manifest import Manifest
from recognizer.cli import main
from recognizer.config import RunConfig, load_config
from recognizer.data import FlowSet, flow_image, load
from recognizer.run import loso
from recognizer.sources import tried_before
from recognizer.trained import CARD, FIGURES, SHIPPED_FOLDER, WEIGHTS, predict, shipped_figures, standing, train
from recognizer.trained import load as load_recognizer
from recognizer.video import predict_video
from tests.recognizer.corpora import write_corpus
from tests.recognizer.recordings import recording, write_video

ROOT = Path(__file__).parents[2]
OBVIOUS = {"4=0.8": "negative", "9=0.8": "negative", "6=0.6,12=0.8": "positive", "1=0.7,2=0.7,5=0.6": "surprise"}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def mistake(*arguments: object) -> str:
    """The one line a user's mistake gets."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    return str(lines[0])


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[Manifest]:
    """Two databases of three subjects."""
    root = tmp_path_factory.mktemp("two")
    return [write_corpus(root / name, subjects=3, database=name.upper(), seed=i) for i, name in enumerate(("a", "b"))]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recognizer that saw ELSEWHERE/00 to ELSEWHERE/03."""
    root = tmp_path_factory.mktemp("other")
    train(write_corpus(root / "corpus", subjects=4, database="ELSEWHERE", seed=5), out=root / "elsewhere")
    return root / "elsewhere"


# ---------------------------------------------------------------- what ships


def test_it_is_small_whole_and_has_seen_nobody() -> None:
    assert sum(file.stat().st_size for file in SHIPPED_FOLDER.iterdir()) < 200_000
    assert verify(SHIPPED_FOLDER).problems == ()
    shipped = load_recognizer("shipped")
    assert shipped.subjects_seen == frozenset()
    assert shipped.name == "shipped"
    assert shipped.framing is not None
    recipe = load_config(RunConfig, ROOT / "configs/recognizer/shipped.yaml")
    assert replace(shipped.config, data=recipe.data, mix=recipe.mix) == recipe  # what is null there is written out
    assert not any(b"/tmp/" in file.read_bytes() or b"/home/" in file.read_bytes() for file in SHIPPED_FOLDER.iterdir())


def test_its_card_says_what_its_figures_do() -> None:
    card, figures = (SHIPPED_FOLDER / CARD).read_text(), shipped_figures()
    assert "Subjects seen, directly or through the makers of synthetic clips: none" in card
    assert "python scripts/ship_recognizer.py" in card
    if not figures:
        assert "Not measured yet" in card
        assert standing(load_recognizer("shipped")) == []
        return
    flat = " ".join(card.split())
    page = " ".join((ROOT / "docs/recognizers.md").read_text().split())
    for name in ("uf1", "uar"):
        one = figures[name]
        text = f"{name.upper()} {one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]"
        assert text in flat
        assert text in standing(load_recognizer("shipped"))[0]
        assert text.replace(" 0.", " .").replace("[0.", "[.") in page
    for name, one in figures["databases"].items():
        assert f"| {name} | {one['clips']} | {one['uf1']:.3f} | {one['uar']:.3f} |" in card


@pytest.mark.parametrize("file", ["config.yaml", WEIGHTS, "preparation.yaml"])
def test_a_changed_file_is_found(file: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(SHIPPED_FOLDER, copy)
    assert load_recognizer(copy).sha256 == load_recognizer("shipped").sha256
    (copy / file).write_bytes((copy / file).read_bytes() + b" ")
    with pytest.raises(DigestError, match=file):
        load_recognizer(copy)


def test_figures_are_of_these_weights_alone(other: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    copy = tmp_path / "shipped"
    shutil.copytree(SHIPPED_FOLDER, copy)
    (copy / FIGURES).write_text('{"weights_sha256": "0", "uf1": {}}')
    monkeypatch.setattr("recognizer.trained.SHIPPED_FOLDER", copy)
    assert shipped_figures() == {}
    (copy / FIGURES).write_text("{")
    assert shipped_figures() == {}
    assert standing(load_recognizer(other)) == []


@pytest.mark.parametrize("frame", ["own", "eyes=.5375,height=.4375,row=.2625,column=.4875", "eyes=.3,row=.4"])
def test_obvious_clips_are_recognised_in_any_wider_framing(frame: str, tmp_path: Path) -> None:
    """Read, where faces lie elsewhere, as the recognizer's own crops are, with a note."""
    made = mesynth.generate(kind="flow", aus=list(OBVIOUS), count=24, seed=3, frame=frame, out=tmp_path / "made")
    result = predict("shipped", made)
    right = [OBVIOUS[request] for _ in range(6) for request in OBVIOUS]
    assert np.mean(np.array(result.table["predicted"].to_pylist()) == right) >= 0.9
    known = load_recognizer("shipped").framing
    assert known is not None
    differs = known.differs(KnownFraming(framing=parse_framing(frame)))
    assert sum("is read as the latter" in note for note in result.notes) == differs
    assert list(result.notes)[: len(result.notes) - differs] == standing(load_recognizer("shipped"))


@pytest.mark.parametrize("scale", [0.01, 7.0])
def test_units_do_not_matter(scale: float) -> None:
    """Flow in pixels, in other pixels, and in units of its own rms are answered alike."""
    shipped = load_recognizer("shipped")
    uv = np.random.default_rng(0).normal(size=(5, 2, 7, 7)).repeat(4, 2).repeat(4, 3).astype(np.float32)
    own = uv / np.sqrt((uv**2).mean((1, 2, 3), keepdims=True))
    assert all(in_own_rms(one) for one in own)
    answers = [
        shipped.probabilities(np.stack([flow_image(one, shipped.config.data) for one in set_]))
        for set_ in (uv, uv * np.float32(scale), own)
    ]
    assert np.allclose(answers[0], answers[1], atol=1e-4)
    assert np.allclose(answers[0], answers[2], atol=1e-4)


def test_predict_needs_no_model(two: list[Manifest], tmp_path: Path) -> None:
    result = run("predict", "--manifest", two[0].root, "--out", tmp_path / "default")
    assert result.exit_code == 0, result.output
    assert all(f"note: {line}" in result.stderr for line in standing(load_recognizer("shipped")))
    named = run("predict", "--model", "shipped", "--manifest", two[0].root, "--out", tmp_path / "named", "--json")
    facts = json.loads(named.stdout)
    assert (facts["n_seen"], facts["recognizer"]) == (0, "shipped")
    assert facts["notes"][: len(standing(load_recognizer("shipped")))] == standing(load_recognizer("shipped"))
    tables = [pq.read_table(tmp_path / name / "predictions.parquet") for name in ("default", "named")]
    assert tables[0].equals(tables[1])


def test_a_video_is_cropped_as_it_wants(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.avi", recording(7, 40, (10, 20, "12=0.8"), size=128))
    made = predict_video("shipped", video, out=tmp_path / "out", intervals=["10,20,29"])
    framing, wanted = Manifest.read(tmp_path / "out" / "clips").framing, load_recognizer("shipped").framing
    assert framing is not None
    assert wanted is not None
    assert not framing.differs(wanted)
    assert [found["predicted"] for found in made.facts["intervals"]] == ["positive"]
    assert made.facts["recognizer"] == "shipped"
    assert set(standing(load_recognizer("shipped"))) <= set(made.facts["notes"])


def test_the_name_is_what_ships_and_a_folder_of_it_has_a_dot(
    other: Path, two: list[Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ("--manifest", two[0].root, "--json")
    alone = run("predict", *arguments, "--out", "alone")
    assert "folder of that name" not in alone.stderr
    shutil.copytree(other, tmp_path / "shipped")
    name, folder = (run("predict", "--model", m, *arguments, "--out", f"o{len(m)}") for m in ("shipped", "./shipped"))
    assert "'shipped' is the recognizer that comes with the package; the folder of that name here is ./shipped" in (
        name.stderr
    )
    assert "folder of that name" not in folder.stderr
    tables = [pq.read_table(f"{out}/predictions.parquet") for out in ("alone", "o7", "o9")]
    assert tables[0].equals(tables[1])
    assert not tables[0].equals(tables[2])
    assert load_recognizer("shipped").subjects_seen == frozenset()
    assert load_recognizer(Path("shipped")).subjects_seen == {f"ELSEWHERE/{i:02d}" for i in range(4)}


# ---------------------------------------------------------------- zero-shot


@pytest.mark.parametrize("kind", ["loso", "lovo", "kfold", "lodo", "cde", "hde"])
def test_every_protocol_tests_it_as_it_is(kind: str, two: list[Manifest], tmp_path: Path) -> None:
    settings = ["protocol.kind=kfold", "protocol.groups=3"] if kind == "kfold" else [f"protocol.kind={kind}"]
    config = load_config(RunConfig, None, settings, synthetic=False)
    result = loso(two, config=config, model="shipped", out=tmp_path / "out")
    answers = predict("shipped", two).table
    expected = dict(zip(answers["clip_id"].to_pylist(), answers["predicted"].to_pylist(), strict=True))
    classes = load_recognizer("shipped").config.data.classes
    assert result.metrics.n == len(expected) == 36  # of two databases each is tested once, by hde as well
    assert {fold["real"] + fold["synthetic"] for fold in result.folds} == {0}
    assert len(result.folds) == {"loso": 6, "lovo": 36, "kfold": 3, "lodo": 2, "cde": 6, "hde": 2}[kind]
    for row in result.predictions.to_pylist():
        assert classes[row["predicted"]] == expected[row["clip_id"]]
    assert result.model == "shipped"
    assert result.notes[0].startswith("zero-shot: shipped was tested as it is")
    assert set(result.per_database) == {"A", "B"}
    assert result.uf1.low <= result.uf1.value <= result.uf1.high
    again = loso(two, config=config, model="shipped", out=tmp_path / "out")
    assert again.to_dict() == result.to_dict()
    assert verify(tmp_path / "out").problems == ()


def test_the_command_line_gives_the_same_row(two: list[Manifest], tmp_path: Path) -> None:
    base = ["loso", "--model", "shipped", *(x for m in two for x in ("--real", m.root))]
    said = run(*base, "--out", tmp_path / "r")
    assert said.exit_code == 0, said.output
    assert "shipped, loso: 6 folds, 36 test clips" in said.output
    assert "zero-shot" in (tmp_path / "r" / "report.md").read_text()
    facts = json.loads(run(*base, "--out", tmp_path / "r", "--json").stdout)
    assert facts["uf1"] == loso(two, model="shipped").uf1.to_dict()
    assert facts["config"]["recognizer"] == load_recognizer("shipped").sha256
    dry = json.loads(run(*base, "protocol.kind=hde", "--out", tmp_path / "no", "--dry-run", "--json").stdout)
    assert (dry["models"], dry["folds"], dry["clips"]) == (["shipped"], 2, 36)
    assert not (tmp_path / "no").exists()


def test_the_ledger_tells_it_from_a_trained_model(tmp_path: Path) -> None:
    real = write_corpus(tmp_path / "real", subjects=3)
    own = replace(load_recognizer("shipped").config, mix=RunConfig().mix)
    for out, arguments in (("a", {"model": "shipped"}), ("b", {"config": own}), ("c", {"model": "shipped"})):
        loso(real, out=tmp_path / out, **arguments)  # type: ignore[arg-type]
    assert tried_before([real], "") == 2


def test_any_saved_recognizer(other: Path, two: list[Manifest], tmp_path: Path) -> None:
    """By folder, by object, and just trained: one answer."""
    results = [loso(two, model=m).predictions for m in (other, str(other), load_recognizer(other))]
    assert results[0].equals(results[1])
    assert results[0].equals(results[2])
    fresh = train(two[1], out=tmp_path / "fresh")
    assert loso(two[0], model=fresh).predictions.equals(loso(two[0], model=tmp_path / "fresh").predictions)
    assert loso(two[0], model=fresh).model == "fresh"
    loso(two, model=other, out=tmp_path / "out")
    with pytest.raises(RunFolderError, match="another run"):
        loso(two, model="shipped", out=tmp_path / "out")


@pytest.mark.parametrize("kind", ["loso", "lovo", "kfold", "lodo", "hde"])
def test_who_was_seen_is_not_tested(kind: str, two: list[Manifest], tmp_path: Path) -> None:
    seen = train(two[0], out=tmp_path / "seen")
    settings = [f"protocol.kind={kind}"] + (["protocol.groups=3"] if kind == "kfold" else [])
    config = load_config(RunConfig, None, settings, synthetic=False)
    with pytest.raises(LeakError, match="saw subject A/0"):
        loso(two, config=config, model=seen, out=tmp_path / "out")
    assert loso(two[1], config=load_config(RunConfig, None, ["protocol.kind=loso"]), model=seen).metrics.n == 18
    line = mistake("loso", "--model", tmp_path / "seen", "--real", two[0].root, "--out", tmp_path / "out2")
    assert line.startswith("Error: model: the recognizer there saw subject A/00")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lda.shrinkage=0.8"], "'lda.shrinkage=0.8' has no effect on shipped"),
        (["model=lda"], "'model=lda' has no effect"),
        (["recognizer/lda"], "'recognizer/lda' has no effect"),
        (["seeds=[1]"], "'seeds=[1]' has no effect"),
        (["protocol.groups=3"], "protocol.groups has no effect"),
        (["protocol.kind=nothing"], "protocol.kind='nothing' is unknown"),
        (["data.frame=nothing"], "data.frame='nothing' is unknown"),
        (["--also-oracle"], "shipped is tested as it is"),
        (["--synthetic", "SELF"], "synthetic clips are learned from"),
    ],
)
@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_settings_without_effect(
    words: list[str], said: str, dry: list[str], two: list[Manifest], tmp_path: Path
) -> None:
    words = [str(two[0].root) if word == "SELF" else word for word in words]
    base = ["loso", "--model", "shipped", "--real", two[0].root, "--out", tmp_path / "out"]
    assert said in mistake(*base, *words, *dry)
    assert not (tmp_path / "out").exists()


def test_other_mistakes(two: list[Manifest], tmp_path: Path) -> None:
    real, out = two[0].root, tmp_path / "out"
    assert "no recognizer in nowhere" in mistake("loso", "--model", "nowhere", "--real", real, "--out", out)
    assert "--model shipped` tests it" in mistake("loso", "model=shipped", "--real", real, "--out", out)
    assert "--model shipped` tests it" in mistake(
        "ablate", "models=[lda,shipped]", "--real", real, "--synthetic", real, "--out", out
    )
    assert "--real" in mistake("loso", "--model", "shipped", "--out", out)
    assert "holds model lda" in mistake(
        "train", "model=capsule_graph", "train.start=shipped", "--real", real, "--out", out
    )
    for config in (RunConfig(model="svm"), RunConfig(seeds=(0, 1))):
        with pytest.raises(ConfigError, match="no effect on shipped"):
            loso(two, config=config, model="shipped")
    with pytest.raises(ManifestError, match="classes"):
        loso(replace(load(two[0]), classes=("a", "b", "c")), model="shipped")
    assert not out.exists()


def test_a_class_without_clips_is_no_matter_of_settings(tmp_path: Path) -> None:
    """Its classes are its own: the way out is not data.classes, which is refused."""
    few = write_corpus(tmp_path / "few", subjects=2, clips=4, labels=("negative", "positive"))
    for dry in ([], ["--dry-run"]):
        said = mistake("loso", "--model", "shipped", "--real", few.root, "--out", tmp_path / "out", *dry)
        assert "class surprise of shipped has no test clip" in said
        assert "recognizer predict --manifest" in said
        assert "data.classes" not in said
    assert len(predict(load_recognizer("shipped"), few).table) == 8


def test_its_own_framing_is_what_clips_are_read_in(tmp_path: Path) -> None:
    """data.frame=own leaves them; the note says both numbers."""
    made = mesynth.generate(kind="flow", aus=list(OBVIOUS), count=12, seed=4, out=tmp_path / "made")
    table = made.table.to_pylist()
    real = Manifest.from_rows(
        [
            replace(row, label=OBVIOUS[list(OBVIOUS)[i % 4]], provenance=replace(row.provenance, kind="rendered"))
            for i, row in enumerate(made)
        ],
        made.root,
    )
    assert len(table) == 12
    real = replace(real, meta=made.meta)
    matched = loso(real, model="shipped")
    kept = loso(real, config=load_config(RunConfig, None, ["data.frame=own"], synthetic=False), model="shipped")
    assert any("is read as the latter" in note for note in matched.notes)
    assert any("data.frame=own leaves it so" in note for note in kept.notes)
    assert not matched.predictions.equals(kept.predictions)


def test_a_recognizer_of_another_unit_is_refused(tmp_path: Path) -> None:
    """Flow in pixels means nothing to one that learned in units of its own rms, and the other way about."""
    rng = np.random.default_rng(0)
    flow = rng.normal(size=(12, 2, 7, 7)).repeat(4, 2).repeat(4, 3)
    own = flow / np.sqrt((flow**2).mean((1, 2, 3), keepdims=True))
    for name, learned, asked in (("pixels", 0.2 * flow, own), ("own rms", own, 0.2 * flow)):
        images = [np.stack([flow_image(uv.astype(np.float32)) for uv in one]) for one in (learned, asked)]
        sets = [FlowSet.of(x, np.arange(12) % 3, [f"s{i % 4}" for i in range(12)], database=d)
                for x, d in zip(images, "ab", strict=True)]  # fmt: skip
        model = train(sets[0], out=tmp_path / name)
        for again in (model, load_recognizer(tmp_path / name)):
            with pytest.raises(ManifestError, match=r"data\.normalise=robust"):
                predict(again, sets[1])
            with pytest.raises(ManifestError, match=r"data\.normalise=robust"):
                loso(sets[1], model=again)
        assert predict(model, sets[0]).table.num_rows == 12


def test_units_of_manifests_and_of_sets_in_memory(tmp_path: Path) -> None:
    """data.normalise=robust brings manifests to one scale; what was loaded without it is not taken for that."""
    pixels = write_corpus(tmp_path / "pixels", subjects=2)
    config = load_config(RunConfig, None, ["data.normalise=robust"])
    others = write_corpus(tmp_path / "others", subjects=2, database="OTHERS")
    model = train(pixels, config=config, out=tmp_path / "robust")
    assert model.own_rms
    assert predict(model, load(pixels, config.data)).table.equals(predict(model, pixels).table)
    for call in (predict, lambda model, clips: loso(clips, model=model)):
        with pytest.raises(ManifestError, match=r"load them with its config\.data"):
            call(model, load(others))


# ---------------------------------------------------------------- training without real clips


@pytest.mark.parametrize("words", [["model=lda"], ["model=svm"], ["model=capsule_graph", "train.steps=4"]])
def test_no_real_clip_is_needed(words: list[str], corpora: dict[str, Manifest], tmp_path: Path) -> None:
    base = ["train", *words, "mix.count=80", "--synthetic", corpora["synthetic"].root]
    for out in ("one", "two"):
        result = run(*base, "--out", tmp_path / out)
        assert result.exit_code == 0, result.output
    assert (tmp_path / "one" / WEIGHTS).read_bytes() == (tmp_path / "two" / WEIGHTS).read_bytes()
    model = load_recognizer(tmp_path / "one")
    assert model.config.mix.mode == "synthetic-only"
    assert model.subjects_seen == {f"made/{i:02d}" for i in range(20)}  # the people these clips show
    card = (tmp_path / "one" / CARD).read_text()
    assert "Trained on 0 real and 240 synthetic clips" in card
    assert "It learned from no real clip" in card
    if words == ["model=lda"]:
        assert loso(corpora["real"], model=model).uf1.value > 0.8


def test_face_shapes_are_nobody_and_makers_are_not(tmp_path: Path) -> None:
    made = mesynth.generate(kind="flow", emotion="negative,positive,surprise", count=12, seed=1, out=tmp_path / "made")
    rows = [
        replace(row, provenance=replace(row.provenance, subjects_seen=(*row.provenance.subjects_seen, "casme2/sub01")))
        for row in made
    ]
    plain = train(None, made, out=tmp_path / "plain")
    assert plain.subjects_seen == frozenset()
    refitted = Manifest.from_rows(rows, made.root)
    assert train(None, refitted, out=tmp_path / "refitted").subjects_seen == {"casme2/sub01"}


def test_synthetic_alone_equals_synthetic_only(corpora: dict[str, Manifest], tmp_path: Path) -> None:
    """What mix.mode=synthetic-only learns beside real clips that it leaves out."""
    config = load_config(RunConfig, None, ["mix.mode=synthetic-only"])
    beside = train(corpora["real"], corpora["synthetic"], config, out=tmp_path / "beside")
    alone = train(None, corpora["synthetic"], config, out=tmp_path / "alone")
    clips = load(corpora["real"]).inputs()
    assert np.allclose(beside.probabilities(clips), alone.probabilities(clips), atol=1e-6)
    in_memory = train(None, load(corpora["synthetic"]), config, out=tmp_path / "memory")
    assert np.allclose(in_memory.probabilities(clips), alone.probabilities(clips), atol=1e-6)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["mix.mode=pool"], "mix.mode=pool needs real clips"),
        (["mix.mode=fuse"], "mix.mode=fuse needs real clips"),
        (["model=capsule_graph", "mix.mode=pretrain"], "mix.mode=pretrain needs real clips"),
        (["mix.ratio=2"], "mix.ratio=2 counts clips for each real one"),
        (["mix.count=10000"], "10000 synthetic clips"),
    ],
)
def test_what_needs_real_clips(words: list[str], said: str, corpora: dict[str, Manifest], tmp_path: Path) -> None:
    line = mistake("train", *words, "--synthetic", corpora["synthetic"].root, "--out", tmp_path / "out")
    assert said in line
    assert not (tmp_path / "out" / WEIGHTS).exists()


@pytest.mark.parametrize("verb", ["loso", "ablate"])
def test_tests_need_real_clips(verb: str, corpora: dict[str, Manifest], tmp_path: Path) -> None:
    line = mistake(verb, "--synthetic", corpora["synthetic"].root, "--out", tmp_path / "out")
    assert line == f"Error: {verb} tests on real clips and has none; pass --real"
    assert "no clips to learn from" in mistake("train", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_units_are_not_mixed(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(12, 3, 28, 28)).astype(np.float32)
    names = [f"s{i}" for i in range(6)]
    sets = [
        FlowSet.of(part, np.arange(6) % 3, names, database=name, generator="g", subjects_seen=[()] * 6)
        for name, part in (("one", x[:6]), ("two", x[6:]))
    ]
    mixed = FlowSet.concat(
        [replace(sets[0], own_rms=np.ones(6, np.bool_)), replace(sets[1], own_rms=np.zeros(6, bool))]
    )
    with pytest.raises(ManifestError, match=r"data\.normalise=robust"):
        train(None, mixed, out=tmp_path / "out")


# ---------------------------------------------------------------- one command makes it again


def test_the_command_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two: list[Manifest]) -> None:
    def make(out: str, *more: object) -> None:
        words = ["ship_recognizer.py", "--count", 30, "--out", tmp_path / out, *more]
        monkeypatch.setattr(sys, "argv", [str(word) for word in words])
        runpy.run_path(str(ROOT / "scripts/ship_recognizer.py"), run_name="__main__")

    make("one")
    make("two")
    names = sorted(file.name for file in (tmp_path / "one").iterdir())
    assert names == [CARD, "SHA256SUMS", "config.yaml", WEIGHTS, "preparation.yaml", "run.yaml"]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    made = load_recognizer(tmp_path / "one")
    assert replace(made.config, seeds=(0,)) == load_recognizer("shipped").config
    assert made.framing == load_recognizer("shipped").framing
    assert "Not measured yet" in (tmp_path / "one" / CARD).read_text()
    # Measured, it keeps its figures as long as its weights stay.
    data = [word for manifest in two for word in ("--data", manifest.root)]
    make("two", *data, "--about", "two toys")
    measured = {file.name: file.read_bytes() for file in (tmp_path / "two").iterdir()}
    assert (tmp_path / "two" / WEIGHTS).read_bytes() == (tmp_path / "one" / WEIGHTS).read_bytes()
    assert json.loads(measured[FIGURES])["uf1"] == loso(two, model=made).uf1.to_dict()
    assert b"36 clips of 6 subjects (two toys)" in b" ".join(measured[CARD].split())
    make("two")
    assert {file.name: file.read_bytes() for file in (tmp_path / "two").iterdir()} == measured
    figures = tmp_path / "two" / FIGURES
    figures.write_text(figures.read_text().replace(made.sha256, "0" * 64))
    seal(tmp_path / "two")
    make("two")
    assert not figures.exists()
    assert recognizer.load(tmp_path / "two").sha256 == made.sha256
