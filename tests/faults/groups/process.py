"""The process itself: signals, limits, its output, its port, its folders and its environment."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from tests.faults.fault import OVERLOAD, Broken, Group, Setup, mounts, task_groups
from tests.faults.server import FaultServer

if TYPE_CHECKING:
    from tests.faults.stage import Stage

GROUP = Group("process", Setup())
READ_ONLY = """
mkdir -p {folder}/root && mount --rbind / {folder}/root && mount -o remount,ro,bind {folder}/root &&
mount -t tmpfs -o size=16m none {folder}/root/var/tmp && here=$PWD && cd / && export TMPDIR=/var/tmp &&
exec chroot {folder}/root sh -c 'cd "$1"; shift; exec "$@"' sh "$here" "$@"
"""
WORKERS = Setup(flags=("--workers=2", "--worker_timeout_ms=3000"))


@GROUP.fault(short=True, setup=Setup(flags=("--drain_delay_ms=1000",)), may_disconnect=True, may_refuse={503})
def sigterm(stage: Stage) -> None:
    """SIGTERM while clients send requests; started again as an orchestrator does. Nobody in flight is lost."""
    stage.server.send(signal.SIGTERM)
    if (status := stage.server.wait_ended()) != 0:
        raise Broken(f"it ended with {status}")
    stage.server.start()


@GROUP.fault(short=True, may_lose=True, may_refuse={503})
def sigkill(stage: Stage) -> None:
    """SIGKILL: what is in flight is lost, and nothing else; started again as an orchestrator does."""
    stage.server.send(signal.SIGKILL)
    stage.server.wait_ended()
    stage.server.start()


@GROUP.fault(short=True)
def sigstop(stage: Stage) -> None:
    """SIGSTOP for 3 s, then SIGCONT, twice: everybody waits and is answered."""
    for _ in range(2):
        stage.server.send(signal.SIGSTOP)
        time.sleep(3.0)
        stage.server.send(signal.SIGCONT)
        stage.wait_for_clients()


@GROUP.fault()
def other_signals(stage: Stage) -> None:
    """SIGHUP, SIGPIPE, SIGWINCH, SIGALRM would end a careless process, 100 of each that it takes."""
    for _ in range(100):
        for number in (signal.SIGHUP, signal.SIGPIPE, signal.SIGWINCH):
            stage.server.send(number)
    stage.wait_for_clients()


@GROUP.fault(setup=WORKERS, may_lose=True, may_refuse={503})
def a_worker_is_killed(stage: Stage) -> None:
    """SIGKILL to one of two workers: its requests are lost, the other one serves, and it is replaced."""
    stage.hurt_worker(signal.SIGKILL)


@GROUP.fault(setup=WORKERS, may_lose=True, may_refuse={503})
def a_worker_is_stopped(stage: Stage) -> None:
    """SIGSTOP to one of two workers: after --worker_timeout_ms it is killed and replaced."""
    stage.hurt_worker(signal.SIGSTOP)


@GROUP.fault(setup=WORKERS, may_lose=True, may_disconnect=True, may_refuse={503})
def the_supervisor_is_killed(stage: Stage) -> None:
    """SIGKILL to the supervisor: its workers end too, so that the port is free when it is started again."""
    workers = stage.server.children()
    stage.server.send(signal.SIGKILL)
    stage.server.wait_ended()
    stage.until(lambda: not any(_exists(pid) for pid in workers), "the workers have ended")
    stage.server.start()


def _exists(pid: int) -> bool:
    """Whether a process runs; one that waits to be collected does not."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    return False


@GROUP.fault(short=True, setup=Setup(prefix=("prlimit", "--nofile=128:128")), may_refuse={503})
def few_descriptors(stage: Stage) -> None:
    """At most 128 open files, and 500 connections without a request, then 300 with one: each request is answered or gets 503."""
    with ExitStack() as stack:
        for _ in range(500):
            with suppress(OSError):
                stack.enter_context(stage.connection())
        stage.wait_for_clients()
    request = stage.bytes_of(stage.questions[0].body)
    stage.together([partial(stage.send, request, allowed=[200, 503])] * 300, at_once=150)
    stage.wait_for_clients()


@GROUP.fault(setup=Setup(limits=(("pids", "pids.max", "40"),)), needs=(task_groups,))
def few_threads(stage: Stage) -> None:
    """At most 40 threads, children included: it starts, serves, and loads another version or says why it cannot."""
    shutil.copytree(stage.models["default"], stage.server.base() / "2")

    def is_told() -> bool:
        state, message = stage.states().get("2", ("", ""))
        return state == "AVAILABLE" or (state == "END" and bool(message))

    stage.until(is_told, "version 2 is served, or it is said why not")
    shutil.rmtree(stage.server.base() / "2")


@GROUP.fault(short=True)
def the_port_is_taken(stage: Stage) -> None:
    """A second server on the same port: it ends with 1 and says so; the first one serves on."""
    second = subprocess.run(stage.server.command, capture_output=True, text=True, check=False, timeout=120)
    if second.returncode != 1 or f"{stage.server.port}" not in second.stderr:
        raise Broken(f"it ended with {second.returncode}: {second.stderr[-300:]}")


@GROUP.fault()
def two_servers_on_one_folder(stage: Stage) -> None:
    """Two more servers start at the same time on the same models and an empty cache, while versions come: all serve."""
    cache = stage.folder / "cache"
    with ExitStack() as stack:
        servers = []
        for number in range(2):
            folder = stage.folder / str(number)
            folder.mkdir()
            (folder / "models").symlink_to(stage.server.folder / "models")
            servers.append(FaultServer(Setup(), folder, {}, cache))
            stack.callback(servers[-1].end)
        for server in servers:
            server.start(lambda: None)
        for server in servers:
            server.wait_ready()
            answer = httpx.get(f"{server.url}/v1/models/default", timeout=60)
            stage.count(answer.status_code, allowed=[200])


@GROUP.fault(setup=Setup(flags=("--access_log",), output="/dev/full"))
def the_log_is_full(stage: Stage) -> None:
    """Its log is on a disk without room from the start, with a line for each request."""
    stage.wait_for_clients()


@GROUP.fault(short=True, setup=Setup(flags=("--access_log",), output="closed"))
def the_log_is_closed(stage: Stage) -> None:
    """It is started without standard output and standard error, with a line for each request."""
    stage.wait_for_clients()


@GROUP.fault(
    setup=Setup(
        flags=("--cache_dir=/nowhere/cache",),
        prefix=(
            "unshare", "-m", "sh", "-c",
            READ_ONLY, "sh",
        ),
    ),
    needs=(mounts,),
)  # fmt: skip
def a_read_only_root(stage: Stage) -> None:
    """Nothing but 16 MB of temporary files can be written, so there is no cache: it serves, and a version that comes is loaded."""
    shutil.copytree(stage.models["default"], stage.server.base() / "2")
    stage.until(lambda: stage.states().get("2", ("", ""))[0] == "AVAILABLE", "version 2 is served")
    shutil.rmtree(stage.server.base() / "2")


@GROUP.fault(
    setup=Setup(
        environment=(
            ("DARKROOM_PORT", "tcp://10.0.0.1:8500"), ("DARKROOM_SERVICE_HOST", "10.0.0.1"),
            ("DARKROOM_SERVICE_PORT", "8500"), ("DARKROOM_PORT_8500_TCP", "tcp://10.0.0.1:8500"),
            ("DARKROOM_PORT_8500_TCP_PROTO", "tcp"), ("HOME", "/nonexistent"), ("TMPDIR", "/nonexistent"), ("LANG", "C"),
        )
    )
)  # fmt: skip
def the_environment_of_kubernetes(stage: Stage) -> None:
    """Variables that Kubernetes sets for a Service of the same name, and no home or temporary folder."""
    stage.wait_for_clients()


@GROUP.fault(may_refuse=OVERLOAD)
def a_busy_machine(stage: Stage) -> None:
    """Eight processes take all cores for 5 s."""
    hogs = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(8)]
    try:
        time.sleep(5.0)
        stage.wait_for_clients()
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
