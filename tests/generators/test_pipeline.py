import inspect
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mesynth.core import facs
from mesynth.core.errors import MesynthError, RunFolderError
from mesynth.core.profiles import Profile
from mesynth.generators.base import Generator, load_pipeline
from mesynth.store.generator_folder import INDEX, WEIGHTS, GeneratorFacts, PipelineError, read_facts, save_pipeline
from tests.generators.saved import FACTS, SIZE, lively, saved
from tests.training.rendered import person_face


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline") / "generator"
    saved(folder)
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def test_a_saved_generator_makes_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    face, aus = person_face(11, 48), facs.parse_request("12=0.5,L4=0.3")
    first = load_pipeline(whole)
    assert isinstance(first, Generator)
    again = tmp_path / "again"
    save_pipeline(again, {"generator": first.network}, FACTS, "", size=SIZE)  # type: ignore[attr-defined]
    clips = [g.generate(face, aus, Profile(), n_frames=5, fps=100)[0] for g in (first, load_pipeline(again))]
    assert np.array_equal(clips[0].clip.frames, clips[1].clip.frames)
    assert np.array_equal(clips[0].flow.uv, clips[1].flow.uv)
    assert np.abs(clips[0].flow.uv).max() > 0.1
    assert read_facts(whole).weights_sha256 == read_facts(again).weights_sha256


def test_facts_travel(whole: Path) -> None:
    facts = read_facts(whole)
    assert facts.subjects_seen == FACTS["subjects_seen"]
    assert (facts.size, facts.networks, facts.figures) == (SIZE, ("generator",), {"epe": 0.5})
    assert len(facts.weights_sha256) == 64
    assert (whole / "README.md").read_text() == "# card\n"
    assert GeneratorFacts.parse(facts.plain()) == facts


def test_other_weights_have_another_hash(whole: Path, tmp_path: Path) -> None:
    saved(tmp_path / "other", seed=1)
    assert read_facts(tmp_path / "other").weights_sha256 != read_facts(whole).weights_sha256


def test_whoever_can_read_the_index_can_read_the_weights(whole: Path) -> None:
    modes = {path.stat().st_mode for path in (whole / INDEX, whole / "generator" / WEIGHTS)}
    assert len(modes) == 1


def test_only_safetensors_and_json(whole: Path) -> None:
    names = {p.relative_to(whole).as_posix() for p in whole.rglob("*") if p.is_file()}
    assert names == {INDEX, "README.md", "SHA256SUMS", "generator/config.json", f"generator/{WEIGHTS}"}


def test_saving_again_replaces_and_leaves_nothing_behind(copy: Path) -> None:
    before = read_facts(copy).weights_sha256
    saved(copy, seed=5)
    assert read_facts(copy).weights_sha256 != before
    assert [p.name for p in copy.parent.iterdir()] == ["copy"]


def test_saving_over_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(RunFolderError, match="no saved generator"):
        saved(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_what_could_not_be_loaded_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="family 'nonsense' is unknown"):
        saved(tmp_path / "a", name="nonsense")
    with pytest.raises(PipelineError, match="do not fit"):
        saved(tmp_path / "a", extra=1)
    with pytest.raises(PipelineError, match="wrong type"):
        save_pipeline(tmp_path / "a", {"generator": lively()}, {**FACTS, "seed": "x"}, "", size=SIZE)
    with pytest.raises(PipelineError, match="plain name"):
        save_pipeline(tmp_path / "a", {"../up": lively()}, FACTS, "", size=SIZE)
    assert list(tmp_path.iterdir()) == []


def _edit(change: Callable[[dict], object]) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        index = json.loads((folder / INDEX).read_text())
        change(index)
        (folder / INDEX).write_text(json.dumps(index))

    return damage


def _flip_byte(folder: Path) -> None:
    path = folder / "generator" / WEIGHTS
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no index": (lambda f: (f / INDEX).unlink(), "mesynth.json is missing"),
    "index is no json": (lambda f: (f / INDEX).write_text("{"), "damaged"),
    "index is a list": (lambda f: (f / INDEX).write_text("[]"), "damaged"),
    "weights missing": (lambda f: (f / "generator" / WEIGHTS).unlink(), "is missing"),
    "weights truncated": (lambda f: (f / "generator" / WEIGHTS).write_bytes(b"short"), "bytes instead of"),
    "one bit of the weights": (_flip_byte, "sha256 differs"),
    "another configuration": (
        lambda f: (f / "generator/config.json").write_text((f / "generator/config.json").read_text().replace("8", "9")),
        "sha256 differs",
    ),
    "another format": (_edit(lambda i: i.update(format=99)), "format 99"),
    "another family": (_edit(lambda i: i.update(family="os.system")), "names the family 'os.system'"),
    "families disagree": (_edit(lambda i: i.update(family="ice_gan")), "says 'ice_gan' and 'motion_gan'"),
    "a family that is no text": (_edit(lambda i: i.update(family=["motion_gan"])), "names the family"),
    "facts lack a key": (_edit(lambda i: i["facts"].pop("seed")), "do not fit"),
    "facts of a wrong type": (_edit(lambda i: i["facts"].update(subjects_seen="everyone")), "wrong type"),
    "a path that leads out": (
        _edit(lambda i: i["files"].update({"../../etc/passwd": {"sha256": "", "bytes": 1}})),
        "lists '../../etc/passwd'",
    ),
    "a pickle": (_edit(lambda i: i["files"].update({"generator/x.bin": {"sha256": "", "bytes": 1}})), "lists"),
    "files not listed": (_edit(lambda i: i.update(files={})), "does not list"),
    "a record without hash": (
        _edit(lambda i: i["files"].update({"generator/config.json": {"bytes": 1}})),
        "damaged at 'generator/config.json'",
    ),
    "hash of the whole": (_edit(lambda i: i["facts"].update(weights_sha256="0" * 64)), "does not list"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_and_foreign_folders_are_named_in_one_line(damage: str, copy: Path) -> None:
    act, expected = DAMAGES[damage]
    act(copy)
    with pytest.raises(MesynthError) as caught:
        load_pipeline(copy)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_folder_and_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(PipelineError, match="no saved generator"):
            load_pipeline(path)


def test_a_network_of_another_class_or_shape(copy: Path) -> None:
    """Hashes hold (the folder was made by hand), but the parts do not fit."""
    from mesynth.generators.motion_gan.network import MotionGenerator
    from mesynth.store.generator_folder import load_network

    config = copy / "generator" / "config.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps({**values, "width": 16}))
    with pytest.raises(PipelineError, match="does not fit MotionGenerator"):
        load_network(MotionGenerator, copy / "generator")
    config.write_text(json.dumps({**values, "_class_name": "UNet2DModel"}))
    with pytest.raises(PipelineError, match="holds a UNet2DModel, not a MotionGenerator"):
        load_network(MotionGenerator, copy / "generator")


def test_facts_are_read_without_torch(whole: Path) -> None:
    code = (
        "import sys; from mesynth.store.generator_folder import read_facts; "
        f"read_facts({str(whole)!r}); print('torch' in sys.modules, 'diffusers' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False", "False"]


# ---------------------------------------------------------------- the folder of one network, and diffusers


def _families() -> dict[str, type[Any]]:
    """Classes of networks that need no diffusers of their own."""
    from mesynth.generators.au_icgan.network import AUICGenerator
    from mesynth.generators.flow_gan.network import FlowGenerator
    from mesynth.generators.ice_gan.network import ICEGenerator
    from mesynth.generators.motion_gan.network import MotionDiscriminator, MotionGenerator

    kinds = (AUICGenerator, FlowGenerator, ICEGenerator, MotionGenerator, MotionDiscriminator)
    return {kind.__name__: kind for kind in kinds}


SMALL: dict[str, dict[str, Any]] = {
    "AUICGenerator": {"size": 32, "width": 4, "blocks": 1},
    "FlowGenerator": {"size": 16, "width": 4, "z": 3, "condition": "aus"},
    "ICEGenerator": {"size": 16, "width": 2, "embedding": 8, "noise": 3},
    "MotionGenerator": {"size": 32, "width": 4, "template": 8, "face": True},
    "MotionDiscriminator": {"width": 4},
}


def _of_diffusers(kind: type[Any]) -> type[Any]:
    """A class of diffusers' own, called like ``kind`` and with its arguments and tensors, but with diffusers' bases."""
    from diffusers import ConfigMixin, ModelMixin
    from diffusers.configuration_utils import register_to_config

    def init(self: Any, **given: Any) -> None:
        ModelMixin.__init__(self)
        made = kind(**given)
        for name, part in made.named_children():
            self.add_module(name, part)
        for name, value in made.named_parameters(recurse=False):
            self.register_parameter(name, value)
        for name, value in made.named_buffers(recurse=False):
            self.register_buffer(name, value, persistent=name in made.state_dict())

    init.__signature__ = inspect.signature(kind.__init__)  # type: ignore[attr-defined]
    return type(kind.__name__, (ModelMixin, ConfigMixin), {"__init__": register_to_config(init)})


@pytest.mark.parametrize("name", SMALL)
def test_diffusers_reads_what_is_written_and_writes_the_same_bytes(name: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    network = _families()[name](**SMALL[name])
    network.save_pretrained(tmp_path / "own")
    theirs = _of_diffusers(type(network)).from_pretrained(tmp_path / "own")
    mine, read = network.state_dict(), theirs.state_dict()
    assert sorted(mine) == sorted(read)
    assert all(torch.equal(mine[key], read[key]) for key in mine)
    assert {k: v for k, v in theirs.config.items() if not k.startswith("_")} == dict(network.config)
    fresh = type(theirs)(**network.config)  # one that was read says where from as well
    fresh.load_state_dict(mine)
    fresh.save_pretrained(tmp_path / "theirs")
    for file in ("config.json", WEIGHTS):
        assert (tmp_path / "own" / file).read_bytes() == (tmp_path / "theirs" / file).read_bytes()
    again = type(network).from_pretrained(tmp_path / "theirs")
    assert again.config == network.config
    assert not again.training
    assert all(torch.equal(mine[key], value) for key, value in again.state_dict().items())


@pytest.mark.parametrize("name", SMALL)
def test_settings_are_the_arguments_with_their_defaults(name: str) -> None:
    kind = _families()[name]
    network = kind(**SMALL[name])
    defaults = {p.name: p.default for p in inspect.signature(kind).parameters.values()}
    assert network.config == defaults | SMALL[name]
    assert network.config.width == SMALL[name]["width"]
    assert deepcopy(network).config == network.config
    assert pickle.loads(pickle.dumps(network.config)) == network.config
    first = next(iter(defaults))
    assert kind(
        SMALL[name].get(first, defaults[first]), **{k: v for k, v in SMALL[name].items() if k != first}
    ).config == (network.config)
    with pytest.raises(TypeError, match="cannot change"):
        network.config["width"] = 3
    with pytest.raises(AttributeError, match="no setting 'nothing'"):
        network.config.nothing  # noqa: B018


def test_a_setting_that_this_version_does_not_know_is_named(tmp_path: Path) -> None:
    network = _families()["MotionGenerator"](**SMALL["MotionGenerator"])
    network.save_pretrained(tmp_path / "n")
    file = tmp_path / "n" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"capsules": 3}))
    with pytest.raises(PipelineError, match=r"does not fit MotionGenerator .*capsules"):
        type(network).from_pretrained(tmp_path / "n")
    with pytest.raises(ValueError, match="safetensors alone"):
        network.save_pretrained(tmp_path / "m", safe_serialization=False)
    assert not (tmp_path / "m").exists()
