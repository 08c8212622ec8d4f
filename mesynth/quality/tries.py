"""Rows of a plan drawn again: another seed for each try, everything else as the row says, until a clip passes.

What is drawn again is the row's seed alone, which decides style, head movement, blinks, noise, the lag between AUs, and
whatever a generator draws itself. Face, AUs, profile, length and strengths of nuisances stay: a clip that takes
another's place has its condition, so a plan's classes and factors stay balanced and its labels true.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import overload

import numpy as np

from mesynth import seeds
from mesynth.corpus.plan import PlanRow
from mesynth.quality.checks import Checks, Failure
from mesynth.quality.clips import ClipData
from mesynth.quality.motion import face_mask
from mesynth.stage import Produced

FIRST = 1
"""The first try is the row itself: where nothing is rejected, a corpus is the one that `mesynth generate` makes."""


def redrawn(row: PlanRow, attempt: int) -> PlanRow:
    """The row of the ``attempt``-th try, counted from FIRST; its seed depends on the row's and ``attempt`` alone."""
    return row if attempt == FIRST else replace(row, seed=seeds.derived(row.seed, "redraw", attempt))


def by_chance(row: PlanRow) -> bool:
    """Whether a redraw may differ though the one before did not: a blink happens or not, all else always differs."""
    return row.nuisance.blink > 0


@dataclass(frozen=True)
class Turn:
    """A row that needs a clip, and the try to begin with."""

    row: PlanRow
    attempt: int


class Turns:
    """Some rows of a plan, each with the try to begin with. Rows are drawn or read when they are looked at."""

    def __init__(self, rows: Sequence[PlanRow], places: Sequence[int], attempts: Sequence[int] | None = None) -> None:
        """``places``: which of ``rows``; ``attempts``: FIRST for all without them."""
        self.rows, self.places, self.attempts = rows, places, attempts

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, part: slice, /) -> Turns:
        return Turns(self.rows, self.places[part], self.attempts and self.attempts[part])

    def __iter__(self) -> Iterator[Turn]:
        return map(self.turn, range(len(self)))

    def turn(self, i: int) -> Turn:
        """The ``i``-th."""
        return Turn(self.rows[self.places[i]], FIRST if self.attempts is None else self.attempts[i])

    def plain(self) -> list[object]:
        """What tells these turns from others at the same plan."""
        return [len(self)] if self.attempts is None else [list(self.places), list(self.attempts)]


class Redrawn(Sequence[PlanRow]):
    """:class:`Turns` as plan rows that say their try's seed, for makers that take rows in batches."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    def __len__(self) -> int:
        return len(self._turns)

    @overload
    def __getitem__(self, index: int) -> PlanRow: ...
    @overload
    def __getitem__(self, index: slice) -> Redrawn: ...
    def __getitem__(self, index: int | slice) -> PlanRow | Redrawn:
        if isinstance(index, slice):
            return Redrawn(self._turns[index])
        turn = self._turns.turn(range(len(self))[index])
        return redrawn(turn.row, turn.attempt)


class MadeClip(ClipData):
    """A clip as its maker returns it; PNG and npy keep every bit, so its values are those of the stored clip."""

    def __init__(self, made: Produced) -> None:
        assert made.frames is not None
        assert made.flow is not None
        assert made.landmarks is not None
        self.side, self.row, self.frames = "synthetic", made.row, made.frames
        self.landmarks, self.emitted_flow = made.landmarks, made.flow
        mask = face_mask(made.landmarks, *made.frames.shape[1:3])
        self.face = mask if made.valid is None else mask & made.valid


@dataclass(frozen=True)
class Tried:
    """What became of a row: a line of a round's ``notes.jsonl``."""

    attempt: int
    """The last try."""
    rejected: tuple[tuple[int, str, float, float], ...]
    """Try, check, value and limit of every reason against a try."""
    same: bool = False
    """The last try showed what the one before did, and the next would."""

    @staticmethod
    def of(note: dict[str, object]) -> Tried:
        """From a note."""
        lines = note["rejected"]
        assert isinstance(lines, list)
        return Tried(int(str(note["attempt"])), tuple((a, c, v, x) for a, c, v, x in lines), bool(note["same"]))


class Tries:
    """Makes the clip of a row until its frames pass the checks, or no try is left: then the row comes without arrays.

    Duplicates are another matter: they depend on other rows.
    """

    def __init__(self, make: Callable[[PlanRow], Produced], checks: Checks, attempts: int) -> None:
        self._make, self._checks, self._attempts = make, checks, attempts

    def __call__(self, turn: Turn) -> Produced:
        rejected: list[tuple[int, str, float, float]] = []
        failed: list[Failure] = []
        before = ""
        for attempt in range(turn.attempt, self._attempts + 1):
            made = self._make(redrawn(turn.row, attempt))
            seen = _what_checks_see(made)
            same = seen == before
            if not same:
                with _one_thread():
                    failed = self._checks.failed(self._checks.measure(MadeClip(made)))
            if not failed:
                return replace(made, notes={"attempt": attempt, "rejected": rejected, "same": False})
            rejected += [(attempt, check, value, limit) for check, value, limit, _ in failed]
            stuck = same and not by_chance(turn.row)
            if stuck or attempt == self._attempts:
                return Produced(made.row, notes={"attempt": attempt, "rejected": rejected, "same": stuck})
            before = seen
        raise AssertionError("a turn has a try left")


def _what_checks_see(made: Produced) -> str:
    """sha256 of onset, apex and flow. Frames between them differ with the lag between AUs, which no check looks at."""
    assert made.frames is not None
    assert made.flow is not None
    return digest(made.frames[0], made.frames[made.row.apex_index], made.flow)


def digest(*arrays: np.ndarray) -> str:
    """sha256 of the values of arrays."""
    whole = hashlib.sha256()
    for array in arrays:
        whole.update(np.ascontiguousarray(array).tobytes())
    return whole.hexdigest()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums in the same order whatever the number of processes: a value near its limit must not change sides."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
