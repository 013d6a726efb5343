"""What a client may not do, and what the server promises it: credentials, TLS, deadlines, limits, hostile bytes."""

from __future__ import annotations

import contextlib
import gc
import gzip
import socket
from struct import pack
from typing import TYPE_CHECKING, Any
from zlib import crc32

import grpc
import pytest
from grpc import StatusCode

from darkroom.models.engines.fakes import fake_model
from darkroom.service.api.grpc import http2
from darkroom.service.api.grpc.call import Exchange
from darkroom.service.api.grpc.http2 import PREFACE, Stream, frame, literal
from darkroom.service.api.grpc.protos import message
from darkroom.service.config.tokens import Scope, new_token
from tests.grpc.calls import PREDICT, ask, channel, digests, infer, predict, refusal, served, stub
from tests.held import Held, wait_for
from tests.pictures import picture
from tests.serving import certificate, metric, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from darkroom.service.server import Server

CALL = b"".join(
    literal(name, value)
    for name, value in {
        ":method": "POST",
        ":scheme": "http",
        ":path": f"/{PREDICT}",
        "te": "trailers",
        "content-type": "application/grpc",
    }.items()
)


@contextlib.contextmanager
def wire(server: Server) -> Iterator[socket.socket]:
    """A connection on which a test writes its own bytes; the preface and the settings are sent."""
    host, port = server.grpc_address.split(":")
    with socket.create_connection((host, int(port)), timeout=60) as made:
        made.sendall(PREFACE + frame(http2.SETTINGS, 0, 0))
        yield made


def until(made: socket.socket, words: bytes) -> bytes:
    """What comes until the words have come, or the end of the connection."""
    got = b""
    while words not in got and (data := made.recv(65536)):
        got += data
    return got


def headers(number: int, flags: int = http2.END_HEADERS) -> bytes:
    return frame(http2.HEADERS, flags, number, CALL)


def framed(sent: Any) -> bytes:
    body: bytes = sent.SerializeToString()
    return pack(">BI", 0, len(body)) + body


def test_credentials_come_as_metadata_and_scopes_hold(tmp_path: Path) -> None:
    text, token = new_token("reader", frozenset({Scope.PREDICT}))
    file = tmp_path / "tokens"
    file.write_text(token.line())
    settings: dict[str, Any] = {"enable_auth": True, "auth_password": "secret", "auth_tokens_file": file}
    with served(fake_model(name="default"), **settings) as (_, made):
        unload = message("inference.RepositoryModelUnloadRequest")(model_name="default")
        path = "inference.GRPCInferenceService/RepositoryModelUnload"
        basic, bearer = [("authorization", "Basic YWRtaW46c2VjcmV0")], [("authorization", f"Bearer {text}")]
        assert refusal(made, PREDICT, predict(picture()))[0] is StatusCode.UNAUTHENTICATED
        assert digests(ask(made, PREDICT, predict(picture()), metadata=bearer)) == [crc32(picture())]
        assert refusal(made, path, unload, metadata=bearer)[0] is StatusCode.PERMISSION_DENIED
        health = message("grpc.health.v1.HealthCheckRequest")()
        assert ask(made, "grpc.health.v1.Health/Check", health).status == 1
        ask(made, path, unload, metadata=basic)


def test_unloading_without_credentials_needs_a_server_of_this_machine_only() -> None:
    everywhere = running(fake_model(name="default"), grpc_port=0, host="0.0.0.0")  # noqa: S104 - what is tested
    with everywhere as server, channel(server.grpc_address) as made:
        unload = message("inference.RepositoryModelUnloadRequest")(model_name="default")
        code, text = refusal(made, "inference.GRPCInferenceService/RepositoryModelUnload", unload)
    assert code is StatusCode.PERMISSION_DENIED
    assert "--host=127.0.0.1" in text


def test_tls_is_that_of_http(tmp_path: Path) -> None:
    pem, key = certificate(tmp_path)
    settings: dict[str, Any] = {"enable_ssl": True, "secret_pem": pem, "secret_key": key}
    trusted = grpc.ssl_channel_credentials(pem.read_bytes())
    with (
        running(fake_model(name="default"), grpc_port=0, **settings) as server,
        grpc.secure_channel(server.grpc_address, trusted) as made,
    ):
        assert digests(ask(made, PREDICT, predict(picture()))) == [crc32(picture())]


def test_overload_is_refused_with_the_time_to_wait() -> None:
    held = Held(fake_model(name="default"))
    with served(held.model, max_queue_images=1, max_batch_images=1) as (server, made):
        with held.standing(server.url, lambda: ask(made, PREDICT, predict(picture(1)))):
            waiting = stub(made, PREDICT).future(predict(picture(2)), timeout=60)
            wait_for(lambda: metric(server.url, "darkroom_queue_images") == 1)
            with pytest.raises(grpc.RpcError) as refused:
                stub(made, PREDICT)(predict(picture(3)), timeout=60)
        assert refused.value.code() is StatusCode.RESOURCE_EXHAUSTED
        trailers = dict(refused.value.trailing_metadata())
        assert int(trailers["grpc-retry-pushback-ms"]) >= 1000
        assert trailers["x-darkroom-error"] == "queue_full"
        assert digests(waiting.result()) == [crc32(picture(2))]


def test_the_deadline_of_a_call_is_that_of_its_request(made: Any, server: Server) -> None:
    before = metric(server.url, "darkroom_requests_total", model="default")
    for _ in range(50):
        with contextlib.suppress(grpc.RpcError):
            stub(made, PREDICT)(predict(picture()), timeout=0.001)
    assert digests(ask(made, PREDICT, predict(picture()))) == [crc32(picture())]
    assert metric(server.url, "darkroom_requests_total", model="default") > before
    wait_for(lambda: metric(server.url, "darkroom_http_requests_in_flight") == 1)  # this very request
    with wire(server) as raw:  # a client that keeps no time of its own
        late = frame(http2.HEADERS, http2.END_HEADERS, 1, CALL + literal("grpc-timeout", "1n"))
        raw.sendall(late + frame(http2.DATA, http2.END_STREAM, 1, framed(predict(picture()))))
        assert b"grpc-status\x014" in until(raw, b"grpc-status")
        odd = frame(http2.HEADERS, http2.END_HEADERS, 3, CALL + literal("grpc-timeout", "soon"))
        raw.sendall(odd + frame(http2.DATA, http2.END_STREAM, 3, framed(predict(picture()))))
        assert b"grpc-status\x010" in until(raw, b"grpc-status")


def test_ten_thousand_cancelled_calls_leave_nothing_behind(server: Server, made: Any) -> None:
    body = framed(predict(picture()))
    cancelled = metric(server.url, "darkroom_http_requests_total", code="499")
    with wire(server) as raw:
        for start in range(0, 10_000, 500):
            calls = b"".join(
                headers(number)
                + frame(http2.DATA, http2.END_STREAM, number, body)
                + frame(http2.RST_STREAM, 0, number, pack(">I", http2.CANCEL))
                for number in range(2 * start + 1, 2 * start + 1001, 2)
            )
            raw.sendall(calls)
        wait_for(lambda: metric(server.url, "darkroom_http_requests_total", code="499") - cancelled == 10_000)
    assert digests(ask(made, PREDICT, predict(picture(4)))) == [crc32(picture(4))]
    wait_for(lambda: metric(server.url, "darkroom_http_requests_in_flight") == 1)
    assert metric(server.url, "darkroom_queue_images") == 0
    assert server.darkroom.receiving.bytes == 0

    def is_gone() -> bool:
        gc.collect()  # what a turn of the loop has just left may be a circle
        return not any(isinstance(each, Exchange | Stream) for each in gc.get_objects())

    wait_for(is_gone)


def test_a_client_that_leaves_withdraws_what_waits() -> None:
    held = Held(fake_model(name="default"))
    with served(held.model) as (server, made):

        def waiting(count: int) -> None:
            wait_for(lambda: metric(server.url, "darkroom_queue_images") == count)

        with held.standing(server.url, lambda: ask(made, PREDICT, predict(picture(1)))):
            with channel(server.grpc_address) as other:
                call = stub(other, PREDICT).future(predict(picture(2)), timeout=60)
                waiting(1)
                call.cancel()
                waiting(0)
                lost = stub(other, PREDICT).future(predict(picture(3)), timeout=60)
                waiting(1)
            waiting(0)  # its connection is gone
            assert lost.code() is StatusCode.CANCELLED
        wait_for(lambda: metric(server.url, "darkroom_requests_total", outcome="cancelled") == 2)


def test_messages_may_be_compressed_and_bombs_are_refused(made: Any, server: Server) -> None:
    call = stub(made, PREDICT)
    answer = call(predict(picture()), timeout=60, compression=grpc.Compression.Gzip)
    assert digests(answer) == [crc32(picture())]
    bomb = gzip.compress(bytes(50_000_000))
    with wire(server) as raw:
        head = frame(http2.HEADERS, http2.END_HEADERS, 1, CALL + literal("grpc-encoding", "gzip"))
        data = pack(">BI", 1, len(bomb)) + bomb
        pieces = [data[at : at + 16_000] for at in range(0, len(data), 16_000)]
        raw.sendall(head + b"".join(frame(http2.DATA, 0, 1, piece) for piece in pieces))
        assert b"fold" in until(raw, b"grpc-message")
        raw.sendall(headers(3) + frame(http2.DATA, 0, 3, pack(">BI", 1, 3) + b"abc"))
        assert b"expected gzip or deflate" in until(raw, b"or deflate")


def test_answers_are_compressed_where_the_server_and_the_client_want_it() -> None:
    with served(fake_model(name="default"), compress_answers=True) as (server, made):
        pictures = [picture(number) for number in range(300)]
        answer = ask(made, PREDICT, predict(*pictures))
        assert digests(answer) == [crc32(data) for data in pictures]
        with wire(server) as raw:
            accepts = frame(http2.HEADERS, http2.END_HEADERS, 1, CALL + literal("grpc-accept-encoding", "gzip"))
            sent = framed(predict(*pictures))
            pieces = [sent[at : at + 16_000] for at in range(0, len(sent), 16_000)]
            raw.sendall(accepts + b"".join(frame(http2.DATA, 0, 1, piece) for piece in pieces))
            raw.sendall(frame(http2.DATA, http2.END_STREAM, 1, b""))
            assert b"\x00\x0dgrpc-encoding\x04gzip" in until(raw, b"grpc-status")


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (frame(http2.DATA, 0, 1, pack(">BI", 0, 1 << 30)), b"--max_body_bytes"),
        (frame(http2.DATA, http2.END_STREAM, 1, pack(">BI", 0, 100) + b"x"), b"cut off"),
        (frame(http2.DATA, http2.END_STREAM, 1, b"\x00\x00"), b"cut off"),
        (frame(http2.DATA, http2.END_STREAM, 1, b""), b"has no message"),
        (frame(http2.DATA, 0, 1, 2 * pack(">BI", 0, 0)), b"more than one message"),
        (frame(http2.DATA, http2.END_STREAM, 1, pack(">BI", 0, 3) + b"\xff\xff\xff"), b"the body is no tensorflow"),
        (frame(http2.DATA, http2.END_STREAM, 1, framed(infer(picture()))), b"grpc-message"),  # another message
    ],
)
def test_hostile_messages_get_a_clean_status_and_the_connection_goes_on(
    server: Server, sent: bytes, words: bytes
) -> None:
    with wire(server) as raw:
        raw.sendall(headers(1) + sent)
        got = until(raw, b"grpc-message")
        assert words in got
        assert b"grpc-status\x013" in got
        raw.sendall(headers(3) + frame(http2.DATA, http2.END_STREAM, 3, framed(predict(picture(7)))))
        assert b"grpc-status\x010" in until(raw, b"grpc-status")
    assert server.darkroom.receiving.bytes == 0


@pytest.mark.parametrize(
    "data",
    [
        b"POST / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00" + bytes(100),  # TLS to a port without it
        PREFACE + b"\xff\xff\xff\x01\x05\x00\x00\x00\x01",  # a frame of 16 MB
        PREFACE + frame(http2.SETTINGS, 0, 0) + headers(1)[:20],
    ],
)
def test_hostile_connections_end_and_the_next_is_served(server: Server, made: Any, data: bytes) -> None:
    host, port = server.grpc_address.split(":")
    with socket.create_connection((host, int(port)), timeout=60) as raw:
        raw.sendall(data)
        raw.shutdown(socket.SHUT_WR)
        until(raw, b"never")  # the server closes
    assert digests(ask(made, PREDICT, predict(picture(8)))) == [crc32(picture(8))]


def test_calls_that_are_not_grpc_or_of_no_method_are_refused(server: Server, made: Any) -> None:
    with wire(server) as raw:
        raw.sendall(frame(http2.HEADERS, 5, 1, b"\x82" + literal(":path", "/health")))
        assert b":status\x03415" in until(raw, b"415")
    call = made.unary_unary("/no.such.Service/Method")
    with pytest.raises(grpc.RpcError) as refused:
        call(b"", timeout=60)
    assert refused.value.code() is StatusCode.UNIMPLEMENTED
    assert metric(server.url, "darkroom_http_requests_total", route="grpc-unknown") == 2


def test_limits_of_time_size_and_connections_hold() -> None:
    model = fake_model(name="default")
    with (
        served(model, read_timeout_ms=200, max_body_bytes=8192, max_connections=2) as (server, made),
        wire(server) as raw,
    ):
        code, text = refusal(made, PREDICT, predict(picture() + bytes(9000)))
        assert (code, "--max_body_bytes=8192" in text) == (StatusCode.INVALID_ARGUMENT, True)
        with contextlib.suppress(ConnectionResetError), wire(server) as third:
            assert until(third, b"never") == b""
        raw.sendall(headers(1) + frame(http2.DATA, 0, 1, pack(">BI", 0, 100)))
        assert b"--read_timeout_ms" in until(raw, b"grpc-message")
        health = literal(":path", "/grpc.health.v1.Health/Check")
        raw.sendall(frame(http2.HEADERS, http2.END_HEADERS, 3, CALL + health))  # and no message
        assert b"--read_timeout_ms" in until(raw, b"grpc-message")


def test_memory_for_what_clients_hold_back_is_bounded_and_given_back() -> None:
    with served(fake_model(name="default"), max_receiving_bytes=1 << 20, read_timeout_ms=60_000) as (server, made):
        body = pack(">BI", 0, 700_000) + bytes(700_000)
        pieces = [body[at : at + 16_000] for at in range(0, len(body), 16_000)]
        with wire(server) as raw:  # whole messages of calls that do not end
            for number in (1, 3):
                raw.sendall(headers(number) + b"".join(frame(http2.DATA, 0, number, piece) for piece in pieces))
            assert b"--max_receiving_bytes" in until(raw, b"grpc-message")
            assert server.darkroom.receiving.bytes == 700_000
        wait_for(lambda: server.darkroom.receiving.bytes == 0)
        assert digests(ask(made, PREDICT, predict(picture()))) == [crc32(picture())]


def test_questions_without_end_by_a_client_that_reads_no_answer_are_cut_off(server: Server) -> None:
    question = framed(
        message("grpc.reflection.v1.ServerReflectionRequest")(file_containing_symbol="inference.ModelInferRequest")
    )
    path = literal(":path", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
    with wire(server) as raw:
        raw.sendall(frame(http2.SETTINGS, 0, 0, pack(">HI", http2.INITIAL_WINDOW_SIZE, 0)))
        raw.sendall(frame(http2.HEADERS, http2.END_HEADERS, 1, CALL + path))
        raw.sendall(b"".join(frame(http2.DATA, 0, 1, question * 200) for _ in range(30)))
        assert frame(http2.RST_STREAM, 0, 1, pack(">I", http2.CALM_ERROR)) in until(raw, b"\0\0\0\x01\0\0\0\x0b")
    wait_for(lambda: server.darkroom.receiving.bytes == 0)


def test_calls_are_logged_and_counted_by_their_method(server: Server, made: Any) -> None:
    labels = {"route": f"/{PREDICT}", "method": "gRPC", "code": "200"}
    before = metric(server.url, "darkroom_http_requests_total", **labels)
    _, call = stub(made, PREDICT).with_call(predict(picture()), metadata=[("x-request-id", "mine")], timeout=60)
    trailers = dict(call.trailing_metadata())
    assert trailers["x-request-id"] == "mine"
    assert "execute;dur=" in trailers["server-timing"]
    assert metric(server.url, "darkroom_http_requests_total", **labels) == before + 1
