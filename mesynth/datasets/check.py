"""Is my copy complete? An account of a release on disk beside the counts its authors published."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mesynth.core.emotions import SCHEMES, class_names, plain_emotion
from mesynth.core.facs import OBJECTIVE_CLASSES, parse_annotation
from mesynth.datasets.database import Published, differences, editions, emotion_counts, plain_counts
from mesynth.datasets.load import ClipNote, Loaded
from mesynth.store.manifest import Manifest

if TYPE_CHECKING:
    from rich.console import Group


_LISTED = 12


@dataclass(frozen=True, kw_only=True)
class Check:
    """What :func:`check` found; all counts are of expressions, not of videos."""

    database: str
    title: str
    kind: str
    """"real", or "rendered": made by mesynth in the layout of this database."""
    part: str
    root: str
    sources: tuple[str, ...]
    annotated: int
    usable: int
    subjects: int
    fps: tuple[float, ...]
    problems: tuple[ClipNote, ...]
    corrected: tuple[ClipNote, ...]
    undecided: tuple[ClipNote, ...]
    """Clips whose action units are annotated but not all decided: they count as unknown, not as absent."""
    action_units: dict[str, int]
    """Usable clips whose action units are "decided", "undecided" or "not annotated"."""
    missing_frames: dict[str, int]
    warnings: dict[str, int]
    """Clips by kind of warning (numbers taken out)."""
    unannotated: tuple[str, ...]
    emotions: dict[str, int]
    """The database's own words."""
    classes: dict[str, dict[str, int]]
    """Scheme -> class -> clips; "" counts the clips a scheme leaves out."""
    published: Published
    edition: str
    """Of the annotation; "" where its counts are those of no known edition."""
    labels_sha256: str
    """Of all clips and their emotions (:func:`mesynth.datasets.database.labels_hash`)."""
    known: tuple[str, ...]
    """Rows of this edition that are known to be changed or faulty."""
    differences: tuple[str, ...]
    """What is not as published: ``clips 254 (255)``, ``surprise 28 (25)``, the published count in brackets."""
    notes: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Every annotated clip is usable with all its frames; clips, subjects, emotions are as many as published."""
        return not self.problems and not self.missing_frames and not self.differences

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
        if self.kind != "real":
            facts.add_row("kind", f"{self.kind} by mesynth, of nobody")
        facts.add_row("annotation", ", ".join(self.sources) or "folder names")
        if self.edition or editions(self.database):
            facts.add_row("edition", self.edition or "unknown")
        facts.add_row("clips annotated", _beside(self.annotated, said.clips))
        facts.add_row("clips usable", str(self.usable))
        facts.add_row("subjects", _beside(self.subjects, said.subjects))
        facts.add_row("frames a second", ", ".join(f"{f:g}" for f in self.fps))
        facts.add_row("cells corrected", str(len(self.corrected)))
        facts.add_row("action units", ", ".join(f"{kind} {n}" for kind, n in self.action_units.items() if n))
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
        plain_published = plain_counts(said.emotions)
        counts.add_row("own words", _counts(self.emotions, said.emotions, plain_published))
        for scheme, found in self.classes.items():
            counts.add_row(scheme, _counts(found, said.objective if scheme == "objective" else {}))
        parts: list[Any] = [facts, counts]
        for title, entries in (
            ("cannot be used", [f"{p.clip}: {p.reason}" for p in self.problems]),
            ("corrected", [f"{p.clip}: {p.reason}" for p in self.corrected]),
            ("not as published", list(self.differences)),
            ("known", list(self.known)),
            ("undecided", [f"{p.clip}: {p.reason}" for p in self.undecided]),
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
    coded: Counter[str] = Counter(dict.fromkeys(("decided", "undecided", "not annotated"), 0))
    for row in manifest:
        # of a rendered clip the cell is a rough copy of the values; a real one's may name an AU outside the vocabulary
        exact = row.provenance.kind != "real" and all(row.au_known)
        annotation = parse_annotation(row.au_text)
        coded["decided" if exact or annotation.complete else "not annotated" if annotation.empty else "undecided"] += 1
    name = loaded.release.database or database.name
    counted = {scheme: Counter(map(str, manifest.labels(scheme))) for scheme in (*SCHEMES, "objective")}
    orders = {scheme: class_names(scheme, name) for scheme in SCHEMES} | {"objective": OBJECTIVE_CLASSES}
    edition = loaded.edition.edition
    published = edition.published if edition else database.published.get(loaded.part, Published())
    published = Published() if loaded.selected else loaded.release.published or published
    subjects = len({(line.database, line.subject) for line in loaded.release.lines})
    return Check(
        database=name,
        title=database.title,
        kind=loaded.release.kind,
        part=loaded.part,
        root=str(manifest.root),
        sources=loaded.release.sources,
        annotated=len(loaded.release.lines),
        usable=len(manifest),
        subjects=subjects,
        fps=tuple(sorted({float(f) for f in manifest.column("fps")})),
        problems=loaded.problems,
        corrected=loaded.corrected,
        undecided=loaded.undecided,
        action_units=dict(coded),
        missing_frames=loaded.missing_frames,
        warnings=kinds_of_warnings(manifest),
        unannotated=loaded.unannotated,
        emotions=dict(Counter(map(str, manifest.column("emotion"))).most_common()),
        classes={scheme: _ordered(counted[scheme], orders[scheme]) for scheme in counted},
        published=published,
        edition=loaded.release.edition or loaded.edition.name,
        labels_sha256=loaded.edition.labels_sha256,
        known=tuple(map(str, loaded.edition.known)),
        differences=_differences(loaded, published, subjects),
        notes=(*loaded.release.notes, *loaded.edition.notes),
    )


def _differences(loaded: Loaded, published: Published, subjects: int) -> tuple[str, ...]:
    """Counts that are not the published ones; published emotions count only where they add up to the clips."""
    lines = loaded.release.lines
    totals = {"clips": (len(lines), published.clips), "subjects": (subjects, published.subjects)}
    said = [f"{name} {n} ({own})" for name, (n, own) in totals.items() if own is not None and n != own]
    if published.emotions and sum(published.emotions.values()) in {published.clips, None}:
        said += differences(emotion_counts(lines), plain_counts(published.emotions))
    if published.objective and all(line.objective for line in lines):
        said += differences(Counter(line.objective for line in lines), published.objective)
    return tuple(said)


def kinds_of_warnings(manifest: Manifest) -> dict[str, int]:
    """Clips by kind of warning, numbers taken out, the most frequent first."""
    kinds: Counter[str] = Counter()
    for warnings in manifest.table["warnings"].to_pylist():
        kinds.update({_without_numbers(warning) for warning in warnings})
    return dict(kinds.most_common())


def _without_numbers(warning: str) -> str:
    """``apex frame 50 is not on disk; frame 49 taken`` -> ``apex frame N is not on disk``."""
    return " ".join("N" if word.strip("',;").isdigit() else word for word in warning.split(";")[0].split())


def _ordered(counts: Counter[str], names: tuple[str, ...]) -> dict[str, int]:
    return {n: counts.get(n, 0) for n in names} | ({"": counts[""]} if counts.get("") else {})


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
