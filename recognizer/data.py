"""Manifests -> one in-memory set of small flow images (and other views) with all that a leak-safe protocol needs.

Flow is expressed on the S x S grid it is resized to (pixels of that grid, x right and y down), so crops of any size
mix; strain is computed after the resize and is therefore dimensionless. What else a model may see of a clip, and how it
is mirrored and shifted, :mod:`recognizer.views` says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, repeat
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
import pyarrow.compute as pc
import torch

from mesynth.core.emotions import CLASSES_3
from mesynth.core.errors import ConfigError, ManifestError
from mesynth.core.framing import reframed_flow
from mesynth.core.process import counted
from mesynth.core.types import N_AUS, flow_planes, in_own_rms, optical_strain, stretched
from mesynth.store.manifest import Manifest, Row
from mesynth.store.shards import STRETCHED, read_extra, read_flows
from recognizer.aus import ANY, AUS, CD6ME, EMOTION, AusConfig, au_names, counts_table, targets
from recognizer.views import FLOW, FLOWS, VIEWS, Shape, move_of, read_views

Inputs = np.ndarray | Mapping[str, np.ndarray]
"""Flow images [N,3,S,S] float32, or views by name (:meth:`FlowSet.inputs`)."""


# ------------------------------------------------------------------- augment


def swap_sides(au: torch.Tensor, flip: torch.Tensor) -> torch.Tensor:
    """AUs [...,K*2] with left and right swapped where ``flip`` [...]."""
    swapped = au.reshape(*au.shape[:-1], N_AUS, 2).flip(-1).flatten(-2)
    return torch.where(flip[..., None], swapped, au)


# ------------------------------------------------------------------- data


Progress = Callable[[int, int], None]
LABEL_COLUMNS = ("label", "emotion", "objective_class")
NORMALISATIONS = ("none", "robust")
MATCH, EACH = "match", "each"
FRAMINGS = (MATCH, EACH, "own")
BYTES, TOP = "bytes", 255.0
"""Flow as a published picture shows it, and the largest value there."""
INPUTS = (FLOW, BYTES)
UNKNOWN_AUS = "AUs not known"
"""Of :attr:`FlowSet.left_out`."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What a clip looks like to a model, and which classes there are."""

    size: int = 28
    """Side of the flow image, pixels (28 in the MEGC 2019 composite's public flow images)."""
    input: str = FLOW
    """``flow``, or ``bytes``: u, v and strain as flow images are published, each stretched from its least to its
    largest value over 0..255. Clips read from such images give the images themselves. Networks get bytes undivided."""
    normalise: str = "none"
    """``none``, or ``robust``: u and v centred on their median (still skin), all divided by the rms of (u, v)."""
    frame: str = "match"
    """``match``: clips whose faces lie elsewhere in the crop than the real clips' are taken to where those lie, as far
    as their crop shows it; ``each``: and those of a composite's databases to what all of these show; ``own``: read as
    they are. See :func:`recognizer.sources.framed`."""
    frame_size: int = 64
    """Side of the pictures that some networks see, pixels; eyes and mouth are half as large."""
    frames: int = 10
    """Frames a clip is brought to in time, for models that see the whole clip, tracks or parts of the face."""
    key_frames: int = 8
    """Frames whose flow from the onset the view ``flows`` shows: evenly up to the offset, the apex among them."""
    power: float | None = None
    """Signed power of every value; below 1 it lifts weak motion. null: the model's own (recognizer.models.INPUTS)."""
    pool: int | None = None
    """Cells a side that each channel is averaged over, of a divisor of the size; 0: none. null: the model's own."""
    symmetric: bool | None = None
    """Average both sides of the face (one of them mirrored): what differs between them is left out. For models that are
    not networks. null: the model's own."""
    label: str = "label"
    """The manifest column the class is read from: label, emotion or objective_class."""
    classes: tuple[str, ...] = CLASSES_3
    """Values of that column, in the order of the class index. Clips of other values are left out."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))
        if self.size < 14 or self.size % 4:
            raise ConfigError(f"data.size={self.size} must be a multiple of 4 and at least 14; 28 is usual")
        if not 16 <= self.frame_size <= 512:
            raise ConfigError(f"data.frame_size={self.frame_size} is outside 16..512; 64 is usual")
        if not 3 <= self.frames <= 256:
            raise ConfigError(f"data.frames={self.frames} is outside 3..256; 10 is usual")
        if not 1 <= self.key_frames <= 256:
            raise ConfigError(f"data.key_frames={self.key_frames} is outside 1..256; 8 is usual")
        if self.normalise not in NORMALISATIONS:
            raise ConfigError(f"data.normalise='{self.normalise}' is unknown; choose from {', '.join(NORMALISATIONS)}")
        if self.frame not in FRAMINGS:
            raise ConfigError(f"data.frame='{self.frame}' is unknown; choose from {', '.join(FRAMINGS)}")
        if self.input not in INPUTS:
            raise ConfigError(f"data.input='{self.input}' is unknown; choose from {', '.join(INPUTS)}")
        if self.input == BYTES and self.normalise != "none":
            raise ConfigError(
                f"data.normalise={self.normalise} is for flow, and data.input=bytes stretches each channel by itself; "
                "leave one of them out"
            )
        if self.power is not None and not 0 < self.power <= 1:
            raise ConfigError(f"data.power={self.power:g} is outside (0, 1]; 1 keeps the flow as it is")
        if self.pool and (self.pool < 2 or self.size % self.pool):
            allowed = ", ".join(str(n) for n in range(2, self.size + 1) if self.size % n == 0)
            raise ConfigError(
                f"data.pool={self.pool}: it is how many cells a side flow of data.size={self.size} is averaged "
                f"over, at least 2 and a divisor of the size; choose from {allowed}, or 0 for no averaging"
            )
        if self.label not in LABEL_COLUMNS:
            raise ConfigError(f"data.label='{self.label}' is no class column; choose from {', '.join(LABEL_COLUMNS)}")
        if len(self.classes) < 2 or len(set(self.classes)) != len(self.classes):
            raise ConfigError(f"data.classes={list(self.classes)} must name at least two different classes")

    def shape(self, size: int = 0) -> Shape:
        """The sizes of the views; ``size``: what the flow is averaged to, if it is."""
        return Shape(size=size or self.size, frame_size=self.frame_size, frames=self.frames, key_frames=self.key_frames)


@dataclass(frozen=True, kw_only=True)
class FlowSet:
    """N clips as arrays. Equal positions of all fields belong to one clip."""

    x: np.ndarray
    """[N,3,S,S] float32: u, v (pixels of the S grid), strain (dimensionless); or all three 0..255 (data.input)."""
    y: np.ndarray
    """[N] int64 class index; -1 where the class is not known (prediction only)."""
    au: np.ndarray
    """[N,K*2] int8 presence, rows facs.AU_CODES, sides (L, R); -1 unknown."""
    clip_ids: np.ndarray
    """[N] str"""
    subjects: np.ndarray
    """[N] str, ``database/subject``."""
    databases: np.ndarray
    """[N] str"""
    kinds: np.ndarray
    """[N] str: real, rendered or synthetic."""
    generators: np.ndarray
    """[N] str: what made the clip; empty for recordings."""
    subjects_seen: tuple[tuple[str, ...], ...]
    """Per clip, every subject that took part in making it."""
    classes: tuple[str, ...]
    views: dict[str, np.ndarray] = field(default_factory=dict)
    """What else was loaded, by the names, in the forms and types of :mod:`recognizer.views`."""
    own_rms: np.ndarray = field(default_factory=lambda: np.zeros(0, np.bool_))
    """[N] bool: u and v are in units that no pixel sets (their own root mean square, bytes); found from ``x`` if not
    given."""
    draws: np.ndarray = field(default_factory=lambda: np.zeros(0, np.str_))
    """[N] str: what tells synthetic clips of one name apart, their generator and seed; empty for all others."""
    macro: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int8))
    """[N] int8: 1 a macro-expression, 0 a micro-expression; -1 unknown (all, if not given)."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Clips of the manifest without a class in ``classes``, by the value they have."""
    aus: tuple[int, ...] = ()
    """AUs that are recognized in them (:mod:`recognizer.aus`); all clips are of one class where nothing else is."""

    def __post_init__(self) -> None:
        n, size = len(self.x), self.x.shape[-1]
        if n and not len(self.own_rms):
            object.__setattr__(self, "own_rms", np.array([in_own_rms(x[:2]) for x in self.x]))
        if not len(self.draws):
            object.__setattr__(self, "draws", np.full(n, "", np.str_))
        if not len(self.macro):
            object.__setattr__(self, "macro", np.full(n, -1, np.int8))
        if self.x.shape != (n, 3, size, size) or self.x.dtype != np.float32:
            raise ValueError(f"x is {self.x.dtype} {self.x.shape}; expected float32 [N,3,S,S]")
        if self.au.shape != (n, N_AUS * 2):
            raise ValueError(f"au has shape {self.au.shape}; expected [{n},{N_AUS * 2}]")
        for name in (*_ARRAYS[3:], "y", "subjects_seen"):
            if len(getattr(self, name)) != n:
                raise ValueError(f"{name} has {len(getattr(self, name))} entries for {n} clips")
        for name, view in self.views.items():
            if len(view) != n:
                raise ValueError(f"view {name} has {len(view)} entries for {n} clips")

    @staticmethod
    def of(
        x: np.ndarray,
        y: Sequence[int] | np.ndarray,
        subjects: Sequence[str] | np.ndarray,
        *,
        classes: tuple[str, ...] = CLASSES_3,
        database: str = "own",
        generator: str = "",
        subjects_seen: Sequence[Sequence[str]] | None = None,
    ) -> FlowSet:
        """A set from arrays: ``x`` [N,3,S,S] (u, v in pixels of the S grid, strain), ``y`` [N], N subjects by name.

        With ``generator`` the clips are synthetic, and ``subjects_seen`` [N] must say whom each clip's making saw, as
        ``database/subject``: that is what folds are kept clean by.

        Raises:
            ManifestError: lengths differ, or synthetic clips that do not say whom they saw.

        >>> real = FlowSet.of(np.zeros((2, 3, 28, 28)), [0, 2], ["01", "02"])
        >>> real.subjects.tolist(), real.subjects_seen
        (['own/01', 'own/02'], (('own/01',), ('own/02',)))
        """
        x, n = np.asarray(x, np.float32), len(x)
        if not len(y) == len(subjects) == n or (subjects_seen is not None and len(subjects_seen) != n):
            raise ManifestError(f"{n} clips, {len(y)} labels and {len(subjects)} subjects; each clip needs one of each")
        if generator and subjects_seen is None:
            raise ManifestError(f"clips of generator {generator} do not say whom they saw; pass subjects_seen")
        names = [f"{database}/{subject}" for subject in subjects]
        seen = [(name,) for name in names] if subjects_seen is None else subjects_seen
        kind = "synthetic" if generator else "real"
        return FlowSet(
            x=x, y=np.asarray(y, np.int64), au=np.full((n, N_AUS * 2), -1, np.int8),
            clip_ids=np.array([f"{database}/{kind}{i:06d}" for i in range(n)]), subjects=np.array(names),
            databases=np.full(n, database), kinds=np.full(n, kind), generators=np.full(n, generator),
            subjects_seen=tuple(tuple(map(str, each)) for each in seen), classes=classes,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.x)

    @property
    def synthetic(self) -> np.ndarray:
        """[N] bool: made by a generator, never to be tested on."""
        return np.asarray(self.kinds == "synthetic")

    @property
    def multi(self) -> bool:
        """Whether AUs are recognized in them, instead of classes."""
        return self.classes == ANY

    @property
    def outputs(self) -> tuple[str, ...]:
        """What is told apart: classes, or AUs by name."""
        return au_names(self.aus) if self.multi else self.classes

    @cached_property
    def targets(self) -> np.ndarray:
        """[N,A] int8 of the AUs in ``aus``: 1 present, 0 absent, -1 unknown."""
        return targets(self.au, self.aus)

    def for_aus(self, codes: tuple[int, ...], *, unlabelled: bool = False) -> FlowSet:
        """The same clips to recognize AUs in; those of which none of these AUs is known are left out.

        Raises:
            ManifestError: none is known of any clip.
        """
        known = np.asarray((targets(self.au, codes) >= 0).any(1))
        if not known.any() and not unlabelled:
            raise ManifestError(
                f"none of {', '.join(au_names(codes))} is known of any of the {len(self)} clips; take a database whose "
                "annotation codes AUs (`recognizer aus` counts them), or other aus.codes"
            )
        out = replace(self, y=np.where(known, 0, -1), classes=ANY, aus=codes)
        if unlabelled or known.all():
            return out
        return replace(out.take(known), left_out={UNKNOWN_AUS: int((~known).sum())})

    @property
    def class_counts(self) -> np.ndarray:
        """[C] int64 clips of each class; of AUs [A], clips that show each."""
        if self.multi:
            return np.asarray((self.targets == 1).sum(0))
        return np.bincount(self.y[self.y >= 0], minlength=len(self.classes))

    @cached_property
    def subject_sets(self) -> tuple[list[frozenset[str]], np.ndarray]:
        """The different sets in ``subjects_seen`` and each clip's place among them [N]: a corpus repeats a few."""
        places: dict[tuple[str, ...], int] = {}
        which = [places.setdefault(subjects, len(places)) for subjects in self.subjects_seen]
        return [frozenset(subjects) for subjects in places], np.array(which, np.int64)

    def inputs(self, index: np.ndarray | slice = slice(None)) -> dict[str, np.ndarray]:
        """All views of some clips by name, ``flow`` among them: a model's input."""
        return {FLOW: self.x[index]} | {name: view[index] for name, view in self.views.items()}

    def meta(self, names: Sequence[str], genders: Mapping[str, int] = MappingProxyType({})) -> dict[str, np.ndarray]:
        """[N] int64 of each of these of :data:`META`, -1 unknown: what a network is told beside the class. ``genders``
        by subject."""
        known = {
            "subject": lambda: np.unique(self.subjects, return_inverse=True)[1],
            "database": lambda: np.unique(self.databases, return_inverse=True)[1],
            "macro": lambda: self.macro,
            "gender": lambda: np.array([genders.get(str(subject), -1) for subject in self.subjects]),
        }
        return {name: known[name]().astype(np.int64) for name in names}

    def take(self, index: np.ndarray) -> FlowSet:
        """The clips at ``index`` (integers or a boolean mask), in that order."""
        index = np.arange(len(self))[index]
        arrays: dict[str, Any] = {name: getattr(self, name)[index] for name in _ARRAYS}
        views = {name: view[index] for name, view in self.views.items()}
        return replace(self, **arrays, views=views, subjects_seen=tuple(self.subjects_seen[i] for i in index))

    @staticmethod
    def concat(sets: Sequence[FlowSet]) -> FlowSet:
        """One set after another. Raises ManifestError when sizes or classes differ, or a clip occurs twice."""
        first = sets[0]
        for other in sets[1:]:
            same = {n: v.shape[1:] for n, v in other.views.items()} == {n: v.shape[1:] for n, v in first.views.items()}
            alike = (other.classes, other.aus) == (first.classes, first.aus)
            if not same or other.x.shape[1:] != first.x.shape[1:] or not alike:
                raise ManifestError(
                    f"flow sets differ: {first.x.shape[1:]} {first.classes} and {other.x.shape[1:]} {other.classes}; "
                    "load both with one DataConfig"
                )
        arrays: dict[str, Any] = {name: np.concatenate([getattr(s, name) for s in sets]) for name in _ARRAYS}
        arrays["clip_ids"] = _told_apart(arrays["clip_ids"], arrays["draws"], "is in both manifests")
        views = {name: np.concatenate([s.views[name] for s in sets]) for name in first.views}
        seen = tuple(subjects for s in sets for subjects in s.subjects_seen)
        return replace(first, **arrays, views=views, subjects_seen=seen)


_ARRAYS = ("x", "y", "au", "clip_ids", "subjects", "databases", "kinds", "generators", "own_rms", "draws", "macro")
META = ("subject", "database", "macro", "gender")
"""What :meth:`FlowSet.meta` knows of clips: codes of subjects and databases, macro (1) or micro (0), male (1) or female
(0)."""


def _told_apart(ids: np.ndarray, draws: np.ndarray, where: str) -> np.ndarray:
    """Names of clips [N]; those that several clips have, with what tells these apart (:attr:`FlowSet.draws`).

    Raises:
        ManifestError: two clips that nothing tells apart.
    """
    _, index, counts = np.unique(ids, return_inverse=True, return_counts=True)
    shared = counts[index] > 1
    if not shared.any():
        return ids
    out = ids.astype(object)
    out[shared] = [f"{name}#{draw}" if draw else name for name, draw in zip(ids[shared], draws[shared], strict=True)]
    again, counts = np.unique(out[shared].astype(str), return_counts=True)
    if (counts > 1).any():
        name = again[counts > 1][0].partition("#")[0]
        way = "; draw one of two corpora with another --seed" if draws[ids == name].astype(bool).any() else ""
        raise ManifestError(f"clip '{name}' {where}; a clip may enter once{way}")
    return out.astype(str)


def in_one_unit(own_rms: np.ndarray) -> bool:
    """Whether clips of one origin are in units of their own rms, given for each [N]: nine tenths of them are."""
    return bool(own_rms.mean() > _MOST)


def require_one_unit(*sets: FlowSet | None) -> None:
    """Raise ManifestError where flow in pixels would be mixed with flow in units of its own rms.

    A database (its recordings, or its synthetic clips) is in own-rms units when nine tenths of its clips are.
    """
    units: dict[bool, str] = {}
    for clips in sets:
        if clips is None:
            continue
        origins = np.char.add(np.char.add(clips.kinds.astype(str), " clips of "), clips.databases.astype(str))
        for origin in np.unique(origins):
            units.setdefault(in_one_unit(clips.own_rms[origins == origin]), str(origin))
    if len(units) > 1:
        raise ManifestError(
            f"flow of {units[True]} is in units of its own rms (as flow images are published), flow of {units[False]} "
            "in pixels; data.normalise=robust brings both to one scale"
        )


_MOST = 0.9


def load(
    manifests: Manifest | Sequence[Manifest],
    config: DataConfig = DataConfig(),
    *,
    views: Sequence[str] = (FLOW,),
    unlabelled: bool = False,
    progress: Progress | None = None,
    task: str = EMOTION,
    aus: Sequence[int] = (),
) -> FlowSet:
    """Read the flow of every clip with a class (with ``unlabelled``: of every clip, y = -1 without one).

    ``views``: names of :data:`recognizer.views.VIEWS`. ``task`` and ``aus``: as a run's configuration has them; for the
    task aus, every clip of which one of these AUs is known.

    Raises:
        ManifestError: a clip has no flow, or lacks another view and what that is computed from; a clip occurs twice; no
            clip has a class, or an AU that is known.
    """
    more, shape = tuple(name for name in views if name != FLOW), config.shape()
    sources = [manifests] if isinstance(manifests, Manifest) else list(manifests)
    index = {name: i for i, name in enumerate(config.classes)}
    left_out: Counter[str] = Counter()
    kept: list[Manifest] = []
    classes: list[np.ndarray] = []
    for manifest in sources:
        names = manifest.column(config.label)
        y = np.array([index.get(name, -1) for name in names], np.int64)
        if task == AUS:
            y = np.where((targets(_au_present(manifest), aus) >= 0).any(1), 0, -1)
            names = np.full(len(y), UNKNOWN_AUS)
        left_out.update(name or "(none)" for name in names[y < 0])
        wanted = (y >= 0) | unlabelled
        kept.append(manifest.filter(wanted))
        classes.append(y[wanted])
    n = sum(map(len, kept))
    if not n:
        found = ", ".join(f"{k} x{v}" for k, v in left_out.items()) or "no clip at all"
        where = ", ".join(str(m.root) for m in sources)
        if task == AUS:
            listed = ", ".join(au_names(aus))
            raise ManifestError(
                f"none of {listed} is known of any clip of {where} ({sum(left_out.values())} clips); take a database "
                "whose annotation codes AUs (`recognizer aus` counts them), or other aus.codes"
            )
        raise ManifestError(f"no clip of {where} has a {config.label} among {list(config.classes)}; found {found}")
    draws = np.concatenate([_draws(manifest) for manifest in kept])
    ids = _told_apart(_column(kept, "clip_id"), draws, "occurs twice in the manifests")
    x = _no_images(n, config.size)
    own_rms: list[bool] = []
    shown = {name: np.empty((n, *VIEWS[name].of(shape)), VIEWS[name].dtype) for name in more}
    as_bytes = config.input == BYTES
    rows: Iterable[tuple[Manifest, Row] | None] = _walk(kept) if more or as_bytes else repeat(None)

    def flows() -> Iterator[np.ndarray]:
        for (uv, own), clip in zip(chain.from_iterable(map(_flows, kept)), rows, strict=False):
            if clip is not None and as_bytes:
                x[len(own_rms)] = _published(*clip, uv, config.size)
            own_rms.append(own or as_bytes or config.normalise == "robust")
            if clip is not None and more:
                for view, array in read_views(*clip, more, shape).items():
                    shown[view][len(own_rms) - 1] = key_flow_images(array, config) if view == FLOWS else array
            yield uv

    done = 0
    for several in _alike(counted(flows(), n, progress)):
        these = slice(done, done := done + len(several))
        if not as_bytes:
            x[these] = flow_images(several, config)
    return FlowSet(
        x=x,
        y=np.concatenate(classes),
        au=np.concatenate([_au_present(manifest) for manifest in kept]),
        clip_ids=ids,
        subjects=np.concatenate([manifest.subject_keys().astype(str) for manifest in kept]),
        databases=_column(kept, "database"),
        kinds=_column(kept, "provenance.kind"),
        generators=_column(kept, "provenance.generator"),
        subjects_seen=tuple(chain.from_iterable(manifest.subjects_seen() for manifest in kept)),
        own_rms=np.array(own_rms),
        draws=draws,
        macro=(_column(kept, "expression") == "macro").astype(np.int8),
        classes=ANY if task == AUS else config.classes,
        aus=() if task == EMOTION else tuple(aus),
        left_out=dict(left_out),
        views=shown,
    )


def _draws(manifest: Manifest) -> np.ndarray:
    """:attr:`FlowSet.draws` of a manifest's rows."""
    columns = ("provenance.kind", "provenance.generator", "provenance.seed")
    rows = zip(*(manifest.column(name) for name in columns), strict=True)
    texts = [f"{maker}, seed {seed}" if kind == "synthetic" and seed >= 0 else "" for kind, maker, seed in rows]
    return np.array(texts, np.str_)


def _flows(manifest: Manifest) -> Iterator[tuple[np.ndarray, bool]]:
    """Each clip's flow [2,H,W] in the framing it is read in, and whether it is in units of its own rms."""
    move = move_of(manifest)
    for uv in read_flows(manifest):
        own = in_own_rms(uv)
        yield reframed_flow(uv, *move) if move else uv, own


def _walk(manifests: Sequence[Manifest]) -> Iterator[tuple[Manifest, Row]]:
    for manifest in manifests:
        for row in manifest:
            yield manifest, row


def _column(manifests: Sequence[Manifest], name: str) -> np.ndarray:
    return np.concatenate([manifest.column(name).astype(str) for manifest in manifests])


def _au_present(manifest: Manifest) -> np.ndarray:
    """[N,K*2] int8. Raises ManifestError for rows that hold another number."""
    lists = manifest.table["au_present"]
    wrong = np.flatnonzero(pc.list_value_length(lists).to_numpy() != N_AUS * 2)
    if len(wrong):
        clip = manifest.row(int(wrong[0]))
        found = len(clip.au_present)
        raise ManifestError(f"clip {clip.clip_id} lists {found} AUs, not {N_AUS * 2}; make its manifest anew")
    flat = np.asarray(lists.combine_chunks().flatten().to_numpy(zero_copy_only=False), np.int8)
    return flat.reshape(-1, N_AUS * 2)


def known_aus(manifests: Sequence[Manifest], codes: Sequence[int]) -> dict[str, np.ndarray]:
    """[N,A] of :func:`recognizer.aus.targets` of all clips, by database.

    Raises:
        ManifestError: a clip that is there twice, and would count twice.
    """
    draws = np.concatenate([_draws(manifest) for manifest in manifests])
    _told_apart(_column(manifests, "clip_id"), draws, "occurs twice in the manifests")
    names, found = _column(manifests, "database"), np.concatenate([_au_present(m) for m in manifests])
    return {str(name): targets(found[names == name], codes) for name in np.unique(names)}


def count_aus(
    manifests: Manifest | Path | str | Sequence[Manifest | Path | str], codes: Sequence[int] = CD6ME
) -> tuple[list[str], list[list[str | int]], list[str]]:
    """Clips that show each AU, a row a database and their total, as CD6ME's table of AUs: (header, rows, notes).

    ``manifests``: any folder with a manifest, a manifest, or several of them; clips need no flow. Notes say of which
    clips an AU is not known: they are no clips without it.

    Raises:
        ConfigError: an AU that manifests do not keep, one twice, or none. ManifestError: no manifest there, or a clip
            that is in two of them.

    >>> from mesynth.core import facs
    >>> from mesynth.store.manifest import Provenance
    >>> aus = Row.au_columns(facs.parse_request("12=B"), facs.parse_annotation("12").presence())
    >>> row = Row(
    ...     clip_id="own/anna/a/0", database="own", subject="anna", clip="a", onset=0, apex=5, offset=9, fps=100.0,
    ...     n_frames=10, apex_index=5, height=64, width=64, **aus, provenance=Provenance(
    ...         kind="real", database="own", subject="anna", licence="hers", subjects_seen=("own/anna",)
    ...     ),
    ... )
    >>> header, rows, notes = count_aus(Manifest.from_rows([row], "."), codes=[4, 12])
    >>> header, rows[0], notes
    (['database', 'AU4', 'AU12', 'Total', 'clips'], ['own', 0, 1, 1, 1], [])
    """
    chosen = AusConfig(codes=tuple(codes)).codes
    many = [manifests] if isinstance(manifests, (Manifest, Path, str)) else manifests
    opened = [one if isinstance(one, Manifest) else Manifest.read(one) for one in many]
    header, rows, notes = counts_table(known_aus(opened, chosen), chosen)
    return header, [[row[0], *map(int, row[1:])] for row in rows], notes


_AT_ONCE = 256 * 2 * 28 * 28
"""Values of flow that are made into images at once: 256 clips of 28 pixels, 12 of 128."""


def _alike(flows: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Consecutive flows of one form as [n,2,H,W], a few megabytes at once."""
    waiting: list[np.ndarray] = []
    for uv in flows:
        if waiting:
            first = waiting[0]
            alike = uv.shape == first.shape and uv.dtype == first.dtype
            if not alike or (len(waiting) + 1) * uv.size > _AT_ONCE:
                yield np.stack(waiting)
                waiting = []
        waiting.append(uv)
    if waiting:
        yield np.stack(waiting)


def _no_images(n: int, size: int) -> np.ndarray:
    """[N,3,S,S] to be filled. A pixel's channels lie together, as OpenCV leaves them: the order of later sums, and so
    the last bit of every result, stays that of one clip after the other."""
    return np.empty((n, size, size, 3), np.float32).transpose(0, 3, 1, 2)


def flow_image(uv: np.ndarray, config: DataConfig = DataConfig()) -> np.ndarray:
    """Flow [2,H,W] float32 in pixels -> [3,S,S] float32 (u, v, strain), see :class:`FlowSet`.

    >>> ramp = np.zeros((2, 56, 112), np.float32)
    >>> ramp[0] = np.arange(112) * 0.1
    >>> image = flow_image(ramp)
    >>> round(float(image[2].mean()), 4)  # strain does not depend on the size of the crop
    0.1
    """
    return np.asarray(flow_images(uv[None], config)[0])


def flow_images(uv: np.ndarray, config: DataConfig = DataConfig()) -> np.ndarray:
    """:func:`flow_image` of several clips, [N,2,H,W] -> [N,3,S,S]; a clip's values do not depend on the others."""
    height, width = uv.shape[-2:]
    size = config.size
    # INTER_AREA averages what falls into a target pixel; it is meant for shrinking only.
    how = cv2.INTER_AREA if min(height, width) >= size else cv2.INTER_LINEAR
    small = np.empty((len(uv), size, size, 2), np.float32)
    for image, own in zip(np.ascontiguousarray(uv.transpose(0, 2, 3, 1)), small, strict=True):
        own[:] = cv2.resize(image, (size, size), interpolation=how)
    flow = small.transpose(0, 3, 1, 2) * np.array([size / width, size / height], np.float32)[:, None, None]
    if config.normalise == "robust":
        flow = flow - np.median(flow, axis=(2, 3), keepdims=True)
        rms = np.array([max(float(np.sqrt((one**2).mean())), 1e-6) for one in flow], np.float32)
        flow = flow / rms[:, None, None, None]
    images = _no_images(len(uv), size)
    images[:, :2], images[:, 2] = flow, optical_strain(flow)
    return images


def key_flow_images(uv: np.ndarray, config: DataConfig = DataConfig()) -> np.ndarray:
    """Flow of a clip's key frames [K,2,H,W] -> [K,3,S,S] float32, as its flow onset -> apex is shown. With
    ``normalise=robust`` all are divided by one rms, that of all of them, so that the rise and fall of the motion stays.
    """
    if config.input == BYTES:
        return np.stack([byte_image(one, config.size) for one in uv])
    if config.normalise == "none":
        return flow_images(uv, config)
    flow = flow_images(uv, replace(config, normalise="none"))[:, :2]
    flow = flow - np.median(flow, axis=(2, 3), keepdims=True)
    flow = flow / np.float32(max(float(np.sqrt((flow**2).mean())), 1e-6))
    return np.concatenate([flow, optical_strain(flow)[:, None]], 1)


def byte_image(uv: np.ndarray, size: int) -> np.ndarray:
    """Flow [2,H,W] -> [3,S,S] float32 in 0..255 (u, v, strain), as ``mesynth export --as flow-folders`` writes it.

    >>> ramp = np.zeros((2, 28, 28), np.float32)
    >>> ramp[0] = np.arange(28)
    >>> byte_image(ramp, 28)[0, 0, [0, 1, 27]].tolist()
    [0.0, 9.0, 255.0]
    """
    return np.stack([stretched(plane) for plane in flow_planes(uv, size)]).astype(np.float32)


def _published(manifest: Manifest, row: Row, uv: np.ndarray, size: int) -> np.ndarray:
    """The flow image that a clip was read from, or what it would be published as: [3,S,S] float32 in 0..255. ``uv`` is
    its flow, in the framing it is read in."""
    if move_of(manifest):  # no picture shows that
        return byte_image(uv, size)
    try:
        planes = read_extra(manifest.root, row, STRETCHED)
    except ManifestError:  # it was never a picture
        return byte_image(uv, size)
    how = cv2.INTER_AREA if min(planes.shape[1:]) >= size else cv2.INTER_LINEAR
    return np.stack([cv2.resize(plane.astype(np.float32), (size, size), interpolation=how) for plane in planes])


@dataclass(frozen=True)
class FlowTransform:
    """What a model does to flow images first: a signed ``power`` of every value, then means over ``pool`` x ``pool``
    cells (0: none).

    >>> FlowTransform(power=0.5, pool=2)(np.full((1, 3, 4, 4), -4.0))[0, 0].tolist()
    [[-2.0, -2.0], [-2.0, -2.0]]
    """

    power: float = 1.0
    pool: int = 0
    symmetric: bool = False

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """[N,...,3,S,S] -> [N,...,3,P,P] float32; P is S without ``pool``. If ``symmetric``, [N,...,3,P,(P+1)//2], the
        left half of the image."""
        if self.power != 1:
            x = (np.sign(x) * np.abs(x) ** np.float32(self.power)).astype(np.float32)
        if self.pool and self.pool != x.shape[-1]:
            cell = x.shape[-1] // self.pool
            x = x.reshape(*x.shape[:-2], self.pool, cell, self.pool, cell).mean((-3, -1))
        if self.symmetric:
            both = x + x[..., ::-1] * np.array([-1, 1, 1], np.float32)[:, None, None]
            x = np.ascontiguousarray(both[..., : (x.shape[-1] + 1) // 2] / 2)
        return x

    def of_views(self, views: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Views by name, with those that are flow as a model sees them."""
        flows = {name: self(views[name]) for name in (FLOW, FLOWS) if name in views}
        return dict(views) | {name: flow.astype(VIEWS[name].dtype, copy=False) for name, flow in flows.items()}


def mirror(x: np.ndarray, au: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mirror images [N,3,S,S] left-right: u changes sign, and the AUs [N,K*2] of both sides swap."""
    flipped = x[..., ::-1] * np.array([-1, 1, 1], np.float32)[:, None, None]
    sides = au.reshape(len(au), N_AUS, 2)[..., ::-1]
    return np.ascontiguousarray(flipped), np.ascontiguousarray(sides).reshape(au.shape)
