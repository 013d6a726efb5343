"""Clients that ask a server all the while its versions come and go, and waits for what it says of the versions."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from typing import TYPE_CHECKING, TypeAlias

import httpx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

States: TypeAlias = "dict[str, tuple[str, str]]"  # version → state and message
CLIENTS = 8
ROWS = [[1.0, 2.0, 3.0, 4.0]] * 5


class Load:
    """Clients that ask again after a moment, so that the server has cores left, and keep what was wrong."""

    def __init__(self, url: str, *, pause_s: float) -> None:
        self._pause_s = pause_s
        self.wrong: list[str] = []
        self.factors: list[float] = []  # of every answer, as it came: which version gave it
        self._host = url.removeprefix("http://")
        self._is_over = threading.Event()

    def ask(self) -> None:
        body, headers = json.dumps({"data": {"x": ROWS}}), {"Content-Type": "application/json"}
        with closing(HTTPConnection(self._host, timeout=60)) as connection:
            while not self._is_over.wait(self._pause_s):
                connection.request("POST", "/", body, headers)
                answer = connection.getresponse()
                text = answer.read()
                rows = json.loads(text).get("y", []) if answer.status == 200 else []
                factor = rows[0][0] if rows else 0.0
                if rows != [[value * factor for value in row] for row in ROWS]:
                    self.wrong.append(f"{answer.status} {text!r}")
                self.factors.append(factor)

    def stop(self) -> None:
        self._is_over.set()


@contextmanager
def load(url: str, *, pause_s: float = 0.02) -> Iterator[Load]:
    """Clients that ask until the block ends, each with a pause after each answer; fails if an answer was wrong."""
    clients = Load(url, pause_s=pause_s)
    with ThreadPoolExecutor(CLIENTS) as threads:
        asking = [threads.submit(clients.ask) for _ in range(CLIENTS)]
        try:
            yield clients
        finally:
            clients.stop()
    for each in asking:
        each.result()  # a connection that broke is raised here
    assert clients.wrong == []


def until(url: str, is_so: Callable[[States], bool], *, name: str = "default") -> None:
    """Waits for the states of the versions to be so; three minutes without it are a failure."""
    states: States = {}
    for _ in range(1800):
        described = httpx.get(f"{url}/v1/models/{name}", timeout=60).json()["model_version_status"]
        states = {each["version"]: (each["state"], each["status"]["error_message"]) for each in described}
        if is_so(states):
            return
        time.sleep(0.1)
    raise AssertionError(f"it did not come within three minutes: {states}")
