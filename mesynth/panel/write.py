"""The blind page: which clips, under which names, in which order, and the key that tells them apart afterwards.

``DIR/for-coders`` is what coders get: index.html and clips/. ``DIR/key.json`` says what each clip is, and stays. All
clips have one size, one frame rate, one encoder with one setting, files of one length and one date; their names are
keyed hashes of a secret that lies in the key alone. Nothing that tells a source enters the folder for coders, except
the pictures: :attr:`Draft.notes` says what they may still betray.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mesynth.core.errors import ConfigError, ManifestError, MesynthError, RunFolderError
from mesynth.core.facs import AU_CODES, AU_NAMES, LETTER_INTENSITY, MIDLINE
from mesynth.core.seeds import stream
from mesynth.corpus.previews import video_bytes
from mesynth.store.manifest import KINDS, Manifest, Row
from mesynth.store.pages import render, script_data
from mesynth.store.run_folder import require_name
from mesynth.store.shards import read_frames

FORMAT = "mesynth-panel-1"
KEY, CODERS, PAGE = "key.json", "for-coders", "index.html"
PER = ("kind", "corpus", "subject", "emotion")
"""What clips are drawn evenly over."""
NATURALNESS = (1, 7)
MOST_CLIPS, DEFAULT_CLIPS = 1000, 60
MOST_SIZE, LEAST_SIZE = 512, 48
ORDERS = 12
"""Orders of the clips for coders whose names are not known beforehand; a name always gets the same."""
SHUFFLES = 200
TELLING = 0.9
"""Share of pairs of a real and another clip that the length alone tells apart, from which it is said."""
_EPOCH = 946684800
"""2000-01-01: the date of every file for coders."""
Progress = Callable[[float, float], None]

LOOKS: dict[int, tuple[str, str]] = {
    1: ("Brows and eyes", "The inner ends of the brows go up; short wrinkles in the middle of the forehead."),
    2: ("Brows and eyes", "The outer parts of the brows go up in an arch; wrinkles above their outer ends."),
    4: ("Brows and eyes", "The brows go down and together; upright wrinkles or a bulge between them."),
    5: ("Brows and eyes", "The upper lids go up; more of the eyeball's white or of the upper iris shows."),
    6: ("Brows and eyes", "The cheeks go up and towards the eyes; crow's feet; the eyes narrow from outside."),
    7: ("Brows and eyes", "The lids tighten, most of all the lower one, which goes up and straightens; eyes narrow."),
    9: ("Nose and upper lip", "Wrinkles along the sides and across the root of the nose; the nose wings go up."),
    10: ("Nose and upper lip", "The upper lip goes straight up, most at its middle; the fold beside the nose deepens."),
    12: ("Lips and chin", "The lip corners go up and outwards along the cheek: the movement of a smile."),
    14: ("Lips and chin", "The lip corners tighten and are drawn in; a dimple or a bulge beside the corner."),
    15: ("Lips and chin", "The lip corners go down; the skin below them bulges or wrinkles."),
    16: ("Lips and chin", "The lower lip goes down and flattens; the lower teeth may show."),
    17: ("Lips and chin", "The chin boss goes up and wrinkles; it pushes the lower lip up."),
    18: ("Lips and chin", "The lips are drawn together and forward, as for a kiss; the mouth gets narrower."),
    20: ("Lips and chin", "The lip corners are drawn straight sideways, towards the ears; the mouth gets longer."),
    22: ("Lips and chin", "The lips go forward and turn outwards like a funnel, as when saying 'sh'."),
    23: ("Lips and chin", "The lips tighten and get narrower; the red of the lips shrinks, without pressing."),
    24: ("Lips and chin", "The lips are pressed together; bulges above and below, the red gets thinner."),
    25: ("Mouth opening", "The lips part; teeth or the inside of the mouth may show."),
    26: ("Mouth opening", "The jaw drops by relaxing; the teeth part."),
    27: ("Mouth opening", "The mouth is pulled wide open, downwards."),
    28: ("Mouth opening", "The lips are sucked in over the teeth; their red disappears."),
    34: ("Lips and chin", "The cheeks are blown out by air."),
    43: ("Brows and eyes", "The eyes are closed for more than half a second, by relaxing the upper lids."),
    45: ("Brows and eyes", "The eyes close and open quickly: a blink."),
}
"""Where on the face an AU is looked for, and what it looks like there; in words of our own."""
assert set(LOOKS) == set(AU_CODES)


@dataclass(frozen=True, kw_only=True)
class PanelConfig:
    """What coders are given.

    ``clips``: to rate (None: all, at most 60), besides ``practice`` ones that are not counted and ``repeats`` of rated
    ones (None: one in eight), for agreement of a coder with themselves. ``per``: what they are drawn evenly over.
    ``coders``: their names, if known: others cannot answer. ``fps``, ``size``: None for the lowest and smallest of the
    corpora, so that no clip is interpolated or enlarged. ``seconds``: cut every clip to that long around its apex.
    """

    clips: int | None = None
    per: str = "kind"
    coders: tuple[str, ...] = ()
    practice: int = 3
    repeats: int | None = None
    fps: float | None = None
    size: int | None = None
    seconds: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.per not in PER:
            raise ConfigError(f"per '{self.per}' is unknown; choose from {', '.join(PER)}")
        if self.clips is not None and not 1 <= self.clips <= MOST_CLIPS:
            raise ConfigError(f"clips={self.clips} is out of range; give 1 to {MOST_CLIPS}")
        for name, value in (("practice", self.practice), ("repeats", self.repeats)):
            if value is not None and not 0 <= value <= MOST_CLIPS:
                raise ConfigError(f"{name}={value} is out of range; give 0 to {MOST_CLIPS}")
        if self.fps is not None and not 1 <= self.fps <= 1000:
            raise ConfigError(f"fps={self.fps:g} is out of range; give 1 to 1000 frames a second")
        if self.size is not None and not LEAST_SIZE <= self.size <= MOST_SIZE:
            raise ConfigError(f"size={self.size} is out of range; give {LEAST_SIZE} to {MOST_SIZE} pixels")
        if self.seconds is not None and not 0.02 <= self.seconds <= 60:
            raise ConfigError(f"seconds={self.seconds:g} is out of range; give 0.02 to 60")
        for name in self.coders:
            check_coder(name)
        if len({name.casefold() for name in self.coders}) < len(self.coders):
            plain = [name.casefold() for name in self.coders]
            twice = next(name for i, name in enumerate(self.coders) if plain[i] in plain[:i])
            raise ConfigError(f"coder '{twice}' is named twice; give each once")


def check_coder(name: object) -> str:
    """A coder's name: 1 to 40 letters, digits, blanks, dots, hyphens and underscores, the first a letter or digit.

    >>> check_coder("coder 1")
    'coder 1'
    >>> check_coder("=1+1")
    Traceback (most recent call last):
    mesynth.core.errors.ConfigError: coder '=1+1' is no name; use 1 to 40 letters, digits, blanks, '.', '-' or '_'
    """
    fits = isinstance(name, str) and 1 <= len(name) <= 40 and name == name.strip() and name[0].isalnum()
    if not fits or not all(sign.isalnum() or sign in " .-_" for sign in str(name)):
        shown = str(name)
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        raise ConfigError(f"coder {shown!r} is no name; use 1 to 40 letters, digits, blanks, '.', '-' or '_'")
    return str(name)


# ------------------------------------------------------------------- which clips


@dataclass(frozen=True)
class _Shown:
    """A clip of the panel: where it comes from, and which of its frames are shown."""

    corpus: str
    row: Row
    frames: tuple[int, ...]
    """Numbers of the clip's frames, in the order in which they are shown."""
    apex: int
    """Its place among them."""


@dataclass
class Draft:
    """A panel that is about to be written: the clips by role, what they have in common, and what coders may notice."""

    config: PanelConfig
    corpora: dict[str, Manifest]
    fps: float
    size: int
    grey: bool
    rated: list[_Shown]
    practice: list[_Shown]
    repeats: list[int]
    """Numbers of rated clips that are shown a second time."""
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """For people and programs."""
        kinds = [clip.row.provenance.kind for clip in self.rated]
        return {
            "clips": len(self.rated),
            "repeats": len(self.repeats),
            "practice": len(self.practice),
            "kinds": {kind: kinds.count(kind) for kind in KINDS if kind in kinds},
            "subjects": len({clip.row.subject_key for clip in self.rated}),
            "shown": f"{self.size}x{self.size} pixels, {self.fps:g} frames a second{', grey' if self.grey else ''}",
            "left out": len(self.left_out),
        }


def _group(per: str, corpus: str, row: Mapping[str, str]) -> str:
    return corpus if per == "corpus" else row[per]


def _queue(corpora: Mapping[str, Manifest], config: PanelConfig) -> list[tuple[str, int]]:
    """(corpus, row number) of every clip with frames: evenly over ``per``, in that over corpora and subjects."""
    groups: dict[str, list[tuple[int, float, str, int]]] = defaultdict(list)
    for name, manifest in corpora.items():
        framed = manifest.table["frames"].is_valid().to_numpy(zero_copy_only=False)
        listed = np.array([bool(files) for files in manifest.table["frame_files"].to_pylist()], bool)
        columns = {
            "kind": manifest.column("provenance.kind"), "subject": manifest.subject_keys(),
            "emotion": manifest.column("emotion"),
        }  # fmt: skip
        order = stream(config.seed, f"panel/{manifest.hash()}").permutation(len(manifest))
        ranks: dict[str, int] = defaultdict(int)
        for place, number in enumerate(order):
            if not (framed[number] or listed[number]):
                continue
            values = {key: str(column[number]) for key, column in columns.items()}
            group = _group(config.per, name, values)
            seat = f"{group}/{name}/{values['subject']}"
            groups[group].append((ranks[seat], place / len(order), name, int(number)))
            ranks[seat] += 1
    queues = [sorted(groups[group]) for group in sorted(groups)]
    longest = max(map(len, queues), default=0)
    return [(queue[i][2], queue[i][3]) for i in range(longest) for queue in queues if i < len(queue)]


def _steps(row: Row, n: int, fps: float, seconds: float | None) -> tuple[tuple[int, ...], int]:
    """Frames of a clip of ``n`` shown at ``fps``, the apex among them, and the apex' place. Raises ManifestError."""
    if not (np.isfinite(row.fps) and row.fps > 0):
        raise ManifestError(f"its frame rate is not known (fps {row.fps:g})")
    apex, ratio = min(max(row.apex_index, 0), n - 1), max(row.fps / fps, 1.0)
    before = int((apex + 1e-6) / ratio)
    after = int((n - 1 - apex + 1e-6) / ratio)
    steps = [round(apex + i * ratio) for i in range(-before, after + 1)]
    steps = [step for step in steps if 0 <= step < n]
    place = steps.index(apex)
    if seconds is not None:
        wanted = max(2, round(seconds * fps))
        if len(steps) < wanted:
            raise ManifestError(f"it lasts {len(steps) / fps:.3g} s, shorter than --seconds {seconds:g}")
        first = min(max(place - wanted // 2, 0), len(steps) - wanted)
        steps, place = steps[first : first + wanted], place - first
    if len(steps) < 2:
        raise ManifestError(f"only {len(steps)} frame would be shown at {fps:g} frames a second")
    return tuple(steps), place


def draft(corpora: Mapping[str, Manifest], config: PanelConfig, progress: Progress | None = None) -> Draft:
    """Draw the clips. Each is read once here, so that a damaged one is left out, and told.

    Raises:
        ConfigError: more clips than there are, or a size or frame rate that some corpus does not have.
        ManifestError: no corpus has any clip with frames.
    """
    queue = _queue(corpora, config)
    if not queue:
        raise ManifestError(f"{', '.join(corpora) or 'no corpus'}: no clip has frames; the panel shows moving clips")
    own = {name: _own_form(manifest) for name, manifest in corpora.items()}
    fps = _least("fps", {name: form[0] for name, form in own.items()}, config.fps, "frames a second")
    size = int(_least("size", {name: form[1] for name, form in own.items()}, config.size, "pixels"))
    size = min(size, MOST_SIZE) // 2 * 2
    wanted, practice = config.clips, config.practice
    target = min(DEFAULT_CLIPS if wanted is None else wanted, MOST_CLIPS) + practice
    chosen: list[_Shown] = []
    grey: list[bool] = []
    left_out: dict[str, str] = {}
    for name, number in queue:
        if len(chosen) == target:
            break
        row = corpora[name].row(number)
        try:
            frames = read_frames(corpora[name].root, row)
            steps, apex = _steps(row, len(frames), fps, config.seconds)
        except MesynthError as error:
            left_out[f"{name}: {row.clip_id}"] = str(error)
            continue
        chosen.append(_Shown(name, row, steps, apex))
        grey.append(bool((np.ptp(frames[apex].astype(int), axis=-1) <= 2).all()))
        if progress:
            progress(len(chosen), 2 * target)
    if len(chosen) <= practice or (wanted is not None and len(chosen) < wanted + practice):
        why = f"; {len(left_out)} cannot be shown, the first: {next(iter(left_out.values()))}" if left_out else ""
        raise ConfigError(
            f"clips={DEFAULT_CLIPS if wanted is None else wanted} and practice={practice} ask for more than the "
            f"{len(chosen)} clips that there are{why}; ask for fewer"
        )
    rated = chosen[: len(chosen) - practice]
    repeats = max(1, len(rated) // 8) if config.repeats is None else config.repeats
    if config.repeats is None and len(rated) < 4:
        repeats = 0
    if repeats > len(rated):
        raise ConfigError(f"repeats={repeats} is more than the {len(rated)} rated clips; give at most that many")
    mixed = any(grey) and not all(grey)
    made = Draft(
        config, dict(corpora), fps, size, any(grey), rated, chosen[len(rated) :], list(range(repeats)), left_out
    )
    made.notes = _noticed(made, own, mixed)
    return made


def _own_form(manifest: Manifest) -> tuple[float, int]:
    """The lowest frame rate and the smallest side of a corpus' clips."""
    fps = manifest.column("fps")
    fps = fps[np.isfinite(fps) & (fps > 0)]
    side = np.minimum(manifest.column("height"), manifest.column("width"))
    return (float(fps.min()) if len(fps) else np.inf), int(side.min()) if len(side) else MOST_SIZE


def _least(what: str, own: Mapping[str, float], asked: float | None, unit: str) -> float:
    name = min(own, key=lambda key: own[key])
    if asked is not None and asked > own[name] + 1e-9:
        raise ConfigError(
            f"{what}={asked:g} is more than clips of {name} have ({own[name]:g} {unit}); filling in would tell them "
            f"apart: give at most {own[name]:g}"
        )
    if not np.isfinite(own[name]):
        raise ManifestError(f"no clip of {name} says its frame rate; prepare the corpus anew")
    if what == "size" and own[name] < LEAST_SIZE:
        raise ConfigError(f"clips of {name} are {own[name]:g} pixels wide, too small to code; at least {LEAST_SIZE}")
    return own[name] if asked is None else asked


def _noticed(made: Draft, own: Mapping[str, tuple[float, int]], mixed: bool) -> list[str]:
    """What differs between the sources and what was done, or can be done, about it."""
    notes = []
    if len({form[0] for form in own.values()}) > 1:
        rates = ", ".join(f"{name} {form[0]:g}" for name, form in own.items())
        notes.append(f"frame rates differ ({rates}); all are shown at {made.fps:g}, faster clips lose frames")
    if len({form[1] for form in own.values()}) > 1:
        sizes = ", ".join(f"{name} {form[1]}" for name, form in own.items())
        notes.append(f"sizes differ ({sizes} pixels); all are shown at {made.size}, larger ones lose detail")
    if mixed:
        notes.append("some clips are grey: all are shown in grey")
    lengths = {real: np.array([len(c.frames) for c in made.rated if (c.row.provenance.kind == "real") == real])
               for real in (True, False)}  # fmt: skip
    if all(map(len, lengths.values())) and made.config.seconds is None:
        apart = np.sign(lengths[True][:, None] - lengths[False])
        more = float((apart + 1).mean() / 2)  # share of pairs in which the real clip is the longer one
        if max(more, 1 - more) >= TELLING:
            spans = " and ".join(
                f"{word} {lengths[real].min() / made.fps:.2g} to {lengths[real].max() / made.fps:.2g} s"
                for real, word in ((True, "real"), (False, "others"))
            )
            shortest = min(int(found.min()) for found in lengths.values()) / made.fps
            notes.append(f"lengths tell real clips from others ({spans}); --seconds {shortest:.3g} cuts all alike")
    return notes


# ------------------------------------------------------------------- names, order, files


def keyed(secret: str, *parts: object) -> str:
    """16 hexadecimal digits that nobody without the secret can relate to ``parts``."""
    text = "\0".join(map(str, parts))
    return hmac.new(bytes.fromhex(secret), text.encode(), hashlib.sha256).hexdigest()[:16]


def _rng(secret: str, *parts: object) -> np.random.Generator:
    return np.random.default_rng(int(keyed(secret, *parts), 16))


def _order(secret: str, slot: int, ids: Sequence[str], twins: Sequence[tuple[str, str]]) -> list[str]:
    """The ids shuffled; of many shuffles the one in which a clip and its repeat lie furthest apart."""
    rng = _rng(secret, "order", slot)
    best, widest = list(ids), -1
    for _ in range(SHUFFLES if twins else 1):
        order = [ids[i] for i in rng.permutation(len(ids))]
        places = {name: i for i, name in enumerate(order)}
        apart = min((abs(places[a] - places[b]) for a, b in twins), default=0)
        if apart > widest:
            best, widest = order, apart
    return best


def shown_frames(frames: np.ndarray, steps: Sequence[int], size: int, grey: bool) -> np.ndarray:
    """[T',S,S,3] uint8: those frames, the largest square in their middle, shrunk to ``size``."""
    height, width = frames.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    out = []
    for step in steps:
        picture = np.ascontiguousarray(frames[step, top : top + side, left : left + side])
        if side != size:
            picture = cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)
        if grey:
            picture = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        out.append(picture)
    return np.stack(out)


def padded(data: bytes, length: int) -> bytes:
    """An MP4 file of ``length`` bytes that plays as ``data`` does: an empty box at its end, which players skip."""
    extra = length - len(data)
    assert extra >= 8
    return data + extra.to_bytes(4, "big") + b"free" + bytes(extra - 8)


def _clips(made: Draft, secret: str) -> Iterator[tuple[str, dict[str, Any], _Shown]]:
    """(name for coders, its entry in the key, the clip), practice first."""
    jobs = [("practice", clip, "") for clip in made.practice] + [("clip", clip, "") for clip in made.rated]
    names = [keyed(secret, role, clip.corpus, clip.row.clip_id) for role, clip, _ in jobs]
    first = len(made.practice)
    jobs += [("repeat", made.rated[i], names[first + i]) for i in made.repeats]
    for role, clip, of in jobs:
        row = clip.row
        vector = row.aus
        present = np.array(row.au_present, int).reshape(len(AU_CODES), 2)
        entry = {
            "role": role, "of": of, "corpus": clip.corpus, "kind": row.provenance.kind, "clip_id": row.clip_id,
            "subject": row.subject_key, "emotion": row.emotion, "frames": len(clip.frames), "apex": clip.apex,
            "au_text": row.au_text or row.provenance.aus_asked, "present": present.tolist(),
            "intensity": [
                [round(float(v), 4) if k else None for v, k in zip(values, known, strict=True)]
                for values, known in zip(vector.intensity, vector.mask, strict=True)
            ],
        }  # fmt: skip
        yield keyed(secret, role, clip.corpus, row.clip_id), entry, clip


def write_panel(made: Draft, out: Path | str, *, progress: Progress | None = None, secret: str = "") -> Path:
    """Write ``out/for-coders`` and ``out/key.json``; nothing is left of it when it fails. Returns ``out``.

    ``secret``: 64 hexadecimal digits; drawn anew for every panel, so that not even the same command gives the names
    away.

    Raises:
        RunFolderError: ``out`` is not empty, or cannot be written.
    """
    out = Path(out)
    require_name(out)
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        what = "holds a panel already: answers to it need its key" if (out / KEY).is_file() else "is not empty"
        raise RunFolderError(f"{out} {what}; choose another --out")
    secret = secret or secrets.token_hex(32)
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name[:100]}.", suffix=".tmp", dir=out.parent))
    try:
        _write(made, folder, secret, progress)
        folder.chmod(0o755)
        if out.is_dir():
            out.rmdir()
        os.rename(folder, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return out


def _write(made: Draft, folder: Path, secret: str, progress: Progress | None) -> None:
    files: dict[str, bytes] = {}
    items: dict[str, dict[str, Any]] = {}
    total = len(made.rated) + len(made.practice) + len(made.repeats)
    for name, entry, clip in _clips(made, secret):
        frames = read_frames(made.corpora[clip.corpus].root, clip.row)
        try:
            files[name] = video_bytes(shown_frames(frames, clip.frames, made.size, made.grey), "mp4", made.fps)
        except ConfigError:
            raise ConfigError(
                "clips of a panel are H.264, which the PyAV here cannot write; install the wheel of av from the "
                "package index (pip install --force-reinstall av)"
            ) from None
        items[name] = entry
        if progress:
            progress(total + len(files), 2 * total)
    length = -(-(max(map(len, files.values())) + 8) // 4096) * 4096
    coders = folder / CODERS
    (coders / "clips").mkdir(parents=True)
    for name in sorted(files):
        (coders / "clips" / f"{name}.mp4").write_bytes(padded(files[name], length))
    panel = keyed(secret, "panel")
    roles = {role: [name for name, item in items.items() if item["role"] == role] for role in ("practice", "clip")}
    twins = [(name, str(item["of"])) for name, item in items.items() if item["role"] == "repeat"]
    ids = [*roles["clip"], *(name for name, _ in twins)]
    slots = len(made.config.coders) or ORDERS
    practice = [roles["practice"][i] for i in _rng(secret, "practice").permutation(len(roles["practice"]))]
    page = {
        "format": FORMAT, "panel": panel, "fps": made.fps, "size": made.size, "coders": list(made.config.coders),
        "practice": practice, "orders": [_order(secret, slot, sorted(ids), twins) for slot in range(slots)],
        "aus": [
            {"au": code, "name": AU_NAMES[code], "region": LOOKS[code][0], "look": LOOKS[code][1],
             "sides": code not in MIDLINE} for code in AU_CODES
        ],
        "letters": list(LETTER_INTENSITY), "naturalness": list(NATURALNESS),
    }  # fmt: skip
    text = render("mesynth.panel", "coder.html", data=script_data(page), n=len(ids))
    (coders / PAGE).write_text(text, encoding="utf-8")
    for file in (*(coders / "clips").iterdir(), coders / PAGE, coders / "clips", coders):
        os.utime(file, (_EPOCH, _EPOCH))
    key = {
        "format": FORMAT, "panel": panel, "secret": secret, "seed": made.config.seed, "fps": made.fps,
        "size": made.size, "coders": list(made.config.coders), "notes": made.notes,
        "corpora": {
            name: {"hash": manifest.hash(), "kinds": sorted(set(map(str, manifest.column("provenance.kind"))))}
            for name, manifest in made.corpora.items()
        },
        "items": items,
    }  # fmt: skip
    (folder / KEY).write_text(json.dumps(key, indent=1) + "\n", encoding="utf-8")
