"""Which clips of a corpus to leave out, and why: identity, AU control, artefacts, duplicates. Nothing is lost silently.

A verb on a finished corpus rather than an option of generation: it takes corpora of any origin, and whether a clip is a
duplicate depends on all the others.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mesynth.errors import ConfigError, ManifestError
from mesynth.facs import AU_INDEX
from mesynth.manifest import FILE_NAME, Manifest
from mesynth.motion.warp import backward_flow, warp_backward
from mesynth.quality.clips import ClipData
from mesynth.quality.identity import FaceEmbedder, distances
from mesynth.quality.judge import AUJudge
from mesynth.quality.visible import visible_aus
from mesynth.run_folder import claim_folder, write_text
from mesynth.shards import read_flow
from mesynth.stage import Progress

REJECTED_FILE = "rejected.csv"
GHOST = 24
"""Grey levels: an apex that differs by more from its onset, moved by the clip's own flow, shows what did not move."""
_GRID = 8  # a flow is compared with others at 8 x 8: 512 bytes a clip
_STILL = 1e-3  # mean pixels of a grid cell: below, two flows are equal because neither is anything


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a clip may reach. None: not checked.

    ``identity``: distance of the apex's face embedding to the onset's (.6 is two people to dlib's author).
    ``control``: largest error of a judged AU that was asked for, on the 0-5 scale.
    ``artefact``: share of the face where the apex is not the onset moved by the clip's flow (:data:`GHOST`).
    ``duplicate``: relative difference of the flow to that of any clip before; must be reached.
    """

    identity: float | None = 0.6
    control: float | None = 2.0
    artefact: float | None = 0.02
    duplicate: float | None = 0.01

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and not (math.isfinite(value) and 0 <= value <= 5):
                raise ConfigError(f"limit {name}={value:g} is outside [0, 5]")
        if all(value is None for value in asdict(self).values()):
            raise ConfigError(f"no check is left; choose from {', '.join(f.name for f in fields(self))}")


def parse_keep(text: str) -> Limits:
    """``identity=0.5,duplicate``: these checks alone, at this limit or the usual one; "" for all of them.

    Raises:
        ConfigError: an unknown check, or a limit that is no number or out of range.
    """
    usual: dict[str, Any] = asdict(Limits())
    if not text.strip():
        return Limits()
    asked: dict[str, float | None] = dict.fromkeys(usual)
    for part in (p.strip() for p in text.split(",") if p.strip()):
        name, equals, number = (p.strip() for p in part.partition("="))
        if name not in usual:
            raise ConfigError(f"check '{name}' is unknown; choose from {', '.join(usual)}")
        try:
            asked[name] = float(number) if equals else usual[name]
        except ValueError:
            raise ConfigError(f"limit '{part}' is no number; write for example {name}={usual[name]:g}") from None
    return Limits(**asked)


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """One reason to leave a clip out; a line of ``rejected.csv``."""

    clip_id: str
    plan_row: int
    check: str
    value: float
    limit: float
    of: str = ""
    """The clip that it repeats."""


class Checks:
    """Measures clips one at a time; networks are loaded when a check first needs them."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._embedder: FaceEmbedder | None = None
        self._judge: AUJudge | None = None
        self._kept: list[str] = []
        self._flows = np.zeros((0, 2 * _GRID**2), np.float32)

    def __call__(self, clip: ClipData) -> list[tuple[str, float, float]]:
        """(check, value, limit) of every check of frames that the clip fails."""
        measures: dict[str, Callable[[ClipData], float]] = {
            "identity": self.identity, "control": self.control, "artefact": artefact,
        }  # fmt: skip
        out = []
        for name, measure in measures.items():
            limit = getattr(self.limits, name)
            if limit is not None and not (value := measure(clip)) <= limit:
                out.append((name, value, limit))
        return out

    def identity(self, clip: ClipData) -> float:
        """Distance of the apex's embedding to the onset's."""
        self._embedder = self._embedder or FaceEmbedder()
        return float(distances(self._embedder(clip.frames[[0, clip.row.apex_index]], clip.landmarks))[0])

    def control(self, clip: ClipData) -> float:
        """Largest |judged - asked| over trusted AUs that were asked for, 0-5; 0 if there is none."""
        self._judge = self._judge or AUJudge.load()
        judged = self._judge.intensity(clip.frames[[0, clip.row.apex_index]], clip.landmarks)
        wanted = visible_aus(clip.row.aus.intensity[None])
        errors = [0.0]
        for code in self._judge.trusted:
            asked = wanted[0, AU_INDEX[code]]
            errors += (5 * np.abs(judged[0, AU_INDEX[code]] - asked))[asked > 0].tolist()
        return max(errors)

    def duplicate(self, clip_id: str, flow: np.ndarray) -> tuple[float, str]:
        """Smallest relative difference of ``flow`` [2,H,W] to the clips kept so far, and which one that is."""
        small = _small(flow)
        nearest, of = math.inf, ""
        size = float(np.sqrt((small**2).mean()))
        if size > _STILL and len(self._kept):
            known = self._flows[: len(self._kept)]
            apart = np.sqrt(((known - small) ** 2).mean(1)) / size
            nearest, of = float(apart.min()), self._kept[int(apart.argmin())]
        return nearest, of

    def keep(self, clip_id: str, flow: np.ndarray) -> None:
        """Later clips are compared with this one."""
        if len(self._kept) == len(self._flows):
            more = np.zeros((max(256, len(self._flows)), self._flows.shape[1]), np.float32)
            self._flows = np.concatenate([self._flows, more])
        self._flows[len(self._kept)] = _small(flow)
        self._kept.append(clip_id)


def _small(flow: np.ndarray) -> np.ndarray:
    _, height, width = flow.shape
    cells = cv2.resize(np.ascontiguousarray(flow.transpose(1, 2, 0)), (_GRID, _GRID), interpolation=cv2.INTER_AREA)
    return np.asarray(cells * np.array([128 / width, 128 / height], np.float32), np.float32).ravel()


def artefact(clip: ClipData) -> float:
    """Share of the face whose apex is further than GHOST grey levels from the onset moved by the clip's flow."""
    forward = np.ascontiguousarray(clip.emitted_flow.transpose(1, 2, 0))
    moved = warp_backward(clip.frames[0], backward_flow(forward))
    wrong = np.abs(moved - clip.frames[clip.row.apex_index]).mean(-1) > GHOST
    return float(wrong[clip.face].mean()) if clip.face.any() else 0.0


def filter_corpus(
    folder: Path, out: Path, limits: Limits = Limits(), *, progress: Progress | None = None
) -> tuple[Manifest, list[Rejection]]:
    """The clips of ``folder`` within ``limits`` as a manifest in ``out``, and every reason why others are not in it.

    Shards stay where they are: the new manifest points into them. ``rejected.csv`` lists clip, plan row, check, value
    and limit. The kept and the rejected are together exactly the corpus.

    Raises:
        ManifestError: no corpus, or clips without what a check needs (frames, landmarks, flow).
        WeightsUnavailable: a check's network is not on this machine.
        RunFolderError: ``out`` holds something else.
    """
    source = Manifest.read(folder)
    checks, rejected = Checks(limits), list[Rejection]()
    framed = any(value is not None for name, value in asdict(limits).items() if name != "duplicate")
    if framed and len(source) and source.row(0).frames is None and not source.row(0).frame_files:
        raise ManifestError(f"the clips of {folder} have no frames to check; use --keep duplicate")
    claim_folder(out, {"filter": source.hash(), "limits": asdict(limits)})
    keep = np.ones(len(source), np.bool_)
    for index, row in enumerate(source):
        failed = checks(ClipData("synthetic", row, source.root)) if framed else []
        reasons = [(*reason, "") for reason in failed]
        if limits.duplicate is not None:
            flow = read_flow(source.root, row)
            apart, of = checks.duplicate(row.clip_id, flow)
            if apart < limits.duplicate:
                reasons.append(("duplicate", apart, limits.duplicate, of))
            if not reasons:
                checks.keep(row.clip_id, flow)
        keep[index] = not reasons
        rejected += [
            Rejection(clip_id=row.clip_id, plan_row=row.provenance.plan_row, check=c, value=v, limit=x, of=o)
            for c, v, x, o in reasons
        ]
        if progress:
            progress(index + 1, len(source))
    assert set(source.column("clip_id")[~keep]) == {r.clip_id for r in rejected}
    write_text(out / REJECTED_FILE, _csv(rejected))
    kept = Manifest.join([source.filter(keep)], out)
    kept.write(out)
    return Manifest.read(out / FILE_NAME), rejected


def _csv(rejected: list[Rejection]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, [f.name for f in fields(Rejection)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(r) | {"value": f"{r.value:.6g}", "limit": f"{r.limit:g}"} for r in rejected)
    return buffer.getvalue()
