"""An ask: one predict request on its way to its reply. Every dialect walks through here.

A dialect fills an Ask (`target`, `rows`, `render`); `submit` sends it through the batcher; `answer` or `fail` makes the
Reply. Nothing here awaits but `predict`, the wrapper for handlers that are coroutines.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import TYPE_CHECKING, NamedTuple

from batching.entry import Entry
from models.rows import Rows, join, row_bytes
from service import codec
from service.errors import UNKNOWN, CodecError, NotReady, describe, judge, retry_after_s

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batching.answer import Answer
    from service.catalogue import Target
    from service.door import Door

_log = logging.getLogger("darkroom.service")


class Reply(NamedTuple):
    """What goes back: a body, its status, and the headers that explain it."""

    status: int
    body: bytes
    headers: dict[str, str]
    content_type: str = "application/json"


class Rendered(NamedTuple):
    """What a renderer makes where the body alone does not say it all: headers of its own, another content type."""

    body: bytes
    headers: dict[str, str]
    content_type: str


class Ask:
    """One request on its way; times in seconds of the monotonic clock, `laps` holds those of its stages."""

    __slots__ = (
        "_lap_s",
        "bulk",
        "deadline_s",
        "is_sts",
        "laps",
        "pixels",
        "render",
        "rows",
        "sizes",
        "started_s",
        "target",
    )

    def __init__(self, *, timeout_s: float, is_sts: bool = False) -> None:
        self.started_s = self._lap_s = time.monotonic()
        self.deadline_s = self.started_s + timeout_s
        self.is_sts = is_sts  # STS's clients get 400 where others get 404 or 415
        self.bulk = False
        self.laps: dict[str, float] = {}
        self.target: Target | None = None
        self.rows: Rows | None = None
        self.sizes: list[int] = []
        self.pixels: list[int] = []
        self.render: Callable[[Rows], bytes | Rendered] = _render_columns

    def lap(self, stage: str) -> None:
        """Books the time since the last lap on `stage`."""
        now = time.monotonic()
        self.laps[stage] = self.laps.get(stage, 0.0) + now - self._lap_s
        self._lap_s = now

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

    def take_pictures(self, target: Target, pictures: list[bytes], door: Door) -> None:
        """Makes `pictures`, raw bytes each, the rows of this ask, once the door has let every one of them in."""
        self.target = target
        if target.spec.image_input is not None:
            self.sizes, self.pixels = door.admit(pictures, target.spec, target.field, target.metrics.poison)
        else:
            self.sizes = [len(data) for data in pictures]
        self.rows = Rows({target.field: pictures}, count=len(pictures))
        self.lap("inspect")

    def take_inputs(self, target: Target, raw: Mapping[str, object], door: Door, *, strict: bool) -> None:
        """Makes `raw`, the signature's inputs by name with pictures as raw bytes, the rows of this ask.

        The pictures among them go through the door; `strict` is that of `SignatureSpec.accept`.

        Raises:
            CodecError, InvalidInput: an input or a picture that isn't taken; names the field and the index.
        """
        self.target = target
        self.rows = rows = target.spec.accept(raw, strict=strict)
        if target.spec.image_input is not None:
            self._admit(rows, target, door)
        else:
            self.sizes = row_bytes(rows)
        self.lap("inspect")

    def _admit(self, rows: Rows, target: Target, door: Door) -> None:
        """The door for pictures that aren't the only input, or not one a row."""
        column = rows.columns[target.field]
        pictures = column if isinstance(column, list) else column.ravel().tolist()
        if len(rows) and not pictures:
            raise CodecError(f"{target.field}: is empty, beside {len(rows)} rows of other inputs")
        sizes, pixels = door.admit(pictures, target.spec, target.field, target.metrics.poison)
        if len(sizes) != len(rows):  # the rows aren't the pictures: they go as one whole, and the first is charged
            rest = [0] * (len(rows) - 1)
            sizes, pixels = [sum(sizes), *rest], [sum(pixels), *rest]
        self.sizes, self.pixels = sizes, pixels

    def submit(self, on_reply: Callable[[Reply], None]) -> Entry | None:
        """Sends the rows on their way; `on_reply` is called once, on the loop.

        Returns:
            The entry, to be withdrawn if the caller leaves; None where the reply was made at once.

        Raises:
            QueueFull, PredictedLate, Closed: refused at once; `on_reply` is not called.
        """
        target, rows = self._ready()
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
        self._lap_s = time.monotonic()
        timing = answer.timing
        self.laps |= {"queue": timing.queue_s, "collate": timing.collate_s, "execute": timing.execute_s}
        self.laps["split"] = timing.split_s
        self._ready()[0].metrics.queue_wait.observe(timing.queue_s)
        try:
            if answer.errors:
                return self.fail(self._guilty(answer))
            if answer.error is not None:
                return self.fail(answer.error)
            reply = self._reply_rows(join([piece for piece in answer.pieces if isinstance(piece, Rows)]))
        except Exception as err:  # noqa: BLE001 - the edge: whatever a renderer raises becomes this caller's 500, no one else's
            return self.fail(err)
        reply.headers["Server-Timing"] += f', batch;desc="{timing.batch_images}", reason;desc="{timing.reason}"'
        return reply

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
        stages = [f"{stage};dur={seconds * 1000:.3f}" for stage, seconds in self.laps.items()]
        return ", ".join([*stages, f"total;dur={(time.monotonic() - self.started_s) * 1000:.3f}"])

    def _reply_rows(self, rows: Rows) -> Reply:
        made = self.render(rows)
        self.lap("serialize")
        self._count("ok")
        headers = {"Server-Timing": self.timing()}
        if isinstance(made, bytes):
            return Reply(200, made, headers)
        return Reply(200, made.body, headers | made.headers, made.content_type)

    def _guilty(self, answer: Answer) -> CodecError:
        """The first guilty row by its index, and how many there are."""
        target, _ = self._ready()
        index = min(answer.errors)
        return CodecError(f"{target.field}[{index}]: {describe(answer.errors[index])}")

    def _ready(self) -> tuple[Target, Rows]:
        if self.target is None or self.rows is None:
            raise NotReady("the request was submitted before it was read")
        return self.target, self.rows

    def _count(self, outcome: str) -> None:
        """Counts the end of this ask under its model, and the stages of the edge; the runner's are counted a batch."""
        if self.target is None:
            return
        metrics = self.target.metrics
        images = len(self.rows) if self.rows is not None else 0
        metrics.request_ended(outcome, images, time.monotonic() - self.started_s)
        for stage in ("parse", "decode", "inspect", "serialize"):
            if stage in self.laps:
                metrics.stages[stage].observe(self.laps[stage])


def _render_columns(rows: Rows) -> bytes:
    """STS's answer: every output by its name."""
    return codec.dump_columns(rows.columns)
