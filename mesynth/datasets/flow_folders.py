"""Flow folders: the published flow images of the MEGC 2019 composite as a source of clips.

Published with STSTNet (Liong et al., FG 2019), HTNet and others as
``<subject>/{u_train|u_test}/{0|1|2}/<subject>_<clip> .png`` (with that space), R, G, B = u, v, optical strain. The
``u_test`` trees together hold every clip once; ``u_train`` holds the clips of the other subjects, and is only checked:
the recognizer makes its own folds.

Each channel was stretched between its own minimum and maximum to 0..255, so zero flow, magnitude and the ratio of u to
v are lost; the strain was computed before the stretch, so it gives the ratio back, and it agrees with one order of the
channels only.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import permutations
from pathlib import Path

import cv2
import numpy as np

import mesynth
from mesynth.core.emotions import CLASSES_3
from mesynth.core.errors import DatasetLayoutError, MesynthError, UnreadableImageError, WrongRoot
from mesynth.core.framing import KnownFraming
from mesynth.datasets.files import contents
from mesynth.datasets.registry import FLOW_FOLDERS, right_root
from mesynth.store.manifest import Manifest, Provenance, Row, framing_meta
from mesynth.store.shards import STRETCHED
from mesynth.store.stage import Produced, Progress, run_stage
from mesynth.store.videos import swapped_channels

ORDERS: tuple[str, ...] = tuple("".join(p) for p in permutations("uvs"))
"""What R, G and B hold: u, v and strain (s). The first is the published one."""
_LOG_RATIOS = np.linspace(-3.0, 3.0, 61)
_STEP = float(_LOG_RATIOS[1] - _LOG_RATIOS[0])


def unstretch(images: np.ndarray) -> np.ndarray:
    """Flow [...,2,H,W] float32 from stretched images [...,3,H,W] uint8 (u, v, strain), in units of its own rms.

    u and v are centred on their medians (most skin is still), their ratio is the one whose strain correlates best
    with the strain channel, and the pair is divided by its root mean square. Directions and relative sizes are
    those of the flow; pixels cannot be had. A channel without contrast stays 0.

    The ratio is found by correlation, not by least squares on the squared strain: published strain was computed at
    a finer resolution, and least squares then gives one of the channels the weight 0 in about one clip in five.
    """
    planes = images.astype(np.float64)
    uv = planes[..., :2, :, :]
    uv = uv - np.median(uv, axis=(-2, -1), keepdims=True)
    log_ratio, _ = strain_agreement(uv[..., 0, :, :], uv[..., 1, :, :], planes[..., 2, :, :])
    half = np.exp(log_ratio / 2)[..., None, None]
    flow = np.stack([uv[..., 0, :, :] / half, uv[..., 1, :, :] * half], axis=-3)
    rms = np.sqrt((flow**2).mean(axis=(-3, -2, -1), keepdims=True))
    return np.asarray(flow / np.where(rms > 0, rms, 1.0), np.float32)


def strain_agreement(u: np.ndarray, v: np.ndarray, strain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(log ratio, correlation) [...] of the flow (u, ratio * v) whose strain fits best; planes are [...,H,W].

    The correlation does not know the stretch of the strain channel. Ratios from exp(-3) to exp(3) are tried; where
    nothing correlates (a flat plane) both values are 0.
    """
    uy, ux = np.gradient(np.asarray(u, np.float64), axis=(-2, -1))
    vy, vx = np.gradient(np.asarray(v, np.float64), axis=(-2, -1))
    # squared strain, see mesynth.core.types.optical_strain, as a polynomial of the ratio
    constant, linear, square = ux**2 + uy**2 / 2, uy * vx, vy**2 + vx**2 / 2
    target = _standard(strain)
    scores = np.stack(
        [
            (_standard(np.sqrt(np.maximum(constant + r * (linear + r * square), 0))) * target).mean(axis=(-2, -1))
            for r in np.exp(_LOG_RATIOS)
        ],
        axis=-1,
    )
    best = scores.argmax(axis=-1)
    inner = np.clip(best, 1, len(_LOG_RATIOS) - 2)
    left, middle, right = (np.take_along_axis(scores, (inner + i)[..., None], -1)[..., 0] for i in (-1, 0, 1))
    bend = left - 2 * middle + right
    shift = np.where(bend < 0, 0.5 * (left - right) / np.where(bend < 0, bend, -1.0), 0.0)  # vertex of a parabola
    log_ratio = _LOG_RATIOS[best] + np.where(best == inner, np.clip(shift, -0.5, 0.5) * _STEP, 0.0)
    correlation = np.take_along_axis(scores, best[..., None], -1)[..., 0]
    flat = np.abs(scores).max(axis=-1) < 1e-9
    return np.where(flat, 0.0, log_ratio), np.where(flat, 0.0, correlation)


def _standard(planes: np.ndarray) -> np.ndarray:
    """Mean 0, variance 1 over the last two axes; a flat plane is 0."""
    centred = np.asarray(planes, np.float64)
    centred = centred - centred.mean(axis=(-2, -1), keepdims=True)
    scale = np.sqrt((centred**2).mean(axis=(-2, -1), keepdims=True))
    return np.asarray(centred / np.where(scale > 1e-9, scale, 1.0))


def order_agreement(images: np.ndarray) -> dict[str, np.ndarray]:
    """Order of the channels -> per image [N] of [N,3,H,W], how well strain of its u and v fits its s (correlation)."""
    found = {}
    for order in ORDERS:
        u, v, s = (images[:, order.index(letter)] for letter in "uvs")
        found[order] = strain_agreement(u, v, s)[1]
    return found


# ---------------------------------------------------------------- flow folders


UNITS = (
    "flow is in units of its own rms, not in pixels: it was read from a stretched flow image, centred on its median, "
    "its u:v ratio recovered from the strain"
)
"""Warning that every row carries."""

_SMALLEST = 8
_CHECKED = 512  # images that the order of channels is decided on
_NOTHING = 0.1  # mean correlation below which no order agrees with the strain
_SPLITS = ("u_train", "u_test")
_PEOPLE = (
    ("samm", 200.0, "{:03d}", re.compile(r"0*(\d{1,3})")),
    ("smic", 100.0, "s{:02d}", re.compile(r"s0*(\d{1,2})", re.I)),
    ("casme2", 200.0, "sub{:02d}", re.compile(r"sub0*(\d{1,2})", re.I)),
)
_SMIC_CLIP = re.compile(r"s0*(\d+)(_.+)", re.I)


@dataclass(frozen=True)
class FlowClip:
    """One flow image; ``file`` is relative to the root."""

    database: str
    subject: str
    clip: str
    label: str
    fps: float
    file: str

    @property
    def clip_id(self) -> str:
        """No frame number is known; 0 stands for the onset."""
        return f"{self.database}/{self.subject}/{self.clip}/0"


@dataclass(frozen=True)
class FlowFolders:
    """Every clip once, sorted, and what is wrong with the ``u_train`` folders beside them."""

    root: Path
    clips: tuple[FlowClip, ...]
    violations: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        """Counts by database and class, subjects, and violations, for JSON and people (published: 442 clips of 68)."""
        counts = Counter((clip.database, clip.label) for clip in self.clips)
        return {
            "clips": len(self.clips),
            "subjects": len({(clip.database, clip.subject) for clip in self.clips}),
            "classes": {
                name: {label: counts[name, label] for label in CLASSES_3} for name in sorted({d for d, _ in counts})
            },
            "violations": list(self.violations),
        }


def read_flow_folders(root: Path | str, *, database: str = "") -> FlowFolders:
    """List the clips; no image is opened.

    ``database``: of subjects that are named like no subject of SAMM (006), SMIC (s01) or CASME II (sub01).

    Raises:
        DatasetLayoutError: no such layout, a clip twice or under two classes, a clip with another's subject, or a
            subject of no known database.
    """
    root = Path(root)
    with right_root(FLOW_FOLDERS, root):
        return _read(root, database)


def _read(root: Path, database: str) -> FlowFolders:
    people = sorted(p.name for p in root.iterdir() if (p / "u_test").is_dir()) if root.is_dir() else []
    if not people:
        raise WrongRoot(
            f"no folder like 006/u_test/0 in {root}: {contents(root)}; give the folder that holds the subjects"
        )
    trees = {name: {split: list(_images(root, f"{name}/{split}")) for split in _SPLITS} for name in people}
    clips: dict[str, FlowClip] = {}
    names: dict[tuple[str, str], str] = {}
    for person in people:
        for name, label, file in trees[person]["u_test"]:
            clip = _clip(person, name, label, file, database)
            if clip.clip_id in clips:
                raise DatasetLayoutError(
                    f"clip {name} is in u_test twice: {clips[clip.clip_id].file} and {file}; remove one"
                )
            clips[clip.clip_id] = clip
            names[person, name] = label
    if not clips:
        raise DatasetLayoutError(f"the u_test folders of {root} hold no png; copy them again")
    violations = tuple(text for person in people for text in _violations(person, trees[person], names))
    return FlowFolders(root, tuple(sorted(clips.values(), key=lambda clip: clip.clip_id)), violations)


def import_flow_folders(
    root: Path | str,
    out: Path | str,
    *,
    channels: str = "",
    database: str = "",
    framing: KnownFraming | Callable[[list[np.ndarray], list[str]], KnownFraming | None] | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> Manifest:
    """Write the clips of a flow folder tree into ``out`` as a manifest with flow, ready for the recognizer.

    ``flow.npy`` [2,H,W] float32 is :func:`unstretch`'s, in units of its rms; every row warns of that. The image
    itself is kept as the extra array :data:`~mesynth.store.shards.STRETCHED` (u, v, strain). ``channels``: what R, G
    and B hold, such as "svu" where R is the strain; empty takes "uvs", if the images agree with it. ``framing`` is
    recorded: where faces lie in the images, or what finds that from flows [2,H,W] of up to 512 of them and the names of
    their databases.

    Raises:
        DatasetLayoutError: see :func:`read_flow_folders`, or the channels are in another order.
        UnreadableImageError: an image is damaged or no 8-bit colour image.
        RunFolderError: see :func:`mesynth.store.stage.claim_folder`.
    """
    if channels and channels not in ORDERS:
        raise MesynthError(f"channels '{channels}' is no order of u, v and s (strain); choose from {', '.join(ORDERS)}")
    found = read_flow_folders(root, database=database)
    if not channels:
        require_order(found)
    digest = hashlib.sha256()
    for clip in found.clips:
        data = _bytes(found.root / clip.file)
        _decode(data, found.root / clip.file)  # a damaged image is found before the folder is claimed
        digest.update(f"{clip}{hashlib.sha256(data).hexdigest()}".encode())
    config: dict[str, object] = {
        "stage": "flow_folders", "input": digest.hexdigest(), "channels": channels or ORDERS[0],
        "version": mesynth.__version__,
    }  # fmt: skip
    if isinstance(framing, KnownFraming):
        config["framing"] = asdict(framing.framing)
    elif framing is not None:
        some = found.clips[:: -(-len(found.clips) // _CHECKED)]  # evenly taken
        order = channels or ORDERS[0]
        flows = [unstretch(_planes(read_flow_image(found.root / clip.file), order)) for clip in some]
        framing = framing(flows, [clip.database for clip in some])
    worker = _Worker(found.root, channels or ORDERS[0])
    return run_stage(
        Path(out), list(found.clips), worker, config=config, workers=workers, progress=progress,
        meta=framing_meta(framing),
    )  # fmt: skip


def _planes(picture: np.ndarray, order: str) -> np.ndarray:
    """[3,H,W] of R, G, B -> u, v, strain."""
    return picture[[order.index(letter) for letter in "uvs"]]


def require_order(found: FlowFolders, order: str = ORDERS[0]) -> None:
    """Check by physics that R, G and B are in ``order``: strain is a function of the flow.

    The strain of the first two channels must correlate with the third better than under any other order, on average
    over the corpus: another order is accused only where its advantage exceeds twice its standard error.

    Raises:
        DatasetLayoutError: another order fits better, or none fits.
    """
    step = -(-len(found.clips) // _CHECKED)
    pictures = [read_flow_image(found.root / clip.file) for clip in found.clips[::step]]
    sizes = Counter(picture.shape[1:] for picture in pictures)
    if len(sizes) > 1:
        raise DatasetLayoutError(f"flow images of {found.root} differ in size: {sorted(sizes)}; export them anew")
    agreement = order_agreement(np.stack(pictures))
    best = max(agreement, key=lambda name: float(agreement[name].mean()))
    mean = float(agreement[best].mean())
    if mean < _NOTHING:
        raise DatasetLayoutError(
            f"no order of the channels of {found.root} is flow and its strain (best correlation {mean:.2f} over "
            f"{len(pictures)} images); are these flow images? channels='{order}' (--frames {order}) reads them all "
            "the same"
        )
    gain = agreement[best] - agreement[order]
    error = float(gain.std(ddof=1) / np.sqrt(len(gain))) if len(gain) > 2 else 0.1
    if best != order and gain.mean() > 2 * error:
        raise DatasetLayoutError(
            f"the images of {found.root} hold {_spell(best)}, not {_spell(order)}: the strain of u and v correlates "
            f"with {mean:.2f} against {float(agreement[order].mean()):.2f} over {len(pictures)} images; read them with "
            f"channels='{best}' (--frames {best})"
        )


def read_flow_image(path: Path) -> np.ndarray:
    """[3,H,W] uint8: R, G, B of a flow image. Raises UnreadableImageError on anything but 8-bit colour."""
    return _decode(_bytes(path), path)


def _decode(data: bytes, path: Path) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    if image is None:
        raise UnreadableImageError(f"{path} cannot be read as an image; it may be truncated, replace it")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or min(image.shape[:2]) < _SMALLEST:
        raise UnreadableImageError(
            f"{path} is {image.dtype} of shape {image.shape}; a flow image is 8-bit RGB of at least {_SMALLEST} pixels"
        )
    return np.ascontiguousarray(swapped_channels(image).transpose(2, 0, 1))


# ---------------------------------------------------------------- the trees


def _images(root: Path, folder: str) -> Iterator[tuple[str, str, str]]:
    """(name without blanks and suffix, class folder, file) of every png below ``folder``."""
    for label in ("0", "1", "2"):
        try:
            with os.scandir(root / folder / label) as entries:
                files = sorted(e.name for e in entries if e.name.lower().endswith(".png") and e.name[0] != ".")
        except FileNotFoundError:  # a subject without clips of this class
            continue
        yield from ((file[:-4].strip(), label, f"{folder}/{label}/{file}") for file in files)


def _clip(person: str, name: str, label: str, file: str, database: str) -> FlowClip:
    owner, _, clip = name.partition("_")
    if owner != person or not clip:
        raise DatasetLayoutError(f"{file} is not named {person}_<clip>; it may be another subject's clip, move it")
    for known, fps, subject, pattern in _PEOPLE:
        if match := pattern.fullmatch(person):
            if known == "smic" and (parts := _SMIC_CLIP.fullmatch(clip)):
                clip = f"s{int(parts[1])}{parts[2]}"  # s01_ne_01 here, s1_ne_01 in the release
            return FlowClip(known, subject.format(int(match[1])), clip, CLASSES_3[int(label)], fps, file)
    if not database:
        raise DatasetLayoutError(
            f"subject '{person}' is named like none of SAMM (006), SMIC (s01) and CASME II (sub01); say whose it is "
            "with database= (--part)"
        )
    return FlowClip(database, person, clip, CLASSES_3[int(label)], 0.0, file)


def _violations(
    person: str, tree: dict[str, list[tuple[str, str, str]]], names: dict[tuple[str, str], str]
) -> Iterator[str]:
    """How a subject's u_train differs from the clips of all other subjects."""
    wanted = {name: label for (owner, name), label in names.items() if owner != person}
    if not tree["u_train"]:
        yield f"{person} has no u_train"
        return
    count = Counter(name for name, _, _ in tree["u_train"])
    held = {name: label for name, label, _ in tree["u_train"]}
    for what, found in (
        (f"holds clips of subject {person} itself, who is tested", [n for n in held if (person, n) in names]),
        ("lacks clips of other subjects", [n for n in wanted if n not in held]),
        ("holds clips of no u_test", [n for n in held if n not in wanted and (person, n) not in names]),
        ("holds clips twice", [n for n in count if count[n] > 1]),
        ("has clips in another class than u_test", [n for n in wanted if n in held and held[n] != wanted[n]]),
    ):
        if found:
            yield f"{person}/u_train {what}: {len(found)}, first {sorted(found)[0]}"


def _spell(order: str) -> str:
    """``R = u, G = v, B = strain``."""
    return ", ".join(f"{c} = {'strain' if o == 's' else o}" for c, o in zip("RGB", order, strict=True))


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnreadableImageError(f"{path} cannot be read ({error.strerror}); check the path") from None


# ---------------------------------------------------------------- one clip


@dataclass(frozen=True)
class _Worker:
    """Picklable: one image to one row with flow."""

    root: Path
    order: str

    def __call__(self, clip: FlowClip) -> Produced:
        path = self.root / clip.file
        picture = read_flow_image(path)
        planes = _planes(picture, self.order)
        log_ratio, correlation = strain_agreement(*planes)
        row = Row(
            clip_id=clip.clip_id,
            database=clip.database,
            subject=clip.subject,
            clip=clip.clip,
            onset=0,
            apex=None,
            offset=0,
            fps=clip.fps,
            n_frames=0,
            apex_index=0,
            height=planes.shape[1],
            width=planes.shape[2],
            emotion=clip.label if clip.database == "smic" else "",  # SMIC has no other words
            label=clip.label,
            warnings=(UNITS,),
            provenance=Provenance(
                kind="real",
                database=clip.database,
                subject=clip.subject,
                licence=f"{clip.database} licence agreement",
                subjects_seen=(f"{clip.database}/{clip.subject}",),
                parents=(hashlib.sha256(_bytes(path)).hexdigest(),),
                code_version=mesynth.__version__,
            ),
        )
        return Produced(
            row,
            flow=unstretch(planes),
            extra={f"input_{STRETCHED}": planes},
            notes={"strain_correlation": round(float(correlation), 4), "v_to_u": round(float(np.exp(log_ratio)), 4)},
        )
