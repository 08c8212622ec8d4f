"""The magnifiers that learned nothing: Eulerian, phase-based and Lagrangian, and what all magnifiers share.

**Eulerian**: motion is amplified where it is seen, without following any point.

Linear (Wu et al., SIGGRAPH 2012): grey values are amplified. Fast and free of estimation, right to first order only:
where a band's wavelength is short against the magnified motion the linearisation breaks, and noise is amplified with
the signal. Both are what the bound per level is for.

Phase-based, on the Riesz pyramid (Wadhwa et al., ICCP 2014; the idea: SIGGRAPH 2013). Riesz rather than complex
steerable: one complex pair of filters per octave instead of four to eight orientations, the local orientation comes
out of the transform, and skin moves smoothly, so that one orientation a place is enough. The transform is computed
exactly, by FFT, with radial bands that sum to 1: what is not moved is not touched.

**Lagrangian**: a measured flow is scaled and the picture warped by it. Liu et al., "Motion magnification", SIGGRAPH
2005; Le Ngo et al., "Micro-expression motion magnification: global Lagrangian vs. local Eulerian approaches", FG 2018,
who scale the flow of the whole face.

Conventions: the flow F [2,H,W] lives on the onset's grid, onset(x) = frame(x + F(x)). The magnified frame M shows at
x + m F(x) what the frame shows at x + F(x). With the backward field b of m F, b(y) = -m F(y + b(y)), that is
M(y) = frame(y + (1 - 1/m) b(y)): at m = 1 nothing is read from elsewhere, and M's flow since the onset is exactly m F.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from mesynth.core.errors import ConfigError, MesynthError
from mesynth.preprocess.tvl1 import tvl1
from mesynth.preprocess.warping import fold_limit, invert, require_video, warp

MIN_SIDE = 16
"""Smallest picture side, pixels: below it no band of motion is left (and TV-L1 refuses too)."""
MAX_FACTOR = 100.0

# ITU-R BT.601 luma, the weights of mesynth.preprocess.flow.grayscale.
_LUMA = (0.299, 0.587, 0.114)


def require_clip(video: torch.Tensor, name: str = "video") -> None:
    """Raise MesynthError unless ``video`` is a finite float [B,T,C,H,W] clip that can be magnified."""
    require_video(video, name)
    if video.dtype not in (torch.float32, torch.float64):
        raise MesynthError(f"{name} is {video.dtype}; faint motion needs float32, convert with .float()")
    _, frames, channels, height, width = video.shape
    if frames < 2:
        raise MesynthError(f"{name} has {frames} frame; magnification compares frames with the onset, give at least 2")
    if channels not in (1, 3):
        raise MesynthError(f"{name} has {channels} channels; give grey (1) or RGB (3)")
    if min(height, width) < MIN_SIDE:
        raise MesynthError(f"{name} is {width}x{height} pixels; each side must be >= {MIN_SIDE}")
    if not bool(torch.isfinite(video).all()):
        raise MesynthError(f"{name} holds NaN or infinity; give colours in [0, 1]")


def require_factor(factor: float) -> float:
    """The factor as a float in 1..MAX_FACTOR. Raises MesynthError otherwise."""
    value = float(factor)
    if not (math.isfinite(value) and 1 <= value <= MAX_FACTOR):
        raise MesynthError(f"factor {value:g} is outside 1..{MAX_FACTOR:g}; 1 leaves the motion as it is")
    return value


def luma(video: torch.Tensor) -> torch.Tensor:
    """[...,C,H,W] with C of 1 or 3 -> [...,1,H,W]."""
    if video.shape[-3] == 1:
        return video
    red, green, blue = video.unbind(-3)
    return (_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue).unsqueeze(-3)


# ---------------------------------------------------------------- temporal


KINDS = ("onset", "ideal", "butterworth")


@dataclass(frozen=True, kw_only=True)
class TemporalFilter:
    """``onset``: the difference to the first frame, for clips that begin at rest. ``ideal`` and ``butterworth``: a
    band in Hz, for longer recordings; ``ideal`` cuts the spectrum of the whole clip and takes it as periodic, so that
    a micro-expression of 10 to 100 frames rings; ``butterworth`` is causal and lags.
    """

    kind: str = "onset"
    low: float = 0.0
    high: float = 0.0
    """Band in Hz, 0 < low < high < fps / 2. Without effect, and refused, for ``onset``."""
    order: int = 2
    """Order of the Butterworth filter."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"temporal filter '{self.kind}' is unknown; choose from {', '.join(KINDS)}")
        if self.kind == "onset" and (self.low or self.high):
            raise ConfigError(f"a band of {self.low:g}..{self.high:g} Hz has no effect on 'onset'; choose ideal")
        if self.kind != "onset" and not 0 < self.low < self.high < math.inf:
            raise ConfigError(f"temporal band {self.low:g}..{self.high:g} Hz is none; 0 < low < high must hold")
        if not 1 <= self.order <= 8:
            raise ConfigError(f"Butterworth order={self.order} is outside 1..8")

    def apply(self, signal: torch.Tensor, fps: float | None) -> torch.Tensor:
        """The change of each value over time: [T,...] -> [T,...]. A constant signal gives exactly 0.

        Raises:
            ConfigError: fps is missing or not positive, the band exceeds fps / 2 or holds no frequency of the clip.
        """
        # A band holds no constant; taking the first value away makes that exact and starts the filters at rest.
        change = signal - signal[:1]
        if self.kind == "onset":
            return change
        rate = require_fps(fps, self.kind)
        if self.high >= rate / 2:
            raise ConfigError(f"temporal band up to {self.high:g} Hz reaches fps / 2 = {rate / 2:g} Hz; lower it")
        return self._ideal(change, rate) if self.kind == "ideal" else self._butterworth(change, rate)

    def _ideal(self, change: torch.Tensor, fps: float) -> torch.Tensor:
        """Ideal band-pass by the discrete Fourier transform (Wu et al., 2012)."""
        frames = len(change)
        bins = torch.fft.rfftfreq(frames, 1 / fps, device=change.device)
        keep = (bins >= self.low) & (bins <= self.high)
        if not bool(keep.any()):
            raise ConfigError(
                f"temporal band {self.low:g}..{self.high:g} Hz holds no frequency of {frames} frames at {fps:g} fps "
                f"(steps of {fps / frames:g} Hz); widen it or use kind=onset"
            )
        spectrum = torch.fft.rfft(change, dim=0) * keep.view(-1, *[1] * (change.ndim - 1))
        return torch.fft.irfft(spectrum, n=frames, dim=0)

    def _butterworth(self, change: torch.Tensor, fps: float) -> torch.Tensor:
        """Causal Butterworth band-pass as second-order sections, transposed direct form II."""
        from scipy.signal import butter

        sections = butter(self.order, [self.low, self.high], "bandpass", fs=fps, output="sos")
        for b0, b1, b2, _, a1, a2 in sections.tolist():
            first, second = torch.zeros_like(change[0]), torch.zeros_like(change[0])
            out = []
            for value in change:
                made = b0 * value + first
                first, second = b1 * value - a1 * made + second, b2 * value - a2 * made
                out.append(made)
            change = torch.stack(out)
        return change


def require_fps(fps: float | None, purpose: str) -> float:
    """Frames per second as a float. Raises ConfigError when missing, not finite or not positive."""
    if fps is None:
        raise ConfigError(f"temporal filter '{purpose}' has a band in Hz; give fps, the clip's frames per second")
    if not (math.isfinite(fps) and fps > 0):
        raise ConfigError(f"fps={fps:g} must be a positive number of frames per second")
    return float(fps)


# ---------------------------------------------------------------- measure


_BORDER = 8  # pixels left out: motion there comes from beyond the picture


def displacement_slope(onset: torch.Tensor, frames: torch.Tensor, flow: torch.Tensor) -> float:
    """Slope of displacement measured in ``frames`` on the known ``flow``, through the origin.

    onset, frames [N,C,H,W] in [0,1], flow [N,2,H,W] pixels on the onset's grid. Measured with TV-L1, which itself
    reads a little low: compare with the slope of a clip that truly shows the flow. A perfect magnifier by m has m
    times the slope of the clip it was given.
    """
    inside = (..., slice(_BORDER, -_BORDER), slice(_BORDER, -_BORDER))
    found = tvl1(luma(onset)[:, 0], luma(frames)[:, 0])[inside].double()
    known = flow[inside].double()
    return float((found * known).sum() / known.square().sum().clamp(min=1e-12))


def psnr(picture: torch.Tensor, truth: torch.Tensor) -> float:
    """Peak signal-to-noise ratio of [N,C,H,W] in [0,1] in decibels, away from the border; mean over the pictures."""
    inside = (..., slice(_BORDER, -_BORDER), slice(_BORDER, -_BORDER))
    error = (picture - truth)[inside].double().square().flatten(1).mean(1)
    return float((-10 * error.clamp(min=1e-12).log10()).mean())


def noise_gain(
    magnified: Callable[[torch.Tensor], torch.Tensor], video: torch.Tensor, sd: float, generator: torch.Generator
) -> float:
    """Standard deviation of what noise adds to the magnified frames, over that of the noise itself.

    video [B,T,C,H,W] in [0,1] without noise; ``sd``: of the noise on every frame, the onset too. 1 = not amplified.
    """
    noise = sd * torch.randn(video.shape, generator=generator).to(video)
    change = magnified(video + noise) - magnified(video)
    return float(change[:, 1:].std() / noise[:, 1:].std())


# ---------------------------------------------------------------- Eulerian, and by phase


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


# ---------------------------------------------------------------- Lagrangian


FlowMethod = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Grey onsets and frames, two [N,H,W] in [0,1] -> flow on the onset's grid [N,2,H,W], pixels."""


class FoldError(MesynthError):
    """A factor would fold the picture: two places of the onset would be seen at one pixel."""


@dataclass(frozen=True, kw_only=True)
class LagrangianConfig:
    """Parameters of Lagrangian magnification."""

    smooth: float = 2.0
    """Standard deviation of the Gaussian that smooths the flow before it is scaled, pixels; 0 takes it as it is.
    TV-L1's steps and noise are magnified with the motion."""
    fold: str = "clip"
    """Where the factor would fold the picture: ``clip`` lowers the factor of that clip, for all of its frames, to the
    largest that does not; ``refuse`` raises FoldError."""
    floor: float = 0.1
    """Smallest Jacobian determinant of x + m F(x) that is no fold: the share of its area a pixel must keep."""
    source: str = "frame"
    """What is warped: each ``frame`` (its light and wrinkles are kept) or the ``onset`` (its noise is)."""

    def __post_init__(self) -> None:
        if not 0 <= self.smooth <= 32:
            raise ConfigError(f"smooth={self.smooth:g} is outside 0..32 pixels")
        if self.fold not in ("clip", "refuse"):
            raise ConfigError(f"fold='{self.fold}' is unknown; choose clip or refuse")
        if not 0 < self.floor < 1:
            raise ConfigError(f"floor={self.floor:g} is outside (0, 1)")
        if self.source not in ("frame", "onset"):
            raise ConfigError(f"source='{self.source}' is unknown; choose frame or onset")


def lagrangian(
    video: torch.Tensor,
    factor: float,
    config: LagrangianConfig = LagrangianConfig(),
    flow: torch.Tensor | FlowMethod | None = None,
) -> torch.Tensor:
    """Magnify the motion of float [B,T,C,H,W] in [0,1] by ``factor``; same shape, clipped to [0,1].

    flow: [B,T-1,2,H,W] pixels, onset -> frames 1..T-1, on the onset's grid; or what measures it; None is TV-L1.
    The onset comes back unchanged; so does everything at factor 1.

    Raises:
        MesynthError: an unfit clip, factor or flow.
        FoldError: the factor would fold the picture and config.fold is "refuse".
    """
    require_clip(video)
    value = require_factor(factor)
    if value == 1:
        return video.clone()
    flows = smoothed_flow(_measured(video, flow), config.smooth)
    used = _factors(flows, value, config)
    return _magnified(video, flows, used, config.source)


def multi_ratio(
    frames: torch.Tensor, flows: torch.Tensor, ratios: Sequence[float], config: LagrangianConfig | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """One clip at several motion sizes, as augmentation: what is shown and its flow stay exact to each other.

    frames float [B,T,C,H,W] in [0,1]; flows [B,T-1,2,H,W] pixels, onset -> frames 1..T-1; ratios R numbers in
    (0, 100], below 1 for fainter. Returns frames [R,B,T,C,H,W] and flows [R,B,T-1,2,H,W]; ``flows[r]`` is
    ``ratios[r]`` times what was given, after config.smooth. The default does not smooth, and refuses to fold:
    with ``fold="clip"`` the flow that comes back is scaled by the factor that was used.

    Raises:
        MesynthError: unfit frames, flows or ratios.
        FoldError: a ratio would fold the picture and config.fold is "refuse".
    """
    chosen = config or LagrangianConfig(smooth=0.0, fold="refuse")
    require_clip(frames, "frames")
    if not len(ratios):
        raise MesynthError("ratios is empty; give at least one number, for example (1, 2, 4)")
    for ratio in ratios:
        if not (math.isfinite(ratio) and 0 < ratio <= MAX_FACTOR):
            raise MesynthError(f"ratio {ratio:g} is outside (0, {MAX_FACTOR:g}]")
    smooth = smoothed_flow(_measured(frames, flows), chosen.smooth)
    shown, moved = [], []
    for ratio in ratios:
        used = _factors(smooth, float(ratio), chosen)
        shown.append(frames.clone() if ratio == 1 else _magnified(frames, smooth, used, chosen.source))
        moved.append(smooth * used.view(-1, 1, 1, 1, 1))
    return torch.stack(shown), torch.stack(moved)


def smoothed_flow(flows: torch.Tensor, sigma: float) -> torch.Tensor:
    """[...,H,W] blurred by a Gaussian of ``sigma`` pixels, continued beyond the border."""
    if sigma == 0:
        return flows
    radius = max(1, math.ceil(2.5 * sigma))
    taps = [math.exp(-0.5 * (i / sigma) ** 2) for i in range(-radius, radius + 1)]
    flat = flows.flatten(0, -3)
    for axis in (-1, -2):
        padded = F.pad(flat, (radius, radius, 0, 0) if axis == -1 else (0, 0, radius, radius), mode="replicate")
        total = torch.zeros_like(flat)
        for i, tap in enumerate(taps):
            total.add_(padded.narrow(axis, i, flat.shape[axis]), alpha=tap / sum(taps))
        flat = total
    return flat.view_as(flows)


def _measured(video: torch.Tensor, flow: torch.Tensor | FlowMethod | None) -> torch.Tensor:
    """[B,T-1,2,H,W] as given or as measured."""
    batch, frames, _, height, width = video.shape
    want = (batch, frames - 1, 2, height, width)
    if isinstance(flow, torch.Tensor):
        flows = flow
    else:
        grey = luma(video)[:, :, 0]
        onset = grey[:, :1].expand_as(grey[:, 1:])
        found = (flow or tvl1)(onset.flatten(0, 1), grey[:, 1:].flatten(0, 1))
        if tuple(found.shape) != (batch * (frames - 1), *want[2:]):
            raise MesynthError(f"the flow method gave {tuple(found.shape)}; expected {(want[0] * want[1], *want[2:])}")
        still = (video[:, 1:] == video[:, :1]).flatten(2).all(2).view(batch, frames - 1, 1, 1, 1)
        flows = found.view(want).masked_fill(still, 0)  # methods find a few thousandths of a pixel in equal pictures
    if tuple(flows.shape) != want or not flows.is_floating_point():
        raise MesynthError(f"flow is {flows.dtype} {tuple(flows.shape)}; expected float {want}, onset to each frame")
    if not bool(torch.isfinite(flows).all()):
        raise MesynthError("flow holds NaN or infinity; give pixels")
    return flows.to(video)


def _factors(flows: torch.Tensor, factor: float, config: LagrangianConfig) -> torch.Tensor:
    """The factor of each clip [B], under the fold rule of the configuration."""
    limit = fold_limit(flows.flatten(0, 1), config.floor).view(flows.shape[:2]).amin(1)
    asked = torch.full_like(limit, factor)
    if config.fold == "clip":
        # Never below 1: the frame as it was recorded is no magnification at all.
        return torch.minimum(asked, limit.clamp(min=min(1.0, factor)))
    if bool((limit < factor).any()):
        clip = int(limit.argmin())
        raise FoldError(
            f"factor {factor:g} folds the picture of clip {clip}; up to {float(limit[clip]):.2f} it does not: "
            "lower the factor, smooth the flow, or use fold='clip'"
        )
    return asked


def _magnified(video: torch.Tensor, flows: torch.Tensor, factors: torch.Tensor, source: str) -> torch.Tensor:
    """Warp every frame but the onset; one clip at a time, so that memory stays flat."""
    out = video.clone()
    for clip, flow, factor, result in zip(video, flows, factors, out, strict=True):
        if source == "frame" and bool(factor == 1):
            continue
        backward = invert(factor * flow)
        shift = backward if source == "onset" else backward * (1 - 1 / factor)
        picture = clip[:1].expand_as(clip[1:]) if source == "onset" else clip[1:]
        moved = (shift != 0).any(1, keepdim=True)
        result[1:] = torch.where(moved, warp(picture, shift).clamp(0, 1), picture)
    return out
