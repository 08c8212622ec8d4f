"""Is my copy complete? An account of a release on disk beside the counts its authors published."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mesynth.core.emotions import SCHEMES, class_names, plain_emotion
from mesynth.datasets.database import Published
from mesynth.datasets.load import ClipNote, Loaded

if TYPE_CHECKING:
    from rich.console import Group


_LISTED = 12
_OBJECTIVE = ("I", "II", "III", "IV", "V", "VI", "VII")


@dataclass(frozen=True, kw_only=True)
class Check:
    """What :func:`check` found; all counts are of expressions, not of videos."""

    database: str
    title: str
    part: str
    root: str
    sources: tuple[str, ...]
    annotated: int
    usable: int
    subjects: int
    fps: tuple[float, ...]
    problems: tuple[ClipNote, ...]
    corrected: tuple[ClipNote, ...]
    missing_frames: dict[str, int]
    warnings: dict[str, int]
    """Clips by kind of warning (numbers taken out)."""
    unannotated: tuple[str, ...]
    emotions: dict[str, int]
    """The database's own words."""
    classes: dict[str, dict[str, int]]
    """Scheme -> class -> clips; "" counts the clips a scheme leaves out."""
    published: Published
    notes: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Every annotated clip is usable with all its frames, and there are as many as published."""
        as_published = self.published.clips is None or self.annotated == self.published.clips
        return not self.problems and not self.missing_frames and as_published

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"complete": self.complete}

    def table(self) -> Group:
        """For people: what was found, counts beside the published ones, what to look at."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        facts = Table(title=f"{self.title}, part {self.part}: {self.root}", title_justify="left", show_header=False)
        facts.add_column(style="bold")
        facts.add_column()
        said = self.published
        facts.add_row("annotation", ", ".join(self.sources) or "folder names")
        facts.add_row("clips annotated", _beside(self.annotated, said.clips))
        facts.add_row("clips usable", str(self.usable))
        facts.add_row("subjects", _beside(self.subjects, said.subjects))
        facts.add_row("frames a second", ", ".join(f"{f:g}" for f in self.fps))
        facts.add_row("cells corrected", str(len(self.corrected)))
        missing = sum(self.missing_frames.values())
        facts.add_row("frames missing", f"{missing} in {len(self.missing_frames)} clips" if missing else "0")
        facts.add_row("folders without annotation", str(len(self.unannotated)))
        for kind, n in self.warnings.items():
            facts.add_row("warning", f"{n} x {kind}")
        for note in self.notes:
            facts.add_row("note", note)

        counts = Table(title="Clips per class (published)", title_justify="left")
        counts.add_column("scheme", style="bold")
        counts.add_column("clips")
        plain_published = _plain(said.emotions)
        counts.add_row("own words", _counts(self.emotions, said.emotions, plain_published))
        for scheme, found in self.classes.items():
            counts.add_row(scheme, _counts(found, said.objective if scheme == "objective" else {}))
        parts: list[Any] = [facts, counts]
        for title, entries in (
            ("cannot be used", [f"{p.clip}: {p.reason}" for p in self.problems]),
            ("corrected", [f"{p.clip}: {p.reason}" for p in self.corrected]),
            ("frames missing", [f"{clip}: {n}" for clip, n in self.missing_frames.items()]),
            ("no annotation names", list(self.unannotated)),
        ):
            parts += [Text(f"{title}: {entry}") for entry in entries[:_LISTED]]
            if len(entries) > _LISTED:
                parts.append(Text(f"{title}: and {len(entries) - _LISTED} more (all with --json)"))
        parts.append(Text("complete" if self.complete else "NOT complete", style="bold"))
        return Group(*parts)


def check(loaded: Loaded) -> Check:
    """Count what a release holds; nothing is written and no frame is decoded."""
    manifest, database = loaded.manifest, loaded.database
    kinds: Counter[str] = Counter()
    for row in manifest:
        kinds.update({_without_numbers(warning) for warning in row.warnings})
    name = loaded.release.database or database.name
    counted = {scheme: Counter(map(str, manifest.labels(scheme))) for scheme in (*SCHEMES, "objective")}
    orders = {scheme: class_names(scheme, name) for scheme in SCHEMES} | {"objective": _OBJECTIVE}
    return Check(
        database=name,
        title=database.title,
        part=loaded.part,
        root=str(manifest.root),
        sources=loaded.release.sources,
        annotated=len(loaded.release.lines),
        usable=len(manifest),
        subjects=len({(line.database, line.subject) for line in loaded.release.lines}),
        fps=tuple(sorted({float(f) for f in manifest.column("fps")})),
        problems=loaded.problems,
        corrected=loaded.corrected,
        missing_frames=loaded.missing_frames,
        warnings=dict(kinds.most_common()),
        unannotated=loaded.unannotated,
        emotions=dict(Counter(map(str, manifest.column("emotion"))).most_common()),
        classes={scheme: _ordered(counted[scheme], orders[scheme]) for scheme in counted},
        published=Published() if loaded.selected else database.published.get(loaded.part, Published()),
        notes=loaded.release.notes,
    )


def _without_numbers(warning: str) -> str:
    """``apex frame 50 is not on disk; frame 49 taken`` -> ``apex frame N is not on disk``."""
    return " ".join("N" if word.strip("',;").isdigit() else word for word in warning.split(";")[0].split())


def _ordered(counts: Counter[str], names: tuple[str, ...]) -> dict[str, int]:
    return {n: counts.get(n, 0) for n in names} | ({"": counts[""]} if counts.get("") else {})


def _plain(counts: Any) -> dict[str, int]:
    return {plain_emotion(word): n for word, n in counts.items()}


def _beside(found: int, published: int | None) -> str:
    return str(found) if published is None else f"{found} ({published})"


def _counts(found: dict[str, int], published: Any, plain_published: dict[str, int] | None = None) -> str:
    """``disgust 63 (63), fear 1 (2)``; a word that only the paper has is shown with 0."""
    said = plain_published if plain_published is not None else dict(published)
    merged: Counter[str] = Counter()
    for word, n in found.items():
        merged[plain_emotion(word) if plain_published is not None else word] += n
    words = [*merged, *(word for word in said if word not in merged)]
    return ", ".join(f"{word or 'none'} {_beside(merged[word], said.get(word))}" for word in words)
