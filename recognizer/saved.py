"""A trained recognizer as a folder: safetensors, configuration, model card; and its use on new clips."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes

from mesynth.errors import ManifestError, WeightsUnavailable
from mesynth.stage import claim_folder, write_bytes, write_text
from recognizer import training
from recognizer.config import RunConfig, config_yaml, load_config
from recognizer.data import FlowSet
from recognizer.fitting import LdaMembers, NetworkMembers, Trained, fit
from recognizer.metrics import confusion as confusion_of
from recognizer.metrics import from_confusion
from recognizer.models import LDA
from recognizer.protocol import Fold, Mixture, mix
from recognizer.protocol_run import Progress, Source, as_flow_set, members_of, run_identity, seen_by, sources

FORMAT = "mesynth-recognizer-1"
WEIGHTS, CONFIG, CARD = "model.safetensors", "config.yaml", "README.md"


@dataclass(frozen=True, kw_only=True)
class Recognizer:
    """A trained model: one member per seed, whose probabilities are averaged."""

    config: RunConfig
    members: Trained
    subjects_seen: frozenset[str]
    """Every ``database/subject`` that its training clips, or their makers, had seen."""

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        """[N,3,S,S] float32 -> [N,C] float64."""
        return np.asarray(np.mean([self.members.probabilities(m, x) for m in range(len(self.config.seeds))], axis=0))

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
        else:
            section = getattr(config, config.model)
            skeleton = training.build(config.model, section, len(config.data.classes), config.data.size)
            members = NetworkMembers(skeleton, tensors)
        return cls(config=config, members=members, subjects_seen=frozenset(json.loads(meta["subjects_seen"])))


def train(
    real: Source | None,
    synthetic: Source | None,
    config: RunConfig,
    *,
    out: Path | str,
    progress: Progress | None = None,
) -> Recognizer:
    """Train on everything (no clip is held out, so no figure comes of it) and save into ``out``.

    The same call again returns the saved model. Raises as :func:`recognizer.protocol_run.loso` does.
    """
    if real is None:
        raise ManifestError("there is nothing to train on; pass --manifest")
    folder = Path(out)
    real_source = sources(real)
    synthetic_source = None if synthetic is None else sources(synthetic)
    claim_folder(folder, run_identity("train", real_source, synthetic_source, config))
    if (folder / WEIGHTS).is_file():
        return Recognizer.load(folder)
    real_set = as_flow_set(real_source, config, progress, "reading clips")
    made = None if synthetic_source is None else as_flow_set(synthetic_source, config, progress, "reading synthetic")
    mixtures = [_everything(real_set, made, config, seed) for seed in config.seeds]
    trained = fit(
        mixtures[0].pool, mixtures[0].added, members_of(mixtures, config.seeds), config,
        progress and (lambda done, total: progress(f"training {config.model}", done, total)),
    )  # fmt: skip
    seen = sorted({subject for mixture in mixtures for subject in seen_by(mixture, 0)})
    meta = {"format": FORMAT, "model": config.model, "subjects_seen": json.dumps(seen)}
    write_text(folder / CONFIG, config_yaml(config, synthetic=made is not None))
    write_text(folder / CARD, _card(config, mixtures[0], trained.n_parameters, seen))
    tensors = {name: value.contiguous() for name, value in trained.tensors().items()}
    write_bytes(folder / WEIGHTS, safetensors_bytes(tensors, metadata=meta))
    return Recognizer(config=config, members=trained, subjects_seen=frozenset(seen))


def _everything(real: FlowSet, made: FlowSet | None, config: RunConfig, seed: int) -> Mixture:
    """A mixture that holds nobody out."""
    nothing = np.zeros(0, np.int64)
    fold = Fold(name="all", train_index=np.arange(len(real)), test_index=nothing, held_out=frozenset())
    ratio = config.mix.ratio if made is not None else 0.0
    return mix(real, made, [fold], ratio=ratio, seed=seed, policy=config.mix.leak)


def _card(config: RunConfig, mixture: Mixture, n_parameters: int, seen: Sequence[str]) -> str:
    counts = dict(
        zip(config.data.classes, mixture.pool.take(mixture.weights[0] > 0).class_counts.tolist(), strict=True)
    )
    listed = ", ".join(f"{name} {n}" for name, n in counts.items())
    return f"""# Micro-expression recognizer: {config.model}

- Classes: {", ".join(config.data.classes)}
- Input: optical flow onset -> apex of an aligned face, resized to {config.data.size} px (u, v, strain)
- Parameters: {n_parameters} for each of {len(config.seeds)} seed(s); probabilities are averaged
- Trained on {int(mixture.n_real[0])} real and {int(mixture.n_added[0])} synthetic clips ({listed})
- Subjects seen, directly or through the makers of synthetic clips: {", ".join(seen)}

No clip was held out: results on the subjects above say nothing. For figures run `recognizer loso` with
the same `config.yaml`.

Use: `recognizer predict --model THIS_FOLDER --manifest M --out DIR`
"""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Class probabilities of a manifest's clips; ``table`` has one row per clip."""

    table: pa.Table
    n_seen: int
    """Clips of subjects the model had learned from."""
    metrics: dict[str, Any] | None
    """Figures over the labelled clips of unseen subjects (classes without clips left out of UAR), or None."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"n": self.table.num_rows, "n_seen": self.n_seen, "metrics": self.metrics}


def predict(model: Recognizer, manifest: Source, *, progress: Progress | None = None) -> Prediction:
    """Probabilities for every clip with flow, labelled or not.

    The table: clip_id, subject, label (empty if unknown), predicted, subject_seen, and p_<class> each.
    """
    clips = as_flow_set(sources(manifest), model.config, progress, "reading clips", unlabelled=True)
    p = model.probabilities(clips.x)
    names = np.array([*clips.classes, ""])
    seen = np.array(
        [
            not model.subjects_seen.isdisjoint({str(s), *more})
            for s, more in zip(clips.subjects, clips.subjects_seen, strict=True)
        ]
    )
    columns = {
        "clip_id": clips.clip_ids.tolist(), "subject": clips.subjects.tolist(), "label": names[clips.y].tolist(),
        "predicted": names[p.argmax(1)].tolist(), "subject_seen": seen.tolist(),
    }  # fmt: skip
    columns |= {f"p_{name}": p[:, c].tolist() for c, name in enumerate(clips.classes)}
    fair = (clips.y >= 0) & ~seen
    metrics = None
    if fair.any():
        counts = confusion_of(clips.y[fair], p[fair].argmax(1), len(clips.classes))
        metrics = from_confusion(counts, clips.classes).to_dict()
        metrics["recall"] = [None if np.isnan(r) else r for r in metrics["recall"]]
    return Prediction(table=pa.table(columns), n_seen=int(seen.sum()), metrics=metrics)
