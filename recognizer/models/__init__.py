"""The models: two in closed form, and networks that stack over folds. One table says which there are."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

LDA, SVM = "lda", "svm"
CLOSED: tuple[str, ...] = (LDA, SVM)
"""Not trained in steps; they see the flow image alone."""
_OURS = ("capsule_graph", "region_attention")
_PUBLISHED = (
    "ststnet", "offapex", "dssn", "capsulenet", "ice_discriminator", "au_gacn", "mer_gcn", "graph_tcn", "elrcn",
    "micro_attention", "microexpstcnn", "fusenet", "atnet", "htnet",
)  # fmt: skip
NETWORKS: tuple[str, ...] = (*_OURS, *_PUBLISHED)
"""A module each, of that name."""
MODELS: tuple[str, ...] = (*CLOSED, *NETWORKS)


def network_module(name: str) -> ModuleType:
    """The module of one of NETWORKS, with ``build(config, n_classes, shape)``."""
    assert name in NETWORKS, name
    return import_module(f"recognizer.models.{name}")
