"""Closed-loop load: clients that send the next request as soon as they are answered, to measure a server's capacity."""

import asyncio
import sys
import time
from collections.abc import Callable, Sequence

from loadtest.traffic.connections import ConnectionPool, HttpResponse, retry_after_s

WARM_UP_S = 2.0  # not counted: the server's batch sizes have to settle
SETTLE_S = 1.0  # before the next load, so that it does not start with this one's queue
BACK_OFF_S = 0.05  # wait of a client that was refused without a Retry-After


async def capacity(pool: ConnectionPool, requests: Sequence[bytes], *, clients: int, seconds: float) -> float:
    """Returns the answers per second to `clients` closed-loop clients; a refused client waits for its Retry-After.

    Closes the connections of the pool.
    """
    answered, is_over = 0, False
    start_s = time.perf_counter()

    async def client(number: int) -> None:
        nonlocal answered
        place = number
        while not is_over:
            reply = await pool.answer(requests[place % len(requests)])
            place += 1
            if reply.status != 200:
                await asyncio.sleep(retry_after_s(reply) or BACK_OFF_S)
            elif time.perf_counter() - start_s >= WARM_UP_S:
                answered += 1

    clients_running = [asyncio.ensure_future(client(number)) for number in range(clients)]
    while (left_s := start_s + WARM_UP_S + seconds - time.perf_counter()) > 0:
        show_progress(f"capacity  {left_s:3.0f} s left  answered {answered}")
        await asyncio.sleep(min(1.0, left_s))
    is_over = True
    measured_s = time.perf_counter() - start_s - WARM_UP_S
    rate = answered / measured_s
    await asyncio.wait(clients_running, timeout=10)
    await pool.close()
    await asyncio.sleep(SETTLE_S)
    return rate


async def answer_each(
    pool: ConnectionPool,
    request: Callable[[int], bytes],
    *,
    clients: int,
    requests: int,
    done: Callable[[int, HttpResponse], None],
) -> float:
    """Sends exactly `requests` requests from closed-loop clients, each once; returns the seconds from the first to the last.

    Closes the connections of the pool.

    Args:
        pool: the connections.
        request: number of a request, from 0 on → its bytes.
        clients: requests in flight at most.
        requests: how many are sent.
        done: takes the number of a request and its answer, whatever it is.
    """
    places = iter(range(requests))

    async def client() -> None:
        for place in places:
            done(place, await pool.answer(request(place)))

    start_s = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    took_s = time.perf_counter() - start_s
    await pool.close()
    return took_s


def show_progress(text: str) -> None:
    """Shows one line of progress; on a terminal it replaces the previous one."""
    is_terminal = sys.stderr.isatty()
    sys.stderr.write(f"\r\x1b[K{text}" if is_terminal else f"{text}\n")
    sys.stderr.flush()
