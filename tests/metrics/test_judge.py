"""The AU judge: stillness is silence, people it never met are read better than by guessing, and its recipe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mesynth.config import load_recipe
from mesynth.core.errors import ConfigError, RunFolderError, WeightsUnavailable
from mesynth.core.facs import AU_CODES, AU_INDEX, parse_request
from mesynth.head import Subject, head_motion
from mesynth.metrics.control import control, intensity_sweep
from mesynth.metrics.judge_train import (
    JUDGE_SEEDS,
    JudgeConfig,
    PairConfig,
    draw_aus,
    head_sha256,
    main,
    render_pairs,
    ridge_weights,
    styled,
    train,
)
from mesynth.metrics.networks.judge import GRID, TRUSTED_ICC, AUJudge, mirrored
from mesynth.store.weights import tensors_sha256

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "configs" / "quality" / "judge.yaml"


@pytest.fixture(scope="module")
def judge() -> AUJudge:
    return AUJudge.load()


def test_no_motion_is_silent(judge: AUJudge) -> None:
    subject = Subject(5, size=96)
    frame = subject.render(np.zeros((1, 25, 2), np.float32))
    assert judge.intensity(np.concatenate([frame, frame]), subject.landmarks()).max() < 1e-3
    assert judge.read(np.zeros((1, 3, GRID, GRID), np.float32)).max() == 0


def test_head_motion_and_noise_are_nearly_silent(judge: AUJudge) -> None:
    loud = []
    for seed in (5, 6, 7):
        subject = Subject(seed, size=96)
        pose = head_motion(12, np.random.default_rng(seed), fps=30.0)
        frames = subject.render(np.zeros((12, 25, 2), np.float32), pose, noise_seed=1)
        loud.append(5 * judge.intensity(frames, subject.landmarks())[:, [AU_INDEX[c] for c in judge.trusted]])
    assert np.mean(loud) < 0.15  # on the 0-5 scale


def test_people_it_never_met_are_read_better_than_by_the_mean(judge: AUJudge) -> None:
    rng = np.random.default_rng(0)
    asked, judged = [], []
    for seed in range(40, 50):
        subject = Subject(seed)
        assert seed not in judge.meta.subjects_seen
        aus = np.stack([np.zeros((25, 2), np.float32), *(draw_aus(rng, PairConfig()) for _ in range(8))])
        asked.append(aus[1:])
        judged.append(judge.intensity(subject.render(aus, noise_seed=seed), subject.landmarks()))
    found = control(np.concatenate(asked), np.concatenate(judged), judge.trusted)
    assert found.pooled.mae < 0.5 * found.mean_mae
    assert found.pooled.icc is not None
    assert found.pooled.icc > 0.8
    assert found.pooled.slope == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("request_text", ["L12=D", "R4=D"])
def test_sides_are_told_apart(judge: AUJudge, request_text: str) -> None:
    subject = Subject(8)
    aus = np.stack([np.zeros((25, 2), np.float32), parse_request(request_text).intensity])
    read = judge.intensity(subject.render(aus), subject.landmarks())[0]
    code, side = int(request_text[1:].split("=")[0]), "LR".index(request_text[0])
    assert read[AU_INDEX[code], side] > 0.4
    assert read[AU_INDEX[code], 1 - side] < 0.5 * read[AU_INDEX[code], side]


def test_intensity_sweep_of_the_renderer_is_ranked(judge: AUJudge) -> None:
    subject = Subject(9)
    still = np.zeros((25, 2), np.float32)
    found = intensity_sweep(
        lambda aus: subject.render(np.stack([still, aus])),
        lambda frames: judge.intensity(frames, subject.landmarks())[0],
        (4, 12),
    )
    assert min(spearman for spearman, _ in found.values()) > 0.95


def test_card_and_metadata_tell_the_truth(judge: AUJudge) -> None:
    folder = ROOT / "mesynth" / "metrics" / "networks" / "data"
    assert (folder / "judge.safetensors").stat().st_size < 2_000_000
    card = (folder / "judge.md").read_text()
    assert judge.meta.weights_sha256 in card
    assert "no human coder" in card
    assert set(judge.meta.subjects_seen) <= set(JUDGE_SEEDS)
    assert set(judge.meta.figures) == set(AU_CODES)
    assert {12, 4, 1, 9} <= set(judge.trusted)
    assert all(judge.meta.figures[code].icc >= TRUSTED_ICC for code in judge.trusted)
    from mesynth.metrics.networks.judge import judge_tensors

    assert tensors_sha256(judge_tensors(judge._net, judge._scale)) == judge.meta.weights_sha256


def test_a_missing_or_foreign_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsUnavailable, match="judge_train"):
        AUJudge.load(tmp_path / "none.safetensors")
    junk = tmp_path / "junk.safetensors"
    junk.write_bytes(b"junk" * 10)
    with pytest.raises(WeightsUnavailable, match=r"AU judge.*no file of it"):
        AUJudge.load(junk)


# ---------------------------------------------------------------- training


def test_the_splits_share_nobody_and_pairs_depend_on_the_seed_alone() -> None:
    config = PairConfig(train=2, validation=1, test=1, pairs=3, size=64)
    people = [set(config.people(s)) for s in ("train", "validation", "test")]
    assert len(set.union(*people)) == sum(map(len, people))
    first, again = render_pairs(JUDGE_SEEDS[0], config), render_pairs(JUDGE_SEEDS[0], config)
    assert np.array_equal(first.observed, again.observed)
    assert np.array_equal(first.aus, again.aus)
    assert first.observed.shape == (3, 3, GRID, GRID)


def test_mirroring_twice_is_nothing_and_turns_x() -> None:
    observed = np.random.default_rng(0).standard_normal((2, 3, GRID, GRID)).astype(np.float32)
    assert np.array_equal(mirrored(mirrored(observed)), observed)
    assert np.array_equal(mirrored(observed)[:, 0], -observed[:, 0, :, ::-1])
    assert np.array_equal(mirrored(observed)[:, 1], observed[:, 1, :, ::-1])


def test_ridge_recovers_a_linear_map() -> None:
    rng = np.random.default_rng(0)
    truth, x = rng.standard_normal((3, 6)), rng.standard_normal((200, 6))
    assert np.allclose(ridge_weights(x, x @ truth.T, 1e-6), truth, atol=1e-4)


def test_the_recipe_loads_and_mistakes_are_named(tmp_path: Path) -> None:
    assert load_recipe(JudgeConfig, RECIPE, ["epochs=2"])[0].epochs == 2
    for override in ("epoch=2", "pairs.people=3", "pairs.neutral=2", "lr=0"):
        with pytest.raises(ConfigError):
            load_recipe(JudgeConfig, RECIPE, [override])
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("widht: 16\n")
    with pytest.raises(ConfigError, match="widht"):
        load_recipe(JudgeConfig, wrong)
    assert main([str(wrong), "--out", str(tmp_path / "out")]) == 2


def test_training_runs_resumes_and_refuses_another_run(tmp_path: Path) -> None:
    pairs = PairConfig(train=1, validation=1, test=3, pairs=40, size=48, neutral=0.0, emotional=0.0)
    config = JudgeConfig(pairs=pairs, width=2, epochs=1)
    first = train(config, tmp_path / "run", progress=False)
    (tmp_path / "run" / "judge.safetensors").unlink()
    rendered = {f: f.stat().st_mtime_ns for f in (tmp_path / "run" / "pairs").iterdir()}
    again = train(config, tmp_path / "run", progress=False)
    assert rendered == {f: f.stat().st_mtime_ns for f in (tmp_path / "run" / "pairs").iterdir()}
    assert first.meta == again.meta
    assert AUJudge.load(tmp_path / "run" / "judge.safetensors").meta == again.meta
    assert "| 12 | lip corner puller |" in (tmp_path / "run" / "judge.md").read_text()
    with pytest.raises(RunFolderError):
        train(JudgeConfig(pairs=pairs, width=3, epochs=1), tmp_path / "run", progress=False)


def test_the_shipped_judge_knows_the_shipped_head(judge: AUJudge) -> None:
    """Whoever changes the head's AU shapes has to train the judge anew (the card says how)."""
    assert judge.meta.head_sha256 == head_sha256()


def test_style_moves_fields_and_makes_none() -> None:
    draw = torch.Generator().manual_seed(0)
    bump = torch.zeros(64, 2, GRID, GRID)
    bump[:, 0, 12:20, 12:20] = 1.0
    assert torch.equal(styled(bump, 0.0, draw), bump)
    assert not styled(torch.zeros(4, 2, GRID, GRID), 1.0, draw).any()
    other = styled(bump, 1.0, draw)
    size = other.pow(2).sum(1).sqrt()
    assert size.amax((1, 2)).min() > 0.9  # the pull keeps its strength
    columns = torch.arange(GRID, dtype=torch.float32)
    centre = (size.sum(1) * columns).sum(1) / size.sum((1, 2))
    assert 0.2 < float(centre.std()) < 1.5  # sd .05 IOD is .64 cells
    turn = torch.atan2(other[:, 1].sum((1, 2)), other[:, 0].sum((1, 2))).rad2deg()
    assert 3 < float(turn.std()) < 13
