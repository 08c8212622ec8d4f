"""From a design, faces and a manifest of coded AUs to a plan: checked as a whole before anything is written."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mesynth.corpus.au_sources import make_sources
from mesynth.corpus.design import Design
from mesynth.corpus.faces import find_faces
from mesynth.corpus.plan_file import PlanFace, StoredPlan, plan_faces, virtual_faces, write_plan_folder
from mesynth.corpus.plan_summary import Summary, summarise
from mesynth.corpus.planning import Planner
from mesynth.errors import ConfigError, LeakError
from mesynth.manifest import Manifest


@dataclass(frozen=True)
class Draft:
    """A plan that is not written yet."""

    design: Design
    planner: Planner
    faces: list[PlanFace]
    faces_path: Path | None
    aus_hash: str
    excluded: tuple[str, ...]

    def summary(self) -> Summary:
        """Draws every row once and counts."""
        return summarise(self.planner, self.faces, self.design.clip.size)

    def write(self, out: Path) -> StoredPlan:
        """See :func:`mesynth.corpus.plan_file.write_plan_folder`."""
        info = {"size": self.design.clip.size, "aus_from": self.aus_hash, "excluded": list(self.excluded)}
        if self.faces_path is not None:
            info["faces_path"] = os.path.relpath(self.faces_path, out)
        return write_plan_folder(out, self.planner, self.faces, self.design.plain(), info)


def draft_plan(
    design: Design,
    *,
    faces: Path | None = None,
    people: int = 0,
    aus_from: Path | None = None,
    exclude: Iterable[str] = (),
) -> Draft:
    """The plan of ``design`` on ``faces`` (see :func:`mesynth.corpus.faces.find_faces`), or on ``people`` face shapes.

    ``aus_from``: the manifest that coded sources read. ``exclude``: subjects as ``database/subject``; neither their
    faces nor their labels take part, nor what was made from them.

    Raises:
        ConfigError: faces and people both or neither, a subject that occurs nowhere, a source without its manifest.
        LeakError: nothing is left without the excluded subjects.
        MesynthError: what :func:`find_faces` and :class:`Manifest` refuse.
    """
    if (faces is None) == (people < 1):
        raise ConfigError("give either --faces, or --people for flow images of people without pictures, one of the two")
    excluded = tuple(sorted(set(exclude)))
    manifest = None if aus_from is None else Manifest.read(aus_from)
    known = set() if manifest is None else set(manifest.subject_keys())
    found = virtual_faces(people) if faces is None else plan_faces(find_faces(faces))
    known |= {key for face in found for key in face.seen}
    for key in excluded:
        if key not in known:
            raise ConfigError(
                f"--exclude-subjects {key} is no subject of the faces or of --aus-from; write database/subject, for "
                f"example {min(known)}"
            )
    kept = [face for face in found if not set(face.seen) & set(excluded)]
    if not kept:
        raise LeakError(f"every face has seen one of {', '.join(excluded)}; give faces of other people")
    sources = make_sources(design.aus, manifest, excluded)
    return Draft(
        design=design,
        planner=Planner(design, len(kept), sources),
        faces=kept,
        faces_path=faces,
        aus_hash="" if manifest is None else manifest.hash(),
        excluded=excluded,
    )
