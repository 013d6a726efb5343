"""A server of the standard library that answers in a thread of the test."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from http.server import HTTPServer

POLL_S = 0.02  # until it sees that it is to end


@contextmanager
def in_thread(server: HTTPServer) -> Iterator[str]:
    """The address of a server on loopback, which answers until the block ends."""
    thread = threading.Thread(target=server.serve_forever, args=(POLL_S,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
