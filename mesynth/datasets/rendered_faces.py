"""Neutral pictures of rendered people: faces to generate on that belong to no subject of any database."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from mesynth import __version__, facs
from mesynth.errors import MesynthError
from mesynth.run_folder import claim_folder, write_bytes, write_text
from mesynth.seeds import derived
from mesynth.shards import png_bytes
from mesynth.stage import Progress

CARD = "mesynth-faces.json"


def render_faces(
    out: Path | str, *, subjects: int = 24, size: int = 192, seed: int = 0, progress: Progress | None = None
) -> Path:
    """Write one neutral frontal face a person, ``personNNNNNNNNNN.png`` by identity seed, and a card.

    Returns ``out``.

    Identities come from a stream of their own (``derived(seed, "rendered-face", i)``), so they are not the
    people of :func:`mesynth.datasets.rendered.render_casme2` with the same seed.

    Raises:
        MesynthError: an argument out of range. RunFolderError: ``out`` holds something else.
    """
    from mesynth.datasets.rendered import LICENCE, MIN_SIZE
    from mesynth.head import Subject

    out = Path(out)
    if not 1 <= subjects <= 9999:
        raise MesynthError(f"subjects={subjects} is outside 1..9999")
    if size < MIN_SIZE:
        raise MesynthError(f"size={size} is too small to show an expression; choose at least {MIN_SIZE}")
    claim_folder(out, {"stage": "render", "layout": "faces", "subjects": subjects, "size": size, "seed": seed})
    neutral = np.zeros((1, len(facs.AU_CODES), 2), np.float32)
    people = []
    for i in range(1, subjects + 1):
        identity = derived(seed, "rendered-face", i)
        file = out / f"person{identity:010d}.png"  # a name that no other person has, in any folder
        people.append({"file": file.name, "identity_seed": identity})
        if not file.is_file():
            subject = Subject(identity, size=size, frontal=True)
            write_bytes(file, png_bytes(subject.render(neutral, noise_seed=identity)[0]))
        if progress:
            progress(i, subjects)
    card = {"kind": "rendered", "licence": LICENCE, "version": __version__, "seed": seed, "people": people}
    write_text(out / CARD, json.dumps(card, indent=1) + "\n")
    return out


def read_card(folder: Path) -> dict[str, str]:
    """``kind`` and ``licence`` of a folder of faces; empty if it has no card."""
    file = folder / CARD
    if not file.is_file():
        return {}
    try:
        card = json.loads(file.read_text())
        return {key: str(card[key]) for key in ("kind", "licence")}
    except (ValueError, KeyError, TypeError):
        raise MesynthError(f"{file} is damaged; render the faces again") from None
