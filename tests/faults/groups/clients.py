"""Clients that leave, dawdle, crowd, or do not speak HTTP as one should: nobody else notices."""

from __future__ import annotations

import random
import socket
import struct
import time
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING

from loadtest.traffic.pictures import json_body, load
from tests.faults.fault import OVERLOAD, Broken, Group, Setup

if TYPE_CHECKING:
    from tests.faults.stage import Stage
    from tests.sockets import Client

GROUP = Group("clients", Setup(flags=("--read_timeout_ms=3000", "--max_sending_bytes=4194304")))
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST
HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n"
DIGIT = load("digits")[7].data


def whole(length: object = len(DIGIT)) -> bytes:
    """A good request for one picture, or one that says another length."""
    return HEAD + f"Content-Length: {length}\r\n\r\n".encode() + DIGIT


def reset(opened: Client) -> None:
    """Closes a connection by RST."""
    opened.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


@GROUP.fault(short=True)
def leave_at_every_stage(stage: Stage) -> None:
    """Clients disconnect, by FIN and by RST, after each part of a request, while it is computed, and within the answer."""
    data = whole()
    cuts = [0, 1, 10, len(HEAD), len(data) - len(DIGIT), len(data) - 5, len(data)]

    def leave(cut: int, *, by_reset: bool, reads: int) -> None:
        with stage.connection() as opened, suppress(OSError):
            opened.send(data[:cut])
            opened.socket.recv(reads) if reads else None
            if by_reset:
                reset(opened)
        stage.count("left")

    for _ in range(10):
        leaving = [partial(leave, cut, by_reset=by_reset, reads=0) for cut in cuts for by_reset in (False, True)]
        stage.together([*leaving, partial(leave, len(data), by_reset=True, reads=20)])


@GROUP.fault()
def half_open(stage: Stage) -> None:
    """Clients send a request and close their half of the connection, as `nc -N` does; each is answered."""
    stage.together(partial(stage.send, whole(), allowed=[200], hang_up=True) for _ in range(50))


@GROUP.fault(short=True)
def slow_send(stage: Stage) -> None:
    """50 clients send a byte at a time, in the head or in the body: those who are done in 3 s are answered, others get 408."""

    def trickle(start: int, pause_s: float) -> None:
        data = whole()
        with stage.connection() as opened, suppress(ConnectionError):
            opened.send(data[:start])
            for place in range(start, len(data)):
                opened.send(data[place : place + 1])
                time.sleep(pause_s)
            stage.count(opened.answer().status, allowed=[200, 408])
            return
        stage.count("closed")

    quick = [partial(trickle, len(whole()) - 100, 0.01)] * 20
    slow = [partial(trickle, start, 0.05) for start in (5, len(HEAD) + 40) * 15]
    stage.together(quick + slow, at_once=50)


@GROUP.fault(short=True)
def unread_answers(stage: Stage) -> None:
    """20 clients send requests for 200 pictures as long as they can, and read no answer: they are closed, memory is bounded."""
    data = stage.bytes_of(json_body(load("digits") * 20))

    def flood() -> None:
        with stage.connection(receive_bytes=4096) as opened, suppress(OSError):
            opened.socket.settimeout(2)
            for number in range(500):
                stage.faulty["sent"] = max(stage.faulty["sent"], number)
                opened.send(data)

    stage.together([flood] * 20, at_once=20)


@GROUP.fault(short=True)
def pipelining(stage: Stage) -> None:
    """30 requests of different forms in one write: all are answered, in order, each with its own answer."""

    def pipeline(first: int) -> None:
        asked = [stage.questions[(first + place) % len(stage.questions)] for place in range(30)]
        with stage.connection() as opened:
            opened.send(b"".join(stage.bytes_of(question.body) for question in asked))
            for question in asked:
                answer = opened.answer()
                stage.count(answer.status, allowed=[200])
                stage.compare(question, answer.body)

    stage.together(partial(pipeline, first) for first in range(8))


@GROUP.fault(short=True)
def two_thousand_connections(stage: Stage) -> None:
    """2,000 connections are open, most idle and some with half a request; each is closed or answered in the end."""
    with ExitStack() as stack:
        opened = [stack.enter_context(stage.connection()) for _ in range(2_000)]
        for number, each in enumerate(opened):
            if number % 4 == 0:
                each.send(whole()[:300])
        stage.wait_for_clients()
        for each in opened[1:200:2]:  # never used, so they may have been closed as idle
            with suppress(OSError, EOFError):
                each.send(HEALTH)
                stage.count(each.answer().status, allowed=[200, 408])


@GROUP.fault()
def connections_beyond_the_limit(stage: Stage) -> None:
    """9,000 connections to a server that takes 8,192: those that wait for a request make room, or get 503."""
    with ExitStack() as stack:
        for _ in range(9_000):
            try:
                stack.enter_context(stage.connection())
                stage.count("opened")
            except OSError:
                stage.count("not opened")
        stage.wait_for_clients()


@GROUP.fault()
def churn(stage: Stage) -> None:
    """1,000 connections with one request each, 16 at a time; each is answered."""
    stage.together(partial(stage.send, whole(), allowed=[200]) for _ in range(1_000))


@GROUP.fault(short=True)
def wrong_lengths(stage: Stage) -> None:
    """Lengths that are too small, too large, negative, not numbers, or two at once."""
    for length in (-1, "x", "1e3", "0x10", "\u0661", 10**30, 10**12, "5, 6", ""):
        stage.send(whole(length), allowed=[400, 413, 408, "closed"])
    stage.send(whole("5\r\nContent-Length: 6"), allowed=[400])
    stage.send(whole(len(DIGIT) - 100), allowed=[400])  # half a picture; the rest is read as a request, and refused
    stage.send(whole(len(DIGIT) + 100), allowed=[408, 400, "closed"], hang_up=True)


@GROUP.fault()
def chunk_oddities(stage: Stage) -> None:
    """Chunked bodies: in single bytes, with extensions and trailers (answered); with sizes that are none (refused)."""
    start = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    size = b"%x" % len(DIGIT)
    single = b"".join(b"1\r\n%c\r\n" % byte for byte in DIGIT) + b"0\r\n\r\n"
    good = [single, size + b";a=b\r\n" + DIGIT + b"\r\n0\r\n\r\n", size + b"\r\n" + DIGIT + b"\r\n0\r\nX: y\r\n\r\n"]
    for body in good:
        stage.send(start + body, allowed=[200])
    bad = [b"0x5", b"-5", b"+5", b"5 5", b"", b"g", b"f" * 40, b"5;" + b"a" * 20_000, b"\x0b5", b"ffffffffffffffff"]
    for number in bad:
        stage.send(start + number + b"\r\nhello\r\n0\r\n\r\n", allowed=[400, 413, 431, "closed"])
    stage.send(start + b"5\r\nhelloXX\r\n0\r\n\r\n", allowed=[400, "closed"])


@GROUP.fault(short=True)
def smuggling(stage: Stage) -> None:
    """Requests that two servers would cut in different places, a second one hidden in each: refused, the second unread."""
    lines = [
        b"Content-Length: 4\r\nTransfer-Encoding: chunked", b"Content-Length : 40", b"Transfer-Encoding : chunked",
        b"Transfer-Encoding: \x0bchunked", b"Transfer-Encoding: chunked, identity", b"Transfer-Encoding: xchunked",
        b"Content-Length: 5\r\n Content-Length: 6", b"X: a\rContent-Length: 5", b"X: a\nContent-Length: 5\r\nContent-Length: 7",
        b"Transfer-Encoding: gzip, chunked\r\nContent-Length: 5", b"X\x00: y\r\nContent-Length: 5", b"Content-Length: +5",
    ]  # fmt: skip
    for line in lines:
        data = b"POST / HTTP/1.1\r\nHost: x\r\n" + line + b"\r\n\r\n0\r\n\r\n" + HEALTH
        with stage.connection() as opened, suppress(EOFError, ConnectionError):
            opened.send(data)
            stage.count(opened.answer().status, allowed=[400, 501], what=repr(line))
            if not opened.is_closed():
                raise Broken(f"the connection stays open, or the hidden request is answered: {line!r}")


@GROUP.fault()
def http_1_0(stage: Stage) -> None:
    """HTTP/1.0, with and without keep-alive, and without a Host: answered as it was asked."""
    old = whole().replace(b"HTTP/1.1\r\nHost: x", b"HTTP/1.0")
    stage.send(old, allowed=[200])
    with stage.connection() as opened:
        for _ in range(3):
            opened.send(old.replace(b"HTTP/1.0", b"HTTP/1.0\r\nConnection: keep-alive"))
            answer = opened.answer()
            stage.count(answer.status, allowed=[200])
            if "keep-alive" not in answer.headers.get("connection", "").lower():
                return


@GROUP.fault()
def http_2(stage: Stage) -> None:
    """h2c by an Upgrade header (answered as HTTP/1.1), and HTTP/2 by prior knowledge (refused)."""
    upgrade = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n"
    stage.send(upgrade, allowed=[200])
    stage.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9), allowed=[400, 405, 505, "closed"])


@GROUP.fault(short=True)
def garbage(stage: Stage) -> None:
    """A TLS hello, a line of 100 KB, zeros, other protocols and 200 random blocks, over connections of their own."""
    rng = random.Random(22)
    said = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(300),
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        bytes(10_000), b"\r\n" * 5_000, b"SSH-2.0-OpenSSH_9\r\n", b"*1\r\n$4\r\nPING\r\n", b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 10_000 + b"\r\n", b"GET / HTTP/1.1\r\n" + b"A" * 20_000 + b": b\r\n\r\n",
        *(rng.randbytes(rng.randrange(1, 2_000)) for _ in range(200)),
    ]  # fmt: skip
    allowed: list[int | str] = [400, 404, 405, 408, 414, 431, 505, "closed"]
    stage.together(partial(stage.send, data, allowed=allowed, hang_up=True) for data in said)


@GROUP.fault(may_refuse=OVERLOAD)
def a_crowd(stage: Stage) -> None:
    """200 clients at once, 4,000 requests without a pause; answered, or refused with 429 or 503 and a Retry-After."""
    asked = [stage.questions[number % len(stage.questions)] for number in range(4_000)]
    stage.together((partial(stage.check, question, allowed=[200, 429, 503]) for question in asked), at_once=200)
