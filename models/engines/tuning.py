"""Two ways of one call, timed in turns: what else the machine does falls on both alike."""

import time
from collections.abc import Callable

from darkroom.models.rows import Rows

ROUNDS = 9  # of which the quickest counts: what else the machine does only adds


def in_turns(
    first: Callable[[Rows], Rows], second: Callable[[Rows], Rows], rows: Rows, *, rounds: int = ROUNDS
) -> tuple[float, float]:
    """Seconds of the quickest call of each way; the very first call of each, which makes its kernels, isn't counted."""
    ways = (first, second)
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(1 + rounds):
        for way, seconds in zip(ways, times, strict=True):
            started_s = time.monotonic()
            way(rows)
            if number:
                seconds.append(time.monotonic() - started_s)
    return min(times[0]), min(times[1])
