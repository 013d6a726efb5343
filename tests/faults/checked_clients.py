"""Clients that ask all the time and compare every answer with what TensorFlow itself says about the same picture."""

from __future__ import annotations

import base64
import enum
import http.client
import json
import select
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np

from loadtest.traffic.pictures import RequestBody, form_body, json_body, raw_body, row_body

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from loadtest.traffic.pictures import Picture

PATIENCE_S = 60.0  # without an answer for so long, a request hangs
PAUSE_S = 0.04  # of a client between two requests, so that a machine of two cores has time for the fault
BACK_OFF_S = 0.1
TOLERANCE = 1e-4  # of a probability: the order of additions depends on the batch size


class Outcome(enum.Enum):
    """What came of one request."""

    RIGHT = "right"
    REFUSED = "refused"  # in words, with an error code and a status of 4xx or 5xx
    LOST_BEFORE = "lost before"  # no connection, or none any more when the request was to be written
    LOST_AFTER = "lost after"  # the whole request was written, and the connection ended without the whole answer
    WRONG = "wrong"  # an answer that is not TensorFlow's, or a refusal without words
    HUNG = "hung"  # no answer within PATIENCE_S


class Question(NamedTuple):
    """A request and the probabilities of each of its pictures."""

    form: str
    body: RequestBody
    expected: tuple[tuple[float, ...], ...]


class Exchange(NamedTuple):
    """One request: when it began and ended (`time.monotonic`), its form, and what came of it."""

    began_s: float
    ended_s: float
    form: str
    outcome: Outcome
    status: int = 0
    said: str = ""


def questions(pictures: Sequence[Picture], truth: Mapping[str, tuple[float, ...]]) -> list[Question]:
    """Requests of every form, for one picture and for two; neighbours differ in form and in picture."""
    made = []
    for place, picture in enumerate(pictures):
        pair = (picture, pictures[(place + 3) % len(pictures)])
        forms = {
            "JSON": json_body(pair),
            "raw": raw_body(picture),
            "form": form_body(pair),
            "TF Serving": row_body((picture,)),
            "V2": tensor_body(pair),
        }
        made += [
            Question(form, body, tuple(truth[name] for name in body.names))
            for form, body in forms.items()
        ]  # fmt: skip
    return made


def tensor_body(pictures: tuple[Picture, ...], *, model: str = "default") -> RequestBody:
    """The Open Inference Protocol's JSON form."""
    data = [base64.b64encode(picture.data).decode() for picture in pictures]
    tensor = {"name": "images", "shape": [len(pictures)], "datatype": "BYTES", "data": data}
    text = json.dumps({"inputs": [tensor], "outputs": [{"name": "probability"}]})
    names = tuple(picture.name for picture in pictures)
    return RequestBody("application/json", text.encode(), names, f"/v2/models/{model}/infer", "open_inference")


def probabilities(form: str, answer: Any) -> Any:
    """The rows of `probability` in an answer of any form; raises KeyError, TypeError or ValueError if it has none."""
    if form == "TF Serving":
        return [row["probability"] for row in answer["predictions"]]
    if form == "V2":
        (output,) = answer["outputs"]
        return np.reshape(output["data"], output["shape"]).tolist()
    return answer["probability"]


def is_right(question: Question, body: bytes) -> bool:
    """Whether an answer is TensorFlow's, row by row."""
    try:
        found = np.asarray(probabilities(question.form, json.loads(body)), float)
    except (KeyError, TypeError, ValueError):
        return False
    expected = np.asarray(question.expected)
    return found.shape == expected.shape and bool(np.allclose(found, expected, rtol=0, atol=TOLERANCE))


class CheckedClients:
    """Clients in threads, one request at a time each, over connections that they keep.

    Args:
        url: of the server.
        asked: what they ask, in turns.
        count: how many clients.
        patience_s: how long one waits for an answer.
    """

    def __init__(self, url: str, asked: Sequence[Question], *, count: int = 10, patience_s: float = PATIENCE_S) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._asked = asked
        self._patience_s = patience_s
        self._is_over = threading.Event()
        self._exchanges: list[list[Exchange]] = [[] for _ in range(count)]
        self._threads = [threading.Thread(target=self._run, args=(number,), daemon=True) for number in range(count)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(self._patience_s + 5)

    def overlapping(self, began_s: float) -> list[Exchange]:
        """What ended at or after a time, in the order of its end: requests that were on their way then included."""
        found = [exchange for mine in self._exchanges for exchange in mine if exchange.ended_s >= began_s]
        return sorted(found, key=lambda exchange: exchange.ended_s)

    def has_recovered(self, since_s: float) -> bool:
        """Whether every client has got a right answer to a request that began after a time."""
        return all(
            any(each.began_s >= since_s and each.outcome is Outcome.RIGHT for each in reversed(mine[-50:]))
            for mine in self._exchanges
        )

    def forget(self) -> None:
        """Drops what has been counted, so that a run of hours keeps its memory."""
        for mine in self._exchanges:
            del mine[:-50]

    def _run(self, number: int) -> None:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=self._patience_s)
        place = number * 7
        while not self._is_over.is_set():
            exchange = ask(connection, self._asked[place % len(self._asked)])
            place += 1
            self._exchanges[number].append(exchange)
            time.sleep(PAUSE_S if exchange.outcome is Outcome.RIGHT else BACK_OFF_S)
        connection.close()


def ask(connection: http.client.HTTPConnection, question: Question) -> Exchange:
    """Sends one request over a connection, which is opened if need be, and judges the answer."""
    began_s = time.monotonic()
    body = question.body
    is_written = False

    def over(outcome: Outcome, status: int = 0, said: str = "") -> Exchange:
        if outcome not in (Outcome.RIGHT, Outcome.REFUSED):
            connection.close()
        return Exchange(began_s, time.monotonic(), question.form, outcome, status, said)

    try:
        if connection.sock is not None and select.select([connection.sock], [], [], 0)[0]:
            connection.close()  # the server closed it between two requests, as any server may
        connection.request("POST", body.path, body.data, body.headers)
        is_written = True
        response = connection.getresponse()
        answer = response.read()
    except TimeoutError as err:
        return over(Outcome.HUNG if is_written else Outcome.LOST_BEFORE, said=repr(err))
    except (OSError, http.client.HTTPException) as err:
        return over(Outcome.LOST_AFTER if is_written else Outcome.LOST_BEFORE, said=repr(err))
    said = answer[:300].decode(errors="replace")
    if response.status == 200:
        return over(Outcome.RIGHT if is_right(question, answer) else Outcome.WRONG, 200, said)
    is_clean = response.status >= 400 and bool(response.headers["X-Darkroom-Error"]) and '"error"' in said
    return over(Outcome.REFUSED if is_clean else Outcome.WRONG, response.status, said)
