"""A trained recognizer as a folder: safetensors, configuration, model card, and how its clips were prepared.

Trained on everything and saved, read back, used on new clips, and built upon by runs (train.start, train.teacher).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import yaml
from safetensors import SafetensorError, safe_open
from torch.func import functional_call

from mesynth.config import read_yaml
from mesynth.core.errors import ConfigError, ManifestError, WeightsUnavailable
from mesynth.core.facs import AU_CODES
from mesynth.core.framing import KnownFraming
from mesynth.core.types import N_AUS
from mesynth.store import digests
from mesynth.store.manifest import Manifest
from mesynth.store.run_folder import RUN_FILE, claim_folder, only_writer, write_last, write_text
from mesynth.store.weights import packed
from recognizer.aus import AUS, BOTH, shown
from recognizer.config import RunConfig, config_yaml, is_closed, load_config, needs_of
from recognizer.data import BYTES, FLOW, DataConfig, FlowSet, Inputs, in_one_unit, require_one_unit
from recognizer.fitting import AveragedMembers, NetworkMembers, Pretrained, ThresholdedMembers, Trained, fit, restored
from recognizer.mixing import FUSE, PRIOR, SYNTHETIC_ONLY, apart, members_of, mixed, with_unlabelled
from recognizer.models import CLOSED, MODELS, ships
from recognizer.models.ststnet import read_published
from recognizer.protocol import Fold, Mixture
from recognizer.results import Condition, column, confusion, fold_table
from recognizer.sources import (
    Opened,
    Progress,
    Source,
    as_flow_set,
    flow_notes,
    framed,
    framed_as,
    framing_notes,
    run_identity,
    run_record,
    sources,
    unlabelled_of,
    view_notes,
    without_labels,
)
from recognizer.training import read_genders
from recognizer.views import as_floats

FORMAT = "mesynth-recognizer-1"
WEIGHTS, CONFIG, CARD, PREPARATION = "model.safetensors", "config.yaml", "README.md", "preparation.yaml"
FIGURES = "figures.json"
"""Beside a recognizer that ships: what it reached on real clips (scripts/ship_recognizer.py)."""
SHIPPED = "shipped"
"""Names the recognizer that comes with the package wherever a recognizer's folder is asked for; a folder that has this
name is ``./shipped``."""
SHIPPED_FOLDER = Path(__file__).resolve().parent / SHIPPED
_SHAPES = "flow-prior"
"""Database of synthetic clips that show a face shape of the flow prior: nobody."""
_NO_STEPS = {"stage", "input", "landmarker", "skip_bad", "version", "inputs", "keep_frames", "frame", "store"}
"""Keys of a prepare run that leave the flow and the frames as they are, and where faces lie, which is a model's own."""
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
        told = [(run, manifest) for manifest in manifests if (run := _prepare_run(manifest))]
        runs = [run for run, _ in told]
        found: dict[str, list[Any]] = {}
        # Early parts of macro-expressions are a source; what is judged is prepared as micro-expressions are.
        judged = [run.get("early", 1.0) for run, m in told if (m.column("expression") != "macro").any()]
        if any(share != 1 for share in judged):
            found["early"] = list(dict.fromkeys(judged))
        for run in runs:
            for key in run.keys() - _NO_STEPS - {"early"}:
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
            return Preparation(**read_yaml(file.read_text(encoding="utf-8")))
        except (TypeError, ValueError, OverflowError):
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
    digests.check(manifest.root, [RUN_FILE], partly=True)
    run = run_record(manifest)
    return run if run.get("stage") == "prepare" else {}


_BEFORE: dict[str, dict[str, object]] = {
    "data": {"pool": 0, "symmetric": False}, "ststnet": {"norm": "group"}, "htnet": {"crops": "face"},
}  # fmt: skip
"""Keys that a model saved before they existed lacks, by section, and what it did."""


def _older_settings(file: Path) -> list[str]:
    """What a model did that was saved before a key was there, as settings."""
    try:
        saved = read_yaml(file.read_text(encoding="utf-8"))
        sections = {name: saved[name] for name in _BEFORE if isinstance(saved.get(name), dict)}
    except (OSError, AttributeError, TypeError, KeyError, ValueError, OverflowError):
        return []  # whoever reads it as a recipe says what is wrong
    return [
        f"{name}.{key}={value}"
        for name, section in sections.items()
        for key, value in _BEFORE[name].items()
        if key not in section
    ]


@dataclass(frozen=True, kw_only=True)
class Recognizer:
    """A trained model: one member per seed, whose probabilities are averaged."""

    config: RunConfig
    members: Trained
    subjects_seen: frozenset[str]
    """Every ``database/subject`` that its training clips, or their makers, had seen."""
    preparation: Preparation = field(default_factory=Preparation)
    framing: KnownFraming | None = None
    """Where faces lay in the crops it learned from; None where that is not known."""
    aus: tuple[int, ...] = ()
    """Columns of [K*2] (AU, side) that training clips showed both present and absent."""
    own_rms: bool | None = None
    """Whether the flow it learned from was in units of its own rms (as what data.normalise=robust reads is); None where
    that is not known."""
    name: str = ""
    """``shipped``, or that of its folder."""
    sha256: str = ""
    """Of the file of its weights: what results are known by, wherever the folder lies."""

    def probabilities(self, clips: Inputs) -> np.ndarray:
        """N clips -> [N,C] float64."""
        return np.asarray(
            np.mean([self.members.probabilities(m, clips) for m in range(len(self.config.seeds))], axis=0)
        )

    def require_unit(self, clips: FlowSet) -> None:
        """Raise ManifestError for flow in pixels where it learned from flow in units of its own rms, or vice versa."""
        if self.own_rms is None or not len(clips) or in_one_unit(clips.own_rms) == self.own_rms:
            return
        units, name = ("in pixels", "in units of its own rms (as flow images are published)"), self.name or "the model"
        way = "train it with data.normalise=robust, which brings both to one scale"
        if self.config.data.normalise == "robust":  # clips in memory, which were loaded otherwise
            way = "load them with its config.data"
        raise ManifestError(
            f"flow of {clips.databases[0]} is {units[not self.own_rms]}, that of the clips that {name} learned from "
            f"{units[self.own_rms]}: {way}"
        )

    def named_aus(self, clips: Mapping[str, np.ndarray]) -> list[dict[str, float]]:
        """Views of N clips -> what it says of their AUs beside their class: ``AU4`` where the task is emotion+aus, else
        ``L4`` and ``R4`` of AU heads; empty where it says nothing of them."""
        n = len(clips[FLOW])
        if self.config.task == BOTH:
            p = self._both(clips)
            return [dict(zip(self.config.aus.names, row.tolist(), strict=True)) for row in p]
        sides = self.au_probabilities(clips)
        if sides is None:
            return [{} for _ in range(n)]
        cells = [(k, s, f"{'LR'[s]}{AU_CODES[k]}") for k in range(N_AUS) for s in (0, 1)]
        return [{name: float(one[k, s]) for k, s, name in cells if np.isfinite(one[k, s])} for one in sides]

    def _both(self, clips: Mapping[str, np.ndarray]) -> np.ndarray:
        """[N,A] of the AUs that it learned beside classes; of a fusion, its two sides count alike."""
        members = self.members.each if isinstance(self.members, AveragedMembers) else self.members
        assert isinstance(members, NetworkMembers)
        n = len(next(iter(members.stacked.values())))
        return np.asarray(np.mean([members.au_probabilities(m, clips) for m in range(n)], axis=0))

    def au_probabilities(self, clips: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """Views of N clips -> [N,K,2] float64, NaN for AUs it never learned; None without an AU head, or where that is
        not what was trained (task=aus: :meth:`probabilities` are those of the AUs)."""
        if self.config.task == AUS:
            return None
        members = self.members
        if isinstance(members, AveragedMembers) and self.config.mix.mode != FUSE:  # an ensemble
            members = members.each
        if not isinstance(members, NetworkMembers) or not self.aus:
            return None
        network, total = members.model, np.zeros((len(clips[FLOW]), N_AUS * 2))
        n = len(self.config.seeds) * self.config.train.ensemble
        seen = members.transform.of_views(clips)
        views = [as_floats(torch.from_numpy(seen[name])) for name in network.needs]
        with torch.no_grad():
            for m in range(n):
                out = functional_call(network, {name: t[m] for name, t in members.stacked.items()}, tuple(views))
                if out.au is None:
                    return None
                total += out.au.double().sigmoid().numpy() / n
        unknown = np.setdiff1d(np.arange(N_AUS * 2), self.aus)
        total[:, unknown] = np.nan
        return total.reshape(-1, N_AUS, 2)

    @classmethod
    def load(cls, folder: Path | str) -> Recognizer:
        """Raises WeightsUnavailable when the folder holds no recognizer or one of another version, DigestError when a
        file of it was changed."""
        name = SHIPPED if folder == SHIPPED else Path(folder).absolute().name
        folder = SHIPPED_FOLDER if folder == SHIPPED else Path(folder)
        if not (folder / WEIGHTS).is_file() or not (folder / CONFIG).is_file():
            raise WeightsUnavailable(f"no recognizer in {folder}; make one with `recognizer train --out {folder}`")
        digests.check(folder, [CONFIG, WEIGHTS, PREPARATION])
        try:
            config = load_config(RunConfig, folder / CONFIG, _older_settings(folder / CONFIG))
        except ConfigError as error:
            # Of a model that ships it is another version's; of others it is a model that is not registered here.
            if not str(error).startswith("unknown key") or not ships(str(error).split("'")[1].partition(".")[0]):
                raise
            why = str(error).partition(";")[0]
            raise WeightsUnavailable(
                f"{folder / CONFIG} is of another version of the model, which this one does not build ({why}); "
                "train it again"
            ) from None
        try:
            with safe_open(folder / WEIGHTS, framework="pt") as file:
                meta = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise WeightsUnavailable(f"{folder / WEIGHTS} cannot be read ({error}); train it again") from None
        if meta.get("format") != FORMAT:
            raise WeightsUnavailable(f"{folder / WEIGHTS} is no recognizer of this program; train it again")
        members = restored(config, tensors, folder / WEIGHTS)
        return cls(
            config=config,
            members=members,
            subjects_seen=frozenset(json.loads(meta["subjects_seen"])),
            preparation=Preparation.read(folder),
            framing=KnownFraming.of_json(meta["framing"]) if "framing" in meta else None,
            aus=tuple(json.loads(meta.get("aus", "[]"))),
            own_rms=json.loads(meta.get("own_rms", "null")),
            name=name,
            sha256=digests.file_sha256(folder / WEIGHTS),
        )


def names_recognizer(name: str) -> bool:
    """Whether a name that may also be a model's is ``shipped`` or a folder that holds a recognizer."""
    return name == SHIPPED or (name not in MODELS and (Path(name) / WEIGHTS).is_file())


def named_twice(name: str) -> str:
    """A note where ``name`` is the recognizer that ships and a recognizer's folder lies here under it; "" otherwise."""
    if name != SHIPPED or not (Path(SHIPPED) / WEIGHTS).is_file():
        return ""
    return f"'{SHIPPED}' is the recognizer that comes with the package; the folder of that name here is ./{SHIPPED}"


def standing(recognizer: Recognizer) -> list[str]:
    """What the answers of the recognizer that ships are worth, as far as that was measured: a line; none of others."""
    figures = shipped_figures()
    if not recognizer.sha256 or figures.get("weights_sha256") != recognizer.sha256:
        return []
    uf1, uar = (f"{one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]" for one in (figures["uf1"], figures["uar"]))
    who = f"{figures['clips']} real clips of {figures['subjects']} subjects"
    what = "the recognizer that comes with the package learned from synthetic clips alone"
    return [f"{what}; on {who} it reached UF1 {uf1}, UAR {uar}"]


def shipped_figures() -> dict[str, Any]:
    """What the recognizer that ships reached on real clips, and how that was measured; empty if that is not known of
    these very weights.

    >>> isinstance(shipped_figures(), dict)
    True
    """
    try:
        found = json.loads((SHIPPED_FOLDER / FIGURES).read_text())
        weights = digests.file_sha256(SHIPPED_FOLDER / WEIGHTS)
    except (OSError, ValueError):
        return {}
    return found if found.get("weights_sha256") == weights else {}


def load(folder: Path | str) -> Recognizer:
    """A recognizer that :func:`train` saved, or ``"shipped"``: the one that comes with the package, which learned from
    synthetic clips alone. Its class comes from the registry; nothing in the folder is executed.

    Raises:
        WeightsUnavailable: no recognizer in the folder, or a damaged one.
        DigestError: a file of it was changed after it was trained.
        ConfigError: its model is none that is registered here.

    >>> sorted(load("shipped").subjects_seen), load("shipped").config.data.classes
    ([], ('negative', 'positive', 'surprise'))
    >>> load("no/such/folder")
    Traceback (most recent call last):
    mesynth.core.errors.WeightsUnavailable: no recognizer in no/such/folder; make one with `recognizer train --out ...
    """
    return Recognizer.load(folder)


# ---------------------------------------------------------------- what a run builds on


def load_pretrained(config: RunConfig) -> Pretrained:
    """Read the recognizers that ``config.train`` names, and hold its list of genders readable.

    Raises:
        WeightsUnavailable: no recognizer in a folder.
        ConfigError: initial weights of another model, or a teacher of other classes, sizes or views; genders that
            cannot be read.
    """
    train, teacher = config.train, None
    weights: dict[str, torch.Tensor] = {}
    seen: dict[str, frozenset[str]] = {}
    digests: dict[str, str] = {}
    if train.start:
        found = _open("train.start", train.start, seen, digests)
        if isinstance(found.members, AveragedMembers):
            raise ConfigError(
                f"train.start={train.start} is several networks whose probabilities are averaged; begin with one "
                "(train.ensemble=1, no mix.mode=fuse)"
            )
        if isinstance(found.members, ThresholdedMembers):
            found = replace(found, members=found.members.each)  # thresholds are chosen anew
        if found.config.model != config.model or not isinstance(found.members, NetworkMembers):
            raise ConfigError(
                f"train.start={train.start} holds model {found.config.model}; this run has {config.model}"
            )
        weights = {name: value[0] for name, value in found.members.stacked.items() if name != "scale"}
    if train.teacher:
        master = _open("train.teacher", train.teacher, seen, digests)
        if (master.config.task, master.config.labels) != (config.task, config.labels):
            raise ConfigError(
                f"train.teacher={train.teacher} was trained with task={master.config.task} for "
                f"{', '.join(master.config.labels.names)}; train it with this run's task and names"
            )
        own, wanted = (replace(c.data, power=None, pool=None, symmetric=None) for c in (master.config, config))
        if own != wanted:
            raise ConfigError(
                f"train.teacher={train.teacher} knows other data settings; train it with this run's data.*"
            )
        teacher = master.probabilities
    if train.genders:
        read_genders(train.genders)
        digests["train.genders"] = hashlib.sha256(Path(train.genders).read_bytes()).hexdigest()
    return Pretrained(weights=weights, teacher=teacher, seen=seen, digests=digests)


def _open(setting: str, folder: str, seen: dict[str, frozenset[str]], digests: dict[str, str]) -> Recognizer:
    found = Recognizer.load(folder)
    seen[setting] = found.subjects_seen
    digests[setting] = found.sha256
    return found


# ---------------------------------------------------------------- training on everything


def train(
    real: Source | None = None,
    synthetic: Source | None = None,
    config: RunConfig = RunConfig(),
    *,
    model: str | None = None,
    out: Path | str,
    progress: Progress | None = None,
) -> Recognizer:
    """Train on everything (no clip is held out, so no figure comes of it) and save into ``out``.

    The same call again returns the saved model.

    Args:
        real: clips to learn from: a manifest or its folder, several of them, or a set in memory. None: it learns from
            synthetic clips alone (mix.mode=synthetic-only), and has seen only whom those or their makers show.
        synthetic: more clips, mixed in as ``config.mix`` says.
        model: instead of ``config.model``. A saved folder names its model through the registry, so this is a name:
            :func:`recognizer.register_model` gives one to a network of your own.
        out: the folder. It holds weights (safetensors), settings (YAML) and a card.

    Raises:
        ConfigError: a model that is no name, or a scikit-learn classifier (there is no file for those without pickle);
            no clips at all, or settings that need real ones where there are none.
        LeakError, PoolTooSmallError, ManifestError, MissingClassError, RunFolderError: as of :func:`recognizer.loso`.

    >>> from tempfile import mkdtemp
    >>> y = np.arange(36) % 3
    >>> x = np.random.default_rng(0).normal(size=(36, 3, 28, 28))
    >>> x[np.arange(36), 1, 8 * y] += 3  # each class moves another row of the face
    >>> folder = mkdtemp()
    >>> trained = train(FlowSet.of(x, y, [f"s{i // 9}" for i in range(36)]), model="lda", out=folder)
    >>> new = FlowSet.of(x[:3], y[:3], ["t"] * 3)
    >>> load(folder).probabilities(new.inputs()).argmax(1).tolist()
    [0, 1, 2]
    """
    if model is not None and not isinstance(model, str):
        raise ConfigError(
            f"a saved recognizer names its model through the registry, and {type(model).__name__} is no name; give it "
            "one with recognizer.register_model"
        )
    config = config if model is None else replace(config, model=model)
    if config.transfer.transductive:
        raise ConfigError(
            "transfer.transductive=true is about the test clips of a fold, and `recognizer train` has none; name clips "
            "without labels with transfer.unlabelled=[FOLDER]"
        )
    if config.model not in CLOSED and is_closed(config, config.model):
        raise ConfigError(
            f"model {config.model} is a scikit-learn classifier, and there is no file for those without pickle; test "
            "it with loso or ablate, or train a network"
        )
    folder = Path(out)
    real_source, synthetic_source, framing, config = training_clips(
        None if real is None else sources(real), None if synthetic is None else sources(synthetic), config
    )
    pretrained = load_pretrained(config)
    claim_folder(folder, run_identity("train", real_source, synthetic_source, config) | dict(pretrained.digests))
    if not (folder / WEIGHTS).is_file():
        with only_writer(folder):
            if not (folder / WEIGHTS).is_file():  # else the writer before ended in this moment
                return _trained(folder, real_source, synthetic_source, framing, config, pretrained, progress)
    return Recognizer.load(folder)


def training_clips(
    real: Opened | None, synthetic: Opened | None, config: RunConfig
) -> tuple[Opened, Opened | None, KnownFraming | None, RunConfig]:
    """What :func:`train` reads (see :func:`recognizer.sources.framed`; no real clips are an empty list), and its
    settings: without real clips, mix.mode is synthetic-only.

    Raises:
        ConfigError: no clips, or settings that have no meaning without real ones.
    """
    if real is not None and (isinstance(real, FlowSet) or real):
        return *framed(real, synthetic, config.data), config
    if synthetic is None or not (isinstance(synthetic, FlowSet) or synthetic):
        raise ConfigError("there are no clips to learn from; pass --real, --synthetic, or both")
    mix = config.mix
    if mix.mode not in (PRIOR, SYNTHETIC_ONLY):  # prior is the default: nobody asked for it
        raise ConfigError(f"mix.mode={mix.mode} needs real clips; pass --real, or choose mix.mode={SYNTHETIC_ONLY}")
    if mix.ratio is not None:
        raise ConfigError(f"mix.ratio={mix.ratio:g} counts clips for each real one; pass --real, or choose mix.count")
    if mix.prior_weight is not None:
        raise ConfigError(
            f"mix.prior_weight={mix.prior_weight:g} weighs synthetic clips against real ones; pass --real, or leave it "
            "out"
        )
    made, _, framing = framed(synthetic, None, config.data)  # to the framing that most of them can be read in
    return [], made, framing, replace(config, mix=replace(mix, mode=SYNTHETIC_ONLY))


def training_notes(real: Opened, synthetic: Opened | None, config: RunConfig) -> list[str]:
    """What to know of the clips of :func:`training_clips`, a line each."""
    n = len(real) if isinstance(real, FlowSet) else sum(map(len, real))
    if config.mix.mode != SYNTHETIC_ONLY or not n:
        return flow_notes(real, synthetic, config)
    idle = (
        f"mix.mode={SYNTHETIC_ONLY} learns from no real clip: the {n:,} given say where faces lie and nothing more; to "
        "learn from them choose mix.mode=prior"
    )
    return [idle, *flow_notes(real, synthetic, config)]


def _trained(
    folder: Path,
    real_source: Opened,
    synthetic_source: Opened | None,
    framing: KnownFraming | None,
    config: RunConfig,
    pretrained: Pretrained,
    progress: Progress | None,
) -> Recognizer:
    made = None if synthetic_source is None else as_flow_set(synthetic_source, config, progress, "reading synthetic")
    if made is not None and isinstance(real_source, list) and not real_source:
        require_one_unit(made)
        real_set = made.take(np.zeros(0, np.int64))
    else:
        real_set = as_flow_set(real_source, config, progress, "reading clips")
    real_set, made = apart(real_set, made, config.transfer)
    unlabelled = unlabelled_of(real_source, config)
    free = None if unlabelled is None else without_labels(unlabelled, config, progress)
    mixtures = [_everything(real_set, made, free, config, seed) for seed in config.seeds]
    trained = fit(
        mixtures[0].pool, mixtures[0].added, members_of(mixtures, config.seeds), config,
        progress and (lambda done, total: progress(f"training {config.model}", done, total)), pretrained=pretrained,
    )  # fmt: skip
    seen = sorted({subject for mixture in mixtures for subject in _people(mixture, pretrained.subjects)})
    aus = tuple(_shown_aus(mixtures[0]).tolist())
    preparation = Preparation.of([*_manifests(real_source), *_manifests(synthetic_source)])
    meta = {"format": FORMAT, "model": config.model, "subjects_seen": json.dumps(seen), "aus": json.dumps(aus)}
    if framing is not None:
        meta["framing"] = framing.to_json()
    own_rms = in_one_unit(mixtures[0].pool.own_rms[mixtures[0].weights[0] > 0])
    meta["own_rms"] = json.dumps(own_rms)
    write_text(folder / PREPARATION, str(yaml.safe_dump(asdict(preparation), sort_keys=False)))
    write_text(folder / CONFIG, config_yaml(config, synthetic=made is not None))
    write_text(folder / CARD, _card(config, mixtures[0], trained.n_parameters, seen, framing))
    tensors = {name: value.contiguous() for name, value in trained.tensors().items()}
    write_last(folder / WEIGHTS, packed(tensors, meta))
    return Recognizer(
        config=config, members=trained, subjects_seen=frozenset(seen), preparation=preparation, framing=framing,
        aus=aus, own_rms=own_rms, name=folder.absolute().name, sha256=digests.file_sha256(folder / WEIGHTS),
    )  # fmt: skip


def _people(mixture: Mixture, before: frozenset[str]) -> set[str]:
    """Everybody that a mixture without held-out subjects has learned from; the flow prior's face shapes are nobody."""
    learned, pool = mixture.weights[0] > 0, mixture.pool
    shapes = learned & pool.synthetic & (pool.databases == _SHAPES)
    nobody = set(map(str, np.unique(pool.subjects[shapes]))) - set(map(str, pool.subjects[~pool.synthetic]))
    return set(mixture.subjects_seen(0, before)) - nobody


def _manifests(source: Opened | None) -> list[Manifest]:
    return source if isinstance(source, list) else []


def _shown_aus(mixture: Mixture) -> np.ndarray:
    au = mixture.pool.au[mixture.weights[0] > 0]
    return np.flatnonzero((au == 1).any(0) & (au == 0).any(0))


def _everything(real: FlowSet, made: FlowSet | None, free: FlowSet | None, config: RunConfig, seed: int) -> Mixture:
    """A mixture that holds nobody out."""
    nothing = np.zeros(0, np.int64)
    fold = Fold(name="all", train_index=np.arange(len(real)), test_index=nothing, held_out=frozenset())
    return with_unlabelled(mixed(real, made, [fold], config.mix, seed), free, config.mix, config.transfer)


_ON_FIGURES = """No clip was held out: results on the subjects above say nothing. For figures run `recognizer loso` with
the same `config.yaml`."""
_ON_ZERO_SHOT = """It learned from no real clip. For figures on real ones run `recognizer loso --model THIS_FOLDER
--real M`."""


def _told(config: RunConfig) -> str:
    aus = f"AUs: {', '.join(config.aus.names)}, each present (more than .5) or absent by itself"
    classes = f"Classes: {', '.join(config.data.classes)}"
    return {AUS: aus, BOTH: f"{classes}; {aus}"}.get(config.task, classes)


def _card(
    config: RunConfig, mixture: Mixture, n_parameters: int, seen: Sequence[str], framing: KnownFraming | None
) -> str:
    counts = dict(
        zip(mixture.pool.outputs, mixture.pool.take(mixture.weights[0] > 0).class_counts.tolist(), strict=True)
    )
    listed = ", ".join(f"{name} {n}" for name, n in counts.items())
    return f"""# Micro-expression recognizer: {config.model}

- {_told(config)}
- Input: optical flow onset -> apex of an aligned face, resized to {config.data.size} px (u, v, strain)
- Faces lie at {framing.text() if framing else "places that are not known"} in its crops; clips framed otherwise are
  taken there, as far as they show it
- Parameters: {n_parameters} for each of {len(config.seeds)} seed(s); probabilities are averaged
- Trained on {int(mixture.n_real[0])} real and {int(mixture.n_added[0])} synthetic clips ({listed})
- Subjects seen, directly or through the makers of synthetic clips: {", ".join(seen) or "none"}

{_ON_FIGURES if mixture.n_real[0] else _ON_ZERO_SHOT}

Use: `recognizer predict --model THIS_FOLDER --manifest M --out DIR`, or `--video FILE`, which is prepared as
`preparation.yaml` says.
"""


# ---------------------------------------------------------------- weights of others


_FOLDERS: dict[str, tuple[str, ...]] = {
    "samm": tuple(f"{i:03d}" for i in range(6, 38) if i not in (8, 25, 27, 29)),
    "smic": tuple(f"s{i:02d}" for i in range(1, 21) if i not in (7, 10, 16, 17)),
    "casme2": tuple(f"sub{i:02d}" for i in range(1, 27) if i not in (10, 18)),
}
"""The 68 subjects of the MEGC 2019 composite as flow folders, and the files of its users' weights, name them."""
_ADOPTED = """# Micro-expression recognizer: STSTNet, weights of its authors

- Liong, Gan, See, Khor and Huang, FG 2019; read from `{file}`, sha256 {digest}
- Classes: negative, positive, surprise
- Input: flow images as published, 28 px, bytes (`data.input: bytes`)
- Holds out subject {subject} of the MEGC 2019 composite and learned from the 67 others: results on those say nothing
"""


def import_published(file: Path | str, out: Path | str) -> Recognizer:
    """Weights that STSTNet's authors publish as a recognizer like any other; the same call again returns it.

    Args:
        file: ``SUBJECT.pth``. Its name says whom it holds out: all other subjects of the MEGC 2019 composite count as
            seen, so that a fold never meets a subject the weights know.
        out: the folder, as of :func:`train`.

    Raises:
        WeightsUnavailable: no such file, a name that is no subject's, or not the state of a published STSTNet.
        RunFolderError: ``out`` holds something else.

    >>> import_published("weights/nobody.pth", "models/nobody")
    Traceback (most recent call last):
    mesynth.core.errors.WeightsUnavailable: weights/nobody.pth is named after no subject of the MEGC 2019 composite ...
    """
    file, folder = Path(file), Path(out)
    everyone = {name: f"{database}/{name}" for database, names in _FOLDERS.items() for name in names}
    if file.stem not in everyone:
        raise WeightsUnavailable(
            f"{file} is named after no subject of the MEGC 2019 composite (006, s01, sub01, ...), so nobody can say "
            "whom it has seen; keep the authors' file names"
        )
    state = read_published(file) | {"scale": torch.ones(3)}
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    config = RunConfig(model="ststnet", data=DataConfig(input=BYTES))
    claim_folder(folder, {"verb": "import", "weights": digest, "holds out": file.stem})
    if not (folder / WEIGHTS).is_file():
        with only_writer(folder):
            seen = sorted(everyone[name] for name in everyone.keys() - {file.stem})
            meta = {"format": FORMAT, "model": config.model, "subjects_seen": json.dumps(seen)}
            write_text(folder / PREPARATION, str(yaml.safe_dump(asdict(Preparation()), sort_keys=False)))
            write_text(folder / CONFIG, config_yaml(config, synthetic=False))
            write_text(folder / CARD, _ADOPTED.format(file=file.name, digest=digest, subject=everyone[file.stem]))
            tensors = {name: value[None].contiguous() for name, value in state.items()}
            write_last(folder / WEIGHTS, packed(tensors, meta))
    return Recognizer.load(folder)


# ---------------------------------------------------------------- new clips


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Class probabilities of a manifest's clips; ``table`` has one row per clip."""

    table: pa.Table
    n_seen: int
    """Clips of subjects the model had learned from."""
    metrics: dict[str, Any] | None
    """Figures over the labelled clips of unseen subjects (classes without clips left out of UAR), or None."""
    notes: tuple[str, ...] = ()
    """What the answers of the recognizer that ships are worth; where faces lie elsewhere in the clips than in those the
    model learned from."""
    recognizer: str = ""
    """Its name: ``shipped``, or its folder's."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        plain = {"n": self.table.num_rows, "n_seen": self.n_seen, "metrics": self.metrics, "notes": list(self.notes)}
        return plain | {"recognizer": self.recognizer}


def predict(model: Recognizer | Path | str, manifest: Source, *, progress: Progress | None = None) -> Prediction:
    """Probabilities for every clip with flow, labelled or not.

    The table: clip_id, subject, label (empty if unknown), predicted, subject_seen, and p_<class> each. Of AUs, label
    and predicted name those that are present (``AU4+AU7``, ``none``).

    Args:
        model: a trained recognizer, its folder, or ``"shipped"``.
        manifest: prepared clips: a manifest or its folder, several of them, or a set in memory.

    Raises:
        WeightsUnavailable: no recognizer in the folder.
        ManifestError: no clips, clips without what the model sees, or flow in another unit than it learned from.

    >>> from tempfile import mkdtemp
    >>> y = np.arange(36) % 3
    >>> x = np.random.default_rng(0).normal(size=(36, 3, 28, 28))
    >>> x[np.arange(36), 1, 8 * y] += 3  # each class moves another row of the face
    >>> trained = train(FlowSet.of(x, y, [f"s{i // 9}" for i in range(36)]), out=mkdtemp())
    >>> result = predict(trained, FlowSet.of(x[:3], y[:3], ["s0", "t", "t"]))
    >>> result.table["predicted"].to_pylist(), result.n_seen
    (['negative', 'positive', 'surprise'], 1)
    """
    model = model if isinstance(model, Recognizer) else Recognizer.load(model)
    source = framed_as(sources(manifest), model.framing, model.config.data)
    clips = as_flow_set(source, model.config, progress, "reading clips", unlabelled=True)
    model.require_unit(clips)
    p = model.probabilities(clips.inputs())
    labels = model.config.labels
    if labels.multi:
        told = [shown(row, labels.names) if (row >= 0).any() else "" for row in clips.targets]
        answers = [shown(row, labels.names) for row in p]
    else:
        names = np.array([*clips.classes, ""])
        told, answers = names[clips.y].tolist(), names[p.argmax(1)].tolist()
    seen = np.array(
        [
            not model.subjects_seen.isdisjoint({str(s), *more})
            for s, more in zip(clips.subjects, clips.subjects_seen, strict=True)
        ]
    )
    columns = {
        "clip_id": clips.clip_ids.tolist(), "subject": clips.subjects.tolist(), "label": told,
        "predicted": answers, "subject_seen": seen.tolist(),
    }  # fmt: skip
    columns |= {f"p_{name}": p[:, c].tolist() for c, name in enumerate(labels.names)}
    if model.config.task == BOTH:
        beside = model.named_aus(clips.inputs())
        columns |= {f"p_{name}": [one[name] for one in beside] for name in model.config.aus.names}
    fair = (clips.y >= 0) & ~seen
    metrics = None
    if fair.any():
        condition = Condition(model=model.config.model, train_subjects=0, arm="none")
        nobody = np.zeros(0, np.int64)
        fold = Fold(name="", train_index=nobody, test_index=np.flatnonzero(fair), held_out=frozenset())
        table = fold_table(condition, 0, fold, clips, p[fair])
        counts = confusion(column(table, "y"), column(table, "predicted"), labels.size)
        metrics = labels.metrics(counts).to_dict()
        metrics["recall"] = [None if np.isnan(r) else r for r in metrics["recall"]]
    records = [("the model's clips", {"stage": "prepare"} | dict(model.preparation.settings))]
    records += [(m.root.resolve().name, run_record(m)) for m in _manifests(source)]
    notes = (
        *standing(model), *framing_notes(source, others="the clips that the model learned from", settings=False),
        *view_notes(needs_of(model.config), records),
    )  # fmt: skip
    return Prediction(
        table=pa.table(columns), n_seen=int(seen.sum()), metrics=metrics, notes=notes, recognizer=model.name
    )  # fmt: skip
