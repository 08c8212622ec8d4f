"""What every room stands on: values, FACS, statistics; and how a package shows names that are imported when used."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import reduce
from importlib import import_module
from typing import Any


def lazy_names(package: str, home: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` (PEP 562) of ``package``, whose names live where ``home`` says.

    Args:
        package: ``__name__`` of the package that has these names.
        home: name -> ``"module"``, relative to the package, where the thing has the same name; or
            ``"module:attribute"``, with dots for an attribute of an attribute.

    A name that is no key of ``home`` raises AttributeError, as on any module.

    >>> get, names = lazy_names("json", {"JSONDecoder": "decoder", "loads_line": "decoder:JSONDecoder.raw_decode"})
    >>> get("loads_line").__name__
    'raw_decode'
    >>> "JSONDecoder" in names()
    True
    """

    def get(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, attribute = home[name].partition(":")
        value = reduce(getattr, (attribute or name).split("."), import_module(f"{package}.{module}"))
        setattr(sys.modules[package], name, value)  # found at once the next time
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *home})

    return get, names
