"""MicroExpFuseNet: eyes and mouth apart, then together (Reddy, Karri, Dubey and Mukherjee, IJCNN 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from recognizer.models.common import Dropout, FlowNetwork, Outputs, Shape, check, resized
from recognizer.models.faces import EYE_BOX, MOUTH_BOX, box_slices
from recognizer.models.microexpstcnn import SpaceTime

FUSIONS = ("intermediate", "late")


@dataclass(frozen=True, kw_only=True)
class FusenetConfig:
    """Published sizes (6.7 million parameters on 18 frames)."""

    fusion: str = "intermediate"
    """intermediate: joined before the dense layers; late: before the classifier."""
    filters: int = 32
    depth: int = 15
    """Frames a kernel spans; fewer where a clip has fewer."""
    side: int = 32
    """Both crops are brought to this size."""
    dense: tuple[int, int] = (1024, 128)
    dropout: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "dense", tuple(self.dense))
        check(
            "fusenet", self, least={"filters": 1, "depth": 1, "side": 5, "dense": 1}, shares=("dropout",),
            choices={"fusion": FUSIONS},
        )  # fmt: skip


class Fusenet(FlowNetwork):
    """MicroExpSTCNN's convolution on two crops, dense layers, classifier.

    Published (paper, authors' code): crops between landmarks 19, 1, 15 (eyes) and 2, 6, 14 (nose and mouth) at 32
    pixels, dense 1024 and 128 without a non-linearity, dropout .5 after every layer.
    Deviation: the landmarks are those of the mean face, for faces are aligned.
    """

    needs = ("frames",)
    stack = 1

    def __init__(self, config: FusenetConfig, n_classes: int, shape: Shape) -> None:
        super().__init__()
        self.config = config
        self.boxes = [box_slices(box, shape.frame_size) for box in (EYE_BOX, MOUTH_BOX)]
        parts = [SpaceTime(config.filters, config.depth, config.side, shape.frames, config.dropout) for _ in self.boxes]
        self.seen = nn.ModuleList(parts)
        sizes = [part.size for part in parts]
        first, second = config.dense
        self.dense = nn.ModuleList(
            nn.Sequential(
                nn.Linear(n, first), Dropout(config.dropout), nn.Linear(first, second), Dropout(config.dropout)
            )
            for n in (sizes if config.fusion == "late" else [sum(sizes)])
        )
        self.classify = nn.Linear(second * len(self.dense), n_classes)

    def forward(self, *views: torch.Tensor) -> Outputs:
        """[B,T,F,F] frames -> scores."""
        crops = [resized(views[0][:, :, rows, columns], self.config.side) for rows, columns in self.boxes]
        seen = [part(crop) for part, crop in zip(self.seen, crops, strict=True)]
        joined = seen if len(self.dense) > 1 else [torch.cat(seen, 1)]
        features = torch.cat([dense(x) for dense, x in zip(self.dense, joined, strict=True)], 1)
        return Outputs(self.classify(features), None, features)


def build(config: FusenetConfig, n_classes: int, shape: Shape) -> FlowNetwork:
    """A fresh network for ``n_classes`` classes and these sizes; weights from torch's current seed."""
    return Fusenet(config, n_classes, shape)
