"""Flow of pairs and clips by every method; RAFT with weights of its own shape, made here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.models import optical_flow

from mesynth.core.errors import MesynthError, WeightsUnavailable
from mesynth.preprocess import flow as raft_module
from mesynth.preprocess.flow import (
    FILES,
    METHODS,
    VARIABLE,
    estimate_flow,
    estimate_flows,
    need,
    raft,
    raft_file,
    sequence_flows,
)
from tests.bench.bench_flow import errors, rendered_pairs
from tests.devices import DEVICES
from tests.preprocess.textures import end_point_error, smooth_field, texture, warped_pair


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    """Five frames of a texture that moves a little more each time."""
    field = smooth_field(3, 2.0)
    return np.stack([warped_pair(texture("chelsea"), -field * t / 4)[0] for t in range(5)])


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of raft_small in the form torchvision ships them."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("raft") / "small.pth"
    torch.save(optical_flow.raft_small(weights=None, progress=False).state_dict(), file)
    return file


# ---------------------------------------------------------------- clips


@pytest.mark.parametrize("method", ["tvl1", "dis", "farneback"])
@pytest.mark.parametrize("batch", [1, 3, 16])
def test_a_clip_is_its_pairs(clip: np.ndarray, method: str, batch: int) -> None:
    onset = sequence_flows(clip, method, batch=batch)
    steps = sequence_flows(clip, method, batch=batch, reference="previous")
    assert onset.shape == steps.shape == (4, 2, 128, 128)
    assert onset.dtype == np.float32
    for t in range(4):
        assert np.array_equal(onset[t], estimate_flow(clip[0], clip[t + 1], method).uv)
        assert np.array_equal(steps[t], estimate_flow(clip[t], clip[t + 1], method).uv)


def test_flow_grows_from_the_onset_and_not_from_frame_to_frame(clip: np.ndarray) -> None:
    lengths = [
        np.hypot(*np.moveaxis(sequence_flows(clip, "dis", reference=r), 1, 0)).mean((1, 2))
        for r in ("onset", "previous")
    ]
    assert lengths[0][3] > 3 * lengths[0][0]
    assert lengths[1][3] < 1.6 * lengths[1][0]


def test_a_long_clip_is_worked_on_in_batches(clip: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def record(a: np.ndarray, b: np.ndarray, device: str) -> np.ndarray:
        seen.append(len(a))
        return np.zeros((len(a), 2, *a.shape[1:3]), np.float32)

    monkeypatch.setitem(METHODS, "tvl1", record)
    sequence_flows(clip[[0] * 38], batch=16)
    assert seen == [16, 16, 5]


def test_bad_clips(clip: np.ndarray) -> None:
    with pytest.raises(MesynthError, match="T >= 2"):
        sequence_flows(clip[:1])
    with pytest.raises(MesynthError, match="'next' is unknown; choose from onset, previous"):
        sequence_flows(clip, reference="next")  # type: ignore[arg-type]
    with pytest.raises(MesynthError, match="batch=0"):
        sequence_flows(clip, batch=0)
    with pytest.raises(MesynthError, match="'lk' is unknown"):
        sequence_flows(clip, "lk")
    with pytest.raises(MesynthError, match="uint8 RGB"):
        sequence_flows(clip.astype(np.float32))


# ---------------------------------------------------------------- accuracy


def test_every_estimator_beats_no_motion_on_faces() -> None:
    pairs = rendered_pairs(("6={0},12={0}", "4={0}", "15={0},17={0}"), (0.25,))
    measured = {
        m: errors(np.stack([f.uv for f in estimate_flows(pairs.onset, pairs.apex, m)]), pairs)
        for m in ("tvl1", "dis", "farneback")
    }
    zero = errors(0 * pairs.uv, pairs)
    assert zero["relative_epe"] == pytest.approx(1)
    assert zero["angle_degrees"] == 90
    exact = errors(pairs.uv, pairs)
    assert exact["epe_px"] == 0
    assert exact["angle_degrees"] == pytest.approx(0, abs=1e-3)
    assert measured["tvl1"]["relative_epe"] < 0.5
    assert measured["dis"]["relative_epe"] < 0.45
    assert measured["farneback"]["relative_epe"] < 0.7
    assert all(m["angle_degrees"] < 30 for m in measured.values())


@pytest.mark.parametrize("peak", [0.3, 1.0, 4.0])
def test_dis_is_refined_down_to_single_pixels(peak: float) -> None:
    """Better than the preset by itself, on textures with exact flow."""
    import cv2

    preset = getattr(cv2, "DISOpticalFlow_create")(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)  # noqa: B009
    ours, plain = [], []
    for i, name in enumerate(("astronaut", "camera", "chelsea")):
        field = smooth_field(i, peak, 10.0)
        a, b = warped_pair(texture(name), field, 1.5, i)
        ours.append(end_point_error(estimate_flow(a, b, "dis").uv, field))
        grey = [cv2.cvtColor(x, cv2.COLOR_RGB2GRAY) for x in (a, b)]
        plain.append(end_point_error(preset.calc(*grey, None).transpose(2, 0, 1), field))
    assert np.mean(ours) < 0.9 * np.mean(plain)


# ---------------------------------------------------------------- RAFT


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("h", "w"), [(128, 128), (65, 140)])
def test_raft_takes_any_size(weights: Path, monkeypatch: pytest.MonkeyPatch, h: int, w: int, device: str) -> None:
    monkeypatch.setenv(VARIABLE, str(weights))
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (4, h, w, 3), np.uint8)
    flows = estimate_flows(frames[:3], frames[1:], "raft", device)
    assert [f.uv.shape for f in flows] == [(2, h, w)] * 3
    alone = estimate_flow(frames[1], frames[2], "raft", device).uv
    assert flows[1].uv == pytest.approx(alone, abs=1e-3)  # convolutions may round by the batch's size
    assert raft(frames[:3], frames[1:], device, batch=2) == pytest.approx(np.stack([f.uv for f in flows]), abs=1e-3)


def test_raft_is_torchvisions_network_on_the_padded_picture(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(weights))
    a, b = (np.random.default_rng(k).integers(0, 255, (1, 128, 130, 3), np.uint8) for k in (0, 1))
    network = optical_flow.raft_small(weights=None, progress=False).eval()
    network.load_state_dict(torch.load(weights, weights_only=True))
    padded = [np.pad(x, ((0, 0), (0, 0), (3, 3), (0, 0)), "edge") for x in (a, b)]
    tensors = optical_flow.Raft_Small_Weights.C_T_V2.transforms()(
        *(torch.from_numpy(x).permute(0, 3, 1, 2) for x in padded)
    )
    with torch.inference_mode():
        expected = network(*tensors)[-1][..., 3:-3].numpy()
    assert raft(a, b) == pytest.approx(expected, abs=1e-3)


def test_raft_large_is_known_by_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = optical_flow.raft_large(weights=None, progress=False).state_dict()
    torch.save(state, tmp_path / "large.pth")
    model = raft_module._model(str(tmp_path / "large.pth"), 0, "cpu")
    assert sum(p.numel() for p in model.parameters()) > 5e6
    assert not model.training


def test_where_weights_are_looked_for(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(WeightsUnavailable, match=rf"{FILES[0]}.*into .*checkpoints.*{VARIABLE}.*tvl1"):
        raft_file()
    assert not need().present
    frames = np.zeros((1, 128, 128, 3), np.uint8)
    with pytest.raises(WeightsUnavailable, match="put raft_large"):
        estimate_flows(frames, frames, "raft")
    hub = tmp_path / "hub" / "checkpoints"
    hub.mkdir(parents=True)
    (hub / FILES[1]).write_bytes(weights.read_bytes())
    assert raft_file() == hub / FILES[1]
    assert need().present
    monkeypatch.setenv(VARIABLE, str(tmp_path / "gone.pth"))
    with pytest.raises(WeightsUnavailable, match=r"MESYNTH_RAFT=.*gone\.pth is no file"):
        raft_file()


@pytest.mark.parametrize("content", ["text", "other network", "object"])
def test_files_that_are_not_raft(content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "weights.pth"
    if content == "text":
        file.write_text("not weights")
    else:
        made: Any = torch.nn.Linear(2, 2).state_dict() if content == "other network" else Path("x")
        torch.save(made, file)
    monkeypatch.setenv(VARIABLE, str(file))
    frames = np.zeros((1, 128, 128, 3), np.uint8)
    with pytest.raises(WeightsUnavailable, match="holds no weights of torchvision's RAFT") as caught:
        estimate_flows(frames, frames, "raft")
    assert "\n" not in str(caught.value)


def test_importing_flow_does_not_import_torch() -> None:
    import subprocess
    import sys

    code = "import sys, mesynth.preprocess.flow, mesynth.preprocess.flow; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
