"""What a right answer is: each picture is asked once, alone, before the load; every later answer must say the same.

An answer that arrives but belongs to a neighbour is the worst fault of a batching server, and no status code shows it.
Standard library only: the Locust image has little else.
"""

import http.client
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

from loadtest.traffic.pictures import Picture, RequestBody, json_body

# `predict` is cut out of the text: reading 1,000 probabilities a row as JSON would cost more than the sending.
_PREDICT = re.compile(rb'"predict"\s*:\s*\[([^\]]*)\]')
_ROW_PREDICT = re.compile(rb'"predict"\s*:\s*(-?\d+)\b')


class NoAnswer(Exception):
    """The server did not say, before the load, what each picture is."""


@dataclass(frozen=True, slots=True)
class ServerTiming:
    """What `Server-Timing` said of one request. `queue_ms` and `execute_ms` are None where the header has none."""

    queue_ms: float | None = None
    execute_ms: float | None = None
    batch_images: int | None = None


def predictions(body: bytes) -> tuple[int, ...] | None:
    """The class indexes of an answer, one a row; None where there is no `predict`."""
    found = _PREDICT.search(body)
    if found is None:
        return None
    try:
        return tuple(int(number) for number in found[1].split(b",")) if found[1].strip() else ()
    except ValueError:
        return None


def row_predictions(body: bytes) -> tuple[int, ...] | None:
    """The same of TensorFlow Serving's row form, `{"predictions": [{"predict": 3, ...}, ...]}`."""
    found = _ROW_PREDICT.findall(body)
    return tuple(int(number) for number in found) if found else None


def tensor_predictions(body: bytes) -> tuple[int, ...] | None:
    """The same of the Open Inference Protocol, where `predict` alone was asked for."""
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
    """Which picture gives which `predict`."""

    def __init__(self, table: dict[str, int]) -> None:
        self.table = table

    def agrees(self, request: RequestBody, answer: bytes) -> bool:
        """True when every row of the answer is the one that its picture got alone."""
        return READERS[request.dialect](answer) == tuple(self.table[name] for name in request.names)

    @property
    def tells_apart(self) -> bool:
        """False when all pictures look the same to the model: a swapped answer would then go unseen."""
        return len(set(self.table.values())) > 1


def expect(url: str, pictures: Iterable[Picture], *, model: str = "default", timeout_s: float = 30.0) -> Expectations:
    """Ask the server at `url` for each picture alone, one after the other.

    Raises:
        NoAnswer: it refused, failed or gave an answer without one `predict`.
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
    """The body of a 200.

    Raises:
        NoAnswer: any other status, or none.
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
    """`queue;dur=1.2, execute;dur=3.4, batch;desc="8"` as a ServerTiming; a metric that is missing or malformed is None."""
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
    """The `error` of an error answer, or the answer itself, cut to 200 characters."""
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    said = document.get("error", body) if isinstance(document, dict) else body
    return (said if isinstance(said, str) else repr(said))[:200]
