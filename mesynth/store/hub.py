"""Folders on the Hugging Face hub: published with their seal, fetched and held against it.

Only what somebody names with ``hf://`` is fetched, and only :func:`push_to_hub` sends anything. Files that execute when
they are loaded (pickles, scripts) are neither sent nor fetched, and of a fetched folder every file is held against the
digest list that was published with it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mesynth.core.errors import ConfigError, ManifestError, MesynthError, first_line
from mesynth.store import digests

SCHEME = "hf://"
DATASET, MODEL = "dataset", "model"
_KINDS = {"datasets": DATASET, "models": MODEL}
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
EXECUTED = (
    "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt", "*.bin", "*.joblib", "*.dill", "*.h5", "*.keras", "*.py", "*.pyc",
    "*.so", "*.sh", "*.ipynb",
)  # fmt: skip
"""Files that may run code when they are loaded: neither sent nor fetched."""
OPEN_LICENCES = ("CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0", "Apache-2.0", "MIT")
"""Beginnings of licences under which a folder may be public without a word of the sender's."""
_CARD = "README.md"
_CORPUS, _EXPORT, _GENERATOR = "manifest.parquet", "export.json", "mesynth.json"


class HubError(MesynthError):
    """The hub does not answer, or has not what was asked of it."""


@dataclass(frozen=True)
class Repository:
    """A folder on the hub: ``ORG/NAME``, whether it holds a data set or a model, and which state of it ("": newest)."""

    name: str
    kind: str
    revision: str = ""

    @classmethod
    def parse(cls, text: str, kind: str = DATASET) -> Repository:
        """``hf://ORG/NAME``, ``hf://datasets/ORG/NAME``, each with ``@REVISION`` if one is meant; ``kind`` where the
        name does not say.

        Raises:
            ConfigError: a name of another form.

        >>> Repository.parse("hf://datasets/lab/smiles@v2")
        Repository(name='lab/smiles', kind='dataset', revision='v2')
        """
        place, at, revision = text.removeprefix(SCHEME).partition("@")
        first, slash, rest = place.partition("/")
        if slash and first in _KINDS and "/" in rest:
            place, kind = rest, _KINDS[first]
        if not _NAME.fullmatch(place) or ".." in place or (at and not re.fullmatch(r"[\w./-]+", revision)):
            raise ConfigError(f"'{text}' names no folder of the hub; write {SCHEME}ORG/NAME, or {SCHEME}ORG/NAME@v1")
        return cls(place, kind, revision)

    @property
    def text(self) -> str:
        """As a user writes it."""
        return f"{SCHEME}{'datasets/' if self.kind == DATASET else ''}{self.name}" + (
            f"@{self.revision}" if self.revision else ""
        )


def is_hub(name: object) -> bool:
    """Whether a name is of something on the hub.

    >>> is_hub("hf://lab/smiles"), is_hub("runs/smiles")
    (True, False)
    """
    return isinstance(name, str) and name.startswith(SCHEME)


def local_folder(name: str | Path, kind: str = DATASET) -> Path:
    """``name`` as a folder of this machine: a folder as it is, ``hf://...`` by :func:`fetch`."""
    return fetch(name, kind) if isinstance(name, str) and is_hub(name) else Path(name)


def fetch(name: str, kind: str = DATASET) -> Path:
    """The folder ``hf://...``, from the hub or from the user's Hugging Face cache, every file held against its list.

    Raises:
        ConfigError: a name of another form.
        HubError: not there, not open to this user, or no answer.
        ManifestError: it has no digest list.
        DigestError: a file is missing, or not the one that was published.
    """
    from huggingface_hub import snapshot_download

    repository = Repository.parse(name, kind)
    with _understood(repository):
        folder = Path(
            snapshot_download(
                repository.name, repo_type=repository.kind, revision=repository.revision or None,
                ignore_patterns=list(EXECUTED),
            )
        )  # fmt: skip
    if not (folder / digests.LIST).is_file():
        raise ManifestError(
            f"{repository.text} has no {digests.LIST}, so that nothing says whether its files are whole; it was not "
            "published by mesynth: download it yourself, and read it with `mesynth prepare`"
        )
    harm = next((finding for finding in digests.audit(folder) if finding.harm), None)
    if harm is not None:
        raise digests.DigestError(f"{repository.text}: {harm.path} {harm.what}; ask who published it to do so again")
    return folder


def push_to_hub(
    folder: Path | str,
    name: str,
    *,
    private: bool = True,
    may_publish: bool = False,
    message: str = "",
    token: str | None = None,
) -> str:
    """Publish a finished corpus, export or generator folder as ``ORG/NAME`` on the Hugging Face hub; returns its place.

    Every file is held against the folder's digest list first, and the list goes along: who loads ``hf://...`` gets what
    was made, or an error. An export in the form ``huggingface`` is what ``datasets.load_dataset`` reads.

    Args:
        folder: written by `mesynth generate`, `prepare`, `export` or `train`; with its card (``README.md``).
        name: ``ORG/NAME``; made if there is none.
        private: for the members of ORG alone.
        may_publish: of a public folder: you have the right to publish clips of databases under terms of their own.
        message: of the change.
        token: of the hub; None: the one of `hf auth login`.

    Raises:
        ConfigError: a name of another form, or terms that forbid a public folder as far as can be seen.
        ManifestError: the folder is none of those, not finished, or has no card.
        DigestError: a file was changed.
        HubError: no answer, or not allowed.

    >>> push_to_hub("nowhere", "lab/smiles")
    Traceback (most recent call last):
    mesynth.core.errors.ManifestError: nowhere is no finished corpus, export or generator; ...
    """
    folder = Path(folder)
    kind, licences = _published(folder)
    repository = Repository.parse(name if is_hub(name) else SCHEME + name, kind)
    if repository.revision or repository.kind != kind:
        raise ConfigError(f"'{name}': {folder} is a {kind}; write {Repository(repository.name, kind).text}")
    closed = sorted({licence for licence in licences if not licence.startswith(OPEN_LICENCES)})
    if closed and not private and not may_publish:
        raise ConfigError(
            f"{folder} is under '{closed[0]}', which may forbid publishing; keep it private, or say may_publish=True "
            "if you have the right"
        )
    if not (folder / _CARD).is_file():
        raise ManifestError(f"{folder} has no card ({_CARD}); write one first: `mesynth card {folder}`")
    if not (folder / digests.LIST).is_file():
        raise ManifestError(f"{folder} has no {digests.LIST}; write it first: `mesynth verify {folder} --seal`")
    for finding in digests.audit(folder):
        if finding.harm:
            raise digests.DigestError(f"{folder / finding.path} {finding.what}; mend the folder before it is published")
    from huggingface_hub import HfApi

    # The list alone says what is sent: nothing of a moment, and nothing that somebody put beside.
    sent = [prefix + path for prefix in digests.listed_folders(folder) for path, _ in digests.entries(folder / prefix)]
    lists = [prefix + digests.LIST for prefix in digests.listed_folders(folder)]
    patterns = [_literal(path) for path in [*sent, *lists]]
    if refused := next((path for path in sent if _executes(path)), ""):
        raise ConfigError(f"{folder / refused} may run code when it is loaded, and is not sent; take it out first")
    with _understood(repository):
        api = HfApi(token=token)
        api.create_repo(repository.name, repo_type=kind, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repository.name, folder_path=str(folder), repo_type=kind,
            commit_message=message or "Published by mesynth", allow_patterns=patterns, delete_patterns="*",
        )  # fmt: skip
    return Repository(repository.name, kind).text


def _executes(path: str) -> bool:
    return any(Path(path.lower()).match(pattern) for pattern in EXECUTED)


def _literal(path: str) -> str:
    """A pattern that is this path alone."""
    return re.sub(r"([*?[])", r"[\1]", path)


def _published(folder: Path) -> tuple[str, set[str]]:
    """Kind and licences of a folder. Raises ManifestError where it is none that is published."""
    if (folder / _GENERATOR).is_file():
        from mesynth.store.generator_folder import read_facts

        return MODEL, set(read_facts(folder).licences)
    if (folder / _CORPUS).is_file():
        from mesynth.store.manifest import Manifest

        return DATASET, {str(one) for one in set(Manifest.read(folder).column("provenance.licence").tolist())}
    if (folder / _EXPORT).is_file():
        return DATASET, _exported_licences(folder / "provenance.jsonl")
    raise ManifestError(
        f"{folder} is no finished corpus, export or generator; give a folder that mesynth generate, prepare, export or "
        "train wrote"
    )


def _exported_licences(file: Path) -> set[str]:
    try:
        with open(file, encoding="utf-8") as lines:
            return {str(json.loads(line)["provenance"]["licence"]) for line in lines}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ManifestError(f"{file} cannot be read ({error}); export the corpus again") from None


@contextmanager
def _understood(repository: Repository) -> Iterator[None]:
    """What the hub's client raises, as one line."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        why = "is open to those alone who asked for it; ask on its page, then run `hf auth login`"
    except errors.RepositoryNotFoundError:
        why = "is not on the hub, or not open to you; check the name, and run `hf auth login`"
    except errors.RevisionNotFoundError:
        why = f"has no state '{repository.revision}'; leave out @{repository.revision}"
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        why = "is not in the cache of this machine, and the hub does not answer; try again online"
    except errors.HFValidationError as error:
        raise ConfigError(f"{repository.text}: {_first(error)}") from None
    except (errors.HfHubHTTPError, errors.LocalTokenNotFoundError, OSError) as error:
        why = f"cannot be reached ({_first(error)}); try again, or run `hf auth login`"
    except Exception as error:  # of the client's own transport, whose classes differ between its versions
        if type(error).__module__.partition(".")[0] not in _TRANSPORTS:
            raise
        why = f"cannot be reached ({_first(error)}); try again"
    else:
        return
    raise HubError(f"{repository.text} {why}")


_TRANSPORTS = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3", "huggingface_hub", "hf_xet")


def _first(error: BaseException) -> str:
    return first_line(error)[:160]
