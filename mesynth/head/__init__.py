"""The 3D FACS head: synthetic subjects with exact action units, motion and landmarks.

Names are loaded when first used, so that importing the package does not import the compiler behind the renderer.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mesynth.head.model import HeadModel, blink, head_motion
    from mesynth.head.render import HeadFlow, Subject
    from mesynth.head.sheet import au_sheet, contact_sheet, identities_sheet


_HOME = {
    "HeadModel": "model",
    "blink": "model",
    "head_motion": "model",
    "HeadFlow": "render",
    "Subject": "render",
    "au_sheet": "sheet",
    "contact_sheet": "sheet",
    "identities_sheet": "sheet",
}
__all__ = ["HeadFlow", "HeadModel", "Subject", "au_sheet", "blink", "contact_sheet", "head_motion", "identities_sheet"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
