"""A small object store of the tests, with faults: S3's listing and GET over HTTP, and plain files for archives."""

from __future__ import annotations

import hashlib
import socket
import time
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import certifi

from tests.httpserver import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PAGE_KEYS = 2  # of one answer to a listing, so that each listing takes several


class Stored:
    """One object: its bytes, when it was stored, and its ETag."""

    def __init__(self, data: bytes, changed_s: float) -> None:
        self.data = data
        self.changed_s = changed_s
        self.tag = f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


class Store:
    """The objects of one bucket and what is wrong with their server.

    `requests` are the keys of the requests that were answered, and `bodies` those of the objects that were sent.

    Attributes:
        fault: called with each request and its key (a listing: "") before its answer; False: it has answered, or cut it.
    """

    def __init__(self) -> None:
        self.objects: dict[str, Stored] = {}
        self.requests: list[str] = []
        self.bodies: list[str] = []
        self.fault: Callable[[Handler, str], bool]
        self.heal()
        self.url = ""

    def put(self, key: str, data: bytes, *, age_s: float = 3600.0) -> None:
        """Stores an object, as if `age_s` ago."""
        self.objects[key] = Stored(data, time.time() - age_s)

    def put_folder(self, folder: Path, prefix: str, *, age_s: float = 3600.0) -> None:
        """Stores every file below a folder."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put(f"{prefix}/{path.relative_to(folder)}", path.read_bytes(), age_s=age_s)

    def heal(self) -> None:
        """Nothing is wrong any more."""
        self.fault = lambda _handler, _key: True

    def drop(self, prefix: str) -> None:
        """Deletes the objects under a prefix."""
        for key in [key for key in self.objects if key.startswith(prefix)]:
            del self.objects[key]

    def fetched(self, prefix: str = "") -> list[str]:
        """The keys under a prefix that were asked for, in their order; no listings."""
        return [key for key in self.requests if key and key.startswith(prefix)]

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which a client finds it."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "the-key",
            "AWS_SECRET_ACCESS_KEY": "the-secret",
            "AWS_REGION": "eu-central-1",
            "SSL_CERT_FILE": certifi.where(),  # obstore makes no client without a root certificate
        }


class Handler(BaseHTTPRequestHandler):
    """Answers for a Store; every object is in the bucket `bucket`."""

    protocol_version = "HTTP/1.1"
    store: Store

    def log_message(self, *_: Any) -> None:
        """Prints nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        key = "" if "list-type" in query else unquote(parts.path).removeprefix("/bucket/")
        if not self.store.fault(self, key):
            return
        self.store.requests.append(key)
        if not key:
            self._list(query.get("prefix", ""), query.get("continuation-token", ""))
        elif (found := self.store.objects.get(key)) is None:
            self.say(404, b"<Error><Code>NoSuchKey</Code></Error>")
        else:
            self.send(found)
            self.store.bodies += [key] if self.command == "GET" else []

    def say(self, status: int, body: bytes) -> bool:
        """A whole answer; False, for a fault."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        return False

    def cut(self) -> bool:
        """Ends the connection; False, for a fault."""
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)
        return False

    def send(self, found: Stored, *, cut_at: int | None = None) -> bool:
        """An object, or what a Range asks for of it, but no byte from `cut_at` on; False, for a fault."""
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if start else 200)
        headers = {"Content-Length": len(found.data) - start, "ETag": found.tag}
        headers["Last-Modified"] = formatdate(found.changed_s, usegmt=True)
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(found.data) - 1}/{len(found.data)}"
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "HEAD":
            return False
        self.wfile.write(found.data[start:cut_at])
        return self.cut() if cut_at is not None else False

    def _list(self, prefix: str, after: str) -> None:
        keys = sorted(key for key in self.store.objects if key.startswith(prefix) and key > after)
        page = keys[:PAGE_KEYS]
        more = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if len(keys) > len(page) else ""
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(each.data)}</Size><ETag>{escape(each.tag)}</ETag>"
            f"<LastModified>{time.strftime('%Y-%m-%dT%H:%M:%S.000Z', time.gmtime(each.changed_s))}</LastModified></Contents>"
            for key in page
            for each in [self.store.objects[key]]
        )
        body = (
            f"<ListBucketResult><IsTruncated>{str(bool(more)).lower()}</IsTruncated>{contents}{more}</ListBucketResult>"
        )
        self.say(200, body.encode())


class _Server(ThreadingHTTPServer):
    """Says nothing of clients that leave."""

    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        pass


@contextmanager
def storing() -> Iterator[Store]:
    """A store on a free port of loopback, until the block ends."""
    store = Store()
    handler = type("StoreHandler", (Handler,), {"store": store})
    with in_thread(_Server(("127.0.0.1", 0), handler)) as store.url:
        yield store
