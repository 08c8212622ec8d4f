"""The stage between a database on disk and everything that learns: aligned crops, onset -> apex flow, landmarks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import mesynth
from mesynth.errors import MesynthError, NoFaceError
from mesynth.manifest import FILE_NAME, Manifest
from mesynth.preprocess.clip import ClipWorker, landmarker_identity, landmarker_of
from mesynth.preprocess.config import STORED, PrepareConfig
from mesynth.preprocess.landmarks import resolve_landmarker
from mesynth.preprocess.raft import raft_file
from mesynth.preprocess.source import fingerprint
from mesynth.run_folder import claim_folder
from mesynth.stage import Progress, Skipped, read_skipped, run_stage


def prepare(
    manifest: Manifest,
    out: Path | str,
    config: PrepareConfig = PrepareConfig(),
    *,
    landmarker: str = "auto",
    device: str = "cpu",
    workers: int = 1,
    cache: Path | None = None,
    skip_bad: bool = False,
    skipped: Sequence[Skipped] = (),
    progress: Progress | None = None,
) -> Manifest:
    """Align, crop and measure every clip of ``manifest``; write the result into ``out``.

    Landmarks are found once per clip, on its onset; one transform serves all of its frames; flow goes from the
    onset to the apex (to the middle frame where no apex is annotated, unless ``config`` spots one).

    ``landmarker``: see :func:`resolve_landmarker`, or "stored". ``workers``: processes, 0 for one per core.
    ``cache``: folder of landmarks found before, None for none. ``skip_bad``: a clip whose frames cannot be read
    is left out too. ``skipped``: what the loader left out, listed first.

    A clip whose onset shows no face is left out and listed by :func:`mesynth.stage.read_skipped`; the same command
    resumes, and does nothing where all is done.

    Raises:
        MesynthError: unreadable frames, an empty manifest, a device that is not there.
        NoFaceError: not one clip shows a face.
        WeightsUnavailable, RunFolderError: see :func:`resolve_landmarker`, :func:`claim_folder`.
    """
    out = Path(out)
    if len(manifest) == 0:
        raise MesynthError(f"the manifest of {manifest.root} holds no clips; nothing to prepare")
    require_device(device)
    name = landmarker if landmarker == STORED else resolve_landmarker(landmarker)
    identity = landmarker_identity(name)
    run = {
        "stage": "prepare", "input": fingerprint(manifest), "landmarker": identity, "skip_bad": skip_bad,
        **asdict(config), "version": mesynth.__version__,
    }  # fmt: skip
    if name != STORED and not (out / FILE_NAME).is_file():
        landmarker_of(name, identity, device)  # missing weights are found out before the folder is claimed
    if config.method == "raft" and not (out / FILE_NAME).is_file():
        raft_file()
    claim_folder(out, run)
    worker = ClipWorker(manifest.root, config, name, identity, device, cache, skip_bad)
    result = run_stage(out, manifest, worker, config=run, workers=workers, skipped=skipped, progress=progress)
    if len(result) == 0:
        first = read_skipped(out)[-len(manifest)]
        raise NoFaceError(f"none of {len(manifest)} clips could be prepared; {first.clip_id}: {first.reason}")
    return result


def require_device(device: str) -> None:
    """Raise MesynthError unless torch can use ``device`` here."""
    if device == "cpu":
        return
    import torch

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise MesynthError(
            f"device '{device}' cannot be used ({reason}); choose cpu, or cuda where there is one"
        ) from None
