"""A hub on this machine that answers as the hub's client expects: revisions, files, refusals."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


@dataclass
class Hub:
    """Models by name, each with folders by branch or tag; and what was asked for."""

    models: dict[str, dict[str, Path]] = field(default_factory=dict)
    tags: set[str] = field(default_factory=set)
    gated: set[str] = field(default_factory=set)
    broken: bool = False
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def commit(self, model: str, revision: str) -> str:
        """A commit is named after what is in it, so that two revisions can be the same."""
        folder = self.models[model][revision]
        found = hashlib.sha1(model.encode())
        for file in sorted(folder.iterdir()):
            found.update(file.name.encode() + file.read_bytes())
        return found.hexdigest()

    def folder(self, model: str, revision: str) -> tuple[str, Path] | None:
        """Commit and folder of a branch, a tag or a commit."""
        for name, folder in self.models[model].items():
            commit = self.commit(model, name)
            if revision in (name, commit):
                return commit, folder
        return None

    def downloads(self) -> list[str]:
        """Names of the files that were downloaded, in order."""
        return [path.split("/")[-1] for path in self.asked if path.startswith("GET /org")]


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub, as long as the context lasts."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append(f"{self.command} {path}")
            if hub.broken:
                self.send(503, b"")
                return
            parts = path.strip("/").split("/")
            api = parts[:2] == ["api", "models"]
            model = "/".join(parts[2:4] if api else parts[:2])
            if model not in hub.models:
                self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            elif api and parts[4:] == ["refs"]:
                refs = {
                    kind: [
                        {
                            "name": name,
                            "ref": f"refs/{'heads' if kind == 'branches' else 'tags'}/{name}",
                            "targetCommit": hub.commit(model, name),
                        }
                        for name in hub.models[model]
                        if (name in hub.tags) == (kind == "tags")
                    ]
                    for kind in ("branches", "tags")
                }
                self.send(200, json.dumps({**refs, "converts": []}).encode())
            else:
                found = hub.folder(model, parts[5] if api else parts[3])
                if found is None:
                    self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
                elif api:
                    files = [
                        {"rfilename": f.name, "size": f.stat().st_size, "blobId": "0"}
                        for f in sorted(found[1].iterdir())
                    ]
                    body = {"id": model, "sha": found[0], "siblings": files}
                    self.send(200, json.dumps(body).encode())
                elif model in hub.gated:
                    self.send(403, b"{}", {"X-Error-Code": "GatedRepo"})
                else:
                    self.file(found[0], found[1] / parts[4])

        def file(self, commit: str, file: Path) -> None:
            if not file.is_file():
                self.send(404, b"{}", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
                return
            body = file.read_bytes()
            etag = hashlib.sha256(body).hexdigest()
            self.send(200, body, {"ETag": f'"{etag}"', "X-Repo-Commit": commit})

        def send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
