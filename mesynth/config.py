"""Recipes: frozen dataclasses filled from a YAML file and ``key=value`` settings; no key may be without meaning."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mesynth.core.errors import ConfigError

Config = TypeVar("Config")


def load_recipe(
    kind: type[Config], file: Path | str | None = None, overrides: Sequence[str] = ()
) -> tuple[Config, list[str]]:
    """Defaults of ``kind``, then a YAML file, then ``key=value`` overrides; and the keys that were given.

    Raises:
        ConfigError: an unreadable file, an unknown key (with the nearest valid ones), or a value of the wrong type
            or out of range.
    """
    asked = _read_file(file)
    for text in overrides:
        if "=" not in text:
            raise ConfigError(f"'{text}' is no setting; write key=value, for example train.steps=100")
    try:
        dotlist = OmegaConf.from_dotlist(list(overrides))
        given = OmegaConf.merge(asked, dotlist)
    except (OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"settings {' '.join(overrides)} cannot be read: {_first_line(error)}") from None
    keys = list(_leaves(OmegaConf.to_container(given)))
    valid = _valid_keys(kind)
    for key in keys:
        if key not in valid:
            near = difflib.get_close_matches(key, valid, n=3, cutoff=0.5) or sorted(valid)[:8]
            raise ConfigError(f"unknown key '{key}'; nearest: {', '.join(near)}")
        if any(name.startswith(key + ".") for name in valid) and OmegaConf.select(given, key) not in ({}, None):
            inside = ", ".join(sorted(name for name in valid if name.startswith(key + "."))[:4])
            raise ConfigError(f"{key} is a section and takes no value; set for example {inside}")
    try:
        base = OmegaConf.structured(kind())
        _unlock(base)
        config = OmegaConf.to_object(OmegaConf.merge(base, given))
    except OmegaConfBaseException as error:
        raise ConfigError(f"configuration: {_first_line(error)}") from None
    assert isinstance(config, kind)
    return config, keys


def _read_file(file: Path | str | None) -> DictConfig:
    if file is None:
        return OmegaConf.create({})
    try:
        loaded = yaml.safe_load(Path(file).read_text())
    except OSError as error:
        raise ConfigError(f"configuration {file} cannot be read ({error.strerror}); check the path") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration {file} is no YAML: {_first_line(error)}") from None
    if loaded is not None and not isinstance(loaded, dict):
        raise ConfigError(f"configuration {file} holds a {type(loaded).__name__}; expected keys and values")
    return OmegaConf.create(loaded or {})


def _first_line(error: Exception) -> str:
    key = getattr(error, "full_key", None)
    text = " ".join(str(error).split("\n    full_key")[0].split())
    return f"{key}: {text}" if key else text


def _leaves(node: Any, prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{name}.")
        else:
            yield name


def _valid_keys(kind: type[Any]) -> set[str]:
    """All leaf keys, and the sections (a section may be given as empty)."""
    out: set[str] = set()
    for f in fields(kind):
        default = f.default_factory() if callable(f.default_factory) else f.default
        out.add(f.name)
        if is_dataclass(default):
            out |= {f"{f.name}.{leaf}" for leaf in _valid_keys(type(default))}
    return out


def _unlock(node: Any) -> None:
    """Frozen dataclasses become read-only nodes; merging needs them open (the result is frozen again)."""
    OmegaConf.set_readonly(node, False)
    for key in node:
        if OmegaConf.is_config(child := node._get_node(key)):
            OmegaConf.set_readonly(child, False)
            if isinstance(child, DictConfig):
                _unlock(child)


# --- recipes by name

_PACKAGED, _CHECKOUT = Path(__file__).parent / "recipes", Path(__file__).parent.parent / "configs"
"""The same files: where a wheel has them, and where users find them in a checkout."""


def find_recipe(text: Path | str) -> Path:
    """The recipe's file: an existing path, or a name of :func:`list_recipes` (``configs/NAME.yaml`` is one, too).

    Raises:
        ConfigError: neither a file nor a name; the nearest names are told.

    >>> find_recipe("gan/motion_tiny").name
    'motion_tiny.yaml'
    """
    if (file := Path(text)).exists() and not file.is_dir():
        return file
    name = file.as_posix().removeprefix("configs/").removesuffix(".yaml")
    known = list_recipes()
    for folder in (_PACKAGED, _CHECKOUT):
        if name in known and (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or known[:3]
    raise ConfigError(f"recipe '{text}' is no file and no name; check the path, or name one: {', '.join(near)} ...")


def list_recipes(folder: str = "") -> list[str]:
    """Names of the recipes that come with the package, sorted; ``folder``: only those in it, as ``"gan"``.

    >>> list_recipes("corpus")
    ['corpus/coded', 'corpus/sweep', 'corpus/three_classes']
    """
    root = next((place for place in (_PACKAGED, _CHECKOUT) if place.is_dir()), None)
    if root is None:
        return []
    return sorted(f.relative_to(root).with_suffix("").as_posix() for f in (root / folder).rglob("*.yaml"))
