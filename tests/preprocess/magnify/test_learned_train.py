"""Training: exact triples, exact resumption, Ctrl-C, and mistakes in the recipe."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from mesynth.config import load_recipe
from mesynth.core.errors import ConfigError, RunFolderError
from mesynth.core.seeds import stream
from mesynth.preprocess.magnify.classical import displacement_slope
from mesynth.preprocess.magnify.learned import LearnedMagnifier, net_tensors
from mesynth.preprocess.magnify.learned_train import (
    MagnifierConfig,
    Training,
    TripleConfig,
    draw_triples,
    face_pictures,
    fit,
    main,
    photographs,
    schedule,
    train,
)
from mesynth.store.stage import Interrupted
from tests.devices import DEVICES

RECIPE = Path(__file__).parents[3] / "configs" / "preprocess" / "magnifier.yaml"
SMALL = TripleConfig(people=1, held_out=1, looks=1, size=64, patch=32)
CONFIG = MagnifierConfig(triples=SMALL, width=4, blocks=1, steps=6, batch=2)


def pictures(size: int = 64) -> torch.Tensor:
    return torch.from_numpy(photographs(("coffee",), size)).permute(0, 3, 1, 2).float() / 255


def test_the_truth_shows_the_flow_times_the_factor() -> None:
    config = TripleConfig(size=160, patch=128, noise=0.0, min_motion=0.5)
    triple = draw_triples(pictures(160), np.array([0, 1, 2, 3] * 2), stream(0, "test"), config)
    assert (triple.flow.square().sum(1).amax((1, 2)).sqrt() <= config.max_motion + 1e-4).all()
    scaled = triple.flow * triple.factor.view(-1, 1, 1, 1)
    assert displacement_slope(triple.onset, triple.frame, triple.flow) == pytest.approx(0.93, abs=0.1)
    assert displacement_slope(triple.onset, triple.truth, scaled) == pytest.approx(0.96, abs=0.06)


@pytest.mark.parametrize("device", DEVICES)
def test_triples_depend_on_the_stream_alone(device: str) -> None:
    index = np.array([0, 1])
    there = draw_triples(pictures().to(device), index, stream(3, "test"), SMALL)
    here = draw_triples(pictures(), index, stream(3, "test"), SMALL)
    for a, b in zip(there, here, strict=True):
        assert a.device.type == device
        assert torch.allclose(a.cpu(), b, atol=1e-3)


def test_stopping_and_going_on_changes_nothing(tmp_path: Path) -> None:
    whole = Training(CONFIG, pictures(), 2)
    for _ in range(6):
        whole.advance()
    first = Training(CONFIG, pictures(), 2)
    for _ in range(3):
        first.advance()
    first.save(tmp_path / "state")
    second = Training(CONFIG, pictures(), 2)
    second.restore(tmp_path / "state")
    assert second.step == 3
    for _ in range(3):
        second.advance()
    for name, value in net_tensors(whole.net).items():
        assert torch.equal(value, net_tensors(second.net)[name]), name


def test_ctrl_c_leaves_a_checkpoint_and_the_same_call_goes_on(tmp_path: Path) -> None:
    training = Training(CONFIG, pictures(), 2)
    advance = training.advance

    def interrupted() -> None:
        advance()
        if training.step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    training.advance = interrupted  # type: ignore[method-assign]
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match="stopped at step 2 of 6; the same command goes on"):
        fit(training, tmp_path / "state", progress=False)
    assert signal.getsignal(signal.SIGINT) is handler
    again = Training(CONFIG, pictures(), 2)
    fit(again, tmp_path / "state", progress=False)
    assert again.step == 6
    whole = Training(CONFIG, pictures(), 2)
    fit(whole, tmp_path / "other", progress=False)
    for name, value in net_tensors(whole.net).items():
        assert torch.equal(value, net_tensors(again.net)[name]), name


def test_it_learns() -> None:
    triples = TripleConfig(size=64, patch=32, min_motion=0.4, min_factor=3.0, max_factor=8.0, noise=0.0)
    seen = pictures()
    unseen = draw_triples(seen, np.arange(16) % 4, stream(9, "test"), triples)
    training = Training(MagnifierConfig(triples=triples, width=8, blocks=1, steps=100, batch=4, lr=6e-3), seen, 2)

    def error() -> float:
        with torch.no_grad():
            made = training.net(unseen.onset, unseen.frame, unseen.factor)
        return float((made - unseen.truth).abs().mean())

    before = error()
    for _ in range(100):
        training.advance()
    assert error() < 0.9 * before


def test_a_run_writes_weights_and_card_and_refuses_another(tmp_path: Path) -> None:
    made = train(CONFIG, tmp_path / "run", progress=False)
    again = LearnedMagnifier.load(tmp_path / "run" / "magnifier.safetensors")
    assert again.meta == made.meta
    card = (tmp_path / "run" / "magnifier.md").read_text()
    assert made.meta.weights_sha256 in card
    assert "| 0.5 | 4 |" in card
    assert train(CONFIG, tmp_path / "run", progress=False).meta == made.meta  # nothing is left to do
    with pytest.raises(RunFolderError):
        train(MagnifierConfig(triples=SMALL, width=4, blocks=1, steps=7, batch=2), tmp_path / "run", progress=False)
    (tmp_path / "run" / "state.safetensors").write_bytes(b"junk")
    with pytest.raises(RunFolderError, match="remove it to start anew"):
        train(CONFIG, tmp_path / "run", progress=False)


def test_people_are_shared_by_nobody_and_drawn_by_their_seed() -> None:
    assert not set(SMALL.train_people()) & set(SMALL.held_out_people())
    assert np.array_equal(face_pictures(SMALL.train_people(), 2, 48), face_pictures(SMALL.train_people(), 2, 48))


def test_the_rate_warms_up_and_ends_at_nothing() -> None:
    values = [schedule(i / 100) for i in range(101)]
    assert 0 < values[0] < 0.05
    assert max(values) == pytest.approx(1, abs=0.01)
    assert values[-1] == pytest.approx(0, abs=1e-6)


def test_the_recipe_is_the_shipped_one_and_mistakes_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert load_recipe(MagnifierConfig, RECIPE, ["steps=2"])[0].steps == 2
    shipped = LearnedMagnifier.load().meta
    wanted = tmp_path / "shipped.yaml"
    wanted.write_text(shipped.config)
    assert load_recipe(MagnifierConfig, wanted)[0] == load_recipe(MagnifierConfig, RECIPE)[0]
    for override in ("step=2", "triples.patch=33", "triples.min_motion=3", "triples.max_factor=1", "lr=0", "batch=0"):
        with pytest.raises(ConfigError):
            load_recipe(MagnifierConfig, RECIPE, [override])
    with pytest.raises(ConfigError, match=r"none\.yaml cannot be read"):
        load_recipe(MagnifierConfig, tmp_path / "none.yaml")
    assert main([str(RECIPE), "widht=3", "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
