"""Diffusion around a motion GAN that was trained before."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mesynth.core.errors import ConfigError, LeakError
from mesynth.generators.motion_diffusion.config import LossConfig
from mesynth.generators.motion_gan.network import MotionGenerator
from mesynth.store.generator_folder import read_facts, save_pipeline
from mesynth.training.checkpoint import InitialWeights
from mesynth.training.config import load_recipe
from mesynth.training.train import Machine, train
from tests.generators.gan_facts import facts as plain_facts
from tests.training.gan_checks import facts
from tests.training.rendered import PlainUpdater, rendered_batch
from tests.training.test_motion_diffusion import SIZE, SMALL, task_of


def saved(folder: Path, family: str = "motion_gan", width: int = 8) -> InitialWeights:
    torch.manual_seed(1)
    network = MotionGenerator(size=SIZE, width=width, blocks=2, residual=False)
    save_pipeline(folder, {"generator": network}, plain_facts(family), "", size=SIZE)
    return InitialWeights(str(folder), folder, read_facts(folder))


def test_what_is_expected_begins_as_the_motion_gan_and_stays_so(tmp_path: Path) -> None:
    start = saved(tmp_path / "gan")
    task = task_of(replace(SMALL, mean_blocks=2), LossConfig(mean=0))
    start.load_into(task)
    regression = task.networks["generator"].regression
    torch.manual_seed(1)
    want = MotionGenerator(size=SIZE, width=8, blocks=2, residual=False).state_dict()
    assert all(torch.equal(regression.state_dict()[key], value) for key, value in want.items())
    updater = PlainUpdater(task.optimisers())
    before = task.networks["generator"].unet.conv_in.weight.clone()
    task.step(rendered_batch([1], 2, SIZE, codes=(4, 12)), 0, updater)
    assert all(torch.equal(regression.state_dict()[key], value) for key, value in want.items())
    task.step(rendered_batch([1], 2, SIZE, codes=(4, 12)), 2, updater)
    assert not torch.equal(task.networks["generator"].unet.conv_in.weight, before)


def test_another_architecture_or_family_is_refused_in_one_line(tmp_path: Path) -> None:
    task = task_of(replace(SMALL, mean_blocks=2))
    with pytest.raises(ConfigError, match="width is 8 here and 12 there"):
        saved(tmp_path / "wide", width=12).load_into(task)
    with pytest.raises(ConfigError, match="holds weights of au_icgan; this recipe trains motion_diffusion"):
        saved(tmp_path / "painter", family="au_icgan").load_into(task)


def test_a_teacher_that_saw_a_held_out_subject_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    teacher = task_of()
    seen = replace(facts("motion_diffusion", SIZE), subjects_seen=("a/1", "a/2"))
    teacher.save(teacher.networks, tmp_path / "teacher", seen)
    recipe = tmp_path / "student.yaml"
    recipe.write_text(
        "task: motion_diffusion\n"
        "model: {widths: [8, 16], dim: 16, expect: 8, steps: 2, solver: few}\n"
        f"distil: {{teacher: {tmp_path / 'teacher'}}}\n"
        f"data: {{kind: manifest, size: {SIZE}, manifests: [{tmp_path / 'clips'}]}}\n"
    )
    with pytest.raises(LeakError, match=r"distil\.teacher has learned from a/2, who must not be seen"):
        train(load_recipe(recipe), tmp_path / "run", exclude_subjects=["a/2"], machine=Machine(device="cpu"))
    assert not (tmp_path / "run").exists()
