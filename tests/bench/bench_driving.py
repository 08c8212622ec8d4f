"""Motion carried from another person's clip against AU-driven motion: ``python -m tests.bench.bench_driving``.

Rendered people show what they themselves do under an AU, exactly. Each is driven by another rendered person's clip of
the same AU (flow estimated from its frames, and its exact flow, which leaves estimation out), by the motion prior and
by the landmark mean. Endpoint error of the apex' flow, pixels of a 128 px picture, over the skin that moves, and the
cosine; "still" is the length of the truth, the error of a face that does not move. Drivers and driven are other people
than those that parameters were tried on (seeds below 100).
"""

from __future__ import annotations

import argparse

import numpy as np

from mesynth.core import facs
from mesynth.core.profiles import Profile
from mesynth.core.types import AUVector
from mesynth.head import Subject
from mesynth.motion.driving import drive, measured, of_flow
from mesynth.motion.nuisance import Nuisance
from mesynth.motion.prior import MEAN, NAME, Face, MotionPrior

AUS = ("1=0.5,2=0.5", "4=0.5", "6=0.5,12=0.5", "9=0.5", "14=0.5", "15=0.5", "17=0.5")
SIZE, FRAMES = 128, 9
NONE = np.zeros((len(facs.AU_CODES), 2), np.float32)


def _flows(driver: Subject, driven: Subject, aus: AUVector, noise: int, flow: str) -> dict[str, np.ndarray]:
    """Name -> flow [2,H,W] of the driven face's apex."""
    face = Face(driven.render(NONE[None], noise_seed=noise)[0], driven.landmarks())
    profile = Profile(apex=0.5)
    apex = profile.apex_index(FRAMES)
    curve = profile.alpha(FRAMES)
    frames = driver.render(curve[:, None, None] * aus.intensity, noise_seed=noise + 1)
    points, exact = driver.landmarks(), driver.flow(NONE, aus.intensity).uv
    out = {
        "driven (estimated flow)": drive(face, measured(frames, points, apex, 60.0, aus, flow))[0].flow.uv,
        "driven (exact flow)": drive(face, of_flow(exact, points, curve, apex, 60.0, aus))[0].flow.uv,
    }
    for name in (NAME, MEAN):
        made, _ = MotionPrior(face, name).generate(aus, profile, n_frames=3, fps=60.0, nuisance=Nuisance())
        out[name] = made.flow.uv
    return out


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=4, help="driven people, each by another one")
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--flow", default="tvl1")
    given = parser.parse_args()
    subjects = [Subject(given.seed + i, size=SIZE, frontal=True) for i in range(given.people + 1)]
    found: dict[str, list[tuple[float, float]]] = {}
    for i in range(given.people):
        for request in AUS:
            aus = facs.parse_request(request)
            truth = subjects[i].flow(NONE, aus.intensity)
            length = np.hypot(*truth.uv)
            moving = (length > 0.1 * length.max()) & truth.visible & truth.face
            found.setdefault("still", []).append((float(length[moving].mean()), 0.0))
            for name, uv in _flows(subjects[i + 1], subjects[i], aus, given.seed + i, given.flow).items():
                error = np.hypot(*(uv - truth.uv))[moving].mean()
                a, b = uv[:, moving], truth.uv[:, moving]
                cosine = (a * b).sum() / max(np.sqrt((a**2).sum() * (b**2).sum()), 1e-9)
                found.setdefault(name, []).append((float(error), float(cosine)))
    print(f"{given.people} people, {len(AUS)} requests, flow {given.flow}")
    for name, values in found.items():
        error, cosine = np.mean(values, 0)
        print(f"{name:24s}  EPE {error:.3f} px  cosine {cosine:.3f}")


if __name__ == "__main__":
    main()
