"""The one look of every HTML page that this project writes: one file, nothing fetched, light and dark, from 390 px on.

A page is a Jinja template with ``{{ style }}`` in its head; :func:`render` fills it in and escapes everything else.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any


@cache
def style() -> str:
    """The CSS that all pages share."""
    return resources.files("mesynth.store").joinpath("pages.css").read_text(encoding="utf-8")


def render(room: str, name: str, **words: Any) -> str:
    """The template ``name`` of the package ``room`` (``"mesynth.metrics"``), with the shared style and ``words``.

    Every word is escaped; one that the template asks for and nobody gave is a fault of the program.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    source = resources.files(room).joinpath(name).read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(source).render(style=Markup(style()), **words)


def script_data(value: Any) -> Any:
    """``value`` as JSON for ``<script type="application/json">``: no text of it can end the element.

    >>> str(script_data({"name": "</script>"}))
    '{"name":"\\\\u003c/script\\\\u003e"}'
    """
    from markupsafe import Markup

    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)
