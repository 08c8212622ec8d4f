"""Training triples of the learned magnifier: onset, frame, and the frame truly magnified.

Pictures are rendered people and scikit-image's public-domain photographs. A smooth random flow F moves a picture;
the frame shows it moved by F and the truth by m F, both read from the same picture, so that the truth is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as nnf

from mesynth import seeds
from mesynth.errors import ConfigError
from mesynth.preprocess.magnify.warping import fold_limit, invert, warp

MAGNIFIER_SEEDS = range(910_000, 920_000)
"""Head seeds that belong to the magnifier alone."""
TRAIN_PHOTOGRAPHS = ("brick", "coffee", "grass", "gravel", "rocket")
HELD_OUT_PHOTOGRAPHS = ("astronaut", "camera", "chelsea")
"""All are public domain or CC0, as scikit-image documents for each. No picture is in both lists."""
_FOLD_FLOOR = 0.2
_MARGIN = 8  # pixels around a patch that motion may bring in


@dataclass(frozen=True, kw_only=True)
class TripleConfig:
    """What is in the triples."""

    people: int = 48
    """Rendered people to learn from."""
    held_out: int = 8
    """Rendered people for the card's figures."""
    looks: int = 3
    """Pictures of each person: neutral, and with random AUs."""
    size: int = 160
    """Side of the pictures, pixels."""
    patch: int = 64
    """Side of the patches learned from, pixels; even."""
    min_motion: float = 0.1
    max_motion: float = 2.0
    """Peak displacement of the frame, pixels (drawn log-uniformly)."""
    min_factor: float = 1.5
    max_factor: float = 20.0
    """Magnification (drawn log-uniformly), cut where the flow would fold or exceed max_magnified."""
    max_magnified: float = 6.0
    """Largest magnified displacement, pixels."""
    noise: float = 0.01
    """Largest standard deviation of the noise added to onset and frame, independently."""
    faces: float = 0.7
    """Share of triples that show a rendered person."""

    def __post_init__(self) -> None:
        if min(self.people, self.held_out, self.looks) < 1:
            raise ConfigError("people, held_out and looks must each be at least 1")
        if self.people + self.held_out > len(MAGNIFIER_SEEDS):
            raise ConfigError(f"{self.people + self.held_out} people exceed the {len(MAGNIFIER_SEEDS)} seeds kept here")
        if self.patch % 2 or self.patch < 32 or self.patch + 2 * _MARGIN > self.size:
            raise ConfigError(f"patch={self.patch} must be even, >= 32 and <= size - {2 * _MARGIN}")
        if not 0 < self.min_motion <= self.max_motion <= self.max_magnified <= _MARGIN:
            raise ConfigError(f"0 < min_motion <= max_motion <= max_magnified <= {_MARGIN} pixels must hold")
        if not 1 < self.min_factor <= self.max_factor <= 100:
            raise ConfigError(f"1 < min_factor={self.min_factor:g} <= max_factor={self.max_factor:g} <= 100 must hold")
        if not 0 <= self.noise <= 0.2 or not 0 <= self.faces <= 1:
            raise ConfigError("noise must lie in [0, 0.2] and faces in [0, 1]")

    def seen(self) -> list[int]:
        """Head seeds learned from."""
        return list(MAGNIFIER_SEEDS[: self.people])

    def unseen(self) -> list[int]:
        """Head seeds of the held-out people."""
        return list(MAGNIFIER_SEEDS[self.people : self.people + self.held_out])


class Triple(NamedTuple):
    """A batch: onset, frame, truth [N,3,P,P] in about [0,1]; factor [N]; flow [N,2,P,P] onset -> frame, pixels."""

    onset: torch.Tensor
    frame: torch.Tensor
    truth: torch.Tensor
    factor: torch.Tensor
    flow: torch.Tensor


def face_pictures(people: list[int], looks: int, size: int) -> np.ndarray:
    """[N,size,size,3] uint8: each person neutral and with random AUs; depends on the arguments alone."""
    from mesynth.facs import AU_CODES
    from mesynth.head import Subject

    pictures = []
    for person in people:
        rng = seeds.stream(0, "magnifier-looks", person)
        aus = np.zeros((looks, len(AU_CODES), 2), np.float32)
        for look in range(1, looks):
            rows = rng.choice(len(AU_CODES), 3, replace=False)
            aus[look, rows] = rng.uniform(0.1, 0.6, (3, 1))
        pictures.append(Subject(person, size=size).render(aus))
    return np.concatenate(pictures)


def photographs(names: tuple[str, ...], size: int) -> np.ndarray:
    """[N,size,size,3] uint8: four overlapping squares of each photograph, reduced to ``size``."""
    import cv2
    from skimage import data

    pictures = []
    for name in names:
        photo = np.asarray(getattr(data, name)())
        photo = np.repeat(photo[..., None], 3, -1) if photo.ndim == 2 else photo[..., :3]
        side = max(int(0.6 * min(photo.shape[:2])), min(size, *photo.shape[:2]))
        for top in (0, photo.shape[0] - side):
            for left in (0, photo.shape[1] - side):
                square = np.ascontiguousarray(photo[top : top + side, left : left + side])
                pictures.append(cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA))
    return np.stack([np.asarray(p, np.uint8) for p in pictures])


def smooth_flow(rng: np.random.Generator, n: int, side: int, device: torch.device) -> torch.Tensor:
    """[n,2,side,side] smooth random flows of peak length 1: some fill the patch, some are local."""
    flows = []
    for _ in range(n):
        nodes = int(rng.integers(2, 7))
        coarse = torch.from_numpy(rng.standard_normal((1, 2, nodes, nodes)).astype(np.float32)).to(device)
        field = nnf.interpolate(coarse, size=(side, side), mode="bicubic", align_corners=True)
        if rng.random() < 0.5:
            axis = torch.arange(side, device=device, dtype=torch.float32)
            (cx, cy), radius = rng.uniform(0.2 * side, 0.8 * side, 2), rng.uniform(0.08, 0.3) * side
            bump = (
                torch.exp(-0.5 * ((axis - cx) / radius) ** 2) * torch.exp(-0.5 * ((axis - cy) / radius) ** 2)[:, None]
            )
            field = field * bump
        flows.append(field / field.square().sum(1).sqrt().amax().clamp(min=1e-6))
    return torch.cat(flows)


def draw_triples(pictures: torch.Tensor, index: np.ndarray, rng: np.random.Generator, config: TripleConfig) -> Triple:
    """Triples of ``pictures[index]`` ([P,3,S,S] float in [0,1]) with fresh motion; N = len(index)."""
    n, patch = len(index), config.patch
    device = pictures.device
    side = patch + 2 * _MARGIN
    wide = smooth_flow(rng, n, side, device)

    def column(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.asarray(values, np.float32)).to(device)

    peak = column(np.exp(rng.uniform(np.log(config.min_motion), np.log(config.max_motion), n)))
    factor = column(np.exp(rng.uniform(np.log(config.min_factor), np.log(config.max_factor), n)))
    # The frame itself must not fold at the smallest factor; the factor gives way to what is left.
    limit = fold_limit(wide, _FOLD_FLOOR)
    peak = torch.minimum(peak, torch.minimum(limit, torch.full_like(limit, config.max_magnified)) / config.min_factor)
    factor = torch.minimum(factor, torch.minimum(limit, torch.full_like(limit, config.max_magnified)) / peak)
    flow = wide * peak.view(-1, 1, 1, 1)
    # All three pictures are read at fractional places: were the onset not, its sharpness would give it away.
    fraction = column(rng.uniform(-0.5, 0.5, (n, 2))).view(n, 2, 1, 1)
    source = _crops(pictures, index, side, rng)
    inside = slice(_MARGIN, _MARGIN + patch)

    def read(shift: torch.Tensor) -> torch.Tensor:
        return warp(source, shift + fraction)[..., inside, inside]

    onset, frame = read(torch.zeros_like(flow)), read(invert(flow))
    truth = read(invert(flow * factor.view(-1, 1, 1, 1)))
    sd = column(config.noise * rng.random(n)).view(-1, 1, 1, 1)
    grain = torch.from_numpy(rng.standard_normal((2, n, 3, patch, patch), np.float32)).to(device) * sd
    # The frame's own noise is part of the truth: it should be neither amplified nor smoothed away.
    return Triple(onset + grain[0], frame + grain[1], truth + grain[1], factor, flow[..., inside, inside])


def _crops(pictures: torch.Tensor, index: np.ndarray, side: int, rng: np.random.Generator) -> torch.Tensor:
    """[n,3,side,side]: a random square of each picture, mirrored at random, brightness and colour varied."""
    corners = rng.integers(0, pictures.shape[-1] - side + 1, (len(index), 2))
    flips = rng.random((len(index), 2)) < (0.2, 0.5)  # faces rarely stand on their head
    gains = rng.uniform(0.7, 1.1, (len(index), 1)) * rng.uniform(0.9, 1.1, (len(index), 3))
    crops = []
    for picture, (top, left), flip in zip(index, corners, flips, strict=True):
        crop = pictures[int(picture), :, top : top + side, left : left + side]
        crops.append(crop.flip([axis + 1 for axis in range(2) if flip[axis]]))
    gain = torch.from_numpy(gains.astype(np.float32)).to(pictures.device).view(-1, 3, 1, 1)
    return torch.stack(crops) * gain
