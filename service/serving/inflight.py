"""How many calls to have in flight at once, from measurements."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

_GAIN = 1.05  # one more call must bring this much: it takes a core's share from the event loop, and latency (guess)
_PRICE = 0.97  # of the rate that the second call may cost all the same (guess)


class InflightChoice(NamedTuple):
    """The calls in flight to have, and the best size and rate measured with them."""

    inflight: int
    images: int
    images_per_s: float


def choose_inflight(measured: Iterable[tuple[int, int, float]]) -> InflightChoice:
    """Picks the fewest calls in flight whose best rate no greater number beats by 5 %; two rather than one at 3 % less.

    Between the calls of one slot the engine has nothing to do: answers are written, the next batch is on its way. These
    measurements know nothing of that; the second call fills the gap.

    Args:
        measured: as for `best_of_each`.

    Raises:
        ValueError: when nothing was measured.
    """
    best = best_of_each(measured)
    if not best:
        raise ValueError("nothing was measured")
    top = max(choice.images_per_s for choice in best.values())
    fewest = next(choice for choice in best.values() if choice.images_per_s * _GAIN >= top)
    two = best.get(2)
    return two if two and fewest.inflight == 1 and two.images_per_s >= _PRICE * fewest.images_per_s else fewest


def best_of_each(measured: Iterable[tuple[int, int, float]]) -> dict[int, InflightChoice]:
    """The best size and its rate for each number of calls in flight, the fewest first.

    Args:
        measured: (calls in flight, rows of each call, seconds that each call took), in any order; where a pair was
            measured several times its median counts.
    """
    samples: dict[tuple[int, int], list[float]] = {}
    for inflight, images, seconds in measured:
        samples.setdefault((inflight, images), []).append(seconds)
    best: dict[int, InflightChoice] = {}
    for (inflight, images), times in sorted(samples.items()):
        choice = InflightChoice(inflight, images, inflight * images / median(times))
        if inflight not in best or choice.images_per_s > best[inflight].images_per_s:
            best[inflight] = choice
    return best
