"""Train the AU judge: ``python -m mesynth.metrics.judge_train configs/quality/judge.yaml --out DIR [key=value ...]``.

Renders people, fits a ridge regression, lets a small network learn the rest, calibrates the slope on people it did not
learn from, and writes ``judge.safetensors`` and ``judge.md`` with figures on people never used. The same command
resumes: rendered people stay in ``DIR/pairs``.

Training pairs are an onset and an apex of one rendered head with its own head movement, sensor noise and, at times, a
blink; what is stored is what the judge sees of it (:func:`mesynth.metrics.networks.judge.observe`).
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf

from mesynth.config import check_share, load_recipe
from mesynth.core import emotions, facs, seeds
from mesynth.core.errors import ConfigError, MesynthError
from mesynth.core.facs import AU_CODES, AU_NAMES
from mesynth.core.process import counted
from mesynth.core.types import AUVector
from mesynth.metrics.control import agreement
from mesynth.metrics.networks.judge import (
    GRID,
    TRUSTED_ICC,
    AUJudge,
    JudgeFigures,
    JudgeMeta,
    JudgeNet,
    judge_tensors,
    mirrored,
    observe,
    raw_intensity,
    visible_aus,
)
from mesynth.preprocess.align import IOD_SHARE
from mesynth.store.weights import tensors_sha256

JUDGE_SEEDS = range(900_000, 910_000)
"""Head seeds that belong to the judge alone; nothing that is measured may show these people."""
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class PairConfig:
    """How many pairs are rendered and what is in them."""

    train: int = 180
    """People to learn from."""
    validation: int = 24
    """People who decide between models and calibrate the slope."""
    test: int = 40
    """People who are looked at once, for the card's figures."""
    pairs: int = 40
    """Onset-apex pairs of each person."""
    size: int = 128
    """Side of the rendered frames, pixels."""
    neutral: float = 0.15
    """Share of pairs without any AU: what is left is head movement and noise."""
    emotional: float = 0.25
    """Share of pairs with the AUs of an emotion; the others mix AUs freely."""
    blink: float = 0.12
    """Share of pairs with the lids part closed at the apex."""
    head: float = 2.0
    """Largest scale of the head movement (mesynth.head.head_motion), drawn from 0 to this."""
    jitter: float = 0.02
    """Standard deviation of the crop's landmark error, in inter-ocular distances (and of its log scale)."""
    rigs: float = 0.0
    """Share of people whose muscles pull as no other's do (mesynth.motion.rigs); the rest have the head's."""
    seed: int = 0

    def __post_init__(self) -> None:
        people = self.train + self.validation + self.test
        if min(self.train, self.validation, self.test, self.pairs) < 1:
            raise ConfigError("train, validation, test and pairs must each be at least 1")
        if people > len(JUDGE_SEEDS):
            raise ConfigError(f"{people} people are more than the {len(JUDGE_SEEDS)} head seeds kept for the judge")
        if not 48 <= self.size <= 256:
            raise ConfigError(f"size={self.size} is outside 48..256 pixels")
        check_share("", self, "neutral", "emotional", "blink", noun="probability")
        if self.neutral + self.emotional > 1:
            raise ConfigError(f"neutral + emotional = {self.neutral + self.emotional:g} exceeds 1")
        if self.head < 0 or self.jitter < 0:
            raise ConfigError("head and jitter must not be negative")

    def people(self, split: str) -> list[int]:
        """Head seeds of a split; the splits share nobody."""
        counts = {"train": self.train, "validation": self.validation, "test": self.test}
        start = sum(counts[s] for s in SPLITS[: SPLITS.index(split)])
        return list(JUDGE_SEEDS[start : start + counts[split]])


@dataclass(frozen=True, eq=False)
class Pairs:
    """``observed`` [N,3,GRID,GRID] float32 (see observe), ``aus`` [N,K,2] float32 visible AUs, ``person`` [N]."""

    observed: np.ndarray
    aus: np.ndarray
    person: np.ndarray


def draw_aus(rng: np.random.Generator, config: PairConfig) -> np.ndarray:
    """AUs of one apex [K,2] in [0,1]: none, an emotion's, or one to four at random; conflicts are damped."""
    kind = rng.random()
    if kind < config.neutral:
        return np.zeros((len(facs.AU_CODES), 2), np.float32)
    if kind < config.neutral + config.emotional:
        emotion = str(rng.choice(list(emotions.PUBLISHED)))
        sampling = emotions.AUSampling(intensity_min=0.08, intensity_max=0.9)
        return emotions.sample_aus(emotion, rng, sampling).intensity
    out = np.zeros((len(facs.AU_CODES), 2), np.float32)
    # Half of the draws stay in the range of micro-expressions, half use the whole scale.
    top = 0.5 if rng.random() < 0.5 else 1.0
    for row in rng.choice(len(facs.AU_CODES), size=int(rng.integers(1, 5)), replace=False):
        sides = rng.uniform(0.05, top) * np.exp(0.15 * rng.standard_normal(2))
        if facs.AU_CODES[row] in facs.MIDLINE:
            sides[:] = sides.mean()
        elif rng.random() < 0.35:
            sides[rng.integers(2)] *= rng.uniform(0, 0.35)
        out[row] = np.clip(sides, 0, 1)
    return facs.damp(AUVector(out)).intensity


def render_pairs(person: int, config: PairConfig) -> Pairs:
    """All pairs of one head seed; depends on (person, config) alone."""
    from mesynth.head import head_motion
    from mesynth.preprocess.align import SimilarityCrop, eye_centres
    from mesynth.training.data.rendered import rigged_subject

    rng = seeds.stream(config.seed, "judge-pairs", person)
    subject = rigged_subject(person, config.size, config.seed, config.rigs)
    n = config.pairs
    aus = np.zeros((n + 1, len(facs.AU_CODES), 2), np.float32)
    pose = np.zeros((n + 1, 6))
    for i in range(1, n + 1):
        aus[i] = draw_aus(rng, config)
        if rng.random() < config.blink:
            aus[i, facs.AU_INDEX[45]] = np.maximum(aus[i, facs.AU_INDEX[45]], rng.uniform(0.1, 1.0))
        length = int(rng.integers(5, 80))
        pose[i] = head_motion(length, rng, sd=rng.uniform(0, config.head), fps=200.0)[-1]
    frames = subject.render(aus, pose, noise_seed=int(rng.integers(2**31)))
    landmarks = subject.landmarks()
    eyes = eye_centres(landmarks)
    iod = float(np.hypot(*(eyes[1] - eyes[0])))
    observed = []
    for i in range(1, n + 1):  # each pair sees another small error of the landmark detector
        error = rng.normal(0, config.jitter, 3)
        centre = landmarks.mean(0)
        moved = (landmarks - centre) * np.exp(error[0]) + centre + error[1:] * iod
        crop = SimilarityCrop.from_landmarks(moved.astype(np.float32))
        observed.append(observe(crop.frames(frames[[0, i]])))
    return Pairs(np.concatenate(observed), visible_aus(aus[1:]), np.full(n, person))


def load_pairs(
    folder: Path, split: str, config: PairConfig, progress: Callable[[int, int], None] | None = None
) -> Pairs:
    """The pairs of a split; people already rendered into ``folder`` are read, the others rendered."""
    folder.mkdir(parents=True, exist_ok=True)
    people = config.people(split)
    parts = list(counted(_parts(folder, people, config), len(people), progress))
    return Pairs(*(np.concatenate([getattr(p, f) for p in parts]) for f in ("observed", "aus", "person")))


def _parts(folder: Path, people: list[int], config: PairConfig) -> Iterator[Pairs]:
    for person in people:
        file = folder / f"{person}.npz"
        if not file.is_file():
            made = render_pairs(person, config)
            temporary = file.with_name(f".{os.getpid()}.{file.name}")  # numpy wants the ending
            np.savez(temporary, seen=made.observed.astype(np.float16), aus=made.aus)
            os.replace(temporary, file)
        with np.load(file, allow_pickle=False) as stored:
            observed, aus = stored["seen"].astype(np.float32), stored["aus"]
        assert observed.shape[1:] == (3, GRID, GRID)
        yield Pairs(observed, aus, np.full(len(observed), person))


# ------------------------------------------------------------------- judge train


LOWEST_SLOPE = 0.5
"""An AU whose slope is below this is not stretched to 1: it would only amplify noise."""


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """Everything the judge depends on."""

    pairs: PairConfig = field(default_factory=PairConfig)
    luma: bool = False
    """Look at the luma difference too. Off: a little worse on renders, free of their shading."""
    width: int = 16
    epochs: int = 30
    batch: int = 64
    lr: float = 1e-3
    weight_decay: float = 1e-2
    ridge: float = 30.0
    noise: float = 0.03
    """Standard deviation of noise added to the input, pixels."""
    style: float = 1.0
    """Individual differences put on the training flows: 1 = smooth shifts of sd .05 IOD and turns of sd 8
    degrees. Without them the judge knows one head's exact fields and misreads everybody else's."""
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.width, self.epochs, self.batch) < 1:
            raise ConfigError("width, epochs and batch must be at least 1")
        if min(self.lr, self.ridge) <= 0 or min(self.weight_decay, self.noise, self.style) < 0:
            raise ConfigError("lr and ridge must be positive, weight_decay, noise and style not negative")


def ridge_weights(x: np.ndarray, y: np.ndarray, strength: float) -> np.ndarray:
    """[N,D], [N,O] -> [O,D] minimising |y - x W^T|^2 + strength |W|^2, without intercept."""
    x = x.astype(np.float64)
    return np.asarray(np.linalg.solve(x.T @ x + strength * np.eye(x.shape[1]), x.T @ y).T, np.float32)


def styled(observed: torch.Tensor, strength: float, draw: torch.Generator) -> torch.Tensor:
    """``observed`` [N,C,G,G] as other people's muscles would have moved: each sample read at smoothly shifted places
    and its (u, v) smoothly turned. Where nothing moves, nothing moves afterwards."""
    if strength == 0:
        return observed
    n, _, height, width = observed.shape
    coarse = torch.randn((n, 3, 5, 5), generator=draw)
    smooth = F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=True)
    # The crop is 1 / IOD_SHARE inter-ocular distances wide and 2 units in grid_sample's coordinates.
    shift = smooth[:, :2] * (0.05 * strength * 2 * IOD_SHARE)
    rows, columns = torch.linspace(-1, 1, height), torch.linspace(-1, 1, width)
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij")[::-1], -1)
    read = F.grid_sample(observed, grid + shift.permute(0, 2, 3, 1), padding_mode="border", align_corners=True)
    turn = smooth[:, 2] * float(np.radians(8) * strength)
    cos, sin = turn.cos(), turn.sin()
    u, v = read[:, 0], read[:, 1]
    return torch.cat([torch.stack([cos * u - sin * v, sin * u + cos * v], 1), read[:, 2:]], 1)


def fit(pairs: Pairs, config: JudgeConfig, progress: bool = True) -> JudgeNet:
    """Ridge solution first, then network and linear path together on mirrored, styled, noised pairs."""
    from tqdm import tqdm

    torch.manual_seed(config.seed)
    channels = 3 if config.luma else 2
    net = JudgeNet(channels, config.width)
    observed, aus = pairs.observed[:, :channels], pairs.aus
    draw = torch.Generator().manual_seed(config.seed)
    other = styled(torch.from_numpy(np.ascontiguousarray(observed)), config.style, draw).numpy()
    both = np.concatenate([observed, mirrored(other)]).reshape(2 * len(observed), -1)
    targets = np.concatenate([aus, aus[..., ::-1]]).reshape(2 * len(aus), -1)
    net.linear.weight.data = torch.from_numpy(ridge_weights(both, targets, config.ridge))
    torch.nn.init.zeros_(net.head.weight)  # training starts at the ridge solution
    x, y = torch.from_numpy(np.ascontiguousarray(observed)), torch.from_numpy(aus)
    steps = max(len(x) // config.batch, 1)
    optimizer = torch.optim.AdamW(net.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.lr, total_steps=config.epochs * steps, pct_start=0.1
    )
    for _ in tqdm(range(config.epochs), "train", disable=not progress):
        order = torch.randperm(len(x), generator=draw)
        for i in range(steps):
            index = order[i * config.batch : (i + 1) * config.batch]
            a, b = x[index], y[index]
            if torch.rand((), generator=draw) < 0.5:
                a, b = a.flip(-1), b.flip(-1)
                a[:, 0] *= -1
            a = styled(a, config.style, draw)
            a = a + config.noise * torch.randn(a.shape, generator=draw)
            loss = F.mse_loss(net(a), b)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    return net.eval().requires_grad_(False)


def calibrate(net: JudgeNet, pairs: Pairs) -> np.ndarray:
    """Factor per AU [K] that makes the slope of measured on true intensity 1 on these people."""
    measured = raw_intensity(net, pairs.observed)
    true = pairs.aus - pairs.aus.mean((0, 2), keepdims=True)
    slope = (true * measured).sum((0, 2)) / np.maximum((true**2).sum((0, 2)), 1e-9)
    return np.where(slope >= LOWEST_SLOPE, 1 / np.maximum(slope, LOWEST_SLOPE), 1.0).astype(np.float32)


def figures(judge_read: np.ndarray, true: np.ndarray) -> dict[int, JudgeFigures]:
    """Per AU, over both sides, of judged and true [N,K,2]."""
    out = {}
    for k, code in enumerate(AU_CODES):
        a = agreement(true[:, k].ravel(), judge_read[:, k].ravel())
        if a.icc is None or a.pearson is None or a.slope is None:
            raise ConfigError(f"AU {code} is shown in {a.n_present} test pairs only; raise pairs.test or pairs.pairs")
        out[code] = JudgeFigures(mae=a.mae, icc=a.icc, pearson=a.pearson, slope=a.slope)
    return out


def head_sha256() -> str:
    """sha256 of the head's AU displacements, rounded to half precision."""
    from mesynth.head import HeadModel

    return hashlib.sha256(HeadModel.load().au_basis.astype(np.float16).tobytes()).hexdigest()


def train(config: JudgeConfig, out: Path, progress: bool = True) -> AUJudge:
    """Make a judge and write ``judge.safetensors`` and ``judge.md`` into ``out``.

    Raises:
        RunFolderError: ``out`` holds another run.
    """
    from mesynth.store.run_folder import claim_folder, only_writer

    claim_folder(out, asdict(config))
    with only_writer(out):
        return _train(config, out, progress)


def _train(config: JudgeConfig, out: Path, progress: bool) -> AUJudge:
    from tqdm import tqdm

    from mesynth.store.digests import seal
    from mesynth.store.run_folder import write_text

    data = {}
    for split in SPLITS:
        people = len(config.pairs.people(split))
        with tqdm(total=people, desc=f"render {split}", disable=not progress) as bar:
            data[split] = load_pairs(out / "pairs", split, config.pairs, lambda n, _, b=bar: b.update(n - b.n))  # type: ignore[misc]
    net = fit(data["train"], config, progress)
    scale = calibrate(net, data["validation"])
    test = data["test"]
    found = figures(np.clip(raw_intensity(net, test.observed) * scale[:, None], 0, 1), test.aus)
    meta = JudgeMeta(
        width=config.width,
        channels=net.channels,
        subjects_seen=tuple(p for split in SPLITS for p in config.pairs.people(split)),
        figures=found,
        config=OmegaConf.to_yaml(OmegaConf.structured(config)),
        head_sha256=head_sha256(),
        weights_sha256=tensors_sha256(judge_tensors(net, scale)),
    )
    judge = AUJudge(net, scale, meta)
    judge.save(out / "judge.safetensors")
    neutral = test.aus.reshape(len(test.aus), -1).max(1) == 0
    write_text(out / "judge.md", judge_card(judge, config, judge.read(test.observed[neutral])))
    seal(out)
    return judge


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    import argparse

    parser = argparse.ArgumentParser(prog="python -m mesynth.metrics.judge_train", description=__doc__)
    parser.add_argument("config", help="recipe, for example configs/quality/judge.yaml")
    parser.add_argument("overrides", nargs="*", help="key=value, for example epochs=2")
    parser.add_argument("--out", required=True, type=Path, help="folder of this run")
    options = parser.parse_intermixed_args(arguments)
    try:
        judge = train(load_recipe(JudgeConfig, options.config, options.overrides)[0], options.out)
    except MesynthError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {options.out / 'judge.safetensors'}; trusted AUs: {', '.join(map(str, judge.trusted))}")
    return 0


# ------------------------------------------------------------------- judge card


def judge_card(judge: AUJudge, config: JudgeConfig, neutral: np.ndarray) -> str:
    """Markdown card. ``neutral`` [N,K,2]: what the judge answers on test pairs without any AU."""
    p, rows = config.pairs, []
    for code in AU_CODES:
        f = judge.meta.figures[code]
        mark = "yes" if code in judge.trusted else "no"
        rows.append(
            f"| {code} | {AU_NAMES[code]} | {f.mae:.2f} | {f.icc:.2f} | {f.pearson:.2f} | {f.slope:.2f} | {mark} |"
        )
    first, last = min(judge.meta.subjects_seen), max(judge.meta.subjects_seen)
    leak = 5 * float(neutral.mean()) if len(neutral) else 0.0
    sees = "flow and luma difference" if judge.meta.channels == 3 else "flow"
    table = "\n".join(rows)
    kinds = (
        f"{p.neutral:.0%} of the pairs show no AU, {p.emotional:.0%} an emotion's AUs, the others one to four AUs at\n"
        f"random, a third of them one-sided; {p.blink:.0%} have a blink; all have head movement, sensor noise and\n"
        "landmark error."
    )
    if config.style:
        kinds += (
            f" While the judge learns, flows are smoothly shifted and turned (style {config.style:g}), so that it\n"
            "does not depend on one head's exact fields."
        )
    if p.rigs:
        kinds += (
            f" The muscles of {p.rigs:.0%} of the people pull as a rig of their own says, of those below as well; on\n"
            "a head of another make `python -m tests.bench.bench_judge --head FILE` measures it (docs/figures.md)."
        )
    return f"""# AU judge

Reads action unit intensities off the motion between an onset and a later frame of one clip.
Input: TV-L1 flow of the aligned 128-pixel crop, averaged to 32x32 ({sees}). Output: 25 AUs x (L, R) in [0, 1].
A ridge regression plus a small convolutional network without biases: no motion gives exactly 0.

**What it knows.** It was trained on this project's rendered heads only, with the AUs they were rendered
with. It knows their rigs' idea of FACS; no human coder took part, and on real faces it is unvalidated. The
motion prior takes its fields from the same meshes, so agreement between the two shows that the motion asked
for arrives in the frames, and not that a FACS coder would agree.

## Data and command

`python -m mesynth.metrics.judge_train configs/quality/judge.yaml --out DIR`, then copy `judge.safetensors` and
`judge.md` into `mesynth/metrics/networks/data/`. {p.train} rendered people to learn from, {p.validation} to calibrate
the slope, {p.test} for the figures below; {p.pairs} onset-apex pairs each. Head seeds {first} to {last}; no other
part of the project renders these people. {kinds}
Seeds: data {p.seed}, training {config.seed}. Weights sha256 (tensors): `{judge.meta.weights_sha256}`.

## Figures on {p.test} people never used ({p.test * p.pairs} pairs)

MAE on the 0-5 scale; ICC(3,1), Pearson and slope of judged on true, over both sides. Headline figures of a
report use the AUs with ICC >= {TRUSTED_ICC:g}. Pairs without any AU are judged {leak:.3f} on the 0-5 scale on average.

| AU | name | MAE | ICC(3,1) | r | slope | trusted |
|---|---|---|---|---|---|---|
{table}

AU 43 and 45 are one lid closure and AU 26 and 27 one jaw opening; the judge gives both names the value of what
is visible. AU 16, 23 and 25 move the lips in ways other AUs do too, which is why they are weak.
"""


if __name__ == "__main__":
    sys.exit(main())
