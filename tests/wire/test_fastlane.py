"""What HTTP/1.1 asks of a connection, the same in both lanes, and which requests take the fast one."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from contextlib import ExitStack
from types import CoroutineType
from typing import TYPE_CHECKING, TypeVar
from zlib import crc32

import httpx
import numpy as np
import pytest

from darkroom.models.engines.fakes import EchoEngine, SlowEngine, fake_model
from darkroom.models.rows import Rows
from darkroom.service.http import connection
from darkroom.service.http.fast_lane import FastLane
from tests.pictures import picture, standard
from tests.serving import metric, running, serving
from tests.sockets import Answer, client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from darkroom.service.server import Server

T = TypeVar("T")
FAST = "darkroom_fast_lane_requests_total"
HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"


class WideEngine(EchoEngine):
    """An engine whose answers are 800 KB each."""

    def run(self, rows: Rows) -> Rows:
        """A row of zeros for each row."""
        return Rows({"scores": np.zeros((len(rows), 200_000), dtype=np.float32)})


def post(body: bytes, *lines: str, kind: str = "image/png", target: str = "/", version: str = "1.1") -> bytes:
    """A predict request with more header lines."""
    head = [f"POST {target} HTTP/{version}", "Host: x", f"Content-Type: {kind}", f"Content-Length: {len(body)}", *lines]
    return "\r\n".join([*head, "", ""]).encode() + body


def chunked(body: bytes) -> bytes:
    """The same as `post`, in two chunks."""
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:9], body[9:], b""))


def digest(answer: Answer) -> int:
    """Whose picture was answered."""
    assert answer.status == 200, answer
    value: int = json.loads(answer.body)["digest"][0]
    return value


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running(fake_model(name="default"), max_body_bytes=1_000_000) as server:
        yield server.url


def test_plain_requests_take_the_fast_lane_whatever_they_carry(url: str, lane: bool) -> None:
    data = picture(1)
    taken = metric(url, FAST)
    text = json.dumps({"data": {"images": [standard(data)]}}).encode()
    for request in (
        post(data),
        post(data, target="/?top_k=1&model_name=default"),
        post(text, kind="application/json"),
        post(data, version="1.0"),
        post(b"--b\r\nContent-Disposition: form-data; name=image; filename=a\r\n\r\n%b\r\n--b--\r\n" % data,
             kind="multipart/form-data; boundary=b"),
    ):  # fmt: skip
        with client(url) as peer:
            peer.send(request)
            assert digest(peer.answer()) == crc32(data)
    assert metric(url, FAST) - taken == (5 if lane else 0)


def test_what_is_not_plain_is_answered_by_sanic(url: str) -> None:
    data = picture(2)
    taken = metric(url, FAST)
    for request in (
        chunked(data),
        post(data, "Expect: 100-continue"),
        post(data, "Upgrade: h2c", "Connection: keep-alive"),
        post(data, "Transfer-Encoding: identity").replace(b"Content-Length: %d\r\n" % len(data), b""),
        post(data, target="/health"),
        post(data, target="/%2F"),
        post(data, target="/nowhere"),
        post(data, version="1.2"),
        b"PUT / HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\n\r\n",
        HEALTH,
    ):
        with client(url) as peer:
            peer.send(request)
            assert peer.answer().status in {100, 200, 400, 404, 405}
    assert metric(url, FAST) == taken


def test_pipelined_requests_are_answered_in_their_order_whoever_answers_them(url: str) -> None:
    pictures = [picture(seed) for seed in range(40)]
    with client(url) as peer:
        stream = b""
        for number, data in enumerate(pictures):
            stream += (chunked if number % 7 == 3 else post)(data) + (HEALTH if number % 5 == 2 else b"")
        peer.send(stream)
        for number, data in enumerate(pictures):
            assert digest(peer.answer()) == crc32(data)
            if number % 5 == 2:
                assert peer.answer().body == b"healthy"


def test_requests_sent_far_ahead_of_their_answers_are_all_answered(url: str) -> None:
    data = b"".join([picture(3), b" " * 30_000])
    with client(url) as peer:
        sender = threading.Thread(target=peer.send, args=(post(data) * 100,))
        sender.start()
        assert [digest(peer.answer()) for _ in range(100)] == [crc32(data)] * 100
        sender.join()


def test_a_client_that_reads_late_gets_every_answer() -> None:
    data = picture(4)
    with running(fake_model(WideEngine(), name="default")) as server, client(server.url) as peer:
        sender = threading.Thread(target=peer.send, args=(post(data) * 40,))
        sender.start()
        while metric(server.url, "darkroom_requests_total", outcome="ok") < 3:
            pass  # 32 MB are to come, more than the kernel holds for one connection
        answers = [peer.answer() for _ in range(40)]
        sender.join()
        assert {answer.status for answer in answers} == {200}
        assert len({answer.body for answer in answers}) == 1


def test_a_request_may_come_byte_by_byte(url: str) -> None:
    data = picture(5)
    with client(url) as peer:
        peer.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for request in (post(data), post(data), chunked(data)):
            for at in range(len(request)):
                peer.send(request[at : at + 1])
            assert digest(peer.answer()) == crc32(data)


@pytest.mark.parametrize("cut", [1, 40, 90, 100, 140])
def test_a_request_may_come_in_two_pieces_and_the_next_with_the_second(url: str, cut: int) -> None:
    first, second = picture(6), picture(7)
    assert cut < len(post(first))
    stream = post(first) + post(second)
    with client(url) as peer, client(url) as other:
        peer.send(stream[:cut])
        other.send(HEALTH)
        assert other.answer().status == 200  # the server has had its turn
        peer.send(stream[cut:])
        assert [digest(peer.answer()), digest(peer.answer())] == [crc32(first), crc32(second)]


def test_a_body_over_the_limit_is_refused_before_it_is_sent(url: str) -> None:
    with client(url) as peer:
        peer.send(b"POST / HTTP/1.1\r\nContent-Type: image/png\r\nContent-Length: 1000001\r\n\r\n")
        assert peer.answer().status == 413
        assert peer.is_closed()


@pytest.mark.parametrize("bomb", [b"A: " + b"x" * 20_000, b"A: b\r\n" * 4_000, b"A" * 20_000])
def test_a_head_over_the_limit_is_refused(url: str, bomb: bytes) -> None:
    with client(url) as peer:
        peer.send(b"POST / HTTP/1.1\r\n" + bomb)
        assert peer.answer().status == 431


def test_the_connection_stays_or_closes_as_the_client_says(url: str) -> None:
    data = picture(8)
    for request, is_kept in (
        (post(data), True),
        (post(data, "Connection: keep-alive"), True),
        (post(data, "Connection: close"), False),
        (post(data, version="1.0"), False),
        (post(data, "Connection: keep-alive", version="1.0"), True),
    ):
        with client(url) as peer:
            peer.send(request)
            answer = peer.answer()
            assert digest(answer) == crc32(data)
            assert answer.headers["connection"] == ("keep-alive" if is_kept else "close")
            if is_kept:
                peer.send(HEALTH)
                assert peer.answer().body == b"healthy"
            else:
                assert peer.is_closed()


@pytest.mark.parametrize(
    "lines",
    [
        ("Content-Length: 7", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked", "Content-Length: 7"),
        ("Content-Length: 7", "Content-Length: 7"),
        ("Content-Length: 7", "Content-Length: 0"),
        ("Content-Length: +7",),
        ("Content-Length: -7",),
        ("Content-Length: 7_0",),
        ("Content-Length: 0x7",),
        ("Content-Length: 7, 7",),
        ("Content-Length: seven",),
        ("Content-Length:",),
        ("Content-Length: 7", "no colon"),
    ],
)
def test_a_request_of_two_meanings_gets_400_and_no_second_answer(url: str, lines: tuple[str, ...]) -> None:
    head = "\r\n".join(["POST / HTTP/1.1", "Host: x", "Content-Type: image/png", *lines, "", ""])
    with client(url) as peer:
        peer.send(head.encode() + b"0\r\n\r\n" + HEALTH)
        assert peer.answer().status == 400
        assert peer.is_closed()


def test_every_answer_is_counted_and_bears_the_same_headers_in_both_lanes(url: str) -> None:
    labels = {"route": "/", "method": "POST"}
    good, bad = (metric(url, "darkroom_http_requests_total", code=code, **labels) for code in ("200", "400"))
    names = set()
    for data in (picture(9), b"junk"):
        answer = httpx.post(url, content=data, headers={"Content-Type": "image/png", "X-Request-Id": "me"})
        names.add(tuple(sorted(answer.headers)))
        assert answer.headers["x-request-id"] == "me"
    every = ("connection", "content-length", "content-type", "server-timing")
    assert names == {(*every, "x-request-id"), (*every, "x-darkroom-error", "x-request-id")}
    assert metric(url, "darkroom_http_requests_total", code="200", **labels) == good + 1
    assert metric(url, "darkroom_http_requests_total", code="400", **labels) == bad + 1
    assert metric(url, "darkroom_http_requests_in_flight") == 1  # the scrape itself


@pytest.mark.parametrize("asks", ["one", "whole and half", "many", "chunked", "health"])
def test_a_client_that_sends_no_more_gets_the_answers_to_what_it_sent(asks: str) -> None:
    data = picture(18)
    requests = {
        "one": post(data), "whole and half": post(data) * 2 + post(data)[:-3], "many": post(data) * 30 + HEALTH,
        "chunked": chunked(data) + post(data)[:30], "health": HEALTH * 2,
    }[asks]  # fmt: skip
    answers = {"one": 1, "whole and half": 2, "many": 31, "chunked": 1, "health": 2}[asks]
    model = fake_model(SlowEngine(EchoEngine(), lambda _: 0.002), name="default")
    with running(model) as server:
        for halves in (True, False):
            with client(server.url) as peer:
                if halves:
                    peer.send(requests[:-40])
                peer.send(requests[-40:] if halves else requests)
                peer.socket.shutdown(socket.SHUT_WR)
                statuses: list[int] = []
                while statuses.count(200) < answers:
                    statuses.append(peer.answer().status)
                assert set(statuses) <= {100, 200}  # 100 where the machine is slow
                assert peer.is_closed()
        with client(server.url) as peer:  # what has sent nothing, or half of a request, is closed at once
            peer.send(post(data)[:-1])
            peer.socket.shutdown(socket.SHUT_WR)
            assert peer.is_closed()
        _until(server.url, "darkroom_http_requests_in_flight", 1)


def test_a_client_that_sends_no_more_and_waits_long_is_asked_whether_it_is_there() -> None:
    running_now, go_on = threading.Event(), threading.Event()

    def hold(_: float) -> None:
        running_now.set()
        go_on.wait(60)

    model = fake_model(SlowEngine(EchoEngine(), float, sleep=hold), name="default")
    with running(model) as server, client(server.url) as peer:
        peer.send(post(picture(19)))
        peer.socket.shutdown(socket.SHUT_WR)
        assert peer.answer().status == 100
        go_on.set()
        answer = peer.answer()
        while answer.status == 100:
            answer = peer.answer()
        assert digest(answer) == crc32(picture(19))
        assert peer.is_closed()


def test_a_client_that_leaves_is_forgotten_wherever_its_request_is() -> None:
    running_now, go_on = threading.Event(), threading.Event()

    def hold(_: float) -> None:
        running_now.set()
        go_on.wait(60)

    data = picture(10)
    with running(fake_model(SlowEngine(EchoEngine(), float, sleep=hold), name="default")) as server:
        with client(server.url) as first, client(server.url) as second, client(server.url) as third:
            first.send(post(data))
            assert running_now.wait(60)
            second.send(post(data) + post(data))  # waits in the queue, and one more behind it
            third.send(post(data)[:-5])
            _until(server.url, "darkroom_queue_images", 1)
        _until(server.url, "darkroom_requests_total", 2, outcome="cancelled")
        _until(server.url, "darkroom_http_requests_total", 2, code="499")
        assert metric(server.url, "darkroom_queue_images") == 0
        go_on.set()
        assert httpx.post(server.url, content=data, headers={"Content-Type": "image/png"}).status_code == 200
        assert metric(server.url, "darkroom_http_requests_in_flight") == 1
        assert metric(server.url, "darkroom_requests_total", outcome="ok") == 1


def test_a_stopping_server_answers_what_it_has_and_closes_the_connection() -> None:
    running_now, go_on = threading.Event(), threading.Event()

    def hold(_: float) -> None:
        running_now.set()
        go_on.wait(60)

    model = fake_model(SlowEngine(EchoEngine(), float, sleep=hold), name="default")
    with running(model) as server, client(server.url) as busy, client(server.url) as other:
        busy.send(post(picture(11)) + post(picture(12)))
        assert running_now.wait(60)
        other.send(HEALTH)
        assert other.answer().status == 200
        server.loop.call_soon_threadsafe(server.stop)
        while not server.darkroom.lifecycle.is_draining:
            pass
        other.send(post(picture(14)))
        assert other.answer().status == 503
        go_on.set()
        answer = busy.answer()
        assert digest(answer) == crc32(picture(11))
        assert answer.headers["connection"] == "close"
        assert busy.is_closed()


def test_a_connection_that_is_to_leave_does_so_once_all_that_was_sent_is_answered() -> None:
    model = fake_model(SlowEngine(EchoEngine(), lambda _: 0.1), name="default")
    with running(model, fast_lane=True) as server, client(server.url) as peer:
        peer.send(post(picture(11)))
        assert peer.answer().headers["connection"] == "keep-alive"

        def leave(lane: FastLane) -> None:
            lane.is_leaving = True

        _on_loop(server, leave)
        peer.send(post(picture(12)) + post(picture(13)))
        for seed, told in ((12, "keep-alive"), (13, "close")):
            answer = peer.answer()
            assert (digest(answer), answer.headers["connection"]) == (crc32(picture(seed)), told)
        assert peer.is_closed()


def test_a_client_that_is_slow_to_send_is_left_to_sanic_and_its_time_limits() -> None:
    request = post(picture(15))
    with running(fake_model(name="default"), fast_lane=True) as server, client(server.url) as peer:
        for cut in (-10, -1):
            peer.send(HEALTH)
            assert peer.answer().status == 200  # there is a connection, and it is idle
            peer.send(request[:cut])
            while not _on_loop(server, lambda lane: lane._head is not None):
                pass  # until the server has read it
            _on_loop(server, FastLane.check_timeouts)
            assert _on_loop(server, FastLane._is_with_sanic)
            assert not _on_loop(server, FastLane.close_if_idle)
            peer.send(request[cut:])
            assert digest(peer.answer()) == crc32(picture(15))
        peer.send(request[:-1])
        while not _on_loop(server, lambda lane: lane._head is not None):
            pass
        _on_loop(server, _make_old)
        _on_loop(server, FastLane.check_timeouts)
        assert peer.answer().status == 408
        assert metric(server.url, FAST) == 0


def test_a_client_that_reads_no_answer_gets_no_further_ones_and_is_closed_in_time() -> None:
    with running(fake_model(WideEngine(), name="default")) as server, client(server.url) as peer:
        sending = server.darkroom.sending
        peer.send(post(picture(20)) * 40)  # 40 answers of 1 MB
        while not sending.bytes:
            pass
        for _ in range(3):
            assert metric(server.url, "darkroom_http_requests_total", route="/") < 20
        (lane,) = sending._waiting
        server.loop.call_soon_threadsafe(lane.check_timeouts)  # it has just read something
        assert metric(server.url, "darkroom_http_requests_total", route="/") < 20
        assert 0 < sending.bytes < 4_000_000
        lane._unsent_s -= 3600
        server.loop.call_soon_threadsafe(lane.check_timeouts)
        while sending.bytes:
            pass
        assert httpx.get(server.url + "/health").status_code == 200


def test_answers_that_nobody_reads_are_bounded_together_and_readers_go_on() -> None:
    with running(fake_model(WideEngine(), name="default"), max_sending_bytes=3 << 20) as server:
        sending, peers = server.darkroom.sending, []
        with ExitStack() as stack:
            for _ in range(12):
                peer = stack.enter_context(client(server.url, receive_bytes=4096))
                peer.send(post(picture(21)) * 12)
                peers.append(peer)
            while not sending.bytes:
                pass
            for _ in range(5):
                answer = httpx.post(server.url, content=picture(21), headers={"Content-Type": "image/png"})
                assert len(answer.json()["scores"][0]) == 200_000
                assert sending.bytes <= sending.limit_bytes
        while sending.bytes:
            httpx.get(server.url + "/health")


def sent_as(head: bytes, size: int) -> bytes:
    """All but the end of a request whose body has this size."""
    length = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" if b"chunked" in head else b"Content-Length: %d\r\n\r\n"
    return head.replace(b"chunked", b"") + length % size + bytes(size - 1)


HEADS = [
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nchunked",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\nchunked",
    b"POST / HTTP/1.0\r\nContent-Type: image/png\r\nConnection: keep-alive\r\n",
    b"POST /v1/models/default:predict HTTP/1.1\r\nHost: x\r\n",
    b"POST /v2/models/default/infer HTTP/1.1\r\nHost: x\r\nInference-Header-Content-Length: 9\r\n",
    b"POST /?model_name=default&top_k=3 HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n",
]


@pytest.mark.parametrize(("size", "status"), [(20_000, 413), (9_000, 408)], ids=["too large", "too slow"])
def test_a_refused_body_whose_client_stays_leaves_no_error_in_the_log(
    size: int, status: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "LINGER_S", 0.4)
    with (
        running(fake_model(name="default"), max_body_bytes=10_000, read_timeout_ms=200) as server,
        ExitStack() as stack,
    ):
        peers = [stack.enter_context(client(server.url)) for _ in HEADS]
        for peer, head in zip(peers, HEADS, strict=True):
            peer.send(sent_as(head, size))
        assert {head: peer.answer().status for peer, head in zip(peers, HEADS, strict=True)} == dict.fromkeys(
            HEADS, status
        )
        for peer in peers:
            while True:  # until the server has dropped the connection, long after its checks of time
                try:
                    peer.send(b"x")
                except ConnectionError:
                    break
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


def test_a_request_that_waits_long_for_its_answer_is_not_taken_for_a_silent_client() -> None:
    running_now, go_on = threading.Event(), threading.Event()

    def hold(_: float) -> None:
        running_now.set()
        go_on.wait(60)

    model = fake_model(SlowEngine(EchoEngine(), float, sleep=hold), name="default")
    with running(model, fast_lane=True) as server, client(server.url) as peer:
        peer.send(post(picture(16)))
        assert running_now.wait(60)
        _on_loop(server, _make_old)
        _on_loop(server, FastLane.check_timeouts)
        assert not _on_loop(server, FastLane.close_if_idle)
        go_on.set()
        assert digest(peer.answer()) == crc32(picture(16))


@pytest.mark.slow
def test_both_lanes_do_the_same_on_uvloop(lane: bool) -> None:
    data = picture(13)
    with serving("--model_base_path=fake") as url, client(url) as peer:
        big = data + b" " * 2_000_000
        sender = threading.Thread(target=peer.send, args=((post(data) + HEALTH + post(big)) * 5,))
        sender.start()
        for _ in range(5):
            assert digest(peer.answer()) == crc32(data)
            assert peer.answer().body == b"healthy"
            assert digest(peer.answer()) == crc32(big)
        sender.join()
        assert (metric(url, FAST) > 0) == lane


@pytest.mark.slow
def test_the_first_request_of_a_connection_takes_the_same_lane_as_the_second(lane: bool) -> None:
    small = picture(17)
    large = small + b" " * 2_000_000
    with serving("--model_base_path=fake") as url:
        for data in (small, large):
            for lines in ((), ("Connection: close",)):
                taken = metric(url, FAST)
                for _ in range(20):  # the bytes are there before uvloop has told Sanic of the connection, as a rule
                    with client(url) as peer:
                        peer.send(post(data, *lines))
                        assert digest(peer.answer()) == crc32(data)
                        assert not lines or peer.is_closed()
                assert metric(url, FAST) - taken == (20 if lane else 0)


def _until(url: str, name: str, value: float, **labels: str) -> None:
    """Asks until a metric has a value; the test's own time limit ends it otherwise."""
    while metric(url, name, **labels) != value:
        pass


def _on_loop(server: Server, act: Callable[[FastLane], T]) -> T:
    """What `act` gives for the server's one connection, done on its loop."""

    async def on_loop() -> T:
        coroutines = [task.get_coro() for task in asyncio.all_tasks()]
        frames = [one.cr_frame for one in coroutines if isinstance(one, CoroutineType) and one.cr_frame is not None]
        (lane,) = [frame.f_locals["self"] for frame in frames if isinstance(frame.f_locals.get("self"), FastLane)]
        return act(lane)

    return asyncio.run_coroutine_threadsafe(on_loop(), server.loop).result(60)


def _make_old(lane: FastLane) -> None:
    """Lets the first and the last byte have come an hour ago."""
    lane._time -= 3600
    lane._since_s -= 3600
