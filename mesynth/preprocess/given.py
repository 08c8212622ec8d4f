"""Landmarks that someone already has: a table instead of a network."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mesynth.errors import MesynthError, NoFaceError

_NAME_COLUMNS = ("clip_id", "file", "filename", "name")


class GivenLandmarks:
    """Landmarks by name (clip id, or the onset's file path or file name), from a .csv or .npz file.

    A CSV has a column ``clip_id`` or ``file`` and the columns ``x0``..``x67``, ``y0``..``y67`` (``x_0`` as
    OpenFace writes it is fine too). An npz holds one [68,2] array per name. Pixels of the source frames.
    """

    def __init__(self, points: dict[str, np.ndarray], source: str) -> None:
        for key, value in points.items():
            if value.shape != (68, 2) or not np.isfinite(value).all():
                raise MesynthError(f"landmarks of '{key}' in {source} are not 68 finite points (x, y)")
        self._points = {key: np.asarray(value, np.float32) for key, value in points.items()}
        self.name = source

    @classmethod
    def read(cls, path: Path) -> GivenLandmarks:
        """Raises MesynthError when the file is missing or is no landmark table."""
        if not path.is_file():
            raise MesynthError(f"landmark file {path} does not exist; give a .csv or .npz file")
        if path.suffix == ".npz":
            try:
                with np.load(path, allow_pickle=False) as archive:
                    return cls({key: archive[key] for key in archive.files}, str(path))
            except (OSError, ValueError) as error:
                if isinstance(error, MesynthError):
                    raise
                raise MesynthError(f"{path} is no readable npz of [68,2] arrays ({error})") from None
        return cls(_read_csv(path), str(path))

    def detect(self, image: np.ndarray, names: Sequence[str] = ()) -> np.ndarray:
        """The entry under the first of ``names`` that the table holds. Raises NoFaceError if it holds none."""
        for name in names:
            if name in self._points:
                return self._points[name].copy()
        wanted = names[0] if names else "an unnamed picture"
        raise NoFaceError(f"{self.name} has no landmarks for {wanted}; add a row under its clip id or file name")

    def close(self) -> None:
        """Nothing to free."""


def _read_csv(path: Path) -> dict[str, np.ndarray]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        columns = {name.strip().lower().replace("_", ""): name for name in reader.fieldnames or []}
        key = next((columns[c.replace("_", "")] for c in _NAME_COLUMNS if c.replace("_", "") in columns), None)
        wanted = [(f"x{i}", f"y{i}") for i in range(68)]
        missing = [name for pair in wanted for name in pair if name not in columns]
        if key is None or missing:
            lack = "a column clip_id or file" if key is None else f"the column {missing[0]}"
            raise MesynthError(f"{path} lacks {lack}; it needs clip_id or file, x0..x67 and y0..y67")
        points = {}
        for number, row in enumerate(reader, 2):
            try:
                points[row[key].strip()] = np.array(
                    [[float(row[columns[x]]), float(row[columns[y]])] for x, y in wanted], np.float32
                )
            except (TypeError, ValueError):
                raise MesynthError(f"{path} line {number} holds a coordinate that is no number") from None
    return points
