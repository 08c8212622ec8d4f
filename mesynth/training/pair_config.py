"""Where training pairs come from and what is done to them."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path

from mesynth.errors import ConfigError
from mesynth.training.degrade import CameraConfig
from mesynth.training.packed_clip import PackConfig
from mesynth.training.rendered_pairs import MAX_SIZE, TRAIN_SEEDS, VALIDATION_SEEDS, RenderConfig

KINDS = ("rendered", "manifest")
_RENDERED_ONLY = (
    "identities", "per_identity", "validation_identities", "neutral", "single", "emotional", "blink", "still", "head",
    "turn", "jitter",
)  # fmt: skip
_MANIFEST_ONLY = ("manifests", "frames", "apex_share", "validation_share")
_PAIRS_ONLY = ("manifests", "frames", "apex_share", "faces_share")


@dataclass(frozen=True, kw_only=True)
class PairConfig:
    """Source, size and augmentation of training pairs."""

    kind: str = "rendered"
    """"rendered": people of the 3D head, made on first use; "manifest": clips of prepared or generated folders."""
    size: int = 64
    """Side of the pictures, pixels."""
    manifests: tuple[Path, ...] = ()
    """Folders with a manifest of aligned frames, for kind "manifest"."""
    frames: int = 6
    """Frames kept of each clip: onset, apex, and others at even distances."""
    apex_share: float = 0.5
    """Share of pairs whose later frame is the apex; in the others it is any other kept frame."""
    validation_share: float = 0.1
    """Share of each database's subjects that validate and are never learned from (at least one in all)."""
    identities: int = 200
    """Rendered people to learn from."""
    per_identity: int = 30
    """Rendered pairs of each person."""
    validation_identities: int = 16
    """Rendered people who validate."""
    neutral: float = RenderConfig.neutral
    """Share of rendered pairs without AUs."""
    single: float = RenderConfig.single
    """Share of rendered pairs with one AU alone."""
    emotional: float = RenderConfig.emotional
    """Share of rendered pairs with the AUs of an emotion; only these have a class."""
    blink: float = RenderConfig.blink
    """Share of rendered pairs with part-closed lids at the later frame."""
    still: float = RenderConfig.still
    """Share of rendered pairs without head movement."""
    head: float = RenderConfig.head
    """Largest scale of the others' head movement."""
    turn: float = RenderConfig.turn
    """Standard deviation of the onset's head angles, degrees."""
    jitter: float = RenderConfig.jitter
    """Standard deviation of the crop's landmark error, inter-ocular distances."""
    flip: bool = True
    """Mirror half of the pairs, with flow, visibility and AU sides."""
    faces: tuple[Path, ...] = ()
    """Folders with a manifest whose onsets are faces to learn from, whatever their clips show."""
    faces_share: float = 0.5
    """Share of the draws that are faces alone."""
    camera: CameraConfig = field(default_factory=CameraConfig)
    """Cameras that training pairs are seen by; validation pairs are left as they are."""

    def __post_init__(self) -> None:
        for name in ("manifests", "faces"):
            object.__setattr__(self, name, tuple(Path(p) for p in getattr(self, name)))
        if self.kind not in KINDS:
            raise ConfigError(f"data.kind '{self.kind}' is unknown; choose {' or '.join(KINDS)}")
        self.pack()
        if self.frames < 2:
            raise ConfigError(f"data.frames={self.frames} is less than 2; onset and apex are always kept")
        for name in ("apex_share", "validation_share", "faces_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"data.{name}={getattr(self, name):g} is no share; choose a number in [0, 1]")
        defaults = {f.name: f.default for f in fields(self)}
        for name, why in self.idle().items():
            if getattr(self, name) != defaults[name]:
                raise ConfigError(f"data.{name} has no effect: {why}; leave it out")
        if self.faces and not 0 < self.faces_share < 1:
            less = "no face" if self.faces_share == 0 else "nothing but faces"
            raise ConfigError(
                f"data.faces_share={self.faces_share:g} draws {less}; choose a share between 0 and 1, leave out "
                "data.faces, or for faces alone set data.kind=manifest without data.manifests"
            )
        for name in ("manifests", "faces"):
            if len(set(getattr(self, name))) != len(getattr(self, name)):
                raise ConfigError(f"data.{name} names a folder twice; name each once")
        if self.kind == "rendered":
            if self.size > MAX_SIZE:
                raise ConfigError(f"data.size={self.size} is more than {MAX_SIZE}, the largest that is rendered")
            self.render(), self.render(validation=True)
        elif not self.manifests and not self.faces:
            raise ConfigError(
                "data.manifests is empty; name the folders to learn from, as in data.manifests=[prepared]"
            )

    @property
    def faces_alone(self) -> bool:
        """Whether faces are all there is to learn from."""
        return bool(self.faces) and self.kind == "manifest" and not self.manifests

    def idle(self) -> dict[str, str]:
        """Keys without effect, and why."""
        names = _MANIFEST_ONLY if self.kind == "rendered" else _RENDERED_ONLY
        idle = dict.fromkeys(names, f"data.kind={self.kind} does not use it")
        if self.faces:
            idle.pop("validation_share", None)
        else:
            idle |= dict.fromkeys(("faces", "faces_share"), "data.faces names no folder")
        if self.faces_alone:
            idle |= dict.fromkeys(_PAIRS_ONLY, "there are faces alone to learn from")
        return idle

    def pack_faces(self) -> PackConfig:
        """How faces are packed."""
        return PackConfig(size=self.size, frames=1)

    def pack(self) -> PackConfig:
        """How clips are packed."""
        return PackConfig(size=self.size, frames=2 if self.kind == "rendered" else self.frames)

    def render(self, *, validation: bool = False) -> RenderConfig:
        """What is rendered for training, or for validation."""
        return RenderConfig(
            first=(VALIDATION_SEEDS if validation else TRAIN_SEEDS).start,
            identities=self.validation_identities if validation else self.identities,
            **{name: getattr(self, name) for name in _RENDERED_ONLY if not name.endswith("identities")},
            size=self.size,
        )
