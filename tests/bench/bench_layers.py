"""Faces in layers against one smooth flow: lids, lips, what stays still, rendered truth, time.

``python -m tests.bench.bench_layers [--people 6] [--size 256] [--photo] [--folds] [--glasses] [--models]``: a table of
rendered people of all tones, whose frames and flow are known exactly; with ``--photo`` the same measures, if they need
no truth, on the astronaut of scikit-image (needs mediapipe). ``--folds``: the perceptual distance to the truth of
layers with and without folds of the skin, nothing else. ``--glasses``: people with and without them, found or not,
share of the frames' pixels that are found, skin that is taken for them. ``--models NAMES [--head FILE]``: what
generators explain on people of the packaged head, with rigs of their own and of another head, and what layers would
if the skin moved as it does. *Smooth* is the motion prior's flow of all AUs, inverted and read, as before layers.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from mesynth.benchmark.protocol import load_candidates
from mesynth.core import facs
from mesynth.head import Subject
from mesynth.head.foreign import ForeignHead
from mesynth.metrics.networks.extractors import STLPIPS
from mesynth.motion.glasses import without_glasses
from mesynth.motion.layers import Step, skin_aus
from mesynth.motion.prior import Face, MotionPrior
from mesynth.motion.warp import backward_flow, stays_inside, warp_backward
from mesynth.preprocess.landmarks import choose_landmarker
from tests.bench.bench_painted import people

PEOPLE = (8, 3, 11, 5, 12, 2, 33, 21)
"""Rendered people of tones .03, .26, .28, .54, .69, .87, .09, .90."""
FOLDED = (
    "1=1,2=1", "1=0.4,2=0.4", "4=1", "4=0.4", "6=1", "7=1", "9=1", "10=1", "12=1", "6=0.4,12=0.4", "14=1", "15=1",
    "17=1",
)  # fmt: skip
AGAINST_TRUTH = (4, 5, 6, 7, 9, 12, 23, 24, 25, 26, 27, 43, 45)
_STILL = np.zeros((1, len(facs.AU_CODES), 2), np.float32)

Make = Callable[[str], tuple[np.ndarray, np.ndarray]]
"""Request -> (frame [H,W,3] uint8, flow [H,W,2])."""


def smooth(prior: MotionPrior) -> Make:
    """Every AU as one smooth flow."""

    def make(request: str) -> tuple[np.ndarray, np.ndarray]:
        flow = _fields(prior, facs.parse_request(request).intensity)
        frame = warp_backward(prior.face.image, backward_flow(flow))
        return np.clip(frame + 0.5, 0, 255).astype(np.uint8), flow

    return make


def layered(prior: MotionPrior) -> Make:
    """Skin by the prior, lids and lips by layers."""

    def make(request: str) -> tuple[np.ndarray, np.ndarray]:
        step = _step(prior, request)
        layers = prior.face.layers
        return np.clip(layers.frame(step) + 0.5, 0, 255).astype(np.uint8), layers.truth(step).flow

    return make


def _step(prior: MotionPrior, request: str) -> Step:
    aus = facs.parse_request(request)
    return Step(_fields(prior, skin_aus(aus).intensity), aus.intensity)


def _fields(prior: MotionPrior, intensity: np.ndarray) -> np.ndarray:
    cells = [(int(k), int(s)) for k, s in np.argwhere(intensity > 0)]
    weights = np.array([intensity[cell] for cell in cells], np.float32)
    return np.ascontiguousarray(np.einsum("a,ahwc->hwc", weights, prior.fields(cells)), np.float32)


def explained(subject: Subject, prior: MotionPrior, make: Make, request: str) -> tuple[float, float]:
    """(share of the picture's change, share of the flow) that is explained, over the visible face."""
    aus = facs.parse_request(request).intensity
    true = subject.render(aus[None])[0].astype(float)
    exact = subject.flow(_STILL[0], aus)
    frame, flow = make(request)
    face = exact.face
    left, raw = np.abs(frame - true)[face].mean(), np.abs(prior.face.image - true)[face].mean()
    seen = exact.visible & face
    error = np.hypot(*(flow.transpose(2, 0, 1) - exact.uv))[seen].mean()
    return 1 - float(left / raw), 1 - float(error / np.hypot(*exact.uv)[seen].mean())


def aperture(points: np.ndarray) -> np.ndarray:
    """Opening of the eyes [2] (image left, right), IOD."""
    iod = np.linalg.norm(points[42:48].mean(0) - points[36:42].mean(0))
    heights = [points[[a, b]].mean(0) - points[[c, d]].mean(0) for a, b, c, d in ((41, 40, 37, 38), (47, 46, 43, 44))]
    return np.asarray(np.linalg.norm(heights, axis=1) / iod)


def gap(points: np.ndarray) -> float:
    """Inner gap of the lips, IOD, along the face's down."""
    axis = points[42:48].mean(0) - points[36:42].mean(0)
    iod = np.linalg.norm(axis)
    down = np.array([-axis[1], axis[0]]) / iod
    return float(((points[65:68] - points[[63, 62, 61]]) @ down).mean() / iod)


def red(points: np.ndarray) -> float:
    """Height of the red of both lips, IOD: outer opening less the inner."""
    iod = np.linalg.norm(points[42:48].mean(0) - points[36:42].mean(0))
    return float(np.linalg.norm(points[57] - points[51]) / iod) - gap(points)


def back_error(prior: MotionPrior, request: str) -> tuple[float, float]:
    """Mean grey levels between the frame read along its flow and the photo: seen pixels, and those called hidden."""
    step = _step(prior, request)
    layers = prior.face.layers
    truth = layers.truth(step)
    frame = np.clip(layers.frame(step) + 0.5, 0, 255).astype(np.uint8)
    wrong = np.abs(warp_backward(frame, truth.flow) - prior.face.image).mean(-1)
    seen = ~truth.hidden & stays_inside(truth.flow.transpose(2, 0, 1))
    return float(wrong[seen].mean()), float(wrong[truth.hidden].mean()) if truth.hidden.any() else 0.0


def milliseconds(run: Callable[[], object], times: int = 20) -> float:
    """Fastest of ``times`` runs."""
    run()
    best = np.inf
    for _ in range(times):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return 1000 * best


def speed(prior: MotionPrior) -> list[tuple[str, float]]:
    """Milliseconds: setup, today's warp, a plain frame, frames with lids and lips."""
    face = prior.face
    five = _fields(prior, facs.parse_request("1=0.4,4=0.4,6=0.4,12=0.4,17=0.4").intensity)
    steps = {name: _step(prior, name) for name in ("1=0.4,4=0.4,20=0.4", "4=0.4,6=0.4,12=0.4,25=0.4,45=0.4")}
    rows = [("setup of a photo", milliseconds(lambda: Face(face.image, face.landmarks).layers, 5))]
    rows.append(("smooth: invert and read", milliseconds(lambda: warp_backward(face.image, backward_flow(five)))))
    rows += [(f"layers, {name}", milliseconds(lambda s=step: face.layers.frame(s))) for name, step in steps.items()]
    return rows


def detected(makes: Sequence[tuple[str, Make]], image: np.ndarray, detect: Callable[[np.ndarray], np.ndarray]) -> None:
    """Print what a detector finds of lids and lips."""
    before = detect(image)
    print(f"  onset: aperture {np.round(aperture(before), 3)}, gap {gap(before):.3f}, red {red(before):.3f}")
    for name, make in makes:
        lids = {a: aperture(detect(make(f"45={a}")[0])) / aperture(before) for a in (0.25, 0.5, 1)}
        gaps = [gap(detect(make(r)[0])) for r in ("25=1", *(f"25={a},26={a}" for a in (0.25, 0.5, 1)))]
        pressed = detect(make("24=1")[0])
        print(f"  {name}: aperture left " + ", ".join(f"{a:g}: {np.round(100 * v)} %" for a, v in lids.items()))
        print(f"    gap at 25: {gaps[0]:.3f}; at 25+26 = .25, .5, 1: " + " ".join(f"{g:.3f}" for g in gaps[1:]))
        print(f"    AU 24: gap {gap(pressed):.3f}, red {red(pressed):.3f}")


def still_motion(prior: MotionPrior, make: Make) -> dict[str, float]:
    """p99 length in pixels of the flow within the still mask."""
    still = prior.face.layers.still
    return {r: float(np.percentile(np.linalg.norm(make(r)[1], axis=-1)[still], 99)) for r in ("4=1", "6=1", "12=1")}


def person(seed: int, size: int) -> tuple[Subject, MotionPrior]:
    """A rendered person, and the prior on their face."""
    subject = Subject(seed, size, frontal=True)
    return subject, MotionPrior(Face(subject.render(_STILL)[0], subject.landmarks()))


def folds(people: Sequence[int], size: int) -> None:
    """Print the distance of the onset, and of layers without and with folds, to rendered truth: mean over people."""
    distance = STLPIPS()
    found: dict[str, list[np.ndarray]] = {}
    for seed in people:
        subject, prior = person(seed, size)
        layers = prior.face.layers
        lit = layers.folds.lit
        for request in FOLDED:
            true = subject.render(facs.parse_request(request).intensity[None])[0]
            shown = [prior.face.image]
            for change in (lambda photo, aus: photo, lit):
                layers.folds.lit = change  # type: ignore[method-assign]
                shown.append(np.clip(layers.frame(_step(prior, request)) + 0.5, 0, 255).astype(np.uint8))
            far = distance.between(distance.maps(np.stack([true] * 3)), distance.maps(np.stack(shown)))
            found.setdefault(request, []).append(far.ravel())
    print("distance to rendered truth (shift-tolerant LPIPS): onset, layers without folds, with")
    for request, far in found.items():
        print(f"  {request:14s}" + " ".join(f"{v:.4f}" for v in np.mean(far, axis=0)))


def worn(seed: int, size: int) -> tuple[bool, bool, float, float]:
    """Whether glasses are found on a person who wears them, and without them; share of the frame's pixels that is
    found; share of the skin that would move and is taken for them. The truth is what stands still in the exact flow."""
    aus = facs.parse_request("4=1,6=1,9=1,12=1").intensity
    pictures, lengths, fronts = [], [], []
    for glasses in (True, False):
        subject = Subject(seed, size, frontal=seed % 2 == 0, glasses=glasses)
        pictures.append(subject.render(_STILL, noise_seed=1)[0])
        lengths.append(np.hypot(*subject.flow(_STILL[0], aus).uv))
        fronts.append(without_glasses(pictures[-1], subject.landmarks())[1])
    moving = lengths[1] > 0.15
    frame = (lengths[0] < 1e-3) & moving & (np.abs(pictures[0].astype(int) - pictures[1]).max(-1) > 12)
    found = np.zeros_like(frame) if fronts[0] is None else fronts[0].share > 0.5
    return (
        fronts[0] is not None,
        fronts[1] is not None,
        float(found[frame].mean()),
        float((found & moving & ~frame).sum() / moving.sum()),
    )


def by_generators(names: Sequence[str], head: str, count: int, size: int) -> None:
    """Print shares of picture and flow that are explained, medians over ``count`` people of each kind; *exact skin* is
    what layers make of the truth's own motion."""
    other = ForeignHead.read(head) if head else None
    makers = load_candidates(names)
    print("| | " + " | ".join(f"AU {code}" for code in AGAINST_TRUTH) + " |\n|---|" + "---|" * len(AGAINST_TRUTH))
    for kind in ("packaged", "rigs", *(["second head"] if other else [])):
        found: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
        for person in people(kind, count, size, other):
            for code in AGAINST_TRUTH:
                aus = facs.parse_request(f"{code}=1")
                exact, face = person.exact(aus), person.on_face
                true, moved = person.inner(exact.apex).astype(float), person.inner_flow(exact.uv)
                seen = face & person.inner(exact.valid)
                raw, far = np.abs(person.onset - true)[face].mean(), np.hypot(*moved)[seen].mean()
                skin = np.nan_to_num(exact.uv).transpose(1, 2, 0)
                frame = person.face.layers.frame(Step(np.ascontiguousarray(skin, np.float32), aus.intensity))
                shown = {"exact skin": person.inner(np.clip(frame + 0.5, 0, 255).astype(np.uint8))}
                for maker in makers:
                    answer = maker.show(person, aus, 0)
                    assert answer.apex is not None
                    shown[maker.name] = answer.apex
                    error = np.hypot(*(answer.uv - moved))[seen].mean()
                    found[f"{maker.name}, flow"][code].append(1 - error / far)
                for name, picture in shown.items():
                    found[f"{name}, picture"][code].append(1 - np.abs(picture - true)[face].mean() / raw)
        for name, row in found.items():
            cells = " | ".join(f"{np.median(values):.2f}" for values in row.values())
            print(f"| {kind}: {name} | {cells} |", flush=True)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=6)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--photo", action="store_true")
    parser.add_argument("--folds", action="store_true")
    parser.add_argument("--glasses", action="store_true")
    parser.add_argument("--models", default="", help="generators, with commas")
    parser.add_argument("--head", default="", help="of --models: another blendshape head")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    if options.models:
        return by_generators(options.models.split(","), options.head, options.people, options.size)
    if options.glasses:
        rows = [worn(seed, options.size) for seed in range(100, 100 + options.people)]
        found = np.array([row[2:] for row in rows if row[0]]).reshape(-1, 2)
        print(f"of {len(rows)} who wear glasses {len(found)} found; without glasses {sum(row[1] for row in rows)}")
        print("of the found: share of the frame " + " ".join(f"{v:.2f}" for v in found[:, 0]))
        return print("skin taken for it, share of what moves " + " ".join(f"{v:.4f}" for v in found[:, 1]))
    if options.folds:
        return folds(PEOPLE[: options.people], options.size)
    landmarker = choose_landmarker("mediapipe")
    priors: list[tuple[str, MotionPrior, Subject | None]] = []
    if options.photo:
        import skimage.data

        from mesynth.preprocess.align import SimilarityCrop

        image = skimage.data.astronaut()
        crop = SimilarityCrop.from_landmarks(landmarker.detect(image), options.size)
        picture = crop.frames(image[None])[0]
        priors.append(("astronaut", MotionPrior(Face(picture, landmarker.detect(picture))), None))
    for seed in PEOPLE[: options.people]:
        subject, prior = person(seed, options.size)
        priors.append((f"person {seed}", prior, subject))
    shares: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for name, prior, subject in priors:
        print(name)
        makes = (("smooth", smooth(prior)), ("layers", layered(prior)))
        detected(makes, prior.face.image, landmarker.detect)
        print("  still mask, p99 px: " + "; ".join(f"{n} {still_motion(prior, m)}" for n, m in makes))
        backs = {r: back_error(prior, r) for r in ("45=1", "25=1,26=1", "24=1", "6=0.5,12=0.5")}
        print("  read back, seen and hidden: " + ", ".join(f"{r} {a:.2f} {b:.1f}" for r, (a, b) in backs.items()))
        for way, make in makes if subject is not None else ():
            for code in AGAINST_TRUTH:
                assert subject is not None
                shares.setdefault((way, code), []).append(explained(subject, prior, make, f"{code}=1"))
    if shares:
        print("explained of rendered truth at intensity 1, median: picture smooth, layers; flow smooth, layers")
        for code in AGAINST_TRUTH:
            a, b = (np.median(shares[way, code], axis=0) for way in ("smooth", "layers"))
            print(f"  AU {code:2d}  {a[0]:6.2f} {b[0]:6.2f}   {a[1]:6.2f} {b[1]:6.2f}")
    for label, ms in speed(priors[0][1]):
        print(f"{ms:7.2f} ms  {label}")
    landmarker.close()


if __name__ == "__main__":
    main()
