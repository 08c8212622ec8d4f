"""Diffusion of pictures: any frame of a clip given the onset and the AUs, in pixels or in latents.

By default the change of the picture is diffused and put onto the photo, which keeps the person's own detail, around the
picture that a mean model expects if there is one (docs/decisions/015); the slow sibling of the generators that
move pixels. Where motion is expected, the photo is moved at its own resolution, and what is drawn is put on top. The
noise of a clip is the same in all its frames, so that a frame is a function of intensity and nothing flickers.
What is drawn, and guidance with its two scales (AUs and onset): :mod:`mesynth.generators.image_diffusion.drawing`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mesynth.core import facs, seeds
from mesynth.core.errors import ConfigError, MesynthError
from mesynth.core.profiles import Profile
from mesynth.generators.base import ClipRequest, Generator, calibrated
from mesynth.generators.diffusion.config import Process
from mesynth.generators.image_diffusion.config import ImageSampling, Spread
from mesynth.generators.image_diffusion.drawing import Codec, load_mean_model, painted
from mesynth.generators.image_diffusion.network import ImageDenoiser, LatentSpace, PixelSpace, Space
from mesynth.generators.motion_gan.network import MotionGenerator
from mesynth.generators.motion_gan.pipeline import MotionGAN
from mesynth.generators.painting import (
    FLOW_METHOD,
    carried_back,
    cell_mask,
    confined,
    named_regions,
    painted_clip,
    region_mask,
)
from mesynth.preprocess.align import SimilarityCrop
from mesynth.store.generator_folder import PipelineError, load_network, load_sized_network

if TYPE_CHECKING:
    from mesynth.core.types import AUVector, Sample
    from mesynth.motion.prior import Face
    from mesynth.store.generator_folder import GeneratorFacts


FAMILY = "image_diffusion"

_BLOCK = 16  # pictures drawn together on CUDA


class ImageDiffusion(Generator):
    """A saved image diffusion model as a generator; see :class:`mesynth.generators.base.Generator`.

    On the CPU every row is drawn by itself and has the same bytes in any batch; on CUDA rows are drawn together and
    agree within 1e-3 of the grey range.
    """

    family = FAMILY

    def __init__(self, network: ImageDenoiser, facts: GeneratorFacts, vae: Any = None, mean_model: Any = None) -> None:
        config: Any = network.config
        self.network, self.facts, self.vae = network.eval().requires_grad_(False), facts, vae
        self.mean_model = mean_model
        self.size: int = config["size"]
        self.process = Process(**(config["process"] or {}))
        self.sampling = ImageSampling(**(config["sampling"] or {}))
        self.regions: tuple[str, ...] = ()
        self._place()

    def _place(self) -> None:
        config: Any = self.network.config
        space: Space = LatentSpace(self.vae, self.size) if self.vae else PixelSpace(self.size, config["patch"])
        spread = Spread.read(config["spread"] or {})
        self.codec = Codec(space, config["target"], config["gain"], self.mean_model, spread)

    def to(self, device: torch.device | str) -> ImageDiffusion:
        """Run the networks there; frames are made on the CPU."""
        self.network.to(device)
        for other in (self.vae, self.mean_model):
            if other is not None:
                other.to(device)
        return self

    def configured(self, **options: object) -> ImageDiffusion:
        """The same networks with other settings: ``steps``, ``solver``, ``guidance`` (AUs), ``identity_guidance``,
        and ``regions``: names joined with ``+`` outside which nothing changes ("" for the whole face).

        Values may be texts, as from a command line.

        Raises:
            MesynthError: an unknown option, or a value that does not fit it.
        """
        kinds = {f.name: type(getattr(self.sampling, f.name)) for f in fields(self.sampling)}
        made = object.__new__(type(self))
        made.__dict__.update(self.__dict__)
        for name, value in options.items():
            if name == "regions":
                made.regions = named_regions(str(value)) if value else ()
                continue
            if name not in kinds:
                raise MesynthError(f"{FAMILY} has no option '{name}'; choose from {', '.join([*kinds, 'regions'])}")
            try:
                number: Any = kinds[name](value)
            except (TypeError, ValueError):
                raise MesynthError(f"{name}={value!r} is no {kinds[name].__name__}; give one") from None
            made.sampling = replace(made.sampling, **{name: number})
        return made

    def clip_of(self, request: ClipRequest) -> tuple[Sample, tuple[str, ...]]:
        """See :func:`mesynth.generators.painting.painted_clip` for sizes and errors.

        With ``regions`` everything outside them is the face's picture, to the bit where there is no sensor noise.

        Raises:
            MesynthError: also regions that do not lie in the picture.
        """
        face, nuisance, seed = request.face, request.nuisance, request.seed
        photo = region_mask(face.landmarks, face.image.shape[:2], self.regions) if self.regions else None
        cells = self._cells(face)
        known = torch.from_numpy(request.aus.mask).to(self.network.device)

        def paint(onset: torch.Tensor, now: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
            n = len(now)
            # A blink that was drawn is known, whatever the request says of AU 45.
            return self.changes(
                onset.expand(n, -1, -1, -1), now, known | (now > 0), [seed] * n, [cells] * n, whole=mover is None
            )

        request, mover = replace(request, aus=calibrated(request.aus, self.facts)), self._mover()
        quiet = replace(request, nuisance=replace(nuisance, noise=0.0))
        base, folds = None, tuple[str, ...]()
        if mover is not None and not (nuisance.head or nuisance.style):  # those are refused below
            moved, folds = mover.clip_of(quiet)
            base = moved.clip.frames
        clip, warnings = painted_clip(
            FAMILY, self.size, paint, request if photo is None else quiet, device=self.network.device, base=base
        )  # fmt: skip
        if photo is not None:
            clip = confined(clip, face.image, photo, nuisance=nuisance, seed=seed, flow_method=FLOW_METHOD)
        return clip, (*folds, *warnings)

    def _mover(self) -> MotionGAN | None:
        """Who moves the photo, where it is motion that is expected; it is asked with gains applied."""
        if not isinstance(self.mean_model, MotionGenerator):
            return None
        return MotionGAN(self.mean_model, replace(self.facts, gains={}))

    @torch.inference_mode()
    def pictures(self, faces: Sequence[Face], aus: Sequence[AUVector], row_seeds: Sequence[int]) -> list[np.ndarray]:
        """Apex pictures of many faces, each at its own size, uint8 [H,W,3]; ``row_seeds``: one a face.

        Raises:
            MesynthError: AUs that exclude each other, or lists of different lengths.
        """
        if not len(faces) == len(aus) == len(row_seeds):
            raise MesynthError(f"{len(faces)} faces, {len(aus)} AUs and {len(row_seeds)} seeds; give equally many")
        for asked in aus:
            facs.reject_conflicts(asked)
        wanted, mover = [calibrated(asked, self.facts) for asked in aus], self._mover()
        out: list[np.ndarray] = []
        for start in range(0, len(faces), _BLOCK):
            part = slice(start, start + _BLOCK)
            crops = [SimilarityCrop.from_landmarks(face.landmarks, self.size) for face in faces[part]]
            cut = np.concatenate([c.frames(f.image[None]) for c, f in zip(crops, faces[part], strict=True)])
            told = [np.stack(x) for x in zip(*((a.intensity, a.mask) for a in wanted[part]), strict=True)]
            onset, asked_for, known = (torch.from_numpy(x).to(self.network.device) for x in (cut, *told))
            onset = onset.permute(0, 3, 1, 2).float() / 255
            places = [self._cells(face) for face in faces[part]]
            change = self.changes(onset, asked_for, known, row_seeds[part], places, whole=mover is None)
            rows = zip(
                faces[part], crops, wanted[part], row_seeds[part], change.permute(0, 2, 3, 1).cpu().numpy(), strict=True
            )
            for face, crop, asked, seed, moved in rows:
                shape, under = face.image.shape[:2], face.image
                if mover is not None:
                    clip, _ = mover.generate(face, asked, Profile(apex=0.5), n_frames=3, fps=100, seed=seed)
                    under = clip.clip.frames[1]
                made = np.clip(under + 255 * carried_back(moved[None], crop, shape)[0] + 0.5, 0, 255).astype(np.uint8)
                if self.regions:
                    made = np.where(region_mask(face.landmarks, shape, self.regions)[..., None], made, face.image)
                out.append(made)
        return out

    def _cells(self, face: Face) -> np.ndarray | None:
        """[side,side] bool: cells of the code that may change, or None for all."""
        if not self.regions:
            return None
        crop = SimilarityCrop.from_landmarks(face.landmarks, self.size)
        mask = region_mask(crop.points(face.landmarks), (self.size, self.size), self.regions)
        return cell_mask(mask, self.codec.space.side)

    @torch.inference_mode()
    def changes(
        self,
        onset: torch.Tensor,
        aus: torch.Tensor,
        known: torch.Tensor,
        row_seeds: Sequence[int],
        cells: Sequence[np.ndarray | None] | None = None,
        *,
        whole: bool = True,
    ) -> torch.Tensor:
        """Change of crops [B,3,S,S] in [0,1], each row with the noise of its own seed.

        ``aus``, ``known`` [B,K,2]; ``cells``: of each row what of the code may change, [side,side] bool, None for all;
        ``whole``: from the onset, else from what is expected. A row without AUs is 0 and costs nothing.
        """
        moving = aus.flatten(1).amax(1) > 0
        out = torch.zeros_like(onset)
        shape = (self.codec.space.channels, self.codec.space.side, self.codec.space.side)
        rows = torch.arange(len(onset), device=onset.device)[moving]
        for part in rows.split(1 if onset.device.type == "cpu" else _BLOCK):
            if not len(part):  # an empty tensor is split into one empty part
                break
            drawn = [seeds.stream(int(row_seeds[i]), FAMILY).standard_normal(shape, np.float32) for i in part.tolist()]
            noise = torch.from_numpy(np.stack(drawn)).to(onset.device)
            kept = None
            if cells is not None and cells[0] is not None:
                kept = torch.from_numpy(np.stack([cells[i] for i in part.tolist()])[:, None]).to(noise)
            out[part] = painted(
                self.network, self.codec, self.process, self.sampling, onset[part], aus[part], known[part], noise,
                mask=kept, whole=whole,
            )  # fmt: skip
        return out


def load(folder: Path, facts: GeneratorFacts) -> ImageDiffusion:
    """From a checked pipeline folder, with the networks of others that were copied into it.

    Raises:
        PipelineError: weights of another class, or networks that do not belong together.
    """
    network = load_sized_network(ImageDenoiser, folder / "denoiser", facts)
    vae = None
    if "vae" in facts.networks:
        from diffusers import AutoencoderKL

        vae = load_network(AutoencoderKL, folder / "vae")
    family: str = network.config["expect"]
    if bool(family) != ("expected" in facts.networks):
        raise PipelineError(f"{folder} is to hold {family or 'no'} network 'expected'; copy it again")
    mean_model = load_mean_model(family, folder / "expected") if family else None
    try:
        return ImageDiffusion(network, facts, vae, mean_model)
    except (KeyError, TypeError, ConfigError) as error:
        raise PipelineError(f"{folder} has settings that do not fit ({error}); retrain it") from None
