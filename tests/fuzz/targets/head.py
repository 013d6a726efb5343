"""The heads of requests: whatever the fast lane reads, Sanic reads the same, and a known head is read as a new one."""

from __future__ import annotations

from contextlib import suppress
from types import SimpleNamespace
from typing import Any

from sanic import Request
from sanic.exceptions import SanicException

from darkroom.service.http.connection import _Http
from darkroom.service.http.request_head import MAX_HEAD_BYTES, HeadReader, chunk_size, fault_of, is_field, is_unsafe
from darkroom.service.predict.request import Route

ROUTE = Route("/", lambda *_: None)
MAX_BODY_BYTES = 1 << 20
_Http.set_header_max_size(MAX_HEAD_BYTES)


def _reader() -> HeadReader:
    return HeadReader(lambda path: ROUTE if "model" in path or path == "/" else None, max_body_bytes=MAX_BODY_BYTES)


READER = _reader()  # sees all heads, so most of them from its cache


def check(data: bytes) -> None:
    """The two lanes agree on a head: on its fields, on where its body begins and ends, on what follows it."""
    found, again, new = READER.read(data), READER.read(data), _reader().read(data)
    assert found == again == new
    head = data.partition(b"\r\n\r\n")[0]
    fault = fault_of(head)
    assert not (is_unsafe(head) and not fault)
    for line in data.split(b"\r\n"):
        assert chunk_size(line) >= -1
        assert not (is_field(line) and line.startswith((b" ", b"\t", b":")))
    if found is None:
        return
    (_, headers, query, is_kept), head_bytes, body_bytes = found
    assert not fault
    http = _sanic(data)
    request = http.request
    assert (request.method, request.query_string) == ("POST", query)
    assert bytes(http.recv_buffer) == data[head_bytes:]
    assert (http.request_bytes_left, http.request_body) == (body_bytes, True)
    # Sanic's rule ends a connection that the other keeps where the client writes the header in its own way.
    assert is_kept or not http.keep_alive or b"onnection" in head.lower()
    for name, value in headers.items():
        assert request.headers.getall(name)[0].rstrip(" \t") == value
    assert set(request.headers) == {*headers, "content-length"}


def _sanic(data: bytes) -> Any:
    """Sanic's view of the same bytes."""

    async def nothing(*_: object, **__: object) -> None:
        """What the server does for a request besides reading it."""

    app = SimpleNamespace(dispatch=nothing, config=SimpleNamespace(KEEP_ALIVE=True))
    protocol: Any = SimpleNamespace(
        app=app,
        recv_buffer=bytearray(data),
        send=nothing,
        receive_more=nothing,
        can_write=nothing,
        request_class=Request,
        transport=None,
        state={"requests_count": 0},
    )
    http = _Http(protocol)  # type: ignore[no-untyped-call] # Sanic types in parts
    reading = http.http1_request_header()
    try:
        with suppress(StopIteration):  # it never waits, so it needs no loop
            reading.send(None)
    except SanicException as err:
        raise AssertionError(f"Sanic refuses what the fast lane takes: {err}") from err
    return http
