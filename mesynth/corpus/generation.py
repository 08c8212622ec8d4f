"""From the settings of one call or command line to a corpus: which go together, and which run they come to."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mesynth.core.errors import ConfigError

if TYPE_CHECKING:
    from mesynth.core.framing import Framing
    from mesynth.corpus.plan import PlanConfig, StoredPlan
    from mesynth.corpus.rejection import Acceptance, AcceptedCorpus
    from mesynth.store.manifest import Manifest
    from mesynth.store.stage import Cost, Progress


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What is to be generated: clips or flow images, from a stored plan or from what a plan is drawn from.

    The fields are those of :func:`mesynth.generate`, which explains them.

    >>> Generation(kind="flow", emotion="surprise", count=4).forecast(Path("made"))
    'would generate 4 flow images of 28 px into made'
    """

    faces: Path | None = None
    plan: Path | None = None
    aus: tuple[str, ...] = ()
    emotion: str = ""
    au_source: str = "published"
    kind: str = "clips"
    model: str | None = None
    count: int | None = None
    profile: str = "casme2"
    fps: float = 200.0
    duration: tuple[float, float] = (0.32, 0.32)
    size: int | None = None
    noise: float = 0.0
    head_motion: float | None = None
    blink: float | None = None
    style: float | None = None
    subjects: int = 0
    nuisance: str = ""
    frame: str = ""
    frames: str = "png"
    preview: int = 8
    video: str = "mp4"
    landmarker: str = "auto"
    device: str = "cpu"
    precision: str = "fp32"
    face: str = "largest"
    face_limits: str = ""
    seed: int = 0
    until_accepted: bool = False
    keep: str = ""
    attempts: int | None = None

    def check(self, given: Collection[str], option: Callable[[str], str] = str) -> None:
        """Refuse what has no effect beside the rest, and missing faces.

        Args:
            given: names of the fields that the user set.
            option: how the user calls a field.

        Raises:
            ConfigError: names the first.
        """

        def refuse(names: tuple[str, ...], why: str) -> None:
            if idle := [name for name in names if name in given]:
                raise ConfigError(f"{option(idle[0])} has no effect {why}; leave it out")

        if self.kind not in ("clips", "flow"):
            raise ConfigError(f"kind '{self.kind}' is unknown; choose clips or flow")
        if self.kind == "clips":
            from mesynth.store.shards import check_pictures

            check_pictures(self.frames, option("frames"))
        self._check_device(option)
        flow = f"{option('kind')} flow"
        if self.until_accepted:
            limits = self.until.limits
            if self.kind == "flow" and limits.of_frames:
                keep = option("keep")
                raise ConfigError(f"{keep} {limits.of_frames[0]} needs frames; with {flow} use {keep} duplicate")
        else:
            refuse(("keep", "attempts"), f"without {option('until_accepted')}")
        if self.kind == "flow":
            refuse(
                ("faces", "noise", "frames", "preview", "video", "landmarker", "download", "face", "face_limits"),
                f"with {flow}",
            )
        else:
            refuse(("subjects", "nuisance"), f"without {flow}")
            if self.frame not in ("", "full"):
                refuse(("frame",), f"without {flow}, unless it is full")
            if self.frame:
                refuse(("size",), f"with {option('frame')} full, which keeps a picture's own size")
                refuse(("until_accepted", "plan"), f"with {option('frame')} full: checks and plans are of crops")
        if self.plan:
            refuse(_PLANNED, f"with {option('plan')}, whose rows say it")
            if self.kind == "clips":
                refuse(("size",), f"with {option('plan')}, whose rows say it")
                refuse(("face", "face_limits"), f"with {option('plan')}, whose faces are chosen")
        elif self.kind == "clips" and self.faces is None:
            names = option("faces"), option("plan")
            raise ConfigError(
                f"give {names[0]} a picture, a folder of pictures or a manifest; or {names[1]}; or {flow}"
            )

    def _check_device(self, option: Callable[[str], str]) -> None:
        from mesynth.core.devices import check_precision, find_device
        from mesynth.store.generator_folder import UNTRAINED

        where = find_device(self.device, f"{option('device')} ")
        check_precision(self.precision, where, f"{option('precision')} ")
        flow = self.kind == "flow" and self.model in (None, "flow-prior")
        if flow and where != "cpu" and self.device != "auto":
            raise ConfigError(
                f"{option('device')} {self.device} has no effect on the flow prior, which is computed on the CPU; "
                f"leave it out, or give {option('model')} a trained flow_gan"
            )
        if self.precision != "fp32" and (flow or self.model in (None, *UNTRAINED)):
            raise ConfigError(
                f"{option('precision')} {self.precision} has no effect without a network; leave it out, or give "
                f"{option('model')} a trained generator"
            )

    @property
    def _model(self) -> Any:
        """The generator, to be loaded where it is wanted; the flow prior by its name."""
        from mesynth.generators.registry import find_model

        if self.kind == "flow" and self.model in (None, "flow-prior"):
            return "flow-prior"
        return find_model(self.model or "motion-prior").on(self.device, self.precision)

    @property
    def config(self) -> PlanConfig:
        """What rows are drawn from when there is no plan. Raises MesynthError for what it refuses."""
        from mesynth.core.emotions import AUSampling
        from mesynth.corpus.plan import PlanConfig
        from mesynth.motion.nuisance import Nuisance

        emotions = tuple(e.strip() for e in self.emotion.split(",") if e.strip())
        flow = self.kind == "flow"

        def strength(value: float | None, usual: float) -> float:
            return value if value is not None else usual if flow else 0.0

        return PlanConfig(
            au=self.aus,
            emotions=emotions,
            count=max(len(self.aus), len(emotions), 1) if self.count is None else self.count,
            profile=self.profile,
            fps=self.fps,
            duration=self.duration,
            size=128 if flow or self.size is None else self.size,
            seed=self.seed,
            sampling=AUSampling(source=self.au_source),
            nuisance=Nuisance(
                noise=self.noise,
                head=strength(self.head_motion, 1),
                blink=strength(self.blink, 0.3),
                style=strength(self.style, 1),
            ),
        )

    def run(
        self,
        out: Path,
        workers: int,
        bar: Callable[[str], Progress] | None,
        report: Callable[[Any], object] | None = None,
    ) -> Generated:
        """Make it; ``report`` is told how fast it was."""
        common: dict[str, Any] = {"workers": workers, "progress": bar, "report": report}
        if self.kind == "flow":
            from mesynth.corpus.flow_corpus import flow_run, generate_flow
            from mesynth.motion.flow_prior import parse_flow_nuisance

            drawn: dict[str, Any] = {
                "model": self._model,
                "people": self.subjects,
                "size": 28 if self.size is None else self.size,
                "nuisance": parse_flow_nuisance(self.nuisance),
                "framing": self.framing(),
            }
            if self.until_accepted:
                from mesynth.corpus.rejection import generate_flow_until_accepted

                images = flow_run(self._rows(), **drawn)
                return _topped_up(generate_flow_until_accepted(images, out, self.until, **common), out)
            return Generated(generate_flow(self._rows(), out, **drawn, **common))
        from mesynth.corpus.generate import Preview, generate, generate_plan

        common |= {
            "model": self._model,
            "preview": Preview(count=self.preview, video=self.video),
            "landmarker": self.landmarker,
            "pictures": self.frames,
        }
        if self.until_accepted:
            from mesynth.corpus.rejection import generate_until_accepted

            made = generate_until_accepted(
                self._rows(), out, self.until, faces=self.faces, **common, **({} if self.plan else self._choice)
            )
            return self._with_picture(_with_faces(_topped_up(made, out), out), out)
        if self.plan:
            made_plan = Generated(generate_plan(self._stored(), out, faces=self.faces, **common))
            return self._with_picture(made_plan, out)
        assert self.faces is not None
        common["whole"] = self.whole
        made_clips = Generated(generate(self.faces, self.config, out, **common, **self._choice))
        return self._with_picture(_with_faces(made_clips, out), out)

    def _with_picture(self, made: Generated, out: Path) -> Generated:
        """With where the first moving picture lies, and that a video's side was made even."""
        from mesynth.corpus.previews import moving_picture, padded_note

        path = moving_picture(out)
        if path is None:
            return made
        note = padded_note(self.video, made.manifest.row(0).height, made.manifest.row(0).width)
        warnings = (*made.warnings, note) if note else made.warnings
        return replace(made, shown={**made.shown, "to look at": str(path)}, warnings=warnings)

    @property
    def whole(self) -> bool:
        """Frames are whole pictures."""
        return self.kind == "clips" and self.frame == "full"

    def framing(self) -> Framing:
        """Of flow images. Raises ConfigError for what is none, ManifestError where a database's cannot be found."""
        from mesynth.core.framing import OWN
        from mesynth.motion.framing import stated_framing

        return stated_framing(self.frame).framing if self.frame else OWN

    @property
    def _choice(self) -> dict[str, Any]:
        """Which faces of ``faces``. Raises ConfigError for limits that cannot be."""
        from mesynth.preprocess.face_quality import FaceLimits

        return {"face": self.face, "face_limits": FaceLimits.parse(self.face_limits) if self.face_limits else None}

    @property
    def until(self) -> Acceptance:
        """When a clip is accepted. Raises ConfigError for checks or attempts that cannot be."""
        from mesynth.corpus.filters import parse_keep
        from mesynth.corpus.rejection import ATTEMPTS, Acceptance

        limits = parse_keep(self.keep or ("duplicate" if self.kind == "flow" else ""))
        return Acceptance(limits=limits, attempts=ATTEMPTS if self.attempts is None else self.attempts)

    def forecast(self, out: Path) -> str:
        """What would be made, after every check that needs no work. Raises MesynthError."""
        if not self.until_accepted:
            return f"would generate {self._forecast()} into {out}"
        until = self.until
        attempts = f"{until.limits.text()}, in up to {until.attempts} attempts each"
        return f"would generate {self._forecast()} into {out}, until accepted by {attempts}"

    def cost(self) -> tuple[Cost, int]:
        """What a clip takes on this machine, measured on a few rows that are made and thrown away; and how many clips
        there will be. Raises MesynthError for what making them does."""
        from mesynth.corpus.faces import WHOLE, find_faces
        from mesynth.corpus.flow_corpus import flow_run
        from mesynth.corpus.generate import FaceRun, Preview, choose, choose_for_rows, cost, few_faces
        from mesynth.corpus.plan import Plan
        from mesynth.motion.flow_prior import parse_flow_nuisance

        if self.kind == "flow":
            images = flow_run(
                self._rows(), model=self.model or "flow-prior", people=self.subjects,
                size=28 if self.size is None else self.size, nuisance=parse_flow_nuisance(self.nuisance),
                framing=self.framing(),
            )  # fmt: skip
            few = replace(images, rows=images.rows[:_MEASURED_IMAGES])  # its plan is written, too
            return cost(few, _MEASURED_IMAGES), len(images.rows)
        model, preview = self.model or "motion-prior", Preview(count=0)
        rows: Plan | StoredPlan
        if self.plan:
            plan = self._stored()
            chosen, sources, rows, size = choose_for_rows(model, plan), plan.find(self.faces), plan, plan.size
        else:
            assert self.faces is not None
            sources, config = find_faces(self.faces), self.config
            chosen, rows, size = choose(model, config), Plan(config, len(sources)), WHOLE if self.whole else config.size
        run = FaceRun(rows, chosen, sources, size, preview, self.landmarker, {})
        return cost(few_faces(run, _MEASURED_CLIPS), _MEASURED_CLIPS), len(rows)

    def _forecast(self) -> str:
        from mesynth.core.profiles import frame_count
        from mesynth.corpus.faces import LONGEST, find_faces
        from mesynth.corpus.flow_corpus import find_flow_model
        from mesynth.corpus.generate import choose, choose_for_rows

        if self.kind == "flow":
            framed = self.framing()
            find_flow_model(self.model or "flow-prior", framed)
            framing = f", framed {framed.text()}" if self.frame else ""
            n = len(self._stored()) if self.plan else self.config.count
            return f"{n} flow images of {28 if self.size is None else self.size} px{framing}"
        model = self.model or "motion-prior"
        if self.plan:
            plan = self._stored()
            choose_for_rows(model, plan)
            faces = plan.find(self.faces)
            frames = sum(row.n_frames for row in plan)
            return f"{len(plan)} clips ({frames} frames of {plan.size} px) on {len(faces)} faces"
        assert self.faces is not None
        config = self.config
        choose(model, config)
        frames = config.count * frame_count(sum(config.duration) / 2, config.fps)
        faces = find_faces(self.faces)
        size = f"whole pictures of at most {LONGEST} px" if self.whole else f"{config.size} px"
        return f"{config.count} clips ({frames} frames of {size}) on {len(faces)} faces"

    def _rows(self) -> Any:
        return self._stored() if self.plan else self.config

    def _stored(self) -> StoredPlan:
        from mesynth.corpus.plan import StoredPlan

        assert self.plan is not None
        return StoredPlan.read(self.plan)


_MEASURED_CLIPS, _MEASURED_IMAGES = 3, 128
_PLANNED = (
    "aus", "emotion", "au_source", "count", "profile", "fps", "duration", "noise", "head_motion", "blink", "style",
    "seed", "subjects",
)  # fmt: skip


@dataclass(frozen=True)
class Generated:
    """What a run made: the corpus, what else is to be shown, and what is missing ("" for nothing)."""

    manifest: Manifest
    shown: dict[str, Any] = field(default_factory=dict)
    missing: str = ""
    warnings: tuple[str, ...] = ()
    """What was left out or decided, and where it is listed."""


def _topped_up(made: AcceptedCorpus, out: Path) -> Generated:
    never = len(made.never)
    shown = {"rejected tries": made.rejected, "reasons": made.reasons, "never accepted": never}
    if not never:
        return Generated(made.manifest, shown)
    rows = len(made.manifest) + never
    missing = f"{never} of {rows} rows were never accepted; {out / 'skipped.csv'} says why, {out} holds the others"
    return Generated(made.manifest, shown, missing)


def _with_faces(made: Generated, out: Path) -> Generated:
    """With what became of the pictures: how many were left out and why, and what was decided about those taken."""
    from mesynth.corpus.faces import SHEET, SKIPPED_FACES, in_short, skipped_faces
    from mesynth.store.manifest import Manifest

    folder = out / "faces"
    faces = Manifest.read(folder)
    said = [f"{row.subject_key}: {text}" for row in faces for text in row.warnings]
    more = [f"{len(said) - _SAID} more are listed in {folder / 'measured.csv'}"] if len(said) > _SAID else []
    warnings = [*said[:_SAID], *more]
    shown = dict(made.shown)
    if left := skipped_faces(folder):
        shown |= {"faces": len(faces), "left out": len(left)}
        warnings.append(
            f"{in_short(left)}; {folder / SKIPPED_FACES} says why, {folder / SHEET} shows them; "
            "--face-limits sets what a face has to keep"
        )
    return replace(made, shown=shown, warnings=tuple(warnings))


_SAID = 8
