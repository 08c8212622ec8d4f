"""Recipes: frozen dataclasses filled from a YAML file and ``key=value`` settings; no key may be without meaning.

A recipe is a file, or the name of one that comes with mesynth (``gan/motion_64``). It may start from another by
``base: gan/motion_64`` and state only what differs; null takes a key of the base out again, and so does ``key=null``
among the settings: the default holds then. Keys that were renamed are read by their former names for one version
(:data:`FORMER_KEYS`), with a warning.
"""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, make_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mesynth.core.errors import ConfigError

Config = TypeVar("Config")

BASE = "base"
"""The key by which a recipe names the one it starts from."""
_MOST_BYTES = 1 << 20
_MOST_VALUES = 100_000
"""What a recipe may hold, aliases followed: a few lines of YAML can stand for more than any memory."""
_MOST_DEEP = 100
_MOST_BASES = 8

_DIFFUSION_KEYS = {
    "model.expect": "model.mean_width", "model.expect_blocks": "model.mean_blocks", "model.kind": "model.process",
    "model.share": "model.sigma_share", "model.floor": "model.sigma_min", "model.whole": "model.sigma_data",
    "loss.expect": "loss.mean",
}  # fmt: skip
FORMER_KEYS: Mapping[str, Mapping[str, str]] = {
    "": {"data.kind": "data.source", "data.camera.share": "data.camera.probability"},
    "motion_diffusion": _DIFFUSION_KEYS,
    "flow_volume": {**_DIFFUSION_KEYS, "model.wander": "model.lag_std"},
    "image_diffusion": {
        "model.expect": "model.mean_model", "model.expect_sha256": "model.mean_model_sha256",
        "spread.share": "spread.sigma_share", "spread.floor": "spread.sigma_min", "spread.whole": "spread.sigma_data",
    },
}  # fmt: skip
"""Former key of a training recipe -> today's, for all tasks ("") and by task. Hashes of runs are over the former ones,
so that runs and generators of before stay what they are."""


# ---------------------------------------------------------------- finding


def recipes_root() -> Path:
    """The folder of the recipes that ship, one subfolder a verb or family.

    ``mesynth/recipes`` of an installed wheel, or ``configs`` of a checkout (and of an editable installation, which runs
    in one): the same files.

    Raises:
        ConfigError: the installation has lost them.

    >>> (recipes_root() / "recognizer" / "lda.yaml").is_file()
    True
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "recipes", package.parent / "configs"):
        if folder.is_dir():
            return folder
    raise ConfigError(f"no recipes in {package / 'recipes'}; reinstall mesynth, or give a recipe by its path")


def list_recipes(*kinds: str) -> dict[str, str]:
    """Name -> first line of its comment, of the recipes that come with mesynth.

    ``kinds``: folders to look into, as gan, diffusion, recognizer, ablation, corpus; none: all.

    >>> "gan/motion_64" in list_recipes("gan")
    True
    """
    found: dict[str, str] = {}
    root = recipes_root()
    for file in sorted(root.glob("*/*.yaml")):
        if not kinds or file.parent.name in kinds:
            first = file.read_text().partition("\n")[0]
            name = file.relative_to(root).with_suffix("").as_posix()
            found[name] = first.removeprefix("#").strip() if first.startswith("#") else ""
    return found


def find_recipe(name: Path | str) -> Path:
    """The file of a recipe: a path, or a name as :func:`list_recipes` has it.

    Where there is no file of that path, ``configs/gan/motion_64.yaml`` is the name as well.

    Raises:
        ConfigError: neither a file nor a name (with the nearest one).
    """
    file = Path(name)
    if file.exists() and not file.is_dir():
        return file
    parts = (file.with_suffix("") if file.suffix in (".yaml", ".yml") else file).parts
    plain, known = "/".join(parts[1:] if parts[:1] == ("configs",) else parts), list_recipes()
    if plain in known:
        return recipes_root() / f"{plain}.yaml"
    if file.suffix or file.is_dir():
        why = "a folder" if file.is_dir() else "no such file"
        raise ConfigError(f"recipe {name} cannot be read ({why}); check the path")
    # What is named without its folder is meant, however unlike the whole name it looks.
    near = [one for one in known if one.rpartition("/")[2] == plain.rpartition("/")[2]]
    near = near or difflib.get_close_matches(plain, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(known)};"
    raise ConfigError(f"recipe '{name}' is unknown; {hint} or give a YAML file")


# ---------------------------------------------------------------- reading


@dataclass(frozen=True)
class Given:
    """What a recipe and settings say, before any default."""

    values: dict[str, Any]
    """Nested, plain."""
    removed: tuple[str, ...]
    """Keys set to null over what was there: the default holds."""

    @property
    def keys(self) -> list[str]:
        """Full names of all keys that have a value."""
        return list(_leaves(self.values))


def read_given(recipe: Path | str | None = None, settings: Sequence[str] = ()) -> Given:
    """A recipe with those it starts from, then ``key=value`` settings.

    Raises:
        ConfigError: no such recipe, no YAML, too large, bases in a circle, or a setting that cannot be read.
    """
    values, removed = ({}, set()) if recipe is None else _file(find_recipe(recipe))
    for text in settings:
        if "=" not in text:
            raise ConfigError(f"'{text}' is no setting; write key=value, for example run.images=1000")
        _check_setting(text)
    try:
        over: Any = OmegaConf.to_container(OmegaConf.from_dotlist(list(settings)))
    except (OmegaConfBaseException, yaml.YAMLError, ValueError, AttributeError, RecursionError) as error:
        raise ConfigError(f"settings {' '.join(settings)[:200]} cannot be read: {_one_line(error)}") from None
    values = _over(values, over, removed)
    return Given(values, tuple(sorted(removed)))


def _check_setting(text: str) -> None:
    key, _, value = text.partition("=")
    try:
        read_yaml(value)
        if key.count(".") > _MOST_DEEP:
            raise OverflowError(f"has a key of more than {_MOST_DEEP} parts")
    except OverflowError as error:
        raise ConfigError(f"setting {text[:80]} {error}; is it meant?") from None
    except ValueError:
        pass  # said by who reads it: its grammar knows a little more


def _file(file: Path, after: tuple[Path, ...] = ()) -> tuple[dict[str, Any], set[str]]:
    """A file's values over those of its bases, and the keys that are taken out; ``after``: the files that led here."""
    if file.resolve() in after or len(after) >= _MOST_BASES:
        raise ConfigError(f"recipe {after[0]} starts from itself, or from more than {_MOST_BASES} others; mend base:")
    loaded = _loaded(file)
    if BASE not in loaded:
        return loaded, set()
    named = loaded.pop(BASE)
    if not isinstance(named, str):
        raise ConfigError(f"recipe {file}: base is {named!r}; name a recipe, for example 'base: gan/motion_64'")
    beside = file.parent / named
    values, removed = _file(beside if beside.is_file() else find_recipe(named), (*after, file.resolve()))
    return _over(values, loaded, removed), removed


def _loaded(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise ConfigError(f"recipe {file} has more than {_MOST_BYTES:,} bytes; is it a recipe?")
        loaded = read_yaml(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"recipe {file} cannot be read ({error.strerror}); check the path") from None
    except OverflowError as error:
        raise ConfigError(f"recipe {file} {error}; is it a recipe?") from None
    except ValueError as error:
        raise ConfigError(f"recipe {file} is no YAML: {_one_line(error)}") from None
    if loaded is not None and not isinstance(loaded, dict):
        raise ConfigError(f"recipe {file} holds a {type(loaded).__name__}; expected keys and values")
    return {str(key): value for key, value in (loaded or {}).items()}


_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The same in C, eight times as fast, where PyYAML was built with it."""


def read_yaml(text: str) -> Any:
    """YAML of plain values; what it stands for is counted before any of it is built.

    Raises:
        ValueError: no YAML, or a value that is none (the 31st of February).
        OverflowError: nested too deeply, an alias inside itself, or more values than any recipe has, aliases followed.

    >>> read_yaml("{a: &one [1, 2], b: *one}")
    {'a': [1, 2], 'b': [1, 2]}
    """
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _weigh(node)
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        if "nesting depth" in str(error):  # libyaml gives up at 1000
            raise OverflowError(f"is nested more than {_MOST_DEEP} deep") from None
        raise ValueError(" ".join(str(error).split())) from None
    except RecursionError:
        raise OverflowError(f"is nested more than {_MOST_DEEP} deep") from None
    finally:
        if loader is not None:
            loader.dispose()


def _weigh(root: yaml.Node) -> None:
    """Raise OverflowError for a document that stands for too much, aliases followed; each node is looked at once,
    however often it is named."""
    known: dict[int, tuple[int, int]] = {}  # values and depth of a node
    above: set[int] = set()

    def weigh(node: yaml.Node) -> tuple[int, int]:
        if id(node) in above:
            raise OverflowError("holds an alias inside what it names")
        if id(node) not in known:
            if len(above) > _MOST_DEEP:
                raise OverflowError(f"is nested more than {_MOST_DEEP} deep")
            above.add(id(node))
            inside = node.value if isinstance(node, yaml.CollectionNode) else ()
            found = [weigh(n) for item in inside for n in (item if isinstance(item, tuple) else (item,))]
            above.discard(id(node))
            known[id(node)] = 1 + sum(w for w, _ in found), 1 + max((deep for _, deep in found), default=0)
        return known[id(node)]

    values, deep = weigh(root)
    if values > _MOST_VALUES:
        raise OverflowError(f"stands for more than {_MOST_VALUES:,} values")
    if deep > _MOST_DEEP:
        raise OverflowError(f"is nested more than {_MOST_DEEP} deep")


def _over(values: Mapping[str, Any], over: Mapping[str, Any], removed: set[str], prefix: str = "") -> dict[str, Any]:
    """``over`` laid over ``values``: sections key by key, null takes a key out and is noted in ``removed``."""
    out = dict(values)
    for key, value in over.items():
        name, before = f"{prefix}{key}", out.get(str(key))
        if value is None:
            out.pop(str(key), None)
            removed.add(name)
        elif isinstance(value, dict) and value:
            out[str(key)] = _over(before if isinstance(before, dict) else {}, value, removed, f"{name}.")
        elif not (isinstance(value, dict) and isinstance(before, dict)):
            out[str(key)] = value
    return out


def renamed(given: Given, table: Mapping[str, str], *, quiet: bool = False) -> Given:
    """``given`` with keys of their former names under today's; one line on stderr says so, unless ``quiet``.

    Raises:
        ConfigError: a key is given by both names.
    """
    values, told = given.values, []
    keys = set(given.keys)
    for old, new in table.items():
        if old not in keys:
            continue
        if new in keys:
            raise ConfigError(f"{new} is given twice, also by its former name {old}; leave {old} out")
        values = _put(_without(values, old.split(".")), new.split("."), _get(values, old))
        told.append(f"{old} is now {new}")
    if told and not quiet:
        print(f"warning: former names, read for this version only: {'; '.join(told)}", file=sys.stderr, flush=True)
    return Given(values, tuple(table.get(key, key) for key in given.removed))


def by_former_names(values: dict[str, Any], table: Mapping[str, str]) -> dict[str, Any]:
    """Nested values by the former names of their keys: what a hash of before was taken over."""
    for old, new in table.items():
        if (value := _get(values, new, _MISSING)) is not _MISSING:
            values = _put(_without(values, new.split(".")), old.split("."), value)
    return values


_MISSING = object()


def _get(values: Any, key: str, default: Any = None) -> Any:
    for part in key.split("."):
        if not isinstance(values, dict) or part not in values:
            return default
        values = values[part]
    return values


def _put(values: dict[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    first, *rest = path
    return {**values, first: _put(values.get(first, {}), rest, value) if rest else value}


def _without(values: dict[str, Any], path: Sequence[str]) -> dict[str, Any]:
    first, *rest = path
    if rest:
        return {**values, first: _without(values[first], rest)}
    return {key: value for key, value in values.items() if key != first}


# ---------------------------------------------------------------- filling


def load_recipe(
    kind: type[Config], file: Path | str | None = None, overrides: Sequence[str] = ()
) -> tuple[Config, list[str]]:
    """Defaults of ``kind``, then a recipe, then ``key=value`` overrides; and the keys that were given.

    Raises:
        ConfigError: an unreadable file, an unknown key (with the nearest valid ones), or a value of the wrong type
            or out of range.
    """
    given = read_given(file, overrides)
    check_keys(given, valid_keys(kind))
    config = fill(kind(), given.values)
    assert isinstance(config, kind)
    return config, given.keys


def check_keys(given: Given, valid: set[str]) -> None:
    """Raises ConfigError for a key that is not ``valid`` (with the nearest that are), or a section with a value."""
    for key in (*given.keys, *given.removed):
        if key not in valid:
            near = difflib.get_close_matches(key, valid, n=3, cutoff=0.5) or sorted(valid)[:8]
            raise ConfigError(f"unknown key '{key}'; nearest: {', '.join(near)}")
    for key in given.keys:
        inside = sorted(name for name in valid if name.startswith(key + "."))
        if inside and _get(given.values, key) not in ({}, None):
            raise ConfigError(f"{key} is a section and takes no value; set for example {', '.join(inside[:4])}")


def valid_keys(kind: type[Any]) -> set[str]:
    """All keys of a dataclass, and its sections (a section may be given as empty)."""
    out: set[str] = set()
    hints: dict[str, Any] = {}
    for f in fields(kind):
        out.add(f.name)
        inner: Any = f.default_factory() if callable(f.default_factory) else f.default
        if inner is MISSING:
            hints = hints or get_type_hints(kind)
            inner = hints[f.name]
        if is_dataclass(inner):
            out |= {f"{f.name}.{leaf}" for leaf in valid_keys(inner if isinstance(inner, type) else type(inner))}
    return out


def fill(kind: Any, values: Mapping[str, Any], section: str = "") -> Any:
    """A dataclass (or one that holds defaults) with ``values``; ``section``: its name in the recipe, for messages.

    Raises:
        ConfigError: a value of the wrong type, or that the dataclass refuses.
    """
    try:
        return _filled(kind, values)
    except OmegaConfBaseException as error:
        own = getattr(error, "full_key", None) or _refused(kind, values)
        key = ".".join(part for part in (section, own) if part)
        where = key if section else f"configuration{f': {key}' if key else ''}"
        raise ConfigError(f"{where}: {_in_words(error, key, _get(values, own) if own else None)}") from None


def _filled(kind: Any, values: Mapping[str, Any]) -> Any:
    """What ``fill`` returns. OmegaConf takes 50 ms for a whole recipe's tree: it is shown the sections that ``values``
    name, of each the fields, and what is not named stays the default that it is."""
    if isinstance(kind, type) or "${" in str(values):  # an interpolation may point anywhere
        return _through_omegaconf(kind, values)
    changes = {}
    leaves = {}
    for name, value in values.items():
        inner = getattr(kind, name, None)
        if not (is_dataclass(inner) and isinstance(value, Mapping)):
            leaves[name] = value
            continue
        try:
            changes[name] = _filled(inner, value)
        except OmegaConfBaseException as error:
            if getattr(error, "full_key", None):
                error.full_key = f"{name}.{error.full_key}"
            raise
    if leaves:
        hints = get_type_hints(type(kind))
        shown = [
            (f.name, hints[f.name], field(default_factory=partial(getattr, kind, f.name)))
            for f in fields(kind)
            if f.name in leaves
        ]
        found = _through_omegaconf(make_dataclass(type(kind).__name__, shown), leaves)
        changes |= {name: getattr(found, name) for name in leaves}
    return replace(kind, **changes)


def _through_omegaconf(kind: Any, values: Mapping[str, Any]) -> Any:
    base = OmegaConf.structured(kind)
    _unlock(base)
    return OmegaConf.to_object(OmegaConf.merge(base, OmegaConf.create(dict(values))))


def _refused(kind: Any, values: Mapping[str, Any]) -> str:
    """The first key whose value alone is refused: errors inside lists do not name theirs."""
    for key in _leaves(values):
        base = OmegaConf.structured(kind)
        _unlock(base)
        try:
            OmegaConf.merge(base, OmegaConf.create(_put({}, key.split("."), _get(values, key))))
        except OmegaConfBaseException:
            return key
    return ""


def _in_words(error: Exception, key: str, value: Any) -> str:
    """What OmegaConf says, with the value where it leaves that out."""
    text = _one_line(error)
    if "ListConfig" in text and not isinstance(value, (list, tuple)):
        return f"'{value}' is no list; write {key}=[{value}]"
    return text.replace("'$VALUE' of type '$VALUE_TYPE'", f"'{value}'")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split("\n    full_key")[0].split())


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _unlock(node: Any) -> None:
    """Frozen dataclasses become read-only nodes; merging needs them open (the result is frozen again)."""
    OmegaConf.set_readonly(node, False)
    for key in node:
        if OmegaConf.is_config(child := node._get_node(key)):
            OmegaConf.set_readonly(child, False)
            if isinstance(child, DictConfig):
                _unlock(child)


# ---------------------------------------------------------------- checks that many sections share


def check_range(section: str, config: Any, least: float, most: float, *names: str) -> None:
    """Raises ConfigError for the first of the fields ``names`` that lies outside ``least``..``most``."""
    for name in names:
        if not least <= getattr(config, name) <= most:
            raise ConfigError(f"{section}.{name}={getattr(config, name):g} is outside {least:g}..{most:g}")


def check_share(what: str, config: Any, *names: str, noun: str = "share") -> None:
    """Raises ConfigError for the first of the fields ``names`` outside 0..1; ``what`` stands before its name."""
    for name in names:
        if not 0 <= getattr(config, name) <= 1:
            raise ConfigError(f"{what}{name}={getattr(config, name):g} is no {noun}; choose a number in [0, 1]")


def check_at_least_one(section: str, config: Any, *names: str) -> None:
    """Raises ConfigError for the first of the fields ``names`` that is less than 1."""
    for name in names:
        if getattr(config, name) < 1:
            raise ConfigError(f"{section}.{name}={getattr(config, name)} must be at least 1")


def check_weights(section: str, config: Any, *names: str) -> None:
    """Raises ConfigError for a number (of ``names``, or of all fields) that is not finite or negative."""
    for name in names or [f.name for f in fields(config)]:
        value = getattr(config, name)
        if isinstance(value, (int, float)) and not (math.isfinite(value) and value >= 0):
            raise ConfigError(f"{section}.{name}={value} is no weight; give a finite number >= 0")


def check_adam(optim: Any, most: float = 1.0) -> None:
    """Learning rates (at most ``most``), betas and weight decay of an ``optim`` section. Raises ConfigError."""
    for item in fields(optim):
        value = getattr(optim, item.name)
        if item.name.startswith("lr") and not 0 < value <= most:
            raise ConfigError(f"optim.{item.name}={value:g} is outside (0, {most:g}]; 1e-4 is usual")
        if (item.name.startswith("beta") or item.name == "weight_decay") and not 0 <= value < 1:
            raise ConfigError(f"optim.{item.name}={value:g} is outside [0, 1)")
