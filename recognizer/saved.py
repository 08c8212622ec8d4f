"""A trained recognizer as a folder: safetensors, configuration, model card; and its use on new clips."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml
from safetensors.torch import save as safetensors_bytes

from mesynth.core.errors import ManifestError
from mesynth.store.manifest import Manifest
from mesynth.store.run_folder import claim_folder, write_bytes, write_text
from recognizer.beginnings import begin
from recognizer.config import RunConfig, config_yaml
from recognizer.data import FlowSet
from recognizer.fitting import fit
from recognizer.metrics import confusion as confusion_of
from recognizer.metrics import from_confusion
from recognizer.protocol import Fold, Mixture, mix
from recognizer.run import members_of, seen_by
from recognizer.sources import Progress, Source, as_flow_set, run_identity, sources
from recognizer.trained import CARD, CONFIG, FORMAT, PREPARATION, WEIGHTS, Preparation, Recognizer


def train(
    real: Source | None,
    synthetic: Source | None,
    config: RunConfig,
    *,
    out: Path | str,
    progress: Progress | None = None,
) -> Recognizer:
    """Train on everything (no clip is held out, so no figure comes of it) and save into ``out``.

    The same call again returns the saved model. Raises as :func:`recognizer.run.loso` does.
    """
    if real is None:
        raise ManifestError("there is nothing to train on; pass --real")
    folder = Path(out)
    real_source = sources(real)
    synthetic_source = None if synthetic is None else sources(synthetic)
    beginning = begin(config)
    claim_folder(folder, run_identity("train", real_source, synthetic_source, config) | beginning.digests)
    if (folder / WEIGHTS).is_file():
        return Recognizer.load(folder)
    real_set = as_flow_set(real_source, config, progress, "reading clips")
    made = None if synthetic_source is None else as_flow_set(synthetic_source, config, progress, "reading synthetic")
    mixtures = [_everything(real_set, made, config, seed) for seed in config.seeds]
    trained = fit(
        mixtures[0].pool, mixtures[0].added, members_of(mixtures, config.seeds), config,
        progress and (lambda done, total: progress(f"training {config.model}", done, total)), given=beginning.given,
    )  # fmt: skip
    seen = sorted({subject for mixture in mixtures for subject in seen_by(mixture, 0, beginning.subjects)})
    aus = tuple(_shown_aus(mixtures[0]).tolist())
    preparation = Preparation.of([*_manifests(real_source), *_manifests(synthetic_source)])
    meta = {"format": FORMAT, "model": config.model, "subjects_seen": json.dumps(seen), "aus": json.dumps(aus)}
    write_text(folder / PREPARATION, str(yaml.safe_dump(asdict(preparation), sort_keys=False)))
    write_text(folder / CONFIG, config_yaml(config, synthetic=made is not None))
    write_text(folder / CARD, _card(config, mixtures[0], trained.n_parameters, seen))
    tensors = {name: value.contiguous() for name, value in trained.tensors().items()}
    write_bytes(folder / WEIGHTS, safetensors_bytes(tensors, metadata=meta))
    return Recognizer(config=config, members=trained, subjects_seen=frozenset(seen), preparation=preparation, aus=aus)


def _manifests(source: FlowSet | list[Manifest] | None) -> list[Manifest]:
    return source if isinstance(source, list) else []


def _shown_aus(mixture: Mixture) -> np.ndarray:
    au = mixture.pool.au[mixture.weights[0] > 0]
    return np.flatnonzero((au == 1).any(0) & (au == 0).any(0))


def _everything(real: FlowSet, made: FlowSet | None, config: RunConfig, seed: int) -> Mixture:
    """A mixture that holds nobody out."""
    nothing = np.zeros(0, np.int64)
    fold = Fold(name="all", train_index=np.arange(len(real)), test_index=nothing, held_out=frozenset())
    ratio = config.mix.ratio if made is not None else 0.0
    return mix(
        real,
        made,
        [fold],
        ratio=ratio,
        seed=seed,
        policy=config.mix.leak,
        balance=config.mix.balance,
        only_added=config.mix.only_added,
    )


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

Use: `recognizer predict --model THIS_FOLDER --manifest M --out DIR`, or `--video FILE`, which is prepared as
`preparation.yaml` says.
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
    p = model.probabilities(clips.inputs())
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
