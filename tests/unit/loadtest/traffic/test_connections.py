"""The generator's own HTTP client, against servers that answer in awkward ways."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import cast

from loadtest.traffic.connections import ConnectionPool, HttpResponse, header, request_bytes
from loadtest.traffic.pictures import json_body, load

REQUEST = request_bytes("127.0.0.1", json_body(load("digits")[:1]))
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nServer-Timing: queue;dur=1\r\n\r\nhello"
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """One whole request; nothing where the client has gone."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    return head + await reader.readexactly(length)


async def answers(handler: Handler, *, asked: int, limit: int) -> list[HttpResponse]:
    """What a pool of `limit` connections got for `asked` requests made at once, in the order of their ends."""
    replies: list[HttpResponse] = []
    are_all_back = asyncio.Event()

    def done(reply: HttpResponse) -> None:
        replies.append(reply)
        if len(replies) == asked:
            are_all_back.set()

    handlers: list[asyncio.Task[None]] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.append(cast("asyncio.Task[None]", asyncio.current_task()))
        await handler(reader, writer)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        pool = ConnectionPool("127.0.0.1", server.sockets[0].getsockname()[1], limit=limit)
        for _ in range(asked):
            pool.ask(REQUEST, done)
        await are_all_back.wait()
        await pool.close()
        await asyncio.gather(*handlers)
    return replies


def test_many_requests_share_few_connections() -> None:
    connections = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while await read_request(reader):
            writer.write(ANSWER)

    replies = asyncio.run(answers(handle, asked=20, limit=3))
    assert connections == 3
    assert [(reply.status, reply.body) for reply in replies] == [(200, b"hello")] * 20
    assert all(reply.written_s is not None for reply in replies)


def test_a_request_arrives_whole_and_says_what_it_is() -> None:
    seen: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await read_request(reader):
            seen.append(request)
            writer.write(ANSWER)

    asyncio.run(answers(handle, asked=1, limit=1))
    assert seen == [REQUEST]
    assert REQUEST.startswith(b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n")


def test_an_answer_in_pieces_is_put_together() -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await read_request(reader):
            for place in range(len(ANSWER)):
                writer.write(ANSWER[place : place + 1])
                await writer.drain()

    (reply,) = asyncio.run(answers(handle, asked=1, limit=1))
    assert (reply.status, reply.body) == (200, b"hello")


def test_a_server_that_closes_after_each_answer_gets_a_new_connection_for_the_next() -> None:
    connections = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        if await read_request(reader):
            writer.write(ANSWER.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))

    replies = asyncio.run(answers(handle, asked=4, limit=1))
    assert [reply.status for reply in replies] == [200] * 4
    assert connections == 4


def test_a_connection_that_breaks_fails_its_request_and_no_other() -> None:
    connections = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        is_first = connections == 1
        while await read_request(reader):
            if is_first:
                break
            writer.write(ANSWER)

    replies = asyncio.run(answers(handle, asked=3, limit=1))
    assert [reply.status for reply in replies] == [0, 200, 200]


def test_a_server_that_is_not_there_fails_every_request() -> None:
    async def ask() -> list[HttpResponse]:
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        replies: list[HttpResponse] = []
        is_back = asyncio.Event()

        def done(reply: HttpResponse) -> None:
            replies.append(reply)
            is_back.set()

        ConnectionPool("127.0.0.1", port, limit=1).ask(REQUEST, done)
        await is_back.wait()
        return replies

    assert [(reply.status, reply.written_s) for reply in asyncio.run(ask())] == [(0, None)]


def test_headers_are_found_whatever_their_case() -> None:
    reply = HttpResponse(200, ANSWER.split(b"\r\n\r\n")[0], b"", 0.0)
    assert header(reply, "server-timing") == "queue;dur=1"
    assert header(reply, "Retry-After") is None
