"""Counts what happens to intact pictures when some of the others are truncated: what was sent, and what came back.

    python -m loadtest.poison model/digits                              # 100,000 requests in JSON and 100,000 raw
    python -m loadtest.poison model/digits --forms raw --requests 20000 --flags --workers=1

Starts `darkroom serve` with every default, waits until all its processes are idle, and sends the requests from
closed-loop clients. Every hundredth picture is truncated, and no two of those have the same bytes, so that the server
remembers none. An intact picture must get the class that it gets alone; a truncated one a 4xx that names its index. The
exit status is 1 if one request ended in another way. 100,000 requests of JSON take some 20 seconds on two cores.
"""

from __future__ import annotations

import argparse
import struct
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from loadtest.measure import machine, processes
from loadtest.measure.tables import number, table
from loadtest.traffic.answers import error_text, expect
from loadtest.traffic.closed_loop import answer_each
from loadtest.traffic.connections import ConnectionPool, HttpResponse, request_bytes
from loadtest.traffic.pictures import KINDS, Picture, RequestBody, json_body, load, raw_body, truncated

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from loadtest.traffic.answers import Expectations

FORMS: dict[str, Callable[[Picture], RequestBody]] = {
    "JSON": lambda picture: json_body((picture,)),
    "raw": raw_body,
}
FIELDS = ("intact", "right", "wrong", "failed", "lost", "truncated", "4xx, named", "4xx, not named", "other")


@dataclass
class Tally:
    """What was sent and how it ended, by FIELDS.

    Attributes:
        expected: the class of each intact picture.
        counts: how many requests ended so.
        kinds: status and message of each answer that should not be, and how often it came.
        seconds: from the first request to the last answer.
    """

    expected: Expectations
    counts: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def is_clean(self) -> bool:
        """Whether every intact picture got its answer and every truncated one was refused by name."""
        found = self.counts
        return found["right"] == found["intact"] and found["4xx, named"] == found["truncated"]

    def intact(self, body: RequestBody, reply: HttpResponse) -> None:
        """Counts the answer to an intact picture."""
        self.counts["intact"] += 1
        if reply.status == 200:
            self.counts["right" if self.expected.agrees(body, reply.body) else "wrong"] += 1
        else:
            self.counts["failed" if reply.status else "lost"] += 1
            self.kinds[f"{reply.status} {error_text(reply.body)}"] += 1

    def truncated(self, reply: HttpResponse) -> None:
        """Counts the answer to a truncated picture."""
        self.counts["truncated"] += 1
        is_named = "images[0]" in error_text(reply.body)
        kind = ("4xx, named" if is_named else "4xx, not named") if 400 <= reply.status < 500 else "other"
        self.counts[kind] += 1
        if kind != "4xx, named":
            self.kinds[f"truncated: {reply.status} {error_text(reply.body)}"] += 1


def cut_short(picture: Picture, serial: int) -> Picture:
    """Returns the first half of a JPEG with a comment that holds `serial`, so that its bytes are like no other's."""
    data = truncated(picture).data
    comment = struct.pack(">HHI", 0xFFFE, 6, serial)
    return Picture(f"truncated {picture.name}", data[:2] + comment + data[2:])


async def send(port: int, form: str, options: argparse.Namespace, expected: Expectations) -> Tally:
    """Sends the requests of one form, every `--every`-th truncated; returns how they ended."""
    pictures, host, tally = load(options.pictures), f"127.0.0.1:{port}", Tally(expected)
    bodies = [FORMS[form](picture) for picture in pictures]
    every: int = options.every
    whole = [request_bytes(host, body, path=body.path) for body in bodies]

    def is_truncated(place: int) -> bool:
        return place % every == every - 1

    def request(place: int) -> bytes:
        if not is_truncated(place):
            return whole[place % len(whole)]
        body = FORMS[form](cut_short(pictures[place // every % len(pictures)], place))
        return request_bytes(host, body, path=body.path)

    def done(place: int, reply: HttpResponse) -> None:
        if is_truncated(place):
            tally.truncated(reply)
        else:
            tally.intact(bodies[place % len(bodies)], reply)

    pool = ConnectionPool("127.0.0.1", port, limit=options.connections)
    tally.seconds = await answer_each(pool, request, clients=options.connections, requests=options.requests, done=done)
    return tally


def measure(options: argparse.Namespace) -> dict[str, Tally]:
    """Starts the server and sends each form; returns how the requests of each ended."""
    port = processes.free_port()
    command = [sys.executable, "-m", "darkroom", "serve", f"--port={port}", f"--model_base_path={options.model}"]
    found: dict[str, Tally] = {}
    with tempfile.TemporaryDirectory(prefix="poison-") as made:
        log = Path(made) / "log"
        flags = [*command, "--host=127.0.0.1", *options.flags.split()]
        with processes.running(flags, port=port, ready_path="/v2/health/ready", log=log) as pid:
            processes.wait_idle([pid])
            expected = expect(f"http://127.0.0.1:{port}", load(options.pictures))
            for form in options.forms:
                found[form] = uvloop.run(send(port, form, options, expected))
            print(f"processes of the server: {len(processes.tree(pid))}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Sends, counts and prints; returns 1 if an intact picture was not answered or a truncated one was."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.poison", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("model", type=Path, help="the folder of the model to serve")
    add("--pictures", choices=tuple(KINDS), default="digits", help="[%(default)s]")
    add("--forms", type=lambda text: text.split(","), default=list(FORMS), help="of requests [JSON,raw]")
    add("--requests", type=int, default=100_000, help="of each form [%(default)s]")
    add("--connections", type=int, default=64, help="closed-loop clients [%(default)s]")
    add("--every", type=int, default=100, help="one request of so many has a truncated picture [%(default)s]")
    add("--flags", default="", help="more flags for the server")
    found = measure(parser.parse_args(arguments))
    print(machine.lines(machine.describe()))
    rows = [
        (form, *(number(tally.counts[name], digits=0) for name in FIELDS), number(tally.seconds, digits=0))
        for form, tally in found.items()
    ]
    print(table(("", *FIELDS, "seconds"), rows))
    for form, tally in found.items():
        for kind, times in tally.kinds.most_common(10):
            print(f"{form}: {times} x {kind}")
    return int(not all(tally.is_clean for tally in found.values()))


if __name__ == "__main__":
    sys.exit(main())
