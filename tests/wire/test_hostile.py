"""Hostile clients over a real socket: each is refused with the right status and words, and the next one is answered."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING
from zlib import crc32

import httpx
import pytest

from darkroom.models.engines.fakes import ECHO, EchoEngine, fake_model
from darkroom.models.spec import TensorSpec
from loadtest.experiments import slow_clients
from loadtest.experiments.hostile import KINDS, run
from tests.hostile import Attack, attacks, example, many_scans, png_with, wide_jpeg, wide_png
from tests.pictures import picture, standard
from tests.serving import metric, running
from tests.sockets import client

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
HALF = b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5000\r\n\r\n"
LIMIT = 100_000


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running(fake_model(name="default")) as server:
        yield server.url


@pytest.fixture(scope="module")
def tight() -> Iterator[str]:
    with running(fake_model(name="default"), max_body_bytes=LIMIT, read_timeout_ms=300, max_connections=4) as server:
        yield server.url


@pytest.mark.parametrize("attack", attacks(), ids=lambda attack: attack.name)
def test_an_attack_in_one_request_is_refused_in_words_and_the_next_is_answered(url: str, attack: Attack) -> None:
    headers = {"Content-Type": attack.kind} | ({"Content-Encoding": attack.encoding} if attack.encoding else {})
    with httpx.Client() as caller:
        answer = caller.post(url + "/", content=attack.body, headers=headers)
        assert answer.status_code == attack.status
        assert attack.words in answer.json()["error"]
        assert len(answer.content) < 1_000
        good = caller.post(url + "/", content=picture(), headers={"Content-Type": "image/png"})
        assert good.json()["digest"] == [crc32(picture())]


def test_a_png_is_answered_without_its_compressed_text(url: str) -> None:
    bomb = png_with(b"zTXt", b"a\0\0" + zlib.compress(bytes(7_900_000), 9), 200)
    answer = httpx.post(url + "/", content=bomb, headers={"Content-Type": "image/png"})
    assert answer.json() == {"digest": [crc32(picture())], "length": [len(picture())]}
    texts = [standard(picture()), standard(bomb)]
    told = httpx.post(url + "/v1/models/default:predict", json={"instances": [{"b64": text} for text in texts]})
    assert [row["digest"] for row in told.json()["predictions"]] == [crc32(picture())] * 2


@pytest.fixture(scope="module")
def two_inputs() -> Iterator[str]:
    pair = (TensorSpec("images", "string", (None, None)), TensorSpec("masks", "string", (None,)))
    with running(fake_model(EchoEngine(replace(ECHO, inputs=pair)), name="default")) as server:
        yield server.url


@pytest.mark.parametrize("bomb", [wide_png(), wide_jpeg(), many_scans(2_500)], ids=["png", "jpeg", "scans"])
@pytest.mark.parametrize(
    "place", ["images[1]", "images[3]", "masks[0]", "masks[1]", "in an example", "base64 in base64"]
)
def test_a_bomb_is_refused_in_whichever_input_and_place_of_a_row_it_is(
    two_inputs: str, bomb: bytes, place: str
) -> None:
    small = picture()
    values = {"images": [small] * 4, "masks": [small] * 2}
    name, _, index = place.rstrip("]").partition("[")
    hidden = {
        "in an example": example(bomb),
        "base64 in base64": standard(bomb).encode(),
    }
    if place in hidden:
        name, index = "masks", "1"
    values[name][int(index)] = hidden.get(place, bomb)
    texts = {name: [{"b64": standard(value)} for value in some] for name, some in values.items()}
    body = {"inputs": {"images": [texts["images"][:2], texts["images"][2:]], "masks": texts["masks"]}}
    answer = httpx.post(two_inputs + "/v1/models/default:predict", json=body)
    assert answer.status_code == 413
    assert f"{name}[{index}]: " in answer.json()["error"]


@pytest.mark.parametrize(
    "line", [b"POST \xff HTTP/1.1", b"GET \x03/ HTTP/1.1", b"GET", b"\x16\x03\x01", b"GET / HTTP/9.9"]
)
def test_a_request_line_that_is_none_is_answered_all_the_same(url: str, line: bytes) -> None:
    with client(url) as peer:
        peer.send(line + b"\r\nHost: x\r\n\r\n")
        answer = peer.answer()
        assert answer.status == 400
        assert b"error" in answer.body


def test_a_header_that_is_no_text_is_refused_and_little_of_it_told(url: str) -> None:
    with client(url) as peer:
        peer.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nExpect: \xff\xfe" + b"y" * 5_000 + b"\r\n\r\nz")
        answer = peer.answer()
        assert answer.status == 417
        assert len(answer.body) < 400


def test_hundreds_of_requests_broken_at_random_end_in_no_5xx_and_no_hang(url: str) -> None:
    tally = run(url, int(os.environ.get("HOSTILE_REQUESTS", "300")), seed=1, on_half=lambda: None)
    assert tally.failures == []
    assert {kind for kind, _ in tally.statuses} == set(KINDS)
    assert any(status == "200" for _, status in tally.statuses)


@pytest.mark.parametrize("how", [b"Content-Length: 700000", b"Transfer-Encoding: chunked"], ids=["length", "chunked"])
def test_unfinished_bodies_are_bounded_together_and_small_requests_go_on(how: bytes) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n" + how + b"\r\n\r\n"
    part = b"927c0\r\n" + bytes(600_000)
    with running(fake_model(name="default"), max_receiving_bytes=1 << 20) as server:
        receiving = server.darkroom.receiving
        with client(server.url) as first, client(server.url) as second:
            first.send(head + part)
            second.send(head + part)
            refused = (
                second if select.select([first.socket, second.socket], [], [], 60)[0] == [second.socket] else first
            )
            answer = refused.answer()
            assert answer.status == 503
            assert answer.headers["retry-after"] == "1"
            good = httpx.post(server.url + "/", content=picture(), headers={"Content-Type": "image/png"})
            assert good.status_code == 200
            assert 0 < receiving.bytes <= receiving.limit_bytes
        while receiving.bytes:  # until the server has seen that both have left
            httpx.get(server.url + "/health")


def test_the_rest_of_a_body_that_was_refused_is_no_request() -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n"
    with running(fake_model(name="default"), max_receiving_bytes=1 << 20) as server, client(server.url) as peer:
        peer.send(head % 2_000_000 + bytes(1_200_000))
        assert peer.answer().status == 503
        for data in (picture(), b"junk"):
            peer.send(head % len(data) + data)  # a body may hold anything
        assert peer.is_closed()
        assert metric(server.url, "darkroom_http_requests_total", route="/") == 0
        assert metric(server.url, "darkroom_requests_total") == 0


def test_a_body_that_is_whole_is_counted_no_more() -> None:
    with running(fake_model(name="default")) as server, client(server.url) as peer:
        for how in ((), (b"Transfer-Encoding: chunked",)):
            data = picture(size=(200, 200))
            head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if how else data
            peer.send(head + (how[0] if how else b"Content-Length: %d" % len(data)) + b"\r\n\r\n")
            peer.send(body)
            assert peer.answer().status == 200
            assert server.darkroom.receiving.bytes == 0


def test_good_clients_are_answered_beside_idle_and_trickling_ones(url: str, tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(picture(kind="JPEG"))
    sizes = ["--clients=4", "--idle=20", "--trickling=10", "--seconds=0.2", "--rounds=1"]
    assert slow_clients.main([f"--url={url}", f"--picture={file}", *sizes]) == 0


def test_schemathesis_finds_nothing_that_the_openapi_document_does_not_tell(url: str) -> None:
    command = [
        sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--no-color",
        "--checks=not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
        f"--max-examples={os.environ.get('HOSTILE_EXAMPLES', '5')}", "--phases=examples,coverage,fuzzing",
        "--exclude-path-regex=/(load|unload|labels)$", "--generation-database=none", "--seed=1",
        "--request-timeout=10", "--suppress-health-check=all",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1700)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


def test_an_endless_body_is_refused_at_the_limit_and_the_client_can_read_why(tight: str) -> None:
    for head in (b"Transfer-Encoding: chunked", b"Content-Length: 999999999999"):
        with client(tight) as peer:
            peer.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n" + head + b"\r\n\r\n")
            for _ in range(3 * LIMIT // 1000):  # more than the limit, and more than the kernel swallows at once
                peer.send(b"3e8\r\n" + b"x" * 1000 + b"\r\n")
            answer = peer.answer()
            assert answer.status == 413
            assert f"--max_body_bytes={LIMIT}".encode() in answer.body
            assert answer.headers["connection"] == "close"


def test_headers_over_the_limit_are_refused_with_it(tight: str) -> None:
    for head in (b"X: " + b"y" * 9_000 + b"\r\n\r\n", b"a:\r\n" * 5_000, b"x" * 9_000):
        with client(tight) as peer:
            peer.send(b"POST / HTTP/1.1\r\n" + head)
            answer = peer.answer()
            assert answer.status == 431
            assert b"over 8192 bytes" in answer.body


@pytest.mark.parametrize(
    "start",
    [
        b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: ",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 5000\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n1388\r\n",
    ],
    ids=["head", "body", "chunk"],
)
def test_a_request_that_trickles_is_ended_however_steadily_it_comes(tight: str, start: bytes) -> None:
    with client(tight) as peer:
        peer.send(start)
        peer.socket.settimeout(0.02)
        while True:  # a byte every 20 ms, until there is an answer
            try:
                peer.socket.recv(1, 2)  # MSG_PEEK
                break
            except TimeoutError:
                peer.send(b"x")
        peer.socket.settimeout(60)
        answer = peer.answer()
        assert answer.status == 408
        assert b"--read_timeout_ms=300" in answer.body


def test_a_connection_too_many_takes_an_idle_one_s_place_and_never_a_busy_one_s(tight: str) -> None:
    with client(tight) as busy, client(tight) as idle, client(tight) as other, client(tight) as last:
        for peer in (idle, other, last):
            peer.send(HEALTH)
            assert peer.answer().status == 200
        busy.send(HALF)
        assert busy.answer().status == 100  # the server waits for its body
        with client(tight) as late:
            late.send(HEALTH)
            assert late.answer().status == 200
        assert busy.answer().status == 408  # its own slowness ended it, not the one who came late


def test_where_every_connection_is_busy_one_more_is_told_to_come_again() -> None:
    with running(fake_model(name="default"), max_connections=2) as server:
        with client(server.url) as a, client(server.url) as b:
            for peer in (a, b):
                peer.send(HALF)
                assert peer.answer().status == 100  # the server waits for its body
            with client(server.url) as late:
                assert late.answer().status == 503
        with client(server.url) as peer:
            peer.send(HEALTH)
            assert peer.answer().status == 200
