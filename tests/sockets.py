"""A client that sends what no HTTP library would: bytes, as they are."""

from __future__ import annotations

import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator


class Answer(NamedTuple):
    """One answer off the wire."""

    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """A socket that reads one answer after another."""

    def __init__(self, url: str, receive_bytes: int = 0) -> None:
        parts = urlsplit(url)
        self.socket = socket.socket()
        self.socket.settimeout(60)
        if receive_bytes:  # before it connects, or the server has been told of more room
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.connect((parts.hostname, parts.port))
        self._file = self.socket.makefile("rb")

    def send(self, data: bytes) -> None:
        """Sends all of it."""
        self.socket.sendall(data)

    def answer(self) -> Answer:
        """The next answer; EOFError where the server closed instead."""
        line = self._file.readline()
        if not line:
            raise EOFError
        headers = {}
        while (header := self._file.readline().decode().rstrip("\r\n")) != "":
            name, _, value = header.partition(": ")
            headers[name.lower()] = value
        body = self._file.read(int(headers.get("content-length", 0)))
        return Answer(int(line.split()[1]), headers, body)

    def is_closed(self) -> bool:
        """Whether the server closed the connection, with nothing more to say."""
        return self._file.read(1) == b""

    def close(self) -> None:
        """Hangs up."""
        self._file.close()
        self.socket.close()


@contextmanager
def client(url: str, *, receive_bytes: int = 0) -> Iterator[Client]:
    """A connection for one block, whose system keeps about `receive_bytes` that were not read, if given."""
    made = Client(url, receive_bytes)
    try:
        yield made
    finally:
        made.close()
