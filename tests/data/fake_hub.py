"""A Hugging Face hub on this machine: downloads over HTTP by the real client, uploads by its two calls."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.utils import filter_repo_objects


class FakeHub:
    """Folders ``root/KIND/ORG/NAME`` as repositories of one state each; ``private`` says which of them are."""

    def __init__(self, root: Path) -> None:
        self.root, self.private, self.asked = root, {}, []  # type: ignore[var-annotated]
        self.tokens: list[str | None] = []

    def folder(self, kind: str, name: str) -> Path:
        return self.root / kind / name

    def files(self, kind: str, name: str) -> list[str]:
        folder = self.folder(kind, name)
        return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())

    def sha(self, kind: str, name: str) -> str:
        folder = self.folder(kind, name)
        return hashlib.sha1(b"".join((folder / f).read_bytes() for f in self.files(kind, name))).hexdigest()

    # ---------------------------------------------------------------- uploads

    def create_repo(self, api: Any, repo_id: str, *, repo_type: str, private: bool, exist_ok: bool) -> None:
        assert exist_ok
        self.tokens.append(api.token)
        self.private.setdefault((repo_type, repo_id), private)
        self.folder(repo_type, repo_id).mkdir(parents=True, exist_ok=True)

    def upload_folder(
        self, api: Any, *, repo_id: str, folder_path: str, repo_type: str, commit_message: str,
        allow_patterns: list[str], delete_patterns: str,
    ) -> None:  # fmt: skip
        assert commit_message
        assert delete_patterns == "*"
        target, source = self.folder(repo_type, repo_id), Path(folder_path)
        shutil.rmtree(target)
        names = sorted(p.relative_to(source).as_posix() for p in source.rglob("*") if p.is_file())
        for name in filter_repo_objects(names, allow_patterns=allow_patterns):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / name, target / name)


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def log_message(self, *_: object) -> None:
            pass

        def _answer(self, *, body: bool) -> None:
            parts = unquote(urlsplit(self.path).path).strip("/").split("/")
            hub.asked.append("/".join(parts))
            if parts[0] == "api":
                kind, name, rest = parts[1].removesuffix("s"), "/".join(parts[2:4]), parts[4:]
                if not hub.folder(kind, name).is_dir():
                    return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, body)
                sha = hub.sha(kind, name)
                if rest[:1] == ["revision"] and rest[1] not in ("main", sha):
                    return self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, body)
                if rest[:1] == ["tree"]:
                    entries = [
                        {"type": "file", "path": f, "oid": "0" * 40,
                         "size": (hub.folder(kind, name) / f).stat().st_size}
                        for f in hub.files(kind, name)
                    ]  # fmt: skip
                    return self._send(200, json.dumps(entries).encode(), {}, body)
                info = {"id": name, "sha": sha, "siblings": [{"rfilename": f} for f in hub.files(kind, name)]}
                return self._send(200, json.dumps(info).encode(), {}, body)
            kind = "dataset" if parts[0] == "datasets" else "model"
            parts = parts[1:] if kind == "dataset" else parts
            name, path = "/".join(parts[:2]), "/".join(parts[4:])
            file = hub.folder(kind, name) / path
            if not file.is_file():
                return self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, body)
            data = file.read_bytes()
            head = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": hub.sha(kind, name)}
            return self._send(200, data, head, body)

        def _send(self, code: int, data: bytes, head: dict[str, str], body: bool) -> None:
            self.send_response(code)
            for name, value in head.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self.wfile.write(data)

    return Handler


@contextmanager
def running(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """The hub, which huggingface_hub takes for the real one, with a cache of its own."""
    hub = FakeHub(root / "hub")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)  # or it would end late
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(root / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("MESYNTH_CACHE", str(root / "mesynth"))
    monkeypatch.setattr(
        huggingface_hub.HfApi, "create_repo", lambda api, repo_id, **k: hub.create_repo(api, repo_id, **k)
    )
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", lambda api, **k: hub.upload_folder(api, **k))
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
