"""Runs faults one after another on real servers, with checked clients on each server all the time."""

from __future__ import annotations

import shutil
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from loadtest.traffic.pictures import load
from tests.faults import models
from tests.faults.checked_clients import CheckedClients, questions
from tests.faults.fault import Broken, Unfit
from tests.faults.result import Result, longest_gap_s
from tests.faults.server import FaultServer
from tests.faults.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tests.faults.fault import Fault, Setup
    from tests.faults.server import Resources

GOOD = Path("model/digits/1")
LEAST_S = 1.0  # a fault lasts so long at least, that there are answers to compare
RECOVERY_S = 150.0  # after this long without right answers to all, a server has not recovered
SETTLE_S = 20.0  # descriptors and threads may take this long to go back


class Workshop:
    """What a run shares: a folder, the models, the pictures and their right answers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.models = models.build(folder / "made", GOOD)
        pictures = load("digits")
        self.questions = questions(pictures, models.truth(GOOD, pictures))
        self._count = 0

    def new_folder(self, name: str) -> Path:
        """An empty folder."""
        self._count += 1
        made = self.folder / f"{self._count:03}-{name}"
        made.mkdir()
        made.chmod(0o755)
        return made

    def server(self, setup: Setup) -> FaultServer:
        """A server that is not started yet."""
        return FaultServer(setup, self.new_folder("server"), self.models, self.folder / "cache")


class Runner:
    """Runs faults and yields their results.

    Args:
        workshop: the models and the pictures.
        tell: shows one line of progress.
    """

    def __init__(self, workshop: Workshop, tell: Callable[[str], None]) -> None:
        self._workshop = workshop
        self._tell = tell
        self._stack = ExitStack()
        self._server: FaultServer | None = None
        self._clients: CheckedClients | None = None

    def run(self, faults: Iterable[Fault]) -> Iterator[Result]:
        """The results, one after another; ends every server that it started."""
        try:
            for fault in faults:
                yield self._one(fault)
        finally:
            self._stack.close()

    def _one(self, fault: Fault) -> Result:
        if reason := fault.why_not():
            return Result(fault, skipped=reason)
        self._tell(f"{fault.group}/{fault.name}")
        try:
            self._prepare(fault.setup)
            result = self._inject(fault)
        except Unfit as err:
            return Result(fault, skipped=str(err))
        except (OSError, Broken) as err:
            result = Result(fault, broken=str(err))
        if result.problems:
            self._stack.close()  # the next fault gets a server that this one did not break
            self._server = None
        return result

    def _prepare(self, setup: Setup) -> None:
        """Sees to it that a server of this setup runs, and that its clients are answered."""
        if self._server is None or self._server.setup != setup or not self._server.is_running():
            self._stack.close()
            self._server = self._workshop.server(setup)
            self._stack.callback(self._server.end)
            self._server.start()
            self._clients = self._stack.enter_context(CheckedClients(self._server.url, self._workshop.questions))
        assert self._clients is not None
        if not self._recover(self._clients, time.monotonic()):
            raise Broken(f"the clients are not answered before the fault: {self._server.last_words()}")

    def _inject(self, fault: Fault) -> Result:
        assert self._server is not None
        assert self._clients is not None
        server, clients = self._server, self._clients
        clients.forget()
        folder = self._workshop.new_folder(fault.name)
        stage = Stage(server, clients, self._workshop.questions, self._workshop.models, folder)
        before, pid, broken = server.resources(), server.pid, ""
        began_s = time.monotonic()
        try:
            fault.inject(stage)
        except Unfit:
            raise
        except Exception as err:  # noqa: BLE001 - it is broken, and the others are still to be shown
            broken = str(err) if isinstance(err, Broken) else repr(err)
        time.sleep(max(0.0, began_s + LEAST_S - time.monotonic()))
        ended_s = time.monotonic()
        is_recovered = self._recover(clients, ended_s)
        over_s = time.monotonic()
        exchanges = tuple(clients.overlapping(began_s))
        after = _settled(server, before.descriptors)
        shutil.rmtree(folder, ignore_errors=True)
        return Result(
            fault, broken=broken, exchanges=exchanges, faulty=stage.faulty,
            gap_s=longest_gap_s(exchanges, began_s, over_s), recovery_s=over_s - ended_s if is_recovered else None,
            before=before, after=after, is_same_process=server.pid == pid and not fault.may_lose,
        )  # fmt: skip

    def _recover(self, clients: CheckedClients, since_s: float) -> bool:
        """Waits until every client is answered; False if that does not come."""
        while not clients.has_recovered(since_s):
            if time.monotonic() > since_s + RECOVERY_S:
                return False
            time.sleep(0.05)
        return True


def _settled(server: FaultServer, descriptors: int) -> Resources:
    """What the server holds, once its descriptors are as few as before or some seconds have passed."""
    end_s = time.monotonic() + SETTLE_S
    while (found := server.resources()).descriptors > descriptors and time.monotonic() < end_s:
        time.sleep(0.2)
    return found


def workshop(stack: ExitStack) -> Workshop:
    """A workshop in a temporary folder that others may read, removed with the stack."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="darkroom-faults-")))
    folder.chmod(0o755)
    return Workshop(folder)
