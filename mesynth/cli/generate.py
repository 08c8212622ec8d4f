"""What `mesynth generate` was asked for: clips or flow images, from a plan or from the options themselves.

Verbs that make clips: render and generate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mesynth.cli.options import OUT, SEED, WORKERS, fetch, landmarker_options, summary
from mesynth.commandline import dry_run_option, json_option, progress_bars, show_result

if TYPE_CHECKING:
    from mesynth.corpus.plan import PlanConfig
    from mesynth.corpus.rejection import Acceptance, AcceptedCorpus
    from mesynth.corpus.throughput import Throughput
    from mesynth.store.manifest import Manifest


_CLIPS_ONLY = ("faces", "noise", "preview", "video", "landmarker", "download")
_FLOW_ONLY = ("people", "nuisance")
_PLANNED = (
    "au", "emotion", "au_source", "count", "profile", "fps", "duration", "noise", "head_motion", "blink", "style",
    "seed", "people",
)  # fmt: skip
_UNTIL_ONLY = ("keep", "attempts")
SHORT = 1
"""Exit code of a corpus that is sound and has fewer clips than were asked for."""


def until_options(command: Any) -> Any:
    """``--until-accepted``, ``--keep`` and ``--attempts``."""
    command = click.option(
        "--attempts", type=int, help="Tries at a row with --until-accepted, the first included [default: 5]."
    )(command)
    command = click.option(
        "--keep",
        default="",
        help="Checks of --until-accepted with their limits, as in `mesynth filter` [default: all; flow: duplicate].",
    )(command)
    return click.option(
        "--until-accepted",
        is_flag=True,
        help="Draw a rejected clip again, with another seed, until one is accepted; rejected tries are listed in "
        f"rejected.csv, rows without an accepted one in skipped.csv (exit code {SHORT}).",
    )(command)


@dataclass(frozen=True)
class Outcome:
    """What a run made: the corpus, what else is to be shown, and what is missing ("" for nothing)."""

    manifest: Manifest
    shown: dict[str, Any] = field(default_factory=dict)
    missing: str = ""


@dataclass(frozen=True, kw_only=True)
class Request:
    """The options of the verb, by their names."""

    faces: Path | None
    plan_folder: Path | None
    au: tuple[str, ...]
    emotion: str
    au_source: str
    kind: str
    model: str | None
    count: int | None
    profile: str
    fps: float
    duration: str
    size: int | None
    noise: float
    head_motion: float | None
    blink: float | None
    style: float | None
    people: int
    nuisance: str
    preview: int
    video: str
    landmarker: str
    seed: int
    until_accepted: bool
    keep: str
    attempts: int | None

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
            au=self.au,
            emotions=emotions,
            count=max(len(self.au), len(emotions), 1) if self.count is None else self.count,
            profile=self.profile,
            fps=self.fps,
            duration=_range(self.duration),
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

    def run(self, out: Path, workers: int, bar: Callable[[str], Any], report: Callable[[Any], object]) -> Outcome:
        """Make what was asked for; ``report`` is told how fast it was."""
        common: dict[str, Any] = {"workers": workers, "progress": bar, "report": report}
        if self.kind == "flow":
            from mesynth.corpus.flow_corpus import generate_flow
            from mesynth.motion.flow_prior import parse_flow_nuisance

            common |= {
                "model": self.model or "flow-prior",
                "people": self.people,
                "size": 28 if self.size is None else self.size,
                "nuisance": parse_flow_nuisance(self.nuisance),
            }
            if self.until_accepted:
                from mesynth.corpus.rejection import generate_flow_until_accepted

                return _topped_up(generate_flow_until_accepted(self._rows(), out, self.until, **common), out)
            return Outcome(generate_flow(self._rows(), out, **common))
        from mesynth.corpus.generate import Preview, generate, generate_plan

        common |= {
            "model": self.model or "motion-prior",
            "preview": Preview(count=self.preview, video=self.video),
            "landmarker": self.landmarker,
        }
        if self.until_accepted:
            from mesynth.corpus.rejection import generate_until_accepted

            return _topped_up(generate_until_accepted(self._rows(), out, self.until, faces=self.faces, **common), out)
        if self.plan_folder:
            return Outcome(generate_plan(self._stored(), out, faces=self.faces, **common))
        assert self.faces is not None
        return Outcome(generate(self.faces, self.config, out, **common))

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
        tries = f"{until.limits.text()}, in up to {until.attempts} tries each"
        return f"would generate {self._forecast()} into {out}, until accepted by {tries}"

    def _forecast(self) -> str:
        from mesynth.core.profiles import frame_count
        from mesynth.corpus.faces import find_faces
        from mesynth.corpus.flow_corpus import find_flow_model
        from mesynth.corpus.generate import choose, choose_for_rows

        if self.kind == "flow":
            find_flow_model(self.model or "flow-prior")
            n = len(self._stored()) if self.plan_folder else self.config.count
            return f"{n} flow images of {28 if self.size is None else self.size} px"
        model = self.model or "motion-prior"
        if self.plan_folder:
            plan = self._stored()
            choose_for_rows(model, plan)
            faces = plan.find(self.faces)
            frames = sum(row.n_frames for row in plan)
            return f"{len(plan)} clips ({frames} frames of {plan.size} px) on {len(faces)} faces"
        assert self.faces is not None
        config = self.config
        choose(model, config)
        frames = config.count * frame_count(sum(config.duration) / 2, config.fps)
        n_faces = len(find_faces(self.faces))
        return f"{config.count} clips ({frames} frames of {config.size} px) on {n_faces} faces"

    def _rows(self) -> Any:
        return self._stored() if self.plan_folder else self.config

    def _stored(self) -> Any:
        from mesynth.corpus.plan_file import StoredPlan

        assert self.plan_folder is not None
        return StoredPlan.read(self.plan_folder)


def _topped_up(made: AcceptedCorpus, out: Path) -> Outcome:
    never = len(made.never)
    shown = {"rejected tries": made.rejected, "reasons": made.reasons, "never accepted": never}
    if not never:
        return Outcome(made.manifest, shown)
    asked = len(made.manifest) + never
    missing = f"{never} of {asked} rows were never accepted; {out / 'skipped.csv'} says why, {out} holds the others"
    return Outcome(made.manifest, shown, missing)


def check_options(context: click.Context, request: Request) -> None:
    """Raise ConfigError for an option that has no effect beside the others, and where faces are missing."""
    from mesynth.core.errors import ConfigError

    given = {
        name for name in context.params if context.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE
    }

    def refuse(names: tuple[str, ...], why: str) -> None:
        if idle := [name for name in names if name in given]:
            raise ConfigError(f"--{idle[0].replace('_', '-')} has no effect {why}; leave it out")

    if request.until_accepted:
        limits = request.until.limits
        if request.kind == "flow" and limits.of_frames:
            raise ConfigError(f"--keep {limits.of_frames[0]} needs frames; with --kind flow use --keep duplicate")
    else:
        refuse(_UNTIL_ONLY, "without --until-accepted")
    if request.kind == "flow":
        refuse(_CLIPS_ONLY, "with --kind flow")
    else:
        refuse(_FLOW_ONLY, "without --kind flow")
    if request.plan_folder:
        refuse(_PLANNED, "with --plan, whose rows say it")
        if request.kind == "clips":
            refuse(("size",), "with --plan, whose rows say it")
    elif request.kind == "clips" and request.faces is None:
        raise ConfigError("give --faces a picture, a folder of pictures or a manifest; or --plan; or --kind flow")


def _range(text: str) -> tuple[float, float]:
    low, _, high = text.partition(":")
    try:
        return float(low), float(high or low)
    except ValueError:
        raise click.BadParameter(f"'{text}' is no number of seconds and no range such as 0.2:0.5") from None


# ------------------------------------------------------------------- make


@click.command(epilog="Example: mesynth render --subjects 12 --out rendered --layout casme2")
@click.option(
    "--layout",
    type=click.Choice(["casme2", "faces"]),
    default="casme2",
    show_default=True,
    help="casme2: clips in the CASME II release's layout; faces: one neutral picture a subject.",
)
@click.option("--subjects", default=12, show_default=True, help="Number of identities.")
@click.option("--clips", default=8, show_default=True, help="Clips a subject (casme2).")
@click.option("--size", default=192, show_default=True, help="Frame width and height in pixels.")
@click.option("--fps", default=60.0, show_default=True, help="Frames per second (casme2; the release has 200).")
@SEED
@OUT
@WORKERS
@dry_run_option
def render(
    layout: str, subjects: int, clips: int, size: int, fps: float, seed: int, out: Path, workers: int, dry_run: bool
) -> None:
    """Render subjects of the 3D FACS head: a database without a licence, with exact AUs."""
    if dry_run:
        n = subjects * clips if layout == "casme2" else subjects
        what = "clips" if layout == "casme2" else "pictures"
        click.echo(f"would render {n} {what} of {subjects} subjects into {out}")
        return
    from mesynth.datasets.rendered import render_casme2, render_faces

    with progress_bars() as bar:
        if layout == "faces":
            render_faces(out, subjects=subjects, size=size, seed=seed, progress=bar("faces"))
        else:
            render_casme2(
                out,
                subjects=subjects,
                clips_per_subject=clips,
                size=size,
                fps=fps,
                seed=seed,
                workers=workers,
                progress=bar("clips"),
            )
    click.echo(f"rendered into {out}")


@click.command(
    epilog="""\b
Examples:
  mesynth generate --faces photo.jpg --au "12=B,L4=0.2" --out smile
  mesynth generate --faces faces/ --emotion surprise --count 100 --fps 200 --out surprise
  mesynth generate --plan plan --model motion_gan --out corpus
  mesynth generate --plan plan --until-accepted --keep identity,control,artefact --out corpus
  mesynth generate --kind flow --emotion negative,positive,surprise --count 10000 --out flow"""
)
@click.option(
    "--faces",
    type=click.Path(path_type=Path),
    help="A picture, a folder of pictures, or a prepared manifest (each subject's onset).",
)
@click.option(
    "--plan",
    "plan_folder",
    type=click.Path(path_type=Path),
    help="A folder written by `mesynth plan`; says everything else about the clips, and where the faces are.",
)
@click.option(
    "--au",
    multiple=True,
    help='"12=B,L4=0.2": AUs with a FACS letter or a number in [0,1], sides L and R; repeat to take in turn.',
)
@click.option("--emotion", default="", help="Emotions or classes, comma-separated: AUs are drawn per clip.")
@click.option(
    "--au-source", default="published", show_default=True, help="Table of AUs per emotion: published, expert."
)
@click.option(
    "--kind",
    type=click.Choice(["clips", "flow"]),
    default="clips",
    show_default=True,
    help="clips: frames and flow on faces; flow: flow images alone, of people without pictures.",
)
@click.option(
    "--model",
    help="motion-prior [default], a shipped model, or a trained folder; options after @: runs/d@steps=8,guidance=2. "
    "With --kind flow: flow-prior [default] or a trained flow_gan folder.",
)
@click.option("--count", type=int, help="Number of clips [default: one per --au or --emotion].")
@click.option(
    "--profile",
    default="casme2",
    show_default=True,
    help="Temporal profile: casme2, symmetric, fast-rise, slow-rise, held.",
)
@click.option("--fps", default=200.0, show_default=True, help="Frames per second.")
@click.option("--duration", default="0.32", show_default=True, help="Seconds (1/25 to 1/2), or a range: 0.2:0.5.")
@click.option("--size", type=int, help="Width and height in pixels [default: 128; flow 28].")
@click.option("--noise", default=0.0, show_default=True, help="Sensor noise of frames after the onset, grey levels.")
@click.option("--head-motion", type=float, help="Head motion, 1 = a seated recording's [default: 0; flow 1].")
@click.option("--blink", type=float, help="Probability of a partial blink in a clip [default: 0; flow 0.3].")
@click.option("--style", type=float, help="Individual differences in how muscles pull, 1 = usual [default: 0; flow 1].")
@click.option("--people", default=0, help="Face shapes of --kind flow [default: one an image, at most 1000].")
@click.option(
    "--nuisance",
    default="",
    help='Strengths of --kind flow: "noise=0,blur=0.5", or "none,head=1" for that alone. Of asymmetry, shape, heads, '
    "style, head, blink, texture, blur, noise, outliers, median.",
)
@click.option("--preview", default=8, show_default=True, help="Clips that also lie loose under clips/ to look at.")
@click.option("--video", default="gif", show_default=True, help="Moving picture of a preview: gif or mp4.")
@until_options
@landmarker_options
@SEED
@OUT
@WORKERS
@dry_run_option
@json_option
@click.pass_context
def generate(
    context: click.Context, out: Path, workers: int, dry_run: bool, as_json: bool, download: bool, **given: Any
) -> None:
    """Generate micro-expressions on faces, with the AU motion prior or a trained generator: frames, flow, provenance.

    What is made comes from a plan (--plan), or from --au or --emotion. Intensity 0 returns the input exactly. With
    --emotion, AUs come from published frequency tables.
    """
    request = Request(**given)
    check_options(context, request)
    if dry_run:
        click.echo(request.forecast(out))
        return
    if request.kind == "clips":
        request = replace(request, landmarker=fetch(request.landmarker, download))
    speeds: list[Throughput] = []
    with progress_bars() as bar:
        made = request.run(out, workers, bar, speeds.append)
    for speed in speeds:
        speed.write(out)
        click.echo(speed.text(), err=True)
    show_result(summary(made.manifest, out) | made.shown, as_json)
    if made.missing:
        click.echo(f"Warning: {made.missing}", err=True)
        context.exit(SHORT)
