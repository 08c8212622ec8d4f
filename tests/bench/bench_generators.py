"""Clips per second of the shipped generators beside a per-frame network of the published size, in one run.

``python -m tests.bench.bench_generators``: 64 frames of 128 px, one thread. The per-frame network is AU-ICGAN at its
published size (a generator of GANimation's family, 64 channels, 6 blocks, 128 px) with untrained weights: time does
not depend on them.
"""

from __future__ import annotations

import json
import statistics
import time

from mesynth.benchmark.protocol import BENCHMARK_SEEDS, Person
from mesynth.benchmark.run import one_thread
from mesynth.core.facs import parse_request
from mesynth.core.profiles import Profile
from mesynth.generators.au_icgan.network import AUICGAN, AUICGenerator
from mesynth.generators.base import Generator
from mesynth.generators.registry import find_model
from mesynth.motion.prior import NAME
from mesynth.store.generator_folder import GeneratorFacts, shipped_models

FRAMES, SIZE, REPEATS = 64, 128, 5
REQUESTS = ("12=0.4", "4=0.5", "L1=0.4,L2=0.4", "9=0.3", "6=0.3,12=0.5", "15=0.4")


def published() -> Generator:
    facts = GeneratorFacts(
        name="au_icgan", size=SIZE, subjects_seen=(), licences=(), data_hash="", config_hash="", images=0, seed=0,
        code_version="",
    )  # fmt: skip
    network = AUICGenerator(size=SIZE, width=64, blocks=6, film=False, relative=False, prior=False)
    return AUICGAN(network.eval().requires_grad_(False), facts)


def seconds(generator: Generator, person: Person, repeats: int) -> list[float]:
    """One clip each, after one that is not counted."""
    taken = []
    for i in range(repeats + 1):
        start = time.perf_counter()
        aus = parse_request(REQUESTS[i % len(REQUESTS)])
        generator.generate(person.face, aus, Profile(), n_frames=FRAMES, fps=200, seed=i)
        taken.append(time.perf_counter() - start)
    return taken[1:]


def main() -> None:
    person = Person(BENCHMARK_SEEDS.stop - 1, SIZE)
    with one_thread():
        slow = statistics.median(seconds(published(), person, 1))
        table = {"per frame, published size": {"seconds": slow, "times faster": 1.0}}
        for name in (NAME, *shipped_models()):
            own = statistics.median(seconds(find_model(name).load(), person, REPEATS))
            table[name] = {"seconds": own, "times faster": slow / own}
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
