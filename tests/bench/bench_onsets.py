"""Onsets that smile, gape or are half closed: whether an AU goes the right way there, and what lowering one is worth.

    python -m tests.bench.bench_onsets [MODEL...] [--people 8] [--sheet FILE]

People are rendered, nobody learned from them; the onset shows an AU, exact flow goes from it to the apex. Directions
are read off the made flow at the landmarks: do the lips part (25, 26) or close (24), do the corners rise (12) or fall
(12=-0.3)? Errors are end-point errors in pixels over the face, beside standing still and beside other people's mean
exact flow of the same change, which is blind to the face.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np

from mesynth.benchmark.protocol import BENCHMARK_SEEDS
from mesynth.core import facs
from mesynth.core.profiles import Profile
from mesynth.generators.registry import find_model
from mesynth.head import Subject
from mesynth.motion.prior import Face, eye_frame

MODELS = ("motion-prior", "landmark-mean", "motion_gan", "motion_diffusion", "motion_diffusion_fast")
ONSETS = {"open": "26=0.6", "smiling": "12=0.5", "half closed": "45=0.35"}
WAYS = (
    ("open", "25=0.5"), ("open", "26=0.5"), ("open", "24=0.5"), ("open", "26=-0.1"), ("smiling", "12=0.3"),
    ("smiling", "12=-0.3"), ("half closed", "45=0.3"), ("half closed", "45=-0.2"),
)  # fmt: skip
"""Onset, request."""
LOWERED = (("12=0.5", "12=-0.3", "12=0.2"), ("12=0.6", "L12=-0.4", "L12=0.2,R12=0.6"))
"""Onset, request, apex."""


@dataclass(frozen=True, eq=False)
class Shown:
    """A person who shows something at the onset."""

    subject: Subject
    aus: np.ndarray
    face: Face

    @staticmethod
    def of(seed: int, size: int, request: str) -> Shown:
        subject, aus = Subject(seed, size=size), facs.parse_request(request).intensity
        return Shown(subject, aus, Face(subject.render(aus[None])[0], subject.landmarks(aus)))


def seeds_of(people: int) -> list[int]:
    """Of people whom nobody learned from."""
    return [BENCHMARK_SEEDS.stop - 1 - i for i in range(people)]


def made_flow(model: object, face: Face, request: str, seed: int = 0) -> np.ndarray:
    """[2,H,W] of the apex."""
    asked = facs.parse_request(request)
    sample, _ = model.generate(face, asked, Profile(apex=0.5), n_frames=3, fps=100, seed=seed)  # type: ignore[attr-defined]
    return np.asarray(sample.flow.uv)


def change(uv: np.ndarray, face: Face, what: str) -> float:
    """How much wider the lips ("lips"), higher the corners ("corners"), or smaller the eyes ("eyes") get, in IOD."""
    points = face.landmarks
    _, rotation, iod = eye_frame(points.astype(np.float64))
    down = rotation @ np.array([0.0, 1.0]) / iod

    def moved(ids: tuple[int, ...], below: float = 0.0) -> float:
        at = [(points[i] + below * iod**2 * down).round().astype(int) for i in ids]
        return float(np.mean([uv[:, y, x] @ down for x, y in at]))

    if what == "lips":  # half a lip's height from the line: there the pixel is surely the lip's
        return moved((57, 58, 56)) - moved((51, 50, 52))
    if what == "corners":
        return moved((51, 57)) - moved((48, 54))
    return moved((37, 38, 43, 44), -0.05) - moved((41, 40, 47, 46), 0.05)  # on the lids' skin


def right(request: str, uv: np.ndarray, face: Face) -> bool:
    """Whether the flow goes the way that is asked."""
    (code,) = {facs.AU_CODES[k] for k in np.flatnonzero(facs.parse_request(request).intensity.any(1))}
    what = {12: "corners", 45: "eyes"}.get(code, "lips")
    sign = (-1 if code == 24 else 1) * np.sign(facs.parse_request(request).intensity[facs.AU_INDEX[code]].sum())
    return bool(sign * change(uv, face, what) > 0.002)


def error(uv: np.ndarray, exact: np.ndarray, inside: np.ndarray) -> float:
    """Mean end-point error [px] inside."""
    return float(np.linalg.norm(uv - exact, axis=0)[inside].mean())


def lowering(models: dict[str, object], people: list[int], size: int) -> dict[str, dict[str, list[float]]]:
    """Request -> row -> errors by person."""
    out: dict[str, dict[str, list[float]]] = {}
    for before, request, after in LOWERED:
        rows: dict[str, list[float]] = {}
        shown = [Shown.of(seed, size, before) for seed in people]
        end = facs.parse_request(after).intensity
        exact = [one.subject.flow(one.aus, end) for one in shown]
        # Blind to the face: other people's mean flow of the same change, by the crop's frame.
        for i, (one, truth) in enumerate(zip(shown, exact, strict=True)):
            inside = truth.visible & truth.face
            others = np.mean([e.uv for j, e in enumerate(exact) if j != i], 0)
            rows.setdefault("no motion", []).append(error(0 * truth.uv, truth.uv, inside))
            rows.setdefault("others' mean, blind", []).append(error(others, truth.uv, inside))
            for name, model in models.items():
                rows.setdefault(name, []).append(error(made_flow(model, one.face, request), truth.uv, inside))
        out[f"{request} on {before}"] = rows
    return out


def directions(models: dict[str, object], people: list[int], size: int) -> dict[tuple[str, str], list[bool]]:
    """(request on onset, model) -> right, by person."""
    out: dict[tuple[str, str], list[bool]] = {}
    for kind, request in WAYS:
        for seed in people:
            face = Shown.of(seed, size, ONSETS[kind]).face
            for name, model in models.items():
                found = right(request, made_flow(model, face, request), face)
                out.setdefault((f"{request} on {kind}", name), []).append(found)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--people", type=int, default=8)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--sheet", default="", help="picture: onset and apex of every way, the first model's")
    options = parser.parse_args()
    people, models = seeds_of(options.people), {name: find_model(name).load() for name in options.models}
    for title, rows in lowering(models, people, options.size).items():
        print(title + ": " + ", ".join(f"{name} {np.mean(values):.3f}" for name, values in rows.items()), flush=True)
    for (title, name), found in directions(models, people, options.size).items():
        print(f"{title}, {name}: {sum(found)} of {len(found)}", flush=True)
    if options.sheet:
        import cv2

        rows = []
        model = next(iter(models.values()))
        for kind, request in WAYS:
            faces = [Shown.of(seed, options.size, ONSETS[kind]).face for seed in people[:4]]
            asked, profile = facs.parse_request(request), Profile(apex=0.5)
            after = [model.generate(f, asked, profile, n_frames=3, fps=100)[0].clip.frames[1] for f in faces]
            rows.append(np.hstack([np.hstack([f.image, a]) for f, a in zip(faces, after, strict=True)]))
        cv2.imwrite(options.sheet, np.vstack(rows)[..., ::-1])


if __name__ == "__main__":
    main()
