"""Motion of a generator, AU by AU, against the exact motion of people that it was not made from.

    python -m tests.bench.bench_prior [--head FILE] [--subjects 6] [--yaw 25] [--draws 19]
        [--model motion_diffusion@spread=1.3]

Without ``--head``: people of the packaged head whose muscles pull by a rig of their own
(mesynth.motion.fields.draw_rig; these rigs hold the prior's table as one of three). Each AU at .5 on both sides, 128
px, pixels of the face. ``--model`` ``motion-prior`` (the default, @spread=1 a person each seed) and ``landmark-mean``:
their fields alone, before lids and lips are moved as layers; any other as ``mesynth compare`` asks it. *Named*: share
of people whose motion lies nearest to that AU of the other people's means, with the AUs that it was taken for.
``--draws``: also the truth's coverage by the range of so many draws (mesynth.benchmark.answers.sampled) and their
energy score.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable

import numpy as np

from mesynth.benchmark.answers import sampled
from mesynth.benchmark.protocol import Person, Request, load_candidates
from mesynth.core import facs
from mesynth.core.seeds import stream
from mesynth.head import Subject
from mesynth.head.foreign import ForeignHead
from mesynth.motion.fields import draw_rig
from mesynth.motion.prior import MEAN, NAME, MotionPrior

_CODES = (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 16, 17, 18, 20, 22, 24, 26, 28, 34, 45)


def _people(given: argparse.Namespace) -> list[Person]:
    if given.head:
        head = ForeignHead.read(given.head)
        return [Person(i, 128, head=head, yaw=given.yaw) for i in range(given.subjects)]
    out = []
    for seed in range(990_000, 990_000 + given.subjects):
        person = Person(seed, 128, yaw=given.yaw)
        person._subject = Subject(seed, size=192, basis=draw_rig(stream(5, "bench-rig", seed)))
        out.append(person)
    return out


def _answers(name: str) -> Callable[[Person, int, int], np.ndarray]:
    """What gives a person's motion [2,S,S] of one AU at .5 on both sides, by a seed."""
    kind, _, spread = name.partition("@spread=")
    if kind not in (NAME, MEAN):
        (candidate,) = load_candidates([name])
        return lambda person, code, seed: candidate.show(person, Request(code, "B", 0.5).aus, seed).uv

    def fields(person: Person, code: int, seed: int) -> np.ndarray:
        prior = MotionPrior(person.face, kind, float(spread or 0))
        both = prior._own_fields([(facs.AU_INDEX[code], side) for side in (0, 1)], 0.0, seed).sum(0) / 2
        return person.inner_flow(np.ascontiguousarray(both.transpose(2, 0, 1)))

    return fields


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--head", default="")
    parser.add_argument("--subjects", type=int, default=6)
    parser.add_argument("--yaw", type=float, default=0.0)
    parser.add_argument("--draws", type=int, default=0)
    parser.add_argument("--model", default=NAME)
    given = parser.parse_args()
    answer = _answers(given.model)
    people = _people(given)
    asked = [Request(code, "B", 0.5) for code in _CODES]
    exact = [[person.flow(request) for request in asked] for person in people]
    total = np.sum([[uv for uv, _ in one] for one in exact], 0, dtype=np.float64)
    rows = np.zeros((len(people), len(asked), 5))
    taken: dict[int, Counter[int]] = {code: Counter() for code in _CODES}
    for i, person in enumerate(people):
        others = (total - np.stack([uv for uv, _ in exact[i]])) / (len(people) - 1)
        for a, code in enumerate(_CODES):
            (truth, inside), own = exact[i][a], answer(person, code, 0)
            x, t, means = own[:, inside].astype(float), truth[:, inside], others[:, :, inside]
            near = (means * x).sum((1, 2)) / np.sqrt((means**2).sum((1, 2)) * (x**2).sum() + 1e-12)
            taken[code][_CODES[int(near.argmax())]] += 1
            cosine = (x * t).sum() / np.sqrt((x**2).sum() * (t**2).sum() + 1e-12)
            rows[i, a, :3] = np.hypot(*t).mean(), np.hypot(*(x - t)).mean(), cosine
            if given.draws:
                draws = np.stack([answer(person, code, 1000 * i + k) for k in range(given.draws)])
                rows[i, a, 3:] = sampled(draws, truth, inside)
    print(
        "| AU | no motion | EPE | cosine | named | taken for | coverage | energy |\n|---|---|---|---|---|---|---|---|"
    )
    means = np.nanmean(rows, 0)
    for code, row in [*zip(_CODES, means, strict=True), (0, np.nanmean(means, 0))]:
        counts = taken.get(code, Counter())
        named = counts[code] / len(people) if code else np.mean([taken[c][c] for c in _CODES]) / len(people)
        wrong = ", ".join(f"{other} ({n})" for other, n in counts.most_common() if other != code)
        last = f"{row[3]:.2f} | {row[4]:.3f}" if given.draws else "– | –"
        print(f"| {code or 'all'} | {row[0]:.3f} | {row[1]:.3f} | {row[2]:.3f} | {named:.3f} | {wrong} | {last} |")


if __name__ == "__main__":
    main()
