"""Checks of answers: before the load each picture is sent once, alone; every later answer must be the same.

The worst fault of a batching server is to give a client the answer of another one, and no status code shows it.
Standard library only: the Locust image has little else.
"""

import http.client
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

from loadtest.traffic.pictures import Picture, RequestBody, json_body

# A regular expression reads `predict`: parsing 1,000 probabilities a row as JSON would cost more than sending them.
_PREDICT = re.compile(rb'"predict"\s*:\s*\[([^\]]*)\]')
_ROW_PREDICT = re.compile(rb'"predict"\s*:\s*(-?\d+)\b')


class NoAnswer(Exception):
    """The server gave no usable answer to a picture before the load."""


@dataclass(frozen=True, slots=True)
class ServerTiming:
    """The `Server-Timing` header of one answer; a field is None if the header lacks it."""

    queue_ms: float | None = None
    execute_ms: float | None = None
    batch_images: int | None = None


def predictions(body: bytes) -> tuple[int, ...] | None:
    """Returns the class index of each row of an answer; None if it has no `predict`."""
    found = _PREDICT.search(body)
    if found is None:
        return None
    try:
        return tuple(int(number) for number in found[1].split(b",")) if found[1].strip() else ()
    except ValueError:
        return None


def row_predictions(body: bytes) -> tuple[int, ...] | None:
    """Returns the same for TensorFlow Serving's row form, `{"predictions": [{"predict": 3, ...}, ...]}`."""
    found = _ROW_PREDICT.findall(body)
    return tuple(int(number) for number in found) if found else None


def tensor_predictions(body: bytes) -> tuple[int, ...] | None:
    """Returns the same for the Open Inference Protocol, if `predict` was the only requested output."""
    try:
        (output,) = json.loads(body)["outputs"]
        return tuple(output["data"]) if output["name"] == "predict" else None
    except (ValueError, KeyError, TypeError):
        return None


READERS: dict[str, Callable[[bytes], tuple[int, ...] | None]] = {
    "simple": predictions,
    "tensorflow_serving": row_predictions,
    "open_inference": tensor_predictions,
}


class Expectations:
    """The class index that each picture must get."""

    def __init__(self, table: dict[str, int]) -> None:
        self.table = table

    def agrees(self, request: RequestBody, answer: bytes) -> bool:
        """Returns whether every row of an answer is what its picture got alone."""
        return READERS[request.dialect](answer) == tuple(self.table[name] for name in request.names)

    @property
    def tells_apart(self) -> bool:
        """False if all pictures get the same class: swapped answers could not be noticed."""
        return len(set(self.table.values())) > 1


def expect(url: str, pictures: Iterable[Picture], *, model: str = "default", timeout_s: float = 30.0) -> Expectations:
    """Sends each picture alone to the server at `url` and returns what it answered.

    Raises:
        NoAnswer: the server refused, failed or did not answer with exactly one `predict`.
    """
    table = {}
    for picture in pictures:
        body = json_body((picture,), model=model)
        answer = post(urljoin(url, "/"), body.data, body.content_type, timeout_s=timeout_s)
        found = predictions(answer)
        if found is None or len(found) != 1:
            raise NoAnswer(f"{picture.name}: wanted one `predict`, got {answer[:200]!r}")
        table[picture.name] = found[0]
    return Expectations(table)


def post(url: str, data: bytes, content_type: str, *, timeout_s: float) -> bytes:
    """Sends a POST and returns the body of its answer.

    Raises:
        NoAnswer: the status was not 200, or there was no answer.
    """
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "127.0.0.1", address.port or 80, timeout=timeout_s)
    try:
        connection.request("POST", address.path or "/", data, {"Content-Type": content_type})
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as err:
        raise NoAnswer(f"{url}: {err!r}") from err
    finally:
        connection.close()
    if answer.status != 200:
        raise NoAnswer(f"{url}: {answer.status} {body[:200]!r}")
    return body


def parse_timing(header: str | None) -> ServerTiming:
    """Reads `queue;dur=1.2, execute;dur=3.4, batch;desc="8"`; a missing or malformed metric is None."""
    found = {}
    for metric in (header or "").split(","):
        name, *parameters = (part.strip() for part in metric.split(";"))
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            found[f"{name}.{key.strip()}"] = value.strip().strip('"')
    images = _number(found.get("batch.desc"))
    return ServerTiming(
        _number(found.get("queue.dur")), _number(found.get("execute.dur")), None if images is None else int(images)
    )


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def error_text(body: bytes) -> str:
    """Returns the `error` of an error answer, or the answer itself, cut to 200 characters."""
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    said = document.get("error", body) if isinstance(document, dict) else body
    return (said if isinstance(said, str) else repr(said))[:200]
