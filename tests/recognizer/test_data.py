from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mesynth.core import facs
from mesynth.core.errors import ConfigError, ManifestError
from mesynth.store.manifest import Manifest
from mesynth.store.shards import ShardWriter, npy_bytes, read_flow
from recognizer import data
from recognizer.config import RunConfig, load_config, transform_of
from recognizer.data import (
    DataConfig,
    FlowSet,
    FlowTransform,
    flow_image,
    flow_images,
    load,
    mirror,
    require_one_unit,
    swap_sides,
)
from recognizer.protocol import make_folds, mix
from recognizer.views import gather_moved
from tests.builders import row
from tests.fuzz.damage import peak
from tests.recognizer.corpora import write_corpus


def test_flow_of_any_crop_size_gives_one_image() -> None:
    def field(size: int) -> np.ndarray:
        grid = (np.arange(size) + 0.5) / size
        x, y = np.meshgrid(grid, grid)
        shift = 0.02 * size * np.exp(-((x - 0.4) ** 2 + (y - 0.6) ** 2) / 0.05)  # 2 % of the width at the peak
        return np.stack([shift, -shift]).astype(np.float32)

    small, large = flow_image(field(56)), flow_image(field(224))
    assert small.shape == (3, 28, 28)
    assert small.dtype == np.float32
    # Averaging over 4 and over 64 pixels differs a little at the curved peak.
    np.testing.assert_allclose(small, large, atol=0.01 * np.abs(large).max())
    assert large[0].max() == pytest.approx(0.02 * 28, rel=0.02)


def test_strain_is_taken_after_the_resize() -> None:
    uv = np.zeros((2, 112, 112), np.float32)
    uv[0, :, ::2] = 1.0  # alternates every pixel: no strain is left once it is averaged
    assert np.abs(flow_image(uv)[2]).max() < 1e-6


def test_robust_normalisation_removes_a_shift_and_the_scale() -> None:
    rng = np.random.default_rng(0)
    uv = rng.normal(size=(2, 56, 56)).astype(np.float32)
    config = DataConfig(normalise="robust")
    np.testing.assert_allclose(flow_image(uv * 3 + 5, config), flow_image(uv, config), atol=1e-4)


def test_a_crop_smaller_than_the_image_is_interpolated() -> None:
    image = flow_image(np.full((2, 14, 14), 0.5, np.float32))
    np.testing.assert_allclose(image[:2], 1.0)


def test_load_keeps_what_the_protocol_needs(corpora: dict[str, Manifest]) -> None:
    s = load(corpora["synthetic"])
    assert len(s) == 240
    assert s.synthetic.all()
    assert s.class_counts.tolist() == [80, 80, 80]
    assert set(s.generators) == {"prior"}
    assert s.au[s.y == 1].reshape(-1, 25, 2)[:, facs.AU_INDEX[12]].all()


def test_clips_without_a_class_are_counted(tmp_path: Path) -> None:
    manifest = write_corpus(tmp_path / "a", subjects=2, clips=3)
    rows = [replace(row, label="" if i == 0 else row.label) for i, row in enumerate(manifest)]
    changed = Manifest.from_rows(rows, manifest.root)
    s = load(changed)
    assert (len(s), s.left_out) == (5, {"(none)": 1})
    everything = load(changed, unlabelled=True)
    assert everything.y.tolist()[0] == -1
    assert len(everything) == 6


def test_other_class_schemes(corpora: dict[str, Manifest]) -> None:
    s = load(corpora["real"], DataConfig(label="emotion", classes=("surprise", "positive")))
    assert s.class_counts.tolist() == [16, 16]
    assert s.left_out == {"negative": 16}


def test_wrong_manifests_say_what_is_wrong(corpora: dict[str, Manifest], tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"no clip of .* among \['a', 'b'\]; found negative x16"):
        load(corpora["real"], DataConfig(classes=("a", "b")))
    with pytest.raises(ManifestError, match="occurs twice"):
        load([corpora["real"], corpora["real"]])
    rows = [replace(row, flow=None) for row in corpora["real"]]
    with pytest.raises(ManifestError, match="has no flow; run `mesynth prepare`"):
        load(Manifest.from_rows(rows, tmp_path))


@pytest.mark.parametrize(
    "values", [{"size": 30}, {"normalise": "zscore"}, {"label": "class"}, {"classes": ("a",)}, {"power": 0.0}]
)
def test_bad_data_settings(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        DataConfig(**values)  # type: ignore[arg-type]


def test_mirroring_equals_the_flow_of_the_mirrored_face() -> None:
    rng = np.random.default_rng(0)
    uv = rng.normal(size=(2, 28, 28)).astype(np.float32)
    au = np.zeros((1, 50), np.int8)
    au.reshape(1, 25, 2)[0, facs.AU_INDEX[12]] = (1, 0)  # left only
    mirrored_uv = uv[..., ::-1] * np.array([-1, 1], np.float32)[:, None, None]
    x, sides = mirror(flow_image(uv)[None], au)
    np.testing.assert_allclose(x[0], flow_image(np.ascontiguousarray(mirrored_uv)), atol=1e-6)
    assert sides.reshape(25, 2)[facs.AU_INDEX[12]].tolist() == [0, 1]
    again, au_again = mirror(x, sides)
    np.testing.assert_array_equal(again[0], flow_image(uv))
    np.testing.assert_array_equal(au_again, au)


def test_the_stacked_augmentation_equals_the_plain_one() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 3, 28, 28)).astype(np.float32)
    au = rng.integers(-1, 2, (4, 50)).astype(np.int8)
    expected_x, expected_au = mirror(x, au)
    index, flip = torch.tensor([[2, 0], [1, 3]]), torch.tensor([[True, False], [False, True]])
    dy, dx = torch.tensor([[0, 1], [0, 0]]), torch.tensor([[0, -2], [0, 3]])
    moved = gather_moved(torch.from_numpy(x), index, flip, dy, dx, signed=True).numpy()
    assert moved.shape == (2, 2, 3, 28, 28)
    np.testing.assert_array_equal(moved[0, 0], expected_x[2])
    np.testing.assert_array_equal(moved[0, 1, :, 1:, :-2], x[0, :, :-1, 2:])
    np.testing.assert_array_equal(moved[1, 0], x[1])
    np.testing.assert_array_equal(moved[1, 1, :, :, :-3], expected_x[3, :, :, 3:])  # right, then mirrored: left
    sides = swap_sides(torch.from_numpy(au)[index], flip).numpy()
    np.testing.assert_array_equal(sides[0], [expected_au[2], au[0]])


def test_sets_that_differ_do_not_join(sets: dict[str, FlowSet]) -> None:
    with pytest.raises(ManifestError, match="in both manifests"):
        FlowSet.concat([sets["real"], sets["real"]])
    other = replace(sets["synthetic"], classes=("a", "b", "c"))
    with pytest.raises(ManifestError, match="flow sets differ"):
        FlowSet.concat([sets["real"], other])


@pytest.mark.parametrize("how", ["read together", "joined"])
@pytest.mark.parametrize(
    ("generators", "seeds", "apart"),
    [
        (("a", "b"), (1, 1), True),
        (("a", "a"), (1, 2), True),
        (("a", "a"), (1, 1), False),
        (("a", "a"), (-1, -1), False),
    ],
)
def test_synthetic_clips_of_one_name_are_told_apart_by_their_draw(
    corpora: dict[str, Manifest], how: str, generators: tuple[str, str], seeds: tuple[int, int], apart: bool
) -> None:
    """Corpora of several generators name their clips alike; what is the same draw may still enter once."""
    rows = list(corpora["synthetic"])[:6]
    two = [
        Manifest.from_rows(
            [replace(row, provenance=replace(row.provenance, generator=g, seed=s)) for row in rows],
            corpora["synthetic"].root,
        )
        for g, s in zip(generators, seeds, strict=True)
    ]

    def both() -> FlowSet:
        return load(two) if how == "read together" else FlowSet.concat([load(one) for one in two])

    if not apart:
        with pytest.raises(ManifestError, match="may enter once" + ("; draw one of two" if seeds[0] > 0 else "$")):
            both()
        return
    found = both()
    assert len(set(found.clip_ids)) == 12
    assert {name.partition("#")[0] for name in found.clip_ids} == {row.clip_id for row in rows}
    assert found.take(np.arange(6)).draws.tolist() == [f"{generators[0]}, seed {seeds[0]}"] * 6
    assert load(two[0]).clip_ids.tolist() == [row.clip_id for row in rows]  # names that are nobody else's stay


# ---------------------------------------------------------------- units


def in_rms_units(clips: FlowSet) -> FlowSet:
    x = clips.x.copy()
    x[:, :2] /= np.sqrt((x[:, :2] ** 2).mean((1, 2, 3), keepdims=True))
    return replace(clips, x=x, own_rms=np.zeros(0, np.bool_))


def test_units_are_found_in_arrays_and_in_stored_flow(corpora: dict[str, Manifest]) -> None:
    pixels = load(corpora["real"])
    assert not pixels.own_rms.any()
    assert in_rms_units(pixels).own_rms.all()
    assert load(corpora["real"], DataConfig(normalise="robust")).own_rms.all()  # one scale for everything
    assert not pixels.take(np.arange(5)).own_rms.any()


@pytest.mark.parametrize("which", ["real", "synthetic"])
def test_pixels_beside_units_of_their_own_rms_are_refused(corpora: dict[str, Manifest], which: str) -> None:
    """Which costs .056 UF1 without a word (measured on the MEGC 2019 composite's flow images)."""
    sets = {name: load(corpora[name]) for name in ("real", "synthetic")}
    require_one_unit(sets["real"], None)
    require_one_unit(sets["real"], sets["synthetic"])
    require_one_unit(*map(in_rms_units, sets.values()))
    mixed = sets | {which: in_rms_units(sets[which])}
    with pytest.raises(ManifestError, match=f"{which} clips of .* own rms.*data.normalise=robust"):
        mix(mixed["real"], mixed["synthetic"], make_folds(mixed["real"]), ratio=1)


def test_two_databases_of_different_units_are_refused(corpora: dict[str, Manifest]) -> None:
    one = load(corpora["real"])
    other = in_rms_units(one)
    other = replace(other, clip_ids=np.char.add(other.clip_ids, "b"), databases=np.full(len(one), "other"))
    with pytest.raises(ManifestError, match="real clips of other is in units of its own rms"):
        require_one_unit(FlowSet.concat([one, other]))


# ---------------------------------------------------------------- what models do to flow images first


def test_a_transform_raises_signed_values_then_averages_over_cells() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 3, 28, 28)).astype(np.float32)
    assert FlowTransform()(x) is x
    raised = np.sign(x) * np.sqrt(np.abs(x))
    cells = FlowTransform(power=0.5, pool=7)(x)
    assert cells.shape == (2, 3, 7, 7)
    assert cells.dtype == np.float32
    np.testing.assert_allclose(cells[1, 2, 6, 0], raised[1, 2, 24:, :4].mean(), rtol=1e-5)
    np.testing.assert_allclose(FlowTransform(power=0.5, pool=28)(x), raised, rtol=1e-6)


@pytest.mark.parametrize("pool", [0, 14, 7])
def test_both_sides_of_a_face_are_averaged(pool: int) -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 28, 28)).astype(np.float32)
    mirrored, _ = mirror(x, np.zeros((2, 50), np.int8))
    one, other = (FlowTransform(power=0.7, pool=pool, symmetric=True)(clips) for clips in (x, mirrored))
    side = pool or 28
    assert one.shape == (2, 3, side, (side + 1) // 2)
    np.testing.assert_allclose(one, other, atol=1e-6)  # what differs between the sides is gone
    whole = [FlowTransform(power=0.7, pool=pool)(clips) for clips in (x, mirrored)]
    np.testing.assert_allclose(one, ((whole[0] + whole[1]) / 2)[..., : (side + 1) // 2], atol=1e-6)


def test_networks_read_both_sides() -> None:
    assert transform_of(RunConfig()).symmetric
    assert not transform_of(RunConfig(model="ststnet")).symmetric
    with pytest.raises(ConfigError, match=r"data\.symmetric=true leaves one side of the face, and network ststnet"):
        transform_of(load_config(RunConfig, None, ["model=ststnet", "data.symmetric=true"], synthetic=False))


@pytest.mark.parametrize("pool", [1, 5, -7, 56])
def test_cells_that_do_not_divide_the_size_are_refused(pool: int) -> None:
    """With what the number means, and every number that is taken."""
    with pytest.raises(ConfigError, match=f"data.pool={pool}: .*cells a side.*choose from 2, 4, 7, 14, 28, or 0"):
        DataConfig(pool=pool)


@pytest.mark.parametrize("size", [16, 28, 40])
@pytest.mark.parametrize("normalise", ["none", "robust"])
@pytest.mark.parametrize("shape", [(28, 28), (21, 64), (128, 128)])
def test_an_image_does_not_depend_on_the_others(shape: tuple[int, int], normalise: str, size: int) -> None:
    uv = np.random.default_rng(1).normal(size=(7, 2, *shape)).astype(np.float32)
    uv[3] = 0
    config = DataConfig(normalise=normalise, size=size)
    together = flow_images(uv, config)
    assert together.dtype == np.float32
    assert together.strides[1:] == flow_image(uv[0], config).strides
    for image, one in zip(together, uv, strict=True):
        assert image.tobytes() == flow_image(one, config).tobytes()


@pytest.mark.parametrize("most", [1, 2 * 28 * 28, 3 * 2 * 28 * 28 + 1, 10**9])
def test_images_do_not_depend_on_how_many_are_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """Clips of three sizes by turns and in runs, against one clip after the other."""
    rng = np.random.default_rng(2)
    sizes = [28, 28, 28, 56, 28, 56, 56, 56, 56, 30, 28]
    rows = []
    with ShardWriter(tmp_path / "x.tar") as writer:
        for i, side in enumerate(sizes):
            flow = rng.normal(size=(2, side, side)).astype(np.float32)
            span = writer.add(f"{i:08d}", {"flow.npy": npy_bytes(flow)})
            rows.append(row(f"{i:03d}", flow=span, label="surprise" if i % 3 else ""))
    manifest = Manifest.from_rows(rows, tmp_path)
    monkeypatch.setattr(data, "_AT_ONCE", most)
    told: list[tuple[int, int]] = []
    loaded = load(manifest, progress=lambda *at: told.append(at))
    kept = [one for one in manifest if one.label]
    assert loaded.clip_ids.tolist() == [one.clip_id for one in kept]
    assert loaded.left_out == {"(none)": 4}
    assert told == [(i, 7) for i in range(8)]
    for image, one in zip(loaded.x, kept, strict=True):
        assert image.tobytes() == flow_image(read_flow(tmp_path, one)).tobytes()


def test_rows_of_other_numbers_of_aus_are_refused(corpora: dict[str, Manifest]) -> None:
    rows = [replace(r, au_present=(1,) * 49) if i == 3 else r for i, r in enumerate(corpora["real"])]
    with pytest.raises(ManifestError, match=f"clip {rows[3].clip_id} lists 49 AUs, not 50"):
        load(Manifest.from_rows(rows, corpora["real"].root))


def test_a_set_takes_little_more_memory_than_itself(tmp_path: Path) -> None:
    """400 clips of 64 pixels (13 MB of flow) become 400 images of 28."""
    rng = np.random.default_rng(0)
    with ShardWriter(tmp_path / "x.tar") as writer:
        spans = [
            writer.add(f"{i:08d}", {"flow.npy": npy_bytes(rng.normal(size=(2, 64, 64)).astype(np.float32))})
            for i in range(400)
        ]
    manifest = Manifest.from_rows([row(f"{i:03d}", flow=s, label="surprise") for i, s in enumerate(spans)], tmp_path)
    load(manifest[:20])
    sizes: list[int] = []
    most = peak(lambda: sizes.append(load(manifest).x.nbytes))
    assert sizes == [400 * 3 * 28 * 28 * 4]
    assert most < sizes[0] + (10 << 20)
