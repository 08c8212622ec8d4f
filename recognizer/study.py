"""A study as one command: does synthetic data help on this database? ``recognizer study STUDY.yaml --out DIR``.

From prepared clips to the paper's table: generators are fine-tuned without the people who are tested on, corpora are made
and measured, and an ablation compares. Every part is a command of its own in a folder of its own, so that it can be looked
at, gone on with and typed by hand; what is written about them is :mod:`recognizer.study_report`.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from mesynth.store.run_folder import claim_folder, only_writer, write_last, write_text
from mesynth.store.shards import known_framing
from mesynth.training.data.pack import subject_groups
from mesynth.training.train import CROSS_FIT, read_cross_fit
from recognizer import ablation as ablations
from recognizer.ablation_result import NONE, POOLED, AblationResult, CellRunner, grid
from recognizer.config import AblationConfig, effective, is_closed, load_config
from recognizer.data import FlowSet
from recognizer.models import MODELS
from recognizer.protocol import LEAK_POLICIES, Fold, check_leaks, check_maker, make_folds
from recognizer.sources import as_flow_set, framed

Bars = Callable[[str], Callable[[float, float], None]]
Say = Callable[[str], None]

RESULT, STEPS, RECIPE, PAGE = "study.json", "steps.json", "study.yaml", "report.html"
FLOW_PRIOR = "flow-prior"
RENDERED, DATABASE = "rendered", "database"
RAISE, PICK = LEAK_POLICIES


# ---------------------------------------------------------------- settings


@dataclass(frozen=True, kw_only=True)
class EmbeddedConfig:
    """The rendered database that stands in where ``real`` names none: nobody's data, exact action units."""

    subjects: int = 4
    clips: int = 4
    """Of each subject."""
    size: int = 96
    """Side of the frames and of the crops, pixels."""
    fps: float = 30.0
    seed: int = 0


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
    """motion-prior, landmark-mean, flow-prior, a shipped model, a trained folder, the folder of a cross-fit, or a recipe
    (gan/motion_64_manifest or a YAML file), which is fine-tuned on the real clips."""
    synthetic: tuple[str, ...] = ()
    """Corpora that are there already."""
    embedded: EmbeddedConfig = field(default_factory=EmbeddedConfig)
    fine_tuning: TuningConfig = field(default_factory=TuningConfig)
    corpora: CorporaConfig = field(default_factory=CorporaConfig)
    measures: MeasuresConfig = field(default_factory=MeasuresConfig)

    def __post_init__(self) -> None:
        if not self.generators and not self.synthetic:
            raise ConfigError("generators is empty, and synthetic, too; name one, for example generators=[motion-prior]")
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
    own = {f.name for f in fields(StudySettings)}
    known = {*own, *valid_keys(AblationConfig), *MODELS, _RECOGNIZERS} - {"models"}
    for key in given.values:
        if key not in known and key != "models":
            near = difflib.get_close_matches(key, known, n=3, cutoff=0.5) or sorted(k for k in known if "." not in k)[:8]
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
                f"generators: {given} learns from rendered people; name {given.removesuffix('.yaml')}_manifest, or a recipe "
                "with data.source=manifest"
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
        return replace(maker, groups=held_out_groups(folds, tuning.groups, maker.recipe.run.seed))
    if not maker.groups:
        for fold in folds:
            check_maker(maker.given, maker.seen, fold)
        return maker
    for fold in folds:
        if not any(fold.held_out <= group for group in maker.groups):
            known = [set(find_model(model).facts.subjects_seen) for model in maker.models]
            least = min(known, key=lambda seen: len(seen & fold.held_out))
            check_maker(maker.given, sorted(least), fold)
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
    return tuple(frozenset(part) for part in subject_groups(sorted(s for one in sets for s in one), groups, seed))


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


class State:
    """``steps.json``: which steps are finished, and what they took, resumed ones added up."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            self.steps: dict[str, dict[str, Any]] = json.loads((folder / STEPS).read_text())
        except (OSError, ValueError):
            self.steps = {}

    def finished(self, step: Step) -> bool:
        """Whether it ran to its end, and its folder is still there."""
        return self.steps.get(step.name, {}).get("state") == "finished" and (self._folder / step.name).is_dir()

    @contextmanager
    def timed(self, step: Step) -> Iterator[None]:
        """Run a step within: begun, then finished or interrupted."""
        before, start = self.steps.get(step.name, {}).get("seconds", 0.0), time.perf_counter()

        def note(state: str) -> None:
            seconds = round(before + time.perf_counter() - start, 2)
            self.steps[step.name] = {"state": state, "seconds": seconds, "command": step.text}
            write_text(self._folder / STEPS, json.dumps(self.steps, indent=1) + "\n")

        note("begun")
        try:
            yield
        except BaseException:
            note("interrupted")
            raise
        note("finished")


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
            _words("recognizer ablate", str(out / "ablation.yaml"), real=list(real), synthetic=corpora,
                   out=out / "ablation"),
            lambda bars: ablations.ablate(list(real), list(corpora), ablation, out=out / "ablation",
                                          progress=_by_name(bars)),
            "ablate", cells,
        )
    )  # fmt: skip
    return Plan(config, real, folds, clips, tuple(found), tuple(steps), ablation, tuple(corpora))


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
    whole = _needs_frames(ablation)
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
            steps.append(_made(maker, model, c, wanted, ablation, faces, like, c.seed + g, out / corpus, corpus))
            if maker.flow:
                parts.append(out / corpus)
                continue
            shown.append(out / corpus)
            estimated = f"estimated/{maker.name}{group}"
            steps.append(_estimated(out / corpus, out / estimated, estimated, c.size, whole, wanted))
            parts.append(out / estimated)
        corpora += parts  # a generator's groups lie beside each other, which makes them one source of an ablation
    if study.measures.clips and shown:
        with_frames = [
            (path, m) for path, m in zip(real, manifests, strict=True) if all(row.frames is not None for row in m[:1])
        ]
        for path, _ in with_frames:
            name = "measures" if len(real) == 1 else f"measures/{path.resolve().name}"
            steps.append(_measured(path, shown, study.measures, out / name, name))
    return steps, corpora


def _needs_frames(ablation: AblationConfig) -> bool:
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


def _made(
    maker: Maker, model: str, c: CorporaConfig, wanted: int, ablation: AblationConfig, faces: Path | str,
    like: str | None, seed: int, out: Path, name: str,
) -> Step:  # fmt: skip
    emotion = ",".join(ablation.data.classes)
    drawn = {"head_motion": c.head_motion, "blink": c.blink, "style": c.style}
    if maker.flow:
        options = {"kind": "flow", "emotion": emotion, "count": wanted, "model": model, "frame": like, **drawn}
        given = {key: value for key, value in options.items() if value is not None}
        return Step(
            name, _words("mesynth generate", **given, seed=seed, workers=1, out=out),
            lambda bars: api.generate(out=out, seed=seed, progress=bars, **given), "generate", wanted,
        )  # fmt: skip
    low, high = c.duration
    given = {"emotion": emotion, "count": wanted, "model": model, "fps": c.fps, "size": c.size, "noise": c.noise,
             **drawn, "preview": min(6, wanted)}  # fmt: skip
    return Step(
        name,
        _words("mesynth generate", faces=faces, **given, duration=f"{low:g}:{high:g}", seed=seed, workers=1, out=out),
        lambda bars: api.generate(faces, out=out, duration=(low, high), seed=seed, progress=bars, **given),
        "generate", wanted,
    )  # fmt: skip


def _estimated(corpus: Path, out: Path, name: str, size: int, whole: bool, wanted: int) -> Step:
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


# ---------------------------------------------------------------- running


@dataclass(frozen=True)
class StudyResult:
    """A finished study."""

    folder: Path
    answer: str
    """The page's first sentence."""
    ablation: AblationResult

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"out": str(self.folder), "page": str(self.folder / PAGE), "answer": self.answer} | {
            "comparisons": self.ablation.comparisons, "subjects": self.ablation.n_subjects,
            "clips": self.ablation.n_clips,
        }  # fmt: skip


def study(
    config: StudyConfig | Path | str | None = None,
    out: Path | str = "study",
    *,
    progress: Bars | None = None,
    say: Say | None = None,
) -> StudyResult:
    """Does synthetic data help on this database? From prepared clips to ``out/report.html``, tables and figures.

    The same call goes on where it was stopped; finished steps are not made again.

    Args:
        config: a study's settings, YAML file or name; None: ``study/quick``, on an embedded database.
        progress: gives a callback for each named part of a step.
        say: is told which step begins.

    Raises:
        ConfigError, ManifestError: what is wrong with the settings or the clips, before anything is made.
        LeakError: a generator or a corpus saw a subject whom a fold holds out.
        RunFolderError: ``out`` holds something else.
    """
    from recognizer import study_report

    out = Path(out)
    if not isinstance(config, StudyConfig):
        config = load_study("study/quick" if config is None else config)
    bars: Bars = progress or (lambda name: lambda done, total: None)
    tell = say or (lambda text: None)
    first, real = database_steps(config, out)
    makers(config.study, real)  # names are looked up before anything is made
    hashes = [] if first else [Manifest.read(path).hash() for path in real]
    made = [Manifest.read(path).hash() for path in config.study.synthetic]
    claim_folder(out, {"verb": "study", "config": config.plain(), "real": hashes, "synthetic": made})
    with only_writer(out):
        if (out / RESULT).is_file():
            return _finished(out)
        state = State(out)
        for number, step in enumerate(first, 1):
            _run(step, state, bars, tell, f"database {number}/{len(first)}")
        ahead = plan(config, out)
        write_text(out / RECIPE, study_report.yaml_text(config.plain()))
        write_text(out / "ablation.yaml", study_report.yaml_text(effective(ahead.ablation, synthetic=True)))
        for number, step in enumerate(ahead.steps, 1):
            _run(step, state, bars, tell, f"{number}/{len(ahead.steps)}")
        result = ablations.ablate(list(ahead.real), list(ahead.corpora), ahead.ablation, out=out / "ablation")
        answer = study_report.write(out, ahead, result, {**state.steps})
        facts = {"answer": answer, "steps": state.steps, "comparisons": result.comparisons}
        write_last(out / RESULT, (json.dumps(facts, indent=1) + "\n").encode())
    return StudyResult(out, answer, result)


def _finished(out: Path) -> StudyResult:
    from recognizer.ablation_result import read_result

    return StudyResult(out, json.loads((out / RESULT).read_text())["answer"], read_result(out / "ablation"))


def _run(step: Step, state: State, bars: Bars, tell: Say, where: str) -> None:
    if state.finished(step):
        return
    tell(f"[{where}] {step.text}")
    with state.timed(step):
        step.run(lambda part: bars(f"[{where}] {step.name}: {part}" if part != step.name else f"[{where}] {part}"))


# ---------------------------------------------------------------- before it is run


@dataclass(frozen=True)
class Expected:
    """What a step will take on this machine; None where nothing was measured."""

    step: Step
    done: bool
    seconds: float | None
    bytes: int | None
    how: str


def forecast(config: StudyConfig, out: Path, *, say: Say | None = None) -> list[Expected]:
    """Every step with an estimate from small probes of its own kind on this machine; nothing is left behind.

    Training: a few updates of the recipe. Corpora: six clips of the generator (of a recipe: of the shipped model of its
    family, or else of the motion prior), and their flow. Ablation: one fold's cell of each recognizer. Measures are
    not probed: their networks take longer to load than to run on few clips.

    Raises: as :func:`study` does before it makes anything.
    """
    tell = say or (lambda text: None)
    state = State(out)
    first, real = database_steps(config, out)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        taken: dict[str, tuple[float, int]] = {}
        read = None
        if first and not all(state.finished(step) for step in first):
            tell("the embedded database is made in a temporary folder, to read it")
            trial, _ = database_steps(config, scratch)
            for step in trial:
                taken[step.name] = _probe(lambda step=step: step.run(_quiet), scratch / step.name)
            read = (scratch / "prepared",)
        ahead = plan(config, out, read)
        prober = _Prober(ahead, read or real, scratch, tell)
        expected = [Expected(s, state.finished(s), *taken.get(s.name, (None, None)), "made once") for s in first]
        return [*expected, *(prober.expected(step, state.finished(step)) for step in ahead.steps)]


def _quiet(_: str) -> Callable[[float, float], None]:
    return lambda done, total: None


def _probe(run: Callable[[], object], out: Path) -> tuple[float, int]:
    start = time.perf_counter()
    run()
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file()) if out.exists() else 0
    return time.perf_counter() - start, size


_PROBED = 6


class _Prober:
    """Seconds and bytes of a unit of each kind of step, measured once."""

    def __init__(self, ahead: Plan, real: Sequence[Path], scratch: Path, tell: Say) -> None:
        self.ahead, self.real, self.scratch, self.tell = ahead, tuple(real), scratch, tell
        self._known: dict[str, Any] = {}

    def expected(self, step: Step, done: bool) -> Expected:
        """An estimate of ``step``."""
        if done:
            return Expected(step, True, 0.0, 0, "finished")
        kind = step.kind
        if kind == "train":
            return self._training(step)
        if kind == "ablate":
            return Expected(step, False, self._cells(step.amount), None, "a baseline cell of each recognizer")
        if kind in ("generate", "prepare"):
            seconds, size = self._clip(step)
            return Expected(step, False, seconds * step.amount, round(size * step.amount), f"{_PROBED} clips")
        if kind == "render":
            seconds, size = self._once("face", lambda: self._face())
            return Expected(step, False, seconds * step.amount, round(size * step.amount), "one face")
        return Expected(step, False, None, None, "")

    def _once(self, key: str, measure: Callable[[], Any]) -> Any:
        if key not in self._known:
            self._known[key] = measure()
        return self._known[key]

    def _face(self) -> tuple[float, int]:
        folder = self.scratch / "face"
        seed = self.ahead.config.study.corpora.seed
        return _probe(lambda: api.render(folder, layout="faces", subjects=1, seed=seed), folder)

    def _training(self, step: Step) -> Expected:
        from mesynth.training import forecast as training

        maker = next(m for m in self.ahead.makers if step.name.startswith(f"generators/{m.name}/"))

        def measure() -> tuple[float, int]:
            self.tell(f"measuring {maker.given}: a few updates")
            speed = training.measure(maker.recipe, self.ahead.config.study.fine_tuning.device, updates=4, warmup=1)
            if speed.error:
                raise MesynthError(f"generators: {maker.given} does not train here: {speed.error}")
            return 1 / speed.images_per_s, training.forecast(maker.recipe).checkpoints

        seconds, size = self._once(step.name.partition("/group-")[0], measure)
        return Expected(step, False, seconds * step.amount, size, "four updates on noise; preparing pairs not counted")

    def _clip(self, step: Step) -> tuple[float, float]:
        name = step.name.split("/")[1]
        maker = next(m for m in self.ahead.makers if m.name == name)
        made, estimated = self._once(f"clips of {name}", lambda: self._few(maker))
        return made if step.kind == "generate" else estimated

    def _few(self, maker: Maker) -> tuple[tuple[float, float], tuple[float, float]]:
        c = self.ahead.config.study.corpora
        model = maker.models[0] if maker.models else _stand_in(maker.recipe.task, maker.flow)
        self.tell(f"measuring {maker.given}: a few clips")
        corpus, flow = self.scratch / f"made-{maker.name}", self.scratch / f"flow-{maker.name}"
        faces: Path | str = self.scratch / "face" if c.faces == RENDERED else self.real[0] if c.faces == DATABASE else c.faces
        if c.faces == RENDERED and not maker.flow:
            self._once("face", self._face)
        ablation = self.ahead.ablation
        took: list[tuple[float, int]] = []
        for n in (2, _PROBED):  # the first loads and compiles what the others find
            folders = corpus / str(n), flow / str(n)
            steps = [_made(maker, model, c, n, ablation, faces, None, c.seed, folders[0], "")]
            if not maker.flow:
                steps.append(_estimated(folders[0], folders[1], "", c.size, _needs_frames(ablation), n))
            took = [_probe(lambda step=step: step.run(_quiet), out) for step, out in zip(steps, folders, strict=False)]
        made, estimated = (took + [(0.0, 0)])[:2]
        return (made[0] / _PROBED, made[1] / _PROBED), (estimated[0] / _PROBED, estimated[1] / _PROBED)

    def _cells(self, count: int) -> float:
        """Baselines alone, of which there are as many a recognizer as of all else; networks by two short trainings."""
        ahead = self.ahead
        total = 0.0
        one = ahead.clips.take(np.zeros(1, np.int64))  # stands where synthetic clips would; a baseline adds none
        made = {POOLED: replace(one, clip_ids=np.array(["probe"]))}
        for model in ahead.ablation.models:
            self.tell(f"measuring recognizer {model}: one cell")
            alone = replace(ahead.ablation, models=(model,), seeds=ahead.ablation.seeds[:1], train_subjects=(0,))
            short = [alone] if is_closed(alone, model) else [_steps_of(alone, 2), _steps_of(alone, 6)]
            took = []
            for config in short:
                cell = next(c for c in grid(config, [POOLED]) if c.condition.arm == NONE)
                runner = CellRunner(config, ahead.clips, made, ahead.folds)
                start = time.perf_counter()
                runner.run([cell])
                took.append(time.perf_counter() - start)
            if len(took) == 2:
                total += took[0] + (took[1] - took[0]) / 4 * max(alone.train.steps - 2, 0)
            else:
                total += took[0]
        return total * count / len(ahead.ablation.models)


def _steps_of(config: AblationConfig, steps: int) -> AblationConfig:
    return replace(config, train=replace(config.train, steps=steps))


def _stand_in(task: str, flow: bool) -> str:
    from mesynth.store.generator_folder import shipped_models

    return task if task in shipped_models() else FLOW_PRIOR if flow else "motion-prior"
