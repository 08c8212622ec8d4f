"""DFME (Zhao et al., IEEE TAC 2023): micro-expressions at 200, 300 and 500 frames a second, in three sets.

Release layout: ``DFME_train/sub0003_01/00109.png`` (also unpacked as ``train_data/``, ``test_data_A/``,
``test_data_B/``) beside one workbook a set (``training_full_with_AU.xlsx``, ``testA_full_with_AU.xlsx``, ...). The
frame rate is given per clip.
"""

from __future__ import annotations

import re
from pathlib import Path

from mesynth.core.errors import DatasetLayoutError
from mesynth.datasets import files
from mesynth.datasets.database import AnnotatedClip, Release, shipped

_PARTS = ("train", "testA", "testB")
# of a name in lower case, letters and digits alone: trainingfullwithau, dfmetestafullwithau, testdataa
_PART_NAMES = {"train": r"train", "testA": r"test(data|set)?a(?!nno)", "testB": r"test(data|set)?b"}
_FOLDERS = (
    "DFME", "DFME_train", "train", "train_data", "training", "training_data", "DFME_testA", "DFME_test_A", "testA",
    "test_A", "test_data_A", "DFME_testB", "DFME_test_B", "testB", "test_B", "test_data_B",
)  # fmt: skip
_BOOK_FOLDERS = ("DFME", "annotation", "annotations", "full_release_annotation", "label", "labels")
_EMOTIONS = ("anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise")
"""By EmotionId."""
_COLUMNS = {
    **files.USUAL_COLUMNS,
    "emotion": ("Emotion",),
    "emotion_id": ("EmotionId", "Emotion_Id"),
    "fps": ("Fps", "FPS", "Frame rate"),
    "aus": ("AU", "AUs", "Action Units"),
}
_CLIP = re.compile(r"^sub0*(\d+)_0*(\d+)$", re.IGNORECASE)


def is_release(folder: Path) -> bool:
    """Whether ``folder`` is the root of a DFME release: its set folders, its workbooks, or its clip folders."""
    names = [p.name for p in folder.iterdir()]
    return any(re.match(r"dfme_?(train|test)", n, re.IGNORECASE) or _is_book(n) or _is_clip(n) for n in names)


def read(root: Path, part: str, frames: str, annotation: Path | None = None) -> Release:
    """The lines of one set's workbook, or of all sets that are there. Raises DatasetLayoutError."""
    if part != "all":
        return _read(root, part, annotation)
    if annotation:
        raise DatasetLayoutError(
            f"--annotation {annotation} is one set's file; name the set: --part train, testA, testB"
        )
    found = [_read(root, name) for name in _PARTS if _book(root, name)]
    if not found:
        raise files.no_file(_usual("train"), root)
    absent = [name for name in _PARTS if not _book(root, name)]
    return Release(
        lines=tuple(line for release in found for line in release.lines),
        sources=tuple(source for release in found for source in release.sources),
        notes=(f"no workbook of {', '.join(absent)} is there",) if absent else (),
    )


def _read(root: Path, part: str, annotation: Path | None = None) -> Release:
    book = files.annotation_file(annotation, _book(root, part), _usual(part), root)
    sheet = files.read_workbook(book, _COLUMNS, ("subject", "emotion", "emotion_id", "aus", "apex"))
    places = _Places(root, part)
    return Release(
        lines=tuple(_line(book, row, part, places) for row in sheet.rows),
        sources=(files.place_of(book, root),),
    )


# ---------------------------------------------------------------- finding files


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _is_part(name: str, part: str) -> bool:
    return re.search(_PART_NAMES[part], _plain(name)) is not None


def _is_book(name: str) -> bool:
    """``training_full_with_AU.xlsx``, ``DFME_test_A_full_with_AU.xlsx``, ``dfme_train.xlsx``."""
    plain = _plain(Path(name).stem)
    return (
        name.lower().endswith((".xlsx", ".xls"))
        and ("fullwithau" in plain or "dfme" in plain)
        and any(_is_part(plain, part) for part in _PARTS)
    )


def _is_clip(name: str) -> bool:
    return re.fullmatch(r"sub\d{4}_\d+", name, re.IGNORECASE) is not None  # CASME and CASME II have sub01


def _book(root: Path, part: str) -> Path | None:
    found = [book for book in files.nested_workbooks(root, *_BOOK_FOLDERS) if _is_part(book.stem, part)]
    return max(found, key=lambda book: "withau" in _plain(book.name), default=None)


def _usual(part: str) -> str:
    return f"{'training' if part == 'train' else part}_full_with_AU.xlsx"


class _Places:
    """Clip folders of one set, found by name and, where the padding differs, by number."""

    def __init__(self, root: Path, part: str) -> None:
        candidates = [(folder, files.subfolders(folder)) for folder in files.nested(root, *_FOLDERS)]
        holding = [(f, names) for f, names in candidates if any(map(_CLIP.match, names))]
        own = [c for c in holding if _is_part(c[0].relative_to(root).as_posix(), part)]
        own = own or [c for c in holding if c[0] == root or _plain(c[0].name) == "dfme"]  # one set, nothing around it
        if not own:
            usual = {"train": "DFME_train", "testA": "test_data_A", "testB": "test_data_B"}[part]
            raise files.no_folder(f"{usual} with clips such as sub0003_01", root, "DFME")
        folder, self.names = own[0]
        self.base = files.below(root, folder)
        self.numbers = {_number(name): real for name, real in self.names.items() if _CLIP.match(name)}

    def find(self, clip: str) -> str:
        """Relative to the root. A folder that is not there gets the workbook's name."""
        return self.base + (self.names.get(clip.lower()) or self.numbers.get(_number(clip)) or clip)


def _number(clip: str) -> tuple[int, int] | None:
    match = _CLIP.match(clip)
    return (int(match[1]), int(match[2])) if match else None


# ---------------------------------------------------------------- one clip


def _line(book: Path, row: dict[str, object], part: str, places: _Places) -> AnnotatedClip:
    name = files.text_of(row["clip"])
    clip = name if part == "train" else f"{part}-{name}"
    cell = files.text_of(row.get("subject"))
    match = re.fullmatch(r"(?:sub|s)?0*(\d+)", cell, re.IGNORECASE) or _CLIP.match(name)
    fps = files.text_of(row["fps"]).lower().removesuffix("fps").strip()
    if match is None:
        problem = f"subject '{cell}' of clip '{name}' in {book.name} is no number; expected for example sub0003"
        return AnnotatedClip(subject=cell, clip=clip, folder=places.find(name), problem=f"{problem}; repair the cell")
    subject = f"sub{int(match[1]):04d}"
    if not re.fullmatch(r"\d+(\.\d+)?", fps) or float(fps) <= 0:
        problem = f"clip {subject}/{name} in {book.name} has frame rate '{fps}'; expected 200, 300 or 500"
        return AnnotatedClip(
            subject=subject, clip=clip, folder=places.find(name), problem=f"{problem}; repair the cell"
        )
    emotion, warnings = _emotion(row)
    return AnnotatedClip.of_cells(
        row, subject=subject, clip=clip, folder=places.find(name), emotion=emotion, fps=float(fps), warnings=warnings
    )


def _emotion(row: dict[str, object]) -> tuple[str, tuple[str, ...]]:
    """The word, or the word of the id where there is none; a warning where the two disagree."""
    word, number = files.text_of(row.get("emotion")).lower(), files.text_of(row.get("emotion_id"))
    by_id = _EMOTIONS[int(number)] if number.isdecimal() and int(number) < len(_EMOTIONS) else ""
    if word and by_id and word != by_id:
        return word, (f"emotion {word} but EmotionId {number} ({by_id}); the word was kept",)
    return word or by_id, ()


DFME = shipped("dfme", is_release=is_release, read=read)
