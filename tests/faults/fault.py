"""What a fault is: a function that breaks something, with a sentence, a promise and what it needs to run.

    @fault(short=True, may_refuse={503})
    def sigterm(stage: Stage) -> None:
        \"\"\"SIGTERM while clients send requests; then it is started again, as an orchestrator does.\"\"\"

The name of the module is the group, the name of the function is the fault, and the docstring says what it does. The
function returns when the fault is over. It raises Broken if the server does not do what is promised about the faulty
requests themselves; what is promised to all other clients is checked outside.
"""

from __future__ import annotations

import inspect
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tests.faults.stage import Stage

OVERLOAD = frozenset({429, 503})  # what a server that is short of something may answer


class Broken(Exception):
    """The server broke a promise; the message says which."""


class Unfit(Exception):
    """This machine cannot show the fault; the message says why."""


@dataclass(frozen=True, slots=True)
class Setup:
    """How the server of a fault is started; faults with equal setups that follow each other share a server.

    Attributes:
        models: names of models out of `tests.faults.models`; the checked clients ask `default`.
        flags: of `darkroom serve`.
        environment: variables.
        prefix: a command that runs the server, such as `prlimit --nofile=128`.
        output: where it logs: a path, or `closed`.
        cleanup: a shell command that is run when the server has ended.
        limits: control groups (v1) that the server is put into: controller, file and value.
        host: the address that it listens on.

    `{folder}` in a flag or in the prefix stands for the server's own folder.
    """

    models: tuple[str, ...] = ("default",)
    flags: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    prefix: tuple[str, ...] = ()
    output: str = "log"
    cleanup: str = ""
    limits: tuple[tuple[str, str, str], ...] = ()
    host: str = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Fault:
    """One row of the table.

    Attributes:
        group, name, does: where it belongs, its name, and the sentence that says what it does.
        inject: breaks something and returns when it is over.
        setup: of the server.
        may_refuse: statuses with which good requests may be refused meanwhile; none is the usual promise.
        may_lose: requests that are in flight may be lost, because a process that holds them ends.
        may_disconnect: connections may be refused or closed between two requests, because nothing listens meanwhile.
        needs: says why this machine cannot show it; empty if it can.
        is_short: belongs to the short list.
    """

    group: str
    name: str
    does: str
    inject: Callable[[Stage], None]
    setup: Setup
    may_refuse: frozenset[int] = frozenset()
    may_lose: bool = False
    may_disconnect: bool = False
    needs: tuple[Callable[[], str], ...] = ()
    is_short: bool = False

    @property
    def promise(self) -> str:
        """What good requests may meet while the fault lasts, in words."""
        parts = [f"refused with {', '.join(map(str, sorted(self.may_refuse)))}"] if self.may_refuse else []
        parts += ["refused connections"] if self.may_disconnect else []
        parts += ["in flight lost"] if self.may_lose else []
        return " or ".join(parts) or "all answered"

    def why_not(self) -> str:
        """Why this machine cannot show it; empty if it can."""
        return next((reason for need in self.needs if (reason := need())), "")


@dataclass(slots=True)
class Group:
    """The faults of one module, in the order in which they are written, and the server that most of them share."""

    name: str
    setup: Setup
    faults: list[Fault] = field(default_factory=list)

    def fault(
        self,
        *,
        setup: Setup | None = None,
        may_refuse: Iterable[int] = (),
        may_lose: bool = False,
        may_disconnect: bool = False,
        needs: Iterable[Callable[[], str]] = (),
        short: bool = False,
    ) -> Callable[[Callable[[Stage], None]], Callable[[Stage], None]]:
        """Adds the decorated function to the group; see Fault."""

        def add(inject: Callable[[Stage], None]) -> Callable[[Stage], None]:
            does = (inspect.getdoc(inject) or "").replace("\n", " ")
            made = Fault(
                self.name, inject.__name__, does, inject, setup or self.setup, frozenset(may_refuse),
                may_lose, may_disconnect, tuple(needs), short,
            )  # fmt: skip
            self.faults.append(made)
            return inject

        return add


def root() -> str:
    """A need: this program runs as root."""
    return "" if os.geteuid() == 0 else "needs root"


@cache
def namespaces() -> str:
    """A need: root may make a network namespace and a pair of interfaces."""
    return root() or _try("ip netns add darkroom-probe && ip netns del darkroom-probe", "network namespaces")


@cache
def mounts() -> str:
    """A need: root may mount a file system."""
    return root() or _try("unshare -m mount -t tmpfs none /mnt", "mounts")


def memory_groups() -> str:
    """A need: root may make control groups (v1) that bound memory."""
    return root() or ("" if os.access("/sys/fs/cgroup/memory", os.W_OK) else "needs a writable memory cgroup (v1)")


def task_groups() -> str:
    """A need: root may make control groups (v1) that bound threads."""
    return root() or ("" if os.access("/sys/fs/cgroup/pids", os.W_OK) else "needs a writable pids cgroup (v1)")


def compiler() -> str:
    """A need: a C compiler."""
    return "" if shutil.which("cc") else "needs a C compiler"


def _try(command: str, what: str) -> str:
    """A need by experiment."""
    done = subprocess.run(["sh", "-c", command], capture_output=True, check=False)
    return "" if done.returncode == 0 else f"needs {what}, which this machine does not permit"
