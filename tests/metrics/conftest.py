"""A small rendered corpus and a small synthetic one, made once a session, and a weights-free environment."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch

from mesynth.core import facs, seeds
from mesynth.core.profiles import Profile
from mesynth.core.types import AUVector
from mesynth.head import Subject, head_motion
from mesynth.metrics.base import MeasureConfig
from mesynth.metrics.measure import measure_all
from mesynth.metrics.report import Comparison
from mesynth.store.manifest import Manifest, Provenance, Row
from mesynth.store.stage import Produced, run_stage
from tests.conftest import flow_once

FRAMES, FPS = 9, 60.0
REQUESTS = ("12=D", "4=D", "1=D,2=D", "9=D", "L12=E", "4=C,7=C")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@cache
def person(seed: int) -> Subject:
    """Made once: several clips show the same face."""
    return Subject(seed, size=96)


def make_clip(job: tuple[str, int, int]) -> Produced:
    """One clip of (kind, number, head seed): rendered with exact flow, whatever it calls itself."""
    kind, index, seed = job
    rng = seeds.stream(seed, "quality-test", index)
    aus = facs.parse_request(REQUESTS[index % len(REQUESTS)])
    profile = Profile(apex=0.5)
    apex = profile.apex_index(FRAMES)
    over_time = profile.alpha(FRAMES)[:, None, None] * aus.intensity
    pose = head_motion(FRAMES, rng, sd=0.3, fps=FPS)
    subject = person(seed)
    frames = subject.render(over_time, pose, noise_seed=index)
    flow = subject.flow(over_time[0], over_time[apex], pose[0], pose[apex])
    who = Provenance(kind=kind, database="heads", subject=str(seed), licence="CC0-1.0",
                     subjects_seen=(f"heads/{seed}",), profile="symmetric", seed=index)  # fmt: skip
    row = Row(
        clip_id=f"{kind}{index}", database="heads", subject=str(seed), clip=str(index), onset=0, apex=apex,
        offset=FRAMES - 1, fps=FPS, n_frames=FRAMES, apex_index=apex, height=96, width=96, provenance=who,
        **Row.au_columns(AUVector(aus.intensity)),
    )  # fmt: skip
    return Produced(row=row, frames=frames, flow=flow.uv, landmarks=subject.landmarks(), valid=flow.visible)


@pytest.fixture(scope="session")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, Manifest]:
    """Twelve rendered clips of four people, and twelve of four others that call themselves synthetic."""
    root: Path = tmp_path_factory.mktemp("quality")
    made = []
    for kind, first in (("rendered", 10), ("synthetic", 20)):
        jobs = [(kind, i, first + i % 4) for i in range(12)]
        made.append(run_stage(root / kind, jobs, make_clip, config={"kind": kind}))
    return made[0], made[1]


PROGRESS: list[tuple[int, int]] = []
"""What the measurement behind :func:`whole` told of its progress."""


def _note(done: int, total: int) -> None:
    PROGRESS.append((done, total))


@pytest.fixture(scope="session")
def whole(corpora: tuple[Manifest, Manifest]) -> Comparison:
    """All clips of both corpora measured, the synthetic one given as its own training set; shared by all tests."""
    config = MeasureConfig(clips=12, identity_clips=4)
    with flow_once():
        return measure_all(corpora[0], {"c": corpora[1]}, config, training=corpora[1], progress=_note)


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without any pretrained weights: empty torch cache, and no package that ships some."""
    from mesynth.metrics import networks

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    monkeypatch.setattr(networks.importlib.util, "find_spec", lambda name: None)
