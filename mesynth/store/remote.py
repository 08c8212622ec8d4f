"""Folders that have an address instead of a place on a disk: ``s3://``, ``gs://``, ``memory://``, what fsspec opens.

A :class:`RemotePath` is read like any path: manifests whole, shards by range
(:class:`mesynth.store.shards.ShardReader`), so that a corpus is streamed from where it lies. What is written to an
address is made in a folder of this machine's cache first and sent as whole files, the one that says that the folder is
finished last of all (:func:`delivered`): as on a disk, a folder that has it is complete.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import inspect
import io
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

from mesynth.core.errors import ConfigError, ManifestError, MesynthError, RunFolderError
from mesynth.store import digests

P = ParamSpec("P")
T = TypeVar("T")
_URL = re.compile(r"([a-z][a-z0-9+.-]+):/+(?=[^/])", re.IGNORECASE)  # two letters at least: C:/ is a drive
_HUB = "hf"
_LAST = ("manifest.parquet", "export.json", "plan.json", "faces.json")
"""Files that say that their folder is finished."""
_BLOCK = 1 << 20
"""Bytes read ahead: a request costs tens of milliseconds, whatever it asks for."""
_PACKAGES = {"s3": "mesynth[cluster]", "s3a": "mesynth[cluster]", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs"}


def cache_folder() -> Path:
    """``$MESYNTH_CACHE``, else ``mesynth`` in the user's cache folder."""
    if named := os.environ.get("MESYNTH_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mesynth"


def is_remote(path: object) -> bool:
    """Whether a path, or its text, is an address; ``hf://`` is not (:mod:`mesynth.store.hub`).

    >>> is_remote("s3://bucket/corpus"), is_remote(Path("s3://bucket/corpus")), is_remote("runs/s3"), is_remote("C:/x")
    (True, True, False, False)
    """
    if isinstance(path, RemotePath):
        return True
    found = _URL.match(os.fspath(path)) if isinstance(path, (str, os.PathLike)) else None
    return found is not None and found[1].lower() != _HUB


def place(path: Path | str) -> Path:
    """A path on a disk as it is, an address as a :class:`RemotePath` (also where pathlib has taken a slash from it).

    Raises:
        ConfigError: a scheme that nobody knows, or whose package is not installed.

    >>> place("runs/a"), place(Path("s3://bucket/a"))
    (PosixPath('runs/a'), RemotePath('s3://bucket/a'))
    >>> place("ftps3://bucket/a")
    Traceback (most recent call last):
    mesynth.core.errors.ConfigError: 'ftps3://bucket/a': the scheme ftps3 is unknown; give a folder, or ...
    """
    if isinstance(path, RemotePath):
        return path
    if not is_remote(path):
        return Path(path)
    made = RemotePath(path)
    made.filesystem()
    return made


class RemotePath(type(Path())):  # type: ignore[misc]
    """An address, with as much of a path's manners as readers need."""

    __slots__ = ()

    @property
    def url(self) -> str:
        """``s3://bucket/name``."""
        return _URL.sub(r"\1://", super().__str__(), count=1)

    def __str__(self) -> str:
        return self.url

    def __fspath__(self) -> str:
        return self.url

    def __repr__(self) -> str:
        return f"RemotePath('{self.url}')"

    def filesystem(self) -> tuple[Any, str]:
        """fsspec's file system (one a process, whoever forked it), and the name of this path in it."""
        import fsspec

        scheme = self.url.partition(":")[0].lower()
        if scheme not in fsspec.available_protocols():
            raise ConfigError(
                f"'{self.url}': the scheme {scheme} is unknown; give a folder, or an address such as s3://bucket/corpus"
            )
        try:
            return cast("tuple[Any, str]", fsspec.core.url_to_fs(self.url))
        except ImportError as error:
            package = _PACKAGES.get(scheme)
            way = f"install it with: pip install '{package}'" if package else str(error)
            raise ConfigError(f"{scheme}:// needs a package that is not here; {way}") from None
        except Exception as error:  # options of a file system, each with errors of its own
            raise ConfigError(f"'{self.url}' cannot be used ({_said(error)}); check the address") from None

    def open(self, mode: str = "r", *_: Any, encoding: str | None = None, newline: str | None = None, **__: Any) -> Any:
        """To read; ``wb`` to write a whole file."""
        if mode not in ("r", "rt", "rb", "wb"):
            raise OSError(errno.EROFS, "an address is read, and written as whole files", self.url)
        fs, name = self.filesystem()
        with _understood(self.url):
            if mode == "wb":
                return fs.open(name, "wb")
            file = fs.open(name, "rb", block_size=_BLOCK)
        return file if mode == "rb" else io.TextIOWrapper(file, encoding or "utf-8", newline=newline)

    def read_bytes(self) -> bytes:
        """The whole file."""
        fs, name = self.filesystem()
        with _understood(self.url):
            return cast(bytes, fs.cat_file(name))

    def read_text(self, encoding: str | None = None, *_: Any, **__: Any) -> str:
        """The whole file as text."""
        return self.read_bytes().decode(encoding or "utf-8")

    def _info(self) -> dict[str, Any] | None:
        fs, name = self.filesystem()
        with _understood(self.url):
            try:
                return cast("dict[str, Any]", fs.info(name))
            except FileNotFoundError:
                return None

    def exists(self, **_: Any) -> bool:
        """Whether something is there."""
        return self._info() is not None

    def is_file(self, **_: Any) -> bool:
        """Whether a file is there."""
        return (self._info() or {}).get("type") == "file"

    def is_dir(self, **_: Any) -> bool:
        """Whether files lie below."""
        return (self._info() or {}).get("type") == "directory"

    def mkdir(self, *_: Any, **__: Any) -> None:
        """No folder is made at an address, least of all one of its name on this disk."""
        raise OSError(errno.EROFS, "an address is read, and written as whole files", self.url)

    touch = unlink = rename = replace = rmdir = mkdir

    def resolve(self, strict: bool = False) -> RemotePath:
        """An address is absolute."""
        return self

    absolute = resolve

    def files(self) -> dict[str, int]:
        """Sizes of the files below, by their path from here."""
        fs, name = self.filesystem()
        with _understood(self.url):
            fs.invalidate_cache(name)
            found = fs.find(name, detail=True)
        start = len(name.rstrip("/")) + 1
        return {path[start:]: int(info["size"] or 0) for path, info in found.items() if path[start:]}


def _said(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]


@contextmanager
def _understood(url: str) -> Iterator[None]:
    """Whatever a file system raises, in one line; what a disk would say as well stays an OSError."""
    try:
        yield
    except MesynthError:
        raise
    except OSError as error:  # s3fs and gcsfs name neither number nor file
        kinds = {FileNotFoundError: errno.ENOENT, PermissionError: errno.EACCES}
        number = next((n for kind, n in kinds.items() if isinstance(error, kind)), error.errno or errno.EIO)
        raise OSError(number, error.strerror or _said(error), url) from None
    except Exception as error:  # botocore's and gcsfs's own
        raise MesynthError(
            f"{url} does not answer ({_said(error)}); check the address, the network and your credentials"
        ) from None


# ------------------------------------------------------------------- whole folders


def _own(what: str, remote: RemotePath) -> Path:
    """A folder of the cache for an address alone."""
    return cache_folder() / what / hashlib.sha256(remote.url.encode()).hexdigest()[:16] / (remote.name or "root")


def fetched(path: Path) -> Path:
    """A folder or file of this machine as it is; of an address a copy in the cache, made anew where a size differs.

    Raises:
        ManifestError: nothing is there.
    """
    if not is_remote(path):
        return path
    remote = cast(RemotePath, place(path))
    fs, name = remote.filesystem()
    target = _own("fetched", remote)
    files = remote.files()
    if not files:
        if not remote.is_file():
            raise ManifestError(f"nothing lies at {remote}; check the address")
        files = {"": int((remote._info() or {}).get("size") or 0)}
    if target.is_dir() and set(digests.walk(target)) - set(files) - {digests.LIST}:
        shutil.rmtree(target)  # files that are gone there would be taken for the folder's
    for path_in, size in files.items():
        here = target / path_in if path_in else target
        # A manifest, a list and metadata may change and keep their size.
        if here.is_file() and here.stat().st_size == size and size > _BLOCK:
            continue
        here.parent.mkdir(parents=True, exist_ok=True)
        temporary = here.parent / f".{here.name[:100]}.{os.urandom(8).hex()}.tmp"
        try:
            with _understood(remote.url):
                fs.get_file(f"{name}/{path_in}" if path_in else name, str(temporary))
            os.replace(temporary, here)
        finally:
            temporary.unlink(missing_ok=True)
    return target


_staged: dict[str, str] = {}


def shown(path: Path | str) -> str:
    """How a folder is called to the user: what lies in the cache on its way to an address by the address."""
    text = str(path)
    for here, url in _staged.items():
        if text == here or text.startswith(here + os.sep):
            return url + text[len(here) :].replace(os.sep, "/")
    return text


@contextmanager
def delivered(out: Path) -> Iterator[Path]:
    """The folder to write instead of ``out``: itself, or for an address one in the cache, which is sent in the end.

    What was made before a stop stays there: the same command goes on. Where the address has a finished folder, its run
    and its last file are fetched first, so that the same command again makes nothing, and another run is refused.

    Raises:
        RunFolderError: something else lies there, or nothing can be written.
    """
    if not is_remote(out):
        yield out
        return
    remote = cast(RemotePath, place(out))
    staging = (
        cache_folder() / "staging" / hashlib.sha256(remote.url.encode()).hexdigest()[:16] / (remote.name or "root")
    )
    there = remote.files()
    known: dict[str, str] = {}
    if there:
        if "run.yaml" not in there:
            raise RunFolderError(f"{remote} is not empty and holds no run of this command; choose another --out")
        if not staging.exists():
            fs, name = remote.filesystem()
            small = [p for p in there if "/" not in p and not p.endswith(".tar")]
            for path in sorted(small, key=lambda p: p in _LAST):
                staging.mkdir(parents=True, exist_ok=True)
                with _understood(remote.url):
                    fs.get_file(f"{name}/{path}", str(staging / path))
        if digests.LIST in there:
            known = dict(digests.entries(remote))
    _staged[str(staging)] = remote.url
    try:
        yield staging
        if staging.is_dir():
            _send(staging, remote, there, known)
            shutil.rmtree(staging.parent)
    finally:
        _staged.pop(str(staging), None)


def _send(folder: Path, remote: RemotePath, there: dict[str, int], known: dict[str, str]) -> None:
    """Every file as a whole; those that are there with the same digest are left; the last file last."""
    fs, name = remote.filesystem()
    paths = [path for path in [*digests.walk(folder), digests.LIST] if (folder / path).is_file()]
    for path in sorted(paths, key=lambda path: (path in _LAST, path == digests.LIST)):
        file = folder / path
        same = known.get(path) and there.get(path) == file.stat().st_size and digests.file_sha256(file) == known[path]
        if same:
            continue
        try:
            with _understood(remote.url):
                fs.put_file(str(file), f"{name}/{path}")
        except OSError as error:
            raise RunFolderError(
                f"{remote / path} cannot be written ({error.strerror or _said(error)}); {folder} holds what was made, "
                "and the same command sends it"
            ) from None


def require_here(out: Path | str, what: str) -> None:
    """Raise ConfigError where ``out`` is an address and several processes (``what``) would write it."""
    if is_remote(out):
        raise ConfigError(f"--out {place(out)} is written by one process; give {what} a folder that all of them see")


def delivers(function: Callable[P, T]) -> Callable[P, T]:
    """For functions that write ``out``: an address is :func:`delivered`, and what they return is read from there."""

    @functools.wraps(function)
    def run(*args: P.args, **given: P.kwargs) -> T:
        bound = inspect.signature(function).bind(*args, **given)
        out = bound.arguments.get("out")
        if out is None or not is_remote(out):
            return function(*args, **given)
        with delivered(Path(out)) as folder:
            bound.arguments["out"] = folder
            made = function(*bound.args, **bound.kwargs)
        remote = place(out)
        if hasattr(made, "root"):  # a manifest, which is read where its shards are
            return cast(T, cast(Any, type(made)).read(remote))
        if isinstance(made, Path):
            return cast(T, remote)
        if is_dataclass(made) and hasattr(made, "out"):
            return cast(T, replace(cast(Any, made), out=str(remote)))
        return made

    return run
