"""Published flow images: the tree, the order of the channels, the flow they came from, and the road to a LOSO."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from mesynth.cli import main
from mesynth.core.errors import DatasetLayoutError, MesynthError, RunFolderError, UnreadableImageError
from mesynth.core.types import optical_strain
from mesynth.datasets.flow_folders import (
    ORDERS,
    UNITS,
    import_flow_folders,
    order_agreement,
    read_flow_folders,
    read_flow_image,
    require_order,
    strain_agreement,
    unstretch,
)
from mesynth.store.manifest import Manifest
from mesynth.store.shards import STRETCHED, read_extra, read_flow
from recognizer.config import RunConfig
from recognizer.data import load
from recognizer.run import loso
from tests.datasets.releases.flow_folders import (
    FlowImage,
    flow_images,
    planes_of,
    shrunk,
    smooth_flow,
    stretched,
    write_flow_folders,
)

IMAGES = flow_images()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_flow_folders(tmp_path_factory.mktemp("flow") / "three_norm_u_v_os", IMAGES)


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(root, tmp_path / "copy"))


# ---------------------------------------------------------------- the tree


def test_every_clip_once_with_the_loaders_keys(root: Path) -> None:
    found = read_flow_folders(root)
    assert found.violations == ()
    assert [clip.clip_id for clip in found.clips] == sorted(
        [f"samm/006/006_{n}_2/0" for n in range(3)]
        + [f"samm/007/007_{n}_1/0" for n in range(3)]
        + [f"smic/s01/s1_ne_0{n}/0" for n in range(3)]  # the release's name of s01_ne_00
        + [f"casme2/sub01/EP0{n}_01f/0" for n in range(3)]
        + [f"casme2/sub26/EP1{n}_50/0" for n in range(3)]
    )
    assert [clip.label for clip in found.clips[:3]] == ["negative", "positive", "surprise"]
    assert found.clips[0].file == "sub01/u_test/0/sub01_EP00_01f .png"


def test_counts(root: Path) -> None:
    one_each = {"negative": 1, "positive": 1, "surprise": 1}
    assert read_flow_folders(root).to_dict() == {
        "clips": 15,
        "subjects": 5,
        "classes": {
            "casme2": {"negative": 2, "positive": 2, "surprise": 2},
            "samm": {"negative": 2, "positive": 2, "surprise": 2},
            "smic": one_each,
        },
        "violations": [],
    }


def test_subjects_without_their_zeros(tmp_path: Path) -> None:
    images = [FlowImage(s, "c1", "negative", IMAGES[0].flow) for s in ("6", "s1", "sub1")]
    found = read_flow_folders(write_flow_folders(tmp_path, images))
    assert [clip.clip_id for clip in found.clips] == ["casme2/sub01/c1/0", "samm/006/c1/0", "smic/s01/c1/0"]


def test_subjects_of_another_database(tmp_path: Path) -> None:
    root = write_flow_folders(tmp_path, [FlowImage("spNO1", "a_1", "negative", IMAGES[0].flow)])
    with pytest.raises(
        DatasetLayoutError, match=r"'spNO1' is named like none of SAMM \(006\).*whose it is with database="
    ):
        read_flow_folders(root)
    assert read_flow_folders(root, database="casme3").clips[0].clip_id == "casme3/spNO1/a_1/0"


def test_violations_of_u_train_are_told_and_do_not_matter(copy: Path) -> None:
    train = copy / "006/u_train/0"
    own = copy / "006/u_test/0/006_006_0_2 .png"
    shutil.copy(own, train)
    (train / "007_007_0_1 .png").rename(copy / "006/u_train/1/007_007_0_1 .png")
    (train / "s01_s01_ne_00 .png").unlink()
    shutil.copy(own, train / "sub09_EP01 .png")
    shutil.copy(train / "sub26_EP10_50 .png", train / "sub26_EP10_50.png")
    shutil.rmtree(copy / "sub01/u_train")
    found = read_flow_folders(copy)
    assert found.clips == read_flow_folders(copy).clips
    assert len(found.clips) == len(IMAGES)
    assert found.violations == (
        "006/u_train holds clips of subject 006 itself, who is tested: 1, first 006_006_0_2",
        "006/u_train lacks clips of other subjects: 1, first s01_s01_ne_00",
        "006/u_train holds clips of no u_test: 1, first sub09_EP01",
        "006/u_train holds clips twice: 1, first sub26_EP10_50",
        "006/u_train has clips in another class than u_test: 1, first 007_007_0_1",
        "sub01 has no u_train",
    )


def test_a_clip_tested_twice(copy: Path) -> None:
    shutil.copy(copy / "006/u_test/0/006_006_0_2 .png", copy / "006/u_test/1")
    with pytest.raises(DatasetLayoutError, match=r"006_006_0_2 is in u_test twice: 006/u_test/0.*006/u_test/1"):
        read_flow_folders(copy)


def test_another_subjects_clip_in_u_test(copy: Path) -> None:
    (copy / "006/u_test/0/007_007_9_1 .png").write_bytes(b"x")
    with pytest.raises(DatasetLayoutError, match=r"007_007_9_1 \.png is not named 006_<clip>"):
        read_flow_folders(copy)


def test_folders_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "SAMM").mkdir()
    with pytest.raises(DatasetLayoutError, match=r"no folder like 006/u_test/0 in .*it holds SAMM/"):
        read_flow_folders(tmp_path)
    with pytest.raises(DatasetLayoutError, match="does not exist"):
        read_flow_folders(tmp_path / "nowhere")
    (tmp_path / "006/u_test/0").mkdir(parents=True)
    with pytest.raises(DatasetLayoutError, match="hold no png"):
        read_flow_folders(tmp_path)


# ---------------------------------------------------------------- the order of the channels


@pytest.mark.parametrize("order", ORDERS)
def test_the_order_is_found_by_physics(tmp_path: Path, order: str) -> None:
    root = write_flow_folders(tmp_path / "in", IMAGES, order)
    if order == "uvs":
        require_order(read_flow_folders(root))
    else:
        said = ", ".join(f"{c} = {'strain' if o == 's' else o}" for c, o in zip("RGB", order, strict=True))
        with pytest.raises(DatasetLayoutError) as error:
            import_flow_folders(root, tmp_path / "out")
        assert f"hold {said}, not R = u, G = v, B = strain" in str(error.value)
        assert f"channels='{order}'" in str(error.value)
        assert not (tmp_path / "out").exists()
    manifest = import_flow_folders(root, tmp_path / "out", channels=order)
    for row, image in zip(manifest, _in_order(manifest, IMAGES), strict=True):
        np.testing.assert_array_equal(read_extra(manifest.root, row, STRETCHED), planes_of(image.flow))


def _in_order(manifest: Manifest, images: list[FlowImage]) -> list[FlowImage]:
    """The fixture's images in the manifest's order."""
    by_name = {image.clip.replace("s01_", "s1_"): image for image in images}
    return [by_name[row.clip] for row in manifest]


def test_agreement_of_one_image_in_all_orders() -> None:
    """It is the true order that agrees best, image by image, and the strain is never taken for motion."""
    agreement = order_agreement(np.stack([planes_of(image.flow) for image in IMAGES]))
    best = np.stack([agreement[order] for order in ORDERS]).argmax(axis=0)
    assert (best == 0).mean() > 0.85
    for order in ORDERS[1:]:
        assert agreement["uvs"].mean() > agreement[order].mean()
        if order[2] != "s":
            assert (agreement["uvs"] - agreement[order]).min() > 0.15


def test_pictures_that_are_no_flow(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    root = write_flow_folders(tmp_path / "in", IMAGES)
    for file in root.rglob("*.png"):
        cv2.imwrite(str(file), rng.integers(0, 256, (28, 28, 3), dtype=np.uint8))
    with pytest.raises(DatasetLayoutError, match=r"no order of the channels.*are these flow images\? channels='uvs'"):
        import_flow_folders(root, tmp_path / "out")
    assert len(import_flow_folders(root, tmp_path / "out", channels="uvs")) == len(IMAGES)
    with pytest.raises(MesynthError, match="channels 'bgr' is no order of u, v and s"):
        import_flow_folders(root, tmp_path / "out", channels="bgr")


# ---------------------------------------------------------------- the flow


def direction_error(found: np.ndarray, true: np.ndarray) -> float:
    """1 - cosine between two flows [2,H,W], the true one centred on its medians."""
    true = true - np.median(true, axis=(1, 2), keepdims=True)
    return 1 - float((found * true).sum() / np.linalg.norm(found) / np.linalg.norm(true))


def without_ratio(planes: np.ndarray) -> np.ndarray:
    """What centring alone gives."""
    uv = planes[:2].astype(np.float64)
    return uv - np.median(uv, axis=(1, 2), keepdims=True)


def test_unstretch_gives_back_a_known_flow() -> None:
    """Where strain was computed on the image's own grid, all but the magnitude comes back."""
    errors, naive = [], []
    for image in IMAGES:
        flow = shrunk(image.flow)
        planes = np.stack([stretched(plane) for plane in (*flow, optical_strain(flow))])
        errors.append(direction_error(unstretch(planes), flow))
        naive.append(direction_error(without_ratio(planes), flow))
    assert max(errors) < 0.005
    assert np.median(naive) > 10 * np.median(errors)


def test_unstretch_of_images_made_as_published() -> None:
    """Strain from a finer grid: still much closer to the flow than the stretched channels are."""
    planes = np.stack([planes_of(image.flow) for image in IMAGES])
    true = [shrunk(image.flow) for image in IMAGES]
    errors = [direction_error(f, t) for f, t in zip(unstretch(planes), true, strict=True)]
    naive = [direction_error(without_ratio(p), t) for p, t in zip(planes, true, strict=True)]
    assert np.mean(errors) < 0.5 * np.mean(naive)
    assert np.mean(errors) < 0.03


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.floats(-1.5, 1.5), st.floats(-5, 5))
def test_the_ratio_does_not_depend_on_scale_or_offset(seed: int, log_ratio: float, shift: float) -> None:
    flow = smooth_flow("negative", np.random.default_rng(seed))[:, ::4, ::4]
    flow = flow * np.array([1, np.exp(log_ratio)])[:, None, None]
    found, correlation = strain_agreement(3 * flow[0] + shift, flow[1] - shift, optical_strain(flow) * 0.1 + 7)
    assert found == pytest.approx(np.log(3), abs=0.05)
    assert correlation == pytest.approx(1, abs=1e-2)


def test_unstretch_does_not_depend_on_the_batch() -> None:
    planes = np.stack([planes_of(image.flow) for image in IMAGES[:6]])
    together = unstretch(planes)
    np.testing.assert_array_equal(together, np.stack([unstretch(p) for p in planes]))
    np.testing.assert_array_equal(together.reshape(2, 3, 2, 28, 28), unstretch(planes.reshape(2, 3, 3, 28, 28)))
    assert together.dtype == np.float32
    np.testing.assert_allclose(np.sqrt((together**2).mean(axis=(1, 2, 3))), 1, atol=1e-5)
    np.testing.assert_allclose(np.median(together, axis=(2, 3)), 0, atol=1e-6)


def test_flat_channels_stay_zero() -> None:
    planes = planes_of(IMAGES[0].flow)
    assert not unstretch(np.zeros_like(planes)).any()
    still = planes.copy()
    still[0] = 17
    flow = unstretch(still)
    assert not flow[0].any()
    assert flow[1].any()
    still = planes.copy()
    still[2] = 0  # no strain: the ratio is left as it is
    np.testing.assert_allclose(
        unstretch(still), without_ratio(planes) / np.sqrt((without_ratio(planes) ** 2).mean()), rtol=1e-5
    )


# ---------------------------------------------------------------- the import


def test_rows(root: Path, tmp_path: Path) -> None:
    manifest = import_flow_folders(root, tmp_path / "out")
    rows = {row.clip_id: row for row in manifest}
    row = rows["smic/s01/s1_ne_01/0"]
    assert (row.subject_key, row.label, row.emotion, row.fps) == ("smic/s01", "positive", "positive", 100.0)
    assert (row.height, row.width, row.n_frames, row.apex) == (28, 28, 0, None)
    assert row.warnings == (UNITS,)
    assert "not in pixels" in UNITS
    assert (row.provenance.kind, row.provenance.subjects_seen) == ("real", ("smic/s01",))
    assert rows["samm/006/006_0_2/0"].emotion == ""
    assert set(row.au_present) == {-1}
    flow = read_flow(manifest.root, row)
    assert flow.shape == (2, 28, 28)
    assert direction_error(flow, shrunk(_in_order(manifest, IMAGES)[list(rows).index(row.clip_id)].flow)) < 0.1
    np.testing.assert_array_equal(flow, unstretch(read_extra(manifest.root, row, STRETCHED)))


def test_processes_and_resume(root: Path, tmp_path: Path) -> None:
    one = import_flow_folders(root, tmp_path / "one")
    assert import_flow_folders(root, tmp_path / "two", workers=2).hash() == one.hash()
    assert import_flow_folders(root, tmp_path / "one").hash() == one.hash()
    with pytest.raises(RunFolderError):
        import_flow_folders(root, tmp_path / "one", channels="svu")


def test_images_that_cannot_be_read(copy: Path, tmp_path: Path) -> None:
    file = copy / "006/u_test/0/006_006_0_2 .png"
    for content, words in ((b"", "truncated"), (b"\x89PNG", "truncated")):
        file.write_bytes(content)
        with pytest.raises(UnreadableImageError, match=words):
            import_flow_folders(copy, tmp_path / "out")
    for shape in ((28, 28), (28, 28, 4), (4, 4, 3)):
        cv2.imwrite(str(file), np.zeros(shape, np.uint8))
        with pytest.raises(UnreadableImageError, match=r"006_006_0_2 \.png is uint8 of shape.*8-bit RGB"):
            import_flow_folders(copy, tmp_path / "out", channels="uvs")
    cv2.imwrite(str(file), np.zeros((30, 30, 3), np.uint8))
    with pytest.raises(DatasetLayoutError, match="differ in size"):
        import_flow_folders(copy, tmp_path / "new")
    with pytest.raises(UnreadableImageError, match="check the path"):
        read_flow_image(tmp_path / "none.png")


def test_a_discriminant_learns_from_the_import(tmp_path: Path) -> None:
    """The recognizer reads it as any prepared manifest: folds by subject, strain from the recovered flow."""
    root = write_flow_folders(tmp_path / "in", flow_images(clips=6, seed=3))
    manifest = import_flow_folders(root, tmp_path / "out")
    data = load(manifest)
    assert data.x.shape == (30, 3, 28, 28)
    assert set(data.subjects) == {"samm/006", "samm/007", "smic/s01", "casme2/sub01", "casme2/sub26"}
    result = loso(manifest, config=RunConfig(model="lda"))
    assert len(result.folds) == 5
    assert result.metrics.uf1 > 0.8


@pytest.mark.parametrize(
    "option",
    [("--size", "64"), ("--crop", "piecewise"), ("--skip-bad",), ("--method", "dis"), ("--no-frames",),
     ("--subjects", "006"), ("--landmarker", "mediapipe"), ("--magnify", "phase:2")],
)  # fmt: skip
def test_what_has_no_effect_on_finished_flow_is_refused(root: Path, tmp_path: Path, option: tuple[str, ...]) -> None:
    command = ["prepare", "flow_folders", "--root", str(root), "--out", str(tmp_path / "out"), *option]
    refused = CliRunner().invoke(main, command)
    assert refused.exit_code == 2
    assert f"{option[0]} has no effect on flow images, which are finished; leave it out" in " ".join(
        refused.output.split()
    )
    assert not (tmp_path / "out").exists()
