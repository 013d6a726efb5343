"""Intake: what a dialect read of one request becomes the rows that the scheduler takes; the door stands here."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from darkroom.models.rows import Rows, join, row_bytes
from darkroom.service.errors import CodecError, NotReady
from darkroom.service.predict import codec
from darkroom.service.predict.partial import PartialResult

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from darkroom.service.predict.image_guard import ImageGuard
    from darkroom.service.serving.registry import Target


class Intake:
    """The rows of one request in the making.

    Attributes:
        started_s: when the request came, on the monotonic clock.
        laps: the seconds of each of its stages.
        target: the signature that is asked.
        rows: what goes to the scheduler.
        sizes: encoded bytes of each row; empty where nobody counts.
        pixels: decoded pixels of each row; empty where nobody counts.
        deadline_s: when it is of no use any more, on the monotonic clock.
        bulk: whether its rows wait behind interactive ones.
        images: the rows that it has, as far as that is known.
        gaps: the rows that were refused, where the others are answered nevertheless; else None.
    """

    __slots__ = (
        "_lap_s",
        "bulk",
        "deadline_s",
        "gaps",
        "images",
        "laps",
        "pixels",
        "rows",
        "sizes",
        "started_s",
        "target",
    )

    def __init__(self, *, timeout_s: float) -> None:
        self.started_s = self._lap_s = monotonic()
        self.deadline_s = self.started_s + timeout_s
        self.bulk = False
        self.images = 0
        self.laps: dict[str, float] = {}
        self.target: Target | None = None
        self.rows: Rows | None = None
        self.sizes: list[int] = []
        self.pixels: list[int] = []
        self.gaps: PartialResult | None = None

    def lap(self, stage: str) -> None:
        """Books the time since the last lap on `stage`."""
        now = monotonic()
        laps = self.laps
        laps[stage] = laps.get(stage, 0.0) + now - self._lap_s
        self._lap_s = now

    def keep_going(self, target: Target) -> PartialResult:
        """Answers the good rows and notes the refused ones in what this returns; `render` has to tell of them.

        Raises:
            CodecError: the signature's rows are not independent, so that none can be left out.
        """
        if not target.spec.batched:
            why = target.spec.unbatched_reason
            raise CodecError(f"on_error: this signature's rows can't be answered apart: {why}")
        self.gaps = PartialResult()
        return self.gaps

    def refuse_early(self, target: Target, images: int) -> None:
        """Refuses a request of at least `images` rows that its target's queue would refuse, before more is spent on it.

        Raises:
            QueueFull, PredictedLate, Closed: as `submit` would, whatever else may be wrong with the request.
        """
        if images > self.images:
            self.target, self.images = target, images
            target.batcher.admit(images, self.deadline_s, is_bulk=self.bulk)

    def decode_pictures(self, target: Target, values: Sequence[object], door: ImageGuard) -> list[bytes]:
        """The raw bytes of each picture, whichever way its client wrote it (`codec.decode_picture`).

        Raises:
            TooLarge: they are more than `--max_images`; before any is decoded.
            QueueFull, PredictedLate, Closed: the queue refuses so many; before any is decoded.
            CodecError: one can't be decoded; names `field[index]`.
        """
        field = target.field
        door.check_count(len(values), field)
        if self.gaps is None:
            self.refuse_early(target, len(values))
            try:
                return [codec.decode_picture(value, field, index) for index, value in enumerate(values)]
            except CodecError:
                target.metrics.poison["base64"] += 1
                raise
        pictures = self.gaps.sift(values, lambda value, index: codec.decode_picture(value, field, index))
        target.metrics.poison["base64"] += len(values) - len(pictures)
        return pictures

    def take_pictures(self, target: Target, pictures: list[bytes], door: ImageGuard) -> None:
        """Makes `pictures`, raw bytes each, the rows of this ask, once the door has let every one of them in."""
        self.target = target
        if target.spec.image_input is not None:
            kept, self.sizes, self.pixels = self._admit(target, pictures, door)
        else:
            kept, self.sizes = pictures, [len(data) for data in pictures]
        self.rows = Rows({target.field: kept}, count=len(kept), pixels=sum(self.pixels))
        self.lap("inspect")

    def _admit(
        self, target: Target, pictures: list[bytes], door: ImageGuard
    ) -> tuple[list[bytes], list[int], list[int]]:
        """The pictures that the door lets in, their bytes and their pixels."""
        spec, field, poison = target.spec, target.field, target.metrics.poison
        if self.gaps is None:
            return pictures, *door.admit(pictures, spec, field, poison)
        door.check_count(len(pictures), field)
        admitted = self.gaps.sift(pictures, lambda data, index: (data, door.inspect(data, spec, field, index, poison)))
        kept = [data for data, _ in admitted]
        return kept, [len(data) for data in kept], [pixels for _, pixels in admitted]

    def take_inputs(self, target: Target, raw: Mapping[str, object], door: ImageGuard, *, strict: bool) -> None:
        """Makes `raw`, the signature's inputs by name with pictures as raw bytes, the rows of this ask.

        The pictures among them go through the door; `strict` is that of `SignatureSpec.accept`.

        Raises:
            CodecError, InvalidInput: an input or a picture that isn't taken; names the field and the index.
        """
        self.target = target
        self.rows = rows = target.spec.accept(raw, strict=strict)
        if target.spec.image_input is not None:
            self.rows = self._admit_column(rows, target, door)
        else:
            door.check_count(len(rows), target.field)
            self.sizes = row_bytes(rows)
        self.lap("inspect")

    def _admit_column(self, rows: Rows, target: Target, door: ImageGuard) -> Rows:
        """The door for pictures that aren't the only input, or not one a row."""
        column = rows.columns[target.field]
        pictures = column if isinstance(column, list) else column.ravel().tolist()
        if len(rows) and not pictures:
            raise CodecError(f"{target.field}: is empty, beside {len(rows)} rows of other inputs")
        kept, sizes, pixels = self._admit(target, pictures, door)
        if self.gaps is not None and len(kept) < len(pictures) == len(rows):
            rows = _pick(rows, self.gaps.left)
        elif len(sizes) != len(rows):  # the rows aren't the pictures: they go as one whole, and the first is charged
            rest = [0] * (len(rows) - 1)
            sizes, pixels = [sum(sizes), *rest], [sum(pixels), *rest]
        self.sizes, self.pixels = sizes, pixels
        return rows

    def ask_for(self, outputs: Sequence[str]) -> None:
        """Wants only these outputs of the signature computed and answered; none named: all of them."""
        target, rows = self._ready()
        if set(outputs) != {tensor.name for tensor in target.spec.outputs}:  # all of them ride with whoever has no wish
            self.rows = rows.asking(outputs)

    def _expect_rows(self, gaps: PartialResult, rows: Rows) -> None:
        """Counts the rows of a request that keeps going, if its pictures were not counted yet."""
        if not rows.aligned:
            raise CodecError("on_error: these inputs can't be answered apart: they are not one value a row")
        gaps.expect(len(rows))

    def _ready(self) -> tuple[Target, Rows]:
        if self.target is None or self.rows is None:
            raise NotReady("the request was submitted before it was read")
        return self.target, self.rows


def _pick(rows: Rows, places: Sequence[int]) -> Rows:
    """The rows at `places`."""
    return join([rows.cut(place, place + 1) for place in places]) if places else rows.cut(0, 0)
