"""The shipped magnifier: its card tells what travels with the weights; its guarantees hold for any weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mesynth.core.errors import ConfigError, MesynthError, WeightsUnavailable
from mesynth.metrics.judge_train import JUDGE_SEEDS
from mesynth.preprocess.magnify import LearnedMagnifier
from mesynth.preprocess.magnify.classical import psnr
from mesynth.preprocess.magnify.learned import WEIGHTS, MagnifierMeta, MagnifierNet, net_tensors
from mesynth.preprocess.magnify.learned_train import CASES, MAGNIFIER_SEEDS, TripleConfig, held_out_figures
from mesynth.store.weights import tensors_sha256


@pytest.fixture(scope="module")
def magnifier() -> LearnedMagnifier:
    return LearnedMagnifier.load()


def test_any_weights_leave_stillness_and_factor_one_alone() -> None:
    torch.manual_seed(0)
    meta = MagnifierMeta(
        width=8, blocks=1, max_factor=20, max_motion=6, people_seen=(), figures={}, config="", weights_sha256=""
    )
    magnifier = LearnedMagnifier(MagnifierNet(8, 1), meta)
    video = torch.rand(1, 4, 3, 33, 20)
    assert torch.equal(magnifier.magnify(video, 1.0), video)
    video[:, 2] = video[:, 0]
    made = magnifier.magnify(video, 7.0)
    assert torch.equal(made[:, [0, 2]], video[:, [0, 2]])
    assert not torch.equal(made[:, 1], video[:, 1])


def test_long_clips_are_computed_in_parts_that_do_not_show(magnifier: LearnedMagnifier) -> None:
    video = torch.rand(1, 40, 3, 16, 16)
    made = magnifier.magnify(video, 3.0)
    last = magnifier.magnify(video[:, [0, 39]], 3.0)
    assert torch.allclose(made[:, 39], last[:, 1], atol=1e-5)


def test_a_larger_factor_moves_more(magnifier: LearnedMagnifier) -> None:
    from mesynth.core.facs import parse_request
    from mesynth.head import Subject
    from mesynth.preprocess.warping import to_video

    seed = 23
    assert seed not in magnifier.meta.people_seen
    aus = [np.zeros((25, 2), np.float32), *(parse_request(f"4={a},12={a}").intensity for a in (0.15, 0.3, 0.45))]
    frames = to_video(Subject(seed).render(np.stack(aus)))
    for factor, index in ((2.0, 2), (3.0, 3)):
        made = magnifier.magnify(frames[None, :2], factor)[:, 1]
        assert psnr(made, frames[index][None]) > psnr(frames[1:2], frames[index][None]) + 2


def test_card_and_metadata_tell_the_truth(magnifier: LearnedMagnifier) -> None:
    assert WEIGHTS.stat().st_size < 1_000_000
    card = WEIGHTS.with_suffix(".md").read_text()
    assert magnifier.meta.weights_sha256 in card
    assert tensors_sha256(net_tensors(magnifier._net)) == magnifier.meta.weights_sha256
    assert set(magnifier.meta.people_seen) <= set(MAGNIFIER_SEEDS)
    assert not set(MAGNIFIER_SEEDS) & set(JUDGE_SEEDS)
    for peak, factor in CASES:
        name = f"{peak:g} px x{factor:g}"
        assert magnifier.meta.figures[f"{name}: psnr"] > magnifier.meta.figures[f"{name}: psnr unmagnified"] + 1
        assert f"| {peak:g} | {factor:g} | {magnifier.meta.figures[f'{name}: psnr unmagnified']:.1f} |" in card


@pytest.mark.slow
def test_the_cards_figures_are_measured_again(magnifier: LearnedMagnifier) -> None:
    """Two rows of four, the faintest motion and the plainest: all are measured alike, each by itself."""
    cases = CASES[::2]
    again = held_out_figures(magnifier, TripleConfig(), cases)
    names = [name for name in magnifier.meta.figures if name.startswith(tuple(f"{p:g} px x{f:g}:" for p, f in cases))]
    assert list(again) == names
    for name, value in again.items():
        assert magnifier.meta.figures[name] == pytest.approx(value, abs=0.05), name


def test_what_it_never_learned_is_refused(magnifier: LearnedMagnifier) -> None:
    with pytest.raises(ConfigError, match="factor 30 exceeds 20"):
        magnifier.magnify(torch.rand(1, 2, 3, 32, 32), 30.0)
    with pytest.raises(MesynthError, match=r"\[B,T,C,H,W\]"):
        magnifier.magnify(torch.rand(2, 3, 32, 32), 3.0)


def test_a_missing_or_foreign_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsUnavailable, match="learned_train"):
        LearnedMagnifier.load(tmp_path / "none.safetensors")
    junk = tmp_path / "junk.safetensors"
    junk.write_bytes(b"junk" * 10)
    with pytest.raises(WeightsUnavailable, match=r"learned magnifier.*no file of it"):
        LearnedMagnifier.load(junk)
    judge = Path(__file__).parents[3] / "mesynth" / "metrics" / "networks" / "data" / "judge.safetensors"
    with pytest.raises(WeightsUnavailable, match=r"learned magnifier.*no file of it"):
        LearnedMagnifier.load(judge)


def test_save_and_load_are_inverse(magnifier: LearnedMagnifier, tmp_path: Path) -> None:
    magnifier.save(tmp_path / "m.safetensors")
    again = LearnedMagnifier.load(tmp_path / "m.safetensors")
    assert again.meta == magnifier.meta
    video = torch.rand(1, 2, 3, 32, 32)
    assert torch.equal(again.magnify(video, 3.0), magnifier.magnify(video, 3.0))
