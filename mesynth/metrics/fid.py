"""FID of pictures against pictures, or against statistics that pytorch-fid cached; memory does not grow with them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mesynth.core.errors import ManifestError
from mesynth.metrics.distribution import Moments, frechet_of_moments
from mesynth.metrics.networks.extractors import BATCH, FeatureExtractor
from mesynth.store.manifest import FILE_NAME, Manifest
from mesynth.store.run_folder import write_bytes
from mesynth.store.shards import read_frames
from mesynth.store.stage import Progress
from mesynth.store.videos import read_image

SUFFIXES = (".bmp", ".jpg", ".jpeg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_LARGEST = 8192
"""Features a statistics file may have; its covariance has the square of it."""


@dataclass(frozen=True, kw_only=True)
class Fid:
    """``name``: FID, or FID with the stand-in's suffix. ``pictures``: how many on the measured side."""

    name: str
    value: float
    pictures: int
    extractor: str
    resize: str


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
            yield read_frames(self._corpus.root, row)[row.apex_index]

    def parts(self) -> Iterator[np.ndarray]:
        """[n,H,W,3] uint8, n <= BATCH."""
        held: list[np.ndarray] = []
        for picture in self._each():
            if held and (len(held) == BATCH or held[0].shape != picture.shape):
                yield np.stack(held)
                held = []
            held.append(picture)
        yield np.stack(held)


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
        raise ManifestError(f"{file} cannot be read as statistics ({str(error).splitlines()[0]})") from None
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
    other = None if reference.suffix.lower() == ".npz" else Pictures(reference)
    total = len(pictures) + len(other or ())
    seen = 0

    def both(done: int, _: int) -> None:
        if progress:
            progress(seen + done, total)

    if other is None:
        theirs = read_statistics(reference, extractor.dim)
    else:
        theirs = moments_of(other, extractor, both)
        seen = len(other)
    ours = moments_of(pictures, extractor, both)
    if save is not None:
        write_statistics(save, ours)
    value = frechet_of_moments(ours, theirs)
    return Fid(
        name=f"FID{extractor.suffix}", value=value, pictures=len(pictures), extractor=extractor.name, resize=resize
    )
