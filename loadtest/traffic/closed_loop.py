"""A closed loop: clients that ask again as soon as they are answered. What a server can do, before it gets more."""

import asyncio
import sys
import time
from collections.abc import Sequence

from loadtest.traffic.connections import ConnectionPool, HttpResponse, retry_after_s

WARM_UP_S = 2.0  # not counted: the server's batch sizes settle
SETTLE_S = 1.0  # before the next load, so that one's queue is not the next one's start
BACK_OFF_S = 0.05  # of a client that was refused without a Retry-After


async def capacity(pool: ConnectionPool, requests: Sequence[bytes], *, clients: int, seconds: float) -> float:
    """Answers per second to `clients` that each ask again as soon as they are answered; a refused one waits as told."""
    answered, is_over = 0, False
    start_s = time.perf_counter()

    async def client(number: int) -> None:
        nonlocal answered
        place = number
        while not is_over:
            reply = await _asked(pool, requests[place % len(requests)])
            place += 1
            if reply.status != 200:
                await asyncio.sleep(retry_after_s(reply) or BACK_OFF_S)
            elif time.perf_counter() - start_s >= WARM_UP_S:
                answered += 1

    clients_running = [asyncio.ensure_future(client(number)) for number in range(clients)]
    while (left_s := start_s + WARM_UP_S + seconds - time.perf_counter()) > 0:
        show(f"capacity  {left_s:3.0f} s left  answered {answered}")
        await asyncio.sleep(min(1.0, left_s))
    is_over = True
    measured_s = time.perf_counter() - start_s - WARM_UP_S
    rate = answered / measured_s
    await asyncio.wait(clients_running, timeout=10)
    await pool.close()
    await asyncio.sleep(SETTLE_S)
    return rate


async def _asked(pool: ConnectionPool, request: bytes) -> HttpResponse:
    answer: asyncio.Future[HttpResponse] = asyncio.get_running_loop().create_future()
    pool.ask(request, lambda reply: None if answer.done() else answer.set_result(reply))
    return await answer


def show(text: str) -> None:
    """One line of progress, over the last one on a terminal."""
    is_terminal = sys.stderr.isatty()
    sys.stderr.write(f"\r\x1b[K{text}" if is_terminal else f"{text}\n")
    sys.stderr.flush()
