"""A small web server on this machine, for downloads that are real but for the wire."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

LATER = "b" * 40
"""The commit that the branch main stands at on the small hub."""


class Server(ThreadingHTTPServer):
    """Plain files by path, and hub repositories by id; every request is noted.

    `headers` and `redirects` are by path; `cut_after` breaks the connection after so many bytes; `chunked` sends no
    length, as GitHub does with archives.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.cut_after: int | None = None
        self.ranges = True
        self.content_type = "application/octet-stream"
        self.headers: dict[str, dict[str, str]] = {}
        self.redirects: dict[str, str] = {}
        self.chunked = False

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is part of the tests."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path, server = unquote(self.path.partition("?")[0]), self.server
        server.requests.append((self.command, path, self.headers["Range"]))
        if path.startswith("/api/models/"):
            return self.describe(path.removeprefix("/api/models/"))
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            repository, revision, name = found.groups()
            content = server.repositories.get(repository, {}).get(name)
            if content is not None:
                large = name.endswith((".safetensors", ".bin"))
                etag = hashlib.sha256(content).hexdigest() if large else blob(content)
                commit = LATER if revision == "main" else revision
                headers = {"X-Repo-Commit": commit, "X-Linked-Etag": f'"{etag}"', "ETag": f'"{etag}"'}
                return self.answer(content, headers | {"X-Linked-Size": str(len(content))})
        if path in server.redirects:
            return self.answer(b"", {"Location": server.redirects[path], **server.headers.get(path, {})}, 302)
        return self.answer(
            server.files.get(path), {"Content-Type": server.content_type, **server.headers.get(path, {})}
        )

    def describe(self, path: str) -> None:
        """What the hub's API says of a repository: its commit and files, to old libraries and to new ones."""
        repository, what, revision = re.fullmatch(r"([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path).groups()
        files = self.server.repositories.get(repository)
        if files is None:
            return self.answer(None, {"X-Error-Code": "RepoNotFound"})
        described: object = [
            {"type": "file", "path": name, "size": len(content), "oid": blob(content)}
            for name, content in files.items()
        ]
        if what != "tree":
            commit = LATER if revision in (None, "main") else revision
            described = {"id": repository, "sha": commit, "siblings": [{"rfilename": name} for name in files]}
        return self.answer(json.dumps(described).encode(), {"Content-Type": "application/json"})

    def answer(self, content: bytes | None, headers: dict[str, str], status: int = 200) -> None:
        asked = self.headers["Range"]
        if content is None:
            status, content = 404, b""
        elif asked and self.server.ranges and status == 200:
            start, total = int(asked.removeprefix("bytes=").rstrip("-")), len(content)
            status, content = (206, content[start:]) if start < total else (416, b"")
            span = f"{start}-{total - 1}" if status == 206 else "*"
            headers = headers | {"Content-Range": f"bytes {span}/{total}"}
        length = {"Transfer-Encoding": "chunked"} if self.server.chunked else {"Content-Length": str(len(content))}
        self.send_response(status)
        for name, value in {**length, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            cut = self.server.cut_after
            if self.server.chunked:
                self.wfile.write(b"%x\r\n" % len(content))
            self.wfile.write(content[:cut])
            if self.server.chunked and cut is None:
                self.wfile.write(b"\r\n0\r\n\r\n")


def blob(content: bytes) -> str:
    """git's name of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def running_server() -> Iterator[Server]:
    """A server that answers until the block ends."""
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()
