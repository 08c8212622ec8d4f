"""Motion magnification against the truth, per method, one JSON line each: ``python -m tests.bench.bench_magnify``.

Rendered faces: an AU at intensity .15 magnified by 4 beside the same AU rendered at .6. The head's shapes add up
linearly in 3D; what projection, lids and lips make of that is not linear, so "displacement truth / asked" (1 where
the render is linear) is printed beside. Warped photographs: exact in every respect.
"""

from __future__ import annotations

import json
import time

import numpy as np
import torch
from skimage.metrics import structural_similarity

from mesynth.core.facs import parse_request
from mesynth.head import Subject
from mesynth.preprocess.magnify import METHODS, LearnedMagnifier, magnify
from mesynth.preprocess.magnify.classical import displacement_slope, noise_gain, psnr
from mesynth.preprocess.magnify.learned_train import TripleConfig
from mesynth.preprocess.warping import to_video
from tests.preprocess.magnify.clips import clip, flows

BORDER = 8
INTENSITY, FACTOR = 0.15, 4.0
AUS = (4, 12)


def ssim(pictures: torch.Tensor, truth: torch.Tensor) -> float:
    """Mean structural similarity of [N,C,H,W] in [0,1], away from the border."""
    pairs = zip(pictures[..., BORDER:-BORDER, BORDER:-BORDER], truth[..., BORDER:-BORDER, BORDER:-BORDER], strict=True)
    return float(
        np.mean([structural_similarity(a.numpy(), b.numpy(), channel_axis=0, data_range=1.0) for a, b in pairs])
    )


def run(video: torch.Tensor, factor: float, method: str) -> torch.Tensor:
    config = LEARNED if method == "learned" else None
    return magnify(video, factor, method, config=config)


def row(name: str, video: torch.Tensor, truth: torch.Tensor, flow: torch.Tensor, factor: float, method: str) -> None:
    """One line: the last frames of ``video`` [N,T,C,H,W] magnified, beside ``truth`` [N,C,H,W]; flow [N,2,H,W]."""
    onset, before = video[:, 0], video[:, -1]
    after = run(video, factor, method)[:, -1]
    generator = torch.Generator().manual_seed(0)
    line = {
        "clips": name, "method": method, "factor": factor,
        "psnr before": psnr(before, truth), "psnr after": psnr(after, truth),
        "ssim before": ssim(before, truth), "ssim after": ssim(after, truth),
        "slope before": displacement_slope(onset, before, flow), "slope after": displacement_slope(onset, after, flow),
        "slope truth": displacement_slope(onset, truth, flow),
        "noise gain": noise_gain(lambda v: run(v, factor, method), video, 2 / 255, generator),
    }  # fmt: skip
    print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in line.items()}), flush=True)


def rendered(au: int, noisy: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
    """Clips [N,2,3,H,W], true apexes, exact flow of the faint apex, and displacement truth / asked."""
    clips, truths, fields, ratios = [], [], [], []
    for person in TripleConfig().held_out_people():
        subject = Subject(person)
        faint, strong = (parse_request(f"{au}={a:g}").intensity for a in (INTENSITY, FACTOR * INTENSITY))
        still = np.zeros_like(faint)
        frames = to_video(subject.render(np.stack([still, faint, strong]), noise_seed=1 if noisy else None))
        clips.append(frames[:2])
        truths.append(frames[2])
        motion, large = subject.flow(still, faint), subject.flow(still, strong)
        seen = motion.visible & large.visible
        fields.append(torch.from_numpy(np.where(seen, motion.uv, 0)))
        asked = FACTOR * motion.uv[:, seen]
        ratios.append(float((large.uv[:, seen] * asked).sum() / (asked**2).sum()))
    return torch.stack(clips), torch.stack(truths), torch.stack(fields), float(np.mean(ratios))


def speed(method: str, frames: int = 17) -> None:
    """Milliseconds a frame of one 128-pixel RGB clip, best of 3: the machine may be shared."""
    video = clip(0.5, tuple(np.linspace(0, 1, frames)))[:1]
    run(video, 4.0, method)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        run(video, 4.0, method)
        seconds.append(time.perf_counter() - start)
    ms = round(1e3 * min(seconds) / (frames - 1), 2)
    print(json.dumps({"speed": method, "threads": torch.get_num_threads(), "ms per 128 px frame": ms}), flush=True)


def main() -> None:
    torch.set_num_threads(1)
    for noisy in (False, True):
        for au in AUS:
            video, truth, flow, ratio = rendered(au, noisy)
            name = f"held-out faces, AU {au}, {INTENSITY:g}{', sensor noise' if noisy else ''}"
            print(json.dumps({"clips": name, "displacement truth / asked": round(ratio, 3)}))
            for method in METHODS:
                row(name, video, truth, flow, FACTOR, method)
    for peak, factor in ((0.2, 10.0), (0.5, 4.0), (1.0, 3.0)):
        video, truth = clip(peak, (0.0, 1.0)), clip(peak, (0.0, 1.0), factor)[:, 1]
        for method in METHODS:
            row(f"warped photographs, peak {peak:g} px", video, truth, flows(peak, (1.0,))[:, 0], factor, method)
    for method in METHODS:
        speed(method)


LEARNED = LearnedMagnifier.load()

if __name__ == "__main__":
    main()
