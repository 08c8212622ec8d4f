"""What `mesynth generate` was asked for: clips or flow images, from a plan or from the options themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mesynth.corpus.plan import PlanConfig
    from mesynth.manifest import Manifest

_CLIPS_ONLY = ("faces", "noise", "preview", "video", "landmarker", "download")
_FLOW_ONLY = ("people", "nuisance")
_PLANNED = (
    "au", "emotion", "au_source", "count", "profile", "fps", "duration", "noise", "head_motion", "blink", "style",
    "seed", "people",
)  # fmt: skip


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

    @property
    def config(self) -> PlanConfig:
        """What rows are drawn from when there is no plan. Raises MesynthError for what it refuses."""
        from mesynth.corpus.plan import PlanConfig
        from mesynth.emotions import AUSampling
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

    def run(self, out: Path, workers: int, bar: Callable[[str], Any], report: Callable[[Any], object]) -> Manifest:
        """Make what was asked for; ``report`` is told how fast it was."""
        if self.kind == "flow":
            from mesynth.corpus.flow_corpus import generate_flow
            from mesynth.motion.flow_prior import parse_flow_nuisance

            return generate_flow(
                self._stored() if self.plan_folder else self.config,
                out,
                model=self.model or "flow-prior",
                people=self.people,
                size=28 if self.size is None else self.size,
                nuisance=parse_flow_nuisance(self.nuisance),
                workers=workers,
                progress=bar,
                report=report,
            )
        from mesynth.corpus.generate import Preview, generate, generate_plan

        common: dict[str, Any] = {
            "model": self.model or "motion-prior",
            "preview": Preview(count=self.preview, video=self.video),
            "landmarker": self.landmarker,
            "workers": workers,
            "progress": bar,
            "report": report,
        }
        if self.plan_folder:
            return generate_plan(self._stored(), out, faces=self.faces, **common)
        assert self.faces is not None
        return generate(self.faces, self.config, out, **common)

    def forecast(self, out: Path) -> str:
        """What would be made, after every check that needs no work. Raises MesynthError."""
        from mesynth.corpus.faces import find_faces
        from mesynth.corpus.flow_corpus import find_flow_model
        from mesynth.corpus.generate import choose, choose_for_rows
        from mesynth.temporal import frame_count

        if self.kind == "flow":
            find_flow_model(self.model or "flow-prior")
            n = len(self._stored()) if self.plan_folder else self.config.count
            return f"would generate {n} flow images of {28 if self.size is None else self.size} px into {out}"
        model = self.model or "motion-prior"
        if self.plan_folder:
            plan = self._stored()
            choose_for_rows(model, plan)
            faces = plan.find(self.faces)
            frames = sum(row.n_frames for row in plan)
            return (
                f"would generate {len(plan)} clips ({frames} frames of {plan.size} px) on {len(faces)} faces into {out}"
            )
        assert self.faces is not None
        config = self.config
        choose(model, config)
        frames = config.count * frame_count(sum(config.duration) / 2, config.fps)
        n_faces = len(find_faces(self.faces))
        return (
            f"would generate {config.count} clips ({frames} frames of {config.size} px) on {n_faces} faces into {out}"
        )

    def _stored(self) -> Any:
        from mesynth.corpus.plan_file import StoredPlan

        assert self.plan_folder is not None
        return StoredPlan.read(self.plan_folder)


def check_options(context: click.Context, request: Request) -> None:
    """Raise ConfigError for an option that has no effect beside the others, and where faces are missing."""
    from mesynth.errors import ConfigError

    given = {
        name for name in context.params if context.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE
    }

    def refuse(names: tuple[str, ...], why: str) -> None:
        if idle := [name for name in names if name in given]:
            raise ConfigError(f"--{idle[0].replace('_', '-')} has no effect {why}; leave it out")

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
