"""What a generator's network takes is told from what its frames take, of the motion prior and of a learned one.

Apart from the other tests of throughput: their worker processes would read torch for nothing.
"""

import time
from pathlib import Path
from typing import Any

import pytest

from mesynth.corpus.generate import Preview, generate
from mesynth.corpus.plan import PlanConfig
from mesynth.corpus.throughput import ProcessTimes, Throughput
from mesynth.generators.motion_gan.network import MotionGenerator
from mesynth.motion import layers, prior
from tests.builders import tree_bytes
from tests.generators.saved import saved

FACES = Path(__file__).parents[2] / "samples" / "corpus"


@pytest.mark.parametrize("model", ["motion-prior", "gan"])
def test_a_generators_network_is_told_from_its_warp(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is slowed down by a known time, which must come back under its own name and no other."""
    saved(tmp_path / "gan")
    config = PlanConfig(au=("12=0.3",), count=3, fps=50, duration=(0.2, 0.2), size=32)

    def made(out: str) -> ProcessTimes:
        told: list[Throughput] = []
        name = model if model == prior.NAME else str(tmp_path / model)
        generate(FACES, config, tmp_path / out, model=name, preview=Preview(count=0), report=told.append)
        return told[0].all

    def slow(owner: Any, name: str, seconds: float) -> None:
        call = getattr(owner, name)

        def slowed(*arguments: Any, **options: Any) -> Any:
            time.sleep(seconds)
            return call(*arguments, **options)

        monkeypatch.setattr(owner, name, slowed)

    assert made("plain").frames == 33  # and compiles
    slow(*((prior.MotionPrior, "_in_pixels") if model == prior.NAME else (MotionGenerator, "bent")), 0.8)
    times = made("slow-network")
    assert times.model >= 0.8
    assert times.warp < 0.4
    monkeypatch.undo()
    slow(layers, "warp_backward", 0.8 / 33)  # the one frame loop
    times = made("slow-warp")
    assert times.warp >= 0.8
    assert times.model < 0.4
    assert tree_bytes(tmp_path / "plain") == tree_bytes(tmp_path / "slow-warp")
