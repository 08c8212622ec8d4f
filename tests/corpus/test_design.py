"""A design is checked whole before a row is drawn: unknown keys, values out of range, keys without effect."""

from pathlib import Path

import pytest

from mesynth.core.errors import MesynthError
from mesynth.corpus.design import Design, load_design, parse_intensity

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
