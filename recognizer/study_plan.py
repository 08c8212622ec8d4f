"""What a study is made of: its settings, its generators and whom they may not have seen, and its steps as commands.

Every step is a command of its own in a folder of its own, so that it can be looked at, gone on with and typed by hand.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from mesynth import api
from mesynth.config import check_keys, fill, list_recipes, read_given, renamed, valid_keys
from mesynth.core.errors import ConfigError, MesynthError
from mesynth.generators.registry import find_model
from mesynth.store.generator_folder import makes_frames
from mesynth.store.manifest import Manifest
from mesynth.store.shards import known_framing
from mesynth.training.data.pack import subject_groups
from mesynth.training.train import CROSS_FIT, read_cross_fit
from recognizer import ablation as ablations
from recognizer.ablation_result import POOLED, grid
from recognizer.aus import AUS
from recognizer.config import AblationConfig, effective, load_config
from recognizer.data import FlowSet
from recognizer.models import MODELS
from recognizer.protocol import LEAK_POLICIES, Fold, check_leaks, check_maker, make_folds
from recognizer.sources import as_flow_set, framed

Bars = Callable[[str], Callable[[float, float], None]]

ABLATION = "ablation.yaml"
"""The ablation's settings, for its command."""
FLOW_PRIOR = "flow-prior"
RENDERED, DATABASE = "rendered", "database"
RAISE, PICK = LEAK_POLICIES


# ---------------------------------------------------------------- settings


@dataclass(frozen=True, kw_only=True)
class EmbeddedConfig:
    """The rendered database that stands in where ``real`` names none: nobody's data, exact action units."""

    subjects: int = 4
    """People; no fewer than two, as each is held out once."""
    clips: int = 4
    """Of each subject."""
    size: int = 96
    """Side of the frames and of the crops, pixels."""
    fps: float = 30.0
    """Frames a second."""
    seed: int = 0
    """Same seed, same people."""


@dataclass(frozen=True, kw_only=True)
class TuningConfig:
    """How generators that are named by a recipe learn from the real clips."""

    groups: int = 5
    """Generators a recipe: each learns from all subjects but those of one group (folds that hold out several subjects
    at once are groups themselves)."""
    settings: tuple[str, ...] = ()
    """Of every recipe, as after `mesynth train RECIPE`: "run.start=motion_gan"."""
    device: str = "auto"


@dataclass(frozen=True, kw_only=True)
class CorporaConfig:
    """What every generator is asked for; recording conditions are the real database's, as its paper tells them."""

    clips: int = 0
    """Of a generator (of each group's, where there are groups); 0: as many as the largest ratio or count asks."""
    faces: str = RENDERED
    """Whom clips show: rendered (people of no database), database (its own subjects; a fold never learns from clips
    that show its test subjects), or a folder of pictures."""
    people: int = 24
    """Rendered faces."""
    size: int = 128
    fps: float = 60.0
    duration: tuple[float, ...] = (0.2, 0.45)
    """Seconds, from and to."""
    noise: float = 1.5
    head_motion: float = 1.0
    blink: float = 0.3
    style: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "duration", tuple(self.duration))
        if len(self.duration) != 2:
            raise ConfigError(f"corpora.duration={list(self.duration)} must be two numbers of seconds, from and to")
        if self.clips < 0 or self.people < 1:
            raise ConfigError(f"corpora.clips={self.clips} and corpora.people={self.people} must not be negative or 0")


@dataclass(frozen=True, kw_only=True)
class MeasuresConfig:
    """`mesynth measure` of the corpora against the real clips."""

    clips: int = 200
    """A side; 0: nothing is measured."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.clips and self.clips < 4:
            raise ConfigError(f"measures.clips={self.clips} is too few; measure at least 4, or 0 for no measures")


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """What a study has beyond an ablation's settings."""

    real: tuple[str, ...] = ()
    """Prepared databases (folders); none: the embedded one is rendered and prepared."""
    generators: tuple[str, ...] = ("motion-prior",)
    """motion-prior, landmark-mean, flow-prior, a shipped model, a trained folder, the folder of a cross-fit, or a
    recipe (gan/motion_64_manifest or a YAML file), which is fine-tuned on the real clips."""
    synthetic: tuple[str, ...] = ()
    """Corpora that are there already."""
    embedded: EmbeddedConfig = field(default_factory=EmbeddedConfig)
    fine_tuning: TuningConfig = field(default_factory=TuningConfig)
    corpora: CorporaConfig = field(default_factory=CorporaConfig)
    measures: MeasuresConfig = field(default_factory=MeasuresConfig)

    def __post_init__(self) -> None:
        if not self.generators and not self.synthetic:
            raise ConfigError(
                "generators is empty, and synthetic, too; name one, for example generators=[motion-prior]"
            )
        for key, values in (("generators", self.generators), ("real", self.real), ("synthetic", self.synthetic)):
            if twice := [v for v in values if list(values).count(v) > 1]:
                raise ConfigError(f"{key} names {twice[0]} twice; name each once")


@dataclass(frozen=True)
class StudyConfig:
    """A study's settings and its ablation's."""

    study: StudySettings = StudySettings()
    ablation: AblationConfig = AblationConfig()
    stated: frozenset[str] = frozenset()
    """Keys that the recipe or the settings give: what is not stated may be chosen by what is there."""

    def plain(self) -> dict[str, Any]:
        """As a recipe: loading it gives the same study."""
        own = json.loads(json.dumps(asdict(self.study)))
        ablation = effective(self.ablation, synthetic=True)
        ablation = {_RECOGNIZERS if key == "models" else key: value for key, value in ablation.items()}
        ablation = {key: value for key, value in ablation.items() if key != "mix" or value}
        return own | ablation


_RECOGNIZERS = "recognizers"


def load_study(recipe: Path | str | None, settings: Sequence[str] = ()) -> StudyConfig:
    """A study's YAML file or name, then ``key=value`` settings.

    Raises:
        ConfigError: no such recipe, an unknown key (with the nearest ones), a value of the wrong type or out of range.

    >>> load_study(None, ["recognizers=[]"])
    Traceback (most recent call last):
    mesynth.core.errors.ConfigError: recognizers is empty; choose from lda, ...
    """
    given = renamed(read_given(recipe, settings), {_RECOGNIZERS: "models"}, quiet=True)
    stated = {setting.partition("=")[0] for setting in settings}
    for one, other in (("ratios", "counts"), ("counts", "ratios")):  # of the two, a setting's replaces a recipe's
        if one in stated and other not in stated and given.values.get(one):
            given = replace(given, values={k: v for k, v in given.values.items() if k != other})
    own = {f.name for f in fields(StudySettings)}
    known = {*own, *valid_keys(AblationConfig), *MODELS, _RECOGNIZERS} - {"models"}
    for key in given.values:
        if key not in known and key != "models":
            near = (
                difflib.get_close_matches(key, known, n=3, cutoff=0.5) or sorted(k for k in known if "." not in k)[:8]
            )
            raise ConfigError(f"unknown key '{key}'; nearest: {', '.join(near)}")
    mine = replace(
        given, values={k: v for k, v in given.values.items() if k in own},
        removed=tuple(k for k in given.removed if k.partition(".")[0] in own),
    )  # fmt: skip
    check_keys(mine, valid_keys(StudySettings))
    study = fill(StudySettings(), mine.values)
    rest = replace(given, values={k: v for k, v in given.values.items() if k not in own})
    try:
        flat = [f"{key}={json.dumps(_value(rest.values, key))}" for key in rest.keys]
        config = load_config(AblationConfig, None, flat)
    except ConfigError as error:
        raise ConfigError(re.sub(r"^models\b", _RECOGNIZERS, str(error))) from None
    if config.task == AUS:
        raise ConfigError(
            "task=aus: a study draws its corpora by emotion and tests those; make one with `mesynth generate` and run "
            "`recognizer ablate ablation/aus`"
        )
    return StudyConfig(study, config, frozenset(given.keys))


def _value(values: Mapping[str, Any], key: str) -> Any:
    node: Any = values
    for part in key.split("."):
        node = node[part]
    return node


# ---------------------------------------------------------------- generators


@dataclass(frozen=True)
class Maker:
    """A generator of the study."""

    name: str
    """Of its folders."""
    given: str
    flow: bool
    """It makes flow images alone."""
    models: tuple[str, ...] = ()
    """What `mesynth generate --model` is given, one for each group."""
    groups: tuple[frozenset[str], ...] = ()
    """Whom each of ``models`` has not seen; none: the one serves all folds."""
    recipe: Any = None
    """It is fine-tuned by this first."""
    seen: tuple[str, ...] = ()
    """Of a generator that serves all folds: subjects it has learned from."""


def makers(study: StudySettings, real: Sequence[Path]) -> list[Maker]:
    """The generators that the settings name, looked up; nothing is trained.

    Raises:
        MesynthError: an unknown name. ConfigError: a recipe that does not learn from prepared clips.
    """
    found = [_maker(given, study, real) for given in study.generators]
    groups, people = study.fine_tuning.groups, study.embedded.subjects
    if not study.real and groups > people and any(maker.recipe is not None for maker in found):
        raise ConfigError(f"fine_tuning.groups={groups} is more than embedded.subjects={people}; choose fewer groups")
    names = [maker.name for maker in found]
    for i, maker in enumerate(found):
        if names.count(maker.name) > 1:
            found[i] = replace(maker, name=f"{maker.name}-{i + 1}")
    return found


def _maker(given: str, study: StudySettings, real: Sequence[Path]) -> Maker:
    name = re.sub(r"[^\w.+-]+", "-", Path(given.partition("@")[0]).name.removesuffix(".yaml").removesuffix(".yml"))
    if given == FLOW_PRIOR:
        return Maker(name, given, True, (given,))
    if given in list_recipes("gan", "diffusion") or given.endswith((".yaml", ".yml")):
        data = read_given(given, study.fine_tuning.settings).values.get("data") or {}
        if not isinstance(data, dict) or data.get("source") != "manifest":
            raise ConfigError(
                f"generators: {given} learns from rendered people; name {given.removesuffix('.yaml')}_manifest, or a "
                "recipe with data.source=manifest"
            )
        recipe = api.load_training_recipe(given, [_manifests(real), *study.fine_tuning.settings])
        return Maker(name, given, not makes_frames(recipe.task), recipe=recipe)
    folder = Path(given.partition("@")[0])
    if (folder / CROSS_FIT).is_file():
        table = read_cross_fit(folder)
        paths = sorted(set(table.values()))
        groups = tuple(frozenset(s for s, path in table.items() if path == one) for one in paths)
        flow = not makes_frames(find_model(str(paths[0])).name)
        return Maker(name, given, flow, tuple(str(path) for path in paths), groups)
    try:
        model = find_model(given)
    except ConfigError:
        raise
    except MesynthError as error:
        raise type(error)(f"generators: {error}") from None
    return Maker(name, given, not makes_frames(model.name), (given,), seen=tuple(model.facts.subjects_seen))


def _manifests(real: Sequence[Path]) -> str:
    return f"data.manifests=[{', '.join(json.dumps(str(path)) for path in real)}]"


def without_held_out(maker: Maker, folds: Sequence[Fold], tuning: TuningConfig) -> Maker:
    """``maker`` with a generator for every fold: one that saw nobody it holds out.

    Raises:
        LeakError: there is none for a fold.
        ConfigError: more groups than subjects.
    """
    if maker.recipe is not None:
        if start := maker.recipe.run.start:
            begun = find_model(str(start)).facts.subjects_seen
            for fold in folds:
                check_maker(f"{start} (run.start of {maker.given})", begun, fold)
        return replace(maker, groups=held_out_groups(folds, tuning.groups, maker.recipe.run.seed))
    if not maker.groups:
        for fold in folds:
            check_maker(maker.given, maker.seen, fold)
        return maker
    known = [set(find_model(model).facts.subjects_seen) for model in maker.models]
    for fold in folds:
        check_maker(maker.given, min((sorted(seen & fold.held_out) for seen in known), key=lambda met: len(met)), fold)
    return maker


def held_out_groups(folds: Sequence[Fold], groups: int, seed: int) -> tuple[frozenset[str], ...]:
    """Subjects that a generator must not see, a group a generator; every fold's held-out subjects lie in one group.

    >>> def fold(*held_out):
    ...     return Fold(name="", train_index=np.zeros(0, int), test_index=np.ones(1, int), held_out=frozenset(held_out))
    >>> [sorted(g) for g in held_out_groups([fold("a/1"), fold("a/2"), fold("a/3")], 2, 0)]
    [['a/1', 'a/3'], ['a/2']]
    >>> [sorted(g) for g in held_out_groups([fold("a/1", "a/2"), fold("b/1"), fold("a/1", "a/2")], 9, 0)]
    [['a/1', 'a/2'], ['b/1']]
    """
    sets = list(dict.fromkeys(fold.held_out for fold in folds))
    if any(len(one) > 1 for one in sets):
        return tuple(sets)
    try:
        parts = subject_groups(sorted(s for one in sets for s in one), groups, seed)
    except ConfigError as error:
        raise ConfigError(f"fine_tuning.groups={groups}: {error}") from error
    return tuple(frozenset(part) for part in parts)


# ---------------------------------------------------------------- steps


@dataclass(frozen=True)
class Step:
    """A part of the study: a command, and the same through the library."""

    name: str
    """Its folder within the study's."""
    words: tuple[str, ...]
    run: Callable[[Bars], object]
    kind: str
    """render, prepare, train, generate, measure or ablate."""
    amount: int = 0
    """Clips or images it makes, or cells it runs."""

    @property
    def text(self) -> str:
        """The command as it is typed."""
        return shlex.join(self.words)


@dataclass(frozen=True)
class Expected:
    """What a step will take on this machine; None where nothing was measured."""

    step: Step
    done: bool
    seconds: float | None
    bytes: int | None
    how: str


@dataclass(frozen=True)
class Plan:
    """All steps of a study, in order, and what they were made of."""

    config: StudyConfig
    real: tuple[Path, ...]
    folds: tuple[Fold, ...]
    clips: FlowSet
    makers: tuple[Maker, ...]
    steps: tuple[Step, ...]
    ablation: AblationConfig
    corpora: tuple[Path, ...]
    """What is mixed in, one a generator or group, then those given."""


def database_steps(config: StudyConfig, out: Path) -> tuple[list[Step], tuple[Path, ...]]:
    """What makes the real clips where none are given, and where real clips lie."""
    study = config.study
    if study.real:
        return [], tuple(Path(path) for path in study.real)
    e = study.embedded
    root, prepared = out / "database", out / "prepared"
    render = Step(
        "database",
        _words("mesynth render", subjects=e.subjects, clips=e.clips, size=e.size, fps=e.fps, seed=e.seed, workers=1,
               out=root),
        lambda bars: api.render(root, subjects=e.subjects, clips=e.clips, size=e.size, fps=e.fps, seed=e.seed,
                                progress=bars),
        "render", e.subjects * e.clips,
    )  # fmt: skip
    prepare = Step(
        "prepared",
        _words("mesynth prepare casme2", root=root, size=e.size, workers=1, out=prepared),
        lambda bars: api.prepare("casme2", root, prepared, size=e.size, progress=bars("prepare")),
        "prepare", e.subjects * e.clips,
    )  # fmt: skip
    return [render, prepare], (prepared,)


def _words(verb: str, *positional: str, **options: Any) -> tuple[str, ...]:
    words = [*verb.split(), *positional]
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(option)
        elif value is not None and value is not False:
            for one in value if isinstance(value, list) else [value]:
                words += [option, f"{one:g}" if isinstance(one, float) else str(one)]
    return tuple(words)


def plan(config: StudyConfig, out: Path, read: Sequence[Path] | None = None) -> Plan:
    """Everything that is done with real clips that are there. ``read``: where they lie, if not where they will.

    Raises:
        MesynthError: whatever would stop the study later and can be seen now; LeakError: a generator or a corpus that
            saw whom a fold holds out.
    """
    study = config.study
    _, real = database_steps(config, out)
    manifests = [Manifest.read(path) for path in (read or real)]
    given = [Manifest.read(path) for path in study.synthetic]
    ablation = config.ablation
    bound, made, _ = framed(list(manifests), list(given), ablation.data)
    clips = as_flow_set(bound, ablation, None, "reading clips")
    folds = make_folds(clips, ablation.protocol)
    found = [without_held_out(maker, folds, study.fine_tuning) for maker in makers(study, real)]
    _require_frames(study, found, real, manifests)
    if given and ablation.mix.leak == RAISE:
        theirs = as_flow_set(made or [], ablation, None, "reading synthetic")
        for fold in folds:
            check_leaks(theirs, fold)
    picks = any(maker.groups for maker in found) or study.corpora.faces == DATABASE
    if picks and "mix.leak" not in config.stated:  # by fold, from what the study makes: the rest is checked
        ablation = replace(ablation, mix=replace(ablation.mix, leak=PICK))
    wanted = study.corpora.clips or clips_asked(ablation, clips, folds, study.corpora.faces)
    steps, corpora = _steps(study, manifests, real, found, wanted, len(ablation.data.classes), ablation, out)
    corpora += [Path(path) for path in study.synthetic]
    sources = [maker.name for maker in found] + [path.resolve().name for path in corpora[len(corpora) - len(given) :]]
    if "per_source" not in config.stated:
        ablation = replace(ablation, per_source=len(sources) > 1)
    for name in sources:
        if sources.count(name) > 1:
            raise ConfigError(f"two corpora are called {name}; give generators or folders other names")
    cells = len(grid(ablation, [POOLED, *(sources if ablation.per_source and len(sources) > 1 else ())]))
    steps.append(
        Step(
            "ablation",
            _words("recognizer ablate", str(out / ABLATION), real=list(real), synthetic=corpora,
                   out=out / "ablation"),
            lambda bars: ablations.ablate(list(real), list(corpora), ablation, out=out / "ablation",
                                          progress=_by_name(bars)),
            "ablate", cells,
        )
    )  # fmt: skip
    return Plan(config, real, folds, clips, tuple(found), tuple(steps), ablation, tuple(corpora))


def _require_frames(
    study: StudySettings, found: Sequence[Maker], real: Sequence[Path], manifests: Sequence[Manifest]
) -> None:
    bare = [path for path, m in zip(real, manifests, strict=True) if any(row.frames is None for row in m)]
    if not bare:
        return
    way = "name flow-prior, which needs no faces, or prepare it without --no-frames"
    if tuned := [maker.given for maker in found if maker.recipe is not None]:
        raise ConfigError(f"generators: {tuned[0]} learns from frames, and {bare[0]} has none; {way}")
    if study.corpora.faces == DATABASE and not all(maker.flow for maker in found):
        raise ConfigError(f"corpora.faces=database shows the faces of {bare[0]}, which has no frames; {way}")


def clips_asked(ablation: AblationConfig, clips: FlowSet, folds: Sequence[Fold], faces: str) -> int:
    """Clips of a generator, all classes together, that the largest ratio or count asks for in any fold."""
    classes = len(clips.classes)
    if ablation.counts:
        each = ablation.counts[-1]
    else:
        shares = [np.bincount(clips.y[fold.train_index], minlength=classes) for fold in folds]
        even = ablation.mix.balance == "class"
        most = max(float(s.sum() / classes if even else s.max()) for s in shares)
        each = math.ceil(ablation.ratios[-1] * most) + 1
    if faces == DATABASE:  # of these a fold may use all but what shows its test subjects
        people = len(np.unique(clips.subjects))
        left = min(1 - len(fold.held_out) / people for fold in folds)
        each = math.ceil(each / max(left, 1 / people)) + 1
    return classes * each


def _steps(
    study: StudySettings,
    manifests: Sequence[Manifest],
    real: Sequence[Path],
    found: Sequence[Maker],
    wanted: int,
    classes: int,
    ablation: AblationConfig,
    out: Path,
) -> tuple[list[Step], list[Path]]:
    c = study.corpora
    if c.faces == DATABASE and len(real) > 1 and not all(maker.flow for maker in found):
        raise ConfigError(f"corpora.faces=database takes the faces of one database, and real names {len(real)}")
    steps: list[Step] = []
    faces: Path | str = out / "faces" if c.faces == RENDERED else real[0] if c.faces == DATABASE else Path(c.faces)
    if not all(maker.flow for maker in found):
        if c.faces == RENDERED:
            steps.append(
                Step(
                    "faces",
                    _words("mesynth render", layout="faces", subjects=c.people, seed=c.seed, out=faces),
                    lambda bars: api.render(faces, layout="faces", subjects=c.people, seed=c.seed, progress=bars),
                    "render", c.people,
                )
            )  # fmt: skip
        elif not Path(faces).exists() and c.faces != DATABASE:
            raise ConfigError(f"corpora.faces={c.faces} is not there; name a folder of pictures, rendered or database")
    whole = needs_frames(ablation)
    like = f"like:{real[0]}" if len(real) == 1 and known_framing(manifests[0]) is not None else None
    corpora: list[Path] = []
    shown: list[Path] = []
    for maker in found:
        parts: list[Path] = []
        for g, model in enumerate(maker.models or [""] * len(maker.groups)):
            group = f"/group-{g}" if maker.groups else ""
            if maker.recipe is not None:
                model = str(out / "generators" / f"{maker.name}{group}")
                steps.append(_tuned(maker, g, study.fine_tuning, real, Path(model), f"generators/{maker.name}{group}"))
            corpus = f"corpora/{maker.name}{group}"
            steps.append(corpus_step(maker, model, c, wanted, ablation, faces, like, c.seed + g, out / corpus, corpus))
            if maker.flow:
                parts.append(out / corpus)
                continue
            shown.append(out / corpus)
            estimated = f"estimated/{maker.name}{group}"
            steps.append(flow_step(out / corpus, out / estimated, estimated, c.size, whole, wanted))
            parts.append(out / estimated)
        corpora += parts  # a generator's groups lie beside each other, which makes them one source of an ablation
    if study.measures.clips and shown:
        with_frames = [
            (path, m) for path, m in zip(real, manifests, strict=True) if all(row.frames is not None for row in m)
        ]
        for path, _ in with_frames:
            name = "measures" if len(real) == 1 else f"measures/{path.resolve().name}"
            steps.append(_measured(path, shown, study.measures, out / name, name))
    return steps, corpora


def needs_frames(ablation: AblationConfig) -> bool:
    from recognizer.config import needs_of

    return set(needs_of(ablation)) != {"flow"}


def _tuned(maker: Maker, g: int, tuning: TuningConfig, real: Sequence[Path], out: Path, name: str) -> Step:
    excluded = sorted(maker.groups[g])
    settings = [_manifests(real), *tuning.settings]
    return Step(
        name,
        _words("mesynth train", maker.given, *settings, exclude_subjects=",".join(excluded), device=tuning.device,
               workers=1, out=out),
        lambda bars: api.train(maker.given, out, settings, exclude_subjects=excluded, device=tuning.device, workers=1,
                               progress=bars),
        "train", maker.recipe.run.images,
    )  # fmt: skip


def _asked(
    maker: Maker, model: str | None, c: CorporaConfig, wanted: int, ablation: AblationConfig, like: str | None
) -> dict[str, Any]:
    """Settings of `mesynth generate`."""
    out: dict[str, Any] = {"emotion": ",".join(ablation.data.classes), "count": wanted, "model": model}
    out |= {"head_motion": c.head_motion, "blink": c.blink, "style": c.style}
    if maker.flow:
        return {"kind": "flow", **out} | ({} if like is None else {"frame": like})
    return out | {"fps": c.fps, "size": c.size, "noise": c.noise, "preview": min(6, wanted)}


def check_settings(config: StudyConfig, real: Sequence[Path]) -> None:
    """Look names up and try settings before anything is made. Raises MesynthError as :func:`makers` does, and
    ConfigError for what no generator can be asked for."""
    c = config.study.corpora
    for maker in makers(config.study, real):
        duration: dict[str, Any] = {} if maker.flow else {"duration": (c.duration[0], c.duration[1])}
        asked = _asked(maker, None, c, max(c.clips, 1), config.ablation, None)
        try:
            api.check_generation(**asked, **duration)
        except MesynthError as error:
            raise type(error)(f"corpora: {error}") from None


def corpus_step(
    maker: Maker, model: str, c: CorporaConfig, wanted: int, ablation: AblationConfig, faces: Path | str,
    like: str | None, seed: int, out: Path, name: str,
) -> Step:  # fmt: skip
    """`mesynth generate`, into ``out``."""
    given = _asked(maker, model, c, wanted, ablation, like)
    if maker.flow:
        return Step(
            name, _words("mesynth generate", **given, seed=seed, workers=1, out=out),
            lambda bars: api.generate(out=out, seed=seed, progress=bars, **given), "generate", wanted,
        )  # fmt: skip
    low, high = c.duration
    return Step(
        name,
        _words("mesynth generate", faces=faces, **given, duration=f"{low:g}:{high:g}", seed=seed, workers=1, out=out),
        lambda bars: api.generate(faces, out=out, duration=(low, high), seed=seed, progress=bars, **given),
        "generate", wanted,
    )  # fmt: skip


def flow_step(corpus: Path, out: Path, name: str, size: int, whole: bool, wanted: int) -> Step:
    """Flow from the synthetic frames, by the estimator that real clips' flow is from."""
    return Step(
        name,
        _words("mesynth prepare corpus", root=corpus, size=size, landmarker="stored", no_frames=not whole, workers=1,
               out=out),
        lambda bars: api.prepare("corpus", corpus, out, size=size, landmarker="stored", keep_frames=whole,
                                 progress=bars("prepare")),
        "prepare", wanted,
    )  # fmt: skip


def _measured(real: Path, corpora: Sequence[Path], config: MeasuresConfig, out: Path, name: str) -> Step:
    words = _words("mesynth measure", real=real, synthetic=list(corpora), clips=config.clips, seed=config.seed, out=out)
    return Step(
        name, words,
        lambda bars: api.measure(real, list(corpora), out, clips=config.clips, seed=config.seed,
                                 command=shlex.join(words), progress=bars("measure")),
        "measure", config.clips * len(corpora),
    )  # fmt: skip


def _by_name(bars: Bars) -> Callable[[str, float, float], None]:
    from mesynth.commandline import by_step

    return by_step(bars)
