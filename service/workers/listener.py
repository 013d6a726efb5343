"""The listening socket of a server, and the URL that reaches it."""

from __future__ import annotations

import os
import socket

BACKLOG = 1024  # precedent: nginx uses 511; the kernel must not refuse a burst of connections


def listen(host: str, port: int, *, is_shared: bool = False) -> socket.socket:
    """A listening socket; port 0 picks a free port. Not Sanic's own, because Sanic replaces port 0 by its default.

    Args:
        host: the address.
        port: the port.
        is_shared: other processes listen there too (SO_REUSEPORT).

    Raises:
        OSError: the address can't be bound; its `filename` is the address.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG, reuse_port=is_shared)
    except OSError as err:
        raise OSError(err.errno, os.strerror(err.errno or 0), f"{host}:{port}") from None


def url_of(listener: socket.socket, *, is_tls: bool) -> str:
    """The URL under which this machine reaches the socket."""
    host, port = listener.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104 - compared
    return f"{'https' if is_tls else 'http'}://{shown}:{port}"
