"""FID of pictures against pictures, or against statistics that pytorch-fid cached; memory does not grow with them."""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

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
            yield read_frames(self._corpus.root, row)[row.apex_index]

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
