"""The life of a predict request, from its call to its reply. The requests of every dialect and both paths pass here.

A `Predictor` makes a `PredictRequest` from a call and has the dialect of its `Route` fill it (`target`, `rows`, `render`).
`submit` sends the rows to the batcher. `answer` or `fail` makes the `Reply`. Large bodies are read, and large answers
written, in a thread (`OffLoop`). Nothing here awaits, except `Predictor.answer`, for handlers that are coroutines.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from darkroom.batching.entry import Entry
from darkroom.batching.errors import Closed, DeadlineExceeded
from darkroom.models.errors import InvalidInput
from darkroom.models.rows import Rows, join, row_bytes
from darkroom.models.spec import np_shape
from darkroom.service.errors import (
    ERROR_HEADER,
    UNKNOWN,
    CodecError,
    NotLoaded,
    NotReady,
    describe,
    judge,
    retry_after_s,
)
from darkroom.service.predict import codec
from darkroom.service.predict.call import Call, Rendered, Reply, joined
from darkroom.service.predict.image_guard import FORMATS, measure
from darkroom.service.predict.partial import PartialResult

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from darkroom.batching.entry import Answer, Reason, Timing
    from darkroom.batching.scheduler.admission import Ticket
    from darkroom.service.config.traffic import Split
    from darkroom.service.predict.call import AnswerBody
    from darkroom.service.predict.compression import Compression
    from darkroom.service.predict.image_guard import ImageGuard
    from darkroom.service.predict.off_loop import OffLoop
    from darkroom.service.serving.lazy_models import LazyModels
    from darkroom.service.serving.lifecycle import Lifecycle
    from darkroom.service.serving.registry import Registry
    from darkroom.service.serving.servable import Target

_STAGES = ("parse", "decode", "inspect", "serialize")  # measured here; the batcher and the runner measure the others

NOT_APART = "on_error: these inputs can't be answered apart: they are not one value a row"
_NO_POISON: Counter[str] = Counter()  # never written
_NO_HEADERS: Mapping[str, str] = {}
VERSION_HEADER = "X-Darkroom-Version"  # of an answer: the version that --traffic chose

# Gets the reply to a request, and the request, which knows what it took.
OnReply: TypeAlias = "Callable[[Reply, PredictRequest], None]"
# What every answer of one batch reports about it: seconds of collate, execute and split, its images, why it was closed.
BatchTimes: TypeAlias = "tuple[float, float, float, int, Reason | None]"


class PredictRequest:
    """One predict request.

    Args:
        timeout_s: the server's time limit, in seconds from now.
        is_sts: clients of Simple TensorFlow Serving get 400 where other clients get 404 or 415.
        has_error_code: whether the body of an error carries its code. The header `X-Darkroom-Error` always does.
        off_loop: where a large answer is written; None: on the loop.
        pack: compresses an answer; None: answers are not compressed.

    Attributes:
        started_s: when the request came, on the monotonic clock.
        deadline_s: when its answer becomes useless, on the monotonic clock.
        bulk: whether its rows wait behind interactive ones.
        headers: of the call, by name in lower case: what chooses a version where the request names none.
        stages: seconds spent in each stage so far.
        target: the signature that the request names; None until the dialect has found it.
        images: the number of rows, as far as it is known.
        rows: the rows for the batcher; None until the dialect has read them.
        sizes: encoded bytes of each row; empty where they are not counted.
        pixels: decoded pixels of each row; empty where they are not counted.
        partial: the refused rows, if the others are answered nevertheless; else None.
        render: makes the body of the answer from the rows that the model returned.
        outcome: how it ended, as metrics name it; empty until then.
        failure: the exception that was our own fault; None if there was none.
        timing: what the batcher answered about its times; None if it did not come so far.
        answered_s: when the batcher answered.
        is_reading: whether a thread reads the body now. It must not touch the batcher.
        entry: what the batcher has of it, if that is not what `Predictor.begin` returned.
        leave: takes it back while it waits for its model to be loaded; None: it does not.
        large_bytes: an answer of more bytes, as the model returned it, is written in a thread.
    """

    __slots__ = (
        "_batch_times",
        "_has_error_code",
        "_is_gone",
        "_is_sts",
        "_off_loop",
        "_pack",
        "_poison",
        "_stage_began_s",
        "_ticket",
        "answered_s",
        "bulk",
        "deadline_s",
        "entry",
        "failure",
        "headers",
        "images",
        "is_reading",
        "large_bytes",
        "leave",
        "outcome",
        "partial",
        "pixels",
        "render",
        "rows",
        "sizes",
        "stages",
        "started_s",
        "target",
        "timing",
    )

    def __init__(
        self,
        *,
        timeout_s: float,
        is_sts: bool = False,
        has_error_code: bool = True,
        off_loop: OffLoop | None = None,
        pack: Callable[[Reply], Reply] | None = None,
    ) -> None:
        self.started_s = self._stage_began_s = monotonic()
        self.deadline_s = self.started_s + timeout_s
        self.bulk = False
        self.headers: Mapping[str, str] = _NO_HEADERS
        self.stages: dict[str, float] = {}
        self.target: Target | None = None
        self.images = 0
        self.rows: Rows | None = None
        self.sizes: list[int] = []
        self.pixels: list[int] = []
        self.partial: PartialResult | None = None
        self.render: Callable[[Rows], AnswerBody | Rendered] | None = None
        self.outcome = ""
        self.failure: BaseException | None = None
        self.timing: Timing | None = None
        self.answered_s = 0.0
        self._is_sts = is_sts
        self._has_error_code = has_error_code
        self._batch_times: BatchTimes | None = None
        self._ticket: Ticket | None = None
        self.entry: Entry | None = None  # of a second run, or after the body was read in a thread
        self.leave: Callable[[], None] | None = None
        self._off_loop = off_loop
        self._pack = pack
        self.is_reading = self._is_gone = False
        self.large_bytes = codec.LARGE_BYTES
        self._poison: Counter[str] = _NO_POISON  # found by a thread, which writes no metrics

    # Read by the dialect.

    def set_deadline(self, header: str) -> None:
        """Brings the deadline forward to what `X-Darkroom-Deadline-Ms` says; it cannot push it back.

        Raises:
            CodecError: not a positive number of milliseconds.
        """
        try:
            milliseconds = float(header)
        except ValueError:
            milliseconds = math.nan
        if not 0 < milliseconds < math.inf:
            raise CodecError("X-Darkroom-Deadline-Ms: expected a positive number of milliseconds")
        self.set_timeout(milliseconds / 1000)

    def set_timeout(self, seconds: float) -> None:
        """Brings the deadline forward to `seconds` after the start; it cannot push it back."""
        self.deadline_s = min(self.deadline_s, self.started_s + seconds)

    def set_priority(self, header: str) -> None:
        """Puts the rows in the lane that `X-Darkroom-Priority` names: `interactive`, the default, or `bulk`.

        Raises:
            CodecError: neither.
        """
        if header not in {"interactive", "bulk"}:
            raise CodecError("X-Darkroom-Priority: expected interactive or bulk")
        self.bulk = header == "bulk"

    def end_stage(self, stage: str) -> None:
        """Adds the time since the end of the last stage to `stage`."""
        now = monotonic()
        stages = self.stages
        stages[stage] = stages.get(stage, 0.0) + now - self._stage_began_s
        self._stage_began_s = now

    def allow_partial(self, target: Target) -> PartialResult:
        """From now on good rows are answered although others are refused; `render` must report the refused ones.

        Returns:
            The record of the refused rows, empty yet.

        Raises:
            CodecError: the rows of this signature are not independent, so none can be left out.
        """
        if not target.spec.batched:
            why = target.spec.unbatched_reason
            raise CodecError(f"on_error: this signature's rows can't be answered apart: {why}")
        self.partial = PartialResult()
        return self.partial

    def refuse_early(self, target: Target, images: int) -> None:
        """Refuses a request of at least `images` rows if the queue of `target` would, before more is spent on it.

        The judgement is kept as a ticket, so that `submit` need not ask for it again.

        Raises:
            QueueFull, PredictedLate, Closed: as `submit` would, whatever else may be wrong with the request.
        """
        if images > self.images:
            self.target, self.images = target, images
            if self.is_reading:
                return  # `submit` asks
            self._ticket = target.batcher.admit(images, self.deadline_s, is_bulk=self.bulk)

    def decode_pictures(
        self, target: Target, values: Sequence[object], guard: ImageGuard, name: str = "", inner: tuple[int, ...] = ()
    ) -> list[bytes]:
        """The bytes of each picture, in whichever form the client wrote it (`codec.decode_picture`).

        They are the column of input `name`, the image input by default, in rows of `inner` sizes.

        Raises:
            TooLarge: more than `--max_images`; checked before any is decoded.
            QueueFull, PredictedLate, Closed: the queue refuses so many; checked before any is decoded.
            BadImage: one cannot be decoded; names `field[index]`.
        """
        field = name or target.field
        guard.check_count(len(values), field)
        if self.partial is None or inner or len(target.spec.inputs) > 1:
            self.refuse_early(target, len(values) // max(1, math.prod(inner)))
            try:
                return [codec.decode_picture(value, field, index, inner) for index, value in enumerate(values)]
            except CodecError:
                self._poison_of(target)["base64"] += 1
                raise
        pictures = self.partial.keep_good(values, lambda value, index: codec.decode_picture(value, field, index))
        self._poison_of(target)["base64"] += len(values) - len(pictures)
        return pictures

    def take_pictures(self, target: Target, pictures: list[bytes], guard: ImageGuard) -> None:
        """Makes `pictures`, encoded bytes each, the rows of this request, after `guard` has inspected each of them.

        Raises:
            TooLarge, BadImage: a picture is refused; names `field[index]`.
            InvalidInput: the signature takes another number of them, or no list.
        """
        self.target = target
        (tensor,) = target.spec.inputs
        is_one = tensor.shape != (None,) and len(pictures) == 1 and tensor.holds_one
        if tensor.shape != (None,) and not is_one and not tensor.takes((len(pictures),)):
            raise tensor.refusal((len(pictures),))
        if target.spec.image_input is not None:
            pictures, self.sizes, self.pixels = self._inspect(target, pictures, guard)
        else:
            self.sizes = [len(data) for data in pictures]
        column = tensor.fit_one(pictures) if is_one else pictures
        self.rows = Rows({target.field: column}, count=len(pictures), pixels=sum(self.pixels))
        if not self.pixels:
            self._inspect_others(target, self.rows, guard)
        self.end_stage("inspect")

    def take_inputs(self, target: Target, inputs: Mapping[str, object], guard: ImageGuard, *, strict: bool) -> None:
        """Makes `inputs`, by name and with pictures as encoded bytes, the rows of this request.

        The guard inspects the pictures among them. `strict` is that of `SignatureSpec.accept`.

        Raises:
            CodecError, InvalidInput: an input or a picture is refused; names the field and the index.
        """
        self.target = target
        if self.is_reading:
            guard.check_lists(inputs, target.spec)
        rows = target.accept(inputs, strict=strict)
        rows, others = self._inspect_others(target, rows, guard)
        self.rows = rows
        if target.spec.image_input is None:
            if self.partial is None:
                self.rows = rows = guard.check_rows(rows, target.field)
            else:  # they are answered one by one
                guard.check_count(len(rows), target.field)
            self.sizes = row_bytes(rows)
            self.end_stage("inspect")
            return
        column = rows.columns[target.field]
        pictures = column if isinstance(column, list) else column.ravel().tolist()
        if len(rows) and not pictures:
            raise CodecError(f"{target.field}: is empty, beside {len(rows)} rows of other inputs")
        inner = np_shape(column)[1:]
        kept, sizes, pixels = self._inspect(target, pictures, guard, inner)
        if self.partial is not None and len(kept) < len(pictures):
            if not rows.aligned:
                raise CodecError(NOT_APART)
            cut = [rows.cut(index, index + 1) for index in self.partial.remaining]
            others = [others[index] for index in self.partial.remaining] if others else []
            rows = join(cut) if cut else rows.cut(0, 0)
        count = len(rows)
        self.sizes, self.pixels = _by_row(sizes, count), _by_row(pixels, count)
        if others:
            self.pixels = [sum(each) for each in zip(self.pixels, _by_row(others, count), strict=True)]
        self.rows = rows if kept == pictures else rows.replacing(target.field, kept)
        self.end_stage("inspect")

    def select_outputs(self, outputs: Sequence[str]) -> None:
        """Has only these outputs of the signature computed and answered."""
        target, rows = self.ready()
        # Rows that want every output share batches with those that name none.
        if set(outputs) != {tensor.name for tensor in target.spec.outputs}:
            self.rows = rows.asking(outputs, shares=target.shares_outputs)
        elif rows.asked:
            self.rows = rows.asking(())

    def answered_pictures(self) -> list[bytes]:
        """The encoded pictures of the image input that are answered, in their order."""
        target, rows = self.ready()
        column = rows.columns[target.field]
        pictures = column if isinstance(column, list) else column.ravel().tolist()
        if self.partial is None:
            return pictures
        refused = self.partial.errors
        return [data for index, data in zip(self.partial.remaining, pictures, strict=True) if index not in refused]

    def _inspect(
        self, target: Target, pictures: list[bytes], guard: ImageGuard, inner: tuple[int, ...] = ()
    ) -> tuple[list[bytes], list[int], list[int]]:
        """The pictures that the guard lets pass, the encoded bytes of each and the decoded pixels of each.

        Of a row of several pictures, of `inner` sizes, all pass or none.
        """
        spec, field, poison = target.spec, target.field, self._poison_of(target)
        if self.partial is None:
            found = guard.inspect_all(pictures, spec, field, poison, inner)
        else:
            guard.check_count(len(pictures), field)
            each = max(1, math.prod(inner))

            def inspect(begin: int, row: int) -> list[tuple[bytes, int]]:
                return [
                    guard.inspect(data, spec, field, row * each + at, poison, inner=inner)
                    for at, data in enumerate(pictures[begin : begin + each])
                ]

            found = [one for row in self.partial.keep_good(range(0, len(pictures), each), inspect) for one in row]
        return [data for data, _ in found], [len(data) for data, _ in found], [pixels for _, pixels in found]

    def _inspect_others(self, target: Target, rows: Rows, guard: ImageGuard) -> tuple[Rows, list[int]]:
        """The rows, and the decoded pixels of the pictures in string inputs that are not the image input: of each row.

        Where the graph decodes such an input too, each value must be a picture, in bytes or written as base64.
        """
        spec, poison = target.spec, self._poison_of(target)
        pixels: list[int] = []
        if not spec.decodes_pictures:
            return rows, pixels
        for name, column in rows.columns.items():
            if name == spec.image_input or not (isinstance(column, list) or column.dtype.kind == "O"):
                continue
            values, inner = column if isinstance(column, list) else column.ravel().tolist(), np_shape(column)[1:]
            if name in spec.other_pictures:
                pictures = [codec.unwrap_picture(value) for value in values]
                found = guard.inspect_all(
                    pictures, replace(spec, formats=FORMATS, one_frame=False), name, poison, inner
                )
                rows = rows.replacing(name, [data for data, _ in found])
                counts = [count for _, count in found]
            else:
                counts = guard.inspect_others(values, name, poison, inner)
            counts = _by_row(counts, len(rows))
            pixels = [sum(each) for each in zip(pixels, counts, strict=True)] if pixels else counts
        return rows, pixels

    def _poison_of(self, target: Target) -> Counter[str]:
        return self._poison if self.is_reading else target.metrics.poison

    def moves(self, split: Split) -> bool:
        """Whether the picture means another version than the one that has read it; then the request is as new.

        From now on its key is the hash of its rows, if it has none.
        """
        target, rows = self.ready()
        if not split.by_picture or self.headers.get(split.header):
            return False
        key = rows.digest()
        self.headers = {**self.headers, split.header: key}
        if split.pick(key) == target.model.version:
            return False
        self.forget()
        return True

    def forget(self) -> None:
        """Forgets what was read, so that the call can be read again."""
        self.target = self.rows = self.partial = self.render = self._ticket = None
        self.images, self.sizes, self.pixels = 0, [], []

    # Sent to the batcher.

    def submit(self, on_reply: OnReply) -> Entry | None:
        """Sends the rows to the batcher; `on_reply` is called exactly once, on the loop.

        Returns:
            The entry, to be given to `withdraw` if the client leaves; None if the reply was made at once.

        Raises:
            QueueFull, PredictedLate, Closed: refused at once; `on_reply` is not called.
        """
        target, rows = self.ready()
        if self.partial is not None:
            if not rows.aligned:
                raise CodecError(NOT_APART)
            self.partial.expect(len(rows))
        count = len(rows)
        if not count:
            on_reply(self._sign(self._write(target.spec.empty(rows.asked))), self)
            return None
        return self._send(target, rows, on_reply, whole=not (rows.aligned and target.spec.batched))

    def _send(self, target: Target, rows: Rows, on_reply: OnReply, *, whole: bool) -> Entry:
        """Gives the rows to the batcher. Where calls answered parts of them in different shapes, they run again whole."""
        entry = Entry(
            rows,
            len(rows),
            row_bytes=self.sizes,
            row_pixels=self.pixels,
            deadline=self.deadline_s,
            key=rows.key,
            kind=self._kind(target, rows) if target.batcher.keeps_apart else None,
            whole=whole,
            keep_going=self.partial is not None,
            bulk=self.bulk,
        )

        def settle(answer: Answer) -> None:
            if whole or len(answer.pieces) < 2 or self.partial is not None or not _differ(answer):
                self.answer(answer, on_reply)
                if target.shadow is not None:
                    target.shadow(rows, self.sizes, self.pixels, answer)
                return
            self._ticket = None
            try:
                self.entry = self._send(target, rows, on_reply, whole=True)
            except Exception as err:  # noqa: BLE001 - the edge: a refusal becomes an answer, by the one table
                on_reply(self.fail(err), self)

        target.batcher.submit(entry, settle, self._ticket)
        return entry

    def read_off_loop(
        self, size: int, read: Callable[[], None], on_reply: OnReply, on_error: Callable[[BaseException], None]
    ) -> None:
        """Reads the body of `size` bytes by `read` in a thread, then submits.

        On the loop, either `on_reply` is called once, or `on_error` with what can't be read or is refused.

        Raises:
            QueueFull: too many bytes wait to be read.
        """
        off_loop = self._off_loop
        assert off_loop is not None  # noqa: S101 - whoever calls this gave it one

        def work() -> None:
            if self._is_gone or monotonic() > self.deadline_s:
                raise DeadlineExceeded("the time of the request was over before its body was read")
            read()

        def then(error: object) -> None:
            self.is_reading = False
            if self._poison and self.target is not None:
                self.target.metrics.poison.update(self._poison)
            if self._is_gone:
                self._count("cancelled")
                return
            if isinstance(error, BaseException):
                on_error(error)
                return
            try:
                self.entry = self.submit(on_reply)
            except Exception as err:  # noqa: BLE001 - the edge: every exception becomes an answer, by the one table
                on_error(err)

        off_loop.check_room(size)
        self.is_reading, self._poison = True, Counter()
        off_loop.run(size, work, then)

    def _kind(self, target: Target, rows: Rows) -> tuple[int, int] | None:
        """Width and height of the pictures, if they are all alike."""
        if target.spec.image_input is None:
            return None
        column = rows.columns[target.field]
        pictures = column if isinstance(column, list) else column.ravel().tolist()
        sizes = {measure(data)[1:3] for data in pictures}
        return sizes.pop() if len(sizes) == 1 else None

    def withdraw(self, entry: Entry | None) -> None:
        """Takes back the entry that `submit` returned: the client has left, and no reply is made any more."""
        if self.is_reading:
            self._is_gone = True
            return
        if self.leave is not None:
            self.leave()
            self._count("cancelled")
            return
        entry = self.entry or entry  # it may run a second time
        if entry is not None and self.target is not None and self.target.batcher.withdraw(entry):
            self._count("cancelled")

    # Answered.

    def answer(self, answer: Answer, on_reply: OnReply) -> None:
        """Calls `on_reply` with the reply to the batcher's answer, at once or, where it is large, later; never raises."""
        self._stage_began_s = self.answered_s = monotonic()
        self.timing = timing = answer.timing
        self.stages["queue"] = timing.queue_s
        if timing.batch_images:
            self._batch_times = (
                timing.collate_s,
                timing.execute_s,
                timing.split_s,
                timing.batch_images,
                timing.reason,
            )
        try:
            answered = self._answered(answer)
            limit = self.large_bytes if self._pack is None else min(self.large_bytes, codec.LARGE_TO_PACK_BYTES)
            if self._off_loop is not None and (size := answered.size_bytes) > limit:
                self._write_off_loop(self._off_loop, size, answered, on_reply)
                return
            reply = self._sign(self._write(answered))
        except Exception as err:  # noqa: BLE001 - the edge: an exception of a renderer is a 500 for this client alone
            reply = self.fail(err)
        on_reply(reply, self)

    def _answered(self, answer: Answer) -> Rows:
        """The rows that the model returned; raises the error of an answer that has none."""
        target, rows = self.ready()
        if self.partial is not None:
            self.partial.refuse(answer.errors, target.field)
        elif answer.errors:
            index = min(answer.errors)  # of several refused rows, the first is named
            places = [f"{name}[{index}]" for name in (target.field, *sorted(target.spec.other_pictures))]
            raise InvalidInput(f"{' or '.join(places)}: {describe(answer.errors[index])}")
        if answer.error is not None:
            raise answer.error
        pieces = [piece for piece in answer.pieces if isinstance(piece, Rows)]
        if len(pieces) > 1 and _differ(answer):
            raise InvalidInput(f"{target.field}: the rows have answers of different shapes; send them one by one")
        return join(pieces) if pieces else target.spec.empty(rows.asked)

    def _write_off_loop(self, off_loop: OffLoop, size: int, rows: Rows, on_reply: OnReply) -> None:
        def then(reply: Reply | BaseException) -> None:
            on_reply(self.fail(reply) if isinstance(reply, BaseException) else self._sign(reply), self)

        off_loop.run(size, lambda: self._write(rows), then)

    def fail(self, error: BaseException) -> Reply:
        """The reply to an exception, from the table in `service/errors.py`."""
        verdict = judge(error)
        status = verdict.sts_status if self._is_sts else verdict.status
        if verdict is UNKNOWN:
            self.failure = error
        self._count(verdict.outcome)
        headers = {ERROR_HEADER: verdict.code}
        self._stamp(headers)
        wait_s = retry_after_s(error)
        if wait_s is not None or status == 503:
            headers["Retry-After"] = str(max(1, math.ceil(wait_s or 1)))
        body = {"error": describe(error)}
        if self._has_error_code:
            body["code"] = verdict.code
        return Reply(status, codec.dump_json(body), headers)

    def _stamp(self, headers: dict[str, str]) -> None:
        """Adds `Server-Timing`, milliseconds of each stage and of the whole, and the version if `--traffic` chose it."""
        stages = self.stages
        total_s = monotonic() - self.started_s
        times_ms = [seconds * 1000 for seconds in stages.values()]
        headers["Server-Timing"] = _timing_template(tuple(stages), self._batch_times) % (*times_ms, total_s * 1000)
        if self.target is not None and self.target.split is not None:
            headers[VERSION_HEADER] = str(self.target.model.version)

    def _write(self, rows: Rows) -> Reply:
        """The reply with these rows, without the headers of `_sign`; may run in a thread."""
        render = self.render
        made = codec.dump_columns(rows.columns) if render is None else render(rows)
        reply = (
            Reply(200, made.body, made.headers, made.content_type)
            if isinstance(made, Rendered)
            else Reply(200, made, {})
        )
        return reply if self._pack is None else self._pack(reply)

    def _sign(self, reply: Reply) -> Reply:
        """A good reply with its times; counts it."""
        self.end_stage("serialize")
        self._count("ok")
        self._stamp(reply.headers)
        return reply

    def ready(self) -> tuple[Target, Rows]:
        """The target and the rows of a request that was read; raises NotReady of any other."""
        if self.target is None or self.rows is None:
            raise NotReady("the request was submitted before it was read")
        return self.target, self.rows

    def _count(self, outcome: str) -> None:
        """Counts the end of this request under its model, and its stages; the runner's stages are counted per batch."""
        self.outcome = outcome
        if self.target is None:
            return
        metrics = self.target.metrics
        now_s = metrics.last_request_s = monotonic()
        images = len(self.rows) if self.rows is not None else self.images
        metrics.request_ended(outcome, images, now_s - self.started_s)
        stages, histograms = self.stages, metrics.stages
        for stage in _STAGES:
            if stage in stages:
                histograms[stage].observe(stages[stage])


class Route(NamedTuple):
    """Where the predict requests of one path go.

    Attributes:
        template: the path as metrics name it.
        read: fills a request from a call.
        is_sts: clients of Simple TensorFlow Serving get 400 where other clients get 404 or 415.
        has_error_code: whether the body of an error carries its code.
        is_for_any_model: whether the body names the model, so that it must name the only one where there is only one.
    """

    template: str
    read: Callable[[PredictRequest, Call], None]
    is_sts: bool = False
    has_error_code: bool = True
    is_for_any_model: bool = False


class Predictor:
    """Turns calls into replies, the same way for every dialect, by the fast lane and by Sanic's request path."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        registry: Registry,
        lazy_models: LazyModels,
        compression: Compression,
        off_loop: OffLoop,
        *,
        timeout_s: float,
    ) -> None:
        self._lifecycle = lifecycle
        self._registry = registry
        self._on_demand = lazy_models
        self._compression = compression
        self._off_loop = off_loop
        self._timeout_s = timeout_s
        self._matchers: list[Callable[[str], Route | None]] = []

    def add(self, match: Callable[[str], Route | None]) -> None:
        """Adds a dialect. `match` returns the route of a POST to a path (without query), or None if it has none."""
        self._matchers.append(match)

    def match(self, path: str) -> Route | None:
        """The route of a POST to `path`; None if no dialect predicts there."""
        for match in self._matchers:
            if (route := match(path)) is not None:
                return route
        return None

    def begin(self, route: Route, call: Call, on_reply: OnReply) -> tuple[PredictRequest, Entry | None]:
        """Reads a call and submits it; `on_reply` is called exactly once, on the loop, perhaps before this returns.

        A request for a lazy model that is not in memory waits until it is loaded, then it is read again.

        Returns:
            The request, and the entry for its `withdraw` if the client leaves.
        """
        pack: Callable[[Reply], Reply] | None = None  # nearly always
        if self._compression.packs_answers:
            pack = partial(self._compression.pack, headers=call.headers)
        request = PredictRequest(
            timeout_s=self._timeout_s,
            is_sts=route.is_sts,
            has_error_code=route.has_error_code,
            off_loop=self._off_loop,
            pack=pack,
        )
        request.headers = call.headers
        try:
            self._admit(request, route, call.headers)
            return request, self._start(request, route, call, on_reply)
        except Exception as err:  # noqa: BLE001 - the edge: every exception becomes an answer, by the one table
            self._fail(request, route, call, on_reply, err)
            return request, None

    def _start(self, request: PredictRequest, route: Route, call: Call, on_reply: OnReply) -> Entry | None:
        """Reads a call and submits it, or has a thread read it: then there is no entry yet."""
        is_packed = "content-encoding" in call.headers
        if codec.is_large(call.body, is_packed=is_packed):
            read = partial(
                self._read, request, route, call, is_packed=is_packed
            )  # compiled, a lambda would cost each call
            request.read_off_loop(len(call.body), read, on_reply, partial(self._fail, request, route, call, on_reply))
            return None
        self._read(request, route, call, is_packed=is_packed)
        return request.submit(on_reply)

    def _fail(self, request: PredictRequest, route: Route, call: Call, on_reply: OnReply, error: BaseException) -> None:
        """Answers an error; but a request whose model is not in memory waits until it is, and is read again."""

        def then(failure: BaseException | None) -> None:
            request.leave = None
            request.end_stage("load")
            if failure is not None:
                on_reply(request.fail(failure), request)
                return
            request.forget()
            try:
                request.entry = self._start(request, route, call, on_reply)
            except Exception as err:  # noqa: BLE001 - the edge: every exception becomes an answer, by the one table
                self._fail(request, route, call, on_reply, err)

        name = self._to_await(request, error)
        if not name:
            on_reply(request.fail(error), request)
        elif not self._registry.is_unloaded(name):  # it was loaded again meanwhile
            then(None)
        else:
            try:
                request.leave = self._on_demand.wait(name, len(call.body), request.deadline_s, then)
            except NotReady as err:
                on_reply(request.fail(err), request)

    def _to_await(self, request: PredictRequest, error: BaseException) -> str:
        """The lazy model that an error says is not in memory; empty: it says something else, or there is no time."""
        if not self._lifecycle.is_serving or monotonic() > request.deadline_s:
            return ""
        if isinstance(error, NotLoaded):
            return error.model
        target = request.target
        if not isinstance(error, Closed) or target is None or target.model.name not in self._registry.loadable:
            return ""
        is_served = any(each.batcher is target.batcher for each in self._registry.targets())
        return "" if is_served else target.model.name  # it was unloaded while a thread read the body

    async def answer(self, route: Route, call: Call, on_begun: Callable[[PredictRequest], None]) -> Reply:
        """`begin` for a coroutine, with a body of one piece; cancelling it withdraws the request.

        `on_begun` gets the request at once.
        """
        waiter: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        request, entry = self.begin(route, call, lambda reply, _: None if waiter.done() else waiter.set_result(reply))
        on_begun(request)
        try:
            reply = await waiter
        except asyncio.CancelledError:
            request.withdraw(entry)
            raise
        if isinstance(reply.body, bytes):
            return reply
        return reply._replace(body=await asyncio.to_thread(joined, reply.body))

    def _admit(self, request: PredictRequest, route: Route, headers: Mapping[str, str]) -> None:
        """Refuses what can be refused before the body is read."""
        if not self._lifecycle.is_serving:
            self._lifecycle.check_ready()
        if "x-darkroom-deadline-ms" in headers:
            request.set_deadline(headers["x-darkroom-deadline-ms"])
        if "x-darkroom-priority" in headers:
            request.set_priority(headers["x-darkroom-priority"])
        if route.is_for_any_model and (target := self._registry.sole) is not None:
            request.refuse_early(target, 1)  # before the body is parsed

    def _read(self, request: PredictRequest, route: Route, call: Call, *, is_packed: bool) -> None:
        call = self._compression.open(call) if is_packed else call
        route.read(request, call)
        target = request.target
        if target is not None and target.split is not None and request.moves(target.split):
            route.read(request, call)


def _differ(answer: Answer) -> bool:
    """Whether the parts of a good answer cannot be joined, because their rows have different shapes."""
    is_good = answer.error is None and not answer.errors
    return is_good and len({piece.key for piece in answer.pieces if isinstance(piece, Rows)}) > 1


def _by_row(values: list[int], count: int) -> list[int]:
    """The sum of each row's values; where they are not equally many in each row, all are charged to the first."""
    if len(values) == count or not count:
        return values
    each, rest = divmod(len(values), count)
    if rest or not each:
        return [sum(values), *[0] * (count - 1)]
    return [sum(values[at : at + each]) for at in range(0, len(values), each)]


@lru_cache(256)
def _timing_template(stages: tuple[str, ...], batch: BatchTimes | None) -> str:
    """A `Server-Timing` header with %-places for milliseconds of `stages` and the whole; one serves a whole batch."""
    parts = [f"{stage};dur=%.3f" for stage in (*stages, "total")]
    if batch is not None:
        collate_s, execute_s, split_s, images, reason = batch
        times = (
            f"collate;dur={collate_s * 1000:.3f}, execute;dur={execute_s * 1000:.3f}, split;dur={split_s * 1000:.3f}"
        )
        parts.insert(stages.index("queue") + 1, times)
        parts += [f'batch;desc="{images}"', f'reason;desc="{reason}"']
    return ", ".join(parts)
