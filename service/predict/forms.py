"""The forms in which a request may ask for outputs: `as` and `threshold`. Each makes another column of a column.

Nothing here runs for a request that does not ask. One that asks gets a renderer, `Shaped`, around that of its dialect.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from darkroom.models.rows import Rows
from darkroom.models.saved_model.output_kinds import BASE64, COLOURS, FORMS, NUMBERS, OBJECTS, PIXELS, PNG, SOFTMAX
from darkroom.models.spec import Binary
from darkroom.service.errors import CodecError, quote
from darkroom.service.predict import codec
from darkroom.service.predict.boxes import objects_in, placements, to_pixels
from darkroom.service.predict.call import AnswerBody, Rendered

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from darkroom.models.rows import Column
    from darkroom.models.saved_model.output_kinds import OutputKind
    from darkroom.service.predict.request import PredictRequest
    from darkroom.service.serving.servable import Target

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"
ACCEPT = "image/png"
_FILES = (PNG, COLOURS)
_PNG_START = b"\x89PNG\r\n\x1a\n"


def shape_answer(request: PredictRequest, fields: Mapping[str, object], accept: str = "") -> None:
    """Has the answer written in the forms that the keys `as` and `threshold` ask for, else in the operator's, if he has any.

    Called once the request has its rows and its renderer. With an `accept` of `image/png` the answer is one PNG file.

    Raises:
        CodecError: an output has not that form; names the field and what is possible.
    """
    target, rows = request.ready()
    is_file = accept.startswith(ACCEPT)
    if not (is_file or "as" in fields or target.forms):
        return
    asked = read_forms(fields["as"], target.kinds) if "as" in fields else {}
    forms = {**target.forms, **asked}
    if is_file:
        forms = _one_file(asked, target, rows.asked)
        request.select_outputs(list(forms))
    shaped = Shaped(request, forms, _threshold(fields.get("threshold"), forms, target))
    if not is_file:
        shaped.leave_out({} if fields.get("as") in FORMS else asked)
    elif len(rows) != 1 or request.partial is not None:
        raise CodecError(f"Accept: {ACCEPT} is for one picture, without on_error; there are {len(rows)}: ask for JSON")
    shaped.install(_render_file if is_file else request.render or _render)


def shape_tensors(
    request: PredictRequest, parameters: Mapping[str, object], outputs: Mapping[str, Mapping[str, object]]
) -> None:
    """`shape_answer` for the Open Inference Protocol: every form is a tensor there. The operator's forms do not count.

    Args:
        request: it has its rows and its renderer.
        parameters: of the request.
        outputs: the parameters of each output that is asked for; they win.

    Raises:
        CodecError: as `shape_answer`.
    """
    target, _ = request.ready()
    forms = read_forms(parameters["as"], target.kinds, "parameters.as") if "as" in parameters else {}
    threshold = parameters.get("threshold")
    for index, (name, own) in enumerate(outputs.items()):
        if "as" in own:
            form = {name: own["as"]}
            forms |= read_forms(form, target.kinds, f"outputs[{index}].parameters.as")
        threshold = own.get("threshold", threshold)
    if forms:
        shaped = Shaped(request, forms, _threshold(threshold, forms, target, "parameters.threshold"), as_text=True)
        shaped.leave_out(target.kinds)
        shaped.install(request.render or _render)


def read_forms(value: object, kinds: Mapping[str, OutputKind], field: str = "as") -> dict[str, str]:
    """The form of each output that `value` asks for: a form for all that have it, or an object of forms by output.

    Raises:
        CodecError: an output has not that form, or none has it; says what is possible.
    """
    if isinstance(value, str) and value in FORMS:
        found = {name: value for name, kind in kinds.items() if value in kind.forms}
        if not found:
            has = "; ".join(_has(kind, value) for kind in kinds.values())
            raise CodecError(f"{field}: no output has the form {value!r}: {has}")
        return found
    value = _read_object(value, field)
    if not isinstance(value, dict):
        forms = ", ".join(FORMS)
        raise CodecError(f"{field}: expected one of {forms}, or an object of them by output, got {quote(value)}")
    for name, form in value.items():
        if name not in kinds:
            raise CodecError(f"{field}: {quote(name)} is no output; there are: {', '.join(kinds)}")
        if form not in kinds[name].forms:
            raise CodecError(f"{field}: {_has(kinds[name], form)}, not {quote(form)}")
    return value


def _read_object(value: object, field: str) -> object:
    """The object in JSON text; any other value unchanged."""
    try:
        is_text = isinstance(value, str) and value.startswith("{")
        return codec.parse_json(str(value).encode("utf-8", "surrogatepass")) if is_text else value
    except CodecError as err:
        raise CodecError(f"{field}: {err}") from err


def _has(kind: OutputKind, form: object) -> str:
    """What forms an output has, and why not this one, if others of its kind have it."""
    why = kind.why_not(str(form))
    return f"output {kind.name!r} ({kind.kind}) has {', '.join(kind.forms)}" + (f" ({why})" if why else "")


def _threshold(value: object, forms: Mapping[str, str], target: Target, field: str = "threshold") -> float | None:
    if value is None:
        return None
    try:
        is_number = isinstance(value, (int, float, str)) and not isinstance(value, bool)
        threshold = float(value) if is_number else math.nan  # type: ignore[arg-type]  # it is one
    except (ValueError, OverflowError):
        threshold = math.nan
    if not math.isfinite(threshold):
        raise CodecError(f"{field}: expected a number, got {quote(value)}")
    asked = [target.kinds[name].detection for name, form in forms.items() if form == OBJECTS]
    if not any(detection is not None and detection.scores for detection in asked):
        raise CodecError(f"{field}: is for boxes with scores that are asked for as {OBJECTS!r}")
    return threshold


def _one_file(asked: Mapping[str, str], target: Target, wanted: Sequence[str]) -> dict[str, str]:
    """The one of the `wanted` outputs that is answered as a file: asked for as one, the operator's, or the only one that can be."""
    able = {name: PNG for name, kind in target.kinds.items() if PNG in kind.forms}
    named = ({name: form for name, form in forms.items() if form in _FILES} for forms in (asked, target.forms))
    files = {name: form for name, form in next(filter(None, named), able).items() if not wanted or name in wanted}
    if len(files) != 1:
        has = "; ".join(_has(kind, PNG) for kind in target.kinds.values())
        what = "several outputs could be" if files else "no output can be"
        raise CodecError(f"Accept: {what} the answer; name one with as, such as as={{OUTPUT: {PNG!r}}}: {has}")
    return files


class Shaped:
    """A renderer that puts the outputs into the forms that are asked for, then calls another one.

    Args:
        request: it has its rows.
        forms: by output; outputs without one are numbers.
        threshold: of the objects.
        as_text: objects become JSON text, for dialects that have only tensors.
    """

    def __init__(
        self, request: PredictRequest, forms: Mapping[str, str], threshold: float | None, *, as_text: bool = False
    ) -> None:
        self._request = request
        self._target, rows = request.ready()
        self._forms = {name: form for name, form in forms.items() if not rows.asked or name in rows.asked}
        self._threshold = threshold
        self._as_text = as_text
        self._dropped: set[str] = set()
        self._inner: Callable[[Rows], AnswerBody | Rendered] = _render

    def leave_out(self, named: Mapping[str, object]) -> None:
        """Leaves the outputs that belong to objects out of the answer, except for those that are `named`.

        The engine computes them in any case, also where the request asked only for the boxes.
        """
        rows = self._request.ready()[1]
        for name, form in self._forms.items():
            detection = self._target.kinds[name].detection
            if form == OBJECTS and detection is not None:
                missing = set(detection.members) - set(rows.asked) if rows.asked else set()
                self._dropped |= missing or (set() if rows.asked else set(detection.members) - set(named))
                if missing:
                    self._request.select_outputs([*rows.asked, *missing])

    def install(self, inner: Callable[[Rows], AnswerBody | Rendered]) -> None:
        """Makes this the renderer of the request, before `inner`."""
        self._inner = inner
        self._request.render = self
        if any(form in _FILES for form in self._forms.values()):
            self._request.large_bytes = 0  # a PNG is written in a thread, whatever its size

    def __call__(self, rows: Rows) -> AnswerBody | Rendered:
        """The body."""
        columns = {
            name: self._shape(name, column, rows) for name, column in rows.columns.items() if name not in self._dropped
        }
        return self._inner(Rows(columns, count=len(rows), aligned=rows.aligned))

    def _shape(self, name: str, column: Column, rows: Rows) -> Any:
        """One output in its form."""
        form, kind = self._forms.get(name, NUMBERS), self._target.kinds[name]
        if form in {PIXELS, OBJECTS}:
            return self._boxes(kind, np.asarray(column), rows, is_objects=form == OBJECTS)
        if form == BASE64:
            return to_base64(column, kind)
        if form == SOFTMAX:
            return softmax(np.asarray(column))
        return to_png(column, kind, form) if form in _FILES else column

    def _boxes(self, kind: OutputKind, column: Array, rows: Rows, *, is_objects: bool) -> Any:
        """Boxes in pixels `[n, k, 4]`, or the objects of each picture."""
        detection = kind.detection
        assert detection is not None  # noqa: S101 - only boxes have these forms
        placed = placements(self._request.answered_pictures(), detection.fit)
        is_single = column.ndim == 2  # a graph of one picture, without a first dimension
        boxes = _rows_of(kind.name, column, len(placed), is_single=is_single)
        if not is_objects:
            pixels = [to_pixels(each, detection, where) for each, where in zip(boxes, placed, strict=True)]
            return np.stack(pixels).reshape(column.shape) if pixels else column
        members = {
            name: _rows_of(name, rows.columns[name], len(placed), is_single=is_single)
            for name in detection.members
            if name in rows.columns
        }
        found = [
            objects_in(
                each,
                detection,
                placed[index],
                {name: values[index] for name, values in members.items()},
                labels=self._target.model.labels,
                threshold=self._threshold,
            )
            for index, each in enumerate(boxes)
        ]
        return [codec.dump_json(each).strip() for each in found] if self._as_text else _objects(found)


def softmax(column: Array) -> Array:
    """The softmax along the last dimension; of half and bfloat16 in float32."""
    logits = column if column.dtype == np.float64 else column.astype(np.float32)
    with np.errstate(all="ignore"):
        powers = np.exp(logits - logits.max(-1, keepdims=True, initial=-np.inf))
        return np.asarray(powers / powers.sum(-1, keepdims=True))


def to_base64(column: Column, kind: OutputKind) -> Any:
    """The bytes of each picture's values, little-endian, in row-major order; of strings: each string."""
    values: Any = np.asarray(column, object) if isinstance(column, list) else column
    if values.dtype == object:
        return np.vectorize(Binary, otypes=[object])(values) if values.size else values
    values = values.astype(np.float32) if values.dtype.kind == "V" else values
    values = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return [Binary(row.tobytes()) for row in (values if kind.is_rows and values.ndim else [values])]


def to_png(column: Column, kind: OutputKind, form: str) -> list[Binary]:
    """A PNG file for each picture.

    Raises:
        CodecError: a class is below 0 or above 65535; or a string is no PNG.
    """
    if isinstance(column, list) or column.dtype == object:
        files = column if isinstance(column, list) else column.ravel().tolist()
        if any(not each.startswith(_PNG_START) for each in files):
            raise CodecError(f"as: output {kind.name!r} holds another kind of file; ask for it as {BASE64!r}")
        return [Binary(each) for each in files]
    from darkroom.models.runtime.png import encode_png  # noqa: PLC0415 - TensorFlow; a fake model runs without it

    rank = 3 if kind.kind == "image" or column.ndim == 4 or kind.classes is not None else 2
    pictures = column if column.ndim > rank else column[np.newaxis]
    return [Binary(encode_png(_pixels(each, kind, form))) for each in pictures]


def _pixels(picture: Array, kind: OutputKind, form: str) -> Array:
    """The pixels of the PNG of one picture."""
    if kind.kind == "image":
        return _grey_levels(picture, kind)
    classes = _class_map(picture, kind)
    return np.asarray(PALETTE[classes & 0xFF] if form == COLOURS else classes[..., np.newaxis])


def _grey_levels(picture: Array, kind: OutputKind) -> Array:
    """Values in the kind's range as 0 to 255; what is beyond is cut, what is no number is black."""
    low, high = kind.range or (0.0, 255.0)
    if picture.dtype == np.uint8 and (low, high) == (0.0, 255.0):
        return picture
    levels = (picture.astype(np.float32) - low) * (255.0 / (high - low))
    return np.asarray(np.rint(np.clip(np.nan_to_num(levels), 0.0, 255.0)), np.uint8)


def _class_map(mask: Array, kind: OutputKind) -> Array:
    """The number of the class of each pixel, `uint8` or `uint16` of `[height, width]`."""
    if mask.ndim == 3:
        mask = mask.argmax(-1) if mask.shape[-1] > 1 else mask[..., 0]
    if mask.dtype.kind not in "iub":  # one value a pixel: whether it is the object
        mask = mask.astype(np.float32) > (0.0 if kind.values == "logits" else 0.5)
    low, high = (int(mask.min()), int(mask.max())) if mask.size else (0, 0)
    if low < 0 or high > 65_535:
        raise CodecError(f"as: output {kind.name!r} holds classes from {low} to {high}; a PNG has 0 to 65535")
    smallest = np.uint8 if max(high, (kind.classes or 1) - 1) < 256 else np.uint16
    return np.asarray(mask, smallest)


def _voc_colours() -> Array:
    """The colour map of Pascal VOC, `uint8[256, 3]`: the bits of a class number, from the lowest, go to R, G and B in turn."""
    colours = np.zeros((256, 3), np.uint8)
    for number in range(256):
        for bit in range(8):
            colours[number, bit % 3] |= (number >> bit & 1) << 7 - bit // 3
    return colours


PALETTE = _voc_colours()


def _rows_of(name: str, column: Column, count: int, *, is_single: bool) -> Array:
    """The values of each of `count` pictures; raises CodecError where the output has another number of rows."""
    array = np.asarray(column)[np.newaxis] if is_single else np.atleast_1d(column)
    if len(array) != count:
        raise CodecError(f"as: output {name!r} has {len(array)} rows for {count} pictures")
    return array


def _objects(values: Sequence[object]) -> Array:
    """An array of these objects: in a list compiled code expects bytes."""
    array = np.empty(len(values), object)
    for index, value in enumerate(values):
        array[index] = value
    return array


def _render(rows: Rows) -> AnswerBody:
    return codec.dump_columns(rows.columns)


def _render_file(rows: Rows) -> Rendered:
    """The only value of the only output."""
    (column,) = rows.columns.values()
    (data,) = column
    return Rendered(bytes(data), {}, ACCEPT)
