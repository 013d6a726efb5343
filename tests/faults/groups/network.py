"""The network between the clients and the server: slow, lossy, cut, and clients that vanish without a word.

The server runs in a network namespace of its own, which only a pair of interfaces joins to this machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from tests.faults.fault import Broken, Group, Setup, namespaces

if TYPE_CHECKING:
    from tests.faults.stage import Stage

SPACE, THERE = f"darkroom-{os.getpid()}", f"darkroom-{os.getpid()}-b"
LINK, FAR = f"dk{os.getpid()}", f"dk{os.getpid()}b"
HOST = "10.213.0.2"
MAKE = (
    f"ip netns add {SPACE} && ip link add {LINK} type veth peer name {LINK}s netns {SPACE} && "
    f"ip addr add 10.213.0.1/30 dev {LINK} && ip link set {LINK} up && "
    f"ip -n {SPACE} addr add {HOST}/30 dev {LINK}s && ip -n {SPACE} link set {LINK}s up && "
    f"ip -n {SPACE} link set lo up"
)
JOIN = f'ip netns list | grep -qx "{SPACE}.*" || {{ {MAKE}; }} && exec ip netns exec {SPACE} "$@"'
GROUP = Group(
    "network",
    Setup(
        host=HOST,
        flags=("--read_timeout_ms=3000",),
        prefix=("sh", "-c", JOIN, "sh"),
        cleanup=f"ip netns del {THERE}; ip netns del {SPACE}; ip link del {LINK}",
    ),
)
VANISHING = """
import socket, sys, time
opened = [socket.create_connection(("10.213.0.2", int(sys.argv[1]))) for _ in range(200)]
for number, each in enumerate(opened):
    each.sendall([b"", b"POST / HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: 500\\r\\n\\r\\n" + bytes(100)][number % 2])
print("opened", flush=True)
time.sleep(600)
"""


@GROUP.fault(needs=(namespaces,), may_refuse={408})
def slow_and_lossy(stage: Stage) -> None:
    """For 5 s, 256 kbit/s each way, and what does not fit into 3 KB is dropped: answered later, or 408 after the 3 s to send."""
    shape = ("root", "tbf", "rate", "256kbit", "burst", "2kb", "limit", "3kb")
    stage.command("tc", "qdisc", "add", "dev", LINK, *shape)
    stage.command("tc", "-n", SPACE, "qdisc", "add", "dev", f"{LINK}s", *shape)
    time.sleep(5.0)
    stage.command("tc", "qdisc", "del", "dev", LINK, "root")
    stage.command("tc", "-n", SPACE, "qdisc", "del", "dev", f"{LINK}s", "root")


@GROUP.fault(needs=(namespaces,), may_refuse={408})
def partition(stage: Stage) -> None:
    """The link is cut for 1 s and for 5 s, in the middle of requests and answers: everybody is answered once it is back."""
    for seconds in (1.0, 5.0):
        stage.command("ip", "-n", SPACE, "link", "set", f"{LINK}s", "down")
        time.sleep(seconds)
        stage.command("ip", "-n", SPACE, "link", "set", f"{LINK}s", "up")
        stage.wait_for_clients()


@GROUP.fault(needs=(namespaces,))
def vanish_without_a_word(stage: Stage) -> None:
    """200 clients, half of them in the middle of a request, are gone, and no packet says so: their connections are closed."""
    stage.command("ip", "netns", "add", THERE)
    stage.command("ip", "-n", SPACE, "link", "add", FAR, "type", "veth", "peer", "name", f"{FAR}c", "netns", THERE)
    for space, device, address in ((SPACE, FAR, "10.214.0.1/30"), (THERE, f"{FAR}c", "10.214.0.2/30")):
        stage.command("ip", "-n", space, "addr", "add", address, "dev", device)
        stage.command("ip", "-n", space, "link", "set", device, "up")
    stage.command("ip", "-n", THERE, "route", "add", HOST, "via", "10.214.0.1")
    words = ["ip", "netns", "exec", THERE, sys.executable, "-c", VANISHING, str(stage.server.port)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as clients:
        assert clients.stdout is not None
        is_opened = clients.stdout.readline()
        opened = stage.server.resources().descriptors
        stage.command("ip", "-n", SPACE, "link", "del", FAR)
        clients.kill()
    stage.command("ip", "netns", "del", THERE)
    if not is_opened:
        raise Broken("the clients could not connect")
    stage.until(lambda: stage.server.resources().descriptors < opened - 150, "their connections are closed", 300.0)
