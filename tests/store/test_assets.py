"""Model files of others: found where they may lie, and refused if they are not what they must be."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import pytest

from mesynth.core.errors import WeightsUnavailable
from mesynth.store import assets
from mesynth.store.assets import ASSETS, Asset, find, hub_folder, require


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    hub_folder().mkdir(parents=True)
    return hub_folder()


def asset(data: bytes) -> Asset:
    """One that no package brings."""
    return Asset(
        what="a net", file="net.bin", sha256=hashlib.sha256(data).hexdigest(), package="no-such-package",
        inside="no_such_package/net.bin", licence="CC0",
    )  # fmt: skip


@pytest.mark.parametrize("known", ASSETS, ids=lambda a: a.file)
def test_what_is_installed_is_what_it_must_be(known: Asset) -> None:
    assert require(known).name == known.file


def test_a_file_may_lie_beside_the_checkpoints(cache: Path) -> None:
    wanted = asset(b"weights")
    assert find(wanted) is None
    (cache / "net.bin").write_bytes(b"weights")
    assert require(wanted) == cache / "net.bin"


@pytest.mark.parametrize("data", [b"", b"weight", b"weights ", b"<html>not found</html>"])
def test_another_file_is_refused(cache: Path, data: bytes) -> None:
    (cache / "net.bin").write_bytes(data)
    with pytest.raises(WeightsUnavailable, match="is another file than the published one") as error:
        require(asset(b"weights"))
    assert "\n" not in str(error.value)


def test_a_file_that_was_changed_is_looked_at_again(cache: Path) -> None:
    wanted = asset(b"weights")
    (cache / "net.bin").write_bytes(b"weights")
    require(wanted)
    (cache / "net.bin").write_bytes(b"weights, longer")
    with pytest.raises(WeightsUnavailable):
        require(wanted)


def test_what_is_missing_is_named_with_the_way_out(cache: Path) -> None:
    with pytest.raises(WeightsUnavailable, match="pip install no-such-package") as error:
        require(asset(b"weights"))
    assert "net.bin" in str(error.value)
    assert str(cache) in str(error.value)


def test_a_damaged_package_is_said_where_it_is_used(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mesynth.metrics.networks.extractors import STLPIPS

    changed = dataclasses.replace(assets.SHIFT_TOLERANT, sha256="0" * 64)
    monkeypatch.setattr(assets, "SHIFT_TOLERANT", changed)
    with pytest.raises(WeightsUnavailable, match="reinstall"):
        STLPIPS()
