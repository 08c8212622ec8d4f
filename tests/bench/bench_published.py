"""Published networks on real flow images: the authors' weights re-run, the authors' training re-run, and ours.

    python -m tests.bench.bench_published --data PREPARED --weights DIR [--retrain] [--ours SETTINGS ...] [--out FILE]
    python -m tests.bench.bench_published --data PREPARED --networks rcn "rcn rcn.variant=s" featref [--groups 10]

``PREPARED`` is what ``mesynth prepare flow_folders`` wrote of the published flow images. ``DIR`` holds the STSTNet
authors' weights, ``SUBJECT.pth`` for each subject held out, and may hold ``logits.csv`` (subject, clip, label and three
logits) with what they answer; then the largest difference to it is printed. ``--retrain`` trains their network by their
loop (all clips but a subject's, in the order of their folders and without shuffling, batches of 256, 800 epochs, Adam
5e-5) in plain PyTorch. Each ``--ours`` is a recognizer's settings, tested leave-one-subject-out by ``recognizer.loso``:
``--ours "model=ststnet data.input=bytes"``. Each of ``--networks`` is a network that reads flow alone, by its recipe
with one seed and, after its name, settings; small at the start of them is the recipe's line ``# small:``. ``--groups``
tests groups of subjects instead of each by itself. Figures are UF1 and UAR of the pooled predictions, last epoch, with
their intervals over subjects; seconds are processor time.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from mesynth.store.manifest import Manifest
from recognizer.config import RunConfig, load_config, skeleton
from recognizer.data import BYTES, DataConfig, FlowSet, load
from recognizer.models.ststnet import read_published
from recognizer.results import confusion, uar, uf1
from recognizer.run import loso
from tests.bench.bench_folds import PublishedStstnet
from tests.recognizer.zoo import RECIPES, recipe, small

CONFIG = RunConfig(model="ststnet", data=DataConfig(input=BYTES))


def file_name(clip_id: str) -> str:
    """The clip's name in published trees: smic/s01/s1_ne_01/0 -> s01_s01_ne_01."""
    _, subject, clip, _ = clip_id.split("/")
    padded = re.sub(r"^s(\d+)_", lambda m: f"s{int(m[1]):02d}_", clip)
    return f"{subject}_{padded}"


def subject_of(clips: FlowSet) -> np.ndarray:
    """[N] subjects as files name them."""
    return np.array([str(name).partition("/")[2] for name in clips.subjects])


def figures(clips: FlowSet, logits: np.ndarray) -> dict[str, float]:
    """UF1 and UAR of [N,C]."""
    counts = confusion(clips.y, logits.argmax(1), len(clips.classes))
    return {"uf1": round(float(uf1(counts)), 4), "uar": round(float(uar(counts)), 4)}


def by_subject(clips: FlowSet, answer: Callable[[str, np.ndarray], torch.Tensor]) -> np.ndarray:
    """[N,C] logits; ``answer`` is given a subject and a mask of its clips."""
    out, subjects = np.zeros((len(clips), 3)), subject_of(clips)
    for subject in np.unique(subjects):
        mine = subjects == subject
        out[mine] = answer(str(subject), mine).detach().numpy()
    return out


def authors_weights(clips: FlowSet, folder: Path) -> dict[str, Any]:
    """Every subject's clips by the weights that never saw it."""
    network = skeleton(CONFIG)

    def answer(subject: str, mine: np.ndarray) -> torch.Tensor:
        network.load_state_dict(read_published(folder / f"{subject}.pth"), strict=False)
        scores: torch.Tensor = network(torch.from_numpy(clips.x[mine])).scores
        return scores

    logits = by_subject(clips, answer)
    found: dict[str, Any] = {"what": "authors' weights, re-run", "clips": len(clips)} | figures(clips, logits)
    if (folder / "logits.csv").is_file():
        told = {row["clip"]: row for row in csv.DictReader((folder / "logits.csv").open())}
        theirs = np.array([[float(told[file_name(str(c))][f"logit_{k}"]) for k in range(3)] for c in clips.clip_ids])
        found["largest_logit_difference"] = float(np.abs(theirs - logits).max())
    return found


def authors_training(clips: FlowSet, epochs: int) -> dict[str, Any]:
    """Their loop, in plain PyTorch."""
    x, y, subjects = torch.from_numpy(clips.x.copy()), torch.from_numpy(clips.y), subject_of(clips)
    order = np.lexsort((clips.clip_ids, clips.y))

    def answer(subject: str, mine: np.ndarray) -> torch.Tensor:
        torch.manual_seed(0)
        network = PublishedStstnet()
        optimizer = torch.optim.Adam(network.parameters(), lr=5e-5)
        learned = torch.from_numpy(order[subjects[order] != subject])
        for _ in range(epochs):
            for i in learned.split(256):
                optimizer.zero_grad()
                F.cross_entropy(network(x[i]), y[i]).backward()
                optimizer.step()
        network.eval()
        out: torch.Tensor = network(x[torch.from_numpy(mine)])
        return out

    start = time.process_time()
    found = figures(clips, by_subject(clips, answer))
    return {"what": f"authors' loop, {epochs} epochs"} | found | {"seconds": round(time.process_time() - start)}


def of_recipe(words: str, groups: int) -> RunConfig:
    """A network's name, perhaps ``small``, and settings -> its recipe with one seed; ``groups`` 0: every subject."""
    name, *settings = words.split()
    if settings[:1] == ["small"]:
        config = small(name)
        over = [f"{name}.{f.name}={_value(getattr(config.config, f.name))}" for f in fields(config.config)]
        over += [f"data.{key}={value}" for key, value in vars(config.shape).items() if key in recipe(name)["data"]]
        settings = [*over, *settings[1:]]
    split = ["protocol.kind=kfold", f"protocol.groups={groups}"] if groups else []
    return load_config(RunConfig, RECIPES / f"{name}.yaml", ["seeds=[0]", *split, *settings], synthetic=False)


def _value(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def of_network(words: str, data: Path, groups: int) -> dict[str, Any]:
    """Figures, parameters and time of a network by its recipe."""
    config = of_recipe(words, groups)
    start = time.process_time()
    result = loso(load(Manifest.read(data), config.data), None, config)
    facts: dict[str, Any] = {"what": words, "parameters": sum(p.numel() for p in skeleton(config).parameters())}
    for name, figure in (("uf1", result.uf1), ("uar", result.uar)):
        facts[name] = [round(float(value), 3) for value in (figure.value, figure.low, figure.high)]
    folds = len(result.folds)
    seconds = time.process_time() - start
    facts |= {"folds": folds, "steps": config.train.steps, "batch": config.train.batch, "seconds": round(seconds)}
    return facts | {"ms_per_clip": round(1e3 * seconds / (folds * config.train.steps * config.train.batch), 2)}


def main() -> None:
    """See the module's first lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--retrain", action="store_true")
    parser.add_argument("--epochs", type=int, default=800)
    parser.add_argument("--ours", nargs="*", default=[])
    parser.add_argument("--networks", nargs="*", default=[])
    parser.add_argument("--groups", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    clips = load(Manifest.read(given.data), CONFIG.data)
    found = []

    def tell(facts: dict[str, Any]) -> None:
        found.append(facts)
        print(json.dumps(facts), flush=True)

    if given.weights:
        tell(authors_weights(clips, given.weights))
    if given.retrain:
        tell(authors_training(clips, given.epochs))
    for setting in given.ours:
        config = load_config(RunConfig, None, setting.split(), synthetic=False)
        start = time.process_time()
        result = loso(load(Manifest.read(given.data), config.data), None, config)
        facts = {"uf1": round(result.uf1.value, 4), "uar": round(result.uar.value, 4)}
        tell({"what": setting} | facts | {"seconds": round(time.process_time() - start)})
    for words in given.networks:
        tell(of_network(words, given.data, given.groups))
    if given.out:
        given.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
