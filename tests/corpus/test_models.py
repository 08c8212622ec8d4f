"""Generators by name, and what a corpus says about the one that made it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from mesynth.core.errors import MesynthError
from mesynth.corpus.faces import find_faces
from mesynth.corpus.generate import Preview, generate
from mesynth.corpus.plan import PlanConfig
from mesynth.datasets.rendered import render_faces
from mesynth.generators.registry import PriorGenerator, find_model
from mesynth.store.generator_folder import GeneratorFacts, PipelineError, save_pipeline, shipped_models
from mesynth.store.shards import read_flow, read_frames

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
