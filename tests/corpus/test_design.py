"""A design is checked whole before a row is drawn; sources show what was coded, and say whose labels they looked at."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mesynth.core import facs, seeds
from mesynth.core.emotions import EXPERT, PUBLISHED
from mesynth.core.errors import MesynthError
from mesynth.corpus.design import (
    AUDesign,
    Design,
    Pool,
    SampledAUs,
    TableSource,
    Tree,
    load_design,
    make_sources,
    parse_intensity,
)
from mesynth.store.manifest import Manifest
from tests.corpus.coded import coded_manifest, coded_row

# ---------------------------------------------------------------- designs


CONFIGS = Path(__file__).parents[2] / "configs" / "corpus"


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda f: f.stem)
def test_the_examples_load(file: Path) -> None:
    assert load_design(file).plain()["seed"] == 0


def test_there_are_examples() -> None:
    assert len(list(CONFIGS.glob("*.yaml"))) >= 2


def test_the_written_design_is_the_design(tmp_path: Path) -> None:
    import yaml

    design = load_design(CONFIGS / "three_classes.yaml", ["shares=[2,1,1]", "nuisance.head=[0,1,2]"])
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(design.plain()))
    assert load_design(tmp_path / "again.yaml") == design
    assert design.weights == (0.5, 0.25, 0.25)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["emotion=[fear]"], "unknown key 'emotion'; nearest: emotions"),
        (["aus.source=[expert]"], "unknown key 'aus.source'"),
        (["rows.mode=all"], "'all' is unknown; choose from count, factorial"),
        (["rows.count=0"], "rows.count=0"),
        (["rows.seeds=2"], "rows.seeds has no effect: rows.mode is count"),
        (["rows.mode=factorial", "rows.count=5"], "rows.count has no effect"),
        (["rows.mode=factorial", "shares=[1,1,1]"], "shares has no effect"),
        (["aus.sources=[guess]"], "aus.sources 'guess' is unknown"),
        (["aus.sources=[expert,expert]"], "each once"),
        (["aus.sources=[]"], "at least one"),
        (["aus.sources=[fixed]"], "aus.fixed goes with the source fixed"),
        (["aus.fixed=['12=B']"], "aus.fixed goes with the source fixed"),
        (["aus.sources=[fixed]", "aus.fixed=['12=B,15=B']"], "exclude each other"),
        (["aus.sources=[fixed]", "aus.fixed=['joy: 12=B']"], "names the emotion 'joy'"),
        (["aus.sources=[fixed]", "aus.fixed=['12=B']", "emotions=[]", "aus.sides=[left]"], "aus.sides has no effect"),
        (["aus.sides=[upper]"], "aus.sides 'upper'"),
        (["aus.sides=[left]", "aus.unilateral=0.5"], "aus.unilateral has no effect"),
        (["aus.unilateral=2"], "no probability"),
        (["aus.macro_share=[0.2,0.2]"], "macro is not among"),
        (["aus.sources=[macro]", "aus.macro_share=[0.6,0.2]"], "ascending"),
        (["aus.leave_out=[43]"], "no source reads a manifest"),
        (["aus.sources=[coded]", "aus.leave_out=[99]"], "AU 99"),
        (["aus.intensity=['normal:0:1']"], "'normal:0:1' is no distribution"),
        (["aus.spread=-1"], "aus.spread=-1"),
        (["emotions=[]"], "emotions is empty"),
        (["emotions=[fear,fear]"], "names one twice"),
        (["shares=[1,2]"], "one positive number"),
        (["shares=[1,2,0]"], "one positive number"),
        (["clip.size=8"], "clip.size=8"),
        (["clip.duration=[0.4,0.2]"], "ascending"),
        (["clip.duration=[3,3]"], "not a micro-expression"),
        (["clip.profiles=[slow]"], "profile 'slow'"),
        (["clip.profiles=[]"], "clip.profiles is empty"),
        (["nuisance.head=[9]"], "head-motion=9"),
        (["nuisance.noise=[]"], "nuisance.noise is empty"),
        (["nuisance.head=1.5"], "configuration"),
        (["seed=many"], "seed"),
    ],
)
def test_mistakes_are_named(settings: list[str], says: str) -> None:
    with pytest.raises(MesynthError) as caught:
        load_design(None, settings)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "uniform", "uniform:0:1", "uniform:0.6:0.2", "uniform:0.1:2", "letters", "letters:F", "level:0",
             "level:0.1:0.2", "beta:0:1", "coded:1", "beta:x:y"],
)  # fmt: skip
def test_no_distribution(text: str) -> None:
    with pytest.raises(MesynthError, match="no distribution"):
        parse_intensity(text)


def test_a_file_that_is_no_design(tmp_path: Path) -> None:
    (tmp_path / "d.yaml").write_text("- 1\n")
    with pytest.raises(MesynthError, match="holds a list"):
        load_design(tmp_path / "d.yaml")
    with pytest.raises(MesynthError, match="cannot be read"):
        load_design(tmp_path / "none.yaml")


def test_fixed_requests_bring_their_emotions() -> None:
    assert load_design(None, ["emotions=[]", "aus.sources=[fixed]", "aus.fixed=['positive: 12=B','1=B']"]).emotions == (
        "positive",
        "",
    )
    assert Design().emotions == ("negative", "positive", "surprise")


# ---------------------------------------------------------------- sources of action units


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return coded_manifest(tmp_path_factory.mktemp("coded"))


def _sets(
    name: str, asked: str, manifest: Manifest | None, exclude: tuple[str, ...] = (), n: int = 200
) -> list[SampledAUs]:
    source = make_sources(AUDesign(sources=(name,)), manifest, exclude)[name]
    return [source.draw(asked, 0, seeds.stream(0, "test", i)) for i in range(n)]


def _codes(drawn: SampledAUs) -> tuple[int, ...]:
    shown = (np.nan_to_num(drawn.strength, nan=1) > 0).any(1)
    return tuple(facs.AU_CODES[k] for k in np.flatnonzero(shown))


def test_a_coded_clip_has_seen_its_own_subject_alone(manifest: Manifest) -> None:
    drawn = _sets("coded", "negative", manifest)
    assert {(_codes(d), d.seen) for d in drawn} == {
        ((4, 7), ("db/01",)), ((4, 9), ("db/02",)), ((4,), ("db/04",)),  # 43 is left out, '?' says nothing
    }  # fmt: skip
    assert {d.emotion for d in drawn} == {"disgust"}


def test_coded_sides_and_letters_are_kept(manifest: Manifest) -> None:
    drawn = {d.seen: d.strength for d in _sets("coded", "positive", manifest)}
    k6, k12 = facs.AU_INDEX[6], facs.AU_INDEX[12]
    np.testing.assert_array_equal(drawn["db/01",][k12], [0, np.nan])
    np.testing.assert_allclose(drawn["db/03",][[k6, k12]], [[0.5, 0.5], [0.75, 0.75]])


@pytest.mark.parametrize("name", ["coded", "cooccurrence"])
def test_excluded_subjects_and_synthetic_clips_are_never_seen(manifest: Manifest, name: str) -> None:
    seen = {s for d in _sets(name, "negative", manifest, exclude=("db/01", "db/06")) for s in d.seen}
    assert seen == {"db/02", "db/04"}


def test_macro_sets_are_scaled_down(manifest: Manifest) -> None:
    drawn = _sets("macro", "positive", manifest)
    values = np.array([d.strength[facs.AU_INDEX[12], 0] for d in drawn])
    assert values.min() >= 0.1 - 1e-6
    assert values.max() <= 0.5 + 1e-6
    assert np.ptp(values) > 0.3
    assert {d.seen for d in drawn} == {("db/05",)}
    unknown = [d.strength.max() for d in _sets("macro", "negative", manifest)]  # no letter: FACS D
    assert 0.075 <= min(unknown) <= max(unknown) <= 0.375


def test_a_class_that_nobody_coded_is_refused(manifest: Manifest) -> None:
    for name, asked in (("coded", "fear"), ("cooccurrence", "fear"), ("macro", "sadness")):
        with pytest.raises(MesynthError, match="has coded AUs and is"):
            make_sources(AUDesign(sources=(name,)), manifest, ())[name].choices(asked)
    with pytest.raises(MesynthError, match="'surprise'"):
        Pool.read(manifest, ("db/02", "db/03"), ()).of("surprise")


def test_a_manifest_goes_with_a_source_that_reads_it(manifest: Manifest) -> None:
    with pytest.raises(MesynthError, match="--aus-from"):
        make_sources(AUDesign(sources=("published", "coded")), None, ())
    with pytest.raises(MesynthError, match="no AU source of the design reads"):
        make_sources(AUDesign(), manifest, ())


def _clips(present: np.ndarray, codes: tuple[int, ...]) -> list[SampledAUs]:
    out = []
    for line in present:
        strength = np.zeros((len(facs.AU_CODES), 2))
        strength[[facs.AU_INDEX[c] for c, on in zip(codes, line, strict=True) if on]] = np.nan
        out.append(SampledAUs("disgust", strength, ("db/x",)))
    return out


def test_the_tree_keeps_pairs_as_frequent_as_coded() -> None:
    """4 and 7 nearly always together, 9 never with them: independent draws would mix all three."""
    rng = np.random.default_rng(0)
    four = rng.random(4000) < 0.6
    seven = np.where(rng.random(4000) < 0.9, four, ~four)
    nine = ~four & (rng.random(4000) < 0.95)
    present = np.stack([four, seven, nine], 1)
    present = present[present.any(1)]
    tree = Tree(_clips(present, (4, 7, 9)))
    drawn = np.stack([tree.draw(seeds.stream(1, "tree", i)) for i in range(4000)])
    again = np.isnan(drawn[:, [facs.AU_INDEX[c] for c in (4, 7, 9)], 0])
    np.testing.assert_allclose(again.mean(0), present.mean(0), atol=0.03)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert (again[:, i] & again[:, j]).mean() == pytest.approx((present[:, i] & present[:, j]).mean(), abs=0.03)


def test_the_tree_draws_sides_as_coded() -> None:
    strength = np.zeros((len(facs.AU_CODES), 2))
    strength[facs.AU_INDEX[14], 1] = np.nan  # right alone
    tree = Tree([SampledAUs("contempt", strength, ("db/a",)), SampledAUs("contempt", strength, ("db/b",))])
    for i in range(50):
        drawn = tree.draw(seeds.stream(0, "t", i))
        np.testing.assert_array_equal(np.isnan(drawn[facs.AU_INDEX[14]]), [False, True])
    assert tree.seen == ("db/a", "db/b")


@pytest.mark.parametrize(("name", "table"), [("published", PUBLISHED), ("expert", EXPERT)])
def test_tables_draw_what_they_say(name: str, table: dict[str, dict[int, float]]) -> None:
    source = TableSource(name)
    drawn = [source.draw("negative", 0, seeds.stream(0, "t", i)) for i in range(500)]
    counts = Counter(d.emotion for d in drawn)
    assert set(counts) <= set(table)  # the expert pool has no repression; it is not asked for one
    assert counts.most_common(1)[0][0] == "disgust"
    for d in drawn:
        assert d.seen == ()
        assert len(_codes(d)) >= 1
        assert set(_codes(d)) <= set(table[d.emotion])
    with pytest.raises(MesynthError, match="'tense' is not in"):
        source.choices("tense")


def test_a_clip_with_an_undecided_action_unit_is_not_drawn(tmp_path: Path) -> None:
    """Drawn without it, the clip would say that the coder saw the action unit absent."""
    cells = ["4+7", "4+7?", "4+(14 or 23)", "4+smile"]
    rows = [coded_row(i, f"0{i}", "disgust", cell) for i, cell in enumerate(cells)]
    pool = Pool.read(Manifest.from_rows(rows, tmp_path), (), ())
    assert [clip.seen for clip in pool.of("disgust")] == [("db/00",)]


def test_pool_of_an_empty_manifest(tmp_path: Path) -> None:
    pool = Pool.read(Manifest.from_rows([], tmp_path), (), ())
    assert pool.subjects == []
    with pytest.raises(MesynthError, match="no clip"):
        pool.of("negative")
