"""Corpora of flow alone: what rows say, the same bytes from any number of processes, read by the recognizer."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from mesynth.cli import main
from mesynth.core import facs
from mesynth.core.errors import MesynthError
from mesynth.core.framing import ESTIMATED, GIVEN, OWN, KnownFraming, parse_framing, reframed
from mesynth.corpus.design import load_design
from mesynth.corpus.exports.run import export, import_export
from mesynth.corpus.flow_corpus import Batches, generate_flow
from mesynth.corpus.plan import Plan, PlanConfig
from mesynth.corpus.planning import draft_plan
from mesynth.corpus.verify import verify
from mesynth.motion.flow_prior import OFF, FlowNuisance
from mesynth.motion.framing import framing_of, stated_framing
from mesynth.motion.nuisance import Nuisance
from mesynth.store import shards
from mesynth.store.generator_folder import save_pipeline
from mesynth.store.manifest import Manifest
from recognizer.data import load
from tests.corpus.coded import coded_manifest, made_bytes
from tests.generators.gan_facts import facts
from tests.generators.test_flow_gan import network

CONFIG = PlanConfig(
    emotions=("negative", "positive", "surprise"), count=30, nuisance=Nuisance(head=1, blink=0.3, style=1)
)  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return generate_flow(CONFIG, tmp_path_factory.mktemp("flow") / "corpus", people=7)


@pytest.fixture(scope="module")
def gan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gan") / "g"
    save_pipeline(folder, {"generator": network()}, facts("flow_gan"), "# card\n", size=28)
    return folder


def _cli(*args: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in args])


def test_rows_without_frames(corpus: Manifest) -> None:
    assert len(corpus) == 30
    plan = Plan(CONFIG, 7)
    for row, planned in zip(corpus, plan, strict=True):
        assert row.frames is None
        assert shards.read_flow(corpus.root, row).shape == (2, 28, 28)
        assert (row.emotion, row.provenance.plan_row) == (planned.emotion, planned.index)
        assert row.au_text == facs.format_vector(planned.aus) == row.provenance.aus_asked
        assert row.provenance.subjects_seen == (row.subject_key,)
        assert row.subject_key.startswith("flow-prior/p0000")
        assert row.provenance.generator == "flow-prior"
    assert corpus.column("label").tolist() == ["negative", "positive", "surprise"] * 10
    assert not list(corpus.root.glob("frames*"))
    assert verify(corpus.root).clean


def test_the_recognizer_reads_it(corpus: Manifest) -> None:
    loaded = load(corpus)
    assert loaded.x.shape == (30, 3, 28, 28)
    assert loaded.synthetic.all()
    assert loaded.class_counts.tolist() == [10, 10, 10]
    for image, row in zip(loaded.x, corpus, strict=True):  # of the recognizer's own size: not resampled
        np.testing.assert_array_equal(image[:2], shards.read_flow(corpus.root, row))


def test_batches_give_each_row_once_and_slices_too() -> None:
    rows = Plan(replace(CONFIG, count=600), 3)
    jobs = list(Batches(rows))
    assert [job.together[job.place].index for job in jobs] == list(range(600))
    part = list(Batches(rows)[100:400][200:250])
    assert [job.together[job.place].index for job in part] == list(range(300, 350))
    assert len(Batches(rows)[100:400]) == 300


def test_a_longer_corpus_begins_with_the_shorter(corpus: Manifest, tmp_path: Path) -> None:
    longer = generate_flow(replace(CONFIG, count=50), tmp_path / "longer", people=7)
    for index in range(30):
        a, b = corpus.row(index), longer.row(index)
        assert (a.clip_id, a.provenance.seed) == (b.clip_id, b.provenance.seed)
        np.testing.assert_array_equal(shards.read_flow(corpus.root, a), shards.read_flow(longer.root, b))


@pytest.mark.slow
def test_the_same_bytes_from_one_process_and_two(corpus: Manifest, tmp_path: Path) -> None:
    generate_flow(CONFIG, tmp_path / "two", people=7, workers=2)
    assert made_bytes(tmp_path / "two") == made_bytes(corpus.root)


def test_resumed_from_what_a_kill_leaves(corpus: Manifest, tmp_path: Path) -> None:
    """The folder as it lies on the disk in the middle of the fourth shard: the same call makes only what is missing,
    and ends with the same bytes. (A real kill -9 of this engine: tests/corpus/test_generate.py.)"""
    left = tmp_path / "left"

    def copy(done: int, total: int) -> None:
        if done >= 14 and not left.exists():
            shutil.copytree(tmp_path / "a", left)

    generate_flow(CONFIG, tmp_path / "a", people=7, progress=lambda _: copy)
    assert not (left / "manifest.parquet").exists()
    assert len(list(left.rglob("*.tmp"))) == 2  # tars begun
    finished = {
        p.parent.name: (left / f"flow-{p.parent.name}.tar").stat().st_mtime_ns
        for p in left.glob("parts/*/manifest.parquet")
    }
    assert len(finished) == 3
    generate_flow(CONFIG, left, people=7)
    for name, written in finished.items():
        assert (left / f"flow-{name}.tar").stat().st_mtime_ns == written  # never made twice
    assert made_bytes(left) == made_bytes(tmp_path / "a") == made_bytes(corpus.root)


def test_a_plan_names_whose_labels_were_seen(tmp_path: Path) -> None:
    manifest = coded_manifest(tmp_path / "coded")
    design = load_design(None, ["rows.count=12", "aus.sources=[coded]", "nuisance.head=[0,1]"])
    plan = draft_plan(design, people=4, aus_from=manifest.root, exclude=("db/01",)).write(tmp_path / "plan")
    made = generate_flow(plan, tmp_path / "corpus", size=32)
    assert verify(made.root).clean
    for row, planned in zip(made, plan, strict=True):
        assert set(row.provenance.subjects_seen) == {row.subject_key, *planned.au_seen}
        assert row.height == 32
    assert "db/01" not in {s for seen in made.subjects_seen() for s in seen}


def test_strengths_and_labels_follow_the_options(tmp_path: Path) -> None:
    config = PlanConfig(au=("L12=0.4",), count=2)
    even = generate_flow(config, tmp_path / "even", nuisance=OFF)
    assert even.row(0).au_text == "12=0.2"
    assert even.row(0).provenance.aus_asked == "L12=0.4"
    again = generate_flow(config, tmp_path / "sided", nuisance=replace(OFF, asymmetry=1.0))
    assert again.row(0).au_text == "L12=0.4"
    flow = shards.read_flow(again.root, again.row(0))
    assert np.abs(flow[..., 14:]).sum() > 5 * np.abs(flow[..., :14]).sum()  # the subject's left is image right


def test_a_flow_gan_is_asked_for_the_same_rows(gan: Path, tmp_path: Path) -> None:
    from mesynth.generators.base import load_pipeline

    made = generate_flow(replace(CONFIG, count=20), tmp_path / "a", model=str(gan), people=3)
    loaded = load_pipeline(gan)
    for row, planned in zip(made, Plan(replace(CONFIG, count=20), 3), strict=True):
        alone = loaded.sample(seeds=[planned.seed], labels=[row.label], aus=planned.aus.intensity[None], size=28)  # type: ignore[attr-defined]
        np.testing.assert_array_equal(shards.read_flow(made.root, row), alone[0])
        assert set(facts("flow_gan")["subjects_seen"]) <= set(row.provenance.subjects_seen)  # type: ignore[call-overload]
        assert row.provenance.generator == "flow_gan"
    assert verify(made.root).clean


def test_command_line(tmp_path: Path, corpus: Manifest) -> None:
    args = ["generate", "--kind", "flow", "--emotion", "negative,positive,surprise", "--count", 30, "--subjects", 7]
    assert "30 flow images of 28 px" in _cli(*args, "--out", tmp_path / "a", "--dry-run").output
    made = _cli(*args, "--workers", 1, "--out", tmp_path / "a")
    assert made.exit_code == 0, made.output
    assert made_bytes(tmp_path / "a") == made_bytes(corpus.root)  # head, blink and style are on unless switched off


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--au", "12=B", "--faces", "x"], "--faces has no effect with --kind flow"),
        (["--au", "12=B", "--noise", "2"], "--noise has no effect with --kind flow"),
        (["--au", "12=B", "--nuisance", "smoke=1"], "'smoke=1' is unknown"),
        (["--au", "12=B", "--size", "8"], "of 8 pixels"),
        (["--au", "12=B", "--model", "motion_gan"], "makes frames"),
        (["--au", "12=B", "--model", "motion-prior"], "makes frames"),
        (["--au", "12=B", "--model", "nobody"], "'nobody' is unknown"),
        ([], "give either --au"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, args: list[str], says: str) -> None:
    result = _cli("generate", "--kind", "flow", *args, "--out", tmp_path / "x", "--workers", 1)
    assert result.exit_code == 2, result.output
    assert says in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "x").exists()


def test_a_gan_has_no_nuisances_to_switch(gan: Path, tmp_path: Path) -> None:
    with pytest.raises(MesynthError, match="draws what it learned"):
        generate_flow(CONFIG, tmp_path / "x", model=str(gan), nuisance=replace(FlowNuisance(), noise=0.0))


# ---------------------------------------------------------------- framing


def test_images_are_framed_as_asked(tmp_path: Path, gan: Path) -> None:
    """Eyes further apart and higher: the same people and AUs, moving elsewhere; a GAN's images are taken there."""
    args = ["generate", "--kind", "flow", "--emotion", "negative,positive,surprise", "--count", 30, "--subjects", 7]
    tight = "eyes=0.57,height=0.46,row=0.25,column=0.48"
    made = _cli(*args, "--frame", tight, "--out", tmp_path / "a", "--workers", 1)
    assert made.exit_code == 0, made.output
    framed, own = Manifest.read(tmp_path / "a"), generate_flow(CONFIG, tmp_path / "own", people=7)
    target = parse_framing(tight)
    flows = [np.stack([shards.read_flow(m.root, row) for row in m]) for m in (framed, own)]
    moved = reframed(flows[1], OWN, target)
    same, apart = (np.abs(a - b).mean() for a, b in ((flows[0], moved), (flows[0], flows[1])))
    assert same < 0.75 * apart  # estimator noise is that of each image's own pixels
    again = _cli(*args, "--out", tmp_path / "a", "--workers", 1)
    assert again.exit_code == 2
    assert "holds another run" in again.stderr
    drawn = [generate_flow(CONFIG, tmp_path / f"g{i}", model=str(gan), framing=f) for i, f in enumerate((OWN, target))]
    first, second = (shards.read_flow(m.root, m.row(0)) for m in drawn)
    np.testing.assert_allclose(second, reframed(first, OWN, target), atol=2e-3)


def test_a_framing_like_a_databases(tmp_path: Path, corpus: Manifest) -> None:
    args = ["generate", "--kind", "flow", "--emotion", "surprise", "--count", 3, "--out", tmp_path / "x"]
    wanted = _cli(*args, "--frame", f"like:{corpus.root}", "--dry-run")
    assert wanted.exit_code == 0, wanted.output
    assert framing_of(corpus.root).framing.distance(OWN) < 0.1
    assert f"framed {framing_of(corpus.root).framing.text()}" in wanted.stdout
    for frame, words in (("like:" + str(tmp_path), "no manifest.parquet"), ("eyes=9", "eyes=9 is outside")):
        refused = _cli(*args, "--frame", frame)
        assert refused.exit_code == 2
        assert words in refused.stderr
        assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("dry", [True, False])
def test_a_gan_is_not_asked_for_more_than_its_crop_shows(tmp_path: Path, gan: Path, dry: bool) -> None:
    args = ["generate", "--kind", "flow", "--emotion", "surprise", "--count", 2, "--model", gan, "--frame", "eyes=0.2"]
    refused = _cli(*args, "--out", tmp_path / "a", *(["--dry-run"] if dry else []))
    assert refused.exit_code == 2
    assert "flow_gan draws 25% of a crop framed eyes=0.2,height=0.2" in refused.stderr
    assert not (tmp_path / "a").exists()


_TIGHT = "eyes=0.57,height=0.46,row=0.25,column=0.48"


def test_a_framing_outlives_what_is_done_to_a_corpus(tmp_path: Path) -> None:
    args = ["generate", "--kind", "flow", "--emotion", "surprise,negative", "--count", 6, "--frame", _TIGHT]
    wanted = KnownFraming(framing=parse_framing(_TIGHT))
    assert f"framing  {_TIGHT}" in _cli(*args, "--out", tmp_path / "a", "--workers", 1).stdout
    for out, command in {
        "sure": [*args, "--until-accepted", "--workers", 1],
        "kept": ["filter", tmp_path / "a", "--keep", "duplicate"],
    }.items():
        done = _cli(*command, "--out", tmp_path / out)
        assert done.exit_code == 0, done.output
    for name in ("a", "sure", "kept"):
        assert Manifest.read(tmp_path / name).framing == wanted
    for form in ("flow-npy", "flow-folders"):
        assert _cli("export", tmp_path / "kept", "--to", form, "--out", tmp_path / form).exit_code == 0
        back = _cli("prepare", "export", "--root", tmp_path / form, "--out", tmp_path / f"{form}-back")
        assert back.exit_code == 0, back.output
        assert Manifest.read(tmp_path / f"{form}-back").framing == wanted


@pytest.mark.parametrize("form", ["flow-npy", "flow-folders"])
def test_an_export_takes_flow_to_another_framing(tmp_path: Path, corpus: Manifest, form: str) -> None:
    target = parse_framing(_TIGHT)
    args = ["export", corpus.root, "--to", form]
    done = _cli(*args, "--frame", _TIGHT, "--out", tmp_path / "a")
    assert done.exit_code == 0, done.output
    back = import_export(tmp_path / "a", tmp_path / "back")
    assert back.framing == KnownFraming(framing=target)
    for row, own in zip(back, corpus, strict=True):
        moved = reframed(shards.read_flow(corpus.root, own), OWN, target)
        if form == "flow-npy":
            np.testing.assert_array_equal(shards.read_flow(back.root, row), moved)
        else:
            planes = shards.read_extra(back.root, row, "stretched").astype(float)
            assert np.corrcoef(planes[1].ravel(), moved[1].ravel())[0, 1] > 0.999
    like = _cli(*args, "--frame", f"like:{back.root}", "--out", tmp_path / "like")
    assert like.exit_code == 0, like.output
    assert str(back.root) not in (tmp_path / "like/run.yaml").read_text()
    assert made_bytes(tmp_path / "like") == made_bytes(tmp_path / "a")
    for frame, words in (("eyes=0.2", "show 25% of a crop framed eyes=0.2"), ("eyes=9", "eyes=9 is outside")):
        for more in ([], ["--dry-run"]):
            refused = _cli(*args, "--frame", frame, "--out", tmp_path / "x", *more)
            assert refused.exit_code == 2
            assert words in refused.stderr
            assert not (tmp_path / "x").exists()


def test_published_flow_images_are_framed_as_found_or_said(tmp_path: Path) -> None:
    """The flow prior's images in a known framing, as published images: found, given, and too few to be found."""
    framing = parse_framing(_TIGHT)
    made = generate_flow(replace(CONFIG, count=90), tmp_path / "made", framing=framing)
    export(made, "flow-folders", tmp_path / "published")
    few = export(generate_flow(replace(CONFIG, count=9), tmp_path / "nine"), "flow-folders", tmp_path / "few")
    assert few.clips == 9
    [root] = [p for p in (tmp_path / "published").iterdir() if p.is_dir() and any(p.glob("*/u_test"))]
    args = ["prepare", "flow_folders", "--part", "made", "--workers", 1, "--json"]

    def prepared(out: str, *more: object, root: Path = root) -> tuple[KnownFraming | None, str]:
        done = _cli(*args, "--root", root, "--out", tmp_path / out, *more)
        assert done.exit_code == 0, done.output
        return Manifest.read(tmp_path / out).framing, json.loads(done.stdout)["framing"]

    known, told = prepared("found")
    assert known is not None
    assert (known.origin, known.images) == (ESTIMATED, 90)
    assert known.framing.distance(framing) < 0.07
    assert told == known.text()
    assert stated_framing(f"like:{tmp_path / 'found'}") == known
    assert prepared("given", "--frame", _TIGHT) == (
        KnownFraming(framing=framing, origin=GIVEN),
        f"{_TIGHT} (given)",
    )
    like, _ = prepared("like", "--frame", f"like:{tmp_path / 'found'}")
    assert like == known
    refused = _cli(*args, "--root", root, "--out", tmp_path / "given", "--frame", "eyes=0.5")
    assert refused.exit_code == 2
    assert "another run" in refused.output
    unknown, told = prepared("unknown", root=tmp_path / "few" / root.name)
    assert unknown is None
    assert told == "not known (say it with --frame)"
