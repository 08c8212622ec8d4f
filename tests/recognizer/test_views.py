"""Every view of a clip: what it shows, where it comes from, how it is mirrored, shifted and reframed, and refusals."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import nn

import recognizer
from mesynth.core.emotions import CLASSES_3
from mesynth.core.errors import ConfigError, ManifestError
from mesynth.core.framing import OWN, Framing, KnownFraming, reframed_flow, reframed_picture, reframed_points
from mesynth.preprocess.align import MIRROR
from mesynth.preprocess.config import INPUTS, PrepareConfig
from mesynth.preprocess.inputs import make_inputs
from mesynth.preprocess.regions import landmark_patches
from mesynth.store.manifest import Manifest, Provenance, framing_meta
from mesynth.store.shards import ShardWriter, frames_members, npy_bytes
from recognizer.config import AblationConfig, RunConfig, idle_keys, load_config, needs_of, shape_of
from recognizer.data import DataConfig, FlowSet, FlowTransform, byte_image, flow_image, key_flow_images, load, mirror
from recognizer.models import Model
from recognizer.models.common import FlowNetwork, Outputs, Shape
from recognizer.protocol import copies
from recognizer.sources import flow_notes, framed_as
from recognizer.trained import predict, train
from recognizer.training import TrainConfig
from recognizer.views import VIEWS, as_floats, key_times, mirrored, moved, read_views, require_known
from tests.builders import row
from tests.fuzz.damage import peak

SIDE, LENGTH, APEX = 48, 7, 4
SMALL = DataConfig(size=16, frame_size=32, frames=5, key_frames=3)
BESIDE = tuple(name for name in VIEWS if name != "flow")
TIGHT = Framing(eyes=0.5, height=0.5, row=0.4)


def landmarks(seed: int = 0) -> np.ndarray:
    """[68,2]: a face in our crop of SIDE pixels, near enough for crops about its parts."""
    base = np.random.default_rng(7).uniform(0.3, 0.7, (68, 2))
    base[:17] = np.stack([np.linspace(0.15, 0.85, 17), 0.4 + 0.5 * np.sin(np.linspace(0, np.pi, 17))], 1)
    base[36:42], base[42:48] = (0.3, 0.35), (0.7, 0.35)
    base[27:36, 0], base[48:68, 1] = 0.5, 0.75
    jitter = np.random.default_rng(seed).normal(0, 0.01, (68, 2))
    return np.asarray((base + jitter) * SIDE, np.float32)


def clip(seed: int = 0, length: int = LENGTH) -> dict[str, np.ndarray]:
    """Smooth frames that change, and flows and tracks that are anything."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (length, 8, 8, 3)).astype(np.float32)
    frames = [cv2.resize(one, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) for one in coarse]
    return {
        "frames": np.clip(np.rint(frames), 0, 255).astype(np.uint8),
        "flow": rng.normal(size=(2, SIDE, SIDE)).astype(np.float32),
        "points": landmarks(seed),
        "flows": rng.normal(size=(length - 1, 2, SIDE, SIDE)).astype(np.float16),
        "landmarks": landmarks(seed)[None] + rng.normal(0, 0.5, (length, 68, 2)).astype(np.float32),
    }


def mirrored_clip(own: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same clip in a mirror, made from its pixels and points alone."""
    turned = np.array([-1, 1], np.float32)[:, None, None]
    return {
        "frames": np.ascontiguousarray(own["frames"][:, :, ::-1]),
        "flow": np.ascontiguousarray(own["flow"][..., ::-1] * turned),
        "points": (own["points"] * [-1, 1] + [SIDE - 1, 0]).astype(np.float32)[MIRROR],
        "flows": np.ascontiguousarray((own["flows"][..., ::-1] * turned).astype(np.float16)),
        "landmarks": (own["landmarks"] * [-1, 1] + [SIDE - 1, 0]).astype(np.float32)[:, MIRROR],
    }


def write(
    folder: Path, clips: list[dict[str, np.ndarray]], stored: Collection[str] = INPUTS, lacking: Collection[str] = (),
    database: str = "db", kind: str = "real",
) -> Manifest:  # fmt: skip
    """A manifest of such clips with ``stored`` inputs, as `mesynth prepare` leaves it; ``lacking``: frames, points."""
    folder.mkdir(parents=True)
    rows = []
    with ShardWriter(folder / "x.tar") as writer:
        for i, own in enumerate(clips):
            made = PrepareConfig(inputs=tuple(n for n in INPUTS if n in stored and n not in ("flows", "landmarks")))
            arrays = make_inputs(made, own["frames"], own["points"], APEX)
            arrays |= {f"input_{n}": own[n] for n in ("flows", "landmarks") if n in stored}
            arrays |= {"flow": own["flow"]} | ({} if "points" in lacking else {"landmarks": own["points"]})
            span = writer.add(f"{i:04d}f", {f"{name}.npy": npy_bytes(a) for name, a in arrays.items()})
            frames = None if "frames" in lacking else writer.add(f"{i:04d}", frames_members(own["frames"]))
            subject = f"{i // 3:02d}"
            rows.append(row(
                f"{kind}{i:03d}", clip_id=f"{database}/{subject}/{kind}{i:03d}/0", database=database, subject=subject,
                frames=frames, flow=span, label=CLASSES_3[i % 3], n_frames=len(own["frames"]), apex_index=APEX,
                height=SIDE, width=SIDE,
                provenance=Provenance(
                    kind=kind, database=database, subject=subject, licence="CC0",
                    subjects_seen=(f"{database}/{subject}",), generator="prior" if kind == "synthetic" else "",
                ),
            ))  # fmt: skip
    manifest = Manifest.from_rows(rows, folder)
    manifest = replace(manifest, meta=manifest.meta | framing_meta(KnownFraming(framing=OWN)))
    manifest.write(folder)
    return Manifest.read(folder)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """12 clips of 4 people with all inputs."""
    return write(tmp_path_factory.mktemp("views") / "own", [clip(i) for i in range(12)])


def first(manifest: Manifest, name: str, config: DataConfig = SMALL) -> np.ndarray:
    """A view of its first clip, as it is in memory."""
    loaded = load(manifest[:1], config, views=("flow", name))
    return loaded.inputs()[name][0]


def picture(image: np.ndarray, size: int) -> np.ndarray:
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)


# ---------------------------------------------------------------- what is shown


@pytest.mark.parametrize("name", VIEWS)
def test_forms_and_types(own: Manifest, name: str) -> None:
    found = first(own, name)
    assert found.shape == VIEWS[name].of(SMALL.shape())
    assert found.dtype == VIEWS[name].dtype
    assert len(np.unique(found)) > 5
    batch = as_floats(torch.from_numpy(found))
    assert batch.dtype == torch.float32
    assert bool(batch.isfinite().all())
    if found.dtype == np.uint8:
        assert 0 <= batch.min() < batch.max() <= 1


def test_all_inputs_of_prepare_have_a_reader() -> None:
    assert {name for name, view in VIEWS.items() if view.prepared} == set(INPUTS)


def test_pictures_keep_sign_units_and_colour(own: Manifest) -> None:
    frames = clip(0)["frames"].astype(np.float32)
    expected = picture((frames[APEX] - frames[0]) / 255, 32).transpose(2, 0, 1)
    np.testing.assert_allclose(first(own, "difference"), expected, atol=1e-3)
    assert expected.min() < -0.1
    rise = frames[: APEX + 1] / 255
    alpha = np.array([-4, -2, 0, 2, 4]) / 6  # 2 t - T - 1, over half the sum of absolute values
    dynamic = picture(np.tensordot(alpha.astype(np.float32), rise, 1), 32).transpose(2, 0, 1)
    np.testing.assert_allclose(first(own, "dynamic"), dynamic, atol=2e-3)
    mean = frames.mean(0) / 255
    active = picture(mean + np.pi * np.abs(frames / 255 - mean).mean(0), 32).transpose(2, 0, 1)
    np.testing.assert_allclose(first(own, "active"), active, atol=4e-3)


def test_tracks_are_in_crop_widths_from_its_centre_and_evenly_in_time(own: Manifest) -> None:
    tracks = clip(0)["landmarks"]
    found = first(own, "landmarks")
    at = (tracks + 0.5) / SIDE - 0.5
    np.testing.assert_allclose(found[[0, 2, 4]], at[[0, 3, 6]], atol=1e-6)
    np.testing.assert_allclose(found[1], (at[1] + at[2]) / 2, atol=1e-6)  # 1.5 of 0..6


@pytest.mark.parametrize(
    ("n", "apex", "count", "times"),
    [
        (9, 4, 4, [2, 4, 6, 8]),
        (9, 3, 4, [3, 4, 6, 8]),
        (9, 8, 4, [2, 4, 6, 8]),
        (9, 0, 4, [0, 4, 6, 8]),
        (7, 4, 3, [2, 4, 6]),
        (4, 1, 6, [0.5, 1, 1.5, 2, 2.5, 3]),
        (5, 2, 1, [2]),
    ],
)
def test_key_frames_hold_the_apex_and_the_offset(n: int, apex: int, count: int, times: list[float]) -> None:
    found = key_times(n, apex, count)
    assert found.tolist() == times
    assert (np.diff(found) > 0).all()
    assert apex in found


def test_flow_of_key_frames_is_the_flow_image_of_those_frames(own: Manifest) -> None:
    flows = clip(0)["flows"].astype(np.float32)
    for k, frame in enumerate((2, 4, 6)):  # of 0..6; entry t - 1 is the flow to frame t
        np.testing.assert_allclose(
            first(own, "flows")[k], flow_image(flows[frame - 1], SMALL), atol=5e-3, err_msg=str(frame)
        )
    many = first(own, "flows", replace(SMALL, key_frames=12))
    half = (flows[0] + flows[1]) / 2
    np.testing.assert_allclose(many[2], flow_image(half, SMALL), atol=5e-3)
    np.testing.assert_allclose(many[0], flow_image(flows[0] / 2, SMALL), atol=5e-3)  # half way from rest


def test_flow_of_key_frames_as_bytes_and_in_one_unit() -> None:
    uv = clip(3)["flows"][:3].astype(np.float32)
    bytes_ = key_flow_images(uv, replace(SMALL, input="bytes"))
    np.testing.assert_array_equal(bytes_, np.stack([byte_image(one, 16) for one in uv]))
    growing = uv * np.array([1, 2, 4], np.float32)[:, None, None, None] + 3
    robust = key_flow_images(growing, replace(SMALL, normalise="robust"))
    assert np.sqrt((robust[:, :2] ** 2).mean()) == pytest.approx(1, rel=1e-5)
    assert np.median(robust[:, :2], axis=(2, 3)) == pytest.approx(0, abs=1e-6)
    assert robust[2, :2].std() > 1.5 * robust[0, :2].std()  # the rise stays
    again = key_flow_images(growing * 5 - 1, replace(SMALL, normalise="robust"))
    np.testing.assert_allclose(again, robust, atol=1e-4)


@pytest.mark.parametrize("name", ["eyes", "mouth", "patches"])
def test_parts_are_grey_and_evenly_in_time(own: Manifest, name: str) -> None:
    source = clip(0)
    whole = make_inputs(PrepareConfig(inputs=(name,)), source["frames"], source["points"], APEX)[f"input_{name}"]
    whole = whole[None] if name == "mouth" else whole
    found = first(own, name)
    found = found[None] if name == "mouth" else found
    side = found.shape[-1]
    for part, shown in zip(whole, found, strict=True):
        for t, frame in ((0, 0), (2, 3), (4, 6)):
            grey = cv2.cvtColor(part[frame], cv2.COLOR_RGB2GRAY)
            expected = grey if grey.shape[0] == side else picture(grey, side)
            np.testing.assert_array_equal(shown[t], expected)


@pytest.mark.parametrize("name", [name for name in BESIDE if not VIEWS[name].costly])
def test_what_was_not_prepared_is_computed_to_the_same_values(own: Manifest, tmp_path: Path, name: str) -> None:
    bare = write(tmp_path / "bare", [clip(0)], stored=())
    np.testing.assert_array_equal(first(bare, name), first(own, name))


def test_several_at_once_are_what_they_are_alone(own: Manifest) -> None:
    together = load(own, SMALL, views=tuple(VIEWS)).inputs()
    assert list(together) == list(VIEWS)
    for name in VIEWS:
        np.testing.assert_array_equal(together[name], load(own, SMALL, views=("flow", name)).inputs()[name])


# ---------------------------------------------------------------- mirrored and shifted


@pytest.mark.parametrize("name", VIEWS)
def test_a_mirrored_view_is_the_view_of_the_mirrored_clip(tmp_path: Path, name: str) -> None:
    clips = [clip(i) for i in range(3)]
    straight = load(write(tmp_path / "a", clips), SMALL, views=("flow", name)).inputs()[name]
    other = load(write(tmp_path / "b", [mirrored_clip(c) for c in clips]), SMALL, views=("flow", name)).inputs()[name]
    turned = mirrored(name, straight)
    assert not np.allclose(turned, straight, atol=0.01)
    if name == "patches":  # 16 pixels have no middle one: the centre's own side changes
        turned, other = turned[..., :-1], other[..., 1:]
    tolerance = {np.uint8: 1, np.float16: 2e-3, np.float32: 1e-5}[VIEWS[name].dtype]
    np.testing.assert_allclose(turned.astype(np.float32), other.astype(np.float32), atol=tolerance)
    np.testing.assert_array_equal(mirrored(name, mirrored(name, straight)), straight)


def test_a_mirrored_u_of_bytes_is_255_minus_u() -> None:
    x = np.random.default_rng(0).integers(0, 256, (2, 3, 3, 8, 8)).astype(np.float16)
    turned = mirrored("flows", x, top=255)
    np.testing.assert_array_equal(turned[:, :, 0], 255 - x[:, :, 0, :, ::-1])
    np.testing.assert_array_equal(turned[:, :, 1:], x[:, :, 1:, :, ::-1])


def shifted(name: str, x: np.ndarray, dy: int, dx: int, size: int) -> np.ndarray:
    """One clip's view, its face moved by pixels of a crop of ``size``; by np.pad, edges repeated."""
    if name == "landmarks":
        return x + np.array([dx, dy], np.float32) / size
    if VIEWS[name].follows:
        return x
    dy, dx = (round(d * x.shape[-1] / size) for d in (dy, dx))
    reach = max(abs(dy), abs(dx))
    wide = np.pad(x, [(0, 0)] * (x.ndim - 2) + [(reach, reach)] * 2, mode="edge")
    side = x.shape[-1]
    return wide[..., reach - dy : reach - dy + side, reach - dx : reach - dx + side]


@pytest.mark.parametrize("top", [0.0, 255.0])
@pytest.mark.parametrize("name", VIEWS)
def test_the_stacked_augmentation_is_the_plain_one(own: Manifest, name: str, top: float) -> None:
    x = load(own[:4], SMALL, views=("flow", name)).inputs()[name]
    index, flip = torch.tensor([[2, 0, 1], [1, 3, 3]]), torch.tensor([[True, False, True], [False, True, False]])
    dy, dx = torch.tensor([[0, 1, -2], [0, 2, 0]]), torch.tensor([[0, -2, 1], [0, 1, 3]])
    found = moved(name, torch.from_numpy(x), index, flip, dy, dx, size=16, top=top)
    assert found.dtype == torch.float32
    assert found.shape == (2, 3, *x.shape[1:])
    for at in np.ndindex(2, 3):
        one = shifted(name, x[index[at]], int(dy[at]), int(dx[at]), 16)[None]
        one = mirrored(name, one, top if VIEWS[name].signed else 0.0) if flip[at] else one
        expected = as_floats(torch.from_numpy(np.ascontiguousarray(one)))[0]
        torch.testing.assert_close(found[at], expected, atol=1e-6 if not top else 0.2, rtol=1e-6)


def test_copies_in_a_mirror_take_all_views_along(own: Manifest) -> None:
    real = load(own, SMALL, views=tuple(VIEWS))
    made = copies(real, "mirror")
    np.testing.assert_array_equal(made.x, mirror(real.x, real.au)[0])
    for name in BESIDE:
        np.testing.assert_array_equal(made.views[name], mirrored(name, real.views[name]))
    with pytest.raises(ConfigError, match="magnified copies exist for flow alone, and active, apex, "):
        copies(real, "magnified")


def test_a_transform_of_flow_is_one_of_key_frames() -> None:
    rng = np.random.default_rng(0)
    views: dict[str, np.ndarray] = {"flow": rng.normal(size=(2, 3, 16, 16)).astype(np.float32)}
    views["apex"] = np.zeros((2, 2, 8, 8), np.uint8)
    views["flows"] = np.repeat(views["flow"][:, None], 3, 1).astype(np.float16)
    done = FlowTransform(power=0.5, pool=4).of_views(views)
    assert done["apex"] is views["apex"]
    assert done["flows"].dtype == np.float16
    assert done["flows"].shape == (2, 3, 3, 4, 4)
    np.testing.assert_allclose(done["flows"][:, 1], done["flow"], atol=2e-3)


# ---------------------------------------------------------------- in another framing


@pytest.fixture(scope="module")
def taken(own: Manifest) -> Manifest:
    """The same manifest, read in a tighter framing."""
    [moved_there] = framed_as([own], KnownFraming(framing=TIGHT), DataConfig())  # type: ignore[misc]
    return moved_there


@pytest.mark.parametrize("name", ["difference", "dynamic", "active"])
def test_pictures_go_where_the_frames_go(own: Manifest, taken: Manifest, name: str) -> None:
    source = clip(0)
    frames = np.stack([reframed_picture(frame, OWN, TIGHT) for frame in source["frames"]])
    made = make_inputs(PrepareConfig(inputs=(name,)), frames, source["points"], APEX)[f"input_{name}"]
    scale = 255 if name == "difference" else 1
    expected = picture(made.astype(np.float32) / scale, 32).transpose(2, 0, 1)
    assert np.abs(expected - first(own, name)).max() > 0.1
    # Rounding to bytes before differences are taken, and of the active image |x| of what is interpolated.
    np.testing.assert_allclose(first(taken, name), expected, atol=0.01 if name != "active" else 0.06)


def test_tracks_and_flows_go_where_the_flow_goes(own: Manifest, taken: Manifest) -> None:
    source = clip(0)
    points = reframed_points(source["landmarks"][0], OWN, TIGHT, SIDE, SIDE)
    np.testing.assert_allclose(first(taken, "landmarks")[0], (points + 0.5) / SIDE - 0.5, atol=1e-5)
    flow = reframed_flow(source["flows"][APEX - 1].astype(np.float32), OWN, TIGHT)
    np.testing.assert_allclose(first(taken, "flows")[1], flow_image(flow, SMALL), atol=0.01)
    assert np.abs(first(taken, "flows") - first(own, "flows").astype(np.float32)).max() > 0.3


def test_crops_about_landmarks_are_cut_anew_in_another_framing(tmp_path: Path, own: Manifest, taken: Manifest) -> None:
    source = clip(0)
    frames = np.stack([reframed_picture(frame, OWN, TIGHT) for frame in source["frames"]])
    patches = landmark_patches(frames, reframed_points(source["points"], OWN, TIGHT, SIDE, SIDE), 16)
    expected = np.stack([cv2.cvtColor(one, cv2.COLOR_RGB2GRAY) for one in patches[:, 0]])
    np.testing.assert_array_equal(first(taken, "patches")[:, 0], expected)
    np.testing.assert_allclose(first(taken, "mouth").mean(), first(own, "mouth").mean(), atol=4)  # the same mouth
    bare = write(tmp_path / "bare", [clip(0)], lacking=("frames",))
    [there] = framed_as([bare], KnownFraming(framing=TIGHT), DataConfig())  # type: ignore[misc]
    for name in ("patches", "eyes", "mouth"):
        np.testing.assert_array_equal(first(bare, name), first(own, name))
        with pytest.raises(ManifestError, match=f"has its {name} cut in its own framing, and no frames"):
            first(there, name)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("name", INPUTS)
def test_a_view_that_is_not_there_is_one_line_with_the_option_that_makes_it(tmp_path: Path, name: str) -> None:
    bare = write(tmp_path / "bare", [clip(0)], stored=(), lacking=("frames",))
    with pytest.raises(ManifestError) as caught:
        first(bare, name)
    text = str(caught.value)
    assert "\n" not in text
    assert "clip db/00/real000/0" in text
    assert f"no view '{name}'" in text
    assert f"--inputs {name}" in text
    assert "of a corpus" not in text  # which has no frames to make it from


@pytest.mark.parametrize("name", ["flows", "landmarks"])
def test_flow_is_not_estimated_on_reading(tmp_path: Path, name: str) -> None:
    with pytest.raises(ManifestError, match=f"no view '{name}'; `mesynth prepare ... --inputs {name}` makes it"):
        first(write(tmp_path / "bare", [clip(0)], stored=()), name)


@pytest.mark.parametrize("name", ["apex", "frames"])
def test_frames_that_are_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(ManifestError, match=r"clip db/00/real000/0 in .* has no frames; .* without --no-frames"):
        first(write(tmp_path / "bare", [clip(0)], lacking=("frames",)), name)


@pytest.mark.parametrize("name", ["eyes", "mouth", "patches"])
def test_landmarks_that_are_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(ManifestError, match=r"has no landmarks.npy .*run `mesynth prepare`"):
        first(write(tmp_path / "bare", [clip(0)], stored=(), lacking=("points",)), name)


@pytest.mark.parametrize("name", INPUTS)
def test_stored_arrays_of_another_form_are_refused(tmp_path: Path, name: str) -> None:
    manifest = write(tmp_path / "own", [clip(0)])
    arrays = {"flow": clip(0)["flow"], f"input_{name}": np.zeros((3, 7))}
    with ShardWriter(tmp_path / "own" / "y.tar") as writer:
        span = writer.add("0", {f"{n}.npy": npy_bytes(a) for n, a in arrays.items()})
    changed = Manifest.from_rows([replace(manifest.row(0), flow=span)], manifest.root)
    with pytest.raises(ManifestError, match=rf"input {name} of clip .* is float64 \(3, 7\), not \["):
        first(changed, name)


def test_names_that_are_no_view() -> None:
    with pytest.raises(ConfigError, match="needs view 'strain', which is the third channel of 'flow' and 'flows'"):
        require_known(["flow", "strain"], "m")
    with pytest.raises(ConfigError, match="model m needs view 'depth', which is unknown; choose from flow, apex, "):
        require_known(["depth"], "m")


# ---------------------------------------------------------------- through the recognizer


class SeesAll(FlowNetwork):
    """Reads every view there is, by means over pixels, and says which it got."""

    needs = tuple(VIEWS)
    mirrored = True

    def __init__(self, n_classes: int, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.read = nn.ModuleList(nn.LazyLinear(n_classes) for _ in self.needs)
        for layer, name in zip(self.read, self.needs, strict=True):
            layer(torch.zeros(1, int(np.prod(VIEWS[name].of(shape)))))

    def forward(self, *views: torch.Tensor) -> Outputs:
        for name, view in zip(self.needs, views, strict=True):
            assert view.shape[1:] == VIEWS[name].of(self.shape), name
            assert view.dtype == torch.float32
        total = sum(layer(view.flatten(1)) for layer, view in zip(self.read, views, strict=True))
        return Outputs(total, None)


@pytest.fixture
def named() -> Any:
    from recognizer.models import MODELS

    with MODELS.lent({"sees_all": Model(SeesAll)}) as names:
        yield next(iter(names))


def config_of(name: str, **more: Any) -> RunConfig:
    return RunConfig(model=name, data=SMALL, train=TrainConfig(steps=4, batch=4, lr=1e-3), **more)


def test_a_model_asks_for_what_it_takes(named: str) -> None:
    config = config_of(named)
    assert needs_of(config) == tuple(sorted(VIEWS))
    assert shape_of(config) == Shape(size=16, frame_size=32, frames=5, key_frames=3)
    assert not {"data.frames", "data.frame_size", "data.key_frames"} & set(idle_keys(config, synthetic=False))
    with pytest.raises(ConfigError, match=r"data.key_frames has no effect: model offapex does not see"):
        load_config(RunConfig, None, ["model=offapex", "data.key_frames=4"])


def test_trained_tested_and_used(own: Manifest, named: str, tmp_path: Path) -> None:
    config = config_of(named)
    result = recognizer.loso(own, config=config, out=tmp_path / "loso")
    assert np.sum(result.metrics.confusion) == 12
    saved = train(own, None, config, out=tmp_path / "model")
    again = predict(tmp_path / "model", own)
    direct = saved.probabilities(load(own, SMALL, views=tuple(VIEWS)).inputs())
    np.testing.assert_allclose([r["p_surprise"] for r in again.table.to_pylist()], direct[:, 2], atol=1e-6)


def test_clips_in_memory_that_lack_a_view(own: Manifest, named: str, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"needs view 'active' \[N,3,32,32\].*is not among them"):
        recognizer.loso(load(own, SMALL), config=config_of(named), out=tmp_path / "x")
    other = load(own, replace(SMALL, frame_size=16), views=tuple(VIEWS))
    with pytest.raises(ManifestError, match=r"needs view 'active' \[N,3,32,32\].*has shape \(3, 16, 16\)"):
        recognizer.loso(other, config=config_of(named), out=tmp_path / "x")


def test_mixed_with_synthetic_clips(own: Manifest, named: str, tmp_path: Path) -> None:
    made = write(tmp_path / "made", [clip(50 + i) for i in range(6)], database="made", kind="synthetic")
    config = AblationConfig(
        models=("lda", named), data=SMALL, seeds=(0,), ratios=(0.5,), controls=("mirror",), resamples=100,
        train=TrainConfig(steps=3, batch=4), modes=("pool",),
    )  # fmt: skip
    result = recognizer.ablate(own, made, config=config, out=tmp_path / "ablation")
    assert {(row["model"], row["arm"]) for row in result.rows} >= {("lda", "synthetic"), (named, "mirror")}
    bare = write(tmp_path / "bare", [clip(60 + i) for i in range(6)], (), database="bare", kind="synthetic")
    with pytest.raises(ManifestError, match=r"clip bare/00/.* no view '(flows|landmarks)'; `mesynth prepare"):
        recognizer.ablate(own, bare, config=config, out=tmp_path / "refused")


def test_inputs_that_were_made_differently_are_told(own: Manifest, named: str, tmp_path: Path) -> None:
    def recorded(name: str, **steps: Any) -> Manifest:
        manifest = write(tmp_path / name, [clip(0)])
        run = {"stage": "prepare", "method": "tvl1", "magnify": "", "size": SIDE, "crop": "similarity"} | steps
        (tmp_path / name / "run.yaml").write_text(f"config: {run}\n")
        return manifest

    one, same, other = recorded("one"), recorded("same"), recorded("other", method="dis", magnify="phase:4", size=64)
    config = config_of(named)
    assert flow_notes([one], [same], config) == []
    assert flow_notes([one], [other], RunConfig()) == []  # flow images mix
    notes = flow_notes([one], [other], config)
    assert [note.partition(" made with ")[2] for note in notes] == [
        "magnify=none (one, same) and phase:4 (other): prepare them alike".replace("one, same", "one"),
        "method=tvl1 (one) and dis (other): prepare them alike",
        "size=48 (one) and 64 (other): prepare them alike",
    ]
    assert notes[1].startswith("views flows, landmarks were ")
    assert notes[2].startswith("view patches was ")


def test_views_take_little_more_memory_than_themselves(own: Manifest) -> None:
    """100 clips of all views (47 MB as they are stored); kept twice on the way, they would take 10 MB more."""
    many = Manifest.from_rows(
        [replace(row, clip_id=f"{row.clip_id}{k}") for k in range(9) for row in own][:100], own.root
    )  # fmt: skip
    load(own, SMALL, views=tuple(VIEWS))
    sizes: list[int] = []
    most = peak(lambda: sizes.append(sum(v.nbytes for v in load(many, SMALL, views=tuple(VIEWS)).inputs().values())))
    assert sizes == [100 * sum(int(np.prod(v.of(SMALL.shape()))) * np.dtype(v.dtype).itemsize for v in VIEWS.values())]
    assert most < sizes[0] + (9 << 20)


def test_a_set_of_views_knows_its_clips(own: Manifest) -> None:
    both = FlowSet.concat(
        [load(own[:3], SMALL, views=("flow", "flows")), load(own[3:5], SMALL, views=("flow", "flows"))]
    )
    np.testing.assert_array_equal(both.views["flows"], load(own[:5], SMALL, views=("flow", "flows")).views["flows"])
    assert read_views(own, own.row(0), ("mouth",), SMALL.shape())["mouth"].shape == (5, 16, 16)
