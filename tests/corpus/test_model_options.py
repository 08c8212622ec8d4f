"""Options behind the ``@`` of a model's name: read, refused, recorded."""

from __future__ import annotations

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
from mesynth.generators.registry import find_model, option_text, parse_options, split_models, split_name
from mesynth.store.shards import read_flow
from tests.corpus.toy import Toy, save_toy


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return save_toy(tmp_path / "runs" / "d", monkeypatch)


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render_faces(tmp_path_factory.mktemp("faces") / "out", subjects=1, size=128, seed=5)


def plan(**changes: object) -> PlanConfig:
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
    with pytest.raises(ConfigError, match="motion-prior has no option 'steps'; it knows none"):
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


def test_clips_say_with_which_options_they_were_made(toy: Path, faces: Path, tmp_path: Path) -> None:
    made = {}
    for name, text in {"plain": "", "twice": "@guidance=2.0", "again": "@guidance=2.0"}.items():
        made[name] = generate(
            find_faces(faces), plan(), tmp_path / name, model=f"{toy}{text}", preview=Preview(count=0)
        )
    assert made["plain"].row(0).provenance.generator == "toy"
    assert made["twice"].row(0).provenance.generator == "toy@guidance=2.0"
    assert made["twice"].hash() == made["again"].hash() != made["plain"].hash()
    flows = [np.abs(read_flow(made[name].root, made[name].row(0))).max() for name in ("plain", "twice")]
    assert flows[1] == pytest.approx(2 * flows[0], rel=0.05)
    with pytest.raises(MesynthError, match="another run"):
        generate(find_faces(faces), plan(), tmp_path / "plain", model=f"{toy}@steps=9", preview=Preview(count=0))


def test_a_wrong_option_leaves_nothing_behind(toy: Path, faces: Path, tmp_path: Path) -> None:
    for more in ([], ["--dry-run"]):
        arguments = ["generate", "--faces", str(faces), "--au", "12=B", "--model", f"{toy}@guide=2",
                     "--out", str(tmp_path / "x"), *more]  # fmt: skip
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 2, result.output
        assert "toy has no option 'guide'; choose from steps, guidance" in result.output
        assert not (tmp_path / "x").exists()


def test_the_reach_of_the_prior_is_the_priors_own(toy: Path, faces: Path, tmp_path: Path) -> None:
    config = plan(au=("28=E",))  # no plan is refused for what one model cannot show
    with pytest.raises(MesynthError, match="would fold the picture"):
        generate(find_faces(faces), config, tmp_path / "prior")
    assert not (tmp_path / "prior").exists()
    find_model(str(toy)).check_request(facs.parse_request("28=E"))
    with pytest.raises(MesynthError, match="exclude each other"):
        find_model(str(toy)).check_request(facs.parse_request("12=B,15=B"))
    # The toy is the prior inside, asked for a share: it refuses by itself, when it is asked.
    with pytest.raises(MesynthError, match="would fold the picture"):
        generate(find_faces(faces), config, tmp_path / "toy", model=f"{toy}@steps=0,guidance=2")
    made = generate(find_faces(faces), config, tmp_path / "fits", model=f"{toy}@steps=0")
    assert len(made) == 1
