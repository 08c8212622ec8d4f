"""The table of families, and one that a package outside adds: trained, saved, generated with, checked for leaks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
from click.testing import CliRunner
from skimage import data

from mesynth.cli import main
from mesynth.core.errors import ConfigError, LeakError
from mesynth.generators import register_family
from mesynth.generators.base import Generator
from mesynth.generators.registry import find_model
from mesynth.store.generator_folder import (
    FAMILIES,
    INDEX,
    PipelineError,
    has_property,
    makes_frames,
    read_facts,
    trained_family,
)
from mesynth.store.manifest import Manifest
from mesynth.training.config import load_recipe
from mesynth.training.train import Machine, train
from tests.training import small_manifest

THEIRS = '''
"""A package of somebody else's: the motion GAN under a name of its own."""

from mesynth.generators.motion_gan.config import Config
from mesynth.generators.motion_gan.network import MotionGenerator
from mesynth.generators.motion_gan.network import MotionGAN
from mesynth.generators.motion_gan.task import MotionGANTask
from mesynth.store.generator_folder import Family
from mesynth.store.generator_folder import load_sized_network


class Task(MotionGANTask):
    name = "theirs"


class Theirs(MotionGAN):
    family = "theirs"


def load(folder, facts):
    return Theirs(load_sized_network(MotionGenerator, folder / "generator", facts), facts)


FAMILY = Family(pipeline=load, task=Task, config=Config)
'''
RECIPE = """task: theirs
model: {width: 4, template: 8, blocks: 1, residual: false}
loss: {epe: 1, l1: 1}
data: {source: manifest, size: 32, frames: 3, manifests: ['%s']}
run: {images: 8, batch: 4, validation: 4, sheet: 0, patience: 0, prefetch: 0}
"""


def test_every_family_that_ships_is_whole() -> None:
    for name in FAMILIES.shipped():
        family = trained_family(name)
        assert family.config_class.__module__ == f"mesynth.generators.{name}.config"
        assert callable(family.source.open)
        assert makes_frames(name) == (name != "flow_gan")
        if family.mean_network:
            assert family.mean_network_class.__module__ == f"mesynth.generators.{name}.network"
    assert {n for n in FAMILIES.shipped() if has_property(n, "paints_frames")} == {"au_icgan", "ice_gan"}
    assert makes_frames("motion-prior")
    assert not has_property("motion-prior", "diffusion")


def test_configurations_are_read_without_torch() -> None:
    code = (
        "import sys; from mesynth.store.generator_folder import FAMILIES; import mesynth.training.config\n"
        "for name in FAMILIES.shipped(): FAMILIES[name].config_class()\n"
        "assert 'torch' not in sys.modules and 'diffusers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_what_ships_cannot_be_replaced_and_what_has_no_task_cannot_be_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FAMILIES, "_added", {})
    with pytest.raises(ConfigError, match="motion_gan"):
        register_family("motion_gan")(lambda folder, facts: None)
    register_family("bare")(lambda folder, facts: None)
    with pytest.raises(ConfigError, match="bare"):
        trained_family("bare")


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package with an entry point, for one test."""
    site = tmp_path / "site"
    (site / "theirs-1.0.dist-info").mkdir(parents=True)
    (site / "mesynth_theirs.py").write_text(THEIRS)
    (site / "theirs-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (site / "theirs-1.0.dist-info" / "entry_points.txt").write_text(
        "[mesynth.generators]\ntheirs = mesynth_theirs:FAMILY\n"
    )
    monkeypatch.syspath_prepend(site)
    monkeypatch.setattr(FAMILIES, "_declared", None)
    monkeypatch.setattr(FAMILIES, "_loaded", {})
    return site


def test_a_family_of_another_package_is_trained_saved_and_generated_with(theirs: Path, tmp_path: Path) -> None:
    small_manifest.write(tmp_path / "clips", small_manifest.jobs("a/1", "a/2", "a/3"))
    (tmp_path / "theirs.yaml").write_text(RECIPE % (tmp_path / "clips"))
    recipe, machine = load_recipe(tmp_path / "theirs.yaml"), Machine(device="cpu", cache=tmp_path / "cache")
    made = train(recipe, tmp_path / "run", exclude_subjects=["a/1"], machine=machine)
    facts = read_facts(made.folder / "generator")
    assert facts.name == "theirs"
    assert facts.subjects_seen == made.subjects_seen
    model = find_model(str(tmp_path / "run"))
    assert isinstance(model.load(), Generator)
    again = load_recipe(tmp_path / "theirs.yaml", [f"run.start={tmp_path / 'run'}"])
    with pytest.raises(LeakError, match=facts.subjects_seen[0]):
        train(again, tmp_path / "leak", exclude_subjects=[facts.subjects_seen[0]], machine=machine)

    cv2.imwrite(str(tmp_path / "photo.png"), data.astronaut()[..., ::-1])
    words = ["generate", "--faces", tmp_path / "photo.png", "--au", "12=0.3", "--count", 1, "--model", tmp_path / "run",
             "--fps", 50, "--workers", 1, "--out", tmp_path / "corpus"]  # fmt: skip
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    (row,) = Manifest.read(tmp_path / "corpus")
    assert row.provenance.generator == "theirs"
    assert set(facts.subjects_seen) <= set(row.provenance.subjects_seen)


def test_a_folder_names_its_class_through_the_table_alone(theirs: Path, tmp_path: Path) -> None:
    small_manifest.write(tmp_path / "clips", small_manifest.jobs("a/1", "a/2"))
    (tmp_path / "theirs.yaml").write_text(RECIPE % (tmp_path / "clips"))
    train(load_recipe(tmp_path / "theirs.yaml"), tmp_path / "run", machine=Machine(device="cpu", cache=tmp_path / "c"))
    index = tmp_path / "run" / "generator" / INDEX
    values = json.loads(index.read_text())
    values["family"] = values["facts"]["name"] = "mesynth_theirs:FAMILY"
    index.write_text(json.dumps(values))
    with pytest.raises(PipelineError, match="mesynth_theirs:FAMILY"):
        find_model(str(tmp_path / "run"))
