"""The library in one call a job: what the verbs of the command line do, for Python.

Each function takes folders or what lies in them, writes into a new folder where it makes files, resumes when it is
called again with the same arguments, and gives back what it made. The rooms below hold the work; here are names, paths
and defaults, shared with the command line. Everything is imported when it is called.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from mesynth.core.devices import find_device
from mesynth.core.errors import ConfigError
from mesynth.store.remote import delivers

if TYPE_CHECKING:
    from mesynth.benchmark.result import Result
    from mesynth.corpus.filters import Rejection
    from mesynth.corpus.generation import Generation
    from mesynth.corpus.plan import StoredPlan
    from mesynth.generators.base import Generator
    from mesynth.metrics.base import MeasureRow
    from mesynth.metrics.fid import Fid
    from mesynth.metrics.report import Comparison
    from mesynth.store.manifest import Manifest
    from mesynth.store.stage import Cost
    from mesynth.training.config import Recipe
    from mesynth.training.train import Trained

Progress = Callable[[int, int], None]
"""Told (done, total) as a job goes on."""
Bars = Callable[[str], Progress]
"""Gives a :data:`Progress` for each named part of a job."""


# ---------------------------------------------------------------- faces and databases


@delivers
def render(
    out: Path | str,
    *,
    subjects: int = 12,
    layout: str = "casme2",
    clips: int = 8,
    size: int = 192,
    fps: float = 60.0,
    seed: int = 0,
    seconds: tuple[float, float] = (10.0, 60.0),
    macro: bool = False,
    workers: int = 1,
    progress: Bars | None = None,
) -> Manifest | Path:
    """Render people of the 3D FACS head into ``out``: a database without a licence, with exact action units.

    Args:
        subjects: number of identities.
        layout: "casme2": clips in the layout of the CASME II release, whose manifest is returned; "faces": one neutral
            picture a subject, and the folder is returned; "long": long videos with blinks, head motion, macro- and
            micro-expressions, and the tables of what is in them, whose manifest is returned.
        clips: of a subject (casme2), or its videos (long).
        size: side of the frames, pixels.
        fps: frames per second (casme2, long).
        seconds: shortest and longest video (long).
        seed: same seed, same bytes.
        macro: macro-expressions, long and strong, instead of micro-expressions (casme2); the same seed has the same
            people.
        workers: processes, 0 for one per core; the bytes do not depend on it.

    Raises:
        MesynthError: an argument out of range.
        RunFolderError: ``out`` holds something else.

    >>> render("nowhere", subjects=0)
    Traceback (most recent call last):
    mesynth.core.errors.MesynthError: subjects=0 is outside 1..10000
    """
    from mesynth.datasets.rendered import Rendering, render_casme2, render_faces

    bar = progress or _no_bars
    if layout != "casme2" and macro:
        raise ConfigError(f"macro=True is about clips, and layout={layout} has none; choose layout=casme2")
    if layout == "faces":
        return render_faces(out, subjects=subjects, size=size, seed=seed, progress=bar("faces"))
    if layout == "long":
        from mesynth.datasets.rendered import LongRendering, render_long

        videos = LongRendering(
            subjects=subjects, videos_per_subject=clips, seconds=seconds, size=size, fps=fps, seed=seed
        )
        return render_long(out, videos, workers=workers, progress=bar("expressions"))
    if layout != "casme2":
        raise ConfigError(f"layout '{layout}' is unknown; choose casme2, faces or long")
    wanted = Rendering(subjects=subjects, clips_per_subject=clips, size=size, fps=fps, seed=seed, macro=macro)
    return render_casme2(out, wanted, workers=workers, progress=bar("clips"))


@delivers
def prepare(
    database: str,
    root: Path | str,
    out: Path | str,
    *,
    part: str = "",
    frames: str = "",
    subjects: int | str | Collection[str] = (),
    clips: str | Collection[str] = (),
    limit: int | None = None,
    annotation: Path | str | None = None,
    skip_bad: bool = False,
    landmarker: str = "auto",
    download: bool = False,
    device: str = "cpu",
    workers: int = 1,
    cache: bool = True,
    progress: Progress | None = None,
    **steps: Any,
) -> Manifest:
    """Read a database, align and crop its clips, estimate onset -> apex flow, and write all that into ``out``.

    Args:
        database: a release by name ("casme2", "samm", ...), "generic", "flow_folders" (published flow images), "corpus"
            (any folder with a manifest) or "export" (what :func:`mesynth.export` wrote, back as it was).
        root: the release's folder.
        part: subset of the release; "" for its first.
        frames: which rendering of the frames; flow_folders: the order of their channels.
        subjects: these people alone, ``["sub01", "casme2/sub02"]``, or the first so many; none: all.
        clips: these clips alone, ``["sub01/EP02_01f"]``; none: all.
        limit: the first so many of them.
        annotation: the annotation file, if it has another name than the release's or lies elsewhere.
        skip_bad: leave out clips that cannot be used, instead of raising on the first.
        landmarker: "face-alignment", "mediapipe", a file of points, "stored" or "auto".
        download: let face-alignment fetch its weights first, and use it.
        cache: keep found landmarks in the user's cache folder.
        steps: of :class:`mesynth.preprocess.config.PrepareConfig`: ``size=128`` (pixels), ``apex="flow"`` ...
            ``frame="eyes=0.57,row=0.25"`` or ``"like:PREPARED"`` says where faces lie in the crops; for flow_folders,
            whose crops are made, where they lie there, instead of an estimate from the flow.

    Returns:
        Crops [T,H,W,3] uint8 RGB, flow [2,H,W] float32 pixels, landmarks [68,2] float32 pixels, by clip.

    Raises:
        DatasetLayoutError: an unknown database, or a folder that is not laid out like the release (the right one is
            named if it is near).
        ConfigError: a step out of range, or without effect on what is read; a subject or clip that is not there.
        MesynthError: see :func:`mesynth.preprocess.prepare.prepare`.

    A corpus of flow images goes out in a published form, and comes back:

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> made = generate(kind="flow", emotion="surprise", count=4, out=folder / "flow")
    >>> from mesynth.corpus.exports.run import export
    >>> export(made, "flow-npy", folder / "npy").clips
    4
    >>> len(prepare("export", folder / "npy", folder / "again"))
    4
    """
    from mesynth.datasets.registry import EXPORT

    root, out, device = Path(root), Path(out), find_device(device)
    if database in (EXPORT, FLOW_FOLDERS):
        chosen = {"subjects": subjects, "clips": clips, "limit": limit, "annotation": annotation}
        frame = steps.pop("frame", "") if database == FLOW_FOLDERS else ""
        if idle := next(iter([*steps, *(name for name, value in chosen.items() if value)]), ""):
            raise ConfigError(f"{idle} has no effect on {database}, whose clips are prepared already; leave it out")
        if database == EXPORT:
            from mesynth.corpus.exports.run import import_export

            return import_export(root, out, workers=workers, progress=progress)
        from mesynth.datasets.flow_folders import import_flow_folders

        return import_flow_folders(
            root, out, channels=frames, database=part, framing=_framing_of_images(str(frame)), workers=workers,
            progress=progress,
        )  # fmt: skip
    from mesynth.preprocess.config import PrepareConfig
    from mesynth.preprocess.landmarks import default_folder
    from mesynth.preprocess.prepare import prepare as run

    if unknown := set(steps) - {f.name for f in fields(PrepareConfig)}:
        raise ConfigError(f"step '{min(unknown)}' is unknown; choose from {', '.join(_names(PrepareConfig))}")
    config = PrepareConfig(**steps | _crop_frame(str(steps.get("frame") or "")))
    manifest, skipped = load_database(
        database, root, part=part, frames=frames, subjects=subjects, clips=clips, limit=limit, annotation=annotation,
        skip_bad=skip_bad,
    )  # fmt: skip
    return run(
        manifest, out, config, landmarker=fetch_landmarker(landmarker, download), device=device, workers=workers,
        cache=default_folder() if cache else None, skip_bad=skip_bad, skipped=skipped, progress=progress,
    )  # fmt: skip


def prepare_cost(
    manifest: Manifest, *, landmarker: str = "auto", device: str = "cpu", skip_bad: bool = False, **steps: Any
) -> Cost:
    """What preparing takes on this machine, measured on the first clips of a database (:func:`load_database`), which
    are prepared into a temporary folder. Raises what :func:`prepare` does."""
    from tempfile import TemporaryDirectory
    from time import perf_counter

    from mesynth.preprocess.config import PrepareConfig
    from mesynth.preprocess.prepare import prepare as run
    from mesynth.store.cluster import alone
    from mesynth.store.stage import Cost

    config = PrepareConfig(**steps | _crop_frame(str(steps.get("frame") or "")))
    n = min(len(manifest), 4)
    seconds, stored = [], 0
    for clips in (1, n):
        with TemporaryDirectory(prefix="mesynth-cost-") as folder, alone():
            started = perf_counter()
            run(manifest[:clips], folder, config, landmarker=landmarker, device=device, skip_bad=skip_bad)
            seconds.append(perf_counter() - started)
            stored = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    each = (seconds[1] - seconds[0]) / (n - 1) if n > 1 and seconds[1] > seconds[0] else seconds[1] / n
    return Cost(n, each, stored / n, max(seconds[0] - each, 0.0))


def _crop_frame(frame: str) -> dict[str, str]:
    """The step ``frame`` of crops, ``like:PREPARED`` looked up."""
    from mesynth.core.framing import LIKE

    if not frame.startswith(LIKE):
        return {}
    from mesynth.motion.framing import stated_framing

    return {"frame": stated_framing(frame).framing.text()}


def _framing_of_images(frame: str) -> Any:
    """What :func:`mesynth.datasets.flow_folders.import_flow_folders` takes: stated, else to be found."""
    from mesynth.motion.framing import find_framings, stated_framing

    if frame:
        return stated_framing(frame)

    def found(flows: list[Any], databases: list[str]) -> Any:
        try:
            return find_framings(flows, databases)
        except ConfigError:  # too few that move: not known, which is said
            return None

    return found


FLOW_FOLDERS = "flow_folders"
"""The database name of published flow images."""


class Chosen(TypedDict, total=False):
    """What of a database is taken; see :func:`prepare`."""

    part: str
    frames: str
    subjects: int | str | Collection[str]
    clips: str | Collection[str]
    limit: int | None
    annotation: Path | str | None
    skip_bad: bool


def load_database(database: str, root: Path, **chosen: Unpack[Chosen]) -> tuple[Manifest, list[Any]]:
    """The clips of a release or of a corpus as they lie in ``root``, and those that cannot be used, with their reason.

    Of clips that are not ``chosen`` nothing is looked at, and nothing said.

    Raises:
        DatasetLayoutError: an unknown database, or a folder that is not laid out like the release.

    >>> load_database("casme9", Path("nowhere"))
    Traceback (most recent call last):
    mesynth.core.errors.DatasetLayoutError: database 'casme9' is unknown; choose from ...
    """
    from mesynth.datasets.load import Selection
    from mesynth.datasets.registry import CORPUS, load_release_of
    from mesynth.store.manifest import Manifest

    select = Selection.parse(chosen.get("subjects"), chosen.get("clips"), chosen.get("limit"))
    annotation = chosen.get("annotation")
    if database == CORPUS:
        if annotation:
            raise ConfigError(f"a corpus has no annotation file; leave out annotation {annotation}")
        return select.rows(Manifest.read(root)), []
    from mesynth.corpus.exports.run import is_export, restored
    from mesynth.datasets.load import usable
    from mesynth.store.stage import Skipped

    part, frames = chosen.get("part", ""), chosen.get("frames", "")
    loaded = load_release_of(database, root, part=part, frames=frames, annotation=annotation, select=select)
    manifest = usable(loaded, skip_bad=chosen.get("skip_bad", False))
    if is_export(root):  # made by `mesynth export`: its people, and whom its makers saw, are in the folder
        manifest = restored(manifest, root)
    left_out = [*((problem.clip, problem.reason) for problem in loaded.problems), *loaded.release.changed]
    return manifest, [Skipped(clip, reason) for clip, reason in left_out]


def fetch_landmarker(landmarker: str, download: bool) -> str:
    """The landmarker to use; with ``download``, face-alignment, whose weights are on this machine afterwards.

    Raises:
        WeightsUnavailable: they cannot be fetched.

    >>> fetch_landmarker("auto", download=False)
    'auto'
    """
    if not download:
        return landmarker
    from mesynth.preprocess.landmarks import choose_landmarker

    choose_landmarker("face-alignment", download=True).close()
    return "face-alignment"


def load_corpus(folder: Path | str) -> Manifest:
    """The manifest of a folder that :func:`prepare`, :func:`render` or :func:`generate` wrote.

    ``hf://datasets/ORG/NAME`` (``@REVISION``) is a folder that :func:`mesynth.push_to_hub` published: it is fetched
    into the Hugging Face cache and held against its digest list. An export of the form ``huggingface`` is read back
    into a corpus in the user's cache.

    A manifest is a table of clips, one a row: ``len(corpus)``, ``for row in corpus``, ``corpus.column("label")`` [N],
    ``corpus.filter(mask)``. Frames and flow stay in their files until they are read.

    Raises:
        ManifestError: no manifest there, or a damaged one.
        HubError: the hub has it not, or does not answer.

    >>> load_corpus("nowhere")
    Traceback (most recent call last):
    mesynth.store.manifest.NoManifest: no manifest.parquet in nowhere; ...
    """
    from mesynth.store.hub import is_hub, local_folder
    from mesynth.store.manifest import Manifest

    place = local_folder(folder)
    if is_hub(folder):
        from mesynth.corpus.exports.run import import_export, is_export
        from mesynth.preprocess.landmarks import default_folder

        if is_export(place) and not (place / "manifest.parquet").is_file():
            return import_export(place, default_folder() / "hub" / place.parent.parent.name / place.name)
    return Manifest.read(place)


# ---------------------------------------------------------------- generators


def load_generator(name: str) -> Generator:
    """A generator: "motion-prior", a shipped one ("motion_gan"), a folder that :func:`train` wrote, ``hf://ORG/NAME``.

    Options of the family stand after ``@``: ``"runs/d@steps=8"``. ``generator.generate(face, aus, profile, n_frames=65,
    fps=200)`` gives a :class:`mesynth.Sample` (frames [T,H,W,3] uint8 RGB, flow [2,H,W] float32 pixels) and warnings;
    ``generator.facts.subjects_seen`` says whom it learned from. ``generator.to("cuda")`` moves its networks; what
    :meth:`~mesynth.generators.base.Generator.push_to_hub` published, ``hf://ORG/NAME`` (``@REVISION``), is fetched into
    the Hugging Face cache and held against its digest list.

    Raises:
        MesynthError: an unknown name.
        ConfigError: an option that the family does not have.
        PipelineError: a damaged folder.

    >>> load_generator("motion-prior").facts.subjects_seen
    ()
    >>> load_generator("motion_gun")
    Traceback (most recent call last):
    mesynth.core.errors.MesynthError: model 'motion_gun' is unknown; choose from motion-prior, ...
    """
    from mesynth.generators.registry import find_model

    return find_model(str(name)).load()


def train(
    recipe: str | Path | Recipe,
    out: Path | str,
    overrides: Sequence[str] = (),
    *,
    exclude_subjects: Collection[str] = (),
    device: str = "auto",
    cache: Path | None = None,
    workers: int = 0,
    trackers: Sequence[Any] = (),
    progress: Bars | None = None,
) -> Trained:
    """Train a generator into ``out``; the generator is ``out/generator``, for :func:`load_generator`.

    Args:
        recipe: a name of :func:`mesynth.config.list_recipes` ("gan/motion_64"), a YAML file, or a recipe.
        overrides: settings of the recipe, ``["run.images=1000"]``.
        exclude_subjects: ``database/subject`` names that neither train nor validate.
        device: auto, cpu, cuda or mps.
        cache: where prepared pairs lie; None: in the user's cache folder.
        workers: processes that prepare pairs the first time, 0 for one per core.
        trackers: names ("tensorboard", ...) or accelerate's objects.

    Raises:
        ConfigError: no such recipe, an unknown key, a value out of range.
        LeakError: a generator that it begins with has seen an excluded subject.
        RunFolderError, Interrupted, TrainingFailed: see :func:`mesynth.training.train.train`.

    >>> train("gan/motion_tiny", "run", ["run.imagez=1"])
    Traceback (most recent call last):
    mesynth.core.errors.ConfigError: unknown key 'run.imagez'; nearest: run.images...
    """
    from mesynth.training.config import Recipe
    from mesynth.training.train import Machine
    from mesynth.training.train import train as run

    read = recipe if isinstance(recipe, Recipe) else load_training_recipe(recipe, overrides)
    if isinstance(recipe, Recipe) and overrides:
        raise ConfigError(f"settings {' '.join(overrides)} go with a recipe's name or file, not with a read recipe")
    machine = Machine(device=device, cache=cache, workers=workers, trackers=tuple(trackers))
    return run(read, Path(out), exclude_subjects=exclude_subjects, machine=machine, progress=progress)


def load_training_recipe(recipe: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of that name or file, with ``key=value`` settings. Raises ConfigError as :func:`train` does.

    >>> load_training_recipe("gan/motion_tiny", ["run.seed=7"]).run.seed
    7
    """
    from mesynth.config import find_recipe
    from mesynth.training.config import load_recipe

    return load_recipe(find_recipe(recipe), overrides)


def compare(
    models: str | Sequence[str],
    out: Path | str,
    *,
    subjects: int = 8,
    size: int = 128,
    aus: Sequence[int] = (),
    levels: Sequence[float] = (),
    head: Path | str | None = None,
    yaw: float = 0.0,
    pitch: float = 0.0,
    samples: int = 4,
    device: str = "cpu",
    seed: int = 0,
    progress: Progress | None = None,
) -> Result:
    """Set generators side by side on rendered people that none learned from; writes compare.json, compare.csv,
    sheet.png into ``out``.

    Args:
        models: names as :func:`load_generator` takes them, a list or separated by commas; none: all that ship.
        subjects: rendered people; 95 % intervals come from resampling them.
        size: side of the crops, pixels.
        aus: target FACS codes; none: all (that the head has).
        levels: target intensities in (0, 1], ascending; none: those of the FACS letters.
        head: an npz of another blendshape head (docs/compare.md), whose people are compared on; none: the packaged one.
        yaw: degrees that every head is turned to image right.
        pitch: degrees that every head is turned down.
        samples: seeds whose flows are compared with each other and with the truth.
        device: where generators and the networks that measure run: cpu, cuda, mps or auto.

    Raises:
        ConfigError: an argument out of range.
        LeakError: a generator learned from the people compared on.
        MesynthError: an unknown model. RunFolderError: ``out`` holds something else.

    >>> compare("motion-prior", "nowhere", subjects=1)
    Traceback (most recent call last):
    mesynth.core.errors.ConfigError: people=1 leaves no other people to compare with; choose at least 2
    """
    from mesynth.benchmark.answers import Instruments
    from mesynth.benchmark.protocol import BenchmarkConfig, default_models, load_candidates
    from mesynth.benchmark.run import compare as run
    from mesynth.generators.registry import split_models
    from mesynth.head.foreign import ForeignHead

    where = find_device(device)
    other = None if head is None else ForeignHead.read(head)
    settings = {"codes": tuple(aus) or (other.available if other else ()), "levels": tuple(levels)}
    given = {name: value for name, value in settings.items() if value}
    turned = {"yaw": yaw, "pitch": pitch, "head": other.hash if other else ""}
    config = BenchmarkConfig(people=subjects, size=size, samples=samples, seed=seed, **turned, **given)  # type: ignore[arg-type]
    names = split_models(models) if isinstance(models, str) else list(models)
    candidates = load_candidates(names or default_models(), where)
    tools = None if where == "cpu" else Instruments.load(where)
    return run(candidates, config, Path(out), head=other, instruments=tools, progress=progress)


# ---------------------------------------------------------------- corpora


def plan(
    design: str | Path,
    out: Path | str,
    *,
    faces: Path | str | None = None,
    subjects: int = 0,
    aus_from: Path | str | None = None,
    exclude_subjects: Collection[str] = (),
    overrides: Sequence[str] = (),
    face_limits: str = "",
) -> StoredPlan:
    """Plan a corpus: one row a clip, written into ``out`` before anything is made; for ``generate(plan=out)``.

    Args:
        design: a name ("corpus/three_classes") or a YAML file.
        faces: a picture, a folder of pictures, or a prepared manifest (each subject's onset).
        subjects: instead of faces, for flow images: this many people without pictures.
        aus_from: prepared manifest whose coded AUs the design's sources read.
        exclude_subjects: ``database/subject``; neither their faces nor their labels take part.
        overrides: settings of the design, ``["rows.count=500"]``.
        face_limits: what a picture's face has to keep, ``"yaw=40,expression=off"``; ``out/skipped.csv`` lists the
            pictures that were left out.

    Raises:
        ConfigError: no such design, an unknown key, neither faces nor subjects.
        NoFaceError, UnreadableImageError: no picture can be used (all reasons are named).
        LeakError: nothing is left without the excluded subjects.

    >>> import tempfile
    >>> len(plan("corpus/three_classes", tempfile.mkdtemp() + "/plan", subjects=2, overrides=["rows.count=6"]))
    6
    """
    from mesynth.config import find_recipe
    from mesynth.corpus.design import load_design
    from mesynth.corpus.faces import examine_to_plan
    from mesynth.corpus.planning import draft_plan

    return draft_plan(
        load_design(find_recipe(design), overrides),
        faces=None if faces is None else Path(faces),
        people=subjects,
        aus_from=None if aus_from is None else Path(aus_from),
        exclude=exclude_subjects,
        examination=None if faces is None or subjects else examine_to_plan(Path(faces), face_limits),
    ).write(Path(out))


@delivers
def generate(
    faces: Path | str | None = None,
    *,
    out: Path | str,
    aus: str | Sequence[str] = (),
    emotion: str | Sequence[str] = (),
    plan: Path | str | None = None,
    model: str | Path | None = None,
    count: int | None = None,
    duration: float | tuple[float, float] = 0.32,
    seed: int = 0,
    workers: int = 1,
    progress: Bars | None = None,
    **settings: Any,
) -> Manifest:
    """Generate micro-expressions into ``out``: frames, exact onset -> apex flow, action units, provenance.

    Args:
        faces: a picture, a folder of pictures, or a prepared manifest (each subject's onset).
        aus: a request such as "12=B,L4=0.2" (FACS letter or a number in [0,1], sides L and R), or several, in turn;
            "12=-0.2" lowers what the face shows already (AU 12, 25, 26, 27, 43, 45).
        emotion: instead of aus: emotions or classes; AUs are drawn per clip from published tables.
        plan: instead of both: a folder that :func:`plan` wrote.
        model: see :func:`load_generator`; None: "motion-prior", and with ``kind="flow"`` "flow-prior".
        count: clips; None: one for each of aus or emotion.
        duration: seconds in [1/25, 1/2], or a range to draw from.
        seed: same seed, same bytes, whatever ``workers`` (processes, 0 for one per core).
        settings: ``kind`` ("clips", or "flow" for flow images alone), ``au_source`` ("published", "expert"),
            ``profile`` ("casme2"), ``fps`` (200), ``size`` (pixels: 128; flow 28), ``noise`` (grey levels),
            ``head_motion``, ``blink``, ``style`` (1 is usual), ``subjects`` and ``nuisance`` (flow), ``frames`` (how
            they are stored: "png", or "video", lossless H.264), ``preview`` (clips that also lie loose), ``video``
            ("mp4", "webm", "gif", "apng"), ``frame`` ("full": whole pictures of at most 1024 pixels a side; flow: where
            faces lie), ``landmarker``, ``device`` ("cpu", "cuda", "mps", "auto": where networks run and frames are
            made), ``precision`` ("fp32", "bf16"), ``face`` ("largest", "all" or a number from 1 at image left) and
            ``face_limits`` ("yaw=40,expression=off"; ``out/faces/skipped.csv`` lists the pictures that were left out),
            and ``until_accepted`` with ``keep`` and ``attempts``: clips that fail a check are drawn again.

    Returns:
        One row a clip: frames [T,H,W,3] uint8 RGB, flow [2,H,W] float32 pixels. With ``until_accepted`` rows that were
        never accepted are missing; ``out/skipped.csv`` lists them.

    Raises:
        ConfigError: an argument out of range or without effect.
        NoFaceError, UnreadableImageError: no picture can be used (all reasons are named).
        LeakError: the pictures are frames of a database, whose subjects would go unnamed.
        RunFolderError: ``out`` holds another run.

    >>> import tempfile
    >>> made = generate(kind="flow", emotion=["negative", "surprise"], count=6, out=tempfile.mkdtemp() + "/flow")
    >>> made.column("label").tolist().count("surprise")
    3
    >>> generate(kind="flow", aus="12=B", fps=200, preview=3, out="nowhere")
    Traceback (most recent call last):
    mesynth.core.errors.ConfigError: preview has no effect with kind flow; leave it out
    """
    given = {"faces": faces, "aus": aus, "emotion": emotion, "plan": plan, "model": model, "count": count}
    wanted = _generation(given | {"duration": duration, "seed": seed}, settings)
    return wanted.run(Path(out), workers, progress).manifest


def drive(
    driver: Path | str,
    faces: Path | str,
    out: Path | str,
    *,
    intensity: float = 1.0,
    every: bool = False,
    interval: str | Sequence[int] | None = None,
    fps: float | None = None,
    driver_subject: str | None = None,
    driver_licence: str = "unknown",
    method: str = "dis",
    size: int = 128,
    noise: float = 0.0,
    preview: int = 8,
    landmarker: str = "auto",
    exclude_subjects: Collection[str] = (),
    seed: int = 0,
    workers: int = 1,
    progress: Bars | None = None,
) -> Manifest:
    """Carry the motion of real clips to other faces, with identity kept, into ``out``.

    Args:
        driver: a folder of prepared or generated clips; with ``interval`` a video, or a folder of its frames.
        faces: a picture, a folder of pictures, or a prepared manifest (each subject's onset).
        intensity: times the driver's motion, 0..3; at 0 the face itself.
        every: every driver on every face; else faces are taken in turn.
        interval: of a video: onset, apex and offset, frames from 0, ``(12, 30, 51)`` or "12,30,51".
        fps: of a video, frames a second; None: what the file states.
        driver_subject: of a video: whom it shows, "DATABASE/SUBJECT", as in other clips of that person.
        driver_licence: of a video: its terms.
        method: optical flow of the driver: "dis", "tvl1", ...
        size: side of the clips, pixels.
        noise: sensor noise of frames after the onset, grey levels.
        preview: clips that also lie loose under ``out/clips``.
        landmarker: "face-alignment", "mediapipe", a file of points, or "auto".
        exclude_subjects: ``database/subject`` of people who are held out and must not be seen.
        seed: of the noise; same seed, same bytes, whatever ``workers`` (processes, 0 for one per core).

    Returns:
        One row a clip: frames [T,H,W,3] uint8 RGB, exact flow onset -> apex [2,H,W] float32 pixels. Who moved counts as
        seen by the clip, beside whose face it shows: folds that hold either out leave it out.

    Raises:
        LeakError: a held-out person in a driver or on a face.
        ManifestError: no driver there, or clips that are not prepared.
        ConfigError, MesynthError: an argument out of range or without effect.
        NoFaceError, UnreadableImageError: a picture or a video that cannot be used.
        RunFolderError: ``out`` holds another run.

    Clips with landmarks (here rendered, and prepared) drive faces without any network:

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = render(folder / "rendered", subjects=2, clips=1, size=96, fps=30)
    >>> clips = prepare("casme2", folder / "rendered", folder / "prepared", size=64)
    >>> driven = drive(folder / "prepared", folder / "prepared", folder / "driven", size=64, preview=0)
    >>> len(driven), len(driven.row(0).provenance.subjects_seen)
    (2, 1)
    >>> drive(folder / "prepared", "face.jpg", folder / "other", fps=30)
    Traceback (most recent call last):
    mesynth.core.errors.ConfigError: --fps has no effect on prepared clips; with --interval the driver is a video
    """
    from mesynth.corpus.driving import DriveConfig, drive_faces, driver_of
    from mesynth.corpus.generate import Preview

    config = DriveConfig(intensity=intensity, every=every, flow=method, size=size, noise=noise, seed=seed)
    return drive_faces(
        driver_of(driver, interval, driver_subject, driver_licence, fps), Path(faces), Path(out), config,
        exclude_subjects=exclude_subjects, preview=Preview(count=preview), landmarker=landmarker, workers=workers,
        progress=progress,
    )  # fmt: skip


def check_generation(
    *, emotion: str | Sequence[str], model: str | Path | None = None, count: int | None = None,
    duration: float | tuple[float, float] = 0.32, **settings: Any,
) -> None:  # fmt: skip
    """Refuse settings that :func:`generate` would refuse for emotions on any faces; no face and no model is looked at.

    Raises:
        ConfigError, MesynthError: an argument out of range or without effect.

    >>> check_generation(emotion="surprise", duration=(0.2, 2))
    Traceback (most recent call last):
    mesynth.core.errors.MesynthError: ...
    """
    faces = None if settings.get("kind") == "flow" else Path()
    given = {"faces": faces, "aus": (), "emotion": emotion, "plan": None, "model": model, "count": count}
    _ = _generation(given | {"duration": duration, "seed": 0}, settings).config


def _generation(call: dict[str, Any], settings: dict[str, Any]) -> Generation:
    """What :func:`generate` was called with, checked."""
    from mesynth.corpus.generation import Generation

    known = _names(Generation)
    if unknown := set(settings) - set(known):
        raise ConfigError(f"setting '{min(unknown)}' is unknown; choose from {', '.join(known)}")
    duration, aus, emotion = call["duration"], call["aus"], call["emotion"]
    low, high = (duration, duration) if isinstance(duration, (int, float)) else duration
    given: dict[str, Any] = settings | {
        "faces": None if call["faces"] is None else Path(call["faces"]),
        "plan": None if call["plan"] is None else Path(call["plan"]),
        "aus": (aus,) if isinstance(aus, str) else tuple(aus),
        "emotion": emotion if isinstance(emotion, str) else ",".join(emotion),
        "model": None if call["model"] is None else str(call["model"]),
        "count": call["count"],
        "duration": (float(low), float(high)),
        "seed": call["seed"],
    }
    wanted = Generation(**given)
    usual = Generation()
    wanted.check({name for name in given if name in settings or getattr(wanted, name) != getattr(usual, name)})
    return wanted


def filter_corpus(
    corpus: Path | str, out: Path | str, keep: str = "", *, progress: Progress | None = None
) -> tuple[Manifest, list[Rejection]]:
    """The clips of ``corpus`` that pass as a manifest in ``out``, and every reason why others are not in it.

    Args:
        keep: checks with their limits, "identity=0.3,control,duplicate"; "" for all at their usual limits.

    Raises:
        ConfigError: an unknown check. ManifestError: clips without what a check needs.
        WeightsUnavailable: a check's network is not on this machine.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> made = generate(kind="flow", emotion="surprise", count=4, out=folder / "flow")
    >>> kept, rejected = filter_corpus(folder / "flow", folder / "kept", "duplicate")
    >>> len(kept), len(rejected)
    (4, 0)
    """
    from mesynth.corpus.filters import filter_corpus as run
    from mesynth.corpus.filters import parse_keep

    return run(Path(corpus), Path(out), parse_keep(keep), progress=progress)


# ---------------------------------------------------------------- measures


def merge(folder: Path | str) -> dict[str, Any]:
    """Close a folder whose shards several processes have made, in case that none of them could.

    Returns:
        ``out``, ``clips`` and, of a corpus, ``hash``: that of one that a single process made. Memory does not grow with
        the clips; one that is closed already is left as it is.

    Raises:
        RunFolderError: shards are missing (their numbers are named), somebody is writing there, or there is nothing of
            the kind.

    >>> merge("nowhere")
    Traceback (most recent call last):
    mesynth.core.errors.RunFolderError: nowhere holds no shards that wait to be merged; ...
    """
    from mesynth.core.errors import RunFolderError
    from mesynth.store.manifest import FILE_NAME, stated
    from mesynth.store.stage import ACCOUNT_FILE, ROUNDS, merge_stage, read_closing

    folder = Path(folder)
    closed = next((name for name in (ACCOUNT_FILE, FILE_NAME) if (folder / name).is_file()), "")
    if not closed:
        if (folder / ROUNDS).is_dir():
            raise RunFolderError(f"{folder} is made in rounds (--until-accepted); which the same command closes")
        record = read_closing(folder)
        if record.get("stage") == "render":
            raise RunFolderError(f"{folder} is a rendered database, which its command closes: run it again")
        if record["kind"] == "export":
            from mesynth.corpus.exports.run import merge_export

            merge_export(folder, record)
        else:
            merge_stage(folder, record)
        closed = str(record["last"])
    if closed == ACCOUNT_FILE:
        from mesynth.corpus.exports.run import read_summary

        return {"out": str(folder), "clips": read_summary(folder).clips}
    clips, digest = stated(folder)
    return {"out": str(folder), "clips": clips, "hash": digest}


def measure(
    real: Manifest | Path | str,
    synthetic: Manifest | Path | str | Sequence[Path | str] | Mapping[str, Manifest],
    out: Path | str | None = None,
    *,
    training: Manifest | Path | str | None = None,
    clips: int = 200,
    seed: int = 0,
    inception_weights: Path | str | None = None,
    lpips_weights: Path | str | None = None,
    download: bool = False,
    workers: int = 1,
    device: str = "cpu",
    panel: Path | str | None = None,
    command: str = "",
    progress: Progress | None = None,
) -> Comparison:
    """Measure synthetic corpora against a real one: KID, Frechet distance, LPIPS, identity, AU control, flow.

    Args:
        real: prepared clips, a manifest or its folder.
        synthetic: one corpus or several, manifests by name or folders.
        out: folder for report.html, report.json, measures.csv and clips.csv; None: nothing is written.
        training: what the generator learned from; with it, memorisation is measured.
        clips: of each side, drawn by ``seed``; at least 4.
        download: fetch weights that are missing; else a named stand-in is used, or the measure is not made.
        workers: processes (0: one per core; 1: two threads); no figure depends on it.
        device: where the picture networks and the AU judge run: cpu, cuda, mps or auto.
        panel: folder of a coders' panel's results; its rows join the reports of the corpora that it showed.
        command: what the page says made it.

    Returns:
        ``.reports[name].rows`` (value, 95 % interval, unit, reference), ``.to_dict()``, ``.table()``.

    Raises:
        ManifestError: an empty corpus, or one on the wrong side. ConfigError: an argument out of range.
        WeightsUnavailable: a weight file given by name cannot be used.

    >>> measure("nowhere", "corpus", clips=2)
    Traceback (most recent call last):
    mesynth.core.errors.ConfigError: clips=2 is too few; a distance between distributions needs at least 4
    """
    from mesynth.core.errors import RunFolderError
    from mesynth.metrics.base import MeasureConfig
    from mesynth.metrics.measure import measure_all
    from mesynth.metrics.page import write_page
    from mesynth.metrics.report import corpus_names
    from mesynth.store.cluster import require_no_engine, require_whole_share, writer
    from mesynth.store.digests import enter_files
    from mesynth.store.manifest import Manifest
    from mesynth.store.stage import Interrupted

    config, device = MeasureConfig(clips=clips, seed=seed), find_device(device)
    require_whole_share("measure, whose figures are of all clips")
    require_no_engine("measure")

    def read(corpus: Manifest | Path | str) -> Manifest:
        return corpus if isinstance(corpus, Manifest) else Manifest.read(corpus)

    if isinstance(synthetic, Mapping):
        names = list(synthetic)
    elif isinstance(synthetic, Manifest):
        names, synthetic = ["synthetic"], {"synthetic": synthetic}
    else:
        folders = [Path(synthetic)] if isinstance(synthetic, (str, Path)) else [Path(folder) for folder in synthetic]
        names = corpus_names(folders)
    against, learned = read(real), None if training is None else read(training)
    if isinstance(synthetic, Mapping):
        corpora = dict(synthetic)
    else:
        corpora = {name: Manifest.read(folder) for name, folder in zip(names, folders, strict=True)}
    judged = None if panel is None else _judged(panel, corpora)

    def run() -> Comparison:
        found = measure_all(
            against, corpora, config, training=learned, inception_weights=inception_weights,
            lpips_weights=lpips_weights, allow_download=download, workers=workers, device=device,
            progress=progress,
        )  # fmt: skip
        for name, rows in (judged or {}).items():
            report = found.reports[name]
            found.reports[name] = replace(report, rows=(*report.rows, *rows))
        return found

    if out is None:
        return run()
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise RunFolderError(f"{out} is a file; choose another --out")
    with writer(out) as member:
        try:
            found = run()
        except KeyboardInterrupt:
            raise Interrupted("interrupted; the same command measures anew") from None
        if member is None or member.take("report"):
            found.write(out)
            enter_files(out, [write_page(found, out, command=command)])
    return found


def _judged(panel: Path | str, corpora: Mapping[str, Manifest]) -> dict[str, list[MeasureRow]]:
    """The rows of a coders' panel by the name of the measured corpus. Raises AnswersError, ConfigError."""
    from mesynth.panel.collect import panel_rows

    found = panel_rows(panel)
    known = {name: found[digest] for name, manifest in corpora.items() if (digest := manifest.hash()) in found}
    if not known:
        raise ConfigError(
            f"--panel {panel} showed none of {', '.join(corpora)}; give the results of a panel made of these corpora"
        )
    return known


def fid(
    source: Path | str,
    reference: Path | str,
    *,
    inception_weights: Path | str | None = None,
    download: bool = False,
    published_resize: bool = False,
    save: Path | str | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> tuple[Fid, str]:
    """Frechet distance of ``source`` from ``reference``, and a note where a stand-in took the place of Inception.

    Args:
        source: a folder of pictures, a corpus (its apex frames), or statistics (.npz, as pytorch-fid's).
        reference: likewise.
        inception_weights: the 2015 Inception's file (Heusel et al., 2017, compute FID with it).
        download: fetch the weights if they are missing; then there is no stand-in.
        published_resize: resize as pytorch-fid did for statistics it cached; no stand-in either.
        save: a .npz file for the statistics of ``source``.
        device: where the network runs: cpu, cuda, mps or auto.

    Raises:
        ConfigError: ``save`` is no .npz. WeightsUnavailable: no weights, and no stand-in was allowed.
        ManifestError, UnreadableImageError: nothing to read there.

    >>> fid("a", "b", save="statistics.txt")
    Traceback (most recent call last):
    mesynth.core.errors.ConfigError: --save statistics.txt must end in .npz
    """
    save = None if save is None else Path(save)
    if save is not None and save.suffix.lower() != ".npz":
        raise ConfigError(f"--save {save} must end in .npz")
    where = find_device(device)
    from mesynth.metrics.fid import fid as run
    from mesynth.metrics.networks.extractors import PUBLISHED_RESIZE, RESIZE, Inception, best_extractor

    if published_resize or download:  # the Inception itself is wanted: no stand-in
        extractor = Inception(inception_weights, allow_download=download, published_resize=published_resize)
        resize, note = PUBLISHED_RESIZE if published_resize else RESIZE, ""
    else:
        (extractor, note), resize = best_extractor(inception_weights), RESIZE  # type: ignore[assignment]
    if where != "cpu":
        extractor.to(where)
    return run(Path(source), Path(reference), extractor, resize=resize, save=save, progress=progress), note


def _names(kind: type[Any]) -> list[str]:
    return [f.name for f in fields(kind)]


def _no_bars(_: str) -> Progress:
    return lambda done, total: None
