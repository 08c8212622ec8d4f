"""A trained recognizer read back: its members, whom it has seen, and how its clips were prepared."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors import SafetensorError, safe_open
from torch.func import functional_call

from mesynth.core.errors import ManifestError, WeightsUnavailable
from mesynth.core.types import N_AUS
from mesynth.store.manifest import Manifest
from mesynth.store.run_folder import RUN_FILE
from recognizer.config import RunConfig, load_config
from recognizer.data import FLOW
from recognizer.fitting import Inputs, LdaMembers, NetworkMembers, SvmMembers, Trained, skeleton
from recognizer.models import LDA, SVM
from recognizer.modes import restored

FORMAT = "mesynth-recognizer-1"
WEIGHTS, CONFIG, CARD, PREPARATION = "model.safetensors", "config.yaml", "README.md", "preparation.yaml"
_NO_STEPS = {"stage", "input", "landmarker", "skip_bad", "version", "inputs", "keep_frames"}
"""Keys of a prepare run that leave the flow and the frames as they are."""
_ANNOTATED = "annotated"


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """How the clips that a model learned from were prepared, as far as `mesynth prepare` recorded it beside them."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    """The steps all records agree on, by the names of ``mesynth prepare``; empty where there is no record."""
    differing: Mapping[str, list[Any]] = field(default_factory=dict)
    """Steps that they do not agree on, and the values found."""
    landmarker: str = ""
    """What found the landmarks, where all records name one network."""
    recorded: int = 0
    """Manifests with a record."""
    silent: int = 0
    """Manifests without: exact flow, published flow images, augmented copies, clips made by other programs."""

    @staticmethod
    def of(manifests: Sequence[Manifest]) -> Preparation:
        """From the ``run.yaml`` beside each manifest."""
        runs = [run for run in map(_prepare_run, manifests) if run]
        found: dict[str, list[Any]] = {}
        for run in runs:
            for key in run.keys() - _NO_STEPS:
                found.setdefault(key, [])
                if run[key] not in found[key]:
                    found[key].append(run[key])
        # The rule for clips without an annotated apex is no disagreement: CASME II has apexes, SMIC has none.
        rules = [rule for rule in found.pop("apex", []) if rule != _ANNOTATED]
        settings = {key: values[0] for key, values in sorted(found.items()) if len(values) == 1}
        if runs:
            settings["apex"] = _ANNOTATED if not rules else rules[0] if len(rules) == 1 else "flow"
        names = {str(run.get("landmarker", "")) for run in runs} - {"stored"}
        names = {name for name in names if not name.startswith("sha256:")}  # a table of other pictures
        return Preparation(
            settings=settings,
            differing={key: values for key, values in sorted(found.items()) if len(values) > 1},
            landmarker=names.pop() if len(names) == 1 else "",
            recorded=len(runs),
            silent=len(manifests) - len(runs),
        )

    @staticmethod
    def read(folder: Path) -> Preparation:
        """From a model's folder; of a model saved without it, no record. Raises WeightsUnavailable if damaged."""
        file = folder / PREPARATION
        if not file.is_file():
            return Preparation()
        try:
            return Preparation(**yaml.safe_load(file.read_text()))
        except (yaml.YAMLError, TypeError, UnicodeDecodeError):
            raise WeightsUnavailable(f"{file} cannot be read; train the model again") from None

    def require_one(self) -> Mapping[str, Any]:
        """``settings``. Raises ManifestError where the clips were not all prepared alike."""
        if self.differing:
            what = "; ".join(f"{key} {' and '.join(map(str, values))}" for key, values in self.differing.items())
            raise ManifestError(
                f"the model learned from clips that were prepared in different ways ({what}), so there is no one way "
                "to prepare a video; prepare them alike and train again, or use --manifest"
            )
        return self.settings

    def notes(self) -> list[str]:
        """What a user should know about it, a line each."""
        if not self.recorded:
            return ["the model's training clips record no preparation: this video is prepared by the defaults"]
        if not self.silent:
            return []
        share = f"{self.silent} of {self.recorded + self.silent} training manifests"
        return [f"{share} record no preparation: this video is prepared as the others were"]


def _prepare_run(manifest: Manifest) -> dict[str, Any]:
    """The configuration that ``mesynth prepare`` left beside a manifest; empty where something else made it."""
    try:
        run = yaml.safe_load((manifest.root / RUN_FILE).read_text())["config"]
    except (OSError, yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError):
        return {}
    return run if isinstance(run, dict) and run.get("stage") == "prepare" else {}


@dataclass(frozen=True, kw_only=True)
class Recognizer:
    """A trained model: one member per seed, whose probabilities are averaged."""

    config: RunConfig
    members: Trained
    subjects_seen: frozenset[str]
    """Every ``database/subject`` that its training clips, or their makers, had seen."""
    preparation: Preparation = field(default_factory=Preparation)
    aus: tuple[int, ...] = ()
    """Columns of [K*2] (AU, side) that training clips showed both present and absent."""

    def probabilities(self, clips: Inputs) -> np.ndarray:
        """N clips -> [N,C] float64."""
        return np.asarray(
            np.mean([self.members.probabilities(m, clips) for m in range(len(self.config.seeds))], axis=0)
        )

    def au_probabilities(self, clips: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """Views of N clips -> [N,K,2] float64, NaN for AUs it never learned; None without an AU head."""
        if not isinstance(self.members, NetworkMembers) or not self.aus:
            return None
        network, total = self.members.model, np.zeros((len(clips[FLOW]), N_AUS * 2))
        views = [torch.from_numpy(clips[name]) for name in network.needs]
        given = tuple(v if v.is_floating_point() else v.float() / 255 for v in views)
        with torch.no_grad():
            for m in range(len(self.config.seeds)):
                out = functional_call(network, {n: t[m] for n, t in self.members.stacked.items()}, given)
                if out.au is None:
                    return None
                total += out.au.double().sigmoid().numpy() / len(self.config.seeds)
        unknown = np.setdiff1d(np.arange(N_AUS * 2), self.aus)
        total[:, unknown] = np.nan
        return total.reshape(-1, N_AUS, 2)

    @classmethod
    def load(cls, folder: Path | str) -> Recognizer:
        """Raises WeightsUnavailable when the folder holds no recognizer."""
        folder = Path(folder)
        if not (folder / WEIGHTS).is_file() or not (folder / CONFIG).is_file():
            raise WeightsUnavailable(f"no recognizer in {folder}; make one with `recognizer train --out {folder}`")
        config = load_config(RunConfig, folder / CONFIG)
        try:
            with safe_open(folder / WEIGHTS, framework="pt") as file:
                meta = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise WeightsUnavailable(f"{folder / WEIGHTS} cannot be read ({error}); train it again") from None
        if meta.get("format") != FORMAT:
            raise WeightsUnavailable(f"{folder / WEIGHTS} is no recognizer of this program; train it again")
        members: Trained
        if config.model == LDA:
            members = LdaMembers(tensors["weight"].numpy(), tensors["bias"].numpy())
        elif config.model == SVM:
            members = SvmMembers.of(tensors)
        else:
            members = NetworkMembers(skeleton(config), tensors)
        members = restored(members, config.mix)
        return cls(
            config=config,
            members=members,
            subjects_seen=frozenset(json.loads(meta["subjects_seen"])),
            preparation=Preparation.read(folder),
            aus=tuple(json.loads(meta.get("aus", "[]"))),
        )
