"""Distances between two sets of features: KID and the exact Frechet distance, and what real clips are from each other.

The Frechet distance is computed from features or from moments (what pytorch-fid caches); :func:`fid` is that of
pictures against pictures, or against cached statistics, in memory that does not grow with them.

ME corpora hold hundreds of clips. At that size the Frechet distance of two samples of ONE distribution is
far from zero, so KID is the headline and every Frechet distance stands beside a real-against-real baseline
at the same N.
"""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc

from mesynth.core import seeds
from mesynth.core.errors import ManifestError, first_line
from mesynth.core.statistics import Interval, percentiles, resample, tails
from mesynth.metrics.networks import BATCH
from mesynth.store.manifest import FILE_NAME, Manifest
from mesynth.store.run_folder import write_bytes
from mesynth.store.shards import read_frames
from mesynth.store.stage import Progress
from mesynth.store.videos import read_image

if TYPE_CHECKING:
    from mesynth.metrics.networks.extractors import FeatureExtractor


@dataclass(frozen=True, kw_only=True)
class Moments:
    """``mean`` [D] and ``covariance`` [D,D] (over n-1) of features, float64."""

    mean: np.ndarray
    covariance: np.ndarray

    @staticmethod
    def of(parts: Iterable[np.ndarray]) -> Moments:
        """Of features [n,D] that come in parts; memory is that of a part and of the covariance.

        Raises ValueError when there are fewer than two rows.
        """
        count, origin = 0, np.zeros(0)
        total, products = np.zeros(0), np.zeros((0, 0))
        for part in parts:
            if not count:  # sums about a mean near the true one: nothing large is taken from something large
                origin = part.mean(0, dtype=np.float64)
                total, products = np.zeros(part.shape[1]), np.zeros((part.shape[1], part.shape[1]))
            centred = part - origin
            total += centred.sum(0)
            products += centred.T @ centred
            count += len(part)
        if count < 2:
            raise ValueError(f"a covariance needs at least 2 rows, got {count}")
        shift = total / count
        return Moments(mean=origin + shift, covariance=(products - count * np.outer(shift, shift)) / (count - 1))


def frechet(x: np.ndarray, y: np.ndarray) -> float:
    """Frechet distance of Gaussians fitted to [N,D] and [M,D] (Heusel et al., 2017, eq. 6).

    ``|mx - my|^2 + tr(Cx) + tr(Cy) - 2 tr (Cx Cy)^(1/2)``, without a matrix square root or an epsilon. Few rows: with
    A, B the centred features over sqrt(n-1) the last trace is the nuclear norm of ``A B^T``. Many: see
    :func:`frechet_of_moments`.
    """
    check_features(x, y)
    if max(len(x), len(y)) > x.shape[1]:
        return frechet_of_moments(Moments.of([x]), Moments.of([y]))
    a, b = _centred(x), _centred(y)
    cross = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    mean = ((x.mean(0, dtype=np.float64) - y.mean(0, dtype=np.float64)) ** 2).sum()
    return float(mean + (a**2).sum() + (b**2).sum() - 2 * cross)


def frechet_of_moments(x: Moments, y: Moments) -> float:
    """The same from moments: with ``Cx = L L^T``, ``Cx Cy`` has the eigenvalues of the symmetric ``L^T Cy L``.

    Eigenvalues are exact to 1e-16 of the largest one, so a direction without variance adds up to 1e-8 of the largest
    standard deviation's square; nothing is added to the diagonals. Raises ValueError when the widths differ.
    """
    if len(x.mean) != len(y.mean):
        raise ValueError(f"moments of {len(x.mean)} and {len(y.mean)} features; the extractors differ")
    mean = ((x.mean - y.mean) ** 2).sum()
    roots = np.sqrt(np.maximum(_eigenvalues(x.covariance, y.covariance), 0)).sum()
    return float(mean + np.trace(x.covariance) + np.trace(y.covariance) - 2 * roots)


def _eigenvalues(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of the product of two covariances [D,D]."""
    from scipy.linalg import lapack

    for one, other in ((a, b), (b, a)):
        factor, failed = lapack.dpotrf(one.T, lower=1, clean=0)
        if not failed:
            product, _ = lapack.dsygst(other.T, factor, itype=2, lower=1)  # its lower triangle; eigvalsh reads no more
            return np.asarray(np.linalg.eigvalsh(product))
    # Neither has full rank (fewer rows than features): factors by eigenvectors, a little slower.
    values, vectors = np.linalg.eigh(a)
    factor = vectors * np.sqrt(np.maximum(values, 0))
    return np.asarray(np.linalg.eigvalsh(factor.T @ b @ factor))


def _centred(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    return np.asarray((x - x.mean(0)) / np.sqrt(len(x) - 1))


def check_features(x: np.ndarray, y: np.ndarray) -> None:
    """Raise ValueError unless both are finite [N,D] of one D with at least two rows."""
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"features have shapes {x.shape} and {y.shape}; give [N,D] and [M,D]")
    if min(len(x), len(y)) < 2:
        raise ValueError(f"a distance needs at least 2 rows on each side, got {len(x)} and {len(y)}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("features hold NaN or infinity")


def polynomial_kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """``(x.y / D + 1)^3`` of [N,D] and [M,D] -> [N,M] float64 (Binkowski et al., ICLR 2018)."""
    return np.asarray((x.astype(np.float64) @ y.astype(np.float64).T / x.shape[1] + 1) ** 3)


def kid(x: np.ndarray, y: np.ndarray) -> float:
    """Kernel inception distance: the unbiased MMD^2 of features [N,D] and [M,D] (Binkowski et al., 2018, eq. 4).

    Unbiased, so it is zero on average for equal distributions at any N and may be negative.
    Raises ValueError when either set has fewer than two rows or the widths differ.

    >>> x = np.array([[0.0], [1.0]])
    >>> kid(x, x + 3), kid(x, x)
    (2102.5, -3.5)
    """
    check_features(x, y)
    return _mmd(polynomial_kernel(x, x), polynomial_kernel(y, y), polynomial_kernel(x, y))


def _mmd(xx: np.ndarray, yy: np.ndarray, xy: np.ndarray) -> float:
    n, m = len(xx), len(yy)
    within = (xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1))
    return float(within - 2 * xy.mean())


def kid_interval(
    x: np.ndarray,
    y: np.ndarray,
    groups_x: Sequence[object],
    groups_y: Sequence[object],
    *,
    resamples: int = 500,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """:func:`kid` with a bootstrap over groups (clips or subjects): frames of one clip are not independent.

    Groups are resampled with replacement as weights on the kernel matrices; pairs within one group never
    count, neither in the value nor in a resample, or a clip drawn twice would look like perfect agreement.
    Raises ValueError when a side has fewer than two groups.
    """
    check_features(x, y)
    gx, gy = _group_index(groups_x, len(x)), _group_index(groups_y, len(y))
    xx, yy = _group_sums(polynomial_kernel(x, x), gx, gx), _group_sums(polynomial_kernel(y, y), gy, gy)
    xy = _group_sums(polynomial_kernel(x, y), gx, gy)
    nx, ny = np.bincount(gx).astype(float), np.bincount(gy).astype(float)
    np.fill_diagonal(xx, 0)
    np.fill_diagonal(yy, 0)

    def value(wx: np.ndarray, wy: np.ndarray) -> float:
        total_x, total_y = wx @ nx, wy @ ny
        pairs_x = total_x**2 - ((wx * nx) ** 2).sum()
        pairs_y = total_y**2 - ((wy * ny) ** 2).sum()
        if pairs_x <= 0 or pairs_y <= 0:  # one group drawn only: no pair of different groups
            return np.nan
        return float(wx @ xx @ wx / pairs_x + wy @ yy @ wy / pairs_y - 2 * (wx @ xy @ wy) / (total_x * total_y))

    rng = seeds.stream(seed, "kid-bootstrap")
    n, m = len(nx), len(ny)
    drawn = [value(resample(rng, n).astype(float), resample(rng, m).astype(float)) for _ in range(resamples)]
    low, high = percentiles(np.array(drawn), tails(level), least=1)
    return Interval(
        value=value(np.ones(n), np.ones(m)), low=np.nan if low is None else low, high=np.nan if high is None else high
    )


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """The same distance between two halves of the real clips, ``n`` groups each, over several seeded splits.

    ``rows`` is the N of the Frechet distance: feature rows a side (groups may differ in size).
    """

    kid: float
    frechet: float
    n: int
    rows: int
    splits: int


def real_baseline(
    x: np.ndarray, groups: Sequence[object], n_groups: int, *, splits: int = 5, seed: int = 0
) -> Baseline | None:
    """Real against real: disjoint sets of ``n_groups`` clips (at most half of them); None with under 4 clips."""
    index = _group_index(groups, len(x))
    count = int(index.max()) + 1
    n = min(n_groups, count // 2)
    if n < 2:
        return None
    values, rows = [], len(x)
    for i in range(splits):
        order = seeds.stream(seed, "real-baseline", i).permutation(count)
        a, b = x[np.isin(index, order[:n])], x[np.isin(index, order[n : 2 * n])]
        rows = min(rows, len(a), len(b))
        values.append((kid(a, b), frechet(a[:rows], b[:rows])))
    means = np.mean(values, axis=0)
    return Baseline(kid=float(means[0]), frechet=float(means[1]), n=n, rows=rows, splits=splits)


def _group_index(groups: Sequence[object], n: int) -> np.ndarray:
    if len(groups) != n:
        raise ValueError(f"{len(groups)} group labels for {n} rows of features")
    index = np.unique(np.array([str(g) for g in groups]), return_inverse=True)[1].ravel()
    if n == 0 or index.max() < 1:
        raise ValueError("a bootstrap over clips needs at least two clips on each side")
    return np.asarray(index)


def _group_sums(kernel: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Sum of the kernel over each pair of groups, [G,H]."""
    a = np.eye(int(rows.max()) + 1)[rows]
    b = np.eye(int(columns.max()) + 1)[columns]
    return np.asarray(a.T @ kernel @ b)


# ---------------------------------------------------------------- pictures against pictures


SUFFIXES = (".bmp", ".jpg", ".jpeg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_LARGEST = 8192
"""Features a statistics file may have; its covariance has the square of it."""
RECOMMENDED = 10_000
"""Pictures a side that Heusel et al. (2017) recommend for FID; below, it is biased upwards."""
_FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF", ".tiff": "TIFF", ".pgm": "PNM", ".ppm": "PNM"}


@dataclass(frozen=True, kw_only=True)
class Fid:
    """``name``: FID, or FID with the stand-in's suffix. ``pictures``: how many on the measured side."""

    name: str
    value: float
    pictures: int
    extractor: str
    resize: str
    notes: tuple[str, ...] = ()
    """Why the value is not that of the pictures' content alone: too few, or saved unlike the reference."""


class Pictures:
    """The pictures of a folder (with its subfolders, by name) or the apex frames of a corpus, in parts of one size.

    Raises:
        ManifestError: neither pictures nor a corpus, or clips without frames.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._corpus = Manifest.read(folder) if (folder / FILE_NAME).is_file() else None
        self._files: list[Path] = []
        if self._corpus is None:
            if not folder.is_dir():
                raise ManifestError(f"{folder} is no folder; give pictures, a corpus, or statistics (.npz)")
            self._files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
        if len(self) < 2:
            raise ManifestError(f"{folder} holds {len(self)} pictures; a distance needs at least 2")
        self.formats = Counter(map(format_of, self._files)) if self._corpus is None else stored_formats(self._corpus)
        """Pictures by file format."""
        self.sizes: Counter[str] = Counter()
        """Pictures by size, as far as :meth:`parts` has come."""

    def __len__(self) -> int:
        return len(self._files) if self._corpus is None else len(self._corpus)

    def _each(self) -> Iterator[np.ndarray]:
        if self._corpus is None:
            with ThreadPoolExecutor(1) as pool:  # the next pictures are read while the network sees these
                for start in range(0, len(self._files), BATCH):
                    yield from pool.map(read_image, self._files[start : start + BATCH])
            return
        for row in self._corpus:
            if row.frames is None and not row.frame_files:
                raise ManifestError(f"clip {row.clip_id} of {self.folder} has no frames to look at")
            yield read_frames(self._corpus.root, row, [row.apex_index])[0]

    def parts(self) -> Iterator[np.ndarray]:
        """[n,H,W,3] uint8, n <= BATCH."""
        held: list[np.ndarray] = []
        self.sizes.clear()
        for picture in self._each():
            self.sizes[f"{picture.shape[1]}x{picture.shape[0]}"] += 1
            if held and (len(held) == BATCH or held[0].shape != picture.shape):
                yield np.stack(held)
                held = []
            held.append(picture)
        yield np.stack(held)


def format_of(file: Path | str) -> str:
    """Of a picture's name.

    >>> format_of("a/b.jpeg"), format_of("b.PNG")
    ('JPEG', 'PNG')
    """
    suffix = Path(file).suffix.lower()
    return _FORMATS.get(suffix, suffix.removeprefix(".").upper())


def stored_formats(manifest: Manifest) -> Counter[str]:
    """Clips of a corpus by the format of their frames; shards hold PNG."""
    first = pc.list_flatten(pc.list_slice(manifest.table["frame_files"], 0, 1)).to_pylist()
    found = Counter(map(format_of, first))
    if len(manifest) > len(first):
        found["PNG"] += len(manifest) - len(first)
    return found


def unlike(what: str, ours: Mapping[str, int], theirs: Mapping[str, int]) -> list[str]:
    """A line where two sides' pictures differ in ``what`` (format or size), or one side's do among themselves.

    >>> unlike("format", {"PNG": 12}, {"JPEG": 12})
    ["the sides' pictures differ in format (PNG; JPEG), which moves the distance by itself: save both alike"]
    >>> unlike("size", {"64x64": 12}, {"64x64": 9})
    []
    """
    if set(ours) == set(theirs) and len(ours) <= 1:
        return []
    sides = "; ".join(", ".join(sorted(side)) for side in (ours, theirs))
    return [f"the sides' pictures differ in {what} ({sides}), which moves the distance by itself: save both alike"]


def _notes(ours: Pictures, theirs: Pictures | None, dim: int) -> list[str]:
    few = min(len(side) for side in (ours, theirs) if side is not None)
    notes = []
    if few <= dim:
        notes.append(
            f"{few} pictures are no more than the {dim} features, so the covariance has not its full rank: even equal "
            "sets are far above 0; read KID with its interval (mesynth measure)"
        )
    elif few < RECOMMENDED:
        notes.append(f"{few} pictures: FID is biased upwards below {RECOMMENDED} (Heusel et al., 2017)")
    if theirs is not None:
        notes += unlike("format", ours.formats, theirs.formats) + unlike("size", ours.sizes, theirs.sizes)
    return notes


def moments_of(pictures: Pictures, extractor: FeatureExtractor, progress: Progress | None = None) -> Moments:
    """Mean and covariance of the features of all ``pictures``."""

    def features() -> Iterator[np.ndarray]:
        done = 0
        if progress:
            progress(0, len(pictures))
        for part in pictures.parts():
            yield extractor(part)
            done += len(part)
            if progress:
                progress(done, len(pictures))

    return Moments.of(features())


def read_statistics(file: Path, dim: int) -> Moments:
    """``mu`` and ``sigma`` of a .npz file that pytorch-fid (or :func:`write_statistics`) wrote; nothing is unpickled.

    Raises:
        ManifestError: no such file, no such arrays, or of another extractor than one of ``dim`` features.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            for entry in archive.infolist():
                if entry.file_size > 8 * _LARGEST**2 + 4096:
                    raise ValueError(f"{entry.filename} claims {entry.file_size} bytes")
        with np.load(file, allow_pickle=False) as stored:
            mean, covariance = (np.asarray(stored[name], np.float64) for name in ("mu", "sigma"))
    except FileNotFoundError:
        raise ManifestError(f"{file} does not exist; give a .npz file of statistics") from None
    except KeyError as error:
        raise ManifestError(f"{file} has no {error.args[0]}; pytorch-fid's statistics hold mu and sigma") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ManifestError(f"{file} cannot be read as statistics ({first_line(error)})") from None
    if mean.shape != (dim,) or covariance.shape != (dim, dim):
        raise ManifestError(f"{file} holds {mean.shape} and {covariance.shape}; this extractor gives {dim} features")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise ManifestError(f"{file} holds NaN or infinity; compute the statistics again")
    return Moments(mean=mean, covariance=covariance)


def write_statistics(file: Path, moments: Moments) -> None:
    """``mu`` and ``sigma`` as pytorch-fid caches them."""
    buffer = io.BytesIO()
    np.savez(buffer, mu=moments.mean, sigma=moments.covariance)
    write_bytes(file, buffer.getvalue())


def fid(
    source: Path,
    reference: Path,
    extractor: FeatureExtractor,
    *,
    resize: str,
    save: Path | None = None,
    progress: Progress | None = None,
) -> Fid:
    """Frechet distance between the features of ``source`` and of ``reference`` (pictures, a corpus, or .npz).

    ``save``: a .npz file for the statistics of ``source``.

    Raises:
        ManifestError, UnreadableImageError: see :class:`Pictures` and :func:`read_statistics`.
    """
    pictures = Pictures(source)
    others = None if reference.suffix.lower() == ".npz" else Pictures(reference)
    total = len(pictures) + len(others or ())
    seen = 0

    def both(done: int, _: int) -> None:
        if progress:
            progress(seen + done, total)

    if others is None:
        theirs = read_statistics(reference, extractor.dim)
    else:
        theirs = moments_of(others, extractor, both)
        seen = len(others)
    ours = moments_of(pictures, extractor, both)
    if save is not None:
        write_statistics(save, ours)
    value = frechet_of_moments(ours, theirs)
    return Fid(
        name=f"FID{extractor.suffix}", value=value, pictures=len(pictures), extractor=extractor.name, resize=resize,
        notes=tuple(_notes(pictures, others, extractor.dim)),
    )  # fmt: skip
