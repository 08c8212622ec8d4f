"""Pairs of rendered people with exact flow, framed as prepared crops are: what training tests learn from."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import torch

from mesynth.core import facs, seeds
from mesynth.core.types import AUVector
from mesynth.head import Subject
from mesynth.motion.prior import WARP_LIMIT, Face
from mesynth.preprocess.align import SimilarityCrop
from mesynth.training.data.batches import Batch

K = len(facs.AU_CODES)


def plain_skin(face: Face) -> np.ndarray:
    """[H,W] bool: where a generator's motion is shown as it is, not at an eye nor at the edge of what is still."""
    out: np.ndarray = face.layers.gate == 1
    for eye in face.layers.eyes:
        y0, y1, x0, x1 = eye.box
        out[y0:y1, x0:x1] = False
    return out


def draw_aus(rng: np.random.Generator, codes: tuple[int, ...] = facs.AU_CODES, top: float = 0.6) -> np.ndarray:
    """[K,2] float32: one to three of ``codes`` up to ``top``, a third of them on one side, conflicts damped."""
    out = np.zeros((K, 2), np.float32)
    for code in rng.choice(codes, min(int(rng.integers(1, 4)), len(codes)), replace=False):
        sides = np.full(2, rng.uniform(0.1, min(top, WARP_LIMIT.get(int(code), 1))))
        if int(code) not in facs.MIDLINE and rng.random() < 0.35:
            sides[rng.integers(2)] = 0
        out[facs.AU_INDEX[int(code)]] = sides
    return facs.damp(AUVector(out)).intensity


def person_pairs(
    person: int, n: int, size: int, *, codes: tuple[int, ...] = facs.AU_CODES, top: float = 0.6, seed: int = 0
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """``n`` pairs of one person as arrays of a Batch's fields (pictures uint8), and the crop's landmarks [68,2]."""
    columns, landmarks = _person_pairs(person, n, size, codes, top, seed)
    return {name: array.copy() for name, array in columns.items()}, landmarks.copy()


@lru_cache(maxsize=256)
def _person_pairs(
    person: int, n: int, size: int, codes: tuple[int, ...], top: float, seed: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Rendered once: a dozen tests look at the same people."""
    rng = seeds.stream(seed, "rendered-pairs", person)
    subject = Subject(person, size=round(1.5 * size))
    neutral = np.zeros((K, 2), np.float32)
    aus = np.stack([draw_aus(rng, codes, top) for _ in range(n)])
    crop = SimilarityCrop.from_landmarks(subject.landmarks(), size)
    frames = crop.frames(subject.render(np.concatenate([neutral[None], aus])))
    flow, valid = [], []
    for au in aus:
        exact = subject.flow(neutral, au)
        source = np.ascontiguousarray(exact.uv.transpose(1, 2, 0))
        moved = cv2.warpAffine(source, crop.matrix, (size, size), flags=cv2.INTER_LINEAR)
        flow.append((moved @ crop.matrix[:, :2].T).transpose(2, 0, 1).astype(np.float32))
        valid.append(cv2.warpAffine(exact.visible.astype(np.float32), crop.matrix, (size, size)) > 0.99)
    pair_seeds = np.array([seeds.derived(seed, "pair", person * 1000 + i) for i in range(n)])
    columns = {
        "onset": np.repeat(frames[:1], n, 0), "frame": frames[1:], "flow": np.stack(flow), "valid": np.stack(valid),
        "aus": aus, "seeds": pair_seeds,
    }  # fmt: skip
    return columns, crop.points(subject.landmarks())


def person_face(person: int, size: int) -> Face:
    """One rendered person's neutral crop with its landmarks, as the generators' callers have it."""
    face = _person_face(person, size)
    return Face(face.image.copy(), face.landmarks.copy())


@lru_cache(maxsize=64)
def _person_face(person: int, size: int) -> Face:
    subject = Subject(person, size=round(1.5 * size))
    crop = SimilarityCrop.from_landmarks(subject.landmarks(), size)
    return Face(crop.frames(subject.render(np.zeros((1, K, 2), np.float32)))[0], crop.points(subject.landmarks()))


def batch_of(columns: dict[str, np.ndarray]) -> Batch:
    """The arrays of :func:`person_pairs` as a Batch with every AU known."""
    pictures = {k: torch.from_numpy(columns[k]).permute(0, 3, 1, 2).float().div(255) for k in ("onset", "frame")}
    n = len(columns["aus"])
    return Batch(
        **pictures,
        flow=torch.from_numpy(columns["flow"]),
        valid=torch.from_numpy(columns["valid"]),
        has_flow=torch.ones(n, dtype=torch.bool),
        aus=torch.from_numpy(columns["aus"]),
        known=torch.ones(n, K, 2, dtype=torch.bool),
        landmarks=torch.full((n, 68, 2), torch.nan),
        label=torch.full((n,), -1),
        seeds=columns["seeds"],
    )


def joined(people: range | list[int], n: int, size: int, **options: object) -> dict[str, np.ndarray]:
    """:func:`person_pairs` of several people, one after the other."""
    parts = [person_pairs(p, n, size, **options)[0] for p in people]  # type: ignore[arg-type]
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def rendered_batch(people: range | list[int], n: int, size: int, **options: object) -> Batch:
    """A Batch of ``n`` pairs of each of ``people`` (head seeds)."""
    return batch_of(joined(people, n, size, **options))


def take(columns: dict[str, np.ndarray], rows: np.ndarray) -> Batch:
    """Some rows as a Batch."""
    return batch_of({key: value[rows] for key, value in columns.items()})


class PlainUpdater:
    """The least an updater does: zero the optimiser's gradients, back-propagate, step."""

    def __init__(self, optimisers: dict[str, torch.optim.Optimizer]) -> None:
        self.optimisers = optimisers

    def update(self, name: str, loss: torch.Tensor) -> None:
        """See mesynth.training.task.Updater."""
        optimiser = self.optimisers[name]
        optimiser.zero_grad(set_to_none=True)
        own = [p for group in optimiser.param_groups for p in group["params"]]
        grads = torch.autograd.grad(loss, own, allow_unused=True)
        for parameter, grad in zip(own, grads, strict=True):
            parameter.grad = grad
        optimiser.step()
