"""The clips of a run: manifests, paths to them, or a set in memory; and what its results depend on.

A ledger beside each manifest, one line a finished run, counts the configurations that were tried on these clips before.
Every test uses test clips up a little: a figure means less after a hundred settings than after one, so each run says
how many came before it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mesynth.config import read_yaml
from mesynth.core.errors import ManifestError
from mesynth.core.framing import KnownFraming, covered
from mesynth.store.digests import LEDGER
from mesynth.store.generator_folder import UNTRAINED, has_property
from mesynth.store.manifest import EARLY, Manifest, framing_meta
from mesynth.store.run_folder import RUN_FILE
from mesynth.store.shards import known_framing
from recognizer.aus import ANY, AUS, BOTH
from recognizer.config import RunConfig, effective, needs_meta_of, needs_of, transform_of
from recognizer.data import BYTES, EACH, MATCH, TOP, DataConfig, FlowSet, load
from recognizer.views import PATCHES, READ_AS, VIEWS, to_prepare

Source = FlowSet | Manifest | Path | str | Sequence[Manifest | Path | str]
Opened = FlowSet | list[Manifest]
"""A source that was looked for: clips in memory, or manifests that are read when they are needed."""
Progress = Callable[[str, float, float], None]
"""Called with (what is being done, done, total)."""


def sources(source: Source) -> Opened:
    """Manifests from paths; a FlowSet stays what it is."""
    if isinstance(source, FlowSet):
        return source
    many = [source] if isinstance(source, (Manifest, Path, str)) else list(source)
    return [m if isinstance(m, Manifest) else Manifest.read(m) for m in many]


def framed(
    real: Opened, synthetic: Opened | None, data: DataConfig
) -> tuple[Opened, Opened | None, KnownFraming | None]:
    """Both, to be read with faces where the real clips have them, and where that is (None: not known).

    A recognizer reads motion by its place in the crop. Of several real manifests that are framed unlike, the framing
    counts that most clips can be taken to. What cannot (its crop shows too little), or is not known, is read as it is;
    :func:`flow_notes` says all of it. No label takes part, and four numbers of all real clips, or of each database.

    A composite's clips stay as they are, and others are taken to what all its databases show; with data.frame=each its
    own are, too.
    """
    theirs = [(m, known_framing(m)) for m in real] if isinstance(real, list) else []
    made = [(m, known_framing(m)) for m in synthetic] if isinstance(synthetic, list) else []
    candidates = [known for _, known in theirs if known is not None]

    def clips_there(target: KnownFraming) -> int:
        return sum(len(m) for m, k in [*theirs, *made] if k and (not k.differs(target) or k.can_become(target)))

    target = max(candidates, key=clips_there, default=None)
    if target is not None and data.frame == EACH:
        theirs, target = [part for one in theirs for part in _by_database(*one)], target.goal
    bound = [_bound(m, known, target, data) for m, known in theirs]
    if target is None and any(known for _, known in made):
        bound = [replace(m, meta=m.meta | {_WANTED: ""}) for m in bound]
    return (
        bound if isinstance(real, list) else real,
        [_bound(m, known, target, data) for m, known in made] if isinstance(synthetic, list) else synthetic,
        target and target.goal,
    )


def _by_database(manifest: Manifest, known: KnownFraming | None) -> list[tuple[Manifest, KnownFraming | None]]:
    """A composite's databases, each with its own framing; a manifest of one stays whole."""
    if known is None or not known.databases:
        return [(manifest, known)]
    names = manifest.column("database").astype(str)
    each = [(name, manifest.filter(names == name)) for name in np.unique(names)]
    return [(replace(part, meta=part.meta | framing_meta(known.of(name))), known.of(name)) for name, part in each]


def framed_as(source: Opened, target: KnownFraming | None, data: DataConfig) -> Opened:
    """``source``, to be read with faces where ``target`` has them, as :func:`framed` does it."""
    if isinstance(source, FlowSet):
        return source
    known = [(m, known_framing(m) if target else None) for m in source]
    if data.frame == EACH:
        known = [part for one in known for part in _by_database(*one)]
    return [_bound(m, k, target, data) for m, k in known]


_WANTED = "framing wanted"
"""Key of a manifest's metadata in memory: where the others' faces lie, if not there; "" where that is not known."""


def _bound(manifest: Manifest, known: KnownFraming | None, target: KnownFraming | None, data: DataConfig) -> Manifest:
    if target is None or (known is not None and not known.differs(target)):
        return manifest
    goal = target.goal.to_json()
    meta = {_WANTED: goal} | framing_meta(known)
    if known is not None and data.frame in (MATCH, EACH) and known.can_become(target):
        meta[READ_AS] = goal
    return replace(manifest, meta=manifest.meta | meta)


def framing_notes(*sources: Opened | None, others: str = "the real clips", settings: bool = True) -> list[str]:
    """A line for every manifest whose faces lie elsewhere than the others': both numbers, and what is done about it.

    ``settings``: whether data.frame can be set there.
    """
    notes = []
    for manifest in (m for source in sources if isinstance(source, list) for m in source):
        if (wanted := manifest.meta.get(_WANTED)) is None:
            continue
        name, own = manifest.root.resolve().name, manifest.framing
        if not wanted or own is None:
            notes.append(
                f"where faces lie in the crops of {name} is not recorded, and they are read as they are: `mesynth "
                "prepare` records it (--frame says it)"
            )
            continue
        target = KnownFraming.of_json(wanted)
        both = f"faces of {name} lie at {own.text()}, those of {others} at {target.text()}"
        if READ_AS in manifest.meta:
            way = " (data.frame=own leaves it)" if settings else ""
            notes.append(f"{both}: {name} is read as the latter{way}")
        elif own.can_become(target):
            notes.append(f"{both}: data.frame=own leaves it so; data.frame=match reads {name} as the latter")
        else:
            notes.append(
                f"{both}, of which its crops show {covered(own.framing, target.framing):.0%}, so it is read as it is: "
                f"make or prepare it with --frame {target.framing.text()}"
            )
    return notes


def as_flow_set(
    source: Opened, config: RunConfig, progress: Progress | None, what: str, *, unlabelled: bool = False
) -> FlowSet:
    """Load manifests under the run's DataConfig; a FlowSet must have been loaded under the same."""
    if isinstance(source, FlowSet):
        if config.task == AUS and (source.classes, source.aus) != (ANY, config.aus.codes):
            source = source.for_aus(config.aus.codes, unlabelled=unlabelled)
        elif config.task == BOTH:
            source = replace(source, aus=config.aus.codes)
        classes = ANY if config.task == AUS else config.data.classes
        if source.classes != classes or source.x.shape[-1] != config.data.size:
            raise ManifestError(
                f"the clips were loaded with classes {list(source.classes)} and size {source.x.shape[-1]}; this run "
                f"has {list(classes)} and {config.data.size}: load them with the run's DataConfig"
            )
        pictures = bool(source.x.size and source.x.min() >= 0 and source.x.max() == TOP)
        if source.x.size and pictures != (config.data.input == BYTES):
            raise ManifestError(
                f"the clips were loaded {'as bytes' if pictures else 'as flow'}; this run has "
                f"data.input={config.data.input}: load them with the run's DataConfig"
            )
        for name in needs_of(config):
            found = source.inputs().get(name)
            wanted = VIEWS[name].of(config.data.shape())
            if found is None or found.shape[1:] != wanted:
                has = f"has shape {found.shape[1:]}" if found is not None else "is not among them"
                raise ManifestError(
                    f"model {', '.join(config.used_models)} needs view '{name}' [N,{','.join(map(str, wanted))}], "
                    f"which of the clips in memory {has}: load them with recognizer.data.load(..., views=...) and the "
                    "run's DataConfig"
                )
        return source
    report = None if progress is None else partial(progress, what)
    return load(
        source, config.data, views=needs_of(config), unlabelled=unlabelled, progress=report, task=config.task,
        aus=config.aus.codes,
    )  # fmt: skip


def fingerprint(source: Opened | None) -> list[str]:
    """What the data are, for the run's identity: manifest hashes, or the clip ids of a loaded set."""
    if source is None:
        return []
    if isinstance(source, FlowSet):
        return ["clips", str(len(source)), *map(str, source.clip_ids)]
    return [m.hash() for m in source]


def run_identity(verb: str, real: Opened, synthetic: Opened | None, config: RunConfig) -> dict[str, Any]:
    """What a run's results depend on; two runs with equal identity give equal results."""
    inputs = {model: asdict(transform_of(config, model)) for model in config.used_models}
    alike = len({tuple(one.items()) for one in inputs.values()}) == 1  # then they stand in the configuration
    return (
        {
            "verb": verb,
            "config": effective(config, synthetic=synthetic is not None),
            "manifest": fingerprint(real),
            "synthetic": fingerprint(synthetic),
        }
        | _read_as(real, synthetic)
        | ({"unlabelled": fingerprint(sources(list(more)))} if (more := config.transfer.unlabelled) else {})
        | ({} if alike else {"inputs": inputs})
    )


def _read_as(*sources: Opened | None) -> dict[str, Any]:
    """For the run's identity: the framing each manifest is read in, where one is read in another's."""
    manifests = [m for source in sources if isinstance(source, list) for m in source]
    texts = [KnownFraming.of_json(m.meta[READ_AS]).framing.text() if READ_AS in m.meta else "" for m in manifests]
    return {"framing": texts} if any(texts) else {}


def run_record(manifest: Manifest) -> dict[str, Any]:
    """The configuration in the ``run.yaml`` beside a manifest; empty where there is none, or no readable one."""
    try:
        run = read_yaml((manifest.root / RUN_FILE).read_text(encoding="utf-8"))["config"]
    except (OSError, TypeError, KeyError, ValueError, OverflowError):
        return {}
    return run if isinstance(run, dict) else {}


def exact_flow(manifest: Manifest) -> list[str]:
    """Known generators whose clips here have the flow that moved their pixels: those without training and families
    that warp frames, unless `mesynth prepare` has estimated it since. Painters' flow is estimated, and flow images of
    the flow prior or of flow_gan imitate an estimator's."""
    if run_record(manifest).get("stage") in ("prepare", "augment"):
        return []
    names = {str(name).partition("@")[0] for name in manifest.column("provenance.generator") if name}
    warping = (name for name in names if has_property(name, "frames") and not has_property(name, "paints_frames"))
    return sorted({*warping, *(names & set(UNTRAINED))})


def flow_notes(real: Opened, synthetic: Opened | None, config: RunConfig | None = None) -> list[str]:
    """Where exact flow is learned from beside estimated flow, faces lie elsewhere, or views that ``config``'s models
    see were made in different ways: a line that says so, and how to make them alike; and what its models are told
    nothing of."""
    manifests = [m for source in (real, synthetic) if isinstance(source, list) for m in source]
    records = [(m.root.resolve().name, run_record(m)) for m in manifests]
    made = [] if config is None else [*view_notes(needs_of(config), records), *meta_notes(config, real, synthetic)]
    told = [*transfer_notes(real, config), *early_notes(real, synthetic)]
    return [*framing_notes(real, synthetic), *_exactness(real, synthetic), *made, *told]


def transfer_notes(real: Opened, config: RunConfig | None = None) -> list[str]:
    """What is learned from and not tested on, and what is learned from clips that are tested."""
    macro = [real.macro == 1] if isinstance(real, FlowSet) else [m.column("expression") == "macro" for m in real]
    n, of = sum(int(one.sum()) for one in macro), sum(map(len, macro))
    notes = []
    if n:
        notes.append(f"{n:,} of the {of:,} real clips are macro-expressions: learned from, and never tested on")
    if config is not None and config.transfer.transductive:
        notes.append(
            "transductive: every fold also learned from its own test clips without their labels (transfer.transductive)"
        )
    return notes


def early_notes(real: Opened, synthetic: Opened | None = None) -> list[str]:
    """A line for each manifest with clips that end before their apex (`mesynth prepare --early`): how many, and whether
    clips like them are tested."""
    notes = []
    for source, tested in ((real, True), (synthetic, False)):
        for manifest in source if isinstance(source, list) else ():
            early = [any(w.startswith(EARLY) for w in said) for said in manifest.table["warnings"].to_pylist()]
            if not any(early):
                continue
            micro = int((np.array(early) & (manifest.column("expression") != "macro")).sum()) if tested else 0
            what = f", and {micro:,} of them are tested: a figure is one of early parts" if micro else ""
            name = manifest.root.resolve().name
            notes.append(f"{sum(early):,} of the {len(early):,} clips of {name} end before their apex (--early){what}")
    return notes


def unlabelled_of(real: Opened, config: RunConfig) -> Opened | None:
    """The clips of transfer.unlabelled, to be read with faces where the real clips have them; None without any."""
    if not config.transfer.unlabelled:
        return None
    return framed(real, sources(list(config.transfer.unlabelled)), config.data)[1]


def without_labels(source: Opened, config: RunConfig, progress: Progress | None) -> FlowSet:
    """Clips whose labels are not read, whether they have one or not."""
    return as_flow_set(source, config, progress, "reading unlabelled", unlabelled=True)


_MAKES = ("crop", "stabilise", "magnify")
"""Steps of `mesynth prepare` that change what frames show, and so every view beside the flow image."""


def view_notes(views: Collection[str], records: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Where inputs that are in use were prepared in different ways: a line for each step, with what has which value.

    ``records``: names, and the configuration of the prepare run of each (others' are passed over).

    >>> runs = [(name, {"stage": "prepare", "method": name}) for name in ("tvl1", "dis")]
    >>> view_notes(["flows"], runs)
    ['view flows was made with method=tvl1 (tvl1) and dis (dis): prepare them alike']
    """
    runs = [(name, run) for name, run in records if run.get("stage") == "prepare"]
    used = sorted(name for name in views if VIEWS[name].prepared)
    keys = [(key, used) for key in _MAKES]
    keys += [("method", sorted(to_prepare(views))), ("size", [name for name in used if name == PATCHES])]
    notes = []
    for key, concerned in keys:
        values: dict[str, list[str]] = {}
        for name, run in runs:
            if key in run:
                values.setdefault(str(run[key]) or "none", []).append(name)
        if concerned and len(values) > 1:
            which = " and ".join(f"{value} ({', '.join(dict.fromkeys(names))})" for value, names in values.items())
            what = f"view{'s' * (len(concerned) > 1)} {', '.join(concerned)} {'were' if len(concerned) > 1 else 'was'}"
            notes.append(f"{what} made with {key}={which}: prepare them alike")
    return notes


def meta_notes(config: RunConfig, *sources: Opened | None) -> list[str]:
    """A line for each model that learns more than classes and is told nothing of it."""
    given = [source for source in sources if source is not None]
    notes = []
    for model, names in needs_meta_of(config).items():
        if "gender" in names and not config.train.genders:
            notes.append(
                f"model {model}: no subject's gender is known, so it learns the expression alone; train.genders=FILE "
                "says it (CSV, columns subject and gender)"
            )
        if "macro" in names and not any(map(_has_macro, given)):
            notes.append(
                f"model {model}: no clip here is a macro-expression, so nothing is transferred and it learns from "
                "micro-expressions alone"
            )
    return notes


def _has_macro(source: Opened) -> bool:
    if isinstance(source, FlowSet):
        return bool((source.macro == 1).any())
    return any((manifest.column("expression") == "macro").any() for manifest in source)


def _exactness(real: Opened, synthetic: Opened | None) -> list[str]:
    if isinstance(real, FlowSet) or synthetic is None or isinstance(synthetic, FlowSet):
        return []
    makers = sorted({name for manifest in synthetic for name in exact_flow(manifest)})
    if not makers or any(exact_flow(manifest) for manifest in real):
        return []
    which = f"the real clips' flow is estimated from frames, that of {', '.join(makers)} is exact"
    way = "`mesynth prepare corpus --root CORPUS` estimates it as for real clips"
    return [f"{which}: it lacks an estimator's noise and smoothing; {way}"]


# ------------------------------------------------------------------- ledger


FILE_NAME = LEDGER


def tried_before(manifests: Sequence[Manifest], identity: str) -> int:
    """Different runs (by ``identity``) that were finished on any of these manifests; lines that are damaged count."""
    tried = set()
    for manifest in manifests:
        for i, line in enumerate(_lines(manifest.root / FILE_NAME)):
            try:
                tried.add(str(json.loads(line)["identity"]))
            except (ValueError, KeyError, TypeError):
                tried.add(f"{manifest.root}:{i}")
    return len(tried - {identity})


def record(manifests: Sequence[Manifest], identity: str, facts: dict[str, Any]) -> bool:
    """Append a finished run beside every manifest, once each; False where a folder cannot be written."""
    written = True
    line = json.dumps({"identity": identity, "when": datetime.now(UTC).isoformat(timespec="seconds")} | facts)
    for manifest in manifests:
        file = manifest.root / FILE_NAME
        if any(f'"identity": "{identity}"' in known for known in _lines(file)):
            continue
        try:
            # One write of one line to a file opened for appending: two runs that end together do not mix.
            handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(handle, (line + "\n").encode())
            finally:
                os.close(handle)
        except OSError:
            written = False
    return written


def _lines(file: Path) -> list[str]:
    try:
        return [line for line in file.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        return []
