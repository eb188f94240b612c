"""The protocol: JSON calls by POST, blobs by resumable PUT, files by GET with ranges.

The client knows `http://localhost` (port 80) as a test environment and honours `http_proxy`: as that proxy
this server gets every request, on any free port.
"""

from __future__ import annotations

import base64
import json
import sys
import threading
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from kaggle_server.api import Store
from kaggle_server.records import Refusal
from kaggle_server.runs import Runner, plain


class Quiet(ThreadingHTTPServer):
    """A client that hangs up is nothing to report."""

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class KaggleServer:
    """Serve a `Store` on a free port while the `with` block lasts."""

    def __init__(self, root: Path, runner: Runner = plain):
        self.store = Store(root, runner)
        self.httpd = Quiet(("127.0.0.1", 0), type("Bound", (Handler,), {"store": self.store}))
        self.httpd.daemon_threads = True

    def environment(self, home: Path) -> dict[str, str]:
        """What sends the client here, with a good key and a home and temporary folder of its own."""
        for folder in (home, home / "tmp"):
            folder.mkdir(parents=True, exist_ok=True)
        return {
            "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
            "http_proxy": f"http://127.0.0.1:{self.httpd.server_port}",
            "KAGGLE_USERNAME": self.store.user,
            "KAGGLE_KEY": self.store.key,
            "HOME": str(home),
            "TMPDIR": str(home / "tmp"),
        }

    def __enter__(self) -> KaggleServer:
        threading.Thread(target=self.httpd.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.httpd.shutdown()
        self.httpd.server_close()
        self.store.wait()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: Store

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        call = urlsplit(self.path).path.removeprefix("/api/v1/")
        try:
            if not self._known():
                raise Refusal(401, "Unauthenticated")
            answer = self.store.answer(call, json.loads(body or b"{}"))
        except Refusal as refusal:
            return self._json(refusal.status, {"code": refusal.status, "message": str(refusal)})
        except Exception as bug:  # a dropped connection would have the client try for minutes
            self.store.bugs.append(f"{call}: {bug!r}")
            return self._json(500, {"code": 500, "message": "500 Server Error"})
        if isinstance(answer, Path):  # a download: the client names the file after the address
            return self._head(302, Location=f"http://localhost/files{answer}")
        return self._json(200, answer)

    def do_PUT(self) -> None:
        blob = self.store.blobs[urlsplit(self.path).path.rpartition("/")[2]]
        body = self._body()
        place = self.headers.get("Content-Range", "")
        if self.store.fault("put_refused"):
            return self._page(403)
        if not place.startswith("bytes */"):  # that one only asks how far we are
            if self.store.fault("put_broken"):
                body = body[: len(body) // 2]
            start = int(place.split()[1].split("-")[0]) if place else 0
            blob.content = blob.content[:start] + body
        if len(blob.content) == blob.size:
            return self._json(200, {})
        if place.startswith("bytes */"):
            return self._head(308, **({"Range": f"bytes=0-{len(blob.content) - 1}"} if blob.content else {}))
        return self._page(503)

    def do_GET(self) -> None:
        path = self.store.root / unquote(urlsplit(self.path).path.removeprefix("/files/"))
        if "working" in path.parts and self.store.fault("output_403"):
            return self._page(403)
        if not path.is_file():
            return self._page(404)
        for status in (403, 503):  # after as many good answers as `get_broken` asks for
            if not self.store.faults["get_broken"] and self.store.fault(f"get_{status}"):
                return self._page(status)
        content = path.read_bytes()
        status, start = 200, 0
        if (wanted := self.headers.get("Range")) and self.headers.get("If-Range") == self._tag(path):
            status, start = 206, int(wanted.removeprefix("bytes=").split("-")[0])
        cut = len(content) // 2 if self.store.fault("get_broken") else len(content)
        date = formatdate(path.stat().st_mtime, usegmt=True)
        self._head(
            status,
            len(content) - start,
            **{"Last-Modified": date, "Accept-Ranges": "bytes", "ETag": self._tag(path)},
        )
        self.wfile.write(content[start:cut])
        self.close_connection = cut < len(content)
        self.store.sent.append((path.name, start))

    def _tag(self, path: Path) -> str:
        return f'"{path.stat().st_mtime_ns:x}"'

    def _known(self) -> bool:
        kind, _, word = self.headers.get("Authorization", "").partition(" ")
        if kind == "Basic":
            return base64.b64decode(word).decode() == f"{self.store.user}:{self.store.key}"
        return kind == "Bearer" and word == self.store.key

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _head(self, status: int, length: int = 0, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _json(self, status: int, value: dict) -> None:
        content = json.dumps(value).encode()
        extra = {"Retry-After": "1"} if status == 429 else {}
        self._head(status, len(content), **{"Content-Type": "application/json", **extra})
        self.wfile.write(content)

    def _page(self, status: int) -> None:
        content = b"<!DOCTYPE html><html><body><h1>Something went wrong</h1></body></html>"
        self._head(status, len(content), **{"Content-Type": "text/html"})
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass
