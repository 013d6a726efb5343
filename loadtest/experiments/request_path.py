"""Counts the files of Darkroom's own code, and the calls of its functions, that one picture takes by the fast lane.

    python -m loadtest.experiments.request_path
    OTHER/.venv/bin/python loadtest/experiments/request_path.py --tree OTHER    # a clone of another commit

A real server, with the shipped EchoEngine or a model, gets one JSON request after another, each with one base64
picture. The count begins with the call of `data_received`, ends where the answer is written to the transport, and
covers every thread. Only functions of batching/, models/ and service/ count. Comprehensions and steps of generator
expressions, which older versions of Python run as calls, are told apart. The code must be interpreted.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import importlib
import json
import os
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType

HERE = Path(__file__).resolve().parents[2]
ROOMS = ("batching", "models", "service")
READY_TIMEOUT_S = 120
PICTURE = HERE / "loadtest/traffic/payloads/digits/digit_7.jpg"


class Called(NamedTuple):
    """One call: the function's file below the tree, and its qualified name."""

    file: str
    name: str

    @property
    def is_function(self) -> bool:
        """False for a comprehension and for a step of a generator expression."""
        return not self.name.endswith("comp>") and not self.name.endswith("<genexpr>")


class CallRecorder:
    """A profile function that records the calls of each request, from its arrival to the write of its answer."""

    def __init__(self, tree: Path) -> None:
        self.requests: list[list[Called]] = []
        self._is_open = False

        @cache
        def own_file(filename: str) -> str | None:
            path = Path(os.path.realpath(filename))  # the import root `darkroom` holds links
            name = str(path.relative_to(tree)) if path.is_relative_to(tree) else ""
            return name if name.split("/")[0] in ROOMS else None

        self._own_file = own_file

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        """Called by the interpreter for each call and return in each thread."""
        if event != "call":
            return
        code = frame.f_code
        if self._is_open and code.co_name == "write" and "asyncio" in code.co_filename:
            self._is_open = False
            return
        file = self._own_file(code.co_filename)
        if file is None:
            return
        if not self._is_open and code.co_name == "data_received":
            self._is_open = True
            self.requests.append([])
        if self._is_open:
            self.requests[-1].append(Called(file, code.co_qualname))

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Records the calls of threads that start in the block; call `sys.setprofile` for one that runs already."""
        before = threading.getprofile()
        threading.setprofile(self)
        try:
            yield
        finally:
            threading.setprofile(before)


def predictor_part(calls: Sequence[Called]) -> list[Called]:
    """The calls from the first one of the Predictor to the first one of the FastLane after it, which has the reply."""
    start = next((place for place, call in enumerate(calls) if call.name.startswith("Predictor.")), len(calls))
    part = calls[start:]
    end = next((place for place, call in enumerate(part) if call.name.startswith("FastLane.")), len(part))
    return list(part[:end])


def typical(requests: Sequence[list[Called]]) -> list[Called]:
    """The calls of a request with the most frequent number of calls."""
    ((count, _),) = Counter(map(len, requests)).most_common(1)
    return next(calls for calls in requests if len(calls) == count)


def count(tree: Path, model: Path | None, *, warm_up: int, counted: int) -> list[list[Called]]:
    """The calls of each of `counted` requests to a server of `tree`, after `warm_up` uncounted ones.

    Without a model the server has the EchoEngine.

    Raises:
        SystemExit: an answer was not 200, or the fast lane did not write it.
    """
    recorder = CallRecorder(tree)
    with recorder.recording(), _serving(tree, model) as url:
        body = json.dumps({"data": {"images": [base64.urlsafe_b64encode(PICTURE.read_bytes()).decode()]}}).encode()
        head = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        address = urlsplit(url)
        with socket.create_connection((address.hostname, address.port), timeout=30) as peer:
            for _ in range(warm_up + counted):
                peer.sendall(head.encode() + body)
                answer = peer.recv(1 << 20)
                if not answer.startswith(b"HTTP/1.1 200 "):
                    raise SystemExit(f"the server said {answer[:200]!r}")
    if len(recorder.requests) < warm_up + counted:
        raise SystemExit("no function data_received of our own was called: is the code compiled?")
    return recorder.requests[-counted:]


@contextmanager
def _serving(tree: Path, model: Path | None) -> Iterator[str]:
    """The URL of a server of `tree` in a thread of this process, once it is ready."""
    sys.path.insert(0, str(tree))
    root = "darkroom." if (tree / "darkroom").is_dir() else ""
    named = {"model_base_path": str(model)} if model else {}
    settings = _module(root, "service.config.settings", "service.settings").Settings(host="127.0.0.1", port=0, **named)
    models = [] if model else [_module(root, "models.engines.fakes", "models.fake").fake_model(name="default")]
    server_class = _module(root, "service.server").Server
    started = threading.Event()
    made: list[Any] = []

    async def serve() -> None:
        made.append(server_class(settings, *models))
        running = asyncio.ensure_future(made[0].run())
        await made[0].is_listening.wait()
        started.set()
        await running

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    started.wait(READY_TIMEOUT_S)
    try:
        _wait_ready(made[0].url)
        yield made[0].url
    finally:
        made[0].loop.call_soon_threadsafe(made[0].stop)
        thread.join()
        sys.path.remove(str(tree))


def _wait_ready(url: str) -> None:
    """Returns once the server has loaded its model.

    Raises:
        SystemExit: it has not in time.
    """
    end_s = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < end_s:
        try:
            with urllib.request.urlopen(f"{url}/v2/health/ready", timeout=5):  # noqa: S310 - our own server
                return
        except urllib.error.HTTPError:
            time.sleep(0.1)
    raise SystemExit("the server did not become ready")


def _module(root: str, *names: str) -> Any:
    """The first module of these that the tree has."""
    for name in names[:-1]:
        try:
            return importlib.import_module(root + name)
        except ModuleNotFoundError:
            continue
    return importlib.import_module(root + names[-1])


def report(requests: Sequence[list[Called]]) -> str:
    """Totals of a typical request, the smallest and the largest number of calls seen, then the calls of each file."""
    calls = typical(requests)
    lengths = [sum(call.is_function for call in each) for each in requests]
    per_file = Counter(call.file for call in calls if call.is_function)
    return "\n".join(
        [
            f"data_received to transport.write: {_totals(calls)}",
            f"predictor to its reply: {_totals(predictor_part(calls))}",
            f"calls of {len(lengths)} requests: {min(lengths)} to {max(lengths)}",
            "",
            *(f"{number:5}  {file}" for file, number in per_file.most_common()),
        ]
    )


def _totals(calls: Sequence[Called]) -> str:
    functions = [call for call in calls if call.is_function]
    per_room = Counter(call.file.split("/")[0] for call in functions)
    rooms = ", ".join(f"{room} {per_room[room]}" for room in ROOMS)
    files = len({call.file for call in functions})
    return f"{len(functions)} calls in {files} files ({rooms}); {len(calls)} with comprehensions"


def main(arguments: Sequence[str] | None = None) -> int:
    """Counts and prints; returns 0."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.experiments.request_path",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tree", type=Path, default=HERE, help="the clone whose code is counted [this one]")
    parser.add_argument("--model", type=Path, help="a model's folder in place of the EchoEngine")
    parser.add_argument("--warm_up", type=int, default=50, help="requests before the counted ones [%(default)s]")
    parser.add_argument("--counted", type=int, default=20, help="requests that are counted [%(default)s]")
    parser.add_argument("--calls", action="store_true", help="also print every call in order")
    options = parser.parse_args(arguments)
    requests = count(options.tree.resolve(), options.model, warm_up=options.warm_up, counted=options.counted)
    print(report(requests))
    if options.calls:
        print("\n".join(["", *(f"{call.file}  {call.name}" for call in typical(requests))]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
