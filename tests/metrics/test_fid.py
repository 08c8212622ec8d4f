"""Distances with known answers, and against the formulas they stand for."""

from __future__ import annotations

import json
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg

from mesynth.cli import main
from mesynth.core.errors import ManifestError, UnreadableImageError, WeightsUnavailable
from mesynth.metrics import fid as dist
from mesynth.metrics import fid as module
from mesynth.metrics.fid import (
    Moments,
    Pictures,
    fid,
    frechet,
    frechet_of_moments,
    moments_of,
    read_statistics,
    write_statistics,
)
from mesynth.metrics.networks.extractors import PUBLISHED_RESIZE, Inception
from tests.metrics.inception import random_weights

# ---------------------------------------------------------------- distances


def gaussian(seed: int, n: int, d: int, mean: float = 0.0, sd: float = 1.0) -> np.ndarray:
    return mean + sd * np.random.default_rng(seed).standard_normal((n, d))


def frechet_by_sqrtm(x: np.ndarray, y: np.ndarray) -> float:
    cx, cy = np.cov(x.T), np.cov(y.T)
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(cx + cy - 2 * linalg.sqrtm(cx @ cy).real))


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10_000), n=st.integers(20, 60), m=st.integers(20, 60), d=st.integers(2, 8))
def test_frechet_is_the_matrix_square_root_formula(seed: int, n: int, m: int, d: int) -> None:
    mix = np.random.default_rng(seed).standard_normal((d, d))
    x, y = gaussian(seed, n, d) @ mix, gaussian(seed + 1, m, d, 0.5)
    assert frechet(x, y) == pytest.approx(frechet_by_sqrtm(x, y), rel=1e-6, abs=1e-8)


def test_frechet_of_isotropic_gaussians_has_its_closed_form() -> None:
    # N(0, I) and N(mu, s^2 I) in D dimensions: |mu|^2 + D (s - 1)^2
    x, y = gaussian(0, 60_000, 4), gaussian(1, 60_000, 4, mean=2.0, sd=3.0)
    assert frechet(x, y) == pytest.approx(4 * 2.0**2 + 4 * (3.0 - 1) ** 2, rel=0.02)


def test_frechet_with_more_features_than_rows_agrees_with_the_wide_route() -> None:
    x, y = gaussian(0, 12, 40), gaussian(1, 9, 40, 1.0)
    a, b = ((v - v.mean(0)) / np.sqrt(len(v) - 1) for v in (x, y))
    ca, cb = a.T @ a, b.T @ b
    eigen = np.linalg.eigvals(ca @ cb).real
    want = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(ca + cb) - 2 * np.sqrt(np.clip(eigen, 0, None)).sum()
    assert frechet(x, y) == pytest.approx(want, rel=1e-5)
    assert frechet(x, x) == pytest.approx(0, abs=1e-9)


def test_moments_in_parts_are_those_of_the_whole() -> None:
    x = gaussian(0, 57, 6, mean=1e4)
    parts = Moments.of([x[:1], x[1:30], x[30:]])
    assert parts.mean == pytest.approx(x.mean(0), rel=1e-12)
    assert parts.covariance == pytest.approx(np.cov(x.T), abs=1e-9)
    with pytest.raises(ValueError, match="at least 2 rows, got 1"):
        Moments.of([x[:1]])


@pytest.mark.parametrize("rank", [3, 6])
def test_frechet_of_moments_needs_no_full_rank(rank: int) -> None:
    mix, other = (np.random.default_rng(i).standard_normal((rank, 6)) for i in (1, 2))
    x, y = gaussian(0, 50, rank) @ mix, gaussian(1, 40, rank, 0.5) @ other
    eigen = np.linalg.eigvals(np.cov(x.T) @ np.cov(y.T)).real
    want = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(np.cov(x.T) + np.cov(y.T))
    want -= 2 * np.sqrt(np.clip(eigen, 0, None)).sum()
    assert frechet(x, y) == pytest.approx(want, rel=1e-6)
    assert frechet(x, x) == pytest.approx(0, abs=1e-6)


def test_moments_of_two_extractors_do_not_compare() -> None:
    with pytest.raises(ValueError, match="4 and 5 features"):
        frechet_of_moments(Moments.of([gaussian(0, 9, 4)]), Moments.of([gaussian(0, 9, 5)]))


def test_frechet_is_biased_at_small_n_and_kid_is_not() -> None:
    kids = [dist.kid(gaussian(2 * i, 30, 64), gaussian(2 * i + 1, 30, 64)) for i in range(40)]
    frechets = [frechet(gaussian(2 * i, 30, 64), gaussian(2 * i + 1, 30, 64)) for i in range(5)]
    assert abs(np.mean(kids)) < 3 * np.std(kids) / np.sqrt(len(kids))
    assert min(frechets) > 20


def naive_kid(x: np.ndarray, y: np.ndarray) -> float:
    def k(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    n, m = len(x), len(y)
    xx = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return xx + yy - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10_000), n=st.integers(2, 12), m=st.integers(2, 12))
def test_kid_is_the_naive_double_loop(seed: int, n: int, m: int) -> None:
    x, y = gaussian(seed, n, 5), gaussian(seed + 1, m, 5, 0.3)
    assert dist.kid(x, y) == pytest.approx(naive_kid(x, y), rel=1e-9, abs=1e-9)


def test_kid_interval_covers_zero_for_one_distribution_and_not_for_two() -> None:
    x, same, other = gaussian(0, 60, 16), gaussian(1, 60, 16), gaussian(2, 60, 16, 0.8)
    groups = list(range(60))
    equal = dist.kid_interval(x, same, groups, groups, resamples=200)
    apart = dist.kid_interval(x, other, groups, groups, resamples=200)
    assert equal.low < 0 < equal.high
    assert 0 < apart.low < apart.value < apart.high
    assert equal.value == pytest.approx(dist.kid(x, same), rel=1e-9, abs=1e-12)
    assert apart == dist.kid_interval(x, other, groups, groups, resamples=200)


def test_kid_interval_never_pairs_frames_of_one_clip() -> None:
    # Frames of a clip are copies: counted as pairs they would look like perfect agreement within a side.
    x, y = gaussian(0, 20, 8), gaussian(1, 20, 8)
    clips = list(range(20))
    once = dist.kid_interval(x, y, clips, clips, resamples=50).value
    x3, y3, clips3 = (np.repeat(v, 3, 0) for v in (x, y, clips))
    twice = dist.kid_interval(x3, y3, clips3, clips3, resamples=50)
    assert twice.value == pytest.approx(once)
    assert dist.kid(x3, y3) > once + 0.1


def test_baseline_compares_disjoint_clips_and_needs_four() -> None:
    x = gaussian(0, 40, 6)
    base = dist.real_baseline(x, range(40), 100)
    assert base is not None
    assert base.n == 20
    assert abs(base.kid) < 0.5
    assert base.frechet > 0
    assert dist.real_baseline(x[:3], range(3), 3) is None


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (np.zeros((5, 3)), np.zeros((5, 4)), "shapes"),
        (np.zeros((1, 3)), np.zeros((5, 3)), "at least 2"),
        (np.full((5, 3), np.nan), np.zeros((5, 3)), "NaN"),
    ],
)
def test_unfit_features_are_named(x: np.ndarray, y: np.ndarray, words: str) -> None:
    for distance in (dist.kid, frechet):
        with pytest.raises(ValueError, match=words):
            distance(x, y)
    with pytest.raises(ValueError, match="two clips"):
        dist.kid_interval(np.zeros((5, 3)), np.zeros((5, 3)), [0] * 5, range(5))


def test_baseline_over_subjects_counts_rows_not_subjects() -> None:
    base = dist.real_baseline(gaussian(0, 40, 6), [i // 5 for i in range(40)], 100)
    assert base is not None
    assert (base.n, base.rows) == (4, 20)


# ---------------------------------------------------------------- pictures


class Means:
    """Features that can be told by hand: mean and spread of each channel."""

    name, suffix, dim, side = "Means", "-Means", 6, 0

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        flat = frames.reshape(len(frames), -1, 3).astype(np.float32)
        return np.concatenate([flat.mean(1), flat.std(1)], 1)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return draw(tmp_path / "pictures", 0, 40)


def draw(folder: Path, seed: int, count: int, low: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    for i in range(count):
        place = folder / f"{i % 3}" / f"{i:03d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        size = (20, 24, 3) if i % 5 else (30, 30, 3)
        cv2.imwrite(str(place), rng.integers(low, 256, size, dtype=np.uint8))
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(random_weights(), file)
    return file


def test_it_is_what_pytorch_fid_computes(tmp_path: Path, weights: Path) -> None:
    from pytorch_fid import fid_score, inception

    rng = np.random.default_rng(0)
    for name, count, low in (("a", 5, 0), ("b", 3, 90)):  # theirs come in batches of four
        (tmp_path / name).mkdir()
        for i in range(count):
            cv2.imwrite(str(tmp_path / name / f"{i}.png"), rng.integers(low, 256, (40, 40, 3), dtype=np.uint8))
    state = torch.load(weights, weights_only=True)
    with mock.patch.object(inception, "load_state_dict_from_url", return_value=state):
        net = inception.InceptionV3([3])
    files = [sorted((tmp_path / name).iterdir()) for name in "ab"]
    activations: list[np.ndarray] = []
    get = fid_score.get_activations

    def noted(*args: object) -> np.ndarray:
        activations.append(get(*args))
        return activations[-1]

    with mock.patch.object(fid_score, "get_activations", noted):
        theirs = [fid_score.calculate_activation_statistics(f, net, 4, 2048, "cpu", 0) for f in files]
    extractor = Inception(weights, published_resize=True)
    np.savez(tmp_path / "b.npz", mu=theirs[1][0], sigma=theirs[1][1])
    found = fid(tmp_path / "a", tmp_path / "b.npz", extractor, resize=PUBLISHED_RESIZE, save=tmp_path / "a.npz")
    ours = read_statistics(tmp_path / "a.npz", extractor.dim)
    scale = np.abs(theirs[0][0]).max()
    np.testing.assert_allclose(ours.mean, theirs[0][0], rtol=0, atol=1e-5 * scale)
    np.testing.assert_allclose(ours.covariance, theirs[0][1], rtol=0, atol=1e-4 * np.abs(theirs[0][1]).max())
    assert found.name == "FID"
    # pytorch-fid's matrix square root of singular covariances is itself good to some per cent only. That of a product
    # of X^T X and Y^T Y has the trace that X Y^T has as the sum of its singular values.
    x, y = ((a - a.mean(0)) / np.sqrt(len(a) - 1) for a in activations)
    apart = ((theirs[0][0] - theirs[1][0]) ** 2).sum() + (x**2).sum() + (y**2).sum()
    assert found.value == pytest.approx(apart - 2 * np.linalg.norm(x @ y.T, "nuc"), rel=1e-3)


def test_statistics_come_back_and_equal_sets_have_no_distance(pictures: Path, tmp_path: Path) -> None:
    first = fid(pictures, pictures, Means(), resize="", save=tmp_path / "s.npz")
    assert first.value == pytest.approx(0, abs=1e-6)
    assert (first.name, first.pictures) == ("FID-Means", 40)
    again = fid(pictures, tmp_path / "s.npz", Means(), resize="")
    assert again.value == pytest.approx(0, abs=1e-6)
    other = fid(draw(tmp_path / "light", 1, 12, low=128), tmp_path / "s.npz", Means(), resize="")
    assert other.value > 1000  # the means alone are 64 grey levels apart


def _saved(folder: Path, like: Path, suffix: str, side: int = 0) -> Path:
    """The pictures of ``like`` in another file format, or all of one size."""
    for file in sorted(like.rglob("*.png")):
        picture = cv2.imread(str(file))
        place = (folder / file.relative_to(like)).with_suffix(suffix)
        place.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(place), cv2.resize(picture, (side, side)) if side else picture)
    return folder


def test_what_moves_the_distance_by_itself_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = _saved(tmp_path / "plain", draw(tmp_path / "drawn", 0, 12), ".png", side=24)
    assert not [n for n in fid(plain, plain, Means(), resize="").notes if "differ" in n]
    [_, note] = fid(plain, _saved(tmp_path / "jpeg", plain, ".JPG"), Means(), resize="").notes
    assert "format (PNG; JPEG)" in note
    [_, note] = fid(plain, _saved(tmp_path / "large", plain, ".png", side=32), Means(), resize="").notes
    assert "size (24x24; 32x32)" in note
    few = plain / "0"
    assert len(Pictures(few)) == 4
    [note] = fid(few, few, Means(), resize="").notes
    assert note.startswith("4 pictures are no more than the 6 features")
    monkeypatch.setattr(module, "RECOMMENDED", 12)
    assert not fid(plain, plain, Means(), resize="").notes


def test_moments_do_not_depend_on_the_parts(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = moments_of(Pictures(pictures), Means())
    monkeypatch.setattr(module, "BATCH", 3)
    parts = [len(p) for p in Pictures(pictures).parts()]
    assert max(parts) == 3
    assert sum(parts) == 40
    few = moments_of(Pictures(pictures), Means())
    assert few.mean == pytest.approx(whole.mean)
    assert few.covariance == pytest.approx(whole.covariance, abs=1e-6)


def test_unfit_input_is_told_in_one_line(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder, words in ((tmp_path / "empty", "holds 0 pictures"), (tmp_path / "none", "is no folder")):
        with pytest.raises(ManifestError, match=words):
            Pictures(folder)
    (pictures / "bad.png").write_bytes(b"no picture")
    with pytest.raises(UnreadableImageError, match=r"bad\.png"):
        moments_of(Pictures(pictures), Means())


def test_unfit_statistics_are_told_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "s.npz"
    cases = {
        "does not exist": lambda: None,
        "cannot be read": lambda: file.write_bytes(b"nothing"),
        "has no sigma": lambda: np.savez(file, mu=np.zeros(6)),
        "this extractor gives 6": lambda: np.savez(file, mu=np.zeros(5), sigma=np.zeros((5, 5))),
        "NaN": lambda: np.savez(file, mu=np.full(6, np.nan), sigma=np.zeros((6, 6))),
        "as statistics": lambda: np.savez(file, mu=np.array([{}], object), sigma=np.zeros((6, 6))),
    }
    for words, make in cases.items():
        make()
        with pytest.raises(ManifestError, match=words) as caught:
            read_statistics(file, 6)
        assert "\n" not in str(caught.value)
    write_statistics(file, Moments(mean=np.arange(6.0), covariance=np.eye(6)))
    assert read_statistics(file, 6).mean.tolist() == list(range(6))


def test_a_file_of_other_weights_is_named(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(WeightsUnavailable, match=r"other\.pth is not pt_inception"):
        Inception(tmp_path / "other.pth")


def test_the_verb(pictures: Path, tmp_path: Path) -> None:
    other = draw(tmp_path / "light", 1, 5, low=128)
    done = CliRunner().invoke(main, ["fid", str(pictures), str(other), "--save", str(tmp_path / "s.npz"), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["name"] == "FID-STAlexNet"
    assert "Inception" in found["note"]
    assert (tmp_path / "s.npz").is_file()
    wrong = CliRunner().invoke(main, ["fid", str(pictures), str(other), "--save", str(tmp_path / "s.txt")])
    assert wrong.exit_code == 2
    assert "must end in .npz" in wrong.stderr
