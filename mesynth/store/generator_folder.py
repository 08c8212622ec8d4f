"""Generators as they are saved: the one table of their families, and one folder a generator, checked before it is used.

A family is one :class:`Family` record. Its parts are ``"module:attribute"`` texts, imported when they are asked for, so
that the table can be read without torch; in Python the objects themselves do as well. Packages add families by an
entry point of the group ``mesynth.generators`` that names such a record, or by
:func:`mesynth.generators.register_family`.

A generator's folder holds ``mesynth.json`` (family, facts, sha256 and size of every file that matters), one subfolder
per network as diffusers writes them (``config.json`` and a safetensors file), and ``README.md``, the card. Nothing
in it is executed: the class comes from the table, the weights from safetensors alone.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from mesynth.core.errors import ConfigError, MesynthError, RunFolderError, first_line
from mesynth.core.facs import AU_INDEX
from mesynth.core.registry import Registry
from mesynth.store import digests
from mesynth.store.digests import file_sha256
from mesynth.store.run_folder import temporary_beside

# ---------------------------------------------------------------- the table


UNTRAINED = ("motion-prior", "landmark-mean")
"""Generators that learned from nobody and have no folder (:mod:`mesynth.motion.prior`); their frames are warped."""


@dataclass(frozen=True)
class Source:
    """Where training data come from."""

    config: type[Any]
    """Frozen dataclass, the section ``data`` of a recipe; it has ``size``, the side of the pictures in pixels."""
    open: Callable[..., Any]
    """``open(config, *, exclude_subjects, cache, seed, workers, progress)`` -> (training pairs, validation pairs)."""
    subjects: Callable[[Any], tuple[str, ...]]
    """``database/subject`` of everyone that training on a configuration may show."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """What mesynth has to know of a generator family.

    >>> FAMILIES["motion_gan"].frames, FAMILIES["flow_gan"].frames
    (True, False)
    """

    pipeline: str | Callable[[Path, Any], Any]
    """``load(folder, facts) -> Generator`` of a saved folder whose files were checked."""
    task: str | Callable[[Any, int], Any] = ""
    """``(configuration, size in pixels) ->`` :class:`mesynth.training.task.Task`; empty: it cannot be trained here."""
    config: str | type[Any] = ""
    """Frozen dataclass; each of its fields is a section of a recipe (model, loss, optim)."""
    data: str | Source = "mesynth.training.data.pairs:SOURCE"
    """What it learns from."""
    frames: bool = True
    """Whether it makes clips of a face; else flow images alone, by ``flows(seeds=, aus=, size=)``."""
    paints_frames: bool = False
    """Whether its network runs for every frame; else frames are made by warping."""
    diffusion: bool = False
    """Whether motion is drawn by a diffusion sampler."""
    lowers: bool = False
    """Whether it takes requests below 0 (mesynth.core.facs.LOWERABLE): it moves a face's pixels by a field for each AU,
    which can be followed backwards."""
    mean_network: str | type[Any] = ""
    """Class of its network ``generator``, where that gives the same picture for the same request, so that an
    ``image_diffusion`` may draw around it (docs/decisions/015)."""

    def load(self, folder: Path, facts: Any) -> Any:
        """The generator in ``folder``; ``facts``: its :class:`~mesynth.store.generator_folder.GeneratorFacts`."""
        return _resolved(self.pipeline)(folder, facts)

    def build_task(self, config: Any, size: int) -> Any:
        """The task of a configuration, for pictures of ``size`` pixels."""
        return _resolved(self.task)(config, size)

    @property
    def config_class(self) -> type[Any]:
        """See :attr:`config`."""
        found: type[Any] = _resolved(self.config)
        return found

    @property
    def source(self) -> Source:
        """See :attr:`data`."""
        found: Source = _resolved(self.data)
        return found

    @property
    def mean_network_class(self) -> type[Any]:
        """See :attr:`mean_network`."""
        found: type[Any] = _resolved(self.mean_network)
        return found


def _resolved(part: Any) -> Any:
    if not isinstance(part, str):
        return part
    module, _, attribute = part.partition(":")
    return getattr(import_module(module), attribute)


def _shipped(name: str, pipeline: str, task: str, **properties: Any) -> Family:
    room = f"mesynth.generators.{name}"
    mean = properties.pop("mean_network", "")
    return Family(
        pipeline=f"{room}.network:{pipeline}",
        task=f"{room}.task:{task}",
        config=f"{room}.config:Config",
        mean_network=mean and f"{room}.network:{mean}",
        **properties,
    )


FAMILIES: Registry[Family] = Registry(
    "generator family",
    "mesynth.generators",
    {
        "motion_gan": _shipped("motion_gan", "load", "MotionGANTask", mean_network="MotionGenerator", lowers=True),
        "au_icgan": _shipped("au_icgan", "load", "AUICGANTask", paints_frames=True, mean_network="AUICGenerator"),
        "ice_gan": _shipped("ice_gan", "load", "ICEGANTask", paints_frames=True),
        "flow_gan": _shipped("flow_gan", "load", "FlowGANTask", frames=False),
        "motion_diffusion": _shipped("motion_diffusion", "load", "MotionDiffusionTask", diffusion=True, lowers=True),
        "image_diffusion": _shipped("image_diffusion", "load", "ImageDiffusionTask"),
        "flow_volume": _shipped(
            "flow_volume", "load", "FlowVolumeTask", diffusion=True, data="mesynth.training.data.sequences:SOURCE"
        ),
    },
)


def trained_family(name: str) -> Family:
    """The family that a recipe's ``task`` names.

    Raises:
        ConfigError: there is none of that name, or it cannot be trained by mesynth.
    """
    family = FAMILIES[name]
    if not family.task or not family.config:
        raise ConfigError(f"generator family '{name}' cannot be trained by mesynth; choose another task")
    return family


def has_property(name: str, prop: str) -> bool:
    """Whether ``name`` is a family with a property: ``frames``, ``paints_frames``, ``diffusion`` or ``lowers``."""
    return name in FAMILIES and bool(getattr(FAMILIES[name], prop))


def makes_frames(name: str) -> bool:
    """Whether generators called ``name`` make clips of a face: all but some families (UNTRAINED are none)."""
    return name not in FAMILIES or FAMILIES[name].frames


# ---------------------------------------------------------------- saved folders


INDEX = "mesynth.json"
CARD = "README.md"
FORMAT = 1
WEIGHTS = "diffusion_pytorch_model.safetensors"
SHIPPED = Path(__file__).resolve().parent.parent / "generators" / "data"
"""One folder a generator that comes with the package."""
_Network = TypeVar("_Network")


class PipelineError(MesynthError):
    """A folder is no saved generator, or what it holds is not what was saved."""


@dataclass(frozen=True, kw_only=True)
class GeneratorFacts:
    """What a saved generator says about where it comes from."""

    name: str
    """The family, a name in :data:`mesynth.store.generator_folder.FAMILIES`."""
    size: int
    """Side of the pictures its networks work on, pixels."""
    subjects_seen: tuple[str, ...]
    """``database/subject`` of everyone it learned from."""
    licences: tuple[str, ...]
    data_hash: str
    config_hash: str
    images: int
    """Pairs seen in training."""
    seed: int
    code_version: str
    figures: Mapping[str, float] = field(default_factory=dict)
    """Measured on validation pairs."""
    networks: tuple[str, ...] = ()
    """Subfolders, one a network."""
    weights_sha256: str = ""
    """Of the names and hashes of all network files, and of the gains: two generators with the same value are the
    same."""
    gains: Mapping[str, float] = field(default_factory=dict)
    """AU code -> factor on the intensity asked for, 1 where it is not named; see :mod:`mesynth.generators.base`."""

    @staticmethod
    def parse(values: Mapping[str, Any]) -> GeneratorFacts:
        """From plain values. Raises PipelineError for a missing or unknown key, or a value of another type."""
        converted: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        try:
            facts = GeneratorFacts(**converted)
        except TypeError as error:
            raise PipelineError(f"the facts of the generator do not fit ({error}); was it saved by mesynth?") from None
        for name, kind in (("size", int), ("images", int), ("seed", int), ("figures", Mapping), ("name", str),
                           ("data_hash", str), ("config_hash", str), ("code_version", str), ("weights_sha256", str),
                           ("subjects_seen", tuple), ("licences", tuple), ("networks", tuple),
                           ("gains", Mapping)):  # fmt: skip
            if not isinstance(getattr(facts, name), kind):
                raise PipelineError(f"the generator's fact {name}={getattr(facts, name)!r} is of the wrong type")
        if any(not isinstance(n, str) for n in (*facts.subjects_seen, *facts.licences, *facts.networks)):
            raise PipelineError("the generator's subjects_seen, licences and networks must be texts")
        for code, gain in facts.gains.items():
            known = isinstance(code, str) and code.isdecimal() and int(code) in AU_INDEX
            if not known or not isinstance(gain, (int, float)) or not (math.isfinite(gain) and gain > 0):
                raise PipelineError(f"the generator's gain of AU {code!r} is {gain!r}; calibrate it again")
        return facts

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        lists = {name: list(value) for name, value in values.items() if isinstance(value, tuple)}
        numbers = {name: {k: float(v) for k, v in values[name].items()} for name in ("figures", "gains")}
        return values | lists | numbers


def save_pipeline(folder: Path, networks: Mapping[str, Any], facts: Mapping[str, Any], card: str, *, size: int) -> str:
    """Write ``networks`` with ``facts`` and ``card``; returns ``weights_sha256``.

    ``networks``, by name: each a :class:`~mesynth.generators.blocks.Network`, or a ``ModelMixin`` of diffusers.
    ``facts`` has the keys of :class:`GeneratorFacts` (its :meth:`~GeneratorFacts.plain` does); ``size``, ``networks``
    and ``weights_sha256`` are set here. The folder appears, or is replaced, as a whole.

    Raises:
        RunFolderError: ``folder`` exists and is no saved generator.
        PipelineError: a family or fact that could not be loaded again.
    """
    folder = Path(folder)
    if facts.get("name") not in FAMILIES:
        raise PipelineError(f"family {facts.get('name')!r} is unknown; choose from {', '.join(FAMILIES)}")
    if not networks or any(not name.isidentifier() for name in networks):
        raise PipelineError(f"networks named {', '.join(networks) or 'nothing'}; give at least one plain name")
    with whole_folder(folder) as made:
        files: dict[str, dict[str, Any]] = {}
        for name, network in networks.items():
            network.save_pretrained(made / name, safe_serialization=True)
            for path in sorted((made / name).iterdir()):
                path.chmod((made / name / "config.json").stat().st_mode)  # safetensors files come readable by one alone
                files[f"{name}/{path.name}"] = {"sha256": file_sha256(path), "bytes": path.stat().st_size}
        weights = _joint_sha256(files, facts.get("gains", {}))
        own = {"size": size, "networks": tuple(networks), "weights_sha256": weights}
        checked = GeneratorFacts.parse({**facts, **own})
        _write_index(made, checked, files)
        (made / CARD).write_text(card)
    return weights


def save_with_gains(
    source: Path, folder: Path, gains: Mapping[str, float], note: str, subjects_seen: Iterable[str] = ()
) -> str:
    """Copy the generator in ``source`` to ``folder`` with other ``gains``; returns its ``weights_sha256``.

    ``note`` is added to the card, ``subjects_seen`` to those it learned from: gains are learned too.

    Raises:
        RunFolderError: ``folder`` exists and is no saved generator.
        PipelineError: ``source`` is no saved generator, or a gain is no positive number.
    """
    facts = read_facts(source)
    with whole_folder(Path(folder)) as made:
        files = json.loads((source / INDEX).read_text())["files"]
        for name in files:
            (made / name).parent.mkdir(exist_ok=True)
            shutil.copy(source / name, made / name)
        seen = tuple(dict.fromkeys((*facts.subjects_seen, *subjects_seen)))
        calibrated = GeneratorFacts.parse({**facts.plain(), "gains": dict(gains), "subjects_seen": seen})
        _write_index(made, replace(calibrated, weights_sha256=_joint_sha256(files, gains)), files)
        card = source / CARD
        (made / CARD).write_text((card.read_text() if card.is_file() else "") + note)
    return read_facts(folder).weights_sha256


def _write_index(folder: Path, facts: GeneratorFacts, files: Mapping[str, Any]) -> None:
    index = {"format": FORMAT, "family": facts.name, "facts": facts.plain(), "files": files, digests.KEY: digests.LIST}
    (folder / INDEX).write_text(json.dumps(index, indent=1, sort_keys=True) + "\n")


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which then appears as ``folder``, or replaces a saved generator there, as a whole.

    Raises:
        RunFolderError: ``folder`` exists and is no saved generator.
    """
    if folder.exists() and not (folder.is_dir() and ((folder / INDEX).is_file() or not any(folder.iterdir()))):
        raise RunFolderError(f"{folder} exists and is no saved generator; choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = temporary_beside(folder)
    made.mkdir()
    try:
        yield made
        digests.seal(made)
        _swap(made, folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _swap(made: Path, folder: Path) -> None:
    """Put ``made`` where ``folder`` is; at no moment is there half a pipeline under that name."""
    old = temporary_beside(folder)
    if folder.exists():
        os.rename(folder, old)
    os.rename(made, folder)
    shutil.rmtree(old, ignore_errors=True)


def read_facts(folder: Path | str) -> GeneratorFacts:
    """What the generator in ``folder`` says about itself, after every file was checked; imports no torch.

    Raises:
        PipelineError: as :func:`load_pipeline`.
        DigestError: what it says is not what was saved.
    """
    folder = Path(folder)
    path = folder / INDEX
    if not path.is_file():
        raise PipelineError(f"{folder} is no saved generator ({INDEX} is missing); give a folder that training wrote")
    try:
        index = json.loads(path.read_text())
        version, family, values, files = index["format"], index["family"], dict(index["facts"]), dict(index["files"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise PipelineError(f"{path} is damaged or not from mesynth; copy the generator again") from None
    if version != FORMAT:
        raise PipelineError(f"{path} has format {version!r}, this version reads {FORMAT}; update mesynth or retrain")
    if not isinstance(family, str) or family not in FAMILIES:
        raise PipelineError(f"{path} names the family {family!r}; this version knows {', '.join(FAMILIES)}")
    facts = GeneratorFacts.parse(values)
    if facts.name != family:
        raise PipelineError(f"{path} says {family!r} and {facts.name!r}; copy the generator again")
    for name, record in files.items():
        _check_file(folder, name, record, facts.networks)
    missing = {f"{n}/{f}" for n in facts.networks for f in ("config.json", WEIGHTS)} - set(files)
    if missing or not facts.networks or facts.weights_sha256 != _joint_sha256(files, facts.gains):
        raise PipelineError(f"{path} does not list its networks' files as saved; copy the generator again")
    digests.check(folder, [INDEX], promised=index.get(digests.KEY) == digests.LIST)
    return facts


def _check_file(folder: Path, name: str, record: Any, networks: tuple[str, ...]) -> None:
    parts = PurePosixPath(name).parts
    plain = len(parts) == 2 and parts[0] in networks and parts[0].isidentifier()
    if not plain or parts[1] not in {"config.json", WEIGHTS}:
        raise PipelineError(f"{folder / INDEX} lists {name!r}; a generator holds config.json and {WEIGHTS} alone")
    path = folder / name
    if not path.is_file():
        raise PipelineError(f"{path} is missing; copy the generator again")
    try:
        size, digest = int(record["bytes"]), str(record["sha256"])
    except (KeyError, TypeError, ValueError, OverflowError):
        raise PipelineError(f"{folder / INDEX} is damaged at {name!r}; copy the generator again") from None
    if path.stat().st_size != size:
        raise PipelineError(f"{path} has {path.stat().st_size} bytes instead of {size}; copy the generator again")
    if file_sha256(path) != digest:
        raise PipelineError(f"{path} is not the file that was saved (sha256 differs); copy the generator again")


def shipped_models() -> list[str]:
    """Names of the generators that come with the package.

    >>> "motion_gan" in shipped_models()
    True
    """
    if not SHIPPED.is_dir():
        return []
    return sorted(folder.name for folder in SHIPPED.iterdir() if (folder / INDEX).is_file())


def saved_folder(name: Path | str) -> Path:
    """Where a generator lies that is named by a user: one that ships, by its name, or a folder, as it is."""
    return SHIPPED / name if str(name) in shipped_models() else Path(name)


def load_sized_network(kind: type[_Network], folder: Path, facts: GeneratorFacts) -> _Network:
    """:func:`load_network`, for a network that works on one size of picture, which the facts say as well.

    Raises:
        PipelineError: also another size.
    """
    network: Any = load_network(kind, folder)
    if network.config["size"] != facts.size:
        size = network.config["size"]
        raise PipelineError(f"{folder.parent} says size {facts.size}, its network {size}; copy it again")
    checked: _Network = network
    return checked


def load_network(kind: type[_Network], folder: Path) -> _Network:
    """A network of class ``kind`` from its subfolder, in evaluation mode, frozen.

    ``kind``: a :class:`~mesynth.generators.blocks.Network`, or a ``ModelMixin`` of diffusers.

    Raises:
        PipelineError: the configuration or the weights belong to another class.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        config = json.loads((folder / "config.json").read_text())
        if config.get("_class_name") != kind.__name__:
            raise PipelineError(f"{folder} holds a {config.get('_class_name')}, not a {kind.__name__}; retrain it")
        stored = load_file(folder / WEIGHTS)
        _require_shapes(kind, config, stored)
        network: Any = kind.from_config(config)  # type: ignore[attr-defined]
        network.load_state_dict(stored)
    except PipelineError:
        raise
    except (OSError, ValueError, TypeError, RuntimeError, AttributeError, LookupError, ArithmeticError, MemoryError,
            SafetensorError) as error:  # fmt: skip
        reason = first_line(error)
        raise PipelineError(f"{folder} does not fit {kind.__name__} ({reason}); retrain or copy it again") from None
    loaded: _Network = network.eval().requires_grad_(False)
    return loaded


def _require_shapes(kind: Any, config: dict[str, Any], stored: Mapping[str, Any]) -> None:
    """Raise ValueError when ``config`` is of another network than the ``stored`` tensors, before memory is taken."""
    import torch
    from torch.overrides import TorchFunctionMode

    class Undrawn(TorchFunctionMode):
        """Nothing is drawn or scaled: without memory, PyTorch does it in Python and loads its compiler for it (2 s)."""

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func in (torch.randn, torch.rand):
                func = torch.empty
            elif func in scaling and args[0].is_meta and isinstance(args[1], (int, float)):
                return args[0]
            return func(*args, **(kwargs or {}))

    scaling = (torch.Tensor.mul, torch.Tensor.__mul__, torch.Tensor.__rmul__)
    most = max(4096, sum(tensor.numel() for tensor in stored.values()))
    large = [name for name, value in config.items() if isinstance(value, int) and value > most]
    if large:
        raise ValueError(f"{large[0]}={config[large[0]]} is more than its weights can be for")
    with torch.device("meta"), Undrawn():
        wanted = {name: tensor.shape for name, tensor in kind.from_config(config).state_dict().items()}
    if wrong := sorted(
        n for n in {*wanted, *stored} if n not in wanted or n not in stored or wanted[n] != stored[n].shape
    ):
        raise ValueError(f"tensor {wrong[0]} is not the one that config.json describes")


def _joint_sha256(files: Mapping[str, Any], gains: Mapping[str, float]) -> str:
    try:
        lines = [f"{n} {files[n]['sha256']}\n" for n in sorted(files)]
        lines += [f"gain {code} {float(gains[code])!r}\n" for code in sorted(gains)]
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    except (KeyError, TypeError, ValueError):
        return ""
