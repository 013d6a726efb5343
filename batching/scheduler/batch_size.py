"""How many of the waiting rows the next batch takes, for the most rows a second."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from darkroom.batching.limits import Limits
    from darkroom.batching.scheduler.service_curve import ServiceCurve

_GAIN = 1.03  # a smaller batch must be this much more efficient to be taken; measured times differ by less (guess)
_EXPLORE_EVERY = 8  # cut batches between two looks at a neighbouring size (guess; costs about a hundredth)
_LOOK_EVERY = 8  # samples of the curve between two choices of sizes, which take 20 us (guess)
_YOUNG = 128  # up to so many samples each is looked at (guess)
_TURN_S = 1e-4  # what a batch costs besides its call: turns of the loop, a thread's waking (measured: 0.06 to 0.12 ms)
_STALE_S = 1.0  # on an idle engine a curve that learned nothing for so long condemns nobody (guess)
_RATE_ROWS = 4096  # the poison rate is that of about so many last rows (guess),
_HEALTHY_ROWS = 128  # and of so many healthy ones, so that one guilty row at the start is no storm (guess)


class BatchSizer:
    """Chooses sizes from the limits and, where there is one, from the service curve.

    Without a curve a batch is as large as the limits allow, as in a classic batcher. With one, what waits is cut into
    the size class with the most rows a second; every eighth cut tries a neighbouring class, so that the choice follows
    a machine that changes. Where rows turn out guilty, the calls that bisection will need count as well: the more
    poison, the smaller the batch, down to single rows, which need none.
    """

    def __init__(self, limits: Limits, curve: ServiceCurve | None) -> None:
        self._top = limits.top_images
        self._curve = curve
        self._cuts = 0
        self._rows = _HEALTHY_ROWS  # run for the first time, decayed
        self._guilty = 0.0  # found guilty, decayed
        self._target = self._top
        self._version = -1  # of the curve when the target and these were computed:
        self._best: dict[int, int] = {}  # the most efficient size, by the rows that wait

    def target(self) -> int:
        """The size that a long queue is cut into."""
        curve = self._curve
        if curve is not None and curve.version != self._version and self._is_worth_a_look(curve.version):
            self._version = curve.version
            self._best.clear()
            self._target = self._most_efficient(curve, self._top)
        return self._target

    def size(self, rows: int) -> int:
        """How many of `rows` waiting rows the next batch should take, time being no object; at least one."""
        most = min(rows, self._top)
        curve = self._curve
        if curve is None or not curve.version:
            return most
        size = self.target()
        if most < self._top:
            size = self._best.get(most) or self._best.setdefault(most, self._most_efficient(curve, most))
        if size < most or most == self._top:
            self._cuts += 1
            if self._cuts % _EXPLORE_EVERY == 0:
                return self._neighbour(curve, size, most)
        return size

    def cost(self, images: int) -> float:
        """Engine seconds that a call of `images` rows takes; 1.0, one call, while nothing is known."""
        return (self._curve.expected(images) if self._curve else 0.0) or 1.0

    def is_stale(self, now: float) -> bool:
        """Whether the curve is too old for an idle engine to refuse or drop anybody, lest a bad spell shut the door."""
        return self._curve is None or now - self._curve.learned_s > _STALE_S

    def note_run(self, images: int) -> None:
        """Counts rows that run for the first time."""
        self._rows += images
        if self._rows > _RATE_ROWS:
            self._rows //= 2
            self._guilty /= 2

    def note_guilty(self) -> None:
        """Counts a row found guilty."""
        self._guilty += 1
        self._version = -1

    def _is_worth_a_look(self, version: int) -> bool:
        """Whether the curve has learned enough since: each sample while it has few, later a few together."""
        return version < _YOUNG or self._version < 0 or version - self._version >= _LOOK_EVERY

    def _most_efficient(self, curve: ServiceCurve, most: int) -> int:
        """The known class below `most` that beats it, and all larger ones, by more than noise; else `most`."""
        if most == 1:
            return 1
        best, best_s = most, self._row_s(curve, most)
        for size in reversed(curve.known):
            if size < most and (seconds := self._row_s(curve, size)) * _GAIN < best_s:
                best, best_s = size, seconds
        return best

    def _row_s(self, curve: ServiceCurve, images: int) -> float:
        """Engine seconds a row in batches of `images`, the expected calls of bisection included.

        A half of s rows runs when the 2s rows it is half of hold a guilty one: with probability 1 - (1 - p)^2s.
        """
        seconds = curve.expected(images) + _TURN_S
        if self._guilty >= 1:
            healthy = 1 - min(1.0, self._guilty / self._rows)
            halves, size = 2, images
            while size > 1:
                fails = 1 - healthy**size
                size = (size + 1) // 2
                seconds += halves * fails * curve.expected(size)
                halves *= 2
        return seconds / images

    def _neighbour(self, curve: ServiceCurve, size: int, most: int) -> int:
        """The class above or below `size` in turn, where there is one up to `most`; else `size`."""
        if self._cuts // _EXPLORE_EVERY % 2:
            return next((other for other in curve.sizes if size < other <= most), size)
        return next((other for other in reversed(curve.sizes) if other < size), size)
