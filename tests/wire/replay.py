"""Replays what was recorded of Simple TensorFlow Serving, and tells what is the same, better or different.

`tests/data/sts/exchanges.json` holds each exchange: the request, and the status and JSON (or text) of STS's answer.
Bodies name pictures of `inputs/`: `{{mew.jpg}}` is its URL-safe base64, `{{mew.jpg standard}}` and
`{{mew.jpg unpadded}}` are the other ways. `better.json` names the exchanges whose answer is meant to be another one,
with that answer and the reason.
"""

from __future__ import annotations

import base64
import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

DATA = Path(__file__).parents[1] / "data" / "sts"
# How STS's refusals begin, where its clients may look at them; what follows may say more.
WORDS = (
    "Invalid model name: ",
    "Inference with empty data, please check the request JSON",
    "Input op name ",
    "Fail to request the signature name: ",
    "Invalid json data: ",
    "Error, unsupported content type",
)


class Outcome(NamedTuple):
    """What became of one exchange: `verdict` is "same", "better" or "different"."""

    name: str
    verdict: str
    why: str


def read_exchanges() -> list[dict[str, Any]]:
    """Every recorded exchange, in the order of the recording."""
    exchanges: list[dict[str, Any]] = json.loads((DATA / "exchanges.json").read_text(encoding="utf-8"))
    return exchanges


def read_better() -> dict[str, dict[str, Any]]:
    """By name of an exchange: the `status` and the words (`says`) that it gets instead, and `why`."""
    better: dict[str, dict[str, Any]] = json.loads((DATA / "better.json").read_text(encoding="utf-8"))
    return better


def replay(exchange: Mapping[str, Any], url: str, better: Mapping[str, Any] | None, *, is_exact: bool) -> Outcome:
    """Sends one exchange to `url` and judges the answer; `is_exact`: the very model that was recorded is there."""
    answer = send(exchange["request"], url)
    recorded = exchange["recorded"]
    if better is not None:
        problem = _unlike_better(answer, better)
        return (
            Outcome(exchange["name"], "different", problem)
            if problem
            else Outcome(exchange["name"], "better", better["why"])
        )
    problem = _unlike(answer, recorded, is_exact=is_exact)
    return Outcome(exchange["name"], "different" if problem else "same", problem)


def send(request: Mapping[str, Any], url: str) -> httpx.Response:
    """The answer to a recorded request."""
    headers = dict(request["headers"])
    if "files" in request:
        body = _form(headers["Content-Type"].partition("boundary=")[2], request["fields"], request["files"])
    else:
        body = re.sub(r"\{\{(\S+?)(?: (\w+))?\}\}", _picture, request.get("body", "")).encode()
    return httpx.request(request["method"], url + request["path"], content=body, headers=headers, timeout=60)


def table(outcomes: Iterable[Outcome]) -> str:
    """One line an exchange, and how many of each verdict there are."""
    outcomes = list(outcomes)
    width = max(len(each.name) for each in outcomes)
    lines = [f"{each.name:{width}}  {each.verdict:9}  {each.why}".rstrip() for each in outcomes]
    counts = {verdict: sum(each.verdict == verdict for each in outcomes) for verdict in ("same", "better", "different")}
    return "\n".join([*lines, ", ".join(f"{count} {verdict}" for verdict, count in counts.items())])


def _picture(found: re.Match[str]) -> str:
    data = (DATA / "inputs" / found[1]).read_bytes()
    text = (base64.b64encode if found[2] == "standard" else base64.urlsafe_b64encode)(data).decode()
    return text.rstrip("=") if found[2] == "unpadded" else text


def _form(boundary: str, fields: Iterable[list[str]], files: Iterable[list[str]]) -> bytes:
    """A form-data body, its parts in the order of the recording."""
    parts = [f'name="{name}"\r\n\r\n{value}'.encode() for name, value in fields]
    for field, name, sent in files:
        head = f'name="{field}"; filename="{sent}"\r\nContent-Type: application/octet-stream\r\n\r\n'
        parts.append(head.encode() + (DATA / "inputs" / name).read_bytes())
    lines = [f"--{boundary}\r\nContent-Disposition: form-data; ".encode() + part + b"\r\n" for part in parts]
    return b"".join([*lines, f"--{boundary}--\r\n".encode()])


def _unlike_better(answer: httpx.Response, better: Mapping[str, Any]) -> str:
    """How the answer is not the better one that is promised; empty: it is."""
    if answer.status_code != better["status"]:
        return f"{answer.status_code} instead of {better['status']}: {answer.text[:200]}"
    if better.get("says", "") not in answer.text:
        return f"does not say {better['says']!r}: {answer.text[:200]}"
    return ""


def _unlike(answer: httpx.Response, recorded: Mapping[str, Any], *, is_exact: bool) -> str:
    """How the answer is not the recorded one; empty: it is the same."""
    if answer.status_code != recorded["status"]:
        return f"{answer.status_code} instead of {recorded['status']}: {answer.text[:200]}"
    if "text" in recorded and answer.text != recorded["text"]:
        return f"{answer.text[:200]!r} instead of {recorded['text']!r}"
    if answer.status_code == 400:
        return _unlike_refusal(answer, recorded.get("json", {}).get("error", ""))
    if "json" in recorded:
        if answer.headers["content-type"] != "application/json":
            return f"content type {answer.headers['content-type']}"
        return _unlike_value(answer.json(), recorded["json"], is_exact=is_exact)
    return (
        ""
        if answer.status_code != 200 or answer.request.method in {"HEAD", "OPTIONS"} or answer.content
        else "is empty"
    )


def _unlike_refusal(answer: httpx.Response, recorded: str) -> str:
    """A refusal keeps STS's shape, and its words where they are known."""
    error = answer.json().get("error")
    if not error or answer.headers["content-type"] != "application/json":
        return f"no error in JSON: {answer.text[:200]}"
    words = next((each for each in WORDS if recorded.startswith(each)), "")
    return "" if error.startswith(words) else f"{error[:200]!r} instead of {recorded[:80]!r}"


def _unlike_value(got: Any, recorded: Any, *, is_exact: bool, at: str = "") -> str:
    """The first place where a JSON value is unlike; empty: there is none."""
    if not isinstance(recorded, (dict, list)):
        return "" if _is_like(got, recorded, is_exact=is_exact, at=at) else f"{at}: {got!r} instead of {recorded!r}"
    if isinstance(recorded, list):
        if not isinstance(got, list) or len(got) != len(recorded):
            return f"{at}: no list of {len(recorded)}"
        named = [(f"{at}[{index}]", one, value) for index, (one, value) in enumerate(zip(got, recorded, strict=True))]
    else:  # an object may have further keys, and the path of a folder is not told
        has = got if isinstance(got, dict) else {}
        named = [(f"{at}.{key}", has.get(key), recorded[key]) for key in recorded if key != "model_base_path"]
    texts = (_unlike_value(one, value, is_exact=is_exact, at=place) for place, one, value in named)
    return next((text for text in texts if text), "")


def _is_like(got: object, recorded: object, *, is_exact: bool, at: str) -> bool:
    """Whether a number or a text is the recorded one; of another model's answer only its kind is."""
    if not is_exact and (isinstance(recorded, float) or at.startswith(".prediction")):
        return type(got) is type(recorded)
    if isinstance(recorded, float):
        return isinstance(got, float) and math.isclose(got, recorded, abs_tol=1e-5)
    return got == recorded
