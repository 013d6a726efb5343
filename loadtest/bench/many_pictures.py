"""Requests with many, large or mixed pictures: Darkroom over HTTP, compared with its engine on the same pictures."""

from __future__ import annotations

import asyncio
import io
import math
import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from PIL import Image

from loadtest.bench.limit import ENGINE, SweepOptions, best, merge, sweep
from loadtest.traffic.closed_loop import show_progress
from loadtest.traffic.connections import ConnectionPool, HttpResponse, request_bytes
from loadtest.traffic.pictures import Picture, cycle, form_body, json_body, load

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from loadtest.bench.contenders import RunningServer
    from loadtest.bench.limit import EnginePoint, MeasuredModel
    from loadtest.traffic.pictures import RequestBody

CLIENTS = 4  # enough to keep two engine calls full while a body is read
FEW_CLIENTS, MANY_ROWS = 2, 256  # four requests of so many rows would exceed their deadline on a slow machine
FEWEST_ANSWERS = 9  # a rate needs at least so many
LARGE_PIXELS = (4000, 3000)
LIMIT_SIZES = (1, 4, 8, 16, 32)
LIMIT_CALLS = 2


@dataclass(frozen=True, slots=True)
class RequestCase:
    """A kind of request: one body with `rows` pictures, taken from `pictures`."""

    name: str
    pictures: tuple[Picture, ...]
    rows: int
    body: Callable[[tuple[Picture, ...]], RequestBody]


@dataclass(frozen=True, slots=True)
class CaseResult:
    """Medians of the rounds: pictures a second over HTTP and by the engine alone, and the latency of a single request."""

    case: str
    rows: int
    pictures_per_s: float
    limit_per_s: float
    share: float  # of the limit, the median of the rounds' own shares
    single_ms: float


@dataclass(frozen=True, slots=True)
class CaseRound:
    """One case in one round: pictures a second over HTTP, the engine alone at each call size, and a single request."""

    pictures_per_s: float
    engine: list[EnginePoint]
    single_s: float


def cases(kind: str) -> list[RequestCase]:
    """Returns the cases: many pictures in JSON and in a form, a 12-megapixel photograph, and mixed sizes."""
    own = load(kind)
    large, small = (enlarged(load("photos")[0], LARGE_PIXELS),), load("digits")
    mixed = (*load("photos"), *small[:3], *large)
    many = [RequestCase(f"{rows} in JSON", own, rows, json_body) for rows in (1, 8, 32, 256)]
    return [
        *many,
        RequestCase("32 in a form", own, 32, form_body),
        RequestCase("12 megapixels, 1 in a form", large, 1, form_body),
        RequestCase("28x28 to 12 megapixels, 8 in a form", mixed, 8, form_body),
    ]


def enlarged(picture: Picture, size: tuple[int, int]) -> Picture:
    """Returns the picture, resized to `size` (width, height), as a JPEG."""
    out = io.BytesIO()
    Image.open(io.BytesIO(picture.data)).resize(size, Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
    return Picture(f"{picture.name} {size[0]}x{size[1]}", out.getvalue())


async def compare(
    server: RunningServer, model: MeasuredModel, tried: Sequence[RequestCase], *, seconds: float, rounds: int
) -> list[CaseResult]:
    """Measures each case over HTTP and by the engine alone, in turn, round after round."""
    pool = ConnectionPool("127.0.0.1", server.port, limit=CLIENTS)
    found: dict[str, list[CaseRound]] = {}
    for turn in range(rounds):
        for case in tried:
            show_progress(f"round {turn + 1}/{rounds}  {case.name}")
            body = case.body(cycle(case.pictures, start=0, rows=case.rows))
            request = request_bytes(f"127.0.0.1:{server.port}", body)
            single_s = await _single_s(pool, request)
            clients = FEW_CLIENTS if case.rows >= MANY_ROWS else CLIENTS
            rate = case.rows * await _rate(pool, request, seconds, clients)
            engine = await asyncio.to_thread(engine_alone, model, case.pictures, seconds)
            found.setdefault(case.name, []).append(CaseRound(rate, engine, single_s))
    await pool.close()
    show_progress("")
    return [outcome(case, found[case.name]) for case in tried]


def engine_alone(model: MeasuredModel, pictures: tuple[Picture, ...], seconds: float) -> list[EnginePoint]:
    """Measures the engine on these pictures, two calls at once; one point for each number of pictures a call."""
    sizes = sorted({max(size, len(pictures) if size > 1 else 1) for size in LIMIT_SIZES})
    options = SweepOptions(tuple(sizes), (LIMIT_CALLS,), seconds / len(sizes), 1)
    return sweep(lambda way, images: model.caller(way, cycle(pictures, start=0, rows=images)), options, (ENGINE,))


def outcome(case: RequestCase, rounds: Sequence[CaseRound]) -> CaseResult:
    """Returns the medians of `rounds`. The limit is the call size with the best median, not the best one of each round."""
    top = best(merge([each.engine for each in rounds]))
    pairs = zip((each.pictures_per_s for each in rounds), top.rounds_per_s, strict=True)
    return CaseResult(
        case.name,
        case.rows,
        median(each.pictures_per_s for each in rounds),
        top.pictures_per_s,
        median(rate / limit if limit else math.nan for rate, limit in pairs),
        median(each.single_s for each in rounds) * 1000,
    )


def rate_of(moments_s: Sequence[float]) -> float:
    """Returns the answers a second between the first and the last of these times; the first answer itself does not count."""
    return (len(moments_s) - 1) / (moments_s[-1] - moments_s[0])


async def _single_s(pool: ConnectionPool, request: bytes) -> float:
    """Returns the median latency of three requests, one after the other."""
    times = []
    for _ in range(3):
        started_s = time.perf_counter()
        await _answer(pool, request)
        times.append(time.perf_counter() - started_s)
    return median(times)


async def _rate(pool: ConnectionPool, request: bytes, seconds: float, clients: int) -> float:
    """Returns the answers a second to closed-loop clients during `seconds`, and at least a few answers."""
    moments_s: list[float] = []
    end_s = time.perf_counter() + seconds

    async def client() -> None:
        while time.perf_counter() < end_s or len(moments_s) < FEWEST_ANSWERS:
            await _answer(pool, request)
            moments_s.append(time.perf_counter())

    await asyncio.gather(*(client() for _ in range(clients)))
    # During the last answers fewer and fewer clients were sending.
    return rate_of(moments_s[: len(moments_s) - clients + 1])


async def _answer(pool: ConnectionPool, request: bytes) -> HttpResponse:
    reply = await pool.answer(request)
    if reply.status != 200:
        raise RuntimeError(f"{reply.status} {reply.body[:200]!r}")
    return reply
