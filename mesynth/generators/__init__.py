"""Learned generators, one folder a family: config (read without torch), network (and the generator), task (training).

A package adds a family of its own by an entry point of the group ``mesynth.generators`` that names a
:class:`~mesynth.store.generator_folder.Family`, or in Python by :func:`register_family`. It is then trained by a recipe
that says ``task: NAME``, saved, generated with, compared and checked for leaks like those that ship.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mesynth.store.generator_folder import FAMILIES, Family

__all__ = ["register_family"]


def register_family(name: str, **parts: Any) -> Callable[[Callable[[Path, Any], Any]], Callable[[Path, Any], Any]]:
    """Decorate the function that loads a family's saved folders; ``parts`` are the other fields of a ``Family``.

    Saved generators of the family are found by ``name`` alone: nothing in their folders is imported. In programs that
    start processes, register at the top of a module that they import as well.

    Raises:
        ConfigError: a name that ships.

    >>> @register_family("mine", frames=False)
    ... def load(folder, facts):
    ...     ...
    >>> FAMILIES["mine"].frames
    False
    """

    def decorator(load: Callable[[Path, Any], Any]) -> Callable[[Path, Any], Any]:
        FAMILIES.register(name, Family(pipeline=load, **parts))
        return load

    return decorator
