"""Small corpora of moving clips, made in milliseconds, and answers to a panel made of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mesynth.core import facs
from mesynth.store.manifest import Manifest, Provenance, Row
from mesynth.store.shards import ShardWriter, frames_members

REQUESTS = ("12=D", "4=C", "L12=B", "1=C,2=C", "17=B", "9=E")


def pictures(number: int, *, size: int = 64, length: int = 10, grey: bool = False) -> np.ndarray:
    """[T,H,W,3] uint8: a blob of skin that moves, another place and colour for every number."""
    y, x = np.mgrid[:size, :size].astype(np.float32) / size
    out = []
    for t in range(length):
        blob = np.exp(-((x - 0.3 - 0.02 * t - number % 5 / 20) ** 2 + (y - 0.5) ** 2) / 0.05)
        colour = [60 + 9 * number, 80, 120] if not grey else [90, 90, 90]
        out.append(np.stack([base + 100 * blob for base in colour], -1))
    return np.clip(np.rint(out), 0, 255).astype(np.uint8)


def write_corpus(
    folder: Path, kind: str, *, clips: int = 8, subjects: int = 4, first: int = 0, fps: float = 50.0,
    size: int = 64, length: int | Sequence[int] = 10, grey: bool = False, damage: Sequence[int] = (),
) -> Manifest:  # fmt: skip
    """Clips of ``kind`` with the requests REQUESTS in turn; those in ``damage`` have no apex fps to be shown with."""
    folder.mkdir(parents=True)
    rows = []
    with ShardWriter(folder / "frames-000000.tar") as shard:
        for i in range(clips):
            n = length if isinstance(length, int) else length[i % len(length)]
            span = shard.add(f"{i:06d}", frames_members(pictures(first + i, size=size, length=n, grey=grey)))
            aus, subject = facs.parse_request(REQUESTS[i % len(REQUESTS)]), f"{i % subjects:02d}"
            own = f"{kind}DB/{subject}"
            rows.append(
                Row(
                    clip_id=f"{own}/secret{i}/0", database=f"{kind}DB", subject=subject, clip=f"secret{i}", onset=0,
                    apex=n // 2, offset=n - 1, fps=float("nan") if i in damage else fps, n_frames=n,
                    apex_index=n // 2, height=size, width=size, emotion="happiness" if i % 2 else "surprise",
                    au_text=REQUESTS[i % len(REQUESTS)], frames=span, **Row.au_columns(aus),
                    provenance=Provenance(kind=kind, database=f"{kind}DB", subject=subject, licence="CC0-1.0",
                                          subjects_seen=(own,), generator="secret generator"),
                )
            )  # fmt: skip
    manifest = Manifest.from_rows(rows, folder)
    manifest.write(folder)
    return Manifest.read(folder)


def truth(item: dict[str, Any]) -> list[dict[str, Any]]:
    """What a coder who sees everything answers of a clip."""
    out = []
    for code, (left, right) in zip(facs.AU_CODES, item["present"], strict=True):
        if left == 1 or right == 1:
            side = "B" if left == right else "L" if left == 1 else "R"
            out.append({"au": code, "side": side, "intensity": "C", "onset": None, "apex": 2, "offset": None})
    return out


def answers(
    key: dict[str, Any],
    coder: str,
    *,
    aus: Callable[[str, dict[str, Any]], list[dict[str, Any]] | None] = lambda name, item: truth(item),
    naturalness: Callable[[str, dict[str, Any]], int | None] = lambda name, item: 4,
    verdict: Callable[[str, dict[str, Any]], str | None] = lambda name, item: (
        "real" if item["kind"] == "real" else "synthetic"
    ),
) -> dict[str, Any]:
    """A coder's file, by rules of what each clip is."""
    items = {
        name: {"aus": aus(name, item), "naturalness": naturalness(name, item), "verdict": verdict(name, item),
               "seconds": 10.0}
        for name, item in key["items"].items()
    }  # fmt: skip
    date = "2026-01-01T00:00:00Z"
    return {"format": "mesynth-panel-1-answers", "panel": key["panel"], "coder": coder, "started": date, "saved": date,
            "items": items}  # fmt: skip


def save(folder: Path, found: dict[str, Any], name: str = "") -> Path:
    """The file of those answers."""
    path = folder / f"answers-{name or found['coder']}.json"
    path.write_text(json.dumps(found))
    return path
