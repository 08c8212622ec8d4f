"""Hand-crafted features against scikit-image, against loops over pixels, and in closed form; and through the runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from skimage.feature import local_binary_pattern
from sklearn.svm import SVC

import recognizer
from mesynth.core.errors import ConfigError
from mesynth.core.framing import OWN, parse_framing
from mesynth.store.manifest import Manifest
from recognizer.cli import main
from recognizer.config import AblationConfig, RunConfig, idle_keys, load_config, needs_of, transform_of
from recognizer.data import DataConfig, FlowSet
from recognizer.fitting import fit, restored
from recognizer.mixing import Member, MixConfig
from recognizer.models import HANDCRAFTED, handcrafted
from recognizer.models.handcrafted import (
    REGIONS,
    BiWoofConfig,
    HoofConfig,
    LbpTopConfig,
    MdmoConfig,
    bi_woof,
    features,
    hoof,
    lbp_top,
    main_directions,
    mdmo,
    patterns,
    regions,
)
from recognizer.trained import load, predict, train
from recognizer.views import mirrored
from tests.recognizer.test_views import clip, write

RECIPES = Path(__file__).parents[3] / "configs" / "recognizer"
PLANES = {"xy": (1, 2), "xt": (0, 2), "yt": (0, 1)}


def clip_of(shape: tuple[int, int, int] = (11, 13, 12), seed: int = 0, levels: int = 256) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, levels, shape).astype(np.uint8)


def flows(n: int = 4, size: int = 21, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(n, 3, size, size)).astype(np.float32)
    x[:, 2] = np.abs(x[:, 2])
    return x


# ---------------------------------------------------------------- local binary patterns


@pytest.mark.filterwarnings("ignore:Applying `local_binary_pattern`")
@pytest.mark.parametrize(
    ("neighbours", "radius", "levels"),
    [(4, 1, 256), (4, 2, 3), (8, 1, 256), (8, 2, 256), (6, 2, 256), (16, 3, 256)],  # three levels: many are as bright
)
@pytest.mark.parametrize("plane", PLANES)
def test_patterns_are_those_of_scikit_image(plane: str, neighbours: int, radius: int, levels: int) -> None:
    values = clip_of(levels=levels)
    rows, columns = PLANES[plane]
    [across] = {0, 1, 2} - {rows, columns}
    found = patterns(values, (rows, columns), (radius, radius, radius), neighbours)
    inner = slice(radius, -radius)
    for i, image in enumerate(np.moveaxis(values, across, 0)[inner]):
        reference = local_binary_pattern(image, neighbours, radius, method="default")[inner, inner]
        ours = np.take(found, i, across)
        np.testing.assert_array_equal(ours, reference.astype(np.int64))


@pytest.mark.parametrize("neighbours", [4, 6, 8])
def test_uniform_patterns_are_those_of_scikit_image(neighbours: int) -> None:
    image = clip_of((1, 40, 40), seed=2)[0]
    ours = handcrafted._pattern_bins(neighbours, True)
    assert ours.max() + 1 == neighbours * (neighbours - 1) + 3
    codes = local_binary_pattern(image, neighbours, 1, method="default").astype(int).ravel()
    theirs = local_binary_pattern(image, neighbours, 1, method="nri_uniform").astype(int).ravel()
    pairs = set(zip(ours[codes].tolist(), theirs.tolist(), strict=True))
    assert len({a for a, _ in pairs}) == len({b for _, b in pairs}) == len(pairs)  # one bin for one bin


@pytest.mark.parametrize("neighbours", [4, 8, 12])
def test_among_pixels_of_one_brightness_all_neighbours_are_as_bright(neighbours: int) -> None:
    for level in range(0, 256, 15):
        values = np.full((9, 9, 9), level, np.uint8)
        for plane in PLANES.values():
            assert (patterns(values, plane, (3, 2, 2), neighbours) == 2**neighbours - 1).all()


def test_unequal_radii_by_hand() -> None:
    values, (rt, r) = clip_of((9, 7, 8), seed=3), (3, 2)
    for rows, columns in PLANES.values():
        found = patterns(values, (rows, columns), (rt, r, r), 4)
        assert found.shape == (3, 3, 4)
        reach = {0: rt, 1: r, 2: r}
        for at in np.ndindex(*found.shape):
            centre = np.array([rt, r, r]) + at
            code = 0
            for p, (dy, dx) in enumerate([(0, 1), (-1, 0), (0, -1), (1, 0)]):
                neighbour = centre.copy()
                neighbour[rows] += dy * reach[rows]
                neighbour[columns] += dx * reach[columns]
                code |= int(values[tuple(neighbour)] >= values[tuple(centre)]) << p
            assert found[at] == code


@pytest.mark.parametrize("uniform", [True, False])
@pytest.mark.parametrize("blocks", [1, 3, 5])
def test_histograms_are_counts_of_each_block_and_plane(blocks: int, uniform: bool) -> None:
    values = clip_of()
    config = LbpTopConfig(radius_time=2, blocks=blocks, uniform=uniform)
    count = 15 if uniform else 16
    found = lbp_top(values, config).reshape(blocks, blocks, 3, count)
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-6)
    bins = handcrafted._pattern_bins(4, uniform)
    for p, plane in enumerate(PLANES.values()):
        codes = bins[patterns(values, plane, (2, 1, 1), 4)]
        edges = [np.ceil(np.arange(blocks + 1) * n / blocks).astype(int) for n in codes.shape[1:]]
        for i, j in np.ndindex(blocks, blocks):
            part = codes[:, edges[0][i] : edges[0][i + 1], edges[1][j] : edges[1][j + 1]]
            np.testing.assert_allclose(
                found[i, j, p], np.bincount(part.ravel(), minlength=count) / part.size, atol=1e-6
            )


def test_patterns_do_not_see_light_but_movement() -> None:
    values = np.random.default_rng(0).integers(60, 120, (1, 20, 20)).repeat(9, 0).astype(np.uint8)
    still = lbp_top(values, LbpTopConfig(blocks=1))
    np.testing.assert_array_equal(lbp_top((values * 2).astype(np.uint8), LbpTopConfig(blocks=1)), still)
    moving = np.stack([np.roll(values[0], t, 1) for t in range(9)])
    changed = lbp_top(moving, LbpTopConfig(blocks=1)).reshape(3, -1)
    assert np.abs(changed[0] - still.reshape(3, -1)[0]).max() < 0.1  # the texture is the same
    assert np.abs(changed[1] - still.reshape(3, -1)[1]).max() > 0.2


# ---------------------------------------------------------------- directions of flow


@pytest.mark.parametrize("size", [20, 21])
@pytest.mark.parametrize(("local", "world"), [("magnitude", "strain"), ("none", "magnitude"), ("strain", "none")])
def test_bi_woof_is_a_loop_over_blocks_and_pixels(local: str, world: str, size: int) -> None:
    x, config = flows(size=size), BiWoofConfig(local=local, world=world, blocks=3)
    edges = np.ceil(np.arange(4) * size / 3).astype(int)
    for image, found in zip(x, bi_woof(x, config), strict=True):
        expected = []
        for i, j in np.ndindex(3, 3):
            u, v, strain = image[:, edges[i] : edges[i + 1], edges[j] : edges[j + 1]].reshape(3, -1)
            weight = {"magnitude": np.hypot(u, v), "strain": strain, "none": np.ones_like(u)}
            bins = [0.0] * 8
            for k, degrees in enumerate(np.degrees(np.arctan2(v, u))):
                bins[int((degrees + 180) // 45) % 8] += weight[local][k]
            total = 1 if world == "none" else weight[world].sum()
            expected.append(np.array(bins) / np.sum(bins) * (len(u) if world == "none" else total))
        whole = np.concatenate(expected)
        np.testing.assert_allclose(found, whole / np.linalg.norm(whole), atol=1e-5)


def test_bi_woof_weighs_pixels_by_magnitude_and_blocks_by_strain() -> None:
    x = np.zeros((1, 3, 10, 10), np.float32)
    x[0, 0, :, :5], x[0, 2, :, :5] = 1, 3.0  # left half to the right, strained thrice as much
    x[0, 1, :, 5:], x[0, 2, :, 5:] = 1, 1.0
    x[0, :2, 0, 0] = (0, -2)  # one pixel upwards, twice as far
    found = bi_woof(x, BiWoofConfig(blocks=2)).reshape(2, 2, 8)
    right, down, up = 4, 6, 2
    assert found[1, 0].nonzero()[0].tolist() == [right]
    assert found[1, 1].nonzero()[0].tolist() == [down]
    assert found[1, 0, right] == pytest.approx(3 * found[1, 1, down])
    assert found[0, 0, up] / found[0, 0].sum() == pytest.approx(2 / 26)
    assert np.linalg.norm(found) == pytest.approx(1)
    assert not bi_woof(np.zeros_like(x)).any()


def test_hoof_is_chaudhrys_histogram() -> None:
    x, bins = flows(), 30
    found = hoof(x, HoofConfig(blocks=1))
    for image, one in zip(x, found, strict=True):
        expected = np.zeros(bins)
        for u, v in image[:2].reshape(2, -1).T:
            angle = np.arctan(v / abs(u))
            for b in range(bins):
                if -np.pi / 2 + np.pi * b / bins <= angle < -np.pi / 2 + np.pi * (b + 1) / bins:
                    expected[b] += np.hypot(u, v)
        np.testing.assert_allclose(one, expected / expected.sum(), atol=1e-5)
    np.testing.assert_allclose(hoof(mirrored("flow", x), HoofConfig(blocks=1)), found, atol=1e-6)
    np.testing.assert_allclose(hoof(x * 7, HoofConfig(blocks=1)), found, atol=1e-6)
    sided = HoofConfig(blocks=1, symmetric=False, bins=8)
    assert np.abs(hoof(mirrored("flow", x), sided) - hoof(x, sided)).max() > 1e-3
    one_way = np.zeros((1, 3, 8, 8), np.float32)
    one_way[0, 0] = -1  # to the left: the bin of 180 degrees is the first
    assert hoof(one_way, sided)[0].tolist() == [1, 0, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("name", ["hoof", "bi_woof"])
def test_histograms_in_blocks_are_those_of_the_blocks(name: str) -> None:
    x = flows(size=20)
    small: Any = (HoofConfig if name == "hoof" else BiWoofConfig)(blocks=1)
    make: Any = hoof if name == "hoof" else bi_woof
    found = make(x, replace(small, blocks=2)).reshape(4, 2, 2, -1)
    for i, j in np.ndindex(2, 2):
        part = make(np.ascontiguousarray(x[..., 10 * i : 10 * i + 10, 10 * j : 10 * j + 10]), small)
        unit = found[:, i, j] / found[:, i, j].sum(1, keepdims=True)
        np.testing.assert_allclose(unit, part / part.sum(1, keepdims=True), atol=1e-5)


def test_the_regions_are_36_that_lie_on_the_face_symmetrically() -> None:
    assert len(REGIONS) == 36
    masks = regions(100)
    assert masks.any((1, 2)).all()
    assert masks.sum(0).max() == 1  # they share no pixel
    np.testing.assert_array_equal(masks[16:32], masks[:16, :, ::-1])
    assert all(regions(size).any((1, 2)).all() for size in (14, 28, 57))
    eyes, mouth = (0.35, 0.30), (0.80, 0.345)
    assert not masks[:, int(100 * eyes[0]), int(100 * eyes[1])].any()  # lids blink
    assert masks[13, int(100 * mouth[0]), int(100 * mouth[1])]


def test_regions_go_with_the_face() -> None:
    tight = parse_framing("eyes=0.5,row=0.3")
    own, there = regions(200), regions(200, tight)
    for r in (5, 10, 13, 33):
        (y, x), (y2, x2) = (np.argwhere(masks[r]).mean(0) / 200 for masks in (own, there))
        assert ((x - OWN.column) / OWN.eyes, (y - OWN.row) / OWN.height) == pytest.approx(
            ((x2 - tight.column) / tight.eyes, (y2 - tight.row) / tight.height), abs=0.03
        )
    outside = regions(28, parse_framing("eyes=0.9,row=0.1"))
    assert not outside[0].any()  # the forehead is cut off, and its vector 0
    found = main_directions(flows(size=28), frame=parse_framing("eyes=0.9,row=0.1"))
    assert not found[:, 0].any()
    assert found[:, 33].any()  # the bridge of the nose


def test_the_main_direction_leaves_the_minority_out() -> None:
    x = np.zeros((1, 3, 100, 100), np.float32)
    corner, noise = regions(100)[13], np.random.default_rng(0).random((100, 100)) < 0.3
    x[0, 0][corner], x[0, 1][corner] = 0.3, -1.0
    x[0, 0][corner & noise], x[0, 1][corner & noise] = -50, 40
    x[0, 1][regions(100)[0]] = 0.5
    found = main_directions(x)[0]
    assert found[13] == pytest.approx([0.3, -1.0])
    vector = mdmo(found[None])[0]
    assert vector.shape == (72,)
    assert vector[13] == pytest.approx(0.9)  # the largest
    assert vector[0] == pytest.approx(0.9 * 0.5 / np.hypot(0.3, 1))
    assert vector[36 + 13] == pytest.approx(0.1 * np.arctan2(-1, 0.3))
    assert not vector[[14, 36 + 14]].any()


def test_main_directions_are_loops_over_pixels() -> None:
    x = flows(3, 40)
    found = main_directions(x, 6)
    for image, one in zip(x, found, strict=True):
        for region, mean in zip(regions(40), one, strict=True):
            u, v = image[:2, region]
            bins = ((np.degrees(np.arctan2(v, u)) + 180) // 60).astype(int) % 6
            main = np.bincount(bins, minlength=6).argmax()
            np.testing.assert_allclose(mean, [u[bins == main].mean(), v[bins == main].mean()], atol=1e-5)


def test_a_sequence_is_the_mean_over_its_flows() -> None:
    x = np.stack([flows(2, 28, seed) for seed in range(3)], 1).astype(np.float16)
    each = [x[:, k].astype(np.float32) for k in range(3)]
    config = HoofConfig(flow="sequence")
    np.testing.assert_allclose(features(config, {"flows": x}), np.mean([hoof(one) for one in each], 0), atol=1e-6)
    means = np.mean([main_directions(one) for one in each], 0)
    np.testing.assert_allclose(features(MdmoConfig(flow="sequence"), {"flows": x}), mdmo(means), atol=1e-5)


# ---------------------------------------------------------------- the linear machine


def test_the_machine_is_scikit_learns_on_scaled_features() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(30) % 3
    x = rng.normal(size=(30, 50)) * 9 + y[:, None] * rng.normal(size=50) + 100
    weights = np.where(np.arange(30) < 24, 1.0, 0.0)
    model = handcrafted.fit(x, y, weights, 4, 2.0)
    own = x[:24] - x[:24].mean(0)
    scale = np.sqrt((own**2).sum(1).mean())
    for k in range(3):
        reference = SVC(C=2.0, kernel="linear").fit(own / scale, y[:24] == k)
        expected = reference.decision_function((x - x[:24].mean(0)) / scale)
        np.testing.assert_allclose(x @ model.weight[k] + model.bias[k], expected, atol=3e-3)
    p = model.probabilities(x)
    np.testing.assert_allclose(p.sum(1), 1)
    assert not p[:, 3].any()  # nobody showed it
    again = handcrafted.fit(x * 50 - 3, y, weights, 4, 2.0).probabilities(x * 50 - 3)
    np.testing.assert_allclose(again, p, atol=1e-3)  # units do not matter


def test_clips_that_count_twice_count_twice() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(20, 6)), np.arange(20) % 2
    twice = handcrafted.fit(x, y, np.where(np.arange(20) < 5, 2.0, 1.0), 2, 1.0)
    repeated = handcrafted.fit(np.concatenate([x, x[:5]]), np.concatenate([y, y[:5]]), np.ones(25), 2, 1.0)
    np.testing.assert_allclose(twice.weight, repeated.weight, atol=1e-2)


# ---------------------------------------------------------------- through the recognizer


SMALL = DataConfig(size=28, frame_size=32, frames=9, key_frames=3)
SETTINGS = ("data.frame_size=32", "data.frames=9")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """12 clips of 4 people whose classes brighten and move other halves of the face."""
    clips = []
    for i in range(12):
        one = clip(i % 3 + 20)  # what a class looks like, but for
        noise = np.random.default_rng(i).integers(-3, 4, one["frames"].shape)
        one["frames"] = np.clip(one["frames"] + noise, 0, 255).astype(np.uint8)
        one["flow"] = one["flow"] + np.random.default_rng(i).normal(0, 0.2, one["flow"].shape).astype(np.float32)
        clips.append(one)
    return write(tmp_path_factory.mktemp("hand") / "own", clips)


@pytest.mark.parametrize("model", HANDCRAFTED)
def test_tested_saved_and_used(own: Manifest, model: str, tmp_path: Path) -> None:
    config = RunConfig(model=model, data=SMALL)
    result = recognizer.loso(own, config=config)
    assert result.metrics.uf1 > 0.9
    assert result.model == model
    saved = train(own, None, config, out=tmp_path / "model")
    p = np.array([[row[f"p_{name}"] for name in config.data.classes] for row in predict(saved, own).table.to_pylist()])
    again = predict(load(tmp_path / "model"), own).table.to_pylist()
    np.testing.assert_allclose([[row[f"p_{n}"] for n in config.data.classes] for row in again], p, atol=1e-12)
    assert saved.members.n_parameters == saved.members.tensors()["weight"][0].numel() + 3


@pytest.mark.parametrize("flow", ["mdmo.flow", "hoof.flow"])
def test_flows_of_whole_clips_are_read_where_they_are_asked_for(own: Manifest, flow: str) -> None:
    model = flow.partition(".")[0]
    config = load_config(RunConfig, None, [f"model={model}", f"{flow}=sequence", "data.key_frames=3"])
    assert needs_of(config) == ("flow", "flows")
    assert recognizer.loso(own, config=config).metrics.uf1 > 0.5
    with pytest.raises(ConfigError, match=r"data\.key_frames has no effect"):
        load_config(RunConfig, None, [f"model={model}", "data.key_frames=3"])


@pytest.mark.parametrize("mode", ["prior", "pool", "fuse", "synthetic-only"])
def test_mixed_with_synthetic_clips(own: Manifest, mode: str, tmp_path: Path) -> None:
    made = write(tmp_path / "made", [clip(i % 3 + 20) for i in range(6)], database="made", kind="synthetic")
    config = AblationConfig(
        models=HANDCRAFTED, modes=(mode,), data=SMALL, seeds=(0,), ratios=(0.5,), controls=("mirror",), resamples=100
    )
    rows = recognizer.ablate(own, made, config=config).rows
    assert {row["model"] for row in rows} == set(HANDCRAFTED)
    assert {row["arm"] for row in rows} == {"none", "synthetic", "mirror"}
    assert max(row["uf1"] for row in rows if row["arm"] == "synthetic") > 0.9


def test_a_member_learns_from_its_own_clips_alone(sets: dict[str, FlowSet]) -> None:
    real = sets["real"]
    half = (np.arange(len(real)) < 24).astype(float)
    config = RunConfig(model="bi_woof")
    one = fit(real, np.zeros(len(real), bool), [Member.of("f", 0, half, real.y)], config)
    part = real.take(half > 0)
    alone = fit(part, np.zeros(24, bool), [Member.of("f", 0, np.ones(24), part.y)], config)
    np.testing.assert_allclose(one.probabilities(0, real.x), alone.probabilities(0, real.x), atol=1e-9)
    again = restored(config, one.tensors())
    np.testing.assert_allclose(again.probabilities(0, real.x), one.probabilities(0, real.x), atol=1e-12)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (["model=lbp_top", "data.frames=8"], "lbp_top.radius_time=4 needs data.frames=9 or more, and there are 8"),
        (["model=lbp_top", "data.frame_size=16", "lbp_top.blocks=15"], "lbp_top.blocks=15 has no pixel for each block"),
        (["model=hoof", "hoof.blocks=29"], "hoof.blocks=29 has no pixel for each block in flow of 28 pixels"),
        (["model=bi_woof", "data.pool=4"], "bi_woof.blocks=5 has no pixel for each block in flow of 4 pixels"),
        (["model=lbp_top", "lbp_top.neighbours=17"], "lbp_top.neighbours=17 is outside 2..16"),
        (["model=hoof", "hoof.c=0"], "hoof.c=0 must be positive"),
        (["model=mdmo", "mdmo.magnitude=1.2"], "mdmo.magnitude=1.2 is outside 0..1"),
        (["model=mdmo", "mdmo.flow=all"], "mdmo.flow='all' is unknown; choose from apex, sequence"),
        (["model=mdmo", "mdmo.frame=like:x"], "framing 'like:x' is unknown"),
        (["model=bi_woof", "bi_woof.world=motion"], "bi_woof.world='motion' is unknown; choose from magnitude, strain"),
        (["model=hoof", "bi_woof.bins=4"], "bi_woof.bins has no effect"),
        (["model=bi_woof", "train.steps=4"], "train.steps has no effect: model bi_woof is not trained in steps"),
        (["model=bi_woof", "mix.align=false"], "mix.align has no effect: model bi_woof has no channels of flow"),
        (["model=bi_woof", "mix.mode=pretrain"], "mix.mode=pretrain is for networks, and bi_woof is fitted at once"),
    ],
)
def test_mistakes_are_one_line(settings: list[str], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(RunConfig, None, settings)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("model", HANDCRAFTED)
def test_inputs_that_leave_nothing_to_read(model: str) -> None:
    for settings, text in (("data.symmetric=true", f"feature {model} reads both"), ("data.input=bytes", "stretched")):
        with pytest.raises(ConfigError, match=text):
            transform_of(load_config(RunConfig, None, [f"model={model}", settings]))


def test_exit_code_of_a_mistake(own: Manifest, tmp_path: Path) -> None:
    found = CliRunner().invoke(
        main, ["loso", "--real", str(own.root), "model=lbp_top", "data.frames=7", "--out", str(tmp_path / "x")]
    )
    assert found.exit_code == 2, found.output
    assert "lbp_top.radius_time=4 needs data.frames=9 or more" in found.output
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_view_that_is_not_there_is_said_before_anything_is_written(tmp_path: Path, more: list[str]) -> None:
    bare = write(tmp_path / "bare", [clip(i) for i in range(6)], stored=())
    settings = ["model=mdmo", "mdmo.flow=sequence", *more]
    found = CliRunner().invoke(main, ["loso", "--real", str(bare.root), *settings, "--out", str(tmp_path / "x")])
    assert found.exit_code == 2, found.output
    [line] = [text for text in found.stderr.splitlines() if "no view" in text]
    assert "clip db/00/real000/0" in line
    assert "no view 'flows'; `mesynth prepare ... --inputs flows` makes it" in line
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("model", HANDCRAFTED)
def test_recipes_say_what_the_defaults_are(model: str) -> None:
    settings = yaml.safe_load((RECIPES / f"{model}.yaml").read_text())
    assert set(settings) == {"model", "data", model}
    config = load_config(RunConfig, RECIPES / f"{model}.yaml")
    assert getattr(config, model) == type(getattr(config, model))()
    assert set(settings[model]) == set(vars(getattr(config, model)))
    assert "mix.align" in idle_keys(replace(config, mix=MixConfig()), synthetic=True)
