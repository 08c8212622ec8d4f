"""What coders answered, checked and counted: agreement, action units against requests, naturalness, real or not.

Answers are data that anyone may have written: every value is checked against the panel's key before it counts.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from mesynth.core.errors import ConfigError, MesynthError
from mesynth.core.facs import AU_CODES, AU_INDEX, AU_NAMES, LETTER_INTENSITY, MIDLINE
from mesynth.core.seeds import stream
from mesynth.core.statistics import group_weights, interval_of, percentiles
from mesynth.metrics.base import MeasureRow, format_number
from mesynth.panel.agreement import alpha_interval, f1, f1_interval, hits, kappa
from mesynth.panel.write import FORMAT, KEY, NATURALNESS, check_coder
from mesynth.store.manifest import KINDS
from mesynth.store.pages import render
from mesynth.store.run_folder import write_text

ANSWERS = f"{FORMAT}-answers"
RESULTS, RESULT_FORMAT = "panel.json", f"{FORMAT}-results"
GROUP = "coders' panel"
LETTERS = {letter: number for number, letter in enumerate(LETTER_INTENSITY, 1)}
SIDES = ("B", "L", "R")
MOST_BYTES = 32 << 20
"""Of a file of answers; a thousand clips coded in full are a tenth of it."""
BOOTSTRAPS = ("subject", "clip")
TIMES = ("onset", "apex", "offset")


class AnswersError(MesynthError):
    """A file of answers, or a panel's key, is damaged, belongs to another panel, or says what cannot be."""


# ------------------------------------------------------------------- reading


@dataclass(frozen=True)
class Coded:
    """One coded action: FACS letters as 1 to 5, None without one; frames of the clip as shown, from 0."""

    au: int
    side: str
    intensity: int | None = None
    onset: int | None = None
    apex: int | None = None
    offset: int | None = None


@dataclass(frozen=True)
class Judgement:
    """One coder on one clip; None where they left it open. ``aus`` empty: nothing moves."""

    aus: tuple[Coded, ...] | None = None
    naturalness: int | None = None
    real: bool | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Answers:
    """One coder's file."""

    coder: str
    items: dict[str, Judgement]


def _json(path: Path, what: str) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise AnswersError(f"{path} cannot be read ({error.strerror}); check the path") from None
    if len(data) > MOST_BYTES:
        raise AnswersError(f"{path} has more than {MOST_BYTES:,} bytes, which no {what} has; is it the right file?")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:120]
        raise AnswersError(f"{path} is no {what}: it is torn or no JSON ({reason}); save it anew") from None
    if not isinstance(found, dict):
        raise AnswersError(f"{path} is no {what}: it holds a {type(found).__name__}; give the file that was saved")
    return found


def read_key(folder: Path | str) -> dict[str, Any]:
    """The panel's key. Raises AnswersError where there is none, or it is damaged."""
    path = Path(folder) / KEY
    if not path.is_file():
        raise AnswersError(f"no {KEY} in {folder}; give the folder that `mesynth panel --out` wrote, which holds it")
    key = _json(path, "key of a panel")
    try:
        if key["format"] != FORMAT:
            raise AnswersError(f"{path} has the format '{key['format']}', not {FORMAT}; is it the right file?")
        for name, item in key["items"].items():
            fits = (
                item["role"] in ("practice", "clip", "repeat")
                and item["kind"] in KINDS
                and isinstance(item["frames"], int)
                and np.shape(item["present"]) == np.shape(item["intensity"]) == (len(AU_CODES), 2)
                and all(isinstance(item[word], str) for word in ("of", "corpus", "clip_id", "subject", "emotion"))
                and (item["role"] != "repeat" or key["items"][item["of"]]["role"] == "clip")
                and item["corpus"] in key["corpora"]
            )
            if not fits:
                raise ValueError(name)
        if not isinstance(key["panel"], str) or not all(isinstance(c["hash"], str) for c in key["corpora"].values()):
            raise ValueError("panel")
        for name in key["coders"]:
            check_coder(name)
        float(key["fps"])
    except AnswersError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise AnswersError(f"{path} is damaged ({type(error).__name__} at {error}); take the copy you kept") from None
    return key


def read_answers(path: Path | str, key: Mapping[str, Any]) -> Answers:
    """A coder's answers, every value checked against the panel's ``key``.

    Raises:
        AnswersError: torn, of another panel or format, an unknown clip, an AU, side, letter, frame or rating that
            cannot be, the same AU twice, a coder who was not asked.
    """
    path = Path(path)
    found = _json(path, "file of answers")

    def wrong(what: str) -> AnswersError:
        return AnswersError(f"{path}: {what}")

    if found.get("format") != ANSWERS:
        raise wrong(f"format {_shown(found.get('format'))} is not {ANSWERS}; give the file that the coding page saved")
    if found.get("panel") != key["panel"]:
        raise wrong(
            f"the answers are to panel {_shown(found.get('panel'))}, the key is of '{key['panel']}'; give its own"
        )
    try:
        coder = check_coder(found.get("coder"))
    except ConfigError as error:
        raise wrong(str(error)) from None
    if key["coders"] and coder not in key["coders"]:
        raise wrong(f"coder '{coder}' is none of {', '.join(key['coders'])}; the panel was made for these")
    items = found.get("items")
    if not isinstance(items, dict):
        raise wrong(f"items are {_shown(items)}, not clips by name; save the file anew")
    out = {}
    for name, value in items.items():
        if name not in key["items"]:
            raise wrong(f"clip {_shown(name)} is not in the panel; save the file anew")
        try:
            out[name] = _judgement(value, int(key["items"][name]["frames"]))
        except ValueError as error:
            raise wrong(f"clip {name}: {error}") from None
    return Answers(coder, out)


def _shown(value: object) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."


def _whole(value: object, low: int, high: int, what: str) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{what} {_shown(value)} is no whole number from {low} to {high}")
    return value


def _judgement(value: object, frames: int) -> Judgement:
    if not isinstance(value, dict):
        raise ValueError(f"{_shown(value)} is no answer")
    if extra := set(value) - {"aus", "naturalness", "verdict", "seconds"}:
        raise ValueError(f"{_shown(sorted(map(str, extra))[0])} is no question of the panel")
    verdict = value.get("verdict")
    if verdict not in (None, "real", "synthetic"):
        raise ValueError(f"verdict {_shown(verdict)} is neither real nor synthetic")
    seconds = value.get("seconds", 0)
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < 1e9:
        raise ValueError(f"seconds {_shown(seconds)} is no time")
    aus = value.get("aus")
    if aus is not None and not isinstance(aus, list):
        raise ValueError(f"action units {_shown(aus)} are no list")
    coded = None if aus is None else tuple(_coded(one, frames) for one in aus)
    taken: set[tuple[int, str]] = set()
    for one in coded or ():
        for side in ("L", "R") if one.side == "B" else (one.side,):
            if (one.au, side) in taken:
                raise ValueError(f"AU {one.au} is coded twice on one side")
            taken.add((one.au, side))
    return Judgement(
        coded, _whole(value.get("naturalness"), *NATURALNESS, "naturalness"),
        None if verdict is None else verdict == "real", float(seconds),
    )  # fmt: skip


def _coded(value: object, frames: int) -> Coded:
    if not isinstance(value, dict):
        raise ValueError(f"{_shown(value)} is no action unit")
    if extra := set(value) - {"au", "side", "intensity", *TIMES}:
        raise ValueError(f"{_shown(sorted(map(str, extra))[0])} is nothing that is coded of an action unit")
    au, side, letter = value.get("au"), value.get("side"), value.get("intensity")
    if isinstance(au, bool) or not isinstance(au, int) or au not in AU_INDEX:
        raise ValueError(f"AU {_shown(au)} is not in the panel; it has {', '.join(map(str, AU_CODES))}")
    if side not in SIDES:
        raise ValueError(f"side {_shown(side)} of AU {au} is none of L, R and B (both)")
    if side != "B" and au in MIDLINE:
        raise ValueError(f"AU {au} ({AU_NAMES[au]}) has no sides, and side {_shown(side)} is given")
    if letter is not None and (not isinstance(letter, str) or letter not in LETTERS):
        raise ValueError(f"intensity {_shown(letter)} of AU {au} is none of {', '.join(LETTERS)}")
    onset, apex, offset = (_whole(value.get(name), 0, frames - 1, f"{name} of AU {au}") for name in TIMES)
    known = [time for time in (onset, apex, offset) if time is not None]
    if known != sorted(known):
        raise ValueError(f"onset, apex and offset of AU {au} are out of order: {', '.join(map(str, known))}")
    return Coded(au, side, None if letter is None else LETTERS[letter], onset, apex, offset)


def read_all(paths: Sequence[Path | str], key: Mapping[str, Any]) -> list[Answers]:
    """:func:`read_answers` of every file. Raises AnswersError when one coder occurs twice, or there is no file."""
    if not paths:
        raise AnswersError("no answers were given; name the files that coders saved, one each")
    out: dict[str, tuple[Answers, Path]] = {}
    for path in map(Path, paths):
        found = read_answers(path, key)
        if before := out.get(found.coder.casefold()):
            raise AnswersError(
                f"{path}: coder '{found.coder}' is in {before[1]}, too; give the latest file of each alone"
            )
        out[found.coder.casefold()] = found, path
    return [found for found, _ in sorted(out.values(), key=lambda pair: pair[0].coder.casefold())]


# ------------------------------------------------------------------- tables of answers


@dataclass(frozen=True)
class Tables:
    """Answers of C coders to U clips as arrays, NaN where something was left open.

    ``presence``, ``intensity`` (1-5), ``side`` (0 both, 1 left, 2 right) [C,U,K]; ``naturalness``, ``real`` [C,U].
    """

    presence: np.ndarray
    intensity: np.ndarray
    side: np.ndarray
    naturalness: np.ndarray
    real: np.ndarray

    @staticmethod
    def of(answers: Sequence[Answers], names: Sequence[str]) -> Tables:
        """The answers to the clips of those names."""
        shape = len(answers), len(names), len(AU_CODES)
        presence, intensity, side = (np.full(shape, np.nan) for _ in range(3))
        naturalness, real = (np.full(shape[:2], np.nan) for _ in range(2))
        for c, coder in enumerate(answers):
            for u, name in enumerate(names):
                judged = coder.items.get(name)
                if judged is None:
                    continue
                if judged.naturalness is not None:
                    naturalness[c, u] = judged.naturalness
                if judged.real is not None:
                    real[c, u] = judged.real
                if judged.aus is None:
                    continue
                presence[c, u] = 0
                for code in {one.au for one in judged.aus}:
                    k, of = AU_INDEX[code], [one for one in judged.aus if one.au == code]
                    presence[c, u, k] = 1
                    letters = [one.intensity for one in of if one.intensity is not None]
                    if letters:
                        intensity[c, u, k] = max(letters)
                    side[c, u, k] = 0 if len(of) == 2 else SIDES.index(of[0].side)
        return Tables(presence, intensity, side, naturalness, real)


def truth_of(items: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """[U,K]: 1 where an AU was asked for or annotated on any side, 0 where not, -1 where that is not known."""
    present = np.array([item["present"] for item in items], int).reshape(len(items), len(AU_CODES), 2)
    return np.where((present == 1).any(-1), 1, np.where((present == -1).any(-1), -1, 0))


# ------------------------------------------------------------------- figures

Figure = dict[str, Any]


def _figure(value: float, low: float | None = None, high: float | None = None, n: int = 0, why: str = "") -> Figure:
    if not math.isfinite(value):
        return {"value": None, "low": None, "high": None, "n": n, "why": why or "not defined"}
    return {"value": value, "low": low, "high": high, "n": n, "why": ""}


@dataclass
class Results:
    """What a panel found, as plain values; :meth:`write` makes the files of it."""

    panel: str
    bootstrap: str
    coders: list[dict[str, Any]]
    sources: list[dict[str, Any]]
    corpora: dict[str, dict[str, Any]]
    agreement: dict[str, Figure]
    accuracy: dict[str, Figure]
    per_au: list[dict[str, Any]]
    pairs: list[dict[str, Any]]
    repeats: list[dict[str, Any]]
    rows: dict[str, list[MeasureRow]]
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"format": RESULT_FORMAT} | asdict(self)

    def to_csv(self) -> str:
        """A line per corpus and figure, as measures.csv of `mesynth measure` has them."""
        lines = [
            (name, r.group, r.name, r.value, r.low, r.high, r.unit, r.n, r.better, int(r.headline),
             "; ".join(f"{k}={v!r}" for k, v in r.reference.items()), r.note, r.key)
            for name, rows in self.rows.items() for r in rows
        ]  # fmt: skip
        header = (
            "corpus", "group", "measure", "value", "low", "high", "unit", "n", "better", "headline", "beside", "note",
            "key",
        )  # fmt: skip
        return _csv(header, lines)

    def write(self, folder: Path | str, answers: Sequence[Answers], key: Mapping[str, Any]) -> list[Path]:
        """panel.html, panel.json, panel.csv (figures) and answers.csv (a line per coded action unit)."""
        folder = Path(folder)
        texts = {
            RESULTS: json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n",
            "panel.csv": self.to_csv(),
            "answers.csv": answers_csv(answers, key),
            "panel.html": page(self),
        }
        for name, text in texts.items():
            write_text(folder / name, text)
        return [folder / name for name in texts]


def _csv(header: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(["" if cell is None else cell for cell in line] for line in lines)
    return buffer.getvalue()


def answers_csv(answers: Sequence[Answers], key: Mapping[str, Any]) -> str:
    """All answers with what the clips are: a line per action unit, and one without where none was named."""
    header = (
        "coder", "item", "role", "corpus", "kind", "clip_id", "subject", "asked", "naturalness", "verdict", "seconds",
        "au", "side", "intensity", *TIMES,
    )  # fmt: skip
    letters = {number: letter for letter, number in LETTERS.items()}
    lines: list[Sequence[Any]] = []
    for coder in answers:
        for name, judged in coder.items.items():
            item = key["items"][name]
            verdict = None if judged.real is None else "real" if judged.real else "synthetic"
            left = (coder.coder, name, item["role"], item["corpus"], item["kind"], item["clip_id"], item["subject"],
                    item.get("au_text", ""), judged.naturalness, verdict, judged.seconds)  # fmt: skip
            none = "none" if judged.aus == () else None
            coded: list[Sequence[Any]] = [
                (*left, one.au, one.side, letters.get(one.intensity or 0), one.onset, one.apex, one.offset)
                for one in judged.aus or ()
            ]
            lines += coded or [(*left, none, None, None, None, None, None)]
    return _csv(header, lines)


def collect(
    key: Mapping[str, Any], answers: Sequence[Answers], *, bootstrap: str = "subject", seed: int = 0
) -> Results:
    """Agreement and figures of the answers. Practice clips count nowhere, repeats for a coder with themselves alone.

    Intervals are over clips of whole subjects (or single clips, ``bootstrap="clip"``); coders are taken as they are.

    Raises:
        ConfigError: another ``bootstrap``.
    """
    if bootstrap not in BOOTSTRAPS:
        raise ConfigError(f"bootstrap '{bootstrap}' is unknown; choose from {', '.join(BOOTSTRAPS)}")
    names = [name for name, item in key["items"].items() if item["role"] == "clip"]
    items = [key["items"][name] for name in names]
    groups = [item["subject"] if bootstrap == "subject" else name for name, item in zip(names, items, strict=True)]
    tables, truth = Tables.of(answers, names), truth_of(items)
    kinds = np.array([item["kind"] for item in items])
    homes = np.array([item["corpus"] for item in items])
    cells = hits(tables.presence, truth[None]).sum(0)  # [U,K,3], over coders
    overall = _Part(tables, cells, groups, seed)
    sources = [
        {"kind": kind, "clips": int((kinds == kind).sum())} | overall.of(kinds == kind)
        for kind in KINDS
        if (kinds == kind).any()
    ]
    corpora = {
        name: {"hash": key["corpora"][name]["hash"], "clips": int((homes == name).sum()),
               "kinds": sorted(set(kinds[homes == name]))} | overall.of(homes == name)
        for name in key["corpora"] if (homes == name).any()
    }  # fmt: skip
    agreement = _agreement(tables, groups, seed)
    accuracy = _accuracy(tables, kinds, groups, seed)
    real = next((source for source in sources if source["kind"] == "real"), None)
    return Results(
        panel=key["panel"],
        bootstrap=bootstrap,
        coders=[_coder(one, names, c, tables, cells_of(tables, truth, c), kinds) for c, one in enumerate(answers)],
        sources=sources,
        corpora=corpora,
        agreement=agreement,
        accuracy=accuracy,
        per_au=_per_au(tables, truth, kinds, cells, groups, seed),
        pairs=_pairs(answers, tables),
        repeats=_repeats(answers, key),
        rows={
            name: _rows(found, real, agreement, accuracy, bootstrap)
            for name, found in corpora.items()
        },
        notes=_notes(key, answers, names, groups, bootstrap),
    )  # fmt: skip


def cells_of(tables: Tables, truth: np.ndarray, coder: int) -> np.ndarray:
    """[U,K,3] of one coder."""
    return hits(tables.presence[coder], truth)


@dataclass(frozen=True)
class _Part:
    tables: Tables
    cells: np.ndarray
    groups: Sequence[str]
    seed: int

    def of(self, mask: np.ndarray) -> dict[str, Figure]:
        """Naturalness, share taken for real, F1, of the clips in ``mask``."""
        groups = [group for group, use in zip(self.groups, mask, strict=True) if use]
        return {
            "naturalness": self._mean(self.tables.naturalness[:, mask], groups, "naturalness"),
            "called_real": self._mean(self.tables.real[:, mask], groups, "real"),
            "f1": self._f1(self.cells[mask].sum(1), groups),
        }

    def _mean(self, answers: np.ndarray, groups: Sequence[str], what: str) -> Figure:
        """Mean over clips of the mean over the coders who answered; n: clips."""
        given = np.isfinite(answers)
        rated = given.any(0)
        if not rated.any():
            return _figure(math.nan, why="nobody answered")
        values = np.nansum(answers[:, rated], 0) / given[:, rated].sum(0)
        own = [group for group, use in zip(groups, rated, strict=True) if use]
        low, high = interval_of(values, np.mean, own, stream(self.seed, f"panel-{what}"))
        return _figure(float(values.mean()), low, high, len(values))

    def _f1(self, counts: np.ndarray, groups: Sequence[str]) -> Figure:
        value, low, high = f1_interval(counts, groups, seed=self.seed)
        n = int((counts.sum(1) > 0).sum())
        return _figure(value, low, high, n, "no action unit was known of these clips, or none named")


def _agreement(tables: Tables, groups: Sequence[str], seed: int) -> dict[str, Figure]:
    """Krippendorff's alpha between coders, of everything that was asked."""
    if len(tables.presence) < 2:
        return {}

    def of(ratings: np.ndarray, metric: str, own: Sequence[str] = groups) -> Figure:
        value, low, high = alpha_interval(ratings, metric, own, seed=seed)
        paired = int((np.isfinite(ratings).sum(0) > 1).sum())
        return _figure(value, low, high, paired, "all answers are alike" if paired else "no clip has two answers")

    k = len(AU_CODES)
    cells = [group for group in groups for _ in range(k)]
    flat = {name: getattr(tables, name).reshape(len(tables.presence), -1) for name in ("presence", "intensity", "side")}
    return {
        "presence": of(flat["presence"], "nominal", cells),
        "intensity": of(flat["intensity"], "ordinal", cells),
        "intensity_interval": of(flat["intensity"], "interval", cells),
        "side": of(flat["side"], "nominal", cells),
        "naturalness": of(tables.naturalness, "ordinal"),
        "naturalness_interval": of(tables.naturalness, "interval"),
        "verdict": of(tables.real, "nominal"),
    }


def _accuracy(tables: Tables, kinds: np.ndarray, groups: Sequence[str], seed: int) -> dict[str, Figure]:
    """Share of clips told rightly: real ones, the others, and the mean of both; .5 is chance."""
    given = np.isfinite(tables.real)
    shown = given.any(0)
    right = np.where(kinds == "real", tables.real, 1 - tables.real)
    value = np.where(shown, np.nansum(right, 0) / np.maximum(given.sum(0), 1), 0.0)  # [U]
    sides = {"real": (kinds == "real") & shown, "others": (kinds != "real") & shown}
    weights = group_weights(list(groups), stream(seed, "panel-accuracy")) if len(set(groups)) > 1 else None
    shares: dict[str, np.ndarray] = {}
    out: dict[str, Figure] = {}
    for name, mask in sides.items():
        n = int(mask.sum())
        with np.errstate(invalid="ignore", divide="ignore"):
            share = float(value[mask].mean()) if n else math.nan
            drawn = None if weights is None else (weights @ (value * mask)) / (weights @ mask.astype(float))
        if drawn is not None:
            shares[name] = drawn
        low, high = (None, None) if drawn is None or not n else percentiles(drawn)
        out[name] = _figure(share, low, high, n, "no such clip was judged")
    both = [out[name]["value"] for name in sides]
    if None in both:
        return out | {"balanced": _figure(math.nan, why="real clips and others are both needed")}
    low, high = percentiles((shares["real"] + shares["others"]) / 2) if shares else (None, None)
    return out | {"balanced": _figure(float(np.mean(both)), low, high, int(shown.sum()))}


def _per_au(
    tables: Tables, truth: np.ndarray, kinds: np.ndarray, cells: np.ndarray, groups: Sequence[str], seed: int
) -> list[dict[str, Any]]:
    out = []
    for code, k in AU_INDEX.items():
        named = int(np.nansum(tables.presence[:, :, k]))
        there = int((truth[:, k] == 1).sum())
        if not named and not there:
            continue
        value, low, high = alpha_interval(tables.presence[:, :, k], "nominal", groups, seed=seed)
        counts = cells[:, k]
        score, f_low, f_high = f1_interval(counts[kinds != "real"], _of(groups, kinds != "real"), seed=seed)
        real_score, r_low, r_high = f1_interval(counts[kinds == "real"], _of(groups, kinds == "real"), seed=seed)
        out.append(
            {
                "au": code, "name": AU_NAMES[code], "named": named, "clips": there,
                "alpha": _figure(value, low, high, why="all answers are alike, or one coder"),
                "f1": _figure(score, f_low, f_high, why="never asked for, never named"),
                "f1_real": _figure(real_score, r_low, r_high, why="not annotated"),
            }
        )  # fmt: skip
    return out


def _of(groups: Sequence[str], mask: np.ndarray) -> list[str]:
    return [group for group, use in zip(groups, mask, strict=True) if use]


def _pairs(answers: Sequence[Answers], tables: Tables) -> list[dict[str, Any]]:
    out = []
    for a, b in combinations(range(len(answers)), 2):
        both = tables.presence[[a, b]]
        out.append(
            {
                "coders": [answers[a].coder, answers[b].coder],
                "clips": int(np.isfinite(both[:, :, 0]).all(0).sum()),
                "presence": _figure(kappa(both[0].ravel(), both[1].ravel())),
                "intensity": _figure(kappa(tables.intensity[a].ravel(), tables.intensity[b].ravel())),
                "naturalness": _figure(kappa(tables.naturalness[a], tables.naturalness[b])),
                "verdict": _figure(kappa(tables.real[a], tables.real[b])),
            }
        )
    return out


def _repeats(answers: Sequence[Answers], key: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each coder with themselves, on the clips that came twice."""
    twins = [(str(item["of"]), name) for name, item in key["items"].items() if item["role"] == "repeat"]
    if not twins:
        return []
    first, second = Tables.of(answers, [a for a, _ in twins]), Tables.of(answers, [b for _, b in twins])
    out = []
    for c, coder in enumerate(answers):
        apart = np.abs(first.naturalness[c] - second.naturalness[c])
        same = first.real[c] == second.real[c]
        judged = np.isfinite(first.real[c]) & np.isfinite(second.real[c])
        rated = np.isfinite(apart)
        out.append(
            {
                "coder": coder.coder,
                "clips": int(np.isfinite(first.presence[c, :, 0] + second.presence[c, :, 0]).sum()),
                "presence": _figure(kappa(first.presence[c].ravel(), second.presence[c].ravel())),
                "naturalness": _figure(float(apart[rated].mean()) if rated.any() else math.nan, n=int(rated.sum())),
                "verdict": _figure(float(same[judged].mean()) if judged.any() else math.nan, n=int(judged.sum())),
            }
        )
    return out


def _coder(
    coder: Answers, names: Sequence[str], c: int, tables: Tables, cells: np.ndarray, kinds: np.ndarray
) -> dict[str, Any]:
    coded = [coder.items[name] for name in names if name in coder.items]
    seconds = [judged.seconds for judged in coded if judged.seconds > 0]
    given = np.isfinite(tables.real[c])
    right = (tables.real[c] == (kinds == "real"))[given]
    return {
        "coder": coder.coder,
        "clips": int(np.isfinite(tables.presence[c, :, 0]).sum()),
        "seconds": _figure(float(np.median(seconds)) if seconds else math.nan, n=len(seconds)),
        "f1": _figure(float(f1(cells[kinds != "real"].sum((0, 1))))),
        "f1_real": _figure(float(f1(cells[kinds == "real"].sum((0, 1))))),
        "right": _figure(float(right.mean()) if len(right) else math.nan, n=len(right)),
    }


def _notes(
    key: Mapping[str, Any], answers: Sequence[Answers], names: Sequence[str], groups: Sequence[str], bootstrap: str
) -> list[str]:
    notes = [str(note) for note in key.get("notes", [])]
    over = "subjects" if bootstrap == "subject" else "clips"
    notes.append(f"intervals (95 %) draw {len(set(groups))} {over} anew; they say nothing of other coders")
    for coder in answers:
        open_ = sum(coder.items.get(name, Judgement()).aus is None for name in names)
        if open_:
            notes.append(f"{coder.coder} left the action units of {open_} of {len(names)} clips open")
    if len(answers) < 2:
        notes.append("one coder: nothing can be said of agreement between coders")
    return notes


def _rows(
    found: Mapping[str, Any], real: Mapping[str, Any] | None, agreement: Mapping[str, Figure],
    accuracy: Mapping[str, Figure], bootstrap: str,
) -> list[MeasureRow]:  # fmt: skip
    """Rows of `mesynth measure`'s report for one corpus."""
    over = f"bootstrap over {bootstrap}s; coders are taken as they are"

    def row(
        key: str, name: str, figure: Figure, better: str, note: str, *, unit: str = "", headline: bool = False,
        beside: Mapping[str, Figure | float] | None = None,
    ) -> MeasureRow:  # fmt: skip
        values = {k: v if isinstance(v, float) else v["value"] for k, v in (beside or {}).items()}
        reference = {k: float(v) for k, v in values.items() if v is not None}
        why = f"not measured: {figure['why']}" if figure["value"] is None else f"{note}; {over}"
        return MeasureRow(
            group=GROUP, name=name, key=key, value=figure["value"], low=figure["low"], high=figure["high"],
            n=figure["n"], unit=unit, better=better, headline=headline, reference=reference, note=why,
        )  # fmt: skip

    others = real if real is not None and found["kinds"] != ["real"] else None
    rows = [
        row("panel_naturalness", "naturalness by coders", found["naturalness"], "high",
            f"mean rating of {NATURALNESS[0]} to {NATURALNESS[1]}", unit=f"of {NATURALNESS[1]}", headline=True,
            beside={"real": others["naturalness"]} if others else None),
        row("panel_called_real", "taken for filmed by coders", found["called_real"], "", "share of judgements",
            headline=True, beside={"real": others["called_real"]} if others else None),
        row("panel_f1", "action units named by coders (F1)", found["f1"], "high",
            "against requests, of real clips against annotation", headline=True,
            beside={"real": others["f1"]} if others else None),
    ]  # fmt: skip
    if agreement:
        rows.append(row("panel_alpha", "coders' agreement on action units (alpha)", agreement["presence"], "high",
                        "Krippendorff's alpha over all clips of the panel, nominal"))  # fmt: skip
    if found["kinds"] != ["real"]:
        rows.append(row("panel_accuracy", "told from real clips by coders", accuracy["balanced"], "",
                        "mean of both sides' share told rightly, over all clips of the panel",
                        beside={"chance": 0.5}))  # fmt: skip
    return rows


# ------------------------------------------------------------------- rows for other reports


def panel_rows(folder: Path | str) -> dict[str, list[MeasureRow]]:
    """The rows of a collected panel by the hash of the corpus that they are about.

    Raises:
        AnswersError: no results there, or damaged ones.
    """
    path = Path(folder) / RESULTS if Path(folder).is_dir() else Path(folder)
    if not path.is_file():
        raise AnswersError(
            f"no {RESULTS} in {folder}; collect the answers first: mesynth panel --collect DIR ANSWERS.json"
        )
    found = _json(path, "result of a panel")
    try:
        if found["format"] != RESULT_FORMAT:
            raise ValueError(f"format {_shown(found['format'])}")
        out = {}
        for name, rows in found["rows"].items():
            made = [MeasureRow(**row) for row in rows]
            for row in made:
                numbers = [row.value, row.low, row.high, *row.reference.values()]
                if any(v is not None and not math.isfinite(float(v)) for v in numbers) or not isinstance(row.note, str):
                    raise ValueError(f"row {_shown(row.key)}")
            out[str(found["corpora"][name]["hash"])] = made
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise AnswersError(f"{path} is damaged ({_shown(str(error))}); collect the answers anew") from None
    return out


# ------------------------------------------------------------------- page


def said(figure: Figure, unit: str = "") -> str:
    """A figure with its interval, for people.

    >>> said({"value": 0.5, "low": 0.4, "high": 0.6, "n": 3, "why": ""})
    '0.5 [0.4, 0.6]'
    """
    if figure["value"] is None:
        return "–"
    text = format_number(figure["value"]) + unit
    if figure["low"] is not None and figure["high"] is not None:
        text += f" [{format_number(figure['low'])}, {format_number(figure['high'])}]"
    return text


def percent(figure: Figure) -> str:
    """A share in percent.

    >>> percent({"value": 0.512, "low": 0.4, "high": 0.6, "n": 3, "why": ""})
    '51 % [40, 60]'
    """
    if figure["value"] is None:
        return "–"
    text = f"{100 * figure['value']:.0f} %"
    if figure["low"] is not None and figure["high"] is not None:
        text += f" [{100 * figure['low']:.0f}, {100 * figure['high']:.0f}]"
    return text


def answer(results: Results) -> str:
    """The first sentence: can coders tell, and do they agree?"""
    n = len(results.coders)
    who = "One coder" if n == 1 else f"{n} coders"
    balanced = results.accuracy["balanced"]
    sentences = []
    if balanced["value"] is not None:
        low, high = balanced["low"], balanced["high"]
        if low is None or high is None:
            verb = f"told real clips from others in {percent(balanced)} of cases, of too few subjects for an interval"
        elif low > 0.5:
            verb = f"can tell real clips from others: {percent(balanced)} were judged rightly"
        elif high < 0.5:
            verb = f"took others for real more often than not: {percent(balanced)} were judged rightly"
        else:
            verb = f"were not shown to tell real clips from others: {percent(balanced)} were judged rightly"
        sentences.append(f"{who} {verb} (50 % is chance).")
    rated = [f"{s['kind']} {said(s['naturalness'])}" for s in results.sources if s["naturalness"]["value"] is not None]
    if rated:
        sentences.append(f"Naturalness of {NATURALNESS[1]}: {', '.join(rated)}.")
    if results.agreement and results.agreement["presence"]["value"] is not None:
        sentences.append(f"Agreement on action units: alpha {said(results.agreement['presence'])}.")
    return " ".join(sentences) or f"{who} answered nothing that can be counted yet."


_AGREEMENTS = {
    "presence": "action unit named or not (nominal)", "intensity": "intensity where both name it (ordinal)",
    "intensity_interval": "intensity where both name it (interval)", "side": "side where both name it (nominal)",
    "naturalness": "naturalness (ordinal)", "naturalness_interval": "naturalness (interval)",
    "verdict": "real or synthetic (nominal)",
}  # fmt: skip


def page(results: Results) -> str:
    """The page of the results: answer, pictures, tables; one file."""
    low, high = NATURALNESS
    bars = []
    for source in results.sources:
        figure = source["naturalness"]
        if figure["value"] is not None:
            bars.append(
                {
                    "kind": source["kind"], "text": said(figure), "at": 100 * (figure["value"] - low) / (high - low),
                    "from": 100 * ((figure["low"] or figure["value"]) - low) / (high - low),
                    "to": 100 * ((figure["high"] or figure["value"]) - low) / (high - low),
                }
            )  # fmt: skip
    return render(
        "mesynth.panel", "results.html", results=results, answer=answer(results), bars=bars, scale=(low, high),
        agreements=[(_AGREEMENTS[name], figure) for name, figure in results.agreement.items()], said=said,
        percent=percent,
    )  # fmt: skip
