"""What comes with the package keeps what its card says."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mesynth.benchmark.protocol import BENCHMARK_SEEDS, Person
from mesynth.core import facs
from mesynth.core.errors import MesynthError
from mesynth.core.profiles import Profile
from mesynth.corpus.generate import generate
from mesynth.corpus.plan import PlanConfig
from mesynth.generators.base import Generator
from mesynth.generators.registry import find_model
from mesynth.motion.prior import NAME
from mesynth.store.generator_folder import CARD, SHIPPED, has_property, makes_frames, read_facts, shipped_models
from mesynth.training.checkpoint import open_initial
from mesynth.training.config import load_recipe
from mesynth.training.data.rendered import TRAIN_SEEDS, person_key

ROOT = Path(__file__).parents[2]
MODELS = shipped_models()
MOTION = [name for name in MODELS if read_facts(SHIPPED / name).name.startswith("motion_")]
FLOWS = [name for name in MODELS if not makes_frames(read_facts(SHIPPED / name).name)]
REQUESTS = ("12=0.5", "4=0.5", "L1=0.4,L2=0.4", "9=0.5", "15=0.5")


@cache
def person(seed: int) -> Person:
    return Person(BENCHMARK_SEEDS.stop - 1 - seed, 96)


@cache
def generator(name: str) -> Generator:
    return find_model(name).load()


def apex(name: str, who: Person, request: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Apex frame [H,W,3] and flow [2,H,W]."""
    asked = facs.parse_request(request)
    sample, _ = generator(name).generate(who.face, asked, Profile(apex=0.5), n_frames=3, fps=100, seed=seed)
    return sample.clip.frames[sample.clip.apex], sample.flow.uv


def test_a_generator_of_each_kind_ships() -> None:
    assert "motion_gan" in MOTION
    assert FLOWS


@pytest.mark.parametrize("name", MODELS)
def test_small_and_learned_from_nobody_it_is_compared_on(name: str) -> None:
    folder = SHIPPED / name
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 30 * 2**20
    facts = read_facts(folder)
    assert set(facts.subjects_seen) <= {person_key(seed) for seed in TRAIN_SEEDS}
    assert facts.licences


@pytest.mark.parametrize("name", MODELS)
def test_the_card_names_the_recipe_that_made_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    card = (SHIPPED / name / CARD).read_text()
    ((file, settings),) = re.findall(r"^mesynth train (\S+\.yaml)((?: [\w.]+=\S+)*) --out", card, re.MULTILINE)
    monkeypatch.chdir(ROOT)
    recipe = load_recipe(file, settings.split())
    start = open_initial(recipe)
    assert recipe.hash(start.sha256 if start else "") == read_facts(SHIPPED / name).config_hash
    assert "rendered people that nothing learned from" in card


@pytest.mark.parametrize("name", MOTION)
def test_asking_for_nothing_returns_the_face(name: str) -> None:
    frames, flow = apex(name, person(0), "12=0")
    assert np.array_equal(frames, person(0).face.image)
    assert np.abs(flow).max() < 0.01  # estimated, where it is


@pytest.mark.parametrize("name", MOTION)
def test_its_motion_is_nearer_to_the_truth_than_the_priors(name: str) -> None:
    drawn = has_property(read_facts(SHIPPED / name).name, "diffusion")
    # A draw is one of the ways in which people's muscles pull, not their mean; as it ships they lie further apart.
    learned = f"{name}@spread=1" if drawn else name
    errors: dict[str, list[float]] = {learned: [], NAME: [], "zero": []} | ({name: []} if drawn else {})
    for who in (person(0), person(1)):
        for request in REQUESTS:
            exact = who.inner_flow(who.exact(facs.parse_request(request)).uv)
            for key in errors:
                seeds = range(4 if drawn and key == name else 1)
                made = [exact * 0 if key == "zero" else who.inner_flow(apex(key, who, request, s)[1]) for s in seeds]
                flow = np.mean(made, axis=0)
                errors[key].append(float(np.linalg.norm(flow - exact, axis=0).mean()))
    own, prior, zero = (np.mean(errors[key]) for key in (learned, NAME, "zero"))
    most = (0.9 if drawn else 0.8) * prior
    assert own < most
    assert own < 0.5 * zero
    assert np.mean(errors[name]) < most
    assert np.mean(errors[name]) < 0.5 * zero


@pytest.mark.parametrize("name", MOTION)
def test_its_motion_does_not_fold_at_the_intensities_of_micro_expressions(name: str) -> None:
    for code in facs.AU_CODES:
        asked = facs.parse_request(f"{code}=0.4")
        _, warnings = generator(name).generate(person(0).face, asked, Profile(), n_frames=3, fps=100)
        assert not [text for text in warnings if "fold" in text], code


@pytest.mark.parametrize("name", FLOWS)
def test_asking_it_for_frames_is_refused_before_a_folder_is_claimed(name: str, tmp_path: Path) -> None:
    config = PlanConfig(au=("12=C",), count=1, size=64)
    with pytest.raises(MesynthError, match="flow images only, no frames; use --kind flow"):
        generate(tmp_path / "photo.png", config, tmp_path / "out", model=name)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", FLOWS)
def test_its_flow_images_are_nearer_to_the_truth_than_the_priors(name: str) -> None:
    made: Any = generator(name)
    asked = [facs.parse_request(request) for request in REQUESTS]
    drawn = [flow.uv for flow in made.flows(seeds=range(len(asked)), aus=asked, size=person(0).size)]
    errors: dict[str, list[float]] = {"own": [], "prior": []}
    for who in (person(0), person(1)):
        for request, aus, uv in zip(REQUESTS, asked, drawn, strict=True):
            exact = who.inner_flow(who.exact(aus).uv)
            for key, flow in (("own", uv), ("prior", who.inner_flow(apex(NAME, who, request)[1]))):
                errors[key].append(float(np.linalg.norm(flow - exact, axis=0).mean()))
    assert np.mean(errors["own"]) < 0.8 * np.mean(errors["prior"])
