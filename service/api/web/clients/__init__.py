"""Writes clients for a signature: an example body, and in each language a complete program that sends it."""

from __future__ import annotations

import base64
import json
import re
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from darkroom.models.spec import numpy_dtype
from darkroom.service.serving.registry import DEFAULT_MODEL, DEFAULT_SIGNATURE

if TYPE_CHECKING:
    from collections.abc import Callable

    from darkroom.models.rows import Column
    from darkroom.models.spec import TensorSpec
    from darkroom.service.serving.servable import Target

PICTURE = "@picture@"  # the placeholder of the picture in a body
SAMPLES = {"jpeg": "sample.jpg", "png": "sample.jpg", "gif": "sample.jpg", "bmp": "sample.bmp"}  # format → a file
TOP_K = 5
FEW_VALUES = 100  # two rows of so many values, as in STS, still fit on a screen


def example_body(target: Target) -> dict[str, Any]:
    """A body of `POST /` that the signature answers, with `PICTURE` in the place of its one picture.

    Numbers are ones, as in STS. Shapes and texts are those of the warm-up, if there was one.
    """
    spec = target.spec
    body: dict[str, Any] = {"data": {tensor.name: _example(target, tensor) for tensor in spec.inputs}}
    if target.model.name != DEFAULT_MODEL:
        body["model_name"] = target.model.name
    if spec.name != DEFAULT_SIGNATURE:
        body["signature_name"] = spec.name
    if target.model.labels:
        body["top_k"] = TOP_K
    return body


def example_json(target: Target) -> dict[str, Any]:
    """`example_body` with a real small picture in it."""
    filled: dict[str, Any] = json.loads(json.dumps(example_body(target)).replace(PICTURE, sample_picture(target)))
    return filled


def sample_picture(target: Target) -> str:
    """A small picture, as base64, in a format that the signature's graph decodes."""
    name = next((SAMPLES[kind] for kind in SAMPLES if kind in target.spec.formats), "sample.jpg")
    return base64.b64encode((files(__name__) / name).read_bytes()).decode()


def write_client(language: str, target: Target, url: str, *, is_guarded: bool) -> str:
    """A program in one of LANGUAGES that posts the example to `url` (an http address without quotes or blanks).

    Given a path, the program sends that picture instead. `is_guarded`: it reads `Authorization` from the environment.
    """
    kept = {"picture" if target.spec.image_input else "data"} | ({"auth"} if is_guarded else set())
    template = (files(__name__) / f"{language}.tmpl").read_text(encoding="utf-8")
    words = {
        "MODEL": re.sub(r"[^\w .:-]", "?", target.model.name, flags=re.ASCII),
        "SAMPLE": sample_picture(target),
        "BODY": LANGUAGES[language](example_body(target)),
        "URL": url,
    }
    text = "".join(_keep(line, kept) for line in template.splitlines(keepends=True))
    return re.sub(r"<<([A-Z]+)>>", lambda found: words[found[1]], text)


def _keep(line: str, kept: set[str]) -> str:
    """A line of a template. `@flag text` becomes the text if the flag is kept, else nothing; other lines are unchanged."""
    found = re.fullmatch(r"@([a-z]+)(?: (.*))?(\n)", line)
    if found is None:
        return line
    return (found[2] or "") + found[3] if found[1] in kept else ""


def _example(target: Target, tensor: TensorSpec) -> object:
    """An example value of one input."""
    if tensor.name == target.spec.image_input:
        return [PICTURE]
    known = target.samples[0].columns.get(tensor.name) if target.samples else None
    shape = _shape(target, tensor, known)
    if tensor.dtype == "string":
        value = np.full(shape, _text(known), dtype=object)
    else:
        value = np.ones(shape, dtype=np.float32 if tensor.dtype == "bfloat16" else numpy_dtype(tensor.dtype))
    return value.tolist()


def _shape(target: Target, tensor: TensorSpec, known: Column | None) -> tuple[int, ...]:
    """The shape of an example: two rows if they are short and there is no picture, else one.

    An unknown inner size is that of the warm-up, else 1.
    """
    sizes = [size or 1 for size in (tensor.shape if tensor.shape is not None else (None,))]
    if isinstance(known, np.ndarray):
        sizes[1:] = known.shape[1:]
    if tensor.has_batch_dimension and target.spec.image_input is None and np.prod(sizes[1:]) <= FEW_VALUES:
        sizes[0] = 2
    return tuple(sizes)


def _text(known: Column | None) -> object:
    """The text of the warm-up; bytes that are not text become `{"b64"}`, which every dialect reads."""
    value = known[0] if isinstance(known, list) else b"" if known is None else known.ravel()[0]
    try:
        return value.decode("ascii")
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(value).decode()}


def _bash(body: object) -> str:
    """JSON in single quotes, interrupted by the variable of the picture."""
    return "'" + json.dumps(body).replace("'", "'\\''").replace(PICTURE, "'\"$picture\"'") + "'"


def _python(body: object) -> str:
    """JSON; Python reads it, except for true and false."""
    text = json.dumps(body)
    text = repr(body) if re.search(r"\b(?:true|false)\b", text) else text.replace(json.dumps(PICTURE), "picture")
    return text.replace(repr(PICTURE), "picture")


def _javascript(body: object) -> str:
    return json.dumps(body).replace(json.dumps(PICTURE), "picture")


def _golang(body: object) -> str:
    """JSON as a raw string, interrupted by the variable of the picture."""
    return "`" + json.dumps(body).replace("`", "\\u0060").replace(PICTURE, "` + picture + `") + "`"


LANGUAGES: dict[str, Callable[[object], str]] = {
    "bash": _bash,
    "python": _python,
    "golang": _golang,
    "javascript": _javascript,
}
