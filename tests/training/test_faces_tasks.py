"""What each task makes of faces without clips, in batches made by hand and in a short run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mesynth.core.errors import ConfigError
from mesynth.generators.au_icgan import config as au_icgan
from mesynth.generators.au_icgan.task import AUICGANTask
from mesynth.generators.flow_gan import config as flow_gan
from mesynth.generators.flow_gan.task import FlowGANTask
from mesynth.generators.ice_gan import config as ice_gan
from mesynth.generators.ice_gan.task import ICEGANTask
from mesynth.generators.motion_gan import config as motion_gan
from mesynth.generators.motion_gan.task import MotionGANTask
from mesynth.training.config import load_recipe
from mesynth.training.data.batches import Batch
from mesynth.training.forecast import forecast
from mesynth.training.loop import build_task
from mesynth.training.record import read_metrics
from mesynth.training.task import Task
from mesynth.training.train import Machine, train
from tests.training import small_manifest
from tests.training.gan_checks import labelled, losses, measured
from tests.training.rendered import PlainUpdater, rendered_batch
from tests.training.test_faces import FACES, PEOPLE, face

SIZE, ALONE = 32, slice(2, 4)
ROOT = Path(__file__).parents[2]


def motion(**loss: float) -> Task:
    torch.manual_seed(0)
    model = motion_gan.ModelConfig(width=4, template=8, blocks=1, discriminator=4, reader=4)
    weights = {"adversarial": 0.1, "au_head": 0.1, "au": 0.1, "leakage": 0.1, "rank": 0.1, "teacher": 1.0, "r1": 0.0}
    return MotionGANTask(motion_gan.Config(model=model, loss=motion_gan.LossConfig(**(weights | loss))), SIZE)


def icgan(**loss: float) -> Task:
    torch.manual_seed(0)
    model = au_icgan.ModelConfig(width=8, blocks=1, critic_width=8, critic_layers=3)
    return AUICGANTask(au_icgan.Config(model=model, loss=au_icgan.LossConfig(**loss)), SIZE)


def ice(**loss: float) -> Task:
    torch.manual_seed(0)
    model = ice_gan.ModelConfig(width=8, embedding=16, noise=4, critic_width=8, hidden=16, rebuilt=8)
    return ICEGANTask(ice_gan.Config(model=model, loss=ice_gan.LossConfig(**loss)), SIZE)


@pytest.fixture(scope="module")
def batch() -> Batch:
    """Two pairs and two faces."""
    whole = labelled(rendered_batch([1, 2], 2, SIZE, codes=(4, 12)))
    columns = {name: getattr(whole, name).clone() for name in ("frame", "flow", "valid", "has_flow", "aus", "known")}
    for name in ("flow", "valid", "has_flow", "aus", "known"):
        columns[name][ALONE] = 0
    columns["frame"][ALONE] = whole.onset[ALONE]
    label = whole.label.clone()
    label[ALONE] = -1
    return replace(whole, **columns, label=label)


def other_frames(batch: Batch, rows: slice) -> Batch:
    """Other pictures where ``rows`` have their frames."""
    frame = batch.frame.clone()
    frame[rows] = 1 - frame[rows]
    return replace(batch, frame=frame)


def other_onsets(batch: Batch, rows: slice) -> Batch:
    onset = batch.onset.clone()
    onset[rows] = onset[rows].flip(-2)
    return replace(batch, onset=onset)


def test_faces_are_told_from_pairs(batch: Batch) -> None:
    assert batch.paired.tolist() == [True, True, False, False]


@pytest.mark.parametrize(
    ("make", "judged"),
    [(motion, True), (lambda: icgan(adversarial=0), False), (ice, True)],
    ids=["motion", "au", "ice"],
)
def test_no_loss_reads_the_frame_of_a_face(make: object, judged: bool, batch: Batch) -> None:
    """Of any network; while the frames of pairs count for every network, and the faces themselves for the generator."""
    before = losses(make(), batch)  # type: ignore[operator]
    assert losses(make(), other_frames(batch, ALONE)) == before  # type: ignore[operator]
    pairs = losses(make(), other_frames(batch, slice(0, 2)))  # type: ignore[operator]
    assert all(pairs[name] != before[name] for name in before)
    faces = losses(make(), other_onsets(batch, ALONE))  # type: ignore[operator]
    assert faces["generator"] != before["generator"]
    assert ("discriminator" in before) is judged


def test_the_realism_critic_sees_real_faces_without_clips(batch: Batch) -> None:
    """It asks whether a picture is real, not what it shows: a face is as good as a frame."""
    before = losses(icgan(), batch)
    seen = losses(icgan(), other_frames(batch, ALONE))
    assert seen["realism"] != before["realism"]
    assert seen["intensity"] == before["intensity"]
    assert seen["generator"] == before["generator"]


def test_faces_are_asked_for_action_units(batch: Batch) -> None:
    """The AU loss of the generator has something to say about them, and what it says depends on the pair's seed."""
    reseeded = replace(batch, seeds=batch.seeds + 7)
    for make in (icgan, ice):
        only = {"adversarial": 0.0, "pixel": 1e-3} | ({"cycle": 0.0} if make is icgan else {"identity": 0.0})
        assert losses(make(**only), batch)["generator"] != losses(make(**only), reseeded)["generator"]


def test_a_frame_whose_class_alone_is_known_is_a_pair_for_classes(batch: Batch) -> None:
    told = replace(batch, label=torch.zeros(4, dtype=torch.int64))
    assert losses(ice(), other_frames(told, ALONE))["generator"] != losses(ice(), told)["generator"]


@pytest.mark.parametrize("make", [motion, icgan, ice])
def test_measures_against_frames_leave_faces_out(make: object, batch: Batch) -> None:
    task: Task = make()  # type: ignore[operator]
    both = measured(task, batch)
    pairs = measured(task, batch.rows(batch.paired.nonzero()[:, 0].numpy()))
    for name in ("epe", "psnr", "error", "clip_error", "real_change"):
        assert (name in both) == (name in pairs)
        if name in both:
            assert both[name] == pytest.approx(pairs[name], rel=1e-5), name


def test_training_on_faces_follows_the_teacher(batch: Batch) -> None:
    """Where there is no pair at all, motion comes from the motion prior."""
    alone = batch.rows(torch.arange(2, 4).numpy())
    task = motion(epe=0, l1=0, adversarial=0, au_head=0, au=0, leakage=0, rank=0, fold=0, teacher=5)
    torch.nn.init.zeros_(task.networks["generator"].canonical)  # type: ignore[arg-type]
    updater = PlainUpdater({"generator": torch.optim.Adam(task.networks["generator"].parameters(), 3e-3)})
    log = [float(task.step(alone, 2 * i, updater)["teacher"]) for i in range(30)]
    assert log[-1] < 0.5 * log[0]


# ---------------------------------------------------------------- what a task refuses


def test_tasks_say_what_they_cannot_learn_from_faces() -> None:
    motion().check_faces(alone=False)
    teacher = {"adversarial": 0.0, "au_head": 0.0, "au": 0.0, "leakage": 0.0, "rank": 0.0}
    motion(**teacher).check_faces(alone=True)
    icgan().check_faces(alone=False)
    ice().check_faces(alone=False)
    for task, alone, says in (
        (
            motion(),
            True,
            "loss.adversarial=0.1 has nothing real to learn from.*or set loss.adversarial=0 loss.au_head=0",
        ),
        (motion(**(teacher | {"au": 0.5})), True, "loss.au=0.5 has nothing real"),
        (motion(**(teacher | {"teacher": 0.0})), False, "no loss looks at a face alone; set for example loss.teacher"),
        (icgan(), True, "au_icgan has nothing real to learn AUs from"),
        (icgan(adversarial=0, au=0, cycle=0), False, "no loss looks at a face alone"),
        (ice(), True, "ice_gan has nothing real to discriminate"),
        (FlowGANTask(flow_gan.Config(), SIZE), False, "flow_gan learns nothing from faces without clips"),
    ):
        with pytest.raises(ConfigError, match=says) as error:
            task.check_faces(alone=alone)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["flow_gan_tiny", "motion_epe"])
def test_a_recipe_that_cannot_use_faces_is_refused_before_anything_is_written(name: str, tmp_path: Path) -> None:
    file = ROOT / "configs" / "gan" / f"{name}.yaml"
    if name == "motion_epe":
        file = tmp_path / "recipe.yaml"
        file.write_text("task: motion_gan\nloss: {epe: 1, l1: 1}\ndata: {size: 32}\n")
    recipe = load_recipe(file, ["data.faces=[faces]"])
    for refused in (lambda: build_task(recipe), lambda: forecast(recipe)):
        with pytest.raises(ConfigError, match=r"data\.faces"):
            refused()
    with pytest.raises(ConfigError, match=r"data\.faces"):
        train(recipe, tmp_path / "run", machine=Machine(device="cpu", cache=tmp_path / "cache"))
    assert not {"run", "cache"} & {path.name for path in tmp_path.iterdir()}


# ---------------------------------------------------------------- a short run


@pytest.mark.parametrize(("name", "settings"), [("motion", ["loss.teacher=5"]), ("au_icgan", []), ("ice_gan", [])])
def test_a_short_run_on_a_mixed_set(name: str, settings: list[str], tmp_path: Path) -> None:
    small_manifest.write(tmp_path / "clips", small_manifest.jobs(*PEOPLE))
    small_manifest.write(tmp_path / "faces", [face(subject, i) for i, subject in enumerate(FACES)])
    text = (ROOT / "configs" / "gan" / f"{name}_tiny.yaml").read_text()
    kept = text[: text.index("data:")] + (
        f"data: {{kind: manifest, size: {SIZE}, frames: 3, manifests: ['{tmp_path / 'clips'}'], "
        f"faces: ['{tmp_path / 'faces'}'], faces_share: 0.25}}\n"
        "run: {images: 64, batch: 8, log_images: 32, validate_images: 32, validation: 6, sheet: 4, patience: 0}\n"
    )
    (tmp_path / "recipe.yaml").write_text(kept)
    recipe = load_recipe(tmp_path / "recipe.yaml", settings)
    done = train(recipe, tmp_path / "run", machine=Machine(device="cpu", cache=tmp_path / "cache"))
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert {"c/1", "c/2", "c/3", "c/4"} & set(done.subjects_seen)
    assert not set(record["subjects_seen"]) & set(record["subjects_validated"])
    told = [line for line in read_metrics(tmp_path / "run") if line["kind"] == "train"]
    assert all(value is not None for value in told[-1]["losses"].values())
    assert ("teacher" in told[-1]["losses"]) is (name == "motion")
    assert load_recipe(tmp_path / "run" / "recipe.yaml").hash() == recipe.hash()


# ---------------------------------------------------------------- compiled networks


@pytest.mark.slow
@pytest.mark.parametrize("name", ["motion", "au_icgan"])
def test_gradient_penalties_work_on_compiled_networks(name: str, batch: Batch) -> None:
    """What is compiled cannot be differentiated twice; the penalty goes round it and is the same."""
    penalised = {"motion": "discriminator", "au_icgan": "realism"}[name]
    make = (lambda: motion(r1=0.5, au=0, leakage=0, rank=0)) if name == "motion" else (lambda: icgan(au=0))
    # A sixteenth of the pairs is drawn for R1: here all four are.
    seed = next(s for s in range(200) if float(replace(batch, seeds=np.full(4, s)).rand("r1", 1)[0]) < 1 / 16)
    drawn = replace(batch, seeds=np.full(4, seed))
    logs = []
    for compiled in (False, True):
        task = make()
        if compiled:
            task.networks[penalised].compile(backend="aot_eager")
        logs.append(task.step(drawn, 0, PlainUpdater(task.optimisers())))
    for key, value in logs[0].items():
        assert float(logs[1][key]) == pytest.approx(float(value), rel=1e-3, abs=1e-5), key
