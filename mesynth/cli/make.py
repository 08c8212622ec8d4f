"""Verbs that make clips: render and generate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mesynth.cli.options import OUT, SEED, WORKERS, fetch, landmarker_options, summary
from mesynth.clickutils import dry_run_option, json_option, progress_bars, show_result

if TYPE_CHECKING:
    from mesynth.corpus.plan import PlanConfig


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
    from mesynth.datasets.rendered import render_casme2
    from mesynth.datasets.rendered_faces import render_faces

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
  mesynth generate --faces faces/ --emotion surprise --count 100 --fps 200 --out surprise"""
)
@click.option(
    "--faces",
    type=click.Path(path_type=Path),
    required=True,
    help="A picture, a folder of pictures, or a prepared manifest (each subject's onset).",
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
    "--model",
    default="motion-prior",
    show_default=True,
    help="motion-prior, a shipped model, or a trained folder; options after @: runs/d@steps=8,guidance=2.",
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
@click.option("--size", default=128, show_default=True, help="Crop width and height in pixels.")
@click.option("--noise", default=0.0, show_default=True, help="Sensor noise of frames after the onset, grey levels.")
@click.option("--head-motion", default=0.0, show_default=True, help="Head motion, 1 = a seated recording's.")
@click.option("--blink", default=0.0, show_default=True, help="Probability of a partial blink in a clip.")
@click.option("--style", default=0.0, show_default=True, help="Individual differences in how muscles pull, 1 = usual.")
@click.option("--preview", default=8, show_default=True, help="Clips that also lie loose under clips/ to look at.")
@click.option("--video", default="gif", show_default=True, help="Moving picture of a preview: gif or mp4.")
@landmarker_options
@SEED
@OUT
@WORKERS
@dry_run_option
@json_option
def generate(
    faces: Path,
    au: tuple[str, ...],
    emotion: str,
    au_source: str,
    model: str,
    count: int | None,
    profile: str,
    fps: float,
    duration: str,
    size: int,
    noise: float,
    head_motion: float,
    blink: float,
    style: float,
    preview: int,
    video: str,
    landmarker: str,
    download: bool,
    seed: int,
    out: Path,
    workers: int,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Generate micro-expressions on faces, with the AU motion prior or a trained generator: frames, flow, provenance.

    Intensity 0 returns the input exactly. With --emotion, AUs come from published frequency tables.
    """
    from mesynth.corpus.generate import Preview
    from mesynth.corpus.generate import generate as run
    from mesynth.corpus.plan import PlanConfig
    from mesynth.emotions import AUSampling
    from mesynth.motion.nuisance import Nuisance

    emotions = tuple(e.strip() for e in emotion.split(",") if e.strip())
    config = PlanConfig(
        au=au,
        emotions=emotions,
        count=max(len(au), len(emotions), 1) if count is None else count,
        profile=profile,
        fps=fps,
        duration=_range(duration),
        size=size,
        seed=seed,
        sampling=AUSampling(source=au_source),
        nuisance=Nuisance(noise=noise, head=head_motion, blink=blink, style=style),
    )
    previews = Preview(count=preview, video=video)
    if dry_run:
        click.echo(_generation_forecast(faces, config, out, model))
        return
    landmarker = fetch(landmarker, download)
    with progress_bars() as bar:
        manifest = run(
            faces, config, out, model=model, preview=previews, landmarker=landmarker, workers=workers, progress=bar
        )
    show_result(summary(manifest, out), as_json)


def _range(text: str) -> tuple[float, float]:
    low, _, high = text.partition(":")
    try:
        return float(low), float(high or low)
    except ValueError:
        raise click.BadParameter(f"'{text}' is no number of seconds and no range such as 0.2:0.5") from None


def _generation_forecast(faces: Path, config: PlanConfig, out: Path, model: str) -> str:
    from mesynth.corpus.faces import find_faces
    from mesynth.corpus.generate import choose
    from mesynth.temporal import frame_count

    choose(model, config)
    frames = config.count * frame_count(sum(config.duration) / 2, config.fps)
    n_faces = len(find_faces(faces))
    return f"would generate {config.count} clips ({frames} frames of {config.size} px) on {n_faces} faces into {out}"
