"""The server under test: the real `darkroom serve` in a process of its own, started again on the same port when it ended."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.request import urlopen

from loadtest.measure import processes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.faults.fault import Setup

START_S = 180.0  # generous: a busy machine
READY = "/v2/health/ready"


class Resources(NamedTuple):
    """What a server and its children hold."""

    memory_mb: float
    descriptors: int
    threads: int


class FaultServer:
    """A server of one setup, with folders of models and a cache of its own kind.

    Args:
        setup: how it is started.
        folder: holds its models, its log and its configuration.
        models: version folders by name, which are copied: a fault may change them.
        cache: the folder of prepared models that all servers of a run share.
    """

    def __init__(self, setup: Setup, folder: Path, models: Mapping[str, Path], cache: Path) -> None:
        self.setup = setup
        self.folder = folder
        self.port = processes.free_port()
        self.url = f"http://{setup.host}:{self.port}"
        self.log = folder / "log"
        self.cache = cache
        for name in setup.models:
            if not self.base(name).exists():
                shutil.copytree(models[name], self.base(name) / "1")
        listed = [{"name": name, "base_path": str(self.base(name)), "platform": "tensorflow"} for name in setup.models]
        self._config = folder / "models.json"
        self._config.write_text(json.dumps({"model_config_list": listed}), encoding="utf-8")
        self.process: subprocess.Popen[bytes] | None = None

    def base(self, name: str = "default") -> Path:
        """The folder of a model's versions."""
        return self.folder / "models" / name

    @property
    def command(self) -> list[str]:
        """The command line; flags of the setup come last and win."""
        flags = [f"--host={self.setup.host}", f"--port={self.port}", f"--model_config_file={self._config}"]
        flags += [
            f"--cache_dir={self.cache}",
            "--reload_interval_ms=200",
            "--log_format=text",
            "--workers=1",
            *self.setup.flags,
        ]
        words = [*self.setup.prefix, sys.executable, "-m", "darkroom", "serve", *flags]
        return [*self._join_groups(), *(word.replace("{folder}", str(self.folder)) for word in words)]

    def _groups(self) -> list[Path]:
        """The control groups of this server."""
        return [Path("/sys/fs/cgroup") / controller / f"darkroom-{self.port}" for controller, _, _ in self.setup.limits]

    def _join_groups(self) -> list[str]:
        """Makes the control groups and returns the beginning of a command that joins them."""
        words = []
        for group, (_, file, value) in zip(self._groups(), self.setup.limits, strict=True):
            group.mkdir(exist_ok=True)
            (group / file).write_text(value, encoding="ascii")
            words += ["sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh"]
        return words

    @property
    def pid(self) -> int:
        """Of the process that is the server, or its supervisor."""
        assert self.process is not None
        return self.process.pid

    def start(self, wait_ready: Callable[[], None] | None = None) -> None:
        """Starts it and waits until it is ready; raises ChildProcessError with the end of its log if it is not.

        Args:
            wait_ready: waits in another way, for servers that this process cannot reach by HTTP.
        """
        closed = self.setup.output == "closed"
        out = Path(os.devnull if closed else self.log if self.setup.output == "log" else self.setup.output)
        prefix = ["sh", "-c", 'exec "$@" >&- 2>&-', "sh"] if closed else []
        with out.open("ab") as stream:
            self.process = subprocess.Popen(
                [*prefix, *self.command], stdout=stream, stderr=stream, stdin=subprocess.DEVNULL,
                env=os.environ | dict(self.setup.environment), start_new_session=True,
            )  # fmt: skip
        (wait_ready or self.wait_ready)()

    def wait_ready(self) -> None:
        """Waits until it takes requests."""
        end_s = time.monotonic() + START_S
        while not self.is_ready():
            if not self.is_running() or time.monotonic() > end_s:
                raise ChildProcessError(f"the server did not start: {self.last_words()}")
            time.sleep(0.1)

    def is_running(self) -> bool:
        """Whether its process runs."""
        return self.process is not None and self.process.poll() is None

    def is_ready(self) -> bool:
        """Whether it says that it takes requests."""
        with suppress(OSError), urlopen(self.url + READY, timeout=5) as answer:  # noqa: S310 - our own address
            return bool(answer.status == 200)
        return False

    def describe(self, path: str) -> Any:
        """The JSON that it answers on a path."""
        with urlopen(self.url + path, timeout=60) as answer:  # noqa: S310 - our own address
            return json.load(answer)

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to the process that was started."""
        os.kill(self.pid, number)

    def wait_ended(self, timeout_s: float = 120.0) -> int:
        """Waits until it has ended, and returns its exit status; raises TimeoutError."""
        assert self.process is not None
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"the server has not ended after {timeout_s:.0f} s") from None

    def end(self) -> None:
        """Ends it by SIGTERM, and whatever is left of it by SIGKILL."""
        if self.process is None:
            return
        if self.is_running():
            self.send(signal.SIGCONT)
            self.send(signal.SIGTERM)
            with suppress(TimeoutError):
                self.wait_ended(30.0)
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()
        subprocess.run(["sh", "-c", self.setup.cleanup], check=False, stderr=subprocess.DEVNULL)
        for group in self._groups():
            with suppress(OSError):
                group.rmdir()

    def children(self) -> list[int]:
        """The processes below it, such as its workers."""
        return processes.tree(self.pid)[1:]

    def resources(self) -> Resources:
        """What it and its children hold now."""
        family = processes.tree(self.pid)
        return Resources(
            processes.memory(self.pid).resident / 1e6,
            sum(_count(pid, "fd") for pid in family),
            sum(_count(pid, "task") for pid in family),
        )

    def resources_alone(self) -> Resources:
        """What its own process holds, without the children that prepare versions."""
        text = Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii")
        resident_mb = int(text.split()[1]) * resource.getpagesize() / 1e6
        return Resources(resident_mb, _count(self.pid, "fd"), _count(self.pid, "task"))

    def last_words(self) -> str:
        """The end of its log."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-2000:] if self.log.exists() else ""


def _count(pid: int, what: str) -> int:
    """How many descriptors or threads a process has; 0 if it has ended."""
    with suppress(OSError):
        return sum(1 for _ in Path(f"/proc/{pid}/{what}").iterdir())
    return 0
