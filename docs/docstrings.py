"""Docstrings as the site shows them: examples in code blocks, roles as plain names. For griffe (mkdocs.yml)."""

from __future__ import annotations

import re
from typing import Any

import griffe


def readable(text: str) -> str:
    """A docstring in reStructuredText's words -> Markdown."""
    text = re.sub(r":\w+:`~?\.*([\w.]+)`", r"`\1`", text)
    text = re.sub(r"::$", ":", text, flags=re.MULTILINE)
    return re.sub(r"(?m)^>>> .*(?:\n(?!\s*$).*)*", lambda example: f"```pycon\n{example[0]}\n```", text)


class Readable(griffe.Extension):
    """Rewrites every docstring before it is parsed."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for each module, class, function and attribute."""
        if obj.docstring:
            obj.docstring.value = readable(obj.docstring.value)
