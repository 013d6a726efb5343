"""An ask: one predict request on its way to its reply. Every dialect walks through here.

A dialect fills an Ask (`target`, `rows`, `render`); `submit` sends it through the batcher; `answer` or `fail` makes the
Reply. Nothing here awaits but `predict`, the wrapper for handlers that are coroutines.
"""

from __future__ import annotations

import asyncio
import logging
import math
from functools import lru_cache
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from darkroom.batching.entry import Entry
from darkroom.models.rows import Rows, join
from darkroom.service.errors import UNKNOWN, CodecError, describe, judge, retry_after_s
from darkroom.service.predict import codec
from darkroom.service.predict.intake import Intake

if TYPE_CHECKING:
    from collections.abc import Callable

    from darkroom.batching.entry import Answer, Reason

_log = logging.getLogger("darkroom.service")
_STAGES = ("parse", "decode", "inspect", "serialize")  # of the edge


class Reply(NamedTuple):
    """What goes back: a body, its status, and the headers that explain it."""

    status: int
    body: bytes
    headers: dict[str, str]
    content_type: str = "application/json"


# What all answers of a batch say alike of it: seconds of collate, execute and split, its images, and why it left.
Ran: TypeAlias = "tuple[float, float, float, int, Reason | None]"


class Rendered(NamedTuple):
    """What a renderer makes where the body alone does not say it all: headers of its own, another content type."""

    body: bytes
    headers: dict[str, str]
    content_type: str


class PredictRequest(Intake):
    """One request on its way; `render` makes the body of its answer out of the rows that the model gave."""

    __slots__ = ("_ran", "is_sts", "render")

    def __init__(self, *, timeout_s: float, is_sts: bool = False) -> None:
        super().__init__(timeout_s=timeout_s)
        self.is_sts = is_sts  # STS's clients get 400 where others get 404 or 415
        self.render: Callable[[Rows], bytes | Rendered] = _render_columns
        self._ran: Ran | None = None

    def set_deadline(self, header: str | None) -> None:
        """Brings the deadline forward to what `X-Darkroom-Deadline-Ms` says; it can't push it back.

        Raises:
            CodecError: not a positive number of milliseconds.
        """
        if header is None:
            return
        try:
            milliseconds = float(header)
        except ValueError:
            milliseconds = math.nan
        if not 0 < milliseconds < math.inf:
            raise CodecError("X-Darkroom-Deadline-Ms: expected a positive number of milliseconds")
        self.set_timeout(milliseconds / 1000)

    def set_timeout(self, seconds: float) -> None:
        """Brings the deadline forward to `seconds` after the start; it can't push it back."""
        self.deadline_s = min(self.deadline_s, self.started_s + seconds)

    def set_priority(self, header: str | None) -> None:
        """Puts the rows in the lane that `X-Darkroom-Priority` names: `interactive`, the default, or `bulk`.

        Raises:
            CodecError: neither.
        """
        if header is not None:
            if header not in {"interactive", "bulk"}:
                raise CodecError("X-Darkroom-Priority: expected interactive or bulk")
            self.bulk = header == "bulk"

    def submit(self, on_reply: Callable[[Reply], None]) -> Entry | None:
        """Sends the rows on their way; `on_reply` is called once, on the loop.

        Returns:
            The entry, to be withdrawn if the caller leaves; None where the reply was made at once.

        Raises:
            QueueFull, PredictedLate, Closed: refused at once; `on_reply` is not called.
        """
        target, rows = self._ready()
        if self.gaps is not None:
            self._expect_rows(self.gaps, rows)
        if not len(rows):
            on_reply(self._reply_rows(target.spec.empty(rows.asked)))
            return None
        entry = Entry(
            rows,
            len(rows),
            row_bytes=self.sizes,
            row_pixels=self.pixels,
            deadline=self.deadline_s,
            key=rows.key,
            whole=not (rows.aligned and target.spec.batched),
            keep_going=self.gaps is not None,
            bulk=self.bulk,
        )
        target.batcher.submit(entry, lambda answer: on_reply(self.answer(answer)))
        return entry

    async def predict(self) -> Reply:
        """`submit` for a coroutine; cancelling it withdraws the entry."""
        waiter: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        entry = self.submit(lambda reply: None if waiter.done() else waiter.set_result(reply))
        try:
            return await waiter
        except asyncio.CancelledError:
            self.withdraw(entry)
            raise

    def withdraw(self, entry: Entry | None) -> None:
        """Takes back what `submit` returned: the caller has left and no reply is made any more."""
        if entry is not None and self.target is not None and self.target.batcher.withdraw(entry):
            self._count("cancelled")

    def answer(self, answer: Answer) -> Reply:
        """The reply to what the batcher made of the entry; never raises."""
        self._lap_s = monotonic()
        timing = answer.timing
        self.laps["queue"] = timing.queue_s
        if timing.batch_images:
            self._ran = timing.collate_s, timing.execute_s, timing.split_s, timing.batch_images, timing.reason
        self._ready()[0].metrics.queue_wait.observe(timing.queue_s)
        try:
            if self.gaps is None and answer.errors:
                return self.fail(self._guilty(answer))
            if answer.error is not None:
                return self.fail(answer.error)
            return self._reply_rows(self._answered(answer))
        except Exception as err:  # noqa: BLE001 - the edge: whatever a renderer raises becomes this caller's 500, no one else's
            return self.fail(err)

    def fail(self, error: BaseException) -> Reply:
        """The reply to an exception, by the one table; logs what is our own fault."""
        verdict = judge(error)
        status = verdict.sts_status if self.is_sts else verdict.status
        if verdict is UNKNOWN:
            _log.error("a request failed", exc_info=error)
        self._count(verdict.outcome)
        headers = {"Server-Timing": self.timing()}
        wait_s = retry_after_s(error)
        if wait_s is not None or status == 503:
            headers["Retry-After"] = str(max(1, math.ceil(wait_s or 1)))
        return Reply(status, codec.dump_json({"error": describe(error)}), headers)

    def timing(self) -> str:
        """The `Server-Timing` header: each stage in milliseconds, and the whole."""
        laps = self.laps
        total_s = monotonic() - self.started_s
        return _timing_form(tuple(laps), self._ran) % (*[seconds * 1000 for seconds in laps.values()], total_s * 1000)

    def _reply_rows(self, rows: Rows) -> Reply:
        made = self.render(rows)
        self.lap("serialize")
        self._count("ok")
        headers = {"Server-Timing": self.timing()}
        if isinstance(made, bytes):
            return Reply(200, made, headers)
        return Reply(200, made.body, headers | made.headers, made.content_type)

    def _answered(self, answer: Answer) -> Rows:
        """The rows that were answered, in the request's order."""
        target, rows = self._ready()
        if self.gaps is not None:
            self.gaps.condemn(answer.errors, target.field)
        pieces = [piece for piece in answer.pieces if isinstance(piece, Rows)]
        return join(pieces) if pieces else target.spec.empty(rows.asked)

    def _guilty(self, answer: Answer) -> CodecError:
        """The first guilty row by its index, and how many there are."""
        target, _ = self._ready()
        index = min(answer.errors)
        return CodecError(f"{target.field}[{index}]: {describe(answer.errors[index])}")

    def _count(self, outcome: str) -> None:
        """Counts the end of this ask under its model, and the stages of the edge; the runner's are counted a batch."""
        if self.target is None:
            return
        metrics = self.target.metrics
        images = len(self.rows) if self.rows is not None else self.images
        metrics.request_ended(outcome, images, monotonic() - self.started_s)
        laps, stages = self.laps, metrics.stages
        for stage in _STAGES:
            if stage in laps:
                stages[stage].observe(laps[stage])


@lru_cache(256)
def _timing_form(stages: tuple[str, ...], ran: Ran | None) -> str:
    """A `Server-Timing` header to be filled with milliseconds of `stages` and the whole: one for all of a batch."""
    parts = [f"{stage};dur=%.3f" for stage in (*stages, "total")]
    if ran is not None:
        collate_s, execute_s, split_s, images, reason = ran
        times = (
            f"collate;dur={collate_s * 1000:.3f}, execute;dur={execute_s * 1000:.3f}, split;dur={split_s * 1000:.3f}"
        )
        parts.insert(stages.index("queue") + 1, times)
        parts += [f'batch;desc="{images}"', f'reason;desc="{reason}"']
    return ", ".join(parts)


def _render_columns(rows: Rows) -> bytes:
    """STS's answer: every output by its name."""
    return codec.dump_columns(rows.columns)
