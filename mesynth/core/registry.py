"""Things that a name stands for: what ships, what a decorator adds, and what installed packages declare.

A registry is the only way from a name in a recipe, on a command line or in a saved folder to code: nothing in a file is
imported or executed. What ships is a table of ``"module:attribute"`` texts, imported when it is asked for, so that
listing names stays cheap. Others add to it in Python by :meth:`Registry.register`, or from an installed package by an
entry point of the registry's group, and cannot replace what ships.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from mesynth.core.errors import ConfigError

T = TypeVar("T")
V = TypeVar("V")


class Registry(Generic[T]):
    """From names to things of one kind, loaded when they are first asked for: ``registry[name]``, ``in``, iteration.

    Args:
        what: the kind, in the singular, as error messages call it.
        group: entry points of this group belong to it (``[project.entry-points."mesynth.databases"]``).
        shipped: name -> ``"module:attribute"``, or the thing itself.

    >>> sizes = Registry("paper size", "example.sizes", {"A4": "math:pi"})
    >>> sizes["A4"]
    3.141592653589793
    >>> sizes.register("A5", 2.0)
    2.0
    >>> "A5" in sizes, "B5" in sizes
    (True, False)
    >>> sizes["A6"]
    Traceback (most recent call last):
    mesynth.core.errors.ConfigError: paper size 'A6' is unknown; did you mean A5? there are: A4, A5
    """

    def __init__(self, what: str, group: str, shipped: Mapping[str, str | T] | None = None) -> None:
        self.what, self.group = what, group
        self._shipped: dict[str, Any] = dict(shipped or {})
        self._added: dict[str, Any] = {}
        self._declared: dict[str, EntryPoint] | None = None
        self._loaded: dict[str, T] = {}

    def register(self, name: str, thing: V | None = None) -> Any:
        """Add ``thing`` under ``name``; without ``thing``, a decorator. A name of an earlier addition is replaced.

        In programs that start processes (``--workers``), do so where the processes come by, too: at the top of an
        imported module, not below ``if __name__ == "__main__"``.

        Raises:
            ConfigError: the name is one of what ships.

        >>> sizes = Registry("paper size", "example.sizes", {"A4": 1.0})
        >>> sizes.register("A4", 2.0)
        Traceback (most recent call last):
        mesynth.core.errors.ConfigError: paper size 'A4' ships and cannot be replaced; choose another name
        """
        if name in self._shipped:
            raise ConfigError(f"{self.what} '{name}' ships and cannot be replaced; choose another name")
        if thing is not None:
            self._added[name] = thing
            self._loaded.pop(name, None)
            return thing

        def decorator(decorated: V) -> V:
            self.register(name, decorated)
            return decorated

        return decorator

    def remove(self, name: str) -> None:
        """Take back what :meth:`register` added under ``name``; nothing happens where there is none."""
        if self._added.pop(name, None) is not None:
            self._loaded.pop(name, None)

    def shipped(self) -> list[str]:
        """Names of what ships, in its order."""
        return list(self._shipped)

    def __getitem__(self, name: str) -> T:
        """What ``name`` stands for, imported now.

        Raises:
            ConfigError: nothing of that name, or an installed package's cannot be imported.
        """
        if name not in self._loaded:
            self._loaded[name] = self._find(name)
        return self._loaded[name]

    def _find(self, name: str) -> T:
        if name in self._shipped:
            return self._resolved(self._shipped[name])
        if name in self._added:
            found: T = self._added[name]
            return found
        entry = self._entries().get(name)
        if entry is None:
            raise ConfigError(self._unknown(name))
        try:
            declared: T = entry.load()
        except Exception as error:  # whatever an outsider's module does at import
            package = entry.dist.name if entry.dist else "?"
            raise ConfigError(
                f"{self.what} '{name}' of package {package} cannot be imported ({type(error).__name__}: {error}); "
                "mend or remove that package"
            ) from error
        return declared

    @staticmethod
    def _resolved(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        module, _, attribute = value.partition(":")
        return getattr(import_module(module), attribute) if attribute else import_module(module)

    def _entries(self) -> dict[str, EntryPoint]:
        if self._declared is None:
            found = {entry.name: entry for entry in entry_points(group=self.group)}
            self._declared = {name: entry for name, entry in found.items() if name not in self._shipped}
        return self._declared

    def _unknown(self, name: str) -> str:
        near = difflib.get_close_matches(str(name), list(self), n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}? " if near else ""
        return f"{self.what} '{name}' is unknown; {hint}there are: {', '.join(self)}"

    def __contains__(self, name: object) -> bool:
        return name in self._shipped or name in self._added or name in self._entries()

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._shipped, *self._added, *self._entries()]))

    def __len__(self) -> int:
        return len(list(iter(self)))
