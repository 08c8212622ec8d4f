"""The 3D FACS head: synthetic subjects with exact action units, motion and landmarks.

Names are loaded when first used, so that importing the package does not import the compiler behind the renderer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesynth.core import lazy_names

if TYPE_CHECKING:
    from mesynth.head.model import HeadModel, blink, head_motion
    from mesynth.head.render import HeadFlow, Subject, au_sheet, contact_sheet, identities_sheet

__all__ = ["HeadFlow", "HeadModel", "Subject", "au_sheet", "blink", "contact_sheet", "head_motion", "identities_sheet"]
_HOME = {
    "HeadFlow": "render",
    "HeadModel": "model",
    "Subject": "render",
    "au_sheet": "render",
    "blink": "model",
    "contact_sheet": "render",
    "head_motion": "model",
    "identities_sheet": "render",
}
__getattr__, __dir__ = lazy_names(__name__, _HOME)
