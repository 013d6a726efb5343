"""Sends thousands of hostile requests to a server: none may end in a 5xx or a hang, and good ones are still answered.

    python -m loadtest.experiments.hostile --url http://127.0.0.1:8500 --requests 10000

KINDS lists the kinds. Each one breaks good requests of all three dialects at random, from a seed. After every hundred
requests a good picture is sent, and its answer must be the same as before. With --pid it prints the memory of the
server's process before the run, in the middle and at the end.
"""

from __future__ import annotations

import argparse
import gzip
import http.client
import json
import random
import socket
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from tests.hostile import attacks
from tests.pictures import picture, standard

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

JSON, FORM = "application/json", "multipart/form-data; boundary=b"
TIMEOUT_S = 10  # no answer after this time is a hang
PICTURES = [picture(seed, kind=kind) for seed, kind in enumerate(("PNG", "JPEG", "GIF", "BMP", "WEBP"))]
# What is put in place of a value.
VALUES: list[object] = [
    None, True, -1, 0, 1e308, 2**63, "", "x", "%%%", "\ud7ff", "../../etc/passwd", [], [[]], [[1], [1, 2]], {},
    {"b64": 1}, {"b64": ""}, {"b64": "x", "y": 1}, ["x"] * 50, [None], [{"b64": "AAAA"}], {"a": {"b": {"c": []}}},
    "data:,", "A" * 5000,
]  # fmt: skip


class HostileRequest(NamedTuple):
    """One request; `raw`, if given, is sent instead of the other fields."""

    method: str = "POST"
    path: str = "/"
    body: bytes = b""
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed
    raw: bytes | None = None


def good_requests(text: str) -> list[tuple[str, dict[str, object]]]:
    """Returns a good JSON body for each path."""
    tensor = {"name": "images", "shape": [1], "datatype": "BYTES", "data": [text]}
    return [
        ("/", {"data": {"images": [text]}, "model_version": 1, "top_k": 1, "on_error": "fail"}),
        ("/v1/models/default:predict", {"instances": [{"b64": text}], "signature_name": "serving_default"}),
        ("/v1/models/default/versions/1:predict", {"inputs": {"images": [text]}}),
        ("/v1/models/default:classify", {"examples": [{"x": [1.0]}], "context": {}}),
        ("/v2/models/default/infer", {"inputs": [tensor], "outputs": [{"name": "x"}], "parameters": {"priority": 1}}),
    ]


def swapped_values(rng: random.Random) -> HostileRequest:
    """JSON in which one value, at any depth, is replaced."""
    path, body = rng.choice(good_requests(standard(rng.choice(PICTURES))))
    places = list(_places(body))
    holder, key = rng.choice(places)
    holder[key] = rng.choice(VALUES)
    return HostileRequest(path=path, body=json.dumps(body).encode(), headers={"Content-Type": JSON})


def broken_json(rng: random.Random) -> HostileRequest:
    """JSON with bytes changed, removed or repeated."""
    path, body = rng.choice(good_requests(standard(rng.choice(PICTURES))))
    return HostileRequest(path=path, body=_broken(json.dumps(body).encode(), rng), headers={"Content-Type": JSON})


def broken_pictures(rng: random.Random) -> HostileRequest:
    """A raw picture with bytes changed or removed, mostly in its header."""
    data = rng.choice(PICTURES)
    body = _broken(data[:64], rng) + data[64:] if rng.random() < 0.7 else _broken(data, rng)
    path = rng.choice(["/", "/v1/models/default:predict"])
    return HostileRequest(
        path=path, body=body, headers={"Content-Type": rng.choice(["image/png", "application/octet-stream"])}
    )


def broken_pictures_in_json(rng: random.Random) -> HostileRequest:
    """Broken and good pictures in one request, with and without on_error."""
    images = [standard(_broken(data, rng) if rng.random() < 0.5 else data) for data in PICTURES]
    body = {"data": {"images": images}, "on_error": rng.choice(["fail", "per_image"])}
    return HostileRequest(body=json.dumps(body).encode(), headers={"Content-Type": JSON})


def broken_compression(rng: random.Random) -> HostileRequest:
    """Compressed bodies, cut, changed, or with a wrong Content-Encoding."""
    path, body = rng.choice(good_requests(standard(PICTURES[0])))
    packed = _broken(gzip.compress(json.dumps(body).encode()), rng)
    encoding = rng.choice(["gzip", "gzip", "deflate", "br", "identity", "gzip, gzip"])
    return HostileRequest(path=path, body=packed, headers={"Content-Type": JSON, "Content-Encoding": encoding})


def broken_forms(rng: random.Random) -> HostileRequest:
    """Form-data with bytes changed or removed."""
    head = b'--b\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n'
    body = b"".join(head + rng.choice(PICTURES) + b"\r\n" for _ in range(3)) + b"--b--\r\n"
    return HostileRequest(body=_broken(body, rng), headers={"Content-Type": FORM})


def binary_tensors(rng: random.Random) -> HostileRequest:
    """Binary tensors with wrong sizes and shapes."""
    size, shape = rng.choice([-1, 0, 3, 4, 10, 2**31, 2**63]), rng.choice([[1], [0], [-1], [2**40], [1, 1], []])
    tensor = {"name": "images", "shape": shape, "datatype": rng.choice(["BYTES", "FP32", "INT8", "X"])}
    head = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": size}}]}).encode()
    length = rng.choice([len(head), 0, -1, len(head) + 5, 10**12])
    body = head + rng.randbytes(rng.choice([0, 3, 4, 10]))
    headers = {"Inference-Header-Content-Length": str(length), "Content-Type": "application/octet-stream"}
    return HostileRequest(path="/v2/models/default/infer", body=body, headers=headers)


def odd_addresses(rng: random.Random) -> HostileRequest:
    """Methods and paths that do not exist, or almost do."""
    words = [
        "v1",
        "v2",
        "models",
        "default",
        "versions",
        "1",
        "-1",
        "9" * 30,
        "%00",
        "%ff",
        "..",
        "labels",
        "infer",
        "a:b",
        "",
    ]
    path = "/" + "/".join(rng.choices(words, k=rng.randint(0, 7))) + rng.choice(["", ":predict", "?x=%", "?top_k=x"])
    return HostileRequest(rng.choice(["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"]), path, b"{}")


def broken_heads(rng: random.Random) -> HostileRequest:
    """Request heads with changed bytes: wrong lengths, contradicting encodings, no HTTP at all."""
    lines = [
        rng.choice([b"POST / HTTP/1.1", b"POST / HTTP/9.9", b"GET", b"POST /\xff HTTP/1.1", b"\x00\x00"]),
        b"Host: x",
        rng.choice([b"Content-Length: 5", b"Content-Length: -5", b"Content-Length: 5\r\nContent-Length: 6", b"X: y"]),
        rng.choice([b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip", b"Expect: 100-continue", b": z", b"X"]),
    ]
    return HostileRequest(raw=_broken(b"\r\n".join(lines) + b"\r\n\r\n" + b"5\r\nhello\r\n0\r\n\r\n", rng))


def odd_headers(rng: random.Random) -> HostileRequest:
    """A good request with a wrong or meaningless header."""
    names = ["X-Darkroom-Deadline-Ms", "X-Darkroom-Priority", "Authorization", "Content-Type", "X-Request-Id"]
    headers = {
        "Content-Type": "image/png",
        rng.choice(names): rng.choice(["", "nan", "-1", "x" * 3000, "Basic %%", "a;b=c;;"]),
    }
    return HostileRequest(body=PICTURES[0], headers=headers)


KINDS: dict[str, Callable[[random.Random], HostileRequest]] = {
    kind.__name__: kind
    for kind in (
        swapped_values, broken_json, broken_pictures, broken_pictures_in_json, broken_compression, broken_forms,
        binary_tensors, odd_addresses, broken_heads, odd_headers,
    )
}  # fmt: skip


class HostileResults(NamedTuple):
    """The results: answers by kind and status, failures, and the slowest answer of each kind in seconds."""

    statuses: Counter[tuple[str, str]]
    failures: list[str]
    slowest: dict[str, float]


def run(url: str, requests: int, seed: int, on_half: Callable[[], None]) -> HostileResults:
    """Sends the requests one after another; calls `on_half` in the middle."""
    rng = random.Random(seed)  # noqa: S311 - reproducible, not secret
    tally = HostileResults(Counter(), [], {})
    expected = _send(url, HostileRequest(body=PICTURES[0], headers={"Content-Type": "image/png"}))[1]
    for number in range(requests):
        if number == requests // 2:
            on_half()
        kind = list(KINDS)[number % len(KINDS)]
        request = KINDS[kind](rng)
        started_s = time.perf_counter()
        try:
            status = str(_send(url, request)[0])
        except TimeoutError:
            status = "hang"
        except (OSError, http.client.HTTPException) as err:
            status = "closed" if request.raw is not None else f"no answer: {type(err).__name__}"
        tally.statuses[kind, status] += 1
        tally.slowest[kind] = max(tally.slowest.get(kind, 0.0), time.perf_counter() - started_s)
        if status != "closed" and not status.startswith(("2", "4")):
            tally.failures.append(f"{kind} number {number}: {status}: {repr(request)[:300]}")
        if number % 100 == 99:
            good = _send(url, HostileRequest(body=PICTURES[0], headers={"Content-Type": "image/png"}))
            if good[0] != 200 or good[1] != expected:
                tally.failures.append(f"the good request after number {number}: {good}")
    return tally


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs and prints; returns 0 if nothing failed, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.experiments.hostile", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--url", default="http://127.0.0.1:8500", help="the server [http://127.0.0.1:8500]")
    parser.add_argument("--requests", type=int, default=10_000, help="how many [10000]")
    parser.add_argument("--seed", type=int, default=1, help="seed of the random numbers [1]")
    parser.add_argument("--pid", type=int, default=0, help="the server's process, for its memory")
    parsed = parser.parse_args(arguments)

    def tell_memory() -> None:
        if parsed.pid:
            print(f"resident memory: {_resident_mb(parsed.pid):.1f} MB")

    for attack in attacks():
        headers = {"Content-Type": attack.kind} | ({"Content-Encoding": attack.encoding} if attack.encoding else {})
        started_s = time.perf_counter()
        status, _ = _send(parsed.url, HostileRequest(body=attack.body, headers=headers))
        print(
            f"{attack.name} ({len(attack.body)} bytes): {status} in {(time.perf_counter() - started_s) * 1000:.1f} ms"
        )
    tell_memory()
    tally = run(parsed.url, parsed.requests, parsed.seed, tell_memory)
    tell_memory()
    for kind in KINDS:
        counts = ", ".join(f"{status} {n}" for (each, status), n in sorted(tally.statuses.items()) if each == kind)
        print(f"{kind}: {counts}; slowest {tally.slowest.get(kind, 0.0) * 1000:.0f} ms")
    print(*tally.failures[:20], sep="\n")
    print(f"{parsed.requests} requests, {len(tally.failures)} failures")
    return 1 if tally.failures else 0


def _send(url: str, request: HostileRequest) -> tuple[int, bytes]:
    """Sends one request over its own connection; returns the status and the body of the answer.

    Raises:
        TimeoutError: no answer came.
        OSError, HTTPException: the server closed the connection.
    """
    parts = urlsplit(url)
    if request.raw is not None:
        with socket.create_connection((parts.hostname or "", parts.port or 80), timeout=TIMEOUT_S) as peer:
            peer.sendall(request.raw)
            peer.shutdown(socket.SHUT_WR)  # otherwise the server waits for more
            answer = http.client.HTTPResponse(peer)
            answer.begin()
            return answer.status, answer.read()
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
    try:
        connection.request(request.method, request.path, request.body, request.headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Returns every assignable place of a JSON value: its container and its key or index."""
    found: list[tuple[Any, Any]] = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found += [(value, key), *_places(item)]
    return found


def _broken(data: bytes, rng: random.Random) -> bytes:
    """Returns the bytes with some of them changed, removed or repeated."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(4):
            case 0:
                del changed[at:]
            case 1:
                changed[at:at] = rng.randbytes(rng.randint(1, 8))
            case 2:
                changed[at:at] = changed[max(0, at - 20) : at]
            case _:
                changed[at : at + 1] = rng.randbytes(1)
    return bytes(changed)


def _resident_mb(pid: int) -> float:
    fields = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(fields.split("VmRSS:")[1].split()[0]) / 1024


if __name__ == "__main__":
    sys.exit(main())
