"""The address: a socket bound to it, and the URL at which it is asked."""

from __future__ import annotations

import socket

BACKLOG = 1024  # precedent: nginx takes 511; a burst of connections must not be refused by the kernel


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; ours and not Sanic's, which takes port 0 for its default.

    Raises:
        OSError: the address can't be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG)


def url_of(listener: socket.socket, *, is_tls: bool) -> str:
    """Where this machine reaches it."""
    host, port = listener.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104 - compared
    return f"{'https' if is_tls else 'http'}://{shown}:{port}"
