"""Hostile clients over a real socket: each is refused with the right status and words, and the next one is answered."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from zlib import crc32

import httpx
import pytest

from darkroom.models.engines.fakes import ECHO, EchoEngine, fake_model
from darkroom.models.spec import TensorSpec
from darkroom.service.http import connection
from loadtest.experiments import slow_clients
from loadtest.experiments.hostile import KINDS, run
from tests.held import wait_for
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
    with running(fake_model(name="default"), max_body_bytes=LIMIT, read_timeout_ms=300) as server:
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
    "place", ["images[0][1]", "images[1][1]", "masks[0]", "masks[1]", "in an example", "base64 in base64"]
)
def test_a_bomb_is_refused_in_whichever_input_and_place_of_a_row_it_is(
    two_inputs: str, bomb: bytes, place: str
) -> None:
    small = picture()
    values: dict[str, list[Any]] = {"images": [[small, small], [small, small]], "masks": [small] * 2}
    hidden = {
        "in an example": example(bomb),
        "base64 in base64": standard(bomb).encode(),
    }
    where = "masks[1]" if place in hidden else place
    name, index, *at = where.replace("]", "").split("[")
    (values[name][int(index)] if at else values[name])[int((at or [index])[0])] = hidden.get(place, bomb)

    def text(value: Any) -> Any:
        return {"b64": standard(value)} if isinstance(value, bytes) else [text(each) for each in value]

    body = {"inputs": {name: text(some) for name, some in values.items()}}
    answer = httpx.post(two_inputs + "/v1/models/default:predict", json=body)
    assert answer.status_code == 413
    assert f"{where}: " in answer.json()["error"]


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


PLAIN = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: x\r\n\r\n"  # what two servers could disagree about


@pytest.mark.parametrize(
    "line",
    [
        b"Content-Length : 40", b"Content-Length\t: 40", b" Content-Length: 40", b"Content-Length: 40\nX: y",
        b"X: y\n\nContent-Length: 40", b"X: \rContent-Length: 40", b"X: a\rb\r\nContent-Length: 40",
        b"X: a\x0bb\r\nContent-Length: 40", b"X: a\x00b\r\nContent-Length: 40", b"X\x00: a\r\nContent-Length: 40",
        b"Content-Length: 40\x0b", b"Content-Length: \x0c40", b"Content-Length: 40\x7f",
        b"X: a\r\n folded\r\nContent-Length: 40", b"X: a\r\n\tfolded\r\nContent-Length: 40",
        b"Content-Length: 40\r\n ", b": empty\r\nContent-Length: 40", b"no colon\r\nContent-Length: 40",
        b"X y: z\r\nContent-Length: 40", b"X(y): z\r\nContent-Length: 40", b"\xe9: z\r\nContent-Length: 40",
        b"Content-Length: 40\r\nContent-Length: 41", b"Content-Length: 40\r\ncontent-length: 40",
        b"Content-Length: 40, 40", b"Content-Length: +40", b"Content-Length: 4 0", b"Content-Length: 0x28",
        b"Content-Length: \xd9\xa4\xd9\xa0", b"Content-Length: 40\xc2\xa0", b"Content-Length: 40;", b"Content-Length: ",
        b"Content-Length: 40\r\nTransfer-Encoding: chunked", b"Transfer-Encoding: chunked\r\nContent-Length: 40",
        b"Transfer-Encoding: \x0bchunked", b"Transfer-Encoding: chunked\x0b", b"Transfer-Encoding : chunked",
        b"Transfer-Encoding: xchunked", b"Transfer-Encoding: chunked, identity", b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", b"Transfer-Encoding: identity",
        b'Transfer-Encoding: "chunked"', b"Transfer-Encoding: ", b"Host: y\r\nContent-Length: 40",
    ],
)  # fmt: skip
def test_a_head_that_two_servers_may_read_differently_is_refused_and_the_connection_closed(
    url: str, line: bytes
) -> None:
    with client(url) as peer:
        peer.send(PLAIN + line + b"\r\n\r\n" + LAST)
        answer = peer.answer()
        assert answer.status == 400
        assert answer.headers["connection"] == "close"
        assert len(answer.body) < 300
        assert peer.is_closed()


@pytest.mark.parametrize(
    "first",
    [
        b"POST / HTTP/1.1\n", b"POST / HTTP/1.1\r", b"POST  / HTTP/1.1\r\n", b"POST /\tHTTP/1.1\r\n", b"POST / \r\n",
        b"POST / HTTP/1.1 \r\n", b" POST / HTTP/1.1\r\n", b"PO(ST / HTTP/1.1\r\n", b"POST /\x00 HTTP/1.1\r\n",
        b"POST / http/1.1\r\n", b"POST / HTTP/1.1x\r\n", b"POST / HTTP/11\r\n", b"POST /\x0b HTTP/1.1\r\n",
    ],
)  # fmt: skip
def test_a_request_line_in_a_form_of_its_own_is_refused_too(url: str, first: bytes) -> None:
    with client(url) as peer:
        peer.send(first + b"Host: x\r\nContent-Type: image/png\r\nContent-Length: 40\r\n\r\n" + LAST)
        assert peer.answer().status == 400
        assert peer.is_closed()


def test_a_head_with_bare_line_ends_is_refused_before_it_is_whole(url: str) -> None:
    for data in (b"POST / HTTP/1.1\nHost: x\n\n", b"GET / HTTP/1.1\r\nHost: x\n\n", b"\x16\x03\x01\x02\x00\x01"):
        with client(url) as peer:
            peer.send(data)
            assert peer.answer().status == 400
            assert peer.is_closed()


@pytest.mark.parametrize(
    "body",
    [
        b"0x5\r\nabcde\r\n0\r\n\r\n", b"+5\r\nabcde\r\n0\r\n\r\n", b"-5\r\nabcde\r\n0\r\n\r\n",
        b" 5\r\nabcde\r\n0\r\n\r\n", b"\x0b5\r\nabcde\r\n0\r\n\r\n", b"5\x00\r\nabcde\r\n0\r\n\r\n",
        b"5_0\r\nabcde\r\n0\r\n\r\n", b"\r\nabcde\r\n0\r\n\r\n", b";a=b\r\nabcde\r\n0\r\n\r\n",
        b"5\nabcde\n0\n\n", b"5\r\nabcde0\r\n\r\n", b"5\r\nabcdefg\r\n0\r\n\r\n", b"5\r\nabcd\r\n0\r\n\r\n",
        b"5\r\nabcde\n0\r\n\r\n", b"5;a\nb\r\nabcde\r\n0\r\n\r\n", b"5;a\rb\r\nabcde\r\n0\r\n\r\n",
        b"g\r\nabcde\r\n0\r\n\r\n", b"5" * 17 + b"\r\n", b"5;" + b"x" * 2_000 + b"\r\nabcde\r\n0\r\n\r\n",
        b"\xd9\xa5\r\nabcde\r\n0\r\n\r\n", b"0\r\nno colon\r\n\r\n", b"0\r\nX : y\r\n\r\n", b"0\r\nX: y\n\r\n\r\n",
        b"0\r\n folded: y\r\n\r\n", b"0\r\n" + b"X: " + b"y" * 5_000 + b"\r\n\r\n", b"0\r\n" + b"X: y\r\n" * 3_000,
    ],
)  # fmt: skip
def test_a_chunk_that_two_servers_may_read_differently_is_refused_and_the_connection_closed(
    url: str, body: bytes
) -> None:
    with client(url) as peer:
        peer.send(PLAIN + b"Transfer-Encoding: chunked\r\n\r\n" + body + LAST)
        answer = peer.answer()
        assert answer.status == 400
        assert answer.headers["connection"] == "close"
        assert peer.is_closed()


@pytest.mark.parametrize(
    ("line", "size", "end"),
    [
        (b"Transfer-Encoding: chunked", b"%x", b"0\r\n\r\n"),
        (b"Transfer-Encoding: CHUNKED", b"%X", b"0\r\n\r\n"),
        (b"TRANSFER-ENCODING:Chunked", b"%x", b"000\r\n\r\n"),
        (b"Transfer-Encoding: \tchunked \t", b"00%x", b"0\r\n\r\n"),
        (b"Transfer-Encoding: chunked", b"%x;name=value;other", b"0;last\r\n\r\n"),
        (b"Transfer-Encoding: chunked", b'%x ; name="a;b"', b"0\r\n\r\n"),
        (b"Transfer-Encoding: chunked", b"%x  ", b"0 \r\n\r\n"),
        (b"Trailer: Digest\r\nTransfer-Encoding: chunked", b"%x", b"0\r\nDigest: a\r\n\r\n"),
        (b"Transfer-Encoding: chunked", b"%x", b"0\r\nA: b\r\nC:d\r\nE:\r\nF: \xe9\r\n\r\n"),
        (b"Transfer-Encoding: chunked", b"%x", b"0\r\nContent-Length: 9\r\nTransfer-Encoding: x\r\n\r\n"),
        (b"TE: trailers\r\nTransfer-Encoding: chunked\r\nX: \xe9 \t", b"%x", b"0\r\nX: " + b"y" * 900 + b"\r\n\r\n"),
    ],
)
def test_what_the_standard_allows_is_read_and_so_is_the_next_request(
    url: str, line: bytes, size: bytes, end: bytes
) -> None:
    data = picture(3)
    chunks = b"".join(size % len(part) + b"\r\n" + part + b"\r\n" for part in (data[:1], data[1:40], data[40:]))
    with client(url) as peer:
        for cut in (None, 1, 7, len(PLAIN) + 9, -1, -len(end) - 1):
            raw = PLAIN + line + b"\r\n\r\n" + chunks + end
            peer.send(raw[:cut])
            if cut is not None:
                peer.send(raw[cut:])
            peer.send(b"\r\n" + HEALTH)  # an empty line between requests is allowed
            answer = peer.answer()
            assert answer.status == 200
            assert json.loads(answer.body)["digest"] == [crc32(data)]
            assert peer.answer().body == b"healthy"


@pytest.mark.parametrize("end", [4088, 8187, 8188, 8189, 8190, 8191, 8192])
def test_a_head_is_judged_up_to_the_limit_on_its_length(url: str, end: int) -> None:
    fill = end - len(PLAIN) - len(b"Y : \r\n\r\n")
    with client(url) as peer:
        peer.send(PLAIN + b"Y : " + b"x" * fill + b"\r\n\r\n")
        assert peer.answer().status in ({400} if end < 8189 else {400, 431})
        assert peer.is_closed()


def test_a_file_name_in_latin_1_is_a_name(url: str) -> None:
    body = (
        b'--b\r\nContent-Disposition: form-data; name="image"; filename="caf\xe9.png"\r\n\r\n%b\r\n--b--\r\n'
        % picture()
    )
    answer = httpx.post(url + "/", content=body, headers={"Content-Type": "multipart/form-data; boundary=b"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["digest"] == [crc32(picture())]


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
        assert peer.is_closed()


def test_a_connection_too_many_takes_an_idle_one_s_place_and_never_a_busy_one_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "IDLE_S", 1e9)
    with (
        running(fake_model(name="default"), max_connections=2) as server,
        client(server.url) as busy,
        client(server.url) as idle,
    ):
        idle.send(HEALTH)
        assert idle.answer().status == 200
        busy.send(HALF)
        assert busy.answer().status == 100  # the server waits for its body
        assert _status(server.url) == 503  # the other one was answered just now, and may be about to send
        monkeypatch.setattr(connection, "IDLE_S", 0.0)
        wait_for(lambda: _status(server.url) == 200)
        assert idle.is_closed()
        busy.send(b"x" * 5000)
        assert b"unsupported content type" in busy.answer().body


def _status(url: str) -> int:
    """The answer to a new connection."""
    with client(url) as peer:
        peer.send(HEALTH)
        return peer.answer().status


def test_where_every_connection_is_busy_one_more_is_told_to_come_again() -> None:
    with running(fake_model(name="default"), max_connections=2) as server:
        with client(server.url) as a, client(server.url) as b:
            for peer in (a, b):
                peer.send(HALF)
                assert peer.answer().status == 100  # the server waits for its body
            with client(server.url) as late:
                late.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + bytes(1_000_000))
                answer = late.answer()  # although the server reads nothing of the request
                assert (answer.status, answer.headers["retry-after"]) == (503, "1")
                assert "--max_connections" in json.loads(answer.body)["error"]
                assert late.is_closed()
        with client(server.url) as peer:
            peer.send(HEALTH)
            assert peer.answer().status == 200
