"""Pairs of frames and faces alone in one stream of draws, without a draw knowing the others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from mesynth.seeds import stream
from mesynth.training.batch import Batch

if TYPE_CHECKING:
    from mesynth.training.pairs import PairSet

_BLOCK = 64
"""Draws within which the places of faces are drawn: at random, so that no process or part of a batch gets them all."""


class MixedPairs:
    """``share`` of the draws are faces; pairs and faces each go through their own epochs.

    Exactly ``floor(n * share)`` of the first n draws are faces wherever n is a multiple of the block.
    """

    def __init__(self, pairs: PairSet, faces: PairSet, share: float, seed: int) -> None:
        """``faces`` may be empty in a set that validates."""
        assert pairs.size == faces.size
        assert 0 < share < 1
        self._pairs, self._faces, self._share, self._seed = pairs, faces, share, seed
        self._places = lru_cache(maxsize=256)(self._draw_places)
        self.size = pairs.size
        self.subjects: tuple[str, ...] = tuple(sorted({*pairs.subjects, *faces.subjects}))
        self.subjects_seen: tuple[str, ...] = tuple(sorted({*pairs.subjects_seen, *faces.subjects_seen}))
        self.licences: tuple[str, ...] = tuple(sorted({*pairs.licences, *faces.licences}))
        known = json.dumps([pairs.data_hash, faces.data_hash, share])
        self.data_hash: str = hashlib.sha256(known.encode()).hexdigest()

    def __len__(self) -> int:
        """Pairs and faces."""
        return len(self._pairs) + len(self._faces)

    def faces_among(self, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which draws [B] are faces, and the number of each among its own kind: bool [B], int64 [B]."""
        blocks, places = np.divmod(np.asarray(draws, np.int64), _BLOCK)
        which = np.array([self._places(int(k))[p] for k, p in zip(blocks, places, strict=True)], np.bool_)
        before = np.array(
            [self._before(int(k)) + int(self._places(int(k))[:p].sum()) for k, p in zip(blocks, places, strict=True)],
            np.int64,
        )
        return which, np.where(which, before, draws - before)

    def batch(self, draws: np.ndarray) -> Batch:
        """The pairs and faces of draw numbers [B] int64 >= 0, on the CPU, in this order."""
        which, numbers = self.faces_among(draws)
        parts = [own.batch(numbers[rows]) for own, rows in self._by_kind(which)]
        return Batch.joined(parts).rows(_places(which))

    def validation(self, n: int, batch: int = 16) -> Iterator[Batch]:
        """``n`` fixed rows (all, if there are fewer), mixed as the draws are, so that a sheet's few show both.

        Pairs come in the order in which they come without faces; there is at least one.
        """
        total, faces = min(n, len(self)), 0
        which = np.zeros(total, np.bool_)
        for i in range(total):
            due = int((i + 1) * self._share) > faces  # never of the first row: the share is below 1
            which[i] = faces < len(self._faces) if due else i - faces == len(self._pairs)
            faces += int(which[i])
        kinds = [(own, int(rows.sum())) for own, rows in self._by_kind(which)]
        rows = Batch.joined([part for own, count in kinds for part in own.validation(count, batch)])
        mixed = rows.rows(_places(which))
        for start in range(0, total, batch):
            yield mixed.rows(np.arange(start, min(start + batch, total)))

    def _by_kind(self, which: np.ndarray) -> list[tuple[PairSet, np.ndarray]]:
        """Sets and the rows of each that has any, pairs first."""
        return [(own, rows) for own, rows in ((self._pairs, ~which), (self._faces, which)) if rows.any()]

    def _before(self, block: int) -> int:
        """Faces before a block."""
        return int(np.floor(block * _BLOCK * self._share))

    def _draw_places(self, block: int) -> np.ndarray:
        """[_BLOCK] bool."""
        places = np.zeros(_BLOCK, np.bool_)
        count = self._before(block + 1) - self._before(block)
        places[stream(self._seed, "face-places", block).permutation(_BLOCK)[:count]] = True
        return places


def _places(which: np.ndarray) -> np.ndarray:
    """For every row its place in "all pairs, then all faces"."""
    return np.argsort(np.concatenate([np.flatnonzero(~which), np.flatnonzero(which)]))
