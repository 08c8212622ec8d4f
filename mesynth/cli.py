"""The command line. Science lives in YAML and in the rooms; here are paths, devices and words.

Rooms are imported inside the verbs that need them, so that ``--help`` answers at once.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mesynth import __version__
from mesynth.clickutils import MistakeGroup, dry_run_option, echo_json, json_option, progress_bars, show_result

if TYPE_CHECKING:
    from mesynth.corpus.plan import PlanConfig

_OUT = click.option("--out", type=click.Path(path_type=Path), required=True, help="New folder for the result.")
_WORKERS = click.option(
    "--workers", default=0, show_default="one per core", help="Processes; the result does not depend on it."
)
_SEED = click.option("--seed", default=0, show_default=True, help="Same seed, same bytes.")


def _landmarker(command: Any) -> Any:
    """``--landmarker`` and ``--download``."""
    command = click.option("--download", is_flag=True, help="Let face-alignment fetch its weights first (180 MB).")(
        command
    )
    return click.option(
        "--landmarker",
        default="auto",
        show_default=True,
        help="face-alignment, mediapipe, a .csv or .npz of points, or auto (the first whose weights are here).",
    )(command)


def _fetch(landmarker: str, download: bool) -> str:
    """The landmarker to use; with ``download``, face-alignment's weights are on this machine afterwards."""
    from mesynth.preprocess.landmarks import choose_landmarker

    if not download:
        return landmarker
    choose_landmarker("face-alignment", download=True).close()
    return "face-alignment"


@click.group(cls=MistakeGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="mesynth")
def main() -> None:
    """Micro-expression synthesis with controlled action units, exact flow, provenance and leak safety.

    New here? Run `mesynth quickstart`.
    """


@main.command(epilog="Example: mesynth render --subjects 12 --out rendered --layout casme2")
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
@_SEED
@_OUT
@_WORKERS
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


@main.command(epilog="Example: mesynth prepare casme2 --root /data/CASME2 --out prepared/casme2")
@click.argument("database")
@click.option("--root", type=click.Path(path_type=Path), required=True, help="The release's folder, or a corpus.")
@click.option("--size", default=128, show_default=True, help="Crop width and height in pixels.")
@click.option("--method", default="tvl1", show_default=True, help="Optical flow: tvl1, dis or farneback.")
@_landmarker
@_OUT
@_WORKERS
@dry_run_option
@json_option
def prepare(
    database: str,
    root: Path,
    size: int,
    method: str,
    landmarker: str,
    download: bool,
    out: Path,
    workers: int,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Read DATABASE (casme2, or corpus: any mesynth manifest), align, crop, and estimate flow.

    Landmarks are found on the onset, one transform serves the whole clip, flow goes from onset to apex.
    """
    from mesynth.datasets.registry import load
    from mesynth.preprocess.prepare import prepare as run

    manifest = load(database, root)
    if dry_run:
        click.echo(f"would prepare {len(manifest)} clips of {len(set(manifest.subject_keys()))} subjects into {out}")
        return
    landmarker = _fetch(landmarker, download)
    with progress_bars() as bar:
        done = run(
            manifest, out, size=size, method=method, landmarker=landmarker, workers=workers, progress=bar("clips")
        )
    show_result(_summary(done, out), as_json)


@main.command(
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
@_landmarker
@_SEED
@_OUT
@_WORKERS
@dry_run_option
@json_option
def generate(
    faces: Path,
    au: tuple[str, ...],
    emotion: str,
    au_source: str,
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
    """Generate micro-expressions on faces with the AU motion prior: frames, exact flow, provenance.

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
        click.echo(_generation_forecast(faces, config, out))
        return
    landmarker = _fetch(landmarker, download)
    with progress_bars() as bar:
        manifest = run(faces, config, out, preview=previews, landmarker=landmarker, workers=workers, progress=bar)
    show_result(_summary(manifest, out), as_json)


@main.command(epilog="Example: mesynth measure --real prepared/casme2 --synthetic corpus --out report")
@click.option("--real", type=click.Path(path_type=Path), required=True, help="Prepared manifest folder.")
@click.option("--synthetic", type=click.Path(path_type=Path), required=True, help="Generated manifest folder.")
@click.option("--clips", default=200, show_default=True, help="Clips of each side to measure (a seeded subset).")
@click.option(
    "--inception-weights", type=click.Path(path_type=Path), help="The 2015 Inception weights, for FID itself."
)
@click.option("--lpips-weights", type=click.Path(path_type=Path), help="torchvision's AlexNet, for LPIPS itself.")
@_SEED
@_OUT
@json_option
def measure(
    real: Path,
    synthetic: Path,
    clips: int,
    inception_weights: Path | None,
    lpips_weights: Path | None,
    seed: int,
    out: Path,
    as_json: bool,
) -> None:
    """Measure a synthetic corpus against a real one: KID, Frechet distance, LPIPS, identity, AU control, flow.

    Measures whose weights are not on this machine are replaced by a named stand-in or reported as not measured.
    """
    from mesynth.manifest import Manifest
    from mesynth.quality.measure import MeasureConfig
    from mesynth.quality.measure import measure as run

    with progress_bars() as bar:
        report = run(
            Manifest.read(real),
            Manifest.read(synthetic),
            MeasureConfig(clips=clips, seed=seed),
            inception_weights=inception_weights,
            lpips_weights=lpips_weights,
            progress=bar("measure"),
        )
    report.write(out)
    if as_json:
        echo_json(report.to_dict())
    else:
        from rich.console import Console

        Console().print(report.table())


@main.command(epilog="Example: mesynth doctor")
@json_option
def doctor(as_json: bool) -> None:
    """Say which weights and packages are here, where they are looked for, and what to do about the rest."""
    from mesynth.doctor import doctor as run

    needs = run()
    if as_json:
        echo_json([asdict(need) for need in needs])
        return
    for need in needs:
        click.echo(f"{'ok     ' if need.present else 'missing'}  {need.name} ({need.purpose})")
        click.echo(f"         looked in {need.where}")
        if not need.present:
            click.echo(f"         instead: {need.instead}\n         to mend: {need.remedy}")


@main.command(epilog="Example: mesynth quickstart --out quickstart")
@click.option("--out", type=click.Path(path_type=Path), default=Path("quickstart"), show_default=True)
@click.option("--photo", type=click.Path(path_type=Path), help="A face photo [default: scikit-image's astronaut].")
@click.option("--subjects", default=12, show_default=True, help="Rendered subjects of the embedded database.")
@_SEED
@_WORKERS
def quickstart(out: Path, photo: Path | None, subjects: int, seed: int, workers: int) -> None:
    """Walk the whole road on embedded data: render, prepare, generate, measure, LOSO, ablation, report.html."""
    from mesynth.quickstart.pipeline import Scale, run

    with progress_bars() as bar:
        page = run(out, photo=photo, scale=Scale(subjects=subjects), seed=seed, workers=workers, progress=bar)
    click.echo(f"Open {page}")


# --------------------------------------------------------------------------- small words


def _range(text: str) -> tuple[float, float]:
    low, _, high = text.partition(":")
    try:
        return float(low), float(high or low)
    except ValueError:
        raise click.BadParameter(f"'{text}' is no number of seconds and no range such as 0.2:0.5") from None


def _generation_forecast(faces: Path, config: PlanConfig, out: Path) -> str:
    from mesynth.corpus.faces import find_faces
    from mesynth.temporal import frame_count

    frames = config.count * frame_count(sum(config.duration) / 2, config.fps)
    n_faces = len(find_faces(faces))
    return f"would generate {config.count} clips ({frames} frames of {config.size} px) on {n_faces} faces into {out}"


def _summary(manifest: Any, out: Path) -> dict[str, Any]:
    labels = [label for label in manifest.column("label") if label]
    return {
        "out": str(out),
        "clips": len(manifest),
        "subjects": len(set(manifest.subject_keys())),
        "frames": int(manifest.column("n_frames").sum()),
        "classes": {name: labels.count(name) for name in sorted(set(labels))},
        "hash": manifest.hash(),
    }
