"""Generators by name, what a corpus says about the one that made it, and options behind the ``@`` of a name."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from mesynth.cli import main
from mesynth.core import facs
from mesynth.core.errors import ConfigError, MesynthError
from mesynth.corpus.faces import find_faces
from mesynth.corpus.generate import Preview, generate
from mesynth.corpus.plan import PlanConfig
from mesynth.datasets.rendered import render_faces
from mesynth.generators.registry import PriorGenerator, find_model, option_text, parse_options, split_models, split_name
from mesynth.store.generator_folder import GeneratorFacts, PipelineError, save_pipeline, shipped_models
from mesynth.store.shards import read_flow, read_frames
from tests.corpus.toy import Toy, save_toy

# ---------------------------------------------------------------- names


FACTS = GeneratorFacts(
    name="motion_gan", size=32, subjects_seen=("rendered/person0000920000", "casme2/sub01"), licences=("CC0-1.0",),
    data_hash="d", config_hash="c", images=0, seed=0, code_version="0",
)  # fmt: skip


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained motion GAN: its fields are the motion prior's."""
    from mesynth.generators.motion_gan.network import MotionGenerator

    folder = tmp_path_factory.mktemp("run") / "generator"
    network = MotionGenerator(size=32, width=8, blocks=1, template=24)
    save_pipeline(folder, {"generator": network}, asdict(FACTS), "a card", size=32)
    return folder


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render_faces(tmp_path_factory.mktemp("faces") / "out", subjects=2, size=128, seed=5)


def plan(**changes: object) -> PlanConfig:
    values = {"au": ("12=0.5", "L4=0.3"), "count": 3, "fps": 50.0, "duration": (0.2, 0.2), "size": 64}
    return PlanConfig(**(values | changes))  # type: ignore[arg-type]


def test_a_trained_generator_makes_a_corpus_that_names_whom_it_saw(saved: Path, faces: Path, tmp_path: Path) -> None:
    made = generate(find_faces(faces), plan(), tmp_path / "out", model=str(saved), preview=Preview(count=0))
    for row in made:
        assert row.provenance.generator == "motion_gan"
        assert row.provenance.weights_sha256 == find_model(str(saved)).facts.weights_sha256 != ""
        assert row.provenance.subjects_seen == (row.subject_key, *FACTS.subjects_seen)
        assert row.provenance.licence.endswith("; CC0-1.0")
        frames = read_frames(made.root, row)
        assert np.abs(frames[row.apex_index].astype(int) - frames[0]).max() > 10
        assert np.abs(read_flow(made.root, row)).max() > 0.3
    again = generate(find_faces(faces), plan(), tmp_path / "again", model=str(saved.parent), preview=Preview(count=0))
    assert again.hash() == made.hash()


def test_another_generator_is_another_run(saved: Path, faces: Path, tmp_path: Path) -> None:
    generate(find_faces(faces), plan(count=1), tmp_path / "out", preview=Preview(count=0))
    with pytest.raises(MesynthError, match="another run"):
        generate(find_faces(faces), plan(count=1), tmp_path / "out", model=str(saved), preview=Preview(count=0))


def test_the_prior_learned_from_nobody() -> None:
    model = find_model("motion-prior")
    assert model.facts.subjects_seen == ()
    assert isinstance(model.load(), PriorGenerator)
    assert model.identity == {"generator": "motion-prior"}


def test_what_is_no_model(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(MesynthError, match="'gan9' is unknown; choose from motion-prior"):
        find_model("gan9")
    with pytest.raises(PipelineError, match=r"mesynth\.json is missing"):
        find_model(str(tmp_path))
    from mesynth.generators.motion_gan.network import MotionGenerator

    network = MotionGenerator(size=32, width=8, blocks=1, template=24)
    nobody = asdict(FACTS) | {"subjects_seen": ()}
    save_pipeline(tmp_path / "nobody", {"generator": network}, nobody, "a card", size=32)
    with pytest.raises(PipelineError, match="does not say whom it learned from"):
        find_model(str(tmp_path / "nobody"))


def test_every_shipped_model_loads() -> None:
    for name in shipped_models():
        assert find_model(name).load().size >= 32


# ---------------------------------------------------------------- options


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return save_toy(tmp_path / "runs" / "d", monkeypatch)


@pytest.fixture(scope="module")
def one_face(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render_faces(tmp_path_factory.mktemp("faces") / "out", subjects=1, size=128, seed=5)


def short_plan(**changes: object) -> PlanConfig:
    values = {"au": ("12=0.5",), "fps": 50.0, "duration": (0.2, 0.2), "size": 64}
    return PlanConfig(**(values | changes))  # type: ignore[arg-type]


def test_options_are_part_of_the_model(toy: Path) -> None:
    model = find_model(f"{toy}@guidance=2,steps=8")
    assert model.options == (("guidance", 2), ("steps", 8))
    assert model.described == "toy@guidance=2,steps=8"
    assert model.identity["options"] == {"guidance": 2, "steps": 8}
    assert model.identity == find_model(f"{toy}@steps=8, guidance=2").identity
    made = model.load()
    assert isinstance(made, Toy)
    assert (made.steps, made.guidance) == (8, 2)
    assert "options" not in find_model(str(toy)).identity
    assert find_model(str(toy)).described == "toy"


def test_values_are_numbers_truths_or_texts() -> None:
    got = dict(parse_options("a=1,b=1.5,c=true,d=false,e=dpm++,f=1e-2,g=inf,h=x=y", "m"))
    assert got == {"a": 1, "b": 1.5, "c": True, "d": False, "e": "dpm++", "f": 0.01, "g": "inf", "h": "x=y"}
    assert type(got["a"]) is int
    assert type(got["c"]) is bool


@given(
    st.dictionaries(
        st.from_regex(r"[a-z_]{1,6}", fullmatch=True),
        st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
        min_size=1,
    )
)
def test_what_is_written_is_read(options: dict[str, bool | int | float]) -> None:
    assert dict(parse_options(option_text(options), "m")) == options


def test_a_folder_may_hold_an_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_toy(tmp_path / "d@home", monkeypatch)
    other = save_toy(tmp_path / "d@steps=2", monkeypatch)
    assert find_model(str(folder)).options == ()
    assert find_model(f"{folder}@steps=8").options == (("steps", 8),)
    assert find_model(str(other)).options == ()
    assert find_model(f"{other}@steps=8").folder == other
    save_toy(tmp_path / "d", monkeypatch)
    assert find_model(str(tmp_path / "d@steps=2")).folder == other  # a folder of that very name goes first
    assert split_name(f"{tmp_path}/e@home") == (f"{tmp_path}/e@home", None)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("", "'' in '.*d@' is no option; write for example .*d@steps=8"),
        ("8", "'8' in"),
        ("steps", "'steps' in"),
        ("steps=", "'steps=' in"),
        ("steps=8,", "'' in"),
        ("2x=8", "'2x=8' in"),
        ("steps=8,steps=9", "gives the option steps twice"),
    ],
)
def test_unreadable_options_are_named(toy: Path, options: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        find_model(f"{toy}@{options}")


def test_options_of_nobody(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="toy has no option 'stepps'; choose from steps, guidance"):
        find_model(f"{toy}@stepps=8").load()
    with pytest.raises(ConfigError, match="motion-prior has no option 'steps'; choose from spread"):
        find_model("motion-prior@steps=8").load()
    with pytest.raises(MesynthError, match="model '/nowhere/x' is unknown"):
        find_model("/nowhere/x@steps=8")
    with pytest.raises(MesynthError, match="model '/nowhere/x@home' is unknown"):
        find_model("/nowhere/x@home")


def test_a_list_of_models_is_separated_by_the_commas_that_separate_options_too() -> None:
    assert split_models("a@steps=4,b") == ["a@steps=4", "b"]
    assert split_models("a@steps=4,guidance=2,b@steps=8,c") == ["a@steps=4,guidance=2", "b@steps=8", "c"]
    assert split_models("x/lr=1,a@steps=4,x/lr=1") == ["x/lr=1", "a@steps=4", "x/lr=1"]  # no option has such a name
    assert split_models("a,steps=4") == ["a", "steps=4"]  # nothing to go on with
    assert split_models(" a , ,b, ") == ["a", "b"]
    assert split_models("") == []


def test_clips_say_with_which_options_they_were_made(toy: Path, one_face: Path, tmp_path: Path) -> None:
    made = {}
    for name, text in {"plain": "", "twice": "@guidance=2.0", "again": "@guidance=2.0"}.items():
        made[name] = generate(
            find_faces(one_face), short_plan(), tmp_path / name, model=f"{toy}{text}", preview=Preview(count=0)
        )
    assert made["plain"].row(0).provenance.generator == "toy"
    assert made["twice"].row(0).provenance.generator == "toy@guidance=2.0"
    assert made["twice"].hash() == made["again"].hash() != made["plain"].hash()
    flows = [np.abs(read_flow(made[name].root, made[name].row(0))).max() for name in ("plain", "twice")]
    assert flows[1] == pytest.approx(2 * flows[0], rel=0.05)
    with pytest.raises(MesynthError, match="another run"):
        generate(
            find_faces(one_face), short_plan(), tmp_path / "plain", model=f"{toy}@steps=9", preview=Preview(count=0)
        )


def test_a_wrong_option_leaves_nothing_behind(toy: Path, one_face: Path, tmp_path: Path) -> None:
    for more in ([], ["--dry-run"]):
        arguments = ["generate", "--faces", str(one_face), "--au", "12=B", "--model", f"{toy}@guide=2",
                     "--out", str(tmp_path / "x"), *more]  # fmt: skip
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 2, result.output
        assert "toy has no option 'guide'; choose from steps, guidance" in result.output
        assert not (tmp_path / "x").exists()


def test_the_reach_of_the_prior_is_the_priors_own(toy: Path, one_face: Path, tmp_path: Path) -> None:
    config = short_plan(au=("28=E",))  # no plan is refused for what one model cannot show
    with pytest.raises(MesynthError, match="would fold the picture"):
        generate(find_faces(one_face), config, tmp_path / "prior")
    assert not (tmp_path / "prior").exists()
    find_model(str(toy)).check_request(facs.parse_request("28=E"))
    with pytest.raises(MesynthError, match="exclude each other"):
        find_model(str(toy)).check_request(facs.parse_request("12=B,15=B"))
    # The toy is the prior inside, asked for a share: it refuses by itself, when it is asked.
    with pytest.raises(MesynthError, match="would fold the picture"):
        generate(find_faces(one_face), config, tmp_path / "toy", model=f"{toy}@steps=0,guidance=2")
    made = generate(find_faces(one_face), config, tmp_path / "fits", model=f"{toy}@steps=0")
    assert len(made) == 1
