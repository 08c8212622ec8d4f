"""Speed and accuracy of TV-L1 beside scikit-image's, in one run: ``python -m tests.bench.bench_tvl1``."""

from __future__ import annotations

import json

import numpy as np
import torch
from skimage.registration import optical_flow_tvl1

from mesynth.preprocess.flow import estimate_flows, grayscale
from mesynth.preprocess.tvl1 import tvl1
from tests.bench.timing import milliseconds
from tests.preprocess.textures import end_point_error, smooth_field, texture, warped_pair

PEAKS = (0.3, 1.0, 2.0, 4.0)
METHODS = ("tvl1", "dis", "farneback")


def speed() -> dict[str, float]:
    a, b = warped_pair(texture("astronaut"), smooth_field(0, 2.0))
    grey = [torch.from_numpy(grayscale(x))[None] for x in (a, b)]
    many = [x.repeat(16, 1, 1) for x in grey]
    single = milliseconds(lambda: tvl1(*grey))
    batch = milliseconds(lambda: tvl1(*many), 3) / 16
    reference = milliseconds(lambda: optical_flow_tvl1(*(x[0].numpy() for x in grey)), 3)
    return {
        "threads": torch.get_num_threads(), "ms_single": single, "ms_in_batch_of_16": batch,
        "ms_skimage": reference, "skimage_over_single": reference / single,
    }  # fmt: skip


def accuracy(noise: float) -> dict[str, dict[str, float]]:
    """Mean end-point error in pixels over three textures and two fields, per peak displacement."""
    table: dict[str, dict[str, float]] = {name: {} for name in (*METHODS, "skimage")}
    for peak in PEAKS:
        made = []
        for i, name in enumerate(("astronaut", "camera", "chelsea")):
            for j, sigma in enumerate((18.0, 9.0)):
                field = smooth_field(10 * i + j, peak, sigma)
                made.append((*warped_pair(texture(name), field, noise, j), field))
        a, b, truth = (np.stack([m[k] for m in made]) for k in range(3))
        for method in METHODS:
            flows = estimate_flows(a, b, method)
            table[method][f"{peak:g} px"] = float(
                np.mean([end_point_error(f.uv, t) for f, t in zip(flows, truth, strict=True)])
            )
        reference = [optical_flow_tvl1(x, y)[::-1] for x, y in zip(grayscale(a), grayscale(b), strict=True)]
        errors = [end_point_error(np.stack(r), t) for r, t in zip(reference, truth, strict=True)]
        table["skimage"][f"{peak:g} px"] = float(np.mean(errors))
    return table


def main() -> None:
    torch.set_num_threads(1)
    print(json.dumps({"speed, 128x128": {k: round(v, 2) for k, v in speed().items()}}))
    for noise in (0.0, 2.0):
        for method, errors in accuracy(noise).items():
            row = {k: round(v, 3) for k, v in errors.items()}
            print(json.dumps({"end-point error": method, "noise sd (grey levels)": noise} | row))


if __name__ == "__main__":
    main()
