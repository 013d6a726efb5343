"""Light batches: those that are over before a thread has woken up, and are better run where they are."""

from collections.abc import Sequence

from darkroom.models.rows import Rows

# A busy interpreter takes longer to be handed to a thread and back, and every other client waits at most this (guess).
LIGHT_S = 0.002
MAX_PIXELS = (
    1 << 17
)  # of all pictures together, so that no one's large picture holds up the others; 1 to 2 ms of a JPEG
_SHARE = 1 / 8  # of the last call in what a row is thought to take (guess)
_FORGET = 0.998  # per batch that went to a thread: a bad spell must not last for good (guess)


class InlineRule:
    """Knows what a row takes a quick engine here, and so which batches are light.

    Only pictures of known size are: nobody knows what other inputs take.

    Args:
        lone_s: seconds of a call of one row; of a light one's length or more, nothing is ever light.
    """

    def __init__(self, lone_s: float) -> None:
        self._is_quick = lone_s <= LIGHT_S
        self._row_s = lone_s

    def takes(self, parts: Sequence[tuple[Rows, int, int]], padding: int) -> bool:
        """Whether a batch of these parts is light."""
        if not self._is_quick:
            return False
        rows, pixels = padding, 0
        for payload, start, stop in parts:
            rows += stop - start
            pixels += payload.pixels or MAX_PIXELS + 1
        if pixels <= MAX_PIXELS and rows * self._row_s <= LIGHT_S:
            return True
        self._row_s *= _FORGET
        return False

    def learn(self, rows: int, seconds: float) -> None:
        """Takes the time of a light call; one that was interrupted counts for twice what was expected at most."""
        self._row_s += (min(seconds / rows, 2 * self._row_s) - self._row_s) * _SHARE
