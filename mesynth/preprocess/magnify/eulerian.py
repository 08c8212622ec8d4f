"""Eulerian magnification: motion is amplified where it is seen, without following any point.

Linear (Wu et al., SIGGRAPH 2012): grey values are amplified. Fast and free of estimation, right to first order only:
where a band's wavelength is short against the magnified motion the linearisation breaks, and noise is amplified with
the signal. Both are what the bound per level is for.

Phase-based, on the Riesz pyramid (Wadhwa et al., ICCP 2014; the idea: SIGGRAPH 2013). Riesz rather than complex
steerable: one complex pair of filters per octave instead of four to eight orientations, the local orientation comes
out of the transform, and skin moves smoothly, so that one orientation a place is enough. The transform is computed
exactly, by FFT, with radial bands that sum to 1: what is not moved is not touched.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from mesynth.core.errors import ConfigError
from mesynth.preprocess.magnify.common import TemporalFilter, luma, require_clip, require_factor

_COARSEST = 8  # pixels: side below which no further level is split off
_EPSILON = 0.01  # regularises the orientation tensor, whose trace is 1
_EMPTY = 1e-12  # squared amplitude below which a band shows nothing


@dataclass(frozen=True, kw_only=True)
class EulerianConfig:
    """Parameters of linear Eulerian magnification."""

    temporal: TemporalFilter = field(default_factory=TemporalFilter)
    lambda_c: float = 8.0
    """Spatial wavelength, pixels, from which on a band gets the full factor. The paper's bound
    (1 + alpha) delta < lambda / 8 holds for it at a motion of delta = lambda_c / (8 factor); a shorter wavelength gets
    the largest alpha at which the bound still holds for that motion. 0 switches the bound off."""
    chroma: float = 0.1
    """Share of the amplification that colour gets, beside luma: sensors' colour is noisier."""

    def __post_init__(self) -> None:
        if not 0 <= self.lambda_c < math.inf:
            raise ConfigError(f"lambda_c={self.lambda_c:g} must be a finite number of pixels, 0 for no bound")
        if not 0 <= self.chroma <= 1:
            raise ConfigError(f"chroma={self.chroma:g} is outside [0, 1]")


def eulerian(
    video: torch.Tensor, factor: float, config: EulerianConfig = EulerianConfig(), fps: float | None = None
) -> torch.Tensor:
    """Magnify the motion of float [B,T,C,H,W] in [0,1] by ``factor``; same shape, clipped to [0,1].

    ``factor`` is 1 + alpha of the paper. Factor 1 returns the input; the onset comes back unchanged with the default
    temporal filter. The pyramid and the temporal filter are linear, so the bands of the change are amplified and
    added to the frames, which are never rebuilt from bands themselves.

    Raises:
        MesynthError: an unfit clip or factor, or a band without fps.
    """
    require_clip(video)
    alpha = require_factor(factor) - 1
    change = torch.stack([config.temporal.apply(clip, fps) for clip in video])
    if alpha == 0:
        return video.clone()
    if video.shape[2] == 3 and config.chroma < 1:
        grey = luma(change)
        change = grey + config.chroma * (change - grey)
    amplified = _amplified(change.flatten(0, 1), alpha, config.lambda_c).view_as(video)
    # Frames without any change keep their values, also those outside [0, 1].
    return torch.where(amplified == 0, video, (video + amplified).clamp(0, 1))


def level_alpha(level: int, alpha: float, lambda_c: float) -> float:
    """Amplification of a pyramid level, 0 the finest: at most alpha, at most what the paper's bound allows.

    The level's wavelength is taken as 2^level 2 sqrt(2) pixels, the middle of its octave (2 to 4 pixels for level 0).

    >>> [round(level_alpha(level, 3.0, 16.0), 2) for level in range(4)]
    [0.0, 0.41, 1.83, 3.0]
    """
    if lambda_c == 0:
        return alpha
    wavelength = 2 * math.sqrt(2) * 2**level
    delta = lambda_c / (8 * (1 + alpha))
    return min(max(wavelength / (8 * delta) - 1, 0.0), alpha)


def _amplified(change: torch.Tensor, alpha: float, lambda_c: float) -> torch.Tensor:
    """Sum of the Laplacian bands of [N,C,H,W], each times its alpha; recursion from fine to coarse."""

    def collapse(picture: torch.Tensor, level: int) -> torch.Tensor:
        if min(picture.shape[-2:]) < 2 * _COARSEST:
            return alpha * picture
        coarse = _reduce(picture)
        size = picture.shape[-2:]
        band = picture - _expand(coarse, size)
        return level_alpha(level, alpha, lambda_c) * band + _expand(collapse(coarse, level + 1), size)

    return collapse(change, 0)


def _reduce(picture: torch.Tensor) -> torch.Tensor:
    """Burt and Adelson's 5-tap blur and every second pixel. Sums of shifts: bitwise the same in any batch."""
    for axis in (-1, -2):
        padded = F.pad(picture, (2, 2, 0, 0) if axis == -1 else (0, 0, 2, 2), mode="reflect")
        length = picture.shape[axis]
        taps = [padded.narrow(axis, i, length) for i in range(5)]
        blurred = (taps[0] + taps[4] + 4 * (taps[1] + taps[3]) + 6 * taps[2]) / 16
        picture = blurred[..., ::2] if axis == -1 else blurred[..., ::2, :]
    return picture


def _expand(coarse: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """Twice the size by the same taps, cut to ``size``."""
    picture = coarse
    for axis in (-1, -2):
        padded = F.pad(picture, (1, 1, 0, 0) if axis == -1 else (0, 0, 1, 1), mode="replicate")
        length = picture.shape[axis]
        left, here, right = (padded.narrow(axis, i, length) for i in range(3))
        pair = torch.stack([(left + 6 * here + right) / 8, (here + right) / 2], dim=axis if axis == -1 else -2)
        picture = pair.flatten(-2) if axis == -1 else pair.flatten(-3, -2)
        picture = picture.narrow(axis, 0, size[axis])
    return picture


# ---------------------------------------------------------------- phase


@dataclass(frozen=True, kw_only=True)
class PhaseConfig:
    """Parameters of phase-based magnification."""

    temporal: TemporalFilter = field(default_factory=TemporalFilter)
    smooth: float = 1.5
    """Standard deviation of the amplitude-weighted smoothing of phase changes, in quarter wavelengths of the band."""
    max_phase: float = 2.0
    """Phase in radians from which on a band fades out, down to nothing at twice as much. A wave moves inside its
    envelope, which stays: further on its detail would arrive at the wrong place, a dark line as a bright one. At 2,
    detail of wavelength lambda fades where it would have to move by lambda / pi and more: it is softer there."""

    def __post_init__(self) -> None:
        if not 0 <= self.smooth <= 16:
            raise ConfigError(f"smooth={self.smooth:g} is outside 0..16 quarter wavelengths")
        if not 0 < self.max_phase <= 2 * math.pi:
            raise ConfigError(f"max_phase={self.max_phase:g} is outside (0, 2 pi] radians")


def phase(
    video: torch.Tensor, factor: float, config: PhaseConfig = PhaseConfig(), fps: float | None = None
) -> torch.Tensor:
    """Magnify the motion of float [B,T,C,H,W] in [0,1] by ``factor``; same shape, clipped to [0,1].

    Phase changes are measured in luma and applied to every channel. Factor 1 returns the input; the onset comes back
    unchanged with the default temporal filter. Memory: one clip at a time.

    Raises:
        MesynthError: an unfit clip or factor, or a band without fps.
    """
    require_clip(video)
    alpha = require_factor(factor) - 1
    return torch.stack([_clip(clip, alpha, config, fps) for clip in video])


def _clip(clip: torch.Tensor, alpha: float, config: PhaseConfig, fps: float | None) -> torch.Tensor:
    """[T,C,H,W] -> [T,C,H,W]."""
    height, width = clip.shape[-2:]
    margin = min(max(height, width) // 4, min(height, width) - 1)
    colour = torch.fft.rfft2(_periodic(clip, margin))
    grey = colour if clip.shape[1] == 1 else luma(colour)
    size = (height + 2 * margin, width + 2 * margin)
    radius, riesz = _frequencies(size, clip)
    change = torch.zeros_like(clip)
    inside = (..., slice(margin, margin + height), slice(margin, margin + width))
    for wavelength, band in _bands(radius, min(height, width)):
        grey_band = torch.cat([torch.fft.irfft2(part, s=size)[inside] for part in _parts(grey * band, riesz)], 1)
        turn = config.temporal.apply(_phase_change(grey_band), fps)
        turn = alpha * _regularised(turn, grey_band, config.smooth * wavelength / 4)
        length = turn.square().sum(1, keepdim=True).sqrt()
        reach = (2 - length / config.max_phase).clamp(0, 1)
        direction = turn / length.clamp(min=1e-12)
        i, r1, r2 = grey_band.split(1, 1)
        if clip.shape[1] == 3:
            i, r1, r2 = (torch.fft.irfft2(part, s=size)[inside] for part in _parts(colour * band, riesz))
        along = direction[:, :1] * r1 + direction[:, 1:] * r2
        # Real part of the quaternion (I, R1, R2) times exp(turn), less I (Wadhwa et al., 2014).
        change += reach * (i * length.cos() - along * length.sin()) - i
    return torch.where(change == 0, clip, (clip + change).clamp(0, 1))


def _periodic(clip: torch.Tensor, margin: int) -> torch.Tensor:
    """Mirrored by ``margin`` pixels and faded to each picture's mean, so that opposite edges agree."""
    padded = F.pad(clip, (margin,) * 4, mode="reflect")
    mean = clip.mean((-2, -1), keepdim=True)
    ramp = 0.5 - 0.5 * torch.cos(torch.pi * (torch.arange(margin, device=clip.device, dtype=clip.dtype) + 0.5) / margin)

    def fade(length: int) -> torch.Tensor:
        return torch.cat([ramp, ramp.new_ones(length), ramp.flip(0)])

    window = fade(clip.shape[-2])[:, None] * fade(clip.shape[-1])
    return mean + window * (padded - mean)


def _frequencies(size: tuple[int, int], like: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    """Radius of the half spectrum, 1 = the Nyquist frequency, and the Riesz multipliers -i (wx, wy) / |w|."""
    rows = 2 * torch.fft.fftfreq(size[0], device=like.device, dtype=like.dtype)[:, None]
    columns = 2 * torch.fft.rfftfreq(size[1], device=like.device, dtype=like.dtype)[None]
    radius = (rows.square() + columns.square()).sqrt()
    scale = 1 / radius.clamp(min=1e-6)
    return radius, (-1j * columns * scale, -1j * rows * scale)


def _bands(radius: torch.Tensor, side: int) -> list[tuple[float, torch.Tensor]]:
    """(wavelength in pixels, transfer function) from fine to coarse, one an octave; with the low-pass they sum to 1."""
    octave = radius.clamp(min=1e-6).log2()
    above = torch.ones_like(radius)
    bands = []
    for level in range(max(1, int(math.log2(side)) - 1)):
        below = 0.5 - 0.5 * torch.cos(torch.pi * (-octave - level).clamp(0, 1))
        bands.append((2.0 * 2**level, above - below))
        above = below
    return bands


def _parts(spectrum: torch.Tensor, riesz: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    return spectrum, spectrum * riesz[0], spectrum * riesz[1]


def _phase_change(band: torch.Tensor) -> torch.Tensor:
    """Quaternionic phase since the first frame: (I, R1, R2) [T,3,H,W] -> (phase x orientation) [T,2,H,W], radians.

    The logarithm of q_t times the conjugate of q_0; its component beside (i, j), second order in the change of
    orientation, is left out as in the paper.
    """
    i, r = band[:, :1], band[:, 1:]
    real = i * i[:1] + (r * r[:1]).sum(1, keepdim=True)
    imaginary = r * i[:1] - r[:1] * i
    size = imaginary.square().sum(1, keepdim=True).sqrt()
    return imaginary * (torch.atan2(size, real) / size.clamp(min=1e-20))


def _regularised(turn: torch.Tensor, band: torch.Tensor, sigma: float) -> torch.Tensor:
    """Amplitude-weighted smoothing of phase changes [T,2,H,W] that keeps their size.

    A band shows only the motion across its local orientation n: turn = n n' u, u the displacement in radians. The
    plain weighted mean of the paper halves it where orientations mix. Here the mean tensor of orientations is divided
    out, u = (<n n'> + eps)^-1 <turn>, and u is projected on each pixel's own orientation again.
    """
    if sigma == 0:
        return turn
    i, r1, r2 = band.split(1, 1)
    energy = i * i + r1 * r1 + r2 * r2
    weight = energy[:1] + _EMPTY
    mean = _gaussian(turn * weight, sigma) / _gaussian(weight, sigma)
    # R R' = energy sin^2(phase) n n': over a wavelength its mean is n n' up to a factor, which the trace removes.
    odd = torch.cat([r1[:1] * r1[:1] + _EMPTY, r1[:1] * r2[:1], r2[:1] * r2[:1] + _EMPTY], 1)
    xx, xy, yy = _gaussian(odd, sigma).split(1, 1)
    trace = xx + yy
    xx, xy, yy = xx / trace, xy / trace, yy / trace
    determinant = (xx + _EPSILON) * (yy + _EPSILON) - xy * xy
    mx, my = mean.split(1, 1)
    ux = ((yy + _EPSILON) * mx - xy * my) / determinant
    uy = ((xx + _EPSILON) * my - xy * mx) / determinant
    # The pixel's own n n' is R R' where the odd part is strong, and the mean where only the even part is seen.
    scale = 1 / (energy + 2 * _EMPTY)
    pxx, pxy, pyy = ((r1 * r1 + i * i * xx) * scale, (r1 * r2 + i * i * xy) * scale, (r2 * r2 + i * i * yy) * scale)
    return torch.cat([pxx * ux + pxy * uy, pxy * ux + pyy * uy], 1)


def _gaussian(picture: torch.Tensor, sigma: float) -> torch.Tensor:
    """[N,C,H,W] times a Gaussian, not normalised, zeros beyond the border; a wide one is sampled more coarsely."""
    step = max(1, round(sigma / 3))
    reach = max(1, math.ceil(2.5 * sigma / step)) * step
    for axis in (-1, -2):
        padded = F.pad(picture, (reach, reach, 0, 0) if axis == -1 else (0, 0, reach, reach))
        length = picture.shape[axis]
        picture = torch.zeros_like(picture)
        for offset in range(-reach, reach + 1, step):
            tap = math.exp(-0.5 * (offset / sigma) ** 2)
            picture.add_(padded.narrow(axis, reach + offset, length), alpha=tap)
    return picture
