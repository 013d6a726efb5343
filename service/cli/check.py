"""`darkroom check`: describes the signatures of a SavedModel and how they would be served, and runs a request."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from darkroom.models.errors import ModelError
from darkroom.models.rows import Rows
from darkroom.models.spec import Wire
from darkroom.models.versions.folder import locate
from darkroom.service.cli.presets import picture_lines

if TYPE_CHECKING:
    import argparse

    from darkroom.models.engine import Engine, LoadedModel
    from darkroom.models.rows import Column
    from darkroom.models.spec import ModelSpec, SignatureSpec, TensorSpec

DESCRIPTION = """\
Loads a SavedModel as the server would. Prints for each signature: inputs and outputs, which image formats it accepts,
whether requests may share an engine call, which load-time passes are in force and why others are not, an example
request, and its answer. Of a signature that takes images as tensors, it prints what the graph shows of their range, and
with --picture the answers under each preset of `darkroom export --preprocess`, so that you see which one is right.

MODEL is a folder of numeric version folders (the newest is used), or a version folder.
"""
_WIRES = {
    Wire.BASE64: "the graph decodes URL-safe base64 itself; clients may send any base64, form-data or raw bytes",
    Wire.BYTES: "the graph takes raw image bytes; clients may send base64, form-data or raw bytes",
    Wire.TENSOR: "no image decoder reads its strings: values are passed on unchanged",
}
SHOWN = 5  # of the values of a long answer
MAX_WRITTEN = 64  # numbers of an example request; a longer one is computed by the shell


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `darkroom check`."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="folder of the model, or of one version")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="an image to run, instead of a generated one")
    parser.add_argument("--custom_op_paths", default="", help="comma-separated folders of *.so")


def run(parsed: argparse.Namespace) -> int:
    """Checks one model. Returns 0 if every signature can be served, else 1."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # the truncated test images would fill the log
    try:
        picture = parsed.picture.read_bytes() if parsed.picture else None
        folder, name, version = locate(parsed.model)
        from darkroom.models.engines.open import load_model  # noqa: PLC0415 - as below
        from darkroom.models.runtime.custom_ops import load_custom_ops  # noqa: PLC0415 - TensorFlow takes seconds; --help need not wait

        load_custom_ops([Path(path) for path in parsed.custom_op_paths.split(",") if path])
        started_s = time.monotonic()
        model = load_model(folder, name=name, version=version)
        print(f"{name} version {version}: loaded, rewritten and proven in {time.monotonic() - started_s:.1f} s")
        for signature, engine in model.engines.items():
            spec = model.spec.signatures[signature]
            if spec.same_as:
                print(
                    "\n".join(["", f"signature {signature!r}: the same function as {spec.same_as!r}", *_tensors(spec)])
                )
                continue
            lines = ["", *_describe(model.spec, engine), *_try(model, signature, picture)]
            print("\n".join([*lines, *picture_lines(folder, model, signature, picture)]), flush=True)
        model.close()
    except (ModelError, OSError) as err:
        print(f"darkroom: {parsed.model}: {err}", file=sys.stderr)
        return 1
    for signature, reason in model.spec.refused.items():
        print(f"\nsignature {signature!r} is not served: {reason}")
    return 1 if model.spec.refused else 0


def _describe(model: ModelSpec, engine: Engine) -> list[str]:
    """The lines that describe a signature."""
    spec = engine.spec
    lines = [f"signature {spec.name!r} ({spec.method_name})", *_tensors(spec)]
    lines.append(f"  wire    {spec.wire.value}: {_WIRES[spec.wire]}")
    if spec.image_input:
        animations = " (GIFs of one frame)" if spec.one_frame and "gif" in spec.formats else ""
        lines.append(f"  formats {', '.join(sorted(spec.formats))}{animations}")
    lines.append(f"  batched {'yes, proven on rows of its own' if spec.batched else f'no: {spec.unbatched_reason}'}")
    for report in engine.passes:
        verdict = "in force" if report.applied else "not in force"
        lines.append(f"  pass    {report.name}: {verdict}{f', {report.reason}' if report.reason else ''}")
    labels = f"{len(model.labels)}, from {model.labels[0]!r} to {model.labels[-1]!r}" if model.labels else "none"
    return [*lines, f"  labels  {labels}"]


def _tensors(spec: SignatureSpec) -> list[str]:
    """A line for each input and each output."""
    lines = [f"  input   {_tensor(tensor)}" for tensor in spec.inputs]
    return lines + [f"  output  {_tensor(tensor)}" for tensor in spec.outputs]


def _try(model: LoadedModel, signature: str, picture: bytes | None) -> list[str]:
    """The lines of an example request, and of its answer."""
    engine = model.engines[signature]
    spec = engine.spec
    rows = next(iter(model.samples.get(signature, ())), None)
    if picture is not None and spec.image_input and len(spec.inputs) == 1:
        rows = Rows({spec.image_input: [picture]})
    if rows is None:
        return ["  request none could be generated that it accepts, or it keeps state and is not run here"]
    lines = ["  request " + _curl(spec, rows)]
    started_s = time.perf_counter()
    answer = engine.run(rows)
    lines.append(f"  answer  in {(time.perf_counter() - started_s) * 1000:.1f} ms")
    return lines + [f"          {name}: {_shown(column)}" for name, column in answer.columns.items()]


def _curl(spec: SignatureSpec, rows: Rows) -> str:
    """A curl command that sends such a row to `darkroom serve --model_base_path=…` on this machine."""
    head = "curl http://localhost:8500 -H 'Content-Type: application/json' -d "
    body: dict[str, Any] = {"signature_name": spec.name}
    if spec.name == "serving_default":
        del body["signature_name"]
    if spec.image_input and len(spec.inputs) == 1:
        text = json.dumps(body | {"data": {spec.image_input: ["PICTURE"]}})
        return head + "'" + text.replace("PICTURE", "'$(base64 -w0 picture.jpg)'") + "'"
    if sum(getattr(column, "size", 1) for column in rows.columns.values()) > MAX_WRITTEN:

        def written(column: Column) -> str:
            """A short Python expression for a column of the same shape."""
            if isinstance(column, list) or column.size <= MAX_WRITTEN:
                return json.dumps(_plain(column))
            one = json.dumps(column.ravel()[0].item())
            return "[" * column.ndim + one + "".join(f"] * {size}" for size in reversed(column.shape))

        values = ", ".join(f"{json.dumps(each)}: {written(column)}" for each, column in rows.columns.items())
        more = "".join(f"{json.dumps(key)}: {json.dumps(value)}, " for key, value in body.items())
        made = f'import json; print(json.dumps({{{more}"data": {{{values}}}}}))'
        return f"python3 -c '{made}' | " + head + "@-"
    data = {each: _plain(column) for each, column in rows.columns.items()}
    return head + "'" + json.dumps(body | {"data": data}) + "'"


def _plain(column: Column) -> Any:
    """A column as JSON-ready values; bytes as text."""
    values = column if isinstance(column, list) else column.tolist()
    return _text(values)


def _text(value: Any) -> Any:
    if isinstance(value, list):
        return [_text(each) for each in value]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _shown(column: Column) -> str:
    """The first values of a column and its shape, for people."""
    values = _plain(column)
    shape = (len(column),) if isinstance(column, list) else column.shape
    while isinstance(values, list) and values and isinstance(values[0], list):
        values = values[0]
    if not isinstance(values, list) or len(values) <= SHOWN:
        return f"{values} of shape {list(shape)}"
    head = ", ".join(f"{value:.4g}" if isinstance(value, float) else str(value) for value in values[:SHOWN])
    return f"[{head}, …] of shape {list(shape)}"


def _tensor(tensor: TensorSpec) -> str:
    shape = "any" if tensor.shape is None else [-1 if size is None else size for size in tensor.shape]
    return f"{tensor.name}: {tensor.dtype}{shape}"
