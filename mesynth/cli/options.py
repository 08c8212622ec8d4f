"""Options and words that several verbs share."""

from __future__ import annotations

import functools
import os
import sys
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from typing import Any

import click

from mesynth.commandline import engine_options

OUT = click.option("--out", type=click.Path(path_type=Path), required=True, help="New folder for the result.")
WORKERS = click.option(
    "--workers",
    type=click.IntRange(min=0),
    default=0,
    show_default="one per core",
    help="Processes; the result does not depend on it.",
)


def device_option(default: str, what: str) -> Any:
    """``--device``: where ``what`` runs."""
    return click.option(
        "--device", default=default, show_default=True,
        help=f"Where {what}: cpu, cuda (cuda:1: the second), mps, or auto (the first that is here of cuda, mps, cpu).",
    )  # fmt: skip


SETTINGS = click.argument("settings", nargs=-1, metavar="[key=value]...")
EXCLUDE = click.option(
    "--exclude-subjects", default="", help="Held-out subjects, who must not be seen: casme2/sub01,samm/006."
)
FACE_LIMITS = click.option(
    "--face-limits",
    default="",
    help='What a face has to keep: "yaw=40,expression=off", names and usual values: size=60 (pixels), roll=45, yaw=25, '
    "pitch=25 (degrees), outside=0.1, eyes=0.15, mouth=0.15, expression=0.5, visible=0.35.",
)
SEED = click.option("--seed", default=0, show_default=True, help="Same seed, same bytes.")


def share_options(command: Any) -> Any:
    """``--shard`` and ``--engine ray``; the verb runs together with what a launcher has started beside it.

    The first process speaks for all. Of a mistake that shows before anything is shared the others say nothing; what
    stops one of them later it says itself.
    """

    @functools.wraps(command)
    def run(*args: Any, shard: str, engine: str, address: str, gpus: float, **given: Any) -> Any:
        from mesynth import commandline
        from mesynth.core.errors import MesynthError
        from mesynth.store import cluster, remote, schedulers

        on_ray = schedulers.RayEngine.of(engine, address, gpus)
        with ExitStack() as stack:
            share = stack.enter_context(cluster.together(shard, on_ray))
            try:
                if out := given.get("out"):
                    if share is not None or on_ray is not None:
                        remote.require_here(out, "--engine ray" if on_ray else "them")
                    given["out"] = stack.enter_context(remote.delivered(out))
                for name in ("faces", "plan", "root"):  # pictures and tables of many files are read from a disk
                    if given.get(name):
                        given[name] = remote.fetched(given[name])
                if cluster.speaks():
                    return command(*args, **given)
                with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), commandline.no_bars():
                    return command(*args, **given)
            except cluster.ShareDone as done:
                click.echo(str(done))
            except MesynthError as error:
                if cluster.speaks():
                    raise
                if cluster.has_shared():
                    assert share is not None
                    raise MesynthError(f"process {share.rank} of {share.count}: {error}") from error
                sys.exit(2)

    return click.option(
        "--shard", default="", metavar="i/N",
        help="Make the i-th of N shares alone, counted from 0, beside others in the same folder [default: as "
        "torchrun, accelerate launch or srun say].",
    )(engine_options(run))  # fmt: skip


def landmarker_options(command: Any) -> Any:
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


def subject_keys(text: str) -> tuple[str, ...]:
    """``casme2/sub01,samm/006`` of ``--exclude-subjects``, in parts."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def numbers(text: str, option: str) -> tuple[float, ...]:
    """``0.25,0.5`` -> numbers. Raises ConfigError that names the option."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        from mesynth.core.errors import ConfigError

        raise ConfigError(f"{option} '{text}' is no list of numbers; write for example 0.25,0.5") from None


def au_codes(text: str) -> tuple[int, ...]:
    """``4,12`` of an option ``--aus`` -> codes; what is no whole number is left for the configuration to refuse."""
    return tuple(int(code) if code.is_integer() else code for code in numbers(text, "--aus"))  # type: ignore[misc]


def summary(manifest: Any, out: Path) -> dict[str, Any]:
    """What a verb made, for people and programs.

    A clip of flow alone has a length, which timed its flow, and no frames to count: there are flow images instead.
    """
    import pyarrow.compute as pc

    from mesynth.store.remote import shown

    table = manifest.table
    framed = pc.or_(pc.is_valid(table["frames"]), pc.greater(pc.list_value_length(table["frame_files"]), 0))
    frames = pc.sum(table["n_frames"].filter(framed)).as_py() or 0
    labels = [label for label in manifest.column("label") if label]
    return {
        "out": shown(out),
        "clips": len(manifest),
        "subjects": len(set(manifest.subject_keys())),
        "frames": frames,
        **({} if frames else _flow_images(table)),
        "classes": {name: labels.count(name) for name in sorted(set(labels))},
        **_framing(manifest),
        "hash": manifest.hash(),
    }


def _framing(manifest: Any) -> dict[str, str]:
    """Where faces lie, if it is not our crop; that it is not known, where there is flow."""
    from mesynth.core.framing import MADE, OWN
    from mesynth.store.shards import known_framing

    if manifest.table["flow"].null_count == len(manifest):
        return {}
    known = known_framing(manifest)
    if known is None:
        whole = manifest.table["frames"].null_count < len(manifest)
        return {"framing": "none (faces lie anywhere)" if whole else "not known (say it with --frame)"}
    if known.origin == MADE and known.framing == OWN:
        return {}
    return {"framing": known.text()} | ({"of each": "; ".join(known.parts())} if known.databases else {})


def _flow_images(table: Any) -> dict[str, Any]:
    import pyarrow.compute as pc

    flows = table.filter(pc.is_valid(table["flow"]))
    sizes = sorted(set(zip(flows["width"].to_pylist(), flows["height"].to_pylist(), strict=True)))
    if not sizes:
        return {}
    return {"flow images": len(flows), "pixels": ", ".join(f"{width}x{height}" for width, height in sizes)}
