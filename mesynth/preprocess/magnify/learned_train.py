"""Train the learned magnifier: ``python -m mesynth.preprocess.magnify.learned_train RECIPE --out DIR [key=value ...]``.

The recipe that ships is configs/preprocess/magnifier.yaml. Writes ``magnifier.safetensors`` and ``magnifier.md`` with
figures on people and photographs never learned from. The same command resumes from the last checkpoint and gives the
same weights as an undisturbed run; Ctrl-C stops after a checkpoint.

It learns from triples: onset, frame, and the frame truly magnified. Pictures are rendered people and scikit-image's
public-domain photographs. A smooth random flow F moves a picture; the frame shows it moved by F and the truth by m F,
both read from the same picture, so that the truth is exact.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as nnf
from omegaconf import OmegaConf

from mesynth.config import load_recipe
from mesynth.core import seeds
from mesynth.core.errors import ConfigError, MesynthError, RunFolderError, first_line
from mesynth.core.process import stop_requested
from mesynth.preprocess.magnify.classical import displacement_slope, noise_gain, psnr
from mesynth.preprocess.magnify.learned import LearnedMagnifier, MagnifierMeta, MagnifierNet, net_tensors
from mesynth.preprocess.warping import fold_limit, invert, warp
from mesynth.store.weights import tensors_sha256

MAGNIFIER_SEEDS = range(910_000, 920_000)
"""Head seeds that belong to the magnifier alone."""
_TRAIN_PHOTOGRAPHS = ("brick", "coffee", "grass", "gravel", "rocket")
_HELD_OUT_PHOTOGRAPHS = ("astronaut", "camera", "chelsea")
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

    def train_people(self) -> list[int]:
        """Head seeds learned from."""
        return list(MAGNIFIER_SEEDS[: self.people])

    def held_out_people(self) -> list[int]:
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
    from mesynth.core.facs import AU_CODES
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


# ---------------------------------------------------------------- learned train


_CHECKPOINT_SECONDS = 60.0
_LEAST_CHANGE = 0.01  # of the range [0, 1]: below it, noise decides
_STATE = "state.safetensors"


@dataclass(frozen=True, kw_only=True)
class MagnifierConfig:
    """Everything the magnifier depends on."""

    triples: TripleConfig = field(default_factory=TripleConfig)
    width: int = 24
    """Channels at half resolution."""
    blocks: int = 3
    """Residual blocks of the decoder."""
    steps: int = 7000
    batch: int = 8
    lr: float = 2e-3
    """Peak learning rate: linear warm-up over 2 % of the steps, then half a cosine to 0."""
    gradient: float = 0.5
    """Weight of the L1 error of spatial differences beside that of colours: edges must arrive, not blur."""
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.width, self.blocks, self.steps, self.batch) < 1:
            raise ConfigError("width, blocks, steps and batch must be at least 1")
        if not self.lr > 0 or not self.gradient >= 0:
            raise ConfigError(f"lr={self.lr:g} must be positive and gradient={self.gradient:g} not negative")


class Training:
    """Network, optimizer and step; a step depends on (config, step) and the state before it alone."""

    def __init__(self, config: MagnifierConfig, pictures: torch.Tensor, faces: int) -> None:
        """pictures [P,3,S,S] float in [0,1], on the device to train on; the first ``faces`` show people."""
        self.config, self.step, self.loss = config, 0, math.nan
        self._pictures, self._faces = pictures, faces
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeds.derived(config.seed, "magnifier-init"))
            self.net = MagnifierNet(config.width, config.blocks)
        self.net.to(pictures.device).train()
        self._optimizer = torch.optim.AdamW(self.net.parameters(), lr=config.lr, weight_decay=1e-4)

    def advance(self) -> None:
        """One step."""
        config = self.config
        rng = seeds.stream(config.seed, "magnifier-triples", self.step)
        face = rng.random(config.batch) < config.triples.faces
        index = np.where(
            face,
            rng.integers(0, self._faces, config.batch),
            rng.integers(self._faces, len(self._pictures), config.batch),
        )
        batch = draw_triples(self._pictures, index, rng, config.triples)
        error = self.net(batch.onset, batch.frame, batch.factor) - batch.truth
        # Relative to what magnification changes: faint motion counts as much as large motion does.
        asked = (batch.truth - batch.frame).abs().mean((1, 2, 3)) + _LEAST_CHANGE
        size = error.abs().mean((1, 2, 3)) + config.gradient * _edges(error)
        loss = (size / asked).mean()
        for group in self._optimizer.param_groups:
            group["lr"] = config.lr * schedule(self.step / config.steps)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self._optimizer.step()
        self.loss = float(loss.detach()) if math.isnan(self.loss) else 0.98 * self.loss + 0.02 * float(loss.detach())
        self.step += 1

    def save(self, path: Path) -> None:
        """Write the whole state; appears under its name only when complete."""
        from safetensors.torch import save

        from mesynth.store.run_folder import write_bytes

        tensors = {f"net.{name}": value for name, value in net_tensors(self.net).items()}
        for i, moments in self._optimizer.state_dict()["state"].items():
            for name in ("exp_avg", "exp_avg_sq"):
                tensors[f"{name}.{i}"] = moments[name].to("cpu").contiguous()
        write_bytes(path, save(tensors, {"step": str(self.step), "loss": repr(self.loss)}))

    def restore(self, path: Path) -> None:
        """Go on from a saved state. Raises RunFolderError when the file is damaged."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt", device=str(self._pictures.device)) as handle:
                tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
                record = handle.metadata()
            self.net.load_state_dict({n[4:]: value for n, value in tensors.items() if n.startswith("net.")})
            state = self._optimizer.state_dict()
            step = int(record["step"])
            state["state"] = {
                i: {"step": torch.tensor(float(step)), **{n: tensors[f"{n}.{i}"] for n in ("exp_avg", "exp_avg_sq")}}
                for i in range(len(list(self.net.parameters())))
            }
            self._optimizer.load_state_dict(state)
            self.step, self.loss = step, float(record["loss"])
        except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
            reason = first_line(error)
            raise RunFolderError(f"{path} is no checkpoint of this run ({reason}); remove it to start anew") from None


def _edges(error: torch.Tensor) -> torch.Tensor:
    """[N,C,H,W] -> [N]: mean size of the spatial differences."""
    return error.diff(dim=-1).abs().mean((1, 2, 3)) + error.diff(dim=-2).abs().mean((1, 2, 3))


def schedule(progress: float) -> float:
    """Share of the peak learning rate at ``progress`` in 0..1."""
    if progress < 0.02:
        return (progress + 1e-4) / (0.02 + 1e-4)
    return 0.5 * (1 + math.cos(math.pi * (progress - 0.02) / 0.98))


def fit(training: Training, state: Path, progress: bool = True) -> MagnifierNet:
    """Train to the last step, with a checkpoint a minute. Raises Interrupted after one when asked to stop."""
    from tqdm import tqdm

    from mesynth.store.stage import Interrupted

    config = training.config
    if state.is_file():
        training.restore(state)
    saved = time.monotonic()
    with (
        stop_requested() as asked,
        tqdm(total=config.steps, initial=training.step, desc="train", disable=not progress) as bar,
    ):
        while training.step < config.steps:
            training.advance()
            bar.update()
            if training.step % 50 == 0:
                bar.set_postfix(loss=f"{training.loss:.4f}")
            if asked.is_set() or time.monotonic() - saved > _CHECKPOINT_SECONDS:
                training.save(state)
                saved = time.monotonic()
            if asked.is_set():
                raise Interrupted(f"stopped at step {training.step} of {config.steps}; the same command goes on")
    training.save(state)
    return training.net.eval().requires_grad_(False)


def train(config: MagnifierConfig, out: Path, device: str = "cpu", progress: bool = True) -> LearnedMagnifier:
    """Make a magnifier and write ``magnifier.safetensors`` and ``magnifier.md`` into ``out``.

    Raises:
        RunFolderError: ``out`` holds another run or a damaged checkpoint.
        Interrupted: stopped by Ctrl-C; the same call goes on.
    """
    from mesynth.store.run_folder import claim_folder, only_writer

    claim_folder(out, asdict(config))
    with only_writer(out):
        return _train(config, out, device, progress)


def _train(config: MagnifierConfig, out: Path, device: str, progress: bool) -> LearnedMagnifier:
    from mesynth.store.digests import seal
    from mesynth.store.run_folder import write_text

    triples = config.triples
    faces = face_pictures(triples.train_people(), triples.looks, triples.size)
    pictures = np.concatenate([faces, photographs(_TRAIN_PHOTOGRAPHS, triples.size)])
    batch = torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2).float().div_(255).contiguous()
    net = fit(Training(config, batch, len(faces)), out / _STATE, progress).to("cpu")
    meta = MagnifierMeta(
        width=config.width,
        blocks=config.blocks,
        max_factor=triples.max_factor,
        max_motion=triples.max_magnified,
        people_seen=(*triples.train_people(), *triples.held_out_people()),
        figures={},
        config=OmegaConf.to_yaml(OmegaConf.structured(config)),
        weights_sha256=tensors_sha256(net_tensors(net)),
    )
    meta.figures.update(held_out_figures(LearnedMagnifier(net, meta), triples))
    made = LearnedMagnifier(net, meta)
    made.save(out / "magnifier.safetensors")
    write_text(out / "magnifier.md", _magnifier_card(made, config))
    seal(out)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    import argparse

    parser = argparse.ArgumentParser(
        prog="python -m mesynth.preprocess.magnify.learned_train",
        description=__doc__,
        epilog="example: python -m mesynth.preprocess.magnify.learned_train configs/preprocess/magnifier.yaml "
        "--out runs/magnifier",
    )
    parser.add_argument("config", help="recipe, for example configs/preprocess/magnifier.yaml")
    parser.add_argument("overrides", nargs="*", help="key=value, for example steps=200")
    parser.add_argument("--out", required=True, type=Path, help="folder of this run")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    options = parser.parse_intermixed_args(arguments)
    try:
        if options.device != "cpu" and not torch.cuda.is_available():
            raise ConfigError(f"device {options.device} is not here (no CUDA); use --device cpu")
        made = train(load_recipe(MagnifierConfig, options.config, options.overrides)[0], options.out, options.device)
    except MesynthError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {options.out / 'magnifier.safetensors'}; weights {made.meta.weights_sha256[:12]}")
    return 0


# ---------------------------------------------------------------- learned card


CASES = ((0.2, 10.0), (0.5, 4.0), (1.0, 3.0), (0.3, 2.0))
"""(peak displacement in pixels, factor) of the card's rows."""
_SD = 2 / 255


def held_out_figures(
    magnifier: LearnedMagnifier, config: TripleConfig, cases: Sequence[tuple[float, float]] = CASES
) -> dict[str, float]:
    """Figures on pictures of people and photographs that were not learned from; the card explains them.

    ``cases``: the card's rows; a row's figures do not depend on the others.
    """
    pictures = np.concatenate(
        [face_pictures(config.held_out_people(), 1, config.size), photographs(_HELD_OUT_PHOTOGRAPHS, config.size)[::4]]
    )
    source = torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div(255)
    rng = seeds.stream(0, "magnifier-held-out")
    unit = smooth_flow(rng, len(source), config.size, source.device)
    unit = unit * (fold_limit(unit, 0.3) / 3.2).clamp(max=1).view(-1, 1, 1, 1)
    # Half a pixel off the grid, so that onset and frame are interpolated alike.
    half = torch.full_like(unit, 0.5)
    onset = warp(source, half)
    figures = {}
    for peak, factor in cases:
        frame, truth = (warp(source, invert(unit * peak * m) + half) for m in (1.0, factor))
        pair = torch.stack([onset, frame], 1).clamp(0, 1)
        made = magnifier.magnify(pair, factor)[:, 1]
        name = f"{peak:g} px x{factor:g}"
        figures[f"{name}: psnr"] = psnr(made, truth)
        figures[f"{name}: psnr unmagnified"] = psnr(frame, truth)
        figures[f"{name}: gain"] = displacement_slope(onset, made, unit * peak)
        figures[f"{name}: true gain"] = displacement_slope(onset, truth, unit * peak)
        generator = torch.Generator().manual_seed(0)
        figures[f"{name}: noise gain"] = noise_gain(
            lambda video, m=factor: magnifier.magnify(video, m),  # type: ignore[misc]
            pair,
            _SD,
            generator,
        )
    return {name: round(value, 3) for name, value in figures.items()}


def _magnifier_card(magnifier: LearnedMagnifier, config: MagnifierConfig) -> str:
    """Markdown card, made from the figures that travel with the weights."""
    meta, t = magnifier.meta, config.triples
    held_out, rows = t.held_out_people(), []
    for peak, factor in CASES:
        f = {
            key.split(": ")[1]: value
            for key, value in meta.figures.items()
            if key.startswith(f"{peak:g} px x{factor:g}:")
        }
        rows.append(
            f"| {peak:g} | {factor:g} | {f['psnr unmagnified']:.1f} | {f['psnr']:.1f} | {f['gain']:.2f} "
            f"| {f['true gain']:.2f} | {f['noise gain']:.2f} |"
        )
    parameters = sum(value.numel() for value in magnifier._net.parameters())
    table = "\n".join(rows)
    return f"""# Learned motion magnifier

Onset and frame -> the frame with its motion since the onset magnified. Encoder, manipulator and decoder in the manner
of Oh et al., "Learning-based video motion magnification", ECCV 2018, at half resolution, {parameters} parameters. The
decoder's answer is used as a change to the frame, so a still frame and factor 1 come back exactly.

**What it knows.** It learned from synthetic pairs only: smooth random warps of pictures. It has seen factors up to
{meta.max_factor:g} and magnified displacements up to {meta.max_motion:g} pixels, on pictures where a face is 128 to
160 pixels wide; beyond that it falls short of the factor. Thin lines that have to move by several pixels come out
soft: the mouth line under AU 12 of intensity .15 (2 pixels) at factor 4, and brows leave a trace where they were. It
knows no occlusion, no change of light and no wrinkle that appears. Real faces: not measured.

## Data and command

`python -m mesynth.preprocess.magnify.learned_train configs/preprocess/magnifier.yaml --out DIR`, then copy
`magnifier.safetensors` and `magnifier.md` into `mesynth/preprocess/magnify/data/`. {t.people} rendered people
(head seeds {t.train_people()[0]} to {t.train_people()[-1]}) in {t.looks} pictures each, and scikit-image's
{", ".join(_TRAIN_PHOTOGRAPHS)} (public domain or CC0).
Peak motion {t.min_motion:g} to {t.max_motion:g} px, factor {t.min_factor:g} to {t.max_factor:g}, noise up to sd
{t.noise:g} on onset and frame. {config.steps} steps of {config.batch} triples of {t.patch} px, seed {config.seed}.
Weights sha256 (tensors): `{meta.weights_sha256}`.

## Figures on pictures never learned from

{t.held_out} people (head seeds {held_out[0]} to {held_out[-1]}) and {", ".join(_HELD_OUT_PHOTOGRAPHS)}.
PSNR in dB against the truly magnified picture, of the frame as it was and as magnified. Gain: slope of the
displacement that TV-L1 finds in the magnified frame on the frame's known displacement, beside the same slope of the
truly magnified frame. Noise gain: what noise of sd 2 grey levels on onset and frame adds, over the noise itself.

| peak px (at most) | factor | PSNR before | PSNR after | gain | gain of the truth | noise gain |
|---|---|---|---|---|---|---|
{table}
"""


if __name__ == "__main__":
    sys.exit(main())
