"""What a caller gets: the rows' answers, what went wrong with which row, and where the time went."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from types import MappingProxyType
from typing import NamedTuple

from darkroom.batching.batch import Reason

NO_ERRORS: Mapping[int, BaseException] = MappingProxyType({})


class Timing(NamedTuple):
    """Where one entry's time went; a tuple, since one is made for each answer.

    Attributes:
        queue_s: from submit to the start of its first batch in the runner's thread; its whole life where it had none.
        execute_s: engine time of all batches it rode in, as are collate_s and split_s.
        batch_images: rows of the largest batch it rode in, 0 where it had none.
        reason: why its first batch left when it did; None where it had none.
        retries: batches it rode in again because a neighbour or itself was suspected.
    """

    queue_s: float
    execute_s: float = 0.0
    batch_images: int = 0
    reason: Reason | None = None
    collate_s: float = 0.0
    split_s: float = 0.0
    retries: int = 0


class Answer(NamedTuple):
    """What `on_done` gets, once for each entry that was not withdrawn.

    Attributes:
        pieces: the runner's results in row order, guilty rows left out; one piece unless the entry was split.
        errors: the guilty rows by their index in the entry.
        error: why the whole entry failed: a BatchingError or the runner's error; None where `pieces` answer it.
        timing: where the time went.
    """

    pieces: tuple[Sized, ...]
    errors: Mapping[int, BaseException]
    error: BaseException | None
    timing: Timing
