"""What a fault is given: the server, the clients that are being answered, and ways to send what is wrong."""

from __future__ import annotations

import os
import subprocess
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

import httpx

from loadtest.traffic.connections import request_bytes
from tests.faults.checked_clients import is_right
from tests.faults.fault import Broken, Unfit
from tests.serving import metric
from tests.sockets import Client, client

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Collection, Iterable, Iterator
    from pathlib import Path

    from loadtest.traffic.pictures import RequestBody
    from tests.faults.checked_clients import CheckedClients, Question
    from tests.faults.server import FaultServer

WAIT_S = 300.0  # generous: no promise is about time, and a busy machine takes 20 s to look at one broken version


class Said(NamedTuple):
    """What became of a request of a fault: a status or a word, and the body."""

    status: int
    body: bytes = b""


class Stage:
    """The place where a fault is shown.

    Attributes:
        server: it may be stopped and started.
        clients: the checked ones.
        questions: what they ask.
        models: the version folders that this run has, by name.
        folder: for files of the fault; new and empty.
        faulty: what became of the fault's own requests, by status or word.
    """

    def __init__(
        self,
        server: FaultServer,
        clients: CheckedClients,
        questions: list[Question],
        models: dict[str, Path],
        folder: Path,
    ) -> None:
        self.server = server
        self.clients = clients
        self.questions = questions
        self.models = models
        self.folder = folder
        self.faulty: Counter[str] = Counter()

    @contextmanager
    def connection(self, *, receive_bytes: int = 0) -> Iterator[Client]:
        """A bare connection to the server."""
        with client(self.server.url, receive_bytes=receive_bytes) as opened:
            yield opened

    def bytes_of(self, body: RequestBody) -> bytes:
        """A request as it stands on the wire."""
        return request_bytes("x", body, body.headers, path=body.path)

    def send(self, data: bytes, *, allowed: Collection[int | str] = (), hang_up: bool = False) -> Said:
        """Sends bytes over a connection of their own and counts what comes back; `closed` if the server closes.

        Raises:
            Broken: it is none of `allowed`, where that is given, or nothing comes.
        """
        said = Said(0)
        with self.connection() as opened, suppress(EOFError, ConnectionError):
            opened.send(data)
            if hang_up:
                opened.socket.shutdown(1)
            try:
                answer = opened.answer()
                said = Said(answer.status, answer.body)
                is_kept = answer.headers.get("connection", "").lower() == "close" and not opened.is_closed()
            except TimeoutError:
                raise Broken(f"no answer, or no end of the connection, after {data[:80]!r}") from None
            if is_kept:
                raise Broken(f"the connection does not end after {data[:80]!r}")
        self.count(said.status or "closed", allowed=allowed, what=repr(data[:80]) + " " + repr(said.body[:80]))
        return said

    def ask(self, body: RequestBody, *, allowed: Collection[int | str] = (), **headers: str) -> Said:
        """Sends a request and counts its answer, as `send` does."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.send(request_bytes("x", body, body.headers | named, path=body.path), allowed=allowed)

    def check(self, question: Question, *, allowed: Collection[int | str] = (200,)) -> None:
        """Sends a good request; raises Broken if its answer is wrong."""
        said = self.ask(question.body, allowed=allowed)
        if said.status == 200:
            self.compare(question, said.body)

    def compare(self, question: Question, body: bytes) -> None:
        """Raises Broken if an answer is not TensorFlow's."""
        if not is_right(question, body):
            raise Broken(f"a wrong answer: {body[:200]!r}")

    def together(self, acts: Iterable[Callable[[], object]], *, at_once: int = 16) -> None:
        """Calls functions in threads, so many at a time; raises what one of them raises."""
        with ThreadPoolExecutor(at_once) as threads:
            for future in [threads.submit(act) for act in acts]:
                future.result()

    def count(self, word: int | str, *, allowed: Collection[int | str] = (), what: str = "") -> None:
        """Counts what became of one faulty request; raises Broken if it is none of `allowed`, where that is given."""
        self.faulty[str(word)] += 1
        wanted = {str(each) for each in allowed}
        if wanted and str(word) not in wanted:
            raise Broken(f"{what}: {word} instead of {' or '.join(sorted(wanted))}")

    def wait_for_clients(self) -> None:
        """Waits until every checked client has been answered once more, whatever the fault does meanwhile."""
        began_s = time.monotonic()
        self.until(lambda: self.clients.has_recovered(began_s), "the checked clients are answered")

    def until(self, is_so: Callable[[], bool], what: str, timeout_s: float = WAIT_S) -> None:
        """Waits for what must come; raises Broken if it does not."""
        end_s = time.monotonic() + timeout_s
        while not is_so():
            if time.monotonic() > end_s:
                raise Broken(f"after {timeout_s:.0f} s not yet: {what}")
            time.sleep(0.05)

    def hurt_worker(self, number: signal.Signals) -> None:
        """Sends a signal to the first worker, and waits until another process has taken its place and is ready."""
        worker = self.server.children()[0]
        os.kill(worker, number)
        self.until(lambda: worker not in self.server.children(), "the worker has ended")
        self.until(lambda: self.ready_workers() == 2, "two workers are ready again")

    def ready_workers(self) -> float:
        """How many workers are ready; 0 if no worker can say."""
        with suppress(httpx.TransportError):
            return metric(self.server.url, "darkroom_workers", state="ready")
        return 0

    def command(self, *words: str) -> None:
        """Runs a command; raises Unfit with its words if it fails."""
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Unfit(f"{' '.join(words)}: {done.stderr.strip()}")

    def states(self, model: str = "default") -> dict[str, tuple[str, str]]:
        """The state and the message of every version of a model."""
        described = self.server.describe(f"/v1/models/{model}")["model_version_status"]
        return {each["version"]: (each["state"], each["status"]["error_message"]) for each in described}
